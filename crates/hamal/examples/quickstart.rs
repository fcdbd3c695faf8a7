//! The first steps: open, write, read, commit. Run: `cargo run -p hamal --example quickstart -- /tmp/quickstart`.
use hamal::Database;

fn main() -> hamal::Result<()> {
    let path = std::env::args().nth(1);
    let db = match &path {
        Some(path) => Database::open_or_create(path)?,
        None => Database::in_memory()?,
    };
    println!("{}", db.recovery_report());

    let tx = db.begin_write()?;
    let cities = tx.open_or_create_tree("cities")?;
    for (name, people) in [("Basel", "178"), ("Chur", "38"), ("Zug", "31"), ("Bern", "134")] {
        cities.put(name, people)?;
    }
    // A part of a transaction can be taken back.
    let here = tx.savepoint()?;
    cities.clear()?;
    tx.rollback_to(&here)?;
    tx.commit()?;

    let snapshot = db.begin_read()?;
    for row in snapshot.tree("cities")?.range("B".."D") {
        let (name, people) = row?;
        println!("{} {}000", String::from_utf8_lossy(&name), String::from_utf8_lossy(&people));
    }
    drop(snapshot);
    db.close()
}
