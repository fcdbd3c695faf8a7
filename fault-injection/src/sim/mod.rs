//! The simulated disk: it remembers every write and sync in order, and what each of them makes durable.
use hamal::disk::{Disk, DiskFile, DiskLock, OpenMode};
use std::io;
use std::ops::Range;
use std::sync::Arc;

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
/// `wal/make` are `"wal-spare"`, `data`, `control` and `versions` are themselves, anything else is `"other"`.
pub fn role(name: &str) -> &'static str {
    let _ = name;
    todo!()
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
    /// The bytes concerned, of writes.
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
    /// The sectors that a write touches; empty for lengths and names.
    pub sectors: Range<u64>,
}

/// What a power failure at one moment leaves: what is durable, and what is undecided. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Image {}

impl Image {
    /// What is pending, in the order in which it was issued. (A write that grows its file is one entry for both.)
    pub fn pending(&self) -> &[PendingOp] {
        todo!()
    }
    /// Every question that could be asked, with the number of its answers; ascending.
    pub fn questions(&self) -> Vec<(Question, u8)> {
        todo!()
    }
    /// The answer to `question` if the fate of sector `s` of pending operation `i` is `fate(i, s)` (`s` counts from the start
    /// of the file; it is 0 for lengths and names). Of several writes to a sector that are kept, the last counts.
    pub fn answer(&self, question: Question, fate: &dyn Fn(usize, u64) -> Fate) -> u8 {
        let _ = (question, fate);
        todo!()
    }
    /// A hash of everything that can be read if the questions are answered so: equal disks have equal hashes, however they
    /// came about.
    pub fn fingerprint(&self, answer: &dyn Fn(Question, u8) -> u8) -> u64 {
        let _ = answer;
        todo!()
    }
    /// The image in which all questions are answered so.
    #[must_use]
    pub fn decided(&self, answer: &dyn Fn(Question, u8) -> u8) -> Image {
        let _ = answer;
        todo!()
    }
    /// Names of the files; undecided ones are left out.
    pub fn names(&self) -> Vec<String> {
        todo!()
    }
    /// The bytes of a file (undecided sectors as they were durable before).
    pub fn file(&self, name: &str) -> Option<Vec<u8>> {
        let _ = name;
        todo!()
    }
    /// The image with the file's bytes replaced, or with the file made: damage, and old files that reappear.
    #[must_use]
    pub fn with_file(&self, name: &str, bytes: &[u8]) -> Image {
        let _ = (name, bytes);
        todo!()
    }
    /// The image without the file.
    #[must_use]
    pub fn without_file(&self, name: &str) -> Image {
        let _ = name;
        todo!()
    }
}

/// An input/output error that is planned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IoFault {
    /// Which calls: of this role (`None`: any) ...
    pub role: Option<&'static str>,
    /// ... and this kind.
    pub act: Act,
    /// The n-th such call from now on, counted from 1.
    pub nth: u64,
    /// Only that one, or every later one too.
    pub forever: bool,
    /// What goes wrong.
    pub what: Wrong,
}

/// What goes wrong with a call.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Wrong {
    /// EIO and nothing done. A failed sync leaves what was pending readable and forgotten: no later sync makes it durable
    /// (as after a real fsync that failed), a crash may find or lose it.
    Eio,
    /// ENOSPC and nothing done.
    NoSpace,
    /// The write is interrupted once (EINTR) before anything is written.
    Interrupted,
    /// The system call writes only the first so many bytes and says so.
    Short(u64),
    /// A sync says that it succeeded and does nothing.
    Lie,
    /// A write says that it succeeded and does nothing.
    LostWrite,
    /// A write goes so many bytes further on (negative: back) than asked.
    Misdirected(i64),
    /// A bit of what is written or read is flipped.
    BitFlip {
        /// Which, counted from the buffer's start, modulo its length.
        bit: u64,
    },
}

