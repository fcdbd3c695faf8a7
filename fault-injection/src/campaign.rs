//! Many scenarios, on all cores, until a time or a count is reached or something is wrong.
use crate::case::Case;
use crate::engine::{Config, Engine};
use crate::explore::check::{Oracles, Subject};
use crate::explore::coverage::{Local, listen};
use crate::explore::replay::{Scenario, run_itself, search};
use crate::explore::shrink::{Shrunk, sentence, shrink};
use crate::explore::{Explorer, Finding, Search, Tally, faults};
use crate::op::Op;
use crate::oracles::ledger::{Ledger, Matrix};
use crate::oracles::{Oracle, Violation};
use crate::random::Random;
use crate::run::{caught, newborn};
use crate::sim::{Image, IoFault, Persistence};
use crate::watchdog::{Hang, PATIENCE, TICK, Watched, watched};
use crate::workload::Workload;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

mod short;

/// An engine and what it is put through.
#[derive(Clone)]
pub struct Kit {
    /// The engine.
    pub engine: Arc<dyn Engine>,
    /// The scenarios.
    pub workload: Arc<dyn Workload>,
}

/// What a campaign is to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Decides everything: scenarios, errors, images.
    pub seed: u64,
    /// Ends after so many recoveries, if not before.
    pub cases: Option<u64>,
    /// Ends after this time, if not before.
    pub time: Option<Duration>,
    /// Ends after so many scenarios, if not before.
    pub scenarios: Option<u64>,
    /// The disks, in turn.
    pub models: Vec<Persistence>,
    /// Kinds of errors ([`faults::NAMES`]) to plan in each scenario.
    pub faults: Vec<&'static str>,
    /// The oracles.
    pub oracles: Oracles,
    /// How many crashes deep.
    pub depth: u8,
    /// Threads; scenarios are shared out.
    pub threads: usize,
    /// Whether a search is quick instead of thorough.
    pub quick: bool,
    /// The oracles that open the files again judge every recovery, not a sample.
    pub judge_all: bool,
    /// Ends at the first violation.
    pub stop_at_first: bool,
    /// Time for making a violation smaller.
    pub shrink: Duration,
    /// How long one call of the engine may take.
    pub patience: Duration,
    /// The planted bug that is on, for the files.
    pub mutant: Option<String>,
}

impl Plan {
    /// A campaign over the `posix` model with all oracles and no errors.
    pub fn new(seed: u64) -> Plan {
        Plan {
            seed,
            cases: None,
            time: None,
            scenarios: None,
            models: vec![Persistence::Posix],
            faults: Vec::new(),
            oracles: Oracles::ALL,
            depth: 6,
            threads: 1,
            quick: false,
            judge_all: false,
            stop_at_first: true,
            shrink: Duration::from_secs(30),
            patience: PATIENCE,
            mutant: None,
        }
    }
}

/// How a campaign is getting on; clones are of the same one.
#[derive(Clone, Debug, Default)]
pub struct Live(Arc<Counts>);

impl Deref for Live {
    type Target = Counts;
    fn deref(&self) -> &Counts {
        &self.0
    }
}

/// What a campaign counts; read it from any thread.
#[derive(Debug, Default)]
pub struct Counts {
    /// Recoveries.
    pub cases: AtomicU64,
    /// Scenarios.
    pub scenarios: AtomicU64,
    /// Crash points of scenarios.
    pub points: AtomicU64,
    /// The deepest chain of crashes.
    pub depth: AtomicU64,
    /// Violations.
    pub violations: AtomicU64,
    /// Crash points of scenarios whose search has ended.
    pub searched: AtomicU64,
    /// Those at which every image was looked at.
    pub exact: AtomicU64,
    /// Of the others, those searched to this level and not further.
    pub levels: [AtomicU64; 5],
    /// What was met, by thread.
    locals: Mutex<Vec<Arc<Local>>>,
    /// Set it to end the campaign.
    pub stop: AtomicBool,
}

/// What a campaign has met of what it must meet: so many of so many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Covered {
    /// Named events.
    pub events: (usize, usize),
    /// Places of crashes.
    pub places: (usize, usize),
}

