//! Normal work on the counters: making the directory, growing, adding, reading.
use super::layout::*;
use super::manager::{NAME, stopped};
use hamal::raw::{ExclusivePage, OP_SET, PageEdit, Pool, Txn, Whole};
use hamal::{Error, ErrorKind, PageId, Result, RmId, WriteTxn};
use std::collections::BTreeMap;

/// The B-tree tree, and the row in it, that name the directory.
pub(super) const TREE: &str = "counters";
pub(super) const ROW: &str = "directory";

/// The parts that a statement works with.
pub(super) struct Method {
    engine: hamal::Engine,
    pub(super) rm: RmId,
}

impl Method {
    pub(super) fn of(db: &hamal::Database) -> Result<Method> {
        let engine = db.engine();
        let missing = || Error::new(ErrorKind::ResourceManager, "the counters' manager is not registered");
        let rm = engine.rm_id(NAME).ok_or_else(missing)?;
        Ok(Method { engine, rm })
    }
    pub(super) fn pool(&self) -> &Pool {
        self.engine.pool()
    }

    /// The directory, as a transaction or a snapshot sees it.
    pub(super) fn directory(row: Option<hamal::Value>) -> Result<PageId> {
        let row = row.ok_or_else(|| Error::new(ErrorKind::NotFound, "there are no counters"))?;
        let id = u64_at(&row, 0).filter(|_| row.len() == 8);
        id.map(PageId).ok_or_else(|| Error::internal("the row that names the directory is no page number"))
    }

    /// Makes the directory and the row that names it.
    pub(super) fn create(&self, tx: &WriteTxn) -> Result<()> {
        let tree = tx.create_tree(TREE)?;
        let id = tx.run(|txn| {
            let (pool, txns, space) = (self.pool(), self.engine.txns(), self.engine.space());
            // A transaction of which nothing else is in a tree: room for its end.
            txns.prepare(txn)?;
            // What can wait comes first: a page, then credit; then latches.
            let reservation = space.reserve(1)?;
            let id = only(reservation.pages())?;
            let mut credit = pool.credit(RECORD_BYTES, UNDO_DIRECTORY_BYTES, 2, false)?;
            let mut page = pool.create(id)?;
            let mut maps = space.latch_maps(&[id]).map_err(stopped)?;
            let init = init_payload(self.rm, KIND_DIRECTORY, &[]);
            let mut edits =
                vec![PageEdit { page: &mut page, op: OP_DIRECTORY, whole: Whole::Init, payload: &init }];
            edits.extend(set_bits(&mut maps));
            txns.update(txn, self.rm, &mut edits, &[UNDO_DIRECTORY], UNDO_DIRECTORY_BYTES, &mut credit)?;
            drop(edits);
            reservation.allocated(1);
            Ok(id)
        })?;
        tree.put(ROW, id.0.to_le_bytes())
    }

    /// Page `number` of the array; made if it is not there.
    fn counters(&self, txn: &Txn, directory: PageId, number: u32) -> Result<PageId> {
        let named = |page: &[u8]| -> Result<Option<PageId>> {
            Ok(links(directory, self.rm, page)?.into_iter().find(|(n, _)| *n == number).map(|(_, id)| id))
        };
        let (pool, space) = (self.pool(), self.engine.space());
        if let Some(id) = named(&pool.shared(directory)?)? {
            return Ok(id);
        }
        let reservation = space.reserve(1)?;
        let id = only(reservation.pages())?;
        let mut credit = pool.credit(RECORD_BYTES, 0, 3, false)?;
        let _pin = pool.fetch(directory)?;
        // Nobody else can reach the new page, so its latch comes first without harm.
        let mut page = pool.create(id)?;
        let mut above = pool.try_exclusive(directory).map_err(stopped)?;
        if let Some(id) = named(&above)? {
            return Ok(id); // made by another transaction meanwhile
        }
        let mut maps = space.latch_maps(&[id]).map_err(stopped)?;
        let (init, link) =
            (init_payload(self.rm, KIND_COUNTERS, &number.to_le_bytes()), link_payload(number, id));
        let mut edits = vec![
            PageEdit { page: &mut page, op: OP_COUNTERS, whole: Whole::Init, payload: &init },
            PageEdit { page: &mut above, op: OP_LINK, whole: Whole::No, payload: &link },
        ];
        edits.extend(set_bits(&mut maps));
        self.engine.txns().structure(Some(txn), self.rm, &mut edits, &mut credit)?;
        drop(edits);
        reservation.allocated(1);
        Ok(id)
    }

    /// Adds to counter `key`.
    pub(super) fn add(&self, tx: &WriteTxn, key: u32, amount: i64) -> Result<()> {
        let (number, slot) = (key / SLOTS, key % SLOTS);
        if number >= LINKS {
            return Err(Error::new(ErrorKind::InvalidArgument, format!("there is no counter {key}")));
        }
        let directory = Method::directory(tx.tree(TREE)?.get(ROW)?)?;
        let payload = add_payload(slot, amount, true);
        let undo = [&[UNDO_ADD][..], &slot.to_le_bytes(), &amount.to_le_bytes()].concat();
        tx.run(|txn| {
            let (pool, txns) = (self.pool(), self.engine.txns());
            txns.prepare(txn)?;
            let id = self.counters(txn, directory, number)?;
            let mut credit = pool.credit(RECORD_BYTES, RECORD_BYTES, 1, false)?;
            let mut page = pool.exclusive(id)?;
            check_counters(id, self.rm, number, &page)?;
            if counter(&page, slot).is_none_or(|c| c.additions == u32::MAX) {
                return Err(Error::new(ErrorKind::InvalidArgument, format!("counter {key} is worn out")));
            }
            let edit = PageEdit { page: &mut page, op: OP_ADD, whole: Whole::No, payload: &payload };
            txns.update(txn, self.rm, &mut [edit], &undo, RECORD_BYTES, &mut credit).map(|_| ())
        })
    }

    /// Every counter that somebody added to.
    pub(super) fn read(&self, directory: PageId) -> Result<BTreeMap<u32, Counter>> {
        let mut all = BTreeMap::new();
        let list = links(directory, self.rm, &self.pool().shared(directory)?)?;
        for (number, id) in list {
            let page = self.pool().shared(id)?;
            check_counters(id, self.rm, number, &page)?;
            for slot in 0..SLOTS {
                match counter(&page, slot) {
                    Some(c) if c != Counter::default() => {
                        all.insert(number * SLOTS + slot, c);
                    }
                    _ => {}
                }
            }
        }
        Ok(all)
    }
}

fn only(pages: &[PageId]) -> Result<PageId> {
    pages.first().copied().ok_or_else(|| Error::internal("a reservation without a page"))
}

fn set_bits<'a, 'p>(maps: &'a mut [(ExclusivePage<'p>, Vec<u8>)]) -> impl Iterator<Item = PageEdit<'a, 'p>> {
    maps.iter_mut().map(|(page, bits)| PageEdit { page, op: OP_SET, whole: Whole::No, payload: bits })
}
