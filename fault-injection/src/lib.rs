//! A harness that crashes storage engines: simulated disks, enumerated crashes, damage, planted bugs.
//!
//! An [`Engine`](engine::Engine) runs a scenario of [operations](op::Op) on a [simulated disk](sim::SimDisk). The disk is then
//! crashed at every change that the engine made to it, in every way its [persistence model](sim::Persistence) allows and
//! recovery can tell apart; after each, [oracles] judge what recovery made of it, and recovery itself is
//! crashed in the same way.
#![deny(missing_docs)]
#![forbid(unsafe_code)]

pub mod campaign;
pub mod case;
pub mod engine;
pub mod engines;
pub mod explore;
pub mod fuzz;
pub mod history;
pub mod hunt;
pub mod kits;
pub mod model;
pub mod op;
pub mod oracles;
pub mod random;
pub mod real;
pub mod run;
pub mod sim;
pub mod sweep;
pub mod watchdog;
pub mod workload;
pub mod workloads;
