//! A registry for tests, in this process: enough of distribution-spec to pull from and push to, and faults on demand.
//!
//! It speaks HTTP/1.1 from plain threads, listens on loopback, and is gone with its [`Registry`]. Nothing but the
//! standard library is used, so that any crate's tests can include this folder; the digest function is theirs. A
//! [`Registry::fault`] sees each request and the answer it would get, and may change the answer: status, headers,
//! body, where the connection is cut, where it stands still. Deliberately absent: TLS (give a wrapper to
//! [`Registry::start_with`]). [`http`] holds what goes over the wire, [`uploads`] sessions and chunks; [`proxy`]
//! makes trouble in front of any registry, [`profile`] has the ways of four that everybody uses.

#![allow(dead_code)]

pub mod http;
pub mod profile;
pub mod proxy;
mod uploads;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

pub use http::{Connection, Request, Response};
use http::{form, read_body, read_head};
pub use uploads::Chunks;
use uploads::Sessions;

/// `sha256:<hex>` of bytes.
pub type DigestOf = fn(&[u8]) -> String;
/// Makes a connection of an accepted socket.
pub type Wrap = Arc<dyn Fn(TcpStream) -> io::Result<Box<dyn Connection>> + Send + Sync>;
type Change = Box<dyn FnMut(&Request, &mut Response) + Send>;
/// Of a request and the repository it is for: what is said in the place of an answer.
type Guard = Box<dyn Fn(&Request, &str) -> Option<Response> + Send>;
/// Where a blob is, by its digest.
type Elsewhere = Box<dyn Fn(&str) -> String + Send>;

/// Who may do what.
#[derive(Clone, Debug, Default)]
pub enum Auth {
    /// Everyone everything.
    #[default]
    Open,
    /// Name and password, for everything.
    Basic(String, String),
    /// A token from `realm`, with the scope that a request needs.
    Bearer { realm: String, service: String },
}

#[derive(Default)]
struct State {
    auth: Auth,
    /// Whom the token server at `/token` knows; others get tokens for pulling only.
    user: Option<(String, String)>,
    /// `refresh_token` that the token server exchanges.
    identity: Option<String>,
    tokens_given: usize,
    revoked: BTreeSet<String>,
    /// By repository.
    blobs: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// By repository, then tag or digest.
    manifests: BTreeMap<String, BTreeMap<String, (String, Vec<u8>)>>,
    sessions: usize,
    open_sessions: Sessions,
    chunks: Chunks,
    /// Whether `If-Match` and `If-None-Match` are heeded.
    conditions: bool,
    /// The session whose last chunk was shorter than allowed.
    short: Option<String>,
    cuts: Vec<CutUpload>,
    mounts: bool,
    guards: Vec<Guard>,
    /// Where readers of blobs are sent.
    elsewhere: Option<Elsewhere>,
    /// Whose tokens it gives, if not its own.
    tokens_of: Option<Arc<Shared>>,
    seen: Vec<Request>,
    faults: Vec<Fault>,
    sockets: Vec<TcpStream>,
    stopping: bool,
}

/// Requests whose connections are cut while their bodies come.
struct CutUpload {
    method: &'static str,
    part: String,
    times: usize,
    after: usize,
}

struct Fault {
    method: &'static str,
    part: String,
    times: usize,
    /// Whether the registry does what it was asked before its answer is changed.
    done: bool,
    change: Change,
}

struct Shared {
    state: Mutex<State>,
    stop: Condvar,
    digest: DigestOf,
}

/// A running registry.
pub struct Registry {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Registry {
    /// Starts on a free port of 127.0.0.1.
    pub fn start(digest: DigestOf) -> Self {
        Self::start_with(digest, Arc::new(|socket| Ok(Box::new(socket))))
    }

