//! A disk in memory that knows what is durable, so that a program embedding the store can test power
//! failures.
//!
//! As in a Unix file system, a file and its name are two things. A file (an *inode*) knows which of its
//! sectors and lengths were synced; the directory knows which creations, renames and removals were.
//! [`MemDisk::crash`] makes a second, independent disk of what the persistence contract lets survive; the
//! first goes on as if nothing had happened, so one run can be crashed at many places and in many ways.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::{Mutex, RwLock};

use crate::names;
use crate::{Disk, DiskFile, DiskLock, OpenMode};

mod bytes;
mod faults;

use bytes::{FileBytes, SplitMix};
use faults::Control;
pub use faults::{MemFault, MemOp, MemStats};

/// What survives a power failure, of the things that may or may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashModel {
    /// Only what was synced: the disk that had written nothing back.
    LoseUnsynced,
    /// Everything: the disk that had written all back just in time (or a process that died, not a machine).
    KeepAll,
    /// Each changed unit of each file is kept or lost by itself, each change of a directory too, and of the
    /// changes of a file's length some first part survives. The same seed on the same history decides the
    /// same.
    Random {
        /// Seed of the decisions.
        seed: u64,
        /// How many aligned bytes are kept or lost together: 512 or 4096, according to the device imitated.
        /// Other values are rounded down to a multiple of 512 between 512 and 65536.
        torn_sector_bytes: usize,
    },
}

/// A directory in memory. Clones are the same disk.
#[derive(Clone, Default)]
pub struct MemDisk {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Held shared by everything that changes the disk and exclusively by [`MemDisk::crash`], so that a crash
    /// falls between two operations. Taken before the tree, and the tree before a file.
    gate: RwLock<()>,
    tree: Mutex<Tree>,
    locks: Mutex<BTreeSet<String>>,
    control: Control,
}

#[derive(Default)]
struct Tree {
    now: Names,
    durable: Names,
    /// What turns `durable` into `now`, oldest first.
    pending: Vec<Change>,
}

#[derive(Default, Clone)]
struct Names {
    files: BTreeMap<String, Arc<Inode>>,
    dirs: BTreeSet<String>,
}

#[derive(Default)]
struct Inode {
    content: RwLock<Content>,
}

#[derive(Default)]
struct Content {
    bytes: FileBytes,
    /// A file without a name takes no space: it is free once its last handle goes, and tests want to see it
    /// free.
    nameless: bool,
}

/// One change of a directory.
#[derive(Clone)]
enum Change {
    Link { name: String, file: Arc<Inode> },
    Unlink { name: String, file: Arc<Inode> },
    Rename { from: String, to: String, file: Arc<Inode> },
    MakeDir { name: String },
}

fn dir_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(dir, _)| dir)
}

impl Change {
    /// The directory that must be synced. (A rename between directories is recorded as two changes.)
    fn dir(&self) -> &str {
        match self {
            Change::Link { name, .. } | Change::Unlink { name, .. } | Change::MakeDir { name } => {
                dir_of(name)
            }
            Change::Rename { to, .. } => dir_of(to),
        }
    }

    /// Applies the change to names in which earlier changes may be missing.
    fn apply(&self, names: &mut Names) {
        match self {
            Change::Link { name, file } => {
                names.files.insert(name.clone(), file.clone());
            }
            Change::Unlink { name, file } => names.unlink(name, file),
            Change::Rename { from, to, file } => {
                names.unlink(from, file);
                names.files.insert(to.clone(), file.clone());
            }
            Change::MakeDir { name } => {
                names.dirs.insert(name.clone());
            }
        }
    }
}

impl Names {
    fn unlink(&mut self, name: &str, file: &Arc<Inode>) {
        if self.files.get(name).is_some_and(|f| Arc::ptr_eq(f, file)) {
            self.files.remove(name);
        }
    }

    fn check_dir(&self, dir: &str) -> io::Result<()> {
        if dir.is_empty() || self.dirs.contains(dir) { Ok(()) } else { Err(names::not_found(dir)) }
    }
}

impl Tree {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.now);
        self.pending.push(change);
    }

    /// The file of that name, created if it is missing.
    fn get_or_create(&mut self, name: &str) -> Arc<Inode> {
        if let Some(file) = self.now.files.get(name) {
            return file.clone();
        }
        let file = Arc::new(Inode::default());
        self.change(Change::Link { name: name.to_owned(), file: file.clone() });
        file
    }
}

impl MemDisk {
    /// An empty disk without a limit.
    pub fn new() -> MemDisk {
        MemDisk::default()
    }

