//! Options: the builder, and the one function that validates all of them.
use crate::open::{self, How};
use crate::{Database, Disk, Error, ErrorKind, RecoveryReport, Result};
use hamal_buffer::{MIN_FRAMES, RingShares};
use hamal_disk::{MemDisk, PosixDisk};
use hamal_log::{LogOptions, SyncMethod};
use hamal_page::{MAX_PAGE_SIZE, MIN_PAGE_SIZE};
use hamal_recovery::{Pause, Progress};
use hamal_sync::Mutex;
use hamal_trace::{Phase, Trace, Tracer};
use hamal_txn::{ResourceManager, TxnManager};
use std::fmt;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How a page write that a power failure tears is repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TornPages {
    /// An image of the page is logged before the page is written, once per checkpoint (default).
    Images {
        /// Compress images with LZ4 where that makes them smaller.
        compress: bool,
    },
    /// The device writes a page atomically: no images. Wrong on almost every device; a torn page is then corruption.
    AtomicWrites,
}

/// When a commit returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When it is durable (default).
    #[default]
    Sync,
    /// At once. It becomes durable within the flush interval; a crash before that loses it, and everything that was
    /// committed after it, but never a part of it.
    Async,
}

type ProgressCallback = Arc<Mutex<dyn FnMut(Progress) -> ControlFlow<()> + Send>>;

/// Options of a database, and the ways to open one with them. Cloning is cheap.
///
/// ```
/// # fn main() -> hamal::Result<()> {
/// # let dir = tempfile::tempdir().unwrap();
/// let db = hamal::Database::builder().cache_bytes(64 << 20).open_or_create(dir.path())?;
/// # drop(db); Ok(()) }
/// ```
#[derive(Clone)]
pub struct Builder {
    page_size: Option<usize>,
    pub(crate) cache_bytes: usize,
    pub(crate) log: LogOptions,
    log_limit_bytes: Option<u64>,
    log_ring_bytes: Option<usize>,
    checkpoint_log_bytes: Option<u64>,
    pub(crate) checkpoint_interval: Duration,
    pub(crate) torn_pages: TornPages,
    pub(crate) durability: Durability,
    pub(crate) flush_interval: Duration,
    pub(crate) background: bool,
    pub(crate) lock_timeout: Duration,
    pub(crate) version_budget_bytes: usize,
    pub(crate) end_old_snapshots: bool,
    pub(crate) abort_oldest_writer: bool,
    pub(crate) direct_io: bool,
    pub(crate) check_apply: bool,
    pub(crate) recovery_target: Option<Duration>,
    recovery_threads: Option<usize>,
    recovery_memory_bytes: Option<u64>,
    pub(crate) database_id: Option<[u8; 16]>,
    tracer: Option<Arc<dyn Tracer>>,
    pub(crate) managers: Vec<Arc<dyn ResourceManager>>,
    progress: Option<ProgressCallback>,
    pub(crate) restart_checkpoints: bool,
    pub(crate) pause: Option<Pause>,
}

