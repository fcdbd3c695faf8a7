//! The oracles against the engine: random histories on a disk in memory, cut by power failures.
use super::ledger::{Ledger, Matrix, Named, Position};
use super::watch::HamalWatch;
use super::{reference, replay};
use crate::engine::Config;
use crate::model::{Contents, Rows};
use crate::op::{key_bytes, value_bytes};
use crate::sim::{Act, Fates, IoFault, Persistence, Question, SimDisk, Site, Wrong};
use hamal::disk::{CrashModel, Disk, DiskFile, DiskLock, MemDisk, OpenMode};
use hamal::{Builder, Database, Durability, Savepoint, WriteTxn};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// Pseudo-random numbers.
pub(super) struct Rng(pub(super) u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// A disk that keeps what power failures at some of its changes would leave.
#[derive(Clone, Debug)]
pub(super) struct CutDisk {
    inner: MemDisk,
    plan: Arc<Mutex<Plan>>,
}

#[derive(Default)]
pub(super) struct Plan {
    rng: u64,
    /// One change in so many is cut; 0: none.
    every: u64,
    cuts: Vec<MemDisk>,
}

impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Plan")
    }
}

impl CutDisk {
    pub(super) fn new(inner: MemDisk, seed: u64, every: u64) -> CutDisk {
        CutDisk { inner, plan: Arc::new(Mutex::new(Plan { rng: seed, every, cuts: Vec::new() })) }
    }
    pub(super) fn cut(&self) -> MemDisk {
        let mut plan = self.plan.lock();
        let mut rng = Rng(plan.rng);
        let torn_sector_bytes = if rng.below(2) == 0 { 512 } else { 4096 };
        let crashed = self.inner.crash(CrashModel::Random { seed: rng.next(), torn_sector_bytes });
        plan.rng = rng.0;
        crashed
    }
    fn tick(&self) {
        let mut plan = self.plan.lock();
        let mut rng = Rng(plan.rng);
        let now = plan.every != 0 && rng.below(plan.every) == 0;
        plan.rng = rng.0;
        drop(plan);
        if now {
            let cut = self.cut();
            self.plan.lock().cuts.push(cut);
        }
    }
    pub(super) fn take(&self) -> Vec<MemDisk> {
        std::mem::take(&mut self.plan.lock().cuts)
    }
}

#[derive(Debug)]
struct CutFile(Arc<dyn DiskFile>, CutDisk);

impl DiskFile for CutFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.1.tick();
        self.0.write_at(offset, buf)
    }
    fn sync(&self) -> io::Result<()> {
        self.1.tick();
        self.0.sync()
    }
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.1.tick();
        self.0.set_len(len)
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.1.tick();
        self.0.allocate(offset, len)
    }
    fn bypasses_cache(&self) -> bool {
        self.0.bypasses_cache()
    }
}

impl Disk for CutDisk {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(CutFile(self.inner.open(name, mode)?, self.clone())))
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.inner.list(dir)
    }
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.inner.create_dir(dir)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.tick();
        self.inner.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.tick();
        self.inner.remove(name)
    }
    fn exists(&self, name: &str) -> io::Result<bool> {
        self.inner.exists(name)
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.tick();
        self.inner.sync_dir(dir)
    }
    fn lock(&self, name: &str) -> io::Result<Box<dyn DiskLock>> {
        self.inner.lock(name)
    }
    fn describe(&self) -> String {
        "a disk that is cut".into()
    }
}

pub(super) fn builder() -> Builder {
    Database::builder()
        .page_size(4096usize)
        .cache_bytes(64 * 4096usize)
        .log_segment_bytes(64u64 << 10)
        .log_ring_bytes(256usize << 10)
        .log_limit_bytes(1u64 << 20)
        .checkpoint_log_bytes(64u64 << 10)
        .background(false)
        .recovery_threads(1)
        .lock_timeout(Duration::ZERO)
        .version_budget_bytes(4usize << 20)
        .database_id([7; 16])
}

