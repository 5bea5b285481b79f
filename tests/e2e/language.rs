//! What the language means at run time, as its user sees it: here-documents, mounts, networks, selections of files.
//!
//! What the other builder of `oracle` knows too is there.

use std::collections::BTreeMap;

use crate::support::compare::{Facts, facts};
use crate::support::fake::{Fake, Reply};
use crate::support::git::GitServer;
use crate::support::{Archive, Context, Store};

/// Builds on a store with `busybox` and gives what the image holds and says.
#[track_caller]
fn built(store: &Store, context: &Context, args: &[&str]) -> Facts {
    let file = store.path("image.tar");
    let output = format!("type=oci,dest={}", file.display());
    store.build(context, args.iter().copied().chain(["-o", &output])).ok();
    let archive = Archive::read(&file);
    facts(&archive.config, &archive.layers)
}

/// What the image has beneath `/r`, with the `/r/` left out and no owner where it is 0:0.
#[track_caller]
fn check(context: &Context, args: &[&str], expected: &[&str]) {
    let facts = built(&Store::with_busybox(), context, args);
    assert_eq!(beneath(&facts), expected);
}

fn beneath(facts: &Facts) -> Vec<String> {
    let found = facts.iter().filter_map(|(name, text)| Some((name.strip_prefix("/r/")?, text)));
    found.map(|(name, text)| format!("{name} {}", text.replace(" 0:0", ""))).collect()
}

#[test]
fn here_documents_reach_commands_by_descriptor() {
    let context = Context::new(
        "FROM busybox\nWORKDIR /r\nARG WHO=arg\n\
         RUN 3<<EOF cat <&3 >three\nfd three $WHO\nEOF\n\
         RUN cat <<A - <<B >last; cat <<C >>last\nnever read\nA\nthe last one is standard input, '$WHO'\nB\nand then\nC\n\
         RUN <<\"E1\" cat >quoted && <<E2 cat >open\nleft $WHO\nE1\nexpanded $WHO\nE2\n\
         RUN cat <<-E >tabs\n\t\tboth tabs\n\t  but no blank\n\tE\n\
         RUN [\"sh\", \"-c\", \"echo '<<EOF' >json\"]\n\
         RUN echo $((1 << 3)) >shift\n",
    );
    let expected = [
        r#"json - 0644 "<<EOF\n""#,
        r#"last - 0644 "the last one is standard input, 'arg'\nand then\n""#,
        r#"open - 0644 "expanded arg\n""#,
        r#"quoted - 0644 "left $WHO\n""#,
        r#"shift - 0644 "8\n""#,
        r#"tabs - 0644 "both tabs\n  but no blank\n""#,
        r#"three - 0644 "fd three arg\n""#,
    ];
    check(&context, &["--network=none"], &expected);
}

#[test]
fn here_document_alone_is_the_script() {
    let context = Context::new(
        "FROM busybox\nWORKDIR /r\nENV WHO=env\n\
         RUN <<EOF\necho \"in $0 $WHO\" >shell\nfalse\necho on >>shell\nEOF\n\
         RUN <<-'EOF'\n\techo \"quoted or not, the shell expands: $WHO\" >quoted\n\tEOF\n\
         RUN <<EOF\n#!/bin/awk -f\nBEGIN { print \"awk \" ENVIRON[\"WHO\"] > \"/r/awk\" }\nEOF\n\
         RUN <<\"EOF\" sh -e\necho \"by $0\" >command\nEOF\n\
         SHELL [\"/bin/ash\", \"-e\", \"-c\"]\n\
         RUN <<EOF\necho first >strict\nfalse || echo second >>strict\nEOF\n",
    );
    let expected = [
        r#"awk - 0644 "awk env\n""#,
        r#"command - 0644 "by sh\n""#,
        r#"quoted - 0644 "quoted or not, the shell expands: env\n""#,
        r#"shell - 0644 "in /bin/sh env\non\n""#,
        r#"strict - 0644 "first\nsecond\n""#,
    ];
    check(&context, &["--network=none"], &expected);
}

