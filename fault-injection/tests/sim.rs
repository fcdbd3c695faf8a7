//! The simulated disk: it behaves like every disk, and its persistence models allow what `docs/persistence-models.md` says,
//! no less and no more. The litmus tests enumerate every outcome.
use hamal::disk::{AlignedBuf, CrashModel, Disk, DiskFile, MemDisk, OpenMode, read_exact_at};
use hamal_fault_injection::sim::{
    Act, Durable, Fate, Fates, Image, IoEvent, IoFault, PendingOp, Persistence, Question, SimDisk, Watch,
    Wrong, role,
};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::sync::{Arc, Mutex};

use Persistence::{Hostile, Ordered, Posix};

const CREATE: OpenMode =
    OpenMode { create: true, create_new: false, read_only: false, direct: false, dsync: false };
const NEW: OpenMode = OpenMode { create_new: true, ..CREATE };
const OPEN: OpenMode = OpenMode { create: false, ..CREATE };
const READ: OpenMode = OpenMode { read_only: true, ..OPEN };

// A driver that answers every question in every way.

struct Path(Vec<u8>, usize);

impl Fates for Path {
    fn decide(&mut self, _: Question, _: u8) -> u8 {
        self.1 += 1;
        self.0.get(self.1 - 1).copied().unwrap_or(0)
    }
}

fn boot(image: &Image, path: &[u8]) -> SimDisk {
    SimDisk::boot(image, Box::new(Path(path.to_vec(), 0)))
}

/// What `look` returns on every disk that the image may be.
fn every<T: Ord>(image: &Image, look: impl Fn(&SimDisk) -> T) -> BTreeSet<T> {
    let mut seen = BTreeSet::new();
    let mut path = Vec::new();
    loop {
        let disk = boot(image, &path);
        seen.insert(look(&disk));
        let mut asked = disk.asked();
        let questions: BTreeSet<_> = asked.iter().map(|a| a.question).collect();
        assert_eq!(questions.len(), asked.len(), "asked twice");
        while asked.last().is_some_and(|a| a.answer + 1 == a.options) {
            asked.pop();
        }
        let Some(last) = asked.pop() else { return seen };
        path = asked.iter().map(|a| a.answer).collect();
        path.push(last.answer + 1);
    }
}

/// What `look` returns on every disk that the image may be under `Ordered`: a prefix of what is pending survives, of its
/// last write a first part.
fn every_prefix<T: Ord>(image: &Image, look: impl Fn(&SimDisk) -> T) -> BTreeSet<T> {
    let pending = image.pending();
    let mut seen = BTreeSet::new();
    for k in 0..=pending.len() {
        let last = k.checked_sub(1).map_or(0..0, |l| pending[l].sectors.clone());
        for end in last.start..=last.end {
            let fate = |op: usize, s: u64| {
                let kept = op + 1 < k || (op + 1 == k && (last.is_empty() || s < end));
                if kept { Fate::Kept } else { Fate::Lost }
            };
            let decided = image.decided(&|q, _| image.answer(q, &fate));
            seen.insert(look(&boot(&decided, &[])));
        }
    }
    seen
}

fn content(disk: &dyn Disk, name: &str) -> Option<Vec<u8>> {
    let file = disk.open(name, READ).ok()?;
    let mut buf = vec![0xEE; file.len().unwrap() as usize];
    read_exact_at(&*file, 0, &mut buf).unwrap();
    Some(buf)
}

/// The first byte of each sector; `.` if the file is missing.
fn sectors(disk: &SimDisk, name: &str) -> String {
    let Some(bytes) = content(disk, name) else { return ".".to_owned() };
    let one = |s: &[u8]| {
        assert!(s.iter().all(|b| *b == s[0]), "a sector is torn");
        if s[0] == 0 { '0' } else { char::from(s[0]) }
    };
    bytes.chunks(512).map(one).collect()
}

fn look<'a>(names: &'a [&'a str]) -> impl Fn(&SimDisk) -> String + 'a {
    |disk| names.iter().map(|n| sectors(disk, n)).collect::<Vec<_>>().join(" ")
}

fn set(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|s| s.to_string()).collect()
}

fn put(file: &dyn DiskFile, sector: u64, what: &str) {
    let bytes: Vec<u8> = what.bytes().flat_map(|b| [b; 512]).collect();
    file.write_at(sector * 512, &bytes).unwrap();
}

/// A disk with durable files.
fn disk(model: Persistence, files: &[(&str, &str)]) -> SimDisk {
    let d = SimDisk::new(model);
    for (name, what) in files {
        let f = d.open(name, CREATE).unwrap();
        put(&*f, 0, what);
        f.sync().unwrap();
    }
    d.sync_dir("").unwrap();
    d
}

fn open(d: &SimDisk, name: &str) -> Arc<dyn DiskFile> {
    d.open(name, CREATE).unwrap()
}

fn now(d: &SimDisk) -> Image {
    d.image(d.points())
}

fn fail(d: &SimDisk, act: Act, nth: u64, what: Wrong) {
    d.plan(IoFault { role: None, act, nth, forever: false, what });
}

// The litmus tests.

#[test]
fn two_sectors_of_a_file() {
    let d = disk(Posix, &[("f", "aa")]);
    let f = open(&d, "f");
    put(&*f, 0, "x");
    put(&*f, 1, "y");
    assert_eq!(every(&now(&d), look(&["f"])), set(&["aa", "xa", "ay", "xy"]));
    assert_eq!(every_prefix(&now(&d), look(&["f"])), set(&["aa", "xa", "xy"]));
    // What is not read is not asked for.
    let first = every(&now(&d), |d| {
        d.open("f", READ).unwrap().read_at(0, &mut [0; 512]).unwrap();
        d.asked().len()
    });
    assert_eq!(first, BTreeSet::from([1]));
}

#[test]
fn one_sector_twice() {
    let d = disk(Posix, &[("f", "a")]);
    let f = open(&d, "f");
    put(&*f, 0, "x");
    put(&*f, 0, "x");
    put(&*f, 0, "y");
    assert_eq!(every(&now(&d), look(&["f"])), set(&["a", "x", "y"]));
    assert_eq!(now(&d).questions(), [(Question::Sector { file: 1, sector: 0 }, 3)]);
    // What changes nothing is no question.
    f.sync().unwrap();
    put(&*f, 0, "y");
    assert!(now(&d).questions().is_empty() && now(&d).pending().is_empty());
}

#[test]
fn a_write_is_torn() {
    let d = disk(Posix, &[("f", "aaaa")]);
    put(&*open(&d, "f"), 0, "xxxx");
    assert_eq!(every(&now(&d), look(&["f"])).len(), 16);
    let prefixes = set(&["aaaa", "xaaa", "xxaa", "xxxa", "xxxx"]);
    assert_eq!(every_prefix(&now(&d), look(&["f"])), prefixes);
}

