//! What an operation names: the keys of the rows that it changes, and the slots that it touches. For who looks for the records
//! about one row, or one slot, in a log.
use super::super::codec::{Broken, Reader, Sound};
use super::run::Run;
use super::{code, undo};
use hamal_log::{Record, RecordKind};
use std::ops::Range;

/// The keys of the rows that a record inserts, changes, deletes or locks. CLRs name none, and what moves rows about (splits,
/// merges, images) is about none of them.
pub(crate) fn keys(record: &Record, see: &mut dyn FnMut(&[u8])) -> Sound<()> {
    // An undoable record changes one page.
    let (RecordKind::Update, [block]) = (record.kind, &record.blocks[..]) else { return Ok(()) };
    let payload = record.payload(0);
    if block.op == code::INSERT_RUN {
        for key in Run::read(payload)?.keys() {
            see(&key?);
        }
    } else {
        see(undo::decode(record.txn, block.op, payload, record.undo())?.key);
    }
    Ok(())
}

/// The slots that an operation touches, as the page numbers them before it.
pub(crate) fn slots(op: u8, payload: &[u8], see: &mut dyn FnMut(Range<u64>)) -> Sound<()> {
    let mut r = Reader(payload);
    match op {
        code::INSERT | code::UPDATE | code::MARK_GHOST | code::REMOVE | code::RESTORE => one(&mut r, see),
        code::REWRITE | code::LOCK | code::INSERT_CHILD | code::REMOVE_CHILD => one(&mut r, see),
        code::INSERT_RUN => {
            let run = Run::read(payload)?;
            see(run.slot as u64..(run.slot + run.count) as u64);
            Ok(())
        }
        code::REMOVE_RUN => {
            let (slot, count) = (r.small()? as u64, r.small()? as u64);
            see(slot..slot + count);
            Ok(())
        }
        code::PURGE => {
            for _ in 0..2 {
                for _ in 0..r.small()? {
                    one(&mut r, see)?;
                }
            }
            Ok(())
        }
        code::TRUNCATE => {
            see(r.small()? as u64..u64::MAX);
            Ok(())
        }
        code::MOVE_CHILD => {
            // Child 0 is in no slot.
            if let Some(slot) = r.small()?.checked_sub(1) {
                see(slot as u64..slot as u64 + 1);
            }
            Ok(())
        }
        // A whole page, or rows behind those that are there, whose number the record does not say.
        _ => Err(Broken("the slots are not named")),
    }
}

fn one(r: &mut Reader<'_>, see: &mut dyn FnMut(Range<u64>)) -> Sound<()> {
    let slot = r.small()? as u64;
    see(slot..slot + 1);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{leaf, run, tree};
    use super::*;
    use hamal_page::PageId;

    fn of(op: u8, payload: &[u8]) -> Option<Vec<(u64, u64)>> {
        let mut seen = Vec::new();
        slots(op, payload, &mut |s| seen.push((s.start, s.end))).ok().map(|()| seen)
    }

    #[test]
    fn each_operation_names_its_slots() {
        let value = leaf::Bytes { chain: false, bytes: b"v" };
        assert_eq!(of(code::INSERT, &leaf::encode_insert(300, b"key", value)), Some(vec![(300, 301)]));
        assert_eq!(of(code::UPDATE, &leaf::encode_update(3, false, value)), Some(vec![(3, 4)]));
        assert_eq!(of(code::REMOVE, &leaf::encode_remove(7)), Some(vec![(7, 8)]));
        assert_eq!(of(code::REMOVE_RUN, &run::encode_remove_run(4, 3)), Some(vec![(4, 7)]));
        let mut p = Vec::new();
        run::put_insert_run(&mut p, 2, b"a", &[(b"ab", b"1"), (b"ac", b"2")]).unwrap();
        assert_eq!(of(code::INSERT_RUN, &p), Some(vec![(2, 4)]));
        let purge = leaf::encode_purge(&[1, 2], &[9]);
        assert_eq!(of(code::PURGE, &purge), Some(vec![(1, 2), (2, 3), (9, 10)]));
        assert_eq!(of(code::TRUNCATE, &tree::encode_truncate(5, b"x")), Some(vec![(5, u64::MAX)]));
        assert_eq!(of(code::MOVE_CHILD, &tree::encode_move_child(0, PageId(9))), Some(vec![]));
        assert_eq!(of(code::MOVE_CHILD, &tree::encode_move_child(3, PageId(9))), Some(vec![(2, 3)]));
        for op in [code::INIT, code::ABSORB, code::FREE, 200] {
            assert_eq!(of(op, &[1, 2, 3]), None, "{op}");
        }
    }

    #[test]
    fn any_bytes_are_looked_at() {
        for op in 0..=255u8 {
            for len in 0..40 {
                for byte in [0, 1, 2, 0x7f, 0x80, 0xff] {
                    let _ = of(op, &vec![byte; len]);
                }
            }
        }
    }
}
