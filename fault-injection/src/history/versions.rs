//! What both checkers need of a history: which reads tell of others' writes, and who wrote what.
use super::judge::{Anomaly, Violation};
use super::record::{History, Op, Span, State, Transaction};
use std::collections::{BTreeMap, HashMap};

/// What a transaction was told of a row that it had not written itself.
#[derive(Clone, Debug)]
pub(super) struct Seen<'h> {
    pub(super) op: usize,
    pub(super) key: u64,
    pub(super) state: Option<&'h [u64]>,
    pub(super) locked: bool,
    /// The row was not met by a range: only the predicate tells of it.
    pub(super) predicate: bool,
    pub(super) at: Option<Span>,
    /// Not undone with a savepoint.
    pub(super) kept: bool,
}

/// The reads of others' rows; and what the transaction was told wrongly of its own.
pub(super) fn reads<'h>(t: &'h Transaction, wrong: &mut Vec<Violation>) -> Vec<Seen<'h>> {
    let kept = t.kept();
    let mut own: BTreeMap<u64, &'h State> = BTreeMap::new();
    // Which write each operation replaced in `own`.
    let mut undo: Vec<(usize, u64, Option<&'h State>)> = Vec::new();
    let mut seen = Vec::new();
    for (op, o) in t.ops.iter().enumerate() {
        let mut tell = |key: u64, state: Option<&'h [u64]>, locked, predicate, at| match own.get(&key) {
            None => seen.push(Seen { op, key, state, locked, predicate, at, kept: kept[op] }),
            Some(mine) if mine.as_deref() == state => {}
            Some(mine) => wrong.push(Violation::of(
                Anomaly::Internal,
                &[t.id],
                format!(
                    "T{} wrote {} to key {key} and then read {}",
                    t.id,
                    show(mine.as_deref()),
                    show(state)
                ),
            )),
        };
        match o {
            Op::Read { key, state, locked, at } => tell(*key, state.as_deref(), *locked, false, *at),
            Op::Range { low, high, rows, at } => {
                let mut there = rows.iter().peekable();
                for key in *low..*high {
                    let row = there.next_if(|(k, _)| *k == key).map(|(_, row)| row.as_slice());
                    tell(key, row, false, row.is_none(), *at);
                }
                if let Some((key, _)) = there.next() {
                    let m = format!("T{} read key {key} out of order in the range {low}..{high}", t.id);
                    wrong.push(Violation::of(Anomaly::Internal, &[t.id], m));
                }
            }
            Op::Write { key, state } => undo.push((op, *key, own.insert(*key, state))),
            Op::Savepoint => {}
            Op::RollbackTo { savepoint } => {
                while undo.last().is_some_and(|(op, ..)| op > savepoint) {
                    if let Some((_, key, before)) = undo.pop() {
                        match before {
                            Some(state) => own.insert(key, state),
                            None => own.remove(&key),
                        };
                    }
                }
            }
        }
    }
    seen
}

/// Who wrote an element.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    /// Index of the transaction.
    pub(super) writer: usize,
    pub(super) key: u64,
    /// It is what the writer leaves behind of the row (or a part of that, if rows are lists), not undone by a savepoint.
    pub(super) kept: bool,
    /// It is the last that the writer wrote there.
    pub(super) last: bool,
}

/// The writers of all elements. An element that was written twice is a fault of the workload, and reported.
pub(super) fn origins(h: &History, wrong: &mut Vec<Violation>) -> HashMap<u64, Origin> {
    let mut origins = HashMap::new();
    for (writer, t) in h.transactions.iter().enumerate() {
        let (kept, writes) = (t.kept(), t.writes());
        for (op, kept) in t.ops.iter().zip(kept) {
            let Op::Write { key, state: Some(elements) } = op else { continue };
            let Some(element) = elements.last() else { continue };
            let last = writes.get(key).is_some_and(|s| s.as_ref().is_some_and(|s| s.last() == Some(element)));
            if origins.insert(*element, Origin { writer, key: *key, kept, last }).is_some() {
                let m = format!("element {element} of key {key} was written twice");
                wrong.push(Violation::of(Anomaly::Garbage, &[t.id], m));
            }
        }
    }
    origins
}

/// A state in words.
pub(super) fn show(state: Option<&[u64]>) -> String {
    match state {
        None => "no row".to_owned(),
        Some(elements) if elements.len() > 6 => {
            format!("[.. {} earlier, {:?}]", elements.len() - 4, &elements[elements.len() - 4..])
        }
        Some(elements) => format!("{elements:?}"),
    }
}
