//! The exact verdict (what is a torn tail, what is corruption) and crash enumeration.
mod common;
use common::*;
use hamal_disk::{CrashModel, Disk, MemDisk, MemFault, MemOp};
use hamal_error::{ErrorKind, Poison};
use hamal_log::*;
use hamal_page::Lsn;
use hamal_trace::{ForceReason, Trace};
use std::sync::Arc;

/// A log of `n` groups with three records each.
fn groups(n: usize) -> (MemDisk, LogOptions, Vec<Vec<Appended>>) {
    let d = disk();
    let o = small();
    let log = create(&d, &o);
    let all = (0..n)
        .map(|i| {
            let g: Vec<_> = (0..3).map(|k| append(&log, &[i as u8 + k; 300])).collect();
            log.force(g[2].end, ForceReason::Commit).unwrap();
            g
        })
        .collect();
    (d, o, all)
}

fn copy(d: &MemDisk) -> MemDisk {
    d.crash(CrashModel::KeepAll)
}

/// Two groups acknowledged, a bit flips in the first: no commit record proves anything, the second seal does.
#[test]
fn damage_before_a_later_seal_is_corruption() {
    let (d, o, g) = groups(5);
    for (i, group) in g.iter().enumerate() {
        for lsn in group[0].lsn.0..group[2].end.0 {
            if lsn % 97 != 0 {
                continue;
            }
            let d = copy(&d);
            flip(&d, &o, Lsn(lsn));
            match end(&d, &o) {
                Err(e) => {
                    assert!(i < 4, "{e}");
                    assert_eq!(e.kind(), ErrorKind::LogCorrupt);
                    assert_eq!(e.lsn(), Some(group[0].lsn));
                    let (file, offset) = place(&o, group[0].lsn);
                    assert_eq!((e.file(), e.offset()), (Some(file.as_str()), Some(offset)));
                }
                Ok(e) => {
                    assert_eq!(i, 4, "only the last group cannot be proved");
                    assert!(matches!(e.verdict, Verdict::TornTail { bytes } if bytes > 0));
                    assert_eq!(e.end, group[0].lsn);
                }
            }
            // The control file's proof covers the last group too.
            let e = find_end(&dynamic(&d), &o, ID, Log::FIRST, g[4][2].end).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::LogCorrupt);
        }
    }
}

/// Copies `[from, to)` of the log over what begins at `at`, and writes zeros where it was.
fn displace(d: &MemDisk, o: &LogOptions, (from, to): (Lsn, Lsn), at: Lsn, keep: bool) {
    let (name, offset) = place(o, from);
    let f = d.open(&name, Default::default()).unwrap();
    let mut bytes = vec![0; (to.0 - from.0) as usize];
    assert_eq!(f.read_at(offset, &mut bytes).unwrap(), bytes.len());
    if !keep {
        f.write_at(offset, &vec![0; bytes.len()]).unwrap();
    }
    let (other, offset) = place(o, at);
    assert_eq!(other, name);
    f.write_at(offset, &bytes).unwrap();
    f.sync().unwrap();
}

/// A device puts the last group over the one before: its seal does not belong there, and proves all the same that there was a
/// group.
#[test]
fn the_last_group_written_over_the_one_before_is_corruption() {
    let (d, o, g) = groups(5);
    let log_end = end(&d, &o).unwrap().end;
    for last in 1..5 {
        let d = copy(&d);
        let to = if last == 4 { log_end } else { g[last + 1][0].lsn };
        // The groups behind it were never written.
        let (name, offset) = place(&o, to);
        let f = d.open(&name, Default::default()).unwrap();
        f.write_at(offset, &vec![0; (log_end.0 - to.0) as usize]).unwrap();
        f.sync().unwrap();
        displace(&d, &o, (g[last][0].lsn, to), g[last - 1][0].lsn, false);
        let e = end(&d, &o).unwrap_err();
        assert_eq!((e.kind(), e.lsn()), (ErrorKind::LogCorrupt, Some(g[last - 1][0].lsn)), "{e}");
        assert!(e.to_string().contains("belongs to"), "{e}");
    }
}

