//! Every verb of the embedding API.
mod common;

use common::{bytes, rows, small, verify};
use hamal::disk::MemDisk;
use hamal::{Between, Database, Durability, ErrorKind, Result};
use std::io::Read;
use std::sync::Arc;

fn db() -> Database {
    small().in_memory().unwrap()
}

#[test]
fn map_verbs() -> Result<()> {
    let db = db();
    let tx = db.begin_write()?;
    let t = tx.create_tree("t")?;
    assert!(t.is_empty()?);
    assert_eq!(t.first()?, None);
    assert_eq!(t.pop_last()?, None);
    assert_eq!(t.insert("b", "2")?, None);
    assert_eq!(t.insert("b", "two")?.unwrap(), b"2");
    t.put("a", "1")?;
    t.put("c", "3")?;
    t.put("", "empty key")?;
    t.put("empty value", "")?;
    assert_eq!(t.get("")?.unwrap(), b"empty key");
    assert_eq!(t.get("empty value")?.unwrap(), b"");
    assert_eq!(t.len()?, 5);
    assert!(t.contains_key("a")?);
    assert!(!t.contains_key("z")?);
    assert_eq!(t.get("z")?, None);
    assert_eq!(t.get_with("b", |v| v.len())?, Some(3));
    assert_eq!(t.get_with("z", |v| v.len())?, None);
    assert_eq!(t.first()?.unwrap().1, b"empty key");
    assert_eq!(t.pop_first()?.unwrap().0, b"");
    assert_eq!(t.last()?.unwrap().0, b"empty value");
    assert_eq!(t.pop_last()?.unwrap().0, b"empty value");
    assert_eq!(t.remove("c")?.unwrap(), b"3");
    assert_eq!(t.remove("c")?, None);
    assert!(t.delete("a")?);
    assert!(!t.delete("a")?);
    assert_eq!(rows(&t)?.len(), 1);
    assert_eq!(t.clear()?, 1);
    assert!(t.is_empty()?);
    tx.commit()?;
    verify(&db);
    Ok(())
}

#[test]
fn ranges_from_both_ends() -> Result<()> {
    let db = db();
    let tx = db.begin_write()?;
    let t = tx.create_tree("t")?;
    let key = |i: u32| format!("k{i:05}").into_bytes();
    assert_eq!(t.bulk_load((0..2000).map(|i| (key(i), i.to_le_bytes())))?, 2000);
    tx.commit()?;
    let tx = db.begin_read()?;
    let t = tx.tree("t")?;
    let all: Vec<_> = t.iter().keys().collect::<Result<_>>()?;
    assert_eq!(all, (0..2000).map(key).collect::<Vec<_>>());
    let back: Vec<_> = t.iter().rev().map(|r| r.map(|r| r.0)).collect::<Result<_>>()?;
    assert_eq!(back, (0..2000).rev().map(key).collect::<Vec<_>>());
    // Alternating ends meet in the middle and show each row once.
    let mut r = t.range(key(100)..=key(1500));
    let mut seen = Vec::new();
    loop {
        let a = r.next().transpose()?;
        let b = r.next_back().transpose()?;
        let done = a.is_none() && b.is_none();
        seen.extend(a.into_iter().chain(b).map(|x| x.0.into_vec()));
        if done {
            break;
        }
    }
    assert!(r.next().is_none() && r.next_back().is_none());
    seen.sort();
    assert_eq!(seen, (100..=1500).map(key).collect::<Vec<_>>());
    assert_eq!(t.range(key(5)..key(5)).count(), 0);
    assert_eq!(t.range(key(6)..key(5)).count(), 0);
    assert_eq!(t.range(key(5)..=key(5)).count(), 1);
    assert_eq!(t.range(..key(5)).count(), 5);
    assert_eq!(t.range::<&[u8]>(..).count(), 2000);
    use std::ops::Bound::*;
    assert_eq!(t.range((Excluded(key(5)), Included(key(7)))).count(), 2);
    assert_eq!(t.prefix("k0001").count(), 10);
    assert_eq!(t.prefix("x").count(), 0);
    assert_eq!(t.prefix("").count(), 2000);
    assert_eq!(t.len()?, 2000);
    verify(&db);
    Ok(())
}

