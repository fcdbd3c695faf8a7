//! Who holds what: live transactions and snapshots, what they keep, what they wait for, and what keeps the log from being
//! cut.
use crate::core::Core;
use hamal_page::{Lsn, TreeId};
use std::fmt;
use std::time::Duration;

/// What goes on in a database at one moment ([`Database::activity`](crate::Database::activity)). Print it with `{}`; with the
/// feature `serde` it can be serialized. Not one atomic look: a transaction may end while the next one is looked at.
///
/// ```
/// # fn main() -> hamal::Result<()> {
/// let db = hamal::Database::in_memory()?;
/// let tx = db.begin_write()?;
/// tx.create_tree("t")?.put("key", "value")?;
/// let activity = db.activity()?;
/// assert_eq!(activity.writers.len(), 1);
/// println!("{activity}");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Activity {
    /// Live write transactions that have written, the oldest first.
    pub writers: Vec<Writer>,
    /// Open snapshots, those of write transactions included, the oldest first; one entry for all at one timestamp.
    pub snapshots: Vec<OpenSnapshot>,
    /// Who waits for whom.
    pub waits: Vec<Waiting>,
    /// Old versions of rows.
    pub versions: Versions,
    /// The log.
    pub log: LogUse,
    /// What keeps the log, the one that keeps the most first.
    pub pins: Vec<Pin>,
}

/// A live write transaction.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Writer {
    /// Its id: the LSN of its first record; 0 if it is about to write that.
    pub id: u64,
    /// A number for messages, given when it began.
    pub number: u64,
    /// Its snapshot.
    pub snapshot: u64,
    /// Since it began.
    pub age: Duration,
    /// Changes that it logged.
    pub changes: u64,
    /// Bytes of log that these took.
    pub change_bytes: u64,
    /// Log space set aside for its rollback, in bytes.
    pub reserved_bytes: u64,
    /// Log that cannot be cut before it ends, in bytes.
    pub log_held_bytes: u64,
    /// Old versions that it holds in memory.
    pub versions: u64,
    /// Their bytes.
    pub version_bytes: u64,
    /// Whether other old versions of its rows are in the log alone.
    pub versions_in_log: bool,
    /// Whether it is being rolled back.
    pub rolling_back: bool,
    /// Whether the engine has ended it: it can only be rolled back.
    pub doomed: bool,
}

/// Snapshots at one timestamp.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct OpenSnapshot {
    /// The timestamp.
    pub at: u64,
    /// How many there are.
    pub holders: u64,
    /// Since the first of them was taken.
    pub age: Duration,
}

/// A wait.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Waiting {
    /// Number of the transaction that waits.
    pub waiter: u64,
    /// Number of the transaction that it waits for.
    pub holder: u64,
    /// That one's id, 0 if it has none.
    pub holder_id: u64,
    /// The tree of the row, if it waits for a row.
    pub tree: Option<String>,
    /// The key of the row.
    pub key: Option<Vec<u8>>,
}

/// The version store.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Versions {
    /// Versions in memory.
    pub held: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The most bytes there can be.
    pub budget_bytes: u64,
    /// Versions that were left to the log since the database was opened.
    pub left_to_log: u64,
    /// Snapshots that were ended while in use since the database was opened.
    pub snapshots_ended: u64,
}

/// The log's space.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LogUse {
    /// From the oldest record kept to the end, in bytes.
    pub kept_bytes: u64,
    /// Promised beyond the end, to live transactions and dirty pages.
    pub reserved_bytes: u64,
    /// Bytes of its files.
    pub allocated_bytes: u64,
    /// At what size of its files changes fail with `LogFull`.
    pub limit_bytes: u64,
    /// How long the next change would be slowed down.
    pub slowed: Duration,
}

/// What keeps a [`Pin`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum PinKind {
    /// A live transaction: its rollback needs its records.
    Transaction,
    /// Snapshots: old versions that they need are in the log alone.
    Snapshot,
    /// A page that was changed and not written since.
    Page,
    /// The last checkpoint: recovery begins there.
    Checkpoint,
    /// The checkpoint before, in the other slot of the control file.
    FormerCheckpoint,
}

/// Something that keeps the log from being cut.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Pin {
    /// What it is.
    pub kind: PinKind,
    /// Which one: a transaction's id, a snapshot's timestamp, a page's number, the LSN of a checkpoint.
    pub which: u64,
    /// The log is kept from here.
    pub from: u64,
    /// From there to the end, in bytes.
    pub bytes: u64,
}

