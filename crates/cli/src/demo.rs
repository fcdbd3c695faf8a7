//! `hamal demo`: the promise, put to the test on this machine.
//!
//! A child process (this program again, with a hidden command) transfers money from several threads. It writes the
//! number of a transfer to a pipe only after the commit of it has returned. In the middle of that it is killed with
//! SIGKILL; this process opens what is left, and compares it with what it was told.
//!
//! What this shows is safety against the death of the process. The operating system lives on, so it shows nothing about
//! power failures; those are the business of the fault-injection tests.

use crate::open::{Common, Stop};
use crate::output::{Failure, Out, Result, count, grouped, progress, rate};
use crate::proof::{ACCOUNTS, Bank, START, TRANSFERS, Transfer, ack_line, parse_ack};
use clap::Args;
use hamal::{Database, RecoveryReport};
use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Transfers that the slow clerk makes in one transaction.
const SLOW: usize = 20;
/// Accounts that only the slow clerk touches: it holds their rows for a long time.
const SLOW_ACCOUNTS: u32 = 10;

/// Kill a bank in mid-transfer, several times, and prove that no money was lost
///
/// A child process transfers money between accounts from several threads, acknowledging each transfer after its commit.
/// It is killed with SIGKILL; the database is opened again, and checked: the sum is unchanged, every acknowledged
/// transfer is there, no transfer is half done, every page and tree is sound.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  hamal demo
  hamal demo --seconds 60 --kills 20 --threads 16
  hamal demo --dir /mnt/disk/bank                     keeps the database: look at it with `hamal stat`

Exit code 1, and the database is kept, if anything is not as it must be.")]
pub(crate) struct Demo {
    /// Make the database here and keep it [default: a temporary directory, removed after success]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Seconds of transfers, in all
    #[arg(long, default_value_t = 7.5)]
    seconds: f64,
    /// How often to kill
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    kills: u32,
    /// Threads that transfer
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=255))]
    threads: u32,
    /// Accounts
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(20..=10_000_000))]
    accounts: u32,
}

/// The process that is killed.
#[derive(Args, Debug)]
pub(crate) struct DemoChild {
    dir: PathBuf,
    #[arg(long)]
    threads: u32,
    #[arg(long)]
    accounts: u32,
    #[arg(long)]
    round: u16,
}

/// Where the bank is; a temporary directory is removed when this is dropped.
struct Place {
    path: PathBuf,
    temporary: Option<tempfile::TempDir>,
}

impl Place {
    fn new(dir: Option<&Path>) -> Result<Place> {
        let Some(dir) = dir else {
            let t = tempfile::Builder::new()
                .prefix("hamal-demo-")
                .tempdir()
                .map_err(|e| Failure::Io("making a temporary directory".into(), e))?;
            return Ok(Place { path: t.path().to_path_buf(), temporary: Some(t) });
        };
        let fail = |e| Failure::Io(dir.display().to_string(), e);
        fs::create_dir_all(dir).map_err(fail)?;
        if fs::read_dir(dir).map_err(fail)?.next().is_some() {
            return Err(Failure::Usage(format!("{} is not empty", dir.display())));
        }
        Ok(Place { path: dir.to_path_buf(), temporary: None })
    }
    fn keep(&mut self) {
        if let Some(t) = self.temporary.take() {
            let _ = t.keep();
        }
    }
}

/// What the rounds add up to.
#[derive(Default)]
struct Tally {
    acks: Vec<(u64, Transfer)>,
    transferring: Duration,
    recoveries: Vec<f64>,
    /// Committed, but killed before the acknowledgement was read.
    unacknowledged: usize,
    rolled_back: usize,
    pages: u64,
}

