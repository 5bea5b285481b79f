//! Blobs of a client by their digests: its OCI layouts and its caches in directories, by containerd's content service in
//! its session, where each store has a name.
//!
//! In: digests and sizes. Out: bytes in the store, checked against both as they come, so that a client that lies gets an
//! error with words; and what a cache writes, back to the client, which keeps its own list of what is there. Deliberately
//! absent: what blobs mean ([`store::remote`], [`crate::engine`]'s contexts).

use std::future::Future;
use std::io::{self, Read as _, Write as _};
use std::sync::{Arc, Mutex, PoisonError};

use api::content::content_client::ContentClient;
use api::content::{InfoRequest, ReadContentRequest, ReadContentResponse, WriteAction, WriteContentRequest};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use oci::content::{ContentError, ContentStore as _, open_verified};
use oci::model::{Descriptor, Digest, media_type};
use store::Blobs;
use store::remote::{Answer, Remote, RemoteError};
use tokio::sync::mpsc;
use tokio_util::bytes::Bytes;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status, Streaming};

use super::Session;
use crate::daemon::MESSAGE_MAX_BYTES;
use crate::engine::Failure;
use crate::options::theirs::Layouts;

const READ: &str = "/containerd.services.content.v1.Content/Read";
/// Which of the client's stores is meant.
const STORE: &str = "buildkit-attachable-store-id";
/// Pieces that wait for a slow disk; then the client waits.
const WAITING: usize = 4;
/// What is sent at once.
const PIECE_BYTES: usize = 1 << 20;

/// Why a blob could not be had, or kept.
#[derive(Debug, thiserror::Error)]
enum BlobError {
    #[error("there is no blob `{0}`")]
    Missing(Digest),
    #[error("the document `{digest}` has more than {most} bytes")]
    TooLarge { digest: Digest, most: u64 },
    #[error("{0}")]
    Said(String),
    #[error(transparent)]
    Content(#[from] ContentError),
}

impl From<Status> for BlobError {
    fn from(status: Status) -> Self {
        Self::Said(status.message().to_owned())
    }
}

/// One of a client's stores.
#[derive(Clone, Debug)]
struct Theirs {
    session: Arc<Session>,
    /// As the client calls it, with its kind: `oci:…`, `local:…`.
    id: MetadataValue<tonic::metadata::Ascii>,
}

impl Theirs {
    fn new(session: &Arc<Session>, id: &str) -> Result<Self, BlobError> {
        if !session.has(READ) {
            return Err(BlobError::Said("the client gives no blobs to the daemon".into()));
        }
        let id = MetadataValue::try_from(id);
        let id = id.map_err(|_| BlobError::Said("a header cannot hold the name of the client's directory".into()))?;
        Ok(Self { session: session.clone(), id })
    }

    fn client(&self) -> ContentClient<Channel> {
        ContentClient::new(self.session.channel()).max_decoding_message_size(MESSAGE_MAX_BYTES)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert(STORE, self.id.clone());
        request
    }

    /// How many bytes a blob has; `None`: it is not there.
    async fn size(&self, digest: &Digest) -> Result<Option<u64>, BlobError> {
        let asked = self.request(InfoRequest { digest: digest.to_string() });
        match self.session.answer(self.client().info(asked)).await {
            Ok(answer) => Ok(Some(answer.info.and_then(|info| u64::try_from(info.size).ok()).unwrap_or(0))),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status.into()),
        }
    }

