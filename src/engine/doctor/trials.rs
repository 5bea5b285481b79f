//! What is tried, with the rights that a build would have.

use std::path::Path;

use executor::network::drivers_here;
use executor::rootless::{Surroundings, probe};

use super::{Check, Patient, judge};

/// Everything that is tried; what is made for it is taken away again.
pub fn all(patient: &Patient) -> Vec<Check> {
    // The last one: it needs threads.
    vec![overlay(&patient.root), proc_mount(), network(patient)]
}

fn network(patient: &Patient) -> Check {
    let failed = |act: &str, error: &dyn std::error::Error| {
        let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
        Check::warning(
            judge::NETWORK,
            format!("could not {act}: {error}{source}"),
            "steps have `--network=host` and `none`",
        )
    };
    let helper = match executor::sandbox::Settings::of_this_process() {
        Ok(helper) => helper,
        Err(error) => return failed("start the helper that makes networks", &error),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed("start the threads that try networks", &error),
    };
    match runtime.block_on(drivers_here(&patient.network, &helper)) {
        Ok(tried) => judge::network(tried, patient.network.driver),
        Err(error) => failed("try networks", &error),
    }
}

fn overlay(root: &Path) -> Check {
    let name = "overlayfs";
    let Some(there) = root.ancestors().find(|path| path.is_dir()) else {
        return Check::problem(
            name,
            format!("there is no directory above `{}`", root.display()),
            "name another: `--root DIR`",
        );
    };
    let fix = "keep the store on a disk of this machine (ext4, xfs, btrfs), not on NFS or on another overlay: `--root DIR` or \
               `RBUILD_ROOT`";
    // Beside the store's own things, where it could be one of them: aside, and away again.
    let dir = there.join(format!(".rbuild-doctor-{}", std::process::id()));
    if let Err(error) = std::fs::create_dir(&dir) {
        return Check::problem(
            name,
            format!("`{}` cannot be written to: {error}", there.display()),
            "name another: `--root DIR`",
        );
    }
    let tried = probe::overlay(&dir);
    let removed = std::fs::remove_dir_all(&dir);
    if let Err(error) = removed {
        return Check::warning(name, format!("`{}` cannot be taken away: {error}", dir.display()), "remove it");
    }
    match tried {
        Ok(()) => Check::ok(name, format!("works on the file system of `{}`", there.display())),
        Err(error) => {
            let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
            Check::problem(name, format!("{error}{source}"), fix)
        }
    }
}

fn proc_mount() -> Check {
    let name = "/proc for steps";
    match probe::proc_mount() {
        Ok(()) => Check::ok(name, "can be mounted"),
        Err(error) if Surroundings::here().user_namespace => Check::problem(
            name,
            format!("cannot be mounted: {error}; the container that rbuild runs in hides parts of its own"),
            "start that container with `--security-opt systempaths=unconfined` (docker), `--security-opt unmask=ALL` \
             (podman) or `procMount: Unmasked` (Kubernetes)",
        ),
        Err(error) => Check::problem(
            name,
            format!("cannot be mounted: {error}"),
            "give rbuild's container the capability: `--cap-add SYS_ADMIN` or `--privileged`",
        ),
    }
}
