//! The bytes of one file in memory, together with what a power failure would leave of them.
//!
//! A file is a sparse list of chunks of 64 KiB; a missing chunk is all zeros. Each chunk keeps its current
//! bytes behind an `Arc`, so that [`FileBytes::survivor`] copies nothing it need not, and remembers, for
//! every 512-byte sector changed since the last sync, what the sector held then. Writing thus costs one copy
//! of 512 bytes per sector for its first change, and a sync costs only what was changed.
//!
//! Two facts hold between calls, and everything here leans on them: the current bytes past the current length
//! are zero, and so are the durable bytes past the durable length (so no old copy is needed there).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::mem::CrashModel;
use crate::names::SECTOR;

pub(super) const CHUNK: usize = 64 * 1024;

/// Lengths remembered between two syncs; beyond it successive growth is merged into one change.
const MOST_LENGTHS: usize = 4096;

/// One bit per sector of a chunk.
type Sectors = u128;
const _: () = assert!(CHUNK / SECTOR == 128);

#[derive(Debug, Default, Clone)]
struct Chunk {
    /// Current bytes, `CHUNK` of them; `None` is all zeros.
    now: Option<Arc<Vec<u8>>>,
    /// Sectors whose current and durable bytes may differ.
    changed: Sectors,
    /// Of these, the ones written since (and not cut off after that).
    wrote: Sectors,
    /// Of these, the ones that a shrinking length zeroed.
    cut: Sectors,
    /// Durable bytes of changed sectors; a changed sector without an entry is durably zero.
    old: Vec<(u8, [u8; SECTOR])>,
    /// Whether the file's `dirty` list names this chunk.
    listed: bool,
}

impl Chunk {
    /// Notes the durable bytes of the sectors in `set` that change for the first time. `start` is the chunk's
    /// offset.
    fn note(&mut self, set: Sectors, start: u64, durable_len: u64) {
        let mut fresh = set & !self.changed;
        self.changed |= set;
        let Some(now) = &self.now else { return };
        while fresh != 0 {
            let s = fresh.trailing_zeros() as usize;
            fresh &= fresh - 1;
            if start + ((s * SECTOR) as u64) < durable_len {
                let mut copy = [0; SECTOR];
                copy.copy_from_slice(&now[s * SECTOR..(s + 1) * SECTOR]);
                self.old.push((s as u8, copy));
            }
        }
    }

    /// Makes the sectors in `set` durable as they are.
    fn settle(&mut self, set: Sectors) {
        if self.changed & set != 0 {
            self.old.retain(|(s, _)| set & (1 << s) == 0);
            self.changed &= !set;
            self.wrote &= !set;
            self.cut &= !set;
        }
    }

    fn bytes_mut(&mut self) -> &mut Vec<u8> {
        Arc::make_mut(self.now.get_or_insert_with(|| Arc::new(vec![0; CHUNK])))
    }
}

/// The set of the sectors that the bytes `from..to` of a chunk touch.
fn sectors(from: usize, to: usize) -> Sectors {
    if from >= to {
        return 0;
    }
    let (first, last) = (from / SECTOR, (to - 1) / SECTOR);
    (Sectors::MAX >> (127 - (last - first))) << first
}

#[derive(Debug, Default)]
pub(super) struct FileBytes {
    chunks: BTreeMap<u64, Chunk>,
    len: u64,
    durable_len: u64,
    /// Every length since the last sync, oldest first; the last is the current one.
    lengths: Vec<u64>,
    /// Where in `lengths` the last shrink stands.
    last_shrink: Option<usize>,
    /// Chunks that may have changed sectors; may name some twice or some that are gone.
    dirty: Vec<u64>,
}

