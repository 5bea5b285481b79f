//! Credentials: whose name and password a registry gets.
//!
//! A registry and a repository come in; a [`Credential`] and the place it came from go out. Looked for, in the order
//! of containers-auth.json(5), until one file has something for the registry:
//!
//! 1. what the caller gave ([`Credentials::with`]);
//! 2. `REGISTRY_AUTH_FILE`, and then nothing else;
//! 3. `$XDG_RUNTIME_DIR/containers/auth.json` (`/run/containers/<uid>/auth.json` where that is unset);
//! 4. `$XDG_CONFIG_HOME/containers/auth.json` (`~/.config/…`);
//! 5. `$DOCKER_CONFIG/config.json` (`~/.docker/…`);
//! 6. `~/.dockercfg`;
//! 7. what a CI system put into the environment of its job ([`ci`]), unless that is switched off.
//!
//! Within a file a helper named for the registry comes first, then the general helper, then what stands in the file.
//! A helper that is missing or fails is no reason to stop: many images need no credentials. It is told when the
//! registry refuses. Deliberately absent: who may be given a credential ([`super::origin`]).

mod ask;

mod file;

mod helper;

mod ci;

mod login;

mod document;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};

use ci::Job;
use file::{AuthFile, Contents};
use helper::Helpers;

pub use ask::{Answer, AskCredentials, FetchedToken, TokenWish};
pub use login::LoginKey;

/// Text that is never shown.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(String);

impl Secret {
    /// Keeps text from being shown.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What a registry accepts as proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// Name and password: Basic authentication, or a token bought with it.
    Password {
        /// The name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// An identity token: exchanged for access tokens by OAuth 2 (`grant_type=refresh_token`).
    IdentityToken(Secret),
    /// A Bearer token for the registry itself.
    RegistryToken(Secret),
}

/// Where credentials come from. Cheap to clone; files are read when a registry asks.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    given: BTreeMap<String, Credential>,
    files: Vec<AuthFile>,
    /// Folders in which helpers are found, as in `PATH`.
    helper_path: OsString,
    job: Job,
    through: Option<Through>,
    asked: Option<std::sync::Arc<dyn AskCredentials>>,
}

/// A program that starts helpers: its arguments are followed by the helper's path and the helper's own.
#[derive(Clone, Debug)]
pub struct Through {
    /// What to execute.
    pub program: PathBuf,
    /// Under which name.
    pub arg0: OsString,
    /// Its first arguments.
    pub args: Vec<OsString>,
}

/// Where credentials of whoever a build is done for come from.
pub(super) const CLIENT: &str = "the client";

/// What a search found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The credential and where it comes from.
    pub credential: Option<(Credential, String)>,
    /// Whether nobody chose it for rbuild: it stood in the environment of a CI job.
    pub is_implied: bool,
    /// Which files were looked into, missing ones included.
    pub searched: Vec<String>,
    /// What hindered the search.
    pub notes: Vec<String>,
}

impl Credentials {
    /// None at all.
    pub fn none() -> Self {
        Self::default()
    }

    /// From the places that this process's environment names.
    pub fn from_environment() -> Self {
        Self::from_variables(|name| std::env::var_os(name))
    }

    /// The same for a process that looks like root to itself and was started by `user`.
    pub fn from_environment_of(user: u32) -> Self {
        Self::of_user(user, |name| std::env::var_os(name))
    }

    /// From the places that the given variables name. Relative paths in `XDG_…` variables are ignored, as the XDG base
    /// directory specification asks.
    pub fn from_variables(get: impl Fn(&str) -> Option<OsString>) -> Self {
        Self::of_user(rustix::process::geteuid().as_raw(), get)
    }

