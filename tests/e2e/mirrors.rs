//! Settings of registries, from rbuild's own file and from those of other tools; mirrors that serve and mirrors that fail.

use crate::support::fake::{Fake, Reply};
use crate::support::registry::Registry;
use crate::support::{Context, Store, readers};

/// A registry that holds `hub/library/base:1`.
fn with_base() -> Registry {
    let registry = Registry::open();
    let (store, name) = (Store::with_busybox(), registry.name("hub/library/base:1"));
    store.build(&Context::new("FROM busybox\nRUN echo mirrored > /base\n"), ["-t", &name, "--push"]).ok();
    registry
}

fn write(store: &Store, path: &str, text: &str) {
    let path = store.home().join(path);
    std::fs::create_dir_all(path.parent().expect("a file has a folder")).expect("the home can be written");
    std::fs::write(path, text).expect("the home can be written");
}

#[test]
fn every_tools_settings_lead_to_the_mirror() {
    let registry = with_base();
    let mirror = registry.address.as_str();
    let cases: &[(&str, String, &str)] = &[
        (".config/rbuild/config.toml", format!("[registry.\"docker.io\"]\nmirrors = [\"{mirror}/hub\"]\n"), "base:1"),
        (
            ".config/buildkit/buildkitd.toml",
            format!("debug = true\n[registry.\"docker.io\"]\nmirrors = [\"{mirror}/hub\"]\n"),
            "base:1",
        ),
        (
            ".config/containers/registries.conf",
            format!(
                "unqualified-search-registries = [\"quay.io\"]\n[[registry]]\nprefix = \"docker.io\"\nlocation = \"docker.io\"\n[[registry.mirror]]\nlocation = \"{mirror}/hub\"\n"
            ),
            "base:1",
        ),
        (
            ".config/containers/registries.conf.d/50-x.conf",
            format!(
                "[[registry]]\nlocation = \"r.example\"\n[[registry.mirror]]\nlocation = \"{mirror}/hub/library\"\n"
            ),
            "r.example/base:1",
        ),
        (
            ".config/containerd/certs.d/docker.io/hosts.toml",
            format!(
                "server = \"https://registry-1.docker.io\"\n[host.\"http://{mirror}/v2/hub\"]\ncapabilities = [\"pull\", \"resolve\"]\noverride_path = true\n"
            ),
            "base:1",
        ),
        (".config/docker/daemon.json", format!("{{\"registry-mirrors\": [\"http://{mirror}/hub/\"]}}"), "base:1"),
    ];
    for (file, text, name) in cases {
        let store = Store::new();
        write(&store, file, text);
        let context = Context::new(&format!("FROM {name}\nRUN echo on $(cat /base)\n"));
        let built = store.build(&context, ["-t", "x:1"]).ok().says(&["come from the mirror", mirror, file]);
        assert_eq!(built.lines_of_steps("on mirrored"), 1, "{file}: {built}");
        // The image's name is the one that was written.
        let images = store.rbuild(["images"]).ok();
        assert!(
            !images.stdout.contains(mirror) && images.stdout.contains(name.split(':').next().expect("a name")),
            "{images}"
        );
        let config = store.rbuild(["config"]).ok();
        assert!(config.stdout.contains("mirrors") && config.stdout.contains(file), "{file}: {config}");
        let why = store.rbuild(["auth", "why", name]).ok();
        assert!(why.stdout.contains(mirror) && why.stdout.contains("push"), "{file}: {why}");
        // Files of others count only if they may.
        let own = store.command(["config"]).env("RBUILD_REGISTRY_FILES", "0").output().expect("rbuild was built");
        let own = String::from_utf8_lossy(&own.stdout).contains("mirrors");
        assert_eq!(own, file.contains("rbuild"), "{file}");
    }
}

