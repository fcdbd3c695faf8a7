//! `hamal study`, `hamal explain` and `hamal recover --trace`.
mod common;

use common::hamal;
use std::fs;
use std::path::Path;

fn scenario(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("root");
    root.join(format!("docs/scenarios/{name}.scn")).display().to_string()
}

/// Every file with its bytes.
fn bytes(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for sub in ["", "wal"] {
        for e in fs::read_dir(dir.join(sub)).unwrap() {
            let path = e.unwrap().path();
            if path.is_file() {
                all.push((path.display().to_string(), fs::read(&path).unwrap()));
            }
        }
    }
    all.sort();
    all
}

#[test]
fn a_scenario_runs_and_is_shown() {
    let file = scenario("reasons");
    let text = hamal(&["study", &file]).ok().out;
    assert!(text.contains("SKIP  LSN 50 < recLSN 140"), "{text}");
    assert!(text.ends_with("(page not in DPT 2, LSN < recLSN 2, pageLSN >= LSN 9), CLRs 5\n"), "{text}");
    let labels = hamal(&["study", &file, "--lsn", "label"]).ok().out;
    assert!(labels.contains("CLR undoes f next clr(e)"), "{labels}");
    let dir = tempfile::tempdir().unwrap();
    let perfetto = dir.path().join("p.json").display().to_string();
    hamal(&["study", &file, "--format", "perfetto", "-o", &perfetto]).ok();
    let json: serde_json::Value = serde_json::from_str(&fs::read_to_string(perfetto).unwrap()).unwrap();
    assert!(json["traceEvents"].as_array().unwrap().len() > 50);
    let page = dir.path().join("p.html").display().to_string();
    hamal(&["study", &file, "--format", "html", "-o", &page]).ok();
    assert!(fs::read_to_string(page).unwrap().contains("recovery-trace/1"));
    let steps = hamal(&["study", &file, "--step"]).ok().out;
    assert!(
        steps.contains("Redo skips 50b: LSN 50 < recLSN 140 of P4; the page is not even read."),
        "{steps}"
    );
}

#[test]
fn what_does_not_hold_is_exit_code_1() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("x.scn");
    let name = file.display().to_string();
    fs::write(&file, "pages P1\nT1 add P1[0] 1\ncrash\nrecover\nexpect P1[0] = 1\n").unwrap();
    let ran = hamal(&["study", &name]).code(1);
    assert!(ran.err.contains("line 5") && ran.err.contains("found    P1[0] = 0"), "{}", ran.err);
    fs::write(&file, "pages P1\nT1 add P9[0] 1\n").unwrap();
    let ran = hamal(&["study", &name]).code(1);
    assert!(ran.err.contains("x.scn:2:8: there is no page `P9`"), "{}", ran.err);
}

#[test]
fn an_exercise_is_set_and_marked() {
    let dir = tempfile::tempdir().unwrap();
    let (file, sheet) = (scenario("steal"), dir.path().join("sheet"));
    let name = sheet.display().to_string();
    hamal(&["study", &file, "--quiz", "-o", &name]).ok();
    let questions = fs::read_to_string(&sheet).unwrap();
    assert!(questions.contains("r1.redo.10a.P1 =\n") && !questions.contains("pagelsn-not"), "{questions}");
    let answers = "r1.att = T1@10\nr1.dpt = P1@10\nr1.losers = T1\nr1.redo_from = 10\n\
        r1.redo.10a.P1 = pagelsn-not-below-lsn\nr1.undo = 10a\n";
    fs::write(&sheet, answers).unwrap();
    assert_eq!(hamal(&["study", &file, "--check", &name]).ok().out, "6 of 6 right\n");
    fs::write(&sheet, answers.replace("pagelsn-not-below-lsn", "redo")).unwrap();
    let ran = hamal(&["study", &file, "--check", &name]).code(1);
    assert!(ran.out.contains("5 of 6 right") && ran.out.contains("pageLSN 10 >= LSN 10"), "{}", ran.out);
}

#[test]
fn traces_are_compared_by_decision() {
    let dir = tempfile::tempdir().unwrap();
    let [a, b] = ["a", "b"].map(|n| dir.path().join(n).display().to_string());
    hamal(&["study", &scenario("reasons"), "--format", "jsonl", "-o", &a]).ok();
    hamal(&["study", "diff", &a, &a]).ok();
    let other = fs::read_to_string(&a).unwrap().replace("lsn-below-reclsn", "page-not-in-dpt");
    fs::write(&b, other).unwrap();
    let ran = hamal(&["study", "diff", &a, &b]).code(1);
    assert!(ran.out.contains("< {\"seq\"") && ran.out.contains("lsn-below-reclsn"), "{}", ran.out);
}

