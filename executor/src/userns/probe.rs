//! Whether steps can have user namespaces of their own on the store's file system: tried once per build, by a process
//! with one thread (this binary as [`ARGV0`]), before the first step.
//!
//! Layers are mapped and stacked, something is written and something deleted, and what lies on disk is looked at: it must
//! be what a step of the machine's root would have left.

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::{AtFlags, FileType, Mode};
use rustix::mount::{MountPropagationFlags, mount_change};

use super::{IdMap, UsernsError, make};
use crate::sandbox::plan::Flags;
use crate::sandbox::spec::Upper;
use crate::sandbox::{self, Mapping, Overlay, Stage, overlay as overlay_of, own_files};
use crate::sys;

/// The name by which the binary knows that it is to try.
const ARGV0: &str = "rbuild-userns";

/// Tries it in `dir`, an empty directory of ours. Blocking.
///
/// # Errors
/// With what cannot be had, and why.
pub fn probe(helper: &sandbox::Settings, dir: &Path, ids: &IdMap) -> Result<(), UsernsError> {
    let ids = serde_json::to_string(ids).map_err(|error| UsernsError::io("name ids")(error.into()))?;
    let mut command = Command::new(helper.helper_path());
    command.arg0(ARGV0).arg(dir).arg(ids).env_clear().stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().map_err(UsernsError::io("start the process that tries user namespaces"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let detail = if said.is_empty() { format!("the process that tried it ended with {}", output.status) } else { said };
    Err(UsernsError::Store { path: dir.to_owned(), detail })
}

/// Tries it if this process was started for that, and then never returns.
pub(crate) fn become_probe_if_asked(name: &OsStr) {
    if name != ARGV0 {
        return;
    }
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let tried = match words.as_slice() {
        [dir, ids] => serde_json::from_slice(ids.as_bytes())
            .map_err(|error| error.to_string())
            .and_then(|ids| attempt(Path::new(dir), &ids)),
        _ => Err("a directory and ids are expected".into()),
    };
    if let Err(detail) = &tried {
        println!("{detail}");
    }
    std::process::exit(tried.map_or(1, |()| 0))
}

fn attempt(dir: &Path, ids: &IdMap) -> Result<(), String> {
    let made = make::make(ids, false).map_err(|error| error.line())?;
    let failed = |act: &str| {
        let act = act.to_owned();
        move |error: io::Error| format!("{act}: {error}")
    };
    for name in ["layers", "layers/one", "layers/two", "upper", "work"] {
        std::fs::create_dir(dir.join(name)).map_err(failed("make layers"))?;
    }
    std::fs::write(dir.join("layers/one/file"), "lower").map_err(failed("make layers"))?;
    sys::unshare_mounts().map_err(failed("make a mount namespace"))?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|errno| failed("make mounts private")(errno.into()))?;
    own_files(ids).map_err(|trouble| format!("make files as another user: {}", trouble.detail))?;

    let mut stage = Stage::new().map_err(|error| error.to_string())?;
    let upper = Upper { dir: dir.join("upper"), work: dir.join("work") };
    let lowers = ["two", "one"].map(String::from).to_vec();
    let overlay = Overlay { layers_dir: dir.join("layers"), lowers, upper: Some(upper) };
    let mapping = Mapping::of(made.user.as_fd());
    let tree = overlay_of(&overlay, Flags::default(), &mut stage, Some(mapping)).map_err(|error| error.to_string())?;
    let seen = rustix::fs::statat(&tree, "file", AtFlags::SYMLINK_NOFOLLOW).map_err(|errno| errno.to_string())?;
    if Some(seen.st_uid) != ids.user(0) {
        return Err(format!("a file of root is seen as one of {}", seen.st_uid));
    }
    rustix::fs::mkdirat(&tree, "made", Mode::RWXU).map_err(|errno| failed("make a directory")(errno.into()))?;
    rustix::fs::unlinkat(&tree, "file", AtFlags::empty()).map_err(|errno| failed("delete a file")(errno.into()))?;
    drop(tree);

    let made = dir.join("upper/made").metadata().map_err(failed("look at what was made"))?;
    if (made.uid(), made.gid()) != (0, 0) {
        return Err(format!("what root makes lies on disk as {}:{}", made.uid(), made.gid()));
    }
    let mark = dir.join("upper/file").symlink_metadata().map_err(failed("look at what was deleted"))?;
    if FileType::from_raw_mode(mark.mode()) != FileType::CharacterDevice || mark.rdev() != 0 {
        return Err("a deletion is marked in another way".into());
    }
    Ok(())
}