    /// What may be found after a power failure at this moment: a new disk on which everything is durable,
    /// without locks, capacity or faults. This disk is not changed.
    pub fn crash(&self, model: CrashModel) -> MemDisk {
        let _gate = self.shared.gate.write();
        let tree = self.shared.tree.lock();
        let mut random = SplitMix(match model {
            CrashModel::Random { seed, .. } => seed,
            CrashModel::LoseUnsynced | CrashModel::KeepAll => 0,
        });
        let mut names = tree.durable.clone();
        for change in &tree.pending {
            let kept = match model {
                CrashModel::LoseUnsynced => false,
                CrashModel::KeepAll => true,
                CrashModel::Random { .. } => random.coin(),
            };
            if kept {
                change.apply(&mut names);
            }
        }
        // A file in a directory that is lost is lost.
        let Names { files, dirs } = &mut names;
        files.retain(|name, _| dir_of(name).is_empty() || dirs.contains(dir_of(name)));

        // Half of a rename between directories can leave a file with two names: they stay one file.
        let mut copies: BTreeMap<*const Inode, Arc<Inode>> = BTreeMap::new();
        let control = Control::default();
        for file in names.files.values_mut() {
            let copy = copies.entry(Arc::as_ptr(file)).or_insert_with(|| {
                let bytes = file.content.read().bytes.survivor(model, &mut random);
                // No capacity is set, so this cannot fail.
                let _ = control.charge(0, bytes.len());
                Arc::new(Inode { content: RwLock::new(Content { bytes, nameless: false }) })
            });
            *file = copy.clone();
        }
        let tree = Tree { now: names.clone(), durable: names, pending: Vec::new() };
        MemDisk { shared: Arc::new(Shared { tree: Mutex::new(tree), control, ..Shared::default() }) }
    }

    /// Limits the sum of the lengths of all files to so many bytes; what would exceed it fails with
    /// `StorageFull` and changes nothing. `None` lifts the limit.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.shared.control.set_capacity(bytes);
    }

    /// The sum of the lengths of all files that have a name, in bytes.
    pub fn used(&self) -> u64 {
        self.shared.control.used()
    }

    /// Plans an input/output error; several may be planned.
    pub fn inject(&self, fault: MemFault) {
        self.shared.control.inject(fault);
    }

    /// Forgets all planned errors.
    pub fn clear_faults(&self) {
        self.shared.control.clear_faults();
    }

    /// What this disk has done so far.
    pub fn stats(&self) -> MemStats {
        self.shared.control.stats()
    }

    /// Gives the space of a file back that has just lost its name.
    fn nameless(&self, file: &Inode) {
        let mut content = file.content.write();
        if !content.nameless {
            content.nameless = true;
            // Giving back does not fail.
            let _ = self.shared.control.charge(content.bytes.len(), 0);
        }
    }
}

impl fmt::Debug for MemDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemDisk").field("used", &self.used()).finish_non_exhaustive()
    }
}

impl Disk for MemDisk {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        names::check_mode(name, mode)?;
        let (dir, _) = names::split(name)?;
        let _gate = self.shared.gate.read();
        let mut tree = self.shared.tree.lock();
        tree.now.check_dir(dir)?;
        if tree.now.dirs.contains(name) {
            return Err(names::is_a_directory(name));
        }
        let exists = tree.now.files.contains_key(name);
        if exists && mode.create_new {
            return Err(names::already_exists(name));
        }
        if !exists && !mode.create && !mode.create_new {
            return Err(names::not_found(name));
        }
        let inode = tree.get_or_create(name);
        Ok(Arc::new(MemFile { inode, shared: self.shared.clone(), mode }))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        names::check_dir(dir)?;
        let tree = self.shared.tree.lock();
        tree.now.check_dir(dir)?;
        let here = tree.now.files.keys().filter(|name| dir_of(name) == dir);
        Ok(here.map(|name| name.rsplit('/').next().unwrap_or(name).to_owned()).collect())
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        names::check_dir(dir)?;
        let _gate = self.shared.gate.read();
        let mut tree = self.shared.tree.lock();
        if tree.now.files.contains_key(dir) {
            return Err(names::already_exists(dir));
        }
        if !dir.is_empty() && !tree.now.dirs.contains(dir) {
            tree.change(Change::MakeDir { name: dir.to_owned() });
        }
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        names::split(from)?;
        let (to_dir, _) = names::split(to)?;
        let _gate = self.shared.gate.read();
        let mut tree = self.shared.tree.lock();
        let file = tree.now.files.get(from).cloned().ok_or_else(|| names::not_found(from))?;
        tree.now.check_dir(to_dir)?;
        if tree.now.dirs.contains(to) {
            return Err(names::is_a_directory(to));
        }
        if from == to {
            return Ok(());
        }
        let replaced = tree.now.files.get(to).cloned();
        let (from_name, to_name) = (from.to_owned(), to.to_owned());
        if dir_of(from) == to_dir {
            tree.change(Change::Rename { from: from_name, to: to_name, file });
        } else {
            tree.change(Change::Link { name: to_name, file: file.clone() });
            tree.change(Change::Unlink { name: from_name, file });
        }
        if let Some(replaced) = replaced {
            self.nameless(&replaced);
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        names::split(name)?;
        let _gate = self.shared.gate.read();
        let mut tree = self.shared.tree.lock();
        let file = tree.now.files.get(name).cloned().ok_or_else(|| names::not_found(name))?;
        tree.change(Change::Unlink { name: name.to_owned(), file: file.clone() });
        self.nameless(&file);
        Ok(())
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        names::split(name)?;
        Ok(self.shared.tree.lock().now.files.contains_key(name))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        names::check_dir(dir)?;
        let _gate = self.shared.gate.read();
        let mut tree = self.shared.tree.lock();
        tree.now.check_dir(dir)?;
        self.shared.control.pass(MemOp::Sync)?;
        self.shared.control.dir_syncs.fetch_add(1, Relaxed);
        let Tree { durable, pending, .. } = &mut *tree;
        pending.retain(|change| {
            let here = change.dir() == dir;
            if here {
                change.apply(durable);
            }
            !here
        });
        Ok(())
    }

