//! Images of the local store: named, looked at, pushed, pulled, and told of as JSON.

use std::path::Path;

use serde_json::{Value, json};

use super::imagetools::{digest, entries, put};
use crate::support::archive::hex;
use crate::support::hosted;
use crate::support::registry::{PASSWORD, Registry, USER};
use crate::support::{Archive, Context, Outcome, Store, readers};

const APP: &str = "FROM busybox\nLABEL of=tests\nENV A=1\nRUN echo made > /made\nCMD [\"cat\", \"/made\"]\n";

fn json(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome}"))
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

/// A store that holds `app:1`, and its id.
fn with_app() -> (Store, String) {
    let store = Store::with_busybox();
    let id = store.image_id(&Context::new(APP), ["-t", "app:1"]);
    (store, id)
}

/// A registry in this process.
fn hosted() -> hosted::Registry {
    hosted::Registry::start(|bytes| format!("sha256:{}", hex(bytes)))
}

#[test]
fn an_image_is_named_pushed_and_read_by_skopeo() {
    let registry = Registry::open();
    let (store, id) = with_app();
    let names = [registry.name("team/app:1"), registry.name("team/app:2")];
    let tagged = json(&store.rbuild(["tag", "app:1", &names[0], &names[1], "--format", "json"]).ok());
    let tagged: Vec<_> = tagged.as_array().expect("a list").iter().map(|one| (&one["name"], &one["id"])).collect();
    assert_eq!(tagged, [(&json!(names[0]), &json!(id)), (&json!(names[1]), &json!(id))]);

    let file = store.path("digest");
    let pushed = store.rbuild(["push", "--format", "json", "--digestfile", &path(&file), &names[0]]).ok();
    let pushed = &json(&pushed)[0];
    let seen = readers::inspect(&format!("docker://{}", names[0]));
    assert_eq!((&pushed["digest"], &pushed["name"]), (&seen["Digest"], &json!(names[0])));
    assert_eq!(pushed["images"][0]["id"], json!(id));
    assert_eq!(std::fs::read_to_string(&file).expect("it was asked for"), seen["Digest"].as_str().expect("a digest"));
    assert_eq!(readers::inspect_config(&format!("docker://{}", names[0]))["config"]["Env"][1], "A=1");

    // All names of the repository, as `docker push -a` does it; nothing is sent again, and the digest is the same.
    let all = store.rbuild(["push", "--all-tags", &registry.name("team/app")]).ok();
    let lines: Vec<String> = all.stdout.lines().map(str::to_owned).collect();
    let digest = seen["Digest"].as_str().expect("a digest");
    let want: Vec<String> =
        names.iter().map(|name| format!("{name}: digest: {digest} size: {}", pushed["size"])).collect();
    assert_eq!(lines, want);
    // Under a name that the store does not know, as `podman push` does it.
    let elsewhere = registry.name("other/app:3");
    let quiet = store.rbuild(["push", "-q", "app:1", &format!("docker://{elsewhere}")]).ok();
    assert_eq!((quiet.stdout.trim(), quiet.stderr.as_str()), (format!("{elsewhere}@{digest}").as_str(), ""));
    // By its id, which says no registry.
    store.rbuild(["push", &id]).fails_saying(&["says no registry", "help"]);
    store.rbuild(["push", &id[7..19], &registry.name("by/id:1")]).ok();
    store.rbuild(["push", "nothing:1"]).fails_saying(&["there is no image `nothing:1`"]);
    store.rbuild(["push", "--all-tags", "nothing"]).fails_saying(&["no image of the local store has a name in"]);
    let pinned = format!("{}@sha256:{}", registry.name("team/app"), hex(b"another"));
    store.rbuild(["push", "app:1", &pinned]).fails_saying(&["has the digest", digest]);
    store.rbuild(["push", "app:1", "oci-archive:/x.tar"]).fails_saying(&["is no registry", "rbuild save"]);
}

