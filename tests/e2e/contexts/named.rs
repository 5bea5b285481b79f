//! Named contexts: what stands for stages, images and trees.

use super::*;

#[test]
fn named_folder_stands_for_stage_image_and_copy_source() {
    let store = Store::new();
    let lib = Context::empty().file("l", "l").file("skip", "s").file(".dockerignore", "skip\n.dockerignore\n");
    let named = format!("={}", lib.path().display());
    let check = |dockerfile: &str, name: &str, expected: &[&str]| {
        let context = Context::new(dockerfile);
        let named = format!("{name}{named}");
        let path = context.path().to_str().expect("UTF-8");
        assert_eq!(files_of(&store, &["--build-context", &named, path], b""), expected, "{dockerfile}");
    };
    check("FROM scratch\nCOPY --from=lib . /x/\n", "lib", &["x/l"]);
    check("FROM scratch\nCOPY --from=lib . /x/\n", "LIB", &["x/l"]);
    check("FROM absent AS lib\nFROM scratch\nCOPY --from=lib l /x/\n", "lib", &["x/l"]);
    check("FROM scratch\nCOPY --from=absent.example/app:1 l /x/\n", "absent.example/app:1", &["x/l"]);
    let platform = oci_platform();
    check("FROM scratch\nCOPY --from=lib . /x/\n", &format!("lib::{platform}"), &["x/l"]);
    let context = Context::new("FROM scratch\nCOPY --from=lib skip /x/\n");
    store
        .build(&context, ["--build-context", &format!("lib{named}")])
        .fails_saying(&["`skip` is excluded from the context `lib`", ".dockerignore:1"]);
    let context = Context::new("FROM scratch\nCOPY --from=lib nope /x/\n");
    store
        .build(&context, ["--build-context", &format!("lib{named}")])
        .fails_saying(&["does not exist in the context `lib`"]);
}

fn oci_platform() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "linux/arm64",
        _ => "linux/amd64",
    }
}

#[test]
fn named_images_stand_for_stages_and_images() {
    let store = Store::with_busybox();
    let check = |dockerfile: &str, named: &str| {
        let built = store.build(&Context::new(dockerfile), ["--build-context", named]).ok();
        assert_eq!(built.lines_of_steps("ran"), 1, "{built}");
    };
    check("FROM absent.example/x:1\nRUN echo ran\n", "absent.example/x:1=docker-image://busybox");
    check("FROM scratch AS base\nFROM base\nRUN echo ran # 2\n", "base=docker-image://busybox");
    let context = Context::new("FROM absent.example/x\nCOPY a /\n").file("a", "a");
    store.build(&context, ["--build-context", "absent.example/x=docker-image://scratch"]).ok();
    store.build(&context, ["--build-context", "absent.example/x=target:y"]).fails_saying(&["bake file", "-t NAME"]);
    store.build(&context, ["--build-context", "context=."]).fails_saying(&["name of the main context"]);
}

#[test]
fn named_layouts_are_images() {
    let other = Store::with_busybox();
    let file = other.path("layout.tar");
    let dest = format!("type=oci,dest={}", file.display());
    other.build(&Context::new("FROM busybox\nRUN echo inside > /inside\n"), ["-t", "app:v1", "-o", &dest]).ok();
    let layout = other.path("layout");
    std::fs::create_dir(&layout).expect("it is new");
    tar::Archive::new(std::fs::File::open(&file).expect("it was written")).unpack(&layout).expect("an OCI archive");
    let store = Store::new();
    let path = layout.display();
    let context = Context::new("FROM base\nRUN echo ran $(cat /inside)\n");
    let built = store.build(&context, ["--build-context", &format!("base=oci-layout://{path}:v1")]).ok();
    assert_eq!(built.lines_of_steps("ran inside"), 1, "{built}");
    store.build(&context, ["--build-context", &format!("base=oci-layout://{path}")]).ok();
    let digest = Archive::read(&file).digest;
    store.build(&context, ["--build-context", &format!("base=oci-layout://{path}@{digest}")]).ok();
    store
        .build(&context, ["--build-context", &format!("base=oci-layout://{path}:v2")])
        .fails_saying(&["no image with the tag `v2`", "did you mean `v1`?"]);
    store.build(&context, ["--build-context", &format!("base=oci-layout://{path}/absent")]).fails_saying(&["absent"]);
    // A blob that is not what its name says.
    let blobs = layout.join("blobs/sha256");
    let largest = std::fs::read_dir(&blobs).expect("blobs").map(|entry| entry.expect("an entry").path());
    let largest: PathBuf = largest.max_by_key(|path| path.metadata().expect("a file").len()).expect("there are some");
    let mut bytes = std::fs::read(&largest).expect("readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&largest, bytes).expect("writable");
    let fresh = Store::new();
    fresh.build(&context, ["--build-context", &format!("base=oci-layout://{path}")]).fails_saying(&["sha256:"]);
}

#[test]
fn named_repositories_are_fetched_only_when_wanted() {
    let server = GitServer::start();
    server.commit("lib", "echo l > l");
    let store = Store::new();
    let named = format!("lib={}", server.url("lib"));
    let context = Context::new("FROM scratch AS a\nCOPY --from=lib l /\nFROM scratch AS b\nCOPY x /\n").file("x", "x");
    let built = store.build(&context, ["--build-context", &named, "--target", "a"]).ok();
    built.says(&["[context lib] load git source http://"]);
    let built = store.build(&context, ["--build-context", &named, "--target", "b"]).ok();
    built.never_says(&["[context lib]", "not used"]);
    let built = store.build(&context, ["--build-context", "lbi=https://host.invalid/x.git", "--target", "b"]).ok();
    built.says(&["the named context `lbi` is not used", "did you mean `lib`?"]);
}
