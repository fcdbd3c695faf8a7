//! The version store: before-images of young records, in memory, within a budget. Nothing of it survives a
//! crash.
//!
//! When a transaction overwrites what another one wrote, the former state goes to the chain of its key,
//! newest last. A reader that may not see the state in the page walks the chain from the newest and takes the
//! first state whose writer it may see. An entry is dropped when its superseder has committed and no snapshot lies between
//! its writer and its superseder (TXN-BETWEEN). It is dropped before that transaction
//! counts as settled, so that the chain of a row that was deleted and taken away is empty (TXN-VERSIONS).
//!
//! Beyond the budget nothing is stored: the log holds the same bytes, as what an undo would restore. The transaction is
//! then *demoted*: it is listed here with its first LSN, which keeps the log from there on, and a reader that may need one
//! of its former states is told to look for it in the log (TXN-DEMOTED). The managers whose records can be read that way
//! use [`VersionStore::push_logged`].
use crate::Txn;
use crate::horizon::{Horizon, Needs};
use hamal_error::{Error, ErrorKind, Result};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{Lsn, RmId, TxnId};
use hamal_sync::Mutex;
use hamal_sync::atomic::{AtomicU64, AtomicUsize, Ordering};
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
#[derive(Debug)]
pub enum FoundVersion {
    /// The newest former state that the view may see.
    Visible(Version),
    /// There is none: the record did not exist for this view.
    Absent,
    /// What memory holds does not tell: it may be in the log, which is kept while this lives.
    Demoted(LogHold),
}

/// Keeps the log from being cut while a former state is looked for in it (TXN-DEMOTED).
#[derive(Debug)]
pub struct LogHold {
    from: Lsn,
    demoted: Arc<Mutex<Demotions>>,
}

impl LogHold {
    /// The state that is looked for is at or above this, if it is in the log alone. If it is not found there, there is none.
    pub fn from(&self) -> Lsn {
        self.from
    }
}

impl Drop for LogHold {
    fn drop(&mut self) {
        let mut d = self.demoted.lock();
        if let Some(n) = d.holds.get_mut(&self.from) {
            *n -= 1;
            if *n == 0 {
                d.holds.remove(&self.from);
            }
        }
    }
}

/// Which chain: manager, space, key.
#[derive(Clone, Debug)]
pub(crate) struct VersionKey {
    rm: RmId,
    space: u32,
    key: Arc<[u8]>,
    /// The log holds the state too.
    logged: bool,
    /// What the entry costs.
    cost: u32,
}

/// An entry whose superseder has committed, kept for a snapshot.
#[derive(Debug)]
struct Held {
    key: VersionKey,
    superseder: Superseder,
}

/// A committed transaction that replaced states.
#[derive(Clone, Copy, Debug)]
struct Superseder {
    number: u64,
    first: Lsn,
    ts: Lsn,
}

#[derive(Debug)]
struct Entry {
    /// Number of the transaction that replaced this state.
    superseder: u64,
    /// Its id, if the log holds this state too.
    by: TxnId,
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

/// What an entry costs beside key and data: map slots, vector, list of its transaction or snapshot.
const ENTRY_OVERHEAD: usize = 192;

/// Entries of committed transactions.
#[derive(Debug, Default)]
struct Committed {
    /// Not looked at yet, by timestamp; one commit has one timestamp.
    queue: BTreeMap<Lsn, (Superseder, Vec<VersionKey>)>,
    /// Those that a snapshot needs, by the oldest such.
    held: BTreeMap<Lsn, Vec<Held>>,
}

/// A transaction of whose former states some are in the log alone.
#[derive(Debug)]
struct Demoted {
    /// Its first LSN: the log is kept from here.
    first: Lsn,
    /// When it committed, if it has.
    ts: Option<Lsn>,
}

#[derive(Debug, Default)]
struct Demotions {
    /// By number.
    listed: HashMap<u64, Demoted>,
    /// Where somebody looks for former states now, and how many do.
    holds: BTreeMap<Lsn, usize>,
}

impl Demotions {
    /// The log is needed from here.
    fn pin(&self) -> Option<Lsn> {
        let held = self.holds.keys().next().copied();
        self.listed.values().map(|d| d.first).chain(held).min()
    }
}

/// The version store.
#[derive(Debug)]
pub struct VersionStore {
    shards: Box<[Shard]>,
    hasher: RandomState,
    budget: usize,
    bytes: AtomicUsize,
    count: AtomicUsize,
    committed: Mutex<Committed>,
    /// Taken last of all.
    demoted: Arc<Mutex<Demotions>>,
    /// How many are listed.
    demoted_now: AtomicUsize,
    /// Former states that went to the log alone.
    demotions: AtomicU64,
    /// One thread makes room at a time.
    thinning: Mutex<()>,
    /// Held while the log is cut, and while a transaction that need not be live any more is demoted.
    cutting: Mutex<()>,
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
            demoted: Arc::default(),
            demoted_now: AtomicUsize::new(0),
            demotions: AtomicU64::new(0),
            thinning: Mutex::new(()),
            cutting: Mutex::new(()),
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

