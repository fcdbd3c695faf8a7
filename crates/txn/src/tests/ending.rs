//! Commit, rollback, savepoints, nested top actions.
use super::bench::*;
use crate::*;
use hamal_error::ErrorKind;
use hamal_log::RecordKind;
use hamal_page::*;

#[test]
fn commit_is_visible_at_once_and_durable_later() {
    let b = Bench::new();
    let t = b.begin();
    b.set(&t, 0, 1, 5).unwrap();
    assert_eq!(b.m.status(t.id()), Status::Active);
    assert_eq!(t.id().0, b.m.oldest_first_lsn().unwrap().0);
    let old = b.m.snapshot().unwrap();
    assert_eq!(b.get(&old.view(), 0, 1), Some(0));
    assert_eq!(b.get(&t.view(), 0, 1), Some(5));
    let done = b.commit(&t);
    assert!(!done.ticket.is_durable());
    // A writer that begins now sees it, a reader does not: a crash could still take it back.
    let w = b.begin();
    assert!(w.snapshot() >= done.timestamp);
    assert_eq!(b.get(&w.view(), 0, 1), Some(5));
    assert_eq!(b.get(&b.m.snapshot().unwrap().view(), 0, 1), Some(0));
    // One's own asynchronous commit can be waited for.
    let after = b.m.snapshot_after(done.timestamp).unwrap();
    assert!(done.ticket.is_durable());
    assert_eq!(b.get(&after.view(), 0, 1), Some(5));
    assert_eq!(b.get(&old.view(), 0, 1), Some(0));
    b.rollback(&w);
    assert_eq!(t.enter().unwrap_err().kind(), ErrorKind::TransactionEnded);
    assert_eq!(b.m.commit(&t).unwrap_err().kind(), ErrorKind::TransactionEnded);
    assert_eq!(b.m.rollback(&t).unwrap_err().kind(), ErrorKind::TransactionEnded);
}

#[test]
fn the_timestamp_is_the_end_of_the_commit_record() {
    let b = Bench::new();
    let t = b.begin();
    b.set(&t, 0, 1, 5).unwrap();
    let done = b.commit(&t);
    let r = b.records().into_iter().find(|r| r.kind == RecordKind::Commit).unwrap();
    assert_eq!(r.end, done.timestamp);
    assert_eq!(b.m.status(t.id()), Status::Committed(r.end));
    // A snapshot inside the commit record does not contain it.
    let inside = View { snapshot: Lsn(r.lsn.0 + 1), own: TxnId::NONE };
    assert!(!b.m.visible(t.id(), &inside));
    assert!(b.m.visible(t.id(), &View { snapshot: r.end, own: TxnId::NONE }));
}

#[test]
fn a_transaction_that_wrote_nothing_waits_for_what_it_read() {
    let b = Bench::new();
    let t = b.begin();
    b.set(&t, 0, 1, 5).unwrap();
    let wrote = b.commit(&t);
    let reader = b.begin();
    assert_eq!(b.get(&reader.view(), 0, 1), Some(5));
    let tail = b.m.log().tail();
    let read = b.commit(&reader);
    assert_eq!(b.m.log().tail(), tail, "no record");
    assert!(read.timestamp >= wrote.timestamp && !read.ticket.is_durable());
    read.ticket.wait().unwrap();
    assert!(wrote.ticket.is_durable());
}

#[test]
fn rollback_restores_and_logs_clrs_downwards() {
    let b = Bench::new();
    let t = b.begin();
    b.set(&t, 0, 1, 5).unwrap();
    b.set(&t, 0, 1, 6).unwrap();
    b.set(&t, 1, 2, 7).unwrap();
    let id = t.id();
    b.rollback(&t);
    assert_eq!(b.raw(0, 1), (TxnId::NONE, 0));
    assert_eq!(b.raw(1, 2), (TxnId::NONE, 0));
    assert_eq!(b.m.horizon.table.get(id), Status::Settled, "forgotten");
    assert_eq!((b.m.versions().count(), b.m.versions().bytes()), (0, 0));
    let mut undone = b.rm.undone.lock().clone();
    assert_eq!(undone.len(), 3);
    undone.reverse();
    assert!(undone.is_sorted());
    let mine: Vec<_> = b.records().into_iter().filter(|r| r.txn == id).map(|r| (r.kind, r.prev)).collect();
    let clrs: Vec<Lsn> = mine.iter().filter(|(k, _)| *k == RecordKind::Clr).map(|(_, p)| *p).collect();
    assert_eq!(clrs, [undone[1], undone[0], Lsn::NULL], "undoNextLSN is the undone record's prevLSN");
    assert_eq!(mine.last().unwrap().0, RecordKind::End);
    assert!(b.m.att().is_empty());
    let s = b.m.log().stats();
    let images = b.m.pool().stats().dirty;
    assert!(images > 0 || s.reserved_bytes == 0, "{s:?}");
}

