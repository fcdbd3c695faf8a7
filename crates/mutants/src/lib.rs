//! Planted bugs. A crash test that finds nothing proves something only if it finds these.
//!
//! Each [`Mutant`] is a way to break the engine at one place: the code there asks [`is`], and does the wrong thing if that
//! very mutant was [chosen](choose). Without the feature `mutants` (nothing that ships has it) `is` is a constant `false`,
//! so the compiler leaves nothing of the wrong code. With it, `is` is one relaxed load, and at most one mutant is on at a
//! time, in the whole process.
//!
//! `docs/mutants.md` has the table, printed by [`table`]. Most mutants do no harm until something happens that
//! [`Mutant::needs`] names: that is what makes them worth hunting.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod list;

pub use list::{ALL, Mutant};
use std::fmt;

/// What has to happen before a mutant does harm. A mutant that needs nothing shows in normal work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Need {
    /// A power failure at the right moment.
    Crash,
    /// A power failure that leaves a part of one write (`posix` and `hostile`).
    Tear,
    /// A sector that was being written holds garbage afterwards, or a sector that was rewritten with the same bytes
    /// (`hostile` only).
    Hostile,
    /// A second crash: during recovery, or before the next complete checkpoint.
    Nested,
    /// The process dies and the operating system's cache lives on; the power fails later.
    Kill,
    /// Calls that fail with EIO.
    IoErrors,
    /// A full device.
    NoSpace,
    /// System calls that write a part, or are interrupted.
    ShortWrites,
    /// Bytes, sectors, writes or files that are changed, lost or exchanged behind the engine's back.
    Damage,
    /// A second opener of the same directory.
    TwoOwners,
    /// A limit of memory or log that is watched.
    Limits,
    /// Several threads.
    Threads,
}

impl Need {
    /// The name that tables print.
    pub fn name(self) -> &'static str {
        match self {
            Need::Crash => "crash",
            Need::Tear => "torn write",
            Need::Hostile => "hostile",
            Need::Nested => "second crash",
            Need::Kill => "kill, then power failure",
            Need::IoErrors => "io errors",
            Need::NoSpace => "full device",
            Need::ShortWrites => "short writes",
            Need::Damage => "damage",
            Need::TwoOwners => "two owners",
            Need::Limits => "watched limits",
            Need::Threads => "several threads",
        }
    }
}

impl Mutant {
    /// The mutant of that name, or of that number in decimal.
    pub fn find(name: &str) -> Option<Mutant> {
        let number = name.parse().ok();
        ALL.iter().copied().find(|m| m.name() == name || Some(m.number()) == number)
    }
    /// Where it is shown, if crashes of one thread are not what shows it: the file of a test that names it. None for the others.
    pub fn shown_by(self) -> Option<&'static str> {
        SHOWN_BY_TESTS.iter().find(|(_, bugs)| bugs.contains(&self)).map(|(test, _)| *test)
    }
    /// Why nothing outside shows it: a second line of defence, which is there, refuses what it lets through.
    pub fn masked_by(self) -> Option<&'static str> {
        MASKED.iter().find(|(m, _)| *m == self).map(|(_, why)| *why)
    }
    /// Whether one thread is enough to show it.
    pub fn single_threaded(self) -> bool {
        !self.needs().contains(&Need::Threads)
    }
}

/// Planted bugs that other tests are for than crashes of one thread: those with drawn schedules of several threads, and that of versions.
/// A bug that a hunt finds as well is not among them.
const SHOWN_BY_TESTS: &[(&str, &[Mutant])] = &[
    (
        "tests/model/check/tests/check/log.rs",
        &[
            Mutant::LeaderDoesNotWait,
            Mutant::FollowerAcked,
            Mutant::FollowerDoesNotLook,
            Mutant::LeaderForgetsTheOthers,
            Mutant::RingNotAdmitted,
            Mutant::FlusherUnannounced,
        ],
    ),
    (
        "tests/model/check/tests/check/waits.rs",
        &[Mutant::PartialRollbackWakesNobody, Mutant::WakeWithoutDoor, Mutant::WaitersIgnorePoison],
    ),
    (
        "tests/model/check/tests/check/readers.rs",
        &[
            Mutant::StatusForgottenFirst,
            Mutant::StatusAfterRecord,
            Mutant::SnapshotLate,
            Mutant::TooOldTestedFirst,
        ],
    ),
    ("tests/model/check/tests/check/space.rs", &[Mutant::PageReservedTwice]),
    ("tests/model/check/tests/check/commits.rs", &[Mutant::ListedLate, Mutant::EndedRevived]),
    (
        "tests/model/check/tests/check/pages.rs",
        &[
            Mutant::ImageAfterLatch,
            Mutant::FlightClearsAll,
            Mutant::LatchBeforeLsn,
            Mutant::BNotReadAgain,
            Mutant::NoFlightMark,
            Mutant::PublishAfterScan,
            Mutant::SyncBeforeScan,
            Mutant::StaleFlightMark,
            Mutant::StaleRecLsn,
            Mutant::FreedInFlightLeaves,
            Mutant::CleanerWaits,
        ],
    ),
    (
        "crates/hamal/tests/versions_caught.rs",
        &[
            Mutant::PruneForOldestOnly,
            Mutant::DemotionPinsNoLog,
            Mutant::DemotedNotLookedFor,
            Mutant::OldGhostsStay,
            Mutant::NoVersionBudget,
        ],
    ),
];

