use crate::compare::Any;
use crate::compare::engine::{Engine, Kind, Reader, Session, Writer};
use rusqlite::{Connection, OptionalExtension, params};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

pub(super) const KIND: Kind = Kind {
    name: "sqlite",
    settings: "WAL, WITHOUT ROWID, cached statements, 64 MiB page cache a connection, one writing connection at a time",
    durable: "synchronous=FULL",
    asynchronous: "synchronous=OFF: a power cut may damage the file",
    is_durable: true,
    transactions: true,
    open,
};

struct Sqlite {
    file: PathBuf,
    /// One writer at a time: waiting in line is faster than polling the file lock.
    turn: Mutex<()>,
}

fn open(dir: &Path, _cache: usize) -> Any<Box<dyn Engine>> {
    std::fs::create_dir_all(dir)?;
    let engine = Sqlite { file: dir.join("sqlite"), turn: Mutex::new(()) };
    engine
        .connect("FULL")?
        .execute_batch("CREATE TABLE IF NOT EXISTS t (k BLOB PRIMARY KEY, v BLOB) WITHOUT ROWID")?;
    Ok(Box::new(engine))
}

impl Sqlite {
    fn connect(&self, synchronous: &str) -> Any<Connection> {
        let c = Connection::open(&self.file)?;
        c.busy_timeout(std::time::Duration::from_secs(60))?;
        c.execute_batch(&format!(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous={synchronous}; PRAGMA cache_size=-65536;"
        ))?;
        Ok(c)
    }
}

impl Engine for Sqlite {
    fn session(&self) -> Any<Box<dyn Session + '_>> {
        Ok(Box::new(Thread { engine: self, full: self.connect("FULL")?, off: self.connect("OFF")? }))
    }
    fn sync(&self) -> Any<()> {
        let c = self.connect("FULL")?;
        c.query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(()))?;
        std::fs::File::open(&self.file)?.sync_all()?;
        Ok(())
    }
    fn close(self: Box<Self>) -> Any<()> {
        Ok(())
    }
}

struct Thread<'a> {
    engine: &'a Sqlite,
    full: Connection,
    off: Connection,
}

impl Session for Thread<'_> {
    fn write(&mut self, durable: bool, f: &mut dyn FnMut(&mut dyn Writer) -> Any<()>) -> Any<()> {
        let _turn = self.engine.turn.lock().map_err(|_| "a thread panicked")?;
        let c = if durable { &self.full } else { &self.off };
        c.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        f(&mut Rows(c))?;
        c.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }
    fn read(&mut self, f: &mut dyn FnMut(&mut dyn Reader) -> Any<()>) -> Any<()> {
        self.full.prepare_cached("BEGIN")?.execute([])?;
        f(&mut Rows(&self.full))?;
        self.full.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> Any<bool> {
        get(&self.full, key, out)
    }
}

struct Rows<'a>(&'a Connection);

fn get(c: &Connection, key: &[u8], out: &mut Vec<u8>) -> Any<bool> {
    let mut q = c.prepare_cached("SELECT v FROM t WHERE k = ?")?;
    let found = q
        .query_row([key], |row| {
            out.clear();
            out.extend_from_slice(row.get_ref(0)?.as_blob()?);
            Ok(())
        })
        .optional()?;
    Ok(found.is_some())
}

impl Writer for Rows<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Any<()> {
        self.0.prepare_cached("INSERT OR REPLACE INTO t VALUES (?, ?)")?.execute(params![key, value])?;
        Ok(())
    }
    fn delete(&mut self, key: &[u8]) -> Any<()> {
        self.0.prepare_cached("DELETE FROM t WHERE k = ?")?.execute([key])?;
        Ok(())
    }
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> Any<bool> {
        get(self.0, key, out)
    }
}

impl Reader for Rows<'_> {
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> Any<bool> {
        get(self.0, key, out)
    }
    fn scan(&mut self, from: &[u8], limit: usize, row: &mut dyn FnMut(&[u8], &[u8])) -> Any<usize> {
        let mut q = self.0.prepare_cached("SELECT k, v FROM t WHERE k >= ? ORDER BY k LIMIT ?")?;
        let mut rows = q.query(params![from, i64::try_from(limit).unwrap_or(i64::MAX)])?;
        let mut n = 0;
        while let Some(r) = rows.next()? {
            row(r.get_ref(0)?.as_blob()?, r.get_ref(1)?.as_blob()?);
            n += 1;
        }
        Ok(n)
    }
}
