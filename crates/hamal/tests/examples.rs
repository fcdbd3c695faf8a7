//! The examples run.
#[path = "../examples/bank.rs"]
#[allow(dead_code)]
mod bank;
#[path = "../examples/counters.rs"]
#[allow(dead_code)]
mod counters;

#[test]
fn bank() {
    bank::main().unwrap();
}

#[test]
fn counters() {
    counters::main().unwrap();
}
