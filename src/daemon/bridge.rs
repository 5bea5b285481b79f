//! `moby.buildkit.v1.frontend.LLBBridge`, for clients that are the frontend of their own build, as `docker buildx` is.
//!
//! Such a client asks for a frontend by name, gets a reference, and returns it; then the build runs, with the outputs that
//! its `Solve` asked for. It may also send definitions, look into their results before it returns any, and ask what images
//! are; what it was given stands in [`super::gateway`]. Which build is meant stands in the calls' metadata.

use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};

use ::frontend::ImageAnswer;
use api::caps::ApiCap;
use api::control::CacheOptionsEntry;
use api::gateway::{self, llb_bridge_server, result};
use api::pb;
use futures_util::Stream;
use oci::model::Platform;
use prost::Message as _;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::control::{ask, settings_for, worker};
use super::frontend::{self, Asked};
use super::gateway::guest::{self, Guest};
use super::gateway::{Reference, container, dockerfile, evaluated, files, process};
use super::job::Job;
use super::question::{Answer, Question};
use super::{Daemon, definition, error, llb};
use crate::engine;

/// Which build a call is about.
const BUILD_ID: &str = "buildkit-controlapi-buildid";
/// What calls of frontends can do here.
const FRONTEND_CAPS: [&str; 20] = [
    "frontend.caps",
    "frontend.inputs",
    "gateway.exec",
    "gateway.exec.extrahosts",
    "gateway.exec.secretenv",
    "gateway.exec.signals",
    "gateway.solve.evaluate",
    "gateway.solve.metadata",
    "gateway.warnings",
    "importcaches",
    "proto.refarray",
    "readdir",
    "readfile",
    "reference.output",
    "resolveimage",
    "resolveimage.resolvemode",
    "return",
    "returnmap",
    "solve.base",
    "statfile",
];

/// The service.
#[derive(Debug)]
pub struct Bridge {
    /// Who solves.
    pub daemon: Arc<Daemon>,
    /// The frontend at the other end, if it is one in a container: all its calls are about its build.
    pub guest: Option<Arc<Guest>>,
}

impl Bridge {
    async fn job(&self, metadata: &MetadataMap) -> Result<Arc<Job>, Status> {
        if let Some(guest) = &self.guest {
            return Ok(guest.job.clone());
        }
        let name = metadata.get(BUILD_ID).and_then(|value| value.to_str().ok());
        let name = name.ok_or_else(|| Status::invalid_argument("the call does not say which build it is about"))?;
        self.daemon.jobs.find(name).await
    }

    /// On a thread of its own, as builds are; when the call is dropped, the build's end stops it.
    async fn ask(&self, job: Arc<Job>, asked: Asked, question: Question) -> Result<Answer, Status> {
        let (daemon, runtime) = (self.daemon.clone(), tokio::runtime::Handle::current());
        let answering = tokio::task::spawn_blocking(move || runtime.block_on(ask(&daemon, &job, &asked, question)));
        answering.await.unwrap_or_else(|error| Err(Status::internal(error.to_string())))
    }

    /// Solves a reference, and looks into its tree.
    async fn look<T: Send + 'static>(
        &self,
        job: &Arc<Job>,
        id: &str,
        look: impl FnOnce(BorrowedFd<'_>) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let known = job.references.lock().unwrap_or_else(PoisonError::into_inner).find(id)?;
        let evaluated = evaluated(&self.daemon, job, &known).await?;
        evaluated.look(look).await.map_err(|failure| error::status(&failure, None))?
    }

    /// Solves all references of a result.
    async fn evaluate_all(&self, job: &Arc<Job>, result: &gateway::Result) -> Result<(), Status> {
        let ids = match &result.result {
            Some(result::Result::Ref(reference)) => vec![reference.id.clone()],
            Some(result::Result::Refs(refs)) => refs.refs.values().map(|reference| reference.id.clone()).collect(),
            _ => Vec::new(),
        };
        for id in ids {
            let known = job.references.lock().unwrap_or_else(PoisonError::into_inner).find(&id)?;
            evaluated(&self.daemon, job, &known).await?;
        }
        Ok(())
    }

    /// Asks what an image is, with the credentials of the build's client.
    async fn image(
        &self,
        job: &Job,
        name: &str,
        platform: Option<pb::Platform>,
        mode: &str,
    ) -> Result<(String, ImageAnswer), Status> {
        let session = self.daemon.sessions.find(&job.asking.session).await?;
        let settings = settings_for(&self.daemon, &session);
        let platform = platform.map(|of| Platform::normalised(&of.os, &of.architecture, &of.variant));
        let asked = engine::image_config(&settings, name, platform, mode, &job.asking.policy, job.told());
        let answer = tokio::select! {
            biased;
            () = job.cancel.cancelled() => return Err(Status::cancelled("context canceled")),
            answer = asked => answer.map_err(|failure| error::status(&failure, None))?,
        };
        Ok((answer.0.to_string(), answer.1))
    }
}

