//! Input/output errors: a scenario is run with one error planned at one of its calls: at each of them, or at some that the seed draws
//! ([`plan`]); after that the process dies or the power fails, and what can be read then is judged.
//!
//! | fault | what must be |
//! |---|---|
//! | `eintr`, `short` | nobody notices |
//! | `nospace` | a clear refusal that changes nothing; where nothing grows (a plain write, a rename) the engine may die as well; everything acknowledged stays |
//! | `eio` | the engine may die; everything acknowledged stays, also if the process starts again without a power failure |
//! | `lie` | a prefix of the commits, or a typed error |
//! | `lost`, `misdirected`, `bitflip` | right data, or a typed error. In the last write to the log the loss of what it held is allowed: nothing on the disk can prove that it was there |
use super::check::{Listed, Otherwise, Subject, recover};
use super::plans::{self, Units};
use super::replay::{Scenario, op_text, run_itself};
use super::{Crash, Explorer, Finding, Search, Tally};
use crate::case::Damage;
use crate::engine::FailureKind;
use crate::model::{Allowed, Wrong as Judged};
use crate::op::Op;
use crate::oracles::{Oracle, Violation};
use crate::random::Random;
use crate::run::{Ended, Run, bounded, dropped};
use crate::sim::{Act, Fate, Image, IoEvent, IoFault, PendingOp, Question, SimDisk, Wrong};
use crate::sweep::goes_on;
use crate::watchdog;
use std::sync::Arc;

/// What came of one planned error.
#[derive(Debug, Default)]
pub struct Struck {
    /// Whether the scenario came as far.
    pub struck: bool,
    /// Recoveries that ended with a typed error, as they may under damage.
    pub detected: u64,
    /// Recoveries after which the last write to the log was gone without a trace, as it may be.
    pub untraceable: u64,
    /// What is wrong.
    pub finding: Option<Finding>,
}

/// Kinds of faults, as the command line names them.
pub const NAMES: [&str; 8] = ["eio", "nospace", "eintr", "short", "lie", "lost", "misdirected", "bitflip"];

/// The faults of a kind that can befall `event`; `dsync`: writes of the log are durable when they return.
pub fn kinds(name: &str, event: &IoEvent, random: &mut Random, dsync: bool) -> Vec<(Wrong, bool)> {
    let write = event.site.act == Act::Write;
    let sync = matches!(event.site.act, Act::Sync | Act::SyncDir);
    let len = (event.range.end - event.range.start).max(1);
    match name {
        "eio" => vec![(Wrong::Eio, false), (Wrong::Eio, true)],
        "nospace" if !sync => vec![(Wrong::NoSpace, false), (Wrong::NoSpace, true)],
        "eintr" if write => vec![(Wrong::Interrupted, false)],
        "short" if write => vec![(Wrong::Short(1 + random.below(len - 1)), false)],
        "lie" if sync || (write && dsync && event.site.role == "wal") => vec![(Wrong::Lie, false)],
        "lost" if write => vec![(Wrong::LostWrite, false)],
        "misdirected" if write => {
            let by = [-4096, 4096, 8192, 512][random.below(4) as usize];
            let by = if event.range.start as i64 + by < 0 { 4096 } else { by };
            vec![(Wrong::Misdirected(by), false)]
        }
        "bitflip" if write => vec![(Wrong::BitFlip { bit: random.below(len * 8) }, false)],
        _ => Vec::new(),
    }
}

/// Recoveries that are spent on crashes after one planned error.
const LIFE_AFTER_ERROR: u64 = 200;

/// How much is forgiven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mercy {
    /// Nothing.
    None,
    /// A typed error.
    Typed,
    /// A typed error, or any prefix of the commits.
    Prefix,
    /// A typed error, or the loss of what came after so many commits.
    Tail(usize),
}

