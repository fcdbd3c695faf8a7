//! The n-th call loop on real system calls, by `strace`.
//!
//! A run of the deterministic workload is traced once: that gives every system call that names the database's directory or a
//! descriptor of a file in it, as "the n-th `pwrite64`". Then the run is repeated once for each of them, and `strace` kills
//! the process just before that call, or makes the call fail. The workload starts from nothing and from databases that
//! were killed earlier, so that recovery's calls are met too.
//!
//! `strace` skips a call for which it invents a result. That is right for an error. It would be wrong for a short write (the
//! first bytes would be missing from the file, although the process was told that they are there), so short writes are
//! made by a limit on the size of files instead: the kernel then really writes the part below the limit.
use super::Run;
use super::accounts::{self, Io};
use super::process::{Ended, Running, Task, judge, program};
use super::scratch::{Scratch, call};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Transactions of a run from nothing.
const FRESH: u64 = 16;
/// Of a run on a database that was killed.
const AFTER: u64 = 4;

/// Calls that change or sync something (`openat` creates).
pub(crate) const CHANGES: [&str; 10] = [
    "pwrite64",
    "pwritev",
    "fdatasync",
    "fsync",
    "openat",
    "rename",
    "unlink",
    "mkdir",
    "ftruncate",
    "fallocate",
];

/// Where a run starts.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    pub(crate) name: String,
    pub(crate) io: Io,
    /// Files to start with, and what is committed there.
    template: Option<(PathBuf, BTreeMap<u64, u64>)>,
}

impl Start {
    pub(crate) fn fresh(io: Io) -> Start {
        Start { name: format!("{io}, from nothing"), io, template: None }
    }
    /// Makes `dir` what it starts from; what is acknowledged there.
    pub(crate) fn prepare(&self, dir: &Path) -> Result<BTreeMap<u64, u64>, String> {
        remove(dir)?;
        match &self.template {
            None => Ok(BTreeMap::new()),
            Some((from, shown)) => copy(from, dir).map(|()| shown.clone()).map_err(|e| e.to_string()),
        }
    }
    pub(crate) fn task<'a>(&self, dir: &'a Path) -> Task<'a> {
        let number = if self.template.is_none() { FRESH } else { AFTER };
        Task { mode: "steps", dir, number, io: self.io }
    }
}

fn remove(dir: &Path) -> Result<(), String> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.to_string()),
        _ => Ok(()),
    }
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// The n-th call of a name in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) name: String,
    pub(crate) nth: u64,
}

/// `strace`, or why there is none.
pub(crate) fn strace() -> Result<(), String> {
    call("strace", &["-qq", "-e", "trace=none", "true"]).map(|_| ()).map_err(|e| format!("strace: {e}"))
}

fn traced(log: &Path, options: &[&str], task: &Task<'_>) -> Result<Ended, String> {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "signal=none", "-s", "0", "-o"]).arg(log).args(options);
    command.arg(program("kill_child")?);
    task.add_to(&mut command);
    Running::start(command).map(Running::end)
}

/// Traces a run: its calls on the database, and for each name the number of the last call of the whole run.
pub(crate) fn record(log: &Path, task: &Task<'_>) -> Result<(Vec<Call>, BTreeMap<String, u64>), String> {
    let ended = traced(log, &["-y", "-e", "trace=%file,%desc"], task)?;
    if !ended.said.iter().any(|l| l == "closed") {
        return Err(format!("the traced run failed: {ended:?}"));
    }
    let text = std::fs::read_to_string(log).map_err(|e| e.to_string())?;
    let place = task.dir.to_string_lossy().into_owned();
    let mut calls = Vec::new();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    let mut processes = BTreeSet::new();
    for line in text.lines() {
        let Some((process, rest)) = line.split_once(' ') else { continue };
        let Some((name, _)) = rest.trim_start().split_once('(') else { continue };
        processes.insert(process.to_owned());
        let nth = counts.entry(name.to_owned()).or_default();
        *nth += 1;
        if rest.contains(&place) && name != "execve" {
            calls.push(Call { name: name.to_owned(), nth: *nth });
        }
    }
    if processes.len() != 1 {
        return Err(format!("the run has {} threads: its calls cannot be counted", processes.len()));
    }
    Ok((calls, counts))
}

