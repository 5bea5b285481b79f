//! An ssh server of our own on loopback, with git repositories, and agents.
//!
//! Debian's sshd, started per connection as inetd would, with a configuration and a host key of its own. It runs as an
//! ordinary user and lets in nobody else; so does every agent.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use super::Outcome;
use super::user::User;

/// A server; its connections end with it.
pub struct SshServer {
    dir: PathBuf,
    user: String,
    id: u32,
    /// `127.0.0.1:PORT`.
    pub address: String,
    connections: Arc<Mutex<Vec<Child>>>,
}

/// Makes a key without a passphrase; `.pub` has its public half.
fn key(path: &Path) {
    let mut command = Command::new("ssh-keygen");
    Outcome::of(command.args(["-q", "-t", "ed25519", "-N", "", "-C", "rbuild-test", "-f"]).arg(path)).ok();
}

fn public(path: &Path) -> String {
    let text = std::fs::read_to_string(path.with_extension("pub")).expect("keys come in pairs");
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

impl SshServer {
    /// Serves what is in `dir`, a directory of the user's, who gets in with the key `dir/key`.
    pub fn start(dir: &Path, user: &User) -> Self {
        for name in ["host", "other-host", "key", "other-key"] {
            key(&dir.join(name));
        }
        let config = format!(
            "HostKey {0}/host\nAuthorizedKeysFile {0}/key.pub\nPasswordAuthentication no\nUsePAM no\nStrictModes no\n\
             KbdInteractiveAuthentication no\nPidFile none\nAllowTcpForwarding no\nX11Forwarding no\nLogLevel ERROR\n",
            dir.display()
        );
        std::fs::write(dir.join("sshd_config"), config).expect("the directory is ours");
        user.give(dir);
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it listens").to_string();
        let connections: Arc<Mutex<Vec<Child>>> = Arc::default();
        let (started, config, id) = (connections.clone(), dir.join("sshd_config"), user.id);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let input = OwnedFd::from(stream.expect("loopback accepts"));
                let output = input.try_clone().expect("a socket can be shared");
                let mut command = Command::new("/usr/sbin/sshd");
                command.args(["-i", "-e", "-f"]).arg(&config).env_clear().env("PATH", "/usr/bin:/bin");
                command.uid(id).gid(id).stdin(input).stdout(output);
                let child = command.spawn().expect("openssh-server is installed");
                let mut all = started.lock().expect("no panic here");
                all.retain_mut(|child| child.try_wait().is_ok_and(|ended| ended.is_none()));
                all.push(child);
            }
        });
        let user = user.name().to_owned();
        Self { dir: dir.to_owned(), user, id, address, connections }
    }

    /// Makes a repository with one commit of what `script` writes; returns its address.
    pub fn repository(&self, name: &str, script: &str) -> String {
        let script = format!("git init -q -b main {name}; cd {name}; {script}\ngit add -A; git commit -q -m x");
        let mut command = Command::new("sh");
        command.args(["-euc", &script]).current_dir(&self.dir).env_clear().env("PATH", "/usr/bin:/bin");
        command.env("HOME", &self.dir).envs([("GIT_AUTHOR_NAME", "A"), ("GIT_AUTHOR_EMAIL", "a@test")]);
        command.envs([("GIT_COMMITTER_NAME", "A"), ("GIT_COMMITTER_EMAIL", "a@test")]);
        Outcome::of(command.uid(self.id).gid(self.id)).ok();
        format!("ssh://{}@{}{}/{name}/.git", self.user, self.address, self.dir.display())
    }

    /// Writes down for `home` that the server has the host key of that name; its own is `host`.
    pub fn make_known(&self, home: &Path, name: &str) {
        let (host, port) = self.address.split_once(':').expect("an address has a port");
        let line = format!("[{host}]:{port} {}\n", public(&self.dir.join(name)));
        std::fs::create_dir_all(home.join(".ssh")).expect("it is ours");
        std::fs::write(home.join(".ssh/known_hosts"), line).expect("it is ours");
    }
}

impl Drop for SshServer {
    fn drop(&mut self) {
        for child in self.connections.lock().expect("no panic there").iter_mut() {
            // Most have ended by themselves.
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// A running agent of a user's.
pub struct Agent {
    child: Child,
    /// Where it listens.
    pub socket: PathBuf,
}

impl Agent {
    /// Holds one key.
    pub fn holding(key: &Path, user: &User) -> Self {
        let socket = key.with_extension("agent");
        let mut command = Command::new("ssh-agent");
        command.args(["-D", "-a"]).arg(&socket).uid(user.id).gid(user.id).stdout(Stdio::piped());
        let mut child = command.spawn().expect("openssh-client is installed");
        let mut line = String::new();
        // It says where it listens once it does.
        let mut said = BufReader::new(child.stdout.take().expect("it is piped"));
        said.read_line(&mut line).expect("a pipe can be read");
        let mut add = Command::new("ssh-add");
        add.arg("-q").arg(key).env("SSH_AUTH_SOCK", &socket).uid(user.id).gid(user.id);
        Outcome::of(&mut add).ok();
        Self { child, socket }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
