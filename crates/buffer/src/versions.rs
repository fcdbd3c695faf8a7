//! Which version of each page the disk must hold: a tag of 16 bits for each page of the data file.
//!
//! A device that loses a write, or puts it in another place, leaves an older version of the page behind: whole, of the
//! right place, with the right checksum. Only somebody who knows what was written there last can tell. So every page write
//! notes a tag of the pageLSN that it wrote, and every page read compares. Tag 0 says that nothing is known. A checkpoint
//! keeps the tags in the file `versions` (the checkpoint crate), and analysis knows the version of every page that the log
//! names. `docs/invariants/versions.md` proves what the tags promise (`VER-1` to `VER-9`).
//!
//! Two bytes a page, in blocks as the file has them. A look-up is two loads and no locking.
use crate::translate::Translation;
use hamal_page::{Lsn, PageId};
use std::fmt;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::*};

/// Pages that one block of the table speaks of: as many tags as a block of 4096 bytes holds beside its head.
pub const TAGS_PER_BLOCK: usize = 2024;
/// Blocks that a small database has room for without a directory of the others.
const FIRST: usize = 16;

/// Blocks of the others that share a list: 32 KiB for every 8 GiB of pages of 4096 bytes, where one list of all that there can
/// be would take 64 MiB.
const GROUP: usize = 1024;

