//! A hash table by id, for tables that every record of the log looks into.
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by an id or an LSN.
pub(crate) type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// Multiplication by an odd constant with the high half folded in (Fibonacci hashing; Knuth, TAOCP 3, 6.4). The keys come out of a log
/// whose checksums hold: nobody chooses them to collide.
#[derive(Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u64(u64::from(*b));
        }
    }
    fn write_u64(&mut self, v: u64) {
        let wide = u128::from(self.0 ^ v) * 0x9E37_79B9_7F4A_7C15;
        self.0 = wide as u64 ^ (wide >> 64) as u64;
    }
}