impl Counts {
    /// What was met so far; `None` if nobody notes it.
    pub fn covered(&self) -> Option<Covered> {
        let locals = self.locals.lock().clone();
        if locals.is_empty() {
            return None;
        }
        let (ledger, mut matrix) = (Ledger::new(), Matrix::default());
        for local in locals {
            ledger.merge(&local.ledger);
            matrix.merge(&local.matrix.lock());
        }
        let (events, places) = (ledger.demanded(), Matrix::expected(2));
        Some(Covered {
            events: (events - ledger.zeros().len(), events),
            places: (places.len() - matrix.zeros(&places).len(), places.len()),
        })
    }
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The violation, made small.
    pub case: Case,
    /// The oracle that objected, and its words.
    pub violation: Violation,
    /// Recoveries until then, in the whole campaign.
    pub after_cases: u64,
    /// Seconds until then.
    pub after_seconds: f64,
    /// The scenario before it was made smaller.
    pub operations_before: usize,
}

/// What a campaign did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What was searched.
    pub tally: Tally,
    /// Scenarios.
    pub scenarios: u64,
    /// Operations in them.
    pub operations: u64,
    /// Of these, refused ones.
    pub refused: u64,
    /// Scenarios that were run twice, with equal histories.
    pub twice: u64,
    /// Planned errors that struck.
    pub struck: u64,
    /// Recoveries from planned damage that ended with a typed error.
    pub detected: u64,
    /// Those after which the last write to the log was gone without a trace.
    pub untraceable: u64,
    /// Violations that were silent.
    pub silent: u64,
    /// Named events.
    pub ledger: Arc<Ledger>,
    /// Crash points by place.
    pub matrix: Matrix,
    /// Everything that is wrong.
    pub found: Vec<Found>,
    /// How long it took.
    pub seconds: f64,
    /// Processor time of the threads that ran scenarios, where the operating system tells it (seconds). On a machine that does other work
    /// too it says more than [`seconds`](Report::seconds).
    pub processor_seconds: Option<f64>,
}

/// What this thread has computed so far, in seconds. Linux tells it.
fn processor_time() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(text.split_whitespace().next()?.parse::<u64>().ok()? as f64 / 1e9)
}

impl Report {
    fn add(&mut self, o: Report) {
        self.tally.add(&o.tally);
        self.scenarios += o.scenarios;
        self.operations += o.operations;
        self.refused += o.refused;
        self.twice += o.twice;
        self.struck += o.struck;
        self.detected += o.detected;
        self.untraceable += o.untraceable;
        self.silent += o.silent;
        self.ledger.merge(&o.ledger);
        self.matrix.merge(&o.matrix);
        self.found.extend(o.found);
        self.processor_seconds = match (self.processor_seconds, o.processor_seconds) {
            (Some(a), Some(b)) => Some(a + b),
            (a, b) => a.or(b),
        };
    }
}

/// Runs a campaign. `live` shows how it gets on, and can stop it. A thread that hangs is given up; its scenario is a violation, and
/// another thread takes its place.
pub fn campaign(kits: &[Kit], plan: &Plan, live: &Live) -> Report {
    campaign_and(kits, kits, plan, live)
}

