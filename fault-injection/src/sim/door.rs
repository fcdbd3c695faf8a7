//! The calls of an engine: the simulated disk as a `Disk`, and its files.
use super::content::{Content, SECTOR, hash};
use super::disk::SimDisk;
use super::live::LiveFile;
use super::names;
use super::state::{Change, Effect, dir_of, site};
use super::{Act, FileId, IoEvent, Wrong};
use hamal::disk::{Disk, DiskFile, DiskLock, OpenMode, continued, continued_write};
use std::fmt;
use std::io;
use std::sync::Arc;

impl Disk for SimDisk {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        names::check_mode(name, mode)?;
        names::check_file(name)?;
        let mut inner = self.on()?;
        inner.note(hash(name.as_bytes()));
        inner.check_dir(dir_of(name))?;
        if inner.names.dirs.contains(name) {
            return Err(names::is_a_directory(name));
        }
        let known = inner.names.files.get_key_value(name).map(|(n, id)| (n.clone(), *id));
        let (name, id) = match known {
            Some(_) if mode.create_new => return Err(names::already_exists(name)),
            Some(known) => known,
            None if mode.create || mode.create_new => {
                inner.pass(site(name, Act::Create))?;
                let (name, id): (Arc<str>, _) = (Arc::from(name), inner.files.len() as FileId);
                inner.change_names(Act::Create, &name, vec![Change::Link { name: name.clone(), file: id }]);
                inner.files.push(Some(LiveFile { now: Content::default(), len: 0, open: None }));
                (name, id)
            }
            None => return Err(names::not_found(name)),
        };
        let role = super::role(&name);
        Ok(Arc::new(SimFile { disk: self.clone(), id, name, role, mode }))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        names::check_dir(dir)?;
        let mut inner = self.on()?;
        inner.note(hash(dir.as_bytes()));
        inner.check_dir(dir)?;
        let here = inner.names.files.keys().filter(|name| dir_of(name) == dir);
        Ok(here.map(|name| name.rsplit('/').next().unwrap_or(name).to_owned()).collect())
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        names::check_dir(dir)?;
        let mut inner = self.on()?;
        if dir.is_empty() {
            return Ok(());
        }
        inner.ask_dir("");
        if inner.names.files.contains_key(dir) {
            return Err(names::already_exists(dir));
        }
        if !inner.names.dirs.contains(dir) {
            inner.pass(site(dir, Act::MakeDir))?;
            let name: Arc<str> = Arc::from(dir);
            inner.change_names(Act::MakeDir, &name, vec![Change::MakeDir { name: name.clone() }]);
        }
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        names::check_file(from)?;
        names::check_file(to)?;
        let mut inner = self.on()?;
        inner.ask_dir(dir_of(from));
        let known = inner.names.files.get_key_value(from).map(|(n, id)| (n.clone(), *id));
        let (from, file) = known.ok_or_else(|| names::not_found(from))?;
        inner.check_dir(dir_of(to))?;
        if inner.names.dirs.contains(to) {
            return Err(names::is_a_directory(to));
        }
        if *from == *to {
            return Ok(());
        }
        inner.pass(site(to, Act::Rename))?;
        let to: Arc<str> = Arc::from(to);
        let changes = if dir_of(&from) == dir_of(&to) {
            vec![Change::Rename { from, to: to.clone(), file }]
        } else {
            vec![Change::Link { name: to.clone(), file }, Change::Unlink { name: from, file }]
        };
        inner.change_names(Act::Rename, &to, changes);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        names::check_file(name)?;
        let mut inner = self.on()?;
        inner.ask_dir(dir_of(name));
        let known = inner.names.files.get_key_value(name).map(|(n, id)| (n.clone(), *id));
        let (name, file) = known.ok_or_else(|| names::not_found(name))?;
        inner.pass(site(&name, Act::Remove))?;
        inner.change_names(Act::Remove, &name.clone(), vec![Change::Unlink { name, file }]);
        Ok(())
    }

    fn exists(&self, name: &str) -> io::Result<bool> {
        names::check_file(name)?;
        let mut inner = self.on()?;
        inner.note(hash(name.as_bytes()));
        inner.ask_dir(dir_of(name));
        Ok(inner.names.files.contains_key(name))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        names::check_dir(dir)?;
        let mut inner = self.on()?;
        inner.check_dir(dir)?;
        let at = site(dir, Act::SyncDir);
        let dir: Arc<str> = Arc::from(dir);
        let event = IoEvent { site: at, file: 0, name: dir.clone(), range: 0..0 };
        match inner.strike(at) {
            Some(Wrong::Eio | Wrong::Dies) => Err(names::eio()),
            Some(Wrong::NoSpace) => Err(names::no_space()),
            Some(Wrong::Lie | Wrong::LostWrite) => {
                inner.change(event, &[], Effect::Nothing);
                Ok(())
            }
            _ => {
                inner.change(event, &[], Effect::SyncDir { dir });
                Ok(())
            }
        }
    }

    fn lock(&self, name: &str) -> io::Result<Box<dyn DiskLock>> {
        self.open(name, OpenMode { create: true, ..OpenMode::default() })?;
        let name: Arc<str> = Arc::from(name);
        if !self.on()?.locks.insert(name.clone()) {
            return Err(names::locked(&name));
        }
        Ok(Box::new(SimLock { disk: self.clone(), name }))
    }

    fn describe(&self) -> String {
        "a simulated disk".to_owned()
    }
}

