//! `hamal waldump`: its filters, bytes, and following the log of a database that another process has open.
mod common;
use common::*;
use hamal::{Builder, Database, Durability};
use serde_json::Value;
use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// The database that a history leaves.
fn left_by(d: &Dir, history: &str) {
    let file = d.write("x.scn", history.as_bytes());
    hamal(&["study", &file, "--keep-dir", &d.db]).ok();
}

/// Records as JSON, without the last line.
fn records(args: &[&str]) -> Vec<Value> {
    let out = hamal(&[args, &["--json"]].concat()).ok().out;
    let mut lines: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(lines.pop().unwrap()["verdict"].is_string());
    lines
}

fn kinds(records: &[Value]) -> Vec<&str> {
    records.iter().map(|r| r["kind"].as_str().unwrap()).collect()
}

#[test]
fn records_of_one_key() {
    let d = Dir::new();
    left_by(
        &d,
        "table t\nT1 put t a 1\nT1 put t b 1\nT1 commit\nT2 put t b 2\nT2 savepoint s\nT2 delete t b\nT2 put t c 3\n\
         T2 rollback to s\nT2 put t a 2\nT3 put t d 1\nT3 abort\nflush log\ncrash\n",
    );
    let of = |key: &str| records(&["waldump", &d.db, "--from-checkpoint", "--key", key]);
    let kinds_of = |key: &str| kinds(&of(key)).join(" ");
    assert_eq!(kinds_of("a"), "update update");
    assert_eq!(kinds_of("b"), "update update update clr");
    assert_eq!(kinds_of("c"), "update clr");
    assert_eq!(kinds_of("d"), "update clr");
    assert_eq!(kinds_of("e"), "");
    // Filters add up, and what is not printed counts for what is.
    let b = of("b");
    let clr = b[3]["lsn"].to_string();
    assert_eq!(records(&["waldump", &d.db, "-k", "b", "-r", "clr", "--from-checkpoint"]), b[3..]);
    assert_eq!(records(&["waldump", &d.db, "-k", "b", "--start", &clr]), b[3..]);
    assert_eq!(records(&["waldump", &d.db, "-k", "62", "--key-hex", "--start", &clr]), b[3..]);
    let txn = b[1]["txn"].to_string();
    assert_eq!(records(&["waldump", &d.db, "-k", "b", "-x", &txn]), b[1..]);
    hamal(&["waldump", &d.db, "-k", "6", "--key-hex"]).code(2);
    hamal(&["waldump", &d.db, "--key-hex"]).code(2);
}

#[test]
fn records_of_one_slot() {
    let d = Dir::new();
    left_by(
        &d,
        "pages P1..P2\nT1 write P1[0] = \"x\"\nT1 add P1[3] 5\nT2 add P2[3] 7\nT1 write P1[0] = \"y\"\nT1 abort\nflush log\ncrash\n",
    );
    let all = records(&["waldump", &d.db, "--from-checkpoint", "-r", "update"]);
    let page = all[0]["pages"][0].to_string();
    let of = |slot: &str| records(&["waldump", &d.db, "--from-checkpoint", "--page", &page, "--slot", slot]);
    assert_eq!(kinds(&of("0")), ["update", "update", "clr", "clr"]);
    assert_eq!(kinds(&of("3")), ["update", "clr"]);
    assert!(of("3").iter().all(|r| r["desc"].as_str().unwrap().contains("slot 3 +=")), "{:?}", of("3"));
    assert_eq!(kinds(&of("5")), Vec::<&str>::new());
    hamal(&["waldump", &d.db, "--slot", "1"]).code(2);
}

#[test]
fn records_byte_by_byte() {
    let d = Dir::new();
    left_by(&d, "table t\nT1 put t a-key a-value\nT1 commit\ncrash\n");
    let found = records(&["waldump", &d.db, "--hex", "--key", "a-key"]);
    let [update] = &found[..] else { panic!("{found:?}") };
    let digits = update["bytes"].as_str().unwrap();
    assert_eq!(digits.len() as u64, 2 + 2 * update["len"].as_u64().unwrap());
    let text: String = b"a-value".iter().map(|b| format!("{b:02x}")).collect();
    assert!(digits.contains(&text), "{digits}");
    // The same bytes, for people, below the record.
    let out = hamal(&["waldump", &d.db, "--hex", "--key", "a-key"]).ok().out;
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("lsn: ") && lines[1].starts_with("    000000  "), "{out}");
    let dumped: String = lines[1..lines.len() - 1]
        .iter()
        .flat_map(|l| l[12..l.find('|').unwrap()].split_whitespace().map(str::to_string))
        .collect();
    assert_eq!(format!("0x{dumped}"), digits);
    assert!(records(&["waldump", &d.db])[0].get("bytes").is_none());
    // Of a chain, too.
    let lsn = update["lsn"].to_string();
    hamal(&["waldump", &d.db, "--chain", &lsn, "--hex"]).ok().says("    000000  ");
    hamal(&["waldump", &d.db, "--chain", &lsn, "--page", "1"]).code(2);
}

