//! One wait of a transaction for another: what a deadlock is made of.
use hamal_page::{TreeId, TxnId};
use std::fmt;

/// A transaction that waits for another, and for what. The waits of a deadlock form a cycle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// Number of the transaction that waits, given when it began, unique within a run.
    pub waiter: u64,
    /// Its id; none if it has changed nothing yet.
    pub waiter_id: TxnId,
    /// Number of the transaction that it waits for.
    pub holder: u64,
    /// Its id.
    pub holder_id: TxnId,
    /// The tree that the wait is about. None if nobody said.
    pub tree: Option<TreeId>,
    /// The tree's name, where it is known.
    pub tree_name: Option<String>,
    /// The row's key; none if the tree as a whole is waited for, because it is being made, renamed or dropped.
    pub key: Option<Vec<u8>>,
    /// The waiter itself was idle: its thread waits, in the next transaction of the cycle.
    pub by_thread: bool,
}

/// A transaction for people.
pub(crate) fn name(number: u64, id: TxnId) -> String {
    match id {
        TxnId::NONE => format!("transaction #{number}"),
        id => format!("transaction #{number} ({id})"),
    }
}

/// A row or a tree for people; nothing if neither is known.
pub(crate) fn place(tree: Option<TreeId>, tree_name: Option<&str>, key: Option<&[u8]>) -> Option<String> {
    let tree = match (tree_name, tree) {
        (Some(name), _) => format!("tree {name:?}"),
        (None, Some(id)) => format!("tree {id}"),
        (None, None) => return None,
    };
    Some(match key {
        Some(key) => format!("key b\"{}\" of {tree}", shown(key)),
        None => tree,
    })
}

/// At most 64 bytes of a key.
fn shown(key: &[u8]) -> String {
    let short = &key[..key.len().min(64)];
    let dots = if short.len() < key.len() { ".." } else { "" };
    format!("{}{dots}", short.escape_ascii())
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (waiter, holder) = (name(self.waiter, self.waiter_id), name(self.holder, self.holder_id));
        if self.by_thread {
            return write!(f, "{waiter} cannot go on because its thread waits in {holder}");
        }
        match place(self.tree, self.tree_name.as_deref(), self.key.as_deref()) {
            Some(what) => write!(f, "{waiter} waits for {what}, held by {holder}"),
            None => write!(f, "{waiter} waits for {holder}"),
        }
    }
}
