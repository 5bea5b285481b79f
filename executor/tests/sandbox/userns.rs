//! Steps of root in user namespaces of their own: what they are inside, what they are to the machine, and what lies on
//! disk afterwards. That everything else is as without is `elsewhere`'s.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use rbuild_executor::sandbox::plan::plan;
use rbuild_executor::sandbox::{Bind, BindSource, Mount, MountKind, Network, ProcessSpec, own_capabilities};
use rbuild_executor::userns::probe::probe as try_store;
use solver::op::CacheSharing::Shared;
use solver::op::{self, Op, SecurityMode};

use crate::exec::{Bench, bind, exec};
use crate::probe::Width;
use crate::support::{Rig, facts, ids, output, ran, settings};

/// `spec` in a user namespace of its own.
fn mapped(mut spec: ProcessSpec) -> ProcessSpec {
    spec.user_namespace = Some(ids());
    spec
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn root_in_a_step_is_nobody_outside_and_has_the_capabilities_of_a_default_container() {
    let rig = Rig::new();
    let first = ids().user(0).unwrap();
    let script = "cat /proc/self/uid_map; cat /proc/self/gid_map; cat /proc/self/setgroups; id; grep ^Cap /proc/self/status; \
                  for n in user mnt pid uts ipc cgroup net; do readlink /proc/self/ns/$n; done";
    for network in [Network::None, Network::Host] {
        let mut spec = mapped(rig.overlay(script));
        spec.network = network;
        let told = output(&spec).await;
        let lines: Vec<_> = told.lines().map(words).collect();
        let (lines, namespaces) = lines.split_at(9);
        assert_eq!(lines[..2], [format!("0 {first} 65536"), format!("0 {first} 65536")], "{told}");
        assert_eq!(lines[2..4], ["allow", "uid=0(root) gid=0(root) groups=0(root)"], "{told}");
        let (held, none) = ("00000000a80425fb", "0000000000000000");
        let sets = [("CapInh", none), ("CapPrm", held), ("CapEff", held), ("CapBnd", held), ("CapAmb", none)];
        assert_eq!(lines[4..], sets.map(|(name, value)| format!("{name}: {value}")), "{told}");
        let here = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
        for (kind, inside) in ["user", "mnt", "pid", "uts", "ipc", "cgroup", "net"].iter().zip(namespaces) {
            assert_eq!(*inside == here(kind), *kind == "net" && network == Network::Host, "{kind}: {told}");
        }
    }
}

#[tokio::test]
async fn what_a_step_makes_lies_on_disk_as_without_and_what_lies_there_is_seen_as_without() {
    let rig = Rig::new();
    let base = rig.base();
    for (name, uid, gid, mode) in
        [("suid", 1000, 50, 0o6755), ("last", 65534, 65535, 0o600), ("gone", 7, 7, 0o644), ("there", 33, 33, 0o644)]
    {
        let path = base.join("etc").join(name);
        fs::write(&path, name).unwrap();
        chown(&path, Some(uid), Some(gid)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::create_dir(base.join("etc/dir")).unwrap();
    fs::write(base.join("etc/dir/old"), "").unwrap();
    let look = "stat -c '%n %u:%g %a' etc/suid etc/last etc/there";
    let script = format!(
        "{look}; c='busybox chown' && mkdir -p n/d && echo 1 > n/x && $c 1234:4321 n/x && busybox chmod 6755 n/x && \
         ln n/x n/y && ln -s x n/s && mkfifo n/p && rm etc/gone && rm -r etc/dir && mkdir etc/dir && echo new > etc/dir/new && \
         $c 5:6 etc/there && stat -c '%n %u:%g %a %h' n/x n/s etc/there"
    );
    let mut spec = mapped(rig.overlay(&script));
    spec.env = vec!["PATH=/bin".into()];
    let expected = "etc/suid 1000:50 6755\netc/last 65534:65535 600\netc/there 33:33 644\n\
                    n/x 1234:4321 6755 2\nn/s 0:0 777 1\netc/there 5:6 644 1\n";
    assert_eq!(output(&spec).await, expected);
    let upper = rig.path("upper");
    let told = |name: &str| {
        let found = upper.join(name).symlink_metadata().unwrap_or_else(|error| panic!("{name}: {error}"));
        (found.uid(), found.gid(), found.mode(), found.rdev(), found.nlink())
    };
    for (name, expected) in [
        ("n", (0, 0, 0o40755, 0, 3)),
        ("n/x", (1234, 4321, 0o106755, 0, 2)),
        ("n/p", (0, 0, 0o10644, 0, 1)),
        ("etc/there", (5, 6, 0o100644, 0, 1)),
        // A deletion's mark.
        ("etc/gone", (0, 0, 0o20000, 0, told("etc/gone").4)),
    ] {
        assert_eq!(told(name), expected, "{name}");
    }
    assert_eq!(fs::metadata(upper.join("n/x")).unwrap().ino(), fs::metadata(upper.join("n/y")).unwrap().ino());
    let mut value = [0; 8];
    let length = rustix::fs::lgetxattr(upper.join("etc/dir"), "trusted.overlay.opaque", &mut value[..]).unwrap();
    assert_eq!(&value[..length], b"y");
}

#[tokio::test]
async fn every_id_of_the_namespace_can_own_and_no_other() {
    let rig = Rig::new();
    let script = "cd /tmp; c='busybox chown'; for id in 1 33 999 1000 32767 65533 65534 65535; do echo > f$id; $c $id:$id f$id || exit 1; \
                  done; stat -c %u:%g f999 f65535; $c 65536 f1 2>&1 | grep -o Invalid; $c :65536 f1 2>&1 | grep -o Invalid";
    assert_eq!(output(&mapped(rig.overlay(script))).await, "999:999\n65535:65535\nInvalid\nInvalid\n");
    for id in [1, 33, 999, 1000, 32767, 65533, 65534, 65535] {
        let file = fs::metadata(rig.path(&format!("upper/tmp/f{id}"))).unwrap();
        assert_eq!((file.uid(), file.gid()), (id, id));
    }
    let mut spec = mapped(rig.overlay("true"));
    spec.user = "65536".into();
    let error = ran(&spec).await.map(|ran| ran.exit).unwrap_err().to_string();
    assert!(error.contains("65536"), "{error}");
}

#[tokio::test]
async fn a_set_uid_program_gives_the_roots_rights_of_the_namespace() {
    let rig = Rig::new();
    let mut spec = mapped(rig.probe(Width::Native, &["identity", "status"]));
    spec.user = "bob".into();
    fs::set_permissions(rig.base().join("probe"), fs::Permissions::from_mode(0o4755)).unwrap();
    let told = facts(&spec).await;
    assert_eq!(told.of("identity.uid"), "1000 0 0");
    assert_eq!(told.of("status.CapEff"), "00000000a80425fb");
    assert_eq!(told.of("status.Seccomp"), "2");
}

#[tokio::test]
async fn capabilities_of_files_are_kept_and_count() {
    let rig = Rig::new();
    // Version 2, effective and permitted: NET_RAW, which is beyond a user.
    let value: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut spec = mapped(rig.probe(Width::Native, &["identity", "status"]));
    let of = |path: &Path| {
        let mut found = [0; 64];
        let length = rustix::fs::getxattr(path, "security.capability", &mut found[..]).unwrap();
        found[..length].to_vec()
    };
    let probe = rig.base().join("probe");
    rustix::fs::setxattr(&probe, "security.capability", &value, rustix::fs::XattrFlags::empty()).unwrap();
    spec.user = "bob".into();
    assert_eq!(facts(&spec).await.of("status.CapEff"), "0000000000002000");
    // A copy that overlayfs makes, for another name.
    output(&mapped(rig.overlay("ln /probe /again"))).await;
    assert_eq!(of(&rig.path("upper/again")), value, "as version 2, for any root");
}

#[tokio::test]
async fn devices_are_neither_made_nor_used() {
    let rig = Rig::new();
    let device = rustix::fs::makedev(1, 3);
    let (kind, mode) = (rustix::fs::FileType::CharacterDevice, rustix::fs::Mode::from_raw_mode(0o666));
    rustix::fs::mknodat(rustix::fs::CWD, rig.base().join("null"), kind, mode, device).unwrap();
    let script = "busybox mknod /tmp/x c 1 3 2>&1 | grep -o 'Operation not permitted'; (echo > /null) 2>&1 | grep -o 'Permission denied'; \
                  echo > /dev/null && stat -c %t:%T /null /dev/null";
    let told = output(&mapped(rig.overlay(script))).await;
    assert_eq!(told, "Operation not permitted\nPermission denied\n1:3\n1:3\n");
}

#[tokio::test]
async fn nothing_of_the_machine_is_seen_signalled_or_written() {
    let rig = Rig::new();
    let volume = rig.path("volume");
    fs::create_dir(&volume).unwrap();
    for (name, mode) in [("closed", 0o600), ("open", 0o644), ("anybody", 0o666)] {
        fs::write(volume.join(name), name).unwrap();
        fs::set_permissions(volume.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let own = std::process::id();
    let script = format!(
        "kill -0 {own} 2>&1 | grep -o 'No such process'; ls -d /proc/[0-9]* | grep -c /{own}$; stat -c %u:%g /v/closed; \
         (cat /v/closed) 2>&1 | grep -o denied; (echo x > /v/open) 2>&1 | grep -o denied; (echo x > /v/new) 2>&1 | grep -o denied; \
         (busybox chown 0 /v/open) 2>&1 | grep -o 'not permitted'; cat /v/open && echo yes > /v/anybody; echo"
    );
    let mut spec = mapped(rig.overlay(&script));
    let volume_bind = Bind { source: BindSource::Path(volume.clone()), subpath: String::new(), readonly: false };
    spec.mounts = vec![Mount { target: "/v".into(), kind: MountKind::Bind(volume_bind) }];
    let canary = rig.canary();
    let told = output(&spec).await;
    assert_eq!(told, "No such process\n0\n65534:65534\ndenied\ndenied\ndenied\nnot permitted\nopen\n");
    assert_eq!(rig.canary(), canary);
    assert_eq!(fs::read_to_string(volume.join("anybody")).unwrap(), "yes\n", "which anybody may write");
    assert_eq!(fs::read_dir(&volume).unwrap().count(), 3);
}

#[tokio::test]
async fn its_network_is_its_own_and_the_hosts_is_not() {
    let rig = Rig::new();
    let script = "ls /sys/class/net; ping -c 1 -W 5 127.0.0.1 > /dev/null && echo answered; \
                  (busybox nc -l -p 80 -w 1 2>&1 | grep -o denied); touch /sys/x 2>&1 | grep -o 'Read-only'";
    assert_eq!(output(&mapped(rig.overlay(script))).await, "lo\nanswered\nRead-only\n");
    let mut spec =
        mapped(rig.overlay("ls /sys/class/net | grep -x lo; busybox nc -l -p 80 -w 1 2>&1 | grep -o denied"));
    spec.network = Network::Host;
    assert_eq!(output(&spec).await, "lo\ndenied\n", "ports of the machine's root are not its");
}

#[tokio::test]
async fn an_insecure_step_has_all_capabilities_in_its_namespace_and_none_outside() {
    let rig = Rig::new();
    let kernel = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let script = "grep -c '^CapEff:.*[1-9a-f]' /proc/self/status; grep Seccomp: /proc/self/status | cut -f2; \
                  mkdir /m && mount -t tmpfs t /m && echo > /m/x && umount /m && echo mounted; hostname other && hostname; \
                  mount -o remount,dev / 2>&1 | grep -o denied; busybox mknod /x b 8 0 2>&1 | grep -o 'not permitted'; \
                  (echo 1 > /proc/sys/kernel/panic) 2>&1 | grep -o denied; umount /proc 2>&1 | grep -o Invalid";
    let mut spec = mapped(rig.overlay(script));
    spec.capabilities = own_capabilities().unwrap();
    spec.filter = false;
    spec.masked.clear();
    spec.read_only.clear();
    spec.kernel_writable = true;
    let told = output(&spec).await;
    assert_eq!(told, "1\n0\nmounted\nother\ndenied\nnot permitted\ndenied\nInvalid\n");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), kernel);
    assert!(plan(&spec).to_string().contains("enter the user namespace, with mounts and host name"));
}

#[tokio::test]
async fn caches_are_shared_with_steps_that_have_none_and_owners_mean_the_same_to_all() {
    let bench = Bench::new();
    let mount = || {
        let kind = op::MountKind::Cache { id: "x".into(), sharing: Shared };
        vec![op::Mount { kind, ..bind("/x", None, "", false, None) }]
    };
    let host = bench.step("echo host > /x/host; busybox chown 5:6 /x/host", mount(), &[&bench.base]).await.unwrap().1;
    assert_eq!(host, "");
    let mut steps = bench.worker.steps().clone();
    steps.user_namespace = Some(ids());
    let other = bench.beside(steps);
    let script =
        "stat -c %u:%g /x/host; echo ns > /x/ns; busybox chown 7:8 /x/ns; busybox chown 9 /x/host; stat -c %u:%g /x";
    let (result, told) = other.step(script, mount(), &[&bench.base]).await.unwrap();
    assert_eq!(told, "5:6\n0:0\n");
    let told = bench.step("stat -c %u:%g /x/host /x/ns", mount(), &[&bench.base]).await.unwrap().1;
    assert_eq!(told, "9:6\n7:8\n");
    // The context too: owned by root, and writable for a while.
    assert_eq!(other.own_tree(&result), None);
}

#[tokio::test]
async fn an_operation_that_asks_for_more_gets_it_within_its_namespace() {
    let bench = Bench::new();
    let mut steps = bench.worker.steps().clone();
    steps.user_namespace = Some(ids());
    steps.grants.insecure = true;
    let bench = bench.beside(steps);
    let mut op = exec("mount -t tmpfs t /tmp && echo mounted; head -n1 /proc/self/uid_map | cut -c1-10 | tr -d ' '");
    op.security = SecurityMode::Insecure;
    let (results, log) = bench.run(Op::Exec(Box::new(op)), vec![bench.base.clone()]).await;
    results.unwrap();
    assert_eq!(String::from_utf8(log.stdout.into_inner().unwrap()).unwrap(), "mounted\n0\n");
}

#[test]
fn a_file_system_that_cannot_map_owners_is_refused_with_its_name_and_a_way_on() {
    // On overlayfs, as in a container: mounted where nobody else sees it, by a process of its own.
    let rig = Rig::new();
    for name in ["o", "o/lower", "o/upper", "o/work", "o/at"] {
        fs::create_dir(rig.path(name)).unwrap();
    }
    let dir = rig.path("o");
    let ids = serde_json::to_string(&ids()).unwrap();
    let script = "mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work at && mkdir at/d && \
                  exec -a rbuild-userns \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "bash", "-c", script, "bash"]);
    command.arg(crate::support::helper()).arg(dir.join("at/d")).arg(ids).current_dir(&dir);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("overlayfs does not take id-mapped mounts") && said.contains("--userns=host"), "{said}");
    // And where it can be, it is.
    fs::create_dir(rig.path("try")).unwrap();
    try_store(&settings(), &rig.path("try"), &crate::support::ids()).unwrap();
}

#[tokio::test]
async fn ids_that_the_kernel_refuses_are_told_before_the_step() {
    let rig = Rig::new();
    let mut spec = mapped(rig.overlay("touch /ran"));
    // More lines than a map has: refused by the kernel, as everything about a map is.
    let one = spec.user_namespace.as_mut().unwrap();
    one.uids = vec![one.uids[0]; 2];
    let error = ran(&spec).await.map(|ran| ran.exit).unwrap_err().to_string();
    assert!(error.contains("user namespace of 65536 ids from"), "{error}");
    assert!(error.contains("map the ids of a user namespace (uid_map)"), "{error}");
    assert!(!rig.path("upper/ran").exists());
}
