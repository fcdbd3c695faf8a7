//! The n-th system call: the process dies before it, or it fails. A sample here; all of them by the command.
mod layer;

use hamal_fault_injection::real::{Budget, Layer};

#[test]
fn killed_at_any_system_call() {
    layer::run_layer(Layer::KillAtCall, Budget::seconds(8));
}

#[test]
fn any_system_call_may_fail() {
    layer::run_layer(Layer::Errors, Budget::seconds(12));
}

#[test]
fn writes_may_be_short() {
    layer::run_layer(Layer::FileSize, Budget::seconds(6));
}

#[test]
fn memory_may_run_out() {
    layer::run_layer(Layer::Memory, Budget::seconds(8));
}