#[test]
fn part_of_a_sector_is_written_with_the_rest() {
    let d = disk(Posix, &[("f", "aa")]);
    let f = open(&d, "f");
    f.write_at(100, &[b'x'; 600]).unwrap();
    f.write_at(0, b"y").unwrap();
    let mixed = |b: Vec<u8>| (b[0], b[100], b[511], b[512], b[699], b[700]);
    let seen = every(&now(&d), |d| mixed(content(d, "f").unwrap()));
    let first = [(b'a', b'a', b'a'), (b'a', b'x', b'x'), (b'y', b'x', b'x')];
    let second = [(b'a', b'a', b'a'), (b'x', b'x', b'a')];
    let all = first.iter().flat_map(|p| second.iter().map(move |q| (p.0, p.1, p.2, q.0, q.1, q.2)));
    assert_eq!(seen, all.collect());
}

#[test]
fn a_sync_orders() {
    for model in [Ordered, Posix, Hostile] {
        let d = disk(model, &[("f", "aa")]);
        let f = open(&d, "f");
        put(&*f, 0, "x");
        f.sync().unwrap();
        put(&*f, 1, "y");
        let all = every(&now(&d), |d| content(d, "f").unwrap()[0]);
        assert_eq!(all, BTreeSet::from([b'x']), "{model:?}");
    }
}

#[test]
fn files_are_not_ordered() {
    let d = disk(Posix, &[("f", "a"), ("g", "a")]);
    put(&*open(&d, "f"), 0, "1");
    put(&*open(&d, "g"), 0, "2");
    assert_eq!(every(&now(&d), look(&["f", "g"])), set(&["a a", "1 a", "a 2", "1 2"]));
    assert_eq!(every_prefix(&now(&d), look(&["f", "g"])), set(&["a a", "1 a", "1 2"]));
    // The sync of one is no sync of the other ...
    open(&d, "g").sync().unwrap();
    assert_eq!(every(&now(&d), look(&["f", "g"])), set(&["a 2", "1 2"]));
    // ... but with a device that keeps the order.
    let d = disk(Ordered, &[("f", "a"), ("g", "a"), ("h", "a")]);
    put(&*open(&d, "f"), 0, "1");
    put(&*open(&d, "g"), 0, "2");
    put(&*open(&d, "h"), 0, "3");
    open(&d, "g").sync().unwrap();
    assert_eq!(every_prefix(&now(&d), look(&["f", "g", "h"])), set(&["1 2 a", "1 2 3"]));
}

#[test]
fn names_need_their_directory() {
    let d = disk(Posix, &[("f", "a")]);
    put(&*open(&d, "g"), 0, "b");
    open(&d, "g").sync().unwrap();
    assert_eq!(every(&now(&d), look(&["f", "g"])), set(&["a .", "a b"]));
    d.sync_dir("").unwrap();
    assert_eq!(every(&now(&d), look(&["f", "g"])), set(&["a b"]));
    // Replacing by renaming is atomic, and durable after the directory's sync.
    d.rename("g", "f").unwrap();
    assert_eq!(every(&now(&d), look(&["f", "g"])), set(&["a b", "b ."]));
    assert_eq!(now(&d).names(), Vec::<String>::new());
    d.sync_dir("").unwrap();
    assert_eq!(every(&now(&d), look(&["f", "g"])), set(&["b ."]));
    assert_eq!(now(&d).names(), ["f"]);
    d.remove("f").unwrap();
    assert_eq!(every(&now(&d), look(&["f"])), set(&["b", "."]));
}

#[test]
fn changes_of_names_survive_one_by_one() {
    let d = disk(Posix, &[("f", "a")]);
    d.rename("f", "g").unwrap();
    put(&*open(&d, "f"), 0, "b");
    open(&d, "f").sync().unwrap();
    // The rename lost and the creation kept: the new file has taken the old one's name.
    assert_eq!(every(&now(&d), look(&["f", "g"])), set(&["a .", "b .", ". a", "b a"]));
    assert_eq!(every_prefix(&now(&d), look(&["f", "g"])), set(&["a .", ". a", "b a"]));
}

#[test]
fn a_directory_is_a_name_too() {
    let d = SimDisk::new(Posix);
    d.create_dir("wal").unwrap();
    let f = open(&d, "wal/1");
    put(&*f, 0, "a");
    f.sync().unwrap();
    d.sync_dir("wal").unwrap();
    assert_eq!(every(&now(&d), look(&["wal/1"])), set(&[".", "a"]));
    let lists = every(&now(&d), |d| d.list("wal").ok());
    assert_eq!(lists, BTreeSet::from([None, Some(vec!["1".to_owned()])]));
    d.sync_dir("").unwrap();
    assert_eq!(every(&now(&d), look(&["wal/1"])), set(&["a"]));
    // Between directories a rename may leave both names, or none.
    d.rename("wal/1", "f").unwrap();
    assert_eq!(every(&now(&d), look(&["wal/1", "f"])), set(&["a .", "a a", ". .", ". a"]));

    // A directory that is lost takes its files with it, and made anew is empty.
    let d = SimDisk::new(Posix);
    d.create_dir("wal").unwrap();
    open(&d, "wal/1");
    let again = every(&now(&d), |d| {
        d.create_dir("wal").unwrap();
        d.list("wal").unwrap().len()
    });
    assert_eq!(again, BTreeSet::from([0, 1]));
}

#[test]
fn growth_may_be_lost_or_hollow() {
    let d = disk(Posix, &[("f", "a")]);
    let f = open(&d, "f");
    put(&*f, 1, "x");
    put(&*f, 2, "y");
    let all = set(&["a", "a0", "ax", "a00", "ax0", "a0y", "axy"]);
    assert_eq!(every(&now(&d), look(&["f"])), all);
    assert_eq!(every_prefix(&now(&d), look(&["f"])), set(&["a", "a0", "ax", "ax0", "axy"]));
    let d = disk(Posix, &[("f", "a")]);
    open(&d, "f").allocate(0, 1024).unwrap();
    assert_eq!(every(&now(&d), look(&["f"])), set(&["a", "a0"]));
    open(&d, "f").sync().unwrap();
    put(&*open(&d, "f"), 1, "x");
    assert_eq!(every(&now(&d), look(&["f"])), set(&["a0", "ax"]), "space that exists is not lost");
}

#[test]
fn what_was_cut_off_comes_back_only_if_the_cut_is_lost() {
    let d = disk(Posix, &[("f", "abc")]);
    let f = open(&d, "f");
    f.set_len(512).unwrap();
    f.set_len(1536).unwrap();
    assert_eq!(every(&now(&d), look(&["f"])), set(&["abc", "a", "a00"]));
    put(&*f, 2, "x");
    assert_eq!(every(&now(&d), look(&["f"])), set(&["abc", "abx", "a", "a00", "a0x"]));
    f.sync().unwrap();
    assert_eq!(every(&now(&d), look(&["f"])), set(&["a0x"]));
    // In the middle of a sector.
    let d = disk(Posix, &[("f", "a")]);
    let f = open(&d, "f");
    f.set_len(10).unwrap();
    f.set_len(20).unwrap();
    let seen = every(&now(&d), |d| content(d, "f").unwrap());
    let hollow = |n| [vec![b'a'; 10], vec![0; n]].concat();
    // The zeros behind the new end are a write, which may come before the length, or not at all.
    let all = [vec![b'a'; 512], vec![b'a'; 20], hollow(0), hollow(10), hollow(502)];
    assert_eq!(seen, BTreeSet::from(all));
}

