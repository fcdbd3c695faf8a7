//! The parser: recursive descent over the tokens of one line.
use super::lex::{BadScenario, Token, lex};
use super::{Action, Expect, Line, Ref, Scenario, SlotValue, Stop};
use std::collections::HashMap;

type Result<T> = std::result::Result<T, BadScenario>;

/// Longest text of a slot, in bytes.
pub(crate) const TEXT_MOST: usize = 48;
/// Most slots of a page.
const SLOTS_MOST: u32 = 32;

/// Reads a scenario.
///
/// ```
/// let scenario = hamal_study::scenario::parse("pages P1..P2\na: T1 add P1[0] 5\ncrash\nrecover\n").unwrap();
/// assert_eq!(scenario.lines.len(), 4);
/// let bad = hamal_study::scenario::parse("pages P1\nT1 frobnicate P1\n").unwrap_err();
/// assert_eq!((bad.line, bad.column), (2, 4));
/// ```
///
/// # Errors
/// [`BadScenario`]: the first mistake, with line and column.
pub fn parse(text: &str) -> Result<Scenario> {
    let mut scenario = Scenario::default();
    let mut labels = HashMap::new();
    for (i, raw) in text.lines().enumerate() {
        let number = i + 1;
        let tokens = lex(number, raw)?;
        if tokens.is_empty() {
            continue;
        }
        let mut p =
            Parser { line: number, width: raw.chars().count(), tokens, at: 0, scenario: &mut scenario };
        let lines = p.line(raw.trim())?;
        for line in lines {
            if let Some(label) = &line.label
                && let Some(before) = labels.insert(label.clone(), number)
            {
                let what = format!("line {before} has the name `{label}` already");
                return Err(BadScenario { line: number, column: 1, what });
            }
            scenario.lines.push(line);
        }
    }
    check_blocks(&scenario)?;
    if scenario.setup.pages.is_empty() && scenario.setup.tables.is_empty() {
        let what = "a line `pages P1..P5` or `table t` is needed".into();
        return Err(BadScenario { line: 1, column: 1, what });
    }
    Ok(scenario)
}

/// Blocks must be closed, and nest.
fn check_blocks(s: &Scenario) -> Result<()> {
    let mut open: Vec<(usize, Option<&str>)> = Vec::new();
    for line in &s.lines {
        let bad = |what: String| Err(BadScenario { line: line.number, column: 1, what });
        match &line.action {
            Action::CheckpointBegin if open.iter().any(|(_, t)| t.is_none()) => {
                return bad("a checkpoint has begun already".into());
            }
            Action::Checkpoint if open.iter().any(|(_, t)| t.is_none()) => {
                return bad("a checkpoint is being taken".into());
            }
            Action::CheckpointBegin => open.push((line.number, None)),
            Action::NtaBegin(t) => open.push((line.number, Some(t))),
            Action::CheckpointTables if !open.iter().any(|(_, t)| t.is_none()) => {
                return bad("no checkpoint has begun".into());
            }
            Action::CheckpointEnd | Action::NtaEnd(_) => {
                let wanted = if let Action::NtaEnd(t) = &line.action { Some(t.as_str()) } else { None };
                match open.pop() {
                    Some((_, found)) if found == wanted => {}
                    Some((n, _)) => return bad(format!("the block of line {n} must end first")),
                    None => return bad("nothing has begun that could end here".into()),
                }
            }
            Action::Crash { .. } => open.clear(),
            _ => {}
        }
    }
    match open.pop() {
        Some((line, _)) => Err(BadScenario { line, column: 1, what: "the block has no end".into() }),
        None => Ok(()),
    }
}

pub(super) struct Parser<'s> {
    line: usize,
    width: usize,
    tokens: Vec<(Token, usize)>,
    at: usize,
    pub(super) scenario: &'s mut Scenario,
}

