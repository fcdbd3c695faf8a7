//! The contract of resource managers, and what happens when one breaks it.
use super::bench::*;
use crate::*;
use hamal_error::ErrorKind;
use hamal_page::*;

fn poisoned_by(bad: Bad) -> String {
    let b = Bench::new();
    let other = b.begin();
    let t = b.begin();
    b.set(&t, 0, 1, 5).unwrap();
    *b.rm.bad.lock() = Some(bad);
    let op = t.enter().unwrap();
    let e = b.m.rollback(&t).unwrap_err();
    drop(op);
    assert_eq!(e.kind(), ErrorKind::Poisoned);
    // Every call fails from now on.
    assert_eq!(b.m.begin().unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(b.m.snapshot().unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(other.enter().unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(b.m.commit(&other).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(b.m.rollback(&t).unwrap_err().kind(), ErrorKind::Poisoned);
    assert_eq!(b.m.undo_step(&t).unwrap_err().kind(), ErrorKind::Poisoned);
    e.to_string()
}

#[test]
fn an_undo_that_fails_stops_the_engine() {
    assert!(poisoned_by(Bad::Error).contains("cannot be rolled back"));
}

#[test]
fn an_undo_that_panics_stops_the_engine() {
    assert!(poisoned_by(Bad::Panic).contains("panicked: as asked"));
}

#[test]
fn an_undo_that_logs_behind_its_clr_stops_the_engine() {
    assert!(poisoned_by(Bad::AfterClr).contains("after its CLR"));
}

#[test]
fn an_undo_that_logs_an_undoable_change_stops_the_engine() {
    assert!(poisoned_by(Bad::UpdateInside).contains("undone"));
}

/// TXN-PARTS: an undo in parts comes to an end: fewer are left each time, and some.
#[test]
fn an_undo_in_parts_that_does_not_get_on_stops_the_engine() {
    for (steps, left, fails) in [(0, 0, true), (0, 1, false), (1, 6, true), (1, 7, true), (1, 5, false)] {
        let b = Bench::new();
        let t = b.begin();
        b.set_many(&t, 0, &(0..7).map(|n| (n, n)).collect::<Vec<_>>()).unwrap();
        for _ in 0..steps {
            assert!(!b.m.undo_step(&t).unwrap().is_null());
        }
        *b.rm.bad.lock() = Some(Bad::Left(left));
        match b.m.undo_step(&t) {
            Ok(next) => assert!(!fails && !next.is_null(), "{steps} {left}"),
            Err(e) => {
                assert!(fails, "{steps} {left}: {e}");
                assert!(format!("{e:?}").contains("TXN-PARTS"), "{e:?}");
                assert_eq!(b.m.begin().unwrap_err().kind(), ErrorKind::Poisoned);
            }
        }
    }
}

/// Numbers of parts as CLRs carry them; whatever else undo bytes may be is refused.
#[test]
fn numbers_of_parts() {
    for left in [1, 2, 127, 128, 300, 1 << 20, u64::MAX] {
        let (bytes, n) = rm::left_bytes(left);
        assert_eq!(parts_left(&bytes[..n]), Some(left));
        assert_eq!(parts_left(&bytes[..n - 1]), if n == 1 { Some(0) } else { None });
        assert_eq!(parts_left(&[&bytes[..n], &[0]].concat()), None);
    }
    assert_eq!(rm::left_bytes(0).1, 0);
    for bad in [&[0][..], &[0x80], &[0x80, 0], &[0xff; 10], &[0xff; 11], &[1, 1]] {
        assert_eq!(parts_left(bad), None, "{bad:?}");
    }
}

#[test]
fn losers_are_active_until_their_end() {
    let b = Bench::new();
    let t = b.begin();
    b.set(&t, 0, 1, 5).unwrap();
    let att = b.m.att();
    assert_eq!(att.len(), 1);
    assert!(att[0].undo_reserve >= 250);
    // As after a restart: everything durable is settled, except the loser.
    b.m.unlist(&t);
    let id = t.id();
    b.m.log().force(b.m.log().tail(), hamal_trace::ForceReason::Asked).unwrap();
    b.m.collect();
    let loser = b.m.adopt(att[0]);
    b.m.start_at(b.m.log().durable());
    assert_eq!(b.m.status(id), Status::Active);
    assert!(!b.m.settled(id) && !b.m.visible(id, &View { snapshot: Lsn::MAX, own: TxnId::NONE }));
    assert_eq!(b.m.att()[0].undo_reserve, att[0].undo_reserve);
    b.m.collect();
    assert!(!b.m.settled(id));
    while !b.m.undo_step(&loser).unwrap().is_null() {}
    assert!(!b.m.settled(id), "not before End");
    b.m.end_rolled_back(&loser).unwrap();
    assert!(b.m.settled(id));
    assert_eq!(b.raw(0, 1), (TxnId::NONE, 0));
    assert!(b.m.att().is_empty());
}

#[test]
fn end_needs_a_complete_undo() {
    let b = Bench::new();
    let t = b.begin();
    b.set(&t, 0, 1, 5).unwrap();
    assert_eq!(b.m.end_rolled_back(&t).unwrap_err().kind(), ErrorKind::Internal);
    b.rollback(&t);
}

#[test]
fn managers_are_found_by_name() {
    let b = Bench::new();
    assert_eq!(b.m.manager_named("cells").unwrap().0, RM);
    assert!(b.m.manager_named("none").is_none());
}

#[test]
fn rollback_waits_for_space_and_goes_on() {
    let b = Bench::new();
    let n = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|s| {
        let waiting = s.spawn(|| {
            b.m.until_space(|| match n.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
                0..3 => Err(hamal_error::Error::new(ErrorKind::NoSpace, "full")),
                _ => Ok(b.m.stats().rollbacks_waiting_for_space),
            })
        });
        assert_eq!(waiting.join().unwrap().unwrap(), 1);
    });
    assert_eq!(b.m.stats().rollbacks_waiting_for_space, 0);
    b.m.log().poison(hamal_error::Error::internal("stop"));
    let e = b.m.until_space(|| Err::<(), _>(hamal_error::Error::new(ErrorKind::NoSpace, "full")));
    assert_eq!(e.unwrap_err().kind(), ErrorKind::Poisoned);
}
