//! hamal beside other engines, in one run: `cargo run --release -p hamal-benches --features peers --bin compare`.
//!
//! `--quick` takes a few minutes, compares the ratios with `benches/ratios.json` and fails if one has lost more than 15 %.
//! Everything that says durable waits for a device flush.

use clap::Parser;
use hamal_benches::compare::engine::Kind;
use hamal_benches::compare::measure::Measured;
use hamal_benches::compare::plan::{GROUPS, Group, Run, Size, write_until_killed};
use hamal_benches::compare::report::{Results, losses, ratios, short};
use hamal_benches::compare::{Any, engines, raw};
use hamal_disk::AlignedBuf;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

/// Runs workloads on hamal and on other engines, taking turns, and prints medians.
#[derive(Parser)]
#[command(
    after_help = "Engines other than redb need --features light-peers (lmdb, fjall, sqlite, sled) or peers (rocksdb too; needs libclang and a C++ compiler)."
)]
struct Args {
    /// Rounds; the engines take turns in each.
    #[arg(long, default_value_t = 3)]
    rounds: u64,
    /// Pairs of the loads and of what reads them.
    #[arg(long, default_value_t = 1_000_000)]
    pairs: u64,
    /// Seconds of a timed workload.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// MiB of log before the kill in the group `recovery`.
    #[arg(long, default_value_t = 256)]
    log_mib: u64,
    /// Only these engines, separated by commas.
    #[arg(long, value_delimiter = ',')]
    engines: Vec<String>,
    /// Only these groups, separated by commas; `--list` shows them.
    #[arg(long, value_delimiter = ',')]
    groups: Vec<String>,
    /// Where databases are made; they are removed again. It decides what device is measured.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Write results.json, results.md and results.html there.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Print JSON instead of tables.
    #[arg(long)]
    json: bool,
    /// Small, and compared with the stored ratios.
    #[arg(long)]
    quick: bool,
    /// With --quick: store the ratios of this run instead of comparing.
    #[arg(long, requires = "quick")]
    bless: bool,
    /// Lists engines and groups.
    #[arg(long)]
    list: bool,
    #[arg(long, hide = true)]
    child: Option<String>,
    #[arg(long, hide = true, default_value_t = 0)]
    seed: u64,
    #[arg(long, hide = true)]
    write_until_killed: Option<String>,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("compare: {e}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Any<ExitCode> {
    if let Some(engine) = &args.write_until_killed {
        write_until_killed(kind(engine)?, args.dir.as_deref().ok_or("--dir")?)?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.child.is_some() {
        return child(args);
    }
    if args.list {
        engines::all().iter().for_each(|k| println!("{:<12} {}", k.name, k.settings));
        GROUPS.iter().for_each(|g| println!("{:<12} {}", g.name, g.about));
        return Ok(ExitCode::SUCCESS);
    }
    let results = measure(args)?;
    write(args, &results)?;
    if args.quick { judge(args, &results) } else { Ok(ExitCode::SUCCESS) }
}

fn kind(name: &str) -> Any<Kind> {
    let all = engines::all();
    let found = all.iter().find(|k| k.name == name);
    found.copied().ok_or_else(|| {
        let names: Vec<_> = all.iter().map(|k| k.name).collect();
        format!("no engine {name} was compiled in; there are {}", names.join(", ")).into()
    })
}

fn chosen_groups(args: &Args) -> Any<Vec<Group>> {
    let quick = ["commit", "async", "ascending", "random"];
    let by_name = |name: &str| {
        let found = GROUPS.iter().find(|g| g.name == name).copied();
        found.ok_or_else(|| format!("no group {name}; see --list"))
    };
    if !args.groups.is_empty() {
        return Ok(args.groups.iter().map(|n| by_name(n)).collect::<Result<_, _>>()?);
    }
    Ok(GROUPS.iter().filter(|g| !args.quick || quick.contains(&g.name)).copied().collect())
}

fn chosen_engines(args: &Args) -> Any<Vec<Kind>> {
    let quick = ["hamal", "redb", "BTreeMap"];
    if !args.engines.is_empty() {
        return args.engines.iter().filter(|n| *n != "raw").map(|n| kind(n)).collect();
    }
    Ok(engines::all().into_iter().filter(|k| !args.quick || quick.contains(&k.name)).collect())
}

fn size(args: &Args) -> Size {
    if args.quick {
        return Size { pairs: 200_000, seconds: 0.7, log_mib: 32 };
    }
    Size { pairs: args.pairs, seconds: args.seconds, log_mib: args.log_mib }
}

/// Writes into as much memory as an engine is going to use, 1 to 4 GiB and a third of what is available at most, and gives it
/// back.
///
/// A virtual machine gets its memory from the host when it is written first. That takes 2 ms for each huge page, seventy times
/// what it takes later, and would be charged to whoever happens to get memory that nobody had before.
fn touch_memory(pairs: u64) {
    let available = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|all| {
            let line = all.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
            line.trim().strip_suffix(" kB")?.trim().parse::<usize>().ok()
        })
        .unwrap_or(0);
    let bytes = (pairs as usize * 1024).clamp(1 << 30, 4 << 30).min((available << 10) / 3) >> 21 << 21;
    let mut memory = AlignedBuf::new(bytes);
    memory.iter_mut().step_by(4096).for_each(|b| *b = 1);
    std::hint::black_box(&memory);
}

fn measure(args: &Args) -> Any<Results> {
    let (groups, kinds) = (chosen_groups(args)?, chosen_engines(args)?);
    let base = args.dir.clone().unwrap_or_else(|| PathBuf::from("target/compare"));
    std::fs::create_dir_all(&base)?;
    let mut results = Results { about: about(args), ..Results::default() };
    let steps = args.rounds * (groups.len() * (kinds.len() + 1)) as u64;
    let bar = ProgressBar::new(steps)
        .with_style(ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} of {duration}: {msg}")?);
    for round in 0..args.rounds {
        for group in &groups {
            for name in kinds.iter().map(|k| k.name).chain(["raw"]) {
                bar.set_message(format!("round {}, {}, {name}", round + 1, group.name));
                let dir = base.join(name);
                let _ = std::fs::remove_dir_all(&dir);
                touch_memory(size(args).pairs);
                for (workload, m) in in_child(args, name, group.name, &dir, round)? {
                    results.add(&workload, name, m);
                }
                let _ = std::fs::remove_dir_all(&dir);
                bar.inc(1);
            }
        }
    }
    bar.finish_and_clear();
    Ok(results)
}

/// Runs one group on one engine in a process of its own.
fn in_child(args: &Args, engine: &str, group: &str, dir: &Path, round: u64) -> Any<Vec<(String, Measured)>> {
    let size = size(args);
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--child", group, "--engines", engine, "--seed", &(round + 1).to_string(), "--dir"])
        .arg(dir)
        .args(["--pairs", &size.pairs.to_string(), "--seconds", &size.seconds.to_string()])
        .args(["--log-mib", &size.log_mib.to_string()])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut rows = Vec::new();
    for line in BufReader::new(child.stdout.take().ok_or("no output")?).lines() {
        rows.push(serde_json::from_str(&line?)?);
    }
    let status = child.wait()?;
    if !status.success() {
        // A peer that fails a workload does not end the comparison; hamal must not fail.
        eprintln!("compare: {engine} failed in {group} ({status}); its other figures stay");
        if engine == "hamal" {
            return Err(format!("hamal failed in {group}").into());
        }
    }
    Ok(rows)
}

fn child(args: &Args) -> Any<ExitCode> {
    let name = args.engines.first().ok_or("an engine is needed")?;
    let dir = args.dir.as_deref().ok_or("a directory is needed")?;
    let group = args.child.as_deref().unwrap_or_default();
    let report = |workload: &str, m: Measured| match serde_json::to_string(&(workload, m)) {
        Ok(line) => println!("{line}"),
        Err(e) => eprintln!("compare: {e}"),
    };
    if name == "raw" {
        let time = Duration::from_secs_f64(args.seconds);
        match group {
            "commit" => report("durable commits, 1 thr", raw::appends(dir, time)?),
            "cold" => {
                report("cold get, 1 thr", raw::reads(dir, time, 1, 8192)?);
                report("cold get, 2 thr", raw::reads(dir, time, 2, 8192)?);
            }
            _ => {}
        }
        return Ok(ExitCode::SUCCESS);
    }
    let size = Size { pairs: args.pairs, seconds: args.seconds, log_mib: args.log_mib };
    let group = GROUPS.iter().find(|g| g.name == group).ok_or("no such group")?;
    group.run(&Run { kind: kind(name)?, dir, size, seed: args.seed, report: &report })?;
    Ok(ExitCode::SUCCESS)
}

fn about(args: &Args) -> String {
    let s = size(args);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!(
        "{} rounds, engines in turn; {cores} cores; {} pairs of 24 + 150 bytes, {} s a timed workload. Durable rows wait for a device \
         flush in each commit; asynchronous rows and loads end with one sync, which is in the time.",
        args.rounds, s.pairs, s.seconds
    )
}

fn write(args: &Args, results: &Results) -> Any<()> {
    let kinds = engines::all();
    if let Some(out) = &args.out {
        std::fs::create_dir_all(out)?;
        std::fs::write(out.join("results.json"), serde_json::to_string_pretty(results)?)?;
        std::fs::write(out.join("results.md"), results.markdown(&kinds))?;
        std::fs::write(out.join("results.html"), results.html(&kinds))?;
    }
    if args.json {
        println!("{}", serde_json::to_string(results)?);
    } else {
        println!("{}", results.markdown(&kinds));
    }
    Ok(())
}

/// The engines that every machine has: the stored ratios are against them.
const AGAINST: [&str; 3] = ["raw", "redb", "BTreeMap"];

fn judge(args: &Args, results: &Results) -> Any<ExitCode> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("ratios.json");
    if args.bless {
        let now = ratios(results, &AGAINST);
        std::fs::write(&file, serde_json::to_string_pretty(&now)? + "\n")?;
        return Ok(ExitCode::SUCCESS);
    }
    let text = std::fs::read_to_string(&file).map_err(|e| {
        format!("no ratios to compare with in {}: {e}; store some with --quick --bless", file.display())
    })?;
    let stored: BTreeMap<String, f64> = serde_json::from_str(&text)?;
    let lost = losses(&stored, results, 0.15);
    for (name, was, is) in &lost {
        eprintln!(
            "slower: {name} was {}, is {} ({:.0} %)",
            short(*was),
            short(*is),
            (is / was - 1.0) * 100.0
        );
    }
    Ok(if lost.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
