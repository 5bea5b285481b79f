//! Why a limit cannot be had, and which one ended a step.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::settings::Controller;
use super::shown;

/// Why a limit cannot be had. Nothing of the step ran.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// There are no control groups.
    #[error("`{flag}` needs control groups, and none are mounted here")]
    NoGroups {
        /// What asks for them.
        flag: &'static str,
    },
    /// The kernel, or whoever set up this machine, does not give this controller.
    #[error("`{flag}` needs the control group controller `{controller}`, and {found}")]
    NoController {
        /// What asks for it.
        flag: &'static str,
        /// Which.
        controller: Controller,
        /// What there is instead.
        found: String,
    },
    /// There is no place for groups.
    #[error("`{flag}` needs a control group for each step, and none can be made: {reason}")]
    NoPlace {
        /// What asks for it.
        flag: &'static str,
        /// Why not.
        reason: String,
    },
    /// The parent that was asked for is none.
    #[error("`--cgroup-parent={parent}` names no control group: {reason}")]
    Parent {
        /// As it was given.
        parent: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The kernel refused a value.
    #[error("`{flag}`: the kernel does not take `{text}` for `{}`", path.display())]
    Setting {
        /// What asks for it.
        flag: &'static str,
        /// The value.
        text: String,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file or directory of a control group.
    #[error("could not {act} `{}`", path.display())]
    Io {
        /// What was tried.
        act: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The disk is as full as it may be.
    #[error("no space left for steps: {} are free on the disk of `{}`, and {} stay free", shown(*free_bytes), path.display(), shown(*floor_bytes))]
    Room {
        /// Free.
        free_bytes: u64,
        /// Not to be used.
        floor_bytes: u64,
        /// The store.
        path: PathBuf,
    },
}

impl LimitError {
    /// What to do about it.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::NoGroups { flag } => Some(format!(
                "mount them (`mount -t cgroup2 none /sys/fs/cgroup`), or leave out `{flag}`; in a container, the runtime does it"
            )),
            Self::NoController { flag, .. } | Self::NoPlace { flag, .. } => Some(format!(
                "give rbuild a group of its own: `systemd-run --scope -p Delegate=yes rbuild …` (`systemd-run --user …` as an \
                 ordinary user), or name one that passes controllers on with `--cgroup-parent`; or leave out `{flag}`"
            )),
            Self::Parent { .. } => Some(
                "give a path beneath the root of control groups (`/build`), one beneath rbuild's own group (`build`), or a slice \
                 (`build.slice`)"
                    .into(),
            ),
            Self::Room { .. } => Some(
                "`rbuild prune` makes room; how much stays free is `min_free` of `[limits]` in config.toml".into(),
            ),
            Self::Setting { .. } | Self::Io { .. } => None,
        }
    }
}

/// A limit that a step ran into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hit {
    /// Memory: the kernel killed processes of it.
    Memory {
        /// The limit; `None`: that of the machine, or of a group around the builder.
        limit_bytes: Option<u64>,
        /// The most that it had, when that is known.
        peak_bytes: Option<u64>,
        /// How many processes were killed.
        killed: u64,
    },
    /// Processes: the kernel refused to make more.
    Pids {
        /// The limit, when it is ours.
        limit: Option<u64>,
    },
    /// Time.
    Time {
        /// The limit.
        limit: Duration,
    },
    /// What it wrote.
    Disk {
        /// The limit.
        limit_bytes: u64,
        /// What it had written when that was seen.
        written_bytes: u64,
    },
    /// Free room on the store's disk.
    Room {
        /// What was left.
        free_bytes: u64,
        /// What is to stay free.
        floor_bytes: u64,
    },
}

impl fmt::Display for Hit {
    /// What happened to the step.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory { limit_bytes, peak_bytes, killed } => {
                f.write_str("ran out of memory: ")?;
                match limit_bytes {
                    Some(limit) => write!(f, "the limit is {}", shown(*limit))?,
                    None => f.write_str("the machine, or the group that rbuild runs in, had no more")?,
                }
                let peak = peak_bytes.map(|peak| format!("; its peak was {}", shown(peak))).unwrap_or_default();
                let processes = if *killed == 1 { "process" } else { "processes" };
                write!(f, "{peak}; the kernel killed {killed} {processes}")
            }
            Self::Pids { limit: Some(limit) } => {
                write!(f, "needed more processes and threads than the limit of {limit}")
            }
            Self::Pids { limit: None } => f.write_str("needed more processes and threads than it may have"),
            Self::Time { limit } => write!(f, "was stopped: it took longer than the limit of {}", time(*limit)),
            Self::Disk { limit_bytes, written_bytes } => {
                let (limit, written) = (shown(*limit_bytes), shown(*written_bytes));
                write!(f, "was stopped: it had written {written}, and the limit is {limit}")
            }
            Self::Room { free_bytes, floor_bytes } => {
                let (free, floor) = (shown(*free_bytes), shown(*floor_bytes));
                write!(f, "was stopped: no space left on the disk of the store but {free}, and {floor} stay free")
            }
        }
    }
}

impl Hit {
    /// What to do about it.
    pub fn help(&self) -> String {
        let raise = |flag: &str| format!("raise it with `{flag}`, or in `[limits]` of config.toml");
        match self {
            Self::Memory { limit_bytes: Some(_), .. } => raise("--memory"),
            Self::Memory { limit_bytes: None, .. } => {
                "run fewer steps at once (`--jobs`), or let the step do less at once (`make -j`)".into()
            }
            Self::Pids { .. } => raise("--pids-limit"),
            Self::Time { .. } => raise("--timeout"),
            Self::Disk { .. } => raise("--disk-limit"),
            Self::Room { .. } => {
                "`rbuild prune` makes room; how much stays free is `min_free` of `[limits]` in config.toml".into()
            }
        }
    }
}

fn time(time: Duration) -> String {
    match (time.as_secs(), time.subsec_millis()) {
        (seconds, 0) if seconds >= 60 && seconds % 60 == 0 => format!("{} minutes", seconds / 60),
        (seconds, 0) => format!("{seconds} s"),
        _ => format!("{} ms", time.as_millis()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_hit_is_said_with_its_limit() {
        let check = |hit: Hit, expected: &str| assert_eq!(hit.to_string(), expected);
        let memory = |limit_bytes, peak_bytes, killed| Hit::Memory { limit_bytes, peak_bytes, killed };
        check(
            memory(Some(512 << 20), Some(512 << 20), 1),
            "ran out of memory: the limit is 512 MiB; its peak was 512 MiB; the kernel killed 1 process",
        );
        check(
            memory(None, None, 3),
            "ran out of memory: the machine, or the group that rbuild runs in, had no more; the kernel killed 3 processes",
        );
        check(Hit::Pids { limit: Some(64) }, "needed more processes and threads than the limit of 64");
        let timed = |seconds| Hit::Time { limit: Duration::from_secs(seconds) };
        check(timed(90), "was stopped: it took longer than the limit of 90 s");
        check(timed(600), "was stopped: it took longer than the limit of 10 minutes");
        let disk = Hit::Disk { limit_bytes: 10 << 20, written_bytes: 12 << 20 };
        check(disk, "was stopped: it had written 12 MiB, and the limit is 10 MiB");
        let room = Hit::Room { free_bytes: 1 << 20, floor_bytes: 256 << 20 };
        check(room, "was stopped: no space left on the disk of the store but 1 MiB, and 256 MiB stay free");
    }
}
