//! `containerd.services.content.v1.Content`, for clients that look at the results of past builds: blobs by digest, to be
//! read and nothing else.
//!
//! Only what the history names can be read: the images of its builds, and what their manifests lead to. So a client
//! learns of no blob of which it knows nothing but the digest. Deliberately absent: writing, listing, throwing away.

use std::collections::{HashSet, VecDeque};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::pin::Pin;
use std::sync::Arc;

use api::content::{self, content_server};
use futures_util::{Stream, StreamExt as _};
use oci::content::{BlobReader, ContentStore as _};
use oci::model::Digest;
use serde_json::Value;
use store::Store;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::{Daemon, error, history};

/// What is sent of a blob at once.
const PIECE_BYTES: usize = 1 << 20;
/// Pieces that wait for a slow reader; then reading the blob waits.
const WAITING: usize = 2;
/// A manifest or an index; what is larger is none.
const MANIFEST_MAX_BYTES: u64 = 4 << 20;
/// Blobs that one image leads to; an image with more is looked at no further.
const NAMED_MAX: usize = 10_000;

/// The service.
#[derive(Debug)]
pub struct Content(pub Arc<Daemon>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn only_read<T>() -> Result<T, Status> {
    Err(Status::permission_denied("blobs can only be read, and only those that the history of builds names"))
}

impl Content {
    /// A blob that the history names.
    async fn open(&self, digest: &str) -> Result<(Digest, Box<dyn BlobReader>), Status> {
        let digest: Digest = digest
            .parse()
            .map_err(|_| Status::invalid_argument(format!("`{}` is no digest", digest.escape_debug())))?;
        let settings = self.0.config.settings.clone();
        super::in_background(move || {
            let missing = || Status::not_found(format!("content {digest}: not found"));
            let store = history::open(&settings)?;
            if !is_named(&store, &digest)? {
                return Err(missing());
            }
            Ok((digest, opened(&store, &digest)?.ok_or_else(missing)?))
        })
        .await
    }
}

fn opened(store: &Store, digest: &Digest) -> Result<Option<Box<dyn BlobReader>>, Status> {
    store.blobs().open(digest).map_err(|error| Status::internal(error.to_string()))
}

/// Whether an image of a past build is this blob, or leads to it.
fn is_named(store: &Store, wanted: &Digest) -> Result<bool, Status> {
    let entries = crate::engine::past::list(store, &[]).map_err(|failure| error::status(&failure, None))?;
    let images = entries.iter().filter_map(|entry| history::image(&entry.head));
    let mut waiting: VecDeque<(Digest, bool)> = images.map(|digest| (digest, true)).collect();
    let mut seen = HashSet::new();
    while let Some((digest, is_manifest)) = waiting.pop_front() {
        if digest == *wanted {
            return Ok(true);
        }
        if !is_manifest || !seen.insert(digest) || seen.len() > NAMED_MAX {
            continue;
        }
        let Some(blob) = opened(store, &digest)?.filter(|blob| blob.size() <= MANIFEST_MAX_BYTES) else { continue };
        let mut bytes = Vec::new();
        blob.take(MANIFEST_MAX_BYTES)
            .read_to_end(&mut bytes)
            .map_err(|error| Status::internal(format!("content {digest} cannot be read: {error}")))?;
        let Ok(document) = serde_json::from_slice::<Value>(&bytes) else { continue };
        for (key, is_manifest) in [("manifests", true), ("layers", false), ("config", false)] {
            let named = match &document[key] {
                Value::Array(list) => list.iter().collect(),
                Value::Null => Vec::new(),
                one => vec![one],
            };
            let digests = named.iter().filter_map(|one| one["digest"].as_str()?.parse::<Digest>().ok());
            waiting.extend(digests.map(|digest| (digest, is_manifest)));
        }
    }
    Ok(false)
}

#[tonic::async_trait]
impl content_server::Content for Content {
    type ListStream = Answers<content::ListContentResponse>;
    type ReadStream = Answers<content::ReadContentResponse>;
    type WriteStream = Answers<content::WriteContentResponse>;

    async fn info(&self, request: Request<content::InfoRequest>) -> Result<Response<content::InfoResponse>, Status> {
        let (digest, blob) = self.open(&request.into_inner().digest).await?;
        let size = i64::try_from(blob.size()).unwrap_or(i64::MAX);
        let info = content::Info { digest: digest.to_string(), size, ..content::Info::default() };
        Ok(Response::new(content::InfoResponse { info: Some(info) }))
    }

    async fn read(&self, request: Request<content::ReadContentRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let out_of_range = || Status::out_of_range("there are not so many bytes");
        let (digest, mut blob) = self.open(&request.digest).await?;
        let offset = u64::try_from(request.offset).map_err(|_| out_of_range())?;
        let rest = blob.size().checked_sub(offset).ok_or_else(out_of_range)?;
        let length = match u64::try_from(request.size).map_err(|_| out_of_range())? {
            0 => rest,
            length => length.min(rest),
        };
        let (send, pieces) = mpsc::channel(WAITING);
        tokio::task::spawn_blocking(move || {
            let mut read = || -> std::io::Result<()> {
                blob.seek(SeekFrom::Start(offset))?;
                let (mut at, end) = (offset, offset + length);
                while at < end {
                    let mut data = vec![0; PIECE_BYTES.min(usize::try_from(end - at).unwrap_or(PIECE_BYTES))];
                    blob.read_exact(&mut data)?;
                    let sent = content::ReadContentResponse { offset: at.cast_signed(), data: data.into() };
                    at += sent.data.len() as u64;
                    if send.blocking_send(Ok(sent)).is_err() {
                        return Ok(());
                    }
                }
                Ok(())
            };
            if let Err(error) = read() {
                // Whoever asked may have gone.
                let _ = send.blocking_send(Err(Status::internal(format!("content {digest} cannot be read: {error}"))));
            }
        });
        Ok(Response::new(super::received(pieces).boxed()))
    }

    async fn update(&self, _: Request<content::UpdateRequest>) -> Result<Response<content::UpdateResponse>, Status> {
        only_read()
    }

    async fn list(&self, _: Request<content::ListContentRequest>) -> Result<Response<Self::ListStream>, Status> {
        only_read()
    }

    async fn delete(&self, _: Request<content::DeleteContentRequest>) -> Result<Response<()>, Status> {
        only_read()
    }

    async fn status(&self, _: Request<content::StatusRequest>) -> Result<Response<content::StatusResponse>, Status> {
        only_read()
    }

    async fn list_statuses(
        &self,
        _: Request<content::ListStatusesRequest>,
    ) -> Result<Response<content::ListStatusesResponse>, Status> {
        only_read()
    }

    async fn write(
        &self,
        _: Request<Streaming<content::WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        only_read()
    }

    async fn abort(&self, _: Request<content::AbortRequest>) -> Result<Response<()>, Status> {
        only_read()
    }
}