#[test]
fn the_fsync_trap() {
    for what in [Wrong::Eio, Wrong::NoSpace] {
        let d = disk(Posix, &[("f", "aa")]);
        let f = open(&d, "f");
        put(&*f, 0, "x");
        put(&*f, 2, "z");
        fail(&d, Act::Sync, 1, what);
        assert!(f.sync().is_err());
        assert_eq!(d.heal(), 1);
        assert_eq!(sectors(&d, "f"), "xaz", "it is still readable");
        f.sync().unwrap();
        let all = set(&["aa", "xa", "aa0", "xa0", "aaz", "xaz"]);
        assert_eq!(every(&now(&d), look(&["f"])), all, "the second sync does not help");
        // Neither does it if it has something else to do.
        put(&*f, 1, "y");
        f.sync().unwrap();
        let all = set(&["ay", "xy", "ay0", "xy0", "ayz", "xyz"]);
        assert_eq!(every(&now(&d), look(&["f"])), all);
        // Only writing again and syncing does.
        put(&*f, 0, "x");
        put(&*f, 2, "z");
        assert_eq!(every(&now(&d), look(&["f"])), all);
        f.sync().unwrap();
        assert_eq!(every(&now(&d), look(&["f"])), set(&["xyz"]));
    }
}

#[test]
fn a_lying_sync() {
    let d = disk(Posix, &[("f", "a")]);
    let f = open(&d, "f");
    put(&*f, 0, "x");
    fail(&d, Act::Sync, 1, Wrong::Lie);
    f.sync().unwrap();
    assert_eq!(every(&now(&d), look(&["f"])), set(&["a", "x"]));
    f.sync().unwrap();
    assert_eq!(every(&now(&d), look(&["f"])), set(&["x"]), "an honest one after it works");
    open(&d, "g");
    fail(&d, Act::SyncDir, 1, Wrong::Lie);
    d.sync_dir("").unwrap();
    assert_eq!(every(&now(&d), look(&["g"])), set(&[".", ""]));
}

#[test]
fn what_was_not_read_is_still_undecided_after_the_next_crash() {
    let d = disk(Posix, &[("f", "aa")]);
    put(&*open(&d, "f"), 0, "x");
    put(&*open(&d, "f"), 1, "y");
    let image = now(&d);
    let b = boot(&image, &[1]);
    let f = b.open("f", OPEN).unwrap();
    f.read_at(0, &mut [0; 512]).unwrap();
    assert_eq!(every(&b.image(0), look(&["f"])), set(&["xa", "xy"]), "what was read is a fact");
    f.sync().unwrap();
    assert_eq!(every(&now(&b), look(&["f"])), set(&["xa", "xy"]), "a sync decides nothing");
    put(&*f, 1, "z");
    assert_eq!(b.asked().len(), 1, "what is overwritten is not asked for");
    assert_eq!(every(&now(&b), look(&["f"])), set(&["xa", "xy", "xz"]));
    // And once more.
    let c = boot(&now(&b), &[]);
    let f = c.open("f", OPEN).unwrap();
    put(&*f, 1, "w");
    assert_eq!(now(&c).pending().len(), 3);
    assert_eq!(every(&now(&c), look(&["f"])), set(&["xa", "xy", "xz", "xw"]));
    assert_eq!(every(&c.image(0), look(&["f"])), set(&["xa", "xy", "xz"]));
    f.sync().unwrap();
    assert_eq!(every(&now(&c), look(&["f"])), set(&["xw"]));
    assert!(c.asked().is_empty());
    // Part of a sector cannot be overwritten without reading it.
    let c = boot(&now(&b), &[1]);
    c.open("f", OPEN).unwrap().write_at(600, b"w").unwrap();
    assert_eq!(c.asked().len(), 1);
    assert_eq!(content(&c, "f").unwrap()[599..602], *b"ywy");
}

#[test]
fn undecided_lengths_and_names_stay_so() {
    let d = disk(Posix, &[("f", "a")]);
    put(&*open(&d, "f"), 1, "x");
    d.rename("f", "g").unwrap();
    let b = boot(&now(&d), &[1]);
    let f = b.open("g", OPEN).unwrap();
    assert_eq!(b.asked().len(), 1);
    put(&*f, 0, "b");
    f.sync().unwrap();
    assert_eq!(b.asked().len(), 1, "the write lies before every end");
    assert_eq!(every(&now(&b), look(&["f", "g"])), set(&[". b", ". b0", ". bx"]));
    put(&*f, 1, "y");
    assert_eq!(b.asked().len(), 2, "whether this grows the file depends on its length");
    let c = boot(&now(&d), &[]);
    assert_eq!(every(&now(&c), look(&["f", "g"])).len(), 6);
    assert!(c.exists("f").unwrap());
    assert_eq!(every(&now(&c), look(&["f", "g"])), set(&["a .", "a0 .", "ax ."]));
}

#[test]
fn hostile_sectors() {
    let d = disk(Hostile, &[("f", "aa")]);
    put(&*open(&d, "f"), 0, "x");
    let image = now(&d);
    assert_eq!(image.questions()[0].1, 4);
    let seen = every(&image, |d| content(d, "f").unwrap());
    assert_eq!(seen.len(), 4);
    assert!(seen.iter().all(|b| b[512..] == [b'a'; 512]), "only what was being written");
    let first: BTreeSet<u8> = seen.iter().map(|b| b[0]).collect();
    assert!(first.is_superset(&BTreeSet::from([b'a', b'x', 0])));
    let q = Question::Sector { file: 1, sector: 0 };
    let all = [(Fate::Lost, 0), (Fate::Kept, 1), (Fate::Zeros, 2), (Fate::Garbage, 3)];
    for (fate, answer) in all {
        assert_eq!(image.answer(q, &|_, _| fate), answer);
    }
    open(&d, "f").sync().unwrap();
    assert!(now(&d).questions().is_empty());
}

#[test]
fn dsync_writes_are_durable_by_themselves() {
    for model in [Ordered, Posix, Hostile] {
        let d = disk(model, &[("f", "aaa")]);
        let s = d.open("f", OpenMode { dsync: true, ..OPEN }).unwrap();
        put(&*open(&d, "f"), 0, "x");
        put(&*s, 1, "y");
        put(&*s, 4, "z");
        let seen = every_prefix(&now(&d), look(&["f"]));
        if model == Ordered {
            assert_eq!(seen, set(&["xya0z"]));
        } else {
            assert_eq!(seen, set(&["aya0z", "xya0z"]));
        }
        let writes = d.events().iter().filter(|e| e.site.act == Act::Write).count();
        assert_eq!(writes, 4);
    }
}

