//! What recovery met, counted: a ledger of named events, and a matrix of crash points.
//!
//! A harness that crashes an engine a million times may still never have met a torn tail, or a loser that is undone for the
//! second time. The [`Ledger`] listens to the engine's events and counts what matters, by name; the [`Matrix`] counts crash
//! points by where they fell. A zero in either is a hole in the scenarios.
use crate::sim::{Act, Site};
use hamal::trace::{Event, ForceReason, Phase, SkipReason, Tracer, WriteReason};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! names {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// A named event.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(usize)]
        pub enum Named {
            $($(#[$doc])* $variant,)*
        }
        /// The names, in the order of [`Named`].
        const NAMES: &[&str] = &[$($name,)*];
        const ALL: &[Named] = &[$(Named::$variant,)*];
    };
}

names! {
    /// The log ended with a whole group.
    EndClean = "log end: clean",
    /// A group was cut off.
    EndTorn = "log end: torn tail",
    /// A checkpoint's begin record has no end record.
    BeginWithoutEnd = "checkpoint begun, no end record",
    /// A complete checkpoint is in the log that the control file does not name: its write was lost, or its slot is torn.
    ControlBehind = "checkpoint complete, control file behind",
    /// A page came into the dirty page table from the checkpoint's own table.
    DptFromTable = "dirty page from the checkpoint's table",
    /// A page came into it by a record.
    DptFromRecord = "dirty page from a record",
    /// A transaction came into the table from the checkpoint's own.
    AttFromTable = "transaction from the checkpoint's table",
    /// A transaction of the table had committed.
    AttCommit = "transaction ended by commit",
    /// A transaction of the table had ended its rollback.
    AttEnd = "transaction ended by end",
    /// Redo applied a record.
    RedoApplied = "redo: applied",
    /// See [`SkipReason`].
    SkipNotInDpt = "redo: skipped, page not in table",
    /// See [`SkipReason`].
    SkipBelowRec = "redo: skipped, below recLSN",
    /// See [`SkipReason`].
    SkipPageLsn = "redo: skipped, by pageLSN",
    /// See [`SkipReason`].
    SkipOlder = "redo: skipped, older than image",
    /// See [`SkipReason`].
    SkipFreed = "redo: skipped, page freed",
    /// A page was rebuilt from a whole-page record.
    Rebuilt = "redo: page rebuilt from a whole-page record",
    /// A page whose stored version was torn was rebuilt. The engine does not look at it: told by the harness
    /// ([`Ledger::note`], `Facts::torn_pages` of the reference recovery).
    OverTorn = "redo: page rebuilt over a torn one",
    /// Analysis found a loser.
    Loser = "loser",
    /// More than one.
    SeveralLosers = "several losers",
    /// A loser of which something had been undone before the crash: by a rollback to a savepoint, or by half a rollback.
    PartlyUndone = "loser, undone in part before",
    /// The same loser in a second restart.
    LoserAgain = "loser, met again after a crash in recovery",
    /// Undo chose among losers.
    UndoPick = "undo: picked",
    /// An update was compensated.
    UndoClr = "undo: compensated",
    /// A record of many rows was undone in part, by a CLR that leaves some.
    UndoPart = "undo: record undone in part",
    /// A record of many rows of which a part had been undone before the crash: undo went on there.
    UndoContinued = "undo: went on within a record",
    /// The same in normal work.
    RolledBackInParts = "rollback: record undone in part",
    /// A CLR was followed, not undone.
    FollowClr = "undo: CLR followed",
    /// A structure record was followed: an allocation, a split.
    FollowStructure = "undo: structure record followed",
    /// The abort record of a rollback that a crash cut short was followed.
    FollowAbort = "undo: abort followed",
    /// A loser ended.
    UndoEnd = "undo: loser ended",
    /// An image was logged in recovery.
    ImageInRecovery = "recovery: image logged",
    /// A page was written in recovery.
    WriteInRecovery = "recovery: page written",
    /// A checkpoint was taken in recovery.
    CheckpointInRecovery = "recovery: checkpoint",
    /// A restart began from an image that a crash in another restart left: told by [`Ledger::new_state`].
    Restarted = "recovery: begun anew after a crash in it",
    /// A segment was made.
    SegmentCreated = "log segment created",
    /// A segment was used again.
    SegmentRecycled = "log segment recycled",
    /// Segments were released.
    Truncated = "log truncated",
    /// The log was forced for a page.
    ForcedForPage = "log forced by the WAL rule",
    /// An image was logged in normal work.
    Image = "image logged",
    /// A page was written because its frame was wanted. In normal work with one thread that cannot be: the dirty cap leaves
    /// clean frames (`BUF-CAP`). Redo knows no cap.
    WrittenForRoom = "page written to make room",
    /// A page left the cache.
    Evicted = "page evicted",
    /// A rollback to a savepoint.
    ToSavepoint = "rollback to a savepoint",
    /// A whole rollback.
    RolledBack = "rollback",
    /// The end of a nested top action was followed. No operation of the trees uses one: only access methods of the caller do.
    FollowNested = "undo: nested top action followed",
}

/// Names that a run may leave at zero, and why.
pub const OPTIONAL: &[(Named, &str)] = &[
    (Named::FollowNested, "only access methods of the caller use nested top actions"),
    (
        Named::BeginWithoutEnd,
        "with one thread a checkpoint's records reach the log in one group, all or none",
    ),
    (
        Named::SkipPageLsn,
        "only without images: with them a page that was written has a whole-page record in reach of redo",
    ),
];

/// What has to be remembered between events.
#[derive(Debug, Default)]
struct Memory {
    phase: Option<Phase>,
    /// The checkpoint that analysis started from.
    from: u64,
    /// Begin records after it whose end record was not seen yet.
    begun: usize,
    /// The kind of the record that analysis looked at last.
    last_kind: &'static str,
    /// Kinds of the records that undo may follow, by LSN.
    kinds: HashMap<u64, &'static str>,
    /// Where undo goes on.
    picked: u64,
    /// lastLSN and undoNextLSN of live transactions.
    live: HashMap<u64, (u64, u64)>,
    /// Losers of earlier restarts of the same crash state.
    losers: HashSet<u64>,
}

/// Counts named events. One ledger may listen to many engines, one after another.
#[derive(Debug)]
pub struct Ledger {
    counts: Vec<AtomicU64>,
    memory: Mutex<Memory>,
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger { counts: NAMES.iter().map(|_| AtomicU64::new(0)).collect(), memory: Mutex::default() }
    }
}

