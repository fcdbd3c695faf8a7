//! The repository held to its own rules.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("workspace").to_path_buf()
}

fn files(dir: &Path, ext: &str, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).expect("read_dir") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            if path.file_name().is_some_and(|n| n != "target" && n != ".git") {
                files(&path, ext, out);
            }
        } else if path.extension().is_some_and(|e| e == ext) {
            out.push(path);
        }
    }
}

fn all(ext: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    files(&root(), ext, &mut out);
    out.sort();
    out.into_iter()
        .map(|p| {
            let name = p.strip_prefix(root()).expect("inside").to_string_lossy().into_owned();
            let text = fs::read_to_string(&p).expect("text");
            (name, text)
        })
        .collect()
}

/// Where `unsafe` may stand. A new file here is a decision.
const UNSAFE: &[&str] = &[
    "benches/src/bin/reads.rs",
    "benches/src/compare/engines/lmdb.rs",
    "crates/disk/src/aligned.rs",
    "crates/disk/src/posix.rs",
    "crates/latch/src/event.rs",
    "crates/log/src/commit.rs",
    "crates/log/src/log.rs",
    "crates/log/src/ring.rs",
    "crates/buffer/src/region.rs",
    "fault-injection/src/bin/power_cut.rs",
    "fault-injection/tests/fuzz.rs",
];

#[test]
fn unsafe_stays_where_it_is_argued() {
    for (name, text) in all("rs") {
        if name == "tests/tests/tidy.rs" || UNSAFE.contains(&name.as_str()) {
            continue;
        }
        for (i, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            assert!(
                !code.contains("unsafe {") && !code.contains("unsafe fn") && !code.contains("unsafe impl"),
                "{name}:{}: unsafe outside the listed files: {line}",
                i + 1
            );
        }
    }
}

/// The crates that run under the model checker take what threads share from `hamal-sync`, or it would not see them.
#[test]
fn threads_share_memory_through_one_facade() {
    let checked = ["log", "buffer", "txn", "space", "checkpoint", "latch", "btree", "hamal"];
    for (name, text) in all("rs") {
        let mut parts = name.split('/');
        let place = (parts.next(), parts.next(), parts.next());
        let (Some("crates"), Some(krate), Some("src")) = place else { continue };
        if !checked.contains(&krate) || name.contains("/tests/") {
            continue;
        }
        for word in
            ["parking_lot::", "std::sync::atomic", "std::sync::{Mutex", "std::thread::", "std::sync::Mutex"]
        {
            // The tags of page versions are looked at under the latch of their page, and there are many.
            let aside = name == "crates/buffer/src/versions.rs";
            assert!(aside || !text.contains(word), "{name}: {word} and not hamal_sync");
        }
    }
}

#[test]
fn nothing_is_unfinished() {
    for (name, text) in all("rs") {
        if name == "tests/tests/tidy.rs" {
            continue;
        }
        for word in ["todo!(", "unimplemented!(", "#[ignore"] {
            assert!(!text.contains(word), "{name} contains {word}");
        }
    }
}

/// Ids have the form `AREA-n` or `AREA-NAME`; the lists are docs/invariants/*.md.
fn ids(text: &str) -> Vec<String> {
    let areas = [
        "ERR",
        "DISK",
        "LATCH",
        "LOG",
        "BUF",
        "W",
        "TXN",
        "SPACE",
        "BTREE",
        "GARBAGE",
        "CATALOGUE",
        "CKP",
        "REC",
        "VER",
    ];
    let mut out = Vec::new();
    for area in areas {
        let mut rest = text;
        while let Some(i) = rest.find(area) {
            let before = rest[..i].chars().next_back();
            let tail = &rest[i + area.len()..];
            rest = &rest[i + area.len()..];
            if before.is_some_and(|c| c.is_alphanumeric() || c == '-' || c == '_') {
                continue;
            }
            if let Some(digits) = tail.strip_prefix('-') {
                let id = |c: &char| c.is_ascii_digit() || c.is_ascii_uppercase() || *c == '-';
                let n: String = digits.chars().take_while(id).collect();
                let n = n.trim_end_matches('-');
                if !n.is_empty() {
                    out.push(format!("{area}-{n}"));
                }
            }
        }
    }
    out
}

#[test]
fn every_invariant_that_is_cited_is_listed() {
    let mut listed = std::collections::BTreeSet::new();
    for (name, text) in all("md") {
        if name.starts_with("docs/invariants") {
            listed.extend(ids(&text));
        }
    }
    assert!(listed.len() > 20, "the lists in docs/invariants are missing");
    for (name, text) in all("rs") {
        for id in ids(&text) {
            assert!(listed.contains(&id), "{name} cites {id}, which no list in docs/invariants has");
        }
    }
}

#[test]
fn links_between_documents_lead_somewhere() {
    for (name, text) in all("md") {
        let dir = root().join(&name).parent().expect("dir").to_path_buf();
        for part in text.split("](").skip(1) {
            let Some(target) = part.split(')').next() else { continue };
            let target = target.split('#').next().unwrap_or("");
            if target.is_empty() || target.contains("://") {
                continue;
            }
            assert!(dir.join(target).exists(), "{name} links to {target}, which is not there");
        }
    }
}
