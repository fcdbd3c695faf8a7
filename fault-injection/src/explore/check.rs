//! One recovery, and everything that must be true after it.
use super::coverage::Kinds;
use crate::engine::{Config, Engine, FailureKind, Opened, Session};
use crate::model::{Allowed, Contents, Model, Wrong};
use crate::op::Op;
use crate::oracles::{Oracle, Violation};
use crate::run::{Ended, Player, bounded, dropped};
use crate::sim::{Act, Asked, Fates, Image, IoEvent, Persistence, Question, SimDisk};
use crate::watchdog;
use crate::workload::Workload;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Which oracles judge. (Whether acknowledged commits are there, and the open's verdict, always are judged.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oracles {
    /// Structure and space.
    pub structure: bool,
    /// Every stored page against its image and the log.
    pub replay: bool,
    /// A second recovery.
    pub twice: bool,
    /// The reference recovery.
    pub reference: bool,
    /// Work afterwards, and another crash.
    pub life_after: bool,
}

impl Oracles {
    /// Only those that are always there.
    pub const LIGHT: Oracles =
        Oracles { structure: false, replay: false, twice: false, reference: false, life_after: false };
    /// All of them.
    pub const ALL: Oracles =
        Oracles { structure: true, replay: true, twice: true, reference: true, life_after: true };
}

/// What is checked, and how.
#[derive(Clone, Copy)]
pub struct Subject<'a> {
    /// The engine.
    pub engine: &'a dyn Engine,
    /// Its set-up.
    pub config: &'a Config,
    /// Whose invariant holds.
    pub workload: Option<&'a dyn Workload>,
    /// The oracles.
    pub oracles: Oracles,
}

/// Answers from a list; what is not on it gets `otherwise`.
pub(crate) struct Listed {
    pub(crate) answers: HashMap<Question, u8>,
    pub(crate) otherwise: Otherwise,
    pub(crate) model: Persistence,
}

/// The answer that the newest write left: under `hostile` the last two for a sector are damage.
pub(crate) fn newest(model: Persistence, question: Question, options: u8) -> u8 {
    let damage = model == Persistence::Hostile && matches!(question, Question::Sector { .. });
    options - if damage && options > 2 { 3 } else { 1 }
}

/// What answers the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Otherwise {
    Oldest,
    Newest,
}

impl Fates for Listed {
    fn decide(&mut self, question: Question, options: u8) -> u8 {
        match (self.answers.get(&question), self.otherwise) {
            (Some(a), _) => (*a).min(options - 1),
            (None, Otherwise::Oldest) => 0,
            (None, Otherwise::Newest) => newest(self.model, question, options),
        }
    }
}

/// One recovery.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// What it asked the disk.
    pub(crate) asked: Vec<Asked>,
    /// The disk afterwards, powered off; its history is that of the recovery only, up to `points`.
    pub(crate) disk: SimDisk,
    /// Changes that the recovery made.
    pub(crate) points: usize,
    /// The kind of the last record at each of them.
    pub(crate) kinds: Kinds,
    /// The state that was found.
    pub(crate) state: Option<usize>,
    pub(crate) opened: Opened,
    pub(crate) violation: Option<Violation>,
}

/// What a recovery that is cut off demands of the next one.
#[derive(Debug)]
pub(crate) struct Must {
    /// The state that it came to, or would have.
    pub(crate) state: usize,
    /// What it asked only after the change at which it is cut off, and the answers. The next recovery may be answered
    /// otherwise, and may then rightly come to another state: this one had written before it had read.
    late: Vec<(Question, u8)>,
}

impl Must {
    /// Of a recovery that made the changes `before`, which left `image`, when it was cut off.
    pub(crate) fn of(done: &Recovered, state: usize, image: &Image, before: &[IoEvent]) -> Must {
        let open: HashSet<Question> = image.questions().into_iter().map(|(q, _)| q).collect();
        // What it had written itself is open again, but was decided when it was asked for.
        let written = |q: Question| {
            before.iter().any(|e| match q {
                Question::Sector { file, sector } => {
                    let bytes = sector * 512..(sector + 1) * 512;
                    e.file == file
                        && e.site.act == Act::Write
                        && e.range.start < bytes.end
                        && bytes.start < e.range.end
                }
                Question::Length { file } => e.file == file && matches!(e.site.act, Act::Write | Act::SetLen),
                Question::Name { .. } => false,
            })
        };
        let late = done.asked.iter().filter(|a| open.contains(&a.question) && !written(a.question));
        Must { state, late: late.map(|a| (a.question, a.answer)).collect() }
    }