    fn lock(&self, name: &str) -> io::Result<Box<dyn DiskLock>> {
        self.open(name, OpenMode { create: true, ..OpenMode::default() })?;
        if !self.shared.locks.lock().insert(name.to_owned()) {
            return Err(names::locked(name));
        }
        Ok(Box::new(MemLock { shared: self.shared.clone(), name: name.to_owned() }))
    }

    fn describe(&self) -> String {
        "a disk in memory".to_owned()
    }
}

struct MemLock {
    shared: Arc<Shared>,
    name: String,
}

impl DiskLock for MemLock {}

impl fmt::Debug for MemLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemLock({:?})", self.name)
    }
}

impl Drop for MemLock {
    fn drop(&mut self) {
        self.shared.locks.lock().remove(&self.name);
    }
}

struct MemFile {
    inode: Arc<Inode>,
    shared: Arc<Shared>,
    mode: OpenMode,
}

impl fmt::Debug for MemFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemFile").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl MemFile {
    /// Runs a change that leaves the file with the length that `new_len` makes of the present one.
    fn change(
        &self,
        new_len: impl FnOnce(u64) -> u64,
        change: impl FnOnce(&mut FileBytes, u64),
    ) -> io::Result<()> {
        if self.mode.read_only {
            return Err(names::read_only_error());
        }
        let control = &self.shared.control;
        let _gate = self.shared.gate.read();
        control.pass(MemOp::Write)?;
        let mut content = self.inode.content.write();
        let len = content.bytes.len();
        let to = new_len(len);
        if !content.nameless {
            control.charge(len, to)?;
        }
        change(&mut content.bytes, to);
        Ok(())
    }
}

impl DiskFile for MemFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        if self.mode.direct {
            names::check_direct(offset, buf)?;
        }
        let control = &self.shared.control;
        control.pass(MemOp::Read)?;
        let n = self.inode.content.read().bytes.read(offset, buf);
        control.reads.fetch_add(1, Relaxed);
        control.bytes_read.fetch_add(n as u64, Relaxed);
        Ok(n)
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        if self.mode.direct {
            names::check_direct(offset, buf)?;
        }
        let end = names::end_of(offset, buf.len() as u64)?;
        let grown = |len: u64| if buf.is_empty() { len } else { len.max(end) };
        self.change(grown, |bytes, _| bytes.write(offset, buf, self.mode.dsync))?;
        self.shared.control.writes.fetch_add(1, Relaxed);
        self.shared.control.bytes_written.fetch_add(buf.len() as u64, Relaxed);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let _gate = self.shared.gate.read();
        self.shared.control.pass(MemOp::Sync)?;
        self.inode.content.write().bytes.sync();
        self.shared.control.syncs.fetch_add(1, Relaxed);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.inode.content.read().bytes.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        names::end_of(0, len)?;
        self.change(|_| len, FileBytes::set_len)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = names::end_of(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        self.change(|now| now.max(end), FileBytes::set_len)
    }

    fn bypasses_cache(&self) -> bool {
        self.mode.direct
    }
}
