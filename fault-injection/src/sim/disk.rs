//! The simulated disk itself: what an engine reads and writes.
//!
//! It holds what is there *now*, and a record of what was done and answered. What a crash may leave is worked out from the
//! record when somebody asks ([`SimDisk::image`]). After a boot, what the power failure left undecided is asked of the
//! [`Fates`] when a call first depends on it, and the answer is written into what is there now.
use super::content::{SECTOR, SECTORS, hash, mix};
use super::door::SimFile;
use super::faults::{Plan, flip};
use super::image::Image;
use super::live::LiveFile;
use super::names;
use super::state::{Change, Cursor, Effect, Entry, Names, PendingChange, State, site};
use super::{
    Act, Asked, Durable, Fates, FileId, IoEvent, IoFault, Persistence, Question, Site, Watch, Wrong,
};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A disk in memory on which every change is remembered, so that it can be crashed at every point of its past. Clones are the
/// same disk, used by the same process; [`another_process`](SimDisk::another_process) uses it too.
#[derive(Clone)]
pub struct SimDisk {
    inner: Arc<Mutex<Inner>>,
    /// Whether the process is dead, and with it every handle of its.
    dead: Arc<AtomicBool>,
}

pub(super) struct Inner {
    origin: Arc<State>,
    pub(super) names: Arc<Names>,
    /// By [`FileId`].
    pub(super) files: Vec<Option<LiveFile>>,
    fates: Option<Box<dyn Fates>>,
    record: Vec<Entry>,
    /// Where in the record the changes stand.
    changes: Vec<usize>,
    asked: Vec<Asked>,
    /// Of everything that is not in the record.
    reads: u64,
    traffic: (u64, u64),
    plan: Option<Plan>,
    capacity: Option<u64>,
    /// Calls that the engine may still make, and 4 KiB that they may transfer.
    budget: u64,
    pub(super) locks: BTreeSet<Arc<str>>,
    watch: Option<Box<dyn Watch>>,
    view: Option<Cursor>,
    objections: Vec<String>,
    /// Where [`SimDisk::image`] is.
    cursor: Option<Cursor>,
    /// Whether the process that opened the disk last is dead.
    process: Arc<AtomicBool>,
}

fn gone() -> io::Error {
    io::Error::other("the file is gone")
}

impl Inner {
    fn new(origin: State, fates: Option<Box<dyn Fates>>) -> Inner {
        Inner {
            names: origin.names.clone(),
            files: origin.files.iter().map(|f| f.as_ref().map(LiveFile::of)).collect(),
            origin: Arc::new(origin),
            fates,
            record: Vec::new(),
            changes: Vec::new(),
            asked: Vec::new(),
            reads: 0,
            traffic: (0, 0),
            plan: None,
            capacity: None,
            budget: u64::MAX,
            locks: BTreeSet::new(),
            watch: None,
            view: None,
            objections: Vec::new(),
            cursor: None,
            process: Arc::default(),
        }
    }

    /// Remembers, for the history's hash, something that is not in the record.
    pub(super) fn note(&mut self, what: u64) {
        self.reads = mix(mix(self.reads, what), self.record.len() as u64);
    }

    pub(super) fn strike(&mut self, site: Site) -> Option<Wrong> {
        let wrong = self.plan.as_mut()?.strike(site);
        if wrong == Some(Wrong::Dies) {
            self.process.store(true, Relaxed);
        }
        wrong
    }

    /// Fails a call for which nothing but an error can go wrong.
    pub(super) fn pass(&mut self, site: Site) -> io::Result<()> {
        match self.strike(site) {
            Some(Wrong::Eio | Wrong::Dies) => Err(names::eio()),
            Some(Wrong::NoSpace) => Err(names::no_space()),
            _ => Ok(()),
        }
    }

    // Questions.

    fn ask(&mut self, question: Question, options: u8) -> u8 {
        let answer = self.fates.as_mut().map_or(0, |f| f.decide(question, options)).min(options - 1);
        let asked = Asked { question, options, answer };
        self.asked.push(asked);
        self.record.push(Entry::Answer(asked));
        answer
    }

