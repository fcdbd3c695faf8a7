//! Analysis against histories written by hand, as in the textbooks: which transactions lose, which pages are dirty, and
//! from where each page is redone.

use hamal_checkpoint::{CheckpointData, CheckpointEnd, Chunk, Control};
use hamal_disk::{Disk, MemDisk};
use hamal_error::{ErrorKind, Poison};
use hamal_log::{
    Block, Log, LogIdentity, LogOptions, LogReader, RecordKind, RecordSpec, TxnRef, Whole, find_end,
};
use hamal_page::{DbId, Lsn, PageId, RmId, TxnId};
use hamal_recovery::{Analysis, analyse};
use hamal_trace::{ForceReason, Trace};
use hamal_txn::AttEntry;
use std::ops::ControlFlow;
use std::sync::Arc;

struct History {
    disk: Arc<dyn Disk>,
    log: Log,
    identity: LogIdentity,
    begin: Lsn,
    redo: Lsn,
    end: Lsn,
}

impl History {
    fn new() -> History {
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
        disk.create_dir("wal").unwrap();
        let identity = LogIdentity { db: DbId([3; 16]), timeline: 1 };
        let options = LogOptions { segment_bytes: 256 << 10, ..LogOptions::default() };
        let log = Log::create(
            disk.clone(),
            options,
            identity,
            Log::FIRST,
            Arc::new(Poison::new()),
            Trace::silent(),
        )
        .unwrap();
        History { disk, log, identity, begin: Lsn::NULL, redo: Lsn::NULL, end: Lsn::NULL }
    }

    fn append(
        &self,
        kind: RecordKind,
        txn: TxnRef,
        prev: Lsn,
        blocks: &[(u64, Whole)],
        data: &[u8],
    ) -> (Lsn, Lsn) {
        let blocks: Vec<_> = blocks
            .iter()
            .map(|&(page, whole)| Block {
                page: PageId(page),
                former: Lsn::NULL,
                op: 1,
                whole,
                payload: b"x",
            })
            .collect();
        let spec = RecordSpec { kind, rm: RmId(9), txn, prev, blocks: &blocks, undo: data };
        let mut credit = self.log.credit(4096, true).unwrap();
        let a = self.log.append(&spec, &mut credit).unwrap();
        (a.lsn, a.end)
    }

    fn first(&self, page: u64) -> Lsn {
        self.append(RecordKind::Update, TxnRef::First, Lsn::NULL, &[(page, Whole::No)], b"").0
    }
    fn update(&self, txn: Lsn, prev: Lsn, page: u64) -> Lsn {
        self.append(RecordKind::Update, TxnRef::Id(TxnId(txn.0)), prev, &[(page, Whole::No)], b"").0
    }
    fn ends(&self, kind: RecordKind, txn: Lsn, prev: Lsn) -> Lsn {
        self.append(kind, TxnRef::Id(TxnId(txn.0)), prev, &[], b"").0
    }
    fn whole(&self, page: u64, whole: Whole) -> Lsn {
        let kind = if whole == Whole::Image { RecordKind::Image } else { RecordKind::Structure };
        self.append(kind, TxnRef::None, Lsn::NULL, &[(page, whole)], b"").0
    }
    fn begin_checkpoint(&mut self) {
        self.begin = self.append(RecordKind::CheckpointBegin, TxnRef::None, Lsn::NULL, &[], b"").0;
    }
    fn end_checkpoint(&mut self, dpt: &[(u64, Lsn)], att: &[AttEntry]) {
        let data =
            CheckpointData { dpt: dpt.iter().map(|&(p, l)| (PageId(p), l)).collect(), att: att.to_vec() };
        self.redo = dpt.iter().map(|d| d.1).fold(self.begin, Lsn::min);
        for c in Chunk::cut(&data, self.begin, 1000) {
            self.append(RecordKind::CheckpointChunk, TxnRef::None, Lsn::NULL, &[], &c);
        }
        let end = CheckpointEnd {
            begin: self.begin,
            redo: self.redo,
            dpt: dpt.len() as u64,
            att: att.len() as u64,
        };
        self.end = self.append(RecordKind::CheckpointEnd, TxnRef::None, Lsn::NULL, &[], &end.encode()).1;
    }

