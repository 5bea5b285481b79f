//! The layer codec: trees to tars and back, and their compression.
//!
//! ```text
//!  tree (overlayfs form) ── diff ──► tar ── gzip, zstd ──► blob        [`encode`] does all of it in one pass
//!                                    tar ─── estargz ────► blob        [`estargz::write`], which must read the tar
//!  tree (overlayfs form) ◄─ apply ── tar ◄─ decompress ─── blob
//!  any tree              ◄─ extract ─ tar                              `ADD archive.tar.xz /`
//! ```
//! Everything streams; memory does not grow with a layer. Every file is reached by descriptors, one name at a time,
//! and the kernel never follows a link for us. Deliberately absent: where trees live, mounts, blobs.

pub mod tar;

mod diff;
mod encode;
mod error;
mod walk;
mod xattr;

mod apply;
mod descent;
mod extract;
mod node;
mod path;
mod view;

mod bounds;
pub mod codec;
pub mod decompress;
pub mod estargz;
pub mod gzip;
mod help;
mod member;
pub mod zstd;

pub use apply::{ApplyFacts, ApplyOptions, apply_layer, apply_layer_on};
pub use bounds::{Bomb, Bounds, RATIO_MAX, limit_process};
pub use codec::{Codec, CodecError, Compression, Dialect, Encoder};
pub use decompress::{Format, decompress, decompress_layer, decompress_sized, detect};
pub use diff::{LayerFacts, WriteOptions, write_layer, write_layer_with, write_tree, write_trees};
pub use encode::{EncodedLayer, Hashing, encode};
pub use error::LayerError;
pub use extract::{ExtractFacts, ExtractOptions, extract_archive};
pub use help::Help;
pub use tar::Limits;
pub use view::Beneath;
pub use xattr::XattrNamespace;

/// What begins the name of a whiteout. image-spec layer.md, "Whiteouts".
const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// What hides everything beneath a directory. image-spec layer.md, "Opaque Whiteout".
const OPAQUE_NAME: &[u8] = b".wh..wh..opq";
/// What AUFS wrote for itself; no reader takes it for content.
const AUFS_PREFIX: &[u8] = b".wh..wh.";
