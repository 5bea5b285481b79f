//! The control group of a step: made before it, entered by it as the first thing that it does, read and removed after.
//!
//! In: [`StepLimits`] and the [`ControlGroups`]. Out: a [`Group`], whose descriptors travel to the step, which needs no path
//! of the hierarchies then. Deliberately absent: when a step runs ([`super::run`]), where in version 2 ([`place`]).

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::io::Errno;

use super::figures::Figures;
use super::place::{self, Choice, LEAF, Refusal};
use super::settings::{Controller, Setting, needed, settings};
use super::sweep::sweep;
use super::{LimitError, StepLimits, tree};
use crate::machine::{ControlGroups, Hierarchy, Version, memberships};
use crate::sandbox::{ControlGroup, Descriptors};

/// Makes the groups of a worker's steps.
pub struct Groups {
    limits: StepLimits,
    machine: ControlGroups,
    /// Where it was looked for groups of dead builders.
    swept: Mutex<HashSet<PathBuf>>,
}

impl Groups {
    /// On this machine.
    ///
    /// # Errors
    /// When a limit is asked for that it cannot give: a group with all of them is made, and removed.
    pub fn new(limits: StepLimits) -> Result<Self, LimitError> {
        let machine = ControlGroups::beneath(Path::new("/"));
        Self::on(machine.map_err(|(path, source)| LimitError::Io { act: "read", path, source })?, limits)
    }

    /// On that machine.
    pub fn on(machine: ControlGroups, limits: StepLimits) -> Result<Self, LimitError> {
        // Beside a group that is not seen, no other can be made.
        let machine = machine.that_show_own();
        let groups = Self { limits, machine, swept: Mutex::default() };
        if groups.must_have(None) {
            drop(groups.make(None)?);
        }
        Ok(groups)
    }

    /// The limits.
    pub fn limits(&self) -> &StepLimits {
        &self.limits
    }

    fn must_have(&self, parent: Option<&str>) -> bool {
        parent.or(self.limits.cgroup_parent.as_deref()).is_some() || !needed(&self.limits).is_empty()
    }

    /// A group for one step, beneath `parent` or where it was asked for or where it can be. `None`: nothing asks for one,
    /// and none can be had. Blocking.
    pub fn make(&self, parent: Option<&str>) -> Result<Option<Group>, LimitError> {
        match self.try_make(parent.or(self.limits.cgroup_parent.as_deref())) {
            Ok(group) => Ok(Some(group)),
            Err(error) if self.must_have(parent) => Err(error),
            Err(error) => {
                tracing::debug!(%error, "steps run without control groups of their own");
                Ok(None)
            }
        }
    }

    fn try_make(&self, parent: Option<&str>) -> Result<Group, LimitError> {
        let needed = needed(&self.limits);
        let flag = |controller| needed.iter().find(|(known, _)| *known == controller).map(|(_, flag)| *flag);
        let usual = [Controller::Memory, Controller::Cpu, Controller::CpuAcct, Controller::Pids];
        let legacy: Vec<&Hierarchy> = self
            .machine
            .legacy()
            .filter(|one| {
                usual.into_iter().chain(needed.iter().map(|(needed, _)| *needed)).any(|one_of| one.has(one_of.name()))
            })
            .collect();
        // What version 1 does not have must be in version 2.
        let rest: BTreeSet<Controller> = needed
            .iter()
            .map(|(controller, _)| *controller)
            .filter(|controller| !legacy.iter().any(|one| one.has(controller.name())))
            .collect();
        let any_flag = needed.first().map_or("--cgroup-parent", |(_, flag)| flag);
        let mut group = Group { parts: Vec::new() };
        for one in &legacy {
            let asked = one.controllers.iter().filter_map(|name| Controller::named(name)).find_map(flag);
            match self.make_legacy(one, parent, asked.unwrap_or(any_flag)) {
                Ok(part) => group.parts.push(part),
                // Nothing of it was asked for.
                Err(error) if asked.is_none() && parent.is_none() => {
                    tracing::debug!(%error, mount = %one.mount.display(), "no control group");
                }
                Err(error) => return Err(error),
            }
        }
        if group.parts.is_empty() || !rest.is_empty() {
            match self.machine.unified() {
                Some(two) => group.parts.push(self.make_unified(two, parent, &rest, &flag, any_flag)?),
                None => {
                    return Err(match rest.first() {
                        Some(controller) if !legacy.is_empty() => LimitError::NoController {
                            flag: flag(*controller).unwrap_or(any_flag),
                            controller: *controller,
                            found: format!("here are only {}", names(&self.machine)),
                        },
                        _ => LimitError::NoGroups { flag: any_flag },
                    });
                }
            }
        }
        Ok(group)
    }

