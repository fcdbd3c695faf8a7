//! Additions to counters, for an engine on which they commute (`Pages`): several open transactions add
//! to the same counters, and each takes back only what it added itself.
//!
//! On an engine with rows ([`Hamal`](crate::engines::Hamal)) the same scenarios run too; there most of the additions that meet
//! are refused.
use super::Script;
use crate::engine::Config;
use crate::engines::Pages;
use crate::op::{Ack, Op, Txn};
use crate::workload::Workload;

/// The workload `counters`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters;

impl Workload for Counters {
    fn name(&self) -> &str {
        "counters"
    }
    fn config(&self, seed: u64) -> Config {
        Config { pad: if seed % 8 == 3 { 4096 } else { 512 }, ..Config::default() }
    }

    fn operations(&self, seed: u64, length: usize) -> Vec<Op> {
        let mut s = Script::new(seed, 0xC027);
        if s.percent(35) {
            // The array is made with some pages and goes again: all at once, or to a savepoint before it.
            let back = s.percent(50);
            s.begin(0);
            s.push(Op::Savepoint { txn: 0, name: 7 });
            s.push(Op::CreateTree { txn: 0, tree: 0 });
            for _ in 0..s.between(0, 4) {
                add(&mut s, 0);
            }
            if s.percent(40) {
                s.push(Op::Checkpoint);
            }
            s.push(if back { Op::RollbackTo { txn: 0, name: 7 } } else { Op::Rollback { txn: 0 } });
            if !back {
                s.begin(0);
            }
        } else {
            s.begin(0);
        }
        s.push(Op::CreateTree { txn: 0, tree: 0 });
        for _ in 0..s.between(0, 3) {
            add(&mut s, 0);
        }
        s.commit(0);

        let most = if length < 15 { 2 } else { s.between(2, 5) as usize };
        // Savepoints of each open transaction.
        let mut open: Vec<Option<u8>> = vec![None; most];
        while s.ops.len() < length {
            if s.percent(12) {
                s.maintenance();
                if s.ops.last() == Some(&Op::Reopen) {
                    open.fill(None);
                }
                continue;
            }
            let slot = s.random.below(most as u64) as usize;
            let txn = slot as Txn;
            match (open[slot], s.random.below(20)) {
                (None, _) => {
                    s.begin(txn);
                    open[slot] = Some(0);
                }
                (Some(_), 0..=2) => {
                    s.end(txn);
                    open[slot] = None;
                }
                (Some(_), 3) => {
                    s.push(Op::Rollback { txn });
                    open[slot] = None;
                }
                (Some(n), 4 | 5) if n < 3 => {
                    s.push(Op::Savepoint { txn, name: n });
                    open[slot] = Some(n + 1);
                }
                (Some(n), 6 | 7) if n > 0 => {
                    let name = s.random.below(u64::from(n)) as u8;
                    s.push(Op::RollbackTo { txn, name });
                    open[slot] = Some(name + 1);
                }
                _ => add(&mut s, txn),
            }
        }
        s.ops
    }

    /// The array may be there or not: making it is refused then, and what follows works either way.
    fn afterwards(&self) -> Vec<Op> {
        let add = |txn, key, delta| Op::Add { txn, tree: 0, key, delta };
        vec![
            Op::Begin { txn: 200 },
            Op::CreateTree { txn: 200, tree: 0 },
            Op::Commit { txn: 200, ack: Ack::Durable },
            Op::Begin { txn: 201 },
            Op::Begin { txn: 202 },
            add(201, 1, 11),
            add(202, 1, 500),
            add(201, Pages::KEYS - 1, -3),
            Op::Rollback { txn: 202 },
            Op::Checkpoint,
            Op::Commit { txn: 201, ack: Ack::Durable },
            Op::Begin { txn: 203 },
            add(203, 1, -11),
            add(203, 70, 9),
        ]
    }
}

/// An addition: mostly to one of a few counters that everybody adds to, else to any page of the array; now and then to one that
/// there cannot be.
fn add(s: &mut Script, txn: Txn) {
    let key = match s.random.below(40) {
        0..=23 => s.between(0, 3),
        24..=38 => s.between(0, Pages::KEYS - 1),
        _ => Pages::KEYS + s.between(0, 3),
    };
    let delta = if s.percent(10) { 0 } else { s.between(0, 2000) as i32 - 1000 };
    s.push(Op::Add { txn, tree: 0, key, delta });
    // And back to zero: the counter is still there.
    if s.percent(10) {
        s.push(Op::Add { txn, tree: 0, key, delta: -delta });
    }
}
