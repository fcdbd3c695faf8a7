//! The ring buffer: the newest bytes of the log, where many threads write disjoint ranges and the leader of a
//! group takes the bytes for the disk.
//!
//! The one file of this crate with `unsafe`. What makes it sound is the accounting outside (invariants LOG-4,
//! LOG-5):
//!
//! * **Writers are disjoint.** A range of LSNs is reserved by one compare-and-swap on the tail, so one thread
//!   owns it. Two live ranges map to the same bytes only if they are at least a ring length apart; admission
//!   keeps `tail + credits - durable <= ring`, and whoever still writes or reads a range holds `durable`
//!   below it.
//! * **Readers wait for writers.** The leader reads `[durable, seal)` only after every insertion slot below
//!   the seal was seen free (acquire, paired with the release that freed it), and nobody writes those LSNs
//!   again.
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Alignment of the memory: enough for direct I/O on every block size in use.
const ALIGN: usize = 4096;

/// A power of two of bytes, addressed by LSN.
#[derive(Debug)]
pub(crate) struct Ring {
    base: NonNull<u8>,
    mask: u64,
}

// SAFETY: the memory belongs to the ring alone; all access goes through the unsafe methods, whose contracts
// demand that ranges used by different threads at the same time are disjoint or only read.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

impl Ring {
    /// A ring of `bytes` zero bytes.
    ///
    /// # Panics
    /// If `bytes` is not a power of two of at least one page.
    pub(crate) fn new(bytes: usize) -> Ring {
        assert!(bytes.is_power_of_two() && bytes >= ALIGN, "ring size is checked by the options");
        let layout = Self::layout(bytes);
        // SAFETY: the layout has a size above zero.
        let raw = unsafe { alloc_zeroed(layout) };
        let Some(base) = NonNull::new(raw) else { handle_alloc_error(layout) };
        Ring { base, mask: bytes as u64 - 1 }
    }

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes, ALIGN)
            .expect("a power of two that was allocated, or fails at the start")
    }

    /// Bytes of the ring.
    pub(crate) fn len(&self) -> usize {
        self.mask as usize + 1
    }

    /// Copies `bytes` to LSN `at` on, in two pieces where the ring wraps.
    ///
    /// # Safety
    /// The caller owns the LSNs `[at, at + bytes.len())`: it reserved them, nobody else writes or reads them
    /// now, and `durable` cannot pass `at` before the call returns, and the end of the range is at most
    /// `durable + len()`.
    pub(crate) unsafe fn write(&self, at: u64, bytes: &[u8]) {
        assert!(bytes.len() <= self.len());
        let off = (at & self.mask) as usize;
        let head = bytes.len().min(self.len() - off);
        // SAFETY: both pieces lie inside the allocation (`off < len`, `head <= len - off`, the rest starts at
        // 0 and is shorter than the ring), and the caller promises that nobody else touches them.
        unsafe {
            let base = self.base.as_ptr();
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), base.add(off), head);
            std::ptr::copy_nonoverlapping(bytes.as_ptr().add(head), base, bytes.len() - head);
        }
    }

    /// Zeroes `[from, to)`.
    ///
    /// # Safety
    /// As [`Ring::write`].
    pub(crate) unsafe fn zero(&self, from: u64, to: u64) {
        const ZEROS: [u8; 512] = [0; 512];
        let mut at = from;
        while at < to {
            let n = (to - at).min(512);
            // SAFETY: a part of the range that the caller owns.
            unsafe { self.write(at, &ZEROS[..n as usize]) };
            at += n;
        }
    }

    /// The bytes `[from, to)`, as one slice, or two where the ring wraps (the second may be empty).
    ///
    /// # Safety
    /// Nobody writes these LSNs, or LSNs that share their bytes, while the slices live.
    pub(crate) unsafe fn slices(&self, from: u64, to: u64) -> (&[u8], &[u8]) {
        let n = (to - from) as usize;
        assert!(n <= self.len());
        let off = (from & self.mask) as usize;
        let head = n.min(self.len() - off);
        // SAFETY: inside the allocation as in `write`; initialised (zeroed when allocated); not written while
        // borrowed by the caller's promise.
        unsafe {
            let base = self.base.as_ptr();
            (std::slice::from_raw_parts(base.add(off), head), std::slice::from_raw_parts(base, n - head))
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout; no slice outlives the borrow of `self`.
        unsafe { dealloc(self.base.as_ptr(), Self::layout(self.len())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wraps() {
        let r = Ring::new(4096);
        let data: Vec<u8> = (0..100u8).collect();
        // SAFETY: one thread.
        unsafe {
            r.write(4096 * 7 - 30, &data);
            let (a, b) = r.slices(4096 * 7 - 30, 4096 * 7 + 70);
            assert_eq!((a.len(), b.len()), (30, 70));
            assert_eq!([a, b].concat(), data);
            r.zero(4096 * 7 - 10, 4096 * 7 + 10);
            let (a, b) = r.slices(4096 * 7 - 11, 4096 * 7 + 11);
            assert_eq!(a[0], 19);
            assert!(a[1..].iter().all(|x| *x == 0) && b[..10].iter().all(|x| *x == 0));
            assert_eq!(b[10], 40);
        }
    }
}
