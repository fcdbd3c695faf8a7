//! Admission: everything that a change will need and might have to wait for, taken before its first latch.
//!
//! A credit holds ring space and log space for the records, and one *page token* for each page that may become dirty. A
//! token is a place under the dirty cap together with the log space of the image that the page will owe when it is
//! written; it moves into the frame's account when the page becomes dirty. So (`BUF-CAP`) dirty pages never exceed what
//! the log has room to image, and readers always find clean frames.
//!
//! A credit of an undoable change also holds the image of each page that its undo may have to dirty again, and the undo's
//! share of a group's padding and seal: the transaction takes them over with the record (`TXN-ROOM`), so that a rollback
//! never waits for the device.
//!
//! `BUF-RING`: outstanding credits hold at most half of the ring, or one that is alone what [`RingShares`] allows. A
//! thread with a credit may wait for a frame, and so for the cleaner, which needs ring space for images: that space must
//! not all be in the hands of those who wait for it.
use crate::Pool;
use crate::clean::covers;
use crate::frame::Frame;
use crate::patience::Patience;
use crate::pool::IMAGE_EXTRA;
use hamal_error::{Error, ErrorKind, Result};
use hamal_log::Credit;
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::Lsn;
use hamal_sync::atomic::Ordering::*;
use hamal_trace::WriteReason;
use std::fmt;

/// How often a system operation tries to make room before it goes beyond the caps: it must not fail for them.
const SYSTEM_TRIES: u32 = 200;

/// How the ring is shared out (`BUF-RING`). What may be held by somebody who waits for another share adds up to no more
/// than the ring: credits of changes, one batch of images, one credit taken of the log directly (a chunk of a
/// checkpoint's tables, the record that ends a transaction), padding and a seal.
#[derive(Clone, Copy, Debug)]
pub struct RingShares {
    /// Credits of changes all together.
    pub changes: u64,
    /// The credit of a change that is alone.
    pub one_change: u64,
    /// Images of one batch of the cleaner.
    pub images: u64,
}

impl RingShares {
    /// The shares in a ring of `ring` bytes, or `None` if it is too small: a change must be able to log the longest
    /// record, and the cleaner one image. `pad` is that of the log.
    pub fn of(ring: u64, page_size: usize, max_record: usize, pad: usize) -> Option<RingShares> {
        let changes = ring / 2;
        let images = (ring / 4).max(page_size as u64 + IMAGE_EXTRA);
        let direct = Self::direct(ring) + DIRECT_EXTRA;
        let one_change = ring.checked_sub(images + direct + 2 * pad as u64)?;
        let fits = changes.max(max_record as u64) <= one_change;
        fits.then_some(RingShares { changes, one_change, images })
    }

    /// The most bytes of data in a record for which credit is taken of the log directly.
    pub fn direct(ring: u64) -> u64 {
        ring / 16
    }
}

/// What such a record takes beside its data, generously.
const DIRECT_EXTRA: u64 = 256;

/// Credit for a logged change: log space for the records and for the images that the pages it dirties will owe.
/// Taken before the first latch; what is left is given back on drop.
pub struct OpCredit<'p> {
    pool: &'p Pool,
    pub(crate) log: Credit<'p>,
    tokens: u64,
    ring: u64,
    /// Images set aside for an undo, and log space for its share of a group.
    undo_images: u64,
    undo_group: u64,
    /// Log space for undo reserves that takes no ring space.
    undo_bytes: u64,
    /// For an undo on a full device: no token for a page that needs no image now (`TXN-ROOM`).
    thrifty: bool,
}

