//! Runs a scenario once and remembers what was promised when.
use crate::case::Case;
use crate::engine::{Applied, Config, Engine, Failure, FailureKind, Reader, Session};
use crate::explore::coverage::Kinds;
use crate::model::{Allowed, Model, Wrong as Judged};
use crate::op::{Ack, Op, Txn};
use crate::oracles::{Oracle, Violation};
use crate::sim::{Image, SimDisk};
use crate::watchdog::{self, BUDGET};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// From this change of the disk on, these states are allowed.
#[derive(Clone, Debug)]
pub struct Mark {
    /// How many changes had been issued.
    pub event: usize,
    /// What may be found after a crash from here on.
    pub allowed: Allowed,
    /// The operation (its number in the scenario) that had begun; `None` before the first.
    pub op: Option<usize>,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub enum Ended {
    /// All operations were applied or refused.
    Whole,
    /// The engine died, or could not go on; the operation's number.
    Dead(usize, Failure),
    /// It failed in a way that is never right; the operation's number.
    Wrong(usize, Failure),
    /// It panicked; the operation's number.
    Panicked(usize, String),
    /// Something that was seen while it ran is wrong; the operation's number.
    Violated(usize, Violation),
}

/// A scenario that was run.
#[derive(Clone, Debug)]
pub struct Run {
    /// The disk, as it was when the last process died.
    pub disk: SimDisk,
    /// Ascending by event.
    pub marks: Vec<Mark>,
    /// The kind of the record that the engine had appended last, at each change.
    pub kinds: Kinds,
    /// How it ended.
    pub ended: Ended,
    /// Operations that killed the engine before that; each time the scenario went on after a [kill](Op::Kill).
    pub died: Vec<(usize, Failure)>,
    /// Changes of the disk before this one belong to the set-up: they are not crashed.
    pub from: usize,
    /// Operations that were refused.
    pub refused: usize,
    /// Operations that met a full disk or log.
    pub no_space: usize,
}

impl Run {
    /// Operations that killed the engine, with what it said.
    pub fn deaths(&self) -> impl Iterator<Item = (usize, &Failure)> {
        let last = match &self.ended {
            Ended::Dead(i, f) => Some((*i, f)),
            _ => None,
        };
        self.died.iter().map(|(i, f)| (*i, f)).chain(last)
    }
    /// What may be found after a crash just before change number `point`.
    pub fn allowed(&self, point: usize) -> &Mark {
        let after = self.marks.partition_point(|m| m.event <= point);
        &self.marks[after.saturating_sub(1)]
    }
}

/// Calls `f`; a panic is an error with its message.
///
/// # Errors
/// The message.
pub fn caught<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|panic| {
        panic
            .downcast_ref::<&str>()
            .map(|s| (*s).to_string())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without words".to_string())
    })
}

/// What a call of the engine did instead of returning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fall {
    /// It panicked, with this message.
    Panicked(String),
    /// It had made so many calls of the disk that all others were refused.
    Endless,
}

impl Fall {
    /// The end of a run, in operation `i`.
    fn ended(self, i: usize) -> Ended {
        match self {
            Fall::Panicked(panic) => Ended::Panicked(i, panic),
            Fall::Endless => Ended::Violated(i, self.violation("it")),
        }
    }
    /// What is wrong; `what` is the call.
    pub(crate) fn violation(self, what: &str) -> Violation {
        match self {
            Fall::Panicked(panic) => Violation::new(Oracle::Panic, format!("{what} panics: {panic}")),
            Fall::Endless => Violation::new(
                Oracle::Hang,
                format!(
                    "{what} goes on reading and writing without end: it was stopped after {BUDGET} calls"
                ),
            ),
        }
    }
}

/// Calls the engine on this disk, watched: within the [budget](BUDGET), and without a panic.
pub(crate) fn bounded<T>(disk: &SimDisk, f: impl FnOnce() -> T) -> Result<T, Fall> {
    disk.set_budget(BUDGET);
    let call = watchdog::call();
    let done = caught(f);
    drop(call);
    if disk.is_spent() { Err(Fall::Endless) } else { done.map_err(Fall::Panicked) }
}

/// Drops a session whose disk is off, watched.
pub(crate) fn dropped<T>(session: T) {
    let _call = watchdog::call();
    drop(session);
}

/// Applies operations to a session, follows them with a model, and keeps the marks.
pub(crate) struct Player<'a> {
    engine: &'a dyn Engine,
    config: &'a Config,
    /// The disk, as the present process has it.
    pub(crate) disk: SimDisk,
    session: Option<Box<dyn Session>>,
    pub(crate) model: Model,
    pub(crate) marks: Vec<Mark>,
    pub(crate) refused: usize,
    pub(crate) no_space: usize,
    /// Operations that the engine died in, and the scenario went on by a [kill](Op::Kill).
    died: Vec<(usize, Failure)>,
    /// Changes of the disk before the scenario proper.
    from: usize,
    /// Transactions whose operations are left out until they begin again.
    skipped: BTreeSet<Txn>,
}

