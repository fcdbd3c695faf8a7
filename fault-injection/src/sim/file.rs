//! What a power failure may leave of one file: its durable bytes, and the versions that are not.
//!
//! A *version* is what a write that was not synced left of the sectors that it touched. The candidates of a sector are its
//! durable content and its versions, oldest first. In the same way the candidates of the length are the durable length and
//! every length since. A version knows how many lengths there were when it was made (its *stamp*): a shrinking length that
//! came later and survives cuts it off, one that came later and is lost does not.
//!
//! Invariants: durable bytes past the durable length are zero, but for the sector in which that length lies, which may have
//! been decided or synced before a length that reaches further. No version of a sector is equal to the one before it,
//! unless a shrinking length came between them, or a boot.
use super::content::{Content, PAGE, SECTOR, SECTORS, Sector, garbage, hash, sector_hash};
use super::{FileId, Persistence};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Most candidates of a sector or a length; beyond it the oldest version is forgotten, two lengths that grew are taken for
/// one, and of lengths that shrink and grow the oldest becomes durable.
const MOST: usize = 250;

/// Whole sectors that were written at once.
#[derive(Debug)]
pub(super) struct Blob {
    bytes: Arc<[u8]>,
    /// The content hash of each.
    hashes: Vec<u64>,
}

impl Blob {
    fn new(bytes: Arc<[u8]>) -> Blob {
        let hashes = bytes.chunks_exact(SECTOR as usize).map(hash).collect();
        Blob { bytes, hashes }
    }
}

/// What one write left of one page.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub(super) op: u32,
    /// How many lengths there had been, in all.
    stamp: u32,
    /// Which sectors of the page it is a candidate for.
    pub(super) mask: u8,
    /// Which of these the next sync makes durable.
    dirty: u8,
    blob: Arc<Blob>,
    /// The sector of the file at which the blob begins.
    first: u64,
}

impl Version {
    fn sector(&self, sector: u64) -> &[u8] {
        let at = ((sector - self.first) * SECTOR) as usize;
        &self.blob.bytes[at..at + SECTOR as usize]
    }
    fn hash(&self, sector: u64) -> u64 {
        self.blob.hashes[(sector - self.first) as usize]
    }
}

/// The versions of a page's sectors, oldest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Versions {
    pub(super) list: Vec<Version>,
    /// Content hashes of the durable sectors that have versions.
    base: [u64; SECTORS as usize],
}

