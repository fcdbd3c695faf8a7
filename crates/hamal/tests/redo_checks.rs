//! What redo looks at before it trusts a page, and that its report counts what it did: tests that mutants of `recovery/redo.rs` asked for.
mod common;

use common::{bytes, contents, small};
use hamal::disk::{CrashModel, Disk, DiskFile, DiskLock, MemDisk, OpenMode};
use hamal::raw::header;
use hamal::{Builder, Database, DbId, ErrorKind, Lsn, PageId, TornPages};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex};

const PAGE: usize = 4096;

fn file(disk: &MemDisk, name: &str) -> Vec<u8> {
    let f = disk.open(name, OpenMode::default()).unwrap();
    let mut bytes = vec![0; f.len().unwrap() as usize];
    f.read_at(0, &mut bytes).unwrap();
    bytes
}

fn overwrite(disk: &MemDisk, name: &str, at: usize, bytes: &[u8]) {
    disk.open(name, OpenMode::default()).unwrap().write_at(at as u64, bytes).unwrap();
}

fn files(disk: &MemDisk) -> BTreeMap<String, Vec<u8>> {
    let names = ["data", "control", "versions"].map(str::to_owned).into_iter();
    let segments = disk.list("wal").unwrap().into_iter().map(|n| format!("wal/{n}"));
    names.chain(segments).map(|n| (n.clone(), file(disk, &n))).collect()
}

fn put(db: &Database, tree: &str, n: u64) {
    let tx = db.begin_write().unwrap();
    tx.open_or_create_tree(tree).unwrap().put("row", bytes(n, 60)).unwrap();
    tx.commit().unwrap();
}

/// Two trees of one page each, and the two pages, which are on disk with images that the log still has.
struct Two {
    disk: MemDisk,
    db: Database,
    pages: [usize; 2],
    /// The data file before the last write of the first page.
    was: Vec<u8>,
}

fn two(builder: &Builder) -> Two {
    let disk = MemDisk::new();
    let db = builder.create_on(Arc::new(disk.clone())).unwrap();
    let settle = || {
        db.flush().unwrap();
        db.checkpoint().unwrap();
        file(&disk, "data")
    };
    ["a", "b"].iter().for_each(|tree| put(&db, tree, 1));
    let mut was = settle();
    let pages = ["b", "a"].map(|tree| {
        put(&db, tree, 2);
        let now = settle();
        let differs = |n: &usize| was[n * PAGE..(n + 1) * PAGE] != now[n * PAGE..(n + 1) * PAGE];
        let changed: Vec<usize> = (0..now.len() / PAGE).filter(differs).collect();
        was = now;
        let [page] = changed[..] else { panic!("{tree}: {changed:?}") };
        page
    });
    put(&db, "a", 3);
    let was = file(&disk, "data");
    db.flush().unwrap();
    // The newest page of all is not this one: the control file knows that one by itself.
    put(&db, "b", 3);
    db.flush().unwrap();
    db.checkpoint().unwrap();
    Two { disk, db, pages: [pages[1], pages[0]], was }
}

/// Nothing is known of the versions of pages: both copies of the table's block are damaged.
fn forget_versions(disk: &MemDisk) {
    for at in [1000, 5096] {
        let byte = file(disk, "versions")[at] ^ 1;
        overwrite(disk, "versions", at, &[byte]);
    }
}

/// A lost write of a page that redo applies records to: the first record says that it was made on another version, whatever the table of
/// versions says, and the page is rebuilt.
#[test]
fn the_first_record_says_which_version_it_was_made_on() {
    let Two { disk, db, pages: [page, _], was } = two(&small());
    put(&db, "a", 4);
    let expected = contents(&db).unwrap();
    let crash = disk.crash(CrashModel::KeepAll);
    for table in [true, false] {
        let disk = crash.crash(CrashModel::KeepAll);
        overwrite(&disk, "data", page * PAGE, &was[page * PAGE..(page + 1) * PAGE]);
        if !table {
            forget_versions(&disk);
        }
        let db = small().open_on(Arc::new(disk)).unwrap();
        let report = db.recovery_report();
        assert_eq!((report.pages_rebuilt, report.pages_read), (1, 1), "{report}");
        assert_eq!(contents(&db).unwrap(), expected);
    }
    // The sound page: read, and each of its records applied.
    let db = small().open_on(Arc::new(crash)).unwrap();
    let report = db.recovery_report();
    assert_eq!((report.pages_rebuilt, report.pages_read), (0, 1), "{report}");
    assert_eq!(report.redone, 1, "{report}");
}

