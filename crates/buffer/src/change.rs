//! The one way to change a page: mark, append, apply, set pageLSN.
use crate::frame::Mark;
use crate::{ApplyError, Applying, ExclusivePage, Managers, OpCredit, Pool};
use hamal_error::{Error, ErrorKind, Result};
use hamal_log::{Appended, Block, RecordKind, RecordSpec, TxnRef, Whole};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{Lsn, PageId, RmId, TreeId, TxnId, header};
use hamal_sync::atomic::{Ordering::SeqCst, fence};

/// Bytes at the front of an initialisation's payload that belong to the pool: manager, kind, tree.
pub(crate) const INIT_HEAD: usize = 6;

/// One page of a change: what is done to it.
#[derive(Debug)]
pub struct PageEdit<'a, 'p> {
    /// The page, latched by the caller.
    pub page: &'a mut ExclusivePage<'p>,
    /// Operation code.
    pub op: u8,
    /// Whether the page is made anew ([`Whole::Init`]: payload begins with manager id, kind, tree id as 1 + 1 + 4 bytes)
    /// or freed ([`Whole::Free`]: its frame is given up when the guard is dropped, unless a write is in flight).
    pub whole: Whole,
    /// Payload.
    pub payload: &'a [u8],
}

/// The record of a change, without its pages.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// Kind of the record.
    pub kind: RecordKind,
    /// Resource manager.
    pub rm: RmId,
    /// Transaction.
    pub txn: TxnRef,
    /// prevLSN or undoNextLSN.
    pub prev: Lsn,
    /// Undo bytes.
    pub undo: &'a [u8],
}

/// The manager whose pages a record of any manager may change in one breath with its own: the space maps. A split
/// names tree pages and the map page whose bits it sets.
pub const SHARED_RM: RmId = RmId(1);

/// The manager that applies a block: the owner of the page, or for a page made anew the owner that the payload names. It
/// must be the record's manager, or [`SHARED_RM`].
fn owner(rm: RmId, whole: Whole, payload: &[u8], page: &[u8]) -> std::result::Result<RmId, ApplyError> {
    let owner = match (whole, payload.first()) {
        (Whole::Init, Some(owner)) => RmId(*owner),
        (Whole::Init, None) => return Err(ApplyError("initialisation shorter than its head".into())),
        (Whole::Free, _) => return Ok(rm),
        _ => header::rm(page),
    };
    if owner == rm || owner == SHARED_RM {
        Ok(owner)
    } else {
        Err(ApplyError(format!("a record of manager {rm} changes a page of manager {owner}")))
    }
}

/// Makes `page` anew as an initialisation says; returns the payload that is left to apply. Total.
pub(crate) fn init_page<'a>(
    page: &mut [u8],
    id: PageId,
    payload: &'a [u8],
) -> std::result::Result<&'a [u8], ApplyError> {
    let Some((head, rest)) = payload.split_at_checked(INIT_HEAD) else {
        return Err(ApplyError("initialisation shorter than its head".into()));
    };
    let tree = TreeId(u32::from_le_bytes([head[2], head[3], head[4], head[5]]));
    hamal_page::init(page, id, RmId(head[0]), head[1], tree);
    Ok(rest)
}

/// Applies one block that is not an image to the page's bytes: the function that normal work and redo share
/// (`BUF-ONE-APPLY`). Sets neither pageLSN nor imgLSN.
pub(crate) fn apply_block(
    managers: &Managers,
    at: &Applying,
    rm: RmId,
    op: u8,
    whole: Whole,
    payload: &[u8],
    page: &mut [u8],
) -> std::result::Result<(), ApplyError> {
    let owner = owner(rm, whole, payload, page)?;
    let ops = managers
        .get(owner)
        .ok_or_else(|| ApplyError(format!("no resource manager {owner} is registered")))?;
    match whole {
        Whole::Free => Ok(()),
        Whole::Init => {
            let rest = init_page(page, at.page, payload)?;
            ops.apply(at, op, rest, page)
        }
        Whole::No if header::page_id(page) == at.page => ops.apply(at, op, payload, page),
        Whole::No => Err(ApplyError(format!("the page says that it is page {}", header::page_id(page)))),
        Whole::Image => Err(ApplyError("an image is no change".into())),
    }
}