pub(super) fn contents(db: &Database) -> Contents {
    let snapshot = db.begin_read().unwrap();
    let mut all = Contents::default();
    for name in snapshot.trees().unwrap() {
        let rows: Rows = snapshot
            .tree(&name)
            .unwrap()
            .iter()
            .map(|row| row.map(|(k, v)| (k.into_vec(), v.into_vec())).unwrap())
            .collect();
        all.trees.insert(name[1..].parse().unwrap(), rows);
    }
    all
}

/// A database that random operations are done to, until the disk is cut.
pub(super) struct History {
    pub(super) rng: Rng,
    pub(super) db: Database,
    open: Vec<(WriteTxn, Vec<Savepoint>)>,
}

impl History {
    pub(super) fn new(seed: u64, db: Database) -> History {
        let tx = db.begin_write().unwrap();
        for t in 0..3 {
            let tree = tx.open_or_create_tree(&format!("t{t}")).unwrap();
            for k in 0..20 {
                tree.put(key_bytes(k), value_bytes(20, k as u8)).unwrap();
            }
        }
        tx.commit().unwrap();
        History { rng: Rng(seed), db, open: Vec::new() }
    }

    fn write(&mut self) {
        let rng = &mut self.rng;
        if self.open.is_empty() || (self.open.len() < 3 && rng.below(6) == 0) {
            self.open.push((self.db.begin_write().unwrap(), Vec::new()));
        }
        let i = rng.below(self.open.len() as u64) as usize;
        let (key, tree) = (rng.below(120) as u32, format!("t{}", rng.below(4)));
        let len = match rng.below(12) {
            0 => rng.below(12_000),
            1..=4 => rng.below(1000),
            _ => rng.below(40),
        } as u32;
        let (what, fill) = (rng.below(20), rng.next() as u8);
        let (tx, savepoints) = &mut self.open[i];
        let done = match what {
            0 => tx.create_tree(&tree).map(drop),
            1 => tx.drop_tree(&tree),
            2 => tx.savepoint().map(|s| savepoints.push(s)),
            3 => match savepoints.pop() {
                Some(s) => tx.rollback_to(&s),
                None => Ok(()),
            },
            4..=7 => tx.tree(&tree).and_then(|t| t.delete(key_bytes(key))).map(drop),
            _ => tx.tree(&tree).and_then(|t| t.put(key_bytes(key), value_bytes(len, fill))),
        };
        let refused = done.is_err();
        let end = self.rng.below(12);
        if refused || end < 2 {
            let (tx, _) = self.open.swap_remove(i);
            if refused || end == 0 {
                tx.rollback().unwrap();
            } else if self.rng.below(3) == 0 {
                drop(tx.commit_with(Durability::Async).unwrap());
            } else {
                tx.commit().unwrap();
            }
        }
    }

    pub(super) fn step(&mut self) {
        match self.rng.below(60) {
            0 => self.db.checkpoint().map(drop).unwrap(),
            1 => self.db.flush().unwrap(),
            2..=4 => drop(self.db.maintenance_step().unwrap()),
            _ => self.write(),
        }
    }
}

/// Runs histories with power failures in the middle of calls, in recovery too, and gives each image to `check`.
pub(super) fn images(cases: u64, mut check: impl FnMut(&MemDisk, &str)) {
    let mut done = 0;
    for seed in 0.. {
        let mut disk = CutDisk::new(MemDisk::new(), seed, 0);
        let mut history = History::new(seed, builder().create_on(Arc::new(disk.clone())).unwrap());
        disk.plan.lock().every = 25;
        for life in 0..4 {
            for _ in 0..history.rng.below(150) {
                history.step();
            }
            drop(history);
            let mut cuts = disk.take();
            cuts.push(disk.cut());
            for (i, cut) in cuts.iter().enumerate() {
                check(cut, &format!("history {seed}, life {life}, cut {i}"));
                done += 1;
            }
            if done >= cases {
                return;
            }
            // Go on from one of them.
            let next = seed as usize % cuts.len();
            disk = CutDisk::new(cuts.swap_remove(next), seed + 7 * life, 25);
            history = History::new(seed + 1000 * life, builder().open_on(Arc::new(disk.clone())).unwrap());
        }
    }
}