/// A version that no history makes: newer than the page's last record, older than the log's end. It is noticed by what the page's last
/// record is, whatever the table of versions says.
#[test]
fn a_version_above_the_last_record_is_noticed() {
    let builder = small().torn_pages(TornPages::AtomicWrites);
    let Two { disk, db, pages: [page, _], .. } = two(&builder);
    put(&db, "a", 4);
    db.engine().pool().flush_page(PageId(page as u64)).unwrap();
    // So that the log's end is beyond.
    put(&db, "b", 4);
    let crash = disk.crash(CrashModel::KeepAll);
    let mut bytes = file(&crash, "data")[page * PAGE..(page + 1) * PAGE].to_vec();
    let lsn = header::page_lsn(&bytes);
    header::set_page_lsn(&mut bytes, Lsn(lsn.0 + 8));
    hamal_page::stamp(&mut bytes, DbId([7; 16]));
    overwrite(&crash, "data", page * PAGE, &bytes);
    for table in [true, false] {
        let disk = crash.crash(CrashModel::KeepAll);
        if !table {
            forget_versions(&disk);
        }
        match builder.open_on(Arc::new(disk)) {
            // The log may reach back to where the page was made.
            Ok(db) => assert_eq!(db.recovery_report().pages_rebuilt, 1, "{}", db.recovery_report()),
            Err(e) => {
                assert_eq!((e.kind(), e.page()), (ErrorKind::StalePage, Some(PageId(page as u64))), "{e}");
                assert!(e.to_string().contains("its last record is"), "{e}");
            }
        }
    }
}

/// What was applied, read and skipped, to the record: a page with two records below its recLSN, and one from there on.
#[test]
fn the_report_counts_each_record() {
    let builder = small().torn_pages(TornPages::AtomicWrites);
    let Two { disk, db, pages: [page, _], .. } = two(&builder);
    // Dirty from here on: the redo point.
    put(&db, "b", 3);
    put(&db, "a", 4);
    put(&db, "a", 5);
    db.engine().pool().flush_page(PageId(page as u64)).unwrap();
    put(&db, "a", 6);
    let taken = db.checkpoint().unwrap();
    assert!(taken.redo < taken.begin && taken.dirty_pages == 2, "{taken:?}");
    put(&db, "a", 7);
    let expected = contents(&db).unwrap();
    let db = builder.open_on(Arc::new(disk.crash(CrashModel::KeepAll))).unwrap();
    let report = db.recovery_report();
    assert_eq!((report.redone, report.pages_read, report.pages_rebuilt), (3, 2, 0), "{report}");
    assert_eq!(report.skipped.lsn_below_rec_lsn, 2, "{report}");
    assert_eq!(contents(&db).unwrap(), expected);

    // And one that was clean at the checkpoint, which the log names once.
    let Two { disk, db, pages: [page, _], .. } = two(&builder);
    put(&db, "b", 3);
    put(&db, "a", 4);
    db.engine().pool().flush_page(PageId(page as u64)).unwrap();
    let taken = db.checkpoint().unwrap();
    assert!(taken.redo < taken.begin && taken.dirty_pages == 1, "{taken:?}");
    let db = builder.open_on(Arc::new(disk.crash(CrashModel::KeepAll))).unwrap();
    let report = db.recovery_report();
    assert_eq!((report.redone, report.pages_read), (1, 1), "{report}");
    assert_eq!(report.skipped.page_not_in_dpt, 1, "{report}");
}

/// A page on disk that has all its records: written again without a way past the disk's cache, for what was read may not be on the
/// device (T4); left alone with one.
#[test]
fn what_came_out_of_a_cache_is_written_again() {
    let builder = small().torn_pages(TornPages::AtomicWrites);
    let Two { disk, db, pages: [page, _], .. } = two(&builder);
    put(&db, "a", 4);
    db.engine().pool().flush_page(PageId(page as u64)).unwrap();
    // Only so that there is something to redo in both cases.
    put(&db, "b", 4);
    let crash = disk.crash(CrashModel::KeepAll);
    for bypass in [true, false] {
        let watched = Watched { disk: crash.crash(CrashModel::KeepAll), bypass, written: Arc::default() };
        let db = builder.open_on(Arc::new(watched.clone())).unwrap();
        let report = db.recovery_report();
        assert_eq!((report.redone, report.skipped.page_lsn_not_below_lsn), (1, 1), "{report}");
        db.flush().unwrap();
        let written = watched.written.lock().unwrap().contains(&(page as u64));
        assert_eq!(written, !bypass, "bypass {bypass}");
    }
}

/// A disk that notes which pages of the data file are written, with a way past its cache or without.
#[derive(Clone, Debug)]
struct Watched {
    disk: MemDisk,
    bypass: bool,
    written: Arc<Mutex<BTreeSet<u64>>>,
}

