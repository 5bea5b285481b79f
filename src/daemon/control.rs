//! `moby.buildkit.v1.Control`: builds, their status, sessions, space, and what the daemon says of itself.
//!
//! One method per call, each a few lines: what is asked is understood, the engine is asked, the answer is put into words.
//! [`run`] is the one that builds.

use std::pin::Pin;
use std::sync::{Arc, PoisonError};

use api::control::{
    BuildHistoryEvent, BuildHistoryEventType, BuildHistoryRequest, BytesMessage, DiskUsageRequest, DiskUsageResponse,
    InfoRequest, InfoResponse, ListWorkersRequest, ListWorkersResponse, PruneRequest, SolveRequest, SolveResponse,
    StatusRequest, StatusResponse, UpdateBuildHistoryRequest, UpdateBuildHistoryResponse, UsageRecord, control_server,
};
use api::pb;
use api::worker::{BuildkitVersion, WorkerRecord};
use futures_util::{Stream, StreamExt as _};
use solver::graph::VertexId;
use solver::seam::Progress;
use store::history::Outcome;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::definition::{self, Defined, Results};
use super::frontend::{self, Asked};
use super::gateway::{Wanted, container, dockerfile, guest};
use super::job::{Asking, Job, Returned, Running};
use super::question::{Answer, Question};
use super::session::auth::SessionCredentials;
use super::session::blobs::Kept;
use super::session::{self, Session};
use super::{Daemon, Silent, error, history, in_background, policy, space, warning};
use crate::engine::{self, Begins, Built, Failure, FailureKind, Settings};

/// Where an answer says what time it is here.
const NOW: &str = "buildkit-current-timestamp";

