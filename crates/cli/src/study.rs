//! `hamal study`: histories written by hand, run by the real engine.

use crate::explain::{Format, rendered, write};
use crate::open::Common;
use crate::output::{Failure, Out, Result};
use clap::{Args, Subcommand, ValueEnum};
use hamal::disk::{Disk, MemDisk, OpenMode};
use hamal_study::{LsnStyle, Trace, diff, quiz, replay, run, scenario, sentences};
use std::io::BufRead;
use std::path::{Path, PathBuf};

/// How log records are called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Lsns {
    /// By label, where there is one
    Label,
    /// Ten times the ordinal, as books do: 10a, 20, 30c
    #[default]
    Ordinal,
    /// The engine's own
    Real,
}

/// Run a history written by hand, with crashes, on the real engine, and show every decision
#[derive(Args, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  hamal study history.scn                     the run, as text; exit code 1 if an `expect` fails
  hamal study history.scn --format jsonl -o history.jsonl
  hamal study history.scn --step              one decision at a time, a sentence each; Enter goes on
  hamal study history.scn --quiz > sheet      the questions, to be filled in
  hamal study history.scn --check sheet       marks, and the first wrong step explained
  hamal study history.scn --format html -o history.html
  hamal study html history.jsonl -o history.html
  hamal study diff old.jsonl new.jsonl        the first decision in which two traces differ

