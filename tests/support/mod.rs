//! What the end-to-end tests stand on: the binary under test, base images, registries, and readers that are not ours.
//!
//! Everything is made below cargo's directory for integration tests (`CARGO_TARGET_TMPDIR`) and goes away with the
//! value that made it, but for the base images, which are kept for the next run. The tests run as root: the store,
//! the sandbox and the readers need it.

pub mod archive;
pub mod bases;
pub mod bucket;
pub mod buildah;
pub mod compare;
pub mod fake;
pub mod flatten;
pub mod git;
pub mod rbuild;
pub mod readers;
pub mod registry;
pub mod s3;
mod soak;
pub mod tree;
pub mod user;

pub use archive::Archive;
pub use rbuild::{Context, Outcome, Store};
pub use soak::{Seed, soak};

/// A directory of its own that vanishes with the value. On a disk, not in memory: the store wants overlayfs on it.
pub fn temp_dir() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("e2e-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("cargo made this directory")
}
