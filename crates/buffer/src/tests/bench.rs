//! A pool on a disk in memory, a toy resource manager, and a reference redo.
use super::Step;
use crate::*;
use hamal_disk::{CrashModel, Disk, MemDisk, OpenMode};
use hamal_error::{Poison, Result};
use hamal_log::*;
use hamal_page::*;
use hamal_trace::{ForceReason, Trace, WriteReason};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::*};

pub(crate) const SIZE: usize = 4096;
pub(crate) const RM: RmId = RmId(3);
pub(crate) const ID: LogIdentity = LogIdentity { db: DbId([9; 16]), timeline: 1 };

/// Operations of the toy manager.
pub(crate) const ADD: u8 = 1;
pub(crate) const PUT: u8 = 2;
pub(crate) const FAIL: u8 = 3;
pub(crate) const MOODY: u8 = 4;
pub(crate) const NOSY: u8 = 5;
pub(crate) const PANIC: u8 = 6;

/// Adds to a counter, puts bytes, and misbehaves in several ways.
pub(crate) struct Toy(AtomicU64);

impl PageOps for Toy {
    fn apply(
        &self,
        at: &Applying,
        op: u8,
        payload: &[u8],
        page: &mut [u8],
    ) -> std::result::Result<(), ApplyError> {
        let bad = || ApplyError("bad payload".into());
        let (head, rest) = payload.split_at_checked(2).ok_or_else(bad)?;
        let off = usize::from(u16::from_le_bytes([head[0], head[1]]));
        let cell = page.get_mut(off..off + rest.len()).filter(|_| off >= HEADER_LEN).ok_or_else(bad)?;
        match op {
            ADD => {
                let delta = u64::from_le_bytes(rest.try_into().map_err(|_| bad())?);
                let old = u64::from_le_bytes((&*cell).try_into().map_err(|_| bad())?);
                cell.copy_from_slice(&old.wrapping_add(delta).to_le_bytes());
            }
            PUT => cell.copy_from_slice(rest),
            MOODY => cell[0] = self.0.fetch_add(1, Relaxed) as u8,
            NOSY => header::set_page_lsn(page, at.lsn),
            PANIC => panic!("as asked"),
            _ => return Err(ApplyError("as asked".into())),
        }
        Ok(())
    }
}

pub(crate) fn add(off: u16, delta: u64) -> Vec<u8> {
    [&off.to_le_bytes()[..], &delta.to_le_bytes()].concat()
}
pub(crate) fn put(off: u16, bytes: &[u8]) -> Vec<u8> {
    [&off.to_le_bytes()[..], bytes].concat()
}
pub(crate) fn init_payload() -> Vec<u8> {
    [&[RM.0, 1, 7, 0, 0, 0][..], &put(HEADER_LEN as u16, &[0; 8])].concat()
}
pub(crate) fn counter(page: &[u8]) -> u64 {
    u64::from_le_bytes(page[HEADER_LEN..HEADER_LEN + 8].try_into().unwrap())
}

pub(crate) fn log_options() -> LogOptions {
    LogOptions {
        segment_bytes: 256 << 10,
        ring_bytes: 256 << 10,
        // Nothing cuts it: room for what the others append while the thread that ends a test does not run.
        limit_bytes: 4 << 30,
        ..LogOptions::default()
    }
}
pub(crate) fn options() -> PoolOptions {
    PoolOptions {
        page_size: SIZE,
        frames: 64,
        images: true,
        compress_images: true,
        image_share_bytes: 1 << 20,
        batch_pages: 16,
        check_apply: false,
    }
}

/// What a control file would hold.
#[derive(Clone, Debug)]
pub(crate) struct Control {
    pub(crate) begin: Lsn,
    pub(crate) redo: Lsn,
    pub(crate) dpt: Vec<(PageId, Lsn)>,
}

impl Default for Control {
    fn default() -> Self {
        Control { begin: Log::FIRST, redo: Log::FIRST, dpt: Vec::new() }
    }
}

pub(crate) struct Bench {
    pub(crate) disk: MemDisk,
    pub(crate) pool: Pool,
}

fn managers() -> Managers {
    let mut m = Managers::new();
    m.set(RM, Arc::new(Toy(AtomicU64::new(0))));
    m
}

fn open_pool(disk: &MemDisk, log: Log, options: PoolOptions, trace: Trace) -> Pool {
    let data = disk.open("data", OpenMode { create: true, ..OpenMode::default() }).unwrap();
    Pool::new(options, data, Arc::new(log), managers(), trace).unwrap()
}