impl OpCredit<'_> {
    /// Moves `bytes` of log space out, as an undo reserve that its owner gives back with
    /// [`Log::give_back`](hamal_log::Log::give_back).
    ///
    /// # Panics
    /// If the credit has less left (a bug in the caller's worst case).
    pub fn take_undo(&mut self, bytes: u64) -> u64 {
        let beside = bytes.min(self.undo_bytes);
        self.undo_bytes -= beside;
        self.log.take_reserved(beside);
        beside + self.log.take(bytes - beside)
    }
    /// Of a credit of [`Pool::credit_run`]: only `parts` of what was asked for will have to be undone.
    pub fn limit_undo(&mut self, parts: usize) {
        // What is no longer counted goes back with the credit.
        self.undo_group = self.undo_group.min(self.pool.undo_group_bytes() * parts as u64);
    }
    /// Moves at most `most` of the images set aside for an undo out: log space of [`Pool::image_bytes`] bytes each, which the
    /// owner gives back with [`Log::give_back`](hamal_log::Log::give_back). Returns how many.
    pub fn take_undo_images(&mut self, most: u64) -> u64 {
        let images = most.min(self.undo_images);
        self.undo_images -= images;
        self.log.take_reserved(images * self.pool.image_cost());
        images
    }
    /// Moves the undo's share of a group out: log space that its owner gives back. Returns the bytes.
    pub fn take_undo_group(&mut self) -> u64 {
        let bytes = std::mem::take(&mut self.undo_group);
        self.log.take_reserved(bytes);
        bytes
    }
    /// Whether it was made by [`Pool::credit_thrifty`].
    pub fn is_thrifty(&self) -> bool {
        self.thrifty
    }
    /// Moves the log space of the tokens that are left out; how many images.
    pub fn take_images(&mut self) -> u64 {
        let left = std::mem::take(&mut self.tokens);
        self.pool.promised.fetch_sub(left, SeqCst);
        self.log.take_reserved(left * self.pool.image_cost());
        left
    }
    /// Bytes left for records.
    pub fn bytes_left(&self) -> u64 {
        self.log.left()
    }
    /// Pages that may still become dirty.
    pub fn pages_left(&self) -> usize {
        self.tokens as usize
    }

    /// Moves a token into a frame that has just been marked; `false` if there is none left: the frame then stands in
    /// debt, and the cleaner gets the image's space beyond the limit.
    pub(crate) fn move_token(&mut self, frame: &Frame) -> bool {
        if self.thrifty && covers(frame.img(), Lsn(self.pool.begun.load(SeqCst))) {
            // It will be written without an image; a checkpoint pays before it changes that (TXN-ROOM).
            self.pool.unpaid.store(true, SeqCst);
            return false;
        }
        if self.tokens == 0 {
            return false;
        }
        self.tokens -= 1;
        self.log.take_reserved(self.pool.image_cost());
        frame.owe();
        self.pool.promised.fetch_sub(1, SeqCst);
        true
    }
    /// Takes it back: the mark was taken back.
    pub(crate) fn return_token(&mut self, frame: &Frame) {
        if frame.take_owed() {
            self.tokens += 1;
            self.log.put_reserved(self.pool.image_cost());
            self.pool.promised.fetch_add(1, SeqCst);
        }
    }
}

impl Drop for OpCredit<'_> {
    fn drop(&mut self) {
        // The log space of what is left goes back with the log's credit.
        if self.tokens != 0 {
            self.pool.promised.fetch_sub(self.tokens, SeqCst);
        }
        self.pool.ring_used.fetch_sub(self.ring, SeqCst);
    }
}

impl fmt::Debug for OpCredit<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpCredit").field("bytes", &self.log.left()).field("pages", &self.tokens).finish()
    }
}

/// Places under the caps, given back on drop unless a credit takes them over.
struct Admitted<'p> {
    pool: &'p Pool,
    tokens: u64,
    ring: u64,
}

