//! The version store: before-images of young records, in memory, within a budget. Nothing of it survives a
//! crash.
//!
//! When a transaction overwrites what another one wrote, the former state goes to the chain of its key,
//! newest last. A reader that may not see the state in the page walks the chain from the newest and takes the
//! first state whose writer it may see. An entry superseded by a transaction that committed at or below the
//! horizon is dropped: every view sees that transaction or a later one. It is dropped before that transaction
//! counts as settled, so that the chain of a row that was deleted and taken away is empty (TXN-VERSIONS).
use crate::Txn;
use crate::horizon::Horizon;
use hamal_error::{Error, ErrorKind, Result};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{Lsn, RmId, TxnId};
use hamal_sync::Mutex;
use hamal_sync::atomic::{AtomicUsize, Ordering};
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

/// A before-image: what a record was before a transaction changed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Who wrote the former state.
    pub writer: TxnId,
    /// The former state, meaning given by the manager (a B-tree: record word and value).
    pub data: Box<[u8]>,
}

/// What a snapshot finds in a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FoundVersion {
    /// The newest former state that the view may see.
    Visible(Version),
    /// There is none: the record did not exist for this view.
    Absent,
}

/// Which chain: manager, space, key.
#[derive(Clone, Debug)]
pub(crate) struct VersionKey {
    rm: RmId,
    space: u32,
    key: Arc<[u8]>,
}

#[derive(Debug)]
struct Entry {
    /// Number of the transaction that replaced this state.
    superseder: u64,
    version: Version,
}

#[derive(Debug)]
struct Chain {
    key: Arc<[u8]>,
    /// Newest last.
    entries: Vec<Entry>,
}

/// Chains by key, by manager and space.
type Shard = Mutex<HashMap<(RmId, u32), HashMap<Arc<[u8]>, Chain>>>;

const SHARDS: usize = 64;

/// What an entry costs beside key and data: map slots, vector, list of its transaction.
const ENTRY_OVERHEAD: usize = 128;

/// The version store.
#[derive(Debug)]
pub struct VersionStore {
    shards: Box<[Shard]>,
    hasher: RandomState,
    budget: usize,
    bytes: AtomicUsize,
    count: AtomicUsize,
    /// Keys with entries of committed transactions, by timestamp; one commit has one timestamp.
    committed: Mutex<BTreeMap<Lsn, (u64, Vec<VersionKey>)>>,
    horizon: Arc<Horizon>,
}

impl VersionStore {
    pub(crate) fn new(budget: usize, horizon: Arc<Horizon>) -> Self {
        VersionStore {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            hasher: RandomState::new(),
            budget,
            bytes: AtomicUsize::new(0),
            count: AtomicUsize::new(0),
            committed: Mutex::default(),
            horizon,
        }
    }

    fn shard(&self, rm: RmId, space: u32, key: &[u8]) -> &Shard {
        let h = self.hasher.hash_one((rm, space, key));
        &self.shards[h as usize % SHARDS]
    }

    fn cost(key: &[u8], version: &Version) -> usize {
        key.len() + version.data.len() + ENTRY_OVERHEAD
    }

    /// Makes sure that a version with `bytes` of data can be pushed (no latch held).
    ///
    /// # Errors
    /// `VersionBudget` if the budget is used up and collection freed nothing.
    pub fn admit(&self, bytes: usize) -> Result<()> {
        let wanted = bytes.saturating_add(ENTRY_OVERHEAD);
        let fits = |used: usize| used.saturating_add(wanted) <= self.budget;
        if fits(self.bytes()) || mutants::is(Mutant::NoVersionBudget) {
            return Ok(());
        }
        self.horizon.advance(true, |h| self.collect(h));
        let used = self.bytes();
        if fits(used) {
            return Ok(());
        }
        let (open, oldest) = self.horizon.snapshots();
        let oldest = oldest.unwrap_or(Lsn::NULL);
        Err(Error::new(
            ErrorKind::VersionBudget,
            format!(
                "no room for {bytes} bytes of a former version: {used} of {} bytes are in use, for live writers \
                 and for {open} open snapshots (writers' own included), the oldest at {oldest}",
                self.budget
            ),
        )
        .with_help("Close long snapshots, change less in one transaction, or raise version_budget_bytes"))
    }