#[test]
fn every_moment_can_be_crashed_in_any_order() {
    let d = disk(Posix, &[]);
    let f = open(&d, "f");
    let start = d.points();
    for (i, c) in ["a", "b", "c"].into_iter().enumerate() {
        put(&*f, i as u64, c);
        f.sync().unwrap();
        d.sync_dir("").unwrap();
    }
    let at = |p: usize| every(&d.image(start + p), look(&["f"]));
    assert_eq!(at(9), set(&["abc"]));
    assert_eq!(at(0), set(&[".", ""]));
    assert_eq!(at(1), set(&[".", "", "0", "a"]));
    assert_eq!(at(2), set(&[".", "a"]));
    assert_eq!(at(3), set(&["a"]));
    assert_eq!(at(7), set(&["ab", "ab0", "abc"]));
    assert_eq!(every(&d.kept(), look(&["f"])), set(&["abc"]));
    let events = d.events();
    assert_eq!(events.len(), d.points());
    assert_eq!((events[start].range.clone(), &*events[start].name), (0..512, "f"));
}

#[test]
fn if_only_the_process_dies_all_is_there() {
    let d = disk(Posix, &[("f", "a"), ("g", "a")]);
    put(&*open(&d, "f"), 1, "x");
    d.rename("f", "h").unwrap();
    assert_eq!(every(&d.kept(), look(&["f", "h"])), set(&[". ax"]));
    assert!(d.kept().questions().is_empty());
    // What nobody has looked at since the last power failure is what it was.
    put(&*open(&d, "g"), 0, "y");
    let b = boot(&now(&d), &[0]);
    put(&*b.open("f", CREATE).unwrap(), 0, "b");
    assert_eq!(every(&b.kept(), look(&["f", "g"])), set(&["b a", "b0 a", "bx a", "b y", "b0 y", "bx y"]));
}

// The rest of the interface.

#[test]
fn images_can_be_damaged() {
    let d = disk(Posix, &[("f", "abc"), ("g", "z")]);
    let image = now(&d);
    let fingerprint = |i: &Image| i.fingerprint(&|_, _| 0);
    let mut bytes = image.file("f").unwrap();
    assert_eq!(fingerprint(&image.with_file("f", &bytes)), fingerprint(&image));
    bytes[700] ^= 1;
    let bad = image.with_file("f", &bytes);
    assert_ne!(fingerprint(&bad), fingerprint(&image));
    assert_eq!(bad.file("f").unwrap(), bytes);
    assert_eq!(content(&boot(&bad, &[]), "f").unwrap(), bytes);
    bytes[700] ^= 1;
    assert_eq!(fingerprint(&bad.with_file("f", &bytes)), fingerprint(&image));
    for len in [0, 1, 511, 512, 1000, 5000] {
        let mut cut = bytes.clone();
        cut.resize(len, 0);
        let image = image.with_file("f", &cut);
        assert_eq!(content(&boot(&image, &[]), "f").unwrap(), cut);
        assert_eq!(fingerprint(&image.with_file("f", &bytes)), fingerprint(&now(&d)));
    }
    let more = image.with_file("wal/1", b"new").without_file("g");
    assert_eq!(more.names(), ["f", "wal/1"]);
    assert_eq!(content(&boot(&more, &[]), "wal/1").unwrap(), b"new");
    assert!(more.file("g").is_none());
    // Two equal files have not the hash of none.
    let twice = image.with_file("h", &bytes);
    assert_ne!(fingerprint(&twice), fingerprint(&image));
    // A name that is undecided is decided by it.
    d.remove("g").unwrap();
    put(&*open(&d, "f"), 0, "x");
    let image = now(&d);
    assert_eq!(image.questions().len(), 2);
    assert_eq!(image.with_file("g", b"there").file("g").unwrap(), b"there");
    assert!(image.with_file("g", b"there").with_file("f", b"f").questions().is_empty());
    assert_eq!(image.without_file("f").names(), Vec::<String>::new());
}

#[test]
fn planned_errors() {
    let d = disk(Posix, &[("data", "aa")]);
    let f = open(&d, "data");
    let at = |nth, what| d.plan(IoFault { role: Some("data"), act: Act::Write, nth, forever: false, what });
    let kind = |r: std::io::Result<()>| r.unwrap_err().kind();
    let before = d.points();
    at(1, Wrong::Short(512));
    at(3, Wrong::Interrupted);
    put(&*f, 0, "xyz");
    assert_eq!(sectors(&d, "data"), "xyz");
    assert_eq!(d.points(), before + 2, "a write that is continued is two");
    put(&*f, 0, "abc");
    assert_eq!((sectors(&d, "data").as_str(), d.heal()), ("abc", 2));

    at(1, Wrong::Short(0));
    assert_eq!(kind(f.write_at(0, b"no")), ErrorKind::WriteZero);
    at(2, Wrong::NoSpace);
    at(1, Wrong::Short(512));
    assert_eq!(kind(f.write_at(0, &[b'w'; 1024])), ErrorKind::StorageFull);
    assert_eq!(sectors(&d, "data"), "wbc", "what a short write wrote stays written");
    d.heal();
    at(1, Wrong::Eio);
    assert_eq!(f.write_at(0, b"no").unwrap_err().raw_os_error(), Some(5));
    at(1, Wrong::LostWrite);
    put(&*f, 0, "q");
    assert_eq!(sectors(&d, "data"), "wbc");
    at(1, Wrong::Misdirected(512));
    put(&*f, 0, "q");
    assert_eq!(sectors(&d, "data"), "wqc");
    at(1, Wrong::BitFlip { bit: 4096 + 1 });
    f.write_at(0, &[8; 512]).unwrap();
    assert_eq!(content(&d, "data").unwrap()[..2], [10, 8]);
    d.heal();

    // Reads.
    let mut buf = [0; 600];
    let read = |what| d.plan(IoFault { role: None, act: Act::Read, nth: 1, forever: true, what });
    for what in [Wrong::Short(100), Wrong::Short(0), Wrong::Interrupted] {
        read(what);
        assert_eq!(f.read_at(512, &mut buf).unwrap(), 600);
        assert!(buf[511] == b'q' && buf[512] == b'c');
        assert!(d.heal() > 0);
    }
    read(Wrong::BitFlip { bit: 0 });
    f.read_at(512, &mut buf).unwrap();
    assert_eq!(buf[0], b'q' ^ 1);
    d.heal();
    f.read_at(512, &mut buf).unwrap();
    assert_eq!(buf[0], b'q');
    read(Wrong::Eio);
    assert!(f.read_at(0, &mut buf).is_err() && f.read_at(0, &mut buf).is_err());
    assert_eq!(d.heal(), 2);

    // For ever, and of another role.
    let forever = |act, what| d.plan(IoFault { role: Some("other"), act, nth: 2, forever: true, what });
    forever(Act::Write, Wrong::Interrupted);
    forever(Act::Create, Wrong::NoSpace);
    let g = open(&d, "g");
    for _ in 0..3 {
        put(&*g, 0, "g");
    }
    put(&*f, 0, "f");
    assert!(d.open("h", CREATE).is_err() && d.open("i", CREATE).is_err());
    assert!(d.open("g", CREATE).is_ok());
    // The second write is interrupted, and so is the third; their repetitions are calls too.
    assert_eq!(d.heal(), 2 + 2 + 2);
    assert_eq!(d.heal(), 0);

    // Past the cache only whole sectors are transferred.
    let direct = d.open("data", OpenMode { direct: true, ..OPEN }).unwrap();
    at(1, Wrong::Short(700));
    let points = d.points();
    let mut aligned = AlignedBuf::new(1024);
    aligned.fill(b'd');
    direct.write_at(0, &aligned).unwrap();
    assert_eq!(d.events()[points].range, 0..512);
    assert_eq!(sectors(&d, "data"), "ddc");
}

