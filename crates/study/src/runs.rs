//! Runs of rows: what the B-tree's records of several rows say of them (`docs/formats/btree.md`, operations 14 and 15), read on its own.
use hamal::RmId;

const BTREE: RmId = RmId(2);
const INSERT_RUN: u8 = 14;
const REMOVE_RUN: u8 = 15;

/// Several rows, by one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// How many.
    pub(crate) rows: u64,
    /// The first and the last key; of an insertion.
    pub(crate) keys: Option<(Vec<u8>, Vec<u8>)>,
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut v = 0;
    for shift in (0..63).step_by(7) {
        let (b, rest) = bytes.split_first()?;
        *bytes = rest;
        v |= u64::from(b & 0x7f) << shift;
        if *b < 0x80 {
            return Some(v);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], n: u64) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(usize::try_from(n).ok()?)?;
    *bytes = rest;
    Some(taken)
}

/// The run that an operation inserts or removes; `None` if it is about one row, or cannot be read.
pub(crate) fn run(rm: RmId, op: u8, payload: &[u8]) -> Option<Run> {
    let mut p = payload;
    match (rm, op) {
        (BTREE, INSERT_RUN) => {
            let _slot = varint(&mut p)?;
            let len = varint(&mut p)?;
            let prefix = take(&mut p, len)?;
            let rows = varint(&mut p)?;
            let (mut first, mut last) = (None, Vec::new());
            for _ in 0..rows {
                let (key, value) = (varint(&mut p)?, varint(&mut p)?);
                last = [prefix, take(&mut p, key)?].concat();
                take(&mut p, value)?;
                first.get_or_insert_with(|| last.clone());
            }
            Some(Run { rows, keys: Some((first?, last)) })
        }
        (BTREE, REMOVE_RUN) => {
            let _slot = varint(&mut p)?;
            Some(Run { rows: varint(&mut p)?, keys: None })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_read_and_any_bytes_are_looked_at() {
        // Slot 300, prefix "k", two rows: "ka" = "1", "kbc" = "".
        let p = [0xac, 2, 1, b'k', 2, 1, 1, b'a', b'1', 2, 0, b'b', b'c'];
        let both = Some((b"ka".to_vec(), b"kbc".to_vec()));
        assert_eq!(run(BTREE, INSERT_RUN, &p), Some(Run { rows: 2, keys: both }));
        assert_eq!(run(BTREE, REMOVE_RUN, &[4, 3]), Some(Run { rows: 3, keys: None }));
        assert_eq!(run(RmId(1), INSERT_RUN, &p), None);
        for cut in 0..p.len() {
            assert_eq!(run(BTREE, INSERT_RUN, &p[..cut]), None);
        }
        for byte in [0, 1, 0x7f, 0x80, 0xff] {
            for len in 0..30 {
                for op in [1, INSERT_RUN, REMOVE_RUN] {
                    let _ = run(BTREE, op, &vec![byte; len]);
                }
            }
        }
    }
}
