//! What a step can see makes it run again.

use super::Change::{Context as Files, Dockerfile, Options};
use super::*;

const FILES: &str = "echo a-ROW >a; mkdir d; echo b-ROW >d/b; ln -s b d/l; echo other >other";

#[test]
fn what_a_run_step_can_see_makes_it_run_again() {
    check(
        "run",
        FILES,
        &[
            // Its command, in either form, and what is written beneath it.
            ("BASE\nRUN echo one >/f\nRUN cat /f", Dockerfile("BASE\nRUN echo 1 >/f\nRUN cat /f"), &["RUN", "RUN"]),
            ("BASE\nRUN echo  1 >/f", Dockerfile("BASE\nRUN echo 1 >/f"), &["RUN"]),
            ("BASE\nRUN [\"touch\", \"/f\"]", Dockerfile("BASE\nRUN [\"touch\", \"/g\"]"), &["RUN"]),
            ("BASE\nRUN <<E\necho 1\nE", Dockerfile("BASE\nRUN <<E\necho 2\nE"), &["RUN"]),
            ("BASE\nRUN cat <<E >/f\n1\nE", Dockerfile("BASE\nRUN cat <<E >/f\n2\nE"), &["RUN"]),
            // Its environment.
            ("BASE\nENV A=1\nRUN echo", Dockerfile("BASE\nENV A=2\nRUN echo"), &["RUN"]),
            ("BASE\nRUN echo", Dockerfile("BASE\nENV A=2\nRUN echo"), &["RUN"]),
            ("BASE\nARG V\nRUN echo", Options(&["--build-arg=V=1"], &["--build-arg=V=2"]), &["RUN"]),
            ("BASE\nARG V=1\nRUN echo", Options(&[], &["--build-arg=V=2"]), &["RUN"]),
            ("BASE\nARG V=1\nRUN echo", Dockerfile("BASE\nARG V=2\nRUN echo"), &["RUN"]),
            ("ARG V=1\nBASE\nARG V\nRUN echo", Options(&[], &["--build-arg=V=2"]), &["RUN"]),
            // Shell, user, directory.
            ("BASE\nRUN echo", Dockerfile("BASE\nSHELL [\"/bin/ash\", \"-c\"]\nRUN echo"), &["RUN"]),
            ("BASE\nRUN id", Dockerfile("BASE\nUSER 1\nRUN id"), &["RUN"]),
            ("BASE\nUSER 1\nRUN id", Dockerfile("BASE\nUSER 1:2\nRUN id"), &["RUN"]),
            ("BASE\nWORKDIR /x\nRUN pwd", Dockerfile("BASE\nWORKDIR /y\nRUN pwd"), &["WORKDIR", "RUN"]),
            ("BASE\nWORKDIR /tmp\nRUN pwd", Dockerfile("BASE\nWORKDIR /root\nRUN pwd"), &["WORKDIR", "RUN"]),
            // Names that mean something to it.
            ("BASE\nRUN echo", Options(&[], &["--add-host=db=192.0.2.1"]), &["RUN"]),
            ("BASE\nRUN echo", Options(&["--add-host=db=192.0.2.1"], &["--add-host=bd=192.0.2.1"]), &["RUN"]),
            ("BASE\nRUN echo", Options(&["--hostname=a"], &["--hostname=b"]), &["RUN"]),
            // Network and mounts.
            ("BASE\nRUN echo", Dockerfile("BASE\nRUN --network=none echo"), &["RUN"]),
            ("BASE\nRUN echo", Dockerfile("BASE\nRUN --mount=type=tmpfs,target=/t echo"), &["RUN"]),
            (
                "BASE\nRUN --mount=type=tmpfs,target=/t echo",
                Dockerfile("BASE\nRUN --mount=type=tmpfs,target=/u echo"),
                &["RUN"],
            ),
            (
                "BASE\nRUN --mount=type=bind,source=a,target=/t/a echo",
                Dockerfile("BASE\nRUN --mount=type=bind,source=other,target=/t/a echo"),
                &["RUN"],
            ),
            (
                "BASE\nRUN --mount=type=bind,source=a,target=/t/a echo",
                Dockerfile("BASE\nRUN --mount=type=bind,source=a,target=/t/a,rw echo"),
                &["RUN"],
            ),
            ("BASE\nRUN --mount=type=bind,source=a,target=/t/a cat /t/a", Files("echo 2 >a"), &["RUN"]),
            ("BASE\nRUN --mount=type=bind,target=/t cat /t/a", Files("echo 2 >other"), &["RUN"]),
            ("BASE\nRUN --mount=type=bind,source=d,target=/t ls /t", Files("chmod 600 d/b"), &["RUN"]),
            (
                "BASE AS s\nRUN echo 1 >/f\nBASE\nRUN --mount=type=bind,from=s,source=/f,target=/t/f cat /t/f",
                Dockerfile(
                    "BASE AS s\nRUN echo 2 >/f\nBASE\nRUN --mount=type=bind,from=s,source=/f,target=/t/f cat /t/f",
                ),
                &["RUN", "RUN"],
            ),
            (
                "BASE AS s\nRUN touch /f\nBASE\nRUN --mount=type=bind,from=s,target=/t ls -ln /t",
                Dockerfile(
                    "BASE AS s\nRUN touch /f && chown 7 /f\nBASE\nRUN --mount=type=bind,from=s,target=/t ls -ln /t",
                ),
                &["RUN", "RUN"],
            ),
        ],
    );
}

