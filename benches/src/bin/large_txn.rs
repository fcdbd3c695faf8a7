//! A transaction larger than memory: `cargo run --release -p hamal-benches --bin large_txn -- [--json] [--mib N] [--cache-mib N]
//! [--value N] [--log-gib N] [--dir DIR]`.
//!
//! One transaction updates `--mib` (2048) MiB of rows with values of `--value` (1000) bytes, with a cache of `--cache-mib` (64) MiB and
//! a version budget of 1 MiB, while a snapshot is open; once it commits, once it rolls back. Prints seconds, peak memory, log
//! size, and what a look at some rows through the snapshot costs when their former states are in the log alone.

use hamal::{Database, Result};
use std::path::PathBuf;
use std::time::Instant;

struct Args {
    json: bool,
    mib: u64,
    cache_mib: usize,
    value: usize,
    log_gib: u64,
    dir: Option<PathBuf>,
}

fn args() -> Args {
    let mut a = Args { json: false, mib: 2048, cache_mib: 64, value: 1000, log_gib: 32, dir: None };
    let mut words = std::env::args().skip(1);
    let number = |w: Option<String>| w.and_then(|w| w.parse().ok()).expect("a number");
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => a.json = true,
            "--mib" => a.mib = number(words.next()),
            "--cache-mib" => a.cache_mib = number(words.next()) as usize,
            "--value" => a.value = number(words.next()) as usize,
            "--log-gib" => a.log_gib = number(words.next()),
            "--dir" => a.dir = words.next().map(PathBuf::from),
            other => panic!("unknown argument {other}: see the head of the file"),
        }
    }
    a
}

/// Kilobytes of a line of `/proc/self/status`.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with(name));
    line.and_then(|l| l.split_whitespace().nth(1)).and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn value(n: u64, round: u64, len: usize) -> Vec<u8> {
    let mut v = vec![round as u8; len.max(16)];
    v[..8].copy_from_slice(&n.to_be_bytes());
    v[8..16].copy_from_slice(&round.to_be_bytes());
    v
}

struct Figures<'a> {
    a: &'a Args,
}

impl Figures<'_> {
    fn print(&self, what: &str, seconds: f64, db: &Database) {
        let s = db.stats();
        let (log, demoted) = (s.log_tail - s.log_oldest, s.versions_demoted);
        let (version_bytes, peak) = (s.version_bytes, memory("VmHWM"));
        if self.a.json {
            println!(
                "{{\"step\":\"{what}\",\"seconds\":{seconds:.2},\"log_bytes\":{log},\"log_files_bytes\":{},\
                 \"version_bytes\":{version_bytes},\"left_to_log\":{demoted},\"peak_rss_kib\":{peak}}}",
                s.log_allocated_bytes
            );
        } else {
            println!(
                "{what:<28} {seconds:>9.2} s  log {:>7} MiB, files {:>7} MiB  versions {version_bytes:>8} B, {demoted:>9} in the \
                 log  peak RSS {:>6} MiB",
                log >> 20,
                s.log_allocated_bytes >> 20,
                peak >> 10
            );
        }
    }
}

fn main() -> Result<()> {
    let a = args();
    let temp = match &a.dir {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    }
    .expect("a temporary directory");
    let rows = (a.mib << 20) / a.value as u64;
    let db = Database::builder()
        .cache_bytes(a.cache_mib << 20)
        .version_budget_bytes(1 << 20)
        .log_limit_bytes(a.log_gib << 30)
        .log_segment_bytes(64 << 20)
        .checkpoint_log_bytes(256 << 20)
        .create(temp.path().join("db"))?;
    let figures = Figures { a: &a };

    let start = Instant::now();
    let mut at = 0;
    let mut made = false;
    while at < rows {
        let tx = db.begin_write()?;
        let t = if made { tx.tree("t")? } else { tx.create_tree("t")? };
        made = true;
        let end = (at + 10_000).min(rows);
        for n in at..end {
            t.put(n.to_be_bytes(), value(n, 0, a.value))?;
        }
        at = end;
        tx.commit()?;
    }
    figures.print("load", start.elapsed().as_secs_f64(), &db);
    db.flush()?;
    db.checkpoint()?;
    db.checkpoint()?;
    let old = db.begin_read()?;

    for (round, commits) in [(1, false), (2, true)] {
        let start = Instant::now();
        let tx = db.begin_write()?;
        let t = tx.tree("t")?;
        for n in 0..rows {
            t.put(n.to_be_bytes(), value(n, round, a.value))?;
        }
        figures.print("update in one transaction", start.elapsed().as_secs_f64(), &db);
        look(&old, rows, a.value)?;
        figures.print("1000 looks at the snapshot", look(&old, rows, a.value)?, &db);
        let start = Instant::now();
        if commits {
            tx.commit()?;
            figures.print("commit", start.elapsed().as_secs_f64(), &db);
        } else {
            tx.rollback()?;
            figures.print("rollback", start.elapsed().as_secs_f64(), &db);
        }
        figures.print("1000 looks at the snapshot", look(&old, rows, a.value)?, &db);
    }
    let start = Instant::now();
    let n = old.tree("t")?.range((rows / 2).to_be_bytes()..).take(100_000).count();
    figures.print(&format!("scan of {n} rows"), start.elapsed().as_secs_f64(), &db);
    drop(old);
    let t = db.begin_read()?.tree("t")?;
    assert_eq!(t.get((rows - 1).to_be_bytes())?.expect("the last row")[..], value(rows - 1, 2, a.value)[..]);
    drop(t);
    let start = Instant::now();
    db.close()?;
    println!("close: {:.2} s", start.elapsed().as_secs_f64());
    Ok(())
}

/// Seconds that 1000 rows here and there take; each must be as it was when the snapshot was taken.
fn look(old: &hamal::ReadTxn, rows: u64, len: usize) -> Result<f64> {
    let t = old.tree("t")?;
    let start = Instant::now();
    for i in 0..1000 {
        let n = i * 7919 % rows;
        let got = t.get(n.to_be_bytes())?.expect("the row");
        assert_eq!(got[..], value(n, 0, len)[..], "row {n} of the snapshot");
    }
    Ok(start.elapsed().as_secs_f64())
}
