//! A port of loopback in front of a socket, with TLS or without: docker over the network (`front.py`).

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::registry::{AUTHORITY, CERTIFICATE, KEY, make_signer};
use super::temp_dir;

/// A running front; it ends with the value.
pub struct Front {
    child: Child,
    dir: TempDir,
    /// `127.0.0.1:PORT`.
    pub address: String,
}

impl Front {
    /// Lets everybody in, in the clear.
    pub fn plain(socket: &Path) -> Self {
        Self::start(socket, false)
    }

    /// Lets those in who show the certificate of [`Front::write_certificates`].
    pub fn tls(socket: &Path) -> Self {
        Self::start(socket, true)
    }

    fn start(socket: &Path, tls: bool) -> Self {
        let dir = temp_dir();
        let path = |name: &str| dir.path().join(name);
        let mut command = Command::new("python3");
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/front.py")).arg(socket);
        if tls {
            std::fs::write(path("tls.pem"), CERTIFICATE).expect("the directory is new");
            std::fs::write(path("tls.key"), KEY).expect("the directory is new");
            make_signer(&path("client.key"), &path("client.pem"));
            command.args(["tls.pem", "tls.key", "client.pem"].map(path));
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().expect("python3 is installed (tests/setup.sh)");
        let mut port = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("it is piped"));
        out.read_line(&mut port).expect("a port is text");
        assert!(!port.trim().is_empty(), "the front does not start");
        Self { child, dir, address: format!("127.0.0.1:{}", port.trim()) }
    }

    /// Puts what docker's clients have into a folder, which is made: `ca.pem`, `cert.pem`, `key.pem`.
    pub fn write_certificates(&self, folder: &Path) {
        std::fs::create_dir_all(folder).expect("the folder is ours");
        std::fs::write(folder.join("ca.pem"), AUTHORITY).expect("the folder is ours");
        for (from, to) in [("client.pem", "cert.pem"), ("client.key", "key.pem")] {
            std::fs::copy(self.dir.path().join(from), folder.join(to)).expect("the folder is ours");
        }
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        // It may have died by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
