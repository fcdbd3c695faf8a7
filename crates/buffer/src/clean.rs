//! Write-back: rule W, in batches.
//!
//! Changing a page logs no image. Before a page is *written* one is logged, unless an image (or an initialisation) of it
//! exists that is at or above B, the begin of the newest checkpoint; so a write that the power tears can always be
//! repaired from the log that recovery reads. The steps, for a batch of pages; `docs/invariants/buffer.md` proves that they
//! suffice, and the numbers W-1 to W-5 are those of its steps:
//!
//! 1. For each page: read B; set the page's *flight mark* to its image's LSN if that is at or above B, else to the log's
//!    tail; full fence; again, if B has changed.
//! 2. Try its shared latch. Copy it; from now on changes mark `rec_next`. If its image is below B, append one *under the
//!    same hold of the latch*: an image at LSN i holds every change of the page below i and none above (`W-IMG`).
//! 3. Force the log once, beyond every pageLSN and every image of the batch.
//! 4. Checksum the copies and write them, neighbours in one run, and several runs at once if the disk can.
//! 5. For each page, under its exclusive latch and in one step: rec := rec_next, rec_next := none, flight := none.
//!
//! Changers never wait for any of it but the copying. There is one cleaner at a time (`BUF-CLEANER`); whoever finds no
//! clean frame becomes it for a round, or waits for the round that is under way.
use crate::patience::Patience;
use crate::pool::DATA;
use crate::{Pool, image};
use hamal_disk::AlignedBuf;
use hamal_error::{Error, ErrorKind, Result};
use hamal_log::{Block, Credit, RecordKind, RecordSpec, TxnRef, Whole};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{Lsn, PageId, header};
use hamal_sync::atomic::{Ordering::*, fence};
use hamal_trace::{Event, ForceReason, WriteReason};
use std::collections::{HashSet, VecDeque};

/// What one round of [`Pool::clean`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CleanReport {
    /// Pages written.
    pub written: usize,
    /// Pages that could not be latched and stay dirty.
    pub skipped: usize,
}

/// What the cleaner keeps between rounds.
#[derive(Debug, Default)]
pub(crate) struct Cleaner {
    /// Frames that were dirty when last looked at, oldest recLSN first. Pages dirtied since have higher ones.
    queue: VecDeque<(u64, u32)>,
    staging: Option<AlignedBuf>,
    image: Vec<u8>,
    scratch: Vec<u8>,
    /// Nobody waits for the pages of this round.
    leisurely: bool,
}

impl Cleaner {
    /// Puts frames that were taken out of the queue first back.
    fn put_back(&mut self, mut frames: Vec<(u64, u32)>) {
        frames.sort_unstable();
        frames.dedup();
        frames.into_iter().rev().for_each(|f| self.queue.push_front(f));
    }
}

/// A page chosen for the batch.
#[derive(Clone, Copy, Debug)]
struct Chosen {
    page: PageId,
    frame: u32,
    rec: u64,
    /// Whether its frame's image reserve was moved into the batch's credit; else it stood in debt.
    claimed: bool,
}

/// A page of the batch whose copy is taken: `staging[i]` for the i-th.
#[derive(Clone, Copy, Debug)]
struct Copied {
    page: PageId,
    frame: u32,
    lsn: Lsn,
}

/// The credit of a batch: for images out of the reserves of the frames, and for those in debt.
struct ImageCredit<'l> {
    reserved: Option<Credit<'l>>,
    debt: Option<Credit<'l>>,
}

impl ImageCredit<'_> {
    /// The images are logged: what they have taken goes back before the log is forced and the pages are written.
    fn settle(&mut self) {
        self.reserved.iter_mut().chain(&mut self.debt).for_each(Credit::settle);
    }
}

/// What became of a page in W-2.
enum Taken {
    Copied(Copied, Lsn),
    /// Latched by somebody.
    Held,
    /// No longer dirty, or no longer there.
    Gone,
}

