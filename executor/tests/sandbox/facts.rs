//! What the probe tells from inside, compared with what the default is documented to be.

use rbuild_executor::sandbox::own_capabilities;

use crate::probe::Width;
use crate::support::{Rig, facts};

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
    spec.limits = vec![rbuild_executor::sandbox::Limit { name: "nofile".into(), soft: 64, hard: 128 }];
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
