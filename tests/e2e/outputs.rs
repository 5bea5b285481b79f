//! Results in files: image id, metadata, archives, trees.

mod ahead;
mod forms;
mod killed;
mod pushes;
mod told;
mod trees;

use serde_json::Value;

use crate::support::{Archive, Context, Store, readers, tree};

const APP: &str = "FROM busybox\nRUN mkdir -p /data/in && echo made > /data/in/file && chown 5:6 /data/in/file && ln /data/in/file /data/hard\n";

#[test]
fn quiet_prints_the_id_that_iidfile_holds() {
    let (store, context) = (Store::with_busybox(), Context::new(APP));
    let id = store.image_id(&context, ["-t", "app:1"]);
    assert!(id.starts_with("sha256:") && id.len() == 71, "`{id}`");
    for flag in [&["-q"][..], &["--progress=quiet"]] {
        let mut words = vec!["build"];
        words.extend(flag);
        words.extend(["-t", "app:1", context.path().to_str().expect("the path is ASCII")]);
        let built = store.rbuild(words).ok();
        assert_eq!(built.stdout, format!("{id}\n"));
        assert_eq!(built.stderr, "", "quiet is quiet");
    }
    let built = store.build(&context, ["-t", "app:1"]).ok();
    assert_eq!(built.stdout, "", "progress goes to standard error");
}

#[test]
fn metadata_file_has_the_keys_that_programs_read() {
    let (store, context) = (Store::with_busybox(), Context::new(APP));
    let (metadata, file) = (store.path("metadata.json"), store.path("app.tar"));
    let output = format!("type=oci,dest={}", file.display());
    let id =
        store.image_id(&context, ["-t", "app:1", "-o", &output, "--metadata-file", &metadata.display().to_string()]);
    let said: Value = serde_json::from_slice(&std::fs::read(metadata).expect("it was asked for")).expect("it is JSON");
    let archive = Archive::read(&file);
    assert_eq!(said["containerimage.config.digest"], id.as_str());
    assert_eq!(archive.id(), id);
    assert_eq!(said["containerimage.digest"], archive.digest.as_str());
    assert_eq!(said["containerimage.descriptor"]["digest"], archive.digest.as_str());
    assert_eq!(said["image.name"], "docker.io/library/app:1");
}

#[test]
fn all_outputs_hold_the_same_image() {
    let (store, context) = (Store::with_busybox(), Context::new(APP));
    let dest = |kind: &str| (format!("type={kind},dest={}", store.path(kind).display()), store.path(kind));
    let ((oci, oci_file), (docker, docker_file)) = (dest("oci"), dest("docker"));
    let ((local, local_dir), (tar, tar_file)) = (dest("local"), dest("tar"));
    store.build(&context, ["-t", "app:1", "-o", &oci, "-o", &docker, "-o", &local, "-o", &tar]).ok();

    let unpacked = store.path("untarred");
    readers::untar(&tar_file, &unpacked);
    let expected = tree::list(&unpacked);
    assert!(expected.contains("data/in/file - 0644 5:6 "), "{expected}");
    assert!(expected.contains(" = data/hard"), "{expected}");
    // A folder is for whoever asked for it: everything in it is his.
    assert_eq!(tree::list(&local_dir), expected.replace(" 5:6 ", " 0:0 "), "type=local");
    for (kind, file) in [("oci", &oci_file), ("docker", &docker_file)] {
        let dir = store.path(&format!("unpacked-{kind}"));
        std::fs::create_dir(&dir).expect("it is new");
        let bundle = readers::unpack(&format!("{kind}-archive:{}", file.display()), &dir);
        assert_eq!(tree::list(&bundle.join("rootfs")), expected, "type={kind}");
    }
    let docker = readers::inspect_config(&format!("docker-archive:{}", docker_file.display()));
    assert_eq!(docker["rootfs"], Archive::read(&oci_file).config["rootfs"]);
}

#[test]
fn tar_goes_to_standard_output_and_nothing_else_does() {
    let (store, context) = (Store::with_busybox(), Context::new("FROM scratch\nCOPY a /a\n").file("a", "a"));
    let output = store.build_command(&context, ["-o", "type=tar,dest=-"]).output().expect("the binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut tar = tar::Archive::new(&output.stdout[..]);
    let names: Vec<_> = tar
        .entries()
        .expect("a tar")
        .map(|entry| entry.expect("an entry").path().expect("a name").to_string_lossy().into_owned())
        .collect();
    assert_eq!(names, ["a"]);
}

#[test]
fn failed_build_writes_no_output() {
    let store = Store::with_busybox();
    let context = Context::new("FROM busybox\nRUN false\n");
    let (file, iid) = (store.path("app.tar"), store.path("iid"));
    let output = format!("type=oci,dest={}", file.display());
    store
        .build(&context, ["-t", "x:1", "-o", &output, "--iidfile", &iid.display().to_string()])
        .fails_saying(&["Dockerfile:2"]);
    assert!(!file.exists() && !iid.exists());
}

#[test]
fn archive_of_a_cached_build_is_the_same_byte_for_byte() {
    let (store, context) = (Store::with_busybox(), Context::new(APP));
    let write = |name: &str| {
        let file = store.path(name);
        store.build(&context, ["-t", "app:1", "-o", &format!("type=oci,dest={}", file.display())]).ok();
        std::fs::read(file).expect("it was asked for")
    };
    assert!(write("one") == write("two"), "the archives differ");
}