#[test]
fn failing_script_of_a_here_document_fails_the_step() {
    let store = Store::with_busybox();
    let context = Context::new("FROM busybox\nRUN <<EOF\n#!/bin/sh -e\nfalse\necho never\nEOF\n");
    let failed = store.build(&context, ["--network=none"]).fails_saying(&["Dockerfile:2", "exit code: 1"]);
    assert_eq!(failed.lines_of_steps("never"), 0, "{failed}");
}

#[test]
fn here_documents_are_files_of_copy_and_add() {
    let context = Context::new(
        "FROM busybox\nARG WHO=you DIR=/r\n\
         COPY <<EOF ${DIR}/expanded\n$WHO ${WHO:+there} ${NOT:-default} \\$WHO \"quotes\" 'stay'\nEOF\n\
         COPY <<\"EOF\" /r/quoted\n$WHO \\$WHO\nEOF\n\
         ADD <<'one.txt' <<-two /r/d/\none\none.txt\n\tthe second\n\ttwo\n\
         COPY --chown=7:8 --chmod=u=rw,go= <<x here /r/mixed/\nfrom x\nx\n\
         COPY <<empty /r/\nempty\n",
    )
    .file("here", "from the context\n");
    let expected = [
        r#"d d 0755"#,
        r#"d/one.txt - 0644 "one\n""#,
        r#"d/two - 0644 "the second\n""#,
        r#"empty - 0644 """#,
        r#"expanded - 0644 "you there default $WHO \"quotes\" 'stay'\n""#,
        r#"mixed d 0755 7:8"#,
        r#"mixed/here - 0600 7:8 "from the context\n""#,
        r#"mixed/x - 0600 7:8 "from x\n""#,
        r#"quoted - 0644 "$WHO \\$WHO\n""#,
    ];
    check(&context, &["--network=none"], &expected);
}

#[test]
fn triggers_carry_their_here_documents_and_refer_to_stages_of_the_child() {
    let store = Store::with_busybox();
    let parent = Context::new(
        "FROM busybox\n\
         ONBUILD RUN <<EOF\nmkdir -p /r && echo \"from the parent for $WHO\" >/r/run\nEOF\n\
         ONBUILD COPY <<EOF /r/copy\ntext for $WHO\nEOF\n\
         ONBUILD COPY --from=data /data /r/data\n\
         ONBUILD RUN --mount=type=bind,from=data,target=/m cat /m/data >/r/mounted\n",
    );
    store.build(&parent, ["-t", "parent:1"]).ok();
    let child = Context::new(
        "FROM scratch AS data\nCOPY data /data\nFROM busybox AS env\nENV WHO=nobody\n\
         FROM parent:1\nRUN echo own >/r/own\n",
    )
    .file("data", "data\n");
    let facts = built(&store, &child, &["--network=none"]);
    let expected = [
        r#"copy - 0644 "text for \n""#,
        r#"data - 0644 "data\n""#,
        r#"mounted - 0644 "data\n""#,
        r#"own - 0644 "own\n""#,
        r#"run - 0644 "from the parent for \n""#,
    ];
    assert_eq!(beneath(&facts), expected);
    assert!(!facts.contains_key("OnBuild"), "triggers act once: {facts:?}");
}

#[test]
fn bind_mounts_show_stages_images_and_the_context_and_keep_nothing() {
    let context = Context::new(
        "FROM busybox AS tools\nRUN mkdir -p /t/sub && echo tool >/t/sub/tool\n\
         FROM busybox\nWORKDIR /r\nARG DIR=src\n\
         RUN --mount=from=tools,source=/t/sub,target=in cat in/tool >stage && ! touch in/x 2>/dev/null\n\
         RUN --mount=from=tools,source=/t,target=/in,rw echo gone >/in/gone && cat /in/gone >rw\n\
         RUN --mount=from=tools,source=/t,target=/in ls /in >after\n\
         RUN --mount=type=bind,source=${DIR},dst=/in --mount=from=tools,src=t/sub/tool,target=/one ls /in >context && cat /one >one\n\
         RUN --mount=from=busybox,target=/image test -x /image/bin/sh && echo yes >image\n\
         RUN --mount=target=/all ls -a /all >all\n\
         RUN ls -d /in /one /image /all 2>/dev/null || echo none >left\n",
    )
    .file("src/a", "")
    .file("src/b.log", "")
    .file(".dockerignore", "**/*.log\nDockerfile\n");
    let expected = [
        r#"after - 0644 "sub\n""#,
        r#"all - 0644 ".\n..\n.dockerignore\nsrc\n""#,
        r#"context - 0644 "a\n""#,
        r#"image - 0644 "yes\n""#,
        r#"left - 0644 "none\n""#,
        r#"one - 0644 "tool\n""#,
        r#"rw - 0644 "gone\n""#,
        r#"stage - 0644 "tool\n""#,
    ];
    check(&context, &["--network=none"], &expected);
}

