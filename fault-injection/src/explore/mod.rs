//! Crash states: which there are, in which order they are looked at, and what is known when a search ends.
//!
//! A scenario is run once. Every change it made to the disk is a *crash point*; what a power failure there may leave is one
//! [`Image`] with open questions. Recovery is run on it; the disk answers a question when recovery first *reads* what is
//! undecided, so what recovery never looks at is never enumerated. Where the answers are few, all of them are tried
//! ([`trie`]); where they are many, [`plans`] go level by level, and what budget is left goes into the exact search again.
//! The recovery's own changes are crash points in turn, to any depth.
pub mod check;
pub mod coverage;
pub mod faults;
pub mod plans;
pub mod replay;
pub mod shrink;
pub mod trie;

use crate::model::Allowed;
use crate::op::Op;
use crate::oracles::{Oracle, Violation};
use crate::random::Random;
use crate::run::Run;
use crate::sim::{Image, Persistence, Question, Site};
use crate::watchdog;
use check::{Listed, Must, Oracles, Otherwise, Recovered, Subject, afterwards, recover};
use coverage::Walk;
use plans::{Plan, Units};
use std::collections::{HashMap, HashSet};
use trie::Trie;

/// How far a search goes at one crash point of one depth.
#[derive(Clone, Copy, Debug)]
pub struct Reach {
    /// Recoveries for the exact search.
    pub exact: u32,
    /// The last level of plans; `None`: no plans at all.
    pub level: Option<u8>,
    /// Recoveries for plans of all levels together.
    pub plans: u32,
    /// Recoveries with random plans.
    pub random: u32,
}

/// How a scenario is searched.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// What the disk may do.
    pub model: Persistence,
    /// Crashes of the scenario itself.
    pub reach: Reach,
    /// Crashes of a recovery.
    pub nested: Reach,
    /// How many crashes deep.
    pub depth: u8,
    /// At most so many crash points of a scenario, chosen by the seed.
    pub points: usize,
    /// At most so many of a recovery.
    pub nested_points: usize,
    /// Of each kind of crash (where it struck, and what recovery did) so many recoveries are crashed at every point ...
    pub representatives: u32,
    /// ... and of the others one in so many.
    pub sample: u64,
    /// The oracles that open the files again judge so many recoveries of each kind, and one in so many of the rest.
    pub heavy_sample: u64,
    /// The seed of what is random in it.
    pub seed: u64,
}

impl Search {
    /// A search of usual thoroughness.
    pub fn usual(model: Persistence, seed: u64) -> Search {
        Search {
            model,
            reach: Reach { exact: 96, level: Some(plans::LAST_FINITE), plans: 256, random: 8 },
            nested: Reach { exact: 6, level: Some(0), plans: 6, random: 1 },
            depth: 6,
            points: usize::MAX,
            nested_points: usize::MAX,
            representatives: 2,
            sample: 64,
            heavy_sample: 4,
            seed,
        }
    }
    /// One that finds what is easily found: for tests of planted bugs, and for making scenarios smaller.
    pub fn quick(model: Persistence, seed: u64) -> Search {
        Search {
            reach: Reach { exact: 6, level: Some(1), plans: 5, random: 2 },
            nested: Reach { exact: 2, level: Some(0), plans: 2, random: 1 },
            depth: 3,
            points: 48,
            nested_points: 3,
            representatives: 1,
            sample: 256,
            heavy_sample: 4,
            ..Search::usual(model, seed)
        }
    }
}

/// What was answered at one crash: enough to see it again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crash {
    /// Just before this change (of the scenario, or of the recovery before).
    pub point: usize,
    /// What the change would have been; `None` after the last.
    pub site: Option<Site>,
    /// The n-th change of its kind.
    pub nth: usize,
    /// The answers that matter.
    pub answers: Vec<(Question, u8)>,
    /// Whether what is not listed survives in its newest state or is lost.
    pub rest_survives: bool,
}

