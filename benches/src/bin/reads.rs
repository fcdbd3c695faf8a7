//! Cached reads side by side: point reads by one and two threads, a full scan, ranges of 100.
//!
//! `cargo run --release -p hamal-benches --features peers-lmdb --bin reads -- DIR [KEYS] [ROUNDS] [ENGINES]`; `ENGINES`
//! is a list like `hamal,lmdb,btreemap,redb`. All engines hold the same rows: keys of 8 to 24 random bytes, values of 100 to
//! 150, loaded in random order. Everything fits the caches. Each measurement of each round goes through all engines in turn;
//! medians with minimum and maximum are printed, and ratios to hamal of the same run. Rates are per second of processor time
//! of a thread, times the threads, where the system tells it (Linux), so that other load on the machine disturbs less; with
//! `WALL=1`, and elsewhere, they are per second.

use hamal::{Database, ReadTree};
use hamal_benches::Random;
use redb::{ReadableDatabase as _, ReadableTable as _};
use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

type Any<T> = Result<T, Box<dyn std::error::Error>>;

const CACHE: usize = 4 << 30;
const BATCH: u64 = 1000;

/// The key of row `i`: a function of `i` alone.
fn key(i: u64, buf: &mut [u8; 24]) -> &[u8] {
    let mut random = Random(i.wrapping_mul(0xD134_2543_DE82_EF95) + 1);
    for part in buf.chunks_mut(8) {
        part.copy_from_slice(&random.next_u64().to_le_bytes());
    }
    let len = 8 + random.next_u64() as usize % 17;
    &buf[..len]
}

fn value(i: u64, buf: &mut [u8; 152]) -> &[u8] {
    let mut random = Random(!i);
    for part in buf.chunks_mut(8) {
        part.copy_from_slice(&random.next_u64().to_le_bytes());
    }
    let len = 100 + random.next_u64() as usize % 51;
    &buf[..len]
}

fn look(v: &[u8]) -> u64 {
    u64::from(v[0]) + u64::from(v[v.len() - 1]) + v.len() as u64
}

/// What is measured. The returned numbers keep the compiler honest and must agree between engines.
trait Engine: Sync {
    fn name(&self) -> &'static str;
    /// Gets `BATCH` random rows.
    fn gets(&self, random: &mut Random, keys: u64) -> Any<u64>;
    /// Rows of the whole tree.
    fn scan(&self) -> Any<u64>;
    /// The same by the fastest way there is, if there is one beside the iterator.
    fn fast_scan(&self) -> Any<u64> {
        self.scan()
    }
    /// Rows of `n` ranges of at most 100 from random keys on.
    fn ranges(&self, random: &mut Random, keys: u64, n: u64) -> Any<u64>;
}

struct Hamal {
    tree: ReadTree,
    _db: Database,
}

impl Hamal {
    fn load(dir: &Path, keys: u64) -> Any<Hamal> {
        let db = Database::builder().cache_bytes(CACHE).create(dir.join("hamal"))?;
        let (mut kb, mut vb) = ([0; 24], [0; 152]);
        let mut i = 0;
        while i < keys {
            let tx = db.begin_write()?;
            let t = tx.open_or_create_tree("t")?;
            for _ in 0..BATCH.min(keys - i) {
                t.put(key(i, &mut kb), value(i, &mut vb))?;
                i += 1;
            }
            tx.commit_with(hamal::Durability::Async)?;
        }
        db.checkpoint()?;
        let tree = db.begin_read()?.tree("t")?;
        Ok(Hamal { tree, _db: db })
    }
}

