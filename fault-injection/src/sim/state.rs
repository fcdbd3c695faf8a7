//! What a power failure may leave of a whole disk, at one moment of its history: files, names, and what is pending.
//!
//! A disk that runs does not keep this up to date; it only writes down what happens. A [`Cursor`] goes along that record and
//! applies it, entry by entry, so that a crash at every point of it costs one pass.
use super::content::{SECTOR, mix};
use super::file::{FileState, bits};
use super::{Act, Asked, FileId, IoEvent, PendingOp, Persistence, Question, Site};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

/// One change of a directory.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Link { name: Arc<str>, file: FileId },
    Unlink { name: Arc<str>, file: FileId },
    Rename { from: Arc<str>, to: Arc<str>, file: FileId },
    MakeDir { name: Arc<str> },
}

pub(super) fn dir_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(dir, _)| dir)
}

impl Change {
    /// The directory that must be synced. (A rename between directories is two changes.)
    pub(super) fn dir(&self) -> &str {
        match self {
            Change::Link { name, .. } | Change::Unlink { name, .. } | Change::MakeDir { name } => {
                dir_of(name)
            }
            Change::Rename { to, .. } => dir_of(to),
        }
    }
    fn file(&self) -> FileId {
        match self {
            Change::Link { file, .. } | Change::Unlink { file, .. } | Change::Rename { file, .. } => *file,
            Change::MakeDir { .. } => 0,
        }
    }
    /// Whether it concerns this name.
    pub(super) fn touches(&self, this: &str) -> bool {
        match self {
            Change::Link { name, .. } | Change::Unlink { name, .. } | Change::MakeDir { name } => {
                &**name == this
            }
            Change::Rename { from, to, .. } => &**from == this || &**to == this,
        }
    }
}

/// A change that may be lost.
#[derive(Clone, Debug)]
pub(super) struct PendingChange {
    pub(super) number: u32,
    pub(super) op: u32,
    pub(super) change: Change,
}

/// A directory tree. On a disk that runs `files` and `dirs` are what is there, as far as it was asked; in a [`State`] they
/// are what is durable.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) files: BTreeMap<Arc<str>, FileId>,
    pub(super) dirs: BTreeSet<Arc<str>>,
    /// Oldest first.
    pub(super) pending: Vec<PendingChange>,
}

impl Names {
    /// Applies a change; earlier ones may be missing.
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Link { name, file } => {
                self.files.insert(name.clone(), *file);
            }
            Change::Unlink { name, file } => self.unlink(name, *file),
            Change::Rename { from, to, file } => {
                self.unlink(from, *file);
                self.files.insert(to.clone(), *file);
            }
            Change::MakeDir { name } => {
                self.dirs.insert(name.clone());
            }
        }
    }

    fn unlink(&mut self, name: &str, file: FileId) {
        if self.files.get(name) == Some(&file) {
            self.files.remove(name);
        }
    }

    /// A pending change is kept or lost, and that is all. Those of one directory must be decided in order.
    pub(super) fn decide(&mut self, number: u32, kept: bool) {
        let Some(at) = self.pending.iter().position(|p| p.number == number) else { return };
        let change = self.pending.remove(at).change;
        if kept {
            self.apply(&change);
        } else if let Change::MakeDir { name } = change
            && !self.dirs.contains(&name)
        {
            // What was in a directory that is lost is lost.
            self.files.retain(|n, _| dir_of(n) != &*name);
            self.pending.retain(|p| p.change.dir() != &*name);
        }
    }

    /// The pending changes that `which` accepts are made, in order.
    fn settle(&mut self, which: impl Fn(&PendingChange) -> bool) {
        let pending = std::mem::take(&mut self.pending);
        for p in pending {
            if which(&p) {
                self.apply(&p.change);
            } else {
                self.pending.push(p);
            }
        }
    }

    /// Whether the file's directory exists.
    pub(super) fn has_dir_of(&self, name: &str) -> bool {
        let dir = dir_of(name);
        dir.is_empty() || self.dirs.contains(dir)
    }
}

