//! Which controllers the limits need, and which file of a group gets which text. Pure.
//!
//! In: [`StepLimits`]. Out: [`Setting`]s, in the order in which they are written. Kernel documentation: cgroup-v2.rst;
//! cgroup-v1/memory.rst, cgroup-v1/cpusets.rst, scheduler/sched-bwc.rst, cgroup-v1/pids.rst.

use std::fmt;

use super::{PIDS_USUAL, Pids, StepLimits, Swap};
use crate::machine::Version;

/// What of the kernel limits or counts something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Controller {
    /// Memory.
    Memory,
    /// Processor time.
    Cpu,
    /// Counts processor time; in version 2 every group does.
    CpuAcct,
    /// Processes.
    Pids,
    /// Processors and memory nodes.
    CpuSet,
}

impl Controller {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Memory, Self::Cpu, Self::CpuAcct, Self::Pids, Self::CpuSet];

    /// As the kernel calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::CpuAcct => "cpuacct",
            Self::Pids => "pids",
            Self::CpuSet => "cpuset",
        }
    }

    /// The one of that name, if it is one of ours.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|controller| controller.name() == name)
    }
}

impl fmt::Display for Controller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One text in one file of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Whose file.
    pub controller: Controller,
    /// Its name.
    pub file: &'static str,
    /// What is written.
    pub text: String,
    /// Who asked for it.
    pub flag: &'static str,
    /// Whether the step may not run without it.
    pub required: bool,
}

