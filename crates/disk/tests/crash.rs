//! What survives on the disk in memory: never less than the persistence contract says, and never anything
//! else than old or new, sector by sector.

use std::io::ErrorKind;

use hamal_disk::{CrashModel, Disk, MemDisk, MemFault, MemOp, OpenMode, read_exact_at};
use proptest::prelude::*;

const CREATE: OpenMode =
    OpenMode { create: true, create_new: false, read_only: false, direct: false, dsync: false };
const LOSE: CrashModel = CrashModel::LoseUnsynced;

fn random(seed: u64, torn_sector_bytes: usize) -> CrashModel {
    CrashModel::Random { seed, torn_sector_bytes }
}

fn content(disk: &MemDisk, name: &str) -> Option<Vec<u8>> {
    let file = disk.open(name, OpenMode::default()).ok()?;
    let mut buf = vec![0; file.len().unwrap() as usize];
    read_exact_at(&*file, 0, &mut buf).unwrap();
    Some(buf)
}

/// A disk with one durable file `f` of `old`.
fn with_file(old: &[u8]) -> MemDisk {
    let d = MemDisk::new();
    let f = d.open("f", CREATE).unwrap();
    f.write_at(0, old).unwrap();
    f.sync().unwrap();
    d.sync_dir("").unwrap();
    d
}

#[test]
fn unsynced_bytes_are_lost_synced_ones_are_not() {
    let d = with_file(b"durable");
    let f = d.open("f", CREATE).unwrap();
    f.write_at(0, b"changed and longer").unwrap();
    assert_eq!(content(&d.crash(LOSE), "f").unwrap(), b"durable");
    assert_eq!(content(&d.crash(CrashModel::KeepAll), "f").unwrap(), b"changed and longer");
    f.sync().unwrap();
    f.write_at(0, b"X").unwrap();
    assert_eq!(content(&d.crash(LOSE), "f").unwrap(), b"changed and longer");
    assert_eq!(content(&d, "f").unwrap(), b"Xhanged and longer", "the crashed disk goes on");
    // Twice crashed: what survived once is durable.
    let once = d.crash(CrashModel::KeepAll);
    assert_eq!(content(&once.crash(LOSE), "f").unwrap(), b"Xhanged and longer");
}

#[test]
fn disks_after_a_crash_are_independent() {
    let d = with_file(&[1; 100_000]);
    let c = d.crash(LOSE);
    c.open("f", CREATE).unwrap().write_at(0, &[2; 10]).unwrap();
    d.open("f", CREATE).unwrap().write_at(0, &[3; 10]).unwrap();
    assert_eq!(content(&c, "f").unwrap()[..10], [2; 10]);
    assert_eq!(content(&d, "f").unwrap()[..10], [3; 10]);
    let held = d.lock("LOCK").unwrap();
    drop(d.crash(CrashModel::KeepAll).lock("LOCK").unwrap());
    drop(held);
}

#[test]
fn names_need_their_directory_synced() {
    let d = with_file(b"f");
    d.create_dir("wal").unwrap();
    let g = d.open("wal/g", CREATE).unwrap();
    g.write_at(0, b"g").unwrap();
    g.sync().unwrap();
    d.sync_dir("wal").unwrap();
    assert_eq!(
        d.crash(LOSE).list("wal").unwrap_err().kind(),
        ErrorKind::NotFound,
        "the directory has no durable name"
    );
    d.sync_dir("").unwrap();
    assert_eq!(content(&d.crash(LOSE), "wal/g").unwrap(), b"g");

    d.rename("f", "h").unwrap();
    let c = d.crash(LOSE);
    assert!(c.exists("f").unwrap() && !c.exists("h").unwrap());
    d.sync_dir("wal").unwrap();
    assert!(d.crash(LOSE).exists("f").unwrap(), "another directory's sync does not help");
    d.sync_dir("").unwrap();
    let c = d.crash(LOSE);
    assert!(!c.exists("f").unwrap());
    assert_eq!(content(&c, "h").unwrap(), b"f");

    d.remove("h").unwrap();
    assert_eq!(content(&d.crash(LOSE), "h").unwrap(), b"f", "an unsynced removal is undone");
    assert!(!d.crash(CrashModel::KeepAll).exists("h").unwrap());
    d.sync_dir("").unwrap();
    assert!(!d.crash(LOSE).exists("h").unwrap());
}

/// The usual way to replace a file, in which every crash finds the old one or the new one, whole.
#[test]
fn replacing_by_rename_is_atomic() {
    let d = with_file(b"old");
    let t = d.open("tmp", CREATE).unwrap();
    t.write_at(0, b"new!").unwrap();
    t.sync().unwrap();
    d.rename("tmp", "f").unwrap();
    let mut seen = [false; 2];
    for seed in 0..64 {
        match content(&d.crash(random(seed, 512)), "f").unwrap().as_slice() {
            b"old" => seen[0] = true,
            b"new!" => seen[1] = true,
            other => panic!("neither old nor new: {other:?}"),
        }
    }
    assert_eq!(seen, [true; 2]);
}

