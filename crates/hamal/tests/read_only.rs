//! Opening for reading only: recovers in memory and changes nothing.
mod common;

use common::{contents, small, verify};
use hamal::ErrorKind;
use std::collections::BTreeMap;
use std::path::Path;

fn fingerprint(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap().chain(std::fs::read_dir(dir.join("wal")).unwrap()) {
        let path = entry.unwrap().path();
        if path.is_file() {
            all.insert(path.display().to_string(), std::fs::read(&path).unwrap());
        }
    }
    all
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.join("wal")).unwrap();
    for name in ["control", "data", "versions"] {
        std::fs::copy(from.join(name), to.join(name)).unwrap();
    }
    for entry in std::fs::read_dir(from.join("wal")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, to.join("wal").join(path.file_name().unwrap())).unwrap();
    }
}

#[test]
fn nothing_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let (path, crashed) = (dir.path().join("db"), dir.path().join("crashed"));
    let db = small().create(&path).unwrap();
    let tx = db.begin_write().unwrap();
    let t = tx.create_tree("t").unwrap();
    t.bulk_load((0..200u32).map(|i| (i.to_be_bytes(), [7; 50]))).unwrap();
    t.put("long", vec![1; 30_000]).unwrap();
    tx.commit().unwrap();
    let expected = contents(&db).unwrap();
    let loser = db.begin_write().unwrap();
    loser.tree("t").unwrap().clear().unwrap();
    let tx = db.begin_write().unwrap();
    tx.create_tree("u").unwrap();
    tx.commit().unwrap();

    // Somebody has it open.
    assert_eq!(small().open_read_only(&path).unwrap_err().kind(), ErrorKind::AlreadyOpen);
    copy(&path, &crashed);
    drop((t, loser)); // handles of trees count as well
    drop(db);

    let before = fingerprint(&crashed);
    let (db, report) = small().open_read_only(&crashed).unwrap();
    assert!(!report.clean);
    assert_eq!(report.losers.len(), 1);
    assert!(db.is_read_only());
    assert_eq!(contents(&db).unwrap()["t"], expected["t"]);
    verify(&db);
    assert_eq!(db.begin_write().unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(db.checkpoint().unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(db.maintenance_step().unwrap_err().kind(), ErrorKind::ReadOnly);
    db.close().unwrap();
    assert_eq!(fingerprint(&crashed), before);

    // With a lock file the lock is held.
    let (db, report) = small().open_read_only(&path).unwrap();
    assert!(report.clean);
    assert_eq!(small().open(&path).unwrap_err().kind(), ErrorKind::AlreadyOpen);
    drop(db);
    drop(small().open(&path).unwrap());
    assert_eq!(small().open_read_only(dir.path().join("none")).unwrap_err().kind(), ErrorKind::NotADatabase);
}
