//! Limits and edges: what is left of old files, files that are not what they say, options at their bounds, big segments.
mod common;
use common::*;
use hamal_disk::{CrashModel, Disk, DiskFile, DiskLock, MemDisk, MemFault, MemOp, OpenMode};
use hamal_error::{ErrorKind, Poison, Result};
use hamal_log::*;
use hamal_page::{DbId, Lsn, PageId, RmId, TxnId};
use hamal_trace::{ForceReason, Trace};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

fn bytes(d: &MemDisk, name: &str) -> Vec<u8> {
    let f = d.open(name, OpenMode::default()).unwrap();
    let mut b = vec![0; f.len().unwrap() as usize];
    f.read_at(0, &mut b).unwrap();
    b
}

fn put(d: &MemDisk, name: &str, b: &[u8]) {
    let f = d.open(name, OpenMode { create: true, ..OpenMode::default() }).unwrap();
    f.set_len(b.len() as u64).unwrap();
    f.write_at(0, b).unwrap();
    f.sync().unwrap();
    d.sync_dir("wal").unwrap();
}

fn segments(d: &MemDisk) -> Vec<String> {
    let mut n: Vec<String> = d.list("wal").unwrap();
    n.retain(|n| !n.starts_with("free-"));
    n.sort();
    n.into_iter().map(|n| format!("wal/{n}")).collect()
}

/// A log over several segments.
fn long(o: &LogOptions) -> (MemDisk, Vec<Appended>) {
    longer(o, 300)
}

fn longer(o: &LogOptions, records: u32) -> (MemDisk, Vec<Appended>) {
    let d = disk();
    let log = create(&d, o);
    let all = (0..records)
        .map(|i| {
            let a = append(&log, &[i as u8; 900]);
            log.force(a.end, ForceReason::Commit).unwrap();
            a
        })
        .collect();
    (d, all)
}

fn kind<T: std::fmt::Debug>(r: Result<T>) -> ErrorKind {
    r.unwrap_err().kind()
}

#[test]
fn a_segment_that_is_not_what_its_name_says() {
    let o = small();
    let (d, all) = long(&o);
    let names = segments(&d);
    assert!(names.len() > 3);
    let with = |f: &dyn Fn(&MemDisk)| {
        let d = d.crash(CrashModel::KeepAll);
        f(&d);
        find_end(&dynamic(&d), &o, ID, Log::FIRST, Lsn::NULL)
    };
    assert!(with(&|_| {}).is_ok());
    // Another segment's content under this name.
    let first = bytes(&d, &names[0]);
    assert_eq!(kind(with(&|d| put(d, &names[1], &first))), ErrorKind::LogCorrupt);
    // A byte of the header; cut in the header, and at its end; cut by a sector. What is too long is no harm.
    let second = bytes(&d, &names[1]);
    let mut bad = second.clone();
    bad[33] ^= 1;
    assert_eq!(kind(with(&|d| put(d, &names[1], &bad))), ErrorKind::LogCorrupt);
    for len in [0, 100, 4095, 4096, second.len() - 512] {
        assert_eq!(kind(with(&|d| put(d, &names[1], &second[..len]))), ErrorKind::LogCorrupt, "{len}");
    }
    let longer = [&second[..], &[0; 512]].concat();
    assert!(with(&|d| put(d, &names[1], &longer)).is_ok());
    // The newest one holds no group that would show it.
    let newest = names.last().unwrap();
    let sound = bytes(&d, newest);
    assert_eq!(kind(with(&|d| put(d, newest, &first))), ErrorKind::LogCorrupt);
    assert_eq!(kind(with(&|d| put(d, newest, &sound[..sound.len() - 512]))), ErrorKind::LogCorrupt);
    // Of another database, or of another timeline.
    for id in [LogIdentity { db: DbId([8; 16]), ..ID }, LogIdentity { timeline: 2, ..ID }] {
        let other = disk();
        let (p, t) = (Arc::new(Poison::new()), Trace::silent());
        drop(Log::create(dynamic(&other), o.clone(), id, Log::FIRST, p, t).unwrap());
        for name in [&names[0], &names[1]] {
            let theirs = bytes(&other, name);
            assert_eq!(kind(with(&|d| put(d, name, &theirs))), ErrorKind::WrongDatabase);
        }
    }
    // Cut while it is open: an error of the log, not of the device.
    let e = end(&d, &o).unwrap();
    let mut reader = LogReader::with_cache(&dynamic(&d), ID, &e, 0).unwrap();
    put(&d, &names[2], &bytes(&d, &names[2])[..8192]);
    let inside = all.iter().find(|a| place(&o, a.lsn).0 == names[2]).unwrap();
    assert_eq!(kind(reader.read(inside.lsn)), ErrorKind::LogCorrupt);
}