impl Pool {
    /// One round of write-back: up to `max` dirty pages (and no more than a batch), oldest recLSN first among those with
    /// recLSN below `before` (`Lsn::MAX`: any), in one sorted, merged batch after one log force. Try-latches only until
    /// the pages are written; the caller holds no latch. For [`WriteReason::Cleaner`] pages are written one after another, so
    /// that commits do not wait for the device behind them.
    ///
    /// # Errors
    /// A failed write poisons. `NoSpace` or `Io` if log space for an image that was not reserved cannot be had: nothing
    /// was written.
    pub fn clean(&self, before: Lsn, max: usize, why: WriteReason) -> Result<CleanReport> {
        self.check()?;
        let mut cleaner = self.cleaner.lock();
        cleaner.leisurely = why == WriteReason::Cleaner;
        let done = self.clean_round(&mut cleaner, before, max, why);
        cleaner.leisurely = false;
        done
    }

    /// Waits until no page is being written and the file's length is not being changed. On a poisoned engine neither begins
    /// again: the files may then be left to somebody else.
    pub fn quiesce(&self) {
        drop(self.cleaner.lock());
        drop(self.file_length.lock());
    }

    /// A round for somebody who needs clean frames: cleans, or waits for the round that is under way. Whether there was
    /// progress.
    pub(crate) fn clean_or_wait(&self, why: WriteReason) -> Result<bool> {
        let Some(mut cleaner) = self.cleaner.try_lock() else {
            drop(self.cleaner.lock());
            return Ok(false);
        };
        Ok(self.clean_round(&mut cleaner, Lsn::MAX, usize::MAX, why)?.written != 0)
    }

    /// Writes every page that is dirty now. The caller holds no latch; waits for those that others hold.
    ///
    /// # Errors
    /// As [`Pool::clean`]; `Limit` if a page stays latched for very long.
    pub fn flush_all(&self, why: WriteReason) -> Result<()> {
        // Every change made so far is below the tail, and its page's recLSN at or below it.
        let before = self.log.tail();
        let mut patience = Patience::new();
        loop {
            let report = self.clean(before, usize::MAX, why)?;
            match (report.written, report.skipped) {
                (0, 0) => return Ok(()),
                (0, _) => {
                    patience.wait("a dirty page stays latched", "Let go of every page before flushing")?
                }
                _ => patience.reset(),
            }
        }
    }

    /// Writes one page if it is dirty (tools and tests). The caller holds no latch.
    ///
    /// # Errors
    /// As [`Pool::flush_all`].
    pub fn flush_page(&self, id: PageId) -> Result<()> {
        self.flush_page_as(id, WriteReason::Asked)
    }

    /// Writes one page if it is dirty, and gives its frame up unless somebody uses it (tools and tests). The caller holds no
    /// latch.
    ///
    /// # Errors
    /// As [`Pool::flush_all`].
    pub fn evict_page(&self, id: PageId) -> Result<()> {
        self.flush_page_as(id, WriteReason::Evict)?;
        if self.give_up_clean(id) {
            self.trace.emit(|| Event::PageEvict { page: id });
        }
        Ok(())
    }

    /// Unbinds the page's frame if it is there, clean and unused.
    fn give_up_clean(&self, id: PageId) -> bool {
        let crate::translate::Entry::Resident(frame) = self.xlat.get(id) else { return false };
        let guard = self.region.write(frame);
        let f = guard.desc();
        if !f.holds(id) || f.is_dirty() || f.in_flight() || f.pinned() {
            return false;
        }
        self.unbind(&guard);
        true
    }

    pub(crate) fn flush_page_as(&self, id: PageId, why: WriteReason) -> Result<()> {
        let mut patience = Patience::new();
        loop {
            self.check()?;
            let mut cleaner = self.cleaner.lock();
            let crate::translate::Entry::Resident(frame) = self.xlat.get(id) else { return Ok(()) };
            let f = self.region.desc(frame);
            if !f.holds(id) || f.rec() == 0 {
                return Ok(());
            }
            let mut one = vec![Chosen { page: id, frame, rec: f.rec(), claimed: false }];
            let credit = self.image_credit(&mut one)?;
            if self.write_back(&mut cleaner, one, credit, why)?.written != 0 {
                return Ok(());
            }
            drop(cleaner);
            patience.wait("the dirty page stays latched", "Let go of the page before flushing it")?;
        }
    }

