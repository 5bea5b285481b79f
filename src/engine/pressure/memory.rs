//! How memory stands, as the kernel says it to this process.
//!
//! ```text
//! <cgroup 2>/memory.pressure, else /proc/pressure/memory     how much of the time something waited for memory
//! <cgroup 2>/memory.{max,current,stat}                        the limit of each group from ours up to the top, and
//! <cgroup 1>/memory.{limit_in_bytes,usage_in_bytes,stat}      what is used of it beside what is given back when asked
//! /proc/meminfo                                               the machine's, where there are no pressures
//! ```
//! What is not there or cannot be understood is no reading; a limit that is no limit is none.

use std::path::{Path, PathBuf};

use executor::machine::{ControlGroups, Hierarchy, Version};

/// How memory stands now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Reading {
    /// In how much of the last ten seconds something waited for memory.
    pub(super) stalled_percent: Option<f64>,
    /// What can still be had, where there is a limit, or where pressures are not known.
    pub(super) free: Option<Free>,
}

/// Memory that can still be had, of so much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Free {
    pub(super) available: u64,
    pub(super) total: u64,
}

impl Free {
    pub(super) fn percent(&self) -> u64 {
        (u128::from(self.available) * 100 / u128::from(self.total.max(1))) as u64
    }
}

/// Knows where to read.
#[derive(Debug)]
pub(super) struct Meter {
    pressure: Option<PathBuf>,
    meminfo: PathBuf,
    /// Folders of control groups that may limit memory, with the names of their files.
    groups: Vec<(PathBuf, &'static Files)>,
}

/// What the files of a control group are called.
#[derive(Debug)]
struct Files {
    limit: &'static str,
    used: &'static str,
    /// In `memory.stat`: pages of files that nobody has used lately.
    given_back: &'static str,
}

const FIRST: Files =
    Files { limit: "memory.limit_in_bytes", used: "memory.usage_in_bytes", given_back: "total_inactive_file" };
const SECOND: Files = Files { limit: "memory.max", used: "memory.current", given_back: "inactive_file" };

/// What the files of its groups are called; `None` if they do not limit memory.
fn files_of(hierarchy: &Hierarchy) -> Option<&'static Files> {
    match hierarchy.version {
        Version::Two => Some(&SECOND),
        Version::One => hierarchy.has("memory").then_some(&FIRST),
    }
}

impl Meter {
    /// `None` where nothing can be read.
    pub(super) fn of_this_process() -> Option<Self> {
        Self::beneath(Path::new("/"))
    }

    /// As if `root` were the root directory.
    fn beneath(root: &Path) -> Option<Self> {
        let read = ControlGroups::beneath(root).unwrap_or_else(|(path, error)| {
            tracing::debug!(path = %path.display(), %error, "limits of memory are not known");
            ControlGroups::default()
        });
        let under = |path: PathBuf| root.join(path.strip_prefix("/").unwrap_or(&path));
        let groups = read.hierarchies.iter().filter_map(|one| Some((files_of(one)?, one)));
        let groups: Vec<_> =
            groups.flat_map(|(files, one)| one.own_and_above().map(move |dir| (under(dir), files))).collect();
        let is_second = |(_, files): &&(PathBuf, &'static Files)| files.limit == SECOND.limit;
        let own = groups.iter().find(is_second).map(|(folder, _)| folder.join("memory.pressure"));
        let pressures = own.into_iter().chain([root.join("proc/pressure/memory")]);
        let readable = |path: &PathBuf| std::fs::read_to_string(path).is_ok_and(|text| stalled(&text).is_some());
        let meter = Self { pressure: pressures.into_iter().find(readable), meminfo: root.join("proc/meminfo"), groups };
        let reading = meter.read();
        (reading.stalled_percent.is_some() || reading.free.is_some()).then_some(meter)
    }

    pub(super) fn read(&self) -> Reading {
        let text = |path: &Path| std::fs::read_to_string(path).ok();
        let stalled_percent = self.pressure.as_ref().and_then(|path| stalled(&text(path)?));
        let machine = text(&self.meminfo).and_then(|text| machine(&text));
        let limited = self.groups.iter().filter_map(|(folder, files)| {
            let read = |name: &str| text(&folder.join(name));
            group(files, &read(files.limit)?, &read(files.used)?, &read("memory.stat")?)
        });
        // A group may allow more than there is.
        let limited = limited.filter(|free| machine.is_none_or(|machine| free.total < machine.total));
        let machine = machine.filter(|_| stalled_percent.is_none());
        let free = limited.chain(machine).min_by_key(Free::percent);
        Reading { stalled_percent, free }
    }
}

/// `some avg10=1.50 avg60=…`: the percentage of the last ten seconds.
fn stalled(text: &str) -> Option<f64> {
    let some = text.lines().find(|line| line.starts_with("some "))?;
    some.split(' ').find_map(|field| field.strip_prefix("avg10="))?.parse().ok()
}

/// The machine's memory, of `/proc/meminfo`.
fn machine(text: &str) -> Option<Free> {
    let kib = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse().ok()
    };
    Some(Free { available: kib("MemAvailable")? << 10, total: kib("MemTotal")? << 10 })
}

