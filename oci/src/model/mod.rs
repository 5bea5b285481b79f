//! The nouns of an image, without loss: what is read is written back, unknown fields included.

mod config;
mod digest;
mod manifest;
mod platform;
mod reference;

pub use config::{Config, Healthcheck, History, ImageConfig, RootFs};
pub use digest::{DiffId, Digest, DigestError, chain_ids};
pub use manifest::{Descriptor, Index, Manifest, media_type};
pub use platform::{Platform, PlatformError};
pub use reference::{Reference, ReferenceError};
