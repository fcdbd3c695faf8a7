//! Looking at a database's control file and log without opening, recovering or changing it.
use crate::activity::{Pin, PinKind};
use crate::{Disk, Error, ErrorKind, Result};
use hamal_btree::{BTREE_RM, Btree};
use hamal_checkpoint::{CheckpointEnd, Chunk, Control, ControlFile};
use hamal_disk::PosixDisk;
use hamal_log::{
    LogEnd, LogFollower, LogIdentity, LogOptions, LogReader, Record, RecordKind, Whole, find_end,
};
use hamal_page::{Lsn, PageId, TxnId};
use hamal_space::{SPACE_RM, SpaceManager, map_of};
use hamal_txn::{Registry, ResourceManager, parts_left};
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

/// The resource managers that every database has, with their numbers: for tools and tests that apply records to copies of
/// pages. They apply and describe; their undo needs an open database.
pub fn built_in_managers() -> Vec<(hamal_page::RmId, Arc<dyn ResourceManager>)> {
    vec![(SPACE_RM, Arc::new(SpaceManager)), (BTREE_RM, Btree::manager())]
}

/// A closed (or crashed) database, looked at from outside. Takes no lock and writes nothing; of a database that somebody
/// has open it shows some state of a moment ago, or an error.
#[derive(Debug)]
pub struct Inspect {
    disk: Arc<dyn Disk>,
    control: Control,
    /// What both slots of the control file need of the log.
    keep_from: Lsn,
    registry: Registry,
}

