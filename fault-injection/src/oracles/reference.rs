//! A second recovery, small and pure, to compare the engine's with.
//!
//! It shares no code with the engine: the files are read by `formats`; a page is not an array of bytes here but what it
//! means, a sorted list of rows, and every operation of `docs/formats/btree.md` is carried out on that. There is no buffer
//! pool, no dirty page table and no redo point: all of the log that is there is repeated, in log order, on every page whose
//! pageLSN is lower. The checkpoint is used for one thing only, the proof of how far the log was durable.
//!
//! 1. Read the log from its oldest whole group to its end; decide whether what follows is a torn tail.
//! 2. Redo: a page that is torn, or lacks more than the log has, is unknown until a whole-page record makes it known.
//! 3. Losers are the transactions that have a record in the log and neither commit nor end. Their updates are undone from the
//!    back, row by row, with the undo bytes; CLRs are followed and never undone. A CLR that leaves some rows of its record says how
//!    many: these are undone next, and no other of that record.
//! 4. Read the trees of the catalogue from their roots, and the chains of large values. An unknown page that is needed here
//!    is damage. A row of a loser that is left is a bug.
//!
//! Nothing is written.
use super::formats::{self, Block, Fields, Judge, Log, Record, Whole, damage, kind, u16_at, u32_at, u64_at};
use crate::engine::{Config, Failure, FailureKind};
use crate::model::{Contents, Rows};
use hamal::disk::{Disk, DiskFile};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;

const GHOST: u64 = 1 << 63;
const OLDER: u64 = 1 << 62;
const WRITER: u64 = (1 << 56) - 1;
const CATALOGUE_ROOT: u64 = 1;

/// What the reference recovery met, for the coverage ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The end of the log.
    pub log_end: u64,
    /// Bytes of an incomplete group follow it.
    pub torn_tail: bool,
    /// Records in the log.
    pub records: u64,
    /// Pages whose stored version was torn, and that came back from the log.
    pub torn_pages: u64,
    /// Transactions that were rolled back.
    pub losers: u64,
    /// Of these, the ones of which something had been undone before the crash.
    pub partly_undone: u64,
    /// Updates that were undone.
    pub undone: u64,
    /// Of these, the ones of which some rows had been undone before the crash, and some had not.
    pub continued: u64,
}

/// Recovers the database on `disk` in memory and returns what it holds. A disk without a control file holds nothing.
///
/// # Errors
/// `Damage` if the files cannot be what a crash leaves; `Bug` if the log contradicts itself; `Io`.
pub fn recover(disk: Arc<dyn Disk>, config: &Config) -> Result<Contents, Failure> {
    recover_with_facts(disk, config).map(|(contents, _)| contents)
}

/// [`recover`], and what it met.
///
/// # Errors
/// As there.
pub fn recover_with_facts(disk: Arc<dyn Disk>, config: &Config) -> Result<(Contents, Facts), Failure> {
    let Some(control) = formats::control(&disk)? else { return Ok(Default::default()) };
    if control.page_size != config.page_size as usize {
        return Err(bug(format!("the database has pages of {} bytes", control.page_size)));
    }
    let log = Log::open(&disk, &control, Judge::Verdict)?;
    if log.start > control.keep_from {
        return Err(damage(format!(
            "the log begins at {}, but is needed from {} on",
            log.start, control.keep_from
        )));
    }
    let data = formats::open(&disk, "data")?.ok_or_else(|| damage("the data file is missing"))?;
    let facts = Facts {
        log_end: log.end,
        torn_tail: log.torn,
        records: log.records.len() as u64,
        ..Facts::default()
    };
    let mut db =
        Reference { page_size: control.page_size, db: control.db, log, data, pages: HashMap::new(), facts };
    db.redo()?;
    let losers = db.undo()?;
    let contents = db.contents(&losers)?;
    Ok((contents, db.facts))
}

fn bug(text: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Bug, text)
}

/// What a page means.
#[derive(Debug)]
enum Meaning {
    Node(Node),
    Overflow(Overflow),
    /// A map page, or a page of a manager that holds no trees.
    Other,
}