/// Runs the scenario with its planned errors and judges what follows.
pub fn strike(subject: Subject<'_>, scenario: Scenario<'_>, search: Search, tally: &mut Tally) -> Struck {
    let run = scenario.run(subject);
    let mut out = Struck { struck: run.disk.heal() > 0, ..Struck::default() };
    let what = scenario.faults.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let damaging = scenario.faults.iter().any(|f| {
        matches!(f.what, Wrong::Lie | Wrong::LostWrite | Wrong::Misdirected(_) | Wrong::BitFlip { .. })
    });
    if let Some(mut f) = run_itself(&run) {
        // A disk that lies breaks the rules by itself, and the rest of a short write looks like a write of its own.
        let short = scenario.faults.iter().any(|f| matches!(f.what, Wrong::Short(_)));
        let order = (damaging || short) && f.violation.oracle == Oracle::Order;
        // After a lost write a proper close may have something to recover.
        let reopen = |i: usize| scenario.ops.get(i) == Some(&Op::Reopen);
        let unclean = damaging && matches!(run.ended, Ended::Wrong(i, _) if reopen(i));
        if !(order || unclean) {
            f.violation.text = format!("under `{what}`: {}", f.violation.text);
            out.finding = Some(f);
            return out;
        }
    }
    let wrong = |oracle, text: String, op| {
        Some(Finding { violation: Violation::new(oracle, text), crashes: Vec::new(), op })
    };
    for (fault, (i, f)) in scenario.faults.iter().flat_map(|fault| run.deaths().map(move |d| (fault, d))) {
        match fault.what {
            Wrong::Eio | Wrong::Dies if !damaging && f.kind == FailureKind::Damage => {
                let text = format!("under `{what}` `{}` calls it damage: {f}", op_text(scenario.ops, i));
                out.finding = wrong(Oracle::Fault, text, Some(i));
                return out;
            }
            Wrong::Interrupted | Wrong::Short(_) => {
                let text = format!("under `{what}` `{}` fails: {f}", op_text(scenario.ops, i));
                out.finding = wrong(Oracle::Fault, text, Some(i));
                return out;
            }
            Wrong::NoSpace
                if matches!(fault.act, Act::SetLen | Act::Create | Act::MakeDir)
                    && f.kind == FailureKind::Dead =>
            {
                let text = format!(
                    "under `{what}` `{}` kills the engine, where it could have refused: {f}",
                    op_text(scenario.ops, i)
                );
                out.finding = wrong(Oracle::Fault, text, Some(i));
                return out;
            }
            _ => {}
        }
    }
    let points = run.disk.points();
    let mark = run.allowed(points);
    // The process dies and starts again: what the engine believes to be on the disk is in the cache.
    let kept = run.disk.kept();
    let image = run.disk.image(points);
    let after_death = mercy(subject, &scenario, &run, &[]);
    let after_failure = mercy(subject, &scenario, &run, image.pending());
    let mut random = Random::new(search.seed ^ 0xFA17);
    let mut judge = |image: &Image, fates: Listed, mercy: Mercy, tally: &mut Tally| {
        let rest_survives = fates.otherwise == Otherwise::Newest;
        let answers: Vec<(Question, u8)> = fates.answers.iter().map(|(q, a)| (*q, *a)).collect();
        tally.cases += 1;
        watchdog::recovering(0);
        match lenient(subject, image, fates, &mark.allowed, mercy) {
            Ok(Lenient::Right) => None,
            Ok(Lenient::Detected) => {
                out.detected += 1;
                None
            }
            Ok(Lenient::Untraceable) => {
                out.untraceable += 1;
                None
            }
            Err(mut v) => {
                v.text = format!("under `{what}`: {}", v.text);
                let crash = Crash { point: points, site: None, nth: 0, answers, rest_survives };
                Some(Finding { violation: v, crashes: vec![crash], op: mark.op })
            }
        }
    };
    let newest =
        || Listed { answers: Default::default(), otherwise: Otherwise::Newest, model: scenario.model };
    watchdog::crash(0, points, None, 0, mark.op);
    let mut finding = judge(&kept, newest(), after_death, tally);
    let units = Units::of(image.pending());
    let mut power = vec![plans::Plan::all(&units, Fate::Lost), plans::Plan::all(&units, Fate::Kept)];
    power.extend((0..search.reach.random.min(4)).map(|_| plans::random(&units, scenario.model, &mut random)));
    for plan in power {
        if finding.is_some() {
            break;
        }
        let answer = |q, n: u8| image.answer(q, &|op, s| plan.fate(&units, op, s)).min(n - 1);
        let answers = image.questions().into_iter().map(|(q, n)| (q, answer(q, n))).collect();
        finding = judge(
            &image,
            Listed { answers, otherwise: Otherwise::Newest, model: scenario.model },
            after_failure,
            tally,
        );
    }
    // Where life went on after the error, crashes of it, quickly: there is a run for each error.
    let lived_on = scenario.ops.contains(&Op::Kill) || !run.died.is_empty();
    let honest = scenario.faults.iter().all(|f| matches!(f.what, Wrong::Eio | Wrong::Dies | Wrong::NoSpace));
    if finding.is_none() && lived_on && honest {
        let quick = Search::quick(scenario.model, search.seed);
        let mut go_on = |t: &Tally| t.cases < LIFE_AFTER_ERROR;
        let mut explorer = Explorer::new(subject, quick, scenario.after, &mut go_on);
        finding = explorer.explore(&run);
        tally.add(&explorer.tally);
        if let Some(f) = &mut finding {
            f.violation.text = format!("under `{what}`: {}", f.violation.text);
        }
    }
    out.finding = finding;
    out
}

