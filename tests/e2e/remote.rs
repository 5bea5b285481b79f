//! Caches that other machines read: what one built, another does not build, and brings only what it needs.

pub(crate) mod trouble;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::OnceLock;

use crate::support::fake::{Fake, Reply, Request};
use crate::support::registry::Registry;
use crate::support::{Context, Store, readers};

/// A machine that has the very base image that all others have.
fn machine() -> Store {
    static ARCHIVE: OnceLock<(Store, PathBuf)> = OnceLock::new();
    let (_, archive) = ARCHIVE.get_or_init(|| {
        let store = Store::with_busybox();
        let archive = store.path("busybox.tar");
        store.rbuild(["save".as_ref(), "-o".as_ref(), archive.as_os_str(), "busybox".as_ref()]).ok();
        (store, archive)
    });
    let store = Store::new();
    store.rbuild(["load".as_ref(), "-i".as_ref(), archive.as_os_str()]).ok();
    store
}

/// Twenty steps.
fn twenty() -> String {
    let steps: String = (0..20).map(|i| format!("RUN echo ran-{i} && echo {i} > /file-{i}\n")).collect();
    format!("FROM busybox\n{steps}")
}

fn to(registry: &Registry, more: &str) -> String {
    format!("type=registry,ref={},{more}", registry.name("app:cache"))
}

fn from(registry: &Registry) -> String {
    format!("type=registry,ref={}", registry.name("app:cache"))
}

/// A registry that passes on what it is asked for, and keeps the questions.
fn counted(registry: &Registry) -> Fake {
    let address = registry.address.clone();
    Fake::start(move |request| passed_on(&address, request))
}

fn passed_on(address: &str, request: &Request) -> Reply {
    let mut stream = TcpStream::connect(address).expect("the registry runs");
    let accept = request.header("accept").unwrap_or("*/*");
    let (method, path) = (&request.method, &request.path);
    write!(stream, "{method} {path} HTTP/1.0\r\nHost: {address}\r\nAccept: {accept}\r\n\r\n").expect("it listens");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it answers");
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer has a head");
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let mut reply = Reply::new(status.expect("an answer has a status"), &answer[end + 4..]);
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        if !matches!(name.to_ascii_lowercase().as_str(), "content-length" | "connection" | "transfer-encoding") {
            reply = reply.header(name, value);
        }
    }
    reply
}

/// How many blobs were brought.
fn brought(fake: &Fake) -> usize {
    fake.requests().iter().filter(|request| request.method == "GET" && request.path.contains("/blobs/")).count()
}

#[test]
fn twenty_steps_of_another_machine_run_nothing_and_bring_only_what_is_asked_for() {
    let registry = Registry::open();
    let (here, context) = (machine(), Context::new(&twenty()));
    let id = here.image_id(&context, ["--cache-to", &to(&registry, "mode=max")]);
    here.build(&context, ["--cache-to", &to(&registry, "mode=max")]).ok().says(&["nothing was sent"]);

    let (there, counted) = (machine(), counted(&registry));
    let cache = format!("type=registry,ref={}/app:cache", counted.address);
    assert_eq!(there.image_id(&context, ["--cache-from", &cache]), id);
    assert_eq!(brought(&counted), 1, "the list of records: {:#?}", counted.requests());
    there.build(&context, ["--cache-from", &cache]).ok().never_prints(&["ran-"]).never_says(&["importing cache"]);
    there.build(&context, [] as [&str; 0]).ok().never_prints(&["ran-"]);
    assert_eq!(brought(&counted), 1, "what was taken over is known here");
    there.build(&context, ["--cache-to", &to(&registry, "mode=max")]).ok().says(&["nothing was sent"]);

    // An image that is kept is whole; one step more needs what is beneath it.
    assert_eq!(there.image_id(&context, ["-t", "app:1"]), id);
    assert_eq!(brought(&counted), 21);
    there.rbuild(["run", "app:1", "cat", "/file-0", "/file-19"]).ok();
    context.write("Dockerfile", format!("{}RUN echo ran-more $(cat /file-7)\n", twenty()));
    let built = there.build(&context, [] as [&str; 0]).ok();
    assert_eq!((built.lines_of_steps("ran-more 7"), built.lines_of_steps("ran-19")), (1, 0), "{built}");
}

#[test]
fn a_changed_step_brings_what_it_stands_on_and_what_follows_it_runs() {
    let registry = Registry::open();
    let context = Context::new("FROM busybox\nRUN echo ran-a > /a\nCOPY b /\nRUN cat /a /b && echo ran-c > /c\n");
    context.write("b", "1");
    machine().build(&context, ["--cache-to", &to(&registry, "mode=min")]).ok();
    context.write("b", "2");
    let (there, counted) = (machine(), counted(&registry));
    let cache = format!("{}/app:cache", counted.address);
    let built = there.build(&context, ["--cache-from", &cache]).ok();
    assert_eq!(built.lines_of_steps("ran-a"), 1, "printed by the last step, from a layer that was brought: {built}");
    assert_eq!(brought(&counted), 2, "the list and one layer: {:#?}", counted.requests());
}

