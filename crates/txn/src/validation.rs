//! Serializable: backward validation.
//!
//! A serializable transaction reads its snapshot S and commits at C. It is as if it had run as a whole at C if nothing that it
//! read was changed by a transaction that committed between S and C. Whether that is so is found out in three steps
//! (TXN-VALID, where it is proved):
//!
//! 1. **Publish** what was read. From here on every writer that changes a row of it notes itself, under the row's page latch:
//!    a *suspect*.
//! 2. **Look** at every row of it, outside of any section, under the latches of its pages. A row whose writer committed
//!    after S is a conflict; one whose writer is live makes that writer a suspect.
//! 3. **Decide** in the section that reserves the commit record: has a suspect committed? No page is touched, and nobody can
//!    commit in between.
//!
//! If nobody at all has committed since S, the first two steps are left out. Nothing is remembered of
//! writers while nobody validates.
use crate::reads::ReadSet;
use crate::{Status, Txn, TxnManager};
use hamal_error::{Error, ErrorKind, Result};
use hamal_page::{Lsn, RmId, TreeId, TxnId};
use hamal_sync::atomic::{AtomicUsize, Ordering, Ordering::SeqCst};
use hamal_sync::{Mutex, RwLock};
use std::cell::Cell;
use std::sync::Arc;

/// A live transaction, and a row that it has changed.
type Suspect = (Arc<Txn>, TreeId, Vec<u8>);

/// A transaction that validates: what it read, and who may spoil it.
#[derive(Debug)]
pub struct Validation {
    number: u64,
    own: TxnId,
    snapshot: Lsn,
    reads: Arc<ReadSet>,
    /// Live transactions that have changed what was read, and may commit first.
    suspects: Mutex<Vec<Suspect>>,
}

/// The transactions that validate now.
#[derive(Debug, Default)]
pub(crate) struct Validations {
    count: AtomicUsize,
    list: RwLock<Vec<Arc<Validation>>>,
}

impl Validation {
    /// What was read.
    pub fn reads(&self) -> &ReadSet {
        &self.reads
    }
    fn suspect(&self, who: Arc<Txn>, tree: TreeId, key: &[u8]) {
        self.suspects.lock().push((who, tree, key.to_vec()));
    }
    fn failure(&self, writer: TxnId, tree: TreeId, key: &[u8]) -> Error {
        let m = format!(
            "{writer} committed a change to something that transaction #{} had read at its snapshot {}",
            self.number, self.snapshot
        );
        Error::new(ErrorKind::Serialization, m)
            .with_txn(writer)
            .with_tree(tree)
            .with_key(key)
            .with_help("Nothing was committed. Run the transaction again")
    }
}

/// Takes a validation off the list, however it ends.
struct Published<'m>(&'m Validations, Arc<Validation>);

impl Drop for Published<'_> {
    fn drop(&mut self) {
        let mut list = self.0.list.write();
        list.retain(|v| !Arc::ptr_eq(v, &self.1));
        self.0.count.store(list.len(), SeqCst);
    }
}

impl Validations {
    fn publish(&self, v: Validation) -> Published<'_> {
        let v = Arc::new(v);
        let mut list = self.list.write();
        list.push(v.clone());
        self.count.store(list.len(), SeqCst);
        Published(self, v)
    }
}

impl TxnManager {
    /// Tells those who validate that `txn` is about to change a row. Under the exclusive latch of its page, before the change
    /// (TXN-VALID).
    #[inline]
    pub fn note_write(&self, txn: &Txn, tree: TreeId, key: &[u8]) {
        if self.validations.count.load(SeqCst) != 0 {
            self.note_write_to(txn, tree, key);
        }
    }
    #[cold]
    fn note_write_to(&self, txn: &Txn, tree: TreeId, key: &[u8]) {
        for v in self.validations.list.read().iter() {
            let spoils = v.number != txn.number() && v.reads.covers(tree, key);
            if let Some(me) = txn.arc().filter(|_| spoils) {
                v.suspect(me, tree, key);
            }
        }
    }

    /// Looks at a row that was read, for a transaction that validates: `writer` is the row's present one, `older` whether that
    /// one replaced something. Under the latch of the row's page.
    ///
    /// # Errors
    /// `Serialization` if a change of the row was committed after the snapshot.
    pub fn check_read(
        &self,
        v: &Validation,
        rm: RmId,
        tree: TreeId,
        key: &[u8],
        writer: TxnId,
        older: bool,
    ) -> Result<()> {
        if writer.is_none() || writer == v.own {
            // What a transaction wrote itself nobody has changed since; that nobody had before, its write made sure.
            return Ok(());
        }
        let committed_since = |id| match self.status(id) {
            Status::Committed(ts) => ts > v.snapshot,
            _ => false,
        };
        // While it is live its row stays, as long as the page is latched; if it has just ended, it has committed.
        let Some(live) = self.horizon.table.active(writer) else {
            return if committed_since(writer) { Err(v.failure(writer, tree, key)) } else { Ok(()) };
        };
        v.suspect(live, tree, key);
        if !older {
            return Ok(());
        }
        // What the live writer replaced may itself have been committed since. If that is in the log alone it is not looked
        // for: the validation fails, to be on the safe side (TXN-DEMOTED).
        match self.versions().former_writer(rm, tree.0, key, writer) {
            Some(id) if !committed_since(id) => Ok(()),
            former => Err(v.failure(former.unwrap_or(writer), tree, key)),
        }
    }

    /// Whether a suspect has committed. In the commit section.
    fn judge(&self, v: &Validation) -> Result<()> {
        for (who, tree, key) in v.suspects.lock().iter() {
            if who.has_committed() {
                return Err(v.failure(who.id(), *tree, key));
            }
        }
        Ok(())
    }

    /// The commit record of a serializable transaction, if it may be written.
    pub(crate) fn commit_if_serializable(
        &self,
        txn: &Txn,
        look: &dyn Fn(&Validation) -> Result<()>,
    ) -> Result<Lsn> {
        let Some(reads) = txn.reads().filter(|r| !r.is_empty()) else {
            return self.commit_record(txn, || Ok(()));
        };
        let nobody_since = || self.horizon.last_commit() <= txn.snapshot();
        if nobody_since() {
            let somebody = Cell::new(false);
            let done = self.commit_record(txn, || {
                somebody.set(!nobody_since());
                if somebody.get() { Err(Error::internal("somebody has committed")) } else { Ok(()) }
            });
            if !somebody.get() {
                return done;
            }
        }
        let published = self.validations.publish(Validation {
            number: txn.number(),
            own: txn.id(),
            snapshot: txn.snapshot(),
            reads,
            suspects: Mutex::default(),
        });
        let v = &published.1;
        let done = look(v).and_then(|()| self.commit_record(txn, || self.judge(v)));
        if done.is_err() {
            // Under an ended snapshot an error is believed no more than a row (TXN-TOO-OLD).
            txn.check_age()?;
        }
        if done.as_ref().is_err_and(|e| e.kind() == ErrorKind::Serialization) {
            self.counters.serialization_failures.fetch_add(1, Ordering::Relaxed);
        }
        done
    }
}
