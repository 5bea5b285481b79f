//! What a step gets when nothing else is asked: capabilities, devices, hidden and read-only paths, as lists.
//!
//! They follow what container users expect (the default container of the field), as a superset where builders differ.
//! Nothing here acts; [`super::plan`] turns it into acts.

/// The 14 capabilities of a default container (0xa80425fb), by kernel name without `CAP_`.
pub const CAPABILITIES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SYS_CHROOT",
    "MKNOD",
    "AUDIT_WRITE",
    "SETFCAP",
];

/// Paths that tell of the host, or reach into it. A file is covered by `/dev/null`, a directory by an empty one.
/// A `*` stands for any text within one component.
pub const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
    "/sys/devices/system/cpu/cpu*/thermal_throttle",
];

/// Parts of `/proc` through which the host could be changed.
pub const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Character devices of `/dev`, all mode 0666: name, major, minor.
pub const DEVICES: &[(&str, u32, u32)] =
    &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Links of `/dev`: name, target.
pub const DEVICE_LINKS: &[(&str, &str)] = &[
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Host name of a step that asks for none.
pub const HOSTNAME: &str = "buildkitsandbox";

/// `/dev/shm` of a step that asks for no size.
pub const SHM_SIZE_BYTES: u64 = 64 << 20;

/// Where commands are looked up when the environment has no `PATH`.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The step's file mode mask: others may read, not write.
pub const UMASK: u32 = 0o022;
