//! The model B-tree: trees, rows of every size, savepoints, several transactions at once.
//!
//! A seed has a *profile*, by its remainder modulo 8:
//!
//! | remainder | profile | what it is for |
//! |---|---|---|
//! | 0, 1 | tiny | every sequence of one, then two, then three short actions on a small table: most crash bugs need no more |
//! | 2, 3 | small | a third of the length, mixed |
//! | 4 to 6 | medium | the whole length, in phases: growing, shrinking, rewriting, long values |
//! | 12 modulo 32 | medium, far | the same, and the trees but the first lie behind a second space map, which comes and goes with them |
//! | 7 | volume | long values and checkpoints, so that the log fills segments and uses them again |
//! | 7, every other one, with a length of 24 or more | wide | more changed pages than the cache holds: `wide.rs` |
//!
//! With a length below 12 every seed is tiny.
use super::{Script, wide};
use crate::engine::Config;
use crate::op::{Op, TreeNo, Txn};
use crate::workload::Workload;

/// The workload `btree`.
#[derive(Clone, Copy, Debug, Default)]
pub struct BTree;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Profile {
    /// Number of the sequence of actions.
    Tiny(u64),
    Small,
    Medium,
    Volume,
    Wide,
}

fn profile(seed: u64, length: usize) -> Profile {
    match seed % 8 {
        _ if length < 12 => Profile::Tiny(seed),
        r @ 0..=1 => Profile::Tiny(seed / 8 * 2 + r),
        2 | 3 => Profile::Small,
        4..=6 => Profile::Medium,
        _ if seed / 8 % 2 == 1 && length >= 24 => Profile::Wide,
        _ => Profile::Volume,
    }
}

impl Workload for BTree {
    fn name(&self) -> &str {
        "btree"
    }

    fn config(&self, seed: u64) -> Config {
        // Most seeds are as small as can be; some have the other pad, some have larger pages.
        let pad = if seed % 16 == 10 { 4096 } else { 512 };
        let page_size = if seed % 32 == 13 { 8192 } else { 4096 };
        // And some have no images, on a disk that writes pages as a whole.
        // Where more pages than the cache holds belong to one transaction, the log keeps what their undo may need.
        let log_bytes = if seed % 16 == 15 { 2 << 20 } else { 0 };
        // Or log writes that are durable by themselves.
        let dsync = seed % 16 == 12;
        Config { page_size, pad, images: seed % 16 != 6, dsync, log_bytes, ..Config::default() }
    }

    fn operations(&self, seed: u64, length: usize) -> Vec<Op> {
        let script = Script::new(seed, 0xB7EE);
        match profile(seed, length) {
            Profile::Tiny(number) => tiny(script, number),
            Profile::Small => Mixed::new(script, 3, 2).run((length / 3).max(12)),
            Profile::Medium if seed % 32 == 12 => far(Mixed::new(script, 4, 4).run(length)),
            Profile::Medium => Mixed::new(script, 4, 4).run(length),
            Profile::Volume => volume(script, length),
            Profile::Wide => wide::wide(script),
        }
    }
}

/// More pages than a space map of the smallest page size speaks of.
const FAR: u32 = 32_300;

/// The same scenario with all trees but the first behind the second space map, and the file made smaller now and then.
fn far(mut ops: Vec<Op>) -> Vec<Op> {
    let mut steps = 0;
    for op in &mut ops {
        match *op {
            Op::CreateTree { txn, tree } if tree > 0 => *op = Op::CreateFar { txn, tree, pages: FAR },
            Op::Step => {
                steps += 1;
                if steps % 2 == 0 {
                    *op = Op::Compact;
                }
            }
            _ => {}
        }
    }
    ops
}

/// The small scenarios of `btree` alone, all with the same set-up: what a campaign does in a second is measured by these.
#[derive(Clone, Copy, Debug, Default)]
pub struct Small;

impl Workload for Small {
    fn name(&self) -> &str {
        BTree.name()
    }

    fn config(&self, _: u64) -> Config {
        Config::default()
    }

    fn operations(&self, seed: u64, _: usize) -> Vec<Op> {
        tiny(Script::new(seed, 0xB7EE), seed)
    }
}

// ---- tiny ----

/// Short actions on tree 0, of which a tiny scenario has one to three.
const ACTIONS: u64 = 22;