/// What an event does to the disk. (What it says may differ, if an error was planned.)
#[derive(Clone, Debug)]
pub(super) enum Effect {
    Nothing,
    Write { file: FileId, at: u64, data: Arc<[u8]>, dsync: bool },
    SetLen { file: FileId, len: u64 },
    Sync { file: FileId },
    SyncFailed { file: FileId },
    Names(Vec<Change>),
    SyncDir { dir: Arc<str> },
}

/// One line of the record.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    Change(IoEvent, Effect),
    Answer(Asked),
}

#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) model: Persistence,
    /// Whether files can be read past the cache.
    pub(super) bypass: bool,
    /// Whether pages of the data file are written as a whole.
    pub(super) atomic: bool,
    /// By [`FileId`].
    pub(super) files: Vec<Option<Arc<FileState>>>,
    pub(super) names: Arc<Names>,
    /// What is pending, with its number; those that are not any longer remain until [`State::forget_unused`].
    pub(super) ops: Vec<PendingOp>,
    pub(super) op_ids: Vec<u32>,
    pub(super) next_op: u32,
    pub(super) next_change: u32,
    /// The first op since the boot.
    pub(super) own: u32,
}

impl State {
    pub(super) fn empty(model: Persistence) -> State {
        State {
            model,
            bypass: true,
            atomic: false,
            files: vec![None],
            names: Arc::default(),
            ops: Vec::new(),
            op_ids: Vec::new(),
            next_op: 1,
            next_change: 0,
            own: 1,
        }
    }

    /// The state in which a disk boots that was left so.
    pub(super) fn booted(&self) -> State {
        State { own: self.next_op, ..self.clone() }
    }

    pub(super) fn file(&self, id: FileId) -> Option<&Arc<FileState>> {
        self.files.get(id as usize)?.as_ref()
    }

    /// The file, to be changed; `None` if nothing can ever find it again.
    fn file_mut(&mut self, id: FileId) -> Option<&mut FileState> {
        self.files.get_mut(id as usize)?.as_mut().map(Arc::make_mut)
    }

    /// Enters an operation that is pending from now on.
    fn op(&mut self, site: Site, file: FileId, event: usize, sectors: Range<u64>) -> u32 {
        let id = self.next_op;
        self.next_op += 1;
        self.ops.push(PendingOp { site, file, event, sectors });
        self.op_ids.push(id);
        id
    }

    fn apply(&mut self, index: usize, event: &IoEvent, effect: &Effect) {
        match effect {
            Effect::Nothing => {}
            Effect::Write { file, at, data, dsync } => {
                let sectors = at / SECTOR..(at + data.len() as u64).div_ceil(SECTOR);
                let op = self.op(event.site, *file, index, sectors);
                let (own, model) = (self.own, self.model);
                if let Some(f) = self.file_mut(*file) {
                    f.write(op, *at, data, own);
                    if *dsync {
                        if model == Persistence::Ordered {
                            self.settle_until(op);
                        } else {
                            f.sync_write(op, *at..at + data.len() as u64);
                        }
                    }
                }
            }
            Effect::SetLen { file, len } => {
                let own = self.own;
                let divides = self.file(*file).is_some_and(|f| f.is_cut_inside_a_sector_by(*len));
                let sectors = if divides { len / SECTOR..len / SECTOR + 1 } else { 0..0 };
                let op = self.op(event.site, *file, index, sectors);
                if let Some(f) = self.file_mut(*file) {
                    f.set_len(op, *len, own);
                }
            }
            Effect::Sync { file } => {
                let (own, model) = (self.own, self.model);
                if let Some(f) = self.file_mut(*file) {
                    if model == Persistence::Ordered {
                        let last = f.last_op();
                        if last >= own {
                            self.settle_until(last);
                        }
                    } else {
                        f.sync(u32::MAX, own);
                    }
                }
            }
            Effect::SyncFailed { file } => {
                if let Some(f) = self.file_mut(*file) {
                    f.sync_failed();
                }
            }
            Effect::Names(changes) => {
                for change in changes {
                    let op = self.op(event.site, 0, index, 0..0);
                    let file = change.file() as usize;
                    if file >= self.files.len() {
                        self.files.resize(file + 1, None);
                        let atomic = self.atomic
                            && matches!(change, Change::Link { name, .. } if super::role(name) == "data");
                        self.files[file] = Some(Arc::new(FileState::new(atomic)));
                    }
                    let number = self.next_change;
                    self.next_change += 1;
                    let pending = PendingChange { number, op, change: change.clone() };
                    Arc::make_mut(&mut self.names).pending.push(pending);
                }
            }
            Effect::SyncDir { dir } => {
                let own = self.own;
                if self.model == Persistence::Ordered {
                    let here = self.names.pending.iter().filter(|p| p.change.dir() == &**dir);
                    if let Some(last) = here.map(|p| p.op).max().filter(|op| *op >= own) {
                        self.settle_until(last);
                    }
                } else if !self.names.pending.is_empty() {
                    Arc::make_mut(&mut self.names).settle(|p| p.op >= own && p.change.dir() == &**dir);
                }
            }
        }
    }

