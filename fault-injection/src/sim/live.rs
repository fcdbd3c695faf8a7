//! A file of a running disk: what is there now, and what of it is still undecided since the boot.
use super::content::{Content, PAGE, SECTOR, SECTORS};
use super::file::{FileState, bits};
use std::ops::Range;
use std::sync::Arc;

/// A file as it is now.
pub(super) struct LiveFile {
    pub(super) now: Content,
    pub(super) len: u64,
    pub(super) open: Option<Box<Open>>,
}

/// What is still undecided of a file.
pub(super) struct Open {
    /// As the power failure left it, and all answers since.
    pub(super) state: Arc<FileState>,
    /// Undecided sectors: page, mask; ascending.
    pub(super) sectors: Vec<(u64, u8)>,
    pub(super) length: bool,
}

impl Open {
    pub(super) fn is_undecided(&self, sector: u64) -> bool {
        let at = self.sectors.binary_search_by_key(&(sector / SECTORS), |(page, _)| *page);
        at.is_ok_and(|i| self.sectors[i].1 & (1 << (sector % SECTORS)) != 0)
    }
}

impl LiveFile {
    pub(super) fn of(state: &Arc<FileState>) -> LiveFile {
        let open = (!state.is_decided()).then(|| {
            Box::new(Open {
                state: state.clone(),
                sectors: state.pages.iter().map(|(page, v)| (*page, v.mask())).collect(),
                length: state.lengths().len() > 1,
            })
        });
        let (mut now, len) = (state.base().clone(), state.durable_len());
        if state.lengths().len() == 1 && !len.is_multiple_of(SECTOR) {
            now.cut(len);
        }
        LiveFile { now, len, open }
    }

    pub(super) fn undecided_length(&self) -> Option<&Open> {
        self.open.as_deref().filter(|o| o.length)
    }

    /// The first undecided sector that overlaps these bytes.
    pub(super) fn undecided(&self, bytes: &Range<u64>) -> Option<u64> {
        let open = self.open.as_ref()?;
        let from = open.sectors.partition_point(|(page, _)| (page + 1) * PAGE <= bytes.start);
        for (page, mask) in open.sectors[from..].iter().take_while(|(page, _)| page * PAGE < bytes.end) {
            for i in bits(*mask) {
                let sector = page * SECTORS + i;
                if (sector + 1) * SECTOR > bytes.start && sector * SECTOR < bytes.end {
                    return Some(sector);
                }
            }
        }
        None
    }

    /// These sectors are not undecided any longer.
    pub(super) fn close(&mut self, sectors: Range<u64>) {
        let Some(open) = &mut self.open else { return };
        let from = open.sectors.partition_point(|(page, _)| (page + 1) * SECTORS <= sectors.start);
        let mut emptied = false;
        for (page, mask) in
            open.sectors[from..].iter_mut().take_while(|(page, _)| page * SECTORS < sectors.end)
        {
            for i in bits(*mask) {
                if sectors.contains(&(*page * SECTORS + i)) {
                    *mask &= !(1 << i);
                }
            }
            emptied |= *mask == 0;
        }
        if emptied {
            open.sectors.retain(|(_, mask)| *mask != 0);
        }
        self.close_if_decided();
    }

    pub(super) fn close_if_decided(&mut self) {
        if self.open.as_ref().is_some_and(|o| o.sectors.is_empty() && !o.length) {
            self.open = None;
        }
    }
}