/// [`campaign`]; short scenarios ([`short`]) are drawn from `short`.
pub(crate) fn campaign_and(kits: &[Kit], short: &[Kit], plan: &Plan, live: &Live) -> Report {
    let started = Instant::now();
    // glibc keeps freed memory from here on, instead of giving it back after each database and paying page faults for the
    // next: its thresholds follow the largest mapping that was freed.
    drop(std::hint::black_box(Vec::<u8>::with_capacity(31 << 20)));
    let shared = Shared {
        kits: kits.into(),
        short: short.into(),
        plan: plan.clone(),
        live: live.clone(),
        started,
        next: AtomicU64::new(0),
        total: Mutex::default(),
    };
    let shared = Arc::new(shared);
    let mut locals = Vec::new();
    let mut start = || {
        let (shared, local) = (shared.clone(), Arc::new(Local::default()));
        locals.push(local.clone());
        live.locals.lock().push(local.clone());
        Watched::start(plan.patience, move || work(shared, local))
    };
    let mut workers: Vec<Watched<()>> = (0..plan.threads.max(1)).map(|_| start()).collect();
    let mut hangs = Vec::new();
    while !workers.is_empty() {
        std::thread::sleep(TICK);
        let mut at = 0;
        while at < workers.len() {
            match workers[at].look(Duration::ZERO) {
                None => at += 1,
                Some(Ok(())) => drop(workers.swap_remove(at)),
                Some(Err(hang)) => {
                    live.violations.fetch_add(1, Relaxed);
                    hangs.push((hang, live.cases.load(Relaxed), started.elapsed().as_secs_f64()));
                    match shared.over() {
                        true => drop(workers.swap_remove(at)),
                        false => workers[at] = start(),
                    }
                }
            }
        }
    }
    let mut report = std::mem::take(&mut *shared.total.lock());
    for local in locals {
        report.ledger.merge(&local.ledger);
        report.matrix.merge(&local.matrix.lock());
    }
    report.seconds = started.elapsed().as_secs_f64();
    for (hang, after_cases, after_seconds) in hangs {
        report.found.extend(hung(kits, plan, *hang, after_cases, after_seconds));
    }
    report
}

/// A hang as a violation, made small. (One of no scenario is the harness's own, and cannot be told.)
fn hung(kits: &[Kit], plan: &Plan, hang: Hang, after_cases: u64, after_seconds: f64) -> Option<Found> {
    let case = hang.case?;
    let operations_before = case.ops.len();
    let (mut case, finding) = fewer_that_hang(kits, plan, (case, hang.finding));
    let violation = finding.violation.clone();
    let where_ = sentence(&case, &finding);
    case.says = [violation.text.clone(), where_].into_iter().filter(|s| !s.is_empty()).collect();
    Some(Found { case, violation, after_cases, after_seconds, operations_before })
}

/// How long something must take to count as a hang while one that was seen is made small.
const SHORT_PATIENCE: Duration = Duration::from_millis(400);

/// Fewer operations that hang as well. Each try that does costs a thread and some time, so this goes by halves and not far.
fn fewer_that_hang(kits: &[Kit], plan: &Plan, first: (Case, Finding)) -> (Case, Finding) {
    let until = Instant::now() + plan.shrink;
    let hangs = |case: &Case, patience: Duration| {
        let (kits, case) = (kits.to_vec(), case.clone());
        let done = watched(patience, move || drop(replay_here(&kits, &case, true, &Live::default())));
        done.err().and_then(|hang| Some((hang.case?, hang.finding)))
    };
    let mut best = first.clone();
    // What follows the operation that hangs is not needed.
    let mut chunk = best.1.op.filter(|_| best.1.crashes.is_empty()).map_or(0, |i| best.0.ops.len() - 1 - i);
    let mut at = best.0.ops.len() - chunk;
    if chunk == 0 {
        (chunk, at) = (best.0.ops.len().div_ceil(2).max(1), 0);
    }
    while Instant::now() < until {
        if at >= best.0.ops.len() {
            if chunk == 1 {
                break;
            }
            (chunk, at) = (chunk / 2, 0);
        }
        // The crash is looked for anew.
        let mut case = Case { crashes: Vec::new(), ..best.0.clone() };
        case.ops.drain(at..(at + chunk).min(case.ops.len()));
        match hangs(&case, SHORT_PATIENCE) {
            Some(found) => best = found,
            None => at += chunk,
        }
    }
    // It must hang for as long as the first did.
    match best.0.ops.len() < first.0.ops.len() {
        true => hangs(&best.0, plan.patience).unwrap_or(first),
        false => first,
    }
}

/// What the threads of a campaign share.
struct Shared {
    kits: Box<[Kit]>,
    short: Box<[Kit]>,
    plan: Plan,
    live: Live,
    started: Instant,
    next: AtomicU64,
    total: Mutex<Report>,
}

