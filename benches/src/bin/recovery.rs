//! Recovery, phase by phase: `cargo run --release -p hamal-benches --bin recovery -- [--mib N] [--threads 1,2] [--rounds N]
//! [--cache MIB] [--work insert|update] [--dir DIR] [--made DIR] [--targets SECONDS,... [--seconds N]]`.
//!
//! A child process logs so many MiB after a checkpoint and kills itself. Copies of what it left are opened, with each
//! number of threads in turn, and the time of every phase is printed, with the raw speed of reading the same log past the
//! operating system's cache, and the time from the call of `open` to the first commit that is durable.
//!
//! `insert` puts random rows into a new tree: redo makes most pages anew. `update` changes random rows of a tree that was
//! written to disk before: redo has to read most pages. `--made` opens copies of a directory that was left by an earlier child
//! (`--child DIR` makes one). Before each round memory as large as cache and log is written to and given back: a virtual machine
//! may have to ask its host for each page that it has not used for a while, at less than 1 GB/s. CPU time is that of all threads from the call of `open` to the first durable commit: on a machine
//! that has other work it says more than the clock.

use hamal::disk::{Disk, OpenMode, PosixDisk};
use hamal::{Builder, Database, Durability};
use hamal_benches::{Random, fill};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

type Any<T> = Result<T, Box<dyn std::error::Error>>;

const VALUE: usize = 100;
const MIB: f64 = (1 << 20) as f64;

struct Args {
    mib: u64,
    cache: usize,
    rounds: usize,
    threads: Vec<usize>,
    work: String,
    dir: PathBuf,
    child: Option<PathBuf>,
    made: Option<PathBuf>,
    targets: Vec<f64>,
    target: f64,
    seconds: f64,
}

fn args() -> Any<Args> {
    let mut a = Args {
        mib: 256,
        cache: 1024,
        rounds: 3,
        threads: vec![1, 2],
        work: "insert".into(),
        dir: ".".into(),
        child: None,
        made: None,
        targets: Vec::new(),
        target: 0.0,
        seconds: 10.0,
    };
    let mut words = std::env::args().skip(1);
    while let Some(name) = words.next() {
        let value = words.next().ok_or_else(|| format!("{name} wants a value"))?;
        match name.as_str() {
            "--mib" => a.mib = value.parse()?,
            "--cache" => a.cache = value.parse()?,
            "--rounds" => a.rounds = value.parse()?,
            "--threads" => a.threads = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "--work" => a.work = value,
            "--dir" => a.dir = value.into(),
            "--made" => a.made = Some(value.into()),
            "--targets" => a.targets = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "--target" => a.target = value.parse()?,
            "--seconds" => a.seconds = value.parse()?,
            "--child" => a.child = Some(value.into()),
            _ => return Err(format!("{name} is no option").into()),
        }
    }
    Ok(a)
}

fn builder(a: &Args) -> Builder {
    Database::builder()
        .cache_bytes(a.cache << 20)
        .background(false)
        .checkpoint_log_bytes(4 << 30)
        .log_limit_bytes(16 << 30)
}

/// Writes and dies.
fn child(a: &Args, path: &Path) -> Any<()> {
    let mut db = builder(a).create(path)?;
    let mut keys = Vec::new();
    if a.work == "update" {
        keys = fill(&db, a.cache * 4000, VALUE, 1)?;
        // Clean pages everywhere, and nothing to redo.
        db.close()?;
        drop(db);
        db = builder(a).open(path)?;
    }
    let begin = db.stats().log_tail;
    let mut random = Random(7);
    while db.stats().log_tail - begin < a.mib << 20 {
        if keys.is_empty() {
            fill(&db, 10_000, VALUE, random.next_u64())?;
            continue;
        }
        let tx = db.begin_write()?;
        let t = tx.tree("t")?;
        for _ in 0..1000 {
            let k = keys[random.next_u64() as usize % keys.len()];
            t.put(k, random.value(VALUE))?;
        }
        tx.commit_with(Durability::Async)?;
    }
    let tx = db.begin_write()?;
    tx.open_or_create_tree("t")?.put(b"last", b"row")?;
    tx.commit_with(Durability::Sync)?.wait()?;
    std::process::abort();
}

fn with_target(a: &Args) -> Builder {
    let b = Database::builder().cache_bytes(a.cache << 20).log_limit_bytes(16 << 30);
    match a.target {
        0.0 => b.checkpoint_log_bytes(4 << 30),
        target => b.recovery_target(Duration::from_secs_f64(target)),
    }
}

/// Changes rows as fast as it can, says how fast that was, and dies.
fn child_under_load(a: &Args, path: &Path) -> Any<()> {
    let db = with_target(a).create(path)?;
    let keys = fill(&db, a.cache * 2000, VALUE, 1)?;
    let stop = Instant::now() + Duration::from_secs_f64(a.seconds);
    let begin = db.stats();
    let done = AtomicU64::new(0);
    std::thread::scope(|s| {
        for thread in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            let (db, keys, done) = (&db, &keys, &done);
            s.spawn(move || -> hamal::Result<()> {
                let mut random = Random(thread as u64);
                while Instant::now() < stop {
                    let tx = db.begin_write()?;
                    let key = &keys[random.next_u64() as usize % keys.len()];
                    match tx.tree("t")?.put(key, random.value(VALUE)) {
                        Err(e) if e.kind() == hamal::ErrorKind::Conflict => tx.rollback()?,
                        put => {
                            put?;
                            tx.commit_with(Durability::Async)?;
                            done.fetch_add(1, Relaxed);
                        }
                    }
                }
                Ok(())
            });
        }
    });
    let now = db.stats();
    println!(
        "{:>8} | {:>9.0} | {:>11.0} | {:>8} | {:>8} | {:>8.2}",
        a.target,
        done.into_inner() as f64 / a.seconds,
        (now.log_tail - begin.log_tail) as f64 / MIB,
        now.pages_written - begin.pages_written,
        now.page_images - begin.page_images,
        now.recovery_estimate_micros as f64 / 1e6,
    );
    std::process::abort();
}

