//! Who may call what: the default profile that container users expect, as rules over names.
//!
//! What no rule allows is refused with EPERM. Rules add up: a call that one rule allows is allowed. Rules for machines
//! that rbuild does not run on are left out. Next: [`super::numbers`], [`super::program`].

/// What a rule does to the calls that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Lets them through.
    Allow,
    /// Answers ENOSYS, upon which callers fall back to an older call.
    Absent,
}

/// A test of a call's first argument. All arguments that are tested are ones of which the kernel takes the lower 32 bits,
/// whatever stands above; so do we, else something above would get a forbidden value past the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Test {
    /// Less than this.
    Below(u32),
    /// Exactly this.
    Is(u32),
    /// Greater than this.
    Above(u32),
    /// None of these bits is set.
    Clear(u32),
}

/// One rule; what is `None` or empty does not restrict it.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// What it does.
    pub action: Action,
    /// Only on these machines, their 32-bit processes included.
    pub machines: &'static [&'static str],
    /// Only for steps that have this capability.
    pub with: Option<&'static str>,
    /// Only for steps that do not have this capability.
    pub without: Option<&'static str>,
    /// Only when the first argument passes.
    pub test: Option<Test>,
    /// Of these calls.
    pub names: &'static [&'static str],
}

/// Flags of clone(2) that make namespaces.
pub const NAMESPACE_FLAGS: u32 = 0x7e02_0000;

const ANY: Rule = Rule { action: Action::Allow, machines: &[], with: None, without: None, test: None, names: &[] };

const fn on_argument(test: Test, names: &'static [&'static str]) -> Rule {
    Rule { test: Some(test), names, ..ANY }
}