impl<'p> Admitted<'p> {
    fn into_credit(mut self, log: Credit<'p>) -> OpCredit<'p> {
        let (tokens, ring) = (std::mem::take(&mut self.tokens), std::mem::take(&mut self.ring));
        OpCredit {
            pool: self.pool,
            log,
            tokens,
            ring,
            undo_images: 0,
            undo_group: 0,
            undo_bytes: 0,
            thrifty: false,
        }
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.pool.promised.fetch_sub(self.tokens, SeqCst);
        self.pool.ring_used.fetch_sub(self.ring, SeqCst);
    }
}

impl Pool {
    /// Credit for a change: `record_bytes` of records (worst case, all records of the operation), `undo_bytes` that the
    /// caller will take as undo reserve, and images for at most `pages` pages that become dirty (count a page once for
    /// each time its latch is taken). If there is an undo to reserve for, as many images again for it, and its share of a
    /// group. May write pages and sync the log to make room: the caller holds no latch.
    ///
    /// # Errors
    /// `LogFull` (not for `system`), `NoSpace`, `Poisoned`, `Limit` (more pages than may be dirty at once, or than can
    /// be written back).
    pub fn credit(
        &self,
        record_bytes: u64,
        undo_bytes: u64,
        pages: usize,
        system: bool,
    ) -> Result<OpCredit<'_>> {
        let (undo_images, undo_group) = match undo_bytes {
            0 => (0, 0),
            _ => (pages, self.undo_group_bytes()),
        };
        self.credit_with_images(record_bytes + undo_bytes, pages, undo_images, undo_group, system)
    }

