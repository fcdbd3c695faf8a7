//! A violation as a file of some twenty lines: the scenario, the planned errors, the crashes. [`Case`] prints itself and parses
//! what it prints.
//!
//! ```text
//! # 1 commit was acknowledged as durable, only 0 are there.
//! # Killed before the 2nd sync of wal, in `commit 1`; everything unsynced survived except wal sectors 8-9.
//! case 1 engine hamal workload btree model posix start newborn
//! config page 4096 frames 0 segment 0 pad 512 images on
//! oracle acknowledged
//! begin 1
//! create 1 0
//! commit 1
//! crash wal sync 2 keep 3.8-9=0
//! ```
use crate::engine::Config;
use crate::explore::Crash;
use crate::op::Op;
use crate::oracles::Oracle;
use crate::sim::{Act, FileId, IoFault, Persistence, Question, Site, Wrong};
use crate::sweep;
use std::fmt::{self, Write as _};
use std::str::FromStr;

/// Everything that a replay needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Plain sentences, for people.
    pub says: Vec<String>,
    /// The engine's name.
    pub engine: String,
    /// The workload whose invariant holds; `none`.
    pub workload: String,
    /// The disk.
    pub model: Persistence,
    /// Whether the scenario starts with the creation of the database, or with one that is there.
    pub creates: bool,
    /// The engine's set-up.
    pub config: Config,
    /// The planted bug that is on.
    pub mutant: Option<String>,
    /// Which oracle objects; `None` if none should.
    pub oracle: Option<Oracle>,
    /// The scenario.
    pub ops: Vec<Op>,
    /// Planned errors.
    pub faults: Vec<IoFault>,
    /// Damage that is done to the files after the scenario. The process has died by then; nothing else is lost.
    pub damages: Vec<Damage>,
    /// Instead of one damage, every one of a kind at every place, after a proper close or without.
    pub sweep: Option<(sweep::Damage, bool)>,
    /// The crash of the scenario, then those of the recoveries. None: all crash points are searched.
    pub crashes: Vec<Crash>,
}

impl Case {
    /// A scenario that begins with the creation of the database, of no workload, with the planned bug that is on; nothing else.
    pub(crate) fn of(engine: &str, model: Persistence, config: &Config, ops: &[Op]) -> Case {
        Case {
            says: Vec::new(),
            engine: engine.to_string(),
            workload: "none".to_string(),
            model,
            creates: true,
            config: config.clone(),
            mutant: hamal::mutants::current().map(|m| m.name().to_string()),
            oracle: None,
            ops: ops.to_vec(),
            faults: Vec::new(),
            damages: Vec::new(),
            sweep: None,
            crashes: Vec::new(),
        }
    }
}

/// Damage of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Which.
    pub file: String,
    /// Where.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
    /// They are xored with this; `None`: zeroed.
    pub xor: Option<u8>,
}

