//! A full disk, on a small tmpfs and a small ext4: the statement fails, rollback works, space is freed, work goes on
//! (promise D8).
mod layer;

use hamal_fault_injection::real::{Budget, Layer};

#[test]
fn a_full_disk_fails_the_statement_and_nothing_else() {
    layer::run_layer(Layer::Full, Budget { cases: 12, ..Budget::seconds(10) });
}
