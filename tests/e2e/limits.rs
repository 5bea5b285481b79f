//! Limits by flags and settings: a step that runs into one is named with it, and neither the builder nor its other steps
//! suffer. What the control groups of this machine can give is tested with the sandbox.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::user::User;
use crate::support::{Context, Outcome, Store, soak};

#[test]
fn a_step_that_runs_into_a_limit_says_which_and_how_to_raise_it() {
    for store in Store::everybodys() {
        let check = |flag: &str, script: &str, expected: &str| {
            let built =
                store.build(&Context::new(&format!("FROM busybox\nRUN {script}\n")), [flag, "-t", "x:1"]).exits(1);
            let name = flag.split('=').next().unwrap_or_default();
            assert!(built.stderr.contains(expected), "{flag}: {built}");
            assert!(built.stderr.contains(&format!("raise it with `{name}`")), "{flag}: {built}");
        };
        check("--timeout=1s", "sleep 97001", "was stopped: it took longer than the limit of 1 s");
        let filler = "while :; do head -c 1000000 /dev/zero >> /big; done";
        check("--disk-limit=4MiB", filler, "and the limit is 4 MiB");
        // None of it is in a key.
        let context = Context::new("FROM busybox\nRUN echo ran > /x\n");
        store.build(&context, ["-t", "x:1"]).ok();
        let again = store.build(&context, ["--timeout=9s", "--disk-limit=1GB", "-t", "x:1"]).ok();
        assert!(again.stderr.contains(" 1 cached"), "{again}");
        let ran = store.rbuild(["run", "--rm", "--network=none", "--timeout=1s", "x:1", "sleep", "97002"]).exits(1);
        assert!(ran.stderr.contains("took longer than the limit of 1 s"), "{ran}");
    }
}

/// Control groups of this test's own, given to a user; removed with the value.
struct Given(Vec<PathBuf>);

impl Given {
    /// Beneath this process's own group of each hierarchy of version 1 that limits memory or processes. Nothing of a
    /// hierarchy of version 2, where a controller would have to be taken from the machine.
    fn to(user: &User) -> Self {
        let own = std::fs::read_to_string("/proc/self/cgroup").expect("procfs");
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("procfs");
        let groups = ["memory", "pids"].into_iter().filter_map(|controller| {
            let of = |names: &str| names.split(',').any(|name| name == controller);
            let path = own.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':').skip(1);
                of(fields.next()?).then(|| fields.next())?
            })?;
            let mount = mounts.lines().find_map(|line| {
                let (before, after) = line.split_once(" - cgroup ")?;
                of(after.split(' ').nth(1)?).then(|| before.split(' ').nth(4))?
            })?;
            // Of another name than a builder's, which sweeps those of dead ones beside its own.
            let group = PathBuf::from(format!("{mount}{path}/given-by-e2e-{}", std::process::id()));
            std::fs::create_dir(&group).expect("root makes groups");
            Outcome::of(Command::new("chown").args(["-R", &user.id.to_string()]).arg(&group)).ok();
            Some(group)
        });
        Self(groups.collect())
    }

    /// The same command from within.
    fn enclose(&self, command: &Command, user: &User) -> Outcome {
        let script = "for group in $GROUPS_OF_TEST; do echo $$ > $group/cgroup.procs || exit 9; done; unset GROUPS_OF_TEST; \
                      exec setpriv --reuid $USER_ID --regid $USER_ID --clear-groups \"$@\"";
        let mut within = Command::new("sh");
        within.args(["-c", script, "sh"]).arg(command.get_program()).args(command.get_args());
        within.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let groups: Vec<_> = self.0.iter().map(|path| path.display().to_string()).collect();
        within.env("GROUPS_OF_TEST", groups.join(" ")).env("USER_ID", user.id.to_string());
        Outcome::of(within.current_dir(command.get_current_dir().expect("it is set")))
    }
}

impl Drop for Given {
    fn drop(&mut self) {
        for group in &self.0 {
            // What a builder left in it is empty.
            let inner = std::fs::read_dir(group).into_iter().flatten().flatten().map(|entry| entry.path());
            inner.filter(|path| path.is_dir()).chain([group.clone()]).for_each(|path| {
                if let Err(error) = std::fs::remove_dir(&path) {
                    eprintln!("{path:?} stays behind: {error}");
                }
            });
        }
    }
}

#[test]
fn a_user_limits_steps_by_groups_that_were_given_to_it_and_by_no_others() {
    let user = Store::of_with_busybox(User::new());
    let account = user.user().expect("it has one");
    let context = Context::new("FROM busybox\nRUN echo ran && tail /dev/zero\n");
    let flags = ["--memory=32m", "--memory-swap=32m", "--network=none"];
    // The group that this test is in is not the user's.
    user.build(&context, flags)
        .fails_saying(&["`--memory` needs", "control group", "Delegate=yes"])
        .never_prints(&["ran"]);
    let given = Given::to(account);
    if given.0.is_empty() {
        println!("skipped in part: this machine has no control groups of version 1 to give away");
        return;
    }
    let hog = given.enclose(&user.build_command(&context, flags), account).exits(1);
    hog.says(&["memory", "raise it with `--memory`"]);
    let bomb = Context::new("FROM busybox\nRUN i=0; while [ $i -lt 40 ]; do sleep 1000 & i=$((i+1)); done; echo all\n");
    let bomb = given.enclose(&user.build_command(&bomb, ["--pids-limit=16", "--network=none"]), account).exits(1);
    bomb.says(&["raise it with `--pids-limit`"]).never_prints(&["all"]);
}

