//! What the hot paths cost, one by one: small fixed inputs, the same on every machine.
//!
//! `cargo bench --bench micro` prints the time of each on the clock; words behind `--` choose cases by parts of their
//! names. What is measured stands in [`cases`], how in [`clock`]; larger inputs and whole builds are the other benches'.

#[path = "micro/cases.rs"]
mod cases;
#[path = "micro/clock.rs"]
mod clock;
#[path = "micro/sandbox.rs"]
mod sandbox;

use cases::CASES;

fn main() {
    executor::sandbox::init_if_asked();
    // Cargo gives `--bench` to every bench.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    clock::measure(CASES.iter().filter(|case| is_wanted(case.name)));
}
