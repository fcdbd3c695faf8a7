//! Waiting for a row: turns, wake-ups, cycles, and the end of the engine.
use hamal::{Database, ErrorKind};
use hamal_check::engine::*;
use hamal_check::*;
use hamal_disk::{MemFault, MemOp};
use hamal_mutants::Mutant;
use hamal_sync::thread::spawn;
use hamal_sync::time::passes;
use std::sync::Arc;

fn three() -> Arc<Database> {
    opened(&prepared(&[("a", "0"), ("b", "0"), ("c", "0")])).0
}

/// The holder of a row gives it back by a rollback to a savepoint, and ends only after the waiter has had it.
fn partial_rollback() {
    passes(false);
    let db = three();
    let tx = db.begin_write().unwrap();
    let tree = tx.tree("t").unwrap();
    tree.put("a", "1").unwrap();
    let savepoint = tx.savepoint().unwrap();
    tree.put("b", "1").unwrap();
    let other = db.clone();
    let waiter = spawn(move || {
        let tx = other.begin_write().unwrap();
        tx.tree("t").unwrap().put("b", "2").unwrap();
        tx.commit().unwrap();
    });
    tx.rollback_to(&savepoint).unwrap();
    waiter.join().unwrap();
    tx.commit().unwrap();
}

#[test]
fn a_row_that_is_given_back_wakes_who_waits() {
    accepts(1500, partial_rollback);
}
#[test]
fn a_partial_rollback_that_wakes_nobody_is_caught() {
    let text = rejects(Mutant::PartialRollbackWakesNobody, 1500, partial_rollback);
    assert!(text.contains("deadlock"), "{text}");
}
#[test]
fn a_wake_up_past_a_waiter_that_falls_asleep_is_caught() {
    let text = rejects(Mutant::WakeWithoutDoor, 30_000, partial_rollback);
    assert!(text.contains("deadlock"), "{text}");
}

/// Transactions that take two rows in opposite orders: who closes a cycle is told, and all end.
fn cycles() {
    passes(false);
    let db = three();
    let threads: Vec<_> = [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]
        .into_iter()
        .map(|keys| {
            let db = db.clone();
            spawn(move || {
                let tx = db.begin_write().unwrap();
                let tree = tx.tree("t").unwrap();
                for key in keys {
                    match tree.put(key, "1") {
                        Ok(()) => {}
                        Err(e) if matches!(e.kind(), ErrorKind::Deadlock | ErrorKind::Conflict) => {
                            tx.rollback().unwrap();
                            return false;
                        }
                        Err(e) => panic!("{e}"),
                    }
                }
                tx.commit().unwrap();
                true
            })
        })
        .collect();
    let done = threads.into_iter().map(|t| t.join().unwrap()).filter(|d| *d).count();
    assert!(done > 0, "a victim too many");
}

#[test]
fn a_cycle_has_a_victim_and_everybody_ends() {
    accepts(800, cycles);
}

/// Two transactions of one thread and one row.
fn own_thread() {
    passes(false);
    let db = three();
    let (one, two) = (db.begin_write().unwrap(), db.begin_write().unwrap());
    one.tree("t").unwrap().put("a", "1").unwrap();
    let e = two.tree("t").unwrap().put("a", "2").unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Deadlock);
    two.rollback().unwrap();
    one.rollback().unwrap();
}

#[test]
fn a_thread_does_not_wait_for_itself() {
    accepts(20, own_thread);
}
#[test]
fn a_thread_that_waits_for_itself_is_caught() {
    let text = rejects(Mutant::OwnThreadWaits, 20, own_thread);
    assert!(text.contains("deadlock"), "{text}");
}

/// The engine stops while somebody waits for a row.
fn stopped() {
    passes(false);
    let (db, disk) = opened(&prepared(&[("a", "0"), ("b", "0")]));
    let holder = db.begin_write().unwrap();
    holder.tree("t").unwrap().put("a", "1").unwrap();
    let other = db.clone();
    let waiter = spawn(move || {
        let tx = other.begin_write()?;
        tx.tree("t")?.put("a", "2")?;
        tx.commit()
    });
    let third = db.clone();
    let fails = spawn(move || {
        disk.mem().inject(MemFault { at: 1, on: MemOp::Sync, once: false });
        third.begin_write().and_then(|tx| tx.tree("t")?.put("b", "2").and_then(|()| tx.commit())).is_err()
    });
    assert!(fails.join().unwrap());
    let e = waiter.join().unwrap().unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Poisoned, "{e}");
    drop(holder);
}

#[test]
fn who_waits_hears_that_the_engine_has_stopped() {
    accepts(300, stopped);
}
#[test]
fn a_waiter_that_ignores_the_end_is_caught() {
    rejects(Mutant::WaitersIgnorePoison, 300, stopped);
}
