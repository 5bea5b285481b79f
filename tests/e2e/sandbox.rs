//! What steps may do: by default, with what the user allows, and with what the flags say of their surroundings.

use std::fs;
use std::process::Command;

use crate::probe::{self, Width};
use crate::support::rbuild::{Context, Outcome, RBUILD, Store};

/// A context with the probe in it.
fn with_probe(dockerfile: &str) -> Context {
    Context::new(dockerfile)
        .file("probe", fs::read(probe::program(Width::Native)).expect("it was built"))
        .file("narrow", fs::read(probe::program(*Width::all().last().expect("one at least"))).expect("it was built"))
}

/// Steps of a context run the probe by this.
const PROBE: &str = "RUN --mount=target=/c cp /c/probe /probe && cp /c/narrow /narrow && chmod 755 /probe /narrow";

#[test]
fn steps_are_filtered_and_hold_the_capabilities_of_a_default_container() {
    let context =
        with_probe(&format!("FROM busybox\n{PROBE}\nRUN /probe status calls\nUSER 1000\nRUN /narrow status calls\n"));
    for store in Store::everybodys() {
        let outcome = store.build(&context, ["--network=none"]).ok();
        for line in [
            "status.CapBnd 00000000a80425fb",
            "status.CapInh 0000000000000000",
            "status.CapAmb 0000000000000000",
            "status.NoNewPrivs 0",
            "status.Seccomp 2",
            "calls.mount EPERM",
            "calls.unshare_newuser EPERM",
            "calls.keyctl EPERM",
            "calls.add_key EPERM",
            "calls.bpf EPERM",
            "calls.io_uring_setup EPERM",
            "calls.userfaultfd EPERM",
            "calls.open_by_handle_at EPERM",
            "calls.socket_alg EPERM",
            "calls.socket_vsock EPERM",
            "calls.clone3 ENOSYS",
        ] {
            assert_eq!(outcome.lines_of_steps(line), 2, "{line}: {outcome}");
        }
        assert_eq!(outcome.lines_of_steps("status.CapEff 00000000a80425fb"), 1, "root: {outcome}");
        assert_eq!(outcome.lines_of_steps("status.CapEff 0000000000000000"), 1, "the user: {outcome}");
    }
}

#[test]
fn the_users_config_allows_for_every_build_and_what_comes_with_a_build_allows_nothing() {
    let store = Store::with_busybox();
    let allow = "allow = ['network.host']\n";
    let context = Context::new("FROM busybox\nENV RBUILD_ALLOW=network.host\nRUN --network=host echo ran\n");
    // Nobody looks there.
    for place in ["config.toml", ".rbuild.toml", ".config/rbuild/config.toml", "rbuild/config.toml"] {
        context.write(place, allow);
    }
    let refused = "`RUN --network=host` is not allowed";
    let mut in_context = store.build_command(&context, [""; 0]);
    Outcome::of(in_context.current_dir(context.path())).fails_saying(&[refused, "--allow network.host"]);
    let dir = store.home().join(".config/rbuild");
    fs::create_dir_all(&dir).expect("it is ours");
    fs::write(dir.join("config.toml"), allow).expect("it is ours");
    let shown = store.rbuild(["config"]).ok().stdout;
    let line = shown.lines().find(|line| line.starts_with("allow ")).unwrap_or_default();
    assert!(line.contains("network.host") && line.ends_with("/rbuild/config.toml:1"), "{shown}");
    assert_eq!(store.build(&context, [""; 0]).ok().lines_of_steps("ran"), 1);
    // Flags are added to it.
    let context = Context::new("FROM busybox\nRUN --network=host --security=insecure echo ran\n");
    let outcome = store.build(&context, [""; 0]).fails_saying(&["`RUN --security=insecure` is not allowed"]);
    outcome.never_says(&[refused]);
    store.build(&context, ["--allow", "security.insecure"]).ok();
}

