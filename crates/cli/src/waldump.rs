//! `hamal waldump`: the log, record by record.
//!
//! The log's files are read as they are: nothing is opened for writing, nothing recovered. If the log is damaged, what
//! lies before the damage is printed all the same, and the last line says what is wrong and where.

use crate::open::{Common, Stop, exists};
use crate::output::{Failure, Out, Result, grouped};
use clap::Args;
use hamal::inspect::Inspect;
use hamal::log::{LogEnd, LogReader, Record, Verdict};
use hamal::{Error, Lsn};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// How far beyond --start a record is looked for: more than the longest record has.
const LONGEST_RECORD: u64 = 256 << 10;

/// Print the log, one record a line
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  hamal waldump shop --limit 20
  hamal waldump shop --start 0x4a10 --end 0x5000
  hamal waldump shop --txn T4a10                     one transaction
  hamal waldump shop --page 7 --kind update,clr      what was done to page 7
  hamal waldump shop --chain 0x4a10                  what undo would visit from there
  hamal waldump shop --stats                         how much of the log is what

LSNs, transactions and pages are decimal, or hexadecimal with 0x (transactions also with T, as they are printed). \
In compensation records (clr, dummy_clr) undonext stands in place of prev. The last line says how the log ends: a torn \
tail, what a crash left of the last write, is normal (exit code 0); damage before the end is not (exit code 1).")]
pub(crate) struct Waldump {
    /// Directory of the database
    dir: PathBuf,
    /// Begin with the first record at or after this LSN [default: what recovery and rollback may need]
    #[arg(short, long, value_parser = number)]
    start: Option<u64>,
    /// End before this LSN
    #[arg(short, long, value_parser = number)]
    end: Option<u64>,
    /// Begin with the checkpoint that recovery would start from
    #[arg(long, conflicts_with = "start")]
    from_checkpoint: bool,
    /// Print the record at this LSN and those that undo would visit from it: prevLSN, or undoNextLSN of a CLR, back to the first
    #[arg(short, long, value_name = "LSN", value_parser = number, conflicts_with_all = ["start", "end", "from_checkpoint", "stats"])]
    chain: Option<u64>,
    /// Only records of this transaction
    #[arg(short = 'x', long, value_parser = txn_number)]
    txn: Option<u64>,
    /// Only records that change this page
    #[arg(short = 'P', long, value_parser = number)]
    page: Option<u64>,
    /// Only records of these kinds
    #[arg(short = 'r', long, visible_alias = "type", value_delimiter = ',', value_parser = [
        "update", "structure", "clr", "dummy_clr", "commit", "abort", "end", "begin_checkpoint", "checkpoint_chunk",
        "end_checkpoint", "image", "write_note",
    ])]
    kind: Vec<String>,
    /// At most this many records
    #[arg(short = 'n', long)]
    limit: Option<u64>,
    /// Print counts and bytes by manager and kind instead of records
    #[arg(short = 'z', long)]
    stats: bool,
}

/// A number, decimal or with 0x.
pub(crate) fn number(text: &str) -> std::result::Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| "a decimal number, or a hexadecimal one with 0x, is needed".into())
}

pub(crate) fn txn_number(text: &str) -> std::result::Result<u64, String> {
    match text.strip_prefix('T') {
        Some(hex) => u64::from_str_radix(hex, 16).map_err(|_| "no hexadecimal number follows the T".into()),
        None => number(text),
    }
}

/// How the log ends: where, and what the finder of the end had to say. Damage is a result here, so that what lies before it
/// can be looked at.
pub(crate) struct End {
    pub(crate) at: LogEnd,
    pub(crate) damage: Option<Error>,
}

impl End {
    pub(crate) fn find(inspect: &Inspect) -> Result<End> {
        match inspect.log_end() {
            Ok(at) => Ok(End { at, damage: None }),
            // The place of the damage ends what can be read. Without a place there is nothing to read.
            Err(e) if e.is_corruption() => match e.lsn() {
                Some(end) => {
                    let oldest = inspect.control().keep_from;
                    let at = LogEnd { end: end.max(oldest), last_seal: 0, verdict: Verdict::Clean, oldest };
                    Ok(End { at, damage: Some(e) })
                }
                None => Err(e.into()),
            },
            Err(e) => Err(e.into()),
        }
    }
    /// In words.
    pub(crate) fn words(&self) -> String {
        let at = self.at.end;
        match (&self.damage, &self.at.verdict) {
            (Some(e), _) => format!("the log is damaged: {e}"),
            (None, Verdict::Clean) => format!("the log ends at {at} with a whole group; nothing follows it"),
            (None, Verdict::TornTail { bytes }) => format!(
                "the log ends at {at}; {bytes} bytes that follow are what a crash left of the last write, never \
                 acknowledged: a normal end"
            ),
            (None, other) => format!("the log ends at {at}: {other:?}"),
        }
    }
    /// In one word.
    pub(crate) fn word(&self) -> &'static str {
        match (&self.damage, &self.at.verdict) {
            (Some(_), _) => "damaged",
            (None, Verdict::Clean) => "clean",
            (None, _) => "torn tail",
        }
    }
}