/// An image's config as it is stored, but for the order of what nobody knows.
fn config_bytes(answer: &ImageAnswer) -> Vec<u8> {
    serde_json::to_vec(&answer.config).expect("a config holds nothing that JSON cannot")
}

fn caps(names: &[&str]) -> Vec<ApiCap> {
    names.iter().map(|name| ApiCap { id: (*name).to_owned(), enabled: true, ..ApiCap::default() }).collect()
}

fn absent<T>(what: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!("{what} is not supported by this version of rbuild")))
}

/// A frontend's own error.
fn told(error: api::rpc::Status) -> Status {
    let details = prost::Message::encode_to_vec(&error);
    Status::with_details(tonic::Code::from_i32(error.code), error.message, details.into())
}

/// A result of another frontend, for clients that take such, else its reference alone.
fn solved(result: gateway::Result, whole: bool) -> Result<Response<gateway::SolveResponse>, Status> {
    if whole {
        return Ok(Response::new(gateway::SolveResponse { r#ref: String::new(), result: Some(result) }));
    }
    let id = match result.result {
        Some(result::Result::RefDeprecated(id)) => id,
        Some(result::Result::Ref(reference)) => reference.id,
        Some(_) => return absent("several results, for a client that takes one"),
        None => String::new(),
    };
    Ok(Response::new(gateway::SolveResponse { r#ref: id, result: None }))
}

#[tonic::async_trait]
impl llb_bridge_server::LlbBridge for Bridge {
    type ExecProcessStream = Pin<Box<dyn Stream<Item = Result<gateway::ExecMessage, Status>> + Send>>;

    async fn ping(&self, _: Request<gateway::PingRequest>) -> Result<Response<gateway::PongResponse>, Status> {
        Ok(Response::new(gateway::PongResponse {
            frontend_api_caps: caps(&FRONTEND_CAPS),
            llb_caps: caps(&llb::caps::told()),
            workers: vec![worker(&self.daemon)],
        }))
    }

    async fn solve(&self, request: Request<gateway::SolveRequest>) -> Result<Response<gateway::SolveResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        let mut request = request.into_inner();
        request.frontend = guest::asked(&request.frontend, &mut request.frontend_opt);
        if request.source_policies.iter().any(|policy| !policy.rules.is_empty()) {
            return absent("source policies");
        }
        let mut imports = frontend::imports_of(&request.frontend_opt);
        let named = request.cache_imports.into_iter();
        imports.extend(named.map(|entry| CacheOptionsEntry { r#type: entry.r#type, attrs: entry.attrs }));
        let definition = request.definition.filter(|definition| !definition.def.is_empty());
        let (reference, bytes) = match (request.frontend.as_str(), &definition) {
            ("", Some(definition)) => {
                let bytes = definition.encoded_len();
                (Reference::Definition(definition::read(&self.daemon, definition)?), bytes)
            }
            // The empty tree.
            ("", None) => {
                let result = request.allow_result_return.then(gateway::Result::default);
                return Ok(Response::new(gateway::SolveResponse { r#ref: String::new(), result }));
            }
            (frontend::NAME, None) => {
                let (attributes, definitions) = (request.frontend_opt, request.frontend_inputs);
                let inputs = dockerfile::inputs(&self.daemon, &job, &attributes, &definitions).await?;
                let asked = Asked { attributes, imports: imports.clone(), inputs };
                if let Some(question) = Question::of(&asked.attributes)? {
                    let metadata = self.ask(job, asked, question).await?.into_iter().collect();
                    let nothing = result::Result::Ref(gateway::Ref::default());
                    let result = gateway::Result { result: Some(nothing), metadata, ..gateway::Result::default() };
                    return Ok(Response::new(gateway::SolveResponse { r#ref: String::new(), result: Some(result) }));
                }
                let depth = self.guest.as_ref().map_or(0, |guest| guest.depth + 1);
                let read = dockerfile::read(&self.daemon, &job, asked, definitions, depth).await?;
                let result = {
                    let mut references = job.references.lock().unwrap_or_else(PoisonError::into_inner);
                    references.import(imports);
                    match read {
                        dockerfile::Read::Here(planned) => planned.tell(&mut references)?,
                        dockerfile::Read::Elsewhere(result) => result.unwrap_or_default(),
                    }
                };
                if request.evaluate {
                    self.evaluate_all(&job, &result).await?;
                }
                return solved(result, request.allow_result_return);
            }
            (guest::NAME, None) => {
                job.references.lock().unwrap_or_else(PoisonError::into_inner).import(imports);
                let depth = self.guest.as_ref().map_or(0, |guest| guest.depth + 1);
                let (attributes, inputs) = (request.frontend_opt, request.frontend_inputs);
                let result = guest::run(&self.daemon, &job, guest::Wanted { attributes, inputs, depth }).await?;
                return solved(result.unwrap_or_default(), request.allow_result_return);
            }
            (other, None) => return absent(&format!("the frontend `{}`", other.escape_debug())),
            (_, Some(_)) => {
                return Err(Status::invalid_argument("a frontend and a definition are asked for in one request"));
            }
        };
        let id = {
            let mut references = job.references.lock().unwrap_or_else(PoisonError::into_inner);
            references.import(imports);
            references.add(reference, bytes)?
        };
        if request.evaluate {
            let known = job.references.lock().unwrap_or_else(PoisonError::into_inner).find(&id)?;
            evaluated(&self.daemon, &job, &known).await?;
        }
        let result = match (request.allow_result_return, request.allow_result_array_ref) {
            (true, true) => result::Result::Ref(gateway::Ref { id: id.clone(), def: definition }),
            (true, false) => result::Result::RefDeprecated(id.clone()),
            (false, _) => return Ok(Response::new(gateway::SolveResponse { r#ref: id, result: None })),
        };
        let result = gateway::Result { result: Some(result), ..gateway::Result::default() };
        Ok(Response::new(gateway::SolveResponse { r#ref: String::new(), result: Some(result) }))
    }

    async fn r#return(
        &self,
        request: Request<gateway::ReturnRequest>,
    ) -> Result<Response<gateway::ReturnResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        let request = request.into_inner();
        if let Some(guest) = &self.guest {
            guest.returns(match request.error.filter(|error| error.code != 0) {
                Some(error) => Err(told(error)),
                None => Ok(request.result),
            })?;
            return Ok(Response::new(gateway::ReturnResponse {}));
        }
        let outcome = match request.error.filter(|error| error.code != 0) {
            Some(error) => Err(told(error)),
            None => job.references.lock().unwrap_or_else(PoisonError::into_inner).wanted(&self.daemon, request.result),
        };
        let waiting = job.returned.lock().unwrap_or_else(PoisonError::into_inner).take();
        let waiting = waiting.ok_or_else(|| Status::failed_precondition("nobody waits for a result of this build"))?;
        // A build that was stopped meanwhile waits no more.
        let _ = waiting.send(outcome);
        Ok(Response::new(gateway::ReturnResponse {}))
    }

    async fn warn(&self, request: Request<gateway::WarnRequest>) -> Result<Response<gateway::WarnResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        let request = request.into_inner();
        job.hub.tell(vec![api::control::VertexWarning {
            vertex: request.digest,
            level: request.level,
            short: request.short,
            detail: request.detail,
            url: request.url,
            info: request.info,
            ranges: request.ranges,
        }]);
        Ok(Response::new(gateway::WarnResponse {}))
    }

    async fn inputs(&self, _: Request<gateway::InputsRequest>) -> Result<Response<gateway::InputsResponse>, Status> {
        let definitions = self.guest.as_ref().map(|guest| guest.inputs.clone()).unwrap_or_default();
        Ok(Response::new(gateway::InputsResponse { definitions }))
    }

    async fn resolve_image_config(
        &self,
        request: Request<gateway::ResolveImageConfigRequest>,
    ) -> Result<Response<gateway::ResolveImageConfigResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        let request = request.into_inner();
        if request.source_policies.iter().any(|policy| !policy.rules.is_empty()) {
            return absent("source policies");
        }
        // The other kind is a layout of the client.
        if request.resolver_type != 0 {
            return absent("an image in a layout of the client");
        }
        let (name, answer) = self.image(&job, &request.r#ref, request.platform, &request.resolve_mode).await?;
        let (digest, config) = (answer.digest.to_string(), config_bytes(&answer));
        Ok(Response::new(gateway::ResolveImageConfigResponse { digest, config, r#ref: name }))
    }

    async fn resolve_source_meta(
        &self,
        request: Request<gateway::ResolveSourceMetaRequest>,
    ) -> Result<Response<gateway::ResolveSourceMetaResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        let request = request.into_inner();
        if request.source_policies.iter().any(|policy| !policy.rules.is_empty()) {
            return absent("source policies");
        }
        let source = request.source.ok_or_else(|| Status::invalid_argument("no source is asked about"))?;
        let Some(name) = source.identifier.strip_prefix("docker-image://") else {
            return absent(&format!("asking what the source `{}` is", source.identifier.escape_debug()));
        };
        let asked = request.image.unwrap_or_default();
        if asked.attestation_chain || !asked.resolve_attestations.is_empty() {
            return absent("asking for attestations of an image");
        }
        let (name, answer) = self.image(&job, name, request.platform, &request.resolve_mode).await?;
        let image = gateway::ResolveSourceImageResponse {
            digest: answer.digest.to_string(),
            config: if asked.no_config { Vec::new() } else { config_bytes(&answer) },
            attestation_chain: None,
        };
        let source = pb::SourceOp { identifier: format!("docker-image://{name}"), ..source };
        Ok(Response::new(gateway::ResolveSourceMetaResponse {
            source: Some(source),
            image: Some(image),
            ..gateway::ResolveSourceMetaResponse::default()
        }))
    }

    async fn read_file(
        &self,
        request: Request<gateway::ReadFileRequest>,
    ) -> Result<Response<gateway::ReadFileResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        let gateway::ReadFileRequest { r#ref, file_path, range, .. } = request.into_inner();
        let data = self.look(&job, &r#ref, move |root| files::read(root, &file_path, range)).await?;
        Ok(Response::new(gateway::ReadFileResponse { data }))
    }

    async fn read_dir(
        &self,
        request: Request<gateway::ReadDirRequest>,
    ) -> Result<Response<gateway::ReadDirResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        let gateway::ReadDirRequest { r#ref, dir_path, include_pattern, .. } = request.into_inner();
        let entries = self.look(&job, &r#ref, move |root| files::list(root, &dir_path, &include_pattern)).await?;
        Ok(Response::new(gateway::ReadDirResponse { entries }))
    }

    async fn stat_file(
        &self,
        request: Request<gateway::StatFileRequest>,
    ) -> Result<Response<gateway::StatFileResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        let gateway::StatFileRequest { r#ref, path, .. } = request.into_inner();
        let stat = self.look(&job, &r#ref, move |root| files::look(root, &path)).await?;
        Ok(Response::new(gateway::StatFileResponse { stat: Some(stat) }))
    }

    async fn evaluate(
        &self,
        request: Request<gateway::EvaluateRequest>,
    ) -> Result<Response<gateway::EvaluateResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        let known = job.references.lock().unwrap_or_else(PoisonError::into_inner).find(&request.get_ref().r#ref)?;
        evaluated(&self.daemon, &job, &known).await?;
        Ok(Response::new(gateway::EvaluateResponse {}))
    }

    async fn new_container(
        &self,
        request: Request<gateway::NewContainerRequest>,
    ) -> Result<Response<gateway::NewContainerResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        container::new(&self.daemon, &job, request.into_inner()).await?;
        Ok(Response::new(gateway::NewContainerResponse {}))
    }

    async fn release_container(
        &self,
        request: Request<gateway::ReleaseContainerRequest>,
    ) -> Result<Response<gateway::ReleaseContainerResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        container::release(&job, &request.get_ref().container_id).await?;
        Ok(Response::new(gateway::ReleaseContainerResponse {}))
    }

    async fn exec_process(
        &self,
        request: Request<Streaming<gateway::ExecMessage>>,
    ) -> Result<Response<Self::ExecProcessStream>, Status> {
        let job = self.job(request.metadata()).await?;
        Ok(Response::new(Box::pin(process::serve(job, request.into_inner()))))
    }

    async fn read_file_container(
        &self,
        request: Request<gateway::ReadFileRequest>,
    ) -> Result<Response<gateway::ReadFileResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        let gateway::ReadFileRequest { r#ref, file_path, range, mount_index } = request.into_inner();
        let read = move |root: BorrowedFd<'_>| files::read(root, &file_path, range);
        let data = container::look(&job, &r#ref, mount_index, read).await?;
        Ok(Response::new(gateway::ReadFileResponse { data }))
    }

    async fn read_dir_container(
        &self,
        request: Request<gateway::ReadDirRequest>,
    ) -> Result<Response<gateway::ReadDirResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        let gateway::ReadDirRequest { r#ref, dir_path, include_pattern, mount_index } = request.into_inner();
        let list = move |root: BorrowedFd<'_>| files::list(root, &dir_path, &include_pattern);
        let entries = container::look(&job, &r#ref, mount_index, list).await?;
        Ok(Response::new(gateway::ReadDirResponse { entries }))
    }

    async fn stat_file_container(
        &self,
        request: Request<gateway::StatFileRequest>,
    ) -> Result<Response<gateway::StatFileResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        let gateway::StatFileRequest { r#ref, path, mount_index } = request.into_inner();
        let look = move |root: BorrowedFd<'_>| files::look(root, &path);
        let stat = container::look(&job, &r#ref, mount_index, look).await?;
        Ok(Response::new(gateway::StatFileResponse { stat: Some(stat) }))
    }
}