impl Engine for Hamal {
    fn name(&self) -> &'static str {
        "hamal"
    }
    fn gets(&self, random: &mut Random, keys: u64) -> Any<u64> {
        let mut sum = 0;
        let mut kb = [0; 24];
        for _ in 0..BATCH {
            sum += self.tree.get_with(key(random.next_u64() % keys, &mut kb), look)?.ok_or("missing")?;
        }
        Ok(sum)
    }
    fn scan(&self) -> Any<u64> {
        let (mut n, mut sum) = (0, 0);
        for row in self.tree.iter() {
            let (k, v) = row?;
            sum += u64::from(k[0]) + look(&v);
            n += 1;
        }
        black_box(sum);
        Ok(n)
    }
    fn fast_scan(&self) -> Any<u64> {
        let (mut n, mut sum) = (0, 0);
        let mut rows = self.tree.iter();
        while let Some((k, v)) = rows.next_ref()? {
            sum += u64::from(k[0]) + look(v);
            n += 1;
        }
        black_box(sum);
        Ok(n)
    }
    fn ranges(&self, random: &mut Random, keys: u64, n: u64) -> Any<u64> {
        let (mut rows, mut sum) = (0, 0);
        let mut kb = [0; 24];
        for _ in 0..n {
            for row in self.tree.range(key(random.next_u64() % keys, &mut kb)..).take(100) {
                let (k, v) = row?;
                sum += u64::from(k[0]) + look(&v);
                rows += 1;
            }
        }
        black_box(sum);
        Ok(rows)
    }
}

struct Map(BTreeMap<Box<[u8]>, Box<[u8]>>);

impl Map {
    fn load(keys: u64) -> Map {
        let (mut kb, mut vb) = ([0; 24], [0; 152]);
        Map((0..keys).map(|i| (key(i, &mut kb).into(), value(i, &mut vb).into())).collect())
    }
}

impl Engine for Map {
    fn name(&self) -> &'static str {
        "btreemap"
    }
    fn gets(&self, random: &mut Random, keys: u64) -> Any<u64> {
        let mut sum = 0;
        let mut kb = [0; 24];
        for _ in 0..BATCH {
            sum += look(self.0.get(key(random.next_u64() % keys, &mut kb)).ok_or("missing")?);
        }
        Ok(sum)
    }
    fn scan(&self) -> Any<u64> {
        black_box(self.0.iter().map(|(k, v)| u64::from(k[0]) + look(v)).sum::<u64>());
        Ok(self.0.len() as u64)
    }
    fn ranges(&self, random: &mut Random, keys: u64, n: u64) -> Any<u64> {
        let (mut rows, mut sum) = (0, 0);
        let mut kb = [0; 24];
        for _ in 0..n {
            for (k, v) in self.0.range(Box::from(key(random.next_u64() % keys, &mut kb))..).take(100) {
                sum += u64::from(k[0]) + look(v);
                rows += 1;
            }
        }
        black_box(sum);
        Ok(rows)
    }
}

const TABLE: redb::TableDefinition<'_, &[u8], &[u8]> = redb::TableDefinition::new("t");

struct Redb(redb::ReadOnlyTable<&'static [u8], &'static [u8]>, #[allow(dead_code)] redb::Database);

impl Redb {
    fn load(dir: &Path, keys: u64) -> Any<Redb> {
        let db = redb::Database::builder().set_cache_size(CACHE).create(dir.join("redb"))?;
        let (mut kb, mut vb) = ([0; 24], [0; 152]);
        let tx = db.begin_write()?;
        {
            let mut t = tx.open_table(TABLE)?;
            for i in 0..keys {
                t.insert(key(i, &mut kb), value(i, &mut vb))?;
            }
        }
        tx.commit()?;
        let table = db.begin_read()?.open_table(TABLE)?;
        Ok(Redb(table, db))
    }
}

impl Engine for Redb {
    fn name(&self) -> &'static str {
        "redb"
    }
    fn gets(&self, random: &mut Random, keys: u64) -> Any<u64> {
        let mut sum = 0;
        let mut kb = [0; 24];
        for _ in 0..BATCH {
            sum += look(self.0.get(key(random.next_u64() % keys, &mut kb))?.ok_or("missing")?.value());
        }
        Ok(sum)
    }
    fn scan(&self) -> Any<u64> {
        let (mut n, mut sum) = (0, 0);
        for row in self.0.iter()? {
            let (k, v) = row?;
            sum += u64::from(k.value()[0]) + look(v.value());
            n += 1;
        }
        black_box(sum);
        Ok(n)
    }
    fn ranges(&self, random: &mut Random, keys: u64, n: u64) -> Any<u64> {
        let (mut rows, mut sum) = (0, 0);
        let mut kb = [0; 24];
        for _ in 0..n {
            for row in self.0.range(key(random.next_u64() % keys, &mut kb)..)?.take(100) {
                let (k, v) = row?;
                sum += u64::from(k.value()[0]) + look(v.value());
                rows += 1;
            }
        }
        black_box(sum);
        Ok(rows)
    }
}

