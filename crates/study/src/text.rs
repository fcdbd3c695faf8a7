//! A trace as text for people.
use crate::trace::{Row, Trace};
use serde_json::Value;
use std::collections::BTreeMap;

/// How log records are called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LsnStyle {
    /// Ten times the ordinal, as books do, with the label behind it: `10a`, `20`, `30c`.
    #[default]
    Ordinal,
    /// By label alone, where there is one: `a`, `clr(c)`, `#4`.
    Label,
    /// The engine's LSN, with the label behind it.
    Real,
    /// The engine's LSN as the other tools print it, `0x4a10`.
    Hex,
}

/// The names of records, as they were appended or read.
pub(crate) struct Names {
    style: LsnStyle,
    /// LSN: ordinal, label, the record that it compensates.
    known: BTreeMap<u64, (u64, String, Option<u64>)>,
}

impl Names {
    pub(crate) fn new(style: LsnStyle) -> Names {
        Names { style, known: BTreeMap::new() }
    }
    pub(crate) fn learn(&mut self, row: &Row) {
        let (Some(lsn), Some(rec)) = (row.num("lsn"), row.num("rec")) else { return };
        if row.ev == "log.append" {
            // What a crash has lost gives its place to others.
            self.known.split_off(&lsn);
        }
        let of = row.num("undo_of").or_else(|| self.known.get(&lsn).and_then(|k| k.2));
        let label = row.text("label");
        if !label.is_empty() || !self.known.contains_key(&lsn) || row.ev == "log.append" {
            self.known.insert(lsn, (rec, label.to_string(), of));
        }
    }
    /// Number and label, apart.
    fn parts(&self, lsn: u64) -> (String, String) {
        match (self.style, self.known.get(&lsn)) {
            (LsnStyle::Real, k) => (lsn.to_string(), k.map(|k| k.1.clone()).unwrap_or_default()),
            (LsnStyle::Hex, k) => (format!("{lsn:#x}"), k.map(|k| k.1.clone()).unwrap_or_default()),
            (_, None) => (format!("@{lsn}"), String::new()),
            (LsnStyle::Ordinal, Some((rec, label, _))) => ((10 * rec).to_string(), label.clone()),
            (LsnStyle::Label, Some((rec, label, of))) => match of {
                _ if !label.is_empty() => (label.clone(), String::new()),
                Some(of) => (format!("clr({})", self.short(Some(*of))), String::new()),
                None => (format!("#{rec}"), String::new()),
            },
        }
    }
    /// With its label: how it is called in running text.
    pub(crate) fn name(&self, lsn: Option<u64>) -> String {
        lsn.map_or("null".into(), |l| {
            let (number, label) = self.parts(l);
            number + &label
        })
    }
    /// Without.
    fn short(&self, lsn: Option<u64>) -> String {
        lsn.map_or("null".into(), |l| self.parts(l).0)
    }
    pub(crate) fn page(&self, lsn: Option<u64>) -> String {
        lsn.map_or("none".into(), |l| self.parts(l).0)
    }
    /// The column in front of a line.
    fn column(&self, lsn: Option<u64>) -> String {
        let (number, label) = lsn.map(|l| self.parts(l)).unwrap_or_default();
        format!("{number:>6}{label:<3}")
    }
}

/// The trace as text.
pub fn text(trace: &Trace, style: LsnStyle) -> String {
    let mut w = Writer {
        names: Names::new(style),
        out: String::new(),
        lines: 0,
        phase: String::new(),
        to_undo: BTreeMap::new(),
        undoing: String::new(),
        log_end: None,
    };
    if !trace.name().is_empty() {
        w.line(&format!("# {}", trace.name()));
    }
    for row in &trace.rows {
        w.names.learn(row);
        w.row(row);
    }
    w.out
}

struct Writer {
    names: Names,
    out: String,
    lines: usize,
    phase: String,
    to_undo: BTreeMap<String, Option<u64>>,
    /// The line of an update that is being undone, until its CLR is there.
    undoing: String,
    /// The end of the log that restart found.
    log_end: Option<u64>,
}