    /// Everything issued since the boot, up to this operation, is durable (but for what a failed sync forgot).
    fn settle_until(&mut self, last: u32) {
        let own = self.own;
        for file in self.files.iter_mut().flatten() {
            if !file.is_decided() || file.last_op() > 0 {
                Arc::make_mut(file).sync(last, own);
            }
        }
        if !self.names.pending.is_empty() {
            Arc::make_mut(&mut self.names).settle(|p| p.op >= own && p.op <= last);
        }
    }

    fn answer(&mut self, asked: &Asked) {
        match asked.question {
            Question::Sector { file, sector } => {
                if let Some(f) = self.file_mut(file) {
                    f.decide_sector(file, sector, asked.answer);
                }
            }
            Question::Length { file } => {
                if let Some(f) = self.file_mut(file) {
                    f.decide_length(usize::from(asked.answer).min(f.lengths().len() - 1));
                }
            }
            Question::Name { change } => Arc::make_mut(&mut self.names).decide(change, asked.answer != 0),
        }
    }

    /// Forgets files that no name can lead to, and operations that nothing depends on.
    pub(super) fn forget_unused(&mut self) {
        let mut named = vec![false; self.files.len()];
        let durable = self.names.files.values().copied();
        for file in durable.chain(self.names.pending.iter().map(|p| p.change.file())) {
            named[file as usize] = true;
        }
        for (file, named) in self.files.iter_mut().zip(named) {
            if !named {
                *file = None;
            }
        }
        let Some(first) = self.op_ids.first().copied() else { return };
        let mut used = vec![false; (self.next_op - first) as usize];
        let mut mark = |op: u32| {
            if let Some(u) = used.get_mut(op.wrapping_sub(first) as usize) {
                *u = true;
            }
        };
        for f in self.files.iter().flatten() {
            f.pages.values().flat_map(|v| &v.list).for_each(|v| mark(v.op));
            f.lengths()[1..].iter().for_each(|l| mark(l.op));
        }
        self.names.pending.iter().for_each(|p| mark(p.op));
        let is_used = |id: u32| used[(id - first) as usize];
        let mut ids = self.op_ids.iter();
        self.ops.retain(|_| ids.next().is_some_and(|id| is_used(*id)));
        self.op_ids.retain(|id| is_used(*id));
    }

    /// Nothing issued since the boot is lost.
    pub(super) fn keep(&mut self) {
        let own = self.own;
        for file in self.files.iter_mut().flatten().filter(|f| !f.is_decided()) {
            Arc::make_mut(file).keep(own);
        }
        Arc::make_mut(&mut self.names).settle(|p| p.op >= own);
        self.forget_unused();
    }

    /// Every question, with the number of its answers; ascending.
    pub(super) fn questions(&self) -> Vec<(Question, u8)> {
        let mut out = Vec::new();
        let files = || self.files.iter().enumerate().filter_map(|(id, f)| Some((id as FileId, f.as_ref()?)));
        for (file, f) in files() {
            for (page, versions) in &f.pages {
                for i in bits(f.asked(versions.mask())) {
                    let sector = page * super::content::SECTORS + i;
                    out.push((Question::Sector { file, sector }, f.options(sector, self.model)));
                }
            }
        }
        for (file, f) in files().filter(|(_, f)| f.lengths().len() > 1) {
            out.push((Question::Length { file }, f.lengths().len() as u8));
        }
        out.extend(self.names.pending.iter().map(|p| (Question::Name { change: p.number }, 2)));
        out
    }

