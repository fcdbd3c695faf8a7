//! Any bytes as a page of each manager, behind a right checksum, in a database that is read and written.
use super::patient::{Patient, pages, work_with};
use super::{Input, fixup};
use crate::engines::hamal::DATABASE_ID;

/// What is in the header of a page before its body.
const HEAD: usize = 40;

/// The bytes choose a database, a page of it and what is changed in it: single fields and pieces, another manager or kind,
/// the body as a whole, or another page's content in its place. The checksum is right, and mostly the pageLSN too, so that
/// the version is the expected one. Then the database is opened and worked with.
pub fn page(data: &[u8]) {
    let mut input = Input::new(data);
    let how = input.u8();
    // Properly closed, so that recovery does not replace the page.
    let patient = if how & 1 == 0 { Patient::trees() } else { Patient::counters() };
    let size = patient.config.page_size as usize;
    let mut files = patient.files.clone();
    let Some(data) = files.get_mut("data") else { return };
    // The pages with something in them come first.
    let written = data.chunks_exact(size).rposition(|p| p.iter().any(|b| *b != 0)).map_or(1, |p| p + 1);
    let id = input.below(written);
    let other = input.below(written);
    let source = data[other * size..(other + 1) * size].to_vec();
    let b = &mut data[id * size..(id + 1) * size];
    let head: [u8; HEAD] = b[..HEAD].try_into().unwrap_or([0; HEAD]);
    if how & 2 != 0 {
        // Another page's content: a leaf as an inner node, a map as a leaf, a root in its own place below itself.
        b[4..].copy_from_slice(&source[4..]);
        b[8..24].copy_from_slice(&head[8..24]);
        if how & 4 != 0 {
            b[4..6].copy_from_slice(&head[4..6]);
            b[32..36].copy_from_slice(&head[32..36]);
        }
    }
    if how & 8 != 0 {
        b[4] = input.u8() % 18;
        b[5] = input.u8() % 5;
    }
    if how & 16 != 0 {
        let lsn = input.number(fixup::u64_at(&head, 16));
        b[16..24].copy_from_slice(&lsn.to_le_bytes());
    }
    if how & 32 != 0 {
        // A body from the input alone, zeros behind it.
        let body = input.rest();
        let n = body.len().min(size - HEAD);
        b[HEAD..].fill(0);
        b[HEAD..HEAD + n].copy_from_slice(&body[..n]);
    } else {
        for _ in 0..16 {
            if input.is_empty() {
                break;
            }
            edit(&mut input, b, size as u64);
        }
    }
    fixup::page(b, &DATABASE_ID, id as u64);
    debug_assert!((id as u64) < pages(&files, &patient.config));
    work_with(patient, &patient.with(&files), id as u64);
}

/// One change: a field of the fixed head of a node, of a slot, or bytes anywhere.
fn edit(input: &mut Input<'_>, b: &mut [u8], near: u64) {
    let what = input.u8();
    let (at, width) = match what % 4 {
        0 => (HEAD + usize::from(input.u8() % 40), 1 + usize::from(what >> 4) % 4),
        1 => (80 + 8 * usize::from(input.u8() % 64) + usize::from(what >> 4) % 8, 2),
        2 => (input.below(b.len() - 8), 8),
        _ => {
            let at = HEAD + input.below(b.len() - HEAD);
            let n = usize::from(input.u8() % 64).min(b.len() - at);
            let new = input.bytes(n);
            b[at..at + new.len()].copy_from_slice(new);
            return;
        }
    };
    let new = input.number(near).to_le_bytes();
    b[at..at + width].copy_from_slice(&new[..width]);
}
