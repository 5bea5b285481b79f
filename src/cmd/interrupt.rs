//! Ctrl-C, and the other ways to ask a program to stop.
//!
//! The first signal cancels the work, which then ends cleanly; the second ends the process at once. Signals that were
//! ignored when the process began (`nohup`, a job in the background) stay ignored.

use std::sync::Arc;

use solver::graph::VertexId;
use solver::seam::{Event, Progress};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::engine::Failure;
use crate::progress::terminal;

/// Cancels `cancel` at the first signal, and says so to `progress`; until `until` fires, from when on signals are
/// somebody else's.
///
/// # Errors
/// When the system takes no handler.
pub fn listen(cancel: CancellationToken, until: CancellationToken, progress: Arc<dyn Progress>) -> Result<(), Failure> {
    let ignored = std::fs::read_to_string("/proc/self/status").map_or(0, |status| ignored(&status));
    let listen = |kind: SignalKind| -> Result<Option<Signal>, Failure> {
        if ignored & (1 << (kind.as_raw_value() - 1)) != 0 {
            return Ok(None);
        }
        let stream = signal(kind);
        stream.map(Some).map_err(|error| Failure::new("signals cannot be listened to").note(error.to_string()))
    };
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                () = received(&mut interrupt) => {}
                () = received(&mut terminate) => {}
                () = received(&mut hangup) => {}
            }
        };
        tokio::select! {
            biased;
            () = until.cancelled() => return,
            () = next() => {}
        }
        let text = "stopping; a second Ctrl-C ends at once".to_owned();
        progress.event(Event::Notice { vertex: VertexId::of_name("interrupt"), text });
        cancel.cancel();
        next().await;
        terminal::restore();
        std::process::exit(crate::EXIT_CANCELED.into());
    });
    Ok(())
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// The mask of ignored signals. proc(5), "SigIgn".
fn ignored(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn ignored_signals_are_read_from_the_status() {
        assert_eq!(super::ignored("Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\n"), 0x1001);
        assert_eq!(super::ignored(""), 0);
    }
}
