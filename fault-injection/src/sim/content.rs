//! The bytes of one file, and their hashes.
//!
//! A file is an array of 4 KiB pages behind `Arc`s, sixteen to a chunk; a missing page is all zeros. A clone costs one
//! counter, and a write after it copies the chunk's list of pages and the page that it changes, nothing else.
//!
//! The hash of a file's bytes is the sum of the hashes of its sectors, and a sector of zeros counts nothing. So it can be
//! kept up to date sector by sector, and growing a file by zeros costs nothing.
use std::ops::Range;
use std::sync::Arc;

pub(super) const SECTOR: u64 = 512;
pub(super) const PAGE: u64 = 4096;
/// Sectors of a page.
pub(super) const SECTORS: u64 = PAGE / SECTOR;
const CHUNK: usize = 16;

pub(super) type Page = [u8; PAGE as usize];
pub(super) type Sector = [u8; SECTOR as usize];
type Chunk = [Option<Arc<Page>>; CHUNK];

pub(super) static ZEROS: Sector = [0; SECTOR as usize];

#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    chunks: Arc<Vec<Option<Arc<Chunk>>>>,
}

/// Splits a byte range into its parts in each page: page, range therein.
fn by_page(mut from: u64, to: u64) -> impl Iterator<Item = (u64, Range<usize>)> {
    std::iter::from_fn(move || {
        (from < to).then(|| {
            let page = from / PAGE;
            let end = ((page + 1) * PAGE).min(to);
            let range = (from % PAGE) as usize..(end - page * PAGE) as usize;
            from = end;
            (page, range)
        })
    })
}

impl Content {
    pub(super) fn page(&self, page: u64) -> Option<&Arc<Page>> {
        let chunk = self.chunks.get(usize::try_from(page).ok()? / CHUNK)?.as_ref()?;
        chunk[page as usize % CHUNK].as_ref()
    }

    pub(super) fn sector(&self, sector: u64) -> &Sector {
        let at = (sector % SECTORS * SECTOR) as usize;
        let page = self.page(sector / SECTORS);
        page.and_then(|p| p[at..].first_chunk()).unwrap_or(&ZEROS)
    }

    pub(super) fn read(&self, offset: u64, out: &mut [u8]) {
        let mut out = out;
        for (page, range) in by_page(offset, offset + out.len() as u64) {
            let (here, rest) = out.split_at_mut(range.len());
            match self.page(page) {
                Some(p) => here.copy_from_slice(&p[range]),
                None => here.fill(0),
            }
            out = rest;
        }
    }

    fn slot(&mut self, page: u64) -> &mut Option<Arc<Page>> {
        let (chunk, slot) = (page as usize / CHUNK, page as usize % CHUNK);
        let chunks = Arc::make_mut(&mut self.chunks);
        if chunks.len() <= chunk {
            chunks.resize(chunk + 1, None);
        }
        &mut Arc::make_mut(chunks[chunk].get_or_insert_with(Arc::default))[slot]
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        let mut rest = bytes;
        for (page, range) in by_page(offset, offset + bytes.len() as u64) {
            let (here, later) = rest.split_at(range.len());
            rest = later;
            let slot = self.slot(page);
            match (<&Page>::try_from(here), slot.as_mut().and_then(Arc::get_mut)) {
                (_, Some(page)) => page[range].copy_from_slice(here),
                // A whole page need not be copied before it is overwritten.
                (Ok(whole), None) => *slot = Some(Arc::new(*whole)),
                (Err(_), None) => {
                    let page = slot.get_or_insert_with(|| Arc::new([0; PAGE as usize]));
                    Arc::make_mut(page)[range].copy_from_slice(here);
                }
            }
        }
    }

    /// Makes everything from `from` on zeros.
    pub(super) fn cut(&mut self, from: u64) {
        let (page, within) = (from / PAGE, (from % PAGE) as usize);
        if within > 0
            && self.page(page).is_some_and(|p| p[within..].iter().any(|b| *b != 0))
            && let Some(p) = self.slot(page)
        {
            Arc::make_mut(p)[within..].fill(0);
        }
        let first = page as usize + usize::from(within > 0);
        if first.div_ceil(CHUNK) < self.chunks.len() {
            Arc::make_mut(&mut self.chunks).truncate(first.div_ceil(CHUNK));
        }
        if !first.is_multiple_of(CHUNK)
            && let Some(Some(chunk)) = self.chunks.get(first / CHUNK)
            && chunk[first % CHUNK..].iter().any(Option::is_some)
        {
            let chunk = &mut Arc::make_mut(&mut self.chunks)[first / CHUNK];
            if let Some(chunk) = chunk {
                Arc::make_mut(chunk)[first % CHUNK..].fill(None);
            }
        }
    }

