//! The pool itself: what it is made of, and its counters.
use crate::clean::Cleaner;
use crate::frame::Frame;
use crate::region::Region;
use crate::translate::Translation;
use crate::versions::PageVersions;
use crate::{Managers, RingShares};
use hamal_disk::DiskFile;
use hamal_error::{Error, ErrorKind, Result};
use hamal_log::Log;
use hamal_page::{Lsn, PageId};
use hamal_sync::Mutex;
use hamal_sync::aside;
use hamal_sync::atomic::{AtomicBool, AtomicU64, Ordering::*};
use hamal_sync::thread::ThreadId;
use hamal_trace::Trace;
use std::fmt;
use std::sync::Arc;

/// The fewest frames of a pool (`BUF-FRAMES`).
pub const MIN_FRAMES: usize = 24;

/// Options of a [`Pool`]; validated by the facade.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// Page size in bytes.
    pub page_size: usize,
    /// Frames: the hard cap of the pool's memory in pages. At least [`MIN_FRAMES`].
    pub frames: usize,
    /// Log an image of a page before it is written in place (rule W). Off only for devices that write a page
    /// atomically.
    pub images: bool,
    /// Compress images with LZ4 where that makes them smaller.
    pub compress_images: bool,
    /// Dirty pages times image size never exceed this many bytes of log.
    pub image_share_bytes: u64,
    /// Pages per write-back batch.
    pub batch_pages: usize,
    /// Apply every record a second time to a copy and compare (debugging of resource managers).
    pub check_apply: bool,
}

/// Counters of a [`Pool`].
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "plain counters, named for what they count")]
pub struct PoolStats {
    pub frames: u64,
    pub resident: u64,
    pub dirty: u64,
    pub hits: u64,
    pub misses: u64,
    pub evictions: u64,
    pub pages_written: u64,
    pub write_calls: u64,
    pub images: u64,
    pub image_bytes: u64,
    pub repaired: u64,
    pub file_pages: u64,
}

/// Counters that many threads raise.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) resident: aside::AtomicU64,
    pub(crate) misses: aside::AtomicU64,
    pub(crate) evictions: aside::AtomicU64,
    pub(crate) pages_written: aside::AtomicU64,
    pub(crate) write_calls: aside::AtomicU64,
    pub(crate) images: aside::AtomicU64,
    pub(crate) image_bytes: aside::AtomicU64,
    pub(crate) repaired: aside::AtomicU64,
}

/// How often a page was found in memory: counters on lines of their own, one for each of a few threads.
#[derive(Debug, Default)]
pub(crate) struct Hits([Stripe; STRIPES]);

const STRIPES: usize = 16;

#[derive(Debug, Default)]
#[repr(align(64))]
struct Stripe(aside::AtomicU64);

/// Numbers given to threads.
static THREADS: aside::AtomicUsize = aside::AtomicUsize::new(0);

std::thread_local! {
    static THREAD: usize = THREADS.fetch_add(1, Relaxed);
}

impl Hits {
    /// Lossy on purpose where threads share a counter.
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        let i = THREAD.try_with(|t| *t).unwrap_or(0) % STRIPES;
        let count = &self.0[i].0;
        count.store(count.load(Relaxed).wrapping_add(n), Relaxed);
    }
    fn sum(&self) -> u64 {
        self.0.iter().map(|s| s.0.load(Relaxed)).sum()
    }
}

/// Name of the data file in messages.
pub(crate) const DATA: &str = "data";

/// Log bytes that an image takes beside the page's own: record header, image head, its share of seals and padding.
pub(crate) const IMAGE_EXTRA: u64 = 256;

/// Repairs that are remembered for reports.
pub(crate) const REPAIRS_KEPT: usize = 1000;

