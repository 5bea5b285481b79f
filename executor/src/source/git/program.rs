//! One run of the `git` program.
//!
//! In: arguments, and the remote it may talk to. Out: what it printed, or an error with its last words. Its environment
//! is made from nothing: no configuration of the system or the user, no hooks, no prompts, an empty home, only the
//! transports that the remote needs. `sh` sets umask and resource limits and becomes git. Output is bounded; a
//! canceled or dropped run is killed with all its children. Deliberately absent: what the arguments mean.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use store::Store;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::GitError;
use super::access::{Access, Authorization, Kind};
use super::remote::{Remote, Transport};
use crate::source::Connectivity;

/// Hard limits of every git: the memory of one that lists references, which a hostile server can make it fill.
const LIST_MEMORY_KIB: u64 = 2 << 20;
/// The largest file of a fetch, so that a server which never stops fills no disk. The largest repositories known have
/// packs of this size; a shallow fetch gets a fraction of that.
const FILE_MAX_BYTES: u64 = 16 << 30;
/// Listing references takes seconds.
const LIST_TIME: Duration = Duration::from_secs(300);
/// What is kept of git's words.
const WORDS_KEPT_BYTES: usize = 8 << 10;
/// Lines of them that are shown.
const WORDS_SHOWN_LINES: usize = 6;
/// Output that is read into memory: a million references, or the index of a million files.
const OUTPUT_MAX_BYTES: usize = 256 << 20;

