//! Each read held to the engine's own timestamps: no search, so no order that was not meant can excuse anything.
//!
//! * Snapshot, serializable and read-only: a read shows the newest version committed at or below the snapshot. Also if the reader does
//!   not commit.
//! * Read committed: each statement shows the state at one snapshot that is not older than the statement before; a row that it locks, the
//!   newest.
//! * First committer wins: between the snapshot of a transaction and its commit nobody else has committed a change of a row that it writes.
//! * A row that was locked is at the commit what it was when it was locked.
//! * Serializable, with writes: what was read is still so just before the commit. So the order of commits is a serial order that explains all.
//! * Who begins after a commit was acknowledged sees it.
//! * Of the commits before a crash, a first part survives, and all that was acknowledged is in it.
use super::judge::{Anomaly, Report, Violation};
use super::record::{History, Level, Outcome, State, Transaction};
use super::versions::{Seen, reads, show};
use std::collections::{BTreeMap, HashMap};

/// Judges a history by its timestamps; what has none is not judged.
pub fn judge(h: &History) -> Report {
    let mut report = Report::default();
    survivors(h, &mut report);
    distinct(h, &mut report);
    acknowledged_is_seen(h, &mut report);
    let last = h.transactions.iter().map(|t| t.epoch).max().unwrap_or(0);
    for epoch in 0..=last {
        let timeline = Timeline::of(h, epoch);
        for t in h.transactions.iter().filter(|t| t.epoch == epoch) {
            timeline.hold(t, &mut report);
        }
    }
    report
}

/// What rows were when, as one run of the engine saw it: all that survived from earlier runs, and all of its own, also what the crash at
/// its end took back.
struct Timeline<'h> {
    versions: HashMap<u64, Vec<(u64, u64, &'h State)>>,
}

