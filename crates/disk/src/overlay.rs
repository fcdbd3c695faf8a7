//! A disk laid over another: reads see through it, changes stay in memory.
//!
//! Reading commands look at a crashed database through it: recovery may run, and write, without a byte of the
//! evidence changing. What is underneath (the *base*) is only ever opened for reading; not even a lock is
//! taken there.
//!
//! A file of the base that was not changed through the overlay is passed through as it is, growth included.
//! At its first change its length is fixed as the overlay sees it, and each block of 64 KiB that is written
//! is copied first. A name, once opened, stays the file that it was then, whatever is renamed underneath.
//! Nothing is ever lost or made durable: a sync succeeds and does nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock};

use crate::aligned::AlignedBuf;
use crate::names;
use crate::{Disk, DiskFile, DiskLock, OpenMode};

/// The unit of copying, in bytes; a multiple of every sector, so that direct reads may be split at it.
const BLOCK: u64 = 64 * 1024;

/// A disk whose changes stay in memory, over a base that is never changed.
pub struct OverlayDisk {
    base: Arc<dyn Disk>,
    names: Mutex<Names>,
    locks: Arc<Mutex<BTreeSet<String>>>,
}

#[derive(Default)]
struct Names {
    /// Files that were opened, created, or renamed; `None` hides a file of the base. Other names are the
    /// base's.
    files: BTreeMap<String, Option<Arc<Node>>>,
    /// Directories created here.
    dirs: BTreeSet<String>,
}

/// A file as the overlay sees it.
struct Node {
    /// The file underneath, unless it was created here.
    base: Option<Under>,
    /// `None` until the first change.
    changes: RwLock<Option<Changes>>,
}

/// A file of the base, opened once in either way.
struct Under {
    plain: Arc<dyn DiskFile>,
    direct: Arc<dyn DiskFile>,
}

struct Changes {
    len: u64,
    /// The base shows through below this offset only: what was cut off stays off when the file grows again.
    base_len: u64,
    blocks: BTreeMap<u64, AlignedBuf>,
}

impl OverlayDisk {
    /// An overlay without changes.
    pub fn new(base: Arc<dyn Disk>) -> OverlayDisk {
        OverlayDisk { base, names: Mutex::default(), locks: Arc::default() }
    }

    fn check_dir(&self, names: &Names, dir: &str) -> io::Result<()> {
        if dir.is_empty() || names.dirs.contains(dir) { Ok(()) } else { self.base.list(dir).map(drop) }
    }

    /// The file `name`, if there is one.
    fn node(&self, names: &mut Names, name: &str) -> io::Result<Option<Arc<Node>>> {
        if let Some(known) = names.files.get(name) {
            return Ok(known.clone());
        }
        if !self.base.exists(name)? {
            return Ok(None);
        }
        let read = OpenMode { read_only: true, ..OpenMode::default() };
        let plain = self.base.open(name, read)?;
        let direct = self.base.open(name, OpenMode { direct: true, ..read })?;
        let node = Arc::new(Node { base: Some(Under { plain, direct }), changes: RwLock::new(None) });
        names.files.insert(name.to_owned(), Some(node.clone()));
        Ok(Some(node))
    }

    fn is_dir(&self, names: &Names, name: &str) -> bool {
        !name.contains('/') && self.check_dir(names, name).is_ok()
    }

    fn get_or_create(&self, names: &mut Names, name: &str, mode: OpenMode) -> io::Result<Arc<Node>> {
        let (dir, _) = names::split(name)?;
        self.check_dir(names, dir)?;
        match self.node(names, name)? {
            Some(_) if mode.create_new => Err(names::already_exists(name)),
            Some(node) => Ok(node),
            None if self.is_dir(names, name) => Err(names::is_a_directory(name)),
            None if mode.create || mode.create_new => {
                let empty = Changes { len: 0, base_len: 0, blocks: BTreeMap::new() };
                let node = Arc::new(Node { base: None, changes: RwLock::new(Some(empty)) });
                names.files.insert(name.to_owned(), Some(node.clone()));
                Ok(node)
            }
            None => Err(names::not_found(name)),
        }
    }
}

