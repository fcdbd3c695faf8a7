//! Snapshots, the horizon, and what is given up below it.
use super::bench::*;
use crate::*;
use hamal_error::ErrorKind;
use hamal_page::*;
use hamal_trace::{ForceReason, Trace};

fn committed(b: &Bench, n: u64, value: u64) -> (TxnId, Lsn) {
    let t = b.begin();
    b.set(&t, 0, n, value).unwrap();
    (t.id(), b.commit(&t).timestamp)
}

#[test]
fn nothing_is_given_up_that_a_snapshot_or_the_durable_horizon_needs() {
    let b = Bench::new();
    let (id, ts) = committed(&b, 1, 5);
    // Visible, not durable: a read snapshot taken now must not see it, so the version stays.
    b.m.collect();
    assert!(!b.m.settled(id) && b.m.versions().count() == 1);
    assert_eq!(b.get(&b.m.snapshot().unwrap().view(), 0, 1), Some(0));
    let old = b.m.snapshot().unwrap();
    b.m.log().force(ts, ForceReason::Asked).unwrap();
    b.m.collect();
    assert!(b.m.horizon() <= old.lsn() && !b.m.settled(id));
    assert_eq!(b.get(&old.view(), 0, 1), Some(0));
    drop(old);
    let writer = b.begin();
    b.m.collect();
    assert!(b.m.settled(id) && b.m.versions().count() == 0 && b.m.versions().bytes() == 0);
    assert_eq!(b.m.stats().statuses, 0);
    assert_eq!(b.m.status(id), Status::Settled);
    // A writer's snapshot counts as well.
    let (id2, ts2) = committed(&b, 1, 6);
    b.m.log().force(ts2, ForceReason::Asked).unwrap();
    b.m.collect();
    assert!(!b.m.settled(id2));
    assert_eq!(b.get(&writer.view(), 0, 1), Some(5));
    assert_eq!(b.set(&writer, 0, 1, 7).unwrap_err().kind(), ErrorKind::Conflict);
    b.rollback(&writer);
    b.m.collect();
    assert!(b.m.settled(id2) && b.m.versions().count() == 0);
}

#[test]
fn a_writers_snapshot_is_at_or_above_the_horizon() {
    let b = Bench::new();
    committed(&b, 1, 5);
    // Records that commit nothing move the durable LSN past the last commit.
    let t = b.begin();
    b.set(&t, 0, 2, 5).unwrap();
    b.m.log().force(b.m.log().tail(), ForceReason::Asked).unwrap();
    b.rollback(&t);
    b.m.collect();
    let w = b.begin();
    assert!(w.snapshot() >= b.m.horizon());
    b.commit(&w);
}

#[test]
fn chains_show_each_snapshot_its_state() {
    let b = Bench::new();
    let mut snapshots = vec![(b.m.snapshot().unwrap(), 0)];
    for v in 1..6 {
        let (_, ts) = committed(&b, 1, v * 10);
        snapshots.push((b.m.snapshot_after(ts).unwrap(), v * 10));
    }
    let t = b.begin();
    b.set(&t, 0, 1, 99).unwrap();
    for round in 0..2 {
        for (s, v) in &snapshots {
            assert_eq!(b.get(&s.view(), 0, 1), Some(*v));
        }
        if round == 0 {
            b.rollback(&t);
        }
        b.m.collect();
    }
    while let Some((s, v)) = snapshots.pop() {
        assert_eq!(b.get(&s.view(), 0, 1), Some(v));
        drop(s);
        b.m.collect();
    }
    assert_eq!(b.m.versions().count(), 0);
}

