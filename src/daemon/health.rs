//! `grpc.health.v1`: whether the daemon serves. It does until it is told to stop.

use std::collections::BTreeMap;
use std::pin::Pin;

use api::health::health_check_response::ServingStatus;
use api::health::{HealthCheckRequest, HealthCheckResponse, HealthListRequest, HealthListResponse, health_server};
use futures_util::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

/// The service; it ends with the token.
#[derive(Debug)]
pub struct Health(pub CancellationToken);

/// What is served, beside the whole of it.
const SERVICES: [&str; 3] = ["", "moby.buildkit.v1.Control", "moby.buildkit.v1.frontend.LLBBridge"];

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

impl Health {
    fn now(&self) -> HealthCheckResponse {
        response(if self.0.is_cancelled() { ServingStatus::NotServing } else { ServingStatus::Serving })
    }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        if !SERVICES.contains(&service.as_str()) {
            return Err(Status::not_found(format!("there is no service `{}` here", service.escape_debug())));
        }
        Ok(Response::new(self.now()))
    }

    async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
        let statuses: BTreeMap<_, _> = SERVICES.iter().map(|name| ((*name).to_owned(), self.now())).collect();
        Ok(Response::new(HealthListResponse { statuses }))
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        if !SERVICES.contains(&request.into_inner().service.as_str()) {
            let unknown = futures_util::stream::once(async { Ok(response(ServingStatus::ServiceUnknown)) });
            return Ok(Response::new(
                unknown.chain(futures_util::stream::pending()).take_until(self.0.clone().cancelled_owned()).boxed(),
            ));
        }
        let stop = self.0.clone();
        let end = futures_util::stream::once(async move {
            stop.cancelled().await;
            Ok(response(ServingStatus::NotServing))
        });
        let now = self.now();
        Ok(Response::new(futures_util::stream::once(async move { Ok(now) }).chain(end).boxed()))
    }
}
