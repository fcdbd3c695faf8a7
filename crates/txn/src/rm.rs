//! The resource manager contract.
use crate::{Txn, TxnManager};
use hamal_buffer::{Managers, OpCredit, PageEdit, PageOps, Pool};
use hamal_error::{Error, ErrorKind, Result};
use hamal_log::{Appended, Record};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{Lsn, RmId};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// A data structure that lives in pages and takes part in logging, rollback and recovery.
///
/// * [`PageOps::apply`] is total and deterministic; the engine checks that a page belongs to the manager.
/// * [`ResourceManager::undo`] may log any number of redo-only structure records through its context, then
///   exactly one CLR ([`UndoCtx::compensate`] consumes the context). An error from undo stops the engine.
/// * A record that changed many things need not be undone by one CLR: they may lie on many pages by now. The manager undoes
///   some of them, and says with the CLR how many are left ([`UndoCtx::compensate_part`]); it is then called again for the same
///   record, by this rollback or, after a crash, by a later one, and [`UndoCtx::left`] tells it where it was (TXN-PARTS). It
///   reserves, with the change, for as many CLRs as there may be ([`Pool::credit_run`]).
pub trait ResourceManager: PageOps {
    /// The name, unique among the managers of a database; stored in the control file.
    fn name(&self) -> &str;
    /// The version of its formats; a database written with another version is refused.
    fn version(&self) -> u32;
    /// Undoes one update record, logically: wherever the thing is now.
    ///
    /// # Errors
    /// Anything it returns stops the engine: rollback is never skipped.
    fn undo(&self, record: &Record, ctx: UndoCtx<'_>) -> Result<Compensated>;
    /// Describes one block of a record for people: `insert key=.. len=..`. Total.
    fn describe(&self, op: u8, payload: &[u8], f: &mut dyn fmt::Write) -> fmt::Result;
    /// Names the keys of what the record changes, for who looks for all records about one (`hamal waldump --key`). A record that
    /// names none, a CLR above all, need not: who looks knows which record it compensates. Total; by default there are no keys.
    fn keys(&self, record: &Record, see: &mut dyn FnMut(&[u8])) {
        let _ = (record, see);
    }
    /// Names the slots of its page that an operation touches, as they are numbered before it (`hamal waldump --page N --slot`):
    /// rather too many than too few. Total; by default all.
    fn slots(&self, op: u8, payload: &[u8], see: &mut dyn FnMut(Range<u64>)) {
        let _ = (op, payload);
        see(0..u64::MAX);
    }
}

/// The resource managers of a database.
#[derive(Clone, Default)]
pub struct Registry(Vec<(RmId, Arc<dyn ResourceManager>)>);

impl Registry {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }
    /// Registers a manager under an id given by the database.
    pub fn add(&mut self, id: RmId, rm: Arc<dyn ResourceManager>) {
        self.0.push((id, rm));
    }
    /// The manager `id`.
    pub fn get(&self, id: RmId) -> Option<&Arc<dyn ResourceManager>> {
        self.0.iter().find(|(i, _)| *i == id).map(|(_, m)| m)
    }
    /// All, with ids.
    pub fn iter(&self) -> impl Iterator<Item = (RmId, &Arc<dyn ResourceManager>)> {
        self.0.iter().map(|(i, m)| (*i, m))
    }
    /// The redo halves, for the pool.
    pub fn managers(&self) -> Managers {
        let mut m = Managers::new();
        for (id, rm) in &self.0 {
            m.set(*id, rm.clone() as Arc<dyn PageOps>);
        }
        m
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(i, m)| (i.0, m.name()))).finish()
    }
}

/// Proof that an undo, or a part of one, was compensated: only [`UndoCtx::compensate`] and [`UndoCtx::compensate_part`] make
/// one.
#[derive(Debug)]
pub struct Compensated {
    pub(crate) clr: Appended,
    /// Parts that are left; 0: none.
    pub(crate) left: u64,
}

/// What an undo may do: read pages, log redo-only structure records, and finally compensate.
#[derive(Debug)]
pub struct UndoCtx<'a> {
    pub(crate) manager: &'a TxnManager,
    pub(crate) txn: &'a Txn,
    /// undoNextLSN of the CLR: prevLSN of the record being undone.
    pub(crate) undo_next: Lsn,
    /// The record being undone.
    pub(crate) record: Lsn,
    pub(crate) left: Option<u64>,
    pub(crate) rm: RmId,
}

