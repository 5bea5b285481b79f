//! An ordinary user builds what root builds: the same bytes, with the same words.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::fake::{Fake, Reply};
use crate::support::rbuild::RBUILD;
use crate::support::user::User;
use crate::support::{Archive, Context, Outcome, Store, bases};

const EPOCH: u64 = 1_600_000_000;
/// Version 2, effective, CAP_NET_BIND_SERVICE. capabilities(7)
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A base image as a tar: the busybox tree, and beside it owners, set-id bits, capabilities, hard links, attributes.
pub(super) fn base(devices: bool) -> Vec<u8> {
    let mut tar = tar::Builder::new(std::fs::read(bases::busybox()).expect("it was made"));
    // The archive's end is written anew after more members.
    let end = tar.get_ref().iter().rposition(|byte| *byte != 0).expect("it holds something");
    tar.get_mut().truncate(end / 512 * 512 + 512);
    let mut add = |name: &str, kind: tar::EntryType, owner: (u64, u64), mode, xattrs: &[(&str, &[u8])], data: &[u8]| {
        let prefixed: Vec<_> = xattrs.iter().map(|(name, value)| (format!("SCHILY.xattr.{name}"), *value)).collect();
        if !prefixed.is_empty() {
            tar.append_pax_extensions(prefixed.iter().map(|(name, value)| (name.as_str(), *value))).expect("memory");
        }
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_uid(owner.0);
        header.set_gid(owner.1);
        header.set_mode(mode);
        header.set_mtime(1000);
        header.set_size(data.len() as u64);
        header.set_path(name).expect("a short name");
        match kind {
            tar::EntryType::Link => header.set_link_name("odd/plain").expect("a short name"),
            tar::EntryType::Char => {
                header.set_device_major(1).and_then(|()| header.set_device_minor(3)).expect("ustar has devices");
            }
            _ => {}
        }
        header.set_cksum();
        tar.append(&header, data).expect("memory takes everything");
    };
    use tar::EntryType as Kind;
    add("odd", Kind::Directory, (12, 34), 0o2775, &[("user.dir", b"d")], b"");
    add("odd/plain", Kind::Regular, (33, 44), 0o640, &[("user.note", b"a\0b")], b"plain");
    add("odd/hard", Kind::Link, (33, 44), 0o640, &[], b"");
    add("odd/suid", Kind::Regular, (1000, 50), 0o6755, &[], b"suid");
    add("odd/capable", Kind::Regular, (0, 0), 0o755, &[("security.capability", CAPABILITY)], b"capable");
    add("odd/last", Kind::Regular, (65534, 65535), 0o600, &[], b"last");
    add("odd/gone", Kind::Directory, (7, 7), 0o755, &[], b"");
    add("odd/gone/file", Kind::Regular, (7, 7), 0o644, &[], b"gone");
    if devices {
        add("odd/null", Kind::Char, (0, 0), 0o666, &[], b"");
        add("odd/zero", Kind::Char, (0, 0), 0o666, &[], b"");
    }
    tar.into_inner().expect("memory takes everything")
}

/// Builds that touch everything that a user namespace makes otherwise.
pub(super) const BUILDS: &[(&str, &str)] = &[
    (
        "owners, modes, links and deletions in steps",
        "FROM base\n\
         RUN mkdir -p /n/d && echo 1 > /n/d/x && chown 1234:4321 /n/d/x && chmod 6755 /n/d/x && ln /n/d/x /n/y && \
         ln -s y /n/s && mkfifo /n/pipe && chown -R 65534:65534 /n/d && chmod 1777 /n\n\
         RUN rm -rf /odd/gone && mkdir /odd/gone && echo new > /odd/gone/other && rm /odd/hard && chown 5:6 /odd/suid\n\
         RUN cp -p /odd/suid /n/suid && cp -a /odd /n/odd && mv /n/d /n/e && true > /dev/null\n",
    ),
    (
        "capabilities and attributes that steps carry along",
        "FROM base\nRUN mv /odd/capable /odd/moved && chown 9:9 /odd/plain && touch -d @5 /odd/capable2\n\
         COPY --from=base /odd/capable /odd/plain /kept/\nCOPY --from=base --chown=70:71 /odd /again\n",
    ),
    (
        "users and working directories",
        "FROM base\nUSER 33:44\nWORKDIR /w/deep\nUSER nobody\nRUN touch /tmp/mine && id -u | grep -qx 65534\n\
         USER 0\nRUN --network=none id -g | grep -qx 0 && ls /sys/class/net | grep -qx lo && touch /tmp/root\n",
    ),
    (
        "what is copied and unpacked",
        "FROM base AS one\nRUN echo 1 > /one && chown 77:78 /one\n\
         FROM base\nCOPY --chown=10:11 --chmod=4750 a /a\nCOPY --link --chown=12:13 d /linked/d\nADD archive.tar /unpacked/\n\
         COPY --from=one /one /odd/plain /from/\nCOPY <<TEXT /text\nhello\nTEXT\nRUN --mount=type=cache,target=/c \
         --mount=type=tmpfs,target=/t --mount=type=bind,target=/b echo x > /c/x && echo y > /t/y && cat /b/a > /copied\n",
    ),
];

