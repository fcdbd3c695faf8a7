//! What a recorder knows: names, the records of the log, and the tables as the engine has said them.
use hamal::{Lsn, PageId, TxnId};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Records that are remembered at most, in a trace of a real database; older ones are then shown without their type.
const KNOWN_MOST: usize = 1 << 20;
/// Rows of a table that an event lists at most.
const ROWS_MOST: usize = 10_000;

/// A record of the log.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// Its ordinal among the records that are shown.
    pub(crate) rec: u64,
    pub(crate) end: Lsn,
    pub(crate) label: Option<String>,
    pub(crate) kind: &'static str,
    pub(crate) txn: TxnId,
    pub(crate) pages: Vec<PageId>,
    pub(crate) prev: Lsn,
    pub(crate) undo_next: Option<Lsn>,
    pub(crate) undo_of: Option<Lsn>,
    pub(crate) former: Lsn,
    pub(crate) more: Map<String, Value>,
}

/// Counts of a restart.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Counts {
    pub(crate) analysed: u64,
    pub(crate) redone: u64,
    pub(crate) skipped: BTreeMap<&'static str, u64>,
    pub(crate) pages_read: u64,
    pub(crate) clrs: u64,
    pub(crate) ends: u64,
}

impl Counts {
    pub(crate) fn to_json(&self) -> Value {
        let skipped: Map<String, Value> =
            self.skipped.iter().map(|(k, n)| (k.to_string(), (*n).into())).collect();
        json!({
            "analysed": self.analysed,
            "redone": self.redone,
            "skipped": skipped,
            "pages_read": self.pages_read,
            "clrs": self.clrs,
            "ends": self.ends,
        })
    }
}

#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// Where the trace begins: what is below was there before, and its LSNs are shown as none.
    pub(crate) base: Lsn,
    /// Begin record of the checkpoint that restart starts from.
    pub(crate) master: Lsn,
    txns: HashMap<TxnId, String>,
    pub(crate) pages: BTreeMap<PageId, String>,
    log: BTreeMap<Lsn, Known>,
    labels: HashMap<String, Lsn>,
    next_rec: u64,
    /// Newest record of each transaction.
    pub(crate) last: HashMap<TxnId, Lsn>,
    /// Transactions whose abort record is there: in the log, and as far as analysis has come.
    pub(crate) aborting: HashSet<TxnId>,
    pub(crate) seen_aborting: HashSet<TxnId>,
    /// The update that a transaction is undoing.
    pub(crate) undoing: HashMap<TxnId, Lsn>,
    /// The tables of analysis.
    pub(crate) att: BTreeMap<TxnId, (char, Lsn, Lsn)>,
    pub(crate) dpt: BTreeMap<PageId, Lsn>,
    /// CLRs logged so far.
    pub(crate) clrs: u64,
    /// pageLSN of every page on disk that was written since the trace began.
    pub(crate) disk: BTreeMap<PageId, Lsn>,
}

/// The ordinal of a record, or null.
pub(crate) fn lsn_name(facts: &Facts, lsn: Lsn) -> Value {
    facts.known(lsn).map_or(Value::Null, |k| k.rec.into())
}

impl Facts {
    /// Whether records of that kind are shown. The pieces of a checkpoint's tables are told with its end record.
    pub(crate) fn shown(kind: &str) -> bool {
        !matches!(kind, "checkpoint_chunk" | "write_note")
    }

    pub(crate) fn lsn(&self, lsn: Lsn) -> Value {
        if lsn.is_null() || lsn < self.base || lsn == Lsn::MAX { Value::Null } else { lsn.0.into() }
    }
    pub(crate) fn page(&self, page: PageId) -> Value {
        self.pages.get(&page).map_or_else(|| format!("page{page}").into(), |n| n.as_str().into())
    }
    pub(crate) fn txn(&self, txn: TxnId) -> Value {
        if txn.is_none() { Value::Null } else { self.txn_name(txn).into() }
    }
    pub(crate) fn txn_name(&self, txn: TxnId) -> String {
        self.txns.get(&txn).cloned().unwrap_or_else(|| txn.to_string())
    }
    pub(crate) fn name_txn(&mut self, txn: TxnId, name: String) {
        self.txns.insert(txn, name);
    }

