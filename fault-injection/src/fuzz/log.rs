//! Any bytes as groups of log records behind valid headers, with checksums and seals made right.
use super::Input;
use super::fixup::{SECTOR, Space, segment_header, u64_at, varint};
use super::patient::{Files, Patient, typed, work_with};
use crate::engines::hamal::DATABASE_ID;
use crate::engines::pages::Pages;
use crate::oracles::formats::{self, HEADER, Judge};
use crate::run::Newest;
use crate::sim::{Image, Persistence, SimDisk};
use hamal::disk::Disk;
use hamal::inspect::{Control, Inspect};
use hamal::log::{LogEnd, Record, Verdict, Whole};
use hamal::{DbId, Lsn, PageId};
use hamal_checkpoint::ControlFile;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The first LSN of a log.
const FIRST: u64 = 4096;

/// Half of the inputs are a log of their own: the engine's and the harness's readers must find the same end, verdict and records
/// in it, and every record is described. The others are records at the end of a real database's log: it is
/// recovered with them, and worked with.
pub fn log(data: &[u8]) {
    let mut input = Input::new(data);
    let how = input.u8();
    if how & 1 == 0 { own(input, how) } else { continued(input, how) }
}

// ---- a log of its own ----

fn own(mut input: Input<'_>, how: u8) {
    let mut space = Space::new(FIRST, DATABASE_ID, 1, Some(0));
    let lengths: Vec<usize> = (0..2 + usize::from(how >> 6)).map(|_| 4096 * (1 + input.below(3))).collect();
    space.bytes.resize(lengths.iter().sum(), 0);
    let proven = if how & 2 != 0 { FIRST + SECTOR * u64::from(input.u8()) } else { FIRST };
    if how & 4 != 0 {
        // The bytes as they are, and the seals that happen to be in them made right.
        let rest = input.rest();
        let n = rest.len().min(space.bytes.len());
        space.bytes[..n].copy_from_slice(&rest[..n]);
        space.fix();
    } else {
        groups(&mut input, &mut space, FIRST, 0, how, &mut BTreeMap::new());
    }
    let mut image = image_with_control(proven);
    let mut at = 0;
    for len in lengths {
        let first = FIRST + at as u64;
        let before = if at == 0 { 0 } else { 1 };
        let mut file = segment_header(&DATABASE_ID, 1, first, HEADER + len as u64, before);
        file.extend_from_slice(&space.bytes[at..at + len]);
        image = image.with_file(&format!("wal/{first:016x}"), &file);
        at += len;
    }
    readers_agree(&image);
}

fn image_with_control(proven: u64) -> Image {
    let disk = SimDisk::new(Persistence::Posix);
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let control = Control {
        sequence: 1,
        db: DbId(DATABASE_ID),
        timeline: 1,
        page_size: 4096,
        reserved_per_page: 0,
        checkpoint_begin: Lsn(FIRST),
        checkpoint_end: Lsn(proven.max(FIRST)),
        redo: Lsn(FIRST),
        keep_from: Lsn(FIRST),
        data_pages: 3,
        witness_page: PageId(0),
        witness_lsn: Lsn::NULL,
        versions: 0,
        managers: Vec::new(),
    };
    ControlFile::create(&shared, control).unwrap_or_else(|e| panic!("{e:?}"));
    disk.kept()
}

fn readers_agree(image: &Image) {
    let disk: Arc<dyn Disk> = Arc::new(SimDisk::boot(image, Box::new(Newest)));
    let ours = formats::control(&disk)
        .and_then(|c| c.ok_or_else(|| formats::damage("there is no control file")))
        .and_then(|c| formats::Log::open(&disk, &c, Judge::Verdict));
    let inspect = Inspect::open_on(disk).unwrap_or_else(|e| panic!("{e:?}")).with_manager(Pages::manager());
    match (inspect.log_end(), ours) {
        (Ok(end), Ok(ours)) => {
            assert_eq!(end.end.0, ours.end, "where the log ends");
            let records = read_all(&inspect, &end).unwrap_or_else(|e| panic!("below the end: {e:?}"));
            assert_eq!(records.len(), ours.records.len(), "number of records");
            for (r, o) in records.iter().zip(&ours.records) {
                same(r, &ours, o);
            }
            // Who reads beside a writer (LOG-10) meets the same, and waits at the same place.
            let followed = follow(&inspect).unwrap_or_else(|e| panic!("beside a writer: {e:?}"));
            assert!(followed == records, "{} records are met beside a writer", followed.len());
        }
        (Err(e), Err(_)) => {
            typed(&e);
            assert!(e.is_corruption(), "{e:?}");
            let _ = follow(&inspect).inspect_err(typed);
            // As `waldump` does: what lies before the damage is read.
            if let Some(end) = e.lsn() {
                let oldest = inspect.control().keep_from;
                let end = LogEnd {
                    end: end.max(oldest),
                    last_seal: 0,
                    verdict: Verdict::Clean,
                    oldest,
                    keep_from: oldest,
                };
                let _ = read_all(&inspect, &end).inspect_err(typed);
            }
        }
        // A group that is whole, with something in it that is no record: met when the records are read.
        (Ok(end), Err(f)) => match read_all(&inspect, &end) {
            Ok(_) => panic!("the engine reads all up to {}, the harness: {f}", end.end),
            Err(e) => {
                typed(&e);
                assert!(e.is_corruption(), "{e:?}, the harness: {f}");
            }
        },
        (Err(e), Ok(ours)) => panic!("the harness finds the end at {}, the engine: {e:?}", ours.end),
    }
}

