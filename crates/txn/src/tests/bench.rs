//! A manager over a disk in memory, and a resource manager whose pages are arrays of cells: (writer, value).
use crate::*;
use hamal_buffer::{ApplyError, Applying, Need, PageEdit, PageOps, Pool, PoolOptions, Stop};
use hamal_disk::{Disk, MemDisk, OpenMode};
use hamal_error::{Error, ErrorKind, Poison, Result};
use hamal_log::{Log, LogIdentity, LogOptions, Record, Whole};
use hamal_page::*;
use hamal_trace::Trace;
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub(crate) const RM: RmId = RmId(3);
pub(crate) const TREE: TreeId = TreeId(7);
pub(crate) const SIZE: usize = 4096;
/// Operations: the first takes the record's transaction as writer, the second names a writer (undo).
const SET: u8 = 1;
const RESTORE: u8 = 2;
/// Many cells at once: pairs, and triples. Undone in parts.
const SET_MANY: u8 = 3;
const RESTORE_MANY: u8 = 4;

/// How the next undo misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    Error,
    Panic,
    AfterClr,
    UpdateInside,
    /// Says that so many parts are left.
    Left(u64),
}

/// Cells of (writer, value), 16 bytes each. Undo restores the former writer and value, and counts.
#[derive(Default)]
pub(crate) struct Cells {
    pub(crate) bad: Mutex<Option<Bad>>,
    /// LSNs of the records undone.
    pub(crate) undone: Mutex<Vec<Lsn>>,
    /// Cells of records of many that were undone, with the record.
    pub(crate) cells_undone: Mutex<Vec<(Lsn, usize)>>,
}

fn u64_at(b: &[u8], at: usize) -> Option<u64> {
    b.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}
fn cell_at(cell: u64) -> usize {
    HEADER_LEN + cell as usize * 16
}
/// Payload: cell, value, and for RESTORE the writer.
fn payload(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}
impl Cells {
    /// Undoes the last cell that is left, or the last two.
    fn undo_part(&self, record: &Record, ctx: UndoCtx<'_>, bad: Option<Bad>) -> Result<Compensated> {
        let id = record.blocks[0].page;
        let cells: Vec<[u64; 3]> =
            record.undo().chunks(24).map(|u| [0, 8, 16].map(|i| u64_at(u, i).unwrap())).collect();
        let left = ctx.left().map_or(cells.len(), |left| left as usize);
        assert!(left > 0 && left <= cells.len());
        let (m, txn, pool) = (ctx.manager(), ctx.txn(), ctx.pool());
        if left % 3 == 1 {
            let mut credit = ctx.credit(200, 1)?;
            let mut page = pool.exclusive(id)?;
            m.structure(Some(txn), RM, &mut [edit(&mut page, SET, &[])], &mut credit)?;
        }
        let from = left - if left.is_multiple_of(2) { 2 } else { 1 };
        let mut credit = ctx.credit(200, 1)?;
        let mut page = pool.exclusive(id)?;
        let mut restore = Vec::new();
        for (i, [n, writer, value]) in cells[from..left].iter().enumerate() {
            assert_eq!(cell(&page, *n).0, txn.id(), "undo meets its own write");
            restore.extend(payload(&[*n, *value, *writer]));
            self.cells_undone.lock().push((record.lsn, from + i));
        }
        let mut edits = [edit(&mut page, RESTORE_MANY, &restore)];
        let done = match bad {
            Some(Bad::Left(left)) => ctx.compensate_part(left, &mut edits, &mut credit)?,
            _ if from == 0 => ctx.compensate(&mut edits, &mut credit)?,
            _ => ctx.compensate_part(from as u64, &mut edits, &mut credit)?,
        };
        for [n, writer, _] in &cells[from..left] {
            if *writer != txn.id().0 {
                m.versions().pop(txn, RM, id.0 as u32, &n.to_le_bytes());
            }
        }
        Ok(done)
    }
}

