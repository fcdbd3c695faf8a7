//! A disk in memory whose writes and syncs are steps of the schedule, and which remembers what was done to it.
use hamal_disk::{CrashModel, Disk, DiskFile, DiskLock, MemDisk, OpenMode};
use hamal_sync::thread::yield_now;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// The disk. Clones are the same one.
#[derive(Clone)]
pub struct StepDisk {
    mem: MemDisk,
    trace: Arc<AtomicU64>,
}

struct StepFile {
    file: Arc<dyn DiskFile>,
    trace: Arc<AtomicU64>,
}

/// Fowler-Noll-Vo over words: good enough to tell two runs apart.
fn note(trace: &AtomicU64, words: &[u64], bytes: &[u8]) {
    let mut h = trace.load(Relaxed);
    let tail = bytes.chunks(8).map(|c| c.iter().fold(0u64, |w, b| w << 8 | u64::from(*b)));
    for w in words.iter().copied().chain(tail) {
        h = (h ^ w).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(17);
    }
    trace.store(h, Relaxed);
}

impl StepDisk {
    pub fn new(mem: MemDisk) -> StepDisk {
        StepDisk { mem, trace: Arc::default() }
    }
    /// What the power failing now leaves.
    pub fn crash(&self, model: CrashModel) -> MemDisk {
        self.mem.crash(model)
    }
    pub fn mem(&self) -> &MemDisk {
        &self.mem
    }
    /// A hash of everything that was written and synced, in order.
    pub fn trace(&self) -> u64 {
        self.trace.load(Relaxed)
    }
    fn step(&self, what: u64) {
        yield_now();
        note(&self.trace, &[what], &[]);
    }
}

impl fmt::Debug for StepDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StepDisk")
    }
}

impl Disk for StepDisk {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.mem.open(name, mode)?;
        Ok(Arc::new(StepFile { file, trace: self.trace.clone() }))
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.mem.list(dir)
    }
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.mem.create_dir(dir)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.step(1);
        self.mem.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.step(2);
        self.mem.remove(name)
    }
    fn exists(&self, name: &str) -> io::Result<bool> {
        self.mem.exists(name)
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.step(3);
        self.mem.sync_dir(dir)
    }
    fn lock(&self, name: &str) -> io::Result<Box<dyn DiskLock>> {
        self.mem.lock(name)
    }
    fn describe(&self) -> String {
        "a disk whose calls are steps".into()
    }
}

impl fmt::Debug for StepFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StepFile")
    }
}

impl DiskFile for StepFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        yield_now();
        note(&self.trace, &[4, offset], buf);
        self.file.write_at(offset, buf)
    }
    fn write_vectored_at(&self, offset: u64, bufs: &[&[u8]]) -> io::Result<()> {
        yield_now();
        bufs.iter().for_each(|b| note(&self.trace, &[5, offset], b));
        self.file.write_vectored_at(offset, bufs)
    }
    fn sync(&self) -> io::Result<()> {
        // Before it, and between what it makes durable and what its caller does then.
        yield_now();
        note(&self.trace, &[6], &[]);
        let done = self.file.sync();
        yield_now();
        done
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        note(&self.trace, &[7, len], &[]);
        self.file.set_len(len)
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.allocate(offset, len)
    }
    fn bypasses_cache(&self) -> bool {
        self.file.bypasses_cache()
    }
    fn drop_cache(&self) -> io::Result<()> {
        self.file.drop_cache()
    }
}
