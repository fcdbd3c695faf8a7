//! Running a transaction until it commits: retries, back-off, giving up.
use crate::{CommitTicket, Database, Durability, Error, ErrorKind, Lsn, Result, WriteOptions, WriteTxn};
use std::hash::{BuildHasher, RandomState};
use std::thread;
use std::time::{Duration, Instant};

/// How [`Database::transact_with`] runs a transaction, and when it gives up.
///
/// After the n-th failure it waits for a time drawn evenly from zero to `backoff` times 2^(n-1), at most `longest_backoff`
/// (exponential back-off with full jitter, as Brooker describes it).
#[derive(Clone, Debug)]
pub struct TransactOptions {
    write: WriteOptions,
    attempts: u32,
    time: Option<Duration>,
    backoff: Duration,
    longest_backoff: Duration,
    seed: Option<u64>,
    durability: Option<Durability>,
}

impl Default for TransactOptions {
    fn default() -> Self {
        TransactOptions {
            write: WriteOptions::new(),
            attempts: 100,
            time: None,
            backoff: Duration::from_micros(100),
            longest_backoff: Duration::from_millis(20),
            seed: None,
            durability: None,
        }
    }
}

impl TransactOptions {
    /// Snapshot isolation, at most 100 attempts, no limit of time, back-off from 0.1 ms to 20 ms.
    pub fn new() -> TransactOptions {
        TransactOptions::default()
    }
    /// How each attempt's transaction begins: its isolation level, how long it waits.
    #[must_use]
    pub fn write(mut self, options: WriteOptions) -> Self {
        self.write = options;
        self
    }
    /// How often the closure runs at most; at least 1.
    #[must_use]
    pub fn attempts(mut self, most: u32) -> Self {
        self.attempts = most;
        self
    }
    /// After this time no new attempt begins. An attempt that runs is not interrupted; to bound its waits set
    /// [`WriteOptions::lock_timeout`].
    #[must_use]
    pub fn time(mut self, most: Duration) -> Self {
        self.time = Some(most);
        self
    }
    /// The longest wait after the first failure, and after any failure. Zero waits for nothing.
    #[must_use]
    pub fn backoff(mut self, first: Duration, longest: Duration) -> Self {
        (self.backoff, self.longest_backoff) = (first, longest);
        self
    }
    /// Where the random numbers of the back-off come from: the same waits for the same seed. Random by default.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = Some(seed);
        self
    }
    /// When `transact_with` returns after a commit; default is what the database was opened with.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = Some(durability);
        self
    }

    fn check(&self) -> Result<()> {
        self.write.check()?;
        if self.attempts == 0 {
            return Err(Error::new(ErrorKind::InvalidOption, "attempts 0: at least 1"));
        }
        Ok(())
    }
}

/// A transaction that has committed.
#[derive(Clone, Debug)]
pub struct Transacted<T> {
    /// What the closure returned.
    pub value: T,
    /// The commit: its timestamp, and when it is durable.
    pub ticket: CommitTicket,
    /// The snapshot of the attempt that committed (under read committed, of its last statement).
    pub snapshot: Lsn,
    /// How often the closure ran.
    pub attempts: u32,
}

/// Random numbers from a seed (splitmix64, Steele, Lea and Flood).
struct Jitter(u64);

impl Jitter {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The wait after the n-th failure.
fn pause(options: &TransactOptions, failures: u32, jitter: &mut Jitter) -> Duration {
    let doubled = options.backoff.saturating_mul(1u32.checked_shl(failures - 1).unwrap_or(u32::MAX));
    let most = u64::try_from(doubled.min(options.longest_backoff).as_nanos()).unwrap_or(u64::MAX);
    // The upper half of the product: evenly from 0 to `most`.
    Duration::from_nanos(((u128::from(jitter.next()) * (u128::from(most) + 1)) >> 64) as u64)
}

impl Database {
    /// Runs `f` in a write transaction and commits it; if others got in the way (a conflict, a deadlock, a time-out, a
    /// serialization failure: [`Error::is_retryable`]), rolls it back and runs it again, a little later each time. `f` may thus run
    /// many times: what it does outside of the transaction it does as often.
    ///
    /// `f` returns errors of any type that the engine's can become: [`Error`] itself, an enum with a variant for it, a boxed
    /// error. An error of the caller's own ends it: the transaction is rolled back and the error returned as it is. An error
    /// is taken for the engine's if it was made from a retryable error of this transaction: it still holds it, or holding it was
    /// given up (its text was kept, say) and that was what the last call on the transaction returned. After
    /// [`WouldWait`](ErrorKind::WouldWait), which is asked for in order to be handled, only the first counts.
    ///
    /// ```
    /// # use hamal::{Database, Value};
    /// #[derive(Debug)]
    /// enum Failed {
    ///     Poor,
    ///     Engine(hamal::Error),
    /// }
    /// impl From<hamal::Error> for Failed {
    ///     fn from(e: hamal::Error) -> Failed {
    ///         Failed::Engine(e)
    ///     }
    /// }
    /// # fn main() -> Result<(), Failed> {
    /// # let db = Database::in_memory()?;
    /// # db.transact(|tx| tx.create_tree("accounts")?.put("alice", [30]))?;
    /// let left = db.transact(|tx| {
    ///     let accounts = tx.tree("accounts")?;
    ///     let alice = accounts.get("alice")?.map_or(0, |v| v[0]);
    ///     let left = alice.checked_sub(10).ok_or(Failed::Poor)?;
    ///     accounts.put("alice", [left])?;
    ///     Ok::<u8, Failed>(left)
    /// })?; // committed, and durable
    /// assert_eq!(left, 20);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `RetriesExhausted` after 100 attempts, with their number ([`Error::attempts`]) and the last failure ([`Error::cause`]); what
    /// `f` returns; as [`Database::begin_write`] and [`WriteTxn::commit`].
    pub fn transact<T, E: From<Error>>(
        &self,
        f: impl FnMut(&WriteTxn) -> std::result::Result<T, E>,
    ) -> std::result::Result<T, E> {
        self.transact_with(&TransactOptions::new(), f).map(|done| done.value)
    }