    /// Makes sure that a version with `bytes` of data can be pushed by [`VersionStore::push`] (no latch held).
    ///
    /// # Errors
    /// `VersionBudget` if the budget is used up and collection freed nothing.
    pub fn admit(&self, bytes: usize) -> Result<()> {
        let wanted = bytes.saturating_add(ENTRY_OVERHEAD);
        let fits = |used: usize| used.saturating_add(wanted) <= self.budget;
        if fits(self.bytes()) {
            return Ok(());
        }
        self.horizon.advance(true, |needs| self.collect(needs));
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
    /// transaction. It has called [`VersionStore::admit`] before.
    pub fn push(&self, txn: &Txn, rm: RmId, space: u32, key: &[u8], version: Version) {
        let cost = Self::cost(key, &version);
        self.bytes.fetch_add(cost, Ordering::Relaxed);
        self.store(txn, rm, space, key, version, TxnId::NONE, cost);
    }

    /// [`VersionStore::push`] for a manager whose record, just logged by `txn`, holds the state as well, and that can
    /// find it there: needs no admission. Beyond the budget the state is not stored, and
    /// [`FoundVersion::Demoted`] sends readers to the log (TXN-DEMOTED).
    pub fn push_logged(&self, txn: &Txn, rm: RmId, space: u32, key: &[u8], version: Version) {
        let cost = Self::cost(key, &version);
        let unbounded = mutants::is(Mutant::NoVersionBudget);
        if !txn.demoted.load(Ordering::Relaxed) || unbounded {
            let used = self.bytes.fetch_add(cost, Ordering::Relaxed);
            if used + cost <= self.budget || unbounded {
                return self.store(txn, rm, space, key, version, txn.id(), cost);
            }
            self.bytes.fetch_sub(cost, Ordering::Relaxed);
            self.demote(txn.number(), Lsn(txn.id().0), None);
            txn.demoted.store(true, Ordering::Relaxed);
        }
        self.demotions.fetch_add(1, Ordering::Relaxed);
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of an entry")]
    fn store(&self, txn: &Txn, rm: RmId, space: u32, key: &[u8], version: Version, by: TxnId, cost: usize) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let entry = Entry { superseder: txn.number(), by, version };
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
        let key = VersionKey { rm, space, key, logged: !by.is_none(), cost: cost as u32 };
        txn.pushed.lock().push(key);
        txn.version_bytes.fetch_add(cost, Ordering::Relaxed);
    }

    /// Lists a transaction as demoted, before anything of it is looked for in vain.
    fn demote(&self, number: u64, first: Lsn, ts: Option<Lsn>) {
        let mut demoted = self.demoted.lock();
        demoted.listed.entry(number).or_insert(Demoted { first, ts });
        self.demoted_now.store(demoted.listed.len(), Ordering::SeqCst);
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
            let key = pushed.remove(i);
            txn.version_bytes.fetch_sub(key.cost as usize, Ordering::Relaxed);
        }
    }

    /// Removes the newest entry that the transaction `number` superseded. Whether there was one.
    fn remove(&self, number: u64, rm: RmId, space: u32, key: &[u8]) -> bool {
        self.remove_unless(number, rm, space, key, |_| false)
    }

