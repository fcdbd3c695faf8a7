//! Limits of memory and log: what happens at each, who is told what, and that everybody else goes on
//! (TXN-DEMOTED, TXN-TOO-OLD, HAM-7).
mod common;

use common::{PROMPT, bytes, rows, small, verify};
use hamal::disk::MemDisk;
use hamal::{Builder, Database, ErrorKind, Isolation, PinKind, WriteOptions};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

fn key(n: u64) -> Vec<u8> {
    format!("key {n:06}").into_bytes()
}

/// A log of 8 MiB, and the smallest version budget.
fn tight() -> Builder {
    small().version_budget_bytes(64 << 10)
}

fn create(b: &Builder) -> Database {
    let db = b.create_on(Arc::new(MemDisk::new())).unwrap();
    let tx = db.begin_write().unwrap();
    tx.create_tree("t").unwrap();
    tx.commit().unwrap();
    db
}

/// One transaction that sets `n` rows.
fn fill(db: &Database, round: u64, n: u64) -> hamal::Result<Rows> {
    let tx = db.begin_write()?;
    let t = tx.tree("t")?;
    let mut all = Rows::new();
    for i in 0..n {
        let value = bytes(round * 100_000 + i, 100);
        t.put(key(i), &value)?;
        all.insert(key(i), value);
    }
    tx.commit()?;
    Ok(all)
}

#[test]
fn an_old_snapshot_is_ended_and_everybody_else_goes_on() {
    let db = create(&tight());
    let first = fill(&db, 0, 1000).unwrap();
    let old = db.begin_read().unwrap();
    let t = old.tree("t").unwrap();
    let mut iter = t.iter();
    assert!(iter.next().unwrap().is_ok());
    let reader = db.begin_write().unwrap();
    assert_eq!(reader.tree("t").unwrap().get(key(1)).unwrap().unwrap()[..], first[&key(1)][..]);
    let mut ended_after = 0;
    let mut last = Rows::new();
    for round in 1..60 {
        last = fill(&db, round, 1000).unwrap();
        if db.stats().snapshots_ended == 0 {
            assert_eq!(rows(&t).unwrap(), first, "round {round}");
            ended_after = round;
        }
    }
    assert!(ended_after > 3 && ended_after < 59, "ended after {ended_after} rounds");
    assert_eq!(db.stats().snapshots_ended, 2, "the reader's and the idle writer's");
    // Every way to read says so, and so does what was begun before.
    let e = t.get(key(1)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::SnapshotTooOld);
    assert!(e.to_string().contains("log_limit_bytes"), "{e}");
    assert_eq!(
        t.get_with(key(1), |_| panic!("shown to the caller")).unwrap_err().kind(),
        ErrorKind::SnapshotTooOld
    );
    assert_eq!(rows(&t).unwrap_err().kind(), ErrorKind::SnapshotTooOld);
    assert_eq!(iter.find_map(Result::err).map(|e| e.kind()), Some(ErrorKind::SnapshotTooOld));
    assert_eq!(old.trees().unwrap_err().kind(), ErrorKind::SnapshotTooOld);
    // A writer whose snapshot has ended can only be rolled back.
    let e = reader.tree("t").unwrap_err();
    assert_eq!(e.kind(), ErrorKind::SnapshotTooOld);
    reader.rollback().unwrap();
    drop((t, old, iter));
    assert_eq!(rows(&db.begin_read().unwrap().tree("t").unwrap()).unwrap(), last);
    assert!(db.stats().log_allocated_bytes <= (8 << 20) + (1 << 20), "the log kept its limit");
    verify(&db);
}

