use super::copy;
use crate::compare::Any;
use crate::compare::engine::{Engine, Kind, Reader, Row, Session, Writer};
use hamal::{Database, Durability, ErrorKind, ReadTree, Tree};
use std::path::Path;

pub(super) const KIND: Kind = Kind {
    name: "hamal",
    settings: "defaults but for the cache: snapshot isolation, full-page images, page and log checksums; loads in key order by bulk_load",
    durable: "commit: one fdatasync of the log, shared by those that wait",
    asynchronous: "Durability::Async: written and synced in the background",
    is_durable: true,
    transactions: true,
    open,
};

struct Hamal(Database);

fn open(dir: &Path, cache: usize) -> Any<Box<dyn Engine>> {
    let db = Database::builder().cache_bytes(cache).open_or_create(dir)?;
    let tx = db.begin_write()?;
    tx.open_or_create_tree("t")?;
    tx.commit()?;
    Ok(Box::new(Hamal(db)))
}

impl Engine for Hamal {
    fn session(&self) -> Any<Box<dyn Session + '_>> {
        Ok(Box::new(Thread(&self.0)))
    }
    fn sync(&self) -> Any<()> {
        Ok(self.0.sync()?)
    }
    fn log_bytes(&self) -> Option<u64> {
        Some(self.0.engine().log_tail().0)
    }
    fn close(self: Box<Self>) -> Any<()> {
        Ok(self.0.close()?)
    }
}

struct Thread<'a>(&'a Database);

impl Session for Thread<'_> {
    fn write(&mut self, durable: bool, f: &mut dyn FnMut(&mut dyn Writer) -> Any<()>) -> Any<()> {
        let durability = if durable { Durability::Sync } else { Durability::Async };
        loop {
            let tx = self.0.begin_write()?;
            match f(&mut Rows(tx.tree("t")?)) {
                Ok(()) => {
                    tx.commit_with(durability)?;
                    return Ok(());
                }
                Err(e) if again(e.as_ref()) => tx.rollback()?,
                Err(e) => return Err(e),
            }
        }
    }
    fn read(&mut self, f: &mut dyn FnMut(&mut dyn Reader) -> Any<()>) -> Any<()> {
        f(&mut Snapshot(self.0.begin_read()?.tree("t")?))
    }
}

/// Whether the transaction lost against another one and should be run again.
fn again(e: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    e.downcast_ref::<hamal::Error>()
        .is_some_and(|e| matches!(e.kind(), ErrorKind::Conflict | ErrorKind::Deadlock))
}

struct Rows(Tree);

impl Writer for Rows {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Any<()> {
        Ok(self.0.put(key, value)?)
    }
    fn load(&mut self, rows: &mut dyn Iterator<Item = Row>) -> Any<()> {
        self.0.bulk_load(rows)?;
        Ok(())
    }
    fn delete(&mut self, key: &[u8]) -> Any<()> {
        self.0.delete(key)?;
        Ok(())
    }
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> Any<bool> {
        Ok(self.0.get_with(key, |v| copy(v, out))?.is_some())
    }
}

struct Snapshot(ReadTree);

impl Reader for Snapshot {
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> Any<bool> {
        Ok(self.0.get_with(key, |v| copy(v, out))?.is_some())
    }
    fn scan(&mut self, from: &[u8], limit: usize, row: &mut dyn FnMut(&[u8], &[u8])) -> Any<usize> {
        let mut rows = self.0.range(from..);
        let mut n = 0;
        while n < limit
            && let Some((key, value)) = rows.next_ref()?
        {
            row(key, value);
            n += 1;
        }
        Ok(n)
    }
}
