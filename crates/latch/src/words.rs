//! Words that many threads read without a latch, and one at a time writes: a sequence lock.
//!
//! # Orders (LATCH-6)
//! `version` is odd while somebody writes. A writer makes it odd by a compare-and-swap (acquire: it comes after the
//! writes of the one before), passes a release fence, stores the words (relaxed), and stores the next even version
//! (release). A reader loads an even version (acquire), loads the words (relaxed), passes an acquire fence and loads
//! the version again. As in LATCH-2: if the reader saw one of a writer's stores, the fences pair, and its second load
//! sees the odd version at least; if it saw the even version that a writer left, its loads see all that was stored
//! before. So what a reader is handed back was written by one writer. Every access to a word is an atomic one of its
//! whole size: a race is no undefined behaviour, only a reading that is thrown away.
//!
//! The version has 64 bits and does not wrap. A writer that panics leaves the version odd: nobody reads the words any
//! more, and nobody writes them, and readers have to do without.
use crate::sync::{AtomicU64, Ordering, fence};

/// Words behind a sequence lock. Reading writes nothing to shared memory; neither reading nor writing waits.
#[derive(Debug)]
pub struct Words {
    version: AtomicU64,
    words: Box<[AtomicU64]>,
}

/// The words while they are read. They may be of several writers, and anything: whoever uses them keeps within
/// bounds and ends, and believes nothing before [`Words::read`] has returned it.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'w>(&'w [AtomicU64]);

impl<'w> Reading<'w> {
    /// The word at `i`; zero if there is none.
    #[inline]
    pub fn get(&self, i: usize) -> u64 {
        self.0.get(i).map_or(0, |w| w.load(Ordering::Relaxed))
    }
    /// How many words there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// The words of a range; none if it does not lie within.
    #[inline]
    pub fn part(&self, range: std::ops::Range<usize>) -> Option<Reading<'w>> {
        self.0.get(range).map(Reading)
    }
}

/// The words while they are written.
#[derive(Debug)]
pub struct Writing<'w>(&'w [AtomicU64]);

impl Writing<'_> {
    /// Stores a word; does nothing if there is no word at `i`.
    #[inline]
    pub fn set(&mut self, i: usize, word: u64) {
        if let Some(w) = self.0.get(i) {
            w.store(word, Ordering::Relaxed);
        }
    }
}

impl Words {
    /// `n` words, all zero.
    pub fn new(n: usize) -> Words {
        Words { version: AtomicU64::new(0), words: (0..n).map(|_| AtomicU64::new(0)).collect() }
    }

    /// How many words there are.
    pub fn len(&self) -> usize {
        self.words.len()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Has `write` write the words, unless somebody else is at it (`false`).
    pub fn try_write(&self, write: impl FnOnce(&mut Writing<'_>)) -> bool {
        let before = self.version.load(Ordering::Relaxed);
        if before & 1 != 0
            || self
                .version
                .compare_exchange(before, before + 1, Ordering::Acquire, Ordering::Relaxed)
                .is_err()
        {
            return false;
        }
        // LATCH-6: no store of a word becomes visible before the odd version.
        fence(Ordering::Release);
        write(&mut Writing(&self.words));
        self.version.store(before + 2, Ordering::Release);
        true
    }

    /// What `read` makes of the words, if nobody wrote them meanwhile.
    #[inline]
    pub fn read<R>(&self, read: impl FnOnce(Reading<'_>) -> R) -> Option<R> {
        let before = self.version.load(Ordering::Acquire);
        if before & 1 != 0 {
            return None;
        }
        let found = read(Reading(&self.words));
        // LATCH-6: the loads of the words stay before the second load of the version.
        fence(Ordering::Acquire);
        (self.version.load(Ordering::Relaxed) == before).then_some(found)
    }
}
