//! The figures of the README, measured in one run on one machine: `cargo run --release -p hamal-benches --bin figures
//! [DIR]`. Everything that says durable waits for a device flush. Rounds of the things compared are interleaved; medians
//! with minimum and maximum are printed.

use hamal::disk::{CrashModel, MemDisk};
use hamal::inspect::Inspect;
use hamal::log::RecordKind;
use hamal::{Database, Durability};
use hamal_benches::{Random, fill};
use redb::ReadableDatabase as _;
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Any<T> = Result<T, Box<dyn std::error::Error>>;

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_millis(1500);
const CACHED_KEYS: usize = 1_000_000;
const VALUE: usize = 100;

/// Median, minimum and maximum.
fn spread(mut v: Vec<f64>) -> (f64, f64, f64) {
    v.sort_by(f64::total_cmp);
    (v[v.len() / 2], v[0], v[v.len() - 1])
}

fn line(name: &str, unit: &str, v: &[f64]) {
    let (mid, min, max) = spread(v.to_vec());
    println!("{name:<52} {mid:>12.0} {unit}  ({min:.0} to {max:.0})");
}

/// Calls `f` until the round is over; calls per second.
fn rate(mut f: impl FnMut() -> Any<()>) -> Any<f64> {
    let started = Instant::now();
    let mut n = 0u64;
    while started.elapsed() < ROUND {
        f()?;
        n += 1;
    }
    Ok(n as f64 / started.elapsed().as_secs_f64())
}

fn commits(db: &Database, threads: u64, seed: u64) -> Any<f64> {
    let started = Instant::now();
    let total = std::thread::scope(|s| {
        let handles: Vec<_> = (0..threads)
            .map(|t| {
                s.spawn(move || {
                    let mut random = Random(seed * 1000 + t);
                    let mut n = 0u64;
                    while started.elapsed() < ROUND {
                        let tx = db.begin_write()?;
                        tx.tree("t")?.put(random.key(), [7; VALUE])?;
                        tx.commit()?;
                        n += 1;
                    }
                    hamal::Result::Ok(n)
                })
            })
            .collect();
        handles.into_iter().map(|h| h.join().expect("a writer panicked")).sum::<hamal::Result<u64>>()
    })?;
    Ok(total as f64 / started.elapsed().as_secs_f64())
}

fn durable(dir: &Path) -> Any<()> {
    let db = Database::builder().cache_bytes(256 << 20).create(dir.join("commits"))?;
    fill(&db, 100_000, VALUE, 1)?;
    db.checkpoint()?;
    // The bar: the same number of bytes appended to a preallocated, really written file, and synced.
    let raw = OpenOptions::new().create(true).truncate(false).write(true).open(dir.join("raw"))?;
    for mib in 0..64u64 {
        raw.write_all_at(&[0; 1 << 20], mib << 20)?;
    }
    raw.sync_all()?;
    let mut at = 0;
    let (mut bar, mut one, mut sixteen) = (vec![], vec![], vec![]);
    for round in 0..ROUNDS {
        bar.push(rate(|| {
            raw.write_all_at(&[1; 512], at % (64 << 20))?;
            at += 512;
            Ok(raw.sync_data()?)
        })?);
        one.push(commits(&db, 1, round as u64 + 10)?);
        sixteen.push(commits(&db, 16, round as u64 + 20)?);
    }
    line("raw pwrite of 512 B + fdatasync, preallocated", "/s", &bar);
    line("durable commits, 1 thread", "/s", &one);
    line("durable commits, 16 threads", "/s", &sixteen);
    let ratio = spread(one).0 / spread(bar).0;
    println!("{:<52} {ratio:>12.2}", "  1 thread / raw");
    Ok(())
}

/// Bytes of log per small insert: the update records alone, in a database of 100,000 rows.
fn log_bytes() -> Any<()> {
    let disk = MemDisk::new();
    let builder = Database::builder().background(false);
    let db = builder.create_on(Arc::new(disk.clone()))?;
    fill(&db, 100_000, VALUE, 1)?;
    db.checkpoint()?;
    fill(&db, 1000, VALUE, 99)?;
    db.flush()?;
    let found = Inspect::open_on(Arc::new(disk.crash(CrashModel::KeepAll)))?;
    let end = found.log_end()?;
    let mut reader = found.reader(&end)?;
    let (mut n, mut bytes) = (0, 0);
    let mut at = found.control().checkpoint_end;
    while let Some(record) = reader.read(at)? {
        at = record.end;
        if record.kind == RecordKind::Update && record.payload(0).len() > VALUE {
            n += 1;
            bytes += record.len();
        }
    }
    if n < 1000 {
        return Err(format!("only {n} inserts were found in the log").into());
    }
    let over = bytes as f64 / f64::from(n) - (24 + VALUE) as f64;
    println!("{:<52} {over:>12.1} bytes beyond key and value", "log record of an insert (24 + 100 bytes)");
    Ok(())
}

