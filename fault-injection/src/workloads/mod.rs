//! Families of scenarios.