    fn live(&mut self, id: FileId) -> io::Result<&mut LiveFile> {
        self.files.get_mut(id as usize).and_then(Option::as_mut).ok_or_else(gone)
    }

    /// The length; asks for it if need be.
    pub(super) fn length(&mut self, id: FileId) -> io::Result<u64> {
        let file = self.live(id)?;
        let Some(open) = file.undecided_length() else { return Ok(file.len) };
        let options = open.state.lengths().len() as u8;
        let answer = usize::from(self.ask(Question::Length { file: id }, options));
        let file = self.live(id)?;
        if let Some(open) = &mut file.open {
            let before = open.state.shrinks();
            let state = Arc::make_mut(&mut open.state);
            let (cut, len) = (state.base_cut(answer), state.lengths()[answer].len);
            state.decide_length(answer);
            open.length = false;
            file.len = len;
            // Where no length shrank, what was decided or written meanwhile is shorter than every candidate.
            file.now.cut(if before { cut } else { len });
            file.close(len.div_ceil(SECTOR)..u64::MAX);
            file.close_if_decided();
        }
        Ok(file.len)
    }

    /// Asks for the length if a transfer up to `end` depends on it.
    fn ask_length(&mut self, id: FileId, end: u64) -> io::Result<()> {
        let file = self.live(id)?;
        if file.undecided_length().is_some_and(|o| o.state.shrinks() || end > o.state.shortest()) {
            self.length(id)?;
        }
        Ok(())
    }

    fn ask_sector(&mut self, id: FileId, sector: u64) -> io::Result<()> {
        let model = self.origin.model;
        let Some(open) = &self.live(id)?.open else { return Ok(()) };
        let sector = open.state.asked_for(sector);
        let options = open.state.options(sector, model);
        let answer = self.ask(Question::Sector { file: id, sector }, options);
        let file = self.live(id)?;
        let Some(open) = &file.open else { return Ok(()) };
        // Those of a page that was written as a whole; what is not undecided any longer was overwritten meanwhile.
        let together = match open.state.is_atomic() {
            true => sector..sector + SECTORS,
            false => sector..sector + 1,
        };
        for sector in together.clone().filter(|s| open.is_undecided(*s)) {
            let bytes = open.state.chosen(id, sector, answer);
            file.now.write(sector * SECTOR, &bytes);
        }
        if !open.length && together.end * SECTOR > file.len {
            file.now.cut(file.len);
        }
        file.close(together);
        Ok(())
    }

    /// Asks for the undecided sectors that overlap these bytes.
    fn ask_sectors(&mut self, id: FileId, bytes: Range<u64>) -> io::Result<()> {
        while let Some(sector) = self.live(id)?.undecided(&bytes) {
            self.ask_sector(id, sector)?;
        }
        Ok(())
    }

    /// Asks what is undecided about a directory: whether it exists, and the names in it.
    pub(super) fn ask_dir(&mut self, dir: &str) {
        if self.names.pending.is_empty() {
            return;
        }
        loop {
            let concerns = |p: &&PendingChange| match &p.change {
                Change::MakeDir { name } if **name == *dir => true,
                change => change.dir() == dir,
            };
            // The directory's own name first: without it there are no others.
            let of_itself = |p: &&PendingChange| !dir.is_empty() && p.change.touches(dir);
            let pending = &self.names.pending;
            let Some(p) = pending.iter().find(of_itself).or_else(|| pending.iter().find(concerns)) else {
                return;
            };
            let change = p.number;
            let answer = self.ask(Question::Name { change }, 2);
            Arc::make_mut(&mut self.names).decide(change, answer != 0);
        }
    }

    pub(super) fn check_dir(&mut self, dir: &str) -> io::Result<()> {
        self.ask_dir(dir);
        if dir.is_empty() || self.names.dirs.contains(dir) { Ok(()) } else { Err(names::not_found(dir)) }
    }

    // Changes.

    /// Shows the watch what is going to be done, and writes it down.
    pub(super) fn change(&mut self, event: IoEvent, data: &[u8], effect: Effect) {
        if let Some(mut watch) = self.watch.take() {
            let objection = watch.before(&event, data, &self.durable());
            self.objections.extend(objection);
            self.watch = Some(watch);
        }
        self.changes.push(self.record.len());
        self.record.push(Entry::Change(event, effect));
    }