/// Between finding the end and opening the log a segment goes; and an end that cuts a record.
#[test]
fn a_segment_that_goes_after_the_end_was_found() {
    let o = small();
    let (d, all) = long(&o);
    let (e, reader) =
        find_end_and_read(&dynamic(&d), ID, Log::FIRST, Lsn::NULL, hamal_log::Reading::default()).unwrap();
    let cut = LogEnd { end: Lsn(all[9].end.0 - 1), ..e.clone() };
    let mut r = LogReader::open(&dynamic(&d), ID, &cut).unwrap();
    assert_eq!(r.read(all[8].lsn).unwrap().unwrap().end, all[8].end);
    assert_eq!(kind(r.read(all[9].lsn)), ErrorKind::LogCorrupt);
    d.remove(&segments(&d)[1]).unwrap();
    let (p, t) = (Arc::new(Poison::new()), Trace::silent());
    assert_eq!(kind(Log::open_read(dynamic(&d), o, ID, &e, &reader, p, t)), ErrorKind::LogCorrupt);
}

/// An error of the device below the starting point is one, and not the end of the chain.
#[test]
fn a_read_error_below_the_starting_point() {
    let o = small();
    let (d, all) = long(&o);
    let from = all.iter().find(|a| a.lsn.0 >= Log::FIRST.0 + 3 * (o.segment_bytes - 4096)).unwrap();
    let before = d.stats().reads;
    find_end(&dynamic(&d), &o, ID, from.lsn, Lsn::NULL).unwrap();
    let reads = d.stats().reads - before;
    for at in 1..=reads {
        let d = d.crash(CrashModel::KeepAll);
        d.inject(MemFault { at, on: MemOp::Read, once: true });
        assert_eq!(
            kind(find_end(&dynamic(&d), &o, ID, from.lsn, Lsn::NULL)),
            ErrorKind::Io,
            "read {at} of {reads}"
        );
    }
}

/// Below the starting point nothing is needed: the chain ends at a gap and at a file that does not join.
#[test]
fn the_chain_reaches_down_to_the_first_gap() {
    let o = small();
    let (d, all) = long(&o);
    let names = segments(&d);
    let capacity = o.segment_bytes - 4096;
    let from = all.iter().find(|a| a.lsn.0 >= Log::FIRST.0 + 3 * capacity).unwrap();
    let oldest = |f: &dyn Fn(&MemDisk)| {
        let d = d.crash(CrashModel::KeepAll);
        f(&d);
        find_end(&dynamic(&d), &o, ID, from.lsn, Lsn::NULL).unwrap().oldest.0
    };
    assert_eq!(oldest(&|_| {}), Log::FIRST.0);
    assert_eq!(oldest(&|d| d.remove(&names[1]).unwrap()), Log::FIRST.0 + 2 * capacity);
    let damaged = |d: &MemDisk| put(d, &names[2], &[7; 4096]);
    assert_eq!(oldest(&damaged), Log::FIRST.0 + 3 * capacity);
    // An open then removes what lies below the gap, and a file that was being made.
    let e = {
        d.remove(&names[1]).unwrap();
        put(&d, "wal/make", &[1; 100]);
        find_end(&dynamic(&d), &o, ID, from.lsn, Lsn::NULL).unwrap()
    };
    let log = open(&d, &o, &e);
    let left = d.list("wal").unwrap();
    assert!(!left.contains(&"make".to_string()) && !segments(&d).contains(&names[0]), "{left:?}");
    assert_eq!(log.oldest().0, Log::FIRST.0 + 2 * capacity);
    assert_eq!(kind(log.read(Log::FIRST)), ErrorKind::NotFound);
}

fn free(d: &MemDisk) -> Vec<String> {
    let mut n: Vec<_> = d.list("wal").unwrap().into_iter().filter(|n| n.starts_with("free-")).collect();
    n.sort();
    n
}

