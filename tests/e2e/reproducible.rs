//! The same inputs and `SOURCE_DATE_EPOCH` give the same manifest, whatever else is different.
//!
//! One Dockerfile that uses everything is built by a machine of its own; then again with one thing different per row.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use crate::support::pod::Pod;
use crate::support::user::User;
use crate::support::{Archive, Context, Outcome, Store};

const EPOCH: &str = "1600000000";
/// When everything in the context's archive was made.
const CONTENT: u64 = 981_173_106;

const DOCKERFILE: &str = r#"FROM busybox AS tools
WORKDIR /src
COPY . .
RUN echo ran-tools && mkdir -p /out/bin /out/share/deep && cp -p bin/tool /out/bin/tool && ln /out/bin/tool /out/bin/alias \
    && ln -s tool /out/bin/link && mkfifo /out/pipe && echo made > /out/share/made && chown -R 12:34 /out/share \
    && chmod 2750 /out/share && tar -xf archive.tar -C /out/share/deep && sleep 1 && mv /src/e /out/e
RUN --mount=type=cache,target=/cache cat /cache/seen 2>/dev/null; date > /cache/seen; echo fixed > /out/cached
RUN --mount=type=bind,target=/context --mount=type=tmpfs,target=/scratch \
    cp /context/d/x /out/bound && cp -p /context/d/y /out/carried && touch /scratch/gone

FROM busybox
ARG SOURCE_DATE_EPOCH
ENV ONE=1 TWO=2
LABEL built=$SOURCE_DATE_EPOCH another=label
WORKDIR /made-by-workdir/deep
COPY --chown=5:6 --chmod=751 d /d
COPY --link a /linked/a
COPY --link --chown=7:8 --from=tools /out/bin /linked/bin/
COPY --from=tools /out /out
ADD archive.tar /unpacked/
ADD --chown=9:9 e /e/
COPY <<END /heredoc
from the Dockerfile
END
RUN <<END
set -e
echo ran-last
mkdir /made
for n in 3 1 2; do echo $n > /made/$n; done
mv /d/x /made/x
cp -p /linked/a /made/a
cp -a /unpacked /made/unpacked
touch -d '2001-02-03 04:05:06' /made/fixed
touch -d '2037-02-03 04:05:06' /made/future
ln /made/1 /made/one
: > /made/empty
dd if=/dev/zero of=/made/sparse bs=1 count=1 seek=100000 2>/dev/null
END
RUN rm -r /d/sub /e && mkdir /e && echo new > /e/new && rm /out/share/made && chmod 700 /made-by-workdir && chown 3:4 /d/y
USER 1000:1000
RUN umask > /tmp/umask && echo mine > /tmp/mine && mkdir /tmp/dir
USER root
RUN true
EXPOSE 90 80/udp 8080
VOLUME /v2 /v1
STOPSIGNAL SIGTERM
CMD ["sh"]
"#;

/// Files of the context, in the order in which they are made; some file systems list them in that order.
const FILES: [(&str, &str, u32); 10] = [
    ("a", "a", 0o644),
    ("bin/tool", "#!/bin/sh\n", 0o755),
    ("d/x", "x", 0o600),
    ("d/y", "y", 0o644),
    ("d/sub/z", "z", 0o644),
    ("e/1", "1", 0o644),
    ("e/3", "3", 0o4755),
    ("e/2", "2", 0o664),
    ("ignored/file", "never read", 0o644),
    (".dockerignore", "ignored\n", 0o644),
];

/// How the files of a context came to be; nothing of it counts.
#[derive(Clone, Copy, Default)]
struct Made {
    backwards: bool,
    days_ago: u64,
    owner: u32,
}