/// A crashed database is explained without a byte of it being changed; then it is recovered, with a trace.
#[test]
fn a_crashed_database_is_explained_and_recovered() {
    let dir = tempfile::tempdir().unwrap();
    let (kept, history) = (dir.path().join("kept"), dir.path().join("x.scn"));
    let lines = "table t\nT1 put t k old\nT1 commit\nT2 put t k new\nT2 put t l x\nflush log\ncrash\n";
    fs::write(&history, lines).unwrap();
    let db = kept.display().to_string();
    hamal(&["study", &history.display().to_string(), "--keep-dir", &db]).ok();
    let before = bytes(&kept);
    let text = hamal(&["explain", &db]).ok().out;
    assert!(text.contains("losers T") && text.contains("CLR undoes"), "{text}");
    let jsonl = hamal(&["explain", &db, "--format", "jsonl"]).ok().out;
    let trace = hamal_study::Trace::from_jsonl(&jsonl).unwrap();
    assert_eq!(hamal_study::replay(&trace), []);
    let undone = trace.rows.iter().find(|r| r.ev == "undo.clr").and_then(|r| r.num("undo_of")).unwrap();
    let why = hamal(&["explain", &db, "--why", &undone.to_string()]).ok().out;
    assert!(why.contains("it is undone, and a CLR is logged"), "{why}");
    let page = trace.rows.iter().find(|r| r.ev == "redo.rec").unwrap().text("page").to_string();
    let life = hamal(&["explain", &db, "--page", page.trim_start_matches("page")]).ok().out;
    assert!(life.lines().count() > 4 && life.contains(&page), "{life}");
    let txn = trace.rows.iter().find(|r| r.ev == "undo.end").unwrap().text("txn").to_string();
    assert!(hamal(&["explain", &db, "--txn", &txn]).ok().out.contains("is rolled back: END."));
    let redo = hamal(&["explain", &db, "--phase", "redo", "--format", "jsonl"]).ok().out;
    assert!(redo.lines().skip(1).all(|l| l.contains("\"phase\":\"redo\"")), "{redo}");
    let stopped = hamal(&["explain", &db, "--stop-after", "1clr"]).ok().out;
    assert_eq!(stopped.matches("CLR undoes").count(), 1, "{stopped}");
    hamal(&["explain", &db, "--why", "1"]).code(1);
    assert_eq!(before, bytes(&kept), "explain changed something");

    let file = dir.path().join("recovery.jsonl");
    hamal(&["recover", &db, "--trace", &file.display().to_string()]).ok();
    let recorded = hamal_study::Trace::from_jsonl(&fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(recorded.rows.iter().filter(|r| r.ev == "undo.clr").count(), 2);
    assert_eq!(recorded.rows.last().unwrap().ev, "finish");
    assert_eq!(hamal(&["get", &db, "t", "k"]).ok().out.trim(), "old");
}

#[test]
fn waldump_follows_a_chain() {
    let dir = tempfile::tempdir().unwrap();
    let (kept, history) = (dir.path().join("kept"), dir.path().join("x.scn"));
    let lines = "table t\nT1 put t a 1\nT1 savepoint s\nT1 put t b 2\nT1 rollback to s\nT1 put t c 3\nflush log\ncrash\n";
    fs::write(&history, lines).unwrap();
    let db = kept.display().to_string();
    hamal(&["study", &history.display().to_string(), "--keep-dir", &db]).ok();
    let all = hamal(&["waldump", &db, "--from-checkpoint", "-r", "update", "--json"]).ok().out;
    let last = all.lines().rfind(|l| l.contains("\"kind\":\"update\"")).unwrap().to_string();
    let lsn = serde_json::from_str::<serde_json::Value>(&last).unwrap()["lsn"].to_string();
    // c, the CLR of b, a.
    let chain = hamal(&["waldump", &db, "-c", &lsn]).ok().out;
    assert_eq!(chain.lines().count(), 3, "{chain}");
    assert!(chain.lines().nth(1).unwrap().contains("clr"), "{chain}");
    hamal(&["waldump", &db, "--chain", "3"]).code(1);
}
