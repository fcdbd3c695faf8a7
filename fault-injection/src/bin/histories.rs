//! Random concurrent histories of hamal, judged: `cargo run --release -p hamal-fault-injection --bin histories -- --seconds 60`.
use clap::{Parser, ValueEnum};
use hamal_fault_injection::history::engine::HamalEngine;
use hamal_fault_injection::history::judge::{Counts, Report, judge};
use hamal_fault_injection::history::workload::Plan;
use hamal_fault_injection::history::{History, Level, elle};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, ValueEnum)]
enum AtLevel {
    ReadCommitted,
    Snapshot,
    Serializable,
}

impl From<AtLevel> for Level {
    fn from(level: AtLevel) -> Level {
        match level {
            AtLevel::ReadCommitted => Level::ReadCommitted,
            AtLevel::Snapshot => Level::Snapshot,
            AtLevel::Serializable => Level::Serializable,
        }
    }
}

/// Run random concurrent transactions, over crashes too, and judge their histories.
///
/// Exit code: 0 if all is well, 1 if a level was violated, 2 if something else failed.
#[derive(Parser)]
#[command(name = "histories")]
struct Args {
    /// How long to run
    #[arg(long, default_value_t = 10, value_name = "N")]
    seconds: u64,
    /// The level of all transactions [default: all levels, alone and mixed]; with --judge: the level to judge by
    #[arg(long)]
    level: Option<AtLevel>,
    /// The first seed: it chooses the plans and the operations, not the schedule of threads
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Where a history that violates its level is written
    #[arg(long, default_value = "history.jsonl", value_name = "FILE")]
    out: PathBuf,
    /// Judge a history from a file, and run nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seconds", "seed", "out"])]
    judge: Option<PathBuf>,
    /// With --judge: write the history as Elle's JSON too
    #[arg(long, value_name = "FILE", requires = "judge")]
    elle: Option<PathBuf>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.judge {
        Some(file) => judge_file(file, &args),
        None => run(&args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(e) => {
            eprintln!("histories: {e}");
            ExitCode::from(2)
        }
    }
}

fn named<T, E: std::fmt::Display>(path: &Path, r: Result<T, E>) -> Result<T, String> {
    r.map_err(|e| format!("{}: {e}", path.display()))
}

fn judge_file(file: &Path, args: &Args) -> Result<bool, String> {
    let mut text = BufReader::new(named(file, File::open(file))?);
    let history = named(file, History::read(&mut text))?;
    if let Some(to) = &args.elle {
        let mut out = BufWriter::new(named(to, File::create(to))?);
        named(to, elle::write(&history, &mut out))?;
    }
    let report = judge(&history, args.level.map(Level::from));
    if args.json {
        println!("{}", json!({ "file": file.display().to_string(), "violations": violations(&report) }));
    } else {
        print!("{report}");
    }
    Ok(report.violations.is_empty())
}

fn violations(report: &Report) -> Vec<serde_json::Value> {
    let one = |v: &hamal_fault_injection::history::judge::Violation| {
        let cycle: Vec<_> = v
            .cycle
            .iter()
            .map(|e| json!({ "from": e.from, "to": e.to, "dependency": e.dependency.name(), "key": e.key }))
            .collect();
        json!({
            "anomaly": v.anomaly.name(),
            "transactions": v.transactions,
            "message": v.message,
            "cycle": cycle,
        })
    };
    report.violations.iter().map(one).collect()
}

/// What was done so far.
#[derive(Default)]
struct Totals {
    histories: u64,
    crashes: u64,
    counts: Counts,
    judging: Duration,
}

fn run(args: &Args) -> Result<bool, String> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.clone()))
            .map_err(|e| format!("listening for Ctrl-C: {e}"))?;
    }
    let bar = ProgressBar::new(args.seconds);
    if let Ok(style) = ProgressStyle::with_template("{elapsed} [{wide_bar}] {msg}") {
        bar.set_style(style);
    }
    let start = Instant::now();
    let (mut totals, mut seed) = (Totals::default(), args.seed);
    let mut bad = None;
    while start.elapsed() < Duration::from_secs(args.seconds) && !stop.load(Relaxed) {
        let plan = Plan::random(seed, args.level.map(Level::from));
        let engine = HamalEngine::new(seed).map_err(|f| format!("seed {seed}: {f:?}"))?;
        let history = plan
            .run(Box::new(engine), seed, &|| stop.load(Relaxed))
            .map_err(|e| format!("seed {seed}, {plan:?}: {e}"))?;
        let judging = Instant::now();
        let report = judge(&history, None);
        totals.judging += judging.elapsed();
        totals.histories += 1;
        totals.crashes += u64::from(plan.crashes);
        totals.counts.add(&report.counts);
        bar.set_position(start.elapsed().as_secs());
        bar.set_message(format!("{} histories, {} committed", totals.histories, totals.counts.committed));
        if !report.violations.is_empty() {
            bad = Some((seed, history, report));
            break;
        }
        seed += 1;
    }
    bar.finish_and_clear();
    if let Some((_, history, _)) = &bad {
        let mut out = BufWriter::new(named(&args.out, File::create(&args.out))?);
        named(&args.out, history.write(&mut out))?;
    }
    print_totals(args, &totals, start.elapsed(), bad.as_ref().map(|(seed, _, report)| (*seed, report)));
    Ok(bad.is_none())
}

fn print_totals(args: &Args, t: &Totals, took: Duration, bad: Option<(u64, &Report)>) {
    let c = &t.counts;
    let per_second = c.edges as f64 / t.judging.as_secs_f64().max(1e-9);
    if args.json {
        let line = json!({
            "histories": t.histories,
            "crashes": t.crashes,
            "transactions": c.transactions,
            "committed": c.committed,
            "reads": c.reads,
            "edges": c.edges,
            "held_to_timestamps": c.held,
            "seconds": took.as_secs_f64(),
            "judging_seconds": t.judging.as_secs_f64(),
            "edges_per_second": per_second.round(),
            "seed_of_violation": bad.map(|(seed, _)| seed),
            "violations": bad.map(|(_, report)| violations(report)).unwrap_or_default(),
        });
        println!("{line}");
        return;
    }
    println!(
        "{} histories over {} crashes in {:.1} s: {} transactions, {} committed, {} reads of others' rows, {} edges, {} checks of \
         timestamps",
        t.histories,
        t.crashes,
        took.as_secs_f64(),
        c.transactions,
        c.committed,
        c.reads,
        c.edges,
        c.held
    );
    println!("judged in {:.2} s: {per_second:.0} edges a second", t.judging.as_secs_f64());
    if let Some((seed, report)) = bad {
        println!("\nseed {seed}, written to {}:\n{report}", args.out.display());
    }
}
