//! `Database::transact`: what is run again, what is not, and when it gives up.
mod common;

use common::{PROMPT, small};
use hamal::{Database, Durability, Error, ErrorKind, Isolation, TransactOptions, WriteOptions};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

fn db() -> Database {
    let db = small().background(true).in_memory().unwrap();
    db.transact(|tx| tx.create_tree("t")?.put("k", [0])).unwrap();
    db
}

fn quick(attempts: u32) -> TransactOptions {
    TransactOptions::new().attempts(attempts).backoff(Duration::ZERO, Duration::ZERO)
}

/// Another transaction commits a change of `k`.
fn meddle(db: &Database) {
    let tx = db.begin_write().unwrap();
    tx.tree("t").unwrap().put("k", [9]).unwrap();
    tx.commit().unwrap();
}

/// A user's error that keeps the engine's.
#[derive(Debug)]
enum Keeps {
    Own,
    Engine(Error),
}
impl From<Error> for Keeps {
    fn from(e: Error) -> Keeps {
        Keeps::Engine(e)
    }
}

/// A user's error that keeps its text only.
#[derive(Debug, PartialEq)]
struct Text(String);
impl From<Error> for Text {
    fn from(e: Error) -> Text {
        Text(e.to_string())
    }
}

#[test]
fn conflicts_are_run_again() {
    let db = db();
    let mut runs = 0;
    let done = db
        .transact_with(&quick(10), |tx| {
            runs += 1;
            let n = tx.tree("t")?.get("k")?.unwrap()[0];
            if runs <= 3 {
                meddle(&db);
            }
            tx.tree("t")?.put("k", [n + 1])?;
            Ok::<u8, Keeps>(n)
        })
        .unwrap();
    assert_eq!((runs, done.attempts, done.value), (4, 4, 9));
    assert!(done.ticket.is_durable() && done.ticket.lsn() > done.snapshot);
    let read = db.begin_read().unwrap();
    assert!(read.snapshot() >= done.ticket.lsn());
    assert_eq!(read.tree("t").unwrap().get("k").unwrap().unwrap(), [10].to_vec());
    assert_eq!(db.stats().transactions_active, 0);
}

#[test]
fn serialization_failures_at_the_commit_are_run_again() {
    let db = db();
    let mut runs = 0;
    let options = quick(5).write(WriteOptions::new().isolation(Isolation::Serializable));
    let done = db.transact_with(&options, |tx| {
        runs += 1;
        assert_eq!(tx.isolation(), Isolation::Serializable);
        let n = tx.tree("t")?.get("k")?.unwrap()[0];
        if runs == 1 {
            meddle(&db);
        }
        tx.tree("t")?.put("other", [n])
    });
    assert_eq!((done.unwrap().attempts, runs), (2, 2));
}

#[test]
fn errors_of_every_type_are_understood() {
    let db = db();
    // Boxed.
    let mut runs = 0;
    db.transact_with(&quick(3), |tx| -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        runs += 1;
        tx.tree("t")?;
        if runs == 1 {
            meddle(&db);
        }
        tx.tree("t")?.put("k", [1])?;
        Ok(())
    })
    .unwrap();
    assert_eq!(runs, 2);
    // Only the text is kept: the last call failed, so that was it.
    runs = 0;
    db.transact_with(&quick(3), |tx| -> Result<(), Text> {
        runs += 1;
        tx.tree("t")?;
        if runs == 1 {
            meddle(&db);
        }
        Ok(tx.tree("t")?.put("k", [1])?)
    })
    .unwrap();
    assert_eq!(runs, 2);
}

#[test]
fn the_callers_errors_are_returned_at_once_and_roll_back() {
    let db = db();
    let mut runs = 0;
    let e = db.transact(|tx| {
        runs += 1;
        tx.tree("t")?.put("k", [77])?;
        Err::<(), Keeps>(Keeps::Own)
    });
    assert!(matches!(e, Err(Keeps::Own)));
    // Errors of the engine that others are not to blame for.
    let e = db.transact(|tx| {
        runs += 1;
        tx.tree("none").map(|_| ())
    });
    assert_eq!((e.unwrap_err().kind(), runs), (ErrorKind::NotFound, 2));
    assert_eq!(db.begin_read().unwrap().tree("t").unwrap().get("k").unwrap().unwrap(), [0].to_vec());
    assert_eq!(db.stats().transactions_active, 0);
}

#[test]
fn an_error_that_was_handled_is_no_reason_to_run_again() {
    let db = db();
    let holder = db.begin_write().unwrap();
    holder.tree("t").unwrap().put("k", [5]).unwrap();
    // A conflict that was dropped, and a call after it that succeeded.
    let mut runs = 0;
    let e = db.transact_with(&quick(5), |tx| {
        runs += 1;
        assert!(tx.tree("t")?.no_wait().put("k", [6]).is_err());
        tx.tree("t")?.put("else", [6])?;
        Err::<(), Keeps>(Keeps::Own)
    });
    assert!(matches!(e, Err(Keeps::Own)));
    // Not even when nothing came after: it was asked for in order to be handled.
    let e = db.transact_with(&quick(5), |tx| {
        runs += 1;
        if tx.tree("t")?.no_wait().put("k", [6]).is_err() { Err(Keeps::Own) } else { Ok(()) }
    });
    assert!(matches!(e, Err(Keeps::Own)));
    assert_eq!(runs, 2);
    // Handed on, it is.
    let e = db.transact_with(&quick(3), |tx| tx.tree("t")?.no_wait().put("k", [6]).map_err(Keeps::Engine));
    let Err(Keeps::Engine(e)) = e else { panic!("{e:?}") };
    assert_eq!((e.kind(), e.attempts()), (ErrorKind::RetriesExhausted, Some(3)));
    holder.rollback().unwrap();
}

