//! In a pod without privileges, where nothing can be mounted and no namespace made, root builds what it builds elsewhere.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::rootless::{BUILDS, base, context};
use crate::support::pod::{Pod, USUAL};
use crate::support::{Archive, Context, Outcome, Store, bases, tree};

const EPOCH: &str = "SOURCE_DATE_EPOCH=1600000000";
/// Numbers of capabilities. capabilities(7), linux/capability.h.
const FLOOR: [(u64, &str); 4] = [(0, "CAP_CHOWN"), (1, "CAP_DAC_OVERRIDE"), (3, "CAP_FOWNER"), (18, "CAP_SYS_CHROOT")];
const MKNOD: u64 = 1 << 27;

/// Builds whose set-up leaves traces where it is not taken back.
const OWN_BUILDS: &[(&str, &str)] = &[
    (
        "the image's own files where the set-up puts its own",
        "FROM base\nCOPY a /etc/resolv.conf\nCOPY a /etc/hosts\nCOPY a /etc/hostname\nCOPY d /dev/\nCOPY d /proc/\n\
         RUN (touch -d @1000000007 /etc/resolv.conf /etc/hosts || :) 2>/dev/null\n\
         RUN grep -q localhost /etc/hosts && test ! -e /dev/x && test -w /dev/null && (echo more >> /etc/resolv.conf || :)\n\
         RUN echo one > /dev/shm/x && echo two > /etc/own\n",
    ),
    (
        "links where the set-up puts its own",
        "FROM base AS one\nRUN mkdir /e && ln -s ../run/deep/stub.conf /e/resolv.conf\n\
         FROM base\nCOPY --from=one /e/ /etc/\nRUN test -f /etc/resolv.conf && echo 1 > /one\n\
         RUN ls /run > /two && echo 3 > /run/three\n",
    ),
    (
        "directories replaced by others, files by directories, and back",
        "FROM base\nRUN mkdir -p /x/a /x/b && echo 1 > /x/a/1 && echo 2 > /x/b/2 && echo 3 > /x/c\n\
         RUN rm -r /x/a && mkdir /x/a && echo 4 > /x/a/4 && rm /x/c && mkdir /x/c && rm -r /x/b && echo 5 > /x/b\n\
         RUN rm -r /x && mkdir /x && touch /x/new && rm -r /odd/gone\n",
    ),
    (
        "mounts in directories of the image and in none",
        "FROM base\nRUN mkdir -p /full && echo image > /full/file && chown 8:9 /full\n\
         RUN --mount=type=cache,target=/full --mount=type=cache,target=/new/deep,id=deep \
         --mount=type=tmpfs,target=/full/memory --mount=type=bind,target=/etc/bound,source=d \
         --mount=type=bind,from=base,source=/odd/plain,target=/odd/file \
         test ! -e /full/file && echo 1 > /full/file && echo 2 > /new/deep/2 && echo 3 > /full/memory/3 && \
         cat /etc/bound/x /odd/file > /copied\n\
         RUN --mount=type=cache,target=/full grep -qx 1 /full/file && ls / > /names\n",
    ),
];

/// A store of root's and one in a pod, both with the image `base`.
fn stores() -> (Store, Pod) {
    let (root, pod) = (Store::new(), Pod::new());
    let (file, image) = (root.path("base.tar"), pod.store.path("image.tar"));
    std::fs::write(&file, base(false)).expect("the directory is new");
    root.rbuild(["import".as_ref(), file.as_os_str(), "base:latest".as_ref()]).ok();
    root.rbuild(["save".as_ref(), "-o".as_ref(), image.as_os_str(), "base".as_ref()]).ok();
    Outcome::of(&mut pod.rbuild(&["load", "-i", &image.display().to_string()])).ok();
    (root, pod)
}

