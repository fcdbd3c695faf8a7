//! A short campaign of each kind, the corpus, and the harness's own promises. Longer ones: `hamal torture`.
use hamal_fault_injection::campaign::{Live, Plan, Report, campaign, idle, replay};
use hamal_fault_injection::case::Case;
use hamal_fault_injection::explore::check::{Oracles, Subject};
use hamal_fault_injection::explore::replay::Scenario;
use hamal_fault_injection::explore::{Search, Tally, faults};
use hamal_fault_injection::kits::{WORKLOADS, kits, situations_kit};
use hamal_fault_injection::run::newborn;
use hamal_fault_injection::sim::Persistence;
use hamal_fault_injection::sweep;
use hamal_fault_injection::workloads::situations::{Situations, situations};
use std::path::Path;

fn run(plan: &Plan) -> Report {
    campaign(&kits(&WORKLOADS), plan, &Live::default())
}

fn assert_clean(report: &Report) {
    let text: Vec<String> = report.found.iter().map(|f| f.case.to_string()).collect();
    assert!(text.is_empty(), "{}", text.join("\n"));
    assert_eq!(report.silent, 0);
}

/// All models, all kinds of errors, all oracles.
#[test]
fn a_short_campaign_finds_nothing() {
    let plan = Plan {
        cases: Some(6000),
        models: vec![Persistence::Posix, Persistence::Hostile, Persistence::Ordered],
        faults: faults::NAMES.to_vec(),
        quick: true,
        threads: 2,
        ..Plan::new(7)
    };
    let report = run(&plan);
    assert_clean(&report);
    assert!(report.tally.cases >= 6000 && report.tally.heavy > 500 && report.tally.max_depth() > 1);
    assert!(report.struck > 0 && report.twice > 0);
}

/// The process dies in a sync, the next one relies on what it finds, and the power fails: every crash, under all models.
#[test]
fn a_death_in_a_sync_is_survived() {
    let dies: Vec<_> = situations().into_iter().filter(|s| s.name.starts_with("dies-")).collect();
    assert_eq!(dies.len(), 2);
    let situations = Situations::of(dies);
    let models = vec![Persistence::Posix, Persistence::Hostile, Persistence::Ordered];
    let scenarios = situations.runs() * models.len() as u64;
    let plan = Plan { scenarios: Some(scenarios), models, quick: true, threads: 2, ..Plan::new(13) };
    let report = campaign(&[situations_kit(situations)], &plan, &Live::default());
    assert_clean(&report);
    assert_eq!(report.scenarios, scenarios);
    assert!(report.struck > scenarios / 2 && report.tally.cases > 1000, "{} of {}", report.struck, scenarios);
}

/// Every error of every kind at every call of some small scenarios, none of them left to chance.
#[test]
fn every_error_at_every_call() {
    let models = [Persistence::Posix, Persistence::Hostile, Persistence::Ordered];
    let struck = std::thread::scope(|scope| {
        let threads: Vec<_> = [("btree", 4), ("btree", 12), ("counters", 1), ("bank", 2)]
            .into_iter()
            .zip(models.into_iter().cycle())
            .map(|((workload, seed), model)| scope.spawn(move || every_error(workload, seed, model)))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(struck.iter().all(|n| *n > 60), "{struck:?}");
}

/// How many struck.
fn every_error(workload: &str, seed: u64, model: Persistence) -> u64 {
    let kit = &kits(&[workload])[0];
    let config = kit.workload.config(seed);
    let (ops, after) = (kit.workload.operations(seed, 12), kit.workload.afterwards());
    let model = config.model(model);
    let start = newborn(&*kit.engine, &config, model).unwrap();
    let (engine, workload) = (&*kit.engine, Some(&*kit.workload));
    let subject = Subject { engine, config: &config, workload, oracles: Oracles::ALL };
    let scenario = Scenario { model, start: Some(&start), ops: &ops, faults: &[], after: &after };
    let events = scenario.run(subject).disk.events();
    let mut struck = 0;
    for fault in faults::plan(&faults::NAMES, &events, usize::MAX, seed, config.dsync) {
        let planned = [fault];
        let scenario = Scenario { faults: &planned, ..scenario };
        let found = faults::strike(subject, scenario, Search::quick(model, seed), &mut Tally::default());
        assert!(found.finding.is_none(), "{}, seed {seed}: {:#?}", kit.workload.name(), found.finding);
        struck += u64::from(found.struck);
    }
    struck
}

/// One seed decides everything.
#[test]
fn a_seed_is_a_campaign() {
    let plan = Plan { cases: Some(1500), quick: true, faults: vec!["eio", "nospace"], ..Plan::new(11) };
    let (a, b) = (run(&plan), run(&plan));
    assert_clean(&a);
    assert_eq!(a.tally, b.tally);
    assert_eq!((a.scenarios, a.operations, a.struck), (b.scenarios, b.operations, b.struck));
    assert_eq!(a.ledger.counts(), b.ledger.counts());
}

/// Every violation that was ever found, in the engine or in the harness: none of them comes back.
#[test]
fn the_corpus() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let kits = kits(&WORKLOADS);
    let mut files = 0;
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "case") {
            continue;
        }
        let case: Case = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        let (_, found) = replay(&kits, &case, false).unwrap();
        assert!(found.is_none(), "{}: {found:?}", path.display());
        assert_eq!(idle(&kits, &case).unwrap(), None, "{}", path.display());
        files += 1;
    }
    assert!(files >= 3);
}

/// Damage at many places of small databases, those that `hamal torture --sweep` damages: right data or a typed error. What came of it for the
/// first seed is the table in docs/torture.md (`BLESS=1` writes it).
#[test]
fn no_damage_is_silent() {
    let mut text = String::new();
    for (seed, stride) in [(1, 128), (3, 512), (8, 512), (11, 512)] {
        for kit in kits(&["btree", "counters", "situations"]) {
            for closed in [true, false] {
                let plan = sweep::Plan { stride, threads: 2, ..sweep::Plan::new(seed, closed) };
                let (table, bytes) = sweep::run(&kit, plan, &Live::default()).unwrap();
                let name = kit.workload.name();
                assert!(table.violations.is_empty(), "seed {seed}, {name}: {:#?}", table.violations);
                assert!(table.cases > 1000);
                if seed == 1 && name != "situations" {
                    let state = if closed { "closed" } else { "not closed" };
                    let (engine, table) = (kit.engine.name(), table.markdown());
                    text += &format!("`{engine}`, {bytes} bytes, {state}:\n\n{table}\n");
                }
            }
        }
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/torture.md");
    let document = std::fs::read_to_string(&file).unwrap();
    let (before, rest) = document.split_once("<!-- sweep -->\n").unwrap();
    let (table, after) = rest.split_once("<!-- end of sweep -->\n").unwrap();
    if std::env::var_os("BLESS").is_some() {
        let whole = format!("{before}<!-- sweep -->\n{text}<!-- end of sweep -->\n{after}");
        std::fs::write(&file, whole).unwrap();
    } else {
        assert_eq!(table, text, "docs/torture.md has another table: BLESS=1 writes this one");
    }
}