/// Settings of every run. What they switch off could run programs, ask people, or reach beyond the repository.
const SETTINGS: &[(&str, &str)] = &[
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.untrackedCache", "false"),
    ("core.askPass", ""),
    ("core.protectHFS", "true"),
    ("core.protectNTFS", "true"),
    ("core.attributesFile", "/dev/null"),
    ("core.excludesFile", "/dev/null"),
    ("core.autocrlf", "false"),
    ("credential.helper", ""),
    ("advice.detachedHead", "false"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("init.defaultBranch", "main"),
    ("submodule.recurse", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("fetch.writeCommitGraph", "false"),
    // Packs arrive whole or not at all; loose objects one by one.
    ("fetch.unpackLimit", "1"),
    ("transfer.unpackLimit", "1"),
    ("transfer.fsckObjects", "true"),
    ("fetch.fsckObjects", "true"),
    // Mistakes of old programs that stand in the history of honest repositories and harm nobody.
    ("fetch.fsck.zeroPaddedFilemode", "ignore"),
    ("fetch.fsck.badTimezone", "ignore"),
    ("fetch.fsck.missingSpaceBeforeDate", "ignore"),
    ("transfer.bundleURI", "false"),
    ("transfer.credentialsInUrl", "die"),
    ("protocol.allow", "never"),
    ("protocol.file.allow", "never"),
    ("protocol.ext.allow", "never"),
    ("http.followRedirects", "initial"),
    // Less than a byte a second for a minute.
    ("http.lowSpeedLimit", "1"),
    ("http.lowSpeedTime", "60"),
    ("http.sslVerify", "true"),
];

/// Variables of the user that decide how the network is reached.
const HANDED_ON: &[&str] = &[
    "http_proxy",
    "https_proxy",
    "HTTPS_PROXY",
    "all_proxy",
    "ALL_PROXY",
    "no_proxy",
    "NO_PROXY",
    "GIT_SSL_CAINFO",
    "GIT_SSL_CAPATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
];

/// The user's `~/.ssh/config` holds, but nothing is asked, no key file is read, nothing of the user's is forwarded.
const SSH: &str = "ssh -oBatchMode=yes -oStrictHostKeyChecking=yes -oIdentityFile=none -oForwardAgent=no \
                   -oForwardX11=no -oClearAllForwardings=yes -oPermitLocalCommand=no -oConnectTimeout=30 \
                   -oServerAliveInterval=15 -oServerAliveCountMax=4";

/// Hands the address's own credentials to git, and to nobody but the host they are for. They come in variables: what
/// stands on a command line is seen by every user of the machine.
const CREDENTIALS: &str = "!credentials() { if [ \"$1\" = get ]; then printf 'username=%s\\npassword=%s\\n' \
                           \"$RBUILD_GIT_USER\" \"$RBUILD_GIT_PASSWORD\"; fi; }; credentials";

/// What `sh` does before it becomes git. A limit that is lower already stays.
const BEGIN: &str = "umask 022; \
                     if [ \"$1\" != 0 ]; then ulimit -v \"$1\" 2>/dev/null || :; fi; \
                     ulimit -f \"$2\" 2>/dev/null || :; \
                     ulimit -c 0 2>/dev/null || :; \
                     shift 2; exec \"$@\"";

/// The git of this machine, with a home of its own.
pub(super) struct Git<'a> {
    program: PathBuf,
    path: OsString,
    folder: PathBuf,
    connectivity: Connectivity,
    cancel: &'a CancellationToken,
    access: Access,
    list_memory_kib: u64,
}

/// One run.
pub(super) struct Run<'a> {
    /// What is tried, for messages: `fetch`, `list the references of`.
    pub act: &'static str,
    /// After the settings.
    pub args: Vec<OsString>,
    /// Whom it is about, in messages.
    pub remote: &'a Remote,
    /// Whether it may talk to the remote.
    pub online: bool,
    /// Whether it may read another repository of ours.
    pub reads_ours: bool,
    /// More of its environment.
    pub env: Vec<(&'static str, OsString)>,
    /// Stays locked until git and everything that it started is dead.
    pub lock: Option<&'a File>,
    /// Whether limits of [`LIST_MEMORY_KIB`] and [`LIST_TIME`] hold.
    pub lists: bool,
}

impl<'a> Run<'a> {
    /// A run with these arguments that talks to nobody.
    pub fn new<I: AsRef<OsStr>>(act: &'static str, remote: &'a Remote, args: impl IntoIterator<Item = I>) -> Self {
        let args = args.into_iter().map(|arg| arg.as_ref().to_owned()).collect();
        Self { act, args, remote, online: false, reads_ours: false, env: Vec::new(), lock: None, lists: false }
    }

    /// With one more variable.
    pub fn with(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// Writes files into `folder`.
    pub fn into_folder(mut self, folder: &Path) -> Self {
        self.args.splice(0..0, ["-C".into(), folder.into()]);
        self.with("GIT_WORK_TREE", folder)
    }
}

impl<'a> Git<'a> {
    /// Finds git and makes the folder of all repositories.
    pub fn new(store: &Store, connectivity: Connectivity, cancel: &'a CancellationToken) -> Result<Self, GitError> {
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
        // A relative entry could lead into the build context.
        let folders: Vec<PathBuf> = std::env::split_paths(&path).filter(|folder| folder.is_absolute()).collect();
        let program = folders.iter().map(|folder| folder.join("git")).find(|file| file.is_file());
        let folder = store.root().join("git");
        make_folder(&folder)?;
        make_folder(&folder.join("home"))?;
        Ok(Self {
            program: program.ok_or(GitError::NotInstalled)?,
            path: std::env::join_paths(folders).expect("parts of a list can be joined again"),
            folder,
            connectivity,
            cancel,
            access: Access::default(),
            list_memory_kib: LIST_MEMORY_KIB,
        })
    }

    /// With what of the user's it may use.
    pub fn using(mut self, access: &Access) -> Self {
        self.access = access.clone();
        self
    }

    /// Where repositories are kept.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Fires when nobody wants the result any more.
    pub fn cancel(&self) -> &CancellationToken {
        self.cancel
    }

    /// Whether the remote may not be asked.
    pub fn is_offline(&self) -> bool {
        self.connectivity == Connectivity::Offline
    }

    /// Runs git; its standard output when it succeeds.
    pub async fn run(&self, run: Run<'_>) -> Result<Vec<u8>, GitError> {
        if run.online && self.is_offline() {
            return Err(GitError::Offline { act: run.act, url: run.remote.shown.clone() });
        }
        let mut command = self.command(&run);
        let stdin = match run.lock {
            // git reads nothing from it; a copy of the descriptor is a share in the lock.
            Some(lock) => lock.try_clone().map(Stdio::from).map_err(GitError::io("duplicate", &self.folder))?,
            None => Stdio::null(),
        };
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).kill_on_drop(true);
        tracing::debug!(act = run.act, remote = run.remote.shown, "starting git");
        let mut child = command.spawn().map_err(|source| GitError::Start { program: self.program.clone(), source })?;
        let mut group = Group(child.id().and_then(|id| Pid::from_raw(id as i32)));
        let stdout = child.stdout.take().expect("standard output was asked to be a pipe");
        let stderr = child.stderr.take().expect("standard error was asked to be a pipe");
        let url = || run.remote.shown.clone();
        let work = async {
            let (output, words) = tokio::try_join!(read_all(stdout), read_last(stderr))?;
            Ok::<_, std::io::Error>((output, words, child.wait().await?))
        };
        let limit = if run.lists { LIST_TIME } else { Duration::MAX };
        let (output, words, status) = tokio::select! {
            biased;
            () = self.cancel.cancelled() => return Err(GitError::Canceled),
            done = tokio::time::timeout(limit, work) => match done {
                Ok(done) => done.map_err(GitError::io("talk to", &self.program))?,
                Err(_) => return Err(GitError::Timeout { act: run.act, url: url(), limit_seconds: limit.as_secs() }),
            },
        };
        group.0 = None;
        let Some(output) = output else {
            let limit = format!("{} MiB of output", OUTPUT_MAX_BYTES >> 20);
            return Err(GitError::TooLarge { act: run.act, url: url(), limit });
        };
        if status.success() {
            return Ok(output);
        }
        let said = said(&words);
        let said = if said.is_empty() { format!("git ended with {status}") } else { said };
        tracing::debug!(act = run.act, remote = run.remote.shown, said, "git failed");
        Err(trouble(&run, said))
    }

    fn command(&self, run: &Run<'_>) -> Command {
        let mut command = match crate::rootless::launcher() {
            // ssh looks for its settings and known hosts in the home of whom it takes itself for.
            Some(launcher) => {
                let mut command = Command::new(launcher.program);
                command.arg0(launcher.arg0).args(launcher.args).arg("/bin/sh");
                command
            }
            None => Command::new("/bin/sh"),
        };
        let memory = if run.lists { self.list_memory_kib } else { 0 };
        command.args(["-c", BEGIN, "git", &memory.to_string(), &(FILE_MAX_BYTES / 512).to_string()]).arg(&self.program);
        command.env_clear().current_dir(self.folder.join("home"));
        let home = self.folder.join("home");
        let fixed = [
            ("PATH", self.path.as_os_str()),
            ("HOME", home.as_os_str()),
            ("XDG_CONFIG_HOME", home.as_os_str()),
            // Nothing above is looked at for a repository.
            ("GIT_CEILING_DIRECTORIES", self.folder.as_os_str()),
            ("GIT_CONFIG_NOSYSTEM", OsStr::new("1")),
            ("GIT_CONFIG_GLOBAL", OsStr::new("/dev/null")),
            ("GIT_ATTR_NOSYSTEM", OsStr::new("1")),
            ("GIT_TERMINAL_PROMPT", OsStr::new("0")),
            ("GIT_ASKPASS", OsStr::new("/bin/false")),
            ("SSH_ASKPASS", OsStr::new("/bin/false")),
            ("SSH_ASKPASS_REQUIRE", OsStr::new("never")),
            ("GIT_NO_REPLACE_OBJECTS", OsStr::new("1")),
            ("GIT_OPTIONAL_LOCKS", OsStr::new("0")),
            ("GIT_LITERAL_PATHSPECS", OsStr::new("1")),
            ("GIT_PROTOCOL_FROM_USER", OsStr::new("0")),
            ("GIT_PAGER", OsStr::new("cat")),
            ("LC_ALL", OsStr::new("C")),
        ];
        command.envs(fixed);
        let mut settings: Vec<(String, &str)> =
            SETTINGS.iter().map(|(key, value)| ((*key).to_owned(), *value)).collect();
        let mut transports = if run.reads_ours { vec!["file"] } else { Vec::new() };
        if run.online {
            // HTTPS is never left for HTTP: git follows redirects only to what is allowed.
            transports = match run.remote.transport {
                Transport::Https => vec!["https"],
                Transport::Http => vec!["http", "https"],
                Transport::Ssh => vec!["ssh"],
                Transport::Git => vec!["git"],
            };
            self.let_online(&mut command, run.remote, &mut settings);
        }
        // Stands above `protocol.*.allow`.
        command.env("GIT_ALLOW_PROTOCOL", transports.join(":"));
        for (key, value) in &settings {
            command.arg("-c").arg(format!("{key}={value}"));
        }
        command.envs(run.env.iter().map(|(name, value)| (name, value.as_os_str())));
        command.args(&run.args);
        command
    }

    fn let_online(&self, command: &mut Command, remote: &Remote, settings: &mut Vec<(String, &str)>) {
        for name in HANDED_ON {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        // What other programs call it, for a git whose TLS library does not know.
        for (theirs, gits) in [("SSL_CERT_FILE", "GIT_SSL_CAINFO"), ("SSL_CERT_DIR", "GIT_SSL_CAPATH")] {
            if let (Some(value), None) = (std::env::var_os(theirs), std::env::var_os(gits)) {
                command.env(gits, value);
            }
        }
        if remote.transport == Transport::Ssh {
            command.env("GIT_SSH_COMMAND", SSH).env("GIT_SSH_VARIANT", "ssh");
            if let Some(agent) = self.access.agent.socket() {
                command.env("SSH_AUTH_SOCK", agent);
            }
        }
        if let Some((user, password)) = &remote.credentials {
            settings.push((format!("credential.{}.helper", remote.origin), CREDENTIALS));
            command.env("RBUILD_GIT_USER", user).env("RBUILD_GIT_PASSWORD", password);
            return;
        }
        let host = remote.origin.split_once("://").map_or("", |(_, host)| host);
        let is_http = matches!(remote.transport, Transport::Https | Transport::Http);
        match self.access.hosts.iter().find(|(known, _)| is_http && known == host) {
            None => {}
            Some((_, Authorization(Kind::Password { user, password }))) => {
                settings.push((format!("credential.{}.helper", remote.origin), CREDENTIALS));
                command.env("RBUILD_GIT_USER", user).env("RBUILD_GIT_PASSWORD", password.as_str());
            }
            Some((_, Authorization(Kind::Header(value)))) => {
                // git would send it along wherever it is sent on to.
                settings.push(("http.followRedirects".to_owned(), "false"));
                command
                    .env("GIT_CONFIG_COUNT", "1")
                    .env("GIT_CONFIG_KEY_0", format!("http.{}/.extraHeader", remote.origin));
                command.env("GIT_CONFIG_VALUE_0", format!("Authorization: {}", value.as_str()));
            }
        }
    }
}

#[cfg(test)]
impl Git<'_> {
    /// With less memory for lists.
    pub fn with_list_memory(mut self, kib: u64) -> Self {
        self.list_memory_kib = kib;
        self
    }
}

/// Makes a folder of ours; one that is there is fine.
pub(super) fn make_folder(path: &Path) -> Result<(), GitError> {
    use std::os::unix::fs::DirBuilderExt as _;
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        result => result.map_err(GitError::io("make", path)),
    }
}

