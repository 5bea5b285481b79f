//! What the probe tells from inside, compared with what the default is documented to be.

use rbuild_executor::sandbox::{Limit, own_capabilities};

use crate::probe::Width;
use crate::support::{Rig, facts, output, ran};

/// The 14 capabilities of a default container.
const DEFAULT: &str = "00000000a80425fb";
const NONE: &str = "0000000000000000";

#[tokio::test]
async fn ids_and_capabilities_are_those_of_a_default_container() {
    let rig = Rig::new();
    for &width in Width::all() {
        for (user, uid, gid, groups, held) in [
            ("", "0 0 0", "0 0 0", "0", DEFAULT),
            ("bob", "1000 1000 1000", "1001 1001 1001", "50 1001", NONE),
            ("4242:4343", "4242 4242 4242", "4343 4343 4343", "4343", NONE),
        ] {
            let mut spec = rig.probe(width, &["identity", "status"]);
            spec.user = user.into();
            let told = facts(&spec).await;
            let expected = [
                ("identity.uid", uid),
                ("identity.gid", gid),
                ("identity.groups", groups),
                ("status.CapInh", NONE),
                ("status.CapPrm", held),
                ("status.CapEff", held),
                ("status.CapBnd", DEFAULT),
                ("status.CapAmb", NONE),
                ("status.NoNewPrivs", "0"),
                ("status.Seccomp", "2"),
            ];
            for (name, value) in expected {
                assert_eq!(told.of(name), value, "{name} as {user:?}, {width:?}");
            }
        }
    }
}

#[tokio::test]
async fn descriptors_environment_and_limits_are_exactly_those_that_were_asked_for() {
    let rig = Rig::new();
    let mut spec = rig.probe(Width::Native, &["descriptors", "environment", "limits", "devices"]);
    spec.env = vec!["A=b=c".into(), "EMPTY=".into()];
    spec.limits = vec![Limit { name: "nofile".into(), soft: 64, hard: 128 }];
    let told = facts(&spec).await;
    let numbers: Vec<_> = told.section("descriptors").into_iter().map(|(number, _)| number).collect();
    assert_eq!(numbers, ["0", "1", "2"]);
    assert_eq!(told.section("environment"), [("A", "b=c"), ("EMPTY", ""), ("HOME", "/root")]);
    assert_eq!(told.of("limits.nofile"), "64 128");
    let mut names: Vec<_> = told.section("devices").into_iter().map(|(name, _)| name).collect();
    names.sort();
    let expected = [
        "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom",
        "zero",
    ];
    assert_eq!(names, expected);
    assert_eq!(told.of("devices.null"), "char 0666 1:3");
}

/// Calls that a step must not make, as root or not, natively or as a 32-bit process.
const REFUSED: &[&str] = &[
    "mount",
    "umount2",
    "pivot_root",
    "fsopen",
    "fsmount",
    "open_tree",
    "move_mount",
    "mount_setattr",
    "unshare_newuser",
    "unshare_nothing",
    "setns",
    "keyctl",
    "add_key",
    "request_key",
    "bpf",
    "perf_event_open",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
    "userfaultfd",
    "open_by_handle_at",
    "fanotify_init",
    "quotactl",
    "acct",
    "swapon",
    "reboot",
    "kexec_load",
    "init_module",
    "finit_module",
    "delete_module",
    "settimeofday",
    "clock_settime",
    "sethostname",
    "syslog",
    "kcmp",
    "pidfd_getfd",
    "process_madvise",
    "set_mempolicy",
    "move_pages",
    "personality_read_implies_exec",
    "personality_no_randomisation",
    "socket_alg",
    "socket_vsock",
    "clone_newuser",
    "clone_newns",
    "clone_newcgroup",
    "clone_newnet",
    "never_given",
];
/// Those that only one width has.
const REFUSED_NATIVE: &[&str] = &["socket_alg_upper_half", "socket_vsock_upper_half", "personality_upper_half"];
const REFUSED_NARROW: &[&str] = &["iopl", "stime", "umount"];
/// Calls that go through, and what the kernel then says of their arguments.
const ALLOWED: &[(&str, &str)] = &[
    ("personality_query", "ok"),
    ("personality_linux32", "ok"),
    ("personality_linux", "ok"),
    ("name_to_handle_at", "EFAULT"),
    ("memfd_create", "EFAULT"),
    ("process_vm_readv", "EINVAL"),
    ("socket_unix", "ok"),
    ("socket_inet", "ok"),
    ("socket_netlink", "ok"),
    ("clone_plain", "ok"),
];