/// Released files of the right length are kept, four of them; all others go.
#[test]
fn free_files_are_kept_if_they_fit() {
    let o = small();
    let (d, all) = longer(&o, 800);
    let last = all[all.len() - 1];
    let at_once = d.crash(CrashModel::KeepAll);
    let log = open(&at_once, &o, &end(&at_once, &o).unwrap());
    log.truncate(last.lsn).unwrap();
    assert_eq!(free(&at_once), ["free-0", "free-1", "free-2", "free-3"]);
    drop(log);

    let log = open(&d, &o, &end(&d, &o).unwrap());
    let before = segments(&d).len();
    let capacity = o.segment_bytes - 4096;
    log.truncate(Lsn(Log::FIRST.0 + 2 * capacity)).unwrap();
    assert_eq!((segments(&d).len(), free(&d).len()), (before - 2, 2));
    log.truncate(Lsn(log.oldest().0 + capacity - 1)).unwrap();
    assert_eq!(free(&d).len(), 2, "nothing lies wholly below");
    log.truncate(last.lsn).unwrap();
    assert_eq!(free(&d), ["free-0", "free-1", "free-2", "free-3"]);
    drop(log);
    put(&d, "wal/free-9", &[0; 4096]);
    for n in 5..8 {
        put(&d, &format!("wal/free-{n}"), &vec![0; o.segment_bytes as usize]);
    }
    let e = find_end(&dynamic(&d), &o, ID, last.lsn, last.end).unwrap();
    let log = open(&d, &o, &e);
    assert_eq!(free(&d).len() as u64 + log.stats().segments_recycled, 4, "four of the seven that fit");
    for i in 0..500u32 {
        append(&log, &[i as u8; 900]);
    }
    log.flush_pending().unwrap();
    assert_eq!(log.stats().segments_recycled, 4, "all of them are used again");
    assert_eq!(free(&d), [""; 0]);
}

/// Released segments of another length than new ones are not used for them.
#[test]
fn files_of_another_length_are_not_used_again() {
    let o = small();
    let (d, all) = longer(&o, 400);
    let last = all[all.len() - 1];
    put(&d, "wal/free-0", &vec![0; o.segment_bytes as usize]);
    let other = LogOptions { segment_bytes: 96 << 10, ..o.clone() };
    let log = open(&d, &other, &end(&d, &o).unwrap());
    assert_eq!(free(&d), [""; 0]);
    log.truncate(last.lsn).unwrap();
    assert_eq!(free(&d), [""; 0]);
    let mut newest = last;
    for i in 0..400u32 {
        newest = append(&log, &[i as u8; 900]);
        log.force(newest.end, ForceReason::Commit).unwrap();
    }
    drop(log);
    let e = find_end(&dynamic(&d), &o, ID, last.lsn, newest.end).unwrap();
    assert_eq!((e.verdict, e.end >= newest.end), (Verdict::Clean, true));
}

/// Segments of several chunks of every reader's cache.
#[test]
fn big_segments() {
    let o = LogOptions {
        segment_bytes: 1 << 20,
        ring_bytes: 1 << 20,
        max_record: 256 << 10,
        ..LogOptions::default()
    };
    let d = disk();
    let log = create(&d, &o);
    let mut all = Vec::new();
    for i in 0..80u32 {
        let size = [100, 9_000, 60_000, 70_000][i as usize % 4];
        let a = append(&log, &vec![i as u8; size]);
        if i % 5 == 0 {
            log.force(a.end, ForceReason::Commit).unwrap();
        }
        all.push((a, i as u8, size));
    }
    log.flush_pending().unwrap();
    let mut seen = Vec::new();
    log.scan(|r| seen.push((r.lsn, r.len()))).unwrap();
    assert_eq!(seen, all.iter().map(|(a, ..)| (a.lsn, (a.end.0 - a.lsn.0) as usize)).collect::<Vec<_>>());
    for (a, fill, size) in all.iter().rev() {
        let r = log.read(a.lsn).unwrap();
        assert!(r.undo().len() == *size && r.undo().iter().all(|b| b == fill));
    }
    assert_eq!(kind(log.read(log.tail())), ErrorKind::NotFound);
    drop(log);
    let e = end(&d, &o).unwrap();
    assert!(e.end >= all[79].0.end && e.verdict == Verdict::Clean);
    for cache in [0, 600 << 10, 16 << 20] {
        let mut r = LogReader::with_cache(&dynamic(&d), ID, &e, cache).unwrap();
        assert_eq!((r.oldest(), r.end(), r.bypasses_cache()), (Log::FIRST, e.end, true));
        for step in [1, 7, 33] {
            for k in 0..all.len() {
                let (a, fill, size) = all[k * step % all.len()];
                let rec = r.read(a.lsn).unwrap().unwrap();
                assert!(
                    rec.end == a.end && rec.undo().len() == size && rec.undo().iter().all(|b| *b == fill)
                );
            }
        }
    }
    // A damaged byte anywhere in a group of many chunks is found.
    let (a, ..) = all[77];
    for back in [1, 100_000, 190_000] {
        let d = d.crash(CrashModel::KeepAll);
        flip(&d, &o, Lsn(a.end.0 - back));
        assert!(end(&d, &o).is_err() || end(&d, &o).unwrap().end <= a.lsn);
    }
}

