//! The protocols of `rbuild serve`: messages and services (clients and servers), made of `proto/*.proto` by
//! `api/generate/run.sh`, and kept beside them, so that no build needs a compiler of such definitions.
//!
//! Numbers and names are those of the public interfaces, so that clients of others understand them: BuildKit's control
//! and gateway services and its low-level builder's operations, the services that a client offers in its session,
//! fsutil's packets, containerd's content service, gRPC's health and status. One module per file of `proto/`.
//! Deliberately absent: any meaning. That is `src/daemon/`'s, in the root package.

#![forbid(unsafe_code)]

#[allow(missing_docs, clippy::all, rustdoc::all)]
mod tree {
    include!("generated/tree.rs");
}

/// All definitions, as a server tells of them: a `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!("generated/descriptors.bin");

/// The daemon: builds, status, sessions, history, space.
pub use tree::moby::buildkit::v1 as control;
/// Capabilities of a service.
pub use tree::moby::buildkit::v1::apicaps as caps;
/// What a frontend asks of the daemon.
pub use tree::moby::buildkit::v1::frontend as gateway;
/// Rules about sources.
pub use tree::moby::buildkit::v1::sourcepolicy;
/// What is asked about every source.
pub use tree::moby::buildkit::v1::sourcepolicy::policysession;
/// What a worker says of itself.
pub use tree::moby::buildkit::v1::types as worker;
/// The low-level builder's operations.
pub use tree::pb;

/// Secrets of a session.
pub use tree::moby::buildkit::secrets::v1 as secrets;
/// Exporters of a session.
pub use tree::moby::exporter::v1 as exporter;
/// Files and credentials of a session.
pub use tree::moby::filesync::v1 as filesync;
/// SSH agents of a session.
pub use tree::moby::sshforward::v1 as ssh;
/// Streams of a session.
pub use tree::moby::upload::v1 as upload;

/// Blobs by digest.
pub use tree::containerd::services::content::v1 as content;
/// Details of errors.
pub use tree::errdefs;
/// Directories over a stream.
pub use tree::fsutil::types as fsutil;
/// An error with details.
pub use tree::google::rpc;
/// Whether a service serves.
pub use tree::grpc::health::v1 as health;
/// Where an error was made.
pub use tree::stack;

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::path::Path;

    use sha2::{Digest as _, Sha256};

    #[test]
    fn what_is_generated_is_of_these_definitions() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
        let names = std::fs::read_dir(&folder).expect("the definitions are there");
        let mut names: Vec<_> = names.map(|entry| entry.expect("it can be listed").file_name()).collect();
        names.sort();
        let mut found = String::new();
        for name in names {
            let text = std::fs::read(folder.join(&name)).expect("it can be read");
            let hex = Sha256::digest(&text).iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
            writeln!(found, "{hex}  {}", name.display()).expect("a String takes everything");
        }
        let made_of = include_str!("generated/proto.sha256");
        assert_eq!(found, made_of, "proto/ was changed: run api/generate/run.sh");
    }
}