    /// Pushes the state that `txn` is replacing, at the head of the chain of (manager, space, key). The
    /// caller holds the exclusive latch of the page, and pushes only if the former writer is another
    /// transaction.
    pub fn push(&self, txn: &Txn, rm: RmId, space: u32, key: &[u8], version: Version) {
        self.bytes.fetch_add(Self::cost(key, &version), Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
        let entry = Entry { superseder: txn.number(), version };
        let key = {
            let mut shard = self.shard(rm, space, key).lock();
            let chains = shard.entry((rm, space)).or_default();
            match chains.get_mut(key) {
                Some(c) => {
                    c.entries.push(entry);
                    c.key.clone()
                }
                None => {
                    let key: Arc<[u8]> = key.into();
                    chains.insert(key.clone(), Chain { key: key.clone(), entries: vec![entry] });
                    key
                }
            }
        };
        txn.pushed.lock().push(VersionKey { rm, space, key });
    }

    /// Removes the version that `txn` pushed for the key (rollback: after the page is restored, under the
    /// same latch).
    pub fn pop(&self, txn: &Txn, rm: RmId, space: u32, key: &[u8]) {
        if !self.remove(txn.number(), rm, space, key) {
            return;
        }
        let mut pushed = txn.pushed.lock();
        // Rollback goes backward, so the last entry is nearly always the one.
        let at = pushed.iter().rposition(|k| k.rm == rm && k.space == space && *k.key == *key);
        if let Some(i) = at {
            pushed.remove(i);
        }
    }

    /// Removes the newest entry that the transaction `number` superseded. Whether there was one.
    fn remove(&self, number: u64, rm: RmId, space: u32, key: &[u8]) -> bool {
        let mut shard = self.shard(rm, space, key).lock();
        let Some(chains) = shard.get_mut(&(rm, space)) else { return false };
        let Some(chain) = chains.get_mut(key) else { return false };
        let Some(i) = chain.entries.iter().rposition(|e| e.superseder == number) else { return false };
        let entry = chain.entries.remove(i);
        if chain.entries.is_empty() {
            chains.remove(key);
            if chains.is_empty() {
                shard.remove(&(rm, space));
            }
        }
        self.bytes.fetch_sub(Self::cost(key, &entry.version), Ordering::Relaxed);
        self.count.fetch_sub(1, Ordering::Relaxed);
        true
    }

    /// The newest former state whose writer `visible` accepts. The caller holds the page's latch
    /// (TXN-VERSIONS).
    pub fn find(&self, rm: RmId, space: u32, key: &[u8], visible: &dyn Fn(TxnId) -> bool) -> FoundVersion {
        let shard = self.shard(rm, space, key).lock();
        let chain = shard.get(&(rm, space)).and_then(|c| c.get(key));
        let found = chain.and_then(|c| c.entries.iter().rev().find(|e| visible(e.version.writer)));
        match found {
            Some(e) => FoundVersion::Visible(e.version.clone()),
            None => FoundVersion::Absent,
        }
    }

    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
    /// Number of versions held.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// The transaction has committed: its entries wait for the horizon to reach `ts`.
    pub(crate) fn committed(&self, txn: &Txn, ts: Lsn) {
        let keys = std::mem::take(&mut *txn.pushed.lock());
        if !keys.is_empty() {
            self.committed.lock().insert(ts, (txn.number(), keys));
        }
    }

    /// The transaction is rolled back: no page carries its id, so nobody looks for what it superseded.
    pub(crate) fn rolled_back(&self, txn: &Txn) {
        let keys = std::mem::take(&mut *txn.pushed.lock());
        for k in keys {
            self.remove(txn.number(), k.rm, k.space, &k.key);
        }
    }

    /// Drops what no snapshot at or above `horizon` can need.
    pub(crate) fn collect(&self, horizon: Lsn) {
        loop {
            let (number, keys) = {
                let mut q = self.committed.lock();
                match q.first_entry() {
                    Some(e) if *e.key() <= horizon => e.remove(),
                    _ => return,
                }
            };
            for k in keys {
                self.remove(number, k.rm, k.space, &k.key);
            }
        }
    }
}