impl Pool {
    /// The one way to change pages: marks them dirty with recLSN, appends one record that names them all, applies it
    /// to each page, sets pageLSN. `reserved` runs after the LSN is reserved and before the record can become durable.
    ///
    /// # Errors
    /// `Poisoned`; `Internal` with nothing changed if an edit is not allowed (an operation on a page of another manager,
    /// on a page that is not initialised or is freed, an image), the record exceeds the credit, or `check_apply` found
    /// the operation faulty; an operation that cannot be applied after its record was appended poisons the engine.
    pub fn change(
        &self,
        change: &Change<'_>,
        edits: &mut [PageEdit<'_, '_>],
        credit: &mut OpCredit<'_>,
        reserved: impl FnOnce(Appended),
    ) -> Result<Appended> {
        self.check()?;
        if self.managers.get(change.rm).is_none() {
            let m = format!("no resource manager {} is registered", change.rm);
            return Err(Error::new(ErrorKind::ResourceManager, m));
        }
        for edit in edits.iter() {
            self.check_edit(change, edit)?;
        }
        if self.options.check_apply {
            for edit in edits.iter() {
                self.rehearse(change, edit)?;
            }
        }

        // A panic from here on leaves pages half changed, or behind the log (BUF-POISON).
        edits.iter_mut().for_each(|e| e.page.changing = true);
        let done = self.log_and_apply(change, edits, credit, reserved);
        edits.iter_mut().for_each(|e| e.page.changing = false);
        done
    }

    fn log_and_apply(
        &self,
        change: &Change<'_>,
        edits: &mut [PageEdit<'_, '_>],
        credit: &mut OpCredit<'_>,
        reserved: impl FnOnce(Appended),
    ) -> Result<Appended> {
        self.mark_pages(edits, credit);
        let appended = match self.append_change(change, edits, credit, reserved) {
            Ok(appended) => appended,
            Err(e) => {
                self.unmark_pages(edits, credit);
                return Err(e);
            }
        };
        if mutants::is(Mutant::RecLsnLate) {
            let marked = edits.iter().filter(|e| e.page.marked.0 != Mark::None);
            marked.for_each(|e| e.page.guard.desc().move_mark(e.page.marked.0, self.log.tail()));
        }
        let txn = txn_of(change.txn, appended.lsn);
        for edit in edits.iter_mut() {
            self.apply_edit(change.rm, edit, appended.lsn, txn)?;
        }
        Ok(appended)
    }

    fn check_edit(&self, change: &Change<'_>, edit: &PageEdit<'_, '_>) -> Result<()> {
        let page = &*edit.page;
        let blank = page.fresh || page.guard.desc().dead();
        let wrong = match edit.whole {
            Whole::Image => "an image is logged by the pool alone",
            Whole::Init if edit.payload.len() < INIT_HEAD => {
                "an initialisation without manager, kind and tree"
            }
            Whole::Init => match owner(change.rm, edit.whole, edit.payload, page) {
                Ok(owner) if self.managers.get(owner).is_some() => return Ok(()),
                _ => "an initialisation for another manager than the record's",
            },
            Whole::No | Whole::Free if blank => "a change of a page that is not initialised",
            Whole::No if owner(change.rm, edit.whole, edit.payload, page).is_err() => {
                "an operation of one manager on a page of another"
            }
            Whole::No | Whole::Free => return Ok(()),
        };
        Err(Error::internal(wrong).with_page(page.id))
    }

    /// Sets rec or rec_next, with the present tail as a lower bound of the LSN to come (`BUF-REC`).
    fn mark_pages(&self, edits: &mut [PageEdit<'_, '_>], credit: &mut OpCredit<'_>) {
        let tail = self.log.tail();
        #[cfg(test)]
        edits.iter().for_each(|e| self.step(crate::tests::Step::TailRead, e.page.id));
        let mut set = false;
        for edit in edits {
            let f = edit.page.guard.desc();
            edit.page.marked = (Mark::None, false);
            if edit.whole == Whole::Free {
                // Nothing of a freed page has to reach the disk, its free record neither (BUF-FREE).
                continue;
            }
            let before = f.is_dirty();
            let mark = f.mark(tail);
            if mark != Mark::None {
                self.count_dirty(before, true);
                set = true;
                edit.page.marked = (mark, credit.move_token(f));
            }
        }
        if set {
            // Pairs with the fence in `publish_checkpoint`: a checkpoint whose begin record follows the one appended
            // next sees these marks in its scan, whatever orders the log's tail is advanced with (W-8).
            fence(SeqCst);
        }
    }

    fn unmark_pages(&self, edits: &[PageEdit<'_, '_>], credit: &mut OpCredit<'_>) {
        for edit in edits {
            let (f, (mark, token)) = (edit.page.guard.desc(), edit.page.marked);
            let before = f.is_dirty();
            f.unmark(mark);
            if token {
                credit.return_token(f);
            }
            self.count_dirty(before, f.is_dirty());
        }
    }