#[derive(Serialize)]
struct JsonRecord<'a> {
    lsn: u64,
    len: usize,
    txn: u64,
    prev: u64,
    kind: &'a str,
    rm: String,
    pages: Vec<u64>,
    desc: String,
}

#[derive(Clone, Copy, Default)]
struct Sum {
    records: u64,
    bytes: u64,
}

pub(crate) fn waldump(c: &Waldump, common: &Common, out: &mut Out) -> Result<()> {
    let stop = Stop::listen()?;
    exists(&c.dir)?;
    let inspect = Inspect::open(&c.dir)?;
    let end = End::find(&inspect)?;
    let mut stats: BTreeMap<(String, &'static str), Sum> = BTreeMap::new();
    let below = c.end.unwrap_or(u64::MAX);
    let mut left = c.limit.unwrap_or(u64::MAX);
    // Damage in a place that finding the end did not look at.
    let mut broken = None;
    if let Some(lsn) = c.chain {
        return chain(&inspect, inspect.reader(&end.at)?, Lsn(lsn), &mut left, common, out);
    }
    let start = if c.from_checkpoint { Some(inspect.control().checkpoint_begin.0) } else { c.start };
    match inspect.reader(&end.at).and_then(|reader| Records::new(reader, &inspect, start)) {
        Err(e) if e.is_corruption() => broken = Some(e),
        Err(e) => return Err(e.into()),
        Ok(mut records) => {
            while left > 0 {
                if stop.asked() {
                    return Err(Failure::Interrupted("the output is not complete".into()));
                }
                let r = match records.next() {
                    Ok(Some(r)) if r.lsn.0 < below => r,
                    Ok(_) => break,
                    Err(e) if e.is_corruption() => {
                        broken = Some(e);
                        break;
                    }
                    Err(e) => return Err(e.into()),
                };
                if !c.wants(&r) {
                    continue;
                }
                left -= 1;
                if c.stats {
                    let sum = stats.entry((inspect.manager_name(r.rm), r.kind.name())).or_default();
                    sum.records += 1;
                    sum.bytes += r.len() as u64;
                } else {
                    print_record(&inspect, &r, common.json, out)?;
                }
            }
        }
    }
    if c.stats {
        print_stats(&stats, common.json, out)?;
    }
    let damage = broken.as_ref().or(end.damage.as_ref());
    let words = broken.as_ref().map_or_else(|| end.words(), |e| format!("the log is damaged: {e}"));
    if common.json {
        let verdict = if damage.is_some() { "damaged" } else { end.word() };
        out.json(&serde_json::json!({ "end": end.at.end.0, "verdict": verdict, "words": words }))?;
    } else {
        out.line(&words)?;
    }
    match damage {
        None => Ok(()),
        Some(_) => Err(Failure::Check("the log is damaged before its end".into())),
    }
}

/// One record, and what undo would visit from it.
fn chain(
    inspect: &Inspect,
    mut reader: LogReader,
    mut at: Lsn,
    left: &mut u64,
    common: &Common,
    out: &mut Out,
) -> Result<()> {
    while !at.is_null() && *left > 0 {
        let Some(r) = reader.read(at)?.filter(|r| r.lsn == at) else {
            return Err(Failure::Check(format!("no record starts at {at}, or the log no longer holds it")));
        };
        print_record(inspect, &r, common.json, out)?;
        *left -= 1;
        at = r.prev;
    }
    Ok(())
}

impl Waldump {
    fn wants(&self, r: &Record) -> bool {
        self.txn.is_none_or(|t| r.txn.0 == t)
            && self.page.is_none_or(|p| r.blocks.iter().any(|b| b.page.0 == p))
            && (self.kind.is_empty() || self.kind.iter().any(|k| k == r.kind.name()))
    }
}

/// Records in the order of the log.
pub(crate) struct Records {
    reader: LogReader,
    at: Lsn,
    first: u64,
}

impl Records {
    /// From the first record at or after `start`; by default from the oldest that recovery may need.
    pub(crate) fn new(
        mut reader: LogReader,
        inspect: &Inspect,
        start: Option<u64>,
    ) -> hamal::Result<Records> {
        let keep = inspect.control().keep_from;
        let first = start.unwrap_or(keep.0);
        // Where a record is known to begin.
        let mut at = keep;
        if first < keep.0 {
            // Older records may still be there. A record begins where its checksum, which covers its own LSN, is right.
            let from = first.max(reader.oldest().0);
            let found = (from..from.saturating_add(LONGEST_RECORD).min(keep.0)).map(Lsn);
            at = found.into_iter().find(|lsn| matches!(reader.read(*lsn), Ok(Some(_)))).unwrap_or(keep);
        } else if start.is_some() && matches!(reader.read(Lsn(first)), Ok(Some(_))) {
            at = Lsn(first);
        }
        Ok(Records { reader, at, first })
    }
    /// The next one.
    pub(crate) fn next(&mut self) -> hamal::Result<Option<Record>> {
        loop {
            let Some(r) = self.reader.read(self.at)? else { return Ok(None) };
            self.at = r.end;
            if r.lsn.0 >= self.first {
                return Ok(Some(r));
            }
        }
    }
}

/// What the record's manager says about it: the text for each page, in one line.
fn description(inspect: &Inspect, r: &Record) -> String {
    let text = inspect.describe(r);
    let (head, blocks) = text.split_once('\n').unwrap_or((&text, ""));
    let tables = head.split_once(&format!(" {} bytes", r.len())).map_or("", |(_, t)| t.trim());
    let mut parts: Vec<String> = Vec::new();
    if !tables.is_empty() {
        parts.push(tables.to_string());
    }
    for (i, line) in blocks.lines().enumerate() {
        // The page's number is in a column of its own; with several pages it says which one is meant.
        let line = line.trim();
        let short = r.blocks.get(i).and_then(|b| {
            let said = line.strip_prefix(&format!("page {} former {} ", b.page, b.former))?;
            Some(if r.blocks.len() == 1 { said.to_string() } else { format!("{}: {said}", b.page) })
        });
        parts.push(short.unwrap_or_else(|| line.to_string()));
    }
    parts.join("; ")
}

fn print_record(inspect: &Inspect, r: &Record, json: bool, out: &mut Out) -> Result<()> {
    let desc = description(inspect, r);
    let rm = inspect.manager_name(r.rm);
    let pages: Vec<u64> = r.blocks.iter().map(|b| b.page.0).collect();
    if json {
        let kind = r.kind.name();
        return out.json(&JsonRecord {
            lsn: r.lsn.0,
            len: r.len(),
            txn: r.txn.0,
            prev: r.prev.0,
            kind,
            rm,
            pages,
            desc,
        });
    }
    let is_clr = matches!(r.kind.name(), "clr" | "dummy_clr");
    let link = if is_clr { "undonext" } else { "prev" };
    let txn = if r.txn.is_none() { "-".to_string() } else { r.txn.to_string() };
    let prev = if r.prev.is_null() { "-".to_string() } else { r.prev.to_string() };
    let pages: Vec<String> = pages.iter().map(u64::to_string).collect();
    let pages = if pages.is_empty() { "-".to_string() } else { pages.join(",") };
    let line = format!(
        "lsn: {:<10} len: {:>5} tx: {txn:<10} {link}: {prev:<10} kind: {:<16} rm: {rm:<5} pages: {pages:<7} desc: {desc}",
        r.lsn.to_string(),
        r.len(),
        r.kind.name(),
    );
    out.line(line.trim_end())
}

fn print_stats(stats: &BTreeMap<(String, &'static str), Sum>, json: bool, out: &mut Out) -> Result<()> {
    let total = stats
        .values()
        .fold(Sum::default(), |t, s| Sum { records: t.records + s.records, bytes: t.bytes + s.bytes });
    let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 };
    let row = |rm: &str, kind: &str, s: Sum| {
        format!(
            "{rm:<10} {kind:<18} {:>12} {:>6.2}% {:>16} {:>6.2}% {:>9.1}",
            grouped(s.records),
            share(s.records, total.records),
            grouped(s.bytes),
            share(s.bytes, total.bytes),
            if s.records == 0 { 0.0 } else { s.bytes as f64 / s.records as f64 },
        )
    };
    if !json {
        let head = format!(
            "{:<10} {:<18} {:>12} {:>7} {:>16} {:>7} {:>9}",
            "manager", "kind", "records", "", "bytes", "", "average"
        );
        out.line(head)?;
    }
    for ((rm, kind), s) in stats {
        if json {
            let (records, bytes) = (s.records, s.bytes);
            out.json(&serde_json::json!({ "rm": rm, "kind": kind, "records": records, "bytes": bytes }))?;
        } else {
            out.line(row(rm, kind, *s))?;
        }
    }
    if json { Ok(()) } else { out.line(row("all", "", total)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number("16"), Ok(16));
        assert_eq!(number("0x10"), Ok(16));
        assert!(number("").is_err() && number("0x").is_err() && number("-1").is_err());
        assert_eq!(txn_number("T10"), Ok(16));
        assert_eq!(txn_number("0x10"), Ok(16));
        assert!(txn_number("Tx").is_err());
    }
}
