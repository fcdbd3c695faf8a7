//! The log alone: append (no sync), and append + force (one sync each) from 1 and 16 threads.

#![allow(missing_docs, reason = "the macros of criterion make public functions")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hamal_disk::{Disk, PosixDisk};
use hamal_error::Poison;
use hamal_log::{Block, Log, LogIdentity, LogOptions, RecordKind, RecordSpec, TxnRef, Whole};
use hamal_page::{DbId, Lsn, PageId, RmId, TxnId};
use hamal_trace::{ForceReason, Trace};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

fn open() -> (tempfile::TempDir, Log) {
    let dir = tempfile::tempdir_in(".").expect("tempdir");
    let disk: Arc<dyn Disk> = Arc::new(PosixDisk::open(dir.path()).expect("disk"));
    disk.create_dir("wal").expect("wal");
    let id = LogIdentity { db: DbId([1; 16]), timeline: 1 };
    let log =
        Log::create(disk, LogOptions::default(), id, Log::FIRST, Arc::new(Poison::new()), Trace::silent())
            .expect("log");
    (dir, log)
}

fn append(log: &Log, payload: &[u8]) -> Lsn {
    let block = Block { page: PageId(77), former: Lsn(log.tail().0 - 100), op: 1, whole: Whole::No, payload };
    let spec = RecordSpec {
        kind: RecordKind::Update,
        rm: RmId(2),
        txn: TxnRef::Id(TxnId(log.tail().0 - 200)),
        prev: Lsn(log.tail().0 - 50),
        blocks: &[block],
        undo: &[],
    };
    let mut credit = log.credit(512, true).expect("credit");
    let end = log.append(&spec, &mut credit).expect("append").end;
    drop(credit);
    if end.0 % (32 << 20) < 200 {
        log.truncate(Lsn(end.0.saturating_sub(16 << 20))).expect("truncate");
    }
    end
}

fn benches(c: &mut Criterion) {
    let payload = [7u8; 108];
    let mut g = c.benchmark_group("log");
    g.throughput(Throughput::Elements(1));
    let (_dir, log) = open();
    g.bench_function("append", |b| b.iter(|| black_box(append(&log, &payload))));
    g.bench_function("append_and_force", |b| {
        b.iter(|| log.force(append(&log, &payload), ForceReason::Commit).expect("force"));
    });
    g.bench_function("group_commit_16_threads", |b| {
        b.iter_custom(|n| {
            let each = n.div_ceil(16);
            let started = Instant::now();
            std::thread::scope(|s| {
                for _ in 0..16 {
                    s.spawn(|| {
                        for _ in 0..each {
                            log.force(append(&log, &payload), ForceReason::Commit).expect("force");
                        }
                    });
                }
            });
            started.elapsed()
        });
    });
    g.finish();
}

criterion_group! { name = all; config = Criterion::default().sample_size(20); targets = benches }
criterion_main!(all);
