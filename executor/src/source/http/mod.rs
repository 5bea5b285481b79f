//! Files of the web, as blobs of the store.
//!
//! In: a [`HttpSource`]. Out: a [`HttpFile`] whose bytes are in the store, whole and of the checksum that was asked for.
//! What an address gave is noted with its validators (kind `http`, by the address without its password), so that the
//! next build asks only whether it has changed; offline, what is noted is taken as it is. Deliberately absent: trees (the worker makes one of a file), cookies,
//! credentials other than those of the address. Next: [`address`] which addresses are taken and how files are called,
//! [`ask`] one request with its redirects, [`download`] tries and resumed bodies, [`sink`] bytes to disk.

mod address;
mod ask;
mod checksum;
mod download;
mod error;
mod sink;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use oci::http::reqwest::header::HeaderValue;
use oci::http::{Clients, Pace, RealPace, USER_AGENT};
use oci::model::Digest;
use serde::{Deserialize, Serialize};
use solver::seam::LogSink;
use store::Store;
use tokio_util::sync::CancellationToken;

pub use address::file_name as file_name_of;
pub use checksum::Checksum;
pub use error::HttpError;

use super::Connectivity;
use address::Address;
use download::{Downloaded, Validators};

/// The largest files that builds fetch (data sets, weights of models) have tens of gigabytes. A server that never stops
/// must not fill the disk.
const FILE_MAX_BYTES: u64 = 128 << 30;
/// How long nothing may move; there is no limit on the whole.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The kind of our notes.
const NOTES: &str = "http";

/// A file of the web, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSource {
    /// `https://…` or `http://…`; may hold `user:password@`.
    pub url: String,
    /// What the bytes must be.
    pub checksum: Option<Checksum>,
    /// `Authorization` for its own server; that of the address stands above it.
    pub authorization: Option<HeaderValue>,
}

/// A file of the web that is in the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpFile {
    /// Its blob.
    pub digest: Digest,
    /// Its length.
    pub size_bytes: u64,
    /// How its server, or else its address calls it; a plain name, never empty.
    pub file_name: String,
    /// `Last-Modified`, in seconds since 1970.
    pub last_modified: Option<i64>,
}

/// What is noted of an address.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    digest: Digest,
    size_bytes: u64,
    file_name: String,
    last_modified: Option<i64>,
    validators: Validators,
}

/// Brings a file into the store. One that is there, and has not changed by its server's word or cannot by its checksum,
/// is not transferred again.
///
/// # Errors
/// When the address is none, no connection may be made and the file is not here, the server cannot be reached or refuses, the bytes are not those of the checksum, the disk
/// is full. Nothing is kept then.
pub async fn fetch(
    store: &Store,
    source: &HttpSource,
    connectivity: Connectivity,
    log: &dyn LogSink,
    cancel: &CancellationToken,
) -> Result<HttpFile, HttpError> {
    if connectivity == Connectivity::Offline {
        return kept(store, source).await;
    }
    static CLIENTS: OnceLock<Clients> = OnceLock::new();
    let clients = match CLIENTS.get() {
        Some(clients) => clients,
        None => {
            let made = Clients::new(USER_AGENT, &[]).map_err(|source| HttpError::Setup { source })?;
            CLIENTS.get_or_init(|| made)
        }
    };
    Web { clients, pace: Arc::new(RealPace), idle_timeout: IDLE_TIMEOUT, file_max_bytes: FILE_MAX_BYTES }
        .fetch(store, source, log, cancel)
        .await
}

/// How the web is met.
struct Web<'a> {
    clients: &'a Clients,
    pace: Arc<dyn Pace>,
    idle_timeout: Duration,
    file_max_bytes: u64,
}

impl Web<'_> {
    async fn fetch(
        &self,
        store: &Store,
        source: &HttpSource,
        log: &dyn LogSink,
        cancel: &CancellationToken,
    ) -> Result<HttpFile, HttpError> {
        tokio::select! {
            biased;
            () = cancel.cancelled() => Err(HttpError::Canceled),
            result = self.run(store, source, log) => result,
        }
    }

    async fn run(&self, store: &Store, source: &HttpSource, log: &dyn LogSink) -> Result<HttpFile, HttpError> {
        let address = Address { authorization: source.authorization.clone(), ..Address::parse(&source.url)? };
        let mut known = known(store, &address).await?;
        if let (Some(Checksum::Sha256(digest)), Some(note)) = (&source.checksum, &known)
            && note.digest == *digest
        {
            tracing::debug!(url = address.shown, "the file is here, and cannot be another");
            return Ok(known.expect("matched above").file());
        }
        // A file that is known under another checksum must have changed; if it has not, the checksum is wrong, and
        // only the bytes can tell.
        known = known.filter(|_| source.checksum.is_none());
        let validators = known.as_ref().map(|note| &note.validators);
        match self.download(store, &address, validators, source.checksum.as_ref(), log).await? {
            Downloaded::NotModified => Ok(known.expect("only what is known was asked for").file()),
            Downloaded::File(file, validators) => {
                let note = Note {
                    digest: file.digest,
                    size_bytes: file.size_bytes,
                    file_name: file.file_name.clone(),
                    last_modified: file.last_modified,
                    validators,
                };
                let text = serde_json::to_string(&note).expect("plain data becomes JSON");
                let (store, key) = (store.clone(), address.key);
                blocking(move || store.set_note(NOTES, &key, &text)).await??;
                Ok(file)
            }
        }
    }
}

/// Gives another store all files that this one has of the web, with what is noted of them. Blocks.
pub fn give(from: &Store, to: &Store) -> Result<(), HttpError> {
    from.give_notes(NOTES, to, |text| match serde_json::from_str::<Note>(text) {
        Ok(note) => Ok(from.blobs().give(&note.digest, to.blobs())?),
        Err(error) => {
            tracing::debug!(%error, "a note that cannot be read");
            Ok(false)
        }
    })
}

/// What an earlier build fetched from the address, if it is of the checksum.
async fn kept(store: &Store, source: &HttpSource) -> Result<HttpFile, HttpError> {
    let address = Address::parse(&source.url)?;
    let missing = || HttpError::Offline { url: address.shown.clone() };
    let note = known(store, &address).await?.ok_or_else(missing)?;
    let digest = note.digest;
    let fits = match source.checksum.clone() {
        None => true,
        Some(wanted) => {
            let store = store.clone();
            blocking(move || wanted.is_of(&store, &digest)).await??
        }
    };
    if fits { Ok(note.file()) } else { Err(missing()) }
}

/// What is noted of the address, if its blob is here and whole.
async fn known(store: &Store, address: &Address) -> Result<Option<Note>, HttpError> {
    let (store, key) = (store.clone(), address.key.clone());
    blocking(move || {
        let Some(text) = store.note(NOTES, &key)? else { return Ok(None) };
        let note: Note = match serde_json::from_str(&text) {
            Ok(note) => note,
            Err(error) => {
                tracing::debug!(%error, "a note that cannot be read");
                return Ok(None);
            }
        };
        // Hashed again: a server that says "not modified" does not know what a disk forgot.
        Ok(store.blobs().verify(&note.digest)?.then_some(note))
    })
    .await?
}

impl Note {
    fn file(self) -> HttpFile {
        let Self { digest, size_bytes, file_name, last_modified, .. } = self;
        HttpFile { digest, size_bytes, file_name, last_modified }
    }
}

/// Runs what blocks on a thread that may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, HttpError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done),
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is going down.
        Err(_) => Err(HttpError::Canceled),
    }
}

#[cfg(test)]
mod tests;
