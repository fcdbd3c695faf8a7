//! The engine under test, as the harness sees it: it is opened on a disk, obeys [operations](crate::op::Op), and shows what
//! it holds. Implement [`Engine`] and [`Session`] to torture an engine of your own.
use crate::model::Contents;
use crate::op::{Op, Txn};
use crate::sim::{Persistence, SimDisk, Watch};
use hamal::disk::Disk;
use std::fmt;
use std::sync::Arc;

/// What a failure means to the harness. The distinction matters: what is right under one fault is a violation under
/// another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The operation was refused and changed nothing: a conflict, a deadlock, something that exists already. The
    /// transaction is still open and can only be rolled back.
    Refused,
    /// There is no room, on the device or in the log. The operation changed nothing; others go on.
    NoSpace,
    /// The disk refused something that may be tried again.
    Io,
    /// The engine is dead until it is opened again. What was acknowledged is safe; the operation in flight is unknown.
    Dead,
    /// Stored bytes are damaged, missing, or of another moment, and the engine says so.
    Damage,
    /// The engine found a bug in itself.
    Bug,
}

/// A failure that an engine reports.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What it means.
    pub kind: FailureKind,
    /// The engine's own words, with the name of its error kind first (`"LogCorrupt: ..."`).
    pub text: String,
}

impl Failure {
    /// A failure of a kind.
    pub fn new(kind: FailureKind, text: impl Into<String>) -> Failure {
        Failure { kind, text: text.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.text)
    }
}

/// How an engine is set up: small, so that a scenario of a few operations meets every mechanism.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Config {
    /// Bytes of a page.
    pub page_size: u32,
    /// Pages that the cache holds; the engine may raise it to its minimum.
    pub frames: u32,
    /// Bytes of a log file; the engine may raise it to its minimum.
    pub segment_bytes: u32,
    /// What a group of log records is padded to, in bytes.
    pub pad: u32,
    /// Whether images protect against torn pages. Without them the disk writes pages as a whole; they have 4 KiB then.
    pub images: bool,
    /// Whether the disk has a way past its cache. Without it nobody can tell what was read from what is durable.
    pub bypass: bool,
    /// Whether each write of the log is durable when it returns (`O_DSYNC`), instead of by a sync after it.
    pub dsync: bool,
    /// Bytes of the log's ring; the engine may raise it to its minimum.
    pub ring_bytes: u32,
    /// Bytes that the log may take; the engine may raise it to its minimum.
    pub log_bytes: u32,
    /// Bytes for former versions of rows; 0: ample.
    pub version_bytes: u32,
    /// How long a transaction waits for another one, in milliseconds.
    pub patience: u32,
}

impl Config {
    /// An empty disk of this set-up.
    pub fn disk(&self, model: Persistence) -> SimDisk {
        match (self.images, self.bypass) {
            (false, bypass) => SimDisk::with_atomic_pages(self.model(model), bypass),
            (true, true) => SimDisk::new(model),
            (true, false) => SimDisk::without_bypass(model),
        }
    }
    /// The model of a disk for this set-up: without images a page is never garbage.
    pub fn model(&self, wanted: Persistence) -> Persistence {
        match wanted {
            Persistence::Hostile if !self.images => Persistence::Posix,
            model => model,
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            page_size: 4096,
            frames: 0,
            segment_bytes: 0,
            pad: 512,
            images: true,
            bypass: true,
            dsync: false,
            ring_bytes: 0,
            log_bytes: 0,
            version_bytes: 0,
            patience: 0,
        }
    }
}

/// What applying an operation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was done; a commit was acknowledged as [asked](crate::op::Ack), a durable one is durable.
    Done,
    /// It was done, and every commit so far, early ones too, is durable now.
    AllDurable,
}

/// What an open found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Nothing had to be recovered.
    pub clean: bool,
    /// The engine's verdict on the end of its log: `"clean"`, `"torn tail"`, or its own words.
    pub verdict: String,
    /// Bytes of log in use after the open.
    pub log_bytes: u64,
    /// Transactions that were rolled back.
    pub losers: u64,
}

