//! YCSB's core workloads, and a mix of new-order and payment in the style of TPC-C.
use super::Any;
use super::measure::Measured;
use super::workloads::{Bench, key};
use crate::Random;

/// Ranks with a zipfian distribution of 0.99, by the method of Gray et al., "Quickly Generating Billion-Record Synthetic
/// Databases" (SIGMOD 1994), section 4.
pub struct Zipf {
    n: f64,
    theta: f64,
    zetan: f64,
    eta: f64,
    alpha: f64,
}

impl Zipf {
    /// Over `0..n`.
    #[must_use]
    pub fn new(n: u64) -> Zipf {
        let theta = 0.99;
        let zeta = |n: u64| (1..=n).map(|i| 1.0 / (i as f64).powf(theta)).sum::<f64>();
        let zetan = zeta(n);
        let eta = (1.0 - (2.0 / n as f64).powf(1.0 - theta)) / (1.0 - zeta(2) / zetan);
        Zipf { n: n as f64, theta, zetan, eta, alpha: 1.0 / (1.0 - theta) }
    }
    /// A number of `0..n`: the rank scattered over the key space, so that hot rows are not neighbours.
    pub fn draw(&self, random: &mut Random) -> u64 {
        let u = (random.next_u64() >> 11) as f64 / (1u64 << 53) as f64;
        let uz = u * self.zetan;
        let rank = if uz < 1.0 {
            0
        } else if uz < 1.0 + 0.5f64.powf(self.theta) {
            1
        } else {
            (self.n * (self.eta * u - self.eta + 1.0).powf(self.alpha)) as u64
        };
        Random(rank).next_u64() % self.n as u64
    }
}

/// A workload of YCSB: how many of a hundred operations read one row; the others update, scan or read and update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ycsb {
    /// Half reads, half updates.
    A,
    /// 95 reads, 5 updates.
    B,
    /// Reads alone.
    C,
    /// 95 scans of up to 100 rows, 5 inserts.
    E,
    /// Half reads, half read-modify-write.
    F,
}

impl Bench<'_> {
    /// Runs a workload of YCSB over the keys `0..pairs`.
    ///
    /// # Errors
    /// Of the engine.
    pub fn ycsb(&self, kind: Ycsb, pairs: u64, zipf: &Zipf, threads: u64, durable: bool) -> Any<Measured> {
        self.timed(threads, &|session, random, scratch| {
            let k = key(zipf.draw(random), false);
            let dice = random.next_u64() % 100;
            let reads = match kind {
                Ycsb::A | Ycsb::F => 50,
                Ycsb::B | Ycsb::E => 95,
                Ycsb::C => 100,
            };
            match kind {
                Ycsb::E if dice < reads => {
                    let limit = 1 + (random.next_u64() % 100) as usize;
                    session.read(&mut |r| r.scan(&k, limit, &mut |_, _| ()).map(|_| ()))
                }
                _ if dice < reads => session.get(&k, &mut scratch.out).map(|_| ()),
                Ycsb::F => {
                    let v = scratch.values.fresh();
                    session.write(durable, &mut |w| {
                        w.get(&k, &mut scratch.out)?;
                        w.put(&k, v)
                    })
                }
                Ycsb::E => {
                    let new = key(pairs + random.next_u64() % (1 << 40), false);
                    let v = scratch.values.fresh();
                    session.write(durable, &mut |w| w.put(&new, v))
                }
                _ => {
                    let v = scratch.values.fresh();
                    session.write(durable, &mut |w| w.put(&k, v))
                }
            }
        })
    }

    /// Fills the tables of the mix: warehouses, their districts, customers and stock, and the items.
    ///
    /// # Errors
    /// Of the engine.
    pub fn fill_warehouses(&self, warehouses: u64) -> Any<()> {
        let mut session = self.engine.session()?;
        let mut put = |keys: &mut dyn Iterator<Item = Row>, len: usize| -> Any<()> {
            let mut keys = keys.peekable();
            while keys.peek().is_some() {
                let batch: Vec<Row> = keys.by_ref().take(1000).collect();
                session.write(false, &mut |w| batch.iter().try_for_each(|k| w.put(k, &vec![0; len])))?;
            }
            Ok(())
        };
        put(&mut (0..ITEMS).map(|i| row(b'i', 0, 0, i)), 80)?;
        for w in 0..warehouses {
            put(&mut std::iter::once(row(b'w', w, 0, 0)), 90)?;
            put(&mut (0..DISTRICTS).map(|d| row(b'd', w, d, 0)), 95)?;
            put(&mut (0..DISTRICTS).flat_map(|d| (0..CUSTOMERS).map(move |c| row(b'c', w, d, c))), 300)?;
            put(&mut (0..ITEMS).map(|i| row(b's', w, 0, i)), 300)?;
        }
        self.engine.sync()
    }

    /// Half new-order, half payment.
    ///
    /// # Errors
    /// Of the engine.
    pub fn orders(&self, warehouses: u64, threads: u64, durable: bool) -> Any<Measured> {
        self.timed(threads, &|session, random, scratch| {
            let w = random.next_u64() % warehouses;
            let d = random.next_u64() % DISTRICTS;
            let c = random.next_u64() % CUSTOMERS;
            let out = &mut scratch.out;
            if random.next_u64() % 2 == 0 {
                // Items in ascending order, as careful programs do: no deadlocks between orders.
                let mut items: Vec<u64> =
                    (0..5 + random.next_u64() % 11).map(|_| random.next_u64() % ITEMS).collect();
                items.sort_unstable();
                items.dedup();
                session.write(durable, &mut |t| {
                    let district = row(b'd', w, d, 0);
                    let order = bump(t, &district, out)?;
                    for (line, &item) in items.iter().enumerate() {
                        t.get(&row(b'i', 0, 0, item), out)?;
                        bump(t, &row(b's', w, 0, item), out)?;
                        t.put(&row(b'l', w, d, order << 8 | line as u64), &[1; 60])?;
                    }
                    t.put(&row(b'o', w, d, order), &[1; 40])
                })
            } else {
                let history = random.next_u64();
                session.write(durable, &mut |t| {
                    bump(t, &row(b'w', w, 0, 0), out)?;
                    bump(t, &row(b'd', w, d, 0), out)?;
                    bump(t, &row(b'c', w, d, c), out)?;
                    t.put(&row(b'h', w, d, history), &[1; 50])
                })
            }
        })
    }
}

const ITEMS: u64 = 10_000;
const DISTRICTS: u64 = 10;
const CUSTOMERS: u64 = 1_000;

type Row = [u8; 25];

fn row(table: u8, warehouse: u64, district: u64, n: u64) -> Row {
    let mut key = [table; 25];
    key[1..9].copy_from_slice(&warehouse.to_be_bytes());
    key[9..17].copy_from_slice(&district.to_be_bytes());
    key[17..].copy_from_slice(&n.to_be_bytes());
    key
}

/// Adds one to the number at the head of a row; returns what it was.
fn bump(t: &mut dyn super::engine::Writer, key: &Row, out: &mut Vec<u8>) -> Any<u64> {
    if !t.get(key, out)? {
        return Err("a row is missing".into());
    }
    let (head, _) = out.split_first_chunk_mut::<8>().ok_or("a row is too short")?;
    let n = u64::from_le_bytes(*head);
    *head = (n + 1).to_le_bytes();
    t.put(key, out)?;
    Ok(n)
}
