//! The recorder: turns the engine's events into rows, as they come.
//!
//! It decides nothing. What it adds is names: of transactions, pages and records; what the engine's events leave to the
//! reader of the log (which record a CLR compensates) it takes from the events that came before. In one place it changes the
//! order, and only for scenarios: redo goes page by page in the engine, and its decisions are put in the order of their LSNs,
//! as books have it, when the phase is over (a stable sort; [`Recorder::in_engine_order`] leaves it out).
use crate::facts::{Counts, Facts, Known, lsn_name};
use crate::runs;
use crate::trace::{FORMAT, Row, Trace};
use hamal::trace::{Event, ForceReason, Phase, SkipReason, Tracer, WriteReason};
use hamal::{Lsn, PageId, TxnId};
use serde_json::{Map, Value, json};
use std::collections::{HashMap, VecDeque};
use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Whether a row is kept.
pub type Picker = Box<dyn Fn(&Row) -> bool + Send>;

/// Where rows go.
pub enum Sink {
    /// All of them are kept.
    Memory(Vec<Row>),
    /// The last ones are kept: how many at most.
    Ring(VecDeque<Row>, usize),
    /// Those that it picks are kept.
    Picked(Vec<Row>, Picker),
    /// They are written as they come; the first error is kept and ends it.
    File(Box<dyn Write + Send>, Option<std::io::Error>),
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Sink::Memory(_) => "Memory",
            Sink::Ring(..) => "Ring",
            Sink::Picked(..) => "Picked",
            Sink::File(..) => "File",
        })
    }
}

/// Records what an engine does. Give it to [`hamal::Builder::tracer`].
#[derive(Debug)]
pub struct Recorder(Mutex<State>);

/// What the line of a scenario that runs now says of the records that it logs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Action {
    /// The transaction that acts.
    pub(crate) txn: Option<String>,
    /// The name of the record.
    pub(crate) label: Option<String>,
    /// It is for the first record that frees a page.
    pub(crate) names_a_free: bool,
    /// More fields of the record: slot, key, value before and after.
    pub(crate) more: Map<String, Value>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) header: Map<String, Value>,
    pub(crate) sink: Sink,
    seq: u64,
    run: u64,
    restarts: u64,
    phase: &'static str,
    /// Nothing is recorded.
    pub(crate) muted: bool,
    /// Redo is sorted.
    sorted: bool,
    /// Pages that are latched are recorded too.
    fixes: bool,
    pub(crate) facts: Facts,
    pub(crate) action: Action,
    /// The record that analysis looks at, while its changes come in.
    analysing: Option<Row>,
    /// Pages that redo makes from a record that gives them whole, and that record.
    rebuilt: HashMap<PageId, Lsn>,
    /// Redo's rows, until the phase is over.
    redo: Vec<Row>,
    /// Tables of the checkpoint that is being taken.
    tables: Option<(Value, Value)>,
    pub(crate) counts: Counts,
    pub(crate) totals: Counts,
}

