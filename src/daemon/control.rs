//! `moby.buildkit.v1.Control`: builds, their status, sessions, space, and what the daemon says of itself.
//!
//! One method per call, each a few lines: what is asked is understood, the engine is asked, the answer is put into words.
//! [`run`] is the one that builds.

use std::pin::Pin;
use std::sync::{Arc, PoisonError};

use api::control::{
    BuildHistoryEvent, BuildHistoryRequest, BytesMessage, DiskUsageRequest, DiskUsageResponse, InfoRequest,
    InfoResponse, ListWorkersRequest, ListWorkersResponse, PruneRequest, SolveRequest, SolveResponse, StatusRequest,
    StatusResponse, UpdateBuildHistoryRequest, UpdateBuildHistoryResponse, UsageRecord, VertexWarning, control_server,
};
use api::pb;
use api::worker::{BuildkitVersion, WorkerRecord};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::{Stream, StreamExt as _};
use solver::graph::VertexId;
use solver::seam::Progress;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::frontend::{self, Asked};
use super::job::{Job, Returned};
use super::session::auth::SessionCredentials;
use super::session::{self, Session};
use super::{Daemon, error, space};
use crate::engine::{self, Built, Problem, Settings};
use crate::options::BuildOptions;
use crate::report::place::Places;

/// The service.
#[derive(Debug)]
pub struct Control(pub Arc<Daemon>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl control_server::Control for Control {
    type PruneStream = Answers<UsageRecord>;
    type StatusStream = Answers<StatusResponse>;
    type SessionStream = session::Hijacked;
    type ListenBuildHistoryStream = Answers<BuildHistoryEvent>;

    async fn disk_usage(&self, request: Request<DiskUsageRequest>) -> Result<Response<DiskUsageResponse>, Status> {
        let filters = request.into_inner().filter;
        let is_wanted = space::matching(&filters)?;
        let usage = engine::usage(&self.0.config.settings, Arc::new(Silent)).await;
        let (usage, _) = usage.map_err(|failure| error::status(&failure, None))?;
        let record = usage.things.iter().filter(|used| is_wanted(used)).map(space::record).collect();
        Ok(Response::new(DiskUsageResponse { record }))
    }

    async fn prune(&self, request: Request<PruneRequest>) -> Result<Response<Self::PruneStream>, Status> {
        let wish = space::wish(&request.into_inner())?;
        let gone = engine::prune(&self.0.config.settings, wish, false, Arc::new(Silent)).await;
        let gone = gone.map_err(|failure| error::status(&failure, None))?.gone;
        let records: Vec<_> = gone.iter().map(|used| Ok(space::record(used))).collect();
        Ok(Response::new(futures_util::stream::iter(records).boxed()))
    }

    async fn solve(&self, request: Request<SolveRequest>) -> Result<Response<SolveResponse>, Status> {
        let request = request.into_inner();
        let name = request.r#ref.clone();
        let job = self.0.jobs.begin(&name)?;
        let daemon = self.0.clone();
        // When the client hangs up, this call is dropped, and the build stops.
        let hung_up = job.cancel.clone().drop_guard();
        // A thread of its own: not everything of a build may move from thread to thread.
        let runtime = tokio::runtime::Handle::current();
        let building = tokio::task::spawn_blocking(move || {
            runtime.block_on(async {
                let outcome = run(&daemon, &job, request).await;
                daemon.jobs.finished(name, &job);
                outcome
            })
        });
        let outcome = building.await.unwrap_or_else(|error| Err(Status::internal(error.to_string())));
        hung_up.disarm();
        outcome.map(|exporter_response| Response::new(SolveResponse { exporter_response }))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<Self::StatusStream>, Status> {
        let job = self.0.jobs.find(&request.into_inner().r#ref).await?;
        Ok(Response::new(job.hub.clone().read().boxed()))
    }

    async fn session(
        &self,
        request: Request<Streaming<BytesMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let metadata = request.metadata().clone();
        let lost = self.0.stop.child_token();
        let (hijacked, channel) = session::connect(request.into_inner(), lost.clone());
        let sessions = self.0.sessions.clone();
        // The client answers only when it has the headers of this answer.
        tokio::spawn(async move {
            let opened = async {
                let session = Session::new(&metadata, channel.await?, lost.clone())?;
                sessions.add(session)
            };
            if let Err(status) = opened.await {
                tracing::info!(status = status.message(), "a session was not opened");
                lost.cancel();
            }
        });
        Ok(Response::new(hijacked))
    }

    async fn list_workers(&self, _: Request<ListWorkersRequest>) -> Result<Response<ListWorkersResponse>, Status> {
        Ok(Response::new(ListWorkersResponse { record: vec![worker(&self.0)] }))
    }

    async fn info(&self, _: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        Ok(Response::new(InfoResponse { buildkit_version: Some(version()) }))
    }

    async fn listen_build_history(
        &self,
        request: Request<BuildHistoryRequest>,
    ) -> Result<Response<Self::ListenBuildHistoryStream>, Status> {
        let request = request.into_inner();
        // Past builds are told by `rbuild history`; there is nothing to say here yet, and nothing will come.
        if request.early_exit || request.active_only {
            return Ok(Response::new(futures_util::stream::empty().boxed()));
        }
        let stop = self.0.stop.clone();
        Ok(Response::new(futures_util::stream::pending().take_until(stop.cancelled_owned()).boxed()))
    }

    async fn update_build_history(
        &self,
        request: Request<UpdateBuildHistoryRequest>,
    ) -> Result<Response<UpdateBuildHistoryResponse>, Status> {
        let name = request.into_inner().r#ref;
        Err(Status::not_found(format!("there is no build {name} in the history of this daemon")))
    }
}

/// Nobody watches.
struct Silent;

impl Progress for Silent {
    fn event(&self, event: solver::seam::Event) {
        tracing::debug!(?event, "nobody watches");
    }
}

/// What the daemon is.
fn version() -> BuildkitVersion {
    BuildkitVersion {
        package: "rbuild".into(),
        version: format!("v{}", env!("CARGO_PKG_VERSION")),
        revision: String::new(),
    }
}

/// The one worker.
pub fn worker(daemon: &Daemon) -> WorkerRecord {
    let settings = &daemon.config.settings;
    // The same as long as the store is the same.
    let id = VertexId::of_name(&settings.root.to_string_lossy()).to_string();
    let id = id.trim_start_matches("sha256:").chars().take(25).collect();
    let mut labels: std::collections::BTreeMap<String, String> = daemon.config.labels.iter().cloned().collect();
    for (name, value) in [("executor", "rbuild"), ("network", "rbuild"), ("snapshotter", "overlayfs")] {
        labels.entry(format!("org.mobyproject.buildkit.worker.{name}")).or_insert_with(|| value.to_owned());
    }
    let platforms = daemon.platforms();
    let platforms = platforms.iter().map(|platform| pb::Platform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        ..pb::Platform::default()
    });
    WorkerRecord {
        id,
        labels,
        platforms: platforms.collect(),
        gc_policy: Vec::new(),
        buildkit_version: Some(version()),
        cdi_devices: Vec::new(),
    }
}

/// One build, from its request to what the client is told of its results.
async fn run(
    daemon: &Arc<Daemon>,
    job: &Arc<Job>,
    request: SolveRequest,
) -> Result<std::collections::BTreeMap<String, String>, Status> {
    let exporters = exporters(&request);
    let asked = match (request.frontend.as_str(), &request.definition) {
        (frontend::NAME, None) => {
            let imports = imports_of(&request.frontend_attrs);
            Some(Asked { attributes: request.frontend_attrs.clone(), imports })
        }
        ("", None) => returned(job).await?,
        ("", Some(_)) => {
            return Err(Status::unimplemented("definitions (LLB) are not solved by this version of rbuild"));
        }
        (other, _) => {
            return Err(Status::unimplemented(format!(
                "the frontend `{}` is not known by this version of rbuild: {} is",
                other.escape_debug(),
                frontend::NAME
            )));
        }
    };
    // Whoever only wanted to know what the daemon can has learned it.
    let Some(asked) = asked else { return Ok(std::collections::BTreeMap::new()) };
    let policy = request.source_policy.as_ref().is_some_and(|policy| !policy.rules.is_empty());
    if policy || !request.source_policy_session.is_empty() {
        return Err(Status::unimplemented("source policies are not supported by this version of rbuild"));
    }
    let session = daemon.sessions.find(&request.session).await?;
    let wanted = frontend::Request {
        exporters,
        cache: request.cache.unwrap_or_default(),
        entitlements: request.entitlements,
        session: session.clone(),
    };
    let options =
        frontend::options(&daemon.config, &asked, &wanted).map_err(|failure| error::status(&failure, None))?;
    let mut settings = daemon.config.settings.clone();
    settings.registries.asked = Some(Arc::new(SessionCredentials(session.clone())));
    settings.registries.credential = None;
    let stopped = stops(job.cancel.clone(), session.lost().clone());
    let outcome = build(&settings, &options, job, stopped.clone()).await;
    stopped.cancel();
    let built = outcome.map_err(|failure| {
        let failure = if session.lost().is_cancelled() { session::files::lost() } else { failure };
        error::status(&failure, job.hub.failed())
    })?;
    job.hub.tell(built.warnings.iter().map(warning).collect());
    Ok(response(&built))
}

async fn build(
    settings: &Settings,
    options: &BuildOptions,
    job: &Job,
    cancel: CancellationToken,
) -> Result<Built, engine::Failure> {
    engine::build(settings, options, job.hub.clone(), cancel).await
}

/// Fires with either; fired, it lets go of both.
fn stops(one: CancellationToken, other: CancellationToken) -> CancellationToken {
    let both = one.child_token();
    let fires = both.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = other.cancelled() => fires.cancel(),
            () = fires.cancelled() => {}
        }
    });
    both
}

