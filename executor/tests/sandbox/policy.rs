//! What a step sees and may do.

use std::fs;
use std::os::fd::AsRawFd;

use rbuild_executor::sandbox::{
    Bind, BindSource, Limit, Mount, MountKind, Network, Overlay, Tmpfs, plan, policy, remove_stubs,
};

use crate::support::{Rig, describe, output, ran};

#[tokio::test]
async fn tree_and_overlay_roots_run_and_writes_go_where_they_belong() {
    let rig = Rig::new();
    assert_eq!(output(&rig.overlay("echo hello > /made; cat /made")).await, "hello\n");
    assert_eq!(fs::read_to_string(rig.path("upper/made")).unwrap(), "hello\n");
    assert!(!rig.base().join("made").exists());
    assert_eq!(output(&rig.tree("echo hello > /made; cat /made")).await, "hello\n");
    assert_eq!(fs::read_to_string(rig.base().join("made")).unwrap(), "hello\n");
}

#[tokio::test]
async fn capabilities_are_the_fourteen_for_root_and_none_for_a_user() {
    let rig = Rig::new();
    let full = "00000000a80425fb";
    let none = "0000000000000000";
    let check = async |user: &str, effective: &str| {
        let mut spec =
            rig.overlay("grep ^Cap /proc/self/status; grep ^Cap /proc/1/status; grep NoNewPrivs /proc/1/status");
        spec.user = user.into();
        let sets =
            format!("CapInh:\t{none}\nCapPrm:\t{effective}\nCapEff:\t{effective}\nCapBnd:\t{full}\nCapAmb:\t{none}\n");
        assert_eq!(output(&spec).await, format!("{sets}{sets}NoNewPrivs:\t0\n"), "as {user:?}");
    };
    check("", full).await;
    check("bob", none).await;
    check("4242:4343", none).await;
}

#[tokio::test]
async fn every_namespace_is_new_but_the_network_that_was_asked_for() {
    let rig = Rig::new();
    for (network, kinds) in [
        (Network::None, ["mnt", "pid", "uts", "ipc", "cgroup", "net"].as_slice()),
        (Network::Host, ["mnt", "pid", "uts", "ipc", "cgroup"].as_slice()),
    ] {
        let mut spec =
            rig.overlay("for n in mnt pid uts ipc cgroup net user; do echo $n $(readlink /proc/self/ns/$n); done");
        spec.network = network;
        let inside = output(&spec).await;
        let host: String = ["mnt", "pid", "uts", "ipc", "cgroup", "net", "user"]
            .map(|n| format!("{n} {}\n", fs::read_link(format!("/proc/self/ns/{n}")).unwrap().display()))
            .concat();
        let new: Vec<_> = inside
            .lines()
            .zip(host.lines())
            .filter(|(inside, outside)| inside != outside)
            .map(|(inside, _)| inside.split(' ').next().unwrap())
            .collect();
        assert_eq!(new, kinds, "{network:?}");
    }
}

#[tokio::test]
async fn without_network_only_loopback_is_there_and_works() {
    let rig = Rig::new();
    let script = "ls /sys/class/net; ping -c 1 -W 5 127.0.0.1 > /dev/null && echo answered";
    assert_eq!(output(&rig.overlay(script)).await, "lo\nanswered\n");
}

#[tokio::test]
async fn masked_paths_show_nothing_and_read_only_ones_refuse_writes() {
    let rig = Rig::new();
    let mut masked = 0;
    for path in policy::MASKED.iter().filter(|path| !path.contains('*')) {
        let Ok(meta) = fs::metadata(path) else { continue };
        masked += 1;
        let look = if meta.is_dir() { format!("ls -A {path}") } else { format!("head -c 10 {path}") };
        let touch = format!("{look}; echo x 2>/dev/null > {path}/x; touch {path}/x 2>/dev/null && echo written");
        let seen = ran(&rig.overlay(&format!("({touch}); true"))).await.unwrap();
        assert_eq!(seen.text(), "", "{path}");
    }
    assert!(masked >= 4, "this kernel has only {masked} of the masked paths");
    let writes = "for p in /proc/sys/kernel/domainname /proc/sys/vm/swappiness /sys/kernel/profiling; do \
        (echo 1 > $p) 2>&1 | grep -o 'Read-only file system'; done";
    let refused = "Read-only file system\n";
    assert_eq!(output(&rig.overlay(writes)).await, refused.repeat(3));
    let no_way_back = "umount /dev/shm 2>&1 | grep -o 'not permitted'; mount -o remount,rw /proc/sys 2>&1 | grep -o 'ermission denied\\|not permitted'";
    assert_eq!(ran(&rig.overlay(no_way_back)).await.unwrap().text(), "not permitted\nermission denied\n");
}

