//! A client's definitions become a build: what each result is made of, for which platform, with which config.
//!
//! In: definitions, read, and the metadata that stand beside them (a frontend's, or attributes of an exporter). Out:
//! [`Defined`], what the engine solves, with the attributes that say the rest to [`super::frontend`]. Metadata are those of
//! BuildKit's frontends: `containerimage.config` (with `/<platform>` behind it where there are several) and
//! `refs.platforms`. Deliberately absent: reading a definition ([`super::llb`]), solving it (the engine's).

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use api::pb;
use futures_util::future::BoxFuture;
use oci::model::{ImageConfig, Platform};
use serde::Deserialize;
use solver::graph::{Graph, VertexId};
use solver::op::{Op, SourceOp};
use solver::seam::LogSink;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::gateway::nested::{self, Nested, Whose};
use super::job::Job;
use super::llb::{self, Limits, Llb, LlbError};
use super::session::Session;
use super::session::files::SessionFiles;
use super::{Daemon, frontend};
use crate::engine::{DefinedImage, Definition, Failure, Text};
use crate::options::theirs::{self, Wanted};
use crate::report::place::{ceil, floor};

/// The config of an image; that of a platform has its name behind a slash.
pub const CONFIG: &str = "containerimage.config";
/// Which platforms a result has, and how it calls them.
pub const PLATFORMS: &str = "refs.platforms";
/// More than there are kinds of machines.
const IMAGES_MAX: usize = 32;
/// A config is some kilobytes; histories are long.
const CONFIG_MAX_BYTES: usize = 4 << 20;
/// The session that has a directory, if it is not the build's.
const SESSION: &str = "local.session";
/// How the history calls what a definition is built from.
const CONTEXT: &str = "definition";

/// Metadata of a result.
pub type Metadata = BTreeMap<String, Vec<u8>>;

/// What a client wants built.
#[derive(Clone, Debug)]
pub enum Results {
    /// One image; without a definition it is empty.
    One(Option<Arc<Llb>>),
    /// One per platform, as its metadata call them.
    Several(BTreeMap<String, Option<Arc<Llb>>>),
}

/// What the engine builds.
pub struct Defined {
    /// Of all results.
    pub definition: Definition,
    /// One per result.
    pub images: Vec<DefinedImage>,
    /// What a frontend would have been told, for the rest of the options.
    pub attributes: BTreeMap<String, String>,
}

/// Reads a definition; it wants one thing.
///
/// # Errors
/// With the code of what is wrong.
pub fn read(daemon: &Daemon, definition: &pb::Definition) -> Result<Arc<Llb>, Status> {
    let native = &daemon.config.settings.native_platform;
    let platform = solver::op::Platform {
        os: native.os.clone(),
        architecture: native.architecture.clone(),
        variant: native.variant.clone(),
        ..solver::op::Platform::default()
    };
    let options = llb::Options { limits: Limits::default(), platform: Some(platform) };
    let llb = llb::read(definition, &options).map_err(|error| refused(&error))?;
    match llb.wants.len() {
        1 => Ok(Arc::new(llb)),
        wants => Err(Status::invalid_argument(format!("the definition wants {wants} results; one is expected"))),
    }
}

fn refused(error: &LlbError) -> Status {
    let code = match error.code() {
        llb::Code::InvalidArgument => Code::InvalidArgument,
        llb::Code::Unimplemented => Code::Unimplemented,
        llb::Code::ResourceExhausted => Code::ResourceExhausted,
    };
    Status::new(code, error.to_string())
}

/// Metadata that stand among an exporter's attributes; they are taken out.
pub fn metadata_of(attributes: &mut BTreeMap<String, String>) -> Metadata {
    let is_of_result = |key: &str| key == PLATFORMS || key.starts_with("containerimage.");
    let keys: Vec<String> = attributes.keys().filter(|key| is_of_result(key)).cloned().collect();
    keys.into_iter().filter_map(|key| attributes.remove(&key).map(|value| (key, value.into_bytes()))).collect()
}

/// Whether metadata describe an image.
pub fn has_image(metadata: &Metadata) -> bool {
    metadata.contains_key(CONFIG) || metadata.contains_key(PLATFORMS)
}

