//! The corruption sweep: a small database is damaged in every way of a list, at every place, and opened after each.
//!
//! The rule is one: right data, or a typed error. An outcome is *silent* if what is read is wrong and nothing says so; there
//! must be none.
//!
//! Damage of a sector that the engine never reads cannot matter: two runs that read the same are the same run. So a first run
//! notes what is read, and the rest is counted as such without being tried.
//!
//! The threads of a sweep are [watched](crate::watchdog): an engine that waits or computes for ever over a damage is a violation that
//! names the place, the thread is given up, and another goes on behind it.
use crate::campaign::{Kit, Live};
use crate::engine::{Config, Engine, FailureKind};
use crate::model::Allowed;
use crate::op::Op;
use crate::oracles::{Oracle, Violation};
use crate::random::Random;
use crate::run::{Ended, Newest, bounded, dropped, newborn};
use crate::sim::{Act, Image, Persistence, SimDisk, role};
use crate::watchdog::{self, PATIENCE, TICK, Watched, watched};
use hamal::disk::{Disk, DiskFile, DiskLock, OpenMode};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

const SECTOR: usize = 512;

/// What is damaged, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Damage {
    /// A byte is xored with 1, 128 or 255.
    Byte,
    /// A sector is all zeros.
    Zeroed,
    /// A sector is garbage.
    Garbage,
    /// Two sectors of a file have changed places.
    Swapped,
    /// A sector is as it was at an earlier moment.
    OlderSector,
    /// A page is as it was at an earlier moment: a lost write.
    OlderPage,
    /// A page lies in another page's place: a misdirected write.
    Misdirected,
    /// A file is cut off at a sector.
    Truncated,
    /// A file is not there.
    Removed,
    /// A file is as it was at an earlier moment.
    OlderFile,
    /// The control file and one other file are as they were at an earlier moment.
    OlderPair,
    /// Everything but the data file is as it was at an earlier moment.
    OlderButData,
    /// A file is that of another database.
    Foreign,
}

impl Damage {
    /// All of them.
    pub const ALL: [Damage; 13] = [
        Damage::Byte,
        Damage::Zeroed,
        Damage::Garbage,
        Damage::Swapped,
        Damage::OlderSector,
        Damage::OlderPage,
        Damage::Misdirected,
        Damage::Truncated,
        Damage::Removed,
        Damage::OlderFile,
        Damage::OlderPair,
        Damage::OlderButData,
        Damage::Foreign,
    ];
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Damage::Byte => "byte flipped",
            Damage::Zeroed => "sector zeroed",
            Damage::Garbage => "sector garbage",
            Damage::Swapped => "sectors swapped",
            Damage::OlderSector => "older sector",
            Damage::OlderPage => "older page",
            Damage::Misdirected => "misdirected page",
            Damage::Truncated => "truncated",
            Damage::Removed => "removed",
            Damage::OlderFile => "older file",
            Damage::OlderPair => "older control and",
            Damage::OlderButData => "older but for data",
            Damage::Foreign => "foreign file",
        }
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The damaged bytes are never read.
    Unread,
    /// All data is right.
    Right,
    /// The last write to the log is gone as if it had never been: nothing on the disk can prove that it was there.
    Untraceable,
    /// A typed error: its name.
    Error(String),
    /// Wrong data, and no error.
    Silent(String),
    /// A panic, or an error of the wrong kind.
    Wrong(String),
}

/// Counts of outcomes, by damage and role of the file.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// The counts.
    pub cells: BTreeMap<(Damage, &'static str), BTreeMap<String, u64>>,
    /// Opens that were made.
    pub cases: u64,
    /// What was silent or wrong: the damage in words, and what happened.
    pub violations: Vec<(String, Outcome)>,
}