#[test]
fn or_the_writer_is_refused_if_that_is_wanted() {
    let db = create(&tight().end_old_snapshots(false));
    let first = fill(&db, 0, 1000).unwrap();
    let old = db.begin_read().unwrap();
    let mut round = 1;
    let e = loop {
        match fill(&db, round, 1000) {
            Ok(_) => round += 1,
            Err(e) => break e,
        }
    };
    assert_eq!(e.kind(), ErrorKind::LogFull);
    assert!(e.to_string().contains("snapshot at"), "{e}");
    let activity = db.activity().unwrap();
    assert_eq!(activity.pins[0].kind, PinKind::Snapshot, "{activity}");
    assert_eq!(rows(&old.tree("t").unwrap()).unwrap(), first, "still whole");
    drop(old);
    let last = fill(&db, 1000, 1000).unwrap();
    assert_eq!(rows(&db.begin_read().unwrap().tree("t").unwrap()).unwrap(), last);
    assert_eq!(db.stats().snapshots_ended, 0);
}

#[test]
fn the_oldest_writer_keeps_the_log_or_is_ended() {
    for abort in [false, true] {
        let db = create(&small().abort_oldest_writer(abort));
        let first = fill(&db, 0, 1000).unwrap();
        let idle = db.begin_write().unwrap();
        let tree = idle.tree("t").unwrap();
        tree.put(key(5000), b"mine").unwrap();
        let refused = (1..80).find_map(|round| fill(&db, round, 1000).err());
        if abort {
            assert!(refused.is_none(), "{refused:?}");
            let e = tree.put(key(5000), b"more").unwrap_err();
            assert_eq!(e.kind(), ErrorKind::TransactionEnded);
            assert!(e.to_string().contains("oldest writer"), "{e}");
            // Committing is an error; rolling back has nothing left to do.
            if db.stats().transactions_committed.is_multiple_of(2) {
                assert_eq!(idle.commit().unwrap_err().kind(), ErrorKind::TransactionEnded);
            } else {
                idle.rollback().unwrap();
            }
            assert!(db.begin_read().unwrap().tree("t").unwrap().get(key(5000)).unwrap().is_none());
        } else {
            let e = refused.expect("the log has a limit");
            assert_eq!(e.kind(), ErrorKind::LogFull);
            assert!(e.to_string().contains("transaction T"), "{e}");
            let activity = db.activity().unwrap();
            assert_eq!((activity.pins[0].kind, activity.pins[0].which), (PinKind::Transaction, idle.id().0));
            assert!(activity.writers[0].log_held_bytes > 1 << 20, "{activity}");
            idle.commit().unwrap();
            assert_eq!(db.begin_read().unwrap().tree("t").unwrap().get(key(5000)).unwrap().unwrap(), b"mine");
            fill(&db, 100, 1000).unwrap();
        }
        assert_eq!(first.len(), 1000);
        verify(&db);
    }
}

