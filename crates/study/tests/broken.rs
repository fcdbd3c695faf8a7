//! Scenarios that switch a rule of the engine off (`docs/scenarios/broken/`): the check of the trace finds what the broken rule did,
//! or the engine refuses, and without the feature `mutants` the rule cannot be switched off at all.
use hamal_study::{replay, run, scenario};
use std::fs;
use std::path::{Path, PathBuf};

fn broken() -> Vec<(String, String)> {
    let root: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("root").to_path_buf();
    let dir = fs::read_dir(root.join("docs/scenarios/broken")).expect("docs/scenarios/broken");
    let mut all: Vec<_> = dir
        .map(|e| e.expect("entry").path())
        .map(|p| (p.file_stem().unwrap().to_string_lossy().into_owned(), fs::read_to_string(&p).unwrap()))
        .collect();
    all.sort();
    assert_eq!(all.len(), 6);
    all
}

// One test: a rule is off for the whole process.
#[test]
fn a_broken_rule_shows() {
    for (name, source) in broken() {
        let parsed = scenario::parse(&source).unwrap_or_else(|e| panic!("{name}: {e}"));
        let outcome = run::run(&name, &source, &parsed);
        if !hamal::mutants::ENABLED {
            let what = outcome.failure.expect("refused").what;
            assert!(what.contains("feature `mutants`"), "{name}: {what}");
            continue;
        }
        let text = hamal_study::text(&outcome.trace, hamal_study::LsnStyle::Ordinal);
        assert!(outcome.failure.is_none(), "{name}: {}\n{text}", outcome.failure.unwrap());
        let refused = outcome.trace.rows.iter().any(|r| r.ev == "error");
        let found = replay(&outcome.trace);
        assert!(refused || !found.is_empty(), "{name}: nobody has seen it\n{text}");
        println!("{name}: {found:?}");
        // With the rule in force nothing is wrong.
        let sound: String =
            source.lines().filter(|l| !l.starts_with("break ")).map(|l| format!("{l}\n")).collect();
        let outcome = run::run(&name, &sound, &scenario::parse(&sound).unwrap());
        assert!(replay(&outcome.trace).is_empty(), "{name} without the break");
    }
}