pub(super) fn context(dockerfile: &str) -> Context {
    let context = Context::new(dockerfile).file("a", "a").file("d/x", "x");
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_uid(21);
    header.set_gid(22);
    header.set_mode(0o4711);
    header.set_size(1);
    header.set_mtime(7);
    archive.append_data(&mut header, "in/f", &b"f"[..]).expect("memory takes everything");
    context.file("archive.tar", archive.into_inner().expect("memory takes everything"))
}

/// A store of root and one of a user, both with the image `base`.
fn stores() -> (Store, Store) {
    let (root, user) = (Store::new(), Store::of(User::new()));
    let file = root.path("base.tar");
    std::fs::write(&file, base(false)).expect("the directory is new");
    root.rbuild(["import".as_ref(), file.as_os_str(), "base:latest".as_ref()]).ok();
    hand_over(&root, &user);
    (root, user)
}

/// Gives a store the very image `base` of another.
fn hand_over(from: &Store, to: &Store) {
    let image = to.path("image.tar");
    from.rbuild(["save".as_ref(), "-o".as_ref(), image.as_os_str(), "base".as_ref()]).ok();
    to.rbuild(["load".as_ref(), "-i".as_ref(), image.as_os_str()]).ok();
}

#[test]
fn a_user_and_root_build_the_same_image_byte_for_byte_and_so_does_root_in_user_namespaces() {
    let (root, user) = stores();
    let mapped = Store::new();
    hand_over(&root, &mapped);
    for (what, dockerfile) in BUILDS {
        let context = context(dockerfile);
        let built = |store: &Store, userns: &str| {
            let file = store.path("app.tar");
            let output = format!("type=oci,dest={}", file.display());
            let epoch = format!("SOURCE_DATE_EPOCH={EPOCH}");
            let args = ["--network=host", "--build-arg", &epoch, "-o", &output];
            store.build(&context, args.into_iter().chain(Some(userns).filter(|flag| !flag.is_empty()))).ok();
            (std::fs::read(&file).expect("it was written"), Archive::read(&file))
        };
        // First root: then the context is the user's.
        let theirs = built(&root, "--userns=host");
        for (who, mine) in [("root in user namespaces", built(&mapped, "--userns=auto")), ("a user", built(&user, ""))]
        {
            let entries = |image: &Archive| (0..image.len()).map(|layer| image.entries(layer)).collect::<Vec<_>>();
            assert_eq!(entries(&theirs.1), entries(&mine.1), "{what}, {who}");
            assert!(theirs.0 == mine.0, "{what}, {who}: the archives differ");
        }
    }
    for store in [&user, &mapped] {
        store.rbuild(["verify"]).ok();
        store.rbuild(["prune", "--all", "--force"]).ok();
    }
}

