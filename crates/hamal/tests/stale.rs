//! Lost, misdirected and unreadable pages, and files of different moments: the right rows or an error that says what is
//! wrong, never wrong rows; and rows that come back from the log where it reaches.
mod common;

use common::{Contents, bytes, contents, small};
use hamal::disk::{CrashModel, Disk, DiskFile, DiskLock, MemDisk, OpenMode};
use hamal::{Database, Error, ErrorKind, PageId};
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

const PAGE: usize = 4096;

fn file(disk: &MemDisk, name: &str) -> Vec<u8> {
    let f = disk.open(name, OpenMode::default()).unwrap();
    let mut bytes = vec![0; f.len().unwrap() as usize];
    f.read_at(0, &mut bytes).unwrap();
    bytes
}

fn replace(disk: &MemDisk, name: &str, bytes: &[u8]) {
    let f = disk.open(name, OpenMode { create: true, ..OpenMode::default() }).unwrap();
    f.set_len(0).unwrap();
    f.write_at(0, bytes).unwrap();
}

fn overwrite(disk: &MemDisk, name: &str, at: usize, bytes: &[u8]) {
    disk.open(name, OpenMode::default()).unwrap().write_at(at as u64, bytes).unwrap();
}

fn names(disk: &MemDisk) -> Vec<String> {
    let mut all: Vec<String> = disk.list("").unwrap().into_iter().filter(|n| n != "LOCK").collect();
    all.extend(disk.list("wal").unwrap().into_iter().filter(|n| n.len() == 16).map(|n| format!("wal/{n}")));
    all.sort();
    all
}

fn files(disk: &MemDisk) -> BTreeMap<String, Vec<u8>> {
    names(disk).into_iter().map(|n| (n.clone(), file(disk, &n))).collect()
}

/// Work that changes most pages of a tree of some leaves, and no others.
fn round(db: &Database, round: u64) {
    let tx = db.begin_write().unwrap();
    let t = tx.open_or_create_tree("t").unwrap();
    for i in 0..240u32 {
        if u64::from(i) % 3 != round % 3 {
            t.put(i.to_be_bytes(), bytes(round * 1000 + u64::from(i), 60)).unwrap();
        }
    }
    t.put("long", bytes(round, 9_000)).unwrap();
    tx.commit().unwrap();
}

/// Work elsewhere, until the log that is kept begins after everything that was logged before.
fn forget_log(db: &Database) {
    let before = db.stats().log_tail;
    for n in 0u64.. {
        if db.stats().log_oldest > before {
            return;
        }
        assert!(n < 100);
        let tx = db.begin_write().unwrap();
        let t = tx.open_or_create_tree("other").unwrap();
        for i in 0..40u32 {
            t.put(i.to_be_bytes(), bytes(n, 700)).unwrap();
        }
        tx.commit().unwrap();
        db.flush().unwrap();
        db.checkpoint().unwrap();
    }
}

/// What opening and reading gave.
#[derive(Debug)]
struct Verdict {
    result: Result<(), Error>,
    repaired: u64,
    findings: usize,
}

/// Opens, verifies and reads everything: the rows `expected`, or an error of damage. Anything else is a silent fault.
fn judge(disk: Arc<dyn Disk>, expected: &Contents, what: &str) -> Verdict {
    let mut verdict = Verdict { result: Ok(()), repaired: 0, findings: 0 };
    let db = match small().open_on(disk) {
        Ok(db) => db,
        Err(e) => {
            assert!(e.is_corruption(), "{what}: {e:?}");
            return Verdict { result: Err(e), ..verdict };
        }
    };
    verdict.findings = db.verify(&mut |_, _| {}).unwrap().findings.len();
    match contents(&db) {
        Ok(found) => {
            assert!(found == *expected, "SILENT: {what}");
            // A page that nobody reads may still be bad, and verify says so.
        }
        Err(e) => {
            assert!(e.is_corruption(), "{what}: {e:?}");
            assert!(verdict.findings > 0, "{what}: verify did not see {e:?}");
            verdict.result = Err(e);
        }
    }
    verdict.repaired = db.stats().pages_repaired;
    verdict
}

