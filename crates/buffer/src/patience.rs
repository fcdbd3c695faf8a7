//! Bounded waiting for something that other threads will let go of soon: first yields, then short sleeps, then an error.
use hamal_error::{Error, ErrorKind, Result};
use std::time::Duration;

const YIELDS: u32 = 64;
const NAP: Duration = Duration::from_micros(100);

/// A wait that ends: after several seconds of naps without progress it is an error. Counts, and reads no clock.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    tries: u32,
}

impl Patience {
    /// Tries before the error.
    const LIMIT: u32 = 60_000;

    pub(crate) fn new() -> Self {
        Self::default()
    }
    /// There was progress: begin anew.
    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }
    /// Whether so many tries have been in vain.
    pub(crate) fn beyond(&self, tries: u32) -> bool {
        self.tries > tries
    }
    /// As if so many tries had been in vain.
    pub(crate) fn end(&mut self, tries: u32) {
        self.tries = self.tries.max(tries + 1);
    }
    /// Waits a little.
    ///
    /// # Errors
    /// `Limit` with what was waited for, when patience is at its end.
    pub(crate) fn wait(&mut self, for_what: &str, help: &str) -> Result<()> {
        self.tries += 1;
        if self.tries <= YIELDS {
            hamal_sync::thread::yield_now();
        } else if self.tries <= Self::LIMIT {
            hamal_sync::thread::sleep(NAP);
        } else {
            return Err(Error::new(ErrorKind::Limit, for_what).with_help(help));
        }
        Ok(())
    }
}
