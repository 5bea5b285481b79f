//! `ExecProcess`: one stream, on which a frontend starts processes in its containers and speaks with them.
//!
//! ```text
//!   client ─ Init ─►   ◄─ Started     of each process first
//!          ─ File 0 ─► ◄─ File 1, 2   pieces, and the end of each
//!          ─ Resize, Signal ─►
//!                      ◄─ Exit, Done  last
//! ```
//!
//! In: messages, each with the name of its process. Out: theirs. Whoever breaks the order gets a status, which ends the
//! stream and with it all that runs on it; so does a client that hangs up. What comes for a process that has just ended is
//! nobody's fault, and passed over. A process that does not read holds up the stream: that is the client's own.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use api::gateway::exec_message::Input;
use api::gateway::{self, ExecMessage};
use api::rpc;
use executor::sandbox::{Driven, Driver, Exit, Stdin, Terminal, WindowSize};
use futures_util::{Stream, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status, Streaming};

use super::container::{self, Held, NAME_MAX_BYTES};
use crate::daemon::control::stops;
use crate::daemon::error;
use crate::daemon::job::Job;
use crate::daemon::thread::beside;

/// As other builders send them.
const PIECE_BYTES: usize = 32 << 10;
/// Messages that wait for a slow reader, of either side.
const WAITING: usize = 16;
/// Processes that one stream may have had.
const PROCESSES_MAX: usize = 1024;
/// The code of a process of whose end nothing else is known.
const UNKNOWN: u32 = 255;
/// The size of a terminal until the client says one.
const SIZE: WindowSize = WindowSize { rows: 24, columns: 80 };

type Out = mpsc::Sender<Result<ExecMessage, Status>>;

/// Serves a stream of a build's frontend.
pub fn serve(
    job: Arc<Job>,
    incoming: Streaming<ExecMessage>,
) -> impl Stream<Item = Result<ExecMessage, Status>> + Send {
    let (out, mut waiting) = mpsc::channel(WAITING);
    let cancel = job.cancel.child_token();
    let hung_up = cancel.clone().drop_guard();
    tokio::spawn(async move {
        let mut line = Line { job, out, cancel, processes: HashMap::new(), running: JoinSet::new() };
        let outcome = line.follow(incoming).await;
        line.cancel.cancel();
        line.processes.clear();
        while let Some(ended) = line.running.join_next().await {
            if let Err(error) = ended {
                tracing::debug!(%error, "a process was not followed to its end");
            }
        }
        if let Err(status) = outcome {
            // The client may have hung up.
            let _ = line.out.send(Err(status)).await;
        }
    });
    futures_util::stream::poll_fn(move |context| {
        let _unless_dropped = &hung_up;
        waiting.poll_recv(context)
    })
    .boxed()
}

struct Line {
    job: Arc<Job>,
    out: Out,
    cancel: CancellationToken,
    processes: HashMap<String, Process>,
    running: JoinSet<()>,
}

/// A process, as far as its client says something to it.
struct Process {
    /// `None` behind the end of its standard input.
    input: Option<mpsc::Sender<Vec<u8>>>,
    signals: mpsc::UnboundedSender<i32>,
    /// Of a terminal.
    sizes: Option<mpsc::UnboundedSender<WindowSize>>,
}

impl Process {
    fn is_over(&self) -> bool {
        self.signals.is_closed()
    }
}

