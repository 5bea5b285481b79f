//! What the hot paths of a build cost, one by one: small fixed inputs, the same on every machine.
//!
//! [`cases`] has what is measured. [`clock`] measures their time, which differs from machine to machine; [`instructions`]
//! counts their instructions, which hardly do, and compares them with [`baseline`]. `main.rs` is the bench `micro`, which
//! chooses. It is a package of its own so that counting builds the libraries and nothing else. Larger inputs and whole
//! builds are other benches'.

#![forbid(unsafe_code)]

pub mod cases;

pub mod clock;

pub mod instructions;

pub mod baseline;

mod sandbox;