    fn analyse(&self) -> hamal_error::Result<Analysis> {
        self.log.force(self.log.tail(), ForceReason::Asked).unwrap();
        let control = Control {
            sequence: 1,
            db: self.identity.db,
            timeline: 1,
            page_size: 4096,
            reserved_per_page: 0,
            checkpoint_begin: self.begin,
            checkpoint_end: self.end,
            redo: self.redo,
            keep_from: self.redo,
            data_pages: 0,
            witness_page: PageId(0),
            witness_lsn: Lsn::NULL,
            versions: 0,
            managers: vec![],
        };
        let end = find_end(&self.disk, self.log.options(), self.identity, self.begin, self.end)?;
        let mut reader = LogReader::open(&self.disk, self.identity, &end)?;
        let mut go_on = |_| ControlFlow::Continue(());
        let mut progress: hamal_recovery::ProgressFn<'_> = &mut go_on;
        analyse(&mut reader, &control, end.end, &Trace::silent(), &mut progress)
    }
}

fn entry(txn: Lsn, last: Lsn, undo_next: Lsn) -> AttEntry {
    AttEntry { txn: TxnId(txn.0), last, undo_next, undo_reserve: 0 }
}

#[test]
fn winners_losers_and_dirty_pages() {
    let mut h = History::new();
    h.begin_checkpoint();
    h.end_checkpoint(&[], &[]);
    let a = h.first(5); // T1 on P5, rolled back before the crash
    let b = h.first(3); // T2 on P3
    h.ends(RecordKind::Abort, a, a);
    let clr = h.append(RecordKind::Clr, TxnRef::Id(TxnId(a.0)), Lsn::NULL, &[(5, Whole::No)], b"").0;
    h.ends(RecordKind::End, a, clr);
    let c = h.first(1); // T3 on P1
    let d = h.update(b, b, 5); // T2 on P5
    let w = h.first(8); // T4 commits
    h.ends(RecordKind::Commit, w, w);
    let r = h.analyse().unwrap();
    assert_eq!(r.losers, vec![entry(b, d, d), entry(c, c, c)]);
    let rec = |p: u64| r.pages[&PageId(p)].rec;
    assert_eq!((rec(5), rec(3), rec(1), rec(8)), (a, b, c, w));
    assert_eq!(r.records(&r.pages[&PageId(5)]), [a, clr, d]);
    assert!(r.needs_checkpoint && !r.is_clean());
}

#[test]
fn a_clr_sets_undo_next_past_what_it_compensates() {
    let mut h = History::new();
    h.begin_checkpoint();
    h.end_checkpoint(&[], &[]);
    let a = h.first(1);
    let b = h.update(a, a, 2);
    let clr = h.append(RecordKind::Clr, TxnRef::Id(TxnId(a.0)), a, &[(2, Whole::No)], b"").0;
    assert_eq!(h.analyse().unwrap().losers, vec![entry(a, clr, a)]);
    // A nested top action ends in a dummy CLR that jumps over it.
    let c = h.update(a, clr, 3);
    let dummy = h.append(RecordKind::DummyClr, TxnRef::Id(TxnId(a.0)), a, &[], b"").0;
    assert!(b < c && c < dummy);
    assert_eq!(h.analyse().unwrap().losers, vec![entry(a, dummy, a)]);
}

/// REC-5, trap T6: the tables were read after begin; what was seen in the log since begin is newer.
#[test]
fn the_checkpoints_table_never_overrides_what_was_seen_after_begin() {
    let mut h = History::new();
    let a = h.first(1);
    let b = h.first(2);
    let idle = h.first(3);
    h.begin_checkpoint();
    let a2 = h.update(a, a, 4);
    h.ends(RecordKind::Commit, b, b);
    // The scan read T_a before its second record and T_b before its commit.
    h.end_checkpoint(&[(1, a), (2, b)], &[entry(a, a, a), entry(b, b, b), entry(idle, idle, idle)]);
    let r = h.analyse().unwrap();
    assert_eq!(r.losers, vec![entry(a, a2, a2), entry(idle, idle, idle)]);
    assert_eq!(r.pages[&PageId(1)].rec, a);
    assert_eq!(r.pages[&PageId(3)].rec, Lsn::NULL, "clean at the checkpoint and not touched since");
    assert_eq!(r.pages[&PageId(4)].rec, a2);
}

/// REC-5: a page that changed between begin and end is in the table and in the log; the lower of both LSNs is its recLSN.
#[test]
fn the_lower_of_table_and_log_is_the_rec_lsn() {
    let mut h = History::new();
    let a = h.first(1);
    h.begin_checkpoint();
    let b = h.update(a, a, 1); // dirty since a
    let c = h.update(a, b, 2); // written after this, dirty again since d
    let d = h.update(a, c, 2);
    h.end_checkpoint(&[(1, a), (2, d)], &[entry(a, d, d)]);
    let r = h.analyse().unwrap();
    assert_eq!((r.pages[&PageId(1)].rec, r.pages[&PageId(2)].rec), (a, c));
}

