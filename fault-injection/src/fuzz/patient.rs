//! Small databases to be damaged, made once, and what is done with them afterwards.
use super::fixup::u64_at;
use crate::engine::{Config, Engine, Session};
use crate::engines::hamal::{Hamal, builder, failure};
use crate::engines::pages::Pages;
use crate::model::Contents;
use crate::op::{Ack, Op, key_bytes};
use crate::run::{Ended, Newest, newborn, run};
use crate::sim::{Act, Image, Persistence, SimDisk};
use hamal::raw::ResourceManager;
use hamal::{Database, Error, ErrorKind};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// Files by name.
pub(super) type Files = BTreeMap<String, Vec<u8>>;

/// A database, and how it was earlier.
pub(super) struct Patient {
    image: Image,
    /// Its files.
    pub(super) files: Files,
    /// Its files just after earlier syncs of the data file and the control file.
    pub(super) older: Vec<Files>,
    /// What it holds.
    pub(super) contents: Contents,
    pub(super) config: Config,
    /// Whether it was closed properly: nothing has to be recovered.
    pub(super) closed: bool,
    /// Whether the counters' manager belongs to it.
    counters: bool,
}

fn files_of(image: &Image) -> Files {
    image.names().into_iter().filter_map(|n| Some((n.clone(), image.file(&n)?))).collect()
}

/// Two trees of several pages each, large values, ghosts, a dropped tree whose pages are not all collected.
fn tree_ops() -> Vec<Op> {
    let mut ops = vec![Op::Begin { txn: 0 }];
    ops.extend((0..3).map(|tree| Op::CreateTree { txn: 0, tree }));
    let put = |txn, tree, key, len| Op::Put { txn, tree, key, len, fill: key as u8 };
    ops.extend((0..40).map(|k| put(0, 0, k * 3, 120 + 17 * (k % 9))));
    ops.extend((0..4).map(|k| put(0, 1, k, 20)));
    ops.push(put(0, 1, 7, 9000));
    ops.push(put(0, 2, 1, 5000));
    ops.push(Op::Commit { txn: 0, ack: Ack::Durable });
    ops.extend([Op::Checkpoint, Op::Begin { txn: 1 }]);
    ops.extend((4..9).map(|k| Op::Delete { txn: 1, tree: 0, key: k * 3 }));
    ops.push(put(1, 1, 2, 3000));
    ops.push(Op::Commit { txn: 1, ack: Ack::Durable });
    ops.extend([Op::Flush, Op::Begin { txn: 2 }, Op::DropTree { txn: 2, tree: 2 }]);
    ops.push(Op::Commit { txn: 2, ack: Ack::Durable });
    ops
}

/// Two pages of counters, and some rows.
fn counter_ops() -> Vec<Op> {
    let mut ops = vec![Op::Begin { txn: 0 }, Op::CreateTree { txn: 0, tree: 0 }];
    ops.extend((0..50).step_by(3).map(|key| Op::Add { txn: 0, tree: 0, key, delta: key as i32 - 20 }));
    ops.extend([Op::Commit { txn: 0, ack: Ack::Durable }, Op::Flush]);
    ops.extend([Op::Begin { txn: 1 }, Op::Add { txn: 1, tree: 0, key: 6, delta: 5 }]);
    ops.push(Op::Commit { txn: 1, ack: Ack::Durable });
    ops
}

impl Patient {
    fn make(engine: &dyn Engine, counters: bool, mut ops: Vec<Op>, closed: bool) -> Patient {
        let config = Config::default();
        let model = Persistence::Posix;
        if closed {
            ops.push(Op::Reopen);
        } else {
            // Work that only the log holds, and a transaction to roll back.
            ops.push(Op::Begin { txn: 3 });
            ops.extend((0..6).map(|key| match counters {
                true => Op::Add { txn: 3, tree: 0, key, delta: 9 },
                false => Op::Put { txn: 3, tree: 0, key, len: 300, fill: 1 },
            }));
            ops.push(Op::Commit { txn: 3, ack: Ack::Durable });
            ops.push(Op::Begin { txn: 4 });
            ops.push(match counters {
                true => Op::Add { txn: 4, tree: 0, key: 1, delta: 9 },
                false => Op::Put { txn: 4, tree: 1, key: 1, len: 700, fill: 1 },
            });
            // Makes the log durable up to here, the open transaction's records included.
            ops.extend([Op::Begin { txn: 5 }]);
            ops.push(match counters {
                true => Op::Add { txn: 5, tree: 0, key: 2, delta: 1 },
                false => Op::Put { txn: 5, tree: 0, key: 100, len: 8, fill: 1 },
            });
            ops.push(Op::Commit { txn: 5, ack: Ack::Durable });
        }
        let start = newborn(engine, &config, model).unwrap_or_else(|f| panic!("a new database: {f}"));
        let run = run(engine, &config, model, Some(&start), &ops, &|_| {});
        assert!(matches!(run.ended, Ended::Whole), "the scenario does not run: {:?}", run.ended);
        let mut older = vec![files_of(&start)];
        for (i, e) in run.disk.events().iter().enumerate() {
            if e.site.act == Act::Sync && matches!(e.site.role, "data" | "control") {
                older.push(files_of(&run.disk.image(i + 1).decided(&|_, options| options - 1)));
            }
        }
        let image = run.disk.kept();
        let allowed = &run.allowed(run.disk.points()).allowed;
        let contents = allowed.state(allowed.high()).clone();
        Patient { files: files_of(&image), image, older, contents, config, closed, counters }
    }