    /// The same with connections of another kind.
    pub fn start_with(digest: DigestOf, wrap: Wrap) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let state = Mutex::new(State { mounts: true, ..State::default() });
        let shared = Arc::new(Shared { state, stop: Condvar::new(), digest });
        let inner = shared.clone();
        let acceptor = std::thread::spawn(move || {
            let mut serving = Vec::new();
            for socket in listener.incoming() {
                let Ok(socket) = socket else { break };
                {
                    let mut state = inner.lock();
                    if state.stopping {
                        break;
                    }
                    state.sockets.push(socket.try_clone().expect("a socket can be cloned"));
                }
                let (shared, wrap) = (inner.clone(), wrap.clone());
                serving.push(std::thread::spawn(move || {
                    // A client that hangs up is a client's right.
                    let closing = socket.try_clone();
                    let _ = wrap(socket).and_then(|connection| shared.serve(connection));
                    if let Ok(socket) = closing {
                        let _ = socket.shutdown(Shutdown::Both);
                    }
                }));
            }
            for thread in serving {
                thread.join().expect("the test registry does not panic");
            }
        });
        Self { address, shared, acceptor: Some(acceptor) }
    }

    /// `127.0.0.1:port`
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// `port`
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Asks for proof from now on.
    pub fn require(&self, auth: Auth) {
        self.shared.lock().auth = auth;
    }

    /// Whom the token server at `/token` knows.
    pub fn know_user(&self, name: &str, password: &str) {
        self.shared.lock().user = Some((name.into(), password.into()));
    }

    /// What the token server at `/token` takes as identity token.
    pub fn know_identity(&self, token: &str) {
        self.shared.lock().identity = Some(token.into());
    }

    /// No token given so far is good any more.
    pub fn revoke_tokens(&self) {
        let mut state = self.shared.lock();
        let given = state.tokens_given;
        state.revoked.extend((0..=given).map(|n| n.to_string()));
    }

    /// Whether mounts are done (201) or answered with a session (202).
    pub fn allow_mounts(&self, allow: bool) {
        self.shared.lock().mounts = allow;
    }

    /// How chunks are taken from now on.
    pub fn take_chunks(&self, chunks: Chunks) {
        self.shared.lock().chunks = chunks;
    }

    /// Heeds conditions of manifests from now on, as few registries do.
    pub fn heed_conditions(&self) {
        self.shared.lock().conditions = true;
    }

    /// Cuts the connections of the next `times` requests with this method and `part` in their path after so many bytes
    /// of their bodies. A chunk's bytes until then are kept.
    pub fn cut_uploads(&self, method: &'static str, part: &str, times: usize, after: usize) {
        self.shared.lock().cuts.push(CutUpload { method, part: part.into(), times, after });
    }

    /// Refuses some of what would be answered, once proof was given.
    pub fn guard(&self, guard: impl Fn(&Request, &str) -> Option<Response> + Send + 'static) {
        self.shared.lock().guards.push(Box::new(guard));
    }

    /// Sends who reads a blob to another address.
    pub fn send_blobs_to(&self, place: impl Fn(&str) -> String + Send + 'static) {
        self.shared.lock().elsewhere = Some(Box::new(place));
    }

    /// Is the token server of another registry from now on.
    pub fn give_tokens_of(&self, registry: &Registry) {
        self.shared.lock().tokens_of = Some(registry.shared.clone());
    }

    /// Every tag, of all repositories.
    pub fn tags(&self) -> Vec<String> {
        let state = self.shared.lock();
        state.manifests.values().flat_map(|names| names.keys().filter(|name| !name.contains(':')).cloned()).collect()
    }

    /// All open sessions are lost.
    pub fn lose_sessions(&self) {
        self.shared.lock().open_sessions.clear();
    }

