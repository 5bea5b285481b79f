//! A cache in a bucket of an S3-compatible store.
//!
//! In: a bucket, names, keys. Out: a [`Remote`]. Objects stand where BuildKit has them, so that one set of permissions
//! and lifecycle rules serves both; a manifest of BuildKit's has another name unless the user says the same one.
//!
//! ```text
//! <prefix><manifests_prefix><name>     the cache manifest; `manifests/` and `rbuild` unless told otherwise
//! <prefix><blobs_prefix>sha256:<hex>   blobs; `blobs/` unless told otherwise
//! ```
//!
//! Requests are signed in their address (AWS signature version 4), so that no header holds anything secret, and follow
//! no redirect: a signature goes nowhere but where it was made for. Addresses are never shown with their query.
//! Deliberately absent: credentials of instances, of web identities and of single sign-on (AWS's own tools turn these
//! into keys), deletion, which is the bucket's lifecycle. Next: [`request`] one request and its tries, [`download`] and
//! [`upload`] blobs, [`credentials`] the file of the `aws` command.

pub mod credentials;
mod download;
mod request;
#[cfg(test)]
mod tests;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use oci::http::reqwest::{Method, Url};
use oci::http::{Clients, Pace, USER_AGENT, first_line};
use oci::model::Descriptor;
use oci::registry::Secret;
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use tokio::sync::Semaphore;

use super::{Answer, Remote, RemoteError};
use crate::Blobs;
use request::{Act, Request, Trouble};

/// Nothing may move for so many times the patience of whoever waits: what is read is bounded by that anyway, and a server
/// may take its time over what it was sent.
const IDLE_FACTOR: u32 = 3;
/// For how long an address is signed: a request has to begin within it, and clocks differ.
const SIGNED_FOR: Duration = Duration::from_secs(15 * 60);
/// Questions at the same time, whether blobs are there.
const QUESTIONS: usize = 16;
/// The name of a manifest, unless one is given. Not BuildKit's, whose manifest is another thing.
const NAME: &str = "rbuild";
const MANIFESTS_PREFIX: &str = "manifests/";
const BLOBS_PREFIX: &str = "blobs/";

/// What a user says of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Settings {
    /// Its name.
    pub bucket: String,
    /// Its region; other stores than AWS's take any.
    pub region: String,
    /// Names of manifests. Each is written; [`S3::places`] reads them one by one. Empty is `rbuild`.
    pub names: Vec<String>,
    /// Before everything.
    pub prefix: String,
    /// Before blobs; `None` is `blobs/`.
    pub blobs_prefix: Option<String>,
    /// Before manifests; `None` is `manifests/`.
    pub manifests_prefix: Option<String>,
    /// `https://host[:port]`; `None` is AWS's in that region.
    pub endpoint_url: Option<String>,
    /// Whose bucket it is; `None` signs nothing, as public buckets want it.
    pub keys: Option<S3Keys>,
    /// Whether the bucket is part of the path; `None`: only where it cannot be part of the host's name, and with an
    /// endpoint of one's own.
    pub use_path_style: Option<bool>,
    /// Uploads at once.
    pub upload_parallelism: usize,
    /// Blobs that were written or touched longer ago are touched when they are counted on, so that no lifecycle rule
    /// takes them away.
    pub touch_refresh: Duration,
}

/// Credentials for S3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Keys {
    /// Whose.
    pub access_key_id: Secret,
    /// The secret.
    pub secret_access_key: Secret,
    /// Of temporary credentials.
    pub session_token: Option<Secret>,
}

/// A cache in a bucket. Opens no connection by itself. Clones share connections and limits.
#[derive(Clone)]
pub struct S3 {
    shared: Arc<Shared>,
    /// Keys of manifests: all are written; what is read is what all of them say.
    manifests: Vec<String>,
    place: String,
}

struct Shared {
    bucket: Bucket,
    credentials: Option<Credentials>,
    blobs: String,
    clients: Clients,
    uploads: Semaphore,
    touch_refresh: Duration,
    patience: Duration,
    idle: Duration,
    pace: Arc<dyn Pace>,
}

impl S3 {
    /// A cache in that bucket, for which somebody waits so long.
    ///
    /// # Errors
    /// [`RemoteError::Refused`] for a bucket, an endpoint or names that make no addresses.
    pub fn new(settings: &S3Settings, patience: Duration, pace: Arc<dyn Pace>) -> Result<Self, RemoteError> {
        Self::with(settings, patience, patience.saturating_mul(IDLE_FACTOR), pace)
    }