    /// B-trees; properly closed.
    pub(super) fn trees() -> &'static Patient {
        static MADE: OnceLock<Patient> = OnceLock::new();
        MADE.get_or_init(|| Patient::make(&Hamal::new(), false, tree_ops(), true))
    }
    /// B-trees; the process died.
    pub(super) fn crashed() -> &'static Patient {
        static MADE: OnceLock<Patient> = OnceLock::new();
        MADE.get_or_init(|| Patient::make(&Hamal::new(), false, tree_ops(), false))
    }
    /// Pages of counters; properly closed.
    pub(super) fn counters() -> &'static Patient {
        static MADE: OnceLock<Patient> = OnceLock::new();
        MADE.get_or_init(|| Patient::make(&Pages::new(), true, counter_ops(), true))
    }
    /// Pages of counters; the process died.
    pub(super) fn counters_crashed() -> &'static Patient {
        static MADE: OnceLock<Patient> = OnceLock::new();
        MADE.get_or_init(|| Patient::make(&Pages::new(), true, counter_ops(), false))
    }
    /// One of these.
    pub(super) fn pick(n: u8) -> &'static Patient {
        match n % 4 {
            0 => Patient::trees(),
            1 => Patient::crashed(),
            2 => Patient::counters(),
            _ => Patient::counters_crashed(),
        }
    }

    /// The image with these files.
    pub(super) fn with(&self, files: &Files) -> Image {
        let mut image = self.image.clone();
        for name in self.files.keys().filter(|n| !files.contains_key(*n)) {
            image = image.without_file(name);
        }
        for (name, bytes) in files.iter().filter(|(n, b)| self.files.get(*n) != Some(b)) {
            image = image.with_file(name, bytes);
        }
        image
    }

    pub(super) fn engine(&self) -> Box<dyn Engine> {
        if self.counters { Box::new(Pages::new()) } else { Box::new(Hamal::new()) }
    }

    fn manager(&self) -> Option<Arc<dyn ResourceManager>> {
        self.counters.then(Pages::manager)
    }
}

/// What the engine calls a bug in itself, and may, if pages or records that are each whole contradict each other: the rule that does
/// not hold is checked where a change is about to be made, and the engine stops before it writes anything. The words are those
/// of `Error::message`.
const CONTRADICTIONS: [&str; 4] = [
    // A space map that says free (or allocated) of a page that a tree uses (or not).
    "could not be applied to its page",
    "SPACE-1: page",
    "a change of a page that is not initialised",
    // A log record to be undone whose row is not as that record left it.
    "BTREE-6: the row to undo is gone",
];

/// An error that an engine may return whatever its files hold.
pub(super) fn typed(e: &Error) {
    let chain = || std::iter::successors(Some(e), |e| e.cause());
    let known = chain().any(|e| CONTRADICTIONS.iter().any(|c| e.message().contains(c)));
    if let Some(bug) = chain().find(|e| e.kind() == ErrorKind::Internal && !known) {
        panic!("the engine calls it a bug: {bug:?}; in full: {}", failure(e));
    }
}

/// Takes the value; an error must be a typed one.
fn good<T>(r: hamal::Result<T>) -> Option<T> {
    r.inspect_err(typed).ok()
}

/// Bytes that the engine may read and write: the work on a database of some hundred KiB has no reason for more.
const TRAFFIC: u64 = 512 << 20;
/// Rows that a scan of it may come to.
const MOST_ROWS: usize = 1 << 17;

