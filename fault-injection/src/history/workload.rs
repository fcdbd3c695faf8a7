//! Random transactions on real threads, recorded.
use super::engine::{Bytes, Engine, Failure, Session};
use super::record::{History, Kind, Level, Op, Outcome, State, Transaction};
use crate::random::Random;
use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

/// What to run. Few keys and many threads make contention.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What rows are.
    pub kind: Kind,
    /// The levels: each transaction picks one, and one in eight is read-only.
    pub levels: Vec<Level>,
    /// Threads.
    pub threads: u64,
    /// Transactions, together.
    pub transactions: u64,
    /// Keys.
    pub keys: u64,
    /// Most operations of a transaction.
    pub operations: u64,
    /// Bytes that values are padded with, so that rows are on several pages, or beside them.
    pub padding: usize,
    /// Whether rows are deleted, if they are registers.
    pub deletes: bool,
    /// Crashes, each at a random moment while the threads run.
    pub crashes: u32,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            kind: Kind::Lists,
            levels: vec![Level::Snapshot],
            threads: 4,
            transactions: 100,
            keys: 6,
            operations: 8,
            padding: 0,
            deletes: false,
            crashes: 0,
        }
    }
}

impl Plan {
    /// A plan that a seed chooses: of those levels, or of all.
    pub fn random(seed: u64, level: Option<Level>) -> Plan {
        let mut r = Random::new(seed);
        let kind = *r.pick(&[Kind::Lists, Kind::Lists, Kind::Registers]);
        let some = [Level::ReadCommitted, Level::Snapshot, Level::Serializable];
        let levels = match level {
            Some(level) => vec![level],
            None if r.one_in(4) => some.to_vec(),
            None => vec![*r.pick(&some)],
        };
        Plan {
            kind,
            levels,
            threads: 2 + r.below(7),
            transactions: 40 + r.below(120),
            keys: *r.pick(&[2, 3, 5, 8, 16, 40]),
            operations: 2 + r.below(9),
            padding: *r.pick(&[0, 0, 100, 700, 5000]),
            deletes: r.one_in(2),
            crashes: if r.one_in(3) { 1 + r.below(3) as u32 } else { 0 },
        }
    }

    /// Runs it. `stop` is asked between transactions.
    ///
    /// The schedule of threads is not of our making: the same seed makes the same choices, and another history.
    ///
    /// # Errors
    /// What the engine did that engines must not do.
    pub fn run(
        &self,
        engine: Box<dyn Engine>,
        seed: u64,
        stop: &(dyn Fn() -> bool + Sync),
    ) -> Result<History, String> {
        let mut run = Run { plan: self, stop, clock: AtomicU64::new(1), ids: AtomicU64::new(1), epoch: 0 };
        let mut random = Random::new(seed ^ 0x6869_7374);
        let mut history = History { kind: self.kind, keys: self.keys, transactions: Vec::new() };
        let mut engine = engine;
        loop {
            let crash = run.epoch < self.crashes;
            let (mut part, next) = run.epoch(&*engine, &mut random, crash)?;
            match next {
                None => {
                    part.push(run.look(&*engine)?);
                    history.transactions.extend(part);
                    return Ok(history);
                }
                Some(crashed) => {
                    run.resolve(&mut part, &crashed)?;
                    history.transactions.extend(part);
                    engine = crashed.engine;
                    run.epoch += 1;
                    history.transactions.push(run.look(&*engine)?);
                }
            }
        }
    }
}

/// A crash, between two moments, and the engine that was opened after it.
struct Crashed {
    before: u64,
    after: u64,
    engine: Box<dyn Engine>,
}

struct Run<'a> {
    plan: &'a Plan,
    stop: &'a (dyn Fn() -> bool + Sync),
    /// Counts events.
    clock: AtomicU64,
    ids: AtomicU64,
    epoch: u32,
}

/// Elements of a transaction have its number in their upper bits: they are written once in a history.
const ELEMENTS: u64 = 1 << 12;

/// The row by which one sees after a crash whether a transaction survived: behind all keys.
fn mark(id: u64) -> u64 {
    (1 << 32) + id
}

