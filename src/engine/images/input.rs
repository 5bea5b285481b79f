//! What archives are read from: a file or standard input, until the user has had enough.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio_util::sync::CancellationToken;

use crate::engine::Failure;

/// How soon a read that waits for a silent pipe notices that it was canceled.
const CANCEL_NOTICED_WITHIN: Duration = Duration::from_millis(100);

/// A stream that fails once it is canceled, even while its other end is silent.
pub struct Input {
    source: Source,
    cancel: CancellationToken,
}

enum Source {
    File(File),
    Stdin(io::Stdin),
}

impl Input {
    /// Opens `path`, or standard input for `None`.
    pub fn open(path: Option<&Path>, cancel: CancellationToken) -> Result<Self, Failure> {
        let source = match path {
            Some(path) => Source::File(File::open(path).map_err(|error| unreadable(path, &error))?),
            None => Source::Stdin(io::stdin()),
        };
        Ok(Self { source, cancel })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match &self.source {
            Source::File(file) => file.as_fd(),
            Source::Stdin(stdin) => stdin.as_fd(),
        }
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let timeout = Timespec::try_from(CANCEL_NOTICED_WITHIN).expect("a tenth of a second");
        loop {
            if self.cancel.is_cancelled() {
                return Err(io::Error::other("canceled"));
            }
            let mut fds = [PollFd::from_borrowed_fd(self.fd(), PollFlags::IN)];
            match poll(&mut fds, Some(&timeout)) {
                Ok(0) | Err(rustix::io::Errno::INTR) => {}
                Ok(_) => break,
                Err(error) => return Err(error.into()),
            }
        }
        // Not through `Stdin`, whose buffer poll does not see.
        Ok(rustix::io::read(self.fd(), buffer)?)
    }
}

/// `path` in a message; `None` is standard input.
pub fn words(path: Option<&Path>) -> String {
    path.map_or_else(|| "standard input".to_owned(), |path| format!("`{}`", path.display()))
}

/// Says that `act` did not succeed with `path`; what the failure said so far becomes its reason.
pub fn failed(act: &str, path: Option<&Path>, mut failure: Failure) -> Failure {
    for problem in &mut failure.problems {
        let reason = std::mem::replace(&mut problem.message, format!("cannot {act} {}", words(path)));
        problem.notes.insert(0, reason);
    }
    failure
}

/// A file that cannot be read.
pub fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("cannot read `{}`", path.display())).note(error.to_string())
}