#[test]
fn a_users_outputs_belong_to_the_user() {
    let (_, user) = stores();
    let context = context("FROM base\nRUN chown 3:4 /odd/plain\n");
    let at = |name: &str| user.path(name).display().to_string();
    let outputs =
        ["type=local,dest=", "type=tar,dest=", "type=oci,dest="].map(|kind| format!("{kind}{}", at(&kind[5..8])));
    let (iid, metadata) = (at("iid"), at("metadata"));
    let mut words = vec!["--network=none", "--iidfile", &iid, "--metadata-file", &metadata];
    words.extend(outputs.iter().flat_map(|output| ["-o", output]));
    user.build(&context, words).ok();
    let id = user.user().expect("it has one").id;
    for name in ["iid", "metadata", "loc", "loc/odd/plain", "loc/bin/busybox", "tar", "oci"] {
        let facts = user.path(name).symlink_metadata().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((facts.uid(), facts.gid()), (id, id), "{name}");
    }
    // The store is closed to others, and its trees have owners that only the user can have made.
    let layers = std::fs::read_dir(user.root().join("layers")).expect("there are layers");
    let owner = |layer: std::io::Result<std::fs::DirEntry>| {
        layer.expect("it can be read").path().join("odd/plain").symlink_metadata().map(|facts| facts.uid()).ok()
    };
    let owners: Vec<u32> = layers.filter_map(owner).collect();
    assert!(!owners.is_empty() && owners.iter().all(|owner| *owner >= 65536), "{owners:?}");
}

#[test]
fn a_user_without_subordinate_ids_builds_what_belongs_to_root_and_is_told_the_rest() {
    let user = Store::of_with_busybox(User::without_ids());
    let built = user.build(
        &Context::new("FROM busybox\nRUN id -u > /id && mkdir /d\nCOPY Dockerfile /d/\n"),
        ["--network=none", "-t", "a"],
    );
    built.ok().says(&[
        "can only belong to root",
        "`/etc/subuid` gives no ids",
        "sudo usermod --add-subuids",
        "`chown`",
    ]);
    user.build(&Context::new("FROM busybox\nRUN chown 33 /bin/sh\n"), ["--network=none"]).exits(1);
    user.build(&Context::new("FROM busybox\nCOPY --chown=33 Dockerfile /x\n"), ["--network=none"])
        .fails_saying(&["change the owner", "rbuild doctor"]);
    user.build(&Context::new("FROM busybox\nUSER 33\nRUN true\n"), ["--network=none"])
        .fails_saying(&["33", "rbuild doctor"]);
    let doctor = user.rbuild(["doctor"]).ok();
    assert!(doctor.stdout.contains("warning  subordinate ids"), "{doctor}");
}

#[test]
fn set_uid_programs_that_are_powerless_leave_the_user_its_own_id() {
    let user = Store::of_with_busybox(User::new());
    let context = Context::new("FROM busybox\nRUN id -u > /id\n");
    user.user().expect("it has one").give(context.path());
    let plain = user.build_command(&context, ["--network=none"]);
    let id = user.user().expect("it has one").id.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--no-new-privs", "--reuid", &id, "--regid", &id, "--clear-groups"]);
    command.arg(user.program()).args(plain.get_args());
    command.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Outcome::of(command.current_dir(user.home())).ok().says(&["the ids of the user cannot be mapped", "no_new_privs"]);
}

#[test]
fn devices_of_an_image_are_left_out_and_that_is_said() {
    let user = Store::of(User::new());
    let file = user.path("base.tar");
    std::fs::write(&file, base(true)).expect("the directory is new");
    user.rbuild(["import".as_ref(), file.as_os_str(), "base:latest".as_ref()]).ok().says(&["2 devices were left out"]);
    let context =
        Context::new("FROM base\nRUN test ! -e /odd/null && head -c 9 /dev/zero > /dev/null\nRUN mknod /x c 1 3\n");
    user.build(&context, ["--network=host"]).exits(1).says(&["RUN mknod", "not permitted"]);
}

#[test]
fn a_step_sees_the_same_devices_and_file_systems_as_roots() {
    let stores = [Store::with_busybox(), Store::of_with_busybox(User::new())];
    let script = "FROM busybox\nRUN ls -1 /dev /dev/pts && cd /dev && stat -c '%n %a %t:%T' null zero full random urandom tty && \
                  grep -c . /proc/self/limits && cat /proc/self/setgroups && ls /sys/fs/cgroup && ! touch /sys/x 2>/dev/null && \
                  ! touch /proc/sys/kernel/x 2>/dev/null && grep -E '^(Cap|Seccomp|NoNew)' /proc/self/status && hostname && \
                  for n in mnt pid uts ipc cgroup; do test -e /proc/self/ns/$n; done && echo $$\n";
    for network in ["--network=host", "--network=none"] {
        let context = Context::new(script);
        let said = |store: &Store| {
            let outcome = store.build(&context, [network, "--no-cache"]).ok();
            let lines = outcome.stderr.lines().filter_map(|line| {
                let (number, rest) = line.strip_prefix('#')?.split_once(' ')?;
                let (time, text) = rest.split_once(' ')?;
                (number.parse::<u32>().is_ok() && time.parse::<f64>().is_ok()).then(|| text.to_owned())
            });
            lines.collect::<Vec<_>>()
        };
        let (root, user) = (said(&stores[0]), said(&stores[1]));
        assert!(root.len() > 20, "{root:?}");
        assert_eq!(root, user, "{network}");
    }
}

