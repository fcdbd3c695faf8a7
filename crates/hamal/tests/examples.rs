//! The examples run.
#[path = "../examples/bank.rs"]
#[allow(dead_code)]
mod bank;
#[path = "../examples/counters.rs"]
#[allow(dead_code)]
mod counters;
#[path = "../examples/tokio.rs"]
#[allow(dead_code)]
mod tokio_tasks;

#[test]
fn bank() {
    bank::main().unwrap();
}

#[test]
fn counters() {
    counters::main().unwrap();
}

#[test]
fn tokio_tasks_share_flushes() {
    tokio_tasks::main().unwrap();
}
