//! The bitmap of a map page: every function takes the whole page and is total.

/// First byte of the bitmap.
pub(crate) const FIRST: usize = 64;
/// Where map page 0 keeps the number of map pages.
pub(crate) const COUNT_AT: usize = 40;

/// Number of bits of a page.
pub(crate) fn len(page: &[u8]) -> u32 {
    (page.len().saturating_sub(FIRST) * 8) as u32
}

/// Whether a bit is set; bits that the page does not have count as set, so that nobody takes them.
pub(crate) fn get(page: &[u8], bit: u32) -> bool {
    match page.get(FIRST + bit as usize / 8) {
        Some(b) => b & (1 << (bit % 8)) != 0,
        None => true,
    }
}

/// Sets or clears a bit. `false` if the page has no such bit or it has that value already.
pub(crate) fn flip(page: &mut [u8], bit: u32, to: bool) -> bool {
    let Some(b) = page.get_mut(FIRST + bit as usize / 8) else { return false };
    let mask = 1 << (bit % 8);
    if (*b & mask != 0) == to {
        return false;
    }
    *b ^= mask;
    true
}

/// The first clear bit at or after `from`.
pub(crate) fn next_clear(page: &[u8], from: u32) -> Option<u32> {
    next(page, from, 0xff)
}

/// The first set bit at or after `from`.
pub(crate) fn next_set(page: &[u8], from: u32) -> Option<u32> {
    next(page, from, 0)
}

/// The first bit at or after `from` that differs from those of `skip` (0 or 0xff).
fn next(page: &[u8], from: u32, skip: u8) -> Option<u32> {
    let bits = page.get(FIRST..)?;
    let mut i = from as usize / 8;
    let mut diff = (bits.get(i)? ^ skip) & (0xffu8 << (from % 8));
    while diff == 0 {
        i += 1;
        diff = bits.get(i)? ^ skip;
    }
    Some((i * 8) as u32 + diff.trailing_zeros())
}

/// The last set bit.
pub(crate) fn last_set(page: &[u8]) -> Option<u32> {
    let bits = page.get(FIRST..)?;
    let i = bits.iter().rposition(|b| *b != 0)?;
    Some((i * 8) as u32 + 7 - bits[i].leading_zeros())
}

/// Number of set bits.
pub(crate) fn count(page: &[u8]) -> u64 {
    page.get(FIRST..).unwrap_or_default().iter().map(|b| u64::from(b.count_ones())).sum()
}

/// The number of map pages that map page 0 states.
pub(crate) fn map_pages(page: &[u8]) -> u64 {
    page.get(COUNT_AT..COUNT_AT + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn searching_agrees_with_a_naive_scan() {
        let mut page = vec![0u8; 256];
        let mut x = 1u32;
        for bit in 0..len(&page) {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if x >> 30 != 0 {
                assert!(flip(&mut page, bit, true));
                assert!(!flip(&mut page, bit, true));
            }
        }
        let n = len(&page);
        for from in 0..=n + 9 {
            assert_eq!(next_clear(&page, from), (from..n).find(|b| !get(&page, *b)), "{from}");
            assert_eq!(next_set(&page, from), (from..n).find(|b| get(&page, *b)), "{from}");
        }
        assert_eq!(last_set(&page), (0..n).rev().find(|b| get(&page, *b)));
        assert_eq!(count(&page), (0..n).filter(|b| get(&page, *b)).count() as u64);
        assert!(get(&page, n) && !flip(&mut page, n, true) && !flip(&mut page, u32::MAX, false));
    }
}
