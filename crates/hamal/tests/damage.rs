//! Damaged directories: an error that says where, or everything recovered; never a panic, never wrong rows.
mod common;

use common::{Contents, bytes, contents, small};
use hamal::disk::{CrashModel, Disk, MemDisk, OpenMode};
use hamal::{Error, ErrorKind};
use std::sync::Arc;

/// A database with rows, overwritten rows and long values, closed cleanly or not; and what may be in it.
fn sample(clean: bool) -> (MemDisk, Vec<Contents>) {
    let disk = MemDisk::new();
    let db = small().create_on(Arc::new(disk.clone())).unwrap();
    let mut states = Vec::new();
    for round in 0..3u64 {
        let tx = db.begin_write().unwrap();
        let t = tx.open_or_create_tree("t").unwrap();
        for i in 0..150u32 {
            t.put(i.to_be_bytes(), bytes(round * 1000 + u64::from(i), 40)).unwrap();
        }
        t.put("long", bytes(round, 20_000)).unwrap();
        tx.commit().unwrap();
        if round == 1 {
            db.flush().unwrap();
            db.checkpoint().unwrap();
        }
        states.push(contents(&db).unwrap());
    }
    if clean {
        db.close().unwrap();
        states.drain(..2);
        return (disk, states);
    }
    // Exactly one group, the last, cannot be proved: damage of it looks like a torn tail.
    (disk.crash(CrashModel::KeepAll), states.split_off(1))
}

fn files(disk: &MemDisk) -> Vec<String> {
    let mut all: Vec<String> = disk.list("").unwrap().into_iter().filter(|n| n != "LOCK").collect();
    all.extend(disk.list("wal").unwrap().into_iter().map(|n| format!("wal/{n}")));
    all.sort();
    all
}

/// Opens and reads everything: an error, or one of the allowed states.
fn judge(disk: MemDisk, states: &[Contents], what: &str) -> Result<(), Error> {
    let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let db = small().open_on(Arc::new(disk))?;
        let found = contents(&db)?;
        let _ = db.verify(&mut |_, _| {});
        for n in 0..8 {
            let _ = db.describe_page(n);
        }
        Ok(found)
    }));
    match read {
        Err(_) => panic!("a panic: {what}"),
        Ok(Ok(found)) => {
            assert!(states.contains(&found), "wrong rows: {what}");
            Ok(())
        }
        Ok(Err(e)) => Err(e),
    }
}

#[test]
fn flipped_bytes() {
    for clean in [true, false] {
        let (disk, states) = sample(clean);
        judge(disk.crash(CrashModel::KeepAll), &states, "nothing").unwrap();
        let (mut errors, mut fine) = (0, 0);
        for name in files(&disk) {
            let len = disk.open(&name, OpenMode::default()).unwrap().len().unwrap();
            // Dense where headers are, then a sample.
            let step = (len / 25).max(1) | 1;
            for at in (0..len.min(64)).step_by(9).chain((64..len).step_by(step as usize)) {
                let copy = disk.crash(CrashModel::KeepAll);
                let file = copy.open(&name, OpenMode::default()).unwrap();
                let mut b = [0];
                file.read_at(at, &mut b).unwrap();
                file.write_at(at, &[b[0] ^ 0x40]).unwrap();
                drop(file);
                match judge(copy, &states, &format!("{name} byte {at}, clean {clean}")) {
                    Ok(()) => fine += 1,
                    Err(e) => {
                        assert!(
                            e.is_corruption()
                                || matches!(
                                    e.kind(),
                                    ErrorKind::NotADatabase | ErrorKind::UnsupportedVersion
                                ),
                            "{name} byte {at}: {e:?}"
                        );
                        errors += 1;
                    }
                }
            }
        }
        assert!(errors > 0 && fine > 0, "{errors} errors, {fine} recovered");
    }
}