impl Default for Builder {
    fn default() -> Self {
        Builder {
            page_size: None,
            cache_bytes: 128 << 20,
            log: LogOptions::default(),
            log_limit_bytes: None,
            log_ring_bytes: None,
            checkpoint_log_bytes: None,
            checkpoint_interval: Duration::from_secs(300),
            torn_pages: TornPages::Images { compress: true },
            durability: Durability::Sync,
            flush_interval: Duration::from_millis(10),
            background: true,
            lock_timeout: Duration::from_secs(10),
            version_budget_bytes: 64 << 20,
            end_old_snapshots: true,
            abort_oldest_writer: false,
            direct_io: true,
            check_apply: false,
            recovery_target: None,
            recovery_threads: None,
            recovery_memory_bytes: None,
            database_id: None,
            tracer: None,
            managers: Vec::new(),
            progress: None,
            restart_checkpoints: true,
            pause: None,
        }
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let managers: Vec<&str> = self.managers.iter().map(|m| m.name()).collect();
        f.debug_struct("Builder")
            .field("page_size", &self.page_size)
            .field("cache_bytes", &self.cache_bytes)
            .field("log", &self.log)
            .field("log_limit_bytes", &self.log_limit_bytes)
            .field("log_ring_bytes", &self.log_ring_bytes)
            .field("checkpoint_log_bytes", &self.checkpoint_log_bytes)
            .field("checkpoint_interval", &self.checkpoint_interval)
            .field("torn_pages", &self.torn_pages)
            .field("durability", &self.durability)
            .field("flush_interval", &self.flush_interval)
            .field("background", &self.background)
            .field("lock_timeout", &self.lock_timeout)
            .field("version_budget_bytes", &self.version_budget_bytes)
            .field("end_old_snapshots", &self.end_old_snapshots)
            .field("abort_oldest_writer", &self.abort_oldest_writer)
            .field("direct_io", &self.direct_io)
            .field("check_apply", &self.check_apply)
            .field("recovery_target", &self.recovery_target)
            .field("recovery_threads", &self.recovery_threads)
            .field("recovery_memory_bytes", &self.recovery_memory_bytes)
            .field("tracer", &self.tracer.is_some())
            .field("managers", &managers)
            .field("progress", &self.progress.is_some())
            .field("restart_checkpoints", &self.restart_checkpoints)
            .field("pause", &self.pause.is_some())
            .finish_non_exhaustive()
    }
}

/// Page size of a new database, unless it is set.
const DEFAULT_PAGE_SIZE: usize = 8192;

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident($($field:ident).+: $t:ty))*) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name(mut self, v: $t) -> Self {
            self.$($field).+ = v.into();
            self
        }
    )*};
}

impl Builder {
    setters! {
        /// Page size in bytes of a *new* database: a power of two from 4096 to 65536. Default 8192. An existing database
        /// keeps its own; opening it with another one set is an error.
        page_size(page_size: usize)
        /// Memory for cached pages in bytes, a hard cap; at least 24 pages. Default 128 MiB. With
        /// fewer pages than the threads at work need, they wait for each other, and in the end get `Limit`.
        cache_bytes(cache_bytes: usize)
        /// Bytes of one log file: a multiple of 4096 from 8 KiB to 1 GiB. Default 16 MiB.
        log_segment_bytes(log.segment_bytes: u64)
        /// Bytes of the log's ring buffer: a power of two, large enough for a record of three pages, an image and
        /// their share of the rest: at least 32 KiB with pages of 4096 bytes, 64 KiB with 8192, 128 KiB with 16384, 256 KiB
        /// with 32768, 512 KiB with 65536 (with 4096 as [`Builder::log_pad`] at least 64 KiB). Default: a 128th of the cache, from 8 to
        /// 32 MiB, and no more than a quarter of the log's limit.
        log_ring_bytes(log_ring_bytes: usize)
        /// Size of the log from which on changes fail with `LogFull` (rollback and checkpoints go on). At least eight
        /// segments, four rings, and 64 pages. A quarter of it is the share of page images, which bounds how many pages may be
        /// changed and not yet written. Default: twice the cache, from 1 to 8 GiB. So much is used only by what changes much.
        log_limit_bytes(log_limit_bytes: u64)
        /// A checkpoint is taken when so many bytes have been logged since the last one: about what recovery has to read.
        /// From 16 KiB to half of the log's limit. Default: an eighth of the log's limit, 256 MiB at most.
        checkpoint_log_bytes(checkpoint_log_bytes: u64)
        /// A checkpoint is taken after this time, if anything was logged; and 2 s after the last write if much log is held, once its pages are written
        /// (docs/decisions.md, 47). From 10 ms to 7 days. Default 5 minutes. Without
        /// background threads the clock is not looked at.
        checkpoint_interval(checkpoint_interval: Duration)
        /// How the log is made durable. Default `fdatasync`.
        sync_method(log.sync: SyncMethod)
        /// What a group of log records is padded to: 512 (default), 1024, 2048 or 4096 bytes; 4096 for devices whose
        /// failing write may damage neighbouring sectors.
        log_pad(log.pad: usize)
        /// How torn page writes are repaired. Default: compressed images.
        torn_pages(torn_pages: TornPages)
        /// What [`WriteTxn::commit`](crate::WriteTxn::commit) does. Default [`Durability::Sync`].
        durability(durability: Durability)
        /// Asynchronous commits are durable after at most about this time (and a flush). Up to 10 s. Default 10 ms.
        flush_interval(flush_interval: Duration)
        /// Whether threads clean pages, take checkpoints, flush asynchronous commits and collect garbage (default). Without
        /// them call [`Database::maintenance_step`].
        background(background: bool)
        /// How long a writer waits for another transaction before `LockTimeout`. Up to a day. Default 10 s.
        lock_timeout(lock_timeout: Duration)
        /// Memory in bytes for old versions of rows that snapshots may still want: 64 KiB to 1 TiB. Default 64 MiB. What
        /// does not fit is looked for in the log, which is then kept for it, up to its limit.
        version_budget_bytes(version_budget_bytes: usize)
        /// If the log is at its limit because old versions that snapshots need are in it alone: whether these snapshots, a
        /// writer's too, are ended, so that who uses them gets `SnapshotTooOld` (default); or else the writer that needs log
        /// gets `LogFull`.
        end_old_snapshots(end_old_snapshots: bool)
        /// If the log is at its limit because of the oldest write transaction: whether that one is rolled back, so that its
        /// next call gets `TransactionEnded`; or else the writer that needs log gets `LogFull` (default).
        abort_oldest_writer(abort_oldest_writer: bool)
        /// Read and write the data file past the operating system's cache, where the file system can (default). Without it
        /// a recovery writes every page that the log names since the last checkpoint.
        direct_io(direct_io: bool)
        /// Apply every operation a second time to a copy and compare: finds resource managers that are not deterministic.
        /// Slow. Default off.
        check_apply(check_apply: bool)
        /// Whether recovery takes checkpoints: after redo, if there was anything to do, and after undo, if there were losers
        /// (default). Without them the next recovery begins where this one did: for studying repeated crashes.
        restart_checkpoints(restart_checkpoints: bool)
    }

