//! Closing while another thread is at work: once the files are let go of nothing writes to them (T16).
mod common;

use common::small;
use hamal::disk::{Disk, DiskFile, DiskLock, MemDisk, OpenMode};
use hamal::{Error, ErrorKind};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// A disk on which the next sync of the table of page versions says that it has come, and waits.
#[derive(Clone, Debug)]
struct Slow {
    disk: MemDisk,
    gate: Arc<Gate>,
}

#[derive(Debug)]
struct Gate {
    armed: AtomicBool,
    come: Sender<()>,
    go: Mutex<Receiver<()>>,
}

#[derive(Debug)]
struct SlowFile {
    file: Arc<dyn DiskFile>,
    gate: Option<Arc<Gate>>,
}

impl DiskFile for SlowFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, buf)
    }
    fn sync(&self) -> io::Result<()> {
        if let Some(gate) = self.gate.as_ref().filter(|g| g.armed.swap(false, SeqCst)) {
            gate.come.send(()).unwrap();
            gate.go.lock().unwrap().recv().unwrap();
        }
        self.file.sync()
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
}

impl Disk for Slow {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(name, mode)?;
        Ok(Arc::new(SlowFile { file, gate: (name == "versions").then(|| self.gate.clone()) }))
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.create_dir(dir)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn exists(&self, name: &str) -> io::Result<bool> {
        self.disk.exists(name)
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
    fn lock(&self, name: &str) -> io::Result<Box<dyn DiskLock>> {
        self.disk.lock(name)
    }
    fn describe(&self) -> String {
        self.disk.describe()
    }
}

/// The engine has stopped, so closing has nothing to settle; a checkpoint of another thread is about to write the control file.
#[test]
fn closing_waits_for_a_checkpoint_that_is_under_way() {
    let (come, wait_come) = channel();
    let (go, wait_go) = channel();
    let gate = Arc::new(Gate { armed: false.into(), come, go: Mutex::new(wait_go) });
    let disk = Slow { disk: MemDisk::new(), gate: gate.clone() };
    let db = small().create_on(Arc::new(disk.clone())).unwrap();
    let tx = db.begin_write().unwrap();
    tx.create_tree("t").unwrap().put("k", "v").unwrap();
    tx.commit().unwrap();
    gate.armed.store(true, SeqCst);
    let (done, wait_done) = channel();
    thread::scope(|s| {
        let checkpoint = s.spawn(|| db.checkpoint());
        wait_come.recv().unwrap();
        db.engine().txns().log().poison(Error::new(ErrorKind::Io, "a device failed"));
        let closing = s.spawn(|| {
            let closed = db.close();
            done.send(()).unwrap();
            closed
        });
        let early = wait_done.recv_timeout(Duration::from_millis(300));
        go.send(()).unwrap();
        assert!(early.is_err(), "the files were let go of while a checkpoint was about to write");
        let _ = checkpoint.join().unwrap();
        assert!(closing.join().unwrap().is_err());
    });
    let db = small().open_on(Arc::new(disk.disk.clone())).unwrap();
    assert_eq!(db.begin_read().unwrap().tree("t").unwrap().get("k").unwrap().unwrap(), b"v");
}
