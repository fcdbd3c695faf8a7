//! A small engine on an in-memory disk, for tests of the tree's core.
#![allow(dead_code, unreachable_pub, reason = "shared by test files, each of which uses a part of it")]
use hamal_btree::{
    BTREE_RM, Bound, Btree, CATALOGUE_ROOT, CATALOGUE_TREE, Direction, Entry, GARBAGE_ROOT, GARBAGE_TREE,
    PutValue, RawValue, Tree, ValueRef,
};
use hamal_buffer::{Pool, PoolOptions};
use hamal_disk::{Disk, MemDisk, OpenMode};
use hamal_error::{Poison, Result};
use hamal_log::{Log, LogIdentity, LogOptions, Whole};
use hamal_page::{DbId, TreeId, TxnId, header};
use hamal_space::{OP_SET, SPACE_RM, Space, SpaceManager};
use hamal_trace::Trace;
use hamal_txn::{Registry, Txn, TxnManager, TxnOptions, View};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub struct Db {
    pub log: Arc<Log>,
    pub txns: Arc<TxnManager>,
    pub btree: Arc<Btree>,
}

pub struct Config {
    pub page_size: usize,
    pub frames: usize,
    pub check_apply: bool,
}

impl Default for Config {
    fn default() -> Config {
        Config { page_size: 4096, frames: 1024, check_apply: true }
    }
}

pub fn create(config: &Config) -> Db {
    let disk = Arc::new(MemDisk::new());
    disk.create_dir("wal").unwrap();
    let options =
        LogOptions { max_record: 3 * config.page_size + 4096, limit_bytes: 4 << 30, ..LogOptions::default() };
    let identity = LogIdentity { db: DbId([3; 16]), timeline: 1 };
    let poison = Arc::new(Poison::new());
    let log =
        Arc::new(Log::create(disk.clone(), options, identity, Log::FIRST, poison, Trace::silent()).unwrap());
    let data = disk.open("data", OpenMode { create: true, ..OpenMode::default() }).unwrap();
    let manager = Btree::manager();
    let mut registry = Registry::new();
    registry.add(SPACE_RM, Arc::new(SpaceManager));
    registry.add(BTREE_RM, manager.clone());
    let options = PoolOptions {
        page_size: config.page_size,
        frames: config.frames,
        images: true,
        compress_images: false,
        image_share_bytes: 256 << 20,
        batch_pages: 16,
        check_apply: config.check_apply,
    };
    let pool = Pool::new(options, data, log.clone(), registry.managers(), Trace::silent()).unwrap();
    let options = TxnOptions { lock_timeout: Duration::from_secs(120), version_budget: 64 << 20 };
    let txns = TxnManager::new(Arc::new(pool), registry, options, Trace::silent());
    txns.start_at(log.durable());
    let btree = Btree::new(&manager, txns.clone(), Arc::new(Space::new(txns.clone())));
    let db = Db { log, txns, btree };
    db.btree.space().bootstrap(3).unwrap();
    db.btree.make_root(Tree { id: CATALOGUE_TREE, root: CATALOGUE_ROOT }).unwrap();
    db.btree.make_root(Tree { id: GARBAGE_TREE, root: GARBAGE_ROOT }).unwrap();
    db
}

