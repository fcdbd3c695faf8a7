//! The verdict on a history: by both checkers, with counts.
use super::graph::{self, Edge};
use super::record::{History, Level};
use super::timestamps;
use std::fmt;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Anomaly {
    /// Dirty writes: a cycle of overwritten versions.
    G0,
    /// A committed transaction read what was rolled back, or lost.
    G1a,
    /// A committed transaction read what its writer overwrote itself.
    G1b,
    /// A cycle of overwrites and reads.
    G1c,
    /// A cycle with one anti-dependency: read skew, lost update.
    GSingle,
    /// A cycle with several anti-dependencies, no two of them adjacent: snapshot isolation forbids it too.
    GNonadjacent,
    /// A cycle with adjacent anti-dependencies between rows: write skew.
    G2Item,
    /// A cycle with an anti-dependency by a range: a phantom.
    G2,
    /// Two reads of a list that no order of appends explains.
    IncompatibleOrder,
    /// A transaction does not see its own writes, or a range is out of order.
    Internal,
    /// Something was read that nobody wrote.
    Garbage,
    /// A read is not the newest version at its snapshot.
    NotTheSnapshot,
    /// Two transactions changed a row, and the second one committed though its snapshot did not show the first.
    FirstCommitterWins,
    /// A serializable transaction committed though something that it had read was no longer so.
    NotAtCommit,
    /// A row that was read for update changed before the reader's commit.
    LockIgnored,
    /// A transaction that began after another was acknowledged does not see it.
    StaleSnapshot,
    /// An acknowledged commit did not survive a crash; or a later one did, and an earlier one did not.
    LostCommit,
    /// Two commits have one timestamp, or one is not later than its own snapshot.
    Timestamps,
}

impl Anomaly {
    /// Its name: Adya's, if it has one.
    pub fn name(self) -> &'static str {
        match self {
            Anomaly::G0 => "G0",
            Anomaly::G1a => "G1a",
            Anomaly::G1b => "G1b",
            Anomaly::G1c => "G1c",
            Anomaly::GSingle => "G-single",
            Anomaly::GNonadjacent => "G-nonadjacent",
            Anomaly::G2Item => "G2-item",
            Anomaly::G2 => "G2",
            Anomaly::IncompatibleOrder => "incompatible-order",
            Anomaly::Internal => "internal",
            Anomaly::Garbage => "garbage",
            Anomaly::NotTheSnapshot => "not-the-snapshot",
            Anomaly::FirstCommitterWins => "first-committer-wins",
            Anomaly::NotAtCommit => "not-at-commit",
            Anomaly::LockIgnored => "lock-ignored",
            Anomaly::StaleSnapshot => "stale-snapshot",
            Anomaly::LostCommit => "lost-commit",
            Anomaly::Timestamps => "timestamps",
        }
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Something that the levels forbid.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Violation {
    /// What.
    pub anomaly: Anomaly,
    /// The numbers of the transactions.
    pub transactions: Vec<u64>,
    /// What happened, in a sentence or some lines.
    pub message: String,
    /// The cycle, if it is one: the shortest of its sort.
    pub cycle: Vec<Edge>,
}

impl Violation {
    pub(super) fn of(anomaly: Anomaly, transactions: &[u64], message: String) -> Violation {
        Violation { anomaly, transactions: transactions.to_vec(), message, cycle: Vec::new() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.anomaly, self.message)
    }
}

/// What was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Transactions.
    pub transactions: u64,
    /// Of these, committed.
    pub committed: u64,
    /// Reads of rows that others wrote, a row of a range each.
    pub reads: u64,
    /// Edges of the graph, at most one of a sort between two transactions.
    pub edges: u64,
    /// Reads, writes and snapshots that were held to timestamps.
    pub held: u64,
}

impl Counts {
    /// Adds others.
    pub fn add(&mut self, other: &Counts) {
        self.transactions += other.transactions;
        self.committed += other.committed;
        self.reads += other.reads;
        self.edges += other.edges;
        self.held += other.held;
    }
}

/// The verdict.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// What is wrong; nothing if all is well.
    pub violations: Vec<Violation>,
    /// What was looked at.
    pub counts: Counts,
}

impl Report {
    /// Whether one of the violations is of that sort.
    pub fn has(&self, anomaly: Anomaly) -> bool {
        self.violations.iter().any(|v| v.anomaly == anomaly)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = &self.counts;
        writeln!(
            f,
            "{} transactions, {} committed, {} reads, {} edges: {} violations",
            c.transactions,
            c.committed,
            c.reads,
            c.edges,
            self.violations.len()
        )?;
        // One bug makes hundreds.
        self.violations.iter().take(20).try_for_each(|v| writeln!(f, "{v}"))
    }
}

/// Judges a history by both checkers: each transaction by its own level, or as if all that write had had that one.
pub fn judge(h: &History, level: Option<Level>) -> Report {
    let mut as_if;
    let h = match level {
        None => h,
        Some(level) => {
            as_if = h.clone();
            for t in as_if.transactions.iter_mut().filter(|t| t.level != Level::ReadOnly) {
                t.level = level;
            }
            &as_if
        }
    };
    let mut report = graph::judge(h);
    let held = timestamps::judge(h);
    report.counts.held = held.counts.held;
    report.violations.extend(held.violations);
    report.counts.transactions = h.transactions.len() as u64;
    report.counts.committed = h.transactions.iter().filter(|t| t.committed()).count() as u64;
    report
}
