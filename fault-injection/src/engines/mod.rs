//! Engines to torture.
