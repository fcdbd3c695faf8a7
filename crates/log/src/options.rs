//! Options of the log.
use hamal_page::DbId;

/// How a group is made durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SyncMethod {
    /// `pwrite` and `fdatasync` (default).
    #[default]
    Fdatasync,
    /// Writes past the page cache that are durable when they return (`O_DIRECT | O_DSYNC`, where the file
    /// system takes `O_DIRECT`; else `O_DSYNC` alone).
    DirectDsync,
}

/// Options of a [`crate::Log`]; validated by the facade.
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// Bytes of one segment file, header included; a multiple of 4096, at least 8 KiB. Default 16 MiB.
    pub segment_bytes: u64,
    /// Bytes of the ring buffer; a power of two, at least 16 KiB and twice `max_record`. Default 8 MiB.
    pub ring_bytes: usize,
    /// Soft limit of the log's allocated bytes: user operations beyond it get `LogFull`; rollback,
    /// checkpoints and images may go beyond. Default 1 GiB.
    pub limit_bytes: u64,
    /// A group ends on a multiple of this: 512 (default) or 4096 for devices that may damage neighbouring
    /// sectors of a physical block.
    pub pad: usize,
    /// The longest record, in bytes: three pages and headers.
    pub max_record: usize,
    /// How a group is made durable.
    pub sync: SyncMethod,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            segment_bytes: 16 << 20,
            ring_bytes: 8 << 20,
            limit_bytes: 1 << 30,
            pad: 512,
            max_record: 3 * 4096 + 4096,
            sync: SyncMethod::Fdatasync,
        }
    }
}

/// What a log belongs to; seeds its checksums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogIdentity {
    /// The database.
    pub db: DbId,
    /// Raised when a copy of a database goes its own way (point-in-time restore).
    pub timeline: u32,
}
