//! The handle of an open database.
use crate::background::Background;
use crate::core::Core;
use crate::{
    Activity, Builder, CommitTicket, Error, ErrorKind, Lsn, PageId, ReadTxn, RecoveryReport, Result, RmId,
    Stats, WriteOptions, WriteTxn,
};
use hamal_btree::VerifyReport;
use hamal_buffer::Pool;
use hamal_checkpoint::{Between, CheckpointReport};
use hamal_disk::DiskLock;
use hamal_page::header;
use hamal_space::Space;
use hamal_sync::Mutex;
use hamal_txn::TxnManager;
use std::fmt::{self, Write as _};
use std::path::Path;
use std::sync::Arc;

/// An open database. Cheap to clone, shared between threads; the last handle (transactions and iterators count) closes it.
///
/// ```
/// # fn main() -> hamal::Result<()> {
/// let db = hamal::Database::in_memory()?;
/// let tx = db.begin_write()?;
/// tx.create_tree("fruit")?.put(b"apple", b"red")?;
/// tx.commit()?;
/// assert_eq!(db.begin_read()?.tree("fruit")?.get(b"apple")?.unwrap(), b"red");
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Database(Arc<Shared>);

/// What all handles share. Dropping it closes the database.
pub(crate) struct Shared {
    pub(crate) core: Arc<Core>,
    background: Mutex<Option<Background>>,
    /// Released when everything is at rest.
    lock: Mutex<Option<Box<dyn DiskLock>>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Best effort: what is not written now is recovered by the next open. Closed already, if this fails.
        if self.core.shut().is_ok() {
            let _ = self.wind_down();
        }
    }
}

impl Shared {
    /// Stops the threads, settles, and lets go of the files. The gate is shut.
    fn wind_down(&self) -> Result<()> {
        drop(self.background.lock().take());
        let settled = self.core.settle();
        self.core.seal_off();
        drop(self.lock.lock().take());
        settled
    }
}

