//! The open log: create, open, append, read, truncate.
use crate::commit::{Group, Waiter};
use crate::files::{Files, Found};
use crate::format::{MAX_PAD, SECTOR, Seeds};
use crate::options::SyncMethod;
use crate::ring::Ring;
use crate::segment::{self, Segment};
use crate::slots::Slots;
use crate::space::{Credit, Maker};
use crate::ticket::Flusher;
use crate::{Block, LogEnd, LogIdentity, LogOptions, LogReader, Record, RecordSpec, TxnRef, Whole, codec};
use crossbeam_utils::CachePadded;
use hamal_disk::{Disk, OpenMode};
use hamal_error::{Error, ErrorKind, Poison, Result};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{Lsn, TxnId};
use hamal_sync::atomic::Ordering::{Relaxed, SeqCst};
use hamal_sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
use hamal_sync::{Condvar, Mutex, RwLock};
use hamal_trace::{Event, LoggedBlock, Trace};
use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

/// Where an appended record lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its LSN.
    pub lsn: Lsn,
    /// The LSN after its last byte.
    pub end: Lsn,
}

/// Counters of a [`Log`].
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "plain counters, named for what they count")]
pub struct LogStats {
    pub tail: Lsn,
    pub durable: Lsn,
    pub oldest: Lsn,
    pub allocated_bytes: u64,
    pub reserved_bytes: u64,
    pub records: u64,
    pub record_bytes: u64,
    pub groups: u64,
    pub syncs: u64,
    pub segments_created: u64,
    pub segments_recycled: u64,
}

/// What the maker of segments owns.
#[derive(Debug)]
pub(crate) struct Grow {
    /// Released files of the present segment length.
    pub(crate) free: Vec<String>,
    /// Groups that had been written when it made the last one.
    pub(crate) groups: u64,
}

/// The log, open for appending. Shared by all threads.
pub struct Log {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: LogOptions,
    pub(crate) identity: LogIdentity,
    pub(crate) seeds: Seeds,
    pub(crate) poison: Arc<Poison>,
    pub(crate) trace: Trace,
    pub(crate) ring: Ring,
    /// The next LSN. All reservations are compare-and-swaps of this word.
    pub(crate) tail: CachePadded<AtomicU64>,
    /// Everything below is durable. Only the leader moves it.
    pub(crate) durable: CachePadded<AtomicU64>,
    /// Log space promised: credits and what was taken out of them.
    pub(crate) demand: CachePadded<AtomicU64>,
    /// Ring space promised: credits.
    pub(crate) ring_demand: CachePadded<AtomicU64>,
    /// First LSN of the newest segment: promises stay below it.
    pub(crate) usable_end: AtomicU64,
    /// See [`Log::free_slack`].
    pub(crate) slack_is_free: AtomicBool,
    oldest: AtomicU64,
    pub(crate) last_seal: AtomicU32,
    pub(crate) slots: Slots,
    /// Leadership.
    pub(crate) flush: Mutex<Group>,
    pub(crate) waiters: Mutex<Vec<Waiter>>,
    /// The live segments, ascending. Replaced as a whole.
    pub(crate) segments: RwLock<Arc<Vec<Arc<Segment>>>>,
    /// Held while segments are made or released. Taken after `flush`, never before it.
    pub(crate) grow: Mutex<Grow>,
    reader: Mutex<Files>,
    /// Held shared while the whole log is read: no segment is released meanwhile.
    pub(crate) scans: RwLock<()>,
    pub(crate) ring_turn: Mutex<()>,
    pub(crate) ring_mutex: Mutex<()>,
    pub(crate) ring_wake: Condvar,
    pub(crate) ring_waiters: AtomicUsize,
    pub(crate) flusher: Flusher,
    pub(crate) maker: Maker,
    pub(crate) groups: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) created: AtomicU64,
    pub(crate) recycled: AtomicU64,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("oldest", &self.oldest())
            .field("durable", &self.durable())
            .field("tail", &self.tail())
            .field("poisoned", &self.poison.is_set())
            .finish_non_exhaustive()
    }
}