/// `pending` may be lost with the fault: what is in it proves nothing.
fn mercy(subject: Subject<'_>, scenario: &Scenario<'_>, run: &Run, pending: &[PendingOp]) -> Mercy {
    let mut mercy = Mercy::None;
    for f in scenario.faults {
        let one = match f.what {
            Wrong::Eio | Wrong::Dies | Wrong::NoSpace | Wrong::Interrupted | Wrong::Short(_) => Mercy::None,
            Wrong::Lie => Mercy::Prefix,
            Wrong::LostWrite | Wrong::Misdirected(_) | Wrong::BitFlip { .. } => {
                let events = run.disk.events();
                let is = |e: &IoEvent| e.site.act == f.act && f.role.is_none_or(|r| r == e.site.role);
                let hit = events.iter().enumerate().filter(|(_, e)| is(e)).nth(f.nth.max(1) as usize - 1);
                match hit {
                    Some((i, e)) if e.site.role.starts_with("wal") => {
                        // Of a later flush: one flush may take several writes, and proves nothing about itself.
                        let sync = |e: &IoEvent| e.site.role == "wal" && e.site.act == Act::Sync;
                        let end = match subject.config.dsync {
                            false => events[i..].iter().position(sync).map_or(events.len(), |n| i + n),
                            true => events[i..].windows(2).take_while(|w| goes_on(&w[0], &w[1])).count() + i,
                        };
                        let proof = |(at, e): (usize, &IoEvent)| {
                            at > end
                                && e.site.role == "wal"
                                && e.site.act == Act::Write
                                && !pending.iter().any(|p| p.event == at)
                        };
                        let later = events.iter().enumerate().any(proof);
                        if later { Mercy::Typed } else { Mercy::Tail(run.allowed(i).allowed.low()) }
                    }
                    _ => Mercy::Typed,
                }
            }
        };
        mercy = match (mercy, one) {
            (Mercy::Prefix, _) | (_, Mercy::Prefix) => Mercy::Prefix,
            (Mercy::None, m) | (m, Mercy::None) => m,
            (m, _) => m,
        };
    }
    mercy
}

/// Runs the scenario, lets the process die, damages the files, and judges: right data, or a typed error.
pub fn damaged(subject: Subject<'_>, scenario: Scenario<'_>, damages: &[Damage]) -> Option<Finding> {
    let run = scenario.run(subject);
    if let Some(f) = run_itself(&run) {
        return Some(f);
    }
    let mut image = run.disk.kept();
    for d in damages {
        let mut bytes = image.file(&d.file)?;
        d.apply(&mut bytes);
        image = image.with_file(&d.file, &bytes);
    }
    let mark = run.allowed(run.disk.points());
    let fates = Listed { answers: Default::default(), otherwise: Otherwise::Newest, model: scenario.model };
    let violation = lenient(subject, &image, fates, &mark.allowed, Mercy::Typed).err()?;
    Some(Finding { violation, crashes: Vec::new(), op: None })
}

