//! Why a latched section stops: it never waits, it says what it needs.
use hamal_error::Error;
use hamal_page::{PageId, TxnId};

/// Something that a latched section would have had to wait for (invariant BUF-ORDER). The caller lets go of every latch,
/// obtains it, and starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Need {
    /// A page that is not in memory: [`crate::Pool::fetch`].
    Page(PageId),
    /// A free frame.
    Frame,
    /// More credit than was taken; at least this many bytes of log and pages.
    Credit,
    /// Room in a tree: a structure change has to come first (a split).
    Room,
    /// The end of another transaction.
    Transaction(TxnId),
}

/// Why a latched section ended without a result.
#[derive(Clone, Debug)]
pub enum Stop {
    /// It needs something: obtain it and start again.
    Need(Need),
    /// It failed.
    Error(Error),
}

impl From<Error> for Stop {
    fn from(e: Error) -> Self {
        Stop::Error(e)
    }
}

impl From<Need> for Stop {
    fn from(n: Need) -> Self {
        Stop::Need(n)
    }
}
