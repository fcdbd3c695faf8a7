//! Running the built program, and looking at directories.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// What a run gave.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_hamal"))
}

fn ran(o: Output) -> Ran {
    let err = String::from_utf8_lossy(&o.stderr).into_owned();
    assert!(!err.contains("panicked"), "{err}");
    let code = o.status.code().unwrap_or_else(|| panic!("ended by a signal: {err}"));
    Ran { code, out: String::from_utf8_lossy(&o.stdout).into_owned(), err, bytes: o.stdout }
}

/// Runs `hamal` with arguments; it must not panic.
pub(crate) fn hamal(args: &[&str]) -> Ran {
    ran(program().args(args).stdin(Stdio::null()).output().unwrap())
}

/// Runs `hamal` with bytes on standard input.
pub(crate) fn hamal_with(args: &[&str], input: &[u8]) -> Ran {
    let mut child = program()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feed = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let o = child.wait_with_output().unwrap();
    feed.join().unwrap();
    ran(o)
}

impl Ran {
    #[track_caller]
    pub(crate) fn ok(self) -> Ran {
        assert_eq!(self.code, 0, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }
    #[track_caller]
    pub(crate) fn code(self, code: i32) -> Ran {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Ran {
        assert!(
            self.err.contains(text) || self.out.contains(text),
            "no {text:?} in: {}\n{}",
            self.out,
            self.err
        );
        self
    }
    pub(crate) fn json(&self) -> serde_json::Value {
        let last = self.out.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {}", self.out))
    }
}

/// A directory of its own for a test, and the path of a database in it.
pub(crate) struct Dir {
    pub(crate) temp: tempfile::TempDir,
    pub(crate) db: String,
}

impl Dir {
    pub(crate) fn new() -> Dir {
        let temp = tempfile::tempdir().unwrap();
        let db = temp.path().join("db").to_str().unwrap().to_string();
        Dir { temp, db }
    }
    pub(crate) fn path(&self, name: &str) -> String {
        self.temp.path().join(name).to_str().unwrap().to_string()
    }
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

/// Every file below a directory with its bytes.
pub(crate) fn files(dir: &str) -> BTreeMap<PathBuf, Vec<u8>> {
    fn walk(dir: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, into);
            } else {
                into.insert(path.clone(), std::fs::read(&path).unwrap());
            }
        }
    }
    let mut all = BTreeMap::new();
    walk(Path::new(dir), &mut all);
    all
}

/// Puts files back as [`files`] found them.
pub(crate) fn restore(dir: &str, was: &BTreeMap<PathBuf, Vec<u8>>) {
    for path in files(dir).keys() {
        if !was.contains_key(path) {
            std::fs::remove_file(path).unwrap();
        }
    }
    for (path, bytes) in was {
        std::fs::write(path, bytes).unwrap();
    }
}

/// `n` rows of TSV in key order, values of some length.
pub(crate) fn rows(n: usize) -> String {
    (0..n).map(|i| format!("key{i:06}\tvalue {i} {}\n", "x".repeat(i % 60))).collect()
}