impl Versions {
    pub(super) fn mask(&self) -> u8 {
        self.list.iter().fold(0, |m, v| m | v.mask)
    }
    /// Versions of sector `i` of the page.
    pub(super) fn of(&self, i: u64) -> impl DoubleEndedIterator<Item = &Version> {
        self.list.iter().filter(move |v| v.mask & (1 << i) != 0)
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Length {
    pub(super) len: u64,
    pub(super) op: u32,
}

/// The sectors in a mask.
pub(super) fn bits(mask: u8) -> impl Iterator<Item = u64> {
    (0..SECTORS).filter(move |i| mask & (1 << i) != 0)
}

/// The sectors of page `page` that are in `sectors`.
fn mask_of(page: u64, sectors: &Range<u64>) -> u8 {
    (0..SECTORS).filter(|i| sectors.contains(&(page * SECTORS + i))).fold(0, |m, i| m | 1 << i)
}

/// A file, as a power failure may find it.
#[derive(Clone, Debug)]
pub(super) struct FileState {
    /// Durable bytes.
    base: Content,
    /// Their hash.
    hash: u64,
    /// The durable length, and the candidates after it, oldest first.
    lengths: Vec<Length>,
    /// The number, counted over all lengths that there ever were, of `lengths[0]` ...
    first_length: u32,
    /// ... and of the last that was shorter than the one before it; not after `first_length` if there is none here.
    last_shrink: u32,
    /// The last write or change of length, since the last sync, that needs a length that is not durable; 0 if none.
    length_op: u32,
    /// The last write since the last sync; 0 if none.
    last_op: u32,
    pub(super) pages: BTreeMap<u64, Arc<Versions>>,
    /// Whether the device writes each 4 KiB page as a whole: then all sectors of a page have the same versions, and the first
    /// of them is asked for all.
    atomic: bool,
}

impl Default for FileState {
    fn default() -> FileState {
        FileState {
            atomic: false,
            base: Content::default(),
            hash: 0,
            lengths: vec![Length { len: 0, op: 0 }],
            first_length: 0,
            last_shrink: 0,
            length_op: 0,
            last_op: 0,
            pages: BTreeMap::new(),
        }
    }
}

impl FileState {
    /// A new file on a device that writes pages as a whole, or does not.
    pub(super) fn new(atomic: bool) -> FileState {
        FileState { atomic, ..FileState::default() }
    }

    pub(super) fn is_atomic(&self) -> bool {
        self.atomic
    }

    /// The sector that is asked for this one.
    pub(super) fn asked_for(&self, sector: u64) -> u64 {
        if self.atomic { sector - sector % SECTORS } else { sector }
    }

    /// The undecided sectors among these that are asked for, with as many as depend on the answer.
    pub(super) fn asked(&self, mask: u8) -> u8 {
        if self.atomic && mask != 0 { 1 } else { mask }
    }

    pub(super) fn base(&self) -> &Content {
        &self.base
    }

    /// Whether nothing is undecided.
    pub(super) fn is_decided(&self) -> bool {
        self.pages.is_empty() && self.lengths.len() == 1
    }

    // Lengths.

    pub(super) fn lengths(&self) -> &[Length] {
        &self.lengths
    }

    pub(super) fn durable_len(&self) -> u64 {
        self.lengths[0].len
    }

    /// The newest length.
    fn len(&self) -> u64 {
        self.lengths[self.lengths.len() - 1].len
    }

    /// No answer makes the file shorter.
    pub(super) fn shortest(&self) -> u64 {
        self.lengths.iter().map(|l| l.len).min().unwrap_or(0)
    }

    /// Whether one of the candidate lengths is shorter than the one before it. Then the sectors depend on the length.
    pub(super) fn shrinks(&self) -> bool {
        self.last_shrink > self.first_length
    }

    /// Where content of this stamp is cut off if the length is candidate `upto`, by lengths before and up to that. Whole
    /// sectors are dropped; the rest of the one that a length divides is overwritten with zeros, and such a write is a
    /// version like others.
    fn cut(&self, stamp: u32, upto: usize) -> u64 {
        if !self.shrinks() {
            return u64::MAX;
        }
        let from = (stamp + 1).saturating_sub(self.first_length).max(1) as usize;
        let shortest = self.lengths.get(from..=upto).into_iter().flatten().map(|l| l.len).min();
        shortest.map_or(u64::MAX, |len| len.next_multiple_of(SECTOR))
    }

    /// Where the durable bytes are cut off if the length is candidate `k`.
    pub(super) fn base_cut(&self, k: usize) -> u64 {
        self.cut(self.first_length, k).min(self.lengths[k].len)
    }

    /// A change of the length. Ops from `own` on were issued since the boot.
    pub(super) fn set_len(&mut self, op: u32, len: u64, own: u32) {
        if len >= self.len() {
            return self.add_length(op, len);
        }
        // The sector that the new end divides is written, with zeros for its rest.
        let sector = len / SECTOR;
        let rest = match len % SECTOR {
            0 => None,
            n => Some(self.current(sector).into_owned()).filter(|b| b[n as usize..].iter().any(|b| *b != 0)),
        };
        self.add_length(op, len);
        if let Some(mut bytes) = rest {
            bytes[(len % SECTOR) as usize..].fill(0);
            let stamp = self.first_length + self.lengths.len() as u32 - 1;
            let blob = Arc::new(Blob::new(Arc::from(bytes)));
            let version = Version { op, stamp, mask: 0, dirty: 0, blob, first: sector };
            self.add(sector / SECTORS, 1 << (sector % SECTORS), version, own);
        }
    }

    pub(super) fn is_cut_inside_a_sector_by(&self, len: u64) -> bool {
        len < self.len() && !len.is_multiple_of(SECTOR)
    }

    fn add_length(&mut self, op: u32, len: u64) {
        if len == self.len() {
            return;
        }
        self.length_op = op;
        self.last_op = op;
        let number = self.first_length + self.lengths.len() as u32;
        if self.lengths.len() >= MOST {
            if len > self.len() && self.last_shrink < number - 1 {
                self.lengths.pop();
            } else {
                self.settle_length(1);
            }
        }
        // A file that grows by more than a block may have grown in part: one length stands for those between.
        let half = (self.len() / 2 + len / 2).next_multiple_of(PAGE);
        if len > self.len() && half > self.len() && half < len && self.lengths.len() + 2 < MOST {
            self.lengths.push(Length { len: half, op });
        }
        if len < self.len() {
            self.last_shrink = number;
        }
        self.lengths.push(Length { len, op });
    }

    /// The last operation that a sync now would wait for.
    pub(super) fn last_op(&self) -> u32 {
        self.last_op
    }

    // Sectors.

    /// What the sector holds now.
    fn current(&self, sector: u64) -> Cow<'_, [u8]> {
        let versions = self.pages.get(&(sector / SECTORS));
        let last = versions.and_then(|p| p.of(sector % SECTORS).next_back());
        let (bytes, stamp) = match last {
            Some(v) => (v.sector(sector), v.stamp),
            None => (&self.base.sector(sector)[..], self.first_length),
        };
        cut_sector(bytes, sector, self.cut(stamp, self.lengths.len() - 1))
    }

    /// A write. Ops from `own` on were issued since the boot.
    pub(super) fn write(&mut self, op: u32, at: u64, data: &Arc<[u8]>, own: u32) {
        let end = at + data.len() as u64;
        let needs_length = self.lengths.len() > 1 && end > self.shortest();
        if end > self.len() {
            self.add_length(op, end);
        } else if needs_length {
            self.length_op = op;
        }
        self.last_op = op;
        let sectors = at / SECTOR..end.div_ceil(SECTOR);
        let bytes = if at.is_multiple_of(SECTOR) && end.is_multiple_of(SECTOR) {
            data.clone()
        } else {
            let mut all = vec![0; ((sectors.end - sectors.start) * SECTOR) as usize];
            let last = all.len() - SECTOR as usize;
            all[..SECTOR as usize].copy_from_slice(&self.current(sectors.start));
            all[last..].copy_from_slice(&self.current(sectors.end - 1));
            let from = (at % SECTOR) as usize;
            all[from..from + data.len()].copy_from_slice(data);
            Arc::from(all)
        };
        let blob = Arc::new(Blob::new(bytes));
        let stamp = self.first_length + self.lengths.len() as u32 - 1;
        for page in sectors.start / SECTORS..sectors.end.div_ceil(SECTORS) {
            let version = Version { op, stamp, mask: 0, dirty: 0, blob: blob.clone(), first: sectors.start };
            self.add(page, mask_of(page, &sectors), version, own);
        }
    }

    /// Adds a version for the sectors in `mask`, as far as it differs from what was there.
    fn add(&mut self, page: u64, mask: u8, mut version: Version, own: u32) {
        let mut known = self.pages.remove(&page);
        let mut same = 0;
        for i in bits(mask) {
            let sector = page * SECTORS + i;
            let new = version.sector(sector);
            let last = known.as_ref().and_then(|k| k.list.iter().rposition(|v| v.mask & (1 << i) != 0));
            match (last, &mut known) {
                (Some(at), Some(k)) => {
                    let v = &k.list[at];
                    if v.op >= own && v.stamp >= self.last_shrink && v.sector(sector) == new {
                        // The sync after a failed one makes it durable all the same.
                        if v.dirty & (1 << i) == 0 {
                            Arc::make_mut(k).list[at].dirty |= 1 << i;
                        }
                        same |= 1 << i;
                    }
                }
                _ => {
                    let base = self.base.sector(sector);
                    if !self.shrinks() && base == new {
                        same |= 1 << i;
                    } else {
                        let hash = hash(base);
                        Arc::make_mut(known.get_or_insert_default()).base[i as usize] = hash;
                    }
                }
            }
        }
        if self.atomic && same != mask {
            // A page is one: what did not change in it is written too.
            for i in bits(same) {
                let k = Arc::make_mut(known.get_or_insert_default());
                if k.of(i).next().is_none() {
                    k.base[i as usize] = hash(self.base.sector(page * SECTORS + i));
                }
            }
            same = 0;
        }
        version.mask = mask & !same;
        version.dirty = version.mask;
        if version.mask != 0 {
            let list = &mut Arc::make_mut(known.get_or_insert_default()).list;
            if list.len() >= MOST {
                for i in bits(version.mask) {
                    let bit = 1 << i;
                    if list.iter().filter(|v| v.mask & bit != 0).count() >= MOST
                        && let Some(oldest) = list.iter_mut().find(|v| v.mask & bit != 0)
                    {
                        oldest.mask &= !bit;
                    }
                }
                list.retain(|v| v.mask != 0);
            }
            list.push(version);
        }
        if let Some(k) = known
            && !k.list.is_empty()
        {
            self.pages.insert(page, k);
        }
    }

    /// Replaces a durable sector. `old` and `new` are content hashes.
    fn set_base(&mut self, sector: u64, bytes: &[u8], old: u64, new: u64) {
        self.base.write(sector * SECTOR, bytes);
        self.hash = self.hash.wrapping_sub(sector_hash(sector, old)).wrapping_add(sector_hash(sector, new));
    }

    // What a sync does.

    /// A sync that works: everything up to operation `upto` that was written since the last one is durable.
    pub(super) fn sync(&mut self, upto: u32, own: u32) {
        if self.length_op >= own.max(1) {
            let newest = self.lengths.iter().rposition(|l| l.op <= upto).unwrap_or(0);
            self.settle_length(newest);
            if self.length_op <= upto {
                self.length_op = 0;
            }
        }
        if self.last_op <= upto {
            self.last_op = 0;
        }
        for (page, versions) in std::mem::take(&mut self.pages) {
            self.settle_page(page, versions, u8::MAX, &|v, bit| {
                v.op <= upto && v.op >= own && v.dirty & bit != 0
            });
        }
        self.trim();
    }

    /// With one length only, nothing lies behind it: what a failed sync left there was never to be seen.
    fn trim(&mut self) {
        if self.lengths.len() == 1 && !self.len().is_multiple_of(SECTOR) {
            let last = self.base.sector(self.len() / SECTOR);
            if last[(self.len() % SECTOR) as usize..].iter().any(|b| *b != 0) {
                self.cut_base(self.len());
            }
        }
    }

    /// The last write, to these bytes, is durable by itself.
    pub(super) fn sync_write(&mut self, op: u32, bytes: Range<u64>) {
        if self.length_op == op {
            self.settle_length(self.lengths.len() - 1);
            self.length_op = 0;
        }
        let sectors = bytes.start / SECTOR..bytes.end.div_ceil(SECTOR);
        for page in sectors.start / SECTORS..sectors.end.div_ceil(SECTORS) {
            if let Some(versions) = self.pages.remove(&page) {
                self.settle_page(page, versions, mask_of(page, &sectors), &|_, _| true);
            }
        }
        self.trim();
    }

    /// A sync that failed: no later one makes durable what was written before it.
    pub(super) fn sync_failed(&mut self) {
        self.length_op = 0;
        self.last_op = 0;
        for versions in self.pages.values_mut() {
            if versions.list.iter().any(|v| v.dirty != 0) {
                Arc::make_mut(versions).list.iter_mut().for_each(|v| v.dirty = 0);
            }
        }
    }

    /// A process died, and the machine did not: everything issued since the boot is there.
    pub(super) fn keep(&mut self, own: u32) {
        if self.lengths[self.lengths.len() - 1].op >= own {
            self.settle_length(self.lengths.len() - 1);
        }
        for (page, versions) in std::mem::take(&mut self.pages) {
            self.settle_page(page, versions, u8::MAX, &|v, _| v.op >= own);
        }
        self.length_op = 0;
        self.last_op = 0;
    }

    /// Of each sector in `mask`, makes the newest version durable that `which` accepts, and drops those before it. The page
    /// has been taken out of `pages`; puts back what remains.
    fn settle_page(
        &mut self,
        page: u64,
        mut versions: Arc<Versions>,
        mask: u8,
        which: &dyn Fn(&Version, u8) -> bool,
    ) {
        let all = versions.mask();
        // Whether a version stays in the list, by sector: all do unless something newer is durable.
        let mut settled = Vec::new();
        for i in bits(all & mask) {
            let bit = 1 << i;
            if let Some(at) = versions.list.iter().rposition(|v| v.mask & bit != 0 && which(v, bit)) {
                let (v, sector) = (&versions.list[at], page * SECTORS + i);
                self.set_base(sector, v.sector(sector), versions.base[i as usize], v.hash(sector));
                settled.push((at, i));
            }
        }
        let is_last = |(at, i): &(usize, u64)| versions.list[at + 1..].iter().all(|v| v.mask & (1 << i) == 0);
        if settled.len() == all.count_ones() as usize && settled.iter().all(is_last) {
            return;
        }
        if !settled.is_empty() {
            let v = Arc::make_mut(&mut versions);
            for (at, i) in settled {
                v.base[i as usize] = v.list[at].hash(page * SECTORS + i);
                v.list[..=at].iter_mut().for_each(|v| {
                    v.mask &= !(1 << i);
                    v.dirty &= v.mask;
                });
            }
            v.list.retain(|v| v.mask != 0);
        }
        if !versions.list.is_empty() {
            self.pages.insert(page, versions);
        }
    }

    /// Candidate `k` of the length is durable, and those after it are still pending.
    fn settle_length(&mut self, k: usize) {
        if k == 0 {
            return;
        }
        if self.shrinks() {
            self.cut_base(self.cut(self.first_length, k));
            self.cut_versions(&|f, stamp| f.cut(stamp, k));
        }
        self.lengths.drain(..k);
        self.lengths[0].op = 0;
        self.first_length += k as u32;
    }

    // What a power failure does.

    /// The length is candidate `k`, and that is all.
    pub(super) fn decide_length(&mut self, k: usize) {
        let len = self.lengths[k].len;
        self.cut_base(self.base_cut(k));
        // What lies past the end cannot be read.
        let first = len.div_ceil(SECTOR);
        let gone: Vec<u64> = self.pages.range(first / SECTORS..).map(|(page, _)| *page).collect();
        for page in gone {
            if let Some(mut versions) = self.pages.remove(&page) {
                let v = Arc::make_mut(&mut versions);
                let keep = mask_of(page, &(0..first));
                v.list.iter_mut().for_each(|v| {
                    v.mask &= keep;
                    v.dirty &= keep;
                });
                v.list.retain(|v| v.mask != 0);
                if !v.list.is_empty() {
                    self.pages.insert(page, versions);
                }
            }
        }
        self.cut_versions(&|f, stamp| f.cut(stamp, k).min(len));
        self.first_length += self.lengths.len() as u32 - 1;
        self.lengths.clear();
        self.lengths.push(Length { len, op: 0 });
        self.length_op = 0;
    }

    fn cut_base(&mut self, from: u64) {
        if from >= self.durable_len().next_multiple_of(SECTOR) {
            return;
        }
        self.hash = self.hash.wrapping_sub(self.base.hash(from));
        self.base.cut(from);
        if !from.is_multiple_of(SECTOR) {
            let sector = from / SECTOR;
            self.hash = self.hash.wrapping_add(sector_hash(sector, hash(self.base.sector(sector))));
        }
        let base = &self.base;
        for (page, versions) in self.pages.range_mut(from / SECTOR / SECTORS..) {
            let v = Arc::make_mut(versions);
            for i in bits(v.mask()) {
                v.base[i as usize] = hash(base.sector(page * SECTORS + i));
            }
        }
    }

    /// Cuts every version where `cut` says, given its stamp.
    fn cut_versions(&mut self, cut: &dyn Fn(&FileState, u32) -> u64) {
        let mut pages = std::mem::take(&mut self.pages);
        for (page, versions) in &mut pages {
            let end = (page + 1) * SECTORS * SECTOR;
            if versions.list.iter().all(|v| cut(self, v.stamp) >= end) {
                continue;
            }
            for v in &mut Arc::make_mut(versions).list {
                let at = cut(self, v.stamp);
                if at < end {
                    let mut bytes = vec![0; (SECTORS * SECTOR) as usize];
                    for i in bits(v.mask) {
                        let sector = page * SECTORS + i;
                        bytes[(i * SECTOR) as usize..][..SECTOR as usize].copy_from_slice(&cut_sector(
                            v.sector(sector),
                            sector,
                            at,
                        ));
                    }
                    v.blob = Arc::new(Blob::new(Arc::from(bytes)));
                    v.first = page * SECTORS;
                }
            }
        }
        self.pages = pages;
    }

    /// How many candidates the sector has; 1 if it is decided.
    pub(super) fn options(&self, sector: u64, model: Persistence) -> u8 {
        let versions = self.pages.get(&(sector / SECTORS));
        match versions.map_or(0, |v| v.of(sector % SECTORS).count()) {
            0 => 1,
            n => 1 + n as u8 + if model == Persistence::Hostile && !self.atomic { 2 } else { 0 },
        }
    }

    /// What the sector holds if its answer is `answer`, and the content hash of that.
    fn candidate<'a>(
        &'a self,
        id: FileId,
        versions: &'a Versions,
        sector: u64,
        answer: u8,
    ) -> (Cow<'a, [u8]>, u64) {
        let i = sector % SECTORS;
        let Some(past) = answer.checked_sub(1) else {
            return (Cow::Borrowed(self.base.sector(sector)), versions.base[i as usize]);
        };
        if let Some(v) = versions.of(i).nth(usize::from(past)) {
            return (Cow::Borrowed(v.sector(sector)), v.hash(sector));
        }
        if usize::from(past) == versions.of(i).count() {
            return (Cow::Borrowed(&super::content::ZEROS), 0);
        }
        let bytes = garbage(id, sector);
        let h = hash(&bytes);
        (Cow::Owned(bytes.to_vec()), h)
    }

