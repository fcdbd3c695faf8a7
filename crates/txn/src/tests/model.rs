//! Random histories of one transaction after another against a model.
use super::bench::*;
use crate::*;
use proptest::prelude::*;
use std::sync::Arc;

#[derive(Clone, Debug)]
enum Step {
    Set(u64, u64, u64),
    /// All cells of a page from this one on, by one record.
    Many(u64, u64, u64),
    Savepoint,
    RollbackTo(usize),
    Nested(Vec<(u64, u64, u64)>, bool),
    Collect,
    Flush,
}

fn cell_value() -> impl Strategy<Value = (u64, u64, u64)> {
    (0..3u64, 0..5u64, 1..1000u64)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => cell_value().prop_map(|(p, n, v)| Step::Set(p, n, v)),
        3 => cell_value().prop_map(|(p, n, v)| Step::Many(p, n, v)),
        2 => Just(Step::Savepoint),
        2 => (0..8usize).prop_map(Step::RollbackTo),
        1 => (proptest::collection::vec(cell_value(), 0..4), any::<bool>())
            .prop_map(|(c, ok)| Step::Nested(c, ok)),
        1 => Just(Step::Collect),
        1 => Just(Step::Flush),
    ]
}

type Model = [[u64; 5]; 3];

/// What a rollback to an earlier state leaves: that state, and what nested top actions have done since.
struct Saved {
    point: Option<Savepoint>,
    model: Model,
}

fn check(b: &Bench, t: &Arc<Txn>, model: &Model) {
    for p in 0..3 {
        for n in 0..5 {
            assert_eq!(b.get(&t.view(), p, n), Some(model[p as usize][n as usize]));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn savepoints_and_nested_actions_match_the_model(
        txns in proptest::collection::vec((proptest::collection::vec(step(), 1..25), any::<bool>()), 1..6)
    ) {
        let b = Bench::new();
        let mut model: Model = Default::default();
        for (steps, commit) in txns {
            let t = b.begin();
            let reader = b.m.snapshot_after(t.snapshot()).unwrap();
            let seen = model;
            let mut saved = vec![Saved { point: None, model }];
            for s in steps {
                match s {
                    Step::Set(p, n, v) => {
                        b.set(&t, p, n, v).unwrap();
                        model[p as usize][n as usize] = v;
                    }
                    Step::Many(p, from, v) => {
                        let cells: Vec<(u64, u64)> = (from..5).map(|n| (n, v + n)).collect();
                        b.set_many(&t, p, &cells).unwrap();
                        cells.iter().for_each(|(n, v)| model[p as usize][*n as usize] = *v);
                    }
                    Step::Savepoint => saved.push(Saved { point: Some(b.m.savepoint(&t)), model }),
                    Step::RollbackTo(i) if i < saved.len() && i > 0 => {
                        saved.truncate(i + 1);
                        b.m.rollback_to(&t, &saved[i].point.unwrap()).unwrap();
                        model = saved[i].model;
                    }
                    Step::RollbackTo(_) => {}
                    Step::Nested(cells, true) => {
                        // Cells of its own, so that what stays is not overwritten by undo of what surrounds
                        // it.
                        b.m.nested_top_action(&t, || {
                            cells.iter().try_for_each(|(p, n, v)| b.set(&t, *p, n + 50, *v))
                        }).unwrap();
                    }
                    Step::Nested(cells, false) => {
                        let r = b.m.nested_top_action(&t, || {
                            cells.iter().try_for_each(|(p, n, v)| b.set(&t, *p, *n, *v))?;
                            Err::<(), _>(hamal_error::Error::internal("no"))
                        });
                        prop_assert_eq!(r.unwrap_err().kind(), hamal_error::ErrorKind::Internal);
                    }
                    Step::Collect => b.m.collect(),
                    Step::Flush => b.m.pool().flush_all(hamal_trace::WriteReason::Asked).unwrap(),
                }
                check(&b, &t, &model);
                for (p, row) in seen.iter().enumerate() {
                    for (n, v) in row.iter().enumerate() {
                        prop_assert_eq!(b.get(&reader.view(), p as u64, n as u64), Some(*v));
                    }
                }
            }
            if commit {
                b.commit(&t);
            } else {
                b.rollback(&t);
                model = saved[0].model;
            }
            drop(reader);
            let look = b.begin();
            check(&b, &look, &model);
            b.commit(&look);
        }
        b.m.log().force(b.m.log().tail(), hamal_trace::ForceReason::Asked).unwrap();
        b.m.collect();
        let s = b.m.stats();
        prop_assert_eq!((s.active, s.snapshots, s.statuses, s.versions, s.version_bytes), (0, 0, 0, 0, 0));
    }
}
