use super::copy;
use crate::compare::Any;
use crate::compare::engine::{Engine, Kind, Reader, Session, Unsupported, Writer};
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, Direction, IteratorMode, Options, ReadOptions,
    Transaction, TransactionDB, TransactionDBOptions, TransactionOptions, WriteBatch, WriteOptions,
};
use std::path::Path;

pub(super) const TRANSACTIONS: Kind = Kind {
    name: "rocksdb-txn",
    settings: "TransactionDB (pessimistic row locks), parallelism 2, dynamic level bytes, LZ4, 16 KiB blocks, bloom filter of \
               10 bits, HyperClock cache as given",
    durable: "WriteOptions::sync",
    asynchronous: "the log is written to the operating system",
    is_durable: true,
    transactions: true,
    open: open_transactions,
};

pub(super) const PLAIN: Kind = Kind {
    name: "rocksdb",
    settings: "plain DB and WriteBatch, else as rocksdb-txn",
    durable: "WriteOptions::sync",
    asynchronous: "the log is written to the operating system",
    is_durable: true,
    transactions: false,
    open: open_plain,
};

fn options(cache: usize) -> Options {
    let mut o = Options::default();
    o.create_if_missing(true);
    o.increase_parallelism(2);
    o.set_max_background_jobs(2);
    o.set_level_compaction_dynamic_level_bytes(true);
    o.set_compression_type(DBCompressionType::Lz4);
    let mut table = BlockBasedOptions::default();
    table.set_block_size(16 << 10);
    table.set_bloom_filter(10.0, false);
    table.set_block_cache(&Cache::new_hyper_clock_cache(cache, 0));
    table.set_cache_index_and_filter_blocks(true);
    table.set_format_version(6);
    o.set_block_based_table_factory(&table);
    o
}

fn wait(durable: bool) -> WriteOptions {
    let mut w = WriteOptions::default();
    w.set_sync(durable);
    w
}

struct Txn(TransactionDB);

fn open_transactions(dir: &Path, cache: usize) -> Any<Box<dyn Engine>> {
    Ok(Box::new(Txn(TransactionDB::open(&options(cache), &TransactionDBOptions::default(), dir)?)))
}

impl Engine for Txn {
    fn session(&self) -> Any<Box<dyn Session + '_>> {
        Ok(Box::new(TxnThread(&self.0)))
    }
    fn sync(&self) -> Any<()> {
        Ok(self.0.flush_wal(true)?)
    }
    fn close(self: Box<Self>) -> Any<()> {
        Ok(())
    }
}

struct TxnThread<'a>(&'a TransactionDB);

impl Session for TxnThread<'_> {
    fn write(&mut self, durable: bool, f: &mut dyn FnMut(&mut dyn Writer) -> Any<()>) -> Any<()> {
        loop {
            let tx = self.0.transaction_opt(&wait(durable), &TransactionOptions::default());
            match f(&mut TxnRows(&tx)) {
                Ok(()) => return Ok(tx.commit()?),
                Err(e) if again(e.as_ref()) => tx.rollback()?,
                Err(e) => return Err(e),
            }
        }
    }
    fn read(&mut self, f: &mut dyn FnMut(&mut dyn Reader) -> Any<()>) -> Any<()> {
        let snapshot = self.0.snapshot();
        let get =
            |key: &[u8], out: &mut Vec<u8>| Ok(snapshot.get_pinned(key)?.map(|v| copy(&v, out)).is_some());
        let scan = |from: &[u8], limit: usize, row: &mut dyn FnMut(&[u8], &[u8])| {
            let mut n = 0;
            for pair in snapshot
                .iterator_opt(IteratorMode::From(from, Direction::Forward), ReadOptions::default())
                .take(limit)
            {
                let (key, value) = pair?;
                row(&key, &value);
                n += 1;
            }
            Ok(n)
        };
        f(&mut Functions { get, scan })
    }
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> Any<bool> {
        Ok(self.0.get_pinned(key)?.map(|v| copy(&v, out)).is_some())
    }
}

fn again(e: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    use rocksdb::ErrorKind::{Busy, TimedOut, TryAgain};
    e.downcast_ref::<rocksdb::Error>().is_some_and(|e| matches!(e.kind(), Busy | TimedOut | TryAgain))
}

struct TxnRows<'a, 'd>(&'a Transaction<'d, TransactionDB>);

impl Writer for TxnRows<'_, '_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Any<()> {
        Ok(self.0.put(key, value)?)
    }
    fn delete(&mut self, key: &[u8]) -> Any<()> {
        Ok(self.0.delete(key)?)
    }
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> Any<bool> {
        Ok(self.0.get_for_update(key, true)?.map(|v| copy(&v, out)).is_some())
    }
}

/// A reader made of two functions.
struct Functions<G, S> {
    get: G,
    scan: S,
}

impl<G, S> Reader for Functions<G, S>
where
    G: Fn(&[u8], &mut Vec<u8>) -> Any<bool>,
    S: Fn(&[u8], usize, &mut dyn FnMut(&[u8], &[u8])) -> Any<usize>,
{
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> Any<bool> {
        (self.get)(key, out)
    }
    fn scan(&mut self, from: &[u8], limit: usize, row: &mut dyn FnMut(&[u8], &[u8])) -> Any<usize> {
        (self.scan)(from, limit, row)
    }
}

struct Plain(DB);

fn open_plain(dir: &Path, cache: usize) -> Any<Box<dyn Engine>> {
    Ok(Box::new(Plain(DB::open(&options(cache), dir)?)))
}

impl Engine for Plain {
    fn session(&self) -> Any<Box<dyn Session + '_>> {
        Ok(Box::new(PlainThread(&self.0)))
    }
    fn sync(&self) -> Any<()> {
        Ok(self.0.flush_wal(true)?)
    }
    fn close(self: Box<Self>) -> Any<()> {
        Ok(())
    }
}

struct PlainThread<'a>(&'a DB);

impl Session for PlainThread<'_> {
    fn write(&mut self, durable: bool, f: &mut dyn FnMut(&mut dyn Writer) -> Any<()>) -> Any<()> {
        let mut batch = Batch(WriteBatch::default());
        f(&mut batch)?;
        Ok(self.0.write_opt(batch.0, &wait(durable))?)
    }
    fn read(&mut self, f: &mut dyn FnMut(&mut dyn Reader) -> Any<()>) -> Any<()> {
        let snapshot = self.0.snapshot();
        let get =
            |key: &[u8], out: &mut Vec<u8>| Ok(snapshot.get_pinned(key)?.map(|v| copy(&v, out)).is_some());
        let scan = |from: &[u8], limit: usize, row: &mut dyn FnMut(&[u8], &[u8])| {
            let mut it = snapshot.raw_iterator();
            it.seek(from);
            let mut n = 0;
            while n < limit {
                let Some((key, value)) = it.item() else { break };
                row(key, value);
                n += 1;
                it.next();
            }
            it.status()?;
            Ok(n)
        };
        f(&mut Functions { get, scan })
    }
    fn get(&mut self, key: &[u8], out: &mut Vec<u8>) -> Any<bool> {
        Ok(self.0.get_pinned(key)?.map(|v| copy(&v, out)).is_some())
    }
}

struct Batch(WriteBatch);

impl Writer for Batch {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Any<()> {
        self.0.put(key, value);
        Ok(())
    }
    fn delete(&mut self, key: &[u8]) -> Any<()> {
        self.0.delete(key);
        Ok(())
    }
    fn get(&mut self, _: &[u8], _: &mut Vec<u8>) -> Any<bool> {
        Err(Box::new(Unsupported("a batch cannot read")))
    }
}