/// Puts a build together.
///
/// # Errors
/// When metadata are not well formed, or a session is not there.
pub async fn define(
    daemon: &Daemon,
    job: &Job,
    session: &Arc<Session>,
    results: &Results,
    metadata: &Metadata,
) -> Result<Defined, Status> {
    let native = &daemon.config.settings.native_platform;
    let mut llbs: Vec<Arc<Llb>> = Vec::new();
    let mut image = |llb: &Option<Arc<Llb>>, platform: Platform, config: Option<ImageConfig>| {
        llbs.extend(llb.clone());
        DefinedImage { platform, edge: llb.as_ref().map(|llb| llb.wants[0]), config }
    };
    let mut attributes = BTreeMap::from([("contextkey".to_owned(), CONTEXT.to_owned())]);
    let images = match results {
        Results::One(llb) => {
            let told = platforms(metadata)?;
            let one = match told.as_slice() {
                [] => None,
                [one] => Some(one),
                _ => {
                    return Err(Status::invalid_argument(format!(
                        "`{PLATFORMS}` names several platforms of one result"
                    )));
                }
            };
            let config = match one {
                Some((id, _)) => config(metadata, Some(id))?.or(config(metadata, None)?),
                None => config(metadata, None)?,
            };
            let of_config = config.as_ref().filter(|config| !config.architecture.is_empty());
            let of_config =
                of_config.map(|config| Platform::normalised(os(&config.os), &config.architecture, &config.variant));
            let platform = one.map(|(_, platform)| platform.clone()).or(of_config);
            let platform = platform.unwrap_or_else(|| native.clone());
            vec![image(llb, platform.clone(), config.map(|config| for_platform(config, &platform)))]
        }
        Results::Several(by_id) => {
            let told = platforms(metadata)?;
            if told.len() != by_id.len() {
                let told = told.len();
                return Err(Status::invalid_argument(format!("`{PLATFORMS}` names {told} of {} results", by_id.len())));
            }
            attributes.insert("multi-platform".into(), "true".into());
            let mut images = Vec::new();
            for (id, platform) in told {
                let llb = by_id.get(&id).ok_or_else(|| {
                    Status::invalid_argument(format!("there is no result for the platform `{}`", id.escape_debug()))
                })?;
                let config = config(metadata, Some(&id))?.map(|config| for_platform(config, &platform));
                images.push(image(llb, platform, config));
            }
            images
        }
    };
    let names: Vec<String> = images.iter().map(|image| image.platform.to_string()).collect();
    attributes.insert("platform".into(), names.join(","));
    Ok(Defined { definition: definition(daemon, job, session, llbs).await?, images, attributes })
}

/// The engine's part of definitions: all their operations, with who brings the client's directories.
///
/// # Errors
/// When a session is not there.
pub async fn definition(
    daemon: &Daemon,
    job: &Job,
    session: &Arc<Session>,
    llbs: Vec<Arc<Llb>>,
) -> Result<Definition, Status> {
    with_shared(daemon, job, session, llbs, |_| false).await
}

/// The same; the directories that `is_here` are nobody's to bring.
///
/// # Errors
/// Likewise.
pub async fn with_shared(
    daemon: &Daemon,
    job: &Job,
    session: &Arc<Session>,
    llbs: Vec<Arc<Llb>>,
    is_here: impl Fn(&SourceOp) -> bool,
) -> Result<Definition, Status> {
    let mut nested = Nested::default();
    for llb in &llbs {
        nested::find(Whose { daemon, job, session }, llb.clone(), &mut nested, 0).await?;
    }
    let Nested { inner, replaced } = nested;
    // What others stand on first.
    let all: Vec<Arc<Llb>> = inner.into_iter().chain(llbs.iter().cloned()).collect();
    let (graph, files) = graph(daemon, session, &all, is_here).await?;
    let (text, spans) = match llbs.as_slice() {
        [llb] => text(llb),
        _ => (None, HashMap::new()),
    };
    let names = job.names.clone();
    let renamed = move |now: &HashMap<VertexId, VertexId>| {
        for llb in &all {
            names.learn(llb, now);
        }
    };
    Ok(Definition { graph: Arc::new(graph), text, spans, files, replaced, renamed: Arc::new(renamed) })
}

/// Who brings the directories of a graph.
pub type Files = HashMap<VertexId, Arc<dyn theirs::Files>>;

