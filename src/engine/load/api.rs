//! Docker's API, which podman's service speaks too: <https://docs.docker.com/reference/api/engine/>.
//!
//! In: a socket or an address. Out: what is there, what it has, and images loaded into it. Every wait has an end: for an
//! answer to a question, for an upload that does not move, and for a word about what was uploaded. Paths name no
//! version, so every engine answers in its own. Deliberately absent: what is sent ([`super::unpacked`]).

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use oci::http::reqwest::{self, Body, Method, Response, StatusCode, Url, header};
use oci::http::{Clients, Trusted, USER_AGENT};
use oci::model::{DiffId, Digest, Reference};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, sleep, timeout};

use super::answer::{Answer, Refusal, words};
use super::stream::{Archive, Sent};
use super::unpacked::{Engine, Seen, Unloaded};
use crate::engine::Failure;
use crate::options::load::{EngineKind, Keeps, Place, Tls, Way};

/// A list of images, or all of one.
const ANSWER_MAX_BYTES: usize = 16 << 20;
/// How often something is asked of which nothing was sent.
const ASKED_MAX: usize = 4;
/// Questions at a time.
const QUESTIONS_AT_ONCE: usize = 8;
/// How often is looked whether anything moves.
const TICK: Duration = Duration::from_millis(100);

/// How long an engine is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the answer to a question.
    pub question: Duration,
    /// While it takes nothing of what is sent.
    pub upload: Duration,
    /// While it says nothing of what it was sent: it writes that to its disk, and podman is silent until it is done.
    pub work: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { question: Duration::from_secs(10), upload: Duration::from_secs(60), work: Duration::from_secs(600) }
    }
}

/// An engine's API.
pub struct Api {
    client: reqwest::Client,
    base: String,
    /// `docker (unix:///var/run/docker.sock)`, for people.
    name: String,
    patience: Patience,
}

/// Why nobody answers.
#[derive(Debug)]
pub enum Absent {
    /// There is nothing there.
    Nobody(String),
    /// There is something that cannot be used.
    Unusable(Failure),
}

impl Api {
    /// The API at a place; nothing is asked yet.
    pub fn at(place: &Place, patience: Patience) -> Result<Self, Failure> {
        let name = format!("{} ({place})", place.engine);
        let failed = |error: reqwest::Error| Failure::new(format!("{name} cannot be reached")).note(error.to_string());
        let (client, base) = match &place.way {
            Way::Socket(path) => (oci::http::over_socket(path).map_err(failed)?, "http://localhost".to_owned()),
            Way::Tcp { url, tls } => {
                let clients = Clients::new(USER_AGENT, &[]).map_err(failed)?;
                let clients = match tls {
                    Some(tls) => clients.trusting(trusted(tls, &name)?),
                    None => clients,
                };
                let parsed = Url::parse(url).map_err(|error| Failure::new(format!("{name}: {error}")))?;
                (clients.of(&parsed).map_err(failed)?.clone(), url.clone())
            }
            Way::Program(_) | Way::Ctr { .. } => return Err(Failure::new(format!("{name} has no API"))),
        };
        Ok(Self { client, base, name, patience })
    }