/// Under which a client is told which manifest its cache is.
const CACHE_MANIFEST: &str = "cache.manifest";

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
        let asking = Asking {
            session: request.session.clone(),
            entitlements: request.entitlements.clone(),
            cache: request.cache.clone().unwrap_or_default(),
            policy: policy::of_request(&request)?,
        };
        let job = self.0.jobs.begin(&name, asking)?;
        // When the client hangs up, this call is dropped, and the build stops.
        let (cancel, hung_up) = (job.cancel.clone(), job.cancel.clone().drop_guard());
        let running = Running { daemon: self.0.clone(), job, name };
        let build = || async move {
            let outcome = run(&running.daemon, &running.job, request).await;
            container::end_all(&running.job).await;
            tell_end(&running.daemon, &running.name);
            outcome
        };
        let outcome = self.0.jobs.places.run(&cancel, build).await;
        hung_up.disarm();
        outcome.map(|exporter_response| Response::new(SolveResponse { exporter_response }))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<Self::StatusStream>, Status> {
        let name = request.into_inner().r#ref;
        if !self.0.jobs.has(&name) {
            let (settings, name) = (self.0.config.settings.clone(), name.clone());
            let past = in_background(move || history::find(&settings, &name)).await?;
            if let Some((store, entry)) = past.filter(|(_, entry)| entry.head.outcome != Outcome::Running) {
                return Ok(Response::new(history::replay(store, entry).boxed()));
            }
        }
        let job = self.0.jobs.find(&name).await?;
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
        // Before the list is made, so that nothing falls between the two.
        let news = self.0.news.listen();
        let (settings, wanted, early_exit) =
            (self.0.config.settings.clone(), request.r#ref.clone(), request.early_exit);
        let known = in_background(move || history::list(&settings, &request)).await?;
        let known = futures_util::stream::iter(known.into_iter().map(Ok));
        let mut answer: Response<Self::ListenBuildHistoryStream> = if early_exit {
            Response::new(known.boxed())
        } else {
            let is_wanted = move |event: &BuildHistoryEvent| {
                wanted.is_empty() || event.record.as_ref().is_some_and(|record| record.r#ref == wanted)
            };
            let stop = self.0.stop.clone();
            let news = heard(news, is_wanted).map(Ok).take_until(stop.cancelled_owned());
            Response::new(known.chain(news).boxed())
        };
        // Clients tell by it how long a build has been running.
        let now = jiff::Timestamp::now().to_string();
        answer.metadata_mut().insert(NOW, now.try_into().expect("a time is plain ASCII"));
        Ok(answer)
    }

    async fn update_build_history(
        &self,
        request: Request<UpdateBuildHistoryRequest>,
    ) -> Result<Response<UpdateBuildHistoryResponse>, Status> {
        let (settings, request) = (self.0.config.settings.clone(), request.into_inner());
        let event = in_background(move || history::update(&settings, &request)).await?;
        if let Some(record) = event.record {
            self.0.news.tell(event.r#type.try_into().unwrap_or_default(), record);
        }
        Ok(Response::new(UpdateBuildHistoryResponse {}))
    }
}

/// What is told, as it comes; a listener who is too slow misses some.
fn heard(
    news: tokio::sync::broadcast::Receiver<BuildHistoryEvent>,
    is_wanted: impl Fn(&BuildHistoryEvent) -> bool + Send,
) -> impl Stream<Item = BuildHistoryEvent> + Send {
    futures_util::stream::unfold((news, is_wanted), |(mut news, is_wanted)| async move {
        loop {
            match news.recv().await {
                Ok(event) if is_wanted(&event) => return Some((event, (news, is_wanted))),
                Ok(_) => {}
                Err(RecvError::Lagged(count)) => tracing::debug!(count, "a listener of the history missed some"),
                Err(RecvError::Closed) => return None,
            }
        }
    })
}

/// Tells listeners how a build ended, if it is on record.
fn tell_end(daemon: &Daemon, name: &str) {
    if !daemon.news.is_heard() {
        return;
    }
    match history::find(&daemon.config.settings, name) {
        Ok(Some((_, entry))) => {
            let event = history::event(&entry);
            if let Some(record) = event.record {
                daemon.news.tell(BuildHistoryEventType::Complete, record);
            }
        }
        Ok(None) => {}
        Err(status) => tracing::debug!(status = status.message(), "nobody is told of the end of a build"),
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
    let mut request = request;
    request.frontend = guest::asked(&request.frontend, &mut request.frontend_attrs);
    let mut exporters = exporters(&request);
    let mut metadata = definition::Metadata::new();
    for exporter in &mut exporters {
        metadata.append(&mut definition::metadata_of(&mut exporter.attrs));
    }
    let wanted = match (request.frontend.as_str(), &request.definition) {
        (frontend::NAME, None) => {
            let (attributes, imports) = (request.frontend_attrs.clone(), frontend::imports_of(&request.frontend_attrs));
            let inputs = dockerfile::inputs(daemon, job, &attributes, &request.frontend_inputs).await?;
            let asked = Asked { attributes, imports, inputs };
            if Question::of(&asked.attributes)?.is_some() {
                Some(Wanted::Dockerfile(asked, None))
            } else {
                read(daemon, job, asked, request.frontend_inputs.clone()).await?
            }
        }
        ("", None) => {
            let wanted = returned(job).await?;
            if matches!(wanted, Some(Wanted::Results { .. })) {
                untold(&request.frontend_attrs)?;
            }
            wanted
        }
        ("", Some(definition)) => {
            untold(&request.frontend_attrs)?;
            let results = Results::One(Some(definition::read(daemon, definition)?));
            let imports = frontend::imports_of(&request.frontend_attrs);
            Some(Wanted::Results { results, metadata: definition::Metadata::new(), imports })
        }
        (guest::NAME, None) => {
            untold(&request.frontend_attrs)?;
            let (attributes, inputs) = (request.frontend_attrs.clone(), request.frontend_inputs.clone());
            let imports = frontend::imports_of(&attributes);
            let result = guest::run(daemon, job, guest::Wanted { attributes, inputs, depth: 0 }).await?;
            let mut references = job.references.lock().unwrap_or_else(PoisonError::into_inner);
            references.import(imports);
            references.wanted(daemon, result)?
        }
        (other, _) => {
            return Err(Status::unimplemented(format!(
                "the frontend `{}` is not known by this version of rbuild: {} and {} are",
                other.escape_debug(),
                frontend::NAME,
                guest::NAME
            )));
        }
    };
    // Whoever only wanted to know what the daemon can has learned it.
    let Some(wanted) = wanted else { return Ok(std::collections::BTreeMap::new()) };
    if let Wanted::Dockerfile(asked, None) = &wanted
        && let Some(question) = Question::of(&asked.attributes)?
    {
        let answer = ask(daemon, job, asked, question).await?;
        let answer = answer.into_iter().map(|(key, value)| (key, String::from_utf8_lossy(&value).into_owned()));
        return Ok(answer.collect());
    }
    let session = daemon.sessions.find(&request.session).await?;
    let (asked, begins) = match wanted {
        Wanted::Dockerfile(asked, planned) => {
            let planned = match planned {
                Some(planned) => planned.build.lock().await.take(),
                None => None,
            };
            (asked, planned.map_or(Begins::Options, |planned| Begins::Planned(Box::new(planned))))
        }
        Wanted::Results { results, metadata: mut told, imports } => {
            // What the client says of its output counts before what its frontend says.
            told.append(&mut metadata);
            let Defined { definition, images, attributes } =
                definition::define(daemon, job, &session, &results, &told).await?;
            (Asked { attributes, imports, ..Asked::default() }, Begins::Definition(Box::new(definition), images))
        }
    };
    let client = history::client(&request.r#ref, &asked, &exporters);
    let request = frontend::Request {
        exporters,
        cache: request.cache.unwrap_or_default(),
        entitlements: request.entitlements,
        policy: job.asking.policy.clone(),
        session: session.clone(),
        kept: Kept::default(),
    };
    let mut options =
        frontend::options(&daemon.config, &asked, &request).map_err(|failure| error::status(&failure, None))?;
    daemon.news.tell(BuildHistoryEventType::Started, history::begun(&client));
    options.client = Some(client);
    let settings = settings_for(daemon, &session);
    let stopped = stops(job.cancel.clone(), session.lost().clone());
    let outcome = engine::build(&settings, &options, begins, job.told(), stopped.clone()).await;
    stopped.cancel();
    let built = outcome.map_err(|failure| {
        let failure = match (daemon.stop.is_cancelled(), session.lost().is_cancelled()) {
            (true, _) => Failure { kind: FailureKind::Canceled, ..Failure::new("the daemon ends") },
            (false, true) => session::files::lost(),
            (false, false) => failure,
        };
        error::status(&failure, job.hub.failed())
    })?;
    job.hub.tell(built.warnings.iter().map(warning::told).collect());
    let mut told = response(&built);
    let kept = request.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(kept) = kept {
        // The client writes it into its list.
        told.insert(CACHE_MANIFEST.to_owned(), serde_json::to_string(&kept).expect("a descriptor is JSON"));
    }
    Ok(told)
}

/// A Dockerfile that is asked for with the build itself. One that cannot be planned fails when it is built, on record.
async fn read(
    daemon: &Arc<Daemon>,
    job: &Arc<Job>,
    asked: Asked,
    inputs: std::collections::BTreeMap<String, pb::Definition>,
) -> Returned {
    match dockerfile::read(daemon, job, asked, inputs, 0).await {
        Ok(dockerfile::Read::Here(planned)) => Ok(Some(Wanted::Dockerfile(planned.asked.clone(), Some(planned)))),
        Ok(dockerfile::Read::Elsewhere(result)) => {
            let references = job.references.lock().unwrap_or_else(PoisonError::into_inner);
            references.wanted(daemon, result)
        }
        Err(status) => unplanned(job, status),
    }
}

/// What failed to be planned is built all the same: it fails with the same words, and is on record.
fn unplanned(job: &Job, status: Status) -> Returned {
    let unplanned = job.unplanned.lock().unwrap_or_else(PoisonError::into_inner).take();
    match unplanned {
        Some((planned, words)) if status.message().contains(&words) => {
            Ok(Some(Wanted::Dockerfile(planned.asked.clone(), Some(planned))))
        }
        _ => Err(status),
    }
}

/// The daemon's settings, with the credentials of a client.
pub fn settings_for(daemon: &Daemon, session: &Arc<Session>) -> Settings {
    let mut settings = daemon.config.settings.clone();
    settings.registries.asked = Some(Arc::new(SessionCredentials(session.clone())));
    settings.registries.credential = None;
    settings
}

/// The answer to a question about a Dockerfile, for which the client's files are fetched as for a build.
pub async fn ask(daemon: &Arc<Daemon>, job: &Arc<Job>, asked: &Asked, question: Question) -> Result<Answer, Status> {
    let session = daemon.sessions.find(&job.asking.session).await?;
    let request = frontend::Request { policy: job.asking.policy.clone(), ..frontend::Request::of(session.clone()) };
    let options = frontend::options(&daemon.config, asked, &request);
    let options = options.map_err(|failure| error::status(&failure, None))?;
    let stopped = stops(job.cancel.clone(), session.lost().clone());
    let hub: Arc<dyn Progress> = job.hub.clone();
    let answer = question.answer(&settings_for(daemon, &session), &options, &hub, &stopped).await;
    stopped.cancel();
    answer
}

/// Fires with either; fired, it lets go of both.
pub fn stops(one: CancellationToken, other: CancellationToken) -> CancellationToken {
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
        returned = receiver => {
            let returned = returned.unwrap_or_else(|_| Err(Status::aborted("the client's frontend is gone")));
            returned.or_else(|status| unplanned(job, status))
        }
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

/// What is told of images is of those that a Dockerfile makes: nothing more may be asked for.
fn untold(attributes: &std::collections::BTreeMap<String, String>) -> Result<(), Status> {
    match frontend::provenance(attributes) {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(Status::unimplemented(
            "`attest:provenance`: a provenance is told of what a Dockerfile makes, and of no other definition",
        )),
        Err(failure) => Err(super::error::status(&failure, None)),
    }
}

/// What the client is told of the results: texts as they are, the rest as JSON in base64.
fn response(built: &Built) -> std::collections::BTreeMap<String, String> {
    let serde_json::Value::Object(metadata) = &built.metadata else { return std::collections::BTreeMap::new() };
    let pairs = metadata.iter().filter(|(key, _)| !key.starts_with("vnd.rbuild."));
    pairs.map(|(key, value)| (key.clone(), history::text(value))).collect()
}
