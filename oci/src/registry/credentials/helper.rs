//! Credential helpers: programs `docker-credential-<name>` that keep secrets elsewhere.
//!
//! `get`, `store`, `erase` or `list` on the command line; the registry's key, or `{"ServerURL", "Username", "Secret"}`,
//! on standard input; an answer on standard output, or an exit code and words. docker-credential-helpers' README,
//! "Development". A helper has a minute, and what it says is bounded. Deliberately absent: which helper is asked
//! ([`super::file`]).

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::{Credential, CredentialError, Secret, Through, is_helper_name, path_folders, place};
use crate::registry::words::harmless;

/// The user name that says: the secret is an identity token.
pub(super) const TOKEN_USER: &str = "<token>";
/// A helper may ask the network or a key ring; one that asks a person cannot be served by a build.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// Tokens have a few kilobytes.
const ANSWER_MAX_BYTES: u64 = 1 << 20;

/// How helpers are found and started.
#[derive(Clone, Copy)]
pub(super) struct Helpers<'a> {
    /// Folders in which they are looked for, as in `PATH`.
    pub(super) path: &'a OsStr,
    pub(super) through: Option<&'a Through>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    secret: Secret,
}

impl Helpers<'_> {
    /// A registry's credential. `None` when the helper has none.
    pub(super) async fn get(&self, name: &str, key: &str) -> Result<Option<Credential>, CredentialError> {
        let Some(answer) = self.talk(name, "get", &format!("{key}\n")).await? else { return Ok(None) };
        let answer: Answer = serde_json::from_slice(&answer).map_err(|error| failed(name, place(&error)))?;
        if answer.secret.expose().is_empty() {
            return Ok(None);
        }
        Ok(Some(if answer.username == TOKEN_USER {
            Credential::IdentityToken(answer.secret)
        } else {
            Credential::Password { username: answer.username, password: answer.secret }
        }))
    }

    /// Gives the helper a credential to keep.
    pub(super) async fn store(
        &self,
        name: &str,
        key: &str,
        username: &str,
        secret: &Secret,
    ) -> Result<(), CredentialError> {
        let text = serde_json::json!({ "ServerURL": key, "Username": username, "Secret": secret.expose() });
        match self.talk(name, "store", &text.to_string()).await? {
            Some(_) => Ok(()),
            None => Err(failed(name, "it does not keep what it is given".to_owned())),
        }
    }

    /// Makes the helper forget; whether it knew anything.
    pub(super) async fn erase(&self, name: &str, key: &str) -> Result<bool, CredentialError> {
        // Some say that it went well whatever they knew.
        if self.get(name, key).await?.is_none() {
            return Ok(false);
        }
        Ok(self.talk(name, "erase", &format!("{key}\n")).await?.is_some())
    }

    /// The keys of everything that the helper keeps.
    pub(super) async fn list(&self, name: &str) -> Result<Vec<String>, CredentialError> {
        let Some(answer) = self.talk(name, "list", "").await? else { return Ok(Vec::new()) };
        let keys: BTreeMap<String, serde::de::IgnoredAny> =
            serde_json::from_slice(&answer).map_err(|error| failed(name, place(&error)))?;
        Ok(keys.into_keys().collect())
    }

    /// What a helper answers; `None` when it does not know the key.
    async fn talk(&self, name: &str, act: &'static str, text: &str) -> Result<Option<Vec<u8>>, CredentialError> {
        if !is_helper_name(name) {
            return Err(CredentialError::HelperName { name: harmless(name) });
        }
        let program =
            installed(name, self.path).ok_or_else(|| CredentialError::HelperMissing { name: name.to_owned() })?;
        let run = |source| CredentialError::HelperRun { name: name.to_owned(), source };
        let mut command = match self.through {
            Some(through) => {
                let mut command = Command::new(&through.program);
                command.arg0(&through.arg0).args(&through.args).arg(program);
                command
            }
            None => Command::new(program),
        };
        let mut child = command
            .arg(act)
            .env("PATH", self.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(run)?;
        let mut stdin = child.stdin.take().expect("standard input was asked to be a pipe");
        let stdout = child.stdout.take().expect("standard output was asked to be a pipe");
        let stderr = child.stderr.take().expect("standard error was asked to be a pipe");
        let talk = async {
            let ask = async {
                // A helper that answers without having read everything is fine.
                let written = stdin.write_all(text.as_bytes()).await;
                drop(stdin);
                written
                    .or_else(|error| if error.kind() == std::io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) })
            };
            let (asked, answer, words) = tokio::join!(ask, read(stdout), read(stderr));
            asked?;
            Ok::<_, std::io::Error>((child.wait().await?, answer?, words?))
        };
        let (status, answer, words) = tokio::time::timeout(ANSWER_TIME, talk)
            .await
            .map_err(|_| failed(name, format!("no answer within {} s", ANSWER_TIME.as_secs())))?
            .map_err(run)?;
        if status.success() {
            return Ok(Some(answer));
        }
        let (answer, words) = (String::from_utf8_lossy(&answer), String::from_utf8_lossy(&words));
        // Helpers say so on standard output, in these words.
        if answer.contains("credentials not found") || words.contains("credentials not found") {
            return Ok(None);
        }
        let said = [answer.trim(), words.trim()].into_iter().find(|text| !text.is_empty()).unwrap_or("no words");
        Err(failed(name, harmless(&format!("{status}: {said}"))))
    }
}

fn failed(name: &str, reason: String) -> CredentialError {
    CredentialError::HelperFailed { name: name.to_owned(), reason }
}

async fn read(pipe: impl AsyncRead + Unpin) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    pipe.take(ANSWER_MAX_BYTES).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

fn installed(name: &str, path: &OsStr) -> Option<PathBuf> {
    path_folders(path).map(|folder| folder.join(format!("docker-credential-{name}"))).find(|program| {
        std::fs::metadata(program).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    })
}
