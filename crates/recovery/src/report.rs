//! What a restart did.
use hamal_log::Verdict;
use hamal_page::{Lsn, TxnId};
use hamal_trace::{Phase, SkipReason};
use std::ops::ControlFlow;
use std::time::Duration;

/// Redo's skipped (record, page) pairs by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// The page was not in the dirty page table.
    pub page_not_in_dpt: u64,
    /// LSN < recLSN.
    pub lsn_below_rec_lsn: u64,
    /// pageLSN >= LSN.
    pub page_lsn_not_below_lsn: u64,
    /// A later whole-page record holds it.
    pub older_than_image: u64,
    /// The page was freed later.
    pub page_freed: u64,
}

impl Skipped {
    /// Counts one more.
    pub fn add(&mut self, why: SkipReason, n: u64) {
        *match why {
            SkipReason::PageNotInDpt => &mut self.page_not_in_dpt,
            SkipReason::LsnBelowRecLsn => &mut self.lsn_below_rec_lsn,
            SkipReason::PageLsnNotBelowLsn => &mut self.page_lsn_not_below_lsn,
            SkipReason::OlderThanImage => &mut self.older_than_image,
            SkipReason::PageFreed => &mut self.page_freed,
        } += n;
    }
    /// Adds the counts of another.
    pub fn merge(&mut self, other: &Skipped) {
        self.page_not_in_dpt += other.page_not_in_dpt;
        self.lsn_below_rec_lsn += other.lsn_below_rec_lsn;
        self.page_lsn_not_below_lsn += other.page_lsn_not_below_lsn;
        self.older_than_image += other.older_than_image;
        self.page_freed += other.page_freed;
    }
    /// All of them.
    pub fn total(&self) -> u64 {
        self.page_not_in_dpt
            + self.lsn_below_rec_lsn
            + self.page_lsn_not_below_lsn
            + self.older_than_image
            + self.page_freed
    }
}

/// How far a restart is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The phase.
    pub phase: Phase,
    /// Done so far: bytes of log in analysis, pages in redo, losers in undo.
    pub done: u64,
    /// In all.
    pub total: u64,
}

/// Called now and then during a restart; `Break` stops it (the next open starts again).
pub type ProgressFn<'a> = &'a mut dyn FnMut(Progress) -> ControlFlow<()>;

/// What a restart found and did.
#[derive(Clone, Debug, PartialEq)]
pub struct RecoveryReport {
    /// Whether the database had been closed cleanly, so that there was nothing to do.
    pub clean: bool,
    /// The verdict on the end of the log.
    pub verdict: Verdict,
    /// LSN of the begin record of the checkpoint that analysis started from.
    pub checkpoint: Lsn,
    /// The redo point R.
    pub redo_point: Lsn,
    /// The end of the log that was found.
    pub log_end: Lsn,
    /// Records read by analysis.
    pub records_analysed: u64,
    /// Bytes of log read by analysis.
    pub log_bytes: u64,
    /// Pages in the dirty page table at the end of analysis.
    pub dirty_pages: u64,
    /// (record, page) pairs applied by redo.
    pub redone: u64,
    /// (record, page) pairs not applied, by reason.
    pub skipped: Skipped,
    /// Pages read from the data file by redo.
    pub pages_read: u64,
    /// Pages rebuilt from a whole-page record.
    pub pages_rebuilt: u64,
    /// Threads that redid pages; 0 if there was no redo.
    pub redo_threads: usize,
    /// Batches of pages that redo took one after another; for each but the first of a log that fits the memory for it, the log was
    /// read once more. 0 if there was no redo.
    pub redo_batches: u64,
    /// The transactions that had not ended.
    pub losers: Vec<TxnId>,
    /// Compensation log records written by undo.
    pub clrs: u64,
    /// Time of finding the end, analysis, redo, undo, and the closing checkpoints.
    pub seconds: [f64; 5],
}

impl RecoveryReport {
    /// The time of all phases.
    pub fn total_time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds.iter().sum())
    }
    /// Bytes of log that analysis and redo went through in a second, both together; 0 if it was too little to measure.
    pub fn redo_rate(&self) -> f64 {
        let seconds = self.seconds[1] + self.seconds[2];
        if seconds > 0.0 { self.log_bytes as f64 / seconds } else { 0.0 }
    }
}

