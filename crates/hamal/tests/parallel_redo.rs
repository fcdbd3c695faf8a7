//! Redo by many threads comes to what redo by one comes to; and what goes wrong in a thread is told, once.
mod common;

use common::{Contents, bytes, contents, small, verify};
use hamal::disk::{CrashModel, Disk, DiskFile, DiskLock, MemDisk, OpenMode};
use hamal::trace::Phase;
use hamal::{Builder, Durability, ErrorKind, PageId, RecoveryReport};
use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

const PAGE: usize = 4096;

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

fn options(pages: usize) -> Builder {
    small().cache_bytes(pages * PAGE).log_limit_bytes(256 << 20).checkpoint_log_bytes(64 << 20)
}

fn key(n: u64) -> Vec<u8> {
    format!("{:08x}-{n:06}", n.wrapping_mul(0x9E37_79B9)).into_bytes()
}

/// A database that was written and closed, so that its pages are on disk, and was then changed at random: with updates, removals, large
/// values, rollbacks, checkpoints, pages written back in between, and a transaction that has not ended. What a power
/// failure leaves of it.
fn history(seed: u64, rows: u64, changes: u64, model: CrashModel) -> MemDisk {
    let disk = MemDisk::new();
    let mut r = Random(seed * 2 + 1);
    let db = options(4096).create_on(Arc::new(disk.clone())).unwrap();
    let tx = db.begin_write().unwrap();
    for name in ["a", "b"] {
        let t = tx.create_tree(name).unwrap();
        for n in 0..rows {
            t.put(key(n), bytes(n, 120)).unwrap();
        }
    }
    tx.commit().unwrap();
    db.close().unwrap();
    drop(db);

    let db = options(4096).open_on(Arc::new(disk.clone())).unwrap();
    // What is in no log any more can only come from the data file.
    for n in 0..3 {
        let tx = db.begin_write().unwrap();
        tx.tree("b").unwrap().put(key(1), bytes(n, 10)).unwrap();
        tx.commit().unwrap();
        db.checkpoint().unwrap();
    }
    for round in 0..changes {
        let tx = db.begin_write().unwrap();
        let t = tx.tree(if r.below(3) == 0 { "b" } else { "a" }).unwrap();
        for _ in 0..40 {
            let k = key(r.below(rows * 2));
            match r.below(10) {
                0 | 1 => drop(t.delete(&k).unwrap()),
                2 => t.put(k, bytes(round, r.below(9000) as usize)).unwrap(),
                _ => t.put(k, bytes(round, r.below(300) as usize)).unwrap(),
            }
        }
        match r.below(8) {
            0 => tx.rollback().unwrap(),
            _ => drop(tx.commit_with(Durability::Async).unwrap()),
        }
        match r.below(24) {
            0 => drop(db.checkpoint().unwrap()),
            1..6 => (0..20).for_each(|_| {
                let page = PageId(r.below(rows / 2));
                db.engine().pool().flush_page(page).unwrap();
            }),
            _ => {}
        }
    }
    let loser = db.begin_write().unwrap();
    let t = loser.tree("a").unwrap();
    for n in 0..50 {
        t.put(key(n * 7), bytes(n, 200)).unwrap();
    }
    let tx = db.begin_write().unwrap();
    tx.tree("b").unwrap().put(key(1), b"durable").unwrap();
    tx.commit().unwrap();
    let left = disk.crash(model);
    drop(loser);
    left
}

/// What is on disk after recovery and close: checksum and imgLSN apart, which say when a page was written.
fn pages(disk: &MemDisk) -> Vec<Vec<u8>> {
    let file = disk.open("data", OpenMode { read_only: true, ..OpenMode::default() }).unwrap();
    let mut all = vec![0; file.len().unwrap() as usize];
    assert_eq!(file.read_at(0, &mut all).unwrap(), all.len());
    let plain = |page: &[u8]| {
        let mut page = page.to_vec();
        page[..4].fill(0);
        page[24..32].fill(0);
        page
    };
    all.chunks(PAGE).map(plain).collect()
}

struct Recovered {
    report: RecoveryReport,
    contents: Contents,
    pages: Vec<Vec<u8>>,
}

fn recover(left: &MemDisk, options: &Builder) -> Recovered {
    let disk = left.crash(CrashModel::KeepAll);
    let (db, report) = options.open_on_with_report(Arc::new(disk.clone())).unwrap();
    verify(&db);
    let contents = contents(&db).unwrap();
    db.close().unwrap();
    drop(db);
    Recovered { report, contents, pages: pages(&disk) }
}

/// The report without what may differ.
fn counts(r: &RecoveryReport) -> RecoveryReport {
    RecoveryReport { redo_threads: 0, redo_batches: 0, seconds: [0.0; 5], ..r.clone() }
}