impl Bench {
    pub(crate) fn new() -> Bench {
        Self::with(options())
    }
    pub(crate) fn with(options: PoolOptions) -> Bench {
        Self::traced(options, Trace::silent())
    }
    pub(crate) fn traced(options: PoolOptions, trace: Trace) -> Bench {
        let disk = MemDisk::new();
        disk.create_dir("wal").unwrap();
        disk.sync_dir("").unwrap();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let poison = Arc::new(Poison::new());
        let log = Log::create(shared, log_options(), ID, Log::FIRST, poison, Trace::silent()).unwrap();
        let pool = open_pool(&disk, log, options, trace);
        disk.sync_dir("").unwrap();
        Bench { disk, pool }
    }
    /// Pages `0..n`, initialised, written and synced.
    pub(crate) fn with_pages(n: u64) -> Bench {
        let b = Bench::new();
        b.pool.grow_to(n).unwrap();
        (0..n).for_each(|p| b.init(p));
        b.pool.flush_all(WriteReason::Asked).unwrap();
        b.pool.sync_data().unwrap();
        b
    }
    pub(crate) fn init(&self, p: u64) {
        self.pool.init(p);
    }
    /// Cuts the log above everything that was logged so far.
    pub(crate) fn cut_log(&self) {
        let log = self.pool.log();
        let before = log.tail();
        while log.oldest() <= before {
            let junk = [7; 4000];
            let (kind, txn) = (RecordKind::CheckpointChunk, TxnRef::None);
            let spec = RecordSpec { kind, rm: RmId(0), txn, prev: Lsn::NULL, blocks: &[], undo: &junk };
            log.append(&spec, &mut log.credit(8000, true).unwrap()).unwrap();
            log.force(log.tail(), ForceReason::Asked).unwrap();
            log.truncate(log.tail()).unwrap();
        }
    }
    /// A complete checkpoint.
    pub(crate) fn checkpoint(&self, last: &Control) -> Control {
        self.pool.checkpoint(last).unwrap()
    }
    pub(crate) fn crash(&self, model: CrashModel) -> MemDisk {
        self.disk.crash(model)
    }
}

