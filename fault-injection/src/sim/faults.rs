//! Errors that are planned.
use super::{Act, Site};

/// An input/output error that is planned.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IoFault {
    /// Which calls: of this role (`None`: any) ...
    pub role: Option<&'static str>,
    /// ... and this kind.
    pub act: Act,
    /// The n-th such call from now on, counted from 1.
    pub nth: u64,
    /// Only that one, or every later one too.
    pub forever: bool,
    /// What goes wrong.
    pub what: Wrong,
}

/// What goes wrong with a call. Calls are system calls: a write that is continued after a short one is two. What makes no
/// sense for a call does nothing to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Wrong {
    /// EIO and nothing done. A failed sync leaves what was pending readable and forgotten: no later sync makes it durable
    /// (as after a real fsync that failed), a crash may find or lose it. Names are not forgotten: a journal replays them.
    Eio,
    /// ENOSPC and nothing done; a sync fails as with `Eio`.
    NoSpace,
    /// The write or read is interrupted once (EINTR) before anything is transferred. Its repetition is not, with `forever`
    /// neither.
    Interrupted,
    /// The system call transfers only the first so many bytes and says so. Past the cache these are rounded down to whole
    /// sectors, but not to none. `Short(0)` of a read transfers one byte or sector: nothing would mean the end of the file.
    Short(u64),
    /// A sync says that it succeeded and does nothing. Of writes to a file opened with `dsync`: they are done, but not
    /// durable.
    Lie,
    /// The process dies in the call: nothing is done, and all its later calls fail. What it wrote before stays in the cache,
    /// and the next sync, by the process after it, makes it durable.
    Dies,
    /// A write or a change of length says that it succeeded and does nothing.
    LostWrite,
    /// A write goes so many bytes further on (negative: back) than asked, or a read comes from there.
    Misdirected(i64),
    /// A bit of what is written or read is flipped.
    BitFlip {
        /// Which, counted from the buffer's start, modulo its length.
        bit: u64,
    },
}

/// The planned errors of a disk.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// With the number of calls seen.
    faults: Vec<(IoFault, u64)>,
    struck: u64,
}

impl Plan {
    pub(super) fn add(&mut self, fault: IoFault) {
        self.faults.push((fault, 0));
    }

    /// How often something went wrong.
    pub(super) fn struck(&self) -> u64 {
        self.struck
    }

    /// Counts a call, and says what goes wrong with it.
    pub(super) fn strike(&mut self, site: Site) -> Option<Wrong> {
        let mut wrong = None;
        for (fault, seen) in &mut self.faults {
            if fault.act == site.act && fault.role.is_none_or(|r| r == site.role) {
                *seen += 1;
                let nth = fault.nth.max(1);
                if *seen == nth || (fault.forever && *seen > nth) {
                    self.struck += 1;
                    wrong.get_or_insert_with(|| fault.what.clone());
                }
            }
        }
        wrong
    }
}

pub(super) fn flip(bytes: &mut [u8], bit: u64) {
    if !bytes.is_empty() {
        let bit = bit % (bytes.len() as u64 * 8);
        bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
    }
}