/// REC-4, trap T42: recLSN speaks of the version on disk and must not hide an image between R and itself.
#[test]
fn whole_page_records_are_found_from_the_redo_point_on() {
    let mut h = History::new();
    let t = h.first(7); // keeps R low
    let image = h.whole(1, Whole::Image);
    let u = h.update(t, t, 1);
    h.begin_checkpoint();
    h.end_checkpoint(&[(7, t), (1, u)], &[entry(t, u, u)]);
    assert!(!h.analyse().unwrap().needs_checkpoint, "what lies below begin is in the checkpoint");
    let later = h.update(t, u, 1);
    let r = h.analyse().unwrap();
    let p = &r.pages[&PageId(1)];
    assert_eq!((p.rec, p.whole), (u, Some((image, Whole::Image))));
    assert_eq!(r.records(p), [image, u, later]);
}

#[test]
fn a_freed_page_forgets_its_past() {
    let mut h = History::new();
    h.begin_checkpoint();
    h.end_checkpoint(&[], &[]);
    let a = h.first(1);
    h.update(a, a, 1);
    let free = h.whole(1, Whole::Free);
    let r = h.analyse().unwrap();
    assert_eq!(r.pages[&PageId(1)].whole, Some((free, Whole::Free)));
    assert_eq!(r.pages[&PageId(1)].superseded, 2);
    let init = h.whole(1, Whole::Init);
    let r = h.analyse().unwrap();
    assert_eq!(r.records(&r.pages[&PageId(1)]), [init]);
}

#[test]
fn the_end_of_a_clean_shutdown_is_recognised() {
    let mut h = History::new();
    let a = h.first(1);
    h.ends(RecordKind::Commit, a, a);
    h.begin_checkpoint();
    h.end_checkpoint(&[], &[]);
    assert!(h.analyse().unwrap().is_clean());
}

/// SPACE-5: a checkpoint that has begun may have told somebody who cuts the data file that the log has gone on.
#[test]
fn a_log_that_ends_with_another_checkpoints_begin_is_not_clean() {
    let mut h = History::new();
    h.begin_checkpoint();
    h.end_checkpoint(&[], &[]);
    assert!(h.analyse().unwrap().is_clean());
    h.append(RecordKind::CheckpointBegin, TxnRef::None, Lsn::NULL, &[], b"");
    let r = h.analyse().unwrap();
    assert!(r.needs_checkpoint && !r.is_clean());
}

/// CKP-4: a control file that names a checkpoint which is not whole is refused.
#[test]
fn a_checkpoint_that_is_not_whole_is_refused() {
    let mut h = History::new();
    h.begin_checkpoint();
    h.redo = h.begin;
    h.end = h.begin;
    assert_eq!(h.analyse().unwrap_err().kind(), ErrorKind::LogCorrupt);
    let e = CheckpointEnd { begin: h.begin, redo: h.redo, dpt: 3, att: 0 };
    h.end = h.append(RecordKind::CheckpointEnd, TxnRef::None, Lsn::NULL, &[], &e.encode()).1;
    assert_eq!(h.analyse().unwrap_err().kind(), ErrorKind::LogCorrupt, "three dirty pages are missing");
}

/// TXN-PARTS: a CLR that leaves parts of its record is where undo goes on, also by way of what follows it in the chain.
#[test]
fn a_clr_that_leaves_parts_is_where_undo_goes_on() {
    let mut h = History::new();
    h.begin_checkpoint();
    h.end_checkpoint(&[], &[]);
    let a = h.first(1);
    let b = h.update(a, a, 2);
    let clr = |left: &[u8], prev| {
        h.append(RecordKind::Clr, TxnRef::Id(TxnId(a.0)), prev, &[(2, Whole::No)], left).0
    };
    let one = clr(&[3], b);
    assert_eq!(h.analyse().unwrap().losers, vec![entry(a, one, one)]);
    let two = clr(&[2], b);
    assert_eq!(h.analyse().unwrap().losers, vec![entry(a, two, two)]);
    let s = h.append(RecordKind::Structure, TxnRef::Id(TxnId(a.0)), two, &[(3, Whole::No)], b"").0;
    assert_eq!(h.analyse().unwrap().losers, vec![entry(a, s, s)]);
    let last = clr(&[], a);
    assert_eq!(h.analyse().unwrap().losers, vec![entry(a, last, a)]);
}
