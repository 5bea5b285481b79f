//! Images into other engines: what is sent, what is left out, and what is said when they do not take it.
//!
//! Docker is the one of `tests/support/dockerd.rs`, or a real engine whose API `RBUILD_TEST_DOCKER` names, for what does
//! not ask for faults (`tests/engines.sh`).

mod faults;
mod network;
mod programs;
mod several;

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::process::Command;

use serde_json::Value;

use crate::support::dockerd::{Dockerd, Fault};
use crate::support::rbuild::Outcome;
use crate::support::user::User;
use crate::support::{Archive, Context, Store};

const APP: &str = "FROM busybox\nRUN head -c 3000000 /dev/urandom > /big\nCOPY top /top\nCMD [\"cat\", \"/top\"]\n";

fn app() -> Context {
    Context::new(APP).file("top", "one")
}

/// An engine with docker's API.
struct Docker {
    host: String,
    /// Ours, if it is ours.
    fake: Option<Dockerd>,
}

impl Docker {
    /// The real one if there is one, else one of ours.
    fn open(store: &Store) -> Self {
        match std::env::var("RBUILD_TEST_DOCKER") {
            Ok(host) => Self { host, fake: None },
            Err(_) => Self::fake(store),
        }
    }

    fn fake(store: &Store) -> Self {
        let fake = Dockerd::start(&store.home());
        Self { host: fake.host(), fake: Some(fake) }
    }

    fn own(&self) -> &Dockerd {
        self.fake.as_ref().expect("it is ours")
    }

    /// Builds with it as `DOCKER_HOST`.
    fn build(&self, store: &Store, context: &Context, args: &[&str]) -> Outcome {
        Outcome::of(store.build_command(context, args).env("DOCKER_HOST", &self.host))
    }

    fn command(&self, store: &Store, args: &[&str]) -> Command {
        let mut command = store.command(args);
        command.env("DOCKER_HOST", &self.host);
        command
    }

    /// What it says of an image.
    fn inspect(&self, what: &str) -> Option<Value> {
        let path = self.host.strip_prefix("unix://").expect("a socket");
        let mut stream = UnixStream::connect(path).expect("it listens");
        write!(stream, "GET /images/{what}/json HTTP/1.0\r\nHost: x\r\nConnection: close\r\n\r\n").expect("it reads");
        stream.shutdown(std::net::Shutdown::Write).expect("it is open");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        let body = answer.split("\r\n\r\n").nth(1).expect("an answer has a body");
        let found: Value = serde_json::from_str(body).expect("it is JSON");
        found.get("Id").is_some().then_some(found)
    }

    fn id(&self, what: &str) -> Option<String> {
        let id = self.inspect(what)?["Id"].as_str().expect("an id is text").to_owned();
        Some(if id.contains(':') { id } else { format!("sha256:{id}") })
    }
}

/// A name that no other test has, for engines that outlive one.
fn name(of: &str) -> String {
    format!("load-{of}-{}", std::process::id())
}

#[test]
fn image_is_loaded_under_its_names_and_only_layers_that_are_missing_are_sent() {
    let (store, context) = (Store::with_busybox(), app());
    let docker = Docker::open(&store);
    let (one, other) = (name("a:1"), format!("r.example/x/{}:2", name("b")));
    let built = docker.build(&store, &context, &["-t", &one, "-t", &other, "--load"]).ok();
    // A real engine may have busybox from a test before.
    assert!(built.stderr.contains(" of 3 layers, ") && built.stderr.contains(&docker.host), "{built}");
    let id = store.image_id(&context, ["-t", &one]);
    for name in [&one, &other, &id] {
        assert_eq!(docker.id(name).as_deref(), Some(&*id), "{name}");
    }
    docker.build(&store, &context, &["-t", &one, "--load"]).ok().says(&["it had all layers"]);

    context.write("top", "two");
    docker.build(&store, &context, &["-t", &one, "--load"]).ok().says(&["sent 1 of 3 layers"]);
    let changed = store.image_id(&context, ["-t", &one]);
    assert_eq!((docker.id(&one), docker.id(&other)), (Some(changed), Some(id)));

    // Words of the config alone.
    docker.build(&store, &context, &["-t", &one, "--label", "a=b", "--load"]).ok().says(&["it had all layers"]);
    let layers = docker.inspect(&one).expect("it is there")["RootFS"]["Layers"].clone();
    assert_eq!(layers.as_array().map(Vec::len), Some(3));

    let Some(fake) = &docker.fake else { return };
    let loads = fake.loads();
    let blobs: Vec<usize> =
        loads.iter().map(|load| load.files.iter().filter(|file| file.starts_with("blobs/")).count()).collect();
    assert_eq!(blobs, [2 + 3, 2 + 1, 2], "config, manifest and layers; when nothing changes, nothing at all");
    assert!(loads[0].bytes > 3_000_000 && loads[1].bytes < 32_768 && loads[2].bytes < 32_768, "{loads:?}");
}

