//! Records: what is appended ([`RecordSpec`]) and what is read back ([`Record`]).
use crate::codec::Walk;
use hamal_page::{Lsn, PageId, RmId, TxnId};

/// The kind of a record. The numbers are on disk: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RecordKind {
    /// An undoable change by a transaction.
    Update = 1,
    /// A redo-only change: structure, purge, allocation. May belong to a transaction (then it is in its
    /// chain).
    Structure = 2,
    /// Compensation log record: redo-only, `prev` is undoNextLSN.
    Clr = 3,
    /// End of a nested top action: a CLR that changes nothing; `prev` is undoNextLSN.
    DummyClr = 4,
    /// A transaction commits. It has then ended.
    Commit = 5,
    /// A whole rollback begins.
    Abort = 6,
    /// A rolled back transaction has ended.
    End = 7,
    /// A checkpoint begins.
    CheckpointBegin = 8,
    /// A piece of a checkpoint's tables (in `undo`).
    CheckpointChunk = 9,
    /// A checkpoint ends (its data in `undo`).
    CheckpointEnd = 10,
    /// An image of one page, logged before the page is written.
    Image = 11,
    /// Reserved: a note that a page was written.
    WriteNote = 12,
}

/// Whether a block reference gives the whole page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Whole {
    /// A change of the page as it is.
    #[default]
    No = 0,
    /// An image: its redo restores the page, with the pageLSN inside it.
    Image = 1,
    /// An initialisation: the page is made anew (zeroed, header set from the payload's first 6 bytes:
    /// resource manager, kind, tree) and the rest of the payload is applied.
    Init = 2,
    /// The page is free from here on; nothing is applied.
    Free = 3,
}

/// A block reference to append: one page that the record changes.
#[derive(Clone, Copy, Debug)]
pub struct Block<'a> {
    /// The page.
    pub page: PageId,
    /// The page's pageLSN before this record (null for a page made anew).
    pub former: Lsn,
    /// Operation code, meaning given by the resource manager.
    pub op: u8,
    /// Whether the block gives the whole page.
    pub whole: Whole,
    /// Payload of the operation.
    pub payload: &'a [u8],
}

/// Which transaction a record belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxnRef {
    /// None.
    None,
    /// A transaction whose first record this is: its id becomes this record's LSN.
    First,
    /// A transaction with an id.
    Id(TxnId),
}

/// A record to append. Encoded straight into the ring; see `docs/formats/log.md`.
#[derive(Clone, Copy, Debug)]
pub struct RecordSpec<'a> {
    /// Kind.
    pub kind: RecordKind,
    /// Resource manager of all its blocks and of its undo.
    pub rm: RmId,
    /// Transaction.
    pub txn: TxnRef,
    /// prevLSN, or undoNextLSN in a CLR.
    pub prev: Lsn,
    /// The pages it changes; each page at most once.
    pub blocks: &'a [Block<'a>],
    /// Undo bytes (of an [`RecordKind::Update`]), or the data of a record without pages (checkpoint, commit).
    pub undo: &'a [u8],
}

/// A block reference as read back; the payload is a range of the record's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockRef {
    /// The page.
    pub page: PageId,
    /// The page's pageLSN before this record.
    pub former: Lsn,
    /// Operation code.
    pub op: u8,
    /// Whether the block gives the whole page.
    pub whole: Whole,
    /// Where the payload lies in the record's bytes.
    pub(crate) payload: std::ops::Range<usize>,
}

/// A record read back from the log, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where it starts.
    pub lsn: Lsn,
    /// Where it ends (the commit timestamp of a commit record).
    pub end: Lsn,
    /// Kind.
    pub kind: RecordKind,
    /// Resource manager.
    pub rm: RmId,
    /// Transaction, or none.
    pub txn: TxnId,
    /// prevLSN, or undoNextLSN in a CLR.
    pub prev: Lsn,
    /// The pages it changes.
    pub blocks: Vec<BlockRef>,
    pub(crate) undo: std::ops::Range<usize>,
    pub(crate) bytes: Vec<u8>,
}