impl Run<'_> {
    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, SeqCst)
    }

    /// Runs the threads to their end, or to a crash: then also what is recorded of the time after it.
    fn epoch(
        &self,
        engine: &dyn Engine,
        random: &mut Random,
        crash: bool,
    ) -> Result<(Vec<Transaction>, Option<Crashed>), String> {
        let budget = self.plan.transactions / u64::from(self.plan.crashes + 1) + 1;
        let (crashed_at, crash_seed) = (random.below(budget), random.next());
        let (left, halt) = (AtomicU64::new(budget), AtomicBool::new(false));
        let recorded = Mutex::new(Vec::new());
        let broken = Mutex::new(None);
        let seeds: Vec<u64> = (0..self.plan.threads).map(|_| random.next()).collect();
        let (strike, struck) = mpsc::channel();
        let crashed = thread::scope(|scope| {
            for (i, seed) in seeds.into_iter().enumerate() {
                let process = u64::from(self.epoch) * self.plan.threads + i as u64;
                let (left, halt, recorded, broken) = (&left, &halt, &recorded, &broken);
                let strike = strike.clone();
                scope.spawn(move || {
                    let mut worker =
                        Worker { run: self, engine, random: Random::new(seed), process, strike: None };
                    while !halt.load(SeqCst) && !(self.stop)() {
                        let Ok(n) = left.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)) else { break };
                        // The crash comes when this transaction begins, or when it asks to commit: on one core a moment of the
                        // crashing thread's own would nearly always be a quiet one.
                        worker.strike = (crash && n == crashed_at + 1).then(|| strike.clone());
                        if worker.strike.is_some() && worker.random.one_in(2) {
                            worker.strike();
                        }
                        let done = worker.transaction();
                        worker.strike();
                        match done {
                            Ok(t) => recorded.lock().expect("a thread panicked").extend(t),
                            Err(e) => {
                                *broken.lock().expect("a thread panicked") = Some(e);
                                halt.store(true, SeqCst);
                            }
                        }
                    }
                });
            }
            if !crash {
                return None;
            }
            drop(strike);
            while !halt.load(SeqCst) && !(self.stop)() {
                if struck.recv_timeout(Duration::from_millis(10)) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
            let before = self.tick();
            let engine = engine.crash(crash_seed)?;
            let after = self.tick();
            halt.store(true, SeqCst);
            Some(engine.map(|engine| Crashed { before, after, engine }))
        });
        if let Some(e) = broken.into_inner().expect("a thread panicked") {
            return Err(e);
        }
        let recorded = recorded.into_inner().expect("a thread panicked");
        let recorded = recorded.into_iter();
        match crashed.transpose().map_err(|f| format!("opening after a crash: {f:?}"))? {
            None => Ok((recorded.map(|(t, _)| t).collect(), None)),
            Some(crashed) => {
                // What had not asked to commit, nor ended, when the crash was over, has left no trace.
                let kept = recorded.filter(|(t, asked)| t.end < crashed.after || *asked < crashed.after);
                Ok((kept.map(|(t, _)| t).collect(), Some(crashed)))
            }
        }
    }

    /// Finds out who survived.
    fn resolve(&self, part: &mut [Transaction], crashed: &Crashed) -> Result<(), String> {
        let mut session = crashed.engine.begin(Level::ReadOnly).map_err(|f| format!("{f:?}"))?;
        let rows = session.range(mark(0), u64::MAX).map_err(|f| format!("after a crash: {f:?}"))?;
        let marks: HashSet<u64> = rows.into_iter().map(|(key, _)| key).collect();
        for t in part {
            let (at, unknown) = match t.outcome {
                Outcome::Committed { at } => (at, false),
                Outcome::Unknown => (None, true),
                Outcome::Aborted | Outcome::Lost { .. } => continue,
            };
            let acknowledged = !unknown && t.end < crashed.before;
            if t.writes().is_empty() {
                // Nobody was told, so nobody relies on what it read.
                if !acknowledged {
                    t.outcome = Outcome::Aborted;
                }
            } else if !marks.contains(&mark(t.id)) {
                t.outcome = Outcome::Lost { at, acknowledged };
            } else if unknown {
                t.outcome = Outcome::Committed { at };
            }
        }
        Ok(())
    }

    /// A read of everything: after a crash, and at the end.
    fn look(&self, engine: &dyn Engine) -> Result<Transaction, String> {
        let process = 1_000_000 + u64::from(self.epoch);
        let begin = self.tick();
        let mut session = engine.begin(Level::ReadOnly).map_err(|f| format!("{f:?}"))?;
        let rows = session.range(0, self.plan.keys).map_err(|f| format!("reading all: {f:?}"))?;
        let rows = rows.into_iter().map(|(k, v)| Ok((k, decode(&v)?))).collect::<Result<_, String>>()?;
        Ok(Transaction {
            id: self.ids.fetch_add(1, SeqCst),
            process,
            epoch: self.epoch,
            level: Level::ReadOnly,
            begin,
            end: self.tick(),
            snapshot: session.snapshot(),
            outcome: Outcome::Committed { at: None },
            ops: vec![Op::Range { low: 0, high: self.plan.keys, rows, at: None }],
        })
    }
}