#[test]
fn a_pod_builds_the_same_image_byte_for_byte() {
    let (root, pod) = stores();
    for (what, dockerfile) in BUILDS.iter().chain(OWN_BUILDS) {
        // There is no `/sys`, and no network but the pod's.
        let dockerfile = dockerfile.replace(" --network=none", "").replace(" && ls /sys/class/net | grep -qx lo", "");
        // Overlayfs parts names of layers beneath that share a file, when one is written to; and it renames no directory
        // of theirs, which mv(1) then copies.
        let dockerfile = dockerfile.replace("mv /n/d /n/e", "cp -a /n/d /n/e && rm -r /n/d");
        let dockerfile = dockerfile.replace("chown 9:9 /odd/plain", "chown 9:9 /odd/last");
        let context = context(&dockerfile);
        let read = |file: &Path, outcome: Outcome| {
            outcome.ok();
            (std::fs::read(file).expect("it was written"), Archive::read(file))
        };
        let output = |file: &Path| format!("type=oci,dest={}", file.display());
        let (mine, theirs) = (root.path("app.tar"), pod.store.path("app.tar"));
        let at_root = read(&mine, root.build(&context, ["--network=host", "--build-arg", EPOCH, "-o", &output(&mine)]));
        let in_pod = read(&theirs, pod.build(&context, &["--build-arg", EPOCH, "-o", &output(&theirs)]));
        let entries = |image: &Archive| (0..image.len()).map(|layer| image.entries(layer)).collect::<Vec<_>>();
        for (index, (one, other)) in entries(&at_root.1).iter().zip(&entries(&in_pod.1)).enumerate() {
            assert_eq!(one, other, "{what}, layer {index}");
        }
        assert!(at_root.0 == in_pod.0, "{what}: the archives differ");
    }
    Outcome::of(&mut pod.rbuild(&["verify"])).ok();
    assert_eq!(pod.store.drafts(), Vec::<std::ffi::OsString>::new());
}

#[test]
fn packages_are_installed_in_a_pod() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let pod = Pod::new();
    let debian = bases::debian().display().to_string();
    Outcome::of(&mut pod.rbuild(&["import", &debian, "debian:12-slim"])).ok();
    let context = Context::new(
        "FROM debian:12-slim\n\
         RUN --mount=type=bind,source=host,target=/mnt --mount=type=cache,target=/var/cache/apt \\\n\
             export APT_CONFIG=/mnt/apt.conf DEBIAN_FRONTEND=noninteractive && apt-get update && \\\n\
             apt-get install --yes --no-install-recommends iputils-ping cron && rm -rf /var/lib/apt/lists/* && \\\n\
             stat -c '%n %U:%G %a' /usr/bin/crontab\n\
         RUN crontab -l || stat -c 'still %U:%G %a' /usr/bin/crontab\n",
    );
    Outcome::of(Command::new(examples.join("host.sh")).arg(context.path().join("host"))).ok();
    let outcome = pod.build(&context, &["-t", "app:1"]).ok();
    assert_eq!(outcome.lines_of_steps("/usr/bin/crontab root:crontab 2755"), 1, "{outcome}");
    assert_eq!(outcome.lines_of_steps("still root:crontab 2755"), 1, "{outcome}");
}

#[test]
fn less_than_the_floor_is_refused_by_name() {
    let context = Context::new("FROM scratch\nCOPY Dockerfile /\n");
    for (bit, name) in FLOOR {
        let pod = Pod { capabilities: USUAL & !(1 << bit), ..Pod::new() };
        pod.build(&context, &[]).fails_saying(&[&format!("{name} is missing"), "--cap-add", "rbuild doctor"]);
    }
    let floor = FLOOR.iter().fold(0, |mask, (bit, _)| mask | 1 << bit);
    let pod = Pod { capabilities: floor, ..Pod::with_busybox() };
    let context = Context::new("FROM busybox\nRUN mkdir /d && chown 33:33 /d && rm /bin/ash && echo built\n");
    assert_eq!(pod.build(&context, &[]).ok().lines_of_steps("built"), 1);
    // It can do no more than it has.
    pod.build(&Context::new("FROM busybox\nUSER 33\nRUN true\n"), &[]).exits(1).says(&["set the", "33"]);
    let user = Store::of(crate::support::user::User::new());
    user.rbuild(["--isolation=chroot", "images"]).fails_saying(&["it needs uid 0", "runAsUser: 0"]);
}

