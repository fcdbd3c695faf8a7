use super::copy;
use crate::compare::Any;
use crate::compare::engine::{Engine, Kind, Reader, Row, Session, Writer};
use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions, PutFlags, RoTxn, RwTxn, WithTls};
use std::ops::Bound;
use std::path::Path;

pub(super) const KIND: Kind = Kind {
    name: "lmdb",
    settings: "heed, map of 32 GiB without WRITEMAP (no cache of its own), one writer at a time, no checksums; loads in key order with MDB_APPEND",
    durable: "default: two flushes a commit",
    asynchronous: "NO_SYNC: a power cut may damage the file",
    is_durable: true,
    transactions: true,
    open,
};

/// Two environments over one file are not allowed in a process, so the flag is switched.
struct Lmdb {
    env: Env<WithTls>,
    db: Database<Bytes, Bytes>,
}

#[allow(unsafe_code, reason = "heed's contract: nobody else changes the file under the map")]
fn open(dir: &Path, _cache: usize) -> Any<Box<dyn Engine>> {
    std::fs::create_dir_all(dir)?;
    let mut options = EnvOpenOptions::new();
    options.map_size(32 << 30).max_readers(256);
    // SAFETY: the directory is this process's own.
    let env = unsafe { options.open(dir)? };
    let mut tx = env.write_txn()?;
    let db = env.create_database(&mut tx, None)?;
    tx.commit()?;
    Ok(Box::new(Lmdb { env, db }))
}

impl Lmdb {
    #[allow(unsafe_code, reason = "mdb_env_set_flags")]
    fn waits(&self, durable: bool) -> Any<()> {
        let is = self.env.flags()?.is_some_and(|f| !f.contains(EnvFlags::NO_SYNC));
        if is != durable {
            let mode = if durable { heed::FlagSetMode::Disable } else { heed::FlagSetMode::Enable };
            // SAFETY: all threads of a workload ask for the same; the flag is changed between workloads only.
            unsafe { self.env.set_flags(EnvFlags::NO_SYNC, mode)? };
        }
        Ok(())
    }
}

impl Engine for Lmdb {
    fn session(&self) -> Any<Box<dyn Session + '_>> {
        Ok(Box::new(Thread(self)))
    }
    fn sync(&self) -> Any<()> {
        Ok(self.env.force_sync()?)
    }
    fn close(self: Box<Self>) -> Any<()> {
        self.env.prepare_for_closing().wait();
        Ok(())
    }
}

struct Thread<'a>(&'a Lmdb);

impl Session for Thread<'_> {
    fn write(&mut self, durable: bool, f: &mut dyn FnMut(&mut dyn Writer) -> Any<()>) -> Any<()> {
        self.0.waits(durable)?;
        let mut tx = self.0.env.write_txn()?;
        f(&mut Rows(&mut tx, self.0.db))?;
        Ok(tx.commit()?)
    }
    fn read(&mut self, f: &mut dyn FnMut(&mut dyn Reader) -> Any<()>) -> Any<()> {
        let tx = self.0.env.read_txn()?;
        f(&mut Snapshot(&tx, self.0.db))
    }
}

struct Rows<'a, 'e>(&'a mut RwTxn<'e>, Database<Bytes, Bytes>);

impl Writer for Rows<'_, '_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Any<()> {
        Ok(self.1.put(self.0, key, value)?)
    }
    fn load(&mut self, rows: &mut dyn Iterator<Item = Row>) -> Any<()> {
        for (key, value) in rows {
            self.1.put_with_flags(self.0, PutFlags::APPEND, &key, &value)?;
        }
        Ok(())
    }
    fn delete(&mut self, key: &[u8]) -> Any<()> {
        self.1.delete(self.0, key)?;
        Ok(())
    }
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> Any<bool> {
        Ok(self.1.get(self.0, key)?.map(|v| copy(v, out)).is_some())
    }
}

struct Snapshot<'a, 'e>(&'a RoTxn<'e, WithTls>, Database<Bytes, Bytes>);

impl Reader for Snapshot<'_, '_> {
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> Any<bool> {
        Ok(self.1.get(self.0, key)?.map(|v| copy(v, out)).is_some())
    }
    fn scan(&mut self, from: &[u8], limit: usize, row: &mut dyn FnMut(&[u8], &[u8])) -> Any<usize> {
        let mut n = 0;
        // LMDB takes no empty key.
        let low = if from.is_empty() { Bound::Unbounded } else { Bound::Included(from) };
        let bounds = (low, Bound::Unbounded);
        for pair in self.1.range(self.0, &bounds)?.take(limit) {
            let (key, value) = pair?;
            row(key, value);
            n += 1;
        }
        Ok(n)
    }
}