const fn with(capability: &'static str, names: &'static [&'static str]) -> Rule {
    Rule { with: Some(capability), names, ..ANY }
}

/// All rules. The order has no meaning.
#[rustfmt::skip]
pub const RULES: &[Rule] = &[
    Rule { names: &[
        "accept", "accept4", "access", "adjtimex", "alarm", "bind", "brk", "cachestat", "capget", "capset", "chdir",
        "chmod", "chown", "chown32", "clock_adjtime", "clock_adjtime64", "clock_getres", "clock_getres_time64",
        "clock_gettime", "clock_gettime64", "clock_nanosleep", "clock_nanosleep_time64", "close", "close_range",
        "connect", "copy_file_range", "creat", "dup", "dup2", "dup3", "epoll_create", "epoll_create1", "epoll_ctl",
        "epoll_ctl_old", "epoll_pwait", "epoll_pwait2", "epoll_wait", "epoll_wait_old", "eventfd", "eventfd2",
        "execve", "execveat", "exit", "exit_group", "faccessat", "faccessat2", "fadvise64", "fadvise64_64",
        "fallocate", "fanotify_mark", "fchdir", "fchmod", "fchmodat", "fchmodat2", "fchown", "fchown32", "fchownat",
        "fcntl", "fcntl64", "fdatasync", "fgetxattr", "flistxattr", "flock", "fork", "fremovexattr", "fsetxattr",
        "fstat", "fstat64", "fstatat64", "fstatfs", "fstatfs64", "fsync", "ftruncate", "ftruncate64", "futex",
        "futex_requeue", "futex_time64", "futex_wait", "futex_waitv", "futex_wake", "futimesat", "getcpu", "getcwd",
        "getdents", "getdents64", "getegid", "getegid32", "geteuid", "geteuid32", "getgid", "getgid32", "getgroups",
        "getgroups32", "getitimer", "getpeername", "getpgid", "getpgrp", "getpid", "getppid", "getpriority",
        "getrandom", "getresgid", "getresgid32", "getresuid", "getresuid32", "getrlimit", "get_robust_list",
        "getrusage", "getsid", "getsockname", "getsockopt", "get_thread_area", "gettid", "gettimeofday", "getuid",
        "getuid32", "getxattr", "getxattrat", "inotify_add_watch", "inotify_init", "inotify_init1",
        "inotify_rm_watch", "io_cancel", "ioctl", "io_destroy", "io_getevents", "io_pgetevents",
        "io_pgetevents_time64", "ioprio_get", "ioprio_set", "io_setup", "io_submit", "ipc", "kill",
        "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "lchown", "lchown32", "lgetxattr",
        "link", "linkat", "listen", "listmount", "listxattr", "listxattrat", "llistxattr", "_llseek", "lremovexattr",
        "lseek", "lsetxattr", "lstat", "lstat64", "madvise", "map_shadow_stack", "membarrier", "memfd_create",
        "memfd_secret", "mincore", "mkdir", "mkdirat", "mknod", "mknodat", "mlock", "mlock2", "mlockall", "mmap",
        "mmap2", "mprotect", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedreceive_time64",
        "mq_timedsend", "mq_timedsend_time64", "mq_unlink", "mremap", "mseal", "msgctl", "msgget", "msgrcv", "msgsnd",
        "msync", "munlock", "munlockall", "munmap", "name_to_handle_at", "nanosleep", "newfstatat", "_newselect",
        "open", "openat", "openat2", "pause", "pidfd_open", "pidfd_send_signal", "pipe", "pipe2", "pkey_alloc",
        "pkey_free", "pkey_mprotect", "poll", "ppoll", "ppoll_time64", "prctl", "pread64", "preadv", "preadv2",
        "prlimit64", "process_mrelease", "pselect6", "pselect6_time64", "pwrite64", "pwritev", "pwritev2", "read",
        "readahead", "readlink", "readlinkat", "readv", "recv", "recvfrom", "recvmmsg", "recvmmsg_time64", "recvmsg",
        "remap_file_pages", "removexattr", "removexattrat", "rename", "renameat", "renameat2", "restart_syscall",
        "rmdir", "rseq", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo",
        "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64", "rt_tgsigqueueinfo",
        "sched_getaffinity", "sched_getattr", "sched_getparam", "sched_get_priority_max", "sched_get_priority_min",
        "sched_getscheduler", "sched_rr_get_interval", "sched_rr_get_interval_time64", "sched_setaffinity",
        "sched_setattr", "sched_setparam", "sched_setscheduler", "sched_yield", "seccomp", "select", "semctl",
        "semget", "semop", "semtimedop", "semtimedop_time64", "send", "sendfile", "sendfile64", "sendmmsg", "sendmsg",
        "sendto", "setfsgid", "setfsgid32", "setfsuid", "setfsuid32", "setgid", "setgid32", "setgroups",
        "setgroups32", "setitimer", "setpgid", "setpriority", "setregid", "setregid32", "setresgid", "setresgid32",
        "setresuid", "setresuid32", "setreuid", "setreuid32", "setrlimit", "set_robust_list", "setsid", "setsockopt",
        "set_thread_area", "set_tid_address", "setuid", "setuid32", "setxattr", "setxattrat", "shmat", "shmctl",
        "shmdt", "shmget", "shutdown", "sigaltstack", "signalfd", "signalfd4", "sigprocmask", "sigreturn",
        "socketcall", "socketpair", "splice", "stat", "stat64", "statfs", "statfs64", "statmount", "statx", "symlink",
        "symlinkat", "sync", "sync_file_range", "syncfs", "sysinfo", "tee", "tgkill", "time", "timer_create",
        "timer_delete", "timer_getoverrun", "timer_gettime", "timer_gettime64", "timer_settime", "timer_settime64",
        "timerfd_create", "timerfd_gettime", "timerfd_gettime64", "timerfd_settime", "timerfd_settime64", "times",
        "tkill", "truncate", "truncate64", "ugetrlimit", "umask", "uname", "unlink", "unlinkat", "uretprobe", "utime",
        "utimensat", "utimensat_time64", "utimes", "vfork", "vmsplice", "wait4", "waitid", "waitpid", "write",
        "writev",
    ], ..ANY },
    // On kernels from 4.8 on, which rbuild needs anyway: there a filter sees what a tracer changed.
    Rule { names: &["process_vm_readv", "process_vm_writev", "ptrace"], ..ANY },
    // All families of sockets but 38 (AF_ALG) and 40 (AF_VSOCK).
    on_argument(Test::Below(38), &["socket"]),
    on_argument(Test::Is(39), &["socket"]),
    on_argument(Test::Above(40), &["socket"]),
    // Linux, 32-bit Linux, each with the names of Linux 2.6; and the question what it is.
    on_argument(Test::Is(0x0), &["personality"]),
    on_argument(Test::Is(0x8), &["personality"]),
    on_argument(Test::Is(0x20000), &["personality"]),
    on_argument(Test::Is(0x20008), &["personality"]),
    on_argument(Test::Is(0xffff_ffff), &["personality"]),
    Rule {
        machines: &["aarch64"],
        names: &["arm_fadvise64_64", "arm_sync_file_range", "sync_file_range2", "breakpoint", "cacheflush", "set_tls"],
        ..ANY
    },
    Rule { machines: &["x86_64"], names: &["arch_prctl", "modify_ldt"], ..ANY },
    with("DAC_READ_SEARCH", &["open_by_handle_at"]),
    with("SYS_ADMIN", &[
        "bpf", "clone", "clone3", "fanotify_init", "fsconfig", "fsmount", "fsopen", "fspick", "lookup_dcookie",
        "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr", "mount", "mount_setattr", "move_mount", "open_tree",
        "perf_event_open", "quotactl", "quotactl_fd", "setdomainname", "sethostname", "setns", "syslog", "umount",
        "umount2", "unshare",
    ]),
    Rule { without: Some("SYS_ADMIN"), test: Some(Test::Clear(NAMESPACE_FLAGS)), names: &["clone"], ..ANY },
    // Its flags are in memory, where no filter looks.
    Rule { action: Action::Absent, without: Some("SYS_ADMIN"), names: &["clone3"], ..ANY },
    with("SYS_BOOT", &["reboot"]),
    with("SYS_CHROOT", &["chroot"]),
    with("SYS_MODULE", &["delete_module", "init_module", "finit_module"]),
    with("SYS_PACCT", &["acct"]),
    with("SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace"]),
    with("SYS_RAWIO", &["iopl", "ioperm"]),
    with("SYS_TIME", &["settimeofday", "stime", "clock_settime", "clock_settime64"]),
    with("SYS_TTY_CONFIG", &["vhangup"]),
    with("SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    with("SYSLOG", &["syslog"]),
    with("BPF", &["bpf"]),
    with("PERFMON", &["perf_event_open"]),
];
