//! What the program `kill_child` does: the process that is killed, refused, starved.
//!
//! It speaks to its parent on standard output, one line in one write: `open`, `ready`, `T N` for an acknowledged
//! transaction `N` of thread `T`, `failed WHERE KIND TEXT` for an error that the engine reported, `wrong TEXT` for data that
//! are not what they must be. It ends with code 0 whatever the engine reports; another end is a violation.
use super::accounts::{Io, Trouble, check, next_number, options, prepare, small, transaction, with};
use hamal::{Database, ErrorKind};
use std::collections::BTreeMap;
use std::io::Write;

/// Runs the program with these arguments (without its name); the exit code.
pub fn main(args: &[String]) -> u8 {
    let [mode, dir, number, io] = args else { return usage() };
    let (Ok(number), Ok(io)) = (number.parse::<u64>(), io.parse::<Io>()) else { return usage() };
    match mode.as_str() {
        "work" => work(dir, number, io),
        "recover" => match with(options(), io).open_or_create(dir) {
            Ok(_) => say("open"),
            Err(e) => failed("open", &e),
        },
        "steps" => steps(dir, number, io),
        _ => return usage(),
    }
    0
}

fn usage() -> u8 {
    eprintln!("usage: kill_child work|recover DIR THREADS IO\n       kill_child steps DIR TRANSACTIONS IO");
    2
}

/// One line in one write: a kill may cut between lines, not inside one that was said. Without a listener the work has no
/// purpose.
fn say(line: &str) {
    let line = format!("{line}\n");
    let mut out = std::io::stdout().lock();
    if out.write_all(line.as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(3);
    }
}

fn failed(place: &str, e: &hamal::Error) {
    say(&format!("failed {place} {:?} {}", e.kind(), e.to_string().replace('\n', " ")));
}

/// Many threads, until the process is killed or the database fails.
fn work(dir: &str, threads: u64, io: Io) {
    let db = match with(options(), io).open_or_create(dir) {
        Ok(db) => db,
        Err(e) => return failed("open", &e),
    };
    say("open");
    if let Err(e) = prepare(&db) {
        return failed("prepare", &e);
    }
    say("ready");
    std::thread::scope(|s| {
        for t in 0..threads {
            let db = &db;
            s.spawn(move || {
                let mut n = match next_number(db, t) {
                    Ok(n) => n,
                    Err(e) => return failed("read", &e),
                };
                loop {
                    match transaction(db, t, n) {
                        Ok(()) => say(&format!("{t} {n}")),
                        // A full disk fails the statement only.
                        Err(e) if e.kind() == ErrorKind::NoSpace || e.kind() == ErrorKind::LogFull => {
                            continue;
                        }
                        Err(e) => return failed("transaction", &e),
                    }
                    n += 1;
                }
            });
        }
    });
}

/// The same calls of the operating system in the same order at every run: `count` transactions with maintenance and
/// checkpoints between them, a look at everything, a close. A step that the engine refuses is tried again twice if it says
/// that this makes sense; opening makes sense always.
fn steps(dir: &str, count: u64, io: Io) {
    let Some(db) = again("open", || small(io).open_or_create(dir)) else { return };
    say("open");
    if again("prepare", || prepare(&db)).is_some()
        && let Some(first) = again("read", || next_number(&db, 0))
    {
        say("ready");
        let mut acknowledged: BTreeMap<u64, u64> = first.checked_sub(1).map(|n| (0, n)).into_iter().collect();
        for n in first..first + count {
            if again("transaction", || transaction(&db, 0, n)).is_none() {
                break;
            }
            say(&format!("0 {n}"));
            acknowledged.insert(0, n);
            if n % 4 == 1 && again("maintenance", || db.maintenance_step()).is_none() {
                break;
            }
            if n % 7 == 5 && again("checkpoint", || db.checkpoint()).is_none() {
                break;
            }
        }
        // Right data or a typed error, also after the failure.
        match check(&db, &acknowledged, 1) {
            Ok(_) => say("checked"),
            Err(Trouble::Engine(e)) => failed("check", &e),
            Err(Trouble::Wrong(what)) => say(&format!("wrong {what}")),
        }
    }
    close(&db);
}

fn close(db: &Database) {
    match db.close() {
        Ok(()) => say("closed"),
        Err(e) => failed("close", &e),
    }
}

/// Up to three tries. Says each failure.
fn again<T>(place: &str, mut step: impl FnMut() -> hamal::Result<T>) -> Option<T> {
    for _ in 0..3 {
        match step() {
            Ok(done) => return Some(done),
            Err(e) => {
                failed(place, &e);
                let may = matches!(e.kind(), ErrorKind::Io | ErrorKind::NoSpace | ErrorKind::LogFull);
                if !may && place != "open" {
                    return None;
                }
            }
        }
    }
    None
}
