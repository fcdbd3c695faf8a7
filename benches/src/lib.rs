//! What the benches share: a small generator and a database in a fresh directory.
#![deny(missing_docs)]

pub mod compare;

use hamal::{Database, Result};

/// A small, fast, seeded generator (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    /// A random 24-byte key.
    pub fn key(&mut self) -> [u8; 24] {
        let mut k = [0; 24];
        for part in k.chunks_mut(8) {
            part.copy_from_slice(&self.next_u64().to_le_bytes());
        }
        k
    }
    /// Random bytes.
    pub fn value(&mut self, len: usize) -> Vec<u8> {
        let mut v = vec![0; len];
        for part in v.chunks_mut(8) {
            let n = self.next_u64().to_le_bytes();
            part.copy_from_slice(&n[..part.len()]);
        }
        v
    }
}

/// Fills the tree `t` with `n` random pairs, 1000 to a transaction; returns the keys.
///
/// # Errors
/// Of the engine.
pub fn fill(db: &Database, n: usize, value_len: usize, seed: u64) -> Result<Vec<[u8; 24]>> {
    let mut random = Random(seed);
    let mut keys = Vec::with_capacity(n);
    while keys.len() < n {
        let tx = db.begin_write()?;
        let t = tx.open_or_create_tree("t")?;
        for _ in 0..1000.min(n - keys.len()) {
            let k = random.key();
            t.put(k, random.value(value_len))?;
            keys.push(k);
        }
        tx.commit_with(hamal::Durability::Async)?;
    }
    Ok(keys)
}