impl Shared {
    fn over(&self) -> bool {
        let (plan, live) = (&self.plan, &self.live);
        live.stop.load(Relaxed)
            || plan.cases.is_some_and(|n| live.cases.load(Relaxed) >= n)
            || plan.time.is_some_and(|t| self.started.elapsed() >= t)
            || (plan.stop_at_first && live.violations.load(Relaxed) > 0)
    }
}

/// One thread's scenarios.
fn work(shared: Arc<Shared>, local: Arc<Local>) {
    listen(Some(local));
    let mut worker = Worker {
        shared: &shared,
        kits: &shared.kits,
        plan: &shared.plan,
        live: &shared.live,
        starts: HashMap::new(),
        report: Report::default(),
    };
    while !shared.over() {
        let number = shared.next.fetch_add(1, Relaxed);
        if shared.plan.scenarios.is_some_and(|n| number >= n) {
            break;
        }
        let before = processor_time();
        worker.scenario(number);
        worker.report.processor_seconds = processor_time().zip(before).map(|(now, before)| now - before);
        shared.total.lock().add(std::mem::take(&mut worker.report));
    }
    listen(None);
}

struct Worker<'a> {
    shared: &'a Shared,
    kits: &'a [Kit],
    plan: &'a Plan,
    live: &'a Live,
    /// New databases to start from.
    starts: HashMap<(String, Config, Persistence), Option<Image>>,
    report: Report,
}

