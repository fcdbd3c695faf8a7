//! Why one record of a database was redone or skipped, undone or not: in sentences, with the numbers that were compared.
//!
//! The decisions are the engine's, out of a trace. What no decision was taken about, because it lies below the redo point, or was
//! undone before the crash, is answered from the log, which whoever asks has read.
use crate::recorder::Picker;
use crate::text::{LsnStyle, Names};
use crate::trace::{Row, Trace};
use crate::words::sentence;
use serde_json::{Value, json};

/// What the log says of a record, and of what followed it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InLog {
    /// Where it starts.
    pub lsn: u64,
    /// Its kind, as traces name it.
    pub kind: String,
    /// Its transaction, as traces name it; empty if it has none.
    pub txn: String,
    /// prevLSN, or undoNextLSN of a CLR.
    pub prev: Option<u64>,
    /// What it does to its pages, for people.
    pub what: String,
    /// Its pages, as traces name them; of each the newest record that gives the page whole, and what that is: `image`, `init`, `free`.
    pub pages: Vec<(String, Option<(u64, String)>)>,
    /// Of a CLR: the record that it compensates.
    pub compensates: Option<u64>,
    /// The CLRs that compensate it, as far as they were logged before recovery.
    pub clrs: Vec<Compensation>,
    /// The dummy CLR that leads past it, and where to: the end of a nested top action.
    pub passed_by: Option<(u64, Option<u64>)>,
    /// The commit record of its transaction.
    pub committed: Option<u64>,
    /// The End record of its transaction.
    pub ended: Option<u64>,
    /// Begin record of the checkpoint that analysis starts from.
    pub checkpoint: u64,
    /// The redo point of that checkpoint.
    pub redo_point: u64,
}

/// A CLR for a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compensation {
    /// The CLR.
    pub clr: u64,
    /// Its undoNextLSN.
    pub next: Option<u64>,
    /// How many parts of the record it leaves.
    pub left: u64,
}

impl InLog {
    /// Picks the rows of a recovery's trace that [`why`] needs, so that no other need be kept.
    pub fn picker(&self) -> Picker {
        let lsn = self.lsn;
        Box::new(move |r| {
            let about = r.num("lsn") == Some(lsn);
            match r.ev.as_str() {
                "analysis.rec" | "redo.rec" | "undo.pick" | "undo.rec" => about,
                "undo.clr" => r.num("undo_of") == Some(lsn),
                "analysis.end" | "error" | "finish" => true,
                _ => false,
            }
        })
    }
}

fn hex(lsn: u64) -> String {
    format!("{lsn:#x}")
}

fn or_null(lsn: Option<u64>) -> String {
    lsn.map_or("null".into(), hex)
}

/// What recovery did with the record, out of the trace of a recovery that was complete: an object with the operands, and `words`, a
/// list of sentences (`docs/formats/trace.md`).
///
/// ```
/// use hamal_study::{InLog, Trace, why};
/// let log = InLog { lsn: 0x2000, kind: "commit".into(), txn: "T1000".into(), committed: Some(0x2000), ..InLog::default() };
/// let answer = why(&Trace::default(), &log);
/// assert_eq!(answer["words"][1], "Redo has nothing to do with it: it changes no page.");
/// ```
pub fn why(trace: &Trace, log: &InLog) -> Value {
    let mut names = Names::new(LsnStyle::Hex);
    trace.rows.iter().for_each(|r| names.learn(r));
    let mut words = vec![identity(log)];
    let redo = redo(trace, log, &names, &mut words);
    let undo = undo(trace, log, &names, &mut words);
    let link = if is_clr(log) { "undo_next" } else { "prev_lsn" };
    let mut answer = json!({
        "lsn": log.lsn,
        "type": log.kind,
        "txn": if log.txn.is_empty() { Value::Null } else { log.txn.as_str().into() },
        "pages": log.pages.iter().map(|(page, _)| page.as_str()).collect::<Vec<_>>(),
        "redo_point": log.redo_point,
        "checkpoint": log.checkpoint,
        "redo": redo,
        "undo": undo,
        "words": words,
    });
    answer[link] = log.prev.map_or(Value::Null, Value::from);
    answer
}

fn is_clr(log: &InLog) -> bool {
    log.kind == "clr" || log.kind == "dummy_clr"
}

