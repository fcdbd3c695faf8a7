//! The file system is shut down below a working process (needs root). Promises D1, D2, D3 and D9 of docs/durability.md.
mod layer;

use hamal_fault_injection::real::{Budget, Layer, cut};

#[test]
fn cut_at_random() {
    layer::run_layer(Layer::PowerCut, Budget::seconds(8));
}

#[test]
fn cut_at_any_system_call() {
    layer::run_layer(Layer::PowerCutAtCall, Budget::seconds(8));
}

#[test]
fn a_lying_sync_is_noticed() {
    match cut::with_lying_syncs() {
        Ok(said) => println!("{}", said.expect("commits were lost, and nothing was said")),
        Err(why) => println!("skipped: {why}"),
    }
}