/// The elements of a row, with padding behind.
fn encode(elements: &[u64], padding: usize) -> Bytes {
    let mut bytes = (elements.len() as u32).to_le_bytes().to_vec();
    elements.iter().for_each(|e| bytes.extend(e.to_le_bytes()));
    bytes.resize(bytes.len() + padding, 0xA5);
    bytes
}

fn decode(bytes: &[u8]) -> Result<Vec<u64>, String> {
    let bad = || format!("a value of {} bytes that nobody wrote", bytes.len());
    let (n, rest) = bytes.split_first_chunk::<4>().ok_or_else(bad)?;
    let n = u32::from_le_bytes(*n) as usize;
    let elements = rest.get(..n * 8).ok_or_else(bad)?;
    Ok(elements.as_chunks::<8>().0.iter().map(|e| u64::from_le_bytes(*e)).collect())
}

struct Worker<'a> {
    run: &'a Run<'a>,
    engine: &'a dyn Engine,
    random: Random,
    process: u64,
    /// Who is to be told that the moment of the crash has come.
    strike: Option<Sender<()>>,
}

/// Whether a transaction goes on.
enum Flow {
    On,
    End,
}

impl Worker<'_> {
    fn strike(&mut self) {
        if let Some(strike) = self.strike.take() {
            // Nobody listens any more if the run was stopped.
            let _ = strike.send(());
            thread::yield_now();
        }
    }

    /// Runs one; returns it with the moment at which it asked to commit. None if it could not begin.
    fn transaction(&mut self) -> Result<Option<(Transaction, u64)>, String> {
        if self.random.one_in(40) {
            let which = self.random.next();
            if let Err(Failure::Broken(m)) = self.engine.disturb(which) {
                return Err(m);
            }
        }
        let level =
            if self.random.one_in(8) { Level::ReadOnly } else { *self.random.pick(&self.run.plan.levels) };
        let begin = self.run.tick();
        let mut session = match self.engine.begin(level) {
            Ok(session) => session,
            Err(Failure::Broken(m)) => return Err(m),
            Err(_) => return Ok(None),
        };
        let mut t = Transaction {
            id: self.run.ids.fetch_add(1, SeqCst),
            process: self.process,
            epoch: self.run.epoch,
            level,
            begin,
            end: 0,
            snapshot: session.snapshot(),
            outcome: Outcome::Aborted,
            ops: Vec::new(),
        };
        let mut savepoints = Vec::new();
        let mut go_on = true;
        for n in 0..1 + self.random.below(self.run.plan.operations) {
            if self.random.one_in(3) {
                thread::yield_now();
            }
            match self.operation(&mut *session, &mut t, &mut savepoints, n).or_else(|f| self.failed(f))? {
                Flow::On => {}
                Flow::End => {
                    go_on = false;
                    break;
                }
            }
        }
        self.finish(session, t, go_on).map(Some)
    }

    /// After a failed statement one may go on, or not.
    fn failed(&mut self, f: Failure) -> Result<Flow, String> {
        match f {
            Failure::Statement if self.random.one_in(2) => Ok(Flow::On),
            Failure::Statement | Failure::Transaction => Ok(Flow::End),
            Failure::Unknown => Err("a statement of which nobody knows".to_owned()),
            Failure::Broken(m) => Err(m),
        }
    }

    fn finish(
        &mut self,
        mut session: Box<dyn Session + '_>,
        mut t: Transaction,
        go_on: bool,
    ) -> Result<(Transaction, u64), String> {
        let mut commit = go_on && !self.random.one_in(10);
        if commit && self.run.plan.crashes > 0 && !t.writes().is_empty() {
            match session.put(mark(t.id), Some(&[1])) {
                Ok(()) => {}
                Err(Failure::Broken(m)) => return Err(m),
                Err(_) => commit = false,
            }
        }
        if self.random.one_in(3) {
            thread::yield_now();
        }
        let asked = self.run.tick();
        if commit {
            self.strike();
            t.outcome = match session.commit() {
                Ok(at) => Outcome::Committed { at },
                Err(Failure::Unknown) => Outcome::Unknown,
                Err(Failure::Broken(m)) => return Err(m),
                Err(Failure::Statement | Failure::Transaction) => Outcome::Aborted,
            };
        } else {
            if let Err(Failure::Broken(m)) = session.rollback() {
                return Err(m);
            }
        }
        t.end = self.run.tick();
        Ok((t, asked))
    }

    /// The snapshot of a statement that has just run, if it had one of its own.
    fn span(session: &dyn Session, level: Level, before: Option<u64>) -> Option<(u64, u64)> {
        let after = session.snapshot().filter(|_| level == Level::ReadCommitted)?;
        Some((before.unwrap_or(after), after))
    }

    fn operation(
        &mut self,
        session: &mut dyn Session,
        t: &mut Transaction,
        savepoints: &mut Vec<(usize, usize)>,
        n: u64,
    ) -> Result<Flow, Failure> {
        let key = self.random.below(self.run.plan.keys);
        let writes = t.level != Level::ReadOnly;
        match self.random.below(16) {
            0..=3 => {
                let state = state(session.get(key)?)?;
                let at = Self::span(session, t.level, None);
                t.ops.push(Op::Read { key, state, locked: false, at });
            }
            4..=5 => {
                let high = key + 1 + self.random.below(self.run.plan.keys - key);
                let before = session.snapshot();
                let rows = session.range(key, high)?;
                let at = Self::span(session, t.level, before);
                let rows = rows.into_iter().map(|(k, v)| Ok((k, decode(&v).map_err(Failure::Broken)?)));
                t.ops.push(Op::Range { low: key, high, rows: rows.collect::<Result<_, Failure>>()?, at });
            }
            6 if writes => {
                let state = state(session.get_for_update(key)?)?;
                let at = Self::span(session, t.level, None);
                t.ops.push(Op::Read { key, state, locked: true, at });
            }
            7 if writes => {
                if let Some(s) = session.savepoint()? {
                    savepoints.push((s, t.ops.len()));
                    t.ops.push(Op::Savepoint);
                }
            }
            8 if writes && !savepoints.is_empty() => {
                let which = self.random.below(savepoints.len() as u64) as usize;
                let (s, op) = savepoints[which];
                session.rollback_to(s)?;
                savepoints.truncate(which + 1);
                t.ops.push(Op::RollbackTo { savepoint: op });
            }
            9.. if writes => {
                let element = t.id * ELEMENTS + n;
                match self.run.plan.kind {
                    Kind::Lists => self.append(session, t, key, element)?,
                    Kind::Registers => self.overwrite(session, t, key, element)?,
                }
            }
            _ => {}
        }
        Ok(Flow::On)
    }

    /// Reads a list and writes it with one element more. Under read committed the row has to be locked, or appends are lost.
    fn append(
        &mut self,
        session: &mut dyn Session,
        t: &mut Transaction,
        key: u64,
        element: u64,
    ) -> Result<(), Failure> {
        let locked = t.level == Level::ReadCommitted || self.random.one_in(3);
        let old = state(if locked { session.get_for_update(key)? } else { session.get(key)? })?;
        let at = Self::span(session, t.level, None);
        let mut list = old.clone().unwrap_or_default();
        t.ops.push(Op::Read { key, state: old, locked, at });
        if self.random.one_in(3) {
            thread::yield_now();
        }
        list.push(element);
        session.put(key, Some(&encode(&list, self.run.plan.padding)))?;
        t.ops.push(Op::Write { key, state: Some(list) });
        Ok(())
    }

    fn overwrite(
        &mut self,
        session: &mut dyn Session,
        t: &mut Transaction,
        key: u64,
        element: u64,
    ) -> Result<(), Failure> {
        let new = (!self.run.plan.deletes || !self.random.one_in(4)).then(|| vec![element]);
        let bytes = new.as_ref().map(|row| encode(row, self.run.plan.padding));
        if new.is_none() || self.random.one_in(2) {
            let old = state(session.replace(key, bytes.as_deref())?)?;
            let at = Self::span(session, t.level, None);
            if new.is_none() && old.is_none() {
                // It may have waited for the row, and then told of it as it was afterwards.
                let at = at.map(|(low, _)| (low, u64::MAX));
                t.ops.push(Op::Read { key, state: None, locked: false, at });
                return Ok(());
            }
            t.ops.push(Op::Read { key, state: old, locked: true, at });
        } else {
            session.put(key, bytes.as_deref())?;
        }
        t.ops.push(Op::Write { key, state: new });
        Ok(())
    }
}

fn state(bytes: Option<Bytes>) -> Result<State, Failure> {
    bytes.map(|b| decode(&b)).transpose().map_err(Failure::Broken)
}
