//! What a checkpoint asks of the pool: publish B, scan for the dirty page table, sync the data file; in this order.
use crate::Pool;
use crate::pool::DATA;
use hamal_error::{Error, Result};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{Lsn, PageId};
use hamal_sync::atomic::{Ordering::SeqCst, fence};
use hamal_trace::Event;

/// What [`Pool::scan_dirty`] found.
#[derive(Clone, Debug)]
pub struct DirtyScan {
    /// The redo point of this checkpoint: min(B, rec of the dirty, flight of those in flight, clamped by the floor).
    pub redo: Lsn,
    /// The dirty page table: page and recLSN.
    pub pages: Vec<(PageId, Lsn)>,
}

impl Pool {
    /// Publishes the LSN of a begun checkpoint (B of rule W), with a full fence.
    pub fn publish_checkpoint(&self, begin: Lsn) {
        self.begun.store(begin.0, SeqCst);
        // Pairs with the fence of W-1 (a writer either sees this B or its flight mark is seen by the scan) and with the
        // fence of `mark_pages` (a change below B is seen as dirty by the scan).
        fence(SeqCst);
    }

    /// Scans all frames for the dirty page table and the redo point; after [`Pool::publish_checkpoint`]. Marks below
    /// `floor` (the redo point of the last complete checkpoint) count as `floor` (T43). The caller holds no latch.
    ///
    /// A mark can be that low only if its thread read the log's tail (or B), was stopped over a whole checkpoint, and set the
    /// mark after that checkpoint's scan had passed: a scan that had seen it would have put the redo point at or below
    /// it. A flight mark like that belongs to a write that will read the newer B and begin its first step again. A recLSN like
    /// that belongs to a change whose LSN was reserved after the mark, so after that scan, so above `floor` (`W-11`). Taken at
    /// its word it would pull the redo point below the log that is kept.
    ///
    /// The first glance at a frame takes no latch. It reads `next`, then `flight`, then `rec`, and a change moves the
    /// other way: its mark goes from `next` to `rec` (W-5 stores `rec` first). So a change whose mark was set before the
    /// scan began is seen in one of the two, unless its write has ended, and then the sync after the scan covers it.
    /// A frame that shows anything is read again, at rest, under the shared latch.
    pub fn scan_dirty(&self, begin: Lsn, floor: Lsn) -> DirtyScan {
        let mut redo = begin;
        let mut pages = Vec::new();
        for frame in 0..self.region.len() as u32 {
            let f = self.region.desc(frame);
            let clean = f.next() == 0 && f.flight() == 0 && f.rec() == 0;
            if clean {
                continue;
            }
            let guard = self.region.read(frame);
            if mutants::is(Mutant::DptMissesNewPages) && f.rec() != 0 && f.img().0 >= f.rec() {
                continue;
            }
            if let Some(flight) = Lsn(f.flight()).some() {
                let floor = if mutants::is(Mutant::StaleFlightMark) { Lsn::NULL } else { floor };
                redo = redo.min(flight.max(floor));
            }
            let rec = [f.rec(), f.next()].into_iter().filter(|l| *l != 0).min();
            if let (Some(rec), Some(page)) = (rec, f.page()) {
                let floor = if mutants::is(Mutant::StaleRecLsn) { Lsn::NULL } else { floor };
                let rec = Lsn(rec).max(floor);
                redo = redo.min(rec);
                pages.push((page, rec));
            }
            drop(guard);
        }
        pages.sort_unstable();
        self.trace.emit(|| Event::CheckpointScan { redo, dirty: pages.len() });
        DirtyScan { redo, pages }
    }

    /// The dirty page with the lowest recLSN: what keeps the redo point back. For people; a look without latches.
    pub fn oldest_dirty(&self) -> Option<(PageId, Lsn)> {
        let dirty = (0..self.region.len() as u32).filter_map(|frame| {
            let f = self.region.desc(frame);
            let rec = [f.rec(), f.next()].into_iter().filter(|l| *l != 0).min()?;
            Some((Lsn(rec), f.page()?))
        });
        dirty.min().map(|(rec, page)| (page, rec))
    }

    /// The page with the highest pageLSN of all page writes that have completed, and that pageLSN. Once the data file is synced
    /// after this, the page on disk never has a lower one again (BUF-WITNESS): an older data file put in its place does.
    pub fn witness(&self) -> (PageId, Lsn) {
        let (lsn, page) = *self.witness.lock();
        (page, lsn)
    }
    /// Goes on from the witness that the control file names.
    pub fn set_witness(&self, page: PageId, lsn: Lsn) {
        let mut witness = self.witness.lock();
        *witness = (*witness).max((lsn, page));
    }

    /// Makes every page write that has completed durable.
    ///
    /// # Errors
    /// A failed sync poisons.
    pub fn sync_data(&self) -> Result<()> {
        self.check()?;
        let synced = self.data.sync();
        let again = synced.is_err() && mutants::is(Mutant::DataSyncRetried);
        let synced = if again { self.data.sync() } else { synced };
        synced.map_err(|e| self.log.poison(Error::io("syncing the data file", e).with_file(DATA)))
    }
}
