//! What a workload can ask of an engine: a small language, the same for every engine, in which scenarios are written.
//!
//! An operation is data, so that a scenario can be generated from a seed, replayed, made smaller and kept in a file. Its
//! text form is one line: [`Op`] prints itself and parses what it prints.
use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// The number by which a scenario names a transaction that is open. Several may be open at once.
pub type Txn = u8;
/// The number by which a scenario names a tree (a table, a key space): it is called `t0`, `t1`, ..
pub type TreeNo = u8;

/// When a commit is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ack {
    /// When it is durable.
    Durable,
    /// At once; a later durable commit, or [`Op::Step`], makes it durable.
    Early,
}

/// One operation of a scenario. The fields are numbers: transaction, tree, key (see [`key_bytes`]).
#[allow(missing_docs, reason = "the variants explain their fields")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Op {
    /// Begins transaction `txn`.
    Begin { txn: Txn },
    /// Sets savepoint `name` in it.
    Savepoint { txn: Txn, name: u8 },
    /// Rolls back to the savepoint; those set after it are gone.
    RollbackTo { txn: Txn, name: u8 },
    /// Commits it.
    Commit { txn: Txn, ack: Ack },
    /// Rolls all of it back.
    Rollback { txn: Txn },
    /// Creates a tree.
    CreateTree { txn: Txn, tree: TreeNo },
    /// The same while so many free pages are held, if the engine has such: what is made lies behind them. With as many as a space
    /// map speaks of it lies behind another one.
    CreateFar { txn: Txn, tree: TreeNo, pages: u32 },
    /// Drops a tree with everything in it.
    DropTree { txn: Txn, tree: TreeNo },
    /// Sets the value of `key`: `len` bytes made from `fill` (see [`value_bytes`]).
    Put { txn: Txn, tree: TreeNo, key: u32, len: u32, fill: u8 },
    /// The same while a checkpoint is taken: after its begin record and before its tables. Engines that cannot be stopped there just
    /// set the value.
    PutWithin { txn: Txn, tree: TreeNo, key: u32, len: u32, fill: u8 },
    /// Sets the values of `count` keys, in one ascending load, if the engine has such: from `key` on, each `step` above the one
    /// before. They have the same length, and each has a `fill` one above that of the one before.
    Load { txn: Txn, tree: TreeNo, key: u32, count: u32, step: u32, len: u32, fill: u8 },
    /// Removes `key`, if it is there.
    Delete { txn: Txn, tree: TreeNo, key: u32 },
    /// Adds `delta` to the number under `key` (eight bytes, little-endian; nothing there counts as 0).
    Add { txn: Txn, tree: TreeNo, key: u32, delta: i32 },
    /// Takes a checkpoint.
    Checkpoint,
    /// Writes every changed page.
    Flush,
    /// One step of background work.
    Step,
    /// Moves pages to the front of the data file and cuts it. Engines that cannot do that while they run do a step of background
    /// work.
    Compact,
    /// Closes the database properly and opens it again. Open transactions are rolled back first.
    Reopen,
    /// Opens snapshot `name`: a reader that stays.
    Snapshot { name: u8 },
    /// Reads everything through the snapshot: it must show the state of the moment at which it was opened.
    Look { name: u8 },
    /// Closes the snapshot.
    Release { name: u8 },
    /// Reads everything as the transaction sees it: the state in which it began, and its own changes.
    Read { txn: Txn },
    /// The process dies and another one opens the database. The power does not fail: what was written is there, synced or not.
    /// Also where an earlier operation killed the engine: the scenario goes on here.
    Kill,
    /// A second process tries to open the database. It must be refused, and must not have written.
    Rival,
    /// The device is full from here on: no file may grow.
    Full,
    /// It has room again.
    Room,
    /// The scenario proper begins: what is done before is not crashed.
    Here,
}

/// The bytes of key number `key`. Ascending numbers have ascending bytes; lengths differ.
pub fn key_bytes(key: u32) -> Vec<u8> {
    let mut bytes = format!("k{key:06}").into_bytes();
    // Some keys are longer, so that pages split in uneven places.
    bytes.extend(std::iter::repeat_n(b'.', (key % 5) as usize * 3));
    bytes
}