    fn of_user(user: u32, get: impl Fn(&str) -> Option<OsString>) -> Self {
        let path = |name: &str| get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let folder = |name: &str| path(name).filter(|path| path.is_absolute());
        let home = folder("HOME");
        let below_home = |rest: &str| home.as_ref().map(|home| home.join(rest));
        let mut files = Vec::new();
        if let Some(path) = path("REGISTRY_AUTH_FILE") {
            files.push(AuthFile { path, required: true, bare: false, is_dockers: false });
        } else {
            let runtime = folder("XDG_RUNTIME_DIR")
                .map(|dir| dir.join("containers/auth.json"))
                .unwrap_or_else(|| PathBuf::from(format!("/run/containers/{user}/auth.json")));
            let config = folder("XDG_CONFIG_HOME").or_else(|| below_home(".config"));
            let docker = path("DOCKER_CONFIG").or_else(|| below_home(".docker"));
            let mut add = |path: Option<PathBuf>, is_dockers: bool, bare: bool| {
                files.extend(path.map(|path| AuthFile { path, required: false, bare, is_dockers }));
            };
            add(Some(runtime), false, false);
            add(config.map(|dir| dir.join("containers/auth.json")), false, false);
            add(docker.map(|dir| dir.join("config.json")), true, false);
            add(below_home(".dockercfg"), false, true);
        }
        let (helper_path, job) = (get("PATH").unwrap_or_default(), Job::from_variables(&get));
        Self { given: BTreeMap::new(), files, helper_path, job, through: None, asked: None }
    }

    /// Without what a CI system put into the environment.
    pub fn without_job(mut self) -> Self {
        self.job = Job::default();
        self
    }

    /// With helpers started by another program.
    pub fn with_helpers_through(mut self, through: Through) -> Self {
        self.through = Some(through);
        self
    }

    /// From one file, which must exist (`--authfile`).
    pub fn with_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.files = vec![AuthFile { path: path.into(), required: true, bare: false, is_dockers: false }];
        self
    }

    /// Adds a credential for a registry (`ghcr.io`, `localhost:5000`); it comes before all files.
    pub fn with(mut self, registry: &str, credential: Credential) -> Self {
        self.given.insert(registry.to_owned(), credential);
        self
    }

    /// Who is asked for what, if anybody.
    pub(super) fn asker(&self) -> Option<&std::sync::Arc<dyn AskCredentials>> {
        self.asked.as_ref()
    }

    /// Asks somebody, behind what the caller gave and before all files.
    pub fn asking(mut self, asked: std::sync::Arc<dyn AskCredentials>) -> Self {
        self.asked = Some(asked);
        self
    }

    /// What there is for `repository` on `registry`. Runs a helper where a file names one.
    ///
    /// # Errors
    /// A file that cannot be read or understood, or one that was named and does not exist.
    pub async fn find(&self, registry: &str, repository: &str) -> Result<Found, CredentialError> {
        let mut found = Found::default();
        let registry = match registry {
            "index.docker.io" | "registry-1.docker.io" => "docker.io",
            other => other,
        };
        if let Some(credential) = self.given.get(registry) {
            found.credential = Some((credential.clone(), "the command line".to_owned()));
            return Ok(found);
        }
        if let Some(asked) = &self.asked {
            found.searched.push(CLIENT.to_owned());
            match asked.ask(registry).await {
                Ok(Some(credential)) => {
                    found.credential = Some((credential, CLIENT.to_owned()));
                    return Ok(found);
                }
                Ok(None) => {}
                Err(words) => found.notes.push(format!("{CLIENT} gave no credentials: {words}")),
            }
        }
        for file in &self.files {
            found.searched.push(file.path.display().to_string());
            let Some(contents) = file.read().await? else { continue };
            if let Some(hit) = self.search(&file.path, &contents, registry, repository, &mut found.notes).await? {
                found.credential = Some(hit);
                return Ok(found);
            }
        }
        found.is_implied = true;
        if let Some(text) = &self.job.auth_config {
            const NAME: &str = "DOCKER_AUTH_CONFIG";
            found.searched.push(NAME.to_owned());
            let path = PathBuf::from(NAME);
            match Contents::parse(text.expose().as_bytes(), false) {
                Ok(contents) => {
                    found.credential = self.search(&path, &contents, registry, repository, &mut found.notes).await?;
                }
                // Somebody else's variable stops no build.
                Err(reason) => found.notes.push(format!("the variable `{NAME}` is not understood: {reason}")),
            }
        }
        if found.credential.is_none()
            && let Some((credential, variable)) = self.job.find(registry)
        {
            found.credential = Some((credential.clone(), format!("the variable `{variable}`")));
        }
        Ok(found)
    }

    async fn search(
        &self,
        path: &Path,
        contents: &Contents,
        registry: &str,
        repository: &str,
        notes: &mut Vec<String>,
    ) -> Result<Option<(Credential, String)>, CredentialError> {
        let origin = path.display().to_string();
        if let Some(helper) = contents.helper(registry) {
            let helpers = Helpers { path: &self.helper_path, through: self.through.as_ref() };
            match helpers.get(helper, file::helper_key(registry)).await {
                Ok(Some(credential)) => {
                    return Ok(Some((credential, format!("`docker-credential-{helper}`, which `{origin}` names"))));
                }
                Ok(None) => {}
                Err(error) => {
                    let note = format!("the helper that `{origin}` names did not help: {}", error.in_one_line());
                    tracing::warn!(registry, "{note}");
                    notes.push(note);
                }
            }
        }
        Ok(contents.entry(path, registry, repository)?.map(|credential| (credential, format!("`{origin}`"))))
    }
}