#[test]
fn all_log_space_comes_back() {
    let b = Bench::new();
    let measure = |b: &Bench| {
        b.m.pool().flush_all(hamal_trace::WriteReason::Asked).unwrap();
        b.m.log().stats().reserved_bytes
    };
    let before = measure(&b);
    for i in 0..10 {
        let t = b.begin();
        let sp = b.m.savepoint(&t);
        b.set(&t, i % 8, 1, i).unwrap();
        b.set(&t, i % 8, 2, i).unwrap();
        if i % 3 == 0 {
            b.m.rollback_to(&t, &sp).unwrap();
        }
        b.m.nested_top_action(&t, || Ok(())).unwrap();
        if i % 2 == 0 {
            b.rollback(&t)
        } else {
            b.commit(&t);
        }
    }
    assert_eq!(measure(&b), before);
}

#[test]
fn savepoints_stay_valid_until_passed() {
    let b = Bench::new();
    let t = b.begin();
    let s0 = b.m.savepoint(&t);
    b.set(&t, 0, 1, 1).unwrap();
    let s1 = b.m.savepoint(&t);
    b.set(&t, 0, 1, 2).unwrap();
    let s2 = b.m.savepoint(&t);
    b.set(&t, 0, 1, 3).unwrap();
    b.m.rollback_to(&t, &s2).unwrap();
    assert_eq!(b.raw(0, 1), (t.id(), 2));
    b.m.rollback_to(&t, &s1).unwrap();
    // The exact former writer as well: one's own, so the row stays locked.
    assert_eq!(b.raw(0, 1), (t.id(), 1));
    assert_eq!(b.m.rollback_to(&t, &s2).unwrap_err().kind(), ErrorKind::NotFound);
    b.set(&t, 0, 1, 4).unwrap();
    b.m.rollback_to(&t, &s1).unwrap();
    assert_eq!(b.raw(0, 1), (t.id(), 1));
    b.m.rollback_to(&t, &s0).unwrap();
    assert_eq!(b.raw(0, 1), (TxnId::NONE, 0));
    let other = b.begin();
    assert_eq!(b.m.rollback_to(&other, &s0).unwrap_err().kind(), ErrorKind::NotFound);
    b.set(&t, 0, 1, 9).unwrap();
    b.commit(&t);
    assert_eq!(b.raw(0, 1), (t.id(), 9));
    b.commit(&other);
}

#[test]
fn a_nested_top_action_stays_or_leaves_nothing() {
    let b = Bench::new();
    let t = b.begin();
    b.set(&t, 0, 1, 1).unwrap();
    b.m.nested_top_action(&t, || b.set(&t, 0, 2, 2)).unwrap();
    let e = b.m.nested_top_action(&t, || {
        b.set(&t, 0, 3, 3)?;
        Err::<(), _>(hamal_error::Error::internal("no"))
    });
    assert_eq!(e.unwrap_err().message(), "no");
    assert_eq!(b.raw(0, 3).1, 0);
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        b.m.nested_top_action(&t, || {
            b.set(&t, 0, 4, 4)?;
            if b.raw(0, 4).1 == 4 {
                panic!("as asked");
            }
            Ok(())
        })
    }));
    assert!(panic.is_err() && !b.m.log().poisoned().is_set());
    assert_eq!(b.raw(0, 4).1, 0);
    b.set(&t, 0, 5, 5).unwrap();
    b.rollback(&t);
    let values: Vec<u64> = (1..6).map(|n| b.raw(0, n).1).collect();
    assert_eq!(values, [0, 2, 0, 0, 0]);
    assert!(b.records().iter().any(|r| r.kind == RecordKind::DummyClr));
}

#[test]
fn a_doomed_transaction_can_only_be_rolled_back() {
    let b = Bench::new();
    let t = b.begin();
    b.set(&t, 0, 1, 1).unwrap();
    t.doom();
    assert_eq!(b.set(&t, 0, 2, 1).unwrap_err().kind(), ErrorKind::TransactionEnded);
    assert_eq!(b.m.commit(&t).unwrap_err().kind(), ErrorKind::TransactionEnded);
    assert!(b.m.oldest_writer().unwrap().number() == t.number());
    let op = t.try_enter_to_end().unwrap().unwrap();
    std::thread::scope(|s| {
        s.spawn(|| assert!(t.try_enter_to_end().unwrap().is_none()));
    });
    b.m.rollback(&t).unwrap();
    drop(op);
    assert_eq!(b.raw(0, 1).1, 0);
}

