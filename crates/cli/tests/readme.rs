//! The example of README.md: it is compiled here as it stands there, and does what it says.
mod common;
use common::*;

// The lines between the marks are those of README.md, indented.
#[rustfmt::skip]
fn example(directory: &std::path::Path) -> Result<(), Box<dyn std::error::Error>> {
    std::env::set_current_dir(directory)?;
    // begin
    use hamal::{Database, Durability, Isolation, WriteOptions};

    let db = Database::open_or_create("accounts.db")?;      // Clone + Send + Sync; recovers if it has to

    let tx = db.begin_write()?;                             // from as many threads as you like
    let accounts = tx.open_or_create_tree("accounts")?;
    accounts.insert(b"alice", b"100")?;
    let before_bob = tx.savepoint()?;
    accounts.insert(b"bob", b"-1")?;
    tx.rollback_to(&before_bob)?;                           // partial rollback, any depth
    tx.commit()?;                                           // returns when it is durable

    db.transact(|tx| {                                      // again after a conflict or a deadlock, with back-off
        let accounts = tx.tree("accounts")?;
        if accounts.get_for_update(b"alice")?.is_some() {   // locks the row; readers do not wait
            accounts.put(b"alice", b"90")?;
        }
        hamal::Result::Ok(())                               // errors of your own types pass through
    })?;

    let options = WriteOptions::new().isolation(Isolation::Serializable);   // default: Snapshot
    let ticket = {
        let tx = db.begin_write_with(options)?;
        tx.tree("accounts")?.insert(b"carol", b"7")?;
        tx.commit_with(Durability::Async)?                  // returns at once; wait, poll or .await the ticket
    };
    ticket.wait()?;

    let snapshot = db.begin_read()?;                        // a frozen view; takes no locks, writes no log
    for row in snapshot.tree("accounts")?.range("a".."c") {
        let (key, value) = row?;
        println!("{} = {}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&value));
    }
    // end
    Ok(())
}

#[test]
fn the_readme_s_example_is_this_one() {
    let lines = |text: &str| text.lines().map(|l| l.trim().to_string()).collect::<Vec<_>>().join("\n");
    let readme = include_str!("../../../README.md");
    let (_, code) = readme.split_once("```rust\n").unwrap();
    let (code, _) = code.split_once("```").unwrap();
    let (_, here) = include_str!("readme.rs").split_once("// begin\n").unwrap();
    let (here, _) = here.split_once("    // end\n").unwrap();
    assert_eq!(lines(code), lines(here));

    let d = Dir::new();
    example(d.temp.path()).unwrap();
    let db = d.path("accounts.db");
    assert_eq!(hamal(&["dump", &db, "accounts"]).ok().out, "alice\t90\ncarol\t7\n");
}