/// Runs the task with `what` done to a call. `true` if it was met.
pub(crate) fn inject(log: &Path, task: &Task<'_>, call: &Call, what: &Harm) -> Result<(Ended, bool), String> {
    let trace = format!("trace={}", call.name);
    let inject = match what {
        Harm::Kill => format!("inject={}:signal=KILL:when={}", call.name, call.nth),
        Harm::Error { name, forever } => {
            let more = if *forever { "+" } else { "" };
            format!("inject={}:error={name}:when={}{more}", call.name, call.nth)
        }
    };
    let ended = traced(log, &["-e", &trace, "-e", &inject], task)?;
    let met = match what {
        Harm::Kill => ended.status.is_some_and(|s| !s.success()),
        Harm::Error { .. } => std::fs::read_to_string(log).is_ok_and(|t| t.contains("(INJECTED)")),
    };
    Ok((ended, met))
}

/// What is done to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    /// The process dies before it.
    Kill,
    /// It fails, and perhaps every later one of its name does.
    Error {
        /// `EIO`.
        name: &'static str,
        forever: bool,
    },
}

impl Harm {
    fn text(&self) -> String {
        match self {
            Harm::Kill => "SIGKILL".to_owned(),
            Harm::Error { name, forever } => format!("{name} {}", if *forever { "for ever" } else { "once" }),
        }
    }
    /// Whether nobody may notice: the engine or the standard library has another way.
    fn is_tolerated(&self, call: &str) -> bool {
        let Harm::Error { name, .. } = self else { return false };
        match *name {
            // Rust's standard library opens a file again, and a directory not. No local file system interrupts that.
            "EINTR" => call != "openat",
            "EOPNOTSUPP" => true,
            "EINVAL" => call == "fcntl",
            _ => false,
        }
    }
}

/// The errors that the call can meet in life.
fn errors_of(call: &str) -> Vec<Harm> {
    let mut out = Vec::new();
    if call == "close" {
        // Of a file, nobody looks at it: what matters was synced. Of a directory, Rust's standard library panics.
        return out;
    }
    let mut add = |name, forever| out.push(Harm::Error { name, forever });
    add("EIO", false);
    add("EIO", true);
    let grows =
        ["pwrite64", "pwritev", "fallocate", "ftruncate", "openat", "mkdir", "rename", "fdatasync", "fsync"];
    if grows.contains(&call) {
        add("ENOSPC", false);
        add("ENOSPC", true);
    }
    let waits =
        ["pread64", "pwrite64", "pwritev", "fallocate", "ftruncate", "openat", "fdatasync", "fsync", "flock"];
    if waits.contains(&call) {
        add("EINTR", false);
    }
    match call {
        "fallocate" => add("EOPNOTSUPP", true),
        "fcntl" => add("EINVAL", true),
        "openat" => add("EMFILE", false),
        _ => {}
    }
    out
}

/// Starts: from nothing, and from databases killed at some of their calls.
pub(crate) fn starts(run: &mut Run<'_>, scratch: &Scratch) -> Result<Vec<Start>, String> {
    let (dir, log) = (scratch.path().join("db"), scratch.path().join("log"));
    let mut out = Vec::new();
    for io in Io::ALL {
        let fresh = Start::fresh(io);
        fresh.prepare(&dir)?;
        let (calls, _) = record(&log, &fresh.task(&dir))?;
        out.push(fresh.clone());
        // One in the middle of the work, one in the last third, each at a moment that the seed chooses.
        for (from, part) in [(3, 4), (6, 9)] {
            let at = calls.len() * from / 10 + run.random((calls.len() / part) as u64) as usize;
            let Some(call) = calls.get(at) else { continue };
            fresh.prepare(&dir)?;
            let (ended, _) = inject(&log, &fresh.task(&dir), call, &Harm::Kill)?;
            let template = scratch.path().join(format!("start{}", out.len()));
            copy(&dir, &template).map_err(|e| e.to_string())?;
            let mut shown = BTreeMap::new();
            ended.acknowledged(&mut shown);
            // What a recovery shows must stay: what the killed run had in flight is decided here.
            let name = format!("{io}, after a kill at {} {}", call.name, call.nth);
            let opened = accounts::small(io).open_or_create(&dir);
            let checked = opened.map_err(Into::into).and_then(|db| accounts::check(&db, &shown, 1));
            match checked {
                Ok(shown) => out.push(Start { name, io, template: Some((template, shown)) }),
                Err(e) => run.violation(format!("{name}: {e}")),
            }
        }
    }
    Ok(out)
}

