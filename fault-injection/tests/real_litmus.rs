//! What a real file system leaves after a shutdown must be allowed by the model `posix` (needs root).
mod layer;

use hamal_fault_injection::real::{Budget, Layer};

#[test]
fn the_model_allows_what_ext4_leaves() {
    layer::run_layer(Layer::Litmus, Budget::seconds(8));
}
