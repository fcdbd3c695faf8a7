//! Contention: durable transactions by 1 to 32 threads, on one row and on rows of their own, at every isolation level.
//!
//! * **one row**: every transaction reads one counter and writes it back one higher, by `Database::transact`. At read committed the row
//!   is locked as it is read (`get_for_update`), and "snapshot, locked" does that too; the others read it with `get`.
//! * **own rows**: the same with a counter for each thread, each in a leaf of its own.
//!
//! Each commit is durable when it counts. At the end the counters are compared with the commits. An abort is an attempt that was
//! run again; the rate is aborts by attempts.
//!
//! `--false-aborts`: of the transactions that serializable refuses, how many would have been harmless? See `false_aborts`.
use hamal::{Database, Durability, ErrorKind, Isolation, TransactOptions, WriteOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

const HELP: &str = "usage: contention [--seconds S] [--rounds N] [--threads 1,2,4] [--json] [--false-aborts]";
const LEVELS: [(&str, Isolation, bool); 4] = [
    ("read committed, locked", Isolation::ReadCommitted, true),
    ("snapshot", Isolation::Snapshot, false),
    ("snapshot, locked", Isolation::Snapshot, true),
    ("serializable", Isolation::Serializable, false),
];

struct Args {
    seconds: f64,
    rounds: usize,
    threads: Vec<usize>,
    json: bool,
    false_aborts: bool,
}

fn args() -> Result<Args, String> {
    let mut a =
        Args { seconds: 0.3, rounds: 3, threads: vec![1, 2, 4, 8, 16, 32], json: false, false_aborts: false };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--seconds" => a.seconds = value()?.parse().map_err(|e| format!("--seconds: {e}"))?,
            "--rounds" => a.rounds = value()?.parse().map_err(|e| format!("--rounds: {e}"))?,
            "--threads" => {
                let list = value()?;
                let parsed: Result<_, _> = list.split(',').map(str::parse).collect();
                a.threads = parsed.map_err(|e| format!("--threads: {e}"))?;
            }
            "--json" => a.json = true,
            "--false-aborts" => a.false_aborts = true,
            _ => return Err(format!("unknown option {word}")),
        }
    }
    let sane = (0.01..=3600.0).contains(&a.seconds)
        && (1..=100).contains(&a.rounds)
        && a.threads.iter().all(|t| (1..=1024).contains(t));
    if sane {
        Ok(a)
    } else {
        Err("seconds from 0.01 to 3600, rounds from 1 to 100, threads from 1 to 1024".into())
    }
}

fn number(v: Option<hamal::Value>) -> u64 {
    v.and_then(|v| v.as_ref().try_into().ok().map(u64::from_be_bytes)).unwrap_or(0)
}

struct Measured {
    commits: u64,
    attempts: u64,
    seconds: f64,
}