    /// The same, unless `keep` says of its writer that it is to stay.
    fn remove_unless(
        &self,
        number: u64,
        rm: RmId,
        space: u32,
        key: &[u8],
        keep: impl FnOnce(TxnId) -> bool,
    ) -> bool {
        let mut shard = self.shard(rm, space, key).lock();
        let Some(chains) = shard.get_mut(&(rm, space)) else { return false };
        let Some(chain) = chains.get_mut(key) else { return false };
        let Some(i) = chain.entries.iter().rposition(|e| e.superseder == number) else { return false };
        if keep(chain.entries[i].version.writer) {
            return false;
        }
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

    /// The newest former state whose writer `visible` accepts, for a view with this snapshot. The caller holds the
    /// page's latch (TXN-VERSIONS).
    ///
    /// A state found here is the right one if whoever replaced it is not visible: everything newer was written later
    /// still. If it is visible, a newer state was demoted (TXN-DEMOTED).
    pub fn find(
        &self,
        rm: RmId,
        space: u32,
        key: &[u8],
        snapshot: Lsn,
        visible: &dyn Fn(TxnId) -> bool,
    ) -> FoundVersion {
        let found = {
            let shard = self.shard(rm, space, key).lock();
            let chain = shard.get(&(rm, space)).and_then(|c| c.get(key));
            let found = chain.and_then(|c| c.entries.iter().rev().find(|e| visible(e.version.writer)));
            found.map(|e| (e.version.clone(), e.by))
        };
        let blind = mutants::is(Mutant::DemotedNotLookedFor);
        match found {
            Some((v, by)) if by.is_none() || blind || !visible(by) => FoundVersion::Visible(v),
            None if blind => FoundVersion::Absent,
            // What is nowhere is nothing that the view could see: it was pruned, or is a ghost that had settled.
            _ => self.hold_log(snapshot).map_or(FoundVersion::Absent, FoundVersion::Demoted),
        }
    }

    /// Who wrote the newest former state of a record that the live transaction `by` has overwritten; none if that is in the
    /// log alone. The caller holds the page's latch.
    pub(crate) fn former_writer(&self, rm: RmId, space: u32, key: &[u8], by: TxnId) -> Option<TxnId> {
        let shard = self.shard(rm, space, key).lock();
        let newest = shard.get(&(rm, space)).and_then(|c| c.get(key)).and_then(|c| c.entries.last())?;
        (newest.by.is_none() || newest.by == by).then_some(newest.version.writer)
    }

    /// If a transaction was demoted whose changes the snapshot does not see: keeps the log from the first of them on, also if they
    /// are rolled back meanwhile.
    fn hold_log(&self, snapshot: Lsn) -> Option<LogHold> {
        if self.demoted_now.load(Ordering::SeqCst) == 0 {
            return None;
        }
        let mut d = self.demoted.lock();
        let unseen = d.listed.values().filter(|d| d.ts.is_none_or(|ts| ts > snapshot));
        let from = unseen.map(|d| d.first).min()?;
        *d.holds.entry(from).or_default() += 1;
        Some(LogHold { from, demoted: self.demoted.clone() })
    }

    /// Bytes in use.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }
    /// Number of versions held.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
    /// Former states that were left to the log since the database was opened.
    pub fn demotions(&self) -> u64 {
        self.demotions.load(Ordering::Relaxed)
    }

    /// Runs `cut` with the lowest LSN that the log may be cut at for the sake of former states (TXN-DEMOTED).
    pub(crate) fn while_cutting<T>(&self, cut: impl FnOnce(Option<Lsn>) -> T) -> T {
        let _no_demotion = self.cutting.lock();
        cut(self.pin().filter(|_| !mutants::is(Mutant::DemotionPinsNoLog)))
    }

    /// The log is needed from here for former states that are in it alone.
    pub fn pin(&self) -> Option<Lsn> {
        self.demoted.lock().pin()
    }
    /// The same, for the sake of snapshots alone: the committed transaction that keeps the most log, as its first LSN
    /// and its timestamp. Ending the snapshots below its timestamp releases it.
    pub fn pin_of_snapshots(&self) -> Option<(Lsn, Lsn)> {
        self.demoted.lock().listed.values().filter_map(|d| Some((d.first, d.ts?))).min()
    }

    /// The transaction has committed: its entries wait until no snapshot needs them.
    pub(crate) fn committed(&self, txn: &Txn, ts: Lsn) {
        let mut pushed = txn.pushed.lock();
        let keys = std::mem::take(&mut *pushed);
        if let Some(d) = self.demoted.lock().listed.get_mut(&txn.number()) {
            d.ts = Some(ts);
        }
        drop(pushed);
        if !keys.is_empty() {
            let by = Superseder { number: txn.number(), first: Lsn(txn.id().0), ts };
            self.committed.lock().queue.insert(ts, (by, keys));
        }
    }

    /// The transaction is rolled back: no page carries its id, so nobody looks for what it superseded.
    pub(crate) fn rolled_back(&self, txn: &Txn) {
        let mut pushed = txn.pushed.lock();
        let keys = std::mem::take(&mut *pushed);
        {
            let mut demoted = self.demoted.lock();
            demoted.listed.remove(&txn.number());
            self.demoted_now.store(demoted.listed.len(), Ordering::SeqCst);
        }
        drop(pushed);
        for k in keys {
            self.remove(txn.number(), k.rm, k.space, &k.key);
        }
    }

    /// Drops what no snapshot can need.
    pub(crate) fn collect(&self, needs: &Needs) {
        let closed: Vec<Held> = {
            let mut c = self.committed.lock();
            let at: Vec<Lsn> = c.held.keys().filter(|s| !needs.is_open(**s)).copied().collect();
            at.into_iter().filter_map(|s| c.held.remove(&s)).flatten().collect()
        };
        for h in closed {
            self.drop_or_hold(h, needs);
        }
        loop {
            let (superseder, keys) = {
                let mut c = self.committed.lock();
                match c.queue.first_entry() {
                    Some(e) if *e.key() <= needs.durable => e.remove(),
                    _ => break,
                }
            };
            for key in keys {
                self.drop_or_hold(Held { key, superseder }, needs);
            }
        }
        if self.demoted_now.load(Ordering::SeqCst) != 0 {
            let mut demoted = self.demoted.lock();
            demoted.listed.retain(|_, d| d.ts.is_none_or(|ts| ts > needs.h));
            self.demoted_now.store(demoted.listed.len(), Ordering::SeqCst);
        }
    }

    fn drop_or_hold(&self, held: Held, needs: &Needs) {
        let (k, by) = (&held.key, held.superseder);
        let mut holder = None;
        self.remove_unless(by.number, k.rm, k.space, &k.key, |writer| {
            holder = needs.between(writer.0, by.ts);
            holder.is_some()
        });
        if let Some(s) = holder {
            self.committed.lock().held.entry(s).or_default().push(held);
        }
    }

    /// Whether so little room is left that somebody should make some.
    pub(crate) fn is_crowded(&self) -> bool {
        self.bytes() > self.budget / 8 * 7 && !mutants::is(Mutant::NoVersionBudget)
    }

    /// Leaves to the log what the greediest hold, so that small transactions and short snapshots find room: live writers
    /// that hold more than an eighth of the budget, then what the oldest snapshots hold. No latch held.
    pub(crate) fn thin(&self, live: &[Arc<Txn>]) {
        let Some(_one) = self.thinning.try_lock() else { return };
        // What is demoted must be in the log, and stay there: it is listed before the log can be cut.
        let Some(_no_cut) = self.cutting.try_lock() else { return };
        let enough = || self.bytes() <= self.budget / 2;
        let mut greedy: Vec<_> = live.iter().map(|t| (t.version_bytes.load(Ordering::Relaxed), t)).collect();
        greedy.sort_by_key(|(bytes, _)| std::cmp::Reverse(*bytes));
        for (bytes, txn) in greedy {
            if enough() || bytes < self.budget / 8 {
                break;
            }
            self.demote_live(txn);
        }
        while !enough() && self.demote_held() {}
    }

    fn demote_live(&self, txn: &Txn) {
        let mut pushed = txn.pushed.lock();
        // It may have ended: then the list is empty, or the log that it kept is cut.
        if !pushed.iter().any(|k| k.logged) || Lsn(txn.id().0) < self.horizon.log_oldest() {
            return;
        }
        self.demote(txn.number(), Lsn(txn.id().0), None);
        txn.demoted.store(true, Ordering::Relaxed);
        pushed.retain(|k| {
            if k.logged {
                self.remove(txn.number(), k.rm, k.space, &k.key);
                txn.version_bytes.fetch_sub(k.cost as usize, Ordering::Relaxed);
                self.demotions.fetch_add(1, Ordering::Relaxed);
            }
            !k.logged
        });
    }

    /// Leaves to the log what one snapshot holds. Whether there was something.
    fn demote_held(&self) -> bool {
        let mut c = self.committed.lock();
        let oldest_lsn = self.horizon.log_oldest();
        let out = |h: &Held| h.key.logged && h.superseder.first >= oldest_lsn;
        let Some(at) = c.held.iter().find(|(_, list)| list.iter().any(out)).map(|(s, _)| *s) else {
            return false;
        };
        let Some(list) = c.held.get_mut(&at) else { return false };
        list.retain(|h| {
            if out(h) {
                let (k, by) = (&h.key, h.superseder);
                self.demote(by.number, by.first, Some(by.ts));
                self.remove(by.number, k.rm, k.space, &k.key);
                self.demotions.fetch_add(1, Ordering::Relaxed);
            }
            !out(h)
        });
        true
    }
}
