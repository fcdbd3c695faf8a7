//! The engine with a bug planted: the checkers of histories find it. Only with the feature `mutants`, and in a process of its own: a bug is
//! chosen for all of it.
#![cfg(feature = "mutants")]
use hamal::mutants::{Mutant, choose};
use hamal_fault_injection::history::engine::HamalEngine;
use hamal_fault_injection::history::judge::{Anomaly, judge};
use hamal_fault_injection::history::workload::Plan;
use hamal_fault_injection::history::{Kind, Level};
use std::sync::Mutex;

/// Runs until something is found; what, and in which history.
fn hunt(m: Mutant, level: Level, kind: Kind, crashes: u32) -> (u64, Vec<Anomaly>) {
    for seed in 0..1000 {
        let plan = Plan { kind, threads: 6, keys: 4, crashes, ..Plan::random(seed, Some(level)) };
        let engine = HamalEngine::new(seed).unwrap();
        // Some bugs make the engine stop with an error, too: that is not what this test is about.
        let Ok(h) = plan.run(Box::new(engine), seed, &|| false) else { continue };
        let mut found: Vec<Anomaly> = judge(&h, None).violations.iter().map(|v| v.anomaly).collect();
        if !found.is_empty() {
            found.sort_unstable();
            found.dedup();
            return (seed + 1, found);
        }
    }
    panic!("{m}: nothing in 1000 histories");
}

/// One bug at a time.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn planted_bugs_are_caught() {
    let turn = TURN.lock();
    for (m, level, kind) in [
        (Mutant::ConflictIgnored, Level::Snapshot, Kind::Lists),
        (Mutant::ConflictIgnored, Level::Snapshot, Kind::Registers),
        (Mutant::ConflictIgnored, Level::Serializable, Kind::Lists),
        (Mutant::LockIgnored, Level::ReadCommitted, Kind::Lists),
        (Mutant::HorizonIgnoresSnapshots, Level::Snapshot, Kind::Lists),
        (Mutant::PruneForOldestOnly, Level::Snapshot, Kind::Lists),
        (Mutant::UndoWithoutWriter, Level::Snapshot, Kind::Lists),
        (Mutant::GhostPurgedEarly, Level::Snapshot, Kind::Registers),
    ] {
        choose(Some(m));
        let (histories, found) = hunt(m, level, kind, 0);
        choose(None);
        println!("{m}, {}, {kind:?}: in history {histories}, {found:?}", level.name());
    }
    drop(turn);
}

/// Bugs that a crash shows: histories go on over it.
#[test]
fn planted_bugs_that_need_a_crash_are_caught() {
    let turn = TURN.lock();
    for m in [
        Mutant::AckBeforeSync,
        Mutant::LogNeverSynced,
        Mutant::YoungLoserForgotten,
        Mutant::CommitLeavesLoser,
    ] {
        choose(Some(m));
        let (histories, found) = hunt(m, Level::Snapshot, Kind::Lists, 3);
        choose(None);
        println!("{m}, over crashes: in history {histories}, {found:?}");
    }
    drop(turn);
}