/// Writers on several threads, some of them idle for long, and readers that stay: all end, with the errors that there are
/// for it, and what was acknowledged is there.
#[test]
fn threads_at_the_limit_of_the_log() {
    for seed in 0..4u64 {
        let b = tight()
            .cache_bytes(96 * 4096)
            .background(seed % 2 == 0)
            .abort_oldest_writer(seed < 2)
            .lock_timeout(Duration::from_millis(300));
        let db = create(&b);
        fill(&db, 0, 400).unwrap();
        let (stop, commits) = (AtomicBool::new(false), AtomicU64::new(0));
        let start = Instant::now();
        thread::scope(|s| {
            for id in 0..3u64 {
                let (db, stop, commits) = (&db, &stop, &commits);
                s.spawn(move || {
                    let mut mine = 0u64;
                    for round in 0.. {
                        if stop.load(SeqCst) {
                            break;
                        }
                        let done = (|| {
                            let tx = db.begin_write()?;
                            let t = tx.tree("t")?;
                            for i in 0..40 {
                                t.put(key(id * 1000 + i), bytes(round * 1000 + i, 300))?;
                            }
                            if (round + id + seed) % 20 == 7 {
                                thread::sleep(Duration::from_millis(30));
                            }
                            t.put(format!("last {id}"), (mine + 1).to_be_bytes())?;
                            tx.commit()
                        })();
                        match done {
                            Ok(_) => {
                                mine += 1;
                                commits.fetch_add(1, SeqCst);
                            }
                            Err(e) => assert!(
                                matches!(
                                    e.kind(),
                                    ErrorKind::LogFull
                                        | ErrorKind::TransactionEnded
                                        | ErrorKind::SnapshotTooOld
                                ),
                                "{e}"
                            ),
                        }
                    }
                    // The others may still be at the limit, and end this snapshot as well.
                    let last = loop {
                        let read = || db.begin_read()?.tree("t")?.get(format!("last {id}"));
                        match read() {
                            Ok(v) => break v.map(|v| u64::from_be_bytes(v.as_ref().try_into().unwrap())),
                            Err(e) => assert_eq!(e.kind(), ErrorKind::SnapshotTooOld, "{e}"),
                        }
                    };
                    assert_eq!(last.unwrap_or(0), mine, "writer {id}");
                });
            }
            s.spawn(|| {
                while !stop.load(SeqCst) {
                    let twice = || {
                        let tx = db.begin_read()?;
                        let t = tx.tree("t")?;
                        let first = rows(&t)?;
                        thread::sleep(Duration::from_millis(20));
                        Ok((first, rows(&t)?))
                    };
                    match twice() {
                        Ok((a, b)) => assert!(a == b, "a snapshot has changed"),
                        Err::<_, hamal::Error>(e) => assert_eq!(e.kind(), ErrorKind::SnapshotTooOld, "{e}"),
                    }
                }
            });
            thread::sleep(Duration::from_secs(3));
            while commits.load(SeqCst) <= 20 && start.elapsed() < PROMPT {
                thread::sleep(Duration::from_millis(20));
            }
            stop.store(true, SeqCst);
        });
        assert!(commits.load(SeqCst) > 20, "seed {seed}: {commits:?} commits");
        verify(&db);
        db.close().unwrap();
    }
}

/// One snapshot is read, over and over, while it is ended and all that it needs is taken away: rows, long values, ghosts.
/// Whatever is read is either true, or refused.
#[test]
fn a_reader_never_believes_what_an_ended_snapshot_shows() {
    for round in 0..12u64 {
        let db = create(&small().log_limit_bytes(64 << 20).cache_bytes(256 * 4096));
        let tx = db.begin_write().unwrap();
        let t = tx.tree("t").unwrap();
        for i in 0..300 {
            t.put(key(i), bytes(i, if i % 10 == 0 { 9000 } else { 40 })).unwrap();
        }
        tx.commit().unwrap();
        let old = db.begin_read().unwrap();
        let tree = old.tree("t").unwrap();
        let truth = rows(&tree).unwrap();
        let refused = AtomicU64::new(0);
        thread::scope(|s| {
            for _ in 0..2 {
                s.spawn(|| {
                    for n in 0.. {
                        let k = key(n % 300);
                        let got = if n % 5 == 4 {
                            rows(&tree).map(|all| assert!(all == truth))
                        } else {
                            tree.get_with(&k, |v| {
                                assert!(*v == truth[&k][..], "row {} of another moment", n % 300)
                            })
                            .map(|found| assert!(found.is_some(), "row {} is missing", n % 300))
                        };
                        match got {
                            Ok(()) => {}
                            Err(e) => {
                                assert_eq!(e.kind(), ErrorKind::SnapshotTooOld, "{e}");
                                refused.fetch_add(1, SeqCst);
                                break;
                            }
                        }
                    }
                });
            }
            let change = |r: u64| {
                let tx = db.begin_write().unwrap();
                let t = tx.tree("t").unwrap();
                for i in 0..300 {
                    if (i + r).is_multiple_of(3) {
                        t.delete(key(i)).unwrap();
                    } else {
                        t.put(key(i), bytes(i + 1000 * r, 60)).unwrap();
                    }
                }
                tx.commit().unwrap();
            };
            change(1);
            thread::sleep(Duration::from_millis(round));
            assert!(db.engine().txns().end_snapshots(hamal::Lsn::MAX) >= 1);
            while refused.load(SeqCst) < 2 {
                db.maintenance_step().unwrap();
                change(2);
                change(3);
            }
        });
        assert_eq!(old.trees().unwrap_err().kind(), ErrorKind::SnapshotTooOld);
        verify(&db);
    }
}

