//! What recovery uses: pages to which records are applied without being logged again.
//!
//! A page is latched exclusively from its first record to its last (`BUF-REDO`): it can be neither written nor imaged half
//! redone, and an image made after that holds all of its records (trap T2). B is the redo point recovered from meanwhile,
//! so however often recovery crashes, each page is imaged once.
use crate::change::apply_block;
use crate::frame::Frame;
use crate::region::WriteGuard;
use crate::translate::Entry;
use crate::{ApplyError, Applying, Pool, image};
use hamal_error::{Error, ErrorKind, Result};
use hamal_log::Whole;
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{HEADER_LEN, Lsn, PageId, RmId, TxnId, header};
use hamal_sync::atomic::Ordering::*;
use hamal_trace::WriteReason;
use std::fmt;
use std::ops::Deref;

/// A page under the exclusive latch in redo, where applying logs nothing.
pub struct RedoPage<'p> {
    pool: &'p Pool,
    guard: WriteGuard<'p, Frame>,
    id: PageId,
    /// Nothing was read and no whole-page record applied yet: the bytes mean nothing.
    blank: bool,
    /// What `set_dirty` should be called with: LSN of the whole-page record it was rebuilt from, else of the first applied.
    rec: Lsn,
}

impl RedoPage<'_> {
    /// The page's id.
    pub fn id(&self) -> PageId {
        self.id
    }
    /// pageLSN of the page as it is now; null while it is blank.
    pub fn page_lsn(&self) -> Lsn {
        header::page_lsn(&self.guard)
    }

    /// The page as the disk has it is an older version than the log goes on from: rebuilds it from a whole-page record that
    /// the log still has, wherever, and all records after it. It is dirty then, and as new as the log's end, where its pageLSN
    /// must be `last`.
    ///
    /// # Errors
    /// `StalePage` if the log does not reach back, with `what` in its message. The page is then forgotten.
    pub fn rebuild(&mut self, last: Lsn, what: &str) -> Result<()> {
        self.pool.versions.set(self.id, last);
        let why = self.pool.stale(self.id, self.page_lsn(), what);
        if let Err(e) = self.pool.repair(self.id, &mut self.guard, why) {
            self.blank = true;
            self.rec = Lsn::NULL;
            return Err(e);
        }
        self.rec = Lsn::NULL;
        self.pool.settle_repair(self.id);
        Ok(())
    }

    /// Applies one block of a record (for [`Whole::Image`] and [`Whole::Init`] the page is replaced; an image restores the
    /// pageLSN inside it, everything else sets pageLSN to `lsn`) and sets imgLSN where the block is whole.
    ///
    /// # Errors
    /// `LogCorrupt` naming page and LSN if it cannot be applied; `ResourceManager` if the manager is not registered.
    pub fn apply(
        &mut self,
        lsn: Lsn,
        txn: TxnId,
        rm: RmId,
        op: u8,
        whole: Whole,
        payload: &[u8],
    ) -> Result<()> {
        let (pool, id, blank) = (self.pool, self.id, self.blank);
        let f = self.guard.desc();
        let img = f.img();
        let page = self.guard.bytes_mut();
        let applied = match whole {
            Whole::Image => image::decode(payload, lsn, page).and_then(|()| {
                match (header::page_id(page), header::rm(page)) {
                    found if found == (id, rm) => Ok(()),
                    (p, m) => Err(ApplyError(format!("it is an image of page {p} of manager {m}"))),
                }
            }),
            Whole::No if blank => Err(ApplyError("the page it changes was neither read nor rebuilt".into())),
            _ => {
                if pool.managers.get(rm).is_none() {
                    let m = format!("no resource manager {rm} is registered");
                    return Err(Error::new(ErrorKind::ResourceManager, m).with_page(id).with_lsn(lsn));
                }
                let at = Applying { lsn, txn, page: id };
                apply_block(&pool.managers, &at, rm, op, whole, payload, page).map(|()| {
                    if whole != Whole::No || !mutants::is(Mutant::RedoKeepsPageLsn) {
                        header::set_page_lsn(page, lsn);
                    }
                    header::set_img_lsn(page, if whole == Whole::No { img } else { lsn });
                })
            }
        };
        if let Err(ApplyError(what)) = applied {
            // The bytes are undefined now and must not be written: forget that they are a page.
            self.blank = true;
            self.rec = Lsn::NULL;
            let m = format!("the record cannot be applied to its page: {what}");
            return Err(Error::new(ErrorKind::LogCorrupt, m).with_page(id).with_lsn(lsn));
        }
        if whole != Whole::No {
            f.set_img(lsn);
            f.set_dead(whole == Whole::Free);
            self.blank = false;
            self.rec = lsn;
        } else if self.rec.is_null() {
            self.rec = lsn;
        }
        Ok(())
    }

    /// Marks the page dirty with this recLSN (T42: the LSN of the whole-page record it was rebuilt from, else its first
    /// record applied). Reserves the image's log space beyond the limit. A page to which something was applied is marked
    /// so on drop, if it was not before; a freed page is not: nothing of it has to reach the disk.
    pub fn set_dirty(&mut self, rec: Lsn) {
        let f = self.guard.desc();
        if f.dead() || self.blank || rec.is_null() {
            return;
        }
        let before = f.is_dirty();
        f.mark_rec(rec);
        self.rec = Lsn::NULL;
        if !before {
            self.pool.count_dirty(false, true);
            // Without it the page stands in debt, and the cleaner asks for the space again.
            if self.pool.reserve_images(self.pool.image_cost()).is_ok() {
                f.owe();
            }
        }
    }
}

