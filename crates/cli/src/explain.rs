//! `hamal explain`: what recovery would do, decision by decision. Nothing is changed: it happens in memory.

use crate::open::{Common, Stop, exists};
use crate::output::{Failure, Out, Result};
use crate::waldump::{number, txn_number};
use crate::why::in_log;
use clap::{Args, ValueEnum};
use hamal::disk::{Disk, OverlayDisk, PosixDisk};
use hamal::inspect::Inspect;
use hamal::raw::TxnManager;
use hamal::trace::{Event, Phase, Tracer};
use hamal_study::{Filter, LsnStyle, Recorder, Sink, Trace};
use std::collections::VecDeque;
use std::fs::File;
use std::io::BufWriter;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Events that are kept at most.
const KEPT: usize = 1_000_000;

/// How a trace is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Text,
    /// JSON Lines, docs/formats/trace.md
    Jsonl,
    /// A page to look at: one file, without network
    Html,
    /// For the public trace viewers (ui.perfetto.dev)
    Perfetto,
}

/// Say what recovery would do, decision by decision, and why; nothing is changed
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  hamal explain shop                         all of it
  hamal explain shop --page 7                the life of page 7
  hamal explain shop --txn T4a10             one transaction
  hamal explain shop --lsn 0x4a10            why was this record redone or skipped, undone or not?
  hamal explain shop --phase redo            one phase
  hamal explain shop --lsn ordinal           records are called 10, 20, 30
  hamal explain shop --stop-after 3records   only so far: records, redo or clrs
  hamal explain shop --format html -o shop.html

The recovery is the real one, on an overlay in memory. The last million events are kept; for --lsn N those about its record, however \
many there are. With --json a trace is JSON Lines, and the answer to --lsn N one object (docs/formats/trace.md).")]
pub(crate) struct Explain {
    /// Directory of the database
    dir: PathBuf,
    /// Only what is about this page
    #[arg(long, value_parser = number)]
    page: Option<u64>,
    /// Only what is about this transaction
    #[arg(long, value_parser = txn_number)]
    txn: Option<u64>,
    /// With a number: answer why the record at this LSN was redone or skipped, undone or not, in sentences with the numbers that were
    /// compared. With a word, how records are called: `hex` (as waldump does), `real` (decimal), `ordinal` (10, 20, 30, as in books)
    #[arg(long, value_name = "LSN|STYLE", value_parser = lsn_option)]
    lsn: Option<LsnOption>,
    /// The same as --lsn with a number
    #[arg(long, value_name = "LSN", value_parser = number, conflicts_with = "lsn")]
    why: Option<u64>,
    /// Only records from this LSN on
    #[arg(long, value_parser = number)]
    start: Option<u64>,
    /// Only records below this LSN
    #[arg(long, value_parser = number)]
    end: Option<u64>,
    /// Only these phases
    #[arg(long, value_delimiter = ',', value_parser = ["analysis", "redo", "undo", "finish"])]
    phase: Vec<String>,
    /// How to show it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Write to this file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Stop after so many new log records, pages' records redone, or CLRs: `3`, `3records`, `2redo`, `1clrs`
    #[arg(long, value_name = "N", value_parser = stop_after)]
    stop_after: Option<StopAfter>,
    /// Put redo's decisions in the order of the log; the engine takes them page by page
    #[arg(long)]
    log_order: bool,
}

/// What `--lsn` asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LsnOption {
    /// The record at an LSN.
    At(u64),
    /// How records are called.
    Called(LsnStyle),
}

fn lsn_option(text: &str) -> std::result::Result<LsnOption, String> {
    match text {
        "hex" => Ok(LsnOption::Called(LsnStyle::Hex)),
        "real" => Ok(LsnOption::Called(LsnStyle::Real)),
        "ordinal" => Ok(LsnOption::Called(LsnStyle::Ordinal)),
        _ => number(text).map(LsnOption::At).map_err(|e| format!("{e}, or `hex`, `real`, `ordinal`")),
    }
}

impl Explain {
    /// The record that is asked about.
    fn asked(&self) -> Result<Option<u64>> {
        let lsn = match self.lsn {
            Some(LsnOption::At(lsn)) => Some(lsn),
            _ => self.why,
        };
        let others = self.page.is_some()
            || self.txn.is_some()
            || self.start.or(self.end).is_some()
            || !self.phase.is_empty()
            || self.format != Format::Text
            || self.log_order;
        if lsn.is_some() && others {
            let m = "the answer about one record takes no other filter, order or format (but --json)";
            return Err(Failure::Usage(m.into()));
        }
        Ok(lsn)
    }
    fn style(&self) -> LsnStyle {
        match self.lsn {
            Some(LsnOption::Called(style)) => style,
            _ => LsnStyle::Hex,
        }
    }
}

/// Where to stop: how many of which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct StopAfter(u64, char);

fn stop_after(text: &str) -> std::result::Result<StopAfter, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let what = match text[digits..].trim() {
        "" | "record" | "records" => 'r',
        "redo" => 'a',
        "clr" | "clrs" => 'c',
        _ => return Err("a number with `records`, `redo` or `clrs` is needed".into()),
    };
    let n = text[..digits].parse().map_err(|_| "a number is needed first".to_string())?;
    Ok(StopAfter(n, what))
}

fn database(dir: &Path) -> serde_json::Map<String, serde_json::Value> {
    let mut more = serde_json::Map::new();
    more.insert("database".into(), dir.display().to_string().into());
    more
}

/// A recorder that writes every event to a file as it comes.
pub(crate) fn to_file(file: &Path, dir: &Path) -> Result<Arc<Recorder>> {
    let made = File::create(file).map_err(|e| Failure::Io(file.display().to_string(), e))?;
    let sink = Sink::File(Box::new(BufWriter::new(made)), None);
    Ok(Arc::new(Recorder::new(sink, database(dir))))
}

