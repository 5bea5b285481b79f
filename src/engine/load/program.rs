//! Programs that speak to an engine: podman, containerd's `ctr`.
//!
//! In: arguments, perhaps an archive for standard input. Out: how it ended and what it said, bounded. A program that does
//! not move is ended, and one whose answer nobody waits for any more too. Deliberately absent: what the words mean.

use std::path::PathBuf;
use std::pin::pin;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::answer::telling;
use super::api::Patience;
use super::stream::{Archive, Sent};
use super::unpacked::Unloaded;
use crate::engine::Failure;

/// All images of an engine, or all blobs.
const OUTPUT_MAX_BYTES: u64 = 32 << 20;
/// What went wrong stands at the end; this is more than a person reads.
const ERRORS_MAX_BYTES: u64 = 64 << 10;
/// How often is looked whether anything moves.
const TICK: Duration = Duration::from_millis(100);

/// A program.
pub struct Program {
    /// Where it is.
    pub path: PathBuf,
    /// What stands before all other arguments.
    pub first: Vec<String>,
    /// `podman (/usr/bin/podman)`, for people.
    pub name: String,
    /// How long it is waited for.
    pub patience: Patience,
}

/// How it ended.
#[derive(Debug)]
pub struct Said {
    /// Whether it did what it was asked.
    pub is_well: bool,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// What of standard error says what is wrong.
    pub reason: String,
}

impl Program {
    /// Runs it.
    ///
    /// # Errors
    /// When it does not start, or does not end.
    pub async fn ask(&self, arguments: &[&str]) -> Result<Said, Failure> {
        let mut command = self.command(arguments);
        let mut child = command.stdin(Stdio::null()).spawn().map_err(|error| self.not_started(&error))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        // Starting takes podman some tenths of a second, more on a busy machine.
        let patience = self.patience.question * 3;
        let ended = timeout(patience, async {
            tokio::join!(read(stdout, OUTPUT_MAX_BYTES), read(stderr, ERRORS_MAX_BYTES), child.wait())
        });
        let Ok((stdout, stderr, status)) = ended.await else {
            return Err(Failure::new(format!("{} does not answer within {} s", self.name, patience.as_secs()))
                .note(format!("asked was `{}`", arguments.join(" "))));
        };
        self.said(stdout, &stderr, status)
    }

    /// As [`Program::ask`], for one that must do what it is asked.
    pub async fn answer(&self, arguments: &[&str]) -> Result<Vec<u8>, Failure> {
        let said = self.ask(arguments).await?;
        if said.is_well { Ok(said.stdout) } else { Err(self.refused(arguments, &said.reason)) }
    }

    /// Runs it with an archive on its standard input.
    pub async fn feed(&self, arguments: &[&str], archive: Archive, moved: &dyn Fn(&Sent)) -> Result<(), Unloaded> {
        let sent: Arc<Sent> = archive.sent.clone();
        let (pieces, writing) = archive.split();
        let mut command = self.command(arguments);
        let mut child = command.stdin(Stdio::piped()).spawn().map_err(|error| self.not_started(&error))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let feeding = async move {
            let mut stdin = stdin.expect("it was asked for");
            let mut pieces = pin!(pieces);
            while let Some(piece) = pieces.next().await {
                // What it says when it has had enough is heard below.
                if piece.is_err() || stdin.write_all(&piece.unwrap_or_default()).await.is_err() {
                    return;
                }
            }
        };
        let running = async {
            tokio::join!(feeding, read(stdout, ERRORS_MAX_BYTES), read(stderr, ERRORS_MAX_BYTES), child.wait())
        };
        let ((), stdout, stderr, status) = self.watched(running, &sent, moved).await?;
        if let Some(failure) = writing.failure().await {
            return Err(failure.into());
        }
        let said = self.said(stdout, &stderr, status)?;
        if said.is_well { Ok(()) } else { Err(Unloaded::Refused(said.reason)) }
    }

    async fn watched<T>(
        &self,
        work: impl Future<Output = T>,
        sent: &Sent,
        moved: &dyn Fn(&Sent),
    ) -> Result<T, Failure> {
        let mut work = pin!(work);
        let (mut bytes, mut since) = (sent.bytes(), Instant::now());
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = sleep(TICK) => {}
            }
            if sent.bytes() != bytes {
                (bytes, since) = (sent.bytes(), Instant::now());
                moved(sent);
            }
            let patience = if sent.is_whole() { self.patience.work } else { self.patience.upload };
            if since.elapsed() >= patience {
                let failure = Failure::new(format!("{} does not move for {} s now", self.name, patience.as_secs()));
                return Err(
                    failure.help("look whether it is well; the build is kept, and doing the same again only loads")
                );
            }
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.args(&self.first).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    fn said(
        &self,
        stdout: Vec<u8>,
        stderr: &[u8],
        status: std::io::Result<std::process::ExitStatus>,
    ) -> Result<Said, Failure> {
        let status = status.map_err(|error| self.not_started(&error))?;
        let text = String::from_utf8_lossy(stderr);
        let reason = telling(&text).map_or_else(|| format!("it ends with {status}"), oci::http::harmless);
        Ok(Said { is_well: status.success(), stdout, reason })
    }

    fn not_started(&self, error: &std::io::Error) -> Failure {
        Failure::new(format!("{} cannot be run", self.name)).note(error.to_string())
    }

    /// It did not do what it was asked.
    pub fn refused(&self, arguments: &[&str], reason: &str) -> Failure {
        Failure::new(format!("{} does not do `{}`", self.name, arguments.join(" "))).note(reason.to_owned())
    }
}

/// What comes, as much of its end as is wanted; what came before is let go.
async fn read(stream: Option<impl AsyncRead + Unpin>, limit_bytes: u64) -> Vec<u8> {
    let Some(mut stream) = stream else { return Vec::new() };
    let limit = usize::try_from(limit_bytes).unwrap_or(usize::MAX);
    let (mut kept, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        match stream.read(&mut piece).await {
            Ok(0) => return kept,
            Ok(count) => {
                kept.extend_from_slice(&piece[..count]);
                if kept.len() > 2 * limit {
                    kept.drain(..kept.len() - limit);
                }
            }
            Err(error) => {
                tracing::debug!(%error, "what a program says is lost");
                return kept;
            }
        }
    }
}