    /// Puts a blob there and returns its digest.
    pub fn put_blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = (self.shared.digest)(bytes);
        self.shared.lock().blobs.entry(repository.into()).or_default().insert(digest.clone(), bytes.into());
        digest
    }

    /// Puts a manifest or index there, by digest and under a tag, and returns its digest.
    pub fn put_manifest(&self, repository: &str, tag: &str, media_type: &str, bytes: &[u8]) -> String {
        let digest = (self.shared.digest)(bytes);
        let mut state = self.shared.lock();
        let manifests = state.manifests.entry(repository.into()).or_default();
        for name in [tag, digest.as_str()] {
            manifests.insert(name.into(), (media_type.into(), bytes.into()));
        }
        digest
    }

    /// A blob that is there.
    pub fn blob(&self, repository: &str, digest: &str) -> Option<Vec<u8>> {
        self.shared.lock().blobs.get(repository)?.get(digest).cloned()
    }

    /// A manifest that is there.
    pub fn manifest(&self, repository: &str, name: &str) -> Option<Vec<u8>> {
        self.shared.lock().manifests.get(repository)?.get(name).map(|(_, bytes)| bytes.clone())
    }

    /// Every request so far, refused ones included.
    pub fn seen(&self) -> Vec<Request> {
        self.shared.lock().seen.clone()
    }

    /// `METHOD path`, of every request so far.
    pub fn log(&self) -> Vec<String> {
        self.seen().iter().map(|request| format!("{} {}", request.method, request.path)).collect()
    }

    /// How many requests so far have this method and `part` in their path.
    pub fn count(&self, method: &str, part: &str) -> usize {
        self.seen().iter().filter(|request| request.method == method && request.path.contains(part)).count()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        self.shared.lock().seen.clear();
    }

    /// Changes the answers to the next `times` requests with this method (empty: any) and `part` in their path.
    pub fn fault(
        &self,
        method: &'static str,
        part: &str,
        times: usize,
        change: impl FnMut(&Request, &mut Response) + Send + 'static,
    ) {
        let fault = Fault { method, part: part.into(), times, done: true, change: Box::new(change) };
        self.shared.lock().faults.push(fault);
    }

    /// The same, but the registry does nothing for these requests; the answer to change is an empty 500.
    pub fn refuse(
        &self,
        method: &'static str,
        part: &str,
        times: usize,
        change: impl FnMut(&Request, &mut Response) + Send + 'static,
    ) {
        let fault = Fault { method, part: part.into(), times, done: false, change: Box::new(change) };
        self.shared.lock().faults.push(fault);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.stopping = true;
            for socket in &state.sockets {
                // Already closed ones say so.
                let _ = socket.shutdown(Shutdown::Both);
            }
        }
        self.shared.stop.notify_all();
        // Wakes the acceptor.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, connection: Box<dyn Connection>) -> io::Result<()> {
        let mut reader = BufReader::new(connection);
        loop {
            // A TLS greeting begins with byte 22; a method with a capital.
            match reader.fill_buf()?.first() {
                None => return Ok(()),
                Some(first) if first.is_ascii_uppercase() => {}
                Some(_) => return reader.get_mut().write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"),
            }
            let mut request = read_head(&mut reader)?;
            if let Some(after) = self.cut(&request) {
                request.body = vec![0; after];
                reader.read_exact(&mut request.body)?;
                let mut state = self.lock();
                if let (Some(rest), "PATCH") = (request.path.split_once("/uploads/"), request.method.as_str()) {
                    state.keep_part(rest.1, &request.body);
                }
                state.seen.push(request);
                return Ok(());
            }
            read_body(&mut reader, &mut request)?;
            let response = self.respond(&request);
            let until_stopped = || drop(self.stop.wait_while(self.lock(), |state| !state.stopping));
            if !response.write(reader.get_mut(), request.method == "HEAD", until_stopped)? {
                return Ok(());
            }
        }
    }

    /// After how many bytes of the body its connection is cut.
    fn cut(&self, request: &Request) -> Option<usize> {
        let mut state = self.lock();
        let hit = state
            .cuts
            .iter_mut()
            .find(|cut| cut.times > 0 && cut.method == request.method && request.path.contains(&cut.part))?;
        hit.times -= 1;
        Some(hit.after)
    }

    /// The answer, faults included.
    fn respond(&self, request: &Request) -> Response {
        let mut state = self.lock();
        state.seen.push(request.clone());
        let hit = state.faults.iter().position(|fault| {
            fault.times > 0
                && (fault.method.is_empty() || fault.method == request.method)
                && request.path.contains(&fault.part)
        });
        let Some(hit) = hit else { return self.answer(&mut state, request) };
        state.faults[hit].times -= 1;
        let mut response = if state.faults[hit].done { self.answer(&mut state, request) } else { Response::new(500) };
        (state.faults[hit].change)(request, &mut response);
        response
    }

    /// The answer of a registry in good health.
    fn answer(&self, state: &mut State, request: &Request) -> Response {
        if matches!(request.path.as_str(), "/token" | "/service/token") {
            return match state.tokens_of.clone() {
                Some(other) => other.lock().token(request),
                None => state.token(request),
            };
        }
        let Some(rest) = request.path.strip_prefix("/v2/") else {
            return Response::error(404, "NOT_FOUND", "no such path");
        };
        let (repository, place) = split(rest);
        if let Some(refusal) = state.refuse(request, repository) {
            return refusal;
        }
        if let Some(refusal) = state.guards.iter().find_map(|guard| guard(request, repository)) {
            return refusal;
        }
        match (request.method.as_str(), place) {
            ("GET", Place::Root) => Response::new(200).body("{}"),
            ("GET" | "HEAD", Place::Manifest(name)) => {
                match state.manifests.get(repository).and_then(|manifests| manifests.get(name)) {
                    Some((media_type, bytes)) => Response::new(200)
                        .with("Content-Type", media_type.clone())
                        .with("Docker-Content-Digest", (self.digest)(bytes))
                        .with("ETag", format!("\"{}\"", (self.digest)(bytes)))
                        .body(bytes.clone()),
                    None => Response::error(404, "MANIFEST_UNKNOWN", "manifest unknown"),
                }
            }
            ("PUT", Place::Manifest(name)) => {
                let digest = (self.digest)(&request.body);
                let media_type = request.header("content-type").unwrap_or_default().to_owned();
                if state.conditions
                    && !holds(request, state.manifests.get(repository).and_then(|all| all.get(name)), self.digest)
                {
                    return Response::error(412, "PRECONDITION_FAILED", "it is another by now");
                }
                let manifests = state.manifests.entry(repository.into()).or_default();
                for name in [name, digest.as_str()] {
                    manifests.insert(name.into(), (media_type.clone(), request.body.clone()));
                }
                Response::new(201)
                    .with("Location", format!("/v2/{repository}/manifests/{digest}"))
                    .with("Docker-Content-Digest", digest)
            }
            ("GET" | "HEAD", Place::Blob(digest)) => {
                match state.blobs.get(repository).and_then(|all| all.get(digest)) {
                    Some(_) if request.method == "GET" && state.elsewhere.is_some() => {
                        let place = state.elsewhere.as_ref().map(|place| place(digest)).unwrap_or_default();
                        Response::new(307).with("Location", place)
                    }
                    Some(bytes) => blob(request, bytes),
                    None => Response::error(404, "BLOB_UNKNOWN", "blob unknown"),
                }
            }
            ("POST", Place::Upload(_)) => {
                if let (Some(digest), Some(from), true) = (request.param("mount"), request.param("from"), state.mounts)
                    && let Some(bytes) = state.blobs.get(&from).and_then(|blobs| blobs.get(&digest)).cloned()
                {
                    state.blobs.entry(repository.into()).or_default().insert(digest.clone(), bytes);
                    return Response::new(201).with("Location", format!("/v2/{repository}/blobs/{digest}"));
                }
                state.open_session(repository)
            }
            (_, Place::Upload(session)) => state.upload(request, repository, session, self.digest),
            _ => Response::error(405, "UNSUPPORTED", "not here"),
        }
    }
}