fn pad(text: &str, width: usize) -> String {
    format!("{text:<width$}")
}

fn type_name(row: &Row) -> &str {
    match row.text("type") {
        "" => "record",
        t => t,
    }
}

impl Writer {
    fn line(&mut self, text: &str) {
        self.out += text.trim_end();
        self.out.push('\n');
        self.lines += 1;
    }
    /// The heading of a phase, if it is a new one.
    fn enter(&mut self, phase: &str, heading: &str) {
        if self.phase != phase {
            self.phase = phase.to_string();
            self.line(heading);
        }
    }

    fn row(&mut self, r: &Row) {
        match r.ev.as_str() {
            "log.append" => self.appended(r),
            "analysis.start" => self.start(r),
            "analysis.rec" => self.analysed(r),
            "analysis.end" => self.analysis_end(r),
            "redo.rec" => self.redo(r),
            "page.rebuilt" => {
                self.enter("redo", "redo");
                let l = self.names.name(r.num("lsn"));
                self.line(&format!("         {} is rebuilt from {l}, and not read", r.text("page")));
            }
            ev if ev.starts_with("undo.") => self.undo(r),
            "log.end" => self.log_end = r.num("end_lsn"),
            "crash" => self.crash(r),
            "finish" => self.finish(r),
            "error" => self.line(&format!("error    {}", r.text("message"))),
            "show" => self.show(r),
            _ => self.event(r),
        }
    }

    fn of_kind(&self, r: &Row) -> String {
        let what = format!("{} {} {}", pad(type_name(r), 6), r.text("txn"), self.place(r));
        pad(&format!("{}{}", self.names.column(r.num("lsn")), what.trim_end()), 29)
    }
    fn place(&self, r: &Row) -> String {
        let pages: Vec<&str> = r.list("pages").iter().filter_map(Value::as_str).collect();
        if pages.is_empty() { r.text("page").to_string() } else { pages.join("+") }
    }

    fn appended(&mut self, r: &Row) {
        if r.phase == "undo" && r.run > 0 && matches!(r.text("type"), "clr" | "end") {
            return; // told with the decision
        }
        if r.run == 0 {
            self.enter("run", "run");
        }
        let mut more = String::new();
        if let Some(slot) = r.num("slot") {
            let value = |name: &str| r.fields.get(name).map(Value::to_string).unwrap_or("null".into());
            more += &match (r.fields.get("add"), r.text("type")) {
                (Some(n), "update") => format!("[{slot}] += {n}"),
                (None, "update") => format!("[{slot}] {} -> {}", value("before"), value("after")),
                _ => format!("[{slot}]"),
            };
        } else if !r.text("key").is_empty() {
            more += r.text("key");
            if r.text("type") == "update" {
                let value = |name: &str| r.fields.get(name).map(Value::to_string).unwrap_or("null".into());
                more += &format!(": {} -> {}", value("before"), value("after"));
            }
        }
        let rows = r.num("rows").map(|n| format!("{n} row{}", if n == 1 { "" } else { "s" }));
        if let [first, last] = r.list("keys") {
            let key = |v: &Value| v.as_str().unwrap_or("?").to_string();
            more += &format!("{}..{}: {}", key(first), key(last), rows.clone().unwrap_or_default());
        }
        if r.fields.contains_key("undo_next") {
            let of = r.num("undo_of");
            if of.is_some() && of == r.num("undo_next") {
                let rows = rows.unwrap_or("a part".into());
                more += &format!("   undoes {rows} of {}, others are left", self.names.name(of));
            } else {
                if of.is_some() {
                    let rows = rows.map_or(String::new(), |rows| format!("{rows} of "));
                    more += &format!("   undoes {rows}{},", self.names.name(of));
                }
                more += &format!(" next {}", self.names.name(r.num("undo_next")));
            }
        }
        let head = self.of_kind(r);
        self.line(&format!("{head} {more}"));
    }