#[test]
fn layers_are_compressed_as_asked() {
    let registry = Registry::open();
    let (store, _) = with_app();
    let types = |name: &str| -> Vec<String> {
        let manifest: Value = serde_json::from_str(&readers::manifest(&format!("docker://{name}"))).expect("JSON");
        let layers = manifest["layers"].as_array().expect("layers");
        layers
            .iter()
            .map(|layer| layer["mediaType"].as_str().expect("a type").rsplit('.').next().expect("a part").into())
            .collect()
    };
    let push = |tag: &str, args: &[&str]| {
        let name = registry.name(&format!("app:{tag}"));
        store.rbuild([&["push"], args, &["app:1", &name]].concat()).ok();
        types(&name)
    };
    assert_eq!(push("zstd", &["--compression", "zstd", "--compression-level", "5"]), ["tar+zstd", "tar+zstd"]);
    assert_eq!(push("plain", &["--compression=uncompressed"]), ["tar", "tar"]);
    assert_eq!(push("gzip", &[]), ["tar+gzip", "tar+gzip"]);
    // What came compressed stays so, unless it is forced.
    store.rbuild(["pull", &registry.name("app:zstd")]).ok();
    store.rbuild(["push", &registry.name("app:zstd"), &registry.name("again:1")]).ok();
    assert_eq!(types(&registry.name("again:1")), ["tar+zstd", "tar+zstd"]);
    let forced = ["push", "--force-compression", &registry.name("app:zstd"), &registry.name("again:2")];
    store.rbuild(["run", &registry.name("app:zstd")]).ok();
    store.rbuild(forced).ok();
    assert_eq!(types(&registry.name("again:2")), ["tar+gzip", "tar+gzip"]);
    store.rbuild(["push", "--compression", "brotli", "app:1"]).fails_saying(&["brotli", "zstd"]);
    store.rbuild(["push", "--compression-level", "77", "app:1"]).fails_saying(&["no level 77"]);
}

#[test]
fn an_image_goes_from_registry_to_registry_by_the_store_with_its_digest() {
    let (registry, other) = (Registry::open(), Registry::open());
    let (store, _) = with_app();
    let archive = store.path("app.tar");
    store.rbuild(["save", "-o", &path(&archive), "app:1"]).ok();
    let there = format!("docker://{}", registry.name("app:1"));
    let from = format!("oci-archive:{}", archive.display());
    readers::skopeo(["copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false", &from, &there]);
    let digest = readers::inspect(&there)["Digest"].as_str().expect("a digest").to_owned();

    let second = Store::new();
    let name = registry.name("app:1");
    let pulled = second.rbuild(["pull", &name]).ok();
    assert!(pulled.stdout.starts_with(&format!("{name}: digest: {digest} size: ")), "{pulled}");
    let facts = &json(&second.rbuild(["inspect", &name]).ok())[0];
    assert_eq!(facts["RepoDigests"], json!([format!("{}@{digest}", registry.name("app"))]));
    assert_eq!(second.rbuild(["inspect", "--raw", &name]).ok().stdout, readers::manifest(&there));
    assert_eq!(second.rbuild(["inspect", "--manifest", &name]).ok().stdout, readers::manifest(&there));

    let pushed = second.rbuild(["push", "-q", &name, &other.name("mirror/app:1")]).ok();
    assert_eq!(pushed.stdout.trim(), format!("{}@{digest}", other.name("mirror/app:1")));
    assert_eq!(readers::inspect(&format!("docker://{}", other.name("mirror/app:1")))["Digest"], digest.as_str());
    // It runs, offline: all of it is here.
    second.configure("offline = true\n");
    assert_eq!(second.rbuild(["run", &name]).ok().stdout, "made\n");
    second.rbuild(["pull", &name]).fails_saying(&["`rbuild pull` asks a registry, and no connection may be made"]);
    second.rbuild(["push", &name]).fails_saying(&["`rbuild push` asks a registry"]);
}

#[test]
fn what_is_known_to_be_in_the_registry_is_neither_fetched_nor_sent() {
    let registry = hosted();
    let (store, _) = with_app();
    let name = format!("{}/team/app:1", registry.host());
    store.rbuild(["push", "app:1", &name]).ok();
    registry.forget();
    let second = Store::new();
    // A build that changes the config alone needs no layer.
    second.build(&Context::new(&format!("FROM {name}\nENV B=2\n")), ["-t", "more:1"]).ok();
    second.rbuild(["push", "more:1", &format!("{}/other/app:1", registry.host())]).ok();
    let bodies =
        |method: &str| registry.seen().iter().filter(|one| one.method == method && one.body.len() > 10_000).count();
    assert_eq!((bodies("PUT"), bodies("PATCH")), (0, 0), "{:?}", registry.log());
    assert!(registry.count("POST", "/v2/other/app/blobs/uploads/") >= 2, "{:?}", registry.log());
}