/// An engine.
pub trait Engine: Send + Sync {
    /// Its name, for reports.
    fn name(&self) -> &str;
    /// Makes a database on an empty disk.
    ///
    /// # Errors
    /// Of the engine.
    fn create(&self, disk: Arc<dyn Disk>, config: &Config) -> Result<Box<dyn Session>, Failure>;
    /// Opens the database on a disk, recovering it. On a disk on which a creation was cut short, makes it (the harness
    /// expects an empty database then).
    ///
    /// # Errors
    /// Of the engine.
    fn open(&self, disk: Arc<dyn Disk>, config: &Config) -> Result<Box<dyn Session>, Failure>;
    /// What looks at every write and sync while the engine runs, and objects to a broken rule. None by default.
    fn watch(&self, config: &Config) -> Option<Box<dyn Watch>> {
        let _ = config;
        None
    }
    /// Looks at the files of a database that is not open, just after a recovery: what the stored pages and the log say
    /// about each other. Returns what is wrong, a sentence each. Nothing by default.
    ///
    /// # Errors
    /// If the files cannot be read.
    fn audit(&self, disk: &SimDisk, config: &Config) -> Result<Vec<String>, Failure> {
        let _ = (disk, config);
        Ok(Vec::new())
    }
    /// The same engine, making databases that are told apart from those that this one makes: for files of another database.
    fn stranger(&self) -> Option<Box<dyn Engine>> {
        None
    }
    /// Whether it promises that a change is refused if another transaction has changed the same row, and is still open or has
    /// committed since this one began (snapshot isolation: the first one wins). False by default.
    fn first_writer_wins(&self) -> bool {
        false
    }
    /// The name of the error by which it refuses a file of this role that is another database's; `None` if any error will do.
    fn names_a_strangers_file(&self, role: &str) -> Option<&str> {
        let _ = role;
        None
    }
    /// A second, independent recovery of the same files that changes nothing: what it finds, and its verdict on the end of the
    /// log (as [`Opened::verdict`]). None by default.
    fn reference(&self, disk: &SimDisk, config: &Config) -> Option<Result<(Contents, String), Failure>> {
        let _ = (disk, config);
        None
    }
}

/// An open database. Dropping it after [`SimDisk::power_off`] must be quick and write nothing.
pub trait Session {
    /// Obeys.
    ///
    /// # Errors
    /// See [`FailureKind`].
    fn apply(&mut self, op: &Op) -> Result<Applied, Failure>;
    /// Everything committed, as a reader that begins now sees it.
    ///
    /// # Errors
    /// `Damage` if a page cannot be read.
    fn contents(&mut self) -> Result<Contents, Failure>;
    /// Checks the structure: pages, trees, accounts of space. Returns what is wrong, a sentence each. No transaction may be
    /// open.
    ///
    /// # Errors
    /// If it cannot be checked.
    fn verify(&mut self) -> Result<Vec<String>, Failure>;
    /// What opening it found.
    fn opened(&self) -> Opened;
    /// Opens a snapshot of what is committed and durable. Returns how many of the last commits, acknowledged early, it must not
    /// show because they are not durable yet. Refused by default.
    ///
    /// # Errors
    /// Of the engine.
    fn snapshot(&mut self, name: u8) -> Result<u64, Failure> {
        Err(Failure::new(FailureKind::Refused, format!("Unsupported: snapshot {name}")))
    }
    /// Closes it.
    fn release(&mut self, name: u8) {
        let _ = name;
    }
    /// Everything, as this reader sees it.
    ///
    /// # Errors
    /// `Refused` if there is no such reader; `Damage` if a page cannot be read.
    fn seen_by(&mut self, reader: Reader) -> Result<Contents, Failure> {
        Err(Failure::new(FailureKind::Refused, format!("Unsupported: {reader:?}")))
    }
    /// Asked after each operation: which of its own limits the engine has broken, in a sentence.
    fn limits(&mut self) -> Option<String> {
        None
    }
}

/// Who reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// The snapshot of that name.
    Snapshot(u8),
    /// The transaction.
    Txn(Txn),
}