#[test]
fn only_auto_takes_the_rung_by_itself_and_it_says_why() {
    let pod = Pod::with_busybox();
    let context = Context::new("FROM busybox\nRUN echo ran\n");
    let isolation = |rung: &str| {
        let mut command = pod.build_command(&context, &["--no-cache"]);
        command.env_remove("RBUILD_ISOLATION");
        if !rung.is_empty() {
            command.env("RBUILD_ISOLATION", rung);
        }
        Outcome::of(&mut command)
    };
    isolation("").fails_saying(&["CAP_SYS_ADMIN", "`chroot`"]);
    isolation("full").fails_saying(&["CAP_SYS_ADMIN"]);
    isolation("rootless").exits(1).says(&["user namespace"]);
    let auto = isolation("auto").ok();
    assert_eq!(auto.lines_of_steps("ran"), 1);
    let said =
        auto.says(&["this is `chroot`", "`full` cannot be had: CAP_SYS_ADMIN is missing", "`rootless` cannot be had"]);
    assert_eq!(said.stderr.lines().filter(|line| line.contains("this is `chroot`")).count(), 1, "{said}");
    isolation("chroot").ok().says(&["`--isolation=chroot`", "not kept apart", "network", "/proc"]);

    let doctor = Outcome::of(pod.rbuild(&["doctor"]).env("RBUILD_ISOLATION", "auto")).ok();
    for words in [
        "rung `full`",
        "cannot be had: CAP_SYS_ADMIN is missing",
        "rung `rootless`",
        "rung `chroot`",
        "devices for steps",
    ] {
        assert!(doctor.stdout.contains(words), "{words}: {doctor}");
    }
    assert!(doctor.stdout.ends_with("Builds can run here\n"), "{doctor}");
}

#[test]
fn what_cannot_be_had_is_refused_before_anything_runs() {
    let pod = Pod::with_busybox();
    std::fs::write(pod.store.path("secret"), "hunter2hunter2").expect("it is new");
    let secret = format!("id=s,src={}", pod.store.path("secret").display());
    let first = "FROM busybox\nRUN echo ran\n";
    for (step, flags, words) in [
        ("RUN --mount=type=secret,id=s true", vec!["--secret", &secret], ["a secret as a file", "env=NAME"]),
        ("RUN --network=none true", vec![], ["`--network=none`", "--isolation=chroot"]),
        (
            "RUN --security=insecure true",
            vec!["--allow", "security.insecure"],
            ["`--security=insecure`", "root of this"],
        ),
        ("RUN --mount=type=tmpfs,target=/t,size=1m true", vec![], ["size of a memory mount", "size="]),
        ("RUN true", vec!["--hostname", "other"], ["a host name", "--hostname"]),
        ("RUN true", vec!["--shm-size", "1m"], ["`/dev/shm`", "--shm-size"]),
    ] {
        let outcome = pod.build(&Context::new(&format!("{first}{step}\n")), &flags).exits(1).says(&words);
        assert_eq!(outcome.lines_of_steps("ran"), 0, "{step}: {outcome}");
    }
    let context =
        Context::new("FROM busybox\nRUN --mount=type=secret,id=s,env=S test \"$S\" = hunter2hunter2 && echo $S\n");
    let outcome = pod.build(&context, &["--secret", &secret]).ok();
    assert_eq!(outcome.lines_of_steps("***"), 1, "{outcome}");
    let run = Outcome::of(&mut pod.rbuild(&["run", "busybox", "sh", "-c", "echo it is $(id -u)"])).ok();
    assert!(run.stdout.contains("it is 0"), "{run}");
    Outcome::of(&mut pod.rbuild(&["run", "-v", "/etc:/x", "busybox", "true"])).fails_saying(&["a volume"]);
}

