//! Versions of the built-in resource managers: an older database becomes one of the present version, a newer one is refused.
use hamal::ErrorKind;
use hamal::disk::{Disk, MemDisk};
use hamal_checkpoint::ControlFile;
use std::sync::Arc;

fn set_versions(disk: &Arc<dyn Disk>, f: impl Fn(u32) -> u32) -> Vec<u32> {
    let mut file = ControlFile::open(disk, false).unwrap();
    let mut control = file.current().clone();
    let before = control.managers.iter().map(|m| m.version).collect();
    control.managers.iter_mut().for_each(|m| m.version = f(m.version));
    file.write(control).unwrap();
    before
}

#[test]
fn an_older_database_is_brought_forward_and_a_newer_one_refused() {
    let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
    let db = hamal::Database::builder().create_on(disk.clone()).unwrap();
    let tx = db.begin_write().unwrap();
    tx.create_tree("t").unwrap().put("a", "1").unwrap();
    tx.commit().unwrap();
    db.close().unwrap();
    let now = set_versions(&disk, |_| 1);
    assert!(now.iter().all(|v| *v > 1), "{now:?}");
    // Reading alone changes nothing.
    drop(hamal::Database::builder().open_read_only_on(disk.clone()).unwrap());
    assert_eq!(set_versions(&disk, |v| v), vec![1; now.len()]);
    let db = hamal::Database::builder().open_on(disk.clone()).unwrap();
    assert_eq!(db.begin_read().unwrap().tree("t").unwrap().get("a").unwrap().as_deref(), Some(&b"1"[..]));
    db.close().unwrap();
    assert_eq!(set_versions(&disk, |v| v + 1), now);
    let e = hamal::Database::builder().open_on(disk.clone()).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::ResourceManager);
    assert!(e.to_string().contains("newer"), "{e}");
    set_versions(&disk, |v| v - 1);
    hamal::Database::builder().open_on(disk).unwrap();
}
