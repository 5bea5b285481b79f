//! Stages, steps and what the image says of itself.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use serde_json::json;

use crate::support::{Archive, Context, Store, readers};

#[test]
fn image_from_scratch_is_read_by_skopeo_and_umoci() {
    let store = Store::new();
    let context = Context::new("FROM scratch\nCOPY hello /greeting\nLABEL a=b\n").file("hello", "hello\n");
    let file = store.path("app.tar");
    store.build(&context, ["-t", "app:1", "-o", &format!("type=oci,dest={}", file.display())]).ok();

    let archive = Archive::read(&file);
    assert_eq!(archive.len(), 1);
    assert_eq!(archive.names(0), ["greeting"]);
    let image = format!("oci-archive:{}", file.display());
    assert_eq!(readers::inspect(&image)["Digest"], archive.digest.as_str());
    assert_eq!(readers::inspect(&image)["Labels"], json!({ "a": "b" }));
    let bundle = readers::unpack(&image, &store.path(""));
    assert_eq!(std::fs::read_to_string(bundle.join("rootfs/greeting")).expect("it was copied"), "hello\n");
}

#[test]
fn config_says_what_the_dockerfile_says() {
    let store = Store::with_busybox();
    let context = Context::new(
        "FROM busybox\nARG WHO=nobody\nENV GREETING=\"good day\" PATH=/bin:/opt/bin\nLABEL org.example.team=\"a b\"\n\
         WORKDIR /srv/app\nWORKDIR data\nUSER 7:8\nEXPOSE 8000 53/udp\nVOLUME /data\nSTOPSIGNAL SIGINT\n\
         SHELL [\"/bin/ash\", \"-c\"]\nHEALTHCHECK --interval=5s --retries=2 CMD true\n\
         ENTRYPOINT [\"echo\", \"$GREETING\"]\nCMD ${WHO}\nONBUILD RUN true\n",
    );
    let file = store.path("app.tar");
    store.build(&context, ["-o", &format!("type=oci,dest={}", file.display()), "--label", "from=outside"]).ok();

    let config = readers::inspect_config(&format!("oci-archive:{}", file.display()));
    let inner = &config["config"];
    assert_eq!(inner["Env"], json!(["PATH=/bin:/opt/bin", "GREETING=good day"]), "{inner}");
    assert_eq!(inner["Labels"], json!({ "org.example.team": "a b", "from": "outside" }));
    assert_eq!(inner["WorkingDir"], "/srv/app/data");
    assert_eq!(inner["User"], "7:8");
    assert_eq!(inner["ExposedPorts"], json!({ "8000/tcp": {}, "53/udp": {} }));
    assert_eq!(inner["Volumes"], json!({ "/data": {} }));
    assert_eq!(inner["StopSignal"], "SIGINT");
    assert_eq!(inner["Entrypoint"], json!(["echo", "$GREETING"]));
    assert_eq!(inner["Cmd"], json!(["/bin/ash", "-c", "${WHO}"]));

    // The docker archive keeps what the OCI config has no word for.
    let archive = Archive::read(&file);
    let inner = &archive.config["config"];
    assert_eq!(inner["Shell"], json!(["/bin/ash", "-c"]));
    assert_eq!(inner["OnBuild"], json!(["RUN true"]));
    assert_eq!(inner["Healthcheck"]["Test"], json!(["CMD-SHELL", "true"]));
    assert_eq!(inner["Healthcheck"]["Interval"], 5_000_000_000_u64);
    let history = archive.config["history"].as_array().expect("checked when it was read");
    let said: Vec<_> = history.iter().filter_map(|entry| entry["created_by"].as_str()).collect();
    assert!(said.iter().any(|line| line.contains("WORKDIR /srv/app")), "{said:?}");
}

#[test]
fn only_the_stages_that_the_target_needs_run() {
    let store = Store::with_busybox();
    let context = Context::new(
        "FROM busybox AS unneeded\nRUN echo ran-unneeded && false\n\
         FROM busybox AS build\nRUN echo ran-build && echo made > /made\n\
         FROM busybox AS test\nRUN echo ran-test && false\n\
         FROM scratch AS last\nCOPY --from=build /made /made\n",
    );
    let built = store.build(&context, ["-t", "app:1"]).ok().never_says(&["unneeded", "ran-test"]);
    assert_eq!(built.lines_of_steps("ran-build"), 1);
    store.build(&context, ["--target", "build"]).ok().never_prints(&["ran-"]);
    store.build(&context, ["--target", "test"]).fails_saying(&["ran-test"]);
    store.build(&context, ["--target", "tset"]).fails_saying(&["tset", "help", "test"]);
}

