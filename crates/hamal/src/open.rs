//! Opening and making: which files are there, in which order they are trusted, and how the parts are wired.
//!
//! A directory is a database from the moment its control file has its name; before that, the marker file `creating` says
//! that what lies there is a half-made database and nothing else. Nothing is ever made over files that are not so marked.
use crate::core::{Core, Parts};
use crate::database::Database;
use crate::options::{Builder, Settings};
use crate::{Disk, Error, ErrorKind, Result};
use hamal_btree::{BTREE_RM, Btree, BtreeManager, Catalogue, Garbage};
use hamal_buffer::{Pool, PoolOptions};
use hamal_checkpoint::{
    CheckpointEnd, Checkpointer, Control, ControlFile, ManagerEntry, VERSIONS, VersionsFile,
};
use hamal_disk::{DiskFile, DiskLock, OpenMode, OverlayDisk};
use hamal_error::Poison;
use hamal_log::{
    Log, LogIdentity, LogReader, Reading, RecordKind, RecordSpec, TxnRef, find_end_and_read, missing_below,
    rewrite_segments,
};
use hamal_mutants::{self as mutants, Mutant};
use hamal_page::{DbId, Lsn, PageId, RmId};
use hamal_recovery::{ProgressFn, RestartContext, restart};
use hamal_space::{SPACE_RM, Space, SpaceManager};
use hamal_sync::time::Instant;
use hamal_trace::{Event, ForceReason, Phase, Trace, WriteReason};
use hamal_txn::{Registry, ResourceManager, TxnManager, TxnOptions};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::sync::Arc;

pub(crate) const LOCK: &str = "LOCK";
pub(crate) const DATA: &str = "data";
const WAL: &str = "wal";
const MARKER: &str = "creating";
const CONTROL_NEW: &str = "control.new";
pub(crate) const SPACE_NAME: &str = "space";
pub(crate) const BTREE_NAME: &str = "btree";
/// The first id of a manager that is not built in.
const FIRST_USER_MANAGER: u8 = 16;

/// What the caller wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Open,
    Create,
    OpenOrCreate,
    ReadOnly,
}

/// What a directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Database,
    HalfMade,
    /// Files of a database, without its control file and without the marker.
    Headless,
    Nothing,
}

fn look(disk: &Arc<dyn Disk>) -> Result<Found> {
    let io = |e| Error::io(format!("cannot look into {}", disk.describe()), e);
    if ControlFile::exists(disk)? {
        return Ok(Found::Database);
    }
    if disk.exists(MARKER).map_err(io)? {
        return Ok(Found::HalfMade);
    }
    let log_files = match disk.list(WAL) {
        Ok(names) => names.iter().any(|n| is_log_file(n)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => false,
        Err(e) => return Err(io(e)),
    };
    let mut parts = log_files;
    for name in [DATA, VERSIONS, CONTROL_NEW] {
        parts |= disk.exists(name).map_err(io)?;
    }
    Ok(if parts { Found::Headless } else { Found::Nothing })
}

/// Whether the log makes files of this name in its directory.
fn is_log_file(name: &str) -> bool {
    let segment = name.len() == 16 && name.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase());
    segment || name == "make" || name.strip_prefix("free-").is_some_and(|n| n.parse::<u32>().is_ok())
}

/// Opens, or makes, or both.
pub(crate) fn open(
    options: &Builder,
    disk: Arc<dyn Disk>,
    how: How,
    progress: ProgressFn<'_>,
) -> Result<Database> {
    options.settle(None)?;
    if how == How::ReadOnly {
        return open_read_only(options, disk, progress);
    }
    // Looked at before anything is locked, which makes a file: opening a foreign directory leaves no trace in it.
    decide(&disk, how)?;
    let lock = (!mutants::is(Mutant::LockAfterWrite)).then(|| take_lock(&disk)).transpose()?;
    let found = decide(&disk, how)?;
    if found != Found::Database {
        if found == Found::HalfMade {
            remove_half_made(&disk)?;
        }
        create(options, &disk)?;
    } else if disk.exists(MARKER).map_err(marker_error)? {
        // Made whole, but for the last step.
        remove_marker(&disk)?;
    }
    wire(options, disk, lock, false, progress)
}