    /// Which engine answers, and what it makes of layers.
    pub async fn identify(&self) -> Result<(EngineKind, Keeps), Absent> {
        let ping = self.question(Method::GET, "/_ping", &[]).await?;
        let unusable = |failure| Absent::Unusable(failure);
        if ping.headers().contains_key("libpod-api-version") {
            return Ok((EngineKind::Podman, Keeps::Trees));
        }
        if !ping.status().is_success() {
            return Err(unusable(self.refused("/_ping", ping).await));
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Info {
            #[serde(default)]
            driver_status: Option<Vec<(String, String)>>,
        }
        let info: Option<Info> = self.get("/info").await.map_err(unusable)?;
        let status = info.and_then(|info| info.driver_status).unwrap_or_default();
        let is_containerd =
            |(key, value): &(String, String)| key == "driver-type" && value.starts_with("io.containerd.snapshotter");
        let keeps = if status.iter().any(is_containerd) { Keeps::Blobs } else { Keeps::Trees };
        Ok((EngineKind::Docker, keeps))
    }

    /// Loads an archive. `moved` is told how much was sent, now and then.
    pub async fn load(&self, archive: Archive, moved: &dyn Fn(&Sent)) -> Result<(), Unloaded> {
        let sent = archive.sent.clone();
        let (pieces, writing) = archive.split();
        let request = self.client.post(format!("{}/images/load?quiet=0", self.base));
        let request = request.header(header::CONTENT_TYPE, "application/x-tar").body(Body::wrap_stream(pieces));
        let loaded = self.upload(request, &sent, moved).await;
        // An engine that has said enough may leave the rest of the archive where it is.
        if let Some(failure) = writing.failure().await {
            return Err(failure.into());
        }
        loaded
    }

    async fn upload(
        &self,
        request: reqwest::RequestBuilder,
        sent: &Arc<Sent>,
        moved: &dyn Fn(&Sent),
    ) -> Result<(), Unloaded> {
        let mut response = self.watched(request.send(), sent, moved).await??;
        if !response.status().is_success() {
            let status = response.status();
            let said = self.body(response, 64 << 10).await.ok().and_then(|body| words(&body));
            return Err(Unloaded::Refused(said.unwrap_or_else(|| format!("its answer is {status}"))));
        }
        let mut answer = Answer::default();
        let read = loop {
            match self.watched(response.chunk(), sent, moved).await?? {
                Some(bytes) => {
                    if let Err(refusal) = answer.push(&bytes) {
                        break Err(refusal);
                    }
                }
                None => break answer.end(),
            }
        };
        read.map_err(|refusal| match refusal {
            Refusal::Said(words) => Unloaded::Refused(words),
            Refusal::Strange(reason) => Failure::new(format!("{}: {reason}", self.name)).into(),
        })
    }

    /// Waits as long as something moves.
    async fn watched<T>(
        &self,
        work: impl Future<Output = Result<T, reqwest::Error>>,
        sent: &Sent,
        moved: &dyn Fn(&Sent),
    ) -> Result<Result<T, Unloaded>, Failure> {
        let mut work = std::pin::pin!(work);
        let (mut bytes, mut since) = (sent.bytes(), Instant::now());
        loop {
            tokio::select! {
                biased;
                done = &mut work => {
                    return Ok(done.map_err(|error| self.broken(&error).into()));
                }
                () = sleep(TICK) => {}
            }
            if sent.bytes() != bytes {
                (bytes, since) = (sent.bytes(), Instant::now());
                moved(sent);
            }
            let (patience, what) = match sent.is_whole() {
                true => (self.patience.work, "says nothing of the image that it was sent"),
                false => (self.patience.upload, "takes nothing of the image"),
            };
            if since.elapsed() >= patience {
                return Err(Failure::new(format!("{} {what}, for {} s now", self.name, patience.as_secs()))
                    .help("look whether it is well; the build is kept, and doing the same again only loads"));
            }
        }
    }

    /// A short answer; `None`: there is no such thing.
    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Failure> {
        let response = self.question(Method::GET, path, &[]).await.map_err(Failure::from)?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if !response.status().is_success() {
            return Err(self.refused(path, response).await);
        }
        let body = self.body(response, ANSWER_MAX_BYTES).await?;
        serde_json::from_slice(&body).map(Some).map_err(|error| {
            Failure::new(format!("{}: its answer to `GET {path}` is not understood", self.name)).note(error.to_string())
        })
    }

    async fn question(&self, method: Method, path: &str, query: &[(&str, &str)]) -> Result<Response, Absent> {
        let asking = async {
            let ask = || self.client.request(method.clone(), format!("{}{path}", self.base)).query(query).send();
            let mut answer = ask().await;
            for _ in 1..ASKED_MAX {
                match &answer {
                    Err(error) if oci::http::is_unsent(error) => answer = ask().await,
                    _ => break,
                }
            }
            answer
        };
        match timeout(self.patience.question, asking).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_connect() => Err(self.nobody(&error)),
            Ok(Err(error)) => Err(Absent::Unusable(self.broken(&error))),
            Err(_) => Err(Absent::Unusable(self.silent())),
        }
    }

    /// What failed to be connected to: nobody is there, or somebody who does not want us.
    fn nobody(&self, error: &reqwest::Error) -> Absent {
        let why = innermost(error);
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            if let Some(io) = error.downcast_ref::<std::io::Error>()
                && io.kind() == std::io::ErrorKind::PermissionDenied
            {
                let failure = Failure::new(format!("{} may not be used by this user", self.name)).note(why);
                return Absent::Unusable(
                    failure.help("join its group (`usermod --append --groups docker NAME`), or use sudo"),
                );
            }
            cause = error.source();
        }
        if oci::http::is_certificate(error) {
            let failure = Failure::new(format!("{}: its certificate is not trusted", self.name)).note(why);
            return Absent::Unusable(failure.help("`DOCKER_CERT_PATH` names the folder with its `ca.pem`"));
        }
        if oci::http::is_own_certificate(error) {
            return Absent::Unusable(self.broken(error));
        }
        Absent::Nobody(why)
    }

    /// Bytes of a body, no more than are wanted.
    async fn body(&self, mut response: Response, limit_bytes: usize) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        loop {
            match timeout(self.patience.question, response.chunk()).await {
                Ok(Ok(Some(bytes))) => body.extend_from_slice(&bytes),
                Ok(Ok(None)) => return Ok(body),
                Ok(Err(error)) => return Err(self.broken(&error)),
                Err(_) => return Err(self.silent()),
            }
            if body.len() > limit_bytes {
                return Err(Failure::new(format!("{}: its answer is longer than {limit_bytes} bytes", self.name)));
            }
        }
    }

    async fn refused(&self, path: &str, response: Response) -> Failure {
        let status = response.status();
        let failure = Failure::new(format!("{} refuses `{path}` with {status}", self.name));
        match self.body(response, 64 << 10).await.ok().and_then(|body| words(&body)) {
            Some(words) => failure.note(words),
            None => failure,
        }
    }

    fn silent(&self) -> Failure {
        Failure::new(format!("{} does not answer within {} s", self.name, self.patience.question.as_secs()))
            .help("look whether it is well")
    }

    fn broken(&self, error: &reqwest::Error) -> Failure {
        if oci::http::is_own_certificate(error) {
            return Failure::new(format!("{} wants to see a certificate that it knows", self.name))
                .note(innermost(error))
                .help("`DOCKER_CERT_PATH` names the folder with the client's `cert.pem` and `key.pem`");
        }
        Failure::new(format!("the connection to {} broke", self.name)).note(innermost(error))
    }
}