    fn event(&mut self, r: &Row) {
        if r.run == 0 {
            self.enter("run", "run");
        }
        let by = |w: &str| match w {
            "asked" => "",
            "wal-rule" => " (WAL rule: a page is about to be written)",
            "commit" => " (commit)",
            "checkpoint" => " (checkpoint)",
            "evict" => " (its frame is wanted)",
            "repair" => " (it was rebuilt)",
            _ => " (in the background)",
        };
        let line = match r.ev.as_str() {
            "log.flush" => {
                let rec = r.num("rec").map(|rec| match self.names.style {
                    LsnStyle::Real => r.num("to_lsn").unwrap_or(0).to_string(),
                    LsnStyle::Hex => format!("{:#x}", r.num("to_lsn").unwrap_or(0)),
                    _ => (10 * rec).to_string(),
                });
                format!("         log forced ..{}{}", rec.unwrap_or("none".into()), by(r.text("why")))
            }
            "page.read" if r.phase == "redo" => return, // told with the decision
            "page.read" => {
                format!("         {} read, pageLSN {}", r.text("page"), self.names.page(r.num("page_lsn")))
            }
            "page.write" => {
                let lsn = self.names.page(r.num("page_lsn"));
                format!("         {} written, pageLSN {lsn}{}", r.text("page"), by(r.text("why")))
            }
            "page.image" => format!(
                "         image of {} logged at {}, before it is written",
                r.text("page"),
                self.names.name(r.num("lsn"))
            ),
            "page.repaired" => format!(
                "         {} rebuilt from {} and the log behind it, pageLSN {}",
                r.text("page"),
                self.names.name(r.num("base")),
                self.names.page(r.num("page_lsn"))
            ),
            "page.evict" => format!("         {} leaves the buffer pool", r.text("page")),
            "ckpt.tables" => {
                let (att, dpt) = (self.att(r.list("att")), self.dpt(r.list("dpt")));
                format!("         tables copied: ATT {att}   DPT {dpt}")
            }
            "ckpt.end" => "         the master record names the checkpoint".to_string(),
            "txn" if r.text("what") == "savepoint" => {
                format!("         {} savepoint {}", r.text("txn"), r.text("name"))
            }
            "txn" if r.text("what") == "rollback-to" => {
                format!("         {} rolls back to {}", r.text("txn"), self.names.name(r.num("to_lsn")))
            }
            "txn" if r.text("what") == "wait" => {
                format!("         {} waits for {}", r.text("txn"), r.text("for"))
            }
            _ => return,
        };
        self.line(&line);
    }

    fn att(&self, rows: &[Value]) -> String {
        let one = |e: &Value| {
            let status = e.get(1).and_then(Value::as_str).unwrap_or("U");
            let name = e.get(0).and_then(Value::as_str).unwrap_or("?");
            format!("{name}:{status}@{}", self.names.short(e.get(2).and_then(Value::as_u64)))
        };
        let list: Vec<_> = rows.iter().map(one).collect();
        if list.is_empty() { "empty".into() } else { list.join(" ") }
    }
    fn dpt(&self, rows: &[Value]) -> String {
        let list: Vec<_> = rows.iter().map(|e| self.pair(e)).collect();
        if list.is_empty() { "empty".into() } else { list.join(" ") }
    }
    fn pair(&self, e: &Value) -> String {
        let name = e.get(0).and_then(Value::as_str).unwrap_or("?");
        format!("{name}@{}", self.names.short(e.get(1).and_then(Value::as_u64)))
    }

    fn start(&mut self, r: &Row) {
        self.to_undo.clear();
        self.phase = "analysis".into();
        let disk = match r.list("disk") {
            [] => "no page written".to_string(),
            rows => self.dpt(rows),
        };
        let master = r.num("master").map_or("none".into(), |m| self.names.short(Some(m)));
        let last = self.names.known.last_key_value().map(|(l, _)| *l);
        let end = last.or(self.log_end).map_or("none".into(), |l| self.names.short(Some(l)));
        self.line(&format!("restart {}   stable log ..{end}   master {master}   disk {disk}", r.run));
        let from = self.names.short(r.num("start"));
        let why = if r.text("why") == "master" { "" } else { " (no checkpoint: the log's start)" };
        self.line(&format!("analysis from {from}{why}"));
    }

