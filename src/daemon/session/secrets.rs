//! Secrets and ssh agents of a client: `Secrets.GetSecret`, `SSH.CheckAgent`, `SSH.ForwardAgent`.
//!
//! In: names. Out: values, and sockets of this machine behind which the client's agent answers; such a socket lies in a
//! directory that only this user can enter, and goes with the build. What steps may ask an agent is the executor's to say.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use api::secrets::GetSecretRequest;
use api::secrets::secrets_client::SecretsClient;
use api::ssh::ssh_client::SshClient;
use api::ssh::{BytesMessage, CheckAgentRequest};
use executor::secrets::AskSecrets;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, mpsc};
use tokio_util::bytes::{Bytes, BytesMut};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

use super::Session;

const GET_SECRET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
const CHECK_AGENT: &str = "/moby.sshforward.v1.SSH/CheckAgent";
/// Which agent a stream is for.
const AGENT_ID: &str = "buildkit.ssh.id";
/// What an agent is asked, or answers, at once.
const PIECE_BYTES: usize = 32 << 10;

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<Option<T>, String>> + Send + 'a>>;

/// Who asks one session, for one build.
#[derive(Debug)]
pub struct SessionSecrets {
    session: Arc<Session>,
    agents: Mutex<HashMap<String, Listening>>,
}

/// A socket behind which an agent is.
#[derive(Debug)]
struct Listening {
    socket: PathBuf,
    _guard: DropGuard,
    _directory: Directory,
}

impl SessionSecrets {
    /// Nothing is asked yet.
    pub fn new(session: Arc<Session>) -> Self {
        Self { session, agents: Mutex::default() }
    }
}

impl AskSecrets for SessionSecrets {
    fn secret<'a>(&'a self, id: &'a str) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            if !self.session.has(GET_SECRET) {
                return Ok(None);
            }
            let request = GetSecretRequest { id: id.to_owned(), ..GetSecretRequest::default() };
            let mut client = SecretsClient::new(self.session.channel());
            match self.session.answer(client.get_secret(request)).await {
                Ok(answer) => Ok(Some(answer.data)),
                Err(status) if status.code() == Code::NotFound => Ok(None),
                Err(status) => Err(status.message().to_owned()),
            }
        })
    }

    fn agent<'a>(&'a self, id: &'a str) -> Answer<'a, PathBuf> {
        Box::pin(async move {
            if !self.session.has(CHECK_AGENT) {
                return Ok(None);
            }
            let mut agents = self.agents.lock().await;
            if let Some(known) = agents.get(id) {
                return Ok(Some(known.socket.clone()));
            }
            // There is one answer for what is not there and what fails: nobody has it.
            let request = CheckAgentRequest { id: id.to_owned() };
            let mut client = SshClient::new(self.session.channel());
            match self.session.answer(client.check_agent(request)).await {
                Ok(_) => {}
                Err(status) if matches!(status.code(), Code::DeadlineExceeded | Code::Unavailable) => {
                    return Err(status.message().to_owned());
                }
                Err(status) => {
                    tracing::debug!(id, status = status.message(), "the client has no such agent");
                    return Ok(None);
                }
            }
            let listening = listen(self.session.clone(), id).map_err(|error| error.to_string())?;
            let socket = listening.socket.clone();
            agents.insert(id.to_owned(), listening);
            Ok(Some(socket))
        })
    }
}

fn listen(session: Arc<Session>, id: &str) -> io::Result<Listening> {
    let directory = Directory::new()?;
    let socket = directory.0.join("agent");
    let listener = UnixListener::bind(&socket)?;
    let stop = CancellationToken::new();
    let (guard, id) = (stop.clone().drop_guard(), id.to_owned());
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => return,
                () = session.lost().cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (session, id, stop) = (session.clone(), id.clone(), stop.clone());
                    tokio::spawn(async move {
                        tokio::select! {
                            () = stop.cancelled() => {}
                            outcome = forward(&session, &id, stream) => {
                                if let Err(error) = outcome {
                                    tracing::debug!(%error, "a connection to the client's agent ended");
                                }
                            }
                        }
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "no connection to the client's agent");
                    return;
                }
            }
        }
    });
    Ok(Listening { socket, _guard: guard, _directory: directory })
}

/// One connection to the agent.
async fn forward(session: &Session, id: &str, stream: UnixStream) -> io::Result<()> {
    let (mut read, mut write) = stream.into_split();
    let (say, said) = mpsc::channel::<BytesMessage>(4);
    let outgoing = futures_util::stream::unfold(said, |mut said| async { said.recv().await.map(|it| (it, said)) });
    let mut request = Request::new(outgoing);
    let id = MetadataValue::try_from(id).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    request.metadata_mut().insert(AGENT_ID, id);
    let asking = async {
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        while read.read_buf(&mut piece).await? > 0 {
            let data: Bytes = piece.split().freeze();
            if say.send(BytesMessage { data }).await.is_err() {
                break;
            }
            piece.reserve(PIECE_BYTES);
        }
        drop(say);
        Ok::<_, io::Error>(())
    };
    let mut client = SshClient::new(session.channel());
    let answering = async {
        let mut incoming = client.forward_agent(request).await.map_err(io::Error::other)?.into_inner();
        while let Some(piece) = incoming.message().await.map_err(io::Error::other)? {
            write.write_all(&piece.data).await?;
        }
        write.shutdown().await
    };
    // The agent says when it is done; whoever asks may have ended before.
    let (_, answered) = tokio::join!(asking, answering);
    answered
}

/// A directory that nobody else can enter, removed when this is dropped.
#[derive(Debug)]
struct Directory(PathBuf);

impl Directory {
    fn new() -> io::Result<Self> {
        let mut number = [0; 8];
        rustix::rand::getrandom(&mut number, rustix::rand::GetRandomFlags::empty())?;
        let path = Path::new("/tmp").join(format!("rbuild-ssh-{:016x}", u64::from_ne_bytes(number)));
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(%error, path = %self.0.display(), "the directory of an agent's socket stays");
        }
    }
}
