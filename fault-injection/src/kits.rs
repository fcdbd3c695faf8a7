//! The engines and workloads that come with the harness, by name.
use crate::campaign::Kit;
use crate::engines::{hamal::Hamal, pages::Pages};
use crate::explore::coverage::Listener;
use crate::workloads::{BTree, Bank, Counters, Situations, Small};
use std::sync::Arc;

/// Names of the workloads of [`kits`].
pub const WORKLOADS: [&str; 4] = ["btree", "bank", "counters", "situations"];

/// The kit of these situations.
pub fn situations_kit(situations: Situations) -> Kit {
    Kit { engine: Arc::new(Hamal::new().with_tracer(Arc::new(Listener))), workload: Arc::new(situations) }
}

/// The kit that the harness's speed is measured with.
pub fn small_kit() -> Kit {
    Kit { engine: Arc::new(Hamal::new().with_tracer(Arc::new(Listener))), workload: Arc::new(Small) }
}

/// The kits of these workloads; unknown names are left out.
pub fn kits(names: &[&str]) -> Vec<Kit> {
    let one = |name: &&str| {
        Some(match *name {
            "btree" => Kit {
                engine: Arc::new(Hamal::new().with_tracer(Arc::new(Listener))),
                workload: Arc::new(BTree),
            },
            "bank" => Kit {
                engine: Arc::new(Hamal::new().with_tracer(Arc::new(Listener))),
                workload: Arc::new(Bank),
            },
            "counters" => Kit {
                engine: Arc::new(Pages::new().with_tracer(Arc::new(Listener))),
                workload: Arc::new(Counters),
            },
            "situations" => situations_kit(Situations::default()),
            _ => return None,
        })
    };
    names.iter().filter_map(one).collect()
}
