//! Runs a layer and fails with its report.
use hamal_fault_injection::real::{Budget, Layer, LayerReport, run};
use std::ops::ControlFlow;

/// Where the machine cannot do it, the test passes, and says so.
pub(crate) fn run_layer(layer: Layer, budget: Budget) -> LayerReport {
    let report = run(layer, &budget, &mut |_| ControlFlow::Continue(()));
    println!("{report}");
    assert!(report.violations.is_empty(), "{report}");
    assert!(report.cases > 0 || !report.skipped.is_empty(), "nothing was done, and no reason given");
    report
}