impl Recorder {
    /// A recorder with further fields of the header.
    pub fn new(sink: Sink, more: Map<String, Value>) -> Recorder {
        let mut header = Map::new();
        header.insert("format".into(), FORMAT.into());
        header.insert("engine".into(), concat!("hamal ", env!("CARGO_PKG_VERSION")).into());
        header.insert("lsn_unit".into(), "byte position in the log".into());
        header.extend(more);
        let mut state = State {
            header,
            sink,
            seq: 0,
            run: 0,
            restarts: 0,
            phase: "run",
            muted: false,
            sorted: false,
            fixes: false,
            facts: Facts::default(),
            action: Action::default(),
            analysing: None,
            rebuilt: HashMap::new(),
            redo: Vec::new(),
            tables: None,
            counts: Counts::default(),
            totals: Counts::default(),
        };
        if let Sink::File(..) = state.sink {
            let line = Trace { header: state.header.clone(), rows: Vec::new() }.header_line();
            state.write(&line);
        }
        Recorder(Mutex::new(state))
    }
    /// A recorder that keeps everything, with redo in the order of LSNs.
    pub fn in_memory(more: Map<String, Value>) -> Recorder {
        let r = Recorder::new(Sink::Memory(Vec::new()), more);
        r.lock().sorted = true;
        r
    }
    /// Leaves redo's decisions in the order in which the engine took them, page by page.
    #[must_use]
    pub fn in_engine_order(self) -> Recorder {
        self.lock().sorted = false;
        self
    }
    /// Puts redo's decisions in the order of LSNs; they are kept in memory until the phase is over.
    #[must_use]
    pub fn in_log_order(self) -> Recorder {
        self.lock().sorted = true;
        self
    }
    /// Records the latching of pages as well: by far the most frequent event.
    #[must_use]
    pub fn with_fixes(self) -> Recorder {
        self.lock().fixes = true;
        self
    }
    /// What was recorded so far and is kept.
    pub fn trace(&self) -> Trace {
        let state = self.lock();
        let rows = match &state.sink {
            Sink::Memory(rows) | Sink::Picked(rows, _) => rows.clone(),
            Sink::Ring(rows, _) => rows.iter().cloned().collect(),
            Sink::File(..) => Vec::new(),
        };
        Trace { header: state.header.clone(), rows }
    }
    /// The last row of a restart: its counts. `pages` are the page LSNs that it leaves behind.
    pub fn finish(&self, pages: Value) {
        let mut s = self.lock();
        s.flush();
        s.phase = "finish";
        let (counts, totals) = (s.counts.to_json(), s.totals.to_json());
        s.push("finish", vec![("counts", counts), ("total", totals), ("pages", pages)]);
        s.totals = Counts::default();
        (s.run, s.phase) = (0, "run");
    }
    /// Ends the recording: writes what is buffered. The first error that writing had.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn close(&self) -> std::io::Result<()> {
        let mut s = self.lock();
        s.flush();
        s.muted = true;
        match &mut s.sink {
            Sink::File(w, error) => error.take().map_or_else(|| w.flush(), Err),
            _ => Ok(()),
        }
    }
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tracer for Recorder {
    fn event(&self, event: &Event<'_>) {
        let mut state = self.lock();
        if !state.muted {
            state.event(event);
        }
    }
}

fn force_why(why: ForceReason) -> &'static str {
    match why {
        ForceReason::Commit => "commit",
        ForceReason::WalRule => "wal-rule",
        ForceReason::Checkpoint => "checkpoint",
        ForceReason::Full => "full",
        _ => "asked",
    }
}

fn write_why(why: WriteReason) -> &'static str {
    match why {
        WriteReason::Evict => "evict",
        WriteReason::Cleaner => "checkpointer",
        WriteReason::Recovery => "recovery",
        WriteReason::Repair => "repair",
        _ => "asked",
    }
}

impl State {
    /// Adds a row.
    pub(crate) fn push(&mut self, ev: &str, fields: Vec<(&str, Value)>) {
        let row = self.row(ev, fields);
        self.put(row);
    }
    fn row(&self, ev: &str, fields: Vec<(&str, Value)>) -> Row {
        let fields = fields.into_iter().map(|(k, v)| (k.to_string(), v)).collect();
        Row { seq: 0, run: self.run, phase: self.phase.into(), ev: ev.into(), fields }
    }
    fn put(&mut self, mut row: Row) {
        self.seq += 1;
        row.seq = self.seq;
        match &mut self.sink {
            Sink::Memory(rows) => rows.push(row),
            Sink::Picked(rows, picks) => {
                if picks(&row) {
                    rows.push(row);
                }
            }
            Sink::Ring(rows, most) => {
                if rows.len() >= *most {
                    rows.pop_front();
                }
                rows.push_back(row);
            }
            Sink::File(..) => self.write(&row.line()),
        }
    }
    fn write(&mut self, line: &str) {
        if let Sink::File(w, error @ None) = &mut self.sink {
            *error = writeln!(w, "{line}").err();
        }
    }
    /// Rows that wait for others go out.
    pub(crate) fn flush(&mut self) {
        if let Some(row) = self.analysing.take() {
            self.put(row);
        }
        let mut redo = std::mem::take(&mut self.redo);
        if self.sorted {
            // What precedes a decision about a page (reading it, rebuilding it) stays in front of it.
            let mut groups: Vec<(u64, Vec<Row>)> = Vec::new();
            let mut group = Vec::new();
            for row in redo.drain(..) {
                let lsn = row.num("lsn").filter(|_| row.ev == "redo.rec");
                group.push(row);
                if let Some(lsn) = lsn {
                    groups.push((lsn, std::mem::take(&mut group)));
                }
            }
            groups.push((u64::MAX, group));
            groups.sort_by_key(|(lsn, _)| *lsn);
            redo = groups.into_iter().flat_map(|(_, rows)| rows).collect();
        }
        for row in redo {
            self.put(row);
        }
    }