#[test]
fn truncated_zeroed_and_missing_files() {
    for clean in [true, false] {
        let (disk, states) = sample(clean);
        for name in files(&disk) {
            let len = disk.open(&name, OpenMode::default()).unwrap().len().unwrap();
            for cut in [0, 1, 511, 4096, len / 2, len.saturating_sub(1)] {
                let copy = disk.crash(CrashModel::KeepAll);
                copy.open(&name, OpenMode::default()).unwrap().set_len(cut).unwrap();
                let _ = judge(copy, &states, &format!("{name} cut to {cut}"));
            }
            for block in (0..len).step_by(4096 * 5) {
                let copy = disk.crash(CrashModel::KeepAll);
                let n = (len - block).min(4096) as usize;
                copy.open(&name, OpenMode::default()).unwrap().write_at(block, &vec![0; n]).unwrap();
                let _ = judge(copy, &states, &format!("{name} zeroed at {block}"));
            }
            let copy = disk.crash(CrashModel::KeepAll);
            copy.remove(&name).unwrap();
            let _ = judge(copy.clone(), &states, &format!("{name} missing"));
            // Nothing is ever made over what is left.
            if name == "control" {
                for open in [
                    small().open_on(Arc::new(copy.clone())),
                    small().open_or_create_on(Arc::new(copy.clone())),
                    small().create_on(Arc::new(copy.clone())),
                ] {
                    let e = open.unwrap_err();
                    assert_eq!(e.kind(), ErrorKind::NotADatabase);
                    assert!(e.to_string().contains("control file is missing"), "{e}");
                }
            }
        }
    }
}

#[test]
fn a_damaged_page_leaves_the_others() {
    let (disk, states) = sample(true);
    let file = disk.open("data", OpenMode::default()).unwrap();
    let pages = file.len().unwrap() / 4096;
    let mut hit = 0;
    for page in 3..pages.min(12) {
        let copy = disk.crash(CrashModel::KeepAll);
        copy.open("data", OpenMode::default()).unwrap().write_at(page * 4096 + 100, &[0xa5; 50]).unwrap();
        let db = small().open_on(Arc::new(copy)).unwrap();
        let Ok(t) = db.begin_read().and_then(|tx| tx.tree("t")) else { continue };
        for (key, value) in &states[0]["t"] {
            match t.get(key) {
                Ok(v) => assert_eq!(v.unwrap(), *value),
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::PageCorrupt, "{e:?}");
                    assert!(e.page().is_some());
                    hit += 1;
                }
            }
        }
    }
    assert!(hit > 0);
}

#[test]
fn other_files_are_left_alone() {
    let disk = MemDisk::new();
    let create = OpenMode { create: true, ..OpenMode::default() };
    disk.open("notes.txt", create).unwrap().write_at(0, b"mine").unwrap();
    assert_eq!(small().open_on(Arc::new(disk.clone())).unwrap_err().kind(), ErrorKind::NotADatabase);
    drop(small().create_on(Arc::new(disk.clone())).unwrap());
    let mut b = [0; 4];
    disk.open("notes.txt", OpenMode::default()).unwrap().read_at(0, &mut b).unwrap();
    assert_eq!(&b, b"mine");

    let foreign = MemDisk::new();
    foreign.open("control", create).unwrap().write_at(0, &[b'x'; 9000]).unwrap();
    assert_eq!(small().open_on(Arc::new(foreign.clone())).unwrap_err().kind(), ErrorKind::NotADatabase);
    assert_eq!(small().create_on(Arc::new(foreign)).unwrap_err().kind(), ErrorKind::AlreadyExists);
}

#[test]
fn files_of_another_database() {
    let (disk, states) = sample(true);
    let other = MemDisk::new();
    drop(small().database_id([9; 16]).create_on(Arc::new(other.clone())).unwrap());
    for name in ["data", "wal/0000000000001000"] {
        let copy = disk.crash(CrashModel::KeepAll);
        let Ok(from) = other.open(name, OpenMode::default()) else { continue };
        let mut all = vec![0; from.len().unwrap() as usize];
        from.read_at(0, &mut all).unwrap();
        let to = copy.open(name, OpenMode { create: true, ..OpenMode::default() }).unwrap();
        to.set_len(0).unwrap();
        to.write_at(0, &all).unwrap();
        drop(to);
        if let Err(e) = judge(copy, &states, name) {
            assert!(e.is_corruption(), "{name}: {e:?}");
        }
    }
}

