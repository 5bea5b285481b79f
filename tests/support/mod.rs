//! What the end-to-end tests stand on: the binary under test, base images, registries, and readers that are not ours.
//!
//! Everything is made in one [`room`] and goes away with the value that made it, but for the base images, which are kept
//! for the next run. The tests run as root: the store,
//! the sandbox and the readers need it.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

pub mod archive;
pub mod bases;
pub mod bounded;
pub mod bucket;
pub mod buildah;
pub mod compare;
#[allow(dead_code, reason = "the unit tests of loading use the other faults")]
pub mod dockerd;
pub mod fake;
pub mod flatten;
pub mod front;
pub mod git;
#[path = "../../oci/tests/support/registry/mod.rs"]
pub mod hosted;
pub mod hostile;
pub mod one_layer;
pub mod pod;
#[path = "../../oci/tests/support/raw_tar.rs"]
pub mod raw_tar;
pub mod rbuild;
pub mod readers;
pub mod registry;
pub mod s3;
mod soak;
pub mod ssh;
pub mod tree;
pub mod user;

pub use archive::Archive;
pub use rbuild::{Context, Outcome, Store};
pub use soak::{Seed, soak};

/// The directory that everything is made in: cargo's for integration tests (`CARGO_TARGET_TMPDIR`), or one beneath
/// `/var/tmp` if other users, as which some tests build, cannot go there.
pub fn room() -> &'static Path {
    static ROOM: OnceLock<PathBuf> = OnceLock::new();
    ROOM.get_or_init(|| {
        let room = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
        if user::is_reachable(&room) {
            return room;
        }
        let room = PathBuf::from(format!("/var/tmp/rbuild-tests-{}", rustix::process::getuid().as_raw()));
        match std::fs::create_dir(&room) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            made => made.expect("there is a directory for temporary files"),
        }
        let found = room.symlink_metadata().expect("it was made");
        assert!(found.is_dir() && found.uid() == rustix::process::getuid().as_raw(), "{room:?} is somebody else's");
        room
    })
}

/// A directory of its own that vanishes with the value. On a disk, not in memory: the store wants overlayfs on it.
pub fn temp_dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("e2e-").tempdir_in(room()).expect("the room is there")
}