    fn analysed(&mut self, r: &Row) {
        let mut parts = Vec::new();
        let mut att = Vec::new();
        for e in r.list("att_set") {
            let name = e.get(0).and_then(Value::as_str).unwrap_or("?");
            let lsn = self.names.short(e.get(2).and_then(Value::as_u64));
            let status = e.get(1).and_then(Value::as_str).unwrap_or("U");
            let new = !self.to_undo.contains_key(name);
            self.to_undo.insert(name.to_string(), None);
            let status = if status == "C" { ":C" } else { "" };
            att.push(format!("{}{name}{status}@{lsn}", if new { "+" } else { "" }));
        }
        for e in r.list("att_del") {
            let name = e.as_str().unwrap_or("?");
            self.to_undo.remove(name);
            att.push(format!("-{name}"));
        }
        if !att.is_empty() {
            parts.push(pad(&format!("ATT {}", att.join(" ")), 12));
        }
        let mut dpt: Vec<String> = r.list("dpt_add").iter().map(|e| format!("+{}", self.pair(e))).collect();
        dpt.extend(r.list("dpt_lower").iter().map(|e| format!("{} (older)", self.pair(e))));
        if !dpt.is_empty() {
            parts.push(format!("DPT {}", dpt.join(" ")));
        }
        if r.fields.contains_key("undo_next") {
            let next = self.names.name(r.num("undo_next"));
            parts.push(match r.num("undo_of") {
                Some(u) if r.num("undo_next") == Some(u) => {
                    format!("undoes a part of {next}, others are left")
                }
                Some(u) => format!("undoes {}, next {next}", self.names.name(Some(u))),
                None => format!("next {next}"),
            });
        }
        for e in r.list("why") {
            let (t, why) = (e.get(0).and_then(Value::as_str), e.get(1).and_then(Value::as_str));
            parts.push(format!("{}: {}", t.unwrap_or("?"), why.unwrap_or("?")));
        }
        let merged = r.text("type") == "end_checkpoint" && !(r.list("att_set").is_empty() && dpt.is_empty());
        if merged {
            parts.push("(merged: the checkpoint's tables)".into());
        }
        let head = self.of_kind(r);
        self.line(&format!("{head} {}", parts.join("  ")));
    }

    fn analysis_end(&mut self, r: &Row) {
        self.to_undo.clear();
        let names = |list: &[Value]| {
            let list: Vec<_> = list.iter().filter_map(Value::as_str).collect();
            if list.is_empty() { "none".into() } else { list.join(" ") }
        };
        let (att, dpt) = (self.att(r.list("att")), self.dpt(r.list("dpt")));
        self.line(&format!("  => ATT {att}   DPT {dpt}   losers {}", names(r.list("losers"))));
        if let Some(from) = r.num("redo_from") {
            let page = r.list("dpt").iter().find(|e| e.get(1).and_then(Value::as_u64) == Some(from));
            let page = page.and_then(|e| e.get(0)).and_then(Value::as_str).unwrap_or("?").to_string();
            self.phase = "redo".into();
            self.line(&format!("redo from {} (smallest recLSN: {page})", self.names.short(Some(from))));
        }
    }

    fn redo(&mut self, r: &Row) {
        self.enter("redo", "redo");
        let lsn = self.names.short(r.num("lsn"));
        let page_lsn = self.names.page(r.num("page_lsn"));
        let what = match r.text("reason") {
            "" => {
                let after = self.names.page(r.num("page_lsn_after"));
                let before = if r.flag("page_read") { page_lsn } else { "(not read)".into() };
                format!("REDO  pageLSN {before} -> {after}")
            }
            "page-not-in-dpt" => format!("SKIP  {} page not read", pad("page not in DPT", 25)),
            "lsn-below-reclsn" => {
                let rec = self.names.short(r.num("rec_lsn"));
                format!("SKIP  {} page not read", pad(&format!("LSN {lsn} < recLSN {rec}"), 25))
            }
            "pagelsn-not-below-lsn" => {
                format!("SKIP  {} page read", pad(&format!("pageLSN {page_lsn} >= LSN {lsn}"), 25))
            }
            "older-than-image" => {
                format!("SKIP  {} page not read", pad("older than the page's image", 25))
            }
            other => format!("SKIP  {} page not read", pad(&other.replace('-', " "), 25)),
        };
        let mut row = r.clone();
        row.fields.shift_remove("pages");
        let head = self.of_kind(&row);
        self.line(&format!("{head} {what}"));
    }

