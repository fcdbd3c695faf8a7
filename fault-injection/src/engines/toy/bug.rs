//! Ways to get the toy engine wrong. Each is a mistake that real engines were shipped with; together they test the
//! harness, which must find every one.

/// One mistake. [`Toy::with_bug`](super::Toy::with_bug) makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ToyBug {
    /// A commit is acknowledged as durable after its write, before its sync.
    AckBeforeSync,
    /// An early commit is said to be durable.
    EarlyCalledDurable,
    /// Recovery does not compare checksums.
    ChecksumIgnored,
    /// A record is written in two writes, its header last as a mark that it is whole, without a sync between them; the
    /// mark is trusted, and no checksum looked at.
    CommitMark,
    /// Records are not padded: a new one is written into the sector in which an acknowledged one ends.
    RecordsShareSectors,
    /// Recovery reads on after a bad record.
    BadRecordSkipped,
    /// Recovery does not cut the bad tail off the file: a later record may come to end where a stale one begins.
    TailNotCut,
    /// The snapshot is not synced before it is renamed.
    SnapshotNotSynced,
    /// The end of the snapshot, which makes the file longer, is written after its sync.
    SnapshotGrowsAfterSync,
    /// The directory is not synced after the snapshot is renamed, and the old log is removed all the same.
    NoDirSync,
    /// The name of the new log is not synced before commits go there.
    NewLogNotSynced,
    /// The snapshot is written over the old one, without a temporary name.
    SnapshotInPlace,
    /// The old log is removed before the new snapshot is durable.
    LogCutFirst,
    /// Transactions that changed the same row may both commit; the later one wins.
    LostUpdate,
    /// A sync that failed is tried again, and if that works all is taken to be well.
    SyncRetried,
}

impl ToyBug {
    /// All of them.
    pub const ALL: [ToyBug; 15] = [
        ToyBug::AckBeforeSync,
        ToyBug::EarlyCalledDurable,
        ToyBug::ChecksumIgnored,
        ToyBug::CommitMark,
        ToyBug::RecordsShareSectors,
        ToyBug::BadRecordSkipped,
        ToyBug::TailNotCut,
        ToyBug::SnapshotNotSynced,
        ToyBug::SnapshotGrowsAfterSync,
        ToyBug::NoDirSync,
        ToyBug::NewLogNotSynced,
        ToyBug::SnapshotInPlace,
        ToyBug::LogCutFirst,
        ToyBug::LostUpdate,
        ToyBug::SyncRetried,
    ];
}
