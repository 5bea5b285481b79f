//! What is tried, with the rights that a build would have.

use std::path::Path;

use executor::emulate::survey;
use executor::isolation::Rung;
use executor::network::drivers_here;
use executor::rootless::{Surroundings, probe};
use executor::{sandbox, userns};

use super::{Check, Patient, judge};

/// Everything that is tried; what is made for it is taken away again.
pub fn all(patient: &Patient) -> Vec<Check> {
    let mut checks = vec![overlay(&patient.root), proc_mount()];
    checks.extend(user_namespaces(patient));
    // The last one: it needs threads.
    checks.push(network(patient));
    checks
}

/// Whose steps run here, on `rung`.
pub fn emulation(rung: Rung) -> Check {
    let helper = match rung {
        Rung::Chroot => sandbox::Settings::in_chroot(),
        Rung::Full | Rung::Rootless => sandbox::Settings::of_this_process(),
    };
    let found = match helper {
        Ok(helper) => survey(&helper, rung).map_err(|error| words(&error)),
        Err(error) => Err(words(&error)),
    };
    match found {
        Ok(found) => judge::emulation(&found),
        Err(error) => Check::warning(judge::EMULATION, error, "steps of this machine's own processor run"),
    }
}

fn words(error: &dyn std::error::Error) -> String {
    let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    format!("{error}{source}")
}

fn network(patient: &Patient) -> Check {
    let failed = |act: &str, error: &dyn std::error::Error| {
        Check::warning(
            judge::NETWORK,
            format!("could not {act}: {}", words(error)),
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

/// Whether steps of root can have user namespaces of their own; nothing to an ordinary user, who is in one.
fn user_namespaces(patient: &Patient) -> Option<Check> {
    if Surroundings::here().user_namespace {
        return None;
    }
    let name = "--userns=auto";
    let (wanted, asked) = patient.userns;
    let chosen = userns::Machine::read().and_then(|machine| userns::choose(asked, &machine));
    let tried = match chosen {
        Ok(ids) => aside(&patient.root, |dir| {
            let detail = |error: sandbox::SandboxError| userns::UsernsError::Store {
                path: dir.to_owned(),
                detail: error.to_string(),
            };
            let helper = sandbox::Settings::of_this_process().map_err(detail)?;
            userns::probe::probe(&helper, dir, &ids).map(|()| ids)
        })?,
        Err(error) => Err(error),
    };
    Some(match (tried, wanted) {
        (Ok(ids), _) => Check::ok(name, format!("root in steps can be nobody here: {ids}")),
        // Asked for by the settings, it is needed.
        (Err(error), Some(userns::Wanted::Auto)) => Check::problem(name, error.to_string(), error.help()),
        (Err(error), _) => Check::warning(name, error.to_string(), error.help()),
    })
}

/// Does something with a directory in the file system of the store, and takes it away again. `None`: another check tells
/// that none can be made.
fn aside<T>(root: &Path, what: impl FnOnce(&Path) -> T) -> Option<T> {
    let there = root.ancestors().find(|path| path.is_dir())?;
    let dir = there.join(format!(".rbuild-doctor-{}-userns", std::process::id()));
    std::fs::create_dir(&dir).ok()?;
    let done = what(&dir);
    if let Err(error) = std::fs::remove_dir_all(&dir) {
        tracing::warn!(dir = %dir.display(), %error, "a directory of the trial stays behind");
    }
    Some(done)
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
