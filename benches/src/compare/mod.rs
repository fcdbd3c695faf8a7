//! hamal beside other engines, each driven through one trait with its recommended settings.
//!
//! A measurement runs in a process of its own, so that memory and caches of one engine are not another's. The engines take
//! turns round by round. What a figure syncs is part of the figure: a durable row waits for the device in each commit, an
//! asynchronous row ends with one sync, which is in its time.
pub mod engine;
pub mod engines;
pub mod measure;
pub mod oltp;
pub mod plan;
pub mod raw;
pub mod report;
pub mod workloads;

/// An error of whatever engine.
pub type Any<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;