/// A seal of an older group that lies behind the end, as in a file that is used again, proves nothing.
#[test]
fn an_older_group_behind_the_end_is_no_damage() {
    let (d, o, g) = groups(5);
    let sound = end(&d, &o).unwrap();
    for i in 0..4 {
        let d = copy(&d);
        displace(&d, &o, (g[i][0].lsn, g[i + 1][0].lsn), sound.end, true);
        let found = end(&d, &o).unwrap();
        assert_eq!((found.end, found.last_seal), (sound.end, sound.last_seal));
    }
}

#[test]
fn damage_of_every_seal_byte() {
    let (d, o, g) = groups(3);
    let seal_end = |i: usize| if i + 1 < 3 { g[i + 1][0].lsn.0 } else { end(&d, &o).unwrap().end.0 };
    for i in 0..3 {
        for lsn in seal_end(i) - 48..seal_end(i) {
            let d = copy(&d);
            flip(&d, &o, Lsn(lsn));
            let found = end(&d, &o);
            assert_eq!(found.is_ok(), i == 2);
            if let Ok(e) = found {
                assert_eq!(e.end, g[2][0].lsn);
            }
        }
    }
}

/// A group across two segments whose first one was released: its checksum cannot be taken any more, and its padding is believed, as its
/// records are by their own checksums.
#[test]
fn padding_of_a_group_whose_front_was_released() {
    let (d, o) = (disk(), small());
    let log = create(&d, &o);
    let border = Log::FIRST.0 + o.segment_bytes - 4096;
    // Groups of some size up to the border, and one across it.
    while log.tail().0 + 12_000 < border {
        let a = append(&log, &[1; 3000]);
        log.force(a.end, ForceReason::Commit).unwrap();
    }
    let across: Vec<_> = (0..8).map(|k| append(&log, &[k; 3000])).collect();
    let front = across[0].lsn;
    log.force(across[7].end, ForceReason::Commit).unwrap();
    let after = append(&log, b"after");
    log.force(after.end, ForceReason::Commit).unwrap();
    let from = across.iter().find(|a| a.lsn.0 >= border).expect("it crosses the border").lsn;
    assert!(front.0 < border && from < across[7].lsn);
    log.truncate(from).unwrap();
    assert!(log.oldest() > front);
    let e = find_end(&dynamic(&d), &o, ID, from, after.end).unwrap();
    let mut reader = LogReader::open(&dynamic(&d), ID, &e).unwrap();
    let (mut at, mut last) = (from, Lsn::NULL);
    while let Some(record) = reader.read(at).unwrap() {
        (at, last) = (record.end, record.lsn);
    }
    assert_eq!(last, after.lsn);
}

/// A reader that starts below the place from where the end was sought: a damaged seal there must not hide the group behind
/// it (once the next group's seal was taken for it).
#[test]
fn a_damaged_seal_does_not_hide_the_next_group() {
    let (d, o, g) = groups(4);
    let sound = end(&d, &o).unwrap();
    for i in 0..3 {
        for lsn in g[i + 1][0].lsn.0 - 48..g[i + 1][0].lsn.0 {
            let d = copy(&d);
            flip(&d, &o, Lsn(lsn));
            let mut r = LogReader::open(&dynamic(&d), ID, &sound).unwrap();
            let (mut at, mut seen) = (g[0][0].lsn, 0);
            let read = loop {
                match r.read(at) {
                    Ok(Some(record)) => (at, seen) = (record.end, seen + 1),
                    other => break other,
                }
            };
            // A zero that was a zero before the seal is padding; every byte of the seal matters.
            match read {
                Err(e) => assert_eq!((e.kind(), seen), (ErrorKind::LogCorrupt, 3 * (i + 1))),
                Ok(end) => {
                    assert_eq!((end.is_none(), seen), (true, 12), "LSN {lsn}: records were passed over")
                }
            }
        }
    }
}