#[test]
fn a_full_device() {
    let d = disk(Posix, &[("f", "aa")]);
    d.set_capacity(Some(2048));
    let g = open(&d, "g");
    put(&*g, 0, "xy");
    for full in [g.write_at(1000, &[1; 100]), g.set_len(1025), g.allocate(0, 1025)] {
        assert_eq!(full.unwrap_err().kind(), ErrorKind::StorageFull);
    }
    assert_eq!(sectors(&d, "g"), "xy");
    d.remove("f").unwrap();
    g.set_len(2048).unwrap();
    d.set_capacity(None);
    g.set_len(1 << 30).unwrap();
}

#[test]
fn without_power_every_call_fails() {
    let d = disk(Posix, &[("f", "aa")]);
    let f = open(&d, "f");
    let lock = d.lock("LOCK").unwrap();
    let points = d.points();
    d.power_off();
    assert!(f.read_at(0, &mut [0; 4]).is_err() && f.write_at(0, b"x").is_err() && f.sync().is_err());
    assert!(f.len().is_err() && f.set_len(0).is_err() && f.allocate(0, 9).is_err());
    assert!(d.open("f", OPEN).is_err() && d.list("").is_err() && d.exists("f").is_err());
    assert!(d.rename("f", "g").is_err() && d.remove("f").is_err() && d.sync_dir("").is_err());
    assert!(d.create_dir("wal").is_err() && d.lock("L").is_err());
    drop(lock);
    assert_eq!(d.points(), points);
    assert_eq!(every(&now(&d), look(&["f"])), set(&["aa"]), "it can still be examined");
}

#[test]
fn roles() {
    let all = [
        ("data", "data"),
        ("control", "control"),
        ("versions", "versions"),
        ("wal/0000000000001000", "wal"),
        ("wal/free-3", "wal-spare"),
        ("wal/make", "wal-spare"),
        ("wal", "wal"),
        ("", "root"),
        ("control.new", "other"),
        ("LOCK", "other"),
    ];
    for (name, is) in all {
        assert_eq!(role(name), is, "{name}");
    }
}

/// Objects to writes to `data` while the first 512 bytes of `wal/1` are not synced.
struct WalFirst(Arc<Mutex<Vec<String>>>);

impl Watch for WalFirst {
    fn before(&mut self, event: &IoEvent, data: &[u8], disk: &Durable<'_>) -> Option<String> {
        let line = format!("{} {:?} {}", event.site.role, event.site.act, data.len());
        self.0.lock().unwrap().push(line.clone());
        let early =
            event.site.role == "data" && event.site.act == Act::Write && !disk.is_synced("wal/1", 0..512);
        early.then_some(line)
    }
    fn acknowledged(&mut self, disk: &Durable<'_>) -> Option<String> {
        assert_eq!(disk.names(), ["data", "wal/1"]);
        let log = disk.read("wal/1", 0..1024);
        Some(log.map_or("no log".to_owned(), |b| format!("log of {}", b.len())))
    }
}

#[test]
fn a_watch_sees_every_change_before_it_is_done() {
    let d = SimDisk::new(Posix);
    let seen = Arc::new(Mutex::new(Vec::new()));
    d.set_watch(Box::new(WalFirst(seen.clone())));
    d.create_dir("wal").unwrap();
    let (log, data) = (open(&d, "wal/1"), open(&d, "data"));
    put(&*data, 0, "x");
    d.acknowledged();
    put(&*log, 0, "x");
    put(&*data, 0, "y");
    log.sync().unwrap();
    d.acknowledged();
    d.sync_dir("").unwrap();
    d.sync_dir("wal").unwrap();
    put(&*data, 0, "z");
    put(&*log, 1, "z");
    d.acknowledged();
    // The first bytes of a sector that is written again with them are as durable as before.
    log.write_at(500, b"zz").unwrap();
    put(&*data, 1, "z");
    let objections = ["data Write 512", "no log", "data Write 512", "no log", "log of 512", "data Write 512"];
    assert_eq!(d.objections(), objections);
    assert_eq!(seen.lock().unwrap().len(), d.points());
    assert_eq!(seen.lock().unwrap()[..3], ["wal MakeDir 0", "wal Create 0", "data Create 0"]);
}

#[test]
fn equal_runs_have_equal_hashes() {
    let run = |extra: bool| {
        let d = disk(Posix, &[("f", "ab")]);
        d.open("f", READ).unwrap().read_at(0, &mut [0; 100]).unwrap();
        if extra {
            d.open("f", READ).unwrap().read_at(0, &mut [0; 1]).unwrap();
        }
        assert_eq!(d.traffic(), (100 + u64::from(extra), 1024));
        d.history_hash()
    };
    assert_eq!(run(false), run(false));
    assert_ne!(run(false), run(true));
}

// Random runs.

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }
}

const NAMES: [&str; 5] = ["f", "g", "wal/1", "wal/2", "data"];

/// Does one random thing to each of the disks.
fn step(random: &mut Random, disks: &[&dyn Disk], small: bool) {
    let name = NAMES[random.below(if small { 4 } else { 5 }) as usize];
    let to = NAMES[random.below(5) as usize];
    let what = random.below(24);
    let (at, len, byte) = match small {
        true => (random.below(1200), random.below(900) + 1, random.below(250) as u8 + 1),
        false => (random.below(20_000), random.below(9000) + 1, random.below(250) as u8 + 1),
    };
    let aligned = random.below(2) == 0;
    let (at, len) = if aligned { (at / 512 * 512, len.next_multiple_of(512)) } else { (at, len) };
    let dsync = what == 0;
    for d in disks {
        // Files may be missing, and errors may be planned.
        let fine = |r: std::io::Result<()>| {
            if let Err(e) = r {
                assert!(e.kind() == ErrorKind::NotFound || e.raw_os_error() == Some(5), "{e:?}");
            }
        };
        let file = |mode| d.open(name, mode);
        fine(match what {
            0..12 => {
                let mode = OpenMode { dsync, create: what < 8, ..OPEN };
                file(mode).and_then(|f| f.write_at(at, &vec![byte; len as usize]))
            }
            12..14 => file(OPEN).and_then(|f| f.set_len(at)),
            14 => file(OPEN).and_then(|f| f.allocate(at, len)),
            15..17 => file(OPEN).and_then(|f| f.sync()),
            17..19 => d.rename(name, to),
            19 => d.remove(name),
            20 => d.create_dir("wal"),
            21 => d.sync_dir("wal"),
            22 => d.sync_dir(""),
            _ => file(OPEN).and_then(|f| f.read_at(at, &mut vec![0; len as usize]).map(drop)),
        });
    }
}

