//! The one format of the toy engine: a record. The log is a row of them, and the snapshot file is a single one.
//!
//! | bytes | what |
//! |---|---|
//! | 0..4 | length of the changes in bytes, little-endian like all numbers |
//! | 4..8 | CRC-32C of bytes 8 to the end of the changes |
//! | 8..16 | generation: which snapshot the record belongs to |
//! | 16..24 | how many bytes of the log were surely durable when the record was written |
//! | 24.. | the changes, one after another; then zeros up to a multiple of 512 |
use crate::model::Contents;
use crate::op::TreeNo;
use hamal::disk::DiskFile;
use std::io;

/// What a disk writes at once. Records fill whole sectors, so that writing one never touches another: a sector
/// that is being written when the power fails may come back as garbage.
pub(super) const SECTOR: u64 = 512;
const HEADER: usize = 24;

/// One change of the contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Create(TreeNo),
    Drop(TreeNo),
    Put(TreeNo, Vec<u8>, Vec<u8>),
    Delete(TreeNo, Vec<u8>),
}

impl Change {
    /// The tree, and the key if the change concerns a single row.
    fn place(&self) -> (TreeNo, Option<&[u8]>) {
        match self {
            Change::Create(tree) | Change::Drop(tree) => (*tree, None),
            Change::Put(tree, key, _) | Change::Delete(tree, key) => (*tree, Some(key)),
        }
    }

    /// Whether two transactions must not both make these changes: they concern the same row, or one of them the
    /// whole tree.
    pub(super) fn clashes(&self, other: &Change) -> bool {
        let ((tree, key), (other_tree, other_key)) = (self.place(), other.place());
        tree == other_tree && (key.is_none() || other_key.is_none() || key == other_key)
    }

    /// Makes the change.
    pub(super) fn apply(&self, contents: &mut Contents) {
        match self {
            Change::Create(tree) => {
                contents.trees.entry(*tree).or_default();
            }
            Change::Drop(tree) => {
                contents.trees.remove(tree);
            }
            Change::Put(tree, key, value) => {
                contents.trees.entry(*tree).or_default().insert(key.clone(), value.clone());
            }
            Change::Delete(tree, key) => {
                if let Some(rows) = contents.trees.get_mut(tree) {
                    rows.remove(key);
                }
            }
        }
    }

    /// The changes that make `contents` out of nothing.
    pub(super) fn all_of(contents: &Contents) -> Vec<Change> {
        let mut changes = Vec::new();
        for (tree, rows) in &contents.trees {
            changes.push(Change::Create(*tree));
            changes.extend(rows.iter().map(|(k, v)| Change::Put(*tree, k.clone(), v.clone())));
        }
        changes
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let (kind, tree, parts): (u8, TreeNo, &[&[u8]]) = match self {
            Change::Create(tree) => (1, *tree, &[]),
            Change::Drop(tree) => (2, *tree, &[]),
            Change::Put(tree, key, value) => (3, *tree, &[key, value]),
            Change::Delete(tree, key) => (4, *tree, &[key]),
        };
        out.extend([kind, tree]);
        for part in parts {
            out.extend((part.len() as u32).to_le_bytes());
            out.extend(*part);
        }
    }

    /// Takes one change off the front of `bytes`; `None` if there is none.
    fn decode(bytes: &mut &[u8]) -> Option<Change> {
        let [kind, tree] = *take(bytes, 2)? else { return None };
        let mut part = || {
            let len = u32::from_le_bytes(take(bytes, 4)?.try_into().ok()?);
            Some(take(bytes, len as usize)?.to_vec())
        };
        Some(match kind {
            1 => Change::Create(tree),
            2 => Change::Drop(tree),
            3 => Change::Put(tree, part()?, part()?),
            4 => Change::Delete(tree, part()?),
            _ => return None,
        })
    }
}

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (front, rest) = bytes.split_at_checked(n)?;
    *bytes = rest;
    Some(front)
}

/// What is written at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) generation: u64,
    pub(super) synced: u64,
    pub(super) changes: Vec<Change>,
}

impl Record {
    /// Its bytes, padded to a multiple of `pad`.
    pub(super) fn encode(&self, pad: u64) -> Vec<u8> {
        let mut out = vec![0; 8];
        out.extend(self.generation.to_le_bytes());
        out.extend(self.synced.to_le_bytes());
        self.changes.iter().for_each(|c| c.encode(&mut out));
        let len = (out.len() - HEADER) as u32;
        let crc = crc32c::crc32c(&out[8..]);
        out[..4].copy_from_slice(&len.to_le_bytes());
        out[4..8].copy_from_slice(&crc.to_le_bytes());
        out.resize(out.len().next_multiple_of(pad as usize), 0);
        out
    }

    /// Reads the record at `at`, and where the next one begins. `None` if there is no good record. Bytes from a disk
    /// may be anything: nothing here trusts them, not even for the size of an allocation.
    pub(super) fn read(
        file: &dyn DiskFile,
        at: u64,
        pad: u64,
        check: bool,
    ) -> io::Result<Option<(Record, u64)>> {
        let mut header = [0; HEADER];
        if file.read_at(at, &mut header)? < HEADER {
            return Ok(None);
        }
        let number = |i: usize| u64::from_le_bytes(std::array::from_fn(|k| header[i + k]));
        let (len, crc) = (number(0) & 0xFFFF_FFFF, (number(0) >> 32) as u32);
        let next = at + (HEADER as u64 + len).next_multiple_of(pad);
        if next > file.len()? {
            return Ok(None);
        }
        let mut body = vec![0; len as usize];
        if file.read_at(at + HEADER as u64, &mut body)? < body.len() {
            return Ok(None);
        }
        if check && crc32c::crc32c_append(crc32c::crc32c(&header[8..]), &body) != crc {
            return Ok(None);
        }
        let (mut changes, mut rest) = (Vec::new(), &body[..]);
        while !rest.is_empty() {
            let Some(change) = Change::decode(&mut rest) else { return Ok(None) };
            changes.push(change);
        }
        Ok(Some((Record { generation: number(8), synced: number(16), changes }, next)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hamal::disk::{Disk, MemDisk, OpenMode};

    #[test]
    fn a_record_is_read_as_it_was_written_and_never_with_a_bit_flipped() {
        let changes = vec![
            Change::Create(3),
            Change::Put(3, b"key".to_vec(), vec![7; 700]),
            Change::Delete(3, b"other".to_vec()),
            Change::Drop(9),
        ];
        let record = Record { generation: 5, synced: 1024, changes };
        let bytes = record.encode(SECTOR);
        assert_eq!(bytes.len(), 1024);
        let file = MemDisk::new().open("f", OpenMode { create: true, ..OpenMode::default() }).unwrap();
        file.write_at(512, &bytes).unwrap();
        assert_eq!(Record::read(&*file, 512, SECTOR, true).unwrap(), Some((record, 1536)));
        let used = HEADER + 6 * 2 + 4 * 3 + 3 + 700 + 5;
        for bit in (0..used.min(bytes.len()) * 8 - 32).step_by(7) {
            let mut wrong = bytes.clone();
            wrong[bit / 8] ^= 1 << (bit % 8);
            file.write_at(512, &wrong).unwrap();
            assert_eq!(Record::read(&*file, 512, SECTOR, true).unwrap(), None, "bit {bit}");
            // Without the check the data may be wrong, but nothing may panic.
            let _ = Record::read(&*file, 512, SECTOR, false).unwrap();
        }
    }
}