/// A violation, and the crashes that lead to it.
#[derive(Clone, Debug)]
pub struct Finding {
    /// What is wrong.
    pub violation: Violation,
    /// The crash of the scenario, then those of recoveries.
    pub crashes: Vec<Crash>,
    /// The number of the operation that had begun.
    pub op: Option<usize>,
}

/// What a search has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Recoveries that were made and judged.
    pub cases: u64,
    /// Of these, those judged by the oracles that open the files again.
    pub heavy: u64,
    /// Images that were not looked at because an equal one had been.
    pub equal: u64,
    /// Images that were not looked at because recovery could not have told them from one that had been.
    pub alike: u64,
    /// Crash points of scenarios.
    pub points: u64,
    /// Crash points of scenarios that were left out.
    pub points_left: u64,
    /// Crash points of recoveries.
    pub nested_points: u64,
    /// Crash points of scenarios at which *every* image was checked, sampled or not: the exact search ended.
    pub exact: u64,
    /// Crash points of scenarios at which the levels up to this one were exhausted (and `exact` was not reached).
    pub levels: [u64; 5],
    /// Crash points of scenarios at which not even level 0 was.
    pub open: u64,
    /// Recoveries by depth.
    pub depth: Vec<u64>,
}

impl Tally {
    /// Adds another.
    pub fn add(&mut self, o: &Tally) {
        self.cases += o.cases;
        self.heavy += o.heavy;
        self.equal += o.equal;
        self.alike += o.alike;
        self.points += o.points;
        self.points_left += o.points_left;
        self.nested_points += o.nested_points;
        self.exact += o.exact;
        self.open += o.open;
        for (a, b) in self.levels.iter_mut().zip(&o.levels) {
            *a += b;
        }
        if self.depth.len() < o.depth.len() {
            self.depth.resize(o.depth.len(), 0);
        }
        for (a, b) in self.depth.iter_mut().zip(&o.depth) {
            *a += b;
        }
    }
    /// Crash points of scenarios whose search has ended.
    pub fn searched(&self) -> u64 {
        self.exact + self.levels.iter().sum::<u64>() + self.open
    }
    /// How many crashes deep the deepest recovery was.
    pub fn max_depth(&self) -> usize {
        self.depth.len()
    }
    /// The claim that can be made, in words.
    pub fn exhausted(&self) -> String {
        let Tally { points, exact, levels, .. } = self;
        let mut through = *exact;
        let mut words = format!("exact at {exact} of {points} crash points");
        for l in (0..levels.len()).rev() {
            through += levels[l];
            if levels[l] > 0 {
                words += &format!(", to level {l} at {through}");
            }
        }
        if self.points_left > 0 {
            words += &format!("; {} left out", self.points_left);
        }
        words
    }
    fn at_depth(&mut self, depth: usize) {
        if self.depth.len() <= depth {
            self.depth.resize(depth + 1, 0);
        }
        self.depth[depth] += 1;
    }
}

/// So many plans are looked at for each recovery that may be spent on them.
const PLANS_FOR_A_RECOVERY: u32 = 200;

/// Kinds of crashes, of which some representatives are crashed again in full.
type Kind = (Option<Site>, usize, usize, bool);

/// Searches the crash states of scenarios.
pub struct Explorer<'a> {
    subject: Subject<'a>,
    search: Search,
    /// Work that is done after a recovery.
    after: &'a [Op],
    /// What was done.
    pub tally: Tally,
    seen: HashSet<(u64, usize, usize)>,
    nested_kinds: HashMap<Kind, u32>,
    heavy_kinds: HashMap<Kind, u32>,
    random: Random,
    /// Asked after each recovery, and now and then: `false` stops the search.
    go_on: &'a mut dyn FnMut(&Tally) -> bool,
    stopped: bool,
}

