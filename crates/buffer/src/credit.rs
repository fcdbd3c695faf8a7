//! Admission: everything that a change will need and might have to wait for, taken before its first latch.
//!
//! A credit holds ring space and log space for the records, and one *page token* for each page that may become dirty. A
//! token is a place under the dirty cap together with the log space of the image that the page will owe when it is
//! written; it moves into the frame's account when the page becomes dirty. So (`BUF-CAP`) dirty pages never exceed what
//! the log has room to image, and readers always find clean frames.
//!
//! `BUF-RING`: outstanding credits hold at most half of the ring, or one that is alone what [`RingShares`] allows. A
//! thread with a credit may wait for a frame, and so for the cleaner, which needs ring space for images: that space must
//! not all be in the hands of those who wait for it.
use crate::Pool;
use crate::frame::Frame;
use crate::patience::Patience;
use crate::pool::IMAGE_EXTRA;
use hamal_error::{Error, ErrorKind, Result};
use hamal_log::Credit;
use hamal_mutants::{self as mutants, Mutant};
use hamal_trace::WriteReason;
use std::fmt;
use std::sync::atomic::Ordering::*;

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
}

impl OpCredit<'_> {
    /// Moves `bytes` of log space out, as an undo reserve that its owner gives back with
    /// [`Log::give_back`](hamal_log::Log::give_back).
    ///
    /// # Panics
    /// If the credit has less left (a bug in the caller's worst case).
    pub fn take_undo(&mut self, bytes: u64) -> u64 {
        self.log.take(bytes)
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
        if self.tokens == 0 {
            return false;
        }
        self.tokens -= 1;
        frame.owe();
        self.pool.promised.fetch_sub(1, SeqCst);
        true
    }
    /// Takes it back: the mark was taken back.
    pub(crate) fn return_token(&mut self, frame: &Frame) {
        if frame.take_owed() {
            self.tokens += 1;
            self.pool.promised.fetch_add(1, SeqCst);
        }
    }
}

impl Drop for OpCredit<'_> {
    fn drop(&mut self) {
        self.pool.promised.fetch_sub(self.tokens, SeqCst);
        self.pool.ring_used.fetch_sub(self.ring, SeqCst);
        let images = self.tokens * self.pool.image_cost();
        if images != 0 {
            self.pool.log.give_back(images);
        }
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
        OpCredit { pool: self.pool, log, tokens, ring }
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
    /// each time its latch is taken). May write pages and sync the log to make room: the caller holds no latch.
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
        let room = self.admit(record_bytes + undo_bytes, pages as u64, system)?;
        let images = room.tokens * self.image_cost();
        // Images are appended by the cleaner, on ring space of its own: only log space is kept for them (BUF-RING).
        let log = self.log.credit_and_reserve(record_bytes + undo_bytes, images, system)?;
        Ok(room.into_credit(log))
    }

    /// As [`Pool::credit`] for an undo step: log space for the record comes out of `reserve` (an undo reserve).
    ///
    /// # Errors
    /// `Poisoned`; `NoSpace` if the device is full and the reserve does not reach for the images as well; the reserve is
    /// then as it was.
    pub fn credit_from(&self, reserve: &mut u64, record_bytes: u64, pages: usize) -> Result<OpCredit<'_>> {
        let room = self.admit(record_bytes, pages as u64, true)?;
        let images = room.tokens * self.image_cost();
        let log = match self.reserve_images(images) {
            Ok(()) => {
                self.log.credit_from(reserve, record_bytes).inspect_err(|_| self.log.give_back(images))?
            }
            Err(e) if e.kind() == ErrorKind::NoSpace && *reserve >= record_bytes + images => {
                // Log space is log space, whatever it was reserved for.
                let log = self.log.credit_from(reserve, record_bytes)?;
                *reserve -= images;
                log
            }
            Err(e) => return Err(e),
        };
        Ok(room.into_credit(log))
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
            if over_dirty && self.dirty.load(SeqCst) != 0 && self.clean_or_wait(WriteReason::Cleaner)? {
                if !system {
                    patience.reset();
                }
                continue;
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
