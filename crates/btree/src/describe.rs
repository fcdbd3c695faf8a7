//! Pages for people: what `hamal page` shows of a node, an overflow page or a space map. Total: what cannot be
//! read is named, slot by slot, and the rest is shown.
use crate::BTREE_RM;
use crate::core::codec::{Broken, Sound};
use crate::core::edit::{KIND_INNER, KIND_LEAF};
use crate::core::node::Node;
use crate::core::ops::leaf::chain_of;
use crate::core::ops::show;
use crate::overflow::{KIND_OVERFLOW, head_of, parse};
use hamal_page::{HEADER_LEN, PageId, header};
use std::fmt::Write as _;

/// Describes the body of a page, one fact or slot a line: a leaf or inner node (level, fences, prefix, and of
/// each slot key, value length, writer, ghost and V flags, allotment in bytes), an overflow page, or a space
/// map. `None` if the page is none of these. Takes any bytes: damage is named in the text.
pub fn describe_page(page: &[u8]) -> Option<String> {
    if page.len() < HEADER_LEN {
        return None;
    }
    if header::rm(page) != BTREE_RM {
        return hamal_space::describe_page(page);
    }
    match header::kind(page) {
        KIND_LEAF | KIND_INNER => Some(node(page)),
        KIND_OVERFLOW => Some(overflow(page)),
        _ => None,
    }
}

fn node(page: &[u8]) -> String {
    let node = match Node::open(page) {
        Ok(node) => node,
        Err(Broken(why)) => return format!("damaged   {why}\n"),
    };
    let mut s = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(s, "{name:<10}{value}");
    };
    let what = if node.is_leaf() { "leaf".to_owned() } else { "inner node".to_owned() };
    line("node", format!("{what}, level {}", node.level()));
    line("lower", if node.lower().is_empty() { "-inf".to_owned() } else { show(node.lower()) });
    line("upper", node.upper().map_or("+inf".to_owned(), show));
    line("prefix", format!("{} bytes {}", node.prefix().len(), show(node.prefix())));
    line("slots", format!("{}, {} bytes free", node.count(), node.free()));
    if let Err(Broken(why)) = node.check() {
        line("damaged", why.to_owned());
    }
    if !node.is_leaf() {
        line("left", node.child(0).map_or_else(|Broken(why)| why.to_owned(), |p| format!("page {p}")));
    }
    for i in 0..node.count() {
        line(&format!("slot {i}"), slot(&node, i).unwrap_or_else(|Broken(why)| format!("damaged: {why}")));
    }
    s
}

fn slot(node: &Node<'_>, i: usize) -> Sound<String> {
    let key = show(&node.key(i)?);
    if !node.is_leaf() {
        return Ok(format!("key={key} page {}", node.child(i + 1)?));
    }
    let record = node.leaf(i)?;
    let value = if record.chain {
        let (len, head) = chain_of(record.value);
        format!("{len} B in chain {head}")
    } else {
        format!("{} B", record.value.len())
    };
    let ghost = if record.word.ghost() { " ghost" } else { "" };
    let older = if record.word.older() { " V" } else { "" };
    let writer = record.word.writer();
    Ok(format!("key={key} value={value} writer={writer}{ghost}{older} allot={}", record.allot))
}

fn overflow(page: &[u8]) -> String {
    // A page that names another head than itself is checked against that; its own id is in the header.
    let (id, head) = (header::page_id(page), head_of(page));
    match parse(id, page, head) {
        Ok(fields) => {
            let next = fields.next.map_or("none".to_owned(), |PageId(n)| format!("page {n}"));
            format!(
                "overflow  chain {head}, bytes from {}\nlen       {}\nnext      {next}\n",
                fields.position, fields.len
            )
        }
        Err(e) => format!("damaged   {}\n", e.message()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::edit;
    use crate::core::node::{LeafRecord, Word};
    use hamal_page::{TreeId, TxnId};

    fn leaf() -> Vec<u8> {
        let mut p = vec![0; 4096];
        hamal_page::init(&mut p, PageId(9), BTREE_RM, KIND_LEAF, TreeId(16));
        edit::begin(&mut p, 0, b"ab", Some(b"abz"), None).unwrap();
        let mut filler = edit::Filler::new(&mut p).unwrap();
        for (suffix, ghost) in [(&b"c"[..], false), (b"d\xff", true)] {
            let word = Word::new(TxnId(77), ghost, ghost).unwrap();
            let record = LeafRecord { word, chain: false, allot: 10, value: b"value" };
            filler.push(suffix, &edit::Body::Leaf(record)).unwrap();
        }
        filler.finish().unwrap();
        p
    }

    #[test]
    fn a_leaf_is_described() {
        let s = describe_page(&leaf()).unwrap();
        for want in [
            "node      leaf, level 0\n",
            "lower     \"ab\"\n",
            "upper     \"abz\"\n",
            "prefix    2 bytes \"ab\"\n",
            "key=\"abc\" value=5 B writer=",
            "key=0x616264ff value=5 B writer=",
            " ghost V allot=10\n",
        ] {
            assert!(s.contains(want), "{want:?} in\n{s}");
        }
        assert!(!s.contains("damaged"));
    }

    #[test]
    fn any_bytes_are_described() {
        let good = leaf();
        let mut x = 1u32;
        let mut dice = |n: usize| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 8) as usize % n
        };
        for round in 0..4000 {
            let mut p = good.clone();
            p[8 + dice(32)] ^= if round % 2 == 0 { 0 } else { 1 << dice(8) };
            for _ in 0..1 + dice(8) {
                let at = [dice(4096), HEADER_LEN + dice(64)][dice(2)];
                p[at] = dice(256) as u8;
            }
            let _ = describe_page(&p);
            p.truncate(dice(200));
            let _ = describe_page(&p);
        }
        for kind in 0..=255 {
            for rm in 0..4 {
                for fill in [0, 1, 0xff] {
                    let mut p = vec![fill; 4096];
                    hamal_page::init(&mut p, PageId(3), hamal_page::RmId(rm), kind, TreeId(0));
                    p[HEADER_LEN..].fill(fill);
                    let _ = describe_page(&p);
                }
            }
        }
    }
}
