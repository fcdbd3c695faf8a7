//! One sentence for each event, with the operands that decided.
use crate::text::{LsnStyle, Names};
use crate::trace::{Row, Trace};
use serde_json::Value;

/// A sentence for each row of the trace.
///
/// ```
/// let text = "pages P1\na: T1 add P1[0] 5\nT1 commit\nflush P1\ncrash\nrecover\n";
/// let scenario = hamal_study::scenario::parse(text).unwrap();
/// let trace = hamal_study::run::run("x", text, &scenario).trace;
/// let said = hamal_study::sentences(&trace, hamal_study::LsnStyle::Ordinal);
/// assert!(said.iter().any(|s| s == "Redo skips 10a on P1: its pageLSN 10 >= LSN 10, so the page on disk holds the change."));
/// ```
pub fn sentences(trace: &Trace, style: LsnStyle) -> Vec<String> {
    let mut names = Names::new(style);
    trace
        .rows
        .iter()
        .map(|row| {
            names.learn(row);
            sentence(&names, row)
        })
        .collect()
}

fn tables(names: &Names, r: &Row) -> String {
    let lsn = |v: Option<&Value>| names.page(v.and_then(Value::as_u64));
    let name = |v: Option<&Value>| v.and_then(Value::as_str).unwrap_or("?").to_string();
    let mut parts = Vec::new();
    for e in r.list("att_set") {
        let status = name(e.get(1));
        let last = lsn(e.get(2));
        parts.push(match status.as_str() {
            "C" => format!("{} has committed, and is no loser", name(e.get(0))),
            _ => format!(
                "{} is in the ATT with lastLSN {last} and undoNextLSN {}",
                name(e.get(0)),
                lsn(e.get(3))
            ),
        });
    }
    for e in r.list("att_del") {
        parts.push(format!("{} leaves the ATT", name(Some(e))));
    }
    for e in r.list("dpt_add") {
        parts.push(format!("{} enters the DPT with recLSN {}", name(e.get(0)), lsn(e.get(1))));
    }
    for e in r.list("dpt_lower") {
        parts.push(format!("the recLSN of {} becomes {}", name(e.get(0)), lsn(e.get(1))));
    }
    for e in r.list("why") {
        parts.push(format!("the table's entry of {} is left out: {}", name(e.get(0)), name(e.get(1))));
    }
    // A checkpoint's tables may be long.
    const MOST: usize = 8;
    if parts.len() > MOST {
        let more = parts.len() - MOST;
        parts.truncate(MOST);
        parts.push(format!("and {more} more changes"));
    }
    if parts.is_empty() { "nothing changes in the tables".into() } else { parts.join("; ") }
}