#[derive(Debug)]
struct Node {
    level: u8,
    lower: Vec<u8>,
    upper: Option<Vec<u8>>,
    /// The child left of all separators.
    left: u64,
    entries: Vec<(Vec<u8>, Entry)>,
}

#[derive(Debug)]
enum Entry {
    Child(u64),
    Row(Row),
}

#[derive(Clone, Debug)]
struct Row {
    word: u64,
    chain: bool,
    value: Vec<u8>,
}

#[derive(Debug)]
struct Overflow {
    next: u64,
    position: u64,
    head: u64,
    data: Vec<u8>,
}

/// A page as far as it is known.
#[derive(Debug)]
enum Page {
    /// Sound bytes from the disk or an image that nobody has asked for yet.
    Stored {
        lsn: u64,
        bytes: Vec<u8>,
    },
    Known {
        lsn: u64,
        tree: u32,
        meaning: Meaning,
    },
    /// Nothing is known until a whole-page record comes; why.
    Unknown {
        torn: bool,
        why: String,
    },
}

struct Reference {
    page_size: usize,
    db: [u8; 16],
    log: Log,
    data: Arc<dyn DiskFile>,
    pages: HashMap<u64, Page>,
    facts: Facts,
}

// ---- pages as bytes, and as what they mean ----

fn common_prefix(lower: &[u8], upper: Option<&[u8]>) -> usize {
    upper.map_or(0, |u| lower.iter().zip(u).take_while(|(a, b)| a == b).count())
}

/// Reads a page's bytes; `None` if they are none of the pages that are documented.
fn meaning_of(b: &[u8]) -> Option<Meaning> {
    let header = formats::page_header(b);
    match (header.rm, header.kind) {
        (2, 1 | 2) => node_of(b).map(Meaning::Node),
        (2, 3) => {
            let len = u32_at(b, 64) as usize;
            let data = b.get(72..72 + len)?.to_vec();
            Some(Meaning::Overflow(Overflow {
                next: u64_at(b, 40),
                position: u64_at(b, 48),
                head: u64_at(b, 56),
                data,
            }))
        }
        (2, _) => None,
        _ => Some(Meaning::Other),
    }
}

fn node_of(b: &[u8]) -> Option<Node> {
    let level = b[40];
    let fence = |at: usize| b.get(u16_at(b, at)..u16_at(b, at) + u16_at(b, at + 2));
    let lower = fence(54)?.to_vec();
    let upper = if b[41] & 1 != 0 { None } else { Some(fence(58)?.to_vec()) };
    let prefix = lower.get(..u16_at(b, 52))?;
    if prefix.len() != common_prefix(&lower, upper.as_deref()) {
        return None;
    }
    let mut entries = Vec::with_capacity(u16_at(b, 42));
    for i in 0..u16_at(b, 42) {
        let slot = u64_at(b.get(80 + 8 * i..88 + 8 * i)?, 0);
        let (at, len) = ((slot >> 16) as usize & 0xffff, (slot >> 2) as usize & 0x3fff);
        let fixed = if level == 0 { 12 } else { 8 };
        let tail = at + fixed..at + fixed + len.saturating_sub(4);
        let mut key = Vec::with_capacity(prefix.len() + len);
        key.extend_from_slice(prefix);
        key.extend_from_slice(&((slot >> 32) as u32).to_be_bytes()[..len.min(4)]);
        key.extend_from_slice(b.get(tail.clone())?);
        let entry = if level == 0 {
            let (value_len, allotment) = (u16_at(b, at + 8), u16_at(b, at + 10));
            if value_len > allotment {
                return None;
            }
            let value = b.get(tail.end..tail.end + value_len)?.to_vec();
            Entry::Row(Row { word: u64_at(b, at), chain: slot & 1 != 0, value })
        } else {
            Entry::Child(u64_at(b, at))
        };
        entries.push((key, entry));
    }
    let ordered = entries.windows(2).all(|w| w[0].0 < w[1].0)
        && entries.first().is_none_or(|e| lower <= e.0)
        && entries.last().is_none_or(|e| upper.as_ref().is_none_or(|u| e.0 < *u));
    ordered.then(|| Node { level, lower, upper, left: u64_at(b, 72), entries })
}

