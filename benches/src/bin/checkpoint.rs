//! Whether commits wait for checkpoints: `cargo run --release -p hamal-benches --bin checkpoint -- [--threads N] [--seconds S]
//! [--rounds N] [--rows N] [--interval MIB] [--dir DIR]`.
//!
//! Threads change random rows, one durable transaction each. In one half of a round no checkpoint is taken; in the other
//! half one is under way for more than half of the time, and between two begins the cleaner writes the pages that
//! `--interval` makes old. The latencies of commits are told apart: no checkpoints at all; a checkpoint was under way when the commit
//! began; none was, in the half that has them. (By the beginning alone: a commit that takes long meets a checkpoint more easily, whatever it
//! waits for.) Halves alternate, and each round takes them in the other order, so that what the machine does beside meets both.

use hamal::{Database, Durability};
use hamal_benches::{Random, fill};
use hdrhistogram::Histogram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

type Any<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const VALUE: usize = 150;

struct Args {
    threads: u64,
    seconds: f64,
    rounds: usize,
    rows: usize,
    interval: u64,
    dir: PathBuf,
}

fn args() -> Any<Args> {
    let mut a = Args { threads: 8, seconds: 1.0, rounds: 12, rows: 200_000, interval: 32, dir: ".".into() };
    let mut words = std::env::args().skip(1);
    while let Some(name) = words.next() {
        let value = words.next().ok_or_else(|| format!("{name} wants a value"))?;
        match name.as_str() {
            "--threads" => a.threads = value.parse()?,
            "--seconds" => a.seconds = value.parse()?,
            "--rounds" => a.rounds = value.parse()?,
            "--rows" => a.rows = value.parse()?,
            "--interval" => a.interval = value.parse()?,
            "--dir" => a.dir = value.into(),
            _ => return Err(format!("{name} is no option").into()),
        }
    }
    Ok(a)
}

fn open(dir: &Path, interval_mib: u64) -> hamal::Result<Database> {
    Database::builder()
        .cache_bytes(1 << 30)
        .log_limit_bytes(16 << 30)
        .checkpoint_log_bytes(interval_mib << 20)
        .open_or_create(dir)
}

fn histogram() -> Histogram<u64> {
    // Up to a minute, in nanoseconds; three digits: these bounds are valid.
    Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap_or_else(|e| unreachable!("{e}"))
}

/// What a checkpoint says of itself: odd while one is under way.
#[derive(Default)]
struct Turn(AtomicU64);

/// Latencies of commits by what went on beside them.
struct Seen {
    under_way: Histogram<u64>,
    between: Histogram<u64>,
}

impl Seen {
    fn new() -> Seen {
        Seen { under_way: histogram(), between: histogram() }
    }
}

/// What one half had: latencies, and of the checkpoints their number and the seconds that one was under way.
struct Half {
    seen: Seen,
    seconds: f64,
    checkpoints: u64,
    busy: f64,
    pages: u64,
    log_bytes: u64,
}

fn half(a: &Args, dir: &Path, keys: &[[u8; 24]], seed: u64, checkpoints: bool) -> Any<Half> {
    let db = open(dir, if checkpoints { a.interval } else { 8 << 10 })?;
    let (turn, stop) = (Turn::default(), AtomicBool::new(false));
    let before = db.stats();
    let started = Instant::now();
    let time = Duration::from_secs_f64(a.seconds);
    let (turn, stop, db) = (&turn, &stop, &db);
    let (mut seen, mut count, mut busy) = (Seen::new(), 0, 0.0);
    thread::scope(|s| -> Any<()> {
        let workers: Vec<_> = (0..a.threads)
            .map(|t| s.spawn(move || commits(db, turn, stop, keys, seed.wrapping_add(t << 32))))
            .collect();
        while checkpoints && started.elapsed() < time {
            let begun = Instant::now();
            turn.0.fetch_add(1, SeqCst);
            db.checkpoint()?;
            turn.0.fetch_add(1, SeqCst);
            let took = begun.elapsed();
            count += 1;
            busy += took.as_secs_f64();
            thread::sleep(took / 2);
        }
        thread::sleep(time.saturating_sub(started.elapsed()));
        stop.store(true, SeqCst);
        for w in workers {
            let part = w.join().unwrap_or_else(|_| Err("a thread panicked".into()))?;
            seen.under_way.add(&part.under_way)?;
            seen.between.add(&part.between)?;
        }
        Ok(())
    })?;
    let after = db.stats();
    let half = Half {
        seen,
        seconds: started.elapsed().as_secs_f64(),
        checkpoints: count,
        busy,
        pages: after.pages_written - before.pages_written,
        log_bytes: after.log_tail - before.log_tail,
    };
    db.close()?;
    Ok(half)
}