/// The buffer pool. Shared by all threads.
pub struct Pool {
    pub(crate) options: PoolOptions,
    pub(crate) data: Arc<dyn DiskFile>,
    pub(crate) log: Arc<Log>,
    pub(crate) managers: Managers,
    pub(crate) trace: Trace,
    pub(crate) ring: RingShares,
    pub(crate) region: Region<Frame>,
    pub(crate) xlat: Translation,
    /// What pages were repaired and why, the first [`REPAIRS_KEPT`] of them.
    pub(crate) repairs: Mutex<Vec<(PageId, String)>>,
    /// Which version of each page the disk must hold.
    pub(crate) versions: PageVersions,
    /// Frames that are bound to no page. A frame is in here, bound, or exclusively latched by who is about to bind it.
    pub(crate) free: Mutex<Vec<u32>>,
    /// Pages from [`Pool::create`] that are held, and by whom. Who asks for one of them again would wait for itself: a damaged
    /// space map has given away a page that is in use. Looked at only by who has to wait.
    pub(crate) made: Mutex<Vec<(PageId, ThreadId)>>,
    /// See [`Pool::frame_turn`].
    pub(crate) frame_turn: Mutex<()>,
    /// The clock's hand.
    pub(crate) hand: AtomicU64,
    /// The page with the highest pageLSN that was ever written, for the control file (BUF-WITNESS).
    pub(crate) witness: Mutex<(Lsn, PageId)>,
    /// B of rule W: the LSN of the newest begun checkpoint; 0: none yet.
    pub(crate) begun: AtomicU64,
    pub(crate) in_redo: AtomicBool,
    /// Pages that redo found rebuilt from the log: written back when it is over.
    pub(crate) rebuilt_in_redo: Mutex<Vec<PageId>>,
    /// Dirty frames.
    pub(crate) dirty: AtomicU64,
    /// Pages that outstanding credits may still dirty.
    pub(crate) promised: AtomicU64,
    /// Whether a page may be dirty without an image reserve because its newest image is still good (`TXN-ROOM`).
    pub(crate) unpaid: AtomicBool,
    /// Ring bytes of outstanding credits.
    pub(crate) ring_used: AtomicU64,
    pub(crate) file_pages: AtomicU64,
    /// Held while the file's length changes.
    pub(crate) file_length: Mutex<()>,
    /// One cleaner at a time (`BUF-CLEANER`): the one writer of flight marks.
    pub(crate) cleaner: Mutex<Cleaner>,
    pub(crate) counters: Counters,
    pub(crate) hits: Hits,
    #[cfg(test)]
    pub(crate) hook: crate::tests::Hook,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool over the data file.
    ///
    /// # Errors
    /// No memory for the frames (`Limit`); `InvalidOption`; I/O errors.
    pub fn new(
        options: PoolOptions,
        data: Arc<dyn DiskFile>,
        log: Arc<Log>,
        managers: Managers,
        trace: Trace,
    ) -> Result<Pool> {
        if !hamal_page::valid_page_size(options.page_size) {
            let m = format!("page size {} is not a power of two from 4096 to 65536", options.page_size);
            return Err(Error::new(ErrorKind::InvalidOption, m));
        }
        if options.frames < MIN_FRAMES || options.batch_pages == 0 {
            let m = format!("a pool needs at least {MIN_FRAMES} frames and batches of at least one page");
            return Err(Error::new(ErrorKind::InvalidOption, m));
        }
        let o = log.options();
        let ring =
            RingShares::of(o.ring_bytes as u64, options.page_size, o.max_record, o.pad).ok_or_else(|| {
                Error::new(ErrorKind::InvalidOption, "the log's ring is too small for the pages")
            })?;
        let region = Region::new(options.frames, options.page_size, Frame::new).map_err(|e| {
            let m = format!("no memory for {} frames of {} bytes: {e}", options.frames, options.page_size);
            Error::new(ErrorKind::Limit, m).with_help("Configure a smaller pool")
        })?;
        let len = data.len().map_err(|e| Error::io("length of the data file", e).with_file(DATA))?;
        let free = (0..options.frames as u32).rev().collect();
        Ok(Pool {
            file_pages: AtomicU64::new(len / options.page_size as u64),
            options,
            data,
            log,
            managers,
            trace,
            ring,
            region,
            xlat: Translation::new(),
            repairs: Mutex::new(Vec::new()),
            versions: PageVersions::new(),
            free: Mutex::new(free),
            made: Mutex::new(Vec::new()),
            frame_turn: Mutex::new(()),
            hand: AtomicU64::new(0),
            witness: Mutex::new((Lsn::NULL, PageId(0))),
            begun: AtomicU64::new(0),
            in_redo: AtomicBool::new(false),
            rebuilt_in_redo: Mutex::new(Vec::new()),
            dirty: AtomicU64::new(0),
            promised: AtomicU64::new(0),
            unpaid: AtomicBool::new(false),
            ring_used: AtomicU64::new(0),
            file_length: Mutex::new(()),
            cleaner: Mutex::new(Cleaner::default()),
            counters: Counters::default(),
            hits: Hits::default(),
            #[cfg(test)]
            hook: Default::default(),
        })
    }

