//! The same Dockerfiles built by Debian's `buildah` and by rbuild: equal trees, equal configs.
//!
//! A case is a folder `testdata/builds/GROUP-…`: `Dockerfile`; `context/`, which the Dockerfile joins; `prepare`, a
//! shell script run in a copy of the context, for what no repository keeps (modes, owners, links, archives); `options`
//! for both builders, one a line; `exceptions`, where rbuild must differ, and why (`support::compare`). Each group is
//! a test that names all its cases that fail. What buildah makes of a case is kept beside the bases, under a digest of all
//! that decides it; remove `target/tmp/oracle` to ask it anew.

use std::cell::LazyCell;
use std::ops::Deref;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::support::buildah::Buildah;
use crate::support::compare::{BASE_HISTORY, Exceptions, Facts, facts};
use crate::support::{Archive, Context, Outcome, Store, archive, bases, room};

const CASES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/builds");

macro_rules! groups {
    ($($group:ident)*) => {
        $(#[test]
        fn $group() {
            check(stringify!($group));
        })*

        #[test]
        fn every_case_belongs_to_a_group() {
            let groups = [$(stringify!($group)),*];
            for name in cases() {
                let group = name.split('-').next().expect("a name has a beginning");
                assert!(groups.contains(&group), "no group builds `{name}`");
            }
        }
    };
}

groups!(add base config copy from heredoc ignore onbuild run stages text user vars workdir);

/// Builds every case of the group twice and compares.
fn check(group: &str) {
    let store = Store::new();
    let (images, mut names) = images(&store);
    store.rbuild(["load".as_ref(), "-i".as_ref(), images.as_os_str()]).ok();
    let of_group: Vec<String> = cases().into_iter().filter(|name| name.split('-').next() == Some(group)).collect();
    assert!(!of_group.is_empty(), "no case in the group {group}");
    // Buildah takes its time for each image: it gets those that the group's Dockerfiles may name.
    let read = |name: &String| std::fs::read(Path::new(CASES).join(name).join("Dockerfile")).expect("it is there");
    let texts: Vec<String> = of_group.iter().map(|name| String::from_utf8_lossy(&read(name)).into_owned()).collect();
    let short = |name: &str| name["docker.io/library/".len()..].trim_end_matches(":latest").to_owned();
    names.retain(|name| texts.iter().any(|text| text.contains(&short(name))));
    let buildah = LazyCell::new(|| Buildah::new(&images, &names));

    let failed: Vec<String> = of_group.iter().filter_map(|name| compare(name, &store, &buildah).err()).collect();
    assert!(failed.is_empty(), "{} of {} cases fail\n\n{}", failed.len(), of_group.len(), failed.join("\n\n"));
}

/// Builds one case twice and compares; what is wrong, if anything is.
fn compare(name: &str, store: &Store, buildah: &impl Deref<Target = Buildah>) -> Result<(), String> {
    let case = Path::new(CASES).join(name);
    let text = |file: &str| match std::fs::read_to_string(case.join(file)) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => panic!("{name}/{file}: {error}"),
    };
    let context = context(&case);
    let options: Vec<String> = text("options").lines().map(String::from).collect();
    let exceptions = Exceptions::parse(&text("exceptions"));

    let ours = built(store, &context, &options).map_err(|outcome| format!("--- {name}: rbuild fails\n{outcome}"))?;
    let known = room().join("oracle").join(format!("{}.json", state(&case, context.path())));
    let theirs = match std::fs::read(&known) {
        Ok(bytes) => serde_json::from_slice(&bytes).expect("it was written whole"),
        Err(_) => {
            let theirs = match (buildah.build(context.path(), &options), &exceptions.refused) {
                (Ok(theirs), _) => Some(theirs),
                (Err(outcome), Some(words)) if outcome.stderr.contains(words) => None,
                (Err(outcome), _) => return Err(format!("--- {name}: buildah fails\n{outcome}")),
            };
            keep(&known, &theirs);
            theirs
        }
    };
    let theirs = match (theirs, &exceptions.refused) {
        (Some(theirs), None) => theirs,
        (Some(_), Some(_)) => return Err(format!("--- {name}: buildah does not refuse")),
        (None, _) => base_of(&ours, store),
    };
    let differences = exceptions.differences(&ours, &theirs);
    if differences.is_empty() { Ok(()) } else { Err(format!("--- {name}\n{}", differences.join("\n"))) }
}

/// A digest of all that decides what buildah makes of a case: the case, and what its context became.
fn state(case: &Path, context: &Path) -> String {
    static OF_ALL: OnceLock<Vec<u8>> = OnceLock::new();
    let of_all = OF_ALL.get_or_init(|| {
        let version = Outcome::of(Command::new("buildah").arg("--version")).ok().stdout;
        let bases = [bases::oracle(), Path::new(CASES).join("bases.json")];
        let bytes = bases.map(|path| archive::hex(&std::fs::read(path).expect("it was made"))).concat();
        [version, bytes].concat().into_bytes()
    });
    let mut bytes = of_all.clone();
    let mut folders = vec![(case, case.to_owned()), (context, context.to_owned())];
    while let Some((top, folder)) = folders.pop() {
        let entries = std::fs::read_dir(&folder).expect("the case can be read");
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("the case can be read").path()).collect();
        paths.sort();
        for path in paths {
            let meta = path.symlink_metadata().expect("it was just listed");
            let content = match (meta.is_symlink(), meta.is_dir()) {
                (true, _) => std::fs::read_link(&path).expect("it is a link").into_os_string().into_encoded_bytes(),
                (_, true) => Vec::new(),
                _ if meta.is_file() => std::fs::read(&path).expect("the case can be read"),
                _ => Vec::new(),
            };
            let name = path.strip_prefix(top).expect("it is beneath");
            bytes.extend(format!("\n{name:?} {:o} {}\n", meta.mode(), content.len()).into_bytes());
            bytes.extend(content);
            folders.extend(meta.is_dir().then_some((top, path)));
        }
    }
    archive::hex(&bytes)
}