impl fmt::Debug for OverlayDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OverlayDisk").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Disk for OverlayDisk {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        names::check_mode(name, mode)?;
        let node = self.get_or_create(&mut self.names.lock(), name, mode)?;
        Ok(Arc::new(OverlayFile { node, mode }))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        names::check_dir(dir)?;
        let names = self.names.lock();
        let below = match self.base.list(dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && names.dirs.contains(dir) => Vec::new(),
            done => done?,
        };
        let full = |file: &str| if dir.is_empty() { file.to_owned() } else { format!("{dir}/{file}") };
        let mut out: Vec<String> =
            below.into_iter().filter(|file| !names.files.contains_key(&full(file))).collect();
        for (name, file) in &names.files {
            let (here, file_name) = name.rsplit_once('/').unwrap_or(("", name));
            if here == dir && file.is_some() {
                out.push(file_name.to_owned());
            }
        }
        Ok(out)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        names::check_dir(dir)?;
        let mut names = self.names.lock();
        if !dir.is_empty() && self.node(&mut names, dir)?.is_some() {
            return Err(names::already_exists(dir));
        }
        if !dir.is_empty() {
            names.dirs.insert(dir.to_owned());
        }
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        names::split(from)?;
        let (to_dir, _) = names::split(to)?;
        let mut names = self.names.lock();
        let node = self.node(&mut names, from)?.ok_or_else(|| names::not_found(from))?;
        self.check_dir(&names, to_dir)?;
        if self.is_dir(&names, to) {
            return Err(names::is_a_directory(to));
        }
        if from != to {
            names.files.insert(from.to_owned(), None);
            names.files.insert(to.to_owned(), Some(node));
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        names::split(name)?;
        let mut names = self.names.lock();
        self.node(&mut names, name)?.ok_or_else(|| names::not_found(name))?;
        names.files.insert(name.to_owned(), None);
        Ok(())
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        names::split(name)?;
        match self.names.lock().files.get(name) {
            Some(known) => Ok(known.is_some()),
            None => self.base.exists(name),
        }
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        names::check_dir(dir)?;
        self.check_dir(&self.names.lock(), dir)
    }

    fn lock(&self, name: &str) -> io::Result<Box<dyn DiskLock>> {
        let create = OpenMode { create: true, ..OpenMode::default() };
        self.get_or_create(&mut self.names.lock(), name, create)?;
        if !self.locks.lock().insert(name.to_owned()) {
            return Err(names::locked(name));
        }
        Ok(Box::new(OverlayLock { locks: self.locks.clone(), name: name.to_owned() }))
    }

    fn describe(&self) -> String {
        format!("{} (changes kept in memory)", self.base.describe())
    }
}

#[derive(Debug)]
struct OverlayLock {
    locks: Arc<Mutex<BTreeSet<String>>>,
    name: String,
}

impl DiskLock for OverlayLock {}

impl Drop for OverlayLock {
    fn drop(&mut self) {
        self.locks.lock().remove(&self.name);
    }
}

struct OverlayFile {
    node: Arc<Node>,
    mode: OpenMode,
}

