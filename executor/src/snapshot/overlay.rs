//! Layers stacked by overlayfs, as a detached mount: it has no place in any mount table, is reached by its descriptor
//! only, and vanishes with it.
//!
//! In: an [`OverlaySpec`]. Out: the mount's root. Two ways lead there. Since Linux 6.7 every lower directory is given
//! by itself (`lowerdir+`) and 500 fit. Before, all options share one page, so names are short and relative to the
//! layers directory, and the mount is made in a mount namespace of a thread of its own and taken out of it again.
//! Names are resolved against the working directory of the thread that mounts; that thread has one of its own.
//!
//! More layers than one mount takes are stacked in two storeys: the lowest are merged by a read-only overlay of their
//! own, which is then the lowest directory of the one above. Nothing is copied. overlayfs stands on itself once, and
//! shows no deletions of what it merges, so that is where it ends, at 999 layers where a mount takes 500. Long chains
//! are of small layers, which are put together before they come here (`layers::stacks`).
//!
//! `index`, `metacopy` and `redirect_dir` are off, whatever the distribution's default: with any of them the upper
//! directory is no faithful diff. In a user namespace overlayfs keeps its marks in `user.overlay.*` (`userxattr`), and
//! then both are off anyway. A mount that is written to is `volatile`: without it, letting go of it syncs the
//! whole file system beneath; the store syncs once instead, before a build is reported as done.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci::layer::XattrNamespace;
use rustix::fs::{self, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    self, FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags,
};
use serde::{Deserialize, Serialize};

use super::{Committed, LAYERS_MAX, Mounted, SnapshotError, Snapshotter, commit, open_directory};
use crate::sys;
use crate::tree::walk::is_empty;
use crate::tree::{TreeError, attrs};

/// Most lower directories of one overlay (Linux, `OVL_MAX_STACK`).
const LOWERS_PER_MOUNT: usize = 500;
/// mount(2) takes one page of options, its last byte being 0.
const OPTIONS_MAX_BYTES: usize = 4095;
/// Options that make the upper directory a faithful diff, in the machine's first user namespace.
const FAITHFUL: &[(&str, Option<&str>)] =
    &[("index", Some("off")), ("metacopy", Some("off")), ("redirect_dir", Some("off"))];
/// The same in any other. `userxattr` refuses to be given with `redirect_dir`, and switches it and `metacopy` off.
const FAITHFUL_UNPRIVILEGED: &[(&str, Option<&str>)] = &[("index", Some("off")), ("userxattr", None)];

fn faithful() -> &'static [(&'static str, Option<&'static str>)] {
    match XattrNamespace::here() {
        XattrNamespace::Trusted => FAITHFUL,
        XattrNamespace::User => FAITHFUL_UNPRIVILEGED,
    }
}

/// An overlay as plain data. Paths are relative to the working directory of the thread that mounts it, which is the
/// layers directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlaySpec {
    /// Lower directories, topmost first.
    pub lowers: Vec<String>,
    /// Where writes go; `None` is a read-only mount.
    pub upper: Option<String>,
    /// overlayfs's scratch directory, on the file system of `upper`; there when `upper` is.
    pub work: Option<String>,
}

/// How the kernel is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountApi {
    /// fsopen(2) with one `lowerdir+` per layer, since Linux 6.7.
    LowerByLower,
    /// mount(2) with all options in one page.
    OnePage,
}

impl MountApi {
    /// The better of those that this kernel has.
    pub fn detect() -> Self {
        let release = rustix::system::uname();
        let release = release.release().to_string_lossy();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        if version >= (6, 7) { Self::LowerByLower } else { Self::OnePage }
    }
}

/// Checks before any work that `layers` trees can be stacked here.
pub fn check_layer_count(layers: usize) -> Result<(), SnapshotError> {
    if layers > LAYERS_MAX { Err(SnapshotError::TooManyLayers { layers, limit: LAYERS_MAX }) } else { Ok(()) }
}

