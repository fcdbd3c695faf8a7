//! What a small database costs to open, read and drop: `cargo run --release -p hamal-benches --bin small_open`.
//!
//! The database is as a crash left it, on a disk in memory; it is recovered, its 18 rows are read, and it is dropped on a
//! disk whose writes and syncs fail. Medians in nanoseconds. With glibc set `MALLOC_TRIM_THRESHOLD_=268435456` and
//! `MALLOC_MMAP_THRESHOLD_=67108864` to measure the engine and not page faults.

use hamal::disk::{CrashModel, MemDisk, MemFault, MemOp};
use hamal::{Builder, Database};
use std::sync::Arc;
use std::time::Instant;

const ROUNDS: u64 = 4000;

fn builder(frames: usize, ring: usize, segment: u64) -> Builder {
    Database::builder()
        .page_size(4096)
        .cache_bytes(frames * 4096)
        .log_ring_bytes(ring)
        .log_segment_bytes(segment)
        .log_limit_bytes(2 << 20)
        .checkpoint_log_bytes(64 << 10)
        .background(false)
        .database_id([7; 16])
}

fn history(b: &Builder) -> hamal::Result<MemDisk> {
    let disk = MemDisk::new();
    let db = b.create_on(Arc::new(disk.clone()))?;
    for i in 0..6u32 {
        let tx = db.begin_write()?;
        let tree = tx.open_or_create_tree("t")?;
        for k in 0..3 {
            tree.put((i * 3 + k).to_be_bytes(), [k as u8; 40])?;
        }
        tx.commit()?;
        if i == 3 {
            db.checkpoint()?;
        }
    }
    // The disk as it is now; the database is closed on its own copy.
    Ok(disk.crash(CrashModel::LoseUnsynced))
}

/// Nanoseconds to open, scan and drop.
fn once(b: &Builder, disk: &MemDisk, seed: u64) -> hamal::Result<[u64; 3]> {
    let copy = disk.crash(CrashModel::Random { seed, torn_sector_bytes: 512 });
    let (b, on) = (b.clone(), Arc::new(copy.clone()));
    let start = Instant::now();
    let db = b.open_on(on)?;
    let open = start.elapsed();
    let start = Instant::now();
    let rows = db.begin_read()?.tree("t")?.iter().count();
    let scan = start.elapsed();
    assert_eq!(rows, 18);
    for on in [MemOp::Write, MemOp::Sync] {
        copy.inject(MemFault { at: 1, on, once: false });
    }
    let start = Instant::now();
    drop(db);
    Ok([open, scan, start.elapsed()].map(|d| d.as_nanos() as u64))
}

fn main() -> hamal::Result<()> {
    println!("frames  ring  segment       open     scan     drop   (ns)");
    for (frames, ring, segment) in [(64, 256, 64), (24, 32, 32), (24, 32, 16), (24, 32, 8)] {
        let b = builder(frames, ring << 10, segment << 10);
        let disk = history(&b)?;
        let mut all = (0..ROUNDS).map(|seed| once(&b, &disk, seed)).collect::<hamal::Result<Vec<_>>>()?;
        let [open, scan, drop] = [0, 1, 2].map(|i| {
            all.sort_unstable_by_key(|t| t[i]);
            all[all.len() / 2][i]
        });
        println!("{frames:>6} {ring:>4}K {segment:>7}K {open:>10} {scan:>8} {drop:>8}");
    }
    Ok(())
}