    fn make_legacy(&self, one: &Hierarchy, parent: Option<&str>, flag: &'static str) -> Result<Part, LimitError> {
        if one.readonly {
            let reason = format!("`{}` is mounted read-only", one.mount.display());
            return Err(LimitError::NoPlace { flag, reason });
        }
        let path = one.dir(&beneath(parent, &one.own)?);
        let dir = match parent {
            Some(_) => made(one, &path)?,
            None => open(&path)?,
        };
        self.sweep(&path);
        let (name, own) = tree::make(&dir).map_err(|error| no_place(flag, &path, error))?;
        let entrance = match tree::open_file(&own, "tasks") {
            Ok(entrance) => entrance,
            Err(errno) => {
                let error = failed("open", path.join(&name).join("tasks"))(errno);
                abandon(&dir, &name);
                return Err(error);
            }
        };
        let part = Part { version: Version::One, path, parent: dir, name, dir: own, entrance };
        if one.has(Controller::CpuSet.name()) {
            inherit_cpuset(&part.parent, &part.dir, &part.own_path())?;
        }
        part.set(
            settings(&self.limits, Version::One).into_iter().filter(|setting| one.has(setting.controller.name())),
        )?;
        Ok(part)
    }

    fn make_unified(
        &self,
        two: &Hierarchy,
        parent: Option<&str>,
        rest: &BTreeSet<Controller>,
        flag: &dyn Fn(Controller) -> Option<&'static str>,
        any_flag: &'static str,
    ) -> Result<Part, LimitError> {
        if two.readonly {
            let reason = format!("`{}` is mounted read-only", two.mount.display());
            return Err(LimitError::NoPlace { flag: any_flag, reason });
        }
        let path = match parent {
            Some(_) => two.dir(&parent_of_two(two, parent, rest)?),
            None => two.dir(&place_in(two, rest, flag, any_flag)?),
        };
        let dir = open(&path)?;
        self.sweep(&path);
        let (name, own) = tree::make(&dir).map_err(|error| no_place(any_flag, &path, error))?;
        let entrance = match tree::open_file(&own, "cgroup.procs") {
            Ok(entrance) => entrance,
            Err(errno) => {
                let error = failed("open", path.join(&name).join("cgroup.procs"))(errno);
                abandon(&dir, &name);
                return Err(error);
            }
        };
        let part = Part { version: Version::Two, path, parent: dir, name, dir: own, entrance };
        let ours = |setting: &Setting| rest.contains(&setting.controller) || !setting.required;
        part.set(settings(&self.limits, Version::Two).into_iter().filter(ours))?;
        Ok(part)
    }

    /// Once for every place.
    fn sweep(&self, parent: &Path) {
        if self.swept.lock().unwrap_or_else(PoisonError::into_inner).insert(parent.to_owned()) {
            sweep(parent);
        }
    }
}

/// The group of one step. Dropped, it is removed, and whatever is still in it killed; that may block.
pub struct Group {
    parts: Vec<Part>,
}

/// The group in one hierarchy.
struct Part {
    version: Version,
    /// Host path of what it is in, for people.
    path: PathBuf,
    parent: OwnedFd,
    name: String,
    /// Holds the lock that says that its builder lives.
    dir: OwnedFd,
    /// Takes the process that writes to it.
    entrance: OwnedFd,
}

impl Group {
    /// What the sandbox needs to put a process into it.
    pub fn hand<'a>(&'a self, descriptors: &mut Descriptors<'a>) -> ControlGroup {
        let unified = self.parts.iter().find(|part| part.version == Version::Two);
        let directory = unified.filter(|_| self.parts.len() == 1).map(|part| descriptors.hand(part.dir.as_fd()));
        let entrances = self.parts.iter().map(|part| descriptors.hand(part.entrance.as_fd())).collect();
        ControlGroup { directory, entrances }
    }

    /// What its processes used and met so far.
    pub fn figures(&self) -> Figures {
        let mut figures = Figures::default();
        for part in &self.parts {
            figures.add(part.version, |name| tree::read(&part.dir, name).ok());
        }
        figures
    }
}

