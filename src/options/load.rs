//! Where an image may be loaded into: docker, podman, containerd, and how each is reached.
//!
//! In: what `--load` or `-o type=docker` says, and the environment (`DOCKER_HOST`, `CONTAINER_HOST`, …). Out: places, in
//! the order in which they are tried; the first that runs is taken. What the environment names is taken at its word: then
//! nothing else is tried. Deliberately absent: asking any of them ([`crate::engine::load`]); docker's contexts
//! ([`context`]).

mod context;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::output::ImageForm;
use crate::engine::Failure;
use crate::environment::Environment;

/// An image into what runs containers here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadOutput {
    /// Its names, and how what keeps blobs gets them.
    pub form: ImageForm,
    /// What was asked for.
    pub wanted: Wanted,
    /// Where it may go, best first.
    pub places: Vec<Place>,
    /// Where it goes, once that was found out.
    pub target: Option<Target>,
}

/// What the user said of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// `to=`, `--load=`; `None`: whatever runs.
    pub engine: Option<EngineKind>,
    /// `context=`: one of docker's.
    pub context: Option<String>,
    /// `namespace=`: one of containerd's.
    pub namespace: Option<String>,
}

/// What runs containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineKind {
    /// dockerd.
    Docker,
    /// podman, with a service or without.
    Podman,
    /// containerd alone.
    Containerd,
}

/// Somewhere an engine may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which engine.
    pub engine: EngineKind,
    /// How it is reached.
    pub way: Way,
    /// What names it, when something does: `DOCKER_HOST`, say.
    pub origin: Option<String>,
}

/// How an engine is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Its API, at a socket.
    Socket(PathBuf),
    /// Its API, over the network.
    Tcp {
        /// `http://HOST:PORT`, or https.
        url: String,
        /// For https.
        tls: Option<Tls>,
    },
    /// A program that needs no service: podman.
    Program(PathBuf),
    /// containerd's `ctr`.
    Ctr {
        /// The program; `None`: there is none.
        program: Option<PathBuf>,
        /// containerd's socket.
        socket: PathBuf,
        /// Its namespace.
        namespace: String,
    },
}

/// How an engine is spoken to over TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Where `ca.pem`, `cert.pem` and `key.pem` are, as far as there are any.
    pub directory: PathBuf,
    /// Whether its certificate is looked at.
    pub verify: bool,
}

/// Where an image goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// An engine that runs; podman may be behind a socket of docker's.
    pub place: Place,
    /// What becomes of layers there.
    pub keeps: Keeps,
}

/// What an engine makes of layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// It unpacks them: how they were compressed is lost.
    Trees,
    /// It keeps them as they come, and pushes them so.
    Blobs,
}

impl LoadOutput {
    /// Whether layers must be blobs for it.
    pub fn keeps_blobs(&self) -> bool {
        self.target.as_ref().is_some_and(|target| target.keeps == Keeps::Blobs)
    }
}

impl Wanted {
    /// Contexts are docker's, and mean it; so are namespaces containerd's.
    pub fn check(&self) -> Result<(), String> {
        let misfit = |what: &str, of: EngineKind| {
            self.engine.filter(|engine| *engine != of).map(|engine| format!("`{what}` is of {of}, not of {engine}"))
        };
        let context = self.context.as_ref().and_then(|_| misfit("context", EngineKind::Docker));
        let namespace = self.namespace.as_ref().and_then(|_| misfit("namespace", EngineKind::Containerd));
        let both = (self.context.is_some() && self.namespace.is_some())
            .then(|| "`context` is of docker, and `namespace` of containerd".to_owned());
        context.or(namespace).or(both).map_or(Ok(()), Err)
    }

    /// The engine that is meant, if one is.
    fn meant(&self) -> Option<EngineKind> {
        let by_context = self.context.as_ref().map(|_| EngineKind::Docker);
        self.engine.or(by_context).or(self.namespace.as_ref().map(|_| EngineKind::Containerd))
    }
}

impl EngineKind {
    const ALL: [Self; 3] = [Self::Docker, Self::Podman, Self::Containerd];

    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Containerd => "containerd",
        }
    }
}

impl fmt::Display for EngineKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for EngineKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|engine| engine.name() == text);
        found.ok_or_else(|| format!("`{text}` is none of docker, podman, containerd"))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.way {
            Way::Socket(path) => write!(f, "unix://{}", path.display()),
            Way::Tcp { url, .. } => f.write_str(url),
            Way::Program(path) => write!(f, "{}", path.display()),
            Way::Ctr { socket, namespace, .. } => write!(f, "unix://{}, namespace {namespace}", socket.display()),
        }
    }
}

/// What the value of `--load` asks for; `None`: not to load.
///
/// # Errors
/// With advice, for what is no engine.
pub fn asked(value: Option<&str>) -> Result<Option<Wanted>, Failure> {
    match value {
        None | Some("false" | "0") => Ok(None),
        Some("" | "true" | "1") => Ok(Some(Wanted::default())),
        Some(name) => match name.parse() {
            Ok(engine) => Ok(Some(Wanted { engine: Some(engine), ..Wanted::default() })),
            Err(reason) => Err(Failure::new(format!("`--load={name}`: {reason}"))
                .help("`--load` alone takes the first that runs; contexts and namespaces are for `-o type=docker,…`")),
        },
    }
}

