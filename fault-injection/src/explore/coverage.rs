//! What a campaign has met: one [`Ledger`] and one [`Matrix`] for each worker thread, put together at the end.
//!
//! Engines send their events to one tracer for all threads, the [`Listener`]; it hands each to the ledger of the thread that
//! the event happens on, and remembers the kind of the record that this thread appended last.
use crate::oracles::ledger::{Ledger, Matrix, Named, Position};
use crate::sim::{Act, Durable, FileId, IoEvent, Site, Watch};
use hamal::trace::{Event, Tracer};
use parking_lot::Mutex;
use std::cell::RefCell;
use std::sync::Arc;

thread_local! {
    static HERE: RefCell<Option<Arc<Local>>> = const { RefCell::new(None) };
}

/// The coverage of one thread.
#[derive(Debug)]
pub struct Local {
    /// Named events.
    pub ledger: Arc<Ledger>,
    /// Crash points.
    pub matrix: Mutex<Matrix>,
    last: Mutex<&'static str>,
}

impl Default for Local {
    fn default() -> Local {
        Local { ledger: Ledger::new(), matrix: Mutex::default(), last: Mutex::new("none") }
    }
}

/// From now on events of this thread count there; with `None` they do not count.
pub fn listen(local: Option<Arc<Local>>) {
    HERE.set(local);
}

fn here() -> Option<Arc<Local>> {
    HERE.with_borrow(Clone::clone)
}

/// The tracer to give to engines.
#[derive(Clone, Copy, Debug, Default)]
pub struct Listener;

impl Tracer for Listener {
    fn event(&self, event: &Event<'_>) {
        HERE.with_borrow(|local| {
            let Some(local) = local else { return };
            if let Event::LogAppend { kind, .. } = event {
                *local.last.lock() = kind;
            }
            local.ledger.event(event);
        });
    }
}

/// The recovery of a crash state at this depth begins.
pub(crate) fn new_state(depth: usize) {
    if let Some(local) = here() {
        local.ledger.new_state(depth as u32);
        *local.last.lock() = "none";
    }
}

/// Counts what only the harness can see.
pub(crate) fn note(what: Named, n: u64) {
    if let Some(local) = here() {
        local.ledger.note(what, n);
    }
}

/// The kind of the last record at each change of a disk.
#[derive(Clone, Debug, Default)]
pub struct Kinds(Arc<Mutex<Vec<&'static str>>>);

impl Kinds {
    /// At change number `i`.
    pub fn at(&self, i: usize) -> &'static str {
        self.0.lock().get(i).copied().unwrap_or("none")
    }
    /// A watch that fills the list, and passes everything on to another one.
    pub fn watch(&self, then: Option<Box<dyn Watch>>) -> Box<dyn Watch> {
        Box::new(Noting { kinds: self.clone(), then })
    }
}

struct Noting {
    kinds: Kinds,
    then: Option<Box<dyn Watch>>,
}

impl Watch for Noting {
    fn before(&mut self, event: &IoEvent, data: &[u8], disk: &Durable<'_>) -> Option<String> {
        let last = here().map_or("none", |l| *l.last.lock());
        self.kinds.0.lock().push(last);
        self.then.as_mut()?.before(event, data, disk)
    }
    fn restarted(&mut self, disk: &Durable<'_>) {
        if let Some(then) = &mut self.then {
            then.restarted(disk);
        }
    }
    fn acknowledged(&mut self, disk: &Durable<'_>) -> Option<String> {
        self.then.as_mut()?.acknowledged(disk)
    }
}

/// Notes in the matrix where crash points fall, going through the changes of a disk in order.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// Changes that wait for a sync.
    pending: Vec<(FileId, Site, &'static str)>,
}

impl Walk {
    /// The crash point just before change `point`; all points are passed in order, those that are not crashed too.
    pub(crate) fn pass(
        &mut self,
        events: &[IoEvent],
        point: usize,
        kinds: &Kinds,
        depth: usize,
        crashed: bool,
    ) {
        let local = here();
        let note = |site: Site, kind, position| {
            if let (true, Some(local)) = (crashed, &local) {
                local.matrix.lock().note(site, kind, position, depth as u32);
            }
        };
        if let Some(before) = point.checked_sub(1).and_then(|i| events.get(i)) {
            let kind = kinds.at(point - 1);
            match before.site.act {
                Act::Sync | Act::SyncDir => {
                    note(before.site, kind, Position::After);
                    for (_, site, kind) in self.pending.iter().filter(|p| p.0 == before.file) {
                        note(*site, kind, Position::After);
                    }
                    self.pending.retain(|p| p.0 != before.file);
                }
                _ => {
                    note(before.site, kind, Position::Within);
                    self.pending.push((before.file, before.site, kind));
                }
            }
        }
        if let Some(next) = events.get(point) {
            let kind = kinds.at(point);
            note(next.site, kind, Position::Before);
            // A sync that is cut off has made a part durable: that is among the images of the point before it.
            if matches!(next.site.act, Act::Sync | Act::SyncDir) {
                note(next.site, kind, Position::Within);
            }
        }
    }
}