/// A reader that starts below the place from where the end was sought, and zeros that begin where a record must: they are no padding,
/// whatever the place of the seal, and nothing behind them is passed over. (Once the rest of the group was.) Zeros are padding where the records
/// end, and then bytes in it that are not zero do no harm.
#[test]
fn zeros_do_not_pass_for_padding() {
    for pad in [512, 1024, 4096] {
        let d = disk();
        let o = LogOptions { pad, ..small() };
        let log = create(&d, &o);
        let g: Vec<Vec<_>> = (0..4)
            .map(|i| {
                let g: Vec<_> = (0..3).map(|k| append(&log, &[i + k; 300])).collect();
                log.force(g[2].end, ForceReason::Commit).unwrap();
                g
            })
            .collect();
        let sound = end(&d, &o).unwrap();
        let change = |from: Lsn, to: Lsn, byte: u8| {
            let d = copy(&d);
            let (name, offset) = place(&o, from);
            let f = d.open(&name, Default::default()).unwrap();
            f.write_at(offset, &vec![byte; (to.0 - from.0) as usize]).unwrap();
            f.sync().unwrap();
            d
        };
        let read = |d: &MemDisk, from: Lsn| {
            let mut r = LogReader::open(&dynamic(d), ID, &sound).unwrap();
            let (mut at, mut seen) = (from, 0);
            loop {
                match r.read(at) {
                    Ok(Some(record)) => (at, seen) = (record.end, seen + 1),
                    Ok(None) => break (seen, None),
                    Err(e) => break (seen, Some((e.kind(), e.lsn()))),
                }
            }
        };
        for i in 0..3 {
            for k in 0..3 {
                // From a record to the end of the group's records, to the end of the record, and its first byte alone.
                for to in [g[i][2].end, g[i][k].end, Lsn(g[i][k].lsn.0 + 1)] {
                    let d = change(g[i][k].lsn, to, 0);
                    let corrupt = Some((ErrorKind::LogCorrupt, Some(g[i][k].lsn)));
                    assert_eq!(
                        read(&d, g[0][0].lsn),
                        (3 * i + k, corrupt),
                        "pad {pad}, group {i}, record {k}"
                    );
                    // From within the group too.
                    assert_eq!(read(&d, g[i][0].lsn).0, k);
                    let reopened = open(&d, &o, &sound);
                    let scanned = reopened.scan(|_| {}).unwrap_err();
                    assert_eq!((scanned.kind(), scanned.lsn()), (ErrorKind::LogCorrupt, Some(g[i][k].lsn)));
                }
            }
            // The seal's magic begins the last 48 bytes or fewer of the group's last sector.
            let padding = Lsn(g[i][2].end.0 + 1);
            let d = change(padding, Lsn(padding.0 + 3), 7);
            assert_eq!(read(&d, g[0][0].lsn), (12, None), "pad {pad}");
        }
    }
}

/// Where the log was known to be durable up to the starting point, a damaged group there is no torn tail.
#[test]
fn damage_of_the_group_that_holds_the_starting_point() {
    let (d, o, g) = groups(1);
    let inside = g[0][1].lsn;
    assert!(find_end(&dynamic(&d), &o, ID, inside, Lsn::NULL).is_ok());
    flip(&d, &o, Lsn(g[0][2].lsn.0 + 100));
    let e = find_end(&dynamic(&d), &o, ID, inside, Lsn::NULL).unwrap_err();
    assert_eq!((e.kind(), e.lsn()), (ErrorKind::LogCorrupt, Some(inside)));
}

#[test]
fn a_missing_or_cut_segment_is_corruption() {
    let d = disk();
    let o = small();
    let log = create(&d, &o);
    let mut last = Log::FIRST;
    for i in 0..200u32 {
        last = append(&log, &[i as u8; 900]).end;
        log.force(last, ForceReason::Commit).unwrap();
    }
    let segments = {
        let mut n: Vec<String> = d.list("wal").unwrap();
        n.sort();
        n
    };
    assert!(segments.len() >= 4);
    drop(log);
    assert!(end(&d, &o).is_ok());
    let (tail_file, _) = place(&o, last);
    let tail = segments.iter().position(|s| tail_file.ends_with(s.as_str())).unwrap();
    // Missing from some segment on (the newest ones lost), and each one alone.
    for i in 0..segments.len() {
        let d = copy(&d);
        for s in &segments[i..] {
            d.remove(&format!("wal/{s}")).unwrap();
        }
        let found = end(&d, &o);
        assert_eq!(found.is_err(), i <= tail + 1, "from {i} on, tail in {tail}");
        if let Err(e) = found {
            assert_eq!(e.kind(), ErrorKind::LogCorrupt);
            assert!(e.file().is_some());
        }
    }
    for (i, s) in segments.iter().enumerate().take(segments.len() - 1) {
        let c = copy(&d);
        c.remove(&format!("wal/{s}")).unwrap();
        assert_eq!(end(&c, &o).unwrap_err().kind(), ErrorKind::LogCorrupt, "without {i}");
        let c = copy(&d);
        let f = c.open(&format!("wal/{s}"), Default::default()).unwrap();
        f.set_len(o.segment_bytes - 512).unwrap();
        assert_eq!(end(&c, &o).unwrap_err().kind(), ErrorKind::LogCorrupt, "cut {i}");
        let c = copy(&d);
        let f = c.open(&format!("wal/{s}"), Default::default()).unwrap();
        f.write_at(33, &[1]).unwrap();
        assert_eq!(end(&c, &o).unwrap_err().kind(), ErrorKind::LogCorrupt, "header {i}");
    }
}

