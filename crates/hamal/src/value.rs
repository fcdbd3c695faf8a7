//! Keys and values as the engine hands them out: owned bytes, and a reader for long values.
use crate::Owner;
use hamal_btree::LargeReader;
use hamal_txn::Snapshot;
use std::fmt;
use std::io;
use std::ops::Deref;

macro_rules! bytes {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(Vec<u8>);

        impl $name {
            pub(crate) fn new(bytes: Vec<u8>) -> Self {
                $name(bytes)
            }
            /// The bytes, without a copy.
            pub fn into_vec(self) -> Vec<u8> {
                self.0
            }
        }
        impl Deref for $name {
            type Target = [u8];
            fn deref(&self) -> &[u8] {
                &self.0
            }
        }
        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        impl From<$name> for Vec<u8> {
            fn from(v: $name) -> Vec<u8> {
                v.0
            }
        }
        impl PartialEq<[u8]> for $name {
            fn eq(&self, other: &[u8]) -> bool {
                self.0 == other
            }
        }
        impl PartialEq<&[u8]> for $name {
            fn eq(&self, other: &&[u8]) -> bool {
                self.0 == *other
            }
        }
        impl<const N: usize> PartialEq<&[u8; N]> for $name {
            fn eq(&self, other: &&[u8; N]) -> bool {
                self.0 == *other
            }
        }
        impl PartialEq<Vec<u8>> for $name {
            fn eq(&self, other: &Vec<u8>) -> bool {
                self.0 == *other
            }
        }
        /// As a byte string: `b"abc\x00"`.
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "b\"{}\"", self.0.escape_ascii())
            }
        }
    };
}

bytes!(
    /// A key: its own bytes.
    Key
);
bytes!(
    /// A value: its own bytes.
    Value
);

/// Reads a value piece by piece, without holding all of it in memory.
///
/// It keeps its snapshot (or its write transaction's pages) alive: drop it when you are done. After the write transaction
/// through which it was made has ended, reading fails.
pub struct ValueReader {
    /// Keeps the pages of the value, if the transaction goes on to later snapshots.
    _moment: Option<Snapshot>,
    owner: Owner,
    source: Source,
}

enum Source {
    Inline(io::Cursor<Vec<u8>>),
    Chain(LargeReader),
}

impl ValueReader {
    pub(crate) fn inline(owner: Owner, bytes: Vec<u8>) -> ValueReader {
        ValueReader { _moment: None, owner, source: Source::Inline(io::Cursor::new(bytes)) }
    }
    pub(crate) fn chain(owner: Owner, reader: LargeReader, moment: Option<Snapshot>) -> ValueReader {
        ValueReader { _moment: moment, owner, source: Source::Chain(reader) }
    }
    /// Bytes that have not been read yet.
    pub fn remaining(&self) -> u64 {
        match &self.source {
            Source::Inline(c) => (c.get_ref().len() as u64).saturating_sub(c.position()),
            Source::Chain(r) => r.remaining(),
        }
    }
}

impl io::Read for ValueReader {
    /// Reads the next bytes; the engine's error is the source of the `io::Error`.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.source {
            Source::Inline(c) => c.read(buf),
            Source::Chain(r) => self.owner.with_view(|_| r.read(buf)).map_err(io::Error::other),
        }
    }
}

impl fmt::Debug for ValueReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValueReader").field("remaining", &self.remaining()).finish_non_exhaustive()
    }
}
