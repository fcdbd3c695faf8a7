//! Reading everything that the open log still holds, from its oldest record to its durable end: for rebuilding a page.
use crate::files::{Files, Found};
use crate::format::{SEAL_LEN, SECTOR};
use crate::{Log, Record};
use hamal_error::{Error, Result};
use hamal_page::Lsn;

/// Bytes read at once: each of them is read once.
const CHUNK: usize = 64 << 10;

impl Log {
    /// Calls `see` with every record that the segments hold, ascending, up to what is durable now. Segments are not released
    /// meanwhile, so a checkpoint may have to wait. The caller holds nothing that who cuts the log may wait for.
    ///
    /// The oldest segment may begin in the middle of a group. What lies before its first seal is then left out: a record is
    /// recognised only from a place where one is known to start.
    ///
    /// # Errors
    /// [`LogCorrupt`](hamal_error::ErrorKind::LogCorrupt), `Io`; `Poisoned`.
    pub fn scan(&self, mut see: impl FnMut(&Record)) -> Result<()> {
        self.poisoned().check()?;
        let _kept = self.scans.read();
        let segments = self.segments.read().as_ref().clone();
        let end = self.durable().0;
        let mut files = Files::new(segments, self.seeds, CHUNK, 2 * CHUNK);
        let Some(mut at) = first_record(&mut files, end)? else { return Ok(()) };
        while at < end {
            match files.at(at, end)? {
                Found::Record(r) => {
                    at = r.end.0;
                    see(&r);
                }
                Found::Seal(s) => at = files.step_over(at, &s)?,
                Found::Nothing => {
                    return Err(files.corrupt(at, "no valid record where one must be"));
                }
            }
        }
        if at != end {
            return Err(Error::internal("LOG-2: the durable end lies within a record").with_lsn(Lsn(end)));
        }
        Ok(())
    }
}

/// The first place below `end` where a record, or a group, is known to start.
fn first_record(files: &mut Files, end: u64) -> Result<Option<u64>> {
    let oldest = files.oldest();
    // A record's checksum goes over its LSN: what is valid here is one.
    if oldest < end && !matches!(files.at(oldest, end)?, Found::Nothing) {
        return Ok(Some(oldest));
    }
    // LSN space is counted in sectors from its start, and segments begin on them.
    let mut at = oldest;
    while at + SECTOR <= end {
        let seal = at + SECTOR - SEAL_LEN;
        if files.seal(seal, end)?.is_some() {
            return Ok(Some(seal + SEAL_LEN));
        }
        at += SECTOR;
    }
    Ok(None)
}
