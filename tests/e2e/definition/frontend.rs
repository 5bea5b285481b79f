//! A client that is the frontend of its own build, as `docker buildx` is: it asks the bridge, and returns a result.

use api::control::SolveRequest;
use api::control::control_client::ControlClient;
use api::gateway::llb_bridge_client::LlbBridgeClient;
use api::gateway::{self, result};
use api::pb;
use tokio::task::JoinHandle;
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;

/// A build that waits for what its client returns.
pub struct Frontend {
    pub bridge: LlbBridgeClient<Channel>,
    build: String,
    solving: JoinHandle<Result<tonic::Response<api::control::SolveResponse>, tonic::Status>>,
}

impl Frontend {
    pub fn start(channel: &Channel, request: SolveRequest) -> Self {
        let build = request.r#ref.clone();
        let mut control = ControlClient::new(channel.clone());
        let solving = tokio::spawn(async move { control.solve(request).await });
        Self { bridge: LlbBridgeClient::new(channel.clone()), build, solving }
    }

    /// A call about this build.
    pub fn call<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let build = MetadataValue::try_from(&self.build).expect("ASCII");
        request.metadata_mut().insert("buildkit-controlapi-buildid", build);
        request
    }

    /// The reference of a definition.
    pub async fn solve(&mut self, definition: pb::Definition) -> Result<String, tonic::Status> {
        self.ask(gateway::SolveRequest { definition: Some(definition), ..gateway::SolveRequest::default() }).await
    }

    pub async fn ask(&mut self, request: gateway::SolveRequest) -> Result<String, tonic::Status> {
        let request = gateway::SolveRequest { allow_result_return: true, allow_result_array_ref: true, ..request };
        let request = self.call(request);
        match self.bridge.solve(request).await?.into_inner().result.and_then(|result| result.result) {
            Some(result::Result::Ref(found)) => Ok(found.id),
            other => panic!("{other:?}"),
        }
    }

    /// Returns an error, and waits for the end of the build.
    pub async fn fail(mut self, status: &tonic::Status) -> Result<api::control::SolveResponse, tonic::Status> {
        let error =
            api::rpc::Status { code: status.code() as i32, message: status.message().into(), details: Vec::new() };
        let request = self.call(gateway::ReturnRequest { result: None, error: Some(error) });
        self.bridge.r#return(request).await?;
        self.solving.await.expect("it does not panic").map(tonic::Response::into_inner)
    }

    /// Returns it, and waits for the end of the build.
    pub async fn end(
        mut self,
        result: Option<result::Result>,
        metadata: &[(&str, &str)],
    ) -> Result<api::control::SolveResponse, tonic::Status> {
        let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect();
        let result = gateway::Result { result, metadata, ..gateway::Result::default() };
        let request = self.call(gateway::ReturnRequest { result: Some(result), error: None });
        self.bridge.r#return(request).await?;
        self.solving.await.expect("it does not panic").map(tonic::Response::into_inner)
    }
}