#[test]
fn where_a_log_may_start() {
    let make = |first| {
        let (p, t) = (Arc::new(Poison::new()), Trace::silent());
        Log::create(dynamic(&disk()), small(), ID, Lsn(first), p, t).map(|l| l.tail().0).map_err(|e| e.kind())
    };
    for first in [4096, 8192, 1 << 60] {
        assert_eq!(make(first), Ok(first));
    }
    for first in [0, 512, 4095, 4097, 4608, (1 << 60) + 4096, (1 << 60) + 1] {
        assert_eq!(make(first), Err(ErrorKind::InvalidArgument), "{first}");
    }
}

#[test]
fn an_end_that_does_not_lie_in_the_segments_is_refused() {
    let o = small();
    let (d, _) = long(&o);
    let e = end(&d, &o).unwrap();
    let try_open = |end: LogEnd| {
        let (p, t) = (Arc::new(Poison::new()), Trace::silent());
        Log::open(dynamic(&d), o.clone(), ID, &end, p, t).map(|_| ()).map_err(|e| e.kind())
    };
    let at = |lsn: u64| LogEnd { end: Lsn(lsn), ..e.clone() };
    let newest = Log::FIRST.0 + (segments(&d).len() as u64 - 1) * (o.segment_bytes - 4096);
    for lsn in [e.end.0 + 1, e.end.0 + 48, 0, 3584, newest, newest + 512] {
        assert_eq!(try_open(at(lsn)), Err(ErrorKind::LogCorrupt), "{lsn}");
    }
    assert_eq!(try_open(e.clone()), Ok(()));
}

/// The least that is too much, and the most that is not.
#[test]
fn records_at_their_limits() {
    let d = disk();
    let log = create(&d, &small());
    let max = log.options().max_record as u64;
    let overhead = {
        let a = append(&log, &[0; 4000]);
        a.end.0 - a.lsn.0 - 4000
    };
    let mut c = log.credit(2 * max, false).unwrap();
    let fill = vec![1; (max - overhead) as usize];
    let a = log.append(&note(&fill), &mut c).unwrap();
    assert_eq!(a.end.0 - a.lsn.0, max);
    assert_eq!(kind(log.append(&note(&[&fill[..], b"x"].concat()), &mut c)), ErrorKind::Internal);
    assert_eq!(kind(log.append(&note(&[&fill[..], &fill[..]].concat()), &mut c)), ErrorKind::Internal);
    drop(c);
    let mut exact = log.credit(a.end.0 - a.lsn.0, false).unwrap();
    let b = log.append(&note(&fill), &mut exact).unwrap();
    assert_eq!((exact.left(), b.end.0 - b.lsn.0), (0, max));
    // 127 blocks, and references to what lies below.
    let block = |former| Block { page: PageId(u64::MAX - 5), former, op: 1, whole: Whole::No, payload: b"" };
    let spec = |blocks, txn, prev| RecordSpec { blocks, txn, prev, ..note(b"") };
    let mut c = log.credit(20_000, false).unwrap();
    let tail = log.tail();
    let most: Vec<_> = (0..127).map(|i| Block { page: PageId(i << 57), ..block(a.lsn) }).collect();
    let too_many = [&most[..], &[block(a.lsn)]].concat();
    let twice = [&too_many[..], &too_many[..]].concat();
    let itself = [block(tail)];
    for bad in [
        spec(&too_many, TxnRef::First, Lsn::NULL),
        spec(&twice, TxnRef::First, Lsn::NULL),
        spec(&[], TxnRef::Id(TxnId::NONE), Lsn::NULL),
        spec(&[], TxnRef::Id(TxnId(tail.0)), Lsn::NULL),
        spec(&[], TxnRef::Id(TxnId(tail.0 + 9)), Lsn::NULL),
        spec(&[], TxnRef::First, tail),
        spec(&itself, TxnRef::First, Lsn::NULL),
    ] {
        assert_eq!(kind(log.append(&bad, &mut c)), ErrorKind::Internal);
    }
    let good = spec(&most, TxnRef::Id(TxnId(tail.0 - 1)), Lsn(tail.0 - 1));
    assert!(Log::record_bound(&good) < 4096 + 10_000);
    let a = log.append(&good, &mut c).unwrap();
    assert!(a.end.0 - a.lsn.0 <= Log::record_bound(&good));
    assert_eq!(log.read(a.lsn).unwrap().blocks.len(), 127);
    drop((c, exact));
    log.flush_pending().unwrap();
}