impl Damage {
    /// Does it to the bytes of the file, as far as they reach.
    pub fn apply(&self, bytes: &mut [u8]) {
        let from = usize::try_from(self.offset).unwrap_or(usize::MAX).min(bytes.len());
        let len = usize::try_from(self.len).unwrap_or(usize::MAX).min(bytes.len() - from);
        for b in &mut bytes[from..from + len] {
            *b = self.xor.map_or(0, |x| *b ^ x);
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Damage { file, offset, len, xor } = self;
        match xor {
            Some(x) => write!(f, "damage {file} {offset} {len} xor {x}"),
            None => write!(f, "damage {file} {offset} {len} zero"),
        }
    }
}

impl FromStr for Damage {
    type Err = String;
    fn from_str(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let bad = || format!("{line:?}: damage is `damage FILE OFFSET LEN zero` or `.. xor BYTE`");
        let ["damage", file, offset, len, how @ ..] = &words[..] else { return Err(bad()) };
        let xor = match how {
            ["zero"] => None,
            ["xor", x] => Some(x.parse().map_err(|_| bad())?),
            _ => return Err(bad()),
        };
        let number = |s: &str| s.parse::<u64>().map_err(|_| bad());
        Ok(Damage { file: file.to_string(), offset: number(offset)?, len: number(len)?, xor })
    }
}

const ORACLES: [Oracle; 17] = [
    Oracle::Acknowledged,
    Oracle::Phantom,
    Oracle::Opens,
    Oracle::Verdict,
    Oracle::Structure,
    Oracle::Replay,
    Oracle::Twice,
    Oracle::Reference,
    Oracle::LifeAfter,
    Oracle::Order,
    Oracle::Silent,
    Oracle::Panic,
    Oracle::Hang,
    Oracle::Bounds,
    Oracle::Determinism,
    Oracle::Fault,
    Oracle::Isolation,
];
const MODELS: [(Persistence, &str); 3] =
    [(Persistence::Ordered, "ordered"), (Persistence::Posix, "posix"), (Persistence::Hostile, "hostile")];
const ACTS: [(Act, &str); 9] = [
    (Act::Write, "write"),
    (Act::Sync, "sync"),
    (Act::SetLen, "set-len"),
    (Act::Create, "create"),
    (Act::Rename, "rename"),
    (Act::Remove, "remove"),
    (Act::MakeDir, "make-dir"),
    (Act::SyncDir, "sync-dir"),
    (Act::Read, "read"),
];

impl fmt::Display for Persistence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MODELS.iter().find(|(m, _)| m == self).map_or("?", |(_, n)| n))
    }
}
impl FromStr for Persistence {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let found = MODELS.iter().find(|(_, n)| *n == s).map(|(m, _)| *m);
        found.ok_or_else(|| format!("{s:?} is no persistence model: ordered, posix, hostile"))
    }
}
impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(ACTS.iter().find(|(a, _)| a == self).map_or("?", |(_, n)| n))
    }
}
impl FromStr for Act {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let found = ACTS.iter().find(|(_, n)| *n == s).map(|(a, _)| *a);
        found.ok_or_else(|| format!("{s:?} is nothing that is done to a disk"))
    }
}
impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.act)
    }
}
impl FromStr for Oracle {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let found = ORACLES.into_iter().find(|o| o.to_string() == s);
        found.ok_or_else(|| format!("{s:?} is no oracle"))
    }
}

/// The roles of files, as [`crate::sim::role`] names them.
pub(crate) const ROLES: [&str; 8] =
    ["wal", "wal-spare", "data", "control", "versions", "root", "lock", "other"];

pub(crate) fn role_named(s: &str) -> Result<&'static str, String> {
    ROLES.into_iter().find(|r| *r == s).ok_or_else(|| format!("{s:?} is no role of a file"))
}

/// Answers in few words: `3.8-9=0` (sectors 8 and 9 of file 3: answer 0), `3.len=1`, `name.4=0`.
fn answers(list: &[(Question, u8)]) -> String {
    let mut sorted = list.to_vec();
    sorted.sort_unstable();
    let mut out = String::new();
    let mut i = 0;
    while i < sorted.len() {
        let (q, a) = sorted[i];
        i += 1;
        let _ = match q {
            Question::Length { file } => write!(out, " {file}.len={a}"),
            Question::Name { change } => write!(out, " name.{change}={a}"),
            Question::Sector { file, sector } => {
                let mut last = sector;
                while let Some((Question::Sector { file: f, sector: s }, b)) = sorted.get(i)
                    && (*f, Some(*s), *b) == (file, last.checked_add(1), a)
                {
                    last += 1;
                    i += 1;
                }
                match last == sector {
                    true => write!(out, " {file}.{sector}={a}"),
                    false => write!(out, " {file}.{sector}-{last}={a}"),
                }
            }
        };
    }
    out
}

/// The answers of one crash are fewer.
const MOST_ANSWERS: usize = 1 << 20;

