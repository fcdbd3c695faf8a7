//! The operations on nodes. Each kind has its payload, what it does to the page, and its description in
//! one place: `leaf.rs` for rows, `run.rs` for runs of them, `tree.rs` for structure; `undo.rs` has the bytes that undo a row's
//! change.
//!
//! `apply` looks at the payload and at the page, never elsewhere, and is what normal work and redo both
//! run. Slot numbers are in the payload; who logged it found them under the latch. It never trims an
//! allotment and never takes a ghost away, except by PURGE, which names its slots (T9, T20).
pub(crate) mod leaf;
pub(crate) mod names;
pub(crate) mod run;
pub(crate) mod tree;
pub(crate) mod undo;

use super::codec::{Broken, Sound};
use super::edit::{KIND_INNER, KIND_LEAF};
use hamal_buffer::Applying;
use hamal_page::header;
use std::fmt;

/// Operation codes: on disk, append only. 64 to 79 belong to overflow pages.
pub(crate) mod code {
    /// The page is freed: nothing is applied.
    pub(crate) const FREE: u8 = 0;
    /// A row where there was none.
    pub(crate) const INSERT: u8 = 1;
    /// Another value for a row, or a row over a ghost.
    pub(crate) const UPDATE: u8 = 2;
    /// A row becomes a ghost.
    pub(crate) const MARK_GHOST: u8 = 3;
    /// A record goes away: undo of INSERT, and rows of nobody.
    pub(crate) const REMOVE: u8 = 4;
    /// A record becomes exactly what it was: undo of UPDATE and MARK_GHOST.
    pub(crate) const RESTORE: u8 = 5;
    /// Settled ghosts and slack go away.
    pub(crate) const PURGE: u8 = 6;
    /// A whole node.
    pub(crate) const INIT: u8 = 7;
    /// The left half of a split.
    pub(crate) const TRUNCATE: u8 = 8;
    /// The left half of a merge.
    pub(crate) const ABSORB: u8 = 9;
    /// A separator and the child right of it.
    pub(crate) const INSERT_CHILD: u8 = 10;
    /// A separator and the child right of it go away.
    pub(crate) const REMOVE_CHILD: u8 = 11;
    /// Another value in place for a settled row; its word stays.
    pub(crate) const REWRITE: u8 = 12;
    /// Another writer for a record, which stays what it is: a lock.
    pub(crate) const LOCK: u8 = 13;
    /// Neighbouring rows where there were none.
    pub(crate) const INSERT_RUN: u8 = 14;
    /// Neighbouring records go away: undo of INSERT_RUN, or of a part of it.
    pub(crate) const REMOVE_RUN: u8 = 15;
    /// Another page for a child, which has moved.
    pub(crate) const MOVE_CHILD: u8 = 16;
}

/// Applies an operation on a node. Total.
pub(crate) fn apply(at: &Applying, op: u8, payload: &[u8], page: &mut [u8]) -> Sound<()> {
    if page.len() < super::node::SLOTS || !matches!(header::kind(page), KIND_LEAF | KIND_INNER) {
        return Err(Broken("the page is no node"));
    }
    match op {
        code::INSERT => leaf::insert(at, payload, page),
        code::UPDATE => leaf::update(at, payload, page),
        code::MARK_GHOST => leaf::mark_ghost(at, payload, page),
        code::REMOVE => leaf::remove(payload, page),
        code::RESTORE => leaf::restore(payload, page),
        code::LOCK => leaf::lock(at, payload, page),
        code::INSERT_RUN => run::insert_run(at, payload, page),
        code::REMOVE_RUN => run::remove_run(payload, page),
        code::REWRITE => leaf::rewrite(payload, page),
        code::PURGE => leaf::purge(payload, page),
        code::INIT => tree::init(payload, page),
        code::TRUNCATE => tree::truncate(payload, page),
        code::ABSORB => tree::absorb(payload, page),
        code::INSERT_CHILD => tree::insert_child(payload, page),
        code::REMOVE_CHILD => tree::remove_child(payload, page),
        code::MOVE_CHILD => tree::move_child(payload, page),
        _ => Err(Broken("unknown operation")),
    }
}

/// Describes an operation on a node. Total.
pub(crate) fn describe(op: u8, payload: &[u8], f: &mut dyn fmt::Write) -> fmt::Result {
    let text = match op {
        code::FREE => Ok("free".to_owned()),
        code::INSERT => leaf::describe_insert(payload),
        code::UPDATE => leaf::describe_update(payload),
        code::MARK_GHOST => leaf::describe_mark_ghost(payload),
        code::REMOVE => leaf::describe_remove(payload),
        code::RESTORE => leaf::describe_restore(payload),
        code::LOCK => leaf::describe_lock(payload),
        code::INSERT_RUN => run::describe_insert_run(payload),
        code::REMOVE_RUN => run::describe_remove_run(payload),
        code::REWRITE => leaf::describe_rewrite(payload),
        code::PURGE => leaf::describe_purge(payload),
        code::INIT => tree::describe_init(payload),
        code::TRUNCATE => tree::describe_truncate(payload),
        code::ABSORB => tree::describe_absorb(payload),
        code::INSERT_CHILD => tree::describe_insert_child(payload),
        code::REMOVE_CHILD => tree::describe_remove_child(payload),
        code::MOVE_CHILD => tree::describe_move_child(payload),
        _ => Ok(format!("btree operation {op}?")),
    };
    match text {
        Ok(text) => f.write_str(&text),
        Err(Broken(why)) => write!(f, "btree operation {op}? ({why})"),
    }
}

/// A key for people: text where it is text, else hexadecimal; long ones cut.
pub(crate) fn show(key: &[u8]) -> String {
    let short = &key[..key.len().min(24)];
    let dots = if short.len() < key.len() { ".." } else { "" };
    if short.iter().all(|b| (0x20..0x7f).contains(b)) {
        let text: String = short.iter().map(|b| char::from(*b)).collect();
        return format!("{text:?}{dots}");
    }
    let hex: String = short.iter().map(|b| format!("{b:02x}")).collect();
    format!("0x{hex}{dots}")
}
