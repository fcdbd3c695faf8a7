//! How fast are durable commits? One thread's append and force, against the bare system calls on a
//! preallocated file, and many threads sharing flushes.
//!
//! `cargo run --release -p hamal-log --example commit_speed [directory]`
//!
//! Flush times of a device swing from moment to moment, so the variants take turns, and each round is
//! printed.
#![allow(missing_docs)]

use hamal_disk::{Disk, DiskFile, OpenMode, PosixDisk};
use hamal_error::Poison;
use hamal_log::{Block, Log, LogIdentity, LogOptions, RecordKind, RecordSpec, SyncMethod, TxnRef, Whole};
use hamal_page::{DbId, Lsn, PageId, RmId};
use hamal_trace::{ForceReason, Trace};
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PAYLOAD: [u8; 100] = [7; 100];
const ROUND: Duration = Duration::from_millis(1500);

fn main() -> Result<(), Box<dyn Error>> {
    let base = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, Into::into);
    let dir = base.join(format!("hamal-commit-speed-{}", std::process::id()));
    let disk: Arc<dyn Disk> = Arc::new(PosixDisk::create(&dir)?);
    let result = measure(&disk);
    std::fs::remove_dir_all(&dir)?;
    result
}

fn measure(disk: &Arc<dyn Disk>) -> Result<(), Box<dyn Error>> {
    let raw = preallocated(disk, OpenMode { create: true, ..OpenMode::default() })?;
    disk.create_dir("wal")?;
    let identity = LogIdentity { db: DbId([1; 16]), timeline: 1 };
    let options = LogOptions::default();
    let log = Log::create(
        disk.clone(),
        options.clone(),
        identity,
        Log::FIRST,
        Arc::new(Poison::new()),
        Trace::silent(),
    )?;
    append_speed(&log)?;
    println!("raw: pwrite of 512 bytes and fdatasync; log: append of a record with 100 bytes and force");
    for round in 1..=4 {
        let r = report(|at| {
            raw.write_at(at * 512 % (16 << 20), &[at as u8; 512])?;
            Ok(raw.sync()?)
        })?;
        let l = report(|_| Ok(commit(&log)?))?;
        let before = log.stats();
        let many = threads(&log, 16)?;
        let after = log.stats();
        println!(
            "round {round}: raw {:>6.0}/s (p50 {:>5.0?})   log {:>6.0}/s (p50 {:>5.0?})   \
             16 threads {many:>7.0}/s, {:.1} commits a group",
            r.0,
            r.1,
            l.0,
            l.1,
            (after.records - before.records) as f64 / (after.groups - before.groups) as f64,
        );
        log.truncate(log.durable())?;
    }
    let end = log.durable();
    drop(log);
    let end = hamal_log::find_end(disk, &options, identity, end, end)?;
    let options = LogOptions { sync: SyncMethod::DirectDsync, ..options };
    let log = Log::open(disk.clone(), options, identity, &end, Arc::new(Poison::new()), Trace::silent())?;
    for round in 1..=2 {
        let l = report(|_| Ok(commit(&log)?))?;
        let many = threads(&log, 16)?;
        println!("direct round {round}: log {:>6.0}/s (p50 {:>5.0?})   16 threads {many:>7.0}/s", l.0, l.1);
        log.truncate(log.durable())?;
    }
    Ok(())
}

fn preallocated(disk: &Arc<dyn Disk>, mode: OpenMode) -> Result<Arc<dyn DiskFile>, Box<dyn Error>> {
    let file = disk.open("raw", mode)?;
    for i in 0..16 {
        file.write_at(i << 20, &vec![0; 1 << 20])?;
    }
    file.sync()?;
    Ok(file)
}

fn spec<'a>(blocks: &'a [Block<'a>]) -> RecordSpec<'a> {
    RecordSpec {
        kind: RecordKind::Update,
        rm: RmId(2),
        txn: TxnRef::First,
        prev: Lsn::NULL,
        blocks,
        undo: b"",
    }
}

fn commit(log: &Log) -> hamal_error::Result<()> {
    let blocks = [Block { page: PageId(5), former: Lsn::NULL, op: 1, whole: Whole::No, payload: &PAYLOAD }];
    let spec = spec(&blocks);
    let mut credit = log.credit(Log::record_bound(&spec), true)?;
    let at = log.append(&spec, &mut credit)?;
    drop(credit);
    log.force(at.end, ForceReason::Commit)
}

fn append_speed(log: &Log) -> Result<(), Box<dyn Error>> {
    let blocks = [Block { page: PageId(5), former: Lsn::NULL, op: 1, whole: Whole::No, payload: &PAYLOAD }];
    let spec = spec(&blocks);
    let n = 40_000;
    let begin = Instant::now();
    for _ in 0..n {
        let mut credit = log.credit(Log::record_bound(&spec), true)?;
        log.append(&spec, &mut credit)?;
    }
    println!(
        "credit and append, one thread, no flush: {:.0} ns",
        begin.elapsed().as_nanos() as f64 / f64::from(n)
    );
    log.flush_pending()?;
    Ok(())
}

/// Operations a second, and the median time of one.
fn report(mut op: impl FnMut(u64) -> Result<(), Box<dyn Error>>) -> Result<(f64, Duration), Box<dyn Error>> {
    let mut times = Vec::new();
    let begin = Instant::now();
    while begin.elapsed() < ROUND {
        let t = Instant::now();
        op(times.len() as u64)?;
        times.push(t.elapsed());
    }
    let rate = times.len() as f64 / begin.elapsed().as_secs_f64();
    times.sort();
    Ok((rate, times[times.len() / 2]))
}

fn threads(log: &Log, n: usize) -> Result<f64, Box<dyn Error>> {
    let begin = Instant::now();
    let counts: Vec<hamal_error::Result<u64>> = std::thread::scope(|s| {
        let handles: Vec<_> = (0..n)
            .map(|_| {
                s.spawn(|| {
                    let mut done = 0u64;
                    while begin.elapsed() < ROUND {
                        commit(log)?;
                        done += 1;
                    }
                    Ok(done)
                })
            })
            .collect();
        handles.into_iter().map(|h| h.join().unwrap_or(Ok(0))).collect()
    });
    let mut sum = 0;
    for c in counts {
        sum += c?;
    }
    Ok(sum as f64 / begin.elapsed().as_secs_f64())
}
