//! A small storage engine, as an example of how an engine is brought to the harness; what is planted in it as
//! [bugs](ToyBug) aside, some four hundred lines.
//!
//! Everything committed is held in memory. A commit appends one record with all changes of the transaction to a
//! log and syncs it. A *checkpoint* writes everything to a snapshot file and goes on with an empty log. Recovery
//! reads the snapshot, then the log up to the first bad record.
//!
//! | file | what |
//! |---|---|
//! | `data` | the snapshot: one record; its *generation* is in it |
//! | `data.tmp` | a snapshot that is being written |
//! | `wal/N` | the log that follows the snapshot of generation N: records |
//!
//! Why it survives crashes, in five rules; each [`ToyBug`] breaks one:
//! 1. A commit is acknowledged after the sync of its record. A sync that failed is the engine's end: nobody knows what the
//!    operating system still holds.
//! 2. A record is whole or it does not count: its checksum covers all of it, and what follows a bad one does not
//!    count either. Recovery cuts the bad tail off, durably, before anything new is written over a part of it.
//! 3. Nothing is ever written into a sector that holds something acknowledged.
//! 4. A checkpoint replaces the snapshot by one atomic step, the rename of a file that has been synced. Before that step
//!    becomes durable nothing of the old generation goes; after it nothing of the old generation counts.
//! 5. A name is there after a crash if its directory has been synced since. So the new log has a durable name before the
//!    rename, and with that before the first commit goes there.
//!
//! It takes no lock against a second process, and memory must hold everything. It is a toy.
mod bug;
mod record;

pub use bug::ToyBug;

use crate::engine::{Applied, Config, Engine, Failure, FailureKind, Opened, Session};
use crate::model::{Contents, number};
use crate::op::{Ack, Op, Txn, key_bytes, value_bytes};
use hamal::disk::{Disk, DiskFile, OpenMode};
use record::{Change, Record, SECTOR};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

const CREATE: OpenMode =
    OpenMode { create: true, create_new: false, read_only: false, direct: false, dsync: false };

/// The engine. It has no options, so it ignores the [`Config`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Toy {
    bug: Option<ToyBug>,
}

impl Toy {
    /// Without bugs.
    pub fn new() -> Toy {
        Toy::default()
    }
    /// With one.
    pub fn with_bug(bug: ToyBug) -> Toy {
        Toy { bug: Some(bug) }
    }
    fn has(self, bug: ToyBug) -> bool {
        self.bug == Some(bug)
    }
    fn pad(self) -> u64 {
        if self.has(ToyBug::RecordsShareSectors) { 1 } else { SECTOR }
    }
    fn checks(self) -> bool {
        !self.has(ToyBug::ChecksumIgnored) && !self.has(ToyBug::CommitMark)
    }
}

impl Engine for Toy {
    fn name(&self) -> &str {
        "toy"
    }
    fn create(&self, disk: Arc<dyn Disk>, config: &Config) -> Result<Box<dyn Session>, Failure> {
        self.open(disk, config)
    }
    fn open(&self, disk: Arc<dyn Disk>, _: &Config) -> Result<Box<dyn Session>, Failure> {
        Ok(Box::new(Store::open(disk, *self)?))
    }
}

/// A transaction works on a copy of its own; when it commits, its changes are repeated on what is there then.
struct Open {
    view: Contents,
    changes: Vec<Change>,
    savepoints: Vec<(u8, usize, Contents)>,
    /// How many commits there were in the history when it began.
    began: usize,
}

/// An open database.
struct Store {
    disk: Arc<dyn Disk>,
    toy: Toy,
    committed: Contents,
    open: BTreeMap<Txn, Open>,
    /// What has been committed while transactions were open: for conflicts.
    history: Vec<Vec<Change>>,
    generation: u64,
    log: Arc<dyn DiskFile>,
    /// Where the next record goes.
    end: u64,
    /// So much of the log is durable.
    synced: u64,
    /// Why the engine has died.
    dead: Option<String>,
    opened: Opened,
}

/// What the files hold.
struct Loaded {
    contents: Contents,
    generation: u64,
    log: Arc<dyn DiskFile>,
    /// Where the good records end.
    end: u64,
    /// Whether something follows there.
    torn: bool,
}

fn log_name(generation: u64) -> String {
    format!("wal/{generation}")
}

fn failed(e: io::Error) -> Failure {
    match e.kind() {
        io::ErrorKind::StorageFull => Failure::new(FailureKind::NoSpace, format!("NoSpace: {e}")),
        _ => Failure::new(FailureKind::Io, format!("Io: {e}")),
    }
}

fn damage(text: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Damage, text)
}

fn refused<T>(text: String) -> Result<T, Failure> {
    Err(Failure::new(FailureKind::Refused, text))
}

