//! Any bytes as a program: operations, one crash, and what survives of it.
use super::Input;
use crate::engine::{Config, Engine};
use crate::engines::hamal::Hamal;
use crate::explore::check::{Oracles, Subject, afterwards, recover};
use crate::explore::replay::run_itself;
use crate::op::{Ack, Op};
use crate::run::{Ended, newborn, run};
use crate::sim::{Fates, Image, Persistence, Question};
use crate::workload::Workload;
use crate::workloads::BTree;
use std::sync::OnceLock;

const MOST_OPS: usize = 80;

/// Runs a program on the simulated disk, crashes it at a point of the input's choice, lets each undecided sector, length and name
/// survive or not as the input says, recovers, and lets all oracles judge.
pub fn program(data: &[u8]) {
    let mut input = Input::new(data);
    let how = input.u8();
    let model = [Persistence::Posix, Persistence::Hostile, Persistence::Ordered][usize::from(how) % 3];
    let config = Config { pad: if how & 64 != 0 { 4096 } else { 512 }, ..Config::default() };
    let point = usize::from(input.u16());
    let mut fates = Answers { bytes: Vec::new(), at: 0, prefix: model == Persistence::Ordered };
    let n = usize::from(input.u8());
    fates.bytes = input.bytes(n).to_vec();
    let mut ops = Vec::new();
    while !input.is_empty() && ops.len() < MOST_OPS {
        ops.push(op(&mut input));
    }
    let engine = Hamal::new();
    let start = born(&engine, &config, model);
    let run = run(&engine, &config, model, Some(start), &ops, &|_| {});
    let told = || {
        let ops: Vec<String> = ops.iter().map(Op::to_string).collect();
        format!("model {model} pad {}\n{}", config.pad, ops.join("\n"))
    };
    if let Some(finding) = run_itself(&run) {
        panic!("{:?}\n{}", finding.violation, told());
    }
    if let Ended::Dead(i, f) = &run.ended {
        panic!("operation {i} fails without any error of the disk: {f}\n{}", told());
    }
    let point = point % (run.disk.points() + 1);
    let image = run.disk.image(point);
    let allowed = &run.allowed(point).allowed;
    let subject = Subject { engine: &engine, config: &config, workload: None, oracles: Oracles::ALL };
    let done = recover(subject, &image, Box::new(fates), allowed);
    let wrong =
        done.violation.clone().or_else(|| afterwards(subject, &image, &done, allowed, &BTree.afterwards()));
    if let Some(wrong) = wrong {
        panic!("{wrong:?}\nafter a crash before change {point}, answers {:?}\n{}", done.asked, told());
    }
}

/// The database that programs start with.
fn born(engine: &dyn Engine, config: &Config, model: Persistence) -> &'static Image {
    static MADE: [OnceLock<Image>; 6] = [const { OnceLock::new() }; 6];
    let n = 2 * (model as usize) + usize::from(config.pad != 512);
    MADE[n].get_or_init(|| newborn(engine, config, model).unwrap_or_else(|f| panic!("a new database: {f}")))
}

/// Answers from the input; where it ends, from its start again.
struct Answers {
    bytes: Vec<u8>,
    at: usize,
    /// Everything survives: under `Ordered` the answers are not independent.
    prefix: bool,
}

impl Fates for Answers {
    fn decide(&mut self, _: Question, options: u8) -> u8 {
        let byte = self.bytes.get(self.at % self.bytes.len().max(1));
        self.at += 1;
        match byte {
            Some(b) if !self.prefix => b % options,
            _ => options - 1,
        }
    }
}

fn op(input: &mut Input<'_>) -> Op {
    let what = input.u8();
    let txn = (what >> 4) % 3;
    let tree = what >> 6;
    match what % 16 {
        0 | 1 => Op::Begin { txn },
        2 => Op::Commit { txn, ack: Ack::Durable },
        3 => Op::Commit { txn, ack: Ack::Early },
        4 => Op::Rollback { txn },
        5 => Op::Savepoint { txn, name: input.u8() % 3 },
        6 => Op::RollbackTo { txn, name: input.u8() % 3 },
        7 => Op::CreateTree { txn, tree },
        8 => match input.u8() % 5 {
            0 => Op::DropTree { txn, tree },
            1 => Op::Checkpoint,
            2 => Op::Flush,
            3 => Op::Compact,
            _ => Op::Reopen,
        },
        9 => Op::Step,
        10 | 11 => Op::Delete { txn, tree, key: u32::from(input.u8()) },
        12 => Op::Add { txn, tree, key: u32::from(input.u8()), delta: i32::from(input.u8()) - 100 },
        13 => {
            let (key, shape) = (u32::from(input.u8()), input.u8());
            // Neighbours, or every fourth key; some leaves full, or a part of one.
            let (count, step) = (u32::from(shape % 16) + 1, [1, 2, 4, 7][usize::from(shape >> 4) % 4]);
            Op::Load { txn, tree, key, count, step, len: u32::from(shape >> 6) * 220 + 10, fill: what }
        }
        _ => {
            let (key, len, fill) = (u32::from(input.u8()), u32::from(input.u8()), what);
            // Mostly small; some fill half a page, some need pages of their own.
            let len = if len < 200 { len * 4 } else { (len - 199) * 170 };
            Op::Put { txn, tree, key, len, fill }
        }
    }
}
