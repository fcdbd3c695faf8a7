//! Real `kill -9` of a real process on a real directory, many times on the same database: at random moments of work,
//! and during recovery. Promises D1, D2, D3 and D9 of docs/durability.md.

use hamal_fault_injection::killed::{check, options};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Kills of a working process; half of them are followed by kills of a recovering one.
const KILLS: u64 = 50;
const THREADS: u64 = 6;

/// A small generator, so that a failing moment can be named.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Starts a child, kills it `after` its first line `from`, and returns the acknowledgements that came through the pipe.
fn run_and_kill(dir: &Path, mode: &str, from: Option<&str>, after: Duration) -> Vec<(u64, u64)> {
    let mut child = Command::new(env!("CARGO_BIN_EXE_kill_child"))
        .arg(dir)
        .arg(THREADS.to_string())
        .arg(mode)
        .stdout(Stdio::piped())
        .spawn()
        .expect("spawn");
    let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
    let mut acks = Vec::new();
    if let Some(from) = from {
        let seen = lines.by_ref().map_while(Result::ok).any(|l| l == from);
        assert!(seen, "the child stopped before it said {from}");
    }
    let killer = std::thread::spawn({
        let pid = child.id();
        move || {
            std::thread::sleep(after);
            // SAFETY: kill(2) has no memory effects; the child is not reaped before the join below, so that the pid
            // is still its own.
            unsafe { libc::kill(pid as i32, libc::SIGKILL) };
        }
    });
    for line in lines.map_while(Result::ok) {
        let mut words = line.split(' ').map(str::parse);
        if let (Some(Ok(t)), Some(Ok(n)), None) = (words.next(), words.next(), words.next()) {
            acks.push((t, n));
        }
    }
    killer.join().expect("killer");
    let status = child.wait().expect("wait");
    // A recovery may have finished before the kill; a worker never stops by itself.
    assert!(
        status.code().is_none() || (mode == "recover" && status.success()),
        "child ended by itself: {status}"
    );
    acks
}

#[test]
fn nothing_acknowledged_is_lost() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("db");
    let mut seed = 42;
    let mut acknowledged: BTreeMap<u64, u64> = BTreeMap::new();
    let mut total = 0;
    for kill in 0..KILLS {
        let after = Duration::from_millis(random(&mut seed) % 150);
        // Some kills come while the directory is created or recovered, before the child is ready.
        let from = (kill % 5 != 4).then_some("ready");
        for (t, n) in run_and_kill(&path, "work", from, after) {
            let last = acknowledged.entry(t).or_insert(n);
            *last = n.max(*last);
            total += 1;
        }
        if kill % 2 == 1 {
            for _ in 0..random(&mut seed) % 3 {
                let after = Duration::from_micros(random(&mut seed) % 30_000);
                run_and_kill(&path, "recover", None, after);
            }
        }
        let (db, report) = options().open_with_report(&path).expect("open after a kill");
        acknowledged = match check(&db, &acknowledged, THREADS) {
            Ok(shown) => shown,
            Err(what) => panic!("kill {kill} after {after:?}: {what}\n{report}"),
        };
        if kill % 3 == 0 {
            db.close().expect("close");
            let (_, report) = options().open_with_report(&path).expect("open after a close");
            assert!(report.clean, "closed cleanly, but: {report}");
        }
    }
    assert!(total > KILLS * 20, "only {total} transactions were acknowledged: the test tested little");
}
