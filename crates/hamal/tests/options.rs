//! Every option is checked, and every bound is where the documentation says.
mod common;

use common::small;
use hamal::disk::MemDisk;
use hamal::raw::{ApplyError, Applying, Compensated, PageOps, Record, ResourceManager, UndoCtx};
use hamal::{Builder, Database, ErrorKind, Progress, SyncMethod, TornPages};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

fn refused(b: Builder, name: &str) {
    let e = b.in_memory().unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidOption, "{e}");
    assert!(e.to_string().contains(name), "{e}");
}

fn taken(b: Builder) {
    let db = b.in_memory().unwrap();
    let tx = db.begin_write().unwrap();
    tx.create_tree("t").unwrap().put("k", "v").unwrap();
    tx.commit().unwrap();
    db.close().unwrap();
}

#[test]
fn bounds() {
    for bad in [0, 2048, 4095, 5000, 131_072] {
        refused(small().page_size(bad), "page_size");
    }
    refused(small().cache_bytes(24 * 4096 - 1), "cache_bytes");
    taken(small().cache_bytes(24 * 4096));
    for bad in [0, 4096, (64 << 10) + 512, (1 << 30) + 4096] {
        refused(small().log_limit_bytes(1 << 40).log_segment_bytes(bad), "log_segment_bytes");
    }
    for bad in [0, 16 << 10, (256 << 10) + 1, 2 << 30] {
        refused(small().log_limit_bytes(1 << 40).log_ring_bytes(bad), "log_ring_bytes");
    }
    for (page, least) in [(4096, 32), (8192, 64), (16_384, 128), (32_768, 256), (65_536, 512)] {
        let sized = |ring| small().page_size(page).cache_bytes(24 * page).log_ring_bytes(ring);
        refused(sized(least << 9), "log_ring_bytes");
        taken(sized(least << 10));
    }
    refused(small().log_pad(4096).log_ring_bytes(32 << 10), "log_ring_bytes");
    taken(small().log_pad(4096).log_ring_bytes(64 << 10));
    refused(small().log_limit_bytes((1 << 20) - 1).checkpoint_log_bytes(64 << 10), "log_limit_bytes");
    taken(small().log_limit_bytes(1 << 20));
    let least = small().log_ring_bytes(32 << 10).log_segment_bytes(8 << 10).checkpoint_log_bytes(16 << 10);
    refused(least.clone().log_limit_bytes((256 << 10) - 1), "log_limit_bytes");
    taken(least.log_limit_bytes(256 << 10));
    refused(small().checkpoint_log_bytes((16 << 10) - 1), "checkpoint_log_bytes");
    refused(small().checkpoint_log_bytes((4 << 20) + 1), "checkpoint_log_bytes");
    taken(small().checkpoint_log_bytes(4 << 20));
    refused(small().checkpoint_interval(Duration::from_millis(9)), "checkpoint_interval");
    refused(small().checkpoint_interval(Duration::from_secs(8 * 86_400)), "checkpoint_interval");
    for bad in [0, 256, 513, 8192] {
        refused(small().log_pad(bad), "log_pad");
    }
    refused(small().flush_interval(Duration::from_secs(11)), "flush_interval");
    refused(small().lock_timeout(Duration::from_secs(86_401)), "lock_timeout");
    refused(small().version_budget_bytes(65_535), "version_budget_bytes");
}