/// Whether what is there fits what is wanted.
fn decide(disk: &Arc<dyn Disk>, how: How) -> Result<Found> {
    let found = look(disk)?;
    let place = disk.describe();
    let refuse = |kind, what: String, help: &str| Err(Error::new(kind, what).with_help(help.to_string()));
    match (found, how) {
        (Found::Database, How::Create) => refuse(
            ErrorKind::AlreadyExists,
            format!("{place} holds a database already"),
            "Open it, or choose another directory",
        ),
        (Found::Headless, _) => refuse(
            ErrorKind::NotADatabase,
            format!("{place} holds files of a database, but the control file is missing"),
            "Restore the directory from a backup; nothing is made over these files",
        ),
        (Found::HalfMade, How::Open | How::ReadOnly) => refuse(
            ErrorKind::NotADatabase,
            format!("{place} holds a database that was never finished being made"),
            "Nothing was ever stored in it; create it again",
        ),
        (Found::Nothing, How::Open | How::ReadOnly) => refuse(
            ErrorKind::NotADatabase,
            format!("{place} holds no database"),
            "Create one: `create` or `open_or_create`",
        ),
        _ => Ok(found),
    }
}

fn lock_error(e: io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::WouldBlock => Error::new(ErrorKind::AlreadyOpen, "the database is open already")
            .with_file(LOCK)
            .with_help("Close it in the process that has it open; every handle counts"),
        _ => Error::io("cannot lock the database", e).with_file(LOCK),
    }
}

fn take_lock(disk: &Arc<dyn Disk>) -> Result<Box<dyn DiskLock>> {
    disk.lock(LOCK).map_err(lock_error)
}

fn open_read_only(options: &Builder, base: Arc<dyn Disk>, progress: ProgressFn<'_>) -> Result<Database> {
    decide(&base, How::ReadOnly)?;
    // What is underneath must not change while it is read. A lock file is not made for that, and on a medium that cannot
    // be written nobody changes anything.
    let lock = if base.exists(LOCK).map_err(lock_error)? {
        match base.lock(LOCK) {
            Ok(lock) => Some(lock),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                ) =>
            {
                None
            }
            Err(e) => return Err(lock_error(e)),
        }
    } else {
        None
    };
    wire(options, Arc::new(OverlayDisk::new(base)), lock, true, progress)
}

// ---- making ----

fn marker_error(e: io::Error) -> Error {
    Error::io("cannot mark the directory", e).with_file(MARKER)
}

fn remove_marker(disk: &Arc<dyn Disk>) -> Result<()> {
    disk.remove(MARKER).and_then(|()| disk.sync_dir("")).map_err(marker_error)
}

/// Removes what a creation that did not finish left: only names that creation makes. The marker goes last, by being
/// made again.
fn remove_half_made(disk: &Arc<dyn Disk>) -> Result<()> {
    let io = |e| Error::io("cannot remove a half-made database", e);
    let logs = match disk.list(WAL) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
        names => names.map_err(io)?,
    };
    for name in logs.iter().filter(|n| is_log_file(n)) {
        disk.remove(&format!("{WAL}/{name}")).map_err(io)?;
    }
    if !logs.is_empty() {
        disk.sync_dir(WAL).map_err(io)?;
    }
    for name in [DATA, VERSIONS, CONTROL_NEW] {
        if disk.exists(name).map_err(io)? {
            disk.remove(name).map_err(io)?;
        }
    }
    disk.sync_dir("").map_err(io)
}

fn fresh_id(options: &Builder) -> DbId {
    if let Some(id) = options.database_id {
        return DbId(id);
    }
    let mut id = [0; 16];
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    for (i, half) in id.chunks_exact_mut(8).enumerate() {
        // Each state is keyed by the operating system's random numbers.
        let mut h = std::hash::RandomState::new().build_hasher();
        h.write_u128(now.as_nanos());
        h.write_u32(std::process::id());
        h.write_usize(i);
        half.copy_from_slice(&h.finish().to_le_bytes());
    }
    DbId(id)
}

