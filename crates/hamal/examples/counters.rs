//! An access method beside the B-tree: an array of counters in a page of its own.
//!
//! Adding to a counter commutes with every other addition, so counters take no locks: any number of transactions add to the
//! same one at the same time, and a rollback subtracts what *it* added, whatever the counter is by then. That is logical
//! undo. (The price: a reader sees additions that have not committed.) Everything else, logging, page writes, recovery,
//! comes from the engine, which knows nothing of counters.
use hamal::disk::{CrashModel, MemDisk};
use hamal::raw::{
    ApplyError, Applying, Compensated, HEADER_LEN, OP_SET, PageEdit, PageOps, Record, ResourceManager,
    UndoCtx, Whole, header,
};
use hamal::{Builder, Database, Engine, Error, ErrorKind, PageId, Result, RmId, WriteTxn};
use std::sync::Arc;

const NAME: &str = "counters";
const KIND: u8 = 1;
/// A page is made: no payload.
const OP_INIT: u8 = 1;
/// Adds to a counter: its number as u32, the amount as i64.
const OP_ADD: u8 = 2;
/// More than any record here takes in the log.
const RECORD_BYTES: u64 = 256;

/// What the engine calls: in normal work, in redo, and in undo.
struct CounterManager;

fn add_payload(slot: u32, amount: i64) -> Vec<u8> {
    [&slot.to_le_bytes()[..], &amount.to_le_bytes()].concat()
}

fn parse_add(payload: &[u8]) -> Option<(u32, i64)> {
    let (slot, amount) = payload.split_at_checked(4)?;
    Some((u32::from_le_bytes(slot.try_into().ok()?), i64::from_le_bytes(amount.try_into().ok()?)))
}

/// Where counter `slot` lies in a page.
fn place(slot: u32, page: &[u8]) -> Option<std::ops::Range<usize>> {
    let at = HEADER_LEN + 8 * slot as usize;
    (at + 8 <= page.len()).then_some(at..at + 8)
}

impl PageOps for CounterManager {
    /// The one function that changes a page. Total: hostile bytes are an error.
    fn apply(
        &self,
        _: &Applying,
        op: u8,
        payload: &[u8],
        page: &mut [u8],
    ) -> std::result::Result<(), ApplyError> {
        match op {
            OP_INIT => Ok(()), // a new page is all zeros
            OP_ADD => {
                let bad = || ApplyError("not an addition to a counter of this page".into());
                let (slot, amount) = parse_add(payload).ok_or_else(bad)?;
                let range = place(slot, page).ok_or_else(bad)?;
                let bytes = &mut page[range];
                let old = u64::from_le_bytes(bytes[..].try_into().map_err(|_| bad())?);
                bytes.copy_from_slice(&old.wrapping_add_signed(amount).to_le_bytes());
                Ok(())
            }
            _ => Err(ApplyError(format!("unknown operation {op}"))),
        }
    }
}

impl ResourceManager for CounterManager {
    fn name(&self) -> &str {
        NAME
    }
    fn version(&self) -> u32 {
        1
    }
    /// Undo of an addition: add the opposite, and log that as the compensation.
    fn undo(&self, record: &Record, ctx: UndoCtx<'_>) -> Result<Compensated> {
        let bad = || Error::new(ErrorKind::ResourceManager, "not an addition").with_lsn(record.lsn);
        let (slot, amount) = parse_add(record.undo()).ok_or_else(bad)?;
        let page = record.blocks.first().ok_or_else(bad)?.page;
        let payload = add_payload(slot, amount.wrapping_neg());
        let mut credit = ctx.credit(RECORD_BYTES, 1)?;
        let mut page = ctx.pool().exclusive(page)?;
        let edit = PageEdit { page: &mut page, op: OP_ADD, whole: Whole::No, payload: &payload };
        ctx.compensate(&mut [edit], &mut credit)
    }
    fn describe(&self, op: u8, payload: &[u8], f: &mut dyn std::fmt::Write) -> std::fmt::Result {
        match (op, parse_add(payload)) {
            (OP_INIT, _) => write!(f, "new page of counters"),
            (OP_ADD, Some((slot, amount))) => write!(f, "counter {slot} += {amount}"),
            _ => write!(f, "unknown operation {op}"),
        }
    }
}

/// An array of counters: one page, found through a row of the tree `counters`.
struct Counters {
    engine: Engine,
    rm: RmId,
    page: PageId,
}