fn parse_answers(words: &[&str]) -> Result<Vec<(Question, u8)>, String> {
    let mut out = Vec::new();
    for word in words {
        let bad = || format!("{word:?} is no answer");
        let (what, answer) = word.split_once('=').ok_or_else(bad)?;
        let answer: u8 = answer.parse().map_err(|_| bad())?;
        let (file, part) = what.split_once('.').ok_or_else(bad)?;
        if file == "name" {
            out.push((Question::Name { change: part.parse().map_err(|_| bad())? }, answer));
            continue;
        }
        let file: FileId = file.parse().map_err(|_| bad())?;
        if part == "len" {
            out.push((Question::Length { file }, answer));
            continue;
        }
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (u64, u64) = (from.parse().map_err(|_| bad())?, to.parse().map_err(|_| bad())?);
        // A few words must not become all memory.
        if to < from || to - from > (MOST_ANSWERS - out.len()) as u64 {
            return Err(bad());
        }
        out.extend((from..=to).map(|sector| (Question::Sector { file, sector }, answer)));
        if out.len() >= MOST_ANSWERS {
            return Err("these are too many answers".into());
        }
    }
    // As they are printed.
    out.sort_unstable();
    Ok(out)
}

impl fmt::Display for Crash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.site {
            Some(site) => write!(f, "crash {site} {}", self.nth)?,
            None => write!(f, "crash at end 0")?,
        }
        f.write_str(if self.rest_survives { " keep" } else { " lose" })?;
        f.write_str(&answers(&self.answers))
    }
}

impl FromStr for Crash {
    type Err = String;
    fn from_str(line: &str) -> Result<Crash, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["crash", role, act, nth, rest, answers @ ..] = &words[..] else {
            return Err(format!("{line:?}: a crash is `crash ROLE ACT N keep|lose ANSWERS`"));
        };
        let site = match (*role, *act) {
            ("at", "end") => None,
            _ => Some(Site { role: role_named(role)?, act: act.parse()? }),
        };
        let rest_survives = match *rest {
            "keep" => true,
            "lose" => false,
            other => return Err(format!("{other:?} is neither keep nor lose")),
        };
        // The end comes once.
        let nth: usize = nth.parse().map_err(|_| format!("{nth:?} is no number"))?;
        let nth = if site.is_some() { nth } else { 0 };
        Ok(Crash { point: 0, site, nth, answers: parse_answers(answers)?, rest_survives })
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wrong::Eio => f.write_str("eio"),
            Wrong::Dies => f.write_str("dies"),
            Wrong::NoSpace => f.write_str("nospace"),
            Wrong::Interrupted => f.write_str("eintr"),
            Wrong::Short(n) => write!(f, "short:{n}"),
            Wrong::Lie => f.write_str("lie"),
            Wrong::LostWrite => f.write_str("lost"),
            Wrong::Misdirected(n) => write!(f, "misdirected:{n}"),
            Wrong::BitFlip { bit } => write!(f, "bitflip:{bit}"),
        }
    }
}
impl FromStr for Wrong {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let bad =
            || format!("{s:?} is no fault: eio dies nospace eintr short:N lie lost misdirected:N bitflip:N");
        let (word, number) = s.split_once(':').unwrap_or((s, "0"));
        let number: i64 = number.parse().map_err(|_| bad())?;
        Ok(match word {
            "eio" => Wrong::Eio,
            "dies" => Wrong::Dies,
            "nospace" => Wrong::NoSpace,
            "eintr" => Wrong::Interrupted,
            "short" => Wrong::Short(u64::try_from(number).map_err(|_| bad())?),
            "lie" => Wrong::Lie,
            "lost" => Wrong::LostWrite,
            "misdirected" => Wrong::Misdirected(number),
            "bitflip" => Wrong::BitFlip { bit: u64::try_from(number).map_err(|_| bad())? },
            _ => return Err(bad()),
        })
    }
}
impl fmt::Display for IoFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times = if self.forever { "forever" } else { "once" };
        write!(f, "fault {} {} {} {times} {}", self.role.unwrap_or("any"), self.act, self.nth, self.what)
    }
}
impl FromStr for IoFault {
    type Err = String;
    fn from_str(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let ["fault", role, act, nth, times, what] = &words[..] else {
            return Err(format!("{line:?}: a fault is `fault ROLE ACT N once|forever WHAT`"));
        };
        let forever = match *times {
            "once" => false,
            "forever" => true,
            other => return Err(format!("{other:?} is neither once nor forever")),
        };
        Ok(IoFault {
            role: if *role == "any" { None } else { Some(role_named(role)?) },
            act: act.parse()?,
            nth: nth.parse().map_err(|_| format!("{nth:?} is no number"))?,
            forever,
            what: what.parse()?,
        })
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for s in &self.says {
            writeln!(f, "# {s}")?;
        }
        let start = if self.creates { "new" } else { "newborn" };
        writeln!(
            f,
            "case 1 engine {} workload {} model {} start {start}",
            self.engine, self.workload, self.model
        )?;
        let c = &self.config;
        let images = if c.images { "on" } else { "off" };
        write!(
            f,
            "config page {} frames {} segment {} pad {} images {images}",
            c.page_size, c.frames, c.segment_bytes, c.pad
        )?;
        if !c.bypass {
            write!(f, " bypass off")?;
        }
        if c.dsync {
            write!(f, " dsync on")?;
        }
        for (key, value) in [
            ("ring", c.ring_bytes),
            ("log", c.log_bytes),
            ("versions", c.version_bytes),
            ("patience", c.patience),
        ] {
            if value != 0 {
                write!(f, " {key} {value}")?;
            }
        }
        writeln!(f)?;
        if let Some(m) = &self.mutant {
            writeln!(f, "mutant {m}")?;
        }
        match self.oracle {
            Some(o) => writeln!(f, "oracle {o}")?,
            None => writeln!(f, "oracle none")?,
        }
        for op in &self.ops {
            writeln!(f, "{op}")?;
        }
        for fault in &self.faults {
            writeln!(f, "{fault}")?;
        }
        for damage in &self.damages {
            writeln!(f, "{damage}")?;
        }
        if let Some((damage, closed)) = self.sweep {
            writeln!(f, "sweep {} {}", if closed { "closed" } else { "killed" }, damage.name())?;
        }
        for crash in &self.crashes {
            writeln!(f, "{crash}")?;
        }
        Ok(())
    }
}