/// Every call of every start, each with the harms that `harms` finds for it, in an order that the seed shuffles.
fn each(run: &mut Run<'_>, harms: fn(&str) -> Vec<Harm>) -> Result<(), String> {
    strace()?;
    let scratch = Scratch::new().map_err(|e| e.to_string())?;
    let (dir, log) = (scratch.path().join("db"), scratch.path().join("log"));
    let starts = starts(run, &scratch)?;
    let mut cases = Vec::new();
    for (i, start) in starts.iter().enumerate() {
        start.prepare(&dir)?;
        let (calls, counts) = record(&log, &start.task(&dir))?;
        let names: BTreeSet<String> = calls.iter().map(|c| c.name.clone()).collect();
        for call in calls {
            cases.extend(harms(&call.name).into_iter().map(|harm| (i, call.clone(), harm, true)));
        }
        // The end of the loop: one call more than there are, and the run must end as if nothing had been.
        for name in names {
            let call = Call { nth: counts.get(&name).map_or(1, |n| n + 1), name };
            cases.extend(harms(&call.name).pop().map(|harm| (i, call, harm, false)));
        }
    }
    run.shuffle(&mut cases);
    // Those that change or sync something first: a short budget is best spent on them.
    cases.sort_by_key(|(_, call, ..)| !CHANGES.contains(&call.name.as_str()));
    let total = cases.len();
    for (i, call, harm, exists) in cases {
        let start = &starts[i];
        let title = format!("{} instead of {} {} ({})", harm.text(), call.name, call.nth, start.name);
        if !run.go_on(&title) {
            break;
        }
        let mut acknowledged = start.prepare(&dir)?;
        let (ended, met) = inject(&log, &start.task(&dir), &call, &harm)?;
        run.report.cases += 1;
        run.report.acknowledged += ended.acknowledged(&mut acknowledged);
        if met != exists {
            run.violation(format!("{title}: the call was {}met", if met { "" } else { "not " }));
        }
        if let Some(what) = ended.objection(harm == Harm::Kill) {
            run.violation(format!("{title}: {what}"));
        }
        if harm == Harm::Kill {
            run.saw(format!("killed at {}", call.name));
        } else if exists {
            errors_fit(run, &title, &call, &harm, &ended);
        }
        if let Err(what) = judge(&dir, start.io, &acknowledged) {
            run.violation(format!("{title}: {what}"));
        }
    }
    run.report.exhausted = !run.cut_short();
    run.saw(format!("starts: {}, cases: {total}", starts.len()));
    Ok(())
}

/// What the engine said about an injected error: nothing where it has another way, and never that files are damaged.
fn errors_fit(run: &mut Run<'_>, title: &str, call: &Call, harm: &Harm, ended: &Ended) {
    let first = ended.failures().next();
    let met = first.map_or("not noticed".to_owned(), |(place, kind, _)| format!("{kind} from {place}"));
    run.saw(format!("{} {}: {met}", call.name, harm.text()));
    if let Some((.., line)) = first
        && harm.is_tolerated(&call.name)
    {
        run.violation(format!("{title}: must go unnoticed, but: {line}"));
    }
    for (_, kind, line) in ended.failures() {
        if kind.ends_with("Corrupt") || ["LogBehindPages", "WrongDatabase", "NotADatabase"].contains(&kind) {
            run.violation(format!("{title}: nothing is damaged, but: {line}"));
            break;
        }
    }
    let once = matches!(harm, Harm::Error { forever: false, .. });
    if once && !ended.said.iter().any(|l| l == "open") {
        run.violation(format!("{title}: three opens failed after one error"));
    }
}

/// The layer [`KillAtCall`](super::Layer::KillAtCall).
pub(crate) fn kills(run: &mut Run<'_>) -> Result<(), String> {
    each(run, |_| vec![Harm::Kill])
}