/// 64 MiB of updates in one transaction with a cache of 2 MiB and a version budget of 256 KiB, snapshots open, rolled back and
/// committed; and deletes, whose former values are in no record of their own.
#[test]
fn a_transaction_larger_than_memory() {
    const ROWS: u64 = 16_000;
    const LEN: usize = 1000;
    let b = Database::builder()
        .page_size(4096)
        .cache_bytes(2 << 20)
        .log_segment_bytes(4 << 20)
        .log_ring_bytes(1 << 20)
        .log_limit_bytes(1 << 30)
        .checkpoint_log_bytes(16 << 20)
        .version_budget_bytes(256 << 10)
        .background(false);
    let db = create(&b);
    for part in 0..16 {
        let tx = db.begin_write().unwrap();
        let t = tx.tree("t").unwrap();
        for n in part * ROWS / 16..(part + 1) * ROWS / 16 {
            t.put(key(n), bytes(n, LEN)).unwrap();
        }
        tx.commit().unwrap();
    }
    let old = db.begin_read().unwrap();
    for commits in [false, true] {
        let tx = db.begin_write().unwrap();
        let t = tx.tree("t").unwrap();
        for pass in 1..=4 {
            for n in 0..ROWS {
                if pass == 4 && n % 50 == 0 {
                    t.delete(key(n)).unwrap();
                } else {
                    t.put(key(n), bytes(n + pass * ROWS, LEN)).unwrap();
                }
            }
            db.maintenance_step().unwrap();
        }
        let point = tx.savepoint().unwrap();
        t.put(key(1), b"not this").unwrap();
        tx.rollback_to(&point).unwrap();
        let stats = db.stats();
        assert!(stats.version_bytes <= 256 << 10, "{} bytes of versions", stats.version_bytes);
        assert!(stats.versions_demoted > ROWS / 2);
        let young = db.begin_read().unwrap();
        for tx in [&old, &young] {
            let t = tx.tree("t").unwrap();
            for n in (0..ROWS).step_by(97) {
                assert_eq!(t.get(key(n)).unwrap().unwrap()[..], bytes(n, LEN)[..], "row {n}");
            }
            let some = t.range(key(700)..key(1100)).map(|r| r.unwrap().1.into_vec());
            assert!(some.eq((700..1100).map(|n| bytes(n, LEN))));
        }
        drop(young);
        if commits { tx.commit().map(|_| ()) } else { tx.rollback() }.unwrap();
        db.maintenance_step().unwrap();
        let t = old.tree("t").unwrap();
        for n in (0..ROWS).step_by(197) {
            assert_eq!(t.get(key(n)).unwrap().unwrap()[..], bytes(n, LEN)[..], "row {n}");
        }
        let t = db.begin_read().unwrap().tree("t").unwrap();
        let now = |n: u64| match (commits, n % 50) {
            (true, 0) => None,
            (true, _) => Some(bytes(n + 4 * ROWS, LEN)),
            (false, _) => Some(bytes(n, LEN)),
        };
        for n in (0..ROWS).step_by(10) {
            assert_eq!(t.get(key(n)).unwrap().map(|v| v.into_vec()), now(n), "row {n}");
        }
    }
    assert_eq!(db.stats().snapshots_ended, 0);
    verify(&db);
}

