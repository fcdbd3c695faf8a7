use super::copy;
use crate::compare::Any;
use crate::compare::engine::{Engine, Kind, Reader, Session, Writer};
use fjall::{KeyspaceCreateOptions, OptimisticTxDatabase, OptimisticTxKeyspace, PersistMode, Readable};
use std::path::Path;

pub(super) const KIND: Kind = Kind {
    name: "fjall",
    settings: "OptimisticTxDatabase, cache as given, else defaults (LZ4, 64 MiB memtables)",
    durable: "PersistMode::SyncData",
    asynchronous: "PersistMode::Buffer: written to the operating system",
    is_durable: true,
    transactions: true,
    open,
};

struct Fjall {
    db: OptimisticTxDatabase,
    rows: OptimisticTxKeyspace,
}

fn open(dir: &Path, cache: usize) -> Any<Box<dyn Engine>> {
    let db = OptimisticTxDatabase::builder(dir).cache_size(cache as u64).open()?;
    let rows = db.keyspace("t", KeyspaceCreateOptions::default)?;
    Ok(Box::new(Fjall { db, rows }))
}

impl Engine for Fjall {
    fn session(&self) -> Any<Box<dyn Session + '_>> {
        Ok(Box::new(Thread(self)))
    }
    fn sync(&self) -> Any<()> {
        Ok(self.db.persist(PersistMode::SyncAll)?)
    }
    fn close(self: Box<Self>) -> Any<()> {
        Ok(())
    }
}

struct Thread<'a>(&'a Fjall);

impl Session for Thread<'_> {
    fn write(&mut self, durable: bool, f: &mut dyn FnMut(&mut dyn Writer) -> Any<()>) -> Any<()> {
        let mode = if durable { PersistMode::SyncData } else { PersistMode::Buffer };
        loop {
            let mut tx = self.0.db.write_tx()?.durability(Some(mode));
            f(&mut Rows(&mut tx, &self.0.rows))?;
            if tx.commit()?.is_ok() {
                return Ok(());
            }
        }
    }
    fn read(&mut self, f: &mut dyn FnMut(&mut dyn Reader) -> Any<()>) -> Any<()> {
        f(&mut Snapshot(self.0.db.read_tx(), &self.0.rows))
    }
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> Any<bool> {
        Ok(self.0.rows.get(key)?.map(|v| copy(&v, out)).is_some())
    }
}

struct Rows<'a>(&'a mut fjall::OptimisticWriteTx, &'a OptimisticTxKeyspace);

impl Writer for Rows<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Any<()> {
        self.0.insert(self.1, key, value);
        Ok(())
    }
    fn delete(&mut self, key: &[u8]) -> Any<()> {
        self.0.remove(self.1, key);
        Ok(())
    }
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> Any<bool> {
        Ok(self.0.get(self.1, key)?.map(|v| copy(&v, out)).is_some())
    }
}

struct Snapshot<'a>(fjall::Snapshot, &'a OptimisticTxKeyspace);

impl Reader for Snapshot<'_> {
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> Any<bool> {
        Ok(self.0.get(self.1, key)?.map(|v| copy(&v, out)).is_some())
    }
    fn scan(&mut self, from: &[u8], limit: usize, row: &mut dyn FnMut(&[u8], &[u8])) -> Any<usize> {
        let mut n = 0;
        for pair in self.0.range(self.1, from..).take(limit) {
            let (key, value) = pair.into_inner()?;
            row(&key, &value);
            n += 1;
        }
        Ok(n)
    }
}
