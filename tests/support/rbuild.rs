//! The binary under test: a store of its own, contexts to build from, and what a command said.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use super::user::{User, is_reachable};
use super::{bases, room, temp_dir};

/// The binary under test.
pub const RBUILD: &str = env!("CARGO_BIN_EXE_rbuild");

/// A store in a directory of its own, with a home directory of its own beside it.
pub struct Store {
    dir: TempDir,
    /// Who runs the commands, if it is not root.
    user: Option<User>,
}

impl Store {
    /// Nothing in it.
    pub fn new() -> Self {
        let dir = temp_dir();
        std::fs::create_dir(dir.path().join("home")).expect("the directory is new");
        Self { dir, user: None }
    }

    /// Nothing in it, and commands are run by `user`.
    pub fn of(user: User) -> Self {
        let store = Self { user: None, ..Self::new() };
        user.give(store.dir.path());
        Self { user: Some(user), ..store }
    }

    /// Holds `busybox:latest`, and commands are run by `user`.
    pub fn of_with_busybox(user: User) -> Self {
        let store = Self::of(user);
        store.rbuild(["import".as_ref(), bases::busybox().as_os_str(), "busybox:latest".as_ref()]).ok();
        store
    }

    /// The stores of everybody who builds, with `busybox:latest`: root's; that of an ordinary user, whose steps have no
    /// network unless they say so, as a way out takes a device that is root's on some machines; and that of a root whose
    /// steps have user namespaces.
    pub fn everybodys() -> Vec<Self> {
        Self::everybodys_of(&bases::busybox(), "busybox:latest")
    }

    /// The same with another base.
    pub fn everybodys_of(base: &Path, name: &str) -> Vec<Self> {
        let (root, user, mapped) = (Self::new(), Self::of(User::new()), Self::new());
        user.configure("network = 'none'\n");
        mapped.configure("userns = 'auto'\n");
        let stores = vec![root, user, mapped];
        stores.iter().for_each(|store| {
            store.rbuild(["import".as_ref(), base.as_os_str(), name.as_ref()]).ok();
        });
        stores
    }

    /// Writes the user's `config.toml`.
    pub fn configure(&self, text: &str) {
        let folder = self.home().join(".config/rbuild");
        std::fs::create_dir_all(&folder).expect("the home is ours");
        std::fs::write(folder.join("config.toml"), text).expect("the home is ours");
        if let Some(user) = &self.user {
            user.give(&self.home());
        }
    }

    /// The binary under test, where the user can reach it.
    pub fn program(&self) -> PathBuf {
        let own = PathBuf::from(RBUILD);
        if self.user.is_none() || is_reachable(&own) {
            return own;
        }
        let found = own.metadata().expect("it was built");
        let name = format!("rbuild-{}-{}-{}", found.dev(), found.ino(), found.mtime_nsec());
        let reachable = room().join(name);
        if !reachable.exists() {
            let beside = temp_dir();
            let copy = beside.path().join("rbuild");
            std::fs::copy(&own, &copy).expect("the room can be written to");
            // Whoever is first; the others' is the same.
            std::fs::rename(&copy, &reachable).expect("both are in the room");
        }
        reachable
    }

    /// Who runs the commands, if it is not root.
    pub fn user(&self) -> Option<&User> {
        self.user.as_ref()
    }

    /// Holds `busybox:latest`.
    pub fn with_busybox() -> Self {
        let store = Self::new();
        store.rbuild(["import".as_ref(), bases::busybox().as_os_str(), "busybox:latest".as_ref()]).ok();
        store
    }

    /// Holds `debian:12-slim`.
    pub fn with_debian() -> Self {
        let store = Self::new();
        store.rbuild(["import".as_ref(), bases::debian().as_os_str(), "debian:12-slim".as_ref()]).ok();
        store
    }

    /// The store's root.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// The home directory that commands see.
    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// A path beside the store that nothing else uses.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `rbuild ARGS…` on this store, not yet started, with an environment that holds nothing of the machine's.
    pub fn command<I: IntoIterator<Item = A>, A: AsRef<OsStr>>(&self, args: I) -> Command {
        let mut command = Command::new(self.program());
        command.args(args).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", self.home()).env("RBUILD_ROOT", self.root()).current_dir(self.dir.path());
        command.stdin(Stdio::null());
        if let Some(user) = &self.user {
            command.uid(user.id).gid(user.id);
        }
        command
    }

    /// Runs `rbuild ARGS…` on this store to its end.
    pub fn rbuild<I: IntoIterator<Item = A>, A: AsRef<OsStr>>(&self, args: I) -> Outcome {
        Outcome::of(&mut self.command(args))
    }

