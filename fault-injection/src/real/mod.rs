//! Real processes, real file systems, a real kernel: the layers that check what the [simulated disk](crate::sim) assumes.
//!
//! Each [`Layer`] harms a real child process, or the file system below it, and judges what is left, by the same promises as
//! the simulation. [`run`] works through one of them within a [`Budget`]. What a machine cannot do (no root, no `strace`) is
//! skipped, and said. No real power cut is made anywhere: the nearest is the file system's own shutdown call on a loop device.
pub mod accounts;
pub mod calls;
pub mod child;
pub mod cut;
pub mod full;
pub mod kill;
pub mod litmus;
pub mod memory;
pub mod process;
pub mod scratch;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::time::{Duration, Instant};

/// A way to do harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layer {
    /// SIGKILL at random moments of a process with many threads, and of its recovery.
    Kill,
    /// SIGKILL just before the n-th system call on the database, for every n, by `strace`.
    KillAtCall,
    /// An error instead of the n-th system call, for every n and every error that fits, by `strace`.
    Errors,
    /// A limit on the size of files: really short writes, then EFBIG.
    FileSize,
    /// A limit on the address space: memory runs out.
    Memory,
    /// The file system is shut down at random moments of a process with threads, and of its recovery.
    PowerCut,
    /// The file system is shut down with the process at the n-th system call on the database, for every n.
    PowerCutAtCall,
    /// A full device: small tmpfs, small ext4.
    Full,
    /// Random calls on a file system that is shut down; what survives must be allowed by the model `posix`.
    Litmus,
}

impl Layer {
    /// All.
    pub const ALL: [Layer; 9] = [
        Layer::Kill,
        Layer::KillAtCall,
        Layer::Errors,
        Layer::FileSize,
        Layer::Memory,
        Layer::PowerCut,
        Layer::PowerCutAtCall,
        Layer::Full,
        Layer::Litmus,
    ];
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Layer::Kill => "kill",
            Layer::KillAtCall => "kill-at-call",
            Layer::Errors => "errors",
            Layer::FileSize => "file-size",
            Layer::Memory => "memory",
            Layer::PowerCut => "power-cut",
            Layer::PowerCutAtCall => "power-cut-at-call",
            Layer::Full => "full",
            Layer::Litmus => "litmus",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Layer {
    type Err = String;
    fn from_str(s: &str) -> Result<Layer, String> {
        let found = Layer::ALL.into_iter().find(|l| l.name() == s);
        found.ok_or_else(|| {
            format!("no layer is called {s}; there are {}", Layer::ALL.map(Layer::name).join(", "))
        })
    }
}

/// When to stop, and which of the possible cases to take first.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// No new case is begun after this time.
    pub time: Duration,
    /// Nor after so many cases.
    pub cases: u64,
    /// Decides moments, orders and sequences. Real processes and kernels are not deterministic: the same seed makes the
    /// same attempts, not the same outcomes.
    pub seed: u64,
}

impl Budget {
    /// So many seconds, any number of cases, seed 1.
    pub fn seconds(seconds: u64) -> Budget {
        Budget { time: Duration::from_secs(seconds), cases: u64::MAX, seed: 1 }
    }
}

/// How far a layer is. Told before every case.
#[derive(Clone, Copy, Debug)]
pub struct Progress<'a> {
    /// Which layer.
    pub layer: Layer,
    /// Cases done.
    pub cases: u64,
    /// Violations found.
    pub violations: usize,
    /// Since the beginning.
    pub elapsed: Duration,
    /// What comes next.
    pub next: &'a str,
}

/// What a layer did and found.
#[derive(Clone, Debug)]
pub struct LayerReport {
    /// Which.
    pub layer: Layer,
    /// Harm done and judged.
    pub cases: u64,
    /// In this time.
    pub elapsed: Duration,
    /// Acknowledged transactions, all of them looked for afterwards.
    pub acknowledged: u64,
    /// All cases of a layer that has finitely many were done.
    pub exhausted: bool,
    /// What this machine cannot do, and why.
    pub skipped: Vec<String>,
    /// What is wrong: the case, and a sentence.
    pub violations: Vec<String>,
    /// What was met, counted.
    pub seen: BTreeMap<String, u64>,
}