/// A transaction that is larger than the log may be gets an error that says so and which option to raise; what it did
/// before is rolled back, and the next one goes on.
#[test]
fn a_transaction_larger_than_the_log_is_told() {
    let db = create(&small());
    let first = fill(&db, 0, 500).unwrap();
    let tx = db.begin_write().unwrap();
    let t = tx.tree("t").unwrap();
    let e = (0..).find_map(|n| t.put(key(n % 500), bytes(n, 900)).err()).unwrap();
    assert_eq!(e.kind(), ErrorKind::LogFull);
    assert!(e.to_string().contains("log_limit_bytes") && e.to_string().contains("itself"), "{e}");
    tx.rollback().unwrap();
    assert_eq!(rows(&db.begin_read().unwrap().tree("t").unwrap()).unwrap(), first);
    fill(&db, 1, 500).unwrap();
    verify(&db);
}

#[test]
fn activity_says_who_holds_what() {
    let db = create(&small());
    fill(&db, 0, 100).unwrap();
    let snapshot = db.begin_read().unwrap();
    let holder = db.begin_write().unwrap();
    holder.tree("t").unwrap().put(key(7), b"held").unwrap();
    thread::scope(|s| {
        let waiter = s.spawn(|| {
            let tx = db.begin_write().unwrap();
            tx.tree("t").unwrap().put(key(7), b"waits").map(|_| ())
        });
        let start = Instant::now();
        let a = loop {
            let a = db.activity().unwrap();
            if !a.waits.is_empty() || start.elapsed() > PROMPT {
                break a;
            }
            thread::sleep(Duration::from_millis(2));
        };
        assert_eq!(a.waits.len(), 1, "{a}");
        assert_eq!(a.waits[0].holder_id, holder.id().0);
        assert_eq!((a.waits[0].tree.as_deref(), a.waits[0].key.as_deref()), (Some("t"), Some(&key(7)[..])));
        let w = a.writers.iter().find(|w| w.id == holder.id().0).expect("the holder");
        assert_eq!((w.changes, w.versions, w.rolling_back, w.doomed), (1, 1, false, false), "{a}");
        assert!(w.version_bytes > 0 && w.log_held_bytes > 0 && w.reserved_bytes > 0 && w.change_bytes > 0);
        assert!(a.snapshots.iter().any(|s| s.at == snapshot.snapshot().0 && s.holders >= 1));
        assert!(a.pins.iter().any(|p| p.kind == PinKind::Transaction && p.which == w.id));
        assert!(
            a.pins.iter().any(|p| p.kind == PinKind::Page)
                && a.pins.iter().any(|p| p.kind == PinKind::Checkpoint)
        );
        assert!(a.pins.windows(2).all(|p| p[0].from <= p[1].from), "the one that keeps the most first");
        let text = a.to_string();
        for part in [
            "pin        transaction T",
            "wait       #",
            "tree t",
            "key 000007",
            "snapshot   at",
            "versions   1 in",
        ] {
            assert!(text.contains(part), "{part:?} is not in:\n{text}");
        }
        holder.rollback().unwrap();
        waiter.join().unwrap().unwrap();
    });
    let a = db.activity().unwrap();
    assert!(a.writers.is_empty() && a.waits.is_empty(), "{a}");
}