    fn lsn(&self, lsn: Lsn) -> Value {
        self.facts.lsn(lsn)
    }
    fn page(&self, page: PageId) -> Value {
        self.facts.page(page)
    }
    fn txn(&self, txn: TxnId) -> Value {
        self.facts.txn(txn)
    }
    /// LSN, ordinal, label, type and transaction of a record.
    fn of_record(&self, lsn: Lsn) -> Vec<(&'static str, Value)> {
        let mut out = vec![("lsn", self.lsn(lsn))];
        if let Some(k) = self.facts.known(lsn) {
            out.push(("rec", k.rec.into()));
            if let Some(label) = &k.label {
                out.push(("label", label.as_str().into()));
            }
            out.push(("type", k.kind.into()));
            out.push(("txn", self.txn(k.txn)));
        }
        out
    }

    fn event(&mut self, event: &Event<'_>) {
        match *event {
            Event::LogAppend { .. } => self.appended(event),
            Event::LogForce { to, why } => {
                let rec = self.facts.last_below(to);
                self.push(
                    "log.flush",
                    vec![("to_lsn", to.0.into()), ("rec", rec), ("why", force_why(why).into())],
                );
            }
            Event::PageFix { page, exclusive } if self.fixes => {
                let page = self.page(page);
                self.push("page.fix", vec![("page", page), ("exclusive", exclusive.into())]);
            }
            Event::PageRead { page, page_lsn } => {
                self.counts.pages_read += 1;
                self.totals.pages_read += 1;
                let row =
                    self.row("page.read", vec![("page", self.page(page)), ("page_lsn", self.lsn(page_lsn))]);
                self.put_or_hold(row);
            }
            Event::PageImage { page, lsn, page_lsn, bytes } => {
                let row = vec![
                    ("page", self.page(page)),
                    ("lsn", self.lsn(lsn)),
                    ("page_lsn", self.lsn(page_lsn)),
                    ("bytes", bytes.into()),
                ];
                self.push("page.image", row);
            }
            Event::PageRepaired { page, base, page_lsn } => {
                let row = vec![
                    ("page", self.page(page)),
                    ("base", self.lsn(base)),
                    ("page_lsn", self.lsn(page_lsn)),
                ];
                let row = self.row("page.repaired", row);
                self.put_or_hold(row);
            }
            Event::PageWrite { page, page_lsn, why } => {
                self.facts.disk.insert(page, page_lsn);
                let row = vec![
                    ("page", self.page(page)),
                    ("page_lsn", self.lsn(page_lsn)),
                    ("why", write_why(why).into()),
                ];
                self.push("page.write", row);
            }
            Event::PageEvict { page } => {
                let page = self.page(page);
                self.push("page.evict", vec![("page", page)]);
            }
            Event::TxnBegin { txn } => {
                let txn = self.txn(txn);
                self.push("txn", vec![("txn", txn), ("what", "begin".into())]);
            }
            Event::TxnCommit { txn, lsn, .. } => {
                let row = vec![("txn", self.txn(txn)), ("what", "commit".into()), ("lsn", self.lsn(lsn))];
                self.push("txn", row);
            }
            Event::TxnRollback { txn, to } => {
                let mut row = vec![("txn", self.txn(txn))];
                row.push(("what", if to.is_null() { "abort" } else { "rollback-to" }.into()));
                if !to.is_null() {
                    row.push(("to_lsn", self.lsn(to)));
                }
                self.push("txn", row);
            }
            Event::TxnEnd { txn } if self.phase == "run" => {
                let txn = self.txn(txn);
                self.push("txn", vec![("txn", txn), ("what", "end".into())]);
            }
            Event::TxnWait { txn, holder } => {
                let row = vec![("txn", self.txn(txn)), ("what", "wait".into()), ("for", self.txn(holder))];
                self.push("txn", row);
            }
            Event::CheckpointBegin { .. }
            | Event::CheckpointTables { .. }
            | Event::CheckpointEnd { .. }
            | Event::ControlWrite { .. } => self.checkpoint(event),
            Event::PhaseBegin { phase, from } => self.phase(phase, from),
            Event::LogEnd { end, verdict } => {
                let rec = self.facts.last_below(end);
                let row = vec![("end_lsn", end.0.into()), ("rec", rec), ("verdict", verdict.into())];
                self.push("log.end", row);
            }
            Event::AnalysisRecord { .. }
            | Event::AttSet { .. }
            | Event::AttKept { .. }
            | Event::AttDelete { .. }
            | Event::DptAdd { .. }
            | Event::AnalysisEnd { .. } => self.analysis(event),
            Event::RedoApply { lsn, page, page_lsn_before } => {
                self.redo(lsn, page, None, Lsn::NULL, page_lsn_before)
            }
            Event::RedoSkip { lsn, page, why, rec_lsn, page_lsn } => {
                self.redo(lsn, page, Some(why), rec_lsn, page_lsn);
            }
            Event::RedoImage { page, lsn, .. } => {
                self.rebuilt.insert(page, lsn);
                let mut row = self.row("page.rebuilt", vec![("page", self.page(page))]);
                row.fields.extend(self.of_record(lsn).into_iter().map(|(k, v)| (k.to_string(), v)));
                row.phase = "redo".into();
                self.redo.push(row);
            }
            Event::UndoPick { .. }
            | Event::UndoUpdate { .. }
            | Event::UndoClr { .. }
            | Event::UndoFollow { .. }
            | Event::UndoEnd { .. } => self.undo(event),
            _ => {}
        }
    }