impl FromStr for Case {
    type Err = String;
    fn from_str(text: &str) -> Result<Case, String> {
        let mut case = Case {
            says: Vec::new(),
            engine: String::new(),
            workload: "none".into(),
            model: Persistence::Posix,
            creates: false,
            config: Config::default(),
            mutant: None,
            oracle: None,
            ops: Vec::new(),
            faults: Vec::new(),
            damages: Vec::new(),
            sweep: None,
            crashes: Vec::new(),
        };
        let mut headed = false;
        for (n, line) in text.lines().enumerate() {
            let line = line.trim();
            if let Some(comment) = line.strip_prefix('#') {
                case.says.push(comment.trim().to_string());
                continue;
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            let Some(first) = words.first() else { continue };
            let parsed = match *first {
                "case" => {
                    headed = true;
                    case.header(&words[1..])
                }
                _ if !headed => Err("the file does not begin with `case 1 ..`".to_string()),
                "config" => parse_config(&mut case.config, &words[1..]),
                "mutant" => words.get(1).map(|m| case.mutant = Some(m.to_string())).ok_or("which?".into()),
                "oracle" if words.get(1) == Some(&"none") => {
                    case.oracle = None;
                    Ok(())
                }
                "oracle" => words.get(1).ok_or("which?".to_string()).and_then(|o| {
                    case.oracle = Some(o.parse()?);
                    Ok(())
                }),
                "fault" => line.parse().map(|f| case.faults.push(f)),
                "sweep" => parse_sweep(&line["sweep".len()..]).map(|s| case.sweep = Some(s)),
                "damage" => line.parse().map(|d| case.damages.push(d)),
                "crash" => line.parse().map(|c| case.crashes.push(c)),
                _ => line.parse().map(|op| case.ops.push(op)),
            };
            parsed.map_err(|e| format!("line {}: {e}", n + 1))?;
        }
        if headed { Ok(case) } else { Err("this is no case: there is no line `case 1 ..`".into()) }
    }
}

impl Case {
    fn header(&mut self, words: &[&str]) -> Result<(), String> {
        if words.first() != Some(&"1") {
            return Err("only version 1 of the format is known".into());
        }
        for pair in words[1..].chunks(2) {
            let [key, value] = pair else { return Err(format!("{:?} has no value", pair[0])) };
            match *key {
                "engine" => self.engine = value.to_string(),
                "workload" => self.workload = value.to_string(),
                "model" => self.model = value.parse()?,
                "start" => {
                    self.creates = match *value {
                        "new" => true,
                        "newborn" => false,
                        other => return Err(format!("{other:?} is neither new nor newborn")),
                    }
                }
                other => return Err(format!("{other:?} is not known here")),
            }
        }
        if self.engine.is_empty() { Err("which engine?".into()) } else { Ok(()) }
    }

