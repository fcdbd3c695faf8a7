//! The bytes of a record.
//!
//! ```text
//! length   varint   bytes of the whole record, this field and the checksum included
//! crc      u32      CRC-32C of database id, own LSN, and every byte of the record but these four
//! kind     u8       bits 0-4 kind, bits 5-6 transaction (0 none, 1 first record, 2 an id), bit 7: has prev
//! rm       u8       resource manager
//! txn      varint   own LSN - transaction id            (if an id)
//! prev     varint   own LSN - prev                      (if it has one)
//! blocks   u8       number of blocks, bit 7: each op is followed by a byte `whole`
//!   page   varint   zigzag of page id - page id of the block before (of 0 for the first)
//!   former varint   own LSN - former pageLSN; 0: null
//!   op     u8
//!   whole  u8       (if bit 7 of the count is set)
//!   length varint   bytes of the payload
//!   payload
//! undo              the rest
//! ```
//!
//! Positions are deltas from the record's own LSN, so a length is only known together with an LSN: `append`
//! computes it for the tail it sees and reserves by compare-and-swap.
use crate::format::Seeds;
use crate::record::{Block, BlockRef, Record, RecordKind, RecordSpec, RecordView, TxnRef, Whole};
use crate::varint;
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{Lsn, PageId, RmId, TxnId};

/// The shortest record: length, checksum, kind, manager, block count.
pub(crate) const MIN_RECORD: usize = 8;
/// No record is longer: a reader refuses a length above it before it reads or allocates.
pub(crate) const LONGEST_RECORD: usize = 16 << 20;
/// Most blocks of a record.
pub(crate) const MAX_BLOCKS: usize = 127;

const TXN_SHIFT: u8 = 5;
const HAS_PREV: u8 = 0x80;
const HAS_WHOLE: u8 = 0x80;

fn former_delta(lsn: u64, former: Lsn) -> u64 {
    if former.is_null() { 0 } else { lsn.wrapping_sub(former.0) }
}

fn page_delta(block: &Block<'_>, before: u64) -> u64 {
    varint::zigzag(block.page.0.wrapping_sub(before) as i64)
}

/// Bytes of everything but the length field.
fn body_len(spec: &RecordSpec<'_>, lsn: u64) -> usize {
    let mut n = 4 + 3 + spec.undo.len();
    if let TxnRef::Id(id) = spec.txn {
        n += varint::len(lsn.wrapping_sub(id.0));
    }
    if !spec.prev.is_null() {
        n += varint::len(lsn.wrapping_sub(spec.prev.0));
    }
    let mut before = 0;
    let mut whole = 0;
    for b in spec.blocks {
        n += varint::len(page_delta(b, before));
        n += varint::len(former_delta(lsn, b.former));
        n += 1 + varint::len(b.payload.len() as u64) + b.payload.len();
        before = b.page.0;
        whole |= usize::from(b.whole != Whole::No);
    }
    n + whole * spec.blocks.len()
}

fn with_length(body: usize) -> usize {
    // The length counts itself; one more byte of it may be needed because of that.
    let one = body + varint::len(body as u64);
    body + varint::len(one as u64)
}

/// Bytes of the record if it lies at `lsn`.
pub(crate) fn encoded_len(spec: &RecordSpec<'_>, lsn: u64) -> usize {
    with_length(body_len(spec, lsn))
}

/// The most bytes that the record takes anywhere.
pub(crate) fn bound(spec: &RecordSpec<'_>) -> usize {
    let mut n = varint::MAX_LEN + 4 + 3 + 2 * varint::MAX_LEN + spec.undo.len();
    for b in spec.blocks {
        n += 3 * varint::MAX_LEN + 2 + b.payload.len();
    }
    n
}

/// What makes a spec impossible to encode at `lsn`, if anything: references must point back in the log.
pub(crate) fn check(spec: &RecordSpec<'_>, lsn: u64) -> Result<(), &'static str> {
    if spec.blocks.len() > MAX_BLOCKS {
        return Err("a record with more than 127 blocks");
    }
    if let TxnRef::Id(id) = spec.txn
        && (id.is_none() || id.0 >= lsn)
    {
        return Err("a transaction id that is not below the record");
    }
    if spec.prev.0 >= lsn {
        return Err("a prevLSN that is not below the record");
    }
    if spec.blocks.iter().any(|b| b.former.0 >= lsn) {
        return Err("a former pageLSN that is not below the record");
    }
    Ok(())
}

/// Fills the bytes of a record from their front.
struct Out<'a> {
    bytes: &'a mut [u8],
    at: usize,
}