#[test]
fn it_gives_up_and_says_so() {
    let db = db();
    let mut runs = 0;
    let e = db
        .transact_with(&quick(7), |tx| {
            runs += 1;
            tx.tree("t")?;
            meddle(&db);
            tx.tree("t")?.put("k", [1])
        })
        .unwrap_err();
    assert_eq!((e.kind(), e.is_retryable()), (ErrorKind::RetriesExhausted, false));
    assert_eq!((e.attempts(), runs), (Some(7), 7));
    assert_eq!(e.cause().unwrap().kind(), ErrorKind::Conflict);
    assert_eq!(e.cause().unwrap().key(), Some(&b"k"[..]));
    assert!(e.to_string().contains("after 7 attempts"), "{e}");

    let start = Instant::now();
    let time = Duration::from_millis(50);
    let options = TransactOptions::new().attempts(u32::MAX).time(time).seed(3);
    let e = db.transact_with(&options, |tx| {
        tx.tree("t")?;
        meddle(&db);
        tx.tree("t")?.put("k", [1])
    });
    assert_eq!(e.unwrap_err().kind(), ErrorKind::RetriesExhausted);
    assert!(start.elapsed() < PROMPT);
    let e = db.transact_with(&TransactOptions::new().attempts(0), |_| Ok::<(), Error>(())).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidOption);
}

#[test]
fn deadlocks_are_run_again() {
    let db = db();
    let (ready, is_ready) = mpsc::channel();
    let (go, gone) = mpsc::channel();
    let db = &db;
    thread::scope(|s| {
        s.spawn(move || {
            let other = db.begin_write().unwrap();
            other.tree("t").unwrap().put("b", [1]).unwrap();
            ready.send(()).unwrap();
            gone.recv().unwrap();
            // Waits for the first attempt below, which then closes the cycle and gives way.
            match other.tree("t").unwrap().put("a", [1]) {
                Ok(()) => drop(other.commit().unwrap()),
                // The second attempt may take the row before this thread, just woken, has run: then this one closes a cycle.
                Err(e) => assert_eq!(e.kind(), ErrorKind::Deadlock),
            }
        });
        let mut runs = 0;
        let done = db.transact_with(&TransactOptions::new(), |tx| {
            runs += 1;
            tx.tree("t")?.put("a", [2])?;
            if runs == 1 {
                is_ready.recv().unwrap();
                go.send(()).unwrap();
                let start = Instant::now();
                // Counted waits may not have begun: what is listed has.
                while db.activity().unwrap().waits.is_empty() {
                    assert!(start.elapsed() < PROMPT);
                    thread::yield_now();
                }
            }
            tx.tree("t")?.put("b", [2])
        });
        assert!(done.unwrap().attempts >= 2);
    });
    assert!(db.stats().deadlocks >= 1);
}

#[test]
fn a_panic_rolls_back() {
    let db = db();
    let run = std::panic::AssertUnwindSafe(|| {
        db.transact(|tx| -> hamal::Result<()> {
            tx.tree("t")?.put("k", [1])?;
            panic!("of the caller's");
        })
    });
    assert!(std::panic::catch_unwind(run).is_err());
    assert_eq!(db.stats().transactions_active, 0);
    db.transact(|tx| tx.tree("t")?.put("k", [2])).unwrap();
}

#[test]
fn many_threads_count_without_loss_at_every_level() {
    for isolation in [Isolation::ReadCommitted, Isolation::Snapshot, Isolation::Serializable] {
        let db = db();
        let options = TransactOptions::new()
            .attempts(u32::MAX)
            .durability(Durability::Async)
            .write(WriteOptions::new().isolation(isolation));
        thread::scope(|s| {
            for _ in 0..6 {
                s.spawn(|| {
                    for _ in 0..40 {
                        let done = db.transact_with(&options, |tx| {
                            let t = tx.tree("t")?;
                            // Under read committed a plain get would lose updates.
                            let n = if isolation == Isolation::ReadCommitted {
                                t.get_for_update("n")?
                            } else {
                                t.get("n")?
                            };
                            t.put("n", [n.map_or(0, |v| v[0]) + 1])
                        });
                        done.unwrap();
                    }
                });
            }
        });
        let n = db.transact(|tx| tx.tree("t")?.get("n")).unwrap().unwrap()[0];
        assert_eq!(n, 240, "{isolation}");
    }
}

/// A panic of the caller's unwinds past a transaction: that is rolled back, and the database goes on.
#[test]
fn a_panic_beside_a_transaction_harms_nobody() {
    let db = db();
    let run = std::panic::AssertUnwindSafe(|| {
        let tx = db.begin_write().unwrap();
        tx.tree("t").unwrap().put("k", [1]).unwrap();
        tx.tree("t").unwrap().put("long", [7; 50_000]).unwrap();
        panic!("of the caller's");
    });
    assert!(std::panic::catch_unwind(run).is_err());
    assert!(db.poisoned().is_none(), "{:?}", db.poisoned());
    assert_eq!(db.transact(|tx| tx.tree("t")?.insert("k", [2])).unwrap().unwrap(), [0].to_vec());
}
