//! Where redo finds the records of its pages.
use crate::table::IdMap;
use hamal_error::{Error, ErrorKind, Result};
use hamal_log::{LogMemory, LogReader, RecordView};
use hamal_page::Lsn;

/// Records by LSN, for many threads to read.
pub(crate) enum Records {
    /// The whole stretch of the log that redo needs, as it was read to find its end.
    Memory(LogMemory),
    /// The records of some pages.
    Collected {
        /// Their bytes, one after another.
        bytes: Vec<u8>,
        /// Where each lies.
        places: IdMap<Lsn, (usize, usize)>,
    },
}

impl Records {
    /// Reads the records at these LSNs, in one pass over the log.
    ///
    /// # Errors
    /// `LogCorrupt` if one of them is gone; I/O errors.
    pub(crate) fn collect(reader: &mut LogReader, mut wanted: Vec<Lsn>) -> Result<Records> {
        wanted.sort_unstable();
        wanted.dedup();
        if let Some(first) = wanted.first() {
            reader.go_through(*first);
        }
        let mut bytes = Vec::new();
        let mut places = IdMap::with_capacity_and_hasher(wanted.len(), Default::default());
        for lsn in wanted {
            let record = reader.view(lsn)?.filter(|r| r.lsn == lsn).ok_or_else(|| {
                Error::new(ErrorKind::LogCorrupt, "a record that analysis read is gone").with_lsn(lsn)
            })?;
            places.insert(lsn, (bytes.len(), record.len()));
            bytes.extend_from_slice(record.bytes());
        }
        reader.jump_about();
        Ok(Records::Collected { bytes, places })
    }

    /// Says that the records at these LSNs are wanted next.
    pub(crate) fn warm(&self, lsns: &[Lsn]) {
        if let Records::Memory(memory) = self {
            memory.warm(lsns);
        }
    }

    /// The record at `lsn`; `scratch` holds it if it does not lie in one piece.
    pub(crate) fn get<'a>(&'a self, lsn: Lsn, scratch: &'a mut Vec<u8>) -> Option<RecordView<'a>> {
        match self {
            Records::Memory(memory) => memory.record(lsn, scratch),
            Records::Collected { bytes, places } => {
                let (at, len) = *places.get(&lsn)?;
                RecordView::parse(&bytes[at..at + len], lsn)
            }
        }
    }
}
