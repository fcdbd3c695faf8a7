//! `hamal torture`: crash the engine at every point, in every way, and judge what is left.

use crate::open::{Common, Stop};
use crate::output::{Failure, Out, Result, count, grouped, progress};
use clap::{Args, ValueEnum};
use hamal_fault_injection::campaign::{Covered, Found, Kit, Live, Plan, Report, campaign, idle, replay_live};
use hamal_fault_injection::case::Case;
use hamal_fault_injection::explore::check::Oracles;
use hamal_fault_injection::explore::faults;
use hamal_fault_injection::kits::{kits, small_kit};
use hamal_fault_injection::oracles::ledger::Matrix;
use hamal_fault_injection::sim::Persistence;
use hamal_fault_injection::sweep;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Crash, tear and damage a simulated disk under the engine, and check what recovery makes of it
///
/// Scenarios come from the seed. Each is run once; then the power fails at every change that it made to the disk, with
/// everything lost, kept or torn that the persistence model allows and recovery can tell apart, and again within the
/// recoveries. After each recovery the oracles judge. A violation is made small and written to a file that --replay takes.
#[derive(Args, Debug)]
pub(crate) struct Torture {
    /// Decides everything: scenarios, errors, crashes
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Stop after so many minutes (fractions are allowed); the default is one, unless --cases is given
    #[arg(long, value_name = "M", value_parser = minutes)]
    minutes: Option<Duration>,
    /// Stop after so many recoveries
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    cases: Option<u64>,
    /// What the disk may do to what was not synced
    #[arg(long, value_enum, default_value_t = Model::All, conflicts_with_all = ["sweep", "speed", "replay"])]
    model: Model,
    /// Input/output errors to plan: a list of eio, nospace, eintr, short, lie, lost, misdirected, bitflip; or all, or none
    #[arg(long, default_value = "all", value_name = "LIST", value_delimiter = ',', conflicts_with_all = ["sweep", "speed", "replay"])]
    faults: Vec<String>,
    /// Scenarios: a list of btree, bank, counters, situations; or all
    #[arg(long, default_value = "all", value_name = "LIST", value_delimiter = ',', conflicts_with_all = ["speed", "replay"])]
    workload: Vec<String>,
    /// How many crashes deep: 1 crashes no recovery
    #[arg(long, default_value_t = 6, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=32), conflicts_with_all = ["sweep", "speed", "replay"])]
    depth: u8,
    /// Only look whether the acknowledged commits are there; leave out structure, page replay, reference and the rest
    #[arg(long, conflicts_with_all = ["sweep", "replay"])]
    light: bool,
    /// Search less at each crash point, to see more scenarios
    #[arg(long, conflicts_with_all = ["sweep", "speed", "replay", "mutant"])]
    quick: bool,
    /// Threads; the default is one for each core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024), conflicts_with_all = ["speed", "replay"])]
    threads: Option<u16>,
    /// Turn planted bugs on, one after the other, and see each caught: a list of names, or all (needs a build with `--features mutants`)
    #[arg(long, value_name = "NAMES|all")]
    mutant: Option<String>,
    /// Damage a small database in every way at every place instead: bytes, sectors, pages, files; print the table of verdicts
    #[arg(long, conflicts_with_all = ["mutant", "cases", "minutes", "replay"])]
    sweep: bool,
    /// In a sweep, try every N-th byte
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..), requires = "sweep")]
    stride: u16,
    /// Measure instead how many crash states are recovered and judged in a second on one core: small btree scenarios, crashed once,
    /// posix, no errors; first with the light oracles, then with all oracles judging every state
    #[arg(long, conflicts_with_all = ["mutant", "minutes", "replay", "sweep"])]
    speed: bool,
    /// Run the case in this file again
    #[arg(long, value_name = "FILE", conflicts_with_all = ["mutant", "cases", "minutes", "seed"])]
    replay: Option<PathBuf>,
    /// Where the files of violations go
    #[arg(long, default_value = ".", value_name = "DIR", conflicts_with_all = ["speed", "replay"])]
    out: PathBuf,
    /// Print which events of recovery and which places of crashes were met, and fail if one that must occur was not
    #[arg(long, conflicts_with_all = ["sweep", "speed", "replay", "mutant"])]
    coverage: bool,
    /// Go on after a violation
    #[arg(long, conflicts_with_all = ["sweep", "speed", "replay", "mutant"])]
    keep_going: bool,
    /// Seconds for making a violation small; the default is 30, and 10 for a planted bug
    #[arg(long, value_name = "N", conflicts_with_all = ["speed", "replay"])]
    shrink: Option<u64>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Model {
    /// A prefix of the writes survives
    Ordered,
    /// Any subset of the unsynced sectors, lengths and names survives
    Posix,
    /// As posix, and sectors being written may be garbage
    Hostile,
    /// One after the other
    All,
}