#[test]
fn every_option_works() {
    taken(Database::builder().log_segment_bytes(1 << 20));
    taken(
        small().page_size(65_536).cache_bytes(64 * 65_536).log_ring_bytes(4 << 20).log_limit_bytes(64 << 20),
    );
    taken(small().page_size(4096));
    for pad in [512, 1024, 2048, 4096] {
        taken(small().log_pad(pad));
    }
    taken(small().sync_method(SyncMethod::DirectDsync));
    taken(small().torn_pages(TornPages::AtomicWrites));
    taken(small().torn_pages(TornPages::Images { compress: false }));
    taken(small().direct_io(false).check_apply(true));
    taken(small().background(true).flush_interval(Duration::ZERO));
    let events = Arc::new(AtomicUsize::new(0));
    let seen = events.clone();
    taken(small().tracer(Arc::new(move |_: &hamal::Event<'_>| _ = seen.fetch_add(1, SeqCst))));
    assert!(events.load(SeqCst) > 10);
    assert!(format!("{:?}", small()).contains("cache_bytes"));
}

#[test]
fn the_page_size_of_a_database_stays() {
    let disk = MemDisk::new();
    drop(small().create_on(Arc::new(disk.clone())).unwrap());
    let wider = small().page_size(8192).cache_bytes(1 << 20).log_ring_bytes(1 << 20);
    let e = wider.open_on(Arc::new(disk.clone())).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidOption, "{e}");
    assert_eq!(Database::builder().open_on(Arc::new(disk)).unwrap().page_size(), 4096);
}

struct Nothing(&'static str, u32);

impl PageOps for Nothing {
    fn apply(&self, _: &Applying, _: u8, _: &[u8], _: &mut [u8]) -> Result<(), ApplyError> {
        Err(ApplyError("nothing to apply".into()))
    }
}

impl ResourceManager for Nothing {
    fn name(&self) -> &str {
        self.0
    }
    fn version(&self) -> u32 {
        self.1
    }
    fn undo(&self, _: &Record, ctx: UndoCtx<'_>) -> hamal::Result<Compensated> {
        let mut credit = ctx.credit(100, 0)?;
        ctx.compensate(&mut [], &mut credit)
    }
    fn describe(&self, _: u8, _: &[u8], f: &mut dyn std::fmt::Write) -> std::fmt::Result {
        f.write_str("nothing")
    }
}

#[test]
fn resource_managers_are_remembered() {
    let with = |names: &[(&'static str, u32)]| {
        names.iter().fold(small(), |b, (n, v)| b.resource_manager(Arc::new(Nothing(n, *v))))
    };
    refused(with(&[("a", 1), ("a", 1)]), "named");
    refused(with(&[("btree", 1)]), "named");
    refused(with(&[("", 1)]), "name");
    let disk = MemDisk::new();
    let db = small().create_on(Arc::new(disk.clone())).unwrap();
    drop(db);
    let db = with(&[("b", 1), ("a", 2)]).open_on(Arc::new(disk.clone())).unwrap();
    assert_eq!(db.engine().rm_id("b"), Some(hamal::RmId(16)));
    assert_eq!(db.engine().rm_id("a"), Some(hamal::RmId(17)));
    drop(db);
    // Known by name, whatever the order; a newcomer comes behind.
    let db = with(&[("c", 1), ("a", 2), ("b", 1)]).open_on(Arc::new(disk.clone())).unwrap();
    assert_eq!(db.engine().rm_id("b"), Some(hamal::RmId(16)));
    assert_eq!(db.engine().rm_id("c"), Some(hamal::RmId(18)));
    drop(db);
    let before = disk.stats().writes;
    for missing in [with(&[]), with(&[("a", 2), ("b", 1)]), with(&[("a", 1), ("b", 1), ("c", 1)])] {
        let e = missing.open_on(Arc::new(disk.clone())).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::ResourceManager, "{e}");
    }
    assert_eq!(disk.stats().writes, before, "refused before anything is written");
}

#[test]
fn recovery_can_be_stopped() {
    let disk = MemDisk::new();
    let db = small().create_on(Arc::new(disk.clone())).unwrap();
    let tx = db.begin_write().unwrap();
    tx.create_tree("t").unwrap().put("k", "v").unwrap();
    tx.commit().unwrap();
    let crashed = disk.crash(hamal::disk::CrashModel::LoseUnsynced);
    let stop = small().progress(|_: Progress| ControlFlow::Break(()));
    assert_eq!(stop.open_on(Arc::new(crashed.clone())).unwrap_err().kind(), ErrorKind::Cancelled);
    let db = small().progress(|_| ControlFlow::Continue(())).open_on(Arc::new(crashed)).unwrap();
    assert_eq!(db.begin_read().unwrap().tree("t").unwrap().get("k").unwrap().unwrap(), b"v");
    assert!(!db.recovery_report().clean);
}