impl State {
    /// What an unauthorised request is told.
    fn refuse(&self, request: &Request, repository: &str) -> Option<Response> {
        let challenge = |text: String| {
            Some(Response::error(401, "UNAUTHORIZED", "authentication required").with("WWW-Authenticate", text))
        };
        match &self.auth {
            Auth::Open => None,
            Auth::Basic(name, password) => {
                if request.basic().as_ref() == Some(&(name.clone(), password.clone())) {
                    return None;
                }
                challenge("Basic realm=\"test\"".to_owned())
            }
            Auth::Bearer { realm, service } => {
                let push = !matches!(request.method.as_str(), "GET" | "HEAD");
                let action = if push { "push" } else { "pull" };
                let token = request.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
                if let Some((number, scopes)) = token.and_then(|token| token.split_once('.')) {
                    let granted = |scope: &str| {
                        let mut parts = scope.split(':');
                        parts.next() == Some("repository")
                            && parts.next() == Some(repository)
                            && parts.next().is_some_and(|actions| actions.split('+').any(|a| a == action))
                    };
                    let is_enough = repository.is_empty() || scopes.split('|').any(granted);
                    if !self.revoked.contains(number) && is_enough {
                        return None;
                    }
                }
                let actions = if push { "pull,push" } else { "pull" };
                challenge(format!(
                    "Bearer realm=\"{realm}\",service=\"{service}\",scope=\"repository:{repository}:{actions}\""
                ))
            }
        }
    }