fn tiny(mut s: Script, number: u64) -> Vec<Op> {
    let rows = s.between(0, 4);
    s.begin(0);
    s.push(Op::CreateTree { txn: 0, tree: 0 });
    for key in 0..rows {
        s.push(Op::Put { txn: 0, tree: 0, key, len: 20 + 60 * key, fill: key as u8 });
    }
    s.commit(0);
    if s.percent(40) {
        s.push(Op::Checkpoint);
    }
    // All sequences of one action, then all of two, then all of three, over and over.
    let two = ACTIONS * ACTIONS;
    let three = two * ACTIONS;
    let number = number % (ACTIONS + two + three);
    let (count, mut rest) = match number {
        n if n < ACTIONS => (1, n),
        n if n < ACTIONS + two => (2, n - ACTIONS),
        n => (3, n - ACTIONS - two),
    };
    for i in 0..count {
        action(&mut s, rest % ACTIONS, 1 + i, u32::from(i));
        rest /= ACTIONS;
    }
    s.ops
}

/// Action `what` by transaction `txn`, on keys of its own (and key 0, which all share).
fn action(s: &mut Script, what: u64, txn: Txn, own: u32) {
    let fill = 0x40 + txn;
    let put = |key, len| Op::Put { txn, tree: 0, key, len, fill };
    let load = |txn, key, count, step, len| Op::Load { txn, tree: 0, key, count, step, len, fill };
    let key = 10 + own;
    match what {
        0 => s.ops.extend([Op::Begin { txn }, put(key, 100)]),
        1 => s.ops.extend([Op::Begin { txn }, put(0, 70)]),
        2 => s.ops.extend([Op::Begin { txn }, Op::Delete { txn, tree: 0, key: own }]),
        3 => s.ops.extend([Op::Begin { txn }, put(key, 6000)]),
        4 => s.ops.extend([Op::Begin { txn }, put(key, 1000), put(key + 20, 1000), put(key + 40, 1000)]),
        5 => s.ops.extend([Op::Begin { txn }, put(key, 30), put(0, 900), Op::Rollback { txn }]),
        6 => s.ops.extend([
            Op::Begin { txn },
            put(key, 40),
            Op::Savepoint { txn, name: 1 },
            put(0, 500),
            Op::RollbackTo { txn, name: 1 },
        ]),
        7 => s.push(Op::Checkpoint),
        8 => s.push(Op::Flush),
        9 => s.push(Op::Step),
        10 => s.push(Op::Reopen),
        11 => s.ops.extend([Op::Begin { txn }, Op::DropTree { txn, tree: 0 }]),
        12 => s.ops.extend([
            Op::Begin { txn },
            Op::CreateTree { txn, tree: txn },
            Op::Put { txn, tree: txn, key, len: 50, fill },
        ]),
        13 => s.ops.extend([Op::Begin { txn }, Op::CreateTree { txn, tree: txn }, Op::Rollback { txn }]),
        // The transaction stays open over what comes next.
        14 => s.ops.extend([Op::Begin { txn }, put(key, 200), put(0, 0)]),
        15 => s.ops.extend([Op::Begin { txn }, put(key, 4500), Op::Checkpoint]),
        16 => {
            s.ops.extend([Op::Begin { txn }, put(key, 60)]);
            s.commit_early(txn);
        }
        // A run of rows, over more than a leaf.
        18 => s.ops.extend([Op::Begin { txn }, load(txn, 40 + own, 9, 4, 500)]),
        // A run, and rows of another transaction between its rows, until they are in several leaves: open, rolled back, or given up
        // to a savepoint.
        19..=21 => {
            let other = txn + 20;
            s.push(Op::Begin { txn });
            if what == 21 {
                s.ops.extend([put(key, 20), Op::Savepoint { txn, name: 1 }]);
            }
            s.ops.extend([load(txn, 100 + own, 6, 8, 60), Op::Begin { txn: other }]);
            s.push(load(other, 121 + own, 5, 1, 800));
            s.commit(other);
            match what {
                20 => s.push(Op::Rollback { txn }),
                21 => s.push(Op::RollbackTo { txn, name: 1 }),
                _ => {}
            }
        }
        _ => {
            s.ops.extend([Op::Begin { txn }, Op::Delete { txn, tree: 0, key: 0 }, Op::Flush, Op::Checkpoint])
        }
    }
    if matches!(what, 0..=4 | 6 | 11 | 12 | 17 | 18 | 21) {
        s.commit(txn);
    }
}

// ---- small and medium ----

