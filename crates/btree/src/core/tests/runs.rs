//! Runs of rows by one record: the node layer.
use super::*;
use crate::core::ops::run::{Run, encode_remove_run, put_insert_run};

fn run(slot: usize, prefix: &[u8], rows: &[(&[u8], &[u8])]) -> Vec<u8> {
    written(|p| put_insert_run(p, slot, prefix, rows).unwrap())
}

fn apply(page: &mut [u8], op: u8, payload: &[u8]) -> Result<(), String> {
    BtreeManager::default().apply(&at(3), op, payload, page).map_err(|e| e.0)
}

/// Keys, values, writers, split hints.
type Content = (Vec<(Vec<u8>, Vec<u8>, Word)>, (usize, usize));

fn content(page: &Page) -> Content {
    let node = page.node();
    let row = |i| {
        let r = node.leaf(i).unwrap();
        (node.key(i).unwrap(), r.value.to_vec(), r.word)
    };
    ((0..node.count()).map(row).collect(), node.run())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// A run leaves what single inserts leave, hints for splits included, also in a page full of holes; and its removal, in parts
    /// from the end, what was there before.
    #[test]
    fn a_run_is_as_many_inserts(
        fenced: bool,
        old in prop::collection::btree_map(keys(), 0usize..60, 0..40),
        gone in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        new in prop::collection::btree_map(keys(), 0usize..120, 1..40),
        cut in any::<prop::sample::Index>(),
    ) {
        let fences = if fenced { shaped(b"pre", Some(b"prf")) } else { tree::encode_empty(TREE) };
        let (mut one, mut many) = (init(4096, &fences), init(4096, &fences));
        for (key, len) in &old {
            let Err(slot) = one.node().search(key).unwrap() else { unreachable!() };
            let insert = leaf::encode_insert(slot, key, inline(&vec![1; *len]));
            one.apply(2, code::INSERT, &insert);
            many.apply(2, code::INSERT, &insert);
        }
        for i in gone {
            if one.node().count() > 0 {
                let remove = leaf::encode_remove(i.index(one.node().count()));
                one.apply(2, code::REMOVE, &remove);
                many.apply(2, code::REMOVE, &remove);
            }
        }
        let before = content(&many).0;
        // The first rows that are new, lie between two neighbours, and fit.
        let (mut rows, mut slot, mut free) = (Vec::new(), 0, one.node().free());
        for (key, len) in &new {
            let (Err(at), suffix) = (one.node().search(key).unwrap(), key.len() - one.node().prefix().len()) else {
                break;
            };
            if rows.is_empty() {
                slot = at;
            }
            let Some(left) = free.checked_sub(leaf_cost(suffix, *len)).filter(|_| at == slot) else { break };
            free = left;
            rows.push((key.clone(), vec![2; *len]));
        }
        if rows.is_empty() {
            return Ok(());
        }
        for (i, (key, value)) in rows.iter().enumerate() {
            one.apply(5, code::INSERT, &leaf::encode_insert(slot + i, key, inline(value)));
        }
        let refs: Vec<(&[u8], &[u8])> = rows.iter().map(|(k, v)| (&**k, &**v)).collect();
        let prefix = many.node().prefix().to_vec();
        let payload = run(slot, &prefix, &refs);
        many.apply(5, code::INSERT_RUN, &payload);
        prop_assert_eq!(content(&one), content(&many));
        prop_assert_eq!(one.node().load(), many.node().load());
        let keys: Vec<Vec<u8>> = Run::read(&payload).unwrap().keys().map(|k| k.unwrap()).collect();
        prop_assert!(keys.iter().eq(rows.iter().map(|(k, _)| k)));

        let keep = cut.index(rows.len());
        many.apply(0, code::REMOVE_RUN, &encode_remove_run(slot + keep, rows.len() - keep));
        if keep > 0 {
            many.apply(0, code::REMOVE_RUN, &encode_remove_run(slot, keep));
        }
        prop_assert_eq!(content(&many).0, before);
    }

    /// What a run's payload may have wrong: nothing is written then.
    #[test]
    fn a_broken_run_changes_nothing(
        at in 0usize..400,
        byte: u8,
        cut in 0usize..400,
        fenced: bool,
    ) {
        let fences = if fenced { shaped(b"pre", Some(b"prf")) } else { tree::encode_empty(TREE) };
        let mut page = init(4096, &fences);
        let prefix = page.node().prefix().to_vec();
        page.apply(2, code::INSERT, &leaf::encode_insert(0, b"pre0", inline(b"first")));
        page.apply(2, code::INSERT, &leaf::encode_insert(1, b"pre9", inline(b"last")));
        let good: Vec<(Vec<u8>, Vec<u8>)> =
            (1..9u8).map(|i| ([b"pre", &[b'0' + i; 6][..]].concat(), vec![i; 30])).collect();
        let refs: Vec<(&[u8], &[u8])> = good.iter().map(|(k, v)| (&**k, &**v)).collect();
        let mut payload = run(1, &prefix, &refs);
        let at = at % payload.len();
        payload[at] = byte;
        payload.truncate(payload.len() - cut % 3);
        let mut bytes = page.bytes.clone();
        if apply(&mut bytes, code::INSERT_RUN, &payload).is_ok() {
            Node::open(&bytes).unwrap().check().unwrap();
        } else {
            prop_assert_eq!(&bytes, &page.bytes);
        }
        read_all(&bytes);
        BtreeManager::default().describe(code::INSERT_RUN, &payload, &mut String::new()).unwrap();
        if let Ok(run) = Run::read(&payload) {
            run.keys().for_each(drop);
        }
    }
}

