//! What a step cannot see is no reason to run it again.

use super::Change::{Context as Files, Dockerfile, Options};
use super::*;

const FILES: &str = "echo a-ROW >a; mkdir d; echo b-ROW >d/b; ln -s b d/l; echo other >other";

/// Whatever changes, nothing runs again.
fn check_same(name: &str, rows: &[(&'static str, Change)]) {
    let rows: Vec<Row> = rows.iter().map(|(dockerfile, change)| (*dockerfile, *change, &[][..])).collect();
    check(name, FILES, &rows);
}

#[test]
fn what_no_step_can_see_of_the_context_does_not_count() {
    const ALL: &str = "BASE\nCOPY a d /x/\nCOPY --link d /y\nRUN --mount=type=bind,source=d,target=/t ls /t >/f";
    check_same(
        "context",
        &[
            (ALL, Files("touch -d @5 a d d/b; touch -hd @5 d/l")),
            (ALL, Files("touch a d d/b; touch -h d/l")),
            (ALL, Files("chown 1234:1234 a d d/b; chown -h 1234:1234 d/l")),
            (ALL, Files("cat a d/* other >/dev/null")),
            (ALL, Files("echo new >other; echo new >unrelated; chmod 600 other")),
            (ALL, Files("cp -a d d2; rm -r d; mv d2 d")),
            (ALL, Files("ln a a2")),
            (ALL, Files("setfattr -n security.label -v x a")),
            (ALL, Files("echo other >.dockerignore")),
            (ALL, Files("echo '# nothing' >.dockerignore")),
        ],
    );
}

#[test]
fn the_place_of_the_context_and_the_name_of_the_dockerfile_do_not_count() {
    let store = Store::with_busybox();
    let one = Context::new("FROM busybox\nCOPY . /all\nRUN echo 1 >/f\n").file(".dockerignore", "*ockerfile\n");
    shell(&one, "echo a >a; mkdir d; echo b >d/b");
    let first = store.image_id(&one, ["-t", "app"]);
    let other = Context::empty();
    shell(&other, &format!("cp -a {}/. .; mv Dockerfile Xockerfile; chown 7:7 a", one.path().display()));
    let file = other.path().join("Xockerfile");
    assert_eq!(store.image_id(&other, ["-f".as_ref(), file.as_os_str()]), first);
}

#[test]
fn how_a_dockerfile_is_written_does_not_count() {
    const RUN: &str = "BASE\nLABEL a=1 b=2\nENV A=1 B=2\nRUN echo 1 2 >/f\nCOPY a d /x/\nRUN [\"touch\", \"/g\"]";
    check_same(
        "written",
        &[
            (
                RUN,
                Dockerfile(
                    "# comment\n\nBASE\nLABEL a=1 b=2\nENV A=1 B=2\n# more\nRUN echo 1 2 >/f\nCOPY a d /x/\n\n\nRUN [\"touch\", \"/g\"]",
                ),
            ),
            (
                RUN,
                Dockerfile(
                    "# syntax=docker/dockerfile:1\nBASE\nLABEL a=1 b=2\nENV A=1 B=2\nRUN echo 1 2 >/f\nCOPY a d /x/\nRUN [\"touch\", \"/g\"]",
                ),
            ),
            (
                RUN,
                Dockerfile(
                    "BASE\nlabel a=1 b=2\nenv A=1 B=2\nrun   echo 1 2 >/f\ncopy   a   d   /x/\nrun [ \"touch\" , \"/g\" ]",
                ),
            ),
            (
                RUN,
                Dockerfile(
                    "BASE\nLABEL a=1 b=2\nENV A=1 B=2\nRUN \\\n  echo 1 2 >/f\nCOPY a \\\n# between\n d /x/\nRUN [\"touch\", \"/g\"]",
                ),
            ),
            (
                RUN,
                Dockerfile(
                    "BASE\nLABEL a=1 b=2\nENV A=1 B=\"2\"\nRUN echo 1 2 >/f\nCOPY [\"a\", \"d\", \"/x/\"]\nRUN [\"touch\", \"/g\"]",
                ),
            ),
            (
                RUN,
                Dockerfile(
                    "BASE\nLABEL a=1 b=2\nENV A=1\nENV B=2\nRUN echo 1 2 >/f\nCOPY a d /x/\nRUN [\"touch\", \"/g\"]",
                ),
            ),
            // What only the config says.
            (
                RUN,
                Dockerfile("BASE\nLABEL b=2 a=1\nENV A=1 B=2\nRUN echo 1 2 >/f\nCOPY a d /x/\nRUN [\"touch\", \"/g\"]"),
            ),
            (
                RUN,
                Dockerfile(
                    "BASE\nLABEL c=3\nEXPOSE 1\nVOLUME /v\nSTOPSIGNAL 9\nENV A=1 B=2\nRUN echo 1 2 >/f\nCOPY a d /x/\nRUN [\"touch\", \"/g\"]\nCMD x",
                ),
            ),
            ("BASE\nRUN echo >/f\nENV A=1", Dockerfile("BASE\nRUN echo >/f\nENV A=2")),
            ("BASE\nRUN echo >/f\nUSER 1", Dockerfile("BASE\nRUN echo >/f\nUSER 2")),
            ("BASE\nENV A=1\nCOPY a /a", Dockerfile("BASE\nENV A=2\nCOPY a /a")),
            ("BASE\nUSER 1\nCOPY a /a", Dockerfile("BASE\nUSER 2\nSHELL [\"x\"]\nCOPY a /a")),
            (
                "BASE AS one\nRUN echo >/f\nBASE\nCOPY --from=one /f /f",
                Dockerfile("BASE AS two\nRUN echo >/f\nBASE\nCOPY --from=two /f /f"),
            ),
            (
                "BASE AS one\nRUN echo >/f\nBASE\nCOPY --from=one /f /f",
                Dockerfile("BASE\nRUN echo >/f\nFROM busybox AS unused\nRUN false\nBASE\nCOPY --from=1 /f /f"),
            ),
        ],
    );
}

#[test]
fn arguments_that_a_step_cannot_see_do_not_count() {
    const PROXY: (&[&str], &[&str]) = (
        &["--build-arg=http_proxy=http://one.test:1"],
        &["--build-arg=http_proxy=http://two.test:2", "--build-arg=NO_PROXY=x"],
    );
    const V: (&[&str], &[&str]) = (&["--build-arg=V=1"], &["--build-arg=V=2"]);
    check_same(
        "args",
        &[
            ("BASE\nRUN echo $V >/f\nARG V", Options(V.0, V.1)),
            ("BASE\nRUN echo $V >/f", Options(V.0, V.1)),
            ("ARG V\nBASE\nRUN echo $V >/f", Options(V.0, V.1)),
            ("FROM busybox AS s\nARG V\nRUN echo $V >/f\nBASE\nRUN echo $V >/f", Options(V.0, V.1)),
            ("BASE\nARG V\nCOPY a /a", Options(V.0, V.1)),
            ("BASE\nRUN echo >/f", Options(PROXY.0, PROXY.1)),
            ("BASE\nRUN echo >/f", Options(&[], PROXY.1)),
            ("BASE\nRUN echo >/f", Options(&["-t", "one"], &["-t", "two", "--label", "x=y"])),
        ],
    );
}

#[test]
fn what_a_step_may_use_of_the_machine_does_not_count() {
    const RUN: &str = "BASE\nRUN echo >/f";
    let changes: [(&[&str], &[&str]); 17] = [
        (&[], &["--memory=64m"]),
        (&["--memory=64m"], &["--memory=128m", "--memory-swap=256m"]),
        (&[], &["--cpus=1"]),
        (&["--cpu-quota=50000"], &["--cpu-quota=50000", "--cpu-period=50000"]),
        (&[], &["--cpu-shares=512"]),
        (&[], &["--cpuset-cpus=0"]),
        (&[], &["--cpuset-mems=0"]),
        (&[], &["--pids-limit=100"]),
        (&["--pids-limit=100"], &["--pids-limit=-1"]),
        (&[], &["--timeout=9m"]),
        (&["--disk-limit=1GB"], &["--disk-limit=2GB"]),
        (&[], &["--resource=memory=64m,cpus=1"]),
        (&[], &["--ulimit=nofile=1000:1000"]),
        (&["--ulimit=nofile=1000"], &["--ulimit=nofile=2000", "--ulimit=core=0"]),
        (&["--shm-size=1m"], &["--shm-size=2m"]),
        (&["--add-host=db=192.0.2.1"], &["--add-host=db=192.0.2.2"]),
        (&["--dns=192.0.2.1"], &["--dns=192.0.2.2", "--dns-search=example.com", "--dns-option=ndots:2"]),
    ];
    let rows: Vec<_> = changes.into_iter().map(|(first, second)| (RUN, Options(first, second))).collect();
    check_same("limits", &rows);
}

#[test]
fn values_of_secrets_and_what_is_allowed_do_not_count() {
    const SECRET: &str = "BASE\nRUN --mount=type=secret,id=s wc -c </run/secrets/s >/dev/null; echo >/f";
    const VARIABLE: &str = "BASE\nRUN --mount=type=secret,id=s,env=S,required test -n \"$S\" && echo >/f";
    const MAY: &str = "BASE\nRUN --mount=type=secret,id=s echo >/f";
    const ONE: &[&str] = &["--secret=id=s,cmd=echo one-value"];
    const TWO: &[&str] = &["--secret=id=s,cmd=echo another-value"];
    check_same(
        "given",
        &[
            (SECRET, Options(ONE, TWO)),
            (VARIABLE, Options(ONE, TWO)),
            (MAY, Options(&[], ONE)),
            (MAY, Options(ONE, &[])),
            (MAY, Options(&[], &["--allow=security.insecure,network.host", "--jobs=1"])),
            (
                "BASE\nRUN echo >/f",
                Options(
                    &["--build-arg=https_proxy=http://one.test:1", "--build-arg=ALL_PROXY=http://one.test:1"],
                    &["--build-arg=HTTPS_PROXY=http://two.test:1", "--build-arg=ftp_proxy=x", "--build-arg=no_proxy=y"],
                ),
            ),
        ],
    );
}
