//! The file system is shut down below a running process: what it has not sent to the device is gone.
//!
//! The call is the one that file system developers test with: the file system refuses everything from that moment on, writes
//! nothing more, its journal included, and must be mounted again, as after a power failure. What the device had been sent is
//! there; a real device could still lose what it had not been told to flush. So this layer tests the order in which the
//! engine, and the kernel below it, send and sync; it does not tear sectors.
use super::Run;
use super::accounts::Io;
use super::calls::{CHANGES, Harm, Start, inject, record, strace};
use super::kill::{THREADS, look};
use super::process::{Running, Task, judge, program};
use super::scratch::{LoopFs, Mounted, Scratch, call, cannot_mount};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Mount options: the default, and the two that keep less order.
pub(crate) const OPTIONS: [&str; 3] = ["data=ordered", "data=writeback", "data=ordered,nodelalloc"];

/// Shuts the file system down.
pub(crate) fn cut(mounted: &Mounted) -> Result<(), String> {
    let program = program("power_cut")?;
    call(&program.to_string_lossy(), &[&mounted.path().to_string_lossy()]).map(|_| ())
}

fn need(tools: fn() -> Result<(), String>) -> Result<Scratch, String> {
    if let Some(why) = cannot_mount() {
        return Err(why);
    }
    program("power_cut")?;
    tools()?;
    Scratch::new().map_err(|e| e.to_string())
}

/// The layer [`PowerCut`](super::Layer::PowerCut).
pub(crate) fn random(run: &mut Run<'_>) -> Result<(), String> {
    let scratch = need(|| Ok(()))?;
    let mut fs = LoopFs::ext4(&scratch, "cut", 64, OPTIONS[0])?;
    let mut acknowledged = BTreeMap::new();
    let (mut io, mut options, mut name) = (Io::Direct, OPTIONS[0], String::new());
    loop {
        let n = run.report.cases;
        let fresh = n.is_multiple_of(20);
        if fresh {
            acknowledged.clear();
            io = Io::ALL[run.random(3) as usize];
            options = OPTIONS[run.random(3) as usize];
            fs.set_options(options);
        }
        let mounted = fs.mount()?;
        if fresh {
            let _ = std::fs::remove_dir_all(mounted.path().join(&name));
            name = format!("db{n}");
        }
        let dir = mounted.path().join(&name);
        let after = Duration::from_micros(run.random(60_000));
        let mode = if !fresh && n % 4 == 3 { "recover" } else { "work" };
        let early = n % 5 == 4 || mode == "recover" || fresh;
        let title = format!(
            "cut {n}, {after:?} after the {} of {mode} ({io}, {options})",
            if early { "start" } else { "open" }
        );
        if !run.go_on(&title) {
            return Ok(());
        }
        let mut child = Running::start(Task { mode, dir: &dir, number: THREADS, io }.command()?)?;
        if !early && !child.wait_for("ready") {
            run.violation(format!("{title}: the child stopped: {:?}", child.end()));
            return Ok(());
        }
        std::thread::sleep(after);
        cut(&mounted)?;
        // What it acknowledges now must be durable too; then it must notice.
        if mode == "work" {
            std::thread::sleep(Duration::from_millis(3));
        }
        child.kill();
        let ended = child.end();
        mounted.unmount()?;
        run.report.cases += 1;
        run.report.acknowledged += ended.acknowledged(&mut acknowledged);
        if let Some(what) = ended.objection(true) {
            run.violation(format!("{title}: {what}"));
        }
        run.saw(format!("cut in {mode}: {}", ended.failures().next().map_or("killed", |(_, kind, _)| kind)));
        let mounted = fs.mount()?;
        match look(&dir, io, &acknowledged, n % 3 == 0) {
            Ok(shown) => acknowledged = shown,
            Err(what) => {
                run.violation(format!("{title}: {what}"));
                return Ok(());
            }
        }
        // What a recovery has shown must stay, also if nothing more reaches the device.
        if run.random(2) == 0 {
            cut(&mounted)?;
        }
        mounted.unmount()?;
    }
}

/// The layer [`PowerCutAtCall`](super::Layer::PowerCutAtCall): the process is killed at its n-th call, and the file system
/// is shut down at once, or after some of the files were written back.
pub(crate) fn at_calls(run: &mut Run<'_>) -> Result<(), String> {
    let scratch = need(strace)?;
    let log = scratch.path().join("log");
    let mut fs = LoopFs::ext4(&scratch, "cut", 64, OPTIONS[0])?;
    let mut cases = Vec::new();
    {
        let mounted = fs.mount()?;
        let dir = mounted.path().join("db");
        for io in Io::ALL {
            let start = Start::fresh(io);
            start.prepare(&dir)?;
            let (calls, _) = record(&log, &start.task(&dir))?;
            // Only changes and syncs: between two of them nothing moves to the device that a cut could tell apart.
            let calls = calls.into_iter().filter(|c| CHANGES.contains(&c.name.as_str()));
            cases.extend(calls.map(|call| (io, call)));
        }
        std::fs::remove_dir_all(&dir).map_err(|e| e.to_string())?;
        mounted.unmount()?;
    }
    run.shuffle(&mut cases);
    for (io, call) in cases {
        let options = OPTIONS[run.random(3) as usize];
        let title = format!("cut before {} {} ({io}, {options})", call.name, call.nth);
        if !run.go_on(&title) {
            break;
        }
        fs.set_options(options);
        let mounted = fs.mount()?;
        let dir = mounted.path().join("db");
        let start = Start::fresh(io);
        let mut acknowledged = start.prepare(&dir)?;
        // The removal of the last database is not to be confused with what happens now.
        call_sync(&mounted)?;
        let (ended, _) = inject(&log, &start.task(&dir), &call, &Harm::Kill)?;
        if run.random(2) == 0 {
            write_back(run, &dir).map_err(|e| e.to_string())?;
        }
        cut(&mounted)?;
        mounted.unmount()?;
        run.report.cases += 1;
        run.report.acknowledged += ended.acknowledged(&mut acknowledged);
        if let Some(what) = ended.objection(true) {
            run.violation(format!("{title}: {what}"));
        }
        run.saw(format!("cut before {}", call.name));
        let mounted = fs.mount()?;
        if let Err(what) = judge(&dir, io, &acknowledged) {
            run.violation(format!("{title}: {what}"));
        }
        mounted.unmount()?;
    }
    run.report.exhausted = !run.cut_short();
    Ok(())
}

/// Writes some of the files back, as the kernel may do at any time by itself: the data before the log, say.
fn write_back(run: &mut Run<'_>, dir: &Path) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            write_back(run, &entry.path())?;
        } else if run.random(2) == 0 {
            std::fs::File::open(entry.path())?.sync_data()?;
            run.saw("files written back before a cut");
        }
    }
    Ok(())
}

fn call_sync(mounted: &Mounted) -> Result<(), String> {
    call("sync", &["-f", &mounted.path().to_string_lossy()]).map(|_| ())
}