#[test]
fn a_secret_that_a_step_writes_is_found_though_its_tree_is_whole() {
    let pod = Pod::with_busybox();
    let flags = ["--secret", "id=s,env=SECRET"];
    let build = |step: &str| {
        let context = Context::new(&format!(
            "FROM busybox\nCOPY Dockerfile /before\nRUN --mount=type=secret,id=s,env=S {step}\n"
        ));
        Outcome::of(pod.build_command(&context, &flags).env("SECRET", "in the file: hunter2hunter2"))
    };
    build("echo \"$S\" > /leak").exits(1).says(&["leak", "`s`"]);
    build("test -n \"$S\" && echo fine > /x").ok();
    // What was there before is not the step's.
    let context = Context::new("FROM busybox\nCOPY note /note\nRUN --mount=type=secret,id=s,env=S true\n");
    let context = context.file("note", "in the file: hunter2hunter2");
    Outcome::of(pod.build_command(&context, &flags).env("SECRET", "in the file: hunter2hunter2")).ok();
}

#[test]
fn caches_keep_what_steps_put_there_and_their_files_are_never_a_layers() {
    let pod = Pod::with_busybox();
    let build = |script: &str, tag: &str| {
        let dockerfile = format!("FROM busybox\nRUN --mount=type=cache,target=/c/deep,id=one {script}\n");
        pod.build(&Context::new(&dockerfile), &["--no-cache", "-t", tag]).ok()
    };
    // Links between cache and image share a file only as long as the step runs.
    build(
        "echo 1 > /c/deep/kept && ln /c/deep/kept /linked && ln /bin/busybox /c/deep/busybox && chown 5:6 /c/deep",
        "a:1",
    );
    let before = layers(&pod);
    let outcome = build(
        "cat /c/deep/kept && stat -c 'owner %u:%g' /c/deep && echo 2 > /c/deep/kept && echo x >> /c/deep/busybox",
        "b:1",
    );
    assert_eq!((outcome.lines_of_steps("1"), outcome.lines_of_steps("owner 5:6")), (1, 1), "{outcome}");
    assert_unchanged(&before, &pod);
    // Wherever the step moves it, it goes home.
    build("cd / && mv /c/deep /c/moved && mv /c /d", "c:1");
    let outcome = build("cat /c/deep/kept && rm -r /c/deep && ls /", "d:1");
    assert_eq!(outcome.lines_of_steps("2"), 1, "{outcome}");
    let outcome = build("ls -A /c/deep && stat -c 'owner %u:%g' /c/deep && echo 3 > /c/deep/kept", "e:1");
    assert_eq!((outcome.lines_of_steps("kept"), outcome.lines_of_steps("owner 5:6")), (0, 1), "{outcome}");
    let context = Context::new("FROM c:1\nRUN ls /d && ls -A /d\nFROM a:1\nCOPY --from=0 /d /d\nRUN cat /linked\n");
    let outcome = pod.build(&context, &[]).ok();
    assert_eq!((outcome.lines_of_steps("moved"), outcome.lines_of_steps("1")), (0, 1), "{outcome}");
    // A read-only one is a copy.
    let readonly = "FROM busybox\nRUN --mount=type=cache,target=/c,id=one,ro cat /c/kept && echo 9 > /c/kept\n";
    assert_eq!(pod.build(&Context::new(readonly), &["--no-cache"]).ok().lines_of_steps("3"), 1);
    assert_eq!(build("cat /c/deep/kept", "f:1").lines_of_steps("3"), 1);
}

#[test]
fn steps_never_write_into_layers_of_the_store() {
    let pod = Pod::with_busybox();
    let first = "FROM busybox AS one\nRUN mkdir -p /d/e && echo 1 > /d/e/f && ln /d/e/f /d/g && mkfifo /p\n";
    pod.build(&Context::new(first), &[]).ok();
    let before = layers(&pod);
    let second = format!(
        "{first}RUN echo 2 > /d/e/f && chmod 600 /d/g && chown 7:7 /bin/busybox && rm -r /d/e && touch -d @5 /p && \
         for f in /bin/*; do echo x >> $f 2>/dev/null; break; done\n\
         FROM one\nCOPY Dockerfile /d/e/f\nCOPY --from=one --chmod=700 --chown=3:3 /d /d\nWORKDIR /d/e/h\n"
    );
    pod.build(&Context::new(&second), &["--build-arg", EPOCH]).ok();
    assert_unchanged(&before, &pod);
}

