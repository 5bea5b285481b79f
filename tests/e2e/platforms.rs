//! Which image of an index is taken: of registries, OCI layouts and archives alike.

use serde_json::{Value, json};

use crate::support::hosted::Registry;
use crate::support::one_layer::{OneLayer, digest, layout, layout_directory};
use crate::support::raw_tar::RawTar;
use crate::support::{Archive, Context, Outcome, Store};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The images of an index by their platforms there (`os/architecture/variant@os.version`, or empty), and the index.
struct Many {
    images: Vec<OneLayer>,
    index: Vec<u8>,
}

impl Many {
    fn new(platforms: &[&str]) -> Self {
        let image = |(number, platform): (usize, &&str)| {
            let tar = RawTar::default().file(b"which", format!("{number}").as_bytes()).end();
            let architecture = platform.split(['/', '@']).nth(1).unwrap_or("amd64");
            OneLayer::new(tar.clone(), "", &digest(&tar), architecture)
        };
        let images: Vec<OneLayer> = platforms.iter().enumerate().map(image).collect();
        let entries = images.iter().zip(platforms).map(|(image, platform)| entry(image.descriptor(), platform));
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries.collect::<Vec<_>>() });
        Self { images, index: index.to_string().into_bytes() }
    }

    /// The same in an index of its own, which says nothing.
    fn nested(self) -> (Self, Vec<u8>) {
        let outer = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [described(&self.index)] });
        (Self { index: outer.to_string().into_bytes(), images: self.images }, self.index)
    }
}

fn described(index: &[u8]) -> Value {
    json!({ "mediaType": INDEX, "digest": digest(index), "size": index.len() })
}

fn entry(mut descriptor: Value, platform: &str) -> Value {
    if platform.is_empty() {
        return descriptor;
    }
    let (platform, version) = platform.split_once('@').unwrap_or((platform, ""));
    let mut parts = platform.split('/');
    let mut part = || parts.next().unwrap_or_default();
    descriptor["platform"] = json!({ "os": part(), "architecture": part() });
    let variant = part();
    for (key, value) in [("variant", variant), ("os.version", version)] {
        if !value.is_empty() {
            descriptor["platform"][key] = value.into();
        }
    }
    descriptor
}

/// The number of the image that `FROM name` takes.
fn taken(store: &Store, name: &str, wanted: &str, args: &[&str]) -> Result<String, Outcome> {
    let file = store.path("made.tar");
    let context = Context::new(&format!("FROM --platform={wanted} {name}\n"));
    let output = format!("type=oci,dest={}", file.display());
    let built = store.build(&context, [&["-o", &output], args].concat());
    if built.code != Some(0) {
        return Err(built);
    }
    let read = Archive::read(&file);
    let mut layer = tar::Archive::new(&read.layers[0][..]);
    let mut entry = layer.entries().expect("a tar").next().expect("one file").expect("an entry");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut entry, &mut text).expect("the entry is whole");
    Ok(text)
}

/// Every way; a loaded archive is for this machine.
fn check(many: &Many, inner: Option<&[u8]>, wanted: &str, expected: Result<usize, &[&str]>) {
    let compare = |way: &str, taken: Result<String, Outcome>| match (taken, expected) {
        (Ok(taken), Ok(expected)) => assert_eq!(taken, expected.to_string(), "{way}: {wanted}"),
        (Err(outcome), Err(words)) => drop(outcome.fails_saying(words)),
        (Ok(taken), Err(words)) => panic!("{way}: {taken} was taken for {wanted}, but {words:?} should be said"),
        (Err(outcome), Ok(_)) => panic!("{way}: {wanted}: {outcome}"),
    };
    let store = Store::new();
    let registry = Registry::start(digest);
    many.images.iter().for_each(|image| image.put(&registry, "app"));
    if let Some(index) = inner {
        registry.put_manifest("app", &digest(index), INDEX, index);
    }
    registry.put_manifest("app", "1", INDEX, &many.index);
    compare("registry", taken(&store, &format!("{}/app:1", registry.host()), wanted, &[]));

    // A layout's own index leads to it.
    let mut top = described(&many.index);
    top["annotations"] = json!({ "io.containerd.image.name": "loaded:1" });
    let images: Vec<&OneLayer> = many.images.iter().collect();
    let dir = store.path("layout");
    layout_directory(&dir, &[top.clone()], &images);
    let indexes = || [Some(&many.index[..]), inner].into_iter().flatten();
    for index in indexes() {
        std::fs::write(dir.join("blobs/sha256").join(&digest(index)["sha256:".len()..]), index).expect("it is ours");
    }
    let named = format!("--build-context=base=oci-layout://{}", dir.display());
    compare("layout", taken(&Store::new(), "base", wanted, &[&named]));

    if wanted == "linux/amd64" {
        let mut tar = layout(&[top], &images);
        tar.truncate(tar.len() - 1024);
        let mut tar = RawTar(tar);
        for index in indexes() {
            tar.file(format!("blobs/sha256/{}", &digest(index)["sha256:".len()..]).as_bytes(), index);
        }
        let file = store.path("layout.tar");
        std::fs::write(&file, tar.end()).expect("the directory is ours");
        let other = Store::new();
        let loaded = other.rbuild(["load", "-i", &file.display().to_string()]);
        let loaded = if loaded.code == Some(0) { taken(&other, "loaded:1", wanted, &[]) } else { Err(loaded) };
        compare("load", loaded);
    }
}

#[test]
fn the_image_for_the_platform_is_taken_by_every_way() {
    let arm = ["linux/arm/v5", "linux/arm/v6", "linux/arm/v7", "linux/arm64/v8", "linux/arm64/v9", "unknown/unknown"];
    let levels = ["linux/amd64/v3", "linux/amd64/v2", "linux/amd64", "unknown/unknown"];
    let windows = ["windows/amd64@10.0.20348.1", "linux/amd64", "windows/amd64@10.0.17763.1"];
    /// What an index has, what is wanted, and which of it is taken.
    type Row<'a> = (&'a [&'a str], &'a str, Result<usize, &'a [&'a str]>);
    let rows: [Row<'_>; 12] = [
        (&arm, "linux/arm/v6", Ok(1)),
        (&arm, "linux/arm64", Ok(3)),
        (&arm, "linux/arm64/v9", Ok(4)),
        (&levels, "linux/amd64", Ok(2)),
        (&levels, "linux/amd64/v2", Ok(1)),
        (&windows, "linux/amd64", Ok(1)),
        (&[""], "linux/amd64", Ok(0)),
        (&["unknown/unknown", "", ""], "linux/amd64", Ok(1)),
        // What is there is told; attestations are no images.
        (&arm, "linux/amd64", Err(&["linux/arm/v5", "linux/arm64", "linux/amd64"])),
        (&["linux/amd64/v2", "linux/s390x"], "linux/amd64", Err(&["linux/amd64/v2", "linux/s390x"])),
        (&["windows/amd64@10.0.20348.1"], "linux/amd64", Err(&["windows/amd64"])),
        (&["unknown/unknown"], "linux/amd64", Err(&["linux/amd64"])),
    ];
    for (platforms, wanted, expected) in rows {
        check(&Many::new(platforms), None, wanted, expected);
    }
    for (wanted, expected) in [("linux/amd64", Ok(2)), ("linux/amd64/v2", Ok(1))] {
        let (outer, inner) = Many::new(&levels).nested();
        check(&outer, Some(&inner), wanted, expected);
    }
}