impl Part {
    fn own_path(&self) -> PathBuf {
        self.path.join(&self.name)
    }

    fn set(&self, list: impl Iterator<Item = Setting>) -> Result<(), LimitError> {
        for Setting { file, text, flag, required, .. } in list {
            match tree::write(&self.dir, file, &text) {
                Ok(()) => {}
                Err(errno) if !required => tracing::debug!(%errno, file, "a limit that nobody asked for is not set"),
                Err(errno) => {
                    let path = self.own_path().join(file);
                    return Err(LimitError::Setting { flag, text, path, source: errno.into() });
                }
            }
        }
        Ok(())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Err(error) = tree::remove(&self.parent, &self.name) {
            // Its lock goes with this value: the next start sweeps it.
            tracing::debug!(%error, group = %self.own_path().display(), "a control group is left to the next start");
        }
    }
}

/// A group that could not be put to use.
fn abandon(parent: &OwnedFd, name: &str) {
    if let Err(error) = tree::remove(parent, name) {
        tracing::debug!(%error, name, "a control group is left to the next start");
    }
}

/// The path of a parent beneath the mount. Slices are nested by their names: `a-b.slice` is in `a.slice`.
fn beneath(parent: Option<&str>, own: &str) -> Result<String, LimitError> {
    let Some(parent) = parent else { return Ok(own.to_owned()) };
    let refuse = |reason| Err(LimitError::Parent { parent: parent.to_owned(), reason });
    if parent.is_empty() || parent.contains('\0') || parent.split('/').any(|part| matches!(part, "." | "..")) {
        return refuse("it is empty, or has `.` or `..` in it");
    }
    if let (Some(stem), false) = (parent.strip_suffix(".slice"), parent.contains('/')) {
        if stem.split('-').any(str::is_empty) {
            return refuse("a slice is named `NAME.slice` or `OUTER-INNER.slice`");
        }
        let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
        return Ok(ends.map(|end| format!("/{}.slice", &stem[..end])).collect());
    }
    Ok(if parent.starts_with('/') { parent.to_owned() } else { format!("{}/{parent}", own.trim_end_matches('/')) })
}

/// Finds the place for steps in version 2, and makes it one.
fn place_in(
    two: &Hierarchy,
    rest: &BTreeSet<Controller>,
    flag: &dyn Fn(Controller) -> Option<&'static str>,
    any_flag: &'static str,
) -> Result<String, LimitError> {
    let chain = place::look(two, &own_now(two)).map_err(|error| no_place(any_flag, &two.dir(&two.own), error))?;
    let own = || two.dir(&chain[0].path);
    let choice = place::choose(&chain, rest).map_err(|refusal| match refusal {
        Refusal::Missing(controller) => LimitError::NoController {
            flag: flag(controller).unwrap_or(any_flag),
            controller,
            found: format!("no group from `{}` upwards has it", own().display()),
        },
        Refusal::NotWritable => LimitError::NoPlace {
            flag: any_flag,
            reason: format!("this process may not make groups in `{}`, nor above it", own().display()),
        },
        Refusal::Busy => LimitError::NoPlace {
            flag: any_flag,
            reason: format!("other processes are in `{}`, and no group above it takes steps", own().display()),
        },
    })?;
    let Choice { level, enable, evacuate } = choice;
    let path = two.dir(&chain[level].path);
    if evacuate {
        evacuate_into_leaf(&path)?;
    }
    pass_on(&path, &enable, rest)?;
    Ok(chain[level].path.clone())
}

/// Where this process is now: it may have moved into a leaf since it began.
fn own_now(two: &Hierarchy) -> String {
    let now = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let leaf = format!("{}/{LEAF}", two.own.trim_end_matches('/'));
    let moved = memberships(&now).any(|own| own.is_unified() && own.path.ends_with(&leaf));
    if moved { leaf } else { two.own.clone() }
}