/// A database closed cleanly, and the one of a moment before, in which every page of the tree differed.
fn two_moments(cut: bool) -> (MemDisk, MemDisk, Contents) {
    let disk = MemDisk::new();
    let db = small().create_on(Arc::new(disk.clone())).unwrap();
    round(&db, 1);
    round(&db, 2);
    db.close().unwrap();
    let old = disk.crash(CrashModel::KeepAll);
    let db = small().open_on(Arc::new(disk.clone())).unwrap();
    round(&db, 3);
    round(&db, 4);
    db.flush().unwrap();
    if cut {
        forget_log(&db);
    }
    let expected = contents(&db).unwrap();
    db.close().unwrap();
    (old, disk, expected)
}

/// Every page in turn as if its last write had never reached the disk.
#[test]
fn a_lost_write_of_each_page_is_an_error_or_repaired() {
    let (mut stale, mut repaired, mut refused) = (0, 0, 0);
    for cut in [false, true] {
        let (old, new, expected) = two_moments(cut);
        let (was, is) = (file(&old, "data"), file(&new, "data"));
        for page in 0..was.len() / PAGE {
            let at = page * PAGE..(page + 1) * PAGE;
            if was[at.clone()] == is[at.clone()] || was[at.clone()].iter().all(|b| *b == 0) {
                continue;
            }
            let disk = new.crash(CrashModel::KeepAll);
            overwrite(&disk, "data", at.start, &was[at]);
            let v = judge(Arc::new(disk.clone()), &expected, &format!("page {page}, cut {cut}"));
            match &v.result {
                Err(e) if e.kind() == ErrorKind::StalePage => {
                    assert_eq!((e.page().map(|p| p.0), e.file()), (Some(page as u64), Some("data")), "{e}");
                    stale += 1;
                }
                Err(e) => {
                    // The witness, which the control file names.
                    assert_eq!(e.kind(), ErrorKind::WrongDatabase, "{e}");
                    refused += 1;
                }
                Ok(()) if v.repaired > 0 => {
                    repaired += 1;
                    // What was repaired was written back.
                    let again = judge(Arc::new(disk), &expected, "again");
                    assert!(again.result.is_ok() && again.repaired == 0, "page {page}: {again:?}");
                }
                // Freed meanwhile, or used anew: nobody reads that version.
                Ok(()) => {}
            }
        }
    }
    assert!(stale > 5 && repaired > 5 && refused <= 2, "{stale} {repaired} {refused}");
}

/// The same in a crash image: what recovery needs, and what it does not look at.
#[test]
fn a_lost_write_before_a_crash_is_an_error_or_repaired() {
    let disk = MemDisk::new();
    let db = small().create_on(Arc::new(disk.clone())).unwrap();
    let mut moments = vec![];
    for n in 0..7u64 {
        round(&db, n);
        match n % 3 {
            0 => db.flush().unwrap(),
            1 => drop(db.checkpoint().unwrap()),
            _ => {}
        }
        if n == 3 {
            forget_log(&db);
        }
        moments.push(file(&disk, "data"));
    }
    let expected = contents(&db).unwrap();
    let crash = disk.crash(CrashModel::KeepAll);
    let is = file(&crash, "data");
    let mut changed = 0;
    for was in &moments {
        for page in 0..was.len() / PAGE {
            let at = page * PAGE..(page + 1) * PAGE;
            if was[at.clone()] == is[at.clone()] {
                continue;
            }
            changed += 1;
            let disk = crash.crash(CrashModel::KeepAll);
            overwrite(&disk, "data", at.start, &was[at]);
            judge(Arc::new(disk), &expected, &format!("page {page}"));
        }
    }
    assert!(changed > 20, "{changed}");
}