#[tokio::test]
async fn mounts_are_exactly_these() {
    let rig = Rig::new();
    let table = output(&rig.overlay("cut -d' ' -f5,6 /proc/self/mountinfo | sort")).await;
    let standard: Vec<_> =
        table.lines().filter(|line| !line.starts_with("/proc/") && !line.starts_with("/sys/")).collect();
    let expected = [
        "/ rw,relatime",
        "/dev rw,nosuid,relatime",
        "/dev/mqueue rw,nosuid,nodev,noexec,relatime",
        "/dev/pts rw,nosuid,noexec,relatime",
        "/dev/shm rw,nosuid,nodev,noexec,relatime",
        "/etc/hosts ro,nosuid,nodev,noexec,relatime",
        "/etc/resolv.conf ro,nosuid,nodev,noexec,relatime",
        "/proc rw,nosuid,nodev,noexec,relatime",
        "/sys ro,nosuid,nodev,noexec,relatime",
    ];
    assert_eq!(standard, expected);
}

#[tokio::test]
async fn what_a_process_mounted_while_it_waited_is_what_the_first_step_got_and_new() {
    let rig = Rig::new();
    let script = "cut -d' ' -f5,6 /proc/self/mountinfo | sort; cd /dev; stat -c '%n %F %t:%T %a' *; ls /dev/shm /dev/pts; \
        ls /sys/class/net; echo $$; readlink /proc/self; ls -d /proc/[0-9]*; echo lost > /dev/shm/x; echo lost > /dev/x";
    let first = output(&rig.overlay(script)).await;
    assert!(first.contains("zero character special file 1:5 666"), "{first}");
    // With the second step the helper has a process ready for the third.
    for _ in 0..3 {
        assert_eq!(output(&rig.overlay(script)).await, first);
    }
}

#[tokio::test]
async fn devices_are_exactly_these() {
    let rig = Rig::new();
    let script = "cd /dev; stat -c '%n %F %t:%T %a' *; for l in ptmx fd stdin stdout stderr; do readlink $l; done; echo x > /dev/null; \
        head -c 3 /dev/zero | wc -c; echo lost > /dev/shm/x && cat /dev/shm/x";
    let expected = "\
fd symbolic link 0:0 777
full character special file 1:7 666
mqueue directory 0:0 1777
null character special file 1:3 666
ptmx symbolic link 0:0 777
pts directory 0:0 755
random character special file 1:8 666
shm directory 0:0 1777
stderr symbolic link 0:0 777
stdin symbolic link 0:0 777
stdout symbolic link 0:0 777
tty character special file 5:0 666
urandom character special file 1:9 666
zero character special file 1:5 666
pts/ptmx
/proc/self/fd
/proc/self/fd/0
/proc/self/fd/1
/proc/self/fd/2
3
lost
";
    assert_eq!(output(&rig.overlay(script)).await, expected);
}

#[tokio::test]
async fn only_three_descriptors_are_open_even_when_the_builder_leaks_some() {
    let rig = Rig::new();
    let leak = fs::File::open("/etc/passwd").unwrap();
    let flags = rustix::io::FdFlags::empty();
    rustix::io::fcntl_setfd(&leak, flags).unwrap();
    assert!(leak.as_raw_fd() > 2);
    // `ls` itself holds the directory as 3.
    assert_eq!(output(&rig.overlay("exec ls /proc/self/fd")).await, "0\n1\n2\n3\n");
    assert_eq!(output(&rig.overlay("ls /proc/1/fd; true")).await, "0\n1\n2\n");
}

#[tokio::test]
async fn environment_is_exactly_what_was_given() {
    let rig = Rig::new();
    // SAFETY: nextest runs each test in a process of its own, and no other thread reads the environment now.
    unsafe { std::env::set_var("CANARY", "builder") };
    let check = async |user: &str, env: &[&str], expected: &str| {
        let mut spec = rig.overlay("");
        spec.args = vec!["/bin/env".into()];
        spec.env = env.iter().map(|pair| pair.to_string()).collect();
        spec.user = user.into();
        assert_eq!(output(&spec).await, expected);
    };
    check("", &["PATH=/bin", "B=two words", "A="], "PATH=/bin\nB=two words\nA=\nHOME=/root\n").await;
    check("bob", &["X=1"], "X=1\nHOME=/home/bob\n").await;
    check("77", &["X=1"], "X=1\nHOME=/\n").await;
    check("bob", &["HOME=/elsewhere"], "HOME=/elsewhere\n").await;
}

