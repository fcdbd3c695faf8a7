//! Shared by the integration tests.
#![allow(dead_code, reason = "each test uses a part")]
use hamal::{Builder, Database, ReadTree, Result};
use std::collections::BTreeMap;
use std::time::Duration;

/// The rows of all trees.
pub(crate) type Contents = BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>;

/// Who has gone on after less did not go on by the lock time-out of [`small`], however slow the machine.
pub(crate) const PROMPT: Duration = Duration::from_secs(60);

/// A database as small as it gets, without threads and clocks.
pub(crate) fn small() -> Builder {
    Database::builder()
        .page_size(4096)
        .cache_bytes(64 * 4096)
        .log_segment_bytes(64 << 10)
        .log_ring_bytes(256 << 10)
        .log_limit_bytes(8 << 20)
        .checkpoint_log_bytes(256 << 10)
        .version_budget_bytes(4 << 20)
        .lock_timeout(2 * PROMPT)
        .database_id([7; 16])
        .background(false)
}

pub(crate) fn rows(tree: &ReadTree) -> Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    tree.iter().map(|row| row.map(|(k, v)| (k.into_vec(), v.into_vec()))).collect()
}

pub(crate) fn contents(db: &Database) -> Result<Contents> {
    let tx = db.begin_read()?;
    tx.trees()?.into_iter().map(|name| Ok((name.clone(), rows(&tx.tree(&name)?)?))).collect()
}

/// Bytes that depend on a number.
pub(crate) fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x as u8
        })
        .collect()
}

/// Nothing is wrong with the database.
pub(crate) fn verify(db: &Database) {
    let report = db.verify(&mut |_, _| {}).unwrap();
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
}
