//! Debian's `buildah` as the other builder: storage, policy and lists of registries of its own below a temporary
//! directory, RUN in a chroot, everything that it mounts in a mount namespace that goes away with the process.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::compare::{Facts, facts};
use super::{Outcome, temp_dir};

/// An installation with storage of its own.
pub struct Buildah {
    dir: TempDir,
}

impl Buildah {
    /// Holds the images `names` of the docker archive `images`.
    pub fn new(images: &Path, names: &[String]) -> Self {
        let buildah = Self { dir: temp_dir() };
        let write = |name: &str, text: &str| std::fs::write(buildah.path(name), text).expect("the directory is new");
        write("policy.json", r#"{"default":[{"type":"insecureAcceptAnything"}]}"#);
        // No registry is ever asked: names are those of the images loaded here.
        write("registries.conf", "unqualified-search-registries = []\nshort-name-mode = \"enforcing\"\n");
        write("containers.conf", "");
        let storage = buildah.path("storage");
        write(
            "storage.conf",
            &format!("[storage]\ndriver = \"vfs\"\ngraphroot = {storage:?}\nrunroot = {:?}\n", buildah.path("run")),
        );
        for name in names {
            let mut command = buildah.command(["pull", "--policy=never", "--quiet"]);
            command.arg("--signature-policy").arg(buildah.path("policy.json"));
            command.arg(format!("docker-archive:{}:{name}", images.display()));
            Outcome::of(&mut command).ok();
        }
        buildah
    }

    /// The root file system of an image (`oci-archive:FILE`, …), unpacked by buildah's own storage.
    #[track_caller]
    pub fn unpack(&self, image: &str) -> PathBuf {
        let mut command = self.command(["from", "--quiet", "--signature-policy"]);
        let from = Outcome::of(command.arg(self.path("policy.json")).arg(image)).ok();
        let container = from.stdout.trim();
        // With storage that copies, nothing is mounted: it is a directory.
        let mounted = Outcome::of(&mut self.command(["mount", container])).ok();
        PathBuf::from(mounted.stdout.trim())
    }

    /// Builds `context` with `options` and gives the facts of the image, or why it does not.
    pub fn build(&self, context: &Path, options: &[String]) -> Result<Facts, Outcome> {
        let file = self.path("image.tar");
        let mut command = self.command(["build", "--isolation=chroot", "--pull=never", "--format=docker", "--quiet"]);
        // One layer for the whole build: only the outcome is compared. No label that says who built it.
        command.args(["--layers=false", "--identity-label=false", "--signature-policy"]).arg(self.path("policy.json"));
        command.args(options).arg("--tag").arg(format!("docker-archive:{}", file.display())).arg(context);
        let outcome = Outcome::of(&mut command);
        if outcome.code != Some(0) {
            return Err(outcome);
        }
        let facts = read(&file);
        std::fs::remove_file(&file).expect("it was just read");
        Ok(facts)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn command<I: IntoIterator<Item = A>, A: AsRef<OsStr>>(&self, args: I) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation=private", "buildah"]).args(args);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", self.dir.path());
        command.env("TMPDIR", self.dir.path()).current_dir(self.dir.path());
        // It is short and small: one thread and no collection of garbage take three quarters of the time.
        command.env("GOMAXPROCS", "1").env("GOGC", "off");
        for (name, file) in [
            ("CONTAINERS_CONF", "containers.conf"),
            ("CONTAINERS_REGISTRIES_CONF", "registries.conf"),
            ("CONTAINERS_STORAGE_CONF", "storage.conf"),
        ] {
            command.env(name, self.path(file));
        }
        command
    }
}

impl Drop for Buildah {
    fn drop(&mut self) {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
        let dir = self.dir.path().to_str().expect("the path is ASCII");
        let left: Vec<&str> = mounts.lines().filter(|line| line.contains(dir)).collect();
        assert!(std::thread::panicking() || left.is_empty(), "buildah left mounts: {left:?}");
    }
}

/// The facts of the one image in a docker archive.
#[track_caller]
fn read(file: &Path) -> Facts {
    let mut files = BTreeMap::new();
    let mut tar = tar::Archive::new(std::fs::File::open(file).unwrap_or_else(|error| panic!("{file:?}: {error}")));
    for entry in tar.entries().expect("a tar") {
        let mut entry = entry.expect("an entry");
        let name = entry.path().expect("a name").to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("the entry is whole");
        files.insert(name, bytes);
    }
    let manifest: Value = serde_json::from_slice(&files["manifest.json"]).expect("manifest.json is JSON");
    let named = |value: &Value| &files[value.as_str().expect("manifest.json names files")];
    let config = serde_json::from_slice(named(&manifest[0]["Config"])).expect("the config is JSON");
    let layers = manifest[0]["Layers"].as_array().expect("an image has layers");
    facts(&config, &layers.iter().map(|layer| named(layer).clone()).collect::<Vec<_>>())
}