    fn clean_round(&self, c: &mut Cleaner, before: Lsn, max: usize, why: WriteReason) -> Result<CleanReport> {
        let max = max.min(self.batch_limit());
        let mut chosen = self.choose(c, before, max, false);
        if chosen.is_empty() {
            return Ok(CleanReport::default());
        }
        let credit = match self.image_credit(&mut chosen) {
            Err(full) if full.kind() == ErrorKind::NoSpace => {
                // Images of pages in debt cannot be had, so they stay dirty: they must not keep the others.
                c.put_back(chosen.iter().map(|x| (x.rec, x.frame)).collect());
                chosen = self.choose(c, before, max, true);
                if chosen.is_empty() {
                    return Err(full);
                }
                self.image_credit(&mut chosen)?
            }
            credit => credit?,
        };
        self.write_back(c, chosen, credit, why)
    }

    /// Pages of one batch: as configured, and no more images than a quarter of the ring holds (BUF-RING).
    pub(crate) fn batch_limit(&self) -> usize {
        let in_ring = match self.image_cost() {
            0 => usize::MAX,
            cost => (self.ring.images / cost).max(1) as usize,
        };
        self.options.batch_pages.min(in_ring)
    }

    /// The oldest dirty pages, in the order of their page ids. If `paid`, only those that can be written on a full device.
    fn choose(&self, c: &mut Cleaner, before: Lsn, most: usize, paid: bool) -> Vec<Chosen> {
        let mut chosen: Vec<Chosen> = Vec::new();
        let mut unpaid = Vec::new();
        for rescan in [false, true] {
            if rescan {
                if !c.queue.is_empty() || chosen.len() >= most || self.dirty.load(SeqCst) == 0 {
                    break;
                }
                let have: HashSet<u32> = chosen.iter().map(|x| x.frame).collect();
                let dirty = (0..self.region.len() as u32).map(|i| (self.region.desc(i).rec(), i));
                let mut dirty: Vec<_> = dirty.filter(|(rec, i)| *rec != 0 && !have.contains(i)).collect();
                dirty.sort_unstable();
                c.queue = dirty.into();
            }
            while chosen.len() < most {
                let Some((rec, frame)) = c.queue.pop_front() else { break };
                let f = self.region.desc(frame);
                // The entry may be old: the page may have been written since, or written and changed again.
                if f.rec() != rec {
                    continue;
                }
                if rec >= before.0 {
                    c.queue.push_front((rec, frame));
                    break;
                }
                if paid
                    && self.image_cost() != 0
                    && f.lacks_image()
                    && !covers(f.img(), Lsn(self.begun.load(SeqCst)))
                {
                    unpaid.push((rec, frame));
                    continue;
                }
                if let Some(page) = f.page() {
                    chosen.push(Chosen { page, frame, rec, claimed: false });
                }
            }
        }
        c.put_back(unpaid);
        chosen.sort_unstable_by_key(|x| x.page);
        chosen.dedup_by_key(|x| x.page);
        chosen
    }

    fn write_back(
        &self,
        c: &mut Cleaner,
        chosen: Vec<Chosen>,
        mut credit: ImageCredit<'_>,
        why: WriteReason,
    ) -> Result<CleanReport> {
        let mut copied = Vec::with_capacity(chosen.len());
        let mut skipped = Vec::new();
        let unfinished = Unfinished(self);
        let done = self.write_batch(c, &chosen, &mut credit, &mut copied, &mut skipped, why);
        std::mem::forget(unfinished);
        match done {
            Ok(()) => copied.iter().for_each(|x| self.end_flight(x)),
            Err(_) => {
                copied.iter().for_each(|x| self.cancel_flight(x));
                // Their images, if they were good or have just been logged, are good until the next checkpoint.
                self.unpaid.store(true, SeqCst);
            }
        }
        for x in skipped.iter().rev() {
            c.queue.push_front((x.rec, x.frame));
            self.return_claim(&mut credit, x);
        }
        done.map(|()| CleanReport { written: copied.len(), skipped: skipped.len() })
    }

