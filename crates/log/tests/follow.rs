//! Following a log that is being written.
mod common;
use common::*;
use hamal_disk::{Disk, OpenMode};
use hamal_error::ErrorKind;
use hamal_log::*;
use hamal_page::Lsn;
use hamal_trace::ForceReason;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

fn data(i: u32) -> Vec<u8> {
    let mut bytes = i.to_le_bytes().to_vec();
    bytes.resize(40 + i as usize * 37 % 1500, i as u8);
    bytes
}

/// What has come since the last look.
fn came(f: &mut LogFollower) -> Vec<Vec<u8>> {
    std::iter::from_fn(|| f.next_record().unwrap()).map(|r| r.undo().to_vec()).collect()
}

/// Each record once, in order, through many segments; from any record on; and nothing before it was written.
#[test]
fn what_is_logged_is_met_once_and_in_order() {
    let (d, o) = (disk(), small());
    let log = create(&d, &o);
    let mut f = LogFollower::open(&dynamic(&d), ID, Log::FIRST).unwrap();
    assert_eq!(came(&mut f), Vec::<Vec<u8>>::new());
    let (mut lsns, mut met) = (Vec::new(), 0);
    for i in 0..600 {
        lsns.push(append(&log, &data(i)));
        if i % 7 == 0 || i % 50 == 49 {
            // In memory only: not there for others.
            assert_eq!(came(&mut f), Vec::<Vec<u8>>::new());
            log.flush_pending().unwrap();
            let new = came(&mut f);
            assert_eq!(new, (met..=i).map(data).collect::<Vec<_>>());
            assert!(f.position() >= lsns[i as usize].end && f.position() <= log.tail());
            met = i + 1;
        }
    }
    assert!(lsns[599].lsn.0 > Log::FIRST.0 + 3 * o.segment_bytes, "several segments");
    for from in [1, 7, 99, 300, 598] {
        let mut f = LogFollower::open(&dynamic(&d), ID, lsns[from].lsn).unwrap();
        assert_eq!(came(&mut f), (from as u32..600).map(data).collect::<Vec<_>>());
        let mut f = LogFollower::open(&dynamic(&d), ID, lsns[from].end).unwrap();
        assert_eq!(came(&mut f), (from as u32 + 1..600).map(data).collect::<Vec<_>>());
    }
    // From the end of a group on.
    let mut f = LogFollower::open(&dynamic(&d), ID, f.position()).unwrap();
    assert_eq!(came(&mut f), Vec::<Vec<u8>>::new());
    let a = append(&log, b"more");
    log.force(a.end, ForceReason::Commit).unwrap();
    assert_eq!(came(&mut f), [b"more".to_vec()]);
}

/// The follower has opened segments ahead of the tail; the log gives them back, and makes others in their stead.
#[test]
fn segments_given_back_ahead_of_the_tail_are_opened_anew() {
    let (d, o) = (disk(), small());
    let log = create(&d, &o);
    // More than the log keeps for later, so that some files are removed.
    log.reserve(8 * o.segment_bytes, false).unwrap();
    log.give_back(8 * o.segment_bytes);
    let mut f = LogFollower::open(&dynamic(&d), ID, Log::FIRST).unwrap();
    for round in 0..3 {
        assert!(log.trim().unwrap() > 0 || round > 0);
        for i in 0..200 {
            append(&log, &data(i));
            if i % 9 == 0 {
                log.flush_pending().unwrap();
            }
        }
        log.flush_pending().unwrap();
        assert_eq!(came(&mut f), (0..200).map(data).collect::<Vec<_>>(), "round {round}");
        log.reserve(8 * o.segment_bytes, false).unwrap();
        log.give_back(8 * o.segment_bytes);
        assert_eq!(came(&mut f), Vec::<Vec<u8>>::new());
    }
}