/// The context.
fn context(archive: &Path, made: Made) -> Context {
    let context = Context::new(DOCKERFILE);
    let path = context.path();
    let mut files = FILES.to_vec();
    if made.backwards {
        files.reverse();
    }
    for (name, content, mode) in files {
        context.write(name, content);
        let file = path.join(name);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("it is ours");
    }
    symlink("../a", path.join("d/link")).expect("it is new");
    std::fs::copy(archive, path.join("archive.tar")).expect("it was made");
    let note = Outcome::of(Command::new("setfattr").args(["-n", "user.note", "-v", "remark"]).arg(path.join("a")));
    note.ok();
    let owner = format!("{0}:{0}", made.owner);
    Outcome::of(Command::new("chown").args(["-Rh", &owner]).arg(path)).ok();
    // The mode of a set-id file goes with its owner.
    std::fs::set_permissions(path.join("e/3"), std::fs::Permissions::from_mode(0o4755)).expect("it is there");
    for name in ["bin", "d", "d/sub", "e", "ignored", "."] {
        std::fs::set_permissions(path.join(name), std::fs::Permissions::from_mode(0o755)).expect("it is there");
    }
    if made.days_ago > 0 {
        let time = SystemTime::now() - Duration::from_secs(made.days_ago * 86_400);
        for name in ["a", "bin/tool", "bin", "d/x", "d/y", "d/sub/z", "d/sub", "d", "e/1", "e", "archive.tar"] {
            std::fs::File::open(path.join(name)).expect("it is there").set_modified(time).expect("it is ours");
        }
    }
    context
}

/// What all machines share: the base image, and the archive in the context.
struct Shared {
    /// Holds the files.
    _store: Store,
    base: PathBuf,
    archive: PathBuf,
}

impl Shared {
    fn new() -> Self {
        let store = Store::with_busybox();
        let (base, archive, tree) = (store.path("busybox.tar"), store.path("archive.tar"), store.path("tree"));
        store.rbuild(["save".as_ref(), "-o".as_ref(), base.as_os_str(), "busybox".as_ref()]).ok();
        let script = "umask 022; mkdir -p t/d && echo 1 > t/one && ln t/one t/d/two && ln -s one t/link && chmod 4755 t/one && \
                      echo c > t/capable && setfattr -n security.capability -v 0x0100000200040000000000000000000000000000 \
                      t/capable && tar --create --sort=name --owner=44 --group=55 --numeric-owner --format=posix \
                      --pax-option=delete=atime,delete=ctime --xattrs --xattrs-include='*' --file ../archive.tar";
        std::fs::create_dir(&tree).expect("it is new");
        let made = Command::new("sh")
            .args(["-c", &format!("{script} --mtime=@{CONTENT} -C t .")])
            .current_dir(&tree)
            .stdin(Stdio::null())
            .status();
        assert!(made.expect("sh runs").success());
        Self { _store: store, base, archive }
    }

    /// The store with the base image.
    fn on(&self, store: Store) -> Store {
        store.rbuild(["load".as_ref(), "-i".as_ref(), self.base.as_os_str()]).ok();
        store
    }

    fn store(&self) -> Store {
        self.on(Store::new())
    }

    fn context(&self, made: Made) -> Context {
        context(&self.archive, made)
    }

    /// The image as the first machine builds it.
    fn reference(&self) -> Archive {
        let (_, archive) = build(&self.store(), &self.context(Made::default()), "", &[]);
        archive
    }
}

/// Flags of every build.
fn words(store: &Store, form: &str) -> Vec<String> {
    let file = store.path("app.tar");
    let _ = std::fs::remove_file(&file);
    let output = format!("type=oci,dest={}{form}", file.display());
    ["-t", "app:1", "--network=none", "--source-date-epoch", EPOCH, "-o", &output].map(str::to_owned).into()
}

fn built(store: &Store, outcome: Outcome) -> (Outcome, Archive) {
    (outcome.ok(), Archive::read(&store.path("app.tar")))
}

/// Builds; `form` is what stands behind `type=oci`.
fn build(store: &Store, context: &Context, form: &str, more: &[&str]) -> (Outcome, Archive) {
    let mut args = words(store, form);
    args.extend(more.iter().map(|&word| word.to_owned()));
    let outcome = store.build(context, args);
    built(store, outcome)
}

/// Builds, the command changed.
fn build_by(store: &Store, context: &Context, change: impl FnOnce(Command) -> Command) -> Archive {
    let mut command = change(store.build_command(context, words(store, "")));
    built(store, Outcome::of(&mut command)).1
}

