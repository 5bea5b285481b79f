//! The view of control groups at `/sys/fs/cgroup`: what the step's own group is allowed and uses.
//!
//! Programs read their limits there. In the step's namespace its own group is the top of each hierarchy, so nothing of the
//! host's is seen; and nothing can be written unless that is asked for. Both forms of control groups exist: one hierarchy
//! (version 2), or one per controller (version 1), each with a directory of its own. Deliberately absent: limits.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
};

use super::beneath::Root;
use super::mount::{attach, attributes, file_system};
use super::plan::{Flags, INERT};
use super::sys;
use super::trouble::{Trouble, with};
use crate::machine::memberships;

/// Where programs look.
pub const PLACE: &str = "/sys/fs/cgroup";

/// Shows the step its control groups. Where the kernel has none, there is nothing to show.
pub fn show(root: &Root, readonly: bool) -> Result<(), Trouble> {
    let place = match root.place_without_links(PLACE) {
        Err(Errno::NOENT) => return Ok(()),
        place => place?,
    };
    let flags = Flags { readonly, ..INERT };
    // The host's `/proc`: the root is mounted, but not yet entered.
    let groups = std::fs::read_to_string("/proc/self/cgroup").map_err(|error| Trouble {
        errno: error.raw_os_error().unwrap_or_default(),
        detail: format!("groups: {error}"),
    })?;
    let hierarchies = hierarchies(&groups);
    if hierarchies.is_empty() {
        attach(file_system("cgroup2", &[], flags)?, &place)?;
    } else {
        let directory = file_system("tmpfs", &[("mode".into(), "755".into())], INERT)?;
        attach(&directory, &place)?;
        for controllers in hierarchies {
            show_one(&directory, controllers, flags).map_err(with(format_args!("the hierarchy `{controllers}`")))?;
        }
        if readonly {
            sys::set_mount_attributes(&directory, MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(), false)?;
        }
    }
    let seen = rustix::fs::fstatvfs(root.place_without_links(PLACE)?)?;
    if readonly && !seen.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Err(format!("`{PLACE}` is still writable").into());
    }
    Ok(())
}

/// The controllers of each hierarchy of version 1, as `/proc/self/cgroup` has them: `cpu,cpuacct`, `name=systemd`.
fn hierarchies(groups: &str) -> Vec<&str> {
    memberships(groups).filter(|own| !own.is_unified()).map(|own| own.controllers).collect()
}

/// Mounts one hierarchy in a directory of its own, with a link for each of several controllers.
fn show_one(directory: &OwnedFd, controllers: &str, flags: Flags) -> Result<(), Errno> {
    let context = fsopen("cgroup", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let name = match controllers.strip_prefix("name=") {
        Some(name) => {
            fsconfig_set_flag(&context, "none")?;
            fsconfig_set_string(&context, "name", name)?;
            name
        }
        None => {
            for controller in controllers.split(',') {
                fsconfig_set_flag(&context, controller)?;
            }
            controllers
        }
    };
    fsconfig_create(&context)?;
    let tree = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes(flags))?;
    rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(0o755))?;
    let place = rustix::fs::openat(directory, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    attach(&tree, place)?;
    if controllers.contains(',') {
        for controller in controllers.split(',') {
            rustix::fs::symlinkat(name, directory.as_fd(), controller)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::hierarchies;

    #[test]
    fn one_hierarchy_has_no_controllers_of_its_own() {
        assert!(hierarchies("0::/user.slice\n").is_empty());
        let both = "3:name=systemd:/\n2:cpu,cpuacct:/a:b\n0::/\n";
        assert_eq!(hierarchies(both), ["name=systemd", "cpu,cpuacct"]);
        assert!(hierarchies("").is_empty());
    }
}