    /// Credit for an undoable change of one page that may be undone in as many as `parts` parts: [`Pool::credit`], with
    /// `undo_bytes` and a share of a group for the CLR of each. These take no space of the ring, however many they are.
    ///
    /// # Errors
    /// As there.
    pub fn credit_run(&self, record_bytes: u64, undo_bytes: u64, parts: usize) -> Result<OpCredit<'_>> {
        let (parts, group) = (parts as u64, self.undo_group_bytes());
        let mut credit = self.credit_with_images(record_bytes, 1, 1, parts * (undo_bytes + group), false)?;
        (credit.undo_bytes, credit.undo_group) = (parts * undo_bytes, parts * group);
        Ok(credit)
    }

    /// Credit for a structure change that may spread the rows of live transactions over `spread` pages more than held them:
    /// [`Pool::credit`], and an image for the undo on each of those pages.
    ///
    /// # Errors
    /// As there.
    pub fn credit_spreading(&self, record_bytes: u64, pages: usize, spread: usize) -> Result<OpCredit<'_>> {
        self.credit_with_images(record_bytes, pages, spread, 0, false)
    }

    fn credit_with_images(
        &self,
        bytes: u64,
        pages: usize,
        undo_images: usize,
        undo_group: u64,
        system: bool,
    ) -> Result<OpCredit<'_>> {
        let room = self.admit(bytes, pages as u64, system)?;
        let undo_images = undo_images as u64;
        let reserve = (room.tokens + undo_images) * self.image_cost() + undo_group;
        // Images are appended by the cleaner, on ring space of its own: only log space is kept for them (BUF-RING).
        let log = self.log.credit_and_reserve(bytes, reserve, system)?;
        let mut credit = room.into_credit(log);
        (credit.undo_images, credit.undo_group) = (undo_images, undo_group);
        Ok(credit)
    }

    /// As [`Pool::credit`] for an undo step: log space for the record comes out of `reserve` (an undo reserve).
    ///
    /// # Errors
    /// `Poisoned`; `NoSpace` if the device is full; the reserve is then as it was.
    pub fn credit_from(&self, reserve: &mut u64, record_bytes: u64, pages: usize) -> Result<OpCredit<'_>> {
        let room = self.admit(record_bytes, pages as u64, true)?;
        let images = room.tokens * self.image_cost();
        self.reserve_images(images)?;
        let mut log =
            self.log.credit_from(reserve, record_bytes).inspect_err(|_| self.log.give_back(images))?;
        log.put_reserved(images);
        Ok(room.into_credit(log))
    }

    /// As [`Pool::credit_from`] on a full device: the tokens are made of `images` whose log space the caller has set aside
    /// (it is the credit's now), and a page whose newest image is still good takes none. A page that finds no token left
    /// stands in debt. No checkpoint may begin before the change is made.
    ///
    /// # Errors
    /// `Poisoned`; `NoSpace` if the reserve does not reach for the record; reserve and images are then as they were.
    pub fn credit_thrifty(&self, reserve: &mut u64, record_bytes: u64, images: u64) -> Result<OpCredit<'_>> {
        let room = self.admit(record_bytes, images, true)?;
        let mut log = self.log.credit_from(reserve, record_bytes)?;
        log.put_reserved(room.tokens * self.image_cost());
        let mut credit = room.into_credit(log);
        credit.thrifty = true;
        Ok(credit)
    }

    /// Log space of the image of one page; 0 with images off.
    pub fn image_bytes(&self) -> u64 {
        self.image_cost()
    }

    /// What the record of an undo may add to the log beside itself: each makes at most one page dirty, so batches that write
    /// such pages, each with one group, are no more than the records divided by the pages of a batch. A batch with images
    /// and a commit have their own.
    pub fn undo_group_bytes(&self) -> u64 {
        (2 * self.log.options().pad as u64).div_ceil(self.batch_limit() as u64)
    }

    /// Called before a checkpoint publishes its begin, while no undo is at work: reserves the images of the pages that
    /// thrifty credits left without one because the present image is good until then (`TXN-ROOM`).
    ///
    /// # Errors
    /// `NoSpace`: the checkpoint must not begin. `Poisoned`.
    pub fn pay_images(&self) -> Result<()> {
        if !self.unpaid.load(SeqCst) {
            return Ok(());
        }
        let begun = Lsn(self.begun.load(SeqCst));
        for frame in 0..self.region.len() as u32 {
            let f = self.region.desc(frame);
            while f.lacks_image() && covers(f.img(), begun) {
                self.reserve_images(self.image_cost())?;
                // Should the page have been written meanwhile, the surplus goes back when the frame is next settled.
                f.owe();
            }
        }
        self.unpaid.store(false, SeqCst);
        Ok(())
    }

    /// Reserves log space for images, beyond the limit if need be.
    pub(crate) fn reserve_images(&self, bytes: u64) -> Result<()> {
        if bytes == 0 { Ok(()) } else { self.log.reserve(bytes, true) }
    }

    fn admit(&self, ring: u64, tokens: u64, system: bool) -> Result<Admitted<'_>> {
        let cap = self.dirty_cap();
        if tokens > cap && !system {
            let m = format!("a change of {tokens} pages in a pool where {cap} may be dirty");
            return Err(
                Error::new(ErrorKind::Limit, m).with_help("Configure more frames or a larger image share")
            );
        }
        let shares = self.ring;
        if ring > shares.one_change {
            let m = format!("a change of {ring} log bytes with a ring that takes {}", shares.one_change);
            return Err(Error::new(ErrorKind::Limit, m).with_help("Open the database with a larger ring"));
        }
        let mut patience = Patience::new();
        loop {
            self.check()?;
            let promised = self.promised.fetch_add(tokens, SeqCst) + tokens;
            let used = self.ring_used.fetch_add(ring, SeqCst) + ring;
            let room = Admitted { pool: self, tokens, ring };
            let cap = if mutants::is(Mutant::NoDirtyCap) { u64::MAX } else { cap };
            let over_dirty = tokens != 0 && self.dirty.load(SeqCst) + promised > cap;
            // One that is alone may have more than its share.
            // Also for the system: beyond its share of the ring it might wait for a frame that waits for the rest. Shares
            // come back soon: who has one waits for frames and latches only.
            let over_ring = used > shares.changes && used > ring;
            if !over_ring && (!over_dirty || system && patience.beyond(SYSTEM_TRIES)) {
                return Ok(room);
            }
            drop(room);
            if over_dirty && self.dirty.load(SeqCst) != 0 {
                match self.clean_or_wait(WriteReason::Cleaner) {
                    Ok(false) => {}
                    Ok(true) => {
                        if !system {
                            patience.reset();
                        }
                        continue;
                    }
                    // What is dirty has no image and gets none: that must not stop a rollback.
                    Err(e) if e.kind() == ErrorKind::NoSpace && system => patience.end(SYSTEM_TRIES),
                    Err(e) => return Err(e),
                }
            }
            patience.wait(
                if over_dirty {
                    "too many pages are dirty and none of them can be written"
                } else {
                    "the changes of other threads have used the log's ring up for very long"
                },
                "Configure more frames, or keep pages latched for a shorter time",
            )?;
        }
    }
}