    fn with(
        settings: &S3Settings,
        patience: Duration,
        idle: Duration,
        pace: Arc<dyn Pace>,
    ) -> Result<Self, RemoteError> {
        let S3Settings { bucket: name, region, prefix, .. } = settings;
        let place = format!("s3://{name}/{prefix}");
        let refused = |reason: String| RemoteError::Refused { act: "opened", place: place.clone(), reason };
        let endpoint = settings.endpoint_url.clone().unwrap_or_else(|| aws(region));
        let endpoint: Url =
            endpoint.parse().map_err(|error| refused(format!("`{endpoint}` is no address: {error}")))?;
        let path_style = settings.use_path_style.unwrap_or(settings.endpoint_url.is_some() || name.contains('.'));
        let style = if path_style { UrlStyle::Path } else { UrlStyle::VirtualHost };
        let bucket = Bucket::new(endpoint, style, name.clone(), region.clone())
            .map_err(|error| refused(format!("bucket and endpoint make no address: {error}")))?;
        let manifests_prefix = settings.manifests_prefix.as_deref().unwrap_or(MANIFESTS_PREFIX);
        let names: &[String] = if settings.names.is_empty() { &[NAME.to_owned()] } else { &settings.names };
        let manifests: Vec<String> = names.iter().map(|name| format!("{prefix}{manifests_prefix}{name}")).collect();
        let blobs = format!("{prefix}{}", settings.blobs_prefix.as_deref().unwrap_or(BLOBS_PREFIX));
        // An address cannot hold these: they would lead to another object, or another bucket.
        let climbs = |key: &String| key.split('/').any(|part| matches!(part, "." | ".."));
        if let Some(key) = manifests.iter().chain([&blobs]).find(|key| climbs(key)) {
            return Err(refused(format!("`{key}` cannot be the key of an object")));
        }
        let credentials = settings.keys.as_ref().map(|keys| {
            let (id, secret) = (keys.access_key_id.expose(), keys.secret_access_key.expose());
            match &keys.session_token {
                Some(token) => Credentials::new_with_token(id, secret, token.expose()),
                None => Credentials::new(id, secret),
            }
        });
        let clients = Clients::new(USER_AGENT, &[]).map_err(|source| RemoteError::Unreachable {
            act: "prepare for",
            place: place.clone(),
            source: source.into(),
        })?;
        let shared = Arc::new(Shared {
            bucket,
            credentials,
            blobs,
            clients,
            uploads: Semaphore::new(settings.upload_parallelism.max(1)),
            touch_refresh: settings.touch_refresh,
            patience,
            idle,
            pace,
        });
        let place = format!("s3://{name}/{}", manifests.join(";"));
        Ok(Self { shared, manifests, place })
    }

    /// One place per name, to be read in this order.
    pub fn places(&self) -> Vec<S3> {
        let bucket = self.shared.bucket.name();
        let one = |key: &String| S3 {
            shared: self.shared.clone(),
            manifests: vec![key.clone()],
            place: format!("s3://{bucket}/{key}"),
        };
        self.manifests.iter().map(one).collect()
    }

    fn key_of(&self, blob: &Descriptor) -> String {
        format!("{}{}", self.shared.blobs, blob.digest)
    }

    fn failed(&self, act: Act, trouble: Trouble) -> RemoteError {
        trouble.into_error(act, &self.place, self.shared.credentials.is_some())
    }

    async fn read_manifest(&self, key: &str, most: u64) -> Result<Option<Vec<u8>>, RemoteError> {
        let shared = &*self.shared;
        let url = || shared.signed(&shared.bucket.get_object(shared.credentials.as_ref(), key));
        let failed = |trouble| match trouble {
            Trouble::TooLarge => RemoteError::TooLarge { what: "manifest", place: self.place(), most },
            trouble => self.failed(Act::Read, trouble),
        };
        match shared.ask(&Request::new(Method::GET, &url)).await.map_err(failed)? {
            Some(answer) => answer.body(most).await.map(Some).map_err(failed),
            None => Ok(None),
        }
    }

