//! What is recorded of a history.
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, BufRead, Write};

/// The level that a transaction was begun with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Each statement has a snapshot of its own.
    ReadCommitted,
    /// One snapshot for all reads; the first committer wins.
    Snapshot,
    /// As if one after the other.
    Serializable,
    /// A snapshot that writes nothing.
    ReadOnly,
}

impl Level {
    /// All of them.
    pub const ALL: [Level; 4] = [Level::ReadCommitted, Level::Snapshot, Level::Serializable, Level::ReadOnly];
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Level::ReadCommitted => "read-committed",
            Level::Snapshot => "snapshot",
            Level::Serializable => "serializable",
            Level::ReadOnly => "read-only",
        }
    }
}

/// What rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Rows are lists to which elements are appended, so a read tells all that was written before. Never deleted.
    Lists,
    /// Rows have one element, which is overwritten, or deleted.
    Registers,
}

/// A row: its elements, each written once in a history; none if there is no row. A version is named by its last element.
pub type State = Option<Vec<u64>>;

/// The least and the greatest snapshot at which a statement may have read.
pub type Span = (u64, u64);

/// What a transaction did, and what it was told. Only what succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// It read a row.
    Read {
        /// Which.
        key: u64,
        /// What it was told.
        state: State,
        /// Whether nobody else can change the row from then on (`SELECT FOR UPDATE`, or what a write replaced).
        locked: bool,
        /// When, if the statement had a snapshot of its own.
        at: Option<Span>,
    },
    /// It read all rows from one key up to, not including, another.
    Range {
        /// The first key.
        low: u64,
        /// The key after the last.
        high: u64,
        /// The rows that there were, ascending.
        rows: Vec<(u64, Vec<u64>)>,
        /// When, if the statement had a snapshot of its own.
        at: Option<Span>,
    },
    /// It wrote a row, or deleted it.
    Write {
        /// Which.
        key: u64,
        /// What is there now.
        state: State,
    },
    /// A point to go back to.
    Savepoint,
    /// Everything after that savepoint was undone.
    RollbackTo {
        /// The index of the [`Op::Savepoint`] among the operations.
        savepoint: usize,
    },
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It committed, at that timestamp if the engine tells, and what it wrote survived every crash.
    Committed {
        /// The commit's timestamp: later snapshots show it.
        at: Option<u64>,
    },
    /// It was rolled back, or refused.
    Aborted,
    /// It asked to commit, and the crash that followed took it back.
    Lost {
        /// The timestamp that it had before the crash.
        at: Option<u64>,
        /// Whether the engine had said that it was durable: then it must not have been lost.
        acknowledged: bool,
    },
    /// Nobody knows.
    Unknown,
}

/// A transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    /// Its number, which reports name it by.
    pub id: u64,
    /// The thread that ran it.
    pub process: u64,
    /// How many crashes there had been when it ran.
    pub epoch: u32,
    /// Its level.
    pub level: Level,
    /// When it began: a number that all events of a history share.
    pub begin: u64,
    /// When its end was known.
    pub end: u64,
    /// The timestamp of its snapshot, if the engine tells; that of the begin, if each statement has its own.
    pub snapshot: Option<u64>,
    /// How it ended.
    pub outcome: Outcome,
    /// What it did, in order.
    pub ops: Vec<Op>,
}

impl Transaction {
    /// For each operation whether it was not undone by a rollback to a savepoint.
    pub fn kept(&self) -> Vec<bool> {
        let mut kept = vec![true; self.ops.len()];
        for (i, op) in self.ops.iter().enumerate() {
            if let Op::RollbackTo { savepoint } = op {
                let from = (savepoint + 1).min(i);
                kept[from..i].fill(false);
            }
        }
        kept
    }
    /// What it leaves behind if it commits: the last state of each row that it wrote.
    pub fn writes(&self) -> BTreeMap<u64, &State> {
        let kept = self.kept();
        let mut writes = BTreeMap::new();
        for (op, _) in self.ops.iter().zip(kept).filter(|(_, kept)| *kept) {
            if let Op::Write { key, state } = op {
                writes.insert(*key, state);
            }
        }
        writes
    }
    /// Whether it is known to have committed.
    pub fn committed(&self) -> bool {
        matches!(self.outcome, Outcome::Committed { .. })
    }
    /// The timestamp of its commit, also of one that was lost.
    pub fn at(&self) -> Option<u64> {
        match self.outcome {
            Outcome::Committed { at } | Outcome::Lost { at, .. } => at,
            Outcome::Aborted | Outcome::Unknown => None,
        }
    }
}

/// A history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// What rows are.
    pub kind: Kind,
    /// Keys are below this number.
    pub keys: u64,
    /// What there was, in no particular order.
    pub transactions: Vec<Transaction>,
}

/// The first line of a file.
#[derive(Serialize, Deserialize)]
struct Header {
    hamal_history: u32,
    kind: Kind,
    keys: u64,
}

impl History {
    /// Writes it as JSON Lines: a line that says what it is, then one for each transaction.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, to: &mut dyn Write) -> io::Result<()> {
        serde_json::to_writer(&mut *to, &Header { hamal_history: 1, kind: self.kind, keys: self.keys })?;
        writeln!(to)?;
        for t in &self.transactions {
            serde_json::to_writer(&mut *to, t)?;
            writeln!(to)?;
        }
        to.flush()
    }
    /// Reads what [`History::write`] wrote.
    ///
    /// # Errors
    /// Those of the reader; `InvalidData`, with the number of the line, for what is not a history.
    pub fn read(from: &mut dyn BufRead) -> io::Result<History> {
        let bad =
            |line: usize, m: String| io::Error::new(io::ErrorKind::InvalidData, format!("line {line}: {m}"));
        let mut lines = from.lines().enumerate();
        let (_, first) = lines.next().ok_or_else(|| bad(1, "an empty file is no history".into()))?;
        let header: Header = serde_json::from_str(&first?).map_err(|e| bad(1, e.to_string()))?;
        if header.hamal_history != 1 {
            return Err(bad(1, format!("format {}: this program reads format 1", header.hamal_history)));
        }
        let mut transactions = Vec::new();
        for (i, line) in lines {
            let line = line?;
            if !line.trim().is_empty() {
                let t: Transaction = serde_json::from_str(&line).map_err(|e| bad(i + 1, e.to_string()))?;
                check(&t, header.keys).map_err(|m| bad(i + 1, m))?;
                transactions.push(t);
            }
        }
        Ok(History { kind: header.kind, keys: header.keys, transactions })
    }
}

/// Whether a transaction from a file makes sense.
fn check(t: &Transaction, keys: u64) -> Result<(), String> {
    for (i, op) in t.ops.iter().enumerate() {
        match op {
            Op::Read { key, .. } | Op::Write { key, .. } if *key >= keys => {
                return Err(format!("key {key} is not below {keys}"));
            }
            Op::Range { low, high, .. } if low > high || *high > keys => {
                return Err(format!("a range from {low} to {high} of {keys} keys"));
            }
            Op::RollbackTo { savepoint } if !matches!(t.ops[..i].get(*savepoint), Some(Op::Savepoint)) => {
                return Err(format!("operation {i} goes back to {savepoint}, which is no earlier savepoint"));
            }
            _ => {}
        }
    }
    Ok(())
}
