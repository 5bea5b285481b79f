//! Blobs and manifests into a bucket.
//!
//! In: a blob of the store, which is checked against its digest as it is read. Out: an object, all of it or none. Small
//! ones go in one request; larger ones in parts, of which as many are in memory and under way as uploads are allowed.
//! When it fails, the parts are given back; those of a process that died are the bucket's lifecycle's business.

use std::io::Read as _;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use oci::content::{ContentError, open_verified};
use oci::http::reqwest::Method;
use oci::model::Descriptor;
use rusty_s3::actions::{CompleteMultipartUpload, CompleteMultipartUploadResponse, CreateMultipartUpload};

use super::download::blocking;
use super::request::{Act, Request, Trouble, WORDS_MAX_BYTES};
use super::{RemoteError, S3};
use crate::Blobs;

/// Smaller blobs go in one request. S3 takes parts of 5 MiB and more.
const PART_MIN_BYTES: u64 = 16 << 20;
/// S3 takes 10,000 at most.
const PARTS_MAX: u64 = 9_000;
/// How long giving back the parts of a failed upload may take.
const ABORT_PATIENCE: Duration = Duration::from_secs(5);

/// Bytes per part of a blob of that size.
pub(super) fn part_bytes(size: u64) -> u64 {
    PART_MIN_BYTES.max(size.div_ceil(PARTS_MAX))
}

/// See [`super::Remote::send`].
pub(super) async fn send(place: &S3, blob: &Descriptor, from: &Blobs) -> Result<(), RemoteError> {
    let key = place.key_of(blob);
    if blob.size > PART_MIN_BYTES {
        return in_parts(place, &key, blob, from).await;
    }
    let _turn = place.shared.uploads.acquire().await.ok();
    let (blob, from) = (blob.clone(), from.clone());
    let bytes = blocking(move || {
        let mut bytes = Vec::with_capacity(blob.size as usize);
        open_verified(&from, &blob)?.read_to_end(&mut bytes).map_err(ContentError::io("read a blob"))?;
        Ok(bytes)
    });
    put(place, &key, bytes.await?.into()).await
}

/// Writes an object in one request.
pub(super) async fn put(place: &S3, key: &str, body: Arc<[u8]>) -> Result<(), RemoteError> {
    let shared = &*place.shared;
    let url = || shared.signed(&shared.bucket.put_object(shared.credentials.as_ref(), key));
    let request = Request { body: Some(body), ..Request::new(Method::PUT, &url) };
    needed(shared.ask(&request).await).map(drop).map_err(|trouble| place.failed(Act::Write, trouble))
}

async fn in_parts(place: &S3, key: &str, blob: &Descriptor, from: &Blobs) -> Result<(), RemoteError> {
    let failed = |trouble| place.failed(Act::Write, trouble);
    let id = begin(place, key).await.map_err(failed)?;
    let sent = match parts(place, key, &id, blob, from).await {
        Ok(tags) => complete(place, key, &id, &tags).await.map_err(failed),
        Err(error) => Err(error),
    };
    if sent.is_err() {
        let shared = &*place.shared;
        let url = || shared.signed(&shared.bucket.abort_multipart_upload(shared.credentials.as_ref(), key, &id));
        let request = Request::new(Method::DELETE, &url);
        match tokio::time::timeout(ABORT_PATIENCE, shared.once(&request)).await {
            Ok(Ok(_)) => {}
            other => tracing::debug!(key, ?other, "the parts of a failed upload stay in the bucket"),
        }
    }
    sent
}

async fn begin(place: &S3, key: &str) -> Result<String, Trouble> {
    let shared = &*place.shared;
    let url = || shared.signed(&shared.bucket.create_multipart_upload(shared.credentials.as_ref(), key));
    let answer = needed(shared.ask(&Request::new(Method::POST, &url)).await)?;
    let body = answer.body(WORDS_MAX_BYTES).await?;
    let text = String::from_utf8_lossy(&body);
    let parsed = CreateMultipartUpload::parse_response(&text);
    parsed
        .map(|answer| answer.upload_id().to_owned())
        .map_err(|error| Trouble::Protocol(format!("it began no upload in parts: {error}")))
}

