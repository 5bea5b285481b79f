//! The ssh agents of a build: the user's own, or one that holds keys of the user's choice.
//!
//! In: a socket, or files of keys ([`AgentSource`]). Out: the path of a socket that speaks the agent's protocol, the
//! same for the whole build. For keys an `ssh-agent` is started, in a directory that only this user can enter; it ends
//! when this value is dropped or this process dies, whatever way. Deliberately absent: what steps may ask it
//! ([`super::relay`]), passphrases.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncBufReadExt as _;
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::read::last_line;
use super::{Asking, SecretError};

/// What an agent of ours runs: when our end of its standard input closes, it takes the agent and its directory along.
const KEEPER: &str = "echo ready; read -r end; kill \"$SSH_AGENT_PID\"; rm -f \"$0/agent\"; rmdir \"$0\"";
/// The address of a socket has 108 bytes; the rest is the names that we add.
const TEMPORARY_MAX_BYTES: usize = 60;

/// Where keys are that sign for steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentSource {
    /// With an agent that listens here.
    Socket(PathBuf),
    /// In files.
    Keys(Vec<PathBuf>),
}

/// The agents of a build, by name.
#[derive(Debug, Default)]
pub struct Agents {
    given: BTreeMap<String, (AgentSource, OnceCell<Agent>)>,
    asked: Option<Asking>,
}

#[derive(Debug)]
struct Agent {
    socket: PathBuf,
    /// Ends the agent when it is dropped: its standard input is.
    _keeper: Option<Child>,
}

impl Agents {
    /// Nothing is started yet.
    pub fn new(sources: &BTreeMap<String, AgentSource>) -> Self {
        let given = sources.iter().map(|(id, source)| (id.clone(), (source.clone(), OnceCell::new())));
        Self { given: given.collect(), asked: None }
    }

    /// The same, and whoever else is asked for what was not given.
    pub fn asking(self, asked: Option<Asking>) -> Self {
        Self { asked, ..self }
    }

    /// The socket of the agent of that name; `None` when none was given.
    ///
    /// # Errors
    /// When there are keys that no agent takes, or no program that could hold them.
    pub async fn socket(&self, id: &str, cancel: &CancellationToken) -> Result<Option<PathBuf>, SecretError> {
        let Some((source, cell)) = self.given.get(id) else {
            let Some(Asking(asked)) = &self.asked else { return Ok(None) };
            let failed = |words| SecretError::Asked { what: "ssh agent", id: id.into(), words };
            return tokio::select! {
                biased;
                () = cancel.cancelled() => Err(SecretError::Canceled),
                answer = asked.agent(id) => answer.map_err(failed),
            };
        };
        let start = async {
            match source {
                AgentSource::Socket(path) => Ok(Agent { socket: path.clone(), _keeper: None }),
                AgentSource::Keys(keys) => hold(id, keys).await,
            }
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(SecretError::Canceled),
            agent = cell.get_or_try_init(|| start) => Ok(Some(agent?.socket.clone())),
        }
    }

    /// As [`Self::socket`], for whoever cannot do without.
    ///
    /// # Errors
    /// Also when there is none.
    pub async fn require(&self, id: &str, cancel: &CancellationToken) -> Result<PathBuf, SecretError> {
        self.socket(id, cancel).await?.ok_or_else(|| SecretError::NoAgent { id: id.into() })
    }
}

/// Starts an agent and gives it keys.
async fn hold(id: &str, keys: &[PathBuf]) -> Result<Agent, SecretError> {
    let failed = |act: &str| {
        let (id, act) = (id.to_owned(), act.to_owned());
        move |source| SecretError::Agent { id, act, source }
    };
    let directory = private_directory().map_err(failed("make a directory for its socket"))?;
    let socket = directory.join("agent");
    let mut command = Command::new("ssh-agent");
    command.arg("-a").arg(&socket).args(["/bin/sh", "-c", KEEPER]).arg(&directory);
    // In a group of its own: Ctrl-C must not take the keeper before the agent.
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut keeper = match command.spawn() {
        Ok(keeper) => keeper,
        Err(error) => {
            std::fs::remove_dir(&directory).map_err(failed("remove the directory of its socket"))?;
            return Err(failed("start `ssh-agent`")(error));
        }
    };
    let stdout = keeper.stdout.take().expect("standard output was asked to be a pipe");
    let mut line = String::new();
    tokio::io::BufReader::new(stdout).read_line(&mut line).await.map_err(failed("start `ssh-agent`"))?;
    if line.trim() != "ready" {
        let stderr = keeper.stderr.take().expect("standard error was asked to be a pipe");
        let words = last_line(stderr).await.map_err(failed("start `ssh-agent`"))?;
        return Err(failed("start `ssh-agent`")(io::Error::other(words)));
    }
    let agent = Agent { socket, _keeper: Some(keeper) };
    for key in keys {
        add(id, key, &agent.socket).await?;
    }
    Ok(agent)
}