// ---- redo ----

impl Reference {
    /// Reads a page from the disk.
    fn load(&self, id: u64) -> Result<Page, Failure> {
        let mut bytes = vec![0; self.page_size];
        let offset =
            id.checked_mul(self.page_size as u64).ok_or_else(|| bug(format!("there is no page {id}")))?;
        let have = formats::read(&*self.data, "data", offset, &mut bytes)?;
        if have < bytes.len() || bytes.iter().all(|b| *b == 0) {
            return Ok(Page::Unknown { torn: false, why: "was never written".into() });
        }
        if !formats::page_is_sound(&bytes, &self.db, id) {
            return Ok(Page::Unknown { torn: true, why: "is torn".into() });
        }
        let header = formats::page_header(&bytes);
        if header.lsn.max(header.img) >= self.log.end {
            let (lsn, end) = (header.lsn.max(header.img), self.log.end);
            return Err(damage(format!("page {id} has seen LSN {lsn}, and the log ends at {end}")));
        }
        Ok(Page::Stored { lsn: header.lsn, bytes })
    }

    fn redo(&mut self) -> Result<(), Failure> {
        for i in 0..self.log.records.len() {
            let record = self.log.records[i].clone();
            for b in record.blocks.clone() {
                let block = self.log.blocks[b].clone();
                self.redo_block(&record, &block)?;
            }
        }
        Ok(())
    }

    fn redo_block(&mut self, record: &Record, block: &Block) -> Result<(), Failure> {
        let mut page = match self.pages.remove(&block.page) {
            Some(p) => p,
            None => self.load(block.page)?,
        };
        let lsn = match &page {
            Page::Stored { lsn, .. } | Page::Known { lsn, .. } => Some(*lsn),
            Page::Unknown { .. } => None,
        };
        if lsn.is_none_or(|l| l < record.lsn) {
            let torn = matches!(page, Page::Unknown { torn: true, .. });
            page = self.apply(record, block, page, lsn).ok_or_else(|| {
                let what = format!("operation {} cannot be applied to page {}", block.op, block.page);
                bug(format!("the record at {}: {what}", record.lsn))
            })?;
            if torn && !matches!(page, Page::Unknown { .. }) {
                self.facts.torn_pages += 1;
            }
        }
        self.pages.insert(block.page, page);
        Ok(())
    }

    /// Applies a block to a page that has not seen it. `None`: it does not fit.
    fn apply(&self, record: &Record, block: &Block, page: Page, lsn: Option<u64>) -> Option<Page> {
        let payload = self.log.slice(&block.payload);
        match block.whole {
            Whole::Image => {
                let bytes = formats::decode_image(payload, self.page_size)?;
                let header = formats::page_header(&bytes);
                if header.id != block.page || header.lsn != block.former || header.lsn >= record.lsn {
                    return None;
                }
                // An image has the page's own pageLSN. If the page has seen more, the image says nothing new.
                let new = lsn.is_none_or(|l| l < header.lsn);
                Some(if new { Page::Stored { lsn: header.lsn, bytes } } else { page })
            }
            Whole::Free => Some(Page::Known { lsn: record.lsn, tree: 0, meaning: Meaning::Other }),
            Whole::Init => {
                let (head, rest) = payload.split_at_checked(6)?;
                let meaning = match (head[0], block.op) {
                    (2, 7) => Meaning::Node(init(rest)?),
                    (2, 64) => {
                        let mut f = Fields(rest);
                        let (position, head) = (f.u64()?, f.u64()?);
                        Meaning::Overflow(Overflow { next: 0, position, head, data: f.0.to_vec() })
                    }
                    (2, _) => return None,
                    _ => Meaning::Other,
                };
                Some(Page::Known { lsn: record.lsn, tree: u32_at(head, 2), meaning })
            }
            Whole::No => match lsn {
                None => Some(page),
                Some(l) if l != block.former => {
                    // History has a hole here. It must not matter: a later whole-page record has to fill it.
                    let why = format!(
                        "has pageLSN {l}, and the record at {} was made on {}",
                        record.lsn, block.former
                    );
                    Some(Page::Unknown { torn: false, why })
                }
                Some(_) => {
                    let (mut tree, mut meaning) = known(page)?;
                    change(&mut meaning, &mut tree, record.txn, block.op, payload)?;
                    Some(Page::Known { lsn: record.lsn, tree, meaning })
                }
            },
        }
    }
}