/// A page that was written just before a checkpoint, when another one was dirty for longer: the log names both from the redo point on,
/// and redo does not look at the first. That the disk has it as it was before is noticed all the same (VER-3).
#[test]
fn an_older_version_of_a_page_that_was_clean_at_the_checkpoint_is_noticed() {
    let disk = MemDisk::new();
    let db = small().create_on(Arc::new(disk.clone())).unwrap();
    let put = |tree: &str, n: u64| {
        let tx = db.begin_write().unwrap();
        tx.open_or_create_tree(tree).unwrap().put("row", bytes(n, 60)).unwrap();
        tx.commit().unwrap();
    };
    let settle = || {
        db.flush().unwrap();
        db.checkpoint().unwrap();
        file(&disk, "data")
    };
    let trees = ["clean", "dirty", "newest"];
    trees.iter().for_each(|tree| put(tree, 1));
    // The one page of each tree.
    let mut was = settle();
    let pages = trees.map(|tree| {
        put(tree, 2);
        let now = settle();
        let differs = |n: &usize| was[n * PAGE..(n + 1) * PAGE] != now[n * PAGE..(n + 1) * PAGE];
        let changed: Vec<usize> = (0..now.len() / PAGE).filter(differs).collect();
        was = now;
        let [page] = changed[..] else { panic!("{tree}: {changed:?}") };
        page
    });
    let write = |page: usize| db.engine().pool().flush_page(PageId(page as u64)).unwrap();
    let page = pages[0];
    put("dirty", 3);
    put("clean", 3);
    write(page);
    // The newest page of all: the control file knows that one by itself.
    put("newest", 3);
    write(pages[2]);
    let report = db.checkpoint().unwrap();
    assert!(report.redo < report.begin && report.dirty_pages == 1, "{report:?}");
    put("dirty", 4);
    let expected = contents(&db).unwrap();
    let crash = disk.crash(CrashModel::KeepAll);
    overwrite(&crash, "data", page * PAGE, &was[page * PAGE..(page + 1) * PAGE]);
    let v = judge(Arc::new(crash), &expected, "the page before its last change");
    assert!(v.result.is_ok() && v.repaired == 1, "{v:?}");
}

/// A page written over the place of another one.
#[test]
fn a_misdirected_write_is_an_error_or_repaired() {
    for cut in [false, true] {
        let (old, new, expected) = two_moments(cut);
        let (was, is) = (file(&old, "data"), file(&new, "data"));
        let page = |f: &[u8], n: usize| f[n * PAGE..(n + 1) * PAGE].to_vec();
        let changed: Vec<usize> = (0..was.len() / PAGE).filter(|n| page(&was, *n) != page(&is, *n)).collect();
        for (i, &from) in changed.iter().enumerate() {
            let to = changed[(i + 1) % changed.len()];
            let disk = new.crash(CrashModel::KeepAll);
            overwrite(&disk, "data", from * PAGE, &page(&was, from));
            overwrite(&disk, "data", to * PAGE, &page(&is, from));
            judge(Arc::new(disk), &expected, &format!("page {from} written to {to}, cut {cut}"));
        }
    }
}

/// Every damaged page, repaired while the log reaches back.
#[test]
fn damaged_pages_are_repaired_where_the_log_reaches() {
    let mut seen = BTreeMap::new();
    for cut in [false, true] {
        let (_, new, expected) = two_moments(cut);
        let is = file(&new, "data");
        for page in (0..is.len() / PAGE).filter(|n| is[n * PAGE..(n + 1) * PAGE].iter().any(|b| *b != 0)) {
            let disk = new.crash(CrashModel::KeepAll);
            overwrite(&disk, "data", page * PAGE + 2000, &[0x55; 20]);
            let v = judge(Arc::new(disk), &expected, &format!("page {page}, cut {cut}"));
            if let Err(e) = &v.result {
                assert_eq!(e.kind(), ErrorKind::PageCorrupt, "{e}");
            }
            *seen.entry((cut, v.result.is_err(), v.repaired > 0)).or_insert(0) += 1;
        }
    }
    assert!(seen[&(false, false, true)] > 5, "{seen:?}");
    assert!(seen[&(true, true, false)] > 5, "{seen:?}");
}

