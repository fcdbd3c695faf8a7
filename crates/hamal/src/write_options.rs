//! How a write transaction runs: its isolation level, and how long it waits.
use crate::{Error, ErrorKind, Isolation, Result};
use std::time::Duration;

/// The longest time-out: a day, as for the database's own.
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);

/// Options of one write transaction, for [`Database::begin_write_with`](crate::Database::begin_write_with).
///
/// ```
/// use hamal::{Database, Isolation, WriteOptions};
/// # fn main() -> hamal::Result<()> {
/// let db = Database::in_memory()?;
/// let tx = db.begin_write_with(WriteOptions::new().isolation(Isolation::Serializable))?;
/// assert_eq!(tx.isolation(), Isolation::Serializable);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteOptions {
    pub(crate) isolation: Isolation,
    pub(crate) lock_timeout: Option<Duration>,
    pub(crate) no_wait: bool,
    pub(crate) read_set_bytes: usize,
}

impl Default for WriteOptions {
    fn default() -> WriteOptions {
        WriteOptions {
            isolation: Isolation::default(),
            lock_timeout: None,
            no_wait: false,
            read_set_bytes: 4 << 20,
        }
    }
}

impl WriteOptions {
    /// Snapshot isolation, and the database's `lock_timeout`.
    pub fn new() -> WriteOptions {
        WriteOptions::default()
    }
    /// The isolation level. Default [`Isolation::Snapshot`].
    #[must_use]
    pub fn isolation(mut self, isolation: Isolation) -> WriteOptions {
        self.isolation = isolation;
        self
    }
    /// How long the transaction waits for another before `LockTimeout`, up to a day. Default: what
    /// [`Builder::lock_timeout`](crate::Builder::lock_timeout) says.
    #[must_use]
    pub fn lock_timeout(mut self, time: Duration) -> WriteOptions {
        self.lock_timeout = Some(time);
        self
    }
    /// The transaction never waits for another: what would have to wait fails with `WouldWait` at once. For single trees see
    /// [`Tree::no_wait`](crate::Tree::no_wait).
    #[must_use]
    pub fn no_wait(mut self) -> WriteOptions {
        self.no_wait = true;
        self
    }

    /// Memory in bytes in which a serializable transaction remembers what it has read: 1 KiB to 1 GiB, default 4 MiB. A key takes about 100 bytes
    /// and twice its length, a range not more. Beyond the limit keys and ranges are joined with their
    /// neighbours, in the end to whole trees: nothing is forgotten, but commits of others in the gaps then count as changes of
    /// what was read.
    #[must_use]
    pub fn read_set_bytes(mut self, bytes: usize) -> WriteOptions {
        self.read_set_bytes = bytes;
        self
    }

    pub(crate) fn check(&self) -> Result<()> {
        if !(1 << 10..=1 << 30).contains(&self.read_set_bytes) {
            let m = format!("read_set_bytes {}: it may be 1 KiB to 1 GiB", self.read_set_bytes);
            return Err(Error::new(ErrorKind::InvalidOption, m));
        }
        match self.lock_timeout {
            Some(t) if t > LONGEST_WAIT => Err(Error::new(
                ErrorKind::InvalidOption,
                format!("lock_timeout {} s: it may be a day at most", t.as_secs()),
            )),
            _ => Ok(()),
        }
    }
}
