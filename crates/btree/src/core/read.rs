//! Looking a key up, and what a view sees of a record.
use super::codec::Broken;
use super::descend::{Latched, Target, corrupt, node};
use super::node::{LeafRecord, Node};
use super::ops::leaf::{Bytes, chain_of};
use super::{Btree, RawValue, Tree, ValueRef};
use crate::BTREE_RM;
use hamal_error::Result;
use hamal_page::TxnId;
use hamal_txn::{FoundVersion, Version, View};

/// Flags of a version's first byte.
const GHOST: u8 = 1;
const CHAINED: u8 = 2;

/// The data of a version: a byte of flags, then the value's bytes as the leaf had them.
pub(crate) fn version_of(record: &LeafRecord<'_>) -> Version {
    let flags = if record.word.ghost() { GHOST } else { 0 } | if record.chain { CHAINED } else { 0 };
    let mut data = Vec::with_capacity(1 + record.value.len());
    data.push(flags);
    data.extend_from_slice(record.value);
    Version { writer: record.word.writer(), data: data.into_boxed_slice() }
}

pub(crate) fn value_ref<'a>(value: Bytes<'a>) -> ValueRef<'a> {
    if value.chain {
        let (len, head) = chain_of(value.bytes);
        ValueRef::Chain { len, head }
    } else {
        ValueRef::Inline(value.bytes)
    }
}

pub(crate) fn raw(value: ValueRef<'_>) -> RawValue {
    match value {
        ValueRef::Inline(bytes) => RawValue::Inline(bytes.to_vec()),
        ValueRef::Chain { len, head } => RawValue::Chain { len, head },
    }
}

/// The value of a record that its latch holder sees.
pub(crate) fn value_of<'a>(record: &LeafRecord<'a>) -> ValueRef<'a> {
    value_ref(Bytes { chain: record.chain, bytes: record.value })
}

impl Btree {
    /// Whether the view sees what `writer` wrote. Under the page's latch (T18).
    pub(crate) fn sees(&self, writer: TxnId, view: &View) -> bool {
        writer.is_none() || self.txns().visible(writer, view)
    }

    /// Hands what the view sees of a record to `f`, under the page's latch (T18): the record itself if its
    /// writer is visible; else, if the writer replaced something (V), the newest older version that is;
    /// else nothing.
    pub(crate) fn resolve<R>(
        &self,
        view: &View,
        tree: Tree,
        key: &[u8],
        record: &LeafRecord<'_>,
        f: impl FnOnce(ValueRef<'_>) -> R,
    ) -> Option<R> {
        if self.sees(record.word.writer(), view) {
            return (!record.word.ghost()).then(|| f(value_of(record)));
        }
        if !record.word.older() {
            return None;
        }
        let found = self.txns().versions().find(BTREE_RM, tree.id.0, key, &|w| self.sees(w, view));
        match found {
            FoundVersion::Visible(version) => match version.data.split_first() {
                Some((flags, bytes)) if flags & GHOST == 0 => {
                    Some(f(value_ref(Bytes { chain: flags & CHAINED != 0, bytes })))
                }
                _ => None,
            },
            FoundVersion::Absent => None,
        }
    }

    pub(crate) fn get_row<R>(
        &self,
        view: &View,
        tree: Tree,
        key: &[u8],
        f: impl FnOnce(ValueRef<'_>) -> R,
    ) -> Result<Option<R>> {
        if key.len() > self.limits().max_key {
            return Ok(None);
        }
        let mut f = Some(f);
        self.pages_only(|| -> Latched<Option<R>> {
            let page = self.shared_leaf(tree, Target::At(key))?;
            let leaf = node(tree, page.id(), &page)?;
            let found = find(&leaf, key).map_err(|b| corrupt(page.id(), b))?;
            let Some((_, record)) = found else { return Ok(None) };
            // The closure runs once: a section that ends with a need has not come this far.
            Ok(self.resolve(view, tree, key, &record, |v| f.take().map(|f| f(v))).flatten())
        })
    }
}

/// Slot and record of a key in a leaf.
pub(crate) fn find<'a>(
    leaf: &Node<'a>,
    key: &[u8],
) -> std::result::Result<Option<(usize, LeafRecord<'a>)>, Broken> {
    match leaf.search(key)? {
        Ok(slot) => Ok(Some((slot, leaf.leaf(slot)?))),
        Err(_) => Ok(None),
    }
}