/// The same command, started by another program.
fn through(program: &str, args: &[&str], plain: &Command) -> Command {
    let mut command = Command::new(program);
    command.args(args).arg(plain.get_program()).args(plain.get_args()).env_clear();
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.current_dir(plain.get_current_dir().expect("every command has one")).stdin(Stdio::null());
    command
}

/// They must be one image; where they are not, what differs is shown.
#[track_caller]
fn same(row: &str, expected: &Archive, found: &Archive) {
    if expected.digest == found.digest {
        return;
    }
    let lines = |archive: &Archive| -> Vec<String> {
        let config = serde_json::to_string_pretty(&archive.config).expect("JSON");
        let mut lines: Vec<String> = config.lines().map(str::to_owned).collect();
        for (at, layer) in archive.layers.iter().enumerate() {
            let mut tar = tar::Archive::new(&layer[..]);
            for entry in tar.entries().expect("a tar") {
                let mut entry = entry.expect("an entry");
                let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                let pax: Vec<_> = entry.pax_extensions().expect("PAX").into_iter().flatten().flatten().collect();
                let pax: Vec<_> = pax.iter().map(|pair| format!("{:?}={:?}", pair.key(), pair.value_bytes())).collect();
                let header = entry.header();
                let (mode, owner) = (header.mode().expect("a mode"), (header.uid(), header.gid()));
                let time = header.mtime().expect("a time");
                lines.push(format!(
                    "layer {at}: {name} {mode:o} {owner:?} {time} {} {pax:?}",
                    header.size().expect("a size")
                ));
            }
        }
        lines
    };
    let (ours, theirs) = (lines(expected), lines(found));
    let only = |these: &[String], others: &[String], sign: char| -> String {
        these.iter().filter(|line| !others.contains(line)).map(|line| format!("{sign}{line}\n")).collect()
    };
    panic!("{row}: another image\n{}{}", only(&ours, &theirs, '-'), only(&theirs, &ours, '+'));
}

#[test]
fn how_the_files_of_the_context_came_to_be_does_not_count() {
    let shared = Shared::new();
    let reference = shared.reference();
    let rows = [
        ("another path", Made::default()),
        ("other times", Made { days_ago: 400, ..Made::default() }),
        ("another owner", Made { owner: 4321, ..Made::default() }),
        ("another order of directory entries", Made { backwards: true, days_ago: 3, ..Made::default() }),
    ];
    // Each waits a second in a step, by itself.
    std::thread::scope(|scope| {
        for (row, made) in rows {
            let (shared, reference) = (&shared, &reference);
            scope.spawn(move || same(row, reference, &build(&shared.store(), &shared.context(made), "", &[]).1));
        }
    });
}

#[test]
fn the_surroundings_of_a_build_do_not_count() {
    let shared = Shared::new();
    let reference = shared.reference();
    let check = |row: &str, change: &dyn Fn(Command) -> Command| {
        let store = shared.store();
        same(row, &reference, &build_by(&store, &shared.context(Made::default()), change));
    };
    for umask in ["077", "000"] {
        let script = format!("umask {umask}; exec \"$@\"");
        check(&format!("umask {umask}"), &|plain| through("sh", &["-c", &script, "sh"], &plain));
    }
    check("time zone, language, home and working directory", &|mut command| {
        command.env("TZ", "Asia/Tokyo").env("LANG", "tr_TR.UTF-8").env("LC_ALL", "tr_TR.UTF-8");
        command.env("HOME", "/").env("USER", "else").current_dir("/");
        command
    });
    check("one processor, one step at a time", &|plain| {
        let mut command = through("taskset", &["-c", "0"], &plain);
        command.arg("--jobs=1");
        command
    });
    let deep = crate::support::temp_dir();
    let root = deep.path().join("another/store/elsewhere");
    let store = shared.store();
    let mut load = store.command(["load".as_ref(), "-i".as_ref(), shared.base.as_os_str()]);
    Outcome::of(load.env("RBUILD_ROOT", &root)).ok();
    let found = build_by(&store, &shared.context(Made::default()), |mut command| {
        command.env("RBUILD_ROOT", &root);
        command
    });
    same("another root", &reference, &found);
}

