//! Room for undo: images of the pages that a rollback makes dirty again.
//!
//! The log space of a CLR is reserved with the update. But a CLR also changes a page, and a page that was written since the
//! update, and a checkpoint begun since, owes the log a new image before it is written again. On a full device there is no
//! space for it, so it is set aside as well, before the update is logged (TXN-ROOM): one image for each page that a
//! transaction has changed. Where a structure change brings rows of live transactions to a page that had none, one more is
//! set aside, for the transaction that is alone, or for all. Where one takes all rows off a page, the image is for the page that has
//! them now; if the page is used again, it is another.
//!
//! A rollback takes log space as it comes while there is any, and what is set aside when there is none. Then it takes one
//! image for each page and checkpoint: once a page's image is at or above B, the begin of the newest checkpoint, no other is
//! needed until the next one begins. That one first sets aside again what was used, or fails, which hinders no rollback.
use crate::txn::State;
use crate::{Txn, TxnManager};
use hamal_buffer::OpCredit;
use hamal_error::Result;
use hamal_page::{Lsn, PageId};
use hamal_sync::atomic::{AtomicBool, Ordering::SeqCst};
use hamal_sync::{Mutex, MutexGuard, RwLock};
use std::collections::VecDeque;

/// What undo keeps besides the transactions' own.
#[derive(Debug, Default)]
pub(crate) struct UndoRoom {
    /// Held shared by each undo of a record, exclusively while a checkpoint publishes its begin.
    pub(crate) epoch: RwLock<()>,
    spread: Mutex<Spread>,
    /// Whether there may be something in `spread`.
    any: AtomicBool,
}

/// Images for pages to which structure changes brought rows of several transactions.
#[derive(Debug, Default)]
struct Spread {
    /// The log's tail at each such change, ascending. A transaction that begins later has no rows there.
    at: VecDeque<Lsn>,
    /// How many of as many images are there; the others are used.
    left: u64,
}

impl TxnManager {
    /// To be called after a structure change, under its latches, for each page that now has rows, or whatever undo may look
    /// for, of live transactions, and had none before: sets an image aside for their undo. `txn` is the transaction that
    /// needed the change; `credit` is one of [`Pool::credit_spreading`](hamal_buffer::Pool::credit_spreading).
    pub fn spread_undo(&self, txn: Option<&Txn>, page: PageId, credit: &mut OpCredit<'_>) {
        if self.others_listed(txn) {
            let mut spread = self.room.spread.lock();
            if credit.take_undo_images(1) != 0 {
                let tail = self.log().tail();
                spread.at.push_back(tail);
                spread.left += 1;
                self.room.any.store(true, SeqCst);
            }
        } else if let Some(txn) = txn {
            let mut core = txn.core.lock();
            if core.state == State::Live {
                core.touch(page, credit);
            }
        }
    }

    /// To be called after a structure change, under its latches, for a page that was freed and whose rows are on another one now.
    pub fn page_left(&self, page: PageId) {
        if self.nobody_listed() {
            return;
        }
        self.listed().iter().for_each(|txn| txn.core.lock().untouch(page));
    }

    /// Gives images back that no live transaction is old enough to need.
    pub(crate) fn forget_spread(&self) {
        if !self.room.any.load(SeqCst) {
            return;
        }
        // Whoever is listed later has its first record behind what is in the list now.
        let tail = self.log().tail();
        let oldest = self.oldest_first_lsn().unwrap_or(tail);
        let mut spread = self.room.spread.lock();
        let n = spread.at.partition_point(|at| *at <= oldest);
        spread.at.drain(..n);
        self.trim_spread(spread);
    }

    /// Gives back what is beyond one image for each change.
    fn trim_spread(&self, mut spread: MutexGuard<'_, Spread>) {
        let surplus = spread.left.saturating_sub(spread.at.len() as u64);
        spread.left -= surplus;
        self.room.any.store(!spread.at.is_empty(), SeqCst);
        drop(spread);
        if surplus != 0 {
            self.log().give_back(surplus * self.pool().image_bytes());
        }
    }

    /// Takes at most `most` images out of what is set aside: of the transaction, then of all.
    pub(crate) fn take_undo_images(&self, txn: &Txn, most: u64) -> u64 {
        let own = {
            let mut core = txn.core.lock();
            let own = core.images.min(most);
            core.images -= own;
            core.images_used += own;
            own
        };
        let mut spread = self.room.spread.lock();
        let shared = spread.left.min(most - own);
        spread.left -= shared;
        own + shared
    }

    /// Puts images back that were not needed after all.
    pub(crate) fn return_undo_images(&self, txn: &Txn, images: u64) {
        let mut core = txn.core.lock();
        core.images += images;
        core.images_used = core.images_used.saturating_sub(images);
    }

    /// Runs `begin`, in which a checkpoint begins: from then on images made before do not count any more. What undo has
    /// used is set aside again first.
    ///
    /// # Errors
    /// `NoSpace`, with `begin` not run, if that cannot be; those of `begin`.
    pub fn begin_epoch<T>(&self, begin: impl FnOnce() -> Result<T>) -> Result<T> {
        let _no_undo = self.room.epoch.write();
        let cost = self.pool().image_bytes();
        for txn in self.listed() {
            let used = txn.core.lock().images_used;
            if used == 0 {
                continue;
            }
            // Without the transaction's mutex: this may make a segment.
            self.log().reserve(used * cost, true)?;
            let mut core = txn.core.lock();
            if matches!(core.state, State::Live | State::RollingBack) {
                core.images += used;
                core.images_used = 0;
            } else {
                drop(core);
                self.log().give_back(used * cost);
            }
        }
        self.refill_spread()?;
        self.pool().pay_images()?;
        begin()
    }

    fn refill_spread(&self) -> Result<()> {
        let missing = {
            let spread = self.room.spread.lock();
            spread.at.len() as u64 - spread.left
        };
        if missing != 0 {
            self.log().reserve(missing * self.pool().image_bytes(), true)?;
            let mut spread = self.room.spread.lock();
            spread.left += missing;
            // Some may have been forgotten meanwhile.
            self.trim_spread(spread);
        }
        Ok(())
    }
}
