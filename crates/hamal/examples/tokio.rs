//! Durable commits in an asynchronous program: many tasks on one thread share the flushes, and none of them blocks it while
//! the disk works.
//!
//! The calls of a transaction are synchronous and short: they wait for other transactions, not for the disk. What takes long is
//! the flush at the end, and that is a [`CommitTicket`](hamal::CommitTicket), a `Future` that needs no particular runtime.
//! `cargo run --example tokio`
use hamal::{Database, Durability, Result, TransactOptions};

/// Adds one to a counter; the commit is durable when this is ready.
async fn count(db: Database, name: String) -> Result<u64> {
    let options = TransactOptions::new().durability(Durability::Async);
    let done = db.transact_with(&options, |tx| {
        let counters = tx.tree("counters")?;
        let n = counters.get(&name)?.map_or(0, |v| u64::from(v[0])) + 1;
        counters.put(&name, [n as u8])?;
        Ok::<u64, hamal::Error>(n)
    })?;
    // Other tasks run meanwhile, and commit into the same flush.
    done.ticket.await?;
    Ok(done.value)
}

/// Two hundred tasks on one thread.
#[tokio::main(flavor = "current_thread")]
pub(crate) async fn main() -> Result<()> {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let db = Database::create(dir.path().join("db"))?;
    db.transact(|tx| tx.create_tree("counters").map(drop))?;
    let flushes = db.stats().log_syncs;
    let tasks: Vec<_> =
        (0..200).map(|i| tokio::spawn(count(db.clone(), format!("task {}", i % 50)))).collect();
    for task in tasks {
        task.await.expect("a task")?;
    }
    println!("200 durable commits, {} flushes", db.stats().log_syncs - flushes);
    let read = db.begin_read()?;
    for row in read.tree("counters")?.iter() {
        assert_eq!(row?.1, b"\x04");
    }
    Ok(())
}
