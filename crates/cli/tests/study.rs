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
    assert!(why.contains(&format!("undoes {undone:#x} on page")), "{why}");
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

/// Each record of a database that has something of everything is answered for, with the numbers that were compared, and both forms
/// of the answer agree.
#[test]
fn one_record_is_explained() {
    let dir = tempfile::tempdir().unwrap();
    let (kept, history) = (dir.path().join("kept"), dir.path().join("x.scn"));
    // As in docs/scenarios/reasons.scn; then a nested top action, and a change that is rolled back.
    let lines = "pages P1..P5\na: T1 add P1[0] 1\nz: T0 add P5[0] 7\nT0 commit\nb: T1 add P4[0] 1\nflush P4\nflush P5\n\
        checkpoint begin\nc: T2 add P2[0] 5\ncheckpoint end\nd: T1 add P3[0] 1\nT1 savepoint s\ne: T1 add P1[0] 1\n\
        T1 rollback to s\nT2 commit\nflush P1\nf: T1 add P4[0] 1\ng: T3 nta { add P2[1] 1 }\nh: T3 add P3[1] 1\ncrash keep log\n";
    fs::write(&history, lines).unwrap();
    let db = kept.display().to_string();
    let ran = hamal(&["study", &history.display().to_string(), "--keep-dir", &db, "--lsn", "real", "--json"])
        .ok()
        .out;
    let trace = hamal_study::Trace::from_jsonl(&ran).unwrap();
    let before = bytes(&kept);
    let named = |name: &str| trace.rows.iter().find(|r| r.text("label") == name).unwrap().num("lsn").unwrap();
    let answer = |lsn: u64, with: &[&str]| {
        let lsn = lsn.to_string();
        hamal(&[&["explain", &db, "--lsn", &lsn], with].concat()).ok().out
    };
    let hex = |lsn: u64| format!("{lsn:#x}");
    let (a, b, c, e, f, h) = (named("a"), named("b"), named("c"), named("e"), named("f"), named("h"));
    for (lsn, reason, undo, words) in [
        (a, "pagelsn-not-below-lsn", "undone", format!(">= LSN {}", hex(a))),
        (named("z"), "page-not-in-dpt", "committed", format!("LSN {} < ", hex(named("z")))),
        (b, "lsn-below-reclsn", "undone", format!("LSN {} < recLSN {}", hex(b), hex(f))),
        (c, "", "committed", format!("< LSN {}, so the change is missing", hex(c))),
        (
            e,
            "pagelsn-not-below-lsn",
            "undone-before",
            format!("< LSN {}, so undo does not come to it again", hex(e)),
        ),
        (f, "", "undone", format!("Its undoNextLSN {} was the only one left", hex(f))),
        (
            h,
            "",
            "undone",
            format!("Its undoNextLSN {} was the largest of all losers, above {}", hex(h), hex(f)),
        ),
        (named("g"), "", "nested-top-action", format!("< LSN {}, past it", hex(named("g")))),
    ] {
        let text = answer(lsn, &[]);
        let json: serde_json::Value = serde_json::from_str(&answer(lsn, &["--json"])).unwrap();
        let said: Vec<&str> = json["words"].as_array().unwrap().iter().map(|w| w.as_str().unwrap()).collect();
        assert_eq!(text, said.join("\n") + "\n");
        assert_eq!(
            (json["redo"][0]["reason"].as_str().unwrap_or(""), json["undo"]["decision"].as_str()),
            (reason, Some(undo)),
            "{text}"
        );
        assert!(text.contains(&words), "no {words:?} in {text}");
    }
    // A CLR, a commit, the records of a checkpoint; and what is no record.
    for r in trace.rows.iter().filter(|r| r.ev == "log.append") {
        let (lsn, kind) = (r.num("lsn").unwrap(), r.text("type"));
        let json: serde_json::Value = serde_json::from_str(&answer(lsn, &["--json"])).unwrap();
        assert_eq!(json["type"], kind);
        match kind {
            "clr" => assert_eq!(json["undo"]["undo_of"].as_u64(), r.num("undo_of")),
            "commit" | "dummy_clr" => assert_eq!(json["undo"]["decision"], "never-undone"),
            _ => {}
        }
    }
    hamal(&["explain", &db, "--lsn", &(a + 1).to_string()])
        .code(1)
        .says("the next one that the log holds starts at");
    hamal(&["explain", &db, "--lsn", "0xffffff"]).code(1).says("no record starts at 0xffffff");
    for other in
        [&["--page", "1"][..], &["--txn", "5"], &["--format", "html"], &["--phase", "redo"], &["--why", "1"]]
    {
        hamal(&[&["explain", &db, "--lsn", &a.to_string()], other].concat()).code(2);
    }
    // With a word, how records are called.
    hamal(&["explain", &db, "--lsn", "label"]).code(2);
    let ordinal = hamal(&["explain", &db, "--lsn", "ordinal", "--log-order"]).ok().out;
    assert!(ordinal.contains("\n    10   update T") && !ordinal.contains(&hex(a)), "{ordinal}");
    let real = hamal(&["explain", &db, "--lsn", "real"]).ok().out;
    assert!(real.contains(&format!(" {a} ")) && !real.contains(&hex(a)), "{real}");
    assert_eq!(hamal(&["explain", &db, "--lsn", "hex"]).ok().out, hamal(&["explain", &db]).ok().out);
    let file = dir.path().join("answer");
    hamal(&["explain", &db, "--lsn", &a.to_string(), "-o", &file.display().to_string()]).ok();
    assert_eq!(fs::read_to_string(file).unwrap(), answer(a, &[]));
    assert_eq!(before, bytes(&kept), "explain changed something");
}

