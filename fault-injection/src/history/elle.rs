//! Histories in the form that Elle and its relatives read: JSON Lines of operations that were invoked and completed.
use super::record::{History, Kind, Op, Outcome, Transaction};
use super::versions::show;
use serde_json::{Value, json};
use std::io::{self, Write};

/// The operations of a transaction that count: not those that it undid. Reads of ranges are reads of all keys in them.
fn ops(t: &Transaction, kind: Kind, told: bool) -> io::Result<Vec<Value>> {
    let read = |key: u64, state: Option<&[u64]>| match (told, kind) {
        (false, _) => json!(["r", key, null]),
        (true, Kind::Lists) => json!(["r", key, state.unwrap_or(&[])]),
        (true, Kind::Registers) => json!(["r", key, state.and_then(|s| s.last())]),
    };
    let mut out = Vec::new();
    for (op, _) in t.ops.iter().zip(t.kept()).filter(|(_, kept)| *kept) {
        match op {
            Op::Read { key, state, .. } => out.push(read(*key, state.as_deref())),
            Op::Range { low, high, rows, .. } => out.extend((*low..*high).map(|key| {
                let row = rows.binary_search_by_key(&key, |(k, _)| *k).ok().map(|i| rows[i].1.as_slice());
                read(key, row)
            })),
            Op::Write { key, state } => match (state.as_ref().and_then(|s| s.last()), kind) {
                (Some(element), Kind::Lists) => out.push(json!(["append", key, element])),
                (Some(element), Kind::Registers) => out.push(json!(["w", key, element])),
                (None, _) => {
                    let m = format!("T{} deletes key {key}: Elle's histories know no deletions", t.id);
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, m));
                }
            },
            Op::Savepoint | Op::RollbackTo { .. } => {}
        }
    }
    Ok(out)
}

/// Writes a history as Elle's workloads `list-append` and `rw-register` have it. Returns the transaction of each line.
///
/// # Errors
/// Those of the writer; `InvalidInput` if rows are deleted.
pub fn write(h: &History, to: &mut dyn Write) -> io::Result<Vec<u64>> {
    let mut events: Vec<(u64, bool, &Transaction)> = Vec::new();
    for t in &h.transactions {
        events.extend([(t.begin, false, t), (t.end, true, t)]);
    }
    events.sort_by_key(|(when, ..)| *when);
    for (index, (_, over, t)) in events.iter().enumerate() {
        let kind = match (over, t.outcome) {
            (false, _) => "invoke",
            (true, Outcome::Committed { .. }) => "ok",
            (true, Outcome::Aborted | Outcome::Lost { .. }) => "fail",
            (true, Outcome::Unknown) => "info",
        };
        let value = ops(t, h.kind, kind == "ok")?;
        writeln!(to, "{}", json!({ "index": index, "type": kind, "process": t.process, "value": value }))?;
    }
    Ok(events.iter().map(|(.., t)| t.id).collect())
}

/// A transaction in a line, for people.
pub fn line(t: &Transaction) -> String {
    let mut line = format!("T{} {}", t.id, t.level.name());
    match (t.snapshot, t.outcome) {
        (Some(s), _) => line += &format!(" at {s}: "),
        _ => line += ": ",
    }
    let ops: Vec<String> = t
        .ops
        .iter()
        .map(|op| match op {
            Op::Read { key, state, locked, .. } => {
                let lock = if *locked { " for update" } else { "" };
                format!("read {key}{lock} = {}", show(state.as_deref()))
            }
            Op::Range { low, high, rows, .. } => {
                let rows: Vec<String> =
                    rows.iter().map(|(k, row)| format!("{k}: {}", show(Some(row)))).collect();
                format!("range {low}..{high} = {{{}}}", rows.join(", "))
            }
            Op::Write { key, state: None } => format!("delete {key}"),
            Op::Write { key, state } => format!("write {key} = {}", show(state.as_deref())),
            Op::Savepoint => "savepoint".to_owned(),
            Op::RollbackTo { savepoint } => format!("back to operation {savepoint}"),
        })
        .collect();
    line += &ops.join("; ");
    match t.outcome {
        Outcome::Committed { at: Some(at) } => line + &format!("; commit {at}"),
        Outcome::Committed { at: None } => line + "; commit",
        Outcome::Aborted => line + "; aborted",
        Outcome::Lost { .. } => line + "; lost",
        Outcome::Unknown => line + "; unknown",
    }
}
