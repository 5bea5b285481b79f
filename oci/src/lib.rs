//! Images: their names, configs and blobs, the layer codec, registries and archives.
//!
//! Bytes and trees come in; digests, layers, manifests, pushes and pulls go out. Deliberately absent: snapshots and
//! the build graph. [`model`] holds the immutable nouns.

pub mod model;
