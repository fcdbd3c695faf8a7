//! Making a violation small: fewer operations, fewer crashes, fewer answers.
//!
//! A smaller scenario does other input/output, so the crash that showed the violation is not carried over: the smaller
//! scenario is *searched* anew, quickly, and counts if any violation of the same oracle is found. Operations go in large chunks,
//! by whole transactions, then by delta debugging (Zeller, Hildebrandt: Simplifying and isolating failure-inducing input, 2002), then by
//! pairs, which makes one transaction of two; then what remains gets short values and low numbers. At last the answers: as many as possible become "the rest".
use super::check::Subject;
use super::replay::{Scenario, replay, search};
use super::{Crash, Finding, Search};
use crate::case::Case;
use crate::op::{Op, Txn};
use crate::oracles::Oracle;
use crate::sim::IoFault;
use std::time::{Duration, Instant};

/// A smaller scenario and what is found in it.
#[derive(Clone, Debug)]
pub struct Shrunk {
    /// The operations.
    pub ops: Vec<Op>,
    /// The planned errors.
    pub faults: Vec<IoFault>,
    /// The violation.
    pub finding: Finding,
    /// Searches that were made.
    pub searches: u32,
}

struct Shrinker<'a> {
    subject: Subject<'a>,
    scenario: Scenario<'a>,
    search: Search,
    oracle: Oracle,
    /// Recoveries for one search.
    most: u64,
    until: Instant,
    best: Shrunk,
}

/// Makes `finding` in `scenario` as small as it gets within `time`.
pub fn shrink(
    subject: Subject<'_>,
    scenario: Scenario<'_>,
    search: Search,
    finding: Finding,
    time: Duration,
) -> Shrunk {
    let mut s = Shrinker {
        subject,
        scenario,
        search: Search { depth: finding.crashes.len().max(1) as u8, ..search },
        oracle: finding.violation.oracle,
        most: MOST,
        until: Instant::now() + time,
        best: Shrunk { ops: scenario.ops.to_vec(), faults: scenario.faults.to_vec(), finding, searches: 0 },
    };
    // How soon it is found again says how long a search for it in less is worth while.
    let all = scenario.ops.to_vec();
    s.holds(&all);
    s.fewer_crashes();
    s.without_chunks(LARGE);
    loop {
        let before = (s.best.ops.len(), s.best.finding.crashes.len());
        s.without_transactions();
        s.without_chunks(1);
        if (s.best.ops.len(), s.best.finding.crashes.len()) == before {
            s.without_pairs();
        }
        if (s.best.ops.len(), s.best.finding.crashes.len()) == before || s.late() {
            break;
        }
    }
    s.simpler_operations();
    s.fewer_crashes();
    s.fewer_answers();
    s.best
}

/// Operations that are tried together before whole transactions are: what repeats itself goes quickly.
const LARGE: usize = 8;

/// Of so many operations any two are tried together.
const FEW: usize = 24;

/// Recoveries for one search, however soon the violation was found.
const LEAST: u64 = 50;

/// Recoveries for one search, at most.
const MOST: u64 = 4000;