/// The value that `len` and `fill` stand for: every byte follows from them and from its position.
pub fn value_bytes(len: u32, fill: u8) -> Vec<u8> {
    (0..len).map(|i| fill ^ (i as u8).wrapping_mul(31) ^ ((i >> 8) as u8)).collect()
}

/// The name of tree number `tree`.
pub fn tree_name(tree: TreeNo) -> String {
    format!("t{tree}")
}

impl Op {
    /// What it means to the data: something may be done around it.
    pub fn change(&self) -> Cow<'_, Op> {
        match *self {
            Op::PutWithin { txn, tree, key, len, fill } => Cow::Owned(Op::Put { txn, tree, key, len, fill }),
            Op::CreateFar { txn, tree, .. } => Cow::Owned(Op::CreateTree { txn, tree }),
            _ => Cow::Borrowed(self),
        }
    }
    /// The rows of a load, each as an operation of its own; nothing for others.
    pub fn rows(&self) -> impl Iterator<Item = Op> + use<> {
        let (count, at): (u32, Box<dyn Fn(u32) -> Op>) = match *self {
            Op::Load { txn, tree, key, count, step, len, fill } => (
                count,
                Box::new(move |i| {
                    let key = key.saturating_add(i.saturating_mul(step.max(1)));
                    Op::Put { txn, tree, key, len, fill: fill.wrapping_add(i as u8) }
                }),
            ),
            _ => (0, Box::new(|_| Op::Step)),
        };
        (0..count).map(at)
    }
    /// The transaction that the operation belongs to.
    pub fn txn(&self) -> Option<Txn> {
        match *self {
            Op::Begin { txn }
            | Op::Savepoint { txn, .. }
            | Op::RollbackTo { txn, .. }
            | Op::Commit { txn, .. }
            | Op::Rollback { txn }
            | Op::CreateTree { txn, .. }
            | Op::CreateFar { txn, .. }
            | Op::DropTree { txn, .. }
            | Op::Put { txn, .. }
            | Op::PutWithin { txn, .. }
            | Op::Load { txn, .. }
            | Op::Delete { txn, .. }
            | Op::Read { txn }
            | Op::Add { txn, .. } => Some(txn),
            _ => None,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Op::Begin { txn } => write!(f, "begin {txn}"),
            Op::Savepoint { txn, name } => write!(f, "savepoint {txn} {name}"),
            Op::RollbackTo { txn, name } => write!(f, "rollback-to {txn} {name}"),
            Op::Commit { txn, ack: Ack::Durable } => write!(f, "commit {txn}"),
            Op::Commit { txn, ack: Ack::Early } => write!(f, "commit-early {txn}"),
            Op::Rollback { txn } => write!(f, "rollback {txn}"),
            Op::CreateTree { txn, tree } => write!(f, "create {txn} {tree}"),
            Op::CreateFar { txn, tree, pages } => write!(f, "create-far {txn} {tree} {pages}"),
            Op::DropTree { txn, tree } => write!(f, "drop {txn} {tree}"),
            Op::Put { txn, tree, key, len, fill } => write!(f, "put {txn} {tree} {key} {len} {fill}"),
            Op::PutWithin { txn, tree, key, len, fill } => {
                write!(f, "put-within {txn} {tree} {key} {len} {fill}")
            }
            Op::Load { txn, tree, key, count, step, len, fill } => {
                write!(f, "load {txn} {tree} {key} {count} {step} {len} {fill}")
            }
            Op::Delete { txn, tree, key } => write!(f, "delete {txn} {tree} {key}"),
            Op::Add { txn, tree, key, delta } => write!(f, "add {txn} {tree} {key} {delta}"),
            Op::Checkpoint => f.write_str("checkpoint"),
            Op::Flush => f.write_str("flush"),
            Op::Step => f.write_str("step"),
            Op::Compact => f.write_str("compact"),
            Op::Reopen => f.write_str("reopen"),
            Op::Snapshot { name } => write!(f, "snapshot {name}"),
            Op::Look { name } => write!(f, "look {name}"),
            Op::Release { name } => write!(f, "release {name}"),
            Op::Read { txn } => write!(f, "read {txn}"),
            Op::Kill => f.write_str("kill"),
            Op::Rival => f.write_str("rival"),
            Op::Full => f.write_str("full"),
            Op::Room => f.write_str("room"),
            Op::Here => f.write_str("here"),
        }
    }
}