fn known(page: Page) -> Option<(u32, Meaning)> {
    match page {
        Page::Known { tree, meaning, .. } => Some((tree, meaning)),
        Page::Stored { bytes, .. } => Some((formats::page_header(&bytes).tree, meaning_of(&bytes)?)),
        Page::Unknown { .. } => None,
    }
}

/// The entries at the end of a payload; `prefix` is what their keys lack.
fn entries(f: &mut Fields<'_>, level: u8, prefix: &[u8]) -> Option<Vec<(Vec<u8>, Entry)>> {
    let mut out = Vec::new();
    for _ in 0..f.varint()? {
        let key = [prefix, f.bytes()?].concat();
        let entry = if level == 0 {
            let (word, chain, _allotment) = (f.u64()?, f.u8()? != 0, f.varint()?);
            Entry::Row(Row { word, chain, value: f.bytes()?.to_vec() })
        } else {
            Entry::Child(f.varint()?)
        };
        out.push((key, entry));
    }
    f.0.is_empty().then_some(out)
}

fn init(payload: &[u8]) -> Option<Node> {
    let mut f = Fields(payload);
    let (level, flags, lower, upper) = (f.u8()?, f.u8()?, f.bytes()?.to_vec(), f.bytes()?.to_vec());
    let upper = (flags & 1 == 0).then_some(upper);
    let left = if level > 0 { f.varint()? } else { 0 };
    let entries = entries(&mut f, level, &lower[..common_prefix(&lower, upper.as_deref())])?;
    Some(Node { level, lower, upper, left, entries })
}

