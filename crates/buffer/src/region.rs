//! The memory of the frames, and the only way to its bytes.
//!
//! All frames lie in one anonymous mapping (a few frames: in one buffer of the heap, which costs no system call): made once,
//! advised to use huge pages, never moved and never unmapped while the pool lives, so that a pointer to a frame stays a
//! pointer to memory whatever the frame holds. Beside each frame
//! stand its latch and a descriptor `D`. The bytes of a frame are reached through a guard that holds the latch: a
//! [`ReadGuard`] gives `&[u8]`, a [`WriteGuard`] gives `&mut [u8]` as well. This file is the only one of the crate with
//! `unsafe` code, and what it exports is safe to use in any way.
//!
//! Invariants:
//! * `BUF-MEM-1`: `base .. base + frames * page_size` is one live, readable and writable mapping or allocation from the construction
//!   of the region to its drop, initialised (zeroes) from the start, and no two frames overlap.
//! * `BUF-MEM-2`: a shared reference to a frame's bytes exists only while its latch is held shared or exclusively by
//!   the guard it is borrowed from, a mutable one only while the latch is held exclusively by that guard.
#![allow(unsafe_code)]

use hamal_disk::AlignedBuf;
use hamal_latch::Latch;
use std::io;
use std::ops::Deref;
use std::ptr::NonNull;

/// Regions at least this large are aligned to it, the size of a huge page on the common machines.
const HUGE: usize = 2 << 20;

/// Cache lines at the start of a page that a look into it needs: header, node header, first slots.
#[cfg(target_arch = "x86_64")]
const EARLY_LINES: usize = 7;

/// Regions up to this size come from the heap.
const SMALL: usize = 128 << 10;

/// A latch and a descriptor, on cache lines of their own; the latch and the descriptor's first fields share the first.
#[repr(C, align(64))]
struct Slot<D> {
    latch: Latch,
    desc: D,
}

/// Where the memory is from, for giving it back.
enum Memory {
    Map(NonNull<libc::c_void>, usize),
    /// Kept for its memory alone: it is reached through `Region::base`.
    Heap(#[allow(dead_code)] AlignedBuf),
}

impl Drop for Memory {
    fn drop(&mut self) {
        match *self {
            // SAFETY: mapped in `Region::new` with this address and length; every guard borrows the region, so none is
            // left.
            Memory::Map(at, len) => unsafe {
                libc::munmap(at.as_ptr(), len);
            },
            // It frees itself; no guard is left, as above.
            Memory::Heap(_) => {}
        }
    }
}

/// The frames of a pool: memory, latches, descriptors.
pub(crate) struct Region<D> {
    _memory: Memory,
    base: NonNull<u8>,
    page_size: usize,
    slots: Box<[Slot<D>]>,
}

// SAFETY: the mapping is owned by the region alone and reached only under the latches (BUF-MEM-2), which order all
// accesses between threads; the rest is `Send` if `D` is.
unsafe impl<D: Send> Send for Region<D> {}
// SAFETY: as above; `&Region` gives `&D` to every thread and the bytes only through guards.
unsafe impl<D: Send + Sync> Sync for Region<D> {}

impl<D> Region<D> {
    /// Maps `frames` frames of `page_size` bytes.
    pub(crate) fn new(frames: usize, page_size: usize, make: impl Fn() -> D) -> io::Result<Region<D>> {
        let too_large = || io::Error::new(io::ErrorKind::OutOfMemory, "the frames exceed the address space");
        if frames == 0 || page_size == 0 || frames >= u32::MAX as usize {
            return Err(too_large());
        }
        let len = frames
            .checked_mul(page_size)
            .filter(|l| *l < isize::MAX as usize - HUGE)
            .ok_or_else(too_large)?;
        let (memory, base) = if len <= SMALL { Self::allocate(len) } else { Self::map(len)? };
        let slots = (0..frames).map(|_| Slot { latch: Latch::new(), desc: make() }).collect();
        Ok(Region { _memory: memory, base, page_size, slots })
    }

    fn allocate(len: usize) -> (Memory, NonNull<u8>) {
        let mut buf = AlignedBuf::new(len);
        let base = NonNull::from(&mut buf[..]).cast();
        (Memory::Heap(buf), base)
    }

