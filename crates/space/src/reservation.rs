//! Pages between "found free" and "allocated by a logged record".
use crate::Space;
use hamal_buffer::Pin;
use hamal_page::PageId;

/// Pages reserved for a structure change: nobody else gets them, the file has room for them, and their map
/// pages are pinned. What was not allocated is given back on drop.
#[derive(Debug)]
pub struct Reservation<'s> {
    pub(crate) space: &'s Space,
    pub(crate) pages: Vec<PageId>,
    pub(crate) pins: Vec<Pin<'s>>,
}

impl Reservation<'_> {
    /// The page ids, ascending: the order to use them.
    pub fn pages(&self) -> &[PageId] {
        &self.pages
    }
    /// Says that the first `n` reserved pages were allocated by a logged record. The rest is given back.
    pub fn allocated(mut self, n: usize) {
        let n = n.min(self.pages.len());
        self.space.settle(&self.pages[..n]);
        self.pages.drain(..n);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.space.give_back(&self.pages);
        self.pins.clear();
    }
}
