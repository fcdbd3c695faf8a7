//! Checks a trace: an ARIES of its own, at record level, is run over the same log, and must come to the same decisions.
//!
//! It knows the log records, the page writes and the crashes of the trace, and nothing of the engine. From these it computes
//! both tables, each redo decision with its operands, the order of undo and the page LSNs, and compares. It also replays the
//! changes that analysis reports, record by record: they must add up to the tables that it ends with. So a trace that passes
//! is complete, and an engine that broke a rule is found out (`docs/formats/trace.md`, "Checked how").
use crate::trace::{Row, Trace};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Something that does not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The row.
    pub seq: u64,
    /// What is wrong.
    pub what: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seq {}: {}", self.seq, self.what)
    }
}

/// A record of the log.
#[derive(Clone, Debug, Default)]
struct Rec {
    kind: String,
    txn: String,
    /// Pages, with what the record makes of each: "change", "init", "free", "image".
    pages: Vec<(String, String)>,
    prev: Option<u64>,
    undo_next: Option<u64>,
    /// Of a CLR: the record that it compensates.
    undo_of: Option<u64>,
    /// A CLR for a part of its record: where undo goes on (TXN-PARTS).
    part: bool,
    /// Rows that it inserts, or of a CLR takes away, if they are several.
    rows: Option<u64>,
    /// Of a CLR: how many parts it leaves, as the row `undo.clr` said it.
    left: u64,
    /// The pageLSN inside an image.
    former: Option<u64>,
}

impl Rec {
    /// Where undo of its transaction goes on.
    fn next(&self, lsn: u64) -> Lsn {
        match self.kind.as_str() {
            "clr" if self.part => Some(lsn),
            "clr" | "dummy_clr" => self.undo_next,
            _ => Some(lsn),
        }
    }
}

type Lsn = Option<u64>;
type Att = BTreeMap<String, (String, Lsn, Lsn)>;
type Dpt = BTreeMap<String, u64>;

#[derive(Default)]
struct Model {
    findings: Vec<Finding>,
    seq: u64,
    log: BTreeMap<u64, Rec>,
    durable: u64,
    disk: BTreeMap<String, Lsn>,
    pool: BTreeMap<String, Lsn>,
    dirty: Dpt,
    /// Tables of every checkpoint, by its begin record.
    checkpoints: BTreeMap<u64, (Att, Dpt)>,
    begun: Lsn,
    live: Att,
    // One restart.
    own: (Att, Dpt),
    told: (Att, Dpt),
    expected: BTreeMap<(u64, String), Decision>,
    redo_pages: BTreeMap<String, Lsn>,
    to_undo: BTreeMap<String, Lsn>,
    picked: Option<(String, Lsn)>,
    /// CLRs that leave parts of their record, and that record: as far as this recovery has logged or read them.
    parts: BTreeMap<u64, u64>,
    /// Of a real database: what analysis and redo have said of records, instead of the log.
    kinds: BTreeMap<u64, String>,
    redo_open: bool,
}

