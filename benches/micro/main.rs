//! `cargo bench -p rbuild-micro`: the hot paths on the clock; words behind `--` choose cases by parts of their names.
//!
//! `-- --instructions` counts their instructions instead and compares them with `benches/instructions.txt`; with
//! `--update` it writes that file. `make instructions` and `make instructions-update` do so with the profile `counted`,
//! which the baseline was made with.

use std::process::ExitCode;

use rbuild_micro::cases::CASES;
use rbuild_micro::{clock, instructions};

fn main() -> ExitCode {
    executor::sandbox::init_if_asked();
    // Cargo gives `--bench` to every bench.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [flag, name] = &arguments[..]
        && flag == instructions::ONE
    {
        instructions::one(name);
        return ExitCode::SUCCESS;
    }
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    let wanted: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|part| name.contains(part.as_str()));
    let chosen = CASES.iter().filter(|case| is_wanted(case.name));
    if !has("--instructions") {
        clock::measure(chosen);
        return ExitCode::SUCCESS;
    }
    let chosen: Vec<_> = chosen.filter(|case| case.is_counted).collect();
    match instructions::compare(&chosen, has("--update")) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: instructions cannot be counted: {error}");
            ExitCode::FAILURE
        }
    }
}
