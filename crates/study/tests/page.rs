//! The page in a real browser: it loads, steps to the end, searches, hides and shows answers, without an error on the
//! console. Needs Chromium; without it the test says so and passes.
use hamal_study::{Trace, html};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

/// What the browser is told to do; the outcome becomes the text of an element.
const VISIT: &str = include_str!("visit.js");

fn browser() -> Option<&'static str> {
    ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|b| {
        Command::new(b).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
    })
}

/// Opens the page and returns what [`VISIT`] found; fails on anything that the page said on the console.
fn visit(browser: &str, name: &str, trace: &Trace) -> serde_json::Value {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("page-{name}-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a folder");
    let file = dir.join("page.html");
    fs::write(&file, html(trace) + "<script>\n" + VISIT + "</script>").expect("the page");
    let out = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args([
            "--window-size=1400,900",
            "--virtual-time-budget=120000",
            "--enable-logging=stderr",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", dir.join("profile").display()))
        .arg(format!("file://{}", file.display()))
        .output()
        .expect("the browser runs");
    let (dom, log) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    let said: Vec<&str> = log.lines().filter(|l| l.contains("CONSOLE")).collect();
    assert!(said.is_empty(), "{name}: the page said on the console: {said:?}");
    let found = dom.split_once("<pre id=\"visit\">").and_then(|(_, r)| r.split_once("</pre>"));
    let (found, _) = found.unwrap_or_else(|| panic!("{name}: the visit did not end:\n{log}"));
    fs::remove_dir_all(&dir).expect("removed");
    serde_json::from_str(&found.replace("&gt;", ">").replace("&lt;", "<").replace("&amp;", "&"))
        .expect("JSON")
}

fn golden(name: &str) -> Trace {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("root");
    let text = fs::read_to_string(root.join(format!("tests/traces/{name}.jsonl"))).expect(name);
    Trace::from_jsonl(&text).expect(name)
}

#[test]
fn a_browser_shows_the_golden_traces() {
    let Some(browser) = browser() else {
        println!("skipped: no Chromium on this machine");
        return;
    };
    for name in ["rg-18-5", "reasons"] {
        let trace = golden(name);
        let saw = visit(browser, name, &trace);
        let context = format!("{name}: {saw}");
        assert_eq!(saw["events"], trace.rows.len(), "{context}");
        for yes in ["stepped", "end", "landed", "link"] {
            assert_eq!(saw[yes], true, "{context}");
        }
        assert_eq!(saw["mute"], serde_json::json!([]), "{context}");
        assert!(saw["found"].as_str().is_some_and(|f| f.starts_with("1 of ")), "{context}");
        assert_eq!(saw["crash"], "crash", "{context}");
        assert!(saw["phase"].as_str().is_some_and(|p| p.contains("analysis")), "{context}");
        assert!(saw["question"].as_str().is_some_and(|q| q.ends_with('?')), "{context}");
        assert_ne!(saw["question"], saw["answer"], "{context}");
        assert!(
            saw["tables"].as_array().is_some_and(|t| t.iter().all(|n| n.as_u64() > Some(0))),
            "{context}"
        );
    }
}

/// A trace of more than 100,000 events, made of a golden one again and again: the page answers, and makes only what is in sight.
#[test]
fn a_long_trace_does_not_freeze_the_page() {
    let Some(browser) = browser() else {
        println!("skipped: no Chromium on this machine");
        return;
    };
    let once = golden("reasons");
    let mut long = Trace { header: once.header.clone(), rows: Vec::new() };
    let (mut lsn, mut rec, mut run) = (0, 0, 0);
    while long.rows.len() < 100_000 {
        for row in &once.rows {
            let mut row = row.clone();
            row.seq = long.rows.len() as u64 + 1;
            row.run += run;
            for (name, by) in
                [("lsn", lsn), ("prev_lsn", lsn), ("undo_of", lsn), ("undo_next", lsn), ("rec", rec)]
            {
                if let Some(n) = row.num(name) {
                    row.fields.insert(name.into(), (n + by).into());
                }
            }
            long.rows.push(row);
        }
        (lsn, rec, run) = (lsn + 10_000, rec + 100, run + 3);
    }
    let saw = visit(browser, "long", &long);
    assert_eq!((&saw["end"], &saw["stepped"]), (&true.into(), &true.into()), "{saw}");
    assert!(saw["rows"].as_u64().is_some_and(|n| n > 0 && n < 200), "{saw}");
}
