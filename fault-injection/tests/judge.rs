//! A judge for changed engines that is quick: one small campaign with every model, every fault and every oracle, and a coarse
//! corruption sweep. All of it is decided by fixed seeds. Mutation testing of the recovery path runs this after every change
//! of a line (docs/cargo-mutants.md); as a test of the sound engine it is a smoke test.
use hamal_fault_injection::campaign::{Live, Plan, campaign};
use hamal_fault_injection::explore::faults::NAMES;
use hamal_fault_injection::kits::{WORKLOADS, kits};
use hamal_fault_injection::sim::Persistence;
use hamal_fault_injection::sweep;
use std::time::Duration;

/// Recoveries of the campaign.
const CASES: u64 = 5_000;
/// Of the bytes of a sector, every so-many-th is damaged.
const STRIDE: usize = 256;

/// Seed of the campaign.
const SEED: u64 = 11;

// One test, the campaign first: a broken engine is known as soon as anything is found.
#[test]
fn a_campaign_and_a_sweep_find_nothing() {
    campaign_finds_nothing();
    no_damage_is_silent();
}

fn campaign_finds_nothing() {
    let plan = Plan {
        cases: Some(CASES),
        models: vec![Persistence::Posix, Persistence::Ordered, Persistence::Hostile],
        faults: NAMES.to_vec(),
        quick: true,
        shrink: Duration::ZERO,
        ..Plan::new(SEED)
    };
    let report = campaign(&kits(&WORKLOADS), &plan, &Live::default());
    println!("{} scenarios, {} recoveries, {:.1} s", report.scenarios, report.tally.cases, report.seconds);
    if let Some(f) = report.found.first() {
        panic!(
            "{}: {} (after {} recoveries)\n{}",
            f.violation.oracle, f.violation.text, f.after_cases, f.case
        );
    }
    assert!(report.struck > 0 && report.scenarios >= 9, "the campaign is too small to mean anything");
}

fn no_damage_is_silent() {
    for (name, closed) in [("btree", false), ("bank", true)] {
        for kit in kits(&[name]) {
            let plan = sweep::Plan { stride: STRIDE, ..sweep::Plan::new(5, closed) };
            let (table, bytes) = sweep::run(&kit, plan, &Live::default()).expect(name);
            println!("{name}, closed {closed}: {} opens of {bytes} bytes", table.cases);
            assert!(table.violations.is_empty(), "{name}, closed {closed}: {:#?}", table.violations.first());
            assert!(table.cases > 100, "{name}: only {} opens", table.cases);
        }
    }
}