    /// In redo, behind what was decided before; else at once.
    fn put_or_hold(&mut self, row: Row) {
        if self.phase == "redo" { self.redo.push(row) } else { self.put(row) }
    }

    fn appended(&mut self, event: &Event<'_>) {
        let Event::LogAppend { lsn, end, kind, rm, txn, prev, blocks, undo_len } = *event else { return };
        if !Facts::shown(kind) {
            return;
        }
        if let Some(name) = self.action.txn.clone().filter(|_| txn.0 == lsn.0 && self.phase == "run") {
            self.facts.name_txn(txn, name);
        }
        let named = self.phase == "run"
            && match self.action.names_a_free {
                true => blocks.iter().any(|b| b.whole == "free"),
                false => !matches!(kind, "structure" | "image"),
            };
        let label = if named { self.action.label.take() } else { None };
        let more = if kind == "update" { std::mem::take(&mut self.action.more) } else { Map::new() };
        let compensates = kind == "clr" || kind == "dummy_clr";
        let undo_of = if kind == "clr" { self.facts.undoing.remove(&txn) } else { None };
        let slot = undo_of.and_then(|u| self.facts.known(u)).map(|k| k.more.clone()).unwrap_or_default();
        let last = self.facts.last.get(&txn).copied().unwrap_or_default();
        if !txn.is_none() {
            self.facts.last.insert(txn, lsn);
        }
        if kind == "abort" {
            self.facts.aborting.insert(txn);
        }
        let pages: Vec<PageId> = blocks.iter().map(|b| b.page).collect();
        self.facts.learn(
            lsn,
            Known {
                rec: 0,
                end,
                label,
                kind,
                txn,
                pages: pages.clone(),
                prev: if compensates { last } else { prev },
                undo_next: compensates.then_some(prev),
                undo_of,
                former: blocks.first().map(|b| b.former).unwrap_or_default(),
                more: if more.is_empty() { slot } else { more },
            },
        );
        let mut row = self.row("log.append", self.of_record(lsn));
        let known = self.facts.known(lsn);
        let mut add = |k: &str, v: Value| drop(row.fields.insert(k.to_string(), v));
        if txn.is_none() {
            add("txn", Value::Null);
        }
        add("prev_lsn", self.lsn(if compensates { last } else { prev }));
        match pages.as_slice() {
            [] => add("page", Value::Null),
            [one] => add("page", self.page(*one)),
            [first, ..] => {
                add("page", self.page(*first));
                add("pages", pages.iter().map(|p| self.page(*p)).collect());
            }
        }
        let whole: Vec<Value> = blocks
            .iter()
            .filter(|b| b.whole != "change")
            .map(|b| json!([self.page(b.page), b.whole]))
            .collect();
        if !whole.is_empty() {
            add("whole", whole.into());
        }
        for (k, v) in known.map(|k| k.more.clone()).unwrap_or_default() {
            let value_of_update = matches!(k.as_str(), "before" | "after" | "add") && kind == "clr";
            if !value_of_update {
                add(&k, v);
            }
        }
        if let [b] = blocks
            && let Some(run) = runs::run(rm, b.op, b.payload)
        {
            add("rows", run.rows.into());
            if let Some((first, last)) = run.keys {
                let text = |k: &[u8]| Value::from(String::from_utf8_lossy(k));
                add("keys", json!([text(&first), text(&last)]));
            }
        }
        if compensates {
            add("undo_of", undo_of.map_or(Value::Null, |u| self.lsn(u)));
            add("undo_next", self.lsn(prev));
        }
        add("redo_len", blocks.iter().map(|b| b.payload.len()).sum::<usize>().into());
        add("undo_len", undo_len.into());
        if self.run > 0 && self.phase == "undo" {
            let ends = u64::from(kind == "end");
            let clrs = u64::from(kind == "clr");
            for c in [&mut self.counts, &mut self.totals] {
                c.ends += ends;
                c.clrs += clrs;
            }
        }
        self.put(row);
    }