/// Opens the database on this image and works with it in every way: it is read, described, verified, changed, closed and opened
/// again. Any data is right, and any error, but for those that [`typed`] objects to.
pub(super) fn work_with(patient: &Patient, image: &Image, page: u64) {
    let disk = SimDisk::boot(image, Box::new(Newest));
    let mut builder = builder(&patient.config, crate::engines::hamal::DATABASE_ID, None);
    if let Some(m) = patient.manager() {
        builder = builder.resource_manager(m);
    }
    for round in 0..2 {
        let Some(db) = good(builder.open_on(Arc::new(disk.clone()))) else { break };
        if round == 0 {
            read_all(&db);
            for p in [page, 0, 1, 2] {
                good(db.describe_page(p));
            }
            if let Some(report) = good(db.verify(&mut |_, _| {})) {
                assert!(report.findings.len() <= 1 << 16, "{} findings", report.findings.len());
            }
            change(&db);
            good(db.checkpoint());
            for _ in 0..20 {
                if good(db.maintenance_step()) != Some(true) {
                    break;
                }
            }
        }
        read_all(&db);
        if good(db.close()).is_none() {
            break;
        }
    }
    bounded(&disk);
    disk.power_off();
}

fn bounded(disk: &SimDisk) {
    let (read, written) = disk.traffic();
    assert!(read + written <= TRAFFIC, "{read} bytes were read and {written} written");
}

fn read_all(db: &Database) {
    let Some(snapshot) = good(db.begin_read()) else { return };
    for name in good(snapshot.trees()).unwrap_or_default().iter().take(20) {
        let Some(tree) = good(snapshot.tree(name)) else { continue };
        for rows in [&mut tree.iter() as &mut dyn Iterator<Item = _>, &mut tree.iter().rev()] {
            let mut n = 0;
            for row in rows {
                n += 1;
                assert!(n < MOST_ROWS, "a scan of {name} does not end");
                if good(row).is_none() {
                    break;
                }
            }
        }
        for key in [0, 3, 7, 60, 117] {
            good(tree.get(key_bytes(key)));
        }
    }
}

type Edit = dyn Fn(&hamal::WriteTxn) -> hamal::Result<()>;

fn change(db: &Database) {
    let edits: [&Edit; 5] = [
        &|tx| {
            for name in tx.trees()?.iter().take(8) {
                let tree = tx.tree(name)?;
                for key in [1, 6, 61, 119] {
                    tree.put(key_bytes(key), [key as u8; 200])?;
                }
                tree.delete(key_bytes(9))?;
                tree.put(key_bytes(7), vec![7; 6000])?;
                tree.delete(key_bytes(2))?;
            }
            Ok(())
        },
        &|tx| {
            let tree = tx.tree("t0")?;
            let before = tx.savepoint()?;
            for key in 30..60 {
                tree.put(key_bytes(key), [1; 300])?;
            }
            tx.rollback_to(&before)?;
            tree.put(key_bytes(40), [2; 10])
        },
        &|tx| tx.create_tree("t9")?.put("a", "b"),
        &|tx| {
            // Takes every row out: pages merge and are freed.
            tx.tree("t0")?.clear().map(|_| ())
        },
        &|tx| tx.drop_tree("t1"),
    ];
    for (i, edit) in edits.iter().enumerate() {
        let Some(tx) = good(db.begin_write()) else { return };
        match good(edit(&tx)) {
            Some(()) if i != 1 => good(tx.commit()).map(|_| ()),
            _ => good(tx.rollback()),
        };
    }
}

/// Opens, reads and verifies an image that was damaged as devices damage: what is read must be right, or an error say so.
pub(super) fn right_or_typed(patient: &Patient, image: &Image) {
    use crate::engine::FailureKind::Damage;
    let disk = SimDisk::boot(image, Box::new(Newest));
    let engine = patient.engine();
    let mut session: Box<dyn Session> = match engine.open(Arc::new(disk.clone()), &patient.config) {
        Ok(s) => s,
        Err(f) => {
            assert!(f.kind == Damage, "the open: {f}");
            return;
        }
    };
    match session.contents() {
        Ok(found) => {
            // A database of which nothing is left but its absence is told apart by the file names.
            if let Some(difference) = patient.contents.difference(&found) {
                panic!("silently wrong: {difference}");
            }
            if let Err(f) = session.verify() {
                assert!(f.kind == Damage, "verification: {f}");
            }
        }
        Err(f) => assert!(f.kind == Damage, "reading: {f}"),
    }
    bounded(&disk);
    disk.power_off();
}

/// Numbers of pages in the data file.
pub(super) fn pages(files: &Files, config: &Config) -> u64 {
    files.get("data").map_or(0, |d| d.len() as u64 / u64::from(config.page_size))
}

/// LSN of the begin record of the checkpoint that the slot names.
pub(super) fn checkpoint_of(slot: &[u8]) -> u64 {
    u64_at(slot, 48)
}
