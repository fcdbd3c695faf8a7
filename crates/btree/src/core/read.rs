//! Looking a key up, and what a view sees of a record.
use super::codec::Broken;
use super::descend::{Target, corrupt, leaf_at};
use super::history::Demoted;
use super::node::{LeafRecord, Node};
use super::ops::leaf::{Bytes, chain_of};
use super::{Btree, RawValue, Tree, ValueRef};
use crate::BTREE_RM;
use hamal_error::Result;
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{Lsn, TxnId, header};
use hamal_txn::{FoundVersion, Status, Version, View};

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

/// A value that was read out as it would be shown.
pub(crate) fn of_raw(value: &RawValue) -> ValueRef<'_> {
    match value {
        RawValue::Inline(bytes) => ValueRef::Inline(bytes),
        RawValue::Chain { len, head } => ValueRef::Chain { len: *len, head: *head },
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
    ) -> Resolved<R> {
        let row = |found: Option<R>| found.map_or(Resolved::Nothing, Resolved::Row);
        if self.sees(record.word.writer(), view) {
            return row((!record.word.ghost()).then(|| f(value_of(record))));
        }
        if !record.word.older() {
            return Resolved::Nothing;
        }
        let seen = |w| self.sees(w, view);
        match self.txns().versions().find(BTREE_RM, tree.id.0, key, view.snapshot, &seen) {
            FoundVersion::Visible(version) => match version.data.split_first() {
                Some((flags, bytes)) if flags & GHOST == 0 => {
                    row(Some(f(value_ref(Bytes { chain: flags & CHAINED != 0, bytes }))))
                }
                _ => Resolved::Nothing,
            },
            FoundVersion::Absent => Resolved::Nothing,
            FoundVersion::Demoted(hold) => {
                Resolved::Demoted(Demoted::new(key, Bytes { chain: record.chain, bytes: record.value }, hold))
            }
        }
    }

    /// What was read through a view counts only if its snapshot was not ended meanwhile, and so does an error (TXN-TOO-OLD).
    pub(crate) fn if_not_too_old<T>(&self, view: &View, done: Result<T>) -> Result<T> {
        if self.txns().is_too_old(view) && !mutants::is(Mutant::TooOldTestedFirst) {
            return Err(self.txns().too_old(view));
        }
        done
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
        if mutants::is(Mutant::TooOldTestedFirst) && self.txns().is_too_old(view) {
            return Err(self.txns().too_old(view));
        }
        let mut f = Some(f);
        // The closure runs once, and only on what is true.
        let mut show = |v: ValueRef<'_>| {
            let sound = mutants::is(Mutant::TooOldTestedFirst) || !self.txns().is_too_old(view);
            f.take().filter(|_| sound).map(|f| f(v))
        };
        let done = self.pages_only(|| {
            let page = self.shared_leaf(tree, Target::At(key))?;
            let leaf = leaf_at(tree, page.id(), &page, Target::At(key))?;
            let found = find(&leaf, key).map_err(|b| corrupt(page.id(), b))?;
            let Some((_, record)) = found else { return Ok((Resolved::Nothing, (page.id(), Lsn::NULL))) };
            // A section that ends with a need has not come this far.
            Ok((self.resolve(view, tree, key, &record, &mut show), (page.id(), header::page_lsn(&page))))
        });
        let done = done.and_then(|(resolved, place)| match resolved {
            Resolved::Row(r) => Ok(r),
            Resolved::Nothing => Ok(None),
            Resolved::Demoted(row) => {
                let mut rows = [row];
                self.recall(view, place, &mut rows)?;
                let [row] = rows;
                Ok(row.seen().and_then(|value| show(of_raw(&value))))
            }
        });
        self.if_not_too_old(view, done)
    }

    /// Hands the newest value of a row to `f` if it is committed, with the timestamp from which on snapshots see it (null:
    /// all do). Nothing if a live transaction has changed the row, or if there is none.
    pub(crate) fn newest_committed<R>(
        &self,
        tree: Tree,
        key: &[u8],
        f: impl Fn(ValueRef<'_>) -> R,
    ) -> Result<Option<(Lsn, R)>> {
        self.pages_only(|| {
            let page = self.shared_leaf(tree, Target::At(key))?;
            let leaf = leaf_at(tree, page.id(), &page, Target::At(key))?;
            let found = find(&leaf, key).map_err(|b| corrupt(page.id(), b))?;
            let Some((_, record)) = found.filter(|(_, r)| !r.word.ghost()) else { return Ok(None) };
            let writer = record.word.writer();
            let since = match self.txns().status(writer) {
                _ if writer.is_none() => Lsn::NULL,
                Status::Settled => Lsn::NULL,
                Status::Committed(at) => at,
                Status::Active => return Ok(None),
            };
            Ok(Some((since, f(value_of(&record)))))
        })
    }
}

/// What a view sees of a record.
pub(crate) enum Resolved<R> {
    /// A row.
    Row(R),
    /// No row.
    Nothing,
    /// The log has to be asked, with no latch held.
    Demoted(Demoted),
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