#[test]
fn programs_of_the_users_own_run_as_the_user() {
    let user = Store::of(User::new());
    let bin = user.path("bin");
    std::fs::create_dir(&bin).expect("the directory is new");
    let said = user.path("home/said");
    let script = format!("#!/bin/sh\nid -u > {0}; id -g >> {0}; echo \"$HOME\" >> {0}\nexit 1\n", said.display());
    for name in ["ssh", "docker-credential-test"] {
        let path = bin.join(name);
        std::fs::write(&path, &script).expect("the directory is new");
        Outcome::of(Command::new("chmod").arg("755").arg(&path)).ok();
    }
    std::fs::create_dir(user.home().join(".docker")).expect("it is new");
    std::fs::write(user.home().join(".docker/config.json"), r#"{"credsStore":"test"}"#).expect("it is new");
    user.user().expect("it has one").give(&user.path(""));
    let id = user.user().expect("it has one").id;
    let closed = Fake::start(|_| Reply::new(401, "").header("WWW-Authenticate", "Basic realm=\"closed\""));
    let _agent = std::os::unix::net::UnixListener::bind(user.path("agent")).expect("the directory is new");
    user.user().expect("it has one").give(&user.path("agent"));
    let given = format!("--ssh=default={}", user.path("agent").display());
    let from_closed = format!("FROM {}/none:1\n", closed.address);
    for (what, dockerfile, options) in [
        (
            "ssh",
            "FROM scratch\nCOPY --from=x / /\n",
            &["--build-context=x=ssh://git@127.0.0.1:1/x.git", given.as_str()][..],
        ),
        ("helper", &from_closed, &[]),
    ] {
        let context = Context::new(dockerfile);
        let mut command = user.build_command(&context, options);
        let path = format!("{}:/usr/bin:/bin", bin.display());
        let outcome = Outcome::of(command.env("PATH", path)).exits(1);
        let text = std::fs::read_to_string(&said).unwrap_or_default();
        assert!(text.starts_with(&format!("{id}\n{id}\n")), "{what}: {text}: {outcome}");
        std::fs::remove_file(&said).expect("it is there");
    }
}

#[test]
fn a_rung_that_was_asked_for_is_had_or_refused() {
    let user = Store::of_with_busybox(User::new());
    let context = Context::new("FROM busybox\nRUN true\n");
    user.build(&context, ["--isolation=full", "--network=none"]).fails_saying(&["CAP_SYS_ADMIN", "rbuild doctor"]);
    user.build(&context, ["--isolation=chroot"]).fails_saying(&["it needs uid 0"]);
    user.build(&context, ["--isolation=rootless", "--network=none"]).ok().never_says(&["note"]);
    user.build(&context, ["--isolation=auto", "--network=none"]).ok().says(&["this is `rootless`", "device nodes"]);
    let mut command = user.build_command(&context, ["--network=none"]);
    Outcome::of(command.env("RBUILD_ISOLATION", "full")).fails_saying(&["CAP_SYS_ADMIN"]);

    let root = Store::with_busybox();
    root.build(&context, ["--isolation=full", "--network=none"]).ok();
    root.build(&context, ["--isolation=auto", "--network=none"]).ok().never_says(&["note"]);
    // Its layers have the other form of marks.
    root.build(&context, ["--isolation=rootless", "--network=none"])
        .fails_saying(&["was made with the rights of root", "--root"]);
    let other = Store::new();
    other
        .rbuild(["--isolation=rootless".as_ref(), "import".as_ref(), bases::busybox().as_os_str(), "busybox".as_ref()])
        .ok();
    let context = Context::new("FROM busybox\nRUN test $(id -u) = 0 && chown 70000 /bin/sh && ! mknod /x c 1 3\n");
    other.build(&context, ["--isolation=rootless", "--network=none"]).ok();
    other.rbuild(["images"]).fails_saying(&["was made in a user namespace"]);
}

#[test]
fn a_machine_that_refuses_user_namespaces_is_told_with_what_to_do() {
    let store = Store::new();
    // A user namespace has a limit of its own, so that none of the machine's is touched.
    let refused = |words: &str| {
        let script = format!("echo 0 > /proc/sys/user/max_user_namespaces && exec {RBUILD} {words}");
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script]);
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", store.home()).env("RBUILD_ROOT", store.root());
        Outcome::of(&mut command)
    };
    let fix = "sudo sysctl user.max_user_namespaces=15000";
    refused("--isolation=rootless images").fails_saying(&["`user.max_user_namespaces` is 0", fix, "rbuild doctor"]);
    let doctor = refused("--isolation=rootless doctor").exits(1);
    assert!(doctor.stdout.contains("problem  isolation"), "{doctor}");
    assert!(doctor.stdout.contains(fix) && doctor.stdout.ends_with("Builds cannot run here\n"), "{doctor}");
}

