//! The engine's sources under shuttle: schedules that a seed decides, and each planted bug that needs threads.
//!
//! `cargo test -p hamal-model-check`; `HAMAL_MODEL_DEPTH=20` for twenty times as many schedules, `HAMAL_MODEL_SEED=n` for one.
mod commits;
mod log;
mod pages;
mod readers;
mod space;
mod waits;

/// docs/model-checking.md names every planted bug that needs threads, and for each a test that is there.
#[test]
fn every_bug_that_needs_threads_has_a_test() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("../../../docs/model-checking.md")).unwrap();
    let table = text.split("<!-- bugs -->").nth(1).and_then(|t| t.split("<!-- end").next()).unwrap();
    let files = ["commits", "log", "pages", "readers", "space", "waits"];
    let sources: String = files
        .iter()
        .map(|f| std::fs::read_to_string(root.join(format!("tests/check/{f}.rs"))).unwrap())
        .collect();
    let mut named = std::collections::BTreeSet::new();
    for row in table.lines().skip(3) {
        let mut cells = row.split('|').map(str::trim).skip(1);
        let (bug, test) = (cells.next().unwrap(), cells.next().unwrap().trim_matches('`'));
        let bug = hamal_mutants::Mutant::find(bug).unwrap_or_else(|| panic!("no bug {bug}"));
        let body = sources.split(&format!("fn {test}()")).nth(1).unwrap_or_else(|| panic!("no test {test}"));
        let body = body.split("#[test]").next().unwrap();
        assert!(body.contains(&format!("rejects(Mutant::{bug:?},")), "{test} is not about {bug:?}");
        named.insert(bug.name());
    }
    for bug in hamal_mutants::ALL.iter().filter(|b| !b.single_threaded()) {
        assert!(named.contains(bug.name()), "{} has no test", bug.name());
    }
}