    fn checkpoint(&mut self, event: &Event<'_>) {
        match *event {
            Event::CheckpointBegin { lsn } => {
                let row =
                    self.of_record(lsn).into_iter().filter(|(k, _)| *k != "txn" && *k != "type").collect();
                self.push("ckpt.begin", row);
            }
            Event::CheckpointTables { att, dpt, from, .. } => {
                let att: Value =
                    att.iter().map(|(t, last, next)| self.facts.att_row(*t, *last, *next)).collect();
                let dpt: Value = dpt.iter().map(|(p, rec)| json!([self.page(*p), self.lsn(*rec)])).collect();
                let from = self.lsn(from);
                self.push(
                    "ckpt.tables",
                    vec![("att", att.clone()), ("dpt", dpt.clone()), ("redo_point", from)],
                );
                self.tables = Some((att, dpt));
            }
            Event::CheckpointEnd { begin, .. } => {
                let (att, dpt) = self.tables.take().unwrap_or_default();
                let mut row = Vec::new();
                if let Some(lsn) = self.facts.newest("end_checkpoint") {
                    let fields = self.of_record(lsn).into_iter();
                    row.extend(fields.filter(|(k, _)| *k != "txn" && *k != "type"));
                }
                row.push(("begin", self.lsn(begin)));
                row.extend([("att", att), ("dpt", dpt), ("master_set", true.into())]);
                self.push("ckpt.end", row);
            }
            _ => {}
        }
    }