#[cfg(feature = "peers-lmdb")]
mod lmdb {
    use super::*;
    use heed::types::Bytes;
    use heed::{Env, EnvFlags, EnvOpenOptions, WithoutTls};

    pub(crate) struct Lmdb {
        env: Env<WithoutTls>,
        db: heed::Database<Bytes, Bytes>,
    }

    impl Lmdb {
        pub(crate) fn load(dir: &Path, keys: u64) -> Any<Lmdb> {
            let path = dir.join("lmdb");
            std::fs::create_dir_all(&path)?;
            // The load is no part of the measurement: it need not be durable.
            let mut options = EnvOpenOptions::new().read_txn_without_tls();
            options.map_size(32 << 30);
            // SAFETY: the directory is this program's own; nobody else opens or changes the file while it is mapped.
            #[allow(unsafe_code)]
            let env = unsafe { options.flags(EnvFlags::NO_SYNC).open(path)? };
            let mut tx = env.write_txn()?;
            let db = env.create_database(&mut tx, None)?;
            let (mut kb, mut vb) = ([0; 24], [0; 152]);
            for i in 0..keys {
                db.put(&mut tx, key(i, &mut kb), value(i, &mut vb))?;
            }
            tx.commit()?;
            Ok(Lmdb { env, db })
        }
    }

    impl Engine for Lmdb {
        fn name(&self) -> &'static str {
            "lmdb"
        }
        fn gets(&self, random: &mut Random, keys: u64) -> Any<u64> {
            // One snapshot for many gets, as the others have.
            let tx = self.env.read_txn()?;
            let mut sum = 0;
            let mut kb = [0; 24];
            for _ in 0..BATCH {
                let k = key(random.next_u64() % keys, &mut kb);
                sum += look(self.db.get(&tx, k)?.ok_or("missing")?);
            }
            Ok(sum)
        }
        fn scan(&self) -> Any<u64> {
            let tx = self.env.read_txn()?;
            let (mut n, mut sum) = (0, 0);
            for row in self.db.iter(&tx)? {
                let (k, v) = row?;
                sum += u64::from(k[0]) + look(v);
                n += 1;
            }
            black_box(sum);
            Ok(n)
        }
        fn ranges(&self, random: &mut Random, keys: u64, n: u64) -> Any<u64> {
            let tx = self.env.read_txn()?;
            let (mut rows, mut sum) = (0, 0);
            let mut kb = [0; 24];
            for _ in 0..n {
                let from = std::ops::Bound::Included(key(random.next_u64() % keys, &mut kb));
                let range = (from, std::ops::Bound::<&[u8]>::Unbounded);
                for row in self.db.range(&tx, &range)?.take(100) {
                    let (k, v) = row?;
                    sum += u64::from(k[0]) + look(v);
                    rows += 1;
                }
            }
            black_box(sum);
            Ok(rows)
        }
    }
}

/// A clock of this thread: the processor time that it has used if the system tells it, else the time.
struct Clock(Instant, Option<u64>);

impl Clock {
    fn start() -> Clock {
        Clock(Instant::now(), Clock::used())
    }
    fn used() -> Option<u64> {
        if std::env::var_os("WALL").is_some() {
            return None;
        }
        std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split(' ').next()?.parse().ok()
    }
    fn seconds(&self) -> f64 {
        match (self.1, Clock::used()) {
            (Some(before), Some(now)) => (now - before) as f64 / 1e9,
            _ => self.0.elapsed().as_secs_f64(),
        }
    }
}

/// How long each measurement of a round takes: 1500 ms, or `ROUND_MS`.
fn round() -> Duration {
    let ms = std::env::var("ROUND_MS").ok().and_then(|ms| ms.parse().ok());
    Duration::from_millis(ms.unwrap_or(1500))
}