#[test]
fn who_builds_and_how_steps_are_kept_apart_does_not_count() {
    let shared = Shared::new();
    let reference = shared.reference();
    let user = shared.on(Store::of(User::new()));
    // Its own already: whoever gives files away takes their set-id bits.
    let own = shared.context(Made { owner: user.user().expect("it has one").id, ..Made::default() });
    let mut args: Vec<String> = ["build", "--progress=plain"].map(str::to_owned).into();
    args.extend(words(&user, ""));
    args.push(own.path().display().to_string());
    let outcome = user.rbuild(args);
    same("an ordinary user", &reference, &built(&user, outcome).1);
    let mapped = shared.store();
    same("--userns=auto", &reference, &build(&mapped, &shared.context(Made::default()), "", &["--userns=auto"]).1);
    let pod = Pod::new();
    Outcome::of(&mut pod.rbuild(&["load", "-i", &shared.base.display().to_string()])).ok();
    let args = words(&pod.store, "");
    let args: Vec<&str> = args.iter().map(String::as_str).filter(|word| !word.starts_with("--network")).collect();
    let outcome = pod.build(&shared.context(Made::default()), &args);
    same("--isolation=chroot in a pod", &reference, &built(&pod.store, outcome).1);
}

/// Images for several platforms: what one builds natively, all have; what each has of its own is a part of the context.
const SEVERAL: &str = r#"FROM --platform=$BUILDPLATFORM busybox AS tools
COPY d /d
RUN mkdir /out && cp -p /d/x /out/x && echo made > /out/made && chown 5:6 /out/made && umask > /out/umask

FROM scratch
ARG TARGETARCH
COPY --chmod=751 $TARGETARCH /bin/program
ADD archive.tar /unpacked/
COPY --link --from=tools /out /out
LABEL architecture=$TARGETARCH
"#;
const PLATFORMS: [&str; 2] = ["--platform", "linux/amd64,linux/arm64,linux/s390x"];

/// The index in the archive that the last build wrote.
fn index(store: &Store) -> String {
    let top = Archive::files(&store.path("app.tar"))[Path::new("index.json")].clone();
    let top: serde_json::Value = serde_json::from_slice(&top).expect("JSON");
    assert_eq!(top["manifests"][0]["mediaType"], "application/vnd.oci.image.index.v1+json", "{top}");
    top["manifests"][0]["digest"].as_str().expect("a digest").to_owned()
}

#[test]
fn an_index_is_the_same_whoever_builds_and_wherever() {
    let shared = Shared::new();
    let context = |made: Made| {
        let context = shared.context(made);
        context.write("Dockerfile", SEVERAL);
        for arch in ["amd64", "arm64", "s390x"] {
            context.write(arch, format!("a program of {arch}"));
            let owner = format!("{0}:{0}", made.owner);
            Outcome::of(Command::new("chown").args([&owner]).arg(context.path().join(arch))).ok();
            std::fs::set_permissions(context.path().join(arch), std::fs::Permissions::from_mode(0o644)).expect("ours");
        }
        context
    };
    let mut found: Vec<(String, String)> = Vec::new();
    let mut build = |row: &str, store: &Store, made: Made, change: &dyn Fn(Command) -> Command| {
        let words = [words(store, ""), PLATFORMS.map(str::to_owned).into()].concat();
        Outcome::of(&mut change(store.build_command(&context(made), words))).ok();
        found.push((row.to_owned(), index(store)));
    };
    let plain = |command: Command| command;
    let first = shared.store();
    build("the first", &first, Made::default(), &plain);
    build("everything is known", &first, Made { days_ago: 2, ..Made::default() }, &plain);
    for umask in ["077", "000"] {
        let script = format!("umask {umask}; exec \"$@\"");
        let change = |command: Command| through("sh", &["-c", &script, "sh"], &command);
        build(&format!("umask {umask}"), &shared.store(), Made::default(), &change);
    }
    build(
        "time zone, language, one step at a time",
        &shared.store(),
        Made { backwards: true, ..Made::default() },
        &|mut plain| {
            plain.env("TZ", "Asia/Tokyo").env("LC_ALL", "tr_TR.UTF-8").arg("--jobs=1");
            plain
        },
    );
    build("--userns=auto", &shared.store(), Made::default(), &|mut plain| {
        plain.arg("--userns=auto");
        plain
    });
    let user = shared.on(Store::of(User::new()));
    let owner = user.user().expect("it has one").id;
    build("an ordinary user", &user, Made { owner, ..Made::default() }, &plain);
    let pod = Pod::new();
    Outcome::of(&mut pod.rbuild(&["load", "-i", &shared.base.display().to_string()])).ok();
    let args = [words(&pod.store, ""), PLATFORMS.map(str::to_owned).into()].concat();
    let args: Vec<&str> = args.iter().map(String::as_str).filter(|word| !word.starts_with("--network")).collect();
    pod.build(&context(Made::default()), &args).ok();
    found.push(("--isolation=chroot in a pod".to_owned(), index(&pod.store)));
    for (row, digest) in &found {
        assert_eq!(*digest, found[0].1, "{row}: another index");
    }
}