/// Passes events on, and counts what the stop waits for.
struct Counting {
    recorder: Arc<Recorder>,
    records: AtomicU64,
    redone: AtomicU64,
    clrs: AtomicU64,
}

impl Tracer for Counting {
    fn event(&self, event: &Event<'_>) {
        self.recorder.event(event);
        match event {
            Event::RedoApply { .. } => drop(self.redone.fetch_add(1, Relaxed)),
            Event::LogAppend { kind: "clr", .. } => {
                self.clrs.fetch_add(1, Relaxed);
                self.records.fetch_add(1, Relaxed);
            }
            Event::LogAppend { kind: "end", .. } => drop(self.records.fetch_add(1, Relaxed)),
            _ => {}
        }
    }
}

impl Counting {
    fn due(&self, StopAfter(n, what): StopAfter, phase: Phase) -> bool {
        match what {
            'a' => phase == Phase::Redo && self.redone.load(Relaxed) >= n,
            'c' => phase == Phase::Undo && self.clrs.load(Relaxed) >= n,
            _ => phase == Phase::Undo && self.records.load(Relaxed) >= n,
        }
    }
}

pub(crate) fn explain(c: &Explain, common: &Common, out: &mut Out) -> Result<()> {
    let asked = c.asked()?;
    let stop = Stop::listen()?;
    exists(&c.dir)?;
    // A database that `hamal study --keep-dir` has left.
    let manager = hamal_study::run::page_manager();
    let inspect = Inspect::open(&c.dir)?.with_manager(manager.clone());
    let asked = asked.map(|lsn| in_log(&inspect, lsn, &stop)).transpose()?;
    let sink = match &asked {
        Some(log) => Sink::Picked(Vec::new(), log.picker()),
        None => Sink::Ring(VecDeque::new(), KEPT),
    };
    let mut recorder = Recorder::new(sink, database(&c.dir));
    if c.log_order {
        recorder = recorder.in_log_order();
    }
    let counting = Arc::new(Counting {
        recorder: Arc::new(recorder),
        records: AtomicU64::new(0),
        redone: AtomicU64::new(0),
        clrs: AtomicU64::new(0),
    });
    let mut opening = common.opening(&stop).with(|b| b.tracer(counting.clone()).recovery_threads(1));
    if let Some(stop) = c.stop_after {
        let counting = counting.clone();
        opening = opening.with(|b| {
            b.pause(move |phase: Phase, _: &TxnManager| match counting.due(stop, phase) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            })
        });
    }
    if inspect.control().managers.iter().any(|m| m.name == manager.name()) {
        opening = opening.with(|b| b.resource_manager(manager));
    }
    // An overlay over an overlay: a damaged database says what is wrong behind what was recorded.
    let disk = PosixDisk::open(&c.dir).map_err(|e| Failure::Io(c.dir.display().to_string(), e))?;
    let disk: Arc<dyn Disk> = Arc::new(OverlayDisk::new(Arc::new(disk)));
    let opened = opening.run(|b| b.open_read_only_on(disk));
    let recorder = &counting.recorder;
    let failed = match opened {
        Ok(_) => {
            recorder.finish(serde_json::Value::Null);
            None
        }
        Err(Failure::Interrupted(_)) if c.stop_after.is_some() => None,
        Err(e) => Some(e),
    };
    let _ = recorder.close();
    let trace = recorder.trace();
    let format = if common.json { Format::Jsonl } else { c.format };
    match &asked {
        Some(log) => write(c.output.as_deref(), &answer(&hamal_study::why(&trace, log), common.json), out)?,
        None => show(c, format, &trace, out)?,
    }
    failed.map_or(Ok(()), Err)
}

/// The answer about one record: its sentences, or all of it.
fn answer(why: &serde_json::Value, json: bool) -> String {
    if json {
        return format!("{why}\n");
    }
    let words = why["words"].as_array().into_iter().flatten().filter_map(|w| w.as_str());
    words.map(|w| format!("{w}\n")).collect()
}

fn show(c: &Explain, format: Format, trace: &Trace, out: &mut Out) -> Result<()> {
    let filter = Filter {
        page: c.page.map(|p| format!("page{p}")),
        txn: c.txn.map(|t| format!("T{t:x}")),
        start: c.start,
        end: c.end,
        phases: c.phase.clone(),
    };
    let text = match (filter.is_empty(), c.page.is_some() || c.txn.is_some()) {
        // A life is told in sentences.
        (false, true) if format == Format::Text => {
            let said = hamal_study::sentences(trace, c.style());
            let kept = trace.rows.iter().zip(said).filter(|(r, _)| filter.keeps(r));
            kept.map(|(r, s)| format!("{:<9} {s}\n", r.phase)).collect()
        }
        (true, _) => rendered(trace, format, c.style()),
        (false, _) => rendered(&filter.apply(trace), format, c.style()),
    };
    write(c.output.as_deref(), &text, out)
}

/// A trace in one of the formats.
pub(crate) fn rendered(trace: &Trace, format: Format, style: LsnStyle) -> String {
    match format {
        Format::Text => hamal_study::text(trace, style),
        Format::Jsonl => trace.to_jsonl(),
        Format::Html => hamal_study::html(trace),
        Format::Perfetto => hamal_study::perfetto(trace, style) + "\n",
    }
}

/// To the file, or to standard output.
pub(crate) fn write(file: Option<&Path>, text: &str, out: &mut Out) -> Result<()> {
    match file {
        Some(file) => std::fs::write(file, text).map_err(|e| Failure::Io(file.display().to_string(), e)),
        None => out.with(|w| std::io::Write::write_all(w, text.as_bytes())),
    }
}