/// `` the credentials of `bob` from `/root/.docker/config.json` ``
pub fn whose(credential: &Credential, origin: &str) -> String {
    match credential {
        Credential::Password { username, .. } => {
            format!("the credentials of `{}` from {origin}", super::words::harmless(username))
        }
        Credential::IdentityToken(_) => format!("the identity token from {origin}"),
        Credential::RegistryToken(_) => format!("the registry token from {origin}"),
    }
}

/// Why credentials could not be looked up. What stands in a file is never quoted, for it is secret.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file cannot be read, or is missing although it was named.
    #[error("cannot read `{}`", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write `{}`", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is no folder for a file of credentials.
    #[error("there is no place for credentials: neither `HOME` nor `DOCKER_CONFIG` is set")]
    Nowhere,
    /// A file is not what it should be.
    #[error("`{}` is not a file of credentials: {reason}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong and where, without what stands there.
        reason: String,
    },
    /// A helper's name has characters that no program's name needs.
    #[error("`docker-credential-{name}` is not the name of a program")]
    HelperName {
        /// The name.
        name: String,
    },
    /// A helper is not installed.
    #[error("`docker-credential-{name}` is not installed")]
    HelperMissing {
        /// Its name.
        name: String,
    },
    /// A helper cannot be run.
    #[error("cannot run `docker-credential-{name}`")]
    HelperRun {
        /// Its name.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// A helper failed.
    #[error("`docker-credential-{name}` failed: {reason}")]
    HelperFailed {
        /// Its name.
        name: String,
        /// Its words, or what is wrong with its answer.
        reason: String,
    },
}

impl CredentialError {
    fn in_one_line(&self) -> String {
        match self {
            Self::HelperRun { source, .. } | Self::Read { source, .. } | Self::Write { source, .. } => {
                format!("{self}: {source}")
            }
            other => other.to_string(),
        }
    }
}

/// A serde_json error without the value that it likes to quote.
fn place(error: &serde_json::Error) -> String {
    let what = match error.classify() {
        serde_json::error::Category::Data => "a value of the wrong type",
        serde_json::error::Category::Eof => "it ends too early",
        _ => "not JSON",
    };
    format!("{what} at line {} column {}", error.line(), error.column())
}

/// Whether a program's name is only that.
fn is_helper_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn path_folders(path: &OsStr) -> impl Iterator<Item = PathBuf> {
    // A relative folder in PATH would let a build context choose the program.
    std::env::split_paths(path).filter(|folder| folder.is_absolute()).collect::<Vec<_>>().into_iter()
}
