//! A database ten times larger than its cache: `cargo run --release -p hamal-benches --bin cold -- [--cache MIB] [--seconds S]
//! [--rounds N] [--pages 4096,8192] [--direct true,false] [--dir DIR]`.
//!
//! For each page size, and with and without a way past the operating system's cache: random gets by one and two threads beside random
//! reads of as many bytes past that cache, and asynchronous updates of random rows by one thread and by eight, with one sync at the end. The rows were
//! put in, in random order, by a database with a cache that held all of them.

use hamal::{Builder, Database, Durability};
use hamal_benches::compare::{raw, workloads};
use hamal_benches::{Random, fill};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

type Any<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const VALUE: usize = 150;

struct Args {
    cache: usize,
    seconds: f64,
    rounds: usize,
    pages: Vec<usize>,
    direct: Vec<bool>,
    dir: PathBuf,
}

fn args() -> Any<Args> {
    let (pages, direct) = (vec![4096, 8192], vec![true]);
    let mut a = Args { cache: 64, seconds: 2.0, rounds: 2, pages, direct, dir: ".".into() };
    let mut words = std::env::args().skip(1);
    while let Some(name) = words.next() {
        let value = words.next().ok_or_else(|| format!("{name} wants a value"))?;
        match name.as_str() {
            "--cache" => a.cache = value.parse()?,
            "--seconds" => a.seconds = value.parse()?,
            "--rounds" => a.rounds = value.parse()?,
            "--pages" => a.pages = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "--direct" => a.direct = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "--dir" => a.dir = value.into(),
            _ => return Err(format!("{name} is no option").into()),
        }
    }
    Ok(a)
}

fn builder(page: usize, cache_mib: usize, direct: bool) -> Builder {
    Database::builder().page_size(page).cache_bytes(cache_mib << 20).direct_io(direct)
}

fn gets(db: &Database, keys: &[[u8; 24]], threads: u64, time: Duration) -> Any<f64> {
    let until = Instant::now() + time;
    let counts: Vec<Any<u64>> = std::thread::scope(|s| {
        let run = |t: u64| -> Any<u64> {
            let mut random = Random(t << 32);
            let mut n = 0;
            while Instant::now() < until {
                let key = &keys[random.next_u64() as usize % keys.len()];
                let found = db.begin_read()?.tree("t")?.get_with(key, |v| v.len())?;
                if found != Some(VALUE) {
                    return Err("a row is missing".into());
                }
                n += 1;
            }
            Ok(n)
        };
        let handles: Vec<_> = (0..threads).map(|t| s.spawn(move || run(t))).collect();
        handles.into_iter().map(|h| h.join().unwrap_or_else(|_| Err("a thread panicked".into()))).collect()
    });
    Ok(counts.into_iter().sum::<Any<u64>>()? as f64 / time.as_secs_f64())
}

fn updates(db: &Database, keys: &[[u8; 24]], threads: u64, time: Duration, seed: u64) -> Any<f64> {
    let started = Instant::now();
    let run = |t: u64| -> Any<u32> {
        let mut random = Random(seed + (t << 32));
        let mut n = 0;
        while started.elapsed() < time {
            let key = keys[random.next_u64() as usize % keys.len()];
            let tx = db.begin_write()?;
            let put = tx.tree("t")?.put(key, random.value(VALUE));
            match put.and_then(|()| tx.commit_with(Durability::Async)) {
                Ok(_) => n += 1,
                Err(e) if e.is_retryable() => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(n)
    };
    let counts: Vec<Any<u32>> = std::thread::scope(|s| {
        let handles: Vec<_> = (0..threads).map(|t| s.spawn(move || run(t))).collect();
        handles.into_iter().map(|h| h.join().unwrap_or_else(|_| Err("a thread panicked".into()))).collect()
    });
    db.sync()?;
    Ok(f64::from(counts.into_iter().sum::<Any<u32>>()?) / started.elapsed().as_secs_f64())
}

fn one(a: &Args, dir: &Path, page: usize, direct: bool, seed: u64) -> Any<()> {
    let path = dir.join("db");
    let _ = std::fs::remove_dir_all(&path);
    // Ten times the cache in rows.
    let rows = 10 * (a.cache << 20) / (workloads::KEY + VALUE);
    let db = builder(page, 16 * a.cache, true).create(&path)?;
    let keys = fill(&db, rows, VALUE, 1)?;
    db.close()?;
    drop(db);
    let time = Duration::from_secs_f64(a.seconds);
    let limit = |threads| raw::reads(dir, time, threads, page);
    let db = builder(page, a.cache, direct).open(&path)?;
    let mut rates = Vec::new();
    for threads in [1, 2] {
        rates.push((limit(threads)?.rate, gets(&db, &keys, threads, time)?));
    }
    let before = db.stats();
    let rate = updates(&db, &keys, 1, time, seed)?;
    let several = updates(&db, &keys, 8, time, seed + 1)?;
    let s = db.stats();
    let (written, images) = (s.pages_written - before.pages_written, s.page_images - before.page_images);
    println!(
        "{page:>5} | {direct:<6} | {:>7.0} | {:>7.0} | {:>7.0} | {:>7.0} | {rate:>9.0} | {several:>9.0} | {written:>7} | {images:>7} | {:>7} | {:>8.2}",
        rates[0].0,
        rates[0].1,
        rates[1].0,
        rates[1].1,
        (s.log_tail - before.log_tail) >> 20,
        std::fs::metadata(path.join("data"))?.len() as f64 / 1e9,
    );
    db.close()?;
    Ok(())
}

fn main() -> Any<()> {
    let a = args()?;
    let dir = tempfile::tempdir_in(&a.dir)?;
    println!(
        " page | direct | raw 1/s | get 1/s | raw 2/s | get 2/s | updates/s | by 8 thr. | written |  images | log MiB | file GB"
    );
    for round in 0..a.rounds {
        for page in &a.pages {
            for direct in &a.direct {
                one(&a, dir.path(), *page, *direct, round as u64)?;
            }
        }
    }
    Ok(())
}
