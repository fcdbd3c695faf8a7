//! One process at a time (promise D10).

use hamal::ErrorKind;
use hamal_fault_injection::real::accounts::options;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

#[test]
fn a_second_process_gets_a_clear_error() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("db");
    let mut child = Command::new(env!("CARGO_BIN_EXE_kill_child"))
        .arg("work")
        .arg(&path)
        .args(["1", "direct"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("spawn");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    assert!(lines.by_ref().map_while(Result::ok).any(|l| l == "ready"));
    for attempt in [options().open(&path).err(), options().open_or_create(&path).err()] {
        let e = attempt.expect("must be refused");
        assert_eq!(e.kind(), ErrorKind::AlreadyOpen, "{e}");
    }
    let e = options().open_read_only(&path).expect_err("must be refused");
    assert_eq!(e.kind(), ErrorKind::AlreadyOpen, "{e}");
    child.kill().expect("kill");
    child.wait().expect("wait");
    // The lock dies with its process.
    options().open(&path).expect("open after the other process is gone");
}

#[test]
fn the_same_process_twice_is_refused_too() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("db");
    let db = options().create(&path).expect("create");
    assert_eq!(options().open(&path).expect_err("refused").kind(), ErrorKind::AlreadyOpen);
    db.close().expect("close");
    options().open(&path).expect("open");
}
