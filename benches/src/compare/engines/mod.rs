//! The engines, each with the settings that its authors recommend.
#[cfg(feature = "light-peers")]
mod fjall;
mod hamal;
#[cfg(feature = "light-peers")]
mod lmdb;
mod memory;
mod redb;
#[cfg(feature = "peers")]
mod rocksdb;
#[cfg(feature = "light-peers")]
mod sled;
#[cfg(feature = "light-peers")]
mod sqlite;

use super::engine::Kind;

/// All engines that were compiled in, hamal first.
pub fn all() -> Vec<Kind> {
    let mut all = vec![hamal::KIND, redb::KIND];
    #[cfg(feature = "light-peers")]
    all.extend([lmdb::KIND, fjall::KIND, sqlite::KIND, sled::KIND]);
    #[cfg(feature = "peers")]
    all.extend([rocksdb::TRANSACTIONS, rocksdb::PLAIN]);
    all.push(memory::KIND);
    all
}

/// A value into the caller's buffer.
fn copy(value: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(value);
}