#[test]
fn a_read_error_is_an_error_and_no_tail() {
    let (d, o, _) = groups(4);
    let before = d.stats().reads;
    end(&d, &o).unwrap();
    let reads = d.stats().reads - before;
    for at in 1..=reads {
        let d = copy(&d);
        d.inject(MemFault { at, on: MemOp::Read, once: true });
        assert_eq!(end(&d, &o).unwrap_err().kind(), ErrorKind::Io, "read {at} of {reads}");
    }
}

/// A group is torn and cut off; shorter groups are then written in its place. What is left of it, a seal
/// included, lies behind the new end and must neither extend the log nor look like proof of corruption.
#[test]
fn a_stale_seal_behind_a_cut_tail_never_counts() {
    for first_len in [1usize, 300, 464, 900, 1700] {
        let d = disk();
        let o = small();
        let log = create(&d, &o);
        let a = append(&log, b"kept");
        log.force(a.end, ForceReason::Commit).unwrap();
        let x = log.durable();
        for i in 0..10u8 {
            append(&log, &[i; 400]);
        }
        log.flush_pending().unwrap();
        let stale_end = log.durable();
        drop(log);
        flip(&d, &o, Lsn(x.0 + 20));
        let e = end(&d, &o).unwrap();
        assert_eq!((e.end, &e.verdict), (x, &Verdict::TornTail { bytes: stale_end.0 - x.0 }));
        let log = open(&d, &o, &e);
        let b = append(&log, &vec![9; first_len]);
        log.force(b.end, ForceReason::Commit).unwrap();
        let new_end = log.durable();
        assert!(new_end < stale_end);
        drop(log);
        let e = end(&d, &o).unwrap();
        assert_eq!((e.end, &e.verdict), (new_end, &Verdict::Clean), "the stale seal is no torn tail");
        assert_eq!(all(&d, &e).len(), 2);
    }
}

/// The same with the same records in front: stale records continue exactly where the new group ends, valid by
/// their own checksum, up to the stale seal.
#[test]
fn stale_records_that_join_exactly_do_not_count() {
    let d = disk();
    let o = small();
    let log = create(&d, &o);
    let x = log.tail();
    // 464 bytes, so that the seal of a group with this record alone has no padding before it.
    let fill = (0..464).find(|n| {
        let d = disk();
        let l = create(&d, &o);
        append(&l, &vec![1; *n]).end.0 - x.0 == 464
    });
    let fill = vec![1; fill.unwrap()];
    append(&log, &fill);
    // The stale seal's place is covered by a record; the next record starts where the next group will.
    let filler = (0..200).find(|n| {
        let d = disk();
        let l = create(&d, &o);
        append(&l, &fill);
        append(&l, &vec![2; *n]).end.0 - x.0 == 512
    });
    append(&log, &vec![2; filler.unwrap()]);
    append(&log, b"stale");
    log.flush_pending().unwrap();
    drop(log);
    // Torn: one byte of the second record never landed.
    flip(&d, &o, Lsn(x.0 + 500));
    let e = end(&d, &o).unwrap();
    assert_eq!(e.end, x);
    let log = open(&d, &o, &e);
    let a = append(&log, &fill);
    log.force(a.end, ForceReason::Commit).unwrap();
    assert_eq!(log.durable().0, x.0 + 512);
    drop(log);
    let e = end(&d, &o).unwrap();
    assert_eq!(e.end.0, x.0 + 512);
    assert_eq!(all(&d, &e).len(), 1);
}

