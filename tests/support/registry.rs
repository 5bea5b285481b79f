//! Debian's `docker-registry` on a free loopback port, with storage of its own; killed with the value.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::{Store, temp_dir};

/// The user that a guarded registry knows.
pub const USER: &str = "builder";
/// That user's password.
pub const PASSWORD: &str = "secret word";
/// `USER:bcrypt(PASSWORD)`, as htpasswd writes it.
const HTPASSWD: &str = "builder:$2b$12$Z4NtyllzVcNne3Od5umqN.pqUFP0euNrNLWqdVk9Uc0lqAdgDL4pm\n";

/// A running registry.
pub struct Registry {
    child: Child,
    _dir: TempDir,
    /// `127.0.0.1:PORT`.
    pub address: String,
}

impl Registry {
    /// Lets everyone in.
    pub fn open() -> Self {
        Self::start(false)
    }

    /// Lets only [`USER`] in.
    pub fn guarded() -> Self {
        Self::start(true)
    }

    fn start(guarded: bool) -> Self {
        let dir = temp_dir();
        let storage = dir.path().join("storage");
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {storage:?}}}}}\n\
             http: {{addr: \"127.0.0.1:0\", secret: test}}\n"
        );
        if guarded {
            let users = dir.path().join("htpasswd");
            std::fs::write(&users, HTPASSWD).expect("the directory is new");
            config += &format!("auth: {{htpasswd: {{realm: tests, path: {users:?}}}}}\n");
        }
        let file = dir.path().join("config.yml");
        std::fs::write(&file, config).expect("the directory is new");

        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("docker-registry is installed (tests/setup.sh)");
        let mut log = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut said = String::new();
        let address = loop {
            let from = said.len();
            if log.read_line(&mut said).expect("the log is text") == 0 {
                panic!("docker-registry ended: {said}");
            }
            // `… msg="listening on 127.0.0.1:40123" …`
            if let Some((_, rest)) = said[from..].split_once("listening on ") {
                break rest.chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
            }
        };
        // The registry must never wait for a reader of its log.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Self { child, _dir: dir, address }
    }

    /// `127.0.0.1:PORT/NAME`.
    pub fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have died by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Puts credentials for `registry` into the store's home, where `docker login` puts them.
pub fn log_in(store: &Store, registry: &str, user: &str, password: &str) {
    use base64::Engine as _;
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    let config = serde_json::json!({ "auths": { registry: { "auth": auth } } });
    let dir = store.home().join(".docker");
    std::fs::create_dir_all(&dir).expect("the home can be written");
    std::fs::write(dir.join("config.json"), config.to_string()).expect("the home can be written");
}
