//! Runs a scenario once and remembers what was promised when.
use crate::engine::{Applied, Config, Engine, Failure, FailureKind, Session};
use crate::explore::coverage::Kinds;
use crate::model::{Allowed, Model};
use crate::op::{Ack, Op, Txn};
use crate::sim::{Image, SimDisk};
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
}

/// A scenario that was run.
#[derive(Clone, Debug)]
pub struct Run {
    /// The disk, still powered on (its session is dropped without being closed).
    pub disk: SimDisk,
    /// Ascending by event.
    pub marks: Vec<Mark>,
    /// The kind of the record that the engine had appended last, at each change.
    pub kinds: Kinds,
    /// How it ended.
    pub ended: Ended,
    /// Operations that were refused.
    pub refused: usize,
    /// Operations that met a full disk or log.
    pub no_space: usize,
}

impl Run {
    /// What may be found after a crash just before change number `point`.
    pub fn allowed(&self, point: usize) -> &Mark {
        let after = self.marks.partition_point(|m| m.event <= point);
        &self.marks[after.saturating_sub(1)]
    }
}

/// Calls `f`; a panic is an error with its message.
pub fn caught<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(f)).map_err(|panic| {
        panic
            .downcast_ref::<&str>()
            .map(|s| (*s).to_string())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without words".to_string())
    })
}

/// Applies operations to a session, follows them with a model, and keeps the marks.
pub(crate) struct Player<'a> {
    pub(crate) disk: &'a SimDisk,
    pub(crate) model: Model,
    pub(crate) marks: Vec<Mark>,
    pub(crate) refused: usize,
    pub(crate) no_space: usize,
    /// Transactions whose operations are left out until they begin again.
    skipped: BTreeSet<Txn>,
}

impl<'a> Player<'a> {
    pub(crate) fn new(disk: &'a SimDisk, model: Model) -> Player<'a> {
        Player { disk, model, marks: Vec::new(), refused: 0, no_space: 0, skipped: BTreeSet::new() }
    }

    fn mark(&mut self, op: Option<usize>) {
        self.marks.push(Mark { event: self.disk.points(), allowed: self.model.allowed(), op });
    }

    /// Plays them all.
    pub(crate) fn play(&mut self, session: &mut dyn Session, ops: &[Op]) -> Ended {
        for (i, op) in ops.iter().enumerate() {
            if let Some(end) = self.one(session, i, op) {
                return end;
            }
        }
        Ended::Whole
    }

    fn one(&mut self, session: &mut dyn Session, i: usize, op: &Op) -> Option<Ended> {
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
        self.model.begin(op);
        self.mark(Some(i));
        let applied = match caught(|| session.apply(op)) {
            Ok(a) => a,
            Err(panic) => return Some(Ended::Panicked(i, panic)),
        };
        match applied {
            Ok(applied) => {
                self.model.end(op, applied == Applied::AllDurable);
                self.mark(Some(i));
                if matches!(op, Op::Commit { ack: Ack::Durable, .. }) || applied == Applied::AllDurable {
                    self.disk.acknowledged();
                }
                None
            }
            Err(f) => match f.kind {
                FailureKind::Refused | FailureKind::NoSpace => {
                    if f.kind == FailureKind::NoSpace {
                        self.no_space += 1;
                    }
                    self.refused += 1;
                    self.model.refused(op);
                    self.mark(Some(i));
                    let txn = op.txn()?;
                    self.skipped.insert(txn);
                    let back = Op::Rollback { txn };
                    match caught(|| session.apply(&back)) {
                        Err(panic) => Some(Ended::Panicked(i, panic)),
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
                FailureKind::Bug => Some(Ended::Wrong(i, f)),
                FailureKind::Io | FailureKind::Dead | FailureKind::Damage => Some(Ended::Dead(i, f)),
            },
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
    let disk = SimDisk::new(model);
    let mut session = engine.create(Arc::new(disk.clone()), config)?;
    // Closed, if the engine can close: then the scenario does not begin with a recovery.
    match session.apply(&Op::Reopen) {
        Ok(_) => {}
        Err(f) if f.kind == FailureKind::Refused => {}
        Err(f) => return Err(f),
    }
    let image = disk.kept();
    disk.power_off();
    drop(session);
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
        None => SimDisk::new(model),
    };
    let kinds = Kinds::default();
    disk.set_watch(kinds.watch(engine.watch(config)));
    prepare(&disk);
    let mut player = Player::new(&disk, Model::default());
    player.mark(None);
    let shared: Arc<dyn hamal::disk::Disk> = Arc::new(disk.clone());
    let opened = caught(|| match start {
        Some(_) => engine.open(shared, config),
        None => engine.create(shared, config),
    });
    let ended = match opened {
        Err(panic) => Ended::Panicked(0, panic),
        Ok(Err(f)) if f.kind == FailureKind::Bug => Ended::Wrong(0, f),
        Ok(Err(f)) => Ended::Dead(0, f),
        Ok(Ok(mut session)) => {
            player.mark(None);
            let ended = player.play(&mut *session, ops);
            // The process dies: nothing more may be written.
            let gone = disk.clone();
            let points = disk.points();
            gone.power_off();
            drop(session);
            debug_assert_eq!(points, disk.points());
            ended
        }
    };
    let Player { marks, refused, no_space, .. } = player;
    Run { disk, marks, kinds, ended, refused, no_space }
}
