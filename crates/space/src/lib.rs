//! Which pages are free: space maps are pages too, and a bit changes in the same record as the page it speaks
//! of. The first and smallest resource manager.
//!
//! Map page `k` has page id `k * pages_per_map(page_size)` and speaks of the pages from its own id (bit 0,
//! always set) up to the next map page. A set bit is an allocated page. Map page 0 also counts the map pages,
//! so that nobody has to guess from the file's length which of them exist. The last one is given up when it speaks of
//! free pages only and the file is cut. `docs/formats/space.md` has the bytes.
//!
//! A page goes through three states: free (bit clear), *reserved* (bit clear, but known to [`Space`] as
//! promised to a change that is not logged yet) and allocated (bit set, by the record that links the page).
//! Reservations live in memory only: after a crash they never happened. Search is lowest first, so that a
//! file shrinks from its end.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod bits;
mod manager;
mod reservation;
mod space;

pub use manager::{SpaceManager, describe_page};
pub use reservation::Reservation;
pub use space::Space;

use hamal_page::{PageId, RmId};

/// Resource manager id of the space maps.
pub const SPACE_RM: RmId = RmId(1);
/// Operation: sets the bits of pages (payload: bit numbers as LE u32).
pub const OP_SET: u8 = 1;
/// Operation: clears the bits of pages (payload: bit numbers as LE u32).
pub const OP_CLEAR: u8 = 2;
/// Operation: initialises a map page (payload after the 6 init bytes: bit numbers that are set from the
/// start).
pub const OP_INIT: u8 = 3;
/// Operation on map page 0: there is one map page more, or one less (payload: the new number as LE u64).
pub const OP_MAPS: u8 = 4;
/// Operation: clears one bit and sets another of the same map page (payload: both bit numbers as LE u32, the cleared one first).
pub const OP_MOVE: u8 = 5;
/// Operation: the last map page is given up (a free block, without payload).
pub const OP_GIVE_UP: u8 = 6;

/// Pages that one map page speaks of, itself included: 8 bits for each byte behind the first 64.
pub const fn pages_per_map(page_size: usize) -> u64 {
    (page_size as u64 - 64) * 8
}

/// The map page that speaks of `page`, and the bit there.
pub const fn map_of(page: PageId, page_size: usize) -> (PageId, u32) {
    let n = pages_per_map(page_size);
    (PageId(page.0 / n * n), (page.0 % n) as u32)
}
