//! What every disk promises, asked of each of them: the same questions, three (and, for the overlay, two)
//! answers.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::Arc;
use std::thread;

use hamal_disk::{AlignedBuf, Disk, DiskFile, MemDisk, OpenMode, OverlayDisk, PosixDisk, read_exact_at};

const CREATE: OpenMode =
    OpenMode { create: true, create_new: false, read_only: false, direct: false, dsync: false };
const NEW: OpenMode = OpenMode { create_new: true, ..CREATE };
const OPEN: OpenMode = OpenMode { create: false, ..CREATE };
const READ: OpenMode = OpenMode { read_only: true, ..OPEN };

/// Asks `check` of every kind of disk.
fn of_every_disk(check: impl Fn(&dyn Disk)) {
    let dir = tempfile::tempdir().unwrap();
    check(&PosixDisk::create(dir.path().join("new/db")).unwrap());
    check(&MemDisk::new());
    check(&OverlayDisk::new(Arc::new(MemDisk::new())));
    let dir = tempfile::tempdir().unwrap();
    check(&OverlayDisk::new(Arc::new(PosixDisk::open(dir.path()).unwrap())));
}

fn content(file: &dyn DiskFile) -> Vec<u8> {
    let mut buf = vec![0xEE; file.len().unwrap() as usize];
    read_exact_at(file, 0, &mut buf).unwrap();
    buf
}

