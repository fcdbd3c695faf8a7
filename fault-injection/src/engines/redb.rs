//! redb, through its own storage backend, on a file of the simulated disk.
//!
//! What the adapter makes of the operations:
//! * A tree is a table of byte strings. redb has one write transaction at a time; a second one that begins is refused.
//! * Savepoints: redb has them for transactions that have not changed anything yet. Going back to one is done by aborting
//!   and repeating the operations before it in a new transaction, which sees the same, as there is no other writer.
//! * An early commit has `Durability::None`; a durable one `Durability::Immediate`. A step of background work, and a
//!   reopening, commit an empty durable transaction if early commits are waiting.
//! * A checkpoint is `compact`, if no transaction is open. A flush is nothing.
//! * The structure is verified by `check_integrity`; that it had to repair something is a finding.
//! * A database is made under another name and then renamed. redb's own creation is not atomic: cut short, it leaves a
//!   file with a length and without a header, which redb refuses to open ("magic number mismatch").
//!
//! What redb demands of a disk is in its design document: a write leaves alone the bytes outside of its range
//! ("powersafe overwrite"), single bytes are atomic, and what was synced is durable. The models `ordered` and `posix` keep that.
//! `hostile` does not: there a sector that is being written may come back as garbage, and redb writes its header, with
//! both commit slots, in place.
use crate::engine::{Applied, Config, Engine, Failure, FailureKind, Opened, Session};
use crate::model::{Contents, Rows, number};
use crate::op::{Ack, Op, Txn, key_bytes, tree_name, value_bytes};
use hamal::disk::{Disk, DiskFile, OpenMode, read_exact_at};
use redb::{
    Builder, Database, Durability, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition,
    TableError, TableHandle, WriteTransaction,
};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

const FILE: &str = "data";
/// A database that is being made.
const NEW: &str = "data.new";
/// Bytes of cache.
const CACHE: usize = 1 << 20;

type Table<'a> = TableDefinition<'a, &'static [u8], &'static [u8]>;

/// The engine. It ignores the [`Config`]: pages have 4096 bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Redb {
    two_phase: bool,
    in_place: bool,
}

impl Redb {
    /// As it comes: one sync for each commit.
    pub fn new() -> Redb {
        Redb::default()
    }
    /// With redb's two-phase commits.
    pub fn two_phase() -> Redb {
        Redb { two_phase: true, in_place: false }
    }
    /// With databases made under their own name at once. A creation that is cut short leaves what cannot be opened then.
    pub fn in_place() -> Redb {
        Redb { two_phase: false, in_place: true }
    }
}

impl Engine for Redb {
    fn name(&self) -> &str {
        "redb"
    }
    fn create(&self, disk: Arc<dyn Disk>, config: &Config) -> Result<Box<dyn Session>, Failure> {
        self.open(disk, config)
    }
    fn open(&self, disk: Arc<dyn Disk>, _: &Config) -> Result<Box<dyn Session>, Failure> {
        let (db, opened) = open(&disk, *self)?;
        Ok(Box::new(Store { disk, how: *self, open: None, early: false, db: Some(db), opened }))
    }
}

/// A file of the disk, as redb wants it.
#[derive(Debug)]
struct Backend(Arc<dyn DiskFile>);

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        read_exact_at(&*self.0, offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }
}

fn build(disk: &Arc<dyn Disk>, name: &str) -> Result<(Database, Opened), Failure> {
    let file = disk.open(name, OpenMode { create: true, ..OpenMode::default() }).map_err(io_failure)?;
    let repaired = Arc::new(AtomicBool::new(false));
    let seen = repaired.clone();
    let db = Builder::new()
        .set_cache_size(CACHE)
        .set_repair_callback(move |_| seen.store(true, Relaxed))
        .create_with_backend(Backend(file))
        .map_err(failure)?;
    let clean = !repaired.load(Relaxed);
    let verdict = if clean { "clean" } else { "repaired" }.to_owned();
    Ok((db, Opened { clean, verdict, ..Opened::default() }))
}