/// Writer and value of a cell.
pub(crate) fn cell(page: &[u8], cell: u64) -> (TxnId, u64) {
    let at = cell_at(cell);
    (TxnId(u64_at(page, at).unwrap()), u64_at(page, at + 8).unwrap())
}

impl PageOps for Cells {
    fn apply(
        &self,
        at: &Applying,
        op: u8,
        payload: &[u8],
        page: &mut [u8],
    ) -> std::result::Result<(), ApplyError> {
        if payload.is_empty() {
            return Ok(());
        }
        let bad = || ApplyError("bad payload".into());
        let size = match op {
            SET_MANY => 16,
            RESTORE_MANY => 24,
            _ => payload.len(),
        };
        if payload.len() > size {
            let one = if op == SET_MANY { SET } else { RESTORE };
            return payload.chunks(size).try_for_each(|p| self.apply(at, one, p, page));
        }
        let n = u64_at(payload, 0).filter(|n| *n < 200).ok_or_else(bad)?;
        let value = u64_at(payload, 8).ok_or_else(bad)?;
        let writer =
            if op == SET || op == SET_MANY { at.txn.0 } else { u64_at(payload, 16).ok_or_else(bad)? };
        let to = cell_at(n);
        page[to..to + 8].copy_from_slice(&writer.to_le_bytes());
        page[to + 8..to + 16].copy_from_slice(&value.to_le_bytes());
        Ok(())
    }
}

impl ResourceManager for Cells {
    fn name(&self) -> &str {
        "cells"
    }
    fn version(&self) -> u32 {
        1
    }
    fn undo(&self, record: &Record, ctx: UndoCtx<'_>) -> Result<Compensated> {
        let bad = self.bad.lock().take();
        match bad {
            Some(Bad::Error) => return Err(Error::new(ErrorKind::Internal, "as asked")),
            Some(Bad::Panic) => panic!("as asked"),
            _ => {}
        }
        let (id, u) = (record.blocks[0].page, record.undo().to_vec());
        if record.blocks[0].op == SET_MANY {
            return self.undo_part(record, ctx, bad);
        }
        let [n, writer, value] = [0, 8, 16].map(|i| u64_at(&u, i).unwrap());
        let (m, txn, pool) = (ctx.manager(), ctx.txn(), ctx.pool());
        // A structure record before the CLR, now and then.
        if record.lsn.0.is_multiple_of(3) || bad == Some(Bad::UpdateInside) {
            let mut credit = ctx.credit(200, 1)?;
            let mut page = pool.exclusive(id)?;
            let mut edits = [edit(&mut page, SET, &[])];
            match bad {
                Some(Bad::UpdateInside) => m.update(txn, RM, &mut edits, &[], 0, &mut credit)?,
                _ => m.structure(Some(txn), RM, &mut edits, &mut credit)?,
            };
        }
        let mut credit = ctx.credit(200, 1)?;
        let mut page = pool.exclusive(id)?;
        assert_eq!(cell(&page, n).0, txn.id(), "undo meets its own write");
        self.undone.lock().push(record.lsn);
        let p = payload(&[n, value, writer]);
        let done = ctx.compensate(&mut [edit(&mut page, RESTORE, &p)], &mut credit)?;
        if writer != txn.id().0 {
            m.versions().pop(txn, RM, id.0 as u32, &n.to_le_bytes());
        }
        drop((page, credit));
        if bad == Some(Bad::AfterClr) {
            let mut credit = pool.credit(200, 0, 1, true)?;
            let mut page = pool.exclusive(id)?;
            m.structure(Some(txn), RM, &mut [edit(&mut page, SET, &[])], &mut credit)?;
        }
        Ok(done)
    }
    fn describe(&self, op: u8, _: &[u8], f: &mut dyn fmt::Write) -> fmt::Result {
        write!(f, "op {op}")
    }
}

