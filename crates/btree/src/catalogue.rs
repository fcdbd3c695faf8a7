//! The catalogue: a tree that maps names to trees.
//!
//! The key of a tree's row is the byte 1 and its name, the value its id and root page. The row under the
//! single byte 0 holds the next tree id: it is raised in place by a redo-only record before the id is used,
//! so that no id is ever given twice, whatever becomes of the transaction (CATALOGUE-1). Rows that nobody
//! changes are looked up once (`names.rs`).
use crate::core::ops::code;
use crate::core::ops::tree::encode_empty;
use crate::garbage::{tree_key, tree_row};
use crate::names::Names;
use crate::overflow::{GARBAGE, RECORD_OVERHEAD, make_owned_page};
use crate::{
    Bound, Btree, CATALOGUE_ROOT, CATALOGUE_TREE, Direction, Entry, FIRST_USER_TREE, Garbage, PutValue,
    RawValue, Tree, ValueRef,
};
use hamal_error::{Error, ErrorKind, Result};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{Lsn, PageId, TreeId, TxnId};
use hamal_sync::Mutex;
use hamal_txn::{Txn, View};
use std::fmt;
use std::sync::Arc;

/// The catalogue itself.
pub(crate) const CATALOGUE: Tree = Tree { id: CATALOGUE_TREE, root: CATALOGUE_ROOT };
/// Key of the row with the next tree id.
pub(crate) const NEXT_TREE: &[u8] = &[0];
/// First byte of the key of a tree's row.
const NAME: u8 = 1;
/// Pages that a new database has: map page, catalogue root, garbage root.
const FIRST_PAGES: u32 = 3;
/// Rows that one step of a listing takes.
const ROWS: usize = 256;

/// A tree of the catalogue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeInfo {
    /// Name: any bytes that are UTF-8, at least one, at most 255 bytes, no control characters.
    pub name: Arc<str>,
    /// Id and root.
    pub tree: Tree,
}

/// Creating, finding, listing, renaming and dropping trees, all transactional.
pub struct Catalogue {
    btree: Arc<Btree>,
    garbage: Arc<Garbage>,
    /// Held while the next tree id is raised.
    ids: Mutex<()>,
    names: Names,
}

impl fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Catalogue").finish_non_exhaustive()
    }
}

fn corrupt(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::PageCorrupt, what)
}

fn not_found(name: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no tree {name:?}"))
}

fn exists(name: &str) -> Error {
    Error::new(ErrorKind::AlreadyExists, format!("there is a tree {name:?}"))
}

/// The key of a name's row.
fn name_key(name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + name.len());
    key.push(NAME);
    key.extend(name.as_bytes());
    key
}

/// Checks a name for a new tree.
fn check_name(name: &str) -> Result<()> {
    let bad = |what: &str| Err(Error::new(ErrorKind::InvalidArgument, format!("tree name {name:?}: {what}")));
    match name.len() {
        0 => bad("it is empty"),
        1..=255 if name.chars().any(char::is_control) => bad("it has a control character"),
        1..=255 => Ok(()),
        _ => bad("it is longer than 255 bytes"),
    }
}

/// The value of a tree's row.
fn encode(tree: Tree) -> [u8; 12] {
    let mut v = [0; 12];
    v[..4].copy_from_slice(&tree.id.0.to_le_bytes());
    v[4..].copy_from_slice(&tree.root.0.to_le_bytes());
    v
}

/// Reads the value of a tree's row.
fn decode(v: &[u8]) -> Option<Tree> {
    let (id, root) = v.split_first_chunk::<4>()?;
    let root = PageId(u64::from_le_bytes(root.try_into().ok()?));
    Some(Tree { id: TreeId(u32::from_le_bytes(*id)), root })
}

/// Reads the value of a tree's row as the tree shows it.
fn tree_of(v: ValueRef<'_>) -> Option<Tree> {
    match v {
        ValueRef::Inline(v) => decode(v),
        ValueRef::Chain { .. } => None,
    }
}

/// Reads a row of the catalogue; `None` for the one that holds the next tree id.
///
/// # Errors
/// `PageCorrupt`.
pub(crate) fn decode_row(row: &Entry) -> Result<Option<TreeInfo>> {
    if row.key == NEXT_TREE {
        return Ok(None);
    }
    let info = match (row.key.split_first(), &row.value) {
        (Some((&NAME, name)), RawValue::Inline(v)) => std::str::from_utf8(name)
            .ok()
            .zip(decode(v))
            .map(|(name, tree)| TreeInfo { name: name.into(), tree }),
        _ => None,
    };
    info.map(Some).ok_or_else(|| corrupt(format!("catalogue row {:02x?} cannot be read", row.key)))
}

/// What a transaction sees: its snapshot and its own changes.
fn view_of(txn: &Txn) -> View {
    View { snapshot: txn.snapshot(), own: txn.id() }
}

impl Catalogue {
    /// Over the tree code.
    pub fn new(btree: Arc<Btree>, garbage: Arc<Garbage>) -> Catalogue {
        Catalogue { btree, garbage, ids: Mutex::new(()), names: Names::default() }
    }