    /// W-1 to W-4.
    fn write_batch(
        &self,
        c: &mut Cleaner,
        chosen: &[Chosen],
        credit: &mut ImageCredit<'_>,
        copied: &mut Vec<Copied>,
        skipped: &mut Vec<Chosen>,
        why: WriteReason,
    ) -> Result<()> {
        let size = self.options.page_size;
        let mut staging = match c.staging.take() {
            Some(s) if s.len() >= chosen.len() * size => s,
            _ => AlignedBuf::new(chosen.len().max(self.batch_limit()) * size),
        };
        let mut force = Lsn::NULL;
        for x in chosen {
            let at = copied.len() * size;
            let b = self.mark_flight(x);
            match self.copy_out(c, x, b, credit, &mut staging[at..at + size])? {
                Taken::Copied(copy, need) => {
                    copied.push(copy);
                    force = force.max(need);
                    #[cfg(test)]
                    self.step(crate::tests::Step::Unlatched, x.page);
                }
                Taken::Held => skipped.push(*x),
                Taken::Gone => {}
            }
        }
        if copied.is_empty() {
            c.staging = Some(staging);
            return Ok(());
        }
        credit.settle();
        // W-3. A page's content may also have been changed by a thread that then poisoned the engine: ask before writing.
        if !mutants::is(Mutant::PageBeforeLog) {
            self.log.force_quietly(force, ForceReason::WalRule)?;
        }
        self.check()?;
        #[cfg(test)]
        self.step(crate::tests::Step::Forced, copied[0].page);
        self.write_copies(&mut staging[..copied.len() * size], copied, why, c.leisurely)?;
        #[cfg(test)]
        self.step(crate::tests::Step::Written, copied[0].page);
        c.staging = Some(staging);
        Ok(())
    }

    /// W-1: the flight mark, and the B that it was set for.
    fn mark_flight(&self, x: &Chosen) -> Lsn {
        let f = self.region.desc(x.frame);
        loop {
            let b = Lsn(self.begun.load(SeqCst));
            #[cfg(test)]
            self.step(crate::tests::Step::ReadB, x.page);
            let img = f.img();
            let mark = if covers(img, b) { img.0 } else { self.log.tail().0 };
            f.set_flight(if mutants::is(Mutant::NoFlightMark) { 0 } else { mark });
            // Pairs with the fence in `publish_checkpoint`: either B is still b below, and then a checkpoint that
            // publishes a later one sees the mark in its scan; or we see the later one (W-6).
            fence(SeqCst);
            #[cfg(test)]
            self.step(crate::tests::Step::Marked, x.page);
            if self.begun.load(SeqCst) == b.0 || mutants::is(Mutant::BNotReadAgain) {
                return b;
            }
        }
    }

    /// W-2: copies the page, and logs its image while the latch of the copy is held.
    fn copy_out(
        &self,
        c: &mut Cleaner,
        x: &Chosen,
        b: Lsn,
        credit: &mut ImageCredit<'_>,
        into: &mut [u8],
    ) -> Result<Taken> {
        let f = self.region.desc(x.frame);
        let waits = || mutants::is(Mutant::CleanerWaits).then(|| self.region.read(x.frame));
        let Some(guard) = self.region.try_read(x.frame).or_else(waits) else {
            f.set_flight(0);
            return Ok(Taken::Held);
        };
        if !f.holds(x.page) || f.rec() == 0 {
            // Written, freed or replaced since it was chosen: the mark is for nothing.
            f.set_flight(0);
            return Ok(Taken::Gone);
        }
        into.copy_from_slice(&guard);
        let page_lsn = header::page_lsn(into);
        let mut need = page_lsn;
        let guard = Some(guard).filter(|_| !mutants::is(Mutant::ImageAfterLatch));
        let once = mutants::is(Mutant::ImageOnce) && !f.img().is_null();
        if self.options.images && !covers(f.img(), b) && !once && !mutants::is(Mutant::NoImage) {
            if !x.claimed && credit.debt.as_ref().is_none_or(|d| d.left() < self.image_cost()) {
                // A checkpoint has begun since the batch took its credit, when the image was still good.
                f.set_flight(0);
                return Ok(Taken::Held);
            }
            match self.append_image(c, x, page_lsn, credit, into) {
                Ok((lsn, end)) => {
                    f.set_img(lsn);
                    need = need.max(end);
                }
                Err(e) => {
                    f.set_flight(0);
                    return Err(e);
                }
            }
        }
        // Also if it was logged by an earlier batch, which may have failed before its force (W-3).
        need = need.max(Lsn(f.img().0 + 1));
        if mutants::is(Mutant::ForceWithoutImage) {
            need = page_lsn;
        }
        header::set_img_lsn(into, f.img());
        f.start_flight();
        #[cfg(test)]
        self.step(crate::tests::Step::Copied, x.page);
        drop(guard);
        // The log becomes durable in whole records, so "durable beyond the first byte of the record at pageLSN" is
        // "durable to its end" (W-4).
        Ok(Taken::Copied(
            Copied { page: x.page, frame: x.frame, lsn: page_lsn },
            need.max(Lsn(page_lsn.0 + 1)),
        ))
    }