/// Many small groups out of one credit, which is used up: their seals take more than was promised, and each must still end
/// below the newest segment (LOG-8), also where nearly nothing is promised any more.
#[test]
fn seals_never_reach_the_newest_segment() {
    let o =
        LogOptions { segment_bytes: 8 << 10, ring_bytes: 16 << 10, max_record: 64, ..LogOptions::default() };
    let spec = note(b"0123456789");
    let one = {
        let a = append(&create(&disk(), &o), b"0123456789");
        a.end.0 - a.lsn.0
    };
    for groups in 1..80 {
        let d = disk();
        let log = create(&d, &o);
        let mut c = log.credit(groups * one, false).unwrap();
        for i in 1..=groups {
            let a = log.append(&spec, &mut c).unwrap();
            log.force(a.end, ForceReason::Commit).unwrap();
            if groups - i < 6 {
                let e = end(&d.crash(CrashModel::LoseUnsynced), &o);
                let found = e.map(|e| e.end).map_err(|e| e.to_string());
                assert_eq!(found, Ok(log.durable()), "group {i} of {groups}");
            }
        }
        assert_eq!(c.left(), 0);
    }
}

/// Two copies of one database went their own ways, group for group of the same length. A group of one in the other's log is
/// valid in itself and starts in the right place: only the seal before it, which it names, is another one.
#[test]
fn a_group_of_another_history_is_refused() {
    let o = small();
    let history = |fill: u8| {
        let d = disk();
        let log = create(&d, &o);
        let all: Vec<_> = (0..4)
            .map(|i| {
                let a = append(&log, &[fill + i; 300]);
                log.force(a.end, ForceReason::Commit).unwrap();
                a
            })
            .collect();
        (d, all)
    };
    let ((ours, all), (theirs, same)) = (history(10), history(20));
    assert_eq!(all, same);
    let name = &segments(&ours)[0];
    for i in 1..4usize {
        let (from, to) =
            (all[i].lsn.0, if i < 3 { all[i + 1].lsn.0 } else { all[3].end.0.next_multiple_of(512) });
        let d = ours.crash(CrashModel::KeepAll);
        let (offset, foreign) = (place(&o, Lsn(from)).1 as usize, bytes(&theirs, name));
        let mut mixed = bytes(&d, name);
        mixed[offset..offset + (to - from) as usize]
            .copy_from_slice(&foreign[offset..offset + (to - from) as usize]);
        put(&d, name, &mixed);
        match end(&d, &o) {
            Ok(e) => {
                assert_eq!((i, e.end, e.verdict), (3, all[3].lsn, Verdict::TornTail { bytes: to - from }))
            }
            Err(e) => {
                assert!(i < 3 && e.kind() == ErrorKind::LogCorrupt && e.lsn() == Some(all[i].lsn), "{i}: {e}")
            }
        }
    }
}

struct Count(AtomicU64);
impl std::task::Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

