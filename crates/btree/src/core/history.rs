//! Former states of rows that are in the log alone (TXN-DEMOTED).
//!
//! Every record names the pageLSN that each of its pages had before, so the history of a page can be walked backward
//! from the LSN in its header; splits and merges lead on to the pages that the rows came from. The undo bytes of each change
//! of a row tell what the row was before. A row is in one leaf at any time, and records are visited by descending LSN, so
//! its states are met from the newest to the oldest, as in a chain of the version store.
//!
//! No latch is held meanwhile: what lies below a pageLSN does not change, and the log is kept while it is looked at, from
//! the first record on that can tell of such a state. Further down nothing is looked for: a row of which no state was found
//! there is not there for the view.
use super::codec::{Broken, Sound};
use super::ops::code;
use super::ops::leaf::{Bytes, key_of_insert};
use super::ops::run::Run;
use super::ops::undo::{Former, decode};
use super::read::{raw, value_ref};
use super::{Btree, RawValue};
use hamal_error::{Error, ErrorKind, Result};
use hamal_log::{Record, RecordKind, Whole};
use hamal_page::{Lsn, PageId};
use hamal_txn::{LogHold, View};
use std::collections::{BinaryHeap, HashMap};

/// A row whose state for a view is looked for in the log.
#[derive(Debug)]
pub(crate) struct Demoted {
    key: Vec<u8>,
    /// Its value as it was at the record that is being looked at, as the leaf had it.
    chain: bool,
    bytes: Vec<u8>,
    /// What the view sees, once it is known.
    seen: Option<Option<RawValue>>,
    /// Taken under the leaf's latch.
    hold: LogHold,
}

impl Demoted {
    /// The row as its leaf has it now.
    pub(crate) fn new(key: &[u8], now: Bytes<'_>, hold: LogHold) -> Demoted {
        Demoted { key: key.to_vec(), chain: now.chain, bytes: now.bytes.to_vec(), seen: None, hold }
    }
    /// What the view sees, after [`Btree::recall`].
    pub(crate) fn seen(self) -> Option<RawValue> {
        self.seen.flatten()
    }
}

/// Where in the log the history of a page goes on, the newest first.
#[derive(Debug, Default)]
struct Front(BinaryHeap<(Lsn, PageId)>);

impl Front {
    fn push(&mut self, lsn: Lsn, page: PageId) {
        if !lsn.is_null() {
            self.0.push((lsn, page));
        }
    }
    /// The next place; each once.
    fn pop(&mut self) -> Option<(Lsn, PageId)> {
        let next = self.0.pop()?;
        while self.0.peek() == Some(&next) {
            self.0.pop();
        }
        Some(next)
    }
}

impl Btree {
    /// Finds what the view sees of rows that were in the leaf `page` when its pageLSN was `lsn`, and that it does not see
    /// as they are there. No latch held.
    pub(crate) fn recall(&self, view: &View, (page, lsn): (PageId, Lsn), rows: &mut [Demoted]) -> Result<()> {
        let mut left: HashMap<Vec<u8>, usize> =
            rows.iter().enumerate().map(|(i, row)| (row.key.clone(), i)).collect();
        let floor = rows.iter().map(|row| row.hold.from()).min().unwrap_or(lsn);
        let mut front = Front::default();
        front.push(lsn, page);
        while !left.is_empty() {
            // Nothing older, or nothing that was left to the log: they were not there.
            let Some((at, page)) = front.pop().filter(|(at, _)| *at >= floor) else { break };
            let record = self.txns().log().read(at).map_err(|e| self.unread(view, e))?;
            let change = step_back(&record, page, &mut front).map_err(|Broken(why)| {
                Error::new(ErrorKind::LogCorrupt, format!("the history of a leaf: {why}"))
                    .with_lsn(at)
                    .with_page(page)
            })?;
            match change {
                Changed::Nothing => {}
                Changed::Row(key, former) => {
                    let Some(i) = left.get(key).copied() else { continue };
                    rows[i].seen = self.seen_before(view, &record, &mut rows[i], former);
                    if rows[i].seen.is_some() {
                        left.remove(key);
                    }
                }
                // None of them was there.
                Changed::Run(keys) => {
                    for i in keys.iter().filter_map(|key| left.remove(key)) {
                        rows[i].seen = Some(None);
                    }
                }
            }
        }
        Ok(())
    }

    /// What the view sees, if the state before the record settles it.
    fn seen_before(
        &self,
        view: &View,
        record: &Record,
        row: &mut Demoted,
        former: Option<Former<'_>>,
    ) -> Option<Option<RawValue>> {
        let Some(former) = former else { return Some(None) };
        if let Some(value) = former.value {
            (row.chain, row.bytes) = (value.chain, value.bytes.to_vec());
        }
        let (word, writer) = (former.word, former.word.writer());
        if writer == record.txn {
            // In the middle of its own changes: nobody else ever sees that.
            return None;
        }
        if self.sees(writer, view) {
            let value = value_ref(Bytes { chain: row.chain, bytes: &row.bytes });
            return Some((!word.ghost()).then(|| raw(value)));
        }
        (!word.older()).then_some(None)
    }

    /// Why a record could not be read: the view was ended, or something is wrong.
    fn unread(&self, view: &View, e: Error) -> Error {
        match e.kind() {
            ErrorKind::NotFound if self.txns().is_too_old(view) => self.txns().too_old(view),
            ErrorKind::NotFound => {
                let m = "TXN-DEMOTED: the log was cut above what an open snapshot needs";
                Error::internal(m).with_cause(e)
            }
            _ => e,
        }
    }
}

/// What a record changed.
enum Changed<'r> {
    Nothing,
    /// A row, and what it was before (`None`: not there).
    Row(&'r [u8], Option<Former<'r>>),
    /// Rows that were not there before.
    Run(Vec<Vec<u8>>),
}

/// One step back in the history of `page`: tells `front` where it goes on, and returns what the record changed.
fn step_back<'r>(record: &'r Record, page: PageId, front: &mut Front) -> Sound<Changed<'r>> {
    let Some(i) = record.blocks.iter().position(|b| b.page == page) else {
        return Err(Broken("a record does not name the page that it is the last change of"));
    };
    let block = &record.blocks[i];
    match block.whole {
        Whole::No => front.push(block.former, page),
        // The rows came from the page that was split, from the root, or from its only child.
        Whole::Init => {
            for b in &record.blocks {
                let source = match b.whole {
                    Whole::Init | Whole::Free => true,
                    Whole::No => b.op == code::TRUNCATE,
                    Whole::Image => false,
                };
                if source {
                    front.push(b.former, b.page);
                }
            }
        }
        Whole::Image | Whole::Free => return Err(Broken("a page is older than its freeing")),
    }
    if block.whole != Whole::No {
        return Ok(Changed::Nothing);
    }
    let payload = record.payload(i);
    match block.op {
        code::INSERT => Ok(Changed::Row(key_of_insert(payload)?, None)),
        code::INSERT_RUN => Ok(Changed::Run(Run::read(payload)?.keys().collect::<Sound<_>>()?)),
        code::UPDATE | code::MARK_GHOST | code::LOCK if record.kind == RecordKind::Update => {
            let undo = decode(record.txn, block.op, payload, record.undo())?;
            Ok(Changed::Row(undo.key, undo.former))
        }
        code::ABSORB => {
            for b in record.blocks.iter().filter(|b| b.whole == Whole::Free) {
                front.push(b.former, b.page);
            }
            Ok(Changed::Nothing)
        }
        _ => Ok(Changed::Nothing),
    }
}
