//! A short scenario that fails in the same way, where a long one does not get small.
//!
//! Taking operations away ends where no single step makes less of it, and that may be far from the smallest scenario that shows
//! the bug. Most bugs show in very few operations (Mohan et al.: Finding crash-consistency bugs with bounded black-box crash testing, OSDI 2018: 24
//! of 26 need three at most), so short scenarios of the same engine are drawn and searched, quickly, until one of them fails as well. It
//! takes the place of the long one only if the same oracle objects and, where no planted bug says that there is only one to be found, in the same words.
use super::{Found, Instant, Kit, Relaxed, Worker};
use crate::explore::check::Subject;
use crate::explore::replay::{Scenario, search};
use crate::explore::{Search, faults};
use crate::random::Random;
use crate::sim::{IoFault, Wrong};

/// Recoveries for one short scenario.
const SHORT: u64 = 1500;

/// Places at which the kind of error of the long scenario is tried in a short one.
const PLACES: usize = 6;

impl Worker<'_> {
    /// `found`, or the same in fewer operations and decisions if such a one turns up before `until`.
    pub(super) fn shorter(&mut self, kit: &Kit, found: Found, seed: u64, until: Instant) -> Found {
        let mut best = found;
        let fit = |k: &&Kit| k.engine.name() == kit.engine.name() && !k.workload.in_turn();
        let fit: Vec<&Kit> = self.shared.short.iter().filter(fit).collect();
        if fit.is_empty() {
            return best;
        }
        let mut random = Random::new(seed ^ 0x5407);
        while Instant::now() < until && !best.case.is_small() && !self.live.stop.load(Relaxed) {
            if let Some(short) = self.draw(random.pick::<&Kit>(&fit), &best, random.next(), until) {
                best = short;
            }
        }
        best
    }

    /// One short scenario, if it fails as `best` does, and is less.
    fn draw(&mut self, kit: &Kit, best: &Found, seed: u64, until: Instant) -> Option<Found> {
        let mut random = Random::new(seed);
        // The set-up may be what matters.
        let config = match random.one_in(2) {
            true => best.case.config.clone(),
            false => kit.workload.config(seed),
        };
        let model = config.model(best.case.model);
        let ops = kit.workload.operations(seed, 4 + random.below(10) as usize);
        if ops.len() >= best.case.ops.len() {
            return None;
        }
        let after = kit.workload.afterwards();
        let start = self.start(kit, &config, model)?;
        let subject = Subject {
            engine: &*kit.engine,
            config: &config,
            workload: Some(&*kit.workload),
            oracles: self.plan.oracles,
        };
        let bare = Scenario { model, start: Some(&start), ops: &ops, faults: &[], after: &after };
        for planned in places(&best.case.faults, || bare.run(subject).disk.events(), seed, config.dsync) {
            let scenario = Scenario { faults: &planned, ..bare };
            let mut go_on = |t: &crate::explore::Tally| t.cases < SHORT && Instant::now() < until;
            let (_, found) = search(subject, scenario, Search::quick(model, seed), &mut go_on);
            let Some(finding) = found.filter(|f| self.alike(&f.violation, &best.violation)) else { continue };
            let time = until.saturating_duration_since(Instant::now());
            let (mut case, violation) = self.small(kit, subject, scenario, finding, seed, time);
            if case.ops.len() + case.decisions() >= best.case.ops.len() + best.case.decisions() {
                continue;
            }
            case.says.push(format!(
                "It was first seen in {} operations of `{}`; these are others that fail in the same way.",
                best.operations_before, best.case.workload
            ));
            return Some(Found { case, violation, ..best.clone() });
        }
        None
    }

    fn alike(&self, a: &super::Violation, b: &super::Violation) -> bool {
        a.oracle == b.oracle && (self.plan.mutant.is_some() || words(&a.text) == words(&b.text))
    }
}

/// Plans of errors of the same kind, or the one without any.
fn places(
    faults: &[IoFault],
    events: impl FnOnce() -> Vec<crate::sim::IoEvent>,
    seed: u64,
    dsync: bool,
) -> Vec<Vec<IoFault>> {
    let [fault] = faults else {
        // Several belong to each other.
        return if faults.is_empty() { vec![Vec::new()] } else { Vec::new() };
    };
    let all = faults::plan(&[kind(&fault.what)], &events(), usize::MAX, seed, dsync);
    let mut fit: Vec<IoFault> = all
        .into_iter()
        .filter(|f| (f.role, f.act, f.forever) == (fault.role, fault.act, fault.forever))
        .collect();
    let mut random = Random::new(seed);
    while fit.len() > PLACES {
        fit.swap_remove(random.below(fit.len() as u64) as usize);
    }
    fit.into_iter().map(|f| vec![f]).collect()
}

/// The name of the kind of fault that is planned as `what`; none for one that only situations bring.
fn kind(what: &Wrong) -> &'static str {
    match what {
        Wrong::Eio => "eio",
        Wrong::NoSpace => "nospace",
        Wrong::Interrupted => "eintr",
        Wrong::Short(_) => "short",
        Wrong::Lie => "lie",
        Wrong::LostWrite => "lost",
        Wrong::Misdirected(_) => "misdirected",
        Wrong::BitFlip { .. } => "bitflip",
        _ => "",
    }
}

/// What a text says without its numbers and what it quotes.
fn words(text: &str) -> String {
    let unquoted: String = text.split('`').step_by(2).collect();
    let plain = unquoted.split(|c: char| !c.is_alphanumeric());
    plain.filter(|w| !w.contains(|c: char| c.is_ascii_digit())).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_without_numbers_and_quotations() {
        let a = words(
            "under `fault wal write 6 once lost`: 4 commits were acknowledged, only 2 are there (LSN 0x1e00)",
        );
        let b = words(
            "under `fault wal write 7 once lost`: 9 commits were acknowledged, only 8 are there (LSN 0x200)",
        );
        assert_eq!(a, b);
        assert_ne!(a, words("4 commits were acknowledged, but page 7 is damaged"));
    }

    #[test]
    fn an_error_is_tried_at_calls_of_its_own_kind_only() {
        let fault = IoFault {
            role: Some("wal"),
            act: crate::sim::Act::Write,
            nth: 9,
            forever: false,
            what: Wrong::LostWrite,
        };
        assert_eq!(places(&[], || unreachable!(), 1, false), vec![Vec::new()]);
        assert!(places(&[fault.clone(), fault.clone()], || unreachable!(), 1, false).is_empty());
        assert!(places(&[fault], Vec::new, 1, false).is_empty());
    }
}