/// Each check of a run, by a payload that only it refuses.
#[test]
fn a_run_must_belong_where_it_says() {
    let mut page = init(4096, &tree::encode_empty(TREE));
    page.apply(2, code::INSERT, &leaf::encode_insert(0, b"d", inline(b"")));
    let refused = |payload: &[u8]| apply(&mut page.bytes.clone(), code::INSERT_RUN, payload).unwrap_err();
    let v: &[u8] = b"value";
    let why = refused(&run(1, b"", &[(b"e", v), (b"e", v)]));
    assert!(why.contains("do not ascend"), "{why}");
    for bad in [
        run(0, b"", &[(b"c", v), (b"d", v)]),
        run(0, b"", &[(b"c", v), (b"e", v)]),
        run(1, b"", &[(b"d", v), (b"e", v)]),
    ] {
        let why = refused(&bad);
        assert!(why.contains("does not belong"), "{why}");
    }
    assert!(refused(&run(2, b"", &[(b"e", v)])).contains("beyond"));
    let why = refused(&run(1, b"e", &[(b"ee", v)]));
    assert!(why.contains("prefix"), "{why}");
    let full = vec![0; 1000];
    let rows: Vec<(&[u8], &[u8])> = [b"e", b"f", b"g", b"h", b"i"].map(|k| (&k[..], &*full)).to_vec();
    assert!(refused(&run(1, b"", &rows)).contains("no room"));
    assert!(refused(&run(1, b"", &[(b"e", &[0; 1025])])).contains("no leaf can hold"));
    assert!(refused(&run(1, b"", &[(&[b'e'; 513], b"")])).contains("no leaf can hold"));
    let mut more = run(1, b"", &[(b"e", v)]);
    more.push(0);
    assert!(refused(&more).contains("goes on"));
    assert!(refused(&[1, 0, 0]).contains("no rows"));
    let remove = |slot, n| apply(&mut page.bytes.clone(), code::REMOVE_RUN, &encode_remove_run(slot, n));
    assert!(remove(0, 1).is_ok());
    for (slot, n) in [(0, 0), (0, 2), (1, 1), (16384, 16384)] {
        assert!(remove(slot, n).unwrap_err().contains("beyond"), "{slot} {n}");
    }
    // Between fences: the prefix is the leaf's, and the keys lie between them.
    let fenced = init(4096, &shaped(b"pre", Some(b"prez")));
    let into = |payload: &[u8]| apply(&mut fenced.bytes.clone(), code::INSERT_RUN, payload);
    assert!(into(&run(0, b"pre", &[(b"pre", v), (b"prey", v)])).is_ok());
    assert!(into(&run(0, b"pre", &[(b"pre", v), (b"prez", v)])).is_err());
    assert!(into(&run(0, b"pr", &[(b"prey", v)])).unwrap_err().contains("prefix"));
    assert!(
        apply(&mut filled(true), code::INSERT_RUN, &run(0, b"", &[(b"a", v)])).unwrap_err().contains("leaf")
    );
}