/// What the event says, in a sentence.
pub(crate) fn sentence(names: &Names, r: &Row) -> String {
    let lsn = |f: &str| names.name(r.num(f));
    let (page, txn) = (r.text("page"), r.text("txn"));
    match r.ev.as_str() {
        // It leads to the record itself.
        "log.append"
            if r.text("type") == "clr"
                && r.num("undo_of").is_some()
                && r.num("undo_of") == r.num("undo_next") =>
        {
            let rows = r
                .num("rows")
                .map_or("a part".into(), |n| format!("{n} row{}", if n == 1 { "" } else { "s" }));
            format!(
                "{} is a clr of {txn} that undoes {rows} of {}; undo goes on with what it leaves of that.",
                lsn("lsn"),
                lsn("undo_of")
            )
        }
        "log.append" if r.fields.contains_key("undo_next") => {
            let of = if r.num("undo_of").is_some() {
                format!(" that undoes {}", lsn("undo_of"))
            } else {
                String::new()
            };
            format!(
                "{} is a {} of {txn}{of}; undo goes on at {}.",
                lsn("lsn"),
                r.text("type"),
                lsn("undo_next")
            )
        }
        "log.append" => {
            let who = if txn.is_empty() { String::new() } else { format!(" of {txn}") };
            let place = if page.is_empty() { String::new() } else { format!(" on {page}") };
            format!(
                "{} is logged: {}{who}{place}, prevLSN {}.",
                lsn("lsn"),
                r.text("type"),
                names.page(r.num("prev_lsn"))
            )
        }
        "log.flush" => format!("The log is forced ({}).", r.text("why")),
        "page.read" => format!("{page} is read; its pageLSN is {}.", names.page(r.num("page_lsn"))),
        "page.write" => {
            format!("{page} is written with pageLSN {} ({}).", names.page(r.num("page_lsn")), r.text("why"))
        }
        "page.image" => format!("An image of {page} is logged at {} before it is written.", lsn("lsn")),
        "page.repaired" => format!("{page} is rebuilt from {} and what the log has behind it.", lsn("base")),
        "page.evict" => format!("{page} leaves the buffer pool."),
        "ckpt.begin" => format!("A checkpoint begins at {}.", lsn("lsn")),
        "ckpt.tables" => "The checkpoint copies both tables, while work may go on.".into(),
        "ckpt.end" => format!(
            "The checkpoint ends at {}; the master record names its begin, {}.",
            lsn("lsn"),
            lsn("begin")
        ),
        "txn" => format!("{txn}: {}.", r.text("what")),
        "crash" => {
            format!("The machine stops; {} records that were never forced are lost.", r.list("lost").len())
        }
        "log.end" => {
            format!("The log ends behind record {}: {}.", r.num("rec").unwrap_or(0), r.text("verdict"))
        }
        "analysis.start" => format!("Analysis starts from {} ({}).", lsn("start"), r.text("why")),
        "analysis.rec" => {
            format!("Analysis reads {} ({}): {}.", lsn("lsn"), r.text("type"), tables(names, r))
        }
        "analysis.end" => {
            let losers: Vec<_> = r.list("losers").iter().filter_map(Value::as_str).collect();
            let losers = if losers.is_empty() { "nobody".into() } else { losers.join(", ") };
            format!(
                "Analysis is done: {losers} lost, redo starts from the smallest recLSN, {}.",
                lsn("redo_from")
            )
        }
        "page.rebuilt" => format!("{page} is rebuilt from {}; it is not read.", lsn("lsn")),
        "redo.rec" => redo(names, r),
        "undo.pick" => {
            format!("Of all losers the largest undoNextLSN is {}, of {txn}: it is undone next.", lsn("lsn"))
        }
        "undo.rec" => match r.text("decision") {
            "compensate" => {
                format!("{} is an update of {txn}: it is undone, and a CLR is logged.", lsn("lsn"))
            }
            "follow" => format!(
                "{} is a {}: nothing below it is undone again, undo goes on at {}.",
                lsn("lsn"),
                r.text("type"),
                lsn("next")
            ),
            _ => format!(
                "{} ({}) changes nothing that could be undone: on to its prevLSN, {}.",
                lsn("lsn"),
                r.text("type"),
                lsn("next")
            ),
        },
        "undo.clr" => match r.num("left") {
            Some(left) => format!(
                "CLR {} undoes a part of {} on {page} and says: {left} parts of it are left.",
                lsn("lsn"),
                lsn("undo_of")
            ),
            None => format!(
                "CLR {} undoes {} on {page} and says: next {}.",
                lsn("lsn"),
                lsn("undo_of"),
                lsn("undo_next")
            ),
        },
        "undo.end" => format!("{txn} is rolled back: END."),
        "finish" => "Recovery is complete.".into(),
        "error" => format!("Recovery fails: {}.", r.text("message")),
        _ => format!("{}.", r.ev),
    }
}

fn redo(names: &Names, r: &Row) -> String {
    let (lsn, page) = (names.name(r.num("lsn")), r.text("page"));
    let (rec, page_lsn) = (names.page(r.num("rec_lsn")), names.page(r.num("page_lsn")));
    let short = names.page(r.num("lsn"));
    match r.text("reason") {
        "" if r.flag("page_read") => {
            format!(
                "Redo applies {lsn} to {page}: its pageLSN {page_lsn} < LSN {short}, so the change is missing."
            )
        }
        "" => format!("Redo makes {page} from {lsn}, which holds the whole page; it is not read."),
        "page-not-in-dpt" => {
            format!(
                "Redo skips {lsn}: {page} is in no dirty page table, so it was on disk at the checkpoint; it is not read."
            )
        }
        "lsn-below-reclsn" => {
            format!("Redo skips {lsn}: LSN {short} < recLSN {rec} of {page}; the page is not even read.")
        }
        "pagelsn-not-below-lsn" => {
            format!(
                "Redo skips {lsn} on {page}: its pageLSN {page_lsn} >= LSN {short}, so the page on disk holds the change."
            )
        }
        "older-than-image" => {
            format!("Redo skips {lsn}: a later whole-page record of {page} holds it; the page is not read.")
        }
        "page-freed" => format!("Redo skips {lsn}: {page} was freed later; it is not read."),
        other => format!("Redo skips {lsn} on {page}: {other}."),
    }
}
