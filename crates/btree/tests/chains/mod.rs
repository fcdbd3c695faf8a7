//! A database on an in-memory disk, for the tests of chains, garbage and the catalogue.
#![allow(dead_code, unreachable_pub, reason = "shared by test files, each of which uses a part of it")]
use hamal_btree::{
    BTREE_RM, Bound, Btree, Catalogue, Direction, Garbage, LargeReader, LargeWriter, PutValue, RawValue,
    Tree, VerifyReport, verify,
};
use hamal_buffer::{Pool, PoolOptions};
use hamal_disk::{Disk, MemDisk, OpenMode};
use hamal_error::{Poison, Result};
use hamal_log::{Log, LogIdentity, LogOptions};
use hamal_page::{DbId, PageId};
use hamal_space::{SPACE_RM, Space, SpaceManager};
use hamal_trace::{ForceReason, Trace, WriteReason};
use hamal_txn::{Registry, Txn, TxnManager, TxnOptions, View};
use std::sync::Arc;
use std::time::Duration;

pub const PAGE: usize = 4096;
/// Bytes of a value that one overflow page takes.
pub const CAPACITY: usize = PAGE - 72;
pub const IDENTITY: LogIdentity = LogIdentity { db: DbId([9; 16]), timeline: 1 };

pub struct Db {
    pub disk: Arc<MemDisk>,
    pub log: Arc<Log>,
    pub txns: Arc<TxnManager>,
    pub btree: Arc<Btree>,
    pub garbage: Arc<Garbage>,
    pub catalogue: Catalogue,
}

pub fn create() -> Db {
    let disk = Arc::new(MemDisk::new());
    disk.create_dir("wal").unwrap();
    let options = LogOptions { limit_bytes: 4 << 30, ..LogOptions::default() };
    let log =
        Log::create(disk.clone(), options, IDENTITY, Log::FIRST, Arc::new(Poison::new()), Trace::silent())
            .unwrap();
    let db = open(disk, Arc::new(log));
    db.catalogue.bootstrap().unwrap();
    db
}

/// A new pool and new managers over what is on disk; nothing is redone.
pub fn open(disk: Arc<MemDisk>, log: Arc<Log>) -> Db {
    let data = disk.open("data", OpenMode { create: true, ..OpenMode::default() }).unwrap();
    let manager = Btree::manager();
    let mut registry = Registry::new();
    registry.add(SPACE_RM, Arc::new(SpaceManager));
    registry.add(BTREE_RM, manager.clone());
    let options = PoolOptions {
        page_size: PAGE,
        frames: 256,
        images: true,
        compress_images: true,
        image_share_bytes: 64 << 20,
        batch_pages: 64,
        check_apply: true,
    };
    let pool = Pool::new(options, data, log.clone(), registry.managers(), Trace::silent()).unwrap();
    let options = TxnOptions { lock_timeout: Duration::from_secs(120), version_budget: 64 << 20 };
    let txns = TxnManager::new(Arc::new(pool), registry, options, Trace::silent());
    txns.start_at(log.durable());
    let btree = Btree::new(&manager, txns.clone(), Arc::new(Space::new(txns.clone())));
    let garbage = Arc::new(Garbage::new(btree.clone()));
    let catalogue = Catalogue::new(btree.clone(), garbage.clone());
    Db { disk, log, txns, btree, garbage, catalogue }
}

