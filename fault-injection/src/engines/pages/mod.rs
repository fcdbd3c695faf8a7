//! hamal one level lower: a second access method on the page store, in the same transactions as the B-tree.
//!
//! Tree 0 is an array of counters. A *directory* page names up to [`LINKS`] pages of [`SLOTS`] counters each; a page is made
//! when one of its counters is first added to. The directory is found through a row of the B-tree tree `counters`.
//!
//! * **Adding commutes**, so counters take no locks: any number of transactions add to the same one at once. Undo is logical:
//!   it subtracts what *its* record added, whatever the counter is by then.
//! * **Growing is a structure change**: one redo-only record makes the page, links it and sets its bit in the space map. It
//!   is never undone; a page without additions is harmless.
//! * **Making the directory is undoable**: one record makes the page and sets its bit. Its undo first frees the linked pages,
//!   each by one structure record that also takes its link away (so it can be repeated from any point), then frees the
//!   directory by the compensation record. Nobody else can have linked a page there: the row that names the directory
//!   is not visible before its transaction commits.
//!
//! # What the harness sees
//! A counter is a row once somebody added to it, even if the sum is 0: this is what the model says too. So beside the sum
//! a slot holds the number of additions that were not undone, and a counter is there if this is not 0. No rows have to be
//! left out or made alike.
//!
//! Counters have no versions: a page shows additions that are not committed. [`Session::contents`] must show what is
//! committed; so the session remembers what its own open transactions have added, and takes it off. After a crash, and
//! whenever no transaction is open, nothing is taken off and the pages speak for themselves.
//!
//! # Bytes
//! All little-endian, after the common header. Directory (kind 1): [`LINKS`] page numbers of 8 bytes, 0 for none. Counters
//! (kind 2): number of the page in the array (4 bytes), 4 zero bytes, then the slots, spread over the page so that each of
//! its sectors matters: sum (8 bytes), additions (4 bytes), zeros up to the stride.
mod layout;
mod manager;
mod method;

pub use layout::{LINKS, SLOTS};

use crate::engine::{Applied, Config, Engine, Failure, FailureKind, Opened, Session};
use crate::engines::hamal::{Base, DATABASE_ID, STRANGERS_ID, builder, failure, sentence};
use crate::model::Contents;
use crate::op::{Op, Txn, key_bytes};
use crate::oracles::replay;
use crate::oracles::watch::HamalWatch;
use crate::sim::{SimDisk, Watch};
use hamal::disk::Disk;
use hamal::raw::ResourceManager;
use hamal::{Builder, ErrorKind, Tracer};
use layout::{Counter, check_counters, links};
use manager::CounterPages;
use method::{Method, ROW, TREE};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// hamal's page store, with counters in pages of their own. Tree 0 alone can be created, and only `Add` changes it; other
/// changes are refused. So are keys from [`LINKS`] times [`SLOTS`] on.
#[derive(Clone)]
pub struct Pages {
    tracer: Option<Arc<dyn Tracer>>,
    id: [u8; 16],
}

impl Default for Pages {
    fn default() -> Pages {
        Pages { tracer: None, id: DATABASE_ID }
    }
}

impl Pages {
    /// Counters that there can be: keys are below this.
    pub const KEYS: u32 = LINKS * SLOTS;

    /// Without a tracer.
    pub fn new() -> Pages {
        Pages::default()
    }
    /// Sends the events of every session to `tracer`.
    #[must_use]
    pub fn with_tracer(mut self, tracer: Arc<dyn Tracer>) -> Pages {
        self.tracer = Some(tracer);
        self
    }
    /// The resource manager, for tools that describe log records.
    pub fn manager() -> Arc<dyn ResourceManager> {
        Arc::new(CounterPages::new())
    }
    fn builder(&self, config: &Config) -> (Builder, Arc<CounterPages>) {
        let manager = Arc::new(CounterPages::new());
        (builder(config, self.id, self.tracer.as_ref()).resource_manager(manager.clone()), manager)
    }
    fn session(base: Base, manager: Arc<CounterPages>) -> Result<Box<dyn Session>, Failure> {
        let session = Counters { base, manager, added: BTreeMap::new() };
        session.opened_anew()?;
        Ok(Box::new(session))
    }
}

