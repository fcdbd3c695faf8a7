//! Runs a scenario on the real engine: a database on a disk in memory, without background threads.
//!
//! Every line is one call of the engine. A crash is a copy of the disk as it is at that moment, with the log that was never
//! forced left out; the engine that ran is thrown away. Recovery is an ordinary open of that copy. A recovery that stops is
//! stopped by the engine's own [`hamal::Builder::pause`].
mod crash;
mod expect;
mod keys;
mod pages;

use crate::recorder::{Action as Doing, Recorder};
use crate::scenario::{Action, Line, Scenario};
use crate::trace::Trace;
use hamal::disk::{Disk, MemDisk};
use hamal::mutants::{self, Mutant};
use hamal::raw::{Log, RecordKind, RecordSpec, Savepoint, Txn, TxnRef};
use hamal::trace::{ForceReason, WriteReason};
use hamal::{
    Between, Builder, Database, Durability, Error, ErrorKind, Lsn, RmId, TornPages, TxnId, WriteTxn,
};
use pages::{Change, PageStore, SlotPages};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

const PAGE_SIZE: usize = 4096;
const SEGMENT: usize = 16 << 10;

/// What a run brought.
#[derive(Debug)]
pub struct Outcome {
    /// The trace, up to where the run ended.
    pub trace: Trace,
    /// Why it ended early.
    pub failure: Option<Failure>,
    /// The disk as it is at the end: of the open database, or of the crash.
    pub disk: MemDisk,
}

/// A line that failed: the engine refused it, or an expectation does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Number of the line.
    pub line: usize,
    /// The line.
    pub text: String,
    /// What is wrong; for an expectation both sides.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}\n  {}", self.line, self.text, self.what)
    }
}

/// The resource manager of page mode, for tools that look at a database that a scenario has left ([`Outcome::disk`]).
pub fn page_manager() -> Arc<dyn hamal::raw::ResourceManager> {
    Arc::new(SlotPages)
}

/// The planted bug that switches a rule of the engine off, by the name that scenarios use.
pub(crate) fn rule(name: &str) -> Option<Mutant> {
    let bug = match name {
        "wal" => "page-before-log",
        "clrs" => "clr-repeated",
        "images" => "no-image",
        "parts" => "parts-forgotten",
        "reclsn" => "rec-lsn-late",
        "redo-test" => "redo-applies-equal",
        _ => return None,
    };
    Mutant::find(bug)
}

/// Runs a scenario. `source` is its text, for the header of the trace.
///
/// ```
/// let text = "pages P1\nT1 add P1[0] 5\nT1 commit\ncrash\nrecover\nexpect P1[0] = 5\n";
/// let scenario = hamal_study::scenario::parse(text).unwrap();
/// let outcome = hamal_study::run::run("five", text, &scenario);
/// assert!(outcome.failure.is_none());
/// ```
pub fn run(name: &str, source: &str, scenario: &Scenario) -> Outcome {
    let setup = &scenario.setup;
    let broken = setup.broken.as_deref().and_then(rule);
    let recorder = Arc::new(Recorder::in_memory(header(name, source, scenario)));
    recorder.lock().muted = true;
    let mut r = Runner {
        scenario,
        disk: MemDisk::new(),
        db: None,
        pages: None,
        page_ids: BTreeMap::new(),
        txns: BTreeMap::new(),
        recorder,
        before: HashMap::new(),
        last_error: None,
        keep_exact: scenario.lines.iter().filter_map(lost_after).collect(),
    };
    let mut failure = None;
    if broken.is_some() && !mutants::ENABLED {
        let what =
            "this build has every rule compiled in: build with the feature `mutants` to switch one off";
        failure = Some(r.failure(&scenario.lines[0], what));
    }
    if failure.is_none() {
        failure = r.set_up().err().map(|e| r.failure(&scenario.lines[0], &e.to_string()));
    }
    if failure.is_none() {
        mutants::choose(broken);
        failure = r.whole().err();
        mutants::choose(None);
    }
    r.recorder.lock().flush();
    let mut trace = r.recorder.trace();
    r.name_pages(&mut trace);
    let disk = r.close();
    Outcome { trace, failure, disk }
}

