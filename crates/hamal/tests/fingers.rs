//! Writes that find their leaf by the thread's last one: whatever happens to the leaf in between, they must find the right one.
use hamal::{Database, Result, Tree};
use std::collections::BTreeMap;

fn value(n: u64) -> Vec<u8> {
    let mut v = n.to_be_bytes().to_vec();
    v.resize(90, n as u8);
    v
}

fn agree(tree: &Tree, model: &BTreeMap<Vec<u8>, Vec<u8>>) -> Result<()> {
    let rows: Vec<_> =
        tree.iter().map(|r| r.map(|(k, v)| (k.to_vec(), v.to_vec()))).collect::<Result<_>>()?;
    assert_eq!(rows, model.iter().map(|(k, v)| (k.clone(), v.clone())).collect::<Vec<_>>());
    Ok(())
}

/// Ascending, descending, backward and forward, in two trees in turns, with splits, merges and rollbacks between.
#[test]
fn runs_in_all_directions_agree_with_a_map() -> Result<()> {
    let db = Database::builder().page_size(4096).cache_bytes(1 << 20).in_memory()?;
    let tx = db.begin_write()?;
    tx.create_tree("a")?;
    tx.create_tree("b")?;
    tx.commit()?;
    let mut models = [BTreeMap::new(), BTreeMap::new()];
    for round in 0..12u64 {
        let tx = db.begin_write()?;
        let trees = [tx.tree("a")?, tx.tree("b")?];
        let before = models.clone();
        for i in 0..400 {
            let n = match round % 4 {
                0 => round * 1000 + i,
                1 => round * 1000 - i,
                2 => i * 7919 % 5000,
                _ => i,
            };
            for (tree, model) in trees.iter().zip(&mut models) {
                let key = n.to_be_bytes().to_vec();
                if round % 4 == 3 || (i % 5 == 4 && round > 4) {
                    assert_eq!(tree.delete(&key)?, model.remove(&key).is_some());
                } else {
                    tree.put(&key, value(n + round))?;
                    model.insert(key, value(n + round));
                }
            }
        }
        for (tree, model) in trees.iter().zip(&models) {
            agree(tree, model)?;
        }
        if round % 3 == 2 {
            tx.rollback()?;
            models = before;
        } else {
            tx.commit()?;
        }
        // Ghosts go, leaves merge and are freed; the next round begins with what the thread remembers of them.
        for _ in 0..20 {
            db.maintenance_step()?;
        }
        let read = db.begin_write()?;
        for (name, model) in ["a", "b"].iter().zip(&models) {
            agree(&read.tree(name)?, model)?;
        }
    }
    Ok(())
}

/// A leaf that the thread remembers is emptied, merged away and given to another tree.
#[test]
fn a_leaf_that_went_to_another_tree_is_not_written() -> Result<()> {
    let db = Database::builder().page_size(4096).background(false).in_memory()?;
    let tx = db.begin_write()?;
    let (a, b) = (tx.create_tree("a")?, tx.create_tree("b")?);
    for n in 0..1000u64 {
        a.put(n.to_be_bytes(), value(n))?;
    }
    b.put("b", "b")?;
    tx.commit()?;
    // All but the first rows go; the last leaf, which the thread wrote last, with them.
    let tx = db.begin_write()?;
    let a = tx.tree("a")?;
    for n in 5..1000u64 {
        a.delete(n.to_be_bytes())?;
    }
    tx.commit()?;
    for _ in 0..200 {
        db.maintenance_step()?;
    }
    // On other threads, so that this one still remembers.
    std::thread::scope(|s| {
        let filled = s.spawn(|| -> Result<()> {
            let tx = db.begin_write()?;
            let b = tx.tree("b")?;
            for n in 0..1000u64 {
                b.put(n.to_be_bytes(), value(n))?;
            }
            tx.commit().map(|_| ())
        });
        filled.join().unwrap()
    })?;
    let tx = db.begin_write()?;
    let (a, b) = (tx.tree("a")?, tx.tree("b")?);
    for n in (990..1000u64).rev() {
        a.put(n.to_be_bytes(), "again")?;
    }
    assert_eq!(a.len()?, 15);
    assert_eq!(b.len()?, 1001);
    for n in 0..1000u64 {
        assert_eq!(b.get(n.to_be_bytes())?.as_deref(), Some(&value(n)[..]));
    }
    tx.commit()?;
    let report = db.verify(&mut |_, _| {})?;
    assert_eq!((report.findings.as_slice(), report.rows >= 1016), (&[][..], true));
    Ok(())
}