    fn set(&self) -> String {
        let mut set: Vec<_> = self.to_undo.iter().collect();
        set.sort_by_key(|(_, l)| std::cmp::Reverse(**l));
        let list: Vec<_> = set.iter().map(|(t, l)| format!("{t}:{}", self.names.short(**l))).collect();
        format!("{{{}}}", list.join(", "))
    }

    fn undo(&mut self, r: &Row) {
        let restart = r.run > 0 && r.phase == "undo";
        match r.ev.as_str() {
            "undo.pick" => {
                self.to_undo = r
                    .list("to_undo")
                    .iter()
                    .filter_map(|e| Some((e.get(0)?.as_str()?.to_string(), e.get(1)?.as_u64())))
                    .collect();
                if self.phase != "undo" {
                    self.phase = "undo".into();
                    let set = if self.to_undo.is_empty() {
                        format!("{} losers", r.num("losers").unwrap_or(0))
                    } else {
                        self.set()
                    };
                    self.line(&format!("undo   to undo {set}"));
                }
            }
            "undo.rec" if r.text("decision") == "compensate" && restart => {
                let head = self.of_kind(r);
                self.undoing = format!("{head} UNDO");
            }
            "undo.rec" if r.text("decision") == "compensate" => {}
            "undo.rec" => {
                self.to_undo.insert(r.text("txn").to_string(), r.num("next"));
                let head = self.of_kind(r);
                let word = if r.text("decision") == "follow" { "FOLLOW" } else { "CHAIN " };
                let next = self.names.name(r.num("next"));
                if restart {
                    self.line(&format!("{head} {word} next {next}"));
                }
            }
            "undo.clr" if restart => {
                // What leaves parts is where undo goes on.
                let left = r.num("left");
                let due = if left.is_some() { r.num("lsn") } else { r.num("undo_next") };
                self.to_undo.insert(r.text("txn").to_string(), due);
                let clr = self.names.short(r.num("lsn"));
                let of = self.names.name(r.num("undo_of"));
                let next = match left {
                    Some(left) => format!("in part, {left} left"),
                    None => format!("next {}", self.names.name(r.num("undo_next"))),
                };
                let set = if r.num("undo_next").is_some() && self.to_undo.len() > 1 {
                    format!("   to undo {}", self.set())
                } else {
                    String::new()
                };
                let line = std::mem::take(&mut self.undoing);
                self.line(&format!("{line} -> {clr} CLR undoes {of} {next}   pageLSN -> {clr}{set}"));
            }
            "undo.end" => {
                self.to_undo.remove(r.text("txn"));
                let set = if self.to_undo.is_empty() {
                    String::new()
                } else {
                    format!("   to undo {}", self.set())
                };
                let end = self.names.short(r.num("lsn"));
                self.line(&format!("{}-> {end} END {}{set}", pad("", 30), r.text("txn")));
            }
            _ => {}
        }
    }

    fn crash(&mut self, r: &Row) {
        let lost: Vec<String> =
            r.list("lost").iter().filter_map(Value::as_u64).map(|rec| (10 * rec).to_string()).collect();
        let lost = if lost.is_empty() { String::new() } else { format!("   lost {}", lost.join(" ")) };
        let torn =
            if r.text("torn").is_empty() { String::new() } else { format!("   torn {}", r.text("torn")) };
        let at = match r.text("injected_at") {
            "a line `crash`" => "",
            at => at,
        };
        let at = if at.is_empty() { String::new() } else { format!("   in {at} (asked)") };
        self.phase = "crash".into();
        self.line(&format!("crash{at}{lost}{torn}"));
        // Lost records give their places to others.
        if let Some(end) = r.num("stable_log_end") {
            self.names.known.split_off(&end);
        }
    }

