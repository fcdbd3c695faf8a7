//! Crashes: of a running database, and of a recovery.
use super::{PAGE_SIZE, Runner};
use crate::recorder::Recorder;
use crate::scenario::Stop;
use hamal::disk::{CrashModel, Disk, MemDisk, OpenMode};
use hamal::raw::{TxnManager, header};
use hamal::trace::{ForceReason, Phase};
use hamal::{Error, ErrorKind, Lsn, PageId, Result};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};

/// What a stopped recovery left: the disk, and up to where the log is durable.
type Left = Arc<Mutex<Option<(MemDisk, Lsn)>>>;

impl Recorder {
    /// Runs `f` while nothing is recorded.
    pub(super) fn muted<T>(&self, f: impl FnOnce() -> T) -> T {
        let before = std::mem::replace(&mut self.lock().muted, true);
        let done = f();
        self.lock().muted = before;
        done
    }
}

/// Where in its recovery an engine is, for the trace.
fn moment(stop: Option<Stop>) -> String {
    match stop {
        None => "a line `crash`".into(),
        Some(Stop::Analysis) => "recovery, after analysis".into(),
        Some(Stop::Records(n)) => format!("recovery, after {n} new log records"),
        Some(Stop::Redo(n)) => format!("recovery, after {n} records redone (and the rest of their page)"),
        Some(Stop::Clrs(n)) => format!("recovery, after {n} CLRs"),
    }
}