/// A real database whose log ends in the middle of an undo in parts (TXN-PARTS): the trace of its recovery passes the check, which
/// sees nothing of the log but what analysis read; the record that is undone in parts is answered for.
#[test]
fn undo_in_parts_goes_on_in_a_real_database() {
    let dir = tempfile::tempdir().unwrap();
    let (kept, history) = (dir.path().join("kept"), dir.path().join("x.scn"));
    let db = kept.display().to_string();
    for checkpoint in ["", "checkpoint\n"] {
        let lines = format!(
            "table t\nT1 put t a 1\nb: T1 load t {{ k1 v, k3 v, k5 v }}\nT2 put t k2 w\nT2 put t k4 w\nT2 commit\n\
             T1 abort stop after 1\nflush log\n{checkpoint}crash\n"
        );
        fs::write(&history, lines).unwrap();
        let _ = fs::remove_dir_all(&kept);
        hamal(&["study", &history.display().to_string(), "--keep-dir", &db]).ok();
        let trace = hamal_study::Trace::from_jsonl(&hamal(&["explain", &db, "--json"]).ok().out).unwrap();
        assert_eq!(hamal_study::replay(&trace), []);
        // A record that is no CLR leads nowhere else.
        let mut wrong = trace.clone();
        let pick = wrong.rows.iter().position(|r| r.ev == "undo.pick").unwrap();
        let loaded = wrong.rows[pick].num("lsn");
        for r in wrong.rows.iter_mut().filter(|r| r.num("lsn") == loaded && r.text("type") == "clr") {
            r.fields.insert("type".into(), "update".into());
        }
        let said = format!("{:?}", hamal_study::replay(&wrong));
        assert!(said.contains("the record that undo handles"), "{said}");
        let left: Vec<u64> =
            trace.rows.iter().filter(|r| r.ev == "undo.clr").map(|r| r.num("left").unwrap_or(0)).collect();
        assert_eq!(left, [1, 0, 0], "two parts of b, and a");
        let b = trace.rows.iter().find(|r| r.ev == "undo.clr").unwrap().num("undo_of").unwrap().to_string();
        let why = hamal(&["explain", &db, "--lsn", &b]).ok().out;
        assert!(why.contains("undid a part of it before the crash, and left 2."), "{why}");
        assert!(why.contains("1 parts of it are left") && why.contains("and says: next 0x"), "{why}");
    }
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
