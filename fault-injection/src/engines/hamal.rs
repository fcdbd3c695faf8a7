//! hamal through its B-tree interface, set up as small as it allows: every scenario of a few dozen operations meets splits,
//! evictions, segment switches and checkpoints.
//!
//! One thread does everything. There are no background threads and nothing looks at a clock, so that a scenario does the same
//! input/output each time. A transaction that would have to wait for another one waits for its own thread, which the engine
//! notices: the operation is refused.
use crate::engine::{Applied, Config, Engine, Failure, FailureKind, Opened, Session};
use crate::explore::coverage;
use crate::model::{Contents, Rows, number};
use crate::op::{Ack, Op, TreeNo, Txn, key_bytes, tree_name, value_bytes};
use crate::oracles::ledger::Named;
use crate::oracles::watch::HamalWatch;
use crate::oracles::{reference, replay};
use crate::sim::{SimDisk, Watch};
use hamal::disk::Disk;
use hamal::{
    Builder, CommitTicket, Database, Durability, Error, ErrorKind, Savepoint, TornPages, Tracer, Verdict,
    WriteTxn,
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

/// The options for `config`, raised to what the engine demands: to the minima above.
pub(crate) fn builder(config: &Config, id: [u8; 16], tracer: Option<&Arc<dyn Tracer>>) -> Builder {
    let page = u64::from(config.page_size);
    let frames = config.frames.max(MIN_FRAMES);
    let segment = u64::from(config.segment_bytes.max(MIN_SEGMENT_BYTES)).next_multiple_of(4096);
    let ring = min_ring_bytes(config);
    let limit = (8 * segment).max(4 * ring).max(MIN_LOG_PAGES * page).max(2 * MIN_CHECKPOINT_LOG_BYTES);
    let torn = if config.images { TornPages::Images { compress: true } } else { TornPages::AtomicWrites };
    let builder = Database::builder()
        .page_size(config.page_size as usize)
        .cache_bytes(frames as usize * config.page_size as usize)
        .log_segment_bytes(segment)
        .log_ring_bytes(ring as usize)
        .log_limit_bytes(limit)
        .log_pad(config.pad as usize)
        .checkpoint_log_bytes(MIN_CHECKPOINT_LOG_BYTES)
        .torn_pages(torn)
        .background(false)
        .recovery_threads(1)
        .lock_timeout(Duration::ZERO)
        .version_budget_bytes(VERSION_BUDGET)
        .database_id(id);
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
        | InvalidArgument => FailureKind::Refused,
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

fn opened_of(db: &Database) -> Opened {
    let report = db.recovery_report();
    Opened {
        clean: report.clean,
        verdict: verdict_name(&report.verdict).to_owned(),
        log_bytes: db.stats().log_allocated_bytes,
        losers: report.losers.len() as u64,
    }
}

/// An open transaction.
struct Open {
    tx: WriteTxn,
    savepoints: Vec<(u8, Savepoint)>,
}

/// What the two levels of the engine have in common: transactions, and operations on the whole.
pub(crate) struct Base {
    // Dropped before the database.
    open: BTreeMap<Txn, Open>,
    db: Option<Database>,
    /// Early commits that may not be durable yet.
    early: Vec<CommitTicket>,
    builder: Builder,
    disk: Arc<dyn Disk>,
    opened: Opened,
}

impl Base {
    /// Makes a database.
    pub(crate) fn create(builder: Builder, disk: Arc<dyn Disk>) -> Result<Base, Failure> {
        let db = builder.create_on(disk.clone()).map_err(|e| failure(&e))?;
        Ok(Base::of(db, builder, disk))
    }
    /// Opens it, or makes it if a creation was cut short.
    pub(crate) fn open(builder: Builder, disk: Arc<dyn Disk>) -> Result<Base, Failure> {
        let db = builder.open_or_create_on(disk.clone()).map_err(|e| failure(&e))?;
        Ok(Base::of(db, builder, disk))
    }
    fn of(db: Database, builder: Builder, disk: Arc<dyn Disk>) -> Base {
        let opened = opened_of(&db);
        Base { open: BTreeMap::new(), db: Some(db), early: Vec::new(), builder, disk, opened }
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
                self.open.insert(txn, Open { tx, savepoints: Vec::new() });
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
                    Ack::Durable => self.after_durable(&ticket)?,
                    Ack::Early => self.early.push(ticket),
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
                if !self.early.iter().all(CommitTicket::is_durable) {
                    return Err(bug(
                        "Internal: a step of background work did not make an early commit durable",
                    ));
                }
            }
            Op::Reopen => self.reopen()?,
            Op::CreateTree { .. }
            | Op::DropTree { .. }
            | Op::Put { .. }
            | Op::Delete { .. }
            | Op::Add { .. } => {
                return Ok(None);
            }
        }
        Ok(Some(self.done()))
    }

    /// After a durable commit, which makes earlier ones durable too. One case is not the engine's promise but made true
    /// here: a transaction that wrote nothing has no record, and its commit waits only for what it could see.
    fn after_durable(&self, commit: &CommitTicket) -> Result<(), Failure> {
        if !commit.is_durable() {
            return Err(bug("Internal: a durable commit returned before it was durable"));
        }
        for early in self.early.iter().filter(|t| !t.is_durable()) {
            if early.lsn() <= commit.lsn() {
                return Err(bug("Internal: an early commit is not durable, and a later one is"));
            }
            early.wait().map_err(|e| failure(&e))?;
        }
        Ok(())
    }

    /// The operation was done. Whether everything is durable is what the tickets say.
    pub(crate) fn done(&mut self) -> Applied {
        self.early.retain(|t| !t.is_durable());
        if self.early.is_empty() { Applied::AllDurable } else { Applied::Done }
    }

    fn reopen(&mut self) -> Result<(), Failure> {
        while let Some((_, open)) = self.open.pop_first() {
            open.tx.rollback().map_err(|e| failure(&e))?;
        }
        self.db()?;
        if let Some(db) = self.db.take() {
            db.close().map_err(|e| failure(&e))?;
        }
        self.early.clear();
        let db = self.builder.open_on(self.disk.clone()).map_err(|e| failure(&e))?;
        self.opened = opened_of(&db);
        let report = db.recovery_report().to_string();
        self.db = Some(db);
        if self.opened.clean {
            return Ok(());
        }
        Err(bug(format!("Internal: the open after a proper close had something to recover: {report}")))
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
        Ok(Box::new(Trees(Base::create(builder(config, self.id, self.tracer.as_ref()), disk)?)))
    }
    fn open(&self, disk: Arc<dyn Disk>, config: &Config) -> Result<Box<dyn Session>, Failure> {
        Ok(Box::new(Trees(Base::open(builder(config, self.id, self.tracer.as_ref()), disk)?)))
    }
    fn stranger(&self) -> Option<Box<dyn Engine>> {
        Some(Box::new(Hamal { id: STRANGERS_ID, ..self.clone() }))
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
            Op::DropTree { tree, .. } => tx.drop_tree(&tree_name(tree))?,
            Op::Put { tree, key, len, fill, .. } => {
                tx.tree(&tree_name(tree))?.put(key_bytes(key), value_bytes(len, fill))?;
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

/// The number of a tree, from its name.
fn tree_number(name: &str) -> Option<TreeNo> {
    let n = name.strip_prefix('t')?.parse().ok()?;
    (tree_name(n) == name).then_some(n)
}

impl Session for Trees {
    fn apply(&mut self, op: &Op) -> Result<Applied, Failure> {
        if let Some(applied) = self.0.apply(op)? {
            return Ok(applied);
        }
        self.change(op).map_err(|e| failure(&e))??;
        Ok(self.0.done())
    }

    fn contents(&mut self) -> Result<Contents, Failure> {
        let snapshot = self.0.db()?.begin_read().map_err(|e| failure(&e))?;
        let mut contents = Contents::default();
        for name in snapshot.trees().map_err(|e| failure(&e))? {
            let Some(number) = tree_number(&name) else {
                return Err(bug(format!("Internal: there is a tree {name:?} that nobody made")));
            };
            let mut rows = Rows::new();
            for row in snapshot.tree(&name).map_err(|e| failure(&e))?.iter() {
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

    fn verify(&mut self) -> Result<Vec<String>, Failure> {
        Ok(self.0.findings()?.iter().map(sentence).collect())
    }

    fn opened(&self) -> Opened {
        self.0.opened()
    }
}
