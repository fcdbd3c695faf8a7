//! How long a recovery would take, and how much log may lie between two checkpoints so that it takes no longer than it may.
//!
//! A recovery reads the log from the redo point R on, and those changed pages that have no image in it. The cleaner writes
//! pages whose recLSN is more than half an interval behind the tail; a checkpoint comes after a whole interval. So R, as the last
//! checkpoint has it, is at most one interval and a half behind the tail, as long as the cleaner keeps up.
use crate::core::Core;
use hamal_recovery::RecoveryReport;
use std::time::Duration;

/// Bytes of log that a recovery is thought to pass in a second before one was seen.
const BYTES_PER_SECOND: f64 = 150e6;
/// Pages that redo is thought to read in a second.
const PAGES_PER_SECOND: f64 = 20_000.0;
/// A recovery of less log says nothing about the speed.
const ENOUGH_LOG: u64 = 32 << 20;
/// Checkpoints are not closer than this, whatever the target.
const LEAST_INTERVAL: u64 = 1 << 20;

/// Bytes of log in a second, all phases but undo, as the last recovery had it.
pub(crate) fn log_rate(report: &RecoveryReport) -> f64 {
    let [end, analysis, redo, _, checkpoints] = report.seconds;
    let seconds = end + analysis + redo + checkpoints;
    if report.log_bytes < ENOUGH_LOG || seconds <= 0.0 {
        return BYTES_PER_SECOND;
    }
    report.log_bytes as f64 / seconds
}

/// Bytes of log between two checkpoints for this target, with so many pages dirty; at most `most`.
fn interval(target: Duration, rate: f64, dirty: u64, most: u64) -> u64 {
    let target = target.as_secs_f64();
    // However many pages there are, a part of the time is for the log: to write pages is what the cleaner does then.
    let for_log = (target - dirty as f64 / PAGES_PER_SECOND).max(target / 4.0);
    let bytes = (for_log * rate / 1.5) as u64;
    bytes.max(LEAST_INTERVAL).min(most)
}

impl Core {
    /// Bytes of log between two checkpoints.
    pub(crate) fn checkpoint_bytes(&self) -> u64 {
        let most = self.settings.checkpoint_log_bytes;
        match self.options.recovery_target {
            None => most,
            Some(target) => interval(target, self.log_rate, self.pool.dirty_pages(), most),
        }
    }

    /// How long a recovery would take now, without undo.
    pub(crate) fn recovery_estimate(&self) -> Duration {
        let redo = self.checkpointer.current().redo;
        let log = self.log.durable().0.saturating_sub(redo.0) as f64 / self.log_rate;
        Duration::from_secs_f64(log + self.pool.dirty_pages() as f64 / PAGES_PER_SECOND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_follows_target_rate_and_pages() {
        let second = Duration::from_secs(1);
        let of = |target, rate, dirty| interval(target, rate, dirty, 1 << 40);
        assert_eq!(of(second, 150e6, 0), 100_000_000);
        assert_eq!(of(2 * second, 150e6, 0), 200_000_000);
        assert_eq!(of(second, 300e6, 0), 200_000_000);
        // Half of the time goes to pages; never more than three quarters.
        assert_eq!(of(second, 150e6, 10_000), 50_000_000);
        assert_eq!(of(second, 150e6, 1_000_000), 25_000_000);
        assert_eq!(interval(second, 150e6, 0, 5000), 5000);
        assert_eq!(of(second, 1.0, 0), LEAST_INTERVAL);
    }
}
