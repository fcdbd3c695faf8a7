//! The page checksum: CRC-32C over database id, page id and every byte but the checksum's own.

use crate::{DbId, HEADER_LEN, PageId, header};
use hamal_mutants::{self as mutants, Mutant};

/// What is wrong with the bytes of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageFault {
    /// Every byte is zero: the page was never written, or a device lost it.
    Zero,
    /// The checksum differs: a torn write, a flipped bit, or a page of another database.
    Checksum {
        /// The checksum that the page carries.
        found: u32,
        /// The checksum of its bytes.
        expected: u32,
    },
    /// A valid page of this database, but another one: a misdirected write or read.
    WrongPage {
        /// The page id that the page carries.
        found: PageId,
    },
}

/// The checksum that a page with the id in its header should carry.
pub fn checksum(page: &[u8], db: DbId) -> u32 {
    let id = header::page_id(page).0.to_le_bytes();
    let c = crc32c::crc32c(if mutants::is(Mutant::ChecksumWithoutDatabase) { &[] } else { &db.0 });
    let c = crc32c::crc32c_append(c, &id);
    crc32c::crc32c_append(c, &page[4..])
}

/// Writes the checksum into the page's header.
pub fn stamp(page: &mut [u8], db: DbId) {
    let c = checksum(page, db);
    header::set_crc(page, c);
}

/// Checks that `page` is page `id` of database `db`, whole.
///
/// # Errors
/// The [`PageFault`] found.
///
/// # Panics
/// If `page` is shorter than the header.
pub fn verify(page: &[u8], db: DbId, id: PageId) -> Result<(), PageFault> {
    assert!(page.len() >= HEADER_LEN);
    let found = header::crc(page);
    let expected = checksum(page, db);
    if found != expected {
        if page.iter().all(|b| *b == 0) {
            return Err(PageFault::Zero);
        }
        return Err(PageFault::Checksum { found, expected });
    }
    match header::page_id(page) {
        p if p == id || mutants::is(Mutant::ChecksumWithoutPage) => Ok(()),
        p => Err(PageFault::WrongPage { found: p }),
    }
}