/// One counter for all threads, or one for each.
fn measure(
    isolation: Isolation,
    locked: bool,
    one_row: bool,
    threads: usize,
    time: Duration,
) -> hamal::Result<Measured> {
    let dir = tempfile::tempdir().map_err(|e| hamal::Error::io("a directory", e))?;
    let db = Database::create(dir.path().join("db"))?;
    let key = |thread: usize| if one_row { vec![0; 8] } else { (thread as u64).to_be_bytes().to_vec() };
    db.transact(|tx| {
        let t = tx.create_tree("counters")?;
        // Wide rows between the counters keep them in different leaves.
        for i in 0..threads {
            t.put(key(i), 0u64.to_be_bytes())?;
            for filler in 0..6u8 {
                t.put([key(i), vec![filler]].concat(), [0; 1500])?;
            }
        }
        Ok::<(), hamal::Error>(())
    })?;
    let options = TransactOptions::new()
        .attempts(u32::MAX)
        .durability(Durability::Sync)
        .write(WriteOptions::new().isolation(isolation));
    let (stop, commits, attempts) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let begun = Instant::now();
    thread::scope(|s| {
        let workers: Vec<_> = (0..threads)
            .map(|i| {
                let (db, options, stop, commits, attempts) = (&db, &options, &stop, &commits, &attempts);
                s.spawn(move || -> hamal::Result<()> {
                    while !stop.load(Relaxed) {
                        let done = db.transact_with(options, |tx| {
                            let t = tx.tree("counters")?;
                            let n = if locked { t.get_for_update(key(i))? } else { t.get(key(i))? };
                            t.put(key(i), (number(n) + 1).to_be_bytes())
                        })?;
                        commits.fetch_add(1, Relaxed);
                        attempts.fetch_add(u64::from(done.attempts), Relaxed);
                    }
                    Ok(())
                })
            })
            .collect();
        thread::sleep(time);
        stop.store(true, Relaxed);
        workers.into_iter().try_for_each(|w| w.join().unwrap_or_else(|p| std::panic::resume_unwind(p)))
    })?;
    let seconds = begun.elapsed().as_secs_f64();
    let read = db.begin_read()?;
    let t = read.tree("counters")?;
    let counters: BTreeSet<_> = (0..threads).map(key).collect();
    let mut sum = 0;
    for k in counters {
        sum += number(t.get(k)?);
    }
    let commits = commits.into_inner();
    assert_eq!(sum, commits, "an increment was lost, or made twice");
    Ok(Measured { commits, attempts: attempts.into_inner(), seconds })
}

/// Every combination once in each round, so that a disk that is slow for a while is slow for all; medians of the rounds.
fn contention(a: &Args) -> hamal::Result<()> {
    let mut cases = Vec::new();
    for one_row in [true, false] {
        for level in LEVELS {
            cases.extend(a.threads.iter().map(|t| (one_row, level, *t, Vec::new())));
        }
    }
    for _ in 0..a.rounds {
        for (one_row, (_, isolation, locked), threads, found) in &mut cases {
            let time = Duration::from_secs_f64(a.seconds);
            let m = measure(*isolation, *locked, *one_row, *threads, time)?;
            found.push((m.commits as f64 / m.seconds, 1.0 - m.commits as f64 / m.attempts as f64));
        }
    }
    if !a.json {
        println!("{:<10} {:<24} {:>8} {:>12} {:>8}", "rows", "level", "threads", "commits/s", "aborts");
    }
    for (one_row, (name, ..), threads, found) in &mut cases {
        found.sort_by(|x, y| x.0.total_cmp(&y.0));
        let (speed, rate) = found[found.len() / 2];
        let rows = if *one_row { "one row" } else { "own rows" };
        if a.json {
            println!(
                "{{\"rows\":\"{rows}\",\"level\":\"{name}\",\"threads\":{threads},\"commits_per_second\":{speed:.0},\"abort_rate\":{rate:.4}}}"
            );
        } else {
            println!("{rows:<10} {name:<24} {threads:>8} {speed:>12.0} {:>7.1}%", rate * 100.0);
        }
    }
    Ok(())
}

/// A transaction of the interleaving, as the graph of dependencies knows it: for each key the version read (who wrote it), and
/// the keys written.
#[derive(Clone, Default)]
struct Node {
    read: BTreeMap<u16, usize>,
    written: BTreeSet<u16>,
}

