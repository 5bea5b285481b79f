//! A step that ran again and made what it made before stops there: what stands on it does not run.

use super::Change::{Context as Files, Dockerfile};
use super::*;
use crate::support::Archive;

const FILES: &str = "echo 'echo ROW' >s; echo a-ROW >a";

#[test]
fn what_stands_on_an_unchanged_result_does_not_run_again() {
    check(
        "cut",
        FILES,
        &[
            // RUN after RUN, on the very tree that it once ran on.
            (
                "BASE\nRUN --mount=type=bind,source=s,target=/t/s sh /t/s >/f\nRUN cat /f >/g\nRUN cat /g >/h",
                Files("echo '# comment' >>s"),
                &["RUN --mount"],
            ),
            (
                "BASE\nRUN --mount=type=bind,source=s,target=/t/s sh -n /t/s\nRUN echo >/g\nCOPY a /a",
                Files("echo '# comment' >>s"),
                &["RUN --mount"],
            ),
            // A step of other words that makes the same.
            (
                "BASE\nRUN echo 1 >/f\nRUN cat /f >/g",
                Dockerfile("BASE\nRUN echo   1 >/f\nRUN cat /f >/g"),
                &["RUN echo"],
            ),
            ("BASE\nRUN A=1 true\nRUN echo >/g", Dockerfile("BASE\nRUN A=2 true\nRUN echo >/g"), &["RUN A=2"]),
            // COPY from a stage that ran again.
            (
                "BASE AS b\nCOPY s /s\nRUN sh /s >/f\nBASE\nCOPY --from=b /f /f\nRUN cat /f >/g",
                Files("echo '# comment' >>s"),
                &["COPY s", "RUN sh"],
            ),
            (
                "BASE AS b\nCOPY s /s\nRUN sh /s >/f\nBASE\nCOPY --link --from=b /f /f\nRUN cat /f >/g",
                Files("echo '# comment' >>s"),
                &["COPY s", "RUN sh"],
            ),
            (
                "BASE AS b\nCOPY s /s\nRUN sh /s >/f\nBASE\nRUN --mount=from=b,source=/f,target=/t/f cat /t/f >/g",
                Files("echo '# comment' >>s"),
                &["COPY s", "RUN sh"],
            ),
            // A file that moved within the context, and one that another copy brings.
            ("BASE\nCOPY a /a\nRUN cat /a >/g", Dockerfile("BASE\nCOPY ./a /a\nRUN cat /a >/g"), &[]),
            (
                "BASE AS b\nRUN mkdir /o && echo 1 >/o/f\nBASE\nCOPY --from=b /o /o",
                Dockerfile("BASE AS b\nRUN mkdir /o\nRUN echo 1 >/o/f\nBASE\nCOPY --from=b /o /o"),
                &["RUN mkdir /o", "RUN echo"],
            ),
        ],
    );
}

#[test]
fn a_base_that_moved_without_changing_is_the_same_base() {
    let store = Store::with_busybox();
    let app = Context::new("FROM base\nRUN echo 1 >/f\nRUN cat /f >/g\nCOPY a /a\n").file("a", "a");
    let build = |base: &str| {
        store.build(&Context::new(base), ["-t", "base"]).ok();
        let file = store.path("app.tar");
        let output = format!("type=oci,dest={}", file.display());
        let built = store.build(&app, ["-t", "app", "-o", &output]).ok();
        (steps_done(&built), Archive::read(&file))
    };
    let (done, first) = build("FROM busybox\nRUN touch /base\nLABEL version=1\n");
    assert_eq!(done.len(), 3);
    let (done, second) = build("FROM busybox\nRUN touch /base\nLABEL version=2\n");
    assert_eq!(done, Vec::<String>::new());
    assert_eq!(second.config["config"]["Labels"]["version"], "2", "its config is the new one's");
    assert_eq!(first.layers, second.layers);
}

#[test]
fn an_image_keeps_to_the_layers_that_its_base_has() {
    // The base was made anew: its files are the same, its layers are not.
    let store = Store::with_busybox();
    let app = Context::new("FROM base\nRUN echo 1 >/f\nRUN cat /f >/g\n");
    let build = |options: &[&str]| {
        let base = Context::new("FROM busybox\nRUN touch /base\n");
        store.build(&base, [&["-t", "base"], options].concat()).ok();
        let file = store.path("app.tar");
        let output = format!("type=oci,dest={}", file.display());
        store.build(&app, ["-t", "app", "-o", &output]).ok();
        // Reading it checks that every layer is what the config says.
        let archive = Archive::read(&file);
        let saved = store.path("base.tar");
        store.rbuild(["save".as_ref(), "-o".as_ref(), saved.as_os_str(), "base".as_ref()]).ok();
        let base = Archive::read(&saved);
        assert_eq!(archive.layers[..base.len()], base.layers[..], "it stands on the base as it is now");
        archive.layers
    };
    let first = build(&[]);
    let second = build(&["--no-cache"]);
    assert_eq!(first.len(), second.len());
}
