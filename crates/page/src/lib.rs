//! The bytes of a page: identifiers, the common header, the checksum. No I/O, no latches, no log.
//!
//! Every page of the data file begins with the same [`HEADER_LEN`] bytes (all integers little-endian); the rest
//! belongs to the resource manager that the header names. `docs/formats/page.md` has the same table.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | CRC-32C of the page with this field as zero, seeded with database id and page id |
//! | 4 | 1 | resource manager that owns the body |
//! | 5 | 1 | page kind, meaning given by the resource manager |
//! | 6 | 2 | flags, zero for now |
//! | 8 | 8 | page id |
//! | 16 | 8 | pageLSN: LSN of the last record applied |
//! | 24 | 8 | imgLSN: LSN of the newest whole-page record (image, initialisation or free) |
//! | 32 | 4 | tree id (or any owner number of the resource manager) |
//! | 36 | 4 | zero |
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod checksum;
mod ids;

pub use checksum::{PageFault, checksum, stamp, verify};
pub use ids::{DbId, Lsn, PageId, RmId, TreeId, TxnId};

/// Bytes of the common header. The body of the resource manager starts here and is 8-byte aligned.
pub const HEADER_LEN: usize = 40;
/// The smallest page size, in bytes.
pub const MIN_PAGE_SIZE: usize = 4096;
/// The largest page size, in bytes.
pub const MAX_PAGE_SIZE: usize = 65536;

const _: () = assert!(HEADER_LEN.is_multiple_of(8));

/// Whether `bytes` is a page size that a database may have: a power of two from 4 KiB to 64 KiB.
pub fn valid_page_size(bytes: usize) -> bool {
    bytes.is_power_of_two() && (MIN_PAGE_SIZE..=MAX_PAGE_SIZE).contains(&bytes)
}

macro_rules! field {
    ($(#[$doc:meta])* $get:ident, $(#[$sdoc:meta])* $set:ident, $t:ty, $wrap:expr, $unwrap:expr, $at:expr, $len:expr) => {
        $(#[$doc])*
        #[inline]
        pub fn $get(page: &[u8]) -> $t {
            let mut b = [0u8; $len];
            b.copy_from_slice(&page[$at..$at + $len]);
            $wrap(b)
        }
        $(#[$sdoc])*
        #[inline]
        pub fn $set(page: &mut [u8], v: $t) {
            page[$at..$at + $len].copy_from_slice(&$unwrap(v));
        }
    };
}

/// Reads and writes fields of the common header. Every function panics if the slice is shorter than the header.
pub mod header {
    use super::*;
    field!(/** The checksum field. */ crc, /** Sets the checksum field. */ set_crc, u32, u32::from_le_bytes, |v: u32| v.to_le_bytes(), 0, 4);
    field!(/** Owner of the body. */ rm, /** Sets the owner of the body. */ set_rm, RmId, |b: [u8; 1]| RmId(b[0]), |v: RmId| [v.0], 4, 1);
    field!(/** Page kind. */ kind, /** Sets the page kind. */ set_kind, u8, |b: [u8; 1]| b[0], |v: u8| [v], 5, 1);
    field!(/** Page id. */ page_id, /** Sets the page id. */ set_page_id, PageId, |b| PageId(u64::from_le_bytes(b)), |v: PageId| v.0.to_le_bytes(), 8, 8);
    field!(/** pageLSN. */ page_lsn, /** Sets pageLSN. */ set_page_lsn, Lsn, |b| Lsn(u64::from_le_bytes(b)), |v: Lsn| v.0.to_le_bytes(), 16, 8);
    field!(/** imgLSN. */ img_lsn, /** Sets imgLSN. */ set_img_lsn, Lsn, |b| Lsn(u64::from_le_bytes(b)), |v: Lsn| v.0.to_le_bytes(), 24, 8);
    field!(/** Tree id. */ tree, /** Sets the tree id. */ set_tree, TreeId, |b| TreeId(u32::from_le_bytes(b)), |v: TreeId| v.0.to_le_bytes(), 32, 4);
}

/// Makes `page` an empty page of a resource manager: all zero but for page id, owner, kind and tree.
pub fn init(page: &mut [u8], id: PageId, rm: RmId, kind: u8, tree: TreeId) {
    page.fill(0);
    header::set_page_id(page, id);
    header::set_rm(page, rm);
    header::set_kind(page, kind);
    header::set_tree(page, tree);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_fields_do_not_overlap() {
        let mut p = vec![0u8; 4096];
        init(&mut p, PageId(7), RmId(2), 3, TreeId(9));
        header::set_page_lsn(&mut p, Lsn(0x0102_0304_0506_0708));
        header::set_img_lsn(&mut p, Lsn(0x1112_1314_1516_1718));
        header::set_crc(&mut p, 0xdead_beef);
        assert_eq!(header::page_id(&p), PageId(7));
        assert_eq!(header::rm(&p), RmId(2));
        assert_eq!(header::kind(&p), 3);
        assert_eq!(header::tree(&p), TreeId(9));
        assert_eq!(header::page_lsn(&p), Lsn(0x0102_0304_0506_0708));
        assert_eq!(header::img_lsn(&p), Lsn(0x1112_1314_1516_1718));
        assert_eq!(header::crc(&p), 0xdead_beef);
        assert!(p[HEADER_LEN..].iter().all(|b| *b == 0));
    }

    #[test]
    fn every_flipped_bit_is_found() {
        let db = DbId([5; 16]);
        let mut p = vec![0u8; 4096];
        init(&mut p, PageId(7), RmId(2), 3, TreeId(9));
        p[100..200].fill(0x5a);
        stamp(&mut p, db);
        assert_eq!(verify(&p, db, PageId(7)), Ok(()));
        for bit in 0..p.len() * 8 {
            p[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(&p, db, PageId(7)).is_err(), "bit {bit}");
            p[bit / 8] ^= 1 << (bit % 8);
        }
        assert!(matches!(verify(&p, db, PageId(8)), Err(PageFault::WrongPage { .. })));
        assert!(matches!(verify(&p, DbId([6; 16]), PageId(7)), Err(PageFault::Checksum { .. })));
        assert_eq!(verify(&vec![0u8; 4096], db, PageId(7)), Err(PageFault::Zero));
    }
}