/// Makes a database: every file under the marker, synced, the control file last.
fn create(options: &Builder, disk: &Arc<dyn Disk>) -> Result<()> {
    let settings = options.settle(None)?;
    let io = |e| Error::io("cannot create a database", e);
    let marker = disk.open(MARKER, OpenMode { create: true, ..OpenMode::default() }).map_err(marker_error)?;
    marker.write_at(0, b"A hamal database is being made here.\n").map_err(marker_error)?;
    marker.sync().map_err(marker_error)?;
    disk.sync_dir("").map_err(marker_error)?;
    disk.create_dir(WAL).map_err(io)?;
    disk.sync_dir("").map_err(io)?;

    let trace = options.trace();
    let identity = LogIdentity { db: fresh_id(options), timeline: 1 };
    let poison = Arc::new(Poison::new());
    let log = Arc::new(Log::create(
        disk.clone(),
        settings.log.clone(),
        identity,
        Log::FIRST,
        poison,
        trace.clone(),
    )?);
    // The checkpoint that the control file names first: of nothing, before everything.
    let begin = append(&log, RecordKind::CheckpointBegin, &[])?.0;
    let tables = CheckpointEnd { begin, redo: begin, dpt: 0, att: 0 };
    let end = append(&log, RecordKind::CheckpointEnd, &tables.encode())?.1;

    let control = Control {
        sequence: 1,
        db: identity.db,
        timeline: identity.timeline,
        page_size: settings.page_size as u32,
        reserved_per_page: 0,
        checkpoint_begin: begin,
        checkpoint_end: end,
        redo: begin,
        keep_from: begin,
        data_pages: 0,
        witness_page: PageId(0),
        witness_lsn: Lsn::NULL,
        versions: 0,
        managers: built_in_entries(),
    };
    let data = open_data(disk, options, true)?;
    let managers = assign(&control, options)?;
    let parts = assemble(options, &settings, data, log.clone(), &managers, &trace)?;
    parts.pool.publish_checkpoint(begin);
    parts.txns.start_at(log.tail());
    parts.catalogue.bootstrap()?;
    log.force(log.tail(), ForceReason::Asked)?;
    parts.pool.flush_all(WriteReason::Asked)?;
    parts.pool.sync_data()?;
    let versions = VersionsFile::create(disk, identity.db)?;
    disk.sync_dir(WAL).map_err(io)?;
    disk.sync_dir("").map_err(io)?;

    let control = Control { versions: versions.digest(), ..control };
    let control = ControlFile::create(disk, control)?;
    Checkpointer::new(parts.txns.clone(), control, versions, trace).checkpoint()?;
    remove_marker(disk)
}

fn append(log: &Log, kind: RecordKind, data: &[u8]) -> Result<(Lsn, Lsn)> {
    let spec = RecordSpec { kind, rm: RmId(0), txn: TxnRef::None, prev: Lsn::NULL, blocks: &[], undo: data };
    let mut credit = log.credit(Log::record_bound(&spec), true)?;
    let a = log.append(&spec, &mut credit)?;
    Ok((a.lsn, a.end))
}

fn open_data(disk: &Arc<dyn Disk>, options: &Builder, create: bool) -> Result<Arc<dyn DiskFile>> {
    disk.open(DATA, OpenMode { create, direct: options.direct_io, ..OpenMode::default() }).map_err(
        |e| match e.kind() {
            io::ErrorKind::NotFound => {
                Error::new(ErrorKind::PageCorrupt, "the data file is missing").with_file(DATA)
            }
            _ => Error::io("cannot open the data file", e).with_file(DATA),
        },
    )
}

// ---- resource managers ----

