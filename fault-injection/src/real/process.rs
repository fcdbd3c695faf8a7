//! A child process and what it says.
use super::accounts::{self, Io, Trouble};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// After so long a child hangs, on a machine that is slow and loaded too.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// The program `name` of this package: beside the running one, or, as for tests, one directory above it.
///
/// # Errors
/// A sentence that says how to build it.
pub fn program(name: &str) -> Result<PathBuf, String> {
    let exe = std::env::current_exe().map_err(|e| e.to_string())?;
    let found = exe.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|p| p.is_file());
    found.ok_or_else(|| {
        format!("the program {name} is not beside this one (cargo build -p hamal-fault-injection --bins)")
    })
}

/// What `kill_child` is asked to do.
#[derive(Clone, Debug)]
pub struct Task<'a> {
    /// `work`, `recover` or `steps`.
    pub mode: &'a str,
    /// The database.
    pub dir: &'a Path,
    /// Threads, or transactions.
    pub number: u64,
    /// Its input/output.
    pub io: Io,
}

impl Task<'_> {
    /// Its arguments.
    pub fn add_to(&self, command: &mut Command) {
        command.arg(self.mode).arg(self.dir).arg(self.number.to_string()).arg(self.io.to_string());
    }
    /// The command.
    ///
    /// # Errors
    /// If the program is missing.
    pub fn command(&self) -> Result<Command, String> {
        let mut command = Command::new(program("kill_child")?);
        self.add_to(&mut command);
        Ok(command)
    }
}

/// A child that runs, and its lines as they come.
#[derive(Debug)]
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    errors: Receiver<String>,
    said: Vec<String>,
}

/// A child that ended.
#[derive(Debug)]
pub struct Ended {
    /// Its lines.
    pub said: Vec<String>,
    /// What it wrote to standard error.
    pub errors: String,
    /// How it ended; `None` if it hung and was killed for it.
    pub status: Option<ExitStatus>,
}

impl Running {
    /// Starts it.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn start(mut command: Command) -> Result<Running, String> {
        command.env("RUST_BACKTRACE", "0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command.spawn().map_err(|e| format!("{name} cannot be started: {e}"))?;
        let (line_out, lines) = channel();
        let (error_out, errors) = channel();
        if let Some(out) = child.stdout.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(out).lines().map_while(Result::ok) {
                    if line_out.send(line).is_err() {
                        return;
                    }
                }
            });
        }
        if let Some(mut err) = child.stderr.take() {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                let _ = err.read_to_end(&mut bytes);
                let _ = error_out.send(String::from_utf8_lossy(&bytes).into_owned());
            });
        }
        Ok(Running { child, lines, errors, said: Vec::new() })
    }
    /// Waits until it says `line`; `false` if it ends before.
    pub fn wait_for(&mut self, line: &str) -> bool {
        let until = Instant::now() + PATIENCE;
        while let Ok(said) = self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            let met = said == line;
            self.said.push(said);
            if met {
                return true;
            }
        }
        false
    }
    /// What it has said so far and was not handed out yet.
    pub fn so_far(&mut self) -> Ended {
        self.said.extend(self.lines.try_iter());
        Ended { said: std::mem::take(&mut self.said), errors: String::new(), status: None }
    }
    /// SIGKILL.
    pub fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
    }
    /// Waits for its end and collects what it said.
    pub fn end(mut self) -> Ended {
        let until = Instant::now() + PATIENCE;
        let hung = loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => self.said.push(line),
                Err(RecvTimeoutError::Disconnected) => break false,
                Err(RecvTimeoutError::Timeout) => break true,
            }
        };
        if hung {
            self.kill();
        }
        let status = self.child.wait().ok().filter(|_| !hung);
        let errors = self.errors.recv_timeout(Duration::from_secs(10)).unwrap_or_default();
        Ended { said: std::mem::take(&mut self.said), errors, status }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// The highest acknowledged number of each thread, and how many acknowledgements there were.
    pub fn acknowledged(&self, into: &mut BTreeMap<u64, u64>) -> u64 {
        let mut count = 0;
        for line in &self.said {
            let mut words = line.split(' ').map(str::parse::<u64>);
            if let (Some(Ok(t)), Some(Ok(n)), None) = (words.next(), words.next(), words.next()) {
                let last = into.entry(t).or_insert(n);
                *last = n.max(*last);
                count += 1;
            }
        }
        count
    }
    /// The errors that it reported: place, kind, the whole line.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.said.iter().filter_map(|line| {
            let mut words = line.strip_prefix("failed ")?.splitn(3, ' ');
            Some((words.next()?, words.next()?, line.as_str()))
        })
    }
    /// What is wrong with how it ended and what it said, if anything is. `killed`: it was meant to be.
    pub fn objection(&self, killed: bool) -> Option<String> {
        if let Some(line) = self.said.iter().find(|l| l.starts_with("wrong ")) {
            return Some(format!("wrong data without an error: {line}"));
        }
        if let Some((_, _, line)) = self.failures().find(|(_, kind, _)| *kind == "Internal") {
            return Some(format!("the engine found a bug in itself: {line}"));
        }
        use std::os::unix::process::ExitStatusExt;
        let errors = self.errors.trim();
        match self.status {
            None => Some(format!("it hung: nothing more was said for {} s", PATIENCE.as_secs())),
            Some(s) if s.success() || (killed && s.signal() == Some(9)) => None,
            Some(s) => Some(format!("it ended with {s}: {errors}")),
        }
    }
}

/// Opens the database after whatever happened to it, checks everything, works on, closes, opens again.
///
/// # Errors
/// What is wrong.
pub fn judge(dir: &Path, io: Io, acknowledged: &BTreeMap<u64, u64>) -> Result<(), String> {
    let builder = accounts::small(io);
    let opened = if acknowledged.is_empty() { builder.open_or_create(dir) } else { builder.open(dir) };
    let db = opened.map_err(|e| format!("the open failed: {:?}: {e}", e.kind()))?;
    let report = db.recovery_report().clone();
    let at = |what: &str, e: Trouble| match e {
        Trouble::Engine(e) => format!("{what}: {:?}: {e}\n{report}", e.kind()),
        Trouble::Wrong(wrong) => format!("{what}: {wrong}\n{report}"),
    };
    let mut shown = accounts::check(&db, acknowledged, 1).map_err(|e| at("after the open", e))?;
    let mut work = || -> hamal::Result<()> {
        accounts::prepare(&db)?;
        for _ in 0..2 {
            let n = accounts::next_number(&db, 0)?;
            accounts::transaction(&db, 0, n)?;
            shown.insert(0, n);
        }
        db.close()
    };
    work().map_err(|e| at("working on", e.into()))?;
    drop(db);
    let db = builder.open(dir).map_err(|e| format!("the second open failed: {:?}: {e}", e.kind()))?;
    if !db.recovery_report().clean {
        return Err(format!("it was closed, but: {}", db.recovery_report()));
    }
    accounts::check(&db, &shown, 1).map_err(|e| at("after the second open", e))?;
    Ok(())
}
