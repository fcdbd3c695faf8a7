//! The engine: point get, insert, scan, durable commit, redo.

#![allow(missing_docs, reason = "the macros of criterion make public functions")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use hamal::{Database, Durability};
use hamal_benches::{Random, fill};
use hamal_disk::{CrashModel, MemDisk};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

fn benches(c: &mut Criterion) {
    let dir = tempfile::tempdir_in(".").expect("tempdir");
    let db = Database::builder().cache_bytes(512 << 20).create(dir.path().join("db")).expect("create");
    let keys = fill(&db, 200_000, 100, 1).expect("fill");
    let mut random = Random(2);

    let mut g = c.benchmark_group("engine");
    g.throughput(Throughput::Elements(1));
    let read = db.begin_read().expect("read");
    let t = read.tree("t").expect("tree");
    g.bench_function("get", |b| {
        b.iter(|| {
            let k = &keys[random.next_u64() as usize % keys.len()];
            black_box(t.get_with(k, |v| v.len()).expect("get"))
        });
    });
    g.bench_function("get_txn_each", |b| {
        b.iter(|| {
            let k = &keys[random.next_u64() as usize % keys.len()];
            let read = db.begin_read().expect("read");
            black_box(read.tree("t").expect("tree").get_with(k, |v| v.len()).expect("get"))
        });
    });
    g.bench_function("insert_async_txn_each", |b| {
        b.iter(|| {
            let tx = db.begin_write().expect("begin");
            tx.tree("t").expect("tree").put(random.key(), [7; 100]).expect("put");
            tx.commit_with(Durability::Async).expect("commit")
        });
    });
    g.bench_function("insert_durable_txn_each", |b| {
        b.iter(|| {
            let tx = db.begin_write().expect("begin");
            tx.tree("t").expect("tree").put(random.key(), [7; 100]).expect("put");
            tx.commit().expect("commit")
        });
    });
    g.throughput(Throughput::Elements(keys.len() as u64));
    g.bench_function("scan", |b| {
        b.iter(|| {
            let read = db.begin_read().expect("read");
            let n = read.tree("t").expect("tree").iter().map(|r| r.expect("row").1.len()).sum::<usize>();
            black_box(n)
        });
    });
    g.finish();
    drop((t, read));

    // Redo: a log of 100,000 inserts that no page write has followed, replayed from memory.
    let mut g = c.benchmark_group("recovery");
    let disk = MemDisk::new();
    let builder = Database::builder()
        .cache_bytes(256 << 20)
        .background(false)
        .checkpoint_log_bytes(1 << 30)
        .log_limit_bytes(8 << 30);
    let db = builder.create_on(Arc::new(disk.clone())).expect("create");
    fill(&db, 100_000, 100, 3).expect("fill");
    let tx = db.begin_write().expect("begin");
    tx.open_or_create_tree("last").expect("tree");
    tx.commit().expect("commit");
    let crashed = disk.crash(CrashModel::LoseUnsynced);
    let (_, report) =
        builder.open_on_with_report(Arc::new(crashed.crash(CrashModel::KeepAll))).expect("open");
    g.throughput(Throughput::Bytes(report.log_bytes));
    g.bench_function("redo", |b| {
        b.iter_custom(|n| {
            let mut time = Duration::ZERO;
            for _ in 0..n {
                let copy = crashed.crash(CrashModel::KeepAll);
                let started = Instant::now();
                let opened = builder.open_on(Arc::new(copy)).expect("open");
                time += started.elapsed();
                drop(opened);
            }
            time
        });
    });
    g.finish();
}

criterion_group! { name = all; config = Criterion::default().sample_size(10); targets = benches }
criterion_main!(all);
