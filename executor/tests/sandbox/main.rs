//! The sandbox, tried from inside and outside: these tests run real steps as root, with Debian's static busybox as the
//! whole image.

#[path = "../../../tests/probe/mod.rs"]
mod probe;
#[path = "../../../tests/probe/facts.rs"]
mod told;

mod cache;
mod elsewhere;
mod emulate;
mod exec;
mod facts;
mod hostile;
mod lifetime;
mod limits;
mod policy;
mod race;
mod secrets;
mod streams;
mod support;
mod userns;