impl Parser<'_> {
    // ---- tokens ----

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(t, _)| t)
    }
    pub(super) fn bad<T>(&self, what: impl Into<String>) -> Result<T> {
        let column = self.tokens.get(self.at).map_or(self.width + 1, |(_, c)| *c);
        Err(BadScenario { line: self.line, column, what: what.into() })
    }
    /// As [`Parser::bad`], about the word before.
    pub(super) fn bad_before<T>(&mut self, what: impl Into<String>) -> Result<T> {
        self.at -= usize::from(self.at > 0);
        self.bad(what)
    }
    pub(super) fn wanted<T>(&self, what: &str) -> Result<T> {
        match self.peek() {
            Some(t) => self.bad(format!("{what} is needed here, not {t}")),
            None => self.bad(format!("{what} is needed at the end of the line")),
        }
    }
    fn is(&self, word: &str) -> bool {
        matches!(self.peek(), Some(Token::Word(w)) if w == word)
    }
    pub(super) fn is_mark(&self, mark: &str) -> bool {
        matches!(self.peek(), Some(Token::Mark(m)) if *m == mark)
    }
    pub(super) fn eat(&mut self, word: &str) -> bool {
        let is = self.is(word);
        self.at += usize::from(is);
        is
    }
    pub(super) fn eat_mark(&mut self, mark: &str) -> bool {
        let is = self.is_mark(mark);
        self.at += usize::from(is);
        is
    }
    fn keyword(&mut self, word: &str) -> Result<()> {
        if self.eat(word) { Ok(()) } else { self.wanted(&format!("`{word}`")) }
    }
    pub(super) fn mark(&mut self, mark: &str) -> Result<()> {
        if self.eat_mark(mark) { Ok(()) } else { self.wanted(&format!("`{mark}`")) }
    }
    fn name(&mut self, what: &str) -> Result<String> {
        match self.peek() {
            Some(Token::Word(w)) => {
                let w = w.clone();
                self.at += 1;
                Ok(w)
            }
            _ => self.wanted(what),
        }
    }
    /// A word or a quoted text.
    pub(super) fn string(&mut self, what: &str) -> Result<String> {
        match self.peek() {
            Some(Token::Word(w) | Token::Text(w)) => {
                let w = w.clone();
                self.at += 1;
                Ok(w)
            }
            _ => self.wanted(what),
        }
    }
    pub(super) fn number<N: std::str::FromStr>(&mut self, what: &str) -> Result<N> {
        match self.peek() {
            Some(Token::Word(w)) => match w.parse() {
                Ok(n) => {
                    self.at += 1;
                    Ok(n)
                }
                Err(_) => self.wanted(what),
            },
            _ => self.wanted(what),
        }
    }
    pub(super) fn done(&self) -> bool {
        self.at >= self.tokens.len()
    }

    // ---- lines ----

    /// A line is one action; only `T1 nta { ... }` is several.
    fn line(&mut self, text: &str) -> Result<Vec<Line>> {
        let mut label = None;
        if let [(Token::Word(w), _), (Token::Mark(":"), _), ..] = &self.tokens[..] {
            label = Some(w.clone());
            self.at = 2;
        }
        let mut refused = self.eat_mark("!");
        let mut lines = Vec::new();
        let number = self.line;
        let txn = self.tokens.get(self.at + 1).is_some_and(|(t, _)| *t == Token::Word("nta".into()));
        if txn && self.tokens.get(self.at + 2).is_some_and(|(t, _)| *t == Token::Mark("{")) {
            let t = self.name("a transaction")?;
            self.at += 2;
            let mut inner = vec![Action::NtaBegin(t.clone())];
            while !self.eat_mark("}") {
                if self.done() {
                    return self.wanted("`}`");
                }
                inner.push(self.of_txn(t.clone())?);
                self.eat_mark(",");
            }
            inner.push(Action::NtaEnd(t));
            // The name is that of the first record inside.
            for (i, action) in inner.into_iter().enumerate() {
                lines.push(Line {
                    number,
                    text: text.to_string(),
                    label: if i == 1 { label.take() } else { None },
                    refused: false,
                    action,
                });
            }
        } else {
            let action = self.action()?;
            refused |= self.eat_mark("!");
            lines.push(Line { number, text: text.to_string(), label, refused, action });
        }
        if !self.done() {
            return self.wanted("the end of the line");
        }
        Ok(lines)
    }

    fn on_off(&mut self) -> Result<bool> {
        match self.peek() {
            Some(Token::Word(w)) if w == "on" || w == "off" => {
                let on = w == "on";
                self.at += 1;
                Ok(on)
            }
            _ => self.wanted("`on` or `off`"),
        }
    }

    fn set_up(&mut self) -> Result<Option<Action>> {
        let started = self.scenario.lines.iter().any(|l| l.action != Action::Setup);
        let word = match self.peek() {
            Some(Token::Word(w))
                if ["pages", "table", "buffer", "checkpoints", "flusher", "images", "break"]
                    .contains(&w.as_str()) =>
            {
                w.clone()
            }
            _ => return Ok(None),
        };
        if started {
            return self.bad(format!("`{word}` must stand before the first action"));
        }
        self.at += 1;
        match word.as_str() {
            "pages" => self.pages()?,
            "table" => {
                if !self.scenario.setup.pages.is_empty() {
                    return self.bad("a scenario has pages or tables, not both");
                }
                let name = self.name("the name of a table")?;
                self.scenario.setup.tables.push(name);
            }
            "buffer" => {
                let n: usize = self.number("a number of frames")?;
                if n < 24 {
                    self.at -= 1;
                    return self.bad("the engine's buffer pool has at least 24 frames");
                }
                self.scenario.setup.buffer = n;
            }
            "checkpoints" => self.scenario.setup.checkpoints = self.on_off()?,
            "flusher" => {
                if self.on_off()? {
                    self.at -= 1;
                    return self
                        .bad("the flusher is a thread, and a scenario is the same each time: only `off`");
                }
            }
            "images" => self.scenario.setup.images = Some(self.on_off()?),
            _ => {
                let rule = self.name("a rule: wal, clrs, images, parts, reclsn or redo-test")?;
                if crate::run::rule(&rule).is_none() {
                    self.at -= 1;
                    return self.bad("there is no such rule: wal, clrs, images, parts, reclsn or redo-test");
                }
                self.scenario.setup.broken = Some(rule);
            }
        }
        Ok(Some(Action::Setup))
    }

    /// `P1..P5 [slots 8]`, or a list of names.
    fn pages(&mut self) -> Result<()> {
        if !self.scenario.setup.tables.is_empty() || !self.scenario.setup.pages.is_empty() {
            return self.bad("a scenario has one line `pages`, or tables");
        }
        let mut pages = Vec::new();
        while let Some(Token::Word(w)) = self.peek() {
            if w == "slots" {
                break;
            }
            let first = w.clone();
            self.at += 1;
            if !self.eat_mark("..") {
                self.eat_mark(",");
                pages.push(first);
                continue;
            }
            let last = self.name("the last page")?;
            let split = |name: &str| {
                let digits = name.find(|c: char| c.is_ascii_digit())?;
                Some((name[..digits].to_string(), name[digits..].parse::<u32>().ok()?))
            };
            match (split(&first), split(&last)) {
                (Some((a, from)), Some((b, to))) if a == b && from <= to && to - from < 64 => {
                    pages.extend((from..=to).map(|n| format!("{a}{n}")));
                }
                _ => {
                    self.at -= 1;
                    return self.bad("a range of pages is like P1..P5, of at most 64");
                }
            }
        }
        if self.eat("slots") {
            let slots: u32 = self.number("a number of slots")?;
            if !(1..=SLOTS_MOST).contains(&slots) {
                self.at -= 1;
                return self.bad(format!("a page has 1 to {SLOTS_MOST} slots"));
            }
            self.scenario.setup.slots = slots;
        }
        if pages.is_empty() {
            return self.wanted("the name of a page");
        }
        let mut sorted = pages.clone();
        sorted.sort();
        sorted.dedup();
        if sorted.len() != pages.len() {
            return self.bad("a page is named twice");
        }
        self.scenario.setup.pages = pages;
        Ok(())
    }

    fn action(&mut self) -> Result<Action> {
        if let Some(action) = self.set_up()? {
            return Ok(action);
        }
        let word = self.name("an action")?;
        Ok(match word.as_str() {
            "flush" if self.eat("all") => Action::FlushAll,
            "flush" if self.eat("log") => {
                let to = if self.eat("to") { Some(self.name("the name of a record")?) } else { None };
                Action::FlushLog(to)
            }
            "flush" => Action::FlushPage(self.page()?),
            "evict" => Action::Evict(self.page()?),
            "tidy" if self.scenario.setup.tables.is_empty() => {
                self.at -= 1;
                return self.bad("a scenario with pages has no trees to tidy");
            }
            "tidy" => Action::Tidy,
            "checkpoint" if self.eat("begin") => Action::CheckpointBegin,
            "checkpoint" if self.eat("tables") => Action::CheckpointTables,
            "checkpoint" if self.eat("end") => Action::CheckpointEnd,
            "checkpoint" => Action::Checkpoint,
            "crash" => self.crash()?,
            "recover" => self.recover()?,
            "log" => Action::Log,
            "tables" => Action::Tables,
            "show" => {
                let name = self.name("the name of a page or table")?;
                if !self.scenario.setup.tables.contains(&name) {
                    self.at -= 1;
                    self.page()?;
                }
                Action::Show(name)
            }
            "expect" => self.expect()?,
            _ => self.of_txn(word)?,
        })
    }

    fn page(&mut self) -> Result<String> {
        let page = self.name("the name of a page")?;
        let known = self.scenario.setup.pages.contains(&page);
        if !known && self.scenario.setup.tables.is_empty() {
            self.at -= 1;
            return self.bad(format!("there is no page `{page}`"));
        }
        if !known && !(page.contains('/')) {
            self.at -= 1;
            return self.bad("a page of a table is named like `t/leaf1`");
        }
        Ok(page)
    }
    pub(super) fn table(&mut self) -> Result<String> {
        let table = self.name("the name of a table")?;
        if !self.scenario.setup.tables.contains(&table) {
            self.at -= 1;
            return self.bad(format!("there is no table `{table}`"));
        }
        Ok(table)
    }
    fn slot(&mut self) -> Result<(String, u32)> {
        if self.scenario.setup.pages.is_empty() {
            return self.bad("a scenario with tables has no slots: put, delete, get");
        }
        let page = self.page()?;
        self.mark("[")?;
        let slot: u32 = self.number("the number of a slot")?;
        if slot >= self.scenario.setup.slots {
            self.at -= 1;
            return self.bad(format!("a page has {} slots, from 0 on", self.scenario.setup.slots));
        }
        self.mark("]")?;
        Ok((page, slot))
    }
    fn slot_value(&mut self) -> Result<SlotValue> {
        match self.peek() {
            Some(Token::Text(t)) if t.len() <= TEXT_MOST => {
                let t = t.clone();
                self.at += 1;
                Ok(SlotValue::Text(t))
            }
            Some(Token::Text(_)) => self.bad(format!("a text has at most {TEXT_MOST} bytes")),
            _ => Ok(SlotValue::Int(self.number("a number or a text in quotes")?)),
        }
    }

    fn of_txn(&mut self, txn: String) -> Result<Action> {
        let plausible = txn.starts_with(|c: char| c.is_alphabetic());
        let verb = match self.peek() {
            Some(Token::Word(v)) if plausible => v.clone(),
            _ => {
                self.at -= usize::from(self.at > 0);
                return self.bad(format!("`{txn}` is no action"));
            }
        };
        self.at += 1;
        Ok(match verb.as_str() {
            "begin" => Action::Begin(txn),
            "write" => {
                let (page, slot) = self.slot()?;
                self.mark("=")?;
                Action::Write { txn, page, slot, value: self.slot_value()? }
            }
            "add" => {
                let (page, slot) = self.slot()?;
                Action::Add { txn, page, slot, amount: self.number("a number")? }
            }
            "put" => {
                let (table, key) = (self.table()?, self.string("a key")?);
                Action::Put { txn, table, key, value: self.row_value()? }
            }
            "load" => {
                let table = self.table()?;
                Action::Load { txn, table, rows: self.rows()? }
            }
            "delete" => Action::Delete { txn, table: self.table()?, key: self.string("a key")? },
            "get" => {
                let (table, key) = (self.table()?, self.string("a key")?);
                let expect = match self.eat("expect") {
                    true if self.eat("absent") => Some(None),
                    true => Some(Some(self.row_value()?)),
                    false => None,
                };
                Action::Get { txn, table, key, expect }
            }
            "savepoint" => Action::Savepoint { txn, name: self.name("the name of a savepoint")? },
            "rollback" => {
                self.keyword("to")?;
                Action::RollbackTo { txn, name: self.name("the name of a savepoint")? }
            }
            "abort" => {
                let stop_after = match self.eat("stop") {
                    true => {
                        self.keyword("after")?;
                        Some(self.number("a number of CLRs")?)
                    }
                    false => None,
                };
                Action::Abort { txn, stop_after }
            }
            "commit" => {
                let (mut wait, mut end) = (true, true);
                loop {
                    if self.eat("nowait") {
                        wait = false;
                    } else if self.eat("no") {
                        self.keyword("end")?;
                        end = false;
                    } else {
                        break;
                    }
                }
                Action::Commit { txn, wait, end }
            }
            "end" => Action::End(txn),
            "nta" if self.eat("begin") => Action::NtaBegin(txn),
            "nta" if self.eat("end") => Action::NtaEnd(txn),
            "nta" => return self.wanted("`{`, `begin` or `end`"),
            _ => {
                self.at -= 1;
                return self.bad(format!("`{verb}` is nothing that a transaction does"));
            }
        })
    }

    fn crash(&mut self) -> Result<Action> {
        let (mut keep_log, mut lose_after, mut torn) = (false, None, None);
        loop {
            if self.eat("keep") {
                self.keyword("log")?;
                keep_log = true;
            } else if self.eat("lose") {
                self.keyword("log")?;
                self.keyword("after")?;
                lose_after = Some(self.name("the name of a record")?);
            } else if self.eat("torn") {
                torn = Some(self.page()?);
            } else {
                break;
            }
        }
        if keep_log && lose_after.is_some() {
            return self.bad("the log is kept, or lost after a record");
        }
        Ok(Action::Crash { keep_log, lose_after, torn })
    }

    fn recover(&mut self) -> Result<Action> {
        let mut stop = None;
        let mut flush = Vec::new();
        if self.eat("stop") {
            stop = Some(if self.eat("in") {
                self.keyword("analysis")?;
                Stop::Analysis
            } else {
                self.keyword("after")?;
                let n: u64 = self.number("a number")?;
                match self.peek() {
                    Some(Token::Word(w)) if w == "records" || w == "record" => {
                        self.at += 1;
                        Stop::Records(n)
                    }
                    Some(Token::Word(w)) if w == "redo" => {
                        self.at += 1;
                        Stop::Redo(n)
                    }
                    Some(Token::Word(w)) if w == "clr" || w == "clrs" => {
                        self.at += 1;
                        Stop::Clrs(n)
                    }
                    _ => return self.wanted("`records`, `redo` or `clr`"),
                }
            });
            if self.eat("flush") {
                while !self.done() && !self.is_mark("!") {
                    flush.push(self.page()?);
                    self.eat_mark(",");
                }
                if flush.is_empty() {
                    return self.wanted("the name of a page");
                }
            }
        }
        Ok(Action::Recover { stop, flush })
    }

    // ---- expectations ----

    fn reference(&mut self) -> Result<Ref> {
        let name = self.name("the name of a record")?;
        if name == "null" {
            return Ok(Ref::Null);
        }
        if name == "clr" && self.eat_mark("(") {
            let of = self.reference()?;
            self.mark(")")?;
            return Ok(Ref::Clr(Box::new(of)));
        }
        Ok(name.parse().map_or(Ref::Label(name), Ref::Rec))
    }
    fn pairs(&mut self) -> Result<Vec<(String, Ref)>> {
        let mut out = Vec::new();
        if self.eat("empty") {
            return Ok(out);
        }
        while let Some(Token::Word(_)) = self.peek() {
            let name = self.name("a name")?;
            self.mark("@")?;
            out.push((name, self.reference()?));
        }
        if out.is_empty() { self.wanted("a name with @ and a record, or `empty`") } else { Ok(out) }
    }
    fn refs(&mut self) -> Result<Vec<Ref>> {
        let mut out = Vec::new();
        if self.eat("none") {
            return Ok(out);
        }
        while let Some(Token::Word(_)) = self.peek() {
            out.push(self.reference()?);
        }
        if out.is_empty() { self.wanted("the name of a record, or `none`") } else { Ok(out) }
    }
    fn names(&mut self) -> Result<Vec<String>> {
        let mut out = Vec::new();
        if self.eat("none") {
            return Ok(out);
        }
        while let Some(Token::Word(_)) = self.peek() {
            out.push(self.name("a transaction")?);
        }
        if out.is_empty() { self.wanted("the name of a transaction, or `none`") } else { Ok(out) }
    }

    fn expect(&mut self) -> Result<Action> {
        let mut all = Vec::new();
        // `skipped a reason, b reason` and `clr a -> b, c -> d` go on after a comma without the word.
        let mut last = String::new();
        loop {
            let first = self.peek().cloned();
            let word = match &first {
                Some(Token::Word(w)) => w.clone(),
                _ => return self.wanted("what is expected"),
            };
            let next = self.tokens.get(self.at + 1).map(|(t, _)| t.clone());
            let one = match word.as_str() {
                "att" => {
                    self.at += 1;
                    Expect::Att(self.pairs()?)
                }
                "dpt" => {
                    self.at += 1;
                    Expect::Dpt(self.pairs()?)
                }
                "redo" => {
                    self.at += 1;
                    self.keyword("from")?;
                    Expect::RedoFrom(self.reference()?)
                }
                "redone" => {
                    self.at += 1;
                    Expect::Redone(self.refs()?)
                }
                "undone" => {
                    self.at += 1;
                    Expect::Undone(self.refs()?)
                }
                "lost" => {
                    self.at += 1;
                    Expect::Lost(self.refs()?)
                }
                "losers" => {
                    self.at += 1;
                    Expect::Losers(self.names()?)
                }
                "winners" => {
                    self.at += 1;
                    Expect::Winners(self.names()?)
                }
                "absent" => {
                    self.at += 1;
                    Expect::Absent(self.name("a transaction")?)
                }
                "error" => {
                    self.at += 1;
                    Expect::Error(self.name("the name of an error")?)
                }
                "pagelsn" | "disk" => {
                    self.at += 1;
                    let page = self.page()?;
                    self.mark("@")?;
                    let of = self.reference()?;
                    if word == "disk" { Expect::DiskLsn(page, of) } else { Expect::PageLsn(page, of) }
                }
                "skipped" => {
                    self.at += 1;
                    self.skipped()?
                }
                "clr" if next != Some(Token::Mark("(")) || last != "clr" => {
                    self.at += 1;
                    self.clr()?
                }
                _ => match (last.as_str(), &next) {
                    ("skipped", Some(Token::Word(w))) if is_reason(w) => self.skipped()?,
                    ("clr", _) if next == Some(Token::Mark("->")) || word == "clr" => self.clr()?,
                    _ => self.value()?,
                },
            };
            last = match &one {
                Expect::Skipped(..) => "skipped".into(),
                Expect::Clr(..) => "clr".into(),
                _ => String::new(),
            };
            all.push(one);
            if !self.eat_mark(",") {
                break;
            }
        }
        Ok(Action::Expect(all))
    }
    fn skipped(&mut self) -> Result<Expect> {
        let of = self.reference()?;
        let reason = self.name("a reason")?;
        if !is_reason(&reason) {
            self.at -= 1;
            return self.bad(format!("a reason is one of {}", reasons().join(", ")));
        }
        Ok(Expect::Skipped(of, reason))
    }
    fn clr(&mut self) -> Result<Expect> {
        let of = self.reference()?;
        self.mark("->")?;
        Ok(Expect::Clr(of, self.reference()?))
    }
    /// `P5[0] = "x"`, `t k1 = v`, `t k1 absent`, `T1 committed`.
    fn value(&mut self) -> Result<Expect> {
        let next = self.tokens.get(self.at + 1).map(|(t, _)| t.clone());
        if next == Some(Token::Word("committed".into())) {
            let txn = self.name("a transaction")?;
            self.at += 1;
            return Ok(Expect::Committed(txn));
        }
        if !self.scenario.setup.tables.is_empty() {
            let (table, key) = (self.table()?, self.string("a key")?);
            let value = if self.eat("absent") {
                None
            } else {
                self.mark("=")?;
                Some(self.row_value()?)
            };
            return Ok(Expect::Key { table, key, value });
        }
        let (page, slot) = self.slot()?;
        self.mark("=")?;
        Ok(Expect::Slot { page, slot, value: self.slot_value()? })
    }
}

fn reasons() -> Vec<&'static str> {
    let mut all = vec!["not-redoable"];
    all.extend(hamal::trace::SkipReason::ALL.map(|r| r.name()));
    all
}

fn is_reason(word: &str) -> bool {
    reasons().contains(&word)
}