#[test]
fn threads_come_to_the_same_pages() {
    for seed in 1..=6 {
        let model = match seed % 3 {
            0 => CrashModel::KeepAll,
            1 => CrashModel::LoseUnsynced,
            _ => CrashModel::Random { seed, torn_sector_bytes: 512 },
        };
        let left = history(seed, 1500, 120, model);
        let one = recover(&left, &options(4096).recovery_threads(1));
        assert!(one.report.pages_read > 50 && one.report.redone > 1000, "{}", one.report);
        assert_eq!((one.report.redo_threads, one.report.redo_batches), (1, 1));
        for threads in [2, 8] {
            let many = recover(&left, &options(4096).recovery_threads(threads));
            assert_eq!(counts(&many.report), counts(&one.report), "seed {seed}, {threads} threads");
            assert_eq!(many.report.redo_threads, threads);
            assert!(many.contents == one.contents, "seed {seed}, {threads} threads: other rows");
            for (id, (a, b)) in one.pages.iter().zip(&many.pages).enumerate() {
                assert!(a == b, "seed {seed}, {threads} threads: page {id} is another");
            }
            assert_eq!(one.pages.len(), many.pages.len());
        }
    }
}

/// Fewer frames than pages to redo, and less memory than log: pages are written back and read again, and the log is read more than
/// once.
#[test]
fn a_small_pool_and_little_memory_do() {
    for seed in 11..=13 {
        let left = history(seed, 1500, 120, CrashModel::KeepAll);
        let large = recover(&left, &options(4096).recovery_threads(1));
        for threads in [1, 2, 8] {
            let options = options(64).recovery_threads(threads).recovery_memory_bytes(64 << 10);
            let few = recover(&left, &options);
            assert!(few.report.pages_read > 64 && few.report.redo_batches > 4, "{}", few.report);
            assert!(few.contents == large.contents, "seed {seed}, {threads} threads: other rows");
            assert_eq!(counts(&few.report), counts(&large.report), "seed {seed}, {threads} threads");
            let expected = few.report.log_bytes / (64 << 10);
            assert!(few.report.redo_batches <= 4 * expected, "{} batches", few.report.redo_batches);
        }
    }
}

/// A recovery by eight threads is cut off by another crash, at any of its writes; the next one begins again.
#[test]
fn a_crash_in_parallel_redo() {
    for seed in 21..=26 {
        let left = history(seed, 800, 60, CrashModel::Random { seed, torn_sector_bytes: 512 });
        let sound = recover(&left, &options(4096).recovery_threads(1));
        let mut r = Random(seed);
        for _ in 0..6 {
            let disk = left.crash(CrashModel::KeepAll);
            let cut = Arc::new(Spoiled::new(&disk, Spoil::CrashAtWrite(1 + r.below(60)), seed));
            // A small pool, so that redo writes pages.
            let opened = options(64).recovery_threads(8).open_on(cut.clone());
            let after = cut.left.lock().unwrap().take();
            drop(opened);
            let Some(after) = after else { continue };
            let again = recover(&after, &options(4096).recovery_threads(8));
            assert!(again.contents == sound.contents, "seed {seed}");
        }
    }
}

/// What goes wrong in the disk.
#[derive(Clone, Copy, Debug)]
enum Spoil {
    /// Reading the data file at or after this offset panics.
    PanicAt(u64),
    /// Reading fails there.
    FailAt(u64),
    /// What a power failure leaves is kept aside at this write.
    CrashAtWrite(u64),
}

#[derive(Clone, Debug)]
struct Spoiled {
    inner: MemDisk,
    spoil: Spoil,
    seed: u64,
    writes: Arc<AtomicU64>,
    armed: Arc<AtomicBool>,
    left: Arc<Mutex<Option<MemDisk>>>,
}

impl Spoiled {
    fn new(inner: &MemDisk, spoil: Spoil, seed: u64) -> Spoiled {
        Spoiled {
            inner: inner.clone(),
            spoil,
            seed,
            writes: Arc::default(),
            armed: Arc::default(),
            left: Arc::default(),
        }
    }
}

#[derive(Debug)]
struct SpoiledFile {
    inner: Arc<dyn DiskFile>,
    disk: Spoiled,
    data: bool,
}

impl DiskFile for SpoiledFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let to = offset + buf.len() as u64;
        let here = self.data && self.disk.armed.load(SeqCst);
        match self.disk.spoil {
            Spoil::PanicAt(at) if here && at < to => panic!("the disk is on fire"),
            Spoil::FailAt(at) if here && at < to => Err(io::Error::other("a bad sector")),
            _ => self.inner.read_at(offset, buf),
        }
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        if let Spoil::CrashAtWrite(n) = self.disk.spoil
            && self.disk.writes.fetch_add(1, SeqCst) + 1 == n
        {
            let model = CrashModel::Random { seed: self.disk.seed, torn_sector_bytes: 512 };
            *self.disk.left.lock().unwrap() = Some(self.disk.inner.crash(model));
        }
        self.inner.write_at(offset, buf)
    }
    fn sync(&self) -> io::Result<()> {
        self.inner.sync()
    }
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.inner.allocate(offset, len)
    }
    fn bypasses_cache(&self) -> bool {
        self.inner.bypasses_cache()
    }
}