impl std::fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.clean {
            return write!(f, "clean: the log ends at {} with a checkpoint of nothing", self.log_end);
        }
        let verdict = match &self.verdict {
            Verdict::Clean => "ends with a whole group".to_string(),
            Verdict::TornTail { bytes } => {
                format!("had a torn tail of {bytes} bytes, never acknowledged, cut off")
            }
            other => format!("{other:?}"),
        };
        writeln!(f, "log       {} to {}; it {verdict}", self.checkpoint, self.log_end)?;
        writeln!(
            f,
            "analysis  {} records, {} KiB from the checkpoint at {}: {} dirty pages, {} losers",
            self.records_analysed,
            self.log_bytes / 1024,
            self.checkpoint,
            self.dirty_pages,
            self.losers.len()
        )?;
        let s = &self.skipped;
        writeln!(
            f,
            "redo      from {}: {} applied, {} skipped ({} page not in the table, {} below recLSN, {} pageLSN not \
             below, {} older than the image, {} page freed); {} pages read, {} rebuilt from images; {} threads, {:.0} MB/s of log \
             with analysis",
            self.redo_point,
            self.redone,
            s.total(),
            s.page_not_in_dpt,
            s.lsn_below_rec_lsn,
            s.page_lsn_not_below_lsn,
            s.older_than_image,
            s.page_freed,
            self.pages_read,
            self.pages_rebuilt,
            self.redo_threads,
            self.redo_rate() / 1e6
        )?;
        writeln!(f, "undo      {} transactions rolled back with {} CLRs", self.losers.len(), self.clrs)?;
        write!(
            f,
            "time      {:.3} s (end {:.3}, analysis {:.3}, redo {:.3}, undo {:.3}, checkpoints {:.3})",
            self.seconds.iter().sum::<f64>(),
            self.seconds[0],
            self.seconds[1],
            self.seconds[2],
            self.seconds[3],
            self.seconds[4]
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_skipped_is_counted_by_reason() {
        let mut s = Skipped::default();
        for (why, n) in [
            (SkipReason::PageNotInDpt, 1),
            (SkipReason::LsnBelowRecLsn, 10),
            (SkipReason::PageLsnNotBelowLsn, 100),
            (SkipReason::OlderThanImage, 1000),
            (SkipReason::PageFreed, 10_000),
        ] {
            s.add(why, n);
            s.add(why, n);
        }
        assert_eq!(s.total(), 22_222);
        assert_eq!((s.page_not_in_dpt, s.lsn_below_rec_lsn, s.page_lsn_not_below_lsn), (2, 20, 200));
        assert_eq!((s.older_than_image, s.page_freed), (2000, 20_000));
    }

    #[test]
    fn a_report_says_what_was_done() {
        let mut r = RecoveryReport {
            clean: false,
            verdict: Verdict::TornTail { bytes: 1536 },
            checkpoint: Lsn(5000),
            redo_point: Lsn(4800),
            log_end: Lsn(9216),
            records_analysed: 31,
            log_bytes: 4416,
            dirty_pages: 7,
            redone: 23,
            skipped: Skipped { page_freed: 2, ..Skipped::default() },
            pages_read: 6,
            pages_rebuilt: 3,
            redo_threads: 4,
            redo_batches: 1,
            losers: vec![TxnId(6000), TxnId(7000)],
            clrs: 11,
            seconds: [0.5, 0.25, 0.125, 1.0, 2.0],
        };
        assert_eq!(r.total_time(), Duration::from_secs_f64(3.875));
        let text = r.to_string();
        for part in [
            "torn tail of 1536 bytes",
            "31 records",
            "7 dirty pages, 2 losers",
            "23 applied, 2 skipped",
            "4 threads, 0 MB/s",
            "11 CLRs",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        r.log_bytes = 375_000_000;
        assert_eq!(r.redo_rate(), 1e9);
        assert!(r.to_string().contains("4 threads, 1000 MB/s of log"), "{r}");
        r.seconds = [0.0; 5];
        assert_eq!(r.redo_rate(), 0.0);
        let two = Skipped { page_freed: 1, older_than_image: 5, ..Skipped::default() };
        r.skipped.merge(&two);
        assert_eq!((r.skipped.page_freed, r.skipped.total()), (3, 8));
        r.clean = true;
        assert!(r.to_string().starts_with("clean"));
    }
}
