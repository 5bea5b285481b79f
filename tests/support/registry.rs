//! Debian's `docker-registry` on a free loopback port, with storage of its own; killed with the value. With TLS and with
//! a token server where that is asked for.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::{Store, temp_dir};

/// The user that a guarded registry knows.
pub const USER: &str = "builder";
/// That user's password.
pub const PASSWORD: &str = "secret word";
/// `USER:bcrypt(PASSWORD)`, as htpasswd writes it; of the lowest cost, as every request is checked.
const HTPASSWD: &str = "builder:$2b$04$Z4NtyllzVcNne3Od5umqN.KvNa6kP/1yGFB5l9j5QQJbNfpb7i4nC\n";

/// The certificate of the authority that vouches for registries with TLS, in PEM form.
pub const AUTHORITY: &[u8] = include_bytes!("../../oci/tests/support/tls/authority.pem");
/// That of such a registry, for loopback.
pub const CERTIFICATE: &[u8] = include_bytes!("../../oci/tests/support/tls/localhost.pem");
/// Its key.
pub const KEY: &[u8] = include_bytes!("../../oci/tests/support/tls/localhost-key.pem");
const TOKEN_SERVER: &str = include_str!("token_server.py");

/// Whom a registry lets in, and how.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// Everyone.
    Nobody,
    /// [`USER`] with a password.
    Basic,
    /// Everyone for pulling, [`USER`] for pushing, with tokens of a server of their own.
    Token,
    /// Who shows the certificate of [`client_certificate`].
    Certificate,
}

/// A running registry.
pub struct Registry {
    child: Child,
    tokens: Option<Child>,
    dir: TempDir,
    /// `127.0.0.1:PORT`.
    pub address: String,
}

impl Registry {
    /// Lets everyone in.
    pub fn open() -> Self {
        Self::start(Guard::Nobody, false)
    }

    /// Lets only [`USER`] in.
    pub fn guarded() -> Self {
        Self::start(Guard::Basic, false)
    }

    /// Speaks TLS, with a certificate that [`AUTHORITY`] vouches for.
    pub fn secure(guard: Guard) -> Self {
        Self::start(guard, true)
    }

    /// The certificate and key of a client that a registry with [`Guard::Certificate`] knows.
    pub fn client_certificate(&self) -> (PathBuf, PathBuf) {
        (self.dir.path().join("signer.pem"), self.dir.path().join("signer.key"))
    }

    fn start(guard: Guard, secure: bool) -> Self {
        let dir = temp_dir();
        let path = |name: &str| dir.path().join(name);
        let storage = dir.path().join("storage");
        let mut config = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {storage:?}}}}}\n\
             http:\n  addr: \"127.0.0.1:0\"\n  secret: test\n"
        );
        if matches!(guard, Guard::Token | Guard::Certificate) {
            make_signer(&path("signer.key"), &path("signer.pem"));
        }
        if secure {
            std::fs::write(path("tls.pem"), CERTIFICATE).expect("the directory is new");
            std::fs::write(path("tls.key"), KEY).expect("the directory is new");
            config += &format!("  tls:\n    certificate: {:?}\n    key: {:?}\n", path("tls.pem"), path("tls.key"));
            if guard == Guard::Certificate {
                config += &format!("    clientcas: [{:?}]\n", path("signer.pem"));
            }
        }
        let mut tokens = None;
        match guard {
            Guard::Nobody | Guard::Certificate => {}
            Guard::Basic => {
                std::fs::write(path("htpasswd"), HTPASSWD).expect("the directory is new");
                config += &format!("auth: {{htpasswd: {{realm: tests, path: {:?}}}}}\n", path("htpasswd"));
            }
            Guard::Token => {
                let (server, port) = start_token_server(dir.path());
                tokens = Some(server);
                config += &format!(
                    "auth:\n  token:\n    realm: https://127.0.0.1:{port}/token\n    service: {SERVICE}\n    \
                     issuer: tests\n    rootcertbundle: {:?}\n",
                    path("signer.pem")
                );
            }
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
        Self { child, tokens, dir, address }
    }

    /// `127.0.0.1:PORT/NAME`.
    pub fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It may have died by itself; then there is nothing to kill.
        for child in [Some(&mut self.child), self.tokens.as_mut()].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whom tokens are for.
const SERVICE: &str = "test registry";

/// A key and a certificate that vouches for itself.
pub fn make_signer(key: &Path, certificate: &Path) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=signer", "-keyout"])
        .arg(key)
        .arg("-out")
        .arg(certificate)
        .output()
        .expect("openssl is installed (tests/setup.sh)");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// A token server, and its port.
fn start_token_server(dir: &Path) -> (Child, String) {
    let script = dir.join("token_server.py");
    std::fs::write(&script, TOKEN_SERVER).expect("the directory is new");
    let mut command = Command::new("python3");
    command.arg(&script).args(["tls.pem", "tls.key", "signer.key", "signer.pem"].map(|name| dir.join(name)));
    command.args([SERVICE, USER, PASSWORD]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("python3 is installed (tests/setup.sh)");
    let mut port = String::new();
    let mut out = BufReader::new(child.stdout.take().expect("it is piped"));
    out.read_line(&mut port).expect("a port is text");
    assert!(!port.trim().is_empty(), "the token server does not start");
    (child, port.trim().to_owned())
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
