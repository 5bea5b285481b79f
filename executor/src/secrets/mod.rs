//! Values that steps may see and nothing may keep.
//!
//! In: where the user said that a secret is ([`SecretSource`]). Out: its bytes ([`Secret`]), read when the first step
//! asks for it and once per build. A value is in the memory of this process, which wipes it, and in that of the steps
//! that ask for it; it is in no plan, argument, environment of another process, key, record or log. Deliberately
//! absent: how it gets into a step ([`crate::ops::exec`]), and what steps do with it.
//!
//! Next: [`read`] where values come from, [`mask`] what a step prints, [`search`] what a step writes, both by
//! [`matcher`]; [`auth`] what servers of sources get; [`agent`] and [`relay`] keys that sign and are never seen.

pub mod agent;
mod ask;
pub(crate) mod auth;
mod error;
pub(crate) mod mask;
mod matcher;
mod read;
pub(crate) mod relay;
pub(crate) mod search;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

pub use ask::{AskSecrets, Asking};
pub use error::SecretError;

/// Larger values are refused: keys, certificates and tokens have kilobytes, and a value is in memory several times.
pub const VALUE_MAX_BYTES: usize = 1 << 20;

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// In a file, or whatever can be read like one.
    File(PathBuf),
    /// In a variable of the builder's environment.
    Variable(String),
    /// In what a command prints, which `/bin/sh -c` runs.
    Command(String),
}

/// A value. It shows itself to nobody who does not ask for its bytes.
#[derive(Clone)]
pub struct Secret {
    id: Arc<str>,
    value: Arc<Zeroizing<Vec<u8>>>,
}

impl Secret {
    /// Takes the bytes.
    pub fn new(id: &str, value: Vec<u8>) -> Self {
        Self { id: id.into(), value: Arc::new(Zeroizing::new(value)) }
    }

    /// Its name.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The value.
    pub fn bytes(&self) -> &[u8] {
        &self.value
    }

    /// The value without the line end that files have behind it, which is part of no password.
    pub(crate) fn trimmed(&self) -> &[u8] {
        let end = self.value.iter().rposition(|byte| !matches!(byte, b'\r' | b'\n')).map_or(0, |at| at + 1);
        &self.value[..end]
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("id", &self.id).finish_non_exhaustive()
    }
}

/// The secrets of a build.
#[derive(Debug, Default)]
pub struct Secrets {
    given: BTreeMap<String, (SecretSource, OnceCell<Option<Secret>>)>,
    seen: Mutex<Vec<Secret>>,
    /// Who is asked for others, and what was answered.
    asked: Option<Asking>,
    answers: tokio::sync::Mutex<BTreeMap<String, Option<Secret>>>,
}

impl Secrets {
    /// Nothing is read yet.
    pub fn new(sources: &BTreeMap<String, SecretSource>) -> Self {
        let given = sources.iter().map(|(id, source)| (id.clone(), (source.clone(), OnceCell::new())));
        Self { given: given.collect(), ..Self::default() }
    }

    /// The same, and whoever else is asked for what was not given.
    pub fn asking(self, asked: Option<Asking>) -> Self {
        Self { asked, ..self }
    }