    /// Logs map page, catalogue root and garbage root of a new database.
    ///
    /// # Errors
    /// As a logged change.
    pub fn bootstrap(&self) -> Result<()> {
        self.btree.space().bootstrap(FIRST_PAGES)?;
        self.btree.make_root(CATALOGUE)?;
        self.btree.make_root(GARBAGE)?;
        let first = FIRST_USER_TREE.0.to_le_bytes();
        self.btree
            .insert_structure(None, CATALOGUE, NEXT_TREE, &first, RECORD_OVERHEAD, &mut || Ok(Vec::new()))
    }

    /// The tree of that name that the view sees.
    ///
    /// # Errors
    /// As a page read.
    pub fn find(&self, view: &View, name: &str) -> Result<Option<TreeInfo>> {
        if let Some((name, tree)) = self.names.find(name, view.snapshot) {
            return Ok(Some(TreeInfo { name, tree }));
        }
        if check_name(name).is_err() {
            return Ok(None);
        }
        match self.btree.get(view, CATALOGUE, &name_key(name), tree_of)? {
            None => Ok(None),
            Some(Some(tree)) => {
                self.learn(name)?;
                Ok(Some(TreeInfo { name: name.into(), tree }))
            }
            Some(None) => Err(corrupt(format!("the catalogue row of tree {name:?} cannot be read"))),
        }
    }

    /// Keeps what the row of a name says if no live transaction has changed it (CATALOGUE-2).
    fn learn(&self, name: &str) -> Result<()> {
        let changes = self.names.changes();
        if let Some((since, Some(tree))) = self.btree.newest_committed(CATALOGUE, &name_key(name), tree_of)? {
            self.names.keep(changes, name, tree, since);
        }
        Ok(())
    }

    /// Where the row of a name is, whether there is one or not.
    pub fn row_of(name: &str) -> (Tree, Vec<u8>) {
        (CATALOGUE, name_key(name))
    }

    /// All trees that the view sees, by name.
    ///
    /// # Errors
    /// As a page read.
    pub fn list(&self, view: &View) -> Result<Vec<TreeInfo>> {
        let mut trees = Vec::new();
        let mut after = NEXT_TREE.to_vec();
        loop {
            let mut rows = Vec::new();
            let (low, high, way) = (Bound::Excluded(&after), Bound::Unbounded, Direction::Forward);
            let more = self.btree.scan(view, CATALOGUE, low, high, way, ROWS, &mut rows)?;
            for row in &rows {
                trees.extend(decode_row(row)?);
            }
            match rows.pop() {
                Some(last) if more => after = last.key,
                _ => return Ok(trees),
            }
        }
    }

    /// Creates a tree.
    ///
    /// Its root page and a garbage row for it are made in one redo-only record; the catalogue row's insertion
    /// and the garbage row's deletion are the transaction's own. Rollback thus leaves the tree to the
    /// collector, with all pages that it has by then.
    ///
    /// # Errors
    /// `AlreadyExists`; `InvalidArgument` for the name; as [`Btree::put`].
    pub fn create(&self, txn: &Txn, name: &str) -> Result<TreeInfo> {
        check_name(name)?;
        self.must_be_new(txn, name)?;
        let id = self.next_id()?;
        self.btree.txns().register_exclusive(txn, id)?;
        let (op, payload) = (code::INIT, encode_empty(id));
        let row = |root| tree_row(Tree { id, root });
        let root = make_owned_page(&self.btree, txn, |_| tree_key(id), row, op, |_| payload.clone())?;
        let tree = Tree { id, root };
        self.put_new(txn, name, tree)?;
        self.btree.remove(txn, GARBAGE, &tree_key(id))?;
        Ok(TreeInfo { name: name.into(), tree })
    }

    /// Renames a tree. Nothing happens if both names are the same.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists`; `InvalidArgument` for the new name; as [`Btree::put`].
    pub fn rename(&self, txn: &Txn, from: &str, to: &str) -> Result<()> {
        check_name(to)?;
        let tree = self.own_exclusively(txn, from)?;
        if from == to {
            return Ok(());
        }
        self.must_be_new(txn, to)?;
        self.put_new(txn, to, tree)?;
        self.remove(txn, from)
    }

    /// Drops a tree: registers exclusively, deletes its row, inserts its garbage row (T8).
    ///
    /// # Errors
    /// `NotFound`; as [`Btree::put`].
    pub fn drop_tree(&self, txn: &Txn, name: &str) -> Result<()> {
        let tree = self.own_exclusively(txn, name)?;
        self.remove(txn, name)?;
        self.garbage.discard_tree(txn, tree)
    }

    /// What a transaction does before its first write in a tree: registers shared, then checks the tree's
    /// catalogue row by the conflict rule (T8). Only after a call that succeeded may it be left out for the
    /// same tree.
    ///
    /// # Errors
    /// `Conflict`, `NotFound` if it was dropped; as [`Btree::put`].
    pub fn register(&self, txn: &Txn, info: &TreeInfo) -> Result<()> {
        // A look before registering: a tree that is gone for this transaction is not registered with.
        self.name_of(txn, info)?;
        self.btree.txns().register(txn, info.tree.id)?;
        if mutants::is(Mutant::CatalogueRowUnchecked) || self.is_known(txn, info) {
            return Ok(());
        }
        // From here on nobody can drop or rename it; whether somebody has since the snapshot, the row's
        // writer tells.
        let name = self.name_of(txn, info)?;
        self.btree.check_row(txn, CATALOGUE, &name_key(&name))
    }

