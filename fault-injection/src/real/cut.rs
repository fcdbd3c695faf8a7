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
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Mount options: the default, and the two that keep less order.
pub(crate) const OPTIONS: [&str; 3] = ["data=ordered", "data=writeback", "data=ordered,nodelalloc"];

/// The process that shuts a file system down, ready to.
///
/// The kernel's call is not atomic as a power failure is: a sync that began before it and returns during it may report success
/// although its journal was dropped. So only what was acknowledged *before* [`Cutter::now`] must be there.
pub(crate) struct Cutter(Child);

impl Cutter {
    /// Starts it and waits until it is ready.
    pub(crate) fn new(mounted: &Mounted) -> Result<Cutter, String> {
        let mut command = Command::new(program("power_cut")?);
        command.arg(mounted.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("power_cut: {e}"))?;
        let mut ready = [0; 6];
        let said = child.stdout.as_mut().map(|out| out.read_exact(&mut ready));
        match said {
            Some(Ok(())) => Ok(Cutter(child)),
            other => Err(format!("power_cut is not ready: {other:?}")),
        }
    }
    /// Shuts down.
    pub(crate) fn now(mut self) -> Result<(), String> {
        drop(self.0.stdin.take());
        match self.0.wait() {
            Ok(status) if status.success() => Ok(()),
            other => Err(format!("the file system cannot be shut down: {other:?}")),
        }
    }
}

/// Shuts the file system down.
pub(crate) fn cut(mounted: &Mounted) -> Result<(), String> {
    Cutter::new(mounted)?.now()
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
    let mut fs = LoopFs::ext4(&scratch, "cut", 64, 4096, OPTIONS[0])?;
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
        let cutter = Cutter::new(&mounted)?;
        std::thread::sleep(after);
        run.report.acknowledged += child.so_far().acknowledged(&mut acknowledged);
        cutter.now()?;
        // It must notice.
        if mode == "work" {
            std::thread::sleep(Duration::from_millis(3));
        }
        child.kill();
        let ended = child.end();
        mounted.unmount()?;
        run.report.cases += 1;
        let mut said = acknowledged.clone();
        ended.acknowledged(&mut said);
        if let Some(what) = ended.objection(true) {
            run.violation(format!("{title}: {what}"));
        }
        run.saw(format!("cut in {mode}: {}", ended.failures().next().map_or("killed", |(_, kind, _)| kind)));
        let mounted = fs.mount()?;
        match look(&dir, io, &acknowledged, &said, n.is_multiple_of(3)) {
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
    let mut fs = LoopFs::ext4(&scratch, "cut", 64, 4096, OPTIONS[0])?;
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

/// A cut below a process whose syncs all were lies: they reported success and did nothing. Returns what the check says of it:
/// `None` would mean that the layers here have no teeth.
///
/// # Errors
/// Why the machine cannot do it.
pub fn with_lying_syncs() -> Result<Option<String>, String> {
    let scratch = need(strace)?;
    let fs = LoopFs::ext4(&scratch, "cut", 64, 4096, OPTIONS[0])?;
    let mounted = fs.mount()?;
    let dir = mounted.path().join("db");
    let start = Start::fresh(Io::Buffered);
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=fdatasync,fsync", "-e", "inject=fdatasync,fsync:retval=0", "-o"]);
    command.arg(scratch.path().join("log")).arg(program("kill_child")?);
    start.task(&dir).add_to(&mut command);
    let ended = Running::start(command)?.end();
    let mut acknowledged = BTreeMap::new();
    if ended.acknowledged(&mut acknowledged) == 0 {
        return Err(format!("nothing was acknowledged: {ended:?}"));
    }
    cut(&mounted)?;
    mounted.unmount()?;
    let _mounted = fs.mount()?;
    Ok(judge(&dir, Io::Buffered, &acknowledged).err())
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