fn all(disk: &dyn Disk) -> BTreeMap<&'static str, Vec<u8>> {
    NAMES.iter().filter_map(|n| Some((*n, content(disk, n)?))).collect()
}

/// Whether the image can be a disk with these files.
fn allows(image: &Image, files: &BTreeMap<&'static str, Vec<u8>>) -> bool {
    let questions = image.questions();
    let (sectors, others): (Vec<_>, Vec<_>) =
        questions.into_iter().partition(|(q, _)| matches!(q, Question::Sector { .. }));
    let most = sectors.iter().map(|(_, n)| *n).max().unwrap_or(1);
    let mut answers = vec![0u8; others.len()];
    loop {
        let fixed = |q: Question| others.iter().position(|(o, _)| *o == q).map(|i| answers[i]);
        // Given names and lengths, the sectors are independent.
        let worlds: Vec<_> = (0..most)
            .map(|v| {
                let decided = image.decided(&|q, n| fixed(q).unwrap_or(v.min(n - 1)));
                all(&boot(&decided, &[]))
            })
            .collect();
        let shape = |w: &BTreeMap<&str, Vec<u8>>| {
            w.keys().eq(files.keys()) && w.values().map(Vec::len).eq(files.values().map(Vec::len))
        };
        if shape(&worlds[0])
            && files.iter().all(|(name, bytes)| {
                bytes
                    .chunks(512)
                    .enumerate()
                    .all(|(i, s)| worlds.iter().any(|w| w[name][i * 512..][..s.len()] == *s))
            })
        {
            return true;
        }
        let Some(next) = (0..answers.len()).find(|i| answers[*i] + 1 < others[*i].1) else { return false };
        answers[..next].fill(0);
        answers[next] += 1;
    }
}

#[test]
fn allows_whatever_the_disk_in_memory_leaves() {
    for seed in 0..150 {
        let mut random = Random(seed);
        let (sim, mem) = (SimDisk::new(Posix), MemDisk::new());
        sim.create_dir("wal").unwrap();
        mem.create_dir("wal").unwrap();
        for _ in 0..random.below(14) + 2 {
            step(&mut random, &[&sim, &mem], true);
            assert_eq!(all(&sim), all(&mem));
        }
        let image = now(&sim);
        assert_eq!(all(&boot(&sim.kept(), &[])), all(&mem.crash(CrashModel::KeepAll)), "seed {seed}");
        let lost = all(&mem.crash(CrashModel::LoseUnsynced));
        assert!(allows(&image, &lost), "seed {seed}: {:?}", image.pending());
        // Of several pending cuts the disk in memory remembers the last one only: it may lose that one, and then bring back
        // what an earlier one, which it kept, had cut off.
        let cuts = |p: &&PendingOp| p.site.act == Act::SetLen;
        let files: Vec<_> = image.pending().iter().filter(cuts).map(|p| p.file).collect();
        if files.iter().collect::<BTreeSet<_>>().len() < files.len() {
            continue;
        }
        for crash in 0..6 {
            let torn_sector_bytes = [512, 4096][crash % 2];
            let left = all(&mem.crash(CrashModel::Random { seed: crash as u64, torn_sector_bytes }));
            assert!(allows(&image, &left), "seed {seed}, crash {crash}: {:?}", image.pending());
        }
    }
}

/// A disk made of nothing but durable files.
fn made_of(files: &BTreeMap<&'static str, Vec<u8>>, wal: bool) -> Image {
    let d = SimDisk::new(Posix);
    if wal {
        d.create_dir("wal").unwrap();
    }
    for (name, bytes) in files.iter().rev() {
        let f = open(&d, name);
        f.write_at(0, bytes).unwrap();
        f.sync().unwrap();
    }
    d.sync_dir("").unwrap();
    if wal {
        d.sync_dir("wal").unwrap();
    }
    now(&d)
}

/// Random histories over several crashes: that what is asked lazily is what is decided at once, that hashes tell disks apart
/// by what can be read and by nothing else, and that images do not depend on the order in which they are asked for.
#[test]
fn lazy_answers_decided_images_and_hashes_agree() {
    let none = |_: Question, _: u8| 0;
    for seed in 0..400 {
        let mut random = Random(seed ^ 0xABCD);
        let model = [Posix, Hostile, Ordered][seed as usize % 3];
        let mut disk = SimDisk::new(model);
        for _generation in 0..4 {
            if random.below(3) == 0 {
                let what = [Wrong::Eio, Wrong::Lie, Wrong::Short(700)][random.below(3) as usize].clone();
                let act = if what == Wrong::Short(700) { Act::Write } else { Act::Sync };
                let role = [None, Some("wal")][random.below(2) as usize];
                let (nth, forever) = (random.below(2) + 1, random.below(2) == 0);
                disk.plan(IoFault { role, act, nth, forever, what });
            }
            disk.create_dir("wal").unwrap();
            for _ in 0..random.below(12) + 1 {
                step(&mut random, &[&disk], false);
            }
            disk.heal();
            let points = disk.points();
            let upwards: Vec<u64> = (0..=points).map(|p| disk.image(p).fingerprint(&|_, n| n - 1)).collect();
            let p = random.below(points as u64 + 1) as usize;
            assert_eq!(disk.image(p).fingerprint(&|_, n| n - 1), upwards[p]);

            let image = disk.image(p);
            let questions = image.questions();
            assert!(questions.is_sorted());
            let kept = |_: usize, _: u64| Fate::Kept;
            for (q, n) in &questions {
                assert!(*n > 1 && image.answer(*q, &kept) > 0 && image.answer(*q, &|_, _| Fate::Lost) == 0);
            }
            for round in 0..4 {
                let salt = random.below(1 << 40);
                let answer = move |q: Question, n: u8| match (round, q) {
                    (0, _) => 0,
                    (1, _) => n - 1,
                    (_, Question::Sector { file, sector }) => {
                        (Random(salt ^ u64::from(file) << 32 ^ sector).below(u64::from(n))) as u8
                    }
                    (_, Question::Length { file }) => {
                        (Random(salt ^ 1 << 50 ^ u64::from(file)).below(u64::from(n))) as u8
                    }
                    (_, Question::Name { change }) => (Random(salt ^ u64::from(change)).below(2)) as u8,
                };
                let decided = image.decided(&answer);
                assert!(decided.questions().is_empty() && decided.pending().is_empty());
                let files = all(&boot(&decided, &[]));
                // Lazily, and in random pieces.
                struct By<F>(F);
                impl<F: Fn(Question, u8) -> u8 + Send> Fates for By<F> {
                    fn decide(&mut self, q: Question, n: u8) -> u8 {
                        (self.0)(q, n)
                    }
                }
                let lazy = SimDisk::boot(&image, Box::new(By(answer)));
                for _ in 0..5 {
                    let name = NAMES[random.below(5) as usize];
                    if let Ok(f) = lazy.open(name, READ) {
                        let (at, len) = (random.below(20_000), random.below(3000));
                        f.read_at(at, &mut vec![0; len as usize]).unwrap();
                    }
                }
                assert_eq!(all(&lazy), files, "seed {seed}");
                let asked = lazy.asked();
                assert!(asked.iter().all(|a| questions.contains(&(a.question, a.options))));
                // What was asked is a fact; what was not cannot be seen.
                assert_eq!(all(&boot(&now(&lazy).decided(&none), &[])), files);
                let hash = image.fingerprint(&answer);
                assert_eq!(hash, decided.fingerprint(&none), "seed {seed}");
                assert_eq!(hash, now(&lazy).fingerprint(&answer));
                let wal = boot(&decided, &[]).list("wal").is_ok();
                let two_names = files.iter().any(|(a, x)| files.iter().any(|(b, y)| a != b && x == y));
                if !two_names {
                    assert_eq!(hash, made_of(&files, wal).fingerprint(&none), "seed {seed}");
                }
                assert_eq!(all(&boot(&lazy.kept(), &[])), files);
            }
            // What is there now, and what is there if the process dies.
            let image = disk.image(p);
            let (live, kept) = (all(&disk), disk.kept());
            assert_eq!(all(&boot(&kept, &[])), live, "seed {seed}");
            disk = boot(&image, &(0..40).map(|_| random.below(3) as u8).collect::<Vec<_>>());
        }
    }
}