    fn append_change(
        &self,
        change: &Change<'_>,
        edits: &[PageEdit<'_, '_>],
        credit: &mut OpCredit<'_>,
        reserved: impl FnOnce(Appended),
    ) -> Result<Appended> {
        let append = |blocks: &[Block<'_>], credit: &mut OpCredit<'_>| {
            let Change { kind, rm, txn, prev, undo } = *change;
            self.log.append_with(&RecordSpec { kind, rm, txn, prev, blocks, undo }, &mut credit.log, reserved)
        };
        match edits {
            [] => append(&[], credit),
            [a] => append(&[block_of(a)], credit),
            [a, b] => append(&[block_of(a), block_of(b)], credit),
            many => append(&many.iter().map(block_of).collect::<Vec<_>>(), credit),
        }
    }

    /// Applies an edit whose record has been appended. A failure cannot be taken back: it stops the engine.
    fn apply_edit(&self, rm: RmId, edit: &mut PageEdit<'_, '_>, lsn: Lsn, txn: TxnId) -> Result<()> {
        let at = Applying { lsn, txn, page: edit.page.id };
        let img = edit.page.guard.desc().img();
        let bytes = edit.page.guard.bytes_mut();
        let applied = apply_block(&self.managers, &at, rm, edit.op, edit.whole, edit.payload, bytes);
        if let Err(ApplyError(what)) = applied {
            let m = format!("operation {} of manager {rm} could not be applied to its page: {what}", edit.op);
            return Err(self.log.poison(Error::internal(m).with_page(at.page).with_lsn(lsn)));
        }
        if mutants::is(Mutant::LatchBeforeLsn) {
            edit.page.guard.let_go_for_a_moment();
        }
        let bytes = edit.page.guard.bytes_mut();
        let whole = edit.whole != Whole::No;
        header::set_page_lsn(bytes, lsn);
        header::set_img_lsn(bytes, if whole { lsn } else { img });
        let f = edit.page.guard.desc();
        if whole {
            f.set_img(lsn);
            edit.page.fresh = false;
            f.set_dead(edit.whole == Whole::Free);
        }
        if edit.whole == Whole::Free {
            // The free record is a whole-page record: nothing before it is ever redone, so nothing of the page has to
            // reach the disk (BUF-FREE).
            let before = f.is_dirty();
            f.unmark_all();
            self.count_dirty(before, false);
            self.settle(f);
        }
        Ok(())
    }

    /// Applies the edit to two copies, to find an operation that fails, is not a function of its inputs, or touches what
    /// belongs to the pool, before anything is logged.
    fn rehearse(&self, change: &Change<'_>, edit: &PageEdit<'_, '_>) -> Result<()> {
        let tail = self.log.tail();
        let at = Applying { lsn: tail, txn: txn_of(change.txn, tail), page: edit.page.id };
        let mut copies = [edit.page.to_vec(), edit.page.to_vec()];
        let fail = |m: String| {
            Err(Error::internal(format!("operation {} of manager {}: {m}", edit.op, change.rm))
                .with_page(at.page))
        };
        for copy in &mut copies {
            let applied =
                apply_block(&self.managers, &at, change.rm, edit.op, edit.whole, edit.payload, copy);
            if let Err(ApplyError(what)) = applied {
                return fail(what);
            }
        }
        if copies[0] != copies[1] {
            return fail("applied twice to the same page it gave two results".into());
        }
        let page: &[u8] = edit.page;
        let untouched = |lsn: Lsn, img: Lsn| {
            header::page_lsn(&copies[0]) == lsn
                && header::img_lsn(&copies[0]) == img
                && header::page_id(&copies[0]) == at.page
        };
        let sound = match edit.whole {
            Whole::Init => untouched(Lsn::NULL, Lsn::NULL),
            _ => untouched(header::page_lsn(page), header::img_lsn(page)),
        };
        if sound {
            Ok(())
        } else {
            fail("it changed a field of the common header that belongs to the pool".into())
        }
    }
}

fn block_of<'a>(edit: &PageEdit<'a, '_>) -> Block<'a> {
    // Of a page that is made anew in place too (a root): the chain of former LSNs is how old rows are found (TXN-DEMOTED). A
    // frame that was just created may still show the page that had the number before: that is no predecessor.
    let none = edit.whole == Whole::Init && edit.page.fresh;
    let former = if none { Lsn::NULL } else { header::page_lsn(edit.page) };
    Block { page: edit.page.id, former, op: edit.op, whole: edit.whole, payload: edit.payload }
}

fn txn_of(txn: TxnRef, lsn: Lsn) -> TxnId {
    match txn {
        TxnRef::None => TxnId::NONE,
        TxnRef::First => TxnId(lsn.0),
        TxnRef::Id(id) => id,
    }
}
