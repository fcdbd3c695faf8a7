//! Free space over a real pool and log on an in-memory disk.
use hamal_buffer::{PageEdit, Pool, PoolOptions, Stop};
use hamal_disk::{Disk, MemDisk, OpenMode};
use hamal_error::{ErrorKind, Poison, Result};
use hamal_log::{Log, LogIdentity, LogOptions, Whole};
use hamal_page::{DbId, Lsn, PageId};
use hamal_space::{OP_CLEAR, OP_SET, SPACE_RM, Space, SpaceManager, map_of, pages_per_map};
use hamal_trace::{Trace, WriteReason};
use hamal_txn::{Registry, TxnManager, TxnOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

const PAGE: usize = 4096;

struct Db {
    disk: Arc<MemDisk>,
    txns: Arc<TxnManager>,
    space: Space,
}

fn open_over(disk: Arc<MemDisk>, log: Arc<Log>) -> Db {
    let data = disk.open("data", OpenMode { create: true, ..OpenMode::default() }).unwrap();
    let mut registry = Registry::new();
    registry.add(SPACE_RM, Arc::new(SpaceManager));
    let options = PoolOptions {
        page_size: PAGE,
        frames: 128,
        images: true,
        compress_images: true,
        image_share_bytes: 64 << 20,
        batch_pages: 64,
        check_apply: true,
    };
    let pool = Pool::new(options, data, log, registry.managers(), Trace::silent()).unwrap();
    let options = TxnOptions { lock_timeout: Duration::from_secs(120), version_budget: 1 << 20 };
    let txns = TxnManager::new(Arc::new(pool), registry, options, Trace::silent());
    Db { disk, space: Space::new(txns.clone()), txns }
}

fn create() -> Db {
    let disk = Arc::new(MemDisk::new());
    disk.create_dir("wal").unwrap();
    let identity = LogIdentity { db: DbId([7; 16]), timeline: 1 };
    let log = Log::create(
        disk.clone(),
        LogOptions::default(),
        identity,
        Log::FIRST,
        Arc::new(Poison::new()),
        Trace::silent(),
    )
    .unwrap();
    let db = open_over(disk, Arc::new(log));
    db.space.bootstrap(3).unwrap();
    db
}

impl Db {
    /// The same log, a new pool over what is on disk.
    fn reload(self) -> Db {
        let pool = self.txns.pool();
        pool.flush_all(WriteReason::Asked).unwrap();
        pool.sync_data().unwrap();
        let log = pool.log().clone();
        open_over(self.disk, log)
    }

    /// One record that changes the bits of pages. Latches for itself.
    fn log_bits(&self, op: u8, pages: &[PageId]) {
        let mut credit = self.txns.pool().credit(4096 + 8 * pages.len() as u64, 0, 8, false).unwrap();
        let _pins = self.space.pin_maps(pages).unwrap();
        let mut maps = self.space.latch_maps(pages).unwrap();
        let mut edits: Vec<_> =
            maps.iter_mut().map(|(page, payload)| PageEdit { page, op, whole: Whole::No, payload }).collect();
        self.txns.structure(None, SPACE_RM, &mut edits, &mut credit).unwrap();
    }

    fn allocate(&self, n: usize) -> Result<Vec<PageId>> {
        let r = self.space.reserve(n)?;
        let pages = r.pages().to_vec();
        self.log_bits(OP_SET, &pages);
        r.allocated(n);
        Ok(pages)
    }

    fn free(&self, pages: &[PageId]) {
        self.log_bits(OP_CLEAR, pages);
        self.space.freed(pages);
    }

    fn allocated(&self) -> BTreeSet<PageId> {
        let mut set = BTreeSet::new();
        self.space
            .each_allocated(&mut |p| {
                assert!(set.insert(p));
                Ok(())
            })
            .unwrap();
        set
    }
}

fn ids(pages: &[PageId]) -> Vec<u64> {
    pages.iter().map(|p| p.0).collect()
}

/// A small deterministic generator.
struct Rng(u64);
impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n.max(1) as u64) as usize
    }
}

#[test]
fn a_new_database_has_its_first_pages() {
    let db = create();
    assert_eq!(db.allocated(), [0, 1, 2].map(PageId).into());
    assert_eq!(db.space.usage().unwrap().0, 3);
    assert_eq!(db.space.high_water().unwrap(), PageId(3));
    assert!(db.space.is_allocated(PageId(2)).unwrap());
    assert!(!db.space.is_allocated(PageId(3)).unwrap());
    assert!(!db.space.is_allocated(PageId(1 << 40)).unwrap());
    assert_eq!(db.space.reserve(0).unwrap().pages(), []);
}

