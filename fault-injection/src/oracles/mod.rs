//! What is checked after every crash.
use std::fmt;

pub(crate) mod formats;
pub mod ledger;
pub mod reference;
pub mod replay;
pub mod watch;

#[cfg(test)]
mod tests;

/// Which oracle objected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Oracle {
    /// An acknowledged commit is missing, or in part.
    Acknowledged,
    /// Something is there that was never committed, or commits are there without an earlier one.
    Phantom,
    /// The open failed after a mere crash.
    Opens,
    /// The verdict on the end of the log is wrong.
    Verdict,
    /// The structure does not verify.
    Structure,
    /// A stored page is not what its image and the log make of it.
    Replay,
    /// A second recovery gives something else than the first.
    Twice,
    /// The independent reference recovery gives something else.
    Reference,
    /// The engine does not work on, or does not survive the next crash.
    LifeAfter,
    /// A page was written before its log, log reused too early, a commit acknowledged before its sync.
    Order,
    /// Wrong data without an error, under damage.
    Silent,
    /// A panic.
    Panic,
    /// An operation or a recovery without end: it waits or computes for ever, or goes on reading and writing.
    Hang,
    /// Too much log or memory.
    Bounds,
    /// Two runs with one seed differ.
    Determinism,
    /// Wrong error, or an error where none is due, under an injected fault.
    Fault,
    /// A snapshot or a transaction sees something else than its state, or a change was let through that must be refused.
    Isolation,
}

impl fmt::Display for Oracle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Oracle::Acknowledged => "acknowledged",
            Oracle::Phantom => "phantom",
            Oracle::Opens => "opens",
            Oracle::Verdict => "verdict",
            Oracle::Structure => "structure",
            Oracle::Replay => "replay",
            Oracle::Twice => "twice",
            Oracle::Reference => "reference",
            Oracle::LifeAfter => "life-after",
            Oracle::Order => "order",
            Oracle::Silent => "silent",
            Oracle::Panic => "panic",
            Oracle::Hang => "hang",
            Oracle::Bounds => "bounds",
            Oracle::Determinism => "determinism",
            Oracle::Fault => "fault",
            Oracle::Isolation => "isolation",
        };
        f.write_str(name)
    }
}

/// What an oracle found wrong.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which oracle.
    pub oracle: Oracle,
    /// What was lost and why, as far as it is known; plain sentences.
    pub text: String,
}

impl Violation {
    /// A violation.
    pub fn new(oracle: Oracle, text: impl Into<String>) -> Violation {
        Violation { oracle, text: text.into() }
    }
}
