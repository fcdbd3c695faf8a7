//! The bytes of a checkpoint's records: chunks of the two tables, and the end record. Total decoders.

use hamal_error::{Error, ErrorKind, Result};
use hamal_page::{Lsn, PageId, TxnId};
use hamal_txn::AttEntry;

const DPT: u8 = 1;
const ATT: u8 = 2;
const DPT_ENTRY: usize = 16;
const ATT_ENTRY: usize = 32;

/// A piece of a checkpoint's tables: one chunk record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk {
    /// Dirty pages with their recLSN.
    Dpt(Vec<(PageId, Lsn)>),
    /// Active transactions.
    Att(Vec<AttEntry>),
}

/// The end record of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointEnd {
    /// LSN of its begin record.
    pub begin: Lsn,
    /// The redo point R.
    pub redo: Lsn,
    /// Entries in the dirty page table, in all chunks.
    pub dpt: u64,
    /// Entries in the active transaction table, in all chunks.
    pub att: u64,
}

/// Both tables of a checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckpointData {
    /// The dirty page table.
    pub dpt: Vec<(PageId, Lsn)>,
    /// The active transaction table.
    pub att: Vec<AttEntry>,
}

impl Chunk {
    /// Cuts the tables into chunks of at most `max_bytes` each, for the checkpoint that began at `begin`.
    pub fn cut(data: &CheckpointData, begin: Lsn, max_bytes: usize) -> Vec<Vec<u8>> {
        let mut out = Vec::new();
        let room = max_bytes - 9;
        for part in data.dpt.chunks((room / DPT_ENTRY).max(1)) {
            let mut b = vec![DPT];
            b.extend_from_slice(&begin.0.to_le_bytes());
            for (page, rec) in part {
                b.extend_from_slice(&page.0.to_le_bytes());
                b.extend_from_slice(&rec.0.to_le_bytes());
            }
            out.push(b);
        }
        for part in data.att.chunks((room / ATT_ENTRY).max(1)) {
            let mut b = vec![ATT];
            b.extend_from_slice(&begin.0.to_le_bytes());
            for e in part {
                for v in [e.txn.0, e.last.0, e.undo_next.0, e.undo_reserve] {
                    b.extend_from_slice(&v.to_le_bytes());
                }
            }
            out.push(b);
        }
        out
    }

    /// Decodes a chunk; also says which checkpoint it belongs to.
    ///
    /// # Errors
    /// `LogCorrupt` if the bytes are no chunk.
    pub fn decode(b: &[u8]) -> Result<(Lsn, Chunk)> {
        let bad = || Error::new(ErrorKind::LogCorrupt, "a checkpoint's table chunk cannot be decoded");
        let (&tag, rest) = b.split_first().ok_or_else(bad)?;
        let words: Vec<u64> = rest
            .chunks(8)
            .map(|c| c.try_into().map(u64::from_le_bytes).map_err(|_| bad()))
            .collect::<Result<_>>()?;
        let (&begin, words) = words.split_first().ok_or_else(bad)?;
        let chunk = match tag {
            DPT if words.len() % 2 == 0 => {
                Chunk::Dpt(words.chunks_exact(2).map(|w| (PageId(w[0]), Lsn(w[1]))).collect())
            }
            ATT if words.len() % 4 == 0 => Chunk::Att(
                words
                    .chunks_exact(4)
                    .map(|w| AttEntry {
                        txn: TxnId(w[0]),
                        last: Lsn(w[1]),
                        undo_next: Lsn(w[2]),
                        undo_reserve: w[3],
                    })
                    .collect(),
            ),
            _ => return Err(bad()),
        };
        Ok((Lsn(begin), chunk))
    }
}

impl CheckpointEnd {
    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        [self.begin.0, self.redo.0, self.dpt, self.att].iter().flat_map(|v| v.to_le_bytes()).collect()
    }
    /// Decodes.
    ///
    /// # Errors
    /// `LogCorrupt` if the bytes are no end record.
    pub fn decode(b: &[u8]) -> Result<CheckpointEnd> {
        if b.len() != 32 {
            return Err(Error::new(ErrorKind::LogCorrupt, "a checkpoint's end record cannot be decoded"));
        }
        let w = |i: usize| {
            let mut x = [0; 8];
            x.copy_from_slice(&b[8 * i..8 * i + 8]);
            u64::from_le_bytes(x)
        };
        Ok(CheckpointEnd { begin: Lsn(w(0)), redo: Lsn(w(1)), dpt: w(2), att: w(3) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_survive_cutting() {
        let data = CheckpointData {
            dpt: (0..1000).map(|i| (PageId(i), Lsn(i * 3 + 1))).collect(),
            att: (1..50)
                .map(|i| AttEntry { txn: TxnId(i), last: Lsn(i + 1), undo_next: Lsn(i), undo_reserve: 9 })
                .collect(),
        };
        let chunks = Chunk::cut(&data, Lsn(77), 1000);
        // 61 pages, or 30 transactions, fit into a chunk.
        assert_eq!(chunks.len(), 1000usize.div_ceil(61) + 2);
        let mut back = CheckpointData::default();
        for c in &chunks {
            assert!(c.len() <= 1000);
            match Chunk::decode(c).unwrap() {
                (Lsn(77), Chunk::Dpt(d)) => back.dpt.extend(d),
                (Lsn(77), Chunk::Att(a)) => back.att.extend(a),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(back, data);
        let end = CheckpointEnd { begin: Lsn(77), redo: Lsn(5), dpt: 1000, att: 49 };
        assert_eq!(CheckpointEnd::decode(&end.encode()).unwrap(), end);
    }

    #[test]
    fn hostile_chunks_are_errors() {
        for b in [&[][..], &[1], &[1, 2, 3], &[3; 17], &[1; 17], &[2; 40], &[2; 33]] {
            assert!(Chunk::decode(b).is_err(), "{b:?}");
        }
        assert!(CheckpointEnd::decode(&[0; 31]).is_err());
    }
}