    /// The token server. A token is a number and the scopes it is for.
    fn token(&mut self, request: &Request) -> Response {
        let known = match request.method.as_str() {
            "POST" => {
                let body = String::from_utf8_lossy(&request.body).into_owned();
                let form = form(&body);
                let field = |name: &str| form.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
                if field("grant_type").as_deref() != Some("refresh_token")
                    || self.identity.is_none()
                    || field("refresh_token") != self.identity
                {
                    return Response::new(400).body("{\"error\":\"invalid_grant\"}");
                }
                let scopes = field("scope").unwrap_or_default();
                return self.grant(scopes.split(' ').map(str::to_owned).collect(), true, "access_token");
            }
            _ => match request.basic() {
                None => false,
                given if given == self.user => true,
                _ => return Response::new(401).body("{\"details\":\"incorrect username or password\"}"),
            },
        };
        self.grant(request.params("scope"), known, "token")
    }

    fn grant(&mut self, scopes: Vec<String>, push: bool, field: &str) -> Response {
        self.tokens_given += 1;
        let scopes: Vec<String> = scopes
            .iter()
            .map(|scope| if push { scope.replace(',', "+") } else { scope.replace(",push", "").replace(',', "+") })
            .collect();
        let token = format!("{}.{}", self.tokens_given, scopes.join("|"));
        Response::new(200).body(format!("{{\"{field}\":\"{token}\",\"expires_in\":300}}"))
    }
}

/// Whether the conditions of a request hold, where a name means this.
fn holds(request: &Request, now: Option<&(String, Vec<u8>)>, digest: DigestOf) -> bool {
    let tag = now.map(|(_, bytes)| format!("\"{}\"", digest(bytes)));
    let wanted = request.header("if-match").is_none_or(|wanted| tag.as_deref() == Some(wanted));
    wanted && (request.header("if-none-match") != Some("*") || tag.is_none())
}

enum Place<'a> {
    Root,
    Manifest(&'a str),
    Blob(&'a str),
    Upload(&'a str),
    Elsewhere,
}

fn split(rest: &str) -> (&str, Place<'_>) {
    if rest.is_empty() {
        return ("", Place::Root);
    }
    if let Some((repository, session)) = rest.split_once("/blobs/uploads/") {
        return (repository, Place::Upload(session));
    }
    if let Some((repository, digest)) = rest.split_once("/blobs/") {
        return (repository, Place::Blob(digest));
    }
    if let Some((repository, name)) = rest.split_once("/manifests/") {
        return (repository, Place::Manifest(name));
    }
    (rest, Place::Elsewhere)
}

fn blob(request: &Request, bytes: &[u8]) -> Response {
    let range = request.header("range").and_then(|value| value.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    match range {
        Some(start) if start < bytes.len() => Response::new(206)
            .with("Content-Range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len()))
            .body(&bytes[start..]),
        Some(_) => Response::new(416).with("Content-Range", format!("bytes */{}", bytes.len())),
        None => Response::new(200).body(bytes),
    }
}