/// All operations of definitions, in their order, with who brings the client's directories.
///
/// # Errors
/// When a session is not there.
pub async fn graph(
    daemon: &Daemon,
    session: &Arc<Session>,
    llbs: &[Arc<Llb>],
    is_here: impl Fn(&SourceOp) -> bool,
) -> Result<(Graph, Files), Status> {
    let mut graph = Graph::new();
    let mut files = Files::new();
    let mut by_session: HashMap<String, Arc<dyn theirs::Files>> = HashMap::new();
    for llb in llbs {
        graph.absorb(llb.graph.clone());
        for (id, vertex, _) in llb.graph.iter() {
            let Op::Source(source) = &vertex.op else { continue };
            match source.scheme() {
                "local" => {}
                "oci-layout" => {
                    let name = llb.operations_of(&id).next().map(|operation| operation.name.clone());
                    let name = name.unwrap_or_default();
                    return Err(Status::unimplemented(format!(
                        "`{}`: a layout of the client cannot be had by this version of rbuild",
                        name.escape_debug()
                    )));
                }
                _ if source.identifier.starts_with(frontend::STREAMS) => {
                    return Err(Status::unimplemented(
                        "a stream of the client is a context of a Dockerfile, and no source of a definition",
                    ));
                }
                _ => continue,
            }
            let named = source.attrs.get(SESSION).map(String::as_str).filter(|id| !id.is_empty());
            let session_id = named.unwrap_or(&session.id);
            if is_here(source) {
                files.insert(id, Arc::new(Here));
                continue;
            }
            let found = match by_session.get(session_id) {
                Some(found) => found.clone(),
                None => {
                    let session = match session_id == session.id {
                        true => session.clone(),
                        false => daemon.sessions.find(session_id).await?,
                    };
                    let found: Arc<dyn theirs::Files> = Arc::new(SessionFiles(session));
                    by_session.insert(session_id.to_owned(), found.clone());
                    found
                }
            };
            files.insert(id, found);
        }
    }
    Ok((graph, files))
}

/// Stands for a directory that another build has here: nobody brings it again.
struct Here;

impl theirs::Files for Here {
    fn kept_as(&self, _: Wanted<'_>) -> Option<String> {
        None
    }

    fn bring<'a>(
        &'a self,
        wanted: Wanted<'a>,
        _: BorrowedFd<'a>,
        _: &'a (dyn LogSink + 'a),
    ) -> BoxFuture<'a, Result<(), Failure>> {
        let name = wanted.name.to_owned();
        Box::pin(
            async move { Err(Failure::new(format!("the directory `{name}` was another build's, which has ended"))) },
        )
    }

    fn stream(&self, name: &str, _: CancellationToken) -> io::Result<Box<dyn io::Read + Send>> {
        Err(io::Error::other(format!("the stream `{name}` is another build's")))
    }
}

fn os(told: &str) -> &str {
    if told.is_empty() { "linux" } else { told }
}

/// A config says for which machine it is.
fn for_platform(mut config: ImageConfig, platform: &Platform) -> ImageConfig {
    if config.architecture.is_empty() {
        config.architecture.clone_from(&platform.architecture);
        config.variant.clone_from(&platform.variant);
    }
    if config.os.is_empty() {
        config.os.clone_from(&platform.os);
    }
    config
}

/// The config among metadata; that of a platform by its name.
///
/// # Errors
/// When it is none.
pub fn config(metadata: &Metadata, id: Option<&str>) -> Result<Option<ImageConfig>, Status> {
    let key = id.map_or_else(|| CONFIG.to_owned(), |id| format!("{CONFIG}/{id}"));
    let Some(bytes) = metadata.get(&key) else { return Ok(None) };
    if bytes.len() > CONFIG_MAX_BYTES {
        return Err(Status::resource_exhausted(format!("`{CONFIG}` has {} bytes", bytes.len())));
    }
    let config = serde_json::from_slice(bytes);
    config.map(Some).map_err(|error| Status::invalid_argument(format!("`{CONFIG}` is no config of an image: {error}")))
}