/// Reads snapshot and log. `None` if there is no snapshot, as before the end of a creation.
fn load(disk: &dyn Disk, toy: Toy) -> Result<Option<Loaded>, Failure> {
    let data = match disk.open("data", OpenMode { read_only: true, ..OpenMode::default() }) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(failed)?,
    };
    let Some((snapshot, _)) = Record::read(&*data, 0, toy.pad(), toy.checks()).map_err(failed)? else {
        return Err(damage("SnapshotCorrupt: the snapshot is damaged"));
    };
    let generation = snapshot.generation;
    let mut contents = Contents::default();
    snapshot.changes.iter().for_each(|c| c.apply(&mut contents));
    let log = match disk.open(&log_name(generation), OpenMode::default()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Err(damage(format!("LogMissing: there is no log of generation {generation}")));
        }
        other => other.map_err(failed)?,
    };
    let len = log.len().map_err(failed)?;
    let read = |at| -> Result<_, Failure> {
        let found = Record::read(&*log, at, toy.pad(), toy.checks()).map_err(failed)?;
        Ok(found.filter(|(r, _)| r.generation == generation))
    };
    let mut end = 0;
    while let Some((record, next)) = read(end)? {
        record.changes.iter().for_each(|c| c.apply(&mut contents));
        end = next;
    }
    // A bad record is the torn tail of the log, written and never acknowledged; unless a later one knows that the log had
    // been durable up to a place behind it.
    let mut at = end + toy.pad();
    while at < len {
        if let Some((record, next)) = read(at)? {
            if record.synced > end {
                return Err(damage(format!(
                    "LogCorrupt: the record at byte {end} was durable and is damaged"
                )));
            }
            if toy.has(ToyBug::BadRecordSkipped) {
                record.changes.iter().for_each(|c| c.apply(&mut contents));
                (at, end) = (next, next);
                continue;
            }
        }
        at += toy.pad();
    }
    Ok(Some(Loaded { contents, generation, log, end, torn: end < len }))
}

/// Writes a snapshot and makes it the one that counts, with an empty log. Before the rename, an error changes nothing that
/// counts; after it, the error is `Other`.
fn start_generation(disk: &dyn Disk, toy: Toy, generation: u64, contents: &Contents) -> io::Result<()> {
    let log = disk.open(&log_name(generation), CREATE)?;
    drop(log);
    if !toy.has(ToyBug::NewLogNotSynced) {
        disk.sync_dir("wal")?;
    }
    if toy.has(ToyBug::LogCutFirst) {
        let _ = disk.remove(&log_name(generation - 1));
        disk.sync_dir("wal")?;
    }
    let name = if toy.has(ToyBug::SnapshotInPlace) { "data" } else { "data.tmp" };
    let file = disk.open(name, CREATE)?;
    // A crash may have left an earlier attempt.
    file.set_len(0)?;
    let record = Record { generation, synced: 0, changes: Change::all_of(contents) };
    let bytes = record.encode(toy.pad());
    if toy.has(ToyBug::SnapshotGrowsAfterSync) {
        let (front, rest) = bytes.split_at(bytes.len().min(SECTOR as usize));
        file.write_at(0, front)?;
        file.sync()?;
        file.write_at(front.len() as u64, rest)?;
    } else {
        file.write_at(0, &bytes)?;
        if !toy.has(ToyBug::SnapshotNotSynced) {
            file.sync()?;
        }
    }
    if name != "data" {
        disk.rename(name, "data")?;
    }
    if !toy.has(ToyBug::NoDirSync) {
        disk.sync_dir("").map_err(io::Error::other)?;
    }
    Ok(())
}

impl Store {
    fn open(disk: Arc<dyn Disk>, toy: Toy) -> Result<Store, Failure> {
        // If only the process died, the names found now may be in the cache alone: what follows builds on them.
        disk.sync_dir("").map_err(failed)?;
        let loaded = match load(&*disk, toy)? {
            Some(loaded) => loaded,
            None => {
                Store::make(&*disk, toy)?;
                load(&*disk, toy)?.ok_or_else(|| damage("SnapshotMissing: it was just made"))?
            }
        };
        let Loaded { contents, generation, log, end, torn } = loaded;
        if torn && !toy.has(ToyBug::TailNotCut) {
            log.set_len(end).map_err(failed)?;
        }
        // The cut, and with it what was read: that too may be in the cache alone.
        log.sync().map_err(failed)?;
        // What checkpoints that were cut short left over.
        for name in disk.list("wal").map_err(failed)? {
            if name != generation.to_string() {
                let _ = disk.remove(&format!("wal/{name}"));
            }
        }
        disk.sync_dir("wal").map_err(failed)?;
        let opened = Opened {
            clean: !torn && end == 0,
            verdict: if torn { "torn tail" } else { "clean" }.to_owned(),
            log_bytes: end,
            ..Opened::default()
        };
        let (open, history) = (BTreeMap::new(), Vec::new());
        let dead = None;
        Ok(Store {
            disk,
            toy,
            committed: contents,
            open,
            history,
            generation,
            log,
            end,
            synced: end,
            dead,
            opened,
        })
    }