impl Db {
    /// Everything written back, then opened anew: what lived in memory only is gone.
    pub fn reload(self) -> Db {
        self.flush();
        let (disk, log) = (self.disk.clone(), self.log.clone());
        drop(self);
        open(disk, log)
    }
    pub fn flush(&self) {
        let pool = self.txns.pool();
        pool.flush_all(WriteReason::Asked).unwrap();
        pool.sync_data().unwrap();
    }
    pub fn begin(&self) -> Arc<Txn> {
        self.txns.begin().unwrap()
    }
    pub fn commit(&self, txn: &Txn) {
        self.txns.commit(txn).unwrap().ticket.wait().unwrap();
    }
    /// The latest view of a transaction of its own.
    pub fn now(&self) -> View {
        View { snapshot: self.log.durable(), own: hamal_page::TxnId::NONE }
    }
    pub fn view(&self, txn: &Txn) -> View {
        View { snapshot: txn.snapshot(), own: txn.id() }
    }
    /// A committed tree.
    pub fn tree(&self, name: &str) -> Tree {
        let txn = self.begin();
        let info = self.catalogue.create(&txn, name).unwrap();
        self.commit(&txn);
        info.tree
    }
    /// Registers and puts a value, long or short; takes care of the former one.
    pub fn put(&self, txn: &Txn, name: &str, key: &[u8], value: &[u8]) -> Result<()> {
        let info = self.catalogue.find(&self.view(txn), name)?.expect("a tree");
        self.catalogue.register(txn, &info)?;
        let former = if value.len() <= self.btree.limits().max_inline {
            self.btree.put(txn, info.tree, key, PutValue::Inline(value))?
        } else {
            let mut w = LargeWriter::new(self.btree.clone());
            w.write(txn, value)?;
            let (len, head) = w.finish(txn)?;
            assert_eq!(len, value.len() as u64);
            let former = self.btree.put(txn, info.tree, key, PutValue::Chain { len, head })?;
            w.linked(txn)?;
            former
        };
        self.discard(txn, former)
    }
    pub fn remove(&self, txn: &Txn, name: &str, key: &[u8]) -> Result<()> {
        let info = self.catalogue.find(&self.view(txn), name)?.expect("a tree");
        self.catalogue.register(txn, &info)?;
        let former = self.btree.remove(txn, info.tree, key)?;
        self.discard(txn, former)
    }
    fn discard(&self, txn: &Txn, former: Option<RawValue>) -> Result<()> {
        match former {
            Some(RawValue::Chain { head, .. }) => self.garbage.discard_chain(txn, head),
            _ => Ok(()),
        }
    }
    pub fn raw(&self, view: &View, tree: Tree, key: &[u8]) -> Option<RawValue> {
        let mut rows = Vec::new();
        let (low, high) = (Bound::Included(key), Bound::Included(key));
        self.btree.scan(view, tree, low, high, Direction::Forward, 1, &mut rows).unwrap();
        rows.pop().map(|r| r.value)
    }
    /// The whole value.
    pub fn get(&self, view: &View, tree: Tree, key: &[u8]) -> Option<Vec<u8>> {
        Some(match self.raw(view, tree, key)? {
            RawValue::Inline(v) => v,
            RawValue::Chain { len, head } => self.read(len, head).unwrap(),
        })
    }
    pub fn read(&self, len: u64, head: PageId) -> Result<Vec<u8>> {
        let mut r = LargeReader::new(self.btree.clone(), len, head);
        let mut out = vec![0; len as usize];
        let n = r.read(&mut out)?;
        assert_eq!((n as u64, r.remaining()), (len, 0));
        assert_eq!(r.read(&mut [0; 8])?, 0);
        Ok(out)
    }
    pub fn allocated(&self) -> u64 {
        self.btree.space().usage().unwrap().0
    }
    /// Moves the horizon up to now and collects until nothing is left to do.
    pub fn collect(&self) {
        self.log.force(self.log.tail(), ForceReason::Asked).unwrap();
        self.txns.collect();
        while self.garbage.collect(1000).unwrap() {}
    }
    pub fn verify(&self) -> VerifyReport {
        verify(&self.btree, &self.catalogue, &mut |done, all| assert!(done <= all)).unwrap()
    }
    /// Verifies, and wants no findings.
    pub fn sound(&self) -> VerifyReport {
        let report = self.verify();
        assert_eq!(report.findings, []);
        assert_eq!(report.pages_allocated, report.pages_reachable);
        report
    }
}

/// A small deterministic generator.
pub struct Rng(pub u64);
impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 32
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
}