impl Disk for Spoiled {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let inner = self.inner.open(name, mode)?;
        Ok(Arc::new(SpoiledFile { inner, disk: self.clone(), data: name == "data" }))
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.inner.create_dir(dir)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.inner.remove(name)
    }
    fn exists(&self, name: &str) -> io::Result<bool> {
        self.inner.exists(name)
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.inner.sync_dir(dir)
    }
    fn lock(&self, name: &str) -> io::Result<Box<dyn DiskLock>> {
        self.inner.lock(name)
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
}

/// Opens with the disk spoiled from page 20 of the data file on, and then with it sound again.
fn spoiled(spoil: fn(u64) -> Spoil, threads: usize) -> hamal::Error {
    // Not before the threads begin.
    spoiled_from(Phase::Redo, spoil, threads, 4096)
}

fn spoiled_from(phase: Phase, spoil: fn(u64) -> Spoil, threads: usize, pool: usize) -> hamal::Error {
    let left = history(31, 1500, 80, CrashModel::KeepAll);
    let sound = recover(&left, &options(4096).recovery_threads(1));
    let disk = left.crash(CrashModel::KeepAll);
    let some = (20 * PAGE) as u64;
    let options = options(pool).recovery_threads(threads);
    let bad = Spoiled::new(&disk, spoil(some), 1);
    let armed = bad.armed.clone();
    let arm = options.clone().progress(move |p| {
        armed.fetch_or(p.phase == phase, SeqCst);
        ControlFlow::Continue(())
    });
    let e = arm.open_on(Arc::new(bad)).unwrap_err();
    // Nothing of it was written: the next open starts again, and comes to the same.
    assert!(recover(&disk, &options).contents == sound.contents, "{threads} threads");
    e
}

#[test]
fn a_panic_in_a_thread_is_an_error_once() {
    for threads in [1, 2, 8] {
        let e = spoiled(Spoil::PanicAt, threads);
        assert_eq!(e.kind(), ErrorKind::Internal, "{threads} threads: {e}");
        assert!(e.to_string().contains("panicked in redo"), "{e}");
        assert!(e.to_string().contains("the disk is on fire"), "{e}");
    }
}

/// Before redo the stored versions of pages are looked at that it rebuilds, and of all if they do not fit the pool: a panic there is
/// an error like one in redo.
#[test]
fn a_panic_before_redo_is_an_error_too() {
    for (threads, pool) in [(1, 64), (8, 64), (1, 4096), (8, 4096)] {
        let e = spoiled_from(Phase::Analysis, Spoil::PanicAt, threads, pool);
        assert_eq!(e.kind(), ErrorKind::Internal, "{threads} threads, {pool} pages: {e}");
        assert!(e.to_string().contains("the disk is on fire"), "{e}");
    }
}

#[test]
fn an_error_in_a_thread_is_that_of_the_open() {
    let one = spoiled(Spoil::FailAt, 1);
    assert_eq!(one.kind(), ErrorKind::PageUnreadable, "{one}");
    for threads in [2, 8] {
        let e = spoiled(Spoil::FailAt, threads);
        // The lowest page, as one thread would have met it.
        assert_eq!((e.kind(), e.page()), (one.kind(), one.page()), "{threads} threads: {e}");
    }
}

#[test]
fn progress_can_stop_it_and_only_grows() {
    let left = history(41, 1500, 60, CrashModel::KeepAll);
    for threads in [1, 8] {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        let options = options(4096).recovery_threads(threads).progress(move |p| {
            log.lock().unwrap().push(p);
            ControlFlow::Continue(())
        });
        drop(recover(&left, &options));
        let redo: Vec<_> =
            seen.lock().unwrap().iter().filter(|p| p.phase == hamal::Phase::Redo).copied().collect();
        assert!(redo.len() >= 2 && redo.is_sorted_by_key(|p| p.done), "{redo:?}");
        assert!(redo.iter().all(|p| p.done <= p.total));
        assert_eq!(redo.last().map(|p| p.done), redo.last().map(|p| p.total));

        let stop = options.progress(|p| match p.phase {
            hamal::Phase::Redo => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        });
        let disk = left.crash(CrashModel::KeepAll);
        let e = stop.open_on(Arc::new(disk.clone())).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Cancelled, "{e}");
        drop(recover(&disk, &small().cache_bytes(4096 * PAGE).log_limit_bytes(256 << 20)));
    }
}