impl<'a> Worker<'a> {
    fn scenario(&mut self, number: u64) {
        let (kits, plan) = (self.kits, self.plan);
        let which = (number % kits.len() as u64) as usize;
        let kit = &kits[which];
        let (turn, models) = (number / kits.len() as u64, plan.models.len() as u64);
        let model = plan.models[(turn % models) as usize];
        let mut random = Random::new(plan.seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let seed = random.next();
        let seed = if kit.workload.in_turn() { turn / models } else { seed };
        let length = match random.below(100) {
            0..55 => 8 + random.below(8) as usize,
            55..90 => 24 + random.below(24) as usize,
            _ => 90,
        };
        let config = kit.workload.config(seed);
        let model = config.model(model);
        let ops = kit.workload.operations(seed, length);
        let after = kit.workload.afterwards();
        let planned = kit.workload.faults(seed);
        let creates = !kit.workload.in_turn() && random.one_in(64);
        let start = if creates { None } else { self.start(kit, &config, model) };
        let subject = Subject {
            engine: &*kit.engine,
            config: &config,
            workload: Some(&*kit.workload),
            oracles: plan.oracles,
        };
        let scenario = Scenario { model, start: start.as_ref(), ops: &ops, faults: &planned, after: &after };
        let found = match planned.is_empty() {
            true => self.whole(subject, scenario, seed, &mut random),
            false => self.struck(subject, scenario, self.thorough(model, seed)).map(|f| (f, planned.clone())),
        };
        self.report.scenarios += 1;
        self.report.operations += ops.len() as u64;
        self.live.scenarios.fetch_add(1, Relaxed);
        let Some((finding, faults)) = found else { return };
        if self.plan.stop_at_first && self.live.violations.fetch_add(1, Relaxed) > 0 {
            return;
        }
        let scenario = Scenario { faults: &faults, ..scenario };
        self.keep(kit, subject, scenario, finding, seed);
    }

    /// Runs, crashes and disturbs one scenario.
    fn whole(
        &mut self,
        subject: Subject<'_>,
        scenario: Scenario<'_>,
        seed: u64,
        random: &mut Random,
    ) -> Option<(Finding, Vec<IoFault>)> {
        let run = scenario.run(subject);
        self.report.refused += run.refused as u64;
        if let Some(f) = run_itself(&run) {
            return Some((f, Vec::new()));
        }
        let bare = |oracle, text: String| {
            Some((
                Finding { violation: Violation::new(oracle, text), crashes: Vec::new(), op: None },
                Vec::new(),
            ))
        };
        if let Some((i, f)) = run.deaths().next() {
            let op = scenario.ops.get(i).map_or("the open".to_string(), ToString::to_string);
            return bare(Oracle::Fault, format!("`{op}` fails without any error of the disk: {f}"));
        }
        if random.one_in(8) {
            let again = scenario.run(subject);
            if again.disk.history_hash() != run.disk.history_hash() {
                return bare(Oracle::Determinism, "two runs of one scenario differ".to_string());
            }
            self.report.twice += 1;
        }
        let thorough = self.thorough(scenario.model, seed);
        let mut seen = Tally::default();
        let live = self.live;
        let over = (self.plan.cases, self.plan.time, self.plan.stop_at_first, self.shared.started);
        let mut go_on = |t: &Tally| {
            live.cases.fetch_add(t.cases - seen.cases, Relaxed);
            live.points.fetch_add(t.points - seen.points, Relaxed);
            live.depth.fetch_max(t.max_depth() as u64, Relaxed);
            live.exact.fetch_add(t.exact - seen.exact, Relaxed);
            live.searched.fetch_add(t.searched() - seen.searched(), Relaxed);
            for (shown, (now, before)) in live.levels.iter().zip(t.levels.iter().zip(seen.levels)) {
                shown.fetch_add(now - before, Relaxed);
            }
            (seen.cases, seen.points, seen.exact) = (t.cases, t.points, t.exact);
            (seen.levels, seen.open) = (t.levels, t.open);
            let cases = live.cases.load(Relaxed);
            !(live.stop.load(Relaxed)
                || over.0.is_some_and(|n| cases >= n)
                || over.1.is_some_and(|t| over.3.elapsed() >= t)
                || (over.2 && live.violations.load(Relaxed) > 0))
        };
        let mut explorer = Explorer::new(subject, thorough, scenario.after, &mut go_on);
        let found = explorer.explore(&run);
        let tally = std::mem::take(&mut explorer.tally);
        drop(explorer);
        self.report.tally.add(&tally);
        if let Some(f) = found {
            return Some((f, Vec::new()));
        }
        // Situations bring the errors that they are about.
        if self.plan.faults.is_empty() || subject.workload.is_some_and(|w| w.in_turn()) {
            return None;
        }
        let most = if self.plan.quick { 8 } else { 24 };
        let dsync = subject.config.dsync;
        for fault in faults::plan(&self.plan.faults, &run.disk.events(), most, seed, dsync) {
            if self.shared.over() {
                return None;
            }
            let planned = [fault];
            if let Some(f) = self.struck(subject, Scenario { faults: &planned, ..scenario }, thorough) {
                return Some((f, planned.to_vec()));
            }
        }
        None
    }

    fn thorough(&self, model: Persistence, seed: u64) -> Search {
        let search = if self.plan.quick { Search::quick(model, seed) } else { Search::usual(model, seed) };
        let heavy_sample = if self.plan.judge_all { 1 } else { search.heavy_sample };
        Search { depth: search.depth.min(self.plan.depth), heavy_sample, ..search }
    }

    /// Runs a scenario with its planned errors.
    fn struck(&mut self, subject: Subject<'_>, scenario: Scenario<'_>, search: Search) -> Option<Finding> {
        let mut tally = Tally::default();
        let struck = faults::strike(subject, scenario, search, &mut tally);
        self.live.cases.fetch_add(tally.cases, Relaxed);
        self.report.tally.add(&tally);
        self.report.struck += u64::from(struck.struck);
        self.report.detected += struck.detected;
        self.report.untraceable += struck.untraceable;
        struck.finding
    }

    /// A new database of this kit to start from; `None` if making one fails, which scenarios that create it report.
    fn start(&mut self, kit: &Kit, config: &Config, model: Persistence) -> Option<Image> {
        let key = (kit.engine.name().to_string(), config.clone(), model);
        self.starts.entry(key).or_insert_with(|| newborn(&*kit.engine, config, model).ok()).clone()
    }

    /// Makes a violation small and keeps it.
    fn keep(&mut self, kit: &Kit, subject: Subject<'_>, scenario: Scenario<'_>, finding: Finding, seed: u64) {
        let after_cases = self.live.cases.load(Relaxed);
        let after_seconds = self.shared.started.elapsed().as_secs_f64();
        if finding.violation.oracle == Oracle::Silent {
            self.report.silent += 1;
        }
        let until = Instant::now() + self.plan.shrink;
        let (case, violation) = self.small(kit, subject, scenario, finding, seed, self.plan.shrink * 2 / 3);
        let operations_before = scenario.ops.len();
        let found = Found { case, violation, after_cases, after_seconds, operations_before };
        let found = if found.case.is_small() { found } else { self.shorter(kit, found, seed, until) };
        self.report.found.push(found);
    }

    /// The violation as a case, made small within `time`.
    fn small(
        &self,
        kit: &Kit,
        subject: Subject<'_>,
        scenario: Scenario<'_>,
        finding: Finding,
        seed: u64,
        time: Duration,
    ) -> (Case, Violation) {
        let quick = Search::quick(scenario.model, seed);
        let small = shrink(subject, scenario, quick, finding.clone(), time);
        let small = without_alarm(subject, scenario, quick, small, finding);
        let violation = small.finding.violation.clone();
        let mut case = Case {
            says: vec![violation.text.replace('\n', " ")],
            engine: kit.engine.name().to_string(),
            workload: kit.workload.name().to_string(),
            model: scenario.model,
            creates: scenario.start.is_none(),
            config: subject.config.clone(),
            mutant: self.plan.mutant.clone(),
            oracle: Some(violation.oracle),
            ops: small.ops,
            faults: small.faults,
            damages: Vec::new(),
            sweep: None,
            crashes: small.finding.crashes.clone(),
        };
        let where_ = sentence(&case, &small.finding);
        if !where_.is_empty() {
            case.says.push(where_);
        }
        (case, violation)
    }
}

/// What was made small while a planted bug is on, unless it is wrong without the bug too: then what it was before. (Two errors at once
/// may leave nothing that could prove a loss.)
fn without_alarm(
    subject: Subject<'_>,
    scenario: Scenario<'_>,
    search_: Search,
    small: Shrunk,
    finding: Finding,
) -> Shrunk {
    let Some(bug) = hamal::mutants::current() else { return small };
    hamal::mutants::choose(None);
    let smaller = Scenario { ops: &small.ops, faults: &small.faults, ..scenario };
    let (_, found) = search(subject, smaller, search_, &mut |t| t.cases < QUICK_REPLAY);
    hamal::mutants::choose(Some(bug));
    match found {
        None => small,
        Some(_) => Shrunk {
            ops: scenario.ops.to_vec(),
            faults: scenario.faults.to_vec(),
            finding,
            searches: small.searches,
        },
    }
}

/// Recoveries of a replay that is not to look far.
const QUICK_REPLAY: u64 = 300;

/// Replays a case: exactly its crashes first; if they show nothing (the engine's input/output has changed since), all crash
/// points of its scenario. `None` if nothing is wrong.
///
/// # Errors
/// If no kit has the engine and the workload that the case names.
pub fn replay(kits: &[Kit], case: &Case, exactly: bool) -> Result<(Tally, Option<Finding>), String> {
    let replayed = replay_live(kits, case, exactly, &Live::default())?;
    Ok(replayed.unwrap_or_default())
}

/// [`replay`] that `live` counts along with and can stop: `None` then, at once, whatever the engine is at.
///
/// # Errors
/// As there.
pub fn replay_live(
    kits: &[Kit],
    case: &Case,
    exactly: bool,
    live: &Live,
) -> Result<Option<(Tally, Option<Finding>)>, String> {
    let (kits, case, its) = (kits.to_vec(), case.clone(), live.clone());
    let mut thread = Watched::start(PATIENCE, move || replay_here(&kits, &case, exactly, &its));
    loop {
        match thread.look(TICK) {
            // It may have returned because it was to stop: nothing is known of what it has not looked at.
            Some(Ok(Ok((_, None)))) | None if live.stop.load(Relaxed) => return Ok(None),
            Some(Ok(done)) => return done.map(Some),
            Some(Err(hang)) => return Ok(Some((Tally { cases: 1, ..Tally::default() }, Some(hang.finding)))),
            None => {}
        }
    }
}

/// Why a case would show nothing, whatever is wrong with the engine: a planned error that the scenario does not come to, or damage
/// that changes nothing. (The engine's input/output has changed since it was written.)
///
/// # Errors
/// As of [`replay`].
pub fn idle(kits: &[Kit], case: &Case) -> Result<Option<String>, String> {
    if case.faults.is_empty() && case.damages.is_empty() {
        return Ok(None);
    }
    let (kit, workload) = kit_of(kits, case)?;
    let start = start_of(kit, case)?;
    let oracles = Oracles::LIGHT;
    let subject = Subject { engine: &*kit.engine, config: &case.config, workload, oracles };
    let model = case.config.model(case.model);
    let scenario =
        Scenario { model, start: start.as_ref(), ops: &case.ops, faults: &case.faults, after: &[] };
    let run = scenario.run(subject);
    if !case.faults.is_empty() && run.disk.heal() == 0 {
        return Ok(Some("the scenario does not come to its planned error".into()));
    }
    let image = run.disk.kept();
    for damage in &case.damages {
        let before = image.file(&damage.file);
        let mut after = before.clone();
        after.iter_mut().for_each(|bytes| damage.apply(bytes));
        if before.is_none() || before == after {
            return Ok(Some(format!("`{damage}` changes nothing")));
        }
    }
    Ok(None)
}

/// The kit that a case is for, and its workload.
fn kit_of<'k>(kits: &'k [Kit], case: &Case) -> Result<(&'k Kit, Option<&'k dyn Workload>), String> {
    let kit = kits
        .iter()
        .find(|k| k.engine.name() == case.engine && k.workload.name() == case.workload)
        .or_else(|| kits.iter().find(|k| k.engine.name() == case.engine))
        .ok_or_else(|| format!("there is no engine {:?}", case.engine))?;
    let workload = (kit.workload.name() == case.workload).then_some(&*kit.workload);
    if workload.is_none() && case.workload != "none" {
        return Err(format!("there is no workload {:?} for {:?}", case.workload, case.engine));
    }
    Ok((kit, workload))
}

