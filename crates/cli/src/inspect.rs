//! `hamal verify`, `page`, `stat`, `recover`: a database looked into, and recovered for good.

use crate::open::{Common, Stop, exists};
use crate::output::{Failure, Out, Result, count, grouped, progress};
use crate::waldump::{End, Records, number};
use clap::Args;
use hamal::inspect::Inspect;
use hamal::log::{Record, RecordKind};
use hamal::raw::header;
use hamal::{Lsn, RecoveryReport, TxnId, Verdict};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Check every page, every tree and the log
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  hamal verify shop
  hamal verify shop --json

Reads the log from the oldest record that may be needed to its end, recovers the database in memory, and checks each \
page's checksum, the order and fences of each tree, that every page is reached exactly once or free, and the chains of \
large values. Exit code 1 if anything is not as it must be. A torn tail of the log is normal after a crash.")]
pub(crate) struct Verify {
    /// Directory of the database
    dir: PathBuf,
}

/// Show a page, decoded
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  hamal page shop 1
  hamal page shop 7 --raw --hex                      as it lies on disk, without recovery")]
pub(crate) struct Page {
    /// Directory of the database
    dir: PathBuf,
    /// Number of the page
    #[arg(value_parser = number)]
    page: u64,
    /// As it lies in the data file: not recovered, whatever state it is in
    #[arg(long)]
    raw: bool,
    /// Print the bytes too
    #[arg(long)]
    hex: bool,
}

/// Show what a database consists of
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  hamal stat shop
  hamal stat shop --json | jq .log
  hamal stat shop --json | jq .pins                  what keeps its log, the most first

The database must not be open: what goes on in an open one, its process can print (Database::activity).")]
pub(crate) struct Stat {
    /// Directory of the database
    dir: PathBuf,
}

/// Recover a database for good, print what that took, and close it
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  hamal recover shop
  hamal recover shop --verbose 2> decisions.txt      every decision of analysis, redo and undo

Every open recovers; this command does nothing else. `hamal verify` checks first, and changes nothing.")]
pub(crate) struct Recover {
    /// Directory of the database
    dir: PathBuf,
    /// Write what recovery decided, and why, to this file (JSON Lines, docs/formats/trace.md)
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
}

// verify

/// What reading the whole log found.
#[derive(Default)]
struct LogCheck {
    records: u64,
    bytes: u64,
    findings: Vec<String>,
}