    /// What the sector holds if its answer is `answer`. If [lengths shrink](Self::shrinks), the length must be decided
    /// first.
    pub(super) fn chosen(&self, id: FileId, sector: u64, answer: u8) -> Sector {
        let mut out = *self.base.sector(sector);
        if let Some(versions) = self.pages.get(&(sector / SECTORS)) {
            out.copy_from_slice(&self.candidate(id, versions, sector, answer).0);
        }
        out
    }

    /// The sector holds candidate `answer`, and that is all.
    pub(super) fn decide_sector(&mut self, id: FileId, sector: u64, answer: u8) {
        let first = sector - sector % SECTORS;
        let others = if self.atomic { first..first + SECTORS } else { sector..sector + 1 };
        for sector in others {
            self.decide_one(id, sector, answer);
        }
    }

    fn decide_one(&mut self, id: FileId, sector: u64, answer: u8) {
        let (page, i) = (sector / SECTORS, sector % SECTORS);
        if self.pages.get(&page).is_none_or(|v| v.mask() & (1 << i) == 0) {
            return;
        }
        let Some(mut versions) = self.pages.remove(&page) else { return };
        let (bytes, new) = self.candidate(id, &versions, sector, answer);
        let mut bytes = bytes.into_owned();
        let mut new = new;
        // A length that was decided before may lie inside the sector: garbage too ends there.
        let within = self.durable_len().saturating_sub(sector * SECTOR);
        if self.lengths.len() == 1 && within < SECTOR {
            bytes[within as usize..].fill(0);
            new = hash(&bytes);
        }
        if answer != 0 {
            self.set_base(sector, &bytes, versions.base[i as usize], new);
        }
        let v = Arc::make_mut(&mut versions);
        v.list.iter_mut().for_each(|v| {
            v.mask &= !(1 << i);
            v.dirty &= v.mask;
        });
        v.list.retain(|v| v.mask != 0);
        if !v.list.is_empty() {
            self.pages.insert(page, versions);
        }
    }

