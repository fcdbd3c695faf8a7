//! `hamal load`: rows from a file into a tree, batch by batch.
//!
//! A batch is a transaction: whatever happens, a kill included, whole batches are in and nothing of another. Rows are
//! upserts, so running the same load again completes it and changes nothing else.

use crate::open::{Common, Stop};
use crate::output::{Failure, Out, Result, count, grouped, progress, rate};
use clap::Args;
use hamal::{Database, ErrorKind, Tree, WriteTxn};
use hamal_rows::{Format, Line, RowReader};
use indicatif::ProgressBar;
use serde::Serialize;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// Load rows from a file into a tree
///
/// Creates the database and the tree if they are not there. A key that is there gets the new value. Every --batch rows
/// are committed together: after a kill whole batches are in, and running the same command again completes the load.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  hamal load shop prices prices.csv --header
  zcat prices.jsonl.gz | hamal load shop prices - --format jsonl --batch 10000
  hamal load shop prices prices.tsv --atomic         all rows or none

Formats:
  tsv    key<TAB>value; a tab, line end or backslash inside is \\t, \\n, \\r, \\\\, any other byte may be \\xNN
  csv    two fields; a field with a comma, quote or line end is quoted, a quote inside is doubled
  jsonl  {\"key\":\"..\",\"value\":\"..\"}; bytes that are not UTF-8 as base64 in key_b64 and value_b64

A bad row is reported with its line number; the batch it is in is rolled back and the load ends with exit code 1, \
unless --skip-bad is given. Blank lines are skipped. Ctrl-C rolls the current batch back and says what is in.")]
pub(crate) struct Load {
    /// Directory of the database
    dir: PathBuf,
    /// Name of the tree
    tree: String,
    /// The file, or - for standard input
    file: PathBuf,
    /// Format of the file [default: by extension, else tsv]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Rows to a commit
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    batch: u64,
    /// Commit once, at the end: all rows or none
    #[arg(long, conflicts_with = "batch")]
    atomic: bool,
    /// Report bad rows and go on; the exit code is then 0
    #[arg(long)]
    skip_bad: bool,
    /// The first line holds column names (csv, tsv)
    #[arg(long)]
    header: bool,
}

/// What is in so far: committed rows only.
#[derive(Debug, Default)]
struct Done {
    rows: u64,
    batches: u64,
    bad: u64,
}

#[derive(Serialize)]
struct Summary {
    rows: u64,
    batches: u64,
    bad_rows: u64,
    seconds: f64,
    rows_per_second: u64,
}

pub(crate) fn load(c: &Load, common: &Common, out: &mut Out) -> Result<()> {
    let stop = Stop::listen()?;
    // The input first: a misspelt file name must not leave a new database behind.
    let (input, size) = open_input(&c.file)?;
    let format = c.format.unwrap_or_else(|| Format::of(&c.file));
    let db = common.opening(&stop).run(|b| b.open_or_create(&c.dir))?;
    let started = Instant::now();
    let read = Arc::new(AtomicU64::new(0));
    let bar = progress("loading", size);
    let lines = read_ahead(RowReader::new(BufReader::new(Counted(input, read.clone())), format, c.header))?;

    let mut done = Done::default();
    let result =
        Loader { c, db: &db, stop: &stop, bar: &bar, read: &read, started, done: &mut done }.run(&lines);
    bar.finish_and_clear();
    let closed = db.close();
    let time = started.elapsed();
    let Done { rows, batches, bad } = done;
    let whole =
        if batches == 1 { "1 whole batch".into() } else { format!("{} whole batches", grouped(batches)) };
    let are = if rows == 1 { "is" } else { "are" };
    let state = format!("{} of {whole} {are} in", count(rows, "row"));
    match result {
        Ok(()) => closed?,
        Err(Stopped::BadRow) => {
            let m = format!("the batch with the bad row was rolled back; {state}");
            return Err(Failure::Check(m));
        }
        Err(Stopped::Asked) => {
            return Err(Failure::Interrupted(format!("the current batch was rolled back; {state}")));
        }
        Err(Stopped::Failed(f)) => {
            let _ = writeln!(io::stderr(), "hamal: the load did not end; {state}");
            return Err(f);
        }
    }
    if common.json {
        return out.json(&Summary {
            rows,
            batches,
            bad_rows: bad,
            seconds: time.as_secs_f64(),
            rows_per_second: rate(rows, time),
        });
    }
    let skipped = if bad > 0 { format!(", {} skipped", count(bad, "bad row")) } else { String::new() };
    out.line(format_args!(
        "{} loaded in {}, {:.2} s, {} rows/s{skipped}",
        count(rows, "row"),
        count(batches, "batch"),
        time.as_secs_f64(),
        grouped(rate(rows, time)),
    ))
}

/// Why a load ended before its end.
enum Stopped {
    BadRow,
    Asked,
    Failed(Failure),
}

impl From<hamal::Error> for Stopped {
    fn from(e: hamal::Error) -> Self {
        Stopped::Failed(e.into())
    }
}

struct Loader<'a> {
    c: &'a Load,
    db: &'a Database,
    stop: &'a Stop,
    bar: &'a ProgressBar,
    read: &'a AtomicU64,
    started: Instant,
    done: &'a mut Done,
}

