//! Functions for a fuzzer: each takes any bytes, makes an input of them, and panics if the engine or the harness does with it
//! what it never may.
//!
//! **Structure.** The bytes are not the file: an [`Input`] reads small numbers and pieces from them, and the function builds a
//! log, a page, an image or a program with these. So nearly every input gets past the first checks, and a changed byte is
//! a changed field. **Checksums** are made right after the changes (or not: the input says), because no fuzzer guesses
//! a CRC, and because what is behind a right checksum must not hurt either: a checksum is no proof of good intentions.
//!
//! **What is right.** With damage as devices make it (checksums as they fall): the right data or a typed error. With made-up
//! bytes behind right checksums: any data or a typed error, but no panic, no error that calls itself a bug, no endless
//! loop, and no memory by a number that was read. Decoders are compared with the harness's own, and what was decoded is encoded
//! again where there is one encoding.
//!
//! `fault-injection/fuzz` is the crate for cargo-fuzz; `docs/fuzzing.md` tells how to run it. `tests/fuzz.rs` runs all functions
//! on mutated seeds without it.
mod case;
mod control;
mod fixup;
mod image;
mod input;
mod load;
mod log;
mod page;
mod patient;
mod program;
mod versions;

pub use case::case;
pub use control::control;
pub use image::image;
pub use input::Input;
pub use load::load;
pub use log::log;
pub use page::page;
pub use program::program;
pub use versions::versions;

/// A function for a fuzzer. It panics if the input shows a bug.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const TARGETS: [(&str, Target); 8] = [
    ("log", log),
    ("page", page),
    ("control", control),
    ("versions", versions),
    ("image", image),
    ("case", case),
    ("load", load),
    ("program", program),
];