/// What redo must decide.
#[derive(Clone, Debug)]
enum Decision {
    /// This reason, whatever the page is.
    Skip(&'static str),
    /// By the page LSN of the page as it is then.
    ByPageLsn,
    /// The record is the whole page: it is applied without a look.
    Whole,
}

/// Checks a trace of a scenario. An empty list: everything fits.
///
/// ```
/// let text = "pages P1\nT1 add P1[0] 5\ncrash keep log\nrecover\n";
/// let scenario = hamal_study::scenario::parse(text).unwrap();
/// let mut trace = hamal_study::run::run("x", text, &scenario).trace;
/// assert!(hamal_study::replay(&trace).is_empty());
/// // A trace that leaves a decision out does not pass.
/// trace.rows.retain(|r| r.ev != "redo.rec");
/// assert!(!hamal_study::replay(&trace).is_empty());
/// ```
pub fn replay(trace: &Trace) -> Vec<Finding> {
    let mut m = Model::default();
    let whole = !trace.header.contains_key("database");
    for row in &trace.rows {
        m.seq = row.seq;
        if whole || row.ev.starts_with("analysis.") || row.ev.starts_with("undo.") {
            m.row(row, whole);
        }
        if !whole && row.ev == "redo.rec" {
            m.note_kind(row);
        }
    }
    m.findings
}

fn att_of(list: &[Value]) -> Att {
    let entry = |e: &Value| {
        let name = e.get(0)?.as_str()?.to_string();
        let status = e.get(1)?.as_str()?.to_string();
        Some((name, (status, e.get(2)?.as_u64(), e.get(3).and_then(Value::as_u64))))
    };
    list.iter().filter_map(entry).collect()
}

fn dpt_of(list: &[Value]) -> Dpt {
    list.iter().filter_map(|e| Some((e.get(0)?.as_str()?.to_string(), e.get(1)?.as_u64()?))).collect()
}

fn pages_of(list: &[Value]) -> BTreeMap<String, Lsn> {
    list.iter().filter_map(|e| Some((e.get(0)?.as_str()?.to_string(), e.get(1)?.as_u64()))).collect()
}

impl Model {
    fn wrong(&mut self, what: impl Into<String>) {
        let (seq, what) = (self.seq, what.into());
        self.findings.push(Finding { seq, what });
    }
    fn same<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, own: &T, told: &T) {
        if own != told {
            self.wrong(format!("{what}: must be {own:?}, the trace says {told:?}"));
        }
    }

    fn row(&mut self, r: &Row, whole: bool) {
        match r.ev.as_str() {
            "log.append" => self.append(r),
            "log.flush" => self.durable = r.num("to_lsn").unwrap_or(0),
            "page.image" => {
                if let Some(rec) = r.num("lsn").and_then(|l| self.log.get_mut(&l)) {
                    rec.former = r.num("page_lsn");
                }
            }
            "page.write" => self.write(r),
            "page.repaired" => {
                let page = r.text("page").to_string();
                self.pool.insert(page, r.num("page_lsn"));
            }
            "ckpt.begin" => self.begun = r.num("lsn"),
            "ckpt.tables" => self.tables(r),
            "crash" => self.crash(r),
            "analysis.start" => self.start(r, whole),
            "analysis.rec" => self.told(r),
            "analysis.end" => self.analysis_end(r, whole),
            "redo.rec" => self.redo(r),
            "undo.pick" => self.pick(r),
            "undo.rec" => self.undo(r, whole),
            "undo.clr" => self.clr(r, whole),
            "undo.end" => {
                self.redo_done();
                let next = self.to_undo.remove(r.text("txn"));
                if next.flatten().is_some() && r.run > 0 {
                    self.wrong(format!("{} ends with something left to undo", r.text("txn")));
                }
            }
            "finish" => {
                self.redo_done();
                let told = pages_of(r.list("pages"));
                for (page, lsn) in &told {
                    let own = self.pool.get(page).copied().flatten();
                    self.same(&format!("pageLSN of {page} after recovery"), &own, lsn);
                }
            }
            _ => {}
        }
    }

    // ---- normal work ----

