//! Parts of a trace: of one page, one transaction, one record.
use crate::text::{LsnStyle, Names};
use crate::trace::{Row, Trace};
use crate::words::sentence;
use serde_json::Value;
use std::collections::BTreeSet;

/// Which rows are kept. Empty: all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Rows that name the page.
    pub page: Option<String>,
    /// Rows that name the transaction.
    pub txn: Option<String>,
    /// Rows about records from this LSN on.
    pub start: Option<u64>,
    /// Rows about records below this LSN.
    pub end: Option<u64>,
    /// Rows of the phases.
    pub phases: Vec<String>,
}

impl Filter {
    /// Whether a row is kept.
    pub fn keeps(&self, r: &Row) -> bool {
        let names = |wanted: &str, fields: &[&str], lists: &[&str]| {
            fields.iter().any(|f| r.text(f) == wanted)
                || lists.iter().any(|l| {
                    let first = |e: &Value| {
                        e.as_str() == Some(wanted) || e.get(0).and_then(Value::as_str) == Some(wanted)
                    };
                    r.list(l).iter().any(first)
                })
        };
        let page = |p: &String| names(p, &["page"], &["pages", "dpt_add", "dpt_lower", "dpt"]);
        let txn = |t: &String| names(t, &["txn"], &["att_set", "att_del", "why", "losers", "to_undo", "att"]);
        self.page.as_ref().is_none_or(page)
            && self.txn.as_ref().is_none_or(txn)
            && (self.phases.is_empty() || self.phases.contains(&r.phase))
            && match r.num("lsn") {
                Some(lsn) => self.start.is_none_or(|s| lsn >= s) && self.end.is_none_or(|e| lsn < e),
                None => self.start.is_none() && self.end.is_none(),
            }
    }
    /// The trace with the kept rows alone. Their numbers stay.
    #[must_use]
    pub fn apply(&self, trace: &Trace) -> Trace {
        let rows = trace.rows.iter().filter(|r| self.keeps(r)).cloned().collect();
        Trace { header: trace.header.clone(), rows }
    }
    /// Whether everything is kept.
    pub fn is_empty(&self) -> bool {
        *self == Filter::default()
    }
}

/// Why a record was, or was not, applied and undone: a sentence or more; `None` if the trace does not speak of it.
pub fn why(trace: &Trace, lsn: u64, style: LsnStyle) -> Option<String> {
    let mut names = Names::new(style);
    let mut said = Vec::new();
    let mut seen = BTreeSet::new();
    let mut of = None;
    let mut loser = false;
    for r in &trace.rows {
        names.learn(r);
        let about = r.num("lsn") == Some(lsn);
        if about && !r.text("txn").is_empty() {
            of = Some(r.text("txn").to_string());
        }
        if r.ev == "analysis.end" {
            loser = r.list("losers").iter().any(|t| t.as_str() == of.as_deref() && of.is_some());
        }
        let wanted = match r.ev.as_str() {
            "log.append" | "analysis.rec" | "redo.rec" | "undo.rec" => about,
            "undo.clr" => about || r.num("undo_of") == Some(lsn),
            _ => false,
        };
        // A run of a scenario has several restarts, which may say the same.
        if wanted && seen.insert((r.run, r.ev.clone(), r.seq)) {
            let run = if r.run > 1 { format!("Restart {}: ", r.run) } else { String::new() };
            said.push(run + &sentence(&names, r));
        }
    }
    let redo = trace.rows.iter().any(|r| r.ev == "redo.rec" && r.num("lsn") == Some(lsn));
    let undone = trace.rows.iter().any(|r| r.num("undo_of") == Some(lsn));
    if said.is_empty() {
        return None;
    }
    if !redo {
        said.push(
            "Redo has nothing to do with it: it changes no page, or lies before the redo point.".into(),
        );
    }
    if let Some(t) = of.filter(|_| !undone) {
        said.push(match loser {
            true => format!("{t} lost, but this record was not undone: it cannot be, or was undone before, or lies behind a CLR's jump."),
            false => format!("{t} had ended, so nothing of it is undone."),
        });
    }
    Some(said.join("\n"))
}