hamal_sync::thread_local! {
    /// Where a thread encodes its records before it copies them to the ring.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Bytes read at once from files by [`Log::read`].
const READ_CHUNK: usize = 64 << 10;

fn validate(o: &LogOptions) -> Result<()> {
    let bad = |m: &str| Err(Error::new(ErrorKind::InvalidOption, m));
    if !o.segment_bytes.is_multiple_of(4096) || o.segment_bytes < 8 << 10 || o.segment_bytes > 1 << 40 {
        return bad("the log's segment size must be a multiple of 4096 from 8 KiB to 1 TiB");
    }
    if !o.pad.is_power_of_two() || !(SECTOR..=MAX_PAD).contains(&(o.pad as u64)) {
        return bad("the log's pad must be 512, 1024, 2048 or 4096");
    }
    if !o.ring_bytes.is_power_of_two() || o.ring_bytes < 16 << 10 || o.ring_bytes > 1 << 40 {
        return bad("the log's ring must be a power of two from 16 KiB to 1 TiB");
    }
    if o.max_record < 64 || o.max_record > codec::LONGEST_RECORD || o.max_record > o.ring_bytes / 2 {
        return bad("the longest log record must have 64 bytes to 16 MiB and fit twice into the ring");
    }
    Ok(())
}

impl Log {
    /// The first LSN of a new log.
    pub const FIRST: Lsn = Lsn(4096);

    fn assemble(
        disk: Arc<dyn Disk>,
        options: LogOptions,
        identity: LogIdentity,
        segments: Vec<Arc<Segment>>,
        end: (u64, u32),
        poison: Arc<Poison>,
        trace: Trace,
    ) -> Log {
        let seeds = Seeds::new(identity);
        let (start, last_seal) = end;
        let word = |v: u64| CachePadded::new(AtomicU64::new(v));
        Log {
            ring: Ring::new(options.ring_bytes),
            disk,
            options,
            identity,
            seeds,
            poison,
            trace,
            tail: word(start),
            durable: word(start),
            demand: word(0),
            ring_demand: word(0),
            slack_is_free: AtomicBool::new(false),
            usable_end: AtomicU64::new(segments.last().map_or(0, |s| s.first)),
            oldest: AtomicU64::new(segments.first().map_or(start, |s| s.first)),
            last_seal: AtomicU32::new(last_seal),
            slots: Slots::new(),
            flush: Mutex::new(Group { start, last_seal }),
            waiters: Mutex::new(Vec::new()),
            reader: Mutex::new(Files::new(segments.clone(), seeds, READ_CHUNK, 16 * READ_CHUNK)),
            scans: RwLock::new(()),
            segments: RwLock::new(Arc::new(segments)),
            grow: Mutex::new(Grow { free: Vec::new(), groups: 0 }),
            ring_turn: Mutex::new(()),
            ring_mutex: Mutex::new(()),
            ring_wake: Condvar::new(),
            ring_waiters: AtomicUsize::new(0),
            flusher: Flusher::default(),
            maker: Maker::default(),
            groups: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            created: AtomicU64::new(0),
            recycled: AtomicU64::new(0),
        }
    }

    /// Makes a new log in the directory `wal` of `disk` (which exists), with its first record at
    /// [`Log::FIRST`] or later (`first`, a multiple of 4096), files and directory synced.
    ///
    /// # Errors
    /// I/O errors; `AlreadyExists` if segments are there; `InvalidOption`, `InvalidArgument`.
    pub fn create(
        disk: Arc<dyn Disk>,
        options: LogOptions,
        identity: LogIdentity,
        first: Lsn,
        poison: Arc<Poison>,
        trace: Trace,
    ) -> Result<Log> {
        validate(&options)?;
        if first < Self::FIRST || !first.0.is_multiple_of(4096) || first.0 > 1 << 60 {
            return Err(
                Error::new(ErrorKind::InvalidArgument, "a log cannot start at this LSN").with_lsn(first)
            );
        }
        if !segment::list(&*disk)?.is_empty() {
            return Err(
                Error::new(ErrorKind::AlreadyExists, "there is a log already").with_file(segment::DIR)
            );
        }
        let log = Self::assemble(disk, options, identity, Vec::new(), (first.0, 0), poison, trace);
        log.tidy(&mut log.grow.lock(), first.0)?;
        log.grow_until_fits(&mut log.grow.lock(), true)?;
        Ok(log)
    }

    /// Opens the log for appending at its found end: syncs every segment and the directory first (LOG-1),
    /// makes the next segments.
    ///
    /// # Errors
    /// I/O errors; `LogCorrupt` if segments are missing since the end was found; `InvalidOption`.
    pub fn open(
        disk: Arc<dyn Disk>,
        options: LogOptions,
        identity: LogIdentity,
        end: &LogEnd,
        poison: Arc<Poison>,
        trace: Trace,
    ) -> Result<Log> {
        let segments = segment::open_chain(&*disk, identity, end.oldest.0, write_mode(&options))?;
        Self::open_segments(disk, options, identity, segments, end, poison, trace)
    }

    /// [`Log::open`] after `reader`, the reader that found the end, has opened and checked the segments: that is not
    /// done again.
    ///
    /// # Errors
    /// As there.
    pub fn open_read(
        disk: Arc<dyn Disk>,
        options: LogOptions,
        identity: LogIdentity,
        end: &LogEnd,
        reader: &LogReader,
        poison: Arc<Poison>,
        trace: Trace,
    ) -> Result<Log> {
        let mode = write_mode(&options);
        let again = |s: &Arc<Segment>| s.reopen(&*disk, mode).map(Arc::new);
        let segments = reader.segments().iter().map(again).collect::<Result<_>>()?;
        Self::open_segments(disk, options, identity, segments, end, poison, trace)
    }

    fn open_segments(
        disk: Arc<dyn Disk>,
        options: LogOptions,
        identity: LogIdentity,
        segments: Vec<Arc<Segment>>,
        end: &LogEnd,
        poison: Arc<Poison>,
        trace: Trace,
    ) -> Result<Log> {
        validate(&options)?;
        let newest = segments.last().map_or(0, |s| s.first);
        if !end.end.0.is_multiple_of(SECTOR) || end.end < end.oldest || end.end.0 >= newest {
            return Err(Error::new(ErrorKind::LogCorrupt, "the log's end does not lie in its segments")
                .with_file(segment::DIR)
                .with_lsn(end.end));
        }
        // What was read may have been in a cache only. From here on it counts as durable, so it must be.
        for s in segments.iter().filter(|_| !mutants::is(Mutant::LogOpenNotSynced)) {
            s.file.sync().map_err(|e| Error::io("syncing the log", e).with_file(s.name.clone()))?;
        }
        disk.sync_dir(segment::DIR)
            .map_err(|e| Error::io("syncing the log's directory", e).with_file(segment::DIR))?;
        let at = (end.end.0, end.last_seal ^ u32::from(mutants::is(Mutant::SealForgetsPredecessor)));
        let log = Self::assemble(disk, options, identity, segments, at, poison, trace);
        {
            let mut grow = log.grow.lock();
            log.tidy(&mut grow, end.keep_from.0)?;
            // Nothing is promised yet: on a full device whoever wants to log is refused, and what is there can be read.
            match log.grow_until_fits(&mut grow, true) {
                Err(e) if e.kind() != ErrorKind::NoSpace => return Err(e),
                _ => {}
            }
        }
        Ok(log)
    }

    /// Removes what a crash left: a half-made file, segments below a gap (released, but not in order), free
    /// files that do not fit. Collects the free files that do. What holds anything from `keep_from` on stays (LOG-11).
    fn tidy(&self, grow: &mut Grow, keep_from: u64) -> Result<()> {
        let io = |e| Error::io("tidying the log's directory", e).with_file(segment::DIR);
        let oldest = self.oldest.load(SeqCst);
        let mut names = self.disk.list(segment::DIR).map_err(io)?;
        names.sort_unstable();
        let firsts = segment::list(&*self.disk)?;
        // A segment ends where the next one begins, or before: its own header may be what is damaged.
        let needed = |first: u64| {
            let next = firsts.iter().find(|f| **f > first);
            next.is_none_or(|next| *next > keep_from) && !mutants::is(Mutant::NeededSegmentTidied)
        };
        for plain in names {
            let name = format!("{}/{plain}", segment::DIR);
            let released = segment::parse(&plain).is_some_and(|first| first < oldest && !needed(first));
            if released || name == segment::MAKING {
                self.disk.remove(&name).map_err(io)?;
            } else if plain.starts_with("free-") {
                let file = self.disk.open(&name, OpenMode::default()).map_err(io)?;
                let fits = file.len().map_err(io)? == self.options.segment_bytes;
                if fits && grow.free.len() < segment::FREE_KEPT {
                    grow.free.push(name);
                } else {
                    self.disk.remove(&name).map_err(io)?;
                }
            }
        }
        Ok(())
    }

    pub(crate) fn write_mode(&self) -> OpenMode {
        write_mode(&self.options)
    }

    pub(crate) fn set_segments(&self, all: Vec<Arc<Segment>>) {
        self.oldest.store(all.first().map_or(0, |s| s.first), SeqCst);
        {
            let mut reader = self.reader.lock();
            let oldest = self.oldest.load(SeqCst);
            reader.segments.clone_from(&all);
            reader.forget_below(oldest);
        }
        *self.segments.write() = Arc::new(all);
    }

    /// Appends a record: reserve, copy, publish. Never waits. `reserved` runs after the LSN is reserved and
    /// before the record can become durable: what must be true of a durable record is made true there. It
    /// must not call the log.
    ///
    /// # Errors
    /// `Poisoned`; `Internal` if the record is longer than the credit or than `max_record`, or refers to an
    /// LSN that is not below it. Then nothing was appended and `reserved` was not run.
    ///
    /// # Panics
    /// If `reserved` does; the log is then poisoned.
    pub fn append_with(
        &self,
        spec: &RecordSpec<'_>,
        credit: &mut Credit<'_>,
        reserved: impl FnOnce(Appended),
    ) -> Result<Appended> {
        self.poison.check()?;
        if !std::ptr::eq(credit.log, self) {
            return Err(Error::internal("LOG-6: a credit of another log"));
        }
        let slot = self.slots.take(&self.tail);
        let (lsn, len) = loop {
            let lsn = self.tail.load(SeqCst);
            codec::check(spec, lsn).map_err(|m| Error::internal(m).with_lsn(Lsn(lsn)))?;
            let len = codec::encoded_len(spec, lsn);
            if len as u64 > credit.bytes || len > self.options.max_record {
                let m = format!(
                    "LOG-6: a {} record of {len} bytes, with a credit of {} and a longest record of {}",
                    spec.kind.name(),
                    credit.bytes,
                    self.options.max_record
                );
                return Err(Error::internal(m).with_lsn(Lsn(lsn)));
            }
            if self.tail.compare_exchange(lsn, lsn + len as u64, SeqCst, SeqCst).is_ok() {
                break (lsn, len as u64);
            }
        };
        let hole = Hole(self);
        credit.bytes -= len;
        let appended = Appended { lsn: Lsn(lsn), end: Lsn(lsn + len) };
        reserved(appended);
        // A thread that is ending has no scratch any more; then a fresh one does.
        let mut bytes = SCRATCH.try_with(RefCell::take).unwrap_or_default();
        if bytes.len() < len as usize {
            bytes.resize(len as usize, 0);
        }
        let record = &mut bytes[..len as usize];
        codec::encode(spec, lsn, self.seeds, record);
        // SAFETY: `[lsn, lsn + len)` was reserved by the exchange above and belongs to this thread; its slot
        // keeps the leader, and so `durable`, below it; the credit was admitted to the ring (LOG-4).
        unsafe { self.ring.write(lsn, record) };
        let _ = SCRATCH.try_with(|s| s.replace(bytes));
        std::mem::forget(hole);
        slot.count(len);
        drop(slot);
        if self.trace.is_on() {
            self.trace_append(spec, appended);
        }
        Ok(appended)
    }

    /// [`Log::append_with`] with nothing to do in between.
    ///
    /// # Errors
    /// As there.
    pub fn append(&self, spec: &RecordSpec<'_>, credit: &mut Credit<'_>) -> Result<Appended> {
        self.append_with(spec, credit, |_| {})
    }

    /// An upper bound of the bytes that a record takes in the log.
    pub fn record_bound(spec: &RecordSpec<'_>) -> u64 {
        codec::bound(spec) as u64
    }

    #[cold]
    fn trace_append(&self, spec: &RecordSpec<'_>, at: Appended) {
        fn block<'a>(b: &'a Block<'_>) -> LoggedBlock<'a> {
            let (page, former, op, whole) = (b.page, b.former, b.op, b.whole.name());
            // The bytes of an image are nothing to look at.
            let payload = if b.whole == Whole::Image { &[][..] } else { b.payload };
            LoggedBlock { page, former, op, whole, payload }
        }
        let blocks: Vec<_> = spec.blocks.iter().map(block).collect();
        let txn = match spec.txn {
            TxnRef::None => TxnId::NONE,
            TxnRef::First => TxnId(at.lsn.0),
            TxnRef::Id(id) => id,
        };
        self.trace.emit(|| Event::LogAppend {
            lsn: at.lsn,
            end: at.end,
            kind: spec.kind.name(),
            rm: spec.rm,
            txn,
            prev: spec.prev,
            blocks: &blocks,
            undo_len: spec.undo.len(),
        });
    }

    /// Everything below is durable.
    #[inline]
    pub fn durable(&self) -> Lsn {
        Lsn(self.durable.load(SeqCst))
    }
    /// The next LSN to be reserved; a lower bound by the time it is looked at.
    #[inline]
    pub fn tail(&self) -> Lsn {
        Lsn(self.tail.load(SeqCst))
    }
    /// The lowest LSN that can still be read.
    pub fn oldest(&self) -> Lsn {
        Lsn(self.oldest.load(SeqCst))
    }

    /// Bytes that the log needs now: from the oldest segment to the tail, and what was promised beyond.
    pub fn used_bytes(&self) -> u64 {
        self.tail().0.saturating_sub(self.oldest().0) + self.demand.load(SeqCst)
    }

    /// Reads one record, from the ring or from a file: the backward reading of rollback. The record must be
    /// below the tail and published by the caller's own thread or durable. May wait for a flush that is in
    /// flight.
    ///
    /// # Errors
    /// `LogCorrupt`, `Io`; `NotFound` below the oldest LSN or above the tail; `Poisoned`.
    pub fn read(&self, lsn: Lsn) -> Result<Record> {
        self.poison.check()?;
        let gone = |m: &str| Err(Error::new(ErrorKind::NotFound, m).with_lsn(lsn));
        if lsn < self.oldest() {
            return gone("the log no longer holds this LSN");
        }
        if lsn >= self.tail() {
            return gone("the log has not reached this LSN");
        }
        if lsn >= self.durable()
            && let Some(read) = self.read_ring(lsn)
        {
            return read;
        }
        let mut files = self.reader.lock();
        match files.at(lsn.0, self.durable.load(SeqCst))? {
            Found::Record(r) => Ok(r),
            _ if lsn < self.oldest() => gone("the log no longer holds this LSN"),
            _ => Err(files.corrupt(lsn.0, "no valid record where one must be")),
        }
    }

    /// Reads what is not durable yet; `None` if it has become durable meanwhile. Holding leadership keeps
    /// `durable`, and with it every byte between it and the tail, where it is.
    fn read_ring(&self, lsn: Lsn) -> Option<Result<Record>> {
        let group = self.flush.lock();
        let read = (group.start <= lsn.0).then(|| {
            let tail = self.tail.load(SeqCst);
            self.slots.wait_below(tail);
            // A poisoned log may have a hole here, or a group that was sealed and not written.
            self.poison.check()?;
            let copy = |from: u64, to: u64| {
                // SAFETY: everything in `[durable, tail)` is reserved and copied (LOG-5), and stays as it is
                // while the leadership is held: `durable` does not move, so no LSN that shares these bytes is
                // admitted (LOG-4).
                let (a, b) = unsafe { self.ring.slices(from, to) };
                [a, b].concat()
            };
            let corrupt =
                || Error::new(ErrorKind::LogCorrupt, "no record at this place in the ring").with_lsn(lsn);
            let front = copy(lsn.0, tail.min(lsn.0 + 4));
            let end = codec::peek_len(&front).map(|len| lsn.0 + len as u64);
            let end = end.filter(|end| *end <= tail).ok_or_else(corrupt)?;
            codec::decode(copy(lsn.0, end), lsn.0, self.seeds).ok_or_else(corrupt)
        });
        drop(group);
        // Somebody may have found us in the place of a leader and parked.
        self.hand_on(false);
        read
    }

    /// Releases (recycles or removes) segments that lie wholly below `before`.
    ///
    /// # Errors
    /// I/O errors: poison.
    pub fn truncate(&self, before: Lsn) -> Result<()> {
        let mut grow = self.grow.lock();
        // Under the lock, as for every change of the files (T16).
        self.poison.check()?;
        let before = before.0.min(self.durable.load(SeqCst));
        let all = self.segments.read().clone();
        // The newest segments are above `durable` and stay (LOG-8).
        let n = all.partition_point(|s| s.end() <= before);
        if n == 0 {
            return Ok(());
        }
        // A scan reads the files that would be used again.
        let _no_scan = self.scans.write();
        self.set_segments(all[n..].to_vec());
        let released = self.release(&mut grow, &all[..n]);
        if let Err(e) = released {
            return Err(self.poison(e));
        }
        self.trace.emit(|| Event::LogTruncate { before: self.oldest() });
        Ok(())
    }

    /// Sets files aside to be used again, or removes them, and syncs the directory.
    pub(crate) fn release(&self, grow: &mut Grow, old: &[Arc<Segment>]) -> Result<()> {
        let io = |e, name: &str| Error::io("releasing a log segment", e).with_file(name);
        let mut freed = Vec::new();
        for s in old {
            let fits =
                s.bytes() == self.options.segment_bytes && grow.free.len() + freed.len() < segment::FREE_KEPT;
            if fits {
                let taken = |n: &String| grow.free.contains(n) || freed.contains(n);
                let name = (0..).map(segment::free_name).find(|n| !taken(n)).unwrap_or_default();
                self.disk.rename(&s.name, &name).map_err(|e| io(e, &s.name))?;
                freed.push(name);
            } else {
                self.disk.remove(&s.name).map_err(|e| io(e, &s.name))?;
            }
        }
        // Durable before a free file gets a new header: a segment's name never stands for a file with
        // another's header.
        let ahead = old.iter().all(|s| s.first > self.tail.load(SeqCst));
        if !(mutants::is(Mutant::TrimNotSynced) && ahead) {
            self.disk.sync_dir(segment::DIR).map_err(|e| io(e, segment::DIR))?;
        }
        grow.free.append(&mut freed);
        Ok(())
    }

    /// Waits until nobody writes to the log's files. After the log was poisoned nobody begins to: what was under way
    /// when it was poisoned has then ended, and the files may be left to somebody else.
    pub fn quiesce(&self) {
        drop(self.flush.lock());
        drop(self.grow.lock());
        // Who poisoned may have found us in the place of a leader.
        self.wake_tasks();
    }

    /// The sticky failure state.
    pub fn poisoned(&self) -> &Arc<Poison> {
        &self.poison
    }
    /// Options.
    pub fn options(&self) -> &LogOptions {
        &self.options
    }
    /// Identity.
    pub fn identity(&self) -> LogIdentity {
        self.identity
    }
    /// Counters.
    pub fn stats(&self) -> LogStats {
        let (records, record_bytes) = self.slots.counts();
        LogStats {
            tail: self.tail(),
            durable: self.durable(),
            oldest: self.oldest(),
            allocated_bytes: self.segments.read().iter().map(|s| s.bytes()).sum(),
            reserved_bytes: self.demand.load(SeqCst),
            records,
            record_bytes,
            groups: self.groups.load(Relaxed),
            syncs: self.syncs.load(Relaxed),
            segments_created: self.created.load(Relaxed),
            segments_recycled: self.recycled.load(Relaxed),
        }
    }
}

fn write_mode(options: &LogOptions) -> OpenMode {
    let past_cache = options.sync == SyncMethod::DirectDsync;
    let late = mutants::is(Mutant::AckBeforeSync) || mutants::is(Mutant::LogNeverSynced);
    let dsync = past_cache && !late;
    OpenMode { direct: past_cache, dsync, ..OpenMode::default() }
}

/// A reserved LSN without its bytes. Dropped by a panic between reservation and copy: the log cannot go on
/// past it.
struct Hole<'a>(&'a Log);