/// Moves every process of a group into a leaf of it.
fn evacuate_into_leaf(path: &Path) -> Result<(), LimitError> {
    let dir = open(path)?;
    match rustix::fs::mkdirat(&dir, LEAF, rustix::fs::Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(failed("make", path.join(LEAF))(errno)),
    }
    let leaf = open(&path.join(LEAF))?;
    // Others may start processes meanwhile; who is not moved makes the next call fail, with its reason.
    for _ in 0..8 {
        let listed = tree::read(&dir, "cgroup.procs").map_err(failed("read", path.join("cgroup.procs")))?;
        if listed.is_empty() {
            break;
        }
        for id in listed.lines() {
            match tree::write(&leaf, "cgroup.procs", id) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => return Err(failed("move processes into", path.join(LEAF))(errno)),
            }
        }
    }
    Ok(())
}

/// Passes controllers on to the children of a group. What is only welcome may be refused.
fn pass_on(path: &Path, enable: &BTreeSet<Controller>, rest: &BTreeSet<Controller>) -> Result<(), LimitError> {
    if enable.is_empty() {
        return Ok(());
    }
    let dir = open(path)?;
    for controller in enable {
        match tree::write(&dir, "cgroup.subtree_control", &format!("+{controller}")) {
            Err(errno) if rest.contains(controller) => {
                return Err(failed("pass controllers on in", path.join("cgroup.subtree_control"))(errno));
            }
            Err(errno) => tracing::debug!(%errno, %controller, "not passed on"),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// A parent in version 2 that somebody named: made, with what is needed passed on from the root to it.
fn parent_of_two(two: &Hierarchy, parent: Option<&str>, rest: &BTreeSet<Controller>) -> Result<String, LimitError> {
    let path = beneath(parent, &two.own)?;
    made(two, &two.dir(&path))?;
    let chain = place::look(two, path.trim_end_matches('/')).map_err(|source| LimitError::Io {
        act: "look at",
        path: two.dir(&path),
        source,
    })?;
    for seen in chain.iter().rev() {
        let missing: BTreeSet<_> = rest.difference(&seen.enabled).copied().collect();
        pass_on(&two.dir(&seen.path), &missing, rest)?;
    }
    Ok(path)
}

/// The group at `path` with all above it; they stay.
fn made(hierarchy: &Hierarchy, path: &Path) -> Result<OwnedFd, LimitError> {
    let below = path.strip_prefix(&hierarchy.mount).unwrap_or(Path::new(""));
    let mut at = hierarchy.mount.clone();
    let mut dir = open(&at)?;
    for name in below.components() {
        at.push(name);
        match rustix::fs::mkdirat(&dir, name.as_os_str(), rustix::fs::Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(failed("make", at)(errno)),
        }
        let inner = open(&at)?;
        if hierarchy.has(Controller::CpuSet.name()) {
            inherit_cpuset(&dir, &inner, &at)?;
        }
        dir = inner;
    }
    Ok(dir)
}

/// In version 1 a new group has neither processors nor memory, and takes no process: it gets those of its parent.
fn inherit_cpuset(parent: &OwnedFd, dir: &OwnedFd, path: &Path) -> Result<(), LimitError> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let own = tree::read(dir, file).map_err(failed("read", path.join(file)))?;
        if own.trim().is_empty() {
            let theirs = tree::read(parent, file).map_err(failed("read", path.join("..").join(file)))?;
            tree::write(dir, file, theirs.trim()).map_err(failed("write", path.join(file)))?;
        }
    }
    Ok(())
}

/// Controllers of version 1 that are of use to us.
fn names(machine: &ControlGroups) -> String {
    let ours = Controller::ALL.iter().map(|controller| controller.name());
    ours.filter(|name| machine.legacy().any(|one| one.has(name))).collect::<Vec<_>>().join(", ")
}

fn open(path: &Path) -> Result<OwnedFd, LimitError> {
    tree::open_dir(path).map_err(failed("open", path.to_owned()))
}

fn failed(act: &'static str, path: PathBuf) -> impl FnOnce(Errno) -> LimitError {
    move |errno| LimitError::Io { act, path, source: errno.into() }
}

fn no_place(flag: &'static str, path: &Path, error: io::Error) -> LimitError {
    LimitError::NoPlace { flag, reason: format!("`{}`: {error}", path.display()) }
}

#[cfg(test)]
mod tests;