#[test]
fn the_doctor_looks_at_everything_for_root_and_for_users() {
    for (store, rung) in [(Store::new(), "`full`"), (Store::of(User::new()), "`rootless`")] {
        let outcome = store.rbuild(["doctor", "--format", "json"]).ok();
        let report: Value = serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"));
        assert_eq!(report["can_build"], true, "{outcome}");
        let checks = report["checks"].as_array().expect("a list");
        let trials = ["isolation", "overlayfs", "/proc for steps", "network of steps"];
        for name in
            ["kernel", "user namespaces", "control groups", "other processors", "disk"].into_iter().chain(trials)
        {
            assert!(checks.iter().any(|check| check["name"] == name), "{name}: {outcome}");
        }
        let isolation = checks.iter().find(|check| check["name"] == "isolation").expect("seen above");
        assert!(isolation["found"].as_str().is_some_and(|found| found.starts_with(rung)), "{outcome}");
        assert!(!store.root().exists(), "the doctor makes no store");
    }
}

#[test]
fn a_killed_build_of_a_user_leaves_nothing_that_the_next_does_not_sweep() {
    let user = Store::of_with_busybox(User::new());
    let context = Context::new("FROM busybox\nRUN mkdir /x && chown 33:33 /x && echo began && sleep 1000\n");
    let mut child = user
        .build_command(&context, ["--network=none"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let lines = std::io::BufRead::lines(std::io::BufReader::new(child.stderr.take().expect("it is piped")));
    for line in lines {
        if line.expect("it is text").ends_with(" began") {
            break;
        }
    }
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
    assert_eq!(user.drafts().len(), 1);
    user.build(&Context::new("FROM busybox\nRUN true\n"), ["--network=none"]).ok();
    assert_eq!(user.drafts().len(), 0);
}

#[test]
fn packages_are_installed_without_root() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let user = Store::of(User::new());
    user.rbuild(["import".as_ref(), bases::debian().as_os_str(), "debian:12-slim".as_ref()]).ok();
    let context = Context::new(
        "FROM debian:12-slim\n\
         RUN --mount=type=bind,source=host,target=/mnt \\\n\
             export APT_CONFIG=/mnt/apt.conf DEBIAN_FRONTEND=noninteractive && apt-get update && \\\n\
             apt-get install --yes --no-install-recommends iputils-ping cron && rm -rf /var/lib/apt/lists/* && \\\n\
             stat -c '%n %U:%G %a' /usr/bin/crontab\n",
    );
    Outcome::of(Command::new(examples.join("host.sh")).arg(context.path().join("host"))).ok();
    let outcome = user.build(&context, ["--network=host", "-t", "app:1"]).ok();
    assert_eq!(outcome.lines_of_steps("/usr/bin/crontab root:crontab 2755"), 1, "{outcome}");
    // To a pipe that is not the user's.
    let found = user.rbuild(["run", "app:1", "sh", "-c", "ls -l /usr/bin/ping"]).ok();
    assert!(found.stdout.contains("/usr/bin/ping"), "{found}");
}
