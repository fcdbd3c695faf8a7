//! `hamal waldump`: the log, record by record.
//!
//! The log's files are read as they are: nothing is opened for writing, nothing recovered. If the log is damaged, what
//! lies before the damage is printed all the same, and the last line says what is wrong and where. `wanted.rs` has the filters,
//! `follow.rs` goes on as the log grows.

mod follow;
mod wanted;

use crate::open::{Common, Stop, exists};
use crate::output::{Failure, Out, Result, bytes, grouped, hex};
use clap::Args;
use follow::{Ended, follow, gap};
use hamal::inspect::Inspect;
use hamal::log::{LogEnd, LogReader, Record, Verdict};
use hamal::{Error, Lsn};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use wanted::Wanted;

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
  hamal waldump shop --page 7 --slot 3               what touched slot 3 of it
  hamal waldump shop --key apple                     what was done to the row `apple`, and undone
  hamal waldump shop --chain 0x4a10                  what undo would visit from there
  hamal waldump shop --stats                         how much of the log is what
  hamal waldump shop --start 0x4a10 --limit 1 --hex  one record, byte by byte
  hamal waldump shop --follow --kind commit          commits of another process, as they are logged

LSNs, transactions and pages are decimal, or hexadecimal with 0x (transactions also with T, as they are printed). \
In compensation records (clr, dummy_clr) undonext stands in place of prev. The last line says how the log ends: a torn \
tail, what a crash left of the last write, is normal (exit code 0); damage before the end is not (exit code 1).

Of a database that another process has open it shows the log as it was at some moment. \
With --follow a record is printed when its group is whole in the log, and the program goes on until Ctrl-C (exit code 130), until \
--limit or --end is reached (0), or until nobody reads the output any more (0). It looks ten times a second and delays nobody. What the \
other process gives back before it was read is named and left out. \
A CLR counts for --key if the record that it undoes was met: for that the log is read from where recovery may need it, whatever --start says. \
Splits, merges and images carry rows and are about none of them. Slots are numbered as before the record; what gives the whole page, or \
does not say which slots it touches, touches all.")]
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
    #[arg(short, long, value_name = "LSN", value_parser = number, conflicts_with_all = ["start", "end", "from_checkpoint", "stats", "page", "txn", "key", "kind"])]
    chain: Option<u64>,
    /// Only records of this transaction
    #[arg(short = 'x', long, value_parser = txn_number)]
    txn: Option<u64>,
    /// Only records that change this page
    #[arg(short = 'P', long, value_parser = number)]
    page: Option<u64>,
    /// With --page: only records that touch this slot of it
    #[arg(long, requires = "page", value_parser = number)]
    slot: Option<u64>,
    /// Only records that change the row with this key, in any tree, and the CLRs that undo them
    #[arg(short, long)]
    key: Option<String>,
    /// The key of --key is given in hexadecimal
    #[arg(long, requires = "key")]
    key_hex: bool,
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
    /// Print the bytes of each record below it, as they lie in the log
    #[arg(long, conflicts_with = "stats")]
    hex: bool,
    /// Go on as the log grows: also of a database that another process has open
    #[arg(short, long, conflicts_with = "chain")]
    follow: bool,
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
                    let at = LogEnd {
                        end: end.max(oldest),
                        last_seal: 0,
                        verdict: Verdict::Clean,
                        oldest,
                        keep_from: oldest,
                    };
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

/// A look at the log's files: the end, and the records from a place on.
struct Look {
    inspect: Inspect,
    end: End,
    records: hamal::Result<Records>,
}

