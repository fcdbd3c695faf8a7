use super::copy;
use crate::compare::Any;
use crate::compare::engine::{Engine, Kind, Reader, Session, Writer};
use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition};
use std::path::Path;

pub(super) const KIND: Kind = Kind {
    name: "redb",
    settings: "cache as given, one-phase commit (default), one writer at a time",
    durable: "Durability::Immediate",
    asynchronous: "Durability::None: in the process's memory until the next durable commit",
    is_durable: true,
    transactions: true,
    open,
};

const T: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("t");

struct Redb(Database);

fn open(dir: &Path, cache: usize) -> Any<Box<dyn Engine>> {
    std::fs::create_dir_all(dir)?;
    let db = Database::builder().set_cache_size(cache).create(dir.join("redb"))?;
    let tx = db.begin_write()?;
    tx.open_table(T)?;
    tx.commit()?;
    Ok(Box::new(Redb(db)))
}

impl Engine for Redb {
    fn session(&self) -> Any<Box<dyn Session + '_>> {
        Ok(Box::new(Thread(&self.0)))
    }
    fn sync(&self) -> Any<()> {
        Ok(self.0.begin_write()?.commit()?)
    }
    fn close(self: Box<Self>) -> Any<()> {
        Ok(())
    }
}

struct Thread<'a>(&'a Database);

impl Session for Thread<'_> {
    fn write(&mut self, durable: bool, f: &mut dyn FnMut(&mut dyn Writer) -> Any<()>) -> Any<()> {
        let mut tx = self.0.begin_write()?;
        tx.set_durability(if durable { Durability::Immediate } else { Durability::None })?;
        f(&mut Rows(tx.open_table(T)?))?;
        Ok(tx.commit()?)
    }
    fn read(&mut self, f: &mut dyn FnMut(&mut dyn Reader) -> Any<()>) -> Any<()> {
        f(&mut Snapshot(self.0.begin_read()?.open_table(T)?))
    }
}

struct Rows<'t>(redb::Table<'t, &'static [u8], &'static [u8]>);

impl Writer for Rows<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Any<()> {
        self.0.insert(key, value)?;
        Ok(())
    }
    fn delete(&mut self, key: &[u8]) -> Any<()> {
        self.0.remove(key)?;
        Ok(())
    }
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> Any<bool> {
        let found = self.0.get(key)?;
        Ok(found.map(|v| copy(v.value(), out)).is_some())
    }
}

struct Snapshot(ReadOnlyTable<&'static [u8], &'static [u8]>);

impl Reader for Snapshot {
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> Any<bool> {
        Ok(self.0.get(key)?.map(|v| copy(v.value(), out)).is_some())
    }
    fn scan(&mut self, from: &[u8], limit: usize, row: &mut dyn FnMut(&[u8], &[u8])) -> Any<usize> {
        let mut n = 0;
        for pair in self.0.range(from..)?.take(limit) {
            let (key, value) = pair?;
            row(key.value(), value.value());
            n += 1;
        }
        Ok(n)
    }
}