// ---- a disk that loses or misplaces a write, or cannot read a page ----

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The n-th write of the data file is not made.
    Lose(u64),
    /// It is made one page further on.
    Misplace(u64),
    /// Pages at this offset cannot be read.
    Unreadable(u64),
}

#[derive(Debug)]
struct FaultyDisk {
    below: MemDisk,
    fault: Mutex<Option<Fault>>,
    writes: AtomicU64,
}

#[derive(Debug)]
struct FaultyFile {
    below: Arc<dyn DiskFile>,
    disk: Arc<FaultyDisk>,
    is_data: bool,
}

#[derive(Clone, Debug)]
struct Faulty(Arc<FaultyDisk>);

impl Faulty {
    fn new(below: MemDisk) -> Faulty {
        Faulty(Arc::new(FaultyDisk { below, fault: Mutex::new(None), writes: AtomicU64::new(0) }))
    }
    fn set(&self, fault: Option<Fault>) {
        *self.0.fault.lock().unwrap() = fault;
        self.0.writes.store(0, SeqCst);
    }
}

impl Disk for Faulty {
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let below = self.0.below.open(name, mode)?;
        Ok(Arc::new(FaultyFile { below, disk: self.0.clone(), is_data: name == "data" }))
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.0.below.list(dir)
    }
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.0.below.create_dir(dir)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.below.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.below.remove(name)
    }
    fn exists(&self, name: &str) -> io::Result<bool> {
        self.0.below.exists(name)
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.0.below.sync_dir(dir)
    }
    fn lock(&self, name: &str) -> io::Result<Box<dyn DiskLock>> {
        self.0.below.lock(name)
    }
    fn describe(&self) -> String {
        self.0.below.describe()
    }
}

impl DiskFile for FaultyFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let bad = |at: u64| offset <= at && at < offset + buf.len() as u64;
        if self.is_data && matches!(*self.disk.fault.lock().unwrap(), Some(Fault::Unreadable(at)) if bad(at))
        {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.below.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, buf: &[u8]) -> io::Result<()> {
        if self.is_data {
            let n = self.disk.writes.fetch_add(1, SeqCst);
            match *self.disk.fault.lock().unwrap() {
                Some(Fault::Lose(at)) if at == n => return Ok(()),
                Some(Fault::Misplace(at)) if at == n => {
                    return self.below.write_at(offset + PAGE as u64, buf);
                }
                _ => {}
            }
        }
        self.below.write_at(offset, buf)
    }
    fn sync(&self) -> io::Result<()> {
        self.below.sync()
    }
    fn len(&self) -> io::Result<u64> {
        self.below.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.below.set_len(len)
    }
    fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        self.below.allocate(offset, len)
    }
}

/// More rows than the cache holds, so that pages are written and read again all the time.
fn busy(db: &Database, expected: &mut BTreeMap<Vec<u8>, Vec<u8>>, n: u64) -> hamal::Result<()> {
    let mut rows = Vec::new();
    for i in 0..60u64 {
        let key = ((i * 7919 + n * 104_729) % 900).to_be_bytes().to_vec();
        rows.push((key, bytes(n * 100 + i, 700)));
    }
    let tx = db.begin_write()?;
    let t = tx.open_or_create_tree("t")?;
    for (k, v) in &rows {
        t.put(k, v)?;
    }
    drop(t);
    tx.commit()?;
    expected.extend(rows);
    Ok(())
}

