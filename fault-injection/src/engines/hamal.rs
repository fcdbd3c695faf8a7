//! hamal through its B-tree interface, set up as small as it allows: every scenario of a few dozen operations meets splits,
//! evictions, segment switches and checkpoints.
//!
//! One thread does everything. There are no background threads and nothing looks at a clock, so that a scenario does the same
//! input/output each time. A transaction that would have to wait for another one waits for its own thread, which the engine
//! notices: the operation is refused.
use crate::engine::{Applied, Config, Engine, Failure, FailureKind, Opened, Reader, Session};
use crate::explore::coverage;
use crate::model::{Contents, Rows, number};
use crate::op::{Ack, Op, TreeNo, Txn, key_bytes, tree_name, value_bytes};
use crate::oracles::ledger::Named;
use crate::oracles::watch::HamalWatch;
use crate::oracles::{reference, replay};
use crate::sim::{SimDisk, Watch};
use hamal::disk::Disk;
use hamal::{
    Between, Builder, CommitTicket, Database, Durability, Error, ErrorKind, ReadTxn, Savepoint, Stats,
    SyncMethod, TornPages, Tracer, Verdict, WriteTxn,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// The least number of frames that the engine takes.
pub const MIN_FRAMES: u32 = 24;
/// Bytes of a log file: twice the least that the engine takes, for then there are fewer files to open.
pub const MIN_SEGMENT_BYTES: u32 = 16 << 10;
/// The least bytes of log after which a checkpoint is due.
pub const MIN_CHECKPOINT_LOG_BYTES: u64 = 16 << 10;
/// The least pages that the log's limit must be worth.
const MIN_LOG_PAGES: u64 = 64;
/// Memory for old versions of rows: more than a scenario needs.
const VERSION_BUDGET: usize = 4 << 20;

/// Memory for former versions of rows in this set-up.
fn version_budget(config: &Config) -> usize {
    if config.version_bytes == 0 { VERSION_BUDGET } else { config.version_bytes.max(64 << 10) as usize }
}

/// The same for every run, so that two runs write the same bytes.
pub(crate) const DATABASE_ID: [u8; 16] = [7; 16];
/// That of a stranger's databases.
pub(crate) const STRANGERS_ID: [u8; 16] = [8; 16];

/// The bytes of the log's ring: the least that the engine takes for small pages, ample for others.
fn min_ring_bytes(config: &Config) -> u64 {
    match (config.page_size, config.pad) {
        (4096, ..4096) => 32 << 10,
        (4096 | 8192, _) => 64 << 10,
        (page, _) => (16 * (3 * u64::from(page) + 4096)).next_power_of_two(),
    }
}

fn ring_bytes(config: &Config) -> u64 {
    min_ring_bytes(config).max(u64::from(config.ring_bytes))
}

fn segment_bytes(config: &Config) -> u64 {
    u64::from(config.segment_bytes.max(MIN_SEGMENT_BYTES)).next_multiple_of(4096)
}

fn log_limit_bytes(config: &Config) -> u64 {
    (8 * segment_bytes(config))
        .max(4 * ring_bytes(config))
        .max(MIN_LOG_PAGES * u64::from(config.page_size))
        .max(2 * MIN_CHECKPOINT_LOG_BYTES)
        .max(u64::from(config.log_bytes))
}

/// The options for `config`, raised to what the engine demands: to the minima above.
pub(crate) fn builder(config: &Config, id: [u8; 16], tracer: Option<&Arc<dyn Tracer>>) -> Builder {
    let frames = config.frames.max(MIN_FRAMES);
    let segment = segment_bytes(config);
    let ring = ring_bytes(config);
    let torn = if config.images { TornPages::Images { compress: true } } else { TornPages::AtomicWrites };
    let builder = Database::builder()
        .page_size(config.page_size as usize)
        .cache_bytes(frames as usize * config.page_size as usize)
        .log_segment_bytes(segment)
        .log_ring_bytes(ring as usize)
        .log_limit_bytes(log_limit_bytes(config))
        .log_pad(config.pad as usize)
        .checkpoint_log_bytes(MIN_CHECKPOINT_LOG_BYTES)
        .torn_pages(torn)
        .background(false)
        .recovery_threads(1)
        .lock_timeout(Duration::from_millis(config.patience.into()))
        .version_budget_bytes(version_budget(config))
        .database_id(id);
    let builder = if config.dsync { builder.sync_method(SyncMethod::DirectDsync) } else { builder };
    match tracer {
        Some(tracer) => builder.tracer(tracer.clone()),
        None => builder,
    }
}

/// What an error of hamal means to the harness. The text begins with the name of the error's kind and has the causes too.
pub fn failure(e: &Error) -> Failure {
    Failure::new(meaning(e), format!("{e:?}"))
}

fn meaning(e: &Error) -> FailureKind {
    use ErrorKind::*;
    match e.kind() {
        Conflict | Deadlock | LockTimeout | NotFound | AlreadyExists | TransactionEnded | VersionBudget
        | InvalidArgument | AlreadyOpen => FailureKind::Refused,
        NoSpace | LogFull => FailureKind::NoSpace,
        Io | PageUnreadable => FailureKind::Io,
        // An engine that stopped because it found a bug in itself is not merely dead.
        Poisoned | OutcomeUnknown if causes(e).any(|c| matches!(c.kind(), Internal | ResourceManager)) => {
            FailureKind::Bug
        }
        Poisoned | OutcomeUnknown => FailureKind::Dead,
        PageCorrupt | LogCorrupt | ControlCorrupt | LogBehindPages | WrongDatabase | NotADatabase
        | UnsupportedVersion | NeedsRecovery | StalePage => FailureKind::Damage,
        _ => FailureKind::Bug,
    }
}

fn causes(e: &Error) -> impl Iterator<Item = &Error> {
    std::iter::successors(e.cause(), |c| c.cause())
}

fn verdict_name(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Clean => "clean",
        Verdict::TornTail { .. } => "torn tail",
        _ => "other",
    }
}