/// What is wrong, as the end of a run.
fn wrong(i: usize, oracle: Oracle, text: impl Into<String>) -> Ended {
    Ended::Violated(i, Violation::new(oracle, text))
}

impl<'a> Player<'a> {
    pub(crate) fn new(engine: &'a dyn Engine, config: &'a Config, disk: SimDisk, model: Model) -> Player<'a> {
        Player {
            engine,
            config,
            disk,
            session: None,
            model,
            marks: Vec::new(),
            refused: 0,
            no_space: 0,
            died: Vec::new(),
            from: 0,
            skipped: BTreeSet::new(),
        }
    }

    fn mark(&mut self, op: Option<usize>) {
        self.marks.push(Mark { event: self.disk.points(), allowed: self.model.allowed(), op });
    }

    /// Opens the database, or creates it.
    fn start(&mut self, creates: bool) -> Result<(), Ended> {
        let shared: Arc<dyn hamal::disk::Disk> = Arc::new(self.disk.clone());
        let opened = bounded(&self.disk, || match creates {
            false => self.engine.open(shared, self.config),
            true => self.engine.create(shared, self.config),
        });
        match opened {
            Err(fall) => Err(fall.ended(0)),
            Ok(Err(f)) if f.kind == FailureKind::Bug => Err(Ended::Wrong(0, f)),
            Ok(Err(f)) => Err(Ended::Dead(0, f)),
            Ok(Ok(session)) => {
                self.session = Some(session);
                Ok(())
            }
        }
    }

    /// Plays them all, on a database that this opens first.
    pub(crate) fn play(&mut self, creates: bool, ops: &[Op]) -> Ended {
        self.mark(None);
        watchdog::operation(None, &self.disk);
        if let Err(end) = self.start(creates) {
            return end;
        }
        self.mark(None);
        let mut i = 0;
        while i < ops.len() {
            match self.one(i, &ops[i]) {
                None => i += 1,
                // The process is gone; if another one comes, it goes on there.
                Some(Ended::Dead(at, f)) => {
                    if let (FailureKind::Dead, Some(end)) = (f.kind, self.rests(i, ops)) {
                        return end;
                    }
                    match ops.iter().skip(i + 1).position(|op| *op == Op::Kill).map(|n| i + 1 + n) {
                        Some(kill) => i = kill,
                        None => return Ended::Dead(at, f),
                    }
                    self.died.push((at, f));
                }
                Some(end) => return end,
            }
        }
        Ended::Whole
    }

    /// A dead engine must not go on: nothing that follows in its process is committed.
    fn rests(&mut self, i: usize, ops: &[Op]) -> Option<Ended> {
        self.skipped.extend(ops.get(i).and_then(Op::txn));
        for (at, op) in ops.iter().enumerate().skip(i + 1).take_while(|(_, op)| **op != Op::Kill) {
            let for_runner = matches!(
                op,
                Op::Snapshot { .. }
                    | Op::Look { .. }
                    | Op::Release { .. }
                    | Op::Read { .. }
                    | Op::Rival
                    | Op::Full
            ) || matches!(op, Op::Room | Op::Here | Op::Reopen);
            if for_runner {
                continue;
            }
            // What follows a refusal of the same transaction is left out.
            if op.txn().is_some_and(|t| self.skipped.contains(&t) && !matches!(op, Op::Begin { .. })) {
                continue;
            }
            // A commit that fails may be there all the same.
            let op = &*op.change();
            self.model.begin(op);
            self.mark(Some(at));
            let session = self.session.as_mut()?;
            watchdog::operation(Some(at), &self.disk);
            match bounded(&self.disk, || session.apply(op)) {
                Err(fall) => return Some(fall.ended(at)),
                Ok(Ok(_)) if matches!(op, Op::Commit { .. }) => {
                    return Some(wrong(
                        at,
                        Oracle::Fault,
                        format!("`{op}` succeeds after the engine has died"),
                    ));
                }
                Ok(Ok(_)) => self.model.end(op, false),
                Ok(Err(_)) => self.skipped.extend(op.txn()),
            }
        }
        None
    }

    /// The process dies: nothing more may be written.
    pub(crate) fn end(&mut self) {
        self.disk.power_off();
        let points = self.disk.points();
        dropped(self.session.take());
        debug_assert_eq!(points, self.disk.points());
    }

    fn one(&mut self, i: usize, op: &Op) -> Option<Ended> {
        if let Some(txn) = op.txn() {
            if matches!(op, Op::Begin { .. }) {
                if self.model.is_open(txn) {
                    return None;
                }
                self.skipped.remove(&txn);
            } else if self.skipped.contains(&txn) || !self.model.is_open(txn) {
                return None;
            }
        }
        watchdog::operation(Some(i), &self.disk);
        match *op {
            Op::Here => self.from = self.disk.points(),
            Op::Full => self.disk.set_capacity(Some(self.disk.used())),
            Op::Room => self.disk.set_capacity(None),
            Op::Kill => return self.kill(i),
            Op::Rival => return self.rival(i),
            Op::Read { txn } => return self.read(i, Reader::Txn(txn)),
            Op::Look { name } if self.model.has_snapshot(name) => {
                return self.read(i, Reader::Snapshot(name));
            }
            Op::Look { .. } => {}
            Op::Release { name } => {
                self.model.end(op, false);
                if let Some(session) = &mut self.session
                    && let Err(fall) = bounded(&self.disk, || session.release(name))
                {
                    return Some(fall.ended(i));
                }
            }
            Op::Snapshot { name } if self.model.has_snapshot(name) => {}
            _ => return self.apply(i, op),
        }
        None
    }

    fn apply(&mut self, i: usize, op: &Op) -> Option<Ended> {
        let change = &*op.change();
        self.model.begin(change);
        self.mark(Some(i));
        let session = self.session.as_mut()?;
        let applied = bounded(&self.disk, || match *op {
            Op::Snapshot { name } => {
                self.model.opened_snapshot(name, session.snapshot(name)?);
                Ok(Applied::Done)
            }
            _ => session.apply(op),
        });
        let applied = match applied {
            Ok(a) => a,
            Err(fall) => return Some(fall.ended(i)),
        };
        match applied {
            Ok(applied) => {
                let let_through = match self.engine.first_writer_wins() {
                    true => self.model.must_refuse(change),
                    false => None,
                };
                self.model.end(change, applied == Applied::AllDurable);
                self.mark(Some(i));
                if matches!(op, Op::Commit { ack: Ack::Durable, .. }) || applied == Applied::AllDurable {
                    self.disk.acknowledged();
                }
                if let Some(text) = let_through {
                    return Some(wrong(i, Oracle::Isolation, text));
                }
                let broken = self.session.as_mut().and_then(|s| s.limits())?;
                Some(wrong(i, Oracle::Bounds, format!("after `{op}`: {broken}")))
            }
            Err(f) => match f.kind {
                FailureKind::Refused | FailureKind::NoSpace => {
                    if f.kind == FailureKind::NoSpace {
                        self.no_space += 1;
                    }
                    self.refused += 1;
                    self.model.refused(change);
                    self.mark(Some(i));
                    self.roll_back(i, op.txn()?)
                }
                FailureKind::Bug => Some(Ended::Wrong(i, f)),
                FailureKind::Io | FailureKind::Dead | FailureKind::Damage => Some(Ended::Dead(i, f)),
            },
        }
    }

    /// After an operation that was refused.
    fn roll_back(&mut self, i: usize, txn: Txn) -> Option<Ended> {
        self.skipped.insert(txn);
        let back = Op::Rollback { txn };
        let session = self.session.as_mut()?;
        match bounded(&self.disk, || session.apply(&back)) {
            Err(fall) => Some(fall.ended(i)),
            // A refused commit or rollback has taken the transaction with it.
            Ok(Ok(_)) => {
                self.model.end(&back, false);
                None
            }
            Ok(Err(f)) if f.kind == FailureKind::Refused => {
                self.model.end(&back, false);
                None
            }
            Ok(Err(f)) if f.kind == FailureKind::Bug => Some(Ended::Wrong(i, f)),
            Ok(Err(f)) => Some(Ended::Dead(i, f)),
        }
    }

    /// A reader reads everything.
    fn read(&mut self, i: usize, reader: Reader) -> Option<Ended> {
        let session = self.session.as_mut()?;
        let found = match bounded(&self.disk, || session.seen_by(reader)) {
            Err(fall) => return Some(fall.ended(i)),
            Ok(Err(f)) => {
                return match f.kind {
                    FailureKind::Refused => None,
                    FailureKind::Bug => Some(Ended::Wrong(i, f)),
                    _ => Some(Ended::Dead(i, f)),
                };
            }
            Ok(Ok(found)) => found,
        };
        let text = match reader {
            Reader::Snapshot(name) => self.model.looked(name, &found)?,
            Reader::Txn(txn) => {
                let difference = self.model.seen_by(txn)?.difference(&found)?;
                format!("transaction {txn} does not see its state: {difference}")
            }
        };
        Some(wrong(i, Oracle::Isolation, text))
    }

    /// The process dies, the next one opens the database. What it finds must be allowed, and is durable from then on.
    fn kill(&mut self, i: usize) -> Option<Ended> {
        self.mark(Some(i));
        let disk = self.disk.kill();
        dropped(self.session.take());
        self.disk = disk;
        watchdog::operation(Some(i), &self.disk);
        self.skipped.clear();
        if let Err(end) = self.start(false) {
            return Some(match end {
                Ended::Panicked(_, panic) => Ended::Panicked(i, panic),
                Ended::Violated(_, violation) => Ended::Violated(i, violation),
                Ended::Wrong(_, f) => Ended::Wrong(i, f),
                Ended::Dead(_, f) => Ended::Dead(i, f),
                end => end,
            });
        }
        let session = self.session.as_mut()?;
        let found = match bounded(&self.disk, || session.contents()) {
            Err(fall) => return Some(fall.ended(i)),
            Ok(Err(f)) if f.kind == FailureKind::Bug => return Some(Ended::Wrong(i, f)),
            Ok(Err(f)) => return Some(Ended::Dead(i, f)),
            Ok(Ok(found)) => found,
        };
        match self.model.allowed().judge(&found) {
            Ok(state) => {
                self.model.settle(state);
                self.mark(Some(i));
                self.disk.acknowledged();
                None
            }
            Err((what, text)) => {
                let oracle = if what == Judged::Lost { Oracle::Acknowledged } else { Oracle::Phantom };
                Some(wrong(i, oracle, format!("after the process died: {text}")))
            }
        }
    }

    /// A second process that must be refused.
    fn rival(&mut self, i: usize) -> Option<Ended> {
        let (disk, before) = (self.disk.another_process(), self.disk.points());
        let opened = bounded(&disk, || self.engine.open(Arc::new(disk.clone()), self.config));
        let wrote = self.disk.points() != before;
        disk.power_off();
        match opened {
            Err(fall) => Some(fall.ended(i)),
            Ok(Ok(_)) => Some(wrong(i, Oracle::Isolation, "a second process could open the database")),
            Ok(Err(f)) if wrote => Some(wrong(
                i,
                Oracle::Isolation,
                format!("a second process was refused, and had written: {f}"),
            )),
            Ok(Err(f)) if f.kind != FailureKind::Refused => {
                Some(wrong(i, Oracle::Fault, format!("a second process gets the wrong error: {f}")))
            }
            Ok(Err(_)) => None,
        }
    }
}