impl Counters {
    /// Makes an array. (The page is allocated by a record that stays even if the transaction rolls back; it is then lost. A
    /// real access method would keep a list of such pages, as the B-tree does.)
    fn create(db: &Database, tx: &WriteTxn, name: &str) -> Result<Counters> {
        let engine = db.engine();
        let rm =
            engine.rm_id(NAME).ok_or_else(|| Error::new(ErrorKind::ResourceManager, "not registered"))?;
        let page = tx.run(|txn| {
            let (pool, txns, space) = (engine.pool(), engine.txns(), engine.space());
            // What can wait comes first: a page, then credit; then latches.
            let reservation = space.reserve(1)?;
            let id = reservation.pages()[0];
            let mut credit = pool.credit(2 * RECORD_BYTES, 0, 2, false)?;
            // One record makes the page and sets its bit in the space map, whose page is latched last.
            let stopped = |s| Error::internal(format!("a pinned map page is not there: {s:?}"));
            let mut page = pool.create(id)?;
            let mut maps = space.latch_maps(&[id]).map_err(stopped)?;
            let head = [rm.0, KIND, 0, 0, 0, 0]; // manager, kind, tree
            let mut edits =
                vec![PageEdit { page: &mut page, op: OP_INIT, whole: Whole::Init, payload: &head }];
            edits.extend(maps.iter_mut().map(|(map, bits)| PageEdit {
                page: map,
                op: OP_SET,
                whole: Whole::No,
                payload: bits,
            }));
            txns.structure(Some(txn), rm, &mut edits, &mut credit)?;
            drop(edits);
            reservation.allocated(1);
            Ok(id)
        })?;
        tx.open_or_create_tree(NAME)?.put(name, page.0.to_le_bytes())?;
        Ok(Counters { engine, rm, page })
    }

    fn open(db: &Database, name: &str) -> Result<Counters> {
        let none = || Error::new(ErrorKind::NotFound, format!("there are no counters {name:?}"));
        let engine = db.engine();
        let rm = engine.rm_id(NAME).ok_or_else(none)?;
        let row = db.begin_read()?.tree(NAME)?.get(name)?.ok_or_else(none)?;
        let page = PageId(u64::from_le_bytes(row.as_ref().try_into().map_err(|_| none())?));
        Ok(Counters { engine, rm, page })
    }

    fn add(&self, tx: &WriteTxn, slot: u32, amount: i64) -> Result<()> {
        let payload = add_payload(slot, amount);
        tx.run(|txn| {
            let pool = self.engine.pool();
            let mut credit = pool.credit(RECORD_BYTES, RECORD_BYTES, 1, false)?;
            let mut page = pool.exclusive(self.page)?;
            if header::rm(&page) != self.rm || place(slot, &page).is_none() {
                return Err(Error::new(ErrorKind::InvalidArgument, format!("there is no counter {slot}")));
            }
            let edit = PageEdit { page: &mut page, op: OP_ADD, whole: Whole::No, payload: &payload };
            self.engine.txns().update(txn, self.rm, &mut [edit], &payload, RECORD_BYTES, &mut credit)?;
            Ok(())
        })
    }

    fn get(&self, slot: u32) -> Result<u64> {
        let page = self.engine.pool().shared(self.page)?;
        let bytes = place(slot, &page).and_then(|r| page[r].try_into().ok());
        bytes
            .map(u64::from_le_bytes)
            .ok_or_else(|| Error::new(ErrorKind::InvalidArgument, format!("there is no counter {slot}")))
    }
}

fn builder() -> Builder {
    Database::builder().page_size(4096).log_segment_bytes(1 << 20).resource_manager(Arc::new(CounterManager))
}

pub(crate) fn main() -> Result<()> {
    let disk = MemDisk::new();
    let db = builder().create_on(Arc::new(disk.clone()))?;
    let tx = db.begin_write()?;
    let visits = Counters::create(&db, &tx, "visits")?;
    visits.add(&tx, 0, 100)?;
    tx.commit()?;
    println!("committed:            {}", visits.get(0)?);

    // Two transactions add to the same counter at once; one of them is rolled back.
    let (a, b) = (db.begin_write()?, db.begin_write()?);
    visits.add(&a, 0, 7)?;
    visits.add(&b, 0, 1000)?;
    println!("two in flight:        {}", visits.get(0)?);
    b.rollback()?;
    a.commit()?;
    println!("one rolled back:      {}", visits.get(0)?);
    assert_eq!(visits.get(0)?, 107);

    // A transaction that never commits; its addition reaches the log with the commit of another. Then the power fails.
    let loser = db.begin_write()?;
    visits.add(&loser, 0, 5000)?;
    let winner = db.begin_write()?;
    visits.add(&winner, 0, 1)?;
    winner.commit()?;
    println!("before the crash:     {}", visits.get(0)?);
    let after = disk.crash(CrashModel::LoseUnsynced);

    let db = builder().open_on(Arc::new(after))?;
    println!("{}", db.recovery_report());
    let visits = Counters::open(&db, "visits")?;
    println!("after recovery:       {}", visits.get(0)?);
    assert_eq!(visits.get(0)?, 108);
    assert_eq!(db.recovery_report().losers.len(), 1);
    Ok(())
}