    // ---- the log ----

    pub(crate) fn known(&self, lsn: Lsn) -> Option<&Known> {
        self.log.get(&lsn)
    }
    pub(crate) fn label(&self, label: &str) -> Option<Lsn> {
        self.labels.get(label).copied()
    }
    /// The newest CLR that compensates the record.
    pub(crate) fn clr_of(&self, lsn: Lsn) -> Option<Lsn> {
        self.log.iter().rev().find(|(_, k)| k.undo_of == Some(lsn)).map(|(l, _)| *l)
    }
    /// The record with that ordinal.
    pub(crate) fn at_rec(&self, rec: u64) -> Option<Lsn> {
        self.log.iter().find(|(_, k)| k.rec == rec).map(|(l, _)| *l)
    }
    /// The record behind `lsn`, and its ordinal.
    pub(crate) fn next_after(&self, lsn: Lsn) -> Option<(Lsn, u64)> {
        let behind = (std::ops::Bound::Excluded(lsn), std::ops::Bound::Unbounded);
        self.log.range(behind).next().map(|(l, k)| (*l, k.rec))
    }
    /// The id of a transaction of that name whose commit record is in the log, and that record.
    pub(crate) fn committed(&self, name: &str) -> Option<(TxnId, Lsn)> {
        let commit = |(l, k): (&Lsn, &Known)| {
            (k.kind == "commit" && self.txn_name(k.txn) == name).then_some((k.txn, *l))
        };
        self.log.iter().rev().find_map(commit)
    }
    /// What there is of a transaction, unless all of it is lost or rolled back.
    pub(crate) fn presence(&self, name: &str) -> Option<&'static str> {
        if self.committed(name).is_some() {
            return Some("its commit record is in the log");
        }
        let last = self.log.values().rev().find(|k| self.txn_name(k.txn) == name)?;
        (last.kind != "end").then_some("records of it are in the log, and no END")
    }
    /// The log, for people.
    pub(crate) fn list(&self) -> Value {
        let line = |(l, k): (&Lsn, &Known)| {
            json!({"lsn": l.0, "rec": k.rec, "label": k.label, "type": k.kind, "txn": self.txn(k.txn),
                "page": k.pages.first().map(|p| self.page(*p)), "prev_lsn": self.lsn(k.prev),
                "undo_of": k.undo_of.map(|u| self.lsn(u)), "undo_next": k.undo_next.map(|u| self.lsn(u))})
        };
        self.log.iter().map(line).collect()
    }
    pub(crate) fn newest(&self, kind: &str) -> Option<Lsn> {
        self.log.iter().rev().find(|(_, k)| k.kind == kind).map(|(l, _)| *l)
    }
    pub(crate) fn first(&self) -> Value {
        self.log.first_key_value().map_or(Value::Null, |(l, _)| l.0.into())
    }
    /// The ordinal of the last record below `to`.
    pub(crate) fn last_below(&self, to: Lsn) -> Value {
        self.log.range(..to).next_back().map_or(Value::Null, |(_, k)| k.rec.into())
    }
    pub(crate) fn learn(&mut self, lsn: Lsn, mut k: Known) {
        self.next_rec += 1;
        self.clrs += u64::from(k.kind == "clr");
        k.rec = self.next_rec;
        if let Some(label) = &k.label {
            self.labels.insert(label.clone(), lsn);
        }
        if self.log.len() >= KNOWN_MOST {
            self.log.pop_first();
        }
        self.log.insert(lsn, k);
    }
    /// Analysis reads a record that was logged before the trace began.
    pub(crate) fn saw(
        &mut self,
        lsn: Lsn,
        end: Lsn,
        kind: &'static str,
        txn: TxnId,
        prev: Lsn,
        pages: &[PageId],
    ) {
        if self.log.contains_key(&lsn) {
            return;
        }
        let undo_next = matches!(kind, "clr" | "dummy_clr").then_some(prev);
        let prev = if undo_next.is_some() { self.last.get(&txn).copied().unwrap_or_default() } else { prev };
        if !txn.is_none() {
            self.last.insert(txn, lsn);
        }
        let (pages, more) = (pages.to_vec(), Map::new());
        let k = Known {
            rec: 0,
            end,
            label: None,
            kind,
            txn,
            pages,
            prev,
            undo_next,
            undo_of: None,
            former: Lsn::NULL,
            more,
        };
        self.learn(lsn, k);
    }
    /// Undo meets a record that analysis did not read: it lies before the redo point.
    pub(crate) fn name_kind(&mut self, lsn: Lsn, kind: &'static str, txn: TxnId, prev: Lsn) {
        if self.log.contains_key(&lsn) || self.log.len() >= KNOWN_MOST {
            return;
        }
        let undo_next = matches!(kind, "clr" | "dummy_clr").then_some(prev);
        let k = Known {
            rec: 0,
            end: lsn,
            label: None,
            kind,
            txn,
            pages: Vec::new(),
            prev,
            undo_next,
            undo_of: None,
            former: Lsn::NULL,
            more: Map::new(),
        };
        self.learn(lsn, k);
    }
    /// A crash: records from `end` on are lost. Returns their ordinals.
    pub(crate) fn lose_from(&mut self, end: Lsn) -> Vec<u64> {
        let lost = self.log.split_off(&end);
        let lost: Vec<u64> = lost.values().map(|k| k.rec).collect();
        self.next_rec -= lost.len() as u64;
        self.labels.retain(|_, l| *l < end);
        self.last.clear();
        self.aborting.clear();
        for (l, k) in &self.log {
            if !k.txn.is_none() {
                self.last.insert(k.txn, *l);
            }
            if k.kind == "abort" {
                self.aborting.insert(k.txn);
            }
        }
        self.undoing.clear();
        lost
    }

    // ---- tables ----

    /// A restart begins: the tables are empty.
    pub(crate) fn restart(&mut self) {
        self.att.clear();
        self.dpt.clear();
        self.seen_aborting.clear();
    }
    fn row(&self, txn: TxnId, (status, last, next): (char, Lsn, Lsn)) -> Value {
        json!([self.txn_name(txn), status.to_string(), self.lsn(last), self.lsn(next)])
    }
    /// A row of a checkpoint's table.
    pub(crate) fn att_row(&self, txn: TxnId, last: Lsn, next: Lsn) -> Value {
        let status = if self.aborting.contains(&txn) { 'A' } else { 'U' };
        self.row(txn, (status, last, next))
    }
    pub(crate) fn att_set(&mut self, txn: TxnId, last: Lsn, next: Lsn) -> Value {
        let status = if self.seen_aborting.contains(&txn) { 'A' } else { 'U' };
        self.att.insert(txn, (status, last, next));
        self.row(txn, (status, last, next))
    }
    /// The transaction has committed: nothing makes it a loser any more. Its entry stays until an End record takes it away.
    pub(crate) fn att_committed(&mut self, txn: TxnId, last: Lsn) -> Value {
        let entry = ('C', last, Lsn::NULL);
        if self.att.len() < ROWS_MOST {
            self.att.insert(txn, entry);
        } else {
            self.att.remove(&txn);
        }
        self.row(txn, entry)
    }
    /// ATT, DPT by recLSN, and who has committed.
    pub(crate) fn tables(&self) -> (Value, Value, Value) {
        let mut att: Vec<_> = self.att.iter().take(ROWS_MOST).collect();
        att.sort_by_key(|(t, _)| (self.txn_name(**t).len(), self.txn_name(**t)));
        let winners = att.iter().filter(|(_, e)| e.0 == 'C').map(|(t, _)| self.txn(**t)).collect();
        let att = att.into_iter().map(|(t, e)| self.row(*t, *e)).collect();
        let mut dpt: Vec<_> = self.dpt.iter().map(|(p, rec)| (*rec, *p)).collect();
        dpt.sort_unstable();
        let dpt = dpt.into_iter().take(ROWS_MOST).map(|(rec, p)| json!([self.page(p), self.lsn(rec)]));
        (att, dpt.collect(), winners)
    }
    /// Pages on disk with their page LSNs, as far as they were written since the trace began.
    pub(crate) fn disk(&self) -> Value {
        self.disk.iter().take(ROWS_MOST).map(|(p, lsn)| json!([self.page(*p), self.lsn(*lsn)])).collect()
    }
}