    /// How long the recovery after a crash should take at most, from 100 ms to an hour; default: no matter. The cleaner then writes
    /// old pages and the checkpointer takes checkpoints early enough that the log since the redo point, at the speed of the last
    /// recovery that read enough log to tell (else 150 MB/s), and the pages to be read, at 20,000 a second, stay below it. It is a
    /// target: writers are not held up for it, and the rollback of a large transaction that was open comes on top.
    /// [`Builder::checkpoint_log_bytes`], if it is set too, remains an upper bound; else a quarter of the log's limit is.
    /// [`Stats::recovery_estimate_micros`](crate::Stats) says how long a recovery would take now.
    #[must_use]
    pub fn recovery_target(mut self, target: Duration) -> Self {
        self.recovery_target = Some(target);
        self
    }
    /// Threads that redo pages when a recovery has many of them, from 1 to 1024. Default: as many as there are processors. With 1
    /// recovery starts no thread at all, reads nothing ahead, and takes the same steps in the same order each time.
    #[must_use]
    pub fn recovery_threads(mut self, threads: usize) -> Self {
        self.recovery_threads = Some(threads);
        self
    }
    /// Memory in bytes for the log in a recovery, beside the cache, from 64 KiB to 1 TiB. A log that fits is read once; with a
    /// longer one redo takes as many pages together as have records that fit, and reads the log once more for each such batch. A
    /// page whose own records do not fit is a batch of its own. Default: as much as the cache, or a quarter of the log's limit if that is more,
    /// within 128 MiB and 2 GiB: what a recovery reads with the default interval of checkpoints fits.
    #[must_use]
    pub fn recovery_memory_bytes(mut self, bytes: u64) -> Self {
        self.recovery_memory_bytes = Some(bytes);
        self
    }
    /// The identity of a new database, random by default: for tests that want the same bytes each time. Two databases that
    /// are ever in reach of each other must not share one.
    #[must_use]
    pub fn database_id(mut self, id: [u8; 16]) -> Self {
        self.database_id = Some(id);
        self
    }
    /// Sends events of normal work and recovery to `tracer`.
    #[must_use]
    pub fn tracer(mut self, tracer: Arc<dyn Tracer>) -> Self {
        self.tracer = Some(tracer);
        self
    }
    /// Registers an access method of the caller. A database that was opened with it once cannot be opened without.
    #[must_use]
    pub fn resource_manager(mut self, manager: Arc<dyn ResourceManager>) -> Self {
        self.managers.push(manager);
        self
    }
    /// Called now and then during recovery; `Break` stops it with `Cancelled` (the next open starts again).
    #[must_use]
    pub fn progress(mut self, f: impl FnMut(Progress) -> ControlFlow<()> + Send + 'static) -> Self {
        self.progress = Some(Arc::new(Mutex::new(f)));
        self
    }

