//! What the machine says of itself, without trying anything.

use std::ffi::OsString;
use std::fs::read_to_string;
use std::path::{Path, PathBuf};

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
    /// Which of the programs that networks are made with are there.
    pub network_programs: Vec<&'static str>,
    /// Other processors whose programs run here (binfmt_misc); `None`: it is not mounted.
    pub emulated: Option<Vec<String>>,
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

/// Programs that networks of steps are made with.
const NETWORK_PROGRAMS: [&str; 3] = ["pasta", "slirp4netns", "nft"];

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
            network_programs: NETWORK_PROGRAMS.into_iter().filter(|name| is_installed(name)).collect(),
            emulated: emulated(Path::new("/proc/sys/fs/binfmt_misc")),
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

fn is_installed(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    let usual = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).any(|folder| folder.is_absolute() && folder.join(name).is_file())
}

fn cgroups() -> Cgroups {
    let own = read_to_string("/proc/self/cgroup").unwrap_or_default();
    let mounts = read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let place = |kind: &str| {
        mounts.lines().find_map(|line| {
            let (before, after) = line.split_once(" - ")?;
            (after.split(' ').next()? == kind).then(|| before.split(' ').nth(4).map(str::to_owned))?
        })
    };
    let v2 = place("cgroup2").and_then(|mount| {
        let path = own.lines().find_map(|line| line.strip_prefix("0::"))?;
        Some(PathBuf::from(format!("{mount}{path}")))
    });
    let controllers = |dir: &PathBuf| {
        let text = read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
        text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let v1 = own.lines().filter(|line| !line.starts_with("0::")).filter_map(|line| line.split(':').nth(1));
    Cgroups {
        delegated: v2.as_ref().is_some_and(|dir| {
            rustix::fs::access(dir, rustix::fs::Access::WRITE_OK).is_ok()
                && rustix::fs::access(dir.join("cgroup.procs"), rustix::fs::Access::WRITE_OK).is_ok()
        }),
        v2: v2.as_ref().map(controllers),
        v1: v1.flat_map(|names| names.split(',')).filter(|name| !name.is_empty()).map(str::to_owned).collect(),
    }
}

fn emulated(dir: &Path) -> Option<Vec<String>> {
    if !dir.join("status").exists() {
        return None;
    }
    let entries = std::fs::read_dir(dir).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = entries.filter_map(|name| name.strip_prefix("qemu-").map(str::to_owned)).collect();
    names.sort();
    Some(names)
}

fn disk(root: &Path) -> Option<(PathBuf, u64)> {
    let there = root.ancestors().find(|path| path.exists())?;
    let facts = rustix::fs::statvfs(there).ok()?;
    Some((there.to_owned(), facts.f_bavail.saturating_mul(facts.f_frsize)))
}
