//! Who drives a command: the builder's own signals, or somebody who sends them, and takes the command's streams.
//!
//! In: signals of this process, or numbers from elsewhere. Out: one after the other, to [`super::run`], which passes them on.

use std::io;
use std::os::fd::OwnedFd;
use std::task::Poll;

use tokio::signal::unix::{Signal as Incoming, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::SandboxError;
use super::spec::WindowSize;
use super::terminal::Terminal;

/// Somebody who drives a command while it runs.
pub struct Driver {
    /// Takes what it writes.
    pub streams: Driven,
    /// Told when the command's process is there.
    pub started: oneshot::Sender<()>,
    /// Numbers of signals for it; those that are none do nothing.
    pub signals: mpsc::UnboundedReceiver<i32>,
}

/// Where a command that is driven writes to.
pub enum Driven {
    /// Its standard output and error.
    Pipes(OwnedFd, OwnedFd),
    /// A terminal of its own of this size, also in place of its standard input: handed over as soon as it is there.
    Terminal(WindowSize, oneshot::Sender<Terminal>),
}

/// Signals that the builder gets and the command is meant to.
#[derive(Default)]
pub(super) struct Signals {
    own: Vec<(i32, Incoming)>,
    /// Those of somebody who drives the command.
    pub(super) driven: Option<mpsc::UnboundedReceiver<i32>>,
}

impl Signals {
    /// Listens for those that are `forward`ed, and for changes of the size of the builder's `terminal`.
    pub(super) fn listen(forward: bool, terminal: bool) -> Result<Self, SandboxError> {
        let mut kinds = Vec::new();
        if forward {
            kinds.extend([
                SignalKind::interrupt(),
                SignalKind::terminate(),
                SignalKind::hangup(),
                SignalKind::quit(),
                SignalKind::user_defined1(),
                SignalKind::user_defined2(),
            ]);
        }
        if terminal {
            kinds.push(SignalKind::window_change());
        }
        let listened: io::Result<_> = kinds.into_iter().map(|kind| Ok((kind.as_raw_value(), signal(kind)?))).collect();
        listened
            .map(|own| Self { own, driven: None })
            .map_err(|source| SandboxError::Helper { act: "listen for signals", source })
    }

    /// The number of the next signal; never when none is listened for.
    pub(super) async fn next(&mut self) -> Option<i32> {
        std::future::poll_fn(|context| {
            for (number, incoming) in &mut self.own {
                if incoming.poll_recv(context).is_ready() {
                    return Poll::Ready(Some(*number));
                }
            }
            match self.driven.as_mut().map(|driven| driven.poll_recv(context)) {
                Some(Poll::Ready(Some(number))) => return Poll::Ready(Some(number)),
                // Nobody drives it any more.
                Some(Poll::Ready(None)) => self.driven = None,
                Some(Poll::Pending) | None => {}
            }
            Poll::Pending
        })
        .await
    }
}
