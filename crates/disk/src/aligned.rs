//! Memory that the operating system may write into directly: a buffer aligned to a page of 4096 bytes. A large one is a mapping of
//! its own, aligned to huge pages and advised to use them: reads that jump about in hundreds of such buffers would else miss the
//! translation cache each time, and the kernel's zeroes are not written a second time.
//!
//! A small one that is dropped waits on a list of its thread for the next of its size, up to [`KEPT`] bytes: a general allocator finds
//! aligned memory by splitting larger pieces and joining them again, which was a tenth of what opening a small database costs.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// The size of a huge page on the common machines; buffers of a multiple of it are mappings.
const HUGE: usize = 2 << 20;

/// Bytes that a thread keeps of buffers that were dropped.
const KEPT: usize = 256 << 10;

/// Memory of small buffers that were dropped, allocated with [`AlignedBuf::layout`] of its length. Nobody else knows it.
struct Spare {
    /// Address and length.
    pieces: Vec<(NonNull<u8>, usize)>,
    bytes: usize,
}

impl Drop for Spare {
    fn drop(&mut self) {
        for (at, len) in self.pieces.drain(..) {
            // SAFETY: allocated in `AlignedBuf::new` with this layout, taken over in `AlignedBuf::drop`, and freed only here.
            unsafe { dealloc(at.as_ptr(), AlignedBuf::layout(len)) }
        }
    }
}

thread_local! {
    static SPARE: RefCell<Spare> = const { RefCell::new(Spare { pieces: Vec::new(), bytes: 0 }) };
}

/// A spare piece for a buffer of `len` bytes, with whatever is in it.
fn take_spare(len: usize) -> Option<NonNull<u8>> {
    if len > KEPT {
        return None;
    }
    // A thread that is ending has no list any more.
    let taken = SPARE.try_with(|spare| {
        let mut spare = spare.try_borrow_mut().ok()?;
        let i = spare.pieces.iter().rposition(|p| p.1 == len)?;
        spare.bytes -= len;
        Some(spare.pieces.swap_remove(i).0)
    });
    taken.ok().flatten()
}

/// Keeps the memory of a buffer of `len` bytes; whether it did.
fn keep_spare(at: NonNull<u8>, len: usize) -> bool {
    let kept = SPARE.try_with(|spare| {
        let Ok(mut spare) = spare.try_borrow_mut() else { return false };
        let fits = len <= KEPT - spare.bytes;
        if fits {
            spare.bytes += len;
            spare.pieces.push((at, len));
        }
        fits
    });
    kept.unwrap_or(false)
}

/// A buffer of fixed length, aligned to [`AlignedBuf::ALIGN`] bytes and zeroed when made.
pub struct AlignedBuf {
    at: NonNull<u8>,
    len: usize,
}

impl AlignedBuf {
    /// The alignment in bytes.
    pub const ALIGN: usize = 4096;

    /// A buffer of `len` zero bytes.
    ///
    /// # Panics
    /// If `len`, rounded up to the alignment, exceeds `isize::MAX`. Out of memory ends the process, as with
    /// `Vec`.
    pub fn new(len: usize) -> Self {
        if len == 0 {
            // A dangling pointer must still be aligned, so that callers may check alignment without a special
            // case.
            return AlignedBuf { at: NonNull::<Page>::dangling().cast(), len };
        }
        if Self::is_map(len) {
            let Some(at) = map(len) else { handle_alloc_error(Self::layout(len)) };
            return AlignedBuf { at, len };
        }
        if let Some(at) = take_spare(len) {
            // SAFETY: `len` bytes that were allocated for a buffer of this length, and that nobody else has.
            unsafe { at.as_ptr().write_bytes(0, len) };
            return AlignedBuf { at, len };
        }
        let layout = Self::layout(len);
        // SAFETY: the layout's size is not zero.
        let raw = unsafe { alloc_zeroed(layout) };
        let Some(at) = NonNull::new(raw) else { handle_alloc_error(layout) };
        AlignedBuf { at, len }
    }

    fn is_map(len: usize) -> bool {
        cfg!(target_os = "linux") && len != 0 && len.is_multiple_of(HUGE)
    }

