//! The workload that is killed, and what must hold afterwards.
//!
//! Each thread `t` runs transactions numbered from 0. Transaction `n` puts the row `t/n`, sets `last/t` to `n`, moves
//! money between two of the shared accounts, and rolls a savepoint back on the way. After `commit` has returned, and only
//! then, the thread acknowledges `t n` on standard output.

use hamal::log::SyncMethod;
use hamal::{Database, ErrorKind, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// How the database is to do its input/output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Io {
    /// Through the operating system's cache, log and data.
    Buffered,
    /// The data file past the cache, the log by `fdatasync`.
    Direct,
    /// The data file past the cache, the log by writes that are durable when they return.
    Dsync,
}

impl Io {
    /// All.
    pub const ALL: [Io; 3] = [Io::Buffered, Io::Direct, Io::Dsync];
}

impl fmt::Display for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Io::Buffered => "buffered",
            Io::Direct => "direct",
            Io::Dsync => "dsync",
        })
    }
}

impl FromStr for Io {
    type Err = String;
    fn from_str(s: &str) -> std::result::Result<Io, String> {
        Io::ALL
            .into_iter()
            .find(|io| io.to_string() == s)
            .ok_or_else(|| format!("no input/output is called {s}"))
    }
}

/// What is wrong after a crash or an error.
#[derive(Debug)]
pub enum Trouble {
    /// The engine reports an error.
    Engine(hamal::Error),
    /// The engine reports none, and the data are not what they must be.
    Wrong(String),
}

impl From<hamal::Error> for Trouble {
    fn from(e: hamal::Error) -> Trouble {
        Trouble::Engine(e)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Engine(e) => write!(f, "{:?}: {e}", e.kind()),
            Trouble::Wrong(what) => f.write_str(what),
        }
    }
}

/// Shared accounts.
pub const ACCOUNTS: u64 = 20;
/// What each account starts with.
pub const START: i64 = 1000;
/// Every this many transactions one carries a value on overflow pages.
pub const LARGE_EVERY: u64 = 17;

/// The options of the tortured database: a tiny pool, small segments, frequent checkpoints.
pub fn options() -> hamal::Builder {
    Database::builder()
        .page_size(4096)
        .cache_bytes(96 * 4096)
        .log_segment_bytes(256 << 10)
        .checkpoint_log_bytes(512 << 10)
        .check_apply(true)
}

/// The options of the database of the deterministic workload: one thread, everything as small as it may be.
pub fn small(io: Io) -> hamal::Builder {
    with(
        Database::builder()
            .page_size(4096)
            .cache_bytes(64 * 4096)
            .log_segment_bytes(64 << 10)
            .log_ring_bytes(512 << 10)
            .log_limit_bytes(4 << 20)
            .checkpoint_log_bytes(96 << 10)
            .check_apply(true)
            .background(false)
            .database_id(*b"the real layers!"),
        io,
    )
}

/// `builder` with this input/output.
pub fn with(builder: hamal::Builder, io: Io) -> hamal::Builder {
    let method = if io == Io::Dsync { SyncMethod::DirectDsync } else { SyncMethod::Fdatasync };
    builder.direct_io(io != Io::Buffered).sync_method(method)
}

fn number(v: &[u8]) -> i64 {
    v.try_into().map(i64::from_le_bytes).unwrap_or(i64::MIN)
}

/// The value of row `t/n`: every byte follows from the key.
pub fn row_value(t: u64, n: u64) -> Vec<u8> {
    let len = if n.is_multiple_of(LARGE_EVERY) { 9000 } else { 40 + (n * 7 + t) % 200 } as usize;
    (0..len).map(|i| (i as u64 * 31 + n * 7 + t) as u8).collect()
}

fn row_key(t: u64, n: u64) -> String {
    format!("{t:02}/{n:010}")
}

/// Makes the trees and accounts if they are missing.
///
/// # Errors
/// Of the engine.
pub fn prepare(db: &Database) -> Result<()> {
    let tx = db.begin_write()?;
    tx.open_or_create_tree("rows")?;
    tx.open_or_create_tree("last")?;
    let accounts = tx.open_or_create_tree("accounts")?;
    if accounts.first()?.is_none() {
        for a in 0..ACCOUNTS {
            accounts.insert(a.to_be_bytes(), START.to_le_bytes())?;
        }
    }
    tx.commit()?;
    Ok(())
}

/// One attempt at a transaction of the workload; `abandon` rolls it back at its end instead.
fn attempt(db: &Database, t: u64, n: u64, abandon: bool) -> Result<()> {
    let tx = db.begin_write()?;
    let rows = tx.tree("rows")?;
    let last = tx.tree("last")?;
    let accounts = tx.tree("accounts")?;
    rows.insert(row_key(t, n).as_bytes(), row_value(t, n))?;
    last.insert(t.to_be_bytes(), (n as i64).to_le_bytes())?;
    let savepoint = tx.savepoint()?;
    rows.insert(row_key(t, n + 1).as_bytes(), b"must never be seen")?;
    if n >= 5 {
        rows.remove(row_key(t, n - 5).as_bytes())?;
    }
    tx.rollback_to(&savepoint)?;
    let (a, b) = ((n * 3 + t) % ACCOUNTS, (n * 5 + t * 7 + 1) % ACCOUNTS);
    if a != b {
        for (account, by) in [(a.min(b), 1), (a.max(b), -1)] {
            let key = account.to_be_bytes();
            let now = accounts.get(key)?.map_or(i64::MIN, |v| number(&v));
            accounts.insert(key, (now + by).to_le_bytes())?;
        }
    }
    // Old rows go, so that pages empty, merge and are used again.
    if n >= 60 && n.is_multiple_of(2) {
        rows.remove(row_key(t, n - 60).as_bytes())?;
    }
    if abandon {
        return tx.rollback();
    }
    tx.commit()?;
    Ok(())
}