    /// The pages that exist, from page `from` on.
    pub(super) fn pages(&self, from: u64) -> impl Iterator<Item = (u64, &Arc<Page>)> {
        let chunks = self.chunks.iter().enumerate().skip(from as usize / CHUNK);
        chunks
            .flat_map(|(n, chunk)| {
                let pages = chunk.iter().flat_map(|c| c.iter().enumerate());
                pages.filter_map(move |(i, p)| Some(((n * CHUNK + i) as u64, p.as_ref()?)))
            })
            .filter(move |(page, _)| *page >= from)
    }

    /// The hash of all sectors that have a byte at or after `from`.
    pub(super) fn hash(&self, from: u64) -> u64 {
        let first = from / SECTOR;
        let mut sum = 0u64;
        for (page, bytes) in self.pages(from / PAGE) {
            for (i, s) in bytes.chunks_exact(SECTOR as usize).enumerate() {
                let sector = page * SECTORS + i as u64;
                if sector >= first {
                    sum = sum.wrapping_add(sector_hash(sector, hash(s)));
                }
            }
        }
        sum
    }
}

/// What a sector holds whose write went wrong: always the same for the same sector.
pub(super) fn garbage(file: u32, sector: u64) -> Sector {
    let mut out = [0; SECTOR as usize];
    let mut at = mix(u64::from(file), sector);
    for word in out.chunks_exact_mut(8) {
        at = mix(at, 0x6A09_E667_F3BC_C909);
        word.copy_from_slice(&at.to_le_bytes());
    }
    out
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// Two numbers in one hash.
pub(super) fn mix(a: u64, b: u64) -> u64 {
    let h = fold(a ^ 0x9E37_79B9_7F4A_7C15, b ^ 0xD1B5_4A32_D192_ED03);
    fold(h ^ 0xBF58_476D_1CE4_E5B9, 0x94D0_49BB_1331_11EB ^ a.rotate_left(32))
}

/// A hash of bytes; 0 if, and only if, all of them are zero. (Multiply and fold: fast, not cryptographic.)
pub(super) fn hash(bytes: &[u8]) -> u64 {
    let word = |c: &[u8]| c.first_chunk().map_or(0, |w| u64::from_le_bytes(*w));
    let (mut a, mut b, mut any) = (0x2D35_8DCC_AA6C_78A5, 0x8BB8_4B93_962E_ACC9, 0);
    let mut parts = bytes.chunks_exact(32);
    for c in &mut parts {
        let (p, q, r, s) = (word(c), word(&c[8..]), word(&c[16..]), word(&c[24..]));
        any |= p | q | r | s;
        a = fold(a ^ p, 0x9E37_79B9_7F4A_7C15 ^ q);
        b = fold(b ^ r, 0xD1B5_4A32_D192_ED03 ^ s);
    }
    for (i, x) in parts.remainder().iter().enumerate() {
        any |= u64::from(*x);
        a = fold(a ^ u64::from(*x), 0x9E37_79B9_7F4A_7C15 ^ i as u64);
    }
    if any == 0 { 0 } else { mix(a, b ^ bytes.len() as u64) | 1 }
}

/// What a sector of this content hash adds to the hash of its file.
pub(super) fn sector_hash(sector: u64, content: u64) -> u64 {
    if content == 0 { 0 } else { mix(content, sector) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_was_written_and_cut() {
        let mut c = Content::default();
        let mut plain = vec![0u8; 400_000];
        let mut at = 1u64;
        for i in 0..300u32 {
            at = mix(at, u64::from(i));
            let (from, len) = ((at % 300_000) as usize, (at >> 32) as usize % 9000);
            if i % 17 == 0 {
                c.cut(from as u64);
                plain[from..].fill(0);
            } else {
                c.write(from as u64, &vec![i as u8; len]);
                plain[from..from + len].fill(i as u8);
            }
            if i % 5 == 0 {
                let copy = c.clone();
                c.write(0, &[i as u8]);
                plain[0] = i as u8;
                drop(copy);
            }
        }
        let mut back = vec![9; plain.len()];
        c.read(0, &mut back);
        assert!(back == plain);
        let sum = |from: usize| {
            (from / 512..plain.len() / 512).fold(0u64, |h, s| {
                h.wrapping_add(sector_hash(s as u64, hash(&plain[s * 512..(s + 1) * 512])))
            })
        };
        assert_eq!(c.hash(0), sum(0));
        assert_eq!(c.hash(100_000), sum(100_000));
        assert_eq!(c.sector(3)[..], plain[1536..2048]);
    }

    #[test]
    fn only_zeros_hash_to_zero() {
        assert_eq!(hash(&[0; 512]), 0);
        for bit in 0..4096 {
            let mut s = [0; 512];
            s[bit / 8] = 1 << (bit % 8);
            assert_ne!(hash(&s), 0);
        }
        assert_ne!(hash(&garbage(1, 2)), hash(&garbage(1, 3)));
        assert_ne!(sector_hash(1, 5), sector_hash(2, 5));
    }
}