#[test]
fn an_interrupted_rollback_goes_on_and_undoes_nothing_twice() {
    for stop_after in 0..8 {
        let b = Bench::new();
        let t = b.begin();
        for i in 0..6 {
            b.set(&t, i % 2, i, i + 10).unwrap();
        }
        for _ in 0..stop_after {
            b.m.undo_step(&t).unwrap();
        }
        // What analysis would find: the chain from the last record. Follow it under another transaction
        // handle.
        let att = b.m.att()[0];
        let entry = AttEntry { undo_next: att.last, ..att };
        b.m.unlist(&t);
        let loser = b.m.adopt(entry);
        while !b.m.undo_step(&loser).unwrap().is_null() {}
        b.m.end_rolled_back(&loser).unwrap();
        let mut undone = b.rm.undone.lock().clone();
        assert_eq!(undone.len(), 6, "stopped after {stop_after}");
        undone.sort();
        undone.dedup();
        assert_eq!(undone.len(), 6);
        for i in 0..6 {
            assert_eq!(b.raw(i % 2, i), (TxnId::NONE, 0));
        }
    }
}

/// TXN-PARTS: a record of many cells is undone by several CLRs. Wherever the rollback is interrupted, what goes on from the last
/// record, or from the table of a checkpoint, undoes what is left and nothing twice.
#[test]
fn an_undo_in_parts_goes_on_where_it_was() {
    for from_table in [false, true] {
        for stop_after in 0..20 {
            let b = Bench::new();
            let t = b.begin();
            b.set(&t, 0, 1, 5).unwrap();
            b.set_many(&t, 0, &(0..9).map(|n| (n, n + 100)).collect::<Vec<_>>()).unwrap();
            b.set(&t, 0, 3, 6).unwrap();
            b.set_many(&t, 1, &[(7, 70)]).unwrap();
            b.set_many(&t, 1, &(0..4).map(|n| (n, n + 200)).collect::<Vec<_>>()).unwrap();
            let mut steps = 0;
            while steps < stop_after && !b.m.undo_step(&t).unwrap().is_null() {
                steps += 1;
            }
            let att = b.m.att()[0];
            let entry = if from_table { att } else { AttEntry { undo_next: last_of(&b, att.last), ..att } };
            b.m.unlist(&t);
            let loser = b.m.adopt(entry);
            while !b.m.undo_step(&loser).unwrap().is_null() {}
            b.m.end_rolled_back(&loser).unwrap();
            let mut cells = b.rm.cells_undone.lock().clone();
            assert_eq!(cells.len(), 9 + 1 + 4, "stopped after {stop_after}");
            let descends = |w: &[(Lsn, usize)]| w[0].0 > w[1].0 || w[0].1 > w[1].1 || w[0].1 + 1 == w[1].1;
            assert!(cells.windows(2).all(descends), "{cells:?}");
            cells.sort();
            cells.dedup();
            assert_eq!(cells.len(), 9 + 1 + 4, "nothing twice");
            assert_eq!(b.rm.undone.lock().len(), 2);
            for p in 0..2 {
                for n in 0..9 {
                    assert_eq!(b.raw(p, n), (TxnId::NONE, 0), "page {p} cell {n}");
                }
            }
        }
    }
}

/// undoNextLSN as analysis finds it from the last record alone.
fn last_of(b: &Bench, last: Lsn) -> Lsn {
    let record = b.m.log().read(last).unwrap();
    match record.kind {
        hamal_log::RecordKind::Clr if record.undo().is_empty() => record.prev,
        _ => last,
    }
}

/// All log space comes back, whatever was reserved for parts that there were not.
#[test]
fn the_space_for_parts_comes_back() {
    let b = Bench::new();
    let reserved = || b.m.log().stats().reserved_bytes;
    b.m.pool().flush_all(hamal_trace::WriteReason::Asked).unwrap();
    let before = reserved();
    for commit in [true, false] {
        let t = b.begin();
        let cells: Vec<_> = (0..100).map(|n| (n, n)).collect();
        b.set_many(&t, 0, &cells).unwrap();
        assert!(reserved() >= before + 100 * 400, "one CLR for each cell, at worst");
        if commit {
            b.commit(&t).ticket.wait().unwrap();
        } else {
            b.rollback(&t);
        }
        b.m.pool().flush_all(hamal_trace::WriteReason::Asked).unwrap();
        assert_eq!(reserved(), before);
    }
}
