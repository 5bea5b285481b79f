//! `--userns=auto`: root's builds whose steps have user namespaces of their own are root's builds all the same.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::rbuild::RBUILD;
use crate::support::user::User;
use crate::support::{Context, Outcome, Store, bases};

/// Shows the owner outside of root inside, and whether it is itself.
const WHO: &str = "RUN read inside outside count < /proc/self/uid_map && test $inside = 0 && test $outside -ge 65536 && \
                   test $count -ge 65536 && echo mapped\n";

#[test]
fn steps_are_nobody_outside_whatever_their_network_and_nothing_of_it_is_in_a_key() {
    let store = Store::with_busybox();
    let context =
        Context::new(&format!("FROM busybox\n{WHO}RUN ping -c 1 -W 5 127.0.0.1 >/dev/null && echo answered\n"));
    for network in ["default", "none", "host"] {
        // On the host's network, what it takes to send packets by hand is the host's root's.
        let context = if network == "host" { &Context::new(&format!("FROM busybox\n{WHO}")) } else { &context };
        let args = ["--userns=auto", &format!("--network={network}"), "--no-cache", "-t", "x:1"];
        let outcome = store.build(context, args).ok();
        assert_eq!(outcome.lines_of_steps("mapped"), 1, "{network}: {outcome}");
    }
    // Cached, whoever asks; and the other way round.
    let cached = |args: &[&str], context: &Context| {
        let outcome = store.build(context, args).ok();
        assert!(outcome.stderr.contains(" 2 cached"), "{outcome}");
    };
    cached(&["--userns=auto", "-t", "x:1"], &context);
    let other = Context::new("FROM busybox\nRUN echo 1 > /1\nRUN chown 5:6 /1\n");
    store.build(&other, ["--userns=host", "--network=none"]).ok();
    cached(&["--userns=auto", "--network=none"], &other);
    let ran = store.rbuild([
        "run",
        "--userns=auto",
        "--network=none",
        "busybox",
        "sh",
        "-c",
        "cat /proc/self/uid_map > /dev/stdout",
    ]);
    let ran = ran.ok();
    let map: Vec<u32> = ran.stdout.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(matches!(map[..], [0, first, count] if first.min(count) >= 65536), "{ran}");
}

#[test]
fn settings_ask_for_it_and_name_its_ids() {
    let store = Store::with_busybox();
    let context = Context::new("FROM busybox\nRUN cat /proc/self/uid_map\n");
    let mapped = |args: &[&str]| {
        let outcome = store.build(&context, ["--no-cache", "--network=none"].iter().chain(args)).ok();
        let lines = outcome.stderr.lines().filter_map(|line| line.split_once(' ')?.1.split_once(' '));
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        lines.map(|(_, line)| words(line)).find(|line| line.starts_with("0 ")).expect("the map is printed")
    };
    assert_eq!(mapped(&[]), "0 0 4294967295");
    store.configure("userns = 'auto'\n");
    assert!(mapped(&[]).ends_with(" 65536"));
    assert_eq!(mapped(&["--userns=host"]), "0 0 4294967295");
    store.configure("[userns]\nmode = 'auto'\nids = '3000000000:70000'\n");
    assert_eq!(mapped(&[]), "0 3000000000 70000");
    store.configure("[userns]\nids = '1000:65536'\n");
    store.build(&context, ["--userns=auto"]).fails_saying(&[
        "`1000:65536` cannot be",
        "those of the machine itself",
        "ids =",
    ]);
    assert_eq!(mapped(&["--userns=host"]), "0 0 4294967295");
    store.build(&context, ["--userns=private"]).exits(1).says(&["`private` is none of auto, host"]);
}

#[test]
fn an_ordinary_user_has_it_already_and_cannot_have_the_machines_ids() {
    let user = Store::of_with_busybox(User::new());
    let context = Context::new(&format!(
        "FROM busybox\n{}",
        WHO.replace("$outside -ge 65536", "$outside -ge 1000").replace("$count -ge 65536", "$count = 1")
    ));
    let outcome = user.build(&context, ["--userns=auto", "--network=none"]).ok();
    assert_eq!(outcome.lines_of_steps("mapped"), 1, "{outcome}");
    user.build(&context, ["--userns=host", "--network=none"]).fails_saying(&[
        "`--userns=host`",
        "rbuild itself is in a user namespace",
        "--isolation=full",
    ]);
}

#[test]
fn a_store_that_cannot_map_owners_is_told_before_the_first_step() {
    // The store lies on overlayfs, as in a container; what is made by `world` is seen by nobody else.
    let (context, temp) = (Context::new("FROM busybox\nRUN echo first\nRUN echo second\n"), crate::support::temp_dir());
    let script = "cd $TEMP && mkdir lower upper work at && mount -t overlay o -o lowerdir=lower,upperdir=upper,workdir=work at && \
                  export RBUILD_ROOT=$TEMP/at/store HOME=$TEMP && $RBUILD import $BASE busybox >/dev/null && \
                  $RBUILD build --progress=plain --network=none --userns=auto $CONTEXT";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation=private", "sh", "-c", script]);
    command.env("RBUILD", RBUILD).env("BASE", bases::busybox()).env("CONTEXT", context.path()).env("TEMP", temp.path());
    Outcome::of(&mut command)
        .fails_saying(&[
            "overlayfs does not take id-mapped mounts",
            "keep the store on ext4, xfs or btrfs",
            "--userns=host",
        ])
        .never_prints(&["first", "second"]);
}

#[test]
fn the_doctor_tells_whether_it_can_be_had() {
    let checks = |store: &Store| -> Vec<Value> {
        let outcome = store.rbuild(["doctor", "--format", "json"]).ok();
        let report: Value = serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"));
        let checks = report["checks"].as_array().expect("a list");
        checks.iter().filter(|check| check["name"] == "--userns=auto").cloned().collect()
    };
    let [check] = &checks(&Store::new())[..] else { panic!("one line") };
    assert_eq!(check["state"], "ok", "{check}");
    assert!(check["found"].as_str().is_some_and(|found| found.contains("65536 ids from")), "{check}");
    assert_eq!(checks(&Store::of(User::new())).len(), 0, "it has nothing to do with users");
}

#[test]
fn packages_are_installed_by_a_root_that_is_nobody() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let store = Store::with_debian();
    let context = Context::new(
        "FROM debian:12-slim\n\
         RUN --mount=type=bind,source=host,target=/mnt \\\n\
             export APT_CONFIG=/mnt/apt.conf DEBIAN_FRONTEND=noninteractive && apt-get update && \\\n\
             apt-get install --yes --no-install-recommends iputils-ping cron && rm -rf /var/lib/apt/lists/* && \\\n\
             stat -c '%n %U:%G %a' /usr/bin/crontab\n",
    );
    Outcome::of(Command::new(examples.join("host.sh")).arg(context.path().join("host"))).ok();
    let outcome = store.build(&context, ["--userns=auto", "--network=host", "-t", "app:1"]).ok();
    assert_eq!(outcome.lines_of_steps("/usr/bin/crontab root:crontab 2755"), 1, "{outcome}");
}