#[test]
fn inspect_says_what_docker_says() {
    let (store, id) = with_app();
    let text = store.rbuild(["inspect", "app:1"]).ok();
    let facts = &json(&text)[0];
    let config: Value =
        serde_json::from_str(&store.rbuild(["inspect", "--config", "app:1"]).ok().stdout).expect("JSON");
    assert_eq!(format!("sha256:{}", hex(store.rbuild(["inspect", "--config", "app:1"]).ok().stdout.as_bytes())), id);
    for (field, want) in [
        ("Id", json!(id)),
        ("RepoTags", json!(["app:1"])),
        ("RepoDigests", json!([])),
        ("Architecture", config["architecture"].clone()),
        ("Os", json!("linux")),
        ("Variant", json!("")),
        ("Created", config["created"].clone()),
    ] {
        assert_eq!(facts[field], want, "{field}");
    }
    assert_eq!(facts["RootFS"], json!({ "Type": "layers", "Layers": config["rootfs"]["diff_ids"] }));
    assert_eq!(facts["Config"]["Cmd"], json!(["cat", "/made"]));
    assert_eq!(facts["Config"]["Labels"], json!({ "of": "tests" }));
    assert_eq!((&facts["Config"]["Entrypoint"], &facts["Config"]["User"]), (&Value::Null, &json!("")));
    assert!(facts["Size"].as_u64().expect("a number") > 100_000);
    assert_eq!(facts["History"].as_array().map(Vec::len), config["history"].as_array().map(Vec::len));
    // Several, and for people.
    assert_eq!(json(&store.rbuild(["inspect", "busybox", "app:1", &id[7..19]]).ok()).as_array().map(Vec::len), Some(3));
    let table = store.rbuild(["inspect", "--format", "table", "app:1"]).ok().stdout;
    assert!(table.starts_with("NAMES   IMAGE ID       PLATFORM      CREATED"), "{table}");
    assert!(
        table.lines().nth(1).is_some_and(|line| line.starts_with(&format!("app:1   {}   linux/", &id[7..19]))),
        "{table}"
    );
    store.rbuild(["inspect", "app:2"]).fails_saying(&["there is no image `app:2`"]);
    store.rbuild(["inspect", "-f", "{{.Id}}", "app:1"]).fails_saying(&["is a Go template", "jq -r '.[0].Id'"]);
    store.rbuild(["inspect", "--platform", "linux/s390x", "app:1"]).fails_saying(&["is not here for `linux/s390x`"]);
}

#[test]
fn every_verb_tells_its_results_as_json() {
    let (store, id) = with_app();
    let (archive, metadata) = (store.path("app.tar"), store.path("saved.json"));
    store.rbuild(["save", "-o", &path(&archive), "--metadata-file", &path(&metadata), "app:1"]).ok();
    let saved: Value = serde_json::from_slice(&std::fs::read(&metadata).expect("it was asked for")).expect("JSON");
    let read = Archive::read(&archive);
    assert_eq!(saved[0]["names"], json!(["app:1"]));
    assert_eq!((&saved[0]["id"], &saved[0]["digest"]), (&json!(id), &json!(read.digest)));

    let images = json(&store.rbuild(["images", "--format", "json"]).ok());
    assert_eq!((&images[0]["name"], &images[0]["id"]), (&json!("app:1"), &json!(id)));
    let removed = json(&store.rbuild(["rmi", "--format", "json", "app:1"]).ok());
    assert_eq!(removed, json!([{ "untagged": "app:1" }, { "removed": id }]));
    let loaded = json(&store.rbuild(["load", "--format", "json", "-i", &path(&archive)]).ok());
    assert_eq!(loaded, json!([{ "name": "app:1", "id": id }]));
    let base = crate::support::bases::busybox();
    let imported = json(&store.rbuild(["import", "--format=json", &path(&base), "box:2"]).ok());
    let ids = json(&store.rbuild(["inspect", "box:2"]).ok());
    assert_eq!(imported, json!([{ "name": "box:2", "id": ids[0]["Id"] }]));
    store.rbuild(["import", "--platform", "linux/arm64", &path(&base), "box:arm"]).ok();
    let arm = json(&store.rbuild(["inspect", "box:arm"]).ok());
    assert_eq!((&arm[0]["Architecture"], &arm[0]["RootFS"]), (&json!("arm64"), &ids[0]["RootFS"]));
    assert_ne!(arm[0]["Id"], ids[0]["Id"]);
    store.rbuild(["import", "--platform", "arm65,x", &path(&base), "box:x"]).fails_saying(&["--platform", "arm65,x"]);
    // Lines for people are what they were.
    assert_eq!(store.rbuild(["tag", "box:2", "box:3"]).ok().stdout, "tagged box:3\n");
    assert_eq!(store.rbuild(["rmi", "box:3"]).ok().stdout, "untagged box:3\n");
    store.rbuild(["tag", "box:2", "box@sha256:00"]).fails_saying(&["not a sha256 digest"]);
    store.rbuild(["tag", "nothing:1", "box:4"]).fails_saying(&["there is no image `nothing:1`"]);
}