#[test]
fn random_is_deterministic_and_keeps_or_loses_whole_units() {
    for unit in [512, 4096] {
        let d = with_file(&vec![1; 160_000]);
        d.open("f", CREATE).unwrap().write_at(700, &vec![2; 150_000]).unwrap();
        let now = content(&d, "f").unwrap();
        let mut differ = false;
        for seed in 0..20 {
            let a = content(&d.crash(random(seed, unit)), "f").unwrap();
            assert!(
                a == content(&d.crash(random(seed, unit)), "f").unwrap(),
                "the same seed decides the same"
            );
            differ |= a != content(&d.crash(random(seed + 1, unit)), "f").unwrap();
            assert_eq!(a.len(), 160_000);
            let (mut old, mut new) = (0, 0);
            for (at, got) in a.chunks(unit).enumerate() {
                let want = &now[at * unit..at * unit + got.len()];
                let is_new = got == want;
                assert!(is_new || got.iter().all(|&b| b == 1), "seed {seed}: unit {at} is a mixture");
                *(if is_new { &mut new } else { &mut old }) += 1;
            }
            assert!(old > 0 && new > 0);
        }
        assert!(differ);
    }
}

#[test]
fn lengths_survive_in_order() {
    let d = with_file(&[1; 1000]);
    let f = d.open("f", CREATE).unwrap();
    f.set_len(10).unwrap();
    assert_eq!(content(&d.crash(LOSE), "f").unwrap(), [1; 1000]);
    assert_eq!(content(&d.crash(CrashModel::KeepAll), "f").unwrap(), [1; 10]);
    f.set_len(70_000).unwrap();
    f.write_at(69_000, &[5; 1000]).unwrap();
    let mut lengths = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let got = content(&d.crash(random(seed, 512)), "f").unwrap();
        lengths.insert(got.len());
        assert!(got[..10] == [1; 10]);
        if got.len() == 70_000 {
            assert!(
                got[512..69_000 - 512].iter().all(|&b| b == 0),
                "the cut survived, so its bytes are gone"
            );
        } else if got.len() == 1000 {
            assert!(got[512..] == [1; 488], "the cut was lost, so its bytes are there");
        }
    }
    assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [10, 1000, 70_000]);
}

#[test]
fn dsync_writes_are_durable_at_once() {
    let d = with_file(&[1; 4096]);
    let plain = d.open("f", CREATE).unwrap();
    let durable = d.open("f", OpenMode { dsync: true, ..CREATE }).unwrap();
    plain.write_at(0, &[2; 512]).unwrap();
    durable.write_at(512, &[3; 512]).unwrap();
    durable.write_at(8192, &[4; 100]).unwrap();
    let c = content(&d.crash(LOSE), "f").unwrap();
    assert_eq!(c.len(), 8292);
    assert!(c[..512] == [1; 512] && c[512..1024] == [3; 512] && c[8192..] == [4; 100]);
    assert!(c[4096..8192].iter().all(|&b| b == 0));
    // A pending cut becomes durable with the write after it.
    plain.set_len(100).unwrap();
    durable.write_at(5000, b"x").unwrap();
    let c = content(&d.crash(LOSE), "f").unwrap();
    assert!(c.len() == 5001 && c[100..5000].iter().all(|&b| b == 0));
}

#[test]
fn capacity() {
    let d = MemDisk::new();
    d.set_capacity(Some(10_000));
    let f = d.open("f", CREATE).unwrap();
    f.allocate(0, 8_000).unwrap();
    let g = d.open("g", CREATE).unwrap();
    for full in [g.write_at(2_000, b"x"), g.set_len(2_001), g.allocate(2_000, 1)] {
        let e = full.unwrap_err();
        assert_eq!((e.kind(), e.raw_os_error()), (ErrorKind::StorageFull, Some(28)));
    }
    assert!(g.is_empty().unwrap());
    f.write_at(0, &[1; 8_000]).unwrap();
    g.write_at(0, &[1; 2_000]).unwrap();
    assert_eq!(d.used(), 10_000);
    f.set_len(7_000).unwrap();
    g.write_at(2_000, &[1; 1_000]).unwrap();
    d.remove("f").unwrap();
    assert_eq!(d.used(), 3_000);
    f.set_len(1 << 20).unwrap();
    assert_eq!(d.used(), 3_000, "a file without a name takes no space");
    d.rename("g", "h").unwrap();
    d.open("i", CREATE).unwrap().write_at(0, &[1; 500]).unwrap();
    d.rename("i", "h").unwrap();
    assert_eq!(d.used(), 500);
    assert!(d.open("h", CREATE).unwrap().set_len(10_001).is_err());
    d.set_capacity(None);
    d.open("h", CREATE).unwrap().set_len(1 << 50).unwrap();
}