/// The operations of `docs/formats/btree.md` and `overflow.md` on a page that is not made anew.
fn change(meaning: &mut Meaning, tree: &mut u32, txn: u64, op: u8, payload: &[u8]) -> Option<()> {
    let mut f = Fields(payload);
    let node = match meaning {
        Meaning::Other => return Some(()),
        Meaning::Overflow(o) => {
            o.next = (op == 65 && o.next == 0).then(|| f.u64())??;
            return Some(());
        }
        Meaning::Node(node) => node,
    };
    if op == 66 {
        *tree = 0;
        return Some(());
    }
    if op == 6 {
        return purge(node, f);
    }
    if op == 9 {
        let (flags, upper) = (f.u8()?, f.bytes()?.to_vec());
        node.upper = (flags & 1 == 0).then_some(upper);
        let prefix = node.lower[..common_prefix(&node.lower, node.upper.as_deref())].to_vec();
        node.entries.extend(entries(&mut f, node.level, &prefix)?);
        return Some(());
    }
    let slot = f.size()?;
    match op {
        1 => {
            let (flags, key) = (f.u8()?, f.bytes()?.to_vec());
            let before = slot == 0 || node.entries.get(slot - 1)?.0 < key;
            let after = node.entries.get(slot).is_none_or(|e| key < e.0);
            if slot > node.entries.len() || !before || !after {
                return None;
            }
            let row = Row { word: txn | older(flags), chain: flags & 2 != 0, value: f.0.to_vec() };
            node.entries.insert(slot, (key, Entry::Row(row)));
        }
        2 => {
            let flags = f.u8()?;
            *row(node, slot)? = Row { word: txn | older(flags), chain: flags & 2 != 0, value: f.0.to_vec() };
        }
        3 => row(node, slot)?.word = txn | older(f.u8()?) | GHOST,
        4 => {
            row(node, slot)?;
            node.entries.remove(slot);
        }
        5 => {
            let row = row(node, slot)?;
            row.word = f.u64()?;
            let mode = f.u8()?;
            if mode > 0 {
                (row.chain, row.value) = (mode == 2, f.0.to_vec());
            }
        }
        8 => {
            node.entries.truncate(slot);
            node.upper = Some(f.0.to_vec());
        }
        10 => {
            let child = f.varint()?;
            if slot > node.entries.len() || node.level == 0 {
                return None;
            }
            node.entries.insert(slot, (f.0.to_vec(), Entry::Child(child)));
        }
        11 => {
            if slot >= node.entries.len() || node.level == 0 {
                return None;
            }
            node.entries.remove(slot);
        }
        16 => {
            let to = f.varint()?;
            match slot.checked_sub(1) {
                None if node.level > 0 => node.left = to,
                None => return None,
                Some(i) => match &mut node.entries.get_mut(i)?.1 {
                    Entry::Child(child) => *child = to,
                    Entry::Row(_) => return None,
                },
            }
        }
        12 => {
            let flags = f.u8()?;
            let row = row(node, slot)?;
            (row.chain, row.value) = (flags & 2 != 0, f.0.to_vec());
        }
        14 => {
            let prefix = node.lower[..common_prefix(&node.lower, node.upper.as_deref())].to_vec();
            let rows = run(payload)?;
            if slot > node.entries.len() || rows.iter().any(|(key, _)| !key.starts_with(&prefix)) {
                return None;
            }
            for (i, (key, value)) in rows.into_iter().enumerate() {
                let at = slot + i;
                let above = at == 0 || node.entries[at - 1].0 < key;
                if !above || node.entries.get(at).is_some_and(|e| e.0 <= key) {
                    return None;
                }
                node.entries.insert(at, (key, Entry::Row(Row { word: txn, chain: false, value })));
            }
        }
        15 => {
            let end = slot.checked_add(f.size()?)?;
            if slot == end || end > node.entries.len() || node.level != 0 {
                return None;
            }
            node.entries.drain(slot..end);
        }
        _ => return None,
    }
    Some(())
}

/// The rows of an INSERT_RUN, keys whole.
fn run(payload: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut f = Fields(payload);
    f.varint()?;
    let (prefix, count) = (f.bytes()?.to_vec(), f.size()?);
    let mut rows = Vec::new();
    for _ in 0..count {
        let (key, value) = (f.size()?, f.size()?);
        let (bytes, rest) = f.0.split_at_checked(key.checked_add(value)?)?;
        rows.push(([&prefix, &bytes[..key]].concat(), bytes[key..].to_vec()));
        f.0 = rest;
    }
    (f.0.is_empty() && !rows.is_empty()).then_some(rows)
}

fn older(flags: u8) -> u64 {
    if flags & 1 != 0 { OLDER } else { 0 }
}

fn row(node: &mut Node, slot: usize) -> Option<&mut Row> {
    match &mut node.entries.get_mut(slot)?.1 {
        Entry::Row(row) => Some(row),
        Entry::Child(_) => None,
    }
}

/// Trims mean nothing here; ghosts go.
fn purge(node: &mut Node, mut f: Fields<'_>) -> Option<()> {
    for _ in 0..f.varint()? {
        f.varint()?;
    }
    let mut gone = Vec::new();
    for _ in 0..f.varint()? {
        gone.push(f.size()?);
    }
    for slot in gone.into_iter().rev() {
        if row(node, slot)?.word & GHOST == 0 {
            return None;
        }
        node.entries.remove(slot);
    }
    Some(())
}

// ---- undo ----

