//! Where two traces differ: the first decision, not the first byte.
use crate::trace::{Row, Trace};

/// The first row at which two traces differ.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Which event, counted from 1 in both.
    pub number: usize,
    /// The row of the first trace, unless it is at its end.
    pub left: Option<Row>,
    /// The row of the second trace, unless it is at its end.
    pub right: Option<Row>,
}

/// Compares the events of two traces. `same_lsns`: LSNs count; otherwise records are compared by ordinal and label, so that
/// two versions of the engine whose records have other lengths can be compared.
pub fn diff(left: &Trace, right: &Trace, same_lsns: bool) -> Option<Difference> {
    let most = left.rows.len().max(right.rows.len());
    let plain = |row: &Row| {
        let mut row = row.clone();
        row.seq = 0;
        if !same_lsns {
            row.fields.retain(|name, _| !is_lsn(name));
        }
        row
    };
    (0..most).find_map(|i| {
        let (l, r) = (left.rows.get(i), right.rows.get(i));
        (l.map(plain) != r.map(plain)).then(|| Difference {
            number: i + 1,
            left: l.cloned(),
            right: r.cloned(),
        })
    })
}

/// Fields whose values are places in the log, or lists with places in them.
fn is_lsn(name: &str) -> bool {
    name.contains("lsn")
        || matches!(
            name,
            "stable_log_end"
                | "undo_of"
                | "undo_next"
                | "next"
                | "master"
                | "start"
                | "begin"
                | "base"
                | "redo_from"
                | "redo_point"
                | "att"
                | "dpt"
                | "att_set"
                | "dpt_add"
                | "dpt_lower"
                | "to_undo"
                | "disk"
                | "pages"
                | "bytes"
                | "redo_len"
                | "undo_len"
                | "records"
        )
}
