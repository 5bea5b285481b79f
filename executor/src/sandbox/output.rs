//! The command's output: two pipes, read as they fill, handed to a [`LogSink`] byte for byte.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use solver::seam::{LogSink, Stream};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// As much as a pipe holds.
const BUFFER_BYTES: usize = 64 << 10;

/// Reads both pipes.
pub struct Pump<'a> {
    log: &'a dyn LogSink,
    stdout: Option<pipe::Receiver>,
    stderr: Option<pipe::Receiver>,
    stdout_buffer: Vec<u8>,
    stderr_buffer: Vec<u8>,
}

impl<'a> Pump<'a> {
    /// Makes the pipes; the two descriptors are their writing ends.
    pub fn new(log: &'a dyn LogSink) -> io::Result<(Self, OwnedFd, OwnedFd)> {
        let (stdout, stdout_end) = io::pipe()?;
        let (stderr, stderr_end) = io::pipe()?;
        let receiver = |reader: io::PipeReader| pipe::Receiver::from_owned_fd(reader.into());
        let pump = Self {
            log,
            stdout: Some(receiver(stdout)?),
            stderr: Some(receiver(stderr)?),
            stdout_buffer: vec![0; BUFFER_BYTES],
            stderr_buffer: vec![0; BUFFER_BYTES],
        };
        Ok((pump, stdout_end.into(), stderr_end.into()))
    }

    /// Of the standard error alone.
    pub fn of_stderr(log: &'a dyn LogSink) -> io::Result<(Self, OwnedFd)> {
        let (pump, _, stderr_end) = Self::new(log)?;
        Ok((Self { stdout: None, ..pump }, stderr_end))
    }

    /// Whether there may be more.
    pub fn is_open(&self) -> bool {
        self.stdout.is_some() || self.stderr.is_some()
    }

    /// Passes one piece on. Nothing is lost when the future is dropped.
    pub async fn pass_on(&mut self) -> io::Result<()> {
        let (out, err) = (&mut self.stdout, &mut self.stderr);
        let (out_open, err_open) = (out.is_some(), err.is_some());
        let (stream, count) = tokio::select! {
            count = read(out, &mut self.stdout_buffer), if out_open => (Stream::Stdout, count?),
            count = read(err, &mut self.stderr_buffer), if err_open => (Stream::Stderr, count?),
        };
        match (stream, count) {
            (Stream::Stdout, 0) => self.stdout = None,
            (Stream::Stderr, 0) => self.stderr = None,
            (Stream::Stdout, count) => self.log.write(stream, &self.stdout_buffer[..count]),
            (Stream::Stderr, count) => self.log.write(stream, &self.stderr_buffer[..count]),
        }
        Ok(())
    }

    /// Passes on what is still in the pipes, without waiting for their end: all writers of the step are dead, but one
    /// may have given its end to a process elsewhere.
    pub fn drain(&mut self) -> io::Result<()> {
        let pipes = [
            (self.stdout.take(), Stream::Stdout, &mut self.stdout_buffer),
            (self.stderr.take(), Stream::Stderr, &mut self.stderr_buffer),
        ];
        for (pipe, stream, buffer) in pipes {
            let Some(pipe) = pipe else { continue };
            loop {
                // Not through tokio, which would wait for its poll to notice the bytes.
                match rustix::io::read(pipe.as_fd(), &mut buffer[..]) {
                    Ok(0) | Err(Errno::AGAIN) => break,
                    Ok(count) => self.log.write(stream, &buffer[..count]),
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }
}

async fn read(pipe: &mut Option<pipe::Receiver>, buffer: &mut [u8]) -> io::Result<usize> {
    match pipe {
        Some(pipe) => pipe.read(buffer).await,
        None => Ok(0),
    }
}
