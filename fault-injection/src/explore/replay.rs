//! Seeing a violation again, and looking for it in a smaller scenario.
use super::check::{Listed, Must, Oracles, Otherwise, Subject, afterwards, recover};
use super::faults;
use super::{Crash, Explorer, Finding, Search, Tally};
use crate::case::Case;
use crate::model::Allowed;
use crate::op::Op;
use crate::oracles::{Oracle, Violation};
use crate::run::{Ended, Run, run};
use crate::sim::{Image, IoEvent, IoFault, Persistence};
use crate::watchdog;

/// A scenario, and where it starts.
#[derive(Clone, Copy)]
pub struct Scenario<'a> {
    /// The disk.
    pub model: Persistence,
    /// The database that it starts with; `None`: it starts with the creation.
    pub start: Option<&'a Image>,
    /// What is done.
    pub ops: &'a [Op],
    /// Planned errors.
    pub faults: &'a [IoFault],
    /// Work after a recovery.
    pub after: &'a [Op],
}

impl Scenario<'_> {
    /// As a case without crashes.
    fn case(&self, subject: Subject<'_>) -> Case {
        Case {
            workload: subject.workload.map_or("none", |w| w.name()).to_string(),
            creates: self.start.is_none(),
            faults: self.faults.to_vec(),
            ..Case::of(subject.engine.name(), self.model, subject.config, self.ops)
        }
    }
    /// Runs it.
    pub fn run(&self, subject: Subject<'_>) -> Run {
        run(subject.engine, subject.config, self.model, self.start, self.ops, &|disk| {
            watchdog::scenario(|| self.case(subject), disk);
            for f in self.faults {
                disk.plan(f.clone());
            }
        })
    }
}

/// What is wrong with a run as such, before any crash.
pub fn run_itself(run: &Run) -> Option<Finding> {
    let (violation, op) = match &run.ended {
        Ended::Panicked(i, panic) => (Violation::new(Oracle::Panic, format!("it panics: {panic}")), *i),
        Ended::Wrong(i, f) => (Violation::new(Oracle::Fault, f.to_string()), *i),
        Ended::Violated(i, v) => (v.clone(), *i),
        Ended::Whole | Ended::Dead(..) => {
            let first = run.disk.objections().into_iter().next()?;
            return Some(Finding {
                violation: Violation::new(Oracle::Order, first),
                crashes: Vec::new(),
                op: None,
            });
        }
    };
    Some(Finding { violation, crashes: Vec::new(), op: Some(op) })
}

/// Looks for any violation: of the run itself, and after crashes at all points. With planned errors, what follows the error is
/// judged instead ([`faults::strike`]).
pub fn search(
    subject: Subject<'_>,
    scenario: Scenario<'_>,
    search: Search,
    go_on: &mut dyn FnMut(&Tally) -> bool,
) -> (Tally, Option<Finding>) {
    if !scenario.faults.is_empty() {
        let mut tally = Tally::default();
        let struck = faults::strike(subject, scenario, search, &mut tally);
        return (tally, struck.finding);
    }
    let run = scenario.run(subject);
    let mut tally = Tally::default();
    if let Some(f) = run_itself(&run) {
        return (tally, Some(f));
    }
    if let Some((i, f)) = run.deaths().next() {
        let text = format!("`{}` fails without any error of the disk: {f}", op_text(scenario.ops, i));
        let violation = Violation::new(Oracle::Fault, text);
        return (tally, Some(Finding { violation, crashes: Vec::new(), op: Some(i) }));
    }
    let mut explorer = Explorer::new(subject, search, scenario.after, go_on);
    let finding = explorer.explore(&run);
    tally.add(&explorer.tally);
    (tally, finding)
}

pub(crate) fn op_text(ops: &[Op], i: usize) -> String {
    ops.get(i).map_or("the open".to_string(), |op| op.to_string())
}

/// The point just before the n-th change at the crash's site.
fn point_of(events: &[IoEvent], crash: &Crash) -> Option<usize> {
    let Some(site) = crash.site else { return Some(events.len()) };
    let at = events.iter().enumerate().filter(|(_, e)| e.site == site);
    at.map(|(i, _)| i).nth(crash.nth.checked_sub(1)?)
}

/// Replays exactly these crashes. `None` if nothing is wrong, or if the scenario no longer reaches them.
pub fn replay(subject: Subject<'_>, scenario: Scenario<'_>, crashes: &[Crash]) -> Option<Finding> {
    let run = scenario.run(subject);
    run.disk.heal();
    if let Some(f) = run_itself(&run) {
        return Some(f);
    }
    let (first, rest) = crashes.split_first()?;
    let point = point_of(&run.disk.events(), first)?;
    let mark = run.allowed(point);
    let at = Replayed { image: run.disk.image(point), allowed: &mark.allowed, must: None };
    watchdog::crash(0, point, first.site, first.nth, mark.op);
    let violation = step(subject, (&at, 0), first, rest, scenario.after)?;
    Some(Finding { violation, crashes: crashes.to_vec(), op: mark.op })
}

struct Replayed<'a> {
    image: Image,
    allowed: &'a Allowed,
    must: Option<Must>,
}

fn step(
    subject: Subject<'_>,
    (at, depth): (&Replayed<'_>, usize),
    crash: &Crash,
    rest: &[Crash],
    after: &[Op],
) -> Option<Violation> {
    let otherwise = if crash.rest_survives { Otherwise::Newest } else { Otherwise::Oldest };
    let fates =
        Listed { answers: crash.answers.iter().copied().collect(), otherwise, model: at.image.model() };
    watchdog::recovering(depth);
    let done = recover(subject, &at.image, Box::new(fates), at.allowed);
    watchdog::recovered(depth, &done.asked);
    if done.violation.is_some() {
        return done.violation;
    }
    if let Some(v) = at.must.as_ref().and_then(|m| m.broken(at.allowed, &done)) {
        return Some(v);
    }
    let Some((next, rest)) = rest.split_first() else {
        if subject.oracles == Oracles::LIGHT {
            return None;
        }
        return afterwards(subject, &at.image, &done, at.allowed, after);
    };
    let events = done.disk.events();
    let point = point_of(&events[..done.points], next)?;
    let image = done.disk.image(point);
    let must = Must::of(&done, done.state?, &image, &events[..point]);
    let below = Replayed { image, allowed: at.allowed, must: Some(must) };
    watchdog::crash(depth + 1, point, next.site, next.nth, None);
    step(subject, (&below, depth + 1), next, rest, after)
}
