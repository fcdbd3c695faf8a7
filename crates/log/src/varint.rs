//! Variable-length integers (LEB128): seven bits a byte, low bits first, top bit set on all but the last
//! byte.

/// Bytes of the longest encoding of a `u64`.
pub(crate) const MAX_LEN: usize = 10;

/// Bytes that `v` takes.
#[inline]
pub(crate) fn len(v: u64) -> usize {
    (70 - (v | 1).leading_zeros() as usize) / 7
}

/// Appends `v`.
#[cfg(test)]
pub(crate) fn put(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// Takes a value off the front of `bytes` and moves `at` past it; `None` if it does not end, or is above
/// `u64::MAX`.
#[inline]
pub(crate) fn get(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut v = 0u64;
    for i in 0..MAX_LEN {
        let b = *bytes.get(*at)?;
        *at += 1;
        if i == MAX_LEN - 1 && b > 1 {
            return None;
        }
        v |= u64::from(b & 0x7f) << (7 * i);
        if b < 0x80 {
            return Some(v);
        }
    }
    None
}

/// Maps signed to unsigned so that small magnitudes are small.
#[inline]
pub(crate) fn zigzag(v: i64) -> u64 {
    ((v << 1) ^ (v >> 63)) as u64
}

/// The inverse of [`zigzag`].
#[inline]
pub(crate) fn unzigzag(v: u64) -> i64 {
    (v >> 1) as i64 ^ -((v & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_at_every_width() {
        for bit in 0..64 {
            for v in [1u64 << bit, (1u64 << bit) - 1, (1u64 << bit) | 1, u64::MAX >> bit] {
                let mut out = Vec::new();
                put(&mut out, v);
                assert_eq!(out.len(), len(v), "{v}");
                let mut at = 0;
                assert_eq!(get(&out, &mut at), Some(v));
                assert_eq!(at, out.len());
                assert_eq!(unzigzag(zigzag(v as i64)), v as i64);
            }
        }
    }

    #[test]
    fn endless_and_too_large_are_refused() {
        assert_eq!(get(&[0x80; 20], &mut 0), None);
        assert_eq!(get(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2], &mut 0), None);
        assert_eq!(get(&[], &mut 0), None);
        assert_eq!(get(&[0x80], &mut 0), None);
    }
}