impl Shrinker<'_> {
    fn late(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Whether the violation is still there with these operations; if so they are the best so far.
    fn holds(&mut self, ops: &[Op]) -> bool {
        if self.late() {
            return false;
        }
        self.best.searches += 1;
        let (most, until) = (self.most, self.until);
        // Fewer operations make fewer calls: the error strikes the same call at a lower number.
        for faults in sooner(&self.best.faults) {
            let scenario = Scenario { ops, faults: &faults, ..self.scenario };
            let mut go_on = |t: &super::Tally| t.cases < most && Instant::now() < until;
            let (tally, found) = search(self.subject, scenario, self.search, &mut go_on);
            if let Some(f) = found
                && f.violation.oracle == self.oracle
            {
                // What shows in the scenario itself needs no crash.
                self.most = if f.crashes.is_empty() { 1 } else { (16 * tally.cases).clamp(LEAST, MOST) };
                self.best.ops = ops.to_vec();
                self.best.faults = faults;
                self.best.finding = f;
                return true;
            }
            if self.late() {
                break;
            }
        }
        false
    }

    fn fewer_crashes(&mut self) {
        while self.best.finding.crashes.len() > 1 && !self.late() {
            let depth = self.search.depth;
            self.search.depth = (self.best.finding.crashes.len() - 1) as u8;
            let ops = self.best.ops.clone();
            if !self.holds(&ops) {
                self.search.depth = depth;
                return;
            }
        }
    }

    fn without_transactions(&mut self) {
        // What follows the operation that was interrupted is not needed.
        if let Some(last) = self.best.finding.op {
            let ops = self.best.ops[..(last + 1).min(self.best.ops.len())].to_vec();
            if ops.len() < self.best.ops.len() {
                self.holds(&ops);
            }
        }
        let mut at = 0;
        while at < self.best.ops.len() && !self.late() {
            let Op::Begin { txn } = self.best.ops[at] else {
                at += 1;
                continue;
            };
            let ops = without(&self.best.ops, at, txn);
            if !self.holds(&ops) {
                at += 1;
            }
        }
    }

    /// Chunks of at least so many operations, large ones first.
    fn without_chunks(&mut self, least: usize) {
        let mut chunk = (self.best.ops.len() / 2).max(1);
        while chunk >= least {
            let mut at = 0;
            while at < self.best.ops.len() && !self.late() {
                let mut ops = self.best.ops.clone();
                ops.drain(at..(at + chunk).min(ops.len()));
                if !self.holds(&ops) {
                    at += chunk;
                }
            }
            if chunk == 1 || self.late() {
                return;
            }
            chunk /= 2;
        }
    }

    /// Two operations at once that cannot go one by one: the end of a transaction and the beginning of the next, a savepoint and the
    /// rollback to it, or any two of a few.
    fn without_pairs(&mut self) {
        let mut first = 0;
        while first < self.best.ops.len() {
            let mut second = first + 1;
            while second < self.best.ops.len() {
                let ops = &self.best.ops;
                let belong = match (&ops[first], &ops[second]) {
                    (Op::Commit { .. } | Op::Rollback { .. }, Op::Begin { .. }) => true,
                    (Op::Savepoint { txn, name }, Op::RollbackTo { txn: t, name: n }) => {
                        (txn, name) == (t, n)
                    }
                    _ => ops.len() <= FEW,
                };
                if self.late() {
                    return;
                }
                let mut fewer = ops.clone();
                fewer.remove(second);
                fewer.remove(first);
                // What follows has moved to this place.
                if !(belong && self.holds(&fewer)) {
                    second += 1;
                }
            }
            first += 1;
        }
    }

    fn simpler_operations(&mut self) {
        for at in 0..self.best.ops.len() {
            for simpler in simpler(&self.best.ops[at]) {
                let mut ops = self.best.ops.clone();
                ops[at] = simpler;
                if self.holds(&ops) {
                    break;
                }
            }
        }
    }

    /// Answers become "the rest" where the violation stays.
    fn fewer_answers(&mut self) {
        let ops = self.best.ops.clone();
        let scenario = Scenario { ops: &ops, ..self.scenario };
        if !scenario.faults.is_empty() {
            return;
        }
        let holds = |crashes: &[Crash]| {
            replay(self.subject, scenario, crashes).filter(|f| f.violation.oracle == self.oracle)
        };
        if holds(&self.best.finding.crashes).is_none() {
            return;
        }
        let mut crashes = self.best.finding.crashes.clone();
        for i in 0..crashes.len() {
            for rest_survives in [true, false] {
                let mut bare = crashes.clone();
                bare[i].answers.clear();
                bare[i].rest_survives = rest_survives;
                if holds(&bare).is_some() {
                    crashes = bare;
                    break;
                }
            }
            let mut chunk = (crashes[i].answers.len() / 2).max(1);
            while !crashes[i].answers.is_empty() && !self.late() {
                let mut at = 0;
                while at < crashes[i].answers.len() {
                    let mut fewer = crashes.clone();
                    let to = (at + chunk).min(fewer[i].answers.len());
                    fewer[i].answers.drain(at..to);
                    if holds(&fewer).is_some() {
                        crashes = fewer;
                    } else {
                        at += chunk;
                    }
                }
                if chunk == 1 {
                    break;
                }
                chunk /= 2;
            }
        }
        if let Some(f) = holds(&crashes) {
            self.best.finding = Finding { op: self.best.finding.op, ..f };
        }
    }
}