    fn phase(&mut self, phase: Phase, from: Lsn) {
        match phase {
            Phase::FindEnd => {
                self.restarts += 1;
                (self.run, self.phase) = (self.restarts, "analysis");
                self.counts = Counts::default();
                self.rebuilt.clear();
                self.facts.restart();
            }
            Phase::Analysis => {
                self.phase = "analysis";
                self.facts.master = from;
                let master = self.lsn(from);
                let why = if master.is_null() { "no checkpoint: log start" } else { "master" };
                let start = if master.is_null() { self.facts.first() } else { master.clone() };
                let disk = self.facts.disk();
                let row = vec![("master", master), ("start", start), ("why", why.into()), ("disk", disk)];
                self.push("analysis.start", row);
            }
            Phase::Redo => self.phase = "redo",
            Phase::Undo => {
                self.flush();
                self.phase = "undo";
            }
            Phase::Finish => {
                self.flush();
                self.phase = "finish";
            }
            _ => {}
        }
    }

    fn analysis(&mut self, event: &Event<'_>) {
        // Changes belong to the record that is being looked at. A record that is not shown changes nothing that is.
        fn note(row: &mut Option<Row>, name: &str, what: Value) {
            if let Some(row) = row {
                let list = row.fields.entry(name).or_insert_with(|| Value::Array(Vec::new()));
                if let Value::Array(list) = list {
                    list.push(what);
                }
            }
        }
        match *event {
            Event::AnalysisRecord { lsn, end, kind, txn, prev, pages } => {
                if let Some(row) = self.analysing.take() {
                    self.put(row);
                }
                if lsn < self.facts.base || !Facts::shown(kind) {
                    return;
                }
                self.facts.saw(lsn, end, kind, txn, prev, pages);
                if lsn < self.facts.master {
                    return; // only read for redo
                }
                self.counts.analysed += 1;
                self.totals.analysed += 1;
                let mut row = self.row("analysis.rec", self.of_record(lsn));
                if txn.is_none() {
                    row.fields.shift_remove("txn");
                }
                match pages {
                    [] => {}
                    [one] => drop(row.fields.insert("page".into(), self.page(*one))),
                    many => {
                        let all = many.iter().map(|p| self.page(*p)).collect();
                        row.fields.insert("pages".into(), all);
                    }
                }
                if let Some(k) = self.facts.known(lsn)
                    && let Some(next) = k.undo_next
                {
                    let of = k.undo_of.map_or(Value::Null, |u| self.lsn(u));
                    row.fields.insert("undo_of".into(), of);
                    row.fields.insert("undo_next".into(), self.lsn(next));
                }
                if kind == "abort" {
                    self.facts.seen_aborting.insert(txn);
                }
                self.analysing = Some(row);
            }
            Event::AttSet { txn, last, undo_next } => {
                let row = self.facts.att_set(txn, last, undo_next);
                note(&mut self.analysing, "att_set", row);
            }
            Event::AttKept { txn, why } => {
                let what = json!([self.txn(txn), why]);
                note(&mut self.analysing, "why", what);
            }
            Event::AttDelete { txn, why: "commit" } => {
                let last = self.analysing.as_ref().and_then(|r| r.num("lsn")).unwrap_or(0);
                let row = self.facts.att_committed(txn, Lsn(last));
                note(&mut self.analysing, "att_set", row);
            }
            Event::AttDelete { txn, .. } => {
                self.facts.att.remove(&txn);
                let txn = self.txn(txn);
                note(&mut self.analysing, "att_del", txn);
            }
            Event::DptAdd { page, rec_lsn, lowered } => {
                self.facts.dpt.insert(page, rec_lsn);
                let what = json!([self.page(page), self.lsn(rec_lsn)]);
                note(&mut self.analysing, if lowered { "dpt_lower" } else { "dpt_add" }, what);
            }
            Event::AnalysisEnd { losers, redo, smallest, .. } => {
                if let Some(row) = self.analysing.take() {
                    self.put(row);
                }
                let losers: Value = losers.iter().map(|t| self.txn(*t)).collect();
                let (att, dpt, winners) = self.facts.tables();
                let row = vec![
                    ("att", att),
                    ("dpt", dpt),
                    ("losers", losers),
                    ("winners", winners),
                    ("redo_from", self.lsn(smallest)),
                    ("redo_point", self.lsn(redo)),
                ];
                self.push("analysis.end", row);
            }
            _ => {}
        }
    }