impl Table {
    /// Silent outcomes.
    pub fn silent(&self) -> usize {
        self.violations.iter().filter(|(_, o)| matches!(o, Outcome::Silent(_))).count()
    }
    fn count(&mut self, damage: Damage, role: &'static str, outcome: &Outcome, n: u64) {
        let name = match outcome {
            Outcome::Unread => "never read".to_string(),
            Outcome::Right => "right data".to_string(),
            Outcome::Untraceable => "untraceable tail".to_string(),
            Outcome::Error(kind) => kind.clone(),
            Outcome::Silent(_) => "SILENT".to_string(),
            Outcome::Wrong(_) => "WRONG".to_string(),
        };
        *self.cells.entry((damage, role)).or_default().entry(name).or_default() += n;
    }
    /// Adds another.
    pub fn add(&mut self, o: Table) {
        self.cases += o.cases;
        self.violations.extend(o.violations);
        for (key, counts) in o.cells {
            for (name, n) in counts {
                *self.cells.entry(key).or_default().entry(name).or_default() += n;
            }
        }
    }
    /// As a Markdown table.
    pub fn markdown(&self) -> String {
        let mut out = String::from("| damage | file | outcomes |\n|---|---|---|\n");
        for ((damage, role), counts) in &self.cells {
            let counts: Vec<String> = counts.iter().map(|(name, n)| format!("{name} {n}")).collect();
            out += &format!("| {} | {role} | {} |\n", damage.name(), counts.join(", "));
        }
        out
    }
}

/// A database to damage.
pub struct Patient {
    engine: Arc<dyn Engine>,
    config: Config,
    image: Image,
    /// What is right.
    allowed: Allowed,
    /// What is right if the last write to the log is gone; only if the database was not closed.
    without_last: Option<Allowed>,
    /// The last flush of the log: files and bytes.
    last: Vec<(String, std::ops::Range<u64>)>,
    /// The same database at earlier moments.
    older: Vec<Image>,
    /// Another database of the same shape.
    foreign: Image,
    files: Vec<(String, Vec<u8>)>,
    read: BTreeMap<String, BTreeSet<u64>>,
}