#[test]
fn only_mode_max_knows_the_stages_that_the_image_does_not_consist_of() {
    let context = Context::new(
        "FROM busybox AS build\nRUN echo ran-build && echo x > /made\nFROM busybox\nCOPY --from=build /made /\nCOPY a /\n",
    );
    for (mode, runs) in [("mode=min", 1), ("mode=max", 0)] {
        let registry = Registry::open();
        context.write("a", "1");
        machine().build(&context, ["--cache-to", &to(&registry, mode)]).ok();
        let there = machine();
        there.build(&context, ["--cache-from", &from(&registry)]).ok().never_prints(&["ran-"]);
        // Asked for by itself, the other stage must be known itself.
        let built = machine().build(&context, ["--target=build", "--cache-from", &from(&registry)]).ok();
        assert_eq!(built.lines_of_steps("ran-build"), runs, "{mode}: {built}");
        // A machine that took the final result over passes on what it never had itself.
        let sent = there.build(&context, ["--cache-from", &from(&registry), "--cache-to", &to(&registry, mode)]);
        sent.ok().says(&["nothing was sent"]);
    }
}

#[test]
fn directories_are_caches_and_nothing_is_known_of_them_without_being_asked() {
    let (here, context) = (machine(), Context::new(&twenty()));
    let dir = here.path("cache");
    let id = here.image_id(&context, ["--cache-to", &format!("type=local,dest={},mode=max", dir.display())]);
    let cache = format!("type=local,src={}", dir.display());
    let there = machine();
    assert_eq!(there.image_id(&context, ["--cache-from", &cache]), id);
    there.build(&context, ["--cache-from", &cache, "-t", "app:1"]).ok().never_prints(&["ran-"]);
    std::fs::remove_dir_all(&dir).expect("it is ours");
    there.build(&context, [] as [&str; 0]).ok().never_prints(&["ran-"]);
    readers::skopeo(["inspect".into(), "--raw".into(), {
        let archive = there.path("app.tar");
        there.build(&context, ["-o", &format!("type=oci,dest={}", archive.display())]).ok();
        format!("oci-archive:{}", archive.display())
    }]);
}

#[test]
fn a_directory_that_is_gone_is_not_missed_by_a_build_that_brought_nothing_from_it() {
    let (here, context) = (machine(), Context::new("FROM busybox\nRUN echo ran-a\nRUN echo ran-b > /b\n"));
    let dir = here.path("cache");
    here.build(&context, ["--cache-to", &format!("type=local,dest={}", dir.display())]).ok();
    let (there, cache) = (machine(), format!("type=local,src={}", dir.display()));
    there.build(&context, ["--cache-from", &cache]).ok().never_prints(&["ran-"]);
    std::fs::remove_dir_all(&dir).expect("it is ours");
    let built = there.build(&context, ["--cache-from", &cache, "-t", "app"]).ok();
    assert_eq!(built.lines_of_steps("ran-a"), 0, "an empty layer needs no bytes: {built}");
    built.says(&["there is no cache at"]).never_says(&["WARN: the"]);
}

#[test]
fn caches_are_asked_in_their_order_and_one_that_is_not_there_yet_is_no_trouble() {
    let (one, two) = (Registry::open(), Registry::open());
    let context = Context::new("FROM busybox\nRUN echo ran-a > /a\nRUN echo ran-b > /b\n");
    machine().build(&context, ["--cache-to", &to(&two, "mode=min")]).ok();
    let there = machine();
    let built = there.build(&context, ["--cache-from", &from(&one), "--cache-from", &from(&two), "-t", "app"]).ok();
    built.never_prints(&["ran-"]).says(&["there is no cache at"]).never_says(&["WARN: the"]);
    machine().build(&context, ["--cache-to", &to(&one, "mode=min")]).ok();
    let (first, second) = (counted(&one), counted(&two));
    let caches = [&first, &second].map(|fake| format!("{}/app:cache", fake.address));
    let there = machine();
    there.build(&context, ["--cache-from", &caches[0], "--cache-from", &caches[1], "-t", "app"]).ok();
    assert_eq!((brought(&first), brought(&second)), (3, 1), "the second has its list read, and is not needed");
}

#[test]
fn an_inline_cache_goes_with_the_image_and_leaves_it_the_same() {
    let registry = Registry::open();
    let (here, context) = (machine(), Context::new("FROM busybox\nRUN echo ran-a > /a\nRUN echo ran-b\n"));
    let name = registry.name("app:1");
    let arguments = ["-t", &name, "--push", "--cache-to", "type=inline"];
    let id = here.image_id(&context, arguments);
    assert_eq!(here.image_id(&context, arguments), id);
    let there = machine();
    let cache = format!("type=registry,ref={name}");
    let built = there.image_id(&context, ["--cache-from", &cache, "-t", &name, "--push", "--cache-to", "type=inline"]);
    assert_eq!(built, id);
    there.build(&context, ["--cache-from", &cache]).ok().never_prints(&["ran-"]);
    // What is built on it does not carry it along.
    let child = Context::new(&format!("FROM {name}\nENV A=1\n"));
    let archive = there.path("child.tar");
    there.build(&child, ["-o", &format!("type=oci,dest={}", archive.display())]).ok();
    assert!(
        !readers::inspect_config(&format!("oci-archive:{}", archive.display())).to_string().contains("rbuild.cache")
    );
}

