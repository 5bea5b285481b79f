//! `SOURCE_DATE_EPOCH`: the same inputs give the same image, wherever and whenever it is built.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::support::{Archive, Context, Outcome, Store, readers};

const EPOCH: u64 = 1_600_000_000;
/// Of what the context's archive holds, and of what a step says by itself.
const CONTENT: u64 = 981_173_106;

const DOCKERFILE: &str = "\
FROM busybox AS build
COPY . /src
RUN echo ran-build && mkdir /out && echo made > /out/made && cp -p /src/d/x /out/kept && cp -p /bin/busybox /out/tool
FROM busybox
WORKDIR /work
COPY --from=build /out /out
COPY --link a /linked/a
COPY --chown=5:6 d /d
ADD archive.tar /unpacked/
RUN echo ran-last && mkdir /made && mv /d/x /made/x && cp -p /linked/a /made/a && echo 1 > /made/new \\
    && ln -s new /made/link && touch -d '2001-02-03 04:05:06' /made/fixed
COPY none* /empty/
";

/// Two stores with the same base image.
fn stores() -> [Store; 2] {
    let (one, two) = (Store::with_busybox(), Store::new());
    let file = one.path("busybox.tar");
    one.rbuild(["save".as_ref(), "-o".as_ref(), file.as_os_str(), "busybox".as_ref()]).ok();
    two.rbuild(["load".as_ref(), "-i".as_ref(), file.as_os_str()]).ok();
    [one, two]
}

/// The context, its files last changed `days` ago.
fn context(days: u64) -> Context {
    let context = Context::new(DOCKERFILE).file("a", "a").file("d/x", "x").file("d/y", "y");
    let path = context.path();
    let tar = std::process::Command::new("tar")
        .args(["--create", "--sort=name", "--owner=0", "--group=0", "--format=gnu"])
        .arg(format!("--mtime=@{CONTENT}"))
        .args(["--file", "archive.tar", "a", "d"])
        .current_dir(path)
        .status();
    assert!(tar.expect("tar runs").success());
    for name in ["a", "d/x", "d/y", "d", "archive.tar"] {
        let time = SystemTime::now() - Duration::from_secs(days * 86_400);
        std::fs::File::open(path.join(name)).expect("it is there").set_modified(time).expect("it is ours");
    }
    context
}

/// Builds, and returns what was said and the archive's bytes.
fn archive(store: &Store, context: &Context, epoch: Option<u64>) -> (Outcome, Vec<u8>, Archive) {
    let file = store.path("app.tar");
    let output = format!("type=oci,dest={}", file.display());
    let mut options = vec!["-t".to_owned(), "app:1".into(), "-o".into(), output];
    options.extend(epoch.into_iter().flat_map(|epoch| ["--build-arg".into(), format!("SOURCE_DATE_EPOCH={epoch}")]));
    let outcome = store.build(context, options).ok();
    let bytes = std::fs::read(&file).expect("it was written");
    (outcome, bytes, Archive::read(&file))
}

/// Time of every member of every layer above the base, by name.
fn times(archive: &Archive) -> BTreeMap<String, u64> {
    archive.layers[1..].iter().flat_map(|layer| times_of(layer)).collect()
}

fn times_of(tar: &[u8]) -> BTreeMap<String, u64> {
    let mut tar = tar::Archive::new(tar);
    let entries = tar.entries().expect("a tar").map(|entry| {
        let entry = entry.expect("an entry");
        let name = String::from_utf8_lossy(&entry.path_bytes()).trim_matches(['.', '/']).to_owned();
        (name, entry.header().mtime().expect("a time"))
    });
    entries.collect()
}

#[test]
fn two_machines_at_two_times_make_the_same_image_and_archive() {
    let [one, two] = stores();
    let (_, first, image) = archive(&one, &context(400), Some(EPOCH));
    // Another time of day, a context that was checked out at another time.
    let (outcome, second, _) = archive(&two, &context(3), Some(EPOCH));
    assert_eq!(outcome.lines_of_steps("ran-last"), 1, "it was built there too: {outcome}");
    assert!(first == second, "the archives differ: {:#?}", times(&image));

    let found = times(&image);
    let content = ["made/fixed", "unpacked/a", "unpacked/d", "unpacked/d/x", "unpacked/d/y"];
    // A deletion has no time.
    for (name, time) in found.iter().filter(|(name, _)| !name.contains(".wh.")) {
        let expected = if content.contains(&name.as_str()) { CONTENT } else { EPOCH };
        assert_eq!(*time, expected, "{name} in {found:#?}");
    }
    for name in ["linked/a", "out/kept", "d/y", "made/x", "made/a", "made/link", "made/new", "work", "unpacked/d/x"] {
        assert!(found.contains_key(name), "{name} in {found:#?}");
    }
    let time = "2020-09-13T12:26:40Z";
    assert_eq!(image.config["created"], time);
    let history = image.config["history"].as_array().expect("a history");
    let base = 1;
    assert!(history[base..].iter().all(|entry| entry["created"] == time), "{history:#?}");
    assert_ne!(history[0]["created"], time, "the base keeps its own");
}

