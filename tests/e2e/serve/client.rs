//! A client of ours for `rbuild serve`, which can be told to misbehave: a session that sends what it is told to, and
//! calls in any order.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::content::content_server::ContentServer;
use api::control::control_client::ControlClient;
use api::control::{BytesMessage, SolveRequest};
use api::filesync::auth_server::AuthServer;
use api::filesync::file_send_server::{FileSend, FileSendServer};
use api::filesync::file_sync_server::{FileSync, FileSyncServer};
use api::fsutil::packet::PacketType;
use api::fsutil::{Packet, Stat};
use api::upload::upload_server::UploadServer;
use futures_util::{Stream, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

use super::extras::Extras;
use super::shelf::Shelves;
use crate::support::Store;

/// A daemon that ends with this value.
pub struct Daemon {
    child: Child,
    /// Where it serves.
    pub socket: PathBuf,
    /// The line that says so.
    pub serving: String,
    /// Its lines, until nobody holds its standard streams any more.
    lines: Mutex<std::sync::mpsc::Receiver<String>>,
}

/// Long for what takes a moment.
const LONG: Duration = Duration::from_secs(60);

impl Daemon {
    /// Starts one on a store, and waits until it says that it serves.
    pub fn start(store: &Store) -> Self {
        Self::start_with(store, &[])
    }

    /// The same, with more words on its command line.
    pub fn start_with(store: &Store, words: &[&str]) -> Self {
        let socket = store.path("sock");
        let mut command = store.command(["serve".as_ref(), "--addr".as_ref(), address(&socket).as_os_str()]);
        command.args(words);
        let (reader, writer) = std::io::pipe().expect("there are descriptors");
        command.stdout(writer.try_clone().expect("there are descriptors")).stderr(writer);
        let child = command.spawn().expect("the binary starts");
        // It holds this side's ends.
        drop(command);
        let (tell, lines) = std::sync::mpsc::channel();
        // Whoever prints must not wait for a reader.
        std::thread::spawn(move || {
            for line in BufReader::new(reader).lines().map_while(Result::ok) {
                eprintln!("daemon: {line}");
                // The test may be over.
                let _ = tell.send(line);
            }
        });
        let mut daemon = Self { child, socket, serving: String::new(), lines: Mutex::new(lines) };
        daemon.serving = daemon.says("serving on ");
        daemon
    }

    /// Waits until it says something, and returns the line.
    pub fn says(&self, words: &str) -> String {
        let lines = self.lines.lock().expect("nobody panicked");
        loop {
            let line = lines.recv_timeout(LONG).unwrap_or_else(|error| panic!("it never said {words}: {error}"));
            if line.contains(words) {
                return line;
            }
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop, and returns its exit code.
    pub fn stop(self) -> Option<i32> {
        self.ask_to_stop();
        self.wait()
    }

    /// Asks it to stop.
    pub fn ask_to_stop(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    }

    /// Its exit code, when it has ended, and nobody holds its standard streams.
    pub fn wait(mut self) -> Option<i32> {
        let code = self.child.wait().expect("it is our child").code();
        let lines = self.lines.lock().expect("nobody panicked");
        loop {
            match lines.recv_timeout(LONG) {
                Ok(_) => {}
                Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("a child holds its standard streams"),
            }
        }
        drop(lines);
        code
    }

    /// Ends it as nothing else does.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.wait();
    }

    /// A connection.
    pub async fn connect(&self) -> Channel {
        let socket = self.socket.clone();
        let connector = tower::service_fn(move |_| {
            let socket = socket.clone();
            async move { tokio::net::UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        endpoint.connect_with_connector(connector).await.expect("it serves")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address(socket: &std::path::Path) -> PathBuf {
    format!("unix://{}", socket.display()).into()
}

/// What a client has: a Dockerfile, and the list of its context as it says it.
#[derive(Clone, Debug, Default)]
pub struct Offer {
    pub dockerfile: String,
    pub context: Vec<Entry>,
}

/// One entry of a list, and the bytes that follow when somebody asks.
#[derive(Clone, Debug)]
pub struct Entry {
    pub stat: Stat,
    pub bytes: Vec<u8>,
}

impl Entry {
    pub fn file(path: &str, bytes: &str) -> Self {
        let size = i64::try_from(bytes.len()).expect("tests have small files");
        let stat = Stat { path: path.into(), mode: 0o644, size, ..Stat::default() };
        Self { stat, bytes: bytes.into() }
    }

    pub fn dir(path: &str) -> Self {
        Self { stat: Stat { path: path.into(), mode: 1 << 31 | 0o755, ..Stat::default() }, bytes: Vec::new() }
    }

    pub fn link(path: &str, to: &str) -> Self {
        let stat = Stat { path: path.into(), mode: 1 << 27 | 0o777, linkname: to.into(), ..Stat::default() };
        Self { stat, bytes: Vec::new() }
    }
}

/// An open session; it is lost when this is dropped.
pub struct Session {
    /// Which directories were asked for, and how many bytes of files went.
    pub asked: Arc<Mutex<Vec<(String, usize)>>>,
    _tasks: JoinSet<()>,
}

/// As other clients send them.
const PIECE_BYTES: usize = 32 << 10;

/// How a client answers in its session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Manner {
    /// As it should.
    #[default]
    Plain,
    /// Takes the call for its context, and then says nothing.
    Silent,
    /// Sends the list of its context, and no file.
    Stingy,
    /// Ends the call behind the list.
    BreaksOff,
    /// Fails behind the list, as a client does that cannot read a file.
    GivesUp,
    /// Refuses the call.
    Refuses,
    /// Takes the call for its result, and nothing of the result.
    NeverTakes,
}

/// Opens a session of a client that has more than files.
pub async fn session_with(channel: Channel, id: &str, offer: Offer, extras: Extras) -> Session {
    opened(channel, id, "", offer, Manner::Plain, extras).await
}

/// Opens a session.
pub async fn session(channel: Channel, id: &str, offer: Offer) -> Session {
    opened(channel, id, "", offer, Manner::Plain, Extras::default()).await
}

/// Opens a session that shares something with others, under a key.
pub async fn session_sharing(channel: Channel, id: &str, shared_key: &str, offer: Offer) -> Session {
    opened(channel, id, shared_key, offer, Manner::Plain, Extras::default()).await
}

/// Opens a session of a client that may misbehave.
pub async fn session_of(channel: Channel, id: &str, offer: Offer, manner: Manner) -> Session {
    opened(channel, id, "", offer, manner, Extras::default()).await
}

async fn opened(channel: Channel, id: &str, shared_key: &str, offer: Offer, manner: Manner, extras: Extras) -> Session {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let service = Files { offer: Arc::new(offer), manner, asked: asked.clone() };
    let (ours, inner) = tokio::io::duplex(1 << 20);
    let (mut read, mut write) = tokio::io::split(ours);
    let (send, mut waiting) = mpsc::channel::<BytesMessage>(16);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut piece = vec![0; 32 << 10];
        while let Ok(length @ 1..) = read.read(&mut piece).await {
            let data = piece[..length].to_vec().into();
            if send.send(BytesMessage { data }).await.is_err() {
                break;
            }
        }
    });
    let outgoing = futures_util::stream::poll_fn(move |context| waiting.poll_recv(context));
    let mut request = Request::new(outgoing);
    let metadata = request.metadata_mut();
    metadata.insert("x-docker-expose-session-uuid", MetadataValue::try_from(id).expect("ASCII"));
    metadata.insert("x-docker-expose-session-sharedkey", MetadataValue::try_from(shared_key).expect("ASCII"));
    let method = MetadataValue::from_static("/moby.filesync.v1.FileSync/DiffCopy");
    metadata.append("x-docker-expose-session-grpc-method", method);
    let methods = [
        ("/moby.filesync.v1.FileSend/DiffCopy", manner == Manner::NeverTakes),
        ("/moby.upload.v1.Upload/Pull", extras.stream.is_some()),
        ("/moby.filesync.v1.Auth/FetchToken", extras.login.is_some()),
        ("/moby.filesync.v1.Auth/Credentials", extras.login.is_some()),
        ("/containerd.services.content.v1.Content/Read", extras.shelf.is_some()),
    ];
    for (method, _) in methods.into_iter().filter(|(_, has)| *has) {
        metadata.append("x-docker-expose-session-grpc-method", MetadataValue::from_static(method));
    }
    let incoming =
        futures_util::stream::once(async { Ok::<_, std::io::Error>(inner) }).chain(futures_util::stream::pending());
    tasks.spawn(async move {
        let served = Server::builder()
            .add_service(FileSyncServer::new(service))
            .add_service(FileSendServer::new(Full))
            .add_service(UploadServer::new(extras.clone()))
            .add_service(ContentServer::new(Shelves(extras.shelf.clone().unwrap_or_default())))
            .add_service(AuthServer::new(extras))
            .serve_with_incoming(incoming)
            .await;
        drop(served);
    });
    let mut pieces = ControlClient::new(channel).session(request).await.expect("it takes sessions").into_inner();
    tasks.spawn(async move {
        while let Ok(Some(piece)) = pieces.message().await {
            if write.write_all(&piece.data).await.is_err() {
                break;
            }
        }
    });
    Session { asked, _tasks: tasks }
}

/// Asks for a build with the frontend, as an OCI archive that nobody takes is not asked for: into the store.
pub fn request(name: &str, session: &str) -> SolveRequest {
    SolveRequest {
        r#ref: name.into(),
        session: session.into(),
        frontend: "dockerfile.v0".into(),
        frontend_attrs: BTreeMap::from([("filename".into(), "Dockerfile".into())]),
        ..SolveRequest::default()
    }
}

#[derive(Debug)]
struct Files {
    offer: Arc<Offer>,
    manner: Manner,
    asked: Arc<Mutex<Vec<(String, usize)>>>,
}

/// Whether a path is another, or lies in it.
fn within(path: &str, other: &str) -> bool {
    path.strip_prefix(other).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn packet(kind: PacketType) -> Packet {
    Packet { r#type: kind.into(), ..Packet::default() }
}

#[tonic::async_trait]
impl FileSync for Files {
    type DiffCopyStream = Pin<Box<dyn Stream<Item = Result<Packet, Status>> + Send>>;
    type TarStreamStream = Self::DiffCopyStream;

    async fn diff_copy(&self, request: Request<Streaming<Packet>>) -> Result<Response<Self::DiffCopyStream>, Status> {
        let metadata = request.metadata();
        let name = metadata.get("dir-name").and_then(|name| name.to_str().ok()).unwrap_or_default().to_owned();
        let only: Vec<&str> = metadata.get_all("followpaths").iter().filter_map(|path| path.to_str().ok()).collect();
        let entries = match (name.as_str(), only.is_empty()) {
            ("dockerfile", _) => vec![Entry::file("Dockerfile", &self.offer.dockerfile)],
            ("context", true) => self.offer.context.clone(),
            _ => {
                let wanted = |path: &str| only.iter().any(|only| within(path, only) || within(only, path));
                self.offer.context.iter().filter(|entry| wanted(&entry.stat.path)).cloned().collect()
            }
        };
        let manner = if name == "context" && only.is_empty() { self.manner } else { Manner::Plain };
        if manner == Manner::Silent {
            return Ok(Response::new(futures_util::stream::pending().boxed()));
        }
        if manner == Manner::Refuses {
            return Err(Status::permission_denied("nobody gets this"));
        }
        let mut incoming = request.into_inner();
        let (send, waiting) = mpsc::channel(256);
        let asked = self.asked.clone();
        tokio::spawn(async move {
            let mut sent = 0;
            let mut files = HashMap::new();
            for (id, entry) in (0_u32..).zip(&entries) {
                let stat = Some(entry.stat.clone());
                if send.send(Ok(Packet { stat, ..packet(PacketType::PacketStat) })).await.is_err() {
                    return;
                }
                files.insert(id, entry.bytes.clone());
            }
            if send.send(Ok(packet(PacketType::PacketStat))).await.is_err() {
                return;
            }
            while let Ok(Some(heard)) = incoming.message().await {
                match manner {
                    Manner::Stingy => continue,
                    Manner::BreaksOff => return,
                    Manner::GivesUp => {
                        let error =
                            Packet { data: b"the disk is gone".as_slice().into(), ..packet(PacketType::PacketErr) };
                        // The daemon may have hung up.
                        let _ = send.send(Ok(error)).await;
                        return;
                    }
                    Manner::Plain | Manner::Silent | Manner::Refuses | Manner::NeverTakes => {}
                }
                if heard.r#type == PacketType::PacketFin as i32 {
                    asked.lock().expect("nobody panicked").push((name, sent));
                    // The daemon may have hung up.
                    let _ = send.send(Ok(packet(PacketType::PacketFin))).await;
                    return;
                }
                let bytes = files.remove(&heard.id).unwrap_or_default();
                sent += bytes.len();
                let pieces = bytes.chunks(PIECE_BYTES).map(<[u8]>::to_vec);
                for data in pieces.chain((sent > 0).then(Vec::new)) {
                    let message = Packet { id: heard.id, data: data.into(), ..packet(PacketType::PacketData) };
                    if send.send(Ok(message)).await.is_err() {
                        return;
                    }
                }
            }
        });
        let mut waiting = waiting;
        Ok(Response::new(futures_util::stream::poll_fn(move |context| waiting.poll_recv(context)).boxed()))
    }

    async fn tar_stream(&self, _: Request<Streaming<Packet>>) -> Result<Response<Self::TarStreamStream>, Status> {
        Err(Status::unimplemented("nobody asks for it"))
    }
}

/// Takes nothing of what it is sent.
#[derive(Debug)]
struct Full;

#[tonic::async_trait]
impl FileSend for Full {
    type DiffCopyStream = Pin<Box<dyn Stream<Item = Result<api::filesync::BytesMessage, Status>> + Send>>;

    async fn diff_copy(
        &self,
        request: Request<Streaming<api::filesync::BytesMessage>>,
    ) -> Result<Response<Self::DiffCopyStream>, Status> {
        let untouched = request.into_inner();
        let never = futures_util::stream::once(async move {
            std::future::pending::<()>().await;
            drop(untouched);
            Err(Status::unavailable("never"))
        });
        Ok(Response::new(never.boxed()))
    }
}