#[test]
fn tmpfs_holds_as_much_as_it_is_told_to() {
    let context = Context::new(
        "FROM busybox\nWORKDIR /r\n\
         RUN --mount=type=tmpfs,target=/t,size=64k head -c 200000 /dev/zero >/t/f; stat -c %s /t/f >size\n\
         RUN --mount=type=tmpfs,target=/t ls /t >empty && head -c 200000 /dev/zero >/t/f && stat -c %s /t/f >more\n\
         RUN --mount=type=tmpfs,target=/r/in echo gone >in/gone && ls in >hides\nRUN ls -d in || echo no directory stays >left\n",
    );
    let expected = [
        r#"empty - 0644 """#,
        r#"hides - 0644 "gone\n""#,
        r#"left - 0644 "no directory stays\n""#,
        r#"more - 0644 "200000\n""#,
        r#"size - 0644 "65536\n""#,
    ];
    check(&context, &["--network=none"], &expected);
}

#[test]
fn network_is_chosen_per_step() {
    let context = Context::new(
        "FROM busybox\nWORKDIR /r\nRUN --network=none ls /sys/class/net | xargs >none\n\
         RUN --network=host readlink /proc/self/ns/net >host\nRUN --network=default readlink /proc/self/ns/net >default\n",
    );
    let facts = built(&Store::with_busybox(), &context, &["--network=host"]);
    let ours = std::fs::read_link("/proc/self/ns/net").expect("/proc is mounted");
    let ours = format!("- 0644 0:0 {:?}", format!("{}\n", ours.display()));
    assert_eq!(facts["/r/none"], "- 0644 0:0 \"lo\\n\"");
    assert_eq!((&facts["/r/host"], &facts["/r/default"]), (&ours, &ours));
}

#[test]
fn copies_leave_out_what_they_exclude() {
    let context = Context::new(
        "FROM busybox\nCOPY --exclude=*.log --exclude=sub/deep tree /r/a/\n\
         COPY --exclude=**/*.log tree /r/b/\nCOPY --exclude=*.log tree/*.log tree/file /r/c/\n\
         ADD --exclude=sub tree /r/d/\nCOPY --exclude=* --exclude=!file tree /r/e/\n\
         COPY --from=0 --exclude=x* /etc/passwd /r/f/\n"
            .replace("--from=0", "--from=busybox")
            .as_str(),
    )
    .file("tree/file", "")
    .file("tree/x.log", "")
    .file("tree/sub/y.log", "")
    .file("tree/sub/deep/z", "");
    let facts = built(&Store::with_busybox(), &context, &["--network=none"]);
    let found: Vec<String> = beneath(&facts).iter().map(|line| line.split(' ').next().unwrap_or(line).into()).collect();
    let expected = [
        "a",
        "a/file",
        "a/sub",
        "a/sub/y.log",
        "b",
        "b/file",
        "b/sub",
        "b/sub/deep",
        "b/sub/deep/z",
        "c",
        "c/file",
        "d",
        "d/file",
        "d/x.log",
        "e",
        "e/file",
        "f",
        "f/passwd",
    ];
    assert_eq!(found, expected);
}

