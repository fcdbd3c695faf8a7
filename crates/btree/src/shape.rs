//! A node as a value: what the collector and verification look at, taken apart once and checked, so that
//! neither depends on how a node keeps its bytes.
use crate::RawValue;
use crate::core::codec::{Broken, Sound};
use crate::core::edit::{KIND_INNER, KIND_LEAF};
use crate::core::node;
use crate::core::ops::leaf::chain_of;
use hamal_page::{PageId, header};

/// A row of a leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) key: Vec<u8>,
    pub(crate) ghost: bool,
    pub(crate) value: RawValue,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// Children from left to right, and the separators between them: one less.
    Inner { children: Vec<PageId>, separators: Vec<Vec<u8>> },
    /// Rows by key, ghosts among them.
    Leaf(Vec<Row>),
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// 0 for a leaf.
    pub(crate) level: u8,
    /// Lower fence: no key is below it.
    pub(crate) low: Vec<u8>,
    /// Upper fence: every key is below it. None at the right edge of the tree.
    pub(crate) high: Option<Vec<u8>>,
    pub(crate) body: Body,
}

/// Takes a node apart, after checking all of it.
///
/// # Errors
/// What is wrong with it, in words.
pub(crate) fn read(page: &[u8]) -> Result<Node, String> {
    read_sound(page).map_err(|Broken(what)| what.to_owned())
}

fn read_sound(page: &[u8]) -> Sound<Node> {
    let node = node::Node::open(page)?;
    let kind = if node.is_leaf() { KIND_LEAF } else { KIND_INNER };
    if header::kind(page) != kind {
        return Err(Broken("the page's kind is not that of a node of its level"));
    }
    node.check()?;
    let body = if node.is_leaf() {
        Body::Leaf((0..node.count()).map(|i| row(&node, i)).collect::<Sound<_>>()?)
    } else {
        Body::Inner {
            children: (0..=node.count()).map(|i| node.child(i)).collect::<Sound<_>>()?,
            separators: (0..node.count()).map(|i| node.key(i)).collect::<Sound<_>>()?,
        }
    };
    Ok(Node { level: node.level(), low: node.lower().to_vec(), high: node.upper().map(<[u8]>::to_vec), body })
}

fn row(node: &node::Node<'_>, i: usize) -> Sound<Row> {
    let record = node.leaf(i)?;
    let value = if record.chain {
        let (len, head) = chain_of(record.value);
        RawValue::Chain { len, head }
    } else {
        RawValue::Inline(record.value.to_vec())
    };
    Ok(Row { key: node.key(i)?, ghost: record.word.ghost(), value })
}