#[test]
fn lowest_first() {
    let db = create();
    assert_eq!(ids(&db.allocate(5).unwrap()), [3, 4, 5, 6, 7]);
    db.free(&[PageId(4), PageId(6)]);
    let a = db.space.reserve(1).unwrap();
    let b = db.space.reserve(2).unwrap();
    assert_eq!((ids(a.pages()), ids(b.pages())), (vec![4], vec![6, 8]));
    drop(a);
    let c = db.space.reserve(2).unwrap();
    assert_eq!(ids(c.pages()), [4, 9]);
    // Of two pages one is used: the other is free again.
    db.log_bits(OP_SET, &[PageId(4)]);
    c.allocated(1);
    drop(b);
    assert_eq!(ids(&db.allocate(3).unwrap()), [6, 8, 9]);
    assert_eq!(db.space.usage().unwrap().0, 11 - 1);
}

#[test]
fn pages_named_twice_and_map_pages_are_refused() {
    let db = create();
    for bad in [vec![PageId(3), PageId(3)], vec![PageId(0)]] {
        match db.space.latch_maps(&bad) {
            Err(Stop::Error(e)) => assert_eq!(e.kind(), ErrorKind::Internal),
            other => panic!("{other:?}"),
        }
    }
    assert!(db.space.bootstrap(u32::MAX).is_err());
}

#[test]
fn a_second_map_page() {
    let db = create();
    let per_map = pages_per_map(PAGE);
    let mut left = per_map - 3;
    while left > 5 {
        let n = (left - 5).min(2000);
        assert_eq!(db.allocate(n as usize).unwrap().len() as u64, n);
        left -= n;
    }
    // Across the border, with a map page made on the way.
    let r = db.space.reserve(8).unwrap();
    let want: Vec<u64> = (per_map - 5..per_map).chain(per_map + 1..per_map + 4).collect();
    assert_eq!(ids(r.pages()), want);
    let pages = r.pages().to_vec();
    db.log_bits(OP_SET, &pages);
    r.allocated(8);
    assert_eq!(db.space.usage().unwrap().0, per_map + 4);
    assert_eq!(db.space.high_water().unwrap(), PageId(per_map + 4));
    assert_eq!(map_of(PageId(per_map + 3), PAGE), (PageId(per_map), 3));
    // The lower map page first.
    db.free(&[PageId(100), PageId(per_map + 1)]);
    assert_eq!(ids(&db.allocate(2).unwrap()), [100, per_map + 1]);

    let before = db.allocated();
    let db = db.reload();
    assert_eq!(db.allocated(), before);
    assert_eq!(ids(&db.allocate(1).unwrap()), [per_map + 4]);
}

/// A database with `n` allocated pages behind the second map page, which are returned.
fn beyond_the_border(db: &Db, n: usize) -> Vec<PageId> {
    // What is reserved cannot be given away, so nothing has to be allocated below.
    let below = db.space.reserve(pages_per_map(PAGE) as usize - 3).unwrap();
    let pages = db.allocate(n).unwrap();
    drop(below);
    pages
}

#[test]
fn a_map_page_of_free_pages_is_given_up_and_comes_again() {
    let db = create();
    let per_map = pages_per_map(PAGE);
    for round in 0..3 {
        let pages = beyond_the_border(&db, 4);
        assert_eq!(ids(&pages), (per_map + 1..per_map + 5).collect::<Vec<_>>(), "round {round}");
        assert_eq!(db.space.shrink(None).unwrap(), per_map + 5);
        db.free(&pages[1..]);
        assert_eq!(db.space.shrink(None).unwrap(), per_map + 2);
        db.free(&pages[..1]);
        assert_eq!(db.space.high_water().unwrap(), PageId(3));
        // One page there is reserved: it may be allocated next.
        let below = db.space.reserve(per_map as usize - 3).unwrap();
        let above = db.space.reserve(1).unwrap();
        drop(below);
        assert_eq!((ids(above.pages()), db.space.shrink(None).unwrap()), (vec![per_map + 1], per_map + 2));
        assert_eq!(db.space.usage().unwrap(), (3 + 1, per_map + 2));
        drop(above);
        assert_eq!(db.space.shrink(None).unwrap(), 3);
        assert_eq!(db.space.usage().unwrap(), (3, 3));
        assert_eq!(db.allocated(), [0, 1, 2].map(PageId).into());
        assert!(!db.space.is_allocated(PageId(per_map)).unwrap());
    }
    let db = db.reload();
    assert_eq!(db.allocated(), [0, 1, 2].map(PageId).into());
    assert_eq!(ids(&beyond_the_border(&db, 1)), [per_map + 1]);
    let db = db.reload();
    assert_eq!(db.allocated(), [0, 1, 2, per_map, per_map + 1].map(PageId).into());
}

