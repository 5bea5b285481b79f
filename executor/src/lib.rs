//! Runs operations of a build graph on Linux: sources, file operations, processes in a sandbox, snapshots.
//!
//! In: one operation and the results it stands on. Out: new results, each a committed layer in the store, and logs.
//! Deliberately absent: Dockerfile words, cache policy, order.
//!
//! Start at [`worker`], which does an operation. Beneath it: [`source`] (context and images), [`ops`] (what is done to
//! trees), [`sandbox`] (processes), [`snapshot`] (layers stacked, and what changed), [`layers`] (trees to blobs and
//! back), [`select`] (which paths are meant), and at the bottom `tree`, where every path of a stranger is resolved.

pub mod chroot;
mod content;
pub mod devices;
pub mod emulate;
pub mod error;
pub mod isolation;
pub mod layers;
pub mod limits;
pub mod machine;
mod merge;
pub mod meter;
pub mod network;
pub mod ops;
pub mod rootless;
pub mod sandbox;
pub mod secrets;
pub mod select;
pub mod snapshot;
pub mod source;
pub mod steps;
mod sys;
#[cfg(test)]
mod testing;
mod times;
mod tree;
pub mod userns;
pub mod waiting;
pub mod worker;

pub use error::ExecError;
pub use limits::StepLimits;
pub use snapshot::copy_tree_out;
pub use steps::StepSettings;
pub use sys::give_back_memory;
pub use worker::{Worker, WorkerConfig};
