//! The free-space manager: finding, reserving and counting pages.
use crate::manager::KIND_MAP;
use crate::{
    OP_CLEAR, OP_GIVE_UP, OP_INIT, OP_MAPS, OP_MOVE, OP_SET, Reservation, SPACE_RM, bits, map_of,
    pages_per_map,
};
use hamal_buffer::{ExclusivePage, PageEdit, Pin, Pool, Stop};
use hamal_error::{Error, ErrorKind, Result};
use hamal_log::Whole;
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{Lsn, PageId, header};
use hamal_sync::Mutex;
use hamal_trace::ForceReason;
use hamal_txn::TxnManager;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// Log bytes of a map record beside its payload, generously.
const RECORD_OVERHEAD: u64 = 256;
/// How often a cut is tried while others are in its way for a moment.
const CUTS: usize = 3;

/// The free-space manager of an open database.
///
/// Order of its locks: `search`, then the latch of a map page, then `state`. `search` is taken only by
/// callers without a latch; `state` is held for a few instructions and nothing is waited for under it, so
/// callers that hold latches may take it.
pub struct Space {
    txns: Arc<TxnManager>,
    /// Held by the one thread that looks for free pages, grows or cuts the file, makes a map page or gives one up, and by who
    /// reads a map page that need not be there for ever (SPACE-6).
    search: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// One entry for each map page: no bit below it is both clear and unreserved (SPACE-3). Empty before the
    /// number of map pages was read.
    hints: Vec<u32>,
    /// Pages that a change not logged yet is going to allocate.
    reserved: BTreeSet<PageId>,
}

/// What stands in a map page's place must be one: a page that is whole may still be another manager's.
fn check_map(id: PageId, page: &[u8]) -> Result<()> {
    if header::rm(page) != SPACE_RM || header::kind(page) != KIND_MAP {
        let what = format!("a space map was expected, found manager {}", header::rm(page));
        return Err(Error::new(ErrorKind::PageCorrupt, what).with_page(id));
    }
    Ok(())
}

impl fmt::Debug for Space {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Space").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Space {
    /// Over a pool whose file holds (or will hold) a database. Reads nothing yet.
    pub fn new(txns: Arc<TxnManager>) -> Space {
        Space { txns, search: Mutex::new(()), state: Mutex::new(State::default()) }
    }

    fn pool(&self) -> &Pool {
        self.txns.pool()
    }

    /// Logs the first map page of a new database, with the bits of `first` pages set (at least the map page's
    /// own).
    ///
    /// # Errors
    /// As a logged change; `InvalidArgument` if one map page cannot speak of `first` pages.
    pub fn bootstrap(&self, first: u32) -> Result<()> {
        let first = first.max(1);
        if u64::from(first) > pages_per_map(self.pool().page_size()) {
            return Err(Error::new(ErrorKind::InvalidArgument, format!("{first} pages to begin with")));
        }
        let _search = self.search.lock();
        let set: Vec<u32> = (0..first).collect();
        self.pool().grow_to(u64::from(first))?;
        let payload = init_payload(&set);
        let mut credit = self.pool().credit(payload.len() as u64 + RECORD_OVERHEAD, 0, 1, false)?;
        let mut page = self.pool().create(PageId(0))?;
        let edit = PageEdit { page: &mut page, op: OP_INIT, whole: Whole::Init, payload: &payload };
        self.txns.structure(None, SPACE_RM, &mut [edit], &mut credit)?;
        self.state.lock().hints = vec![first];
        Ok(())
    }

