//! Statistics: one flat table of counters.
use crate::core::Core;

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters since the database was opened, and gauges of this moment. Sizes in bytes, LSNs as numbers.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize))]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
            /// What background work (cleaner, checkpointer, flusher, collector) last failed with, if it has not succeeded
            /// since.
            pub background_error: Option<String>,
        }

        impl Stats {
            /// Every counter with its name, in the order of the fields.
            pub fn counters(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

stats! {
    /// The end of the log.
    log_tail,
    /// The log is durable up to here.
    log_durable,
    /// The log can be read from here.
    log_oldest,
    /// Bytes of log files.
    log_allocated_bytes,
    /// Bytes of log promised to live transactions and dirty pages.
    log_reserved_bytes,
    /// Records appended.
    log_records,
    /// Their bytes.
    log_record_bytes,
    /// Groups written.
    log_groups,
    /// Syncs of log files.
    log_syncs,
    /// Log files made.
    log_segments_created,
    /// Log files used again.
    log_segments_recycled,
    /// Frames of the cache.
    cache_frames,
    /// Pages in the cache.
    cache_resident,
    /// Pages newer than on disk.
    cache_dirty,
    /// Pages found in the cache, approximately.
    cache_hits,
    /// Pages read from disk.
    cache_misses,
    /// Frames given to another page.
    cache_evictions,
    /// Pages written.
    pages_written,
    /// Write calls that wrote them.
    page_write_calls,
    /// Page images logged.
    page_images,
    /// Their bytes.
    page_image_bytes,
    /// Pages rebuilt from the log because the disk did not give them as they were written last.
    pages_repaired,
    /// Pages of the data file.
    file_pages,
    /// Live write transactions.
    transactions_active,
    /// Write transactions begun.
    transactions_begun,
    /// Committed.
    transactions_committed,
    /// Rolled back.
    transactions_rolled_back,
    /// Conflicts with a transaction that committed first.
    conflicts,
    /// Waits refused because they closed a cycle.
    deadlocks,
    /// Waits that took too long.
    lock_timeouts,
    /// Commits refused because something that the transaction had read was changed meanwhile.
    serialization_failures,
    /// Waits for other transactions.
    lock_waits,
    /// Live snapshots.
    snapshots,
    /// The oldest snapshot, 0 if there is none.
    oldest_snapshot,
    /// First LSN of the oldest live write transaction, 0 if there is none: it holds the log.
    oldest_writer,
    /// Everything below is settled.
    horizon,
    /// Old versions of rows in memory.
    versions,
    /// Their bytes: never more than the version budget.
    version_bytes,
    /// Old versions that were left to the log because the budget was used up, since the database was opened.
    versions_demoted,
    /// Snapshots that were ended while they were in use, since the database was opened.
    snapshots_ended,
    /// Committed and live transactions whose state is remembered for the sake of snapshots.
    transaction_statuses,
    /// Rollbacks that wait for space on the device.
    rollbacks_waiting_for_space,
    /// Redo point of the last checkpoint: recovery would read the log from here.
    redo_point,
    /// How long a recovery would take now, in microseconds, as [`Builder::recovery_target`](crate::Builder::recovery_target) reckons.
    recovery_estimate_micros,
}

impl Stats {
    pub(crate) fn of(core: &Core) -> Stats {
        let (l, p, t) = (core.log.stats(), core.pool.stats(), core.txns.stats());
        Stats {
            log_tail: l.tail.0,
            log_durable: l.durable.0,
            log_oldest: l.oldest.0,
            log_allocated_bytes: l.allocated_bytes,
            log_reserved_bytes: l.reserved_bytes,
            log_records: l.records,
            log_record_bytes: l.record_bytes,
            log_groups: l.groups,
            log_syncs: l.syncs,
            log_segments_created: l.segments_created,
            log_segments_recycled: l.segments_recycled,
            cache_frames: p.frames,
            cache_resident: p.resident,
            cache_dirty: p.dirty,
            cache_hits: p.hits,
            cache_misses: p.misses,
            cache_evictions: p.evictions,
            pages_written: p.pages_written,
            page_write_calls: p.write_calls,
            page_images: p.images,
            page_image_bytes: p.image_bytes,
            pages_repaired: p.repaired,
            file_pages: p.file_pages,
            transactions_active: t.active,
            transactions_begun: t.begun,
            transactions_committed: t.committed,
            transactions_rolled_back: t.rolled_back,
            conflicts: t.conflicts,
            deadlocks: t.deadlocks,
            lock_timeouts: t.timeouts,
            serialization_failures: t.serialization_failures,
            lock_waits: t.waits,
            snapshots: t.snapshots,
            oldest_snapshot: t.oldest_snapshot.map_or(0, |l| l.0),
            oldest_writer: t.oldest_writer.map_or(0, |l| l.0),
            horizon: t.horizon.0,
            versions: t.versions,
            version_bytes: t.version_bytes,
            versions_demoted: t.versions_demoted,
            snapshots_ended: t.snapshots_ended,
            transaction_statuses: t.statuses,
            rollbacks_waiting_for_space: t.rollbacks_waiting_for_space,
            redo_point: core.checkpointer.current().redo.0,
            recovery_estimate_micros: core.recovery_estimate().as_micros() as u64,
            background_error: core.trouble.lock().as_ref().map(|e| e.to_string()),
        }
    }
}