pub(crate) fn demo(c: &Demo, common: &Common, out: &mut Out) -> Result<()> {
    if !(c.seconds > 0.0 && c.seconds <= 86_400.0) {
        return Err(Failure::Usage("--seconds must be above 0 and at most 86400".into()));
    }
    let stop = Stop::listen()?;
    let mut place = Place::new(c.dir.as_deref())?;
    if !common.json {
        out.line(format_args!(
            "{} accounts with {START} each in {}; {} threads transfer, and are killed {} times",
            grouped(c.accounts.into()),
            place.path.display(),
            c.threads,
            c.kills
        ))?;
        out.flush()?;
    }
    open_accounts(c, &place.path)?;
    let mut tally = Tally::default();
    for round in 1..=c.kills {
        let result = one_round(c, common, &stop, &place.path, round, &mut tally, out);
        match result {
            Err(Failure::Check(m)) => {
                place.keep();
                let m = format!("{m}\nThe database is kept in {}", place.path.display());
                return Err(Failure::Check(m));
            }
            other => other?,
        }
    }
    summary(c, common, &tally, out)?;
    if c.dir.is_some() && !common.json {
        out.line(format_args!("The database is kept in {}", place.path.display()))?;
    }
    Ok(())
}

fn open_accounts(c: &Demo, dir: &Path) -> Result<()> {
    let db = Database::create(dir)?;
    let txn = db.begin_write()?;
    let accounts = txn.create_tree(ACCOUNTS)?;
    for a in 0..c.accounts {
        accounts.put(a.to_be_bytes(), START.to_be_bytes())?;
    }
    txn.create_tree(TRANSFERS)?;
    txn.commit()?;
    Ok(db.close()?)
}

/// Transfers, kill, recovery, proof.
fn one_round(
    c: &Demo,
    common: &Common,
    stop: &Stop,
    dir: &Path,
    round: u32,
    tally: &mut Tally,
    out: &mut Out,
) -> Result<()> {
    let time = Duration::from_secs_f64(c.seconds / f64::from(c.kills));
    let before = tally.acks.len();
    transfer_and_kill(c, stop, dir, round, time, tally)?;

    let started = Instant::now();
    let (db, report) = common.opening(stop).run(|b| b.open_with_report(dir))?;
    let recovery = started.elapsed().as_secs_f64();
    tally.recoveries.push(recovery);
    tally.rolled_back += report.losers.len();
    if !common.json {
        let acknowledged = grouped((tally.acks.len() - before) as u64);
        out.line(format_args!(
            "\nround {round}: {acknowledged} transfers acknowledged, killed, open after {recovery:.3} s"
        ))?;
        print_report(&report, out)?;
        out.flush()?;
    }

    let bank = Bank::read(&db.begin_read()?)?;
    let in_flight = round as usize * (c.threads as usize + SLOW);
    let mut violations = bank.violations(c.accounts, &tally.acks, in_flight);
    tally.unacknowledged = bank.transfers.len().saturating_sub(tally.acks.len());
    let verified = db.verify(&mut |_, _| {})?;
    violations.extend(verified.findings.iter().map(|f| f.message.clone()));
    tally.pages = verified.pages_allocated;
    drop(bank);
    db.close()?;
    if violations.is_empty() {
        return Ok(());
    }
    let shown: Vec<&str> = violations.iter().take(20).map(String::as_str).collect();
    let more = violations.len() - shown.len();
    let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
    Err(Failure::Check(format!("FAILED after kill {round}:\n  {}{more}", shown.join("\n  "))))
}

pub(crate) fn print_report(report: &RecoveryReport, out: &mut Out) -> Result<()> {
    report.to_string().lines().try_for_each(|line| out.line(format_args!("  {line}")))
}