pub(crate) fn edit<'a, 'p>(
    page: &'a mut hamal_buffer::ExclusivePage<'p>,
    op: u8,
    payload: &'a [u8],
) -> PageEdit<'a, 'p> {
    PageEdit { page, op, whole: Whole::No, payload }
}

pub(crate) struct Bench {
    pub(crate) m: Arc<TxnManager>,
    pub(crate) rm: Arc<Cells>,
    pub(crate) disk: MemDisk,
}

/// Nobody waits so long but for a wake-up that was lost.
const LOCK_TIMEOUT: Duration = Duration::from_secs(120);
/// Who has gone on after less did not go on by its time-out, however slow the machine.
pub(crate) const PROMPT: Duration = Duration::from_secs(60);

pub(crate) fn txn_options() -> TxnOptions {
    TxnOptions { lock_timeout: LOCK_TIMEOUT, version_budget: 256 << 20 }
}

impl Bench {
    pub(crate) fn new() -> Bench {
        Self::with(txn_options(), Trace::silent())
    }
    pub(crate) fn with(options: TxnOptions, trace: Trace) -> Bench {
        let disk = MemDisk::new();
        disk.create_dir("wal").unwrap();
        let log_options = LogOptions {
            segment_bytes: 256 << 10,
            ring_bytes: 256 << 10,
            limit_bytes: 256 << 20,
            ..LogOptions::default()
        };
        let id = LogIdentity { db: DbId([9; 16]), timeline: 1 };
        let poison = Arc::new(Poison::new());
        let dir: Arc<dyn Disk> = Arc::new(disk.clone());
        let log = Log::create(dir, log_options, id, Log::FIRST, poison, trace.clone()).unwrap();
        let rm = Arc::new(Cells::default());
        let mut registry = Registry::new();
        registry.add(RM, rm.clone());
        let pool_options = PoolOptions {
            page_size: SIZE,
            frames: 64,
            images: true,
            compress_images: true,
            image_share_bytes: 1 << 20,
            batch_pages: 16,
            check_apply: true,
        };
        let data = disk.open("data", OpenMode { create: true, ..OpenMode::default() }).unwrap();
        let pool = Pool::new(pool_options, data, Arc::new(log), registry.managers(), trace.clone()).unwrap();
        let m = TxnManager::new(Arc::new(pool), registry, options, trace);
        let b = Bench { m, rm, disk };
        b.m.pool().grow_to(8).unwrap();
        for n in 0..8 {
            let mut credit = b.m.pool().credit(4096, 0, 1, false).unwrap();
            let mut page = b.m.pool().create(PageId(n)).unwrap();
            let head = [RM.0, 1, 7, 0, 0, 0];
            let init = PageEdit { page: &mut page, op: SET, whole: Whole::Init, payload: &head };
            b.m.structure(None, RM, &mut [init], &mut credit).unwrap();
        }
        b.m.log().force(b.m.log().tail(), hamal_trace::ForceReason::Asked).unwrap();
        b.m.start_at(b.m.log().durable());
        b
    }

