//! Images: their names, configs and blobs, the layer codec, registries and archives.
//!
//! Bytes and trees come in; digests, layers, manifests, pushes and pulls go out; [`hosts`] says where registries are. Deliberately absent: snapshots and
//! the build graph. [`model`] holds the immutable nouns, [`content`] is where bytes are found by digest, [`json`] reads
//! them without doubt.

#![forbid(unsafe_code)]

pub mod model;

pub mod json;

pub mod content;

pub mod layer;

pub mod image;

pub mod export;

pub mod http;

pub mod hosts;

pub mod registry;
