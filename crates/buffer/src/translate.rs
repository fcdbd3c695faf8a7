//! Translation: which frame holds a page, by an array indexed with the page id.
//!
//! One atomic word per page of the data file, in chunks that are allocated when a page of theirs is first read. Zero
//! means "not in memory"; else the word is the frame's number plus one, with the top bit set while the page is being
//! read. A look-up is two dependent loads and no hashing. The word is a hint with one promise (`BUF-XLAT`): *at most one
//! frame is bound to a page id at a time, and a frame bound to a page is named by that page's word*. It becomes non-zero
//! only by the compare-and-swap in [`Translation::claim`], and zero only by the holder of the frame's exclusive latch.
//! Whoever follows it latches the frame and then checks the frame's own page id.
use hamal_error::{Error, ErrorKind, Result};
use hamal_page::PageId;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

const CHUNK_BITS: u32 = 16;
const CHUNKS: usize = 1 << 16;
const LOADING: u64 = 1 << 63;

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
    chunks: Box<[OnceLock<Box<[AtomicU64]>>]>,
}

impl Translation {
    pub(crate) fn new() -> Self {
        Translation { chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect() }
    }

    /// Page ids that the array has room for.
    pub(crate) const PAGES: u64 = (CHUNKS as u64) << CHUNK_BITS;

    fn word(&self, id: PageId) -> Option<&AtomicU64> {
        let chunk = usize::try_from(id.0 >> CHUNK_BITS).ok()?;
        self.chunks.get(chunk)?.get().map(|c| &c[(id.0 & ((1 << CHUNK_BITS) - 1)) as usize])
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
        let chunk =
            usize::try_from(id.0 >> CHUNK_BITS).ok().and_then(|c| self.chunks.get(c)).ok_or_else(|| {
                Error::new(ErrorKind::Limit, format!("the data file can have at most {} pages", Self::PAGES))
                    .with_page(id)
            })?;
        let words = chunk.get_or_init(|| (0..1usize << CHUNK_BITS).map(|_| AtomicU64::new(0)).collect());
        let word = &words[(id.0 & ((1 << CHUNK_BITS) - 1)) as usize];
        let new = (u64::from(frame) + 1) | LOADING;
        Ok(word.compare_exchange(0, new, Ordering::AcqRel, Ordering::Acquire).is_ok())
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
    fn one_frame_per_page() {
        let t = Translation::new();
        for id in [0, 1, 65_535, 65_536, 1 << 31] {
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