#[test]
fn credentials_of_one_command_let_it_in() {
    let registry = Registry::guarded();
    let (store, _) = with_app();
    let name = registry.name("private/app:1");
    let creds = format!("{USER}:{PASSWORD}");
    store.rbuild(["push", "app:1", &name]).fails_saying(&[&registry.address, "wants credentials", "help"]);
    store.rbuild(["push", "--creds", &format!("{USER}:wrong"), "app:1", &name]).fails_saying(&["not accepted"]);
    store.rbuild(["push", "--creds", &creds, "app:1", &name]).ok().never_says(&[PASSWORD]);
    store.rbuild(["push", "--creds", USER, "app:1", &name]).fails_saying(&["needs a name and a password"]);
    let second = Store::new();
    second.rbuild(["pull", &name]).fails_saying(&["wants credentials"]);
    second.rbuild(["imagetools", "inspect", &name]).fails_saying(&["wants credentials"]);
    second.rbuild(["pull", "--creds", &creds, &name]).ok().never_says(&[PASSWORD]);
    let shown = second.rbuild(["imagetools", "inspect", "--creds", &creds, "--format", "json", &name]).ok();
    assert_eq!(json(&shown)["image"]["config"]["Labels"]["of"], "tests");
    // A file of credentials for this command alone.
    use base64::Engine as _;
    let auth = base64::engine::general_purpose::STANDARD.encode(&creds);
    let file = second.path("auth.json");
    std::fs::write(&file, json!({ "auths": { &registry.address: { "auth": auth } } }).to_string()).expect("ours");
    second.rbuild(["pull", "--authfile", &path(&file), &name]).ok();
    let again = registry.name("private/app:2");
    second.rbuild(["imagetools", "create", "--authfile", &path(&file), "-t", &again, &name]).ok();
    second.rbuild(["imagetools", "create", "--creds", &creds, "-t", &again, &name]).ok();
}

#[test]
fn everybody_pushes_and_pulls() {
    let registry = Registry::open();
    for (n, store) in Store::everybodys().into_iter().enumerate() {
        store.image_id(&Context::new("FROM busybox\nCOPY Dockerfile /file\n"), ["-t", "app:1"]);
        let name = registry.name(&format!("of{n}/app:1"));
        store.rbuild(["push", "app:1", &name]).ok();
        let removed = json(&store.rbuild(["rmi", "--format", "json", "app:1"]).ok());
        let id = removed[1]["removed"].clone();
        store.rbuild(["pull", &name]).ok();
        assert_eq!(json(&store.rbuild(["inspect", &name]).ok())[0]["Id"], id);
    }
}

#[test]
fn a_pull_that_fails_names_nothing() {
    let registry = hosted();
    let (store, _) = with_app();
    let name = format!("{}/app:1", registry.host());
    store.rbuild(["push", "app:1", &name]).ok();
    let second = Store::new();
    let large = |request: &hosted::Request, response: &mut hosted::Response| {
        if request.method == "GET" && response.body.len() > 10_000 {
            response.body[5000] ^= 1;
        }
    };
    registry.fault("GET", "/blobs/", 99, large);
    second.rbuild(["pull", &name]).fails_saying(&["other bytes than asked for", "nothing was kept"]);
    assert_eq!(second.rbuild(["images", "-q"]).ok().stdout, "");
    second.rbuild(["pull", &format!("{}/nothing:1", registry.host())]).fails_saying(&["is not found"]);
    second.rbuild(["pull", "--platform", "linux/s390x", &name]).fails_saying(&["no image for `linux/s390x`"]);
}

