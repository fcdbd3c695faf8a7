//! Small encodings of payloads: variable-length integers and length-prefixed bytes. The reader is total.

/// Why a payload or a page cannot be read; also why an operation does not fit its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken(pub(crate) &'static str);

impl From<Broken> for hamal_buffer::ApplyError {
    fn from(b: Broken) -> Self {
        hamal_buffer::ApplyError(b.0.to_owned())
    }
}

/// A result of reading bytes that may be damaged.
pub(crate) type Sound<T> = Result<T, Broken>;

/// Appends `v` in seven-bit groups, low ones first.
pub(crate) fn put_varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

/// Appends the length of `bytes` and `bytes`.
pub(crate) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes fields off the front of a payload.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

const SHORT: Broken = Broken("the payload ends too early");

impl<'a> Reader<'a> {
    #[inline]
    pub(crate) fn take(&mut self, n: usize) -> Sound<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(SHORT)?;
        self.0 = rest;
        Ok(head)
    }
    pub(crate) fn u8(&mut self) -> Sound<u8> {
        Ok(self.take(1)?[0])
    }
    pub(crate) fn u64(&mut self) -> Sound<u64> {
        let mut b = [0; 8];
        b.copy_from_slice(self.take(8)?);
        Ok(u64::from_le_bytes(b))
    }
    #[inline]
    pub(crate) fn varint(&mut self) -> Sound<u64> {
        // Most take one byte or two.
        match self.0 {
            [b, rest @ ..] if *b < 0x80 => {
                self.0 = rest;
                Ok(u64::from(*b))
            }
            [a, b, rest @ ..] if *b < 0x80 => {
                self.0 = rest;
                Ok(u64::from(*a & 0x7f) | u64::from(*b) << 7)
            }
            _ => self.long_varint(),
        }
    }
    fn long_varint(&mut self) -> Sound<u64> {
        let mut v = 0u64;
        for shift in (0..64).step_by(7) {
            let b = self.u8()?;
            if shift == 63 && b > 1 {
                break;
            }
            v |= u64::from(b & 0x7f) << shift;
            if b < 0x80 {
                return Ok(v);
            }
        }
        Err(Broken("an integer of the payload is too long"))
    }
    /// A number that has to index or measure something in a page.
    #[inline]
    pub(crate) fn small(&mut self) -> Sound<usize> {
        match self.varint()? {
            v if v <= hamal_page::MAX_PAGE_SIZE as u64 => Ok(v as usize),
            _ => Err(Broken("a number of the payload exceeds any page")),
        }
    }
    pub(crate) fn bytes(&mut self) -> Sound<&'a [u8]> {
        let n = self.small()?;
        self.take(n)
    }
    pub(crate) fn rest(self) -> &'a [u8] {
        self.0
    }
    pub(crate) fn end(self) -> Sound<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Broken("the payload goes on behind its end")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_come_back_and_endless_ones_are_refused() {
        for bit in 0..64 {
            for v in [1u64 << bit, (1u64 << bit) - 1, u64::MAX >> bit] {
                let mut out = Vec::new();
                put_varint(&mut out, v);
                let mut r = Reader(&out);
                assert_eq!(r.varint(), Ok(v));
                r.end().unwrap();
            }
        }
        assert!(Reader(&[0x80; 20]).varint().is_err());
        assert!(Reader(&[0xff; 9]).varint().is_err());
        assert!(Reader(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]).varint().is_err());
    }
}