/// Crashes at random moments of random histories, over several generations: the reopened log is a prefix of
/// what was appended and holds everything that was acknowledged.
#[test]
fn crash_enumeration() {
    for seed in 0..60u64 {
        let mut rng = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = move |n: u64| {
            rng ^= rng << 13;
            rng ^= rng >> 7;
            rng ^= rng << 17;
            rng % n
        };
        let o = LogOptions { pad: if seed % 3 == 0 { 4096 } else { 512 }, ..small() };
        let mut d = disk();
        let mut log = create(&d, &o);
        d.sync_dir("wal").unwrap();
        let mut history: Vec<(Lsn, Vec<u8>)> = Vec::new();
        let mut acknowledged = 0;
        let mut from = Log::FIRST;
        for generation in 0..5 {
            for _ in 0..next(60) {
                let data = vec![next(256) as u8; next(3000) as usize];
                let a = append(&log, &data);
                history.push((a.lsn, data));
                match next(6) {
                    0 | 1 => {
                        log.force(a.end, ForceReason::Commit).unwrap();
                        acknowledged = history.len();
                        if next(8) == 0 {
                            from = history[history.len() / 2].0.max(from);
                            log.truncate(from).unwrap();
                        }
                    }
                    2 if next(4) == 0 => {
                        // A flush that fails half-way: its outcome is open.
                        d.inject(MemFault { at: 1, on: MemOp::Sync, once: true });
                        log.force(a.end, ForceReason::Commit).unwrap_err();
                        d.clear_faults();
                        break;
                    }
                    _ => {}
                }
                // What the ring made durable on its own was not acknowledged, but `durable` may be believed.
                let durable = log.durable();
                acknowledged = acknowledged.max(history.iter().take_while(|(l, _)| *l < durable).count());
            }
            drop(log);
            let model = match next(4) {
                0 => CrashModel::LoseUnsynced,
                1 => CrashModel::KeepAll,
                _ => CrashModel::Random { seed: next(1 << 40), torn_sector_bytes: 512 },
            };
            d = d.crash(model);
            let proven = history.get(acknowledged.wrapping_sub(1)).map_or(Lsn::NULL, |h| h.0);
            let e = find_end(&dynamic(&d), &o, ID, from, proven)
                .unwrap_or_else(|e| panic!("seed {seed} generation {generation}: {e}"));
            assert!(e.oldest <= from);
            let mut r = LogReader::open(&dynamic(&d), ID, &e).unwrap();
            let kept = history.iter().take_while(|(l, _)| *l < e.end).count();
            assert!(kept >= acknowledged, "seed {seed} generation {generation}: {kept} of {acknowledged}");
            for (i, (lsn, data)) in history[..kept].iter().enumerate() {
                if *lsn >= from {
                    let rec = r.read(*lsn).unwrap().unwrap();
                    assert_eq!(rec.undo(), &data[..], "record {i}");
                }
            }
            if let Some((last, _)) = history[..kept].last() {
                let rec = r.read(*last).unwrap().unwrap();
                assert_eq!(r.read(rec.end).unwrap(), None, "nothing after the prefix");
            }
            history.truncate(kept);
            acknowledged = kept;
            log = open(&d, &o, &e);
        }
    }
}

/// A crash while many threads commit: each acknowledged record survives, whatever else does.
#[test]
fn crash_under_threads() {
    for seed in 0..12 {
        let d = disk();
        let o = small();
        let log = create(&d, &o);
        let acked = std::sync::Mutex::new(Vec::new());
        let (survivor, acked_then) = std::thread::scope(|s| {
            for t in 0..4u8 {
                let (log, acked) = (&log, &acked);
                s.spawn(move || {
                    for i in 0..60u64 {
                        let a = on_page(log, u64::from(t), Lsn::NULL, &vec![t; (i * 41 % 1500) as usize]);
                        log.force(a.end, ForceReason::Commit).unwrap();
                        acked.lock().unwrap().push(a);
                    }
                });
            }
            std::thread::sleep(std::time::Duration::from_micros(200 * seed));
            let before = acked.lock().unwrap().clone();
            (d.crash(CrashModel::Random { seed, torn_sector_bytes: 512 }), before)
        });
        let e = end(&survivor, &o).unwrap();
        let mut r = LogReader::open(&dynamic(&survivor), ID, &e).unwrap();
        for a in acked_then {
            assert_eq!(r.read(a.lsn).unwrap().map(|x| x.end), Some(a.end));
        }
        drop(log);
    }
}

