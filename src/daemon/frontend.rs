//! The frontend `dockerfile.v0`: a client's attributes become the options of a build, as the command line's words do.
//!
//! In: attributes, outputs and caches of a request, and the session that files and secrets come from. Out:
//! [`BuildOptions`]. Attributes that say something about a build and that this version cannot obey are refused; those
//! that only describe it (`vcs:…`, `source`, `cmdline`) and unknown ones change nothing, as with BuildKit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::control::{CacheOptions, CacheOptionsEntry, Exporter};
use oci::model::Platform;
use solver::op::NetworkMode;
use tokio::runtime::Handle;

use super::Config;
use super::outputs::{self, Outputs};
use super::session::Session;
use super::session::blobs::{Kept, SessionCache, SessionLayouts};
use super::session::files::SessionFiles;
use super::session::secrets::SessionSecrets;
use crate::cli::StepArgs;
use crate::engine::{Failure, NamedDefinition, Policy};
use crate::options::attest::{self, Provenance};
use crate::options::cache::CachePlace;
use crate::options::context::{self, DockerfileFrom, Layout, NamedSource, NamedValue, Place};
use crate::options::outputs::check_told;
use crate::options::theirs::{Files, TheirCache, TheirDirectory, TheirLayouts};
use crate::options::{BuildOptions, InputOptions, allow, annotation, cache, provisions};

/// The name of this frontend.
pub const NAME: &str = "dockerfile.v0";
/// More than there are kinds of machines.
const PLATFORMS_MAX: usize = 32;
/// Where clients say that streams of their sessions are. No host has that name.
pub const STREAMS: &str = "http://buildkit-session/";
/// Attributes that ask for what this version does not do.
const REFUSED: [(&str, &str); 1] = [("contextsubdir", "a context is its whole directory")];

/// What a frontend is asked for.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// Its attributes.
    pub attributes: BTreeMap<String, String>,
    /// Caches to know from.
    pub imports: Vec<CacheOptionsEntry>,
    /// Results of other builds that it may stand on, by name.
    pub inputs: BTreeMap<String, Arc<NamedDefinition>>,
}

/// What else a request says.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where the result goes.
    pub exporters: Vec<Exporter>,
    /// Caches.
    pub cache: CacheOptions,
    /// What steps may ask for.
    pub entitlements: Vec<String>,
    /// What sources are allowed, and replaced.
    pub policy: Policy,
    /// Who asks.
    pub session: Arc<Session>,
    /// Takes what was kept in a cache of the client.
    pub kept: Kept,
}

impl Request {
    /// One that only asks.
    pub fn of(session: Arc<Session>) -> Self {
        let (cache, policy) = (CacheOptions::default(), Policy::default());
        Self { exporters: Vec::new(), cache, entitlements: Vec::new(), policy, session, kept: Kept::default() }
    }
}

/// What is to be built.
///
/// # Errors
/// With advice, for what cannot be obeyed.
pub fn options(config: &Config, asked: &Asked, request: &Request) -> Result<BuildOptions, Failure> {
    let attributes = &asked.attributes;
    let get = |key: &str| attributes.get(key).map(String::as_str).filter(|value| !value.is_empty());
    for (key, why) in REFUSED {
        if get(key).is_some() {
            return Err(Failure::new(format!("the frontend's option `{key}` is not supported: {why}")));
        }
    }
    let input = input(config, asked, &request.session, &request.policy)?;
    let mut annotations = annotation::Annotations::default();
    let Outputs { outputs, tags, epoch } =
        outputs::outputs(&request.exporters, &input, &request.session, &Handle::current())?;
    for output in &outputs {
        if let crate::options::output::Output::Image(image) = output {
            annotations.or(&image.form.annotations);
        }
    }
    let provenance = provenance(attributes)?;
    if provenance.is_some() {
        check_told(&outputs)?;
    }
    let step_args = StepArgs {
        ulimits: list(get("ulimit")),
        shm_size: get("shm-size").map(str::to_owned),
        add_hosts: list(get("add-hosts")),
        hostname: get("hostname").map(str::to_owned),
        ..StepArgs::default()
    };
    let network = match get("force-network-mode") {
        None => config.network,
        Some("default" | "sandbox" | "unset") => None,
        Some("host") => Some(NetworkMode::Host),
        Some("none") => Some(NetworkMode::None),
        Some(other) => return Err(Failure::new(format!("`force-network-mode={other}` is no network of steps"))),
    };
    let mut steps = config.steps.clone();
    steps.grants = allow::grants(&granted(config, &request.entitlements)?)?;
    if let Some(parent) = get("cgroup-parent") {
        steps.limits.cgroup_parent = Some(parent.to_owned());
    }
    steps.asked = Some(executor::secrets::Asking(Arc::new(SessionSecrets::new(request.session.clone()))));
    let no_cache = attributes.get("no-cache");
    Ok(BuildOptions {
        input,
        tags,
        labels: prefixed(attributes, "label:"),
        annotations,
        provenance,
        network,
        no_cache: no_cache.is_some_and(String::is_empty),
        no_cache_stages: list(no_cache.map(String::as_str)),
        pull: get("image-resolve-mode") == Some("pull"),
        outputs,
        epoch,
        iidfile: None,
        // It is told what each step used only where somebody reads it.
        metadata_file: None,
        timings: None,
        jobs: config.jobs,
        steps,
        provisions: provisions::provisions(&step_args)?,
        cache_from: cache_from(config, asked, request)?,
        cache_to: cache_to(config, request)?,
        client: None,
    })
}

