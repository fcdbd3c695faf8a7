//! The planted bugs, without a crash: each lets normal work pass, or ends it with a typed error; none panics.
//!
//! What they do when something does go wrong is for the crash tests.

/// Each site asks a constant.
#[cfg(not(feature = "mutants"))]
#[test]
fn nothing_of_it_is_left_without_the_feature() {
    use hamal::mutants::{ALL, ENABLED, Mutant, choose, current, is};
    const SITE: bool = is(Mutant::PageBeforeLog);
    const { assert!(!ENABLED && !SITE) };
    choose(Some(ALL[0]));
    assert!(!is(ALL[0]) && current().is_none());
}

#[cfg(feature = "mutants")]
mod common;

#[cfg(feature = "mutants")]
mod with_the_feature {
    use crate::common::{bytes, rows, small, verify};
    use hamal::disk::MemDisk;
    use hamal::mutants::{ALL, Mutant, choose};
    use hamal::{Database, Durability, ErrorKind, Result};
    use std::collections::BTreeMap;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;

    type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

    fn key(n: u64) -> Vec<u8> {
        format!("key {n:06}").into_bytes()
    }

    /// Puts rows, and notes them.
    fn fill(db: &Database, model: &mut Rows, from: u64, to: u64, len: usize) -> Result<()> {
        let tx = db.begin_write()?;
        let tree = tx.open_or_create_tree("t")?;
        for n in from..to {
            let value = bytes(n + len as u64, len + (n % 7) as usize);
            tree.put(key(n), &value)?;
            model.insert(key(n), value);
        }
        tx.commit()?;
        Ok(())
    }

    fn check(db: &Database, model: &Rows) -> Result<()> {
        let found = rows(&db.begin_read()?.tree("t")?)?;
        assert!(found == *model, "wrong rows: {} of {}", found.len(), model.len());
        Ok(())
    }

    fn work(db: &Database) -> Result<()> {
        for _ in 0..3 {
            db.maintenance_step()?;
        }
        Ok(())
    }

    /// What nearly every program does: no crash, one transaction at a time, no long snapshots.
    fn plain(disk: &MemDisk) -> Result<()> {
        let mut model = Rows::new();
        let db = small().create_on(Arc::new(disk.clone()))?;
        fill(&db, &mut model, 0, 200, 40)?;
        check(&db, &model)?;
        db.flush()?;
        db.checkpoint()?;
        fill(&db, &mut model, 100, 300, 60)?;
        // Deletes, and a rollback of inserts.
        let tx = db.begin_write()?;
        let tree = tx.tree("t")?;
        for n in (0..300).step_by(3) {
            tree.delete(key(n))?;
            model.remove(&key(n));
        }
        tx.commit()?;
        let tx = db.begin_write()?;
        let tree = tx.tree("t")?;
        for n in 1000..1040 {
            tree.put(key(n), b"never")?;
        }
        tx.rollback()?;
        work(&db)?;
        check(&db, &model)?;
        // Long values, twice, and a tree that goes again.
        for round in 0..2 {
            let tx = db.begin_write()?;
            tx.tree("t")?.put(b"long", bytes(round, 30_000))?;
            model.insert(b"long".to_vec(), bytes(round, 30_000));
            tx.create_tree("other")?.put(b"a", bytes(round, 9_000))?;
            tx.commit()?;
            let tx = db.begin_write()?;
            tx.drop_tree("other")?;
            tx.commit()?;
            work(&db)?;
        }
        check(&db, &model)?;
        // A commit whose ticket is waited for later.
        let tx = db.begin_write()?;
        tx.tree("t")?.put(b"late", b"1")?;
        model.insert(b"late".to_vec(), b"1".to_vec());
        tx.commit_with(Durability::Async)?.wait()?;
        // More log than fits a few segments.
        for round in 0..6 {
            fill(&db, &mut model, 0, 150, 200 + round)?;
            db.flush()?;
            db.checkpoint()?;
        }
        check(&db, &model)?;
        verify(&db);
        db.close()?;
        let db = small().open_on(Arc::new(disk.clone()))?;
        check(&db, &model)?;
        verify(&db);
        db.close()?;
        Ok(())
    }

    /// Mutants that the work above notices: with what.
    const NOTICED: &[(Mutant, ErrorKind)] = &[
        // Opening after the close finds seals of the segments' former content.
        (Mutant::CrcWithoutLsn, ErrorKind::LogCorrupt),
        // The leaf of an insert that was rolled back has gone, and its page is another's.
        (Mutant::FingerVersionIgnored, ErrorKind::PageCorrupt),
        // The tree that is made again in the second round is still known by its name.
        (Mutant::NamesNotForgotten, ErrorKind::AlreadyExists),
    ];

    #[test]
    fn normal_work_passes_or_fails_with_a_typed_error() {
        let mut wrong = Vec::new();
        for m in std::iter::once(None).chain(ALL.iter().copied().map(Some)) {
            choose(m);
            let disk = MemDisk::new();
            let done = catch_unwind(AssertUnwindSafe(|| plain(&disk).map_err(|e| e.kind())));
            choose(None);
            let expected = NOTICED.iter().find(|(n, _)| Some(*n) == m).map(|(_, kind)| *kind);
            if !matches!(&done, Ok(found) if found.err() == expected) {
                wrong.push(format!("{m:?}: {:?}", done.map_err(|_| "panic")));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