impl Db {
    /// A new empty tree: a page from the free space, made a root.
    pub fn tree(&self, id: u32) -> Tree {
        let reservation = self.btree.space().reserve(1).unwrap();
        let root = reservation.pages()[0];
        let mut credit = self.txns.pool().credit(4096, 0, 2, false).unwrap();
        let mut maps = self.btree.space().latch_maps(&[root]).unwrap();
        let mut edits: Vec<_> = maps
            .iter_mut()
            .map(|(page, payload)| hamal_buffer::PageEdit { page, op: OP_SET, whole: Whole::No, payload })
            .collect();
        self.txns.structure(None, SPACE_RM, &mut edits, &mut credit).unwrap();
        drop(maps);
        drop(credit);
        reservation.allocated(1);
        let tree = Tree { id: TreeId(id), root };
        self.btree.make_root(tree).unwrap();
        tree
    }
    pub fn begin(&self) -> Arc<Txn> {
        self.txns.begin().unwrap()
    }
    pub fn commit(&self, txn: &Txn) {
        let _op = txn.enter().unwrap();
        self.txns.commit(txn).unwrap().ticket.wait().unwrap();
    }
    pub fn rollback(&self, txn: &Txn) {
        let _op = txn.enter().unwrap();
        self.txns.rollback(txn).unwrap();
    }
    pub fn view(&self, txn: &Txn) -> View {
        View { snapshot: txn.snapshot(), own: txn.id() }
    }
    /// Sees all that is committed and durable.
    pub fn now(&self) -> View {
        View { snapshot: self.log.durable(), own: TxnId::NONE }
    }
    pub fn put(&self, txn: &Txn, tree: Tree, key: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>> {
        let _op = txn.enter()?;
        Ok(self.btree.put(txn, tree, key, PutValue::Inline(value))?.map(bytes))
    }
    pub fn remove(&self, txn: &Txn, tree: Tree, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let _op = txn.enter()?;
        Ok(self.btree.remove(txn, tree, key)?.map(bytes))
    }
    pub fn get(&self, view: &View, tree: Tree, key: &[u8]) -> Option<Vec<u8>> {
        let f = |v: ValueRef<'_>| match v {
            ValueRef::Inline(b) => b.to_vec(),
            ValueRef::Chain { .. } => panic!("no chains here"),
        };
        self.btree.get(view, tree, key, f).unwrap()
    }
    pub fn scan(
        &self,
        view: &View,
        tree: Tree,
        low: Bound<'_>,
        high: Bound<'_>,
        direction: Direction,
        limit: usize,
    ) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut all: Vec<Entry> = Vec::new();
        let mut last: Option<Vec<u8>> = None;
        loop {
            let mut some = Vec::new();
            let (low, high) = match (&last, direction) {
                (None, _) => (low, high),
                (Some(k), Direction::Forward) => (Bound::Excluded(k), high),
                (Some(k), Direction::Reverse) => (low, Bound::Excluded(k)),
            };
            let more = self.btree.scan(view, tree, low, high, direction, limit, &mut some).unwrap();
            assert!(some.len() <= limit && (!more || !some.is_empty()));
            all.extend(some);
            if !more {
                return all.into_iter().map(|e| (e.key, bytes(e.value))).collect();
            }
            last = all.last().map(|e| e.key.clone());
        }
    }
    pub fn all(&self, view: &View, tree: Tree) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.scan(view, tree, Bound::Unbounded, Bound::Unbounded, Direction::Forward, 1000)
    }
    pub fn collect(&self) {
        self.txns.collect();
    }
    /// Pages of the tree, found by their header, and the bytes of level-0 pages in use.
    pub fn pages_of(&self, tree: Tree) -> usize {
        let mut n = 0;
        let pool = self.txns.pool();
        self.btree
            .space()
            .each_allocated(&mut |id| {
                let page = pool.shared(id)?;
                n += usize::from(header::rm(&page) == BTREE_RM && header::tree(&page) == tree.id);
                Ok(())
            })
            .unwrap();
        n
    }
}

pub fn bytes(v: RawValue) -> Vec<u8> {
    match v {
        RawValue::Inline(b) => b,
        RawValue::Chain { .. } => panic!("no chains here"),
    }
}

pub fn rows(model: &BTreeMap<Vec<u8>, Vec<u8>>) -> Vec<(Vec<u8>, Vec<u8>)> {
    model.iter().map(|(k, v)| (k.clone(), v.clone())).collect()
}

/// A cheap random number.
pub struct Dice(pub u64);
impl Dice {
    pub fn roll(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }
}
