//! Blobs of a client of ours, as docker buildx offers those of directories: by digest, in stores with names. One of them may
//! be told to lie.

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use api::content::content_server::Content;
use api::content::{self, WriteAction};
use futures_util::{Stream, StreamExt as _};
use oci::model::Digest;
use tonic::{Request, Response, Status, Streaming};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Stores by their names; blobs by their digests.
#[derive(Debug, Default)]
pub struct Shelf {
    pub stores: Mutex<BTreeMap<String, HashMap<String, Vec<u8>>>>,
    /// How many blobs were read.
    pub reads: Mutex<usize>,
}

impl Shelf {
    /// Puts a blob under its digest, or under another one.
    pub fn put(&self, store: &str, digest: &Digest, bytes: &[u8]) {
        let mut stores = self.stores.lock().expect("nobody panicked");
        stores.entry(store.to_owned()).or_default().insert(digest.to_string(), bytes.to_vec());
    }

    /// What is in a store.
    pub fn store(&self, name: &str) -> HashMap<String, Vec<u8>> {
        self.stores.lock().expect("nobody panicked").get(name).cloned().unwrap_or_default()
    }
}

/// The service of a session.
#[derive(Clone, Debug)]
pub struct Shelves(pub Arc<Shelf>);

/// Which store is meant.
fn store<T>(request: &Request<T>) -> Result<String, Status> {
    let name = request.metadata().get("buildkit-attachable-store-id").and_then(|name| name.to_str().ok());
    name.map(str::to_owned).ok_or_else(|| Status::invalid_argument("no store is named"))
}

impl Shelves {
    fn blob(&self, store: &str, digest: &str) -> Result<Vec<u8>, Status> {
        let stores = self.0.stores.lock().expect("nobody panicked");
        let store = stores.get(store).ok_or_else(|| Status::not_found(format!("unknown store {store}")))?;
        store.get(digest).cloned().ok_or_else(|| Status::not_found(format!("content {digest}: not found")))
    }
}

fn absent<T>() -> Result<T, Status> {
    Err(Status::unimplemented("nobody asks for it"))
}

#[tonic::async_trait]
impl Content for Shelves {
    type ListStream = Answers<content::ListContentResponse>;
    type ReadStream = Answers<content::ReadContentResponse>;
    type WriteStream = Answers<content::WriteContentResponse>;

    async fn info(&self, request: Request<content::InfoRequest>) -> Result<Response<content::InfoResponse>, Status> {
        let digest = request.get_ref().digest.clone();
        let size = self.blob(&store(&request)?, &digest)?.len();
        let size = i64::try_from(size).expect("tests have small blobs");
        let info = content::Info { digest, size, ..content::Info::default() };
        Ok(Response::new(content::InfoResponse { info: Some(info) }))
    }

    async fn read(&self, request: Request<content::ReadContentRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let bytes = self.blob(&store(&request)?, &request.get_ref().digest)?;
        *self.0.reads.lock().expect("nobody panicked") += 1;
        let pieces: Vec<_> = bytes
            .chunks(1000)
            .map(|data| Ok(content::ReadContentResponse { offset: 0, data: data.to_vec().into() }))
            .collect();
        Ok(Response::new(futures_util::stream::iter(pieces).boxed()))
    }

    /// As containerd does it: an answer for each message, and nothing is kept before the commit.
    async fn write(
        &self,
        request: Request<Streaming<content::WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let store = store(&request)?;
        let (mut incoming, shelf) = (request.into_inner(), self.0.clone());
        let (tell, mut told) = tokio::sync::mpsc::channel(16);
        tokio::spawn(async move {
            let mut bytes = Vec::new();
            while let Ok(Some(message)) = incoming.message().await {
                if message.r#ref.is_empty() || message.offset != i64::try_from(bytes.len()).expect("small") {
                    // Whoever writes has gone, or hears of it.
                    let _ = tell.send(Err(Status::out_of_range("these are not the next bytes"))).await;
                    return;
                }
                bytes.extend_from_slice(&message.data);
                let digest = Digest::of(&bytes);
                if message.action == i32::from(WriteAction::Commit) {
                    if message.expected != digest.to_string() {
                        let _ = tell.send(Err(Status::failed_precondition("another digest was promised"))).await;
                        return;
                    }
                    shelf.put(&store, &digest, &bytes);
                }
                let answer = content::WriteContentResponse { action: message.action, ..Default::default() };
                if tell.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(futures_util::stream::poll_fn(move |context| told.poll_recv(context)).boxed()))
    }

    async fn update(&self, _: Request<content::UpdateRequest>) -> Result<Response<content::UpdateResponse>, Status> {
        absent()
    }

    async fn list(&self, _: Request<content::ListContentRequest>) -> Result<Response<Self::ListStream>, Status> {
        absent()
    }

    async fn delete(&self, _: Request<content::DeleteContentRequest>) -> Result<Response<()>, Status> {
        absent()
    }

    async fn status(&self, _: Request<content::StatusRequest>) -> Result<Response<content::StatusResponse>, Status> {
        absent()
    }

    async fn list_statuses(
        &self,
        _: Request<content::ListStatusesRequest>,
    ) -> Result<Response<content::ListStatusesResponse>, Status> {
        absent()
    }

    async fn abort(&self, _: Request<content::AbortRequest>) -> Result<Response<()>, Status> {
        absent()
    }
}