/// A process group that dies with this value. Its leader was not waited for as long as there is one here, so that its
/// number cannot be another's.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0
            && let Err(error) = kill_process_group(leader, Signal::KILL)
        {
            tracing::debug!(%error, "a git could not be killed");
        }
    }
}

/// Everything, or `None` when it is too much; then the rest is read all the same, for git to come to its end.
async fn read_all(mut pipe: impl AsyncRead + Unpin) -> std::io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    let mut limited = (&mut pipe).take(OUTPUT_MAX_BYTES as u64 + 1);
    limited.read_to_end(&mut bytes).await?;
    if bytes.len() <= OUTPUT_MAX_BYTES {
        return Ok(Some(bytes));
    }
    Ok(None)
}

/// The last bytes.
async fn read_last(mut pipe: impl AsyncRead + Unpin) -> std::io::Result<Vec<u8>> {
    let mut last = Vec::new();
    let mut piece = vec![0; WORDS_KEPT_BYTES];
    loop {
        let count = pipe.read(&mut piece).await?;
        if count == 0 {
            return Ok(last);
        }
        last.extend_from_slice(&piece[..count]);
        last.drain(..last.len().saturating_sub(WORDS_KEPT_BYTES));
    }
}

/// git's last lines as one.
fn said(words: &[u8]) -> String {
    let lines: Vec<String> = words
        .split(|byte| matches!(byte, b'\n' | b'\r'))
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty())
        .map(crate::tree::shown)
        .collect();
    lines[lines.len().saturating_sub(WORDS_SHOWN_LINES)..].join("; ")
}