    /// Called between any two steps of recovery's redo (a page) and undo (a record), with the phase (`Undo` comes once more when
    /// it is complete) and the engine, whose log and pages may be looked at and flushed, and nothing else. `Break` stops recovery
    /// as a crash would, with `Cancelled`: for tests and for studying crashes in recovery.
    #[must_use]
    pub fn pause(
        mut self,
        f: impl Fn(Phase, &TxnManager) -> ControlFlow<()> + Send + Sync + 'static,
    ) -> Self {
        self.pause = Some(Arc::new(f));
        self
    }

    /// Opens the database in the directory `path`, recovering it if need be.
    ///
    /// # Errors
    /// `NotADatabase`, `AlreadyOpen`, `InvalidOption`, `ResourceManager`, `UnsupportedVersion`; what recovery finds:
    /// `ControlCorrupt`, `LogCorrupt`, `PageCorrupt`, `LogBehindPages`; `Io`, `NoSpace`.
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Database> {
        self.open_path(path.as_ref(), How::Open)
    }
    /// Makes a database in the directory `path`, which is created if it does not exist.
    ///
    /// # Errors
    /// `AlreadyExists` if there is one; as [`Builder::open`].
    pub fn create(&self, path: impl AsRef<Path>) -> Result<Database> {
        self.open_path(path.as_ref(), How::Create)
    }
    /// Opens the database in the directory `path`, or makes it if there is none.
    ///
    /// # Errors
    /// As [`Builder::open`].
    pub fn open_or_create(&self, path: impl AsRef<Path>) -> Result<Database> {
        self.open_path(path.as_ref(), How::OpenOrCreate)
    }
    /// [`Builder::open`] on a disk of the caller.
    ///
    /// # Errors
    /// As [`Builder::open`].
    pub fn open_on(&self, disk: Arc<dyn Disk>) -> Result<Database> {
        self.open_disk(disk, How::Open)
    }
    /// [`Builder::create`] on a disk of the caller.
    ///
    /// # Errors
    /// As [`Builder::create`].
    pub fn create_on(&self, disk: Arc<dyn Disk>) -> Result<Database> {
        self.open_disk(disk, How::Create)
    }
    /// [`Builder::open_or_create`] on a disk of the caller.
    ///
    /// # Errors
    /// As [`Builder::open`].
    pub fn open_or_create_on(&self, disk: Arc<dyn Disk>) -> Result<Database> {
        self.open_disk(disk, How::OpenOrCreate)
    }
    /// [`Builder::open`], and what recovery did.
    ///
    /// # Errors
    /// As [`Builder::open`].
    pub fn open_with_report(&self, path: impl AsRef<Path>) -> Result<(Database, RecoveryReport)> {
        self.open(path).map(with_report)
    }
    /// [`Builder::open_on`], and what recovery did.
    ///
    /// # Errors
    /// As [`Builder::open`].
    pub fn open_on_with_report(&self, disk: Arc<dyn Disk>) -> Result<(Database, RecoveryReport)> {
        self.open_on(disk).map(with_report)
    }
    /// Opens a database for reading only and changes nothing in its directory: a recovery happens in memory. If the
    /// directory has a lock file, the lock is held meanwhile.
    ///
    /// # Errors
    /// `AlreadyOpen` if somebody has it open; as [`Builder::open`].
    pub fn open_read_only(&self, path: impl AsRef<Path>) -> Result<(Database, RecoveryReport)> {
        self.open_path(path.as_ref(), How::ReadOnly).map(with_report)
    }
    /// [`Builder::open_read_only`] on a disk of the caller.
    ///
    /// # Errors
    /// As there.
    pub fn open_read_only_on(&self, disk: Arc<dyn Disk>) -> Result<(Database, RecoveryReport)> {
        self.open_disk(disk, How::ReadOnly).map(with_report)
    }
    /// A new database in memory: gone with its last handle.
    ///
    /// # Errors
    /// `InvalidOption`, `Limit`.
    pub fn in_memory(&self) -> Result<Database> {
        self.create_on(Arc::new(MemDisk::new()))
    }

