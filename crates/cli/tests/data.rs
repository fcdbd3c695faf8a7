//! Rows in and out: `load`, `dump`, `get`, `put`, `del`, `scan`, `trees`.
mod common;
use common::*;

#[test]
fn put_get_del() {
    let d = Dir::new();
    hamal(&["get", &d.db, "t", "k"]).code(3).says("db");
    hamal(&["del", &d.db, "t", "k"]).code(3);
    assert!(!std::path::Path::new(&d.db).exists(), "a reading command makes nothing");
    hamal(&["put", &d.db, "t", "apple", "1.20"]).ok();
    assert_eq!(hamal(&["get", &d.db, "t", "apple"]).ok().out, "1.20\n");
    assert_eq!(hamal(&["get", &d.db, "t", "apple", "--raw"]).ok().out, "1.20");
    assert_eq!(hamal(&["get", &d.db, "t", "apple", "--hex"]).code(2).out, "");
    assert_eq!(hamal(&["get", &d.db, "t", "0x6170706c65", "--hex"]).ok().out, "0x312e3230\n");
    assert_eq!(hamal(&["get", &d.db, "t", "apple", "--json"]).ok().json()["value"], "1.20");
    hamal(&["get", &d.db, "t", "pear"]).code(1).says("no key `pear`");
    hamal(&["get", &d.db, "t", "0x61"]).code(1).says("--hex");
    hamal(&["get", &d.db, "nosuchtree", "k"]).code(3).says("nosuchtree");
    hamal(&["put", &d.db, "t", "0xff00", "0x0d0a", "--hex"]).ok();
    assert_eq!(hamal(&["get", &d.db, "t", "ff00", "--hex", "--json"]).ok().json()["value"], "0x0d0a");
    hamal(&["put", &d.db, "t", "odd", "0xf", "--hex"]).code(2);
    let file = d.write("value", &[0, 255, 10]);
    hamal(&["put", &d.db, "t", "bytes", "--file", &file]).ok();
    assert_eq!(hamal(&["get", &d.db, "t", "bytes", "--raw"]).ok().bytes, [0, 255, 10]);
    assert_eq!(hamal(&["get", &d.db, "t", "bytes"]).ok().out, "\\x00\\xff\\n\n");
    hamal(&["put", &d.db, "t", "novalue"]).code(2);
    hamal(&["put", &d.db, "t", "", "the empty key"]).ok();
    assert_eq!(hamal(&["get", &d.db, "t", ""]).ok().out, "the empty key\n");
    hamal(&["del", &d.db, "t", ""]).ok();
    hamal(&["put", &d.db, "t", &"k".repeat(20_000), "v"]).code(3).says("1024");
    hamal(&["del", &d.db, "t", "apple"]).ok();
    hamal(&["del", &d.db, "t", "apple"]).code(1);
    hamal(&["get", &d.db, "t", "apple"]).code(1);
    hamal(&["put", &d.db, "u", "k", "v"]).ok();
    assert_eq!(hamal(&["trees", &d.db]).ok().out, "t\nu\n");
    assert_eq!(hamal(&["trees", &d.db, "--count"]).ok().out, "t\t2\nu\t1\n");
    assert_eq!(hamal(&["trees", &d.db, "--json", "--count"]).ok().json()["rows"], 1);
}

#[test]
fn what_is_dumped_is_loaded_back() {
    let d = Dir::new();
    let nasty: &[(&[u8], &[u8])] = &[
        (b"\t\n\r\\\"", b""),
        (b"\xef\xbb\xbfbom", b"a,b"),
        (b"\x00", b"\xff\xfe"),
        ("grüße".as_bytes(), b"line\r\nline"),
        (b"\xff\xff", b"\"quoted\""),
    ];
    for (k, v) in nasty {
        let hex = |b: &[u8]| b.iter().map(|b| format!("{b:02x}")).collect::<String>();
        hamal(&["put", &d.db, "t", &hex(k), &hex(v), "--hex"]).ok();
    }
    let long = d.write("long", &vec![b'x'; 100_000]);
    hamal(&["put", &d.db, "t", "long", "--file", &long]).ok();
    let reference = hamal(&["dump", &d.db, "t", "--format", "jsonl"]).ok().bytes;
    for format in ["tsv", "csv", "jsonl"] {
        let file = d.path(&format!("dump.{format}"));
        hamal(&["dump", &d.db, "t", "-o", &file]).ok().says("6 rows");
        hamal(&["load", &d.db, format, &file]).ok();
        assert_eq!(hamal(&["dump", &d.db, format, "--json"]).ok().bytes, reference, "{format}");
        let piped = hamal(&["dump", &d.db, "t", "--format", format]).ok().bytes;
        assert_eq!(piped, std::fs::read(&file).unwrap());
    }
    hamal(&["dump", &d.db, "t", "-o", &d.path("no/such/dir")]).code(3);
    assert_eq!(hamal(&["trees", &d.db]).ok().out, "csv\njsonl\nt\ntsv\n");
}

