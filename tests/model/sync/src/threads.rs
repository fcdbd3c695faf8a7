//! Threads that are made by a builder, as the standard library's.
use shuttle::thread;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::Duration;

/// Others run; no time passes.
pub fn sleep(_: Duration) {
    thread::yield_now();
}

/// Makes a thread.
#[derive(Debug, Default)]
pub struct Builder(thread::Builder);

/// Waits for a thread.
#[derive(Debug)]
pub struct JoinHandle<T> {
    thread: thread::JoinHandle<T>,
    finished: Arc<AtomicBool>,
}

impl Builder {
    /// A thread without a name.
    pub fn new() -> Builder {
        Builder::default()
    }
    /// Names it.
    pub fn name(self, name: String) -> Builder {
        Builder(self.0.name(name))
    }
    /// Starts it.
    ///
    /// # Errors
    /// None here.
    pub fn spawn<T: Send + 'static>(
        self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<T>> {
        let finished = Arc::new(AtomicBool::new(false));
        let done = finished.clone();
        let body = move || {
            let result = f();
            done.store(true, SeqCst);
            result
        };
        Ok(JoinHandle { thread: self.0.spawn(body)?, finished })
    }
}

impl<T> JoinHandle<T> {
    /// Whether its function has returned.
    pub fn is_finished(&self) -> bool {
        self.finished.load(SeqCst)
    }
    /// Waits for its result.
    ///
    /// # Errors
    /// What it panicked with.
    pub fn join(self) -> thread::Result<T> {
        self.thread.join()
    }
}
