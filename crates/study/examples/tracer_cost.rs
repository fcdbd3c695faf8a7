//! What tracing costs: events of a `get` and of a commit, and loops to count instructions of.
//!
//! ```text
//! cargo build -p hamal-study --example tracer_cost
//! target/debug/examples/tracer_cost events                 # events per operation
//! valgrind --tool=callgrind target/debug/examples/tracer_cost get 20000      # and 40000; the difference is 20,000 operations
//! valgrind --tool=callgrind target/debug/examples/tracer_cost emit 1000000   # a million silent `emit`s
//! ```
//! Modes `get`, `commit` and `emit` take a number; `get-on` and `commit-on` run with a recorder that keeps the last 10,000 events.
use hamal::trace::{Event, Trace, Tracer};
use hamal::{Database, Durability, PageId};
use hamal_study::{Recorder, Sink};
use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

#[derive(Default)]
struct Counter(AtomicU64);

impl Tracer for Counter {
    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Relaxed);
    }
}

fn database(tracer: Option<Arc<dyn Tracer>>) -> hamal::Result<Database> {
    let b = Database::builder().background(false).cache_bytes(64 << 20).log_segment_bytes(1_u64 << 20);
    let db = match tracer {
        Some(t) => b.tracer(t).in_memory()?,
        None => b.in_memory()?,
    };
    let tx = db.begin_write()?;
    let tree = tx.create_tree("t")?;
    for i in 0..10_000u32 {
        tree.put(i.to_be_bytes(), [7; 40])?;
    }
    tx.commit()?;
    Ok(db)
}

fn gets(db: &Database, n: u32) -> hamal::Result<()> {
    let snapshot = db.begin_read()?;
    let tree = snapshot.tree("t")?;
    for i in 0..n {
        black_box(tree.get((i.wrapping_mul(7919) % 10_000).to_be_bytes())?);
    }
    Ok(())
}

fn commits(db: &Database, n: u32) -> hamal::Result<()> {
    for i in 0..n {
        let tx = db.begin_write()?;
        tx.tree("t")?.put((i.wrapping_mul(7919) % 10_000).to_be_bytes(), [8; 40])?;
        tx.commit_with(Durability::Sync)?;
    }
    Ok(())
}

fn main() -> hamal::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let n: u32 = args.get(2).and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let ring = || -> Arc<dyn Tracer> {
        Arc::new(Recorder::new(Sink::Ring(VecDeque::new(), 10_000), Default::default()))
    };
    match args.get(1).map(String::as_str) {
        Some("get") => gets(&database(None)?, n),
        Some("commit") => commits(&database(None)?, n),
        Some("get-on") => gets(&database(Some(ring()))?, n),
        Some("commit-on") => commits(&database(Some(ring()))?, n),
        Some("emit") => {
            let silent = Trace::silent();
            for i in 0..u64::from(n) {
                black_box(&silent).emit(|| Event::PageFix { page: PageId(i), exclusive: false });
            }
            Ok(())
        }
        _ => {
            let counter = Arc::new(Counter::default());
            let db = database(Some(counter.clone()))?;
            for (name, f) in [("get", gets as fn(&Database, u32) -> hamal::Result<()>), ("commit", commits)] {
                let before = counter.0.load(Relaxed);
                f(&db, 1000)?;
                println!("{name}: {:.2} events", (counter.0.load(Relaxed) - before) as f64 / 1000.0);
            }
            Ok(())
        }
    }
}
