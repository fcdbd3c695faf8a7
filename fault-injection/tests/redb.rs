//! redb under the same harness and in the same scenarios. What is found, and what is not, is written down here: if a version
//! of redb behaves otherwise, the test says so.
#![cfg(feature = "redb")]
mod common;

use common::{MODELS, generated, hand_written, hunt};
use hamal_fault_injection::engines::Redb;
use hamal_fault_injection::explore::check::Oracles;
use hamal_fault_injection::explore::{Search, Tally};
use hamal_fault_injection::oracles::Oracle;
use hamal_fault_injection::sim::Persistence;

/// Nothing is found where the disk keeps to what redb demands of it. Under `hostile` it does not: a sector of the header
/// that is being written may come back as garbage, and the header is all there is.
#[test]
fn redb_in_the_same_scenarios() {
    for (name, engine) in [("redb", Redb::new()), ("redb, two-phase commits", Redb::two_phase())] {
        for model in MODELS {
            let (mut all, mut found) = (Tally::default(), 0);
            for named in hand_written().iter().chain(&generated(0..8)) {
                let (tally, finding) = hunt(&engine, model, named, Search::quick(model, 1), Oracles::ALL);
                all.add(&tally);
                if let Some(f) = finding {
                    let text = format!("{name}, {model}, {}: {:?} {:?}", named.name, f.violation, f.crashes);
                    assert_eq!(model, Persistence::Hostile, "{text}");
                    assert_eq!(f.violation.oracle, Oracle::Opens, "{text}");
                    if found == 0 {
                        println!("{text}");
                    }
                    found += 1;
                }
            }
            let (deep, words) = (all.max_depth(), all.exhausted());
            println!("{name}, {model}: {} recoveries, {deep} deep, {words}, {found} findings", all.cases);
            assert_eq!(found > 0, model == Persistence::Hostile);
        }
    }
}

/// redb sets the length of a new file before it writes the header, and refuses a file that has a length and no header.
/// Whoever makes one in place must be ready to find that.
#[test]
fn a_creation_in_place_that_is_cut_short_cannot_be_opened() {
    let all = hand_written();
    let creation = all.iter().find(|n| n.creates).expect("there is one");
    let model = Persistence::Ordered;
    let (_, found) = hunt(&Redb::in_place(), model, creation, Search::quick(model, 1), Oracles::ALL);
    let found = found.expect("a creation in place survives now");
    println!("{:?} {:?}", found.violation, found.crashes);
    assert_eq!(found.violation.oracle, Oracle::Opens);
}
