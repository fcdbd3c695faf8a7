//! Version memory under a long snapshot: `cargo run --release -p hamal-benches --bin long_snapshot -- [--json] [--updates N]
//! [--rows N] [--dir DIR]`.
//!
//! A snapshot is taken and kept, and then as many updates as asked for (a million) run beneath it, each its own
//! transaction, committed asynchronously: first all of one row, then spread over `--rows` rows (100,000). Ten times on the way the
//! version store is looked at. At the end the snapshot is read as a whole and must show what it was taken of; then it
//! is dropped, and the store must be empty.

use hamal::{Database, Durability, Result};
use std::path::PathBuf;
use std::time::{Duration, Instant};

struct Args {
    json: bool,
    updates: u64,
    rows: u64,
    dir: Option<PathBuf>,
}

fn args() -> Args {
    let mut a = Args { json: false, updates: 1_000_000, rows: 100_000, dir: None };
    let mut words = std::env::args().skip(1);
    let number = |w: Option<String>| w.and_then(|w| w.parse().ok()).expect("a number");
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => a.json = true,
            "--updates" => a.updates = number(words.next()),
            "--rows" => a.rows = number(words.next()),
            "--dir" => a.dir = words.next().map(PathBuf::from),
            other => panic!("unknown argument {other}: --json, --updates N, --rows N, --dir DIR"),
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

fn key(n: u64) -> [u8; 8] {
    n.to_be_bytes()
}

fn value(n: u64) -> [u8; 100] {
    let mut v = [0; 100];
    v[..8].copy_from_slice(&n.to_be_bytes());
    v
}

fn run(a: &Args, rows: u64, name: &str) -> Result<()> {
    let temp = match &a.dir {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    }
    .expect("a temporary directory");
    let db = Database::builder().durability(Durability::Async).create(temp.path().join("db"))?;
    let tx = db.begin_write()?;
    let t = tx.create_tree("t")?;
    for n in 0..rows {
        t.put(key(n), value(0))?;
    }
    tx.commit_with(Durability::Sync)?;
    let old = db.begin_read()?;

    let start = Instant::now();
    let each = (a.updates / 10).max(1);
    let mut x = 1u64;
    for n in 1..=a.updates {
        x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        let tx = db.begin_write()?;
        tx.tree("t")?.put(key((x >> 33) % rows), value(n))?;
        tx.commit()?;
        if n % each == 0 {
            let (s, seconds) = (db.stats(), start.elapsed().as_secs_f64());
            let (held, bytes, rss) = (s.versions, s.version_bytes, memory("VmRSS"));
            let (log, statuses) = (s.versions_demoted, s.transaction_statuses);
            if a.json {
                println!(
                    "{{\"case\":\"{name}\",\"rows\":{rows},\"updates\":{n},\"seconds\":{seconds:.3},\"versions\":{held},\
                     \"version_bytes\":{bytes},\"left_to_log\":{log},\"statuses\":{statuses},\"rss_kib\":{rss}}}"
                );
            } else {
                println!(
                    "{name:<10} {n:>9} {seconds:>8.2} {held:>9} {bytes:>13} {log:>11} {statuses:>8} {rss:>9}"
                );
            }
        }
    }
    let t = old.tree("t")?;
    let mut seen = 0;
    for row in t.iter() {
        assert_eq!(row?.1[..8], [0; 8], "the snapshot shows a later state");
        seen += 1;
    }
    assert_eq!(seen, rows, "the snapshot shows all rows");
    drop((t, old));
    let wait = Instant::now();
    while db.stats().versions > 0 && wait.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(db.stats().version_bytes, 0, "versions stayed though no snapshot needs them");
    db.close()
}

fn main() -> Result<()> {
    let a = args();
    if !a.json {
        println!(
            "{:<10} {:>9} {:>8} {:>9} {:>13} {:>11} {:>8} {:>9}",
            "case", "updates", "seconds", "versions", "version bytes", "left to log", "statuses", "RSS KiB"
        );
    }
    run(&a, 1, "one row")?;
    run(&a, a.rows, "many rows")
}
