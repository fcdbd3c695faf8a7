//! The path of a commit, or of a get, a fixed number of times: each transaction puts one new row into a tree of 100,000, or each
//! get finds one of them.
//!
//!     cargo run --release -p hamal-benches --bin paths -- commit --threads 32 --count 100000
//!     cargo run --release -p hamal-benches --bin paths -- get --count 1000000
//!
//! Commits wait for their flush of the device; with `--asynchronous` there is one sync at the end, which is in the time. `--memory` runs
//! on a disk in memory and without background threads: for counting, not for rates. What one operation costs in
//! instructions and in locked operations of the memory bus (`paths::step` holds one):
//!
//!     valgrind --tool=callgrind --collect-bus=yes --toggle-collect=paths::step target/release/paths get --memory --count 10000
use clap::{Parser, ValueEnum};
use hamal::{Database, Durability, ReadTree, Result};
use hamal_benches::Random;
use hamal_disk::MemDisk;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

#[derive(Clone, Copy, ValueEnum)]
enum What {
    /// A transaction that puts one new row.
    Commit,
    /// A get with a snapshot of its own.
    Get,
    /// A get in the snapshot of its thread.
    GetInSnapshot,
}

#[derive(Parser)]
struct Args {
    /// What is done.
    what: What,
    /// Operations of all threads together.
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

/// What a thread works with.
struct Work<'a> {
    db: &'a Database,
    what: What,
    durability: Durability,
    /// The rows that are there.
    keys: &'a [[u8; 24]],
    tree: ReadTree,
    random: Random,
    value: Vec<u8>,
    seen: usize,
}

/// One operation.
#[inline(never)]
fn step(work: &mut Work<'_>) -> Result<()> {
    let at = work.random.next_u64();
    let key = &work.keys[(at % work.keys.len() as u64) as usize];
    match work.what {
        What::Commit => {
            let key = work.random.key();
            work.value[..8].copy_from_slice(&at.to_le_bytes());
            let tx = work.db.begin_write()?;
            tx.tree("t")?.put(key, &work.value)?;
            tx.commit_with(work.durability)?;
        }
        What::Get => {
            let found = work.db.begin_read()?.tree("t")?.get_with(key, |v| v.len())?;
            work.seen += found.unwrap_or_default();
        }
        What::GetInSnapshot => work.seen += work.tree.get_with(key, |v| v.len())?.unwrap_or_default(),
    }
    Ok(())
}

fn run(mut work: Work<'_>, count: u64) -> Result<()> {
    (0..count).try_for_each(|_| step(&mut work))?;
    let found = matches!(work.what, What::Commit) || work.seen as u64 == 150 * count;
    if found { Ok(()) } else { Err(hamal::Error::internal("a get did not find its row")) }
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
    let keys = hamal_benches::fill(&db, args.rows, 150, 1)?;
    db.flush()?;
    let durability = if args.asynchronous { Durability::Async } else { Durability::Sync };
    let (started, cpu, tail) = (Instant::now(), cpu_seconds(), db.engine().log_tail().0);
    std::thread::scope(|s| -> Result<()> {
        let mut threads = Vec::new();
        for thread in 0..args.threads {
            let work = Work {
                db: &db,
                what: args.what,
                durability,
                keys: &keys,
                tree: db.begin_read()?.tree("t")?,
                random: Random(thread + 100),
                value: Random(thread).value(150),
                seen: 0,
            };
            threads.push(s.spawn(move || run(work, args.count / args.threads)));
        }
        let join = |t: std::thread::ScopedJoinHandle<'_, Result<()>>| {
            t.join().unwrap_or_else(|_| Err(hamal::Error::internal("a thread panicked")))
        };
        threads.into_iter().try_for_each(join)
    })?;
    db.flush()?;
    let seconds = started.elapsed().as_secs_f64();
    let each = |what: f64| what / args.count as f64;
    println!(
        "{:.0} operations/s, {:.2} us of processor time and {:.1} log bytes for each",
        args.count as f64 / seconds,
        1e6 * each(cpu_seconds() - cpu),
        each((db.engine().log_tail().0 - tail) as f64),
    );
    db.close()
}
