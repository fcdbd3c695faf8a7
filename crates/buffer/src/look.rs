//! A look at versions of pages as the disk has them, for recovery: beside the pool, which need not hold them.
use crate::Pool;
use hamal_disk::AlignedBuf;
use hamal_page::{Lsn, PageId, header};

/// Up to so many pages only the first sector of each is read; it holds the header.
const FEW: usize = 32;
const SECTOR: usize = 512;
/// Pages that are read in one call, where there are many.
const RUN: u64 = 64;

impl Pool {
    /// The first of `ids` (ascending) whose version on disk has seen an LSN at or beyond `end`, and that LSN: it proves that the
    /// log was longer (T7). A version that is not whole proves nothing, nor does one that cannot be read: for pages that are
    /// rebuilt from the log, and so need no version on disk.
    pub fn stored_beyond(&self, ids: &[PageId], end: Lsn) -> Option<(PageId, Lsn)> {
        if ids.len() <= FEW {
            return ids.iter().find_map(|&id| self.sector_beyond(id, end));
        }
        let mut rest = ids;
        while let Some(&first) = rest.first() {
            let (run, later) = rest.split_at(rest.partition_point(|id| id.0 - first.0 < RUN));
            rest = later;
            if let Some(found) = self.run_beyond(run, end) {
                return Some(found);
            }
        }
        None
    }

    /// Looks at the header alone, and at the whole page if the header speaks of such an LSN.
    fn sector_beyond(&self, id: PageId, end: Lsn) -> Option<(PageId, Lsn)> {
        let mut front = AlignedBuf::new(SECTOR);
        let got = self.data.read_at(self.offset(id), &mut front).ok()?;
        (got == SECTOR && seen(&front) >= end).then(|| self.run_beyond(&[id], end)).flatten()
    }

    fn run_beyond(&self, run: &[PageId], end: Lsn) -> Option<(PageId, Lsn)> {
        let (first, last, size) = (run.first()?, run.last()?, self.options.page_size);
        let mut bytes = AlignedBuf::new((last.0 - first.0 + 1) as usize * size);
        let got = self.data.read_at(self.offset(*first), &mut bytes).ok()?;
        run.iter().find_map(|&id| {
            let at = (id.0 - first.0) as usize * size;
            let page = bytes.get(at..at + size).filter(|_| at + size <= got)?;
            let lsn = seen(page);
            let whole = || hamal_page::verify(page, self.log.identity().db, id).is_ok();
            (lsn >= end && whole()).then_some((id, lsn))
        })
    }
}

/// An image is durable before the page is written, so imgLSN proves as much as pageLSN does.
fn seen(front: &[u8]) -> Lsn {
    header::page_lsn(front).max(header::img_lsn(front))
}