    fn append(&mut self, r: &Row) {
        let Some(lsn) = r.num("lsn") else { return self.wrong("a record without an LSN") };
        if self.log.last_key_value().is_some_and(|(l, _)| *l >= lsn) {
            self.wrong("a record below the end of the log");
        }
        let kind = r.text("type").to_string();
        let mut names: Vec<&str> = r.list("pages").iter().filter_map(Value::as_str).collect();
        if names.is_empty() && !r.text("page").is_empty() {
            names.push(r.text("page"));
        }
        let whole: BTreeMap<&str, &str> =
            r.list("whole").iter().filter_map(|e| Some((e.get(0)?.as_str()?, e.get(1)?.as_str()?))).collect();
        let pages: Vec<(String, String)> = names
            .into_iter()
            .map(|p| (p.to_string(), whole.get(p).copied().unwrap_or("change").to_string()))
            .collect();
        let txn = r.text("txn").to_string();
        if kind != "image" {
            for (page, what) in &pages {
                self.pool.insert(page.clone(), Some(lsn));
                if what == "free" {
                    self.dirty.remove(page);
                } else {
                    self.dirty.entry(page.clone()).or_insert(lsn);
                }
            }
        }
        if !txn.is_empty() {
            let own = self.live.get(&txn).and_then(|e| e.1);
            if r.run == 0 && kind != "clr" && kind != "dummy_clr" && self.live.contains_key(&txn) {
                self.same("prevLSN", &own, &r.num("prev_lsn"));
            }
        }
        // Undo bytes of a CLR are the number of parts that it leaves.
        let part = kind == "clr" && r.num("undo_len").is_some_and(|n| n > 0);
        let (undo_of, undo_next) = (r.num("undo_of"), r.num("undo_next"));
        if kind == "clr" && part != (undo_of.is_some() && undo_of == undo_next) {
            self.wrong(
                "a CLR leads to the record that it compensates if, and only if, it leaves parts of it",
            );
        }
        let (prev, rows) = (r.num("prev_lsn"), r.num("rows"));
        let rec = Rec { kind, txn, pages, prev, undo_next, undo_of, part, rows, left: 0, former: None };
        if !rec.txn.is_empty() {
            step(&mut self.live, &rec, lsn, false);
        }
        self.log.insert(lsn, rec);
    }

    fn write(&mut self, r: &Row) {
        let page = r.text("page").to_string();
        let lsn = r.num("page_lsn");
        if r.run == 0
            && let Some(own) = self.pool.get(&page).copied()
        {
            self.same(&format!("pageLSN of {page} as written"), &own, &lsn);
        }
        if lsn.is_some_and(|l| l >= self.durable) {
            self.wrong(format!(
                "WAL rule: {page} was written with a pageLSN that the log on disk does not reach"
            ));
        }
        self.disk.insert(page.clone(), lsn);
        self.dirty.remove(&page);
    }

    fn tables(&mut self, r: &Row) {
        let told = (att_of(r.list("att")), dpt_of(r.list("dpt")));
        let own: Att =
            self.live.iter().filter(|(_, e)| e.0 != "C").map(|(n, e)| (n.clone(), e.clone())).collect();
        self.same("ATT of the checkpoint", &own, &told.0);
        let dirty = self.dirty.clone();
        self.same("DPT of the checkpoint", &dirty, &told.1);
        if let Some(begun) = self.begun {
            self.checkpoints.insert(begun, told);
        }
    }

    fn crash(&mut self, r: &Row) {
        let end = r.num("stable_log_end").unwrap_or(0);
        self.same("the durable end of the log", &self.durable.max(end), &end);
        self.log.split_off(&end);
        self.checkpoints.split_off(&end);
        let told = pages_of(r.list("disk"));
        let own = self.disk.clone();
        self.same("the pages on disk", &own, &told);
        self.pool = self.disk.clone();
        self.dirty.clear();
        self.live.clear();
        self.redo_open = false;
    }

    // ---- restart ----

    fn start(&mut self, r: &Row, whole: bool) {
        self.told = Default::default();
        self.to_undo.clear();
        self.parts.clear();
        self.kinds.clear();
        self.picked = None;
        if !whole {
            return;
        }
        let master = r.num("master");
        let (mut att, mut dpt) = (Att::new(), Dpt::new());
        let mut ended = BTreeSet::new();
        for (lsn, rec) in self.log.range(master.unwrap_or(0)..) {
            for (page, _) in &rec.pages {
                dpt.entry(page.clone()).or_insert(*lsn);
            }
            if !rec.txn.is_empty() {
                step(&mut att, rec, *lsn, true);
                if rec.kind == "end" || rec.kind == "commit" {
                    ended.insert(rec.txn.clone());
                }
            }
        }
        let saved = master.and_then(|m| self.checkpoints.get(&m).cloned()).unwrap_or_default();
        for (name, mut entry) in saved.0 {
            if !ended.contains(&name) && att.get(&name).is_none_or(|own| own.1 < entry.1) {
                // The abort record may lie before the checkpoint, whose table does not say so.
                entry.0 = "U".into();
                att.insert(name, entry);
            }
        }
        for (page, rec) in saved.1 {
            let own = dpt.entry(page).or_insert(rec);
            *own = rec.min(*own);
        }
        self.own = (att, dpt);
    }

