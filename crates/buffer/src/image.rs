//! The payload of an image record: a whole page without its hole, compressed where that helps.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 1 | flags: bit 0: the rest is one LZ4 block; all other bits zero |
//! | 1 | 2 | offset of the hole in the page (0 if there is none) |
//! | 3 | 2 | length of the hole (0 if there is none) |
//! | 5 | rest | the page's bytes before the hole, then those after it |
//!
//! Integers are little-endian. The checksum field of the page is zero in an image; imgLSN is whatever it was, because the
//! record's own LSN takes its place at redo. `docs/formats/image.md` has the same table.
use crate::ApplyError;
use hamal_page::{HEADER_LEN, Lsn, header};
use std::ops::Range;

/// Bytes before the page's own.
pub(crate) const HEAD: usize = 5;
const LZ4: u8 = 1;

/// Appends the image of `page` (checksum field cleared by this) to the empty `out`. A hole that is not one (before the
/// header's end, beyond the page's, backwards) is taken as none: the manager's answer is not trusted.
pub(crate) fn encode(
    page: &[u8],
    hole: Range<usize>,
    compress: bool,
    scratch: &mut Vec<u8>,
    out: &mut Vec<u8>,
) {
    let sound = hole.start >= HEADER_LEN && hole.start < hole.end && hole.end <= page.len();
    let hole = if sound { hole } else { 0..0 };
    scratch.clear();
    scratch.extend_from_slice(&page[..hole.start]);
    scratch.extend_from_slice(&page[hole.end..]);
    header::set_crc(scratch, 0);
    out.clear();
    out.push(0);
    // Both fit 16 bits: a page has at most 65536 bytes and a hole lies behind a header of 40.
    out.extend_from_slice(&(hole.start as u16).to_le_bytes());
    out.extend_from_slice(&(hole.len() as u16).to_le_bytes());
    if compress {
        let most = lz4_flex::block::get_maximum_output_size(scratch.len());
        out.resize(HEAD + most, 0);
        match lz4_flex::block::compress_into(scratch, &mut out[HEAD..]) {
            Ok(n) if n < scratch.len() => {
                out[0] = LZ4;
                out.truncate(HEAD + n);
                return;
            }
            _ => out.truncate(HEAD),
        }
    }
    out.extend_from_slice(scratch);
}

/// Rebuilds the page from an image record at `lsn`: its bytes, pageLSN included, with imgLSN set to `lsn`. Total.
///
/// # Errors
/// [`ApplyError`] if the payload is no image of a page of this size; the page's content is then undefined.
pub(crate) fn decode(payload: &[u8], lsn: Lsn, page: &mut [u8]) -> Result<(), ApplyError> {
    let wrong = |what: &str| Err(ApplyError(format!("page image: {what}")));
    let Some((head, data)) = payload.split_at_checked(HEAD) else { return wrong("shorter than its head") };
    let flags = head[0];
    let start = usize::from(u16::from_le_bytes([head[1], head[2]]));
    let len = usize::from(u16::from_le_bytes([head[3], head[4]]));
    if flags & !LZ4 != 0 {
        return wrong("unknown flags");
    }
    if len == 0 && start != 0 || len != 0 && (start < HEADER_LEN || start + len > page.len()) {
        return wrong("hole outside the page's body");
    }
    let rest = page.len() - len;
    if flags & LZ4 != 0 {
        match lz4_flex::block::decompress_into(data, &mut page[..rest]) {
            Ok(n) if n == rest => {}
            Ok(_) => return wrong("compressed bytes do not fill the page"),
            Err(e) => return wrong(&format!("compressed bytes are damaged: {e}")),
        }
    } else if data.len() == rest {
        page[..rest].copy_from_slice(data);
    } else {
        return wrong("its length is not that of the page");
    }
    page.copy_within(start..rest, start + len);
    page[start..start + len].fill(0);
    if header::page_lsn(page) >= lsn {
        return wrong("pageLSN inside is not below its own LSN");
    }
    header::set_img_lsn(page, lsn);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hamal_page::{PageId, RmId, TreeId};
    use proptest::prelude::*;

    fn page(len: usize, seed: u8, noisy: bool) -> Vec<u8> {
        let mut p = vec![0; len];
        hamal_page::init(&mut p, PageId(9), RmId(3), 1, TreeId(2));
        let mut x = u64::from(seed) + 1;
        for b in &mut p[HEADER_LEN..] {
            x = x.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            *b = if noisy { (x >> 56) as u8 } else { (x >> 62) as u8 };
        }
        header::set_page_lsn(&mut p, Lsn(77));
        p
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn comes_back(size in prop::sample::select(vec![4096usize, 16384, 65536]), seed: u8, noisy: bool, compress: bool,
                      from in 0usize..70000, len in 0usize..70000) {
            let mut p = page(size, seed, noisy);
            let hole = from..from.saturating_add(len);
            let (mut s, mut out) = (Vec::new(), Vec::new());
            encode(&p, hole.clone(), compress, &mut s, &mut out);
            prop_assert!(out.len() <= HEAD + size);
            let mut back = vec![0xaa; size];
            prop_assert_eq!(decode(&out, Lsn(100), &mut back), Ok(()));
            if hole.start >= HEADER_LEN && hole.end <= size {
                p[hole].fill(0);
            }
            header::set_img_lsn(&mut p, Lsn(100));
            prop_assert_eq!(back, p);
        }

        #[test]
        fn hostile_bytes_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut p = vec![0; 4096];
            let _ = decode(&bytes, Lsn(100), &mut p);
        }

        #[test]
        fn damaged_images_do_not_panic(at in 0usize..5000, x in 1u8..) {
            let (mut s, mut out) = (Vec::new(), Vec::new());
            encode(&page(4096, 1, false), 100..200, true, &mut s, &mut out);
            let at = at % out.len();
            out[at] ^= x;
            let mut p = vec![0; 4096];
            let _ = decode(&out, Lsn(100), &mut p);
        }
    }

    #[test]
    fn an_image_older_than_its_content_is_refused() {
        let (mut s, mut out) = (Vec::new(), Vec::new());
        encode(&page(4096, 1, false), 0..0, false, &mut s, &mut out);
        assert!(decode(&out, Lsn(77), &mut vec![0; 4096]).is_err());
        assert!(decode(&out, Lsn(78), &mut vec![0; 4096]).is_ok());
    }
}