fn cases(default: u64) -> u64 {
    std::env::var("ORACLE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

#[test]
fn the_reference_agrees_with_the_engine() {
    let mut all = reference::Facts::default();
    images(cases(600), |disk, what| {
        let base: Arc<dyn Disk> = Arc::new(disk.clone());
        let (found, facts) =
            reference::recover_with_facts(base, &Config::default()).unwrap_or_else(|e| panic!("{what}: {e}"));
        let db = builder().open_on(Arc::new(disk.crash(CrashModel::KeepAll))).unwrap();
        assert_eq!(found.difference(&contents(&db)), None, "{what}: the engine differs from the reference");
        assert_eq!(facts.losers, db.recovery_report().losers.len() as u64, "{what}");
        assert_eq!(facts.log_end, db.recovery_report().log_end.0, "{what}");
        all.torn_tail |= facts.torn_tail;
        all.torn_pages += facts.torn_pages;
        all.losers += facts.losers;
        all.partly_undone += facts.partly_undone;
        all.undone += facts.undone;
    });
    assert!(all.torn_tail && all.torn_pages * all.losers * all.partly_undone * all.undone > 0, "{all:?}");
}

#[test]
fn the_replay_finds_nothing_on_sound_databases() {
    let config = Config::default();
    images(cases(600), |disk, what| {
        // As the crash left it, and after a recovery that was not closed.
        let base: Arc<dyn Disk> = Arc::new(disk.clone());
        assert_eq!(replay::audit(base, &config).unwrap(), [""; 0], "{what}: before recovery");
        let after: Arc<dyn Disk> = Arc::new(disk.crash(CrashModel::KeepAll));
        let db = builder().open_on(after.clone()).unwrap();
        assert_eq!(replay::audit(after.clone(), &config).unwrap(), [""; 0], "{what}: after recovery");
        db.flush().unwrap();
        drop(db);
        assert_eq!(replay::audit(after, &config).unwrap(), [""; 0], "{what}: after a flush");
    });
}

fn watched() -> SimDisk {
    let disk = SimDisk::new(Persistence::Posix);
    disk.set_watch(HamalWatch::new(&Config::default()));
    disk
}

#[test]
fn the_watch_is_silent_while_the_engine_works_and_recovers() {
    for seed in 0..cases(200) / 20 {
        let disk = watched();
        let mut history = History::new(seed, builder().create_on(Arc::new(disk.clone())).unwrap());
        for life in 0..4 {
            for _ in 0..history.rng.below(400) {
                history.step();
            }
            let tx = history.db.begin_write().unwrap();
            tx.open_or_create_tree("t9").unwrap().put("k", [life]).unwrap();
            tx.commit().unwrap();
            disk.acknowledged();
            assert_eq!(disk.objections(), [""; 0], "history {seed}, life {life}");
            drop(history);
            history = History::new(seed + 100, builder().open_on(Arc::new(disk.clone())).unwrap());
        }
    }
}

/// Answers by a hash of question and seed.
struct Hashed(u64);

impl Fates for Hashed {
    fn decide(&mut self, question: Question, options: u8) -> u8 {
        let (kind, a, b) = match question {
            Question::Sector { file, sector } => (0, u64::from(file), sector),
            Question::Length { file } => (1, u64::from(file), 0),
            Question::Name { change } => (2, u64::from(change), 0),
        };
        let mut rng = Rng(self.0 ^ Rng(kind ^ (a << 8) ^ (b << 20)).next());
        rng.below(u64::from(options)) as u8
    }
}

/// All oracles on every state, recovery of which is crashed again.
#[test]
fn all_oracles_agree_on_simulated_power_failures() {
    let config = Config::default();
    let ledger = Ledger::new();
    let builder = || builder().tracer(ledger.clone());
    let mut done = 0;
    for seed in 0.. {
        let model = [Persistence::Posix, Persistence::Ordered, Persistence::Hostile][seed as usize % 3];
        let disk = SimDisk::new(model);
        disk.set_watch(HamalWatch::new(&config));
        let mut history = History::new(seed, builder().create_on(Arc::new(disk.clone())).unwrap());
        let born = disk.points();
        (0..100 + 20 * (seed % 10)).for_each(|_| history.step());
        assert_eq!(disk.objections(), [""; 0], "history {seed}");
        let mut rng = Rng(seed);
        let points = disk.points();
        let mut states: Vec<_> = (0..40)
            .map(|_| {
                let p = born + rng.below((points - born) as u64 + 1) as usize;
                (disk.image(p), rng.next(), format!("history {seed}, {model:?}, point {p}"), 0)
            })
            .collect();
        while let Some((image, fates, what, depth)) = states.pop() {
            ledger.new_state(depth);
            let boot = || SimDisk::boot(&image, Box::new(Hashed(fates)));
            let engine = boot();
            engine.set_watch(HamalWatch::new(&config));
            let db = builder().open_on(Arc::new(engine.clone())).unwrap_or_else(|e| panic!("{what}: {e}"));
            let wrong =
                replay::audit(Arc::new(engine.clone()), &config).unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(wrong, [""; 0], "{what}: replay");
            let there = contents(&db);
            let tx = db.begin_write().unwrap();
            tx.open_or_create_tree("t5").unwrap().put("k", "v").unwrap();
            tx.commit().unwrap();
            engine.acknowledged();
            assert_eq!(engine.objections(), [""; 0], "{what}: order");
            drop(db);
            let (found, facts) = reference::recover_with_facts(Arc::new(boot()), &config)
                .unwrap_or_else(|e| panic!("{what}: {e}"));
            assert_eq!(
                found.difference(&there),
                None,
                "{what}: the engine differs from the reference: {facts:?}"
            );
            ledger.note(Named::OverTorn, facts.torn_pages);
            done += 1;
            if depth < 2 && rng.below(2) == 0 {
                let p = rng.below(engine.points() as u64 + 1) as usize;
                states.push((engine.image(p), rng.next(), format!("{what}, then {p}"), depth + 1));
            }
        }
        if done >= cases(200) {
            // These histories load no runs, so no record is undone in parts.
            let mut never = ledger.zeros();
            never.retain(|name| !name.contains("record undone in part") && !name.contains("within a record"));
            assert!(never.len() < 12, "{never:?}");
            return;
        }
    }
}

fn lie(role: &'static str, act: Act) -> IoFault {
    IoFault { role: Some(role), act, nth: 1, forever: true, what: Wrong::Lie }
}

/// What the watch says of a history on a disk to which `spoil` is done.
fn objections(spoil: impl FnOnce(&SimDisk, &mut History)) -> String {
    let disk = watched();
    let mut history = History::new(5, builder().create_on(Arc::new(disk.clone())).unwrap());
    (0..100).for_each(|_| history.step());
    assert_eq!(disk.objections(), [""; 0]);
    spoil(&disk, &mut history);
    disk.power_off();
    disk.objections().join("\n")
}

#[test]
fn the_watch_objects_to_syncs_that_are_left_out() {
    let said = objections(|disk, history| {
        disk.plan(lie("wal", Act::Sync));
        (0..100).for_each(|_| history.step());
        history.db.checkpoint().unwrap();
        disk.acknowledged();
    });
    for rule in ["LOG-1", "W-3", "CKP-4", "D1"] {
        assert!(said.contains(rule), "{rule}: {said}");
    }
    let said = objections(|disk, history| {
        disk.plan(lie("data", Act::Sync));
        history.db.flush().unwrap();
        history.db.checkpoint().unwrap();
    });
    assert!(said.contains("CKP-3"), "{said}");
    let said = objections(|disk, history| {
        disk.plan(lie("versions", Act::Sync));
        history.db.flush().unwrap();
        history.db.checkpoint().unwrap();
    });
    assert!(said.contains("CKP-7"), "{said}");
    let disk = watched();
    let db = builder().create_on(Arc::new(disk.clone())).unwrap();
    db.checkpoint().unwrap();
    drop(db);
    let db = builder().open_on(Arc::new(disk.clone())).unwrap();
    disk.plan(lie("control", Act::Sync));
    for _ in 0..3 {
        db.checkpoint().unwrap();
    }
    assert!(disk.objections().join("").contains("gets sequence"), "{:?}", disk.objections());

    let disk = watched();
    disk.plan(lie("wal", Act::SyncDir));
    drop(builder().create_on(Arc::new(disk.clone())));
    assert!(disk.objections().join("").contains("LOG-8"), "{:?}", disk.objections());
    let disk = watched();
    disk.plan(lie("other", Act::Sync));
    drop(builder().create_on(Arc::new(disk.clone())));
    assert!(disk.objections().join("").contains("CKP-6"), "{:?}", disk.objections());
}

/// Writes bytes as if the engine did.
fn write(disk: &SimDisk, name: &str, at: u64, bytes: &[u8]) {
    disk.open(name, OpenMode::default()).unwrap().write_at(at, bytes).unwrap();
}
fn read(disk: &SimDisk, name: &str, at: u64, n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    let file = disk.open(name, OpenMode { read_only: true, ..OpenMode::default() }).unwrap();
    assert_eq!(file.read_at(at, &mut bytes).unwrap(), n);
    bytes
}

#[test]
fn the_watch_objects_to_writes_that_come_too_early() {
    let said = objections(|disk, _| write(disk, "wal/0000000000001000", 512, &[1]));
    assert!(said.contains("LOG-8"), "{said}");
    let said = objections(|disk, _| write(disk, "wal/0000000000001000", 4096, &[1; 512]));
    assert!(said.contains("LOG-2"), "{said}");
    let said = objections(|disk, _| disk.remove("wal/0000000000001000").unwrap());
    assert!(said.contains("is released"), "{said}");
    let said = objections(|disk, _| {
        disk.rename("wal/0000000000001000", "wal/free-7").unwrap();
        disk.sync_dir("wal").unwrap();
    });
    assert!(said.contains("is released"), "{said}");
    let page = |lsn: Option<u64>, img: Option<u64>| {
        objections(move |disk, history| {
            history.db.flush().unwrap();
            let mut page = read(disk, "data", 3 * 4096, 4096);
            let put = |page: &mut [u8], at: usize, v: Option<u64>| {
                if let Some(v) = v {
                    page[at..at + 8].copy_from_slice(&v.to_le_bytes());
                }
            };
            put(&mut page, 16, lsn);
            put(&mut page, 24, img);
            write(disk, "data", 3 * 4096, &page);
        })
    };
    assert!(page(Some(1 << 40), None).contains("W-3"));
    assert!(page(None, Some(4096)).contains("W-1"));
    assert!(page(None, None).is_empty());
    // A slot of the control file that says too much.
    let slot = |change: fn(&mut [u8], u64)| {
        objections(move |disk, history| {
            let tx = history.db.begin_write().unwrap();
            tx.open_or_create_tree("t8").unwrap().put("here", "now").unwrap();
            tx.commit().unwrap();
            disk.open("data", OpenMode::default()).unwrap().sync().unwrap();
            let slots = read(disk, "control", 0, 8192);
            let sequence =
                |i: usize| u64::from_le_bytes(slots[4096 * i + 16..4096 * i + 24].try_into().unwrap());
            let newer = usize::from(sequence(1) > sequence(0));
            let mut b = slots[4096 * newer..4096 * (newer + 1)].to_vec();
            b[16..24].copy_from_slice(&(sequence(newer) + 1).to_le_bytes());
            change(&mut b, history.db.engine().log_tail().0);
            let crc = crc32c::crc32c(&b[..4092]);
            b[4092..].copy_from_slice(&crc.to_le_bytes());
            write(disk, "control", 4096 * (1 - newer as u64), &b);
        })
    };
    fn put(b: &mut [u8], at: usize, v: u64) {
        b[at..at + 8].copy_from_slice(&v.to_le_bytes());
    }
    assert_eq!(slot(|_, _| ()), "");
    assert!(slot(|b, _| put(b, 16, 1)).contains("gets sequence"));
    assert!(slot(|b, tail| put(b, 56, tail + 4096)).contains("CKP-4"));
    let said = slot(|b, tail| [48, 56, 64].into_iter().for_each(|at| put(b, at, tail)));
    assert!(said.contains("CKP-2"), "{said}");
    let said = objections(|disk, history| {
        // A transaction that is live, its first record durable, and a slot that gives it up.
        let live = history.db.begin_write().unwrap();
        live.open_or_create_tree("t7").unwrap().put("a", "b").unwrap();
        history.db.flush().unwrap();
        history.db.checkpoint().unwrap();
        let slots = read(disk, "control", 0, 8192);
        let sequence = |i: usize| u64::from_le_bytes(slots[4096 * i + 16..4096 * i + 24].try_into().unwrap());
        let newer = usize::from(sequence(1) > sequence(0));
        let mut b = slots[4096 * newer..4096 * (newer + 1)].to_vec();
        put(&mut b, 16, sequence(newer) + 1);
        b.copy_within(64..72, 72);
        let crc = crc32c::crc32c(&b[..4092]);
        b[4092..].copy_from_slice(&crc.to_le_bytes());
        write(disk, "control", 4096 * (1 - newer as u64), &b);
    });
    assert!(said.contains("has not ended"), "{said}");
}

#[test]
fn the_replay_finds_a_planted_byte() {
    let disk = MemDisk::new();
    let mut history = History::new(3, builder().create_on(Arc::new(disk.clone())).unwrap());
    (0..60).for_each(|_| history.step());
    history.db.flush().unwrap();
    drop(history);
    let config = Config::default();
    let base: Arc<dyn Disk> = Arc::new(disk.clone());
    assert_eq!(replay::audit(base.clone(), &config).unwrap(), [""; 0]);
    let file = base.open("data", OpenMode::default()).unwrap();
    let mut found = 0;
    for page in 0..file.len().unwrap() / 4096 {
        let mut sound = vec![0; 4096];
        file.read_at(page * 4096, &mut sound).unwrap();
        if sound.iter().all(|b| *b == 0) {
            continue;
        }
        // pageLSN, imgLSN, a body byte, the last byte.
        for at in [16, 24, 41, 4095] {
            let mut bad = sound.clone();
            bad[at] ^= 0x40;
            let crc = crc32c::crc32c_append(crc32c::crc32c(&[7; 16]), &page.to_le_bytes());
            let crc = crc32c::crc32c_append(crc, &bad[4..]);
            bad[..4].copy_from_slice(&crc.to_le_bytes());
            file.write_at(page * 4096, &bad).unwrap();
            let said = replay::audit(base.clone(), &config).unwrap();
            assert!(
                said.iter().all(|s| s.starts_with(&format!("page {page}:"))),
                "page {page} byte {at}: {said:?}"
            );
            found += usize::from(!said.is_empty());
        }
        file.write_at(page * 4096, &sound).unwrap();
    }
    assert!(found > 20, "{found}");
}

#[test]
fn the_ledger_counts_and_the_matrix_prints() {
    let ledger = Ledger::new();
    images(cases(100), |disk, _| {
        let nested = CutDisk::new(disk.crash(CrashModel::KeepAll), 1, 10);
        let open = |disk: Arc<dyn Disk>, depth| {
            ledger.new_state(depth);
            drop(builder().tracer(ledger.clone()).open_on(disk).unwrap());
        };
        open(Arc::new(nested.clone()), 0);
        nested.take().into_iter().for_each(|cut| open(Arc::new(cut), 1));
    });
    let counts = ledger.counts();
    let zeros = ledger.zeros();
    for name in [
        "log end: torn tail",
        "redo: applied",
        "undo: compensated",
        "loser, met again after a crash in recovery",
    ] {
        assert!(counts.iter().any(|(n, c)| *n == name && *c > 0), "{name}: {counts:?}");
    }
    assert!(!zeros.contains(&"redo: applied") && zeros.contains(&"rollback to a savepoint"), "{zeros:?}");
    let other = Ledger::new();
    other.merge(&ledger);
    assert_eq!(other.counts(), counts);

    let mut matrix = Matrix::new();
    let site = Site { role: "wal", act: Act::Write };
    let expected = Matrix::expected(1);
    assert_eq!(matrix.zeros(&expected), expected);
    matrix.note(site, "commit", Position::Within, 0);
    matrix.note(site, "commit", Position::Within, 7);
    assert_eq!(matrix.zeros(&expected).len(), expected.len() - 1);
    assert!(matrix.to_table().contains("wal write"), "{}", matrix.to_table());
    assert!(matrix.to_json().starts_with(
        r#"[{"role":"wal","act":"write","kind":"commit","position":"within","depth":0,"count":1},"#
    ));
}