fn read_all(inspect: &Inspect, end: &LogEnd) -> hamal::Result<Vec<Record>> {
    let mut reader = inspect.reader(end)?;
    let (mut at, mut records) = (inspect.control().keep_from, Vec::new());
    while let Some(r) = reader.read(at)? {
        assert!(r.lsn >= at && r.end > r.lsn, "reading goes back: {} to {}", r.lsn, r.end);
        at = r.end;
        let text = inspect.describe(&r);
        assert!(text.len() < 1000 + 100 * r.len(), "{} bytes are described by {}", r.len(), text.len());
        // As `waldump --slot` and `--key` ask.
        let asked = r.blocks.first().map_or(PageId(7), |b| b.page);
        let named = inspect.names_slot(&r, asked, 3);
        assert!(!named || r.blocks.iter().any(|b| b.page == asked), "a page that the record does not name");
        let long = vec![0xee; r.len()];
        assert!(!inspect.names_key(&r, &long), "a key that is as long as its record");
        records.push(r);
    }
    Ok(records)
}

/// What there is to follow.
fn follow(inspect: &Inspect) -> hamal::Result<Vec<Record>> {
    let mut follower = inspect.follow(inspect.control().keep_from)?;
    let mut records = Vec::new();
    while let Some(r) = follower.next_record()? {
        assert!(r.end <= follower.position(), "a record beyond the place that was read to");
        records.push(r);
    }
    Ok(records)
}

fn same(r: &Record, log: &formats::Log, o: &formats::Record) {
    assert_eq!(
        (r.lsn.0, r.kind as u8, r.rm.0, r.txn.0, r.prev.0),
        (o.lsn, o.kind, o.rm, o.txn, o.prev),
        "LSN, kind, manager, transaction, prev"
    );
    assert_eq!(r.undo(), log.slice(&o.undo));
    let blocks = log.blocks_of(o);
    assert_eq!(r.blocks.len(), blocks.len(), "blocks of {}", o.lsn);
    for (i, (b, o)) in r.blocks.iter().zip(blocks).enumerate() {
        let whole = match o.whole {
            formats::Whole::No => Whole::No,
            formats::Whole::Image => Whole::Image,
            formats::Whole::Init => Whole::Init,
            formats::Whole::Free => Whole::Free,
        };
        assert_eq!((b.page.0, b.former.0, b.op, b.whole), (o.page, o.former, o.op, whole));
        assert_eq!(r.payload(i), log.slice(&o.payload));
    }
}

// ---- records at the end of a real log ----

fn continued(mut input: Input<'_>, how: u8) {
    let patient = Patient::pick(how >> 6);
    let mut files = patient.files.clone();
    let Some(mut space) = Space::of(&files) else { return };
    let Some((end, before)) = space.last() else { return };
    let mut lsns = page_lsns(&files, patient.config.page_size as usize);
    groups(&mut input, &mut space, end, before, how, &mut lsns);
    space.store(&mut files);
    work_with(patient, &patient.with(&files), 1);
}

/// The pageLSN of each page with something in it.
fn page_lsns(files: &Files, size: usize) -> BTreeMap<u64, u64> {
    let pages = files.get("data").map(|d| d.chunks_exact(size)).into_iter().flatten();
    (0..).zip(pages).map(|(i, p)| (i, u64_at(p, 16))).filter(|(_, lsn)| *lsn != 0).collect()
}

// ---- groups of records ----

