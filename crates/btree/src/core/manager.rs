//! The resource manager of the B+-tree, as recovery and rollback see it.
use super::codec::Broken;
use super::edit::{KIND_INNER, KIND_LEAF};
use super::node::Node;
use super::{Btree, ops};
use crate::overflow;
use hamal_buffer::{ApplyError, Applying, PageOps};
use hamal_error::{Error, Result};
use hamal_log::Record;
use hamal_page::header;
use hamal_txn::{Compensated, ResourceManager, UndoCtx};
use std::fmt;
use std::ops::Range;
use std::sync::{OnceLock, Weak};

/// The registered resource manager of the B+-tree.
#[derive(Debug, Default)]
pub struct BtreeManager {
    /// The tree code that undo needs; connected by [`Btree::new`].
    pub(crate) btree: OnceLock<Weak<Btree>>,
}

fn is_overflow(op: u8) -> bool {
    (overflow::OVERFLOW_INIT..overflow::OVERFLOW_OPS_END).contains(&op)
}

impl PageOps for BtreeManager {
    fn apply(
        &self,
        at: &Applying,
        op: u8,
        payload: &[u8],
        page: &mut [u8],
    ) -> std::result::Result<(), ApplyError> {
        if is_overflow(op) {
            return overflow::apply(at, op, payload, page);
        }
        ops::apply(at, op, payload, page)
            .map_err(|Broken(why)| ApplyError(format!("B-tree operation {op} on page {}: {why}", at.page)))
    }

    fn hole(&self, page: &[u8]) -> Range<usize> {
        match Node::open(page) {
            Ok(node) if matches!(header::kind(page), KIND_LEAF | KIND_INNER) => node.gap(),
            _ => 0..0,
        }
    }
}

impl ResourceManager for BtreeManager {
    fn name(&self) -> &str {
        "btree"
    }
    fn version(&self) -> u32 {
        // 2: INSERT_RUN, REMOVE_RUN, undo in parts, and MOVE_CHILD.
        2
    }
    fn undo(&self, record: &Record, ctx: UndoCtx<'_>) -> Result<Compensated> {
        match self.btree.get().and_then(Weak::upgrade) {
            Some(btree) => btree.undo(record, ctx),
            None => {
                Err(Error::internal("the B-tree manager is not connected to a tree").with_lsn(record.lsn))
            }
        }
    }
    fn describe(&self, op: u8, payload: &[u8], f: &mut dyn fmt::Write) -> fmt::Result {
        if is_overflow(op) { overflow::describe(op, payload, f) } else { ops::describe(op, payload, f) }
    }
    fn keys(&self, record: &Record, see: &mut dyn FnMut(&[u8])) {
        // Of a record that cannot be read nothing more is named.
        let _ = ops::names::keys(record, see);
    }
    fn slots(&self, op: u8, payload: &[u8], see: &mut dyn FnMut(Range<u64>)) {
        if is_overflow(op) || ops::names::slots(op, payload, see).is_err() {
            see(0..u64::MAX);
        }
    }
}