    /// `rbuild build --progress=plain ARGS… CONTEXT`, not yet started.
    pub fn build_command<I: IntoIterator<Item = A>, A: AsRef<OsStr>>(&self, context: &Context, args: I) -> Command {
        let mut words: Vec<OsString> = ["build", "--progress=plain"].map(OsString::from).into();
        words.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        words.push(context.path().as_os_str().to_owned());
        if let Some(user) = &self.user {
            user.give(context.path());
        }
        self.command(words)
    }

    /// Builds `context` to the end.
    pub fn build<I: IntoIterator<Item = A>, A: AsRef<OsStr>>(&self, context: &Context, args: I) -> Outcome {
        Outcome::of(&mut self.build_command(context, args))
    }

    /// Builds `context`, which must go well, and returns the image id.
    pub fn image_id<I: IntoIterator<Item = A>, A: AsRef<OsStr>>(&self, context: &Context, args: I) -> String {
        let file = self.path("iid");
        let mut words: Vec<OsString> = vec!["--iidfile".into(), file.clone().into()];
        words.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self.build(context, words).ok();
        std::fs::read_to_string(&file).expect("`--iidfile` was asked for")
    }

    /// Names of what has not been finished: drafts that a dead process left.
    pub fn drafts(&self) -> Vec<OsString> {
        let Ok(entries) = std::fs::read_dir(self.root().join("tmp")) else { return Vec::new() };
        entries.map(|entry| entry.expect("the store's tmp/ can be read").file_name()).collect()
    }
}

/// A build context.
pub struct Context {
    dir: TempDir,
}

impl Context {
    /// Holds only this Dockerfile.
    pub fn new(dockerfile: &str) -> Self {
        Self { dir: temp_dir() }.file("Dockerfile", dockerfile)
    }

    /// Holds nothing.
    pub fn empty() -> Self {
        Self { dir: temp_dir() }
    }

    /// Adds or replaces a file; its directories are made.
    pub fn file(self, path: &str, contents: impl AsRef<[u8]>) -> Self {
        self.write(path, contents);
        self
    }

    /// Adds or replaces a file; its directories are made.
    pub fn write(&self, path: &str, contents: impl AsRef<[u8]>) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a file has a directory")).expect("the context can be written");
        std::fs::write(&path, contents).expect("the context can be written");
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

/// How a command ended and what it said.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    command: String,
}

impl Outcome {
    /// Runs `command` to its end.
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        Self::from_output(format!("{command:?}"), &output)
    }

    /// What `output` says, of the command that is shown as `command`.
    pub fn from_output(command: String, output: &Output) -> Self {
        Self {
            code: output.status.code(),
            signal: output.status.signal(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            command,
        }
    }

    /// It must have gone well.
    #[track_caller]
    pub fn ok(self) -> Self {
        self.exits(0)
    }

    /// It must have ended with this code, and never by a panic.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert!(!self.stderr.contains("panicked at"), "{self}");
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// It must have failed with exactly one error that holds all these words.
    #[track_caller]
    pub fn fails_saying(self, words: &[&str]) -> Self {
        let outcome = self.exits(1);
        let errors = outcome.stderr.lines().filter(|line| line.starts_with("error")).count();
        assert_eq!(errors, 1, "not one error: {outcome}");
        outcome.says(words)
    }

    /// Standard error must hold all these words.
    #[track_caller]
    pub fn says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(self.stderr.contains(word), "`{word}` is not said: {self}");
        }
        self
    }

    /// Standard error must hold none of these words.
    #[track_caller]
    pub fn never_says(self, words: &[&str]) -> Self {
        for word in words {
            assert!(!self.stderr.contains(word), "`{word}` is said: {self}");
        }
        self
    }

    /// No step must have printed a line that begins with one of these words.
    #[track_caller]
    pub fn never_prints(self, beginnings: &[&str]) -> Self {
        for beginning in beginnings {
            let printed = self.printed().any(|line| line.starts_with(beginning));
            assert!(!printed, "a step printed `{beginning}…`: {self}");
        }
        self
    }

    /// How often steps printed the line `text`, shown as `#5 0.123 text`.
    pub fn lines_of_steps(&self, text: &str) -> usize {
        self.printed().filter(|line| *line == text).count()
    }

    /// The lines that steps printed, without number and time.
    fn printed(&self) -> impl Iterator<Item = &str> {
        self.stderr.lines().filter_map(|line| {
            let mut words = line.strip_prefix('#')?.splitn(3, ' ');
            words.next()?.parse::<u32>().ok()?;
            words.next()?.parse::<f64>().ok()?;
            words.next()
        })
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { code, signal, stdout, stderr, command } = self;
        write!(f, "{command}\ncode {code:?}, signal {signal:?}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}
