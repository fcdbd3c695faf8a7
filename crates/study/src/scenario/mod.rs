//! The scenario language: one action a line (`docs/scenarios.md` has the grammar).
mod lex;
mod parse;
mod rows;

pub use lex::BadScenario;
pub use parse::parse;

/// A parsed scenario.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scenario {
    /// Its lines, in order, without the empty ones.
    pub lines: Vec<Line>,
    /// What is fixed before the first action.
    pub setup: Setup,
}

/// What a scenario fixes before its first action.
#[derive(Clone, Debug, PartialEq)]
pub struct Setup {
    /// Page mode: the names of its pages, in order.
    pub pages: Vec<String>,
    /// Page mode: slots of each page.
    pub slots: u32,
    /// Key mode: the names of its trees.
    pub tables: Vec<String>,
    /// Frames of the buffer pool.
    pub buffer: usize,
    /// Whether pages are imaged before they are written; unset: not in page mode, yes in key mode.
    pub images: Option<bool>,
    /// Whether recovery takes checkpoints of its own.
    pub checkpoints: bool,
    /// The rule of the engine that is switched off.
    pub broken: Option<String>,
}

impl Default for Setup {
    fn default() -> Self {
        Setup {
            pages: Vec::new(),
            slots: 8,
            tables: Vec::new(),
            buffer: 256,
            images: None,
            checkpoints: false,
            broken: None,
        }
    }
}

impl Setup {
    /// Whether pages are imaged before they are written.
    pub fn images_on(&self) -> bool {
        self.images.unwrap_or(self.pages.is_empty())
    }
}

/// A line of a scenario.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Its number in the file, from 1 on.
    pub number: usize,
    /// The text, trimmed.
    pub text: String,
    /// The name that it gives to the log record.
    pub label: Option<String>,
    /// `!`: the engine must refuse it.
    pub refused: bool,
    /// What is done.
    pub action: Action,
}

/// A value of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotValue {
    /// A number; an empty slot counts as 0.
    Int(i64),
    /// A text of at most 48 bytes.
    Text(String),
}

/// What a line does.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the words are those of docs/scenarios.md")]
pub enum Action {
    /// A line of the setup; nothing is done when it is reached.
    Setup,
    Begin(String),
    Write {
        txn: String,
        page: String,
        slot: u32,
        value: SlotValue,
    },
    Add {
        txn: String,
        page: String,
        slot: u32,
        amount: i64,
    },
    Put {
        txn: String,
        table: String,
        key: String,
        value: String,
    },
    /// Rows with ascending keys, all at once.
    Load {
        txn: String,
        table: String,
        rows: Vec<(String, String)>,
    },
    Delete {
        txn: String,
        table: String,
        key: String,
    },
    Get {
        txn: String,
        table: String,
        key: String,
        expect: Option<Option<String>>,
    },
    Savepoint {
        txn: String,
        name: String,
    },
    RollbackTo {
        txn: String,
        name: String,
    },
    Abort {
        txn: String,
        stop_after: Option<u64>,
    },
    Commit {
        txn: String,
        wait: bool,
        end: bool,
    },
    End(String),
    NtaBegin(String),
    NtaEnd(String),
    FlushPage(String),
    FlushAll,
    FlushLog(Option<String>),
    Evict(String),
    /// What the collector does in the background otherwise, to its end.
    Tidy,
    Checkpoint,
    CheckpointBegin,
    CheckpointTables,
    CheckpointEnd,
    Crash {
        keep_log: bool,
        lose_after: Option<String>,
        torn: Option<String>,
    },
    Recover {
        stop: Option<Stop>,
        flush: Vec<String>,
    },
    Log,
    Tables,
    Show(String),
    Expect(Vec<Expect>),
}

/// Where a recovery stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// After so many records that it appends.
    Records(u64),
    /// After so many records that redo applies (and the rest of their page).
    Redo(u64),
    /// After so many CLRs.
    Clrs(u64),
    /// When analysis is done.
    Analysis,
}

/// A record as expectations name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ref {
    /// By its label.
    Label(String),
    /// The CLR that compensates the record.
    Clr(Box<Ref>),
    /// By its ordinal.
    Rec(u64),
    /// None.
    Null,
}

/// What must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words are those of docs/scenarios.md")]
pub enum Expect {
    Att(Vec<(String, Ref)>),
    Dpt(Vec<(String, Ref)>),
    RedoFrom(Ref),
    Redone(Vec<Ref>),
    Skipped(Ref, String),
    Losers(Vec<String>),
    Winners(Vec<String>),
    Undone(Vec<Ref>),
    Clr(Ref, Ref),
    Slot { page: String, slot: u32, value: SlotValue },
    Key { table: String, key: String, value: Option<String> },
    Committed(String),
    Absent(String),
    Lost(Vec<Ref>),
    PageLsn(String, Ref),
    DiskLsn(String, Ref),
    Error(String),
}
