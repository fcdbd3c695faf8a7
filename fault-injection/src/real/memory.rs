//! Memory that runs out: a limit on the address space, from the least with which the process starts to where it wants no more.
//!
//! The engine takes its buffers when it opens, and says so if it does not get them. Elsewhere the standard library ends the process
//! when there is no memory, which must be as harmless as a kill.
use super::Run;
use super::accounts::Io;
use super::calls::{self, Start};
use super::process::{Ended, Running, judge, program};
use super::scratch::Scratch;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

/// KiB from one limit to the next.
const STEP: u64 = 16;
/// KiB with which any run here must be content.
const PLENTY: u64 = 4 << 20;
/// KiB below the least limit with which all is well that are looked at: below them the process does not begin.
const SPAN: u64 = 2 << 10;
const SIGABRT: i32 = 6;

/// The layer [`Memory`](super::Layer::Memory).
pub(crate) fn limits(run: &mut Run<'_>) -> Result<(), String> {
    let scratch = Scratch::new().map_err(|e| e.to_string())?;
    let dir = scratch.path().join("db");
    let starts = match calls::strace() {
        Ok(()) => calls::starts(run, &scratch)?,
        Err(why) => {
            run.report.skipped.push(format!("databases that were killed before: {why}"));
            Io::ALL.map(Start::fresh).to_vec()
        }
    };
    let mut cases = Vec::new();
    for (i, start) in starts.iter().enumerate() {
        let closes = |limit: u64| -> Result<bool, String> {
            start.prepare(&dir)?;
            let ended = limited(start, &dir, limit)?;
            Ok(ended.said.iter().any(|l| l == "closed") && ended.failures().next().is_none())
        };
        if !closes(PLENTY)? {
            return Err("a limit on the address space cannot be set".into());
        }
        // The least limit with which all is well, to a step.
        let (mut least, mut enough) = (0, PLENTY);
        while enough - least > STEP {
            let middle = least.midpoint(enough);
            if closes(middle)? { enough = middle } else { least = middle }
        }
        let from = enough.saturating_sub(SPAN) / STEP * STEP;
        cases.extend((from..enough + 8 * STEP).step_by(STEP as usize).map(|limit| (i, limit)));
    }
    run.shuffle(&mut cases);
    for (i, limit) in cases {
        let start = &starts[i];
        let title = format!("at most {limit} KiB of address space ({})", start.name);
        if !run.go_on(&title) {
            break;
        }
        let mut acknowledged = start.prepare(&dir)?;
        let ended = limited(start, &dir, limit)?;
        run.report.cases += 1;
        run.report.acknowledged += ended.acknowledged(&mut acknowledged);
        let aborted = ended.status.is_some_and(|s| s.signal() == Some(SIGABRT))
            && ended.errors.contains("memory allocation of");
        let not_begun = ended.said.is_empty() && ended.status.is_some_and(|s| !s.success());
        match ended.objection(false) {
            Some(what) if !(aborted || not_begun) => run.violation(format!("{title}: {what}")),
            _ => {}
        }
        let met = match ended.failures().next() {
            Some((place, kind, _)) => format!("{kind} from {place}"),
            None if aborted => "the process was aborted".to_owned(),
            None if not_begun => "the process did not begin".to_owned(),
            None => "enough".to_owned(),
        };
        run.saw(met);
        if let Err(what) = judge(&dir, start.io, &acknowledged) {
            run.violation(format!("{title}: {what}"));
        }
    }
    run.report.exhausted = !run.cut_short();
    Ok(())
}

/// The run under a limit, in KiB.
fn limited(start: &Start, dir: &Path, limit: u64) -> Result<Ended, String> {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -v \"$1\"; shift; exec \"$@\"", "sh"]).arg(limit.to_string());
    command.arg(program("kill_child")?);
    start.task(dir).add_to(&mut command);
    Running::start(command).map(Running::end)
}