impl Drop for Hole<'_> {
    fn drop(&mut self) {
        self.0.poison(Error::internal("a panic between reserving and writing a log record"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_at_their_bounds() {
        let ok = |o: LogOptions| validate(&o).is_ok();
        let base = LogOptions { ring_bytes: 64 << 20, ..LogOptions::default() };
        for (bytes, good) in [
            (8 << 10, true),
            (4 << 10, false),
            (1 << 40, true),
            ((1 << 40) + 4096, false),
            (8704, false),
            (0, false),
        ] {
            assert_eq!(ok(LogOptions { segment_bytes: bytes, ..base.clone() }), good, "segment of {bytes}");
        }
        for (pad, good) in [(512, true), (4096, true), (256, false), (8192, false), (1536, false)] {
            assert_eq!(ok(LogOptions { pad, ..base.clone() }), good, "pad of {pad}");
        }
        let small = LogOptions { max_record: 64, ..base.clone() };
        for (bytes, good) in
            [(16 << 10, true), (8 << 10, false), (1 << 40, true), (1 << 41, false), (48 << 10, false)]
        {
            assert_eq!(ok(LogOptions { ring_bytes: bytes, ..small.clone() }), good, "ring of {bytes}");
        }
        for (record, good) in [(64, true), (63, false), (16 << 20, true), ((16 << 20) + 1, false)] {
            assert_eq!(ok(LogOptions { max_record: record, ..base.clone() }), good, "record of {record}");
        }
        let tight = LogOptions { ring_bytes: 16 << 10, ..base };
        for (record, good) in [(8 << 10, true), ((8 << 10) + 1, false)] {
            assert_eq!(ok(LogOptions { max_record: record, ..tight.clone() }), good, "record of {record}");
        }
    }
}