impl Inspect {
    /// Reads the control file of the database in the directory `path`.
    ///
    /// # Errors
    /// `NotADatabase`, `ControlCorrupt`, `UnsupportedVersion`, `Io`.
    pub fn open(path: impl AsRef<Path>) -> Result<Inspect> {
        let path = path.as_ref();
        let disk = PosixDisk::open(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
                Error::new(ErrorKind::NotADatabase, format!("there is no directory {}", path.display()))
            }
            _ => Error::io(format!("cannot open the directory {}", path.display()), e),
        })?;
        Self::open_on(Arc::new(disk))
    }
    /// [`Inspect::open`] on a disk of the caller.
    ///
    /// # Errors
    /// As there.
    pub fn open_on(disk: Arc<dyn Disk>) -> Result<Inspect> {
        let file = ControlFile::open(&disk, true)?;
        let (control, keep_from) = (file.current().clone(), file.keep_from());
        let mut registry = Registry::new();
        built_in_managers().into_iter().for_each(|(id, manager)| registry.add(id, manager));
        Ok(Inspect { disk, control, keep_from, registry })
    }
    /// Adds a manager of the caller, so that its records are described.
    #[must_use]
    pub fn with_manager(mut self, manager: Arc<dyn ResourceManager>) -> Inspect {
        let entry = self.control.managers.iter().find(|e| e.name == manager.name());
        if let Some(id) = entry.map(|e| hamal_page::RmId(e.id)) {
            self.registry.add(id, manager);
        }
        self
    }
    /// What the control file says.
    pub fn control(&self) -> &Control {
        &self.control
    }
    fn identity(&self) -> LogIdentity {
        LogIdentity { db: self.control.db, timeline: self.control.timeline }
    }
    /// Finds the end of the log and the verdict on it.
    ///
    /// # Errors
    /// `LogCorrupt` with LSN, file and offset; `Io`.
    pub fn log_end(&self) -> Result<LogEnd> {
        let (begin, end) = (self.control.checkpoint_begin, self.control.checkpoint_end);
        find_end(&self.disk, &LogOptions::default(), self.identity(), begin, end)
    }
    /// Reads records up to `end`, in any order.
    ///
    /// # Errors
    /// `LogCorrupt`, `Io`.
    pub fn reader(&self, end: &LogEnd) -> Result<LogReader> {
        LogReader::open(&self.disk, self.identity(), end)
    }
    /// Reads records from `from` on (the start or the end of a record), and goes on as another process logs more.
    ///
    /// # Errors
    /// `LogCorrupt`, `Io`.
    pub fn follow(&self, from: Lsn) -> Result<LogFollower> {
        LogFollower::open(&self.disk, self.identity(), from)
    }
    /// Whether the record changes a row with that key, or whatever else its manager calls so. A CLR names no key.
    pub fn names_key(&self, r: &Record, key: &[u8]) -> bool {
        let mut named = false;
        if let Some(m) = self.registry.get(r.rm) {
            m.keys(r, &mut |k| named |= k == key);
        }
        named
    }
    /// Whether the record may touch that slot of that page, as the page numbered its slots before. What gives the whole page
    /// does, and what a manager has logged that is not known here.
    pub fn names_slot(&self, r: &Record, page: PageId, slot: u64) -> bool {
        r.blocks.iter().enumerate().filter(|(_, b)| b.page == page).any(|(i, b)| {
            let (Whole::No, Some(m)) = (b.whole, self.manager_of(r, b.page)) else { return true };
            let mut named = false;
            m.slots(b.op, r.payload(i), &mut |s| named |= s.contains(&slot));
            named
        })
    }
    /// What keeps the log from being cut, as far as the last checkpoint and `losers` (the transactions that recovery rolls
    /// back) tell, the one that keeps the most first.
    ///
    /// # Errors
    /// `LogCorrupt`, `Io`.
    pub fn pins(&self, end: &LogEnd, losers: &[TxnId]) -> Result<Vec<Pin>> {
        let (c, tail) = (&self.control, end.end);
        let mut pins = vec![Pin::new(PinKind::Checkpoint, c.checkpoint_begin.0, c.redo, tail)];
        if self.keep_from < c.keep_from {
            pins.push(Pin::new(PinKind::FormerCheckpoint, c.checkpoint_begin.0, self.keep_from, tail));
        }
        let mut reader = self.reader(end)?;
        let (mut page, mut first) = (None, losers.iter().map(|t| t.0).min());
        let mut at = c.checkpoint_begin;
        while at < c.checkpoint_end {
            let Some(record) = reader.read(at)? else { break };
            at = record.end;
            if record.kind != RecordKind::CheckpointChunk {
                continue;
            }
            match Chunk::decode(record.undo())? {
                (begin, Chunk::Dpt(dpt)) if begin == c.checkpoint_begin => {
                    page = dpt.into_iter().map(|(page, rec)| (rec, page)).chain(page).min();
                }
                (begin, Chunk::Att(att)) if begin == c.checkpoint_begin => {
                    first = att.into_iter().map(|e| e.txn.0).chain(first).min();
                }
                _ => {}
            }
        }
        pins.extend(page.map(|(rec, page)| Pin::new(PinKind::Page, page.0, rec, tail)));
        pins.extend(first.map(|t| Pin::new(PinKind::Transaction, t, Lsn(t), tail)));
        Pin::sort(&mut pins);
        Ok(pins)
    }
    /// Who applies what the record does to the page: the space manager to a map page, whoever logged it.
    fn manager_of(&self, r: &Record, page: PageId) -> Option<&Arc<dyn ResourceManager>> {
        let is_map = map_of(page, self.control.page_size as usize).0 == page;
        self.registry.get(if is_map { SPACE_RM } else { r.rm })
    }
    /// The name of a resource manager.
    pub fn manager_name(&self, id: hamal_page::RmId) -> String {
        let named = self.control.managers.iter().find(|e| e.id == id.0).map(|e| e.name.clone());
        named.unwrap_or_else(|| if id.0 == 0 { "log".into() } else { format!("manager {id}") })
    }
    /// Describes a record for people: a head line, then one line for each page.
    pub fn describe(&self, r: &Record) -> String {
        let mut s = format!("{} {:<16} {}", r.lsn, r.kind.name(), self.manager_name(r.rm));
        if r.txn != TxnId::NONE {
            let _ = write!(s, " {}", r.txn);
        }
        let link = if matches!(r.kind, RecordKind::Clr | RecordKind::DummyClr) { "undoNext" } else { "prev" };
        if !r.prev.is_null() {
            let _ = write!(s, " {link} {}", r.prev);
        }
        let _ = write!(s, " {} bytes", r.len());
        let tables = match r.kind {
            RecordKind::CheckpointChunk => Chunk::decode(r.undo()).map(|(begin, c)| match c {
                Chunk::Dpt(d) => format!("of {begin}: {} dirty pages", d.len()),
                Chunk::Att(a) => format!("of {begin}: {} transactions", a.len()),
            }),
            RecordKind::CheckpointEnd => CheckpointEnd::decode(r.undo()).map(|e| {
                format!("of {}: redo {}, {} dirty pages, {} transactions", e.begin, e.redo, e.dpt, e.att)
            }),
            // A CLR for a part of the record that undoNext names (TXN-PARTS).
            RecordKind::Clr if !r.undo().is_empty() => Ok(match parts_left(r.undo()) {
                Some(left) => format!("{left} parts left"),
                None => "parts left: not readable".to_owned(),
            }),
            _ => Ok(String::new()),
        };
        match tables {
            Ok(t) if t.is_empty() => {}
            Ok(t) => {
                let _ = write!(s, " {t}");
            }
            Err(e) => {
                let _ = write!(s, " {e}");
            }
        }
        for (i, b) in r.blocks.iter().enumerate() {
            let _ = write!(s, "\n    page {} former {} ", b.page, b.former);
            let payload = r.payload(i);
            let _ = match (b.whole, self.manager_of(r, b.page)) {
                (Whole::Image, _) => write!(s, "image, {} bytes", payload.len()),
                (Whole::Free, _) => write!(s, "free"),
                (Whole::Init, Some(m)) => {
                    let _ = write!(s, "init ");
                    m.describe(b.op, payload.get(6..).unwrap_or(&[]), &mut s)
                }
                (_, Some(m)) => m.describe(b.op, payload, &mut s),
                (_, None) => write!(s, "op {} payload {} bytes", b.op, payload.len()),
            };
        }
        s
    }
}
