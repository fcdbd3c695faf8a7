//! A stretch of the log in memory, as recovery has read and checked it: for many threads to read at once.
use crate::{RecordView, codec};
use hamal_disk::AlignedBuf;
use hamal_page::Lsn;
use std::sync::Arc;

/// The chunks of one segment.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    /// LSN of the first byte of the first chunk.
    pub(crate) first: u64,
    pub(crate) end: u64,
    /// All but the last have `chunk` bytes.
    pub(crate) chunks: Vec<Arc<AlignedBuf>>,
}

/// Records of the log in memory. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LogMemory {
    parts: Arc<[Part]>,
    chunk: u64,
}

impl LogMemory {
    pub(crate) fn new(parts: Vec<Part>, chunk: u64) -> LogMemory {
        LogMemory { parts: parts.into(), chunk }
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
    fn piece(&self, lsn: u64) -> Option<&[u8]> {
        let i = self.parts.partition_point(|p| p.first <= lsn).checked_sub(1)?;
        let part = &self.parts[i];
        let at = lsn - part.first;
        let chunk = part.chunks.get((at / self.chunk) as usize).filter(|_| lsn < part.end)?;
        let at = (at % self.chunk) as usize;
        // A buffer may be longer than what was read into it.
        chunk.get(at..chunk.len().min(at.saturating_add((part.end - lsn) as usize)))
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