#[test]
fn nothing_of_a_step_outlives_it() {
    let pod = Pod::with_busybox();
    let number = format!("7{:08}", std::process::id());
    let strays = format!(
        "trap '' TERM INT HUP; setsid sleep {number} & (setsid sh -c 'sleep {number} & sleep {number}' &) ; \
         (sh -c 'trap \"\" HUP TERM; (sleep {number} &) ' &) ; sleep {number} & "
    );
    let build = |end: &str, flags: &[&str]| {
        let context = Context::new(&format!("FROM busybox\nRUN {strays} {end}\n"));
        let outcome = pod.build(&context, flags);
        assert_eq!(processes_with(&number), 0, "{end}: {outcome}");
        outcome
    };
    build("true", &[]).ok();
    build("false", &[]).exits(1);
    build("sleep 1000", &["--timeout", "1s"]).exits(1).says(&["timeout"]);
    assert_eq!(pod.store.drafts(), Vec::<std::ffi::OsString>::new());
}

#[test]
fn a_killed_build_leaves_no_process_and_the_next_one_finds_its_cache() {
    let pod = Pod::with_busybox();
    let number = format!("8{:08}", std::process::id());
    let mount = "RUN --mount=type=cache,target=/var/c,id=k";
    let first = Context::new(&format!(
        "FROM busybox\n{mount} echo found > /var/c/x && (setsid sleep {number} &) && echo began && sleep {number}\n"
    ));
    let mut child = pod.build_command(&first, &[]).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
    let began = lines.map_while(Result::ok).any(|line| line.ends_with(" began"));
    assert!(began, "the step ended");
    child.kill().expect("it is ours");
    child.wait().expect("it is ours");
    // It waits for the cache until the dead build's helper has sent it home.
    let next = pod.build(&Context::new(&format!("FROM busybox\n{mount} cat /var/c/x\n")), &[]).ok();
    assert_eq!(next.lines_of_steps("found"), 1, "{next}");
    assert_eq!(processes_with(&number), 0, "{next}");
    pod.build(&Context::new("FROM busybox\nRUN true\n"), &[]).ok();
    assert_eq!(pod.store.drafts(), Vec::<std::ffi::OsString>::new());
    Outcome::of(&mut pod.rbuild(&["verify"])).ok();
}

#[test]
fn without_the_right_to_make_devices_null_is_a_file_and_that_is_said() {
    let pod = Pod { capabilities: USUAL & !MKNOD, ..Pod::with_busybox() };
    let script = "FROM busybox\nRUN echo gone > /dev/null && test -f /dev/null && test ! -e /dev/zero && ls -A /dev\n\
                  RUN test -f /dev/null && test ! -s /dev/null && rm -r /bin/ash && test ! -e /bin/ash && echo fine\n";
    let outcome = pod.build(&Context::new(script), &["-t", "a:1"]).ok().says(&["without devices", "/dev/null"]);
    assert_eq!(outcome.lines_of_steps("fine"), 1, "{outcome}");
    for layer in layers(&pod) {
        assert!(!layer.1.lines().any(|line| line.starts_with("dev/null")), "{layer:?}");
    }
    let pod = Pod::with_busybox();
    let script = "FROM busybox\nRUN head -c 3 /dev/zero > /dev/null && test -c /dev/null && test -c /dev/urandom\n";
    pod.build(&Context::new(script), &[]).ok().never_says(&["without devices"]);
}

