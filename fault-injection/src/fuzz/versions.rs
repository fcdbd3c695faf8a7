//! Any bytes as the table of page versions, behind right checksums and a digest that may be right too.
use super::patient::{Patient, checkpoint_of, pages, work_with};
use super::{Input, fixup};
use crate::oracles::formats::{SLOT, block_moment};

/// Pages that a block speaks of.
const BLOCK_PAGES: u64 = 2024;

/// The bytes choose a database and change its blocks: number, moment, tags, any bytes, copies that change places, a file that is
/// longer or shorter. Checksums and the digest in the control file are made right or left, as the input says.
pub fn versions(data: &[u8]) {
    let mut input = Input::new(data);
    let how = input.u8();
    let patient = Patient::pick(how >> 6);
    let mut files = patient.files.clone();
    let Some(mut file) = files.remove("versions") else { return };
    let Some(mut control) = files.remove("control").filter(|c| c.len() == 2 * SLOT) else { return };
    let current = usize::from(fixup::u64_at(&control, 16) < fixup::u64_at(&control[SLOT..], 16)) * SLOT;
    let begin = checkpoint_of(&control[current..]);
    if how & 1 != 0 {
        file.resize(SLOT * input.below(8), 0);
    }
    if how & 2 != 0 {
        // More pages than there are: more blocks.
        let pages = input.number(pages(&patient.files, &patient.config));
        control[current + 80..current + 88].copy_from_slice(&pages.to_le_bytes());
    }
    if how & 4 != 0 && file.len() >= 2 * SLOT {
        let copy = file[..SLOT].to_vec();
        file.copy_within(SLOT..2 * SLOT, 0);
        file[SLOT..2 * SLOT].copy_from_slice(&copy);
    }
    for _ in 0..12 {
        if input.is_empty() || file.is_empty() {
            break;
        }
        let place = SLOT * input.below(file.len() / SLOT);
        let Some(b) = file.get_mut(place..place + SLOT) else { break };
        match input.u8() % 8 {
            0 => b[24..32].copy_from_slice(&input.number((place / SLOT / 2) as u64).to_le_bytes()),
            1 | 2 => b[32..40].copy_from_slice(&input.number(begin).to_le_bytes()),
            3 => b.fill(0),
            4 => b[8..16].copy_from_slice(&input.u64().to_le_bytes()),
            _ => {
                let at = input.below(SLOT - 16);
                let new = input.bytes(16);
                b[at..at + new.len()].copy_from_slice(new);
            }
        }
        if how & 8 == 0 && b.iter().any(|x| *x != 0) {
            fixup::versions(b);
        }
    }
    if how & 16 != 0 {
        let pages = fixup::u64_at(&control[current..], 80);
        let blocks = pages.div_ceil(BLOCK_PAGES).min(64);
        let moment = |i: u64| {
            let pair = file.chunks_exact(SLOT).skip(2 * i as usize).take(2);
            pair.filter_map(block_moment).filter(|m| *m <= begin).max().unwrap_or(0)
        };
        let digest = fixup::digest((0..blocks).map(moment));
        control[current + 4084..current + 4092].copy_from_slice(&digest.to_le_bytes());
    }
    if how & 32 != 0 {
        control[current + 4084..current + 4092].fill(0);
    }
    fixup::block(&mut control[current..current + SLOT]);
    files.insert("versions".into(), file);
    files.insert("control".into(), control);
    work_with(patient, &patient.with(&files), 1);
}
