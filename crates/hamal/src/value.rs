//! Keys and values as the engine hands them out: owned bytes, and a reader for long values.
use crate::Owner;
use hamal_btree::{Batch, LargeReader};
use hamal_txn::Snapshot;
use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::io;
use std::ops::Deref;
use std::sync::Arc;

/// Longest bytes that are kept in place: most keys.
const SHORT: usize = 30;

/// Bytes: few in place, many owned, or a part of a batch of rows that is shared by all rows read with them.
#[derive(Clone)]
enum Bytes {
    Short(u8, [u8; SHORT]),
    Owned(Vec<u8>),
    Part { batch: Arc<Batch>, at: u32, len: u32 },
}

impl Bytes {
    /// The bytes of a batch from `at` on.
    #[inline]
    fn part(batch: &Arc<Batch>, at: usize, bytes: &[u8]) -> Bytes {
        if let Some(short) = Bytes::short(bytes) {
            return short;
        }
        match (u32::try_from(at), u32::try_from(bytes.len())) {
            (Ok(at), Ok(len)) => Bytes::Part { batch: batch.clone(), at, len },
            _ => Bytes::Owned(bytes.to_vec()),
        }
    }
    #[inline]
    fn short(bytes: &[u8]) -> Option<Bytes> {
        let mut short = [0; SHORT];
        short.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Bytes::Short(bytes.len() as u8, short))
    }
    fn into_vec(self) -> Vec<u8> {
        match self {
            Bytes::Owned(v) => v,
            other => other.to_vec(),
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Short(len, bytes) => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Bytes::Owned(v) => v,
            Bytes::Part { batch, at, len } => {
                batch.bytes().get(*at as usize..(*at + *len) as usize).unwrap_or_default()
            }
        }
    }
}

macro_rules! bytes {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Compares, orders and hashes as the bytes. Of a row of a [`Range`](crate::Range) it may share memory with the rows
        /// that were read with it, which stays as long as one of them: to keep few of many rows for long, copy them with
        /// `to_vec`.
        #[derive(Clone)]
        pub struct $name(Bytes);

        impl $name {
            #[inline]
            pub(crate) fn part(batch: &Arc<Batch>, at: usize, bytes: &[u8]) -> Self {
                $name(Bytes::part(batch, at, bytes))
            }
            /// The bytes; without a copy if they are not shared with other rows.
            pub fn into_vec(self) -> Vec<u8> {
                self.0.into_vec()
            }
        }
        impl Default for $name {
            fn default() -> Self {
                $name(Bytes::Short(0, [0; SHORT]))
            }
        }
        impl Deref for $name {
            type Target = [u8];
            #[inline]
            fn deref(&self) -> &[u8] {
                &self.0
            }
        }
        impl AsRef<[u8]> for $name {
            #[inline]
            fn as_ref(&self) -> &[u8] {
                self
            }
        }
        impl Borrow<[u8]> for $name {
            fn borrow(&self) -> &[u8] {
                self
            }
        }
        impl From<$name> for Vec<u8> {
            fn from(v: $name) -> Vec<u8> {
                v.into_vec()
            }
        }
        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                **self == **other
            }
        }
        impl Eq for $name {}
        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                (**self).cmp(&**other)
            }
        }
        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                (**self).hash(state);
            }
        }
        impl PartialEq<[u8]> for $name {
            fn eq(&self, other: &[u8]) -> bool {
                **self == *other
            }
        }
        impl PartialEq<&[u8]> for $name {
            fn eq(&self, other: &&[u8]) -> bool {
                **self == **other
            }
        }
        impl<const N: usize> PartialEq<&[u8; N]> for $name {
            fn eq(&self, other: &&[u8; N]) -> bool {
                **self == **other
            }
        }
        impl PartialEq<Vec<u8>> for $name {
            fn eq(&self, other: &Vec<u8>) -> bool {
                **self == **other
            }
        }
        /// As a byte string: `b"abc\x00"`.
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "b\"{}\"", self.escape_ascii())
            }
        }
    };
}

bytes!(
    /// A key.
    Key
);
bytes!(
    /// A value.
    Value
);

impl Value {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Value(Bytes::Owned(bytes))
    }
}

/// Reads a value piece by piece, without holding all of it in memory.
///
/// It keeps its snapshot (or its write transaction's pages) alive: drop it when you are done. After the write transaction
/// through which it was made has ended, reading fails.
pub struct ValueReader {
    /// Keeps the pages of the value, if the transaction goes on to later snapshots; if it was ended, they are anything.
    moment: Option<Snapshot>,
    owner: Owner,
    source: Source,
}

enum Source {
    Inline(io::Cursor<Vec<u8>>),
    Chain(LargeReader),
}

impl ValueReader {
    pub(crate) fn inline(owner: Owner, bytes: Vec<u8>) -> ValueReader {
        ValueReader { moment: None, owner, source: Source::Inline(io::Cursor::new(bytes)) }
    }
    pub(crate) fn chain(owner: Owner, reader: LargeReader, moment: Option<Snapshot>) -> ValueReader {
        ValueReader { moment, owner, source: Source::Chain(reader) }
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
            Source::Chain(r) => {
                let read = self.owner.with_view_at(&mut self.moment, |_| r.read(buf));
                read.map_err(io::Error::other)
            }
        }
    }
}

impl fmt::Debug for ValueReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValueReader").field("remaining", &self.remaining()).finish_non_exhaustive()
    }
}