#[test]
fn load_good_and_bad() {
    let d = Dir::new();
    hamal(&["load", &d.db, "t", &d.path("missing")]).code(3).says("missing");
    assert!(!std::path::Path::new(&d.db).exists());
    let done =
        hamal_with(&["load", &d.db, "t", "-", "--batch", "100", "--json"], rows(1050).as_bytes()).ok().json();
    assert_eq!((&done["rows"], &done["batches"], &done["bad_rows"]), (&1050.into(), &11.into(), &0.into()));
    assert_eq!(hamal(&["dump", &d.db, "t"]).ok().out, rows(1050));

    // Upserts; CSV by its name, with a header.
    let csv = d.write("prices.csv", b"key,value\nkey000000,\"new, \"\"value\"\"\"\n");
    hamal(&["load", &d.db, "t", &csv, "--header"]).ok().says("1 row loaded");
    assert_eq!(hamal(&["get", &d.db, "t", "key000000"]).ok().out, "new, \"value\"\n");

    // A bad row: whole batches before it are in, the batch it is in is not.
    let bad = d.write("bad.tsv", b"a\t1\nb\t2\nc\t3\nno tab here\nd\t4\n");
    hamal(&["load", &d.db, "bad", &bad, "--batch", "2"])
        .code(1)
        .says("bad.tsv:4: no tab")
        .says("2 rows of 1 whole batch are in");
    assert_eq!(hamal(&["dump", &d.db, "bad"]).ok().out, "a\t1\nb\t2\n");
    hamal(&["load", &d.db, "bad2", &bad, "--atomic"]).code(1).says("0 rows");
    hamal(&["dump", &d.db, "bad2"]).code(3).says("bad2");
    hamal(&["load", &d.db, "bad", &bad, "--batch", "2", "--skip-bad"])
        .ok()
        .says("bad.tsv:4")
        .says("1 bad row skipped");
    assert_eq!(hamal(&["dump", &d.db, "bad"]).ok().out, "a\t1\nb\t2\nc\t3\nd\t4\n");
    // The engine's own limits are a bad row too.
    let long = d.write("long.tsv", format!("ok\t1\n{}\t2\n\t3\n", "k".repeat(20_000)).as_bytes());
    hamal(&["load", &d.db, "long", &long, "--skip-bad"]).ok().says("long.tsv:2: a key of 20000 bytes");
    assert_eq!(hamal(&["dump", &d.db, "long"]).ok().out, "\t3\nok\t1\n");
    hamal(&["load", &d.db, "long2", &long, "--batch", "1"]).code(1).says("1 row of 1 whole batch is in");

    hamal(&["load", &d.db, "t", &bad, "--batch", "0"]).code(2);
    hamal(&["load", &d.db, "t", &bad, "--batch", "5", "--atomic"]).code(2);
    hamal(&["load", &d.db, "t", &bad, "--format", "xml"]).code(2);
    hamal(&["verify", &d.db]).ok().says("everything is as it must be");
}

