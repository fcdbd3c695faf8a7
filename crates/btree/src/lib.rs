//! The B+-tree: the second resource manager.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod catalogue;
mod core;
mod describe;
mod garbage;
mod names;
mod overflow;
mod shape;
mod verify;

pub use crate::core::{
    Batch, Bound, Btree, BtreeManager, Direction, Entry, ExtraEdit, Limits, PutValue, RawValue, Relocation,
    Tree, ValueRef,
};
pub use catalogue::{Catalogue, TreeInfo};
pub use describe::describe_page;
pub use garbage::Garbage;
pub use overflow::{LargeReader, LargeWriter};
pub use verify::{Finding, VerifyReport, verify};

use hamal_page::{PageId, RmId, TreeId};

/// Resource manager id of the B+-tree.
pub const BTREE_RM: RmId = RmId(2);
/// Tree id of the catalogue (tree name to id and root).
pub const CATALOGUE_TREE: TreeId = TreeId(1);
/// Root page of the catalogue.
pub const CATALOGUE_ROOT: PageId = PageId(1);
/// Tree id of the garbage tree (page chains and trees waiting to be freed).
pub const GARBAGE_TREE: TreeId = TreeId(2);
/// Root page of the garbage tree.
pub const GARBAGE_ROOT: PageId = PageId(2);
/// The first tree id of a user's tree.
pub const FIRST_USER_TREE: TreeId = TreeId(16);