/// Under `Ordered` a crash goes back to an earlier moment, and after a sync never to one before what it synced.
#[test]
fn ordered_is_the_past() {
    let mut compared = 0;
    for seed in 0..200 {
        let mut random = Random(seed ^ 0x0DE4);
        let d = SimDisk::new(Ordered);
        d.create_dir("wal").unwrap();
        // What was there when so many changes had been made.
        let mut past = BTreeMap::from([(0, BTreeMap::new()), (1, BTreeMap::new())]);
        for _ in 0..random.below(30) + 5 {
            step(&mut random, &[&d], seed % 2 == 0);
            past.insert(d.points(), all(&d));
        }
        for _ in 0..3 {
            let image = d.image(random.below(d.points() as u64 + 1) as usize);
            let pending = image.pending();
            for k in 0..=pending.len() {
                // A rename between directories is two changes of one call, and may be half durable.
                let half = match k {
                    0 => pending.first().is_some_and(|p| p.site.act == Act::Rename),
                    _ => k < pending.len() && pending[k - 1].event == pending[k].event,
                };
                if half {
                    continue;
                }
                let moment = match k.checked_sub(1) {
                    Some(last) => pending[last].event + 1,
                    None => pending.first().map_or(0, |p| p.event),
                };
                let Some(then) = past.get(&moment).filter(|_| !pending.is_empty()) else { continue };
                let fate = |op: usize, _: u64| if op < k { Fate::Kept } else { Fate::Lost };
                let decided = image.decided(&|q, _| image.answer(q, &fate));
                assert!(all(&boot(&decided, &[])) == *then, "seed {seed}: {k} of {pending:?}");
                compared += 1;
            }
        }
    }
    assert!(compared > 1000, "{compared}");
}

// What every disk promises.

