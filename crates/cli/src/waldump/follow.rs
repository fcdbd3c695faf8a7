//! `hamal waldump --follow`: what is logged, as it is logged.
//!
//! The log is read as [`hamal::log::LogFollower`] does; the control file tells a reader that has nothing new from one that has
//! been overtaken, and from damage: who has read it before a look knows what that look had to find.

use super::Dump;
use crate::open::Stop;
use crate::output::{Failure, Out, Result};
use hamal::inspect::Inspect;
use hamal::log::LogFollower;
use hamal::{Error, ErrorKind, Lsn};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io;

/// How long to wait for more.
const WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
/// So many looks that find nothing where something must be, or an error, are not what a writer at work looks like.
const PATIENCE: u32 = 20;

/// Why following ended.
pub(super) enum Ended {
    /// What was asked for has been printed.
    Done,
    /// Ctrl-C.
    Asked,
    /// The log is damaged.
    Damaged(Error),
}

/// Prints from `from` on, until there is a reason to end. Where the log was read to.
pub(super) fn follow(dump: &mut Dump<'_>, from: Lsn, stop: &Stop, out: &mut Out) -> Result<(Lsn, Ended)> {
    let options = dump.options;
    let identity = |i: &Inspect| (i.control().db, i.control().timeline);
    let whose = identity(dump.inspect);
    let mut follower = opened(dump.inspect, from)?;
    // The control file as it was before the last look at the log.
    let mut before: Option<Inspect> = None;
    let mut suspect: Option<Error> = None;
    let mut idle = 0u32;
    loop {
        let trouble = match follower.next_record() {
            Ok(Some(r)) => {
                (before, suspect, idle) = (None, None, 0);
                if stop.asked() {
                    return Ok((follower.position(), Ended::Asked));
                }
                if !dump.record(&r, out)? {
                    return Ok((follower.position(), Ended::Done));
                }
                continue;
            }
            Ok(None) => None,
            Err(e) if e.is_corruption() => Some(e),
            Err(e) => return Err(e.into()),
        };
        let at = follower.position();
        if let Some(c) = before.as_ref().map(Inspect::control) {
            if c.keep_from > at {
                gap(dump, at, c.keep_from, out)?;
                follower = opened(dump.inspect, c.keep_from)?;
                (before, suspect, idle) = (None, None, 0);
                continue;
            }
            if idle >= PATIENCE && (c.checkpoint_end > at || trouble.is_some()) {
                let lost = || Error::new(ErrorKind::LogCorrupt, "the log must go on here").with_lsn(at);
                return Ok((at, Ended::Damaged(trouble.unwrap_or_else(lost))));
            }
        }
        // A log at rest may end in damage. Of one at work the verdict may be wrong, since it takes a while to be found: it has to
        // be the same twice.
        if let Some(inspect) = before.as_ref().filter(|_| idle == PATIENCE || idle == PATIENCE + 5) {
            let damage = inspect.log_end().err().filter(Error::is_corruption);
            match (damage, &suspect) {
                (Some(e), Some(s)) if e.lsn() == s.lsn() => return Ok((at, Ended::Damaged(e))),
                (damage, _) => suspect = damage,
            }
        }
        out.flush()?;
        wait()?;
        if stop.asked() {
            return Ok((at, Ended::Asked));
        }
        idle += 1;
        before = match Inspect::open(&options.dir) {
            Ok(now) if identity(&now) == whose => Some(now),
            Ok(_) => return Err(Failure::Check("the database is another one now".into())),
            // It may be in the middle of being written; but not for long.
            Err(e) if idle >= PATIENCE => return Err(e.into()),
            Err(_) => None,
        };
    }
}

/// A follower; while segments come and go, listing and opening them may need another try.
fn opened(inspect: &Inspect, from: Lsn) -> Result<LogFollower> {
    let mut tries = 0;
    loop {
        match inspect.follow(from) {
            Err(_) if tries < PATIENCE => tries += 1,
            done => return Ok(done?),
        }
        wait()?;
    }
}

/// Records that nobody needs any more were given back before they were read.
pub(super) fn gap(dump: &Dump<'_>, at: Lsn, to: Lsn, out: &mut Out) -> Result<()> {
    let words =
        format!("the log from {at} to {to} was given back before it was read: it goes on behind that");
    match dump.json {
        true => out.json(&serde_json::json!({ "gap": { "from": at.0, "to": to.0 }, "words": words })),
        false => out.line(words),
    }
}

/// Waits a moment for more; ends early at a signal, and with [`Failure::Pipe`] if nobody reads the output any more.
fn wait() -> Result<()> {
    let stdout = io::stdout();
    let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
    match poll(&mut fds, Some(&WAIT)) {
        Ok(0) | Err(rustix::io::Errno::INTR) => Ok(()),
        Ok(_) => Err(Failure::Pipe),
        Err(e) => Err(Failure::Io("waiting for the log".into(), e.into())),
    }
}