fn identity(log: &InLog) -> String {
    let of = if log.txn.is_empty() { String::new() } else { format!(" of {}", log.txn) };
    let pages: Vec<&str> = log.pages.iter().map(|(p, _)| p.as_str()).collect();
    let on = if pages.is_empty() { String::new() } else { format!(" on {}", pages.join(", ")) };
    let link = match (is_clr(log), log.txn.is_empty()) {
        (_, true) => String::new(),
        (true, _) => format!(", undoNextLSN {}", or_null(log.prev)),
        (false, _) => format!(", prevLSN {}", or_null(log.prev)),
    };
    let what = if log.what.is_empty() { String::new() } else { format!(": {}", log.what) };
    format!("{} is a record of the kind {}{of}{on}{link}{what}.", hex(log.lsn), log.kind)
}

// ---- redo ----

/// What redo decided of each page.
fn redo(trace: &Trace, log: &InLog, names: &Names, words: &mut Vec<String>) -> Vec<Value> {
    let lsn = log.lsn;
    if log.pages.is_empty() {
        words.push("Redo has nothing to do with it: it changes no page.".into());
        return Vec::new();
    }
    if lsn < log.redo_point {
        words.push(format!(
            "Redo does not look at it: LSN {} < redo point {}. Every page that it changes was on disk, with the change, when the \
             checkpoint was complete.",
            hex(lsn),
            hex(log.redo_point)
        ));
        return Vec::new();
    }
    let mut out = Vec::new();
    for (page, whole) in &log.pages {
        let of_page = |r: &&Row| r.ev == "redo.rec" && r.num("lsn") == Some(lsn) && r.text("page") == page;
        let Some(r) = trace.rows.iter().find(of_page) else {
            words.push(format!("Recovery did not come so far as to decide about it on {page}."));
            continue;
        };
        let mut said = sentence(names, r);
        // What the decision does not carry: the record that it was compared with.
        match (r.text("reason"), whole) {
            ("older-than-image", Some((w, what))) => {
                said = format!(
                    "Redo skips {}: LSN {} < {}, where the log gives {page} whole ({what}); redo of {page} begins there, and the page \
                     is not read.",
                    hex(lsn),
                    hex(lsn),
                    hex(*w)
                );
            }
            ("page-freed", Some((w, _))) => {
                said = format!(
                    "Redo skips {}: LSN {} >= {}, where {page} was freed, and it was not used again; it is not read.",
                    hex(lsn),
                    hex(lsn),
                    hex(*w)
                );
            }
            ("page-not-in-dpt", _) => {
                said += &format!(
                    " (LSN {} < {}, the begin of the checkpoint: its table does not list {page}, and no later record names it.)",
                    hex(lsn),
                    hex(log.checkpoint)
                );
            }
            _ => {}
        }
        words.push(said);
        let mut row = json!({ "page": page });
        for field in ["decision", "reason", "rec_lsn", "page_lsn", "page_read", "page_lsn_after"] {
            if let Some(v) = r.fields.get(field) {
                row[field] = v.clone();
            }
        }
        if let Some((w, what)) = whole {
            row["whole"] = json!([w, what]);
        }
        out.push(row);
    }
    out
}

// ---- undo ----