impl FileBytes {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) -> usize {
        let n = self.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        let mut done = 0;
        while done < n {
            let at = offset + done as u64;
            let (index, from) = (at / CHUNK as u64, (at % CHUNK as u64) as usize);
            let take = (CHUNK - from).min(n - done);
            let out = &mut buf[done..done + take];
            match self.chunks.get(&index).and_then(|c| c.now.as_ref()) {
                Some(now) => out.copy_from_slice(&now[from..from + take]),
                None => out.fill(0),
            }
            done += take;
        }
        n
    }

    /// Writes; the caller has checked that the end does not overflow. With `durable`, what is written and the
    /// length are durable at once.
    pub(super) fn write(&mut self, offset: u64, buf: &[u8], durable: bool) {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let (index, from) = (at / CHUNK as u64, (at % CHUNK as u64) as usize);
            let take = (CHUNK - from).min(buf.len() - done);
            let set = sectors(from, from + take);
            let chunk = self.chunks.entry(index).or_default();
            if durable {
                chunk.settle(set);
            } else {
                chunk.note(set, index * CHUNK as u64, self.durable_len);
                chunk.wrote |= set;
                if !chunk.listed {
                    chunk.listed = true;
                    self.dirty.push(index);
                }
            }
            chunk.bytes_mut()[from..from + take].copy_from_slice(&buf[done..done + take]);
            done += take;
        }
        let end = offset + buf.len() as u64;
        if !buf.is_empty() && end > self.len {
            self.change_length(end);
        }
        if durable {
            if self.last_shrink.is_some() {
                // The length cannot become durable without what it cut off.
                self.sync();
            } else {
                self.durable_len = self.len;
                self.lengths.clear();
            }
        }
    }

    fn change_length(&mut self, len: u64) {
        if len == self.len {
            return;
        }
        if len < self.len {
            self.last_shrink = Some(self.lengths.len());
        } else if self.lengths.len() >= MOST_LENGTHS && self.last_shrink != Some(self.lengths.len() - 1) {
            self.lengths.pop();
        }
        self.lengths.push(len);
        self.len = len;
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.cut(len);
        }
        self.change_length(len);
    }

    /// Zeroes everything from `len` on.
    fn cut(&mut self, len: u64) {
        let first = len / CHUNK as u64;
        let durable_len = self.durable_len;
        let mut gone = Vec::new();
        for (&index, chunk) in self.chunks.range_mut(first..) {
            let start = index * CHUNK as u64;
            let from = len.saturating_sub(start) as usize;
            if from == 0 && start >= durable_len {
                gone.push(index);
                continue;
            }
            let whole = from.next_multiple_of(SECTOR);
            let set = sectors(from, CHUNK);
            chunk.note(set, start, durable_len);
            chunk.cut |= sectors(whole, CHUNK);
            chunk.wrote &= !sectors(whole, CHUNK);
            // The sector that the new end divides keeps its first part: as if its rest were written with
            // zeros.
            chunk.wrote |= sectors(from, whole);
            if from == 0 {
                chunk.now = None;
            } else {
                chunk.bytes_mut()[from..].fill(0);
            }
            if !chunk.listed {
                chunk.listed = true;
                self.dirty.push(index);
            }
        }
        for index in gone {
            self.chunks.remove(&index);
        }
    }

    pub(super) fn sync(&mut self) {
        for index in self.dirty.drain(..) {
            if let Some(chunk) = self.chunks.get_mut(&index) {
                *chunk = Chunk { now: chunk.now.take(), ..Chunk::default() };
            }
        }
        self.durable_len = self.len;
        self.lengths.clear();
        self.last_shrink = None;
    }

    /// A file that may be found after a power failure now.
    pub(super) fn survivor(&self, model: CrashModel, random: &mut SplitMix) -> FileBytes {
        let (kept, unit) = match model {
            CrashModel::LoseUnsynced => (0, 1),
            CrashModel::KeepAll => (self.lengths.len(), 1),
            // Lengths are metadata, which a journal replays in order: some first part of the changes
            // survives.
            CrashModel::Random { torn_sector_bytes, .. } => (
                random.below(self.lengths.len() as u64 + 1) as usize,
                (torn_sector_bytes / SECTOR).clamp(1, CHUNK / SECTOR),
            ),
        };
        let len = if kept == 0 { self.durable_len } else { self.lengths[kept - 1] };
        let shrunk = self.last_shrink.is_some_and(|at| kept > at);
        let mut out = FileBytes { len: len.max(self.len), ..FileBytes::default() };
        for (&index, chunk) in &self.chunks {
            let mut now = Chunk { now: chunk.now.clone(), ..Chunk::default() };
            let mut lost = chunk.changed
                & !match model {
                    CrashModel::LoseUnsynced => 0,
                    CrashModel::KeepAll => Sectors::MAX,
                    CrashModel::Random { .. } => chunk.wrote & random.units(chunk.wrote, unit),
                };
            while lost != 0 {
                let s = lost.trailing_zeros() as usize;
                lost &= lost - 1;
                let old = if chunk.cut & (1 << s) != 0 && shrunk { None } else { chunk.old_of(s) };
                if old.is_none() && now.now.is_none() {
                    continue;
                }
                now.bytes_mut()[s * SECTOR..(s + 1) * SECTOR].copy_from_slice(old.unwrap_or(&[0; SECTOR]));
            }
            out.chunks.insert(index, now);
        }
        // Bytes past the length that survives are cut off; then all of it is durable.
        out.set_len(len);
        out.sync();
        out
    }
}

impl Chunk {
    fn old_of(&self, sector: usize) -> Option<&[u8; SECTOR]> {
        self.old.iter().find(|(s, _)| usize::from(*s) == sector).map(|(_, bytes)| bytes)
    }
}

/// The small generator behind [`CrashModel::Random`]: Steele, Lea and Flood's SplitMix64.
#[derive(Debug)]
pub(super) struct SplitMix(pub(super) u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn coin(&mut self) -> bool {
        self.next() >> 63 == 1
    }

    /// Below `n`, which is not 0 (the bias of the remainder does not matter here).
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// One coin for each aligned group of `unit` sectors that has a member in `of`.
    fn units(&mut self, of: Sectors, unit: usize) -> Sectors {
        let mut out = 0;
        let mut first = 0;
        while first < 128 {
            let group = sectors(first * SECTOR, (first + unit).min(128) * SECTOR);
            if of & group != 0 && self.coin() {
                out |= group;
            }
            first += unit;
        }
        out
    }
}