fn kind<T: std::fmt::Debug>(result: std::io::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

#[test]
fn opening() {
    of_every_disk(|d| {
        assert_eq!(kind(d.open("f", OPEN)), ErrorKind::NotFound);
        assert_eq!(kind(d.open("f", READ)), ErrorKind::NotFound);
        assert!(!d.exists("f").unwrap());
        d.open("f", NEW).unwrap().write_at(0, b"abc").unwrap();
        assert!(d.exists("f").unwrap());
        assert_eq!(kind(d.open("f", NEW)), ErrorKind::AlreadyExists);
        assert_eq!(content(&*d.open("f", CREATE).unwrap()), b"abc", "opening does not truncate");

        let reader = d.open("f", READ).unwrap();
        assert_eq!(content(&*reader), b"abc");
        assert!(reader.write_at(0, b"x").is_err());
        assert!(reader.set_len(0).is_err());
        assert!(reader.allocate(0, 100).is_err());
        assert_eq!(content(&*reader), b"abc");
        assert_eq!(kind(d.open("g", OpenMode { create: true, ..READ })), ErrorKind::InvalidInput);

        assert_eq!(kind(d.open("no/f", CREATE)), ErrorKind::NotFound);
        for bad in ["", "/f", "../f", "a/../f", ".", "..", "a/b/c", "a//b"] {
            assert_eq!(kind(d.open(bad, CREATE)), ErrorKind::InvalidInput, "{bad:?}");
            assert_eq!(kind(d.remove(bad)), ErrorKind::InvalidInput, "{bad:?}");
            assert_eq!(kind(d.rename("f", bad)), ErrorKind::InvalidInput, "{bad:?}");
            assert_eq!(kind(d.lock(bad)), ErrorKind::InvalidInput, "{bad:?}");
        }
        assert_eq!(kind(d.list("..")), ErrorKind::InvalidInput);
        assert_eq!(kind(d.create_dir("/tmp/x")), ErrorKind::InvalidInput);
        assert!(!d.describe().is_empty());
    });
}

#[test]
fn reading_and_writing() {
    of_every_disk(|d| {
        let f = d.open("f", CREATE).unwrap();
        assert!(f.is_empty().unwrap());
        let mut buf = [9; 8];
        assert_eq!(f.read_at(0, &mut buf).unwrap(), 0);
        assert_eq!(f.read_at(1 << 40, &mut buf).unwrap(), 0);
        f.write_at(10, b"hello").unwrap();
        assert_eq!(f.len().unwrap(), 15);
        assert_eq!(content(&*f), b"\0\0\0\0\0\0\0\0\0\0hello");
        assert_eq!(f.read_at(12, &mut buf).unwrap(), 3);
        assert_eq!(&buf[..3], b"llo");
        assert_eq!(kind(read_exact_at(&*f, 12, &mut buf)), ErrorKind::UnexpectedEof);
        f.write_at(1 << 30, b"").unwrap();
        assert_eq!(f.len().unwrap(), 15, "an empty write does not grow the file");

        // Across blocks and chunks.
        let big: Vec<u8> = (0..300_000u32).map(|i| (i * 7 / 3) as u8).collect();
        f.write_at(65_000, &big).unwrap();
        let mut back = vec![0; big.len()];
        read_exact_at(&*f, 65_000, &mut back).unwrap();
        assert!(back == big);
        read_exact_at(&*f, 65_535, &mut back[..2]).unwrap();
        assert_eq!(back[..2], big[535..537]);

        // Two handles are one file.
        let g = d.open("f", OPEN).unwrap();
        g.write_at(0, b"G").unwrap();
        assert_eq!(f.read_at(0, &mut buf[..1]).unwrap(), 1);
        assert_eq!(buf[0], b'G');
        f.sync().unwrap();
        f.drop_cache().unwrap();
        assert!(f.write_at(u64::MAX - 1, b"abc").is_err());
        assert!(f.write_at(i64::MAX as u64, b"abc").is_err());
    });
}

#[test]
fn vectored_writes() {
    of_every_disk(|d| {
        let f = d.open("f", CREATE).unwrap();
        f.write_vectored_at(0, &[]).unwrap();
        f.write_vectored_at(0, &[b"", b""]).unwrap();
        assert_eq!(f.len().unwrap(), 0);
        // More than the system takes at once, with empty ones between.
        let parts: Vec<Vec<u8>> = (0..3000usize).map(|i| vec![i as u8; i % 5]).collect();
        let slices: Vec<&[u8]> = parts.iter().map(|p| &p[..]).collect();
        f.write_vectored_at(3, &slices).unwrap();
        assert_eq!(content(&*f), [vec![0; 3], parts.concat()].concat());
    });
}

#[test]
fn lengths() {
    of_every_disk(|d| {
        let f = d.open("f", CREATE).unwrap();
        f.write_at(0, &[7; 200_000]).unwrap();
        f.set_len(100).unwrap();
        assert_eq!(content(&*f), [7; 100]);
        f.set_len(150_000).unwrap();
        let now = content(&*f);
        assert!(now[..100] == [7; 100] && now[100..].iter().all(|&b| b == 0), "what was cut off stays off");
        f.allocate(149_000, 2_000).unwrap();
        assert_eq!(f.len().unwrap(), 151_000);
        f.allocate(0, 100).unwrap();
        assert_eq!(f.len().unwrap(), 151_000);
        let now = content(&*f);
        assert!(now[..100] == [7; 100] && now[100..].iter().all(|&b| b == 0));
        f.allocate(1 << 20, 0).unwrap();
        assert_eq!(f.len().unwrap(), 151_000);
        assert!(f.allocate(u64::MAX, 2).is_err());
        assert!(f.set_len(u64::MAX).is_err());
    });
}

#[test]
fn names() {
    of_every_disk(|d| {
        let list = |dir: &str| d.list(dir).map(|names| names.into_iter().collect::<BTreeSet<_>>());
        assert_eq!(kind(list("wal")), ErrorKind::NotFound);
        assert_eq!(kind(d.sync_dir("wal")), ErrorKind::NotFound);
        d.create_dir("wal").unwrap();
        d.create_dir("wal").unwrap();
        d.create_dir("").unwrap();
        assert!(!d.exists("wal").unwrap(), "a directory is not a file");
        assert_eq!(kind(d.open("wal", CREATE)), ErrorKind::IsADirectory);
        d.open("wal/1", NEW).unwrap().write_at(0, b"one").unwrap();
        d.open("wal/2", NEW).unwrap().write_at(0, b"two").unwrap();
        d.open("top", NEW).unwrap();
        assert!(d.create_dir("top").is_err());
        assert_eq!(list("").unwrap(), BTreeSet::from(["top".to_owned()]));
        assert_eq!(list("wal").unwrap(), BTreeSet::from(["1".to_owned(), "2".to_owned()]));

        let two = d.open("wal/2", OPEN).unwrap();
        d.rename("wal/1", "wal/2").unwrap();
        assert_eq!(content(&*d.open("wal/2", OPEN).unwrap()), b"one");
        assert_eq!(content(&*two), b"two", "a handle keeps its file");
        assert!(!d.exists("wal/1").unwrap());
        d.rename("wal/2", "two").unwrap();
        d.rename("two", "two").unwrap();
        assert_eq!(content(&*d.open("two", OPEN).unwrap()), b"one");
        assert_eq!(list("wal").unwrap(), BTreeSet::new());
        assert_eq!(kind(d.rename("wal/1", "x")), ErrorKind::NotFound);
        assert_eq!(kind(d.rename("two", "no/x")), ErrorKind::NotFound);

        d.remove("two").unwrap();
        assert_eq!(kind(d.remove("two")), ErrorKind::NotFound);
        assert!(!d.exists("two").unwrap() && !d.exists("no/x").unwrap());
        assert!(d.open("two", NEW).unwrap().is_empty().unwrap(), "a new file of an old name is new");
        d.sync_dir("").unwrap();
        d.sync_dir("wal").unwrap();
    });
}

#[test]
fn locks() {
    of_every_disk(|d| {
        let held = d.lock("LOCK").unwrap();
        assert!(d.exists("LOCK").unwrap());
        assert_eq!(kind(d.lock("LOCK")), ErrorKind::WouldBlock);
        drop(d.lock("OTHER").unwrap());
        assert_eq!(kind(d.lock("LOCK")), ErrorKind::WouldBlock);
        drop(held);
        drop(d.lock("LOCK").unwrap());
    });
}

#[test]
fn two_disks_on_one_directory_share_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (PosixDisk::open(dir.path()).unwrap(), PosixDisk::open(dir.path()).unwrap());
    let held = a.lock("LOCK").unwrap();
    assert_eq!(kind(b.lock("LOCK")), ErrorKind::WouldBlock);
    // An overlay looks at a locked database, and takes nothing from it.
    let over = OverlayDisk::new(Arc::new(b.clone()));
    drop(over.lock("LOCK").unwrap());
    drop(held);
    let kept = over.lock("LOCK").unwrap();
    drop(b.lock("LOCK").unwrap());
    drop(kept);
}

