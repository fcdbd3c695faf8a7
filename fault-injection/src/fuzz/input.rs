//! Fields out of arbitrary bytes.

/// Reads fields from the front of arbitrary bytes. What lies behind their end is zero: every input is a whole one, and
/// cutting an input short makes it simpler.
#[derive(Clone, Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// From these bytes.
    pub fn new(bytes: &'a [u8]) -> Input<'a> {
        Input(bytes)
    }
    /// Whether all bytes were read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// What was not read yet.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }
    /// Up to `n` bytes: fewer at the end.
    pub fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        front
    }
    fn word<const N: usize>(&mut self) -> [u8; N] {
        let mut word = [0; N];
        let found = self.bytes(N);
        word[..found.len()].copy_from_slice(found);
        word
    }
    /// A byte.
    pub fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.word())
    }
    /// Two bytes, little-endian; so are the others.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.word())
    }
    /// Four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.word())
    }
    /// Eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.word())
    }
    /// A number below `n` (0 if `n` is 0), from one byte if it is small.
    pub fn below(&mut self, n: usize) -> usize {
        match n {
            0 => 0,
            1..=256 => usize::from(self.u8()) % n,
            _ => self.u32() as usize % n,
        }
    }
    /// True if the next byte is odd.
    pub fn flag(&mut self) -> bool {
        self.u8() & 1 == 1
    }
    /// A number that breaks things: small, near a power of two, near `near`, or any.
    pub fn number(&mut self, near: u64) -> u64 {
        match self.u8() % 8 {
            0 => u64::from(self.u8()),
            1 => u64::MAX - u64::from(self.u8()),
            2 => (1u64 << (self.u8() % 64)).wrapping_add(u64::from(self.u8())).wrapping_sub(128),
            3 => self.u64(),
            4 => u64::from(self.u32()),
            _ => near.wrapping_add(u64::from(self.u8())).wrapping_sub(128),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_zero() {
        let mut i = Input::new(&[1, 2, 3]);
        assert_eq!((i.u16(), i.u32(), i.u64(), i.u8()), (0x201, 3, 0, 0));
        assert!(i.is_empty() && i.bytes(4).is_empty() && i.below(0) == 0);
    }
}