#[tokio::test]
async fn forbidden_calls_fail_and_the_others_reach_the_kernel() {
    let rig = Rig::new();
    for &width in Width::all() {
        for user in ["", "bob"] {
            let mut spec = rig.probe(width, &["calls", "status"]);
            spec.user = user.into();
            let told = facts(&spec).await;
            let of_width = if width == Width::Native { REFUSED_NATIVE } else { REFUSED_NARROW };
            for name in REFUSED.iter().chain(of_width) {
                assert_eq!(told.of(&format!("calls.{name}")), "EPERM", "{name} as {user:?}, {width:?}");
            }
            for name in ["clone3", "newer_than_all"] {
                assert_eq!(told.of(&format!("calls.{name}")), "ENOSYS", "{name} as {user:?}, {width:?}");
            }
            for (name, answer) in ALLOWED {
                assert_eq!(told.of(&format!("calls.{name}")), *answer, "{name} as {user:?}, {width:?}");
            }
            // What the kernel says depends on its version and configuration.
            for name in ["mseal", "listmount", "memfd_secret", "socket_nfc", "socket_kcm"] {
                assert_ne!(told.of(&format!("calls.{name}")), "EPERM", "{name} as {user:?}, {width:?}");
            }
            let chroot = if user.is_empty() { "ok" } else { "EPERM" };
            assert_eq!(told.of("calls.chroot"), chroot, "the capability decides");
            if width == Width::Narrow {
                // Known and documented: the family is in memory, where no filter looks.
                assert_ne!(told.of("calls.socketcall_alg"), "EPERM");
            }
            assert_eq!(told.of("status.Seccomp"), "2");
            assert_eq!(told.of("status.NoNewPrivs"), "0");
        }
    }
}

/// Else the test before would prove nothing: the same probe where nothing is filtered.
#[tokio::test]
async fn without_the_filter_the_same_calls_reach_the_kernel() {
    let rig = Rig::new();
    for &width in Width::all() {
        let mut spec = rig.probe(width, &["calls", "status"]);
        spec.filter = false;
        spec.capabilities = own_capabilities().unwrap();
        let told = facts(&spec).await;
        assert_eq!(told.of("status.Seccomp"), "0");
        let reached = [
            ("mount", "EFAULT"),
            ("umount2", "EFAULT"),
            ("open_tree", "EFAULT"),
            ("unshare_newuser", "ok"),
            ("setns", "EBADF"),
            ("clone3", "EINVAL"),
            ("add_key", "EFAULT"),
            ("bpf", "EFAULT"),
            ("userfaultfd", "EINVAL"),
            ("open_by_handle_at", "EFAULT"),
            ("personality_read_implies_exec", "ok"),
            ("clone_newuser", "ok"),
            ("clone_newns", "ok"),
            ("never_given", "ENOSYS"),
        ];
        for (name, answer) in reached {
            assert_eq!(told.of(&format!("calls.{name}")), answer, "{name}, {width:?}");
        }
    }
}

#[tokio::test]
async fn a_process_of_another_user_cannot_be_traced() {
    let rig = Rig::new();
    for &width in Width::all() {
        assert_eq!(facts(&rig.probe(width, &["ptrace"])).await.of("ptrace.other_user"), "EPERM", "{width:?}");
    }
}

