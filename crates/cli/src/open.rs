//! How the commands open databases, and what all of them have in common: `--json`, `--verbose`, Ctrl-C.

use crate::output::{Failure, Result, progress};
use clap::Args;
use hamal::trace::Event;
use hamal::{Builder, Database, RecoveryReport};
use indicatif::ProgressBar;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// Options of every command.
#[derive(Args, Clone, Debug)]
pub(crate) struct Common {
    /// Print JSON (lists as JSON Lines) instead of text
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Print what the engine does, one line per event, on standard error
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
}

impl Common {
    /// Options with the tracer of `--verbose`, progress of recovery, and Ctrl-C during recovery.
    pub(crate) fn opening(&self, stop: &Stop) -> Opening {
        let bar = progress("recovering", Some(1));
        let (stop, shown) = (stop.clone(), bar.clone());
        let builder = Database::builder().progress(move |p| {
            shown.set_length(p.total.max(1));
            shown.set_position(p.done);
            shown.set_message(format!("{:?}", p.phase).to_lowercase());
            if stop.asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        // What is printed is in the same order each time.
        let traced = |b: Builder| b.tracer(Arc::new(print_event)).recovery_threads(1);
        let builder = if self.verbose { traced(builder) } else { builder };
        Opening { builder, bar }
    }

    /// Opens a database for reading: recovered in memory, unchanged on disk.
    pub(crate) fn read_only(&self, dir: &Path, stop: &Stop) -> Result<(Database, RecoveryReport)> {
        exists(dir)?;
        self.opening(stop).run(|b| b.open_read_only(dir))
    }
}

/// Options, and the progress line of the recovery that opening may need.
pub(crate) struct Opening {
    builder: Builder,
    bar: ProgressBar,
}

impl Opening {
    /// With other options.
    pub(crate) fn with(self, f: impl FnOnce(Builder) -> Builder) -> Opening {
        Opening { builder: f(self.builder), bar: self.bar }
    }
    /// Opens with `f`, and takes the progress line away.
    pub(crate) fn run<T>(self, f: impl FnOnce(&Builder) -> hamal::Result<T>) -> Result<T> {
        let opened = f(&self.builder);
        self.bar.finish_and_clear();
        Ok(opened?)
    }
}

/// A directory that is not there is a mistake on the command line that deserves plain words.
pub(crate) fn exists(dir: &Path) -> Result<()> {
    match std::fs::metadata(dir) {
        Ok(m) if m.is_dir() => Ok(()),
        Ok(_) => Err(Failure::Io(dir.display().to_string(), io::ErrorKind::NotADirectory.into())),
        Err(e) => Err(Failure::Io(dir.display().to_string(), e)),
    }
}

fn print_event(event: &Event<'_>) {
    // Called with latches held: one write, and no care for whether anybody reads.
    let _ = writeln!(io::stderr(), "trace: {event:?}");
}

/// Whether Ctrl-C was pressed. The first one asks, a second one ends the program at once: nothing acknowledged is
/// lost by that, it only leaves recovery something to do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop(Arc<AtomicBool>);

impl Stop {
    /// From here on Ctrl-C (and SIGTERM) asks.
    ///
    /// # Errors
    /// The operating system refuses the signal handler.
    pub(crate) fn listen() -> Result<Stop> {
        let stop = Stop::default();
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register_conditional_shutdown(signal, 130, stop.0.clone())
                .and_then(|_| signal_hook::flag::register(signal, stop.0.clone()))
                .map_err(|e| Failure::Io("listening for Ctrl-C".into(), e))?;
        }
        Ok(stop)
    }
    pub(crate) fn asked(&self) -> bool {
        self.0.load(Relaxed)
    }
}