impl Out<'_> {
    #[inline]
    fn byte(&mut self, b: u8) {
        self.bytes[self.at] = b;
        self.at += 1;
    }
    #[inline]
    fn varint(&mut self, mut v: u64) {
        while v >= 0x80 {
            self.byte(v as u8 | 0x80);
            v >>= 7;
        }
        self.byte(v as u8);
    }
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.at..self.at + bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
    }
}

/// Encodes the record for `lsn` into `out`, which has the length that it has there ([`encoded_len`]).
///
/// # Panics
/// If `out` is too short.
pub(crate) fn encode(spec: &RecordSpec<'_>, lsn: u64, seeds: Seeds, out: &mut [u8]) {
    let len = out.len();
    let mut out = Out { bytes: out, at: 0 };
    out.varint(len as u64);
    let crc_at = out.at;
    out.put(&[0; 4]);
    let txn = match spec.txn {
        TxnRef::None => 0,
        TxnRef::First => 1,
        TxnRef::Id(_) => 2,
    };
    let prev = if spec.prev.is_null() { 0 } else { HAS_PREV };
    out.byte(spec.kind as u8 | txn << TXN_SHIFT | prev);
    out.byte(spec.rm.0);
    if let TxnRef::Id(id) = spec.txn {
        out.varint(lsn.wrapping_sub(id.0));
    }
    if !spec.prev.is_null() {
        out.varint(lsn.wrapping_sub(spec.prev.0));
    }
    let whole = spec.blocks.iter().any(|b| b.whole != Whole::No);
    out.byte(spec.blocks.len() as u8 | if whole { HAS_WHOLE } else { 0 });
    let mut before = 0;
    for b in spec.blocks {
        out.varint(page_delta(b, before));
        out.varint(former_delta(lsn, b.former));
        out.byte(b.op);
        if whole {
            out.byte(b.whole as u8);
        }
        out.varint(b.payload.len() as u64);
        out.put(b.payload);
        before = b.page.0;
    }
    out.put(spec.undo);
    assert_eq!(out.at, len, "LOG-5: a record fills what was reserved for it");
    let bytes = out.bytes;
    let crc = checksum(bytes, crc_at, lsn, seeds);
    bytes[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
}

fn checksum(bytes: &[u8], crc_at: usize, lsn: u64, seeds: Seeds) -> u32 {
    let c = crc32c::crc32c_append(seeds.record(lsn), &bytes[..crc_at]);
    crc32c::crc32c_append(c, &bytes[crc_at + 4..])
}

/// The length of the record that begins with `front` (its first 4 bytes are enough); `None` if it cannot be
/// one.
pub(crate) fn peek_len(front: &[u8]) -> Option<usize> {
    let len = varint::get(front, &mut 0)?;
    let len = usize::try_from(len).ok()?;
    (MIN_RECORD..=LONGEST_RECORD).contains(&len).then_some(len)
}

/// Decodes the record at `lsn`, given exactly its bytes. `None` if they are not a record of this log at this
/// place.
pub(crate) fn decode(bytes: Vec<u8>, lsn: u64, seeds: Seeds) -> Option<Record> {
    let view = view(&bytes, lsn, Some(seeds))?;
    let (kind, rm, txn, prev, end) = (view.kind, view.rm, view.txn, view.prev, view.end);
    let mut walk = view.walk();
    let blocks = (&mut walk).collect::<Option<Vec<_>>>()?;
    let undo = walk.at..bytes.len();
    Some(Record { lsn: Lsn(lsn), end, kind, rm, txn, prev, blocks, undo, bytes })
}

/// A look at the record at `lsn`, given exactly its bytes; its checksum is compared if `seeds` are given. `None` if they are
/// not a record of this log at this place. The blocks are not looked at.
pub(crate) fn view(bytes: &[u8], lsn: u64, seeds: Option<Seeds>) -> Option<RecordView<'_>> {
    let mut at = 0;
    if varint::get(bytes, &mut at)? != bytes.len() as u64 || bytes.len() < MIN_RECORD {
        return None;
    }
    let crc_at = at;
    let crc = take(bytes, &mut at, 4)?;
    if let Some(seeds) = seeds {
        let sound = checksum(bytes, crc_at, lsn, seeds).to_le_bytes() == bytes[crc];
        if !sound && !mutants::is(Mutant::TornTailAccepted) {
            return None;
        }
    }
    // The bytes are what was written. What follows cannot fail on them, but a forged record must not hurt
    // either.
    let flags = *bytes.get(at)?;
    at += 1;
    let kind = RecordKind::from_number(flags & 0x1f)?;
    let rm = RmId(*bytes.get(at)?);
    at += 1;
    let txn = match flags >> TXN_SHIFT & 3 {
        0 => TxnId::NONE,
        1 => TxnId(lsn),
        2 => TxnId(back(lsn, varint::get(bytes, &mut at)?)?),
        _ => return None,
    };
    let prev = if flags & HAS_PREV != 0 { Lsn(back(lsn, varint::get(bytes, &mut at)?)?) } else { Lsn::NULL };
    let count = *bytes.get(at)?;
    at += 1;
    let end = Lsn(lsn.checked_add(bytes.len() as u64)?);
    Some(RecordView { lsn: Lsn(lsn), end, kind, rm, txn, prev, bytes, blocks: (at, count) })
}