#[tokio::test]
async fn set_uid_programs_give_a_user_the_rights_of_a_default_container() {
    let rig = Rig::new();
    let mut spec = rig.probe(Width::Native, &["identity", "status"]);
    spec.user = "bob".into();
    std::fs::set_permissions(rig.base().join("probe"), std::os::unix::fs::PermissionsExt::from_mode(0o4755)).unwrap();
    let told = facts(&spec).await;
    assert_eq!(told.of("identity.uid"), "1000 0 0");
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(told.of(&format!("status.{set}")), DEFAULT, "{set}");
    }
    for set in ["CapInh", "CapAmb"] {
        assert_eq!(told.of(&format!("status.{set}")), NONE, "{set}");
    }
    assert_eq!(told.of("status.Seccomp"), "2");
}

#[tokio::test]
async fn control_groups_are_seen_from_the_steps_own_and_cannot_be_changed() {
    let rig = Rig::new();
    let script = "cat /proc/self/cgroup | cut -d: -f3 | sort -u; \
        for f in /sys/fs/cgroup/cgroup.procs /sys/fs/cgroup/*/cgroup.procs; do [ -e $f ] || continue; \
        (echo $$ > $f) 2>&1 | grep -o 'Read-only file system'; mkdir ${f%/*}/made 2>&1 | grep -o 'Read-only file system'; \
        done; (echo x > /sys/fs/cgroup/made) 2>&1 | grep -o 'Read-only file system'";
    let told = output(&rig.overlay(script)).await;
    let mut lines = told.lines();
    assert_eq!(lines.next(), Some("/"), "every group is the top of what is seen");
    let refusals: Vec<_> = lines.collect();
    assert!(refusals.len() >= 3, "{told}");
    for refusal in refusals {
        assert_eq!(refusal, "Read-only file system", "{told}");
    }
}

#[tokio::test]
async fn a_raised_limit_without_the_right_to_raise_it_fails_before_the_step() {
    let rig = Rig::new();
    let mut spec = rig.overlay("touch /ran");
    // Above what anybody may have: the kernel's own bound.
    spec.limits = vec![Limit { name: "nofile".into(), soft: 1 << 40, hard: 1 << 40 }];
    let error = ran(&spec).await.map(|ran| ran.exit).unwrap_err().to_string();
    assert!(error.contains("limit nofile 1099511627776:1099511627776"), "{error}");
    assert!(error.contains("raising that takes CAP_SYS_RESOURCE"), "{error}");
    assert!(!rig.path("upper/ran").exists());
}

/// As many as a large build has, all at once, beside a builder that leaks.
#[tokio::test]
async fn two_hundred_steps_at_once_get_three_descriptors_and_nothing_of_the_builders_environment() {
    let rig = Rig::new();
    for directory in ["dev", "proc", "sys"] {
        std::fs::create_dir(rig.base().join(directory)).unwrap();
    }
    for file in ["hosts", "resolv.conf"] {
        std::fs::write(rig.base().join("etc").join(file), "").unwrap();
    }
    let mut spec = rig.probe(Width::Native, &["descriptors", "environment"]);
    spec.root = rig.tree("").root;
    // SAFETY: nextest runs each test in a process of its own, and no other thread reads the environment now.
    unsafe { std::env::set_var("CANARY", "builder") };
    let leak = std::fs::File::open("/etc/passwd").unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    let steps: Vec<_> = (0..200).map(|_| facts(&spec)).collect();
    for told in futures_util::future::join_all(steps).await {
        let numbers: Vec<_> = told.section("descriptors").into_iter().map(|(number, _)| number).collect();
        assert_eq!(numbers, ["0", "1", "2"], "{told:?}");
        assert_eq!(told.section("environment"), [("PATH", "/bin"), ("HOME", "/root")]);
    }
}