/// One write of a running database is lost, or lands in the place of the next page: the page is rebuilt from the log when it
/// is read, or is an error; the rows are right.
#[test]
fn writes_lost_and_misplaced_while_running() {
    let mut repaired = 0;
    for n in 0..24u64 {
        let fault = if n % 2 == 0 { Fault::Lose(n * 5) } else { Fault::Misplace(n * 5) };
        let disk = Faulty::new(MemDisk::new());
        let db = small().create_on(Arc::new(disk.clone())).unwrap();
        let mut expected = BTreeMap::new();
        for i in 0..20 {
            busy(&db, &mut expected, i).unwrap();
        }
        disk.set(Some(fault));
        let mut work = || -> hamal::Result<()> {
            for i in 20..60 {
                busy(&db, &mut expected, i)?;
            }
            assert!(contents(&db)?["t"] == expected, "SILENT: {fault:?}");
            Ok(())
        };
        match work() {
            Ok(()) => {}
            Err(e) => assert!(e.is_corruption(), "{fault:?}: {e:?}"),
        }
        repaired += db.stats().pages_repaired;
        disk.set(None);
        drop(db);
        let expected = Contents::from([("t".to_owned(), expected)]);
        // The fault hit what it hit: after it too it is never silent. (A transaction that failed is not in `expected`.)
        judge(Arc::new(disk), &expected, &format!("{fault:?} and opened again"));
    }
    assert!(repaired > 5, "{repaired}");
}

/// A page that cannot be read: rebuilt, or an error that names it, and the others go on.
#[test]
fn a_page_that_cannot_be_read() {
    let (mut unreadable, mut repaired) = (0, 0);
    for cut in [false, true] {
        let (_, new, expected) = two_moments(cut);
        let pages = file(&new, "data").len() / PAGE;
        for page in 1..pages {
            let disk = Faulty::new(new.crash(CrashModel::KeepAll));
            disk.set(Some(Fault::Unreadable((page * PAGE) as u64)));
            let v = judge(Arc::new(disk.clone()), &expected, &format!("page {page}"));
            match v.result {
                Err(e) if e.kind() == ErrorKind::PageUnreadable => {
                    assert_eq!((e.page().map(|p| p.0), e.os_error().is_some()), (Some(page as u64), true));
                    unreadable += 1;
                    let db = small().open_on(Arc::new(disk.clone())).unwrap();
                    let others = (0..pages as u64).filter(|n| db.page(*n).is_ok()).count();
                    assert!(others > 5, "{others}");
                }
                Err(e) => panic!("page {page}: {e:?}"),
                Ok(()) => repaired += v.repaired,
            }
        }
    }
    assert!(unreadable > 5 && repaired > 5, "{unreadable} {repaired}");
}

// ---- files of different moments ----

/// Every file from every earlier moment, alone and in pairs.
#[test]
fn files_of_different_moments() {
    let disk = MemDisk::new();
    let mut moments = Vec::new();
    let mut n = 0;
    drop(small().create_on(Arc::new(disk.clone())).unwrap());
    for step in 0..4u64 {
        let db = small().open_on(Arc::new(disk.clone())).unwrap();
        for _ in 0..3 {
            round(&db, n);
            n += 1;
        }
        if step == 2 {
            forget_log(&db);
        }
        // A running moment, then one at rest.
        moments.push(files(&disk));
        db.flush().unwrap();
        db.checkpoint().unwrap();
        moments.push(files(&disk));
        db.close().unwrap();
        moments.push(files(&disk));
    }
    let db = small().open_on(Arc::new(disk.clone())).unwrap();
    let expected = contents(&db).unwrap();
    db.close().unwrap();
    let now = files(&disk);
    let mut older: Vec<(usize, &String)> = Vec::new();
    for (m, moment) in moments.iter().enumerate() {
        for (name, was) in moment {
            // A segment that is gone by now comes back as well.
            let again = moments[..m].iter().any(|x| x.get(name) == Some(was));
            if now.get(name) != Some(was) && !again {
                older.push((m, name));
            }
        }
    }
    let (mut errors, mut right) = (0, 0);
    let mut run = |set: &[(usize, &String)]| {
        let copy = disk.crash(CrashModel::KeepAll);
        for (m, name) in set {
            replace(&copy, name, &moments[*m][*name]);
        }
        match judge(Arc::new(copy), &expected, &format!("{set:?}")).result {
            Ok(()) => right += 1,
            Err(_) => errors += 1,
        }
    };
    for (i, a) in older.iter().enumerate() {
        run(&[*a]);
        for b in older[..i].iter().filter(|b| b.1 != a.1) {
            run(&[*a, *b]);
        }
    }
    assert!(older.len() > 15 && errors > 50, "{} {errors} {right}", older.len());
}

