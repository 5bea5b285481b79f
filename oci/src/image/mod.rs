//! Images as a whole: put together from a config and layers, and opened from a store of content.
//!
//! [`assemble()`] makes a manifest whose bytes depend on nothing but its arguments. [`Image::open`] reads manifest and
//! config with every check there is; [`find_manifest`] first chooses from indexes by platform. Deliberately absent:
//! layers' contents, registries, names.

mod assemble;
mod choose;
mod document;
mod error;
mod open;

pub use assemble::{Assembled, assemble};
pub use choose::{NESTING_MAX, available, choose, find_manifest};
pub use document::{Document, read_document};
pub use error::ImageError;
pub use open::{Image, verify_layer};

/// What containerd takes; a manifest has some kilobytes.
pub const MANIFEST_MAX_BYTES: u64 = 4 << 20;
/// A config with a long history and many labels has some hundred kilobytes.
pub const CONFIG_MAX_BYTES: u64 = 8 << 20;
