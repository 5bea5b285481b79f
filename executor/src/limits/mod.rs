//! What one step may use of the machine, and what it used: control groups, a clock, an eye on the disk.
//!
//! In: [`StepLimits`], the same for all steps of a build. Out: for every step a control group of its own where one can
//! be had, the figures that it leaves, and the reason when a limit ended the step. Deliberately absent: rlimits (the
//! sandbox's), how many steps run at once (the solver's).
//!
//! ```text
//!  StepLimits ─► settings: which file gets which text ─┐
//!  /proc/self/{mountinfo,cgroup} ─► machine ─► place ──┴─► group: made, entered by the step, removed
//!                                                              └─► figures: what was used, what was hit
//!  watch: timeout, bytes written, room on the disk ─► the step is killed, with the reason
//! ```
//!
//! Both versions of control groups are spoken, also side by side. With no limit asked for, nothing of this is needed:
//! a group is made where that changes nothing else on the machine, for figures and for killing, and none otherwise. A
//! limit that the machine cannot give fails before the first step, with what is missing. Groups have names of our own
//! (`rbuild-…`) and are locked by their builder: those of a dead one are removed by the next ([`sweep`]).
//!
//! Reading order: [`crate::machine`], [`settings`] and [`place`] (pure), [`group`], [`figures`], [`watch`], [`run`].

mod error;
mod figures;
mod group;
mod measure;
mod place;
mod run;
mod settings;
mod sweep;
mod tree;
mod watch;

use std::time::Duration;

pub use error::{Hit, LimitError};
pub use group::{Group, Groups};
pub(crate) use run::{Limited, Outcome};

/// What every step may use. Nothing in here is in a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepLimits {
    /// Memory of all processes and of the files that they hold in it.
    pub memory_bytes: Option<u64>,
    /// Memory and swap together.
    pub swap: Swap,
    /// Processor time.
    pub cpu: Option<CpuQuota>,
    /// Weight against others when processors are short: 2 to 262144, 1024 being usual.
    pub cpu_shares: Option<u64>,
    /// Processors, as `0-3,7`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes, likewise.
    pub cpuset_mems: Option<String>,
    /// Processes and threads.
    pub pids: Pids,
    /// How long a step may take.
    pub timeout: Option<Duration>,
    /// How much a step may write into its layers.
    pub disk_bytes: Option<u64>,
    /// How much of the store's disk stays free.
    pub min_free: Room,
    /// Where groups are made: absolute beneath the hierarchy's root, relative beneath the builder's own group, or the
    /// name of a slice.
    pub cgroup_parent: Option<String>,
}

/// Memory and swap together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Swap {
    /// Twice the memory, as docker has it, where swap can be limited.
    #[default]
    Usual,
    /// As much as there is.
    Unlimited,
    /// So many bytes, not less than the memory.
    Total(u64),
}

/// Processor time: `quota_us` in every `period_us`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuQuota {
    /// Microseconds of processor time; `None` is no limit.
    pub quota_us: Option<u64>,
    /// In so many microseconds.
    pub period_us: u64,
}

/// How many processes and threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pids {
    /// [`PIDS_USUAL`], where a group with that controller can be had for nothing.
    #[default]
    Usual,
    /// As many as the machine has.
    Unlimited,
    /// So many.
    Max(u64),
}

/// More than any compiler farm on one machine starts, half of what machines with the old number of processes have.
pub const PIDS_USUAL: u64 = 16_384;

/// Free room on a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Room {
    /// A hundredth of the disk, 256 MiB at most.
    #[default]
    Usual,
    /// So many bytes; 0 is none.
    Bytes(u64),
    /// So many hundredths of the disk.
    Percent(u64),
}

impl Room {
    const USUAL_MAX_BYTES: u64 = 256 << 20;

    /// In bytes, on a disk of so many bytes.
    pub fn bytes(self, disk_bytes: u64) -> u64 {
        match self {
            Self::Usual => (disk_bytes / 100).min(Self::USUAL_MAX_BYTES),
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => disk_bytes / 100 * percent,
        }
    }
}

/// Bytes as they are said of memory: in binary units, `512 MiB`.
fn shown(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let Some((unit, factor)) = UNITS.iter().find(|(_, factor)| bytes >= *factor) else {
        return format!("{bytes} bytes");
    };
    let tenths = u128::from(bytes) * 10 / u128::from(*factor);
    match tenths % 10 {
        0 => format!("{} {unit}", tenths / 10),
        tenth => format!("{}.{tenth} {unit}", tenths / 10),
    }
}

#[cfg(test)]
mod tests {
    use super::{Room, shown};

    #[test]
    fn memory_is_said_in_binary_units() {
        let check = |bytes: u64, expected: &str| assert_eq!(shown(bytes), expected);
        check(0, "0 bytes");
        check(1023, "1023 bytes");
        check(6 << 20, "6 MiB");
        check(512 << 20, "512 MiB");
        check(3 << 29, "1.5 GiB");
        check((1 << 30) - 1, "1023.9 MiB");
        check(u64::MAX, "17179869183.9 GiB");
    }

    #[test]
    fn the_usual_floor_is_small_on_small_disks() {
        assert_eq!(Room::Usual.bytes(32 << 20), (32 << 20) / 100);
        assert_eq!(Room::Usual.bytes(1 << 40), 256 << 20);
        assert_eq!((Room::Percent(5).bytes(1000), Room::Bytes(7).bytes(1000)), (50, 7));
    }
}