    fn finish(&mut self, r: &Row) {
        let total = r.fields.get("total").cloned().unwrap_or_default();
        let n = |name: &str| total.get(name).and_then(Value::as_u64).unwrap_or(0);
        let skipped: Vec<(String, u64)> = total
            .get("skipped")
            .and_then(Value::as_object)
            .map(|m| m.iter().map(|(k, v)| (k.clone(), v.as_u64().unwrap_or(0))).collect())
            .unwrap_or_default();
        let sum: u64 = skipped.iter().map(|(_, n)| n).sum();
        let word = |k: &str| match k {
            "page-not-in-dpt" => "page not in DPT".to_string(),
            "lsn-below-reclsn" => "LSN < recLSN".into(),
            "pagelsn-not-below-lsn" => "pageLSN >= LSN".into(),
            k => k.replace('-', " "),
        };
        let order = [
            "page-not-in-dpt",
            "lsn-below-reclsn",
            "pagelsn-not-below-lsn",
            "older-than-image",
            "page-freed",
        ];
        let mut list = Vec::new();
        for name in order {
            if let Some((k, n)) = skipped.iter().find(|(k, _)| k == name) {
                list.push(format!("{} {n}", word(k)));
            }
        }
        let list = if list.is_empty() { String::new() } else { format!(" ({})", list.join(", ")) };
        self.phase = "done".into();
        self.line(&format!(
            "done   analysed {}, redone {}, skipped {sum}{list}, CLRs {}",
            n("analysed"),
            n("redone"),
            n("clrs")
        ));
    }

    fn show(&mut self, r: &Row) {
        match r.text("what") {
            "log" => {
                self.line("log");
                for e in r.list("records") {
                    let n = |f: &str| e.get(f).and_then(Value::as_u64);
                    let t = |f: &str| e.get(f).and_then(Value::as_str).unwrap_or("");
                    let head = format!("{} {} {}", pad(t("type"), 6), t("txn"), t("page"));
                    let head = pad(&format!("{}{}", self.names.column(n("lsn")), head.trim_end()), 29);
                    let mut line = format!("{head} prev {}", self.names.short(n("prev_lsn")));
                    if e.get("undo_next").is_some_and(|v| !v.is_null()) || n("undo_of").is_some() {
                        line += &format!(
                            "   undoes {} next {}",
                            self.names.name(n("undo_of")),
                            self.names.name(n("undo_next"))
                        );
                    }
                    self.line(&line);
                }
            }
            "tables" => {
                let (att, dpt) = (self.att(r.list("att")), self.dpt(r.list("dpt")));
                let dpt = if r.fields.get("dpt").is_none_or(Value::is_null) {
                    String::new()
                } else {
                    format!("   DPT {dpt}")
                };
                self.line(&format!("tables   ATT {att}{dpt}"));
            }
            _ if !r.text("page").is_empty() => {
                let slots: Vec<String> = r
                    .list("slots")
                    .iter()
                    .map(|e| {
                        format!(
                            "[{}] = {}",
                            e.get(0).unwrap_or(&Value::Null),
                            e.get(1).unwrap_or(&Value::Null)
                        )
                    })
                    .collect();
                let lsn = self.names.page(r.num("page_lsn"));
                self.line(&format!("show     {} pageLSN {lsn}   {}", r.text("page"), slots.join("  ")));
            }
            _ if !r.text("key").is_empty() => {
                let value = r.fields.get("value").cloned().unwrap_or_default();
                self.line(&format!(
                    "get      {} {} {} = {value}",
                    r.text("txn"),
                    r.text("table"),
                    r.text("key")
                ));
            }
            _ => {
                let rows: Vec<String> = r
                    .list("rows")
                    .iter()
                    .map(|e| {
                        let t = |i| e.get(i).and_then(Value::as_str).unwrap_or("");
                        format!("{} = {}", t(0), t(1))
                    })
                    .collect();
                self.line(&format!("show     {}   {}", r.text("table"), rows.join("  ")));
            }
        }
    }
}
