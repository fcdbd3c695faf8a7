//! Directories that are damaged, cut short, foreign or missing: an error that names the place, and no panic.
mod common;
use common::*;
use std::path::PathBuf;

fn reading(db: &str) -> Vec<Vec<&str>> {
    vec![
        vec!["verify", db],
        vec!["stat", db],
        vec!["waldump", db],
        vec!["trees", db],
        vec!["dump", db, "t"],
        vec!["get", db, "t", "key000001"],
        vec!["page", db, "1"],
        vec!["page", db, "1", "--raw"],
    ]
}

#[test]
fn missing_and_foreign_directories() {
    let d = Dir::new();
    let empty = d.path("empty");
    std::fs::create_dir(&empty).unwrap();
    let file = d.write("file", b"hello");
    for place in [&d.db, &empty, &file] {
        for args in reading(place) {
            hamal(&args).code(3);
        }
        hamal(&["recover", place]).code(3);
        hamal(&["del", place, "t", "k"]).code(3);
    }
    assert_eq!(std::fs::read_dir(&empty).unwrap().count(), 0, "nothing is made in a foreign directory");
    std::fs::write(format!("{empty}/control"), b"not a control file").unwrap();
    for args in reading(&empty) {
        assert_ne!(hamal(&args).code, 0, "{args:?}");
    }
}

/// A database that was killed, so that its log matters.
fn crashed() -> Dir {
    let d = Dir::new();
    let args =
        ["demo", "--seconds", "0.4", "--kills", "1", "--threads", "2", "--accounts", "200", "--dir", &d.db];
    hamal(&args).ok();
    hamal_with(&["load", &d.db, "t", "-"], rows(300).as_bytes()).ok();
    d
}

fn newest_with_bytes(was: &std::collections::BTreeMap<PathBuf, Vec<u8>>, part: &str) -> PathBuf {
    let found =
        was.iter().rev().find(|(p, b)| p.to_string_lossy().contains(part) && b.iter().any(|b| *b != 0));
    found.unwrap().0.clone()
}

#[test]
fn flipped_bytes_and_cut_files() {
    let d = crashed();
    let was = files(&d.db);
    let data = newest_with_bytes(&was, "/data");
    let control = newest_with_bytes(&was, "/control");
    let log = was.keys().find(|p| p.to_string_lossy().contains("/wal/0")).unwrap().clone();

    // Every page but the first damaged: found by its checksum.
    let mut bytes = was[&data].clone();
    let page = 8192;
    for at in (page..bytes.len()).step_by(page) {
        bytes[at + 100] ^= 0xff;
    }
    std::fs::write(&data, &bytes).unwrap();
    hamal(&["verify", &d.db]).code(1).says("FINDING");
    assert_eq!(hamal(&["verify", &d.db, "--json"]).code(1).json()["ok"], false);
    hamal(&["page", &d.db, "1", "--raw"]).code(1).says("damaged");
    for args in reading(&d.db) {
        hamal(&args);
    }
    restore(&d.db, &was);

    // The head of a log segment.
    let mut bytes = was[&log].clone();
    bytes[20] ^= 0xff;
    std::fs::write(&log, &bytes).unwrap();
    hamal(&["waldump", &d.db]).code(1).says("wal/");
    hamal(&["verify", &d.db]).code(1);
    hamal(&["recover", &d.db]).code(1);
    restore(&d.db, &was);

    // Both slots of the control file.
    let mut bytes = was[&control].clone();
    bytes[50] ^= 0xff;
    bytes[4096 + 50] ^= 0xff;
    std::fs::write(&control, &bytes).unwrap();
    for args in reading(&d.db) {
        hamal(&args).code(1).says("control");
    }
    restore(&d.db, &was);

    // Each file cut in half, or gone: some commands fail, none panics, and none makes it worse.
    for path in [&data, &control, &log] {
        // (Of the control file one slot of the two is enough, so not even that is left of it.)
        for keep in [if path == &control { 4000 } else { was[path].len() / 2 }, 0] {
            std::fs::write(path, &was[path][..keep]).unwrap();
            let before = files(&d.db);
            assert_ne!(hamal(&["verify", &d.db]).code, 0, "{path:?} cut to {keep}");
            for args in reading(&d.db) {
                hamal(&args);
            }
            assert!(files(&d.db) == before);
        }
        std::fs::remove_file(path).unwrap();
        assert_ne!(hamal(&["verify", &d.db]).code, 0, "{path:?} removed");
        restore(&d.db, &was);
    }
    hamal(&["verify", &d.db]).ok();
}

#[test]
fn damage_in_the_middle_of_the_log_is_told_from_its_end() {
    let d = crashed();
    let lines: Vec<serde_json::Value> = hamal(&["waldump", &d.db, "--json"])
        .ok()
        .out
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.last().unwrap()["verdict"], "clean");
    let first = lines[0]["lsn"].as_u64().unwrap();
    let last = lines[lines.len() - 2]["lsn"].as_u64().unwrap();

    // Filters.
    let one = format!("{first:#x}");
    assert_eq!(hamal(&["waldump", &d.db, "--start", &one, "--limit", "1"]).ok().out.lines().count(), 2);
    assert_eq!(hamal(&["waldump", &d.db, "--end", &one]).ok().out.lines().count(), 1);
    let from = format!("{}", last - 1);
    assert!(hamal(&["waldump", &d.db, "--start", &from]).ok().out.contains(&format!("lsn: {last:#x}")));
    hamal(&["waldump", &d.db, "--kind", "end_checkpoint"]).ok().says("redo");
    hamal(&["waldump", &d.db, "--kind", "nonsense"]).code(2);
    hamal(&["waldump", &d.db, "--start", "x"]).code(2);
    hamal(&["waldump", &d.db, "--stats"]).ok().says("average");

    // All that the log holds from its first record on, zeroed: the checkpoint in the control file proves the loss.
    let was = files(&d.db);
    for (path, bytes) in was.iter().filter(|(p, _)| p.to_string_lossy().contains("/wal/0")) {
        let mut bytes = bytes.clone();
        bytes[4096..].fill(0);
        std::fs::write(path, bytes).unwrap();
    }
    hamal(&["waldump", &d.db]).code(1).says("damaged");
    hamal(&["verify", &d.db]).code(1);
    hamal(&["recover", &d.db]).code(1);
}

#[test]
fn a_raw_page_says_what_is_wrong_with_it() {
    let d = Dir::new();
    hamal_with(&["load", &d.db, "t", "-"], rows(100).as_bytes()).ok();
    // No such page: the same answer with and without --raw.
    for raw in [&[][..], &["--raw"]] {
        hamal(&[&["page", &d.db, "99999"], raw].concat()).code(3).says("there is no page 99999");
    }
    let data = format!("{}/data", d.db);
    let mut bytes = std::fs::read(&data).unwrap();
    bytes.copy_within(8192..16384, 16384);
    bytes[100] ^= 1;
    std::fs::write(&data, bytes).unwrap();
    hamal(&["page", &d.db, "0", "--raw"]).code(1).says("its checksum is 0x");
    hamal(&["page", &d.db, "2", "--raw"]).code(1).says("page 2 is damaged: it is page 1");
}