    /// The names that remain if the questions are answered so.
    fn decided_names(&self, answer: &dyn Fn(Question, u8) -> u8) -> Arc<Names> {
        if self.names.pending.is_empty() {
            return self.names.clone();
        }
        let mut names = Names::clone(&self.names);
        // The one before may have taken others with it.
        while let Some(p) = names.pending.first() {
            let number = p.number;
            names.decide(number, answer(Question::Name { change: number }, 2) != 0);
        }
        Arc::new(names)
    }

    pub(super) fn fingerprint(&self, answer: &dyn Fn(Question, u8) -> u8) -> u64 {
        let names = self.decided_names(answer);
        let mut sum = 0u64;
        // Files with two names are hashed once, and told from two equal files.
        let mut seen: Vec<(FileId, u64)> = Vec::with_capacity(names.files.len());
        for (name, id) in names.files.iter() {
            let name = super::content::hash(name.as_bytes());
            let file = match seen.iter().find(|(i, _)| i == id) {
                Some((_, hash)) => mix(*hash, 2),
                None => {
                    let hash = self.file(*id).map_or(0, |f| {
                        let file = *id;
                        f.fingerprint(
                            file,
                            self.model,
                            &|n| answer(Question::Length { file }, n),
                            &|sector, n| answer(Question::Sector { file, sector }, n),
                        )
                    });
                    seen.push((*id, mix(hash, name)));
                    hash
                }
            };
            sum = sum.wrapping_add(mix(name, file));
        }
        for dir in &names.dirs {
            sum = sum.wrapping_add(mix(super::content::hash(dir.as_bytes()), 1));
        }
        sum
    }

    pub(super) fn decided(&self, answer: &dyn Fn(Question, u8) -> u8) -> State {
        let mut out = self.clone();
        out.names = self.decided_names(answer);
        for (id, slot) in out.files.iter_mut().enumerate() {
            let Some(f) = slot.as_mut().filter(|f| !f.is_decided()) else { continue };
            let (file, f) = (id as FileId, Arc::make_mut(f));
            if f.lengths().len() > 1 {
                let n = f.lengths().len();
                f.decide_length(usize::from(answer(Question::Length { file }, n as u8)).min(n - 1));
            }
            let open: Vec<u64> = f
                .pages
                .iter()
                .flat_map(|(page, v)| {
                    bits(f.asked(v.mask())).map(move |i| page * super::content::SECTORS + i)
                })
                .collect();
            for sector in open {
                let n = f.options(sector, self.model);
                f.decide_sector(file, sector, answer(Question::Sector { file, sector }, n).min(n - 1));
            }
        }
        out.forget_unused();
        out
    }
}

/// A state, and how far along the record it is.
#[derive(Clone, Debug)]
pub(super) struct Cursor {
    pub(super) state: State,
    entries: usize,
    events: usize,
}

impl Cursor {
    pub(super) fn new(origin: &State) -> Cursor {
        Cursor { state: origin.clone(), entries: 0, events: 0 }
    }

    /// How many entries are applied.
    pub(super) fn entries(&self) -> usize {
        self.entries
    }

    /// Applies entries until so many are.
    pub(super) fn advance(&mut self, record: &[Entry], entries: usize) {
        for entry in record.get(self.entries..entries).unwrap_or_default() {
            match entry {
                Entry::Change(event, effect) => {
                    self.state.apply(self.events, event, effect);
                    self.events += 1;
                }
                Entry::Answer(asked) => self.state.answer(asked),
            }
        }
        self.entries = self.entries.max(entries.min(record.len()));
    }

    /// A copy of the state, without what is not needed any longer.
    pub(super) fn snapshot(&mut self) -> State {
        self.state.forget_unused();
        self.state.clone()
    }
}

/// The role of a file or a directory.
pub(super) fn site(name: &str, act: Act) -> Site {
    Site { role: super::role(name), act }
}