/// A database that was not closed: its redo point lies some segments below its last checkpoint, in the first there is.
fn long_log(id: [u8; 16]) -> (MemDisk, Contents) {
    let disk = MemDisk::new();
    let db = small().database_id(id).create_on(Arc::new(disk.clone())).unwrap();
    for round in 0..12 {
        let tx = db.begin_write().unwrap();
        let t = tx.open_or_create_tree("t").unwrap();
        t.put("first", "row").unwrap();
        t.put("long", bytes(round, 20_000)).unwrap();
        tx.commit().unwrap();
    }
    db.checkpoint().unwrap();
    let found = contents(&db).unwrap();
    (disk.crash(CrashModel::KeepAll), found)
}

/// A segment of the log that is another database's is called that, also below the checkpoint, where the chain of segments just ends:
/// redo needs what was there.
#[test]
fn a_segment_of_another_database_is_called_that() {
    let ((ours, rows), (theirs, _)) = (long_log([7; 16]), long_log([9; 16]));
    let segments: Vec<_> = files(&ours).into_iter().filter(|n| n.starts_with("wal/0")).collect();
    let mut refused = 0;
    for name in &segments {
        let (copy, from) = (ours.crash(CrashModel::KeepAll), theirs.open(name, OpenMode::default()).unwrap());
        let mut all = vec![0; from.len().unwrap() as usize];
        from.read_at(0, &mut all).unwrap();
        let to = copy.open(name, OpenMode::default()).unwrap();
        to.write_at(0, &all).and_then(|()| to.sync()).unwrap();
        drop(to);
        if let Err(e) = judge(copy, std::slice::from_ref(&rows), name) {
            assert_eq!((e.kind(), e.file()), (ErrorKind::WrongDatabase, Some(name.as_str())), "{e:?}");
            refused += 1;
        }
    }
    assert!(segments.len() > 4 && refused == segments.len(), "{refused} of {segments:?}");
}

/// An open that is refused, because a segment of the log that redo needs has a damaged header or is gone, removes none of the others:
/// once the damage is taken back, everything is there.
#[test]
fn a_refused_open_leaves_the_log_that_is_needed() {
    let (disk, rows) = long_log([7; 16]);
    let segments: Vec<_> = files(&disk).into_iter().filter(|n| n.starts_with("wal/0")).collect();
    let mut refused = 0;
    for name in &segments {
        for removed in [false, true] {
            let copy = disk.crash(CrashModel::KeepAll);
            let file = copy.open(name, OpenMode::default()).unwrap();
            let mut all = vec![0; file.len().unwrap() as usize];
            file.read_at(0, &mut all).unwrap();
            if removed {
                copy.remove(name).unwrap();
            } else {
                file.write_at(9, &[all[9] ^ 1]).and_then(|()| file.sync()).unwrap();
            }
            let Err(e) = judge(copy.clone(), std::slice::from_ref(&rows), name) else { continue };
            assert_eq!(e.kind(), ErrorKind::LogCorrupt, "{e:?}");
            let create = OpenMode { create: removed, ..OpenMode::default() };
            let file = copy.open(name, create).expect("the damaged file stays");
            file.write_at(0, &all).and_then(|()| file.sync()).unwrap();
            judge(copy, std::slice::from_ref(&rows), name).expect("the damage was taken back");
            refused += 1;
        }
    }
    // The newest segment holds nothing yet: it may be gone.
    assert_eq!(refused, 2 * segments.len() - 1);
}