    fn redo(&mut self, lsn: Lsn, page: PageId, skip: Option<SkipReason>, rec_lsn: Lsn, page_lsn: Lsn) {
        if lsn < self.facts.base {
            return;
        }
        for c in [&mut self.counts, &mut self.totals] {
            match skip {
                None => c.redone += 1,
                Some(why) => *c.skipped.entry(why.name()).or_default() += 1,
            }
        }
        let rec = rec_lsn.some().or(self.facts.dpt.get(&page).copied()).unwrap_or_default();
        let read = match skip {
            // The record that gives the page whole.
            None => self.rebuilt.get(&page) != Some(&lsn),
            Some(why) => why == SkipReason::PageLsnNotBelowLsn,
        };
        let mut row = self.row("redo.rec", self.of_record(lsn));
        row.phase = "redo".into();
        let mut add = |k: &str, v: Value| drop(row.fields.insert(k.to_string(), v));
        add("page", self.page(page));
        add("decision", if skip.is_none() { "redo" } else { "skip" }.into());
        add("reason", skip.map_or(Value::Null, |why| why.name().into()));
        add("rec_lsn", self.lsn(rec));
        add("page_lsn", if read { self.lsn(page_lsn) } else { Value::Null });
        add("page_read", read.into());
        if skip.is_none() {
            let image = self.facts.known(lsn).filter(|k| k.kind == "image");
            add("page_lsn_after", self.lsn(image.map_or(lsn, |k| k.former)));
        }
        self.redo.push(row);
        if !self.sorted && self.phase == "redo" {
            self.flush();
        }
    }

    fn undo(&mut self, event: &Event<'_>) {
        match *event {
            Event::UndoPick { txn, lsn, losers, to_undo } => {
                let set: Value =
                    to_undo.iter().map(|(t, next)| json!([self.txn(*t), self.lsn(*next)])).collect();
                let mut row = vec![("to_undo", set)];
                if to_undo.is_empty() {
                    row.push(("losers", losers.into()));
                }
                row.extend([
                    ("txn", self.txn(txn)),
                    ("lsn", self.lsn(lsn)),
                    ("rule", "largest undoNext".into()),
                ]);
                self.push("undo.pick", row);
            }
            Event::UndoUpdate { txn, lsn, next } => {
                self.facts.undoing.insert(txn, lsn);
                self.facts.name_kind(lsn, "update", txn, next);
                let mut row = self.of_record(lsn);
                if let Some(page) = self.facts.known(lsn).and_then(|k| k.pages.first()) {
                    row.push(("page", self.page(*page)));
                }
                row.extend([("decision", "compensate".into()), ("next", self.lsn(next))]);
                self.push("undo.rec", row);
            }
            Event::UndoFollow { txn, lsn, kind, next } => {
                self.facts.name_kind(lsn, kind, txn, next);
                let mut row = self.of_record(lsn);
                if let Some(page) = self.facts.known(lsn).and_then(|k| k.pages.first()) {
                    row.push(("page", self.page(*page)));
                }
                let decision = if kind == "clr" || kind == "dummy_clr" { "follow" } else { "chain" };
                row.extend([("decision", decision.into()), ("next", self.lsn(next))]);
                self.push("undo.rec", row);
            }
            Event::UndoClr { undone, clr, undo_next, left, .. } => {
                let mut row = self.of_record(clr);
                if left > 0 {
                    row.push(("left", left.into()));
                }
                row.push(("undo_of", self.lsn(undone)));
                row.push(("undo_next", self.lsn(undo_next)));
                if let Some(page) = self.facts.known(clr).and_then(|k| k.pages.first().copied()) {
                    row.extend([("page", self.page(page)), ("page_lsn_after", self.lsn(clr))]);
                }
                self.push("undo.clr", row);
            }
            Event::UndoEnd { txn, lsn } => {
                let row =
                    vec![("txn", self.txn(txn)), ("lsn", self.lsn(lsn)), ("rec", lsn_name(&self.facts, lsn))];
                self.push("undo.end", row);
            }
            _ => {}
        }
    }
}