impl fmt::Debug for OverlayFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OverlayFile").field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl Changes {
    /// Fills `out` with what lies at `offset` before any change: the base as far as it shows through, then
    /// zeros.
    fn read_below(&self, base: Option<&Arc<dyn DiskFile>>, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let shows = self.base_len.saturating_sub(offset).min(out.len() as u64) as usize;
        let mut got = 0;
        if shows > 0
            && let Some(base) = base
        {
            // All of `out` is asked for, though less may show through, since a direct read must be of whole
            // sectors.
            got = base.read_at(offset, out)?.min(shows);
        }
        out[got..].fill(0);
        Ok(())
    }

    /// The pieces of `len` bytes at `offset`: block, offset in the block, range in the caller's buffer.
    fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            let at = offset + done as u64;
            let from = (at % BLOCK) as usize;
            let take = (BLOCK as usize - from).min(len - done);
            let piece = (at / BLOCK, from, done..done + take);
            done += take;
            (take > 0).then_some(piece)
        })
    }

    fn read(&self, base: Option<&Arc<dyn DiskFile>>, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.len.saturating_sub(offset).min(buf.len() as u64) as usize;
        for (block, from, range) in Self::pieces(offset, buf.len()) {
            if range.start >= n {
                break;
            }
            let at = offset + range.start as u64;
            let out = &mut buf[range];
            match self.blocks.get(&block) {
                Some(bytes) => out.copy_from_slice(&bytes[from..from + out.len()]),
                None => self.read_below(base, at, out)?,
            }
        }
        Ok(n)
    }

    fn write(&mut self, base: Option<&Arc<dyn DiskFile>>, offset: u64, buf: &[u8]) -> io::Result<()> {
        for (block, from, range) in Self::pieces(offset, buf.len()) {
            if !self.blocks.contains_key(&block) {
                let mut bytes = AlignedBuf::new(BLOCK as usize);
                if range.len() < BLOCK as usize {
                    self.read_below(base, block * BLOCK, &mut bytes)?;
                }
                self.blocks.insert(block, bytes);
            }
            if let Some(bytes) = self.blocks.get_mut(&block) {
                bytes[from..from + range.len()].copy_from_slice(&buf[range]);
            }
        }
        if !buf.is_empty() {
            self.len = self.len.max(offset + buf.len() as u64);
        }
        Ok(())
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.base_len = self.base_len.min(len);
            self.blocks.retain(|block, _| block * BLOCK < len);
            if let Some(bytes) = self.blocks.get_mut(&(len / BLOCK)) {
                bytes[(len % BLOCK) as usize..].fill(0);
            }
        }
        self.len = len;
    }
}

impl OverlayFile {
    /// The file underneath, opened the way this handle was.
    fn base(&self) -> Option<&Arc<dyn DiskFile>> {
        self.node.base.as_ref().map(|under| if self.mode.direct { &under.direct } else { &under.plain })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Changes) -> io::Result<T>) -> io::Result<T> {
        if self.mode.read_only {
            return Err(names::read_only_error());
        }
        let mut changes = self.node.changes.write();
        if changes.is_none() {
            let len = self.base().map_or(Ok(0), |base| base.len())?;
            *changes = Some(Changes { len, base_len: len, blocks: BTreeMap::new() });
        }
        match changes.as_mut() {
            Some(changes) => change(changes),
            None => unreachable!("set above, under the same lock"),
        }
    }
}

impl DiskFile for OverlayFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        if self.bypasses_cache() {
            names::check_direct(offset, buf)?;
        }
        match (&*self.node.changes.read(), self.base()) {
            (Some(changes), base) => changes.read(base, offset, buf),
            (None, Some(base)) => base.read_at(offset, buf),
            (None, None) => Ok(0),
        }
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        if self.bypasses_cache() {
            names::check_direct(offset, buf)?;
        }
        names::end_of(offset, buf.len() as u64)?;
        self.change(|changes| changes.write(self.base(), offset, buf))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        match (&*self.node.changes.read(), self.base()) {
            (Some(changes), _) => Ok(changes.len),
            (None, Some(base)) => base.len(),
            (None, None) => Ok(0),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        names::end_of(0, len)?;
        self.change(|changes| {
            changes.set_len(len);
            Ok(())
        })
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = names::end_of(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        self.change(|changes| {
            changes.len = changes.len.max(end);
            Ok(())
        })
    }

    fn bypasses_cache(&self) -> bool {
        self.mode.direct && self.base().is_some_and(|base| base.bypasses_cache())
    }

    fn drop_cache(&self) -> io::Result<()> {
        self.base().map_or(Ok(()), |base| base.drop_cache())
    }
}