/// A split takes pages out of the space map: that part of its record is the space manager's, not the B-tree's.
#[test]
fn the_map_page_in_a_record_of_the_tree() {
    let d = Dir::new();
    let db = small().create(&d.db).unwrap();
    (0..60).for_each(|i| put(&db, &format!("key{i}"), &"x".repeat(900)));
    let splits = records(&["waldump", &d.db, "-r", "structure", "--page", "0"]);
    let mut texts = splits.iter().filter(|r| r["rm"] == "btree").map(|r| r["desc"].as_str().unwrap());
    let text = texts.find(|t| t.contains("init leaf")).expect("a split");
    assert!(text.contains("; 0: allocate bits "), "{text}");
}

/// Beside a writer that logs, takes checkpoints and gives segments back, a look at the log is one of some moment, and never damage.
#[test]
fn a_log_that_is_being_written_is_not_damaged() {
    let d = Dir::new();
    // Many small files: the end that a look finds is soon in one that it has read, and the next one goes on.
    let db = small().log_segment_bytes(16 << 10).create(&d.db).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            let _end = End(&done);
            for i in 0.. {
                let tx = db.begin_write().unwrap();
                tx.open_or_create_tree("t")
                    .unwrap()
                    .put(format!("key{}", i % 50), "x".repeat(i % 900))
                    .unwrap();
                tx.commit_with(Durability::Async).unwrap();
                if i % 8 == 7 {
                    db.sync().unwrap();
                }
                if i % 200 == 199 {
                    db.checkpoint().unwrap();
                }
                if done.load(Relaxed) {
                    return;
                }
            }
        });
        let _end = End(&done);
        for _ in 0..60 {
            let look = hamal(&["waldump", &d.db, "--from-checkpoint", "-r", "commit"]);
            assert!(look.code == 0, "{}{}", look.out.lines().last().unwrap_or(""), look.err);
        }
    });
}

/// Tells the others to stop, however a thread ends.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

// ---- following ----