/// The places that are meant, best first.
///
/// # Errors
/// With advice, for addresses that are none, or that rbuild cannot speak to.
pub fn places(wanted: &Wanted, environment: &Environment) -> Result<Vec<Place>, Failure> {
    let is_meant = |engine| wanted.meant().is_none_or(|meant| meant == engine);
    let mut named = Vec::new();
    if is_meant(EngineKind::Docker) {
        named.extend(context::named(wanted, environment)?);
    }
    if is_meant(EngineKind::Podman)
        && let Some(text) = environment.text("CONTAINER_HOST")
    {
        let way = address(&text, None).map_err(|failure| told_by("CONTAINER_HOST", &text, failure))?;
        named.push(Place { engine: EngineKind::Podman, way, origin: Some("CONTAINER_HOST".into()) });
    }
    if is_meant(EngineKind::Containerd)
        && let Some(text) = environment.text("CONTAINERD_ADDRESS")
    {
        let socket = PathBuf::from(text.strip_prefix("unix://").unwrap_or(&text));
        let way = ctr(socket, wanted, environment);
        named.push(Place { engine: EngineKind::Containerd, way, origin: Some("CONTAINERD_ADDRESS".into()) });
    }
    if !named.is_empty() {
        return Ok(named);
    }
    let usual = EngineKind::ALL.into_iter().filter(|engine| is_meant(*engine));
    Ok(usual.flat_map(|engine| usual_places(engine, wanted, environment)).collect())
}

/// Where an engine is when nothing says otherwise.
fn usual_places(engine: EngineKind, wanted: &Wanted, environment: &Environment) -> Vec<Place> {
    let of_user = |name: &str| environment.directory("XDG_RUNTIME_DIR").map(|dir| Way::Socket(dir.join(name)));
    let socket = |path: &str| Way::Socket(path.into());
    let ways = match engine {
        EngineKind::Docker => [Some(socket("/var/run/docker.sock")), of_user("docker.sock")].to_vec(),
        EngineKind::Podman => {
            let service = if environment.root_user {
                Some(socket("/run/podman/podman.sock"))
            } else {
                of_user("podman/podman.sock")
            };
            [service, program("podman", environment).map(Way::Program)].to_vec()
        }
        EngineKind::Containerd => ["/run/containerd/containerd.sock", "/run/k3s/containerd/containerd.sock"]
            .map(|path| Some(ctr(path.into(), wanted, environment)))
            .to_vec(),
    };
    ways.into_iter().flatten().map(|way| Place { engine, way, origin: None }).collect()
}

fn ctr(socket: PathBuf, wanted: &Wanted, environment: &Environment) -> Way {
    let namespace = wanted.namespace.clone().or_else(|| environment.text("CONTAINERD_NAMESPACE"));
    let namespace = namespace.unwrap_or_else(|| "default".into());
    Way::Ctr { program: program("ctr", environment), socket, namespace }
}

/// A program of `PATH`.
fn program(name: &str, environment: &Environment) -> Option<PathBuf> {
    let folders = environment.get("PATH")?;
    std::env::split_paths(folders)
        .filter(|folder| folder.is_absolute())
        .map(|folder| folder.join(name))
        .find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    path.metadata().is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o111 != 0)
}

/// An address as `DOCKER_HOST` and `CONTAINER_HOST` have it; `tls`: to be used over the network.
fn address(text: &str, tls: Option<Tls>) -> Result<Way, Failure> {
    /// Of docker, without TLS and with it.
    const PORTS: [u16; 2] = [2375, 2376];
    let text = text.trim();
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (scheme, rest),
        // As docker reads `host:port`.
        None => ("tcp", text),
    };
    let rest = rest.trim_end_matches('/');
    match scheme {
        "unix" if rest.starts_with('/') => Ok(Way::Socket(rest.into())),
        "unix" => Err(Failure::new("a socket's path is absolute").help("write `unix:///run/…/NAME.sock`")),
        "tcp" | "http" | "https" if !rest.is_empty() => {
            let tls = match scheme {
                "http" => None,
                "https" => Some(tls.unwrap_or(Tls { directory: PathBuf::new(), verify: true })),
                _ => tls,
            };
            let secure = tls.is_some();
            let (host, path) = rest.split_once('/').map_or((rest, ""), |(host, path)| (host, path));
            let is_numbered = host.rsplit_once(':').is_some_and(|(before, port)| {
                !port.is_empty() && port.bytes().all(|digit| digit.is_ascii_digit()) && !before.ends_with(':')
            });
            let port = if is_numbered { String::new() } else { format!(":{}", PORTS[usize::from(secure)]) };
            let path = if path.is_empty() { String::new() } else { format!("/{path}") };
            let url = format!("{}://{host}{port}{path}", if secure { "https" } else { "http" });
            if oci::http::reqwest::Url::parse(&url).is_err() || host.contains('@') {
                return Err(Failure::new("it is no address").help("write `tcp://HOST:PORT`, or `unix:///PATH`"));
            }
            Ok(Way::Tcp { url, tls })
        }
        "ssh" => Err(Failure::new("rbuild does not speak to engines over ssh").help(
            "let ssh bring the socket here: `ssh -nNTL /tmp/engine.sock:/var/run/docker.sock HOST`, then \
             `DOCKER_HOST=unix:///tmp/engine.sock`",
        )),
        _ => Err(Failure::new("it is no address that rbuild knows").help("write `unix:///PATH` or `tcp://HOST:PORT`")),
    }
}

/// Says where a wrong address stands.
fn told_by(origin: &str, text: &str, failure: Failure) -> Failure {
    let mut failure = failure;
    for problem in &mut failure.problems {
        problem.message = format!("`{origin}` is `{}`: {}", oci::http::harmless(text), problem.message);
    }
    failure
}