/// Crashes while segments are made, released and recycled: the chain can always be opened.
#[test]
fn crashes_around_segments() {
    for seed in 0..40 {
        let d = disk();
        let o = small();
        let log = create(&d, &o);
        let mut kept = Log::FIRST;
        let mut last = Log::FIRST;
        for i in 0..(seed * 13 % 400) {
            let a = append(&log, &[i as u8; 1900]);
            if i % 5 == 4 {
                log.force(a.end, ForceReason::Commit).unwrap();
                kept = last;
                last = a.lsn;
                if i % 40 == 39 {
                    log.truncate(kept).unwrap();
                }
            }
            if i % 23 == 22 {
                // Segments beyond the tail come, and go again.
                let bytes = 3 * o.segment_bytes;
                log.reserve(bytes, true).unwrap();
                log.give_back(bytes);
                assert!(log.trim().unwrap() >= 1);
            }
        }
        drop(log);
        let d = d.crash(CrashModel::Random { seed, torn_sector_bytes: 4096 });
        let e = find_end(&dynamic(&d), &o, ID, last, Lsn(last.0)).unwrap();
        let log = open(&d, &o, &e);
        let a = append(&log, b"after");
        log.force(a.end, ForceReason::Commit).unwrap();
        log.truncate(a.lsn).unwrap();
        assert!(log.oldest() >= kept || kept == Log::FIRST || log.oldest() <= a.lsn);
        let e = find_end(&dynamic(&d), &o, ID, a.lsn, a.end).unwrap();
        assert!(e.end >= a.end);
    }
}

/// What was made for promises goes when they are given back, and not before; a crash between two removals leaves a whole chain.
#[test]
fn segments_that_nobody_needs_go_from_the_end() {
    for at in 0..12 {
        let d = disk();
        let o = small();
        let log = create(&d, &o);
        let a = append(&log, &[1; 1900]);
        log.force(a.end, ForceReason::Commit).unwrap();
        let least = log.stats().allocated_bytes;
        let bytes = 12 * o.segment_bytes;
        log.reserve(bytes, true).unwrap();
        let most = log.stats().allocated_bytes;
        assert!(most >= least + bytes);
        assert_eq!(log.trim().unwrap(), 0, "all of it is promised");
        log.give_back(bytes / 2);
        if at > 0 {
            d.inject(MemFault { at, on: MemOp::Sync, once: false });
        }
        let trimmed = log.trim();
        let now = log.stats().allocated_bytes;
        assert_eq!(trimmed.is_err(), log.poisoned().is_set());
        if let Ok(n) = trimmed {
            assert!((5..=7).contains(&n), "{n}");
            assert_eq!(now, most - n * o.segment_bytes);
            let a = append(&log, &[2; 1900]);
            if at == 0 {
                log.force(a.end, ForceReason::Commit).unwrap();
                log.give_back(bytes - bytes / 2);
                log.trim().unwrap();
                assert!(log.stats().allocated_bytes <= least + o.segment_bytes);
            }
        }
        drop(log);
        for seed in 0..4 {
            let d = d.crash(CrashModel::Random { seed, torn_sector_bytes: 4096 });
            let e = find_end(&dynamic(&d), &o, ID, a.lsn, a.end).unwrap();
            let log = open(&d, &o, &e);
            let a = append(&log, b"after");
            log.force(a.end, ForceReason::Commit).unwrap();
        }
    }
}

/// Trimming goes on while others take space and log: nobody's append lacks room.
#[test]
fn trimming_beside_writers() {
    let d = disk();
    let log = create(&d, &small());
    let over = std::sync::atomic::AtomicBool::new(false);
    let removed = std::thread::scope(|s| {
        let writers: Vec<_> = (0..3u8)
            .map(|w| {
                let log = &log;
                s.spawn(move || {
                    for i in 0..400u32 {
                        let promised = u64::from(i % 7) * 3 * log.options().segment_bytes;
                        log.reserve(promised, true).unwrap();
                        let a = append(log, &[w; 1500]);
                        log.give_back(promised);
                        if i % 16 == 15 {
                            log.force(a.end, ForceReason::Commit).unwrap();
                            log.truncate(Lsn(a.lsn.0.saturating_sub(60_000))).unwrap();
                        }
                    }
                })
            })
            .collect();
        let trimmer = s.spawn(|| {
            let mut removed = 0;
            while !over.load(std::sync::atomic::Ordering::SeqCst) {
                removed += log.trim().unwrap();
                std::thread::yield_now();
            }
            removed
        });
        writers.into_iter().for_each(|w| w.join().unwrap());
        over.store(true, std::sync::atomic::Ordering::SeqCst);
        trimmer.join().unwrap()
    });
    // However the threads were scheduled.
    let bytes = 12 * log.options().segment_bytes;
    log.reserve(bytes, true).unwrap();
    log.give_back(bytes);
    let removed = removed + log.trim().unwrap();
    assert!(removed > 0);
    let a = append(&log, b"the last");
    log.force(a.end, ForceReason::Commit).unwrap();
    drop(log);
    let e = find_end(&dynamic(&d), &small(), ID, a.lsn, a.end).unwrap();
    assert_eq!(e.end, open(&d, &small(), &e).tail());
}

