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
const GOLDEN: &[&str] = &["rg-18-5", "reasons"];

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
