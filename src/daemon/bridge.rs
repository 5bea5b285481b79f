//! `moby.buildkit.v1.frontend.LLBBridge`, for clients that are the frontend of their own build, as `docker buildx` is.
//!
//! Such a client asks for a frontend by name, gets a reference, and returns it; then the build runs, with the outputs that
//! its `Solve` asked for. Which build is meant stands in the calls' metadata. Deliberately absent, until definitions are
//! solved: reading results, containers, image configs.

use std::pin::Pin;
use std::sync::{Arc, PoisonError};

use api::caps::ApiCap;
use api::control::CacheOptionsEntry;
use api::gateway::{self, llb_bridge_server, result};
use futures_util::Stream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::Daemon;
use super::control::{imports_of, worker};
use super::frontend::{self, Asked};
use super::job::Job;

/// Which build a call is about.
const BUILD_ID: &str = "buildkit-controlapi-buildid";
/// What a build's frontend may ask for; each stays in memory.
const ASKED_MAX: usize = 64;
/// What calls of frontends can do here.
const FRONTEND_CAPS: [&str; 6] =
    ["solve.base", "return", "returnmap", "proto.refarray", "gateway.solve.metadata", "frontend.caps"];
/// What definitions and their surroundings can do here. `exporter.image.attestations` is absent: there are none, and
/// clients do not ask for what is not there.
const LLB_CAPS: [&str; 33] = [
    "source.image",
    "source.image.resolvemode",
    "source.local",
    "source.local.unique",
    "source.local.sessionid",
    "source.local.includepatterns",
    "source.local.followpaths",
    "source.local.excludepatterns",
    "source.local.sharedkeyhint",
    "source.git",
    "source.git.fullurl",
    "source.http",
    "source.http.checksum",
    "source.ocilayout",
    "exec.meta.base",
    "exec.meta.proxyenv",
    "exec.meta.network",
    "exec.meta.ulimit",
    "exec.mount.bind",
    "exec.mount.cache",
    "exec.mount.tmpfs",
    "exec.mount.secret",
    "exec.mount.ssh",
    "exec.secretenv",
    "file.base",
    "constraints",
    "platform",
    "meta.description",
    "exporter.multiple",
    "exporter.image.annotations",
    "exporter.sourcedateepoch",
    "cache.s3",
    "mergeop",
];

/// The service.
#[derive(Debug)]
pub struct Bridge(pub Arc<Daemon>);

impl Bridge {
    async fn job(&self, metadata: &MetadataMap) -> Result<Arc<Job>, Status> {
        let name = metadata.get(BUILD_ID).and_then(|value| value.to_str().ok());
        let name = name.ok_or_else(|| Status::invalid_argument("the call does not say which build it is about"))?;
        self.0.jobs.find(name).await
    }
}

fn caps(names: &[&str]) -> Vec<ApiCap> {
    names.iter().map(|name| ApiCap { id: (*name).to_owned(), enabled: true, ..ApiCap::default() }).collect()
}

fn absent<T>(what: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!("{what} is not supported by this version of rbuild")))
}

#[tonic::async_trait]
impl llb_bridge_server::LlbBridge for Bridge {
    type ExecProcessStream = Pin<Box<dyn Stream<Item = Result<gateway::ExecMessage, Status>> + Send>>;

    async fn ping(&self, _: Request<gateway::PingRequest>) -> Result<Response<gateway::PongResponse>, Status> {
        Ok(Response::new(gateway::PongResponse {
            frontend_api_caps: caps(&FRONTEND_CAPS),
            llb_caps: caps(&LLB_CAPS),
            workers: vec![worker(&self.0)],
        }))
    }