impl Ledger {
    /// An empty ledger.
    pub fn new() -> Arc<Ledger> {
        Arc::default()
    }
    /// Counts `n` events that only the harness can see.
    pub fn note(&self, what: Named, n: u64) {
        self.counts[what as usize].fetch_add(n, Relaxed);
    }
    /// The engine is about to open a crash state. Depth 0: what a crash of normal work left; above: of a recovery of the
    /// state before.
    pub fn new_state(&self, depth: u32) {
        let mut m = self.memory.lock();
        let losers = std::mem::take(&mut m.losers);
        *m = Memory::default();
        if depth > 0 {
            m.losers = losers;
            self.count(Named::Restarted);
        }
    }
    /// All names with their counts.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        NAMES.iter().zip(&self.counts).map(|(name, n)| (*name, n.load(Relaxed))).collect()
    }
    /// The names that must occur and have not.
    pub fn zeros(&self) -> Vec<&'static str> {
        let must = ALL.iter().filter(|n| OPTIONAL.iter().all(|(o, _)| o != *n));
        must.filter(|n| self.counts[**n as usize].load(Relaxed) == 0).map(|n| NAMES[*n as usize]).collect()
    }
    /// How many names must occur.
    pub fn demanded(&self) -> usize {
        ALL.len() - OPTIONAL.len()
    }
    /// Adds the counts of another one.
    pub fn merge(&self, other: &Ledger) {
        for (a, b) in self.counts.iter().zip(&other.counts) {
            a.fetch_add(b.load(Relaxed), Relaxed);
        }
    }

    fn count(&self, what: Named) {
        self.note(what, 1);
    }
}

impl Memory {
    fn recovers(&self) -> bool {
        self.phase.is_some_and(|p| p != Phase::Run)
    }
}