    fn map(len: usize) -> io::Result<(Memory, NonNull<u8>)> {
        let slack = if len >= HUGE { HUGE } else { 0 };
        let map_len = len + slack;
        // SAFETY: an anonymous private mapping at an address of the system's choice touches no existing memory.
        let raw = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                map_len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if raw == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let map = NonNull::new(raw).ok_or(io::ErrorKind::OutOfMemory)?;
        let skip = if slack == 0 { 0 } else { raw.cast::<u8>().align_offset(HUGE).min(slack) };
        // SAFETY: `skip <= slack`, so `skip + len <= map_len`: the result lies in the mapping with `len` bytes after it.
        let base = unsafe { map.cast::<u8>().add(skip) };
        #[cfg(target_os = "linux")]
        if slack != 0 {
            // Advice: a kernel without huge pages says no, and nothing depends on it.
            // SAFETY: the range lies in the mapping made above.
            let _ = unsafe { libc::madvise(base.as_ptr().cast(), len, libc::MADV_HUGEPAGE) };
        }
        Ok((Memory::Map(map, map_len), base))
    }

    /// How many frames there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The descriptor of a frame; needs no latch, its fields say which do.
    ///
    /// # Panics
    /// If there is no such frame.
    pub(crate) fn desc(&self, frame: u32) -> &D {
        &self.slots[frame as usize].desc
    }

    /// The version of a frame to validate later, unless its latch is held exclusively or there is no such frame.
    #[inline]
    pub(crate) fn glance(&self, frame: u32) -> Option<(u64, &D)> {
        let slot = self.slots.get(frame as usize)?;
        slot.latch.optimistic().map(|v| (v, &slot.desc))
    }

    /// Whether nobody has held the frame's latch exclusively since [`Region::glance`].
    #[inline]
    pub(crate) fn still(&self, frame: u32, version: u64) -> bool {
        self.slots.get(frame as usize).is_some_and(|s| s.latch.validate(version))
    }

    /// Asks the processor for what a look into the page in a frame begins with: latch and descriptor, the first lines of
    /// the page, and its last one.
    #[inline]
    pub(crate) fn prefetch(&self, frame: u32) {
        #[cfg(target_arch = "x86_64")]
        if let Some(slot) = self.slots.get(frame as usize) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let page = self.at(frame).cast::<i8>();
            // SAFETY: a prefetch is a hint and touches no memory as far as the language goes; SSE is part of x86-64. The
            // addresses lie in the frame (BUF-MEM-1), whose size is at least 4096.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(slot).cast());
                for line in 0..EARLY_LINES {
                    _mm_prefetch::<_MM_HINT_T0>(page.add(64 * line));
                }
                _mm_prefetch::<_MM_HINT_T0>(page.add(self.page_size - 64));
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = frame;
    }

    /// Asks the processor for a part of the page in a frame: the lines from number `from` on, at most `n`.
    #[inline]
    pub(crate) fn prefetch_lines(&self, frame: u32, from: usize, n: usize) {
        #[cfg(target_arch = "x86_64")]
        if (frame as usize) < self.slots.len() {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let page = self.at(frame).cast::<i8>();
            for line in from..(from + n).min(self.page_size / 64) {
                // SAFETY: as above; the line lies in the frame.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(page.add(64 * line)) };
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (frame, from, n);
    }

    /// Waits for the shared latch.
    pub(crate) fn read(&self, frame: u32) -> ReadGuard<'_, D> {
        self.slots[frame as usize].latch.lock_shared();
        ReadGuard { region: self, frame }
    }

    /// Waits for the shared latch as long as `wanted` (which looks at the descriptor) holds.
    pub(crate) fn read_while(&self, frame: u32, wanted: impl Fn(&D) -> bool) -> Option<ReadGuard<'_, D>> {
        let slot = &self.slots[frame as usize];
        slot.latch.lock_shared_while(|| wanted(&slot.desc)).then(|| ReadGuard { region: self, frame })
    }

    /// The same for the exclusive latch.
    pub(crate) fn write_while(&self, frame: u32, wanted: impl Fn(&D) -> bool) -> Option<WriteGuard<'_, D>> {
        let slot = &self.slots[frame as usize];
        slot.latch.lock_exclusive_while(|| wanted(&slot.desc)).then(|| WriteGuard { region: self, frame })
    }

    /// After the descriptor says something else: whoever waits looks again at whether it still wants the latch.
    pub(crate) fn rouse(&self, frame: u32) {
        self.slots[frame as usize].latch.rouse();
    }