#[test]
fn what_a_copy_takes_makes_it_copy_again() {
    check(
        "copy",
        FILES,
        &[
            ("BASE\nCOPY a /a", Files("echo 2 >a"), &["COPY"]),
            ("BASE\nCOPY a /a\nRUN cat /a", Files("echo 2 >a"), &["COPY", "RUN"]),
            ("BASE\nCOPY a /a", Files("chmod 755 a"), &["COPY"]),
            ("BASE\nCOPY a /a", Files("chmod u+s a"), &["COPY"]),
            ("BASE\nCOPY a /a", Files("setfattr -n user.k -v v a"), &["COPY"]),
            ("BASE\nCOPY a /a", Files("rm a; ln -s other a"), &["COPY"]),
            ("BASE\nCOPY d /d", Files("ln -sfn c d/l"), &["COPY"]),
            ("BASE\nCOPY d /d", Files("echo new >d/c"), &["COPY"]),
            ("BASE\nCOPY d /d", Files("mkdir d/e"), &["COPY"]),
            ("BASE\nCOPY d /d", Files("mv d/b d/c"), &["COPY"]),
            ("BASE\nCOPY d /d", Files("rm d/l"), &["COPY"]),
            ("BASE\nCOPY d /d", Files("setfattr -n user.k -v v d/b"), &["COPY"]),
            ("BASE\nCOPY d* /d", Files("echo new >d2"), &["COPY"]),
            ("BASE\nCOPY . /all", Files("echo b >.dockerignore"), &["COPY"]),
            ("BASE\nCOPY a /a", Dockerfile("BASE\nCOPY a /b"), &["COPY"]),
            ("BASE\nCOPY a /a", Dockerfile("BASE\nCOPY other /a"), &["COPY"]),
            ("BASE\nCOPY a /a", Dockerfile("BASE\nCOPY --chmod=600 a /a"), &["COPY"]),
            ("BASE\nCOPY a /a", Dockerfile("BASE\nCOPY --chown=5:6 a /a"), &["COPY"]),
            ("BASE\nCOPY d /d", Dockerfile("BASE\nCOPY --exclude=b d /d"), &["COPY"]),
            ("BASE\nCOPY <<E /f\n1\nE", Dockerfile("BASE\nCOPY <<E /f\n2\nE"), &["COPY"]),
            ("BASE\nARG V\nCOPY $V /f", Options(&["--build-arg=V=a"], &["--build-arg=V=other"]), &["COPY"]),
            // Of another stage: the owner too.
            (
                "BASE AS s\nRUN mkdir /o && touch /o/f\nBASE\nCOPY --from=s /o /o",
                Dockerfile("BASE AS s\nRUN mkdir /o && touch /o/f && chown 7 /o/f\nBASE\nCOPY --from=s /o /o"),
                &["RUN", "COPY"],
            ),
            (
                "BASE AS s\nRUN mkdir /o && touch /o/f\nBASE\nCOPY --from=s /o /o",
                Dockerfile("BASE AS s\nRUN mkdir /o && touch /o/f && chmod 7 /o/f\nBASE\nCOPY --from=s /o /o"),
                &["RUN", "COPY"],
            ),
            (
                "BASE AS s\nRUN mkdir /o && touch /o/f\nBASE\nCOPY --from=s /o /o",
                Dockerfile("BASE AS s\nRUN mkdir /o && touch /o/g\nBASE\nCOPY --from=s /o /o"),
                &["RUN", "COPY"],
            ),
        ],
    );
}

#[test]
fn another_base_makes_all_run_again() {
    let store = Store::with_busybox();
    let app = Context::new("FROM base\nRUN echo ran\nCOPY a /a\n").file("a", "a");
    let build = |base: &str| {
        store.build(&Context::new(base), ["-t", "base"]).ok();
        steps_done(&store.build(&app, ["-t", "app"]).ok())
    };
    assert_eq!(build("FROM busybox\nCOPY <<E /f\n1\nE\n").len(), 2);
    assert_eq!(build("FROM busybox\nCOPY <<E /f\n2\nE\n").len(), 2);
    assert_eq!(build("FROM busybox\nCOPY <<E /f\n2\nE\n"), Vec::<String>::new());
    assert_eq!(build("FROM busybox\nCOPY <<E /f\n1\nE\n"), Vec::<String>::new(), "the old base is still known");
}
