//! The harness against an engine whose bugs are known: nothing is found in the sound one, and every bug in the others.
mod common;

use common::{MODELS, Named, afterwards, generated, hand_written, hunt};
use hamal_fault_injection::engine::Config;
use hamal_fault_injection::engines::{Toy, ToyBug};
use hamal_fault_injection::explore::check::{Oracles, Subject};
use hamal_fault_injection::explore::faults::{NAMES, plan, strike};
use hamal_fault_injection::explore::replay::Scenario;
use hamal_fault_injection::explore::{Finding, Search, Tally};
use hamal_fault_injection::run::newborn;
use hamal_fault_injection::sim::Persistence;

#[test]
fn nothing_is_found_in_the_sound_toy() {
    for model in MODELS {
        let mut all = Tally::default();
        for named in hand_written().iter().chain(&generated(0..20)) {
            let (tally, found) = hunt(&Toy::new(), model, named, Search::usual(model, 1), Oracles::ALL);
            assert!(found.is_none(), "{model}, {}: {found:#?}", named.name);
            all.add(&tally);
        }
        println!("toy, {model}: {} recoveries, {} deep, {}", all.cases, all.max_depth(), all.exhausted());
    }
}

/// Recoveries up to the finding, and it.
fn first_finding(toy: Toy, model: Persistence) -> (u64, Option<(String, Finding)>) {
    let mut cases = 0;
    for named in hand_written() {
        let (tally, found) = hunt(&toy, model, &named, Search::usual(model, 1), Oracles::ALL);
        cases += tally.cases;
        if let Some(f) = found {
            return (cases, Some((named.name, f)));
        }
    }
    (cases, None)
}

#[test]
fn every_bug_of_the_toy_is_found() {
    for bug in ToyBug::ALL {
        // No crash shows it: the disk must fail first.
        if bug == ToyBug::SyncRetried {
            continue;
        }
        let found = MODELS.map(|model| (model, first_finding(Toy::with_bug(bug), model)));
        let mut line = format!("{bug:?}:");
        for (model, (cases, f)) in &found {
            match f {
                Some((_, f)) => line += &format!(" {model} {cases} ({});", f.violation.oracle),
                None => line += &format!(" {model} - (of {cases});"),
            }
        }
        println!("{line}");
        let [_, posix, hostile] = &found;
        assert!(hostile.1.1.is_some(), "{bug:?} was not found");
        // All but one are bugs under POSIX already.
        assert_eq!(posix.1.1.is_some(), bug != ToyBug::RecordsShareSectors, "{bug:?}");
    }
}

/// Strikes a scenario with every fault of these kinds. How many struck, and the first finding.
fn struck(toy: Toy, model: Persistence, named: &Named, kinds: &[&str]) -> (u64, Option<Finding>) {
    let config = Config::default();
    let start = newborn(&toy, &config, model).unwrap();
    let subject = Subject { engine: &toy, config: &config, workload: None, oracles: Oracles::ALL };
    let after = afterwards();
    let scenario = Scenario { model, start: Some(&start), ops: &named.ops, faults: &[], after: &after };
    let events = scenario.run(subject).disk.events();
    let (mut count, mut tally) = (0, Tally::default());
    for fault in plan(kinds, &events, 500, 1, false) {
        let one = [fault];
        let struck =
            strike(subject, Scenario { faults: &one, ..scenario }, Search::quick(model, 1), &mut tally);
        count += u64::from(struck.struck);
        if struck.finding.is_some() {
            return (count, struck.finding);
        }
    }
    (count, None)
}

#[test]
fn the_sound_toy_stands_every_fault_and_a_retried_sync_is_found() {
    let model = Persistence::Posix;
    for named in hand_written() {
        for kind in NAMES {
            let (n, found) = struck(Toy::new(), model, &named, &[kind]);
            println!("{}: {kind} {n} times", named.name);
            assert!(found.is_none(), "{}: {found:#?}", named.name);
        }
    }
    let commits = &hand_written()[0];
    let (n, found) = struck(Toy::with_bug(ToyBug::SyncRetried), model, commits, &["eio"]);
    let found = found.expect("a retried sync was not found");
    println!("SyncRetried: found by error {n}: {}", found.violation.text);
}