/// What a phase mostly does.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Ascending keys, rows of a third of a page.
    Grow,
    /// Keys all over the tree.
    Scatter,
    /// A few keys, values that grow and shrink.
    Hot,
    /// Values of some pages.
    Long,
    /// Neighbouring keys go.
    Shrink,
    /// Trees come and go.
    Trees,
}

const PHASES: [Phase; 6] =
    [Phase::Grow, Phase::Scatter, Phase::Hot, Phase::Long, Phase::Shrink, Phase::Trees];

/// Several transactions at once.
struct Mixed {
    s: Script,
    /// Savepoints of each open transaction.
    open: Vec<Option<u8>>,
    phases: usize,
    next: u32,
    /// Where shrinking goes on.
    gone: u32,
    tree: TreeNo,
}

impl Mixed {
    fn new(s: Script, phases: usize, transactions: usize) -> Mixed {
        Mixed { s, open: vec![None; transactions], phases, next: 0, gone: 0, tree: 0 }
    }

    fn run(mut self, length: usize) -> Vec<Op> {
        self.s.begin(0);
        self.s.push(Op::CreateTree { txn: 0, tree: 0 });
        if self.s.percent(50) {
            self.s.push(Op::CreateTree { txn: 0, tree: 1 });
        }
        self.s.commit(0);
        let part = (length / self.phases).max(4);
        let mut phase = Phase::Grow;
        while self.s.ops.len() < length {
            let until = (self.s.ops.len() + part).min(length);
            while self.s.ops.len() < until {
                if matches!(phase, Phase::Shrink) { self.shrink() } else { self.step(phase) }
            }
            // Rows come before they can go.
            phase = if matches!(phase, Phase::Grow) && self.s.percent(35) {
                Phase::Shrink
            } else {
                *self.s.random.pick(&PHASES)
            };
            self.tree = if self.s.percent(75) { 0 } else { 1 };
        }
        // Some scenarios end with open transactions: losers.
        if self.s.percent(60) {
            self.drain();
        }
        self.s.ops
    }

    /// Ends what is open.
    fn drain(&mut self) {
        for txn in 0..self.open.len() {
            if self.open[txn].take().is_some() {
                self.s.end(txn as Txn);
            }
        }
    }

    fn step(&mut self, phase: Phase) {
        if self.s.percent(12) {
            if self.s.percent(8) {
                self.open.fill(None);
                self.s.push(Op::Reopen);
            } else {
                let op = *self.s.random.pick(&[0, 0, 1, 2, 2]);
                self.s.push([Op::Checkpoint, Op::Flush, Op::Step][op].clone());
            }
            return;
        }
        let slot = self.s.random.below(self.open.len() as u64) as usize;
        let txn = slot as Txn;
        let Some(savepoints) = self.open[slot] else {
            // The more are open, the rarer another one begins.
            let live = self.open.iter().flatten().count() as u64;
            if live == 0 || self.s.percent(40 / live) {
                self.s.begin(txn);
                self.open[slot] = Some(0);
            }
            return;
        };
        match self.s.random.below(100) {
            0..=11 => {
                self.open[slot] = None;
                self.s.end(txn);
            }
            12..=16 if savepoints < 4 => {
                self.s.push(Op::Savepoint { txn, name: savepoints });
                self.open[slot] = Some(savepoints + 1);
            }
            17..=21 if savepoints > 0 => {
                let name = self.s.random.below(u64::from(savepoints)) as u8;
                self.s.push(Op::RollbackTo { txn, name });
                self.open[slot] = Some(name + 1);
            }
            22..=29 => {
                let key = self.key(slot, phase);
                self.s.push(Op::Delete { txn, tree: self.tree, key });
            }
            30..=33 => {
                // Numbers live in keys of their own, so that they are numbers.
                let (key, delta) = (900 + self.s.between(0, 5), self.s.between(0, 200) as i32 - 100);
                self.s.push(Op::Add { txn, tree: self.tree, key, delta });
            }
            34..=37 => self.trees(txn),
            34..=69 if matches!(phase, Phase::Trees) => self.trees(txn),
            38..=45 => self.load(slot, phase),
            _ => {
                let (key, len, fill) = (self.key(slot, phase), self.len(phase), self.s.random.next() as u8);
                let (tree, within) = (self.tree, self.s.percent(3));
                self.s.push(match within {
                    true => Op::PutWithin { txn, tree, key, len, fill },
                    false => Op::Put { txn, tree, key, len, fill },
                });
            }
        }
    }