/// Threads that write in the same leaves: a finger is good only if nobody came in between.
#[test]
fn threads_that_share_leaves_lose_no_row() -> Result<()> {
    let db = Database::builder().page_size(4096).in_memory()?;
    let tx = db.begin_write()?;
    tx.create_tree("t")?;
    tx.commit()?;
    std::thread::scope(|s| {
        let threads: Vec<_> = (0..3u64)
            .map(|t| {
                let db = &db;
                s.spawn(move || -> Result<()> {
                    for from in (0..3000u64).step_by(50) {
                        let tx = db.begin_write()?;
                        let tree = tx.tree("t")?;
                        for n in from..from + 50 {
                            tree.put((n * 3 + t).to_be_bytes(), value(n))?;
                        }
                        tx.commit()?;
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|t| t.join().unwrap())
    })?;
    let read = db.begin_read()?;
    let tree = read.tree("t")?;
    assert_eq!(tree.len()?, 9000);
    for n in 0..9000u64 {
        assert_eq!(tree.get(n.to_be_bytes())?.as_deref(), Some(&value(n / 3)[..]), "{n}");
    }
    Ok(())
}

/// A bulk load over rows, ghosts and other people's leaves is the same as puts one by one.
#[test]
fn bulk_loads_agree_with_a_map() -> Result<()> {
    let db = Database::builder().page_size(4096).cache_bytes(1 << 20).in_memory()?;
    let tx = db.begin_write()?;
    tx.create_tree("t")?;
    tx.commit()?;
    let mut model = BTreeMap::new();
    for round in 1..9u64 {
        let tx = db.begin_write()?;
        let tree = tx.tree("t")?;
        let before = model.clone();
        // Every n-th key: between the others, over them, and beyond; some values are long.
        let rows: Vec<_> = (0..900u64)
            .map(|i| {
                let len = if i % 97 == 5 { 3000 } else { (i * round % 150) as usize };
                ((i * (10 - round)).to_be_bytes(), vec![round as u8; len])
            })
            .collect();
        assert_eq!(tree.bulk_load(rows.iter().map(|(k, v)| (k, v)))?, 900);
        model.extend(rows.iter().map(|(k, v)| (k.to_vec(), v.clone())));
        agree(&tree, &model)?;
        if round == 4 {
            tx.rollback()?;
            model = before;
            continue;
        }
        for n in (0..9000u64).step_by(7) {
            let key = n.to_be_bytes();
            assert_eq!(tree.delete(key)?, model.remove(&key[..]).is_some());
        }
        tx.commit()?;
        agree(&db.begin_write()?.tree("t")?, &model)?;
    }
    let report = db.verify(&mut |_, _| {})?;
    assert_eq!(report.findings, []);
    Ok(())
}

/// The rows before an error stay, those after it are not put.
#[test]
fn a_bulk_load_ends_at_its_first_error() -> Result<()> {
    let db = Database::builder().page_size(4096).in_memory()?;
    let tx = db.begin_write()?;
    let tree = tx.create_tree("t")?;
    let mut rows: Vec<_> = (0..700u32).map(|n| (n.to_be_bytes().to_vec(), b"value".to_vec())).collect();
    rows[300].0.resize(600, 0);
    let e = tree.bulk_load(rows.iter().map(|(k, v)| (k, v))).unwrap_err();
    assert_eq!(e.kind(), hamal::ErrorKind::InvalidArgument);
    assert_eq!(tree.len()?, 300);
    let e = tree.bulk_load([("b", "1"), ("c", "2"), ("a", "3")]).unwrap_err();
    assert_eq!(e.kind(), hamal::ErrorKind::InvalidArgument);
    assert_eq!(tree.len()?, 302);
    tx.commit()?;
    Ok(())
}