async fn add(id: &str, key: &Path, socket: &Path) -> Result<(), SecretError> {
    let failed = |source| SecretError::Agent { id: id.to_owned(), act: "run `ssh-add`".into(), source };
    let mut command = Command::new("ssh-add");
    // A passphrase is asked of a program that knows none, never of the terminal.
    command.arg("-q").arg("--").arg(key).env("SSH_AUTH_SOCK", socket);
    command.env("SSH_ASKPASS", "/bin/false").env("SSH_ASKPASS_REQUIRE", "force");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = command.output().await.map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let words = last_line(&*output.stderr).await.map_err(failed)?;
    Err(SecretError::Key { id: id.to_owned(), path: key.to_owned(), words })
}

/// A new directory that nobody else can enter.
fn private_directory() -> io::Result<PathBuf> {
    let mut number = [0; 8];
    rustix::rand::getrandom(&mut number, rustix::rand::GetRandomFlags::empty())?;
    let short = |path: &PathBuf| path.as_os_str().len() <= TEMPORARY_MAX_BYTES && path.is_absolute();
    let above = Some(std::env::temp_dir()).filter(short).unwrap_or_else(|| "/tmp".into());
    let path = above.join(format!("rbuild-agent-{:016x}", u64::from_ne_bytes(number)));
    std::fs::DirBuilder::new().mode(0o700).create(&path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::fs::inotify;

    use super::*;

    fn key(dir: &Path, passphrase: &str) -> PathBuf {
        let path = dir.join(format!("key{}", passphrase.len()));
        let mut command = std::process::Command::new("ssh-keygen");
        command.args(["-q", "-t", "ed25519", "-N", passphrase, "-C", "rbuild-test", "-f"]).arg(&path);
        assert!(command.status().expect("openssh-client is installed").success());
        path
    }

    #[tokio::test]
    async fn an_agent_of_ours_holds_the_keys_and_is_gone_with_the_build() {
        let dir = tempfile::tempdir().expect("a directory");
        let (open, locked) = (key(dir.path(), ""), key(dir.path(), "passphrase"));
        let public = dir.path().join("wide");
        std::fs::copy(&open, &public).expect("copied");
        std::fs::set_permissions(&public, std::fs::Permissions::from_mode(0o644)).expect("widened");
        let agents = Agents::new(&BTreeMap::from([
            ("default".to_owned(), AgentSource::Keys(vec![open])),
            ("locked".to_owned(), AgentSource::Keys(vec![locked])),
            ("wide".to_owned(), AgentSource::Keys(vec![public])),
            ("none".to_owned(), AgentSource::Keys(vec![dir.path().join("nothing")])),
        ]));
        let never = CancellationToken::new();
        let socket = agents.require("default", &never).await.expect("it starts");
        assert_eq!(socket, agents.require("default", &never).await.expect("it is one"));
        let folder = socket.parent().expect("a folder").to_owned();
        assert_eq!(folder.metadata().expect("there").permissions().mode() & 0o777, 0o700);
        let list = std::process::Command::new("ssh-add").arg("-l").env("SSH_AUTH_SOCK", &socket).output();
        let list = String::from_utf8(list.expect("installed").stdout).expect("text");
        assert!(list.contains("rbuild-test"), "{list}");
        for id in ["locked", "wide", "none"] {
            let error = agents.require(id, &never).await.expect_err(id);
            assert!(matches!(error, SecretError::Key { .. }), "{error:?}");
            assert!(error.help().is_some_and(|help| help.contains("ssh-add")), "{id}");
        }
        let error = agents.require("other", &never).await.expect_err("not given");
        assert_eq!(error.to_string(), "ssh agent `other` is not given");
        // The last thing that it does is to remove its folder.
        let events = inotify::init(inotify::CreateFlags::CLOEXEC).expect("there are few of them");
        inotify::add_watch(&events, &folder, inotify::WatchFlags::DELETE_SELF).expect("it is there");
        drop(agents);
        let long = Timespec { tv_sec: 30, tv_nsec: 0 };
        let heard = move || poll(&mut [PollFd::new(&events, PollFlags::IN)], Some(&long));
        let heard = tokio::task::spawn_blocking(heard).await.expect("no panic").expect("it can be waited for");
        assert!(heard == 1 && !folder.exists(), "the agent's folder stays");
        let answer = std::os::unix::net::UnixStream::connect(&socket);
        assert!(answer.is_err());
    }
}