    /// Makes an empty database, unless there has been one.
    fn make(disk: &dyn Disk, toy: Toy) -> Result<(), Failure> {
        disk.create_dir("wal").map_err(failed)?;
        disk.sync_dir("").map_err(failed)?;
        for name in disk.list("wal").map_err(failed)? {
            let file = disk.open(&format!("wal/{name}"), OpenMode::default()).map_err(failed)?;
            if !file.is_empty().map_err(failed)? {
                return Err(damage("SnapshotMissing: there is a log, and no snapshot that it follows"));
            }
        }
        start_generation(disk, toy, 1, &Contents::default()).map_err(failed)
    }

    /// An error after which nobody knows what is on the disk.
    fn die(&mut self, e: &io::Error) -> Failure {
        let text = format!("Dead: {e}");
        self.dead = Some(text.clone());
        Failure::new(FailureKind::Dead, text)
    }

    fn sync(&mut self) -> Result<(), Failure> {
        let mut done = self.log.sync();
        if done.is_err() && self.toy.has(ToyBug::SyncRetried) {
            done = self.log.sync();
        }
        done.map_err(|e| self.die(&e))?;
        self.synced = self.end;
        Ok(())
    }

    fn commit(&mut self, txn: Txn, ack: Ack) -> Result<(), Failure> {
        let Some(Open { changes, began, .. }) = self.open.remove(&txn) else {
            return refused(format!("NotOpen: transaction {txn} is not open"));
        };
        // The first committer wins: what this transaction has seen of the rows that it changed is old.
        let since = self.history[began..].iter().flatten();
        let clash = since.into_iter().any(|theirs| changes.iter().any(|mine| mine.clashes(theirs)));
        if clash && !self.toy.has(ToyBug::LostUpdate) {
            return refused(format!("Conflict: another transaction changed what {txn} did"));
        }
        let durable = ack == Ack::Durable && !self.toy.has(ToyBug::AckBeforeSync);
        if durable && self.synced < self.end {
            // Earlier records are durable before this one says so. Otherwise, if one of them was lost on its way,
            // recovery would take the loss and this record for a torn tail.
            self.sync()?;
        }
        if !changes.is_empty() {
            let record = Record { generation: self.generation, synced: self.synced, changes };
            self.append(&record.encode(self.toy.pad()))?;
            if durable {
                self.sync()?;
            }
            record.changes.iter().for_each(|c| c.apply(&mut self.committed));
            self.history.push(record.changes);
        }
        if self.open.is_empty() {
            self.history.clear();
        }
        Ok(())
    }

    fn append(&mut self, record: &[u8]) -> Result<(), Failure> {
        let written = if self.toy.has(ToyBug::CommitMark) {
            let (mark, rest) = record.split_at(SECTOR as usize);
            self.log.write_at(self.end + SECTOR, rest).and_then(|()| self.log.write_at(self.end, mark))
        } else {
            self.log.write_at(self.end, record)
        };
        match written {
            Ok(()) => {
                self.end += record.len() as u64;
                Ok(())
            }
            // Refused, if the part that was written can be taken back.
            Err(e) if e.kind() == io::ErrorKind::StorageFull => {
                self.log.set_len(self.end).map_err(|e| self.die(&e))?;
                Err(failed(e))
            }
            Err(e) => Err(self.die(&e)),
        }
    }