#[test]
fn what_is_not_allowed_is_refused_before_anything_runs() {
    for store in Store::everybodys() {
        if store.user().is_some() {
            // Nothing runs, so no network is missed; and what config files say of it must not hide what a step asks for.
            store.configure("");
        }
        let check = |step: &str, args: &[&str], words: &[&str]| {
            let context = Context::new(&format!("FROM busybox\nRUN echo ran\n{step}\n"));
            store.build(&context, args).fails_saying(words).never_prints(&["ran"]);
        };
        let insecure = "`RUN --security=insecure` is not allowed";
        let network = "`RUN --network=host` is not allowed";
        check("RUN --security=insecure true", &[], &[insecure, "Dockerfile:3", "--allow security.insecure"]);
        check("RUN --security=insecure true", &["--allow", "network.host"], &[insecure]);
        check("RUN --network=host true", &[], &[network, "Dockerfile:3", "--allow network.host"]);
        check("RUN --device=v.com/gpu=0 true", &[], &["the device `v.com/gpu=0` is not allowed", "Dockerfile:3"]);
        check("RUN --device=v.com/gpu=0 true", &["--allow", "device=v.com/gpu=1"], &["the device `v.com/gpu=0`"]);
        check("RUN true", &["--allow", "security"], &["`--allow security`", "`security.insecure`, `network.host`"]);
        check("RUN true", &["--allow", "network.none"], &["`--allow network.none`"]);
        check("RUN --security=root true", &["--allow", "security.insecure"], &["`root` is no value of `--security`"]);
        check("RUN --network=bridge true", &["--allow", "network.host"], &["`bridge` is no value of `--network`"]);
        check("RUN true", &["--ulimit", "files=1"], &["`files` is no limit"]);
        check("RUN true", &["--shm-size", "x"], &["`--shm-size x` is not a size"]);
        check("RUN true", &["--add-host", "db"], &["`--add-host db`"]);
        check("RUN true", &["--hostname", "a b"], &["is no host name"]);
        check("RUN true", &["--dns-search", "a b"], &["is not one word"]);
    }
}

#[test]
fn an_insecure_step_has_the_rights_of_the_builder_if_that_is_allowed() {
    let context = with_probe(&format!(
        "FROM busybox\n{PROBE}\n\
         RUN --security=insecure /probe status mounts && mkdir /m && mount -t tmpfs t /m && umount /m && echo mounted\n"
    ));
    let outcome = Store::with_busybox().build(&context, ["--network=none", "--allow", "security.insecure"]).ok();
    let own = fs::read_to_string("/proc/self/status").expect("it can be read");
    let held = own.lines().find_map(|line| line.strip_prefix("CapPrm:\t")).expect("it is told");
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        assert_eq!(outcome.lines_of_steps(&format!("status.{set} {held}")), 1, "{set}: {outcome}");
    }
    assert_eq!(outcome.lines_of_steps("status.Seccomp 0"), 1, "{outcome}");
    assert_eq!(outcome.lines_of_steps("mounted"), 1, "{outcome}");
    outcome.never_prints(&["mounts./proc/", "mounts./sys/firmware", "mounts./sys ro"]);
}

#[test]
fn a_step_on_the_hosts_network_runs_if_that_is_allowed() {
    let context = Context::new("FROM busybox\nRUN --network=host readlink /proc/self/ns/net\n");
    let store = Store::with_busybox();
    let host = fs::read_link("/proc/self/ns/net").expect("it can be read").display().to_string();
    for args in [vec!["--allow", "network.host"], vec!["--no-cache", "--network=host"]] {
        assert_eq!(store.build(&context, &args).ok().lines_of_steps(&host), 1, "{args:?}");
    }
}

#[test]
fn devices_are_found_by_name_and_given_with_all_that_comes_with_them() {
    let store = Store::with_busybox();
    let specs = store.path("cdi");
    fs::create_dir(&specs).expect("it is new");
    let description = r#"{"cdiVersion": "0.6.0", "kind": "v.com/null", "devices": [{"name": "0", "containerEdits": {
        "env": ["GIVEN=yes", "OWN=device"], "deviceNodes": [{"path": "/dev/mine/null", "hostPath": "/dev/null"}]}}]}"#;
    fs::write(specs.join("null.json"), description).expect("the folder is there");
    let specs = specs.to_str().expect("a temporary path is text");
    let flags = ["--network=none", "--allow", "device=v.com/null", "--cdi-spec-dir", specs];
    let context = Context::new(
        "FROM busybox\nENV OWN=image\n\
         RUN --device=v.com/null=0 [ -c /dev/mine/null ] && echo x > /dev/mine/null && echo $GIVEN $OWN\n\
         RUN --device=v.com/null=1 [ ! -e /dev/mine ] && echo without\n",
    );
    let outcome = store.build(&context, flags).ok().says(&["there is no device `v.com/null=1`"]);
    assert_eq!(outcome.lines_of_steps("yes image"), 1, "{outcome}");
    assert_eq!(outcome.lines_of_steps("without"), 1, "{outcome}");
    let required = Context::new("FROM busybox\nRUN --device=v.com/null=1,required echo ran\n");
    store
        .build(&required, flags)
        .fails_saying(&["there is no device `v.com/null=1`", "Dockerfile:2"])
        .never_prints(&["ran"]);
}

