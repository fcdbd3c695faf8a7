//! The commit path, a fixed number of times: transactions that put one new row each, into a tree of 100,000.
//!
//!     cargo run --release -p hamal-benches --bin commits -- --threads 32 --count 100000
//!     valgrind --tool=callgrind target/release/commits --memory --count 20000 --rows 20000    # instructions a commit
//!
//! Without `--asynchronous` each commit waits for its flush of the device; with it, one sync at the end is in the time. `--memory` runs
//! on a disk in memory and without background threads: for counting instructions, not for rates.
use clap::Parser;
use hamal::{Database, Durability, Result};
use hamal_benches::Random;
use hamal_disk::MemDisk;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

#[derive(Parser)]
struct Args {
    /// Transactions of all threads together.
    #[arg(long, default_value_t = 50_000)]
    count: u64,
    /// Threads.
    #[arg(long, default_value_t = 1)]
    threads: u64,
    /// Rows that are there before.
    #[arg(long, default_value_t = 100_000)]
    rows: usize,
    /// Commits do not wait; one sync at the end.
    #[arg(long)]
    asynchronous: bool,
    /// On a disk in memory, without background threads.
    #[arg(long)]
    memory: bool,
    /// Where the database is made (and removed again).
    #[arg(long)]
    dir: Option<PathBuf>,
}

fn commit(db: &Database, random: &mut Random, durability: Durability) -> Result<()> {
    let (key, value) = (random.key(), random.value(150));
    let tx = db.begin_write()?;
    tx.tree("t")?.put(key, &value)?;
    tx.commit_with(durability).map(|_| ())
}

fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks = |n: usize| after.split_whitespace().nth(n).and_then(|s| s.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn main() -> Result<()> {
    let args = Args::parse();
    let io = |e| hamal::Error::io("a directory", e);
    let dir = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    }
    .map_err(io)?;
    let builder = Database::builder().cache_bytes(1 << 30);
    let db = match args.memory {
        true => builder.cache_bytes(128 << 20).background(false).create_on(Arc::new(MemDisk::new()))?,
        false => builder.create(dir.path())?,
    };
    hamal_benches::fill(&db, args.rows, 150, 1)?;
    db.flush()?;
    let durability = if args.asynchronous { Durability::Async } else { Durability::Sync };
    let (started, cpu, tail) = (Instant::now(), cpu_seconds(), db.engine().log_tail().0);
    std::thread::scope(|s| {
        let db = &db;
        let run = |thread: u64| {
            move || {
                let mut random = Random(thread + 100);
                (0..args.count / args.threads).try_for_each(|_| commit(db, &mut random, durability))
            }
        };
        let threads: Vec<_> = (0..args.threads).map(|t| s.spawn(run(t))).collect();
        threads
            .into_iter()
            .try_for_each(|t| t.join().unwrap_or_else(|_| Err(hamal::Error::internal("a thread panicked"))))
    })?;
    db.flush()?;
    let seconds = started.elapsed().as_secs_f64();
    let each = |what: f64| what / args.count as f64;
    println!(
        "{:.0} commits/s, {:.2} us of processor time and {:.1} log bytes a commit",
        args.count as f64 / seconds,
        1e6 * each(cpu_seconds() - cpu),
        each((db.engine().log_tail().0 - tail) as f64),
    );
    db.close()
}
