//! Which docker is meant: `context=`, `DOCKER_HOST`, `DOCKER_CONTEXT`, or the context that the user chose last.
//!
//! ```text
//!   ~/.docker/config.json                             "currentContext"
//!   ~/.docker/contexts/meta/<sha256 of name>/meta.json   where its docker is
//!   ~/.docker/contexts/tls/<sha256 of name>/docker/      ca.pem, cert.pem, key.pem
//! ```
//! Read as docker's own client does. Deliberately absent: making contexts.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use oci::model::Digest;
use serde::Deserialize;

use super::{EngineKind, Place, Tls, Wanted, address, told_by};
use crate::engine::Failure;
use crate::environment::Environment;

/// A context is some lines, and a config of many logins some kilobytes.
const FILE_MAX_BYTES: u64 = 1 << 20;
/// The context that is none.
const DEFAULT: &str = "default";

/// The docker that something names; `None`: nothing does.
pub(super) fn named(wanted: &Wanted, environment: &Environment) -> Result<Option<Place>, Failure> {
    let folder = environment
        .get("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| environment.directory("HOME").map(|home| home.join(".docker")));
    if let Some(name) = wanted.context.as_deref().filter(|name| *name != DEFAULT) {
        return of_context(name, folder.as_deref(), format!("context={name}")).map(Some);
    }
    if let Some(text) = environment.text("DOCKER_HOST") {
        let way = address(&text, tls(folder.as_deref(), environment));
        let way = way.map_err(|failure| told_by("DOCKER_HOST", &text, failure))?;
        return Ok(Some(Place { engine: EngineKind::Docker, way, origin: Some("DOCKER_HOST".into()) }));
    }
    if wanted.context.is_some() {
        return Ok(None);
    }
    if let Some(name) = environment.text("DOCKER_CONTEXT") {
        let named = (name != DEFAULT).then(|| of_context(&name, folder.as_deref(), "DOCKER_CONTEXT".into()));
        return named.transpose();
    }
    let Some(folder) = folder else { return Ok(None) };
    let config = folder.join("config.json");
    match current(&config)? {
        Some(name) if name != DEFAULT => {
            of_context(&name, Some(&folder), format!("currentContext in {}", config.display())).map(Some)
        }
        _ => Ok(None),
    }
}

/// What the environment says of TLS.
fn tls(folder: Option<&Path>, environment: &Environment) -> Option<Tls> {
    let verify = environment.get("DOCKER_TLS_VERIFY").is_some();
    let directory = environment.get("DOCKER_CERT_PATH").map(PathBuf::from);
    if !verify && directory.is_none() && environment.get("DOCKER_TLS").is_none() {
        return None;
    }
    let directory = directory.or_else(|| folder.map(Path::to_owned)).unwrap_or_default();
    Some(Tls { directory: environment.working_directory.join(directory), verify })
}

#[derive(Deserialize)]
struct Config {
    #[serde(rename = "currentContext", default)]
    current_context: Option<String>,
}

/// The context that the user chose; a config that cannot be read chooses none.
fn current(path: &Path) -> Result<Option<String>, Failure> {
    let Some(text) = read(path)? else { return Ok(None) };
    match serde_json::from_slice::<Config>(&text) {
        Ok(config) => Ok(config.current_context.filter(|name| !name.is_empty())),
        Err(error) => {
            // Whoever needs its logins says so.
            tracing::debug!(path = %path.display(), %error, "docker's config is not understood");
            Ok(None)
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Meta {
    #[serde(default)]
    endpoints: Endpoints,
}

#[derive(Default, Deserialize)]
struct Endpoints {
    docker: Option<Endpoint>,
}

#[derive(Deserialize)]
struct Endpoint {
    #[serde(rename = "Host", default)]
    host: String,
    #[serde(rename = "SkipTLSVerify", default)]
    unverified: bool,
}

fn of_context(name: &str, folder: Option<&Path>, origin: String) -> Result<Place, Failure> {
    let wrong = |reason: String| Failure::new(format!("`{origin}`: {reason}"));
    let unknown = || wrong(format!("docker has no context `{name}`")).help("`docker context ls` lists them");
    let contexts = folder.ok_or_else(unknown)?.join("contexts");
    let id = Digest::of(name.as_bytes()).hex();
    let path = contexts.join("meta").join(&id).join("meta.json");
    let text = read(&path)?.ok_or_else(unknown)?;
    let meta: Meta = serde_json::from_slice(&text).map_err(|error| {
        wrong(format!("`{}` is not what docker writes there", path.display())).note(error.to_string())
    })?;
    let endpoint = meta.endpoints.docker.filter(|endpoint| !endpoint.host.is_empty());
    let endpoint = endpoint.ok_or_else(|| wrong(format!("the context `{name}` names no docker")))?;
    let directory = contexts.join("tls").join(&id).join("docker");
    let tls = directory.is_dir().then_some(Tls { directory, verify: !endpoint.unverified });
    let way = address(&endpoint.host, tls).map_err(|failure| told_by(&origin, &endpoint.host, failure))?;
    Ok(Place { engine: EngineKind::Docker, way, origin: Some(origin) })
}

/// A small file; `None` if there is none.
fn read(path: &Path) -> Result<Option<Vec<u8>>, Failure> {
    let mut text = Vec::new();
    let found = File::open(path).and_then(|file| file.take(FILE_MAX_BYTES).read_to_end(&mut text));
    match found {
        Ok(_) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(Failure::new(format!("cannot read `{}`", path.display())).note(error.to_string())),
    }
}