/// The tag of a version: 1 to 65535 by a hash of its pageLSN; 0 (unknown) for the null LSN.
///
/// ```
/// use hamal_buffer::version_tag;
/// use hamal_page::Lsn;
/// assert_eq!(version_tag(Lsn::NULL), 0);
/// assert_ne!(version_tag(Lsn(4096)), version_tag(Lsn(4160)));
/// ```
pub fn version_tag(page_lsn: Lsn) -> u16 {
    if page_lsn.is_null() {
        return 0;
    }
    // Multiplication spreads over the high bits; the shift before brings the high bits of a large LSN down.
    let h = (page_lsn.0 ^ (page_lsn.0 >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    1 + ((h >> 32) % 65535) as u16
}

struct Block {
    tags: Box<[AtomicU16]>,
    /// Whether a tag was set since the flag was taken.
    changed: AtomicBool,
}

impl Block {
    fn new() -> Block {
        let tags = (0..TAGS_PER_BLOCK).map(|_| AtomicU16::new(0)).collect();
        Block { tags, changed: AtomicBool::new(false) }
    }
}

/// The tags of all pages. Blocks are allocated when a tag of theirs is first set; a small database pays for few.
pub struct PageVersions {
    first: [OnceLock<Block>; FIRST],
    /// Of all others, in groups; the first [`FIRST`] stay empty.
    others: OnceLock<Box<[OnceLock<Group>]>>,
}

/// [`GROUP`] blocks.
type Group = Box<[OnceLock<Block>]>;

/// So many empty places.
fn places<T>(n: usize) -> Box<[OnceLock<T>]> {
    (0..n).map(|_| OnceLock::new()).collect()
}

impl Default for PageVersions {
    fn default() -> PageVersions {
        PageVersions::new()
    }
}

impl PageVersions {
    /// Nothing is known.
    pub fn new() -> PageVersions {
        PageVersions { first: Default::default(), others: OnceLock::new() }
    }

    fn block_of(&self, block: u64) -> Option<&Block> {
        let at = usize::try_from(block).ok()?;
        match self.first.get(at) {
            Some(slot) => slot.get(),
            None => self.others.get()?.get(at / GROUP)?.get()?[at % GROUP].get(),
        }
    }

    /// The block, made if it is not there yet; `None` if it is beyond what a data file can hold.
    fn make_block(&self, block: u64) -> Option<&Block> {
        let at = usize::try_from(block).ok()?;
        let slot = match self.first.get(at) {
            Some(slot) => slot,
            None => {
                let groups = Translation::PAGES.div_ceil((TAGS_PER_BLOCK * GROUP) as u64);
                let group = self.others.get_or_init(|| places(groups as usize)).get(at / GROUP)?;
                &group.get_or_init(|| places(GROUP))[at % GROUP]
            }
        };
        Some(slot.get_or_init(Block::new))
    }

    /// The tag of the version that the disk must hold; 0: not known. Total.
    #[inline]
    pub fn get(&self, page: PageId) -> u16 {
        // Relaxed: whoever reads a page from disk has won its translation word, which was given up by somebody who held
        // the frame's latch after the write had ended and its tag was set (VER-1).
        match self.block_of(page.0 / TAGS_PER_BLOCK as u64) {
            Some(b) => b.tags[(page.0 % TAGS_PER_BLOCK as u64) as usize].load(Relaxed),
            None => 0,
        }
    }

    /// The version of `page` with this pageLSN is what the disk must hold from now on (or will before anybody reads it there).
    /// The null LSN: not known. Page ids beyond what a data file can hold are not noted.
    pub fn set(&self, page: PageId, page_lsn: Lsn) {
        let at = page.0 / TAGS_PER_BLOCK as u64;
        let tag = version_tag(page_lsn);
        let block = if tag == 0 { self.block_of(at) } else { self.make_block(at) };
        let Some(block) = block else { return };
        block.tags[(page.0 % TAGS_PER_BLOCK as u64) as usize].store(tag, Relaxed);
        // After the tag, and read by `take_changed` before the tags are (VER-2).
        block.changed.swap(true, AcqRel);
    }

    /// Whether a tag of the block was set since the last call.
    pub fn take_changed(&self, block: u64) -> bool {
        self.block_of(block).is_some_and(|b| b.changed.swap(false, AcqRel))
    }

    /// The tags of a block, in the order of its pages.
    pub fn block(&self, block: u64) -> [u16; TAGS_PER_BLOCK] {
        let mut out = [0; TAGS_PER_BLOCK];
        if let Some(b) = self.block_of(block) {
            for (to, from) in out.iter_mut().zip(&b.tags) {
                *to = from.load(Relaxed);
            }
        }
        out
    }

    /// Takes over the tags of a block as a file has them. Before anybody uses the pool.
    pub fn load_block(&self, block: u64, tags: &[u16; TAGS_PER_BLOCK]) {
        let Some(b) = self.make_block(block) else { return };
        for (to, from) in b.tags.iter().zip(tags) {
            to.store(*from, Relaxed);
        }
    }

    /// Forgets the tags of the pages in `[from, to)`: they are cut off the file.
    pub(crate) fn forget(&self, from: u64, to: u64) {
        for page in from..to {
            if self.get(PageId(page)) != 0 {
                self.set(PageId(page), Lsn::NULL);
            }
        }
    }
}

impl fmt::Debug for PageVersions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageVersions").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_kept_by_page() {
        let v = PageVersions::new();
        let last = (FIRST * TAGS_PER_BLOCK) as u64 + 5;
        let group = (GROUP * TAGS_PER_BLOCK) as u64;
        for p in
            [0, 1, TAGS_PER_BLOCK as u64 - 1, TAGS_PER_BLOCK as u64, last, group - 1, group, 9 * group + 7]
        {
            assert_eq!(v.get(PageId(p)), 0);
            v.set(PageId(p), Lsn(4096 + p));
            assert_eq!(v.get(PageId(p)), version_tag(Lsn(4096 + p)));
        }
        assert_eq!(v.get(PageId(2)), 0);
        assert_eq!((v.get(PageId(u64::MAX)), v.set(PageId(u64::MAX), Lsn(1))), (0, ()));
        assert!(v.take_changed(0) && v.take_changed(1) && !v.take_changed(0) && !v.take_changed(2));
        assert!(v.take_changed(FIRST as u64));
        let block = v.block(FIRST as u64);
        assert_eq!(block[5], version_tag(Lsn(4096 + last)));
        let w = PageVersions::new();
        w.load_block(FIRST as u64, &block);
        assert_eq!(w.get(PageId(last)), version_tag(Lsn(4096 + last)));
        assert!(!w.take_changed(FIRST as u64), "what was loaded is no change");
        w.forget(last, last + 1);
        assert_eq!(w.get(PageId(last)), 0);
        assert!(w.take_changed(FIRST as u64));
    }

    #[test]
    fn neighbouring_versions_differ() {
        let mut same = 0;
        for lsn in (4096u64..4096 + (8 << 20)).step_by(8) {
            same += usize::from(version_tag(Lsn(lsn)) == version_tag(Lsn(lsn + 48)));
            assert_ne!(version_tag(Lsn(lsn)), 0);
        }
        assert!(same < 100, "{same} of 2^20");
    }
}