/// A batch that is being filled.
struct Batch {
    txn: WriteTxn,
    tree: Tree,
    rows: u64,
}

impl Loader<'_> {
    fn run(&mut self, lines: &Receiver<io::Result<Line>>) -> std::result::Result<(), Stopped> {
        // The tree is made even if there are no rows.
        let mut batch = self.begin()?;
        loop {
            if self.stop.asked() {
                batch.txn.rollback()?;
                return Err(Stopped::Asked);
            }
            let line = match lines.recv_timeout(Duration::from_millis(50)) {
                Ok(Ok(line)) => line,
                Ok(Err(e)) => {
                    batch.txn.rollback()?;
                    return Err(Stopped::Failed(Failure::Io(self.c.file.display().to_string(), e)));
                }
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            let why = match line.row {
                Ok((key, value)) => match batch.tree.put(&key, &value) {
                    Ok(()) => None,
                    // A key that is too long: the row's fault, refused before anything was changed.
                    Err(e) if e.kind() == ErrorKind::InvalidArgument => Some(e.to_string()),
                    Err(e) => {
                        let _ = batch.txn.rollback();
                        return Err(e.into());
                    }
                },
                Err(why) => Some(why),
            };
            if let Some(why) = why {
                self.done.bad += 1;
                let name = self.c.file.display();
                self.bar.suspend(|| writeln!(io::stderr(), "hamal: {name}:{}: {why}", line.number)).ok();
                if !self.c.skip_bad {
                    batch.txn.rollback()?;
                    return Err(Stopped::BadRow);
                }
                continue;
            }
            batch.rows += 1;
            if !self.c.atomic && batch.rows == self.c.batch {
                self.commit(batch)?;
                batch = self.begin()?;
            }
            if batch.rows.is_multiple_of(1000) {
                self.show(batch.rows);
            }
        }
        // An empty last batch still has to commit if it made the tree.
        self.commit(batch)
    }

    fn begin(&self) -> hamal::Result<Batch> {
        let txn = self.db.begin_write()?;
        let tree = txn.open_or_create_tree(&self.c.tree)?;
        Ok(Batch { txn, tree, rows: 0 })
    }

    fn commit(&mut self, batch: Batch) -> std::result::Result<(), Stopped> {
        drop(batch.tree);
        batch.txn.commit()?;
        if batch.rows > 0 {
            self.done.rows += batch.rows;
            self.done.batches += 1;
        }
        self.show(0);
        Ok(())
    }

    fn show(&self, pending: u64) {
        self.bar.set_position(self.read.load(Relaxed));
        let rows = self.done.rows;
        let speed = rate(rows + pending, self.started.elapsed());
        self.bar.set_message(format!("{} rows committed, {} rows/s", grouped(rows), grouped(speed)));
    }
}

/// The input and its length, if that can be known.
fn open_input(path: &Path) -> Result<(Box<dyn Read + Send>, Option<u64>)> {
    if path == Path::new("-") {
        return Ok((Box::new(io::stdin()), None));
    }
    let fail = |e| Failure::Io(path.display().to_string(), e);
    let file = File::open(path).map_err(fail)?;
    let meta = file.metadata().map_err(fail)?;
    if meta.is_dir() {
        return Err(fail(io::ErrorKind::IsADirectory.into()));
    }
    let size = meta.is_file().then_some(meta.len());
    Ok((Box::new(file), size))
}

/// Counts what is read.
struct Counted<R>(R, Arc<AtomicU64>);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.0.read(buf)?;
        self.1.fetch_add(n as u64, Relaxed);
        Ok(n)
    }
}

/// Reads rows on a thread of its own, so that Ctrl-C is heard while the input is silent. The channel is closed at the
/// end; a thread that still waits for input is left behind when the program ends.
fn read_ahead<R: BufRead + Send + 'static>(mut rows: RowReader<R>) -> Result<Receiver<io::Result<Line>>> {
    let (send, receive) = sync_channel(4096);
    let read = move || {
        while let Some(line) = rows.next_line().transpose() {
            let failed = line.is_err();
            if send.send(line).is_err() || failed {
                return;
            }
        }
    };
    std::thread::Builder::new()
        .name("rows".into())
        .spawn(read)
        .map_err(|e| Failure::Io("starting a thread".into(), e))?;
    Ok(receive)
}