#[derive(Debug)]
struct WatchedFile {
    file: Arc<dyn DiskFile>,
    data: bool,
    watched: Watched,
}

impl DiskFile for WatchedFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        if self.data {
            let pages = offset / PAGE as u64..(offset + buf.len() as u64).div_ceil(PAGE as u64);
            self.watched.written.lock().unwrap().extend(pages);
        }
        self.file.write_at(offset, buf)
    }
    fn sync(&self) -> io::Result<()> {
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
    fn bypasses_cache(&self) -> bool {
        self.watched.bypass && self.file.bypasses_cache()
    }
}

impl Disk for Watched {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let file = self.disk.open(name, mode)?;
        Ok(Arc::new(WatchedFile { file, data: name == "data", watched: self.clone() }))
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

/// `older`, with one page of `newer`: opening refuses it, and nothing was appended or written before (T7).
fn refused_untouched(
    builder: &Builder,
    older: &MemDisk,
    newer: &MemDisk,
    page: usize,
    bypass: bool,
    what: &str,
) {
    let disk = older.crash(CrashModel::KeepAll);
    let (was, is) = (file(older, "data"), file(newer, "data"));
    let at = page * PAGE..(page + 1) * PAGE;
    assert_ne!(was[at.clone()], is[at.clone()], "{what}");
    overwrite(&disk, "data", at.start, &is[at]);
    let before = files(&disk);
    let watched = Watched { disk: disk.clone(), bypass, written: Arc::default() };
    let e = builder.open_on(Arc::new(watched)).expect_err(what);
    assert_eq!((e.kind(), e.page()), (ErrorKind::LogBehindPages, Some(PageId(page as u64))), "{what}: {e}");
    let after = files(&disk);
    for (name, bytes) in &before {
        assert!(after.get(name) == Some(bytes), "{what}: {name} was written");
    }
}

/// A page that is rebuilt from its image, and whose version on disk is newer than the log (REC-15).
#[test]
fn a_newer_version_is_refused_though_the_log_has_an_image() {
    let Two { disk, db, pages: [page, _], .. } = two(&small());
    put(&db, "a", 4);
    db.engine().pool().flush_page(PageId(page as u64)).unwrap();
    let older = disk.crash(CrashModel::KeepAll);
    let sound = small().open_on(Arc::new(older.crash(CrashModel::KeepAll))).unwrap();
    assert_eq!(sound.recovery_report().pages_rebuilt, 1, "{}", sound.recovery_report());
    put(&db, "a", 5);
    db.engine().pool().flush_page(PageId(page as u64)).unwrap();
    refused_untouched(&small(), &older, &disk, page, true, "rebuilt from an image");
}

/// More pages to redo than the pool holds, or than it lets be dirty, and the last of them is newer than the log: it is looked at before redo
/// writes any other one back. Also where that page was clean at the checkpoint, and redo reads it for want of a way past the disk's cache.
#[test]
fn a_newer_version_is_refused_before_redo_writes_anything() {
    for (trees, images, bypass) in
        [(70, true, true), (70, false, true), (60, false, true), (70, false, false)]
    {
        let what = format!("{trees} pages, images {images}, bypass {bypass}");
        let torn = if images { TornPages::Images { compress: true } } else { TornPages::AtomicWrites };
        let builder = small().torn_pages(torn);
        let disk = MemDisk::new();
        let db = builder.clone().cache_bytes(1024 * PAGE).create_on(Arc::new(disk.clone())).unwrap();
        let tree = |n: u64| format!("t{n:02}");
        let last = trees - 1;
        (0..trees).for_each(|n| put(&db, &tree(n), 1));
        db.flush().unwrap();
        db.checkpoint().unwrap();
        let was = file(&disk, "data");
        put(&db, &tree(last), 2);
        db.flush().unwrap();
        let is = file(&disk, "data");
        let differs = |n: &usize| was[n * PAGE..(n + 1) * PAGE] != is[n * PAGE..(n + 1) * PAGE];
        let [page] = (0..is.len() / PAGE).filter(differs).collect::<Vec<_>>()[..] else { panic!("{what}") };
        let write = || db.engine().pool().flush_page(PageId(page as u64)).unwrap();
        db.checkpoint().unwrap();
        // The redo point.
        put(&db, &tree(0), 3);
        put(&db, &tree(last), 3);
        if !bypass {
            write();
            assert_eq!(db.checkpoint().unwrap().dirty_pages, 1, "{what}");
        }
        (1..last).for_each(|n| put(&db, &tree(n), 3));
        let older = disk.crash(CrashModel::KeepAll);
        put(&db, &tree(last), 4);
        write();
        refused_untouched(&builder, &older, &disk, page, bypass, &what);
    }
}
