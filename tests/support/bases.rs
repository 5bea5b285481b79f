//! Base images as tars of root file systems, made once by the scripts in `testdata/bases` and kept.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A shell and little else, about 2 MiB.
pub fn busybox() -> PathBuf {
    made("busybox")
}

/// The same for another architecture: Debian's name of it, and QEMU's.
pub fn busybox_of(arch: &str, qemu: &str) -> PathBuf {
    made_by("busybox", &format!("busybox-{arch}"), &[arch, qemu])
}

/// The same with users, links, set-id files and more to build upon: for builds that two builders make.
pub fn oracle() -> PathBuf {
    made("oracle")
}

/// Debian of this machine's release from its own package sources, about 120 MiB.
pub fn debian() -> PathBuf {
    made("debian")
}

/// The tar that `testdata/bases/<name>.sh` makes.
fn made(name: &str) -> PathBuf {
    made_by(name, name, &[])
}

/// The tar `name` that `testdata/bases/<script>.sh` makes. Tests run as processes of their own, so a file lock makes one of
/// them the maker; it is gone with the process that holds it.
fn made_by(script: &str, name: &str, args: &[&str]) -> PathBuf {
    let dir = super::room().join("bases");
    std::fs::create_dir_all(&dir).expect("the room can be written to");
    let tar = dir.join(format!("{name}.tar"));
    let lock = File::create(dir.join(format!("{name}.lock"))).expect("the room can be written to");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("a local file can be locked");
    if !tar.exists() {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/bases").join(format!("{script}.sh"));
        let output =
            Command::new(&script).arg(&tar).args(args).output().unwrap_or_else(|error| panic!("{script:?}: {error}"));
        assert!(output.status.success(), "{script:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    tar
}