fn reads(dir: &Path) -> Any<()> {
    let db = Database::builder().cache_bytes(1 << 30).create(dir.join("reads"))?;
    let keys = fill(&db, CACHED_KEYS, VALUE, 5)?;
    let mut map = BTreeMap::new();
    let other = redb::Database::builder().set_cache_size(1 << 30).create(dir.join("reads.redb"))?;
    let table: redb::TableDefinition<&[u8], &[u8]> = redb::TableDefinition::new("t");
    let mut random = Random(5);
    let tx = other.begin_write()?;
    {
        let mut t = tx.open_table(table)?;
        for _ in 0..CACHED_KEYS {
            let (k, v) = (random.key(), random.value(VALUE));
            t.insert(&k[..], &v[..])?;
            map.insert(k, v.into_boxed_slice());
        }
    }
    tx.commit()?;
    let read = db.begin_read()?;
    let ours = read.tree("t")?;
    let their = other.begin_read()?.open_table(table)?;
    let (mut a, mut b, mut c) = (vec![], vec![], vec![]);
    let mut random = Random(6);
    let mut buffer = Vec::new();
    for _ in 0..ROUNDS {
        a.push(
            1000.0
                * rate(|| {
                    for _ in 0..1000 {
                        let k = &keys[random.next_u64() as usize % keys.len()];
                        ours.get_with(k, |v| {
                            buffer.clear();
                            buffer.extend_from_slice(v);
                        })?
                        .ok_or("a key is missing")?;
                    }
                    Ok(())
                })?,
        );
        b.push(
            1000.0
                * rate(|| {
                    for _ in 0..1000 {
                        let k = &keys[random.next_u64() as usize % keys.len()];
                        buffer.clear();
                        buffer.extend_from_slice(&map[k]);
                    }
                    Ok(())
                })?,
        );
        c.push(
            1000.0
                * rate(|| {
                    for _ in 0..1000 {
                        let k = &keys[random.next_u64() as usize % keys.len()];
                        let v = their.get(&k[..])?.ok_or("a key is missing")?;
                        buffer.clear();
                        buffer.extend_from_slice(v.value());
                    }
                    Ok(())
                })?,
        );
    }
    line("random gets, 1M cached keys, one snapshot", "/s", &a);
    line("the same from std::collections::BTreeMap", "/s", &b);
    line("the same from redb", "/s", &c);
    println!("{:<52} {:>12.2}", "  hamal / BTreeMap", spread(a.clone()).0 / spread(b).0);
    println!("{:<52} {:>12.2}", "  hamal / redb", spread(a).0 / spread(c).0);
    Ok(())
}

fn redo(dir: &Path) -> Any<()> {
    // A child process writes and dies without closing, so that the log has to be replayed.
    let path = dir.join("redo");
    let status =
        std::process::Command::new(std::env::current_exe()?).arg("--write-and-die").arg(&path).status()?;
    if status.success() {
        return Err("the child should have died".into());
    }
    let started = Instant::now();
    let (_db, report) = redo_options().open_with_report(&path)?;
    let mib = report.log_bytes as f64 / (1 << 20) as f64;
    println!(
        "{:<52} {:>12.0} MiB/s of log in analysis + redo ({mib:.0} MiB, open took {:.2} s)",
        "recovery after a kill",
        mib / (report.seconds[1] + report.seconds[2]),
        started.elapsed().as_secs_f64()
    );
    println!("{report}");
    Ok(())
}

fn redo_options() -> hamal::Builder {
    Database::builder()
        .cache_bytes(512 << 20)
        .background(false)
        .checkpoint_log_bytes(1 << 30)
        .log_limit_bytes(8 << 30)
}

fn main() -> Any<()> {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|a| a == "--write-and-die") {
        let db = redo_options().create(&args[2])?;
        fill(&db, 1_000_000, VALUE, 7)?;
        let tx = db.begin_write()?;
        tx.tree("t")?.put(b"last", b"row")?;
        tx.commit_with(Durability::Sync)?.wait()?;
        std::process::abort();
    }
    let base = args.get(1).map_or(".", String::as_str);
    let dir = tempfile::tempdir_in(base)?;
    durable(dir.path())?;
    log_bytes()?;
    reads(dir.path())?;
    redo(dir.path())
}
