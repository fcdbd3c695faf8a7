//! The process that is killed: see `hamal_fault_injection::real::child`.
fn main() -> std::process::ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    hamal_fault_injection::real::child::main(&args).into()
}
