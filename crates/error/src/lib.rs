//! The one error type of hamal: what failed, where (file, offset, page, LSN, transaction), and what to do about it.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod wait;

pub use wait::Wait;

use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{Lsn, PageId, TreeId, TxnId};
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// The result of everything in hamal that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// What kind of failure an [`Error`] is; match on this, print the error itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused an operation that is safe to try again (an open, a read).
    Io,
    /// No space on the device, met while growing a file, before anything was changed. Not sticky.
    NoSpace,
    /// The log is at its size limit and nothing can be released. Commit, roll back, or raise the limit.
    LogFull,
    /// A write or sync failed, or a thread panicked inside the engine: every call returns this until the database is
    /// opened again. Nothing acknowledged is lost.
    Poisoned,
    /// A commit was in flight when the engine was poisoned: the next open decides whether it happened.
    OutcomeUnknown,
    /// A page of the data file is damaged and could not be rebuilt from the log.
    PageCorrupt,
    /// A page of the data file is whole, but not the version that was written last: a device lost the write or put it in
    /// another place, or the file is a copy of another moment. It could not be rebuilt from the log.
    StalePage,
    /// The operating system cannot read a page of the data file, and it could not be rebuilt from the log.
    PageUnreadable,
    /// The log is damaged before its proven end.
    LogCorrupt,
    /// Both slots of the control file are damaged.
    ControlCorrupt,
    /// A page is newer than the log: the log was lost or replaced, or the device lied about a sync.
    LogBehindPages,
    /// A file belongs to another database or another moment of this one.
    WrongDatabase,
    /// The directory holds something else, or not a whole database.
    NotADatabase,
    /// The files were written by a newer, or an incompatible, version.
    UnsupportedVersion,
    /// Another process, or this one, has the database open.
    AlreadyOpen,
    /// The database was not closed cleanly and the way it was opened cannot recover it.
    NeedsRecovery,
    /// An option or a combination of options is not valid.
    InvalidOption,
    /// An argument is not valid: an empty name, a key too long.
    InvalidArgument,
    /// A named thing does not exist: a tree, a savepoint.
    NotFound,
    /// A named thing exists already.
    AlreadyExists,
    /// Another transaction committed a change to the same row after this transaction's snapshot. Roll back, try again.
    Conflict,
    /// Waiting for another transaction would have closed a cycle of waits. Roll back, try again.
    Deadlock,
    /// A wait for another transaction took longer than the configured time. Roll back, try again.
    LockTimeout,
    /// Another transaction holds the row or the tree, and the caller asked not to wait.
    WouldWait,
    /// Another transaction committed a change to something that this serializable transaction had read: no order of the two
    /// explains what both saw. Nothing was committed. Roll back, try again.
    Serialization,
    /// A transaction was run again and again, and failed each time: the cause says with what the last time.
    RetriesExhausted,
    /// The transaction has ended, or was ended by the engine.
    TransactionEnded,
    /// The snapshot was ended: old versions that it needs were in the log alone, and the log was at its limit. Begin a new one.
    SnapshotTooOld,
    /// The memory budget for old versions is used up. Only resource managers of the caller get it: rows of trees go on.
    VersionBudget,
    /// The database was opened for reading only.
    ReadOnly,
    /// A resource manager is missing, has another version, or broke the contract.
    ResourceManager,
    /// The caller's progress callback asked to stop.
    Cancelled,
    /// A limit of the engine: memory, frames, threads.
    Limit,
    /// A bug in hamal: an invariant did not hold. Nothing was written after it was noticed.
    Internal,
}

#[derive(Clone, Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    file: Option<String>,
    offset: Option<u64>,
    page: Option<PageId>,
    lsn: Option<Lsn>,
    txn: Option<TxnId>,
    tree: Option<TreeId>,
    tree_name: Option<String>,
    key: Option<Vec<u8>>,
    waits: Vec<Wait>,
    waited: Option<Duration>,
    attempts: Option<u32>,
    help: Option<String>,
    io: Option<Arc<std::io::Error>>,
    cause: Option<Error>,
}

/// An error of the engine. Cheap to clone: the stored cause of a poisoned engine is handed to every caller.
///
/// ```
/// use hamal_error::{Error, ErrorKind};
/// use hamal_page::PageId;
/// let e = Error::new(ErrorKind::PageCorrupt, "checksum differs").with_page(PageId(7)).with_file("data");
/// assert_eq!(e.kind(), ErrorKind::PageCorrupt);
/// assert_eq!(e.page(), Some(PageId(7)));
/// assert!(e.to_string().contains("page 7"));
/// ```
#[derive(Clone)]
pub struct Error(Arc<Inner>);