fn minutes(text: &str) -> std::result::Result<Duration, String> {
    let m: f64 = text.parse().map_err(|_| "not a number".to_string())?;
    if !(m.is_finite() && m > 0.0 && m < 1e6) {
        return Err("must be more than 0".to_string());
    }
    Ok(Duration::from_secs_f64(m * 60.0))
}

fn list(given: &[String], known: &[&'static str], what: &str) -> Result<Vec<&'static str>> {
    match given {
        [all] if all == "all" => return Ok(known.to_vec()),
        [none] if none == "none" => return Ok(Vec::new()),
        _ => {}
    }
    given
        .iter()
        .map(|name| {
            known.iter().copied().find(|k| k == name).ok_or_else(|| {
                Failure::Usage(format!("there is no {what} {name:?}: {}, all", known.join(", ")))
            })
        })
        .collect()
}

impl Torture {
    fn plan(&self) -> Result<Plan> {
        let models = match self.model {
            Model::Ordered => vec![Persistence::Ordered],
            Model::Posix => vec![Persistence::Posix],
            Model::Hostile => vec![Persistence::Hostile],
            Model::All => vec![Persistence::Posix, Persistence::Hostile, Persistence::Ordered],
        };
        let time = match (self.minutes, self.cases) {
            (None, None) => Some(Duration::from_secs(60)),
            (time, _) => time,
        };
        Ok(Plan {
            cases: self.cases,
            time,
            models,
            faults: list(&self.faults, &faults::NAMES, "fault")?,
            oracles: if self.light { Oracles::LIGHT } else { Oracles::ALL },
            depth: self.depth,
            threads: self.threads.map_or_else(cores, usize::from),
            quick: self.quick,
            shrink: self.shrink(30),
            stop_at_first: !self.keep_going,
            ..Plan::new(self.seed)
        })
    }

    fn shrink(&self, otherwise: u64) -> Duration {
        Duration::from_secs(self.shrink.unwrap_or(otherwise))
    }

    fn kits(&self) -> Result<Vec<Kit>> {
        let names = list(&self.workload, &hamal_fault_injection::kits::WORKLOADS, "workload")?;
        if names.is_empty() {
            return Err(Failure::Usage("no workload is left".into()));
        }
        Ok(kits(&names))
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The command.
pub(crate) fn torture(c: &Torture, common: &Common, out: &mut Out) -> Result<()> {
    // Panics of the engine under test are caught and reported as violations.
    std::panic::set_hook(Box::new(|_| {}));
    let stop = Stop::listen()?;
    if let Some(file) = &c.replay {
        return again(c, file, &stop, common, out);
    }
    if c.sweep {
        return damage(c, &stop, common, out);
    }
    if c.speed {
        return speed(c, &stop, common, out);
    }
    if let Some(name) = &c.mutant {
        return mutants::run(c, name, &stop, common, out);
    }
    let plan = c.plan()?;
    let kits = c.kits()?;
    let report = shown(&stop, "torture", |live| campaign(&kits, &plan, live));
    if !common.json {
        text(&report, &plan, out)?;
    }
    let unsaved = violations(&report.found, c, common, out)?;
    let holes = if c.coverage { coverage(&report, common, out)? } else { 0 };
    if common.json {
        out.json(&summary(&report, &plan, holes, stop.asked()))?;
    }
    match report.found.len() {
        0 if stop.asked() => Err(Failure::Interrupted("the report is of what was done until then".into())),
        0 if holes > 0 => {
            Err(Failure::Check(format!("{} must occur and did not", count(holes as u64, "thing"))))
        }
        0 => Ok(()),
        n => Err(Failure::Check(count(n as u64, "violation") + &unsaved)),
    }
}

/// Writes the files of violations, and tells of each. What cannot be written is at least told; returns what to say of that at the end.
fn violations(found: &[Found], c: &Torture, common: &Common, out: &mut Out) -> Result<String> {
    let mut unsaved = String::new();
    for found in found {
        let file = match save(&c.out, found, c.seed) {
            Ok(file) => Some(file),
            Err(Failure::Io(what, e)) => {
                unsaved = format!(" ({what}: {e})");
                None
            }
            Err(other) => return Err(other),
        };
        if common.json {
            out.json(&violation_json(found, file.as_deref()))?;
            continue;
        }
        out.line(format!("\nVIOLATION ({}): {}", found.violation.oracle, found.violation.text))?;
        out.with(|w| std::io::Write::write_all(w, found.case.to_string().as_bytes()))?;
        if let Some(file) = file {
            out.line(format!("again: hamal torture --replay {}", file.display()))?;
        }
    }
    Ok(unsaved)
}

/// Runs something and shows how it gets on.
fn shown<T: Send + Default>(stop: &Stop, what: &'static str, run: impl FnOnce(&Live) -> T + Send) -> T {
    let live = Live::default();
    let bar = progress(what, None);
    std::thread::scope(|scope| {
        let run = scope.spawn(|| run(&live));
        let (started, mut looked, mut covered) = (Instant::now(), None::<Instant>, None);
        while !run.is_finished() {
            std::thread::sleep(Duration::from_millis(20));
            if stop.asked() {
                live.stop.store(true, Relaxed);
            }
            // The coverage is put together from all threads: not so often.
            if looked.is_none_or(|at| at.elapsed() > Duration::from_secs(1)) {
                (looked, covered) = (Some(Instant::now()), live.covered());
            }
            bar.set_message(under_way(&live, started.elapsed(), covered));
            bar.tick();
        }
        bar.finish_and_clear();
        run.join().unwrap_or_default()
    })
}

/// The line of progress: states, crash points, how far the searches went at them, what was met.
fn under_way(live: &Live, elapsed: Duration, covered: Option<Covered>) -> String {
    let cases = live.cases.load(Relaxed);
    let mut line = format!(
        "{} states, {}/s, {} of {}, {} deep",
        grouped(cases),
        grouped((cases as f64 / elapsed.as_secs_f64().max(0.001)) as u64),
        count(live.points.load(Relaxed), "crash point"),
        count(live.scenarios.load(Relaxed), "scenario"),
        live.depth.load(Relaxed),
    );
    let searched = live.searched.load(Relaxed);
    if searched > 0 {
        let percent = |n: u64| n * 100 / searched;
        let mut through = live.exact.load(Relaxed);
        line += &format!(", exact at {} %", percent(through));
        // Down to the first level that nearly all were searched to.
        for (level, n) in live.levels.iter().enumerate().rev() {
            through += n.load(Relaxed);
            if percent(through) >= 99 {
                line += &format!(", to level {level} at {} %", percent(through));
                break;
            }
        }
    }
    if let Some(c) = covered {
        line +=
            &format!(", {} of {} events, {} of {} places", c.events.0, c.events.1, c.places.0, c.places.1);
    }
    line + &format!(", {}", count(live.violations.load(Relaxed), "violation"))
}

fn save(dir: &Path, found: &Found, seed: u64) -> Result<PathBuf> {
    let case = &found.case;
    let name = match &case.mutant {
        Some(m) => format!("{m}.case"),
        None if case.sweep.is_some() || !case.damages.is_empty() => {
            format!("sweep-{seed}-{}-{}.case", case.workload, found.after_cases)
        }
        None => format!("torture-{seed}-{}.case", found.after_cases),
    };
    let file = dir.join(name);
    std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(&file, found.case.to_string()))
        .map_err(|e| Failure::Io(format!("cannot write {}", file.display()), e))?;
    Ok(file)
}

fn violation_json(found: &Found, file: Option<&Path>) -> serde_json::Value {
    json!({
        "violation": found.violation.oracle.to_string(),
        "text": found.violation.text,
        "mutant": found.case.mutant,
        "engine": found.case.engine,
        "workload": found.case.workload,
        "model": found.case.model.to_string(),
        "after_cases": found.after_cases,
        "after_seconds": found.after_seconds,
        "operations": found.case.ops.len(),
        "decisions": found.case.decisions(),
        "case": found.case.to_string(),
        "file": file.map(|f| f.display().to_string()),
    })
}

fn per_second(report: &Report) -> f64 {
    report.tally.cases as f64 / report.seconds.max(1e-9)
}

fn summary(report: &Report, plan: &Plan, holes: usize, interrupted: bool) -> serde_json::Value {
    let t = &report.tally;
    json!({
        "seed": plan.seed,
        "models": plan.models.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "faults": plan.faults,
        "threads": plan.threads,
        "seconds": report.seconds,
        "cases": t.cases,
        "cases_per_s": per_second(report),
        "cases_all_oracles": t.heavy,
        "scenarios": report.scenarios,
        "operations": report.operations,
        "crash_points": t.points,
        "crash_points_left": t.points_left,
        "crash_points_in_recovery": t.nested_points,
        "equal_images": t.equal,
        "alike_images": t.alike,
        "faults_struck": report.struck,
        "detected": report.detected,
        "untraceable": report.untraceable,
        "run_twice": report.twice,
        "coverage_holes": holes,
        "violations": report.found.len(),
        "silent": report.silent,
        "max_depth": t.max_depth(),
        "cases_by_depth": t.depth,
        "exact": t.exact,
        "levels": t.levels,
        "unexhausted": t.open,
        "exhausted": t.exhausted(),
        "interrupted": interrupted,
    })
}

fn text(report: &Report, plan: &Plan, out: &mut Out) -> Result<()> {
    let t = &report.tally;
    let rate = grouped(per_second(report) as u64);
    out.line(format!(
        "{} recovered and judged in {:.1} s ({rate}/s on {}), {} by all oracles",
        count(t.cases, "crash state"),
        report.seconds,
        count(plan.threads as u64, "thread"),
        grouped(t.heavy),
    ))?;
    out.line(format!(
        "{}, {} ({} refused), {} run twice with equal histories",
        count(report.scenarios, "scenario"),
        count(report.operations, "operation"),
        grouped(report.refused),
        grouped(report.twice),
    ))?;
    out.line(format!("exhausted: {}", t.exhausted()))?;
    out.line(format!(
        "crashes within recovery: {}, {} deep; states by depth: {}",
        count(t.nested_points, "crash point"),
        t.max_depth(),
        t.depth.iter().map(|n| grouped(*n)).collect::<Vec<_>>().join(", "),
    ))?;
    out.line(format!(
        "left out: {} equal images, {} that recovery cannot tell apart",
        grouped(t.equal),
        grouped(t.alike)
    ))?;
    if !plan.faults.is_empty() {
        out.line(format!(
            "errors planned: {} struck; {} recoveries ended with a typed error, {} lost the untraceable last log write",
            grouped(report.struck),
            grouped(report.detected),
            grouped(report.untraceable),
        ))?;
    }
    out.line(format!("violations: {}, silent: {}", report.found.len(), report.silent))
}

/// `--speed`.
fn speed(c: &Torture, stop: &Stop, common: &Common, out: &mut Out) -> Result<()> {
    let mut found = Vec::new();
    for (name, oracles, cases) in [("light", Oracles::LIGHT, 100_000), ("all", Oracles::ALL, 20_000)] {
        if stop.asked() || (c.light && oracles != Oracles::LIGHT) {
            break;
        }
        let plan = Plan {
            cases: Some(c.cases.unwrap_or(cases)),
            depth: 1,
            oracles,
            judge_all: true,
            ..Plan::new(c.seed)
        };
        let report = shown(stop, "speed", |live| campaign(&[small_kit()], &plan, live));
        found.extend(report.found.iter().map(|f| format!("{}: {}", f.violation.oracle, f.violation.text)));
        let per_processor_second = report.processor_seconds.map(|s| report.tally.cases as f64 / s.max(1e-9));
        if common.json {
            out.json(&json!({
                "oracles": name,
                "seed": c.seed,
                "cases": report.tally.cases,
                "cases_all_oracles": report.tally.heavy,
                "cases_per_s": per_second(&report),
                "cases_per_processor_s": per_processor_second,
                "violations": report.found.len(),
                "silent": report.silent,
                "max_depth": report.tally.max_depth(),
                "exhausted": report.tally.exhausted(),
                "interrupted": stop.asked(),
            }))?;
        } else {
            let processor = per_processor_second.map_or("unknown".to_string(), |n| grouped(n as u64));
            out.line(format!(
                "{name} oracles: {} in {:.1} s: {}/s, {processor} for each second of processor time",
                count(report.tally.cases, "crash state"),
                report.seconds,
                grouped(per_second(&report) as u64),
            ))?;
        }
    }
    match found.first() {
        None if stop.asked() => Err(Failure::Interrupted("it was not measured to the end".into())),
        None => Ok(()),
        Some(first) => Err(Failure::Check(format!("{}; {first}", count(found.len() as u64, "violation")))),
    }
}

/// `--sweep`.
fn damage(c: &Torture, stop: &Stop, common: &Common, out: &mut Out) -> Result<()> {
    let live = Live::default();
    let started = Instant::now();
    let bar = progress("sweep", None);
    let (mut total, mut silent, mut wrong, mut seconds) = (0, 0, 0, 0.0);
    let (mut unsaved, shrink_until) = (String::new(), Instant::now() + c.shrink(30));
    for kit in c.kits()?.iter().filter(|k| k.workload.name() != "bank") {
        for closed in [true, false].into_iter().take_while(|_| !stop.asked()) {
            let plan = sweep::Plan {
                stride: usize::from(c.stride),
                threads: c.threads.map_or_else(cores, usize::from),
                ..sweep::Plan::new(c.seed, closed)
            };
            let swept = std::thread::scope(|scope| {
                let run = scope.spawn(|| sweep::run(kit, plan, &live));
                while !run.is_finished() {
                    std::thread::sleep(Duration::from_millis(20));
                    live.stop.store(stop.asked(), Relaxed);
                    let opened = live.cases.load(Relaxed);
                    bar.set_message(format!("{} damaged databases opened", grouped(opened)));
                    bar.tick();
                }
                run.join().unwrap_or_else(|_| Err("the sweep panicked".into()))
            });
            let (table, bytes) = swept.map_err(Failure::Check)?;
            seconds = started.elapsed().as_secs_f64();
            total += table.cases;
            silent += table.silent();
            wrong += table.wrong();
            let state = if closed { "closed" } else { "not closed" };
            if common.json {
                for ((damage, role), outcomes) in &table.cells {
                    out.json(&json!({
                        "engine": kit.engine.name(), "closed": closed, "damage": damage.name(), "file": role,
                        "outcomes": outcomes,
                    }))?;
                }
            } else {
                out.line(format!(
                    "\n{}, {bytes} bytes, {state}:\n\n{}",
                    kit.engine.name(),
                    table.markdown()
                ))?;
            }
            for bad in &table.violations {
                let line = format!("VIOLATION: {}: {:?}", bad.place, bad.outcome);
                if common.json { out.json(&json!({ "damage": line })) } else { out.line(line) }?;
            }
            // A file for the first of each kind: the others are mostly its neighbours.
            let mut kinds = Vec::new();
            for bad in &table.violations {
                if !kinds.contains(&bad.damage) {
                    kinds.push(bad.damage);
                    let shrink = shrink_until.saturating_duration_since(Instant::now());
                    let number = total - table.cases + kinds.len() as u64;
                    let found = sweep::found(kit, plan, bad, number, shrink);
                    unsaved += &violations(&[found], c, common, out)?;
                }
            }
        }
    }
    bar.finish_and_clear();
    if common.json {
        out.json(&json!({
            "cases": total, "cases_per_s": total as f64 / seconds.max(1e-9), "violations": wrong,
            "silent": silent, "max_depth": 1, "interrupted": stop.asked(),
            "exhausted": if c.stride == 1 && !stop.asked() { "every place" } else { "a sample" },
        }))?;
    } else {
        out.line(format!(
            "{} opened in {seconds:.1} s; violations: {wrong}, silent: {silent}",
            count(total, "damaged database")
        ))?;
    }
    match wrong {
        0 if stop.asked() => Err(Failure::Interrupted("the sweep is not complete".into())),
        0 => Ok(()),
        n => Err(Failure::Check(count(n, "violation") + &unsaved)),
    }
}

/// `--coverage`: the ledger and the matrix. Returns how many zeros are in them that must not be.
fn coverage(report: &Report, common: &Common, out: &mut Out) -> Result<usize> {
    let cells = report.matrix.zeros(&Matrix::expected(2));
    let zeros = report.ledger.zeros();
    if common.json {
        let events: serde_json::Map<String, serde_json::Value> =
            report.ledger.counts().into_iter().map(|(n, c)| (n.to_string(), c.into())).collect();
        let matrix: serde_json::Value = serde_json::from_str(&report.matrix.to_json()).unwrap_or_default();
        let missing: Vec<String> =
            zeros.iter().map(ToString::to_string).chain(cells.iter().map(ToString::to_string)).collect();
        out.json(&json!({ "events": events, "crash_points": matrix, "missing": missing }))?;
    } else {
        out.line("\nevents of recovery, and of what leads to it:")?;
        for (name, n) in report.ledger.counts() {
            out.line(format!("{:>14}  {name}", grouped(n)))?;
        }
        out.line(format!("\ncrash points:\n{}", report.matrix.to_table()))?;
        for name in &zeros {
            out.line(format!("MISSING: {name}"))?;
        }
        for cell in &cells {
            out.line(format!("MISSING: a crash at {cell}"))?;
        }
    }
    Ok(zeros.len() + cells.len())
}

/// `--replay`.
fn again(c: &Torture, file: &Path, stop: &Stop, common: &Common, out: &mut Out) -> Result<()> {
    let text = std::fs::read_to_string(file)
        .map_err(|e| Failure::Io(format!("cannot read {}", file.display()), e))?;
    let case: Case =
        text.parse().map_err(|e| Failure::Usage(format!("{} is no case: {e}", file.display())))?;
    if let Some(m) = &case.mutant {
        mutants::on(m)?;
    }
    let kits = c.kits()?;
    let started = Instant::now();
    let replayed = shown(stop, "replay", |live| Some(replay_live(&kits, &case, false, live)));
    let seconds = started.elapsed().as_secs_f64();
    let replayed = replayed.ok_or_else(|| Failure::Check("the replay panicked".into()))?;
    let Some((tally, finding)) = replayed.map_err(Failure::Usage)? else {
        if common.json {
            out.json(&json!({
                "file": file.display().to_string(), "cases": null, "cases_per_s": null, "violations": 0, "silent": 0,
                "max_depth": null, "exhausted": "nothing", "violation": null, "text": null, "interrupted": true,
            }))?;
        }
        return Err(Failure::Interrupted(
            "the case was not looked at to its end; so far nothing was wrong".into(),
        ));
    };
    let violations = u64::from(finding.is_some());
    let idle = if finding.is_none() { idle(&kits, &case).map_err(Failure::Usage)? } else { None };
    if common.json {
        out.json(&json!({
            "file": file.display().to_string(),
            "cases": tally.cases,
            "cases_per_s": tally.cases as f64 / seconds.max(1e-9),
            "violations": violations,
            "silent": u64::from(finding.as_ref().is_some_and(|f| f.violation.oracle.to_string() == "silent")),
            "max_depth": tally.max_depth(),
            "exhausted": tally.exhausted(),
            "violation": finding.as_ref().map(|f| f.violation.oracle.to_string()),
            "text": finding.as_ref().map(|f| f.violation.text.clone()),
            "idle": idle,
            "interrupted": false,
        }))?;
    } else {
        for says in &case.says {
            out.line(format!("# {says}"))?;
        }
        match &finding {
            Some(f) => out.line(format!("VIOLATION ({}): {}", f.violation.oracle, f.violation.text))?,
            None => out.line(format!("nothing is wrong, in {}", count(tally.cases, "state")))?,
        }
        if let Some(idle) = &idle {
            out.line(format!("but {idle}: the case shows nothing"))?;
        }
    }
    match finding {
        None => Ok(()),
        Some(_) => Err(Failure::Check("the violation is there".into())),
    }
}

#[cfg(not(feature = "mutants"))]
mod mutants {
    //! A build without planted bugs.
    use super::*;

    fn none() -> Failure {
        Failure::Usage(
            "this build has no planted bugs: cargo run --release --features mutants -- torture ..".into(),
        )
    }
    pub(super) fn on(_: &str) -> Result<()> {
        Err(none())
    }
    pub(super) fn run(_: &Torture, _: &str, _: &Stop, _: &Common, _: &mut Out) -> Result<()> {
        Err(none())
    }
}

#[cfg(feature = "mutants")]
mod mutants {
    //! Planted bugs, one after the other.
    use super::*;
    use hamal::mutants::{ALL, Mutant, choose};
    use hamal_fault_injection::hunt::{Hunted, hunt};
    use hamal_fault_injection::oracles::Oracle;

    fn named(name: &str) -> Result<Mutant> {
        ALL.iter().copied().find(|m| m.name() == name).ok_or_else(|| {
            let names: Vec<&str> = ALL.iter().map(|m| m.name()).collect();
            Failure::Usage(format!("there is no planted bug {name:?}: {}", names.join(", ")))
        })
    }

    pub(super) fn on(name: &str) -> Result<()> {
        choose(Some(named(name)?));
        Ok(())
    }

    pub(super) fn run(c: &Torture, name: &str, stop: &Stop, common: &Common, out: &mut Out) -> Result<()> {
        let list = match name {
            "all" => ALL.to_vec(),
            names => names.split(',').map(named).collect::<Result<Vec<_>>>()?,
        };
        let started = Instant::now();
        let (mut cases, mut caught, mut silent, mut deepest, mut looked_at) = (0, 0u64, 0u64, 0, 0);
        let (mut survivors, mut alarms) = (Vec::new(), Vec::new());
        if !common.json {
            out.line(format!(
                "{:<28} {:<12} {:<32} {:>8} {:>6} {:>4} {:>9}  what was lost",
                "planted bug", "oracle", "hunter", "states", "s", "ops", "decisions"
            ))?;
        }
        let kits = c.kits()?;
        let plan = Plan {
            time: Some(c.minutes.unwrap_or(Duration::from_secs(60))),
            quick: true,
            shrink: c.shrink(10),
            ..c.plan()?
        };
        // Those that are not for this hunt are not waited for in a hunt for all.
        let here = |m: &Mutant| m.shown_by().is_none() && m.masked_by().is_none();
        for mutant in &list {
            if stop.asked() {
                break;
            }
            let hunted = match list.len() == 1 || here(mutant) {
                true => shown(stop, mutant.name(), |live| hunt(*mutant, &kits, &plan, live)),
                false => Hunted::default(),
            };
            cases += hunted.states;
            deepest = deepest.max(hunted.depth);
            let elsewhere = mutant.shown_by().map(|test| ("shown by", test));
            let elsewhere = elsewhere.or(mutant.masked_by().map(|why| ("masked", why)));
            if stop.asked() && hunted.found.is_none() && (list.len() == 1 || here(mutant)) {
                break;
            }
            looked_at += 1;
            if let (Some(f), None) = (&hunted.found, &hunted.false_alarm) {
                caught += 1;
                silent += u64::from(f.violation.oracle == Oracle::Silent);
                let file = save(&c.out, f, plan.seed)?;
                report(&hunted, f, &file, common, out)?;
            } else if let Some(text) = &hunted.false_alarm {
                alarms.push(mutant.name());
                line(mutant.name(), "FALSE ALARM", text, &hunted, common, out)?;
            } else if let Some((what, text)) = elsewhere {
                line(mutant.name(), what, text, &hunted, common, out)?;
            } else {
                survivors.push(mutant.name());
                line(mutant.name(), "SURVIVES", "", &hunted, common, out)?;
            }
            out.flush()?;
        }
        let seconds = started.elapsed().as_secs_f64();
        if common.json {
            out.json(&json!({
                "mutants": looked_at, "caught": caught, "survivors": survivors, "false_alarms": alarms, "cases": cases,
                "cases_per_s": cases as f64 / seconds.max(1e-9), "violations": caught, "silent": silent,
                "max_depth": deepest, "exhausted": format!("{looked_at} of {} planted bugs", list.len()),
                "seconds": seconds, "interrupted": stop.asked(),
            }))?;
        } else {
            out.line(format!("{caught} of {looked_at} planted bugs were caught in {seconds:.0} s"))?;
        }
        match (survivors.is_empty(), alarms.is_empty()) {
            (true, true) if looked_at < list.len() => {
                let left = list.len() - looked_at;
                Err(Failure::Interrupted(format!("{} not looked for", count(left as u64, "planted bug"))))
            }
            (true, true) => Ok(()),
            (false, _) => Err(Failure::Check(format!("not caught: {}", survivors.join(", ")))),
            (true, false) => Err(Failure::Check(format!("false alarms: {}", alarms.join(", ")))),
        }
    }

    /// A catch.
    fn report(hunted: &Hunted, found: &Found, file: &Path, common: &Common, out: &mut Out) -> Result<()> {
        if common.json {
            let mut object = violation_json(found, Some(file));
            object["hunter"] = hunted.by.clone().into();
            return out.json(&object);
        }
        out.line(format!(
            "{:<28} {:<12} {:<32} {:>8} {:>6.1} {:>4} {:>9}  {}",
            found.case.mutant.as_deref().unwrap_or_default(),
            found.violation.oracle.to_string(),
            hunted.by,
            grouped(found.after_cases),
            found.after_seconds,
            found.case.ops.len(),
            found.case.decisions(),
            found.violation.text,
        ))
    }

    /// No catch.
    fn line(
        name: &str,
        what: &str,
        text: &str,
        hunted: &Hunted,
        common: &Common,
        out: &mut Out,
    ) -> Result<()> {
        if common.json {
            return out.json(&json!({
                "mutant": name, "violation": null, "outcome": what, "text": text, "cases": hunted.states,
            }));
        }
        let (states, seconds) = (grouped(hunted.states), hunted.seconds);
        out.line(format!("{name:<28} {what:<45} {states:>8} {seconds:>6.1} {:>14}  {text}", ""))
    }
}
