//! The program killed or stopped in the middle of its work.
mod common;
use common::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Stdio};
use std::time::Duration;

/// A load from a pipe that has been given `input`, and has committed, or is committing, so many times.
fn loading(db: &str, batch: &str, input: &str, commits: usize) -> (Child, std::process::ChildStdin) {
    let mut child = program()
        .args(["load", db, "t", "-", "--batch", batch, "--verbose"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let err = child.stderr.take().unwrap();
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut err = BufReader::new(err);
        let mut line = String::new();
        // Read to its end, so that the child never waits for us.
        while let Ok(1..) = err.read_line(&mut line) {
            let _ = send.send(std::mem::take(&mut line));
        }
    });
    stdin.write_all(input.as_bytes()).unwrap();
    stdin.flush().unwrap();
    let mut met = 0;
    while met < commits {
        let line = receive.recv_timeout(Duration::from_secs(120)).expect("the load commits");
        met += usize::from(line.starts_with("trace: TxnCommit"));
    }
    (child, stdin)
}

#[test]
fn killed_in_the_middle_of_a_load() {
    let (d, whole) = (Dir::new(), Dir::new());
    let input = rows(3000);
    let file = d.write("rows.tsv", input.as_bytes());
    hamal(&["load", &whole.db, "t", &file]).ok();
    let reference = hamal(&["dump", &whole.db, "t"]).ok().out;

    // Fed all but the end, so that it cannot be done; killed while the last batches are on their way.
    let (mut child, stdin) = loading(&d.db, "50", &input[..input.len() * 2 / 3], 3);
    child.kill().unwrap();
    child.wait().unwrap();
    drop(stdin);

    let before = files(&d.db);
    let half = hamal(&["dump", &d.db, "t"]).ok().out;
    let n = half.lines().count();
    assert!(n >= 50 && n.is_multiple_of(50), "{n} rows: not whole batches");
    assert!(reference.starts_with(&half));
    for args in [
        &["verify", &d.db][..],
        &["stat", &d.db],
        &["waldump", &d.db],
        &["waldump", &d.db, "--stats"],
        &["page", &d.db, "1"],
        &["page", &d.db, "1", "--raw", "--hex"],
        &["trees", &d.db, "--count"],
        &["scan", &d.db, "t", "--reverse"],
        &["get", &d.db, "t", "key000001"],
        &["verify", &d.db, "--json"],
        &["stat", &d.db, "--json"],
        &["waldump", &d.db, "--json"],
        &["page", &d.db, "1", "--json"],
    ] {
        let r = hamal(args).ok();
        assert!(!r.out.is_empty());
        if args.contains(&"--json") {
            r.json();
        }
        assert!(files(&d.db) == before, "{args:?} changed a file");
    }

    hamal(&["stat", &d.db]).ok().says("log kept").says("checkpoint 0x");
    let pins = hamal(&["stat", &d.db, "--json"]).ok().json()["pins"].clone();
    assert!(
        pins.as_array().unwrap().iter().any(|p| p["kind"] == "checkpoint" && p["bytes"].as_u64() > Some(0))
    );

    hamal(&["recover", &d.db]).ok().says("redo");
    hamal(&["recover", &d.db, "--json"]).ok().says("\"clean\":true");
    hamal(&["load", &d.db, "t", &file, "--batch", "50"]).ok();
    assert_eq!(hamal(&["dump", &d.db, "t"]).ok().out, reference);
    hamal(&["verify", &d.db]).ok();
}

#[test]
fn ctrl_c_leaves_whole_batches() {
    let d = Dir::new();
    // 8 batches and a half; then the input is silent. The half is read meanwhile, or not.
    let (mut child, stdin) = loading(&d.db, "100", &rows(850), 8);
    std::thread::sleep(Duration::from_millis(300));
    let id = child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &id]).status().unwrap().success());
    let status = child.wait().unwrap();
    drop(stdin);
    assert_eq!(status.code(), Some(130));
    let mut out = String::new();
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert_eq!(out, "");
    assert_eq!(hamal(&["dump", &d.db, "t"]).ok().out, rows(800));
    // It was closed cleanly.
    hamal(&["stat", &d.db]).ok().says("closed cleanly");
}

#[test]
fn ctrl_c_stops_a_replay() {
    let d = Dir::new();
    let file = format!("{}.case", d.db);
    // No crash is named, so all are looked for: that takes minutes.
    let mut case = "case 1 engine hamal workload btree model posix start newborn\n".to_string();
    case +=
        "config page 4096 frames 0 segment 0 pad 512 images on\noracle none\nbegin 0\ncreate 0 0\ncommit 0\n";
    for i in 0..60 {
        case += &format!("begin 0\nput 0 0 {i} 900 1\ncommit 0\n");
    }
    std::fs::write(&file, case).unwrap();
    for signal in ["-INT", "-TERM"] {
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_hamal"))
            .args(["torture", "--replay", &file])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(500));
        let id = child.id().to_string();
        assert!(std::process::Command::new("kill").args([signal, &id]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(130));
        let (mut out, mut err) = (String::new(), String::new());
        child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert!(
            out.is_empty() && err.contains("stopped: the case was not looked at to its end"),
            "{out}{err}"
        );
    }
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn a_database_in_use_is_refused() {
    let d = Dir::new();
    let (mut child, stdin) = loading(&d.db, "50", &rows(500), 3);
    hamal(&["stat", &d.db]).code(3).says("Database::activity");
    for args in [
        &["get", &d.db, "t", "k"][..],
        &["put", &d.db, "t", "k", "v"],
        &["verify", &d.db],
        &["recover", &d.db],
    ] {
        hamal(args).code(3).says("open already");
    }
    child.kill().unwrap();
    child.wait().unwrap();
    drop(stdin);
}

#[test]
fn demo_proves_and_leaves_nothing() {
    let d = Dir::new();
    let temp = d.path("tmp");
    std::fs::create_dir(&temp).unwrap();
    let args = ["demo", "--seconds", "1.5", "--kills", "2", "--threads", "3", "--accounts", "60"];
    let o = program().args(args).env("TMPDIR", &temp).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&o.stdout), String::from_utf8_lossy(&o.stderr));
    assert_eq!(o.status.code(), Some(0), "{out}\n{err}");
    assert!(out.contains("killed with SIGKILL      2 times"), "{out}");
    assert!(out.contains("every acknowledged transfer is there"), "{out}");
    assert_eq!(std::fs::read_dir(&temp).unwrap().count(), 0, "the temporary directory is gone");
}

#[test]
fn demo_stops_at_ctrl_c() {
    let d = Dir::new();
    let temp = d.path("tmp");
    std::fs::create_dir(&temp).unwrap();
    let mut child = program()
        .args(["demo", "--seconds", "60"])
        .env("TMPDIR", &temp)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert!(
        std::process::Command::new("kill")
            .args(["-INT", &child.id().to_string()])
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(std::fs::read_dir(&temp).unwrap().count(), 0);
}

#[test]
fn demo_keeps_its_directory_if_it_was_named() {
    let d = Dir::new();
    let args = ["demo", "--seconds", "1.5", "--kills", "1", "--dir", &d.db, "--json"];
    let r = hamal(&args).ok().json();
    assert_eq!((&r["ok"], &r["killed"]), (&true.into(), &1.into()));
    assert!(r["transfers_acknowledged"].as_u64().unwrap() > 0, "{r}");
    hamal(&["trees", &d.db]).ok().says("accounts").says("transfers");
    hamal(&args).code(2).says("not empty");
    hamal(&["demo", "--seconds", "0"]).code(2);
    hamal(&["demo", "--kills", "0"]).code(2);
}