/// The table of page versions itself: damaged, cut, missing, of another database.
#[test]
fn the_table_of_versions_damaged() {
    let (old, new, expected) = two_moments(true);
    let table = file(&new, "versions");
    assert!(table.len() >= 8192 && table.len().is_multiple_of(8192));
    let mut unknown = 0;
    for at in (0..table.len()).step_by(97) {
        let disk = new.crash(CrashModel::KeepAll);
        overwrite(&disk, "versions", at, &[table[at] ^ 0x10]);
        let v = judge(Arc::new(disk.clone()), &expected, &format!("byte {at}"));
        assert!(v.result.is_ok() && v.repaired == 0, "byte {at}: {v:?}");
        unknown += v.findings;
        // It is whole again at the next checkpoint, also if a crash comes between that and the control file.
        let db = small().open_on(Arc::new(disk.clone())).unwrap();
        round(&db, 9);
        db.checkpoint().unwrap();
        db.checkpoint().unwrap();
        db.close().unwrap();
        let db = small().open_on(Arc::new(disk)).unwrap();
        assert_eq!(db.verify(&mut |_, _| {}).unwrap().findings.len(), 0);
    }
    assert!(unknown > 5, "{unknown}");
    // Cut, whichever of its two places has the newer copy.
    let next = new.crash(CrashModel::KeepAll);
    let db = small().open_on(Arc::new(next.clone())).unwrap();
    db.checkpoint().unwrap();
    db.close().unwrap();
    drop(db);
    for (disk, cut) in [&new, &next].iter().flat_map(|d| [0, 1, 4096, 5000].map(|cut| (d, cut))) {
        let disk = disk.crash(CrashModel::KeepAll);
        disk.open("versions", OpenMode::default()).unwrap().set_len(cut).unwrap();
        let v = judge(Arc::new(disk), &expected, &format!("cut to {cut}"));
        assert!(v.result.is_ok(), "cut to {cut}: {v:?}");
    }
    let disk = new.crash(CrashModel::KeepAll);
    disk.remove("versions").unwrap();
    let e = judge(Arc::new(disk), &expected, "missing").result.unwrap_err();
    assert_eq!((e.kind(), e.file()), (ErrorKind::WrongDatabase, Some("versions")));
    let disk = new.crash(CrashModel::KeepAll);
    replace(&disk, "versions", &file(&old, "versions"));
    let e = judge(Arc::new(disk), &expected, "older").result.unwrap_err();
    assert_eq!((e.kind(), e.file()), (ErrorKind::WrongDatabase, Some("versions")));
    let other = MemDisk::new();
    drop(small().database_id([8; 16]).create_on(Arc::new(other.clone())).unwrap());
    let disk = new.crash(CrashModel::KeepAll);
    replace(&disk, "versions", &file(&other, "versions"));
    let e = judge(Arc::new(disk), &expected, "foreign").result.unwrap_err();
    assert_eq!((e.kind(), e.file()), (ErrorKind::WrongDatabase, Some("versions")));
}