/// The planned errors as they are, and, if it is one, at each earlier call of its kind.
fn sooner(faults: &[IoFault]) -> impl Iterator<Item = Vec<IoFault>> + use<> {
    let first = faults.to_vec();
    let earlier = match faults {
        [one] => (1..one.nth).rev().map(|nth| IoFault { nth, ..one.clone() }).collect(),
        _ => Vec::new(),
    };
    std::iter::once(first).chain(earlier.into_iter().map(|f| vec![f]))
}

/// The operations without the transaction that begins at `at`.
fn without(ops: &[Op], at: usize, txn: Txn) -> Vec<Op> {
    let mut out = ops[..at].to_vec();
    let mut inside = true;
    for op in &ops[at + 1..] {
        if op.txn() == Some(txn) {
            if matches!(op, Op::Begin { .. }) {
                inside = false;
            }
            if inside {
                continue;
            }
        }
        out.push(op.clone());
    }
    out
}

fn simpler(op: &Op) -> Vec<Op> {
    match *op {
        Op::Put { txn, tree, key, len, fill } => {
            let mut out = Vec::new();
            if len > 8 {
                out.push(Op::Put { txn, tree, key: 1, len: 8, fill: 1 });
                out.push(Op::Put { txn, tree, key, len: 8, fill });
                out.push(Op::Put { txn, tree, key, len: len / 2, fill });
            } else if key > 1 {
                out.push(Op::Put { txn, tree, key: 1, len, fill });
            }
            out
        }
        Op::Load { txn, tree, key, count, step, len, fill } => {
            let mut out = vec![Op::Put { txn, tree, key, len, fill }];
            if count > 1 {
                out.push(Op::Load { txn, tree, key, count: count / 2, step, len, fill });
                out.push(Op::Load { txn, tree, key, count: count - 1, step, len, fill });
            }
            if len > 8 {
                out.push(Op::Load { txn, tree, key, count, step, len: 8, fill });
                out.push(Op::Load { txn, tree, key, count, step, len: len / 2, fill });
            }
            out
        }
        Op::Commit { txn, ack: crate::op::Ack::Early } => {
            vec![Op::Commit { txn, ack: crate::op::Ack::Durable }]
        }
        _ => Vec::new(),
    }
}

/// A sentence that says where the crashes were.
pub fn sentence(case: &Case, finding: &Finding) -> String {
    let mut out = String::new();
    for (i, crash) in finding.crashes.iter().enumerate() {
        let place = match crash.site {
            None if case.faults.is_empty() => "after the last change of the disk".to_string(),
            None => "after the error".to_string(),
            Some(site) => format!("before {} number {} of {}", site.act, crash.nth, site.role),
        };
        let whom = if i == 0 { "The power fails" } else { "The recovery is cut off" };
        let rest = match (crash.rest_survives, crash.answers.is_empty()) {
            (true, true) => "everything that was written survives",
            (false, true) => "nothing survives that was not synced",
            (true, false) => "everything that was written survives, but for the answers listed",
            (false, false) => "of what was not synced only the answers listed survive",
        };
        out += &format!("{whom} {place}; {rest}. ");
    }
    if let Some(op) = finding.op.and_then(|i| case.ops.get(i)) {
        out += &format!("The operation then was `{op}`.");
    }
    out.trim_end().to_string()
}
