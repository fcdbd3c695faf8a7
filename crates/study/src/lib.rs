//! Recovery one can see: traces of what the engine decided, and histories written by hand that the real engine runs.
//!
//! * [`Recorder`] turns the engine's events into a [`Trace`]: JSON Lines in the schema of `docs/formats/trace.md`.
//! * [`text`] and [`perfetto`] show a trace; [`diff`] finds where two differ; [`replay`] checks one against an independent
//!   ARIES at record level.
//! * [`scenario`] reads the language of `docs/scenarios.md`, and [`run`] runs it: a real database on a disk in memory, all
//!   background work off, crashes and recoveries where the scenario says so.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod diff;
mod facts;
mod html;
mod perfetto;
pub mod quiz;
mod recorder;
mod replay;
pub mod run;
mod runs;
pub mod scenario;
mod sha256;
mod story;
mod text;
mod trace;
mod why;
mod words;

pub use diff::{Difference, diff};
pub use html::html;
pub use perfetto::perfetto;
pub use recorder::{Picker, Recorder, Sink};
pub use replay::{Finding, replay};
pub use story::Filter;
pub use text::{LsnStyle, text};
pub use trace::{BadTrace, FORMAT, Row, Trace};
pub use why::{Compensation, InLog, why};
pub use words::sentences;
