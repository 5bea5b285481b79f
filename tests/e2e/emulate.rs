//! Steps of other architectures: they run, whoever builds and whichever way, and nothing of it is left.

use std::process::Command;

use crate::support::rbuild::RBUILD;
use crate::support::user::User;
use crate::support::{Archive, Context, Outcome, Store, bases};

/// Platforms, with Debian's name of the architecture and QEMU's: one like most, and one with the other order of bytes.
const ARM64: (&str, &str, &str) = ("linux/arm64", "arm64", "aarch64");
const S390X: (&str, &str, &str) = ("linux/s390x", "s390x", "s390x");

/// Programs that start programs, in every way that there is.
const DOCKERFILE: &str = "\
FROM scratch
ADD base.tar /
RUN test \"$(uname -m)\" = MACHINE && echo machine $(uname -m)
COPY --chmod=755 script /bin/script
RUN script one two > /made && script three | cat >> /made
RUN [\"script\", \"four\"]
RUN [\"busybox\", \"sh\", \"-c\", \"chown 5:6 /made && env -i /bin/cat /made\"]
RUN mkdir /s && cp /bin/busybox /s/ping && chmod 4755 /s/ping
USER nobody
RUN ! ping -c 1 127.0.0.1 && /s/ping -c 1 127.0.0.1 > /dev/null && echo with the rights of root
RUN id -u && mkdir /tmp/mine && sh -c 'ls -ld /tmp/mine | grep nobody'
";
const SCRIPT: &str = "#!/bin/sh\nfor word in \"$@\"; do /bin/busybox echo said $word; done\n";

fn context(dockerfile: &str, (_, debian, qemu): (&str, &str, &str)) -> Context {
    let base = std::fs::read(bases::busybox_of(debian, qemu)).expect("it was made");
    Context::new(&dockerfile.replace("MACHINE", qemu)).file("base.tar", base).file("script", SCRIPT)
}

/// Builds an archive and reads it.
fn archive(store: &Store, context: &Context, args: &[&str]) -> (Outcome, Archive) {
    let file = store.path("app.tar");
    let output = format!("type=oci,dest={}", file.display());
    let outcome = store.build(context, ["-t", "app:1", "-o", &output].iter().chain(args)).ok();
    (outcome, Archive::read(&file))
}

fn stores() -> [Store; 2] {
    let user = Store::of(User::new());
    user.configure("network = 'none'\n");
    [Store::new(), user]
}

#[test]
fn foreign_steps_and_all_that_they_start_run_for_root_and_for_users() {
    for (machine, index) in [(ARM64, 0), (S390X, 1)] {
        for store in stores() {
            let (platform, _, qemu) = machine;
            let context = context(DOCKERFILE, machine);
            let (outcome, image) = archive(&store, &context, &["--platform", platform]);
            for line in
                [&format!("machine {qemu}"), "said one", "said three", "said four", "65534", "with the rights of root"]
            {
                assert!(outcome.lines_of_steps(line) >= 1, "{line}: {outcome}");
            }
            assert_eq!(image.config["architecture"], ["arm64", "s390x"][index]);
            // Neither an emulator nor a place for one.
            let names: Vec<_> = (1..image.len()).map(|layer| image.names(layer).join(" ")).collect();
            assert_eq!(names, ["bin bin/script", "made", "made", "s s/ping", "tmp tmp/mine"], "{outcome}");
            // What was built runs, and what is known runs nothing.
            let ran = store.rbuild(["run", "--network=none", "app:1", "script", "five"]).ok();
            assert_eq!(ran.stdout, "said five\n", "{ran}");
            let again = store.build(&context, ["--platform", platform, "-t", "app:2"]).ok();
            assert!(again.stderr.contains(" 9 cached"), "{again}");
        }
    }
}

#[test]
fn a_native_stage_runs_by_itself_and_what_it_made_is_used_by_a_foreign_one() {
    let dockerfile = "FROM --platform=$BUILDPLATFORM busybox AS build\n\
        RUN echo built on $(uname -m) > /on && cat /on\n\
        FROM scratch\nADD base.tar /\nCOPY --from=build /on /on\n\
        RUN echo used on $(uname -m) && cat /on && ping -c 1 -W 5 127.0.0.1 > /dev/null && echo answered\n";
    let store = Store::with_busybox();
    let own = rustix::system::uname().machine().to_string_lossy().into_owned();
    // Over every kind of network, and where root is nobody.
    for args in [&["--network=default"][..], &["--network=none"], &["--network=none", "--userns=auto"]] {
        let (platform, ..) = ARM64;
        let args = [&["--no-cache", "--platform", platform, "-t", "x:1"], args].concat();
        let outcome = store.build(&context(dockerfile, ARM64), args).ok();
        assert_eq!(outcome.lines_of_steps("used on aarch64"), 1, "{outcome}");
        assert_eq!(outcome.lines_of_steps(&format!("built on {own}")), 2, "{outcome}");
        assert_eq!(outcome.lines_of_steps("answered"), 1, "{outcome}");
    }
}

/// A value of `PATH` with the programs that a build of root's needs, and without emulators.
const WITHOUT: &str = "/usr/sbin:/sbin";

#[test]
fn without_an_emulator_nothing_runs_and_one_error_says_what_to_do_unless_all_is_known() {
    let dockerfile = "FROM --platform=$BUILDPLATFORM busybox AS build\nRUN echo ran natively\n\
        FROM scratch\nADD base.tar /\nRUN echo ran\nRUN echo again\n\
        COPY --from=build /etc/passwd /\n";
    let (store, context) = (Store::with_busybox(), context(dockerfile, S390X));
    let build = |args: &[&str]| {
        let args = [&["--platform", "linux/s390x", "--network=none"], args].concat();
        Outcome::of(store.build_command(&context, args).env("PATH", WITHOUT))
    };
    let says = [
        "error: steps for `linux/s390x` need an emulator, and none is installed",
        "Dockerfile:5",
        "looked in PATH for `qemu-s390x-static`, `qemu-s390x`, `buildkit-qemu-s390x`, and for a handler",
        "help: `sudo apt-get install qemu-user-static`",
    ];
    build(&[]).fails_saying(&says).never_prints(&["ran"]);
    store.build(&context, ["--platform", "linux/s390x", "--network=none", "-t", "x:1"]).ok();
    build(&["-t", "x:2"]).ok().never_prints(&["ran"]);
    build(&["--no-cache"]).fails_saying(&says).never_prints(&["ran"]);
    // Where nothing is mounted, an emulator is of no use.
    let bare = ["--platform", "linux/s390x", "--no-cache", "--isolation=chroot"];
    store
        .build(&context, bare)
        .fails_saying(&["cannot run with `--isolation=chroot`", "flag F"])
        .never_prints(&["ran"]);
    let ran = Outcome::of(store.command(["run", "--network=none", "x:1", "true"]).env("PATH", WITHOUT));
    ran.fails_saying(&["steps for `linux/s390x` need an emulator", "apt-get install qemu-user-static"]);
    store
        .build(&Context::new("FROM scratch\nRUN [\"/x\"]\n"), ["--platform=linux/vax"])
        .fails_saying(&["steps for `linux/vax` cannot run here", "$BUILDPLATFORM"]);
}

#[test]
fn a_step_reaches_no_binfmt_misc_and_root_is_told_once_what_the_private_one_costs() {
    let dockerfile = "FROM scratch\nADD base.tar /\n\
        RUN test ! -e /proc/sys/fs/binfmt_misc/register && ! mount -t binfmt_misc none /mnt 2>&1 && echo closed\n\
        RUN ! mknod /tmp/null c 1 3 2>&1 && echo no devices\n";
    let handlers = || -> Vec<_> {
        let entries = std::fs::read_dir("/proc/sys/fs/binfmt_misc").expect("this kernel has it");
        entries.map(|entry| entry.expect("it can be read").file_name()).collect()
    };
    let ((platform, ..), before) = (ARM64, handlers());
    for store in stores() {
        let outcome = store.build(&context(dockerfile, ARM64), ["--platform", platform, "-t", "x:1"]).ok();
        assert_eq!(outcome.lines_of_steps("closed"), 1, "{outcome}");
        assert_eq!(outcome.lines_of_steps("no devices"), 1, "{outcome}");
        let told = outcome.stderr.matches("cannot make device nodes").count();
        assert_eq!(told, usize::from(store.user().is_none()), "{outcome}");
    }
    assert_eq!(handlers(), before, "the machine is as it was");
}

/// Needs no program but the shell, for what only emulates that.
const ALONE: &str = "FROM scratch\nADD base.tar /\nRUN [\"sh\", \"-c\", \"echo $0 made > /made && echo alone\", \"word\"]\n\
    COPY --chmod=755 script /bin/first\nRUN [\"first\", \"step\"]\n";

#[test]
fn every_way_gives_the_same_image_and_leaves_nothing_in_it() {
    let (platform, _, qemu) = ARM64;
    let context = context(ALONE, ARM64).file("script", "#!/bin/sh\nread word < /made && echo $word $1 > /second\n");
    let build = |store: &Store, way: &str| {
        let file = store.path("app.tar");
        let output = format!("type=oci,dest={}", file.display());
        let epoch = "--build-arg=SOURCE_DATE_EPOCH=1600000000";
        let mut command =
            store.build_command(&context, ["--platform", platform, "-o", &output, epoch, "--network=none"]);
        let outcome = Outcome::of(command.env("RBUILD_EMULATION", way)).ok();
        assert_eq!(outcome.lines_of_steps("alone"), 1, "{way}: {outcome}");
        (outcome, Archive::read(&file))
    };
    let (_, private) = build(&Store::new(), "private");
    let names: Vec<_> = (1..private.len()).map(|layer| private.names(layer).join(" ")).collect();
    assert_eq!(names, ["made", "bin bin/first", "second"]);
    let (outcome, injected) = build(&Store::new(), "injected");
    assert_eq!(injected.id(), private.id(), "injected");
    assert_eq!(outcome.stderr.matches("is put in front of the commands").count(), 1, "{outcome}");
    let user = Store::of(User::new());
    assert_eq!(build(&user, "private").1.id(), private.id(), "a user's");

    // Registered, as far as a namespace goes in which this test may: with `F`, and without.
    for (flags, rung) in
        [("POCF", "rootless --network=none"), ("OC", "rootless --network=none"), ("POCF", "chroot"), ("OC", "chroot")]
    {
        let store = Store::new();
        let file = store.path("app.tar");
        let script = format!(
            "mount -t binfmt_misc none /proc/sys/fs/binfmt_misc && \
             printf '%s' \"$LINE\" > /proc/sys/fs/binfmt_misc/register && export PATH={WITHOUT} && \
             exec $RBUILD build --progress=plain --isolation={rung} --platform {platform} \
             -o type=oci,dest=$FILE --build-arg SOURCE_DATE_EPOCH=1600000000 $CONTEXT"
        );
        let line = format!(
            ":test:M::\\x7fELF\\x02\\x01\\x01\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x00\\x02\\x00\\xb7\\x00:\
             \\xff\\xff\\xff\\xff\\xff\\xff\\xff\\x00\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xff\\xfe\\xff\\xff\\xff:\
             /usr/bin/qemu-{qemu}-static:{flags}"
        );
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-e", "-c", &script]);
        command.env("HOME", store.home()).env("RBUILD_ROOT", store.root()).env("RBUILD", RBUILD);
        command.env("LINE", &line).env("FILE", &file).env("CONTEXT", context.path());
        let outcome = Outcome::of(&mut command);
        if (flags, rung) == ("OC", "chroot") {
            // The emulator would have to be in the image.
            outcome.fails_saying(&["steps for `linux/arm64`", "need an emulator"]).never_prints(&["alone"]);
            continue;
        }
        let outcome = outcome.ok();
        assert_eq!(outcome.lines_of_steps("alone"), 1, "{flags} {rung}: {outcome}");
        assert!(!outcome.stderr.contains("emulated by"), "{flags} {rung}: {outcome}");
        assert_eq!(Archive::read(&file).id(), private.id(), "{flags} {rung}");
    }
}

#[test]
fn where_only_the_command_is_emulated_what_it_starts_fails_by_the_kernels_words() {
    let dockerfile = "FROM scratch\nADD base.tar /\nCOPY --chmod=755 script /bin/script\n\
        RUN echo shell && script word\n";
    let (platform, ..) = ARM64;
    let context = context(dockerfile, ARM64);
    let store = Store::new();
    let mut command = store.build_command(&context, ["--platform", platform, "--network=none"]);
    let outcome = Outcome::of(command.env("RBUILD_EMULATION", "injected")).exits(1).says(&["Exec format error"]);
    assert_eq!(outcome.lines_of_steps("shell"), 1, "{outcome}");
}

#[test]
fn the_doctor_and_the_acts_of_steps_tell_how_an_architecture_runs() {
    for store in stores() {
        let doctor = store.rbuild(["doctor"]).ok();
        let line =
            doctor.stdout.lines().find(|line| line.contains("other processors")).unwrap_or_else(|| panic!("{doctor}"));
        assert!(line.contains("s390x") && line.contains("by QEMU"), "{doctor}");
    }
    let store = Store::new();
    let context = Context::new("FROM scratch\nRUN [\"/x\"]\n");
    let acts = |args: &[&str]| {
        let words = ["debug", "steps"].iter().chain(args).map(std::ffi::OsStr::new);
        store.rbuild(words.chain([context.path().as_os_str()]))
    };
    let shown = acts(&["--platform=linux/arm64"]).ok();
    for line in
        ["  user namespace of the same ids", "  handlers of its own: aarch64 by \"/usr/bin/qemu-aarch64-static\""]
    {
        assert!(shown.stdout.contains(line), "{line}: {shown}");
    }
    assert!(!acts(&[]).ok().stdout.contains("handlers"), "this machine's own steps need none");
}