#[test]
fn a_step_has_the_usual_capabilities_at_most_and_nothing_of_the_builders() {
    let pod = Pod::with_busybox();
    let probe = crate::probe::program(crate::probe::Width::Native);
    let context = Context::new(
        "FROM busybox\nCOPY --chmod=755 probe /probe\nRUN umask; /probe environment; pwd; cat /etc/hosts\n",
    )
    .file("probe", std::fs::read(probe).expect("it was built"));
    let mut command = pod.build_command(&context, &[]);
    let outcome = Outcome::of(command.env("BUILDER_ONLY", "seen")).ok();
    assert_eq!(outcome.lines_of_steps("0022"), 1, "{outcome}");
    assert!(!outcome.stderr.contains("BUILDER_ONLY"), "{outcome}");
    // As full root, all that is more than usual is taken away.
    let root = Store::with_busybox();
    let context = Context::new("FROM busybox\nRUN mknod /ok c 1 3 && ! nice -n -5 true && echo bounded\n");
    let outcome = root.build(&context, ["--isolation=chroot"]).ok();
    assert_eq!(outcome.lines_of_steps("bounded"), 1, "{outcome}");
}

#[test]
fn a_disk_limit_counts_what_the_step_writes_not_what_it_stands_on() {
    let pod = Pod::with_busybox();
    let base = Context::new("FROM busybox\nRUN head -c 30000000 /dev/zero > /big\n");
    pod.build(&base, &["-t", "big:1"]).ok();
    let small = Context::new("FROM big:1\nRUN head -c 1000000 /dev/zero > /small && echo fits\n");
    assert_eq!(pod.build(&small, &["--disk-limit", "20m"]).ok().lines_of_steps("fits"), 1);
    let large = Context::new("FROM big:1\nRUN while :; do head -c 5000000 /dev/zero >> /more; done\n");
    pod.build(&large, &["--disk-limit", "20m"]).exits(1).says(&["and the limit is 19 MiB"]);
}

#[test]
fn auto_shares_the_machines_network_where_there_is_no_driver_and_says_so() {
    let store = Store::with_busybox();
    let config = store.home().join(".config/rbuild/config.toml");
    std::fs::create_dir_all(config.parent().expect("it has one")).expect("the home is new");
    std::fs::write(&config, "[network]\ndriver = 'slirp4netns'\n").expect("it is new");
    let own = std::fs::read_link("/proc/self/ns/net").expect("there is one").display().to_string();
    let build = |flags: &[&str], step: &str| {
        let context = Context::new(&format!("FROM busybox\nRUN echo one\nRUN {step} readlink /proc/self/ns/net\n"));
        Outcome::of(store.build_command(&context, flags).env("PATH", "/nowhere"))
    };
    build(&[], "").fails_saying(&["steps cannot have a network of their own", "slirp4netns"]);
    let shared = build(&["--isolation=auto", "--no-cache"], "").ok();
    assert_eq!(shared.lines_of_steps(&own), 1, "{shared}");
    let said = shared.stderr.lines().filter(|line| line.contains("they share this machine's")).count();
    assert_eq!(said, 1, "{shared}");
    let none = build(&["--isolation=auto", "--no-cache"], "--network=none").ok();
    assert_eq!(none.lines_of_steps(&own), 0, "{none}");
}

/// Every layer of the store, as text.
fn layers(pod: &Pod) -> Vec<(PathBuf, String)> {
    let entries = std::fs::read_dir(pod.store.root().join("layers")).expect("there is a store");
    let paths = entries.map(|entry| entry.expect("it can be read").path());
    paths.map(|path| (path.clone(), tree::list(&path))).collect()
}

/// Every layer that was there is as it was.
#[track_caller]
fn assert_unchanged(before: &[(PathBuf, String)], pod: &Pod) {
    let after = layers(pod);
    for (path, listed) in before {
        let (_, now) = after.iter().find(|(other, _)| other == path).expect("it is still there");
        assert_eq!(listed, now, "{path:?}");
    }
}

/// How many processes of this machine have this argument.
fn processes_with(argument: &str) -> usize {
    let processes = std::fs::read_dir("/proc").expect("there is a /proc").filter_map(Result::ok);
    let lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.split(|byte| *byte == 0).any(|word| word == argument.as_bytes())).count()
}
