//! A full device, and a full log: statements fail with a clear error that is not sticky, every rollback ends and is right,
//! reads go on, and everything works again when there is room. Nothing waits for ever (TXN-RESERVE, TXN-ROOM).
mod common;

use common::{bytes, contents, rows, verify};
use hamal::disk::{CrashModel, MemDisk};
use hamal::{Builder, Database, ErrorKind, Savepoint, WriteTxn};
use std::collections::BTreeMap;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// How long one case may take on a machine that is busy. A rollback that waits for space takes for ever.
const DEADLINE: Duration = Duration::from_secs(300);

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// Runs `f` on a thread; fails, and says what was going on, if it takes too long.
fn in_time(name: String, f: impl FnOnce(&dyn Fn(String)) + Send + 'static) {
    let (done, wait) = mpsc::channel();
    let now = Arc::new(Mutex::new(String::new()));
    let doing = now.clone();
    let thread = std::thread::spawn(move || {
        f(&|what| *doing.lock().unwrap() = what);
        let _ = done.send(());
    });
    match wait.recv_timeout(DEADLINE) {
        Err(mpsc::RecvTimeoutError::Timeout) => {
            panic!("{name}: hangs in {:?}", now.lock().unwrap_or_else(|e| e.into_inner()))
        }
        _ => thread.join().unwrap_or_else(|_| panic!("{name}: failed in {:?}", now.lock())),
    }
}

/// The sizes of a case: the smallest there are, and somewhat larger ones.
fn sizes(r: &mut Random) -> Builder {
    let pad = [512, 512, 4096][r.below(3) as usize];
    let (frames, segment, ring) = match r.below(3) {
        0 => (24, 8 << 10, 64 << 10),
        1 => (24 + r.below(20) as usize, 64 << 10, 64 << 10),
        _ => (64, 16 << 10, 256 << 10),
    };
    Database::builder()
        .page_size(4096)
        .cache_bytes(frames * 4096)
        .log_segment_bytes(segment)
        .log_ring_bytes(ring)
        .log_pad(pad)
        .log_limit_bytes(64 << 20)
        .checkpoint_log_bytes(64 << 10)
        .version_budget_bytes(8 << 20)
        .lock_timeout(Duration::from_millis(200))
        .background(false)
}

/// What a statement or a maintenance call may run into. Nothing of it is sticky.
fn full(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NoSpace | ErrorKind::LogFull)
}

const SLOTS: u64 = 3;

/// A live transaction: what it should see, and a savepoint with what it should see there.
struct Live {
    tx: WriteTxn,
    mine: Rows,
    point: Option<(Savepoint, Rows)>,
}

/// Keys of the slots lie side by side in the same leaves; no two transactions write the same row.
fn key(slot: u64, n: u64) -> Vec<u8> {
    format!("{n:05}-{slot}").into_bytes()
}

struct Case<'a> {
    db: Database,
    r: Random,
    rows: u64,
    committed: Rows,
    live: Vec<Option<Live>>,
    doing: &'a dyn Fn(String),
    refused: u64,
}

