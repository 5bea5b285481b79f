//! `rbuild login`: credentials are tried at the registry, and kept.

use std::io::Read as _;

use oci::registry::{Client, Credential, Credentials, CredentialsUsed, Login, LoginKey, RegistryError, Secret};

use super::{Hall, prompt};
use crate::cli::LoginArgs;
use crate::engine::{Failure, registry_failure};
use crate::report;

/// The registry of those who name none.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Passwords and tokens are shorter.
const PASSWORD_MAX_BYTES: u64 = 1 << 20;

/// Tries credentials at a registry, and keeps them if they are good.
pub async fn login(hall: &Hall<'_>, args: &LoginArgs) -> Result<u8, Failure> {
    let key = key(args.registry.as_deref())?;
    let registries = hall.registries();
    let kept = registries.credentials(None);
    if args.get_login {
        return who(&kept, &key).await;
    }
    let (username, password) = given(hall, args, &key).await?;
    let credential = Credential::Password { username: username.clone(), password: password.clone() };
    let style = hall.style();
    let (hosts, _) = registries.hosts.read();
    for warning in hosts.warnings() {
        report::print(&report::note(warning, style));
    }
    let client = Client::new(oci::registry::Settings {
        credentials: Credentials::none().with(key.registry(), credential),
        hosts: Some(std::sync::Arc::new(move || hosts.clone())),
        offline: hall.config.offline.value,
        ..Default::default()
    });
    let client = client.map_err(|error| registry_failure(&error))?;
    let login = client.check_login(key.registry()).await.map_err(|error| refused(&key, &username, &error))?;
    let place = kept.store(&key, &username, &password).await.map_err(|error| Failure::from_error(&error))?;
    super::print("Login Succeeded\n")?;
    if login == Login::NotAsked {
        let text = format!("`{key}` lets everybody in: it did not look at the credentials");
        report::print(&report::note(&text, style));
    }
    report::print(&report::note(&format!("kept in {place}"), style));
    Ok(0)
}

/// What is meant by the name of a registry.
pub(super) fn key(registry: Option<&str>) -> Result<LoginKey, Failure> {
    let text = registry.unwrap_or(DEFAULT_REGISTRY);
    LoginKey::parse(text).ok_or_else(|| {
        Failure::new(format!("`{}` is not the name of a registry", crate::escape::line(text)))
            .help("write `rbuild login HOST` or `rbuild login HOST:PORT`")
    })
}

/// Prints who is logged in.
async fn who(kept: &Credentials, key: &LoginKey) -> Result<u8, Failure> {
    let found = kept.find(key.registry(), "").await.map_err(|error| Failure::from_error(&error))?;
    match found.credential {
        Some((Credential::Password { username, .. }, _)) => super::print(&format!("{username}\n")).map(|()| 0),
        Some((credential, origin)) => {
            super::print(&format!("{}\n", oci::registry::whose(&credential, &origin))).map(|()| 0)
        }
        None => {
            let failure =
                found.notes.into_iter().fold(Failure::new(format!("nobody is logged in to `{key}`")), Failure::note);
            Err(failure.help(format!("`rbuild login {key}` logs in")))
        }
    }
}

/// Name and password as they were given, or as a person types them.
async fn given(hall: &Hall<'_>, args: &LoginArgs, key: &LoginKey) -> Result<(String, Secret), Failure> {
    let terminal = hall.environment.stdin_terminal;
    let pipe = "`echo \"$PASSWORD\" | rbuild login -u NAME --password-stdin REGISTRY` needs no terminal";
    let username = match &args.username {
        Some(username) => username.clone(),
        None if args.password_stdin => {
            return Err(Failure::new("`--password-stdin` needs a name").help("give one with `-u NAME`"));
        }
        None if terminal => prompt::line(&format!("Username for `{key}`: ")).await?,
        None => return Err(Failure::new("there is no user name").help(pipe)),
    };
    if username.is_empty() || username.contains(':') || username.chars().any(char::is_control) {
        return Err(Failure::new("a user name is not empty and holds no colon"));
    }
    let password = match &args.password {
        Some(password) => {
            let text = "everybody who may list processes can read a password that is given as a flag; use \
                        `--password-stdin`";
            report::print(&report::note(text, hall.style()));
            Secret::new(password.clone())
        }
        None if args.password_stdin => from_stdin()?,
        None if terminal => prompt::secret("Password: ").await?,
        None => return Err(Failure::new("there is no password").help(pipe)),
    };
    if password.expose().is_empty() {
        return Err(Failure::new("the password is empty"));
    }
    Ok((username, password))
}

/// All of standard input but one line break at its end.
fn from_stdin() -> Result<Secret, Failure> {
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(PASSWORD_MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(|error| Failure::new("the password cannot be read from standard input").note(error.to_string()))?;
    let text = text.strip_suffix('\n').map_or(text.as_str(), |rest| rest.strip_suffix('\r').unwrap_or(rest));
    Ok(Secret::new(text))
}

/// Why nobody is logged in now.
fn refused(key: &LoginKey, username: &str, error: &RegistryError) -> Failure {
    match error {
        RegistryError::Unauthorized { request, words, credentials, .. }
            if matches!(**credentials, CredentialsUsed::Sent { .. }) =>
        {
            let username = crate::escape::line(username);
            let failure = Failure::new(format!("`{key}` does not accept this name and password of `{username}`"));
            let said = words.as_ref().map_or(String::new(), |words| format!(": {words}"));
            failure.note(format!("`{request}` was refused{said}")).help("nothing was kept")
        }
        RegistryError::Offline { .. } => {
            Failure::new("a login needs a connection, which `offline` forbids").help("`RBUILD_OFFLINE=0` allows it")
        }
        error => {
            let failure = registry_failure(error);
            match error {
                RegistryError::Certificate { .. } => failure.help(
                    "give its authority's certificate with `--cert-dir DIR`, or name it in `config.toml` \
                     (docs/registries.md)",
                ),
                _ => failure,
            }
        }
    }
}