impl Database {
    /// Opens the database in the directory `path` with default options.
    ///
    /// # Errors
    /// `NotADatabase` if there is none; as [`Builder::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Database> {
        Self::builder().open(path)
    }
    /// Makes a database in the directory `path` with default options.
    ///
    /// # Errors
    /// `AlreadyExists` if there is one; as [`Builder::create`].
    pub fn create(path: impl AsRef<Path>) -> Result<Database> {
        Self::builder().create(path)
    }
    /// Opens the database in the directory `path`, or makes it.
    ///
    /// # Errors
    /// As [`Builder::open`].
    pub fn open_or_create(path: impl AsRef<Path>) -> Result<Database> {
        Self::builder().open_or_create(path)
    }
    /// A new database in memory, gone with its last handle.
    ///
    /// # Errors
    /// `Limit` if there is not enough memory.
    pub fn in_memory() -> Result<Database> {
        Self::builder().log_segment_bytes(1 << 20).cache_bytes(64 << 20).in_memory()
    }
    /// Options.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) fn start(core: Core, lock: Option<Box<dyn DiskLock>>) -> Result<Database> {
        let core = Arc::new(core);
        let threads = core.options.background && !core.read_only;
        let background = if threads { Some(Background::start(&core)?) } else { None };
        Ok(Database(Arc::new(Shared { core, background: Mutex::new(background), lock: Mutex::new(lock) })))
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.0.core
    }

    /// The log was forced under locks: who waits for a commit that is durable now is told (LOG-7). Without background threads nobody
    /// else may come. Nothing held.
    pub(crate) fn wake_tasks(&self) {
        self.core().log.wake_tasks();
    }

    /// Begins a write transaction. It sees everything committed before, and its own changes.
    ///
    /// # Errors
    /// `ReadOnly`, `Poisoned`; `InvalidArgument` if the database was closed.
    pub fn begin_write(&self) -> Result<WriteTxn> {
        WriteTxn::begin(&self.0, WriteOptions::new())
    }
    /// Begins a write transaction with options: its isolation level, how long it waits.
    ///
    /// # Errors
    /// As [`Database::begin_write`]; `InvalidOption`.
    pub fn begin_write_with(&self, options: WriteOptions) -> Result<WriteTxn> {
        options.check()?;
        WriteTxn::begin(&self.0, options)
    }
    /// Begins a read transaction: a snapshot of everything that is committed and durable now. It blocks nobody and waits for
    /// nobody.
    ///
    /// # Errors
    /// `Poisoned`; `InvalidArgument` if the database was closed.
    pub fn begin_read(&self) -> Result<ReadTxn> {
        self.core().check_open()?;
        Ok(ReadTxn::new(self.0.clone(), self.core().txns.snapshot()?))
    }
    /// Begins a read transaction that sees the commit of `ticket`; waits until that is durable.
    ///
    /// # Errors
    /// As [`Database::begin_read`].
    pub fn begin_read_after(&self, ticket: &CommitTicket) -> Result<ReadTxn> {
        self.core().check_open()?;
        Ok(ReadTxn::new(self.0.clone(), self.core().txns.snapshot_after(ticket.lsn())?))
    }

    /// What opening found and did.
    pub fn recovery_report(&self) -> &RecoveryReport {
        &self.core().report
    }
    /// Counters of log, cache and transactions.
    pub fn stats(&self) -> Stats {
        Stats::of(self.core())
    }
    /// Who holds what: live transactions and snapshots, old versions, waits, and what keeps the log from being cut.
    ///
    /// # Errors
    /// As [`Database::begin_read`]: names of trees are looked up, if somebody waits for a row.
    pub fn activity(&self) -> Result<Activity> {
        self.core().check_open()?;
        let core = self.core();
        let names = match core.txns.live_waits().is_empty() {
            true => Vec::new(),
            false => core.catalogue.list(&core.txns.snapshot()?.view())?,
        };
        let name = |id| names.iter().find(|i| i.tree.id == id).map(|i| i.name.to_string());
        Ok(Activity::of(core, &name))
    }
    /// Whether it was opened for reading only.
    pub fn is_read_only(&self) -> bool {
        self.core().read_only
    }
    /// The error that every call returns since a write or sync failed, if one did.
    pub fn poisoned(&self) -> Option<Error> {
        self.core().log.poisoned().error()
    }
    /// Takes a checkpoint: bounds what the next recovery has to read, and releases log. Writers go on meanwhile.
    ///
    /// # Errors
    /// `ReadOnly`, `NoSpace`, `Poisoned`; `InvalidArgument` if the database was closed.
    pub fn checkpoint(&self) -> Result<CheckpointReport> {
        self.core().check_open()?;
        let done = self.core().checkpoint();
        self.wake_tasks();
        done
    }
    /// [`Database::checkpoint`], with `between` called twice: after the begin record is logged, and after the two tables are
    /// copied. What other threads may do meanwhile anyway, it may do; an error of it leaves the checkpoint unfinished, as a crash
    /// would. A checkpoint in it is refused with `InvalidArgument`, and a change that finds the log full gets `LogFull` at once. It must
    /// not close the database.
    ///
    /// # Errors
    /// As [`Database::checkpoint`]; those of `between`.
    pub fn checkpoint_with(
        &self,
        mut between: impl FnMut(Between) -> Result<()>,
    ) -> Result<CheckpointReport> {
        self.core().check_open()?;
        let done = self.core().checkpoint_with(&mut between);
        self.wake_tasks();
        done
    }
    /// Makes everything durable that has been committed so far, by any thread and with any [`Durability`](crate::Durability): one
    /// flush of the log, or none if there is nothing to do. For the end of a run of asynchronous commits; of a single one its
    /// [`CommitTicket`] tells more.
    ///
    /// ```
    /// # fn main() -> hamal::Result<()> {
    /// # let db = hamal::Database::in_memory()?;
    /// # db.begin_write()?.create_tree("t")?;
    /// for n in 0..1000u32 {
    ///     let tx = db.begin_write()?;
    ///     tx.open_or_create_tree("t")?.put(n.to_be_bytes(), "x")?;
    ///     tx.commit_with(hamal::Durability::Async)?;
    /// }
    /// db.sync()?; // all of them will be there, whatever happens
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `Poisoned`: what was not durable before has an unknown outcome. `NoSpace`; `InvalidArgument` if the database was closed.
    pub fn sync(&self) -> Result<()> {
        let core = self.core();
        core.check_open()?;
        core.log.flush_pending().map(|_| ())
    }
    /// Writes every changed page to the data file, so that a checkpoint after it leaves nothing to redo. The log is forced
    /// as needed.
    ///
    /// # Errors
    /// `NoSpace`, `Poisoned`; `InvalidArgument` if the database was closed.
    pub fn flush(&self) -> Result<()> {
        self.core().check_open()?;
        let done = self.core().pool.flush_all(hamal_trace::WriteReason::Asked);
        self.wake_tasks();
        done
    }
    /// Checks every page, every tree, and the accounts of free space. `progress` is called with pages done and pages in
    /// all. Write transactions that begin meanwhile wait until it is done, on the thread that calls this for ever: begin none
    /// in `progress`.
    ///
    /// # Errors
    /// Only what is no finding: `Io`, `Poisoned`; `InvalidArgument` if the database was closed or write transactions are live.
    pub fn verify(&self, progress: &mut dyn FnMut(u64, u64)) -> Result<VerifyReport> {
        let core = self.core();
        let mut report = core.while_quiet(|| hamal_btree::verify(&core.btree, &core.catalogue, progress))?;
        // Elsewhere a repaired page was written back; here the disk still has what was wrong.
        let repairs = if core.read_only { core.pool.repairs() } else { Vec::new() };
        for (page, what) in repairs {
            let message = format!("{what}; the page can be rebuilt from the log");
            report.findings.push(hamal_btree::Finding { page: Some(page), message });
        }
        for pages in core.checkpointer.unknown_versions() {
            report.findings.push(hamal_btree::Finding {
                page: None,
                message: format!(
                    "a block of the table of page versions was damaged when the database was opened: older versions of pages \
                     {} to {} could not be told from the newest",
                    pages.start,
                    pages.end.0.saturating_sub(1)
                ),
            });
        }
        Ok(report)
    }
    /// One step of everything that background threads do otherwise: flushes asynchronous commits, writes a batch of old
    /// pages, takes a checkpoint if one is due by log bytes, collects garbage. Looks at no clock, so it does not do what they do after 2 s
    /// without a write: write all pages and let go of the log ([`Database::flush`] and two checkpoints do most of that). Returns whether it
    /// did anything.
    ///
    /// # Errors
    /// `ReadOnly`, `NoSpace`, `Poisoned`; `InvalidArgument` if the database was closed.
    pub fn maintenance_step(&self) -> Result<bool> {
        let core = self.core();
        core.check_open()?;
        if core.read_only {
            return Err(Error::new(ErrorKind::ReadOnly, "the database was opened for reading only"));
        }
        let flushed = core.flush_step()?;
        let cleaned = core.clean_step()? > 0;
        let checkpointed = core.checkpoint_step(false)?;
        // Garbage may wait until a transaction that holds the log has ended; but room that can be made is made for it.
        let full = |e: &Error| e.kind() == ErrorKind::LogFull;
        let collected = match core.collect_step() {
            Err(e) if full(&e) => {
                core.relieve()?;
                core.collect_step().or_else(|e| if full(&e) { Ok(false) } else { Err(e) })?
            }
            done => done?,
        };
        Ok(flushed || cleaned || checkpointed || collected)
    }

    /// Page size in bytes.
    pub fn page_size(&self) -> usize {
        self.core().settings.page_size
    }
    /// A copy of page `n`, as it is now (in the cache or on disk), header included.
    ///
    /// # Errors
    /// `InvalidArgument` if there is no such page; `PageCorrupt`, `Io`, `Poisoned`.
    pub fn page(&self, n: u64) -> Result<Vec<u8>> {
        self.core().check_open()?;
        let pages = self.core().pool.file_pages();
        if n >= pages {
            let m = format!("there is no page {n}: the data file has {pages}");
            return Err(Error::new(ErrorKind::InvalidArgument, m).with_page(PageId(n)));
        }
        Ok(self.core().pool.shared(PageId(n))?.to_vec())
    }
    /// Describes page `n` for people, one fact a line: the header, and the rows, separators, links or bits that it holds.
    ///
    /// # Errors
    /// As [`Database::page`].
    pub fn describe_page(&self, n: u64) -> Result<String> {
        let page = self.page(n)?;
        let core = self.core();
        let rm = header::rm(&page);
        let manager = core.txns.registry().get(rm).cloned();
        let mut s = String::new();
        let mut line = |name: &str, value: String| {
            let _ = writeln!(s, "{name:<10}{value}");
        };
        line("page", header::page_id(&page).to_string());
        line("manager", manager.as_ref().map_or(format!("{rm}, unknown"), |m| format!("{rm}, {}", m.name())));
        line("kind", header::kind(&page).to_string());
        line("tree", header::tree(&page).to_string());
        line("pageLSN", header::page_lsn(&page).to_string());
        line("imgLSN", header::img_lsn(&page).to_string());
        line("allocated", core.space.is_allocated(PageId(n))?.to_string());
        if let Some(m) = manager {
            let hole = m.hole(&page);
            if !hole.is_empty() {
                line("hole", format!("{} bytes at {}", hole.len(), hole.start));
            }
        }
        if let Some(body) = hamal_btree::describe_page(&page) {
            s.push_str(&body);
        }
        Ok(s)
    }

    /// The parts that a resource manager of the caller works with.
    pub fn engine(&self) -> Engine {
        Engine { db: self.clone() }
    }

    /// Closes the database: writes everything to disk and takes a checkpoint, so that the next open has nothing to do. Other
    /// handles get errors from then on. (Dropping the last handle does the same, and cannot report an error.)
    ///
    /// # Errors
    /// `InvalidArgument`, with nothing changed, if write transactions are live or the database is closed already. Otherwise
    /// the database is closed even if an error is returned, and the next open recovers what was not written.
    pub fn close(&self) -> Result<()> {
        self.core().shut()?;
        if let Some(e) = self.core().log.poisoned().error() {
            let _ = self.0.wind_down();
            return Err(e);
        }
        self.0.wind_down()
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = self.core();
        f.debug_struct("Database")
            .field("log_tail", &core.log.tail())
            .field("read_only", &core.read_only)
            .field("poisoned", &core.log.poisoned().is_set())
            .finish_non_exhaustive()
    }
}

