//! A trace as a value: a header and rows, read from and written as JSON Lines (`docs/formats/trace.md`).
use serde_json::{Map, Value};
use std::fmt;

/// The schema that this crate reads and writes.
pub const FORMAT: &str = "recovery-trace/1";

/// One event of a trace.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Dense number, from 1 on; the header is 0.
    pub seq: u64,
    /// 0: normal running; 1 and up: the number of the restart.
    pub run: u64,
    /// `run`, `analysis`, `redo`, `undo` or `finish`.
    pub phase: String,
    /// What happened: `log.append`, `redo.rec` and so on.
    pub ev: String,
    /// The other fields, in the order in which they are written.
    pub fields: Map<String, Value>,
}

/// A trace: the header's fields, and the events in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// Fields of the header.
    pub header: Map<String, Value>,
    /// The events.
    pub rows: Vec<Row>,
}

/// Why text is no trace: the line (from 1 on), and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadTrace {
    /// Number of the line.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for BadTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl std::error::Error for BadTrace {}

impl Row {
    /// A number, if the field is there and one.
    pub fn num(&self, name: &str) -> Option<u64> {
        self.fields.get(name).and_then(Value::as_u64)
    }
    /// A text; empty if the field is not there or none.
    pub fn text(&self, name: &str) -> &str {
        self.fields.get(name).and_then(Value::as_str).unwrap_or("")
    }
    /// Whether the field is `true`.
    pub fn flag(&self, name: &str) -> bool {
        self.fields.get(name).and_then(Value::as_bool).unwrap_or(false)
    }
    /// A list; empty if the field is not there or none.
    pub fn list(&self, name: &str) -> &[Value] {
        self.fields.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }
    /// The row as one line of JSON.
    pub fn line(&self) -> String {
        let mut all = Map::new();
        all.insert("seq".into(), self.seq.into());
        all.insert("run".into(), self.run.into());
        all.insert("phase".into(), self.phase.as_str().into());
        all.insert("ev".into(), self.ev.as_str().into());
        all.extend(self.fields.iter().map(|(k, v)| (k.clone(), v.clone())));
        Value::Object(all).to_string()
    }

    fn of(mut all: Map<String, Value>) -> Result<Row, String> {
        let mut take =
            |name: &str| all.shift_remove(name).ok_or_else(|| format!("the field `{name}` is missing"));
        let number = |name: &str, v: Value| v.as_u64().ok_or_else(|| format!("`{name}` is no number"));
        let seq = number("seq", take("seq")?)?;
        let run = number("run", take("run")?)?;
        let word = |name: &str, v: Value| {
            v.as_str().map(str::to_string).ok_or_else(|| format!("`{name}` is no text"))
        };
        let phase = word("phase", take("phase")?)?;
        let ev = word("ev", take("ev")?)?;
        Ok(Row { seq, run, phase, ev, fields: all })
    }
}

impl Trace {
    /// The header as one line of JSON.
    pub fn header_line(&self) -> String {
        Row { seq: 0, run: 0, phase: "run".into(), ev: "header".into(), fields: self.header.clone() }.line()
    }
    /// All of it as JSON Lines.
    pub fn to_jsonl(&self) -> String {
        let mut out = self.header_line() + "\n";
        for row in &self.rows {
            out += &row.line();
            out.push('\n');
        }
        out
    }
    /// Reads JSON Lines. Fields and events that are not known are kept: later versions may add some.
    ///
    /// ```
    /// use hamal_study::Trace;
    /// let text = "{\"seq\":0,\"run\":0,\"phase\":\"run\",\"ev\":\"header\",\"format\":\"recovery-trace/1\"}\n";
    /// assert_eq!(Trace::from_jsonl(text).unwrap().to_jsonl(), text);
    /// assert!(Trace::from_jsonl("{}").unwrap_err().to_string().starts_with("line 1"));
    /// ```
    ///
    /// # Errors
    /// [`BadTrace`]: a line that is no JSON object or lacks a common field, another schema, or `seq` that is not dense.
    pub fn from_jsonl(text: &str) -> Result<Trace, BadTrace> {
        let mut trace: Option<Trace> = None;
        for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            let bad = |what: String| BadTrace { line: i + 1, what };
            let all: Map<String, Value> =
                serde_json::from_str(line).map_err(|e| bad(format!("no JSON object: {e}")))?;
            let row = Row::of(all).map_err(bad)?;
            match &mut trace {
                None if row.ev == "header" && row.text("format") == FORMAT => {
                    trace = Some(Trace { header: row.fields, rows: Vec::new() });
                }
                None => return Err(bad(format!("a header of the format {FORMAT} is needed first"))),
                Some(t) => {
                    let before = t.rows.last().map(|r| r.seq);
                    if before.is_some_and(|b| row.seq != b + 1) {
                        return Err(bad(format!("`seq` is {} and is not dense", row.seq)));
                    }
                    t.rows.push(row);
                }
            }
        }
        trace.ok_or(BadTrace { line: 1, what: "there is nothing in it".into() })
    }
    /// The name of the scenario, or what else the trace is of.
    pub fn name(&self) -> &str {
        self.header.get("scenario").or(self.header.get("database")).and_then(Value::as_str).unwrap_or("")
    }
}