#[test]
fn a_failed_sync_poisons() {
    use hamal::disk::{MemFault, MemOp};
    let disk = MemDisk::new();
    let db = small().create_on(Arc::new(disk.clone())).unwrap();
    let tx = db.begin_write().unwrap();
    tx.create_tree("t").unwrap().put("k", "v").unwrap();
    tx.commit().unwrap();
    let tx = db.begin_write().unwrap();
    tx.tree("t").unwrap().put("k", "w").unwrap();
    disk.inject(MemFault { at: 1, on: MemOp::Sync, once: true });
    assert_eq!(tx.commit().unwrap_err().kind(), ErrorKind::OutcomeUnknown);
    assert_eq!(db.begin_write().unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(db.checkpoint().unwrap_err().kind(), ErrorKind::Poisoned);
    assert!(db.poisoned().is_some());
    let writes = disk.stats().writes;
    drop(db);
    assert_eq!(disk.stats().writes, writes, "nothing is written after that");
    for model in [CrashModel::LoseUnsynced, CrashModel::KeepAll] {
        let db = small().open_on(Arc::new(disk.crash(model))).unwrap();
        let v = db.begin_read().unwrap().tree("t").unwrap().get("k").unwrap().unwrap();
        assert!(v == b"v" || v == b"w");
    }
}

/// An older data file of the same database, put back after a clean close: every page of it is valid, but not the newest.
#[test]
fn an_older_data_file_is_refused() {
    let builder = hamal::Database::builder().page_size(4096);
    for more in [1u64, 2000] {
        let disk = hamal::disk::MemDisk::new();
        let put = |from: u64, n: u64| {
            let db = builder.open_or_create_on(std::sync::Arc::new(disk.clone())).expect("open");
            let tx = db.begin_write().expect("begin");
            let t = tx.open_or_create_tree("t").expect("tree");
            for i in from..from + n {
                t.put(i.to_be_bytes(), [7; 100]).expect("put");
            }
            tx.commit().expect("commit");
            drop((t, db));
        };
        put(0, 100);
        let old = disk.crash(hamal::disk::CrashModel::KeepAll);
        put(100, more);
        // Closed cleanly, and opened again without a change: the witness is carried on.
        builder.open_on(std::sync::Arc::new(disk.clone())).expect("open").close().expect("close");
        let open = |d: &dyn hamal::disk::Disk| d.open("data", Default::default()).expect("data");
        let from = open(&old);
        let mut bytes = vec![0; from.len().expect("len") as usize];
        from.read_at(0, &mut bytes).expect("read");
        let to = open(&disk);
        to.set_len(0).expect("cut");
        to.write_at(0, &bytes).expect("write");
        to.sync().expect("sync");
        let e = builder.open_on(std::sync::Arc::new(disk.clone())).expect_err("refused");
        assert_eq!(e.kind(), hamal::ErrorKind::WrongDatabase, "{e}");
    }
}

/// A space map that cannot be read keeps the file from being cut, and no checkpoint from being taken.
#[test]
fn checkpoints_go_on_without_a_space_map() {
    let disk = MemDisk::new();
    let db = small().create_on(Arc::new(disk.clone())).unwrap();
    let write = |db: &hamal::Database, n: u64| {
        let tx = db.begin_write().unwrap();
        tx.open_or_create_tree("t").unwrap().put("k", bytes(n, 500)).unwrap();
        tx.commit().unwrap();
    };
    write(&db, 0);
    db.close().unwrap();
    let db = small().open_on(Arc::new(disk.clone())).unwrap();
    // Until the log has no image of the map any more.
    for n in 0..1000 {
        write(&db, n);
        if n % 100 == 0 {
            db.flush().unwrap();
            db.checkpoint().unwrap();
        }
    }
    db.engine().pool().evict_page(hamal::PageId(0)).unwrap();
    disk.open("data", OpenMode::default()).unwrap().write_at(1000, &[0xa5; 8]).unwrap();
    assert_eq!(db.engine().space().high_water().unwrap_err().kind(), ErrorKind::PageCorrupt);
    let before = db.stats().redo_point;
    let mut told = false;
    for n in 0..1000 {
        write(&db, n);
        told |= db.maintenance_step().is_err();
    }
    assert!(told);
    let after = db.stats().redo_point;
    assert!(after > before + (256 << 10), "{before} {after}");
}