macro_rules! with {
    ($(#[$d:meta])* $with:ident, $(#[$g:meta])* $get:ident, $t:ty) => {
        $(#[$d])*
        #[must_use]
        pub fn $with(self, v: $t) -> Self {
            self.edit(|e| e.$get = Some(v))
        }
        $(#[$g])*
        pub fn $get(&self) -> Option<$t> {
            self.0.$get
        }
    };
}

impl Error {
    /// An error of a kind with a message that says what failed.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error(Arc::new(Inner {
            kind,
            message: message.into(),
            file: None,
            offset: None,
            page: None,
            lsn: None,
            txn: None,
            tree: None,
            tree_name: None,
            key: None,
            waits: Vec::new(),
            waited: None,
            attempts: None,
            help: None,
            io: None,
            cause: None,
        }))
    }

    /// An error of the operating system; out of space becomes [`ErrorKind::NoSpace`].
    pub fn io(what: impl Into<String>, e: std::io::Error) -> Self {
        let full = matches!(
            e.kind(),
            std::io::ErrorKind::StorageFull
                | std::io::ErrorKind::QuotaExceeded
                | std::io::ErrorKind::FileTooLarge
        );
        let kind = if full { ErrorKind::NoSpace } else { ErrorKind::Io };
        Error::new(kind, what).edit(|i| i.io = Some(Arc::new(e)))
    }

    /// A bug: an invariant does not hold. The message begins with the invariant's id where there is one.
    pub fn internal(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Internal, message)
    }

    fn edit(mut self, f: impl FnOnce(&mut Inner)) -> Self {
        match Arc::get_mut(&mut self.0) {
            Some(i) => {
                f(i);
                self
            }
            None => {
                let mut copy = Inner::clone(&self.0);
                f(&mut copy);
                Error(Arc::new(copy))
            }
        }
    }

    with!(/** Names the byte offset in the file. */ with_offset, /** The byte offset in the file. */ offset, u64);
    with!(/** Names the page. */ with_page, /** The page concerned. */ page, PageId);
    with!(/** Names the LSN. */ with_lsn, /** The LSN concerned. */ lsn, Lsn);
    with!(/** Names the transaction. */ with_txn, /** The transaction concerned. */ txn, TxnId);

    with!(/** Names the tree. */ with_tree, /** The tree concerned. */ tree, TreeId);
    with!(
        /** Says how long a transaction waited. */ with_waited,
        /** How long the transaction had waited for another. */ waited, Duration);
    with!(
        /** Says how often a transaction was run. */ with_attempts,
        /** How often the transaction was run. */ attempts, u32);

    /// Names the tree, for people.
    #[must_use]
    pub fn with_tree_name(self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.edit(|e| e.tree_name = Some(name))
    }
    /// Names the row.
    #[must_use]
    pub fn with_key(self, key: &[u8]) -> Self {
        self.edit(|e| e.key = Some(key.to_vec()))
    }
    /// Names the waits that form a cycle.
    #[must_use]
    pub fn with_waits(self, waits: Vec<Wait>) -> Self {
        self.edit(|e| e.waits = waits)
    }
    /// Fills in the names of the trees that the error speaks of, where `name` knows them.
    #[must_use]
    pub fn name_trees(self, name: &dyn Fn(TreeId) -> Option<String>) -> Self {
        self.edit(|e| {
            if e.tree_name.is_none() {
                e.tree_name = e.tree.and_then(name);
            }
            for w in &mut e.waits {
                if w.tree_name.is_none() {
                    w.tree_name = w.tree.and_then(name);
                }
            }
        })
    }
    /// Names the file.
    #[must_use]
    pub fn with_file(self, file: impl Into<String>) -> Self {
        let file = file.into();
        self.edit(|e| e.file = Some(file))
    }
    /// Says what the reader can do.
    #[must_use]
    pub fn with_help(self, help: impl Into<String>) -> Self {
        let help = help.into();
        self.edit(|e| e.help = Some(help))
    }
    /// Names the error that led to this one.
    #[must_use]
    pub fn with_cause(self, cause: Error) -> Self {
        self.edit(|e| e.cause = Some(cause))
    }

    /// The same error under another kind.
    #[must_use]
    pub fn with_kind(self, kind: ErrorKind) -> Self {
        self.edit(|e| e.kind = kind)
    }
    /// The kind of failure.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }
    /// What failed, without place and advice.
    pub fn message(&self) -> &str {
        &self.0.message
    }
    /// The file concerned, relative to the database directory.
    pub fn file(&self) -> Option<&str> {
        self.0.file.as_deref()
    }
    /// The name of the tree concerned, where it is known.
    pub fn tree_name(&self) -> Option<&str> {
        self.0.tree_name.as_deref()
    }
    /// The key of the row concerned.
    pub fn key(&self) -> Option<&[u8]> {
        self.0.key.as_deref()
    }
    /// The waits of a `Deadlock`: the first is the one that was refused, each waits for the next, the last for the first.
    pub fn waits(&self) -> &[Wait] {
        &self.0.waits
    }
    /// How many places hold this very error, clones included. Whoever keeps a clone can tell whether the one that was handed
    /// on still lives, inside an error of the caller's own perhaps.
    #[doc(hidden)]
    pub fn holders(&self) -> usize {
        Arc::strong_count(&self.0)
    }
    /// What can be done.
    pub fn help(&self) -> Option<&str> {
        self.0.help.as_deref()
    }
    /// The error that led to this one.
    pub fn cause(&self) -> Option<&Error> {
        self.0.cause.as_ref()
    }
    /// The operating system's error, if one led to this.
    pub fn os_error(&self) -> Option<&std::io::Error> {
        self.0.io.as_deref()
    }
    /// Whether rolling the transaction back and running it again may succeed, because only what others did at the same time
    /// kept it from succeeding: `Conflict`, `Deadlock`, `LockTimeout`, `WouldWait`, `Serialization`, `SnapshotTooOld`.
    pub fn is_retryable(&self) -> bool {
        use ErrorKind::*;
        matches!(self.kind(), Conflict | Deadlock | LockTimeout | WouldWait | Serialization | SnapshotTooOld)
    }
    /// Whether the error says that stored bytes are damaged, missing or foreign.
    pub fn is_corruption(&self) -> bool {
        use ErrorKind::*;
        matches!(
            self.kind(),
            PageCorrupt
                | StalePage
                | PageUnreadable
                | LogCorrupt
                | ControlCorrupt
                | LogBehindPages
                | WrongDatabase
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &*self.0;
        f.write_str(&e.message)?;
        let mut places = Vec::new();
        if let Some(x) = &e.file {
            places.push(format!("file {x}"));
        }
        if let Some(x) = e.offset {
            places.push(format!("offset {x}"));
        }
        if let Some(x) = e.page {
            places.push(format!("page {x}"));
        }
        if let Some(x) = e.lsn {
            places.push(format!("LSN {x}"));
        }
        if let Some(x) = e.txn {
            places.push(format!("transaction {x}"));
        }
        places.extend(wait::place(e.tree, e.tree_name.as_deref(), e.key.as_deref()));
        if !places.is_empty() {
            write!(f, " ({})", places.join(", "))?;
        }
        for (i, w) in e.waits.iter().enumerate() {
            write!(f, "{} {w}", if i == 0 { ":" } else { ";" })?;
        }
        if let Some(io) = &e.io {
            write!(f, ": {io}")?;
        }
        if let Some(c) = &e.cause {
            write!(f, ": {c}")?;
        }
        if let Some(h) = &e.help {
            write!(f, ". {h}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let e = &*self.0;
        e.cause.as_ref().map(|c| c as _).or_else(|| e.io.as_deref().map(|i| i as _))
    }
}

/// The sticky failure state shared by all parts of an open database (invariant ERR-1: once set, it never changes, and
/// every public call returns it).
#[derive(Default)]
pub struct Poison {
    cause: OnceLock<Error>,
    /// Wake those who sleep until something happens that will never happen now.
    wakers: Mutex<Vec<Waker>>,
}

type Waker = Box<dyn Fn() + Send + Sync>;

impl fmt::Debug for Poison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Poison").field(&self.cause.get()).finish()
    }
}