impl Line {
    async fn follow(&mut self, mut incoming: Streaming<ExecMessage>) -> Result<(), Status> {
        loop {
            let cancel = self.cancel.clone();
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(Status::cancelled("context canceled")),
                message = incoming.message() => match message? {
                    Some(message) => self.hear(message).await?,
                    // It says nothing more; what runs may end by itself.
                    None => break,
                }
            }
        }
        for process in self.processes.values_mut() {
            process.input = None;
        }
        let cancel = self.cancel.clone();
        loop {
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(Status::cancelled("context canceled")),
                ended = self.running.join_next() => match ended {
                    Some(Ok(())) => {}
                    Some(Err(error)) => return Err(Status::internal(error.to_string())),
                    None => return Ok(()),
                }
            }
        }
    }

    async fn hear(&mut self, ExecMessage { process_id, input }: ExecMessage) -> Result<(), Status> {
        let shown = || process_id.chars().take(NAME_MAX_BYTES).collect::<String>().escape_debug().to_string();
        let wrong = |what: &str| Err(Status::invalid_argument(format!("the process {}: {what}", shown())));
        let input = match input {
            Some(Input::Init(init)) => return self.begin(process_id, init),
            Some(Input::Started(_) | Input::Exit(_) | Input::Done(_)) => {
                return wrong("how it goes is not for a client to say");
            }
            Some(input) => input,
            None => return wrong("a message says nothing"),
        };
        let process = self.processes.get_mut(&process_id);
        let process = process.ok_or_else(|| Status::not_found(format!("there is no process {}", shown())))?;
        match input {
            Input::File(file) if file.fd == 0 => {
                let Some(to) = &process.input else {
                    return if process.is_over() { Ok(()) } else { wrong("its standard input is closed") };
                };
                if !file.data.is_empty() {
                    tokio::select! {
                        biased;
                        () = self.cancel.cancelled() => {}
                        // One that reads no more has closed it, or ended.
                        sent = to.send(file.data) => drop(sent),
                    }
                }
                if file.eof {
                    process.input = None;
                }
                Ok(())
            }
            Input::File(file) => wrong(&format!("a client writes to its standard input, and not to {}", file.fd)),
            Input::Resize(size) => {
                let Some(sizes) = &process.sizes else { return wrong("it has no terminal") };
                let number = |count: u32| u16::try_from(count).unwrap_or(u16::MAX);
                // It may have ended.
                let _ = sizes.send(WindowSize { rows: number(size.rows), columns: number(size.cols) });
                Ok(())
            }
            Input::Signal(signal) => {
                let Some(number) = number(&signal.name) else { return wrong("there is no such signal") };
                // Likewise.
                let _ = process.signals.send(number);
                Ok(())
            }
            Input::Init(_) | Input::Started(_) | Input::Exit(_) | Input::Done(_) => wrong("a message says nothing"),
        }
    }

    fn begin(&mut self, id: String, init: gateway::InitMessage) -> Result<(), Status> {
        if id.is_empty() || id.len() > NAME_MAX_BYTES {
            return Err(Status::invalid_argument("the process's name is empty, or too long"));
        }
        if self.processes.contains_key(&id) {
            return Err(Status::already_exists(format!("the process {} has begun already", id.escape_debug())));
        }
        if self.processes.len() >= PROCESSES_MAX {
            return Err(Status::resource_exhausted(format!("the stream had {PROCESSES_MAX} processes already")));
        }
        let has = |fd: u32| init.fds.contains(&fd);
        if let Some(fd) = init.fds.iter().find(|fd| **fd > 2) {
            return Err(Status::unimplemented(format!("a process gets the descriptors 0, 1 and 2, and not {fd}")));
        }
        let held = container::find(&self.job, &init.container_id)?;
        let busy = held.busy.clone().try_lock_owned().map_err(|_| {
            Status::failed_precondition("a process runs in the container: another one begins when it has ended")
        })?;
        let (has_input, has_output, has_errors, is_terminal) = (has(0), has(1), has(2), init.tty);
        let exec = held.exec(init)?;
        let io = |error: std::io::Error| Status::resource_exhausted(format!("there are no streams: {error}"));
        let (started, starting) = oneshot::channel();
        let (signals, signalled) = mpsc::unbounded_channel();
        let (input, typed) = mpsc::channel(WAITING);
        let (sizes, resized) = mpsc::unbounded_channel();
        let (stdin, streams, ends) = if is_terminal {
            let (hand, handed) = oneshot::channel();
            let ends = Ends::Terminal { handed, resized, is_shown: has_output };
            (Stdin::Null, Driven::Terminal(SIZE, hand), ends)
        } else {
            let (stdout, stdout_end) = outlet(has_output).map_err(io)?;
            let (stderr, stderr_end) = outlet(has_errors).map_err(io)?;
            let (stdin, feed) = inlet(has_input).map_err(io)?;
            (stdin, Driven::Pipes(stdout_end, stderr_end), Ends::Pipes { feed, stdout, stderr })
        };
        let driver = Driver { streams, started, signals: signalled };
        let process = Process { input: has_input.then_some(input), signals, sizes: is_terminal.then_some(sizes) };
        self.processes.insert(id.clone(), process);
        let cancel = stops(self.cancel.clone(), held.cancel.clone());
        let follow = Follow { id, out: self.out.clone(), cancel };
        self.running.spawn(async move {
            follow.run(held, exec, (stdin, driver), (starting, typed, ends)).await;
            drop(busy);
        });
        Ok(())
    }
}

