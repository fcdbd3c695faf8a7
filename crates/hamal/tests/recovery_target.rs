//! The target for the time of a recovery bounds the log that one has to read.
mod common;

use common::{bytes, small};
use hamal::disk::MemDisk;
use hamal::{Builder, Durability};
use std::sync::Arc;
use std::time::Duration;

/// The most log since the redo point, in bytes, at any time of a run that logs some 40 MB.
fn most(options: &Builder) -> u64 {
    let db = options.create_on(Arc::new(MemDisk::new())).unwrap();
    let mut most = 0;
    for round in 0..400u64 {
        let tx = db.begin_write().unwrap();
        let t = tx.open_or_create_tree("t").unwrap();
        for n in 0..100 {
            t.put((round * 37 + n * 101).to_be_bytes(), bytes(n, 900)).unwrap();
        }
        tx.commit_with(Durability::Async).unwrap();
        while db.maintenance_step().unwrap() {}
        let s = db.stats();
        most = most.max(s.log_tail - s.redo_point);
    }
    most
}

#[test]
fn the_log_since_the_redo_point_stays_below_the_target() {
    let options = small().cache_bytes(4096 * 4096).log_limit_bytes(256 << 20).checkpoint_log_bytes(64 << 20);
    let free = most(&options);
    // 150 MB/s for a tenth of a second, and what one round logs.
    let bound = 15_000_000 + (1 << 20);
    let bounded = most(&options.recovery_target(Duration::from_millis(100)));
    assert!(free > 2 * bound, "{free}");
    assert!(bounded < bound, "{bounded}");
}