/// The database that a case starts with; `None` if it starts with the creation.
fn start_of(kit: &Kit, case: &Case) -> Result<Option<Image>, String> {
    if case.creates {
        return Ok(None);
    }
    let made = caught(|| newborn(&*kit.engine, &case.config, case.config.model(case.model)));
    made?.map(Some).map_err(|f| f.to_string())
}

/// [`replay`], on this thread, for as long as it takes.
fn replay_here(
    kits: &[Kit],
    case: &Case,
    exactly: bool,
    live: &Live,
) -> Result<(Tally, Option<Finding>), String> {
    let (kit, workload) = kit_of(kits, case)?;
    let model = case.config.model(case.model);
    let start = start_of(kit, case)?;
    let subject = Subject { engine: &*kit.engine, config: &case.config, workload, oracles: Oracles::ALL };
    let after: Vec<Op> = kit.workload.afterwards();
    let scenario =
        Scenario { model, start: start.as_ref(), ops: &case.ops, faults: &case.faults, after: &after };
    if let Some(how) = case.sweep {
        let found = crate::sweep::violation(&kit.engine, &case.config, &case.ops, how, live)?;
        let finding = found.map(|(violation, _)| Finding { violation, crashes: Vec::new(), op: None });
        return Ok((Tally { cases: 1, ..Tally::default() }, finding));
    }
    if !case.damages.is_empty() {
        return Ok((
            Tally { cases: 1, ..Tally::default() },
            faults::damaged(subject, scenario, &case.damages),
        ));
    }
    if !case.crashes.is_empty() && case.faults.is_empty() {
        let found = crate::explore::replay::replay(subject, scenario, &case.crashes);
        if found.is_some() || exactly {
            return Ok((Tally { cases: 1, ..Tally::default() }, found));
        }
    }
    let mut go_on = |t: &Tally| {
        live.cases.store(t.cases, Relaxed);
        !(live.stop.load(Relaxed) || exactly && t.cases >= QUICK_REPLAY)
    };
    let how = if exactly { Search::quick(model, 1) } else { Search::usual(model, 1) };
    Ok(search(subject, scenario, how, &mut go_on))
}