/// Whether the graph of the committed transactions, in commit order, and one more at the end has a cycle through that one: a
/// path from it back to it over read-write, write-write and write-read edges.
fn closes_cycle(committed: &[Node], last: &Node) -> bool {
    let n = committed.len();
    let node = |i: usize| if i == n { last } else { &committed[i] };
    // Writers of each key, in the order of their commits, `last` at the end.
    let mut writers: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    for i in 0..=n {
        for k in &node(i).written {
            writers.entry(*k).or_default().push(i);
        }
    }
    let none = Vec::new();
    let next = |i: usize| -> Vec<usize> {
        let mut out = Vec::new();
        for (k, by) in &node(i).read {
            // Read-write: who wrote the version after the one read.
            let after = writers.get(k).unwrap_or(&none).iter().find(|w| **w + 1 > *by && **w != i);
            out.extend(after);
        }
        for k in &node(i).written {
            // Write-write, and write-read.
            out.extend(writers[k].iter().find(|w| **w > i));
            out.extend((0..=n).filter(|j| *j != i && node(*j).read.get(k) == Some(&(i + 1))));
        }
        out
    };
    let (mut seen, mut todo) = (BTreeSet::new(), next(n));
    while let Some(i) = todo.pop() {
        if i == n {
            return true;
        }
        if seen.insert(i) {
            todo.extend(next(i));
        }
    }
    false
}

/// Eight serializable transactions take turns at random, in one thread: each reads four keys and writes one. For each that is
/// refused at its commit the graph is asked whether it would have closed a cycle.
fn false_aborts() -> hamal::Result<()> {
    println!("{:>6} {:>8} {:>8} {:>9} {:>12}", "keys", "commits", "refused", "needless", "of attempts");
    for keys in [16u16, 64, 256, 1024] {
        let db = Database::in_memory()?;
        db.transact(|tx| {
            let t = tx.create_tree("t")?;
            (0..keys).try_for_each(|k| t.put(k.to_be_bytes(), 0u64.to_be_bytes()))
        })?;
        let mut x = 42u64;
        let mut dice = |n: u64| {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (x >> 33) % n
        };
        let options = WriteOptions::new().isolation(Isolation::Serializable).no_wait();
        let mut live: Vec<(hamal::WriteTxn, Node, usize)> = Vec::new();
        let mut committed: Vec<Node> = Vec::new();
        let (mut refused, mut needless, mut conflicts) = (0u64, 0u64, 0u64);
        while committed.len() < 3000 {
            if live.len() < 8 {
                live.push((db.begin_write_with(options)?, Node::default(), 0));
                continue;
            }
            let i = dice(8) as usize;
            let (tx, node, steps) = &mut live[i];
            *steps += 1;
            let key = dice(u64::from(keys)) as u16;
            if *steps <= 4 {
                // The value is the number of the transaction that wrote it, from 1.
                let by = number(tx.tree("t")?.get(key.to_be_bytes())?) as usize;
                node.read.insert(key, by);
                continue;
            }
            let (tx, mut node, _) = live.swap_remove(i);
            let me = committed.len() as u64 + 1;
            match tx.tree("t")?.put(key.to_be_bytes(), me.to_be_bytes()) {
                Ok(()) => {}
                Err(e) if e.is_retryable() => {
                    conflicts += 1;
                    continue;
                }
                Err(e) => return Err(e),
            }
            node.written.insert(key);
            match tx.commit_with(Durability::Async) {
                Ok(_) => committed.push(node),
                Err(e) if e.kind() == ErrorKind::Serialization => {
                    refused += 1;
                    // Older ones cannot be part of a cycle with a transaction that began after they had ended.
                    needless += u64::from(!closes_cycle(&committed, &node));
                }
                Err(e) => return Err(e),
            }
        }
        let attempts = committed.len() as u64 + refused + conflicts;
        println!(
            "{keys:>6} {:>8} {refused:>8} {:>8.1}% {:>11.2}%",
            committed.len(),
            100.0 * needless as f64 / refused.max(1) as f64,
            100.0 * needless as f64 / attempts as f64
        );
    }
    Ok(())
}

fn main() {
    let done = match args() {
        Ok(a) if a.false_aborts => false_aborts(),
        Ok(a) => contention(&a),
        Err(why) => {
            eprintln!("{why}\n{HELP}");
            std::process::exit(2);
        }
    };
    if let Err(e) = done {
        eprintln!("{e}");
        std::process::exit(1);
    }
}