impl Patient {
    /// Runs `ops` and keeps a database that was closed (`closed`), or whose process died.
    ///
    /// # Errors
    /// A sentence, if the scenario does not run.
    pub fn new(
        engine: &Arc<dyn Engine>,
        config: &Config,
        foreign: Image,
        ops: &[Op],
        closed: bool,
    ) -> Result<Patient, String> {
        let model = Persistence::Posix;
        let start = newborn(&**engine, config, model).map_err(|f| f.to_string())?;
        let mut whole = ops.to_vec();
        if closed {
            whole.push(Op::Reopen);
        }
        let run = crate::run::run(&**engine, config, model, Some(&start), &whole, &|_| {});
        if !matches!(run.ended, Ended::Whole) {
            return Err(format!("the scenario does not run: {:?}", run.ended));
        }
        let points = run.disk.points();
        let events = run.disk.events();
        let (mut last, mut without_last) = (Vec::new(), None);
        if !closed {
            // Everything written to the log since the last sync but one. Without it the disk is what a crash before that flush
            // could have left: nothing on it can tell the two apart.
            let is =
                |act| move |(_, e): &(usize, &crate::sim::IoEvent)| e.site.role == "wal" && e.site.act == act;
            let end = events.iter().enumerate().rfind(is(Act::Write)).map_or(0, |(i, _)| i);
            let from = events[..end].iter().enumerate().rfind(is(Act::Sync)).map_or(0, |(i, _)| i);
            let writes = events[from..].iter().enumerate().filter(is(Act::Write));
            for (i, e) in writes {
                without_last.get_or_insert_with(|| run.allowed(from + i).allowed.clone());
                last.push((e.name.to_string(), e.range.clone()));
            }
        }
        // Moments: just after each sync of the data file and of the control file.
        let mut older = vec![start];
        for (i, e) in events.iter().enumerate() {
            if e.site.act == Act::Sync && matches!(e.site.role, "data" | "control") {
                older.push(survivor(&run.disk.image(i + 1)));
            }
        }
        let image = run.disk.kept();
        let allowed = run.allowed(points).allowed.clone();
        let files: Vec<(String, Vec<u8>)> =
            image.names().into_iter().filter_map(|n| Some((n.clone(), image.file(&n)?))).collect();
        let mut patient = Patient {
            engine: engine.clone(),
            config: config.clone(),
            image,
            allowed: allowed.exactly(allowed.high()),
            without_last,
            last,
            older,
            foreign,
            files,
            read: BTreeMap::new(),
        };
        patient.note_reads()?;
        Ok(patient)
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|(_, b)| b.len() as u64).sum()
    }

    fn note_reads(&mut self) -> Result<(), String> {
        let spy = Spy { disk: SimDisk::boot(&self.image, Box::new(Newest)), read: Arc::default() };
        let read = spy.read.clone();
        let disk = spy.disk.clone();
        let outcome = self.open(Arc::new(spy), disk);
        if outcome != Outcome::Right {
            return Err(format!("without damage: {outcome:?}"));
        }
        self.read = read.lock().clone();
        Ok(())
    }

    fn is_read(&self, name: &str, sector: u64) -> bool {
        self.read.get(name).is_some_and(|s| s.contains(&sector))
    }

    /// Opens, reads everything, verifies.
    fn open(&self, disk: Arc<dyn Disk>, sim: SimDisk) -> Outcome {
        let kind = |text: &str| text.split(':').next().unwrap_or("?").trim().to_string();
        watchdog::on(&sim);
        let opened = bounded(&sim, || self.engine.open(disk, &self.config));
        let mut session = match opened {
            Err(fall) => return Outcome::Wrong(fall.violation("the open").text),
            Ok(Err(f)) => {
                sim.power_off();
                return match f.kind {
                    FailureKind::Damage => Outcome::Error(kind(&f.text)),
                    _ => Outcome::Wrong(f.to_string()),
                };
            }
            Ok(Ok(s)) => s,
        };
        let contents = bounded(&sim, || session.contents());
        let outcome = match contents {
            Err(fall) => Outcome::Wrong(fall.violation("reading").text),
            Ok(Err(f)) if f.kind == FailureKind::Damage => Outcome::Error(kind(&f.text)),
            Ok(Err(f)) => Outcome::Wrong(f.to_string()),
            Ok(Ok(c)) => match self.allowed.judge(&c) {
                Ok(_) => match bounded(&sim, || session.verify()) {
                    Err(fall) => Outcome::Wrong(fall.violation("verification").text),
                    // Damage that no reader meets, seen by verification.
                    Ok(Err(f)) if f.kind == FailureKind::Damage => Outcome::Error(kind(&f.text)),
                    Ok(Err(f)) => Outcome::Wrong(f.to_string()),
                    Ok(Ok(findings)) if findings.is_empty() => Outcome::Right,
                    Ok(Ok(_)) => Outcome::Error("found by verify".into()),
                },
                Err((_, text)) => Outcome::Silent(text),
            },
        };
        sim.power_off();
        dropped(session);
        outcome
    }

    /// Tries a damaged image. `tail`: whether the damage touches the last write to the log.
    fn attempt(&self, image: &Image, tail: bool) -> Outcome {
        let disk = SimDisk::boot(image, Box::new(Newest));
        let outcome = self.open(Arc::new(disk.clone()), disk);
        if let (Outcome::Silent(_), true, Some(low)) = (&outcome, tail, &self.without_last) {
            let disk = SimDisk::boot(image, Box::new(Newest));
            watchdog::on(&disk);
            let found = bounded(&disk, || {
                let opened = self.engine.open(Arc::new(disk.clone()), &self.config);
                let found = opened.and_then(|mut s| s.contents());
                disk.power_off();
                found
            });
            if found.is_ok_and(|found| found.is_ok_and(|c| low.judge(&c).is_ok())) {
                return Outcome::Untraceable;
            }
        }
        outcome
    }

    fn is_tail(&self, name: &str, bytes: std::ops::Range<u64>) -> bool {
        self.last.iter().any(|(n, r)| n == name && r.start < bytes.end && bytes.start < r.end)
    }

    /// Tries every damage of a kind; of the bytes and of what is numerous, every `stride`-th. `live` counts along, and can end it.
    pub fn sweep(&self, damage: Damage, stride: usize, live: &Live) -> Table {
        let so_far = SoFar::default();
        self.go_on(damage, stride, live, &so_far);
        so_far.table.into_inner()
    }

    /// [`Patient::sweep`], behind the places that have been tried.
    fn go_on(&self, damage: Damage, stride: usize, live: &Live, so_far: &SoFar) {
        let tried = so_far.tried.load(Relaxed);
        let mut number = 0;
        let mut visit = |name: &str, what: &str, place: u64, image: Image, tail: bool| {
            number += 1;
            if number <= tried || live.stop.load(Relaxed) {
                return;
            }
            let place = format!("{} {what} of {name} at {place}", damage.name());
            *so_far.at.lock() = (role(name), place.clone());
            let mut outcome = self.attempt(&image, tail);
            // That the file is another database's must be said, not only that something is wrong.
            if let (Damage::Foreign, Outcome::Error(kind), Some(right)) =
                (damage, &outcome, self.engine.names_a_strangers_file(role(name)))
                && kind != right
            {
                outcome = Outcome::Wrong(format!("{kind}, and not {right}"));
            }
            so_far.found(damage, role(name), place, outcome);
            live.cases.fetch_add(1, Relaxed);
        };
        let mut unread: BTreeMap<&'static str, u64> = BTreeMap::new();
        let page = self.config.page_size as usize;
        let mut random = Random::new(0x5EED);
        for (name, bytes) in &self.files {
            let sectors = bytes.len().div_ceil(SECTOR);
            let of = |s: usize| s * SECTOR..((s + 1) * SECTOR).min(bytes.len());
            let touch = |at: usize, new: &[u8]| {
                let mut changed = bytes.clone();
                changed[at..at + new.len()].copy_from_slice(new);
                self.image.with_file(name, &changed)
            };
            let tail = |r: &std::ops::Range<usize>| self.is_tail(name, r.start as u64..r.end as u64);
            match damage {
                Damage::Byte => {
                    for s in 0..sectors {
                        if !self.is_read(name, s as u64) {
                            *unread.entry(role(name)).or_default() += 3 * of(s).len() as u64;
                            continue;
                        }
                        for at in of(s).step_by(stride) {
                            for pattern in [1, 128, 255] {
                                let image = touch(at, &[bytes[at] ^ pattern]);
                                visit(name, "", at as u64, image, tail(&of(s)));
                            }
                        }
                    }
                }
                Damage::Zeroed | Damage::Garbage | Damage::Swapped | Damage::OlderSector => {
                    for s in 0..sectors {
                        if !self.is_read(name, s as u64) {
                            *unread.entry(role(name)).or_default() += 1;
                            continue;
                        }
                        let r = of(s);
                        let mut replace = |new: Vec<u8>, what: &str| {
                            if new[..] != bytes[r.clone()] {
                                visit(name, what, r.start as u64, touch(r.start, &new), tail(&r));
                            }
                        };
                        match damage {
                            Damage::Zeroed => replace(vec![0; r.len()], ""),
                            Damage::Garbage => {
                                replace((0..r.len()).map(|_| random.next() as u8).collect(), "")
                            }
                            Damage::OlderSector => {
                                let mut versions = BTreeSet::new();
                                for o in &self.older {
                                    if let Some(old) = o.file(name).as_ref().and_then(|b| b.get(r.clone())) {
                                        versions.insert(old.to_vec());
                                    }
                                }
                                for v in versions {
                                    replace(v, "");
                                }
                            }
                            _ => {
                                let other = of((s + 1 + random.below(8) as usize) % sectors);
                                if other.len() == r.len() && bytes[other.clone()] != bytes[r.clone()] {
                                    let mut changed = bytes.clone();
                                    changed[r.clone()].copy_from_slice(&bytes[other.clone()]);
                                    changed[other.clone()].copy_from_slice(&bytes[r.clone()]);
                                    let image = self.image.with_file(name, &changed);
                                    visit(name, "", r.start as u64, image, tail(&r) || tail(&other));
                                }
                            }
                        }
                    }
                }
                Damage::OlderPage | Damage::Misdirected if role(name) == "data" => {
                    for at in (0..bytes.len() / page).map(|p| p * page) {
                        let r = at..at + page;
                        if damage == Damage::OlderPage {
                            let mut versions = BTreeSet::new();
                            for o in &self.older {
                                if let Some(old) = o.file(name).as_ref().and_then(|b| b.get(r.clone())) {
                                    versions.insert(old.to_vec());
                                }
                            }
                            for v in versions.into_iter().filter(|v| v[..] != bytes[r.clone()]) {
                                visit(name, "", at as u64, touch(at, &v), false);
                            }
                        } else {
                            for to in (0..bytes.len() / page).map(|p| p * page).filter(|to| *to != at) {
                                if bytes[to..to + page] != bytes[r.clone()] {
                                    visit(name, "to", to as u64, touch(to, &bytes[r.clone()]), false);
                                }
                            }
                        }
                    }
                }
                Damage::OlderPage | Damage::Misdirected => {}
                Damage::Truncated => {
                    for cut in (0..bytes.len()).step_by(SECTOR * stride.min(8)) {
                        let image = self.image.with_file(name, &bytes[..cut]);
                        visit(name, "", cut as u64, image, tail(&(cut..bytes.len())));
                    }
                }
                Damage::Removed => {
                    visit(name, "", 0, self.image.without_file(name), tail(&(0..bytes.len())));
                }
                Damage::OlderFile => {
                    for (i, o) in self.older.iter().enumerate() {
                        if let Some(old) = o.file(name).filter(|old| old != bytes) {
                            let image = self.image.with_file(name, &old);
                            visit(name, "as of moment", i as u64, image, tail(&(0..bytes.len())));
                        }
                    }
                }
                Damage::OlderPair => {
                    if name == "control" {
                        continue;
                    }
                    for (i, o) in self.older.iter().enumerate() {
                        if let (Some(control), Some(old)) = (o.file("control"), o.file(name)) {
                            let image = self.image.with_file("control", &control).with_file(name, &old);
                            visit(name, "as of moment", i as u64, image, tail(&(0..bytes.len())));
                        }
                    }
                }
                Damage::OlderButData => {
                    if name != "data" {
                        continue;
                    }
                    for (i, o) in self.older.iter().enumerate() {
                        // With the same pages it is the database of that moment, whole; a file that has only grown since has
                        // no others.
                        let differs = |old: &[u8]| without_zeros(old) != without_zeros(bytes);
                        if o.file(name).is_some_and(|old| differs(&old)) {
                            visit(name, "as of moment", i as u64, o.with_file(name, bytes), false);
                        }
                    }
                }
                Damage::Foreign => {
                    if let Some(other) = self.foreign.file(name).filter(|o| o != bytes) {
                        let image = self.image.with_file(name, &other);
                        visit(name, "", 0, image, tail(&(0..bytes.len())));
                    }
                }
            }
        }
        let mut table = so_far.table.lock();
        for (role, n) in unread {
            table.count(damage, role, &Outcome::Unread, n);
        }
    }
}

