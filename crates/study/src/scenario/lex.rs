//! Words of a line, with their columns.
use std::fmt;

/// Why a scenario cannot be run: where, and what is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadScenario {
    /// Line, from 1 on.
    pub line: usize,
    /// Column, from 1 on.
    pub column: usize,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for BadScenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.what)
    }
}

impl std::error::Error for BadScenario {}

/// A word, a quoted text, or a mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    Word(String),
    Text(String),
    Mark(&'static str),
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Word(w) => write!(f, "`{w}`"),
            Token::Text(t) => write!(f, "\"{t}\""),
            Token::Mark(m) => write!(f, "`{m}`"),
        }
    }
}

/// Marks, the longer ones first.
const MARKS: [&str; 13] = ["->", "..", "[", "]", "{", "}", "(", ")", "=", ",", "@", ":", "!"];

/// The tokens of a line, each with its column.
pub(super) fn lex(line: usize, text: &str) -> Result<Vec<(Token, usize)>, BadScenario> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let bad =
            |at: usize, what: String| BadScenario { line, column: text[..at].chars().count() + 1, what };
        let column = text[..at].chars().count() + 1;
        let rest = &text[at..];
        if c == '#' {
            break;
        }
        if c.is_whitespace() {
            at += c.len_utf8();
        } else if c == '"' {
            let Some(len) = rest[1..].find('"') else {
                return Err(bad(at, "the text has no closing quote".into()));
            };
            out.push((Token::Text(rest[1..=len].to_string()), column));
            at += len + 2;
        } else if let Some(mark) = MARKS.iter().find(|m| rest.starts_with(**m)) {
            out.push((Token::Mark(mark), column));
            at += mark.len();
        } else {
            let end = rest.char_indices().find(|&(i, c)| {
                let mark = MARKS.iter().any(|m| rest[i..].starts_with(m));
                c.is_whitespace() || c == '"' || c == '#' || (mark && i > 0)
            });
            let len = end.map_or(rest.len(), |(i, _)| i);
            out.push((Token::Word(rest[..len].to_string()), column));
            at += len;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_marks_and_texts() {
        let words: Vec<String> = lex(1, "a: T1 write P5[0] = \"x y\" # c")
            .unwrap()
            .iter()
            .map(|(t, c)| format!("{t}{c}"))
            .collect();
        assert_eq!(
            words,
            ["`a`1", "`:`2", "`T1`4", "`write`7", "`P5`13", "`[`15", "`0`16", "`]`17", "`=`19", "\"x y\"21"]
        );
        assert_eq!(
            lex(3, "  \"x").unwrap_err(),
            BadScenario { line: 3, column: 3, what: "the text has no closing quote".into() }
        );
        let minus: Vec<_> =
            lex(1, "-5 a->b P1..P5").unwrap().into_iter().map(|(t, _)| t.to_string()).collect();
        assert_eq!(minus, ["`-5`", "`a`", "`->`", "`b`", "`P1`", "`..`", "`P5`"]);
    }
}
