//! What a group tells of its processes: what they used, and which limits they ran into.
//!
//! In: the texts of a group's files. Out: [`Figures`]. What a file does not say stays unknown.

use std::time::Duration;

use crate::machine::Version;

/// What the processes of a group used and met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Processor time in programs and in the kernel.
    pub times: Option<(Duration, Duration)>,
    /// The most memory that they had at once, with the files that they held in it.
    pub memory_peak_bytes: Option<u64>,
    /// Processes that were killed for lack of memory.
    pub killed: u64,
    /// Processes that could not be made.
    pub refused: u64,
}

impl Figures {
    /// Adds what a group of `version` tells; `text` gives its files, where they are.
    pub fn add(&mut self, version: Version, text: impl Fn(&str) -> Option<String>) {
        let number = |name: &str| text(name)?.trim().parse::<u64>().ok();
        let field = |name: &str, key: &str| value(&text(name)?, key);
        self.refused += field("pids.events", "max").unwrap_or(0);
        match version {
            Version::Two => {
                let micros = |key| field("cpu.stat", key).map(Duration::from_micros);
                self.times = self.times.or(micros("user_usec").zip(micros("system_usec")));
                self.memory_peak_bytes = self.memory_peak_bytes.or(number("memory.peak"));
                self.killed += field("memory.events", "oom_kill").unwrap_or(0);
            }
            Version::One => {
                let nanos = |name| number(name).map(Duration::from_nanos);
                // Linux 4.7; before, and where it is not compiled in, in hundredths of a second.
                let ticks = |key| field("cpuacct.stat", key).map(|ticks| Duration::from_millis(ticks * 10));
                let exact = nanos("cpuacct.usage_user").zip(nanos("cpuacct.usage_sys"));
                self.times = self.times.or(exact).or_else(|| ticks("user").zip(ticks("system")));
                self.memory_peak_bytes = self.memory_peak_bytes.or(number("memory.max_usage_in_bytes"));
                self.killed += field("memory.oom_control", "oom_kill").unwrap_or(0);
            }
        }
    }
}

/// The number behind `key` in a text of `key number` lines.
fn value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(version: Version, files: &[(&str, &str)], expected: Figures) {
        let mut figures = Figures::default();
        let text = |name: &str| files.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned());
        figures.add(version, text);
        assert_eq!(figures, expected, "{files:?}");
    }

    #[test]
    fn both_versions_tell_what_was_used_and_met() {
        let times = Some((Duration::from_millis(30), Duration::from_millis(20)));
        let all = Figures { times, memory_peak_bytes: Some(4096), killed: 2, refused: 7 };
        let two = [
            ("cpu.stat", "usage_usec 50000\nuser_usec 30000\nsystem_usec 20000\nnr_periods 0\n"),
            ("memory.peak", "4096\n"),
            ("memory.events", "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 0\n"),
            ("pids.events", "max 7\n"),
        ];
        check(Version::Two, &two, all);
        let one = [
            ("cpuacct.usage_user", "30000000\n"),
            ("cpuacct.usage_sys", "20000000\n"),
            ("cpuacct.stat", "user 9\nsystem 9\n"),
            ("memory.max_usage_in_bytes", "4096\n"),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
            ("pids.events", "max 7\n"),
        ];
        check(Version::One, &one, all);
        let old = [("cpuacct.stat", "user 3\nsystem 2\n")];
        check(Version::One, &old, Figures { times, ..Figures::default() });
        check(Version::Two, &[], Figures::default());
        let odd =
            [("memory.peak", "max\n"), ("memory.events", "oom_kill x\noom_killer 3\n"), ("cpu.stat", "user_usec 1\n")];
        check(Version::Two, &odd, Figures::default());
    }
}