impl FromStr for Op {
    type Err = String;

    fn from_str(line: &str) -> Result<Op, String> {
        let mut words = line.split_whitespace();
        let verb = words.next().ok_or("an operation is expected")?;
        let mut number = |what: &str| -> Result<i64, String> {
            let word = words.next().ok_or_else(|| format!("{verb}: {what} is missing"))?;
            word.parse().map_err(|_| format!("{verb}: {what} is {word:?}, which is no number"))
        };
        fn fit<T: TryFrom<i64>>(what: &str, n: i64) -> Result<T, String> {
            T::try_from(n).map_err(|_| format!("{what} is {n}, which is out of range"))
        }
        let mut txn = || number("the transaction").and_then(|n| fit("the transaction", n));
        let op = match verb {
            "begin" => Op::Begin { txn: txn()? },
            "savepoint" => Op::Savepoint { txn: txn()?, name: fit("the name", number("the name")?)? },
            "rollback-to" => Op::RollbackTo { txn: txn()?, name: fit("the name", number("the name")?)? },
            "commit" => Op::Commit { txn: txn()?, ack: Ack::Durable },
            "commit-early" => Op::Commit { txn: txn()?, ack: Ack::Early },
            "rollback" => Op::Rollback { txn: txn()? },
            "create" => Op::CreateTree { txn: txn()?, tree: fit("the tree", number("the tree")?)? },
            "create-far" => Op::CreateFar {
                txn: txn()?,
                tree: fit("the tree", number("the tree")?)?,
                pages: fit("the pages", number("the pages")?)?,
            },
            "drop" => Op::DropTree { txn: txn()?, tree: fit("the tree", number("the tree")?)? },
            "put" | "put-within" => {
                let txn = txn()?;
                let tree = fit("the tree", number("the tree")?)?;
                let key = fit("the key", number("the key")?)?;
                let len = fit("the length", number("the length")?)?;
                let fill = fit("the fill", number("the fill")?)?;
                match verb {
                    "put" => Op::Put { txn, tree, key, len, fill },
                    _ => Op::PutWithin { txn, tree, key, len, fill },
                }
            }
            "load" => Op::Load {
                txn: txn()?,
                tree: fit("the tree", number("the tree")?)?,
                key: fit("the key", number("the key")?)?,
                count: fit("the count", number("the count")?)?,
                step: fit("the step", number("the step")?)?,
                len: fit("the length", number("the length")?)?,
                fill: fit("the fill", number("the fill")?)?,
            },
            "delete" => Op::Delete {
                txn: txn()?,
                tree: fit("the tree", number("the tree")?)?,
                key: fit("the key", number("the key")?)?,
            },
            "add" => Op::Add {
                txn: txn()?,
                tree: fit("the tree", number("the tree")?)?,
                key: fit("the key", number("the key")?)?,
                delta: fit("the amount", number("the amount")?)?,
            },
            "checkpoint" => Op::Checkpoint,
            "flush" => Op::Flush,
            "step" => Op::Step,
            "compact" => Op::Compact,
            "reopen" => Op::Reopen,
            "snapshot" => Op::Snapshot { name: fit("the name", number("the name")?)? },
            "look" => Op::Look { name: fit("the name", number("the name")?)? },
            "release" => Op::Release { name: fit("the name", number("the name")?)? },
            "read" => Op::Read { txn: fit("the transaction", number("the transaction")?)? },
            "kill" => Op::Kill,
            "rival" => Op::Rival,
            "full" => Op::Full,
            "room" => Op::Room,
            "here" => Op::Here,
            _ => return Err(format!("{verb:?} is no operation")),
        };
        match words.next() {
            None => Ok(op),
            Some(extra) => Err(format!("{verb}: {extra:?} is one word too many")),
        }
    }
}
