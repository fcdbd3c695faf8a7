//! A trace for the public trace viewers: JSON `traceEvents`. There is no clock in a trace; an event takes a microsecond.
use crate::text::{LsnStyle, Names};
use crate::trace::{Row, Trace};
use crate::words::sentence;
use serde_json::{Value, json};

/// Lanes, by what an event is about.
const LANES: [&str; 5] = ["phases", "log", "pages", "checkpoint", "decisions"];

fn lane(r: &Row) -> usize {
    match r.ev.as_str() {
        e if e.starts_with("log.") => 1,
        e if e.starts_with("page.") => 2,
        e if e.starts_with("ckpt.") => 3,
        _ => 4,
    }
}

/// The trace as JSON that `ui.perfetto.dev` and `chrome://tracing` open.
pub fn perfetto(trace: &Trace, style: LsnStyle) -> String {
    let mut events: Vec<Value> = Vec::new();
    let meta = |name: &str, tid: usize, value: &str| json!({"ph": "M", "name": name, "pid": 1, "tid": tid, "args": {"name": value}});
    events.push(meta("process_name", 0, trace.name()));
    for (i, name) in LANES.iter().enumerate() {
        events.push(meta("thread_name", i, name));
    }
    let mut names = Names::new(style);
    let mut span: Option<(String, u64, u64)> = None;
    let close = |span: &Option<(String, u64, u64)>, events: &mut Vec<Value>, end: u64| {
        if let Some((name, from, _)) = span {
            events.push(json!({"ph": "X", "name": name, "pid": 1, "tid": 0, "ts": from, "dur": end - from}));
        }
    };
    for r in &trace.rows {
        names.learn(r);
        let phase = if r.run == 0 { r.phase.clone() } else { format!("restart {}: {}", r.run, r.phase) };
        if span.as_ref().is_none_or(|(name, ..)| *name != phase) {
            close(&span, &mut events, r.seq);
            span = Some((phase, r.seq, r.run));
        }
        let args = Value::Object(r.fields.clone());
        let mut e = json!({"ph": "X", "name": sentence(&names, r), "cat": r.ev, "pid": 1, "tid": lane(r), "ts": r.seq, "dur": 1, "args": args});
        if !r.text("txn").is_empty() {
            e["args"]["transaction"] = r.text("txn").into();
        }
        events.push(e);
    }
    let end = trace.rows.last().map_or(0, |r| r.seq + 1);
    close(&span, &mut events, end);
    json!({"displayTimeUnit": "ms", "traceEvents": events}).to_string()
}
