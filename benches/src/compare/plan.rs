//! Which workloads run on which database: a group is what one child process does with one engine.
use super::Any;
use super::engine::{Engine, Kind, Unsupported};
use super::measure::{Measured, disk_usage, drop_page_cache, peak_memory};
use super::oltp::{Ycsb, Zipf};
use super::workloads::Bench;
use std::path::Path;
use std::time::{Duration, Instant};

/// How much of everything.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Pairs of the loads and of what reads them.
    pub pairs: u64,
    /// Seconds of a timed workload.
    pub seconds: f64,
    /// MiB of log before the kill of the recovery group.
    pub log_mib: u64,
}

/// A group: a name, what it needs, and what it does.
#[derive(Clone, Copy)]
pub struct Group {
    /// Its name on the command line.
    pub name: &'static str,
    /// In a sentence.
    pub about: &'static str,
    run: fn(&Run<'_>) -> Any<()>,
}

/// All groups, in the order in which they run.
pub const GROUPS: &[Group] = &[
    Group { name: "commit", about: "durable commits by 1 to 32 threads, one hot key", run: commit },
    Group {
        name: "async",
        about: "asynchronous commits by one thread, one sync at the end",
        run: asynchronous,
    },
    Group { name: "ascending", about: "bulk load in key order", run: ascending },
    Group {
        name: "random",
        about: "bulk load in random order, gets, scans, YCSB, removal of half the keys",
        run: random,
    },
    Group { name: "writers", about: "bulk load in random order by two writers", run: writers },
    Group { name: "orders", about: "new-order and payment, 8 threads", run: orders },
    Group { name: "cold", about: "a database ten times larger than its cache of 64 MiB", run: cold },
    Group { name: "recovery", about: "open after SIGKILL with much log", run: recovery },
];

/// One child's work.
pub struct Run<'a> {
    /// The engine.
    pub kind: Kind,
    /// Its directory.
    pub dir: &'a Path,
    /// How much.
    pub size: Size,
    /// Distinguishes rounds.
    pub seed: u64,
    /// Told of each result.
    pub report: &'a dyn Fn(&str, Measured),
}

impl Group {
    /// Does the work of the group.
    ///
    /// # Errors
    /// Of the engine.
    pub fn run(&self, run: &Run<'_>) -> Any<()> {
        (self.run)(run)
    }
}

const CACHE: usize = 4 << 30;

impl Run<'_> {
    fn open(&self, cache: usize) -> Any<Box<dyn Engine>> {
        (self.kind.open)(self.dir, cache)
    }
    fn bench<'e>(&'e self, engine: &'e dyn Engine) -> Bench<'e> {
        Bench { engine, dir: self.dir, time: Duration::from_secs_f64(self.size.seconds), seed: self.seed }
    }
    /// Reports a result; a workload that the engine cannot do is left out.
    fn row(&self, name: &str, done: Any<Measured>) -> Any<()> {
        match done {
            Ok(m) => {
                (self.report)(name, m);
                Ok(())
            }
            Err(e) if e.is::<Unsupported>() => Ok(()),
            Err(e) => Err(format!("{name}: {e}").into()),
        }
    }
}

fn commit(run: &Run<'_>) -> Any<()> {
    if !run.kind.is_durable {
        return Ok(());
    }
    let engine = run.open(CACHE)?;
    let bench = run.bench(engine.as_ref());
    bench.load(100_000, false, 1)?;
    for threads in [1, 2, 4, 8, 16, 32] {
        run.row(&format!("durable commits, {threads} thr"), bench.commits(threads, true))?;
    }
    if run.kind.transactions {
        run.row("durable, one hot key, 32 thr", bench.one_hot_key(32))?;
    }
    engine.close()
}

fn asynchronous(run: &Run<'_>) -> Any<()> {
    let engine = run.open(CACHE)?;
    let bench = run.bench(engine.as_ref());
    bench.load(100_000, false, 1)?;
    run.row("async commits, 1 thr", bench.asynchronous())?;
    engine.close()
}

fn with_size(run: &Run<'_>, mut m: Measured) -> Any<Measured> {
    m.more.insert("file bytes".into(), disk_usage(run.dir)? as f64);
    m.more.insert("peak memory".into(), peak_memory() as f64);
    Ok(m)
}

fn ascending(run: &Run<'_>) -> Any<()> {
    let engine = run.open(CACHE)?;
    let done = run.bench(engine.as_ref()).load(run.size.pairs, true, 1).and_then(|m| with_size(run, m));
    run.row("load ascending", done)?;
    engine.close()
}

fn writers(run: &Run<'_>) -> Any<()> {
    let engine = run.open(CACHE)?;
    let done = run.bench(engine.as_ref()).load(run.size.pairs, false, 2).and_then(|m| with_size(run, m));
    run.row("load random, 2 writers", done)?;
    engine.close()
}

