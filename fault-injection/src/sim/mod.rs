//! The simulated disk: it remembers every write and sync in order, and what each of them makes durable.
//!
//! [`SimDisk`] implements `hamal::disk::Disk`, so an engine runs on it unchanged. [`SimDisk::image`] is what a power failure at
//! any moment of its past leaves: an [`Image`], in which some things are durable and others undecided. [`SimDisk::boot`] starts
//! a disk on an image, and asks [`Fates`] for what is undecided when, and only when, a call depends on it. What may be
//! undecided is said by the [persistence model](Persistence); `docs/persistence-models.md` states the three like memory models.
use std::ops::Range;
use std::sync::Arc;

mod content;
mod disk;
mod door;
mod faults;
mod file;
mod image;
mod live;
mod names;
mod state;
mod watch;

pub use disk::SimDisk;
pub use faults::{IoFault, Wrong};
pub use image::Image;
pub use watch::{Durable, Watch};

/// What may survive a power failure of what was not synced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Persistence {
    /// Writes reach the device in the order in which they were issued, over all files: a prefix survives; of the write at
    /// its end, any first part in whole sectors.
    Ordered,
    /// What POSIX promises: of each file, any subset of the sectors written since its last sync survives, each in any of its
    /// versions since then; a length changes by itself; so does each name, until its directory is synced. Nothing is
    /// ordered between files.
    #[default]
    Posix,
    /// As `Posix`; and a sector that was being written may hold zeros or garbage instead of any of its versions.
    Hostile,
}

/// What happens to one pending sector of one pending write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It never reached the device.
    Lost,
    /// It did.
    Kept,
    /// The sector holds zeros.
    Zeros,
    /// The sector holds garbage.
    Garbage,
}

/// A file, by its inode: names may change.
pub type FileId = u32;

/// Something that a power failure left undecided, and that a read asks for.
#[allow(missing_docs, reason = "the variants explain their fields")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Question {
    /// What 512-byte sector `sector` of the file holds.
    Sector { file: FileId, sector: u64 },
    /// How long the file is.
    Length { file: FileId },
    /// Whether change number `change` of a directory survived.
    Name { change: u32 },
}

/// Decides what is undecided. `options` counts the possible answers, numbered from 0; answer 0 is what was durable before,
/// the highest regular one is what the newest write left; under `Hostile` the last two answers for a sector are zeros and
/// garbage.
pub trait Fates: Send {
    /// The answer, below `options`. Asked at most once for each question after a boot.
    fn decide(&mut self, question: Question, options: u8) -> u8;
}

/// A question that was asked, and the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// What.
    pub question: Question,
    /// How many answers there were.
    pub options: u8,
    /// The answer.
    pub answer: u8,
}

/// Where in an engine's input/output something happened: the role of the file and what was done, `"wal write"`. Files are
/// told apart by [`role`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// The role of the file (or of the directory concerned).
    pub role: &'static str,
    /// What was done.
    pub act: Act,
}

/// A kind of input/output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "they say what they are")]
pub enum Act {
    Write,
    Sync,
    SetLen,
    Create,
    Rename,
    Remove,
    MakeDir,
    SyncDir,
    Read,
}

/// The role of a file, from its name: what reports and coverage call it. `wal/0000..` is `"wal"`, `wal/free-3` and
/// `wal/make` are `"wal-spare"`, `data`, `control` and `versions` are themselves, the directory of them all is `"root"`, `wal` itself is `"wal"`, and anything
/// else is `"other"`.
pub fn role(name: &str) -> &'static str {
    match name {
        "" => "root",
        "data" => "data",
        "control" => "control",
        "versions" => "versions",
        "wal" => "wal",
        "wal/make" => "wal-spare",
        _ => match name.strip_prefix("wal/") {
            Some(file) if file.starts_with("free-") => "wal-spare",
            Some(_) => "wal",
            None => "other",
        },
    }
}

/// A change of the disk, in the order in which they were issued.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IoEvent {
    /// Where.
    pub site: Site,
    /// The file; 0 for directories.
    pub file: FileId,
    /// The name that it was opened by, or the directory's.
    pub name: Arc<str>,
    /// The bytes concerned, of writes; of a change of length, those of the file from its start to the end that was asked for.
    pub range: Range<u64>,
}

/// A write or another change that was issued and not synced when the power failed.
#[derive(Clone, Debug)]
pub struct PendingOp {
    /// Where.
    pub site: Site,
    /// The file; 0 for names.
    pub file: FileId,
    /// Index of its [`IoEvent`].
    pub event: usize,
    /// The sectors that a write touches, or a shorter length divides; empty for other lengths and names.
    pub sectors: Range<u64>,
}
