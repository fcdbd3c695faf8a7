//! The real disk: a directory of a Unix file system.
//!
//! Three decisions are worth a word. *Short and interrupted* transfers are finished here, so nobody above
//! sees one. *Direct* transfers are switched on after the file is open (`fcntl`), not by a flag of `open`: a
//! file system that does not take O_DIRECT may otherwise have created the file by the time it refuses.
//! *Failed syncs* are handed up untouched and never repeated: the kernel may have dropped the dirty pages and
//! would report success the second time.
#![allow(unsafe_code)]

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::aligned::AlignedBuf;
use crate::continued::{continued, continued_write};
use crate::names::{self, SECTOR};
use crate::{Disk, DiskFile, DiskLock, OpenMode};

/// How many threads write runs past the cache at once.
const WRITERS: usize = 8;
/// For so many runs there is another.
const RUNS_EACH: usize = 4;

/// A directory of the file system.
#[derive(Debug, Clone)]
pub struct PosixDisk {
    root: PathBuf,
}

impl PosixDisk {
    /// A disk on an existing directory.
    ///
    /// # Errors
    /// `NotFound` if there is none, `NotADirectory` if the path is something else.
    pub fn open(path: impl AsRef<Path>) -> io::Result<PosixDisk> {
        let root = path.as_ref().to_path_buf();
        if !fs::metadata(&root)?.is_dir() {
            return Err(io::Error::new(
                io::ErrorKind::NotADirectory,
                format!("not a directory: {}", root.display()),
            ));
        }
        Ok(PosixDisk { root })
    }

    /// A disk on a directory that is created, with its parents, if it does not exist. Its name is durable
    /// when this returns.
    ///
    /// # Errors
    /// As the operating system says.
    pub fn create(path: impl AsRef<Path>) -> io::Result<PosixDisk> {
        let root = path.as_ref();
        create_durably(root)?;
        PosixDisk::open(root)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.root
    }

    fn file(&self, name: &str) -> io::Result<PathBuf> {
        names::split(name)?;
        Ok(self.root.join(name))
    }

    fn dir(&self, dir: &str) -> io::Result<PathBuf> {
        names::check_dir(dir)?;
        // Joining "" would append a slash, harmless but ugly in messages.
        Ok(if dir.is_empty() { self.root.clone() } else { self.root.join(dir) })
    }
}

/// Creates `dir` and its parents, and makes each new name durable in the directory that holds it.
fn create_durably(dir: &Path) -> io::Result<()> {
    let parent = match dir.parent() {
        Some(p) if p.as_os_str().is_empty() => Path::new("."),
        Some(p) => p,
        None => return Ok(()),
    };
    if !dir.is_dir() {
        if !parent.is_dir() {
            create_durably(parent)?;
        }
        match fs::create_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            done => done?,
        }
    }
    // Also when it existed: whoever made it may have crashed before this line. A parent that we may pass but
    // not read (a shared mount point) cannot be synced by us; then the name was there before us.
    match sync_path(parent) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        done => done,
    }
}

fn sync_path(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

impl Disk for PosixDisk {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        names::check_mode(name, mode)?;
        let path = self.file(name)?;
        let mut options = OpenOptions::new();
        options.read(true).write(!mode.read_only).create(mode.create).create_new(mode.create_new);
        if mode.dsync {
            options.custom_flags(libc::O_DSYNC);
        }
        let file = options.open(&path)?;
        if !file.metadata()?.is_file() {
            return Err(names::is_a_directory(name));
        }
        let direct = mode.direct && set_direct(&file);
        Ok(Arc::new(PosixFile { file, direct }))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut out = Vec::new();
        for entry in fs::read_dir(self.dir(dir)?)? {
            let entry = entry?;
            // A name that is not UTF-8 is none of ours.
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                out.push(name);
            }
        }
        Ok(out)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        let path = self.dir(dir)?;
        match fs::create_dir(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            done => done,
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.file(from)?, self.file(to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.file(name)?)
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        match fs::metadata(self.file(name)?) {
            Ok(m) => Ok(m.is_file()),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
            Err(e) => Err(e),
        }
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        sync_path(&self.dir(dir)?)
    }

    fn lock(&self, name: &str) -> io::Result<Box<dyn DiskLock>> {
        let path = self.file(name)?;
        // Opened anew for every lock: `flock` belongs to the open file description, so a second call in this
        // process is refused like one from another. The descriptor is close-on-exec (Rust's default).
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        loop {
            // SAFETY: `flock` takes no memory; the descriptor is open for the duration of the call.
            if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } == 0 {
                return Ok(Box::new(PosixLock { file }));
            }
            let e = io::Error::last_os_error();
            match e.kind() {
                io::ErrorKind::Interrupted => {}
                io::ErrorKind::WouldBlock => return Err(names::locked(name)),
                _ => return Err(e),
            }
        }
    }

    fn describe(&self) -> String {
        self.root.display().to_string()
    }
}

#[derive(Debug)]
struct PosixLock {
    file: File,
}

