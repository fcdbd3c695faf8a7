//! What the engine refuses to do to a page: undo over a row that somebody else wrote, changes by a foreign manager.
mod common;

use common::{Config, create};
use hamal_btree::BTREE_RM;
use hamal_buffer::PageEdit;
use hamal_error::ErrorKind;
use hamal_log::Whole;
use hamal_space::SPACE_RM;

/// T11: the record under undo must be the transaction's own; anything else stops the engine, and the next open undoes
/// again.
#[test]
fn undo_of_a_row_that_another_wrote_stops_the_engine() {
    let db = create(&Config::default());
    let tree = db.tree(16);
    let t = db.begin();
    db.put(&t, tree, b"k", b"v0").unwrap();
    db.commit(&t);
    let t1 = db.begin();
    db.put(&t1, tree, b"k", b"v1").unwrap();
    {
        // What no engine logs: the word of another writer, by a RESTORE of slot 0 that leaves the value.
        let pool = db.txns.pool();
        let mut credit = pool.credit(500, 0, 1, false).unwrap();
        let mut page = pool.exclusive(tree.root).unwrap();
        let payload = [&[0][..], &77u64.to_le_bytes(), &[0]].concat();
        let edit = PageEdit { page: &mut page, op: 5, whole: Whole::No, payload: &payload };
        db.txns.structure(None, BTREE_RM, &mut [edit], &mut credit).unwrap();
    }
    let _op = t1.enter().unwrap();
    let e = db.txns.rollback(&t1).unwrap_err();
    assert!(e.to_string().contains("rolled back"), "{e}");
    assert_eq!(db.txns.begin().unwrap_err().kind(), ErrorKind::Poisoned);
}

/// T37: a record of one manager cannot change a page of another, whatever it says; nothing is logged.
#[test]
fn a_record_of_one_manager_cannot_change_a_page_of_another() {
    let db = create(&Config::default());
    let tree = db.tree(16);
    let t = db.begin();
    db.put(&t, tree, b"k", b"v0").unwrap();
    db.commit(&t);
    let pool = db.txns.pool();
    let mut credit = pool.credit(500, 0, 1, false).unwrap();
    let mut page = pool.exclusive(tree.root).unwrap();
    let (tail, before) = (db.log.tail(), page.to_vec());
    // Good bytes for a RESTORE, under the number of the space maps' manager.
    let payload = [&[0][..], &77u64.to_le_bytes(), &[0]].concat();
    let edit = PageEdit { page: &mut page, op: 5, whole: Whole::No, payload: &payload };
    let e = db.txns.structure(None, SPACE_RM, &mut [edit], &mut credit).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Internal, "{e}");
    assert_eq!(*page, before[..]);
    drop((page, credit));
    assert_eq!(db.log.tail(), tail);
    db.txns.begin().unwrap();
}