    /// Whether it is as small as a person likes to read: at most 10 operations and 2 decisions.
    pub fn is_small(&self) -> bool {
        self.ops.len() <= 10 && self.decisions() <= 2
    }

    /// Decisions that the case makes: crashes, runs of answers, and faults.
    pub fn decisions(&self) -> usize {
        let exceptions: usize =
            self.crashes.iter().map(|c| answers(&c.answers).split_whitespace().count()).sum();
        self.crashes.len()
            + exceptions
            + self.faults.len()
            + self.damages.len()
            + usize::from(self.sweep.is_some())
    }
}

/// Reads `closed` or `killed`, and the name of a kind of damage.
pub(crate) fn parse_sweep(text: &str) -> Result<(sweep::Damage, bool), String> {
    let (state, name) = text.trim().split_once(' ').ok_or("sweep: of what?")?;
    let closed = match state {
        "closed" => true,
        "killed" => false,
        other => return Err(format!("sweep: {other:?} is neither closed nor killed")),
    };
    let damage = sweep::Damage::ALL.into_iter().find(|d| d.name() == name.trim());
    Ok((damage.ok_or_else(|| format!("sweep: {name:?} is no damage"))?, closed))
}

/// Reads pairs of words into a set-up.
pub(crate) fn parse_config(config: &mut Config, words: &[&str]) -> Result<(), String> {
    for pair in words.chunks(2) {
        let [key, value] = pair else { return Err(format!("{:?} has no value", pair[0])) };
        let number = || value.parse::<u32>().map_err(|_| format!("{value:?} is no number"));
        let switch = || match *value {
            "on" => Ok(true),
            "off" => Ok(false),
            other => Err(format!("{other:?} is neither on nor off")),
        };
        match *key {
            "page" => config.page_size = number()?,
            "frames" => config.frames = number()?,
            "segment" => config.segment_bytes = number()?,
            "pad" => config.pad = number()?,
            "images" => config.images = switch()?,
            "bypass" => config.bypass = switch()?,
            "dsync" => config.dsync = switch()?,
            "ring" => config.ring_bytes = number()?,
            "log" => config.log_bytes = number()?,
            "versions" => config.version_bytes = number()?,
            "patience" => config.patience = number()?,
            other => return Err(format!("{other:?} is not known here")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_parses_what_it_prints() {
        let text = "# One is missing.\n\
            case 1 engine hamal workload btree model hostile start newborn\n\
            config page 4096 frames 0 segment 8192 pad 512 images off bypass off dsync on ring 65536 versions 70000\n\
            mutant ack-before-sync\n\
            oracle acknowledged\n\
            begin 1\n\
            put 1 0 7 100 3\n\
            commit 1\n\
            fault wal write 3 once short:100\n\
            fault any sync 1 forever eio\n\
            damage wal/0000000000001000 6624 1 xor 128\n\
            damage data 0 512 zero\n\
            sweep killed older control and\n\
            crash wal sync 2 keep 3.8-9=0 3.11=2 4.len=1 name.7=0\n\
            crash at end 0 lose\n";
        let case: Case = text.parse().unwrap();
        assert_eq!(case.to_string(), text);
        assert_eq!(case.crashes[0].answers.len(), 5);
        assert_eq!(case.decisions(), 2 + 4 + 2 + 2 + 1);
        for bad in ["", "begin 1", "case 2", "case 1 engine", "case 1\ncrash wal", "case 1\nput 1"] {
            assert!(bad.parse::<Case>().is_err(), "{bad}");
        }
    }
}
