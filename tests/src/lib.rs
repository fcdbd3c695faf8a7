//! Tests across crates; see the `tests` folder of this package.
