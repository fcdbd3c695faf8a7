//! The workloads. Keys of 24 bytes and values of 150 incompressible bytes, from a fixed seed; a key is a function of its number,
//! so nothing has to be remembered.
use super::Any;
use super::engine::{Engine, Reader, Session};
use super::measure::{Measured, Meter, histogram};
use crate::Random;
use hdrhistogram::Histogram;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Bytes of a value.
pub const VALUE: usize = 150;
/// Bytes of a key.
pub const KEY: usize = 24;
/// Pairs of a batch in a load.
const BATCH: u64 = 1000;

/// The key of a number: scattered over the key space, or ascending.
#[must_use]
pub fn key(n: u64, ascending: bool) -> [u8; KEY] {
    let mut random = Random(n.wrapping_mul(0xA24B_AED4_963E_E407));
    let mut key = [0; KEY];
    for part in key.chunks_mut(8) {
        part.copy_from_slice(&random.next_u64().to_be_bytes());
    }
    if ascending {
        key[..8].copy_from_slice(&n.to_be_bytes());
    }
    key
}

/// A value buffer, filled anew for each write.
pub struct Values {
    random: Random,
    bytes: [u8; VALUE + 8],
}

impl Values {
    /// A sequence of values.
    #[must_use]
    pub fn new(seed: u64) -> Values {
        Values { random: Random(seed), bytes: [0; VALUE + 8] }
    }
    /// The next value.
    pub fn fresh(&mut self) -> &[u8; VALUE] {
        for part in self.bytes.chunks_exact_mut(8) {
            part.copy_from_slice(&self.random.next_u64().to_le_bytes());
        }
        self.bytes.first_chunk().expect("a buffer is longer than a value")
    }
}

/// What a timed run shares.
pub struct Bench<'a> {
    /// The engine.
    pub engine: &'a dyn Engine,
    /// Where its files are.
    pub dir: &'a Path,
    /// How long a timed workload runs.
    pub time: Duration,
    /// Distinguishes the keys of rounds.
    pub seed: u64,
}

/// An operation of a workload: the session, the random source, and buffers.
type Operation<'a> = dyn Fn(&mut dyn Session, &mut Random, &mut Scratch) -> Any<()> + Sync + 'a;

/// Reads in a snapshot: the snapshot, the random source, a buffer; returns how much was read.
type Reads<'a> = dyn Fn(&mut dyn Reader, &mut Random, &mut Vec<u8>) -> Any<u64> + Sync + 'a;

/// Buffers of one thread.
pub struct Scratch {
    /// A value that was read.
    pub out: Vec<u8>,
    /// Values to write.
    pub values: Values,
}