/// A process that we started does not keep the lock after we gave it back or died.
#[test]
fn a_child_does_not_inherit_the_lock() {
    let dir = tempfile::tempdir().unwrap();
    let d = PosixDisk::open(dir.path()).unwrap();
    let held = d.lock("LOCK").unwrap();
    let mut child = std::process::Command::new("sleep").arg("5").spawn().unwrap();
    drop(held);
    let again = d.lock("LOCK");
    child.kill().unwrap();
    child.wait().unwrap();
    again.unwrap();
}

#[test]
fn direct_and_durable_writes() {
    of_every_disk(|d| {
        for (i, (direct, dsync)) in [(true, false), (false, true), (true, true)].into_iter().enumerate() {
            let name = format!("f{i}");
            let f = d.open(&name, OpenMode { direct, dsync, ..NEW }).unwrap();
            let mut buf = AlignedBuf::new(8192);
            buf[..4096].fill(1);
            buf[4096..].fill(2);
            f.write_at(4096, &buf).unwrap();
            f.write_vectored_at(0, &[&buf[4096..], &buf[..512]]).unwrap();
            f.allocate(0, 65_536).unwrap();
            f.sync().unwrap();
            buf.fill(9);
            assert_eq!(f.read_at(4096, &mut buf).unwrap(), 8192);
            assert!(buf[..4096] == [1; 4096] && buf[4096..] == [2; 4096]);
            // The end of the file inside a sector.
            f.set_len(5000).unwrap();
            assert_eq!(f.read_at(4096, &mut buf).unwrap(), 904);
            assert!(buf[..904] == [1; 904]);
            assert_eq!(f.read_at(8192, &mut buf).unwrap(), 0);
            if f.bypasses_cache() {
                assert!(direct);
                assert!(f.write_at(1, &buf[..512]).is_err(), "misaligned");
            }
            let plain = d.open(&name, OPEN).unwrap();
            assert!(!plain.bypasses_cache());
            assert_eq!(content(&*plain)[..4096], [2; 4096]);
        }
    });
}

#[test]
fn many_threads_on_one_file() {
    of_every_disk(|d| {
        let f = d.open("f", CREATE).unwrap();
        thread::scope(|s| {
            for t in 0..4u8 {
                let f = &f;
                s.spawn(move || {
                    let mut back = [0; 1000];
                    for i in 0..50u64 {
                        let at = (i * 4 + u64::from(t)) * 1000;
                        f.write_at(at, &[t + 1; 1000]).unwrap();
                        read_exact_at(&**f, at, &mut back).unwrap();
                        assert_eq!(back, [t + 1; 1000]);
                    }
                });
            }
        });
        let all = content(&*f);
        assert_eq!(all.len(), 200_000);
        assert!(all.chunks(1000).enumerate().all(|(i, c)| c.iter().all(|&b| usize::from(b) == i % 4 + 1)));
    });
}
