//! What the log's tests share.
#![allow(dead_code, unreachable_pub)]

use hamal_disk::{Disk, MemDisk};
use hamal_error::{Poison, Result};
use hamal_log::*;
use hamal_page::{DbId, Lsn, PageId, RmId};
use hamal_trace::Trace;
use std::sync::Arc;

pub const ID: LogIdentity = LogIdentity { db: DbId([7; 16]), timeline: 1 };

pub fn small() -> LogOptions {
    LogOptions { segment_bytes: 64 << 10, ring_bytes: 64 << 10, max_record: 4096, ..LogOptions::default() }
}

pub fn disk() -> MemDisk {
    let d = MemDisk::new();
    d.create_dir("wal").unwrap();
    d.sync_dir("").unwrap();
    d
}

pub fn dynamic(d: &MemDisk) -> Arc<dyn Disk> {
    Arc::new(d.clone())
}

pub fn create(d: &MemDisk, o: &LogOptions) -> Log {
    Log::create(dynamic(d), o.clone(), ID, Log::FIRST, Arc::new(Poison::new()), Trace::silent()).unwrap()
}

pub fn end(d: &MemDisk, o: &LogOptions) -> Result<LogEnd> {
    find_end(&dynamic(d), o, ID, Log::FIRST, Lsn::NULL)
}

pub fn open(d: &MemDisk, o: &LogOptions, end: &LogEnd) -> Log {
    Log::open(dynamic(d), o.clone(), ID, end, Arc::new(Poison::new()), Trace::silent()).unwrap()
}

/// A record with data only.
pub fn note(data: &[u8]) -> RecordSpec<'_> {
    RecordSpec {
        kind: RecordKind::Commit,
        rm: RmId(0),
        txn: TxnRef::First,
        prev: Lsn::NULL,
        blocks: &[],
        undo: data,
    }
}

pub fn append(log: &Log, data: &[u8]) -> Appended {
    let spec = note(data);
    let mut credit = log.credit(Log::record_bound(&spec), false).unwrap();
    log.append(&spec, &mut credit).unwrap()
}

/// A record on one page.
pub fn on_page(log: &Log, page: u64, former: Lsn, payload: &[u8]) -> Appended {
    let blocks = [Block { page: PageId(page), former, op: 3, whole: Whole::No, payload }];
    let spec = RecordSpec {
        kind: RecordKind::Update,
        rm: RmId(2),
        txn: TxnRef::First,
        prev: Lsn::NULL,
        blocks: &blocks,
        undo: b"",
    };
    let mut credit = log.credit(Log::record_bound(&spec), false).unwrap();
    log.append(&spec, &mut credit).unwrap()
}

pub fn all(d: &MemDisk, end: &LogEnd) -> Vec<Record> {
    let mut r = LogReader::open(&dynamic(d), ID, end).unwrap();
    let mut at = end.oldest;
    let mut out = Vec::new();
    while let Some(rec) = r.read(at).unwrap() {
        at = rec.end;
        out.push(rec);
    }
    out
}

/// The file and offset of an LSN in a log of `small()` segments.
pub fn place(o: &LogOptions, lsn: Lsn) -> (String, u64) {
    let capacity = o.segment_bytes - 4096;
    let first = Log::FIRST.0 + (lsn.0 - Log::FIRST.0) / capacity * capacity;
    (format!("wal/{first:016x}"), 4096 + lsn.0 - first)
}

pub fn flip(d: &MemDisk, o: &LogOptions, lsn: Lsn) {
    let (name, offset) = place(o, lsn);
    let f = d.open(&name, Default::default()).unwrap();
    let mut b = [0];
    assert_eq!(f.read_at(offset, &mut b).unwrap(), 1);
    b[0] ^= 0x10;
    f.write_at(offset, &b).unwrap();
    f.sync().unwrap();
}
