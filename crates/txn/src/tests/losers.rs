//! Losers of recovery in a manager that knows nothing else of them, as after a restart.
use super::bench::*;
use crate::*;
use hamal_page::*;

/// T11: an id that nobody knows counts as settled; a loser is known from the moment it is adopted, whatever the floor, and its
/// rows are locked until its End.
#[test]
fn a_loser_nobody_knew_is_active_once_adopted() {
    let b = Bench::new();
    let t = b.begin();
    b.set(&t, 0, 1, 5).unwrap();
    let id = t.id();
    b.commit(&t).ticket.wait().unwrap();
    b.m.log().force(b.m.log().tail(), hamal_trace::ForceReason::Asked).unwrap();
    b.m.collect();
    assert!(b.m.settled(id) && b.m.status(id) == Status::Settled, "forgotten, and below the floor");
    let loser = b.m.adopt(AttEntry { txn: id, last: Lsn(id.0), undo_next: Lsn::NULL, undo_reserve: 0 });
    b.m.start_at(b.m.log().durable());
    b.m.collect();
    let writer = b.begin();
    assert_eq!(b.m.status(id), Status::Active);
    assert!(!b.m.settled(id) && !b.m.visible(id, &View { snapshot: Lsn::MAX, own: TxnId::NONE }));
    assert!(b.m.check_write(&writer, id).is_err());
    b.rollback(&writer);
    b.m.end_rolled_back(&loser).unwrap();
    assert!(b.m.settled(id));
}
