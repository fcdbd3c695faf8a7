//! `real_layers LAYER...|all [--seconds S] [--cases N] [--seed X]`: works through real layers and prints what they did. The
//! code is 1 if anything was violated.
use hamal_fault_injection::real::{Budget, Layer, run};
use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::process::ExitCode;
use std::time::{Duration, Instant};

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Ok((layers, budget)) => work(&layers, &budget),
        Err(what) => {
            eprintln!("{what}\nusage: real_layers LAYER...|all [--seconds S] [--cases N] [--seed X]");
            eprintln!("layers: {}", Layer::ALL.map(Layer::name).join(" "));
            2.into()
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<(Vec<Layer>, Budget), String> {
    let (mut layers, mut budget) = (Vec::new(), Budget::seconds(10));
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|n| n.parse().ok()).ok_or(format!("{arg} wants a number"));
        match arg.as_str() {
            "all" => layers.extend(Layer::ALL),
            "--seconds" => budget.time = Duration::from_secs(number()?),
            "--cases" => budget.cases = number()?,
            "--seed" => budget.seed = number()?,
            name => layers.push(name.parse()?),
        }
    }
    if layers.is_empty() { Err("no layer".to_owned()) } else { Ok((layers, budget)) }
}

fn work(layers: &[Layer], budget: &Budget) -> ExitCode {
    let live = std::io::stderr().is_terminal();
    let mut code = 0;
    for layer in layers {
        let mut told = Instant::now();
        let report = run(*layer, budget, &mut |p| {
            if live && told.elapsed() > Duration::from_millis(200) {
                told = Instant::now();
                let seconds = p.elapsed.as_secs();
                eprint!(
                    "\r\x1b[K{}: {} cases, {} violations, {seconds} s, {:.60}",
                    p.layer, p.cases, p.violations, p.next
                );
                let _ = std::io::stderr().flush();
            }
            ControlFlow::Continue(())
        });
        if live {
            eprint!("\r\x1b[K");
        }
        println!("{report}");
        code |= u8::from(!report.violations.is_empty());
    }
    code.into()
}