impl Reference {
    /// Undoes the losers; returns who they were.
    fn undo(&mut self) -> Result<BTreeSet<u64>, Failure> {
        let mut open: BTreeMap<u64, (u64, bool)> = BTreeMap::new();
        for r in self.log.records.iter().filter(|r| r.txn != 0) {
            match r.kind {
                kind::COMMIT | kind::END => drop(open.remove(&r.txn)),
                // A CLR that leaves something: undo has to come by it.
                kind::CLR if !r.undo.is_empty() => drop(open.insert(r.txn, (r.lsn, true))),
                kind::CLR | kind::DUMMY_CLR => drop(open.insert(r.txn, (r.prev, true))),
                _ => {
                    let undone = open.get(&r.txn).is_some_and(|o| o.1);
                    open.insert(r.txn, (r.lsn, undone));
                }
            }
        }
        let losers: BTreeSet<u64> = open.keys().copied().collect();
        self.facts.losers = losers.len() as u64;
        self.facts.partly_undone = open.values().filter(|o| o.1).count() as u64;
        let mut heap: BinaryHeap<(u64, u64)> = open.into_iter().map(|(txn, (next, _))| (next, txn)).collect();
        while let Some((lsn, txn)) = heap.pop() {
            if lsn == 0 {
                continue;
            }
            let record = self.log.at(lsn).filter(|r| r.txn == txn && r.prev < lsn).cloned();
            let record =
                record.ok_or_else(|| bug(format!("the undo chain of transaction {txn} breaks at {lsn}")))?;
            if record.kind == kind::UPDATE && record.rm == 2 {
                self.undo_rows(&record, None)?;
                self.facts.undone += 1;
            } else if record.kind == kind::CLR && !record.undo.is_empty() {
                let mut f = Fields(self.log.slice(&record.undo));
                let left = f.size().filter(|left| *left > 0 && f.0.is_empty());
                let undone = self.log.at(record.prev).filter(|r| {
                    r.txn == txn && r.kind == kind::UPDATE && r.rm == record.rm && r.prev < r.lsn
                });
                let (Some(left), Some(undone)) = (left, undone.cloned()) else {
                    return Err(bug(format!("the CLR at {lsn} leaves something of no record")));
                };
                if record.rm == 2 {
                    self.undo_rows(&undone, Some(left))?;
                    self.facts.undone += 1;
                    self.facts.continued += 1;
                }
                heap.push((undone.prev, txn));
                continue;
            } else if !matches!(
                record.kind,
                kind::UPDATE | kind::STRUCTURE | kind::CLR | kind::DUMMY_CLR | kind::ABORT
            ) {
                return Err(bug(format!("a record of kind {} in an undo chain, at {lsn}", record.kind)));
            }
            heap.push((record.prev, txn));
        }
        Ok(losers)
    }

    /// Makes the rows of a record what they were before it; only the first `left` of a run.
    fn undo_rows(&mut self, record: &Record, left: Option<usize>) -> Result<(), Failure> {
        let wrong = |what: &str| bug(format!("undo of the record at {}: {what}", record.lsn));
        let run_of = |log: &Log| {
            let [block] = log.blocks_of(record) else { return None };
            (block.op == 14).then(|| {
                let mut f = Fields(log.slice(&record.undo));
                let (tree, root) = (u32::try_from(f.varint()?).ok()?, f.varint()?);
                Some((tree, root, run(log.slice(&block.payload))?)).filter(|_| f.0.is_empty())
            })
        };
        let Some(run) = run_of(&self.log) else {
            return if left.is_none() { self.undo_row(record) } else { Err(wrong("a part of one row")) };
        };
        let (tree, root, mut rows) = run.ok_or_else(|| wrong("its run cannot be read"))?;
        if left.is_some_and(|left| left >= rows.len()) {
            return Err(wrong("more rows are left than it has"));
        }
        rows.truncate(left.unwrap_or(rows.len()));
        for (key, _) in rows.into_iter().rev() {
            let leaf = self.leaf(tree, root, &key)?;
            let found =
                leaf.entries.binary_search_by(|e| e.0.cmp(&key)).map_err(|_| wrong("a row is gone"))?;
            if row(leaf, found).ok_or_else(|| wrong("not a leaf"))?.word & WRITER != record.txn {
                return Err(wrong("a row was last written by another transaction"));
            }
            leaf.entries.remove(found);
        }
        Ok(())
    }