    fn open_path(&self, path: &Path, how: How) -> Result<Database> {
        self.settle(None)?;
        let created = matches!(how, How::Create | How::OpenOrCreate);
        let disk = if created { PosixDisk::create(path) } else { PosixDisk::open(path) };
        let disk = disk.map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
                Error::new(ErrorKind::NotADatabase, format!("there is no directory {}", path.display()))
                    .with_help("Create a database first: `create` or `open_or_create`")
            }
            _ => Error::io(format!("cannot open the directory {}", path.display()), e),
        })?;
        self.open_disk(Arc::new(disk), how)
    }

    fn open_disk(&self, disk: Arc<dyn Disk>, how: How) -> Result<Database> {
        let mut progress = self.progress.clone();
        let mut call = move |p: Progress| match &mut progress {
            Some(f) => (f.lock())(p),
            None => ControlFlow::Continue(()),
        };
        open::open(self, disk, how, &mut call)
    }

    pub(crate) fn trace(&self) -> Trace {
        self.tracer.clone().map_or(Trace::silent(), Trace::new)
    }

    /// Validates every option; with the page size of an existing database, or else the one for a new one.
    pub(crate) fn settle(&self, existing: Option<usize>) -> Result<Settings> {
        let page_size = match (existing, self.page_size) {
            (Some(is), Some(wanted)) if is != wanted => {
                return Err(invalid(format!("page_size {wanted}: this database has pages of {is} bytes")));
            }
            (Some(is), _) => is,
            (None, wanted) => wanted.unwrap_or(DEFAULT_PAGE_SIZE),
        };
        let page = page_size as u64;
        let max_record = 3 * page_size + 4096;
        let ring_low = ring_low(page_size, max_record, self.log.pad);
        // What a large cache is for is that pages stay in it: their images, and the log since their first change, need room.
        let limit = self.log_limit_bytes.unwrap_or((2 * self.cache_bytes as u64).clamp(1 << 30, 8 << 30));
        let unset = (self.cache_bytes / 128).clamp(8 << 20, 32 << 20).min(limit as usize / 4);
        let ring_bytes = self.log_ring_bytes.unwrap_or(1 << unset.max(1).ilog2());
        let limit_low = (8 * self.log.segment_bytes).max(4 * ring_bytes as u64).max(64 * page);
        let unset = if self.recovery_target.is_some() { limit / 4 } else { (limit / 8).min(MOST_BETWEEN) };
        let checkpoint_log_bytes = self.checkpoint_log_bytes.unwrap_or(unset);
        let target = self.recovery_target.unwrap_or(Duration::from_secs(1));
        let recovery_threads = self.recovery_threads.unwrap_or_else(hamal_recovery::processors);
        let memory = (self.cache_bytes as u64).max(limit / 4).clamp(RECOVERY_MEMORY_MIN, RECOVERY_MEMORY_MAX);
        let recovery_memory_bytes = self.recovery_memory_bytes.unwrap_or(memory);
        let millis = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        const DAY: u64 = 86_400_000;
        // The page size first: the other bounds are made of it.
        let table = [
            Bounds("page_size", page, MIN_PAGE_SIZE as u64, MAX_PAGE_SIZE as u64, Form::PowerOfTwo),
            Bounds("cache_bytes", self.cache_bytes as u64, MIN_FRAMES as u64 * page, 1 << 44, Form::Any),
            Bounds("log_segment_bytes", self.log.segment_bytes, 8 << 10, 1 << 30, Form::Blocks),
            Bounds("log_ring_bytes", ring_bytes as u64, ring_low, 1 << 30, Form::PowerOfTwo),
            Bounds("log_limit_bytes", limit, limit_low, 1 << 50, Form::Any),
            Bounds("checkpoint_log_bytes", checkpoint_log_bytes, 16 << 10, limit / 2, Form::Any),
            Bounds("checkpoint_interval", millis(self.checkpoint_interval), 10, 7 * DAY, Form::Millis),
            Bounds("log_pad", self.log.pad as u64, 512, 4096, Form::PowerOfTwo),
            Bounds("flush_interval", millis(self.flush_interval), 0, 10_000, Form::Millis),
            Bounds("lock_timeout", millis(self.lock_timeout), 0, DAY, Form::Millis),
            Bounds("recovery_target", millis(target), 100, 3_600_000, Form::Millis),
            Bounds("recovery_memory_bytes", recovery_memory_bytes, 64 << 10, 1 << 40, Form::Any),
            Bounds("recovery_threads", recovery_threads as u64, 1, 1024, Form::Any),
            Bounds("version_budget_bytes", self.version_budget_bytes as u64, 64 << 10, 1 << 40, Form::Any),
        ];
        for bounds in table {
            bounds.check()?;
        }
        for (i, m) in self.managers.iter().enumerate() {
            let name = m.name();
            if name.is_empty() || name.len() > 63 {
                return Err(invalid(format!(
                    "a resource manager's name has {} bytes; it may have 1 to 63",
                    name.len()
                )));
            }
            let built_in = name == crate::open::SPACE_NAME || name == crate::open::BTREE_NAME;
            if built_in || self.managers[..i].iter().any(|other| other.name() == name) {
                return Err(invalid(format!("two resource managers are named {name:?}")));
            }
        }
        Ok(Settings {
            page_size,
            frames: self.cache_bytes / page_size,
            log: LogOptions { max_record, limit_bytes: limit, ring_bytes, ..self.log.clone() },
            checkpoint_log_bytes,
            recovery_threads,
            recovery_memory_bytes,
            image_share_bytes: limit / 4,
        })
    }
}