fn commits(db: &Database, turn: &Turn, stop: &AtomicBool, keys: &[[u8; 24]], seed: u64) -> Any<Seen> {
    let mut seen = Seen::new();
    let mut random = Random(seed);
    while !stop.load(SeqCst) {
        let key = &keys[random.next_u64() as usize % keys.len()];
        let value = random.value(VALUE);
        let began = Instant::now();
        let before = turn.0.load(SeqCst);
        let tx = db.begin_write()?;
        let put = tx.tree("t")?.put(key, &value);
        if put.as_ref().is_err_and(|e| e.kind() == hamal::ErrorKind::Conflict) {
            tx.rollback()?;
            continue;
        }
        put?;
        tx.commit_with(Durability::Sync)?.wait()?;
        let which = if before % 2 == 1 { &mut seen.under_way } else { &mut seen.between };
        which.saturating_record(u64::try_from(began.elapsed().as_nanos())?);
    }
    Ok(seen)
}

fn print(what: &str, h: &Histogram<u64>) {
    let us = |q: f64| h.value_at_quantile(q) as f64 / 1e3;
    println!(
        "{what:<28} | {:>8} | {:>8.0} | {:>8.0} | {:>8.0} | {:>8.0}",
        h.len(),
        us(0.5),
        us(0.99),
        us(0.999),
        h.max() as f64 / 1e3
    );
}

fn main() -> Any<()> {
    let a = args()?;
    let dir = tempfile::tempdir_in(&a.dir)?;
    let path = dir.path().join("db");
    let keys = {
        let db = open(&path, 256)?;
        let keys = fill(&db, a.rows, VALUE, 1)?;
        db.close()?;
        keys
    };
    let (mut without, mut with, mut whole) = (histogram(), Seen::new(), histogram());
    let mut ratios = Vec::new();
    println!("{} threads, {} rows, checkpoint interval {} MiB", a.threads, a.rows, a.interval);
    for round in 0..a.rounds {
        for n in 0..2 {
            let checkpoints = (n + round) % 2 == 1;
            let h = half(&a, &path, &keys, (2 * round + n) as u64, checkpoints)?;
            let commits = h.seen.under_way.len() + h.seen.between.len();
            println!(
                "round {round}: {} checkpoints, under way {:.0} % of the time; {:.0} commits/s, {} pages written, {} MiB of log",
                h.checkpoints,
                100.0 * h.busy / h.seconds,
                commits as f64 / h.seconds,
                h.pages,
                h.log_bytes >> 20,
            );
            if checkpoints {
                ratios.push(h.seen.under_way.value_at_quantile(0.999) as f64);
                with.under_way.add(&h.seen.under_way)?;
                with.between.add(&h.seen.between)?;
                whole.add(&h.seen.under_way)?;
                whole.add(&h.seen.between)?;
            } else {
                ratios.push(h.seen.between.value_at_quantile(0.999) as f64);
                without.add(&h.seen.between)?;
            }
        }
    }
    println!("microseconds                 |  commits |      50% |      99% |    99.9% |      max");
    print("no checkpoints", &without);
    print("a checkpoint under way", &with.under_way);
    print("between two checkpoints", &with.between);
    print("both", &whole);
    let mut of_rounds: Vec<f64> = (ratios.chunks(2).enumerate())
        .map(|(round, pair)| if round % 2 == 0 { pair[1] / pair[0] } else { pair[0] / pair[1] })
        .collect();
    of_rounds.sort_by(f64::total_cmp);
    let quantile = |h: &Histogram<u64>| h.value_at_quantile(0.999) as f64;
    println!(
        "99.9 % under way / without: {:.2} (all rounds together), {:.2} (median of the rounds); both / without: {:.2}",
        quantile(&with.under_way) / quantile(&without),
        of_rounds[of_rounds.len() / 2],
        quantile(&whole) / quantile(&without),
    );
    Ok(())
}
