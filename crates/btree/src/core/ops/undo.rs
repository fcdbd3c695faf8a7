//! The undo bytes of a row's change: which tree, which key (unless the payload has it), and what the
//! record was.
//!
//! tree (varint), root page (varint); and unless the operation is INSERT or INSERT_RUN: key (with length), tag, writer
//! (varint, if bit 2 of the tag is set), and for UPDATE the former value. Tag: bit 0 ghost, bit 1 V, bit 2
//! the writer follows (else it was the transaction itself), bit 3 the former value is a chain reference.
use super::super::codec::{Broken, Reader, Sound, put_bytes, put_varint};
use super::super::node::{CHAIN, Word};
use super::code;
use super::leaf::Bytes;
use crate::core::Tree;
use hamal_page::{PageId, TreeId, TxnId};

const GHOST: u8 = 1;
const OLDER: u8 = 2;
const WRITER: u8 = 4;
const CHAINED: u8 = 8;

/// What a change replaced.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Former<'a> {
    pub(crate) word: Word,
    /// The value, if the change overwrote it.
    pub(crate) value: Option<Bytes<'a>>,
}

/// The undo bytes, read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Undo<'a> {
    pub(crate) tree: Tree,
    pub(crate) key: &'a [u8],
    /// None: the record was not there.
    pub(crate) former: Option<Former<'a>>,
}

/// Appends the undo bytes of an INSERT or INSERT_RUN.
pub(crate) fn put_absent(p: &mut Vec<u8>, tree: Tree) {
    put_varint(p, u64::from(tree.id.0));
    put_varint(p, tree.root.0);
}

/// Appends those of an UPDATE (with the former value), MARK_GHOST or LOCK (without) by a transaction with the id `own`.
pub(crate) fn put_former(p: &mut Vec<u8>, tree: Tree, own: TxnId, key: &[u8], former: &Former<'_>) {
    put_absent(p, tree);
    put_bytes(p, key);
    let writer = former.word.writer();
    let foreign = own.is_none() || writer != own;
    let flag = |on: bool, bit: u8| if on { bit } else { 0 };
    p.push(
        flag(former.word.ghost(), GHOST)
            | flag(former.word.older(), OLDER)
            | flag(foreign, WRITER)
            | flag(former.value.is_some_and(|v| v.chain), CHAINED),
    );
    if foreign {
        put_varint(p, writer.0);
    }
    if let Some(value) = former.value {
        p.extend_from_slice(value.bytes);
    }
}

fn tree_of(r: &mut Reader<'_>) -> Sound<Tree> {
    let id = u32::try_from(r.varint()?).map_err(|_| Broken("a tree id of more than 32 bits"))?;
    Ok(Tree { id: TreeId(id), root: PageId(r.varint()?) })
}

/// Reads the undo bytes of an INSERT_RUN: the tree. Total.
pub(crate) fn decode_run(undo: &[u8]) -> Sound<Tree> {
    let mut r = Reader(undo);
    let tree = tree_of(&mut r)?;
    r.end()?;
    Ok(tree)
}

/// Reads the undo bytes of an operation on one row by `own`. Total.
pub(crate) fn decode<'a>(own: TxnId, op: u8, payload: &'a [u8], undo: &'a [u8]) -> Sound<Undo<'a>> {
    let mut r = Reader(undo);
    let tree = tree_of(&mut r)?;
    if op == code::INSERT {
        r.end()?;
        return Ok(Undo { tree, key: super::leaf::key_of_insert(payload)?, former: None });
    }
    let (key, tag) = (r.bytes()?, r.u8()?);
    let writer = if tag & WRITER != 0 { TxnId(r.varint()?) } else { own };
    let word = Word::new(writer, tag & GHOST != 0, tag & OLDER != 0)
        .ok_or(Broken("a transaction id of more than 56 bits"))?;
    let value = match op {
        code::UPDATE => Some(Bytes { chain: tag & CHAINED != 0, bytes: r.rest() }),
        code::MARK_GHOST | code::LOCK => {
            r.end()?;
            None
        }
        _ => return Err(Broken("an operation that is never undone")),
    };
    if value.is_some_and(|v| v.chain && v.bytes.len() != CHAIN) {
        return Err(Broken("no chain reference"));
    }
    Ok(Undo { tree, key, former: Some(Former { word, value }) })
}