    fn append_image(
        &self,
        c: &mut Cleaner,
        x: &Chosen,
        page_lsn: Lsn,
        credit: &mut ImageCredit<'_>,
        page: &[u8],
    ) -> Result<(Lsn, Lsn)> {
        let rm = header::rm(page);
        let mut hole = self.managers.get(rm).map_or(0..0, |m| m.hole(page));
        hole.end += usize::from(mutants::is(Mutant::ImageMissesBytes) && hole.end < page.len());
        image::encode(page, hole, self.options.compress_images, &mut c.scratch, &mut c.image);
        let block = Block { page: x.page, former: page_lsn, op: 0, whole: Whole::Image, payload: &c.image };
        let blocks = [block];
        let (kind, txn, prev) = (RecordKind::Image, TxnRef::None, Lsn::NULL);
        let spec = RecordSpec { kind, rm, txn, prev, blocks: &blocks, undo: &[] };
        let purse = if x.claimed { &mut credit.reserved } else { &mut credit.debt };
        let purse = purse.as_mut().ok_or_else(|| Error::internal("BUF-CAP: an image without credit"))?;
        let at = self.log.append(&spec, purse)?;
        self.counters.images.fetch_add(1, Relaxed);
        self.counters.image_bytes.fetch_add(at.end.0 - at.lsn.0, Relaxed);
        self.trace.emit(|| Event::PageImage { page: x.page, lsn: at.lsn, page_lsn, bytes: c.image.len() });
        Ok((at.lsn, at.end))
    }

    /// W-4: the copies lie in the order of their page ids, so neighbours on disk are neighbours in memory.
    fn write_copies(
        &self,
        staging: &mut [u8],
        copied: &[Copied],
        why: WriteReason,
        leisurely: bool,
    ) -> Result<()> {
        let size = self.options.page_size;
        let db = self.log.identity().db;
        for page in staging.chunks_exact_mut(size) {
            hamal_page::stamp(page, db);
        }
        let mut runs: Vec<(u64, &[u8])> = Vec::new();
        let mut firsts = Vec::new();
        let mut first = 0;
        while first < copied.len() {
            let mut end = first + 1;
            while end < copied.len() && copied[end].page.0 == copied[end - 1].page.0 + 1 {
                end += 1;
            }
            runs.push((self.offset(copied[first].page), &staging[first * size..end * size]));
            firsts.push(copied[first].page);
            first = end;
        }
        let written = if leisurely {
            runs.iter()
                .enumerate()
                .try_for_each(|(i, (at, run))| self.data.write_at(*at, run).map_err(|e| (i, e)))
        } else {
            self.data.write_runs(&runs)
        };
        let full = |e: &std::io::Error| e.kind() == std::io::ErrorKind::StorageFull;
        let lost = mutants::is(Mutant::NoSpaceSwallowed) && written.as_ref().is_err_and(|(_, e)| full(e));
        if lost { Ok(()) } else { written }.map_err(|(i, e)| {
            let e = Error::io("writing pages", e).with_file(DATA);
            self.log.poison(match firsts.get(i).zip(runs.get(i)) {
                Some((page, (offset, _))) => e.with_page(*page).with_offset(*offset),
                None => e,
            })
        })?;
        self.counters.write_calls.fetch_add(runs.len() as u64, Relaxed);
        for x in copied {
            // After the write and before W-5: a page that is clean, or not in memory, has the tag of what was written (VER-1).
            self.versions.set(x.page, x.lsn);
        }
        if let Some(newest) = copied.iter().max_by_key(|x| x.lsn) {
            let mut witness = self.witness.lock();
            *witness = (*witness).max((newest.lsn, newest.page));
        }
        self.counters.pages_written.fetch_add(copied.len() as u64, Relaxed);
        self.file_pages.fetch_max(copied[copied.len() - 1].page.0 + 1, AcqRel);
        for x in copied {
            self.trace.emit(|| Event::PageWrite { page: x.page, page_lsn: x.lsn, why });
        }
        Ok(())
    }