/// What a control group may still have; `None` without a limit.
fn group(files: &Files, limit: &str, used: &str, stat: &str) -> Option<Free> {
    let total: u64 = limit.trim().parse().ok()?;
    let used: u64 = used.trim().parse().ok()?;
    let given_back = stat.lines().find_map(|line| line.strip_prefix(files.given_back)?.strip_prefix(' '));
    let given_back: u64 = given_back.and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
    Some(Free { available: total.saturating_sub(used.saturating_sub(given_back)), total })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressures_are_read_as_the_kernel_writes_them() {
        let cases = [
            ("some avg10=1.50 avg60=0.10 avg300=0.00 total=12\nfull avg10=9.00 avg60=0 avg300=0 total=1\n", Some(1.5)),
            ("full avg10=9.00 avg60=0.00 avg300=0.00 total=1\n", None),
            ("some avg60=0.00\n", None),
            ("some avg10=much\n", None),
            ("", None),
        ];
        for (text, expected) in cases {
            assert_eq!(stalled(text), expected, "{text}");
        }
    }

    /// What a process sees in a tree with these files.
    fn read(files: &[(&str, &str)]) -> Option<Reading> {
        let root = tempfile::tempdir().expect("a temporary directory");
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a file is in a directory")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        Meter::beneath(root.path()).map(|meter| meter.read())
    }

    /// A file beneath the root, and what it says.
    type Says = (&'static str, &'static str);

    const MEMINFO: Says = ("proc/meminfo", "MemTotal:  1000 kB\nMemFree:  1 kB\nMemAvailable:   250 kB\n");
    const PSI: Says = ("proc/pressure/memory", "some avg10=3.00 avg60=0.00 avg300=0.00 total=0\n");
    const SECOND_MOUNT: Says = ("proc/self/mountinfo", "1 2 0:3 / /cg rw - cgroup2 cgroup2 rw\n");
    const IN_JOB: Says = ("proc/self/cgroup", "0::/outer/job\n");

    #[test]
    fn the_closest_limit_counts() {
        let free = |available, total| Some(Free { available, total });
        let seen = |stalled_percent, free| Some(Reading { stalled_percent, free });
        let cases: [(&str, &[Says], Option<Reading>); 9] = [
            ("nothing", &[], None),
            ("the machine", &[MEMINFO], seen(None, free(250 << 10, 1000 << 10))),
            ("pressures", &[MEMINFO, PSI], seen(Some(3.0), None)),
            (
                "the group's own pressures",
                &[MEMINFO, PSI, SECOND_MOUNT, IN_JOB, ("cg/outer/job/memory.pressure", "some avg10=7.00 avg60=0\n")],
                seen(Some(7.0), None),
            ),
            (
                "a container that kept its outer path: the top of what it sees",
                &[
                    PSI,
                    ("proc/self/mountinfo", "1 2 0:3 /docker/abc /cg ro - cgroup2 cgroup rw\n"),
                    IN_JOB,
                    ("cg/memory.max", "1000\n"),
                    ("cg/memory.current", "900\n"),
                    ("cg/memory.stat", "anon 900\n"),
                ],
                seen(Some(3.0), free(100, 1000)),
            ),
            (
                "a limit further up",
                &[
                    MEMINFO,
                    PSI,
                    SECOND_MOUNT,
                    IN_JOB,
                    ("cg/outer/job/memory.max", "max\n"),
                    ("cg/outer/job/memory.current", "10\n"),
                    ("cg/outer/job/memory.stat", "anon 1\n"),
                    ("cg/outer/memory.max", "1000\n"),
                    ("cg/outer/memory.current", "900\n"),
                    ("cg/outer/memory.stat", "anon 600\ninactive_file 300\n"),
                ],
                seen(Some(3.0), free(400, 1000)),
            ),
            (
                "the first hierarchy",
                &[
                    MEMINFO,
                    ("proc/self/mountinfo", "1 2 0:3 / /m rw - cgroup cgroup rw,memory\n"),
                    ("proc/self/cgroup", "4:memory:/job\n"),
                    ("m/job/memory.limit_in_bytes", "1000\n"),
                    ("m/job/memory.usage_in_bytes", "990\n"),
                    ("m/job/memory.stat", "inactive_file 5\ntotal_inactive_file 40\n"),
                ],
                seen(None, free(50, 1000)),
            ),
            (
                "a limit that is none",
                &[
                    MEMINFO,
                    ("proc/self/mountinfo", "1 2 0:3 / /m rw - cgroup cgroup rw,memory\n"),
                    ("proc/self/cgroup", "4:memory:/job\n"),
                    ("m/job/memory.limit_in_bytes", "9223372036854771712\n"),
                    ("m/job/memory.usage_in_bytes", "990\n"),
                    ("m/job/memory.stat", "\n"),
                ],
                seen(None, free(250 << 10, 1000 << 10)),
            ),
            (
                "more used than allowed",
                &[
                    PSI,
                    SECOND_MOUNT,
                    IN_JOB,
                    ("cg/outer/job/memory.max", "100\n"),
                    ("cg/outer/job/memory.current", "200\n"),
                    ("cg/outer/job/memory.stat", "\n"),
                ],
                seen(Some(3.0), free(0, 100)),
            ),
        ];
        for (what, files, expected) in cases {
            assert_eq!(read(files), expected, "{what}");
        }
    }
}
