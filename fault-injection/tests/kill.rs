//! Real `kill -9` of a real process on a real directory, many times on the same database: at random moments of work,
//! and during recovery. Promises D1, D2, D3 and D9 of docs/durability.md.
mod layer;

use hamal_fault_injection::real::{Budget, Layer};

#[test]
fn nothing_acknowledged_is_lost() {
    let report = layer::run_layer(Layer::Kill, Budget { cases: 50, ..Budget::seconds(15) });
    // Where a sync takes tens of milliseconds there are few.
    assert!(report.acknowledged > report.cases * 2, "too little was acknowledged: the test tested little");
}