impl Engine for Api {
    fn name(&self) -> &str {
        &self.name
    }

    async fn image(&self, what: &str) -> Result<Option<Seen>, Failure> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Image {
            id: String,
            #[serde(default, rename = "RootFS")]
            root: Root,
        }
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Root {
            #[serde(default)]
            layers: Option<Vec<String>>,
        }
        let image: Option<Image> = self.get(&format!("/images/{what}/json")).await?;
        Ok(image.map(|image| Seen::of(&image.id, &image.root.layers.unwrap_or_default())))
    }

    async fn look(&self, ids: &[String]) -> Result<Vec<Seen>, Failure> {
        let looks = futures_util::stream::iter(ids.iter().map(|id| self.image(id))).buffered(QUESTIONS_AT_ONCE);
        let seen: Vec<Option<Seen>> = looks.try_collect().await?;
        Ok(seen.into_iter().flatten().collect())
    }

    async fn images(&self) -> Result<Vec<String>, Failure> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Image {
            id: String,
        }
        let images: Option<Vec<Image>> = self.get("/images/json").await?;
        // It becomes a part of a path.
        let is_id = |id: &String| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b':');
        Ok(images.unwrap_or_default().into_iter().map(|image| image.id).filter(is_id).collect())
    }

    async fn take(&self, archive: Archive, moved: &dyn Fn(&Sent)) -> Result<(), Unloaded> {
        self.load(archive, moved).await
    }

    async fn tag(&self, id: &Digest, name: &Reference) -> Result<(), Failure> {
        let repository = format!("{}/{}", name.registry(), name.repository());
        let path = format!("/images/{id}/tag");
        let query = [("repo", &*repository), ("tag", name.tag().unwrap_or("latest"))];
        let response = self.question(Method::POST, &path, &query).await.map_err(Failure::from)?;
        if response.status().is_success() {
            return Ok(());
        }
        Err(self.refused(&path, response).await)
    }
}

impl From<Absent> for Failure {
    fn from(absent: Absent) -> Self {
        match absent {
            Absent::Nobody(why) => Self::new(why),
            Absent::Unusable(failure) => failure,
        }
    }
}

/// The layers of an image as an engine lists them; what is none ends the list.
pub fn diff_ids(layers: &[String]) -> Vec<DiffId> {
    layers.iter().map_while(|layer| layer.parse().ok().map(DiffId)).collect()
}

/// The cause of all causes, in its own words.
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    oci::http::harmless(&cause.to_string())
}

/// What stands in a folder of certificates.
fn trusted(tls: &Tls, name: &str) -> Result<Trusted, Failure> {
    let read = |file: &str| -> Result<Option<Vec<u8>>, Failure> {
        let path = tls.directory.join(file);
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(unreadable(&path, name, &error)),
        }
    };
    let wrong = |file: &str, error: reqwest::Error| unreadable(&tls.directory.join(file), name, &error);
    let mut trusted = Trusted { unverified: !tls.verify, ..Trusted::default() };
    if let Some(pem) = read("ca.pem")? {
        trusted.certificates = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| wrong("ca.pem", error))?;
    }
    if let (Some(mut pem), Some(certificate)) = (read("key.pem")?, read("cert.pem")?) {
        pem.push(b'\n');
        pem.extend(certificate);
        trusted.identity = Some(reqwest::Identity::from_pem(&pem).map_err(|error| wrong("cert.pem", error))?);
    }
    Ok(trusted)
}

fn unreadable(path: &Path, name: &str, error: &dyn std::error::Error) -> Failure {
    Failure::new(format!("`{}`, for {name}, cannot be used", path.display())).note(error.to_string())
}
