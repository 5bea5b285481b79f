//! Questions to a person at the terminal.
//!
//! A question goes to standard error, a line of standard input comes back; for secrets the terminal shows nothing, and
//! is given back as it was whatever happens, Ctrl-C included. Deliberately absent: whether there is a person.

use std::io::BufRead as _;
use std::os::fd::AsFd as _;

use oci::registry::Secret;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use crate::engine::{Failure, FailureKind};
use crate::report;

/// Asks for a line.
///
/// # Errors
/// When there is none, or the person stops it.
pub async fn line(question: &str) -> Result<String, Failure> {
    report::print(question);
    let reading = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line).map(|count| (count > 0).then_some(line))
    });
    let read = tokio::select! {
        read = reading => read,
        _ = tokio::signal::ctrl_c() => {
            report::print("\n");
            return Err(Failure { kind: FailureKind::Canceled, ..Failure::new("canceled") });
        }
    };
    let failed = |reason: String| Failure::new("standard input cannot be read").note(reason);
    let line = read.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))?;
    let line = line.ok_or_else(|| Failure::new("standard input ended before there was an answer"))?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// Asks for a line that is not shown.
///
/// # Errors
/// As [`line`], and when the terminal cannot be told not to show it.
pub async fn secret(question: &str) -> Result<Secret, Failure> {
    let hidden = Hidden::start()?;
    let line = line(question).await;
    drop(hidden);
    report::print("\n");
    line.map(Secret::new)
}

/// A terminal that does not show what is typed.
struct Hidden {
    before: Termios,
}

impl Hidden {
    fn start() -> Result<Self, Failure> {
        let failed = |error: rustix::io::Errno| {
            Failure::new("the terminal cannot be told not to show the password")
                .note(error.to_string())
                .help("use `--password-stdin`")
        };
        let before = tcgetattr(std::io::stdin().as_fd()).map_err(failed)?;
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin().as_fd(), OptionalActions::Flush, &quiet).map_err(failed)?;
        Ok(Self { before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        if let Err(error) = tcsetattr(std::io::stdin().as_fd(), OptionalActions::Now, &self.before) {
            tracing::warn!(%error, "the terminal stays without echo; `stty echo` mends it");
        }
    }
}