    /// Begins to read a blob.
    async fn read(&self, digest: &Digest) -> Result<Reading<'_>, BlobError> {
        let asked = self.request(ReadContentRequest { digest: digest.to_string(), offset: 0, size: 0 });
        let incoming = self.session.answer(self.client().read(asked)).await;
        let incoming = incoming.map_err(|status| not_read(&status, digest))?;
        Ok(Reading { theirs: self, digest: *digest, incoming })
    }

    /// A document, which is what its digest says.
    async fn document(&self, digest: &Digest, most: u64) -> Result<Vec<u8>, BlobError> {
        let (mut bytes, mut reading) = (Vec::new(), self.read(digest).await?);
        while let Some(piece) = reading.next().await? {
            bytes.extend_from_slice(&piece);
            if bytes.len() as u64 > most {
                return Err(BlobError::TooLarge { digest: *digest, most });
            }
        }
        let actual = Digest::of(&bytes);
        if actual != *digest {
            return Err(ContentError::WrongDigest { expected: *digest, actual }.into());
        }
        Ok(bytes)
    }

    /// Brings a blob into a store; nothing is kept of one that is not what it should be.
    async fn bring(&self, blob: &Descriptor, into: &Blobs, heard: &(dyn Fn(u64) + Sync)) -> Result<(), BlobError> {
        let Descriptor { digest, size, .. } = *blob;
        if into.size(&digest)? == Some(size) {
            return Ok(());
        }
        let wrong_size = move |actual| BlobError::from(ContentError::WrongSize { digest, expected: size, actual });
        let (give, mut given) = mpsc::channel::<Bytes>(WAITING);
        let into = into.clone();
        let writing = tokio::task::spawn_blocking(move || {
            let (mut writer, mut actual) = (into.writer()?, 0);
            while let Some(piece) = given.blocking_recv() {
                actual += piece.len() as u64;
                if actual > size {
                    return Err(wrong_size(actual));
                }
                writer.write_all(&piece).map_err(ContentError::io(format!("write blob `{digest}`")))?;
            }
            Ok((writer, actual))
        });
        let read = async {
            let (mut sent, mut reading) = (0, self.read(&digest).await?);
            while let Some(piece) = reading.next().await? {
                sent += piece.len() as u64;
                heard(sent.min(size));
                if give.send(piece).await.is_err() {
                    break;
                }
            }
            Ok::<_, BlobError>(())
        };
        let read = read.await;
        drop(give);
        let (writer, actual) = ended(writing.await)?;
        read?;
        if actual != size {
            return Err(wrong_size(actual));
        }
        ended(tokio::task::spawn_blocking(move || Ok(writer.commit(Some(&digest))?)).await)?;
        Ok(())
    }

    /// Sends a blob; one that is there already is fine.
    async fn send(&self, digest: Digest, size: u64, mut from: impl io::Read + Send + 'static) -> Result<(), BlobError> {
        let (give, given) = mpsc::channel::<WriteContentRequest>(WAITING);
        let about = move |action: WriteAction, offset: u64| WriteContentRequest {
            action: action.into(),
            r#ref: format!("rbuild-{}", digest.hex()),
            total: size.cast_signed(),
            expected: digest.to_string(),
            offset: offset.cast_signed(),
            ..WriteContentRequest::default()
        };
        let reading = tokio::task::spawn_blocking(move || -> Result<(), BlobError> {
            let mut at = 0;
            loop {
                let mut data = Vec::new();
                let read = from.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut data);
                read.map_err(ContentError::io(format!("read blob `{digest}`")))?;
                let length = data.len() as u64;
                // Without an end it is not kept; where the call is over, that says why.
                let action = if length == 0 { WriteAction::Commit } else { WriteAction::Write };
                let message = WriteContentRequest { data: data.into(), ..about(action, at) };
                if give.blocking_send(message).is_err() || length == 0 {
                    return Ok(());
                }
                at += length;
            }
        });
        let outgoing =
            futures_util::stream::unfold(given, |mut given| async { given.recv().await.map(|it| (it, given)) });
        let request = self.request(outgoing);
        let wrote = async {
            let mut client = self.client();
            let mut answers = self.session.answer(client.write(request)).await?;
            loop {
                let answer = self.session.answer(async { answers.message().await.map(Response::new) }).await?;
                match answer {
                    Some(answer) if answer.action == i32::from(WriteAction::Commit) => return Ok(()),
                    Some(_) => {}
                    None => return Err(Status::aborted("the client ended before it had everything")),
                }
            }
        };
        let wrote = match wrote.await {
            Err(status) if status.code() == Code::AlreadyExists => Ok(()),
            wrote => wrote.map_err(BlobError::from),
        };
        ended(reading.await)?;
        wrote
    }
}

/// A blob, piece by piece.
struct Reading<'a> {
    theirs: &'a Theirs,
    digest: Digest,
    incoming: Streaming<ReadContentResponse>,
}

impl Reading<'_> {
    /// The next piece, waited for as long as for any answer.
    async fn next(&mut self) -> Result<Option<Bytes>, BlobError> {
        let next = async { self.incoming.message().await.map(Response::new) };
        let next = self.theirs.session.answer(next).await.map_err(|status| not_read(&status, &self.digest))?;
        Ok(next.map(|message| message.data))
    }
}

fn not_read(status: &Status, digest: &Digest) -> BlobError {
    match status.code() {
        Code::NotFound => BlobError::Missing(*digest),
        _ => BlobError::Said(status.message().to_owned()),
    }
}

