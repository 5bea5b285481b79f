//! What the host itself needs for a bridge: its other interfaces pass packets on. Counted over all builds, put back by
//! the last one.
//!
//! ```text
//! /run/rbuild/
//!   network.lock                held while anything below is looked at or changed
//!   network-<namespace>/        of one network namespace of this machine, by its inode number
//!     <id>                      a network that a builder has; flocked by it for its whole life
//!     forwarding                interfaces, one per line, that passed nothing on before the first of these came
//! ```
//! A file `<id>` that nobody holds is a killed builder's: whoever comes next removes what still bears its name. Deleted
//! when the last one goes: the folder of the namespace.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use super::link::Links;
use super::rules;
use super::trouble::{Trouble, at};

const RUN: &str = "/run/rbuild";
/// What the names of our interfaces and tables begin with; an id follows.
pub const PREFIX: &str = "rbuild";
const FORWARDING: &str = "forwarding";

/// The lock, and where the notes are.
pub struct Notes {
    _lock: File,
    dir: PathBuf,
}

/// A network that this process has; its file is locked.
pub struct Entry {
    _held: File,
    id: String,
}

impl Notes {
    /// Waits until nobody else looks at or changes anything. Of this thread's network namespace.
    pub fn open() -> Result<Self, Trouble> {
        let run = Path::new(RUN);
        let namespace = fs::metadata("/proc/self/ns/net").map_err(at("look at", "/proc/self/ns/net"))?.ino();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(run).map_err(at("make", run))?;
        let path = run.join("network.lock");
        let lock = File::options().write(true).create(true).truncate(false).open(&path).map_err(at("open", &path))?;
        lock.lock().map_err(at("lock", &path))?;
        Ok(Self { _lock: lock, dir: run.join(format!("network-{namespace}")) })
    }

    /// Removes what killed builders left, and puts back what they had changed if nobody is left who needs it.
    pub fn sweep(&self, links: &mut Links) -> Result<(), Trouble> {
        let mut is_used = false;
        for entry in self.entries()? {
            let path = self.dir.join(&entry);
            let file = File::open(&path).map_err(at("open", &path))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    is_used = true;
                    continue;
                }
                Err(TryLockError::Error(error)) => return Err(at("lock", &path)(error)),
            }
            let name = format!("{PREFIX}{entry}");
            // Usually the kernel has taken both along with their owner.
            absent_is_fine(links.remove(&name)).map_err(at("remove the interface", &name))?;
            absent_is_fine(rules::remove(&name)).map_err(at("remove the packet rules", &name))?;
            fs::remove_file(&path).map_err(at("remove", &path))?;
        }
        if is_used { Ok(()) } else { self.put_back() }
    }

    /// Notes that this process has the network `id`.
    pub fn enter(&self, id: &str) -> Result<Entry, Trouble> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(at("make", &self.dir))?;
        let path = self.dir.join(id);
        let held = File::options().write(true).create_new(true).open(&path).map_err(at("make", &path))?;
        held.lock().map_err(at("lock", &path))?;
        Ok(Entry { _held: held, id: id.into() })
    }

    /// Forgets it, and puts everything back when it was the last one.
    pub fn leave(&self, entry: Entry, links: &mut Links) -> Result<(), Trouble> {
        let path = self.dir.join(&entry.id);
        fs::remove_file(&path).map_err(at("remove", &path))?;
        drop(entry);
        self.sweep(links)
    }

    /// Lets packets that come in through these interfaces be passed on. Gives all that pass on because of us, of
    /// whichever build.
    pub fn switch_on(&self, interfaces: &[String]) -> Result<Vec<String>, Trouble> {
        let mut switched = self.switched()?;
        for interface in interfaces.iter().filter(|interface| !switched.contains(interface)).collect::<Vec<_>>() {
            let path = setting(interface);
            if fs::read_to_string(&path).map_err(at("read", &path))?.trim() != "0" {
                continue;
            }
            let notes = self.dir.join(FORWARDING);
            // First the note: killed in between, there is something to put back that needs no putting back.
            let mut file = File::options().append(true).create(true).open(&notes).map_err(at("open", &notes))?;
            writeln!(file, "{interface}").map_err(at("write", &notes))?;
            fs::write(&path, "1").map_err(at("write", &path))?;
            switched.push(interface.clone());
        }
        Ok(switched)
    }

    fn put_back(&self) -> Result<(), Trouble> {
        // If it was switched on for all meanwhile, somebody else needs it now.
        let everywhere = setting("all");
        if fs::read_to_string(&everywhere).map_err(at("read", &everywhere))?.trim() == "0" {
            for interface in self.switched()? {
                let path = setting(&interface);
                absent_is_fine(fs::write(&path, "0")).map_err(at("write", &path))?;
            }
        }
        absent_is_fine(fs::remove_dir_all(&self.dir)).map_err(at("remove", &self.dir))
    }

    fn switched(&self) -> Result<Vec<String>, Trouble> {
        let path = self.dir.join(FORWARDING);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.lines().map(String::from).collect()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(at("read", &path)(error)),
        }
    }

    fn entries(&self) -> Result<Vec<String>, Trouble> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(at("list", &self.dir)(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(at("list", &self.dir))?.file_name().to_string_lossy().into_owned();
            if name != FORWARDING {
                names.push(name);
            }
        }
        Ok(names)
    }
}

/// Lets packets that come in through an interface of this thread's network namespace be passed on.
pub fn forward_from(interface: &str) -> Result<(), Trouble> {
    let path = setting(interface);
    fs::write(&path, "1").map_err(at("write", &path))
}

fn setting(interface: &str) -> PathBuf {
    Path::new("/proc/sys/net/ipv4/conf").join(interface).join("forwarding")
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENOENT)) => Ok(()),
        result => result,
    }
}