#[test]
fn bulk_load_refuses_disorder() -> Result<()> {
    let db = db();
    let tx = db.begin_write()?;
    let t = tx.create_tree("t")?;
    let e = t.bulk_load([("b", "1"), ("a", "2")]).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidArgument);
    assert_eq!(t.bulk_load([("c", "1"), ("c", "2")]).unwrap_err().kind(), ErrorKind::InvalidArgument);
    Ok(())
}

#[test]
fn long_values() -> Result<()> {
    let db = db();
    let long = bytes(1, 300_000);
    let tx = db.begin_write()?;
    let t = tx.create_tree("t")?;
    t.put("long", &long)?;
    assert_eq!(t.get("long")?.unwrap(), long);
    assert_eq!(t.get_with("long", |v| v.len())?, Some(long.len()));
    tx.commit()?;

    let snapshot = db.begin_read()?;
    let mut reader = snapshot.tree("t")?.reader("long")?.unwrap();
    assert_eq!(reader.remaining(), 300_000);

    let tx = db.begin_write()?;
    let t = tx.tree("t")?;
    assert_eq!(t.insert("long", "short")?.unwrap(), long);
    let other = bytes(2, 100_001);
    assert_eq!(t.insert_from("streamed", &mut &other[..])?, 100_001);
    assert_eq!(t.insert_from("small", &mut &b"abc"[..])?, 3);
    assert_eq!(t.insert_from("none", &mut &b""[..])?, 0);
    assert_eq!(t.get("streamed")?.unwrap(), other);
    assert_eq!(t.get("small")?.unwrap(), b"abc");
    assert_eq!(t.remove("streamed")?.unwrap(), other);
    t.insert_from("streamed", &mut &other[..])?;
    tx.commit()?;
    for _ in 0..20 {
        db.maintenance_step()?;
    }

    // The snapshot still has the former value, although it is garbage since.
    let mut all = Vec::new();
    reader.read_to_end(&mut all).unwrap();
    assert_eq!(all, long);
    drop((reader, snapshot));
    while db.maintenance_step()? {}
    assert_eq!(db.begin_read()?.tree("t")?.get("streamed")?.unwrap(), other);
    assert_eq!(db.begin_read()?.tree("t")?.iter().count(), 4);
    verify(&db);
    Ok(())
}

#[test]
fn a_source_that_fails_undoes_the_statement() -> Result<()> {
    struct Failing(u32);
    impl Read for Failing {
        fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
            self.0 -= 1;
            if self.0 == 0 { Err(std::io::Error::other("gone")) } else { Ok(buf.len()) }
        }
    }
    let db = db();
    let tx = db.begin_write()?;
    let t = tx.create_tree("t")?;
    t.put("k", "old")?;
    assert_eq!(t.insert_from("k", &mut Failing(4)).unwrap_err().kind(), ErrorKind::Io);
    assert_eq!(t.get("k")?.unwrap(), b"old");
    tx.commit()?;
    while db.maintenance_step()? {}
    verify(&db);
    Ok(())
}

#[test]
fn limits_are_errors() -> Result<()> {
    let db = db();
    let tx = db.begin_write()?;
    let t = tx.create_tree("t")?;
    t.put(bytes(1, 512), "longest key")?;
    for value in [10, 10_000] {
        let e = t.put(bytes(1, 513), bytes(1, value)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidArgument, "{e}");
    }
    assert_eq!(t.get(bytes(1, 2000))?, None);
    for name in ["".to_string(), "x".repeat(256)] {
        assert_eq!(tx.create_tree(&name).unwrap_err().kind(), ErrorKind::InvalidArgument);
        assert_eq!(tx.tree(&name).unwrap_err().kind(), ErrorKind::NotFound);
    }
    assert_eq!(t.len()?, 1, "the statements that failed left nothing");
    Ok(())
}

