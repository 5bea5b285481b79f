//! What the machine says of itself, without trying anything.

use std::fs::read_to_string;
use std::path::{Path, PathBuf};

use executor::machine::ControlGroups;

use super::Patient;

/// As the files of the machine have it; a file that cannot be read says nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Whether the user is root.
    pub root: bool,
    /// `uname -r`.
    pub kernel: String,
    /// What hinders user namespaces.
    pub namespaces: executor::rootless::Facts,
    /// newuidmap and newgidmap that lack the right to do their work.
    pub powerless: Vec<PathBuf>,
    /// Control groups.
    pub cgroups: Cgroups,
    /// Where the store is or will be, and bytes that are free there.
    pub disk: Option<(PathBuf, u64)>,
}

/// Control groups of this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cgroups {
    /// Controllers of version 2 in the group of this process; `None` without version 2.
    pub v2: Option<Vec<String>>,
    /// Whether groups can be made beneath it.
    pub delegated: bool,
    /// Controllers of version 1.
    pub v1: Vec<String>,
}

impl Facts {
    /// Asks the machine.
    pub fn gather(patient: &Patient) -> Self {
        let programs = [&patient.who.newuidmap, &patient.who.newgidmap];
        Self {
            root: patient.who.uid == 0,
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            namespaces: executor::rootless::Facts::gather(),
            powerless: programs.into_iter().flatten().filter(|path| !is_empowered(path)).cloned().collect(),
            cgroups: cgroups(),
            disk: disk(&patient.root),
        }
    }
}

/// Whether a program gets rights that its caller lacks: set-uid of root, or file capabilities.
fn is_empowered(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let set_uid = path.metadata().is_ok_and(|facts| facts.mode() & 0o4000 != 0 && facts.uid() == 0);
    let mut value = [0; 64];
    set_uid || rustix::fs::getxattr(path, "security.capability", &mut value[..]).is_ok()
}

fn cgroups() -> Cgroups {
    let machine = ControlGroups::beneath(Path::new("/")).unwrap_or_else(|(path, error)| {
        tracing::debug!(path = %path.display(), %error, "control groups are not known");
        ControlGroups::default()
    });
    let v2 = machine.unified().map(|unified| unified.dir(&unified.own));
    let controllers = |dir: &PathBuf| {
        let text = read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    Cgroups {
        delegated: v2.as_ref().is_some_and(|dir| {
            rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok()
                && rustix::fs::access(dir.join("cgroup.procs"), rustix::fs::Access::WRITE_OK).is_ok()
        }),
        v2: v2.as_ref().map(controllers),
        v1: machine.legacy().flat_map(|one| one.controllers.clone()).collect(),
    }
}

fn disk(root: &Path) -> Option<(PathBuf, u64)> {
    let there = root.ancestors().find(|path| path.exists())?;
    let facts = rustix::fs::statvfs(there).ok()?;
    Some((there.to_owned(), facts.f_bavail.saturating_mul(facts.f_frsize)))
}