#[test]
fn the_version_budget_is_kept_and_names_the_remedy() {
    let b = Bench::with(TxnOptions { version_budget: 2000, ..txn_options() }, Trace::silent());
    let old = b.m.snapshot().unwrap();
    let mut made = 0;
    let e = loop {
        let t = b.begin();
        // One version for each cell: the snapshot needs no other.
        match b.set(&t, 0, made, made) {
            Ok(()) => {
                b.commit(&t).ticket.wait().unwrap();
                made += 1;
            }
            Err(e) => {
                b.rollback(&t);
                break e;
            }
        }
    };
    assert_eq!(e.kind(), ErrorKind::VersionBudget);
    assert!(e.help().unwrap().contains("snapshots") && made > 5);
    assert!(b.m.versions().bytes() <= 2000);
    drop(old);
    let t = b.begin();
    b.set(&t, 0, 1, 1).unwrap();
    b.commit(&t);
    assert!(b.m.versions().count() <= 1);
}

#[test]
fn collection_comes_with_commits() {
    let b = Bench::new();
    for i in 0..200 {
        committed(&b, i % 8, i);
        if i % 10 == 0 {
            b.m.log().force(b.m.log().tail(), ForceReason::Asked).unwrap();
        }
    }
    assert!(b.m.stats().statuses < 150);
}

/// A row is deleted, its ghost taken away because its writer has settled, and the row made anew: by then the
/// state before the deletion must be out of its chain, or a snapshot that does not see the new row would find
/// that state and show the deleted row. So versions go before their superseder counts as settled.
#[test]
fn versions_go_before_their_superseder_settles() {
    let b = Bench::new();
    let (id, ts) = committed(&b, 1, 5);
    b.m.log().force(ts, ForceReason::Asked).unwrap();
    let mut ran = false;
    b.m.horizon.advance(true, |needs| {
        ran = true;
        assert!(needs.h >= ts, "nothing holds it back");
        assert!(!b.m.settled(id) && b.m.horizon() < ts, "its version is still there");
        assert_eq!(b.m.versions().count(), 1);
        b.m.versions.collect(needs);
        assert_eq!(b.m.versions().count(), 0);
        assert!(!b.m.settled(id));
    });
    assert!(ran && b.m.settled(id) && b.m.horizon() >= ts);
}

/// Who is told to look in the log finds it there, also if the transaction that replaced the state is rolled back meanwhile and
/// nothing else keeps the log; and is told how far down to look. If nobody was demoted there is nothing to be found.
#[test]
fn the_log_is_kept_while_a_state_is_looked_for() {
    let b = Bench::with(TxnOptions { version_budget: 1, ..txn_options() }, Trace::silent());
    let old = b.m.snapshot().unwrap();
    let find = |visible: &dyn Fn(TxnId) -> bool| b.m.versions().find(RM, 9, b"k", old.lsn(), visible);
    assert!(matches!(find(&|_| false), FoundVersion::Absent));
    let t = b.begin();
    b.m.register(&t, TREE).unwrap();
    let mut credit = b.m.pool().credit(200, 250, 1, false).unwrap();
    let mut p = b.m.pool().exclusive(PageId(0)).unwrap();
    let words: Vec<u8> = [1u64, 5].iter().flat_map(|w| w.to_le_bytes()).collect();
    let undo: Vec<u8> = [1u64, 0, 0].iter().flat_map(|w| w.to_le_bytes()).collect();
    b.m.update(&t, RM, &mut [edit(&mut p, 1, &words)], &undo, 250, &mut credit).unwrap();
    let former = Version { writer: TxnId::NONE, data: [0; 8].into() };
    b.m.versions().push_logged(&t, RM, 9, b"k", former);
    drop((p, credit));
    let first = Lsn(t.id().0);
    let FoundVersion::Demoted(hold) = find(&|w| w.is_none()) else { panic!("it was left to the log") };
    assert_eq!(hold.from(), first);
    b.rollback(&t);
    b.m.log().force(b.m.log().tail(), ForceReason::Asked).unwrap();
    b.m.collect();
    assert_eq!(b.m.versions().pin(), Some(first), "the log is looked at");
    b.m.cut_log(b.m.log().durable()).unwrap();
    assert!(b.m.log().oldest() <= first && b.m.log().read(first).is_ok());
    assert!(matches!(find(&|_| false), FoundVersion::Absent), "nobody is listed any more");
    drop(hold);
    assert_eq!(b.m.versions().pin(), None);
}