    /// Options.
    pub fn options(&self) -> &PoolOptions {
        &self.options
    }
    /// The log.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }
    /// Which version of each page the disk must hold.
    pub fn versions(&self) -> &PageVersions {
        &self.versions
    }
    /// The pages that were rebuilt from the log since the pool was made, and what was wrong with each; the first 1000.
    pub fn repairs(&self) -> Vec<(PageId, String)> {
        self.repairs.lock().clone()
    }
    /// Page size in bytes.
    pub fn page_size(&self) -> usize {
        self.options.page_size
    }

    /// Pages that are dirty now.
    pub fn dirty_pages(&self) -> u64 {
        self.dirty.load(SeqCst)
    }
    /// Counters; `hits` is approximate where threads race.
    pub fn stats(&self) -> PoolStats {
        let c = &self.counters;
        PoolStats {
            frames: self.region.len() as u64,
            resident: c.resident.load(Relaxed),
            dirty: self.dirty.load(Relaxed),
            hits: self.hits.sum(),
            misses: c.misses.load(Relaxed),
            evictions: c.evictions.load(Relaxed),
            pages_written: c.pages_written.load(Relaxed),
            write_calls: c.write_calls.load(Relaxed),
            images: c.images.load(Relaxed),
            image_bytes: c.image_bytes.load(Relaxed),
            repaired: c.repaired.load(Relaxed),
            file_pages: self.file_pages(),
        }
    }

    /// `Ok` unless the engine is poisoned.
    #[inline]
    pub(crate) fn check(&self) -> Result<()> {
        self.log.poisoned().check()
    }
    pub(crate) fn offset(&self, id: PageId) -> u64 {
        id.0.saturating_mul(self.options.page_size as u64)
    }
    /// Log space that a dirty page keeps reserved for its image; 0 with images off.
    pub(crate) fn image_cost(&self) -> u64 {
        if self.options.images { self.options.page_size as u64 + IMAGE_EXTRA } else { 0 }
    }
    /// The most pages that may be dirty, those promised to credits included (`BUF-CAP`).
    pub(crate) fn dirty_cap(&self) -> u64 {
        let frames = self.region.len() as u64;
        let clean_share = frames - frames / 8;
        match self.image_cost() {
            0 => clean_share,
            cost => clean_share.min((self.options.image_share_bytes / cost).max(16)),
        }
    }
    /// A frame became dirty or clean. Exclusive latch (or, in W-2, the cleaner's shared one) held.
    pub(crate) fn count_dirty(&self, before: bool, after: bool) {
        match (before, after) {
            (false, true) => self.dirty.fetch_add(1, SeqCst),
            (true, false) => self.dirty.fetch_sub(1, SeqCst),
            _ => 0,
        };
    }
    /// Gives the image reserves back that the frame's marks no longer justify. Exclusive latch.
    pub(crate) fn settle(&self, frame: &Frame) {
        let surplus = frame.settle() * self.image_cost();
        if surplus != 0 {
            self.log.give_back(surplus);
        }
    }
    #[cfg(test)]
    pub(crate) fn step(&self, step: crate::tests::Step, page: PageId) {
        self.hook.call(self, step, page);
    }
}