fn bug(text: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Bug, text)
}

fn opened_of(db: &Database, stats: &Stats) -> Opened {
    let report = db.recovery_report();
    Opened {
        clean: report.clean,
        verdict: verdict_name(&report.verdict).to_owned(),
        log_bytes: stats.log_allocated_bytes,
        losers: report.losers.len() as u64,
    }
}

/// An open transaction.
struct Open {
    tx: WriteTxn,
    savepoints: Vec<(u8, Savepoint)>,
    /// Commits that had been acknowledged early when it began.
    early: u64,
}

/// What must hold of the engine's own account of itself after each operation.
struct Limits {
    /// Pages that may be dirty, and how many were (recovery may leave more).
    dirty: u64,
    dirty_before: u64,
    /// Bytes of former versions.
    versions: u64,
    segment: u64,
    /// From where on the last two checkpoints need the log, and the redo point of the last.
    keep: [u64; 2],
    redo: u64,
    /// The oldest record of a live transaction before the operation.
    oldest: u64,
}

impl Limits {
    fn new(config: &Config, stats: &Stats) -> Limits {
        let segment = segment_bytes(config);
        // So many that the log has room for the images of all, in a quarter of its limit.
        let by_frames = stats.cache_frames - stats.cache_frames / 8;
        let images = log_limit_bytes(config) / 4 / (u64::from(config.page_size) + 256);
        Limits {
            dirty: if config.images { by_frames.min(images.max(16)) } else { by_frames },
            dirty_before: stats.cache_dirty,
            versions: version_budget(config) as u64,
            segment,
            keep: [0, 0],
            redo: stats.redo_point,
            oldest: u64::MAX,
        }
    }

    /// What is wrong now, in a sentence.
    fn broken(&mut self, stats: &hamal::Stats) -> Option<String> {
        if stats.redo_point != self.redo {
            self.redo = stats.redo_point;
            self.keep = [self.keep[1], self.redo.min(self.oldest)];
        }
        self.oldest = if stats.oldest_writer == 0 { u64::MAX } else { stats.oldest_writer };
        // The log goes by whole segments; a transaction that has ended since counts too.
        let needed = self.keep[0].min(self.keep[1]).saturating_sub(4 * self.segment);
        let dirty = self.dirty.max(self.dirty_before);
        self.dirty_before = stats.cache_dirty;
        if stats.cache_dirty > dirty {
            return Some(format!(
                "{} pages are dirty, and {} may be (BUF-CAP)",
                stats.cache_dirty, self.dirty
            ));
        }
        if stats.version_bytes > self.versions {
            let used = stats.version_bytes;
            return Some(format!("former versions take {used} bytes of {} (TXN-VERSIONS)", self.versions));
        }
        (stats.log_oldest < needed).then(|| {
            format!(
                "the log is kept from {} on, and two checkpoints need it from {needed} on",
                stats.log_oldest
            )
        })
    }
}

