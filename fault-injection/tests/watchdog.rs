//! What never comes back is a violation with a replay file, and the campaign goes on.
use hamal::disk::{Disk, OpenMode};
use hamal_fault_injection::campaign::{Kit, Live, Plan, campaign, replay};
use hamal_fault_injection::case::Case;
use hamal_fault_injection::engine::{Applied, Config, Engine, Failure, Opened, Reader, Session};
use hamal_fault_injection::engines::hamal::Hamal;
use hamal_fault_injection::model::Contents;
use hamal_fault_injection::op::Op;
use hamal_fault_injection::oracles::Oracle;
use hamal_fault_injection::sim::Persistence;
use hamal_fault_injection::workload::Workload;
use std::sync::Arc;
use std::time::Duration;

/// The key that the engine gets stuck on.
const BAD: u32 = 7;

#[derive(Clone, Copy, PartialEq)]
enum How {
    /// Waits for nobody.
    Waits,
    /// Reads the same sector again and again.
    Reads,
}

/// hamal, but for ever at one place: in a put of [`BAD`], or in a recovery that finds its row.
#[derive(Clone, Copy)]
struct Stuck {
    how: How,
    in_recovery: bool,
}

struct StuckSession {
    stuck: Stuck,
    inner: Box<dyn Session>,
    disk: Arc<dyn Disk>,
}

fn stick(how: How, disk: &dyn Disk) {
    let file = disk.open("data", OpenMode { read_only: true, ..OpenMode::default() }).unwrap();
    loop {
        match how {
            How::Waits => std::thread::park(),
            // Whatever the disk says.
            How::Reads => {
                if file.read_at(0, &mut [0; 512]).is_err() {
                    return;
                }
            }
        }
    }
}

impl Engine for Stuck {
    fn name(&self) -> &str {
        "stuck"
    }
    fn create(&self, disk: Arc<dyn Disk>, config: &Config) -> Result<Box<dyn Session>, Failure> {
        let inner = Hamal::new().create(disk.clone(), config)?;
        Ok(Box::new(StuckSession { stuck: *self, inner, disk }))
    }
    fn open(&self, disk: Arc<dyn Disk>, config: &Config) -> Result<Box<dyn Session>, Failure> {
        let mut inner = Hamal::new().open(disk.clone(), config)?;
        if self.in_recovery && !inner.opened().clean {
            let bad = hamal_fault_injection::op::key_bytes(BAD);
            if inner.contents()?.trees.values().any(|rows| rows.contains_key(&bad)) {
                stick(self.how, &*disk);
            }
        }
        Ok(Box::new(StuckSession { stuck: *self, inner, disk }))
    }
}

impl Session for StuckSession {
    fn apply(&mut self, op: &Op) -> Result<Applied, Failure> {
        if !self.stuck.in_recovery && matches!(op, Op::Put { key: BAD, .. }) {
            stick(self.stuck.how, &*self.disk);
        }
        self.inner.apply(op)
    }
    fn contents(&mut self) -> Result<Contents, Failure> {
        self.inner.contents()
    }
    fn verify(&mut self) -> Result<Vec<String>, Failure> {
        self.inner.verify()
    }
    fn opened(&self) -> Opened {
        self.inner.opened()
    }
    fn snapshot(&mut self, name: u8) -> Result<u64, Failure> {
        self.inner.snapshot(name)
    }
    fn seen_by(&mut self, reader: Reader) -> Result<Contents, Failure> {
        self.inner.seen_by(reader)
    }
}

/// One row after the other.
struct Rows;

impl Workload for Rows {
    fn name(&self) -> &str {
        "rows"
    }
    fn config(&self, _: u64) -> Config {
        Config::default()
    }
    fn operations(&self, _: u64, _: usize) -> Vec<Op> {
        let mut ops = vec!["begin 1".to_string(), "create 1 0".into(), "commit 1".into()];
        for key in 1..=9 {
            ops.extend(["begin 1".into(), format!("put 1 0 {key} 30 1"), "commit 1".into()]);
        }
        ops.iter().map(|op| op.parse().unwrap()).collect()
    }
}

fn plan() -> Plan {
    Plan {
        patience: Duration::from_millis(1500),
        shrink: Duration::from_secs(20),
        scenarios: Some(1),
        ..Plan::new(1)
    }
}

fn kit(how: How, in_recovery: bool) -> Kit {
    Kit { engine: Arc::new(Stuck { how, in_recovery }), workload: Arc::new(Rows) }
}

/// The case, whose replay file says the same again.
fn caught(how: How, in_recovery: bool) -> Case {
    let kits = [kit(how, in_recovery)];
    let report = campaign(&kits, &plan(), &Live::default());
    assert_eq!(report.found.len(), 1);
    let found = &report.found[0];
    assert_eq!(found.violation.oracle, Oracle::Hang, "{}", found.violation.text);
    let case: Case = found.case.to_string().parse().expect("a case");
    assert_eq!(case.to_string(), found.case.to_string());
    case
}

#[test]
fn a_wait_for_nobody_is_a_violation() {
    let case = caught(How::Waits, false);
    // The transaction must be there, and the tree.
    assert!(case.ops.len() <= 5 && case.crashes.is_empty(), "{case}");
    assert!(case.says[0].starts_with("`put 1 0 7 30 1` waits"), "{case}");
}

#[test]
fn reading_for_ever_is_a_violation() {
    let case = caught(How::Reads, false);
    assert!(case.ops.len() <= 5 && case.says[0].contains("reading and writing without end"), "{case}");
    let (_, finding) = replay(&[kit(How::Reads, false)], &case, true).unwrap();
    assert_eq!(finding.expect("it is there again").violation.oracle, Oracle::Hang);
    let (_, finding) = replay(&[kit(How::Reads, true)], &case, true).unwrap();
    assert!(finding.is_none());
}

#[test]
fn a_recovery_that_waits_is_a_violation_with_its_crash() {
    let case = caught(How::Waits, true);
    assert!(case.ops.len() <= 6 && case.crashes.len() == 1, "{case}");
    assert!(case.says[0].starts_with("the recovery waits"), "{case}");
}

#[test]
fn a_recovery_that_reads_for_ever_is_a_violation_with_its_crash() {
    let case = caught(How::Reads, true);
    assert!(case.ops.len() <= 6 && case.crashes.len() == 1, "{case}");
}

#[test]
fn the_campaign_goes_on_after_a_hang() {
    let kits = [kit(How::Waits, false), kit(How::Reads, false)];
    let plan = Plan {
        stop_at_first: false,
        scenarios: Some(4),
        shrink: Duration::ZERO,
        models: vec![Persistence::Posix, Persistence::Ordered],
        ..plan()
    };
    let report = campaign(&kits, &plan, &Live::default());
    assert_eq!(report.found.len(), 4);
    assert!(report.found.iter().all(|f| f.violation.oracle == Oracle::Hang));
}