    fn note_kind(&mut self, r: &Row) {
        if let Some(lsn) = r.num("lsn") {
            self.kinds.insert(lsn, r.text("type").into());
        }
    }
    /// What analysis says it changed.
    fn told(&mut self, r: &Row) {
        self.note_kind(r);
        let set = att_of(r.list("att_set"));
        if let (Some(lsn), Some(next)) = (r.num("lsn"), r.num("undo_next"))
            && r.text("type") == "clr"
            && set.values().any(|e| e.2 == Some(lsn))
        {
            self.parts.insert(lsn, next);
        }
        self.told.0.extend(set);
        for name in r.list("att_del").iter().filter_map(Value::as_str) {
            self.told.0.remove(name);
        }
        self.told.1.extend(dpt_of(r.list("dpt_add")));
        self.told.1.extend(dpt_of(r.list("dpt_lower")));
    }

    fn analysis_end(&mut self, r: &Row, whole: bool) {
        let (att, dpt) = (att_of(r.list("att")), dpt_of(r.list("dpt")));
        let told = std::mem::take(&mut self.told);
        self.same("the changes of the ATT add up", &told.0, &att);
        self.same("the changes of the DPT add up", &told.1, &dpt);
        self.to_undo = att.iter().filter(|(_, e)| e.0 != "C").map(|(name, e)| (name.clone(), e.2)).collect();
        if !whole {
            return;
        }
        let own = std::mem::take(&mut self.own);
        let mut own_att = own.0.clone();
        for (name, entry) in &mut own_att {
            // A status A from before the checkpoint is not in its table.
            if let Some(t) = att.get(name).filter(|t| t.0 != entry.0 && entry.0 != "C" && t.0 != "C") {
                entry.0.clone_from(&t.0);
            }
        }
        self.same("ATT at the end of analysis", &own_att, &att);
        self.same("DPT at the end of analysis", &own.1, &dpt);
        self.same("redo from", &own.1.values().min().copied(), &r.num("redo_from"));
        let losers: BTreeSet<String> =
            own.0.iter().filter(|(_, e)| e.0 != "C").map(|(n, _)| n.clone()).collect();
        let said = r.list("losers").iter().filter_map(Value::as_str).map(str::to_string).collect();
        self.same("losers", &losers, &said);
        self.expect_redo(r.num("redo_point").unwrap_or(0), &dpt);
        self.live = att.into_iter().filter(|(_, e)| e.0 != "C").collect();
    }

    /// What redo has to decide of each record and page.
    fn expect_redo(&mut self, from: u64, dpt: &Dpt) {
        let mut newest_whole = BTreeMap::new();
        for (lsn, rec) in self.log.range(from..) {
            for (page, what) in rec.pages.iter().filter(|(_, what)| what != "change") {
                newest_whole.insert(page.clone(), (*lsn, what.clone()));
            }
        }
        self.expected.clear();
        for (lsn, rec) in self.log.range(from..) {
            for (page, what) in &rec.pages {
                let d = match (newest_whole.get(page), dpt.get(page)) {
                    (Some((whole, _)), _) if lsn < whole => Decision::Skip("older-than-image"),
                    (_, None) => Decision::Skip("page-not-in-dpt"),
                    (Some((_, last)), _) if last == "free" => Decision::Skip("page-freed"),
                    (Some((whole, _)), _) if lsn == whole => Decision::Whole,
                    (None, Some(first)) if lsn < first => Decision::Skip("lsn-below-reclsn"),
                    _ => Decision::ByPageLsn,
                };
                let _ = what;
                self.expected.insert((*lsn, page.clone()), d);
            }
        }
        self.redo_pages = self.disk.clone();
        self.redo_open = true;
    }