#[test]
fn scan_every_way() {
    let d = Dir::new();
    hamal_with(&["load", &d.db, "t", "-"], b"a\t1\nab\t2\nabc\t3\nb\t4\nc\t5\n").ok();
    let keys = |args: &[&str]| {
        let all = [&["scan", &d.db, "t", "--keys"], args].concat();
        hamal(&all).ok().out.lines().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(keys(&[]), "a ab abc b c");
    assert_eq!(keys(&["--reverse"]), "c b abc ab a");
    assert_eq!(keys(&["--prefix", "ab"]), "ab abc");
    assert_eq!(keys(&["--prefix", "a", "--reverse", "--limit", "2"]), "abc ab");
    assert_eq!(keys(&["--from", "ab", "--to", "c"]), "ab abc b");
    assert_eq!(keys(&["--from", "ab", "--prefix", "a"]), "ab abc");
    assert_eq!(keys(&["--from", "x"]), "");
    assert_eq!(keys(&["--from", "c", "--to", "a"]), "");
    assert_eq!(keys(&["--limit", "0"]), "");
    assert_eq!(hamal(&["scan", &d.db, "t", "--limit", "1"]).ok().out, "a\t1\n");
    assert_eq!(hamal(&["scan", &d.db, "t", "--limit", "1", "--hex"]).ok().out, "0x61\t0x31\n");
    assert_eq!(
        hamal(&["scan", &d.db, "t", "--limit", "1", "--json"]).ok().out,
        "{\"key\":\"a\",\"value\":\"1\"}\n"
    );
    hamal(&["scan", &d.db, "t", "--from", "xyz", "--hex"]).code(2);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    use std::io::Read;
    let d = Dir::new();
    hamal_with(&["load", &d.db, "t", "-"], rows(5000).as_bytes()).ok();
    for command in ["dump", "scan"] {
        let mut child = program()
            .args([command, &d.db, "t"])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut some = [0; 10];
        child.stdout.take().unwrap().read_exact(&mut some).unwrap();
        let o = child.wait_with_output().unwrap();
        assert_eq!((o.status.code(), o.stderr.as_slice()), (Some(0), &b""[..]), "{command}");
    }
}

#[test]
fn help_teaches_and_usage_errors_are_2() {
    for command in [
        "demo", "load", "dump", "get", "put", "del", "scan", "trees", "waldump", "verify", "page", "stat",
        "recover",
    ] {
        let help = hamal(&[command, "--help"]).ok().out;
        assert!(help.contains("Example") && help.contains("--json"), "{command}: {help}");
        hamal(&[command, "--nonsense"]).code(2);
    }
    hamal(&["--help"]).ok().says("Exit codes").says("130");
    hamal(&[]).code(2);
}

#[test]
fn verbose_prints_events() {
    let d = Dir::new();
    let r = hamal(&["put", &d.db, "t", "k", "v", "--verbose"]).ok();
    assert!(r.err.lines().any(|l| l.starts_with("trace: TxnCommit")), "{}", r.err);
    assert_eq!(r.out, "");
}

#[test]
fn a_json_row_is_an_object() {
    let d = Dir::new();
    for row in [r#"["k",null,"v",null]"#, "null", "1", "\"k\""] {
        hamal_with(&["load", &d.db, "t", "-", "--format", "jsonl"], row.as_bytes())
            .code(1)
            .says("not an object");
    }
    hamal_with(&["load", &d.db, "t", "-", "--format", "jsonl"], b" {\"key\":\"k\",\"value\":\"v\"}").ok();
}

#[test]
fn a_dump_does_not_replace_what_it_must_not() {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    let d = Dir::new();
    hamal_with(&["load", &d.db, "t", "-"], rows(100).as_bytes()).ok();
    // Files of the database.
    let was = files(&d.db);
    for name in ["data", "control", "wal/x", "new", "../db/data"] {
        hamal(&["dump", &d.db, "t", "-o", &format!("{}/{name}", d.db)]).code(2).says("write elsewhere");
    }
    assert!(files(&d.db) == was);
    // A pipe is written to, not put aside.
    let pipe = d.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::read_to_string(pipe).unwrap()
    });
    hamal(&["dump", &d.db, "t", "-o", &pipe]).ok().says("100 rows");
    assert_eq!(reader.join().unwrap(), rows(100));
    assert!(std::fs::metadata(&pipe).unwrap().file_type().is_fifo());
    // Readable by those who may read files that the user makes otherwise.
    let (file, plain) = (d.path("out.tsv"), d.write("plain", b""));
    hamal(&["dump", &d.db, "t", "-o", &file]).ok();
    let mode = |path: &str| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&file), mode(&plain));
}

#[test]
fn compact_gives_space_back() {
    let d = Dir::new();
    hamal(&["compact", &d.db]).code(3).says("db");
    // Rows in an order of their own, most of them short-lived.
    let rows: String = (0..30_000u64)
        .map(|n| format!("{:016x}\t{}\n", n.wrapping_mul(0x9e37_79b9_7f4a_7c15), "v".repeat(60)))
        .collect();
    let file = d.write("rows.tsv", rows.as_bytes());
    // A tree's root stays where it is: this one's is at the front.
    hamal(&["put", &d.db, "u", "k", "v"]).ok();
    hamal(&["load", &d.db, "t", &file]).ok();
    let size = || std::fs::metadata(std::path::Path::new(&d.db).join("data")).unwrap().len();
    let full = size();
    let db = hamal::Database::open(&d.db).unwrap();
    let tx = db.begin_write().unwrap();
    assert_eq!(tx.tree("t").unwrap().clear().unwrap(), 30_000);
    tx.commit().unwrap();
    db.close().unwrap();
    drop(db);
    let r = hamal(&["compact", &d.db, "--json"]).ok().json();
    assert_eq!(r["bytes_after"].as_u64(), Some(size()), "{r}");
    assert!(size() * 10 < full, "{full} bytes, then {}", size());
    let text = hamal(&["compact", &d.db]).ok().out;
    assert!(text.contains("0 pages moved"), "{text}");
    assert_eq!(hamal(&["get", &d.db, "u", "k"]).ok().out, "v\n");
    hamal(&["verify", &d.db]).ok();
}