/// A database whose control file speaks of no table (made before there was one) gets one at its first checkpoint.
#[test]
fn a_database_without_a_table_gets_one() {
    let (_, new, expected) = two_moments(false);
    let mut control = file(&new, "control");
    for slot in control.chunks_exact_mut(4096) {
        slot[4084..4092].fill(0);
        let crc = crc32c::crc32c(&slot[..4092]);
        slot[4092..].copy_from_slice(&crc.to_le_bytes());
    }
    overwrite(&new, "control", 0, &control);
    new.remove("versions").unwrap();
    let v = judge(Arc::new(new.clone()), &expected, "no table");
    assert!(v.result.is_ok() && v.findings == 0, "{v:?}");
    let db = small().open_on(Arc::new(new.clone())).unwrap();
    round(&db, 7);
    let expected = contents(&db).unwrap();
    db.close().unwrap();
    assert!(file(&new, "versions").len() >= 8192);
    assert!(judge(Arc::new(new), &expected, "with a table").result.is_ok());
}

/// After a crash that damages no more than a power failure may, nothing is taken for stale and nothing needs repair: wherever
/// it falls, between the table and the control file too, and whatever is torn.
#[test]
fn a_crash_alone_makes_nothing_stale() {
    use hamal::disk::{MemFault, MemOp};
    let mut crashes = 0;
    for on in [MemOp::Write, MemOp::Sync] {
        for at in 1.. {
            let disk = MemDisk::new();
            let db = small().create_on(Arc::new(disk.clone())).unwrap();
            round(&db, 0);
            db.close().unwrap();
            let db = small().open_on(Arc::new(disk.clone())).unwrap();
            disk.inject(MemFault { at, on, once: false });
            let mut states = vec![contents(&db).unwrap()];
            let mut work = || -> hamal::Result<()> {
                for n in 1..6u64 {
                    let tx = db.begin_write()?;
                    let t = tx.open_or_create_tree("t")?;
                    let mut next = states.last().unwrap().clone();
                    for i in (0..240u32).filter(|i| u64::from(*i) % 5 == n % 5) {
                        let value = bytes(n * 1000 + u64::from(i), 60);
                        next.get_mut("t").unwrap().insert(i.to_be_bytes().to_vec(), value.clone());
                        t.put(i.to_be_bytes(), value)?;
                    }
                    drop(t);
                    states.push(next);
                    tx.commit()?;
                    db.flush()?;
                    db.checkpoint()?;
                }
                Ok(())
            };
            let done = work().is_ok();
            for seed in 0..3 {
                let torn_sector_bytes = if seed == 0 { 4096 } else { 512 };
                let model = CrashModel::Random { seed: seed * 1000 + at, torn_sector_bytes };
                let mut image = disk.crash(if seed == 2 { CrashModel::LoseUnsynced } else { model });
                // Recovery crashes as well, and is run again.
                for again in 0..2 {
                    image.inject(MemFault { at: 1 + (at + seed) % 7, on: MemOp::Sync, once: false });
                    drop(small().open_on(Arc::new(image.clone())));
                    image = image.crash(CrashModel::Random { seed: again + at, torn_sector_bytes });
                }
                let db = small().open_on(Arc::new(image)).unwrap_or_else(|e| panic!("{on:?} {at}: {e:?}"));
                common::verify(&db);
                assert!(states.contains(&contents(&db).unwrap()), "{on:?} {at} {seed}");
                assert_eq!(db.stats().pages_repaired, 0, "{on:?} {at} {seed}");
                crashes += 1;
            }
            if done {
                break;
            }
        }
    }
    assert!(crashes > 100, "{crashes}");
}