/// Where a search is.
#[derive(Clone, Copy)]
struct Place<'p> {
    image: &'p Image,
    allowed: &'p Allowed,
    /// What the recovery demands that was cut off.
    must: Option<&'p Must>,
    /// What the crash interrupted.
    site: Option<Site>,
    depth: usize,
    /// More log than this after the recovery is too much.
    most_log: u64,
}

impl<'a> Explorer<'a> {
    /// A search of one scenario.
    pub fn new(
        subject: Subject<'a>,
        search: Search,
        after: &'a [Op],
        go_on: &'a mut dyn FnMut(&Tally) -> bool,
    ) -> Explorer<'a> {
        Explorer {
            subject,
            search,
            after,
            tally: Tally::default(),
            seen: HashSet::new(),
            nested_kinds: HashMap::new(),
            heavy_kinds: HashMap::new(),
            random: Random::new(search.seed),
            go_on,
            stopped: false,
        }
    }

    /// Crashes `run` at all its points. The first violation ends the search.
    pub fn explore(&mut self, run: &Run) -> Option<Finding> {
        let events = run.disk.events();
        let mut nth: HashMap<Site, usize> = HashMap::new();
        let all = events.len() + 1;
        let mut walk = Walk::default();
        for point in 0..all {
            if self.stopped {
                return None;
            }
            // So many of the rest as are still wanted, each with the same chance.
            let wanted = (self.search.points as u64).saturating_sub(self.tally.points);
            let skip = point < run.from
                || wanted < (all - point) as u64 && self.random.below((all - point) as u64) >= wanted;
            walk.pass(&events, point, &run.kinds, 0, !skip);
            let site = events.get(point).map(|e| e.site);
            let count = site.map_or(0, |s| {
                let n = nth.entry(s).or_default();
                *n += 1;
                *n
            });
            if skip {
                self.tally.points_left += 1;
                continue;
            }
            let mark = run.allowed(point);
            let image = run.disk.image(point);
            self.tally.points += 1;
            watchdog::crash(0, point, site, count, mark.op);
            let place = Place {
                image: &image,
                allowed: &mark.allowed,
                must: None,
                site,
                depth: 0,
                most_log: u64::MAX,
            };
            if let Err(mut finding) = self.visit(place, self.search.reach) {
                if let Some(first) = finding.crashes.first_mut() {
                    (first.point, first.site, first.nth) = (point, site, count);
                }
                finding.op = mark.op;
                return Some(*finding);
            }
        }
        None
    }

    /// Looks at the images of one crash point.
    fn visit(&mut self, place: Place<'_>, reach: Reach) -> Result<(), Box<Finding>> {
        let image = place.image;
        let questions = image.questions();
        let ways = questions.iter().fold(1u64, |n, (_, o)| n.saturating_mul(u64::from(*o)));
        let mut trie = Trie::new();
        let ordered = self.search.model == Persistence::Ordered;
        let exact = !ordered;
        if exact && ways <= u64::from(reach.exact) {
            self.exact(place, &mut trie, reach.exact)?;
        }
        let mut finished = None;
        let units = Units::of(image.pending());
        let mut left = reach.plans;
        let mut looked_at = 0u32;
        for level in 0..reach.level.map_or(0, |l| l + 1) {
            if trie.is_complete() {
                break;
            }
            let mut failed = None;
            let whole = plans::level(level, &units, self.search.model, self.search.seed, &mut |plan| {
                match self.planned(place, &units, plan, &mut trie) {
                    Err(f) => {
                        failed = Some(f);
                        return false;
                    }
                    Ok(ran) => left -= u32::from(ran && left > 0),
                }
                // Most plans may lead to what was seen: they cost little each, and there are as many as pairs of pending operations.
                looked_at += 1;
                if looked_at.is_multiple_of(64) && !(self.go_on)(&self.tally) {
                    self.stopped = true;
                }
                // If every image has been seen, the other plans lead to none of their own.
                left > 0
                    && looked_at < reach.plans.saturating_mul(PLANS_FOR_A_RECOVERY)
                    && !self.stopped
                    && !trie.is_complete()
            });
            if let Some(f) = failed {
                return Err(f);
            }
            if !whole || self.stopped {
                break;
            }
            finished = Some(level);
        }
        for _ in 0..reach.random {
            if trie.is_complete() || self.stopped {
                break;
            }
            let plan = plans::random(&units, self.search.model, &mut self.random);
            self.planned(place, &units, &plan, &mut trie)?;
        }
        if exact && reach.level.is_some() && !trie.is_complete() && !self.stopped {
            self.exact(place, &mut trie, reach.exact)?;
        }
        if place.depth == 0 && !self.stopped {
            match finished {
                _ if trie.is_complete() || (ordered && finished.is_some()) => self.tally.exact += 1,
                Some(level) => self.tally.levels[usize::from(level)] += 1,
                None => self.tally.open += 1,
            }
        }
        Ok(())
    }

    /// The exact search, as far as `most` recoveries reach.
    fn exact(&mut self, place: Place<'_>, trie: &mut Trie, most: u32) -> Result<(), Box<Finding>> {
        let mut otherwise = Otherwise::Newest;
        for _ in 0..most {
            let path = match trie.leaves() {
                0 => Vec::new(),
                _ => match trie.unseen() {
                    Some(path) => path,
                    None => return Ok(()),
                },
            };
            let fates = Listed { answers: path.into_iter().collect(), otherwise, model: self.search.model };
            self.case(place, fates, trie)?;
            if self.stopped {
                return Ok(());
            }
            // In turn: what has not been asked yet is likelier to matter if it is not always the same.
            otherwise = match otherwise {
                Otherwise::Newest => Otherwise::Oldest,
                Otherwise::Oldest => Otherwise::Newest,
            };
        }
        Ok(())
    }

    /// A plan, unless it leads to what was seen. Whether a recovery was run.
    fn planned(
        &mut self,
        place: Place<'_>,
        units: &Units,
        plan: &Plan,
        trie: &mut Trie,
    ) -> Result<bool, Box<Finding>> {
        let fate = |op, sector| plan.fate(units, op, sector);
        let answer = |q: Question, options: u8| place.image.answer(q, &fate).min(options - 1);
        if trie.covers(answer) {
            self.tally.alike += 1;
            return Ok(false);
        }
        let hash = place.image.fingerprint(&answer);
        let (low, high) =
            place.must.map_or((place.allowed.low(), place.allowed.high()), |m| (m.state, m.state));
        if !self.seen.insert((hash, low, high)) {
            self.tally.equal += 1;
            return Ok(false);
        }
        let answers = place.image.questions().into_iter().map(|(q, n)| (q, answer(q, n))).collect();
        self.case(place, Listed { answers, otherwise: Otherwise::Newest, model: self.search.model }, trie)?;
        Ok(true)
    }

    /// One recovery: judged, entered, and crashed in turn.
    fn case(&mut self, place: Place<'_>, fates: Listed, trie: &mut Trie) -> Result<(), Box<Finding>> {
        let rest_survives = fates.otherwise == Otherwise::Newest;
        self.tally.cases += 1;
        self.tally.at_depth(place.depth);
        coverage::new_state(place.depth);
        watchdog::recovering(place.depth);
        let done = recover(self.subject, place.image, Box::new(fates), place.allowed);
        let found = |violation: Violation| {
            let crash = Crash {
                point: 0,
                site: place.site,
                nth: 0,
                answers: done.asked.iter().map(|a| (a.question, a.answer)).collect(),
                rest_survives,
            };
            Box::new(Finding { violation, crashes: vec![crash], op: None })
        };
        if let Some(v) = &done.violation {
            return Err(found(v.clone()));
        }
        if let Some(v) = place.must.and_then(|m| m.broken(place.allowed, &done)) {
            return Err(found(v));
        }
        if let Err(d) = trie.insert(&done.asked) {
            return Err(found(Violation::new(
                Oracle::Determinism,
                format!("two recoveries that read the same differ after {} questions", d.after),
            )));
        }
        if done.opened.log_bytes > place.most_log {
            return Err(found(Violation::new(
                Oracle::Bounds,
                format!(
                    "a recovery that was crashed leaves {} bytes of log, more than {}",
                    done.opened.log_bytes, place.most_log
                ),
            )));
        }
        if !(self.go_on)(&self.tally) {
            self.stopped = true;
            return Ok(());
        }
        let kind = (
            place.site,
            place.depth,
            done.points.checked_ilog2().map_or(0, |l| l as usize),
            done.opened.clean,
        );
        if self.subject.oracles != Oracles::LIGHT && self.chosen(kind, true) {
            self.tally.heavy += 1;
            watchdog::recovered(place.depth, &done.asked);
            if let Some(v) = afterwards(self.subject, place.image, &done, place.allowed, self.after) {
                return Err(found(v));
            }
        }
        if let Err(mut below) = self.nested(place, kind, &done) {
            let mut crashes = found(below.violation.clone()).crashes;
            crashes.append(&mut below.crashes);
            below.crashes = crashes;
            return Err(below);
        }
        Ok(())
    }

    fn chosen(&mut self, kind: Kind, heavy: bool) -> bool {
        let (kinds, sample) = match heavy {
            true => (&mut self.heavy_kinds, self.search.heavy_sample),
            false => (&mut self.nested_kinds, self.search.sample),
        };
        let n = kinds.entry(kind).or_default();
        *n += 1;
        *n <= self.search.representatives || self.random.one_in(sample)
    }

    /// Crashes a recovery.
    fn nested(&mut self, place: Place<'_>, kind: Kind, done: &Recovered) -> Result<(), Box<Finding>> {
        let depth = place.depth + 1;
        let Some(state) = done.state else { return Ok(()) };
        if depth >= usize::from(self.search.depth) || done.points == 0 {
            return Ok(());
        }
        // One recovery deep in full for representatives; deeper a chain: one point, one image, until a coin ends it.
        let chain = depth > 1;
        if !(if chain { self.random.one_in(2) } else { self.chosen(kind, false) }) {
            return Ok(());
        }
        let events = done.disk.events();
        watchdog::recovered(place.depth, &done.asked);
        let most_log = place.most_log.min(done.opened.log_bytes.saturating_mul(2) + (256 << 10));
        let points: Vec<usize> = match chain {
            false if done.points <= self.search.nested_points => (1..=done.points).collect(),
            false => {
                let one = |_| 1 + self.random.below(done.points as u64) as usize;
                (0..self.search.nested_points).map(one).collect()
            }
            true => vec![1 + self.random.below(done.points as u64) as usize],
        };
        let mut walk = Walk::default();
        for point in 0..=done.points {
            walk.pass(&events[..done.points], point, &done.kinds, depth, points.contains(&point));
        }
        for point in points {
            if self.stopped {
                return Ok(());
            }
            self.tally.nested_points += 1;
            let image = done.disk.image(point);
            let site = events[..done.points].get(point).map(|e| e.site);
            let nth = events[..point].iter().filter(|e| Some(e.site) == site).count() + 1;
            watchdog::crash(depth, point, site, nth, None);
            let reach = match chain {
                false => self.search.nested,
                true => Reach { exact: 0, level: None, plans: 0, random: 1 },
            };
            // What has been read is decided: the next recovery must come to the same state.
            let must = Must::of(done, state, &image, &events[..point]);
            let below =
                Place { image: &image, allowed: place.allowed, must: Some(&must), site, depth, most_log };
            if let Err(mut finding) = self.visit(below, reach) {
                if let Some(first) = finding.crashes.first_mut() {
                    (first.point, first.nth) = (point, nth);
                }
                return Err(finding);
            }
        }
        Ok(())
    }
}