/// What the client's own frontend returns.
async fn returned(job: &Job) -> Returned {
    let receiver = job.returning.lock().unwrap_or_else(PoisonError::into_inner).take();
    let receiver = receiver.ok_or_else(|| Status::internal("somebody waits for this build already"))?;
    tokio::select! {
        biased;
        () = job.cancel.cancelled() => Err(Status::cancelled("context canceled")),
        returned = receiver => returned.unwrap_or_else(|_| Err(Status::aborted("the client's frontend is gone"))),
    }
}

/// Exporters, of clients that know one only too.
fn exporters(request: &SolveRequest) -> Vec<api::control::Exporter> {
    if !request.exporters.is_empty() || request.exporter_deprecated.is_empty() {
        return request.exporters.clone();
    }
    vec![api::control::Exporter {
        r#type: request.exporter_deprecated.clone(),
        attrs: request.exporter_attrs_deprecated.clone(),
    }]
}

/// Caches that stand among a frontend's attributes.
pub fn imports_of(attributes: &std::collections::BTreeMap<String, String>) -> Vec<api::control::CacheOptionsEntry> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Entry {
        r#type: String,
        #[serde(default)]
        attrs: std::collections::BTreeMap<String, String>,
    }
    let Some(text) = attributes.get("cache-imports") else { return Vec::new() };
    match serde_json::from_str::<Vec<Entry>>(text) {
        Ok(entries) => entries
            .into_iter()
            .map(|entry| api::control::CacheOptionsEntry { r#type: entry.r#type, attrs: entry.attrs })
            .collect(),
        Err(error) => {
            tracing::info!(%error, "the attribute `cache-imports` is not understood");
            Vec::new()
        }
    }
}

/// What the client is told of the results: texts as they are, the rest as JSON in base64.
fn response(built: &Built) -> std::collections::BTreeMap<String, String> {
    let serde_json::Value::Object(metadata) = &built.metadata else { return std::collections::BTreeMap::new() };
    let pairs = metadata.iter().filter(|(key, _)| !key.starts_with("vnd.rbuild."));
    let pairs = pairs.map(|(key, value)| {
        let text = match value {
            serde_json::Value::String(text) => text.clone(),
            value => BASE64.encode(value.to_string()),
        };
        (key.clone(), text)
    });
    pairs.collect()
}

/// A remark of the frontend.
fn warning(problem: &Problem) -> VertexWarning {
    let vertex = VertexId::of_name("[internal] load build definition from Dockerfile").to_string();
    let rule = problem.rule.map(|rule| format!("{}: ", rule.name())).unwrap_or_default();
    let mut warning = VertexWarning {
        vertex,
        level: 1,
        short: format!("{rule}{}", problem.message).into_bytes(),
        detail: problem.help.iter().map(|help| help.clone().into_bytes()).collect(),
        url: problem.rule.map(|rule| rule.url().to_owned()).unwrap_or_default(),
        ..VertexWarning::default()
    };
    if let Some(snippet) = &problem.snippet {
        let (start, end) = Places::new(&snippet.text).range(&snippet.span);
        warning.short.extend_from_slice(format!(" (line {})", start.line).as_bytes());
        let position = |at: crate::report::place::Position| pb::Position {
            line: i32::try_from(at.line).unwrap_or(i32::MAX),
            character: i32::try_from(at.character).unwrap_or(i32::MAX),
        };
        warning.ranges = vec![pb::Range { start: Some(position(start)), end: Some(position(end)) }];
        warning.info = Some(pb::SourceInfo {
            filename: snippet.file.clone(),
            data: snippet.text.as_bytes().to_vec(),
            definition: None,
            language: "Dockerfile".into(),
        });
    }
    warning
}
