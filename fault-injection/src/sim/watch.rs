//! Looking at a disk while an engine runs on it.
use super::IoEvent;
use super::state::{Names, State};
use std::ops::Range;

/// Looks at what an engine does to its disk while it runs. It must not use the disk itself, which is locked meanwhile.
pub trait Watch: Send {
    /// A call is about to be done. `disk` can be asked what is durable. A sentence objects: a rule was broken. Calls that
    /// fail are not shown.
    fn before(&mut self, event: &IoEvent, data: &[u8], disk: &Durable<'_>) -> Option<String>;
    /// The process died, and another one is about to open the files. What was pending still is.
    fn restarted(&mut self, disk: &Durable<'_>) {
        let _ = disk;
    }
    /// A durable commit was acknowledged (by the runner).
    fn acknowledged(&mut self, disk: &Durable<'_>) -> Option<String> {
        let _ = disk;
        None
    }
}

/// What is durable on a disk now.
#[derive(Debug)]
pub struct Durable<'a> {
    pub(super) state: &'a State,
    pub(super) now: &'a Names,
}

impl Durable<'_> {
    /// Whether no write to this range of the file (by name) is waiting for a sync: these bytes are there, and the same,
    /// whatever a power failure makes of the rest. (Under `Hostile` no byte of a sector that is being written is.) That the
    /// file's name is durable is another question; [`read`](Self::read) answers it.
    pub fn is_synced(&self, name: &str, range: Range<u64>) -> bool {
        let file = self.now.files.get(name).and_then(|id| self.state.file(*id));
        file.is_some_and(|f| f.is_certain(range, self.state.model))
    }
    /// Whether nothing of the file (by name) is waiting for a sync: every byte of it, and its length.
    pub fn is_settled(&self, name: &str) -> bool {
        let file = self.now.files.get(name).and_then(|id| self.state.file(*id));
        file.is_none_or(|f| f.is_decided())
    }
    /// Durable bytes of a file (pending writes left out), up to the durable length; `None` without a durable name.
    pub fn read(&self, name: &str, range: Range<u64>) -> Option<Vec<u8>> {
        if self.state.names.pending.iter().any(|p| p.change.touches(name))
            || !self.state.names.has_dir_of(name)
        {
            return None;
        }
        let f = self.state.file(*self.state.names.files.get(name)?)?;
        let end = range.end.min(f.durable_len());
        let mut out = vec![0; usize::try_from(end.saturating_sub(range.start)).ok()?];
        f.base().read(range.start, &mut out);
        Some(out)
    }
    /// Names of the files, durable or not.
    pub fn names(&self) -> Vec<String> {
        self.now.files.keys().map(|n| n.to_string()).collect()
    }
}
