//! What never comes back is a violation with a replay file, and the campaign goes on.
use hamal::disk::{Disk, OpenMode};
use hamal_fault_injection::campaign::{Kit, Live, Plan, campaign, replay, replay_live};
use hamal_fault_injection::case::Case;
use hamal_fault_injection::engine::{Applied, Config, Engine, Failure, Opened, Reader, Session};
use hamal_fault_injection::engines::hamal::Hamal;
use hamal_fault_injection::model::Contents;
use hamal_fault_injection::op::Op;
use hamal_fault_injection::oracles::Oracle;
use hamal_fault_injection::sim::Persistence;
use hamal_fault_injection::sweep;
use hamal_fault_injection::workload::Workload;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

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

/// hamal, but for ever where it would say this.
struct StuckOnDamage(&'static str);

impl Engine for StuckOnDamage {
    fn name(&self) -> &str {
        "stuck-on-damage"
    }
    fn stranger(&self) -> Option<Box<dyn Engine>> {
        Hamal::new().stranger()
    }
    fn create(&self, disk: Arc<dyn Disk>, config: &Config) -> Result<Box<dyn Session>, Failure> {
        Hamal::new().create(disk, config)
    }
    fn open(&self, disk: Arc<dyn Disk>, config: &Config) -> Result<Box<dyn Session>, Failure> {
        let opened = Hamal::new().open(disk.clone(), config);
        if opened.as_ref().is_err_and(|f| f.text.starts_with(self.0)) {
            stick(How::Waits, &*disk);
        }
        opened
    }
}

#[test]
fn a_sweep_goes_on_after_a_hang() {
    let patience = Duration::from_millis(1500);
    let swept = |engine: Arc<dyn Engine>| {
        let kit = Kit { engine, workload: Arc::new(Rows) };
        let plan = sweep::Plan { stride: 512, threads: 2, patience, ..sweep::Plan::new(1, true) };
        sweep::run(&kit, plan, &Live::default()).expect("the sweep runs").0
    };
    let errors = |t: &sweep::Table, kind: &str| {
        t.cells.values().map(|outcomes| outcomes.get(kind).copied().unwrap_or(0)).sum::<u64>()
    };
    let sound = swept(Arc::new(Hamal::new()));
    assert!(sound.violations.is_empty(), "{:?}", sound.violations);
    assert!(errors(&sound, "NotADatabase") == 1 && errors(&sound, "ControlCorrupt") > 3);

    // The one that hangs is named with its place; all others are what they were, those of its kind too.
    let stuck = swept(Arc::new(StuckOnDamage("NotADatabase")));
    let [sweep::Bad { place, outcome: what, .. }] = &stuck.violations[..] else {
        panic!("{:?}", stuck.violations)
    };
    assert!(place.starts_with("removed ") && place.contains(" of control at "), "{place}");
    assert!(format!("{what:?}").contains("nothing came of it in 1.5 s"), "{what:?}");
    assert_eq!((stuck.cases, errors(&stuck, "NotADatabase")), (sound.cases, 0));
    for kind in ["right data", "LogCorrupt", "WrongDatabase"] {
        assert_eq!(errors(&stuck, kind), errors(&sound, kind), "{kind}");
    }

    // Three of a kind are enough, and what was left out for them is said.
    let stuck = swept(Arc::new(StuckOnDamage("ControlCorrupt")));
    assert!(stuck.cases < sound.cases && errors(&stuck, "ControlCorrupt") == 0);
    let left_out = |o: &sweep::Outcome| format!("{o:?}").contains("left out: 3 have hung");
    assert!(stuck.violations.iter().any(|b| left_out(&b.outcome)), "{:?}", stuck.violations);
}

#[test]
fn a_replay_is_stopped_at_once() {
    // One that would search for long, and one whose engine is stuck.
    let mut case = caught(How::Waits, false);
    for engine in
        [Arc::new(Hamal::new()) as Arc<dyn Engine>, Arc::new(Stuck { how: How::Waits, in_recovery: false })]
    {
        case.engine = engine.name().to_string();
        case.ops = Rows.operations(0, 0);
        for key in 10..200 {
            let ops = ["begin 1".to_string(), format!("put 1 0 {key} 900 1"), "commit 1".to_string()];
            case.ops.extend(ops.iter().map(|op| op.parse::<Op>().unwrap()));
        }
        case.crashes.clear();
        let (kits, live) = ([Kit { engine, workload: Arc::new(Rows) }], Live::default());
        let replayed = std::thread::scope(|scope| {
            let replayed = scope.spawn(|| replay_live(&kits, &case, false, &live));
            std::thread::sleep(Duration::from_millis(200));
            let asked = Instant::now();
            live.stop.store(true, Relaxed);
            let replayed = replayed.join().expect("no panic");
            assert!(asked.elapsed() < Duration::from_secs(10));
            replayed
        });
        let replayed = replayed.expect("a case");
        assert!(replayed.is_none(), "{replayed:?}");
    }
}
