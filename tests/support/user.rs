//! An ordinary user of the machine, made for one test and taken away with the value.
//!
//! Its name begins with `rbuild-test-` and the number of the process that made it; whoever makes the next one
//! removes those of dead processes. Its home, with its store, lies in a directory of its own.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rustix::fs::{FlockOperation, flock};

use super::Outcome;

const PREFIX: &str = "rbuild-test-";

/// A user.
pub struct User {
    name: String,
    /// Its number, and that of its group.
    pub id: u32,
}

impl User {
    /// With subordinate ids, as the machine's settings give them to every new user.
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// Without subordinate ids.
    pub fn without_ids() -> Self {
        Self::with(&["-K", "SUB_UID_COUNT=0", "-K", "SUB_GID_COUNT=0"])
    }

    /// With subordinate ids, and a home where programs look that ask the machine's accounts; it is given to the user.
    pub fn with_home(path: &Path) -> Self {
        let user = Self::with(&["--home-dir", path.to_str().expect("a path of tests is text")]);
        user.give(path);
        user
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn with(options: &[&str]) -> Self {
        let _lock = lock();
        sweep();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let mut command = Command::new("useradd");
        command.args(["--no-create-home", "--home-dir", "/nonexistent", "--shell", "/bin/sh", "--user-group"]);
        Outcome::of(command.args(options).arg(&name)).ok();
        let id = Outcome::of(Command::new("id").args(["-u", &name])).ok().stdout.trim().parse().expect("a number");
        Self { name, id }
    }

    /// Gives it everything beneath `path`, which it must be able to reach.
    pub fn give(&self, path: &Path) {
        assert!(is_reachable(path), "{path:?} lies beneath what is closed to other users");
        Outcome::of(Command::new("chown").args(["-Rh", &format!("{}:{}", self.id, self.id)]).arg(path)).ok();
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _lock = lock();
        remove(&self.name);
    }
}

/// Files of accounts are changed by one test at a time; useradd(8) does not wait for others.
fn lock() -> File {
    let path = super::room().join("users.lock");
    let file = File::create(&path).expect("the room can be written to");
    flock(&file, FlockOperation::LockExclusive).expect("a local file can be locked");
    file
}

fn remove(name: &str) {
    let outcome = Outcome::of(Command::new("userdel").arg("--force").arg(name));
    assert!(outcome.code == Some(0) || std::thread::panicking(), "{outcome}");
}

/// Removes users of dead processes.
fn sweep() {
    let accounts = std::fs::read_to_string("/etc/passwd").expect("there are accounts");
    let names = accounts.lines().filter_map(|line| line.split(':').next());
    for name in names.filter(|name| name.starts_with(PREFIX)) {
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists()) {
            remove(name);
        }
    }
}

/// Whether everybody can go to `path`: a target directory below a closed home is of no use to other users.
pub fn is_reachable(path: &Path) -> bool {
    let mode = |above: &Path| above.metadata().unwrap_or_else(|error| panic!("{above:?}: {error}")).mode();
    path.ancestors().skip(1).all(|above| mode(above) & 0o001 != 0)
}
