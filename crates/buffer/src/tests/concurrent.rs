//! Many threads, few frames.
use super::bench::*;
use hamal_log::Whole;
use hamal_page::*;
use hamal_trace::WriteReason;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};

#[test]
fn increments_of_many_threads_are_all_there() {
    const PAGES: u64 = 200;
    const EACH: u64 = 1500;
    let b = Bench::with_pages(PAGES);
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        let pool = &b.pool;
        let stop = &stop;
        let workers: Vec<_> = (0..8)
            .map(|t| {
                s.spawn(move || {
                    let mut rng = Rng(t);
                    for _ in 0..EACH {
                        pool.bump(rng.below(PAGES));
                    }
                })
            })
            .collect();
        s.spawn(move || {
            while !stop.load(SeqCst) {
                pool.clean(Lsn::MAX, 16, WriteReason::Cleaner).unwrap();
                pool.begin();
                std::thread::sleep(std::time::Duration::from_micros(300));
            }
        });
        workers.into_iter().for_each(|w| w.join().unwrap());
        stop.store(true, SeqCst);
    });
    let sum = |b: &Bench| (0..PAGES).map(|p| counter(&b.pool.shared(PageId(p)).unwrap())).sum::<u64>();
    assert_eq!(sum(&b), 8 * EACH);
    b.pool.flush_all(WriteReason::Asked).unwrap();
    b.pool.check_at_rest();
    assert_eq!(b.pool.log().stats().reserved_bytes, 0);
    (0..PAGES).for_each(|p| b.pool.forget(PageId(p)));
    assert_eq!(sum(&b), 8 * EACH);
}

/// Sixteen threads that hold a pin and two latches each, in 64 frames, none of them helped by a cleaner thread.
#[test]
fn sixteen_threads_share_the_smallest_pool() {
    const PAGES: u64 = 150;
    let b = Bench::with_pages(PAGES);
    let done = AtomicU64::new(0);
    std::thread::scope(|s| {
        for t in 0..16 {
            let (pool, done) = (&b.pool, &done);
            s.spawn(move || {
                let mut rng = Rng(t);
                for _ in 0..300 {
                    let (low, high) = (rng.below(PAGES / 2), PAGES / 2 + rng.below(PAGES / 2));
                    let mut credit = pool.credit(1000, 0, 2, false).unwrap();
                    let pins = (pool.fetch(PageId(low)).unwrap(), pool.fetch(PageId(high)).unwrap());
                    let mut first = pool.try_exclusive(PageId(low)).unwrap();
                    let mut second = pool.try_exclusive(PageId(high)).unwrap();
                    let payload = add(HEADER_LEN as u16, 1);
                    for page in [&mut first, &mut second] {
                        pool.edit(page, ADD, Whole::No, &payload, &mut credit).unwrap();
                    }
                    drop((pins, first, second));
                    done.fetch_add(2, SeqCst);
                }
            });
        }
    });
    let sum: u64 = (0..PAGES).map(|p| counter(&b.pool.shared(PageId(p)).unwrap())).sum();
    assert_eq!(sum, done.load(SeqCst));
    b.pool.check_at_rest();
}

/// REC-12: threads that read ahead bring no older version of a page back, while others change, write and evict the same pages in
/// a small pool.
#[test]
fn reading_ahead_among_writers() {
    const PAGES: u64 = 200;
    let b = Bench::with_pages(PAGES);
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        let (pool, stop) = (&b.pool, &stop);
        for t in 0..3 {
            s.spawn(move || {
                let mut rng = Rng(100 + t);
                while !stop.load(SeqCst) {
                    let from = rng.below(PAGES);
                    let step = 1 + rng.below(6);
                    let ids: Vec<_> = (0..16).map(|i| PageId(from + i * step)).collect();
                    pool.prefetch(&ids);
                }
            });
        }
        // Each has pages of its own, and so knows what is in them.
        let workers: Vec<_> = (0..4)
            .map(|t| {
                s.spawn(move || {
                    let mut rng = Rng(t);
                    let mut mine = [0u64; PAGES as usize / 4];
                    for _ in 0..1000 {
                        let i = rng.below(mine.len() as u64);
                        let page = i * 4 + t;
                        assert_eq!(counter(&pool.shared(PageId(page)).unwrap()), mine[i as usize]);
                        pool.bump(page);
                        mine[i as usize] += 1;
                    }
                })
            })
            .collect();
        workers.into_iter().for_each(|w| w.join().unwrap());
        stop.store(true, SeqCst);
    });
    assert!(b.pool.stats().evictions > PAGES);
    b.pool.flush_all(WriteReason::Asked).unwrap();
    b.pool.check_at_rest();
}
