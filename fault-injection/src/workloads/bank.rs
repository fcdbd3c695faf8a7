//! Money moves between accounts; the sum never changes.
//!
//! The accounts are rows of tree 0, all opened by one transaction with [`TOTAL`] in all. A transfer takes from one and gives to
//! another in one transaction; several are open at once, and some are rolled back, or half of one is. Some write a line into
//! the journal, tree 1, as well. Where a half of a transfer survived, the sum would tell.
use super::Script;
use crate::engine::Config;
use crate::model::{Contents, number};
use crate::op::{Op, Txn};
use crate::workload::Workload;

/// What all accounts hold together.
pub const TOTAL: i64 = 10_000;
/// What most accounts are opened with; one gets the rest.
const OPENING: i32 = 300;

/// The workload `bank`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bank;

impl Workload for Bank {
    fn name(&self) -> &str {
        "bank"
    }
    fn config(&self, seed: u64) -> Config {
        Config { pad: if seed % 8 == 5 { 4096 } else { 512 }, ..Config::default() }
    }

    fn operations(&self, seed: u64, length: usize) -> Vec<Op> {
        let mut s = Script::new(seed, 0xBA2C);
        let accounts = s.between(3, if length < 40 { 4 } else { 16 });
        let journal = s.percent(50);
        s.begin(0);
        s.push(Op::CreateTree { txn: 0, tree: 0 });
        if journal {
            s.push(Op::CreateTree { txn: 0, tree: 1 });
        }
        for key in 1..accounts {
            s.push(Op::Add { txn: 0, tree: 0, key, delta: OPENING });
        }
        let rest = TOTAL as i32 - OPENING * (accounts as i32 - 1);
        s.push(Op::Add { txn: 0, tree: 0, key: 0, delta: rest });
        s.commit(0);

        let tellers = s.between(1, 4) as usize;
        let mut work: Vec<Vec<Op>> = vec![Vec::new(); tellers];
        let mut line = 0;
        while s.ops.len() < length {
            if s.percent(14) {
                if s.percent(90) {
                    s.maintenance();
                }
                if s.ops.last() == Some(&Op::Reopen) {
                    work.iter_mut().for_each(Vec::clear);
                }
                continue;
            }
            let teller = s.random.below(tellers as u64) as usize;
            if work[teller].is_empty() {
                line += 1;
                let mut one = Script::new(s.random.next(), 1);
                transfer(&mut one, teller as Txn, accounts, journal.then_some(line));
                // Taken from the end.
                one.ops.reverse();
                work[teller] = one.ops;
            }
            if let Some(op) = work[teller].pop() {
                s.push(op);
            }
        }
        s.ops
    }

    fn invariant(&self, contents: &Contents) -> Option<String> {
        let rows = contents.trees.get(&0)?;
        let sum = rows.values().fold(0i64, |sum, v| sum.wrapping_add(number(v)));
        if sum == TOTAL {
            return None;
        }
        Some(format!(
            "the {} accounts hold {sum} together, not {TOTAL}: a part of a transfer is missing",
            rows.len()
        ))
    }
}

/// One transfer, from its begin to its end.
fn transfer(s: &mut Script, txn: Txn, accounts: u32, line: Option<u32>) {
    let (from, delta) = (s.between(0, accounts - 1), s.between(1, 99) as i32);
    let to = (from + s.between(1, accounts - 1)) % accounts;
    let take = Op::Add { txn, tree: 0, key: from, delta: -delta };
    let give = Op::Add { txn, tree: 0, key: to, delta };
    s.begin(txn);
    if s.percent(25) {
        // Half of another transfer, thought better of.
        let half = Op::Add { txn, tree: 0, key: to, delta: -7 };
        s.ops.extend([Op::Savepoint { txn, name: 0 }, half, Op::RollbackTo { txn, name: 0 }]);
    }
    if s.percent(50) {
        s.ops.extend([take, give])
    } else {
        s.ops.extend([give, take])
    }
    if let Some(line) = line {
        let fill = s.random.next() as u8;
        let len = s.between(50, 400);
        s.push(Op::Put { txn, tree: 1, key: line, len, fill });
    }
    s.end(txn);
}