/// A child that is killed when this is dropped, whatever happened.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the child for `time`, kills it, and adds what it acknowledged to the tally.
fn transfer_and_kill(
    c: &Demo,
    stop: &Stop,
    dir: &Path,
    round: u32,
    time: Duration,
    tally: &mut Tally,
) -> Result<()> {
    let fail = |e| Failure::Io("starting the process that is to be killed".into(), e);
    let mut child = Command::new(std::env::current_exe().map_err(fail)?);
    child.arg("demo-child").arg(dir);
    child.args(["--threads", &c.threads.to_string(), "--accounts", &c.accounts.to_string()]);
    child.args(["--round", &round.to_string()]);
    // A group of its own: Ctrl-C is for this process, which then ends that one.
    child.process_group(0);
    let mut child = Killed(child.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().map_err(fail)?);
    let Some(pipe) = child.0.stdout.take() else { return Err(fail(io::ErrorKind::BrokenPipe.into())) };

    let bar = progress("transferring", Some(c.kills.into()));
    bar.set_position(u64::from(round) - 1);
    let (ready, count) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|s| {
        let reader = s.spawn(|| {
            let mut acks = Vec::new();
            let mut pipe = BufReader::new(pipe);
            let mut line = String::new();
            while let Ok(1..) = pipe.read_line(&mut line) {
                match parse_ack(&line) {
                    Some(ack) => {
                        acks.push(ack);
                        count.fetch_add(1, Relaxed);
                    }
                    None if line == "ready\n" => ready.store(true, Relaxed),
                    None => {}
                }
                line.clear();
            }
            acks
        });
        let mut started = Instant::now();
        let outcome = loop {
            std::thread::sleep(Duration::from_millis(10));
            if !ready.load(Relaxed) {
                started = Instant::now();
            }
            let n = count.load(Relaxed);
            bar.set_message(format!(
                "round {round}: {} acknowledged, {} a second",
                grouped(n),
                grouped(rate(n, started.elapsed()))
            ));
            if stop.asked() {
                break Err(Failure::Interrupted("the bank was killed before its time".into()));
            }
            match child.0.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => {
                    break Err(Failure::Check(format!("the bank's process ended by itself with {status}")));
                }
                Err(e) => break Err(Failure::Io("watching the bank's process".into(), e)),
            }
            if started.elapsed() >= time {
                break Ok(());
            }
        };
        tally.transferring += started.elapsed();
        drop(child);
        // The pipe ends with the process.
        tally.acks.extend(reader.join().unwrap_or_default());
        bar.finish_and_clear();
        outcome
    })
}

fn summary(c: &Demo, common: &Common, tally: &Tally, out: &mut Out) -> Result<()> {
    let acknowledged = tally.acks.len() as u64;
    let speed = rate(acknowledged, tally.transferring);
    if common.json {
        return out.json(&serde_json::json!({
            "transfers_acknowledged": acknowledged,
            "transfers_per_second": speed,
            "killed": c.kills,
            "recovery_seconds": tally.recoveries,
            "rolled_back": tally.rolled_back,
            "committed_but_not_acknowledged": tally.unacknowledged,
            "pages_verified": tally.pages,
            "sum": u64::from(c.accounts) * START,
            "ok": true,
        }));
    }
    let recoveries: Vec<String> = tally.recoveries.iter().map(|s| format!("{s:.3}")).collect();
    let sum = grouped(u64::from(c.accounts) * START);
    out.line("")?;
    out.line(format_args!("transfers acknowledged   {}", grouped(acknowledged)))?;
    out.line(format_args!("transfers per second     {}", grouped(speed)))?;
    out.line(format_args!("killed with SIGKILL      {}", count(c.kills.into(), "time")))?;
    out.line(format_args!("seconds to open again    {}", recoveries.join(", ")))?;
    out.line(format_args!("rolled back by recovery  {}", count(tally.rolled_back as u64, "transaction")))?;
    out.line(format_args!("verified each time       the sum is {sum}, unchanged"))?;
    out.line("                         every acknowledged transfer is there")?;
    out.line(format_args!(
        "                         none is half done ({} were committed but not yet acknowledged)",
        tally.unacknowledged
    ))?;
    out.line(format_args!("                         {} pages and all trees are sound", grouped(tally.pages)))
}

// The child

/// A pseudo-random sequence (xorshift64*), enough to choose accounts.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u32) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((u128::from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)) * u128::from(n)) >> 64) as u32
    }
    /// Two accounts of `low..low + n` and an amount.
    fn transfer(&mut self, low: u32, n: u32) -> Transfer {
        let from = self.below(n);
        let to = (from + 1 + self.below(n - 1)) % n;
        Transfer { from: low + from, to: low + to, amount: 1 + u64::from(self.below(100)) }
    }
}

