//! A stretch of the log in memory, as recovery has read and checked it: for many threads to read at once.
use crate::{RecordView, codec};
use hamal_disk::AlignedBuf;
use hamal_page::Lsn;
use std::sync::Arc;

/// A chunk of the log, or the part of it that counts.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    /// LSN of its first byte.
    pub(crate) first: u64,
    pub(crate) end: u64,
    /// May be longer than what was read into it.
    pub(crate) bytes: Arc<AlignedBuf>,
}

/// Records of the log in memory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LogMemory {
    /// One after another, without a gap.
    pieces: Arc<[Piece]>,
    /// For each stretch of so many LSNs, from the first piece on, the piece that holds its first LSN. Redo looks records up by
    /// the million, and no piece is much shorter than a stretch but the last of each segment.
    stretches: Arc<[u32]>,
    shift: u32,
}

impl LogMemory {
    /// Of pieces that are about `length` bytes long, most of them.
    pub(crate) fn new(pieces: Vec<Piece>, length: u64) -> LogMemory {
        let shift = length.max(1).ilog2();
        let (first, end) = pieces.first().zip(pieces.last()).map_or((0, 0), |(f, l)| (f.first, l.end));
        let mut stretches = Vec::new();
        let mut at = 0;
        for lsn in (first..end).step_by(1 << shift) {
            while pieces[at].end <= lsn {
                at += 1;
            }
            stretches.push(at as u32);
        }
        LogMemory { pieces: pieces.into(), stretches: stretches.into(), shift }
    }

    /// The record at `lsn`, which was read and checked before; `None` if there is none. `scratch` holds it if it lies in
    /// more than one piece.
    pub fn record<'a>(&'a self, lsn: Lsn, scratch: &'a mut Vec<u8>) -> Option<RecordView<'a>> {
        let piece = self.piece(lsn.0)?;
        let mut front = [0; 4];
        let len = match piece.get(..4) {
            Some(front) => codec::peek_len(front)?,
            None => {
                self.gather(lsn.0, &mut front)?;
                codec::peek_len(&front)?
            }
        };
        let bytes = match piece.get(..len) {
            Some(bytes) => bytes,
            None => {
                scratch.resize(len, 0);
                self.gather(lsn.0, scratch)?;
                scratch
            }
        };
        codec::view(bytes, lsn.0, None)
    }

    /// Has the processor fetch what lies at these LSNs, all at once: each would else be waited for when it is looked at.
    pub fn warm(&self, lsns: &[Lsn]) {
        const LINES: [usize; 3] = [0, 64, 128];
        let mut all = 0;
        for lsn in lsns {
            if let Some(piece) = self.piece(lsn.0) {
                // No load waits for another, and no branch for any.
                all ^= LINES.iter().filter_map(|at| piece.get(*at)).fold(0, |x, b| x ^ b);
            }
        }
        std::hint::black_box(all);
    }

    /// The bytes from `lsn` on that lie in one chunk.
    #[inline]
    fn piece(&self, lsn: u64) -> Option<&[u8]> {
        let stretch = lsn.checked_sub(self.pieces.first()?.first)? >> self.shift;
        let mut pieces = self.pieces.get(*self.stretches.get(stretch as usize)? as usize..)?.iter();
        let piece = pieces.find(|p| lsn < p.end)?;
        piece.bytes.get((lsn - piece.first) as usize..(piece.end - piece.first) as usize)
    }

    fn gather(&self, lsn: u64, out: &mut [u8]) -> Option<()> {
        let mut done = 0;
        while done < out.len() {
            let piece = self.piece(lsn + done as u64)?;
            let n = piece.len().min(out.len() - done);
            out[done..done + n].copy_from_slice(&piece[..n]);
            done += n;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces of all lengths, around those of the stretches.
    #[test]
    fn every_byte_is_found() {
        let lengths = [64, 64, 10, 64, 1, 1, 1, 64, 200, 64, 3];
        let mut at = 1000;
        let pieces: Vec<Piece> = lengths
            .into_iter()
            .map(|len| {
                let mut bytes = AlignedBuf::new(256);
                bytes.iter_mut().enumerate().for_each(|(i, b)| *b = (at + i as u64) as u8);
                let piece = Piece { first: at, end: at + len, bytes: Arc::new(bytes) };
                at += len;
                piece
            })
            .collect();
        for length in [1, 16, 64, 100, 4096] {
            let memory = LogMemory::new(pieces.clone(), length);
            for lsn in 1000..at {
                let piece = memory.piece(lsn).unwrap();
                assert_eq!(piece[0], lsn as u8);
                let end = pieces.iter().find(|p| lsn < p.end).unwrap().end;
                assert_eq!(piece.len() as u64, end - lsn);
            }
            assert!(
                memory.piece(999).is_none() && memory.piece(at).is_none() && memory.piece(u64::MAX).is_none()
            );
            let mut all = vec![0; (at - 1000) as usize];
            memory.gather(1000, &mut all).unwrap();
            assert!(all.iter().enumerate().all(|(i, b)| *b == (1000 + i) as u8));
            assert!(memory.gather(1001, &mut all).is_none());
        }
        assert!(LogMemory::new(Vec::new(), 64).piece(0).is_none());
    }
}
