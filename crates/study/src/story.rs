//! Parts of a trace: of one page, one transaction.
use crate::trace::{Row, Trace};
use serde_json::Value;

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