/// Mounts `spec`, its paths relative to the directory `layers`, with nosuid, nodev, noexec: for the builder's own eyes
/// and hands, never for running anything.
pub fn mount_detached(spec: &OverlaySpec, layers: BorrowedFd<'_>, api: MountApi) -> Result<OwnedFd, SnapshotError> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC
        | MountAttrFlags::MOUNT_ATTR_NOATIME;
    check_layer_count(spec.lowers.len())?;
    std::thread::scope(|scope| {
        let mounting = std::thread::Builder::new().name("mount".into()).spawn_scoped(scope, || {
            let apart = || refused("an overlay in a thread of its own", String::new());
            sys::unshare_working_directory().map_err(apart())?;
            rustix::process::fchdir(layers).map_err(refused("an overlay beneath the layers", String::new()))?;
            if needs_places(spec, api) {
                // Mounts are first made at a place, which must be nobody else's. The working directory moves along
                // into the new namespace; descriptors do not.
                sys::unshare_mounts().map_err(apart())?;
                let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
                mount::mount_change("/", private)
                    .map_err(|errno| refused("an overlay in a thread of its own", String::new())(errno))?;
            }
            mount_here(spec, attributes, api)
        });
        match mounting.map_err(refused("an overlay: no thread", String::new()))?.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Whether a mount namespace that nobody else sees is needed to mount `spec`.
fn needs_places(spec: &OverlaySpec, api: MountApi) -> bool {
    api == MountApi::OnePage || spec.lowers.len() > lowers_per_mount(spec, api)
}

/// Mounts `spec` relative to the working directory and returns the detached mount. With [`MountApi::OnePage`], or more
/// layers than one mount takes, the caller must be in a mount namespace that nobody else sees.
pub fn mount_here(spec: &OverlaySpec, attributes: MountAttrFlags, api: MountApi) -> Result<OwnedFd, SnapshotError> {
    check_layer_count(spec.lowers.len())?;
    match (&spec.upper, spec.lowers.as_slice()) {
        // overlayfs wants something beneath; alone, a directory is itself.
        (Some(alone), []) => bind(alone, attributes),
        (None, []) => empty(attributes),
        (None, [alone]) => bind(alone, attributes | MountAttrFlags::MOUNT_ATTR_RDONLY),
        (None, _) => storeys(spec, attributes | MountAttrFlags::MOUNT_ATTR_RDONLY, api),
        (Some(_), _) => storeys(spec, attributes, api),
    }
}

/// How many lower directories one mount of `spec` takes.
fn lowers_per_mount(spec: &OverlaySpec, api: MountApi) -> usize {
    let longest = spec.lowers.iter().map(String::len).max().unwrap_or(0);
    match api {
        MountApi::LowerByLower => LOWERS_PER_MOUNT,
        MountApi::OnePage => {
            let fixed = page_options(&OverlaySpec { lowers: Vec::new(), ..spec.clone() }).len();
            (OPTIONS_MAX_BYTES.saturating_sub(fixed) / (longest + 1)).clamp(2, LOWERS_PER_MOUNT)
        }
    }
}

/// Mounts `spec` in one storey if it fits, else in two. The lower one begins at the bottom: what overlayfs merges shows
/// no deletions any more, so there must be nothing beneath for them to mean.
fn storeys(spec: &OverlaySpec, attributes: MountAttrFlags, api: MountApi) -> Result<OwnedFd, SnapshotError> {
    let most = lowers_per_mount(spec, api);
    let layers = spec.lowers.len();
    if layers <= most {
        return overlay(spec, attributes, api);
    }
    let limit = 2 * most - 1;
    if layers > limit {
        return Err(SnapshotError::TooManyLayers { layers, limit });
    }
    let (direct, group) = spec.lowers.split_at(layers - most);
    let downstairs = OverlaySpec { lowers: group.to_vec(), upper: None, work: None };
    let merged = overlay(&downstairs, MountAttrFlags::MOUNT_ATTR_RDONLY, api)?;
    // It stands where its topmost layer is: to the mount above, that name now means all of them.
    let place = group[0].as_str();
    mount::move_mount(&merged, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(refused(format!("an overlay of {layers} layers in two storeys"), String::new()))?;
    let _place = Place(place.to_owned());
    let upstairs = direct.iter().chain(&group[..1]).cloned().collect();
    overlay(&OverlaySpec { lowers: upstairs, ..spec.clone() }, attributes, api)
}

/// A directory with a mount on it, taken off again when the mount above holds what it needs.
struct Place(String);

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = mount::unmount(self.0.as_str(), UnmountFlags::DETACH) {
            // It goes with the namespace that it is in.
            tracing::debug!(place = self.0, %error, "merged layers stay mounted for a while");
        }
    }
}

fn overlay(spec: &OverlaySpec, attributes: MountAttrFlags, api: MountApi) -> Result<OwnedFd, SnapshotError> {
    match api {
        MountApi::LowerByLower => lower_by_lower(spec, attributes),
        MountApi::OnePage => one_page(spec, attributes),
    }
}

fn lower_by_lower(spec: &OverlaySpec, attributes: MountAttrFlags) -> Result<OwnedFd, SnapshotError> {
    let what = || format!("an overlay of {} layers", spec.lowers.len());
    let context = mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(refused(what(), String::new()))?;
    let configured = (|| {
        mount::fsconfig_set_string(&context, "source", "overlay")?;
        for lower in &spec.lowers {
            mount::fsconfig_set_string(&context, "lowerdir+", lower.as_str())?;
        }
        if let (Some(upper), Some(work)) = (&spec.upper, &spec.work) {
            mount::fsconfig_set_string(&context, "upperdir", upper.as_str())?;
            mount::fsconfig_set_string(&context, "workdir", work.as_str())?;
            mount::fsconfig_set_flag(&context, "volatile")?;
        }
        for (option, value) in faithful() {
            match value {
                Some(value) => mount::fsconfig_set_string(&context, *option, *value)?,
                None => mount::fsconfig_set_flag(&context, *option)?,
            }
        }
        mount::fsconfig_create(&context)?;
        mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    })();
    configured.map_err(|errno: Errno| refused(what(), kernel_log(&context))(errno))
}

fn one_page(spec: &OverlaySpec, attributes: MountAttrFlags) -> Result<OwnedFd, SnapshotError> {
    let what = || format!("an overlay of {} layers", spec.lowers.len());
    let options = page_options(spec);
    if options.len() > OPTIONS_MAX_BYTES {
        let limit = lowers_per_mount(spec, MountApi::OnePage);
        return Err(SnapshotError::TooManyLayers { layers: spec.lowers.len(), limit });
    }
    // Any directory does as a place in this namespace; the mount is taken off it at once.
    let place = spec.lowers[0].as_str();
    let options =
        std::ffi::CString::new(options).map_err(|nul| refused(what(), String::new())(std::io::Error::from(nul)))?;
    mount::mount("overlay", place, "overlay", MountFlags::empty(), Some(options.as_c_str()))
        .map_err(refused(what(), String::new()))?;
    let _place = Place(place.to_owned());
    bind(place, attributes)
}

fn page_options(spec: &OverlaySpec) -> String {
    let mut options = format!("lowerdir={}", spec.lowers.join(":"));
    if let (Some(upper), Some(work)) = (&spec.upper, &spec.work) {
        options.push_str(&format!(",upperdir={},workdir={},volatile", escaped(upper), escaped(work)));
    }
    for (option, value) in faithful() {
        match value {
            Some(value) => options.push_str(&format!(",{option}={value}")),
            None => options.push_str(&format!(",{option}")),
        }
    }
    options
}

/// A path as an option of mount(2).
fn escaped(path: &str) -> String {
    path.replace('\\', "\\\\").replace(',', "\\,")
}

/// A directory as a mount of its own.
fn bind(directory: &str, attributes: MountAttrFlags) -> Result<OwnedFd, SnapshotError> {
    let what = || format!("the directory `{directory}`");
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = mount::open_tree(CWD, directory, flags).map_err(refused(what(), String::new()))?;
    // How the host's mounts keep access times is not for a user namespace to change.
    let attributes = match XattrNamespace::here() {
        XattrNamespace::Trusted => attributes,
        XattrNamespace::User => attributes - MountAttrFlags::MOUNT_ATTR_NOATIME,
    };
    sys::add_mount_attributes(&tree, u64::from(attributes.bits())).map_err(refused(what(), String::new()))?;
    Ok(tree)
}

/// The empty tree.
fn empty(attributes: MountAttrFlags) -> Result<OwnedFd, SnapshotError> {
    let what = "an empty tree";
    let context = mount::fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(refused(what, String::new()))?;
    (|| {
        mount::fsconfig_set_string(&context, "mode", "0755")?;
        mount::fsconfig_set_string(&context, "size", "4k")?;
        mount::fsconfig_create(&context)?;
        let attributes = attributes | MountAttrFlags::MOUNT_ATTR_RDONLY;
        mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
    })()
    .map_err(|errno: Errno| refused(what, kernel_log(&context))(errno))
}

/// What the kernel wrote about a file system context: lines that begin with a letter for their weight.
fn kernel_log(context: &OwnedFd) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut buffer = [0; 1024];
    // Each read takes one message; the end is an error (ENODATA).
    while let Ok(length) = rustix::io::read(context, &mut buffer) {
        let line = String::from_utf8_lossy(&buffer[..length]);
        lines.push(line.trim_start_matches(['e', 'w', 'i']).trim().to_owned());
    }
    lines.join("; ")
}

fn refused<E: Into<std::io::Error>>(what: impl Into<String>, kernel: String) -> impl FnOnce(E) -> SnapshotError {
    let what = what.into();
    move |source| SnapshotError::Mount { what, kernel, source: source.into() }
}

/// The real snapshotter.
#[derive(Debug)]
pub struct OverlaySnapshotter {
    layers: OwnedFd,
    layers_path: PathBuf,
    api: MountApi,
}

impl OverlaySnapshotter {
    /// Stacks trees of this directory.
    pub fn new(layers_dir: &Path, api: MountApi) -> Result<Self, SnapshotError> {
        Ok(Self { layers: open_directory(layers_dir)?, layers_path: layers_dir.to_owned(), api })
    }

    /// A path as seen from the layers directory; short where both are in the store.
    fn relative(&self, path: &Path) -> Result<String, SnapshotError> {
        let beside = self.layers_path.parent().and_then(|store| path.strip_prefix(store).ok());
        let path = beside.map_or_else(|| path.to_owned(), |beside| Path::new("..").join(beside));
        let no_text = || SnapshotError::io("mount on", &path)(std::io::Error::other("a path of UTF-8 is needed here"));
        path.to_str().map(str::to_owned).ok_or_else(no_text)
    }
}

fn open_path(path: &Path) -> Result<OwnedFd, SnapshotError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    fs::open(path, flags, Mode::empty()).map_err(SnapshotError::io("open", path))
}

