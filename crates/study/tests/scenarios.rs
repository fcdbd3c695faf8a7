//! Every scenario of `docs/scenarios/` runs on the engine as it expects, the same each time, and its trace passes the check.
use hamal_study::{LsnStyle, Trace, replay, run, scenario, text};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("root").to_path_buf()
}

fn scenarios(dir: &str) -> Vec<(String, String)> {
    let mut all: Vec<_> = fs::read_dir(root().join(dir))
        .expect("docs/scenarios")
        .map(|e| e.expect("entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "scn"))
        .map(|p| (p.file_stem().unwrap().to_string_lossy().into_owned(), fs::read_to_string(&p).unwrap()))
        .collect();
    all.sort();
    all
}

fn run_one(name: &str, source: &str) -> run::Outcome {
    let scenario = scenario::parse(source).unwrap_or_else(|e| panic!("{name}.scn:{e}"));
    run::run(name, source, &scenario)
}

#[test]
fn all_scenarios() {
    let all = scenarios("docs/scenarios");
    assert!(all.len() >= 25, "{}", all.len());
    let mut wrong = Vec::new();
    for (name, source) in &all {
        let first = run_one(name, source);
        if let Some(f) = &first.failure {
            wrong.push(format!("{name}.scn: {f}"));
        }
        let findings: Vec<_> = replay(&first.trace).iter().map(|f| format!("{name}: {f}")).collect();
        if !findings.is_empty() || first.failure.is_some() {
            wrong.push(text(&first.trace, LsnStyle::Ordinal));
        }
        wrong.extend(findings);
        let jsonl = first.trace.to_jsonl();
        assert_eq!(jsonl, run_one(name, source).trace.to_jsonl(), "{name}: not the same twice");
        assert_eq!(Trace::from_jsonl(&jsonl).expect(name), first.trace, "{name}: not the same read back");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Scenarios whose traces are kept in `tests/traces/`: the engine's own regression tests, and what the documents quote.
const GOLDEN: &[&str] = &[
    "rg-18-5",
    "reasons",
    "bounded-logging",
    "fuzzy-tables-late",
    "nested-top-action",
    "images",
    "keys",
    "load-in-parts",
    "page-freed",
];

/// `BLESS=1` rewrites them.
#[test]
fn golden_traces() {
    let dir = root().join("tests/traces");
    let bless = std::env::var_os("BLESS").is_some();
    for name in GOLDEN {
        let source = fs::read_to_string(root().join(format!("docs/scenarios/{name}.scn"))).expect(name);
        let trace = run_one(name, &source).trace;
        for (ext, made) in [("jsonl", trace.to_jsonl()), ("txt", text(&trace, LsnStyle::Ordinal))] {
            let path = dir.join(format!("{name}.{ext}"));
            if bless {
                fs::write(&path, &made).expect("write");
            }
            let kept = fs::read_to_string(&path).unwrap_or_default();
            assert!(
                kept == made,
                "{} differs from what the engine does now: `hamal study diff` shows where, BLESS=1 rewrites it",
                path.display()
            );
        }
    }
}

/// The list of reasons is closed: each of them is met by a scenario, and redo has no way to skip without one.
#[test]
fn every_reason_to_skip_is_met() {
    use hamal::trace::SkipReason;
    let mut met = std::collections::BTreeSet::new();
    for (name, source) in scenarios("docs/scenarios") {
        for row in run_one(&name, &source).trace.rows.iter().filter(|r| r.ev == "redo.rec") {
            let skipped = row.text("decision") == "skip";
            let reason = SkipReason::ALL.iter().find(|r| r.name() == row.text("reason"));
            assert_eq!(skipped, reason.is_some(), "{name}: {}", row.line());
            met.extend(reason.map(|r| r.name()));
        }
    }
    assert_eq!(met, SkipReason::ALL.iter().map(|r| r.name()).collect());
}

/// Mistakes are told with line and column.
#[test]
fn mistakes_have_a_place() {
    for (source, line, column, what) in [
        ("pages P1\nT1 frob P1", 2, 4, "nothing that a transaction does"),
        ("pages P1\nT1 add P2[0] 1", 2, 8, "no page `P2`"),
        ("pages P1\nT1 add P1[9] 1", 2, 11, "8 slots"),
        ("pages P1\nT1 add P1[0] x", 2, 14, "a number is needed"),
        ("pages P1\nT1 write P1[0] = \"x", 2, 18, "no closing quote"),
        ("pages P1\nexpect skipped a because", 2, 18, "a reason is one of"),
        ("pages P1\na: T1 add P1[0] 1\na: T1 add P1[0] 1", 3, 1, "has the name"),
        ("pages P1\ncheckpoint begin", 2, 1, "no end"),
        ("pages P1\nT1 nta begin\ncheckpoint begin\nT1 nta end", 4, 1, "must end first"),
        ("pages P1\ncrash\nimages on", 3, 1, "before the first action"),
        ("pages P1 slots 99", 1, 16, "1 to 32 slots"),
        ("buffer 3\npages P1", 1, 8, "at least 24"),
        ("table t\nT1 write P1[0] = 1", 2, 10, "has no slots"),
        ("table t\nT1 put u k v", 2, 8, "no table `u`"),
        ("flush log", 1, 1, "is needed"),
        ("pages P1\nrecover stop after 3", 2, 21, "`records`, `redo` or `clr`"),
        ("pages P1\ncrash keep log lose log after a", 2, 32, "kept, or lost"),
        ("pages P1\nbreak everything", 2, 7, "no such rule"),
        ("pages P1\ntidy", 2, 1, "no trees"),
        ("table t\nT1 load t { k1 v", 2, 17, "`}`"),
        ("table t\nT1 load t { }", 2, 13, "has rows"),
        ("table t\nT1 load t k1..k12 v", 2, 15, "as many digits"),
        ("table t\nT1 load t k1 v", 2, 14, "`..`"),
        ("table t\nT1 put t k1 x * 99999", 2, 17, "at most 65536 bytes"),
        ("table t\nT1 put t k1 x *", 2, 16, "how many times"),
    ] {
        let bad = scenario::parse(source).expect_err(source);
        assert_eq!((bad.line, bad.column), (line, column), "{source}: {bad}");
        assert!(bad.what.contains(what), "{source}: {bad}");
    }
}

/// A line that the engine refuses, and an expectation that does not hold, name the line and both sides.
#[test]
fn failures_name_the_line() {
    for (source, line, what) in [
        (
            "pages P1\na: T1 add P1[0] 1\ncrash keep log\nrecover\nexpect losers T2",
            5,
            "expected losers T2\n  found    losers T1",
        ),
        (
            "pages P1\nT1 add P1[0] 1\nT1 commit\ncrash\nrecover\nexpect P1[0] = 2",
            6,
            "expected P1[0] = 2\n  found    P1[0] = 1",
        ),
        ("pages P1\na: T1 write P1[0] = 1\nT2 write P1[0] = 2", 3, "T1 has changed the slot"),
        ("pages P1\n! T1 add P1[0] 1", 2, "did not refuse"),
        ("pages P1\ncrash\nT1 add P1[0] 1", 3, "recover"),
        ("pages P1\na: T1 begin", 2, "no log record was made"),
        ("pages P1\na: T1 add P1[0] 1\nT1 commit\ncrash lose log after a\n", 4, "forced behind `a`"),
        ("pages P1\ncrash torn P1", 2, "never written"),
        ("pages P1\nT1 add P1[0] 1\nT1 commit\ncrash\nrecover stop after 1 record", 5, "complete before"),
    ] {
        let f = run_one("mistake", source).failure.expect(source);
        assert_eq!(f.line, line, "{source}: {f}");
        assert!(f.what.contains(what), "{source}: {f}");
    }
}

/// The document quotes the first restart of a golden trace.
#[test]
fn the_document_quotes_the_trace() {
    let trace = fs::read_to_string(root().join("tests/traces/reasons.txt")).expect("trace");
    let (from, to) =
        (trace.find("restart 1").expect("restart 1"), trace.find("restart 2").expect("restart 2"));
    let document = fs::read_to_string(root().join("docs/recovery.md")).expect("docs/recovery.md");
    assert!(document.contains(&trace[from..to]), "docs/recovery.md does not quote what the engine does now");
}