    /// Makes a row what it was before the record.
    fn undo_row(&mut self, record: &Record) -> Result<(), Failure> {
        let wrong = |what: &str| bug(format!("undo of the record at {}: {what}", record.lsn));
        let [block] = self.log.blocks_of(record) else {
            return Err(wrong("it does not change exactly one page"));
        };
        let op = block.op;
        let parsed = undo_bytes(op, record.txn, self.log.slice(&block.payload), self.log.slice(&record.undo));
        let (tree, root, key, former) = parsed.ok_or_else(|| wrong("its undo bytes cannot be read"))?;
        let key = key.to_vec();
        let leaf = self.leaf(tree, root, &key)?;
        let found = leaf.entries.binary_search_by(|e| e.0.cmp(&key)).map_err(|_| wrong("the row is gone"))?;
        let now = row(leaf, found).ok_or_else(|| wrong("not a leaf"))?;
        if now.word & WRITER != record.txn {
            return Err(wrong("the row was last written by another transaction"));
        }
        match former {
            None => drop(leaf.entries.remove(found)),
            Some((word, value)) => {
                now.word = word;
                if let Some((chain, value)) = value {
                    (now.chain, now.value) = (chain, value);
                }
            }
        }
        Ok(())
    }

    /// The leaf of a key.
    fn leaf(&mut self, tree: u32, root: u64, key: &[u8]) -> Result<&mut Node, Failure> {
        let mut id = root;
        for _ in 0..64 {
            let node = self.node(tree, id)?;
            if node.level == 0 {
                return self.node(tree, id);
            }
            let right_of = node.entries.partition_point(|e| e.0.as_slice() <= key);
            id = match right_of.checked_sub(1).map(|i| &node.entries[i].1) {
                None => node.left,
                Some(Entry::Child(child)) => *child,
                Some(Entry::Row(_)) => return Err(damage(format!("page {id} has rows in an inner node"))),
            };
        }
        Err(damage(format!("the tree {tree} has no end")))
    }

    /// The page, as what it means.
    fn meaning(&mut self, id: u64) -> Result<(u32, &mut Meaning), Failure> {
        let page = match self.pages.remove(&id) {
            Some(p) => p,
            None => self.load(id)?,
        };
        let (lsn, page) = match page {
            Page::Unknown { why, .. } => return Err(damage(format!("page {id} is needed and {why}"))),
            Page::Stored { lsn, .. } | Page::Known { lsn, .. } => (lsn, page),
        };
        let (tree, meaning) = known(page).ok_or_else(|| damage(format!("page {id} cannot be read")))?;
        match self.pages.entry(id).insert_entry(Page::Known { lsn, tree, meaning }).into_mut() {
            Page::Known { meaning, .. } => Ok((tree, meaning)),
            _ => Err(bug("a page that was just put there is gone")),
        }
    }
    fn node(&mut self, tree: u32, id: u64) -> Result<&mut Node, Failure> {
        match self.meaning(id)? {
            (found, Meaning::Node(node)) if found == tree => Ok(node),
            (found, _) => {
                Err(damage(format!("page {id} should be a node of tree {tree}, and is of {found}")))
            }
        }
    }
}

/// Tree, root, key and former state: `None` if the row did not exist, else its word, and its value if the change replaced it.
type Undo<'a> = (u32, u64, &'a [u8], Option<(u64, Option<(bool, Vec<u8>)>)>);

fn undo_bytes<'a>(op: u8, txn: u64, payload: &'a [u8], undo: &'a [u8]) -> Option<Undo<'a>> {
    let mut f = Fields(undo);
    let (tree, root) = (u32::try_from(f.varint()?).ok()?, f.varint()?);
    if op == 1 {
        let mut p = Fields(payload);
        p.varint()?;
        p.u8()?;
        return Some((tree, root, p.bytes()?, None));
    }
    let (key, tag) = (f.bytes()?, f.u8()?);
    let writer = if tag & 4 != 0 { f.varint()? } else { txn };
    let word = writer | if tag & 1 != 0 { GHOST } else { 0 } | if tag & 2 != 0 { OLDER } else { 0 };
    let value = match op {
        2 => Some((tag & 8 != 0, f.0.to_vec())),
        3 => None,
        _ => return None,
    };
    Some((tree, root, key, Some((word, value))))
}

