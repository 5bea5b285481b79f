//! Mounts of RUN reach nothing outside: not through their sources, their ids, their options, nor by what is written.

use crate::support::{Context, Store, temp_dir, tree};

/// A folder of the host that no build may see or change.
struct Canary {
    dir: tempfile::TempDir,
    before: String,
}

impl Canary {
    fn new() -> Self {
        let dir = temp_dir();
        std::fs::write(dir.path().join("secret"), "of-the-host").expect("the folder is new");
        std::fs::create_dir(dir.path().join("empty")).expect("the folder is new");
        let before = tree::list(dir.path());
        Self { dir, before }
    }

    fn path(&self) -> &str {
        self.dir.path().to_str().expect("a plain path")
    }

    fn check(&self, what: &str) {
        assert_eq!(tree::list(self.dir.path()), self.before, "{what}");
    }
}

/// A source that is a link, of every type that has one, read-only and not. buildah CVE-2024-1753.
#[test]
fn a_source_that_leads_out_of_its_stage_stays_in_it() {
    let canary = Canary::new();
    let host = canary.path();
    let store = Store::with_busybox();
    for kind in ["bind", "cache"] {
        for access in ["ro", "rw"] {
            for source in ["/rootdir", "/rootdir/../..", "/up", "/direct"] {
                let dockerfile = format!(
                    "FROM busybox AS evil\nRUN ln -s / /rootdir; ln -s ../../../../../../../.. /up; ln -s {host} /direct\n\
                     FROM busybox\nRUN --mount=type={kind},from=evil,source={source},target=/x,{access} \
                     cat /x{host}/secret /x/secret; touch /x{host}/OUT /x/OUT /x/empty/OUT; true\n"
                );
                let built = store.build(&Context::new(&dockerfile), [""; 0]);
                assert!(matches!(built.code, Some(0 | 1)) && !built.stderr.contains("panicked"), "{built}");
                assert_eq!(built.lines_of_steps("of-the-host"), 0, "{built}");
                canary.check(&dockerfile);
            }
        }
    }
}

/// podman CVE-2025-4953, CVE-2024-9407.
#[test]
fn what_is_written_to_a_bind_mount_is_lost_and_options_of_other_programs_are_none() {
    let store = Store::with_busybox();
    let context = Context::new(
        "FROM busybox AS base\nRUN mkdir /d && echo old > /d/f\nFROM busybox\n\
         RUN --mount=type=bind,target=/ctx,rw --mount=type=bind,from=base,source=/d,target=/d,rw \
         echo new > /ctx/f && echo new > /ctx/made && echo new > /d/f && rm /ctx/kept && chmod 600 /ctx/sub\n\
         RUN --mount=type=bind,from=base,source=/d,target=/d cat /d/f\n",
    )
    .file("f", "old")
    .file("kept", "old")
    .file("sub/x", "old");
    let before = tree::list(context.path());
    let out = store.path("out");
    let built = store.build(&context, ["-o".as_ref(), out.as_os_str()]).ok();
    assert_eq!(built.lines_of_steps("old"), 1, "{built}");
    assert_eq!(tree::list(context.path()), before);
    assert!(!out.join("ctx").exists() && !out.join("d").exists() && out.join("bin").exists());
    for option in ["bind-propagation=suid", "propagation=dev", "bind-propagation=shared", "exec", "suid=true", "z"] {
        let dockerfile = format!("FROM busybox\nRUN --mount=type=bind,target=/x,{option} true\n");
        store.build(&Context::new(&dockerfile), [""; 0]).fails_saying(&["Dockerfile:2"]);
    }
}

/// BuildKit CVE-2024-23652: what a step puts in the place of a mount point stays, and so does what it leads to.
#[test]
fn removing_mount_points_removes_nothing_else() {
    let canary = Canary::new();
    let host = canary.path();
    let store = Store::with_busybox();
    for (kind, name) in [("type=tmpfs", "empty"), ("type=bind", "empty"), ("type=bind,source=Dockerfile", "secret")] {
        let dockerfile = format!(
            "FROM busybox\nRUN mkdir /kept && touch -d 2001-02-03 /kept\n\
             RUN --mount={kind},target=/a/{name} --mount={kind},target=/kept/{name} mv /a /b; ln -s {host} /a; true\n"
        );
        let out = store.path("out");
        store.build(&Context::new(&dockerfile), ["-o".as_ref(), out.as_os_str()]).ok();
        canary.check(&dockerfile);
        assert_eq!(std::fs::read_link(out.join("a")).ok().as_deref(), Some(canary.dir.path()), "{dockerfile}");
        assert!(!out.join("kept").join(name).exists(), "{dockerfile}");
        let time = out.join("kept").metadata().expect("it stays").modified().expect("a time");
        let seconds = time.duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
        assert!((981_000_000..982_000_000).contains(&seconds), "{dockerfile}: {seconds}");
        std::fs::remove_dir_all(&out).expect("ours");
    }
}