/// What came of work on a thread of its own.
fn ended<T>(work: Result<Result<T, BlobError>, tokio::task::JoinError>) -> Result<T, BlobError> {
    work.unwrap_or_else(|error| Err(BlobError::Said(error.to_string())))
}

/// The layouts of one session.
#[derive(Debug)]
pub struct SessionLayouts(pub Arc<Session>);

impl SessionLayouts {
    fn store(&self, name: &str) -> Result<Theirs, BlobError> {
        Theirs::new(&self.0, &format!("oci:{name}"))
    }
}

fn of_layout(error: BlobError) -> Failure {
    Failure::new("cannot read the client's OCI layout").note(error.to_string())
}

impl Layouts for SessionLayouts {
    fn document<'a>(&'a self, name: &'a str, digest: &'a Digest, most: u64) -> BoxFuture<'a, Result<Vec<u8>, Failure>> {
        let read = async move { self.store(name)?.document(digest, most).await };
        read.map(|read| read.map_err(of_layout)).boxed()
    }

    fn bring<'a>(&'a self, name: &'a str, blob: &'a Descriptor, into: &'a Blobs) -> BoxFuture<'a, Result<(), Failure>> {
        let bring = async move { self.store(name)?.bring(blob, into, &|_| {}).await };
        bring.map(|brought| brought.map_err(of_layout)).boxed()
    }
}

/// What a client is told of a cache that was kept for it, so that it can note it in its own list.
pub type Kept = Arc<Mutex<Option<Descriptor>>>;

/// A cache in a directory of a client.
#[derive(Debug)]
pub struct SessionCache {
    /// Who has it.
    pub session: Arc<Session>,
    /// The directory, as the client calls it.
    pub directory: String,
    /// Its manifest, where there is one.
    pub manifest: Option<Digest>,
    /// Takes what was kept.
    pub kept: Kept,
}

impl SessionCache {
    fn store(&self) -> Result<Theirs, BlobError> {
        Theirs::new(&self.session, &format!("local:{}", self.directory))
    }

    /// An answer, with what went wrong in the words of caches.
    fn answer<'a, T: Send>(
        &'a self,
        act: &'static str,
        asked: impl Future<Output = Result<T, BlobError>> + Send + 'a,
    ) -> Answer<'a, T> {
        let failed = move |error| match error {
            BlobError::Missing(digest) => RemoteError::NoBlob { place: self.place(), digest },
            BlobError::TooLarge { most, .. } => RemoteError::TooLarge { what: "manifest", place: self.place(), most },
            BlobError::Content(error) => error.into(),
            BlobError::Said(_) => RemoteError::Unreachable { act, place: self.place(), source: Box::new(error) },
        };
        Box::pin(async move { asked.await.map_err(failed) })
    }
}

impl Remote for SessionCache {
    fn place(&self) -> String {
        self.directory.clone()
    }

    fn manifest(&self, most: u64) -> Answer<'_, Option<Vec<u8>>> {
        self.answer("read", async move {
            let Some(digest) = &self.manifest else { return Ok(None) };
            self.store()?.document(digest, most).await.map(Some)
        })
    }

    fn fetch<'a>(&'a self, blob: &'a Descriptor, into: &'a Blobs, heard: &'a (dyn Fn(u64) + Sync)) -> Answer<'a, ()> {
        self.answer("read", async move { self.store()?.bring(blob, into, heard).await })
    }

    fn has<'a>(&'a self, blobs: &'a [Descriptor]) -> Answer<'a, Vec<bool>> {
        self.answer("read", async move {
            let store = self.store()?;
            let mut has = Vec::with_capacity(blobs.len());
            for blob in blobs {
                has.push(store.size(&blob.digest).await? == Some(blob.size));
            }
            Ok(has)
        })
    }

    fn send<'a>(&'a self, blob: &'a Descriptor, from: &'a Blobs) -> Answer<'a, ()> {
        self.answer("write to", async move {
            let bytes = open_verified(from, blob)?;
            self.store()?.send(blob.digest, blob.size, bytes).await
        })
    }

    fn set_manifest<'a>(&'a self, bytes: &'a [u8]) -> Answer<'a, ()> {
        self.answer("write to", async move {
            let (digest, size) = (Digest::of(bytes), bytes.len() as u64);
            self.store()?.send(digest, size, io::Cursor::new(bytes.to_vec())).await?;
            let descriptor = Descriptor::new(media_type::OCI_MANIFEST, digest, size);
            *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(descriptor);
            Ok(())
        })
    }
}