impl Runner<'_> {
    pub(super) fn page_id(&self, page: &str) -> Result<PageId> {
        if let Some(id) = self.page_ids.get(page) {
            return Ok(*id);
        }
        let state = self.recorder.lock();
        let found = state.facts.pages.iter().find(|(_, name)| *name == page).map(|(id, _)| *id);
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no page {page}")))
    }

    /// The end of the record with that name.
    pub(super) fn end_of(&self, label: &str) -> Result<Lsn> {
        let state = self.recorder.lock();
        let found = state.facts.label(label).and_then(|l| state.facts.known(l)).map(|k| k.end);
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no record `{label}`")))
    }

    /// Makes the log durable to the end of the record just made, and shows nothing of it: a later crash cuts the log there.
    pub(super) fn force_behind(&mut self, label: &str) -> Result<()> {
        let (db, end) = (self.open_db()?, self.end_of(label)?);
        let engine = db.engine();
        self.recorder.muted(|| engine.txns().log().force(end, ForceReason::Asked))
    }

    fn disk_page(disk: &MemDisk, id: PageId) -> Option<Vec<u8>> {
        let file = disk.open("data", OpenMode { read_only: true, ..OpenMode::default() }).ok()?;
        let mut bytes = vec![0; PAGE_SIZE];
        let n = file.read_at(id.0 * PAGE_SIZE as u64, &mut bytes).ok()?;
        (n == PAGE_SIZE).then_some(bytes)
    }
    /// Remembers what is on disk of a page (or of all) before it is written, in case a crash tears the write.
    pub(super) fn remember_disk(&mut self, page: Option<PageId>) -> Result<()> {
        let ids: Vec<PageId> = match page {
            Some(id) => vec![id],
            None => self.page_ids.values().copied().collect(),
        };
        for id in ids {
            if let Some(bytes) = Self::disk_page(&self.disk, id) {
                self.before.insert(id, bytes);
            }
        }
        Ok(())
    }

    pub(super) fn crash(&mut self, keep: bool, lose_after: Option<&str>, torn: Option<&str>) -> Result<()> {
        let Some(db) = self.db.clone() else {
            // A recovery that was stopped has crashed already.
            return match (keep, lose_after, torn) {
                (false, None, None) => Ok(()),
                _ => Err(Error::new(ErrorKind::InvalidArgument, "no database is open that could crash here")),
            };
        };
        let engine = db.engine();
        let log = engine.txns().log();
        if keep {
            log.force(log.tail(), ForceReason::Asked)?;
        }
        let torn = torn.map(|page| self.page_id(page).map(|id| (page.to_string(), id))).transpose()?;
        if let Some((name, id)) = &torn {
            let before = Self::disk_page(&self.disk, *id).unwrap_or_else(|| vec![0; PAGE_SIZE]);
            engine.pool().flush_page(*id)?;
            if Self::disk_page(&self.disk, *id).as_ref() != Some(&before) {
                self.before.insert(*id, before);
            } else if !self.before.contains_key(id) {
                let m = format!("{name} was never written, and is not dirty: no write of it can be torn");
                return Err(Error::new(ErrorKind::InvalidArgument, m));
            }
        }
        let durable = log.durable();
        if let Some(label) = lose_after {
            self.nothing_behind(label, durable)?;
        }
        let disk = self.disk.crash(CrashModel::KeepAll);
        if let Some((_, id)) = &torn {
            self.tear(&disk, *id)?;
        }
        self.crashed(disk, durable, torn.map(|(name, _)| name), None);
        log.poison(Error::internal("the machine of the scenario has crashed"));
        Ok(())
    }

    fn nothing_behind(&self, label: &str, durable: Lsn) -> Result<()> {
        let state = self.recorder.lock();
        let lsn = state.facts.label(label);
        let lsn =
            lsn.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no record `{label}`")))?;
        match state.facts.next_after(lsn) {
            Some((next, rec)) if next < durable => {
                let m = format!(
                    "the log was forced behind `{label}` already (a commit, or the flush of a page): record {} is on disk",
                    10 * rec
                );
                Err(Error::new(ErrorKind::InvalidArgument, m))
            }
            _ => Ok(()),
        }
    }

    /// The first sector of the page is new, the rest is old.
    fn tear(&self, disk: &MemDisk, id: PageId) -> Result<()> {
        let io = |e| Error::io("tearing a page", e);
        let (old, new) = (self.before.get(&id), Self::disk_page(disk, id));
        let (Some(old), Some(new)) = (old, new) else { return Ok(()) };
        let torn = [&new[..512], &old[512..]].concat();
        if torn == new || torn == *old {
            let m = "the write changed one sector only, and one sector is written whole or not at all";
            return Err(Error::new(ErrorKind::InvalidArgument, m));
        }
        let file = disk.open("data", OpenMode::default()).map_err(io)?;
        file.write_at(id.0 * PAGE_SIZE as u64, &torn).map_err(io)
    }

    /// The machine has stopped: what is lost, what the disk holds.
    fn crashed(&mut self, disk: MemDisk, durable: Lsn, torn: Option<String>, stop: Option<Stop>) {
        let mut state = self.recorder.lock();
        state.flush();
        let lost = state.facts.lose_from(durable);
        let row = vec![
            ("stable_log_end", durable.0.into()),
            ("rec", state.facts.last_below(durable)),
            ("lost", lost.into()),
            ("disk", state.facts.disk()),
            ("torn", torn.map_or(Value::Null, Value::from)),
            ("injected_at", moment(stop).into()),
        ];
        state.push("crash", row);
        // What the engine that ran still does (rollbacks of transactions that are dropped) is no part of the history.
        state.muted = true;
        drop(state);
        self.disk = disk;
        self.db = None;
        self.pages = None;
        self.txns.clear();
    }

    pub(super) fn recover(&mut self, stop: Option<Stop>, flush: &[String]) -> Result<()> {
        if self.db.is_some() {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                "the database is open: a crash is needed first",
            ));
        }
        let left = Left::default();
        let mut builder = self.builder();
        if let Some(stop) = stop {
            let pages = flush.iter().map(|p| self.page_id(p)).collect::<Result<Vec<_>>>()?;
            builder = stopping(builder, self.recorder.clone(), self.disk.clone(), left.clone(), stop, pages);
        }
        self.recorder.lock().muted = false;
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let opened = builder.open_on(disk);
        if let Some((disk, durable)) = left.lock().map(|mut l| l.take()).unwrap_or_default() {
            self.crashed(disk, durable, None, stop);
            return Ok(());
        }
        let db = opened.inspect_err(|e| {
            let mut state = self.recorder.lock();
            state.flush();
            let row = vec![("kind", format!("{:?}", e.kind()).into()), ("message", e.to_string().into())];
            state.push("error", row);
            state.muted = true;
        })?;
        if !self.page_ids.is_empty() {
            self.pages = Some(super::PageStore::open(db.engine(), self.page_ids.clone())?);
        }
        self.db = Some(db);
        self.learn_pages();
        let pages = self.recorder.muted(|| self.page_lsns())?;
        self.recorder.finish(pages);
        if stop.is_some() {
            let m = "recovery was complete before it had come so far";
            return Err(Error::new(ErrorKind::InvalidArgument, m));
        }
        Ok(())
    }

    /// pageLSNs of the pages in memory.
    fn page_lsns(&self) -> Result<Value> {
        let Some(db) = &self.db else { return Ok(Value::Null) };
        let named: Vec<_> = {
            let state = self.recorder.lock();
            state.facts.pages.iter().map(|(id, name)| (*id, name.clone())).collect()
        };
        let mut out = Vec::new();
        for (id, name) in named {
            if let Ok(page) = db.page(id.0) {
                let lsn = self.recorder.lock().facts.lsn(header::page_lsn(&page));
                out.push(json!([name, lsn]));
            }
        }
        Ok(out.into())
    }
}

/// A builder whose recovery stops, with the log forced and some pages flushed, and leaves a copy of the disk.
fn stopping(
    builder: hamal::Builder,
    recorder: Arc<Recorder>,
    disk: MemDisk,
    left: Left,
    stop: Stop,
    pages: Vec<PageId>,
) -> hamal::Builder {
    builder.pause(move |phase: Phase, engine: &TxnManager| {
        let due = {
            let state = recorder.lock();
            let c = &state.counts;
            match stop {
                Stop::Analysis => phase != Phase::Analysis,
                Stop::Redo(n) => phase == Phase::Redo && c.redone >= n,
                Stop::Records(n) => phase == Phase::Undo && c.clrs + c.ends >= n,
                Stop::Clrs(n) => phase == Phase::Undo && c.clrs >= n,
            }
        };
        if !due {
            return ControlFlow::Continue(());
        }
        let log = engine.log();
        let forced = log.force(log.tail(), ForceReason::Asked);
        let flushed = pages.iter().try_for_each(|p| engine.pool().flush_page(*p));
        if forced.and(flushed).is_ok()
            && let Ok(mut left) = left.lock()
        {
            *left = Some((disk.crash(CrashModel::KeepAll), log.durable()));
        }
        let mut state = recorder.lock();
        state.flush();
        state.muted = true;
        ControlFlow::Break(())
    })
}