/// What became of the change: `decision` and the records that decided.
fn undo(trace: &Trace, log: &InLog, names: &Names, words: &mut Vec<String>) -> Value {
    let (lsn, txn) = (hex(log.lsn), &log.txn);
    let say = |words: &mut Vec<String>, what: String| words.push(what);
    if log.txn.is_empty() {
        say(words, "It belongs to no transaction, so nobody undoes it.".into());
        return json!({ "decision": "no-transaction" });
    }
    if log.kind == "clr" {
        let of = log.compensates.map_or(String::new(), |u| format!(" of {}", hex(u)));
        let next = or_null(log.prev);
        say(
            words,
            match log.compensates == log.prev && log.prev.is_some() {
                true => format!(
                    "It undoes a part{of}: it is redone and never undone, and undo of {txn} goes on with what it leaves."
                ),
                false => format!(
                    "It undoes what{of} was done: it is redone and never undone, and undo of {txn} goes on at {next}."
                ),
            },
        );
        return json!({ "decision": "never-undone", "undo_of": log.compensates });
    }
    if log.kind != "update" {
        say(
            words,
            format!(
                "A record of the kind {} is never undone: undo of {txn} would go on at {}.",
                log.kind,
                or_null(log.prev)
            ),
        );
        return json!({ "decision": "never-undone" });
    }
    let losers = trace.rows.iter().find(|r| r.ev == "analysis.end").map(|r| r.list("losers"));
    let loses = losers.is_some_and(|l| l.iter().any(|t| t.as_str() == Some(txn)));
    for c in &log.clrs {
        say(
            words,
            match c.left {
                0 => format!(
                    "CLR {} undid it before the crash: its undoNextLSN {} < LSN {lsn}, so undo does not come to it again.",
                    hex(c.clr),
                    or_null(c.next)
                ),
                left => format!("CLR {} undid a part of it before the crash, and left {left}.", hex(c.clr)),
            },
        );
    }
    if let Some(c) = log.clrs.iter().find(|c| c.left == 0) {
        return json!({ "decision": "undone-before", "clr": c.clr, "undo_next": c.next });
    }
    if let Some(commit) = log.committed {
        say(
            words,
            format!(
                "{txn} committed at {}, behind LSN {lsn} and within the log that was found: nothing of it is undone.",
                hex(commit)
            ),
        );
        return json!({ "decision": "committed", "commit": commit });
    }
    if let Some((dummy, next)) = log.passed_by {
        say(
            words,
            format!(
                "It lies within a nested top action: the dummy CLR {} leads undo of {txn} to {} < LSN {lsn}, past it.",
                hex(dummy),
                or_null(next)
            ),
        );
        return json!({ "decision": "nested-top-action", "dummy_clr": dummy, "undo_next": next });
    }
    let done: Vec<&Row> =
        trace.rows.iter().filter(|r| r.ev == "undo.clr" && r.num("undo_of") == Some(log.lsn)).collect();
    if done.is_empty() {
        let why = match (loses, log.ended) {
            (_, Some(end)) => format!("{txn} had ended, at {}.", hex(end)),
            (true, None) => format!("{txn} lost, but recovery did not come so far as to undo it."),
            (false, None) => format!("{txn} is no loser of this recovery."),
        };
        say(words, why);
        return json!({ "decision": "not-undone", "loser": loses });
    }
    let picked = trace.rows.iter().find(|r| r.ev == "undo.pick" && r.num("lsn") == Some(log.lsn));
    let mut said = format!("{txn} lost: neither its commit nor its End is in the log that was found.");
    if let Some(p) = picked {
        let next = |e: &Value| e.get(1).and_then(Value::as_u64);
        // The others by their undoNextLSNs, the largest first.
        let others: Vec<String> = p
            .list("to_undo")
            .iter()
            .filter(|e| next(e) != Some(log.lsn))
            .take(4)
            .map(|e| or_null(next(e)))
            .collect();
        said += &match others.is_empty() {
            true => format!(" Its undoNextLSN {lsn} was the only one left to undo, so it was next."),
            false => format!(
                " Its undoNextLSN {lsn} was the largest of all losers, above {}, so it was next.",
                others.join(", ")
            ),
        };
    }
    say(words, said);
    done.iter().for_each(|r| say(words, sentence(names, r)));
    let clrs: Vec<Value> = done
        .iter()
        .map(|r| json!({ "clr": r.num("lsn"), "page": r.text("page"), "undo_next": r.num("undo_next"), "left": r.num("left").unwrap_or(0) }))
        .collect();
    json!({ "decision": "undone", "clrs": clrs })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update() -> InLog {
        InLog {
            lsn: 0x2000,
            kind: "update".into(),
            txn: "T1000".into(),
            prev: Some(0x1000),
            pages: vec![("page7".into(), None)],
            checkpoint: 0x1800,
            redo_point: 0x1400,
            ..InLog::default()
        }
    }

    fn trace(rows: &[&str]) -> Trace {
        let head =
            "{\"seq\":0,\"run\":0,\"phase\":\"run\",\"ev\":\"header\",\"format\":\"recovery-trace/1\"}\n";
        let rows = rows
            .iter()
            .enumerate()
            .map(|(i, r)| format!("{{\"seq\":{},\"run\":1,\"phase\":\"redo\",{r}}}\n", i + 1));
        Trace::from_jsonl(&(head.to_string() + &rows.collect::<String>())).unwrap()
    }

    fn said(answer: &Value) -> String {
        answer["words"].as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn each_reason_names_both_numbers() {
        let row = |reason: &str, more: &str| {
            format!(
                "\"ev\":\"redo.rec\",\"lsn\":8192,\"page\":\"page7\",\"decision\":\"skip\",\"reason\":\"{reason}\",{more}"
            )
        };
        let whole = |what: &str, at: u64| InLog {
            pages: vec![("page7".into(), Some((at, what.into())))],
            ..update()
        };
        for (log, reason, more, words) in [
            (update(), "lsn-below-reclsn", "\"rec_lsn\":12288", "LSN 0x2000 < recLSN 0x3000 of page7"),
            (
                update(),
                "pagelsn-not-below-lsn",
                "\"page_lsn\":12288,\"page_read\":true",
                "pageLSN 0x3000 >= LSN 0x2000",
            ),
            (
                InLog { checkpoint: 0x2800, ..update() },
                "page-not-in-dpt",
                "\"page_lsn\":null",
                "LSN 0x2000 < 0x2800, the begin",
            ),
            (
                whole("image", 0x2400),
                "older-than-image",
                "\"page_lsn\":null",
                "LSN 0x2000 < 0x2400, where the log gives page7 whole (image)",
            ),
            (
                whole("free", 0x2000),
                "page-freed",
                "\"page_lsn\":null",
                "LSN 0x2000 >= 0x2000, where page7 was freed",
            ),
        ] {
            let answer = why(&trace(&[&row(reason, more)]), &log);
            assert!(said(&answer).contains(words), "{}", said(&answer));
            assert_eq!(answer["redo"][0]["reason"], reason);
        }
        let below = InLog { redo_point: 0x2001, ..update() };
        assert!(said(&why(&Trace::default(), &below)).contains("LSN 0x2000 < redo point 0x2001"));
        // A recovery that was stopped before.
        assert!(said(&why(&Trace::default(), &update())).contains("did not come so far"));
    }

    #[test]
    fn each_end_of_a_change_is_told() {
        let lost = "\"ev\":\"analysis.end\",\"losers\":[\"T1000\",\"T900\"]";
        let clr = |left: &str| {
            format!(
                "\"ev\":\"undo.clr\",\"lsn\":16384,\"rec\":9,\"undo_of\":8192,\"undo_next\":4096,\"page\":\"page8\"{left}"
            )
        };
        let pick = "\"ev\":\"undo.pick\",\"lsn\":8192,\"to_undo\":[[\"T1000\",8192],[\"T900\",5120]]";
        let undone = why(&trace(&[lost, pick, &clr("")]), &update());
        assert_eq!(undone["undo"]["decision"], "undone");
        assert_eq!(
            undone["undo"]["clrs"][0],
            json!({"clr": 16384, "page": "page8", "undo_next": 4096, "left": 0})
        );
        let text = said(&undone);
        assert!(text.contains("undoNextLSN 0x2000 was the largest of all losers, above 0x1400"), "{text}");
        assert!(text.contains("CLR 0x4000 undoes 0x2000 on page8 and says: next 0x1000."), "{text}");
        let part = why(&trace(&[lost, &clr(",\"left\":3")]), &update());
        assert!(said(&part).contains("3 parts of it are left"), "{}", said(&part));
        for (log, decision, words) in [
            (InLog { committed: Some(0x2100), ..update() }, "committed", "committed at 0x2100"),
            (
                InLog { clrs: vec![Compensation { clr: 0x2200, next: Some(0x1000), left: 0 }], ..update() },
                "undone-before",
                "CLR 0x2200 undid it before the crash: its undoNextLSN 0x1000 < LSN 0x2000",
            ),
            (
                InLog { passed_by: Some((0x2300, Some(0x1000))), ..update() },
                "nested-top-action",
                "dummy CLR 0x2300 leads",
            ),
            (
                InLog { kind: "structure".into(), ..update() },
                "never-undone",
                "kind structure is never undone",
            ),
            (
                InLog { kind: "clr".into(), compensates: Some(0x1f00), ..update() },
                "never-undone",
                "undo of T1000 goes on at 0x1000",
            ),
            (
                InLog { kind: "image".into(), txn: String::new(), ..update() },
                "no-transaction",
                "no transaction",
            ),
            (update(), "not-undone", "did not come so far as to undo it"),
        ] {
            let answer = why(&trace(&[lost]), &log);
            assert_eq!(answer["undo"]["decision"], decision, "{}", said(&answer));
            assert!(said(&answer).contains(words), "{}", said(&answer));
        }
    }
}