    /// A run of rows in the transaction's lane: what others have loaded lies between them.
    fn load(&mut self, slot: usize, phase: Phase) {
        let key = self.key(slot, phase);
        let (count, len) = (self.s.between(2, 14), self.s.between(0, 300));
        if matches!(phase, Phase::Grow) {
            self.next += count;
        }
        let (tree, fill) = (self.tree, self.s.random.next() as u8);
        self.s.push(Op::Load { txn: slot as Txn, tree, key, count, step: 4, len, fill });
    }

    fn key(&mut self, slot: usize, phase: Phase) -> u32 {
        // Transactions mostly keep to keys of their own: conflicts end them early.
        let lane = if self.s.percent(88) { slot as u32 } else { self.s.between(0, 3) };
        let number = match phase {
            Phase::Grow => {
                self.next += 1;
                self.next
            }
            Phase::Hot => self.s.between(0, 1),
            _ => {
                let most = self.next.max(12);
                self.s.between(0, most)
            }
        };
        number * 4 + lane
    }

    fn len(&mut self, phase: Phase) -> u32 {
        match phase {
            Phase::Grow => self.s.between(500, 1000),
            Phase::Scatter | Phase::Trees | Phase::Shrink => self.s.between(0, 700),
            Phase::Hot => *self.s.random.pick(&[0, 1, 10, 100, 400, 900, 1010]),
            Phase::Long => match self.s.random.below(10) {
                0..=5 => self.s.between(1025, 4096),
                6..=8 => self.s.between(4096, 12_000),
                _ => self.s.between(12_000, 30_000),
            },
        }
    }

    fn trees(&mut self, txn: Txn) {
        let tree = self.s.random.below(3) as TreeNo + 1;
        match self.s.random.below(10) {
            0..=3 => self.s.push(Op::CreateTree { txn, tree }),
            4..=6 => self.s.push(Op::DropTree { txn, tree }),
            // And at once again, under the same name.
            7 => self.s.ops.extend([Op::DropTree { txn, tree }, Op::CreateTree { txn, tree }]),
            _ => {
                let (key, len, fill) =
                    (self.s.between(0, 40), self.s.between(0, 2000), self.s.random.next() as u8);
                self.s.push(Op::Put { txn, tree, key, len, fill });
            }
        }
    }

    /// Removes neighbours and has the pages tidied: nobody else may be looking.
    fn shrink(&mut self) {
        self.drain();
        let (tree, first) = (self.tree, self.gone);
        let keys = self.s.between(4, 7);
        self.s.begin(0);
        for key in first..first + keys {
            // Each in the lanes that it may have been put in.
            for lane in 0..self.open.len() as u32 {
                self.s.push(Op::Delete { txn: 0, tree, key: key * 4 + lane });
            }
        }
        self.gone += keys;
        if self.s.percent(85) {
            self.s.commit(0)
        } else {
            self.s.push(Op::Rollback { txn: 0 })
        }
        for _ in 0..self.s.between(1, 3) {
            self.s.push(Op::Step);
        }
    }
}

// ---- volume ----

fn volume(mut s: Script, length: usize) -> Vec<Op> {
    s.begin(0);
    s.push(Op::CreateTree { txn: 0, tree: 0 });
    s.commit(0);
    // One transaction that stays open over checkpoints: it holds the log.
    let mut elder = None;
    while s.ops.len() < length {
        let keys = 6;
        s.begin(1);
        for _ in 0..s.between(1, 3) {
            let (key, fill) = (s.between(0, keys), s.random.next() as u8);
            let len = if s.percent(80) { s.between(6000, 24_000) } else { s.between(100, 1000) };
            s.push(Op::Put { txn: 1, tree: 0, key, len, fill });
        }
        s.end(1);
        match s.random.below(10) {
            0 if elder.is_none() => {
                s.begin(2);
                let (key, fill) = (100 + s.between(0, 3), s.random.next() as u8);
                s.push(Op::Put { txn: 2, tree: 0, key, len: 300, fill });
                elder = Some(s.ops.len());
            }
            1..=3 => s.push(Op::Checkpoint),
            // Two in a row: the log is kept for the older slot of the control file too.
            4 => s.ops.extend([Op::Flush, Op::Checkpoint, Op::Checkpoint]),
            5 | 6 => s.push(Op::Step),
            7 if elder.is_some() => s.push(Op::Delete { txn: 2, tree: 0, key: 101 }),
            _ => {}
        }
        if elder.is_some_and(|at| s.ops.len() > at + 25) {
            elder = None;
            s.end(2);
        }
    }
    s.ops
}