    fn layout(len: usize) -> Layout {
        match Layout::from_size_align(len, Self::ALIGN) {
            Ok(layout) => layout,
            Err(_) => panic!("an aligned buffer of {len} bytes is beyond the address space"),
        }
    }
}

/// Maps `len` zero bytes, aligned to [`HUGE`].
fn map(len: usize) -> Option<NonNull<u8>> {
    let most = len.checked_add(HUGE).filter(|n| *n <= isize::MAX as usize)?;
    let (read_write, private) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: an anonymous private mapping at an address of the system's choice touches no existing memory.
    let raw = unsafe { libc::mmap(std::ptr::null_mut(), most, read_write, private, -1, 0) };
    if raw == libc::MAP_FAILED {
        return None;
    }
    let raw = raw.cast::<u8>();
    // A page's alignment is the least: the rest before the first multiple of HUGE, and after the buffer, goes back.
    let skip = raw.align_offset(HUGE).min(HUGE);
    // SAFETY: `skip <= HUGE`, so `skip + len <= most`: all three parts lie in the mapping made above, which nobody else knows.
    let at = unsafe {
        let at = raw.add(skip);
        if skip != 0 {
            libc::munmap(raw.cast(), skip);
        }
        if skip != HUGE {
            libc::munmap(at.add(len).cast(), HUGE - skip);
        }
        // Advice: a kernel without huge pages says no, and nothing depends on it.
        #[cfg(target_os = "linux")]
        let _ = libc::madvise(at.cast(), len, libc::MADV_HUGEPAGE);
        at
    };
    NonNull::new(at)
}

#[repr(align(4096))]
struct Page;

// SAFETY: the buffer owns its memory alone; access goes through `&self` and `&mut self` like that of a
// `Vec<u8>`.
unsafe impl Send for AlignedBuf {}
// SAFETY: as above; `&AlignedBuf` only reads.
unsafe impl Sync for AlignedBuf {}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        if Self::is_map(self.len) {
            // SAFETY: mapped in `new` with this very length, and unmapped only here; a part of a larger mapping may be
            // unmapped by itself.
            unsafe { libc::munmap(self.at.as_ptr().cast(), self.len) };
        } else if self.len != 0 && !keep_spare(self.at, self.len) {
            // SAFETY: allocated in `new` with this very layout, and freed only here.
            unsafe { dealloc(self.at.as_ptr(), Self::layout(self.len)) }
        }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `at` is valid for `len` initialised bytes (zeroed by `new`), or dangling and aligned with
        // `len == 0`.
        unsafe { std::slice::from_raw_parts(self.at.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.at.as_ptr(), self.len) }
    }
}

impl Clone for AlignedBuf {
    fn clone(&self) -> Self {
        let mut copy = AlignedBuf::new(self.len);
        copy.copy_from_slice(self);
        copy
    }
}

impl fmt::Debug for AlignedBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf({} bytes)", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_dropped_comes_back_zeroed_and_bounded() {
        let len = 3 * 4096 + 7;
        let mut b = AlignedBuf::new(len);
        b.fill(9);
        let at = b.as_ptr();
        drop(b);
        let again = AlignedBuf::new(len);
        assert_eq!(again.as_ptr(), at);
        assert!(again.iter().all(|x| *x == 0));
        assert_ne!(AlignedBuf::new(len).as_ptr(), at, "it is in use");
        drop((0..200).map(|_| AlignedBuf::new(8192)).collect::<Vec<_>>());
        SPARE.with_borrow(|s| {
            assert!(s.bytes <= KEPT && s.bytes == s.pieces.iter().map(|p| p.1).sum::<usize>());
            assert!(s.bytes > KEPT - 2 * 8192 - len);
        });
        // What one thread made another may drop, and after a thread's end its list is gone.
        std::thread::spawn(move || drop(again)).join().unwrap();
    }

    #[test]
    fn aligned_zeroed_writable() {
        for len in [0, 1, 511, 4096, 100_000, HUGE - 4096, HUGE, HUGE + 1, 3 * HUGE] {
            let mut b = AlignedBuf::new(len);
            assert_eq!(b.as_ptr() as usize % AlignedBuf::ALIGN, 0);
            assert_eq!(b.len(), len);
            assert!(b.iter().all(|&x| x == 0));
            b.fill(7);
            assert!(b.clone().iter().all(|&x| x == 7));
        }
    }
}