/// Sends all parts; their tags, in order.
async fn parts(place: &S3, key: &str, id: &str, blob: &Descriptor, from: &Blobs) -> Result<Vec<String>, RemoteError> {
    let mut read = reader(blob.clone(), from.clone());
    let mut tags = Vec::new();
    let mut under_way = FuturesUnordered::new();
    loop {
        // A place first, then the bytes for it.
        tokio::select! {
            biased;
            Some(done) = under_way.next() => {
                let (number, tag): (u16, Result<String, Trouble>) = done;
                tags[usize::from(number) - 1] = tag.map_err(|trouble| place.failed(Act::Write, trouble))?;
                continue;
            }
            turn = place.shared.uploads.acquire() => {
                let Some(part) = read.recv().await else { break };
                let part = part?;
                tags.push(String::new());
                let number = tags.len() as u16;
                under_way.push(async move {
                    let _turn = turn;
                    (number, send_part(place, key, id, number, part).await)
                });
            }
        }
    }
    while let Some((number, tag)) = under_way.next().await {
        tags[usize::from(number) - 1] = tag.map_err(|trouble| place.failed(Act::Write, trouble))?;
    }
    Ok(tags)
}

/// The parts of a blob, one read ahead; an error if the bytes are not those of its digest.
fn reader(blob: Descriptor, from: Blobs) -> tokio::sync::mpsc::Receiver<Result<Arc<[u8]>, ContentError>> {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::task::spawn_blocking(move || {
        let mut all = match open_verified(&from, &blob) {
            Ok(all) => all,
            Err(error) => {
                // Nobody listens any more: then nobody wants it.
                let _ = sender.blocking_send(Err(error));
                return;
            }
        };
        loop {
            let mut part = Vec::with_capacity(part_bytes(blob.size) as usize);
            let read = (&mut all).take(part_bytes(blob.size)).read_to_end(&mut part);
            let item = match read {
                Ok(0) => return,
                Ok(_) => Ok(part.into()),
                Err(error) => Err(ContentError::io("read a blob")(error)),
            };
            let last = item.is_err();
            if sender.blocking_send(item).is_err() || last {
                return;
            }
        }
    });
    receiver
}

async fn send_part(place: &S3, key: &str, id: &str, number: u16, part: Arc<[u8]>) -> Result<String, Trouble> {
    let shared = &*place.shared;
    let url = || shared.signed(&shared.bucket.upload_part(shared.credentials.as_ref(), key, number, id));
    let request = Request { body: Some(part), ..Request::new(Method::PUT, &url) };
    let answer = needed(shared.ask(&request).await)?;
    let tag = answer.header("etag").filter(|tag| tag.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'<'));
    tag.map(str::to_owned).ok_or_else(|| Trouble::Protocol("it gave no tag for a part".to_owned()))
}

async fn complete(place: &S3, key: &str, id: &str, tags: &[String]) -> Result<(), Trouble> {
    let shared = &*place.shared;
    let action = || {
        let tags = tags.iter().map(String::as_str);
        CompleteMultipartUpload::new(&shared.bucket, shared.credentials.as_ref(), key, id, tags)
    };
    let url = || shared.signed(&action());
    let body = Some(action().body().into_bytes().into());
    let answer = needed(shared.ask(&Request { body, ..Request::new(Method::POST, &url) }).await)?;
    let text = answer.body(WORDS_MAX_BYTES).await?;
    // An error may come after a head that said 200.
    let text = String::from_utf8_lossy(&text);
    match CompleteMultipartUploadResponse::parse(text.trim()) {
        Ok(_) => Ok(()),
        Err(_) => Err(Trouble::said(&text)),
    }
}

/// What is written to must be there.
fn needed<T>(answer: Result<Option<T>, Trouble>) -> Result<T, Trouble> {
    answer?.ok_or(Trouble::Status { status: 404, code: None, words: None, retry_after: None })
}
