//! The n-th system call: the process dies before it, or it fails. A sample here; all of them by the command.
mod common;

use hamal_fault_injection::real::{Budget, Layer};

#[test]
fn killed_at_any_system_call() {
    common::layer(Layer::KillAtCall, Budget::seconds(8));
}

#[test]
fn any_system_call_may_fail() {
    common::layer(Layer::Errors, Budget::seconds(12));
}

#[test]
fn writes_may_be_short() {
    common::layer(Layer::FileSize, Budget::seconds(6));
}
