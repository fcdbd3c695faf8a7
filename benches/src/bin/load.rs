//! Ascending loads: `put` for each row beside `bulk_load`, in transactions of 1000 rows that are committed asynchronously, and one
//! sync at the end: `cargo run --release -p hamal-benches --bin load -- DIR [ROWS] [ROUNDS] [put|bulk_load|rows]`. With `rows` the rows
//! are made and nothing is done with them: what the others cost beside that. Prints the bytes of log for a row, too.
use hamal::{Database, Durability};
use hamal_benches::compare::workloads::{Values, key};
use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

const BATCH: u64 = 1000;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let dir = args.get(1).ok_or("a directory is needed")?;
    let number = |i: usize, default| args.get(i).map_or(Ok(default), |a| a.parse());
    let (rows, rounds) = (number(2, 1_000_000)?, number(3, 3)?);
    for _ in 0..rounds {
        for (name, by) in [("put", By::Put), ("bulk_load", By::Load), ("rows", By::None)] {
            if args.get(4).is_some_and(|only| only != name) {
                continue;
            }
            let (seconds, log) = load(&Path::new(dir).join("load"), rows, by)?;
            println!("{name:<10} {:>8.0} rows/s, {:>4.0} bytes of log a row", rows as f64 / seconds, log);
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
enum By {
    Put,
    Load,
    None,
}

/// Seconds, and bytes of log for each row.
fn load(dir: &Path, rows: u64, by: By) -> Result<(f64, f64), Box<dyn Error>> {
    if dir.exists() {
        std::fs::remove_dir_all(dir)?;
    }
    let db = Database::builder().cache_bytes(4 << 30).create(dir)?;
    let tx = db.begin_write()?;
    tx.create_tree("t")?;
    tx.commit()?;
    let started = Instant::now();
    for from in (0..rows).step_by(BATCH as usize) {
        let tx = db.begin_write()?;
        let tree = tx.tree("t")?;
        let mut values = Values::new(from);
        let batch = (from..(from + BATCH).min(rows)).map(|n| (key(n, true), values.fresh().to_vec()));
        match by {
            By::Put => batch.into_iter().try_for_each(|(k, v)| tree.put(k, v))?,
            By::Load => drop(tree.bulk_load(batch)?),
            By::None => batch.into_iter().for_each(|row| drop(black_box(row))),
        }
        tx.commit_with(Durability::Async)?;
    }
    let log = db.stats().log_record_bytes as f64 / rows as f64;
    db.flush()?;
    let seconds = started.elapsed().as_secs_f64();
    db.close()?;
    std::fs::remove_dir_all(dir)?;
    Ok((seconds, log))
}