impl Tracer for Ledger {
    fn event(&self, event: &Event<'_>) {
        use Named::*;
        let mut m = self.memory.lock();
        match *event {
            Event::PhaseBegin { phase, from } => {
                if phase == Phase::Analysis {
                    let losers = std::mem::take(&mut m.losers);
                    *m = Memory { losers, from: from.0, ..Memory::default() };
                }
                m.phase = Some(phase);
            }
            Event::LogEnd { verdict, .. } => self.count(if verdict == "clean" { EndClean } else { EndTorn }),
            Event::AnalysisRecord { lsn, kind, .. } => {
                m.last_kind = kind;
                match kind {
                    "begin_checkpoint" if lsn.0 > m.from => m.begun += 1,
                    "end_checkpoint" if m.begun > 0 => {
                        m.begun -= 1;
                        self.count(ControlBehind);
                    }
                    "clr" | "dummy_clr" | "structure" | "abort" => drop(m.kinds.insert(lsn.0, kind)),
                    _ => {}
                }
            }
            Event::AttSet { txn, last, undo_next } => {
                if m.last_kind == "end_checkpoint" {
                    self.count(AttFromTable);
                }
                m.live.insert(txn.0, (last.0, undo_next.0));
            }
            Event::AttDelete { txn, why } => {
                m.live.remove(&txn.0);
                self.count(if why == "commit" { AttCommit } else { AttEnd });
            }
            Event::DptAdd { .. } => {
                self.count(if m.last_kind == "end_checkpoint" { DptFromTable } else { DptFromRecord });
            }
            Event::AnalysisEnd { losers, .. } => {
                self.note(BeginWithoutEnd, m.begun as u64);
                self.note(Loser, losers.len() as u64);
                if losers.len() > 1 {
                    self.count(SeveralLosers);
                }
                for txn in losers {
                    let of_clr = |last: &u64| m.kinds.get(last) == Some(&"clr");
                    if m.live.get(&txn.0).is_some_and(|(last, next)| next < last || of_clr(last)) {
                        self.count(PartlyUndone);
                    }
                    if !m.losers.insert(txn.0) {
                        self.count(LoserAgain);
                    }
                }
            }
            Event::RedoApply { .. } => self.count(RedoApplied),
            Event::RedoSkip { why, .. } => self.count(match why {
                SkipReason::PageNotInDpt => SkipNotInDpt,
                SkipReason::LsnBelowRecLsn => SkipBelowRec,
                SkipReason::PageLsnNotBelowLsn => SkipPageLsn,
                SkipReason::OlderThanImage => SkipOlder,
                SkipReason::PageFreed => SkipFreed,
            }),
            Event::RedoImage { .. } => self.count(Rebuilt),
            Event::UndoPick { lsn, .. } => {
                self.count(UndoPick);
                m.picked = lsn.0;
            }
            // By a CLR that was there before the crash.
            Event::UndoUpdate { lsn, .. }
                if m.recovers() && lsn.0 != m.picked && m.kinds.contains_key(&m.picked) =>
            {
                self.count(UndoContinued);
            }
            Event::UndoClr { left, .. } if m.recovers() => {
                self.count(UndoClr);
                if left > 0 {
                    self.count(UndoPart);
                }
            }
            Event::UndoClr { left, .. } if left > 0 => self.count(RolledBackInParts),
            Event::UndoFollow { lsn, .. } if m.recovers() => match m.kinds.get(&lsn.0) {
                Some(&"clr") => self.count(FollowClr),
                Some(&"dummy_clr") => self.count(FollowNested),
                Some(&"abort") => self.count(FollowAbort),
                Some(_) => self.count(FollowStructure),
                // Below the redo point analysis has not seen it.
                None => {}
            },
            Event::UndoEnd { .. } => self.count(UndoEnd),
            Event::PageImage { .. } => self.count(if m.recovers() { ImageInRecovery } else { Image }),
            Event::PageWrite { why, .. } => {
                if m.recovers() {
                    self.count(WriteInRecovery);
                }
                if why == WriteReason::Evict {
                    self.count(WrittenForRoom);
                }
            }
            Event::PageEvict { .. } => self.count(Evicted),
            Event::CheckpointEnd { .. } if m.recovers() => self.count(CheckpointInRecovery),
            Event::LogSegment { recycled, .. } => {
                self.count(if recycled { SegmentRecycled } else { SegmentCreated })
            }
            Event::LogTruncate { .. } => self.count(Truncated),
            Event::LogForce { why: ForceReason::WalRule, .. } => self.count(ForcedForPage),
            Event::TxnRollback { to, .. } => {
                self.count(if to.is_null() { RolledBack } else { ToSavepoint });
            }
            Event::TxnBegin { .. } => m.phase = Some(Phase::Run),
            _ => {}
        }
    }
}

/// Where a crash fell, seen from the sync that would have made the pending writes durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Position {
    /// Nothing of the change had been done.
    Before,
    /// The change was done in part, or is pending: some of it may be lost.
    Within,
    /// A sync had made it durable, and nothing else had happened.
    After,
}

impl Position {
    fn name(self) -> &'static str {
        match self {
            Position::Before => "before",
            Position::Within => "within",
            Position::After => "after",
        }
    }
}

/// A cell of the [`Matrix`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cell {
    /// Where the engine was.
    pub site: Site,
    /// The kind of the record that it had appended to its log last (`"none"` without one).
    pub kind: &'static str,
    /// Before, within or after.
    pub position: Position,
    /// 0: a crash of normal work; n: of the n-th recovery.
    pub depth: u32,
}

/// Crash points by call site, record kind, position and depth. Depths of 2 and more are one.
#[derive(Clone, Debug, Default)]
pub struct Matrix {
    cells: BTreeMap<Cell, u64>,
}