#[test]
fn image_without_a_name_is_there_by_its_id() {
    let (store, context) = (Store::with_busybox(), app());
    let docker = Docker::open(&store);
    let id = store.image_id(&context, [""; 0]);
    let built = docker.build(&store, &context, &["--load"]).ok();
    assert!(built.stderr.contains(&format!("loaded {id} into ")), "{built}");
    assert_eq!(docker.id(&id), Some(id));
}

#[test]
fn images_of_the_store_are_loaded_with_save() {
    let (store, context) = (Store::with_busybox(), app());
    let docker = Docker::open(&store);
    let name = name("saved:1");
    let id = store.image_id(&context, ["-t", &name]);
    let saved = Outcome::of(&mut docker.command(&store, &["save", "--to", "docker", &name, "busybox"])).ok();
    assert!(saved.stdout.starts_with(&format!("loaded {name} into ")), "{saved}");
    assert_eq!(saved.stdout.lines().count(), 2, "{saved}");
    assert_eq!(docker.id(&name), Some(id));
}

#[test]
fn output_says_what_and_where_and_quiet_says_the_id() {
    let (store, context) = (Store::with_busybox(), app());
    let docker = Docker::fake(&store);
    let archive = store.path("app.tar");
    let dest = format!("type=oci,dest={}", archive.display());
    let built = docker.build(&store, &context, &["-t", "app:1", "-o", "type=docker,name=other:3", "-o", &dest]).ok();
    let line = format!("loaded other:3 into docker ({}): sent 3 of 3 layers", docker.host);
    assert!(built.stderr.contains(&line), "{built}");
    assert!(built.stderr.contains(&format!("loading into docker ({})", docker.host)), "{built}");
    assert_eq!(docker.own().id("other:3").as_deref(), Some(Archive::read(&archive).id()));
    assert_eq!(docker.own().id("app:1"), None, "the output has a name of its own");
    assert!(store.rbuild(["images"]).ok().stdout.contains("app "), "the local store keeps it");
    let path = context.path().to_str().expect("the path is ASCII");
    let quiet = Outcome::of(&mut docker.command(&store, &["build", "-q", "-t", "app:1", "--load", path])).ok();
    assert_eq!(quiet.stdout.trim(), docker.own().id("app:1").expect("it is there"));
    // A name with a digest is none that docker gives.
    let pinned = format!("app@{}", quiet.stdout.trim());
    docker
        .build(&store, &context, &["-o", &format!("type=docker,\"name={pinned},app:9\"")])
        .ok()
        .says(&["loaded app:9 into"]);
    docker
        .build(&store, &context, &["-o", "type=docker,compression=zstd", "-t", "app:1"])
        .ok()
        .says(&["docker unpacks what is loaded"]);
}

#[test]
fn ordinary_users_load_what_they_built() {
    let store = Store::of_with_busybox(User::new());
    let docker = Docker::fake(&store);
    let socket = docker.host.strip_prefix("unix://").expect("a socket").to_owned();
    let context = Context::new("FROM busybox\nCOPY top /top\n").file("top", "one");
    let args = ["-t", "app:1", "--load"];
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o600)).expect("the socket is ours");
    docker.build(&store, &context, &args).fails_saying(&["may not be used by this user", "--groups docker"]);
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o666)).expect("the socket is ours");
    docker.build(&store, &context, &args).ok().says(&["sent 2 of 2 layers"]);
    assert!(docker.own().id("app:1").is_some());
}

#[test]
fn docker_that_keeps_blobs_gets_the_image_that_a_registry_gets() {
    let (store, context) = (Store::with_busybox(), app());
    let docker = Docker::fake(&store);
    docker.own().set(Fault::KeepsBlobs);
    let archive = store.path("app.tar");
    let dest = format!("type=oci,name=app:1,dest={}", archive.display());
    let built = docker.build(&store, &context, &["-t", "app:1", "-t", "app:2", "--load", "-o", &dest]).ok();
    assert!(built.stderr.contains("loaded app:1, app:2 into docker (") && built.stderr.contains("sent 3 of 3 layers"));
    let digest = Archive::read(&archive).digest;
    for name in ["app:1", "app:2"] {
        assert_eq!(docker.own().id(name).as_deref(), Some(&*digest), "{name}");
    }
    docker.build(&store, &context, &["--load"]).ok().says(&["loaded sha256:"]);
}