/// What is known of one kind of damage while it is tried.
#[derive(Debug, Default)]
struct SoFar {
    /// Places that have been tried: they come in the same order each time.
    tried: AtomicU64,
    /// What is being tried: the role of the file, and the place.
    at: Mutex<(&'static str, String)>,
    table: Mutex<Table>,
}

impl SoFar {
    /// What came of a place.
    fn found(&self, damage: Damage, role: &'static str, place: String, outcome: Outcome) {
        self.tried.fetch_add(1, Relaxed);
        let mut table = self.table.lock();
        table.cases += 1;
        table.count(damage, role, &outcome, 1);
        if matches!(outcome, Outcome::Silent(_) | Outcome::Wrong(_)) && table.violations.len() < 100 {
            table.violations.push((place, outcome));
        }
    }
}

/// The bytes up to the last that is not zero.
fn without_zeros(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().rposition(|b| *b != 0).map_or(0, |at| at + 1)]
}

/// The image in which everything pending survived.
fn survivor(image: &Image) -> Image {
    image.decided(&|_, options| options - 1)
}

/// A disk that notes which sectors are read.
#[derive(Debug)]
struct Spy {
    disk: SimDisk,
    read: Arc<Mutex<BTreeMap<String, BTreeSet<u64>>>>,
}