#[test]
fn trees() -> Result<()> {
    let db = db();
    let tx = db.begin_write()?;
    let a = tx.create_tree("a")?;
    a.put("k", "v")?;
    assert_eq!(tx.create_tree("a").unwrap_err().kind(), ErrorKind::AlreadyExists);
    tx.create_tree("b")?;
    assert_eq!(tx.trees()?, ["a", "b"]);
    assert_eq!(tx.open_or_create_tree("a")?.get("k")?.unwrap(), b"v");
    assert_eq!(tx.rename_tree("a", "b").unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(tx.rename_tree("x", "y").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(tx.drop_tree("x").unwrap_err().kind(), ErrorKind::NotFound);
    tx.rename_tree("a", "c")?;
    a.put("k2", "v2")?;
    assert_eq!(tx.tree("c")?.len()?, 2);
    let sp = tx.savepoint()?;
    tx.drop_tree("c")?;
    assert_eq!(a.put("k3", "").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(a.get("k").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(a.iter().next().unwrap().unwrap_err().kind(), ErrorKind::NotFound);
    let d = tx.create_tree("d")?;
    tx.rollback_to(&sp)?;
    assert_eq!(a.len()?, 2, "dropping was undone");
    assert_eq!(d.put("k", "").unwrap_err().kind(), ErrorKind::NotFound, "creating was undone");
    tx.commit()?;
    assert_eq!(db.begin_read()?.trees()?, ["b", "c"]);
    assert_eq!(db.begin_read()?.tree("a").unwrap_err().kind(), ErrorKind::NotFound);

    // A tree that was renamed by somebody, opened and renamed again before the first write.
    let tx = db.begin_write()?;
    let t = tx.tree("c")?;
    tx.rename_tree("c", "e")?;
    t.put("x", "y")?;
    tx.commit()?;
    let tx = db.begin_write()?;
    tx.drop_tree("e")?;
    tx.commit()?;
    while db.maintenance_step()? {}
    assert_eq!(db.begin_read()?.trees()?, ["b"]);
    verify(&db);
    Ok(())
}

#[test]
fn savepoints_nest() -> Result<()> {
    let db = db();
    let tx = db.begin_write()?;
    let t = tx.create_tree("t")?;
    t.put("a", "0")?;
    let one = tx.savepoint()?;
    t.put("a", "1")?;
    t.put("long", bytes(1, 20_000))?;
    let two = tx.savepoint()?;
    t.remove("a")?;
    tx.rollback_to(&two)?;
    assert_eq!(t.get("a")?.unwrap(), b"1");
    t.put("a", "2")?;
    tx.rollback_to(&one)?;
    assert_eq!(t.get("a")?.unwrap(), b"0");
    assert_eq!(t.get("long")?, None);
    assert_eq!(tx.rollback_to(&two).unwrap_err().kind(), ErrorKind::NotFound);
    t.put("a", "3")?;
    tx.rollback_to(&one)?;
    tx.rollback_to(&one)?;
    let other = db.begin_write()?;
    assert_eq!(other.rollback_to(&one).unwrap_err().kind(), ErrorKind::NotFound);
    tx.commit()?;
    assert_eq!(rows(&db.begin_read()?.tree("t")?)?.len(), 1);
    drop(other);
    while db.maintenance_step()? {}
    verify(&db);
    Ok(())
}

#[test]
fn the_end_of_a_transaction() -> Result<()> {
    let db = db();
    let tx = db.begin_write()?;
    assert!(tx.id().is_none());
    let t = tx.create_tree("t")?;
    assert!(!tx.id().is_none());
    let mut range = t.iter();
    let at = tx.commit()?;
    assert_eq!(t.get("a").unwrap_err().kind(), ErrorKind::TransactionEnded);
    assert_eq!(t.put("a", "").unwrap_err().kind(), ErrorKind::TransactionEnded);
    for _ in 0..3 {
        assert_eq!(range.next().unwrap().unwrap_err().kind(), ErrorKind::TransactionEnded, "keeps failing");
        assert_eq!(range.next_back().unwrap().unwrap_err().kind(), ErrorKind::TransactionEnded);
    }
    assert!(db.begin_read()?.snapshot() >= at);

    let tx = db.begin_write()?;
    tx.tree("t")?.put("k", "v")?;
    tx.rollback()?;
    let tx = db.begin_write()?;
    tx.tree("t")?.put("k", "v")?;
    drop(tx);
    assert!(db.begin_read()?.tree("t")?.is_empty()?);
    let empty = db.begin_write()?;
    empty.commit()?;
    assert_eq!(db.stats().transactions_active, 0);
    Ok(())
}

#[test]
fn snapshots_do_not_move() -> Result<()> {
    let db = db();
    let tx = db.begin_write()?;
    let t = tx.create_tree("t")?;
    t.bulk_load((0..500u32).map(|i| (i.to_be_bytes(), "old")))?;
    tx.commit()?;
    let before = db.begin_read()?;
    let tx = db.begin_write()?;
    let t = tx.tree("t")?;
    for i in 0..500u32 {
        if i % 3 == 0 {
            t.remove(i.to_be_bytes())?;
        } else {
            t.put(i.to_be_bytes(), "new")?;
        }
    }
    let during = db.begin_read()?;
    tx.commit()?;
    while db.maintenance_step()? {}
    let after = db.begin_read()?;
    for old in [&before, &during] {
        let old = rows(&old.tree("t")?)?;
        assert_eq!(old.len(), 500);
        assert!(old.values().all(|v| v == b"old"));
    }
    assert_eq!(after.tree("t")?.len()?, 333);
    Ok(())
}

#[test]
fn the_first_to_change_a_row_wins() -> Result<()> {
    let db = db();
    let tx = db.begin_write()?;
    tx.create_tree("t")?.put("k", "0")?;
    tx.commit()?;
    let (a, b) = (db.begin_write()?, db.begin_write()?);
    a.tree("t")?.put("k", "a")?;
    a.commit()?;
    let e = b.tree("t")?.put("k", "b").unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Conflict);
    assert!(e.is_retryable());
    b.tree("t")?.put("other", "b")?; // the statement failed, not the transaction
    b.commit()?;
    // Waiting for a transaction of one's own thread would be for ever.
    let (a, b) = (db.begin_write()?, db.begin_write()?);
    a.tree("t")?.put("k", "a")?;
    assert!(b.tree("t")?.put("k", "b").unwrap_err().is_retryable());
    Ok(())
}

#[test]
fn asynchronous_commits() -> Result<()> {
    let db = db();
    let tx = db.begin_write()?;
    tx.create_tree("t")?.put("k", "v")?;
    let ticket = tx.commit_with(Durability::Async)?;
    assert!(!ticket.is_durable());
    assert!(db.begin_read()?.tree("t").is_err(), "a snapshot shows nothing that a crash could take back");
    assert_eq!(db.begin_read_after(&ticket)?.tree("t")?.len()?, 1);
    assert!(ticket.is_durable());
    ticket.wait()?;

    let tx = db.begin_write()?;
    tx.tree("t")?.put("k2", "v")?;
    let ticket = tx.commit_with(Durability::Async)?;
    assert!(!ticket.is_durable());
    assert!(db.maintenance_step()?);
    assert!(ticket.is_durable());

    let db = small().durability(Durability::Async).in_memory()?;
    let tx = db.begin_write()?;
    tx.create_tree("t")?;
    tx.commit()?;
    assert!(db.begin_read()?.trees()?.is_empty());
    Ok(())
}

#[test]
fn the_flusher_serves_those_who_only_wait() -> Result<()> {
    let db = small().background(true).in_memory()?;
    let tx = db.begin_write()?;
    tx.create_tree("t")?;
    let ticket = tx.commit_with(Durability::Async)?;
    let started = std::time::Instant::now();
    while !ticket.is_durable() {
        assert!(started.elapsed() < common::PROMPT);
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Ok(())
}

#[test]
fn closing() -> Result<()> {
    let disk = MemDisk::new();
    let db = small().create_on(Arc::new(disk.clone()))?;
    let tx = db.begin_write()?;
    tx.create_tree("t")?.put("k", "v")?;
    let e = db.close().unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidArgument, "{e}");
    tx.commit()?;
    assert_eq!(small().open_on(Arc::new(disk.clone())).unwrap_err().kind(), ErrorKind::AlreadyOpen);
    let snapshot = db.begin_read()?;
    let clone = db.clone();
    db.close()?;
    assert_eq!(clone.begin_write().unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(clone.begin_read().unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert!(clone.close().is_err());
    assert!(snapshot.tree("t").is_err());
    assert!(clone.engine().pool().shared(hamal::PageId(0)).is_err());

    // The next open has nothing to do, and closing it again writes nothing.
    let (db, report) = small().open_on_with_report(Arc::new(disk.clone()))?;
    assert!(report.clean, "{report}");
    assert_eq!(db.begin_read()?.tree("t")?.get("k")?.unwrap(), b"v");
    let tail = db.stats().log_tail;
    drop(db);
    let (db, report) = small().open_on_with_report(Arc::new(disk.clone()))?;
    assert!(report.clean, "{report}");
    assert_eq!(db.stats().log_tail, tail);

    // Dropping the last handle closes as well; handles in trees count.
    let tx = db.begin_write()?;
    let t = tx.tree("t")?;
    t.put("k", "w")?;
    drop(db);
    tx.commit()?;
    assert_eq!(small().open_on(Arc::new(disk.clone())).unwrap_err().kind(), ErrorKind::AlreadyOpen);
    drop(t);
    let (db, report) = small().open_on_with_report(Arc::new(disk))?;
    assert!(report.clean, "{report}");
    assert_eq!(db.begin_read()?.tree("t")?.get("k")?.unwrap(), b"w");
    Ok(())
}

#[test]
fn directories() -> Result<()> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new").join("db");
    assert_eq!(Database::open(&path).unwrap_err().kind(), ErrorKind::NotADatabase);
    assert_eq!(Database::open(dir.path()).unwrap_err().kind(), ErrorKind::NotADatabase);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "looking leaves no trace");
    let db = small().create(&path)?;
    assert!(db.recovery_report().clean);
    assert_eq!(small().create(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(small().open(&path).unwrap_err().kind(), ErrorKind::AlreadyOpen);
    let tx = db.begin_write()?;
    tx.create_tree("t")?.put("k", bytes(5, 50_000))?;
    tx.commit()?;
    drop(db);
    for direct in [true, false] {
        let (db, report) = small().direct_io(direct).open_with_report(&path)?;
        assert!(report.clean);
        assert_eq!(db.begin_read()?.tree("t")?.get("k")?.unwrap(), bytes(5, 50_000));
        let tx = db.begin_write()?;
        tx.tree("t")?.put("direct", [u8::from(direct)])?;
        tx.commit()?;
    }
    verify(&small().open_or_create(&path)?);
    Ok(())
}

#[test]
fn looking_around() -> Result<()> {
    let disk = MemDisk::new();
    let db = small().create_on(Arc::new(disk.clone()))?;
    let tx = db.begin_write()?;
    tx.create_tree("t")?.bulk_load((0..100u32).map(|i| (i.to_be_bytes(), "value")))?;
    tx.commit()?;
    assert_eq!(db.page_size(), 4096);
    assert_eq!(db.page(0)?.len(), 4096);
    assert!(db.describe_page(0)?.contains("space"));
    assert!(db.describe_page(1)?.contains("btree"));
    assert!(db.describe_page(0)?.contains("allocated") && db.describe_page(1)?.contains("key="));
    assert_eq!(db.page(1 << 40).unwrap_err().kind(), ErrorKind::InvalidArgument);
    let stats = db.stats();
    assert!(stats.log_syncs > 0 && stats.transactions_committed == 1);
    assert!(stats.counters().contains(&("transactions_committed", 1)));
    let report = db.checkpoint()?;
    assert!(report.redo <= report.begin);
    assert_eq!(db.engine().rm_id("btree"), Some(hamal::RmId(2)));
    assert_eq!(db.engine().rm_id("other"), None);
    assert!(db.poisoned().is_none());
    drop(db);

    let inspect = hamal::inspect::Inspect::open_on(Arc::new(disk))?;
    assert_eq!(inspect.control().page_size, 4096);
    let end = inspect.log_end()?;
    assert_eq!(end.verdict, hamal::Verdict::Clean);
    let mut reader = inspect.reader(&end)?;
    let (mut at, mut text) = (end.oldest, String::new());
    while let Some(r) = reader.read(at)? {
        text += &inspect.describe(&r);
        text.push('\n');
        at = r.end;
    }
    for word in ["begin_checkpoint", "end_checkpoint", "commit", "btree", "space"] {
        assert!(text.contains(word), "{word}");
    }
    Ok(())
}

/// The tables of a checkpoint take several records where more pages are dirty than one of them holds.
#[test]
fn a_checkpoint_of_very_many_pages() -> Result<()> {
    let disk = MemDisk::new();
    let builder = || Database::builder().page_size(4096).background(false).cache_bytes(32 << 20);
    let db = builder().create_on(Arc::new(disk.clone()))?;
    let tx = db.begin_write()?;
    let t = tx.create_tree("t")?;
    for i in 0..1500u32 {
        t.put(i.to_be_bytes(), [i as u8; 4000])?;
    }
    tx.commit()?;
    let report = db.checkpoint()?;
    assert!(report.dirty_pages > 1200, "{report:?}");
    let crashed = disk.crash(hamal::disk::CrashModel::LoseUnsynced);
    drop(db);
    let (db, report) = builder().open_on_with_report(Arc::new(crashed))?;
    assert!(report.dirty_pages > 1200, "{report}");
    assert_eq!(db.begin_read()?.tree("t")?.len()?, 1500);
    Ok(())
}

/// A change between the steps of a checkpoint may find the log full. It does not wait for a checkpoint: this thread takes one.
#[test]
fn between_the_steps_of_a_checkpoint_no_other_one_is_taken() -> Result<()> {
    let db = db();
    let tx = db.begin_write()?;
    let t = tx.create_tree("t")?;
    let mut full = None;
    db.checkpoint_with(|step| {
        if step == Between::BeginAndTables {
            assert_eq!(db.checkpoint().unwrap_err().kind(), ErrorKind::InvalidArgument);
            full = (0u32..100_000).find_map(|i| t.put(i.to_be_bytes(), [7; 900]).err());
        }
        Ok(())
    })?;
    assert_eq!(full.expect("the log has a limit").kind(), ErrorKind::LogFull);
    drop(t);
    tx.rollback()?;
    db.checkpoint()?;
    verify(&db);
    Ok(())
}

/// What was committed asynchronously is there after a power failure if `sync` came between, and without it it is not.
#[test]
fn sync_makes_asynchronous_commits_durable() -> Result<()> {
    let disk = MemDisk::new();
    let b = small().background(false);
    let db = b.create_on(Arc::new(disk.clone()))?;
    let commit = |name: &str| -> Result<()> {
        let tx = db.begin_write()?;
        tx.open_or_create_tree(name)?.put("k", name)?;
        tx.commit_with(Durability::Async).map(|_| ())
    };
    commit("first")?;
    commit("second")?;
    db.sync()?;
    commit("third")?;
    let after = b.open_on(Arc::new(disk.crash(hamal::disk::CrashModel::LoseUnsynced)))?;
    assert_eq!(after.begin_read()?.trees()?, ["first", "second"]);
    db.sync()?;
    db.sync()?; // nothing to do
    let after = b.open_on(Arc::new(disk.crash(hamal::disk::CrashModel::LoseUnsynced)))?;
    assert_eq!(after.begin_read()?.trees()?, ["first", "second", "third"]);
    db.close()?;
    assert_eq!(db.sync().unwrap_err().kind(), ErrorKind::InvalidArgument);
    Ok(())
}

/// A page that is written without an image logs nothing. The checkpoint before it named the page: closing takes another one.
#[test]
fn what_was_flushed_after_a_checkpoint_is_closed_cleanly() -> Result<()> {
    for torn in [hamal::TornPages::AtomicWrites, hamal::TornPages::Images { compress: true }] {
        let disk = MemDisk::new();
        let b = small().background(false).torn_pages(torn);
        let db = b.create_on(Arc::new(disk.clone()))?;
        let tx = db.begin_write()?;
        tx.create_tree("t")?.put("k", "v")?;
        tx.commit()?;
        db.checkpoint()?;
        db.flush()?;
        db.close()?;
        let db = b.open_on(Arc::new(disk))?;
        assert!(db.recovery_report().clean, "{torn:?}: {}", db.recovery_report());
    }
    Ok(())
}
