//! Cache mounts: what steps keep for the steps of later builds, between processes and in spite of them.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Stdio};

use crate::support::{Archive, Context, Store};

/// A package manager in small: what is in its cache is not made again.
const INSTALL: &str = "#!/bin/sh\nfor name in \"$@\"; do\n  if [ -e /var/cache/pkg/$name ]; then echo had $name\n  \
                       else echo made $name; echo $name > /var/cache/pkg/$name; fi\n  cp /var/cache/pkg/$name /bin/\ndone\n";

fn packages(names: &str) -> Context {
    let dockerfile = format!(
        "FROM busybox\nCOPY --chmod=755 install /bin/install\n\
         RUN --mount=type=cache,target=/var/cache/pkg install {names}\n"
    );
    Context::new(&dockerfile).file("install", INSTALL)
}

/// Directories of the store's cache mounts.
fn directories(store: &Store) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(store.root().join("mounts")) else { return Vec::new() };
    entries.map(|entry| entry.expect("the store can be read").path().join("fs")).collect()
}

#[test]
fn a_package_cache_outlives_the_build_and_is_in_no_layer() {
    for store in Store::everybodys() {
        let first = store.build(&packages("a b"), ["-t", "x:1"]).ok();
        assert_eq!((first.lines_of_steps("made a"), first.lines_of_steps("made b")), (1, 1), "{first}");
        let archive = store.path("x.tar");
        let output = format!("type=oci,dest={}", archive.display());
        let more = store.build(&packages("a b c"), ["-t", "x:2", "-o", &output]).ok();
        assert_eq!((more.lines_of_steps("had a"), more.lines_of_steps("made c")), (1, 1), "{more}");
        store.build(&packages("a b c"), ["-t", "x:2"]).ok().never_prints(&["had", "made"]);
        // What is remembered of a step goes with --no-cache; what it keeps for itself does not.
        let again = store.build(&packages("a b c"), ["-t", "x:3", "--no-cache"]).ok().never_prints(&["made"]);
        assert_eq!(again.lines_of_steps("had c"), 1, "{again}");
        let layers = Archive::read(&archive).layers;
        let names = layers[1..].iter().flat_map(|tar| members(tar)).map(|(name, _)| name).collect::<Vec<_>>();
        assert!(names.contains(&"bin/c".to_owned()), "{names:?}");
        assert!(!names.iter().any(|name| name.starts_with("var")), "the mount point is gone too: {names:?}");
        assert_eq!(directories(&store).len(), 1);
    }
}

/// Names and times of what a layer holds.
fn members(tar: &[u8]) -> Vec<(String, u64)> {
    let mut tar = tar::Archive::new(tar);
    let entries = tar.entries().expect("a tar").map(|entry| {
        let entry = entry.expect("an entry");
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_matches(['.', '/']).to_owned();
        (name, entry.header().mtime().expect("a time"))
    });
    entries.collect()
}

#[test]
fn seeds_owners_modes_and_neighbours() {
    for store in Store::everybodys() {
        let context = Context::new(
            "FROM busybox AS warm\nRUN mkdir -m 0711 /warm && echo warm > /warm/f && chown -R 5:6 /warm\n\
         FROM busybox\nWORKDIR /w\n\
         RUN --mount=type=cache,target=/plain --mount=type=cache,target=owned,uid=7,gid=8,mode=1750 \\\n\
             --mount=type=cache,target=/seeded,from=warm,source=/warm \\\n\
             --mount=type=cache,target=/plain/inner,id=other --mount=type=tmpfs,target=/plain/tmp \\\n\
             --mount=target=/plain/ctx,source=dir --mount=type=cache,id=ro,target=/ro,ro \\\n\
             stat -c '%n %a %u:%g' /plain /w/owned /seeded /seeded/f && cat /seeded/f /plain/ctx/f && \\\n\
             echo in > /plain/inner/f && echo out > /plain/f && echo used >> /seeded/f && ! touch /ro/f\n\
         RUN --mount=type=cache,id=/plain,target=/a --mount=type=cache,target=/b,id=other \\\n\
             --mount=type=cache,id=/seeded,target=/c,from=warm,source=/warm --mount=type=cache,target=/d,id=owned \\\n\
             cat /a/f /b/f /c/f && ls /a/tmp /a/ctx /d\n\
         RUN ls / /w\n",
        )
        .file("dir/f", "context\n");
        let built = store.build(&context, ["-t", "x:1"]).ok();
        for line in [
            "/plain 755 0:0",
            "/w/owned 1750 7:8",
            "/seeded 711 5:6",
            "/seeded/f 644 5:6",
            "warm",
            "context",
            "in",
            "out",
            "used",
        ] {
            assert!(built.lines_of_steps(line) > 0, "`{line}` is not printed: {built}");
        }
        for name in ["plain", "owned", "seeded", "ro"] {
            assert_eq!(built.lines_of_steps(name), 0, "the mount point is left: {built}");
        }
    }
}