/// Looks at what an engine does to its disk while it runs.
pub trait Watch: Send {
    /// A call is about to be done. `disk` can be asked what is durable. A sentence objects: a rule was broken.
    fn before(&mut self, event: &IoEvent, data: &[u8], disk: &Durable<'_>) -> Option<String>;
    /// A durable commit was acknowledged (by the runner).
    fn acknowledged(&mut self, disk: &Durable<'_>) -> Option<String> {
        let _ = disk;
        None
    }
}

/// What is durable on a disk now.
#[derive(Debug)]
pub struct Durable<'a> {
    _disk: &'a (),
}

impl Durable<'_> {
    /// Whether no write to this range of the file (by name) is waiting for a sync.
    pub fn is_synced(&self, name: &str, range: Range<u64>) -> bool {
        let _ = (name, range);
        todo!()
    }
    /// Durable bytes of a file (pending writes left out), up to the durable length; `None` without a durable name.
    pub fn read(&self, name: &str, range: Range<u64>) -> Option<Vec<u8>> {
        let _ = (name, range);
        todo!()
    }
    /// Names of the files, durable or not.
    pub fn names(&self) -> Vec<String> {
        todo!()
    }
}

/// A disk in memory on which every change is remembered, so that it can be crashed at every point of its past. Clones are the
/// same disk.
#[derive(Clone, Debug)]
pub struct SimDisk {}

impl SimDisk {
    /// An empty disk.
    pub fn new(model: Persistence) -> SimDisk {
        let _ = model;
        todo!()
    }
    /// The disk after a power failure that left `image`: what is undecided is asked of `fates` when it is first read. What
    /// is overwritten before it is read is never asked for.
    pub fn boot(image: &Image, fates: Box<dyn Fates>) -> SimDisk {
        let _ = (image, fates);
        todo!()
    }
    /// From now on every call fails, quickly.
    pub fn power_off(&self) {
        todo!()
    }
    /// How many changes were issued so far. There is a crash point before each, and one after the last.
    pub fn points(&self) -> usize {
        todo!()
    }
    /// The changes.
    pub fn events(&self) -> Vec<IoEvent> {
        todo!()
    }
    /// What a power failure just before change number `point` leaves (`points()`: now). Cheap when asked in ascending order.
    pub fn image(&self, point: usize) -> Image {
        let _ = point;
        todo!()
    }
    /// What is there if only the process dies now: everything.
    pub fn kept(&self) -> Image {
        todo!()
    }
    /// The questions that were asked since the boot, in order.
    pub fn asked(&self) -> Vec<Asked> {
        todo!()
    }
    /// A hash of everything done to the disk, reads included.
    pub fn history_hash(&self) -> u64 {
        todo!()
    }
    /// Bytes read and written so far.
    pub fn traffic(&self) -> (u64, u64) {
        todo!()
    }
    /// Plans an error.
    pub fn plan(&self, fault: IoFault) {
        let _ = fault;
        todo!()
    }
    /// Forgets the planned errors; returns how many have struck.
    pub fn heal(&self) -> u64 {
        todo!()
    }
    /// Limits the sum of the lengths of all files; beyond it growth fails with `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        let _ = bytes;
        todo!()
    }
    /// Sets what looks at every change.
    pub fn set_watch(&self, watch: Box<dyn Watch>) {
        let _ = watch;
        todo!()
    }
    /// Tells the watch that a durable commit was acknowledged.
    pub fn acknowledged(&self) {
        todo!()
    }
    /// What the watch has objected to.
    pub fn objections(&self) -> Vec<String> {
        todo!()
    }
}

impl Disk for SimDisk {
    fn open(&self, _: &str, _: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        todo!()
    }
    fn list(&self, _: &str) -> io::Result<Vec<String>> {
        todo!()
    }
    fn create_dir(&self, _: &str) -> io::Result<()> {
        todo!()
    }
    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        todo!()
    }
    fn remove(&self, _: &str) -> io::Result<()> {
        todo!()
    }
    fn exists(&self, _: &str) -> io::Result<bool> {
        todo!()
    }
    fn sync_dir(&self, _: &str) -> io::Result<()> {
        todo!()
    }
    fn lock(&self, _: &str) -> io::Result<Box<dyn DiskLock>> {
        todo!()
    }
    fn describe(&self) -> String {
        "a simulated disk".to_owned()
    }
}
