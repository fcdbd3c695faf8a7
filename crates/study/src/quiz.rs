//! Exercises: the questions that a trace answers, and marks for answers.
use crate::text::{LsnStyle, Names};
use crate::trace::Trace;
use crate::words::sentence;
use serde_json::Value;

/// A question: its name, the text, the right answer, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// How the answers' file names it: `r1.redo.50b.P4`.
    pub id: String,
    /// The question.
    pub text: String,
    /// The answer, as words in any order unless `ordered`.
    pub answer: String,
    /// Whether the order of the words counts.
    pub ordered: bool,
    /// Why.
    pub why: String,
}

/// The marks of an answers' file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Right answers.
    pub right: usize,
    /// Questions.
    pub of: usize,
    /// The first wrong or missing one, with what was answered.
    pub first_wrong: Option<(Question, String)>,
    /// Lines that name no question.
    pub unknown: Vec<String>,
}

/// The questions of a trace, in the order in which recovery answers them.
pub fn questions(trace: &Trace, style: LsnStyle) -> Vec<Question> {
    let mut names = Names::new(style);
    let mut out: Vec<Question> = Vec::new();
    for r in &trace.rows {
        names.learn(r);
        let run = r.run;
        let lsn = |v: Option<&Value>| names.page(v.and_then(Value::as_u64));
        let pairs = |list: &[Value], at: usize| -> String {
            let pair =
                |e: &Value| format!("{}@{}", e.get(0).and_then(Value::as_str).unwrap_or("?"), lsn(e.get(at)));
            if list.is_empty() { "empty".into() } else { list.iter().map(pair).collect::<Vec<_>>().join(" ") }
        };
        let words = |list: &[Value]| {
            let list: Vec<_> = list.iter().filter_map(Value::as_str).collect();
            if list.is_empty() { "none".into() } else { list.join(" ") }
        };
        let ask = |id: &str, text: &str, answer: String, ordered: bool, why: String| Question {
            id: format!("r{run}.{id}"),
            text: text.into(),
            answer,
            ordered,
            why,
        };
        match r.ev.as_str() {
            "analysis.end" => {
                let why = sentence(&names, r);
                let live: Vec<Value> = r
                    .list("att")
                    .iter()
                    .filter(|e| e.get(1).and_then(Value::as_str) != Some("C"))
                    .cloned()
                    .collect();
                out.push(ask(
                    "att",
                    "Which transactions that have not committed are in the active transaction table, with which lastLSN?",
                    pairs(&live, 2),
                    false,
                    why.clone(),
                ));
                out.push(ask(
                    "dpt",
                    "Which pages are in the dirty page table, with which recLSN?",
                    pairs(r.list("dpt"), 1),
                    false,
                    why.clone(),
                ));
                out.push(ask("losers", "Who are the losers?", words(r.list("losers")), false, why.clone()));
                out.push(ask(
                    "redo_from",
                    "From which LSN does redo start?",
                    lsn(r.fields.get("redo_from")),
                    false,
                    why,
                ));
            }
            "redo.rec" => {
                let name = names.name(r.num("lsn"));
                let answer = if r.text("reason").is_empty() { "redo" } else { r.text("reason") };
                let id = format!("redo.{name}.{}", r.text("page"));
                let text = format!(
                    "{name} ({} of {} on {}): `redo`, or the reason to skip it?",
                    r.text("type"),
                    r.text("txn"),
                    r.text("page")
                );
                out.push(ask(&id, &text, answer.into(), false, sentence(&names, r)));
            }
            "undo.rec" if run > 0 => {
                let name = names.name(r.num("lsn"));
                let id = format!("r{run}.undo");
                match out.iter_mut().find(|q| q.id == id) {
                    Some(q) => q.answer += &format!(" {name}"),
                    None => out.push(ask(
                        "undo",
                        "Which records does undo visit, in which order?",
                        name,
                        true,
                        "Undo always takes the largest undoNextLSN of all losers; a CLR leads on to its undoNextLSN.".into(),
                    )),
                }
            }
            _ => {}
        }
    }
    out
}

/// The sheet to fill in.
pub fn sheet(questions: &[Question]) -> String {
    let mut out = String::from(
        "# Write each answer behind its `=`. Tables: T1@30 P2@10 (or `empty`); lists: words (or `none`).\n",
    );
    for q in questions {
        out += &format!("\n# {}\n{} =\n", q.text, q.id);
    }
    out
}

fn same(q: &Question, given: &str) -> bool {
    let list = |s: &str| -> Vec<String> {
        s.split([' ', ',', '\t']).filter(|w| !w.is_empty()).map(str::to_lowercase).collect()
    };
    let (mut a, mut b) = (list(&q.answer), list(given));
    if !q.ordered {
        a.sort();
        b.sort();
    }
    a == b
}

/// Marks a sheet.
///
/// ```
/// use hamal_study::{LsnStyle, quiz};
/// let text = "pages P1\nT1 add P1[0] 5\nT1 commit\ncrash\nrecover\n";
/// let scenario = hamal_study::scenario::parse(text).unwrap();
/// let trace = hamal_study::run::run("x", text, &scenario).trace;
/// let questions = quiz::questions(&trace, LsnStyle::Ordinal);
/// let marks = quiz::mark(&questions, "r1.losers = none\nr1.redo.10.P1 = page-not-in-dpt\n");
/// assert_eq!(marks.right, 1);
/// assert_eq!(marks.first_wrong.unwrap().0.id, "r1.att");
/// ```
pub fn mark(questions: &[Question], answers: &str) -> Marks {
    let mut given = Vec::new();
    for line in answers.lines().map(|l| l.split('#').next().unwrap_or("").trim()).filter(|l| !l.is_empty()) {
        let (id, answer) = line.split_once('=').unwrap_or((line, ""));
        given.push((id.trim().to_string(), answer.trim().to_string()));
    }
    let mut marks = Marks { right: 0, of: questions.len(), first_wrong: None, unknown: Vec::new() };
    for q in questions {
        let answer = given.iter().find(|(id, _)| *id == q.id).map(|(_, a)| a.clone()).unwrap_or_default();
        if same(q, &answer) {
            marks.right += 1;
        } else if marks.first_wrong.is_none() {
            marks.first_wrong = Some((q.clone(), answer));
        }
    }
    marks.unknown =
        given.into_iter().map(|(id, _)| id).filter(|id| !questions.iter().any(|q| q.id == *id)).collect();
    marks
}
