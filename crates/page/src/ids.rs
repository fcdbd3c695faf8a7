//! The identifiers of the engine, each a type of its own.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($t:ty), $fmt:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $t);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, $fmt, self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "(", $fmt, ")"), self.0)
            }
        }
    };
}

id!(
    /// Log sequence number: a byte position in the log. Zero is null: no record starts there.
    Lsn(u64), "{:#x}"
);
id!(
    /// Number of a page in the data file; page `n` lies at byte `n * page_size`.
    PageId(u64), "{}"
);
id!(
    /// Number of a resource manager, given by the database when the manager is first registered.
    RmId(u8), "{}"
);
id!(
    /// Number of a tree. Never reused.
    TreeId(u32), "{}"
);
id!(
    /// Number of a transaction: the LSN of its first log record. Zero means "none".
    TxnId(u64), "T{:x}"
);

impl Lsn {
    /// No LSN.
    pub const NULL: Lsn = Lsn(0);
    /// An LSN above every other.
    pub const MAX: Lsn = Lsn(u64::MAX);
    /// Whether this is the null LSN.
    pub fn is_null(self) -> bool {
        self.0 == 0
    }
    /// `None` for the null LSN.
    pub fn some(self) -> Option<Lsn> {
        (self.0 != 0).then_some(self)
    }
}

impl TxnId {
    /// No transaction.
    pub const NONE: TxnId = TxnId(0);
    /// Whether this is "no transaction".
    pub fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// The identity of a database: 16 random bytes drawn when it is created. Seeds every checksum, so that a page or a
/// log record of another database never validates here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct DbId(pub [u8; 16]);

impl fmt::Display for DbId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for b in self.0 {
            write!(f, "{b:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for DbId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DbId({self})")
    }
}