    /// What is durable, up to date.
    fn durable(&mut self) -> Durable<'_> {
        let view = self.view.get_or_insert_with(|| Cursor::new(&self.origin));
        view.advance(&self.record, self.record.len());
        Durable { state: &view.state, now: &self.names }
    }

    pub(super) fn change_names(&mut self, act: Act, name: &Arc<str>, changes: Vec<Change>) {
        let event = IoEvent { site: site(name, act), file: 0, name: name.clone(), range: 0..0 };
        self.change(event, &[], Effect::Names(changes.clone()));
        let names = Arc::make_mut(&mut self.names);
        for change in &changes {
            names.apply(change);
        }
    }

    /// Fails if a file must not grow to `len`.
    fn charge(&mut self, id: FileId, len: u64) -> io::Result<()> {
        let Some(capacity) = self.capacity else { return Ok(()) };
        let mut named: Vec<FileId> = self.names.files.values().copied().collect();
        named.sort_unstable();
        named.dedup();
        // A file without a name takes no space.
        if named.binary_search(&id).is_err() || self.live(id)?.len >= len {
            return Ok(());
        }
        let others = named.iter().filter(|f| **f != id).filter_map(|f| self.files.get(*f as usize)?.as_ref());
        let used: u64 = others.map(|f| f.len).sum();
        if used.saturating_add(len) > capacity { Err(names::no_space()) } else { Ok(()) }
    }

    pub(super) fn read(
        &mut self,
        file: &SimFile,
        offset: u64,
        buf: &mut [u8],
        again: &mut bool,
    ) -> io::Result<usize> {
        let (mut at, mut most, mut flipped) = (offset, buf.len(), None);
        match self.strike(Site { role: file.role, act: Act::Read }) {
            Some(Wrong::Eio | Wrong::Dies) => return Err(names::eio()),
            Some(Wrong::NoSpace) => return Err(names::no_space()),
            Some(Wrong::Interrupted) if !*again => {
                *again = true;
                return Err(io::ErrorKind::Interrupted.into());
            }
            Some(Wrong::Short(n)) => most = short(file, n.max(1), buf.len()),
            Some(Wrong::Misdirected(by)) => at = offset.saturating_add_signed(by),
            Some(Wrong::BitFlip { bit }) => flipped = Some(bit),
            _ => {}
        }
        let end = at.saturating_add(most as u64);
        self.ask_length(file.id, end)?;
        let live = self.live(file.id)?;
        // While the length is undecided, what is read lies before every candidate.
        let len = live.undecided_length().map_or(live.len, |o| o.state.shortest());
        let n = len.saturating_sub(at).min(most as u64);
        if live.open.is_some() {
            self.ask_sectors(file.id, at..at + n)?;
        }
        let out = &mut buf[..n as usize];
        self.live(file.id)?.now.read(at, out);
        if let Some(bit) = flipped {
            flip(out, bit);
        }
        self.traffic.0 += n;
        self.budget = self.budget.saturating_sub(n / 4096);
        self.note(mix(mix(u64::from(file.id), offset), n));
        Ok(n as usize)
    }

    /// One system call of a write; how many bytes it wrote.
    pub(super) fn write(
        &mut self,
        file: &SimFile,
        offset: u64,
        buf: &[u8],
        again: &mut bool,
    ) -> io::Result<usize> {
        let site = Site { role: file.role, act: Act::Write };
        let (mut at, mut buf, mut dsync, mut lost) = (offset, Cow::Borrowed(buf), file.mode.dsync, false);
        let mut n = buf.len();
        let mut flipped = None;
        match self.strike(site) {
            Some(Wrong::Eio | Wrong::Dies) => return Err(names::eio()),
            Some(Wrong::NoSpace) => return Err(names::no_space()),
            Some(Wrong::Interrupted) if !*again => {
                *again = true;
                return Err(io::ErrorKind::Interrupted.into());
            }
            Some(Wrong::Short(0)) => return Ok(0),
            Some(Wrong::Short(most)) => n = short(file, most, buf.len()),
            Some(Wrong::Lie) => dsync = false,
            Some(Wrong::LostWrite) => lost = true,
            Some(Wrong::Misdirected(by)) => at = offset.saturating_add_signed(by),
            Some(Wrong::BitFlip { bit }) => flipped = Some(bit),
            Some(Wrong::Interrupted) | None => {}
        }
        if let Cow::Borrowed(all) = buf {
            buf = Cow::Borrowed(&all[..n]);
        }
        let range = offset..offset + n as u64;
        let event = IoEvent { site, file: file.id, name: file.name.clone(), range };
        if lost {
            self.change(event, &buf, Effect::Nothing);
            return Ok(n);
        }
        let end = names::end_of(at, n as u64)?;
        self.ask_length(file.id, end)?;
        self.charge(file.id, end)?;
        if self.live(file.id)?.open.is_some() {
            // Sectors that are overwritten in part.
            for edge in [at, end] {
                if !edge.is_multiple_of(SECTOR) {
                    self.ask_sectors(file.id, edge..edge + 1)?;
                }
            }
        }
        let data: Arc<[u8]> = match flipped {
            None => Arc::from(&*buf),
            Some(bit) => {
                let mut bytes = buf.to_vec();
                flip(&mut bytes, bit);
                Arc::from(bytes)
            }
        };
        self.change(event, &buf, Effect::Write { file: file.id, at, data: data.clone(), dsync });
        let live = self.live(file.id)?;
        live.now.write(at, &data);
        if live.undecided_length().is_none() {
            live.len = live.len.max(end);
        }
        live.close(at / SECTOR..end.div_ceil(SECTOR));
        self.traffic.1 += n as u64;
        self.budget = self.budget.saturating_sub(n as u64 / 4096);
        Ok(n)
    }

    /// Sets the length; `grow_only` leaves a longer file alone.
    pub(super) fn set_len(&mut self, file: &SimFile, len: u64, grow_only: bool) -> io::Result<()> {
        let site = Site { role: file.role, act: Act::SetLen };
        let wrong = self.strike(site);
        match wrong {
            Some(Wrong::Eio | Wrong::Dies) => return Err(names::eio()),
            Some(Wrong::NoSpace) => return Err(names::no_space()),
            _ => {}
        }
        let now = self.length(file.id)?;
        let event = IoEvent { site, file: file.id, name: file.name.clone(), range: 0..len };
        let to = if grow_only { now.max(len) } else { len };
        self.charge(file.id, to)?;
        if to == now || matches!(wrong, Some(Wrong::Lie | Wrong::LostWrite)) {
            self.change(event, &[], Effect::Nothing);
            return Ok(());
        }
        if to < now && to % SECTOR != 0 {
            self.ask_sectors(file.id, to..to + 1)?;
        }
        self.change(event, &[], Effect::SetLen { file: file.id, len: to });
        let live = self.live(file.id)?;
        live.len = to;
        if to < now {
            live.now.cut(to);
            live.close(to / SECTOR..u64::MAX);
        }
        Ok(())
    }

    pub(super) fn sync(&mut self, file: &SimFile) -> io::Result<()> {
        let site = Site { role: file.role, act: Act::Sync };
        let event = IoEvent { site, file: file.id, name: file.name.clone(), range: 0..0 };
        let failed = match self.strike(site) {
            Some(Wrong::Eio) => names::eio(),
            Some(Wrong::NoSpace) => names::no_space(),
            Some(Wrong::Lie | Wrong::LostWrite) => {
                self.change(event, &[], Effect::Nothing);
                return Ok(());
            }
            Some(Wrong::Dies) => return Err(names::eio()),
            _ => {
                self.change(event, &[], Effect::Sync { file: file.id });
                return Ok(());
            }
        };
        self.change(event, &[], Effect::SyncFailed { file: file.id });
        Err(failed)
    }
}