    /// Whether the blob is there, whole, and stays for a while.
    async fn is_there(&self, blob: &Descriptor) -> Result<bool, Trouble> {
        let shared = &*self.shared;
        let key = self.key_of(blob);
        let url = || shared.signed(&shared.bucket.head_object(shared.credentials.as_ref(), &key));
        let answer = match shared.ask(&Request::new(Method::HEAD, &url)).await {
            Ok(answer) => answer,
            // Who may not list a bucket is told this of what is not there.
            Err(Trouble::Status { status: 403, .. }) => None,
            Err(trouble) => return Err(trouble),
        };
        let Some(answer) = answer else { return Ok(false) };
        if answer.header("content-length").and_then(|text| text.parse().ok()) != Some(blob.size) {
            return Ok(false);
        }
        let written = answer.header("last-modified").and_then(|text| jiff::fmt::rfc2822::parse(text).ok());
        let age = written.and_then(|at| Duration::try_from(shared.pace.now().duration_since(at.timestamp())).ok());
        match age {
            Some(age) if age > shared.touch_refresh => self.touch(&key).await,
            _ => Ok(true),
        }
    }

    /// Copies an object onto itself, which makes it a new one; `false` if that cannot be: then it is sent again.
    async fn touch(&self, key: &str) -> Result<bool, Trouble> {
        let shared = &*self.shared;
        let source = format!("/{}/{key}", shared.bucket.name());
        let headers = [("x-amz-copy-source", source.as_str()), ("x-amz-metadata-directive", "REPLACE")];
        let url = || {
            let mut action = shared.bucket.put_object(shared.credentials.as_ref(), key);
            for (name, value) in headers {
                action.headers_mut().insert(name, value);
            }
            shared.signed(&action)
        };
        match shared.ask(&Request { headers: &headers, ..Request::new(Method::PUT, &url) }).await {
            // The answer to a copy may be 200 and an error all the same.
            Ok(Some(answer)) => {
                Ok(answer.body(request::WORDS_MAX_BYTES).await?.windows(6).all(|part| part != b"<Error"))
            }
            Ok(None) => Ok(false),
            Err(Trouble::Status { status, code, .. }) => {
                tracing::debug!(key, status, code, "an object cannot be touched");
                Ok(false)
            }
            Err(trouble) => Err(trouble),
        }
    }
}

impl Shared {
    fn signed<'a>(&self, action: &impl S3Action<'a>) -> Url {
        action.sign_with_time(SIGNED_FOR, &self.pace.now())
    }
}

/// AWS's own address of S3 in a region.
fn aws(region: &str) -> String {
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    format!("https://s3.{region}.{domain}")
}

impl Remote for S3 {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn patience(&self) -> Duration {
        self.shared.patience
    }

    fn manifest(&self, most: u64) -> Answer<'_, Option<Vec<u8>>> {
        Box::pin(async move {
            let mut all = join_all(self.manifests.iter().map(|key| self.read_manifest(key, most))).await.into_iter();
            let first = all.next().expect("there is always a name")?;
            for other in all {
                if other? != first {
                    return Ok(None);
                }
            }
            Ok(first)
        })
    }

    fn fetch<'a>(&'a self, blob: &'a Descriptor, into: &'a Blobs, heard: &'a (dyn Fn(u64) + Sync)) -> Answer<'a, ()> {
        Box::pin(download::fetch(self, blob, into, heard))
    }

    fn has<'a>(&'a self, blobs: &'a [Descriptor]) -> Answer<'a, Vec<bool>> {
        Box::pin(async move {
            let mut all = Vec::with_capacity(blobs.len());
            for some in blobs.chunks(QUESTIONS) {
                for found in join_all(some.iter().map(|blob| self.is_there(blob))).await {
                    all.push(found.map_err(|trouble| self.failed(Act::Write, trouble))?);
                }
            }
            Ok(all)
        })
    }

    fn send<'a>(&'a self, blob: &'a Descriptor, from: &'a Blobs) -> Answer<'a, ()> {
        Box::pin(upload::send(self, blob, from))
    }

    fn set_manifest<'a>(&'a self, bytes: &'a [u8]) -> Answer<'a, ()> {
        Box::pin(async move {
            let body: Arc<[u8]> = bytes.into();
            for key in &self.manifests {
                upload::put(self, key, body.clone()).await?;
            }
            Ok(())
        })
    }
}