/// What kind of trouble git is in, by its words; `LC_ALL=C` keeps them in one language.
fn trouble(run: &Run<'_>, said: String) -> GitError {
    let url = run.remote.shown.clone();
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if has(&["File too large", "died of signal 25", "Out of memory", "out of memory"]) {
        let (files, memory) = (FILE_MAX_BYTES >> 30, LIST_MEMORY_KIB >> 20);
        let limit = if run.lists { format!("{memory} GiB of references") } else { format!("{files} GiB in one pack") };
        return GitError::TooLarge { act: run.act, url, limit };
    }
    if has(&["fsck error", "invalid path", "fsck failed"]) {
        return GitError::Malformed { url, said };
    }
    if !run.online {
        return GitError::Failed { act: run.act, url, said };
    }
    if has(&["Host key verification failed", "REMOTE HOST IDENTIFICATION HAS CHANGED"]) {
        return GitError::HostKey { url, said };
    }
    if has(&[
        "Authentication failed",
        "could not read Username",
        "could not read Password",
        "Permission denied (",
        "The requested URL returned error: 401",
        "The requested URL returned error: 403",
        "unable to get password from user",
    ]) {
        return GitError::Authentication { url, said };
    }
    if has(&[
        "SSL certificate",
        "certificate verify failed",
        "server certificate verification failed",
        "certificate problem",
    ]) {
        return GitError::Certificate { url, said };
    }
    if has(&["not our ref", "unadvertised object", "not valid", "couldn't find remote ref", "dumb http transport"]) {
        return GitError::Failed { act: run.act, url, said };
    }
    if has(&["not found", "does not appear to be a git repository", "Repository not exported", "returned error: 404"]) {
        return GitError::NotFound { url, said };
    }
    if has(&[
        "Could not resolve host",
        "Could not resolve hostname",
        "Failed to connect",
        "Couldn't connect",
        "Connection refused",
        "Connection timed out",
        "Connection reset",
        "Operation too slow",
        "Network is unreachable",
        "No route to host",
        "unable to connect",
        "Name or service not known",
    ]) {
        return GitError::Unreachable { url, said };
    }
    GitError::Failed { act: run.act, url, said }
}