#[derive(Debug)]
struct SpyFile {
    name: String,
    file: Arc<dyn DiskFile>,
    read: Arc<Mutex<BTreeMap<String, BTreeSet<u64>>>>,
}

impl Disk for Spy {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(name, mode)?;
        Ok(Arc::new(SpyFile { name: name.to_owned(), file, read: self.read.clone() }))
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.create_dir(dir)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        // What is read under the new name was stored under the old one.
        let mut read = self.read.lock();
        if let Some(file) = self.disk.exists(from)?.then(|| from.to_owned()) {
            let all: BTreeSet<u64> = (0..1 << 14).collect();
            read.entry(file).or_default().extend(all);
        }
        drop(read);
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn exists(&self, name: &str) -> io::Result<bool> {
        self.disk.exists(name)
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
    fn lock(&self, name: &str) -> io::Result<Box<dyn DiskLock>> {
        self.disk.lock(name)
    }
    fn describe(&self) -> String {
        self.disk.describe()
    }
}

impl DiskFile for SpyFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let end = offset + buf.len() as u64;
        let sectors = offset / SECTOR as u64..end.div_ceil(SECTOR as u64);
        self.read.lock().entry(self.name.clone()).or_default().extend(sectors);
        self.file.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, buf)
    }
    fn write_vectored_at(&self, offset: u64, bufs: &[&[u8]]) -> io::Result<()> {
        self.file.write_vectored_at(offset, bufs)
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.allocate(offset, len)
    }
    fn bypasses_cache(&self) -> bool {
        self.file.bypasses_cache()
    }
    fn drop_cache(&self) -> io::Result<()> {
        self.file.drop_cache()
    }
}