/// What the two levels of the engine have in common: transactions, and operations on the whole.
pub(crate) struct Base {
    // Dropped before the database.
    open: BTreeMap<Txn, Open>,
    snapshots: BTreeMap<u8, ReadTxn>,
    db: Option<Database>,
    limits: Limits,
    /// Early commits that may not be durable yet.
    early: Vec<(u64, CommitTicket)>,
    /// How many there ever were.
    early_ever: u64,
    config: Config,
    builder: Builder,
    disk: Arc<dyn Disk>,
    opened: Opened,
}

impl Base {
    /// Makes a database.
    pub(crate) fn create(config: &Config, builder: Builder, disk: Arc<dyn Disk>) -> Result<Base, Failure> {
        let db = builder.create_on(disk.clone()).map_err(|e| failure(&e))?;
        Ok(Base::of(config, db, builder, disk))
    }
    /// Opens it, or makes it if a creation was cut short.
    pub(crate) fn open(config: &Config, builder: Builder, disk: Arc<dyn Disk>) -> Result<Base, Failure> {
        let db = builder.open_or_create_on(disk.clone()).map_err(|e| failure(&e))?;
        Ok(Base::of(config, db, builder, disk))
    }
    fn of(config: &Config, db: Database, builder: Builder, disk: Arc<dyn Disk>) -> Base {
        let stats = db.stats();
        Base {
            open: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            opened: opened_of(&db, &stats),
            limits: Limits::new(config, &stats),
            db: Some(db),
            early: Vec::new(),
            early_ever: 0,
            config: config.clone(),
            builder,
            disk,
        }
    }

    /// The database.
    pub(crate) fn db(&self) -> Result<&Database, Failure> {
        self.db
            .as_ref()
            .ok_or_else(|| Failure::new(FailureKind::Dead, "Closed: the database could not be opened again"))
    }
    /// The transaction `txn`.
    pub(crate) fn txn(&self, txn: Txn) -> Result<&WriteTxn, Failure> {
        self.open.get(&txn).map(|o| &o.tx).ok_or_else(|| not_open(txn))
    }
    /// What the last open found.
    pub(crate) fn opened(&self) -> Opened {
        self.opened.clone()
    }

    /// Obeys what does not look into trees; `None` if the operation does.
    pub(crate) fn apply(&mut self, op: &Op) -> Result<Option<Applied>, Failure> {
        match *op {
            Op::Begin { txn } => {
                if self.open.contains_key(&txn) {
                    return Err(Failure::new(
                        FailureKind::Refused,
                        format!("Open: transaction {txn} is open already"),
                    ));
                }
                let tx = self.db()?.begin_write().map_err(|e| failure(&e))?;
                self.open.insert(txn, Open { tx, savepoints: Vec::new(), early: self.early_ever });
            }
            Op::Savepoint { txn, name } => {
                let open = self.open.get_mut(&txn).ok_or_else(|| not_open(txn))?;
                let savepoint = open.tx.savepoint().map_err(|e| failure(&e))?;
                open.savepoints.push((name, savepoint));
            }
            Op::RollbackTo { txn, name } => {
                let open = self.open.get_mut(&txn).ok_or_else(|| not_open(txn))?;
                let Some(i) = open.savepoints.iter().rposition(|(n, _)| *n == name) else {
                    let text = format!("NotFound: transaction {txn} has no savepoint {name}");
                    return Err(Failure::new(FailureKind::Refused, text));
                };
                open.tx.rollback_to(&open.savepoints[i].1).map_err(|e| failure(&e))?;
                open.savepoints.truncate(i + 1);
            }
            Op::Commit { txn, ack } => {
                let open = self.open.remove(&txn).ok_or_else(|| not_open(txn))?;
                let durability = match ack {
                    Ack::Durable => Durability::Sync,
                    Ack::Early => Durability::Async,
                };
                let ticket = open.tx.commit_with(durability).map_err(|e| failure(&e))?;
                match ack {
                    Ack::Durable => self.after_durable(&ticket, open.early)?,
                    Ack::Early => {
                        self.early.push((self.early_ever, ticket));
                        self.early_ever += 1;
                    }
                }
            }
            // A transaction that is not open has been rolled back: by a commit that failed.
            Op::Rollback { txn } => {
                if let Some(open) = self.open.remove(&txn) {
                    open.tx.rollback().map_err(|e| failure(&e))?;
                }
            }
            Op::Checkpoint => {
                self.db()?.checkpoint().map_err(|e| failure(&e))?;
            }
            Op::Flush => self.db()?.flush().map_err(|e| failure(&e))?,
            Op::Step => {
                self.db()?.maintenance_step().map_err(|e| failure(&e))?;
                if !self.early.iter().all(|(_, t)| t.is_durable()) {
                    return Err(bug(
                        "Internal: a step of background work did not make an early commit durable",
                    ));
                }
            }
            Op::Compact => {
                self.db()?.compact(&mut |_| Ok(())).map_err(|e| failure(&e))?;
            }
            Op::Reopen => self.reopen()?,
            Op::CreateTree { .. }
            | Op::CreateFar { .. }
            | Op::DropTree { .. }
            | Op::Put { .. }
            | Op::PutWithin { .. }
            | Op::Load { .. }
            | Op::Delete { .. }
            | Op::Add { .. } => {
                return Ok(None);
            }
            Op::Snapshot { .. }
            | Op::Look { .. }
            | Op::Release { .. }
            | Op::Read { .. }
            | Op::Kill
            | Op::Rival
            | Op::Full
            | Op::Room
            | Op::Here => return Err(bug(format!("Internal: `{op}` is for the runner"))),
        }
        Ok(Some(self.done()))
    }

