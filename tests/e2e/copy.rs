//! COPY and ADD: what arrives, as whose, with which permissions.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use crate::support::{Archive, Context, Outcome, Store, readers, tree};

/// Builds and gives what is in the image, without times, as `path kind mode uid:gid …`.
fn check(context: &Context, expected: &[&str]) {
    let store = Store::with_busybox();
    let (file, dest) = (store.path("out.tar"), store.path("out"));
    store.build(context, ["-o", &format!("type=tar,dest={}", file.display())]).ok();
    readers::untar(&file, &dest);
    let listed = tree::list(&dest);
    let found: Vec<String> = listed
        .lines()
        .map(|line| {
            // Without the fifth field of what is not a directory, its time, and without the digest of a file.
            let mut words: Vec<&str> = line.split(' ').collect();
            match words[1] {
                "d" => {}
                "l" => drop(words.remove(3)),
                _ => words.truncate(4),
            }
            words.join(" ")
        })
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn ignored_files_are_not_there() {
    let context = Context::new("FROM scratch\nCOPY . /c/\n")
        .file(".dockerignore", "# not these\n*.log\nnode_modules\n!keep.log\nsub/*/deep\n.dockerignore\nDockerfile\n")
        .file("a.log", "")
        .file("keep.log", "")
        .file("sub/b.log", "")
        .file("sub/x/deep", "")
        .file("sub/x/shallow", "")
        .file("node_modules/m/index.js", "");
    check(
        &context,
        &[
            "c d 0755 0:0",
            "c/keep.log - 0644 0:0",
            "c/sub d 0755 0:0",
            "c/sub/b.log - 0644 0:0",
            "c/sub/x d 0755 0:0",
            "c/sub/x/shallow - 0644 0:0",
        ],
    );
}

#[test]
fn owner_and_mode_are_as_asked() {
    let context = Context::new(
        "FROM scratch\nCOPY --from=busybox /etc/passwd /etc/group /etc/\nCOPY a /plain\nCOPY --chown=nobody:nogroup a /by-name\n\
         COPY --chown=12:34 --chmod=0750 d /by-number\nCOPY --chmod=u=rwx,go=r a /by-words\nCOPY --chown=5 a /user-only\n",
    )
    .file("a", "a")
    .file("d/x", "x");
    std::os::unix::fs::chown(context.path().join("a"), Some(77), Some(78)).expect("the tests run as root");
    check(
        &context,
        &[
            "by-name - 0644 65534:65534",
            "by-number d 0755 12:34",
            "by-number/x - 0750 12:34",
            "by-words - 0744 0:0",
            "etc d 0755 0:0",
            "etc/group - 0644 0:0",
            "etc/passwd - 0644 0:0",
            "plain - 0644 0:0",
            "user-only - 0644 5:5",
        ],
    );
}

#[test]
fn directories_wildcards_and_links_arrive_as_documented() {
    let context =
        Context::new("FROM scratch\nWORKDIR /w\nCOPY d e/\nCOPY *.txt dir/link texts/\nCOPY one.txt renamed\n")
            .file("d/in/deep", "")
            .file("one.txt", "1")
            .file("two.txt", "2")
            .file("dir/target", "t");
    symlink("in/deep", context.path().join("d/relative")).expect("the context is ours");
    symlink("/etc/shadow", context.path().join("d/absolute")).expect("the context is ours");
    symlink("target", context.path().join("dir/link")).expect("the context is ours");
    check(
        &context,
        &[
            "w d 0755 0:0",
            "w/e d 0755 0:0",
            "w/e/absolute l 0:0 -> /etc/shadow",
            "w/e/in d 0755 0:0",
            "w/e/in/deep - 0644 0:0",
            "w/e/relative l 0:0 -> in/deep",
            "w/renamed - 0644 0:0",
            "w/texts d 0755 0:0",
            "w/texts/link - 0644 0:0",
            "w/texts/one.txt - 0644 0:0",
            "w/texts/two.txt - 0644 0:0",
        ],
    );
}

#[test]
fn add_unpacks_local_archives_and_copy_does_not() {
    let context = Context::new("FROM scratch\nADD a.tar.gz /added/\nCOPY a.tar.gz /copied/\nADD plain.gz /added/\n")
        .file("tree/x/y", "y")
        .file("plain.gz", "not an archive");
    std::fs::set_permissions(context.path().join("tree/x/y"), PermissionsExt::from_mode(0o4711)).expect("it is ours");
    let mut tar = Command::new("tar");
    tar.current_dir(context.path()).args([
        "--owner=3",
        "--group=4",
        "--mtime=@1000000000",
        "-czf",
        "a.tar.gz",
        "-C",
        "tree",
        "x",
    ]);
    Outcome::of(&mut tar).ok();
    check(
        &context,
        &[
            "added d 0755 0:0",
            "added/plain.gz - 0644 0:0",
            "added/x d 0755 3:4",
            "added/x/y - 4711 3:4",
            "copied d 0755 0:0",
            "copied/a.tar.gz - 0644 0:0",
        ],
    );
}

#[test]
fn copy_through_links_of_the_image_stays_in_the_image() {
    let canary = crate::support::temp_dir();
    std::fs::write(canary.path().join("secret"), "secret of the host").expect("it is ours");
    let host = canary.path().display();
    let context = Context::new(&format!(
        "FROM busybox AS evil\nRUN ln -s {host} /out && ln -s ../../../../../../../..{host} /up\n\
         FROM evil\nCOPY a /out/a\nCOPY a /up/b\nRUN echo listed $(ls {host})\n"
    ))
    .file("a", "a");
    let store = Store::with_busybox();
    let built = store.build(&context, ["-t", "app:1"]).ok();
    assert_eq!(built.lines_of_steps("listed a b"), 1, "{built}");
    assert_eq!(tree::list(canary.path()).lines().count(), 1, "something was written to the host");
    // And out of it: a link in the stage that points to the host's file finds nothing.
    let context = Context::new(&format!(
        "FROM busybox AS evil\nRUN ln -s {host}/secret /link\nFROM scratch\nCOPY --from=evil /link /stolen\n"
    ));
    store.build(&context, ["-t", "app:2"]).fails_saying(&["/link", "Dockerfile:4"]).never_says(&["secret of"]);
}

#[test]
fn parents_are_kept_for_what_is_named_and_nothing_else_counts() {
    let store = Store::with_busybox();
    let context = Context::new(
        "FROM busybox\nCOPY --parents a/b/*.txt c/./d/e /to/\nCOPY --parents --link --exclude=**/x.txt **/*.txt /linked/\n\
         RUN find /to /linked -type f | sort > /found\n",
    )
    .file("a/b/x.txt", "x")
    .file("a/b/y.txt", "y")
    .file("a/b/z.md", "z")
    .file("c/d/e/f", "f");
    let id = store.image_id(&context, ["-t", "app:1"]);
    let found = store.rbuild(["run", "app:1", "cat", "/found"]).ok();
    assert_eq!(found.stdout, "/linked/a/b/y.txt\n/to/a/b/x.txt\n/to/a/b/y.txt\n/to/d/e/f\n");
    context.write("a/b/z.md", "another");
    assert_eq!(store.image_id(&context, ["-t", "app:1"]), id, "what is not named is not read");
    for (line, expected) in [
        ("COPY --parents a/none.txt /to/", "`a/none.txt` does not exist in the build context"),
        ("COPY --parents c/d/gone a/b/x.txt /to/", "`c/d/gone` does not exist in the build context"),
    ] {
        context.write("Dockerfile", format!("FROM busybox\n{line}\n"));
        store.build(&context, ["-t", "app:2"]).fails_saying(&[expected]);
    }
    context.write("Dockerfile", "FROM busybox\nCOPY --parents a/b/x.txt /to/\n");
    context.write(".dockerignore", "a/b\n");
    store
        .build(&context, ["-t", "app:2"])
        .fails_saying(&["`a/b/x.txt` is excluded from the build context by .dockerignore:1"]);
}

#[test]
fn more_things_are_copied_than_files_may_be_open_and_steps_keep_the_limit() {
    let store = Store::with_busybox();
    let context = Context::new(
        "FROM busybox AS all\nCOPY d*/f* /files/\nCOPY n/* /contents/\nCOPY n /n/\n\
         FROM busybox\nCOPY --from=all /files/* /n/*/x* /copied/\nCOPY --from=all /n/* /c/\nRUN rm /copied/x1??\n\
         RUN echo it is $(ls /copied | wc -l) $(ls /c | wc -l) of $(ulimit -Sn):$(ulimit -Hn)\n",
    );
    for i in 0..3_000 {
        context.write(&format!("d{}/f{i}", i % 30), "");
    }
    for i in 0..1_200 {
        context.write(&format!("n/{i}/x{i}"), "");
    }
    let build = store.build_command(&context, ["-t", "app:1"]);
    let mut limited = Command::new("prlimit");
    limited.arg("--nofile=128:256").arg(build.get_program()).args(build.get_args()).env_clear();
    limited.envs(build.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Outcome::of(&mut limited).ok().says(&["it is 4100 1200 of 128:256"]);
}

#[test]
fn an_image_that_ends_with_a_copy_of_many_files_is_like_any_other() {
    const FILES: usize = 1_500;
    let store = Store::with_busybox();
    let dockerfile = "FROM busybox\nCOPY --chown=7:8 files /opt/files\n";
    let context = Context::new(dockerfile);
    for n in 0..FILES {
        context.write(&format!("files/d{}/f{n}", n % 9), n.to_string());
    }
    let id = store.image_id(&context, ["-t", "app:1"]);
    assert_eq!(store.image_id(&context, ["-t", "app:1"]), id);
    let file = store.path("out.tar");
    store.build(&context, ["-o", &format!("type=oci,dest={}", file.display())]).ok();
    let archive = Archive::read(&file);
    assert_eq!(archive.names(archive.len() - 1).len(), FILES + 9 + 2, "files, their directories, and the way there");
    store.rbuild(["verify"]).ok();
    let count = "find /opt/files -type f -user 7 -group 8 | wc -l";
    let ran = store.rbuild(["run", "--network=none", "app:1", "sh", "-c", count]).ok();
    assert_eq!(ran.stdout.trim(), FILES.to_string());
    store.rbuild(["verify"]).ok();
    // One file, and then a step that looks into it.
    context.write("files/d3/f3", "changed");
    store.build(&context, ["-t", "app:1"]).ok();
    context.write("Dockerfile", format!("{dockerfile}RUN echo there are $({count}), one $(cat /opt/files/d3/f3)\n"));
    let built = store.build(&context, ["-t", "app:2"]).ok();
    built.says(&["there are 1500, one changed", " CACHED"]);
}