#[test]
fn planned_errors() {
    let d = with_file(b"old");
    let f = d.open("f", CREATE).unwrap();
    let mut buf = [0; 3];
    d.inject(MemFault { at: 2, on: MemOp::Write, once: true });
    f.write_at(0, b"1").unwrap();
    let e = f.write_at(0, b"2").unwrap_err();
    assert_eq!(e.raw_os_error(), Some(5));
    f.write_at(1, b"3").unwrap();
    assert_eq!(content(&d, "f").unwrap(), b"13d", "the failed write changed nothing");

    d.inject(MemFault { at: 1, on: MemOp::Sync, once: false });
    assert!(f.sync().is_err() && f.sync().is_err() && d.sync_dir("").is_err());
    assert_eq!(content(&d.crash(LOSE), "f").unwrap(), b"old", "the failed sync made nothing durable");
    d.inject(MemFault { at: 1, on: MemOp::Read, once: true });
    assert!(f.read_at(0, &mut buf).is_err());
    assert_eq!(f.read_at(0, &mut buf).unwrap(), 3);
    d.clear_faults();
    f.sync().unwrap();
    assert_eq!(content(&d.crash(LOSE), "f").unwrap(), b"13d");
}

#[test]
fn counters() {
    let d = with_file(b"old");
    let before = d.stats();
    let f = d.open("f", CREATE).unwrap();
    f.write_at(0, &[1; 10]).unwrap();
    f.read_at(0, &mut [0; 100]).unwrap();
    f.sync().unwrap();
    d.sync_dir("").unwrap();
    let s = d.stats();
    assert_eq!(
        [s.writes - before.writes, s.bytes_written - before.bytes_written, s.reads, s.bytes_read],
        [1, 10, 1, 10]
    );
    assert_eq!([s.syncs - before.syncs, s.dir_syncs - before.dir_syncs], [1, 1]);
}

#[derive(Debug, Clone)]
enum Op {
    Write { at: usize, len: usize, dsync: bool },
    SetLen(usize),
    Sync,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..150_000usize, 1..9_000usize, prop::bool::weighted(0.2))
            .prop_map(|(at, len, dsync)| Op::Write { at, len, dsync }),
        2 => (0..160_000usize).prop_map(Op::SetLen),
        1 => Just(Op::Sync),
    ]
}

/// Every value that each byte may have after a crash: all since the last sync, in a plain model.
#[derive(Default)]
struct Model {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Contents since the last sync.
    history: Vec<Vec<u8>>,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Without dsync and with it: current bytes, lost bytes and the bounds of random survival, against
    /// vectors.
    #[test]
    fn the_file_agrees_with_a_plain_model(ops in prop::collection::vec(op(), 1..40), seed: u64) {
        let d = with_file(b"");
        let plain = d.open("f", CREATE).unwrap();
        let durable = d.open("f", OpenMode { dsync: true, ..CREATE }).unwrap();
        let mut m = Model::default();
        let mut used_dsync = false;
        for (i, op) in ops.iter().enumerate() {
            match *op {
                Op::Write { at, len, dsync } => {
                    let bytes = vec![i as u8 + 1; len];
                    (if dsync { &durable } else { &plain }).write_at(at as u64, &bytes).unwrap();
                    m.now.resize(m.now.len().max(at + len), 0);
                    m.now[at..at + len].copy_from_slice(&bytes);
                    if dsync {
                        used_dsync = true;
                        let lost = content(&d.crash(LOSE), "f").unwrap();
                        prop_assert!(lost.len() == m.now.len() && lost[at..at + len] == bytes[..]);
                    }
                }
                Op::SetLen(len) => {
                    plain.set_len(len as u64).unwrap();
                    m.now.resize(len, 0);
                }
                Op::Sync => {
                    plain.sync().unwrap();
                    m.durable = m.now.clone();
                    m.history.clear();
                    used_dsync = false;
                }
            }
            m.history.push(m.now.clone());
        }
        prop_assert!(content(&d, "f").unwrap() == m.now);
        prop_assert!(content(&d.crash(CrashModel::KeepAll), "f").unwrap() == m.now);
        if !used_dsync {
            prop_assert!(content(&d.crash(LOSE), "f").unwrap() == m.durable);
        }
        for unit in [512, 4096] {
            let got = content(&d.crash(random(seed, unit)), "f").unwrap();
            m.history.push(m.durable.clone());
            prop_assert!(m.history.iter().any(|h| h.len() == got.len()), "a length that never was");
            for (at, sector) in got.chunks(512).enumerate() {
                let range = at * 512..at * 512 + sector.len();
                let never = |b: (usize, &u8)| {
                    *b.1 != 0 && !m.history.iter().any(|h| h.get(range.start + b.0) == Some(b.1))
                };
                prop_assert!(!sector.iter().enumerate().any(never), "a byte that never was");
            }
        }
    }
}