enum Lenient {
    Right,
    Detected,
    Untraceable,
}

/// A recovery that may end with a typed error.
fn lenient(
    subject: Subject<'_>,
    image: &Image,
    fates: Listed,
    allowed: &Allowed,
    mercy: Mercy,
) -> Result<Lenient, Violation> {
    if mercy == Mercy::None {
        let done = recover(subject, image, Box::new(fates), allowed);
        return done.violation.map_or(Ok(Lenient::Right), Err);
    }
    let disk = SimDisk::boot(image, Box::new(fates));
    let end = |disk: &SimDisk| disk.power_off();
    watchdog::on(&disk);
    let opened = bounded(&disk, || subject.engine.open(Arc::new(disk.clone()), subject.config));
    let mut session = match opened {
        Err(fall) => {
            end(&disk);
            return Err(fall.violation("the open"));
        }
        Ok(Err(f)) => {
            end(&disk);
            return typed(f);
        }
        Ok(Ok(s)) => s,
    };
    let contents = bounded(&disk, || session.contents());
    end(&disk);
    dropped(session);
    match contents {
        Err(fall) => Err(fall.violation("reading")),
        Ok(Err(f)) => typed(f),
        Ok(Ok(contents)) => {
            if allowed.judge(&contents).is_ok() {
                return Ok(Lenient::Right);
            }
            let forgiven = match mercy {
                Mercy::Prefix => allowed.any_prefix().judge(&contents).is_ok(),
                Mercy::Tail(low) => allowed.any_prefix().judge(&contents).is_ok_and(|i| i >= low),
                Mercy::None | Mercy::Typed => false,
            };
            if forgiven {
                return Ok(Lenient::Untraceable);
            }
            let text = match allowed.judge(&contents) {
                Err((Judged::Lost, t)) => format!("acknowledged commits are gone without an error: {t}"),
                Err((Judged::Torn, t)) => format!("the data is wrong without an error: {t}"),
                Ok(_) => return Ok(Lenient::Right),
            };
            Err(Violation::new(Oracle::Silent, text))
        }
    }
}

fn typed(f: crate::engine::Failure) -> Result<Lenient, Violation> {
    match f.kind {
        FailureKind::Damage => Ok(Lenient::Detected),
        _ => Err(Violation::new(Oracle::Fault, format!("damage is reported as something else: {f}"))),
    }
}

/// Every planned error that one scenario can meet, for these kinds; at most `most` of them, chosen by the seed.
/// `dsync`: as in [`kinds`].
pub fn plan(names: &[&str], events: &[IoEvent], most: usize, seed: u64, dsync: bool) -> Vec<IoFault> {
    let mut random = Random::new(seed ^ 0xFA57);
    let mut all = Vec::new();
    let mut nth = std::collections::HashMap::new();
    let mut lengths = std::collections::HashMap::new();
    for event in events {
        // A shorter length needs no room.
        let length = lengths.entry(event.file).or_insert(0u64);
        let grows = event.range.end > *length;
        *length = if event.site.act == Act::SetLen { event.range.end } else { event.range.end.max(*length) };
        let n = nth.entry(event.site).or_insert(0u64);
        *n += 1;
        for name in names {
            if *name == "nospace" && event.site.act == Act::SetLen && !grows {
                continue;
            }
            for (what, forever) in kinds(name, event, &mut random, dsync) {
                all.push(IoFault {
                    role: Some(event.site.role),
                    act: event.site.act,
                    nth: *n,
                    forever,
                    what,
                });
            }
        }
    }
    if names.contains(&"eio") {
        for nth in [1, 2, 3, 5, 8, 13, 21, 34] {
            for forever in [false, true] {
                for role in ["data", "wal", "control", "versions"] {
                    all.push(IoFault { role: Some(role), act: Act::Read, nth, forever, what: Wrong::Eio });
                }
            }
        }
    }
    while all.len() > most {
        let i = random.below(all.len() as u64) as usize;
        all.swap_remove(i);
    }
    all
}