/// Damages what `ops` leave, closed properly or killed, in every way of one kind: the first violation, and how many databases were
/// opened.
///
/// # Errors
/// A sentence, if the scenario does not run.
pub fn violation(
    engine: &Arc<dyn Engine>,
    config: &Config,
    ops: &[Op],
    (damage, closed): (Damage, bool),
    live: &Live,
) -> Result<Option<(Violation, u64)>, String> {
    let foreign = foreign(&**engine, config, ops)?;
    let patient = Patient::new(engine, config, foreign, ops, closed)?;
    let table = patient.sweep(damage, HUNT_STRIDE, live);
    let first = table.violations.first().map(|(what, outcome)| match outcome {
        Outcome::Silent(text) => Violation::new(Oracle::Silent, format!("{what}: {text}")),
        other => Violation::new(Oracle::Fault, format!("{what}: {other:?}")),
    });
    Ok(first.map(|v| (v, table.cases)))
}

/// Of the bytes, every so manieth is enough to see a check that is missing.
const HUNT_STRIDE: usize = 64;

/// The database that a stranger makes by these operations.
fn foreign(engine: &dyn Engine, config: &Config, ops: &[Op]) -> Result<Image, String> {
    let other = engine.stranger();
    let engine = other.as_deref().unwrap_or(engine);
    let start = newborn(engine, config, Persistence::Posix).map_err(|f| f.to_string())?;
    Ok(crate::run::run(engine, config, Persistence::Posix, Some(&start), ops, &|_| {}).disk.kept())
}

/// How a database is swept.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Decides the database.
    pub seed: u64,
    /// Whether it is closed properly before.
    pub closed: bool,
    /// Of the bytes, every so manieth is damaged.
    pub stride: usize,
    /// Threads; kinds of damage are shared out.
    pub threads: usize,
    /// How long one call of the engine may take.
    pub patience: Duration,
}

impl Plan {
    /// At every place, on one thread.
    pub fn new(seed: u64, closed: bool) -> Plan {
        Plan { seed, closed, stride: 1, threads: 1, patience: PATIENCE }
    }
}

/// So many places that hang are enough of one kind of damage: each costs the whole patience, and a thread.
const MOST_HANGS: usize = 3;