/// Several tasks that wait for one commit, and one task that waits for several.
#[test]
fn every_task_is_woken() {
    let d = disk();
    let log = Arc::new(create(&d, &small()));
    let (a, b) = (append(&log, b"a"), append(&log, b"b"));
    let counts: Vec<_> = (0..3).map(|_| Arc::new(Count(AtomicU64::new(0)))).collect();
    let wakers: Vec<Waker> = counts.iter().map(|c| Waker::from(c.clone())).collect();
    let poll = |waker: &Waker, to: Lsn| {
        let mut t = log.ticket(to);
        assert_eq!(t.lsn(), to);
        std::future::Future::poll(std::pin::Pin::new(&mut t), &mut Context::from_waker(waker))
    };
    for _ in 0..2 {
        for (waker, to) in
            [(&wakers[0], a.end), (&wakers[1], a.end), (&wakers[2], a.end), (&wakers[2], b.end)]
        {
            assert!(poll(waker, to).is_pending());
        }
    }
    log.flush_pending().unwrap();
    // Two entries of the last task, though each was polled twice.
    assert_eq!(counts.iter().map(|c| c.0.load(SeqCst)).collect::<Vec<_>>(), [1, 1, 2]);
    assert!(matches!(poll(&wakers[0], b.end), Poll::Ready(Ok(()))));
    log.ticket(b.end).wait().unwrap();
}

/// A disk whose files panic when they are written, once.
#[derive(Debug)]
struct Panicky(MemDisk, Arc<AtomicU64>);
#[derive(Debug)]
struct PanickyFile(Arc<dyn DiskFile>, Arc<AtomicU64>);

impl Disk for Panicky {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(PanickyFile(self.0.open(name, mode)?, self.1.clone())))
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.0.create_dir(dir)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }
    fn exists(&self, name: &str) -> io::Result<bool> {
        self.0.exists(name)
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.0.sync_dir(dir)
    }
    fn lock(&self, name: &str) -> io::Result<Box<dyn DiskLock>> {
        self.0.lock(name)
    }
    fn describe(&self) -> String {
        self.0.describe()
    }
}

impl DiskFile for PanickyFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        assert!(self.1.swap(0, SeqCst) == 0, "the disk panics");
        self.0.write_at(offset, buf)
    }
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.allocate(offset, len)
    }
}

/// A group whose write panicked is in the file or not: nothing may be acknowledged after it.
#[test]
fn a_panic_of_the_leader_poisons() {
    let d = disk();
    let panics = Arc::new(AtomicU64::new(0));
    let shared: Arc<dyn Disk> = Arc::new(Panicky(d.clone(), panics.clone()));
    let (p, t) = (Arc::new(Poison::new()), Trace::silent());
    let log = Log::create(shared, small(), ID, Log::FIRST, p, t).unwrap();
    let a = append(&log, b"durable");
    log.force(a.end, ForceReason::Commit).unwrap();
    let b = append(&log, b"unknown");
    panics.store(1, SeqCst);
    let unwound =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| log.force(b.end, ForceReason::Commit)));
    assert!(unwound.is_err());
    assert_eq!(kind(log.force(b.end, ForceReason::Commit)), ErrorKind::Poisoned);
    assert_eq!(kind(log.credit(10, false).map(|c| c.left())), ErrorKind::Poisoned);
    drop(log);
    let e = end(&d.crash(CrashModel::LoseUnsynced), &small()).unwrap();
    assert_eq!(all(&d, &e).len(), 1);
}

/// The same while the thread unwinds already, in a rollback that forces the log: before anybody else can lead, and write a
/// second group that begins where that one does.
#[test]
fn a_panic_of_a_leader_that_unwinds_poisons() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    struct Rollback<'l>(&'l Log, Arc<AtomicU64>);
    impl Drop for Rollback<'_> {
        fn drop(&mut self) {
            let a = append(self.0, b"durable");
            self.0.force(a.end, ForceReason::Commit).unwrap();
            assert!(!self.0.poisoned().is_set(), "a rollback that ends well stops nothing");
            let b = append(self.0, b"unknown");
            self.1.store(1, SeqCst);
            assert!(catch_unwind(AssertUnwindSafe(|| self.0.force(b.end, ForceReason::Commit))).is_err());
        }
    }
    let d = disk();
    let panics = Arc::new(AtomicU64::new(0));
    let shared: Arc<dyn Disk> = Arc::new(Panicky(d.clone(), panics.clone()));
    let (p, t) = (Arc::new(Poison::new()), Trace::silent());
    let log = Log::create(shared, small(), ID, Log::FIRST, p, t).unwrap();
    let unwound = catch_unwind(AssertUnwindSafe(|| {
        let _rollback = Rollback(&log, panics.clone());
        panic!("the caller's");
    }));
    assert!(unwound.is_err());
    assert!(log.poisoned().is_set());
    assert_eq!(kind(log.force(log.tail(), ForceReason::Commit)), ErrorKind::Poisoned);
    drop(log);
    let e = end(&d.crash(CrashModel::LoseUnsynced), &small()).unwrap();
    assert_eq!(all(&d, &e).len(), 1);
}