    /// Changes a cell by the conflict rule, waiting where it must.
    pub(crate) fn change(&self, t: &Txn, page: u64, n: u64, f: impl Fn(u64) -> u64) -> Result<()> {
        let _op = t.enter()?;
        self.change_entered(t, page, n, f)
    }
    pub(crate) fn change_entered(&self, t: &Txn, page: u64, n: u64, f: impl Fn(u64) -> u64) -> Result<()> {
        let m = &self.m;
        m.register(t, TREE)?;
        loop {
            m.versions().admit(8)?;
            let mut credit = m.pool().credit(200, 250, 1, false)?;
            let mut p = m.pool().exclusive(PageId(page))?;
            let (writer, old) = cell(&p, n);
            match m.check_write(t, writer) {
                Ok(()) => {}
                Err(Stop::Need(Need::Transaction(holder))) => {
                    drop((p, credit));
                    m.wait_for(t, holder)?;
                    continue;
                }
                Err(Stop::Error(e)) => return Err(e),
                Err(Stop::Need(n)) => unreachable!("{n:?}"),
            }
            if writer != t.id() || writer.is_none() {
                let data = old.to_le_bytes().into();
                m.versions().push(t, RM, page as u32, &n.to_le_bytes(), Version { writer, data });
            }
            let redo = payload(&[n, f(old)]);
            let undo = payload(&[n, writer.0, old]);
            m.update(t, RM, &mut [edit(&mut p, SET, &redo)], &undo, 250, &mut credit)?;
            return Ok(());
        }
    }
    /// Sets cells of a page by one record; nobody else has them.
    pub(crate) fn set_many(&self, t: &Txn, page: u64, cells: &[(u64, u64)]) -> Result<()> {
        let m = &self.m;
        m.register(t, TREE)?;
        m.versions().admit(8 * cells.len())?;
        let mut credit = m.pool().credit_run(200 + 40 * cells.len() as u64, 400, cells.len())?;
        let mut p = m.pool().exclusive(PageId(page))?;
        let (mut redo, mut undo) = (Vec::new(), Vec::new());
        for (n, value) in cells {
            let (writer, old) = cell(&p, *n);
            if writer != t.id() || writer.is_none() {
                let data = old.to_le_bytes().into();
                m.versions().push(t, RM, page as u32, &n.to_le_bytes(), Version { writer, data });
            }
            redo.extend(payload(&[*n, *value]));
            undo.extend(payload(&[*n, writer.0, old]));
        }
        credit.limit_undo(cells.len());
        let reserve = 400 * cells.len() as u64;
        m.update(t, RM, &mut [edit(&mut p, SET_MANY, &redo)], &undo, reserve, &mut credit)?;
        Ok(())
    }
    pub(crate) fn set(&self, t: &Txn, page: u64, n: u64, value: u64) -> Result<()> {
        self.change(t, page, n, |_| value)
    }

    /// What a view sees in a cell.
    pub(crate) fn get(&self, view: &View, page: u64, n: u64) -> Option<u64> {
        let p = self.m.pool().shared(PageId(page)).unwrap();
        let (writer, value) = cell(&p, n);
        if self.m.visible(writer, view) {
            return Some(value);
        }
        let seen = |w: TxnId| self.m.visible(w, view);
        match self.m.versions().find(RM, page as u32, &n.to_le_bytes(), view.snapshot, &seen) {
            FoundVersion::Visible(v) => Some(u64::from_le_bytes((*v.data).try_into().unwrap())),
            FoundVersion::Absent | FoundVersion::Demoted(_) => None,
        }
    }
    /// What is in the page.
    pub(crate) fn raw(&self, page: u64, n: u64) -> (TxnId, u64) {
        cell(&self.m.pool().shared(PageId(page)).unwrap(), n)
    }
    pub(crate) fn commit(&self, t: &Txn) -> CommitOutcome {
        let _op = t.enter().unwrap();
        self.m.commit(t).unwrap()
    }
    pub(crate) fn rollback(&self, t: &Txn) {
        let _op = t.enter_to_end().unwrap();
        self.m.rollback(t).unwrap();
    }
    pub(crate) fn begin(&self) -> Arc<Txn> {
        self.m.begin().unwrap()
    }
    /// All records of the log from `from`, in order.
    pub(crate) fn records(&self) -> Vec<Record> {
        let log = self.m.log();
        log.force(log.tail(), hamal_trace::ForceReason::Asked).unwrap();
        let end = hamal_log::LogEnd {
            end: log.durable(),
            last_seal: 0,
            verdict: hamal_log::Verdict::Clean,
            oldest: log.oldest(),
            keep_from: log.oldest(),
        };
        let dir: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let mut reader = hamal_log::LogReader::open(&dir, log.identity(), &end).unwrap();
        let mut at = Log::FIRST;
        let mut all = Vec::new();
        while let Some(r) = reader.read(at).unwrap() {
            at = r.end;
            all.push(r);
        }
        all
    }
}
