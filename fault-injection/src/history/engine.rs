//! What a workload needs of an engine, and hamal as one. Keys are numbers, values bytes; there is one tree.
use super::record::Level;
use hamal::disk::{CrashModel, MemDisk};
use hamal::{Database, Durability, ErrorKind, Isolation, ReadTxn, Tree, WriteOptions, WriteTxn};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The statement was undone, and the transaction may go on.
    Statement,
    /// The transaction was rolled back, or is to be.
    Transaction,
    /// A commit of which nobody knows whether it happened.
    Unknown,
    /// What should not happen at all.
    Broken(String),
}

/// An engine under test.
pub trait Engine: Send + Sync {
    /// Begins a transaction.
    ///
    /// # Errors
    /// What failed.
    fn begin(&self, level: Level) -> Result<Box<dyn Session + '_>, Failure>;
    /// Does something that must not matter, such as a checkpoint. Called now and then by some thread; `which` is random.
    ///
    /// # Errors
    /// What failed.
    fn disturb(&self, which: u64) -> Result<(), Failure> {
        let _ = which;
        Ok(())
    }
    /// Crashes it at this moment, in the way that the seed says, and opens what is left. This one goes on as if nothing had happened;
    /// what it does from now on is lost. None: it cannot.
    fn crash(&self, seed: u64) -> Option<Result<Box<dyn Engine>, Failure>> {
        let _ = seed;
        None
    }
}

/// A row's value.
pub type Bytes = Vec<u8>;

/// A transaction of an engine under test.
pub trait Session {
    /// The value of a key.
    ///
    /// # Errors
    /// What failed.
    fn get(&mut self, key: u64) -> Result<Option<Bytes>, Failure>;
    /// The value of a key, which nobody else can change until the end.
    ///
    /// # Errors
    /// What failed.
    fn get_for_update(&mut self, key: u64) -> Result<Option<Bytes>, Failure>;
    /// All rows from one key up to, not including, another, ascending.
    ///
    /// # Errors
    /// What failed.
    fn range(&mut self, low: u64, high: u64) -> Result<Vec<(u64, Bytes)>, Failure>;
    /// Writes a row, or deletes it.
    ///
    /// # Errors
    /// What failed.
    fn put(&mut self, key: u64, value: Option<&[u8]>) -> Result<(), Failure>;
    /// Writes a row, or deletes it, and tells what was there: a read that locks. To delete what is not there is only a read.
    ///
    /// # Errors
    /// What failed.
    fn replace(&mut self, key: u64, value: Option<&[u8]>) -> Result<Option<Bytes>, Failure> {
        let old = self.get_for_update(key)?;
        self.put(key, value)?;
        Ok(old)
    }
    /// A savepoint, by a number of its own; none: there are no savepoints.
    ///
    /// # Errors
    /// What failed.
    fn savepoint(&mut self) -> Result<Option<usize>, Failure> {
        Ok(None)
    }
    /// Undoes all that came after a savepoint.
    ///
    /// # Errors
    /// What failed.
    fn rollback_to(&mut self, savepoint: usize) -> Result<(), Failure> {
        let _ = savepoint;
        Err(Failure::Broken("there are no savepoints".to_owned()))
    }
    /// The timestamp of its snapshot now; none if that is not known.
    fn snapshot(&self) -> Option<u64> {
        None
    }
    /// Commits durably; returns the commit's timestamp, if it is known.
    ///
    /// # Errors
    /// What failed. Then it is rolled back, or nobody knows.
    fn commit(self: Box<Self>) -> Result<Option<u64>, Failure>;
    /// Rolls back.
    ///
    /// # Errors
    /// What failed.
    fn rollback(self: Box<Self>) -> Result<(), Failure>;
}

/// hamal, on a disk in memory.
#[derive(Debug)]
pub struct HamalEngine {
    db: Database,
    disk: MemDisk,
    seed: u64,
    begun: AtomicU64,
}

const TREE: &str = "rows";

