//! `RUN --security=insecure`: a step with all rights of the builder, for those who allow it.
//!
//! In comes what a step is asked for by default; out goes the same with all capabilities of the builder, without a filter
//! of system calls, with nothing hidden or read-only, and with the devices that system tools need. Namespaces, root and
//! network stay the step's own. Deliberately absent: who may have that ([`crate::steps::Grants`]).

use std::path::Path;

use super::error::StepError;
use crate::sandbox::{self, Bind, BindSource, Mount, MountKind, ProcessSpec};

/// Devices of the host that tools for images, file systems and machines use, as far as the host has them.
const DEVICES: [&str; 6] = ["kmsg", "cuse", "fuse", "kvm", "net/tun", "loop-control"];

/// Gives `spec` the rights of the builder.
pub(super) fn widen(spec: &mut ProcessSpec) -> Result<(), StepError> {
    spec.capabilities = sandbox::own_capabilities().map_err(|source| StepError::OwnCapabilities { source })?;
    spec.filter = false;
    spec.masked.clear();
    spec.read_only.clear();
    spec.kernel_writable = true;
    let dev = Path::new("/dev");
    let failed = |source| StepError::Io { act: "list", path: dev.to_owned(), source };
    let mut names: Vec<_> = DEVICES.iter().map(|name| (*name).to_owned()).collect();
    for entry in dev.read_dir().map_err(failed)? {
        // Names that are not text are no loop devices.
        let Ok(name) = entry.map_err(failed)?.file_name().into_string() else { continue };
        if name.strip_prefix("loop").is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_digit())) {
            names.push(name);
        }
    }
    for name in names {
        let source = dev.join(&name);
        let exists = source.try_exists();
        if !exists.map_err(|source| StepError::Io { act: "look at", path: dev.join(&name), source })? {
            continue;
        }
        let bind = Bind { source: BindSource::Path(source), subpath: String::new(), readonly: false };
        spec.mounts.push(Mount { target: format!("/dev/{name}"), kind: MountKind::Bind(bind) });
    }
    Ok(())
}