impl Record {
    /// The payload of a block.
    ///
    /// # Panics
    /// If there is no block `i`.
    pub fn payload(&self, i: usize) -> &[u8] {
        &self.bytes[self.blocks[i].payload.clone()]
    }
    /// The undo bytes, or the data of a record without pages.
    pub fn undo(&self) -> &[u8] {
        &self.bytes[self.undo.clone()]
    }
    /// All of its bytes, as they lie in the log.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
    /// Bytes of the record in the log.
    pub fn len(&self) -> usize {
        (self.end.0 - self.lsn.0) as usize
    }
    /// Never: a record has bytes.
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// A record where it lies in memory: nothing of it is copied. Its blocks are parsed as they are asked for.
#[derive(Clone, Copy, Debug)]
pub struct RecordView<'a> {
    /// Where it starts.
    pub lsn: Lsn,
    /// Where it ends (the commit timestamp of a commit record).
    pub end: Lsn,
    /// Kind.
    pub kind: RecordKind,
    /// Resource manager.
    pub rm: RmId,
    /// Transaction, or none.
    pub txn: TxnId,
    /// prevLSN, or undoNextLSN in a CLR.
    pub prev: Lsn,
    pub(crate) bytes: &'a [u8],
    /// Where the blocks begin, and their number as the record has it.
    pub(crate) blocks: (usize, u8),
}

/// A block of a [`RecordView`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockView<'a> {
    /// The page.
    pub page: PageId,
    /// The page's pageLSN before this record.
    pub former: Lsn,
    /// Operation code.
    pub op: u8,
    /// Whether the block gives the whole page.
    pub whole: Whole,
    /// Payload of the operation.
    pub payload: &'a [u8],
}

impl<'a> RecordView<'a> {
    /// The record at `lsn` whose [bytes](RecordView::bytes) these are; its checksum is not compared.
    pub fn parse(bytes: &'a [u8], lsn: Lsn) -> Option<RecordView<'a>> {
        crate::codec::view(bytes, lsn.0, None)
    }
    pub(crate) fn walk(&self) -> Walk<'a> {
        Walk::new(self.bytes, self.lsn.0, self.blocks)
    }
    /// Its blocks. `None` stands for one that cannot be parsed (only a forged record has one), and ends them.
    pub fn blocks(&self) -> impl Iterator<Item = Option<BlockView<'a>>> + use<'a> {
        let bytes = self.bytes;
        self.walk().map(move |b| {
            let BlockRef { page, former, op, whole, payload } = b?;
            Some(BlockView { page, former, op, whole, payload: &bytes[payload] })
        })
    }
    /// The undo bytes, or the data of a record without pages; `None` if a block cannot be parsed.
    pub fn undo(&self) -> Option<&'a [u8]> {
        let mut walk = self.walk();
        walk.all(|b| b.is_some()).then(|| &self.bytes[walk.at..])
    }
    /// Bytes of the record in the log.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }
    /// Never: a record has bytes.
    pub fn is_empty(&self) -> bool {
        false
    }
    /// Its bytes, as they lie in the log.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }
}

impl Whole {
    /// The name that traces print.
    pub fn name(self) -> &'static str {
        match self {
            Whole::No => "change",
            Whole::Image => "image",
            Whole::Init => "init",
            Whole::Free => "free",
        }
    }
    /// The value with that number on disk.
    pub(crate) fn from_number(n: u8) -> Option<Whole> {
        Some(match n {
            0 => Whole::No,
            1 => Whole::Image,
            2 => Whole::Init,
            3 => Whole::Free,
            _ => return None,
        })
    }
}

impl RecordKind {
    /// The kind with that number on disk.
    pub(crate) fn from_number(n: u8) -> Option<RecordKind> {
        use RecordKind::*;
        Some(match n {
            1 => Update,
            2 => Structure,
            3 => Clr,
            4 => DummyClr,
            5 => Commit,
            6 => Abort,
            7 => End,
            8 => CheckpointBegin,
            9 => CheckpointChunk,
            10 => CheckpointEnd,
            11 => Image,
            12 => WriteNote,
            _ => return None,
        })
    }
    /// The name that traces and tools print.
    pub fn name(self) -> &'static str {
        match self {
            RecordKind::Update => "update",
            RecordKind::Structure => "structure",
            RecordKind::Clr => "clr",
            RecordKind::DummyClr => "dummy_clr",
            RecordKind::Commit => "commit",
            RecordKind::Abort => "abort",
            RecordKind::End => "end",
            RecordKind::CheckpointBegin => "begin_checkpoint",
            RecordKind::CheckpointChunk => "checkpoint_chunk",
            RecordKind::CheckpointEnd => "end_checkpoint",
            RecordKind::Image => "image",
            RecordKind::WriteNote => "write_note",
        }
    }
}