/// Planted bugs behind which another check does the same.
const MASKED: &[(Mutant, &str)] = &[
    (
        Mutant::ControlProofIgnored,
        "a log that ends below the end of the checkpoint lacks its end record, for the log ends with a group; analysis refuses \
         that with the same kind of error, before anything is appended",
    ),
    (
        Mutant::ChecksumWithoutPage,
        "the table of page versions notices it (VER-1); where that is damaged, what the B-tree expects of a node (tree, level, \
         fences) or of a long value's page (chain, position)",
    ),
];

impl fmt::Display for Mutant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether mutants can be chosen in this build.
pub const ENABLED: bool = cfg!(feature = "mutants");

#[cfg(all(feature = "mutants", feature = "checked"))]
mod chosen {
    use super::{ALL, Mutant};
    use std::cell::Cell;

    thread_local! {
        /// Number of the mutant that is on; 0: none. A model checker runs all threads of an execution on one.
        static CHOSEN: Cell<u16> = const { Cell::new(0) };
    }

    /// Whether this mutant is on.
    pub fn is(m: Mutant) -> bool {
        CHOSEN.get() == m.number()
    }
    /// Turns one mutant on, or all off, for this thread.
    pub fn choose(m: Option<Mutant>) {
        CHOSEN.set(m.map_or(0, Mutant::number));
    }
    /// The mutant that is on.
    pub fn current() -> Option<Mutant> {
        ALL.iter().copied().find(|m| m.number() == CHOSEN.get())
    }
}

#[cfg(all(feature = "mutants", not(feature = "checked")))]
mod chosen {
    use super::{ALL, Mutant};
    use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

    /// Number of the mutant that is on; 0: none.
    static CHOSEN: AtomicU16 = AtomicU16::new(0);

    /// Whether this mutant is on.
    #[inline]
    pub fn is(m: Mutant) -> bool {
        CHOSEN.load(Relaxed) == m.number()
    }
    /// Turns one mutant on, or all off, for the whole process. Best while no database is open.
    pub fn choose(m: Option<Mutant>) {
        CHOSEN.store(m.map_or(0, Mutant::number), Relaxed);
    }
    /// The mutant that is on.
    pub fn current() -> Option<Mutant> {
        let n = CHOSEN.load(Relaxed);
        ALL.iter().copied().find(|m| m.number() == n)
    }
}

#[cfg(not(feature = "mutants"))]
mod chosen {
    use super::Mutant;

    /// Never: this build has no mutants.
    #[inline(always)]
    pub const fn is(_: Mutant) -> bool {
        false
    }
    /// Does nothing: this build has no mutants.
    pub fn choose(_: Option<Mutant>) {}
    /// None: this build has no mutants.
    pub fn current() -> Option<Mutant> {
        None
    }
}

pub use chosen::{choose, current, is};

/// The table of `docs/mutants.md`, in Markdown.
pub fn table() -> String {
    let mut s =
        "| | mutant | what is wrong | breaks | where | needs |\n|---|---|---|---|---|---|\n".to_string();
    for m in ALL {
        let needs: Vec<_> = m.needs().iter().map(|n| n.name()).collect();
        let needs = if needs.is_empty() { "nothing".to_owned() } else { needs.join(", ") };
        let places: Vec<_> = m.places().iter().map(|p| format!("`{p}`")).collect();
        s += &format!(
            "| {} | `{}` | {} | {} | {} | {needs} |\n",
            m.number(),
            m.name(),
            m.description(),
            m.breaks(),
            places.join(", ")
        );
    }
    s
}