/// The smallest ring that can be shared out so that nobody waits for a share for ever.
fn ring_low(page_size: usize, max_record: usize, pad: usize) -> u64 {
    let fits = |ring: &u64| RingShares::of(*ring, page_size, max_record, pad).is_some();
    (14..=30).map(|bits| 1 << bits).find(fits).unwrap_or(1 << 30)
}

fn with_report(db: Database) -> (Database, RecoveryReport) {
    let report = db.recovery_report().clone();
    (db, report)
}

/// What follows from the options and the page size, valid.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) page_size: usize,
    pub(crate) frames: usize,
    pub(crate) log: LogOptions,
    pub(crate) checkpoint_log_bytes: u64,
    pub(crate) recovery_threads: usize,
    pub(crate) recovery_memory_bytes: u64,
    pub(crate) image_share_bytes: u64,
}

/// Bounds of the default memory for the log in recovery.
const RECOVERY_MEMORY_MIN: u64 = 128 << 20;
const RECOVERY_MEMORY_MAX: u64 = 2 << 30;

/// The longest default interval of checkpoints: some log that is recovered within two seconds.
const MOST_BETWEEN: u64 = 256 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Any,
    PowerOfTwo,
    Blocks,
    Millis,
}

/// An option: its name, value, and inclusive bounds.
struct Bounds(&'static str, u64, u64, u64, Form);

impl Bounds {
    fn check(&self) -> Result<()> {
        let Bounds(name, value, low, high, form) = *self;
        let formed = match form {
            Form::Any | Form::Millis => true,
            Form::PowerOfTwo => value.is_power_of_two(),
            Form::Blocks => value.is_multiple_of(4096),
        };
        if formed && (low..=high).contains(&value) {
            return Ok(());
        }
        let what = match form {
            Form::Any => "",
            Form::PowerOfTwo => "a power of two ",
            Form::Blocks => "a multiple of 4096 ",
            Form::Millis => "in milliseconds ",
        };
        Err(invalid(format!("{name} is {value}; it must be {what}from {low} to {high}")))
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorKind::InvalidOption, message)
}
