//! The corruption sweep: a small database is damaged in every way of a list, at every place, and opened after each.
//!
//! The rule is one: right data, or a typed error. An outcome is *silent* if what is read is wrong and nothing says so; there
//! must be none. An open that is refused must do no harm either: the damage is taken back then, and everything must be there.
//!
//! Damage of a sector that the engine never reads cannot matter: two runs that read the same are the same run. So a first run
//! notes what is read, and the rest is counted as such without being tried.
//!
//! The threads of a sweep are [watched](crate::watchdog): an engine that waits or computes for ever over a damage is a violation that
//! names the place, the thread is given up, and another goes on behind it.
use crate::campaign::{Found, Kit, Live};
use crate::case::{self, Case};
use crate::engine::{Config, Engine, FailureKind};
use crate::model::Allowed;
use crate::op::Op;
use crate::oracles::{Oracle, Violation};
use crate::random::Random;
use crate::run::{Ended, Newest, bounded, dropped, newborn};
use crate::sim::{Act, Image, IoEvent, Persistence, SimDisk, role};
use crate::watchdog::{self, PATIENCE, TICK, Watched, watched};
use hamal::disk::{Disk, DiskFile, DiskLock, OpenMode};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::iter::repeat;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

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
    /// Whether the files are of different moments. What an open does to them before it notices cannot be taken back: each of them
    /// may be right by itself.
    fn is_of_another_moment(self) -> bool {
        matches!(self, Damage::OlderFile | Damage::OlderPair | Damage::OlderButData)
    }
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
    /// What was silent or wrong, the first hundred of each kind of damage.
    pub violations: Vec<Bad>,
}

/// Something silent or wrong.
#[derive(Clone, Debug)]
pub struct Bad {
    /// The kind of damage.
    pub damage: Damage,
    /// The damage in words.
    pub place: String,
    /// Of a single byte: the damage, exactly.
    pub exactly: Option<case::Damage>,
    /// What came of it.
    pub outcome: Outcome,
}

impl Bad {
    fn violation(&self) -> Violation {
        match &self.outcome {
            Outcome::Silent(text) => Violation::new(Oracle::Silent, format!("{}: {text}", self.place)),
            Outcome::Wrong(text) => Violation::new(Oracle::Fault, format!("{}: {text}", self.place)),
            other => Violation::new(Oracle::Fault, format!("{}: {other:?}", self.place)),
        }
    }
}

impl Table {
    /// Silent outcomes.
    pub fn silent(&self) -> u64 {
        self.outcomes("SILENT")
    }
    /// Silent outcomes, and those that are wrong in another way.
    pub fn wrong(&self) -> u64 {
        self.silent() + self.outcomes("WRONG")
    }
    fn outcomes(&self, name: &str) -> u64 {
        self.cells.values().filter_map(|counts| counts.get(name)).sum()
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
            let is = |act| move |(_, e): &(usize, &IoEvent)| e.site.role == "wal" && e.site.act == act;
            let end = events.iter().enumerate().rfind(is(Act::Write)).map_or(0, |(i, _)| i);
            let from = match config.dsync {
                false => events[..end].iter().enumerate().rfind(is(Act::Sync)).map_or(0, |(i, _)| i),
                // Each write is durable by itself. A group that goes on in the next file takes one for each.
                true => first_of_group(&events, end),
            };
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
        let (outcome, _) = self.open(Arc::new(spy), disk);
        if outcome != Outcome::Right {
            return Err(format!("without damage: {outcome:?}"));
        }
        self.read = read.lock().clone();
        Ok(())
    }

    fn is_read(&self, name: &str, sector: u64) -> bool {
        self.read.get(name).is_some_and(|s| s.contains(&sector))
    }