/// An empty database of this engine, as it is after it was closed, to start scenarios from: its creation is not
/// crashed again with each of them.
///
/// # Errors
/// Of the engine.
pub fn newborn(
    engine: &dyn Engine,
    config: &Config,
    model: crate::sim::Persistence,
) -> Result<Image, Failure> {
    let disk = config.disk(model);
    watchdog::scenario(|| Case::of(engine.name(), model, config, &[Op::Reopen]), &disk);
    let fell = |fall: Fall| Failure::new(FailureKind::Bug, fall.violation("making a database").text);
    let made = bounded(&disk, || engine.create(Arc::new(disk.clone()), config)).map_err(fell)?;
    let mut session = made?;
    // Closed, if the engine can close: then the scenario does not begin with a recovery.
    match bounded(&disk, || session.apply(&Op::Reopen)).map_err(fell)? {
        Ok(_) => {}
        Err(f) if f.kind == FailureKind::Refused => {}
        Err(f) => return Err(f),
    }
    let image = disk.kept();
    disk.power_off();
    dropped(session);
    Ok(image)
}

/// What answers no questions: everything that is asked is as the newest write left it.
pub(crate) struct Newest;

impl crate::sim::Fates for Newest {
    fn decide(&mut self, _: crate::sim::Question, options: u8) -> u8 {
        options - 1
    }
}

/// Runs `ops` on a database: on a new one if `start` is `None`, else on the image, opened.
///
/// The disk is prepared by `prepare` (faults, a watch) before the engine sees it.
pub fn run(
    engine: &dyn Engine,
    config: &Config,
    model: crate::sim::Persistence,
    start: Option<&Image>,
    ops: &[Op],
    prepare: &dyn Fn(&SimDisk),
) -> Run {
    let disk = match start {
        Some(image) => SimDisk::boot(image, Box::new(Newest)),
        None => config.disk(model),
    };
    let kinds = Kinds::default();
    disk.set_watch(kinds.watch(engine.watch(config)));
    prepare(&disk);
    let mut player = Player::new(engine, config, disk, Model::default());
    let ended = player.play(start.is_none(), ops);
    player.end();
    let Player { disk, marks, refused, no_space, died, from, .. } = player;
    Run { disk, marks, kinds, ended, died, from, refused, no_space }
}