    fn redo(&mut self, r: &Row) {
        let Some(lsn) = r.num("lsn") else { return };
        let page = r.text("page").to_string();
        let Some(expected) = self.expected.remove(&(lsn, page.clone())) else {
            return self.wrong(format!("redo decides about LSN {lsn} of {page} twice, or need not"));
        };
        let redone = r.text("decision") == "redo";
        let page_lsn = self.redo_pages.get(&page).copied().flatten();
        let reason = match expected {
            Decision::Skip(why) => why,
            Decision::Whole => "",
            Decision::ByPageLsn if page_lsn.is_some_and(|p| p >= lsn) => "pagelsn-not-below-lsn",
            Decision::ByPageLsn => "",
        };
        self.same(&format!("redo of LSN {lsn} on {page}: reason to skip"), &reason, &r.text("reason"));
        if redone == r.fields.get("reason").is_some_and(|w| w.is_string()) {
            self.wrong("a record is redone with a reason, or skipped without one");
        }
        if r.flag("page_read") {
            self.same(&format!("pageLSN of {page} in redo"), &page_lsn, &r.num("page_lsn"));
        }
        if redone {
            let image = self.log.get(&lsn).filter(|rec| rec.kind == "image").map(|rec| rec.former);
            let after = image.unwrap_or(Some(lsn));
            self.same(&format!("pageLSN of {page} after redo"), &after, &r.num("page_lsn_after"));
            self.redo_pages.insert(page.clone(), after);
            self.pool.insert(page.clone(), after);
            self.dirty.entry(page).or_insert(lsn);
        }
    }

    /// Nothing may be left undecided when undo begins.
    fn redo_done(&mut self) {
        if !std::mem::take(&mut self.redo_open) {
            return;
        }
        let left: Vec<_> = self.expected.keys().take(3).cloned().collect();
        if !left.is_empty() {
            self.wrong(format!(
                "redo has not decided about {} pairs of record and page: {left:?}",
                self.expected.len()
            ));
        }
    }

    // ---- undo ----

    fn pick(&mut self, r: &Row) {
        self.redo_done();
        let told: BTreeMap<String, Lsn> = pages_of(r.list("to_undo"));
        if r.num("losers").is_none() {
            let own = self.to_undo.clone();
            self.same("the to-undo set", &own, &told);
        }
        let largest = self.to_undo.values().copied().max().flatten();
        self.same("the largest undoNext", &largest, &r.num("lsn"));
        self.picked = Some((r.text("txn").to_string(), r.num("lsn")));
    }

    fn undo(&mut self, r: &Row, whole: bool) {
        let lsn = r.num("lsn");
        // Where undo of the transaction stood: at the record, or at a CLR that leaves parts of it.
        let stood = match self.picked.take() {
            Some((_, at)) if r.run > 0 => Some(at),
            _ if r.run == 0 && whole => self.live.get(r.text("txn")).map(|e| e.2),
            _ => None,
        };
        if let Some(at) = stood {
            let leads_to = at.and_then(|at| self.part_of(at)).or(at);
            // Of a real database a CLR from before the checkpoint is known by redo alone, or not at all.
            let unknown = at.filter(|at| !whole && !self.parts.contains_key(at));
            let maybe_clr = |at: &u64| self.kinds.get(at).is_none_or(|kind| kind == "clr");
            match unknown.filter(maybe_clr).zip(lsn) {
                Some((at, lsn)) if lsn < at && r.text("decision") == "compensate" => {
                    self.parts.insert(at, lsn);
                }
                _ => self.same("the record that undo handles", &leads_to, &lsn),
            }
        }
        let decision = match r.text("type") {
            "update" => "compensate",
            "clr" | "dummy_clr" => "follow",
            _ => "chain",
        };
        self.same("what undo does with the record", &decision, &r.text("decision"));
        if whole && let Some(rec) = lsn.and_then(|l| self.log.get(&l)) {
            let next = if decision == "follow" { rec.undo_next } else { rec.prev };
            self.same("the next record to undo", &next, &r.num("next"));
        }
        if decision != "compensate" {
            let next = r.num("next");
            if r.run > 0 {
                self.to_undo.insert(r.text("txn").to_string(), next);
            } else if let Some(e) = self.live.get_mut(r.text("txn")) {
                e.2 = next;
            }
        }
    }