fn open(disk: &Arc<dyn Disk>, how: Redb) -> Result<(Database, Opened), Failure> {
    // Names are ours to look after; redb sees only the file.
    disk.sync_dir("").map_err(io_failure)?;
    if !how.in_place && !disk.exists(FILE).map_err(io_failure)? {
        let new = OpenMode { create: true, ..OpenMode::default() };
        disk.open(NEW, new).and_then(|f| f.set_len(0)).map_err(io_failure)?;
        drop(build(disk, NEW)?);
        // redb syncs when it closes; that it went well it cannot tell us.
        disk.open(NEW, new).and_then(|f| f.sync()).map_err(io_failure)?;
        disk.rename(NEW, FILE).and_then(|()| disk.sync_dir("")).map_err(io_failure)?;
    }
    let built = build(disk, FILE)?;
    if how.in_place {
        disk.sync_dir("").map_err(io_failure)?;
    }
    Ok(built)
}

fn io_failure(e: io::Error) -> Failure {
    Failure::new(FailureKind::Io, format!("Io: {e}"))
}

/// What an error of redb means to the harness.
fn failure(e: impl Into<redb::Error>) -> Failure {
    let e = e.into();
    let kind = match &e {
        redb::Error::Corrupted(_) | redb::Error::UpgradeRequired(_) => FailureKind::Damage,
        redb::Error::Io(io) if io.kind() == io::ErrorKind::InvalidData => FailureKind::Damage,
        // It closes itself to writers after an error of the disk.
        redb::Error::Io(_) | redb::Error::PreviousIo | redb::Error::DatabaseClosed => FailureKind::Dead,
        _ => FailureKind::Bug,
    };
    let text = format!("{e:?}");
    Failure::new(kind, text)
}

fn refused<T>(text: String) -> Result<T, Failure> {
    Err(Failure::new(FailureKind::Refused, text))
}

struct Open {
    number: Txn,
    tx: WriteTransaction,
    /// What was done, to do it again.
    ops: Vec<Op>,
    /// With how many operations there were.
    savepoints: Vec<(u8, usize)>,
}

struct Store {
    disk: Arc<dyn Disk>,
    how: Redb,
    // Dropped before the database.
    open: Option<Open>,
    /// Whether there are commits that may not be durable.
    early: bool,
    db: Option<Database>,
    opened: Opened,
}

impl Store {
    fn db(&mut self) -> Result<&mut Database, Failure> {
        self.db
            .as_mut()
            .ok_or_else(|| Failure::new(FailureKind::Dead, "Closed: it could not be opened again"))
    }

    fn begin(&mut self) -> Result<WriteTransaction, Failure> {
        let two_phase = self.how.two_phase;
        let mut tx = self.db()?.begin_write().map_err(failure)?;
        tx.set_two_phase_commit(two_phase);
        Ok(tx)
    }

    /// Makes early commits durable, if no transaction is open.
    fn settle(&mut self) -> Result<(), Failure> {
        if self.early && self.open.is_none() {
            self.begin()?.commit().map_err(failure)?;
            self.early = false;
        }
        Ok(())
    }

    fn commit(&mut self, txn: Txn, ack: Ack) -> Result<(), Failure> {
        let Some(mut open) = self.open.take_if(|o| o.number == txn) else {
            return refused(format!("transaction {txn} is not open"));
        };
        if ack == Ack::Early {
            open.tx.set_durability(Durability::None).map_err(failure)?;
        }
        open.tx.commit().map_err(failure)?;
        self.early = ack == Ack::Early;
        Ok(())
    }

    fn rollback(&mut self) -> Result<(), Failure> {
        match self.open.take() {
            Some(open) => open.tx.abort().map_err(failure),
            None => Ok(()),
        }
    }

    fn rollback_to(&mut self, name: u8) -> Result<(), Failure> {
        let Some(Open { number, mut ops, mut savepoints, tx }) = self.open.take() else { return Ok(()) };
        let found = savepoints.iter().rposition(|(n, _)| *n == name);
        let Some(i) = found else {
            self.open = Some(Open { number, tx, ops, savepoints });
            return refused(format!("there is no savepoint {name}"));
        };
        tx.abort().map_err(failure)?;
        ops.truncate(savepoints[i].1);
        savepoints.truncate(i + 1);
        let tx = self.begin()?;
        for op in &ops {
            change(&tx, op)?;
        }
        self.open = Some(Open { number, tx, ops, savepoints });
        Ok(())
    }
}