fn lost_after(line: &Line) -> Option<String> {
    match &line.action {
        Action::Crash { lose_after, .. } => lose_after.clone(),
        _ => None,
    }
}

fn header(name: &str, source: &str, scenario: &Scenario) -> Map<String, Value> {
    let s = &scenario.setup;
    let mut h = Map::new();
    h.insert("page_size".into(), PAGE_SIZE.into());
    h.insert("scenario".into(), name.into());
    h.insert("sha256".into(), crate::sha256::hex(source.as_bytes()).into());
    h.insert(
        "options".into(),
        json!({
            "pages": s.pages, "slots": s.slots, "tables": s.tables, "buffer": s.buffer,
            "images": s.images_on(), "checkpoints": s.checkpoints, "break": s.broken,
        }),
    );
    h
}

/// A transaction of the scenario.
enum Tx {
    /// Page mode.
    Raw(Arc<Txn>),
    /// Key mode.
    Tree(WriteTxn),
}

struct Open {
    tx: Tx,
    savepoints: HashMap<String, Savepoint>,
    /// A rollback was begun and stopped.
    aborting: bool,
}

struct Runner<'s> {
    scenario: &'s Scenario,
    disk: MemDisk,
    db: Option<Database>,
    pages: Option<PageStore>,
    page_ids: BTreeMap<String, hamal::PageId>,
    txns: BTreeMap<String, Open>,
    recorder: Arc<Recorder>,
    /// What was on disk before the last write of each page.
    before: HashMap<hamal::PageId, Vec<u8>>,
    /// The error of the last line that was refused.
    last_error: Option<Error>,
    /// Records behind which a later crash cuts the log.
    keep_exact: Vec<String>,
}

/// Why running stops in the middle of a block.
enum Halt {
    Failed(Failure),
    /// A crash within a block: go on behind that line.
    Crashed(usize),
}

type Step<T> = Result<T, Halt>;