struct Follower {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Follower {
    fn start(args: &[&str]) -> Follower {
        let mut child = program()
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Follower { child, lines }
    }
    /// The next line, as JSON.
    fn json(&mut self) -> Value {
        serde_json::from_str(&self.lines.next().expect("a line").unwrap()).unwrap()
    }
    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }
    /// Its exit code and what it said on standard error; killed if it does not end.
    fn ended(mut self) -> (i32, String) {
        let start = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            if start.elapsed() > Duration::from_secs(60) {
                self.child.kill().unwrap();
                panic!("it does not end");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let o = self.child.wait_with_output().unwrap();
        (o.status.code().expect("no signal"), String::from_utf8_lossy(&o.stderr).into_owned())
    }
}

fn small() -> Builder {
    Database::builder()
        .cache_bytes(1 << 20)
        .log_segment_bytes(64 << 10)
        .log_limit_bytes(1 << 20)
        .background(false)
}

fn put(db: &Database, key: &str, value: &str) {
    let tx = db.begin_write().unwrap();
    tx.open_or_create_tree("t").unwrap().put(key, value).unwrap();
    tx.commit().unwrap();
}

/// What another process (this one) commits is printed while it goes on, also over a checkpoint and a second open; Ctrl-C ends it
/// cleanly, with everything printed.
#[test]
fn commits_are_printed_as_they_come() {
    let d = Dir::new();
    let db = small().create(&d.db).unwrap();
    put(&db, "first", "1");
    let mut f = Follower::start(&["waldump", &d.db, "-f", "--json", "--kind", "update", "-k", "row"]);
    for i in 0..3 {
        put(&db, "another", "x");
        put(&db, "row", &i.to_string());
        let r = f.json();
        assert_eq!((r["kind"].as_str(), r["rm"].as_str()), (Some("update"), Some("btree")), "{r}");
        if i == 1 {
            db.checkpoint().unwrap();
        }
    }
    db.close().unwrap();
    drop(db);
    let db = small().open(&d.db).unwrap();
    put(&db, "row", "after another open");
    let last = f.json()["lsn"].as_u64().unwrap();
    f.signal("-INT");
    let end = f.json();
    assert_eq!(end["verdict"], "followed");
    assert!(end["end"].as_u64().unwrap() > last);
    assert!(f.lines.next().is_none());
    let (code, err) = f.ended();
    assert_eq!(code, 130);
    assert!(
        err.starts_with("hamal: stopped: the log was followed to 0x") && err.lines().count() == 1,
        "{err}"
    );
    db.close().unwrap();
}

/// It ends by itself where it was told to; also with what is there already.
#[test]
fn following_ends_at_a_limit() {
    let d = Dir::new();
    let db = small().create(&d.db).unwrap();
    put(&db, "a", "1");
    let f = Follower::start(&["waldump", &d.db, "--follow", "--limit", "3"]);
    let (code, err) = f.ended();
    assert_eq!((code, err.as_str()), (0, ""));
    let end = db.engine().log_tail().0;
    let mut f =
        Follower::start(&["waldump", &d.db, "--follow", "--start", &end.to_string(), "-n", "1", "--json"]);
    put(&db, "a", "2");
    assert!(f.json()["lsn"].as_u64().unwrap() >= end);
    assert_eq!(f.json()["verdict"], "followed");
    assert_eq!(f.ended().0, 0);
    let (from, to) = ((end + 1).to_string(), db.engine().log_tail().0);
    let mut f =
        Follower::start(&["waldump", &d.db, "-f", "-s", &from, "-e", &to.to_string(), "-z", "--json"]);
    put(&db, "a", "3");
    assert!(f.json()["records"].as_u64().unwrap() > 0, "the sums come at the end");
    while f.lines.next().is_some() {}
    assert_eq!(f.ended().0, 0);
}

/// `waldump -f | head`: it ends in silence although nothing is logged that it could fail to write.
#[test]
fn following_ends_with_its_reader() {
    let d = Dir::new();
    let db = small().create(&d.db).unwrap();
    put(&db, "a", "1");
    let mut f = Follower::start(&["waldump", &d.db, "--follow"]);
    assert!(f.lines.next().unwrap().unwrap().starts_with("lsn: "));
    let Follower { mut child, lines } = f;
    drop(lines);
    let start = Instant::now();
    let code = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status.code(),
            None if start.elapsed() > Duration::from_secs(60) => {
                child.kill().unwrap();
                panic!("it does not end");
            }
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    let o = child.wait_with_output().unwrap();
    assert_eq!((code, String::from_utf8_lossy(&o.stderr).as_ref()), (Some(0), ""));
}

/// A reader that was stopped while the writer gave the log back, and wrote over it: it names what it has missed, and goes on.
#[test]
fn what_was_given_back_unread_is_named() {
    let d = Dir::new();
    let db = small().create(&d.db).unwrap();
    put(&db, "a", "1");
    let mut f = Follower::start(&["waldump", &d.db, "--follow", "--json", "-r", "commit"]);
    let before = f.json()["lsn"].as_u64().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    f.signal("-STOP");
    let value = "x".repeat(2000);
    for i in 0..1000 {
        put(&db, &format!("key{i}"), &value);
        if i % 50 == 49 {
            db.flush().unwrap();
            db.checkpoint().unwrap();
        }
    }
    f.signal("-CONT");
    let (mut gap, mut last) = (None, before);
    put(&db, "row", "the last one");
    let end = db.engine().log_tail().0;
    loop {
        let r = f.json();
        if let Some(lsn) = r["lsn"].as_u64() {
            assert!(lsn > last);
            last = lsn;
        } else {
            let (from, to) = (r["gap"]["from"].as_u64().unwrap(), r["gap"]["to"].as_u64().unwrap());
            assert!(from >= last && to > from && gap.is_none(), "{r}");
            gap = Some(to);
        }
        // The seal of the last group is behind the commit.
        if last + 512 >= end {
            break;
        }
    }
    assert!(gap.is_some(), "nothing was missed");
    f.signal("-INT");
    assert_eq!(f.ended().0, 130);
    db.close().unwrap();
}

/// Damage that was there before is told from a log that has nothing new.
#[test]
fn following_a_damaged_log_ends() {
    let d = Dir::new();
    let db = small().create(&d.db).unwrap();
    put(&db, "a", "1");
    let from = db.engine().log_tail().0;
    put(&db, "b", &"x".repeat(500));
    put(&db, "c", "1");
    put(&db, "d", "1");
    // As a crash leaves it.
    let disk = files(&d.db);
    drop(db);
    restore(&d.db, &disk);
    let (path, bytes) =
        disk.iter().find(|(p, b)| p.to_string_lossy().contains("/wal/0") && b.len() > 4096).unwrap();
    let first = u64::from_str_radix(path.file_name().unwrap().to_str().unwrap(), 16).unwrap();
    let mut bytes = bytes.clone();
    bytes[(4096 + from - first) as usize + 100] ^= 1;
    std::fs::write(path, bytes).unwrap();
    hamal(&["waldump", &d.db]).code(1);
    let mut f = Follower::start(&["waldump", &d.db, "--follow", "--json"]);
    let mut last = f.json();
    for line in f.lines.by_ref() {
        last = serde_json::from_str(&line.unwrap()).unwrap();
    }
    assert_eq!((last["verdict"].as_str(), last["end"].as_u64()), (Some("damaged"), Some(from)));
    assert_eq!(f.ended().0, 1);
}