impl Engine for Pages {
    fn name(&self) -> &str {
        "pages"
    }
    fn create(&self, disk: Arc<dyn Disk>, config: &Config) -> Result<Box<dyn Session>, Failure> {
        let (builder, manager) = self.builder(config);
        Pages::session(Base::create(config, builder, disk)?, manager)
    }
    fn open(&self, disk: Arc<dyn Disk>, config: &Config) -> Result<Box<dyn Session>, Failure> {
        let (builder, manager) = self.builder(config);
        Pages::session(Base::open(config, builder, disk)?, manager)
    }
    fn watch(&self, config: &Config) -> Option<Box<dyn Watch>> {
        Some(HamalWatch::new(config))
    }
    fn audit(&self, disk: &SimDisk, config: &Config) -> Result<Vec<String>, Failure> {
        replay::audit_with(Arc::new(disk.clone()), config, &[Pages::manager()])
    }
    fn stranger(&self) -> Option<Box<dyn Engine>> {
        Some(Box::new(Pages { id: STRANGERS_ID, ..self.clone() }))
    }
}

/// What an open transaction has added, and how much of it there was at each savepoint.
#[derive(Default)]
struct Added {
    list: Vec<(u32, i64)>,
    savepoints: Vec<(u8, usize)>,
}

struct Counters {
    base: Base,
    manager: Arc<CounterPages>,
    added: BTreeMap<Txn, Added>,
}

impl Counters {
    /// After an open: the manager gets to know the space manager.
    fn opened_anew(&self) -> Result<(), Failure> {
        let space = Arc::downgrade(self.base.db()?.engine().space());
        *self.manager.space() = space;
        Ok(())
    }

    /// Follows an operation that was done.
    fn follow(&mut self, op: &Op) {
        match *op {
            Op::Begin { txn } => {
                self.added.insert(txn, Added::default());
            }
            Op::Savepoint { txn, name } => {
                if let Some(a) = self.added.get_mut(&txn) {
                    a.savepoints.push((name, a.list.len()));
                }
            }
            Op::RollbackTo { txn, name } => {
                if let Some(a) = self.added.get_mut(&txn)
                    && let Some(i) = a.savepoints.iter().rposition(|(n, _)| *n == name)
                {
                    a.list.truncate(a.savepoints[i].1);
                    a.savepoints.truncate(i + 1);
                }
            }
            Op::Add { txn, key, delta, .. } => {
                if let Some(a) = self.added.get_mut(&txn) {
                    a.list.push((key, i64::from(delta)));
                }
            }
            Op::Commit { txn, .. } | Op::Rollback { txn } => {
                self.added.remove(&txn);
            }
            Op::Reopen => self.added.clear(),
            _ => {}
        }
    }

    fn change(&mut self, op: &Op) -> Result<(), Failure> {
        let method = Method::of(self.base.db()?).map_err(|e| failure(&e))?;
        let refused = |what: &str| Failure::new(FailureKind::Refused, format!("InvalidArgument: {what}"));
        match *op {
            Op::CreateTree { txn, tree: 0 } => {
                let tx = self.base.txn(txn)?;
                // Several statements: all of them or none.
                let before = tx.savepoint().map_err(|e| failure(&e))?;
                method.create(tx).map_err(|e| match tx.rollback_to(&before) {
                    Ok(()) => failure(&e),
                    Err(worse) => failure(&worse),
                })
            }
            Op::Add { txn, tree: 0, key, delta } => {
                method.add(self.base.txn(txn)?, key, i64::from(delta)).map_err(|e| failure(&e))
            }
            _ => Err(refused("there are only counters, in tree 0")),
        }
    }
}