#[test]
fn modes_of_copies_are_chmods_language() {
    let rows = [
        ("640", "0640"),
        ("4755", "4755"),
        ("u=rwx,go=r", "0744"),
        ("u=rwx,go=rX", "0744"),
        ("a+x", "0755"),
        ("go-r", "0600"),
        ("g=u", "0664"),
        ("u+s,g+w", "4664"),
        ("=r", "0444"),
    ];
    let copies: String =
        rows.iter().enumerate().map(|(i, (mode, _))| format!("COPY --chmod={mode} file dir /r/{i}/\n")).collect();
    let context = Context::new(&format!("FROM busybox\n{copies}")).file("file", "").file("dir/in", "");
    let facts = built(&Store::with_busybox(), &context, &["--network=none"]);
    for (i, (mode, expected)) in rows.iter().enumerate() {
        for name in ["file", "in"] {
            assert_eq!(facts[&format!("/r/{i}/{name}")], format!("- {expected} 0:0 \"\""), "{mode}");
        }
    }
}

#[test]
fn config_beyond_the_other_builder() {
    let context = Context::new(
        "FROM busybox\nARG FROM=1000 TO=1003\nENV PAIR=\"81/tcp 82/udp\"\nEXPOSE $FROM-$TO/sctp $PAIR 127.0.0.1:8080:80\n\
         HEALTHCHECK --start-interval=500ms --interval=1m CMD [\"true\"]\n\
         ENV GREETING=${NONE-unset} NAME=${GREETING+never}\nLABEL path=${PATH%%:*} all=\"${PAIR// /,}\"\n",
    );
    let facts = built(&Store::with_busybox(), &context, &[]);
    let expected = BTreeMap::from([
        (
            "Env",
            r#"["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","PAIR=81/tcp 82/udp","GREETING=unset","NAME="]"#,
        ),
        (
            "ExposedPorts",
            r#"{"1000/sctp":{},"1001/sctp":{},"1002/sctp":{},"1003/sctp":{},"80/tcp":{},"81/tcp":{},"82/udp":{}}"#,
        ),
        ("Healthcheck", r#"{"Interval":60000000000,"StartInterval":500000000,"Test":["CMD","true"]}"#),
        ("Labels", r#"{"all":"81/tcp,82/udp","path":"/usr/local/sbin"}"#),
    ]);
    let found: BTreeMap<&str, &str> = expected.keys().map(|name| (*name, facts[*name].as_str())).collect();
    assert_eq!(found, expected);
}

#[test]
fn add_brings_files_and_archives_of_the_web_and_repositories() {
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o640);
    header.set_uid(3);
    header.set_gid(4);
    header.set_size(7);
    archive.append_data(&mut header, "in/file", &b"packed\n"[..]).expect("memory takes it");
    let archive = archive.into_inner().expect("memory takes it");
    let web = Fake::start(move |request| match request.path.as_str() {
        "/page.txt?v=1" => Reply::new(200, "page\n"),
        "/a.tar" => Reply::new(200, archive.clone()),
        _ => Reply::new(404, ""),
    });
    let git = GitServer::start();
    let commit = git.commit("project", "mkdir lib && echo main >main && echo lib >lib/lib");
    let (address, repository) = (&web.address, git.url("project"));
    let sum = crate::support::archive::hex(b"page\n");
    let context = Context::new(&format!(
        "FROM busybox\nARG HOST={address}\n\
         ADD http://$HOST/page.txt?v=1 /r/named\n\
         ADD --checksum=sha256:{sum} --chown=5 --chmod=644 http://$HOST/page.txt?v=1 /r/dir/\n\
         ADD http://$HOST/a.tar /r/packed/\nADD --unpack http://$HOST/a.tar /r/unpacked/\n\
         ADD --unpack --chown=7:8 http://$HOST/a.tar /r/owned/\n\
         ADD --checksum={commit} {repository}#main:lib /r/lib/\nADD --exclude=lib {repository} /r/git/\n"
    ));
    let facts = built(&Store::with_busybox(), &context, &["--network=none"]);
    let packed = facts["/r/packed/a.tar"].clone();
    assert!(packed.starts_with("- 0600 0:0 "), "{packed}");
    let found: Vec<String> = beneath(&facts).into_iter().filter(|line| !line.starts_with("packed/a.tar")).collect();
    let expected = [
        r#"dir d 0755 5:5"#,
        r#"dir/page.txt - 0644 5:5 "page\n""#,
        r#"git d 0755"#,
        r#"git/main - 0644 "main\n""#,
        r#"lib d 0755"#,
        r#"lib/lib - 0644 "lib\n""#,
        r#"named - 0600 "page\n""#,
        r#"owned d 0755 7:8"#,
        r#"owned/in d 0755 7:8"#,
        r#"owned/in/file - 0640 7:8 "packed\n""#,
        r#"packed d 0755"#,
        r#"unpacked d 0755"#,
        r#"unpacked/in d 0755"#,
        r#"unpacked/in/file - 0640 3:4 "packed\n""#,
    ];
    assert_eq!(found, expected);
}

#[test]
fn linked_and_nested_copies_arrive_as_documented() {
    let context = Context::new(
        "FROM busybox\nRUN mkdir -p /real /r && ln -s /real /r/link && echo old >/r/file\n\
         COPY --link a /r/file\nCOPY --link --chown=7:8 tree /r/tree/\n\
         COPY --link --from=busybox /etc/group /r/group\n\
         COPY --parents tree/./sub/b tree/sub/../c /r/parents/\nCOPY --parents ./**/b /r/deep/\n\
         RUN cat /r/file /r/tree/c >/r/seen\n",
    )
    .file("a", "a\n")
    .file("tree/c", "c\n")
    .file("tree/sub/b", "b\n");
    let facts = built(&Store::with_busybox(), &context, &["--network=none"]);
    let found: Vec<String> = beneath(&facts).into_iter().filter(|line| !line.starts_with("group")).collect();
    let expected = [
        r#"deep d 0755"#,
        r#"deep/tree d 0755"#,
        r#"deep/tree/sub d 0755"#,
        r#"deep/tree/sub/b - 0644 "b\n""#,
        r#"file - 0644 "a\n""#,
        r#"link l -> /real"#,
        r#"parents d 0755"#,
        r#"parents/sub d 0755"#,
        r#"parents/sub/b - 0644 "b\n""#,
        r#"parents/tree d 0755"#,
        r#"parents/tree/c - 0644 "c\n""#,
        r#"seen - 0644 "a\nc\n""#,
        r#"tree d 0755 7:8"#,
        r#"tree/c - 0644 7:8 "c\n""#,
        r#"tree/sub d 0755 7:8"#,
        r#"tree/sub/b - 0644 7:8 "b\n""#,
    ];
    assert_eq!(found, expected);
}

#[test]
fn images_of_one_epoch_are_the_same_whatever_the_cache_knows() {
    let context = Context::new(
        "FROM busybox AS tools\nRUN echo tool >/tool\nFROM busybox\nWORKDIR /r\nRUN echo made >made\n\
         COPY --from=tools /tool tool\nCOPY --link a linked\nADD a.tar /r/\nENV A=1\n",
    )
    .file("a", "a");
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_mtime(1_234_567_890);
    archive.append_data(&mut header, "member", &b""[..]).expect("memory takes it");
    context.write("a.tar", archive.into_inner().expect("memory takes it"));
    let id = |store: &Store, args: &[&str]| {
        let args = args.iter().copied().chain(["--network=none"]);
        store.image_id(&context, args)
    };
    let epoch = ["--source-date-epoch", "1000000000"];
    let store = Store::with_busybox();
    // What was built before has other times.
    let now = id(&store, &[]);
    let cached = id(&store, &epoch);
    let anew = id(&store, &[epoch[0], epoch[1], "--no-cache"]);
    // Another store with the same base: an import of its own would have a time of its own.
    let (other, base) = (Store::new(), store.path("base.tar"));
    store.rbuild(["save".as_ref(), "-o".as_ref(), base.as_os_str(), "busybox".as_ref()]).ok();
    other.rbuild(["load".as_ref(), "-i".as_ref(), base.as_os_str()]).ok();
    let elsewhere = id(&other, &epoch);
    assert_ne!(now, cached);
    assert_eq!([&anew, &elsewhere], [&cached, &cached]);
}