impl<'a> UndoCtx<'a> {
    /// The transaction that is rolled back.
    pub fn txn(&self) -> &'a Txn {
        self.txn
    }
    /// The transaction manager.
    pub fn manager(&self) -> &'a TxnManager {
        self.manager
    }
    /// The buffer pool.
    pub fn pool(&self) -> &'a Pool {
        self.manager.pool()
    }
    /// How many parts of the record are left to undo, as the last CLR for it said: never 0. `None`: all, nothing of it was undone.
    pub fn left(&self) -> Option<u64> {
        self.left
    }
    /// Credit for the CLR (`record_bytes`, out of the transaction's undo reserve) dirtying at most `pages` pages. On a full
    /// device the images that the pages will owe come out of what the transaction has set aside (TXN-ROOM). No latch held.
    ///
    /// # Errors
    /// `Poisoned`; `NoSpace` if the device is full and what was set aside does not reach (a loser of recovery has nothing set
    /// aside): the manager returns it, and the undo of this record begins again when there may be room.
    pub fn credit(&self, record_bytes: u64, pages: usize) -> Result<OpCredit<'a>> {
        let (manager, txn) = (self.manager, self.txn);
        // Only what this CLR takes is moved out, so a checkpoint meanwhile sees the rest. The mutex is not held while the
        // pool makes room.
        let mut reserve = {
            let mut core = txn.core.lock();
            let take = core.undo_reserve.min(record_bytes);
            core.undo_reserve -= take;
            take
        };
        let credit = match manager.pool().credit_from(&mut reserve, record_bytes, pages) {
            Err(e)
                if e.kind() == ErrorKind::NoSpace
                    && !txn.is_loser()
                    && !mutants::is(Mutant::RollbackGivesUp) =>
            {
                let images = manager.take_undo_images(txn, pages as u64);
                let credit = manager.pool().credit_thrifty(&mut reserve, record_bytes, images);
                credit.inspect_err(|_| manager.return_undo_images(txn, images))
            }
            done => done,
        };
        txn.core.lock().undo_reserve += reserve;
        credit
    }
    /// Logs the CLR with these edits (which may be empty) and ends the undo of this record.
    ///
    /// # Errors
    /// `Poisoned`.
    pub fn compensate(
        self,
        edits: &mut [PageEdit<'_, '_>],
        credit: &mut OpCredit<'_>,
    ) -> Result<Compensated> {
        self.log(0, edits, credit)
    }
    /// Logs a CLR with these edits for a part of the record, of which `left` parts are left to undo: above 0, and fewer than
    /// [`UndoCtx::left`] says, so the undo comes to an end (TXN-PARTS). What a part is only the manager knows.
    ///
    /// # Errors
    /// `Internal` if `left` is no such number: nothing is logged then. `Poisoned`.
    pub fn compensate_part(
        self,
        left: u64,
        edits: &mut [PageEdit<'_, '_>],
        credit: &mut OpCredit<'_>,
    ) -> Result<Compensated> {
        if left == 0 || self.left.is_some_and(|before| left >= before) {
            let before = self.left.map_or("all".to_owned(), |n| n.to_string());
            let m = format!("TXN-PARTS: an undo in part leaves {left} parts of {before}");
            return Err(Error::internal(m).with_txn(self.txn.id()).with_lsn(self.record));
        }
        self.log(left, edits, credit)
    }
    fn log(
        self,
        left: u64,
        edits: &mut [PageEdit<'_, '_>],
        credit: &mut OpCredit<'_>,
    ) -> Result<Compensated> {
        let clr = self.manager.log_clr(&self, left, edits, credit)?;
        if credit.is_thrifty() {
            self.manager.return_undo_images(self.txn, credit.take_images());
        }
        Ok(Compensated { clr, left })
    }
}

/// The undo bytes of a CLR after which `left` parts of the record are left; none if it was the last.
pub(crate) fn left_bytes(left: u64) -> ([u8; 10], usize) {
    let (mut bytes, mut n, mut rest) = ([0; 10], 0, left);
    while rest != 0 {
        bytes[n] = rest as u8 & 0x7f | if rest >= 0x80 { 0x80 } else { 0 };
        (n, rest) = (n + 1, rest >> 7);
    }
    (bytes, n)
}

/// How many parts of the record that a CLR is about are left to undo, by the CLR's undo bytes; `None` if they are no such
/// number. A CLR without undo bytes leaves nothing.
pub fn parts_left(undo: &[u8]) -> Option<u64> {
    let mut left = 0u64;
    for (i, b) in undo.iter().enumerate() {
        let last = i + 1 == undo.len();
        // Seven bits a byte, low ones first, in as few bytes as can be.
        if i > 9 || (b & 0x80 == 0) != last || (last && *b == 0) || (i == 9 && *b > 1) {
            return None;
        }
        left |= u64::from(b & 0x7f) << (7 * i);
    }
    Some(left)
}
