//! End-to-end tests of the `rbuild` binary: real stores, real steps, a real registry, and readers that are not ours.
//!
//! They run as root, on Debian 12 with the packages of `tests/setup.sh`; the `examples` also reach the package
//! registries of the machine. Each file holds the promises of one part; `tests/support` is what they stand on.

#[path = "../support/mod.rs"]
mod support;

#[path = "../probe/mod.rs"]
mod probe;

mod bad_input;
mod bombs;
mod build;
mod cache;
mod cache_s3;
mod check;
mod chroot;
mod contexts;
mod copy;
mod crowd;
mod debug;
mod definition;
mod emulate;
mod epoch;
mod examples;
mod history;
mod hostile;
mod imagetools;
mod interrupt;
mod kill;
mod language;
mod layers;
mod limits;
mod load;
mod login;
mod matrix;
mod mirrors;
mod mounts;
mod network;
mod offline;
mod oracle;
mod outputs;
mod platforms;
mod policy;
mod progress;
mod registry;
mod registry_profiles;
mod remote;
mod reproducible;
mod rootless;
mod run;
mod sandbox;
mod secrets;
mod serve;
mod several;
mod shelf;
mod space;
mod store;
mod targets;
mod userns;
mod verify_build;
mod why;