/// Several at once; those below a page that is in use stay.
#[test]
fn map_pages_are_given_up_from_the_end() {
    let db = create();
    let per_map = pages_per_map(PAGE);
    let below = db.space.reserve(3 * per_map as usize).unwrap();
    let last = db.allocate(1).unwrap();
    drop(below);
    assert_eq!(db.space.usage().unwrap().0, 3 + 3 + 1);
    let below = db.space.reserve(per_map as usize).unwrap();
    let middle = db.allocate(1).unwrap();
    drop(below);
    assert_eq!((last[0].0 / per_map, middle[0].0 / per_map), (3, 1));
    db.free(&last);
    assert_eq!(db.space.shrink(None).unwrap(), middle[0].0 + 1);
    assert_eq!(db.space.usage().unwrap().0, 3 + 1 + 1);
    let again = db.space.reserve(3 * per_map as usize).unwrap();
    assert_eq!(db.space.usage().unwrap().0, 3 + 3 + 1);
    drop(again);
    db.free(&middle);
    assert_eq!(db.space.shrink(None).unwrap(), 3);
    assert_eq!(db.reload().allocated(), [0, 1, 2].map(PageId).into());
}

/// Without log space for the record the map page stays, and what lies behind it goes.
#[test]
fn a_map_page_that_cannot_be_given_up_stays() {
    let db = create();
    let per_map = pages_per_map(PAGE);
    let pages = beyond_the_border(&db, 9);
    db.free(&pages);
    let log = db.txns.log();
    log.force(log.tail(), hamal_trace::ForceReason::Asked).unwrap();
    db.disk.set_capacity(Some(db.disk.used()));
    // Others hold all of the log's space.
    while log.reserve(4096, false).is_ok() {}
    assert_eq!(
        db.space.shrink(Some((Lsn::NULL, Lsn(log.tail().0 - 1)))).unwrap_err().kind(),
        ErrorKind::NoSpace
    );
    assert_eq!(db.txns.pool().file_pages(), per_map + 1);
    assert_eq!(db.space.usage().unwrap().0, 3 + 1);
    db.disk.set_capacity(None);
    assert_eq!(db.space.shrink(None).unwrap(), 3);
}

/// Whoever looks at the maps while they come and go meets none that is none (SPACE-6).
#[test]
fn readers_meet_no_map_page_that_was_given_up() {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
    let db = create();
    let per_map = pages_per_map(PAGE);
    let stop = AtomicBool::new(false);
    /// The others end with it, also if it panics.
    struct Stopper<'a>(&'a AtomicBool);
    impl Drop for Stopper<'_> {
        fn drop(&mut self) {
            self.0.store(true, Relaxed);
        }
    }
    std::thread::scope(|s| {
        let (db, stop) = (&db, &stop);
        let end = s.spawn(move || {
            let _stop = Stopper(stop);
            for _ in 0..40 {
                let pages = beyond_the_border(db, 2);
                assert!(pages.iter().all(|p| p.0 > per_map));
                db.free(&pages);
                db.space.shrink(None).unwrap();
            }
        });
        s.spawn(move || {
            while !stop.load(Relaxed) {
                let used = db.space.usage().unwrap().0;
                assert!((3..=6).contains(&used), "{used}");
                let high = db.space.high_water().unwrap().0;
                assert!(high == 3 || high > per_map + 1, "{high}");
            }
        });
        s.spawn(move || {
            while !stop.load(Relaxed) {
                let all = db.allocated();
                assert!((3..=6).contains(&all.len()), "{all:?}");
                assert!(db.space.is_allocated(PageId(2)).unwrap());
                db.space.is_allocated(PageId(per_map + 1)).unwrap();
            }
        });
        s.spawn(move || {
            while !stop.load(Relaxed) {
                db.space.shrink(None).unwrap();
            }
        });
        end.join().unwrap();
    });
    assert_eq!(db.allocated(), [0, 1, 2].map(PageId).into());
}

#[test]
fn a_full_device_is_not_sticky() {
    let db = create();
    let used = db.disk.used();
    db.disk.set_capacity(Some(used));
    let room = db.txns.pool().file_pages();
    let err = db.space.reserve(room as usize).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NoSpace);
    // Nothing stayed reserved.
    assert_eq!(ids(db.space.reserve(2).unwrap().pages()), [3, 4]);
    db.disk.set_capacity(None);
    assert_eq!(db.space.reserve(room as usize).unwrap().pages().len() as u64, room);
}

