//! Images as files: OCI layouts and docker archives, written and read.
//!
//! ```text
//!  archive.tar            OCI layout        docker archive
//!    oci-layout             x                 x       the layout's version
//!    index.json             x                 x       which manifests there are, and their names
//!    manifest.json                            x       the same for `docker load`: config, names, layers by path
//!    blobs/sha256/<hex>     x                 x       every manifest, config and layer, named by digest
//! ```
//! The same images give the same archive, byte for byte. [`archive::read`] takes both, compressed or not, and OCI
//! layouts that are directories; [`directory::add`] writes those. [`plain`] writes an image without the layers that its
//! reader has. Everything streams. Deliberately absent: compressing layers, which is done before.

pub mod archive;
pub mod directory;
pub mod docker_archive;
pub mod oci_layout;
pub mod plain;

mod ahead;
mod blobs;
mod error;

pub use error::ExportError;

/// The file that says what a directory is. image-spec image-layout.md, "oci-layout file".
const LAYOUT_FILE: &str = "oci-layout";
/// image-spec image-layout.md, "index.json file".
const INDEX_FILE: &str = "index.json";
/// docker's list of images.
const MANIFEST_FILE: &str = "manifest.json";
/// image-spec annotations.md: the tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// containerd's: the full name.
const IMAGE_NAME: &str = "io.containerd.image.name";
