//! Wakers of tasks that wait for commits: foreign code, which may run a task, or drop it, at once. It must not do so under the
//! locks that the engine holds while it waits for the log (LOG-7).
use hamal::disk::MemDisk;
use hamal::{CommitTicket, Database, Durability};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::Duration;

/// Long enough on a machine that is busy. What waits for itself takes for ever.
const DEADLINE: Duration = Duration::from_secs(60);

fn commit(db: &Database, n: u64) -> CommitTicket {
    let tx = db.begin_write().unwrap();
    tx.open_or_create_tree("t").unwrap().put(n.to_be_bytes(), [7; 200]).unwrap();
    tx.commit_with(Durability::Async).unwrap()
}

/// Enters the waker; whether the commit was not durable yet.
fn waits(mut ticket: CommitTicket, waker: impl Wake + Send + Sync + 'static) -> bool {
    let waker: Waker = Arc::new(waker).into();
    Pin::new(&mut ticket).poll(&mut Context::from_waker(&waker)).is_pending()
}

/// Runs its task at once: that writes every page back, which only one thread may do at a time.
struct Flushes(Database, Arc<AtomicBool>);

impl Wake for Flushes {
    fn wake(self: Arc<Self>) {
        commit(&self.0, 1000);
        self.0.flush().unwrap();
        self.0.checkpoint().unwrap();
        self.1.store(true, SeqCst);
    }
}

#[test]
fn a_task_runs_under_no_lock_of_those_who_force_the_log() {
    let within: [fn(&Database); 3] = [
        // The cleaner forces the log for the pages that it writes.
        |db| db.flush().unwrap(),
        |db| _ = db.checkpoint().unwrap(),
        |db| _ = db.compact(&mut |_| Ok(())).unwrap(),
    ];
    for f in within {
        let (done, wait) = mpsc::channel();
        thread::spawn(move || {
            let db = Database::builder().background(false).in_memory().unwrap();
            let ran = Arc::new(AtomicBool::new(false));
            assert!(waits(commit(&db, 1), Flushes(db.clone(), ran.clone())));
            f(&db);
            done.send(ran.load(SeqCst)).unwrap();
        });
        assert!(wait.recv_timeout(DEADLINE).expect("a thread waits for itself"), "the task was not woken");
    }
}

/// With a thread that flushes nobody has to call anything: it wakes whom others could not.
#[test]
fn the_flusher_wakes_whom_the_cleaner_has_served() {
    let db = Database::builder().flush_interval(Duration::from_millis(500)).in_memory().unwrap();
    let (done, wait) = mpsc::channel();
    struct Tells(Mutex<mpsc::Sender<()>>);
    impl Wake for Tells {
        fn wake(self: Arc<Self>) {
            self.0.lock().unwrap().send(()).unwrap();
        }
    }
    assert!(waits(commit(&db, 1), Tells(Mutex::new(done))));
    db.flush().unwrap();
    wait.recv_timeout(DEADLINE).expect("nobody wakes the task");
}

/// The waker is all that is left of a task, and of the database's handles: the thread that wakes it closes the database, and does
/// not wait for its own end.
struct Holds(#[allow(dead_code, reason = "it is there to be dropped")] Mutex<Option<Database>>);

impl Wake for Holds {
    fn wake(self: Arc<Self>) {}
}

#[test]
fn the_last_handle_may_go_with_a_task() {
    let disk = MemDisk::new();
    let builder = Database::builder().flush_interval(Duration::from_millis(300));
    let db = builder.create_on(Arc::new(disk.clone())).unwrap();
    commit(&db, 1).wait().unwrap();
    let ticket = commit(&db, 2);
    assert!(waits(ticket, Holds(Mutex::new(Some(db)))));
    for _ in 0..DEADLINE.as_millis() / 20 {
        if let Ok(db) = builder.open_on(Arc::new(disk.clone())) {
            let read = db.begin_read().unwrap();
            assert_eq!(read.tree("t").unwrap().iter().count(), 2);
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("the database is never closed");
}