impl DiskLock for PosixLock {}

impl Drop for PosixLock {
    fn drop(&mut self) {
        // Closing would do, but not while a child forked by another thread has yet to exec: it shares the
        // description. SAFETY: as in `lock`.
        let _ = unsafe { libc::flock(self.file.as_raw_fd(), libc::LOCK_UN) };
    }
}

/// Switches O_DIRECT on; whether the file system took it, for sectors of 512 bytes.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn set_direct(file: &File) -> bool {
    if direct_grain(file).is_some_and(|grain| grain == 0 || grain > SECTOR as u32) {
        return false;
    }
    let fd = file.as_raw_fd();
    // SAFETY: both calls only read and set flags of an open descriptor.
    unsafe {
        let flags = libc::fcntl(fd, libc::F_GETFL);
        flags >= 0 && libc::fcntl(fd, libc::F_SETFL, flags | libc::O_DIRECT) == 0
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn set_direct(_: &File) -> bool {
    false
}

/// The multiple that offsets of direct transfers must be, if the kernel tells (Linux 6.1); 0 means "not at
/// all".
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn direct_grain(file: &File) -> Option<u32> {
    /// STATX_DIOALIGN of linux/stat.h.
    const DIOALIGN: u32 = 0x2000;
    // SAFETY: `statx` is plain integers, for which zero is a value.
    let mut st: libc::statx = unsafe { std::mem::zeroed() };
    // SAFETY: an empty C string, and a struct of the kernel's layout that outlives the call.
    let rc =
        unsafe { libc::statx(file.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, DIOALIGN, &raw mut st) };
    (rc == 0 && st.stx_mask & DIOALIGN != 0).then_some(st.stx_dio_offset_align)
}

#[cfg(all(
    any(target_os = "linux", target_os = "android"),
    not(all(target_os = "linux", target_env = "gnu"))
))]
fn direct_grain(_: &File) -> Option<u32> {
    None
}

#[derive(Debug)]
struct PosixFile {
    file: File,
    direct: bool,
}

impl PosixFile {
    /// Makes room by writing zeros past the end, for file systems that cannot allocate. Bytes below the end
    /// are left alone: someone may be writing them.
    fn fill_with_zeros(&self, end: u64) -> io::Result<()> {
        let zeros = AlignedBuf::new(64 * 1024);
        let grain = if self.direct { SECTOR as u64 } else { 1 };
        let mut at = self.len()?;
        if at % grain != 0 && at < end {
            // The rest of a sector whose first part exists needs no new space.
            at = at.next_multiple_of(grain);
            self.file.set_len(at)?;
        }
        while at < end {
            let n = (end - at).next_multiple_of(grain).min(zeros.len() as u64);
            self.write_at(at, &zeros[..n as usize])?;
            at += n;
        }
        if at > end && self.len()? == at {
            self.file.set_len(end)?;
        }
        Ok(())
    }
}

impl DiskFile for PosixFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        continued(buf.len(), |done| {
            // A direct read that ends inside a sector met the end of the file, and could not go on from there.
            if self.direct && !done.is_multiple_of(SECTOR) {
                return Ok(0);
            }
            self.file.read_at(&mut buf[done..], offset + done as u64)
        })
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        names::end_of(offset, buf.len() as u64)?;
        continued_write(buf.len(), |done| self.file.write_at(&buf[done..], offset + done as u64))
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn write_vectored_at(&self, offset: u64, bufs: &[&[u8]]) -> io::Result<()> {
        /// UIO_MAXIOV of Linux.
        const MOST: usize = 1024;
        let total = bufs.iter().fold(0u64, |sum, b| sum.saturating_add(b.len() as u64));
        names::end_of(offset, total)?;
        // `rest[0]` has `skip` bytes behind it already; `at` is how many all that is behind us has.
        let (mut rest, mut skip, mut at) = (bufs, 0, 0);
        let mut parts: Vec<libc::iovec> = Vec::with_capacity(bufs.len().min(MOST));
        // What lies in memory is shorter than `usize::MAX`.
        continued_write(total as usize, |done| {
            while let Some(first) = rest.first()
                && first.len() - skip <= done - at
            {
                at += first.len() - skip;
                (rest, skip) = (&rest[1..], 0);
            }
            (skip, at) = (skip + (done - at), done);
            parts.clear();
            parts.extend(rest.iter().take(MOST).enumerate().map(|(i, b)| {
                let b = if i == 0 { &b[skip..] } else { b };
                libc::iovec { iov_base: b.as_ptr().cast_mut().cast(), iov_len: b.len() }
            }));
            // SAFETY: every part points into a slice borrowed for the whole call; the kernel only reads them.
            // At most 1024 parts, so the count fits; `end_of` made sure that the offset does.
            let n = unsafe {
                libc::pwritev64(
                    self.file.as_raw_fd(),
                    parts.as_ptr(),
                    parts.len() as libc::c_int,
                    (offset + done as u64) as libc::off64_t,
                )
            };
            usize::try_from(n).map_err(|_| io::Error::last_os_error())
        })
    }

    /// Past the cache each write waits for the device, which takes many at a time: threads that live as long as the call share
    /// them. Through the cache a write is a copy, and one thread makes them all.
    fn write_runs(&self, runs: &[(u64, &[u8])]) -> Result<(), (usize, io::Error)> {
        let next = AtomicUsize::new(0);
        let failed = Mutex::new(None);
        let write = || {
            while let Some(i) = Some(next.fetch_add(1, Relaxed)).filter(|i| *i < runs.len()) {
                let (offset, buf) = runs[i];
                if let Err(e) = self.write_at(offset, buf) {
                    // Nobody begins another.
                    next.store(runs.len(), Relaxed);
                    failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert((i, e));
                }
            }
        };
        let helpers = if self.direct { (runs.len() / RUNS_EACH).min(WRITERS) } else { 1 };
        thread::scope(|s| {
            for _ in 1..helpers {
                // Without it the others have more to do.
                let _ = thread::Builder::new().name("hamal-writer".into()).spawn_scoped(s, write);
            }
            write();
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = names::end_of(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        match reserve(&self.file, offset, len) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENOSYS)) => {
                self.fill_with_zeros(end)
            }
            done => done,
        }
    }

    fn bypasses_cache(&self) -> bool {
        self.direct
    }

    #[cfg(any(target_os = "linux", target_os = "android", target_os = "freebsd"))]
    fn drop_cache(&self) -> io::Result<()> {
        // SAFETY: advice about an open descriptor; no memory is passed.
        match unsafe { libc::posix_fadvise(self.file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) } {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(code)),
        }
    }
}

