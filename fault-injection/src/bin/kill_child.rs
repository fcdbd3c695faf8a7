//! The process that is killed: `kill_child DIR THREADS work` runs the workload and acknowledges on standard output;
//! `kill_child DIR 0 recover` only opens the database (to be killed during recovery).

use hamal_fault_injection::killed::{next_number, options, prepare, transaction};
use std::io::Write;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, dir, threads, mode] = &args[..] else { panic!("usage: kill_child DIR THREADS work|recover") };
    let threads: u64 = threads.parse().expect("a number of threads");
    let db = options().open_or_create(dir).expect("open");
    say("open");
    if mode == "recover" {
        return;
    }
    prepare(&db).expect("prepare");
    say("ready");
    std::thread::scope(|s| {
        for t in 0..threads {
            let db = db.clone();
            s.spawn(move || {
                let mut n = next_number(&db, t).expect("next number");
                loop {
                    transaction(&db, t, n).expect("transaction");
                    say(&format!("{t} {n}"));
                    n += 1;
                }
            });
        }
    });
}

/// One line in one write: a kill may cut between lines, not inside one that was said.
fn say(line: &str) {
    let line = format!("{line}\n");
    let mut out = std::io::stdout().lock();
    out.write_all(line.as_bytes()).and_then(|()| out.flush()).expect("stdout");
}
