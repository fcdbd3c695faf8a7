//! Small databases under the checker.
use crate::StepDisk;
use hamal::{Builder, Database};
use hamal_disk::{CrashModel, MemDisk};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// As small as it gets, without threads of its own.
pub fn small() -> Builder {
    Database::builder()
        .page_size(4096)
        .cache_bytes(32 * 4096)
        .log_segment_bytes(64 << 10)
        .log_ring_bytes(256 << 10)
        .log_limit_bytes(8 << 20)
        .checkpoint_log_bytes(256 << 10)
        .version_budget_bytes(4 << 20)
        .lock_timeout(Duration::from_secs(5))
        .database_id([7; 16])
        .background(false)
        .recovery_threads(1)
}

/// A database with one tree of these rows, closed.
pub fn prepared(rows: &[(&str, &str)]) -> MemDisk {
    let disk = MemDisk::new();
    let db = small().create_on(Arc::new(disk.clone())).unwrap();
    let tx = db.begin_write().unwrap();
    let tree = tx.create_tree("t").unwrap();
    rows.iter().for_each(|(k, v)| tree.put(k, v).unwrap());
    tx.commit().unwrap();
    db.close().unwrap();
    disk.crash(CrashModel::KeepAll)
}

/// What a crashed disk holds, after recovery and a check of everything.
pub fn recovered(disk: &MemDisk) -> Rows {
    let db = small().open_on(Arc::new(disk.clone())).unwrap();
    let repairs = db.engine().pool().repairs();
    assert!(repairs.is_empty(), "a torn page without an image where redo looks: {repairs:?}");
    let report = db.verify(&mut |_, _| {}).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    let tx = db.begin_read().unwrap();
    let rows = tx.tree("t").unwrap().iter().map(|r| r.map(|(k, v)| (k.into_vec(), v.into_vec())));
    rows.collect::<hamal::Result<_>>().unwrap()
}

/// That database, opened on a copy of the disk.
pub fn opened(from: &MemDisk) -> (Arc<Database>, StepDisk) {
    let disk = StepDisk::new(from.crash(CrashModel::KeepAll));
    let db = small().open_on(Arc::new(disk.clone())).unwrap();
    (Arc::new(db), disk)
}