/// Each sector of a group missing in turn: none of its records is there until all of it is.
#[test]
fn half_a_group_is_nothing() {
    let (d, o) = (disk(), small());
    let log = create(&d, &o);
    append(&log, b"before");
    log.flush_pending().unwrap();
    let from = log.tail();
    for i in 0..5 {
        append(&log, &data(20 + i));
    }
    log.flush_pending().unwrap();
    let group = from.0..log.tail().0;
    assert!(group.end - group.start >= 3 * 512);
    for sector in group.step_by(512) {
        let mut f = LogFollower::open(&dynamic(&d), ID, Log::FIRST).unwrap();
        let (name, offset) = place(&o, Lsn(sector));
        let file = d.open(&name, OpenMode::default()).unwrap();
        let mut was = [0; 512];
        assert_eq!(file.read_at(offset, &mut was).unwrap(), 512);
        file.write_at(offset, &[0; 512]).unwrap();
        assert_eq!(came(&mut f), [b"before".to_vec()], "without the sector at {sector}");
        assert_eq!(f.position(), from);
        file.write_at(offset, &was).unwrap();
        assert_eq!(came(&mut f).len(), 5, "with it");
    }
}

/// A writer in another thread, and a reader that looks all the time.
#[test]
fn beside_a_writer() {
    const RECORDS: u32 = 4000;
    let (d, o) = (disk(), small());
    let log = create(&d, &o);
    std::thread::scope(|s| {
        s.spawn(|| {
            for i in 0..RECORDS {
                let a = append(&log, &data(i));
                if i % 11 == 0 {
                    log.force(a.end, ForceReason::Commit).unwrap();
                }
            }
            log.flush_pending().unwrap();
        });
        let mut f = LogFollower::open(&dynamic(&d), ID, Log::FIRST).unwrap();
        let mut met = 0;
        while met < RECORDS {
            while let Some(r) = f.next_record().unwrap() {
                assert_eq!(r.undo(), data(met));
                met += 1;
            }
            std::thread::yield_now();
        }
        assert!(f.next_record().unwrap().is_none());
    });
}

/// A reader that is too slow: segments are released and written over while it reads. What it gets is right, without a gap, and then
/// there is nothing more, or the log says that something is gone.
#[test]
fn a_slow_reader_gets_no_wrong_record() {
    let (d, o) = (disk(), small());
    let log = create(&d, &o);
    let done = AtomicBool::new(false);
    let overtaken = std::thread::scope(|s| {
        let writer = s.spawn(|| {
            let mut lsns = Vec::new();
            for i in 0..3000 {
                lsns.push(append(&log, &data(i)));
                if i % 20 == 19 {
                    let keep = lsns[lsns.len() - 20];
                    log.force(lsns[lsns.len() - 1].end, ForceReason::Checkpoint).unwrap();
                    log.truncate(keep.lsn).unwrap();
                }
            }
            done.store(true, SeqCst);
            lsns
        });
        let mut read = Vec::new();
        for from in [Log::FIRST; 3] {
            let Ok(mut f) = LogFollower::open(&dynamic(&d), ID, from) else { continue };
            let mut met = 0;
            loop {
                match f.next_record() {
                    Ok(Some(r)) => {
                        assert_eq!(r.undo(), data(met));
                        met += 1;
                        // Slower than the writer.
                        std::thread::sleep(std::time::Duration::from_micros(300));
                    }
                    Ok(None) if done.load(SeqCst) => break,
                    Ok(None) => std::thread::yield_now(),
                    Err(e) => {
                        assert_eq!(e.kind(), ErrorKind::LogCorrupt);
                        break;
                    }
                }
            }
            read.push((met, f.position()));
        }
        let lsns = writer.join().unwrap();
        // Whoever stopped early had been overtaken: what it would have read next was released.
        read.iter().all(|(met, at)| *met == 3000 || (*at < log.oldest() && *at <= lsns[*met as usize].lsn))
    });
    assert!(overtaken);
}