/// A change within a transaction.
fn change(tx: &WriteTransaction, op: &Op) -> Result<(), Failure> {
    if matches!(op, Op::Load { .. }) {
        return op.rows().try_for_each(|row| change(tx, &row));
    }
    let op = &*op.change();
    let (Op::CreateTree { tree, .. }
    | Op::DropTree { tree, .. }
    | Op::Put { tree, .. }
    | Op::Delete { tree, .. }
    | Op::Add { tree, .. }) = *op
    else {
        return Ok(());
    };
    let name = tree_name(tree);
    let exists = tx.list_tables().map_err(failure)?.any(|t| t.name() == name);
    if exists == matches!(op, Op::CreateTree { .. }) {
        return refused(format!("`{op}`: the table does not exist, or does already"));
    }
    let definition: Table<'_> = TableDefinition::new(&name);
    if matches!(op, Op::DropTree { .. }) {
        tx.delete_table(definition).map_err(failure)?;
        return Ok(());
    }
    let mut table = tx.open_table(definition).map_err(failure)?;
    match *op {
        Op::Put { key, len, fill, .. } => {
            table.insert(&*key_bytes(key), &*value_bytes(len, fill)).map_err(failure)?;
        }
        Op::Delete { key, .. } => {
            table.remove(&*key_bytes(key)).map_err(failure)?;
        }
        Op::Add { key, delta, .. } => {
            let key = key_bytes(key);
            let old = table.get(&*key).map_err(failure)?.map_or(0, |v| number(v.value()));
            let new = old.wrapping_add(i64::from(delta)).to_le_bytes();
            table.insert(&*key, &new[..]).map_err(failure)?;
        }
        _ => {}
    }
    Ok(())
}

impl Session for Store {
    fn apply(&mut self, op: &Op) -> Result<Applied, Failure> {
        match *op {
            Op::Begin { txn } => {
                if self.open.is_some() {
                    return refused("there is one writer at a time".to_owned());
                }
                let tx = self.begin()?;
                self.open = Some(Open { number: txn, tx, ops: Vec::new(), savepoints: Vec::new() });
            }
            Op::Commit { txn, ack } => self.commit(txn, ack)?,
            // One that is not open was refused at its beginning, or its commit was.
            Op::Rollback { txn } => {
                if self.open.as_ref().is_some_and(|o| o.number == txn) {
                    self.rollback()?;
                }
            }
            Op::Checkpoint if self.open.is_none() => {
                self.db()?.compact().map_err(failure)?;
            }
            Op::Checkpoint | Op::Flush => {}
            Op::Step | Op::Compact => self.settle()?,
            Op::Reopen => {
                self.rollback()?;
                self.settle()?;
                drop(self.db.take());
                let (db, opened) = open(&self.disk, self.how)?;
                (self.db, self.opened) = (Some(db), opened);
            }
            _ => {
                let Some(open) = self.open.as_mut().filter(|o| op.txn() == Some(o.number)) else {
                    return refused(format!("`{op}` is for no open transaction"));
                };
                match *op {
                    Op::Savepoint { name, .. } => open.savepoints.push((name, open.ops.len())),
                    Op::RollbackTo { name, .. } => self.rollback_to(name)?,
                    _ => {
                        change(&open.tx, op)?;
                        open.ops.push(op.clone());
                    }
                }
            }
        }
        Ok(if self.early { Applied::Done } else { Applied::AllDurable })
    }

    fn contents(&mut self) -> Result<Contents, Failure> {
        let tx = self.db()?.begin_read().map_err(failure)?;
        let mut contents = Contents::default();
        for handle in tx.list_tables().map_err(failure)? {
            let tree = handle.name().strip_prefix('t').and_then(|n| n.parse().ok());
            let Some(tree) = tree else {
                return Err(Failure::new(FailureKind::Bug, format!("nobody made table {:?}", handle.name())));
            };
            let definition: Table<'_> = TableDefinition::new(handle.name());
            let table = tx.open_table(definition).map_err(|e: TableError| failure(e))?;
            let mut rows = Rows::new();
            for row in table.iter().map_err(failure)? {
                let (key, value) = row.map_err(failure)?;
                rows.insert(key.value().to_vec(), value.value().to_vec());
            }
            contents.trees.insert(tree, rows);
        }
        Ok(contents)
    }

    fn verify(&mut self) -> Result<Vec<String>, Failure> {
        match self.db()?.check_integrity().map_err(failure)? {
            true => Ok(Vec::new()),
            false => Ok(vec!["check_integrity had something to repair".to_owned()]),
        }
    }

    fn opened(&self) -> Opened {
        self.opened.clone()
    }
}