/// Our ends of a process's streams.
enum Ends {
    Pipes { feed: Option<pipe::Sender>, stdout: Option<pipe::Receiver>, stderr: Option<pipe::Receiver> },
    Terminal { handed: oneshot::Receiver<Terminal>, resized: mpsc::UnboundedReceiver<WindowSize>, is_shown: bool },
}

/// A pipe that a process writes to; unless somebody wants it, to nowhere.
fn outlet(is_wanted: bool) -> std::io::Result<(Option<pipe::Receiver>, OwnedFd)> {
    if !is_wanted {
        return Ok((None, std::fs::File::options().write(true).open("/dev/null")?.into()));
    }
    let (reader, writer) = std::io::pipe()?;
    Ok((Some(pipe::Receiver::from_owned_fd(reader.into())?), writer.into()))
}

/// A pipe that a process reads.
fn inlet(is_wanted: bool) -> std::io::Result<(Stdin, Option<pipe::Sender>)> {
    if !is_wanted {
        return Ok((Stdin::Null, None));
    }
    let (reader, writer) = std::io::pipe()?;
    Ok((Stdin::Descriptor(reader.into()), Some(pipe::Sender::from_owned_fd(writer.into())?)))
}

/// What follows a process to its end.
struct Follow {
    id: String,
    out: Out,
    cancel: CancellationToken,
}

impl Follow {
    async fn run(
        &self,
        held: Arc<Held>,
        exec: solver::op::ExecOp,
        (stdin, driver): (Stdin, Driver),
        (starting, typed, ends): (oneshot::Receiver<()>, mpsc::Receiver<Vec<u8>>, Ends),
    ) {
        let (container, stop) = (held.container.clone(), self.cancel.clone());
        let run = || async move { Ok(container.run(&exec, stdin, driver, &stop).await) };
        let streams = async {
            // One that never starts has an end too, which clients hear behind this.
            let _ = starting.await;
            self.say(Input::Started(gateway::StartedMessage {})).await;
            match ends {
                Ends::Pipes { feed, stdout, stderr } => {
                    // It ends by being dropped: who has ended reads no more.
                    let mut feeding = JoinSet::new();
                    if let Some(feed) = feed {
                        feeding.spawn(feed_pipe(feed, typed));
                    }
                    tokio::join!(self.pass_on(1, stdout), self.pass_on(2, stderr));
                }
                Ends::Terminal { handed, resized, is_shown } => self.relay(handed, resized, typed, is_shown).await,
            }
        };
        let (ran, ()) = tokio::join!(beside(run), streams);
        let (code, error) = match ran {
            Ok(Ok(Exit::Code(0))) => (0, None),
            Ok(Ok(exit)) => {
                let code = u32::try_from(exit.code()).unwrap_or(UNKNOWN);
                (code, Some(status(Code::Unknown, exit.to_string())))
            }
            Ok(Err(failure)) if self.cancel.is_cancelled() => {
                (UNKNOWN, Some(status(Code::Cancelled, error::words(&failure))))
            }
            Ok(Err(failure)) => (UNKNOWN, Some(status(Code::Unknown, error::words(&failure)))),
            Err(failed) => (UNKNOWN, Some(status(failed.code(), failed.message().to_owned()))),
        };
        self.say(Input::Exit(gateway::ExitMessage { code, error })).await;
        self.say(Input::Done(gateway::DoneMessage {})).await;
    }