/// A thread that tries one kind of damage.
struct Worker {
    thread: Watched<()>,
    damage: Damage,
    so_far: Arc<SoFar>,
    hangs: usize,
}

impl Worker {
    fn start(
        patient: &Arc<Patient>,
        plan: Plan,
        live: &Live,
        damage: Damage,
        so_far: Arc<SoFar>,
    ) -> Watched<()> {
        let (patient, live) = (patient.clone(), live.clone());
        Watched::start(plan.patience, move || patient.go_on(damage, plan.stride, &live, &so_far))
    }
    fn new(patient: &Arc<Patient>, plan: Plan, live: &Live, damage: Damage) -> Worker {
        let so_far = Arc::<SoFar>::default();
        let thread = Worker::start(patient, plan, live, damage, so_far.clone());
        Worker { thread, damage, so_far, hangs: 0 }
    }
    /// The thread was given up. Whether another one is to go on.
    fn hung(&mut self, patience: Duration) -> bool {
        let (role, place) = self.so_far.at.lock().clone();
        let seconds = patience.as_secs_f64();
        let what = format!("it waits or computes without end: nothing came of it in {seconds:.1} s");
        self.so_far.found(self.damage, role, place, Outcome::Wrong(what));
        self.hangs += 1;
        if self.hangs == MOST_HANGS {
            let left = format!("{}, the places behind it", self.damage.name());
            let why = format!("they were left out: {MOST_HANGS} have hung");
            self.so_far.table.lock().violations.push((left, Outcome::Wrong(why)));
        }
        self.hangs < MOST_HANGS
    }
}

/// Sweeps a small database of this kit, watched. Returns the table and the size of the database in bytes. `live` counts the damaged
/// databases that were opened, and can end it.
///
/// # Errors
/// If the scenario that makes the database does not run.
pub fn run(kit: &Kit, plan: Plan, live: &Live) -> Result<(Table, u64), String> {
    let (made_by, seed, closed) = (kit.clone(), plan.seed, plan.closed);
    let made = watched(plan.patience, move || patient(&made_by, seed, closed));
    let patient = Arc::new(made.map_err(|hang| hang.finding.violation.text)??);
    let mut kinds = Damage::ALL.into_iter();
    let next = |kinds: &mut std::array::IntoIter<Damage, _>| {
        kinds.next().map(|damage| Worker::new(&patient, plan, live, damage))
    };
    let mut workers: Vec<Worker> =
        std::iter::from_fn(|| next(&mut kinds)).take(plan.threads.max(1)).collect();
    let mut total = Table::default();
    while !workers.is_empty() {
        std::thread::sleep(TICK);
        let mut at = 0;
        while at < workers.len() {
            let worker = &mut workers[at];
            let over = match worker.thread.look(Duration::ZERO) {
                None => {
                    at += 1;
                    continue;
                }
                Some(Ok(())) => true,
                Some(Err(_)) => !worker.hung(plan.patience),
            };
            if !over {
                worker.thread = Worker::start(&patient, plan, live, worker.damage, worker.so_far.clone());
                continue;
            }
            total.add(std::mem::take(&mut *worker.so_far.table.lock()));
            match next(&mut kinds) {
                Some(other) => workers[at] = other,
                None => drop(workers.swap_remove(at)),
            }
        }
    }
    Ok((total, patient.bytes()))
}

/// The database that is damaged.
fn patient(kit: &Kit, seed: u64, closed: bool) -> Result<Patient, String> {
    let config = kit.workload.config(seed);
    let mut ops = kit.workload.operations(seed, 40);
    // What is open at the end is rolled back: the sweep wants one right answer.
    let open: BTreeSet<_> = ops.iter().filter_map(Op::txn).collect();
    ops.extend(open.into_iter().map(|txn| Op::Rollback { txn }));
    if !closed {
        // Acknowledged work that only the log holds.
        ops.extend(kit.workload.afterwards());
    }
    let foreign = foreign(&*kit.engine, &config, &kit.workload.operations(seed ^ 0xF0, 20))?;
    Patient::new(&kit.engine, &config, foreign, &ops, closed)
}
