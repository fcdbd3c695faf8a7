//! The engines and workloads that come with the harness, by name.
use crate::campaign::Kit;
use crate::engines::{hamal::Hamal, pages::Pages};
use crate::explore::coverage::Listener;
use crate::workloads::{BTree, Bank, Counters};
use std::sync::Arc;

/// Names of the workloads of [`kits`].
pub const WORKLOADS: [&str; 3] = ["btree", "bank", "counters"];

/// The kits of these workloads; unknown names are left out.
pub fn kits(names: &[&str]) -> Vec<Kit> {
    let one = |name: &&str| {
        Some(match *name {
            "btree" => Kit {
                engine: Box::new(Hamal::new().with_tracer(Arc::new(Listener))),
                workload: Box::new(BTree),
            },
            "bank" => Kit {
                engine: Box::new(Hamal::new().with_tracer(Arc::new(Listener))),
                workload: Box::new(Bank),
            },
            "counters" => Kit {
                engine: Box::new(Pages::new().with_tracer(Arc::new(Listener))),
                workload: Box::new(Counters),
            },
            _ => return None,
        })
    };
    names.iter().filter_map(one).collect()
}