/// Shorthands for tests.
impl Pool {
    pub(crate) fn init(&self, p: u64) {
        let mut credit = self.credit(500, 0, 1, false).unwrap();
        let mut page = self.create(PageId(p)).unwrap();
        self.edit(&mut page, PUT, Whole::Init, &init_payload(), &mut credit).unwrap();
    }
    /// As [`Pool::init`], but does not wait for a write of the page's former content.
    pub(crate) fn init_in_flight(&self, p: u64) {
        let mut credit = self.credit(500, 0, 1, false).unwrap();
        let id = PageId(p);
        let mut page = ExclusivePage {
            pool: self,
            guard: self.bind_blank(id).unwrap(),
            id,
            fresh: true,
            made: None,
            unwinding: false,
            changing: false,
            marked: (crate::frame::Mark::None, false),
        };
        self.edit(&mut page, PUT, Whole::Init, &init_payload(), &mut credit).unwrap();
    }
    pub(crate) fn free_page(&self, p: u64) {
        let mut credit = self.credit(500, 0, 1, false).unwrap();
        let mut page = self.exclusive(PageId(p)).unwrap();
        self.edit(&mut page, 0, Whole::Free, &[], &mut credit).unwrap();
    }
    pub(crate) fn edit(
        &self,
        page: &mut ExclusivePage<'_>,
        op: u8,
        whole: Whole,
        payload: &[u8],
        credit: &mut OpCredit<'_>,
    ) -> Result<Appended> {
        let change =
            Change { kind: RecordKind::Structure, rm: RM, txn: TxnRef::None, prev: Lsn::NULL, undo: &[] };
        // The guard's lifetime and the edit's are tied: the test helper re-borrows.
        let mut edits = [PageEdit { page, op, whole, payload }];
        self.change(&change, &mut edits, credit, |_| {})
    }
    pub(crate) fn update(&self, p: u64, op: u8, payload: &[u8]) -> Result<Lsn> {
        let mut credit = self.credit(500 + payload.len() as u64, 0, 1, false)?;
        let mut page = self.exclusive(PageId(p))?;
        self.edit(&mut page, op, Whole::No, payload, &mut credit).map(|a| a.lsn)
    }
    /// Adds one to the page's counter.
    pub(crate) fn bump(&self, p: u64) -> Lsn {
        self.update(p, ADD, &add(HEADER_LEN as u16, 1)).unwrap()
    }
    pub(crate) fn bump_all(&self, pages: std::ops::Range<u64>) {
        for p in pages {
            self.bump(p);
        }
    }
    pub(crate) fn note(&self, kind: RecordKind) -> Result<Lsn> {
        let mut credit = self.log.credit(200, true)?;
        let spec =
            RecordSpec { kind, rm: RmId(0), txn: TxnRef::None, prev: Lsn::NULL, blocks: &[], undo: b"toy" };
        Ok(self.log.append(&spec, &mut credit)?.lsn)
    }
    pub(crate) fn begin(&self) -> Lsn {
        let begin = self.note(RecordKind::CheckpointBegin).unwrap();
        self.publish_checkpoint(begin);
        begin
    }
    pub(crate) fn finish(&self, begin: Lsn, last: &Control) -> Result<Control> {
        let scan = self.scan_dirty(begin, last.redo);
        self.sync_data()?;
        let end = self.note(RecordKind::CheckpointEnd)?;
        self.log.force(Lsn(end.0 + 1), ForceReason::Checkpoint)?;
        assert!(scan.redo >= last.redo, "the redo point went back from {} to {}", last.redo, scan.redo);
        Ok(Control { begin, redo: scan.redo, dpt: scan.pages })
    }
    pub(crate) fn checkpoint(&self, last: &Control) -> Result<Control> {
        let begin = self.begin();
        self.finish(begin, last)
    }
    pub(crate) fn desc_of(&self, p: u64) -> Option<&crate::frame::Frame> {
        (0..self.region.len() as u32).map(|f| self.region.desc(f)).find(|f| f.holds(PageId(p)))
    }
    /// Runs `call` once, at the first `step` of page `p`.
    pub(crate) fn once_at(&self, step: Step, p: u64, call: impl Fn(&Pool) + Send + Sync + 'static) {
        let done = std::sync::atomic::AtomicBool::new(false);
        self.hook.set(move |pool, s, page| {
            if s == step && page == PageId(p) && !done.swap(true, SeqCst) {
                call(pool);
            }
        });
    }
    /// What must hold when nobody is at work: `dirty` counts, reserves are those of the marks, nothing is in flight.
    pub(crate) fn check_at_rest(&self) {
        let mut dirty = 0;
        let mut resident = 0;
        for i in 0..self.region.len() as u32 {
            let f = self.region.desc(i);
            assert!(!f.in_flight() && f.flight() == 0 && !f.pinned() && f.next() == 0, "{f:?}");
            dirty += u64::from(f.is_dirty());
            if let Some(p) = f.page() {
                resident += 1;
                assert_eq!(self.xlat.get(p), crate::translate::Entry::Resident(i));
            }
        }
        assert_eq!(self.dirty.load(SeqCst), dirty);
        assert_eq!(self.counters.resident.load(SeqCst), resident);
        assert_eq!(self.promised.load(SeqCst), 0);
        assert_eq!(self.ring_used.load(SeqCst), 0);
        assert_eq!(self.free.lock().len() as u64 + resident, self.region.len() as u64);
    }
}

/// A log read back.
pub(crate) struct History {
    pub(crate) end: LogEnd,
    pub(crate) records: Vec<Record>,
}

impl History {
    pub(crate) fn read(disk: &MemDisk) -> History {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let end = find_end(&disk, &log_options(), ID, Log::FIRST, Log::FIRST).unwrap();
        let mut reader = LogReader::open(&disk, ID, &end).unwrap();
        let mut records = Vec::new();
        let mut at = Log::FIRST;
        while let Some(r) = reader.read(at).unwrap() {
            at = r.end;
            records.push(r);
        }
        History { end, records }
    }

