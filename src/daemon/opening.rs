//! A connection from its first byte on: whoever connects has to begin with HTTP/2 soon.
//!
//! In: a stream of bytes. Out: the same stream, which fails when its beginning has not come in time, so that what connects
//! and says nothing, or one byte a minute, does not hold a descriptor for ever. What has begun may be silent as long as it
//! likes: clients keep connections for later.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tonic::transport::server::Connected;

/// How long it may take; clients begin at once.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// The preface, and the head of the frame that follows. RFC 9113, 3.4.
const BEGINNING_BYTES: usize = 24 + 9;

/// Such a connection.
#[derive(Debug)]
pub struct Opening<T> {
    io: T,
    /// Bytes of the beginning that have not come, and until when they may.
    missing: Option<(usize, Pin<Box<Sleep>>)>,
    /// Its place among the connections.
    _place: Option<OwnedSemaphorePermit>,
}

impl<T> Opening<T> {
    /// Of a connection that was just made.
    pub fn new(io: T, patience: Duration, place: Option<OwnedSemaphorePermit>) -> Self {
        Self { io, missing: Some((BEGINNING_BYTES, Box::pin(tokio::time::sleep(patience)))), _place: place }
    }
}

impl<T> Opening<T> {
    /// Fails what has not begun in time. Writing counts too: a server says its settings before it reads, and with TLS
    /// that takes a handshake.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let late = self.missing.as_mut().is_some_and(|(_, until)| until.as_mut().poll(context).is_ready());
        if late { Err(io::Error::new(io::ErrorKind::TimedOut, "the client says nothing")) } else { Ok(()) }
    }
}

impl<T: Connected> Connected for Opening<T> {
    type ConnectInfo = T::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Opening<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.check(context)?;
        let Some((missing, _)) = &mut this.missing else {
            return Pin::new(&mut this.io).poll_read(context, buffer);
        };
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(context, buffer))?;
        let came = buffer.filled().len() - before;
        if came >= *missing {
            this.missing = None;
        } else {
            *missing -= came;
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Opening<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Long enough for what is written before it is read.
    const SOON: Duration = Duration::from_millis(20);

    #[tokio::test]
    async fn what_does_not_begin_in_time_fails_and_what_has_begun_may_be_silent() {
        let (mut client, server) = tokio::io::duplex(100);
        let mut opening = Opening::new(server, SOON, None);
        client.write_all(&[1; BEGINNING_BYTES - 1]).await.expect("there is room");
        let mut came = Vec::new();
        let error = opening.read_to_end(&mut came).await.expect_err("one byte is missing");
        assert_eq!((error.kind(), came.len()), (io::ErrorKind::TimedOut, BEGINNING_BYTES - 1));

        let (mut client, server) = tokio::io::duplex(100);
        let mut opening = Opening::new(server, SOON, None);
        client.write_all(&[1; BEGINNING_BYTES]).await.expect("there is room");
        let mut beginning = [0; BEGINNING_BYTES];
        opening.read_exact(&mut beginning).await.expect("it is there");
        // Silence that is longer than the patience.
        let mut next = [0; 1];
        let late = async {
            tokio::time::sleep(SOON * 2).await;
            client.write_all(&[2]).await
        };
        let (read, wrote) = tokio::join!(opening.read_exact(&mut next), late);
        assert!(read.is_ok() && wrote.is_ok());
    }
}