impl<'a> Case<'a> {
    fn new(b: &Builder, disk: &MemDisk, mut r: Random, doing: &'a dyn Fn(String)) -> Case<'a> {
        let db = b.create_on(Arc::new(disk.clone())).unwrap();
        let rows = [60, 300, 1500][r.below(3) as usize];
        let tx = db.begin_write().unwrap();
        tx.create_tree("u").unwrap().put(b"row", [0; 100]).unwrap();
        let t = tx.create_tree("t").unwrap();
        let mut committed = Rows::new();
        for n in 0..rows {
            let (k, v) = (key(r.below(SLOTS), n), bytes(r.next(), r.below(120) as usize));
            t.put(&k, &v).unwrap();
            committed.insert(k, v);
        }
        drop(t);
        tx.commit().unwrap();
        Case { db, r, rows, committed, live: (0..SLOTS).map(|_| None).collect(), doing, refused: 0 }
    }

    fn say(&self, what: &str) {
        (self.doing)(what.to_string());
    }

    /// `Ok` or full; anything else is a failure.
    fn may_be_full<T>(&mut self, what: &str, done: hamal::Result<T>) -> Option<T> {
        match done {
            Ok(t) => Some(t),
            Err(e) if full(e.kind()) => {
                self.refused += 1;
                None
            }
            Err(e) => panic!("{what}: {e} {e:?}"),
        }
    }

    fn write(&mut self, slot: usize) {
        if self.live[slot].is_none() {
            let (tx, mine) = (self.db.begin_write().unwrap(), self.committed.clone());
            self.live[slot] = Some(Live { tx, mine, point: None });
        }
        let run = 1 + self.r.below(12);
        let start = self.r.below(self.rows);
        for i in 0..run {
            self.say("a write");
            let n = if run > 6 { start + i } else { self.r.below(self.rows * 2) };
            let k = key(slot as u64, n);
            let value = match self.r.below(12) {
                0..3 => None,
                3 => Some(bytes(self.r.next(), 3000 + self.r.below(9000) as usize)),
                _ => Some(bytes(self.r.next(), self.r.below(400) as usize)),
            };
            let Some(live) = &mut self.live[slot] else { return };
            let done = live.tx.tree("t").and_then(|t| match &value {
                None => t.delete(&k).map(|_| ()),
                Some(v) => t.put(&k, v),
            });
            if done.is_ok() {
                match value {
                    None => live.mine.remove(&k),
                    Some(v) => live.mine.insert(k, v),
                };
            }
            if self.may_be_full("a write", done).is_none() {
                return;
            }
        }
    }

    /// A run of rows, by few records: others' rows come to lie between them, and it is undone in parts.
    fn load(&mut self, slot: usize) {
        if self.live[slot].is_none() {
            let (tx, mine) = (self.db.begin_write().unwrap(), self.committed.clone());
            self.live[slot] = Some(Live { tx, mine, point: None });
        }
        self.say("a load");
        let (start, len) = (self.r.below(self.rows * 2), self.r.below(120) as usize);
        let (rows, step) = (2 + self.r.below(40), 1 + self.r.below(3));
        let seed = self.r.next();
        let row = |i: u64| (key(slot as u64, start + i * step), bytes(seed + i, len));
        let Some(live) = &mut self.live[slot] else { return };
        let point = live.tx.savepoint().unwrap();
        let done = live.tx.tree("t").and_then(|t| t.bulk_load((0..rows).map(row)));
        match &done {
            Ok(n) => {
                assert_eq!(*n, rows);
                live.mine.extend((0..rows).map(row));
            }
            // The rows before the error are there.
            Err(_) => live.tx.rollback_to(&point).unwrap(),
        }
        self.may_be_full("a load", done);
    }

    fn savepoint(&mut self, slot: usize) {
        let Some(live) = &mut self.live[slot] else { return };
        match live.point.take() {
            Some((point, before)) => {
                (self.doing)("a rollback to a savepoint".into());
                live.tx.rollback_to(&point).unwrap();
                live.mine = before;
            }
            None => live.point = Some((live.tx.savepoint().unwrap(), live.mine.clone())),
        }
    }

    fn end(&mut self, slot: usize, how: u64) {
        let Some(live) = self.live[slot].take() else { return };
        match how {
            0 => {
                self.say("a rollback");
                live.tx.rollback().unwrap();
            }
            1 => {
                self.say("a drop");
                drop(live.tx);
            }
            _ => {
                self.say("a commit");
                // Its own rows as it left them, those of others as they are committed now.
                live.tx.commit().unwrap();
                let mine = |k: &Vec<u8>| k.ends_with(format!("-{slot}").as_bytes());
                self.committed.retain(|k, _| !mine(k));
                self.committed.extend(live.mine.into_iter().filter(|(k, _)| mine(k)));
            }
        }
    }

    fn step(&mut self) {
        let slot = self.r.below(SLOTS) as usize;
        match self.r.below(24) {
            0..9 => self.write(slot),
            9..12 => self.load(slot),
            12..15 => self.savepoint(slot),
            15..18 => {
                let how = self.r.below(3);
                self.end(slot, how);
            }
            18..20 => {
                self.say("a checkpoint");
                let done = self.db.checkpoint();
                self.may_be_full("a checkpoint", done);
            }
            20 => {
                self.say("a flush");
                let done = self.db.flush();
                self.may_be_full("a flush", done);
            }
            _ => {
                self.say("maintenance");
                let done = self.db.maintenance_step();
                self.may_be_full("maintenance", done);
            }
        }
        assert!(self.db.poisoned().is_none(), "{:?}", self.db.poisoned());
    }

    /// Others take all the log there is, without new pages.
    fn eat(&mut self) {
        self.say("eating the log");
        // If no transaction holds the log, it is used again and again.
        eat(&self.db, 500);
    }

    fn check(&self, what: &str) {
        self.say(what);
        for live in self.live.iter().flatten() {
            let t = live.tx.tree("t").unwrap();
            for (k, v) in live.mine.iter().step_by(7) {
                let slot = live_slot(k);
                if self.live.get(slot).is_some_and(|l| l.as_ref().is_some_and(|l| std::ptr::eq(l, live))) {
                    assert_eq!(t.get(k).unwrap().as_deref(), Some(&v[..]), "{what}");
                }
            }
        }
        let tx = self.db.begin_read().unwrap();
        let found = rows(&tx.tree("t").unwrap()).unwrap();
        assert!(found == self.committed, "{what}: {} rows, {} expected", found.len(), self.committed.len());
    }
}

/// Changes one row again and again until there is no log left for it, at most so often. Whether there is none.
fn eat(db: &Database, most: u64) -> bool {
    (0..most).any(|n| {
        let tx = db.begin_write().unwrap();
        let put = tx.tree("u").unwrap().put(b"row", bytes(n, 100));
        put.and_then(|()| tx.commit()).is_err()
    })
}

fn live_slot(key: &[u8]) -> usize {
    usize::from(key[key.len() - 1] - b'0')
}

/// A loser, or a clean end, recovered while the device is still full: success, or a clear error, and success once there is
/// room.
fn restart_full(b: &Builder, disk: &MemDisk, expected: &Rows, doing: &dyn Fn(String)) {
    let right = |db: &Database| {
        assert_eq!(contents(db).unwrap()["t"], *expected, "after a restart");
        verify(db);
    };
    let copy = disk.crash(CrashModel::KeepAll);
    for room in [0, 4096, 20_000] {
        copy.set_capacity(Some(copy.used() + room));
        doing(format!("a restart with room for {room} bytes"));
        match b.open_on(Arc::new(copy.clone())) {
            Ok(db) => right(&db),
            Err(e) => assert_eq!(e.kind(), ErrorKind::NoSpace, "{e}"),
        }
    }
    copy.set_capacity(None);
    doing("a restart with room".into());
    let db = b.open_on(Arc::new(copy)).unwrap();
    right(&db);
    db.close().unwrap();
}

fn full_device(seed: u64, doing: &dyn Fn(String)) -> u64 {
    let mut r = Random(seed);
    let b = sizes(&mut r);
    let disk = MemDisk::new();
    let mut case = Case::new(&b, &disk, Random(seed ^ 0xf011), doing);
    for _ in 0..r.below(40) {
        case.step();
    }
    disk.set_capacity(Some(disk.used() + r.below(4) * r.below(3) * 4096));
    let eat = r.below(2) == 0;
    for i in 0..30 + r.below(60) {
        if eat && i % 16 == 0 {
            case.eat();
        }
        case.step();
        if i % 8 == 0 {
            case.check("in between");
        }
    }
    case.check("while it is full");
    if seed.is_multiple_of(2) {
        restart_full(&b, &disk, &case.committed, doing);
    }
    let keep = r.below(2) == 0;
    for slot in 0..SLOTS as usize {
        if !keep {
            let how = r.below(2);
            case.end(slot, how);
        }
    }
    case.check("after all rollbacks");
    disk.set_capacity(None);
    for _ in 0..20 {
        let refused = case.refused;
        case.step();
        assert_eq!(case.refused, refused, "there is room again");
    }
    for slot in 0..SLOTS as usize {
        case.write(slot);
        case.end(slot, 2);
    }
    case.check("with room again");
    verify(&case.db);
    case.say("closing");
    case.db.close().unwrap();
    restart_full(&b, &disk, &case.committed, doing);
    case.refused
}

#[test]
fn every_rollback_ends_on_a_full_device() {
    let (from, to) = match std::env::var("FULL_SEEDS").ok().and_then(|s| s.parse::<u64>().ok()) {
        Some(n) => (1_000, 1_000 + n),
        None => (0, 60),
    };
    let refused = Arc::new(Mutex::new(0));
    for seed in from..to {
        let sum = refused.clone();
        in_time(format!("seed {seed}"), move |doing| {
            let n = full_device(seed, doing);
            *sum.lock().unwrap() += n;
        });
    }
    assert!(*refused.lock().unwrap() > to - from, "the device was full");
}

/// The same, with the log's limit in place of the device's end.
fn full_log(seed: u64, doing: &dyn Fn(String)) -> u64 {
    let mut r = Random(seed);
    let ring = [64 << 10, 256 << 10][r.below(2) as usize];
    let b = sizes(&mut r).log_ring_bytes(ring).log_segment_bytes(16 << 10).log_limit_bytes(4 * ring as u64);
    let b = b.checkpoint_log_bytes(32 << 10);
    let disk = MemDisk::new();
    let db = b.create_on(Arc::new(disk.clone())).unwrap();
    let tx = db.begin_write().unwrap();
    tx.create_tree("t").unwrap();
    tx.commit().unwrap();
    let live = (0..SLOTS).map(|_| None).collect();
    let rows = 300;
    let mut case = Case { db, r, rows, committed: Rows::new(), live, doing, refused: 0 };
    for i in 0..150 {
        case.step();
        if i % 16 == 0 {
            case.check("in between");
        }
    }
    for slot in 0..SLOTS as usize {
        let how = case.r.below(3);
        case.end(slot, how);
    }
    case.check("after all have ended");
    // Nobody holds the log any more.
    let refused = case.refused;
    case.write(0);
    case.end(0, 2);
    assert_eq!(case.refused, refused, "there is room again");
    case.check("with room again");
    verify(&case.db);
    restart_full(&b, &disk, &case.committed, doing);
    case.refused
}

#[test]
fn every_rollback_ends_with_a_full_log() {
    let refused = Arc::new(Mutex::new(0));
    for seed in 0..40 {
        let sum = refused.clone();
        in_time(format!("seed {seed}"), move |doing| {
            let n = full_log(seed, doing);
            *sum.lock().unwrap() += n;
        });
    }
    assert!(*refused.lock().unwrap() > 40, "the log was full");
}

/// The rollback of a transaction that has changed many more pages than the cache holds, each of which was written and
/// checkpointed since, and each of which other work drives out of the cache again: every page needs a new image.
#[test]
fn a_rollback_of_more_pages_than_the_cache_holds() {
    in_time("one transaction".into(), |doing| {
        for (round, spread, partly) in
            [(0, false, false), (1, true, false), (2, true, true), (3, false, true)]
        {
            let b = sizes(&mut Random(0)).cache_bytes(24 * 4096).log_segment_bytes(8 << 10).log_pad(512);
            let disk = MemDisk::new();
            let db = b.create_on(Arc::new(disk.clone())).unwrap();
            let tx = db.begin_write().unwrap();
            tx.create_tree("u").unwrap().put(b"row", [0; 100]).unwrap();
            let t = tx.create_tree("t").unwrap();
            for n in 0..6000 {
                t.put(key(0, n), bytes(n, 100)).unwrap();
            }
            drop(t);
            tx.commit().unwrap();
            let before = contents(&db).unwrap().remove("t");

            doing(format!("updates, round {round}"));
            let tx = db.begin_write().unwrap();
            let t = tx.tree("t").unwrap();
            let mut half = None;
            for first in [0, 1] {
                for n in (first..6000).step_by(20) {
                    t.put(key(0, n), bytes(n + 1, 100)).unwrap();
                }
                if !partly {
                    break;
                }
                half.get_or_insert(tx.savepoint().unwrap());
            }
            drop(t);
            if spread {
                // Another transaction splits every leaf.
                let other = db.begin_write().unwrap();
                let t = other.tree("t").unwrap();
                for n in 0..6000 {
                    t.put(key(1, n), bytes(n, 150)).unwrap();
                }
                drop(t);
                other.commit().unwrap();
            }
            db.flush().unwrap();
            db.checkpoint().unwrap();
            db.checkpoint().unwrap();
            disk.set_capacity(Some(disk.used()));
            assert!(eat(&db, 100_000), "the device is full");
            doing(format!("a rollback, round {round}"));
            if let Some(half) = half {
                tx.rollback_to(&half).unwrap();
                // What the rest of the rollback needs is not given away for these.
                for _ in 0..3 {
                    for done in [db.flush(), db.checkpoint().map(|_| ())] {
                        assert!(done.is_ok() || db.poisoned().is_none());
                    }
                }
                assert!(eat(&db, 100_000), "the device is full");
            }
            tx.rollback().unwrap();
            assert!(db.poisoned().is_none(), "{:?}", db.poisoned());
            let mut after = contents(&db).unwrap().remove("t");
            after.as_mut().unwrap().retain(|k, _| k.ends_with(b"-0"));
            assert!(after == before, "round {round}");
            disk.set_capacity(None);
            db.flush().unwrap();
            verify(&db);
            db.close().unwrap();
        }
    });
}

/// The leaves of a live transaction are moved to other pages, and it makes as many leaves on pages of the numbers that became
/// free: there is an image set aside for each of both.
#[test]
fn a_rollback_on_pages_whose_numbers_it_has_met_before() {
    in_time("one transaction".into(), |doing| {
        let b = sizes(&mut Random(0)).cache_bytes(24 * 4096).log_segment_bytes(8 << 10).log_pad(512);
        let disk = MemDisk::new();
        let db = b.create_on(Arc::new(disk.clone())).unwrap();
        for tree in ["junk", "t"] {
            let tx = db.begin_write().unwrap();
            if tree == "junk" {
                tx.create_tree("u").unwrap().put(b"row", [0; 100]).unwrap();
            }
            let t = tx.create_tree(tree).unwrap();
            for n in 0..800 {
                t.put(key(0, n), bytes(n, 900)).unwrap();
            }
            drop(t);
            tx.commit().unwrap();
        }
        let before = contents(&db).unwrap().remove("t");
        let tx = db.begin_write().unwrap();
        tx.drop_tree("junk").unwrap();
        tx.commit().unwrap();
        while db.maintenance_step().unwrap() {}

        doing("updates".into());
        let tx = db.begin_write().unwrap();
        let t = tx.tree("t").unwrap();
        for n in (0..800).step_by(4) {
            t.put(key(0, n), bytes(n + 1, 900)).unwrap();
        }
        doing("moving".into());
        let report = db.compact(&mut |_| Ok(())).unwrap();
        assert!(report.moved > 100, "{report:?}");
        doing("new rows".into());
        // Few and long ones: what the records of the undo do not take of their space would do for images, too.
        for n in 800..1600 {
            t.put(key(0, n), bytes(n, 900)).unwrap();
        }
        drop(t);
        let high = db.engine().space().high_water().unwrap().0;
        assert!(high < report.pages_after + 220 && report.pages_after < 250, "the numbers are used again");
        db.flush().unwrap();
        db.checkpoint().unwrap();
        db.checkpoint().unwrap();
        disk.set_capacity(Some(disk.used()));
        assert!(eat(&db, 100_000), "the device is full");
        doing("a rollback".into());
        tx.rollback().unwrap();
        assert!(db.poisoned().is_none(), "{:?}", db.poisoned());
        assert!(contents(&db).unwrap().remove("t") == before);
        disk.set_capacity(None);
        db.flush().unwrap();
        verify(&db);
        db.close().unwrap();
    });
}

/// Threads that write, roll back and commit while the device is full and is not, with and without background threads.
#[test]
fn nobody_waits_for_ever_among_threads() {
    for (round, background) in [false, true, true].into_iter().enumerate() {
        in_time(format!("round {round}"), move |doing| {
            let b = sizes(&mut Random(round as u64)).cache_bytes(64 * 4096).background(background);
            let disk = MemDisk::new();
            let db = b.create_on(Arc::new(disk.clone())).unwrap();
            let tx = db.begin_write().unwrap();
            tx.create_tree("t").unwrap();
            tx.commit().unwrap();
            let models: Vec<Rows> = std::thread::scope(|s| {
                let threads: Vec<_> = (0..4)
                    .map(|me| {
                        s.spawn({
                            let db = &db;
                            move || thread(db, me, 60)
                        })
                    })
                    .collect();
                let mut r = Random(99);
                while threads.iter().any(|t| !t.is_finished()) {
                    doing("full".into());
                    disk.set_capacity(Some(disk.used() + r.below(3) * 4096));
                    std::thread::sleep(Duration::from_millis(5));
                    let _ = db.checkpoint();
                    doing("room".into());
                    disk.set_capacity(None);
                    std::thread::sleep(Duration::from_millis(5));
                }
                threads.into_iter().map(|t| t.join().unwrap()).collect()
            });
            doing("the end".into());
            assert!(db.poisoned().is_none(), "{:?}", db.poisoned());
            let all: Rows = models.into_iter().flatten().collect();
            let tx = db.begin_read().unwrap();
            assert!(rows(&tx.tree("t").unwrap()).unwrap() == all);
            drop(tx);
            verify(&db);
            db.close().unwrap();
        });
    }
}

fn thread(db: &Database, me: u64, rounds: u64) -> Rows {
    let mut r = Random(me);
    let mut model = Rows::new();
    for _ in 0..rounds {
        let mut mine = model.clone();
        let tx = db.begin_write().unwrap();
        let t = tx.tree("t").unwrap();
        let mut failed = false;
        for _ in 0..r.below(30) {
            let (k, v) = (key(me, r.below(300)), bytes(r.next(), r.below(500) as usize));
            match t.put(&k, &v) {
                Ok(()) => drop(mine.insert(k, v)),
                Err(e) if full(e.kind()) => failed = true,
                Err(e) => panic!("{e} {e:?}"),
            }
        }
        drop(t);
        match r.below(4) {
            0 => tx.rollback().unwrap(),
            1 => drop(tx),
            _ if failed && r.below(2) == 0 => drop(tx),
            _ => {
                tx.commit().unwrap();
                model = mine;
            }
        }
    }
    model
}

/// TXN-ROOM: the page that a transaction has changed is merged away, and made anew for rows of the same transaction. There are two
/// pages to undo then, and an image is set aside for each.
#[test]
fn a_page_that_is_used_again_is_another_page() {
    let db = Database::builder().page_size(4096).background(false).in_memory().unwrap();
    let engine = db.engine();
    let (pool, image) = (engine.pool(), engine.pool().image_bytes());
    let key = |n: u32| format!("{n:03}");
    // The pages with rows of a transaction.
    let pages_of = |tx: &WriteTxn| {
        let writer = format!(" writer={} ", tx.id());
        let allocated = |n: &u64| engine.space().is_allocated(hamal::PageId(*n)).unwrap();
        let pages = (0..pool.file_pages()).filter(allocated);
        pages.filter(|n| db.describe_page(*n).unwrap().contains(&writer)).collect::<Vec<u64>>()
    };
    let tx = db.begin_write().unwrap();
    let tree = tx.create_tree("t").unwrap();
    (0..40).for_each(|n| tree.put(key(n), [1; 900]).unwrap());
    drop(tree);
    tx.commit().unwrap();
    let tx = db.begin_write().unwrap();
    let tree = tx.tree("t").unwrap();
    (0..40).filter(|n| *n % 10 != 0).for_each(|n| assert!(tree.delete(key(n)).unwrap()));
    drop(tree);
    tx.commit().unwrap();

    let tx = db.begin_write().unwrap();
    let tree = tx.tree("t").unwrap();
    // What is reserved beside the images that dirty pages owe is for undo: for a row far less than an image.
    let reserved = || engine.txns().log().stats().reserved_bytes - image * pool.dirty_pages();
    let mut images = 0;
    let mut put = |n: u32| {
        let was = reserved();
        tree.put(key(n), [2; 900]).unwrap();
        images += reserved().saturating_sub(was) / image;
    };
    put(10);
    let [changed] = pages_of(&tx)[..] else { panic!("more than one page for one row") };
    while db.maintenance_step().unwrap() {}
    assert_ne!(pages_of(&tx), [changed], "the page was to be merged away");
    // Elsewhere in the tree, until it has to split often enough.
    (31..60).for_each(&mut put);
    let pages = pages_of(&tx);
    assert!(pages.contains(&changed), "the page was to be used again: {pages:?}");
    assert!(images >= pages.len() as u64, "{images} images for {pages:?}");
    drop(tree);
    tx.rollback().unwrap();
    assert_eq!(db.begin_read().unwrap().tree("t").unwrap().iter().count(), 4);
    verify(&db);
}