    fn checkpoint(&mut self) -> Result<(), Failure> {
        let next = self.generation + 1;
        match start_generation(&*self.disk, self.toy, next, &self.committed) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::StorageFull => return Err(failed(e)),
            Err(e) => return Err(self.die(&e)),
        }
        self.log = self.disk.open(&log_name(next), OpenMode::default()).map_err(|e| self.die(&e))?;
        // If this fails, or is lost in a crash, recovery does it.
        let _ = self.disk.remove(&log_name(self.generation));
        (self.generation, self.end, self.synced) = (next, 0, 0);
        Ok(())
    }

    /// An operation of an open transaction: on its own copy.
    fn change(&mut self, op: &Op) -> Result<(), Failure> {
        if matches!(op, Op::Load { .. }) {
            return op.rows().try_for_each(|row| self.change(&row));
        }
        let op = &*op.change();
        let Some(open) = op.txn().and_then(|txn| self.open.get_mut(&txn)) else {
            return refused(format!("NotOpen: `{op}` is for no open transaction"));
        };
        let change = match *op {
            Op::Savepoint { name, .. } => {
                open.savepoints.push((name, open.changes.len(), open.view.clone()));
                return Ok(());
            }
            Op::RollbackTo { name, .. } => {
                let Some(i) = open.savepoints.iter().rposition(|(n, ..)| *n == name) else {
                    return refused(format!("NotFound: there is no savepoint {name}"));
                };
                open.savepoints.truncate(i + 1);
                open.changes.truncate(open.savepoints[i].1);
                open.view = open.savepoints[i].2.clone();
                return Ok(());
            }
            Op::CreateTree { tree, .. } => Change::Create(tree),
            Op::DropTree { tree, .. } => Change::Drop(tree),
            Op::Put { tree, key, len, fill, .. } => Change::Put(tree, key_bytes(key), value_bytes(len, fill)),
            Op::Delete { tree, key, .. } => Change::Delete(tree, key_bytes(key)),
            Op::Add { tree, key, delta, .. } => {
                let key = key_bytes(key);
                let old = open.view.trees.get(&tree).and_then(|rows| rows.get(&key)).map_or(0, |v| number(v));
                Change::Put(tree, key, old.wrapping_add(i64::from(delta)).to_le_bytes().to_vec())
            }
            Op::PutWithin { .. }
            | Op::CreateFar { .. }
            | Op::Load { .. }
            | Op::Begin { .. }
            | Op::Commit { .. }
            | Op::Rollback { .. }
            | Op::Checkpoint
            | Op::Flush
            | Op::Step
            | Op::Compact
            | Op::Reopen
            | Op::Snapshot { .. }
            | Op::Look { .. }
            | Op::Release { .. }
            | Op::Read { .. }
            | Op::Kill
            | Op::Rival
            | Op::Full
            | Op::Room
            | Op::Here => return Ok(()),
        };
        let (Change::Create(tree) | Change::Drop(tree) | Change::Put(tree, ..) | Change::Delete(tree, ..)) =
            change;
        if open.view.trees.contains_key(&tree) == matches!(change, Change::Create(_)) {
            return refused(format!("`{op}`: tree {tree} does not exist, or does already"));
        }
        change.apply(&mut open.view);
        open.changes.push(change);
        Ok(())
    }

    fn alive(&self) -> Result<(), Failure> {
        self.dead.as_ref().map_or(Ok(()), |text| Err(Failure::new(FailureKind::Dead, text.clone())))
    }
}

impl Session for Store {
    fn apply(&mut self, op: &Op) -> Result<Applied, Failure> {
        self.alive()?;
        match *op {
            Op::Begin { txn } => {
                let (view, began) = (self.committed.clone(), self.history.len());
                let open = Open { view, changes: Vec::new(), savepoints: Vec::new(), began };
                self.open.insert(txn, open);
            }
            Op::Commit { txn, ack } => self.commit(txn, ack)?,
            Op::Rollback { txn } => {
                self.open.remove(&txn);
            }
            Op::Checkpoint => self.checkpoint()?,
            Op::Step | Op::Compact if self.synced < self.end => self.sync()?,
            // There are no pages to write.
            Op::Step | Op::Compact | Op::Flush => {}
            Op::Reopen => {
                self.open.clear();
                self.sync()?;
                // A proper close leaves no log behind, if there is room.
                match self.checkpoint() {
                    Err(e) if e.kind != FailureKind::NoSpace => return Err(e),
                    _ => {}
                }
                self.dead = Some("Dead: the database could not be opened again".to_owned());
                *self = Store::open(self.disk.clone(), self.toy)?;
            }
            _ => self.change(op)?,
        }
        // Everything is in one log: if its end is durable, so is every commit.
        let lie = self.toy.has(ToyBug::EarlyCalledDurable) && matches!(op, Op::Commit { .. });
        let durable = self.synced == self.end || lie;
        Ok(if durable { Applied::AllDurable } else { Applied::Done })
    }

    fn contents(&mut self) -> Result<Contents, Failure> {
        self.alive()?;
        Ok(self.committed.clone())
    }

    fn verify(&mut self) -> Result<Vec<String>, Failure> {
        self.alive()?;
        let Some(stored) = load(&*self.disk, self.toy)? else {
            return Ok(vec!["there is no snapshot".into()]);
        };
        let mut wrong = Vec::new();
        let torn = stored.torn && !self.toy.has(ToyBug::TailNotCut);
        if stored.generation != self.generation || stored.end != self.end || torn {
            wrong.push(format!("the log ends at byte {}, and should at {}", stored.end, self.end));
        }
        wrong.extend(self.committed.difference(&stored.contents));
        Ok(wrong)
    }

    fn opened(&self) -> Opened {
        self.opened.clone()
    }
}
