//! Reading many pages at once, for who will want them soon: neighbours in one call.
use crate::Pool;
use crate::frame::Frame;
use crate::region::WriteGuard;
use crate::translate::Entry;
use hamal_disk::AlignedBuf;
use hamal_page::PageId;

/// Pages between two wanted ones that are read with them rather than passed over: reading them takes less time than a second call.
const GAP: u64 = 3;

impl Pool {
    /// Reads those of `ids` (ascending) into memory that are not there, as far as frames can be had without waiting. Says
    /// nothing of what it could not read: whoever asks for such a page gets the error. The caller holds no latch.
    ///
    /// A page is claimed before it is read, and read under its exclusive latch, as by [`Pool::fetch`]: nobody can have
    /// another version of it meanwhile (`BUF-XLAT`). Nothing is waited for while latches are held (`BUF-FRAMES`).
    pub fn prefetch(&self, ids: &[PageId]) {
        let mut rest = ids;
        while let Some(&first) = rest.first() {
            let near = |w: &[PageId]| w[1].0.saturating_sub(w[0].0) <= GAP + 1;
            let n = 1 + rest.windows(2).take_while(|w| near(w)).count();
            let (run, later) = rest.split_at(n);
            rest = later;
            if !self.prefetch_run(first, run) {
                return;
            }
        }
    }

    /// One call's worth; `false` if there is no frame to be had, or the engine has stopped.
    fn prefetch_run(&self, first: PageId, run: &[PageId]) -> bool {
        let mut claimed: Vec<(PageId, WriteGuard<'_, Frame>)> = Vec::with_capacity(run.len());
        let mut enough = true;
        for &id in run {
            if self.xlat.get(id) != Entry::Absent || id.0 >= self.file_pages() {
                continue;
            }
            let Ok(Some(guard)) = self.frame_at_once() else {
                enough = false;
                break;
            };
            match self.claim(id, &guard) {
                Ok(true) => claimed.push((id, guard)),
                Ok(false) => {}
                Err(_) => break,
            }
        }
        let (Some((low, _)), Some((high, _))) = (claimed.first(), claimed.last()) else { return enough };
        debug_assert!(first <= *low);
        let (low, size) = (low.0, self.options.page_size);
        let mut bytes = AlignedBuf::new((high.0 - low + 1) as usize * size);
        let got = self.data.read_at(self.offset(PageId(low)), &mut bytes).unwrap_or(0);
        for (id, mut guard) in claimed {
            let at = (id.0 - low) as usize * size;
            let read = bytes.get(at..at + size).filter(|_| at + size <= got);
            if !read.is_some_and(|read| self.install(id, &mut guard, read)) {
                self.unclaim(id, &guard);
            }
        }
        enough
    }
}
