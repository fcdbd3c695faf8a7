//! Tables that every record of the log looks into: a hash table by id, and numbers of pages.
use hamal_page::PageId;
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

/// A number for each page of some: pages of a data file lie close together, so this is an array in pieces, which stays in the
/// processor's cache where a hash table does not.
#[derive(Default)]
pub(crate) struct Numbers {
    near: Vec<Option<Box<[u32; PIECE]>>>,
    /// For ids that no data file of today has.
    far: IdMap<PageId, u32>,
}

const PIECE: usize = 1024;
const NEAR: u64 = 1 << 30;

impl Numbers {
    /// The page's number; 0 before it was given one.
    pub(crate) fn slot(&mut self, page: PageId) -> &mut u32 {
        if page.0 >= NEAR {
            return self.far.entry(page).or_default();
        }
        let (piece, at) = (page.0 as usize / PIECE, page.0 as usize % PIECE);
        if piece >= self.near.len() {
            self.near.resize_with(piece + 1, || None);
        }
        &mut self.near[piece].get_or_insert_with(|| Box::new([0; PIECE]))[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_page_has_a_slot_of_its_own() {
        let mut n = Numbers::default();
        let ids = [0, 1, 1023, 1024, 5_000_000, NEAR - 1, NEAR, u64::MAX].map(PageId);
        for (i, id) in ids.into_iter().enumerate() {
            assert_eq!(std::mem::replace(n.slot(id), i as u32 + 1), 0);
        }
        for (i, id) in ids.into_iter().enumerate() {
            assert_eq!(*n.slot(id), i as u32 + 1);
        }
    }
}
