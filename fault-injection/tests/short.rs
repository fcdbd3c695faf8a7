//! A violation that does not get small by leaving operations out is looked for in short scenarios.
use hamal::disk::Disk;
use hamal_fault_injection::campaign::{Kit, Live, Plan, campaign, replay};
use hamal_fault_injection::case::Case;
use hamal_fault_injection::engine::{Applied, Config, Engine, Failure, Opened, Reader, Session};
use hamal_fault_injection::engines::hamal::Hamal;
use hamal_fault_injection::model::Contents;
use hamal_fault_injection::op::Op;
use hamal_fault_injection::oracles::Oracle;
use hamal_fault_injection::workload::Workload;
use std::sync::Arc;
use std::time::Duration;

/// hamal, but after an unclean end its rows are not shown if they are [`LONG`], or if [`KEY`] is among them. One row less shows nothing, so
/// leaving out operations leads nowhere.
struct Shy;

/// So many rows show the bug.
const LONG: usize = 12;

/// This key shows it too.
const KEY: u32 = 77;

struct ShySession {
    inner: Box<dyn Session>,
    hides: bool,
}

impl Engine for Shy {
    fn name(&self) -> &str {
        "shy"
    }
    fn create(&self, disk: Arc<dyn Disk>, config: &Config) -> Result<Box<dyn Session>, Failure> {
        Ok(Box::new(ShySession { inner: Hamal::new().create(disk, config)?, hides: false }))
    }
    fn open(&self, disk: Arc<dyn Disk>, config: &Config) -> Result<Box<dyn Session>, Failure> {
        let inner = Hamal::new().open(disk, config)?;
        let hides = !inner.opened().clean;
        Ok(Box::new(ShySession { inner, hides }))
    }
}

impl Session for ShySession {
    fn apply(&mut self, op: &Op) -> Result<Applied, Failure> {
        self.inner.apply(op)
    }
    fn contents(&mut self) -> Result<Contents, Failure> {
        let mut contents = self.inner.contents()?;
        let rows = || contents.trees.values();
        let bad = hamal_fault_injection::op::key_bytes(KEY);
        let shows = rows().any(|rows| rows.len() == LONG || rows.contains_key(&bad));
        if self.hides && shows {
            contents.trees.values_mut().for_each(|rows| rows.clear());
        }
        Ok(contents)
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

/// [`LONG`] rows, each in a transaction of its own, or, where a short scenario is asked for, one: that of [`KEY`].
struct Rows {
    in_turn: bool,
}

impl Workload for Rows {
    fn name(&self) -> &str {
        "rows"
    }
    fn config(&self, _: u64) -> Config {
        Config::default()
    }
    fn operations(&self, seed: u64, length: usize) -> Vec<Op> {
        let mut ops = vec!["begin 1".to_string(), "create 1 0".into(), "commit 1".into()];
        let keys = if length < 8 { KEY..KEY + 1 } else { 0..LONG as u32 };
        for key in keys {
            ops.extend(["begin 1".into(), format!("put 1 0 {key} 30 {}", seed % 7), "commit 1".into()]);
        }
        ops.iter().map(|op| op.parse().unwrap()).collect()
    }
    fn in_turn(&self) -> bool {
        self.in_turn
    }
}

fn made_small(in_turn: bool) -> Case {
    let kits = [Kit { engine: Arc::new(Shy), workload: Arc::new(Rows { in_turn }) }];
    let plan = Plan { shrink: Duration::from_secs(10), scenarios: Some(4), ..Plan::new(1) };
    let report = campaign(&kits, &plan, &Live::default());
    let found = report.found.first().expect("it is found");
    assert_eq!(found.violation.oracle, Oracle::Acknowledged, "{}", found.violation.text);
    let (_, again) = replay(&kits, &found.case, true).unwrap();
    assert_eq!(again.expect("it is there again").violation.oracle, Oracle::Acknowledged);
    found.case.clone()
}

#[test]
fn what_stays_large_is_found_in_a_short_scenario() {
    let case = made_small(false);
    assert!(case.is_small(), "{case}");
    assert!(case.says.last().unwrap().starts_with("It was first seen in 39 operations of `rows`"), "{case}");
}

#[test]
fn of_a_workload_that_draws_nothing_it_stays_large() {
    let case = made_small(true);
    assert!(case.ops.len() > LONG && !case.is_small(), "{case}");
}