    /// What is wrong if the next recovery is `done`.
    pub(crate) fn broken(&self, allowed: &Allowed, done: &Recovered) -> Option<Violation> {
        let state = done.state?;
        let same = |(q, a): &(Question, u8)| {
            done.asked.iter().find(|b| b.question == *q).is_none_or(|b| b.answer == *a)
        };
        if allowed.state(state) == allowed.state(self.state) || !self.late.iter().all(same) {
            return None;
        }
        Some(Violation::new(
            Oracle::Twice,
            format!(
                "a recovery that found {} commits was cut off, and the next one finds {state}",
                self.state
            ),
        ))
    }
}

/// Boots `image`, opens the database and judges what is there.
pub(crate) fn recover(
    subject: Subject<'_>,
    image: &Image,
    fates: Box<dyn Fates>,
    allowed: &Allowed,
) -> Recovered {
    let disk = SimDisk::boot(image, fates);
    let mut out = Recovered {
        asked: Vec::new(),
        disk: disk.clone(),
        points: 0,
        kinds: Kinds::default(),
        state: None,
        opened: Opened::default(),
        violation: None,
    };
    if subject.oracles.replay {
        disk.set_watch(out.kinds.watch(subject.engine.watch(subject.config)));
    }
    watchdog::on(&disk);
    let opened = bounded(&disk, || subject.engine.open(Arc::new(disk.clone()), subject.config));
    out.points = disk.points();
    let mut session = match opened {
        Ok(Ok(session)) => session,
        Ok(Err(f)) => {
            disk.power_off();
            out.asked = disk.asked();
            out.violation =
                Some(Violation::new(Oracle::Opens, format!("after a mere crash the open fails: {f}")));
            return out;
        }
        Err(fall) => {
            disk.power_off();
            out.asked = disk.asked();
            out.violation = Some(fall.violation("the open"));
            return out;
        }
    };
    out.opened = session.opened();
    let judged = judge(subject, &disk, &mut *session, allowed);
    out.violation = match judged {
        Ok(state) => {
            out.state = Some(state);
            None
        }
        Err(v) => Some(v),
    };
    if out.violation.is_none() && subject.oracles.structure {
        out.violation = structure(&disk, &mut *session);
    }
    let objections = disk.objections();
    disk.power_off();
    dropped(session);
    out.asked = disk.asked();
    if let (None, Some(first)) = (&out.violation, objections.first()) {
        out.violation = Some(Violation::new(Oracle::Order, format!("during recovery: {first}")));
    }
    out
}

/// Reads everything and compares with what is allowed.
pub(crate) fn judge(
    subject: Subject<'_>,
    disk: &SimDisk,
    session: &mut dyn Session,
    allowed: &Allowed,
) -> Result<usize, Violation> {
    let contents = match bounded(disk, || session.contents()) {
        Err(fall) => return Err(fall.violation("reading")),
        Ok(Err(f)) => {
            let oracle = if f.kind == FailureKind::Damage { Oracle::Opens } else { Oracle::Structure };
            return Err(Violation::new(oracle, format!("after a mere crash reading fails: {f}")));
        }
        Ok(Ok(c)) => c,
    };
    if let Some(wrong) = subject.workload.and_then(|w| w.invariant(&contents)) {
        return Err(Violation::new(Oracle::Phantom, wrong));
    }
    allowed.judge(&contents).map_err(|(wrong, text)| {
        let oracle = match wrong {
            Wrong::Lost => Oracle::Acknowledged,
            Wrong::Torn => Oracle::Phantom,
        };
        Violation::new(oracle, text)
    })
}

pub(crate) fn structure(disk: &SimDisk, session: &mut dyn Session) -> Option<Violation> {
    match bounded(disk, || session.verify()) {
        Err(fall) => Some(fall.violation("verification")),
        Ok(Err(f)) => Some(Violation::new(Oracle::Structure, format!("verification fails: {f}"))),
        Ok(Ok(findings)) => {
            let first = findings.first()?;
            let more = findings.len() - 1;
            Some(Violation::new(Oracle::Structure, format!("{first} (and {more} more findings)")))
        }
    }
}

