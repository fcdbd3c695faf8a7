//! The profile `wide` of the model B-tree: more pages than the cache has frames, each changed by a transaction of its own.
//!
//! Pages become dirty one by one until no more may be (`BUF-CAP`): then they are written in the middle of what comes next.
//! As most transactions here are taken back, that is a rollback: its abort record is forced to the log, and nothing after it
//! yet. And a crash leaves more pages to redo than there are frames, so recovery writes pages to make room.
use super::Script;
use crate::op::{Op, Txn};

pub(super) fn wide(mut s: Script) -> Vec<Op> {
    if s.percent(30) {
        return torn_run(s);
    }
    // Every tree has a page of its own. With those that trees share they are more than the smallest cache has frames.
    let trees = s.between(25, 28) as u8;
    s.begin(0);
    for tree in 0..trees {
        s.push(Op::CreateTree { txn: 0, tree });
    }
    s.commit(0);
    if s.percent(50) {
        s.ops.extend([Op::Flush, Op::Checkpoint]);
    }
    // One transaction stays open: the others are rolled back beside a loser.
    let elder = s.percent(50);
    if elder {
        s.begin(2);
        put(&mut s, 2, 0);
    }
    for tree in 1..trees {
        s.begin(1);
        put(&mut s, 1, tree);
        if s.percent(90) { s.push(Op::Rollback { txn: 1 }) } else { s.commit_early(1) }
    }
    if elder && s.percent(50) {
        s.end(2);
    }
    s.ops
}

/// A run of small rows, by one record, between which another transaction puts large ones: each comes to lie in a leaf of its own, and
/// the leaves are more than there are frames. So pages are written in the middle of the undo of one record, and the log with them.
fn torn_run(mut s: Script) -> Vec<Op> {
    let rows = s.between(26, 36);
    s.begin(0);
    s.push(Op::CreateTree { txn: 0, tree: 0 });
    s.commit(0);
    s.begin(1);
    let fill = s.random.next() as u8;
    s.push(Op::Load { txn: 1, tree: 0, key: 8, count: rows, step: 8, len: 20, fill });
    for part in 0..rows {
        if part % 9 == 0 {
            s.begin(2);
        }
        s.push(Op::Load { txn: 2, tree: 0, key: 8 * part + 9, count: 6, step: 1, len: 900, fill });
        if part % 9 == 8 || part + 1 == rows {
            s.commit(2);
        }
    }
    if s.percent(50) {
        s.push(Op::Checkpoint);
    }
    if s.percent(60) {
        s.push(Op::Rollback { txn: 1 });
    }
    // Whatever the log holds becomes durable, and in the other case there is a loser.
    s.begin(2);
    put(&mut s, 2, 0);
    s.commit(2);
    s.ops
}

fn put(s: &mut Script, txn: Txn, tree: u8) {
    let (len, fill) = (s.between(10, 60), s.random.next() as u8);
    s.push(Op::Put { txn, tree, key: tree.into(), len, fill });
}