fn back(lsn: u64, delta: u64) -> Option<u64> {
    lsn.checked_sub(delta).filter(|l| *l != 0 && delta != 0)
}

/// A walk over the blocks of a record; `None` for one that is none, and then the end.
pub(crate) struct Walk<'a> {
    bytes: &'a [u8],
    lsn: u64,
    /// Where it stands: behind the last block, when it has ended.
    pub(crate) at: usize,
    left: u8,
    has_whole: bool,
    before: u64,
}

impl<'a> Walk<'a> {
    /// Over the blocks that begin at `at`; `count` is their number as the record has it.
    pub(crate) fn new(bytes: &'a [u8], lsn: u64, (at, count): (usize, u8)) -> Walk<'a> {
        Walk { bytes, lsn, at, left: count & !HAS_WHOLE, has_whole: count & HAS_WHOLE != 0, before: 0 }
    }
    fn step(&mut self) -> Option<BlockRef> {
        let (bytes, at) = (self.bytes, &mut self.at);
        let page = self.before.wrapping_add(varint::unzigzag(varint::get(bytes, at)?) as u64);
        let former = match varint::get(bytes, at)? {
            0 => Lsn::NULL,
            delta => Lsn(back(self.lsn, delta)?),
        };
        let op = *bytes.get(*at)?;
        *at += 1;
        let whole = if self.has_whole {
            *at += 1;
            Whole::from_number(*bytes.get(*at - 1)?)?
        } else {
            Whole::No
        };
        let len = usize::try_from(varint::get(bytes, at)?).ok()?;
        let payload = take(bytes, at, len)?;
        self.before = page;
        Some(BlockRef { page: PageId(page), former, op, whole, payload })
    }
}

impl Iterator for Walk<'_> {
    type Item = Option<BlockRef>;
    fn next(&mut self) -> Option<Option<BlockRef>> {
        self.left = self.left.checked_sub(1)?;
        let block = self.step();
        if block.is_none() {
            self.left = 0;
        }
        Some(block)
    }
}