#[test]
fn independent_stages_run_at_the_same_time() {
    // Both steps wait for the test, and the test answers neither before both have come.
    let meeting = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let port = meeting.local_addr().expect("it listens").port();
    let store = Store::with_busybox();
    let context = Context::new(&format!(
        "FROM busybox AS a\nRUN nc 127.0.0.1 {port} > /a\nFROM busybox AS b\nRUN nc 127.0.0.1 {port} > /b\n\
         FROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /\n"
    ));
    let host = std::thread::spawn(move || {
        let guests: Vec<_> = (0..2).map(|_| meeting.accept().expect("loopback accepts").0).collect();
        for mut guest in guests {
            guest.write_all(b"met\n").expect("the step waits for this");
            guest.shutdown(std::net::Shutdown::Write).expect("the step waits for this");
            guest.read_to_end(&mut Vec::new()).expect("the step hangs up");
        }
    });
    let dest = store.path("out");
    let output = format!("type=local,dest={}", dest.display());
    store.build(&context, ["--network=host", "--jobs=2", "-o", &output]).ok();
    host.join().expect("both met");
    for name in ["a", "b"] {
        assert_eq!(std::fs::read_to_string(dest.join(name)).expect("it was copied"), "met\n");
    }
}

#[test]
fn shell_and_exec_form_see_arguments_and_environment() {
    let store = Store::with_busybox();
    let context = Context::new(
        "ARG BASE=busybox\nFROM $BASE\nARG WHO=nobody\nENV A=1\n\
         RUN echo \"shell $WHO $A $(id -u) $0\"\nRUN [\"/bin/echo\", \"exec $WHO\", \"two words\"]\n\
         SHELL [\"/bin/ash\", \"-e\", \"-c\"]\nRUN false; echo never\n",
    );
    let built = store.build(&context, ["--build-arg", "WHO=ann"]).fails_saying(&["Dockerfile:8"]);
    assert_eq!(built.lines_of_steps("shell ann 1 0 /bin/sh"), 1, "{built}");
    assert_eq!(built.lines_of_steps("exec $WHO two words"), 1, "{built}");
    assert_eq!(built.lines_of_steps("never"), 0, "{built}");
}

#[test]
fn here_documents_are_scripts_and_files() {
    let store = Store::with_busybox();
    let context = Context::new(
        "FROM busybox\nARG N=3\nRUN <<EOF\nfor i in 1 2 \"$N\"; do echo \"turn $i\"; done\nEOF\n\
         COPY <<-one.txt <<'two.txt' /docs/\n\tthe first, $N\none.txt\nthe second, $N\ntwo.txt\n",
    );
    let dest = store.path("out");
    let built = store.build(&context, ["-o", &format!("type=local,dest={}", dest.display())]).ok();
    assert_eq!(built.lines_of_steps("turn 3"), 1, "{built}");
    let read = |name: &str| std::fs::read_to_string(dest.join("docs").join(name)).expect("it was written");
    assert_eq!((read("one.txt"), read("two.txt")), ("the first, 3\n".into(), "the second, $N\n".into()));
}

#[test]
fn steps_leave_no_trace_of_what_they_were_given() {
    let store = Store::with_busybox();
    let context = Context::new(
        "FROM busybox\n\
         RUN --mount=type=bind,source=given,target=/mnt test -s /etc/hosts && test -e /etc/resolv.conf \
         && test -c /dev/null && test -d /dev/shm && test \"$(cat /mnt/file)\" = given && hostname && touch /trace\n\
         RUN test ! -e /mnt/file\n",
    )
    .file("given/file", "given");
    let file = store.path("app.tar");
    store.build(&context, ["-o", &format!("type=oci,dest={}", file.display())]).ok();
    let archive = Archive::read(&file);
    assert_eq!(archive.len(), 2, "the second step changed nothing and makes no layer");
    assert_eq!(archive.names(1), ["trace"]);
}

#[test]
fn builders_environment_and_descriptors_stay_outside() {
    let store = Store::with_busybox();
    let context =
        Context::new("FROM busybox\nRUN env; cat /proc/1/environ | tr '\\0' '\\n'; ls -l /proc/self/fd | wc -l\n");
    let mut command = store.build_command(&context, ["-t", "app:1"]);
    command.env("CANARY_OF_THE_BUILDER", "canary");
    let built = crate::support::Outcome::of(&mut command).ok().never_says(&["canary", "CANARY"]);
    // `total 0`, 0, 1, 2 and the directory that ls itself reads.
    assert_eq!(built.lines_of_steps("5"), 1, "{built}");
}

#[test]
fn network_none_has_only_loopback() {
    let store = Store::with_busybox();
    let context = Context::new("FROM busybox\nRUN ls /sys/class/net | xargs echo net: && ip -o link | wc -l\n");
    let built = store.build(&context, ["--network=none"]).ok();
    assert_eq!(built.lines_of_steps("net: lo"), 1, "{built}");
}
