//! Undo in parts (TXN-PARTS): the check of traces knows it, and finds each way in which a trace of it can be wrong.
use hamal_study::{Row, Trace, replay, run, scenario};
use serde_json::{Value, json};
use std::path::Path;

/// The trace of the scenario: undo of b in three parts, before a crash, in a restart that is stopped, and in one that is not.
fn right() -> Trace {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("root");
    let source =
        std::fs::read_to_string(root.join("docs/scenarios/load-in-parts.scn")).expect("the scenario");
    let outcome = run::run("load-in-parts", &source, &scenario::parse(&source).expect("a scenario"));
    assert!(outcome.failure.is_none(), "{:?}", outcome.failure);
    outcome.trace
}

fn is_part(r: &Row) -> bool {
    r.ev == "undo.clr" && r.num("left").is_some()
}

fn set(r: &mut Row, field: &str, value: impl Into<Value>) {
    r.fields.insert(field.into(), value.into());
}

/// What the check says when the `n`th row that `of` picks is changed.
fn found(of: impl Fn(&Row) -> bool, n: usize, change: impl FnOnce(&mut Row)) -> String {
    let mut trace = right();
    change(trace.rows.iter_mut().filter(|r| of(r)).nth(n).expect("such a row"));
    replay(&trace).iter().map(|f| format!("{f}\n")).collect()
}

#[test]
fn undo_in_parts_is_checked() {
    let trace = right();
    assert_eq!(replay(&trace), []);
    assert_eq!(trace.rows.iter().filter(|r| is_part(r)).count(), 2);
    let of =
        |n: usize, field: &str| trace.rows.iter().filter(|r| is_part(r)).nth(n).unwrap().num(field).unwrap();
    let (b, first) = (of(0, "undo_of"), of(0, "lsn"));
    let a = trace.rows.iter().find(|r| r.text("label") == "a").unwrap().num("lsn").unwrap();

    for (what, said) in [
        ("what a CLR leaves is left out", found(is_part, 0, |r| drop(r.fields.shift_remove("left")))),
        ("a CLR that leaves parts leads past its record", found(is_part, 0, |r| set(r, "undo_next", a))),
    ] {
        assert!(said.contains("undoNextLSN of the CLR"), "{what}: {said}");
    }
    let said = found(is_part, 1, |r| set(r, "left", of(0, "left")));
    assert!(said.contains("left 2 parts") && said.contains("the next one leaves 2"), "{said}");
    let said = found(is_part, 0, |r| set(r, "left", 1));
    assert!(said.contains("takes away"), "a part that says less than it did: {said}");
    let clr = |r: &Row| r.ev == "log.append" && r.text("type") == "clr";
    let said = found(clr, 0, |r| set(r, "undo_len", 0));
    assert!(said.contains("if, and only if, it leaves parts"), "{said}");
    let said = found(clr, 0, |r| set(r, "rows", 2));
    assert!(said.contains("takes away"), "{said}");

    // Analysis: undo has to go on at the CLR.
    let said = found(|r| r.ev == "analysis.end", 0, |r| set(r, "att", json!([["T1", "A", first, b]])));
    assert!(said.contains("ATT at the end of analysis"), "{said}");
    // Undo goes on at another place, or with another record.
    let said = found(|r| r.ev == "undo.pick", 0, |r| set(r, "lsn", b));
    assert!(said.contains("the largest undoNext"), "{said}");
    let said = found(|r| r.ev == "undo.rec" && r.run == 1, 0, |r| set(r, "lsn", first));
    assert!(said.contains("the record that undo handles"), "{said}");
    let said = found(|r| r.ev == "undo.rec" && r.num("lsn") == Some(b), 0, |r| set(r, "lsn", a));
    assert!(said.contains("the record that undo handles"), "{said}");
}

/// An engine that forgot the last part, and one that undid a part again.
#[test]
fn parts_left_out_and_parts_undone_again_are_found() {
    let trace = right();
    let steps: Vec<usize> = (0..trace.rows.len()).filter(|i| trace.rows[*i].ev == "undo.clr").collect();
    let of_b = trace.rows[steps[0]].num("undo_of");
    let last = *steps.iter().rfind(|i| trace.rows[**i].num("undo_of") == of_b).unwrap();
    // The last part of b with all of its rows, back to its pick.
    let from = (0..last).rfind(|i| trace.rows[*i].ev == "undo.pick").unwrap();
    let mut short = trace.clone();
    short.rows.drain(from..=last);
    let said = format!("{:?}", replay(&short));
    assert!(said.contains("the to-undo set"), "{said}");
    // The CLR that was the last says that it leaves nothing, and another for the same record follows.
    let mut twice = trace.clone();
    for r in &mut twice.rows[..last] {
        if r.num("undo_of") == of_b && r.ev == "undo.clr" {
            r.fields.shift_remove("left");
        }
    }
    let said = format!("{:?}", replay(&twice));
    assert!(said.contains("is undone by") && said.contains("again by"), "{said}");
}