#[test]
fn what_a_step_used_is_in_its_record() {
    let store = Store::with_busybox();
    let context = Context::new("FROM busybox\nRUN n=0; while [ $n -lt 20000 ]; do n=$((n+1)); done; echo $n > /n\n");
    store.build(&context, ["-t", "x:1"]).ok();
    let listed = store.rbuild(["history", "ls", "--quiet"]).ok();
    let id = listed.stdout.trim();
    let shown = store.rbuild(["history", "inspect", id]).ok();
    assert!(shown.stdout.contains("CPU") && shown.stdout.contains("MEMORY"), "{shown}");
    let told = store.rbuild(["history", "inspect", "--format", "json", id]).ok();
    let told: Value = serde_json::from_str(&told.stdout).expect("it is JSON");
    let steps = told["all_steps"].as_array().expect("a list");
    let used: Vec<&Value> = steps.iter().filter(|step| !step["usage"].is_null()).collect();
    let [step] = used[..] else { panic!("one step has a process: {told}") };
    assert!(step["name"].as_str().is_some_and(|name| name.contains("RUN")), "{step}");
    let number = |name: &str| step["usage"][name].as_u64().unwrap_or_default();
    assert!(number("user_us") + number("system_us") > 1000, "{step}");
    assert!(number("max_rss_bytes") > 100_000, "{step}");
}

#[test]
fn what_each_step_used_is_in_the_metadata_with_and_without_a_history() {
    let store = Store::with_busybox();
    let config = store.home().join(".config/rbuild");
    std::fs::create_dir_all(&config).expect("it is ours");
    for (row, keep) in [("one", 50), ("two", 0)] {
        std::fs::write(config.join("config.toml"), format!("[history]\nkeep = {keep}\n")).expect("it is ours");
        let context = Context::new(&format!("FROM busybox\nWORKDIR /{row}\nRUN head -c 9m /dev/zero | md5sum\n"));
        let steps = |args: &[&str]| -> Vec<Value> {
            store.build(&context, [&["--metadata-file=meta.json"], args].concat()).ok();
            let text = std::fs::read_to_string(store.path("meta.json")).expect("it was asked for");
            let metadata: Value = serde_json::from_str(&text).expect("it is JSON");
            assert!(metadata["containerimage.digest"].is_string(), "{metadata}");
            metadata["vnd.rbuild.steps"].as_array().expect("a list").clone()
        };
        let [directory, run] = &steps(&[])[..] else { panic!("two steps") };
        assert_eq!((directory["result"].as_str(), directory["line"].as_u64()), (Some("ran"), Some(2)), "{directory}");
        assert!(directory["usage"].is_null(), "it has no process: {directory}");
        assert_eq!((run["result"].as_str(), run["line"].as_u64()), (Some("ran"), Some(3)), "{run}");
        assert!(run["name"].as_str().is_some_and(|name| name.ends_with("RUN head -c 9m /dev/zero | md5sum")), "{run}");
        assert!(run["duration_us"].as_u64() > Some(1000) && run["usage"]["user_us"].as_u64() > Some(1000), "{run}");
        let again = steps(&[]);
        assert!(again.iter().all(|step| step["result"] == "cached" && step["usage"].is_null()), "{again:?}");
    }
}

/// The largest resident set that a builder had while a step printed so much.
fn resident_kib(script: &str) -> u64 {
    let store = Store::with_busybox();
    let context = Context::new(&format!("FROM busybox\nRUN {script}\n"));
    let mut command = store.build_command(&context, ["-t", "x:1"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary starts");
    let status = format!("/proc/{}/status", child.id());
    let mut stderr = child.stderr.take().expect("it is piped");
    let (mut most, mut piece) = (0, vec![0; 1 << 20]);
    while stderr.read(&mut piece).expect("a pipe") > 0 {
        // Nothing is told of a process that has ended.
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        most = line.and_then(|line| line.trim().split(' ').next()?.parse().ok()).unwrap_or(0).max(most);
    }
    assert!(child.wait().expect("it is ours").success(), "{script}");
    most
}

#[test]
fn output_without_end_or_line_break_does_not_fill_the_builders_memory() {
    // All of it when soaking: the 1 GB line. What is kept meanwhile are two queues of 16 MiB and what is made of them to be
    // shown: less than 60 MiB, whatever is printed.
    // Short lines are more in memory than they have bytes, so fewer of them are enough to be seen.
    let soaks = !soak(0).is_zero();
    let (without_break, lines) = if soaks { (1024, 1024) } else { (144, 40) };
    let before = resident_kib("echo little");
    for script in [
        format!("head -c {without_break}m /dev/zero | tr '\\0' x"),
        format!("yes 'a line of output as it is usual' | head -c {lines}m"),
    ] {
        let after = resident_kib(&script);
        println!("{before} KiB, and {after} KiB: {script}");
        assert!(after < before + (96 << 10), "{before} KiB became {after} KiB: {script}");
    }
}