    /// After a durable commit, which makes earlier ones durable too. One case is not the engine's promise but made true
    /// here: a transaction that wrote nothing has no record, and its commit waits only for what it could see: the first `seen`
    /// early commits.
    fn after_durable(&self, commit: &CommitTicket, seen: u64) -> Result<(), Failure> {
        if !commit.is_durable() {
            return Err(bug("Internal: a durable commit returned before it was durable"));
        }
        for (number, early) in self.early.iter().filter(|(_, t)| !t.is_durable()) {
            if *number < seen {
                return Err(bug(
                    "Internal: a durable commit returned before what its transaction saw was durable",
                ));
            }
            if early.lsn() <= commit.lsn() {
                return Err(bug("Internal: an early commit is not durable, and a later one is"));
            }
            early.wait().map_err(|e| failure(&e))?;
        }
        Ok(())
    }

    /// The operation was done. Whether everything is durable is what the tickets say.
    pub(crate) fn done(&mut self) -> Applied {
        self.early.retain(|(_, t)| !t.is_durable());
        if self.early.is_empty() { Applied::AllDurable } else { Applied::Done }
    }

    fn reopen(&mut self) -> Result<(), Failure> {
        while let Some((_, open)) = self.open.pop_first() {
            open.tx.rollback().map_err(|e| failure(&e))?;
        }
        self.snapshots.clear();
        self.db()?;
        if let Some(db) = self.db.take() {
            db.close().map_err(|e| failure(&e))?;
        }
        self.early.clear();
        let db = self.builder.open_on(self.disk.clone()).map_err(|e| failure(&e))?;
        let stats = db.stats();
        self.opened = opened_of(&db, &stats);
        let report = db.recovery_report().to_string();
        self.limits = Limits::new(&self.config, &stats);
        self.db = Some(db);
        if self.opened.clean {
            return Ok(());
        }
        Err(bug(format!("Internal: the open after a proper close had something to recover: {report}")))
    }

    /// Opens a snapshot.
    pub(crate) fn snapshot(&mut self, name: u8) -> Result<u64, Failure> {
        let snapshot = self.db()?.begin_read().map_err(|e| failure(&e))?;
        self.snapshots.insert(name, snapshot);
        Ok(self.early.iter().filter(|(_, t)| !t.is_durable()).count() as u64)
    }
    /// Closes it.
    pub(crate) fn release(&mut self, name: u8) {
        self.snapshots.remove(&name);
    }
    /// See [`Session::limits`].
    pub(crate) fn broken_limit(&mut self) -> Option<String> {
        let stats = self.db.as_ref()?.stats();
        self.limits.broken(&stats)
    }

    /// What the engine's own verification finds.
    pub(crate) fn findings(&self) -> Result<Vec<hamal::Finding>, Failure> {
        Ok(self.db()?.verify(&mut |_, _| {}).map_err(|e| failure(&e))?.findings)
    }
}

