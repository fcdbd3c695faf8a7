//! The list: one entry for each planted bug. Numbers are for command lines and reports; they follow the order here.
use crate::Need;

macro_rules! mutants {
    ($($number:literal $variant:ident $name:literal breaks $breaks:literal in [$($place:literal),*] needs [$($need:ident),*]
       $description:literal; $hint:literal)*) => {
        /// A planted bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u16)]
        #[non_exhaustive]
        pub enum Mutant {
            $(#[doc = $description] $variant = $number,)*
        }

        /// Every mutant, in the order of their numbers.
        pub const ALL: &[Mutant] = &[$(Mutant::$variant),*];

        impl Mutant {
            /// Its number, from 1 on.
            #[inline(always)]
            pub const fn number(self) -> u16 {
                self as u16
            }
            /// Its name: words with hyphens.
            pub const fn name(self) -> &'static str {
                match self { $(Mutant::$variant => $name,)* }
            }
            /// What is wrong, in a sentence.
            pub const fn description(self) -> &'static str {
                match self { $(Mutant::$variant => $description,)* }
            }
            /// The invariants and traps that it breaks: ids of `docs/invariants.md` and `docs/traps.md`.
            pub const fn breaks(self) -> &'static str {
                match self { $(Mutant::$variant => $breaks,)* }
            }
            /// The files that have it, below `crates/`.
            pub const fn places(self) -> &'static [&'static str] {
                match self { $(Mutant::$variant => &[$($place),*],)* }
            }
            /// What has to happen before it does harm; nothing: it shows in normal work.
            pub const fn needs(self) -> &'static [Need] {
                match self { $(Mutant::$variant => &[$(Need::$need),*],)* }
            }
            /// What is likely to show it.
            pub const fn hint(self) -> &'static str {
                match self { $(Mutant::$variant => $hint,)* }
            }
        }
    };
}

