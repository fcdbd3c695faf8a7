//! A disk whose operating system forgets: when a sync of the data file fails, it takes what it could not write for
//! written. Reads through the cache go on showing it, the device never gets it.
use hamal::disk::{CrashModel, Disk, DiskFile, DiskLock, MemDisk, OpenMode};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

const BLOCK: usize = 4096;

#[derive(Debug, Default)]
struct Cache {
    blocks: BTreeMap<u64, Vec<u8>>,
    dirty: BTreeSet<u64>,
}

/// Runs behind the next sync of the data file.
type Behind = Box<dyn FnOnce() + Send>;

#[derive(Clone)]
pub(crate) struct ForgetfulDisk {
    device: MemDisk,
    cache: Arc<Mutex<Cache>>,
    fail: Arc<AtomicBool>,
    behind: Arc<Mutex<Option<Behind>>>,
}

impl std::fmt::Debug for ForgetfulDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ForgetfulDisk")
    }
}

impl ForgetfulDisk {
    pub(crate) fn new(device: MemDisk) -> ForgetfulDisk {
        ForgetfulDisk { device, cache: Arc::default(), fail: Arc::default(), behind: Arc::default() }
    }
    /// From now on syncs of the data file fail, or succeed again.
    pub(crate) fn fail_data_syncs(&self, fail: bool) {
        self.fail.store(fail, SeqCst);
    }
    /// Has something done once the next sync of the data file is over, before its caller knows.
    pub(crate) fn behind_the_next_data_sync(&self, f: impl FnOnce() + Send + 'static) {
        *self.behind.lock().unwrap() = Some(Box::new(f));
    }
    /// What the device holds when the power fails.
    pub(crate) fn device(&self) -> MemDisk {
        self.device.crash(CrashModel::LoseUnsynced)
    }
}

#[derive(Debug)]
struct DataFile {
    file: Arc<dyn DiskFile>,
    disk: ForgetfulDisk,
    direct: bool,
}

impl DiskFile for DataFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(offset, buf)?;
        let cache = self.disk.cache.lock().unwrap();
        for (i, part) in buf[..n].chunks_mut(BLOCK).enumerate() {
            let block = offset / BLOCK as u64 + i as u64;
            if let Some(bytes) = cache.blocks.get(&block) {
                part.copy_from_slice(&bytes[..part.len()]);
            }
        }
        Ok(n)
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        assert!(offset.is_multiple_of(BLOCK as u64) && buf.len().is_multiple_of(BLOCK), "whole pages");
        self.file.allocate(offset, buf.len() as u64)?;
        let mut cache = self.disk.cache.lock().unwrap();
        for (i, bytes) in buf.chunks(BLOCK).enumerate() {
            let block = offset / BLOCK as u64 + i as u64;
            cache.blocks.insert(block, bytes.to_vec());
            cache.dirty.insert(block);
        }
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        let mut cache = self.disk.cache.lock().unwrap();
        let dirty = std::mem::take(&mut cache.dirty);
        if self.disk.fail.load(SeqCst) {
            if self.direct {
                // The device lost them, and there is no cache between.
                cache.blocks.retain(|block, _| !dirty.contains(block));
            }
            return Err(io::Error::other("a sync that fails"));
        }
        for block in dirty {
            self.file.write_at(block * BLOCK as u64, &cache.blocks[&block])?;
        }
        self.file.sync()?;
        drop(cache);
        let behind = self.disk.behind.lock().unwrap().take();
        if let Some(f) = behind {
            f();
        }
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.file.allocate(offset, len)
    }
    fn bypasses_cache(&self) -> bool {
        self.direct
    }
}

impl Disk for ForgetfulDisk {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        if name != "data" {
            return self.device.open(name, mode);
        }
        // Written from the cache's memory, which is not aligned for direct transfers.
        let file = self.device.open(name, OpenMode { direct: false, ..mode })?;
        Ok(Arc::new(DataFile { file, disk: self.clone(), direct: mode.direct }))
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.device.list(dir)
    }
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.device.create_dir(dir)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.device.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.device.remove(name)
    }
    fn exists(&self, name: &str) -> io::Result<bool> {
        self.device.exists(name)
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.device.sync_dir(dir)
    }
    fn lock(&self, name: &str) -> io::Result<Box<dyn DiskLock>> {
        self.device.lock(name)
    }
    fn describe(&self) -> String {
        "a forgetful disk".into()
    }
}