    /// Takes the shared latch if that needs no wait.
    pub(crate) fn try_read(&self, frame: u32) -> Option<ReadGuard<'_, D>> {
        self.slots[frame as usize].latch.try_lock_shared().then(|| ReadGuard { region: self, frame })
    }

    /// Waits for the exclusive latch.
    pub(crate) fn write(&self, frame: u32) -> WriteGuard<'_, D> {
        self.slots[frame as usize].latch.lock_exclusive();
        WriteGuard { region: self, frame }
    }

    /// Takes the exclusive latch if that needs no wait.
    pub(crate) fn try_write(&self, frame: u32) -> Option<WriteGuard<'_, D>> {
        self.slots[frame as usize].latch.try_lock_exclusive().then(|| WriteGuard { region: self, frame })
    }

    /// Takes the exclusive latch if nobody holds it and the frame still has this version.
    pub(crate) fn try_write_at(&self, frame: u32, version: u64) -> Option<WriteGuard<'_, D>> {
        let slot = self.slots.get(frame as usize)?;
        slot.latch.try_lock_exclusive_at(version).then(|| WriteGuard { region: self, frame })
    }

    fn at(&self, frame: u32) -> *mut u8 {
        debug_assert!((frame as usize) < self.slots.len());
        // SAFETY: guards are made only for frames that index `slots`, so the offset is inside the mapping (BUF-MEM-1).
        unsafe { self.base.as_ptr().add(frame as usize * self.page_size) }
    }
}

/// A frame under the shared latch.
pub(crate) struct ReadGuard<'r, D> {
    region: &'r Region<D>,
    frame: u32,
}

impl<'r, D> ReadGuard<'r, D> {
    pub(crate) fn frame(&self) -> u32 {
        self.frame
    }
    /// The version that the frame has while it is held.
    pub(crate) fn version(&self) -> Option<u64> {
        self.region.glance(self.frame).map(|(v, _)| v)
    }
    pub(crate) fn desc(&self) -> &'r D {
        self.region.desc(self.frame)
    }
}

impl<D> Deref for ReadGuard<'_, D> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: BUF-MEM-1 for validity. The shared latch is held until `self` is dropped and the slice borrows
        // `self`, so nobody has a mutable reference meanwhile (BUF-MEM-2).
        unsafe { std::slice::from_raw_parts(self.region.at(self.frame), self.region.page_size) }
    }
}

impl<D> Drop for ReadGuard<'_, D> {
    fn drop(&mut self) {
        self.region.slots[self.frame as usize].latch.unlock_shared();
    }
}

/// A frame under the exclusive latch.
pub(crate) struct WriteGuard<'r, D> {
    region: &'r Region<D>,
    frame: u32,
}

impl<'r, D> WriteGuard<'r, D> {
    pub(crate) fn desc(&self) -> &'r D {
        self.region.desc(self.frame)
    }
    pub(crate) fn frame(&self) -> u32 {
        self.frame
    }
    /// The version that the frame will have when the latch is given back.
    pub(crate) fn version_to_come(&self) -> u64 {
        self.region.slots[self.frame as usize].latch.version_to_come()
    }
    /// Gives the latch back and takes it again (a planted bug; the caller holds no reference to the bytes).
    pub(crate) fn let_go_for_a_moment(&mut self) {
        let latch = &self.region.slots[self.frame as usize].latch;
        latch.unlock_exclusive();
        hamal_sync::thread::yield_now();
        latch.lock_exclusive();
    }
    /// The bytes, to change.
    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: BUF-MEM-1 for validity. The exclusive latch is held until `self` is dropped and the slice borrows
        // `self` mutably, so it is the only reference to these bytes (BUF-MEM-2).
        unsafe { std::slice::from_raw_parts_mut(self.region.at(self.frame), self.region.page_size) }
    }
}

impl<D> Deref for WriteGuard<'_, D> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: as in `bytes_mut`; the slice borrows `self`, so no mutable one exists at the same time.
        unsafe { std::slice::from_raw_parts(self.region.at(self.frame), self.region.page_size) }
    }
}

impl<D> Drop for WriteGuard<'_, D> {
    fn drop(&mut self) {
        self.region.slots[self.frame as usize].latch.unlock_exclusive();
    }
}
