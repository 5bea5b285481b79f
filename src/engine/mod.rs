//! The engine: puts the rooms together. The only place that names their concrete types.
//!
//! In come options, out come outcomes and [`Failure`]s; events go to a [`solver::seam::Progress`]. Deliberately
//! absent: argv, the terminal, colours.

mod failure;

pub use failure::{Failure, FailureKind, Problem, Snippet};