    /// A hash of the bytes and the length that these answers give.
    pub(super) fn fingerprint(
        &self,
        id: FileId,
        model: Persistence,
        length: &dyn Fn(u8) -> u8,
        sector: &dyn Fn(u64, u8) -> u8,
    ) -> u64 {
        let k = match self.lengths.len() {
            1 => 0,
            n => usize::from(length(n as u8)).min(n - 1),
        };
        let len = self.lengths[k].len;
        if self.shrinks() {
            let mut decided = self.clone();
            decided.decide_length(k);
            return decided.fingerprint(id, model, &|_| 0, sector);
        }
        let mut sum = self.hash;
        if !len.is_multiple_of(SECTOR) {
            // Durable bytes of the last sector may reach beyond the end.
            let (s, base) = (len / SECTOR, self.base.sector(len / SECTOR));
            if base[(len % SECTOR) as usize..].iter().any(|b| *b != 0) {
                let cut = hash(&cut_sector(base, s, len));
                sum = sum.wrapping_sub(sector_hash(s, hash(base))).wrapping_add(sector_hash(s, cut));
            }
        }
        for (page, versions) in &self.pages {
            for i in bits(versions.mask()) {
                let s = page * SECTORS + i;
                if s * SECTOR >= len {
                    break;
                }
                let options = self.options(s, model);
                let answer = sector(self.asked_for(s), options).min(options - 1);
                if answer == 0 {
                    continue;
                }
                let (bytes, mut content) = self.candidate(id, versions, s, answer);
                let mut old = versions.base[i as usize];
                if (s + 1) * SECTOR > len {
                    content = hash(&cut_sector(&bytes, s, len));
                    old = hash(&cut_sector(self.base.sector(s), s, len));
                }
                sum = sum.wrapping_sub(sector_hash(s, old)).wrapping_add(sector_hash(s, content));
            }
        }
        super::content::mix(sum, len)
    }