/// Near the limit each change takes a little longer, as long as the cleaner and the checkpointer can release something; if a
/// transaction keeps the log, waiting would be in vain, and nobody is slowed down.
#[test]
fn writers_are_slowed_down_only_where_that_helps() {
    let db = create(&small().background(true).checkpoint_log_bytes(4 << 20));
    let mut slowest = Duration::ZERO;
    for round in 0..300 {
        fill(&db, round, 1000).unwrap();
        slowest = slowest.max(db.activity().unwrap().log.slowed);
        if slowest > Duration::from_micros(10) {
            break;
        }
    }
    assert!(slowest > Duration::from_micros(10) && slowest <= Duration::from_millis(10), "{slowest:?}");
    drop(db);

    let db = create(&small().background(true));
    let idle = db.begin_write().unwrap();
    idle.tree("t").unwrap().put(key(5000), b"mine").unwrap();
    let e = (0..).find_map(|round| fill(&db, round, 1000).err()).unwrap();
    assert_eq!(e.kind(), ErrorKind::LogFull);
    let log = db.activity().unwrap().log;
    assert!(log.kept_bytes > log.limit_bytes / 2, "{log:?}");
    assert_eq!(log.slowed, Duration::ZERO, "{log:?}");
    idle.rollback().unwrap();
    fill(&db, 1, 1000).unwrap();
}

/// A long value is read after the row that names it, under read committed in another statement: whether the snapshot of the row
/// was ended counts then, not that of the later statement. Else the pages may be another value's by now.
#[test]
fn a_long_value_of_an_ended_moment_is_not_shown() {
    let db = create(&small());
    let put = |k: u64, seed: u64| {
        let tx = db.begin_write().unwrap();
        tx.tree("t").unwrap().put(key(k), bytes(seed, 9000)).unwrap();
        tx.commit().unwrap();
    };
    (0..3).for_each(|k| put(k, k));
    let options = WriteOptions::new().isolation(Isolation::ReadCommitted);
    let tx = db.begin_write_with(options).unwrap();
    let t = tx.tree("t").unwrap();
    let (mut iter, mut lent) = (t.iter(), t.iter());
    assert_eq!(iter.next().unwrap().unwrap().1[..], bytes(0, 9000)[..]);
    assert_eq!(lent.next_ref().unwrap().unwrap().1, bytes(0, 9000));
    let mut reader = t.reader(key(2)).unwrap().unwrap();
    // Both rows get other values, the old ones are freed, and their pages are used again for values of the same length.
    (1..3).for_each(|k| put(k, 100 + k));
    db.flush().unwrap();
    assert!(db.engine().txns().end_snapshots(hamal::Lsn(db.stats().log_tail)) > 0);
    while db.maintenance_step().unwrap() {}
    (3..12).for_each(|k| put(k, 200 + k));
    let too_old = |e: hamal::Error| assert_eq!(e.kind(), ErrorKind::SnapshotTooOld, "{e}");
    too_old(iter.next().unwrap().map(|(_, v)| assert!(v[..] == bytes(1, 9000)[..])).unwrap_err());
    too_old(lent.next_ref().map(|row| assert!(row.unwrap().1 == bytes(1, 9000))).unwrap_err());
    let mut got = Vec::new();
    let e = std::io::Read::read_to_end(&mut reader, &mut got)
        .map(|_| assert!(got == bytes(2, 9000)))
        .unwrap_err();
    too_old(*e.into_inner().unwrap().downcast().unwrap());
    // The transaction goes on.
    assert_eq!(t.get(key(1)).unwrap().unwrap()[..], bytes(101, 9000)[..]);
    tx.commit().unwrap();
    verify(&db);
}

/// The log was kept for a snapshot that has gone, and nobody has looked since (no background threads, few commits, no version
/// pushed): whoever finds the log full looks.
#[test]
fn log_kept_for_a_snapshot_that_has_gone_is_found() {
    let db = create(&tight().end_old_snapshots(false));
    fill(&db, 0, 1000).unwrap();
    let old = db.begin_read().unwrap();
    for round in 1..20 {
        fill(&db, round, 1000).unwrap();
    }
    assert!(db.stats().versions_demoted > 0);
    drop(old);
    for round in 0..12u64 {
        let tx = db.begin_write().unwrap();
        let t = tx.tree("t").unwrap();
        for i in 0..3000 {
            t.put(key(100_000 + round * 3000 + i), bytes(i, 100)).unwrap();
        }
        tx.commit().unwrap();
    }
    verify(&db);
}
