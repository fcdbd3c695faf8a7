//! `hamal torture` as it is typed: exit codes, the last line of `--json`, bad input, Ctrl-C. What it finds is tested in the harness.
mod common;

use common::{Dir, hamal};
use serde_json::Value;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What a program that reads the last line relies on.
const KEYS: [&str; 6] = ["cases", "cases_per_s", "violations", "silent", "max_depth", "exhausted"];

fn last(out: &str) -> Value {
    serde_json::from_str(out.lines().last().expect("a line")).expect("an object")
}

/// A file with a case: some commits, and these lines.
fn case(d: &Dir, name: &str, lines: &str) -> String {
    let file = format!("{}-{name}.case", d.db);
    let head = "case 1 engine hamal workload btree model posix start newborn\n\
        config page 4096 frames 0 segment 0 pad 512 images on\noracle none\n\
        begin 0\ncreate 0 0\nput 0 0 0 400 5\ncommit 0\n";
    std::fs::write(&file, format!("{head}{lines}")).unwrap();
    file
}

#[test]
fn the_last_line_of_json_says_it_all_in_every_mode() {
    let d = Dir::new();
    let sound = case(&d, "sound", "");
    for args in [
        &["--cases", "200", "--quick"][..],
        &[
            "--cases",
            "200",
            "--model",
            "ordered",
            "--faults",
            "none",
            "--light",
            "--coverage",
            "--workload",
            "bank",
        ],
        &["--sweep", "--stride", "65535", "--workload", "btree"],
        &["--speed", "--cases", "50"],
        &["--replay", &sound],
    ] {
        let ran = hamal(&[&["torture", "--json"], args].concat());
        // So few cases do not meet every event.
        let expected = if args.contains(&"--coverage") { 1 } else { 0 };
        assert_eq!(ran.code, expected, "{args:?}: {}", ran.err);
        let last = last(&ran.out);
        for key in KEYS {
            assert!(last.get(key).is_some_and(|v| !v.is_null()), "{args:?}: {key} in {last}");
        }
        assert!(last["cases"].as_u64() > Some(0) && last["violations"] == 0 && last["silent"] == 0, "{last}");
        assert_eq!(last["interrupted"], false, "{args:?}");
    }
}

#[test]
fn a_violation_is_told_and_the_code_is_1() {
    let d = Dir::new();
    // Nothing proves the last flush: without it the commit is gone, and nothing says so. As damage that is a violation.
    let lost = case(&d, "lost", "damage wal/0000000000001000 5120 2048 zero\n");
    let ran = hamal(&["torture", "--replay", &lost]);
    assert_eq!(ran.code, 1, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("VIOLATION (silent): acknowledged commits are gone"), "{}", ran.out);
    let ran = hamal(&["torture", "--replay", &lost, "--json"]);
    let last = last(&ran.out);
    assert_eq!((ran.code, last["violations"].as_u64(), last["silent"].as_u64()), (1, Some(1), Some(1)));
}

#[test]
fn a_case_that_shows_nothing_says_so() {
    let d = Dir::new();
    for (name, line, says) in [
        ("file", "damage nosuch 0 1 zero\n", "`damage nosuch 0 1 zero` changes nothing"),
        ("beyond", "damage data 99999999 1 xor 1\n", "changes nothing"),
        ("fault", "fault wal write 999 once eio\n", "does not come to its planned error"),
    ] {
        let ran = hamal(&["torture", "--replay", &case(&d, name, line)]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert!(ran.out.contains(says) && ran.out.contains("the case shows nothing"), "{}", ran.out);
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let d = Dir::new();
    let (sound, missing) = (case(&d, "sound", ""), format!("{}-none", d.db));
    let (rubbish, binary) = (case(&d, "rubbish", "fly 1\n"), format!("{}-binary", d.db));
    std::fs::write(&binary, [0xFF, 0xFE, 0, 1]).unwrap();
    for (args, code, says) in [
        (&["--faults", "nonsense"][..], 2, "there is no fault \"nonsense\""),
        (&["--faults", ""], 2, "there is no fault"),
        (&["--workload", "none"], 2, "no workload is left"),
        (&["--model", "kind"], 2, "invalid value"),
        (&["--minutes", "0"], 2, "must be more than 0"),
        (&["--cases", "0"], 2, "invalid value"),
        (&["--threads", "0"], 2, "invalid value"),
        (&["--stride", "7"], 2, "--sweep"),
        // No option is passed over.
        (&["--sweep", "--model", "posix"], 2, "cannot be used with"),
        (&["--sweep", "--coverage"], 2, "cannot be used with"),
        (&["--speed", "--faults", "eio"], 2, "cannot be used with"),
        (&["--replay", &sound, "--seed", "3"], 2, "cannot be used with"),
        (&["--replay", &missing], 3, "cannot read"),
        (&["--replay", &binary], 3, "cannot read"),
        (&["--replay", &rubbish], 2, "is no case: line 8: \"fly\" is no operation"),
    ] {
        let ran = hamal(&[&["torture"], args].concat());
        assert_eq!(ran.code, code, "{args:?}: {}", ran.err);
        assert!(ran.err.contains(says) && ran.out.is_empty(), "{args:?}: {}", ran.err);
    }
    if !cfg!(feature = "mutants") {
        assert_eq!(hamal(&["torture", "--mutant", "all"]).code, 2);
    }
}

/// The report of what was done, and the code that says that it was not all.
#[test]
fn ctrl_c_prints_the_report() {
    for args in [&["--minutes", "5", "--quick"][..], &["--sweep"], &["--speed", "--cases", "100000000"]] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_hamal"))
            .args(["torture", "--json"])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(1500));
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &id]).status().unwrap().success());
        let (mut out, mut err) = (String::new(), String::new());
        child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{args:?}: {err}");
        let last = last(&out);
        assert!(last["interrupted"] == true && last["cases"].as_u64() > Some(0), "{args:?}: {last}");
        assert!(err.contains("stopped: "), "{err}");
    }
}