/// A full device is met before anything of a checkpoint is decided, and is not sticky; a failed write or sync of the table is.
#[test]
fn the_table_meets_a_full_device_and_a_failing_one() {
    use hamal::disk::{MemFault, MemOp};
    // A table grows by a block for each 2024 pages: the second one comes with 8 MiB of data.
    let disk = MemDisk::new();
    let db = small().log_limit_bytes(64 << 20).create_on(Arc::new(disk.clone())).unwrap();
    let mut n = 0u64;
    let mut fill = |pages: u64| {
        while db.stats().file_pages < pages {
            let tx = db.begin_write().unwrap();
            let t = tx.open_or_create_tree("t").unwrap();
            t.put(n.to_be_bytes(), bytes(n, 200_000)).unwrap();
            drop(t);
            tx.commit().unwrap();
            n += 1;
        }
    };
    fill(1_000);
    db.flush().unwrap();
    db.checkpoint().unwrap();
    fill(2_100);
    db.flush().unwrap();
    let (before, tail) = (file(&disk, "versions").len(), db.stats().log_tail);
    disk.set_capacity(Some(disk.used() + 4096));
    for _ in 0..3 {
        assert_eq!(db.checkpoint().unwrap_err().kind(), ErrorKind::NoSpace);
    }
    assert_eq!(db.stats().log_tail, tail, "nothing was logged for it");
    assert!(db.poisoned().is_none());
    disk.set_capacity(None);
    db.checkpoint().unwrap();
    assert!(file(&disk, "versions").len() > before);
    // The data file, the log, then the table.
    let expected = contents(&db).unwrap();
    drop(db);
    for (on, at) in
        [(MemOp::Sync, 1), (MemOp::Sync, 2), (MemOp::Sync, 3), (MemOp::Write, 2), (MemOp::Write, 3)]
    {
        let disk = disk.crash(CrashModel::KeepAll);
        let db = small().log_limit_bytes(64 << 20).open_on(Arc::new(disk.clone())).unwrap();
        db.begin_write().unwrap().create_tree("more").unwrap().put("k", "v").unwrap();
        db.flush().unwrap();
        disk.inject(MemFault { at, on, once: true });
        assert!(db.checkpoint().is_err(), "{on:?} {at}");
        assert!(db.poisoned().is_some());
        drop(db);
        judge(Arc::new(disk.crash(CrashModel::LoseUnsynced)), &expected, "after a poisoned checkpoint");
    }
}

/// Without images a page that was written after the checkpoint has no whole-page record, and recovery reads it: what the
/// table said of it no longer counts, and what the log says does.
#[test]
fn the_log_overrides_the_table() {
    let builder = small().torn_pages(hamal::TornPages::AtomicWrites);
    let disk = MemDisk::new();
    let db = builder.create_on(Arc::new(disk.clone())).unwrap();
    round(&db, 1);
    db.flush().unwrap();
    forget_log(&db);
    db.checkpoint().unwrap();
    let old = file(&disk, "data");
    round(&db, 2);
    db.flush().unwrap();
    round(&db, 3);
    let expected = contents(&db).unwrap();
    let crash = disk.crash(CrashModel::KeepAll);
    let db = builder.open_on(Arc::new(crash.crash(CrashModel::KeepAll))).unwrap();
    assert!(db.recovery_report().skipped.page_lsn_not_below_lsn > 0, "{}", db.recovery_report());
    assert_eq!((contents(&db).unwrap(), db.stats().pages_repaired), (expected.clone(), 0));
    common::verify(&db);
    // The same with each page as it was at the checkpoint: the log has all that came after.
    let is = file(&crash, "data");
    for page in
        (0..old.len() / PAGE).filter(|n| old[n * PAGE..(n + 1) * PAGE] != is[n * PAGE..(n + 1) * PAGE])
    {
        let disk = crash.crash(CrashModel::KeepAll);
        overwrite(&disk, "data", page * PAGE, &old[page * PAGE..(page + 1) * PAGE]);
        let db = builder.open_on(Arc::new(disk)).unwrap();
        assert_eq!(contents(&db).unwrap(), expected);
        common::verify(&db);
    }
}
