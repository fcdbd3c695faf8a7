//! What an engine has to do to be compared.
use super::Any;
use std::path::Path;

/// An open store of byte strings, ordered by key.
pub trait Engine: Send + Sync {
    /// What one thread uses.
    ///
    /// # Errors
    /// Of the engine.
    fn session(&self) -> Any<Box<dyn Session + '_>>;
    /// Makes everything durable that has been committed.
    ///
    /// # Errors
    /// Of the engine.
    fn sync(&self) -> Any<()>;
    /// Bytes that the engine has appended to its log so far, where it can tell.
    fn log_bytes(&self) -> Option<u64> {
        None
    }
    /// Closes it in an orderly way.
    ///
    /// # Errors
    /// Of the engine.
    fn close(self: Box<Self>) -> Any<()>;
}

/// One thread's access.
pub trait Session {
    /// One write transaction; run again where it conflicts, so `f` may run several times. If `durable`, it returns after a device
    /// flush that covers the commit.
    ///
    /// # Errors
    /// Of the engine; [`Unsupported`] from `f`.
    fn write(&mut self, durable: bool, f: &mut dyn FnMut(&mut dyn Writer) -> Any<()>) -> Any<()>;
    /// One snapshot.
    ///
    /// # Errors
    /// Of the engine.
    fn read(&mut self, f: &mut dyn FnMut(&mut dyn Reader) -> Any<()>) -> Any<()>;
    /// A get with its own read transaction, or the engine's plain get where it has one; the value is copied to `out`.
    ///
    /// # Errors
    /// Of the engine.
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> Any<bool> {
        let mut found = false;
        self.read(&mut |r| {
            found = r.get(key, out)?;
            Ok(())
        })?;
        Ok(found)
    }
}

/// A row of a load.
pub type Row = ([u8; super::workloads::KEY], [u8; super::workloads::VALUE]);

/// Inside a write transaction.
pub trait Writer {
    /// Inserts or replaces.
    ///
    /// # Errors
    /// Of the engine.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Any<()>;
    /// Inserts rows whose keys ascend and lie above all that are there, by what the engine has for that; one by one if it has
    /// nothing.
    ///
    /// # Errors
    /// Of the engine.
    fn load(&mut self, rows: &mut dyn Iterator<Item = Row>) -> Any<()> {
        for (key, value) in rows {
            self.put(&key, &value)?;
        }
        Ok(())
    }
    /// Removes.
    ///
    /// # Errors
    /// Of the engine.
    fn delete(&mut self, key: &[u8]) -> Any<()>;
    /// Reads a row that is going to be changed: no other transaction may change it before this one ends, or this one conflicts.
    ///
    /// # Errors
    /// Of the engine; [`Unsupported`].
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> Any<bool>;
}

/// Inside a snapshot.
pub trait Reader {
    /// Copies the value to `out`.
    ///
    /// # Errors
    /// Of the engine.
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> Any<bool>;
    /// At most `limit` rows from `from` on; how many there were.
    ///
    /// # Errors
    /// Of the engine.
    fn scan(&mut self, from: &[u8], limit: usize, row: &mut dyn FnMut(&[u8], &[u8])) -> Any<usize>;
}

/// The engine cannot do what the workload needs: its cell stays empty.
#[derive(Debug)]
pub struct Unsupported(pub &'static str);

impl std::fmt::Display for Unsupported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "not supported: {}", self.0)
    }
}
impl std::error::Error for Unsupported {}

/// How an engine is opened.
pub type Open = fn(dir: &Path, cache: usize) -> Any<Box<dyn Engine>>;

/// An engine of the comparison.
#[derive(Clone, Copy)]
pub struct Kind {
    /// Its name in tables.
    pub name: &'static str,
    /// The settings used.
    pub settings: &'static str,
    /// What a durable commit waits for.
    pub durable: &'static str,
    /// What an asynchronous commit promises.
    pub asynchronous: &'static str,
    /// Whether its durable commits are durable: the others are left out of durable rows.
    pub is_durable: bool,
    /// Whether it takes transactions that read and write.
    pub transactions: bool,
    /// Opens or makes a database.
    pub open: Open,
}