#[test]
fn another_epoch_makes_another_image_and_runs_nothing() {
    let (store, context) = (Store::with_busybox(), context(1));
    let (_, plain, image) = archive(&store, &context, None);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let found = times(&image);
    assert!(found["made/new"] > now - 3600 && found["d/y"] < now - 3600, "without an epoch times are true: {found:#?}");
    let mut ids = vec![image.id().to_owned()];
    for epoch in [EPOCH, EPOCH + 1] {
        let (outcome, _, image) = archive(&store, &context, Some(epoch));
        outcome.never_prints(&["ran-"]);
        assert_eq!(times(&image)["made/new"], epoch);
        ids.push(image.id().to_owned());
    }
    ids.dedup();
    assert_eq!(ids.len(), 3, "{ids:?}");
    let (_, again, _) = archive(&store, &context, None);
    assert!(plain == again, "the image without an epoch is still there");
}

#[test]
fn an_image_with_an_epoch_is_built_upon_run_and_saved_as_what_it_says() {
    let [one, two] = stores();
    let (_, _, image) = archive(&one, &context(5), Some(EPOCH));
    let run = one.rbuild(["run", "app:1", "stat", "-c", "%Y %n", "/made/new", "/d/y", "/made/fixed"]).ok();
    assert_eq!(run.stdout, format!("{EPOCH} /made/new\n{EPOCH} /d/y\n{CONTENT} /made/fixed\n"));
    let saved = one.path("saved.tar");
    one.rbuild(["save".as_ref(), "-o".as_ref(), saved.as_os_str(), "app:1".as_ref()]).ok();
    assert_eq!(Archive::read(&saved).id(), image.id());
    // Whoever builds on it sees the same, whether it was built there or came from elsewhere.
    two.rbuild(["load".as_ref(), "-i".as_ref(), saved.as_os_str()]).ok();
    let child =
        Context::new("FROM app:1\nRUN chmod 700 /made/new && stat -c %Y /made/x > /seen\nCOPY --from=app:1 /d /e\n");
    let [here, there] = [&one, &two].map(|store| archive(store, &child, Some(EPOCH + 7)));
    assert!(here.1 == there.1, "{:#?} {:#?}", times(&here.2), times(&there.2));
    let found = times_of(&here.2.layers[here.2.layers.len() - 2]);
    assert_eq!((found["seen"], found["made/new"]), (EPOCH + 7, EPOCH), "{found:#?}");
}

#[test]
fn exported_trees_have_the_times_of_the_image() {
    let (store, context) = (Store::with_busybox(), context(5));
    let (tar, local) = (store.path("tree.tar"), store.path("tree"));
    let epoch = format!("SOURCE_DATE_EPOCH={EPOCH}");
    let outputs = [format!("type=tar,dest={}", tar.display()), format!("type=local,dest={}", local.display())];
    store.build(&context, ["--build-arg", &epoch, "-o", &outputs[0], "-o", &outputs[1]]).ok();
    let found = times_of(&std::fs::read(&tar).expect("it was written"));
    let modified = |path: &Path| {
        let time = std::fs::symlink_metadata(path).expect("it is there").modified().expect("it has a time");
        time.duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()
    };
    for (name, expected) in
        [("made/new", EPOCH), ("made/link", EPOCH), ("made/x", EPOCH), ("d/y", EPOCH), ("made/fixed", CONTENT)]
    {
        assert_eq!(found[name], expected, "{name} in the tar");
        assert_eq!(modified(&local.join(name)), expected, "{name} in the directory");
    }
}

#[test]
fn a_linked_copy_stays_the_same_blob_on_another_base() {
    let store = Store::with_busybox();
    store.build(&Context::new("FROM busybox\nRUN echo 1 > /base\n"), ["-t", "base:1"]).ok();
    let context = Context::new("FROM base:1\nRUN echo ran-step\nCOPY --link a /app/deep/a\nLABEL x=y\n").file("a", "a");
    let (_, _, first) = archive(&store, &context, None);
    store.build(&Context::new("FROM busybox\nRUN echo 2 > /base && ln -s /elsewhere /app\n"), ["-t", "base:1"]).ok();
    let (outcome, _, second) = archive(&store, &context, None);
    assert_eq!(outcome.lines_of_steps("ran-step"), 1, "{outcome}");
    let last = |image: &Archive| image.manifest["layers"].as_array().expect("layers").last().cloned();
    assert_eq!(last(&first), last(&second));
    assert_ne!(first.id(), second.id());
    // Made in a tree of its own: what the base has in its place is not followed.
    let entries = second.entries(second.len() - 1);
    let shown: Vec<String> = entries
        .iter()
        .map(|entry| format!("{}{} {:o}", entry.kind, String::from_utf8_lossy(&entry.name), entry.mode))
        .collect();
    assert_eq!(shown, ["dapp 755", "dapp/deep 755", "-app/deep/a 644"]);
    let history = second.config["history"].as_array().expect("history");
    let linked = history.iter().find(|entry| entry["created_by"].as_str().is_some_and(|by| by.starts_with("COPY a ")));
    assert!(linked.is_some_and(|entry| entry["empty_layer"] != true), "{history:#?}");
    // The same image from the archive, by a reader that is not ours.
    let unpacked = store.path("unpacked");
    std::fs::create_dir(&unpacked).expect("it is new");
    readers::unpack(&format!("oci-archive:{}", store.path("app.tar").display()), &unpacked);
}