impl Session for Counters {
    fn apply(&mut self, op: &Op) -> Result<Applied, Failure> {
        let done = match self.base.apply(op) {
            Ok(Some(applied)) => applied,
            Ok(None) => {
                self.change(op)?;
                self.base.done()
            }
            Err(e) => {
                // A transaction is gone even if its end failed.
                if matches!(op, Op::Commit { .. } | Op::Rollback { .. } | Op::Reopen) {
                    self.follow(op);
                }
                return Err(e);
            }
        };
        if *op == Op::Reopen {
            self.opened_anew()?;
        }
        self.follow(op);
        Ok(done)
    }

    fn contents(&mut self) -> Result<Contents, Failure> {
        let mut contents = Contents::default();
        let counters = (|| {
            let db = self.base.db().map_err(Err)?;
            let snapshot = db.begin_read().map_err(Ok)?;
            let trees = snapshot.trees().map_err(Ok)?;
            match &trees[..] {
                [] => Ok(None),
                [name] if name == TREE => {
                    let method = Method::of(db).map_err(Ok)?;
                    let row = snapshot.tree(TREE).and_then(|t| t.get(ROW)).map_err(Ok)?;
                    Method::directory(row).and_then(|d| method.read(d)).map(Some).map_err(Ok)
                }
                _ => Err(Err(Failure::new(
                    FailureKind::Bug,
                    format!("Internal: there are the trees {trees:?}"),
                ))),
            }
        })();
        let Some(mut counters) = counters.map_err(|e| e.map_or_else(|f| f, |e| failure(&e)))? else {
            return Ok(contents);
        };
        // What is not committed does not count.
        for (key, amount) in self.added.values().flat_map(|a| &a.list) {
            let c = counters.entry(*key).or_default();
            *c = Counter { sum: c.sum.wrapping_sub(*amount), additions: c.additions.wrapping_sub(1) };
        }
        let rows = contents.trees.entry(0).or_default();
        for (key, c) in counters {
            if c.additions != 0 {
                rows.insert(key_bytes(key), c.sum.to_le_bytes().to_vec());
            } else if c.sum != 0 {
                let text = format!("Internal: counter {key} is {} without an addition", c.sum);
                return Err(Failure::new(FailureKind::Bug, text));
            }
        }
        Ok(contents)
    }

    /// What the engine's verification finds, and the pages of counters: each reached once, and allocated. The engine's walk
    /// knows nothing of them and says of each that nothing reaches it; that is no fault of those that are reached here, and
    /// a fault of the others.
    fn verify(&mut self) -> Result<Vec<String>, Failure> {
        const LOST: &str = "the page is allocated, but nothing reaches it";
        let (mut wrong, mut reached) = (Vec::new(), BTreeSet::new());
        let mut walk = || -> hamal::Result<()> {
            let Ok(db) = self.base.db() else { return Ok(()) };
            let method = Method::of(db)?;
            // A transaction that writes nothing sees commits that are not durable yet as well.
            let tx = db.begin_write()?;
            if tx.trees()?.is_empty() {
                return Ok(());
            }
            let directory = Method::directory(tx.tree(TREE)?.get(ROW)?)?;
            drop(tx);
            reached.insert(directory);
            let list = links(directory, method.rm, &method.pool().shared(directory)?)?;
            for (number, id) in list {
                if !reached.insert(id) {
                    wrong.push(format!("page {id}: reached twice from the directory {directory}"));
                }
                check_counters(id, method.rm, number, &method.pool().shared(id)?)?;
            }
            Ok(())
        };
        match walk() {
            Err(e) if e.is_corruption() || e.kind() == ErrorKind::NotFound => wrong.push(e.to_string()),
            walked => walked.map_err(|e| failure(&e))?,
        }
        for finding in self.base.findings()? {
            let own = finding.message == LOST && finding.page.is_some_and(|p| reached.remove(&p));
            if !own {
                wrong.push(sentence(&finding));
            }
        }
        wrong.extend(
            reached.iter().map(|p| format!("page {p}: the page is in use, but not allocated or not alone")),
        );
        Ok(wrong)
    }

    fn opened(&self) -> Opened {
        self.base.opened()
    }

    fn limits(&mut self) -> Option<String> {
        self.base.broken_limit()
    }
}