impl Poison {
    /// Not poisoned.
    pub fn new() -> Self {
        Self::default()
    }
    /// Stores the first cause; later ones are dropped. Returns the error that every caller gets.
    pub fn set(&self, cause: Error) -> Error {
        if self.cause.set(cause).is_ok() {
            let wakers = std::mem::take(&mut *self.wakers.lock().unwrap_or_else(PoisonError::into_inner));
            wakers.iter().for_each(|wake| wake());
        }
        self.error().unwrap_or_else(|| Error::internal("poison cause missing"))
    }
    /// Has `wake` called once, after the cause is stored; at once if it is stored already. Whoever sleeps looks at
    /// [`Poison::check`] before, in a way that a wake after the look is not missed. `wake` may run under any lock of the
    /// engine and must take only such as are never held while something fails.
    pub fn on_set(&self, wake: impl Fn() + Send + Sync + 'static) {
        let mut wakers = self.wakers.lock().unwrap_or_else(PoisonError::into_inner);
        // Looked at under the lock that `set` takes after it has stored the cause: one of the two sees the other.
        if self.cause.get().is_some() {
            drop(wakers);
            return wake();
        }
        wakers.push(Box::new(wake));
    }
    /// Whether the engine is poisoned.
    #[inline]
    pub fn is_set(&self) -> bool {
        self.cause.get().is_some() && !mutants::is(Mutant::EngineGoesOn)
    }
    /// The error that a poisoned engine returns.
    pub fn error(&self) -> Option<Error> {
        self.cause.get().map(|c| {
            Error::new(
                ErrorKind::Poisoned,
                "the storage failed earlier and the database must be opened again",
            )
            .with_cause(c.clone())
            .with_help("Close every handle and open the database: recovery decides from what is on disk")
        })
    }
    /// `Ok` unless poisoned.
    ///
    /// # Errors
    /// [`ErrorKind::Poisoned`] with the first cause.
    #[inline]
    pub fn check(&self) -> Result<()> {
        match self.error() {
            Some(_) if mutants::is(Mutant::EngineGoesOn) => Ok(()),
            None => Ok(()),
            Some(e) => Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_poison_wins() {
        let p = Poison::new();
        assert!(p.check().is_ok());
        p.set(Error::new(ErrorKind::Io, "first"));
        p.set(Error::new(ErrorKind::Io, "second"));
        let e = p.check().unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Poisoned);
        assert_eq!(e.cause().unwrap().message(), "first");
    }

    #[test]
    fn poison_wakes_who_sleeps_once() {
        use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
        let (p, woken) = (Poison::new(), Arc::new(AtomicU32::new(0)));
        let count = || {
            let woken = woken.clone();
            move || _ = woken.fetch_add(1, SeqCst)
        };
        p.on_set(count());
        assert_eq!(woken.load(SeqCst), 0);
        p.set(Error::new(ErrorKind::Io, "first"));
        p.set(Error::new(ErrorKind::Io, "second"));
        assert_eq!(woken.load(SeqCst), 1);
        p.on_set(count());
        assert_eq!(woken.load(SeqCst), 2, "too late to be woken by the failure: woken at once");
    }

    #[test]
    fn waits_are_told() {
        let wait = |waiter, holder, key: &[u8]| Wait {
            waiter,
            waiter_id: TxnId(waiter * 100),
            holder,
            holder_id: TxnId::NONE,
            tree: Some(TreeId(7)),
            tree_name: None,
            key: Some(key.to_vec()),
            by_thread: false,
        };
        let e = Error::new(ErrorKind::Deadlock, "the wait would close a cycle")
            .with_waits(vec![wait(1, 2, b"a"), wait(2, 1, b"b\xff")])
            .name_trees(&|t| (t == TreeId(7)).then(|| "accounts".into()));
        let text = e.to_string();
        assert!(
            text.contains("waits for key b\"a\" of tree \"accounts\", held by transaction #2;"),
            "{text}"
        );
        assert!(text.contains("b\"b\\xff\""), "{text}");
    }

    #[test]
    fn full_disk_is_no_space() {
        let e = Error::io("growing data", std::io::Error::from_raw_os_error(28));
        assert_eq!(e.kind(), ErrorKind::NoSpace);
    }

    #[test]
    fn errors_are_small_and_shareable() {
        fn check<T: Send + Sync + 'static>() {}
        check::<Error>();
        assert_eq!(size_of::<Error>(), size_of::<usize>());
        let e = Error::new(ErrorKind::Io, "x");
        let c = e.clone();
        assert_eq!(c.with_page(PageId(1)).page(), Some(PageId(1)));
        assert_eq!(e.page(), None);
    }
}