    /// Reserves `n` pages, lowest first; grows the file and makes map pages if need be. The caller holds no
    /// latch, and better no credit either: making a map page takes credit of its own.
    ///
    /// # Errors
    /// `NoSpace` (not sticky, nothing stays reserved), `Poisoned`, `LogFull`; as a page read.
    pub fn reserve(&self, n: usize) -> Result<Reservation<'_>> {
        let mut got = Reservation { space: self, pages: Vec::with_capacity(n), pins: Vec::new() };
        if n == 0 {
            return Ok(got);
        }
        let _search = self.search.lock();
        let mut map = 0;
        while got.pages.len() < n {
            if map == self.map_pages()? {
                self.make_map(map)?;
            }
            self.search_map(map, n, &mut got)?;
            map += 1;
        }
        if let Some(last) = got.pages.last() {
            self.pool().grow_to(last.0 + 1)?;
        }
        Ok(got)
    }

    /// Reserves free pages of one map page until `n` are there; pins the map page if it gave any.
    fn search_map<'s>(&'s self, map: u64, n: usize, got: &mut Reservation<'s>) -> Result<()> {
        let (i, first) = (map as usize, self.map_id(map));
        if self.state.lock().hints.get(i).is_some_and(|h| *h >= self.per_map() as u32) {
            return Ok(());
        }
        let pin = self.pool().fetch(first)?;
        // Bits and reservations are looked at in one section (SPACE-1): whoever reserved a page sets its bit
        // under the exclusive latch and only then gives the reservation up.
        let page = self.map_page(first)?;
        let mut state = self.state.lock();
        let mut from = state.hints.get(i).copied().unwrap_or(0);
        let before = got.pages.len();
        while got.pages.len() < n {
            let Some(bit) = bits::next_clear(&page, from) else {
                from = bits::len(&page);
                break;
            };
            let id = PageId(first.0 + u64::from(bit));
            if state.reserved.insert(id) || mutants::is(Mutant::PageReservedTwice) {
                got.pages.push(id);
            }
            from = bit + 1;
        }
        if let Some(h) = state.hints.get_mut(i) {
            *h = from;
        }
        drop(state);
        drop(page);
        if got.pages.len() > before {
            got.pins.push(pin);
        }
        Ok(())
    }

    /// Logs map page number `map`, the next one: its own bit set, and counted in map page 0. Under `search`.
    fn make_map(&self, map: u64) -> Result<()> {
        let id = self.map_id(map);
        self.pool().grow_to(id.0 + 1)?;
        let (init, count) = (init_payload(&[0]), (map + 1).to_le_bytes());
        let _pin = self.pool().fetch(PageId(0))?;
        let mut credit =
            self.pool().credit((init.len() + count.len()) as u64 + RECORD_OVERHEAD, 0, 2, false)?;
        // Nobody else can reach the new page, so its latch comes first without harm.
        let mut page = self.pool().create(id)?;
        let mut zero = self.latch_pinned(PageId(0))?;
        let mut edits = [
            PageEdit { page: &mut page, op: OP_INIT, whole: Whole::Init, payload: &init },
            PageEdit { page: &mut zero, op: OP_MAPS, whole: Whole::No, payload: &count },
        ];
        self.txns.structure(None, SPACE_RM, &mut edits, &mut credit)?;
        // Before the latch of map page 0 is released, so that nobody reads the old number and stores it over
        // this one.
        self.state.lock().hints.push(1);
        Ok(())
    }

    /// Gives the last map page up, which speaks of free pages only: it is freed, and map page 0 counts one less (SPACE-6). Under
    /// `search`, with nothing reserved there.
    fn give_up_map(&self) -> Result<()> {
        // Behind the record there must be room for what a close ends with: the image of map page 0, two checkpoints. Where there
        // is none, the map page does less harm than its record.
        let log = self.txns.log();
        let room = 2 * self.pool().image_bytes() + 8 * log.options().pad as u64;
        log.reserve(room, false)?;
        let done = self.log_give_up();
        log.give_back(room);
        done
    }

    fn log_give_up(&self) -> Result<()> {
        let left = self.map_pages()? - 1;
        let (id, count) = (self.map_id(left), left.to_le_bytes());
        let _pins = [self.pool().fetch(PageId(0))?, self.pool().fetch(id)?];
        let mut credit = self.pool().credit(count.len() as u64 + 2 * RECORD_OVERHEAD, 0, 1, false)?;
        let mut zero = self.latch_pinned(PageId(0))?;
        let mut page = self.latch_pinned(id)?;
        check_map(id, &page)?;
        if left == 0 || bits::last_set(&page) != Some(0) {
            let m = "SPACE-6: a map page that is given up speaks of allocated pages";
            return Err(Error::internal(m).with_page(id));
        }
        let mut edits = vec![
            PageEdit { page: &mut page, op: OP_GIVE_UP, whole: Whole::Free, payload: &[] },
            PageEdit { page: &mut zero, op: OP_MAPS, whole: Whole::No, payload: &count },
        ];
        let rest = mutants::is(Mutant::MapGivenUpInTwo).then(|| edits.pop());
        self.txns.structure(None, SPACE_RM, &mut edits, &mut credit)?;
        if let Some(rest) = rest.flatten() {
            let log = self.txns.log();
            log.force(log.tail(), ForceReason::Asked)?;
            self.txns.structure(None, SPACE_RM, &mut [rest], &mut credit)?;
        }
        // Before the latch of map page 0 is released, as in `make_map`.
        self.state.lock().hints.pop();
        Ok(())
    }

    /// The exclusive latch of a map page that the caller has pinned.
    fn latch_pinned(&self, id: PageId) -> Result<ExclusivePage<'_>> {
        self.pool().try_exclusive(id).map_err(|stop| match stop {
            Stop::Error(e) => e,
            Stop::Need(need) => Error::internal(format!("SPACE: a pinned map page needs {need:?}")),
        })
    }

    /// Pins the map pages of `pages`, so that they can be latched in a section that frees these pages.
    ///
    /// # Errors
    /// As a page read.
    pub fn pin_maps(&self, pages: &[PageId]) -> Result<Vec<Pin<'_>>> {
        let maps: BTreeSet<PageId> = pages.iter().map(|p| map_of(*p, self.pool().page_size()).0).collect();
        maps.into_iter().map(|m| self.pool().fetch(m)).collect()
    }

    /// Latches the map pages of `pages`, ascending, last of all latches; returns each guard with the payload
    /// (bit numbers) for [`OP_SET`](crate::OP_SET) or [`OP_CLEAR`](crate::OP_CLEAR).
    ///
    /// # Errors
    /// `Need::Page` if one is not in memory.
    pub fn latch_maps(
        &self,
        pages: &[PageId],
    ) -> std::result::Result<Vec<(ExclusivePage<'_>, Vec<u8>)>, Stop> {
        let mut maps: BTreeMap<PageId, BTreeSet<u32>> = BTreeMap::new();
        for p in pages {
            let (map, bit) = map_of(*p, self.pool().page_size());
            if !maps.entry(map).or_default().insert(bit) || bit == 0 {
                return Err(Error::internal(format!("SPACE-1: page {p} named twice, or a map page")).into());
            }
        }
        let mut out = Vec::with_capacity(maps.len());
        for (map, bits) in maps {
            let page = self.pool().try_exclusive(map)?;
            check_map(map, &page)?;
            out.push((page, bits.iter().flat_map(|b| b.to_le_bytes()).collect()));
        }
        Ok(out)
    }

    /// Latches the map pages of a page that is freed and of one that is allocated by the same record, last of all latches;
    /// returns each guard with operation and payload.
    ///
    /// # Errors
    /// `Need::Page` if one is not in memory.
    pub fn latch_move(
        &self,
        from: PageId,
        to: PageId,
    ) -> std::result::Result<Vec<(ExclusivePage<'_>, u8, Vec<u8>)>, Stop> {
        let size = self.pool().page_size();
        let ((map, cleared), (other, set)) = (map_of(from, size), map_of(to, size));
        let mut maps = self.latch_maps(&[from, to])?;
        if map == other {
            let payload = [cleared, set].iter().flat_map(|b| b.to_le_bytes()).collect();
            return Ok(maps.pop().map(|(page, _)| (page, OP_MOVE, payload)).into_iter().collect());
        }
        let op = |page: &ExclusivePage<'_>| if page.id() == map { OP_CLEAR } else { OP_SET };
        Ok(maps.into_iter().map(|(page, bits)| (op(&page), page, bits)).map(|(o, p, b)| (p, o, b)).collect())
    }

    /// Says that these pages were freed by a logged record: they can be reserved at once. Latches may be
    /// held.
    pub fn freed(&self, pages: &[PageId]) {
        let mut state = self.state.lock();
        for p in pages {
            self.lower_hint(&mut state, *p);
        }
    }

    /// These reserved pages have their bits set now.
    pub(crate) fn settle(&self, pages: &[PageId]) {
        let mut state = self.state.lock();
        for p in pages {
            state.reserved.remove(p);
        }
    }

    /// These reserved pages are free again.
    pub(crate) fn give_back(&self, pages: &[PageId]) {
        if pages.is_empty() {
            return;
        }
        let mut state = self.state.lock();
        for p in pages {
            state.reserved.remove(p);
            self.lower_hint(&mut state, *p);
        }
    }

    fn lower_hint(&self, state: &mut State, page: PageId) {
        let (map, bit) = map_of(page, self.pool().page_size());
        if let Some(h) = state.hints.get_mut((map.0 / self.per_map()) as usize) {
            *h = bit.min(*h);
        }
    }

    /// Whether the page's bit is set. Pages that no map page speaks of are not allocated. No latch held.
    ///
    /// # Errors
    /// As a page read.
    pub fn is_allocated(&self, page: PageId) -> Result<bool> {
        let (map, bit) = map_of(page, self.pool().page_size());
        let set = self.with_map(map.0 / self.per_map(), |page| bits::get(page, bit))?;
        Ok(set.unwrap_or(false))
    }

    /// Number of allocated pages (map pages included) and pages of the file. No latch held.
    ///
    /// # Errors
    /// As a page read.
    pub fn usage(&self) -> Result<(u64, u64)> {
        let (mut used, mut map) = (0, 0);
        while let Some(here) = self.with_map(map, bits::count)? {
            used += here;
            map += 1;
        }
        Ok((used, self.pool().file_pages()))
    }

    /// Calls `f` with every allocated page, ascending, no latch held.
    ///
    /// # Errors
    /// As a page read, or as `f`.
    pub fn each_allocated(&self, f: &mut dyn FnMut(PageId) -> Result<()>) -> Result<()> {
        let mut map = 0;
        while let Some(copy) = self.with_map(map, <[u8]>::to_vec)? {
            let first = self.map_id(map);
            let mut bit = bits::next_set(&copy, 0);
            while let Some(b) = bit {
                f(PageId(first.0 + u64::from(b)))?;
                bit = bits::next_set(&copy, b + 1);
            }
            map += 1;
        }
        Ok(())
    }

    /// What `f` says of map page number `map`; `None` if there are not so many. The last map page may be given up at any
    /// time, and then be no map page any more; not while somebody searches (SPACE-6).
    fn with_map<T>(&self, map: u64, f: impl FnOnce(&[u8]) -> T) -> Result<Option<T>> {
        let _search = self.search.lock();
        if map >= self.map_pages()? {
            return Ok(None);
        }
        Ok(Some(f(&self.map_page(self.map_id(map))?)))
    }

    /// The end of what the data file has to hold: behind it lie free pages, and map pages that speak of free pages only. The
    /// file can be cut there by [`Space::shrink`], which gives those up. No latch held.
    ///
    /// # Errors
    /// As a page read.
    pub fn high_water(&self) -> Result<PageId> {
        let _search = self.search.lock();
        self.end_of_use()
    }

    /// [`Space::high_water`], under `search`.
    fn end_of_use(&self) -> Result<PageId> {
        for map in (0..self.map_pages()?).rev() {
            let first = self.map_id(map);
            match bits::last_set(&self.map_page(first)?) {
                None | Some(0) if map > 0 => {}
                None => break,
                Some(bit) => return Ok(PageId(first.0 + u64::from(bit) + 1)),
            }
        }
        Ok(PageId(0))
    }

    /// Cuts the data file behind the last page that is allocated or reserved, with reservations held off
    /// meanwhile; others may read and write. Map pages at the end that speak of free pages only are given up before (SPACE-6). The
    /// records that free the pages are made durable first: then no recovery needs the pages (SPACE-5). No latch held. Returns the
    /// pages that the file has now; it stays as it
    /// is if somebody just has a page behind the end in use. Take a checkpoint afterwards: until then the control file
    /// says that the file is longer. `checked` is the newest checkpoint known, by its begin record, and where the log ended when it
    /// was over: if the log has gone on since, and no other checkpoint has begun, no record of its own has to announce the cut.
    ///
    /// # Errors
    /// As a logged change; a failed flush or cut poisons. If a map page could not be given up for want of log space the file was
    /// cut behind it.
    pub fn shrink(&self, checked: Option<(Lsn, Lsn)>) -> Result<u64> {
        let _search = self.search.lock();
        // Reservations first, then bits: a page leaves the one only after it has entered the other, and
        // `search` keeps new reservations away, so no page is missed in both.
        let reserved = self.state.lock().reserved.last().map_or(0, |p| p.0 + 1);
        let end = self.end_of_use()?.0.max(reserved);
        let given_up = self.give_up_maps(end);
        let end = end.max(self.map_id(self.map_pages()? - 1).0 + 1);
        if end < self.pool().file_pages() {
            // What lies behind the end now stays free: pages are only allocated from reservations.
            let log = self.txns.log();
            for turn in 0..CUTS {
                let announced = match checked {
                    _ if mutants::is(Mutant::CutUnannounced) => Lsn::MAX,
                    // Whether a newer one has begun counts, not where: `end` was read after the checkpoint, and the next one may
                    // have begun by then, and have asked for the length.
                    Some((begin, end)) if turn == 0 && log.tail() > end => begin,
                    _ => self.log_cut()?,
                };
                if !mutants::is(Mutant::FileCutEarly) {
                    log.force_quietly(log.tail(), ForceReason::Asked)?;
                }
                if self.pool().shrink_to(end, announced)? {
                    break;
                }
            }
        }
        given_up.map(|()| self.pool().file_pages())
    }

    /// Gives the map pages from `end` on up, behind which nothing is allocated or reserved. Under `search`.
    fn give_up_maps(&self, end: u64) -> Result<()> {
        while self.map_id(self.map_pages()? - 1).0 >= end.max(1) {
            self.give_up_map()?;
        }
        Ok(())
    }

    /// Logs a change of map page 0 that changes nothing: a log that goes on behind the last checkpoint says that the file may
    /// be shorter than that checkpoint knew (SPACE-5).
    fn log_cut(&self) -> Result<Lsn> {
        let _pin = self.pool().fetch(PageId(0))?;
        let mut credit = self.pool().credit(RECORD_OVERHEAD, 0, 1, false)?;
        let mut page = self.latch_pinned(PageId(0))?;
        let edit = PageEdit { page: &mut page, op: OP_SET, whole: Whole::No, payload: &[] };
        Ok(self.txns.structure(None, SPACE_RM, &mut [edit], &mut credit)?.lsn)
    }

    fn per_map(&self) -> u64 {
        pages_per_map(self.pool().page_size())
    }

    fn map_id(&self, map: u64) -> PageId {
        PageId(map * self.per_map())
    }

    /// Map page `id` under a shared latch, checked to be one.
    fn map_page(&self, id: PageId) -> Result<hamal_buffer::SharedPage<'_>> {
        let page = self.pool().shared(id)?;
        check_map(id, &page)?;
        Ok(page)
    }

    /// The number of map pages; read from map page 0 on first use (after redo, so that it is current).
    fn map_pages(&self) -> Result<u64> {
        let known = self.state.lock().hints.len();
        if known > 0 {
            return Ok(known as u64);
        }
        let page = self.map_page(PageId(0))?;
        let n = bits::map_pages(&page);
        // The file has room for a map page before there is one: anything else is no number that this code wrote, and no
        // memory is taken by it.
        if n == 0 || (n - 1).saturating_mul(self.per_map()) >= self.pool().file_pages() {
            let what = format!("map page 0 counts {n} map pages");
            return Err(Error::new(ErrorKind::PageCorrupt, what).with_page(PageId(0)));
        }
        let mut state = self.state.lock();
        if state.hints.is_empty() {
            state.hints = vec![1; n as usize];
        }
        Ok(state.hints.len() as u64)
    }
}

/// The payload of an initialisation: manager, kind, tree, bits.
fn init_payload(set: &[u32]) -> Vec<u8> {
    let mut p = vec![SPACE_RM.0, KIND_MAP, 0, 0, 0, 0];
    p.extend(set.iter().flat_map(|b| b.to_le_bytes()));
    p
}
