//! Any bytes as slots of the control file, behind right checksums.
use super::patient::{Patient, typed, work_with};
use super::{Input, fixup};
use crate::oracles::formats::{Control, SLOT};
use crate::run::Newest;
use crate::sim::{Image, Persistence, SimDisk};
use hamal::disk::{Disk, OpenMode};
use hamal::inspect::Inspect;
use std::sync::Arc;

/// The fields of the fixed part: offset and width.
const FIELDS: [(usize, usize); 17] = [
    (8, 4),
    (12, 4),
    (16, 8),
    (24, 8),
    (32, 8),
    (40, 4),
    (44, 2),
    (46, 2),
    (48, 8),
    (56, 8),
    (64, 8),
    (72, 8),
    (80, 8),
    (88, 8),
    (96, 8),
    (4084, 8),
    (104, 6),
];

/// The bytes choose a database and change the fields, the list of managers or any bytes of its two slots, or cut the file. The
/// engine's decoder and the harness's must then agree on what counts, encoding what was decoded must give the same
/// again, and the database is opened and worked with.
pub fn control(data: &[u8]) {
    let mut input = Input::new(data);
    let how = input.u8();
    let patient = Patient::pick(how >> 6);
    let mut files = patient.files.clone();
    let Some(file) = files.get_mut("control").filter(|f| f.len() == 2 * SLOT) else { return };
    for (i, slot) in file.chunks_exact_mut(SLOT).enumerate() {
        if how & (1 << i) == 0 {
            for _ in 0..8 {
                if input.is_empty() {
                    break;
                }
                edit(&mut input, slot);
            }
        } else if how & 16 != 0 {
            let new = input.bytes(200);
            slot[8..8 + new.len()].copy_from_slice(new);
        }
        if how & (4 << i) == 0 {
            fixup::block(slot);
        }
    }
    if how & 32 != 0 {
        let len = input.below(2 * SLOT + 600);
        file.resize(len, 0);
    }
    decoders_agree(file);
    work_with(patient, &patient.with(&files), 1);
}

fn edit(input: &mut Input<'_>, slot: &mut [u8]) {
    match input.u8() {
        n if n < 200 => {
            let (at, width) = FIELDS[usize::from(n) % FIELDS.len()];
            let new = input.number(fixup::u64_at(slot, at)).to_le_bytes();
            slot[at..at + width].copy_from_slice(&new[..width]);
        }
        _ => {
            let at = input.below(slot.len());
            let new = input.bytes(16.min(slot.len() - at));
            slot[at..at + new.len()].copy_from_slice(new);
        }
    }
}

fn decoders_agree(file: &[u8]) {
    let image = Image::empty(Persistence::Posix).with_file("control", file);
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::boot(&image, Box::new(Newest)));
    let found = match Inspect::open_on(disk) {
        Ok(i) => i.control().clone(),
        Err(e) => return typed(&e),
    };
    // The engine refuses more than the harness, which asks only for what it needs; what the engine takes must be the same.
    let slots = file.chunks_exact(SLOT).filter_map(|b| Some((Control::decode(b)?, b)));
    let same = slots.into_iter().find(|(c, _)| {
        (c.sequence, c.db, c.timeline, c.page_size)
            == (found.sequence, found.db.0, found.timeline, found.page_size as usize)
            && (c.begin, c.end) == (found.checkpoint_begin.0, found.checkpoint_end.0)
            && (c.redo, c.keep_from) == (found.redo.0, found.keep_from.0)
            && c.managers
                .iter()
                .map(|(id, name)| (*id, name))
                .eq(found.managers.iter().map(|m| (m.id, &m.name)))
    });
    let Some((_, bytes)) = same else { panic!("the engine reads what is in no slot: {found:?}") };

    let again: Arc<dyn Disk> = Arc::new(SimDisk::new(Persistence::Posix));
    if let Err(e) = hamal_checkpoint::ControlFile::create(&again, found.clone()) {
        // A name without bytes cannot be written, and is of no use to any manager.
        typed(&e);
        return;
    }
    let decoded = Inspect::open_on(again.clone()).unwrap_or_else(|e| panic!("written, not read: {e:?}"));
    assert_eq!(*decoded.control(), found, "decoded, encoded, decoded");
    let mut written = vec![0; SLOT];
    let read = again
        .open("control", OpenMode { read_only: true, ..OpenMode::default() })
        .and_then(|f| f.read_at(0, &mut written));
    assert!(read.is_ok_and(|n| n == SLOT), "the control file is not there");
    let used = 104 + found.managers.iter().map(|m| 6 + m.name.len()).sum::<usize>();
    if bytes[used..SLOT - 12].iter().all(|b| *b == 0) {
        assert!(written == bytes, "encoding what was decoded gives other bytes");
    }
}