/// The flags that need a controller, and which.
pub fn needed(limits: &StepLimits) -> Vec<(Controller, &'static str)> {
    let mut needed: Vec<(Controller, &'static str)> = Vec::new();
    for setting in settings(limits, Version::Two).into_iter().filter(|setting| setting.required) {
        if !needed.iter().any(|(controller, _)| *controller == setting.controller) {
            needed.push((setting.controller, setting.flag));
        }
    }
    needed
}

/// What is written into a group's files.
pub fn settings(limits: &StepLimits, version: Version) -> Vec<Setting> {
    let mut list = Vec::new();
    let mut add = |controller, flag, one: &'static str, two: &'static str, text: (String, String), required| {
        let (file, text) = match version {
            Version::One => (one, text.0),
            Version::Two => (two, text.1),
        };
        if !file.is_empty() {
            list.push(Setting { controller, file, text, flag, required });
        }
    };
    let same = |text: &dyn ToString| (text.to_string(), text.to_string());
    if let Some(memory) = limits.memory_bytes {
        add(Controller::Memory, "--memory", "memory.limit_in_bytes", "memory.max", same(&memory), true);
        let swap = match limits.swap {
            Swap::Usual => (memory.saturating_mul(2).to_string(), memory.to_string()),
            Swap::Unlimited => ("-1".into(), "max".into()),
            Swap::Total(total) => same_swap(memory, total),
        };
        let asked = limits.swap != Swap::Usual;
        add(Controller::Memory, "--memory-swap", "memory.memsw.limit_in_bytes", "memory.swap.max", swap, asked);
    }
    if let Some(cpu) = limits.cpu {
        let period = (cpu.period_us.to_string(), String::new());
        add(Controller::Cpu, "--cpus", "cpu.cfs_period_us", "", period, true);
        let quota = cpu.quota_us.map_or(("-1".to_owned(), "max".to_owned()), |quota| same(&quota));
        let text = (quota.0, format!("{} {}", quota.1, cpu.period_us));
        add(Controller::Cpu, "--cpus", "cpu.cfs_quota_us", "cpu.max", text, true);
    }
    if let Some(shares) = limits.cpu_shares {
        let text = (shares.to_string(), weight(shares).to_string());
        add(Controller::Cpu, "--cpu-shares", "cpu.shares", "cpu.weight", text, true);
    }
    if let Some(cpus) = &limits.cpuset_cpus {
        add(Controller::CpuSet, "--cpuset-cpus", "cpuset.cpus", "cpuset.cpus", same(cpus), true);
    }
    if let Some(mems) = &limits.cpuset_mems {
        add(Controller::CpuSet, "--cpuset-mems", "cpuset.mems", "cpuset.mems", same(mems), true);
    }
    match limits.pids {
        Pids::Usual => add(Controller::Pids, "--pids-limit", "pids.max", "pids.max", same(&PIDS_USUAL), false),
        Pids::Unlimited => {}
        Pids::Max(max) => add(Controller::Pids, "--pids-limit", "pids.max", "pids.max", same(&max), true),
    }
    list
}

/// Version 1 counts memory and swap together, version 2 swap alone.
fn same_swap(memory: u64, total: u64) -> (String, String) {
    (total.to_string(), total.saturating_sub(memory).to_string())
}

/// Shares from 2 to 262144 as weights from 1 to 10000, as every runtime does it.
fn weight(shares: u64) -> u64 {
    let shares = shares.clamp(2, 262_144);
    1 + (shares - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::super::CpuQuota;
    use super::*;

    fn check(limits: StepLimits, one: &[&str], two: &[&str], required: &[&str]) {
        let shown = |version| -> Vec<String> {
            let list = settings(&limits, version);
            list.iter().map(|setting| format!("{}={}", setting.file, setting.text)).collect()
        };
        assert_eq!(shown(Version::One), one, "version 1 of {limits:?}");
        assert_eq!(shown(Version::Two), two, "version 2 of {limits:?}");
        let needs: Vec<_> = needed(&limits).iter().map(|(controller, _)| controller.name()).collect();
        assert_eq!(needs, required, "{limits:?}");
    }

    fn quiet() -> StepLimits {
        StepLimits { pids: Pids::Unlimited, ..StepLimits::default() }
    }

    #[test]
    fn every_limit_has_its_files_in_both_versions() {
        check(StepLimits::default(), &["pids.max=16384"], &["pids.max=16384"], &[]);
        check(quiet(), &[], &[], &[]);
        let pids = StepLimits { pids: Pids::Max(64), ..quiet() };
        check(pids, &["pids.max=64"], &["pids.max=64"], &["pids"]);
        let memory = |swap| StepLimits { memory_bytes: Some(100), swap, ..quiet() };
        let one =
            |total: &str| [String::from("memory.limit_in_bytes=100"), format!("memory.memsw.limit_in_bytes={total}")];
        let two = |swap: &str| [String::from("memory.max=100"), format!("memory.swap.max={swap}")];
        let both = |swap, first: &str, second: &str| {
            let (one, two) = (one(first), two(second));
            let (one, two) = (one.each_ref().map(String::as_str), two.each_ref().map(String::as_str));
            check(memory(swap), &one, &two, &["memory"]);
        };
        both(Swap::Usual, "200", "100");
        both(Swap::Unlimited, "-1", "max");
        both(Swap::Total(100), "100", "0");
        both(Swap::Total(150), "150", "50");
        let cpu = |quota_us| StepLimits { cpu: Some(CpuQuota { quota_us, period_us: 50_000 }), ..quiet() };
        let half = ["cpu.cfs_period_us=50000", "cpu.cfs_quota_us=25000"];
        check(cpu(Some(25_000)), &half, &["cpu.max=25000 50000"], &["cpu"]);
        check(cpu(None), &["cpu.cfs_period_us=50000", "cpu.cfs_quota_us=-1"], &["cpu.max=max 50000"], &["cpu"]);
        let shares = |shares| StepLimits { cpu_shares: Some(shares), ..quiet() };
        check(shares(2), &["cpu.shares=2"], &["cpu.weight=1"], &["cpu"]);
        check(shares(1024), &["cpu.shares=1024"], &["cpu.weight=39"], &["cpu"]);
        check(shares(262_144), &["cpu.shares=262144"], &["cpu.weight=10000"], &["cpu"]);
        let set = StepLimits { cpuset_cpus: Some("0-1".into()), cpuset_mems: Some("0".into()), ..quiet() };
        let files = ["cpuset.cpus=0-1", "cpuset.mems=0"];
        check(set, &files, &files, &["cpuset"]);
    }
}
