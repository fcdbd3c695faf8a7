//! A short campaign of each kind, the corpus, and the harness's own promises. Longer ones: `hamal torture`.
use hamal_fault_injection::campaign::{Live, Plan, Report, campaign, replay};
use hamal_fault_injection::case::Case;
use hamal_fault_injection::explore::faults;
use hamal_fault_injection::kits::{WORKLOADS, kits, situations_kit};
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
        files += 1;
    }
    assert!(files >= 3);
}

/// Damage at many places of a small database: right data or a typed error.
#[test]
fn no_damage_is_silent() {
    for kit in kits(&["btree", "counters"]) {
        for closed in [true, false] {
            let plan = sweep::Plan { stride: 128, threads: 2, ..sweep::Plan::new(1, closed) };
            let (table, _) = sweep::run(&kit, plan, &Live::default()).unwrap();
            assert!(table.violations.is_empty(), "{:#?}", table.violations);
            assert!(table.cases > 1000);
        }
    }
}