impl HamalEngine {
    /// A new one, as small as it gets, so that pages split, are evicted and written. The seed chooses what does not matter.
    ///
    /// # Errors
    /// What failed.
    pub fn new(seed: u64) -> Result<HamalEngine, Failure> {
        let disk = MemDisk::new();
        let db = options(seed).create_on(Arc::new(disk.clone())).map_err(failure)?;
        let tx = db.begin_write().map_err(failure)?;
        tx.create_tree(TREE).map_err(failure)?;
        tx.commit().map_err(failure)?;
        Ok(HamalEngine { db, disk, seed, begun: AtomicU64::new(0) })
    }
}

fn options(seed: u64) -> hamal::Builder {
    Database::builder()
        .page_size(4096)
        .cache_bytes(48 * 4096)
        .log_segment_bytes(64 << 10)
        .log_ring_bytes(256 << 10)
        .log_limit_bytes(8 << 20)
        .checkpoint_log_bytes(128 << 10)
        .version_budget_bytes(if seed.is_multiple_of(3) { 64 << 10 } else { 4 << 20 })
        .lock_timeout(Duration::from_secs(10))
        .background(seed % 4 < 2)
        .recovery_threads(1)
}

fn failure(e: hamal::Error) -> Failure {
    match e.kind() {
        ErrorKind::OutcomeUnknown => Failure::Unknown,
        ErrorKind::TransactionEnded | ErrorKind::SnapshotTooOld => Failure::Transaction,
        _ if e.is_retryable() => Failure::Statement,
        _ => Failure::Broken(e.to_string()),
    }
}

impl Engine for HamalEngine {
    fn begin(&self, level: Level) -> Result<Box<dyn Session + '_>, Failure> {
        let isolation = match level {
            Level::ReadOnly => {
                let tx = self.db.begin_read().map_err(failure)?;
                let tree = tx.tree(TREE).map_err(failure)?;
                return Ok(Box::new(Reader { tree, tx, reverse: false }));
            }
            Level::ReadCommitted => Isolation::ReadCommitted,
            Level::Snapshot => Isolation::Snapshot,
            Level::Serializable => Isolation::Serializable,
        };
        let n = self.begun.fetch_add(1, Relaxed);
        let mut options = WriteOptions::new().isolation(isolation);
        // A small read set, so that what is read is also joined and widened.
        if n.is_multiple_of(5) {
            options = options.read_set_bytes(1 << 10);
        }
        let tx = self.db.begin_write_with(options).map_err(failure)?;
        let tree = tx.tree(TREE).map_err(failure)?;
        let tree = if n.is_multiple_of(7) { tree.no_wait() } else { tree };
        Ok(Box::new(Writer { tree, tx, savepoints: Vec::new(), n }))
    }

    fn disturb(&self, which: u64) -> Result<(), Failure> {
        match which % 4 {
            0 => self.db.flush().map(drop),
            1 => self.db.checkpoint().map(drop),
            _ => self.db.maintenance_step().map(drop),
        }
        .map_err(failure)
    }

    fn crash(&self, seed: u64) -> Option<Result<Box<dyn Engine>, Failure>> {
        let model = match seed % 4 {
            0 => CrashModel::LoseUnsynced,
            1 => CrashModel::KeepAll,
            n => CrashModel::Random { seed, torn_sector_bytes: if n == 2 { 512 } else { 4096 } },
        };
        let disk = self.disk.crash(model);
        let opened = options(self.seed).open_on(Arc::new(disk.clone())).map_err(failure);
        Some(opened.map(|db| {
            let engine = HamalEngine { db, disk, seed: self.seed, begun: AtomicU64::new(0) };
            Box::new(engine) as Box<dyn Engine>
        }))
    }
}

fn rows<K: AsRef<[u8]>, V: AsRef<[u8]>>(
    rows: impl Iterator<Item = hamal::Result<(K, V)>>,
    reverse: bool,
) -> Result<Vec<(u64, Bytes)>, Failure> {
    let mut out = Vec::new();
    for row in rows {
        let (key, value) = row.map_err(failure)?;
        let key = key.as_ref().try_into().map_err(|_| Failure::Broken("a key of another length".into()))?;
        out.push((u64::from_be_bytes(key), value.as_ref().to_vec()));
    }
    if reverse {
        out.reverse();
    }
    Ok(out)
}