    /// The secret of that name; `None` when none was given, or its variable is not set.
    ///
    /// # Errors
    /// When it was given and cannot be read.
    pub async fn get(&self, id: &str, cancel: &CancellationToken) -> Result<Option<Secret>, SecretError> {
        let Some((source, cell)) = self.given.get(id) else { return self.ask(id, cancel).await };
        let read = async {
            let value = read::read(id, source).await?;
            let secret = value.map(|value| Secret { id: id.into(), value: Arc::new(value) });
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).extend(secret.clone());
            Ok::<_, SecretError>(secret)
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(SecretError::Canceled),
            found = cell.get_or_try_init(|| read) => found.cloned(),
        }
    }

    /// Asks for one that was not given, once.
    async fn ask(&self, id: &str, cancel: &CancellationToken) -> Result<Option<Secret>, SecretError> {
        let Some(Asking(asked)) = &self.asked else { return Ok(None) };
        let ask = async {
            let mut answers = self.answers.lock().await;
            if let Some(known) = answers.get(id) {
                return Ok(known.clone());
            }
            let failed = |words| SecretError::Asked { what: "secret", id: id.into(), words };
            let value = asked.secret(id).await.map_err(failed)?;
            if value.as_ref().is_some_and(|value| value.len() > VALUE_MAX_BYTES) {
                return Err(SecretError::TooLarge { id: id.into() });
            }
            let secret = value.map(|value| Secret::new(id, value));
            self.seen.lock().unwrap_or_else(PoisonError::into_inner).extend(secret.clone());
            answers.insert(id.to_owned(), secret.clone());
            Ok(secret)
        };
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(SecretError::Canceled),
            answer = ask => answer,
        }
    }

    /// The names of all that are given.
    pub(crate) fn ids(&self) -> impl Iterator<Item = &str> {
        self.given.keys().map(String::as_str)
    }

    /// As [`Self::get`], for whoever cannot do without.
    ///
    /// # Errors
    /// Also when it is missing.
    pub async fn require(&self, id: &str, cancel: &CancellationToken) -> Result<Secret, SecretError> {
        self.get(id, cancel).await?.ok_or_else(|| match self.given.get(id) {
            Some((SecretSource::Variable(name), _)) => SecretError::Unset { id: id.into(), name: name.clone() },
            _ => SecretError::Missing { id: id.into() },
        })
    }

    /// Those that were read in this build until now: what nobody may print.
    pub fn seen(&self) -> Vec<Secret> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(sources: &[(&str, SecretSource)]) -> Secrets {
        Secrets::new(&sources.iter().map(|(id, source)| (id.to_string(), source.clone())).collect())
    }

    #[tokio::test]
    async fn a_value_is_read_once_and_never_shown() {
        let dir = tempfile::tempdir().expect("a directory");
        let (file, count) = (dir.path().join("value"), dir.path().join("count"));
        std::fs::write(&file, "hunter2-of-a-file\n").expect("written");
        let command = format!("echo x >> {}; printf hunter2-of-a-command", count.display());
        let secrets = given(&[("f", SecretSource::File(file.clone())), ("c", SecretSource::Command(command))]);
        let never = CancellationToken::new();
        for _ in 0..2 {
            let found = secrets.get("f", &never).await.expect("readable").expect("given");
            assert_eq!((found.bytes(), found.trimmed()), (&b"hunter2-of-a-file\n"[..], &b"hunter2-of-a-file"[..]));
            let found = secrets.require("c", &never).await.expect("readable");
            assert_eq!(found.bytes(), b"hunter2-of-a-command");
            std::fs::write(&file, "another").expect("written");
        }
        assert_eq!(std::fs::read_to_string(&count).expect("it ran"), "x\n");
        let shown = format!("{secrets:?} {:?}", secrets.seen());
        assert!(!shown.contains("hunter2-of-a-f") && shown.contains("\"f\""), "{shown}");
    }

    #[tokio::test]
    async fn what_is_missing_is_told_with_what_to_do() {
        let file = |path: &str| SecretSource::File(path.into());
        let secrets = given(&[
            ("unset", SecretSource::Variable("RBUILD_NO_SUCH_VARIABLE".into())),
            ("gone", file("/nonexistent/secret")),
            ("dir", file("/proc")),
            ("endless", file("/dev/zero")),
            ("failing", SecretSource::Command("echo first >&2; echo last words >&2; exit 3".into())),
            ("yes", SecretSource::Command("exec yes".into())),
        ]);
        let never = CancellationToken::new();
        for (id, message, help) in [
            ("none", "secret `none` is not given", "--secret id=none,src=FILE"),
            ("unset", "secret `unset`: the environment variable `RBUILD_NO_SUCH_VARIABLE` is not set", "set it"),
            ("gone", "secret `gone`: cannot read `/nonexistent/secret`", ""),
            ("dir", "secret `dir`: cannot read `/proc`", ""),
            ("endless", "secret `endless` has more than 1 MiB", "bind mount"),
            ("failing", "secret `failing`: its command failed (exit status: 3): last words", ""),
            ("yes", "secret `yes` has more than 1 MiB", "bind mount"),
        ] {
            let error = secrets.require(id, &never).await.expect_err(id);
            assert_eq!(error.to_string(), message);
            assert!(error.help().unwrap_or_default().contains(help), "{id}: {:?}", error.help());
        }
        assert!(secrets.get("none", &never).await.expect("optional").is_none());
        assert!(secrets.get("unset", &never).await.expect("optional").is_none());
        never.cancel();
        assert!(matches!(secrets.get("yes", &never).await, Err(SecretError::Canceled)));
    }
}
