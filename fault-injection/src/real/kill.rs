//! SIGKILL at random moments, many times on the same database.
use super::Run;
use super::accounts::{Io, Trouble, check, check_between, options, with};
use super::process::{Running, Task};
use super::scratch::Scratch;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Threads of the process that works.
pub(crate) const THREADS: u64 = 6;
/// So many kills are survived by one database, then there is a new one.
const LIVES: u64 = 50;

/// Opens after a crash and checks; `Ok` is what the recovery shows.
pub(crate) fn look(
    dir: &Path,
    io: Io,
    acknowledged: &BTreeMap<u64, u64>,
    said: &BTreeMap<u64, u64>,
    close: bool,
) -> Result<BTreeMap<u64, u64>, String> {
    let builder = with(options(), io);
    let opened = if acknowledged.is_empty() { builder.open_or_create(dir) } else { builder.open(dir) };
    let db = opened.map_err(|e| format!("the open failed: {:?}: {e}", e.kind()))?;
    let report = db.recovery_report().clone();
    let shown = check_between(&db, acknowledged, said, THREADS).map_err(|e| format!("{e}\n{report}"))?;
    if close {
        db.close().map_err(|e| format!("the close failed: {:?}: {e}", e.kind()))?;
        drop(db);
        let db = builder.open(dir).map_err(|e| format!("the second open failed: {:?}: {e}", e.kind()))?;
        if !db.recovery_report().clean {
            return Err(format!("it was closed, but: {}", db.recovery_report()));
        }
        check(&db, &shown, THREADS).map_err(|e: Trouble| format!("after a close: {e}"))?;
    }
    Ok(shown)
}

/// The layer [`Kill`](super::Layer::Kill).
pub(crate) fn random(run: &mut Run<'_>) -> Result<(), String> {
    let scratch = Scratch::new().map_err(|e| e.to_string())?;
    let mut acknowledged = BTreeMap::new();
    let mut dir = scratch.path().join("db");
    let mut io = Io::Direct;
    loop {
        let n = run.report.cases;
        if n.is_multiple_of(LIVES) {
            let _ = std::fs::remove_dir_all(&dir);
            acknowledged.clear();
            io = Io::ALL[run.random(3) as usize];
            dir = scratch.path().join(format!("db{n}"));
        }
        let after = Duration::from_micros(run.random(150_000));
        // Some kills come while the directory is created or recovered, before the child is ready.
        let early = n % 5 == 4;
        let title = format!("kill {n}, {after:?} after the {} ({io})", if early { "start" } else { "open" });
        if !run.go_on(&title) {
            return Ok(());
        }
        let mut child = Running::start(Task { mode: "work", dir: &dir, number: THREADS, io }.command()?)?;
        if !early && !child.wait_for("ready") {
            run.violation(format!("{title}: the child stopped: {:?}", child.end()));
            return Ok(());
        }
        std::thread::sleep(after);
        child.kill();
        let ended = child.end();
        run.report.cases += 1;
        run.report.acknowledged += ended.acknowledged(&mut acknowledged);
        if let Some(what) = ended.objection(true) {
            run.violation(format!("{title}: {what}"));
        }
        if let Some((.., line)) = ended.failures().next() {
            run.violation(format!("{title}: {line}"));
        }
        run.saw(if early { "killed after its start" } else { "killed at work" });
        if n % 2 == 1 {
            for _ in 0..run.random(3) {
                let after = Duration::from_micros(run.random(30_000));
                let mut child =
                    Running::start(Task { mode: "recover", dir: &dir, number: 0, io }.command()?)?;
                std::thread::sleep(after);
                child.kill();
                let ended = child.end();
                if let Some(what) = ended.objection(true) {
                    run.violation(format!("{title}, recovery killed after {after:?}: {what}"));
                }
                run.saw(if ended.said.is_empty() { "killed in recovery" } else { "killed after recovery" });
            }
        }
        match look(&dir, io, &acknowledged, &acknowledged, n.is_multiple_of(3)) {
            Ok(shown) => acknowledged = shown,
            Err(what) => {
                run.violation(format!("{title}: {what}"));
                return Ok(());
            }
        }
    }
}