    async fn solve(&self, request: Request<gateway::SolveRequest>) -> Result<Response<gateway::SolveResponse>, Status> {
        let job = self.job(request.metadata()).await?;
        let request = request.into_inner();
        if request.definition.as_ref().is_some_and(|definition| !definition.def.is_empty()) {
            return absent("solving definitions (LLB)");
        }
        if request.source_policies.iter().any(|policy| !policy.rules.is_empty()) {
            return absent("source policies");
        }
        if request.frontend != frontend::NAME {
            return absent(&format!("the frontend `{}`", request.frontend.escape_debug()));
        }
        if !request.frontend_inputs.is_empty() {
            return absent("giving a frontend the results of other builds as inputs");
        }
        if let Some(question) = request.frontend_opt.get("requestid").filter(|id| !id.is_empty()) {
            return absent(&format!("the question `{}` about a Dockerfile", question.escape_debug()));
        }
        let mut imports = imports_of(&request.frontend_opt);
        imports.extend(
            request
                .cache_imports
                .into_iter()
                .map(|entry| CacheOptionsEntry { r#type: entry.r#type, attrs: entry.attrs }),
        );
        let id = {
            let mut asked = job.asked.lock().unwrap_or_else(PoisonError::into_inner);
            if asked.len() >= ASKED_MAX {
                return Err(Status::resource_exhausted(format!("the build has asked for {ASKED_MAX} results already")));
            }
            let id = format!("result-{}", asked.len());
            asked.insert(id.clone(), Asked { attributes: request.frontend_opt, imports });
            id
        };
        let result = match (request.allow_result_return, request.allow_result_array_ref) {
            (true, true) => result::Result::Ref(gateway::Ref { id: id.clone(), def: None }),
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
        let outcome = match request.error.filter(|error| error.code != 0) {
            Some(error) => {
                let details = prost::Message::encode_to_vec(&error);
                Err(Status::with_details(tonic::Code::from_i32(error.code), error.message, details.into()))
            }
            None => wanted(&job, request.result),
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
        Ok(Response::new(gateway::InputsResponse::default()))
    }

    async fn resolve_image_config(
        &self,
        _: Request<gateway::ResolveImageConfigRequest>,
    ) -> Result<Response<gateway::ResolveImageConfigResponse>, Status> {
        absent("asking for an image's config")
    }

    async fn resolve_source_meta(
        &self,
        _: Request<gateway::ResolveSourceMetaRequest>,
    ) -> Result<Response<gateway::ResolveSourceMetaResponse>, Status> {
        absent("asking what a source is")
    }

    async fn read_file(
        &self,
        _: Request<gateway::ReadFileRequest>,
    ) -> Result<Response<gateway::ReadFileResponse>, Status> {
        absent("reading a file of a result")
    }

    async fn read_dir(
        &self,
        _: Request<gateway::ReadDirRequest>,
    ) -> Result<Response<gateway::ReadDirResponse>, Status> {
        absent("reading a directory of a result")
    }

    async fn stat_file(
        &self,
        _: Request<gateway::StatFileRequest>,
    ) -> Result<Response<gateway::StatFileResponse>, Status> {
        absent("looking at a file of a result")
    }

    async fn evaluate(
        &self,
        _: Request<gateway::EvaluateRequest>,
    ) -> Result<Response<gateway::EvaluateResponse>, Status> {
        absent("evaluating a result before it is returned")
    }

    async fn new_container(
        &self,
        _: Request<gateway::NewContainerRequest>,
    ) -> Result<Response<gateway::NewContainerResponse>, Status> {
        absent("starting containers")
    }

    async fn release_container(
        &self,
        _: Request<gateway::ReleaseContainerRequest>,
    ) -> Result<Response<gateway::ReleaseContainerResponse>, Status> {
        absent("starting containers")
    }

    async fn exec_process(
        &self,
        _: Request<Streaming<gateway::ExecMessage>>,
    ) -> Result<Response<Self::ExecProcessStream>, Status> {
        absent("starting containers")
    }

    async fn read_file_container(
        &self,
        _: Request<gateway::ReadFileRequest>,
    ) -> Result<Response<gateway::ReadFileResponse>, Status> {
        absent("starting containers")
    }

    async fn read_dir_container(
        &self,
        _: Request<gateway::ReadDirRequest>,
    ) -> Result<Response<gateway::ReadDirResponse>, Status> {
        absent("starting containers")
    }

    async fn stat_file_container(
        &self,
        _: Request<gateway::StatFileRequest>,
    ) -> Result<Response<gateway::StatFileResponse>, Status> {
        absent("starting containers")
    }
}

/// What the returned result stands for; no result is a client that only looked around.
fn wanted(job: &Job, result: Option<gateway::Result>) -> Result<Option<Asked>, Status> {
    let ids: Vec<String> = match result.and_then(|result| result.result) {
        None => Vec::new(),
        Some(result::Result::RefDeprecated(id)) => vec![id],
        Some(result::Result::Ref(reference)) => vec![reference.id],
        Some(result::Result::RefsDeprecated(map)) => map.refs.into_values().collect(),
        Some(result::Result::Refs(map)) => map.refs.into_values().map(|reference| reference.id).collect(),
    };
    let mut ids: Vec<String> = ids.into_iter().filter(|id| !id.is_empty()).collect();
    ids.dedup();
    match ids.as_slice() {
        [] => Ok(None),
        [id] => {
            let asked = job.asked.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
            asked.map(Some).ok_or_else(|| Status::not_found(format!("there is no result {}", id.escape_debug())))
        }
        _ => absent("returning several results that were asked for one by one"),
    }
}