struct Reader {
    tree: hamal::ReadTree,
    tx: ReadTxn,
    reverse: bool,
}

impl Session for Reader {
    fn get(&mut self, key: u64) -> Result<Option<Bytes>, Failure> {
        Ok(self.tree.get(key.to_be_bytes()).map_err(failure)?.map(|v| v.to_vec()))
    }
    fn get_for_update(&mut self, _: u64) -> Result<Option<Bytes>, Failure> {
        Err(Failure::Broken("a snapshot locks nothing".into()))
    }
    fn range(&mut self, low: u64, high: u64) -> Result<Vec<(u64, Bytes)>, Failure> {
        let range = self.tree.range(low.to_be_bytes()..high.to_be_bytes());
        self.reverse = !self.reverse;
        if self.reverse { rows(range.rev(), true) } else { rows(range, false) }
    }
    fn put(&mut self, _: u64, _: Option<&[u8]>) -> Result<(), Failure> {
        Err(Failure::Broken("a snapshot writes nothing".into()))
    }
    fn snapshot(&self) -> Option<u64> {
        Some(self.tx.snapshot().0)
    }
    fn commit(self: Box<Self>) -> Result<Option<u64>, Failure> {
        Ok(None)
    }
    fn rollback(self: Box<Self>) -> Result<(), Failure> {
        Ok(())
    }
}

struct Writer {
    tree: Tree,
    tx: WriteTxn,
    savepoints: Vec<hamal::Savepoint>,
    n: u64,
}

impl Session for Writer {
    fn get(&mut self, key: u64) -> Result<Option<Bytes>, Failure> {
        Ok(self.tree.get(key.to_be_bytes()).map_err(failure)?.map(|v| v.to_vec()))
    }
    fn get_for_update(&mut self, key: u64) -> Result<Option<Bytes>, Failure> {
        Ok(self.tree.get_for_update(key.to_be_bytes()).map_err(failure)?.map(|v| v.to_vec()))
    }
    fn range(&mut self, low: u64, high: u64) -> Result<Vec<(u64, Bytes)>, Failure> {
        let range = self.tree.range(low.to_be_bytes()..high.to_be_bytes());
        self.n += 1;
        let reverse = self.n.is_multiple_of(2);
        if reverse { rows(range.rev(), true) } else { rows(range, false) }
    }
    fn put(&mut self, key: u64, value: Option<&[u8]>) -> Result<(), Failure> {
        let key = key.to_be_bytes();
        match value {
            Some(value) => self.tree.put(key, value),
            None => self.tree.remove(key).map(drop),
        }
        .map_err(failure)
    }
    fn replace(&mut self, key: u64, value: Option<&[u8]>) -> Result<Option<Bytes>, Failure> {
        let key = key.to_be_bytes();
        let old = match value {
            Some(value) => self.tree.insert(key, value),
            None => self.tree.remove(key),
        };
        Ok(old.map_err(failure)?.map(|v| v.to_vec()))
    }
    fn savepoint(&mut self) -> Result<Option<usize>, Failure> {
        self.savepoints.push(self.tx.savepoint().map_err(failure)?);
        Ok(Some(self.savepoints.len() - 1))
    }
    fn rollback_to(&mut self, savepoint: usize) -> Result<(), Failure> {
        self.tx.rollback_to(&self.savepoints[savepoint]).map_err(failure)?;
        self.savepoints.truncate(savepoint + 1);
        Ok(())
    }
    fn snapshot(&self) -> Option<u64> {
        Some(self.tx.snapshot().0)
    }
    fn commit(self: Box<Self>) -> Result<Option<u64>, Failure> {
        let early = self.n.is_multiple_of(3);
        let durability = if early { Durability::Async } else { Durability::Sync };
        let done = self.tx.commit_with(durability);
        if early {
            // A moment at which it is committed and not durable, on one core too.
            std::thread::yield_now();
        }
        let at = done.and_then(|t| t.wait().map(|()| t.lsn().0));
        at.map(Some).map_err(|e| match failure(e) {
            Failure::Statement => Failure::Transaction,
            other => other,
        })
    }
    fn rollback(self: Box<Self>) -> Result<(), Failure> {
        self.tx.rollback().map_err(failure)
    }
}
