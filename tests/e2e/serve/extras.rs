//! What a client of ours has beside its files: a standard input, a way with registries, blobs.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use api::filesync::auth_server::Auth;
use api::filesync::{
    CredentialsRequest, CredentialsResponse, FetchTokenRequest, FetchTokenResponse, GetTokenAuthorityRequest,
    GetTokenAuthorityResponse, VerifyTokenAuthorityRequest, VerifyTokenAuthorityResponse,
};
use api::upload;
use api::upload::upload_server::Upload;
use futures_util::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::shelf::Shelf;

/// What else a client has.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    /// Its standard input.
    pub stream: Option<Arc<Pipe>>,
    /// Its way with registries.
    pub login: Option<Arc<Login>>,
    /// Its blobs.
    pub shelf: Option<Arc<Shelf>>,
}

/// What comes through a pipe; `None`: it breaks off there.
pub type Pieces = Vec<Option<Vec<u8>>>;

/// A stream by its name, like a context on standard input: it is read once.
#[derive(Debug)]
pub struct Pipe {
    name: String,
    pieces: Mutex<Option<Pieces>>,
}

impl Pipe {
    pub fn new(name: &str, pieces: Pieces) -> Arc<Self> {
        Arc::new(Self { name: name.to_owned(), pieces: Mutex::new(Some(pieces)) })
    }
}

/// How a client proves itself to registries.
#[derive(Debug)]
pub struct Login {
    /// The authority that vouches for token servers.
    pub authority: PathBuf,
    /// Name and password.
    pub user: (String, String),
    /// What it was asked for: `token HOST SCOPES`, `password HOST`.
    pub asked: Mutex<Vec<String>>,
}

#[tonic::async_trait]
impl Upload for Extras {
    type PullStream = Pin<Box<dyn Stream<Item = Result<upload::BytesMessage, Status>> + Send>>;

    async fn pull(
        &self,
        request: Request<Streaming<upload::BytesMessage>>,
    ) -> Result<Response<Self::PullStream>, Status> {
        let path = request.metadata().get("urlpath").and_then(|path| path.to_str().ok()).unwrap_or_default();
        // As docker buildx finds it.
        let name = path.rsplit('/').next().unwrap_or_default();
        let pipe = self.stream.as_ref().filter(|pipe| pipe.name == name);
        let Some(pieces) = pipe.and_then(|pipe| pipe.pieces.lock().expect("nobody panicked").take()) else {
            return Err(Status::not_found(format!("there is no stream {path}")));
        };
        let pieces = pieces.into_iter().map(|piece| match piece {
            Some(piece) => Ok(upload::BytesMessage { data: piece.into() }),
            None => Err(Status::aborted("the pipe broke")),
        });
        Ok(Response::new(futures_util::stream::iter(pieces).boxed()))
    }
}

impl Extras {
    fn login(&self, what: String) -> Result<&Login, Status> {
        let login = self.login.as_ref().ok_or_else(|| Status::unimplemented("nobody logged in"))?;
        login.asked.lock().expect("nobody panicked").push(what);
        Ok(login)
    }
}

#[tonic::async_trait]
impl Auth for Extras {
    async fn credentials(&self, request: Request<CredentialsRequest>) -> Result<Response<CredentialsResponse>, Status> {
        let login = self.login(format!("password {}", request.into_inner().host))?;
        let (username, secret) = login.user.clone();
        Ok(Response::new(CredentialsResponse { username, secret }))
    }

    async fn fetch_token(&self, request: Request<FetchTokenRequest>) -> Result<Response<FetchTokenResponse>, Status> {
        let FetchTokenRequest { host, realm, service, scopes, .. } = request.into_inner();
        let login = self.login(format!("token {host} {}", scopes.join(" ")))?;
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["--silent", "--fail", "--get", "--cacert"]).arg(&login.authority);
        curl.arg("--user").arg(format!("{}:{}", login.user.0, login.user.1));
        for (name, value) in [("service", &service)].into_iter().chain(scopes.iter().map(|scope| ("scope", scope))) {
            curl.arg("--data-urlencode").arg(format!("{name}={value}"));
        }
        let answer = curl.arg(&realm).output().await.expect("curl is installed (tests/setup.sh)");
        let answer: serde_json::Value = serde_json::from_slice(&answer.stdout)
            .map_err(|error| Status::unauthenticated(format!("{realm} gave no token: {error}")))?;
        let token = answer["token"].as_str().unwrap_or_default().to_owned();
        Ok(Response::new(FetchTokenResponse { token, expires_in: 300, issued_at: 0 }))
    }

    async fn get_token_authority(
        &self,
        _: Request<GetTokenAuthorityRequest>,
    ) -> Result<Response<GetTokenAuthorityResponse>, Status> {
        Err(Status::unavailable("nobody asks for it"))
    }

    async fn verify_token_authority(
        &self,
        _: Request<VerifyTokenAuthorityRequest>,
    ) -> Result<Response<VerifyTokenAuthorityResponse>, Status> {
        Err(Status::unavailable("nobody asks for it"))
    }
}