fn take(bytes: &[u8], at: &mut usize, len: usize) -> Option<std::ops::Range<usize>> {
    let end = at.checked_add(len).filter(|e| *e <= bytes.len())?;
    let range = *at..end;
    *at = end;
    Some(range)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LogIdentity;
    use hamal_page::DbId;
    use proptest::prelude::*;

    fn seeds() -> Seeds {
        Seeds::new(LogIdentity { db: DbId([1; 16]), timeline: 0 })
    }

    /// Page, former pageLSN, op, whole, payload.
    type AnyBlock = (u64, u64, u8, u8, Vec<u8>);

    #[derive(Clone, Debug)]
    struct Any {
        lsn: u64,
        kind: u8,
        rm: u8,
        txn: Option<Option<u64>>,
        prev: u64,
        blocks: Vec<AnyBlock>,
        undo: Vec<u8>,
    }

    fn below(lsn: u64, x: u64) -> u64 {
        // Mostly near, as in real logs; sometimes far; sometimes null.
        match x % 4 {
            0 => 0,
            1 => x % lsn,
            _ => lsn - 1 - (x >> 8) % lsn.min(5000),
        }
    }

    fn any_record() -> impl Strategy<Value = Any> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..200);
        let page = prop_oneof![any::<u64>(), 0..1000u64];
        let block = (page, any::<u64>(), any::<u8>(), 0..4u8, bytes());
        let lsn = prop_oneof![4096..100_000u64, 1..u64::MAX / 2];
        (
            lsn,
            1..13u8,
            any::<u8>(),
            any::<Option<Option<u64>>>(),
            any::<u64>(),
            prop::collection::vec(block, 0..4),
            bytes(),
        )
            .prop_map(|(lsn, kind, rm, txn, prev, blocks, undo)| Any {
                lsn,
                kind,
                rm,
                txn: txn.map(|t| t.map(|t| below(lsn, t).max(1).min(lsn - 1)).filter(|t| *t != 0)),
                prev: below(lsn, prev),
                blocks: blocks.into_iter().map(|(p, f, o, w, b)| (p, below(lsn, f), o, w, b)).collect(),
                undo,
            })
    }

    fn with_spec<R>(a: &Any, f: impl FnOnce(&RecordSpec<'_>) -> R) -> R {
        let blocks: Vec<Block<'_>> = a
            .blocks
            .iter()
            .map(|(page, former, op, whole, payload)| Block {
                page: PageId(*page),
                former: Lsn(*former),
                op: *op,
                whole: Whole::from_number(*whole).unwrap(),
                payload,
            })
            .collect();
        f(&RecordSpec {
            kind: RecordKind::from_number(a.kind).unwrap(),
            rm: RmId(a.rm),
            txn: match a.txn {
                None => TxnRef::None,
                Some(None) => TxnRef::First,
                Some(Some(id)) => TxnRef::Id(TxnId(id)),
            },
            prev: Lsn(a.prev),
            blocks: &blocks,
            undo: &a.undo,
        })
    }

    fn bytes_of(a: &Any) -> Vec<u8> {
        with_spec(a, |spec| {
            assert_eq!(check(spec, a.lsn), Ok(()));
            let mut out = vec![0xAA; encoded_len(spec, a.lsn)];
            encode(spec, a.lsn, seeds(), &mut out);
            assert!(out.len() <= bound(spec) && out.len() >= MIN_RECORD && out[0] != 0);
            assert_eq!(peek_len(&out[..4]), Some(out.len()));
            out
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn round_trip(a in any_record()) {
            let r = decode(bytes_of(&a), a.lsn, seeds()).unwrap();
            prop_assert_eq!((r.lsn.0, r.kind as u8, r.rm.0, r.prev.0), (a.lsn, a.kind, a.rm, a.prev));
            prop_assert_eq!(r.txn.0, a.txn.map_or(0, |t| t.unwrap_or(a.lsn)));
            prop_assert_eq!(r.undo(), &a.undo[..]);
            prop_assert_eq!(r.blocks.len(), a.blocks.len());
            for (i, (page, former, op, whole, payload)) in a.blocks.iter().enumerate() {
                let b = &r.blocks[i];
                prop_assert_eq!((b.page.0, b.former.0, b.op, b.whole as u8), (*page, *former, *op, *whole));
                prop_assert_eq!(r.payload(i), &payload[..]);
            }
        }

        #[test]
        fn truncations_flips_and_other_places_are_refused(a in any_record()) {
            let bytes = bytes_of(&a);
            for cut in 0..bytes.len() {
                prop_assert!(decode(bytes[..cut].to_vec(), a.lsn, seeds()).is_none());
            }
            for bit in 0..bytes.len() * 8 {
                let mut b = bytes.clone();
                b[bit / 8] ^= 1 << (bit % 8);
                prop_assert!(decode(b, a.lsn, seeds()).is_none());
            }
            prop_assert!(decode(bytes.clone(), a.lsn + 1, seeds()).is_none());
            let other = Seeds::new(LogIdentity { db: DbId([2; 16]), timeline: 0 });
            prop_assert!(decode(bytes, a.lsn, other).is_none());
        }

        /// Forged bytes with a right checksum: never a panic, and what is accepted stays inside the record.
        #[test]
        fn hostile_bytes_with_a_valid_checksum(
            a in any_record(),
            edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        ) {
            let mut b = bytes_of(&a);
            let crc_at = varint::len(b.len() as u64);
            for (i, v) in edits {
                let i = i.index(b.len());
                if i >= crc_at + 4 {
                    b[i] = v;
                }
            }
            let crc = checksum(&b, crc_at, a.lsn, seeds());
            b[crc_at..crc_at + 4].copy_from_slice(&crc.to_le_bytes());
            if let Some(r) = decode(b, a.lsn, seeds()) {
                for i in 0..r.blocks.len() {
                    let _ = r.payload(i);
                }
                let _ = r.undo();
                prop_assert!(r.prev < r.lsn && r.txn.0 <= r.lsn.0);
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(b in prop::collection::vec(any::<u8>(), 0..100), lsn in any::<u64>()) {
            let _ = peek_len(&b);
            prop_assert!(decode(b, lsn, seeds()).is_none());
        }
    }

    /// A reference of no distance would be one to the record itself, and one to LSN 0 to nothing.
    #[test]
    fn references_that_do_not_point_back_are_refused() {
        let lsn = 9000u64;
        let with_delta = |delta: u64| {
            // As `encode` writes it: a transaction's id and prevLSN, no blocks.
            let mut b = vec![0, 0, 0, 0, 0, 4 | 2 << TXN_SHIFT | HAS_PREV, 0];
            varint::put(&mut b, delta);
            varint::put(&mut b, delta);
            b.push(0);
            b[0] = b.len() as u8;
            let crc = checksum(&b, 1, lsn, seeds());
            b[1..5].copy_from_slice(&crc.to_le_bytes());
            decode(b, lsn, seeds())
        };
        for delta in [1, 4000, lsn - 1] {
            let r = with_delta(delta).unwrap();
            assert_eq!((r.prev.0, r.txn.0), (lsn - delta, lsn - delta));
        }
        for delta in [0, lsn, lsn + 1, u64::MAX] {
            assert!(with_delta(delta).is_none(), "{delta}");
        }
    }

    #[test]
    fn the_bound_holds_where_every_delta_is_long() {
        let lsn = u64::MAX / 2 - 1;
        for count in [0, 1, 2, 50, MAX_BLOCKS] {
            let payload = [7; 200];
            let blocks: Vec<Block<'_>> = (0..count)
                .map(|i| Block {
                    page: PageId(if i % 2 == 0 { 1 << 63 } else { 3 }),
                    former: Lsn(1),
                    op: 1,
                    whole: Whole::Image,
                    payload: &payload[..if count == MAX_BLOCKS { 0 } else { 200 }],
                })
                .collect();
            let spec = RecordSpec {
                kind: RecordKind::Update,
                rm: RmId(1),
                txn: TxnRef::Id(TxnId(1)),
                prev: Lsn(1),
                blocks: &blocks,
                undo: &[],
            };
            assert_eq!(check(&spec, lsn), Ok(()));
            let mut out = vec![0; encoded_len(&spec, lsn)];
            encode(&spec, lsn, seeds(), &mut out);
            assert!(out.len() <= bound(&spec), "{count}: {} > {}", out.len(), bound(&spec));
            assert!(bound(&spec) <= 64 + count * 240);
        }
    }

    #[test]
    fn hostile_lengths() {
        for len in [0, 1, 7, LONGEST_RECORD as u64 + 1, u64::MAX] {
            let mut b = Vec::new();
            varint::put(&mut b, len);
            b.resize(b.len().max(4), 0);
            assert_eq!(peek_len(&b), None, "{len}");
        }
        assert_eq!(peek_len(&[]), None);
        assert_eq!(peek_len(&[0xff; 4]), None);
    }

    #[test]
    fn lengths_around_the_size_of_their_own_field() {
        for n in (100..140).chain(16360..16400) {
            let a =
                Any { lsn: 9000, kind: 5, rm: 0, txn: Some(None), prev: 0, blocks: vec![], undo: vec![3; n] };
            assert_eq!(decode(bytes_of(&a), 9000, seeds()).unwrap().undo().len(), n);
        }
    }
}