#[test]
fn an_index_is_pulled_looked_at_named_and_pushed_as_it_is() {
    let (source, registry) = (hosted(), Registry::open());
    let host = source.host();
    let (amd, arm) = (put(&source, "app", "amd", "linux/amd64", "a"), put(&source, "app", "arm", "linux/arm64", "b"));
    let (name, part) = (format!("{host}/app:1"), |tag: &str| format!("{host}/app:{tag}"));
    let store = Store::new();
    store.rbuild(["imagetools", "create", "-t", &name, &part("amd"), &part("arm")]).ok();
    let index = source.manifest("app", "1").expect("it was made");

    let pulled = json(&store.rbuild(["pull", "--all-platforms", "--format", "json", &name]).ok());
    assert_eq!(pulled[0]["digest"], digest(&index));
    let images: Vec<_> = pulled[0]["images"].as_array().expect("images").iter().map(|image| &image["digest"]).collect();
    assert_eq!(images, [&json!(amd), &json!(arm)]);
    assert_eq!(store.rbuild(["inspect", "--raw", &name]).ok().stdout.as_bytes(), index);
    let facts = &json(&store.rbuild(["inspect", "--platform", "linux/arm64", &name]).ok())[0];
    assert_eq!(facts["Platforms"], json!(["linux/amd64", "linux/arm64"]));
    assert_eq!((&facts["Architecture"], &facts["Config"]["Env"]), (&json!("arm64"), &json!(["SAYS=b"])));
    assert_eq!(facts["RepoDigests"], json!([format!("{host}/app@{}", digest(&index))]));
    let manifest = store.rbuild(["inspect", "--platform", "linux/arm64", "--manifest", &name]).ok().stdout;
    assert_eq!(digest(manifest.as_bytes()), arm);

    // Another name means the index too, and it goes out byte for byte, with all that it names.
    store.rbuild(["tag", &name, "local:1"]).ok();
    let there = registry.name("app:1");
    let pushed = store.rbuild(["push", "-q", "local:1", &there]).ok();
    assert_eq!(pushed.stdout.trim(), format!("{there}@{}", digest(&index)));
    let (from, to) = (format!("docker://{there}"), format!("oci:{}:1", store.path("copy").display()));
    readers::skopeo(["copy", "--quiet", "--all", "--preserve-digests", "--src-tls-verify=false", &from, &to]);
    let facts = &json(&store.rbuild(["inspect", "local:1"]).ok())[0];
    assert!(facts["RepoDigests"].to_string().contains(&registry.name("app")), "{facts}");

    // Joined image by image to what another name means.
    let joined = registry.name("app:joined");
    put(&source, "more", "1", "linux/s390x", "c");
    store.rbuild(["imagetools", "create", "-t", &joined, &format!("{host}/more:1")]).ok();
    store.rbuild(["push", "--join", "local:1", &joined]).ok();
    let read: Value = serde_json::from_str(&readers::manifest(&format!("docker://{joined}"))).expect("JSON");
    assert_eq!(entries(&read).len(), 3);
    assert_eq!(entries(&read)[..2], [format!("linux/amd64={amd}"), format!("linux/arm64={arm}")]);

    // Of what is not whole here, what is here goes out, and that is said.
    let second = Store::new();
    second.rbuild(["pull", "--platform", "linux/arm64", &name]).ok();
    let alone = registry.name("app:alone");
    let pushed = second.rbuild(["push", &name, &alone]).ok().says(&["of the 2 entries of the index", "1 are here"]);
    assert!(pushed.stdout.starts_with(&format!("{alone}: digest: {arm} size: ")), "{pushed}");
    // A name of one image, for whatever machine.
    let single = second.rbuild(["pull", "-q", "--all-platforms", &part("arm")]).ok();
    assert_eq!(single.stdout.trim(), format!("{}@{arm}", part("arm")));
    assert_eq!(
        json(&second.rbuild(["rmi", "--format", "json", &name, &part("arm")]).ok()).as_array().map(Vec::len),
        Some(3)
    );
}