/// Transfers until it is killed, or nobody listens.
pub(crate) fn child(c: &DemoChild, common: &Common) -> Result<()> {
    // Checkpoints come thick and fast, so that the kill hits them too.
    let db = common.opening(&Stop::default()).run(|b| {
        b.clone().checkpoint_interval(Duration::from_millis(300)).checkpoint_log_bytes(4 << 20).open(&c.dir)
    })?;
    let pipe = Mutex::new(io::stdout());
    tell(&pipe, "ready\n")?;
    let fast = c.accounts - SLOW_ACCOUNTS;
    std::thread::scope(|s| {
        let clerks: Vec<_> = (0..=c.threads)
            .map(|thread| {
                let first = u64::from(c.round) << 48 | u64::from(thread) << 40;
                let (db, pipe) = (&db, &pipe);
                // The last one is slow: when the kill comes, it is in the middle of a transaction.
                let (low, n, many) =
                    if thread < c.threads { (0, fast, 1) } else { (fast, SLOW_ACCOUNTS, SLOW) };
                s.spawn(move || clerk(db, pipe, first, low, n, many))
            })
            .collect();
        clerks.into_iter().try_for_each(|clerk| match clerk.join() {
            Ok(result) => result,
            Err(_) => Err(Failure::Engine(hamal::Error::internal("a clerk panicked"))),
        })
    })
}

fn tell(pipe: &Mutex<io::Stdout>, text: &str) -> Result<()> {
    let mut pipe = pipe.lock().unwrap_or_else(|e| e.into_inner());
    pipe.write_all(text.as_bytes()).and_then(|()| pipe.flush()).map_err(|_| Failure::Pipe)
}

/// Makes transfers among the accounts `low..low + n`, `many` in a transaction, numbered from `first + 1`.
fn clerk(db: &Database, pipe: &Mutex<io::Stdout>, first: u64, low: u32, n: u32, many: usize) -> Result<()> {
    let mut dice = Dice(first | 1);
    let mut next = first;
    loop {
        let wanted: Vec<(u64, Transfer)> =
            (1..=many as u64).map(|i| (next + i, dice.transfer(low, n))).collect();
        let made = match transaction(db, &wanted) {
            Ok(made) => made,
            // Another clerk has the same account in hand.
            Err(e) if e.is_retryable() => continue,
            Err(e) => return Err(e.into()),
        };
        next += many as u64;
        // Acknowledged only now that the commit has returned.
        tell(pipe, &made.iter().map(|(number, t)| ack_line(*number, *t)).collect::<String>())?;
    }
}

/// Makes the transfers for which there is money, and commits. Dropped without a commit, everything is rolled back.
fn transaction(db: &Database, wanted: &[(u64, Transfer)]) -> hamal::Result<Vec<(u64, Transfer)>> {
    let txn = db.begin_write()?;
    let accounts = txn.tree(ACCOUNTS)?;
    let transfers = txn.tree(TRANSFERS)?;
    let balance = |account: u32| {
        let value = accounts.get(account.to_be_bytes())?;
        let bytes = value.as_deref().and_then(|v| v.try_into().ok());
        bytes.map(u64::from_be_bytes).ok_or_else(|| hamal::Error::internal("an account is not there"))
    };
    let mut made = Vec::new();
    for (number, t) in wanted {
        let (from, to) = (balance(t.from)?, balance(t.to)?);
        if from < t.amount {
            continue;
        }
        // In the order of their numbers, so that two clerks seldom wait for each other in a circle.
        let mut changes = [(t.from, from - t.amount), (t.to, to + t.amount)];
        changes.sort();
        for (account, balance) in changes {
            accounts.put(account.to_be_bytes(), balance.to_be_bytes())?;
        }
        transfers.put(number.to_be_bytes(), t.encode())?;
        made.push((*number, *t));
        if wanted.len() > 1 {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    txn.commit()?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_stay_within_their_accounts() {
        let mut dice = Dice(1);
        for _ in 0..1000 {
            let t = dice.transfer(5, 3);
            assert!((5..8).contains(&t.from) && (5..8).contains(&t.to) && t.from != t.to);
            assert!((1..=100).contains(&t.amount));
        }
    }
}