    /// Whether the row is known to be what the transaction sees, and last changed by somebody that it sees.
    fn is_known(&self, txn: &Txn, info: &TreeInfo) -> bool {
        self.names.find(&info.name, txn.snapshot()).is_some_and(|(_, tree)| tree == info.tree)
    }

    /// The name under which the transaction sees that very tree: it may have renamed it itself.
    fn name_of(&self, txn: &Txn, info: &TreeInfo) -> Result<Arc<str>> {
        let view = view_of(txn);
        if self.find(&view, &info.name)?.is_some_and(|i| i.tree == info.tree) {
            return Ok(info.name.clone());
        }
        let renamed = self.list(&view)?.into_iter().find(|i| i.tree == info.tree);
        renamed.map(|i| i.name).ok_or_else(|| not_found(&info.name))
    }

    /// Registers exclusively with the tree of that name and checks that its row is still what the transaction
    /// sees.
    fn own_exclusively(&self, txn: &Txn, name: &str) -> Result<Tree> {
        let found = self.find(&view_of(txn), name)?.ok_or_else(|| not_found(name))?;
        self.btree.txns().register_exclusive(txn, found.tree.id)?;
        self.btree.check_row(txn, CATALOGUE, &name_key(name))?;
        match self.find(&view_of(txn), name)? {
            Some(i) if i.tree == found.tree => Ok(i.tree),
            _ => Err(not_found(name)),
        }
    }

    /// Gives a name that must be new to a tree. What was read of the name before does not suffice: under read committed the
    /// registration in between takes a new snapshot, and by that one a tree of that name is there, and may be overwritten.
    /// The row itself tells, under its latch; after an error the caller undoes the statement (TXN-RC).
    fn put_new(&self, txn: &Txn, name: &str, tree: Tree) -> Result<()> {
        let former = self.btree.put(txn, CATALOGUE, &name_key(name), PutValue::Inline(&encode(tree)))?;
        self.names.changed();
        if former.is_some() { Err(exists(name)) } else { Ok(()) }
    }

    /// Takes the row of a name away.
    fn remove(&self, txn: &Txn, name: &str) -> Result<()> {
        self.btree.remove(txn, CATALOGUE, &name_key(name))?;
        self.names.changed();
        Ok(())
    }

    fn must_be_new(&self, txn: &Txn, name: &str) -> Result<()> {
        match self.find(&view_of(txn), name)? {
            Some(_) => Err(exists(name)),
            None => Ok(()),
        }
    }

    /// Takes the next tree id (CATALOGUE-1). The record that raises it comes before every record that uses
    /// it.
    fn next_id(&self) -> Result<TreeId> {
        let _ids = self.ids.lock();
        // The row's writer is nobody: everybody sees it as it is, whatever the snapshot.
        let view = View { snapshot: Lsn::MAX, own: TxnId::NONE };
        let found = self.btree.get(&view, CATALOGUE, NEXT_TREE, |v| match v {
            ValueRef::Inline(v) => v.try_into().ok().map(u32::from_le_bytes),
            ValueRef::Chain { .. } => None,
        })?;
        let id = found.flatten().ok_or_else(|| corrupt("the catalogue's next tree id cannot be read"))?;
        let next = id.checked_add(1).ok_or_else(|| Error::new(ErrorKind::Limit, "tree ids are used up"))?;
        let (value, extra) = (next.to_le_bytes(), RECORD_OVERHEAD);
        self.btree.rewrite_structure(CATALOGUE, NEXT_TREE, Some(&value), extra, &mut || Ok(Vec::new()))?;
        Ok(TreeId(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_back() {
        let tree = Tree { id: TreeId(0x0102_0304), root: PageId(0x1122_3344_5566_7788) };
        assert_eq!(decode(&encode(tree)), Some(tree));
        assert_eq!(decode(&encode(tree)[..11]), None);
        assert_eq!(decode(&[0; 13]), None);
        let row = Entry { key: name_key("a/ö"), value: RawValue::Inline(encode(tree).to_vec()) };
        assert_eq!(decode_row(&row).unwrap(), Some(TreeInfo { name: "a/ö".into(), tree }));
        let bad = Entry { key: vec![1, 0xff], value: row.value };
        assert_eq!(decode_row(&bad).unwrap_err().kind(), ErrorKind::PageCorrupt);
    }

    #[test]
    fn names_are_checked() {
        for good in ["a", "Größe", "a b/c", &"x".repeat(255)] {
            check_name(good).unwrap();
        }
        for bad in ["", "a\0", "\n", "\u{85}", &"x".repeat(256), &"ö".repeat(128)] {
            assert_eq!(check_name(bad).unwrap_err().kind(), ErrorKind::InvalidArgument);
        }
    }
}