impl Pin {
    pub(crate) fn new(kind: PinKind, which: u64, from: Lsn, tail: Lsn) -> Pin {
        Pin { kind, which, from: from.0, bytes: tail.0.saturating_sub(from.0) }
    }
    /// Puts the one that keeps the most first.
    pub(crate) fn sort(pins: &mut [Pin]) {
        pins.sort_by_key(|p| (p.from, p.kind as u8));
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let which = self.which;
        match self.kind {
            PinKind::Transaction => write!(f, "transaction T{which:x}")?,
            PinKind::Snapshot => write!(f, "snapshot at {}", Lsn(which))?,
            PinKind::Page => write!(f, "page {which}, not written since it was changed")?,
            PinKind::Checkpoint => write!(f, "checkpoint {}", Lsn(which))?,
            PinKind::FormerCheckpoint => write!(f, "checkpoint before {}", Lsn(which))?,
        }
        write!(f, ": from {}, {} bytes", Lsn(self.from), self.bytes)
    }
}

impl Activity {
    pub(crate) fn of(core: &Core, tree_name: &dyn Fn(TreeId) -> Option<String>) -> Activity {
        let tail = core.log.tail();
        let (log, txns) = (core.log.stats(), core.txns.stats());
        let writers = core.txns.live().into_iter().map(|t| Writer {
            id: t.id.0,
            number: t.number,
            snapshot: t.snapshot.0,
            age: t.age,
            changes: t.records,
            change_bytes: t.record_bytes,
            reserved_bytes: t.reserved_bytes,
            log_held_bytes: if t.id.is_none() { 0 } else { tail.0.saturating_sub(t.id.0) },
            versions: t.versions,
            version_bytes: t.version_bytes,
            versions_in_log: t.demoted,
            rolling_back: t.rolling_back,
            doomed: t.doomed,
        });
        let snapshots = core.txns.open_snapshots().into_iter();
        let waits = core.txns.live_waits().into_iter().map(|w| Waiting {
            waiter: w.waiter,
            holder: w.holder_number,
            holder_id: w.holder.0,
            tree: w.tree.map(|t| tree_name(t).unwrap_or_else(|| t.to_string())),
            key: w.key,
        });
        Activity {
            writers: writers.collect(),
            snapshots: snapshots
                .map(|s| OpenSnapshot { at: s.at.0, holders: s.holders, age: s.age })
                .collect(),
            waits: waits.collect(),
            versions: Versions {
                held: txns.versions,
                bytes: txns.version_bytes,
                budget_bytes: core.options.version_budget_bytes as u64,
                left_to_log: txns.versions_demoted,
                snapshots_ended: txns.snapshots_ended,
            },
            log: LogUse {
                kept_bytes: log.tail.0.saturating_sub(log.oldest.0),
                reserved_bytes: log.reserved_bytes,
                allocated_bytes: log.allocated_bytes,
                limit_bytes: core.settings.log.limit_bytes,
                slowed: core.slowdown(),
            },
            pins: core.pins(),
        }
    }
}

impl fmt::Display for Activity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (l, v) = (&self.log, &self.versions);
        writeln!(
            f,
            "log        {} bytes kept, {} promised, files of {} (limit {})",
            l.kept_bytes, l.reserved_bytes, l.allocated_bytes, l.limit_bytes
        )?;
        if !l.slowed.is_zero() {
            writeln!(f, "           writers are slowed down by {:?} a change", l.slowed)?;
        }
        for p in &self.pins {
            writeln!(f, "pin        {p}")?;
        }
        writeln!(
            f,
            "versions   {} in {} of {} bytes, {} left to the log",
            v.held, v.bytes, v.budget_bytes, v.left_to_log
        )?;
        for s in &self.snapshots {
            writeln!(f, "snapshot   at {}, {} open, for {:.1?}", Lsn(s.at), s.holders, s.age)?;
        }
        for w in &self.writers {
            let state = match (w.doomed, w.rolling_back) {
                (_, true) => ", rolling back",
                (true, false) => ", ended by the engine",
                _ => "",
            };
            writeln!(
                f,
                "writer     #{} T{:x} for {:.1?}{state}: {} changes, {} bytes, holds {} bytes of log and promises of {}, {} \
                 versions in {} bytes{}",
                w.number,
                w.id,
                w.age,
                w.changes,
                w.change_bytes,
                w.log_held_bytes,
                w.reserved_bytes,
                w.versions,
                w.version_bytes,
                if w.versions_in_log { ", others in the log" } else { "" }
            )?;
        }
        for w in &self.waits {
            write!(f, "wait       #{} for #{}", w.waiter, w.holder)?;
            if let Some(tree) = &w.tree {
                write!(f, ", tree {tree}")?;
            }
            if let Some(key) = &w.key {
                write!(f, ", key {:?}", String::from_utf8_lossy(key))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}