/// Gets per second of all threads together.
fn gets(engine: &dyn Engine, keys: u64, threads: u64, seed: u64) -> Any<f64> {
    let (started, round) = (Instant::now(), round());
    let total: f64 = std::thread::scope(|s| {
        let handles: Vec<_> = (0..threads)
            .map(|t| {
                s.spawn(move || {
                    let mut random = Random(seed * 1000 + t);
                    let clock = Clock::start();
                    let mut n = 0;
                    while started.elapsed() < round {
                        black_box(engine.gets(&mut random, keys).expect("a get fails"));
                        n += BATCH;
                    }
                    n as f64 / clock.seconds()
                })
            })
            .collect();
        handles.into_iter().map(|h| h.join().expect("a reader panicked")).sum()
    });
    Ok(total)
}

fn scans(engine: &dyn Engine, keys: u64, fast: bool) -> Any<f64> {
    let (started, clock, round) = (Instant::now(), Clock::start(), round());
    let mut rows = 0;
    while started.elapsed() < round {
        let n = if fast { engine.fast_scan()? } else { engine.scan()? };
        if n != keys {
            return Err(format!("{} has {n} rows instead of {keys}", engine.name()).into());
        }
        rows += n;
    }
    Ok(rows as f64 / clock.seconds())
}

fn ranges(engine: &dyn Engine, keys: u64, seed: u64) -> Any<f64> {
    let (started, clock, round) = (Instant::now(), Clock::start(), round());
    let mut random = Random(seed);
    let mut n = 0;
    while started.elapsed() < round {
        black_box(engine.ranges(&mut random, keys, 100)?);
        n += 100;
    }
    Ok(n as f64 / clock.seconds())
}

/// Median, minimum and maximum.
fn spread(mut v: Vec<f64>) -> (f64, f64, f64) {
    v.sort_by(f64::total_cmp);
    (v[v.len() / 2], v[0], v[v.len() - 1])
}

fn main() -> Any<()> {
    let mut args = std::env::args().skip(1);
    let dir = args.next().ok_or("usage: reads DIR [KEYS] [ROUNDS] [ENGINES] [WHAT]")?;
    let dir = tempfile::tempdir_in(dir)?;
    let keys: u64 = args.next().as_deref().unwrap_or("1000000").parse()?;
    let rounds: u64 = args.next().as_deref().unwrap_or("3").parse()?;
    let names = args.next().unwrap_or_else(|| "hamal,btreemap,lmdb,redb".into());
    let only = args.next();
    let mut engines: Vec<Box<dyn Engine>> = Vec::new();
    for name in names.split(',') {
        let started = Instant::now();
        engines.push(match name {
            "hamal" => Box::new(Hamal::load(dir.path(), keys)?),
            "btreemap" => Box::new(Map::load(keys)),
            "redb" => Box::new(Redb::load(dir.path(), keys)?),
            #[cfg(feature = "peers-lmdb")]
            "lmdb" => Box::new(lmdb::Lmdb::load(dir.path(), keys)?),
            #[cfg(not(feature = "peers-lmdb"))]
            "lmdb" => continue,
            other => return Err(format!("no engine is called {other}").into()),
        });
        eprintln!("{name}: loaded in {:.1} s", started.elapsed().as_secs_f64());
    }
    type Measure = fn(&dyn Engine, u64, u64) -> Any<f64>;
    let what: [(&str, Measure); 5] = [
        ("gets, 1 thread", |e, keys, seed| gets(e, keys, 1, seed)),
        ("gets, 2 threads", |e, keys, seed| gets(e, keys, 2, seed)),
        ("full scan, rows", |e, keys, _| scans(e, keys, false)),
        ("scan, lent rows", |e, keys, _| scans(e, keys, true)),
        ("ranges of 100", ranges),
    ];
    for (title, measure) in what {
        if only.as_ref().is_some_and(|w| !title.contains(w.as_str())) {
            continue;
        }
        let mut rates = vec![Vec::new(); engines.len()];
        for round in 0..rounds {
            for (e, r) in engines.iter().zip(&mut rates) {
                r.push(measure(e.as_ref(), keys, round + 1)?);
            }
        }
        let first = spread(rates[0].clone()).0;
        for (e, r) in engines.iter().zip(rates) {
            let (mid, min, max) = spread(r);
            let name = e.name();
            println!("{title:<18} {name:<10} {mid:>12.0}/s ({min:.0} to {max:.0}) x{:.2}", first / mid);
        }
    }
    Ok(())
}
