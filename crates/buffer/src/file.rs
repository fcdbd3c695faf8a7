//! The length of the data file. It grows in steps and before it is needed, so that a full device is met here, where
//! nothing has been changed yet.
use crate::Pool;
use crate::pool::DATA;
use hamal_error::{Error, ErrorKind, Result};
use hamal_page::{Lsn, PageId};
use hamal_sync::atomic::Ordering::*;

const LEAST_STEP: u64 = 1 << 20;
const MOST_STEP: u64 = 64 << 20;

impl Pool {
    /// Pages that the data file has room for.
    pub fn file_pages(&self) -> u64 {
        self.file_pages.load(Acquire)
    }

    /// Grows the data file to at least `pages` pages (in steps: 1 MiB to 64 MiB, an eighth of the file). No latch held.
    ///
    /// # Errors
    /// `NoSpace`: nothing was changed, not sticky.
    pub fn grow_to(&self, pages: u64) -> Result<()> {
        self.check()?;
        if pages <= self.file_pages() {
            return Ok(());
        }
        let _length = self.file_length.lock();
        // Again: who seals the engine off waits for this lock, and may leave the file to somebody else then (T16).
        self.check()?;
        let have = self.file_pages();
        if pages <= have {
            return Ok(());
        }
        let generous = pages.max(have + self.growth());
        let mut grown = self.allocate(have, generous);
        if grown.is_err() && generous != pages {
            // There may be room for what is needed, if not for what is convenient.
            grown = self.allocate(have, pages);
        }
        grown
    }

    /// The same for a checkpoint that has begun: no cut that was announced before it comes afterwards (SPACE-5).
    pub fn file_pages_at_checkpoint(&self) -> u64 {
        let _length = self.file_length.lock();
        self.file_pages()
    }

    /// By how many pages the data file grows at once: an eighth of it, 1 MiB to 64 MiB.
    pub fn growth(&self) -> u64 {
        let size = self.options.page_size as u64;
        (self.file_pages() * size / 8).clamp(LEAST_STEP, MOST_STEP) / size
    }

    fn allocate(&self, have: u64, pages: u64) -> Result<()> {
        let size = self.options.page_size as u64;
        let end = pages.checked_mul(size).filter(|e| i64::try_from(*e).is_ok()).ok_or_else(|| {
            Error::new(ErrorKind::Limit, format!("a data file of {pages} pages is beyond the file system"))
        })?;
        self.data.allocate(have * size, end - have * size).map_err(|e| {
            Error::io(format!("growing the data file to {end} bytes"), e)
                .with_file(DATA)
                .with_offset(have * size)
        })?;
        self.file_pages.fetch_max(pages, AcqRel);
        Ok(())
    }

    /// Cuts free pages off the end of the data file; only pages that are free and not in memory (clean copies that nobody
    /// uses are dropped first). `announced` is the LSN of a record that came before. No latch held. `false`, with the file as it
    /// was, if a page beyond the new end is in use, or a checkpoint has begun since that record (SPACE-5).
    ///
    /// # Errors
    /// `NoSpace`, with nothing changed: a file system that copies what it changes may need room for a cut. Other I/O errors poison.
    pub fn shrink_to(&self, pages: u64, announced: Lsn) -> Result<bool> {
        let _length = self.file_length.lock();
        // The cleaner is kept out: a write in flight would grow the file again.
        let _cleaner = self.cleaner.lock();
        // Not before: who seals the engine off waits for these locks, and may leave the file to somebody else then (T16).
        self.check()?;
        if pages >= self.file_pages() {
            return Ok(true);
        }
        // A checkpoint publishes its begin before it asks for the length, which it does under `file_length`.
        if self.begun.load(SeqCst) > announced.0 {
            return Ok(false);
        }
        for frame in 0..self.region.len() as u32 {
            let f = self.region.desc(frame);
            let beyond = |p: Option<PageId>| p.is_some_and(|p| p.0 >= pages);
            if !beyond(f.page()) {
                continue;
            }
            #[cfg(test)]
            self.step(crate::tests::Step::Cutting, PageId(pages));
            // The frame may be given to another page meanwhile, whose latch is not waited for: who makes a page may wait for the
            // cleaner.
            let Some(guard) = self.region.write_while(frame, |f| beyond(f.page())) else { continue };
            if !beyond(f.page()) {
                continue;
            }
            if f.is_dirty() || f.in_flight() || f.pinned() {
                // A free page may be pinned by somebody who still has to find out that it is free.
                return Ok(false);
            }
            self.unbind(&guard);
        }
        let size = self.options.page_size as u64;
        self.data.set_len(pages * size).map_err(|e| {
            let e = Error::io("cutting the data file", e).with_file(DATA);
            if e.kind() == ErrorKind::NoSpace { e } else { self.log.poison(e) }
        })?;
        self.versions.forget(pages, self.file_pages());
        self.file_pages.store(pages, Release);
        Ok(true)
    }
}