/// What is to be told of the images.
pub fn provenance(attributes: &BTreeMap<String, String>) -> Result<Option<Provenance>, Failure> {
    let mut found = None;
    for (key, value) in attributes {
        if let Some(kind) = key.strip_prefix("attest:") {
            found = attest::one(key, kind, value)?.or(found);
        }
    }
    Ok(found)
}

fn prefixed(attributes: &BTreeMap<String, String>, prefix: &str) -> BTreeMap<String, String> {
    let pairs =
        attributes.iter().filter_map(|(key, value)| Some((key.strip_prefix(prefix)?.to_owned(), value.clone())));
    pairs.collect()
}

fn list(value: Option<&str>) -> Vec<String> {
    let words = value.unwrap_or_default().split(',').map(str::trim).filter(|word| !word.is_empty());
    words.map(str::to_owned).collect()
}

/// The client's word, as far as the daemon lets clients have it.
fn granted(config: &Config, asked: &[String]) -> Result<Vec<String>, Failure> {
    for word in asked {
        let kind = word.split_once('=').map_or(word.as_str(), |(kind, _)| kind);
        let allowed = |known: &String| known == word || (kind == "device" && known == kind);
        if kind != "buildx.local.delete" && !config.entitlements.iter().any(allowed) {
            return Err(Failure::new(format!("`{}` is not granted by this daemon", word.escape_debug()))
                .help(format!("start it with `rbuild serve --allow-insecure-entitlement {kind}`")));
        }
    }
    Ok(asked.to_vec())
}

fn input(
    config: &Config,
    Asked { attributes, inputs, .. }: &Asked,
    session: &Arc<Session>,
    policy: &Policy,
) -> Result<InputOptions, Failure> {
    let get = |key: &str| attributes.get(key).map(String::as_str).filter(|value| !value.is_empty());
    let files: Arc<dyn Files> = Arc::new(SessionFiles(session.clone()));
    let theirs = |name: &str| TheirDirectory { name: name.to_owned(), files: files.clone() };
    let path = PathBuf::from(get("filename").unwrap_or("Dockerfile"));
    let context = match get("context") {
        None => Place::Theirs(theirs(get("contextkey").unwrap_or("context"))),
        Some(word) => match word.strip_prefix(STREAMS) {
            Some(name) => Place::TheirStream(theirs(&format!("/{name}"))),
            None => elsewhere(word)?,
        },
    };
    // Of a context that is fetched the Dockerfile is a part, unless the client has one.
    let is_theirs = matches!(context, Place::Theirs(_)) || get("dockerfilekey").is_some();
    let dockerfile = match is_theirs {
        true => DockerfileFrom::Theirs(theirs(get("dockerfilekey").unwrap_or("dockerfile")), path),
        // What clients say where their users said nothing.
        false if get("filename").is_none_or(|name| name == "Dockerfile") => DockerfileFrom::Usual,
        false => DockerfileFrom::Path(path),
    };
    let mut build_args = prefixed(attributes, "build-arg:");
    if get("multi-platform").is_some_and(|value| value == "true" || value == "1") {
        build_args.insert("BUILDKIT_MULTI_PLATFORM".into(), "1".into());
    }
    if let Some(epoch) = get("source-date-epoch") {
        build_args.entry("SOURCE_DATE_EPOCH".into()).or_insert_with(|| epoch.to_owned());
    }
    let mut contexts: BTreeMap<String, NamedSource> = BTreeMap::new();
    for (name, value) in prefixed(attributes, "context:") {
        let source = match value.split_once(':') {
            Some(("local", directory)) => {
                let named = context::named(&format!("{name}=."), |_| true)?;
                NamedSource { value: NamedValue::Tree(Place::Theirs(theirs(directory))), ..named }
            }
            Some(("input", input)) if inputs.contains_key(input) => {
                let named = context::named(&format!("{name}=."), |_| true)?;
                NamedSource { value: NamedValue::Result(inputs[input].clone()), ..named }
            }
            Some(("oci-layout", _)) => layout(&name, &value, session)?,
            Some(("input", _)) => {
                return Err(Failure::new(format!(
                    "the context `{name}` is `{value}`, which this version of rbuild cannot take from a client"
                )));
            }
            _ => {
                let source = context::named(&format!("{name}={value}"), |_| false)?;
                if let NamedValue::Tree(Place::Path(_) | Place::Stdin) | NamedValue::Layout(_) = source.value {
                    return Err(Failure::new(format!(
                        "the context `{name}` is `{value}`, which is on no machine here"
                    )));
                }
                source
            }
        };
        contexts.insert(source.name.clone(), source);
    }
    Ok(InputOptions {
        context,
        dockerfile,
        ignorefile: None,
        contexts: contexts.into_values().collect(),
        target: get("target").map(str::to_owned),
        build_args,
        platforms: platforms(config, get("platform"))?,
        policy: policy.clone(),
        own_agent: None,
    })
}