    /// Tells the client, which may have hung up.
    async fn say(&self, input: Input) {
        let _ = self.out.send(Ok(ExecMessage { process_id: self.id.clone(), input: Some(input) })).await;
    }

    async fn pass_on(&self, fd: u32, from: Option<pipe::Receiver>) {
        let Some(mut from) = from else { return };
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            match from.read(&mut buffer).await {
                Ok(count @ 1..) => self.file(fd, buffer[..count].to_vec(), false).await,
                Ok(0) => break,
                Err(error) => {
                    tracing::debug!(%error, "a process's output cannot be read");
                    break;
                }
            }
        }
        self.file(fd, Vec::new(), true).await;
    }

    async fn file(&self, fd: u32, data: Vec<u8>, eof: bool) {
        self.say(Input::File(gateway::FdMessage { fd, eof, data })).await;
    }

    async fn relay(
        &self,
        handed: oneshot::Receiver<Terminal>,
        mut resized: mpsc::UnboundedReceiver<WindowSize>,
        mut typed: mpsc::Receiver<Vec<u8>>,
        is_shown: bool,
    ) {
        if let Ok(terminal) = handed.await {
            let terminal = Arc::new(terminal);
            let mut typing = JoinSet::new();
            let to = terminal.clone();
            typing.spawn(async move {
                while let Some(text) = typed.recv().await {
                    if let Err(error) = to.write_all(&text).await {
                        tracing::debug!(%error, "nobody reads the terminal");
                        return;
                    }
                }
            });
            let mut buffer = vec![0; PIECE_BYTES];
            loop {
                tokio::select! {
                    Some(size) = resized.recv() => {
                        if let Err(error) = terminal.resize(size) {
                            tracing::debug!(%error, "the terminal keeps its size");
                        }
                    }
                    read = terminal.read(&mut buffer) => match read {
                        Ok(count @ 1..) if is_shown => self.file(1, buffer[..count].to_vec(), false).await,
                        Ok(1..) => {}
                        Ok(0) => break,
                        Err(error) => {
                            tracing::debug!(%error, "a terminal cannot be read");
                            break;
                        }
                    }
                }
            }
        }
        if is_shown {
            self.file(1, Vec::new(), true).await;
        }
    }
}

async fn feed_pipe(mut to: pipe::Sender, mut from: mpsc::Receiver<Vec<u8>>) {
    while let Some(data) = from.recv().await {
        if let Err(error) = to.write_all(&data).await {
            tracing::debug!(%error, "a process reads no more");
            return;
        }
    }
}

fn status(code: Code, message: String) -> rpc::Status {
    rpc::Status { code: code as i32, message, details: Vec::new() }
}

/// A signal by its name, with or without `SIG`, or by its number.
fn number(name: &str) -> Option<i32> {
    const NAMES: [(&str, i32); 14] = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ABRT", 6),
        ("KILL", 9),
        ("USR1", 10),
        ("USR2", 12),
        ("PIPE", 13),
        ("ALRM", 14),
        ("TERM", 15),
        ("CONT", 18),
        ("STOP", 19),
        ("TSTP", 20),
        ("WINCH", 28),
    ];
    let upper = name.to_ascii_uppercase();
    let plain = upper.strip_prefix("SIG").unwrap_or(&upper);
    let by_name = NAMES.iter().find(|(known, _)| *known == plain).map(|(_, number)| *number);
    by_name.or_else(|| plain.parse().ok().filter(|number| NAMES.iter().any(|(_, known)| known == number)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (name, expected) in
            [("SIGTERM", Some(15)), ("KILL", Some(9)), ("sigint", Some(2)), ("1", Some(1)), ("0", None), ("SIG", None)]
        {
            assert_eq!(number(name), expected, "{name}");
        }
    }
}