impl Snapshotter for OverlaySnapshotter {
    fn view(&self, lowers: &[String]) -> Result<Mounted, SnapshotError> {
        let spec = OverlaySpec { lowers: lowers.to_vec(), upper: None, work: None };
        mount_detached(&spec, self.layers.as_fd(), self.api).map(Mounted::new)
    }

    fn seed(&self, lowers: &[String], upper: &Path) -> Result<(), SnapshotError> {
        check_layer_count(lowers.len())?;
        let Some(top) = lowers.first() else { return Ok(()) };
        let upper_fd = open_directory(upper)?;
        let below = crate::tree::resolve::open_dir_at(self.layers.as_fd(), top.as_bytes())
            .map_err(SnapshotError::io("open", &self.layers_path.join(top)))?;
        attrs::copy_dir_attributes(below.as_fd(), upper_fd.as_fd()).map_err(TreeError::io("set attributes of", b""))?;
        Ok(())
    }

    fn prepare(&self, lowers: &[String], upper: &Path, work: &Path) -> Result<Mounted, SnapshotError> {
        self.seed(lowers, upper)?;
        let (upper_fd, work_fd) = (open_path(upper)?, open_path(work)?);
        let mut spec = OverlaySpec { lowers: lowers.to_vec(), upper: None, work: None };
        // fsconfig(2) takes 255 bytes: a path to a descriptor is short. But a descriptor leads into the namespace that
        // it was opened in; in another one a path is needed.
        let by_path = needs_places(&OverlaySpec { upper: Some(String::new()), ..spec.clone() }, self.api);
        let name = |path: &Path, fd: &OwnedFd| match by_path {
            false => Ok(format!("/proc/self/fd/{}", fd.as_raw_fd())),
            true => self.relative(path),
        };
        spec.upper = Some(name(upper, &upper_fd)?);
        spec.work = Some(name(work, &work_fd)?);
        mount_detached(&spec, self.layers.as_fd(), self.api).map(Mounted::new)
    }

    fn commit(&self, lowers: &[String], upper: &Path) -> Result<Committed, SnapshotError> {
        let upper = open_directory(upper)?;
        let below = match lowers {
            [] => None,
            // Nothing has namesakes: all that may differ is the root, which the topmost layer has.
            [top, ..] if is_empty(upper.as_fd(), b"")? => {
                Some(Mounted::new(open_directory(&self.layers_path.join(top))?))
            }
            _ => Some(self.view(lowers)?),
        };
        commit::reduce(upper, below.as_ref().map(Mounted::fd), commit::Form::Diff)
    }
}
