//! Expectations, and the lines that show something.
use super::{Runner, slot_json};
use crate::scenario::{Expect, Ref, SlotValue};
use crate::trace::Row;
use hamal::{Lsn, Result as EngineResult};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

type Result<T> = std::result::Result<T, String>;

fn text_of(r: &Ref) -> String {
    match r {
        Ref::Label(l) => l.clone(),
        Ref::Clr(of) => format!("clr({})", text_of(of)),
        Ref::Rec(n) => n.to_string(),
        Ref::Null => "null".into(),
    }
}

fn compare<T: PartialEq>(wanted: T, found: T, show: impl Fn(&T) -> String) -> Result<()> {
    if wanted == found {
        return Ok(());
    }
    Err(format!("expected {}\n  found    {}", show(&wanted), show(&found)))
}

fn shown(value: Option<&SlotValue>) -> String {
    match value {
        None => "0 (empty)".into(),
        Some(SlotValue::Int(n)) => n.to_string(),
        Some(SlotValue::Text(t)) => format!("{t:?}"),
    }
}

impl Runner<'_> {
    fn resolve(&self, r: &Ref) -> Result<Option<u64>> {
        let state = self.recorder.lock();
        let facts = &state.facts;
        fn find(r: &Ref, facts: &crate::facts::Facts) -> Result<Option<u64>> {
            let missing = || format!("there is no record `{}` in the log", text_of(r));
            match r {
                Ref::Null => Ok(None),
                Ref::Label(l) => facts.label(l).map(|l| Some(l.0)).ok_or_else(missing),
                Ref::Rec(n) => {
                    facts.at_rec(*n / 10).filter(|_| n % 10 == 0).map(|l| Some(l.0)).ok_or_else(missing)
                }
                Ref::Clr(of) => {
                    let of = find(of, facts)?.ok_or_else(missing)?;
                    facts.clr_of(Lsn(of)).map(|l| Some(l.0)).ok_or_else(missing)
                }
            }
        }
        find(r, facts)
    }
    /// How a record is called in messages.
    fn called(&self, lsn: Option<u64>) -> String {
        let Some(lsn) = lsn else { return "null".into() };
        let state = self.recorder.lock();
        let Some(k) = state.facts.known(Lsn(lsn)) else { return format!("LSN {lsn}") };
        // Of several CLRs for a record the name means the newest.
        let of = k.undo_of.filter(|u| state.facts.clr_of(*u) == Some(Lsn(lsn)));
        match (&k.label, of.and_then(|u| state.facts.known(u)).and_then(|u| u.label.clone())) {
            (Some(l), _) => l.clone(),
            (None, Some(of)) => format!("clr({of})"),
            (None, None) => format!("{}", 10 * k.rec),
        }
    }
    fn last_restart(&self) -> Vec<Row> {
        let trace = self.recorder.trace();
        let run = trace.rows.iter().map(|r| r.run).max().unwrap_or(0);
        trace.rows.into_iter().filter(|r| r.run == run && run > 0).collect()
    }
    fn table(&self, rows: &[Row], name: &str, at: usize) -> Result<BTreeMap<String, Option<u64>>> {
        let end = rows.iter().find(|r| r.ev == "analysis.end").ok_or("there was no analysis yet")?;
        let entry = |e: &Value| Some((e.get(0)?.as_str()?.to_string(), e.get(at)?.as_u64()));
        Ok(end.list(name).iter().filter_map(entry).collect())
    }
    fn tables_match(&self, rows: &[Row], name: &str, at: usize, wanted: &[(String, Ref)]) -> Result<()> {
        let mut w = BTreeMap::new();
        for (n, r) in wanted {
            w.insert(n.clone(), self.resolve(r)?);
        }
        let found = self.table(rows, name, at)?;
        compare(w, found, |t| {
            let list: Vec<_> = t.iter().map(|(n, l)| format!("{n}@{}", self.called(*l))).collect();
            if list.is_empty() { format!("{name} empty") } else { format!("{name} {}", list.join(" ")) }
        })
    }
    fn refs(&self, refs: &[Ref]) -> Result<Vec<Option<u64>>> {
        refs.iter().map(|r| self.resolve(r)).collect()
    }
    fn list(&self, lsns: &[Option<u64>]) -> String {
        if lsns.is_empty() {
            return "none".into();
        }
        lsns.iter().map(|l| self.called(*l)).collect::<Vec<_>>().join(" ")
    }

    pub(super) fn expect(&self, e: &Expect) -> Result<()> {
        let rows = self.last_restart();
        match e {
            Expect::Att(wanted) => self.tables_match(&rows, "att", 2, wanted),
            Expect::Dpt(wanted) => self.tables_match(&rows, "dpt", 1, wanted),
            Expect::RedoFrom(r) => {
                let found = rows.iter().find(|r| r.ev == "analysis.end").and_then(|r| r.num("redo_from"));
                compare(self.resolve(r)?, found, |l| format!("redo from {}", self.called(*l)))
            }
            Expect::Redone(refs) => {
                let wanted: BTreeSet<_> = self.refs(refs)?.into_iter().collect();
                let done = rows.iter().filter(|r| r.ev == "redo.rec" && r.text("decision") == "redo");
                // Records without a name count only if they are asked for.
                let found = done.filter(|r| !r.text("label").is_empty() || wanted.contains(&r.num("lsn")));
                let found: BTreeSet<_> = found.map(|r| r.num("lsn")).collect();
                let list = |s: &BTreeSet<_>| self.list(&s.iter().copied().collect::<Vec<_>>());
                compare(wanted, found, |s| format!("redone {}", list(s)))
            }
            Expect::Skipped(r, reason) => {
                let lsn = self.resolve(r)?;
                let of_it: Vec<_> =
                    rows.iter().filter(|r| r.ev == "redo.rec" && r.num("lsn") == lsn).collect();
                if of_it.iter().any(|r| r.text("reason") == reason) {
                    return Ok(());
                }
                let found = match of_it.first() {
                    None => "redo did not look at it".to_string(),
                    Some(r) if r.text("decision") == "redo" => "it was redone".into(),
                    Some(r) => format!("skipped {} {}", self.called(lsn), r.text("reason")),
                };
                Err(format!("expected skipped {} {reason}\n  found    {found}", text_of(r)))
            }
            Expect::Losers(names) => self.names(&rows, "losers", names),
            Expect::Winners(names) => self.names(&rows, "winners", names),
            Expect::Undone(refs) => {
                let undone = rows.iter().filter(|r| r.ev == "undo.rec" && r.text("decision") == "compensate");
                let found: Vec<_> = undone.map(|r| r.num("lsn")).collect();
                compare(self.refs(refs)?, found, |l| format!("undone {}", self.list(l)))
            }
            Expect::Clr(of, next) => {
                let clr = self.resolve(&Ref::Clr(Box::new(of.clone())))?;
                let found = {
                    let state = self.recorder.lock();
                    let k = clr.and_then(|l| state.facts.known(Lsn(l)));
                    k.and_then(|k| k.undo_next).and_then(|n| state.facts.lsn(n).as_u64())
                };
                let show = |l: &Option<u64>| format!("clr {} -> {}", text_of(of), self.called(*l));
                compare(self.resolve(next)?, found, show)
            }
            Expect::Slot { page, slot, value } => {
                let store = self
                    .pages
                    .as_ref()
                    .ok_or("no database is open here: a line `recover` is needed first")?;
                let found = self.recorder.muted(|| store.value(page, *slot)).map_err(|e| e.to_string())?;
                let zero = SlotValue::Int(0);
                let same = found.as_ref().unwrap_or(&zero) == value;
                if same {
                    return Ok(());
                }
                let at = format!("{page}[{slot}] = ");
                Err(format!("expected {at}{}\n  found    {at}{}", shown(Some(value)), shown(found.as_ref())))
            }
            Expect::Key { table, key, value } => self.key(table, key, value.as_deref()),
            Expect::Committed(t) => {
                let committed = self.recorder.lock().facts.committed(t).is_some();
                if committed { Ok(()) } else { Err(format!("no commit record of {t} is in the log")) }
            }
            Expect::Absent(t) => match self.recorder.lock().facts.presence(t) {
                None => Ok(()),
                Some(what) => Err(format!("expected absent {t}\n  found    {what}")),
            },
            Expect::Lost(refs) => {
                let trace = self.recorder.trace();
                let lost =
                    trace.rows.iter().rev().find(|r| r.ev == "crash").ok_or("there was no crash yet")?;
                let mut found: Vec<String> = Vec::new();
                for rec in lost.list("lost").iter().filter_map(Value::as_u64) {
                    let made = trace
                        .rows
                        .iter()
                        .rev()
                        .find(|r| r.ev == "log.append" && r.num("rec") == Some(rec) && r.seq < lost.seq);
                    found.extend(made.map(|r| r.text("label").to_string()).filter(|l| !l.is_empty()));
                }
                let mut wanted: Vec<String> = refs.iter().map(text_of).collect();
                found.sort();
                wanted.sort();
                compare(wanted, found, |l| {
                    if l.is_empty() { "lost none".into() } else { format!("lost {}", l.join(" ")) }
                })
            }
            Expect::PageLsn(page, r) => {
                let db =
                    self.db.as_ref().ok_or("no database is open here: a line `recover` is needed first")?;
                let id = self.page_id(page).map_err(|e| e.to_string())?;
                let bytes = self.recorder.muted(|| db.page(id.0)).map_err(|e| e.to_string())?;
                let found = self.recorder.lock().facts.lsn(hamal::raw::header::page_lsn(&bytes)).as_u64();
                compare(self.resolve(r)?, found, |l| format!("pagelsn {page}@{}", self.called(*l)))
            }
            Expect::DiskLsn(page, r) => {
                let id = self.page_id(page).map_err(|e| e.to_string())?;
                let found = {
                    let state = self.recorder.lock();
                    state.facts.disk.get(&id).and_then(|l| state.facts.lsn(*l).as_u64())
                };
                compare(self.resolve(r)?, found, |l| format!("disk {page}@{}", self.called(*l)))
            }
            Expect::Error(kind) => {
                let found = self.last_error.as_ref().map_or("none".into(), |e| format!("{:?}", e.kind()));
                compare(kind.clone(), found, |k| format!("error {k}"))
            }
        }
    }

    fn names(&self, rows: &[Row], field: &str, wanted: &[String]) -> Result<()> {
        let end = rows.iter().find(|r| r.ev == "analysis.end").ok_or("there was no analysis yet")?;
        let found: BTreeSet<_> =
            end.list(field).iter().filter_map(Value::as_str).map(str::to_string).collect();
        let wanted: BTreeSet<_> = wanted.iter().cloned().collect();
        compare(wanted, found, |s| {
            let list: Vec<_> = s.iter().cloned().collect();
            format!("{field} {}", if list.is_empty() { "none".into() } else { list.join(" ") })
        })
    }

    fn key(&self, table: &str, key: &str, wanted: Option<&str>) -> Result<()> {
        let db = self.db.as_ref().ok_or("no database is open here: a line `recover` is needed first")?;
        let found = self.recorder.muted(|| -> EngineResult<_> {
            // Sees what has committed, durable or not.
            let tx = db.begin_write()?;
            tx.tree(table)?.get(key)
        });
        let found = found.map_err(|e| e.to_string())?.map(|v| String::from_utf8_lossy(&v).into_owned());
        let show = |v: &Option<String>| match v {
            Some(v) => format!("{table} {key} = {v}"),
            None => format!("{table} {key} absent"),
        };
        compare(wanted.map(str::to_string), found, show)
    }

    // ---- what is shown ----

    pub(super) fn show_log(&self) -> EngineResult<()> {
        let mut state = self.recorder.lock();
        let recs = state.facts.list();
        state.push("show", vec![("what", "log".into()), ("records", recs)]);
        Ok(())
    }
    pub(super) fn show_tables(&self) -> EngineResult<()> {
        let att = match &self.db {
            Some(db) => db.engine().txns().att(),
            None => Vec::new(),
        };
        let mut state = self.recorder.lock();
        let (att, dpt) = match self.db {
            // Of the running engine: its transactions; which pages are dirty only a checkpoint asks.
            Some(_) => {
                let rows = att.iter().map(|e| state.facts.att_row(e.txn, e.last, e.undo_next)).collect();
                (rows, Value::Null)
            }
            None => {
                let (att, dpt, _) = state.facts.tables();
                (att, dpt)
            }
        };
        state.push("show", vec![("what", "tables".into()), ("att", att), ("dpt", dpt)]);
        Ok(())
    }
    pub(super) fn show(&self, name: &str) -> EngineResult<()> {
        let db = self.open_db()?;
        let row = self.recorder.muted(|| -> EngineResult<_> {
            if let Some(store) = &self.pages {
                let id = store.id(name)?;
                let mut slots = Vec::new();
                for slot in 0..self.scenario.setup.slots {
                    if let Some(v) = store.value(name, slot)? {
                        slots.push(json!([slot, slot_json(Some(&v))]));
                    }
                }
                let page = db.page(id.0)?;
                let lsn = self.recorder.lock().facts.lsn(hamal::raw::header::page_lsn(&page));
                return Ok(vec![("page", name.into()), ("page_lsn", lsn), ("slots", slots.into())]);
            }
            let tx = db.begin_write()?;
            let mut rows = Vec::new();
            for row in tx.tree(name)?.iter() {
                let (k, v) = row?;
                let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
                rows.push(json!([text(&k), text(&v)]));
            }
            Ok(vec![("table", name.into()), ("rows", rows.into())])
        })?;
        self.recorder.lock().push("show", row);
        Ok(())
    }
}
