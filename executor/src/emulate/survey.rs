//! Which architectures' steps can run on this machine, and how: for people who ask before they build.

use std::path::PathBuf;

use oci::model::Platform;

use super::arch::ALL;
use super::{EmulateError, Wanted, Way, private, way};
use crate::isolation::Rung;
use crate::sandbox;

/// How steps of an architecture run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Means {
    /// By the processor.
    Native,
    /// By a handler of the machine.
    Handler,
    /// By this emulator, in a user namespace with a handler of its own.
    Private(PathBuf),
    /// By an emulator in front of their commands, and why not better.
    Injected(String),
    /// Not at all.
    Missing,
}

/// Every architecture that there are emulators for, and this machine's own. What has to be tried is tried. Blocking.
///
/// # Errors
/// When it cannot be found out.
pub fn survey(helper: &sandbox::Settings, rung: Rung) -> Result<Vec<(&'static str, Means)>, EmulateError> {
    let means = |name| match way(&Platform::normalised("linux", name, ""), Wanted::Auto, rung) {
        Ok(Way::Native(_)) => Ok(Means::Native),
        Ok(Way::Registered(_)) => Ok(Means::Handler),
        Ok(Way::Installed(emulator)) => Ok(match private::probe(helper, std::slice::from_ref(&emulator)) {
            Ok(()) => Means::Private(emulator.path),
            Err(reason) => Means::Injected(reason),
        }),
        Err(error @ EmulateError::Io { .. }) => Err(error),
        Err(_) => Ok(Means::Missing),
    };
    ALL.iter().map(|arch| Ok((arch.name, means(arch.name)?))).collect()
}