#[test]
fn an_epoch_gives_the_same_image_from_a_cache_as_from_steps() {
    let registry = Registry::open();
    let dockerfile =
        "FROM busybox\nCOPY a /src/\nRUN echo x > /x && cp -p /src/a /b\nRUN mv /b /c && date > /dev/null\n";
    let context = Context::new(dockerfile).file("a", "a");
    let id =
        machine().image_id(&context, ["--source-date-epoch", "1600000000", "--cache-to", &to(&registry, "mode=min")]);
    let there = machine();
    let again = there.image_id(&context, ["--source-date-epoch", "1600000000", "--cache-from", &from(&registry)]);
    assert_eq!(again, id);
}

#[test]
fn a_cache_is_a_standard_manifest_that_others_copy() {
    let registry = Registry::open();
    let (here, context) = (machine(), Context::new("FROM busybox\nRUN echo ran-a > /a\n"));
    here.build(&context, ["--cache-to", &to(&registry, "compression=zstd")]).ok();
    let layout = here.path("layout");
    readers::skopeo([
        "copy".to_owned(),
        "--src-tls-verify=false".into(),
        format!("docker://{}", registry.name("app:cache")),
        format!("oci:{}:copied", layout.display()),
    ]);
    let cache = format!("type=local,src={},tag=copied", layout.display());
    machine().build(&context, ["--cache-from", &cache, "-t", "app"]).ok().never_prints(&["ran-"]);
}

#[test]
fn cache_mounts_travel_when_they_are_asked_to() {
    let (registry, other) = (Registry::open(), Registry::open());
    let dockerfile = |more: &str| {
        format!(
            "FROM busybox\nRUN --mount=type=cache,target=/kept echo {more} >> /kept/log && echo ran-$(cat /kept/log | tr '\\n' -)\n"
        )
    };
    let (here, context) = (machine(), Context::new(&dockerfile("one")));
    here.build(&context, ["--cache-to", &to(&registry, "mounts=true"), "--cache-to", &to(&other, "mode=min")]).ok();
    here.build(&context, ["--cache-to", &to(&registry, "mounts=true")]).ok().says(&["nothing was sent"]);
    context.write("Dockerfile", dockerfile("two"));
    let there = machine();
    let built = there.build(&context, ["--cache-from", &from(&registry)]).ok();
    assert_eq!(built.lines_of_steps("ran-one-two-"), 1, "{built}");
    context.write("Dockerfile", dockerfile("three"));
    let built = there.build(&context, ["--cache-from", &from(&registry)]).ok();
    assert_eq!(built.lines_of_steps("ran-one-two-three-"), 1, "what is here stays as it is: {built}");
    let built = machine().build(&context, ["--cache-from", &from(&other)]).ok();
    assert_eq!(built.lines_of_steps("ran-three-"), 1, "nobody asked for it: {built}");
}

#[test]
fn a_plan_asks_the_caches_that_a_build_would_ask_and_brings_no_layer() {
    let registry = Registry::open();
    let context = Context::new(&twenty());
    machine().build(&context, ["--cache-to", &to(&registry, "mode=max")]).ok();
    let (there, counted) = (machine(), counted(&registry));
    let cache = format!("type=registry,ref={}/app:cache", counted.address);
    let path = context.path().to_str().expect("a plain path").to_owned();
    let plan = |cache: &[&str]| there.rbuild([&["plan"], cache, &[path.as_str()]].concat()).ok().stdout;
    assert!(plan(&[]).ends_with("20 steps: 0 cached, 20 would run\n"), "{}", plan(&[]));
    let told = format!("type=registry,ref={}/app:told", counted.address);
    let asks = ["--cache-from", cache.as_str(), "--cache-to", told.as_str()];
    let known = plan(&asks);
    assert!(known.ends_with("20 steps: 20 cached, 0 would run\n"), "{known}");
    context.write("Dockerfile", twenty().replace("echo 18 >", "echo other >"));
    let known = plan(&asks);
    assert!(known.contains("20 steps: 18 cached, 1 would run"), "{known}");
    assert!(brought(&counted) <= 2, "the list of records, for each plan: {:#?}", counted.requests());
    assert!(counted.requests().iter().all(|request| matches!(request.method.as_str(), "GET" | "HEAD")));
    let built = there.build(&context, ["--cache-from", &cache]).ok();
    assert_eq!((built.lines_of_steps("ran-17"), built.lines_of_steps("ran-18")), (0, 1), "{built}");
}