fn not_open(txn: Txn) -> Failure {
    Failure::new(FailureKind::Refused, format!("TransactionEnded: transaction {txn} is not open"))
}

/// A finding as a sentence.
pub(crate) fn sentence(finding: &hamal::Finding) -> String {
    match finding.page {
        Some(page) => format!("page {page}: {}", finding.message),
        None => finding.message.clone(),
    }
}

/// hamal, with B-trees.
#[derive(Clone)]
pub struct Hamal {
    tracer: Option<Arc<dyn Tracer>>,
    id: [u8; 16],
}

impl Default for Hamal {
    fn default() -> Hamal {
        Hamal { tracer: None, id: DATABASE_ID }
    }
}

impl Hamal {
    /// Without a tracer.
    pub fn new() -> Hamal {
        Hamal::default()
    }
    /// Sends the events of every session to `tracer`.
    #[must_use]
    pub fn with_tracer(mut self, tracer: Arc<dyn Tracer>) -> Hamal {
        self.tracer = Some(tracer);
        self
    }
}

impl Engine for Hamal {
    fn name(&self) -> &str {
        "hamal"
    }
    fn create(&self, disk: Arc<dyn Disk>, config: &Config) -> Result<Box<dyn Session>, Failure> {
        Ok(Box::new(Trees(Base::create(config, builder(config, self.id, self.tracer.as_ref()), disk)?)))
    }
    fn open(&self, disk: Arc<dyn Disk>, config: &Config) -> Result<Box<dyn Session>, Failure> {
        Ok(Box::new(Trees(Base::open(config, builder(config, self.id, self.tracer.as_ref()), disk)?)))
    }
    fn stranger(&self) -> Option<Box<dyn Engine>> {
        Some(Box::new(Hamal { id: STRANGERS_ID, ..self.clone() }))
    }
    fn first_writer_wins(&self) -> bool {
        true
    }
    fn names_a_strangers_file(&self, role: &str) -> Option<&str> {
        matches!(role, "wal" | "control" | "versions").then_some("WrongDatabase")
    }
    fn watch(&self, config: &Config) -> Option<Box<dyn Watch>> {
        Some(HamalWatch::new(config))
    }
    fn audit(&self, disk: &SimDisk, config: &Config) -> Result<Vec<String>, Failure> {
        replay::audit(Arc::new(disk.clone()), config)
    }
    fn reference(&self, disk: &SimDisk, config: &Config) -> Option<Result<(Contents, String), Failure>> {
        let found = reference::recover_with_facts(Arc::new(disk.clone()), config);
        Some(found.map(|(contents, facts)| {
            coverage::note(Named::OverTorn, facts.torn_pages);
            (contents, if facts.torn_tail { "torn tail" } else { "clean" }.to_string())
        }))
    }
}

struct Trees(Base);

impl Trees {
    fn change(&self, op: &Op) -> hamal::Result<Result<(), Failure>> {
        let Some(txn) = op.txn() else { return Ok(Ok(())) };
        let tx = match self.0.txn(txn) {
            Ok(tx) => tx,
            Err(e) => return Ok(Err(e)),
        };
        match *op {
            Op::CreateTree { tree, .. } => {
                tx.create_tree(&tree_name(tree))?;
            }
            Op::CreateFar { tree, pages, .. } => {
                let Ok(db) = self.0.db() else { return Ok(Ok(())) };
                let engine = db.engine();
                let _held = engine.space().reserve(pages as usize)?;
                tx.create_tree(&tree_name(tree))?;
            }
            Op::DropTree { tree, .. } => tx.drop_tree(&tree_name(tree))?,
            Op::Put { tree, key, len, fill, .. } => {
                tx.tree(&tree_name(tree))?.put(key_bytes(key), value_bytes(len, fill))?;
            }
            Op::Load { tree, .. } => {
                let rows = op.rows().filter_map(|row| match row {
                    Op::Put { key, len, fill, .. } => Some((key_bytes(key), value_bytes(len, fill))),
                    _ => None,
                });
                tx.tree(&tree_name(tree))?.bulk_load(rows)?;
            }
            Op::Delete { tree, key, .. } => {
                tx.tree(&tree_name(tree))?.delete(key_bytes(key))?;
            }
            Op::Add { tree, key, delta, .. } => {
                let (tree, key) = (tx.tree(&tree_name(tree))?, key_bytes(key));
                let old = tree.get_with(&key, number)?.unwrap_or(0);
                tree.put(&key, old.wrapping_add(i64::from(delta)).to_le_bytes())?;
            }
            _ => {}
        }
        Ok(Ok(()))
    }
}

