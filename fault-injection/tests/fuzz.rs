//! The fuzzer's functions without a fuzzer: every seed and every input that once showed a bug, and a fixed number of
//! mutations of the seeds. An input may panic, run for ever or take memory: each is a failure that names the input.
use hamal_fault_injection::fuzz::TARGETS;
use hamal_fault_injection::random::Random;
use hamal_fault_injection::run::caught;
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Bytes that one input may have allocated at once, beyond what was there before. The databases have some hundred KiB; the rest
/// is caches of a fixed size and what the harness keeps.
const MOST_BYTES: usize = 96 << 20;
/// Bytes that all inputs of a target together may leave behind.
const MOST_KEPT: usize = 64 << 10;
/// An input that takes longer is one that does not end. They take milliseconds.
const LONGEST: Duration = Duration::from_secs(60);

/// The system's allocator, counting.
struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

fn took(bytes: usize) {
    PEAK.fetch_max(LIVE.fetch_add(bytes, Relaxed) + bytes, Relaxed);
}

// SAFETY: every call is handed on to the system's allocator as it came; only numbers are kept beside.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        took(layout.size());
        // SAFETY: as the caller promised.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn realloc(&self, old: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        took(new);
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.realloc(old, layout, new) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn files_in(kind: &str, target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kind).join(target);
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut files: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|p| (p.clone(), std::fs::read(p).unwrap())).collect()
}

/// Up to four small changes, and now and then a piece of another seed.
fn mutated(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut b = random.pick(seeds).clone();
    for _ in 0..1 + random.below(4) {
        let at = random.below(b.len() as u64 + 1) as usize;
        match random.below(8) {
            0 => b.insert(at, random.next() as u8),
            1 if at < b.len() => drop(b.remove(at)),
            2 => b.truncate(at),
            3 => b.extend((0..random.below(16)).map(|_| random.next() as u8)),
            4 => {
                let other = random.pick(seeds);
                let from = random.below(other.len() as u64 + 1) as usize;
                let to = from + random.below((other.len() - from) as u64 + 1) as usize;
                b.splice(at..at, other[from..to].iter().copied());
            }
            5 if at < b.len() => b[at] = *random.pick(&[0, 1, 127, 128, 255]),
            6 if at < b.len() => b[at] ^= 1 << random.below(8),
            _ if at < b.len() => b[at] = random.next() as u8,
            _ => {}
        }
    }
    b.truncate(4096);
    b
}

/// The input that runs, and since when.
type Running = Arc<Mutex<Option<(Vec<u8>, Instant)>>>;

/// Ends the process if one input runs for too long.
fn watchdog(target: &'static str) -> (Running, Arc<AtomicBool>) {
    let (running, done) = (Running::default(), Arc::new(AtomicBool::new(false)));
    let (seen, stop) = (running.clone(), done.clone());
    std::thread::spawn(move || {
        while !stop.load(Relaxed) {
            std::thread::sleep(Duration::from_millis(500));
            let late = seen.lock().unwrap().clone().filter(|(_, since)| since.elapsed() > LONGEST);
            if let Some((input, _)) = late {
                eprintln!("{target} does not end with {}", keep(target, &input));
                std::process::abort();
            }
        }
    });
    (running, done)
}

/// Writes the input to a file; returns its name.
fn keep(target: &str, input: &[u8]) -> String {
    let path = std::env::temp_dir().join(format!("hamal-fuzz-{target}-{:08x}", hash(input)));
    match std::fs::write(&path, input) {
        Ok(()) => path.display().to_string(),
        Err(e) => format!("{input:02x?} ({e})"),
    }
}

fn hash(b: &[u8]) -> u32 {
    b.iter().fold(0x811c_9dc5, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193))
}

fn run(target: &'static str, iterations: u64) {
    let function = TARGETS.iter().find(|(n, _)| *n == target).unwrap().1;
    let seeds = files_in("seeds", target);
    assert!(!seeds.is_empty(), "{target} has no seeds");
    // What is made once is not counted.
    for how in 0..=255u8 {
        if how % 64 == 0 {
            function(&[how, 0, 0, 0]);
            function(&[how + 1, 0, 0, 0]);
        }
    }
    let (running, done) = watchdog(target);
    let one = |name: &dyn Fn() -> String, input: &[u8]| {
        *running.lock().unwrap() = Some((input.to_vec(), Instant::now()));
        let before = LIVE.load(Relaxed);
        PEAK.store(before, Relaxed);
        let result = caught(|| function(input));
        let most = PEAK.load(Relaxed).saturating_sub(before);
        *running.lock().unwrap() = None;
        if let Err(panic) = result {
            panic!("{target} with {}: {panic}", name());
        }
        assert!(most <= MOST_BYTES, "{target} takes {most} bytes of memory with {}", name());
    };
    for (path, input) in files_in("regressions", target).iter().chain(&seeds) {
        one(&|| path.display().to_string(), input);
    }
    let seeds: Vec<Vec<u8>> = seeds.into_iter().map(|(_, b)| b).collect();
    let mut random = Random::new(0xF022);
    let before = LIVE.load(Relaxed);
    for _ in 0..iterations {
        let input = mutated(&mut random, &seeds);
        one(&|| keep(target, &input), &input);
    }
    done.store(true, Relaxed);
    let kept = LIVE.load(Relaxed).saturating_sub(before);
    assert!(kept <= MOST_KEPT, "{target} keeps {kept} bytes of memory for ever");
}

/// One after the other: memory is counted for the process.
#[test]
fn every_target_stands_its_seeds_and_their_mutations() {
    let factor: u64 = std::env::var("HAMAL_FUZZ_FACTOR").ok().and_then(|f| f.parse().ok()).unwrap_or(1);
    let only = std::env::var("HAMAL_FUZZ_TARGET").ok();
    for (target, iterations) in [
        ("log", 2000),
        ("page", 1000),
        ("control", 500),
        ("versions", 800),
        ("image", 1000),
        ("case", 100_000),
        ("load", 100_000),
        ("program", 800),
    ] {
        if only.as_deref().is_none_or(|o| o == target) {
            let since = Instant::now();
            run(target, iterations * factor);
            println!("{target}: {iterations} mutations in {:.1?}", since.elapsed());
        }
    }
}