/// Asks the file system for space, without the C library's emulation (which would race with writers).
#[cfg(any(target_os = "linux", target_os = "android"))]
fn reserve(file: &File, offset: u64, len: u64) -> io::Result<()> {
    loop {
        // SAFETY: integers only; the caller made sure that both fit an `off64_t`.
        let rc =
            unsafe { libc::fallocate64(file.as_raw_fd(), 0, offset as libc::off64_t, len as libc::off64_t) };
        if rc == 0 {
            return Ok(());
        }
        let e = io::Error::last_os_error();
        if e.kind() != io::ErrorKind::Interrupted {
            return Err(e);
        }
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn reserve(_: &File, _: u64, _: u64) -> io::Result<()> {
    Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_filling_keeps_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        for direct in [false, true] {
            let path = dir.path().join("f");
            let file =
                OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).unwrap();
            file.write_at(b"abc", 0).unwrap();
            let direct = direct && set_direct(&file);
            let f = PosixFile { file, direct };
            f.fill_with_zeros(200_001).unwrap();
            assert_eq!(f.len().unwrap(), 200_001);
            let mut b = AlignedBuf::new(204_800);
            assert_eq!(f.read_at(0, &mut b).unwrap(), 200_001);
            assert_eq!(&b[..3], b"abc");
            assert!(b[3..].iter().all(|&x| x == 0));
        }
    }

    #[test]
    fn runs_are_written_by_several_threads_and_an_error_names_its_run() {
        let dir = tempfile::tempdir().unwrap();
        let disk = PosixDisk::open(dir.path()).unwrap();
        for direct in [false, true] {
            let f = disk.open("f", OpenMode { create: true, direct, ..OpenMode::default() }).unwrap();
            let mut bytes = AlignedBuf::new(100 * 4096);
            bytes.chunks_exact_mut(4096).enumerate().for_each(|(i, c)| c.fill(i as u8 + 1));
            // Every second block, from the last to the first.
            let mut runs: Vec<(u64, &[u8])> =
                bytes.chunks_exact(4096).enumerate().map(|(i, c)| (i as u64 * 8192, c)).rev().collect();
            f.write_runs(&runs).unwrap();
            f.write_runs(&[]).unwrap();
            let mut all = AlignedBuf::new(200 * 4096);
            assert_eq!(f.read_at(0, &mut all).unwrap(), 199 * 4096);
            for (i, c) in all.chunks_exact(8192).enumerate() {
                assert!(
                    c[..4096].iter().all(|b| *b == i as u8 + 1) && c[4096..].iter().all(|b| *b == 0),
                    "{i}"
                );
            }
            runs[70].0 = u64::MAX - 4095;
            assert_eq!(f.write_runs(&runs).unwrap_err().0, 70);
        }
    }

    #[test]
    fn create_makes_parents_and_open_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        assert_eq!(PosixDisk::open(&deep).unwrap_err().kind(), io::ErrorKind::NotFound);
        PosixDisk::create(&deep).unwrap();
        PosixDisk::create(&deep).unwrap();
        assert_eq!(PosixDisk::open(&deep).unwrap().path(), deep);
        fs::write(deep.join("f"), "x").unwrap();
        assert_eq!(PosixDisk::open(deep.join("f")).unwrap_err().kind(), io::ErrorKind::NotADirectory);
    }
}
