//! Finding pages: by the translation array when they are in memory, else by reading them into a frame that the clock
//! has found.
use crate::frame::{Frame, Mark};
use crate::guard::Made;
use crate::patience::Patience;
use crate::pool::DATA;
use crate::region::{ReadGuard, WriteGuard};
use crate::translate::Entry;
use crate::versions::version_tag;
use crate::{ExclusivePage, Glance, LastSeen, Need, Pin, Pool, SharedPage, Stop};
use hamal_error::{Error, ErrorKind, Result};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{Lsn, PageFault, PageId, header};
use hamal_sync::MutexGuard;
use hamal_sync::atomic::Ordering::*;
use hamal_sync::thread::panicking;
use hamal_trace::{Event, WriteReason};

/// Tries for a frame before others get a chance at those that one has.
const SOON: u32 = 80;

/// The right to wait for frames with pins held; given back on drop. See [`Pool::frame_turn`].
#[derive(Debug)]
pub struct FrameTurn<'p> {
    _turn: MutexGuard<'p, ()>,
}

/// Whether a page that cannot be read for this may be rebuilt from the log.
fn repairable(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::PageCorrupt | ErrorKind::StalePage | ErrorKind::PageUnreadable)
}

impl Pool {
    /// The page under a shared latch, read from disk if need be. The caller holds no latch.
    ///
    /// # Errors
    /// A page that is damaged (`PageCorrupt`), an older version (`StalePage`) or cannot be read (`PageUnreadable`) is rebuilt
    /// from the log; these errors, with page, file and offset, if the log does not reach back. `LogBehindPages` if its pageLSN
    /// is beyond the log's tail; `Limit` if no frame can be had; `Poisoned`.
    pub fn shared(&self, id: PageId) -> Result<SharedPage<'_>> {
        // Held until the latch is ours, so that the page is not lost again in between.
        let mut _pin = None;
        loop {
            match self.try_shared(id) {
                Ok(page) => return Ok(page),
                Err(Stop::Error(e)) => return Err(e),
                Err(Stop::Need(_)) => _pin = Some(self.fetch(id)?),
            }
        }
    }

    /// The page under the exclusive latch, read from disk if need be. The caller holds no latch.
    ///
    /// # Errors
    /// As [`Pool::shared`].
    pub fn exclusive(&self, id: PageId) -> Result<ExclusivePage<'_>> {
        let guard = self.write_latch(id)?;
        Ok(self.exclusive_page(guard, id))
    }

    fn exclusive_page<'p>(&'p self, guard: WriteGuard<'p, Frame>, id: PageId) -> ExclusivePage<'p> {
        ExclusivePage {
            pool: self,
            guard,
            id,
            fresh: false,
            made: None,
            unwinding: panicking(),
            changing: false,
            marked: (Mark::None, false),
        }
    }

    pub(crate) fn write_latch(&self, id: PageId) -> Result<WriteGuard<'_, Frame>> {
        // Held until the latch is ours, so that the page is not lost again in between.
        let mut _pin = None;
        loop {
            match self.try_write_latch(id) {
                Ok(guard) => return Ok(guard),
                Err(Stop::Error(e)) => return Err(e),
                Err(Stop::Need(_)) => _pin = Some(self.fetch(id)?),
            }
        }
    }

    /// The page under a shared latch if it is in memory. Waits only for the latch, so latches must be asked for in
    /// order (root to leaf, left to right, map pages last and ascending).
    ///
    /// # Errors
    /// [`Need::Page`](crate::Need::Page) if it is not in memory (or is just being read); `Poisoned`.
    pub fn try_shared(&self, id: PageId) -> std::result::Result<SharedPage<'_>, Stop> {
        self.check()?;
        while let Entry::Resident(frame) = self.xlat.get(id) {
            // The frame may be given to another page while we wait. To go on waiting for it then, with other latches
            // held, would be to wait for a page out of order: look again (BUF-XLAT, BUF-ORDER).
            let wanted = |f: &Frame| f.holds(id) && !self.is_own(id);
            let Some(guard) = self.region.read_while(frame, wanted) else {
                self.not_own(id)?;
                continue;
            };
            if guard.desc().holds(id) {
                return self.shared_page(guard, id);
            }
        }
        Err(Need::Page(id).into())
    }

    fn shared_page<'p>(
        &'p self,
        guard: ReadGuard<'p, Frame>,
        id: PageId,
    ) -> std::result::Result<SharedPage<'p>, Stop> {
        guard.desc().touch();
        self.hits.add(1);
        self.check()?;
        self.trace.emit(|| Event::PageFix { page: id, exclusive: false });
        Ok(SharedPage { guard, id })
    }

    /// As [`Pool::try_shared`]; looks into the frame `hint` first.
    ///
    /// # Errors
    /// As [`Pool::try_shared`].
    #[inline]
    pub fn try_shared_in(&self, id: PageId, hint: Option<u32>) -> std::result::Result<SharedPage<'_>, Stop> {
        if let Some((_, desc)) = hint.and_then(|frame| self.region.glance(frame))
            && desc.holds(id)
            && let Some(guard) = hint.and_then(|frame| self.region.try_read(frame))
            && guard.desc().holds(id)
        {
            return self.shared_page(guard, id);
        }
        self.try_shared(id)
    }

    /// A look at a page that takes nothing: where it is and which version it is; `None` if it is not in memory or somebody
    /// holds it exclusively. Looks into the frame `hint` first.
    #[inline]
    pub fn glance(&self, id: PageId, hint: Option<u32>) -> Option<Glance> {
        if let Some(frame) = hint
            && let Some((version, desc)) = self.region.glance(frame)
            && desc.holds(id)
        {
            desc.touch();
            return Some(Glance { frame, version, note: desc.note() });
        }
        let Entry::Resident(frame) = self.xlat.get(id) else { return None };
        let (version, desc) = self.region.glance(frame)?;
        if !desc.holds(id) {
            return None;
        }
        desc.touch();
        Some(Glance { frame, version, note: desc.note() })
    }

    /// Whether the page of a glance has been where it was, and as it was, all the time since (LATCH-2, BUF-GLANCE).
    #[inline]
    pub fn still(&self, glance: &Glance) -> bool {
        self.region.still(glance.frame, glance.version)
    }

    /// Leaves a number at the frame of a page, for the next glance.
    pub fn leave_note(&self, glance: &Glance, note: u64) {
        if (glance.frame as usize) < self.region.len() {
            self.region.desc(glance.frame).set_note(note);
        }
    }

    /// Asks the processor to fetch what a look into the page in that frame begins with.
    #[inline]
    pub fn prefetch_frame(&self, frame: u32) {
        self.region.prefetch(frame);
    }

    /// Asks the processor to fetch lines of 64 bytes of the page in that frame.
    #[inline]
    pub fn prefetch_lines(&self, frame: u32, from: usize, n: usize) {
        self.region.prefetch_lines(frame, from, n);
    }

    /// The page under the exclusive latch if it is in memory; as [`Pool::try_shared`].
    ///
    /// # Errors
    /// [`Need::Page`](crate::Need::Page) if it is not in memory (or is just being read); `Poisoned`.
    pub fn try_exclusive(&self, id: PageId) -> std::result::Result<ExclusivePage<'_>, Stop> {
        let guard = self.try_write_latch(id)?;
        Ok(self.exclusive_page(guard, id))
    }

    /// A page that this or another thread had under the exclusive latch, under that latch again, if nobody holds it now and
    /// nobody has held it exclusively since: it is as it was left (`BUF-GLANCE`). Waits for nothing.
    ///
    /// # Errors
    /// `Poisoned`.
    #[inline]
    pub fn try_exclusive_again(&self, seen: &LastSeen) -> Result<Option<ExclusivePage<'_>>> {
        self.check()?;
        let whatever = mutants::is(Mutant::FingerVersionIgnored);
        let guard = match whatever {
            false => self.region.try_write_at(seen.frame, seen.version),
            true => self.region.try_write(seen.frame),
        };
        let Some(guard) = guard else { return Ok(None) };
        debug_assert!(guard.desc().holds(seen.page) || whatever, "BUF-GLANCE");
        guard.desc().touch();
        self.hits.add(1);
        self.trace.emit(|| Event::PageFix { page: seen.page, exclusive: true });
        Ok(Some(self.exclusive_page(guard, seen.page)))
    }

    fn try_write_latch(&self, id: PageId) -> std::result::Result<WriteGuard<'_, Frame>, Stop> {
        self.check()?;
        while let Entry::Resident(frame) = self.xlat.get(id) {
            let wanted = |f: &Frame| f.holds(id) && !self.is_own(id);
            let Some(guard) = self.region.write_while(frame, wanted) else {
                self.not_own(id)?;
                continue;
            };
            if guard.desc().holds(id) {
                guard.desc().touch();
                self.hits.add(1);
                self.check()?;
                self.trace.emit(|| Event::PageFix { page: id, exclusive: true });
                return Ok(guard);
            }
        }
        Err(Need::Page(id).into())
    }

    /// Whether this thread holds the page because it is making it.
    fn is_own(&self, id: PageId) -> bool {
        let own = (id, hamal_sync::thread::current().id());
        self.made.lock().contains(&own)
    }

    /// A page that this thread is making is no page that anything leads to, unless a space map is wrong.
    fn not_own(&self, id: PageId) -> Result<()> {
        if self.is_own(id) {
            let m = "a page that is in use was given away as free: a space map is wrong";
            return Err(Error::new(ErrorKind::PageCorrupt, m).with_page(id));
        }
        Ok(())
    }

    /// Brings the page into memory and keeps it there until the pin is dropped. The caller holds no latch.
    ///
    /// # Errors
    /// As [`Pool::shared`].
    pub fn fetch(&self, id: PageId) -> Result<Pin<'_>> {
        self.fetch_within(id, u32::MAX)?.ok_or_else(|| Error::internal("BUF-FRAMES: patience without end"))
    }

    /// As [`Pool::fetch`], but `None` if no frame can be had soon. Who holds pins asks in this way: two who wait for each
    /// other's frames would wait in vain. It lets its pins go, takes a [`Pool::frame_turn`] and begins again (`BUF-FRAMES`).
    ///
    /// # Errors
    /// As [`Pool::shared`].
    pub fn fetch_soon(&self, id: PageId) -> Result<Option<Pin<'_>>> {
        self.fetch_within(id, SOON)
    }

    /// Waits until nobody else has the turn. Who has it may hold pins while it waits for frames, as the only one. Taken with no
    /// latch and no pin held.
    pub fn frame_turn(&self) -> FrameTurn<'_> {
        FrameTurn { _turn: self.frame_turn.lock() }
    }

    fn fetch_within(&self, id: PageId, tries: u32) -> Result<Option<Pin<'_>>> {
        loop {
            self.check()?;
            match self.xlat.get(id) {
                Entry::Resident(frame) | Entry::Loading(frame) => {
                    // The reader of a page that is being read holds its exclusive latch: this waits for the read.
                    let guard = self.region.read(frame);
                    if guard.desc().holds(id) {
                        guard.desc().pin();
                        return Ok(Some(Pin { pool: self, frame, id }));
                    }
                }
                Entry::Absent => {
                    if id.0 >= self.file_pages() {
                        return Err(self.corrupt(id, "the page lies beyond the end of the data file"));
                    }
                    let Some(frame) = self.take_frame_within(tries)? else { return Ok(None) };
                    if let Some((guard, repaired)) = self.load_into(id, frame)? {
                        guard.desc().pin();
                        let pin = Pin { pool: self, frame: guard.frame(), id };
                        drop(guard);
                        if repaired {
                            self.settle_repair(id);
                        }
                        return Ok(Some(pin));
                    }
                }
            }
        }
    }

    /// A frame for a page that is about to be made anew, exclusively latched; nothing is read. The caller holds no latch
    /// (frames come before latches), and owns the page id (nobody else can reach it). If the guard is dropped without
    /// an initialisation, the frame is given up. The data file grows to hold the page, if it does not yet. A write of the
    /// page's former content that is under way is waited for: the page is not in flight, and stays so while it is held.
    ///
    /// # Errors
    /// `Limit` if no frame can be had; `NoSpace` if the file had to grow and cannot; `Poisoned`.
    pub fn create(&self, id: PageId) -> Result<ExclusivePage<'_>> {
        self.grow_to(id.0.saturating_add(1))?;
        loop {
            let guard = self.bind_blank(id)?;
            if !guard.desc().in_flight() {
                return Ok(ExclusivePage {
                    pool: self,
                    guard,
                    id,
                    fresh: true,
                    made: Some(Made::new(self, id)),
                    unwinding: panicking(),
                    changing: false,
                    marked: (Mark::None, false),
                });
            }
            // The page was freed while it was being written. Whoever makes a page may ask for more while holding it, and
            // wait for the cleaner; the cleaner, to end that write, would wait for the page (BUF-ORDER). So the write is
            // waited for now.
            drop(guard);
            drop(self.cleaner.lock());
        }
    }

    /// The frame of `id` under the exclusive latch: the one that has it (an old incarnation, perhaps in flight: never a
    /// second frame for one page id, `BUF-XLAT`), else a new one, zeroed.
    pub(crate) fn bind_blank(&self, id: PageId) -> Result<WriteGuard<'_, Frame>> {
        self.bind_new(id, usize::MAX)
    }

    /// [`Pool::bind_blank`], of which only so many bytes must be zero.
    pub(crate) fn bind_new(&self, id: PageId, zeroes: usize) -> Result<WriteGuard<'_, Frame>> {
        loop {
            self.check()?;
            if let Entry::Resident(frame) | Entry::Loading(frame) = self.xlat.get(id) {
                let guard = self.region.write(frame);
                if guard.desc().holds(id) {
                    return Ok(guard);
                }
                continue;
            }
            let mut guard = self.take_frame()?;
            if !self.claim(id, &guard)? {
                continue;
            }
            let bytes = guard.bytes_mut();
            let zeroes = zeroes.min(bytes.len());
            bytes[..zeroes].fill(0);
            guard.desc().bind(id, Lsn::NULL);
            self.xlat.ready(id, guard.frame());
            self.counters.resident.fetch_add(1, Relaxed);
            return Ok(guard);
        }
    }

    /// Claims the page's translation word for a frame; if that fails the frame goes back to the free ones.
    pub(crate) fn claim(&self, id: PageId, guard: &WriteGuard<'_, Frame>) -> Result<bool> {
        let claimed = self.xlat.claim(id, guard.frame());
        if !matches!(claimed, Ok(true)) {
            self.free.lock().push(guard.frame());
        }
        claimed
    }

    /// Reads the page into a frame (latched, bound to nothing), or else rebuilds it from the log; `None` if another thread was
    /// faster. On success the exclusive latch is held; also says whether the page was rebuilt, and so is dirty.
    fn load_into<'p>(
        &'p self,
        id: PageId,
        mut guard: WriteGuard<'p, Frame>,
    ) -> Result<Option<(WriteGuard<'p, Frame>, bool)>> {
        if !self.claim(id, &guard)? {
            return Ok(None);
        }
        self.counters.misses.fetch_add(1, Relaxed);
        let read = match self.read_page(id, guard.bytes_mut()) {
            Ok(()) => {
                guard.desc().bind(id, header::img_lsn(&guard));
                Ok(false)
            }
            Err(e) if repairable(&e) => self.repair(id, &mut guard, e).map(|()| true),
            Err(e) => Err(e),
        };
        match read {
            Ok(repaired) => {
                self.loaded(id, &guard);
                Ok(Some((guard, repaired)))
            }
            Err(e) => {
                self.unclaim(id, &guard);
                Err(e)
            }
        }
    }

    /// The page has been read into its frame, which is bound to it.
    fn loaded(&self, id: PageId, guard: &WriteGuard<'_, Frame>) {
        self.xlat.ready(id, guard.frame());
        self.counters.resident.fetch_add(1, Relaxed);
        self.trace.emit(|| Event::PageRead { page: id, page_lsn: header::page_lsn(guard) });
    }

    /// Gives a claimed frame back. Those who wait for its latch find a frame without a page, and try for themselves.
    pub(crate) fn unclaim(&self, id: PageId, guard: &WriteGuard<'_, Frame>) {
        self.xlat.clear(id);
        self.free.lock().push(guard.frame());
    }

    /// Puts the bytes of the page, as they were read into a claimed frame's stead, into that frame; `false`, and the frame is as it
    /// was, if they are not what the disk must hold.
    pub(crate) fn install(&self, id: PageId, guard: &mut WriteGuard<'_, Frame>, bytes: &[u8]) -> bool {
        if self.verify_read(id, bytes).is_err() {
            return false;
        }
        guard.bytes_mut().copy_from_slice(bytes);
        guard.desc().bind(id, header::img_lsn(guard));
        self.counters.misses.fetch_add(1, Relaxed);
        self.loaded(id, guard);
        true
    }

    /// Reads and verifies a page (`BUF-VERIFY`: no unverified byte reaches a caller).
    fn read_page(&self, id: PageId, into: &mut [u8]) -> Result<()> {
        let offset = self.offset(id);
        let got = self.data.read_at(offset, into).map_err(|e| {
            Error::io("reading a page", e)
                .with_kind(ErrorKind::PageUnreadable)
                .with_page(id)
                .with_file(DATA)
                .with_offset(offset)
                .with_help(
                    "The device cannot read this page: restore a backup; other pages can still be read",
                )
        })?;
        if got != into.len() {
            return Err(self.corrupt(id, "the page lies beyond the end of the data file"));
        }
        self.verify_read(id, into)
    }

    /// Whether what was read is the page, whole, no newer than the log, and the version that the disk must hold.
    fn verify_read(&self, id: PageId, into: &[u8]) -> Result<()> {
        let offset = self.offset(id);
        hamal_page::verify(into, self.log.identity().db, id).map_err(|fault| {
            let what = match fault {
                PageFault::Zero => "the page was never written, or a device lost it".to_owned(),
                PageFault::Checksum { found, expected } => {
                    format!("the page's checksum is {found:#010x} and its bytes have {expected:#010x}")
                }
                PageFault::WrongPage { found } => format!("the place of the page holds page {found}"),
            };
            self.corrupt(id, &what)
        })?;
        // An image is durable before the page is written, so imgLSN proves as much as pageLSN does (T7).
        let lsn = header::page_lsn(into).max(header::img_lsn(into));
        if lsn >= self.log.tail() && !mutants::is(Mutant::LogBehindUnnoticed) {
            let m = format!("the page has seen LSN {lsn} and the log ends at {}", self.log.tail());
            return Err(Error::new(ErrorKind::LogBehindPages, m)
                .with_page(id)
                .with_lsn(lsn)
                .with_file(DATA)
                .with_offset(offset)
                .with_help(
                    "The log was lost or replaced, or a device lost synced writes: restore a backup",
                ));
        }
        self.check_version(id, header::page_lsn(into))
    }

    /// VER-3: what was read is the version that the disk must hold, as far as that is known.
    fn check_version(&self, id: PageId, found: Lsn) -> Result<()> {
        let known = self.versions.get(id);
        if known == 0 {
            // From now on it is: the page on disk changes by our writes only.
            self.versions.set(id, found);
        } else if known != version_tag(found) {
            return Err(self.stale(id, found, "another version was written there last"));
        }
        Ok(())
    }

    pub(crate) fn stale(&self, id: PageId, found: Lsn, what: &str) -> Error {
        Error::new(ErrorKind::StalePage, format!("the page's pageLSN is {found}, but {what}"))
            .with_page(id)
            .with_lsn(found)
            .with_file(DATA)
            .with_offset(self.offset(id))
            .with_help("A device lost or misplaced a write, or the file is a copy of another moment: restore a backup")
    }

    fn corrupt(&self, id: PageId, what: &str) -> Error {
        Error::new(ErrorKind::PageCorrupt, what).with_page(id).with_file(DATA).with_offset(self.offset(id))
    }

    /// A frame bound to nothing, exclusively latched. The caller holds no latch: this may write pages to find one.
    pub(crate) fn take_frame(&self) -> Result<WriteGuard<'_, Frame>> {
        let frame = self.take_frame_within(u32::MAX)?;
        frame.ok_or_else(|| Error::internal("BUF-FRAMES: patience without end"))
    }

    /// The same; `None` if so many tries in a row were in vain.
    fn take_frame_within(&self, tries: u32) -> Result<Option<WriteGuard<'_, Frame>>> {
        let mut patience = Patience::new();
        loop {
            self.check()?;
            let free = self.free.lock().pop();
            if let Some(frame) = free {
                // At most a thread that followed an old translation holds the latch, for a moment.
                return Ok(Some(self.region.write(frame)));
            }
            if let Some(guard) = self.evict() {
                return Ok(Some(guard));
            }
            // Readers take only clean frames: write some back, or let who is doing it finish.
            if self.dirty.load(SeqCst) != 0 && self.clean_or_wait(WriteReason::Evict)? {
                patience.reset();
                continue;
            }
            if patience.beyond(tries) {
                return Ok(None);
            }
            patience.wait(
                "no frame is free: all pages in memory are latched, pinned or cannot be written",
                "Configure more frames, or keep fewer pages pinned at once",
            )?;
        }
    }

    /// A frame bound to nothing, exclusively latched, if there is one to be had without waiting for anybody.
    pub(crate) fn frame_at_once(&self) -> Result<Option<WriteGuard<'_, Frame>>> {
        self.check()?;
        let free = self.free.lock().pop();
        let Some(frame) = free else { return Ok(self.evict()) };
        let guard = self.region.try_write(frame);
        if guard.is_none() {
            self.free.lock().push(frame);
        }
        Ok(guard)
    }

    /// The clock: takes a clean, unpinned page that has not been used since the hand passed last out of its frame.
    fn evict(&self) -> Option<WriteGuard<'_, Frame>> {
        let frames = self.region.len() as u64;
        // Two rounds: the first may only have cooled the pages.
        for _ in 0..2 * frames + 1 {
            let at = (self.hand.fetch_add(1, Relaxed) % frames) as u32;
            let f = self.region.desc(at);
            if !f.evictable() || f.cool() {
                continue;
            }
            let Some(guard) = self.region.try_write(at) else { continue };
            // Look again under the latch: pins are raised and pages dirtied only under it (BUF-EVICT).
            if !f.evictable() {
                continue;
            }
            if let Some(page) = f.page() {
                self.release(&guard, page);
                self.counters.evictions.fetch_add(1, Relaxed);
                self.trace.emit(|| Event::PageEvict { page });
            }
            return Some(guard);
        }
        None
    }

    /// Unbinds a clean frame; the caller keeps it latched and owns it.
    pub(crate) fn release(&self, guard: &WriteGuard<'_, Frame>, page: PageId) {
        let f = guard.desc();
        debug_assert!(!f.is_dirty() && !f.in_flight() && !f.pinned(), "BUF-EVICT");
        f.unbind();
        self.region.rouse(guard.frame());
        self.settle(f);
        self.xlat.clear(page);
        self.counters.resident.fetch_sub(1, Relaxed);
    }

    /// Unbinds a clean frame and puts it among the free ones. Exclusive latch; not pinned, not in flight.
    pub(crate) fn unbind(&self, guard: &WriteGuard<'_, Frame>) {
        if let Some(page) = guard.desc().page() {
            self.release(guard, page);
            self.free.lock().push(guard.frame());
        }
    }
}
