//! The `hamal` program: a proof that the engine keeps its word, and tools to fill, read and examine databases.
//!
//! Each command group is a file; this one only knows their names. Commands that read open the database through an
//! overlay: they see what recovery would make of it, and change no byte of it.
#![forbid(unsafe_code)]

mod compact;
mod demo;
mod dump;
mod explain;
mod inspect;
mod kv;
mod load;
mod open;
mod output;
mod proof;
mod study;
mod torture;
mod waldump;
mod why;

use clap::{Parser, Subcommand};
use open::Common;
use output::Out;
use std::process::ExitCode;

/// Transactional pages with ARIES recovery: prove it, fill it, read it, look into it.
#[derive(Parser)]
#[command(name = "hamal", version, max_term_width = 110, after_help = EXIT_CODES, after_long_help = LONG_HELP)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

macro_rules! exit_codes {
    () => {
        "\
Exit codes:
    0  done; for checks: everything is as it must be
    1  a check failed, damage was found, a key is not there, an input row is bad
    2  the command line is wrong
    3  the operating system or the engine refused
  130  stopped by Ctrl-C, cleanly"
    };
}

const EXIT_CODES: &str = exit_codes!();

const LONG_HELP: &str = concat!(
    "\
Examples:
  hamal demo                                kill a bank in mid-transfer, and prove that no money was lost
  hamal load shop prices prices.tsv         fill the tree `prices` of the database in the directory `shop`
  hamal get shop prices apple               print one value
  hamal scan shop prices --prefix a         print rows in key order
  hamal dump shop prices -o prices.jsonl    write all rows to a file that `load` reads back
  hamal compact shop                        give the space of what was deleted back
  hamal waldump shop --limit 20             print log records
  hamal verify shop                         check every page, every tree and the log
  hamal explain shop                        what recovery would do, decision by decision, and why
  hamal study history.scn                   run a history written by hand, with crashes, on the real engine
  hamal torture --minutes 5                 crash the engine on a simulated disk at every point of many scenarios

Commands that only read work on a database that was closed, that crashed, or that lies on a read-only medium. They \
see what recovery would make of it and do not change a byte. While another process has it open only waldump (also with \
--follow) and page --raw work.

",
    exit_codes!()
);

#[derive(Subcommand)]
enum Command {
    Demo(demo::Demo),
    #[command(name = "demo-child", hide = true)]
    DemoChild(demo::DemoChild),
    Load(load::Load),
    Dump(dump::Dump),
    Get(kv::Get),
    Put(kv::Put),
    Del(kv::Del),
    Scan(dump::Scan),
    Trees(kv::Trees),
    Compact(compact::Compact),
    Waldump(waldump::Waldump),
    Verify(inspect::Verify),
    Page(inspect::Page),
    Stat(inspect::Stat),
    Recover(inspect::Recover),
    Explain(explain::Explain),
    Study(study::Study),
    Torture(torture::Torture),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let common = &cli.common;
    let mut out = Out::new();
    let result = match cli.command {
        Command::Demo(c) => demo::demo(&c, common, &mut out),
        Command::DemoChild(c) => demo::child(&c, common),
        Command::Load(c) => load::load(&c, common, &mut out),
        Command::Dump(c) => dump::dump(&c, common, &mut out),
        Command::Get(c) => kv::get(&c, common, &mut out),
        Command::Put(c) => kv::put(&c, common),
        Command::Del(c) => kv::del(&c, common),
        Command::Scan(c) => dump::scan(&c, common, &mut out),
        Command::Trees(c) => kv::trees(&c, common, &mut out),
        Command::Compact(c) => compact::compact(&c, common, &mut out),
        Command::Waldump(c) => waldump::waldump(&c, common, &mut out),
        Command::Verify(c) => inspect::verify(&c, common, &mut out),
        Command::Page(c) => inspect::page(&c, common, &mut out),
        Command::Stat(c) => inspect::stat(&c, common, &mut out),
        Command::Recover(c) => inspect::recover(&c, common, &mut out),
        Command::Explain(c) => explain::explain(&c, common, &mut out),
        Command::Study(c) => study::study(&c, common, &mut out),
        Command::Torture(c) => torture::torture(&c, common, &mut out),
    };
    // What was printed before a failure is seen before it.
    let flushed = out.finish();
    match result.and(flushed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