impl Deref for RedoPage<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.guard
    }
}

impl Drop for RedoPage<'_> {
    fn drop(&mut self) {
        if hamal_sync::thread::panicking() {
            let e = Error::internal("a thread panicked while it redid a page").with_page(self.id);
            self.pool.log.poison(e);
            return;
        }
        if !self.rec.is_null() {
            self.set_dirty(self.rec);
        }
        let f = self.guard.desc();
        if self.blank || f.dead() {
            let before = f.is_dirty();
            f.unmark_all();
            self.pool.count_dirty(before, false);
            self.pool.settle(f);
            f.set_dead(true);
            if !f.in_flight() && !f.pinned() {
                self.pool.unbind(&self.guard);
            }
        }
    }
}

impl fmt::Debug for RedoPage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedoPage")
            .field("id", &self.id)
            .field("page_lsn", &self.page_lsn())
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// Enters redo: B is the redo point recovered from, so that images at or above it are not logged again (T2).
    pub fn begin_redo(&self, redo_point: Lsn) {
        self.publish_checkpoint(match redo_point {
            _ if mutants::is(Mutant::RedoImagesAgain) => self.log.tail(),
            _ if mutants::is(Mutant::ImageInRedoMissing) => Lsn(1),
            b => b,
        });
        self.in_redo.store(true, SeqCst);
    }

    /// A page to redo. With `read` it is read from disk and checked; without, it starts as zeros (a whole-page record
    /// follows), and the file grows to hold it if need be. Only between `begin_redo` and `end_redo`.
    ///
    /// # Errors
    /// `PageCorrupt` if it is damaged and no image is in reach (corruption, by the lemma of rule W), `PageUnreadable`,
    /// `NoSpace`.
    pub fn redo_page(&self, id: PageId, read: bool) -> Result<RedoPage<'_>> {
        if !self.in_redo.load(SeqCst) {
            return Err(Error::internal("BUF-REDO: a page is redone outside redo").with_page(id));
        }
        if read {
            let guard = self.write_latch(id)?;
            return Ok(RedoPage { pool: self, guard, id, blank: false, rec: Lsn::NULL });
        }
        if id.0 >= crate::translate::Translation::PAGES {
            let m = "a record names a page beyond what a data file can hold";
            return Err(Error::new(ErrorKind::LogCorrupt, m).with_page(id));
        }
        self.grow_to(id.0 + 1)?;
        // The header alone: a whole-page record sets every byte, and before it there is no page.
        let mut guard = self.bind_new(id, HEADER_LEN)?;
        if guard.desc().is_dirty() || guard.desc().in_flight() {
            // Redone before, in this very redo: go on from there.
            return Ok(RedoPage { pool: self, guard, id, blank: false, rec: Lsn::NULL });
        }
        guard.bytes_mut()[..HEADER_LEN].fill(0);
        guard.desc().bind(id, Lsn::NULL);
        Ok(RedoPage { pool: self, guard, id, blank: true, rec: Lsn::NULL })
    }

    /// Leaves redo, and writes the pages back that were rebuilt from the log meanwhile (which logs an image of each, so that
    /// they can be rebuilt again should that write be torn).
    ///
    /// # Errors
    /// As [`Pool::flush_page`].
    pub fn end_redo(&self) -> Result<()> {
        self.in_redo.store(false, SeqCst);
        let rebuilt = std::mem::take(&mut *self.rebuilt_in_redo.lock());
        rebuilt.into_iter().try_for_each(|page| self.flush_page_as(page, WriteReason::Repair))
    }

    /// Drops a page from memory without writing it, if nobody uses it (recovery of freed pages). What the page owed to
    /// the disk is forgotten. The caller holds no latch.
    pub fn forget(&self, id: PageId) {
        while let Entry::Resident(frame) | Entry::Loading(frame) = self.xlat.get(id) {
            let guard = self.region.write(frame);
            let f = guard.desc();
            if !f.holds(id) {
                continue;
            }
            if f.pinned() {
                return;
            }
            let before = f.is_dirty();
            f.unmark_all();
            self.count_dirty(before, false);
            self.settle(f);
            if f.in_flight() {
                // Its frame stays until the write has ended (BUF-XLAT: one write in flight per page id).
                f.set_dead(true);
            } else {
                self.unbind(&guard);
            }
            return;
        }
    }
}