/// Runs transaction `n` of thread `t` until it is committed durably, whatever conflicts it meets.
///
/// # Errors
/// Those that are not retryable.
pub fn transaction(db: &Database, t: u64, n: u64) -> Result<()> {
    let mut abandon = n % 29 == 28;
    loop {
        match attempt(db, t, n, abandon) {
            Ok(()) if abandon => abandon = false,
            Err(e) if e.is_retryable() => std::thread::yield_now(),
            other => return other,
        }
    }
}

/// Where thread `t` goes on.
///
/// # Errors
/// Of the engine.
pub fn next_number(db: &Database, t: u64) -> Result<u64> {
    let tx = db.begin_read()?;
    Ok(tx.tree("last")?.get(t.to_be_bytes())?.map_or(0, |v| number(&v) as u64 + 1))
}

/// Checks everything that must hold after recovery. `acknowledged[t]` is the highest number that thread `t` acknowledged, or
/// that a recovery has shown. Returns what this recovery shows: from now on it must stay.
///
/// # Errors
/// What is wrong.
pub fn check(
    db: &Database,
    acknowledged: &BTreeMap<u64, u64>,
    threads: u64,
) -> std::result::Result<BTreeMap<u64, u64>, Trouble> {
    check_between(db, acknowledged, acknowledged, threads)
}

/// [`check`] where it is known for certain of `acknowledged` only that it must be there, and `said` was acknowledged too, too
/// late to be certain.
///
/// # Errors
/// What is wrong.
pub fn check_between(
    db: &Database,
    acknowledged: &BTreeMap<u64, u64>,
    said: &BTreeMap<u64, u64>,
    threads: u64,
) -> std::result::Result<BTreeMap<u64, u64>, Trouble> {
    let wrong = |what: String| Err(Trouble::Wrong(what));
    let tx = db.begin_read()?;
    let (rows, last, accounts) = match (tx.tree("rows"), tx.tree("last"), tx.tree("accounts")) {
        (Ok(a), Ok(b), Ok(c)) => (a, b, c),
        (Err(e), ..) if e.kind() == ErrorKind::NotFound && acknowledged.is_empty() => {
            return Ok(BTreeMap::new());
        }
        (Err(e), ..) | (_, Err(e), _) | (.., Err(e)) if e.kind() != ErrorKind::NotFound => {
            return Err(e.into());
        }
        (a, b, c) => {
            return wrong(format!("trees are missing: {:?} {:?} {:?}", a.err(), b.err(), c.err()));
        }
    };
    let mut sum = 0;
    let mut count = 0;
    for row in accounts.iter() {
        sum += number(&row?.1);
        count += 1;
    }
    if (sum, count) != (ACCOUNTS as i64 * START, ACCOUNTS) {
        return wrong(format!("{count} accounts hold {sum} instead of {}", ACCOUNTS as i64 * START));
    }
    let mut expected = BTreeMap::new();
    let mut shown = BTreeMap::new();
    for t in 0..threads {
        let stored = last.get(t.to_be_bytes())?.map(|v| number(&v) as u64);
        let acked = acknowledged.get(&t).copied();
        // One transaction a thread may have been in flight.
        let next = said.get(&t).map_or(0, |s| s + 1);
        if stored < acked || stored.is_some_and(|s| s > next) {
            return wrong(format!("thread {t}: acknowledged {acked:?}, next {next}, stored {stored:?}"));
        }
        if let Some(s) = stored {
            shown.insert(t, s);
            for n in 0..=s {
                let removed_by = n + 60;
                if !(removed_by <= s && removed_by % 2 == 0) {
                    expected.insert(row_key(t, n), row_value(t, n));
                }
            }
        }
    }
    let mut found = BTreeMap::new();
    for row in rows.iter() {
        let (k, v) = row?;
        found.insert(String::from_utf8_lossy(&k).into_owned(), v.to_vec());
    }
    for (k, v) in &expected {
        match found.get(k) {
            None => return wrong(format!("row {k} is missing")),
            Some(x) if x != v => return wrong(format!("row {k} has {} bytes that are wrong", x.len())),
            _ => {}
        }
    }
    if let Some(k) = found.keys().find(|k| !expected.contains_key(*k)) {
        return wrong(format!("row {k} should not be there"));
    }
    let report = db.verify(&mut |_, _| {})?;
    if let Some(f) = report.findings.first() {
        return wrong(format!("verify: {f:?} and {} more", report.findings.len() - 1));
    }
    Ok(shown)
}
