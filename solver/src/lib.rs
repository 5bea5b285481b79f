//! The build graph, its keys, and the schedule that solves it.
//!
//! In comes a [`graph::Graph`] with wanted outputs, an [`seam::Executor`] that can run one operation and a
//! [`seam::CacheStore`] that remembers results; out goes a result for every wanted output, and [`seam::Event`]s on
//! the way. Deliberately absent: files, processes, network, the clock, Dockerfiles, containers.
//!
//! Read in this order: [`op`] says what can be done, [`graph`] how operations hang together, [`canon`] how both
//! become bytes, [`key`] what makes two runs the same, [`mod@pattern`] which paths are meant, [`redact`] what of an address nobody else may see, [`schedule`] what happens next (pure), [`run`] makes it happen, [`place`] is how a job that waits lets others run, [`foresee`] only imagines it, [`explain`] says why.

#![forbid(unsafe_code)]

pub mod op;

pub mod graph;

pub mod canon;

pub mod key;

pub mod pattern;

pub mod redact;

pub mod seam;

pub mod work;

pub mod place;

pub mod schedule;

pub mod run;

pub mod foresee;

pub mod explain;