#[test]
fn what_cannot_be_mounted_fails_with_a_reason() {
    for store in Store::everybodys() {
        let check = |mount: &str, words: &[&str]| {
            let context = Context::new(&format!("FROM busybox\nRUN --mount=type=cache,{mount} touch /c/bad\n"));
            store.build(&context, ["-t", "x:1"]).fails_saying(words);
        };
        check("target=/", &["nothing can be mounted over `/`"]);
        check("target=/a/..", &["nothing can be mounted over `/`"]);
        check("target=/c,source=sub", &["`/sub` does not exist in the cache mount `/c`"]);
        check("target=/c,from=busybox,source=/none", &["`none` does not exist"]);
        check("target=/c,from=busybox,source=/bin/sh", &["is not a directory"]);
        check("target=/bin/sh", &["`/bin/sh`"]);
        check("target=/proc/c", &["could not `bind on \"/proc/c\""]);
    }
}

/// A build in which a step has begun.
struct Running {
    child: Child,
    stderr: BufReader<ChildStderr>,
    said: String,
    // Read in place, so it must outlive the build.
    _context: Context,
}

impl Running {
    /// Starts a build of one step that has this mount at `/c`.
    fn start(store: &Store, mount: &str, step: &str) -> Self {
        let context = Context::new(&format!("FROM busybox\nRUN --mount=type=cache,target=/c,{mount} {step}\n"));
        let mut command = store.build_command(&context, ["-t", "x:1"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary starts");
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        Self { child, stderr, said: String::new(), _context: context }
    }

    /// Starts a step that stays in its mount until [`Running::let_go`].
    fn staying(store: &Store, mount: &str) -> Self {
        let mut running =
            Self::start(store, mount, "mkfifo /c/gate && echo 1 > /c/f && echo begun && cat /c/gate && rm /c/gate");
        running.until(" begun\n");
        running
    }

    /// Reads on until a line ends so.
    #[track_caller]
    fn until(&mut self, words: &str) {
        while !self.said.ends_with(words) {
            assert_ne!(self.stderr.read_line(&mut self.said).expect("it is text"), 0, "it ended: {}", self.said);
        }
    }

    /// Waits for its end, which must be good, and returns what it said.
    #[track_caller]
    fn ok(mut self) -> String {
        self.stderr.read_to_string(&mut self.said).expect("it is text");
        assert!(self.child.wait().expect("it is ours").success(), "{}", self.said);
        self.said
    }
}

/// Ends the step that stays in a mount.
fn let_go(store: &Store) {
    let gate = directories(store).into_iter().map(|dir| dir.join("gate")).find(|gate| gate.exists());
    // Opening waits for its reader.
    std::fs::write(gate.expect("a step stays"), "go\n").expect("it reads");
}

#[test]
fn shared_mounts_are_used_by_two_processes_at_once() {
    for store in Store::everybodys() {
        let first = Running::staying(&store, "sharing=shared");
        // Only because both see the same files do both end.
        let second = Running::start(&store, "sharing=shared", "cat /c/f && echo go > /c/gate");
        assert!(second.ok().lines().any(|line| line.ends_with(" 1")));
        first.ok();
        assert_eq!(directories(&store).len(), 1);
    }
}

#[test]
fn locked_mounts_are_used_by_one_process_after_the_other() {
    let store = Store::with_busybox();
    let first = Running::staying(&store, "sharing=locked");
    let mut second = Running::start(&store, "sharing=locked", "cat /c/f && ls /c/gate || echo alone");
    second.until("waits for the cache mount `/c`, which another step uses\n");
    let_go(&store);
    first.ok();
    let said = second.ok();
    assert!(said.lines().any(|line| line.ends_with(" 1")), "{said}");
    assert!(said.lines().any(|line| line.ends_with(" alone")), "{said}");
    assert_eq!(directories(&store).len(), 1);
}

#[test]
fn private_mounts_are_one_per_process_at_a_time_and_used_again() {
    let store = Store::with_busybox();
    let first = Running::staying(&store, "sharing=private");
    let said = Running::start(&store, "sharing=private", "cat /c/f || echo fresh").ok();
    assert!(said.lines().any(|line| line.ends_with(" fresh")), "{said}");
    assert_eq!(directories(&store).len(), 2);
    let_go(&store);
    first.ok();
    Running::start(&store, "sharing=private", "echo once more").ok();
    assert_eq!(directories(&store).len(), 2);
}

#[test]
fn who_waits_for_a_mount_can_be_interrupted() {
    let store = Store::with_busybox();
    let first = Running::staying(&store, "sharing=locked");
    let mut second = Running::start(&store, "sharing=locked", "echo never");
    second.until("which another step uses\n");
    let pid = rustix::process::Pid::from_child(&second.child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it is running");
    second.stderr.read_to_string(&mut second.said).expect("it is text");
    assert_eq!(second.child.wait().expect("it is ours").code(), Some(130), "{}", second.said);
    let_go(&store);
    first.ok();
}

#[test]
fn a_killed_build_leaves_a_mount_that_the_next_one_uses() {
    for store in Store::everybodys() {
        let mut first = Running::staying(&store, "sharing=locked");
        first.child.kill().expect("it is running");
        // At once: the lock is free only when the step is dead, whoever else is.
        let second = Running::start(&store, "sharing=locked", "cat /c/f && rm /c/gate && echo usable");
        let said = second.ok();
        assert!(said.lines().any(|line| line.ends_with(" 1")), "{said}");
        assert!(said.lines().any(|line| line.ends_with(" usable")), "{said}");
        first.child.wait().expect("it is ours");
        assert_eq!(directories(&store).len(), 1);
    }
}

#[test]
fn steps_that_lock_two_mounts_in_any_order_all_end() {
    let store = Store::with_busybox();
    let step = |number: usize, first: usize, second: usize| {
        let mount = |n: usize| format!("--mount=type=cache,id={n},target=/m{n},sharing=locked");
        let script = "for f in /m1/n /m2/n; do read n < $f; echo $((n + 1)) > $f; done 2>/dev/null";
        format!("FROM busybox AS s{number}\nRUN {} {} {script}; echo {number} > /out\n", mount(first), mount(second))
    };
    let file = |process: usize| {
        let mut text: String = (0..6).map(|n| if n % 2 == 0 { step(n, 1, 2) } else { step(n, 2, 1) }).collect();
        text.push_str("FROM scratch\n");
        (0..6).for_each(|n| text.push_str(&format!("COPY --from=s{n} /out /{process}-{n}\n")));
        text
    };
    let contexts: Vec<Context> =
        (0..2).map(|process| Context::new(&file(process).replace("$((n", &format!("$(({process} * 0 + n")))).collect();
    let children: Vec<Child> = contexts
        .iter()
        .map(|context| {
            let mut command = store.build_command(context, ["-t", "x:1"]);
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts")
        })
        .collect();
    for mut child in children {
        assert!(child.wait().expect("it is ours").success());
    }
    let context = Context::new(
        "FROM busybox\nRUN --mount=type=cache,id=1,target=/m1 --mount=type=cache,id=2,target=/m2 cat /m1/n /m2/n\n",
    );
    let built = store.build(&context, ["-t", "x:1"]).ok();
    assert_eq!(built.lines_of_steps("12"), 2, "no step ran beside another: {built}");
}

#[test]
fn what_is_mounted_decides_whether_a_step_runs_again_and_what_is_in_it_does_not() {
    let store = Store::with_busybox();
    let build = |mount: &str, ns: &str| {
        let text = format!("FROM busybox\nRUN --mount=type=cache,{mount} echo ran && date >> /c/log\n");
        let ns = format!("BUILDKIT_CACHE_MOUNT_NS={ns}");
        store.build(&Context::new(&text), ["-t", "x:1", "--build-arg", &ns]).ok().lines_of_steps("ran")
    };
    assert_eq!(build("target=/c", ""), 1);
    std::fs::write(directories(&store)[0].join("more"), "x").expect("the store can be written");
    assert_eq!(build("target=/c", ""), 0, "the files in it do not count");
    // Where it is kept and who else may use it says how the step is run, not what it makes.
    for mount in
        ["target=/c,id=other", "target=/c,sharing=locked", "target=/c,sharing=private", "target=/c/../c,id=third"]
    {
        assert_eq!(build(mount, ""), 0, "{mount}");
    }
    assert_eq!(build("target=/c", "mine"), 0);
    assert_eq!(build("target=/c/d", ""), 1, "another place is another step");
    assert_eq!(build("target=/c", ""), 0);
}

#[test]
fn archives_do_not_tell_how_old_a_cache_is() {
    const EPOCH: u64 = 1_600_000_000;
    let context = |round: usize| {
        let text = format!(
            "FROM busybox\nRUN --mount=type=cache,target=/c [ -e /c/made ] || echo made > /c/made; [ {round} = 0 ] || \
             {{ cp -p /c/made /copied; cp /c/made /again; mkdir /d && cp -p /c/made /d/f; }}\nRUN [ ! -e /d ] || mv /d/f /moved\n"
        );
        Context::new(&text)
    };
    let build = |store: &Store, round: usize| {
        let file = store.path("x.tar");
        let output = format!("type=oci,dest={}", file.display());
        let epoch = format!("SOURCE_DATE_EPOCH={EPOCH}");
        store.build(&context(round), ["-t", "x:1", "-o", &output, "--build-arg", &epoch]).ok();
        (std::fs::read(&file).expect("it was written"), file)
    };
    let (one, two) = (Store::with_busybox(), Store::new());
    let base = one.path("busybox.tar");
    one.rbuild(["save".as_ref(), "-o".as_ref(), base.as_os_str(), "busybox".as_ref()]).ok();
    two.rbuild(["load".as_ref(), "-i".as_ref(), base.as_os_str()]).ok();
    // In the first store an earlier build has filled the cache.
    build(&one, 0);
    let (first, file) = build(&one, 1);
    let (second, _) = build(&two, 1);
    assert_eq!(first, second);
    let times: BTreeMap<String, u64> = Archive::read(&file).layers[1..].iter().flat_map(|tar| members(tar)).collect();
    for name in ["copied", "again", "moved"] {
        assert_eq!(times[name], EPOCH, "{name}: {times:?}");
    }
}

#[test]
fn a_step_that_waits_for_a_mount_gives_its_place_among_the_jobs_to_others() {
    let store = Store::with_busybox();
    let first = Running::staying(&store, "sharing=locked");
    // What the waiting step makes is wanted by more steps, so its turn comes first.
    let context = Context::new(
        "FROM busybox AS waits\nRUN --mount=type=cache,target=/c,sharing=locked cat /c/f > /out && echo got-it\n\
         RUN cat /out > /two\nRUN cat /two > /three\n\
         FROM busybox\nRUN echo meanwhile > /m && cat /m\nCOPY --from=waits /three /three\n",
    );
    let mut command = store.build_command(&context, ["-t", "x:2", "--jobs", "1"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
    let mut second = Running { child, stderr, said: String::new(), _context: context };
    second.until(" meanwhile\n");
    assert!(!second.said.contains(" got-it\n"), "{}", second.said);
    let_go(&store);
    first.ok();
    let said = second.ok();
    assert!(said.contains(" got-it\n"), "{said}");
}