/// Groups at `at`, whose predecessor's seal has the checksum `before`. Some are not closed, or closed wrongly.
fn groups(
    input: &mut Input<'_>,
    space: &mut Space,
    mut at: u64,
    mut before: u32,
    how: u8,
    lsns: &mut BTreeMap<u64, u64>,
) {
    let pad = if how & 8 != 0 { 4096 } else { SECTOR };
    // The transactions' first and last LSNs so far.
    let mut txns: Vec<(u64, u64)> = Vec::new();
    while !input.is_empty() {
        let start = at;
        let what = input.u8();
        for _ in 0..1 + what % 8 {
            if input.is_empty() {
                break;
            }
            let body = match input.u8() {
                n if n < 16 => {
                    let n = usize::from(input.u8());
                    input.bytes(n).to_vec()
                }
                n => body(input, at, n, &mut txns, lsns),
            };
            match space.record(at, &body) {
                Some(end) => at = end,
                None => return,
            }
        }
        match what >> 3 {
            // Not closed: the tail.
            0 => return,
            // Names another start, or another seal before.
            1 => drop(space.close(start.saturating_sub(SECTOR), at, before, pad)),
            2 => drop(space.close(start, at, before ^ 1, pad)),
            // Damaged.
            3 => {
                let n = input.u16();
                let Some((end, seal)) = space.close(start, at, before, pad) else { return };
                let place = start + u64::from(n) % (end - start);
                space.bytes[(place - space.base) as usize] ^= 1 + input.u8() % 255;
                (at, before) = (end, seal);
            }
            // Left out: the next group lies behind a gap.
            4 => at = (at + SECTOR).next_multiple_of(SECTOR),
            _ => match space.close(start, at, before, pad) {
                Some(next) => (at, before) = next,
                None => return,
            },
        }
        at = at.next_multiple_of(SECTOR);
    }
}

/// The body of a record: kind, manager, transaction and pages as the input says, mostly such that they fit each other.
fn body(
    input: &mut Input<'_>,
    lsn: u64,
    what: u8,
    txns: &mut Vec<(u64, u64)>,
    lsns: &mut BTreeMap<u64, u64>,
) -> Vec<u8> {
    let mut b = Vec::new();
    let kind = [1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 2, 13][usize::from(what & 15)];
    let rm = [2, 2, 2, 1, 16, 0, 17, 2][input.below(8)];
    let with = input.u8();
    let mut back = Vec::new();
    let mut flags = kind;
    match with % 4 {
        // Redo-only.
        0 => {}
        1 => {
            flags |= 1 << 5;
            txns.push((lsn, lsn));
        }
        _ if !txns.is_empty() => {
            let n = input.below(txns.len());
            let (first, last) = &mut txns[n];
            flags |= 2 << 5 | 0x80;
            varint(&mut back, lsn - *first);
            // The one before, or (of compensation records) any.
            let prev = if with & 16 != 0 { input.number(lsn - *last) } else { lsn - *last };
            varint(&mut back, prev);
            *last = lsn;
        }
        _ => {
            flags |= 2 << 5;
            varint(&mut back, input.number(512));
        }
    }
    b.extend([flags, rm]);
    b.append(&mut back);
    let count = input.u8() % 4;
    b.push(count | 0x80);
    let mut last = 0u64;
    for _ in 0..count {
        let how = input.u8();
        let page = if how & 1 == 0 { u64::from(how >> 4) } else { input.number(8) };
        let distance = page.wrapping_sub(last);
        varint(&mut b, (distance << 1) ^ 0u64.wrapping_sub(distance >> 63));
        last = page;
        let former = match lsns.get(&page) {
            Some(at) if how & 2 == 0 => lsn - at.min(&lsn),
            _ if how & 4 == 0 => 0,
            _ => input.number(600),
        };
        varint(&mut b, former);
        let op = input.u8();
        b.push(if op < 200 { op % 20 } else { op });
        let whole = if how & 8 == 0 { 0 } else { input.u8() % 5 };
        b.push(whole);
        let mut payload = Vec::new();
        if whole == 2 {
            // A new page begins with manager, kind and tree.
            payload.extend([rm, input.u8() % 5, input.u8(), 0, 0, 0]);
        }
        let n = usize::from(input.u8() % 80);
        payload.extend_from_slice(input.bytes(n));
        varint(&mut b, payload.len() as u64);
        b.append(&mut payload);
        lsns.insert(page, lsn);
    }
    if with & 32 != 0 {
        // Undo bytes begin with a tree and its root.
        varint(&mut b, u64::from(input.u8() % 20));
        varint(&mut b, u64::from(input.u8() % 24));
    }
    let n = usize::from(input.u8() % 60);
    b.extend_from_slice(input.bytes(n));
    b
}
