//! The process's surroundings, read once: variables, working directory, who runs it, which streams are terminals.
//!
//! Everything that decides something from the surroundings takes an [`Environment`], so tests make one by hand.
//! Deliberately absent: deciding.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

/// What surrounds the process.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// The variables.
    pub variables: BTreeMap<OsString, OsString>,
    /// The working directory; absolute.
    pub working_directory: PathBuf,
    /// Whether the effective user is root.
    pub root_user: bool,
    /// Whether standard input is a terminal.
    pub stdin_terminal: bool,
    /// Whether standard output is a terminal.
    pub stdout_terminal: bool,
    /// Whether standard error is a terminal.
    pub stderr_terminal: bool,
}

impl Environment {
    /// That of this process.
    ///
    /// # Errors
    /// When there is no working directory: it was removed, or may not be entered.
    pub fn read() -> std::io::Result<Self> {
        Ok(Self {
            variables: std::env::vars_os().collect(),
            working_directory: std::env::current_dir()?,
            root_user: rustix::process::geteuid().is_root(),
            stdin_terminal: std::io::stdin().is_terminal(),
            stdout_terminal: std::io::stdout().is_terminal(),
            stderr_terminal: std::io::stderr().is_terminal(),
        })
    }

    /// A variable; an empty one counts as unset.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// A variable that is text; an empty one counts as unset. What is no UTF-8 is shown with replacement characters,
    /// which no setting accepts.
    pub fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(|value| value.to_string_lossy().into_owned())
    }

    /// A variable that holds a directory. A relative one is ignored, as the XDG base directory specification asks.
    pub fn directory(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    /// Whether a runner of GitHub Actions reads what is printed.
    pub fn github_actions(&self) -> bool {
        self.says_yes("GITHUB_ACTIONS")
    }

    /// An absolute path as tools of a code host want it: from the root of the checkout, where that is known, else from
    /// the working directory.
    pub fn in_checkout(&self, path: &Path) -> PathBuf {
        let workspace = self.directory("GITHUB_WORKSPACE");
        let root = workspace.as_deref().unwrap_or(&self.working_directory);
        path.strip_prefix(root).unwrap_or(path).to_owned()
    }

    /// Whether colours suit standard output.
    pub fn color_stdout(&self) -> bool {
        self.stdout_terminal && self.get("TERM").is_none_or(|term| term != "dumb") && self.get("NO_COLOR").is_none()
    }

    /// Whether colours suit standard error: a terminal that is not dumb, and no `NO_COLOR`.
    pub fn color_stderr(&self) -> bool {
        self.fine_stderr() && self.get("NO_COLOR").is_none()
    }

    /// Whether standard error is a terminal that moves its cursor when told.
    pub fn fine_stderr(&self) -> bool {
        self.stderr_terminal && self.get("TERM").is_none_or(|term| term != "dumb")
    }

    /// Whether a variable says yes: set, and neither `0` nor `false`.
    pub fn says_yes(&self, name: &str) -> bool {
        self.get(name).is_some_and(|value| value != "0" && !value.eq_ignore_ascii_case("false"))
    }
}