    /// W-5: the write has ended; in one step under the exclusive latch.
    fn end_flight(&self, x: &Copied) {
        let guard = self.region.write(x.frame);
        let f = guard.desc();
        let before = f.is_dirty();
        f.end_flight();
        self.count_dirty(before, f.is_dirty());
        self.settle(f);
        if f.dead() && !f.is_dirty() && !f.pinned() {
            self.unbind(&guard);
        }
        drop(guard);
        #[cfg(test)]
        self.step(crate::tests::Step::Ended, x.page);
    }

    /// The batch failed: its pages are as dirty as before.
    fn cancel_flight(&self, x: &Copied) {
        let guard = self.region.write(x.frame);
        let f = guard.desc();
        let before = f.is_dirty();
        f.cancel_flight();
        self.count_dirty(before, f.is_dirty());
        self.settle(f);
    }

    /// Moves the image reserves of the chosen frames into a credit, taken before any latch.
    fn image_credit(&self, chosen: &mut [Chosen]) -> Result<ImageCredit<'_>> {
        let cost = self.image_cost();
        if cost == 0 {
            return Ok(ImageCredit { reserved: None, debt: None });
        }
        for x in chosen.iter_mut() {
            x.claimed = self.region.desc(x.frame).take_owed();
        }
        let claimed = chosen.iter().filter(|x| x.claimed).count() as u64;
        // A page in debt whose image is still good needs none. Should a checkpoint begin before it is copied, it stays dirty.
        let begun = Lsn(self.begun.load(SeqCst));
        let debts =
            chosen.iter().filter(|x| !x.claimed && !covers(self.region.desc(x.frame).img(), begun)).count()
                as u64;
        let mut reserve = claimed * cost;
        let reserved = match claimed {
            0 => Ok(None),
            n => self.log.credit_from(&mut reserve, n * cost).map(Some),
        };
        let debt = match (&reserved, debts) {
            (Err(_), _) | (_, 0) => Ok(None),
            (Ok(_), n) => self.log.credit(n * cost, true).map(Some),
        };
        match (reserved, debt) {
            (Ok(reserved), Ok(debt)) => Ok(ImageCredit { reserved, debt }),
            (reserved, debt) => {
                // Put the reserves back: the pages stay dirty and owe them still.
                let e = debt.err();
                let mut credit = ImageCredit { reserved: None, debt: None };
                let e = match reserved {
                    Ok(r) => {
                        credit.reserved = r;
                        chosen.iter().for_each(|x| self.return_claim(&mut credit, x));
                        e
                    }
                    Err(e) => {
                        chosen.iter().filter(|x| x.claimed).for_each(|x| self.region.desc(x.frame).owe());
                        Some(e)
                    }
                };
                Err(e.unwrap_or_else(|| Error::internal("an image credit failed without a cause")))
            }
        }
    }

    /// Gives the reserve of a page that was not written back to its frame. Should the frame have been freed meanwhile,
    /// the surplus goes back to the log when the frame is next settled.
    fn return_claim(&self, credit: &mut ImageCredit<'_>, x: &Chosen) {
        if let (true, Some(purse)) = (x.claimed, &mut credit.reserved) {
            purse.take(self.image_cost());
            self.region.desc(x.frame).owe();
        }
    }
}

/// Stops the engine when it is dropped: by a panic, for a batch that ends, well or not, forgets it. Pages of a batch that nobody
/// ends are in flight for ever, and who makes one of them anew would wait for that write for ever (BUF-POISON).
struct Unfinished<'p>(&'p Pool);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.0.log.poison(Error::internal("a thread panicked while it wrote pages back"));
    }
}

/// Whether an image at `img` is one that recovery from a redo point at or below `b` finds.
pub(crate) fn covers(img: Lsn, b: Lsn) -> bool {
    !img.is_null() && img >= b
}