#[test]
fn flags_say_what_steps_find_around_them_and_only_the_host_name_makes_another_step() {
    for store in Store::everybodys() {
        let context = Context::new(
            "FROM busybox\nRUN echo limit $(ulimit -n) $(ulimit -Hn); echo name $(hostname); grep db /etc/hosts; \
         df -P /dev/shm | awk 'END { print \"shm\", $2 }'\n",
        );
        let flags = |more: &[&'static str]| {
            let mut flags = vec!["--network=none", "--add-host", "db=10.0.0.7", "--shm-size", "1m"];
            flags.extend(more);
            flags
        };
        let outcome = store.build(&context, flags(&["--ulimit", "nofile=64:128", "--hostname", "builder-7"])).ok();
        for line in ["limit 64 128", "name builder-7", "10.0.0.7\tdb", "shm 1024"] {
            assert_eq!(outcome.lines_of_steps(line), 1, "{line}: {outcome}");
        }
        let again = store.build(&context, flags(&["--ulimit", "nofile=65", "--hostname", "builder-7"])).ok();
        assert_eq!(again.lines_of_steps("limit 65 65"), 0, "limits are in no key: {again}");
        let other = store.build(&context, flags(&["--ulimit", "nofile=65", "--hostname", "builder-8"])).ok();
        assert_eq!(other.lines_of_steps("limit 65 65"), 1, "{other}");
        let ran = store.rbuild([
            "run",
            "--network=none",
            "--hostname=x",
            "--ulimit=nofile=66",
            "busybox",
            "sh",
            "-c",
            "hostname; ulimit -n",
        ]);
        assert_eq!(ran.ok().stdout, "x\n66\n");
        store
            .build(&context, ["--network=none", "--add-host", "up=host-gateway"])
            .fails_saying(&["`host-gateway` is an address on the host's network only"]);
        let up = Context::new("FROM busybox\nRUN grep up /etc/hosts\n");
        let outcome = store.build(&up, ["--network=host", "--add-host", "up=host-gateway"]).ok();
        assert_eq!(outcome.lines_of_steps("127.0.0.1\tup"), 1, "{outcome}");
    }
}

#[test]
fn a_limit_that_the_builder_may_not_raise_fails_before_the_step() {
    let store = Store::with_busybox();
    let context = Context::new("FROM busybox\nRUN echo ran\n");
    let build = store.build_command(&context, ["--network=none", "--ulimit", "nofile=5000"]);
    // A builder that may have 4000, and may not raise that.
    let mut limited = Command::new("prlimit");
    limited
        .args(["--nofile=4000:4000", "setpriv", "--bounding-set=-sys_resource"])
        .arg(build.get_program())
        .args(build.get_args());
    limited.env_clear().envs(build.get_envs().filter_map(|(name, value)| Some((name, value?))));
    limited.current_dir(build.get_current_dir().expect("it is set"));
    let outcome = Outcome::of(&mut limited).exits(1);
    outcome.says(&["limit nofile 5000:5000", "it is at most 4000 here", "CAP_SYS_RESOURCE"]).never_prints(&["ran"]);
}

#[test]
fn an_image_that_runs_or_writes_the_builders_own_binary_changes_nothing() {
    let before = fs::read(RBUILD).expect("it can be read");
    for store in Store::everybodys() {
        let writes = "for exe in /proc/*/exe; do (echo x >> $exe) 2>/dev/null; done; true";
        let own =
            Context::new(&format!("FROM busybox\nRUN {writes}\nSHELL [\"/proc/self/exe\", \"version\"]\nRUN x\n"));
        let outcome = store.build(&own, ["--network=none"]);
        assert!(outcome.code.is_some(), "{outcome}");
        assert!(fs::read(RBUILD).expect("it can be read") == before, "the binary was changed");
    }
}
