//! The redo half of the resource manager contract: applying an operation to a page.
use hamal_page::{Lsn, PageId, RmId, TxnId};
use std::ops::Range;
use std::sync::Arc;

/// Why an operation could not be applied: a damaged payload or page, or a bug.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplyError(pub String);

/// What an operation may know beside payload and page.
#[derive(Clone, Copy, Debug)]
pub struct Applying {
    /// LSN of the record (becomes pageLSN afterwards, set by the pool).
    pub lsn: Lsn,
    /// Transaction of the record: what a leaf record's word gets as writer id.
    pub txn: TxnId,
    /// The page.
    pub page: PageId,
}

/// Applies operations to pages: the one function that normal work and redo both run.
///
/// `apply` is total: it looks at `at`, `op`, `payload` and `page` and at nothing else (no clock, no hash order, no
/// status), checks every bound, and returns an error instead of panicking.
pub trait PageOps: Send + Sync {
    /// Applies `op` to the page. For an initialisation the page was zeroed and its header set before. Must not touch
    /// the common header's pageLSN, imgLSN and checksum.
    ///
    /// # Errors
    /// [`ApplyError`]; the page's content is then undefined and the engine stops.
    fn apply(&self, at: &Applying, op: u8, payload: &[u8], page: &mut [u8]) -> Result<(), ApplyError>;
    /// The range of the page that holds nothing (may be left out of an image and read back as zero); an empty range if
    /// there is none. Must lie behind the header. Total, like `apply`.
    fn hole(&self, page: &[u8]) -> Range<usize> {
        let _ = page;
        0..0
    }
}

/// The resource managers of a database by id, as far as the pool needs them.
#[derive(Clone, Default)]
pub struct Managers(Vec<Option<Arc<dyn PageOps>>>);

impl Managers {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }
    /// Registers the manager `id`, replacing an earlier one.
    pub fn set(&mut self, id: RmId, ops: Arc<dyn PageOps>) {
        let i = usize::from(id.0);
        if self.0.len() <= i {
            self.0.resize(i + 1, None);
        }
        self.0[i] = Some(ops);
    }
    /// The manager `id`.
    pub fn get(&self, id: RmId) -> Option<&Arc<dyn PageOps>> {
        self.0.get(usize::from(id.0)).and_then(|m| m.as_ref())
    }
}

impl std::fmt::Debug for Managers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.0.iter().enumerate().filter(|(_, m)| m.is_some()).map(|(i, _)| i))
            .finish()
    }
}