impl Bench<'_> {
    /// Runs an operation on `threads` threads for the time of the bench; each is timed.
    ///
    /// # Errors
    /// The first error of a thread.
    pub fn timed(&self, threads: u64, operation: &Operation<'_>) -> Any<Measured> {
        let meter = Meter::start(self.dir, self.engine.log_bytes());
        let until = Instant::now() + self.time;
        let parts: Vec<Any<Histogram<u64>>> = std::thread::scope(|s| {
            let handles: Vec<_> =
                (0..threads).map(|t| s.spawn(move || self.one_thread(t, until, operation))).collect();
            handles
                .into_iter()
                .map(|h| h.join().unwrap_or_else(|_| Err("a thread panicked".into())))
                .collect()
        });
        let mut all = histogram();
        for part in parts {
            all.add(part?)?;
        }
        Ok(meter.stop(all.len(), self.engine.log_bytes(), Some(&all)))
    }

    fn one_thread(&self, thread: u64, until: Instant, operation: &Operation<'_>) -> Any<Histogram<u64>> {
        let mut session = self.engine.session()?;
        let mut times = histogram();
        let mut random = Random(self.seed.wrapping_mul(0x9E37).wrapping_add(thread << 32));
        let mut scratch = Scratch { out: Vec::new(), values: Values::new(random.next_u64()) };
        let mut now = Instant::now();
        while now < until {
            operation(session.as_mut(), &mut random, &mut scratch)?;
            let then = std::mem::replace(&mut now, Instant::now());
            times.saturating_record(u64::try_from((now - then).as_nanos())?);
        }
        Ok(times)
    }

    /// Inserts a new random key in each transaction.
    ///
    /// # Errors
    /// Of the engine.
    pub fn commits(&self, threads: u64, durable: bool) -> Any<Measured> {
        self.timed(threads, &|session, random, scratch| {
            let k = key(random.next_u64(), false);
            let v = scratch.values.fresh();
            session.write(durable, &mut |w| w.put(&k, v))
        })
    }

    /// All threads add one to the same row.
    ///
    /// # Errors
    /// Of the engine.
    pub fn one_hot_key(&self, threads: u64) -> Any<Measured> {
        self.engine.session()?.write(true, &mut |w| w.put(b"counter", &0u64.to_le_bytes()))?;
        let done = AtomicU64::new(0);
        let measured = self.timed(threads, &|session, _, scratch| {
            session.write(true, &mut |w| {
                let n = if w.get(b"counter", &mut scratch.out)? { number(&scratch.out)? } else { 0 };
                w.put(b"counter", &(n + 1).to_le_bytes())
            })?;
            done.fetch_add(1, Ordering::Relaxed);
            Ok(())
        })?;
        let mut out = Vec::new();
        self.engine.session()?.get(b"counter", &mut out)?;
        let (found, done) = (number(&out)?, done.into_inner());
        if found != done {
            return Err(format!("{done} increments were committed and the counter says {found}").into());
        }
        Ok(measured)
    }

    /// Asynchronous commits with one sync at the end, which is in the time.
    ///
    /// # Errors
    /// Of the engine.
    pub fn asynchronous(&self) -> Any<Measured> {
        let mut session = self.engine.session()?;
        let mut values = Values::new(self.seed);
        let mut random = Random(self.seed);
        let mut times = histogram();
        let meter = Meter::start(self.dir, self.engine.log_bytes());
        let until = Instant::now() + self.time;
        let mut now = Instant::now();
        while now < until {
            let k = key(random.next_u64(), false);
            let v = values.fresh();
            session.write(false, &mut |w| w.put(&k, v))?;
            let then = std::mem::replace(&mut now, Instant::now());
            times.saturating_record(u64::try_from((now - then).as_nanos())?);
        }
        self.engine.sync()?;
        Ok(meter.stop(times.len(), self.engine.log_bytes(), Some(&times)))
    }

    /// Inserts the keys `0..pairs` in batches, with one sync at the end; with several writers each takes every n-th batch.
    ///
    /// # Errors
    /// Of the engine.
    pub fn load(&self, pairs: u64, ascending: bool, writers: u64) -> Any<Measured> {
        let meter = Meter::start(self.dir, self.engine.log_bytes());
        std::thread::scope(|s| {
            let handles: Vec<_> =
                (0..writers).map(|w| s.spawn(move || self.load_part(pairs, ascending, w, writers))).collect();
            handles.into_iter().try_for_each(|h| h.join().unwrap_or_else(|_| Err("a thread panicked".into())))
        })?;
        self.engine.sync()?;
        Ok(meter.stop(pairs, self.engine.log_bytes(), None))
    }

    fn load_part(&self, pairs: u64, ascending: bool, writer: u64, writers: u64) -> Any<()> {
        let mut session = self.engine.session()?;
        let mut from = writer * BATCH;
        while from < pairs {
            let to = (from + BATCH).min(pairs);
            session.write(false, &mut |w| {
                let mut values = Values::new(from);
                let mut rows = (from..to).map(|n| (key(n, ascending), *values.fresh()));
                if ascending { w.load(&mut rows) } else { rows.try_for_each(|(k, v)| w.put(&k, &v)) }
            })?;
            from += BATCH * writers;
        }
        Ok(())
    }

    /// Random gets of keys `0..pairs`: a transaction for each, or all in one snapshot a thread.
    ///
    /// # Errors
    /// Of the engine, or if a key is missing.
    pub fn gets(&self, pairs: u64, threads: u64, one_snapshot: bool) -> Any<Measured> {
        if !one_snapshot {
            return self.timed(threads, &|session, random, scratch| {
                must_be_there(session.get(&key(random.next_u64() % pairs, false), &mut scratch.out)?)
            });
        }
        self.timed_in_snapshot(threads, &|reader, random, out| {
            must_be_there(reader.get(&key(random.next_u64() % pairs, false), out)?)?;
            Ok(1)
        })
    }

    /// Rows from a random key on, `limit` at a time; the rate counts rows or ranges.
    ///
    /// # Errors
    /// Of the engine.
    pub fn ranges(&self, limit: usize) -> Any<Measured> {
        let seen = AtomicU64::new(0);
        let measured = self.timed_in_snapshot(1, &|reader, random, _| {
            let mut bytes = 0;
            let n =
                reader.scan(&key(random.next_u64(), false), limit, &mut |k, v| bytes += k.len() + v.len())?;
            seen.fetch_add(bytes as u64, Ordering::Relaxed);
            Ok((n > 0).into())
        })?;
        Ok(measured)
    }

    /// All rows, once; the rate counts rows.
    ///
    /// # Errors
    /// Of the engine, or if there are not `pairs` rows.
    pub fn full_scan(&self, pairs: u64) -> Any<Measured> {
        let mut session = self.engine.session()?;
        let meter = Meter::start(self.dir, None);
        let (mut n, mut bytes) = (0, 0);
        session.read(&mut |r| {
            n = r.scan(&[], usize::MAX, &mut |k, v| bytes += k.len() + v.len())? as u64;
            Ok(())
        })?;
        if n < pairs || bytes == 0 {
            return Err(format!("the scan met {n} rows of {pairs}").into());
        }
        Ok(meter.stop(n, None, None))
    }

    /// Runs reads in one snapshot a thread, in batches so that the clock is not what is measured. The operation says how much
    /// it did.
    fn timed_in_snapshot(&self, threads: u64, operation: &Reads<'_>) -> Any<Measured> {
        let meter = Meter::start(self.dir, None);
        let until = Instant::now() + self.time;
        let parts: Vec<Any<(u64, Histogram<u64>)>> = std::thread::scope(|s| {
            let handles: Vec<_> = (0..threads)
                .map(|t| {
                    s.spawn(move || {
                        let mut random = Random(self.seed + (t << 32));
                        let (mut n, mut times, mut out) = (0, histogram(), Vec::new());
                        self.engine.session()?.read(&mut |reader| {
                            let mut now = Instant::now();
                            while now < until {
                                for _ in 0..16 {
                                    n += operation(reader, &mut random, &mut out)?;
                                }
                                let then = std::mem::replace(&mut now, Instant::now());
                                times.saturating_record(u64::try_from((now - then).as_nanos() / 16)?);
                            }
                            Ok(())
                        })?;
                        Ok((n, times))
                    })
                })
                .collect();
            handles
                .into_iter()
                .map(|h| h.join().unwrap_or_else(|_| Err("a thread panicked".into())))
                .collect()
        });
        let (mut n, mut all) = (0, histogram());
        for part in parts {
            let (count, times) = part?;
            n += count;
            all.add(times)?;
        }
        Ok(meter.stop(n, None, Some(&all)))
    }

    /// Random updates of rows `0..pairs`, each its own asynchronous transaction, with one sync at the end.
    ///
    /// # Errors
    /// Of the engine.
    pub fn updates(&self, pairs: u64) -> Any<Measured> {
        let mut measured = self.timed(1, &|session, random, scratch| {
            let k = key(random.next_u64() % pairs, false);
            let v = scratch.values.fresh();
            session.write(false, &mut |w| w.put(&k, v))
        })?;
        let started = Instant::now();
        self.engine.sync()?;
        let seconds = measured.operations as f64 / measured.rate;
        measured.rate = measured.operations as f64 / (seconds + started.elapsed().as_secs_f64());
        Ok(measured)
    }

    /// Removes every second key of `0..pairs`, in batches.
    ///
    /// # Errors
    /// Of the engine.
    pub fn remove_half(&self, pairs: u64) -> Any<Measured> {
        let mut session = self.engine.session()?;
        let meter = Meter::start(self.dir, self.engine.log_bytes());
        for from in (0..pairs).step_by(BATCH as usize) {
            session.write(false, &mut |w| {
                (from..(from + BATCH).min(pairs)).step_by(2).try_for_each(|n| w.delete(&key(n, false)))
            })?;
        }
        self.engine.sync()?;
        Ok(meter.stop(pairs / 2, self.engine.log_bytes(), None))
    }
}

fn number(bytes: &[u8]) -> Any<u64> {
    Ok(u64::from_le_bytes(bytes.try_into().map_err(|_| "the counter is not a number")?))
}

fn must_be_there(found: bool) -> Any<()> {
    if found { Ok(()) } else { Err("a key is missing".into()) }
}