pub(crate) fn verify(c: &Verify, common: &Common, out: &mut Out) -> Result<()> {
    let stop = Stop::listen()?;
    exists(&c.dir)?;
    let inspect = Inspect::open(&c.dir)?;
    let end = End::find(&inspect)?;
    let log = check_log(&inspect, &end, &stop)?;
    let mut findings = log.findings;
    if !common.json {
        let (records, kib) = (count(log.records, "record"), grouped(log.bytes.div_ceil(1024)));
        out.line(format_args!("log       {records}, {kib} KiB; {}", end.words()))?;
        out.flush()?;
    }

    // What recovery would make of it, checked page by page.
    let pages = match common.opening(&stop).run(|b| b.open_read_only(&c.dir)) {
        Err(Failure::Engine(e)) if e.is_corruption() => {
            // The log's own damage has been found already.
            let text = e.to_string();
            if !findings.contains(&text) {
                findings.push(text);
            }
            None
        }
        Err(e) => return Err(e),
        Ok((db, report)) => {
            if !common.json {
                let lines = report.to_string();
                lines.lines().try_for_each(|l| out.line(format_args!("recovery  {l}")))?;
                out.flush()?;
            }
            let bar = progress("verifying", Some(1));
            let verified = db.verify(&mut |done, total| {
                bar.set_length(total.max(1));
                bar.set_position(done);
            });
            bar.finish_and_clear();
            match verified {
                Err(e) if e.is_corruption() => {
                    findings.push(e.to_string());
                    None
                }
                Err(e) => return Err(e.into()),
                Ok(pages) => Some(pages),
            }
        }
    };
    for f in pages.iter().flat_map(|p| &p.findings) {
        findings.push(match f.page {
            Some(page) => format!("page {page}: {}", f.message),
            None => f.message.clone(),
        });
    }

    if common.json {
        let counts = pages.as_ref().map(|p| {
            serde_json::json!({
                "allocated": p.pages_allocated, "reachable": p.pages_reachable, "trees": p.trees, "leaves": p.leaves,
                "inner": p.inner, "overflow": p.overflow, "rows": p.rows, "ghosts": p.ghosts,
                "garbage_rows": p.garbage_rows,
            })
        });
        out.json(&serde_json::json!({
            "ok": findings.is_empty(),
            "findings": findings,
            "log": { "records": log.records, "bytes": log.bytes, "end": end.at.end.0, "verdict": end.word() },
            "pages": counts,
        }))?;
    } else {
        if let Some(p) = &pages {
            out.line(format_args!(
                "pages     {} allocated, {} reached: {} leaves, {} inner, {} of large values",
                grouped(p.pages_allocated),
                grouped(p.pages_reachable),
                grouped(p.leaves),
                grouped(p.inner),
                grouped(p.overflow)
            ))?;
            let (trees, rows) = (grouped(p.trees), count(p.rows, "row"));
            let (ghosts, garbage) = (count(p.ghosts, "ghost"), count(p.garbage_rows, "garbage row"));
            out.line(format_args!(
                "trees     {trees}, the engine's own included: {rows}, {ghosts}, {garbage}"
            ))?;
        }
        findings.iter().try_for_each(|f| out.line(format_args!("FINDING   {f}")))?;
        if findings.is_empty() {
            out.line("verified  everything is as it must be")?;
        }
    }
    match findings.len() {
        0 => Ok(()),
        n => Err(Failure::Check(format!("{}: {}", c.dir.display(), count(n as u64, "finding")))),
    }
}

/// Reads every record that may be needed: each follows the one before, and each transaction's chain leads back through
/// its own records.
fn check_log(inspect: &Inspect, end: &End, stop: &Stop) -> Result<LogCheck> {
    let mut check = LogCheck::default();
    check.findings.extend(end.damage.as_ref().map(ToString::to_string));
    let damaged = |e: hamal::Error, check: &mut LogCheck| {
        if !e.is_corruption() {
            return Err(Failure::from(e));
        }
        let text = e.to_string();
        if !check.findings.contains(&text) {
            check.findings.push(text);
        }
        Ok(())
    };
    let mut records = match inspect.reader(&end.at).and_then(|r| Records::new(r, inspect, None)) {
        Ok(records) => records,
        Err(e) => {
            damaged(e, &mut check)?;
            return Ok(check);
        }
    };
    let mut last: HashMap<TxnId, Lsn> = HashMap::new();
    loop {
        if stop.asked() {
            return Err(Failure::Interrupted("the check is not complete".into()));
        }
        match records.next() {
            Ok(Some(r)) => {
                check.records += 1;
                check.bytes += r.len() as u64;
                check.findings.extend(broken_chain(&r, &last));
                match r.kind {
                    RecordKind::Commit | RecordKind::End => {
                        last.remove(&r.txn);
                    }
                    _ if r.txn.is_none() => {}
                    _ => {
                        last.insert(r.txn, r.lsn);
                    }
                }
            }
            Ok(None) => return Ok(check),
            Err(e) => {
                damaged(e, &mut check)?;
                return Ok(check);
            }
        }
    }
}

/// What is wrong with the record's place in its transaction's chain. Of a transaction that began before the first record
/// that was read, only what was read is known.
fn broken_chain(r: &Record, last: &HashMap<TxnId, Lsn>) -> Option<String> {
    if r.txn.is_none() {
        return None;
    }
    if r.prev >= r.lsn {
        return Some(format!("the record at {} of {} leads forward to {}", r.lsn, r.txn, r.prev));
    }
    let is_clr = matches!(r.kind, RecordKind::Clr | RecordKind::DummyClr);
    match last.get(&r.txn) {
        Some(before) if !is_clr && r.prev != *before => Some(format!(
            "the record at {} of {} names {} as the one before; it is {before}",
            r.lsn, r.txn, r.prev
        )),
        None if r.txn.0 > r.lsn.0 => {
            Some(format!("the record at {} is older than its transaction {}", r.lsn, r.txn))
        }
        _ => None,
    }
}