impl Trees {
    /// The change, between the begin record of a checkpoint and its tables. If it is refused the checkpoint is not completed.
    fn within_checkpoint(&self, op: &Op) -> hamal::Result<Result<(), Failure>> {
        let db = match self.0.db() {
            Ok(db) => db,
            Err(f) => return Ok(Err(f)),
        };
        let mut refused = Ok(());
        db.checkpoint_with(|between| {
            if between == Between::BeginAndTables {
                refused = self.change(op)?;
            }
            Ok(())
        })?;
        Ok(refused)
    }
}

/// The number of a tree, from its name.
fn tree_number(name: &str) -> Option<TreeNo> {
    let n = name.strip_prefix('t')?.parse().ok()?;
    (tree_name(n) == name).then_some(n)
}

fn through_snapshot(snapshot: &ReadTxn) -> Result<Contents, Failure> {
    let names = snapshot.trees().map_err(|e| failure(&e))?;
    everything(names, |name| snapshot.tree(name).map(|t| t.iter()))
}

/// Scans all trees.
fn everything(
    names: Vec<String>,
    scan: impl Fn(&str) -> hamal::Result<hamal::Range>,
) -> Result<Contents, Failure> {
    let mut contents = Contents::default();
    for name in names {
        let Some(number) = tree_number(&name) else {
            return Err(bug(format!("Internal: there is a tree {name:?} that nobody made")));
        };
        let mut rows = Rows::new();
        for row in scan(&name).map_err(|e| failure(&e))? {
            let (key, value) = row.map_err(|e| failure(&e))?;
            let key = key.into_vec();
            if rows.last_key_value().is_some_and(|(last, _)| *last >= key) {
                let key = String::from_utf8_lossy(&key);
                return Err(bug(format!("Internal: a scan of {name} came to {key} out of order")));
            }
            rows.insert(key, value.into_vec());
        }
        if contents.trees.insert(number, rows).is_some() {
            return Err(bug(format!("Internal: there are two trees {name:?}")));
        }
    }
    Ok(contents)
}

impl Session for Trees {
    fn apply(&mut self, op: &Op) -> Result<Applied, Failure> {
        if let Some(applied) = self.0.apply(op)? {
            return Ok(applied);
        }
        let changed = match op {
            Op::PutWithin { .. } => self.within_checkpoint(&op.change()),
            _ => self.change(op),
        };
        match changed {
            // There is one thread: whoever waits here waits for itself.
            Err(e) if e.kind() == ErrorKind::LockTimeout && self.0.config.patience > 0 => {
                return Err(bug(format!("Internal: a transaction waited for its own thread: {e}")));
            }
            done => done.map_err(|e| failure(&e))??,
        }
        Ok(self.0.done())
    }

    fn contents(&mut self) -> Result<Contents, Failure> {
        let snapshot = self.0.db()?.begin_read().map_err(|e| failure(&e))?;
        through_snapshot(&snapshot)
    }

    fn snapshot(&mut self, name: u8) -> Result<u64, Failure> {
        self.0.snapshot(name)
    }

    fn release(&mut self, name: u8) {
        self.0.release(name);
    }

    fn seen_by(&mut self, reader: Reader) -> Result<Contents, Failure> {
        match reader {
            Reader::Txn(txn) => {
                let tx = self.0.txn(txn)?;
                let names = tx.trees().map_err(|e| failure(&e))?;
                everything(names, |name| tx.tree(name).map(|t| t.iter()))
            }
            Reader::Snapshot(name) => match self.0.snapshots.get(&name) {
                Some(snapshot) => through_snapshot(snapshot),
                None => {
                    Err(Failure::new(FailureKind::Refused, format!("NotFound: there is no snapshot {name}")))
                }
            },
        }
    }

    fn limits(&mut self) -> Option<String> {
        self.0.broken_limit()
    }

    fn verify(&mut self) -> Result<Vec<String>, Failure> {
        Ok(self.0.findings()?.iter().map(sentence).collect())
    }

    fn opened(&self) -> Opened {
        self.0.opened()
    }
}
