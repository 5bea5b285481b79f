//! Results to a client: the bytes of a file, or directories, by `FileSend.DiffCopy`.
//!
//! In: what the engine writes, on a thread that may wait. Out: messages, as fast as the client takes them. A stream that
//! is not finished is broken off, so that the client does not take a part for the whole. Directories go the way of fsutil:
//! their list first, then the files that the client asks for; see [`super::receive`] for the other end of it.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use api::filesync::BytesMessage;
use api::fsutil::packet::PacketType;
use api::fsutil::{Packet, Stat};
use futures_util::{Stream, StreamExt as _};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::bytes::Bytes;
use tokio_util::sync::{CancellationToken, DropGuard};

use tonic::metadata::MetadataValue;
use tonic::{Request, Status, Streaming};

use super::{Session, mode};
use crate::daemon::MESSAGE_MAX_BYTES;
use crate::options::theirs::{Outlets, Sink};

const METHOD: &str = "/moby.filesync.v1.FileSend/DiffCopy";
/// Which of the build's outputs it is.
const EXPORTER: &str = "buildkit-attachable-exporter-id";
/// What goes into one message.
const PIECE_BYTES: usize = 1 << 20;
/// Of a file in a directory: what receivers of fsutil have room for.
const DATA_BYTES: usize = 32 << 10;
/// Messages that may wait.
const PIECES: usize = 8;

/// The way of one output.
#[derive(Debug)]
pub struct SessionOutlet {
    /// To whom.
    pub session: Arc<Session>,
    /// Its number among the build's outputs.
    pub number: usize,
    /// Where the calls run.
    pub runtime: Handle,
}

impl SessionOutlet {
    fn request<M>(&self, messages: M) -> Request<M> {
        let mut request = Request::new(messages);
        request.metadata_mut().insert(EXPORTER, MetadataValue::from(self.number as u64));
        request
    }

    fn check(&self) -> io::Result<()> {
        if self.session.has(METHOD) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::Unsupported, "the client takes no files in its session"))
    }
}

/// Calls the method with messages of whatever kind this output is about.
async fn call<Out, In>(
    session: &Session,
    request: Request<impl Stream<Item = Out> + Send + 'static>,
) -> Result<Streaming<In>, Status>
where
    Out: prost::Message + Send + 'static,
    In: prost::Message + Default + Send + 'static,
{
    let mut client = tonic::client::Grpc::new(session.channel()).max_decoding_message_size(MESSAGE_MAX_BYTES);
    client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let codec = tonic_prost::ProstCodec::<Out, In>::default();
    let path = http::uri::PathAndQuery::from_static(METHOD);
    Ok(client.streaming(request, path, codec).await?.into_inner())
}

/// A channel as a stream.
fn stream_of<T: Send + 'static>(from: mpsc::Receiver<T>) -> impl Stream<Item = T> + Send + 'static {
    futures_util::stream::unfold(from, |mut from| async { from.recv().await.map(|it| (it, from)) })
}

fn said(status: &Status) -> io::Error {
    io::Error::other(status.message().to_owned())
}

impl Outlets for SessionOutlet {
    fn stream(&self) -> io::Result<Box<dyn Sink>> {
        self.check()?;
        let (pieces, waiting) = mpsc::channel::<BytesMessage>(PIECES);
        let (finish, finished) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel();
        let broken = CancellationToken::new();
        let guard = broken.clone().drop_guard();
        // The body ends in the middle, unless the writer said that it is the end.
        let messages = stream_of(waiting).chain(futures_util::stream::once(async move {
            match finished.await {
                Ok(()) => BytesMessage::default(),
                Err(_) => futures_util::future::pending().await,
            }
        }));
        let (request, session) = (self.request(messages), self.session.clone());
        let lost = self.session.lost().clone();
        self.runtime.spawn(async move {
            let whole = async {
                let mut answers = call::<BytesMessage, BytesMessage>(&session, request).await?;
                while answers.message().await?.is_some() {}
                Ok::<_, Status>(())
            };
            let outcome = tokio::select! {
                () = lost.cancelled() => Err(Status::unavailable("the client has gone")),
                () = broken.cancelled() => Err(Status::aborted("the result was not finished")),
                outcome = whole => outcome,
            };
            // Whoever wrote may have given up before.
            let _ = tell.send(outcome);
        });
        Ok(Box::new(Pieces { pieces: Some(pieces), finish: Some(finish), told: Some(told), _guard: guard }))
    }