// page

pub(crate) fn page(c: &Page, common: &Common, out: &mut Out) -> Result<()> {
    let (bytes, text, state) = if c.raw { raw_page(c)? } else { recovered_page(c, common)? };
    if common.json {
        let mut object = serde_json::json!({
            "page": header::page_id(&bytes).0,
            "manager": header::rm(&bytes).0,
            "kind": header::kind(&bytes),
            "tree": header::tree(&bytes).0,
            "page_lsn": header::page_lsn(&bytes).0,
            "img_lsn": header::img_lsn(&bytes).0,
            "text": text,
        });
        if let Some(map) = object.as_object_mut() {
            if c.hex {
                map.insert("bytes".into(), crate::output::hex(&bytes).into());
            }
            if c.raw {
                map.insert("sound".into(), state.is_none().into());
            }
        }
        out.json(&object)?;
    } else {
        out.line(text.trim_end())?;
        if c.hex {
            for (at, line) in hex_lines(&bytes) {
                out.line(format_args!("{at:06x}  {line}"))?;
            }
        }
    }
    match state {
        None => Ok(()),
        Some(fault) => Err(Failure::Check(format!("page {} is damaged: {fault}", c.page))),
    }
}

/// The page's bytes, the text, and what is wrong with it.
type Shown = (Vec<u8>, String, Option<String>);

fn recovered_page(c: &Page, common: &Common) -> Result<Shown> {
    let (db, _) = common.read_only(&c.dir, &Stop::listen()?)?;
    Ok((db.page(c.page)?, db.describe_page(c.page)?, None))
}

fn raw_page(c: &Page) -> Result<Shown> {
    exists(&c.dir)?;
    let inspect = Inspect::open(&c.dir)?;
    let control = inspect.control();
    let path = c.dir.join("data");
    let fail = |e| Failure::Io(path.display().to_string(), e);
    let size = u64::from(control.page_size);
    let file = File::open(&path).map_err(fail)?;
    let pages = file.metadata().map_err(fail)?.len() / size;
    if c.page >= pages {
        // As without --raw.
        let m = format!("there is no page {}: the data file has {pages}", c.page);
        return Err(hamal::Error::new(hamal::ErrorKind::InvalidArgument, m).into());
    }
    let mut bytes = vec![0; control.page_size as usize];
    file.read_exact_at(&mut bytes, c.page * size).map_err(fail)?;
    let fault = match hamal_page::verify(&bytes, control.db, hamal_page::PageId(c.page)) {
        Ok(()) => None,
        // A page that was allocated and never written.
        Err(hamal_page::PageFault::Zero) => None,
        Err(hamal_page::PageFault::Checksum { found, expected }) => {
            Some(format!("its checksum is 0x{found:08x} and its bytes have 0x{expected:08x}"))
        }
        Err(hamal_page::PageFault::WrongPage { found }) => {
            Some(format!("it is page {found} of this database"))
        }
    };
    let zero = bytes.iter().all(|b| *b == 0);
    let state = match &fault {
        _ if zero => "zero: never written".to_string(),
        None => "sound".to_string(),
        Some(f) => f.clone(),
    };
    let rm = header::rm(&bytes);
    let text = [
        ("page", header::page_id(&bytes).to_string()),
        ("manager", format!("{rm}, {}", inspect.manager_name(rm))),
        ("kind", header::kind(&bytes).to_string()),
        ("tree", header::tree(&bytes).to_string()),
        ("pageLSN", header::page_lsn(&bytes).to_string()),
        ("imgLSN", header::img_lsn(&bytes).to_string()),
        ("on disk", state),
    ];
    let text = text.iter().map(|(name, value)| format!("{name:<10}{value}\n")).collect();
    Ok((bytes, text, fault))
}