fn built_in() -> [(RmId, &'static str, u32); 2] {
    [(SPACE_RM, SPACE_NAME, SpaceManager.version()), (BTREE_RM, BTREE_NAME, Btree::manager().version())]
}

fn built_in_entries() -> Vec<ManagerEntry> {
    built_in().map(|(id, name, version)| ManagerEntry { id: id.0, version, name: name.to_string() }).to_vec()
}

/// Gives every registered manager its number: the one in the control file, or a new one. Refuses if the control file
/// names one that is not registered, or of another version; nothing has been written then.
fn assign(control: &Control, options: &Builder) -> Result<Vec<(ManagerEntry, Arc<dyn ResourceManager>)>> {
    let mut out = Vec::new();
    for e in &control.managers {
        let refuse = |what: String, help: &str| {
            Err(Error::new(ErrorKind::ResourceManager, what).with_file("control").with_help(help.to_string()))
        };
        let own = built_in().into_iter().find(|(id, name, _)| id.0 == e.id || *name == e.name);
        let registered = options.managers.iter().find(|m| m.name() == e.name);
        let version = match (own, registered) {
            // What an older version wrote the present one reads; from now on it is the present one's.
            (Some((id, name, version)), _) if id.0 == e.id && name == e.name => version.min(e.version),
            (None, Some(m)) if e.id >= FIRST_USER_MANAGER => {
                out.push((e.clone(), m.clone()));
                m.version()
            }
            _ => {
                return refuse(
                    format!("the database uses the resource manager {:?}, which is not registered", e.name),
                    "Register it: `Builder::resource_manager`",
                );
            }
        };
        if version != e.version {
            return refuse(
                format!(
                    "the database was written with version {} of the resource manager {:?}; this is {version}",
                    e.version, e.name
                ),
                "Open it with the version that wrote it, or a newer one",
            );
        }
    }
    for m in &options.managers {
        if control.managers.iter().any(|e| e.name == m.name()) {
            continue;
        }
        let highest = out.iter().map(|(e, _)| e.id).max();
        let id = match highest {
            None => FIRST_USER_MANAGER,
            Some(id) => id.checked_add(1).ok_or_else(|| {
                Error::new(ErrorKind::Limit, "there are no more numbers for resource managers")
            })?,
        };
        out.push((ManagerEntry { id, version: m.version(), name: m.name().to_string() }, m.clone()));
    }
    Ok(out)
}

// ---- wiring ----

/// The parts above the log.
struct Assembled {
    pool: Arc<Pool>,
    txns: Arc<TxnManager>,
    space: Arc<Space>,
    btree: Arc<Btree>,
    garbage: Arc<Garbage>,
    catalogue: Catalogue,
}

fn assemble(
    options: &Builder,
    settings: &Settings,
    data: Arc<dyn DiskFile>,
    log: Arc<Log>,
    managers: &[(ManagerEntry, Arc<dyn ResourceManager>)],
    trace: &Trace,
) -> Result<Assembled> {
    let btree_manager: Arc<BtreeManager> = Btree::manager();
    let mut registry = Registry::new();
    registry.add(SPACE_RM, Arc::new(SpaceManager));
    registry.add(BTREE_RM, btree_manager.clone());
    for (entry, manager) in managers {
        registry.add(RmId(entry.id), manager.clone());
    }
    let (images, compress_images) = match options.torn_pages {
        crate::TornPages::Images { compress } => (true, compress),
        crate::TornPages::AtomicWrites => (false, false),
    };
    let pool_options = PoolOptions {
        page_size: settings.page_size,
        frames: settings.frames,
        images,
        compress_images,
        image_share_bytes: settings.image_share_bytes,
        batch_pages: (settings.frames / 4).min(128),
        check_apply: options.check_apply,
    };
    let pool = Arc::new(Pool::new(pool_options, data, log, registry.managers(), trace.clone())?);
    let txn_options =
        TxnOptions { lock_timeout: options.lock_timeout, version_budget: options.version_budget_bytes };
    let txns = TxnManager::new(pool.clone(), registry, txn_options, trace.clone());
    let space = Arc::new(Space::new(txns.clone()));
    let btree = Btree::new(&btree_manager, txns.clone(), space.clone());
    let garbage = Arc::new(Garbage::new(btree.clone()));
    let catalogue = Catalogue::new(btree.clone(), garbage.clone());
    Ok(Assembled { pool, txns, space, btree, garbage, catalogue })
}

/// Refuses a data file that is older than the control file: the page that the last checkpoint named as its witness has a lower
/// pageLSN than it had when that checkpoint synced the file. A page that cannot be read or verified here (torn, or cut off since)
/// is no proof either way: recovery, or whoever reads it, decides.
fn check_witness(data: &dyn DiskFile, control: &Control) -> Result<()> {
    if control.witness_lsn.is_null() {
        return Ok(());
    }
    let mut page = hamal_disk::AlignedBuf::new(control.page_size as usize);
    let offset = control.witness_page.0.saturating_mul(u64::from(control.page_size));
    let Ok(read) = data.read_at(offset, &mut page) else { return Ok(()) };
    if read < page.len() || hamal_page::verify(&page, control.db, control.witness_page).is_err() {
        return Ok(());
    }
    let found = hamal_page::header::page_lsn(&page);
    if found >= control.witness_lsn {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::WrongDatabase,
        format!(
            "the file is older than the control file, or lost a write: the page's pageLSN is {found} and was {}",
            control.witness_lsn
        ),
    )
    .with_file(DATA)
    .with_page(control.witness_page)
    .with_help(
        "Restore the whole directory from one backup; files of different moments do not belong together",
    ))
}