#[tokio::test]
async fn users_get_their_groups_and_can_reopen_their_output() {
    let rig = Rig::new();
    let check = async |user: &str, expected: &str| {
        let mut spec = rig.overlay("id; echo again > /dev/stdout; echo quiet > /dev/stderr");
        spec.user = user.into();
        assert_eq!(output(&spec).await, format!("{expected}\nagain\n"), "{user:?}");
    };
    check("", "uid=0(root) gid=0(root) groups=0(root)").await;
    check("bob", "uid=1000(bob) gid=1001(bob) groups=50(staff),1001(bob)").await;
    check("1000:50", "uid=1000(bob) gid=50(staff) groups=50(staff)").await;
    check("31:32", "uid=31 gid=32 groups=32").await;
}

#[tokio::test]
async fn surroundings_are_as_asked() {
    let rig = Rig::new();
    let mut spec = rig.overlay(
        "pwd; hostname; umask; ulimit -n; echo $$; cut -d' ' -f5,6 /proc/1/stat; cat /etc/hosts /etc/resolv.conf; df -P /dev/shm | tail -n1 | tr -s ' ' | cut -d' ' -f2",
    );
    spec.cwd = "/made/for/you".into();
    spec.hostname = "builder-7".into();
    spec.limits = vec![Limit { name: "nofile".into(), soft: 123, hard: 456 }];
    spec.extra_hosts = vec![("db".into(), "10.0.0.7".into())];
    spec.resolv_conf = "nameserver 192.0.2.1\n".into();
    spec.shm_size_bytes = 1 << 20;
    let expected = "/made/for/you\nbuilder-7\n0022\n123\n1\n1 1\n127.0.0.1\tlocalhost builder-7\n\
        ::1\tlocalhost ip6-localhost ip6-loopback\n10.0.0.7\tdb\nnameserver 192.0.2.1\n1024\n";
    // Fields 5 and 6 of stat: process group and session are its own.
    assert_eq!(output(&spec).await, expected);
    assert!(rig.path("upper/made/for/you").is_dir(), "the working directory is the step's work");
}

#[tokio::test]
async fn mounts_leave_no_trace_and_parent_times_come_back() {
    let rig = Rig::new();
    let check = async |root: std::path::PathBuf, mut spec: rbuild_executor::sandbox::ProcessSpec| {
        spec.mounts = vec![
            tmpfs("/opt/cache/deep"),
            bind(&rig.path("canary/secret"), "/opt/file", true),
            bind(&rig.path("canary"), "/etc/canary", true),
        ];
        let ran = ran(&spec).await.unwrap();
        assert_eq!(ran.exit.code(), 0, "{}", ran.stderr);
        let mut made = ran.stub_paths();
        made.sort();
        let expected = [
            "dev",
            "etc/canary",
            "etc/hosts",
            "etc/resolv.conf",
            "opt",
            "opt/cache",
            "opt/cache/deep",
            "opt/file",
            "proc",
            "sys",
        ];
        assert_eq!(made, expected);
        remove_stubs(fs::File::open(root).unwrap(), &ran.stubs).unwrap();
    };
    let (tree, canary) = (describe(&rig.base()), rig.canary());
    check(rig.base(), rig.tree("cat /opt/file && cat /etc/canary/secret")).await;
    assert_eq!(describe(&rig.base()), tree);
    check(rig.path("upper"), rig.overlay("echo x > /opt/cache/deep/x")).await;
    assert_eq!(describe(&rig.base()), tree);
    assert_eq!(rig.canary(), canary);
    // Only directories that were copied up are left, unchanged; the commit drops those.
    let left: Vec<_> = fs::read_dir(rig.path("upper")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["etc"]);
    let time = |path: std::path::PathBuf| fs::metadata(path).unwrap().modified().unwrap();
    assert_eq!(time(rig.path("upper/etc")), time(rig.base().join("etc")));
    assert_eq!(fs::read_dir(rig.path("upper/etc")).unwrap().count(), 0);
}