/// Depths that are told apart.
const DEEPEST: u32 = 2;

/// Sites and the kinds of records that may have been appended last there, in normal work and in recovery, of the operations of
/// [`crate::op`] on a database with images. Every pair occurs with every position.
const OCCUR: &[(&str, Act, &[&str], &[&str])] = &[
    (
        "wal",
        Act::Write,
        &["commit", "image", "update", "structure", "end", "end_checkpoint"],
        &["end_checkpoint"],
    ),
    (
        "wal",
        Act::Sync,
        &["commit", "image", "update", "structure", "end", "end_checkpoint"],
        &["end_checkpoint"],
    ),
    ("data", Act::Write, &["image"], &[]),
    ("data", Act::Sync, &["begin_checkpoint"], &["begin_checkpoint"]),
    ("control", Act::Write, &["end_checkpoint"], &["end_checkpoint"]),
    ("control", Act::Sync, &["end_checkpoint"], &["end_checkpoint"]),
];

fn act_name(act: Act) -> &'static str {
    match act {
        Act::Write => "write",
        Act::Sync => "sync",
        Act::SetLen => "set length",
        Act::Create => "create",
        Act::Rename => "rename",
        Act::Remove => "remove",
        Act::MakeDir => "make directory",
        Act::SyncDir => "sync directory",
        Act::Read => "read",
    }
}

impl Matrix {
    /// An empty one.
    pub fn new() -> Matrix {
        Matrix::default()
    }
    /// A crash fell here.
    pub fn note(&mut self, site: Site, kind: &'static str, position: Position, depth: u32) {
        let cell = Cell { site, kind, position, depth: depth.min(DEEPEST) };
        *self.cells.entry(cell).or_default() += 1;
    }
    /// Adds the counts of another one.
    pub fn merge(&mut self, other: &Matrix) {
        for (cell, n) in &other.cells {
            *self.cells.entry(*cell).or_default() += n;
        }
    }
    /// The counts.
    pub fn counts(&self) -> impl Iterator<Item = (&Cell, u64)> {
        self.cells.iter().map(|(c, n)| (c, *n))
    }
    /// The cells that must occur in a run whose recoveries are crashed to `depth`.
    pub fn expected(depth: u32) -> Vec<Cell> {
        let mut cells = Vec::new();
        for &(role, act, work, recovery) in OCCUR {
            for depth in 0..=depth.min(DEEPEST) {
                let kinds = if depth == 0 { work } else { recovery };
                for &kind in kinds {
                    let at = |position| Cell { site: Site { role, act }, kind, position, depth };
                    cells.extend([Position::Before, Position::Within, Position::After].map(at));
                }
            }
        }
        cells
    }
    /// Those of `expected` that have not occurred.
    pub fn zeros(&self, expected: &[Cell]) -> Vec<Cell> {
        expected.iter().filter(|c| !self.cells.contains_key(c)).copied().collect()
    }

    /// A table: a line for each site and kind, columns by position and depth.
    pub fn to_table(&self) -> String {
        let mut rows: BTreeMap<(Site, &str), [[u64; 3]; 3]> = BTreeMap::new();
        for (c, n) in &self.cells {
            rows.entry((c.site, c.kind)).or_default()[c.depth as usize][c.position as usize] += n;
        }
        let mut out = format!("{:<26} {:<17}", "call site", "last record");
        for depth in ["depth 0", "depth 1", "depth 2+"] {
            let _ = write!(out, " {:>32}", format!("{depth}: before, within, after"));
        }
        out.push('\n');
        for ((site, kind), counts) in rows {
            let _ = write!(out, "{:<26} {kind:<17}", format!("{} {}", site.role, act_name(site.act)));
            for [before, within, after] in counts {
                let _ = write!(out, " {before:>10} {within:>10} {after:>10}");
            }
            out.push('\n');
        }
        out
    }

    /// A JSON array with one object for each cell that is not zero.
    pub fn to_json(&self) -> String {
        let cell = |(c, n): (&Cell, &u64)| {
            let (role, act, kind) = (c.site.role, act_name(c.site.act), c.kind);
            let (position, depth) = (c.position.name(), c.depth);
            format!(
                r#"{{"role":"{role}","act":"{act}","kind":"{kind}","position":"{position}","depth":{depth},"count":{n}}}"#
            )
        };
        format!("[{}]", self.cells.iter().map(cell).collect::<Vec<_>>().join(","))
    }
}

impl std::fmt::Display for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (role, act) = (self.site.role, act_name(self.site.act));
        write!(f, "{role} {act}, last record {}, {}, depth {}", self.kind, self.position.name(), self.depth)
    }
}
