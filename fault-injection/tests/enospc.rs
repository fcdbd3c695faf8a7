//! A full disk, on a small tmpfs: the statement fails, rollback works, space is freed, work goes on (promise D8).

use hamal::{Database, Error, ErrorKind};
use std::ffi::CString;
use std::path::{Path, PathBuf};

/// A tmpfs of `mib` MiB, unmounted on drop.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, mib: u32) -> Result<SmallDisk, std::io::Error> {
        std::fs::create_dir_all(at)?;
        let text = |s: &str| CString::new(s).expect("no zero bytes");
        let (target, options) = (text(&at.to_string_lossy()), text(&format!("size={mib}m")));
        let tmpfs = text("tmpfs");
        // SAFETY: mount(2) reads the five zero-terminated strings, which live across the call, and keeps none.
        let rc = unsafe {
            libc::mount(tmpfs.as_ptr(), target.as_ptr(), tmpfs.as_ptr(), 0, options.as_ptr().cast())
        };
        if rc == 0 { Ok(SmallDisk(at.to_path_buf())) } else { Err(std::io::Error::last_os_error()) }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let target = CString::new(self.0.to_string_lossy().as_bytes()).expect("no zero bytes");
        // SAFETY: umount2(2) reads one zero-terminated string.
        unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
    }
}

fn is_full(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::NoSpace | ErrorKind::LogFull)
}

#[test]
fn a_full_disk_fails_the_statement_and_nothing_else() {
    let dir = tempfile::tempdir().expect("tempdir");
    let disk = match SmallDisk::mount(&dir.path().join("small"), 8) {
        Ok(d) => d,
        Err(e) => {
            println!("skipped: mounting a tmpfs needs root ({e})");
            return;
        }
    };
    let builder = Database::builder()
        .page_size(4096)
        .cache_bytes(64 * 4096)
        .log_segment_bytes(256 << 10)
        .checkpoint_log_bytes(512 << 10)
        .log_limit_bytes(64 << 20);
    let path = disk.0.join("db");
    let db = builder.create(&path).expect("create");
    {
        let tx = db.begin_write().expect("begin");
        tx.create_tree("t").expect("tree").insert(b"first", b"kept").expect("insert");
        tx.commit().expect("commit");
    }
    let value = vec![7u8; 900];
    let mut committed = 0u64;
    let mut refused = 0;
    // Fill the disk: some statement must fail, its transaction must roll back, and what was committed stays.
    while refused < 3 {
        assert!(committed < 100_000, "an 8 MiB disk took {committed} transactions of 9 KiB");
        let tx = db.begin_write().expect("begin");
        let t = tx.tree("t").expect("tree");
        let failed = (0..10u64).find_map(|i| t.insert((committed * 10 + i).to_be_bytes(), &value).err());
        match failed {
            Some(e) => {
                assert!(is_full(&e), "{e:?}");
                tx.rollback().expect("rollback on a full disk");
                refused += 1;
            }
            None => match tx.commit() {
                Ok(_) => committed += 1,
                Err(e) => panic!("a commit may not fail for want of space: {e:?}"),
            },
        }
    }
    assert!(committed > 10, "{committed}");
    let read = db.begin_read().expect("read");
    let t = read.tree("t").expect("tree");
    assert_eq!(t.get(b"first").expect("get").as_deref(), Some(&b"kept"[..]));
    assert_eq!(t.len().expect("len"), committed * 10 + 1);
    drop((t, read));

    // Removing rows gives pages back; afterwards inserts work again. Removal itself needs log space, which a checkpoint
    // recycles.
    let mut removed = 0;
    for n in 0..committed / 2 {
        let tx = db.begin_write().expect("begin");
        let t = tx.tree("t").expect("tree");
        let failed = (0..10u64).find_map(|i| t.remove((n * 10 + i).to_be_bytes()).err());
        match failed {
            None => {
                tx.commit().expect("commit");
                removed += 10;
            }
            Some(e) => {
                assert!(is_full(&e), "{e:?}");
                tx.rollback().expect("rollback");
                db.maintenance_step().expect("maintenance");
                db.checkpoint().expect("checkpoint");
            }
        }
    }
    assert!(removed > 0, "nothing could be removed on a full disk");
    let mut inserted = 0;
    for attempt in 0..200 {
        let tx = db.begin_write().expect("begin");
        let result = tx.tree("t").expect("tree").insert(format!("again {attempt}").as_bytes(), &value);
        match result {
            Ok(_) => {
                tx.commit().expect("commit");
                inserted += 1;
                if inserted == 5 {
                    break;
                }
            }
            Err(e) => {
                assert!(is_full(&e), "{e:?}");
                tx.rollback().expect("rollback");
                db.maintenance_step().expect("maintenance");
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }
    assert_eq!(inserted, 5, "work must go on when space was freed");
    db.close().expect("close");
    let db = builder.open(&path).expect("reopen");
    let report = db.verify(&mut |_, _| {}).expect("verify");
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    let read = db.begin_read().expect("read");
    assert_eq!(read.tree("t").expect("tree").len().expect("len"), committed * 10 + 1 - removed + 5);
}