/// The platforms that metadata name, with what they call them.
fn platforms(metadata: &Metadata) -> Result<Vec<(String, Platform)>, Status> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Platforms {
        #[serde(default)]
        platforms: Vec<Named>,
    }
    #[derive(Deserialize)]
    struct Named {
        #[serde(rename = "ID")]
        id: String,
        #[serde(rename = "Platform")]
        platform: Platform,
    }
    let Some(bytes) = metadata.get(PLATFORMS) else { return Ok(Vec::new()) };
    let told: Platforms = serde_json::from_slice(bytes)
        .map_err(|error| Status::invalid_argument(format!("`{PLATFORMS}` is not understood: {error}")))?;
    if told.platforms.len() > IMAGES_MAX {
        return Err(Status::resource_exhausted(format!("these are more than {IMAGES_MAX} platforms")));
    }
    let mut found: Vec<(String, Platform)> = Vec::new();
    for Named { id, platform } in told.platforms {
        let platform = Platform::normalised(os(&platform.os), &platform.architecture, &platform.variant);
        let text = platform.to_string();
        let checked = text.parse::<Platform>().map_err(|error| Status::invalid_argument(error.to_string()))?;
        if found.iter().any(|(_, known)| *known == checked) {
            return Err(Status::invalid_argument(format!("`{PLATFORMS}` names {checked} twice")));
        }
        found.push((id, checked));
    }
    Ok(found)
}

/// The text that the operations of a definition were made of, and where each stands in it; of several texts the first.
fn text(llb: &Llb) -> (Option<Text>, HashMap<VertexId, Range<usize>>) {
    let mut spans = HashMap::new();
    let Some(source) = &llb.source else { return (None, spans) };
    let Some(info) = source.infos.first() else { return (None, spans) };
    let Ok(text) = std::str::from_utf8(&info.data) else { return (None, spans) };
    let starts: Vec<usize> = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
    let line_end = |line: usize| starts.get(line).map_or(text.len(), |next| next - 1);
    // Lines are counted from 1.
    let offset = |at: &pb::Position| {
        let line = usize::try_from(at.line).ok()?.checked_sub(1)?;
        let character = usize::try_from(at.character).ok()?;
        Some((line, starts.get(line)?.saturating_add(character).min(line_end(line + 1))))
    };
    for (digest, locations) in &source.locations {
        let Some(operation) = digest.parse().ok().and_then(|digest| llb.operation(&digest)) else { continue };
        let in_first = locations.locations.iter().filter(|location| location.source_index == 0);
        let Some(range) = in_first.flat_map(|location| &location.ranges).next() else { continue };
        let Some((_, start)) = range.start.as_ref().and_then(offset) else { continue };
        let Some((line, end)) = range.end.as_ref().and_then(offset) else { continue };
        // A range that ends where its last line begins means the whole line.
        let end =
            if end <= start || range.end.is_some_and(|end| end.character == 0) { line_end(line + 1) } else { end };
        if start < end {
            spans.insert(operation.vertex, floor(text, start)..ceil(text, end));
        }
    }
    let name = if info.filename.is_empty() { "Dockerfile" } else { &info.filename };
    (Some(Text { name: name.to_owned(), text: text.into(), path: None }), spans)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_and_configs_are_read_as_frontends_write_them() {
        let metadata = |pairs: &[(&str, &str)]| -> Metadata {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect()
        };
        let told = r#"{"Platforms":[{"ID":"a","Platform":{"architecture":"amd64","os":"linux"}},
            {"ID":"b","Platform":{"architecture":"arm","os":"linux","variant":"v7"}}]}"#;
        let found = platforms(&metadata(&[(PLATFORMS, told)])).expect("it is well formed");
        let found: Vec<_> = found.iter().map(|(id, platform)| format!("{id}: {platform}")).collect();
        assert_eq!(found, ["a: linux/amd64", "b: linux/arm/v7"]);
        let twice = told.replace("\"arm\"", "\"amd64\"").replace(",\"variant\":\"v7\"", "");
        for (text, words) in [("nothing", "is not understood"), (twice.as_str(), "twice")] {
            let status = platforms(&metadata(&[(PLATFORMS, text)])).expect_err(words);
            assert!(status.code() == Code::InvalidArgument && status.message().contains(words), "{status:?}");
        }
        let told = metadata(&[("containerimage.config/a", r#"{"config":{"Env":["A=1"]}}"#), (CONFIG, "nothing")]);
        assert_eq!(config(&told, Some("a")).expect("it is one").expect("it is there").config.env, ["A=1"]);
        assert!(config(&told, Some("b")).expect("nothing is wrong").is_none());
        assert_eq!(config(&told, None).expect_err("it is none").code(), Code::InvalidArgument);
        let mut attributes: BTreeMap<String, String> =
            [("name", "x"), (CONFIG, "{}"), (PLATFORMS, "{}")].map(|(key, value)| (key.into(), value.into())).into();
        assert_eq!(metadata_of(&mut attributes).len(), 2);
        assert_eq!(attributes.len(), 1);
    }
}