/// Keeps what buildah made, or that it refused; whole or not at all.
fn keep(known: &Path, theirs: &Option<Facts>) {
    let beside = crate::support::temp_dir();
    let own = beside.path().join("facts.json");
    std::fs::write(&own, serde_json::to_vec(theirs).expect("a map of texts becomes JSON")).expect("it is new");
    std::fs::create_dir_all(known.parent().expect("it is in a directory")).expect("the room can be written to");
    std::fs::rename(&own, known).expect("both are in the room");
}

/// What rbuild makes of it, every digest derived anew.
fn built(store: &Store, context: &Context, options: &[String]) -> Result<Facts, Outcome> {
    let file = store.path("image.tar");
    let output = format!("type=oci,dest={}", file.display());
    let words = ["--network=none", "-o", &output].into_iter().chain(options.iter().map(String::as_str));
    let outcome = store.build(context, words);
    if outcome.code != Some(0) {
        return Err(outcome);
    }
    let archive = Archive::read(&file);
    for entry in archive.config["history"].as_array().expect("checked when it was read") {
        let told = entry["created_by"].as_str().expect("an entry says what created it");
        let makes_layers =
            ["ADD ", "COPY ", "RUN ", "WORKDIR ", BASE_HISTORY].iter().any(|word| told.starts_with(word));
        assert!(makes_layers || entry["empty_layer"] == true, "{told} has a layer");
    }
    Ok(facts(&archive.config, &archive.layers))
}

/// The image that `ours` stands on: with a shell the common base, else nothing.
fn base_of(ours: &Facts, store: &Store) -> Facts {
    if !ours.contains_key("/bin/busybox") {
        return Facts::from([("/".into(), "d 0755 0:0".into())]);
    }
    let from = Context::new("FROM base\n");
    built(store, &from, &[]).expect("a Dockerfile of one line builds")
}

/// A copy of the case's context with its Dockerfile, whatever permissions the checkout has, prepared.
fn context(case: &Path) -> Context {
    let dockerfile = std::fs::read(case.join("Dockerfile")).unwrap_or_else(|error| panic!("{case:?}: {error}"));
    let context = Context::empty().file("Dockerfile", dockerfile);
    if case.join("context").exists() {
        copy_tree(&case.join("context"), context.path());
    }
    if case.join("prepare").exists() {
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail"]).arg(case.join("prepare")).current_dir(context.path());
        // The same archives every time.
        command.env("TAR_OPTIONS", "--mtime=@1000000000");
        Outcome::of(&mut command).ok();
    }
    context
}

fn copy_tree(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap_or_else(|error| panic!("{from:?}: {error}")) {
        let from = entry.expect("the case can be read").path();
        let to = to.join(from.file_name().expect("an entry has a name"));
        let meta = from.symlink_metadata().expect("it was just listed");
        if meta.is_symlink() {
            symlink(std::fs::read_link(&from).expect("it is a link"), &to).expect("the context is ours");
        } else if meta.is_dir() {
            std::fs::create_dir(&to).expect("the context is ours");
            set_mode(&to, 0o755);
            copy_tree(&from, &to);
        } else {
            std::fs::copy(&from, &to).expect("the context is ours");
            set_mode(&to, if meta.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 });
        }
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("the context is ours");
}

/// Names of all cases, sorted.
fn cases() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(CASES)
        .expect("the cases are in the repository")
        .map(|entry| entry.expect("they can be read"))
        .filter(|entry| entry.file_type().expect("they can be read").is_dir())
        .map(|entry| entry.file_name().into_string().expect("their names are ASCII"))
        .collect();
    names.sort();
    names
}

/// A docker archive with the images that `bases.json` describes, all of the same one layer; and their names.
fn images(store: &Store) -> (PathBuf, Vec<String>) {
    let layer = std::fs::read(bases::oracle()).expect("it was just made");
    let configs = std::fs::read(Path::new(CASES).join("bases.json")).expect("it is in the repository");
    let configs: serde_json::Map<String, Value> = serde_json::from_slice(&configs).expect("it is a JSON object");
    let diff_id = format!("sha256:{}", crate::support::archive::hex(&layer));

    let file = store.path("images.tar");
    let mut tar = tar::Builder::new(std::fs::File::create(&file).expect("the directory is new"));
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, bytes).expect("the file can be written");
    };
    add("layer.tar", &layer);
    let (mut manifest, mut names) = (Vec::new(), Vec::new());
    for (name, config) in configs {
        let created = "2020-01-01T00:00:00Z";
        let image = json!({
            "created": created, "architecture": architecture(), "os": "linux", "config": config,
            "rootfs": { "type": "layers", "diff_ids": [diff_id] },
            "history": [{ "created": created, "created_by": BASE_HISTORY }],
        });
        let file = format!("{name}.json");
        add(&file, image.to_string().as_bytes());
        let tag = format!("docker.io/library/{name}:latest");
        manifest.push(json!({ "Config": file, "RepoTags": [tag], "Layers": ["layer.tar"] }));
        names.push(tag);
    }
    add("manifest.json", Value::from(manifest).to_string().as_bytes());
    tar.finish().expect("the file can be written");
    (file, names)
}

/// The name that images give this machine's architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