#[test]
fn a_broken_mirror_costs_a_notice_and_a_registry_that_is_blocked_an_error() {
    let registry = with_base();
    let broken = Fake::start(|_| Reply::new(500, "{\"errors\":[{\"code\":\"X\",\"message\":\"out of order\"}]}"));
    let store = Store::new();
    let origin = registry.address.as_str();
    let text = format!(
        "[registry.\"{origin}\"]\nmirrors = [\"{}\"]\n[registry.\"{origin}/bad\"]\nblocked = true\n",
        broken.address
    );
    write(&store, ".config/rbuild/config.toml", &text);
    let base = registry.name("hub/library/base:1");
    let context = Context::new(&format!("FROM {base}\nRUN cat /base\n"));
    let built = store.build(&context, ["-t", &registry.name("mine:1"), "--push"]).ok();
    let built = built.says(&["no mirror of", "out of order"]);
    assert_eq!(built.stderr.matches("no mirror of").count(), 1, "{built}");
    // The push went to the registry itself.
    readers::inspect(&format!("docker://{}", registry.name("mine:1")));
    assert!(broken.requests().iter().all(|request| matches!(request.method.as_str(), "GET" | "HEAD")));
    let bad = Context::new(&format!("FROM {}\nRUN true\n", registry.name("bad/app:1")));
    store.build(&bad, [""; 0]).fails_saying(&["is blocked by", "config.toml", "Dockerfile:1"]);
}

#[test]
fn files_of_others_that_nobody_understands_are_warnings_and_ours_are_errors() {
    let registry = with_base();
    let store = Store::new();
    for file in [
        ".config/containers/registries.conf",
        ".config/buildkit/buildkitd.toml",
        ".config/containerd/certs.d/docker.io/hosts.toml",
        ".config/docker/daemon.json",
    ] {
        write(&store, file, "\n[broken\n");
    }
    let context = Context::new(&format!("FROM {}\nRUN true\n", registry.name("hub/library/base:1")));
    store.build(&context, [""; 0]).ok().says(&[
        "registries.conf:2: this is no TOML",
        "buildkitd.toml:2: this is no TOML",
        "hosts.toml:2: this is no TOML",
        "daemon.json:2: not understood",
    ]);
    write(&store, ".config/rbuild/config.toml", "[registry.\"a b\"]\ninsecure = true\n");
    store.build(&context, [""; 0]).fails_saying(&["`a b` is not the address of a registry", "config.toml:1"]);
    write(&store, ".config/rbuild/config.toml", "[registry.\"r.example\"]\nmirrors = [\"ftp://x\"]\n");
    store.build(&context, [""; 0]).fails_saying(&["only http and https are spoken", "config.toml:2"]);
}

#[test]
fn proxies_are_used_for_others_and_never_for_this_machine() {
    let proxy = Fake::start(|_| Reply::new(403, "the proxy was asked"));
    let address = format!("http://{}", proxy.address);
    let registry = with_base();
    let store = Store::new();
    // An address at which nobody listens, and which no loopback is: this machine's own, or one that nothing leads to.
    let own = std::net::UdpSocket::bind("0.0.0.0:0")
        .and_then(|socket| socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr()))
        .map_or("192.0.2.7".to_owned(), |own| own.ip().to_string());
    let near = format!("{own}:{}", registry.address.rsplit_once(':').expect("it has a port").1);
    let text = format!("[registry.\"r.example\"]\nhttp = true\n[registry.\"{near}\"]\nhttp = true\n");
    write(&store, ".config/rbuild/config.toml", &text);
    let build = |image: &str, no_proxy: &str| {
        let before = proxy.requests().len();
        let context = Context::new(&format!("FROM {image}\nRUN true\n"));
        let mut command = store.build_command(&context, [""; 0]);
        command.envs([("HTTP_PROXY", &address), ("http_proxy", &address), ("HTTPS_PROXY", &address)]);
        command.env("NO_PROXY", no_proxy).env("no_proxy", no_proxy);
        let outcome = crate::support::Outcome::of(&mut command);
        (outcome, proxy.requests().len() > before)
    };
    let network = format!("{}.0.0.0/8", own.split('.').next().expect("an address has parts"));
    let cases = [
        ("r.example/app:1", "", Some("the proxy was asked")),
        ("r.example/app:1", network.as_str(), Some("the proxy was asked")),
        (&format!("{near}/app:1"), "r.example", Some("the proxy was asked")),
        (&format!("{near}/app:1"), &format!("r.example,{network}"), None),
    ];
    for (image, no_proxy, want) in cases {
        let (outcome, asked) = build(image, no_proxy);
        outcome.fails_saying(&[want.unwrap_or("got no complete answer")]);
        assert_eq!(asked, want.is_some(), "{image} {no_proxy}");
    }
    let (outcome, asked) = build(&registry.name("hub/library/base:1"), "");
    outcome.ok();
    assert!(!asked, "loopback is never reached through a proxy");
}
