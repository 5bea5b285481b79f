//! Images for several platforms: whole into engines that keep an index, refused by those that do not.

use std::path::Path;

use super::programs::Programs;
use super::*;

const TWO: &str = "--platform=linux/amd64,linux/arm64";

/// Needs no step of any machine.
fn copies() -> Context {
    let context = Context::new("FROM scratch\nARG TARGETARCH\nCOPY $TARGETARCH /file\nCOPY common /\n");
    ["amd64", "arm64", "riscv64", "common"].into_iter().fold(context, |context, name| context.file(name, name))
}

/// The digest of what all entries of an archive, one per name, point to.
fn digest(file: &Path) -> String {
    let index: Value = serde_json::from_slice(&Archive::files(file)[Path::new("index.json")]).expect("JSON");
    let entries = index["manifests"].as_array().expect("an index");
    let digest = &entries[0]["digest"];
    assert!(entries.iter().all(|entry| entry["digest"] == *digest), "{index}");
    digest.as_str().expect("a digest").to_owned()
}

#[test]
fn docker_that_keeps_blobs_gets_the_index_with_all_its_images() {
    let (store, context) = (Store::new(), copies());
    let docker = Docker::fake(&store);
    docker.own().set(Fault::KeepsBlobs);
    let archive = store.path("app.tar");
    let dest = format!("type=oci,dest={}", archive.display());
    let built = docker.build(&store, &context, &[TWO, "-t", "app:1", "-t", "app:2", "--load", "-o", &dest]).ok();
    assert!(built.stderr.contains("loaded app:1, app:2 into docker (") && built.stderr.contains("sent 3 of 3 layers"));
    let index = digest(&archive);
    for name in ["app:1", "app:2"] {
        assert_eq!(docker.own().id(name).as_deref(), Some(&*index), "{name}");
    }
    let blobs = docker.own().loads()[0].files.iter().filter(|file| file.starts_with("blobs/")).count();
    assert_eq!(blobs, 1 + 2 * 2 + 3, "the index, manifests and configs, layers");
    // One of them alone, and none of this machine's.
    docker.build(&store, &context, &["--platform", "linux/arm64", "-t", "app:2", "--load"]).ok();
    assert_ne!(docker.own().id("app:2"), docker.own().id("app:1"));
    docker.build(&store, &context, &["--platform=linux/riscv64,linux/arm64", "-t", "app:3", "--load"]).ok();
    assert!(docker.own().id("app:3").is_some());
}

#[test]
fn containerd_gets_the_layers_of_an_index_that_it_lacks() {
    let (store, context) = (Store::new(), copies());
    let programs = Programs::open(&store);
    let one = name("several:1");
    let metadata = store.path("metadata.json");
    let load = |platforms: &str, words: &str| {
        let args = [platforms, "-t", &one, "--metadata-file", metadata.to_str().expect("ASCII"), "--load=containerd"];
        programs.build(&store, &context, &args).ok().says(&[words]);
        let said: Value = serde_json::from_slice(&std::fs::read(&metadata).expect("it was asked for")).expect("JSON");
        let digest = said["containerimage.digest"].as_str().expect("a digest").to_owned();
        let listed = programs.ctr(&["images", "list", &format!("name==\"docker.io/library/{one}\"")]);
        assert!(listed.contains(&digest), "{listed}");
        (digest, programs.ctr(&["content", "list", "--quiet"]))
    };
    load(TWO, " of 3 layers, ");
    load(TWO, "it had all layers");
    context.write("arm64", "changed");
    load(TWO, "sent 1 of 3 layers");
    // The same images in another order are another index; of machines that this one is not, too.
    let (index, contents) = load("--platform=linux/riscv64,linux/arm64", "sent 1 of 3 layers");
    let archive = store.path("app.tar");
    let dest = format!("type=oci,dest={}", archive.display());
    store.build(&context, ["--platform=linux/riscv64,linux/arm64", "-o", &dest]).ok();
    assert_eq!(digest(&archive), index);
    for blob in Archive::files(&archive).keys().filter_map(|path| path.strip_prefix("blobs/sha256").ok()) {
        assert!(contents.contains(blob.to_str().expect("ASCII")), "{}: {contents}", blob.display());
    }
    assert!(!programs.ctr(&["images", "list", "name~=loading"]).contains("rbuild-loading"));
}

#[test]
fn engines_that_keep_no_index_are_told_so_before_anything_is_built() {
    let (store, context) = (Store::new(), copies());
    let docker = Docker::fake(&store);
    let check = |outcome: Outcome, expected: &[&str]| {
        let said = ["cannot take images for several platforms: it keeps no index", "-o type=oci,dest=app.tar"];
        outcome.fails_saying(&said).says(expected).never_says(&["COPY"]);
    };
    let classic = docker.build(&store, &context, &[TWO, "--load"]);
    check(classic, &["docker (unix://", "\"containerd-snapshotter\": true"]);
    let programs = Programs::open(&store);
    check(programs.build(&store, &context, &[TWO, "-t", "a", "--load=podman"]), &["podman ("]);
    docker.build(&store, &context, &[TWO, "-o", "type=docker,dest=x.tar"]).fails_saying(&[
        "`type=docker` with `dest` cannot take images for several platforms: its form has no index",
        "type=oci",
    ]);
    assert_eq!(docker.own().images(), 0);
}

#[test]
fn saved_index_goes_whole_or_as_the_image_that_is_asked_for() {
    let (store, context) = (Store::new(), copies());
    let docker = Docker::fake(&store);
    store.build(&context, [TWO, "-t", "app:1"]).ok();
    let save = |args: &[&str]| Outcome::of(&mut docker.command(&store, &[&["save"], args, &["app:1"]].concat()));
    let id_of = |platform: &str| store.image_id(&context, ["--platform", platform]);
    let notice = "`app:1` means images for several platforms, and docker keeps no index: only that for linux/amd64";

    let saved = save(&["--to", "docker"]).ok().says(&[notice]);
    assert!(saved.stdout.starts_with("loaded app:1 into docker (unix://"), "{saved}");
    assert_eq!(docker.own().id("app:1"), Some(id_of("linux/amd64")));
    save(&["--to", "docker", "--platform", "linux/arm64"]).ok().never_says(&["several platforms"]);
    assert_eq!(docker.own().id("app:1"), Some(id_of("linux/arm64")));
    save(&["--to", "docker", "--platform", "linux/s390x"])
        .fails_saying(&["`app:1` is not here for `linux/s390x`", "it is here for `linux/amd64`, `linux/arm64`"]);

    docker.own().set(Fault::KeepsBlobs);
    let (whole, one) = (store.path("whole.tar"), store.path("one.tar"));
    let path = |file: &Path| file.to_str().expect("ASCII").to_owned();
    save(&["-o", &path(&whole)]).ok();
    save(&["--to", "docker"]).ok().never_says(&["several platforms"]);
    assert_eq!(docker.own().id("app:1"), Some(digest(&whole)));
    save(&["-o", &path(&one), "--platform", "linux/arm64"]).ok();
    assert_eq!(Archive::read(&one).id(), id_of("linux/arm64"));
    save(&["--to", "docker", "--platform", "linux/arm64"]).ok();
    assert_eq!(docker.own().id("app:1"), Some(Archive::read(&one).digest));
    let old = save(&["--format", "docker", "-o", &path(&one)]).ok();
    old.says(&["`app:1` means images for several platforms, and this kind of archive holds no index"]);
    assert_eq!(Archive::read(&one).id(), id_of("linux/amd64"));
}