/// Sixteen bytes a line; lines that repeat are left out, as hexdump does.
fn hex_lines(bytes: &[u8]) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut before: Option<&[u8]> = None;
    let mut skipped = false;
    for (i, chunk) in bytes.chunks(16).enumerate() {
        if before == Some(chunk) {
            if !skipped {
                lines.push((i * 16, "*".to_string()));
            }
            skipped = true;
            continue;
        }
        (before, skipped) = (Some(chunk), false);
        let hex: String = chunk.iter().map(|b| format!("{b:02x} ")).collect();
        let text: String = chunk
            .iter()
            .map(|b| if b.is_ascii_graphic() || *b == b' ' { char::from(*b) } else { '.' })
            .collect();
        lines.push((i * 16, format!("{hex:<48} {text}")));
    }
    lines
}

// stat

/// Bytes of the files directly in `dir`.
fn files_in(dir: &Path) -> Result<(u64, u64)> {
    let fail = |e| Failure::Io(dir.display().to_string(), e);
    let mut sum = (0, 0);
    for entry in fs::read_dir(dir).map_err(fail)? {
        let meta = entry.and_then(|e| e.metadata()).map_err(fail)?;
        if meta.is_file() {
            sum = (sum.0 + 1, sum.1 + meta.len());
        }
    }
    Ok(sum)
}