docs/scenarios.md has the language, docs/scenarios/ has examples."
)]
pub(crate) struct Study {
    #[command(subcommand)]
    command: Option<StudyCommand>,
    /// The scenario
    #[arg(required = true)]
    file: Option<PathBuf>,
    /// How to show the run
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Write to this file
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// How log records are called
    #[arg(long, value_enum, default_value_t)]
    lsn: Lsns,
    /// One decision at a time
    #[arg(long)]
    step: bool,
    /// Leave the database's files in this new directory, as they are at the end (after a crash, as the crash left them)
    #[arg(long, value_name = "DIR")]
    keep_dir: Option<PathBuf>,
    /// Print questions instead of answers
    #[arg(long, conflicts_with_all = ["check", "step"])]
    quiz: bool,
    /// Mark a sheet of answers
    #[arg(long, value_name = "ANSWERS", conflicts_with = "step")]
    check: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
enum StudyCommand {
    /// Make a page to look at, one file without network, of a trace (JSON Lines)
    Html {
        /// The trace
        trace: PathBuf,
        /// Write to this file
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Show the first decision in which two traces (JSON Lines) differ
    Diff {
        /// One trace
        a: PathBuf,
        /// The other
        b: PathBuf,
        /// LSNs count too; without, records are compared by their ordinals
        #[arg(long)]
        lsns: bool,
    },
}

fn read(file: &Path) -> Result<String> {
    std::fs::read_to_string(file).map_err(|e| Failure::Io(file.display().to_string(), e))
}

fn load(file: &Path) -> Result<Trace> {
    Trace::from_jsonl(&read(file)?).map_err(|e| Failure::Check(format!("{}: {e}", file.display())))
}

pub(crate) fn study(c: &Study, common: &Common, out: &mut Out) -> Result<()> {
    match &c.command {
        Some(StudyCommand::Diff { a, b, lsns }) => return difference(&load(a)?, &load(b)?, *lsns, out),
        Some(StudyCommand::Html { trace, output }) => {
            return write(output.as_deref(), &hamal_study::html(&load(trace)?), out);
        }
        None => {}
    }
    let Some(file) = &c.file else { return Err(Failure::Usage("a scenario is needed".into())) };
    let source = read(file)?;
    let parsed = scenario::parse(&source);
    let parsed = parsed.map_err(|e| Failure::Check(format!("{}:{e}", file.display())))?;
    let name = file.file_stem().map_or("scenario".into(), |n| n.to_string_lossy().into_owned());
    let outcome = run::run(&name, &source, &parsed);
    let style = match c.lsn {
        Lsns::Label => LsnStyle::Label,
        Lsns::Ordinal => LsnStyle::Ordinal,
        Lsns::Real => LsnStyle::Real,
    };
    let trace = &outcome.trace;
    if let Some(dir) = &c.keep_dir {
        keep(&outcome.disk, dir)?;
    }
    if c.quiz {
        write(c.output.as_deref(), &quiz::sheet(&quiz::questions(trace, style)), out)?;
    } else if let Some(answers) = &c.check {
        return check(&quiz::questions(trace, style), &read(answers)?, out);
    } else if c.step {
        step(trace, style, out)?;
    } else {
        let format = if common.json { Format::Jsonl } else { c.format };
        write(c.output.as_deref(), &rendered(trace, format, style), out)?;
    }
    if let Some(f) = outcome.failure {
        return Err(Failure::Check(format!("{}: {f}", file.display())));
    }
    let wrong = replay(trace);
    match (wrong.first(), &parsed.setup.broken) {
        (None, _) => Ok(()),
        // It is what the scenario is about.
        (Some(f), Some(rule)) => {
            out.line(format_args!("rule {rule} is switched off, and the check finds: {f}"))
        }
        (Some(f), None) => {
            Err(Failure::Check(format!("the trace does not pass the check of its decisions: {f}")))
        }
    }
}

fn difference(a: &Trace, b: &Trace, lsns: bool, out: &mut Out) -> Result<()> {
    let Some(d) = diff(a, b, lsns) else {
        return out.line(format_args!("the same {} decisions", a.rows.len()));
    };
    let line =
        |r: &Option<hamal_study::Row>| r.as_ref().map_or("(the trace is at its end)".into(), |r| r.line());
    out.line(format_args!("event {}\n< {}\n> {}", d.number, line(&d.left), line(&d.right)))?;
    Err(Failure::Check("the traces differ".into()))
}

fn step(trace: &Trace, style: LsnStyle, out: &mut Out) -> Result<()> {
    let mut keys = std::io::stdin().lock().lines();
    for (row, said) in trace.rows.iter().zip(sentences(trace, style)) {
        let run = if row.run == 0 { "run".into() } else { format!("restart {} {}", row.run, row.phase) };
        out.line(format_args!("{:>4}  {run:<19} {said}", row.seq))?;
        out.flush()?;
        // The end of the input goes on to the end.
        let _ = keys.next();
    }
    Ok(())
}

fn check(questions: &[quiz::Question], answers: &str, out: &mut Out) -> Result<()> {
    let marks = quiz::mark(questions, answers);
    for id in &marks.unknown {
        out.line(format_args!("there is no question `{id}`"))?;
    }
    out.line(format_args!("{} of {} right", marks.right, marks.of))?;
    let Some((q, given)) = marks.first_wrong else { return Ok(()) };
    let given = if given.is_empty() { "nothing" } else { &given };
    out.line(format_args!(
        "first wrong: {} {}\n  answered  {given}\n  right     {}\n  because   {}",
        q.id, q.text, q.answer, q.why
    ))?;
    Err(Failure::Check("not every answer is right".into()))
}

/// Copies the disk of a run into a directory.
fn keep(disk: &MemDisk, dir: &Path) -> Result<()> {
    let io = |e| Failure::Io(dir.display().to_string(), e);
    if dir.exists() {
        return Err(Failure::Usage(format!(
            "{} exists already; --keep-dir makes a new directory",
            dir.display()
        )));
    }
    std::fs::create_dir_all(dir.join("wal")).map_err(io)?;
    for sub in ["", "wal"] {
        for name in disk.list(sub).map_err(io)? {
            let path = if sub.is_empty() { name } else { format!("{sub}/{name}") };
            let Ok(file) = disk.open(&path, OpenMode { read_only: true, ..OpenMode::default() }) else {
                continue;
            };
            let mut bytes = vec![0; file.len().map_err(io)? as usize];
            let read = file.read_at(0, &mut bytes).map_err(io)?;
            bytes.truncate(read);
            std::fs::write(dir.join(&path), bytes).map_err(io)?;
        }
    }
    Ok(())
}
