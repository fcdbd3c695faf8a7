//! Rebuilding one page from the log: for a page that the disk cannot give, or gives damaged, or gives as an older version.
//!
//! The log that is retained is read once, from its oldest record to its durable end. A whole-page record of the page (image,
//! initialisation) is the base; every later record of the page is applied by the function that redo applies it with. Each
//! record says which version of the page it was made on, so a gap is seen. The result is used only if it is the version
//! that the disk should have held (`VER-7`).
//!
//! Nothing newer than the durable end can be missing: a page that is not in memory was clean when it left, and it was
//! written, with the log forced beyond it, before it was clean. In redo the log ends where recovery found its end.
//!
//! It is slow, and meant to be rare: nothing is remembered between two repairs, and no more memory is taken than for one
//! record and one chunk of the log. Where the log no longer reaches back to a whole-page record, the page stays damaged.
use crate::change::apply_block;
use crate::frame::Frame;
use crate::pool::REPAIRS_KEPT;
use crate::region::WriteGuard;
use crate::versions::version_tag;
use crate::{Applying, Pool, image};
use hamal_error::{Error, ErrorKind, Result};
use hamal_log::{Record, Whole};
use hamal_page::{Lsn, PageId, header};
use hamal_sync::atomic::Ordering::*;
use hamal_trace::{Event, WriteReason};

/// The page while its records go by.
struct Rebuild<'a> {
    pool: &'a Pool,
    id: PageId,
    page: &'a mut [u8],
    /// LSN of the whole-page record that `page` was last made from; `None`: `page` means nothing.
    base: Option<Lsn>,
    /// Why there is no base, if there was one.
    broken: Option<Error>,
}

impl Rebuild<'_> {
    fn see(&mut self, r: &Record) {
        for (i, b) in r.blocks.iter().enumerate().filter(|(_, b)| b.page == self.id) {
            let applied = match b.whole {
                Whole::Free => {
                    self.base = None;
                    continue;
                }
                Whole::No if self.base.is_none() => continue,
                Whole::No if header::page_lsn(self.page) != b.former => Err(format!(
                    "the record was made on version {} of the page, and the log has led to {}",
                    b.former,
                    header::page_lsn(self.page)
                )),
                Whole::Image => image::decode(r.payload(i), r.lsn, self.page).map_err(|e| e.0),
                whole => {
                    let at = Applying { lsn: r.lsn, txn: r.txn, page: self.id };
                    let img = header::img_lsn(self.page);
                    apply_block(&self.pool.managers, &at, r.rm, b.op, whole, r.payload(i), self.page)
                        .map(|()| {
                            header::set_page_lsn(self.page, r.lsn);
                            header::set_img_lsn(self.page, if whole == Whole::No { img } else { r.lsn });
                        })
                        .map_err(|e| e.0)
                }
            };
            match applied {
                Ok(()) if b.whole == Whole::No => {}
                Ok(()) => (self.base, self.broken) = (Some(r.lsn), None),
                Err(what) => {
                    self.base = None;
                    self.broken =
                        Some(Error::new(ErrorKind::LogCorrupt, what).with_page(self.id).with_lsn(r.lsn));
                }
            }
        }
    }
}

impl Pool {
    /// Rebuilds page `id` in `page`; the LSN of the whole-page record that it was rebuilt from. `known`: the tag that the
    /// version must have, 0 if that is not known.
    fn rebuild(&self, id: PageId, known: u16, page: &mut [u8]) -> Result<Lsn> {
        let mut rebuild = Rebuild { pool: self, id, page, base: None, broken: None };
        self.log.scan(|r| rebuild.see(r))?;
        let (base, broken) = (rebuild.base, rebuild.broken);
        let gone = |m: &str| Error::new(ErrorKind::NotFound, m).with_page(id);
        let base = base.ok_or_else(|| {
            broken.unwrap_or_else(|| gone("the log that is kept has no image of the page any more"))
        })?;
        if header::page_id(page) != id {
            return Err(gone("the log's image is one of another page"));
        }
        if known != 0 && known != version_tag(header::page_lsn(page)) {
            return Err(gone("the log does not lead to the version of the page that was written last"));
        }
        Ok(base)
    }

    /// The page could not be used as the disk has it, for `why`: rebuilds it in its frame, bound and dirty, or gives `why`
    /// back. The exclusive latch is held, and no other.
    pub(crate) fn repair(&self, id: PageId, guard: &mut WriteGuard<'_, Frame>, why: Error) -> Result<()> {
        let base = match self.rebuild(id, self.versions.get(id), guard.bytes_mut()) {
            Ok(base) => base,
            // What stopped the reading of the log is worth knowing; that there is no image is the ordinary case.
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(why),
            Err(e) => return Err(if why.cause().is_none() { why.with_cause(e) } else { why }),
        };
        let page_lsn = header::page_lsn(guard);
        let f = guard.desc();
        let before = f.is_dirty();
        f.bind(id, header::img_lsn(guard));
        // As redo marks a page that it rebuilds (T42). A checkpoint counts a mark below its floor as the floor, so this keeps
        // the image in the log only as long as nothing has been cut: the page is written soon.
        f.mark_rec(base);
        self.count_dirty(before, true);
        // Without it the page stands in debt, and the cleaner asks for the space again.
        if !before && self.reserve_images(self.image_cost()).is_ok() {
            f.owe();
        }
        self.versions.set(id, page_lsn);
        self.counters.repaired.fetch_add(1, Relaxed);
        let mut repairs = self.repairs.lock();
        if repairs.len() < REPAIRS_KEPT {
            repairs.push((id, why.message().to_owned()));
        }
        drop(repairs);
        self.trace.emit(|| Event::PageRepaired { page: id, base, page_lsn });
        Ok(())
    }

    /// Writes a page back that was repaired. No latch held. A failure is no failure of who wanted the page: it stays dirty.
    pub(crate) fn settle_repair(&self, id: PageId) {
        if self.in_redo.load(SeqCst) {
            // Nothing is appended before redo has looked at every page (T7).
            self.rebuilt_in_redo.lock().push(id);
        } else {
            let _ = self.flush_page_as(id, WriteReason::Repair);
        }
    }
}
