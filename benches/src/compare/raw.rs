//! What the device itself does: the limits beside which the engines stand.
use super::Any;
use super::measure::{Measured, Meter, histogram};
use crate::Random;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

const FILE: u64 = 256 << 20;

/// Small appends to a file that was really written before, each followed by `fdatasync`; one thread.
///
/// # Errors
/// Of the operating system.
pub fn appends(dir: &Path, time: Duration) -> Any<Measured> {
    let file = written(dir)?;
    let mut times = histogram();
    let mut at = 0;
    let meter = Meter::start(dir, None);
    let until = Instant::now() + time;
    let mut now = Instant::now();
    while now < until {
        file.write_all_at(&[1; 512], at % FILE)?;
        file.sync_data()?;
        at += 512;
        let then = std::mem::replace(&mut now, Instant::now());
        times.saturating_record(u64::try_from((now - then).as_nanos())?);
    }
    Ok(meter.stop(times.len(), None, Some(&times)))
}

/// Random reads of one page past the page cache, by `threads` threads.
///
/// # Errors
/// Of the operating system.
pub fn reads(dir: &Path, time: Duration, threads: u64, page: usize) -> Any<Measured> {
    drop(written(dir)?);
    let meter = Meter::start(dir, None);
    let until = Instant::now() + time;
    let counts: Vec<Any<u64>> = std::thread::scope(|s| {
        let handles: Vec<_> = (0..threads)
            .map(|t| {
                s.spawn(move || {
                    let file =
                        OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(dir.join("raw"))?;
                    let mut random = Random(t);
                    let mut buffer = vec![0u8; 2 * page];
                    let skip = buffer.as_ptr().align_offset(page);
                    let mut n = 0;
                    while Instant::now() < until {
                        let at = random.next_u64() % (FILE / page as u64) * page as u64;
                        file.read_exact_at(&mut buffer[skip..skip + page], at)?;
                        n += 1;
                    }
                    Ok(n)
                })
            })
            .collect();
        handles.into_iter().map(|h| h.join().unwrap_or_else(|_| Err("a thread panicked".into()))).collect()
    });
    let n = counts.into_iter().sum::<Any<u64>>()?;
    Ok(meter.stop(n, None, None))
}

fn written(dir: &Path) -> Any<File> {
    std::fs::create_dir_all(dir)?;
    let file =
        OpenOptions::new().create(true).truncate(false).read(true).write(true).open(dir.join("raw"))?;
    for mib in 0..FILE >> 20 {
        file.write_all_at(&vec![7; 1 << 20], mib << 20)?;
    }
    file.sync_all()?;
    Ok(file)
}