    // Looking at it, and damaging it.

    /// Whether these bytes are the same, and there, in every candidate.
    pub(super) fn is_certain(&self, bytes: Range<u64>, model: Persistence) -> bool {
        if bytes.is_empty() {
            return true;
        }
        if bytes.end > self.shortest() {
            return false;
        }
        let sectors = bytes.start / SECTOR..bytes.end.div_ceil(SECTOR);
        self.pages.range(sectors.start / SECTORS..sectors.end.div_ceil(SECTORS)).all(|(page, versions)| {
            bits(versions.mask() & mask_of(*page, &sectors)).all(|i| {
                let sector = page * SECTORS + i;
                let at = sector * SECTOR;
                let part = bytes.start.saturating_sub(at) as usize..(bytes.end - at).min(SECTOR) as usize;
                let base = &self.base.sector(sector)[part.clone()];
                model != Persistence::Hostile
                    && versions.of(i).all(|v| v.sector(sector)[part.clone()] == *base)
            })
        })
    }

    /// A file that is these bytes, durably. Pages that are equal to those of this file are shared with it.
    pub(super) fn replaced(&self, bytes: &[u8]) -> FileState {
        let mut base = self.base.clone();
        let mut hash = self.hash;
        let len = bytes.len() as u64;
        if len < self.durable_len() {
            hash = hash.wrapping_sub(base.hash(len));
            base.cut(len);
            if !len.is_multiple_of(SECTOR) {
                hash = hash
                    .wrapping_add(sector_hash(len / SECTOR, super::content::hash(base.sector(len / SECTOR))));
            }
        }
        for (n, new) in bytes.chunks(SECTOR as usize).enumerate() {
            let sector = n as u64;
            let old = base.sector(sector);
            if old[..new.len()] != *new {
                hash = hash.wrapping_sub(sector_hash(sector, super::content::hash(old)));
                base.write(sector * SECTOR, new);
                hash = hash.wrapping_add(sector_hash(sector, super::content::hash(base.sector(sector))));
            }
        }
        FileState { base, hash, lengths: vec![Length { len, op: 0 }], ..FileState::new(self.atomic) }
    }
}

/// A sector with everything from byte `cut` of the file on zeroed.
fn cut_sector(bytes: &[u8], sector: u64, cut: u64) -> Cow<'_, [u8]> {
    let within = cut.saturating_sub(sector * SECTOR);
    if within >= SECTOR {
        return Cow::Borrowed(bytes);
    }
    let mut out = bytes.to_vec();
    out[within as usize..].fill(0);
    Cow::Owned(out)
}