#[test]
fn shrinking_spares_what_is_reserved() {
    let db = create();
    let pages = db.allocate(600).unwrap();
    let reserved = db.space.reserve(3).unwrap();
    db.free(&pages[10..]);
    assert_eq!(db.space.shrink(None).unwrap(), reserved.pages()[2].0 + 1);
    drop(reserved);
    assert_eq!(db.space.shrink(None).unwrap(), 13);
    assert_eq!(ids(&db.allocate(2).unwrap()), [13, 14]);
    assert!(db.txns.pool().file_pages() >= 15);
}

/// SPACE-5: a newer checkpoint than the one that is known may have asked for the length already. What was logged before the cut need
/// not be enough to say then that the file may be shorter: a record of its own is.
#[test]
fn a_cut_behind_an_unknown_checkpoint_has_a_record_of_its_own() {
    for newer in [false, true] {
        let db = create();
        let pages = db.allocate(600).unwrap();
        let (pool, log) = (db.txns.pool(), db.txns.log());
        let begin = log.tail();
        pool.publish_checkpoint(begin);
        db.free(&pages[10..]);
        if newer {
            pool.publish_checkpoint(log.tail());
        }
        db.free(&pages[9..10]);
        let end = log.tail();
        db.free(&pages[8..9]);
        let records = log.stats().records;
        assert_eq!(db.space.shrink(Some((begin, end))).unwrap(), 11);
        assert_eq!(log.stats().records - records, u64::from(newer));
    }
}

#[test]
fn a_model_agrees_after_reload() {
    let mut rng = Rng(42);
    let mut db = create();
    let mut model: BTreeSet<PageId> = [0, 1, 2].map(PageId).into();
    for round in 0..300 {
        if rng.below(3) > 0 {
            let n = 1 + rng.below(40);
            let lowest: Vec<PageId> = (1..).map(PageId).filter(|p| !model.contains(p)).take(n).collect();
            assert_eq!(db.allocate(n).unwrap(), lowest);
            model.extend(lowest);
        } else {
            let all: Vec<PageId> = model.iter().copied().skip(1).collect();
            let pages: BTreeSet<PageId> = (0..rng.below(60)).map(|_| all[rng.below(all.len())]).collect();
            let pages: Vec<PageId> = pages.into_iter().collect();
            db.free(&pages);
            model.retain(|p| !pages.contains(p));
        }
        if round % 60 == 59 {
            db = db.reload();
            assert_eq!(db.allocated(), model);
            assert_eq!(db.space.usage().unwrap().0, model.len() as u64);
            assert_eq!(db.space.high_water().unwrap().0, model.last().map_or(0, |p| p.0 + 1));
        }
    }
}

#[test]
fn threads_never_share_a_page() {
    let db = create();
    // Who owns which page; a page must be without an owner when it is reserved.
    let owners: Mutex<BTreeMap<PageId, usize>> = Mutex::default();
    std::thread::scope(|s| {
        for me in 0..4 {
            let (db, owners) = (&db, &owners);
            s.spawn(move || {
                let mut rng = Rng(me as u64 + 1);
                let mut mine: Vec<PageId> = Vec::new();
                for _ in 0..400 {
                    let n = 1 + rng.below(6);
                    let r = db.space.reserve(n).unwrap();
                    let pages = r.pages().to_vec();
                    for p in &pages {
                        assert_eq!(owners.lock().unwrap().insert(*p, me), None, "page {p} given twice");
                    }
                    let used = rng.below(n + 1);
                    if used > 0 {
                        db.log_bits(OP_SET, &pages[..used]);
                    }
                    for p in &pages[used..] {
                        owners.lock().unwrap().remove(p);
                    }
                    mine.extend(&pages[..used]);
                    if used == 0 {
                        drop(r)
                    } else {
                        r.allocated(used)
                    }
                    if rng.below(3) == 0 && !mine.is_empty() {
                        let free: Vec<PageId> = mine.split_off(mine.len() - 1 - rng.below(mine.len().min(8)));
                        for p in &free {
                            assert_eq!(owners.lock().unwrap().remove(p), Some(me));
                        }
                        db.free(&free);
                    }
                }
            });
        }
    });
    let mut want: BTreeSet<PageId> = owners.into_inner().unwrap().into_keys().collect();
    want.extend([0, 1, 2].map(PageId));
    assert_eq!(db.allocated(), want);
    assert_eq!(db.reload().allocated(), want);
}
