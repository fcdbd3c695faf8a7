//! A log, a pool, transactions and checkpoints on a disk in memory, and a resource manager whose pages are arrays of cells:
//! (writer, value). No tree, no facade: few steps, so that what happens between two of them is explored well.
use crate::StepDisk;
use hamal_buffer::{ApplyError, Applying, PageEdit, PageOps, Pool, PoolOptions};
use hamal_checkpoint::{CheckpointReport, Checkpointer, Control, ControlFile, VersionsFile};
use hamal_disk::{CrashModel, Disk, MemDisk, OpenMode};
use hamal_error::{Error, Poison, Result};
use hamal_log::{Log, LogIdentity, LogOptions, LogReader, Record, Whole, find_end};
use hamal_page::*;
use hamal_trace::{ForceReason, Trace, WriteReason};
use hamal_txn::*;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub const RM: RmId = RmId(3);
pub const SIZE: usize = 4096;
pub const ID: LogIdentity = LogIdentity { db: DbId([9; 16]), timeline: 1 };
/// Operation: a cell gets a value, and the record's transaction as writer.
const SET: u8 = 1;

#[derive(Debug)]
struct Cells;

fn u64_at(b: &[u8], at: usize) -> Option<u64> {
    b.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

/// Writer and value of a cell.
pub fn cell(page: &[u8], n: u64) -> (TxnId, u64) {
    let at = HEADER_LEN + n as usize * 16;
    (TxnId(u64_at(page, at).unwrap()), u64_at(page, at + 8).unwrap())
}

impl PageOps for Cells {
    fn apply(
        &self,
        at: &Applying,
        _: u8,
        payload: &[u8],
        page: &mut [u8],
    ) -> std::result::Result<(), ApplyError> {
        let Some((n, value)) = u64_at(payload, 0).zip(u64_at(payload, 8)) else { return Ok(()) };
        let to = HEADER_LEN + n as usize * 16;
        page[to..to + 8].copy_from_slice(&at.txn.0.to_le_bytes());
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
    fn undo(&self, _: &Record, _: UndoCtx<'_>) -> Result<Compensated> {
        Err(Error::internal("nothing is rolled back here"))
    }
    fn describe(&self, op: u8, _: &[u8], f: &mut dyn fmt::Write) -> fmt::Result {
        write!(f, "op {op}")
    }
}

fn log_options() -> LogOptions {
    LogOptions {
        segment_bytes: 64 << 10,
        ring_bytes: 256 << 10,
        limit_bytes: 64 << 20,
        ..LogOptions::default()
    }
}

pub struct Bench {
    pub txns: Arc<TxnManager>,
    pub checkpointer: Checkpointer,
    pub disk: StepDisk,
}

impl Bench {
    /// Pages `0..pages`, initialised, written and synced; a first checkpoint is taken.
    pub fn new(pages: u64) -> Arc<Bench> {
        let mem = MemDisk::new();
        mem.create_dir("wal").unwrap();
        mem.sync_dir("").unwrap();
        let disk = StepDisk::new(mem);
        let dir: Arc<dyn Disk> = Arc::new(disk.clone());
        let silent = Trace::silent;
        let poison = Arc::new(Poison::new());
        let log = Log::create(dir.clone(), log_options(), ID, Log::FIRST, poison, silent()).unwrap();
        let mut registry = Registry::new();
        registry.add(RM, Arc::new(Cells));
        let pool_options = PoolOptions {
            page_size: SIZE,
            frames: hamal_buffer::MIN_FRAMES,
            images: true,
            compress_images: true,
            image_share_bytes: 1 << 20,
            batch_pages: 8,
            check_apply: false,
        };
        let data = disk.open("data", OpenMode { create: true, ..OpenMode::default() }).unwrap();
        let pool = Pool::new(pool_options, data, Arc::new(log), registry.managers(), silent()).unwrap();
        let options = TxnOptions { lock_timeout: Duration::from_secs(10), version_budget: 1 << 20 };
        let txns = TxnManager::new(Arc::new(pool), registry, options, silent());
        let versions = VersionsFile::create(&dir, ID.db).unwrap();
        let control = Control {
            sequence: 1,
            db: ID.db,
            timeline: ID.timeline,
            page_size: SIZE as u32,
            reserved_per_page: 0,
            checkpoint_begin: Log::FIRST,
            checkpoint_end: Log::FIRST,
            redo: Log::FIRST,
            keep_from: Log::FIRST,
            data_pages: 0,
            witness_page: PageId(0),
            witness_lsn: Lsn::NULL,
            versions: versions.digest(),
            managers: Vec::new(),
        };
        let control = ControlFile::create(&dir, control).unwrap();
        let checkpointer = Checkpointer::new(txns.clone(), control, versions, silent());
        let b = Bench { txns, checkpointer, disk };
        b.pool().grow_to(pages + 2).unwrap();
        (0..pages).for_each(|p| b.init(p));
        b.pool().flush_all(WriteReason::Asked).unwrap();
        b.checkpointer.checkpoint().unwrap();
        b.txns.start_at(b.log().durable());
        Arc::new(b)
    }

    pub fn pool(&self) -> &Pool {
        self.txns.pool()
    }
    pub fn log(&self) -> &Arc<Log> {
        self.txns.log()
    }
    pub fn force(&self) {
        self.log().force(self.log().tail(), ForceReason::Asked).unwrap();
    }

    pub fn edit(&self, p: u64, op: u8, whole: Whole, payload: &[u8]) {
        let pool = self.pool();
        let mut credit = pool.credit(500, 0, 1, false).unwrap();
        let id = PageId(p);
        let page = if whole == Whole::Init { pool.create(id) } else { pool.exclusive(id) };
        let mut page = page.unwrap();
        let mut edits = [PageEdit { page: &mut page, op, whole, payload }];
        self.txns.structure(None, RM, &mut edits, &mut credit).unwrap();
    }
    pub fn init(&self, p: u64) {
        self.edit(p, SET, Whole::Init, &[RM.0, 1, 7, 0, 0, 0]);
    }
    pub fn free(&self, p: u64) {
        self.edit(p, 0, Whole::Free, &[]);
    }
    /// Sets a cell, by nobody's record.
    pub fn set(&self, p: u64, n: u64, value: u64) {
        let payload: Vec<u8> = [n, value].iter().flat_map(|w| w.to_le_bytes()).collect();
        self.edit(p, SET, Whole::No, &payload);
    }
    /// Sets a cell in a transaction, which is its only writer.
    pub fn write(&self, txn: &Txn, p: u64, n: u64, value: u64) {
        let mut credit = self.pool().credit(200, 250, 1, false).unwrap();
        let mut page = self.pool().exclusive(PageId(p)).unwrap();
        let (writer, old) = cell(&page, n);
        let data = old.to_le_bytes().into();
        self.txns.versions().push(txn, RM, p as u32, &n.to_le_bytes(), Version { writer, data });
        let payload: Vec<u8> = [n, value].iter().flat_map(|w| w.to_le_bytes()).collect();
        let mut edits = [PageEdit { page: &mut page, op: SET, whole: Whole::No, payload: &payload }];
        self.txns.update(txn, RM, &mut edits, b"x", 250, &mut credit).unwrap();
    }
    /// What a view sees in a cell.
    pub fn get(&self, view: &View, p: u64, n: u64) -> Option<u64> {
        let page = self.pool().shared(PageId(p)).unwrap();
        let (writer, value) = cell(&page, n);
        if self.txns.visible(writer, view) {
            return Some(value);
        }
        let seen = |w: TxnId| self.txns.visible(w, view);
        match self.txns.versions().find(RM, p as u32, &n.to_le_bytes(), view.snapshot, &seen) {
            FoundVersion::Visible(v) => u64_at(&v.data, 0),
            FoundVersion::Absent | FoundVersion::Demoted(_) => None,
        }
    }

    /// What must hold at the moment in which a checkpoint has just come to count: whatever of a page the disk may lose now,
    /// redo from `report.redo` on brings back.
    pub fn check_checkpoint(&self, report: &CheckpointReport) {
        let kept = self.disk.crash(CrashModel::KeepAll);
        let lost = self.disk.crash(CrashModel::LoseUnsynced);
        let records = records(&lost);
        let redo = report.redo;
        let pages: std::collections::BTreeSet<PageId> =
            records.iter().flat_map(|r| r.blocks.iter().map(|b| b.page)).collect();
        for id in pages {
            let of = |r: &Record| r.blocks.iter().find(|b| b.page == id).map(|b| b.whole);
            let whole = records.iter().rfind(|r| of(r).is_some_and(|w| w != Whole::No) && r.lsn >= redo);
            if whole.is_some() {
                continue;
            }
            // No image from the redo point on: nothing may be torn, and no change below it missing.
            let (now, safe) = (read(&kept, id), read(&lost, id));
            assert!(
                now == safe,
                "rule W: page {id} is being written, and has no image at or above the redo point {redo}"
            );
            let newest = records.iter().rfind(|r| of(r) == Some(Whole::No) && r.lsn < redo).map(|r| r.lsn);
            let on_disk = header::page_lsn(&safe);
            assert!(
                newest.is_none_or(|lsn| on_disk >= lsn),
                "W-8: redo from {redo} misses the change at {newest:?} of page {id}, which is at {on_disk} on disk"
            );
        }
    }
}

fn read(disk: &MemDisk, id: PageId) -> Vec<u8> {
    let file = disk.open("data", OpenMode::default()).unwrap();
    let mut page = vec![0; SIZE];
    file.read_at(id.0 * SIZE as u64, &mut page).unwrap();
    page
}

/// A cell of a page as it is on the disk.
pub fn on_disk(disk: &MemDisk, p: u64, n: u64) -> u64 {
    cell(&read(disk, PageId(p)), n).1
}

/// The log of a crashed disk.
pub fn records(disk: &MemDisk) -> Vec<Record> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let end = find_end(&disk, &log_options(), ID, Log::FIRST, Log::FIRST).unwrap();
    let mut reader = LogReader::open(&disk, ID, &end).unwrap();
    let (mut at, mut all) = (Log::FIRST, Vec::new());
    while let Some(r) = reader.read(at).unwrap() {
        at = r.end;
        all.push(r);
    }
    all
}
