//! Commands whose files may not grow without end, and whose memory is measured.

use std::process::{Command, Stdio};

use super::{Outcome, Store};

/// Runs `command` to its end with `stdin`; no file that it writes may be larger, or it is killed. The largest resident set that it and
/// its children had, in KiB.
#[track_caller]
pub fn bounded(store: &Store, command: &Command, stdin: Stdio, file_max_bytes: u64) -> (Outcome, u64) {
    let mut within = Command::new("/usr/bin/time");
    within.args(["-f", "peak %M", "prlimit", &format!("--fsize={file_max_bytes}")]);
    within.arg(command.get_program()).args(command.get_args()).env_clear();
    within
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .current_dir(store.path(""))
        .stdin(stdin);
    let outcome = Outcome::of(&mut within);
    let peak = outcome.stderr.lines().find_map(|line| line.strip_prefix("peak ")?.parse().ok());
    let peak = peak.unwrap_or_else(|| panic!("nothing was measured: {outcome}"));
    (outcome, peak)
}

/// What a store has on disk, as it says itself.
#[track_caller]
pub fn store_bytes(store: &Store) -> u64 {
    let used = store.rbuild(["du", "--format", "json"]).ok();
    let used: serde_json::Value = serde_json::from_str(&used.stdout).expect("it is JSON");
    used["total_bytes"].as_u64().expect("a number of bytes")
}