/// The oracles that open the files again: `done` is a recovery of `image` without a violation.
pub(crate) fn afterwards(
    subject: Subject<'_>,
    image: &Image,
    done: &Recovered,
    allowed: &Allowed,
    ops: &[Op],
) -> Option<Violation> {
    let state = done.state?;
    let exactly = allowed.exactly(state);
    let answered = || {
        let answers = done.asked.iter().map(|a| (a.question, a.answer)).collect();
        Box::new(Listed { answers, otherwise: Otherwise::Newest, model: image.model() })
    };
    let after = done.disk.image(done.points);
    let kept: HashMap<Question, u8> =
        after.questions().into_iter().map(|(q, n)| (q, newest(after.model(), q, n))).collect();
    let reboot = || {
        SimDisk::boot(
            &after,
            Box::new(Listed { answers: kept.clone(), otherwise: Otherwise::Newest, model: image.model() }),
        )
    };
    if subject.oracles.replay {
        let disk = reboot();
        match bounded(&disk, || subject.engine.audit(&disk, subject.config)) {
            Err(fall) => return Some(fall.violation("the audit")),
            Ok(Err(f)) => return Some(Violation::new(Oracle::Replay, format!("the audit fails: {f}"))),
            Ok(Ok(wrong)) => {
                if let Some(first) = wrong.first() {
                    return Some(Violation::new(Oracle::Replay, first.clone()));
                }
            }
        }
    }
    if subject.oracles.reference {
        let disk = SimDisk::boot(image, answered());
        match bounded(&disk, || subject.engine.reference(&disk, subject.config)) {
            Err(fall) => return Some(fall.violation("the reference")),
            Ok(None) => {}
            Ok(Some(Err(f))) => {
                return Some(Violation::new(Oracle::Reference, format!("the reference fails: {f}")));
            }
            Ok(Some(Ok((_, verdict)))) if verdict != done.opened.verdict => {
                return Some(Violation::new(
                    Oracle::Verdict,
                    format!(
                        "the end of the log is {:?}, and {verdict:?} by the reference",
                        done.opened.verdict
                    ),
                ));
            }
            Ok(Some(Ok((contents, _)))) => {
                if let Err((_, text)) = exactly.judge(&contents) {
                    return Some(Violation::new(
                        Oracle::Reference,
                        format!("the reference recovery has something else: {text}"),
                    ));
                }
            }
        }
    }
    if subject.oracles.twice {
        let again = recover(
            Subject { oracles: Oracles::LIGHT, ..subject },
            &after,
            Box::new(Listed { answers: kept.clone(), otherwise: Otherwise::Newest, model: image.model() }),
            &exactly,
        );
        if let Some(v) = again.violation {
            return Some(Violation::new(Oracle::Twice, format!("a second recovery: {}", v.text)));
        }
    }
    if subject.oracles.life_after {
        // After the work everything survives the next crash, or nothing that is not durable: each in every other state. (What an earlier
        // crash left undecided must not be lost behind something later where order is kept.)
        let answers: usize = done.asked.iter().map(|a| usize::from(a.answer)).sum();
        let loses = image.model() != Persistence::Ordered && (answers + done.points + state) % 2 == 1;
        return life_after(subject, &reboot(), exactly.state(state), ops, loses);
    }
    None
}

/// Works on, is killed, and looks again. `loses`: the power fails, and what is not durable is gone; else the process dies.
fn life_after(
    subject: Subject<'_>,
    disk: &SimDisk,
    contents: &Contents,
    ops: &[Op],
    loses: bool,
) -> Option<Violation> {
    let fail = |text: String| Some(Violation::new(Oracle::LifeAfter, text));
    let start = Model::starting_from(contents.clone());
    let mut player = Player::new(subject.engine, subject.config, disk.clone(), start);
    let ended = player.play(false, ops);
    let opened = player.marks.len() > 1;
    let what = |i: usize| match ops.get(i) {
        Some(op) if opened => format!("`{op}` after a recovery"),
        _ => "the open after a recovery".to_string(),
    };
    match ended {
        Ended::Whole => {}
        Ended::Dead(i, f) | Ended::Wrong(i, f) => return fail(format!("{} fails: {f}", what(i))),
        Ended::Panicked(i, panic) => return fail(format!("{} panics: {panic}", what(i))),
        Ended::Violated(i, v) => return fail(format!("{}: {}", what(i), v.text)),
    }
    let allowed = player.model.allowed();
    let (image, otherwise) = match loses {
        true => (player.disk.image(usize::MAX), Otherwise::Oldest),
        false => (player.disk.kept(), Otherwise::Newest),
    };
    player.end();
    let fates = Listed { answers: HashMap::new(), otherwise, model: image.model() };
    let again = recover(
        Subject { oracles: Oracles { structure: true, ..Oracles::LIGHT }, ..subject },
        &image,
        Box::new(fates),
        &allowed,
    );
    let crash = if loses { "another crash that loses what is not durable" } else { "another crash" };
    fail(format!("after more work and {crash}: {}", again.violation?.text))
}