pub(crate) fn stat(c: &Stat, common: &Common, out: &mut Out) -> Result<()> {
    exists(&c.dir)?;
    let inspect = Inspect::open(&c.dir)?;
    let control = inspect.control();
    let end = End::find(&inspect)?;
    let (segments, log_bytes) = files_in(&c.dir.join("wal"))?;
    let data = c.dir.join("data");
    let data_bytes = match fs::metadata(&data) {
        Ok(m) => m.len(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
        Err(e) => return Err(Failure::Io(data.display().to_string(), e)),
    };
    let opened = common.read_only(&c.dir, &Stop::listen()?);
    let managers: Vec<String> =
        control.managers.iter().map(|m| format!("{} {} (version {})", m.id, m.name, m.version)).collect();
    let head = [
        ("database", control.db.to_string()),
        (
            "pages",
            format!("{} of {} bytes", grouped(data_bytes / u64::from(control.page_size)), control.page_size),
        ),
        ("log", format!("{segments} files, {} KiB", grouped(log_bytes / 1024))),
        ("log end", end.words()),
        (
            "checkpoint",
            format!("{} to {}, redo from {}", control.checkpoint_begin, control.checkpoint_end, control.redo),
        ),
        ("control", format!("written {} times, timeline {}", control.sequence, control.timeline)),
        ("managers", managers.join(", ")),
    ];
    if !common.json {
        head.iter().try_for_each(|(name, value)| out.line(format_args!("{name:<11}{value}")))?;
        out.flush()?;
    }
    let (db, report) = opened.map_err(held_open)?;
    let pins = inspect.pins(&end.at, &report.losers)?;
    let trees = db.begin_read()?.trees()?;
    let stats = db.stats();
    if common.json {
        return out.json(&serde_json::json!({
            "database": control.db.to_string(),
            "page_size": control.page_size,
            "data": { "bytes": data_bytes, "pages": data_bytes / u64::from(control.page_size) },
            "log": {
                "files": segments, "bytes": log_bytes, "end": end.at.end.0, "verdict": end.word(),
                "oldest": end.at.oldest.0,
            },
            "control": {
                "sequence": control.sequence, "timeline": control.timeline,
                "checkpoint_begin": control.checkpoint_begin.0, "checkpoint_end": control.checkpoint_end.0,
                "redo": control.redo.0, "keep_from": control.keep_from.0,
            },
            "managers": control.managers.iter().map(|m| {
                serde_json::json!({ "id": m.id, "name": m.name, "version": m.version })
            }).collect::<Vec<_>>(),
            "pins": pins,
            "trees": trees,
            "recovery": report_json(&report),
            "counters": stats,
        }));
    }
    let state = if report.clean { "closed cleanly" } else { "not closed cleanly; the next open recovers it" };
    out.line(format_args!("{:<11}{state}", "state"))?;
    pins.iter().try_for_each(|p| out.line(format_args!("{:<11}{p}", "log kept")))?;
    if !report.losers.is_empty() {
        let losers = grouped(report.losers.len() as u64);
        out.line(format_args!(
            "{:<11}{losers} transactions had not ended: the next open rolls them back",
            "losers"
        ))?;
    }
    out.line(format_args!("{:<11}{}", "trees", grouped(trees.len() as u64)))?;
    trees.iter().try_for_each(|t| out.line(format_args!("{:<11}{}", "", hamal_rows::escape(t.as_bytes()))))
}

/// Who has it open can say more.
fn held_open(e: Failure) -> Failure {
    match e {
        Failure::Engine(e) if e.kind() == hamal::ErrorKind::AlreadyOpen => Failure::Engine(e.with_help(
            "`hamal stat` reads directories that nobody has open. The process that has it open can print Database::activity()",
        )),
        e => e,
    }
}

// recover

/// The report as JSON.
fn report_json(r: &RecoveryReport) -> serde_json::Value {
    let (verdict, torn) = match &r.verdict {
        Verdict::Clean => ("clean".to_string(), 0),
        Verdict::TornTail { bytes } => ("torn tail".to_string(), *bytes),
        other => (format!("{other:?}"), 0),
    };
    let [find_end, analysis, redo, undo, checkpoints] = r.seconds;
    serde_json::json!({
        "clean": r.clean,
        "verdict": verdict,
        "torn_bytes": torn,
        "checkpoint": r.checkpoint.0,
        "redo_point": r.redo_point.0,
        "log_end": r.log_end.0,
        "records_analysed": r.records_analysed,
        "log_bytes": r.log_bytes,
        "dirty_pages": r.dirty_pages,
        "redone": r.redone,
        "skipped": {
            "page_not_in_dpt": r.skipped.page_not_in_dpt,
            "lsn_below_rec_lsn": r.skipped.lsn_below_rec_lsn,
            "page_lsn_not_below_lsn": r.skipped.page_lsn_not_below_lsn,
            "older_than_image": r.skipped.older_than_image,
            "page_freed": r.skipped.page_freed,
        },
        "pages_read": r.pages_read,
        "pages_rebuilt": r.pages_rebuilt,
        "redo_threads": r.redo_threads,
        "redo_batches": r.redo_batches,
        "redo_bytes_per_second": r.redo_rate().round(),
        "losers": r.losers.iter().map(|t| t.0).collect::<Vec<_>>(),
        "clrs": r.clrs,
        "seconds": {
            "find_end": find_end, "analysis": analysis, "redo": redo, "undo": undo, "checkpoints": checkpoints,
        },
    })
}

pub(crate) fn recover(c: &Recover, common: &Common, out: &mut Out) -> Result<()> {
    exists(&c.dir)?;
    let recorder = c.trace.as_ref().map(|file| crate::explain::to_file(file, &c.dir)).transpose()?;
    let mut opening = common.opening(&Stop::listen()?);
    if let Some(r) = &recorder {
        opening = opening.with(|b| b.tracer(r.clone()).recovery_threads(1));
    }
    let opened = opening.run(|b| b.open_with_report(&c.dir));
    if let (Some(r), Some(file)) = (&recorder, &c.trace) {
        if opened.is_ok() {
            r.finish(serde_json::Value::Null);
        }
        // What was recorded is kept whatever recovery came to.
        r.close().map_err(|e| Failure::Io(file.display().to_string(), e))?;
    }
    let (db, report) = opened?;
    if common.json {
        out.json(&report_json(&report))?;
    } else {
        out.line(&report)?;
    }
    Ok(db.close()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_lines_are_left_out() {
        let mut page = vec![0; 64];
        page[..5].copy_from_slice(b"hamal");
        let lines = hex_lines(&page);
        assert!(lines[0].1.ends_with("hamal..........."), "{lines:?}");
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[2], (32, "*".into()));
    }
}
