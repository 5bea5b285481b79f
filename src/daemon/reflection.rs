//! What services the daemon has, for tools that ask (`grpcurl`): gRPC's server reflection, `v1` and the older `v1alpha`.
//!
//! Told is what is served; of the definitions that a client's session serves nothing is listed.

use api::content::content_server;
use api::control::control_server;
use api::gateway::llb_bridge_server;
use api::health::health_server;
use tonic_reflection::server::{Builder, Error, v1, v1alpha};

use crate::engine::Failure;

const SERVED: [&str; 4] = [
    control_server::SERVICE_NAME,
    llb_bridge_server::SERVICE_NAME,
    content_server::SERVICE_NAME,
    health_server::SERVICE_NAME,
];

fn told() -> Builder<'static> {
    let all = Builder::configure().register_encoded_file_descriptor_set(api::DESCRIPTORS);
    SERVED.into_iter().fold(all, Builder::with_service_name)
}

fn failed(error: Error) -> Failure {
    Failure::from_error(&error)
}

/// `grpc.reflection.v1`.
///
/// # Errors
/// When the definitions are not well formed, which would be a bug of ours.
pub fn service() -> Result<v1::ServerReflectionServer<impl v1::ServerReflection>, Failure> {
    told().build_v1().map_err(failed)
}

/// `grpc.reflection.v1alpha`.
///
/// # Errors
/// Likewise.
pub fn older_service() -> Result<v1alpha::ServerReflectionServer<impl v1alpha::ServerReflection>, Failure> {
    told().build_v1alpha().map_err(failed)
}