#[tokio::test]
async fn what_the_step_put_beside_or_into_a_mount_point_stays() {
    let rig = Rig::new();
    let mut spec = rig.tree("echo mine > /opt/beside; cat /proc/1/comm > /dev/null");
    spec.mounts = vec![tmpfs("/opt/cache")];
    let ran = ran(&spec).await.unwrap();
    // As if it had been written beneath the mount by a later user of the same tree.
    fs::write(rig.base().join("opt/cache/kept"), "x").unwrap();
    remove_stubs(fs::File::open(rig.base()).unwrap(), &ran.stubs).unwrap();
    assert_eq!(fs::read_to_string(rig.base().join("opt/beside")).unwrap(), "mine\n");
    assert!(rig.base().join("opt/cache/kept").exists());
    assert!(!rig.base().join("proc").exists());
    let after = ran.stubs.iter().find(|stub| stub.path.ends_with("cache")).unwrap().parent_after;
    let meta = fs::metadata(rig.base().join("opt")).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert!((meta.mtime(), meta.mtime_nsec()) >= after, "the step changed it, so its time is the step's");
}

#[tokio::test]
async fn binds_are_views_and_throw_writes_away_or_refuse_them() {
    let rig = Rig::new();
    fs::create_dir_all(rig.path("layers/other/sub")).unwrap();
    fs::write(rig.path("layers/other/sub/file"), "from other\n").unwrap();
    for name in ["upper2", "work2"] {
        fs::create_dir(rig.path(name)).unwrap();
    }
    let view = |upper| Overlay { layers_dir: rig.path("layers"), lowers: vec!["other".into(), "base".into()], upper };
    let scratch = rbuild_executor::sandbox::spec::Upper { dir: rig.path("upper2"), work: rig.path("work2") };
    let mount = |target: &str, upper, subpath: &str, readonly| Mount {
        target: target.into(),
        kind: MountKind::Bind(Bind { source: BindSource::Overlay(view(upper)), subpath: subpath.into(), readonly }),
    };
    let mut spec = rig.overlay(
        "cat /ro/sub/file /part/file /one /rw/sub/file; echo changed > /rw/sub/file; cat /rw/sub/file; \
         for f in /ro/x /part/x /one; do (echo x > $f) 2>&1 | grep -o Read-only; done; ls /ro/bin/sh",
    );
    spec.mounts = vec![
        mount("/ro", None, "", true),
        mount("/part", None, "/sub", true),
        mount("/one", None, "sub/file", true),
        mount("/rw", Some(scratch), "/", false),
    ];
    let line = "from other\n";
    assert_eq!(
        output(&spec).await,
        format!("{line}{line}{line}{line}changed\nRead-only\nRead-only\nRead-only\n/ro/bin/sh\n")
    );
    assert_eq!(fs::read_to_string(rig.path("layers/other/sub/file")).unwrap(), line);
}

#[tokio::test]
async fn children_are_mounted_on_their_parents_whatever_the_order() {
    let rig = Rig::new();
    let mut spec = rig.overlay("cat /a/b/secret; ls /a");
    spec.mounts = vec![bind(&rig.path("canary"), "/a/b", true), tmpfs("/a")];
    assert_eq!(output(&spec).await, "secretb\n");
}

#[test]
fn a_plan_prints_one_act_per_line_without_values_of_the_environment() {
    let rig = Rig::new();
    let mut spec = rig.overlay("true");
    spec.env.push("TOKEN=hunter2".into());
    spec.mounts = vec![tmpfs("/scratch")];
    let text = plan::plan(&spec).to_string().replace(rig.path("").to_str().unwrap(), "STORE/");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "new namespaces mount pid uts ipc cgroup network");
    assert!(lines.contains(&"root overlay of 1 layers in \"STORE/layers\" under \"STORE/upper\""), "{text}");
    assert!(lines.contains(&"mount proc on \"/proc\" nosuid nodev noexec"), "{text}");
    assert!(lines.contains(&"mount tmpfs on \"/scratch\" nosuid nodev mode=1777"), "{text}");
    assert_eq!(*lines.last().unwrap(), "exec [\"/bin/sh\", \"-c\", \"true\"] with PATH TOKEN");
    assert!(!text.contains("hunter2"));
}

fn tmpfs(target: &str) -> Mount {
    Mount { target: target.into(), kind: MountKind::Tmpfs(Tmpfs { size_bytes: 0, mode: 0o1777 }) }
}

fn bind(source: &std::path::Path, target: &str, readonly: bool) -> Mount {
    let bind = Bind { source: BindSource::Lent(source.into()), subpath: String::new(), readonly };
    Mount { target: target.into(), kind: MountKind::Bind(bind) }
}