    /// The record of which the CLR at `lsn` leaves parts.
    fn part_of(&self, lsn: u64) -> Lsn {
        match self.log.get(&lsn) {
            Some(rec) => rec.undo_next.filter(|_| rec.part),
            None => self.parts.get(&lsn).copied(),
        }
    }

    fn clr(&mut self, r: &Row, whole: bool) {
        let (clr, of, next, left) =
            (r.num("lsn"), r.num("undo_of"), r.num("undo_next"), r.num("left").unwrap_or(0));
        if left > 0
            && let (Some(clr), Some(of)) = (clr, of)
        {
            self.parts.insert(clr, of);
        }
        if whole && let (Some(clr), Some(of)) = (clr, of) {
            self.compensation(clr, of, next, left);
        }
        if r.run > 0 {
            let due = if left > 0 { clr } else { next };
            self.to_undo.insert(r.text("txn").to_string(), due);
        }
    }

    /// A record is compensated once. If in parts (TXN-PARTS), what is left falls with each, the last one alone leads past the record,
    /// and each takes away what it says.
    fn compensation(&mut self, clr: u64, of: u64, next: Lsn, left: u64) {
        let Some(undone) = self.log.get(&of).cloned() else { return };
        let must = if left > 0 { Some(of) } else { undone.prev };
        self.same("undoNextLSN of the CLR", &must, &next);
        let Some(rec) = self.log.get_mut(&clr) else { return self.wrong("a CLR that was never logged") };
        rec.left = left;
        let rec = rec.clone();
        self.same("whether the CLR leaves parts", &(left > 0), &rec.part);
        self.same("the record that the CLR compensates", &Some(of), &rec.undo_of);
        let before = self.log.range(..clr).rev().find(|(_, r)| r.kind == "clr" && r.undo_of == Some(of));
        let before = before.map(|(lsn, r)| (*lsn, r.left));
        match before {
            Some((first, 0)) => self.wrong(format!("LSN {of} is undone by {first} and again by {clr}")),
            Some((first, n)) if left >= n => {
                self.wrong(format!(
                    "the CLR at {first} left {n} parts of LSN {of}, and the next one leaves {left}"
                ));
            }
            _ => {}
        }
        // A part of a run of rows is a row.
        if let Some(all) = undone.rows {
            let had = before.map_or(all, |(_, n)| n);
            let took = had.checked_sub(left);
            self.same(&format!("rows of LSN {of} that the CLR at {clr} takes away"), &took, &rec.rows);
        }
    }
}

/// A record of a transaction, in the table of active transactions. `keep`: as analysis does it, where a commit leaves an entry with
/// the status C behind.
fn step(att: &mut Att, rec: &Rec, lsn: u64, keep: bool) {
    let txn = &rec.txn;
    let aborting = att.get(txn).is_some_and(|e| e.0 == "A");
    let entry = |status: &str, next: Lsn| (status.to_string(), Some(lsn), next);
    let status = if aborting { "A" } else { "U" };
    match rec.kind.as_str() {
        "end" => drop(att.remove(txn)),
        "commit" if keep => drop(att.insert(txn.clone(), entry("C", None))),
        "commit" => drop(att.remove(txn)),
        // The running transaction knows where undo begins; analysis comes to the record and follows it.
        "abort" if !keep => {
            let next = att.get(txn).and_then(|e| e.2);
            att.insert(txn.clone(), entry("A", next));
        }
        "abort" => drop(att.insert(txn.clone(), entry("A", Some(lsn)))),
        _ => drop(att.insert(txn.clone(), entry(status, rec.next(lsn)))),
    }
}