/// The layer [`Errors`](super::Layer::Errors).
pub(crate) fn errors(run: &mut Run<'_>) -> Result<(), String> {
    each(run, errors_of)
}

/// Transactions of a run under a limit: enough for a data file that is longer than a log segment.
const LONG: u64 = 60;

/// The layer [`FileSize`](super::Layer::FileSize): every limit, in sectors, up to the longest file of the run. A file system
/// that can reserve space refuses a file that would become too long at once; so some cases have one that cannot, where the
/// engine writes zeros and the last of these writes is short.
pub(crate) fn file_sizes(run: &mut Run<'_>) -> Result<(), String> {
    let scratch = Scratch::new().map_err(|e| e.to_string())?;
    let (dir, log) = (scratch.path().join("db"), scratch.path().join("log"));
    let zeros = strace();
    if let Err(why) = &zeros {
        run.report.skipped.push(format!("short writes, but for those of a full device: {why}"));
    }
    let mut cases = Vec::new();
    for io in Io::ALL {
        remove(&dir)?;
        let ended = Running::start(Task { mode: "steps", dir: &dir, number: LONG, io }.command()?)?.end();
        if !ended.said.iter().any(|l| l == "closed") {
            return Err(format!("the run without a limit failed: {ended:?}"));
        }
        let longest = longest(&dir).map_err(|e| e.to_string())?;
        for limit in 0..=longest / 512 + 1 {
            cases.push((io, limit, true));
            if zeros.is_ok() {
                cases.push((io, limit, false));
            }
        }
    }
    run.shuffle(&mut cases);
    for (io, limit, reserve) in cases {
        let how = if reserve { "" } else { ", without fallocate" };
        let title = format!("files of at most {limit} sectors ({io}{how})");
        if !run.go_on(&title) {
            break;
        }
        remove(&dir)?;
        // The signal is ignored, so that the calls fail with EFBIG. `ulimit -f` of a POSIX shell counts 512 bytes.
        // Under strace the limit is set below it, by a shell that it starts.
        let mut command;
        let shell = ["sh", "-c", "trap '' XFSZ; ulimit -f \"$1\"; shift; exec \"$@\"", "sh"];
        if reserve {
            command = Command::new(shell[0]);
            command.args(&shell[1..]);
        } else {
            command = Command::new("strace");
            command.args(["-f", "-qq", "-e", "signal=none", "-s", "0", "-o"]).arg(&log);
            command
                .args(["-e", "trace=pwrite64,fallocate", "-e", "inject=fallocate:error=EOPNOTSUPP"])
                .args(shell);
        }
        command.arg(limit.to_string()).arg(program("kill_child")?);
        Task { mode: "steps", dir: &dir, number: LONG, io }.add_to(&mut command);
        let ended = Running::start(command)?.end();
        let mut acknowledged = BTreeMap::new();
        run.report.cases += 1;
        run.report.acknowledged += ended.acknowledged(&mut acknowledged);
        if let Some(what) = ended.objection(false) {
            run.violation(format!("{title}: {what}"));
        }
        let met = ended.failures().next();
        run.saw(met.map_or("not noticed".to_owned(), |(place, kind, _)| format!("{kind} from {place}")));
        if !reserve && std::fs::read_to_string(&log).is_ok_and(|t| t.lines().any(is_short)) {
            run.saw("a write was short");
        }
        if let Err(what) = judge(&dir, io, &acknowledged) {
            run.violation(format!("{title}: {what}"));
        }
    }
    run.report.exhausted = !run.cut_short();
    Ok(())
}

/// Whether a line of `strace` shows a write of fewer bytes than were asked for: `pwrite64(5, ""..., 4096, 0) = 512`.
fn is_short(line: &str) -> bool {
    let asked = line.rsplit_once(") = ").and_then(|(call, done)| {
        let mut args = call.split_once("pwrite64(")?.1.rsplit(", ");
        let asked: u64 = args.nth(1)?.parse().ok()?;
        Some((asked, done.trim().parse::<u64>().ok()?))
    });
    asked.is_some_and(|(asked, done)| done < asked)
}

fn longest(dir: &Path) -> std::io::Result<u64> {
    let mut most = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        most = most.max(if meta.is_dir() { longest(&entry.path())? } else { meta.len() });
    }
    Ok(most)
}
