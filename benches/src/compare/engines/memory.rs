//! The ceiling: a map in memory that promises nothing.
use super::copy;
use crate::compare::Any;
use crate::compare::engine::{Engine, Kind, Reader, Session, Writer};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::RwLock;

pub(super) const KIND: Kind = Kind {
    name: "BTreeMap",
    settings: "RwLock<BTreeMap> of boxed keys and values: a ceiling, not an engine",
    durable: "nothing",
    asynchronous: "nothing",
    is_durable: false,
    transactions: false,
    open,
};

type Map = BTreeMap<Box<[u8]>, Box<[u8]>>;

struct Memory(RwLock<Map>);

fn open(dir: &Path, _cache: usize) -> Any<Box<dyn Engine>> {
    std::fs::create_dir_all(dir)?;
    Ok(Box::new(Memory(RwLock::default())))
}

impl Engine for Memory {
    fn session(&self) -> Any<Box<dyn Session + '_>> {
        Ok(Box::new(Thread(&self.0)))
    }
    fn sync(&self) -> Any<()> {
        Ok(())
    }
    fn close(self: Box<Self>) -> Any<()> {
        Ok(())
    }
}

struct Thread<'a>(&'a RwLock<Map>);

impl Session for Thread<'_> {
    fn write(&mut self, _durable: bool, f: &mut dyn FnMut(&mut dyn Writer) -> Any<()>) -> Any<()> {
        let mut map = self.0.write().map_err(|_| "a thread panicked")?;
        f(&mut Rows(&mut map))
    }
    fn read(&mut self, f: &mut dyn FnMut(&mut dyn Reader) -> Any<()>) -> Any<()> {
        let map = self.0.read().map_err(|_| "a thread panicked")?;
        f(&mut Snapshot(&map))
    }
}

struct Rows<'a>(&'a mut Map);

impl Writer for Rows<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Any<()> {
        self.0.insert(key.into(), value.into());
        Ok(())
    }
    fn delete(&mut self, key: &[u8]) -> Any<()> {
        self.0.remove(key);
        Ok(())
    }
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> Any<bool> {
        Snapshot(self.0).get(key, out)
    }
}

struct Snapshot<'a>(&'a Map);

impl Reader for Snapshot<'_> {
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> Any<bool> {
        let found = self.0.get(key);
        if let Some(v) = found {
            copy(v, out);
        }
        Ok(found.is_some())
    }
    fn scan(&mut self, from: &[u8], limit: usize, row: &mut dyn FnMut(&[u8], &[u8])) -> Any<usize> {
        let mut n = 0;
        let bounds = (Bound::Included(from), Bound::Unbounded);
        for (key, value) in self.0.range::<[u8], _>(bounds).take(limit) {
            row(key, value);
            n += 1;
        }
        Ok(n)
    }
}
