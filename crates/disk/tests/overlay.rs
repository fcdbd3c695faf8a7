//! The overlay is the base plus what was done, and the base is what it was.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use hamal_disk::{AlignedBuf, Disk, MemDisk, OpenMode, OverlayDisk, PosixDisk, read_exact_at};
use proptest::prelude::*;

const CREATE: OpenMode =
    OpenMode { create: true, create_new: false, read_only: false, direct: false, dsync: false };

type Files = BTreeMap<String, Vec<u8>>;

fn all(disk: &dyn Disk) -> Files {
    let mut out = Files::new();
    for name in disk.list("").unwrap() {
        let file = disk.open(&name, OpenMode { read_only: true, ..OpenMode::default() }).unwrap();
        let mut buf = vec![0xEE; file.len().unwrap() as usize];
        read_exact_at(&*file, 0, &mut buf).unwrap();
        out.insert(name, buf);
    }
    out
}

#[test]
fn the_base_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("data"), vec![1; 100_001]).unwrap();
    fs::create_dir(dir.path().join("wal")).unwrap();
    fs::write(dir.path().join("wal/1"), "log").unwrap();
    let base = PosixDisk::open(dir.path()).unwrap();
    let before = all(&base);
    let over = OverlayDisk::new(Arc::new(base.clone()));

    let f = over.open("data", OpenMode { direct: true, ..CREATE }).unwrap();
    let mut buf = AlignedBuf::new(8192);
    buf.fill(2);
    f.write_at(98_304, &buf).unwrap();
    f.sync().unwrap();
    assert_eq!(f.len().unwrap(), 106_496);
    let mut back = AlignedBuf::new(131_072);
    assert_eq!(f.read_at(0, &mut back).unwrap(), 106_496);
    assert!(back[..98_304].iter().all(|&b| b == 1) && back[98_304..106_496].iter().all(|&b| b == 2));
    f.set_len(1000).unwrap();
    f.set_len(100_000).unwrap();
    assert_eq!(f.read_at(0, &mut back).unwrap(), 100_000);
    assert!(back[..1000].iter().all(|&b| b == 1) && back[1000..100_000].iter().all(|&b| b == 0));

    over.rename("wal/1", "wal/2").unwrap();
    over.open("wal/2", CREATE).unwrap().write_at(3, b"ged").unwrap();
    over.open("wal/3", CREATE).unwrap();
    over.create_dir("new").unwrap();
    over.open("new/x", CREATE).unwrap();
    assert_eq!(over.list("new").unwrap(), ["x"]);
    over.remove("data").unwrap();
    let held = over.lock("LOCK").unwrap();
    over.sync_dir("").unwrap();

    assert!(all(&base) == before);
    assert_eq!(base.list("wal").unwrap(), ["1"]);
    assert_eq!(fs::read(dir.path().join("wal/1")).unwrap(), b"log");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "no directory, no lock file");
    drop(held);
}

#[test]
fn an_unchanged_file_of_a_live_base_grows_a_changed_one_does_not() {
    let base = MemDisk::new();
    let below = base.open("f", CREATE).unwrap();
    below.write_at(0, b"abc").unwrap();
    let over = OverlayDisk::new(Arc::new(base.clone()));
    let f = over.open("f", CREATE).unwrap();
    below.write_at(3, b"def").unwrap();
    assert_eq!(all(&over)["f"], b"abcdef");
    f.write_at(0, b"X").unwrap();
    below.write_at(6, b"ghi").unwrap();
    assert_eq!(all(&over)["f"], b"Xbcdef");
    assert_eq!(all(&base)["f"], b"abcdefghi");
}

#[derive(Debug, Clone)]
enum Op {
    Create(u8),
    Write(u8, usize, usize),
    SetLen(u8, usize),
    Allocate(u8, usize),
    Rename(u8, u8),
    Remove(u8),
}

fn op() -> impl Strategy<Value = Op> {
    let file = 0..3u8;
    prop_oneof![
        3 => file.clone().prop_map(Op::Create),
        4 => (file.clone(), 0..200_000usize, 0..90_000usize).prop_map(|(f, at, len)| Op::Write(f, at, len)),
        2 => (file.clone(), 0..250_000usize).prop_map(|(f, len)| Op::SetLen(f, len)),
        1 => (file.clone(), 0..250_000usize).prop_map(|(f, len)| Op::Allocate(f, len)),
        1 => (file.clone(), file.clone()).prop_map(|(a, b)| Op::Rename(a, b)),
        1 => file.prop_map(Op::Remove),
    ]
}

/// Does `op` to a disk and to a plain model of it, and compares success.
fn apply(disk: &dyn Disk, model: &mut Files, stamp: u8, op: &Op) {
    let name = |f: &u8| format!("f{f}");
    match op {
        Op::Create(f) => {
            disk.open(&name(f), CREATE).unwrap();
            model.entry(name(f)).or_default();
        }
        Op::Write(f, at, len) => match (disk.open(&name(f), OpenMode::default()), model.get_mut(&name(f))) {
            (Ok(file), Some(bytes)) => {
                file.write_at(*at as u64, &vec![stamp; *len]).unwrap();
                if *len > 0 {
                    bytes.resize(bytes.len().max(at + len), 0);
                    bytes[*at..at + len].fill(stamp);
                }
            }
            (file, bytes) => assert!(file.is_err() && bytes.is_none()),
        },
        Op::SetLen(f, len) => {
            if let Some(bytes) = model.get_mut(&name(f)) {
                disk.open(&name(f), OpenMode::default()).unwrap().set_len(*len as u64).unwrap();
                bytes.resize(*len, 0);
            }
        }
        Op::Allocate(f, len) => {
            if let Some(bytes) = model.get_mut(&name(f)) {
                disk.open(&name(f), OpenMode::default()).unwrap().allocate(0, *len as u64).unwrap();
                bytes.resize(bytes.len().max(*len), 0);
            }
        }
        Op::Rename(a, b) => {
            assert_eq!(disk.rename(&name(a), &name(b)).is_ok(), model.contains_key(&name(a)));
            if let Some(bytes) = model.remove(&name(a)) {
                model.insert(name(b), bytes);
            }
        }
        Op::Remove(f) => assert_eq!(disk.remove(&name(f)).is_ok(), model.remove(&name(f)).is_some()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_overlay_is_a_plain_model(
        below in prop::collection::vec(op(), 0..15),
        above in prop::collection::vec(op(), 1..30),
    ) {
        let base = MemDisk::new();
        let mut model = Files::new();
        for (i, op) in below.iter().enumerate() {
            apply(&base, &mut model, i as u8 + 1, op);
        }
        prop_assert!(all(&base) == model);
        let before = model.clone();
        let over = OverlayDisk::new(Arc::new(base.clone()));
        for (i, op) in above.iter().enumerate() {
            apply(&over, &mut model, i as u8 + 101, op);
        }
        prop_assert!(all(&over) == model);
        prop_assert!(all(&base) == before);
    }
}
