//! A whole database, damaged in up to eight ways at once.
use super::patient::{Files, Patient, right_or_typed, work_with};
use super::{Input, fixup};

const SECTOR: usize = 512;

/// The bytes choose a database and up to eight changes: bytes of a file, a sector zeroed or swapped with another, a file cut
/// off or lengthened, a sector, page or file as it was at an earlier moment, a page in another page's place. With the checksums as they
/// fall, and nothing as it was earlier, what is read must be right, or an error say that it is not. Otherwise, and with
/// all checksums made right, anything may be read, and the database is worked with.
pub fn image(data: &[u8]) {
    let mut input = Input::new(data);
    let how = input.u8();
    let patient = Patient::pick(how >> 6);
    let page = patient.config.page_size as usize;
    let mut files = patient.files.clone();
    let mut earlier = false;
    for _ in 0..1 + usize::from(how & 7) {
        if input.is_empty() {
            break;
        }
        earlier |= change(&mut input, patient, &mut files, page);
    }
    let fix = how & 8 != 0;
    if fix {
        fixup::all(&mut files, page);
    }
    let image = patient.with(&files);
    if patient.closed && !fix && !earlier {
        right_or_typed(patient, &image);
    }
    work_with(patient, &image, 1);
}

/// One change. True if it is a state of an earlier moment, or a whole piece that was valid somewhere.
fn change(input: &mut Input<'_>, patient: &Patient, files: &mut Files, page: usize) -> bool {
    let n = input.below(files.len());
    let Some(name) = files.keys().nth(n).cloned() else { return false };
    let Some(b) = files.get_mut(&name).filter(|b| !b.is_empty()) else { return false };
    let sectors = b.len().div_ceil(SECTOR);
    let sector = |s: usize| s * SECTOR..((s + 1) * SECTOR).min(b.len());
    match input.u8() % 10 {
        0 | 1 => {
            let at = input.below(b.len());
            let n = 1 + usize::from(input.u8() % 24);
            let new = input.bytes(n.min(b.len() - at));
            b[at..at + new.len()].copy_from_slice(new);
        }
        2 => {
            let r = sector(input.below(sectors));
            let fill = if input.flag() { 0xff } else { 0 };
            b[r].fill(fill);
        }
        3 => {
            let (x, y) = (sector(input.below(sectors)), sector(input.below(sectors)));
            if x.len() == y.len() {
                let old = b[x.clone()].to_vec();
                b.copy_within(y.clone(), x.start);
                b[y].copy_from_slice(&old);
            }
        }
        4 => {
            let len = input.below(b.len() + 1);
            b.truncate(len);
        }
        5 => {
            let more = input.below(3 * 4096);
            b.resize(b.len() + more, input.u8());
        }
        6 => {
            // A bit.
            let at = input.below(b.len());
            b[at] ^= 1 << (input.u8() % 8);
        }
        7 => {
            let old = &patient.older[input.below(patient.older.len())];
            match old.get(&name) {
                Some(old) => *b = old.clone(),
                None => drop(files.remove(&name)),
            }
            return true;
        }
        8 => {
            let r = sector(input.below(sectors));
            let r = if input.flag() { r.start / page * page..(r.start / page + 1) * page } else { r };
            let old = patient.older[input.below(patient.older.len())].get(&name);
            if let (Some(old), Some(place)) = (old.and_then(|o| o.get(r.clone())), b.get_mut(r)) {
                place.copy_from_slice(old);
            }
            return true;
        }
        _ => {
            let (from, to) = (page * input.below(b.len() / page), page * input.below(b.len() / page));
            if b.len() >= page {
                b.copy_within(from..from + page, to);
            }
        }
    }
    false
}