// ---- reading ----

impl Reference {
    fn contents(&mut self, losers: &BTreeSet<u64>) -> Result<Contents, Failure> {
        let mut contents = Contents::default();
        for (key, value) in self.rows(1, CATALOGUE_ROOT, losers)? {
            let Some(name) = key.strip_prefix(&[1]) else { continue };
            let number =
                std::str::from_utf8(name).ok().and_then(|n| n.strip_prefix('t')).and_then(|n| n.parse().ok());
            // Trees of other names are no part of what a scenario holds.
            let Some(number) = number else { continue };
            if value.len() != 12 {
                return Err(damage("a row of the catalogue cannot be read"));
            }
            contents.trees.insert(number, self.rows(u32_at(&value, 0), u64_at(&value, 4), losers)?);
        }
        Ok(contents)
    }

    /// The committed rows of a tree.
    fn rows(&mut self, tree: u32, root: u64, losers: &BTreeSet<u64>) -> Result<Rows, Failure> {
        let mut rows = Rows::new();
        let mut large = Vec::new();
        let mut seen = BTreeSet::new();
        // Page, level, fences, as the parent says.
        let mut todo = vec![(root, None, Vec::new(), None)];
        while let Some((id, level, lower, upper)) = todo.pop() {
            if !seen.insert(id) {
                return Err(damage(format!("page {id} is twice in tree {tree}")));
            }
            let node = self.node(tree, id)?;
            if level.is_some_and(|l| l != node.level) || lower != node.lower || upper != node.upper {
                return Err(damage(format!("page {id} of tree {tree} does not fit its parent")));
            }
            let mut left = (node.left, node.lower.clone());
            for (key, entry) in &node.entries {
                match entry {
                    Entry::Child(child) => {
                        todo.push((left.0, Some(node.level - 1), left.1, Some(key.clone())));
                        left = (*child, key.clone());
                    }
                    Entry::Row(row) if losers.contains(&(row.word & WRITER)) => {
                        let (key, txn) = (String::from_utf8_lossy(key).into_owned(), row.word & WRITER);
                        return Err(bug(format!(
                            "row {key} of tree {tree} is still transaction {txn}'s, which was undone"
                        )));
                    }
                    Entry::Row(row) if row.word & GHOST != 0 => {}
                    Entry::Row(row) if row.chain => large.push((key.clone(), row.value.clone())),
                    Entry::Row(row) => drop(rows.insert(key.clone(), row.value.clone())),
                }
            }
            if node.level > 0 {
                todo.push((left.0, Some(node.level - 1), left.1, node.upper.clone()));
            }
        }
        for (key, reference) in large {
            let value = self.chain(u64_at(&reference, 0), u64_at(&reference, 8))?;
            rows.insert(key, value);
        }
        Ok(rows)
    }

    /// The value in a chain of overflow pages.
    fn chain(&mut self, len: u64, head: u64) -> Result<Vec<u8>, Failure> {
        let mut value = Vec::new();
        let mut id = head;
        loop {
            let (_, Meaning::Overflow(page)) = self.meaning(id)? else {
                return Err(damage(format!("page {id} should be an overflow page of chain {head}")));
            };
            if page.head != head || page.position != value.len() as u64 {
                return Err(damage(format!("page {id} does not belong there in chain {head}")));
            }
            value.extend_from_slice(&page.data);
            match page.next {
                0 if value.len() as u64 == len => return Ok(value),
                next if next != 0 && !page.data.is_empty() && (value.len() as u64) < len => id = next,
                _ => return Err(damage(format!("chain {head} has not {len} bytes"))),
            }
        }
    }
}