/// Looks at a directory that another process may have open. While the log is written, and its files come and go, what is found may be
/// of no moment that there was: damage is believed when it is met twice in the same place.
fn look(dir: &Path, start: &dyn Fn(&Inspect) -> Option<u64>) -> Result<Look> {
    const TRIES: u32 = 20;
    let mut before: Option<Error> = None;
    let mut tried = 0;
    loop {
        tried += 1;
        // A database that `hamal study --keep-dir` has left has a manager more.
        let inspect = Inspect::open(dir)?.with_manager(hamal_study::run::page_manager());
        let look = End::find(&inspect).map(|end| {
            let reader = inspect.reader(&end.at);
            let records = reader.and_then(|reader| Records::new(reader, &inspect, start(&inspect)));
            Look { inspect, end, records }
        });
        let trouble = match &look {
            Ok(Look { end: End { damage: Some(e), .. }, .. } | Look { records: Err(e), .. }) => e.clone(),
            Err(Failure::Engine(e)) => e.clone(),
            _ => return look,
        };
        if tried == TRIES || before.is_some_and(|b| (b.lsn(), b.kind()) == (trouble.lsn(), trouble.kind())) {
            return look;
        }
        before = Some(trouble);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// From where on the log is needed now, if that is beyond `at`, and more than it was: then what lies at `at` may have been given back
/// while it was read.
fn given_back(dir: &Path, at: Lsn, was: Lsn) -> Option<Lsn> {
    Inspect::open(dir).ok().map(|i| i.control().keep_from).filter(|keep| *keep > at.max(was))
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
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<String>,
}

#[derive(Clone, Copy, Default)]
struct Sum {
    records: u64,
    bytes: u64,
}

/// What is being printed.
struct Dump<'a> {
    options: &'a Waldump,
    json: bool,
    inspect: &'a Inspect,
    wanted: Wanted<'a>,
    /// Records that may still be printed.
    left: u64,
    stats: BTreeMap<(String, &'static str), Sum>,
}

impl Dump<'_> {
    /// The next record of the log: prints it if it is wanted. Whether to go on.
    fn record(&mut self, r: &Record, out: &mut Out) -> Result<bool> {
        if self.options.end.is_some_and(|end| r.lsn.0 >= end) {
            return Ok(false);
        }
        if self.wanted.sees(self.inspect, r) {
            self.left = self.left.saturating_sub(1);
            if self.options.stats {
                let sum = self.stats.entry((self.inspect.manager_name(r.rm), r.kind.name())).or_default();
                sum.records += 1;
                sum.bytes += r.len() as u64;
            } else {
                print_record(self.inspect, r, self.json, self.options.hex, out)?;
            }
        }
        Ok(self.left > 0)
    }
    /// What comes last: the sums, and how the log ends.
    fn last(&self, end: Lsn, verdict: &str, words: &str, out: &mut Out) -> Result<()> {
        if self.options.stats {
            print_stats(&self.stats, self.json, out)?;
        }
        if self.json {
            return out.json(&serde_json::json!({ "end": end.0, "verdict": verdict, "words": words }));
        }
        out.line(words)
    }
}

pub(crate) fn waldump(c: &Waldump, common: &Common, out: &mut Out) -> Result<()> {
    let stop = Stop::listen()?;
    exists(&c.dir)?;
    let key = c.key.as_deref().map(|k| bytes(k, c.key_hex)).transpose()?;
    let first = |i: &Inspect| c.start.or(c.from_checkpoint.then_some(i.control().checkpoint_begin.0));
    // Who looks for a key has to see the records that CLRs compensate.
    let start = |i: &Inspect| first(i).filter(|s| key.is_none() || *s < i.control().keep_from.0);
    let Look { inspect, mut end, records } = look(&c.dir, &start)?;
    let mut dump = Dump {
        options: c,
        json: common.json,
        inspect: &inspect,
        wanted: Wanted::new(c, key.as_deref(), first(&inspect)),
        left: c.limit.unwrap_or(u64::MAX),
        stats: BTreeMap::new(),
    };
    if c.follow {
        let keep = inspect.control().keep_from;
        // Below what recovery needs a record had to be looked for.
        let from = if start(&inspect).is_some_and(|s| s < keep.0) { records?.at } else { keep };
        return followed(&mut dump, from, &stop, out);
    }
    if let Some(lsn) = c.chain {
        return chain(&dump, records?.reader, Lsn(lsn), out);
    }
    // Damage in a place that finding the end did not look at.
    let mut broken = None;
    match records {
        Err(e) if e.is_corruption() => broken = Some(e),
        Err(e) => return Err(e.into()),
        Ok(mut records) => {
            let mut more = dump.left > 0;
            while more {
                if stop.asked() {
                    return Err(Failure::Interrupted("the output is not complete".into()));
                }
                more = match records.next() {
                    Ok(Some(r)) => dump.record(&r, out)?,
                    Ok(None) => false,
                    Err(e) => match given_back(&c.dir, records.at, inspect.control().keep_from) {
                        Some(keep) => {
                            gap(&dump, records.at, keep, out)?;
                            let again = look(&c.dir, &|_| Some(keep.0))?;
                            (records, end) = (again.records?, again.end);
                            true
                        }
                        None if e.is_corruption() => {
                            broken = Some(e);
                            false
                        }
                        None => return Err(e.into()),
                    },
                };
            }
        }
    }
    let words = broken.as_ref().map_or_else(|| end.words(), |e| format!("the log is damaged: {e}"));
    let damaged = broken.is_some() || end.damage.is_some();
    dump.last(end.at.end, if damaged { "damaged" } else { end.word() }, &words, out)?;
    if damaged { Err(damage()) } else { Ok(()) }
}

fn damage() -> Failure {
    Failure::Check("the log is damaged before its end".into())
}

/// From `from` on, and on.
fn followed(dump: &mut Dump<'_>, from: Lsn, stop: &Stop, out: &mut Out) -> Result<()> {
    if dump.left == 0 {
        return Ok(());
    }
    let (at, ended) = follow(dump, from, stop, out)?;
    let words = match &ended {
        Ended::Damaged(e) => format!("the log is damaged: {e}"),
        _ => format!("the log was followed to {at}"),
    };
    let verdict = if matches!(ended, Ended::Damaged(_)) { "damaged" } else { "followed" };
    dump.last(at, verdict, &words, out)?;
    match ended {
        Ended::Done => Ok(()),
        Ended::Asked => Err(Failure::Interrupted(words)),
        Ended::Damaged(_) => Err(damage()),
    }
}

/// One record, and what undo would visit from it.
fn chain(dump: &Dump<'_>, mut reader: LogReader, mut at: Lsn, out: &mut Out) -> Result<()> {
    let mut left = dump.left;
    while !at.is_null() && left > 0 {
        let Some(r) = reader.read(at)?.filter(|r| r.lsn == at) else {
            return Err(Failure::Check(format!("no record starts at {at}, or the log no longer holds it")));
        };
        print_record(dump.inspect, &r, dump.json, dump.options.hex, out)?;
        left -= 1;
        at = r.prev;
    }
    Ok(())
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
pub(crate) fn description(inspect: &Inspect, r: &Record) -> String {
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

fn print_record(inspect: &Inspect, r: &Record, json: bool, with_bytes: bool, out: &mut Out) -> Result<()> {
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
            bytes: with_bytes.then(|| hex(r.bytes())),
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
    out.line(line.trim_end())?;
    if with_bytes { out.line(dumped(r.bytes())) } else { Ok(()) }
}

/// Bytes as people read them: sixteen a line, behind their offset, and as text where they are text.
fn dumped(bytes: &[u8]) -> String {
    let line = |(i, line): (usize, &[u8])| {
        let mut digits: Vec<String> = line.iter().map(|b| format!("{b:02x}")).collect();
        if digits.len() > 8 {
            digits.insert(8, String::new());
        }
        let text = line.iter().map(|b| if (0x20..0x7f).contains(b) { char::from(*b) } else { '.' });
        format!("    {:06x}  {:<48}  |{}|", 16 * i, digits.join(" "), text.collect::<String>())
    };
    bytes.chunks(16).enumerate().map(line).collect::<Vec<_>>().join("\n")
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

    #[test]
    fn bytes_in_lines() {
        let bytes: Vec<u8> = (0x3b..0x4c).collect();
        let text = "    000000  3b 3c 3d 3e 3f 40 41 42  43 44 45 46 47 48 49 4a  |;<=>?@ABCDEFGHIJ|\n    000010  4b";
        assert!(dumped(&bytes).starts_with(text), "{}", dumped(&bytes));
        assert!(dumped(&bytes).ends_with("  |K|"));
        assert_eq!(dumped(&[0, 0xff]).split_whitespace().collect::<Vec<_>>(), ["000000", "00", "ff", "|..|"]);
    }
}