    /// Opens, reads everything, verifies. Also, whether the open was refused.
    fn open(&self, disk: Arc<dyn Disk>, sim: SimDisk) -> (Outcome, bool) {
        let kind = |text: &str| text.split(':').next().unwrap_or("?").trim().to_string();
        watchdog::on(&sim);
        let opened = bounded(&sim, || self.engine.open(disk, &self.config));
        let mut session = match opened {
            Err(fall) => return (Outcome::Wrong(fall.violation("the open").text), false),
            Ok(Err(f)) => {
                sim.power_off();
                return match f.kind {
                    FailureKind::Damage => (Outcome::Error(kind(&f.text)), true),
                    _ => (Outcome::Wrong(f.to_string()), false),
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
        (outcome, false)
    }

    /// What a refused open has done to a database that was `damaged`: once the damage is taken back, everything must be there. `left` is
    /// what it left.
    fn taken_back(&self, damaged: &Image, left: &Image) -> Option<String> {
        let mut mended = left.clone();
        for (name, right) in &self.files {
            let Some(bad) = damaged.file(name) else {
                if left.file(name).is_none() {
                    mended = mended.with_file(name, right);
                }
                continue;
            };
            if bad == *right {
                continue;
            }
            let Some(mut now) = left.file(name) else { return Some(format!("it removes {name}")) };
            // What the engine has written since is its own, page by page or sector by sector.
            let piece = if role(name) == "data" { self.config.page_size as usize } else { SECTOR };
            let len = if now.len() == bad.len() { right.len() } else { now.len().max(right.len()) };
            let padded = |bytes: &[u8], len: usize| {
                bytes.iter().copied().chain(repeat(0)).take(len).collect::<Vec<u8>>()
            };
            let (bad, right) = (padded(&bad, len), padded(right, len));
            now.resize(len, 0);
            for at in (0..len).step_by(piece) {
                let r = at..(at + piece).min(len);
                if now[r.clone()] == bad[r.clone()] {
                    now[r.clone()].copy_from_slice(&right[r]);
                }
            }
            mended = mended.with_file(name, &now);
        }
        let disk = SimDisk::boot(&mended, Box::new(Newest));
        match self.open(Arc::new(disk.clone()), disk).0 {
            Outcome::Right => None,
            other => Some(format!("once the damage is taken back: {other:?}")),
        }
    }

    /// Tries a damaged image. `tail`: whether the damage touches the last write to the log.
    fn attempt(&self, damage: Damage, image: &Image, tail: bool) -> Outcome {
        let disk = SimDisk::boot(image, Box::new(Newest));
        let (outcome, refused) = self.open(Arc::new(disk.clone()), disk.clone());
        if refused
            && !damage.is_of_another_moment()
            && let Some(harm) = self.taken_back(image, &disk.kept())
        {
            return Outcome::Wrong(format!("{outcome:?}, but the refused open does harm: {harm}"));
        }
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
        let mut visit = |name: &str, what: &str, at: u64, image: Image, tail: bool| {
            number += 1;
            if number <= tried || live.stop.load(Relaxed) {
                return;
            }
            let place = match what {
                "" => format!("{} of {name} at {at}", damage.name()),
                _ => format!("{} {what} of {name} at {at}", damage.name()),
            };
            *so_far.at.lock() = (role(name), place.clone());
            let mut outcome = self.attempt(damage, &image, tail);
            // That the file is another database's must be said, not only that something is wrong.
            if let (Damage::Foreign, Outcome::Error(kind), Some(right)) =
                (damage, &outcome, self.engine.names_a_strangers_file(role(name)))
                && kind != right
            {
                outcome = Outcome::Wrong(format!("{kind}, and not {right}"));
            }
            let pattern = what.strip_prefix("by ").and_then(|x| x.parse().ok());
            let exactly = pattern.filter(|_| damage == Damage::Byte).map(|x| case::Damage {
                file: name.to_owned(),
                offset: at,
                len: 1,
                xor: Some(x),
            });
            so_far.found(damage, role(name), place, exactly, outcome);
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
                            for (pattern, what) in [(1, "by 1"), (128, "by 128"), (255, "by 255")] {
                                let image = touch(at, &[bytes[at] ^ pattern]);
                                visit(name, what, at as u64, image, tail(&of(s)));
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
    fn found(
        &self,
        damage: Damage,
        role: &'static str,
        place: String,
        exactly: Option<case::Damage>,
        outcome: Outcome,
    ) {
        self.tried.fetch_add(1, Relaxed);
        let mut table = self.table.lock();
        table.cases += 1;
        table.count(damage, role, &outcome, 1);
        if matches!(outcome, Outcome::Silent(_) | Outcome::Wrong(_)) && table.violations.len() < 100 {
            table.violations.push(Bad { damage, place, exactly, outcome });
        }
    }
}

/// The first of the writes that follow each other, each to another file of the log, up to number `last`.
pub(crate) fn first_of_group(events: &[IoEvent], last: usize) -> usize {
    let mut at = last;
    while at > 0 && goes_on(&events[at - 1], &events[at]) {
        at -= 1;
    }
    at
}

/// Whether a write goes on in another file of the log.
pub(crate) fn goes_on(a: &IoEvent, b: &IoEvent) -> bool {
    let writes = [a, b].iter().all(|e| e.site.role == "wal" && e.site.act == Act::Write);
    writes && a.name != b.name
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
    let table = patient.sweep(damage, if damage == Damage::Byte { HUNT_STRIDE } else { 1 }, live);
    Ok(table.violations.first().map(|bad| (bad.violation(), table.cases)))
}

/// Of the bytes, every so manieth is enough to see a check that is missing.
const HUNT_STRIDE: usize = 64;

/// [`violation`], watched.
pub(crate) fn looked_for(
    engine: &Arc<dyn Engine>,
    config: &Config,
    ops: &[Op],
    how: (Damage, bool),
    patience: Duration,
) -> Option<(Violation, u64)> {
    let (engine, config, ops) = (engine.clone(), config.clone(), ops.to_vec());
    match watched(patience, move || violation(&engine, &config, &ops, how, &Live::default())) {
        Ok(swept) => swept.ok()?,
        Err(hang) => Some((hang.finding.violation, 1)),
    }
}

/// Operations without which the damage still shows.
pub(crate) fn fewer(
    engine: &Arc<dyn Engine>,
    config: &Config,
    (ops, violation): (Vec<Op>, Violation),
    how: (Damage, bool),
    patience: Duration,
    until: Instant,
) -> (Vec<Op>, Violation) {
    let (mut best, mut violation) = (ops, violation);
    let mut at = best.len();
    while at > 0 && Instant::now() < until {
        at -= 1;
        let mut ops = best.clone();
        ops.remove(at);
        if let Some((v, _)) = looked_for(engine, config, &ops, how, patience)
            && v.oracle == violation.oracle
        {
            (best, violation) = (ops, v);
        }
    }
    (best, violation)
}

/// What a sweep by this plan has found, as a case that can be run again, made smaller for so long.
pub fn found(kit: &Kit, plan: Plan, bad: &Bad, after_cases: u64, shrink: Duration) -> Found {
    let until = Instant::now() + shrink;
    let (config, ops) = scenario(kit, plan.seed, plan.closed);
    let how = (bad.damage, plan.closed);
    let mut case = Case {
        workload: kit.workload.name().to_string(),
        creates: false,
        ..Case::of(kit.engine.name(), Persistence::Posix, &config, &ops)
    };
    let mut violation = bad.violation();
    let again = looked_for(&kit.engine, &config, &ops, how, plan.patience);
    match (again, &bad.exactly) {
        (Some((v, _)), _) if v.oracle == violation.oracle => {
            (case.ops, violation) = fewer(&kit.engine, &config, (ops, v), how, plan.patience, until);
            case.sweep = Some(how);
        }
        // Another byte than those that a case looks at.
        (_, Some(exactly)) => {
            case.ops.extend(plan.closed.then_some(Op::Reopen));
            case.damages.push(exactly.clone());
        }
        _ => case.sweep = Some(how),
    }
    case.says = vec![violation.text.replace('\n', " ")];
    case.oracle = Some(violation.oracle);
    Found { case, violation, after_cases, after_seconds: 0.0, operations_before: 0 }
}

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
        self.so_far.found(self.damage, role, place, None, Outcome::Wrong(what));
        self.hangs += 1;
        if self.hangs == MOST_HANGS {
            let place = format!("{}, the places behind it", self.damage.name());
            let outcome = Outcome::Wrong(format!("they were left out: {MOST_HANGS} have hung"));
            let left = Bad { damage: self.damage, place, exactly: None, outcome };
            self.so_far.table.lock().violations.push(left);
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

/// The set-up and the operations that make the database which is damaged.
fn scenario(kit: &Kit, seed: u64, closed: bool) -> (Config, Vec<Op>) {
    let config = kit.workload.config(seed);
    let mut ops = kit.workload.operations(seed, 40);
    // A sweep goes over every sector: the database is to be small, so no tree lies far out in the file.
    for op in &mut ops {
        if let Op::CreateFar { txn, tree, .. } = *op {
            *op = Op::CreateTree { txn, tree };
        }
    }
    // What is open at the end is rolled back: the sweep wants one right answer.
    let open: BTreeSet<_> = ops.iter().filter_map(Op::txn).collect();
    ops.extend(open.into_iter().map(|txn| Op::Rollback { txn }));
    if !closed {
        // Acknowledged work that only the log holds.
        ops.extend(kit.workload.afterwards());
    }
    (config, ops)
}

/// The database that is damaged. The stranger's is made by the same operations: it has the same files.
fn patient(kit: &Kit, seed: u64, closed: bool) -> Result<Patient, String> {
    let (config, ops) = scenario(kit, seed, closed);
    let foreign = foreign(&*kit.engine, &config, &ops)?;
    Patient::new(&kit.engine, &config, foreign, &ops, closed)
}