    fn folders(&self, trees: &[(String, BorrowedFd<'_>)]) -> io::Result<()> {
        self.check()?;
        let (say, waiting) = mpsc::channel::<Packet>(PIECES);
        // Bounded by what was announced: nothing is asked for twice.
        let (hear, heard) = mpsc::unbounded_channel::<Packet>();
        let (request, session) = (self.request(stream_of(waiting)), self.session.clone());
        let lost = self.session.lost().clone();
        let (tell, told) = oneshot::channel();
        self.runtime.spawn(async move {
            let whole = async {
                let mut packets = call::<Packet, Packet>(&session, request).await?;
                while let Some(packet) = packets.message().await? {
                    if hear.send(packet).is_err() {
                        break;
                    }
                }
                Ok::<_, Status>(())
            };
            let outcome = tokio::select! {
                () = lost.cancelled() => Err(Status::unavailable("the client has gone")),
                outcome = whole => outcome,
            };
            let _ = tell.send(outcome);
        });
        let mut sender = Sender { say: Some(say), heard, files: HashMap::new(), wanted: VecDeque::new(), entries: 0 };
        let sent = sender.send(trees);
        drop(sender);
        match told.blocking_recv() {
            // What the client says explains why it hung up.
            Ok(Err(status)) => Err(said(&status)),
            Ok(Ok(())) | Err(_) => sent,
        }
    }
}

/// A file's bytes on their way.
struct Pieces {
    pieces: Option<mpsc::Sender<BytesMessage>>,
    finish: Option<oneshot::Sender<()>>,
    told: Option<oneshot::Receiver<Result<(), Status>>>,
    /// Breaks the call off.
    _guard: DropGuard,
}

impl Pieces {
    /// Why the client hung up.
    fn why(&mut self) -> io::Error {
        match self.told.take().map(oneshot::Receiver::blocking_recv) {
            Some(Ok(Err(status))) => said(&status),
            _ => io::Error::new(io::ErrorKind::BrokenPipe, "the client takes no more"),
        }
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let piece = &bytes[..bytes.len().min(PIECE_BYTES)];
        let message = BytesMessage { data: Bytes::copy_from_slice(piece) };
        let sent = self.pieces.as_ref().is_some_and(|pieces| pieces.blocking_send(message).is_ok());
        if sent { Ok(piece.len()) } else { Err(self.why()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Pieces {
    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.pieces = None;
        if let Some(finish) = self.finish.take() {
            // Nobody hears it when the call has ended already; then it says why.
            let _ = finish.send(());
        }
        match self.told.take().map(oneshot::Receiver::blocking_recv) {
            Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(status))) => Err(said(&status)),
            _ => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the client has not confirmed what it was sent")),
        }
    }
}

/// The sender of fsutil.
struct Sender {
    say: Option<mpsc::Sender<Packet>>,
    heard: mpsc::UnboundedReceiver<Packet>,
    /// Files that may be asked for: the tree, and the path in it.
    files: HashMap<u32, (usize, String)>,
    wanted: VecDeque<(u32, usize, String)>,
    entries: u32,
}

/// What the client asks next.
enum Asked {
    Nothing,
    Files,
    End,
}

impl Sender {
    fn send(&mut self, trees: &[(String, BorrowedFd<'_>)]) -> io::Result<()> {
        let mut sorted: Vec<usize> = (0..trees.len()).collect();
        sorted.sort_by(|one, other| trees[*one].0.cmp(&trees[*other].0));
        for at in sorted {
            let (beneath, root) = &trees[at];
            if !beneath.is_empty() {
                let facts = rustix::fs::fstat(root)?;
                self.announce(stat(beneath.clone(), &facts, String::new()), None)?;
            }
            self.list(at, beneath, *root)?;
        }
        self.say(Packet { r#type: PacketType::PacketStat.into(), ..Packet::default() })?;
        loop {
            while let Some((id, tree, path)) = self.wanted.pop_front() {
                self.file(id, trees[tree].1, &path)?;
            }
            let packet = self.heard.blocking_recv().ok_or_else(|| {
                io::Error::new(io::ErrorKind::BrokenPipe, "the client hung up before it had everything")
            })?;
            if let Asked::End = self.asked(packet)? {
                return self.say(Packet { r#type: PacketType::PacketFin.into(), ..Packet::default() });
            }
        }
    }

    fn say(&self, packet: Packet) -> io::Result<()> {
        let sent = self.say.as_ref().is_some_and(|say| say.blocking_send(packet).is_ok());
        if sent { Ok(()) } else { Err(io::Error::new(io::ErrorKind::BrokenPipe, "the client takes no more")) }
    }

    fn asked(&mut self, packet: Packet) -> io::Result<Asked> {
        match PacketType::try_from(packet.r#type) {
            Ok(PacketType::PacketReq) => {
                let Some((tree, path)) = self.files.remove(&packet.id) else {
                    return Err(io::Error::other(format!("the client asked for file {}, which is none", packet.id)));
                };
                self.wanted.push_back((packet.id, tree, path));
                Ok(Asked::Files)
            }
            Ok(PacketType::PacketFin) => Ok(Asked::End),
            Ok(PacketType::PacketErr) => {
                Err(io::Error::other(format!("the client cannot take it: {}", String::from_utf8_lossy(&packet.data))))
            }
            _ => Ok(Asked::Nothing),
        }
    }

    fn announce(&mut self, stat: Stat, file: Option<(usize, String)>) -> io::Result<()> {
        if let Some(file) = file {
            self.files.insert(self.entries, file);
        }
        self.entries = self.entries.checked_add(1).ok_or_else(|| io::Error::other("too many files"))?;
        self.say(Packet { r#type: PacketType::PacketStat.into(), stat: Some(stat), ..Packet::default() })?;
        while let Ok(packet) = self.heard.try_recv() {
            if let Asked::End = self.asked(packet)? {
                return Err(io::Error::other("the client ended in the middle of the list"));
            }
        }
        Ok(())
    }

    /// The list of one tree, in the order of fsutil.
    fn list(&mut self, tree: usize, beneath: &str, root: BorrowedFd<'_>) -> io::Result<()> {
        let mut links: HashMap<(u64, u64), String> = HashMap::new();
        let mut seen = HashSet::new();
        // Directories to go on in, with what is left of them in reverse order.
        let mut stack: Vec<(String, OwnedFd, Vec<String>)> = Vec::new();
        let start = rustix::fs::openat(root, ".", DIRECTORY, Mode::empty())?;
        let names = names_of(&start)?;
        stack.push((String::new(), start, names));
        while let Some((inside, dir, names)) = stack.last_mut() {
            let Some(name) = names.pop() else {
                stack.pop();
                continue;
            };
            let path = if inside.is_empty() { name.clone() } else { format!("{inside}/{name}") };
            let shown = if beneath.is_empty() { path.clone() } else { format!("{beneath}/{path}") };
            let facts = rustix::fs::statat(&*dir, name.as_str(), AtFlags::SYMLINK_NOFOLLOW)?;
            match FileType::from_raw_mode(facts.st_mode) {
                FileType::Directory => {
                    let next = rustix::fs::openat(&*dir, name.as_str(), DIRECTORY, Mode::empty())?;
                    let names = names_of(&next)?;
                    stack.push((path, next, names));
                    self.announce(stat(shown, &facts, String::new()), None)?;
                }
                FileType::Symlink => {
                    let to = rustix::fs::readlinkat(&*dir, name.as_str(), Vec::new())?;
                    let to = to.into_string().map_err(|_| not_text(&shown))?;
                    self.announce(stat(shown, &facts, to), None)?;
                }
                FileType::RegularFile => {
                    let inode = (facts.st_dev, facts.st_ino);
                    let first = (facts.st_nlink > 1).then(|| links.get(&inode).cloned()).flatten();
                    if facts.st_nlink > 1 && seen.insert(inode) {
                        links.insert(inode, shown.clone());
                    }
                    match first {
                        Some(first) => self.announce(stat(shown, &facts, first), None)?,
                        None => self.announce(stat(shown, &facts, String::new()), Some((tree, path)))?,
                    }
                }
                _ => self.announce(stat(shown, &facts, String::new()), None)?,
            }
        }
        Ok(())
    }

    fn file(&mut self, id: u32, root: BorrowedFd<'_>, path: &str) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let mut file = File::from(rustix::fs::openat2(root, path, flags, Mode::empty(), beneath)?);
        let mut piece = vec![0; DATA_BYTES];
        loop {
            let length = file.read(&mut piece)?;
            let data = Bytes::copy_from_slice(&piece[..length]);
            self.say(Packet { r#type: PacketType::PacketData.into(), id, data, ..Packet::default() })?;
            if length == 0 {
                return Ok(());
            }
        }
    }
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// The names in a directory, the last first.
fn names_of(dir: &OwnedFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir.as_fd())? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            let name = name.to_str().map_err(|_| not_text(&name.to_string_lossy()))?;
            names.push(name.to_owned());
        }
    }
    names.sort_by(|one, other| other.as_bytes().cmp(one.as_bytes()));
    Ok(names)
}

fn not_text(path: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("`{}` is not UTF-8, which the protocol needs", path.escape_debug()),
    )
}

/// An entry, as fsutil has it.
pub fn stat(path: String, facts: &rustix::fs::Stat, linkname: String) -> Stat {
    let kind = FileType::from_raw_mode(facts.st_mode);
    let device = |kind: u32| (kind, rustix::fs::major(facts.st_rdev), rustix::fs::minor(facts.st_rdev));
    let (kind_bits, major, minor) = match kind {
        FileType::Directory => (mode::DIR, 0, 0),
        FileType::Symlink => (mode::SYMLINK, 0, 0),
        FileType::Fifo => (mode::NAMED_PIPE, 0, 0),
        FileType::Socket => (mode::SOCKET, 0, 0),
        FileType::BlockDevice => device(mode::DEVICE),
        FileType::CharacterDevice => device(mode::DEVICE | mode::CHAR_DEVICE),
        _ => (0, 0, 0),
    };
    let mut bits = (facts.st_mode & 0o777) | kind_bits;
    for (ours, theirs) in [(0o4000, mode::SETUID), (0o2000, mode::SETGID), (0o1000, mode::STICKY)] {
        if facts.st_mode & ours != 0 {
            bits |= theirs;
        }
    }
    let size = if kind == FileType::RegularFile && linkname.is_empty() { facts.st_size } else { 0 };
    Stat {
        path,
        mode: bits,
        uid: facts.st_uid,
        gid: facts.st_gid,
        size,
        mod_time: facts.st_mtime.saturating_mul(1_000_000_000).saturating_add(facts.st_mtime_nsec as i64),
        linkname,
        devmajor: major.into(),
        devminor: minor.into(),
        ..Stat::default()
    }
}