    /// As [`Database::transact`], with options; also tells the commit.
    ///
    /// # Errors
    /// As [`Database::transact`]; `InvalidOption`.
    pub fn transact_with<T, E: From<Error>>(
        &self,
        options: &TransactOptions,
        mut f: impl FnMut(&WriteTxn) -> std::result::Result<T, E>,
    ) -> std::result::Result<Transacted<T>, E> {
        options.check()?;
        let begun = Instant::now();
        let mut jitter = None;
        for attempt in 1.. {
            let failure = match self.attempt(options, &mut f)? {
                Attempt::Done(value, ticket, snapshot) => {
                    return Ok(Transacted { value, ticket, snapshot, attempts: attempt });
                }
                Attempt::Failed(failure) => failure,
            };
            let jitter = jitter.get_or_insert_with(|| {
                Jitter(options.seed.unwrap_or_else(|| RandomState::new().hash_one(0)))
            });
            let pause = pause(options, attempt, jitter);
            let late = options.time.is_some_and(|most| begun.elapsed() + pause >= most);
            if attempt == options.attempts || late {
                return Err(gave_up(attempt, begun.elapsed(), failure).into());
            }
            if !pause.is_zero() {
                thread::sleep(pause);
            }
        }
        Err(Error::internal("a loop without end has ended").into())
    }

    fn attempt<T, E: From<Error>>(
        &self,
        options: &TransactOptions,
        f: &mut dyn FnMut(&WriteTxn) -> std::result::Result<T, E>,
    ) -> std::result::Result<Attempt<T>, E> {
        let tx = self.begin_write_with(options.write)?;
        let value = match f(&tx) {
            Ok(value) => value,
            Err(e) => {
                let cause = tx.cause_of_failure();
                // Before the waiting begins: others wait for its rows.
                tx.rollback()?;
                return cause.map(Attempt::Failed).ok_or(e);
            }
        };
        let snapshot = tx.snapshot();
        let durability = options.durability.unwrap_or(self.core().options.durability);
        match tx.commit_with(durability) {
            Ok(ticket) => Ok(Attempt::Done(value, ticket, snapshot)),
            Err(e) if e.is_retryable() => Ok(Attempt::Failed(e)),
            Err(e) => Err(e.into()),
        }
    }
}

/// How an attempt ended.
enum Attempt<T> {
    Done(T, CommitTicket, Lsn),
    Failed(Error),
}

fn gave_up(attempts: u32, time: Duration, last: Error) -> Error {
    Error::new(
        ErrorKind::RetriesExhausted,
        format!("the transaction was given up after {attempts} attempts in {} ms", time.as_millis()),
    )
    .with_attempts(attempts)
    .with_cause(last)
    .with_help("Others change the same rows all the time: make it shorter, lock what it reads (`get_for_update`), or allow more attempts")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_follow_the_seed() {
        let o = TransactOptions::new().backoff(Duration::from_micros(10), Duration::from_millis(1));
        let draw = |seed| {
            let mut jitter = Jitter(seed);
            (1..200).map(|n| pause(&o, n, &mut jitter)).collect::<Vec<_>>()
        };
        let all = draw(7);
        assert_eq!(all, draw(7));
        assert_ne!(all, draw(8));
        for (i, p) in all.iter().enumerate() {
            let most = Duration::from_micros(10 << i.min(20)).min(Duration::from_millis(1));
            assert!(*p <= most, "{i}: {p:?}");
        }
        assert!(all[50..].iter().max() > Some(&Duration::from_micros(900)));
        assert!(all[50..].iter().min() < Some(&Duration::from_micros(100)));
        let none = TransactOptions::new().backoff(Duration::ZERO, Duration::ZERO);
        assert_eq!(pause(&none, 40, &mut Jitter(1)), Duration::ZERO);
    }
}
