//! Which records are printed.

use super::Waldump;
use hamal::inspect::Inspect;
use hamal::log::{Record, RecordKind};
use hamal::{Lsn, PageId, TxnId};
use std::collections::{HashMap, HashSet};

/// The filters, and what of the records that went by they need later.
pub(super) struct Wanted<'a> {
    options: &'a Waldump,
    key: Option<&'a [u8]>,
    /// What begins before this is not printed.
    from: Option<u64>,
    /// Of the records that name the key, by transaction: themselves, and their prevLSNs.
    named: HashMap<TxnId, Named>,
}

#[derive(Default)]
struct Named {
    records: HashSet<Lsn>,
    before: HashSet<Lsn>,
}

impl<'a> Wanted<'a> {
    pub(super) fn new(options: &'a Waldump, key: Option<&'a [u8]>, from: Option<u64>) -> Wanted<'a> {
        Wanted { options, key, from, named: HashMap::new() }
    }
    /// Whether the record is one. Shown every record, in the order of the log: also those that are not.
    pub(super) fn sees(&mut self, inspect: &Inspect, r: &Record) -> bool {
        let c = self.options;
        let key = self.key.is_none_or(|key| self.is_about(inspect, r, key));
        let page = |p: u64| match c.slot {
            Some(slot) => inspect.names_slot(r, PageId(p), slot),
            None => r.blocks.iter().any(|b| b.page.0 == p),
        };
        key && c.txn.is_none_or(|t| r.txn.0 == t)
            && c.page.is_none_or(page)
            && (c.kind.is_empty() || c.kind.iter().any(|k| k == r.kind.name()))
            && self.from.is_none_or(|from| r.lsn.0 >= from)
    }

    /// A CLR names no key; but it leads where the record that it compensates leads back to, and of one transaction no two
    /// records lead back to the same. If it leaves parts of its record, it leads to that itself.
    fn is_about(&mut self, inspect: &Inspect, r: &Record, key: &[u8]) -> bool {
        match r.kind {
            RecordKind::Update if inspect.names_key(r, key) => {
                let named = self.named.entry(r.txn).or_default();
                named.records.insert(r.lsn);
                named.before.insert(r.prev);
                true
            }
            RecordKind::Clr => self.named.get(&r.txn).is_some_and(|named| match r.undo() {
                [] => named.before.contains(&r.prev),
                _ => named.records.contains(&r.prev),
            }),
            RecordKind::Commit | RecordKind::End => {
                self.named.remove(&r.txn);
                false
            }
            _ => false,
        }
    }
}