/// A record in the ring, and one that is neither there nor in a file.
#[test]
fn reading_back_across_the_durable_end() {
    let d = disk();
    let log = create(&d, &small());
    let mut lsns = Vec::new();
    for i in 0..40u8 {
        let blocks =
            [Block { page: PageId(i.into()), former: Lsn::NULL, op: 2, whole: Whole::No, payload: &[i; 50] }];
        let undo = [i; 5];
        let spec = RecordSpec { kind: RecordKind::Update, rm: RmId(1), blocks: &blocks, ..note(&undo) };
        let mut c = log.credit(Log::record_bound(&spec), false).unwrap();
        lsns.push(log.append(&spec, &mut c).unwrap().lsn);
        if i == 20 {
            log.flush_pending().unwrap();
        }
    }
    for (i, lsn) in lsns.iter().enumerate().rev() {
        let r = log.read(*lsn).unwrap();
        assert_eq!((r.lsn, r.undo(), r.is_empty()), (*lsn, &[i as u8; 5][..], false));
        assert_eq!(r.len() as u64, r.end.0 - r.lsn.0);
    }
    assert_eq!(kind(log.read(Lsn(lsns[39].0 + 1))), ErrorKind::LogCorrupt);
    assert_eq!(kind(log.read(Lsn(lsns[3].0 + 1))), ErrorKind::LogCorrupt);
}

/// Where the cache cannot be bypassed the segments are written anew, from the one that holds the starting point on.
#[test]
fn rewriting_where_the_cache_is_in_the_way() {
    let o = LogOptions { segment_bytes: (2 << 20) + (64 << 10), ..small() };
    let d = disk();
    let log = create(&d, &o);
    let all: Vec<_> = (0..1200u32).map(|i| append(&log, &[i as u8; 3900])).collect();
    log.flush_pending().unwrap();
    drop(log);
    let cached: Arc<dyn Disk> = Arc::new(Panicky(d.clone(), Arc::default()));
    let e = end(&d, &o).unwrap();
    assert!(!LogReader::open(&cached, ID, &e).unwrap().bypasses_cache());
    let names = segments(&d);
    assert!(names.len() > 2);
    let before: Vec<_> = names.iter().map(|n| bytes(&d, n)).collect();
    let capacity = o.segment_bytes - 4096;
    let total = names.len() as u64 * o.segment_bytes;
    assert_eq!(rewrite_segments(&cached, Log::FIRST).unwrap(), total);
    for at in [capacity, capacity + 5000] {
        assert_eq!(rewrite_segments(&cached, Lsn(Log::FIRST.0 + at)).unwrap(), total - o.segment_bytes);
    }
    assert_eq!(rewrite_segments(&cached, Lsn(Log::FIRST.0 + capacity - 1)).unwrap(), total);
    assert_eq!(kind(rewrite_segments(&cached, Lsn(100))), ErrorKind::LogCorrupt);
    // What only the cache holds is durable afterwards: content and name.
    let written = d.open(&names[1], OpenMode::default()).unwrap();
    written.write_at(4096 + 100, b"in the cache").unwrap();
    rewrite_segments(&cached, Log::FIRST).unwrap();
    let kept = bytes(&d.crash(CrashModel::LoseUnsynced), &names[1]);
    assert_eq!(&kept[4096 + 100..][..12], b"in the cache");
    put(&d, &names[1], &before[1]);

    let durable = d.crash(CrashModel::LoseUnsynced);
    assert_eq!(segments(&durable), names, "and nothing half made");
    for (name, content) in names.iter().zip(&before) {
        assert!(bytes(&durable, name) == *content, "{name}");
    }
    assert_eq!(end(&durable, &o).unwrap().end, e.end);
    assert_eq!(common::all(&durable, &e).len(), all.len());
}