fn random(run: &Run<'_>) -> Any<()> {
    let pairs = run.size.pairs;
    let engine = run.open(CACHE)?;
    let bench = run.bench(engine.as_ref());
    run.row("load random", bench.load(pairs, false, 1).and_then(|m| with_size(run, m)))?;
    for (threads, one) in [(1, false), (1, true), (2, false), (2, true)] {
        let how = if one { "one snapshot" } else { "a txn each" };
        run.row(&format!("get, {how}, {threads} thr"), bench.gets(pairs, threads, one))?;
    }
    // The first pass warms what a scan needs; the second is measured.
    bench.full_scan(pairs)?;
    run.row("full scan, rows", bench.full_scan(pairs))?;
    run.row("ranges of 100", bench.ranges(100))?;
    let zipf = Zipf::new(pairs);
    for durable in [false, true] {
        if durable && !run.kind.is_durable {
            continue;
        }
        let how = if durable { "durable" } else { "async" };
        let kinds = [Ycsb::B, Ycsb::C, Ycsb::E, Ycsb::A, Ycsb::F];
        for kind in kinds.into_iter().filter(|k| !(durable && *k == Ycsb::C)) {
            if kind == Ycsb::F && !run.kind.transactions {
                continue;
            }
            run.row(&format!("YCSB {kind:?} {how}, 2 thr"), bench.ycsb(kind, pairs, &zipf, 2, durable))?;
        }
    }
    run.row("remove half", bench.remove_half(pairs).and_then(|m| with_size(run, m)))?;
    engine.close()
}

fn orders(run: &Run<'_>) -> Any<()> {
    if !run.kind.transactions {
        return Ok(());
    }
    let engine = run.open(CACHE)?;
    let bench = run.bench(engine.as_ref());
    bench.fill_warehouses(8)?;
    run.row("new-order and payment async, 8 thr", bench.orders(8, 8, false))?;
    if run.kind.is_durable {
        run.row("new-order and payment durable, 8 thr", bench.orders(8, 8, true))?;
    }
    engine.close()
}

const SMALL_CACHE: usize = 64 << 20;

fn cold(run: &Run<'_>) -> Any<()> {
    // Ten times the cache, in pairs of key and value.
    let pairs = 10 * SMALL_CACHE as u64 / 174;
    let engine = run.open(SMALL_CACHE)?;
    run.bench(engine.as_ref()).load(pairs, false, 1)?;
    engine.close()?;
    let dropped = drop_page_cache();
    let engine = run.open(SMALL_CACHE)?;
    let bench = run.bench(engine.as_ref());
    if dropped {
        for threads in [1, 2] {
            run.row(&format!("cold get, {threads} thr"), bench.gets(pairs, threads, false))?;
        }
    }
    run.row("random update, 64 MiB cache", bench.updates(pairs).and_then(|m| with_size(run, m)))?;
    engine.close()
}

/// The child of this child writes until it is killed; then the database is opened and the time to the first durable write
/// taken.
fn recovery(run: &Run<'_>) -> Any<()> {
    if !run.kind.transactions || !run.kind.is_durable {
        return Ok(());
    }
    let commits = kill_writer(run)?;
    let bytes = disk_usage(run.dir)?;
    let started = Instant::now();
    let engine = run.open(CACHE)?;
    let opened = started.elapsed();
    engine.session()?.write(true, &mut |w| w.put(b"after the crash", b"1"))?;
    let written = started.elapsed();
    let mut m =
        Measured { rate: commits as f64 / written.as_secs_f64(), operations: commits, ..Measured::default() };
    m.more.insert("seconds to open".into(), opened.as_secs_f64());
    m.more.insert("seconds to the first durable write".into(), written.as_secs_f64());
    m.more.insert("file bytes".into(), bytes as f64);
    run.row("recovery after kill, commits replayed", Ok(m))?;
    engine.close()
}

/// Starts this program again as a writer of asynchronous updates, and kills it once it has committed enough for `log_mib` of log.
fn kill_writer(run: &Run<'_>) -> Any<u64> {
    use std::io::{BufRead, BufReader};
    let mut child = std::process::Command::new(std::env::current_exe()?)
        .args(["--write-until-killed", run.kind.name, "--dir"])
        .arg(run.dir)
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    // A commit logs key, value and some 30 bytes: counted in commits, which is the same work for all engines.
    let wanted = run.size.log_mib * (1 << 20) / 250;
    let mut commits = 0;
    for line in BufReader::new(child.stdout.take().ok_or("no output")?).lines() {
        commits = line?.trim().parse()?;
        if commits >= wanted {
            break;
        }
    }
    child.kill()?;
    child.wait()?;
    if commits < wanted {
        return Err("the writer ended before it was killed".into());
    }
    Ok(commits)
}

/// What the writer does until it is killed: a million rows, then asynchronous updates of them.
///
/// # Errors
/// Of the engine.
pub fn write_until_killed(kind: Kind, dir: &Path) -> Any<()> {
    let engine = (kind.open)(dir, CACHE)?;
    let rows = 1_000_000;
    let bench = Bench { engine: engine.as_ref(), dir, time: Duration::ZERO, seed: 1 };
    bench.load(rows, false, 1)?;
    let mut session = engine.session()?;
    let mut random = crate::Random(7);
    let mut values = super::workloads::Values::new(7);
    for n in 0u64.. {
        let k = super::workloads::key(random.next_u64() % rows, false);
        let v = values.fresh();
        session.write(n % 512 == 511, &mut |w| w.put(&k, v))?;
        if n % 8192 == 0 {
            println!("{n}");
        }
    }
    Ok(())
}
