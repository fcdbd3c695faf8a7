//! Admission: everything that a change will need and might have to wait for, taken before its first latch.
//!
//! A credit holds ring space and log space for the records, and one *page token* for each page that may become dirty. A
//! token is a place under the dirty cap together with the log space of the image that the page will owe when it is
//! written; it moves into the frame's account when the page becomes dirty. So (`BUF-CAP`) dirty pages never exceed what
//! the log has room to image, and readers always find clean frames.
//!
//! `BUF-RING`: outstanding credits hold at most half of the ring, system operations apart. A thread with a credit may
//! wait for a frame, and so for the cleaner, which needs ring space for images: that space must not all be in the hands
//! of those who wait for it.
use crate::Pool;
use crate::frame::Frame;
use crate::patience::Patience;
use hamal_error::{Error, ErrorKind, Result};
use hamal_log::Credit;
use hamal_mutants::{self as mutants, Mutant};
use hamal_trace::WriteReason;
use std::fmt;
use std::sync::atomic::Ordering::*;

/// How often a system operation tries to make room before it goes beyond the caps: it must not fail for them.
const SYSTEM_TRIES: u32 = 200;

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
        let room = self.admit(record_bytes, pages as u64, system)?;
        let images = room.tokens * self.image_cost();
        let mut log = self.log.credit(record_bytes + undo_bytes + images, system)?;
        if images != 0 {
            // Images are appended by the cleaner, on ring space of its own: keep only the log space (BUF-RING).
            log.take(images);
        }
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
                let mut log = self.log.credit_from(reserve, record_bytes + images)?;
                log.take(images);
                log
            }
            Err(e) => return Err(e),
        };
        Ok(room.into_credit(log))
    }

    /// Reserves log space for images, beyond the limit if need be.
    pub(crate) fn reserve_images(&self, bytes: u64) -> Result<()> {
        if bytes != 0 {
            self.log.credit(bytes, true)?.take(bytes);
        }
        Ok(())
    }

    fn admit(&self, ring: u64, tokens: u64, system: bool) -> Result<Admitted<'_>> {
        let cap = self.dirty_cap();
        if tokens > cap && !system {
            let m = format!("a change of {tokens} pages in a pool where {cap} may be dirty");
            return Err(
                Error::new(ErrorKind::Limit, m).with_help("Configure more frames or a larger image share")
            );
        }
        let ring_cap = self.log.options().ring_bytes as u64 / 2;
        let mut patience = Patience::new();
        loop {
            self.check()?;
            let promised = self.promised.fetch_add(tokens, SeqCst) + tokens;
            let used = self.ring_used.fetch_add(ring, SeqCst) + ring;
            let room = Admitted { pool: self, tokens, ring };
            let cap = if mutants::is(Mutant::NoDirtyCap) { u64::MAX } else { cap };
            let over_dirty = tokens != 0 && self.dirty.load(SeqCst) + promised > cap;
            // One that is alone may have more than its share.
            let over_ring = used > ring_cap && used > ring;
            if !over_dirty && !over_ring || system && patience.beyond(SYSTEM_TRIES) {
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
                "too many pages are dirty and none of them can be written",
                "Configure more frames, or keep pages latched for a shorter time",
            )?;
        }
    }
}