impl Runner<'_> {
    fn failure(&self, line: &Line, what: &str) -> Failure {
        Failure { line: line.number, text: line.text.clone(), what: what.to_string() }
    }
    fn builder(&self) -> Builder {
        let s = &self.scenario.setup;
        let torn = if s.images_on() { TornPages::Images { compress: true } } else { TornPages::AtomicWrites };
        let b = Database::builder()
            .background(false)
            .cache_bytes(s.buffer * PAGE_SIZE)
            .log_segment_bytes(SEGMENT as u64)
            .log_ring_bytes(64 << 10)
            .log_limit_bytes(4_u64 << 20)
            .checkpoint_log_bytes(2_u64 << 20)
            .lock_timeout(Duration::ZERO)
            .torn_pages(torn)
            .restart_checkpoints(s.checkpoints)
            .tracer(self.recorder.clone())
            // The same events in the same order each time.
            .recovery_threads(1);
        if s.pages.is_empty() { b } else { b.resource_manager(Arc::new(SlotPages)) }
    }

    /// Makes the database with its pages or tables, on disk, behind a checkpoint of nothing.
    fn set_up(&mut self) -> hamal::Result<()> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let db = self.builder().page_size(PAGE_SIZE).database_id([0x5c; 16]).create_on(disk)?;
        let s = &self.scenario.setup;
        if s.pages.is_empty() {
            let tx = db.begin_write()?;
            for table in &s.tables {
                tx.create_tree(table)?;
            }
            tx.commit()?;
        } else {
            let mut store = PageStore::open(db.engine(), BTreeMap::new())?;
            store.make(&s.pages)?;
            store.fill_log(2 * SEGMENT)?;
            self.page_ids = store.ids.clone();
            self.pages = Some(store);
        }
        // Twice: the log is kept for the older slot of the control file as well.
        for _ in 0..3 {
            db.flush()?;
            db.checkpoint()?;
        }
        let engine = db.engine();
        let mut state = self.recorder.lock();
        state.facts.base = engine.log_tail();
        for (name, id) in &self.page_ids {
            state.facts.pages.insert(*id, name.clone());
        }
        state.muted = false;
        drop(state);
        self.db = Some(db);
        self.learn_pages();
        Ok(())
    }

    fn whole(&mut self) -> Result<(), Failure> {
        let mut at = 0;
        while at < self.scenario.lines.len() {
            match self.until(at, &|_| false) {
                Ok(next) => at = next,
                Err(Halt::Crashed(next)) => at = next,
                Err(Halt::Failed(f)) => return Err(f),
            }
        }
        Ok(())
    }

    /// Runs lines from `at` on, up to and not including the one that `stop` picks; returns its index.
    fn until(&mut self, mut at: usize, stop: &dyn Fn(&Action) -> bool) -> Step<usize> {
        while let Some(line) = self.scenario.lines.get(at) {
            if stop(&line.action) {
                return Ok(at);
            }
            at = self.line(at, line)?;
        }
        Ok(at)
    }

    /// Runs one line (and the block that it begins); returns the index of the next.
    fn line(&mut self, at: usize, line: &Line) -> Step<usize> {
        let doing = Doing { label: line.label.clone(), ..Doing::default() };
        self.recorder.lock().action = doing;
        let fail = |r: &Self, what: &str| Halt::Failed(r.failure(line, what));
        let done = match &line.action {
            Action::CheckpointBegin => return self.checkpoint_block(at, line),
            Action::NtaBegin(t) => return self.nested(at, line, t),
            Action::CheckpointTables | Action::CheckpointEnd | Action::NtaEnd(_) => {
                // Of a block that a crash has ended.
                return Ok(at + 1);
            }
            Action::Crash { keep_log, lose_after, torn } => {
                self.crash(*keep_log, lose_after.as_deref(), torn.as_deref())
            }
            Action::Recover { stop, flush } => self.recover(*stop, flush),
            Action::Expect(all) => {
                self.learn_pages();
                all.iter().try_for_each(|e| self.expect(e)).map_err(|what| fail(self, &what))?;
                return Ok(at + 1);
            }
            action => self.act(action),
        };
        self.learn_pages();
        match (done, line.refused) {
            (Ok(()), false) => {}
            (Ok(()), true) => return Err(fail(self, "the engine did not refuse this")),
            (Err(e), true) => self.last_error = Some(e),
            (Err(e), false) => return Err(fail(self, &e.to_string())),
        }
        if let Some(label) = self.recorder.lock().action.label.take().filter(|_| !line.refused) {
            return Err(fail(self, &format!("no log record was made that could be called `{label}`")));
        }
        if let Some(label) = line.label.as_ref().filter(|l| self.keep_exact.contains(l)) {
            self.force_behind(label).map_err(|e| fail(self, &e.to_string()))?;
        }
        if matches!(line.action, Action::Crash { .. }) { Err(Halt::Crashed(at + 1)) } else { Ok(at + 1) }
    }

    fn checkpoint_block(&mut self, at: usize, line: &Line) -> Step<usize> {
        let end = self.end_of_block(at);
        let tables = self.scenario.lines[at..end].iter().position(|l| l.action == Action::CheckpointTables);
        let db = self.open_db().map_err(|e| Halt::Failed(self.failure(line, &e.to_string())))?;
        let mut halt = None;
        let mut next = at + 1;
        let done = db.checkpoint_with(|between| {
            let goal = match (between, tables) {
                (Between::BeginAndTables, None) => return Ok(()),
                (Between::BeginAndTables, Some(n)) => at + n,
                (Between::TablesAndEnd, _) => end,
            };
            match self.until_index(next, goal) {
                Ok(()) => {
                    // The line `checkpoint tables` itself.
                    next = goal + usize::from(goal != end);
                    Ok(())
                }
                Err(h) => {
                    halt = Some(h);
                    Err(Error::internal("the scenario goes on elsewhere"))
                }
            }
        });
        match (halt, done) {
            (Some(h), _) => Err(h),
            (None, Err(e)) => Err(Halt::Failed(self.failure(line, &e.to_string()))),
            (None, Ok(_)) => Ok(end + 1),
        }
    }

    fn nested(&mut self, at: usize, line: &Line, name: &str) -> Step<usize> {
        let end = self.end_of_block(at);
        let fail = |r: &Self, e: Error| Halt::Failed(r.failure(line, &e.to_string()));
        let db = self.open_db().map_err(|e| fail(self, e))?;
        let txn = self.txn(name).and_then(|open| open.tx.raw());
        let txn = txn.map_err(|e| fail(self, e))?;
        let engine = db.engine();
        let mut halt = None;
        let done = engine.txns().nested_top_action(&txn, || {
            self.until_index(at + 1, end).map_err(|h| {
                halt = Some(h);
                Error::internal("the scenario goes on elsewhere")
            })?;
            let label = self.scenario.lines[end].label.clone();
            self.recorder.lock().action = Doing { label, ..Doing::default() };
            Ok(())
        });
        match (halt, done) {
            (Some(h), _) => Err(h),
            (None, Err(e)) => Err(fail(self, e)),
            (None, Ok(())) => Ok(end + 1),
        }
    }

    fn until_index(&mut self, mut at: usize, end: usize) -> Step<()> {
        while at < end {
            let line = &self.scenario.lines[at];
            at = self.line(at, line)?;
        }
        Ok(())
    }

    /// The index of the line that ends the block that begins at `at` (the parser has seen that there is one, or a crash).
    fn end_of_block(&self, at: usize) -> usize {
        let lines = &self.scenario.lines;
        let ends = |a: &Action| match (&lines[at].action, a) {
            (Action::CheckpointBegin, Action::CheckpointEnd) => true,
            (Action::NtaBegin(t), Action::NtaEnd(u)) => t == u,
            _ => false,
        };
        (at + 1..lines.len()).find(|i| ends(&lines[*i].action)).unwrap_or(lines.len())
    }

    fn open_db(&self) -> hamal::Result<Database> {
        self.db.clone().ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidArgument,
                "no database is open here: a line `recover` is needed first",
            )
        })
    }

    /// The transaction, begun if it is new.
    fn txn(&mut self, name: &str) -> hamal::Result<&mut Open> {
        let db = self.open_db()?;
        if !self.txns.contains_key(name) {
            let tx = match self.pages {
                Some(_) => Tx::Raw(db.engine().txns().begin()?),
                None => Tx::Tree(db.begin_write()?),
            };
            self.txns.insert(name.to_string(), Open { tx, savepoints: HashMap::new(), aborting: false });
        }
        self.txns.get_mut(name).ok_or_else(|| Error::internal("a transaction that was begun is gone"))
    }
    fn taken(&mut self, name: &str) -> hamal::Result<Open> {
        let gone = || Error::new(ErrorKind::NotFound, format!("{name} has not begun, or has ended"));
        self.txns.remove(name).ok_or_else(gone)
    }

    fn act(&mut self, action: &Action) -> hamal::Result<()> {
        match action {
            Action::Setup => Ok(()),
            Action::Begin(t) if self.txns.contains_key(t) => {
                Err(Error::new(ErrorKind::AlreadyExists, format!("{t} has begun already")))
            }
            Action::Begin(t) => self.txn(t).map(|_| ()),
            Action::Write { txn, page, slot, value } => self.change(txn, page, *slot, Change::Write(value)),
            Action::Add { txn, page, slot, amount } => self.change(txn, page, *slot, Change::Add(*amount)),
            Action::Put { txn, table, key, value } => self.put(txn, table, key, Some(value)),
            Action::Load { txn, table, rows } => self.load(txn, table, rows),
            Action::Delete { txn, table, key } => self.put(txn, table, key, None),
            Action::Get { txn, table, key, expect } => self.get(txn, table, key, expect.as_ref()),
            Action::Savepoint { txn, name } => {
                let db = self.open_db()?;
                let open = self.txn(txn)?;
                let savepoint = match &open.tx {
                    Tx::Raw(t) => db.engine().txns().savepoint(t),
                    Tx::Tree(t) => t.savepoint()?,
                };
                open.savepoints.insert(name.clone(), savepoint);
                let row = vec![
                    ("txn", txn.as_str().into()),
                    ("what", "savepoint".into()),
                    ("name", name.as_str().into()),
                ];
                self.recorder.lock().push("txn", row);
                Ok(())
            }
            Action::RollbackTo { txn, name } => {
                let db = self.open_db()?;
                let open = self.txn(txn)?;
                let missing = || Error::new(ErrorKind::NotFound, format!("{txn} has no savepoint {name}"));
                let savepoint = *open.savepoints.get(name).ok_or_else(missing)?;
                match &open.tx {
                    Tx::Raw(t) => {
                        let _op = t.enter()?;
                        db.engine().txns().rollback_to(t, &savepoint)
                    }
                    Tx::Tree(t) => t.rollback_to(&savepoint),
                }
            }
            Action::Abort { txn, stop_after } => self.abort(txn, *stop_after),
            Action::Commit { txn, wait, end } => self.commit(txn, *wait, *end),
            Action::End(txn) => self.log_end(txn),
            Action::FlushPage(page) => self.flush(page, false),
            Action::Evict(page) => self.flush(page, true),
            Action::FlushAll => {
                let db = self.open_db()?;
                self.remember_disk(None)?;
                db.engine().pool().flush_all(WriteReason::Asked)
            }
            Action::FlushLog(to) => {
                let db = self.open_db()?;
                let to = match to {
                    Some(label) => self.end_of(label)?,
                    None => db.engine().log_tail(),
                };
                db.engine().txns().log().force(to, ForceReason::Asked)
            }
            Action::Tidy => self.tidy(),
            Action::Checkpoint => self.open_db()?.checkpoint().map(|_| ()),
            Action::Log => self.show_log(),
            Action::Tables => self.show_tables(),
            Action::Show(what) => self.show(what),
            _ => Err(Error::internal("a line that is run elsewhere")),
        }
    }

    fn change(&mut self, txn: &str, page: &str, slot: u32, change: Change<'_>) -> hamal::Result<()> {
        let t = self.txn(txn)?.tx.raw()?;
        let store = self.pages.as_mut().ok_or_else(|| Error::internal("a slot in key mode"))?;
        let before = self.recorder.muted(|| store.value(page, slot))?;
        let mut more = Map::new();
        more.insert("slot".into(), slot.into());
        more.insert("before".into(), slot_json(before.as_ref()));
        more.insert(
            "after".into(),
            match change {
                Change::Write(v) => slot_json(Some(v)),
                Change::Add(n) => match before {
                    Some(crate::scenario::SlotValue::Int(b)) => (b.wrapping_add(n)).into(),
                    _ => n.into(),
                },
            },
        );
        if let Change::Add(n) = change {
            more.insert("add".into(), n.into());
        }
        {
            let mut state = self.recorder.lock();
            state.action.txn = Some(txn.to_string());
            state.action.more = more;
        }
        store.change(txn, &t, page, slot, change)
    }

    fn abort(&mut self, name: &str, stop_after: Option<u64>) -> hamal::Result<()> {
        let db = self.open_db()?;
        let mut open = self.taken(name)?;
        let Some(most) = stop_after else {
            let done = match open.tx {
                Tx::Raw(t) => {
                    let _op = t.enter_to_end()?;
                    db.engine().txns().rollback(&t)
                }
                Tx::Tree(t) => t.rollback(),
            };
            self.unlock(name);
            return done;
        };
        let (engine, recorder) = (db.engine(), self.recorder.clone());
        let steps = |t: &Txn| -> hamal::Result<()> {
            engine.txns().begin_rollback(t)?;
            let clrs = || recorder.lock().facts.clrs;
            let goal = clrs() + most;
            while clrs() < goal && !engine.txns().undo_step(t)?.is_null() {}
            Ok(())
        };
        let done = match &open.tx {
            Tx::Raw(t) => {
                let _op = t.enter()?;
                steps(t)
            }
            Tx::Tree(t) => t.run(steps),
        };
        open.aborting = true;
        self.txns.insert(name.to_string(), open);
        done
    }

    fn commit(&mut self, name: &str, wait: bool, end: bool) -> hamal::Result<()> {
        let db = self.open_db()?;
        let open = self.taken(name)?;
        if open.aborting {
            self.txns.insert(name.to_string(), open);
            return Err(Error::new(ErrorKind::TransactionEnded, format!("{name} is being rolled back")));
        }
        match open.tx {
            Tx::Raw(t) => {
                let outcome = {
                    let _op = t.enter()?;
                    db.engine().txns().commit(&t)?
                };
                if wait {
                    outcome.ticket.wait()?;
                }
            }
            Tx::Tree(t) => {
                let durability = if wait { Durability::Sync } else { Durability::Async };
                t.commit_with(durability)?;
            }
        }
        self.unlock(name);
        if end { self.log_end(name) } else { Ok(()) }
    }

    /// The END record of a committed transaction, as books have it: the engine itself writes none, because the commit record ends
    /// the transaction, and reads one without harm.
    fn log_end(&mut self, name: &str) -> hamal::Result<()> {
        let found = self.recorder.lock().facts.committed(name);
        let Some((txn, prev)) = found else {
            // One that wrote nothing has no records at all.
            return Ok(());
        };
        append_end(self.open_db()?.engine().txns().log(), txn, prev)
    }

    fn unlock(&mut self, name: &str) {
        if let Some(store) = &mut self.pages {
            store.unlock(name);
        }
    }

    fn flush(&mut self, page: &str, evict: bool) -> hamal::Result<()> {
        let db = self.open_db()?;
        let id = self.page_id(page)?;
        self.remember_disk(Some(id))?;
        let engine = db.engine();
        if evict { engine.pool().evict_page(id) } else { engine.pool().flush_page(id) }
    }

    fn close(self) -> MemDisk {
        self.recorder.lock().muted = true;
        if let Some(db) = &self.db {
            db.engine().txns().log().poison(Error::internal("the scenario is over"));
        }
        self.disk.clone()
    }
}

impl Tx {
    /// Another handle of a transaction of page mode.
    fn raw(&self) -> hamal::Result<Arc<Txn>> {
        match self {
            Tx::Raw(t) => Ok(t.clone()),
            Tx::Tree(_) => Err(Error::new(ErrorKind::InvalidArgument, "this is for page mode")),
        }
    }
}

pub(crate) fn slot_json(value: Option<&crate::scenario::SlotValue>) -> Value {
    match value {
        None => Value::Null,
        Some(crate::scenario::SlotValue::Int(n)) => (*n).into(),
        Some(crate::scenario::SlotValue::Text(t)) => t.as_str().into(),
    }
}

fn append_end(log: &Log, txn: TxnId, prev: Lsn) -> hamal::Result<()> {
    let spec =
        RecordSpec { kind: RecordKind::End, rm: RmId(0), txn: TxnRef::Id(txn), prev, blocks: &[], undo: &[] };
    let mut credit = log.credit(Log::record_bound(&spec), true)?;
    log.append(&spec, &mut credit).map(|_| ())
}