    /// The truth: every page by its whole history, images and the data file not looked at. `None`: freed.
    pub(crate) fn truth(&self) -> BTreeMap<PageId, Option<Vec<u8>>> {
        let mut pages: BTreeMap<PageId, Option<Vec<u8>>> = BTreeMap::new();
        for r in &self.records {
            for (i, b) in r.blocks.iter().enumerate() {
                let page = pages.entry(b.page).or_insert_with(|| Some(vec![0; SIZE]));
                match b.whole {
                    Whole::Image => {
                        // W-IMG: the image is exactly what the page is at its LSN.
                        let truth = page.as_deref().expect("an image of a freed page");
                        let mut image = vec![0; SIZE];
                        crate::image::decode(r.payload(i), r.lsn, &mut image).unwrap();
                        assert_eq!(comparable(&image), comparable(truth), "image of {} at {}", b.page, r.lsn);
                        continue;
                    }
                    Whole::Free => {
                        *page = None;
                        continue;
                    }
                    Whole::Init => *page = Some(vec![0; SIZE]),
                    Whole::No => {
                        assert_eq!(header::page_lsn(page.as_ref().unwrap()), b.former, "chain of {}", b.page)
                    }
                }
                let bytes = page.as_mut().unwrap();
                let at = Applying { lsn: r.lsn, txn: r.txn, page: b.page };
                crate::change::apply_block(&managers(), &at, r.rm, b.op, b.whole, r.payload(i), bytes)
                    .unwrap();
                header::set_page_lsn(bytes, r.lsn);
            }
        }
        pages
    }
}

/// A page without what belongs to its place on disk: checksum and imgLSN.
pub(crate) fn comparable(page: &[u8]) -> Vec<u8> {
    let mut p = page.to_vec();
    header::set_crc(&mut p, 0);
    header::set_img_lsn(&mut p, Lsn::NULL);
    p
}

/// A pool and a log on a disk after a crash; redo has not begun.
pub(crate) fn reopened(disk: &MemDisk) -> Bench {
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let poison = Arc::new(Poison::new());
    let end = History::read(disk).end;
    let log = Log::open(shared, log_options(), ID, &end, poison, Trace::silent()).unwrap();
    Bench { disk: disk.clone(), pool: open_pool(disk, log, options(), Trace::silent()) }
}

/// The reference redo: rebuilds from the redo point, page by page, and compares with the truth. Returns the pool, with
/// redo ended and nothing flushed.
pub(crate) fn recover(disk: &MemDisk, control: &Control) -> Bench {
    let history = History::read(disk);
    let truth = history.truth();
    let pool = reopened(disk).pool;
    pool.begin_redo(control.redo);
    let dpt: BTreeMap<PageId, Lsn> = control.dpt.iter().copied().collect();
    let mut named: BTreeMap<PageId, Vec<(&Record, usize)>> = BTreeMap::new();
    for r in history.records.iter().filter(|r| r.lsn >= control.redo) {
        for (i, b) in r.blocks.iter().enumerate() {
            named.entry(b.page).or_default().push((r, i));
        }
    }
    for (id, records) in &named {
        redo_one(&pool, *id, records, control, &dpt);
    }
    pool.end_redo().unwrap();
    let ids: BTreeSet<PageId> = truth.keys().copied().collect();
    for id in ids {
        let Some(want) = &truth[&id] else { continue };
        let got = pool.shared(id).unwrap_or_else(|e| panic!("page {id} with {control:?}: {e}"));
        assert!(
            comparable(&got) == comparable(want),
            "page {id} differs: pageLSN {} of {}, {control:?}",
            header::page_lsn(&got),
            header::page_lsn(want)
        );
    }
    Bench { disk: disk.clone(), pool }
}

fn redo_one(
    pool: &Pool,
    id: PageId,
    records: &[(&Record, usize)],
    control: &Control,
    dpt: &BTreeMap<PageId, Lsn>,
) {
    let whole = records.iter().rposition(|(r, i)| r.blocks[*i].whole != Whole::No);
    let from = whole.unwrap_or(0);
    let needed = |r: &Record| r.lsn >= control.begin || dpt.get(&id).is_some_and(|rec| r.lsn >= *rec);
    if whole.is_none() && !records.iter().any(|(r, _)| needed(r)) {
        return;
    }
    let mut page =
        pool.redo_page(id, whole.is_none()).unwrap_or_else(|e| panic!("page {id}, {control:?}: {e}"));
    for (n, (r, i)) in records[from..].iter().enumerate() {
        let b = &r.blocks[*i];
        if whole.is_none() && (!needed(r) || page.page_lsn() >= r.lsn) {
            continue;
        }
        if n > 0 || whole.is_none() {
            assert_eq!(page.page_lsn(), b.former, "a change of page {id} is missing below {}", r.lsn);
        }
        page.apply(r.lsn, r.txn, r.rm, b.op, b.whole, r.payload(*i)).unwrap();
    }
}

/// Random numbers.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}
