//! The sandbox, tried from inside and outside: these tests run real steps as root, with Debian's static busybox as the
//! whole image.

mod cache;
mod exec;
mod hostile;
mod lifetime;
mod policy;
mod streams;
mod support;
