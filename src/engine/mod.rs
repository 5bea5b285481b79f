//! The engine: puts the rooms together. The only place that names their concrete types.
//!
//! In come options, out come outcomes and [`Failure`]s; events go to a [`solver::seam::Progress`]. Deliberately
//! absent: argv, the terminal, colours.
//!
//! [`build()`] reads like the build itself; [`context`] opens what it starts from, [`plans`] plans for every platform,
//! [`resolve`] answers the frontend, [`assemble`] makes an image, [`index`] puts several together, [`export`] sends it out,
//! [`load`] into other engines. [`check`] and [`inspect`] only look.

mod failure;
mod form;

mod assemble;
mod attest;
mod build;
mod cache;
mod check;
mod container;
mod context;
mod definition;
mod destination;
pub mod doctor;
mod emulation;
mod epoch;
mod evaluate;
mod export;
pub mod foresee;
mod grants;
mod graph;
mod guest;
pub mod history;
mod index;
pub mod load;
mod metadata;
mod planned;
mod plans;
mod policy;
mod pressure;
mod resolve;
mod run;
mod rung;
mod sender;
mod settings;
mod space;
mod task;
pub mod timings;
mod trees;
mod verify;
pub mod why;
mod words;

pub mod images;
pub mod imagetools;
pub mod inspect;
pub mod past;
pub mod verify_build;

pub use build::{Begins, Built, build};
pub use check::{Checked, Checker, Mended, replace};
pub use container::{Container, ContainerFrom};
pub use context::Text;
pub use definition::{DefinedImage, Definition, NameFrom, NamedDefinition, SharedTree, name_definition};
pub use evaluate::{Evaluated, Looked, evaluate, image_config};
pub use failure::{Failure, FailureKind, Problem, Snippet};
pub use guest::{Guest, run as run_guest};
pub use history::HistorySettings;
pub use planned::{Origin, PlannedBuild, PlannedGraph, Planning, plan_build};
pub use policy::{Action, Constraint, Pattern, Policy, Rule, wildcard};
pub use run::run;
pub use settings::{RegistrySettings, Settings};
pub use space::{prune, usage};
pub use verify::{Verified, verify};
pub use words::diagnostic as problem;
pub use words::registry as registry_failure;

use oci::content::ContentStore as _;
use oci::model::Digest;
use std::io::Read as _;
use store::Store;

/// A config or manifest; what is larger is none.
const DOCUMENT_MAX_BYTES: u64 = 4 << 20;

/// Reads a small blob of the store whole, and checks it.
fn read_blob(store: &Store, digest: &Digest) -> Result<Vec<u8>, Failure> {
    let fail = |error: &oci::content::ContentError| words::content(error);
    let missing = || fail(&oci::content::ContentError::Missing { digest: *digest });
    let reader = store.blobs().open(digest).map_err(|error| fail(&error))?.ok_or_else(missing)?;
    let mut bytes = Vec::new();
    oci::content::VerifiedReader::new(reader.take(DOCUMENT_MAX_BYTES), *digest, None)
        .read_to_end(&mut bytes)
        .map_err(|error| fail(&oci::content::ContentError::io(format!("read blob `{digest}`"))(error)))?;
    Ok(bytes)
}