mutants! {
    1 PageBeforeLog "page-before-log"
        breaks "W-3, W-4" in ["buffer/src/clean.rs"] needs [Crash]
        "Pages are written before the log is durable up to them.";
        "change rows without committing, flush pages, crash; a look at every page write finds it at once"
    2 AckBeforeSync "ack-before-sync"
        breaks "LOG-1, T21" in ["log/src/commit.rs", "log/src/log.rs"] needs [Crash]
        "A group counts as durable when it is written; it is synced only as the next one begins.";
        "commit, crash at once: the acknowledged transaction is the last group"
    3 CheckpointWithoutSync "checkpoint-without-sync"
        breaks "CKP-3, T45" in ["checkpoint/src/checkpointer.rs"] needs [Crash]
        "A checkpoint does not sync the data file.";
        "commit, flush pages, checkpoint, crash: a page of which the write is lost is no longer redone"
    4 ControlBeforeEnd "control-before-end"
        breaks "CKP-4, T45" in ["checkpoint/src/checkpointer.rs"] needs [Crash]
        "The control file is written before the checkpoint's end record is durable.";
        "checkpoint, crash between the write of the control file and the sync of the log"
    5 NoImage "no-image"
        breaks "W-1" in ["buffer/src/clean.rs"] needs [Tear]
        "No image of a page is logged before it is overwritten.";
        "commit, flush, checkpoint twice, change the same page, flush, crash in the write of the data file"
    6 ImageOnce "image-once"
        breaks "W-1, T31" in ["buffer/src/clean.rs"] needs [Tear]
        "A page is imaged once in its life and not once per checkpoint.";
        "as `no-image`, with a page that was written before: two checkpoints, then a torn write"
    7 RedoAppliesEqual "redo-applies-equal"
        breaks "REC-3" in ["recovery/src/redo.rs"] needs [Crash]
        "Redo applies a record to a page whose pageLSN is the record's own LSN.";
        "only with images off (a page that was written has an image in reach otherwise): insert, commit, \
         flush, crash before the next checkpoint: the insert is done twice"
    8 RedoKeepsPageLsn "redo-keeps-page-lsn"
        breaks "BUF-ONE-APPLY, REC-3" in ["buffer/src/redo.rs"] needs [Crash]
        "Redo changes a page and leaves its pageLSN.";
        "compare redone pages with their log; or crash a second time after the redone page was written"
    9 RedoFromBegin "redo-from-begin"
        breaks "CKP-2, REC-4" in ["recovery/src/analysis.rs"] needs [Crash]
        "Redo starts at the checkpoint's begin record and not at the redo point.";
        "commit without flushing, checkpoint, crash: the change is below the begin record"
    10 RecLsnLate "rec-lsn-late"
        breaks "BUF-REC, W-8, T45" in ["buffer/src/change.rs"] needs [Crash]
        "recLSN is the log's tail after the change and not before it.";
        "commit a single change of a page without flushing, checkpoint, crash: the redo point lies behind \
         the record"
    11 ClrWithoutUndoNext "clr-without-undo-next"
        breaks "TXN-CLR, REC-6, T45" in ["txn/src/rollback.rs"] needs []
        "A CLR carries prevLSN where undoNextLSN belongs.";
        "change, savepoint, change, roll back to the savepoint; then roll everything back, or crash after \
         another commit"
    12 NoClr "no-clr"
        breaks "TXN-CLR, REC-6" in ["txn/src/rollback.rs"] needs [Crash]
        "Rollback changes pages by records that are in nobody's chain: there is no CLR.";
        "change, savepoint, change, roll back to the savepoint, commit another transaction, crash: the undo \
         is done twice"
    13 ClrRepeated "clr-repeated"
        breaks "REC-6, T45" in ["recovery/src/analysis.rs"] needs [Crash]
        "Analysis ignores undoNextLSN of CLRs, so restart undoes what rollback has undone.";
        "as `no-clr`"
    14 YoungLoserForgotten "young-loser-forgotten"
        breaks "REC-5, TXN-LOSERS" in ["recovery/src/analysis.rs"] needs [Crash]
        "Transactions that began after the checkpoint are missing among the losers.";
        "change a row, commit another transaction (so that the change is durable), crash"
    15 CommitLeavesLoser "commit-leaves-loser"
        breaks "REC-5" in ["recovery/src/analysis.rs"] needs [Crash]
        "A commit record does not take the transaction out of the table. (A missing End record does no harm \
         here: every record of the chain is compensated by then.)";
        "commit, crash: the acknowledged transaction is rolled back"
    16 TornTailAccepted "torn-tail-accepted"
        breaks "LOG-2" in ["log/src/codec.rs", "log/src/end.rs", "log/src/files.rs"] needs [Tear]
        "Checksums of records and groups are ignored.";
        "a group of several sectors, crash in its write with the seal kept and a sector before it lost"
    17 AppendBehindTornTail "append-behind-torn-tail"
        breaks "LOG-2, LOG-3" in ["log/src/end.rs"] needs [Tear, Nested]
        "The log goes on behind the torn group and not over it. (Tails are never cut on disk here: the \
         nearest to a cut in memory only.)";
        "a torn group, an open, a durable commit before the next complete checkpoint, a crash: the next \
         open stops at the gap"
    18 DamageIsTail "damage-is-tail"
        breaks "LOG-3, T7" in ["log/src/end.rs"] needs [Damage]
        "Damage in the middle of the log passes for a torn tail.";
        "two durable groups after a checkpoint, a flipped bit in the first"
    19 CrcWithoutLsn "crc-without-lsn"
        breaks "LOG-2, T13" in ["log/src/end.rs", "log/src/format.rs"] needs []
        "Checksums of records, groups and seals are not bound to their LSN, and a seal need not name the \
         one before.";
        "fill and release segments until one is used again, close or crash with the log's end in it: its \
         former content joins on, or proves that the log went on"
    20 RecycleBeforeSlot "recycle-before-slot"
        breaks "CKP-5, T13, T45" in ["checkpoint/src/checkpointer.rs"] needs [Crash]
        "Log is released before the control file says so: one checkpoint early.";
        "log of several segments, flush, checkpoint, crash between the release and the control file's sync"
    21 NoDirSync "no-dir-sync"
        breaks "LOG-8" in ["log/src/space.rs"] needs [Crash]
        "The log's directory is not synced when a segment is made.";
        "enough log for a new segment, crash: a segment with acknowledged records has no name"
    22 SegmentNotSynced "segment-not-synced"
        breaks "LOG-8" in ["log/src/segment.rs"] needs [Crash]
        "A new segment gets its name before its length and header are durable. (The data file's length is \
         durable with its sync: the nearest to a size change that is not synced.)";
        "enough log for a new segment, crash before anything is written to the newest one"
    23 SyncRetried "sync-retried"
        breaks "LOG-9, ERR-1" in ["log/src/commit.rs"] needs [Crash, IoErrors]
        "A failed sync of the log is tried again, and its success is believed.";
        "one EIO at a sync of the log, commit, crash"
    24 NoSpaceSwallowed "no-space-swallowed"
        breaks "ERR-1, T15" in ["buffer/src/clean.rs"] needs [Crash, NoSpace]
        "A page write that fails for want of space counts as done.";
        "ENOSPC once at a write of the data file, checkpoint; read the page from disk, or crash"
    25 ShortWriteIsWhole "short-write-is-whole"
        breaks "DISK-1" in ["disk/src/continued.rs"] needs [ShortWrites]
        "A short write is not continued.";
        "one short write to log, data or control file; then a crash, or a read past the cache"
    26 AckAfterPoison "ack-after-poison"
        breaks "ERR-1, T21" in ["log/src/ticket.rs"] needs [Crash, IoErrors]
        "A commit whose write or sync failed is acknowledged.";
        "one EIO at a write or sync of the log in a commit, crash"
    27 SectorRewritten "sector-rewritten"
        breaks "LOG-1, T17" in ["log/src/commit.rs"] needs [Hostile]
        "A group's write begins with the last sector of the group before: acknowledged bytes are written \
         again.";
        "two durable commits, crash in the second write with garbage in its first sector; a look at every \
         log write finds it at once"
    28 OneControlSlot "one-control-slot"
        breaks "CKP-5" in ["checkpoint/src/control.rs"] needs [Tear]
        "Every checkpoint writes the same slot of the control file.";
        "three checkpoints and some released log, crash in the write of the control file"
    29 ChecksumWithoutPage "checksum-without-page"
        breaks "BUF-VERIFY, T33" in ["page/src/checksum.rs"] needs [Damage]
        "The check of a page leaves its number out: any page of the database passes for any other. (The \
         checksum has it from the header.)";
        "a page write that went to the place of another page; two pages exchanged"
    30 LockAfterWrite "lock-after-write"
        breaks "DISK-4, HAM-2" in ["hamal/src/open.rs"] needs [TwoOwners]
        "The directory is locked only when recovery has already written to it.";
        "open a database that is open and has log behind its checkpoint: the second open is refused, and \
         has written"
    31 LatchBeforeLsn "latch-before-lsn"
        breaks "BUF-ONE-APPLY, W-IMG" in ["buffer/src/change.rs"] needs [Threads]
        "The page's latch is let go for a moment between a change and its pageLSN.";
        "one thread changes a page while another flushes it and takes a checkpoint, crash"
    32 FollowerAcked "follower-acked"
        breaks "LOG-1, LOG-7" in ["log/src/commit.rs"] needs [Threads]
        "A thread that waited for a group counts as served when it is woken, whether the group had its \
         record or not.";
        "many threads that commit at once, crash right after an acknowledgement"
    33 LogNeverSynced "log-never-synced"
        breaks "LOG-1" in ["log/src/commit.rs", "log/src/log.rs"] needs [Crash]
        "The log is never synced.";
        "commit, crash"
    34 ForceWithoutImage "force-without-image"
        breaks "W-3" in ["buffer/src/clean.rs"] needs [Tear]
        "The log is forced up to the page's pageLSN before the page is written, and not up to its image.";
        "checkpoint, commit a change of an old page, flush, crash in the write of the data file"
    35 GroupCrcIgnored "group-crc-ignored"
        breaks "LOG-2, T13" in ["log/src/end.rs", "log/src/files.rs"] needs [Tear, Nested]
        "A group's seal is accepted although the group's checksum is another.";
        "hard: two crashes in the write of groups that begin at the same LSN, where sectors of the old one \
         continue the new one exactly; or a lost sector that begins with a record, before the seal"
    36 SealForgetsPredecessor "seal-forgets-predecessor"
        breaks "LOG-2" in ["log/src/log.rs"] needs [Nested]
        "After an open the first seal names a wrong predecessor.";
        "open, durable commit, crash before the next complete checkpoint: the commit passes for a torn tail"
    37 ControlProofIgnored "control-proof-ignored"
        breaks "LOG-3, T7" in ["log/src/end.rs"] needs [Damage]
        "The durable LSN in the control file is not asked when the log ends early.";
        "checkpoint, damage its end record's group"
    38 ReadErrorIsTail "read-error-is-tail"
        breaks "LOG-3, T4" in ["log/src/end.rs"] needs [IoErrors]
        "A read error while the log's end is looked for passes for the end.";
        "durable commits after a checkpoint, crash, one EIO at a read of the log while it is opened"
    39 SegmentHeaderUnchecked "segment-header-unchecked"
        breaks "LOG-8, T7" in ["log/src/segment.rs"] needs [Damage]
        "A segment's header is not compared with its name, its database and its timeline.";
        "an old segment file, or one of another database, in the place of the right one: the error is gone \
         or another one"
    40 SealWithoutRoom "seal-without-room"
        breaks "LOG-6, T15" in ["log/src/space.rs"] needs [NoSpace]
        "A seal's space is not made sure of, so that the log may enter the last segment there is.";
        "groups of one small record each, padded to 4096 bytes, and no new credit that would make room: two dozen updates of one \
         row with savepoints between, fill the device, roll back savepoint by savepoint, each step flushed"
    41 TimestampIsStart "timestamp-is-start"
        breaks "TXN-COMMIT, T23" in ["txn/src/commit.rs"] needs [Crash]
        "A commit's timestamp is the start of its record: the record itself need not be durable.";
        "T1 changes a row, T2 commits durably (which flushes T1's change), T1 commits durably, crash at \
         once"
    42 TicketReadyEarly "ticket-ready-early"
        breaks "LOG-1, T21" in ["log/src/ticket.rs"] needs [Crash]
        "A ticket says that its commit is durable as soon as it is in the log's memory.";
        "asynchronous commit, ask the ticket, crash"
    43 ReadCommitDoesNotWait "read-commit-does-not-wait"
        breaks "TXN-SNAP, T21" in ["txn/src/commit.rs"] needs [Crash]
        "A transaction that wrote nothing does not wait for what it has read.";
        "asynchronous commit, then a write transaction that reads the row and commits durably, crash"
    44 EngineGoesOn "engine-goes-on"
        breaks "ERR-1, LOG-9" in ["error/src/lib.rs"] needs [IoErrors]
        "After a failed write or sync the engine goes on as if nothing had happened.";
        "one EIO at a write or sync of the log or the data file, further commits, crash"
    45 DataSyncRetried "data-sync-retried"
        breaks "ERR-1, CKP-3" in ["buffer/src/checkpoint.rs"] needs [Crash, IoErrors]
        "A failed sync of the data file is tried again, and its success is believed.";
        "flush, one EIO at the checkpoint's sync of the data file, crash"
    46 KeepForNewerSlot "keep-for-newer-slot"
        breaks "CKP-5, T13" in ["checkpoint/src/control.rs"] needs [Damage]
        "The log is kept for the newer slot of the control file only.";
        "log of several segments, two checkpoints with flushes, damage the newer slot"
    47 LogCutAtRedo "log-cut-at-redo"
        breaks "CKP-5, T41" in ["checkpoint/src/checkpointer.rs"] needs []
        "The log is cut at the redo point, whoever has older records.";
        "a long transaction over several segments of log and two checkpoints with flushes, then its \
         rollback, or a crash"
    48 ControlNotSynced "control-not-synced"
        breaks "CKP-4, T45" in ["checkpoint/src/control.rs"] needs [Crash]
        "A slot of the control file is not synced before the log is released.";
        "log of several segments, three checkpoints with flushes, crash: the control file speaks of \
         released log"
    49 ControlOpenNotSynced "control-open-not-synced"
        breaks "REC-1, T44" in ["checkpoint/src/control.rs"] needs [Kill]
        "Opening does not sync the control file before it relies on it.";
        "checkpoint, kill before its sync, open and commit much, power failure with the control file's \
         write lost"
    50 LogOpenNotSynced "log-open-not-synced"
        breaks "LOG-1, T4, T44" in ["log/src/log.rs"] needs [Kill]
        "Opening does not sync the log before it relies on it.";
        "commit, kill between write and sync, open (which shows the commit), power failure with the group \
         lost"
    51 SegmentsNotRewritten "segments-not-rewritten"
        breaks "REC-1, T4" in ["hamal/src/open.rs"] needs [Kill, IoErrors]
        "Without a way past the cache, log that was read from it is not written anew.";
        "a failed sync of the log, reopen without a power failure (what failed is in the cache), then a \
         power failure; on a disk that cannot bypass its cache"
    52 CacheTrusted "cache-trusted"
        breaks "REC-1, T4" in ["hamal/src/open.rs"] needs [Kill, IoErrors]
        "Without a way past the cache, pages with a current pageLSN are not written again.";
        "flush, a failed sync of the data file, reopen without a power failure, checkpoint, power failure; \
         on a disk that cannot bypass its cache"
    53 LowerSequence "lower-sequence"
        breaks "CKP-5, HAM-5" in ["checkpoint/src/control.rs"] needs []
        "Of two good slots of the control file the older one counts.";
        "close and open: the clean end is not recognised, and the next control file has a sequence number \
         twice"
    54 AttUndoNextNull "att-undo-next-null"
        breaks "TXN-ATT" in ["txn/src/manager.rs"] needs [Crash]
        "A checkpoint lists its transactions with nothing left to undo.";
        "change a row, checkpoint, crash: the loser's change stays"
    55 AttMissesRollingBack "att-misses-rolling-back"
        breaks "TXN-ATT, REC-9" in ["txn/src/manager.rs"] needs [Nested]
        "A checkpoint does not list transactions that are being rolled back.";
        "a loser, crash, crash again after recovery's first checkpoint: the loser is forgotten"
    56 DptMissesNewPages "dpt-misses-new-pages"
        breaks "CKP-2" in ["buffer/src/checkpoint.rs"] needs [Crash]
        "A checkpoint does not list pages that were made and never written.";
        "make pages (a tree, a split, a long value), checkpoint without flushing, crash"
    57 DptEntryIgnored "dpt-entry-ignored"
        breaks "REC-4, REC-5" in ["recovery/src/analysis.rs"] needs [Crash]
        "Of a page that changed after the checkpoint too, analysis takes that change's LSN as recLSN.";
        "on a disk that bypasses its cache: change a page of which the log holds no image any more, begin a \
         checkpoint, change the page again between its begin record and its tables, crash without writing the page: \
         redo must begin at the first change"
    58 TableInOneRecord "table-in-one-record"
        breaks "LOG-6, T29" in ["checkpoint/src/checkpointer.rs"] needs []
        "A checkpoint's table is one record, however long it is.";
        "more than a thousand dirty pages, and a ring of 256 KiB: the checkpoint fails for ever"
    59 ReaderHoldsLog "reader-holds-log"
        breaks "TXN-H, T10" in ["checkpoint/src/checkpointer.rs"] needs [Limits]
        "The oldest snapshot keeps the log from being released.";
        "a long read transaction, and more log than its limit with checkpoints: LogFull"
    60 ImagesFromBegin "images-from-begin"
        breaks "REC-4, T42" in ["recovery/src/analysis.rs"] needs [Tear]
        "Analysis looks for images from the begin record on, and not from the redo point.";
        "a dirty page keeps the redo point low, an image is logged and its write torn before the begin \
         record of a checkpoint that lists the page"
    61 RebuiltPageDirtyLate "rebuilt-page-dirty-late"
        breaks "REC-4, T42" in ["recovery/src/redo.rs"] needs [Tear, Nested]
        "A page rebuilt from an image counts as dirty only from its next record on.";
        "a torn page with a record after its image, crash, recovery, crash after recovery's checkpoint"
    62 FreedPageRedone "freed-page-redone"
        breaks "BUF-FREE, T5" in ["recovery/src/analysis.rs"] needs [Crash]
        "A free record does not end a page's past: older records are redone onto what happens to be on \
         disk.";
        "make, change, flush and free pages (merge, drop, long values), some of it without flushing, crash \
         before a checkpoint"
    63 ImageInRedoMissing "image-in-redo-missing"
        breaks "W-1, T45" in ["buffer/src/redo.rs"] needs [Tear, Nested]
        "Pages that recovery writes before its checkpoint are not imaged.";
        "more pages to redo than the cache holds, crash in recovery's own write of a page"
    64 RedoImagesAgain "redo-images-again"
        breaks "REC-2, T2" in ["buffer/src/redo.rs"] needs [Nested, Limits]
        "Every attempt at recovery logs all images again.";
        "more pages to redo than the cache holds, many crashes in recovery: the log grows without bound"
    65 LostWriteUnnoticed "lost-write-unnoticed"
        breaks "REC-3, T32" in ["recovery/src/redo.rs"] needs [Damage]
        "Redo does not compare the pageLSN that a record was made on.";
        "a page write that is lost behind the engine's back, a checkpoint, another change of the page, \
         crash"
    66 LogBehindUnnoticed "log-behind-unnoticed"
        breaks "LOG-3, T7" in ["buffer/src/fetch.rs", "recovery/src/redo.rs"] needs [Damage]
        "A page that has seen records beyond the log's end is accepted.";
        "the log's last groups put back to an older state after pages were flushed"
    67 WitnessIgnored "witness-ignored"
        breaks "BUF-WITNESS" in ["hamal/src/open.rs"] needs [Damage]
        "Opening does not ask whether the data file is older than the control file.";
        "close, commit and close again, put the first data file back"
    68 LoserCleansLeaf "loser-cleans-leaf"
        breaks "REC-9, BTREE-6, T11" in ["txn/src/manager.rs", "btree/src/core/undo.rs", "hamal/src/open.rs"] needs [Crash]
        "Losers do not count as active while recovery undoes, and undo purges the leaf that it comes to.";
        "two losers that deleted different committed rows of one leaf, crash"
    69 ClrEndsUndo "clr-ends-undo"
        breaks "TXN-CLR, REC-6" in ["txn/src/rollback.rs"] needs [Crash]
        "A CLR says on disk that nothing is left to undo.";
        "change, savepoint, change, roll back to the savepoint, commit another transaction, crash: the \
         first change stays"
    70 UndoAscending "undo-ascending"
        breaks "REC-6, T45" in ["txn/src/rollback.rs"] needs []
        "Rollback undoes a transaction's changes oldest first.";
        "two changes of the same row, rollback"
    71 SavepointTooFar "savepoint-too-far"
        breaks "TXN-CLR" in ["txn/src/rollback.rs"] needs []
        "Rolling back to a savepoint undoes one record more.";
        "change, savepoint, change, roll back to the savepoint, read"
    72 LogEndCutShort "log-end-cut-short"
        breaks "REC-1" in ["recovery/src/analysis.rs"] needs [Crash]
        "Analysis leaves out the last record of the log.";
        "commit, crash: the commit record is the last one"
    73 ImageMissesBytes "image-misses-bytes"
        breaks "W-IMG" in ["buffer/src/clean.rs"] needs [Tear]
        "The image of a page leaves out a byte next to its hole.";
        "checkpoint, change an old page, flush, crash in the write of the data file; or compare rebuilt \
         pages"
    74 NoDirtyCap "no-dirty-cap"
        breaks "BUF-CAP, T26" in ["buffer/src/credit.rs"] needs [Limits]
        "Nothing limits the number of dirty pages.";
        "a small share of the log for images and a larger cache: more pages are dirty than the log has room \
         to image"
    75 HorizonVisible "horizon-visible"
        breaks "TXN-H, T19" in ["txn/src/horizon.rs"] needs []
        "The horizon follows visible and not durable commits.";
        "asynchronous commit of a change, maintenance, then a read: it shows what is not durable yet, or \
         misses the former value"
    76 HorizonIgnoresSnapshots "horizon-ignores-snapshots"
        breaks "TXN-H" in ["txn/src/horizon.rs"] needs []
        "The horizon passes open snapshots.";
        "open a read transaction, overwrite or delete rows and commit, maintenance, read through the old \
         snapshot"
    77 UndoWithoutWriter "undo-without-writer"
        breaks "BTREE-6, T20" in ["btree/src/core/undo.rs"] needs []
        "Undo restores a row without its writer.";
        "change a row twice with a savepoint between, roll back to it: others see and overwrite the first \
         change"
    78 GhostRemovedByUndo "ghost-removed-by-undo"
        breaks "BTREE-7, T20" in ["btree/src/core/undo.rs"] needs []
        "Undo of an insert over a deleted row takes the deleted row away as well.";
        "delete a row and commit under an old snapshot, insert it again, roll back, read through the \
         snapshot; or delete, savepoint, insert, roll back twice"
    79 ConflictIgnored "conflict-ignored"
        breaks "TXN-SNAP" in ["txn/src/manager.rs"] needs []
        "A row that was committed after the snapshot is overwritten.";
        "two interleaved transactions change one row, the first commits before the second writes"
    80 LockIgnored "lock-ignored"
        breaks "TXN-WAIT, REC-7" in ["txn/src/manager.rs"] needs []
        "A row that a live transaction has changed is overwritten.";
        "two interleaved transactions change one row, then one of them rolls back"
    81 RollbackGivesUp "rollback-gives-up"
        breaks "TXN-RESERVE, T15" in ["txn/src/rm.rs", "txn/src/rollback.rs"] needs [NoSpace]
        "A rollback that finds the device full gives up.";
        "fill the device with a transaction open, roll it back"
    82 NoVersionBudget "no-version-budget"
        breaks "TXN-VERSIONS, T28" in ["txn/src/versions.rs"] needs [Limits]
        "Former versions take memory without limit.";
        "a long snapshot and many overwritten rows"
    83 DropIgnoresWriters "drop-ignores-writers"
        breaks "TXN-TREE, T8" in ["txn/src/registrations.rs"] needs []
        "A tree is dropped while others have changes in it.";
        "T1 changes a row, T2 drops the tree and commits, maintenance, T1 rolls back"
    84 CatalogueRowUnchecked "catalogue-row-unchecked"
        breaks "CATALOGUE-1, T8" in ["btree/src/catalogue.rs"] needs []
        "A transaction writes in a tree that was dropped after its snapshot.";
        "T1 begins, T2 drops a tree and commits, T1 writes in it"
    85 SplitInTwoRecords "split-in-two-records"
        breaks "BTREE-10, REC-8" in ["btree/src/core/split.rs"] needs [Crash]
        "A split is two records, and the log is flushed between them: the right half, then the parent. \
         (Splits are redo-only here: the nearest to a split that is no nested top action.)";
        "insert until a leaf below the root splits, crash between the two records"
    86 MapBitLater "map-bit-later"
        breaks "SPACE-2, BTREE-10" in ["btree/src/core/split.rs"] needs [Crash]
        "A root split links its pages in one record and allocates them in a second one, with a flush \
         between them. (Bits are never undone here: the nearest to a bit that is forgotten.)";
        "insert until the root splits, crash between the two records, insert more: pages are given out \
         twice"
    87 ChainPageLinkedLater "chain-page-linked-later"
        breaks "GARBAGE-1, T12" in ["btree/src/overflow.rs"] needs [Crash]
        "A page of a long value is allocated in one record and linked in a second one, with a flush between \
         them.";
        "put a value of several pages, crash between the two records: the page belongs to nobody"
    88 GarbageRowFirst "garbage-row-first"
        breaks "GARBAGE-2, T10" in ["btree/src/garbage.rs"] needs [Crash]
        "The collector moves a row on before it frees the pages, in a record of its own, with a flush \
         between them.";
        "drop a tree or a value of more than 16 pages, maintenance, crash between the two records: pages \
         leak"
    89 GarbageUnsettled "garbage-unsettled"
        breaks "GARBAGE-1, T10" in ["btree/src/garbage.rs", "btree/src/core/structure.rs"] needs []
        "The collector frees what a committed transaction gave up although snapshots still read it.";
        "a read transaction, overwrite a long value or drop a tree and commit, maintenance, read through \
         the old snapshot"
    90 DropNotUndone "drop-not-undone"
        breaks "GARBAGE-1, T8" in ["btree/src/garbage.rs"] needs []
        "The garbage row of a dropped tree is not part of the transaction.";
        "drop a tree, roll back (or crash before the commit is durable), maintenance, read the tree"
    91 ShrinkingAllotment "shrinking-allotment"
        breaks "BTREE-5, T9" in ["btree/src/core/edit.rs"] needs []
        "A row that is made shorter gives its bytes away at once.";
        "make a row shorter, roll back"
    92 GhostPurgedEarly "ghost-purged-early"
        breaks "TXN-SETTLED, BTREE-7" in ["btree/src/core/purge.rs"] needs []
        "Deleted rows are purged although snapshots still read them.";
        "a read transaction, delete rows and commit, fill the leaf until it is purged, read through the old \
         snapshot"
    93 FileCutEarly "file-cut-early"
        breaks "SPACE-2, SPACE-5, HAM-5" in ["hamal/src/core.rs", "space/src/space.rs"] needs [Crash]
        "On closing, the data file is cut before the log that frees the pages is durable.";
        "pages at the file's end freed by records that are not durable, close, crash before its flush of \
         the log"
    94 ControlNamedBeforeSync "control-named-before-sync"
        breaks "CKP-6, HAM-1, T38" in ["checkpoint/src/control.rs"] needs [Crash]
        "On creation the control file gets its name before its bytes are durable.";
        "crash while a database is created"
    95 ChecksumWithoutDatabase "checksum-without-database"
        breaks "BUF-VERIFY, T33" in ["page/src/checksum.rs"] needs [Damage]
        "A page's checksum leaves the database's id out.";
        "a page, or the data file, of another database in the place of this one's"
    96 ImageAfterLatch "image-after-latch"
        breaks "W-IMG, T1" in ["buffer/src/clean.rs"] needs [Threads]
        "The latch of a page's copy is let go before its image is logged.";
        "a thread changes pages while another flushes them"
    97 FlightClearsAll "flight-clears-all"
        breaks "W-9, T3" in ["buffer/src/frame.rs"] needs [Threads]
        "The end of a page's write clears the mark of changes made during it.";
        "as `image-after-latch`, with checkpoints"
    98 FreedInFlightLeaves "freed-in-flight-leaves"
        breaks "BUF-XLAT, T5" in ["buffer/src/guard.rs"] needs [Threads]
        "A page that is freed while it is written leaves its frame at once.";
        "a thread frees and makes pages while another flushes"
    99 ListedLate "listed-late"
        breaks "TXN-ATT, T6" in ["txn/src/manager.rs"] needs [Threads]
        "A transaction is listed for checkpoints after its first record.";
        "threads that begin transactions while another takes checkpoints"
    100 EndedRevived "ended-revived"
        breaks "REC-5, T6" in ["recovery/src/analysis.rs"] needs [Threads]
        "A checkpoint's table brings an ended transaction back to life.";
        "threads that commit while another takes checkpoints, crash"
    101 BNotReadAgain "b-not-read-again"
        breaks "W-6, T40" in ["buffer/src/clean.rs"] needs [Threads]
        "B is not read again after the flight mark is set.";
        "checkpoints on one thread, flushes on another, torn writes"
    102 NoFlightMark "no-flight-mark"
        breaks "W-2, W-7, T45" in ["buffer/src/clean.rs"] needs [Threads]
        "A page that is being written has no flight mark.";
        "as `b-not-read-again`"
    103 StaleFlightMark "stale-flight-mark"
        breaks "W-7, T43" in ["buffer/src/checkpoint.rs"] needs [Threads]
        "A flight mark below the last redo point counts as it is.";
        "a flush that sleeps over a whole checkpoint"
    104 StaleRecLsn "stale-rec-lsn"
        breaks "W-11, T43" in ["buffer/src/checkpoint.rs"] needs [Threads]
        "A recLSN below the last redo point counts as it is.";
        "a change that sleeps over a whole checkpoint"
    105 SyncBeforeScan "sync-before-scan"
        breaks "CKP-3, T45" in ["checkpoint/src/checkpointer.rs"] needs [Threads]
        "A checkpoint syncs the data file before it looks for dirty pages.";
        "flushes on one thread, checkpoints on another"
    106 PublishAfterScan "publish-after-scan"
        breaks "CKP-1, W-6, T45" in ["checkpoint/src/checkpointer.rs"] needs [Threads]
        "B is published after the scan for dirty pages.";
        "as `b-not-read-again`"
    107 StatusAfterRecord "status-after-record"
        breaks "TXN-COMMIT, T45" in ["txn/src/commit.rs"] needs [Threads]
        "A commit's status is stored after its record is published.";
        "readers that take durable snapshots while others commit"
    108 StatusForgottenFirst "status-forgotten-first"
        breaks "TXN-SETTLED, T18" in ["txn/src/rollback.rs"] needs [Threads]
        "Rollback forgets the status before it restores the rows.";
        "readers while a transaction rolls back"
    109 LeaderDoesNotWait "leader-does-not-wait"
        breaks "LOG-5" in ["log/src/commit.rs"] needs [Threads]
        "The leader of a group does not wait for records that are still being copied.";
        "many threads that append and commit, crash"
    110 PartialRollbackWakesNobody "partial-rollback-wakes-nobody"
        breaks "TXN-TURN, T27" in ["txn/src/rollback.rs"] needs [Threads]
        "A rollback to a savepoint wakes nobody.";
        "a thread waits for a row that another gives back by a partial rollback"
    111 WaitersIgnorePoison "waiters-ignore-poison"
        breaks "TXN-WAIT, T21" in ["txn/src/waits.rs"] needs [Threads, IoErrors]
        "Who waits for a transaction does not look whether the engine has stopped.";
        "a thread waits for a row, a sync fails"
    112 OwnThreadWaits "own-thread-waits"
        breaks "TXN-WAIT, T27" in ["txn/src/waits.rs"] needs [Threads]
        "A wait for a transaction of the waiter's own thread is not noticed.";
        "one thread, two transactions, one row: it waits for the whole time-out (slow, and so no case for \
         one thread either)"
    113 SnapshotLate "snapshot-late"
        breaks "TXN-H, T19" in ["txn/src/horizon.rs"] needs [Threads]
        "A snapshot's LSN is read before it is registered.";
        "threads that open snapshots while others commit and collect"
    114 CleanerWaits "cleaner-waits"
        breaks "BUF-ORDER, T25" in ["buffer/src/clean.rs"] needs [Threads]
        "The cleaner waits for latches before its write.";
        "many threads in the smallest cache: they stop for ever"
    115 PageReservedTwice "page-reserved-twice"
        breaks "SPACE-1" in ["space/src/space.rs"] needs [Threads]
        "A page that is reserved can be reserved again.";
        "threads that split and make long values at once"
    116 PruneForOldestOnly "prune-for-oldest-only"
        breaks "TXN-BETWEEN" in ["txn/src/horizon.rs"] needs []
        "Versions between two snapshots are pruned as if the oldest snapshot were the only one.";
        "two snapshots, a row changed before, between and after them, checkpoints that cut the log; read through the \
         newer one"
    117 DemotionPinsNoLog "demotion-pins-no-log"
        breaks "TXN-DEMOTED, T28" in ["txn/src/versions.rs"] needs [Limits]
        "The log is cut though it alone holds former states that a snapshot needs.";
        "a snapshot, more changes than the version budget takes, commit, checkpoints, read through the snapshot"
    118 DemotedNotLookedFor "demoted-not-looked-for"
        breaks "TXN-DEMOTED, T28" in ["txn/src/versions.rs"] needs [Limits]
        "What is not in the version store is taken for absent, or an older state for the newest.";
        "a snapshot, more changes than the version budget takes, read through the snapshot"
    119 TooOldTestedFirst "too-old-tested-first"
        breaks "TXN-TOO-OLD, T28" in ["hamal/src/owner.rs", "btree/src/core/read.rs"] needs [Limits, Threads]
        "A reader looks before it reads, not after, whether its snapshot was ended.";
        "a thread reads through a snapshot while another ends it and collects"
    120 OldGhostsStay "old-ghosts-stay"
        breaks "HAM-8" in ["hamal/src/sweep.rs"] needs [Crash]
        "After a crash nobody looks for the ghosts of the run before.";
        "delete rows, crash before they are taken away, open, collect: the leaves stay as full as they were"
    121 FollowerDoesNotLook "follower-does-not-look"
        breaks "LOG-7" in ["log/src/commit.rs"] needs [Threads]
        "A follower that has entered itself in the list sleeps without another look.";
        "threads that commit at once: one of them may sleep for ever"
    122 FlusherUnannounced "flusher-unannounced"
        breaks "LOG-7" in ["log/src/ticket.rs"] needs [Threads]
        "The flusher looks for work before it says that it is going to sleep.";
        "commits that are only polled, and a flusher that is asked while it falls asleep"
    123 RingNotAdmitted "ring-not-admitted"
        breaks "LOG-4" in ["log/src/space.rs"] needs [Threads]
        "A credit does not count what others may still put into the ring.";
        "threads that append more than the ring holds before anybody flushes"
    124 WakeWithoutDoor "wake-without-door"
        breaks "TXN-TURN, T27" in ["txn/src/txn.rs"] needs [Threads]
        "Who wakes the waiters does not pass through their mutex.";
        "a thread that falls asleep for a row while another gives it back"
    125 LeaderForgetsTheOthers "leader-forgets-the-others"
        breaks "LOG-7" in ["log/src/commit.rs"] needs [Threads]
        "A leader that goes on takes all that it has served off the list, and wakes one of them.";
        "nine threads that commit at once, so that two are served while more wait"
    126 FingerVersionIgnored "finger-version-ignored"
        breaks "BTREE-13, BUF-GLANCE" in ["buffer/src/fetch.rs"] needs []
        "A finger is followed without a look at the version of its frame: whatever lies there now is written in.";
        "write in a leaf, let the leaf be merged away or its frame be given to another page, write next to the \
         first key again"
    127 NamesNotForgotten "names-not-forgotten"
        breaks "CATALOGUE-2" in ["btree/src/names.rs"] needs []
        "A change of the catalogue leaves the names of trees that are kept as they are.";
        "write in a tree and commit, drop it and commit, write in it by its name: it is still found"
    128 PartsForgotten "parts-forgotten"
        breaks "TXN-PARTS, BTREE-14" in ["txn/src/rollback.rs"] needs []
        "What a CLR says about the parts of its record that are left is ignored: all of it is undone again.";
        "load a run, let another transaction insert between its rows until the leaf splits, roll the first back"
    129 PartsLeftOut "parts-left-out"
        breaks "TXN-PARTS, BTREE-14" in ["txn/src/rollback.rs"] needs []
        "The CLR of a part leads past its record, so that the parts that are left are never undone.";
        "as `parts-forgotten`"
    130 MovedInTwoRecords "moved-in-two-records"
        breaks "BTREE-10, BTREE-15" in ["btree/src/core/relocate.rs"] needs [Crash]
        "A node that moves is freed by one record, and its parent names the new page by another.";
        "rows deleted until pages are free below others in use, compact, crash between the two records"
    131 CutUnannounced "cut-unannounced"
        breaks "SPACE-5" in ["space/src/space.rs"] needs [Crash]
        "The data file is cut and nothing in the log behind the last checkpoint says so.";
        "a free end of the file, checkpoint, compact, crash before its checkpoint"
    132 MisplacedSealIgnored "misplaced-seal-ignored"
        breaks "LOG-3" in ["log/src/end.rs"] needs [Hostile]
        "A seal that does not lie where it belongs proves nothing.";
        "a write of the log that a device puts over the group before, and a crash before the next group"
    133 TrimNotSynced "trim-not-synced"
        breaks "LOG-8" in ["log/src/log.rs"] needs [Crash]
        "Segments beyond the tail are removed without a sync of the directory between two of them.";
        "dirty pages that hold log space for their images, a proper close, a crash within it"
    134 PaddingBelieved "padding-believed"
        breaks "LOG-3" in ["log/src/files.rs"] needs [Damage]
        "Zeros where a record must be pass for the padding before the next seal, whatever the checksum of the group says.";
        "commit more than a sector, checkpoint without a flush, and zero the first sector of the commit's group"
    135 NeededSegmentTidied "needed-segment-tidied"
        breaks "LOG-11" in ["log/src/log.rs"] needs [Damage]
        "Opening removes every segment below a gap in the log, also those that redo needs.";
        "log of several segments that redo needs, remove one of them, open (which is refused), put it back"
    136 MapGivenUpInTwo "map-given-up-in-two"
        breaks "SPACE-6" in ["space/src/space.rs"] needs [Crash]
        "A map page is given up by one record, and counted no more by another.";
        "a page behind the second map page is freed, compact, crash between the two records"
}
