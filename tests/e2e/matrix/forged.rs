//! What an image says of how it was made is no reason to believe it.

use std::path::Path;

use serde_json::Value;

use super::*;
use crate::support::archive::hex;

/// Changes the config of the one image in an unpacked OCI layout, and whatever names it.
fn change_config(layout: &Path, change: impl Fn(&mut Value)) {
    let blob = |digest: &Value| {
        let hex = digest.as_str().expect("a digest").strip_prefix("sha256:").expect("of SHA-256").to_owned();
        layout.join("blobs/sha256").join(hex)
    };
    let read = |path: &Path| -> Value {
        serde_json::from_slice(&std::fs::read(path).expect("it is there")).expect("it is JSON")
    };
    let put = |value: &Value| {
        let bytes = serde_json::to_vec(value).expect("JSON becomes bytes");
        let digest = format!("sha256:{}", hex(&bytes));
        std::fs::write(blob(&digest.clone().into()), &bytes).expect("the layout can be written");
        (Value::from(digest), Value::from(bytes.len()))
    };
    let index_path = layout.join("index.json");
    let mut index = read(&index_path);
    let mut manifest = read(&blob(&index["manifests"][0]["digest"]));
    let mut config = read(&blob(&manifest["config"]["digest"]));
    change(&mut config);
    (manifest["config"]["digest"], manifest["config"]["size"]) = put(&config);
    (index["manifests"][0]["digest"], index["manifests"][0]["size"]) = put(&manifest);
    std::fs::write(index_path, index.to_string()).expect("the layout can be written");
}

#[test]
fn a_forged_history_never_causes_a_hit() {
    let store = Store::with_busybox();
    let save = |context: &Context, name: &str| {
        let file = store.path(name);
        let output = format!("type=oci,dest={}", file.display());
        store.build(context, ["-t", "made", "-o", &output]).ok();
        file
    };
    // What a build of the good Dockerfile says of itself, without the good store.
    let good = "FROM busybox\nRUN echo good >/f\nCOPY a /a\n";
    let genuine = {
        let elsewhere = Store::with_busybox();
        let file = elsewhere.path("good.tar");
        let output = format!("type=oci,dest={}", file.display());
        elsewhere.build(&Context::new(good).file("a", "good"), ["-o", &output]).ok();
        crate::support::Archive::read(&file).config["history"].clone()
    };
    // An image with the same number of layers on the same base says that it was made so.
    let evil = save(&Context::new("FROM busybox\nRUN echo evil >/f\nCOPY a /a\n").file("a", "evil"), "evil.tar");
    let layout = store.path("layout");
    crate::support::readers::untar(&evil, &layout);
    change_config(&layout, |config| config["history"] = genuine.clone());
    let forged = store.path("forged.tar");
    let pack =
        Command::new("tar").args(["--create", "--file"]).arg(&forged).arg("--directory").arg(&layout).arg(".").status();
    assert!(pack.expect("tar runs").success());
    let victim = Store::with_busybox();
    victim.rbuild(["load".as_ref(), "-i".as_ref(), forged.as_os_str()]).ok();
    let context = Context::new(good).file("a", "good");
    let built = victim.build(&context, ["-t", "made"]).ok();
    assert_eq!(steps_done(&built).len(), 2, "{built}");
    let file = victim.path("app.tar");
    let output = format!("type=oci,dest={}", file.display());
    victim.build(&context, ["-t", "made", "-o", &output]).ok();
    let archive = crate::support::Archive::read(&file);
    let texts: Vec<String> = archive.layers.iter().map(|layer| String::from_utf8_lossy(layer).into_owned()).collect();
    assert!(texts.iter().any(|text| text.contains("good\n")) && !texts.iter().any(|text| text.contains("evil\n")));
}
