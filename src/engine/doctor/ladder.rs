//! The rungs of isolation: which can be had here, and what the lowest has of the machine.

use std::os::fd::AsFd as _;
use std::path::Path;

use executor::chroot;
use executor::isolation::{self, Rung};
use rustix::fs::{FileType, Mode};

use super::{Check, Patient};

/// Every rung, had or not and why. Not having one is no fault: builds take what they are told to, see `isolation`.
pub fn rungs(patient: &Patient) -> Vec<Check> {
    let Ok(ladder) = isolation::ladder(&patient.who, &patient.root) else {
        // The check of what is taken says why.
        return Vec::new();
    };
    let check = |(rung, lack): (Rung, Option<executor::rootless::Diagnosis>)| Check {
        fix: lack.as_ref().map(|why| why.fix.clone()),
        ..Check::ok(name(rung), lack.map_or("can be had".into(), |why| format!("cannot be had: {}", why.reason)))
    };
    ladder.into_iter().map(check).collect()
}

fn name(rung: Rung) -> &'static str {
    match rung {
        Rung::Full => "rung `full`",
        Rung::Rootless => "rung `rootless`",
        Rung::Chroot => "rung `chroot`",
    }
}

/// What `chroot` needs of the disk of the store, and what steps have of devices.
pub fn without_mounts(root: &Path) -> Vec<Check> {
    let Some(there) = root.ancestors().find(|path| path.is_dir()) else { return Vec::new() };
    let deletions = match deletion(there) {
        Ok(()) => Check::ok("deletions", format!("can be marked on the file system of `{}`", there.display())),
        Err(error) => Check::problem(
            "deletions",
            format!("cannot be marked on the file system of `{}`: {error}", there.display()),
            "keep the store on a disk of this machine, with Linux 5.8 or newer: `--root DIR`, or a volume of the container",
        ),
    };
    let devices = match chroot::try_devices(there) {
        Ok(()) => Check::ok("devices for steps", "can be made"),
        Err(error) => Check::warning(
            "devices for steps",
            format!("cannot be made: {error}; `/dev/null` of steps is an empty file"),
            "give the container CAP_MKNOD: `--cap-add MKNOD` (docker, podman), `capabilities: {add: [MKNOD]}` (Kubernetes)",
        ),
    };
    vec![deletions, devices]
}

/// Marks a deletion as layers have it, and takes it away.
fn deletion(there: &Path) -> std::io::Result<()> {
    let dir = there.join(format!(".rbuild-doctor-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let marked = std::fs::File::open(&dir).and_then(|fd| {
        let mark = rustix::fs::mknodat(fd.as_fd(), "gone", FileType::CharacterDevice, Mode::empty(), 0);
        Ok(mark?)
    });
    std::fs::remove_dir_all(&dir)?;
    marked
}
