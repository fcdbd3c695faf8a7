//! What goes out: standard output that may be closed early, failures with their exit codes, bytes as text, progress.

use hamal::Error;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::fmt::Display;
use std::io::{self, BufWriter, Stdout, Write};
use std::process::ExitCode;
use std::time::Duration;

/// Why a command did not do all of what was asked; decides the exit code.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line is wrong.
    Usage(String),
    /// A check failed or a key is not there.
    Check(String),
    /// The engine refused. Damage that it found counts as a failed check.
    Engine(Error),
    /// The operating system refused; what was tried.
    Io(String, io::Error),
    /// Ctrl-C; what the state is now.
    Interrupted(String),
    /// Nobody reads the output any more. Not an error: `hamal scan .. | head`.
    Pipe,
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        if e.kind() == hamal::ErrorKind::Cancelled {
            return Failure::Interrupted("recovery was stopped; the next open starts it again".into());
        }
        Failure::Engine(e)
    }
}

impl Failure {
    /// Says on standard error what happened, and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        let (code, text) = match self {
            Failure::Pipe => return ExitCode::SUCCESS,
            Failure::Usage(m) => (2, m.clone()),
            Failure::Check(m) => (1, m.clone()),
            Failure::Engine(e) => (if e.is_corruption() { 1 } else { 3 }, e.to_string()),
            Failure::Io(what, e) => (3, format!("{what}: {e}")),
            Failure::Interrupted(m) => (130, format!("stopped: {m}")),
        };
        // If nobody reads that either, the code has to do.
        let _ = writeln!(io::stderr(), "hamal: {text}");
        ExitCode::from(code)
    }
}

/// Standard output, buffered.
pub(crate) struct Out(BufWriter<Stdout>);

impl Out {
    pub(crate) fn new() -> Self {
        Out(BufWriter::with_capacity(64 << 10, io::stdout()))
    }
    /// Writes through `f`.
    pub(crate) fn with(&mut self, f: impl FnOnce(&mut BufWriter<Stdout>) -> io::Result<()>) -> Result<()> {
        f(&mut self.0).map_err(closed)
    }
    /// One line.
    pub(crate) fn line(&mut self, text: impl Display) -> Result<()> {
        self.with(|w| writeln!(w, "{text}"))
    }
    /// One line of JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<()> {
        let text = serde_json::to_string(value)
            .map_err(|e| Failure::Engine(Error::internal(format!("a value has no JSON form: {e}"))))?;
        self.line(text)
    }
    /// Now.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.with(|w| w.flush())
    }
    /// Writes what is left.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.flush()
    }
}

fn closed(e: io::Error) -> Failure {
    match e.kind() {
        io::ErrorKind::BrokenPipe => Failure::Pipe,
        _ => Failure::Io("writing the output".into(), e),
    }
}

/// Bytes of an argument: UTF-8 text as it stands, or with `hex` hexadecimal digits, `0x` in front or not.
pub(crate) fn bytes(text: &str, hex: bool) -> Result<Vec<u8>> {
    if !hex {
        return Ok(text.as_bytes().to_vec());
    }
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let bad = || Failure::Usage(format!("`{text}` is not an even number of hexadecimal digits"));
    if !digits.len().is_multiple_of(2) || !digits.is_ascii() {
        return Err(bad());
    }
    (0..digits.len() / 2)
        .map(|i| {
            let pair = &digits[2 * i..2 * i + 2];
            // from_str_radix takes a sign.
            let valid = pair.bytes().all(|b| b.is_ascii_hexdigit());
            u8::from_str_radix(pair, 16).ok().filter(|_| valid).ok_or_else(bad)
        })
        .collect()
}

/// `0x` and hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::from("0x"), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

/// A number as people read it: `1 234 567`.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

/// A count of things: `1 row`, `1 200 rows`.
pub(crate) fn count(n: u64, thing: &str) -> String {
    let plural = match (n, thing) {
        (1, _) => "",
        (_, "batch") => "es",
        _ => "s",
    };
    format!("{} {thing}{plural}", grouped(n))
}

/// `n` per second of `time`; zero if there was no time.
pub(crate) fn rate(n: u64, time: Duration) -> u64 {
    let seconds = time.as_secs_f64();
    if seconds > 0.0 { (n as f64 / seconds) as u64 } else { 0 }
}

/// A progress line on standard error, if that is a terminal: a bar if the end is known. Silent in a pipe.
pub(crate) fn progress(what: &'static str, total: Option<u64>) -> ProgressBar {
    let bar = match total {
        Some(n) => ProgressBar::new(n),
        None => ProgressBar::new_spinner(),
    };
    let template = match total {
        Some(_) => "{prefix} [{bar:30}] {percent:>3}% {msg}",
        None => "{prefix} {spinner} {elapsed} {msg}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_prefix(what);
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_arguments() {
        assert_eq!(bytes("0x61", false).unwrap(), b"0x61");
        assert_eq!(bytes("0x61ff", true).unwrap(), b"a\xff");
        assert_eq!(bytes("61FF", true).unwrap(), b"a\xff");
        assert_eq!(bytes("", true).unwrap(), b"");
        for bad in ["6", "zz", "+1", "0x0x", "ää"] {
            assert!(matches!(bytes(bad, true), Err(Failure::Usage(_))), "{bad}");
        }
        assert_eq!(hex(b"a\xff"), "0x61ff");
    }

    #[test]
    fn numbers_in_groups() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1 000");
        assert_eq!(grouped(1234567), "1 234 567");
        assert_eq!(count(1, "row"), "1 row");
        assert_eq!(count(0, "batch"), "0 batches");
    }
}
