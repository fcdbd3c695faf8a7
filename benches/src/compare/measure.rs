//! Clocks, histograms, and what the operating system knows: bytes and flushes of the device, memory, processor time.
use super::Any;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// One row of one round: a workload on an engine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Operations (or pairs) a second: what the tables show.
    pub rate: f64,
    /// Operations done.
    pub operations: u64,
    /// Latencies in microseconds: median, 99th and 99.9th of a hundred; absent where single operations were not timed.
    pub p50: Option<f64>,
    /// See `p50`.
    pub p99: Option<f64>,
    /// See `p50`.
    pub p999: Option<f64>,
    /// Bytes that the device wrote for each operation, flushes for each operation.
    pub device_bytes: f64,
    /// See `device_bytes`.
    pub flushes: f64,
    /// Microseconds of processor time for each operation, all threads.
    pub cpu: f64,
    /// Bytes of log for each operation, where the engine can tell.
    pub log_bytes: Option<f64>,
    /// Other figures by name (file size in bytes, seconds to open, ...).
    pub more: BTreeMap<String, f64>,
}

/// Counters before a measurement.
pub struct Meter {
    device: Option<PathBuf>,
    sectors: u64,
    flushes: u64,
    cpu: Duration,
    log: Option<u64>,
    started: Instant,
}

impl Meter {
    /// Starts to measure: the device below `dir`, this process, and the log if `log` is given.
    #[must_use]
    pub fn start(dir: &Path, log: Option<u64>) -> Meter {
        let device = device_of(dir);
        let (sectors, flushes) = device.as_deref().map(device_counters).unwrap_or_default();
        Meter { device, sectors, flushes, cpu: cpu(), log, started: Instant::now() }
    }

    /// What `operations` took.
    #[must_use]
    pub fn stop(&self, operations: u64, log: Option<u64>, latencies: Option<&Histogram<u64>>) -> Measured {
        let seconds = self.started.elapsed().as_secs_f64();
        let (sectors, flushes) = self.device.as_deref().map(device_counters).unwrap_or_default();
        let n = operations.max(1) as f64;
        let at = |q: f64| latencies.filter(|h| !h.is_empty()).map(|h| h.value_at_quantile(q) as f64 / 1000.0);
        Measured {
            rate: operations as f64 / seconds,
            operations,
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            device_bytes: (sectors - self.sectors) as f64 * 512.0 / n,
            flushes: (flushes - self.flushes) as f64 / n,
            cpu: (cpu() - self.cpu).as_secs_f64() * 1e6 / n,
            log_bytes: log.zip(self.log).map(|(now, then)| now.saturating_sub(then) as f64 / n),
            more: BTreeMap::new(),
        }
    }
}

/// A histogram of nanoseconds.
#[must_use]
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 120_000_000_000, 3).expect("valid bounds")
}

/// The whole disk below a directory in `/sys`, if it is one.
fn device_of(dir: &Path) -> Option<PathBuf> {
    let dev = std::fs::metadata(dir).ok()?.dev();
    let (major, minor) = (libc::major(dev), libc::minor(dev));
    let path = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    let disk = if path.join("partition").exists() { path.parent()?.to_path_buf() } else { path };
    disk.join("stat").exists().then_some(disk)
}

/// Sectors written and flushes since boot.
fn device_counters(disk: &Path) -> (u64, u64) {
    let text = std::fs::read_to_string(disk.join("stat")).unwrap_or_default();
    let fields: Vec<u64> = text.split_whitespace().filter_map(|f| f.parse().ok()).collect();
    (fields.get(6).copied().unwrap_or(0), fields.get(15).copied().unwrap_or(0))
}

/// Processor time of this process, all threads, user and system.
fn cpu() -> Duration {
    let read = || -> Option<Duration> {
        let text = std::fs::read_to_string("/proc/self/stat").ok()?;
        let after = &text[text.rfind(')')? + 2..];
        let fields: Vec<&str> = after.split_whitespace().collect();
        let ticks: u64 = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        Some(Duration::from_millis(ticks * 10))
    };
    read().unwrap_or_default()
}

/// Peak resident memory of this process in bytes.
#[must_use]
pub fn peak_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with("VmHWM:"));
    line.and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok()).map_or(0, |kib| kib * 1024)
}

/// Bytes of disk that the files of a directory take (allocated blocks, so that holes do not count).
///
/// # Errors
/// If a file cannot be looked at.
pub fn disk_usage(dir: &Path) -> Any<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let meta = match entry.metadata() {
            Ok(m) => m,
            // Engines remove files while they work.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => return Err(e.into()),
        };
        sum += if meta.is_dir() { disk_usage(&entry.path())? } else { meta.blocks() * 512 };
    }
    Ok(sum)
}

/// Drops what the operating system caches of files, if it lets us. Whether it did.
#[must_use]
pub fn drop_page_cache() -> bool {
    let synced = std::process::Command::new("sync").status().is_ok_and(|s| s.success());
    synced && std::fs::write("/proc/sys/vm/drop_caches", "1").is_ok()
}
