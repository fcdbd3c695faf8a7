//! Hunting planted bugs: each is turned on, and must be caught.
//!
//! Hunters go in order: the [situations](crate::workloads::situations) that were written for the bug, crashed or damaged; then the
//! ordinary campaign. What is caught is made small, and then run again with the bug off: if it is still there, it was a false alarm of
//! the harness and no catch.
use crate::campaign::{Found, Kit, Live, Plan, Report, campaign, campaign_and, replay};
use crate::case::Case;
use crate::kits::situations_kit;
use crate::sim::Persistence;
use crate::sweep;
use crate::workloads::situations::{Situation, Situations, situations};
use hamal::mutants::{Mutant, choose};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

/// What became of one planted bug.
#[derive(Clone, Debug, Default)]
pub struct Hunted {
    /// The catch; its numbers of states and seconds are those of all hunters together.
    pub found: Option<Found>,
    /// The hunter: the name of a situation, or of the workload.
    pub by: String,
    /// What an oracle said that it says without the bug too.
    pub false_alarm: Option<String>,
    /// States that were looked at.
    pub states: u64,
    /// Crashes in the deepest chain.
    pub depth: usize,
    /// Seconds, without making the case small.
    pub seconds: f64,
}

/// Hunts one bug for as long as the plan says. `kits` are for the ordinary campaign.
pub fn hunt(mutant: Mutant, kits: &[Kit], plan: &Plan, live: &Live) -> Hunted {
    choose(Some(mutant));
    let mut hunter = Hunter {
        mutant,
        plan: Plan { mutant: Some(mutant.name().to_string()), ..plan.clone() },
        live,
        started: Instant::now(),
        hunted: Hunted::default(),
    };
    hunter.all(kits);
    choose(None);
    let mut hunted = hunter.hunted;
    if let Some(found) = &hunted.found {
        let kits = all_kits();
        match replay(&kits, &found.case, true) {
            Ok((_, None)) => {}
            Ok((_, Some(f))) => hunted.false_alarm = Some(f.violation.text),
            Err(e) => hunted.false_alarm = Some(format!("it cannot be run again: {e}")),
        }
    }
    hunted
}

fn all_kits() -> Vec<Kit> {
    crate::kits::kits(&crate::kits::WORKLOADS)
}

struct Hunter<'a> {
    mutant: Mutant,
    plan: Plan,
    live: &'a Live,
    started: Instant,
    hunted: Hunted,
}

impl Hunter<'_> {
    fn over(&self) -> bool {
        self.hunted.found.is_some()
            || self.live.stop.load(Relaxed)
            || self.plan.time.is_some_and(|t| self.started.elapsed() >= t)
    }

    fn all(&mut self, kits: &[Kit]) {
        let name = self.mutant.name();
        let own = situations().into_iter().filter(|s| s.shows.iter().any(|m| m == name));
        for situation in own {
            if self.over() {
                return;
            }
            if situation.is_crashed() { self.crash(&situation, kits) } else { self.damage(&situation) }
        }
        if !self.over() {
            let left = self.plan.time.map(|t| t.saturating_sub(self.started.elapsed()));
            let plan = Plan { time: left, ..self.plan.clone() };
            let report = campaign(kits, &plan, self.live);
            self.take(report, None);
        }
    }

    /// Every crash of a situation, under all models of the plan.
    fn crash(&mut self, situation: &Situation, kits: &[Kit]) {
        let situations = Situations::of(vec![situation.clone()]);
        let left = self.plan.time.map(|t| t.saturating_sub(self.started.elapsed()));
        let plan = Plan {
            time: left,
            scenarios: Some(situations.runs() * self.plan.models.len() as u64),
            quick: false,
            faults: Vec::new(),
            ..self.plan.clone()
        };
        let report = campaign_and(&[situations_kit(situations)], kits, &plan, self.live);
        self.take(report, Some(&situation.name));
    }

    fn take(&mut self, report: Report, by: Option<&str>) {
        self.hunted.depth = self.hunted.depth.max(report.tally.max_depth());
        if let Some(mut found) = report.found.into_iter().next() {
            found.after_cases += self.hunted.states;
            let shrinking = report.seconds - found.after_seconds;
            found.after_seconds = self.started.elapsed().as_secs_f64() - shrinking;
            self.hunted.by = by.map_or_else(|| found.case.workload.clone(), str::to_owned);
            self.hunted.seconds = found.after_seconds;
            self.hunted.found = Some(found);
        } else {
            self.hunted.seconds = self.started.elapsed().as_secs_f64();
        }
        self.hunted.states += report.tally.cases;
        self.live.cases.store(0, Relaxed);
    }

    /// Damage of what a situation leaves.
    fn damage(&mut self, situation: &Situation) {
        let kit = situations_kit(Situations::default());
        for (damage, closed) in &situation.sweeps {
            let config = &situation.config;
            let (how, patience) = ((*damage, *closed), self.plan.patience);
            let swept = sweep::looked_for(&kit.engine, config, &situation.ops, how, patience);
            let seconds = self.started.elapsed().as_secs_f64();
            let Some((violation, cases)) = swept else { continue };
            self.hunted.states += cases;
            let (until, first) = (Instant::now() + self.plan.shrink, (situation.ops.clone(), violation));
            let (ops, violation) = sweep::fewer(&kit.engine, config, first, how, patience, until);
            let case = Case {
                says: vec![violation.text.replace('\n', " ")],
                engine: kit.engine.name().to_string(),
                workload: kit.workload.name().to_string(),
                model: Persistence::Posix,
                creates: false,
                config: config.clone(),
                mutant: self.plan.mutant.clone(),
                oracle: Some(violation.oracle),
                ops,
                faults: Vec::new(),
                damages: Vec::new(),
                sweep: Some((*damage, *closed)),
                crashes: Vec::new(),
            };
            self.hunted.by = situation.name.clone();
            self.hunted.seconds = seconds;
            self.hunted.found = Some(Found {
                case,
                violation,
                after_cases: self.hunted.states,
                after_seconds: seconds,
                operations_before: situation.ops.len(),
            });
            return;
        }
    }
}