/// What is likely to show each mutant, in Markdown: the second half of `docs/mutants.md`.
pub fn hints() -> String {
    ALL.iter().map(|m| format!("* `{}`: {}\n", m.name(), m.hint())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    fn crates() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("crates").to_path_buf()
    }

    #[test]
    fn numbers_and_names_are_in_order_and_unique() {
        let mut names = HashSet::new();
        for (i, m) in ALL.iter().enumerate() {
            assert_eq!(usize::from(m.number()), i + 1, "{m}");
            assert!(names.insert(m.name()), "{m}");
            assert_eq!(Mutant::find(m.name()), Some(*m));
            assert_eq!(Mutant::find(&m.number().to_string()), Some(*m));
            let kebab: String = format!("{m:?}")
                .chars()
                .flat_map(|c| if c.is_uppercase() { vec!['-', c.to_ascii_lowercase()] } else { vec![c] })
                .collect();
            assert_eq!(kebab[1..], *m.name());
            let sentence = m.description().trim_end_matches(')').ends_with('.');
            assert!(sentence && !m.hint().is_empty() && !m.breaks().is_empty(), "{m}");
        }
        assert_eq!(Mutant::find("no-such-bug"), None);
    }

    /// The files that ask for each mutant are exactly those that the list names.
    #[test]
    fn every_mutant_is_planted_where_it_says() {
        fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(dir).expect("read_dir") {
                let path = entry.expect("entry").path();
                if path.is_dir() {
                    sources(&path, out);
                } else if path.extension().is_some_and(|e| e == "rs") {
                    out.push(path);
                }
            }
        }
        let mut files = Vec::new();
        for entry in fs::read_dir(crates()).expect("crates") {
            let dir = entry.expect("entry").path();
            if dir.join("src").is_dir() && !dir.ends_with("mutants") {
                sources(&dir.join("src"), &mut files);
            }
        }
        let texts: Vec<(String, String)> = files
            .iter()
            .map(|p| {
                let name = p.strip_prefix(crates()).expect("inside").to_string_lossy().into_owned();
                (name, fs::read_to_string(p).expect("text"))
            })
            .collect();
        for m in ALL {
            let site = format!("Mutant::{m:?}");
            let asks = |t: &str| {
                t.match_indices(&site)
                    .any(|(i, _)| !t[i + site.len()..].starts_with(|c: char| c.is_alphanumeric()))
            };
            let mut found: Vec<&str> =
                texts.iter().filter(|(_, t)| asks(t)).map(|(n, _)| n.as_str()).collect();
            let mut listed = m.places().to_vec();
            found.sort_unstable();
            listed.sort_unstable();
            assert_eq!(found, listed, "{m}");
        }
    }

    /// `BLESS=1` rewrites the two lists in the document.
    #[test]
    fn the_document_has_this_table() {
        let path = crates().parent().expect("root").join("docs/mutants.md");
        let text = fs::read_to_string(&path).expect("docs/mutants.md");
        let mut wanted = text.clone();
        for (name, list) in [("table", table()), ("hints", hints())] {
            let (open, close) = (format!("<!-- {name} -->\n"), format!("<!-- end of {name} -->"));
            let from = wanted.find(&open).expect("opening mark") + open.len();
            let to = wanted.find(&close).expect("closing mark");
            wanted.replace_range(from..to, &list);
        }
        if std::env::var_os("BLESS").is_some() {
            fs::write(&path, &wanted).expect("write");
        }
        assert!(text == wanted, "docs/mutants.md differs from the list: run with BLESS=1");
    }

    #[test]
    fn tests_that_show_a_bug_name_it() {
        for (file, bugs) in SHOWN_BY_TESTS {
            let text = fs::read_to_string(crates().parent().expect("root").join(file)).expect(file);
            for m in *bugs {
                assert!(text.contains(&format!("Mutant::{m:?}")), "{file} does not name {m:?}");
                assert!(m.masked_by().is_none() && m.shown_by() == Some(file), "{m}");
            }
        }
        // What one thread cannot show is shown elsewhere. (One that waits for itself can.)
        let elsewhere = |m: &&Mutant| !m.single_threaded() && **m != Mutant::OwnThreadWaits;
        assert_eq!(ALL.iter().filter(elsewhere).find(|m| m.shown_by().is_none()), None);
    }

    #[test]
    fn one_at_a_time() {
        let [a, b] = [ALL[0], ALL[1]];
        choose(Some(a));
        assert_eq!((is(a), is(b), current()), (ENABLED, false, ENABLED.then_some(a)));
        choose(None);
        assert_eq!((is(a), current()), (false, None));
    }
}