struct SimLock {
    disk: SimDisk,
    name: Arc<str>,
}

impl DiskLock for SimLock {}

impl fmt::Debug for SimLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimLock({:?})", self.name)
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        // The locks of a dead process went with it; what has the name now is another's.
        if !self.disk.is_off() {
            self.disk.lock_inner().locks.remove(&self.name);
        }
    }
}

/// An open file of a [`SimDisk`].
pub(super) struct SimFile {
    disk: SimDisk,
    pub(super) id: FileId,
    pub(super) name: Arc<str>,
    pub(super) role: &'static str,
    pub(super) mode: OpenMode,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFile").field("name", &self.name).field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl SimFile {
    fn check_writable(&self) -> io::Result<()> {
        if self.mode.read_only { Err(names::read_only()) } else { Ok(()) }
    }
}

impl DiskFile for SimFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        if self.mode.direct {
            names::check_direct(offset, buf)?;
        }
        let mut again = false;
        continued(buf.len(), |done| {
            if self.mode.direct && !(done as u64).is_multiple_of(SECTOR) {
                return Ok(0);
            }
            self.disk.on()?.read(self, offset + done as u64, &mut buf[done..], &mut again)
        })
    }

    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        if self.mode.direct {
            names::check_direct(offset, buf)?;
        }
        self.check_writable()?;
        names::end_of(offset, buf.len() as u64)?;
        let mut again = false;
        continued_write(buf.len(), |done| {
            self.disk.on()?.write(self, offset + done as u64, &buf[done..], &mut again)
        })
    }

    fn write_vectored_at(&self, offset: u64, bufs: &[&[u8]]) -> io::Result<()> {
        if self.mode.direct {
            bufs.iter().try_for_each(|b| names::check_direct(offset, b))?;
        }
        self.check_writable()?;
        let all = bufs.concat();
        names::end_of(offset, all.len() as u64)?;
        let mut again = false;
        continued_write(all.len(), |done| {
            self.disk.on()?.write(self, offset + done as u64, &all[done..], &mut again)
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.disk.on()?.sync(self)
    }

    fn len(&self) -> io::Result<u64> {
        let mut inner = self.disk.on()?;
        inner.note(u64::from(self.id));
        inner.length(self.id)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        names::end_of(0, len)?;
        self.disk.on()?.set_len(self, len, false)
    }

    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.check_writable()?;
        let end = names::end_of(offset, len)?;
        if len == 0 {
            return Ok(());
        }
        self.disk.on()?.set_len(self, end, true)
    }

    fn bypasses_cache(&self) -> bool {
        self.mode.direct && self.disk.has_bypass()
    }
}