/// Opens what is there and runs the restart.
fn wire(
    options: &Builder,
    disk: Arc<dyn Disk>,
    lock: Option<Box<dyn DiskLock>>,
    read_only: bool,
    progress: ProgressFn<'_>,
) -> Result<Database> {
    let trace = options.trace();
    let mut control_file = ControlFile::open(&disk, false)?;
    let control = control_file.current().clone();
    let settings = options.settle(Some(control.page_size as usize))?;
    let managers = assign(&control, options)?;

    let started = Instant::now();
    trace.emit(|| Event::PhaseBegin { phase: Phase::FindEnd, from: control.checkpoint_begin });
    let identity = LogIdentity { db: control.db, timeline: control.timeline };
    let log_options = settings.log.clone();
    let reading = Reading { memory: settings.recovery_memory_bytes, ahead: settings.recovery_threads > 1 };
    let (mut end, mut reader) =
        find_end_and_read(&disk, identity, control.checkpoint_begin, control.checkpoint_end, reading)?;
    end.keep_from = control_file.keep_from();
    trace.emit(|| Event::LogEnd { end: end.end, verdict: verdict_name(&end.verdict) });
    // What follows the checkpoint was read from somewhere; make sure that it is on the device before anything relies on
    // it (T4). The checkpoint itself was durable before the control file named it.
    if !reader.bypasses_cache()
        && reader.read(control.checkpoint_end)?.is_some()
        && !mutants::is(Mutant::SegmentsNotRewritten)
        && rewrite_segments(&disk, control.keep_from)? > 0
    {
        reader = LogReader::reading(&disk, identity, &end, reading)?;
    }
    let find_end_seconds = started.elapsed().as_secs_f64();

    let poison = Arc::new(Poison::new());
    let log = Log::open_read(disk.clone(), log_options, identity, &end, &reader, poison, trace.clone())?;
    let log = Arc::new(log);
    let data = open_data(&disk, options, false)?;
    // A clean end leaves the device in charge of the data file; after any other, what cannot be read past the cache is
    // made true by recovery, which treats every page that the log names as dirty.
    if !mutants::is(Mutant::WitnessIgnored) {
        check_witness(&*data, &control)?;
    }
    let bypass = data.bypasses_cache() || mutants::is(Mutant::CacheTrusted);
    if !bypass {
        data.sync()
            .and_then(|()| data.drop_cache())
            .map_err(|e| Error::io("cannot sync the data file", e).with_file(DATA))?;
    }
    let mut next = control.clone();
    next.managers = built_in_entries();
    next.managers.extend(managers.iter().map(|(e, _)| e.clone()));
    if next.managers != control.managers {
        // Before a record of theirs can be logged.
        control_file.write(next)?;
    }
    let parts = assemble(options, &settings, data, log, &managers, &trace)?;
    parts.pool.set_witness(control.witness_page, control.witness_lsn);
    let data_len = parts.pool.file_pages();
    let versions = VersionsFile::open(&disk, &control, end.end, data_len, parts.pool.versions())?;
    let checkpointer = Checkpointer::new(parts.txns.clone(), control_file, versions, trace.clone());
    let context = RestartContext {
        txns: &parts.txns,
        checkpointer: &checkpointer,
        control: &control,
        end: &end,
        reader,
        find_end_seconds,
        bypass,
        redo_memory: settings.recovery_memory_bytes,
        threads: settings.recovery_threads,
        checkpoints: options.restart_checkpoints,
        pause: options.pause.clone(),
        trace: trace.clone(),
    };
    // Until the last loser has ended, what looks settled may be a loser's: no purge, no merge (T11).
    parts.btree.set_undo_only(!mutants::is(Mutant::LoserCleansLeaf));
    let report = restart(context, progress).map_err(damage_first).map_err(|e| {
        // What redo or undo needs is not there: the file that is there instead says why.
        let gone = e.kind() == ErrorKind::LogCorrupt && e.lsn().is_some_and(|lsn| lsn < end.oldest);
        gone.then(|| missing_below(&disk, identity, end.oldest)).flatten().unwrap_or(e)
    })?;
    parts.btree.set_undo_only(false);
    if report.clean && data_len < control.data_pages {
        // The file is cut only before a checkpoint that says so: nothing that follows a clean end could have cut it.
        return Err(Error::new(
            ErrorKind::WrongDatabase,
            format!(
                "the file has {data_len} pages, and had {} when the database was closed",
                control.data_pages
            ),
        )
        .with_file(DATA)
        .with_help("It was cut short, or is an older copy: restore the whole directory from one backup"));
    }
    let core = Core::new(Parts {
        options: options.clone(),
        settings,
        txns: parts.txns,
        space: parts.space,
        btree: parts.btree,
        garbage: parts.garbage,
        catalogue: parts.catalogue,
        checkpointer,
        report,
        read_only,
    });
    let late = mutants::is(Mutant::LockAfterWrite) && !read_only;
    let lock = if late { Some(take_lock(&disk)?) } else { lock };
    Database::start(core, lock)
}

/// Damage that undo met stops the engine; but nobody has used it yet, so the damage is the error, and not that it stopped.
fn damage_first(e: Error) -> Error {
    let damage = std::iter::successors(Some(&e), |c| c.cause()).find(|c| c.is_corruption()).cloned();
    damage.unwrap_or(e)
}

pub(crate) fn verdict_name(v: &hamal_log::Verdict) -> &'static str {
    match v {
        hamal_log::Verdict::Clean => "clean",
        hamal_log::Verdict::TornTail { .. } => "torn tail",
        _ => "other",
    }
}