/// Ring space is admitted to the last byte that leaves room for padding and a seal, and no further.
#[test]
fn the_ring_leaves_room_for_a_seal() {
    let d = disk();
    let o = small();
    let log = create(&d, &o);
    let most = o.ring_bytes as u64 - 2 * o.pad as u64;
    assert_eq!(log.credit(most, false).unwrap().left(), most);
    assert_eq!(kind(log.credit(most + 1, false).map(|c| c.left())), ErrorKind::Limit);
    let mut none = 0;
    assert_eq!(kind(log.credit_from(&mut none, most + 1).map(|c| c.left())), ErrorKind::Limit);
    for (more, waits) in [(0, false), (1, true)] {
        let held = log.credit(40_000, false).unwrap();
        std::thread::scope(|s| {
            let t = s.spawn(|| log.credit(most - 40_000 + more, false).unwrap().left());
            if waits {
                std::thread::sleep(Duration::from_millis(40));
                assert!(!t.is_finished());
                drop(held);
            }
            assert_eq!(t.join().unwrap(), most - 40_000 + more);
        });
    }
    assert_eq!(log.stats().reserved_bytes, 0);
}

/// What is promised is counted, whichever way it was promised, and the limit is reached and not passed.
#[test]
fn promises_are_counted() {
    let d = disk();
    let o = LogOptions { limit_bytes: 6 * (64 << 10), ..small() };
    let log = create(&d, &o);
    let promised = || log.stats().reserved_bytes;
    let mut c = log.credit_and_reserve(1000, 500, false).unwrap();
    assert_eq!((promised(), c.left()), (1500, 1000));
    assert_eq!((c.take(300), promised(), c.left()), (300, 1500, 700));
    c.take_reserved(400);
    c.put_reserved(400);
    c.take_reserved(500);
    assert_eq!((promised(), c.left()), (1500, 700));
    c.settle();
    assert_eq!((promised(), c.left()), (1500, 700));
    drop(c);
    assert_eq!(promised(), 800);
    log.reserve(200, false).unwrap();
    assert_eq!(promised(), 1000);
    let mut reserve = 1000;
    drop(log.credit_from(&mut reserve, 400).unwrap());
    assert_eq!((reserve, promised()), (600, 600));
    drop(log.credit_from(&mut reserve, 700).unwrap());
    assert_eq!((reserve, promised()), (0, 0));
    let refused = (0..).find_map(|_| log.reserve(20_000, false).err()).unwrap();
    assert_eq!(refused.kind(), ErrorKind::LogFull);
    assert_eq!(log.stats().allocated_bytes, o.limit_bytes);
    log.reserve(20_000, true).unwrap();
    assert_eq!(log.stats().allocated_bytes, o.limit_bytes + o.segment_bytes);
}

/// The flusher sleeps until something is asked for, it is called, the log fails, or its time is over: no sooner and no later.
#[test]
fn the_flusher_sleeps_and_wakes() {
    let d = disk();
    let log = Arc::new(create(&d, &small()));
    let (long, short) = (Duration::from_secs(600), Duration::from_millis(60));
    let sleep = |wake: &dyn Fn()| {
        std::thread::scope(|s| {
            let t = s.spawn(|| log.wait_pending(long));
            std::thread::sleep(short);
            assert!(!t.is_finished(), "it woke for nothing");
            wake();
            t.join().unwrap()
        })
    };
    let a = append(&log, b"wanted");
    log.force(a.end, ForceReason::Commit).unwrap();
    log.request_flush(log.durable());
    assert!(!log.has_pending(), "what is durable is not asked for");
    let begun = Instant::now();
    assert!(!log.wait_pending(short) && begun.elapsed() >= short);
    assert!(!sleep(&|| log.wake_flusher()));
    let b = append(&log, b"wanted too");
    assert!(sleep(&|| log.request_flush(b.end)));
    assert!(log.flush_pending().unwrap() && !log.flush_pending().unwrap());
    assert!(!sleep(&|| drop(log.poison(hamal_error::Error::internal("test")))));
    assert!(!log.wait_pending(long), "a log that failed has nothing to wait for");
    assert_eq!(
        kind(log.force(log.tail(), ForceReason::Asked).and(log.credit(9, false))),
        ErrorKind::Poisoned
    );
}
