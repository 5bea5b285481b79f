//! Who runs this process, as it was before it entered a user namespace.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{Mode, OFlags};

use super::ids::{Range, subordinate};

/// Where set-uid programs of the machine are, whatever `PATH` says.
const PROGRAM_FOLDERS: [&str; 5] = ["/usr/bin", "/bin", "/usr/local/bin", "/usr/sbin", "/sbin"];

/// Who runs this process, and what the machine gives to it.
#[derive(Clone, Debug)]
pub struct Who {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Its name, where one can be found.
    pub name: Option<String>,
    /// Subordinate user ids.
    pub uids: Vec<Range>,
    /// Subordinate group ids.
    pub gids: Vec<Range>,
    /// newuidmap(1).
    pub newuidmap: Option<PathBuf>,
    /// newgidmap(1).
    pub newgidmap: Option<PathBuf>,
}

impl Who {
    /// The user of this process; `path` is the variable `PATH`.
    pub fn here(path: Option<&OsString>) -> Self {
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let name = name_in(&read("/etc/passwd"), uid).or_else(|| std::env::var("USER").ok());
        let program = |name: &str| {
            let folders = path.map(std::env::split_paths).into_iter().flatten();
            let folders = folders.filter(|folder| folder.is_absolute());
            let folders = folders.chain(PROGRAM_FOLDERS.iter().map(PathBuf::from));
            folders.map(|folder| folder.join(name)).find(|file: &PathBuf| is_program(file))
        };
        Self {
            uid,
            gid,
            uids: subordinate(&read("/etc/subuid"), name.as_deref(), uid),
            gids: subordinate(&read("/etc/subgid"), name.as_deref(), uid),
            name,
            newuidmap: program("newuidmap"),
            newgidmap: program("newgidmap"),
        }
    }

    /// The name, or the number.
    pub fn shown(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.uid.to_string())
    }
}

fn is_program(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}

/// The first name of a user in a text like `/etc/passwd`.
fn name_in(passwd: &str, uid: u32) -> Option<String> {
    let number = uid.to_string();
    let entry = |line: &str| {
        let mut fields = line.split(':');
        let (name, found) = (fields.next()?, fields.nth(1)?);
        (found == number && !name.is_empty()).then(|| name.to_owned())
    };
    passwd.lines().find_map(entry)
}

/// What was before this process entered a user namespace.
struct Before {
    uid: u32,
    gid: u32,
    binary: OwnedFd,
}

static BEFORE: OnceLock<Before> = OnceLock::new();

/// The user and group that this process had before it entered a user namespace; `None` if it has not.
pub fn entered_by() -> Option<(u32, u32)> {
    BEFORE.get().map(|before| (before.uid, before.gid))
}

/// This process's binary, as a place in the mount namespace that came with the user namespace; `None` if it has not
/// entered any. `/proc/self/exe` still leads into the old one, of which nothing can be mounted here.
pub(crate) fn own_binary() -> Option<BorrowedFd<'static>> {
    BEFORE.get().map(|before| before.binary.as_fd())
}

/// Keeps who it was. To be called at once, while the binary is where it was started from.
pub(super) fn remember(who: &Who) -> io::Result<()> {
    let running = rustix::fs::stat("/proc/self/exe")?;
    let path = std::fs::read_link("/proc/self/exe")?;
    let binary = rustix::fs::open(&path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let found = rustix::fs::fstat(&binary)?;
    if (found.st_dev, found.st_ino) != (running.st_dev, running.st_ino) {
        return Err(io::Error::other(format!("`{}` is not the program that runs", path.display())));
    }
    BEFORE.get_or_init(|| Before { uid: who.uid, gid: who.gid, binary });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::name_in;

    #[test]
    fn a_name_is_found_by_its_number() {
        let passwd = "root:x:0:0::/root:/bin/sh\nbroken\nalice:x:1000:1000::/home/alice:/bin/sh\nother:x:1000:1::/:\n";
        for (uid, expected) in [(0, Some("root")), (1000, Some("alice")), (10, None), (1, None)] {
            assert_eq!(name_in(passwd, uid).as_deref(), expected, "{uid}");
        }
    }
}