#[test]
fn what_a_cache_knows_does_not_count() {
    let shared = Shared::new();
    let (store, cache) = (shared.store(), shared.base.with_file_name("cache"));
    let to = format!("type=local,dest={},mode=max", cache.display());
    let (_, reference) = build(&store, &shared.context(Made::default()), "", &["--cache-to", &to]);
    let later = || shared.context(Made { days_ago: 7, ..Made::default() });

    let (outcome, warm) = build(&store, &later(), "", &[]);
    outcome.never_prints(&["ran-"]);
    same("everything is known", &reference, &warm);
    let (outcome, again) = build(&store, &later(), "", &["--no-cache"]);
    assert_eq!(outcome.lines_of_steps("ran-last"), 1, "{outcome}");
    same("everything is known and made again", &reference, &again);
    let (_, again) = build(&store, &later(), "", &["--no-cache-filter", "tools"]);
    same("one stage is made again", &reference, &again);
    store.rbuild(["prune", "--all", "--force"]).ok();
    let (outcome, pruned) = build(&store, &later(), "", &[]);
    assert_eq!(outcome.lines_of_steps("ran-last"), 1, "{outcome}");
    same("after `prune --all`", &reference, &pruned);

    let partial = shared.store();
    let other = later();
    other.write("e/2", "something else");
    let (_, another) = build(&partial, &other, "", &[]);
    assert_ne!(another.digest, reference.digest, "another context gives another image");
    let (outcome, some) = build(&partial, &later(), "", &[]);
    assert!(!outcome.stderr.contains(" 0 cached"), "{outcome}");
    same("some steps are known from a build of other files", &reference, &some);

    let remote = shared.store();
    let from = format!("type=local,src={}", cache.display());
    let (outcome, brought) = build(&remote, &later(), "", &["--cache-from", &from]);
    outcome.never_prints(&["ran-"]);
    same("everything comes from another machine's cache", &reference, &brought);
    let mixed = shared.store();
    let (outcome, brought) = build(&mixed, &later(), "", &["--cache-from", &from, "--no-cache-filter", "tools"]);
    assert_eq!(outcome.lines_of_steps("ran-tools"), 1, "{outcome}");
    same("one stage is made here, the other comes from another machine's cache", &reference, &brought);
}

#[test]
fn compression_gives_the_same_bytes_with_any_number_of_threads() {
    let shared = Shared::new();
    let (one, all) = (shared.store(), shared.store());
    for form in ["compression=gzip", "compression=zstd", "compression=estargz", "compression=uncompressed"] {
        let form = format!(",force-compression=true,rewrite-timestamp=true,{form}");
        let first = build(&all, &shared.context(Made::default()), &form, &[]).1;
        let context = shared.context(Made { days_ago: 2, ..Made::default() });
        let plain = one.build_command(&context, words(&one, &form));
        let mut alone = through("taskset", &["-c", "0"], &plain);
        same(&form, &first, &built(&one, Outcome::of(&mut alone)).1);
    }
}