impl fmt::Display for LayerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LayerReport { layer, cases, elapsed, acknowledged, .. } = self;
        let seconds = elapsed.as_secs_f64();
        let rate = *cases as f64 / seconds.max(1e-9);
        write!(
            f,
            "{layer}: {cases} cases in {seconds:.1} s ({rate:.1}/s), {acknowledged} acknowledged commits, "
        )?;
        write!(f, "{}{} violations", if self.exhausted { "exhausted, " } else { "" }, self.violations.len())?;
        for (what, count) in &self.seen {
            write!(f, "\n  {count:>8}  {what}")?;
        }
        for why in &self.skipped {
            write!(f, "\n  skipped: {why}")?;
        }
        for what in &self.violations {
            write!(f, "\n  VIOLATION: {what}")?;
        }
        Ok(())
    }
}

/// Told of progress; `Break` ends the layer after the case in hand.
pub type ProgressFn<'a> = &'a mut dyn FnMut(&Progress<'_>) -> ControlFlow<()>;

/// Works through a layer until it is exhausted, the budget is used up, or `progress` breaks. Nothing is left behind: no
/// process, mount, loop device or directory.
pub fn run(layer: Layer, budget: &Budget, progress: ProgressFn<'_>) -> LayerReport {
    let report = LayerReport {
        layer,
        cases: 0,
        elapsed: Duration::ZERO,
        acknowledged: 0,
        exhausted: false,
        skipped: Vec::new(),
        violations: Vec::new(),
        seen: BTreeMap::new(),
    };
    let mut run =
        Run { report, budget: *budget, progress, begun: Instant::now(), random: budget.seed, over: false };
    let done = match layer {
        Layer::Kill => kill::random(&mut run),
        Layer::KillAtCall => calls::kills(&mut run),
        Layer::Errors => calls::errors(&mut run),
        Layer::FileSize => calls::file_sizes(&mut run),
        Layer::Memory => memory::limits(&mut run),
        Layer::PowerCut => cut::random(&mut run),
        Layer::PowerCutAtCall => cut::at_calls(&mut run),
        Layer::Full => full::both(&mut run),
        Layer::Litmus => litmus::layer(&mut run),
    };
    if let Err(why) = done {
        run.report.skipped.push(why);
    }
    run.report.elapsed = run.begun.elapsed();
    run.report
}

/// A layer at work. Its functions return `Err` with the reason if the machine cannot do it.
pub(crate) struct Run<'a> {
    pub(crate) report: LayerReport,
    pub(crate) budget: Budget,
    progress: ProgressFn<'a>,
    begun: Instant,
    random: u64,
    over: bool,
}

/// More violations than that say nothing new.
const ENOUGH: usize = 20;

impl Run<'_> {
    /// Whether another case is due.
    pub(crate) fn go_on(&mut self, next: &str) -> bool {
        let elapsed = self.begun.elapsed();
        let LayerReport { layer, cases, ref violations, .. } = self.report;
        let progress = Progress { layer, cases, violations: violations.len(), elapsed, next };
        let asked = (self.progress)(&progress).is_break();
        self.over = self.over
            || asked
            || elapsed >= self.budget.time
            || cases >= self.budget.cases
            || violations.len() >= ENOUGH;
        !self.over
    }
    /// Whether a case was refused for want of time: then nothing was exhausted.
    pub(crate) fn cut_short(&self) -> bool {
        self.over
    }
    /// The next number of a small generator, so that an attempt can be repeated.
    pub(crate) fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % below.max(1)
    }
    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.random(i as u64 + 1) as usize;
            items.swap(i, j);
        }
    }
    pub(crate) fn violation(&mut self, what: impl Into<String>) {
        self.report.violations.push(what.into());
    }
    pub(crate) fn saw(&mut self, what: impl Into<String>) {
        *self.report.seen.entry(what.into()).or_default() += 1;
    }
}