impl<'h> Timeline<'h> {
    fn of(h: &'h History, epoch: u32) -> Timeline<'h> {
        let mut versions: HashMap<u64, Vec<(u64, u64, &State)>> = HashMap::new();
        for t in &h.transactions {
            let here = match t.outcome {
                Outcome::Committed { .. } => t.epoch <= epoch,
                Outcome::Lost { .. } => t.epoch == epoch,
                Outcome::Aborted | Outcome::Unknown => false,
            };
            let (true, Some(at)) = (here, t.at()) else { continue };
            for (key, state) in t.writes() {
                versions.entry(key).or_default().push((at, t.id, state));
            }
        }
        versions.values_mut().for_each(|v| v.sort_unstable_by_key(|(at, ..)| *at));
        Timeline { versions }
    }

    /// The versions of a row, and how many of them were committed at or below a timestamp.
    fn upto(&self, key: u64, at: u64) -> (&[(u64, u64, &'h State)], usize) {
        let versions = self.versions.get(&key).map_or(&[][..], Vec::as_slice);
        (versions, versions.partition_point(|(v, ..)| *v <= at))
    }
    fn state(&self, key: u64, at: u64) -> Option<&'h [u64]> {
        let (versions, n) = self.upto(key, at);
        versions[..n].last().and_then(|(.., state)| state.as_deref())
    }

    fn hold(&self, t: &Transaction, report: &mut Report) {
        // Wrong reads of its own rows are for the graph to report.
        let seen = reads(t, &mut Vec::new());
        let writes = t.writes();
        let at = t.at();
        if t.level == Level::ReadCommitted {
            // A row that it has locked is its own from then on: it sees it as it was then, newer than a statement's moment, if that
            // commit was not durable yet.
            let mut own = BTreeMap::new();
            for s in seen.chunk_by(|a, b| a.op == b.op) {
                let others: Vec<_> =
                    s.iter().filter(|r| r.locked || own.get(&r.key) != Some(&r.state)).collect();
                self.hold_statement(t, &others, report);
                own.extend(s.iter().filter(|r| r.locked).map(|r| (r.key, r.state)));
            }
        } else if let Some(snapshot) = t.snapshot {
            for s in &seen {
                self.hold_read(t, s, snapshot, Anomaly::NotTheSnapshot, report);
            }
        }
        let Some(at) = at else { return };
        for s in seen.iter().filter(|s| s.locked && s.kept) {
            self.hold_read(t, s, at.saturating_sub(1), Anomaly::LockIgnored, report);
        }
        if t.level == Level::Serializable && !writes.is_empty() {
            for s in &seen {
                self.hold_read(t, s, at.saturating_sub(1), Anomaly::NotAtCommit, report);
            }
        }
        if let (Level::Snapshot | Level::Serializable, Some(snapshot)) = (t.level, t.snapshot) {
            for key in writes.keys() {
                report.counts.held += 1;
                let (versions, before) = self.upto(*key, snapshot);
                if let Some((other, by, _)) = versions[before..].first().filter(|(other, ..)| *other < at) {
                    let m = format!(
                        "T{} (snapshot {snapshot}, commit {at}) wrote key {key}, which T{by} had changed at {other}",
                        t.id
                    );
                    report.violations.push(Violation::of(Anomaly::FirstCommitterWins, &[*by, t.id], m));
                }
            }
        }
    }

    fn hold_read(&self, t: &Transaction, s: &Seen<'_>, at: u64, anomaly: Anomaly, report: &mut Report) {
        report.counts.held += 1;
        let right = self.state(s.key, at);
        if s.state != right {
            let m = format!(
                "T{} ({}, snapshot {:?}, commit {:?}) read {} of key {}; at {at} it was {}",
                t.id,
                t.level.name(),
                t.snapshot,
                t.at(),
                show(s.state),
                s.key,
                show(right)
            );
            report.violations.push(Violation::of(anomaly, &[t.id], m));
        }
    }

    /// A statement of read committed: there is one moment within its span at which all of its rows were so.
    fn hold_statement(&self, t: &Transaction, seen: &[&Seen<'_>], report: &mut Report) {
        let Some((low, high)) = seen.first().and_then(|s| s.at) else { return };
        report.counts.held += seen.len() as u64;
        // Whoever waited for a row gets the newest, whenever that was committed.
        let high = if seen[0].locked { u64::MAX } else { high };
        let mut moments = vec![low];
        for s in seen {
            let (versions, n) = self.upto(s.key, low);
            moments.extend(versions[n..].iter().map(|(at, ..)| *at).take_while(|at| *at <= high));
        }
        let fits = |at: u64| seen.iter().all(|s| s.state == self.state(s.key, at));
        if !moments.into_iter().any(fits) {
            let rows: Vec<String> =
                seen.iter().map(|s| format!("key {}: {}", s.key, show(s.state))).collect();
            let m = format!(
                "T{} (read committed) read {}; at no moment from {low} to {high} was it so",
                t.id,
                rows.join(", ")
            );
            report.violations.push(Violation::of(Anomaly::NotTheSnapshot, &[t.id], m));
        }
    }
}

/// Timestamps are different, and later than snapshots.
fn distinct(h: &History, report: &mut Report) {
    let mut by: BTreeMap<u64, u64> = BTreeMap::new();
    for t in h.transactions.iter().filter(|t| t.committed() && !t.writes().is_empty()) {
        let Some(at) = t.at() else { continue };
        report.counts.held += 1;
        if let Some(other) = by.insert(at, t.id) {
            let m = format!("T{other} and T{} both committed at {at}", t.id);
            report.violations.push(Violation::of(Anomaly::Timestamps, &[other, t.id], m));
        }
        if t.snapshot.is_some_and(|s| s >= at) {
            let m = format!("T{} committed at {at}, not above its snapshot {:?}", t.id, t.snapshot);
            report.violations.push(Violation::of(Anomaly::Timestamps, &[t.id], m));
        }
    }
}

/// A snapshot is at or above every commit that was acknowledged before it was asked for.
fn acknowledged_is_seen(h: &History, report: &mut Report) {
    let mut acknowledged: Vec<(u64, u64, u64)> = Vec::new();
    for t in h.transactions.iter().filter(|t| t.committed() && !t.writes().is_empty()) {
        acknowledged.extend(t.at().map(|at| (t.end, at, t.id)));
    }
    acknowledged.sort_unstable();
    // For each moment the newest of those before.
    let mut newest = (0, 0);
    for a in &mut acknowledged {
        newest = newest.max((a.1, a.2));
        (a.1, a.2) = newest;
    }
    for t in &h.transactions {
        let Some(snapshot) = t.snapshot else { continue };
        report.counts.held += 1;
        let before = acknowledged.partition_point(|(end, ..)| *end < t.begin);
        if let Some((_, at, by)) = acknowledged[..before].last().filter(|(_, at, _)| *at > snapshot) {
            let m = format!(
                "T{} ({}, snapshot {snapshot}) began after T{by} was acknowledged, which committed at {at}",
                t.id,
                t.level.name()
            );
            report.violations.push(Violation::of(Anomaly::StaleSnapshot, &[*by, t.id], m));
        }
    }
}

/// What a crash took back: nothing acknowledged, and nothing before something that it left.
fn survivors(h: &History, report: &mut Report) {
    let mut newest: HashMap<u32, (u64, u64)> = HashMap::new();
    for t in h.transactions.iter().filter(|t| t.committed() && !t.writes().is_empty()) {
        if let Some(at) = t.at() {
            let n = newest.entry(t.epoch).or_default();
            *n = (*n).max((at, t.id));
        }
    }
    for t in &h.transactions {
        let Outcome::Lost { at, acknowledged } = t.outcome else { continue };
        report.counts.held += 1;
        if acknowledged {
            let m = format!("T{} was acknowledged (commit {at:?}), and is gone after the crash", t.id);
            report.violations.push(Violation::of(Anomaly::LostCommit, &[t.id], m));
        } else if let (Some(at), Some((later, by))) = (at, newest.get(&t.epoch))
            && at < *later
        {
            let m = format!("T{} (commit {at}) is gone after the crash, T{by} (commit {later}) is not", t.id);
            report.violations.push(Violation::of(Anomaly::LostCommit, &[t.id, *by], m));
        }
    }
}