/// A crash at every single disk operation, by making that operation and all later ones fail.
#[test]
fn a_fault_at_every_write_and_sync() {
    for on in [MemOp::Write, MemOp::Sync] {
        for at in 1..120 {
            let d = disk();
            let o = small();
            d.inject(MemFault { at, on, once: false });
            let fresh =
                Log::create(dynamic(&d), o.clone(), ID, Log::FIRST, Arc::new(Poison::new()), Trace::silent());
            let Ok(log) = fresh else { continue };
            let mut acked = Vec::new();
            for i in 0..100u8 {
                let data = [i; 2000];
                let spec = note(&data);
                let Ok(mut c) = log.credit(Log::record_bound(&spec), false) else { break };
                let Ok(a) = log.append(&spec, &mut c) else { break };
                drop(c);
                if i % 3 == 0 {
                    if log.force(a.end, ForceReason::Commit).is_err() {
                        assert!(log.poisoned().is_set());
                        break;
                    }
                    acked.push(a);
                }
                if i % 30 == 29 && log.truncate(acked[acked.len() / 2].lsn).is_err() {
                    break;
                }
            }
            drop(log);
            for model in [CrashModel::LoseUnsynced, CrashModel::Random { seed: at, torn_sector_bytes: 512 }] {
                let d = d.crash(model);
                let from = acked.last().map_or(Log::FIRST, |a| a.lsn);
                let e = find_end(&dynamic(&d), &o, ID, from, from).unwrap();
                let mut r = LogReader::open(&dynamic(&d), ID, &e).unwrap();
                for a in acked.iter().filter(|a| a.lsn >= e.oldest) {
                    assert_eq!(r.read(a.lsn).unwrap().unwrap().end, a.end);
                }
                open(&d, &o, &e);
            }
        }
    }
}

/// Groups that end exactly where segments end: every segment's first LSN is a group boundary to start from.
#[test]
fn starting_at_the_first_lsn_of_a_segment() {
    let d = disk();
    let o = small();
    let log = create(&d, &o);
    let capacity = o.segment_bytes - 4096;
    while log.durable().0 < Log::FIRST.0 + 3 * capacity {
        append(&log, &[2; 400]); // with its seal one sector
        log.flush_pending().unwrap();
    }
    drop(log);
    let whole = end(&d, &o).unwrap();
    for n in 0..=3 {
        let from = Lsn(Log::FIRST.0 + n * capacity);
        let e = find_end(&dynamic(&d), &o, ID, from, from).unwrap();
        assert_eq!((e.end, e.last_seal), (whole.end, whole.last_seal));
    }
}

/// A process dies with a group written and not synced; the next one finds it whole (in the cache) and goes on.
/// Then the power fails: what the second process built upon must be there.
#[test]
fn what_an_open_believed_survives() {
    let d = disk();
    let o = small();
    let log = create(&d, &o);
    let a = append(&log, b"synced");
    log.force(a.end, ForceReason::Commit).unwrap();
    let b = append(&log, b"written, not synced");
    d.inject(MemFault { at: 1, on: MemOp::Sync, once: true });
    log.force(b.end, ForceReason::Commit).unwrap_err();
    drop(log);
    let e = end(&d, &o).unwrap();
    assert!(e.end >= b.end, "the bytes are there to be read");
    let log = open(&d, &o, &e);
    let d = d.crash(CrashModel::LoseUnsynced);
    assert_eq!(end(&d, &o).unwrap().end, log.durable());
}
