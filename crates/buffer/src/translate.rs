//! Translation: which frame holds a page, by an array indexed with the page id.
//!
//! One atomic word per page of the data file, in chunks that are allocated when a page of theirs is first read. Zero
//! means "not in memory"; else the word is the frame's number plus one, with the top bit set while the page is being
//! read. A look-up is a few loads, of which only the last is likely to miss the processor's cache, and no hashing. The
//! chunks of the first pages are small, and the directory of all others is made with the first of them: a small database
//! has a small array, and making and dropping it costs nothing to speak of. The word is a hint with one promise (`BUF-XLAT`): *at most one
//! frame is bound to a page id at a time, and a frame bound to a page is named by that page's word*. It becomes non-zero
//! only by the compare-and-swap in [`Translation::claim`], and zero only by the holder of the frame's exclusive latch.
//! Whoever follows it latches the frame and then checks the frame's own page id.
use hamal_error::{Error, ErrorKind, Result};
use hamal_page::PageId;
use hamal_sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;

const CHUNK_BITS: u32 = 16;
const CHUNKS: usize = 1 << 16;
/// Chunks of the first `1 << CHUNK_BITS` pages: as many words as a page of memory has.
const SMALL_BITS: u32 = 9;
const SMALL: usize = 1 << (CHUNK_BITS - SMALL_BITS);
const LOADING: u64 = 1 << 63;

/// Words of neighbouring pages.
type Chunk = OnceLock<Box<[AtomicU64]>>;

fn words(n: usize) -> Box<[AtomicU64]> {
    (0..n).map(|_| AtomicU64::new(0)).collect()
}

fn chunks(n: usize) -> Box<[Chunk]> {
    (0..n).map(|_| OnceLock::new()).collect()
}

/// What the array says about a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Not in memory.
    Absent,
    /// In this frame, being read by the holder of its exclusive latch.
    Loading(u32),
    /// In this frame.
    Resident(u32),
}

/// The array.
pub(crate) struct Translation {
    /// Of the first `1 << CHUNK_BITS` pages.
    small: Box<[Chunk]>,
    /// Of all others; the first chunk stays empty.
    large: OnceLock<Box<[Chunk]>>,
}

impl Translation {
    pub(crate) fn new() -> Self {
        Translation { small: chunks(SMALL), large: OnceLock::new() }
    }

    /// Page ids that the array has room for.
    pub(crate) const PAGES: u64 = (CHUNKS as u64) << CHUNK_BITS;

    fn word(&self, id: PageId) -> Option<&AtomicU64> {
        if id.0 >> CHUNK_BITS == 0 {
            let (chunk, at) = (id.0 >> SMALL_BITS, id.0 & ((1 << SMALL_BITS) - 1));
            return self.small[chunk as usize].get().map(|c| &c[at as usize]);
        }
        let chunk = usize::try_from(id.0 >> CHUNK_BITS).ok()?;
        self.large.get()?.get(chunk)?.get().map(|c| &c[(id.0 & ((1 << CHUNK_BITS) - 1)) as usize])
    }

    /// Where the page is. Total: a page id from a damaged page is answered with `Absent`.
    #[inline]
    pub(crate) fn get(&self, id: PageId) -> Entry {
        // Acquire: pairs with the release in `claim` and `ready`; the caller then latches the frame, which orders the rest.
        match self.word(id).map_or(0, |w| w.load(Ordering::Acquire)) {
            0 => Entry::Absent,
            w if w & LOADING != 0 => Entry::Loading((w & !LOADING) as u32 - 1),
            w => Entry::Resident(w as u32 - 1),
        }
    }

    /// Binds the page to a frame whose exclusive latch the caller holds, as being read. `false`: another frame was faster.
    pub(crate) fn claim(&self, id: PageId, frame: u32) -> Result<bool> {
        let word = match self.word(id) {
            Some(word) => word,
            None => {
                self.make_room(id)?;
                self.word(id).ok_or_else(|| Error::internal("BUF-XLAT: a page without a word"))?
            }
        };
        let new = (u64::from(frame) + 1) | LOADING;
        Ok(word.compare_exchange(0, new, Ordering::AcqRel, Ordering::Acquire).is_ok())
    }

    /// Makes the chunk that holds the page's word.
    fn make_room(&self, id: PageId) -> Result<()> {
        if id.0 >= Self::PAGES {
            let m = format!("the data file can have at most {} pages", Self::PAGES);
            return Err(Error::new(ErrorKind::Limit, m).with_page(id));
        }
        if id.0 >> CHUNK_BITS == 0 {
            self.small[(id.0 >> SMALL_BITS) as usize].get_or_init(|| words(1 << SMALL_BITS));
        } else {
            let large = self.large.get_or_init(|| chunks(CHUNKS));
            large[(id.0 >> CHUNK_BITS) as usize].get_or_init(|| words(1 << CHUNK_BITS));
        }
        Ok(())
    }

    /// The page has been read. The caller holds the frame's exclusive latch.
    pub(crate) fn ready(&self, id: PageId, frame: u32) {
        if let Some(w) = self.word(id) {
            w.store(u64::from(frame) + 1, Ordering::Release);
        }
    }

    /// The page is no longer in memory. The caller holds the frame's exclusive latch.
    pub(crate) fn clear(&self, id: PageId) {
        if let Some(w) = self.word(id) {
            w.store(0, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_has_a_word_of_its_own() {
        let t = Translation::new();
        for id in 0..140_000 {
            assert_eq!(t.get(PageId(id)), Entry::Absent);
            assert!(t.claim(PageId(id), id as u32).unwrap());
        }
        for id in 0..140_000 {
            assert_eq!(t.get(PageId(id)), Entry::Loading(id as u32));
        }
    }

    #[test]
    fn one_frame_per_page() {
        let t = Translation::new();
        for id in [0, 1, 511, 512, 1023, 1024, 65_535, 65_536, 131_071, 1 << 31] {
            let id = PageId(id);
            assert_eq!(t.get(id), Entry::Absent);
            assert!(t.claim(id, 7).unwrap());
            assert!(!t.claim(id, 8).unwrap());
            assert_eq!(t.get(id), Entry::Loading(7));
            t.ready(id, 7);
            assert_eq!(t.get(id), Entry::Resident(7));
            t.clear(id);
            assert_eq!(t.get(id), Entry::Absent);
        }
        assert_eq!(t.get(PageId(u64::MAX)), Entry::Absent);
        assert_eq!(t.claim(PageId(u64::MAX), 0).unwrap_err().kind(), ErrorKind::Limit);
    }
}
