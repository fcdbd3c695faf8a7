use super::copy;
use crate::compare::Any;
use crate::compare::engine::{Engine, Kind, Reader, Session, Unsupported, Writer};
use std::path::Path;

pub(super) const KIND: Kind = Kind {
    name: "sled",
    settings: "0.34, cache as given, HighThroughput mode, background flush each 500 ms",
    durable: "flush(): sync_file_range, which issues no device flush; left out of durable rows",
    asynchronous: "nothing",
    is_durable: false,
    transactions: false,
    open,
};

struct Sled(sled::Db);

fn open(dir: &Path, cache: usize) -> Any<Box<dyn Engine>> {
    let db =
        sled::Config::new().path(dir).cache_capacity(cache as u64).mode(sled::Mode::HighThroughput).open()?;
    Ok(Box::new(Sled(db)))
}

impl Engine for Sled {
    fn session(&self) -> Any<Box<dyn Session + '_>> {
        Ok(Box::new(Thread(&self.0)))
    }
    fn sync(&self) -> Any<()> {
        self.0.flush()?;
        Ok(())
    }
    fn close(self: Box<Self>) -> Any<()> {
        Ok(())
    }
}

struct Thread<'a>(&'a sled::Db);

impl Session for Thread<'_> {
    fn write(&mut self, durable: bool, f: &mut dyn FnMut(&mut dyn Writer) -> Any<()>) -> Any<()> {
        let mut batch = Batch(sled::Batch::default());
        f(&mut batch)?;
        self.0.apply_batch(batch.0)?;
        if durable {
            self.0.flush()?;
        }
        Ok(())
    }
    fn read(&mut self, f: &mut dyn FnMut(&mut dyn Reader) -> Any<()>) -> Any<()> {
        f(&mut Now(self.0))
    }
}

struct Batch(sled::Batch);

impl Writer for Batch {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Any<()> {
        self.0.insert(key, value);
        Ok(())
    }
    fn delete(&mut self, key: &[u8]) -> Any<()> {
        self.0.remove(key);
        Ok(())
    }
    fn get(&mut self, _: &[u8], _: &mut Vec<u8>) -> Any<bool> {
        Err(Box::new(Unsupported("a batch cannot read")))
    }
}

/// sled has no snapshots: reads see the newest state.
struct Now<'a>(&'a sled::Db);

impl Reader for Now<'_> {
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> Any<bool> {
        let found = self.0.get(key)?;
        if let Some(v) = &found {
            copy(v, out);
        }
        Ok(found.is_some())
    }
    fn scan(&mut self, from: &[u8], limit: usize, row: &mut dyn FnMut(&[u8], &[u8])) -> Any<usize> {
        let mut n = 0;
        for pair in self.0.range(from..).take(limit) {
            let (key, value) = pair?;
            row(&key, &value);
            n += 1;
        }
        Ok(n)
    }
}
