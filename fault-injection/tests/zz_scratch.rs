mod common;
use common::*;
use hamal_fault_injection::engines::Hamal;
use hamal_fault_injection::explore::{Search, Crash, check::Oracles};
#[test]
fn scratch() {
    for model in MODELS {
        let t = std::time::Instant::now();
        let mut all = hamal_fault_injection::explore::Tally::default();
        for n in hand_written().iter().chain(&generated(0..3)) {
            let (tally, f) = hunt(&Hamal::new(), model, n, Search::quick(model, 1), Oracles::ALL);
            all.add(&tally);
            if let Some(f) = f { println!("{model} {}: {:?}", n.name, f.violation); }
        }
        println!("hamal {model} {} {} {:?}", all.cases, all.exhausted(), t.elapsed());
    }
    println!("{:?}", "crash root sync-dir 1 keep".parse::<Crash>());
}