/// How many of `all` bytes a short transfer of `n` has. Past the cache only whole sectors are transferred.
fn short(file: &SimFile, n: u64, all: usize) -> usize {
    let n = usize::try_from(n).unwrap_or(all);
    let grain = if file.mode.direct { SECTOR as usize } else { 1 };
    (n / grain * grain).max(grain).min(all)
}

impl SimDisk {
    /// An empty disk.
    pub fn new(model: Persistence) -> SimDisk {
        SimDisk::with(Inner::new(State::empty(model), None))
    }
    /// The disk after a power failure that left `image`: what is undecided is asked of `fates` when it is first read. What
    /// is overwritten before it is read is never asked for.
    pub fn boot(image: &Image, fates: Box<dyn Fates>) -> SimDisk {
        SimDisk::with(Inner::new(image.state.booted(), Some(fates)))
    }
    /// An empty disk on which no file can be read past the cache: a read finds what was written last, whether it reached the
    /// device or not, and nothing tells the two apart.
    pub fn without_bypass(model: Persistence) -> SimDisk {
        SimDisk::with(Inner::new(State { bypass: false, ..State::empty(model) }, None))
    }
    /// An empty disk that writes each 4 KiB page of the file `data` as a whole, and has a way past its cache or not. (Of no
    /// use with pages of another size, or under `Hostile`.)
    pub fn with_atomic_pages(model: Persistence, bypass: bool) -> SimDisk {
        SimDisk::with(Inner::new(State { bypass, atomic: true, ..State::empty(model) }, None))
    }
    fn with(inner: Inner) -> SimDisk {
        let dead = inner.process.clone();
        SimDisk { inner: Arc::new(Mutex::new(inner)), dead }
    }
    /// A second process that uses the same disk: it sees what the first wrote, synced or not, and its locks.
    #[must_use]
    pub fn another_process(&self) -> SimDisk {
        SimDisk { inner: self.inner.clone(), dead: Arc::default() }
    }
    /// The process that uses this handle dies: from now on every call of its fails, quickly, and its locks are gone. What it
    /// wrote stays in the cache, not synced; the process that comes after it goes on with the handle returned.
    #[must_use]
    pub fn kill(&self) -> SimDisk {
        self.power_off();
        let inner = &mut *self.lock_inner();
        inner.locks.clear();
        if let Some(mut watch) = inner.watch.take() {
            watch.restarted(&inner.durable());
            inner.watch = Some(watch);
        }
        inner.process = Arc::default();
        SimDisk { inner: self.inner.clone(), dead: inner.process.clone() }
    }
    /// Also after a panic of a watch or of fates, which left nothing half done.
    pub(super) fn lock_inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// For calls of the engine.
    pub(super) fn on(&self) -> io::Result<MutexGuard<'_, Inner>> {
        if self.is_off() {
            return Err(names::eio());
        }
        let mut inner = self.lock_inner();
        if inner.budget == 0 {
            self.power_off();
            return Err(names::eio());
        }
        inner.budget -= 1;
        Ok(inner)
    }
    /// From now on so many calls may be made; one more is counted for each 4 KiB that is transferred. Then every call of the
    /// process fails.
    pub fn set_budget(&self, calls: u64) {
        self.lock_inner().budget = calls;
    }
    /// Whether a call was refused for want of budget, or the next will be.
    pub fn is_spent(&self) -> bool {
        self.lock_inner().budget == 0
    }
    /// The calls that may still be made.
    pub fn budget(&self) -> u64 {
        self.lock_inner().budget
    }
    /// From now on every call of this process fails, quickly.
    pub fn power_off(&self) {
        self.dead.store(true, Relaxed);
    }
    pub(super) fn is_off(&self) -> bool {
        self.dead.load(Relaxed)
    }
    pub(super) fn has_bypass(&self) -> bool {
        self.lock_inner().origin.bypass
    }
    /// The sum of the lengths of all files that have a name.
    pub fn used(&self) -> u64 {
        let inner = self.lock_inner();
        let mut named: Vec<FileId> = inner.names.files.values().copied().collect();
        named.sort_unstable();
        named.dedup();
        named.iter().filter_map(|f| inner.files.get(*f as usize)?.as_ref()).map(|f| f.len).sum()
    }
    /// How many changes were issued so far. There is a crash point before each, and one after the last.
    pub fn points(&self) -> usize {
        self.lock_inner().changes.len()
    }
    /// The changes.
    pub fn events(&self) -> Vec<IoEvent> {
        let inner = self.lock_inner();
        let event = |e: &Entry| match e {
            Entry::Change(event, _) => Some(event.clone()),
            Entry::Answer(_) => None,
        };
        inner.record.iter().filter_map(event).collect()
    }
    /// What a power failure just before change number `point` leaves (`points()`: now). Cheap when asked in ascending order.
    /// Questions that were answered before that change are decided.
    pub fn image(&self, point: usize) -> Image {
        let inner = &mut *self.lock_inner();
        let entries = inner.changes.get(point).copied().unwrap_or(inner.record.len());
        if inner.cursor.as_ref().is_none_or(|c| c.entries() > entries) {
            inner.cursor = Some(Cursor::new(&inner.origin));
        }
        let cursor = inner.cursor.get_or_insert_with(|| Cursor::new(&inner.origin));
        cursor.advance(&inner.record, entries);
        Image::new(cursor.snapshot())
    }
    /// What is there if only the process dies now: everything. All of it is durable in the image; to have a power failure
    /// after the process's death, open this disk again instead. What the boot left undecided and nobody has read yet is
    /// still undecided.
    pub fn kept(&self) -> Image {
        let image = self.image(usize::MAX);
        let mut state = State::clone(&image.state);
        state.keep();
        Image::new(state)
    }
    /// The questions that were asked since the boot, in order.
    pub fn asked(&self) -> Vec<Asked> {
        self.lock_inner().asked.clone()
    }
    /// A hash of everything done to the disk, reads included.
    pub fn history_hash(&self) -> u64 {
        let inner = self.lock_inner();
        let mut h = inner.reads;
        for entry in &inner.record {
            let (a, b) = match entry {
                Entry::Answer(a) => match a.question {
                    Question::Sector { file, sector } => {
                        (mix(1, u64::from(file)), mix(sector, u64::from(a.answer)))
                    }
                    Question::Length { file } => (mix(2, u64::from(file)), u64::from(a.answer)),
                    Question::Name { change } => (mix(3, u64::from(change)), u64::from(a.answer)),
                },
                Entry::Change(e, effect) => {
                    let what = mix(e.site.act as u64, hash(e.name.as_bytes()));
                    let effect = match effect {
                        Effect::Write { at, data, dsync, .. } => mix(*at ^ u64::from(*dsync), hash(data)),
                        Effect::SetLen { len, .. } => *len,
                        Effect::SyncFailed { .. } => 1,
                        Effect::Nothing => 2,
                        Effect::Names(_) | Effect::Sync { .. } | Effect::SyncDir { .. } => 0,
                    };
                    (mix(what, u64::from(e.file)), mix(mix(e.range.start, e.range.end), effect))
                }
            };
            h = mix(h, mix(a, b));
        }
        h
    }
    /// Bytes read and written so far.
    pub fn traffic(&self) -> (u64, u64) {
        self.lock_inner().traffic
    }
    /// Plans an error.
    pub fn plan(&self, fault: IoFault) {
        self.lock_inner().plan.get_or_insert_default().add(fault);
    }
    /// Forgets the planned errors; returns how many have struck.
    pub fn heal(&self) -> u64 {
        self.lock_inner().plan.take().map_or(0, |p| p.struck())
    }
    /// Limits the sum of the lengths of all files; beyond it growth fails with `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.lock_inner().capacity = bytes;
    }
    /// Sets what looks at every change.
    pub fn set_watch(&self, watch: Box<dyn Watch>) {
        self.lock_inner().watch = Some(watch);
    }
    /// Tells the watch that a durable commit was acknowledged.
    pub fn acknowledged(&self) {
        let inner = &mut *self.lock_inner();
        if let Some(mut watch) = inner.watch.take() {
            let objection = watch.acknowledged(&inner.durable());
            inner.objections.extend(objection);
            inner.watch = Some(watch);
        }
    }
    /// What the watch has objected to.
    pub fn objections(&self) -> Vec<String> {
        self.lock_inner().objections.clone()
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SimDisk")
    }
}
