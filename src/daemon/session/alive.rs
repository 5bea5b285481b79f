//! Whether a client is still there: its own health service is asked now and then, as BuildKit's daemon does.
//!
//! A client that was stopped, or whose machine was unplugged, keeps its connection and answers nothing; what waits for its
//! files would wait for ever, and so would those who share a step with it. In: a session. Out: it is lost when no answer
//! comes in time. Any answer will do, also a refusal.

use std::sync::Arc;
use std::time::Duration;

use api::health::HealthCheckRequest;
use api::health::health_client::HealthClient;

use super::Session;

/// How often it is asked.
pub const EVERY: Duration = Duration::from_secs(5);
/// How long an answer may take: a client that sends its files over a slow line is busy with that.
pub const PATIENCE: Duration = Duration::from_secs(30);
const METHOD: &str = "/grpc.health.v1.Health/Check";

/// Loses the session when its client does not answer; returns when it is lost, or cannot be asked.
pub async fn watch(session: Arc<Session>, every: Duration, patience: Duration) {
    if !session.has(METHOD) {
        return;
    }
    let mut client = HealthClient::new(session.channel());
    let asking = async {
        loop {
            tokio::time::sleep(every).await;
            let answer = tokio::time::timeout(patience, client.check(HealthCheckRequest::default())).await;
            if answer.is_err() {
                tracing::info!(session = session.id, "the client does not answer any more");
                return;
            }
        }
    };
    tokio::select! {
        () = session.lost().cancelled() => {}
        () = asking => session.lost().cancel(),
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;

    use api::health::health_server::{Health, HealthServer};
    use api::health::{HealthCheckResponse, HealthListRequest, HealthListResponse};
    use futures_util::{Stream, StreamExt as _};
    use tokio_util::sync::CancellationToken;
    use tonic::metadata::{MetadataMap, MetadataValue};
    use tonic::transport::{Endpoint, Server};
    use tonic::{Request, Response, Status};

    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    /// Refuses so many times, and then says nothing.
    #[derive(Debug)]
    struct Tired(tokio::sync::Semaphore);

    #[tonic::async_trait]
    impl Health for Tired {
        type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

        async fn check(&self, _: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
            self.0.acquire().await.expect("nobody closes it").forget();
            Err(Status::not_found("busy"))
        }

        async fn list(&self, _: Request<HealthListRequest>) -> Result<Response<HealthListResponse>, Status> {
            Err(Status::unimplemented("nobody asks"))
        }

        async fn watch(&self, _: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
            Err(Status::unimplemented("nobody asks"))
        }
    }

    #[tokio::test]
    async fn a_client_that_answers_no_more_is_lost() {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let incoming = futures_util::stream::once(async { Ok::<_, std::io::Error>(theirs) });
        let serving = tokio::spawn(
            Server::builder()
                .add_service(HealthServer::new(Tired(tokio::sync::Semaphore::new(3))))
                .serve_with_incoming(incoming.chain(futures_util::stream::pending())),
        );
        let mut io = Some(hyper_util::rt::TokioIo::new(ours));
        let connector = tower::service_fn(move |_| {
            let io = io.take().ok_or(std::io::ErrorKind::NotConnected);
            async move { io.map_err(std::io::Error::from) }
        });
        let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await;
        let channel = channel.expect("it is there");
        let session = |method: &'static str| {
            let mut metadata = MetadataMap::new();
            metadata.insert(super::super::ID, MetadataValue::from_static("one"));
            metadata.append(super::super::METHOD, MetadataValue::from_static(method));
            Arc::new(Session::new(&metadata, channel.clone(), CancellationToken::new()).expect("it has an id"))
        };
        // It is not asked what it does not have.
        let plain = session("/other");
        watch(plain.clone(), SOON, SOON).await;
        assert!(!plain.lost().is_cancelled());
        let tired = session(METHOD);
        let began = std::time::Instant::now();
        watch(tired.clone(), SOON, SOON).await;
        assert!(tired.lost().is_cancelled() && began.elapsed() >= SOON * 5, "three answers, and one that never came");
        serving.abort();
    }
}