/// The parts of a database that a resource manager works with; see the crate's example `counters`. Holds the database open.
#[derive(Clone, Debug)]
pub struct Engine {
    db: Database,
}

impl Engine {
    /// Transactions: logged changes, visibility, conflicts.
    pub fn txns(&self) -> &Arc<TxnManager> {
        &self.db.core().txns
    }
    /// The buffer pool: latched pages, credit.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.db.core().pool
    }
    /// Free pages.
    pub fn space(&self) -> &Arc<Space> {
        &self.db.core().space
    }
    /// The number that this database gave to the resource manager `name`.
    pub fn rm_id(&self, name: &str) -> Option<RmId> {
        self.txns().manager_named(name).map(|(id, _)| id)
    }
    /// One step of what the background does in trees, and nothing else of it: takes rows away that were deleted and that nobody
    /// needs, merges nodes, frees pages. Whether there may be more to do.
    ///
    /// # Errors
    /// `LogFull`, `NoSpace`, `Poisoned`; `InvalidArgument` if the database was closed.
    pub fn collect(&self) -> Result<bool> {
        let core = self.db.core();
        core.check_open()?;
        core.collect_step()
    }
    /// The end of the log.
    pub fn log_tail(&self) -> Lsn {
        self.db.core().log.tail()
    }
}