fn kind<T: std::fmt::Debug>(result: std::io::Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

fn bytes(file: &dyn DiskFile) -> Vec<u8> {
    let mut buf = vec![0xEE; file.len().unwrap() as usize];
    read_exact_at(file, 0, &mut buf).unwrap();
    buf
}

#[test]
fn opening() {
    let d = SimDisk::new(Posix);
    assert_eq!(kind(d.open("f", OPEN)), ErrorKind::NotFound);
    assert!(!d.exists("f").unwrap());
    d.open("f", NEW).unwrap().write_at(0, b"abc").unwrap();
    assert!(d.exists("f").unwrap());
    assert_eq!(kind(d.open("f", NEW)), ErrorKind::AlreadyExists);
    assert_eq!(bytes(&*d.open("f", CREATE).unwrap()), b"abc", "opening does not truncate");
    let reader = d.open("f", READ).unwrap();
    assert!(reader.write_at(0, b"x").is_err() && reader.set_len(0).is_err());
    assert!(reader.allocate(0, 100).is_err());
    assert_eq!(bytes(&*reader), b"abc");
    assert_eq!(kind(d.open("g", OpenMode { create: true, ..READ })), ErrorKind::InvalidInput);
    assert_eq!(kind(d.open("no/f", CREATE)), ErrorKind::NotFound);
    for bad in ["", "/f", "../f", "a/../f", ".", "..", "a/b/c", "a//b", "a/", "a\0"] {
        assert_eq!(kind(d.open(bad, CREATE)), ErrorKind::InvalidInput, "{bad:?}");
        assert_eq!(kind(d.remove(bad)), ErrorKind::InvalidInput, "{bad:?}");
        assert_eq!(kind(d.rename("f", bad)), ErrorKind::InvalidInput, "{bad:?}");
        assert_eq!(kind(d.lock(bad)), ErrorKind::InvalidInput, "{bad:?}");
        assert_eq!(kind(d.exists(bad)), ErrorKind::InvalidInput, "{bad:?}");
    }
    assert_eq!(kind(d.list("..")), ErrorKind::InvalidInput);
    assert_eq!(kind(d.create_dir("/tmp/x")), ErrorKind::InvalidInput);
    assert!(!d.describe().is_empty());
}

#[test]
fn reading_and_writing() {
    let d = SimDisk::new(Posix);
    let f = d.open("f", CREATE).unwrap();
    assert!(f.is_empty().unwrap());
    let mut buf = [9; 8];
    assert_eq!(f.read_at(0, &mut buf).unwrap(), 0);
    assert_eq!(f.read_at(u64::MAX, &mut buf).unwrap(), 0);
    f.write_at(10, b"hello").unwrap();
    assert_eq!(bytes(&*f), b"\0\0\0\0\0\0\0\0\0\0hello");
    assert_eq!(f.read_at(12, &mut buf).unwrap(), 3);
    assert_eq!(&buf[..3], b"llo");
    assert_eq!(kind(read_exact_at(&*f, 12, &mut buf)), ErrorKind::UnexpectedEof);
    f.write_at(1 << 30, b"").unwrap();
    assert_eq!(f.len().unwrap(), 15, "an empty write does not grow the file");
    let big: Vec<u8> = (0..300_000u32).map(|i| (i * 7 / 3) as u8).collect();
    f.write_at(65_000, &big).unwrap();
    let mut back = vec![0; big.len()];
    read_exact_at(&*f, 65_000, &mut back).unwrap();
    assert!(back == big);
    let g = d.open("f", OPEN).unwrap();
    g.write_at(0, b"G").unwrap();
    assert_eq!(f.read_at(0, &mut buf[..1]).unwrap(), 1);
    assert_eq!(buf[0], b'G', "two handles are one file");
    f.sync().unwrap();
    f.drop_cache().unwrap();
    assert!(f.write_at(u64::MAX - 1, b"abc").is_err() && f.write_at(i64::MAX as u64, b"abc").is_err());

    let f = d.open("v", CREATE).unwrap();
    f.write_vectored_at(0, &[]).unwrap();
    f.write_vectored_at(0, &[b"", b""]).unwrap();
    assert_eq!(f.len().unwrap(), 0);
    let parts: Vec<Vec<u8>> = (0..3000usize).map(|i| vec![i as u8; i % 5]).collect();
    let slices: Vec<&[u8]> = parts.iter().map(|p| &p[..]).collect();
    let points = d.points();
    f.write_vectored_at(3, &slices).unwrap();
    assert_eq!(bytes(&*f), [vec![0; 3], parts.concat()].concat());
    assert_eq!(d.points(), points + 1, "one change");
}

#[test]
fn lengths() {
    let d = SimDisk::new(Posix);
    let f = d.open("f", CREATE).unwrap();
    f.write_at(0, &[7; 200_000]).unwrap();
    f.set_len(100).unwrap();
    assert_eq!(bytes(&*f), [7; 100]);
    f.set_len(150_000).unwrap();
    f.allocate(149_000, 2_000).unwrap();
    f.allocate(0, 100).unwrap();
    f.allocate(1 << 20, 0).unwrap();
    assert_eq!(f.len().unwrap(), 151_000);
    let all = bytes(&*f);
    assert!(all[..100] == [7; 100] && all[100..].iter().all(|&b| b == 0), "what was cut off stays off");
    assert!(f.allocate(u64::MAX, 2).is_err() && f.set_len(u64::MAX).is_err());
}

#[test]
fn names() {
    let d = SimDisk::new(Posix);
    let list = |dir: &str| d.list(dir).map(|names| names.into_iter().collect::<BTreeSet<_>>());
    assert_eq!(kind(list("wal")), ErrorKind::NotFound);
    assert_eq!(kind(d.sync_dir("wal")), ErrorKind::NotFound);
    d.create_dir("wal").unwrap();
    d.create_dir("wal").unwrap();
    d.create_dir("").unwrap();
    assert!(!d.exists("wal").unwrap(), "a directory is not a file");
    assert_eq!(kind(d.open("wal", CREATE)), ErrorKind::IsADirectory);
    d.open("wal/1", NEW).unwrap().write_at(0, b"one").unwrap();
    d.open("wal/2", NEW).unwrap().write_at(0, b"two").unwrap();
    d.open("top", NEW).unwrap();
    assert_eq!(kind(d.rename("top", "wal")), ErrorKind::IsADirectory);
    assert!(d.create_dir("top").is_err());
    assert_eq!(list("").unwrap(), set(&["top"]));
    assert_eq!(list("wal").unwrap(), set(&["1", "2"]));
    let two = d.open("wal/2", OPEN).unwrap();
    d.rename("wal/1", "wal/2").unwrap();
    assert_eq!(bytes(&*d.open("wal/2", OPEN).unwrap()), b"one");
    assert_eq!(bytes(&*two), b"two", "a handle keeps its file");
    d.rename("wal/2", "two").unwrap();
    d.rename("two", "two").unwrap();
    assert_eq!(bytes(&*d.open("two", OPEN).unwrap()), b"one");
    assert_eq!(list("wal").unwrap(), BTreeSet::new());
    assert_eq!(kind(d.rename("wal/1", "x")), ErrorKind::NotFound);
    assert_eq!(kind(d.rename("two", "no/x")), ErrorKind::NotFound);
    d.remove("two").unwrap();
    assert_eq!(kind(d.remove("two")), ErrorKind::NotFound);
    assert!(!d.exists("two").unwrap() && !d.exists("no/x").unwrap());
    assert!(d.open("two", NEW).unwrap().is_empty().unwrap(), "a new file of an old name is new");
    let held = d.lock("LOCK").unwrap();
    assert!(d.exists("LOCK").unwrap());
    assert_eq!(kind(d.lock("LOCK")), ErrorKind::WouldBlock);
    drop(d.lock("OTHER").unwrap());
    drop(held);
    drop(d.lock("LOCK").unwrap());
}

#[test]
fn direct_transfers() {
    let d = SimDisk::new(Posix);
    let f = d.open("f", OpenMode { direct: true, dsync: true, ..NEW }).unwrap();
    let mut buf = AlignedBuf::new(8192);
    buf[..4096].fill(1);
    buf[4096..].fill(2);
    f.write_at(4096, &buf).unwrap();
    f.write_vectored_at(0, &[&buf[4096..], &buf[..512]]).unwrap();
    f.allocate(0, 65_536).unwrap();
    f.sync().unwrap();
    f.set_len(5000).unwrap();
    buf.fill(9);
    assert_eq!(f.read_at(4096, &mut buf).unwrap(), 904);
    assert!(buf[..904] == [1; 904]);
    assert_eq!(f.read_at(8192, &mut buf).unwrap(), 0);
    assert!(
        f.bypasses_cache() && f.write_at(1, &buf[..512]).is_err() && f.read_at(0, &mut buf[1..513]).is_err()
    );
    assert!(!d.open("f", OPEN).unwrap().bypasses_cache());
}

/// A process that dies in a sync leaves what it wrote in the cache; the next one's sync makes it durable.
#[test]
fn a_process_dies_in_a_sync() {
    let disk = disk(Posix, &[("data", "aa")]);
    let file = open(&disk, "data");
    disk.plan(IoFault { role: Some("data"), act: Act::Sync, nth: 1, forever: false, what: Wrong::Dies });
    put(&*file, 0, "xy");
    let points = disk.points();
    assert!(file.sync().is_err());
    assert!(file.sync().is_err() && file.write_at(0, &[b'z'; 512]).is_err(), "it is dead");
    assert_eq!(disk.points(), points, "nothing was done");
    let next = disk.kill();
    assert_eq!(sectors(&next, "data"), "xy");
    let lost = |d: &SimDisk| {
        let image = d.image(usize::MAX);
        image.questions().len()
    };
    assert_eq!(lost(&next), 2, "both sectors may be lost");
    open(&next, "data").sync().unwrap();
    assert_eq!(lost(&next), 0);
}