fn targets(a: &Args, dir: &Path) -> Any<()> {
    println!(
        "target s | commits/s | MiB of log  |  written |   images | estimate | recovered MiB | redone pages read | recovery s | first durable write s | CPU s"
    );
    for round in 0..a.rounds * a.targets.len() {
        let target = a.targets[round % a.targets.len()];
        let path = dir.join("load");
        let _ = std::fs::remove_dir_all(&path);
        let out = std::process::Command::new(std::env::current_exe()?)
            .args(std::env::args().skip(1))
            .args(["--target", &target.to_string(), "--work", "target", "--child"])
            .arg(&path)
            .stderr(std::process::Stdio::null())
            .output()?;
        if out.status.success() {
            return Err("the child should have died".into());
        }
        touch(a.cache << 20);
        let cpu = cpu_seconds()?;
        let started = Instant::now();
        let (db, r) = builder(a).background(true).open_with_report(&path)?;
        let opened = started.elapsed().as_secs_f64();
        let tx = db.begin_write()?;
        tx.open_or_create_tree("t")?.put(b"first", b"row")?;
        tx.commit_with(Durability::Sync)?.wait()?;
        let total = started.elapsed().as_secs_f64();
        println!(
            "{} | {:>13.0} | {:>17} | {opened:>10.3} | {total:>21.3} | {:>5.2}",
            String::from_utf8_lossy(&out.stdout).trim_end(),
            r.log_bytes as f64 / MIB,
            r.pages_read,
            cpu_seconds()? - cpu,
        );
    }
    Ok(())
}

/// MB/s of reading the log's segments in order, 1 MiB at a time, past the cache.
fn raw(dir: &Path) -> Any<f64> {
    let disk = PosixDisk::open(dir)?;
    let mut buf = hamal_disk::AlignedBuf::new(1 << 20);
    let mut names = disk.list("wal")?;
    names.retain(|n| !n.starts_with("free"));
    let started = Instant::now();
    let mut bytes = 0;
    for name in names {
        let mode = OpenMode { read_only: true, direct: true, ..OpenMode::default() };
        let file = disk.open(&format!("wal/{name}"), mode)?;
        let mut at = 0;
        loop {
            let n = file.read_at(at, &mut buf)?;
            if n == 0 {
                break;
            }
            at += n as u64;
            bytes += n;
        }
    }
    Ok(bytes as f64 / 1e6 / started.elapsed().as_secs_f64())
}

/// CPU time of this process so far, all threads.
fn cpu_seconds() -> Any<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let after_name = stat.rsplit(')').next().ok_or("no name in /proc/self/stat")?;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}

/// Has the host of a virtual machine give it so much memory.
fn touch(bytes: usize) {
    const PIECE: usize = 2 << 20;
    let mut pieces: Vec<_> = (0..bytes / PIECE).map(|_| hamal_disk::AlignedBuf::new(PIECE)).collect();
    pieces.iter_mut().for_each(|p| p.iter_mut().step_by(4096).for_each(|b| *b = 1));
    std::hint::black_box(pieces);
}

fn copy(from: &Path, to: &Path) -> Any<()> {
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
            std::fs::File::open(&target)?.sync_all()?;
        }
    }
    Ok(())
}

fn main() -> Any<()> {
    let a = args()?;
    match &a.child {
        Some(path) if a.work == "target" => return child_under_load(&a, path),
        Some(path) => return child(&a, path),
        None => {}
    }
    let dir = tempfile::tempdir_in(&a.dir)?;
    if !a.targets.is_empty() {
        return targets(&a, dir.path());
    }
    let (made, work) = (dir.path().join("made"), dir.path().join("work"));
    let made = a.made.clone().unwrap_or(made);
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.args(std::env::args().skip(1)).arg("--child").arg(&made);
    if a.made.is_none() && command.status()?.success() {
        return Err("the child should have died".into());
    }
    println!("work {}, {} MiB of cache", a.work, a.cache);
    println!(
        "threads |  MiB of log | raw MB/s |  end s | analysis s | redo s | checkpoint s | MB/s analysis + redo | MB/s with end | first durable write s | CPU s"
    );
    for _ in 0..a.rounds {
        for &threads in &a.threads {
            copy(&made, &work)?;
            let raw = raw(&work)?;
            touch((a.cache << 20) + (a.mib << 20) as usize);
            let cpu = cpu_seconds()?;
            let started = Instant::now();
            let (db, r) = builder(&a).recovery_threads(threads).open_with_report(&work)?;
            let tx = db.begin_write()?;
            tx.open_or_create_tree("t")?.put(b"first", b"row")?;
            tx.commit_with(Durability::Sync)?.wait()?;
            let total = started.elapsed().as_secs_f64();
            let cpu = cpu_seconds()? - cpu;
            let [end, analysis, redo, _, checkpoint] = r.seconds;
            let mb = r.log_bytes as f64 / 1e6;
            println!(
                "{threads:>7} | {:>11.0} | {raw:>8.0} | {end:>6.3} | {analysis:>10.3} | {redo:>6.3} | {checkpoint:>12.3} | {:>20.0} | {:>13.0} | {total:>6.3} | {cpu:>5.2}",
                r.log_bytes as f64 / MIB,
                mb / (analysis + redo),
                mb / (end + analysis + redo),
            );
            if std::env::var_os("REPORT").is_some() {
                println!("{r}");
            }
        }
    }
    Ok(())
}