/// An image in a layout of the client, which names the image's digest: its list of names stays with it.
fn layout(name: &str, value: &str, session: &Arc<Session>) -> Result<NamedSource, Failure> {
    let source = context::named(&format!("{name}={value}"), |_| false)?;
    match source.value {
        NamedValue::Layout(layout) if layout.digest.is_some() => {
            let theirs = Some(TheirLayouts(Arc::new(SessionLayouts(session.clone()))));
            Ok(NamedSource { value: NamedValue::Layout(Layout { theirs, ..layout }), ..source })
        }
        _ => Err(Failure::new(format!("the context `{name}` is `{value}`, which names no digest of an image"))),
    }
}

/// A context that is not the client's own directory: never a path of this machine.
fn elsewhere(word: &str) -> Result<Place, Failure> {
    match context::place(Path::new(word), false)? {
        place @ (Place::Http(_) | Place::Git(_)) => Ok(place),
        _ => Err(Failure::new(format!(
            "the context `{}` is neither the client's nor at an address",
            word.escape_debug()
        ))),
    }
}

fn platforms(config: &Config, text: Option<&str>) -> Result<Vec<Platform>, Failure> {
    let Some(text) = text else { return Ok(vec![config.settings.native_platform.clone()]) };
    let mut platforms: Vec<Platform> = Vec::new();
    for word in text.split(',').map(str::trim) {
        let platform = word.parse().map_err(|error| Failure::new(format!("the option `platform`: {error}")))?;
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
        if platforms.len() > PLATFORMS_MAX {
            return Err(Failure::new(format!("the option `platform`: these are more than {PLATFORMS_MAX} platforms")));
        }
    }
    Ok(platforms)
}

/// A cache in a directory of the client, where the client's line says so; its store has the name of the directory.
fn of_client(place: CachePlace, request: &Request) -> CachePlace {
    match place {
        CachePlace::Local { path, digest, .. } => CachePlace::Theirs(TheirCache(Arc::new(SessionCache {
            session: request.session.clone(),
            directory: path.to_string_lossy().into_owned(),
            manifest: digest,
            kept: request.kept.clone(),
        }))),
        place => place,
    }
}

fn cache_from(config: &Config, asked: &Asked, request: &Request) -> Result<Vec<cache::CacheFrom>, Failure> {
    let mut lines: Vec<String> = Vec::new();
    let old = request.cache.import_refs_deprecated.iter();
    let old = old.map(|name| outputs::line("registry", &BTreeMap::from([("ref".to_owned(), name.clone())])));
    let entries = request.cache.imports.iter().chain(&asked.imports);
    for text in entries.map(|entry| outputs::line(&entry.r#type, &entry.attrs)).chain(old) {
        if !lines.contains(&text) {
            lines.push(text);
        }
    }
    let mut places = Vec::new();
    for text in &lines {
        for each in cache::from(text, &config.environment)?.each() {
            if let CachePlace::Local { digest: None, .. } = each.place {
                return Err(Failure::new(format!("the cache `{}` names no digest", text.escape_debug()))
                    .help("a client finds it in its directory's `index.json`, by the tag"));
            }
            places.push(cache::CacheFrom { place: of_client(each.place, request), patience: each.patience });
        }
    }
    Ok(places)
}

fn cache_to(config: &Config, request: &Request) -> Result<Vec<cache::CacheTo>, Failure> {
    let of_one = |entry: &CacheOptionsEntry| {
        let to = cache::to(&outputs::line(&entry.r#type, &entry.attrs), &config.environment)?;
        Ok(cache::CacheTo { place: of_client(to.place, request), ..to })
    };
    request.cache.exports.iter().map(of_one).collect()
}

/// Caches that stand among a frontend's attributes.
pub fn imports_of(attributes: &BTreeMap<String, String>) -> Vec<CacheOptionsEntry> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Entry {
        r#type: String,
        #[serde(default)]
        attrs: BTreeMap<String, String>,
    }
    let Some(text) = attributes.get("cache-imports") else { return Vec::new() };
    match serde_json::from_str::<Vec<Entry>>(text) {
        Ok(entries) => {
            entries.into_iter().map(|entry| CacheOptionsEntry { r#type: entry.r#type, attrs: entry.attrs }).collect()
        }
        Err(error) => {
            tracing::info!(%error, "the attribute `cache-imports` is not understood");
            Vec::new()
        }
    }
}
