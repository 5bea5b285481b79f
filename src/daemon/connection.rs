//! One connection of a client: a socket of this machine, or TLS over a network.
//!
//! In: what a listener accepted. Out: a stream of bytes. The handshake of TLS happens when somebody first reads or writes,
//! in the connection's own task and on its own time ([`super::opening`] ends what takes too long), so that whoever shakes
//! hands slowly, or not at all, keeps nobody waiting. Who is refused there is written down with where they are.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::Accept;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::tls::Identity;

/// A machine that was unplugged is asked after so long a silence, so often, and so many times: by kernels, so that a
/// client that merely sleeps stays.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// Such a connection.
pub enum Connection {
    /// On this machine.
    Unix(UnixStream),
    /// Over a network.
    Tls(Box<Secured>),
}

/// TLS, from its first byte on.
pub struct Secured {
    peer: SocketAddr,
    state: State,
}

enum State {
    Shaking(Accept<TcpStream>),
    Open(TlsStream<TcpStream>),
    Refused,
}

impl Connection {
    /// A connection that was just made, in which nothing has been said.
    pub fn secured(stream: TcpStream, peer: SocketAddr, identity: &Identity) -> Self {
        if let Err(error) = tend(&stream) {
            tracing::debug!(%error, %peer, "a connection keeps the kernel's own settings");
        }
        Self::Tls(Box::new(Secured { peer, state: State::Shaking(identity.acceptor().accept(stream)) }))
    }
}

fn tend(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    Ok(())
}

impl Secured {
    /// The stream, when the handshake is over.
    fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Pin<&mut TlsStream<TcpStream>>>> {
        if let State::Shaking(accept) = &mut self.state {
            match ready!(Pin::new(accept).poll(context)) {
                Ok(stream) => self.state = State::Open(stream),
                Err(error) => {
                    self.state = State::Refused;
                    tracing::info!(%error, peer = %self.peer, "a client was refused");
                    return Poll::Ready(Err(error));
                }
            }
        }
        match &mut self.state {
            State::Open(stream) => Poll::Ready(Ok(Pin::new(stream))),
            State::Shaking(_) | State::Refused => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

/// The connection is all that is known of a client; nobody asks for more.
impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(secured) => ready!(secured.poll_open(context))?.poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(secured) => ready!(secured.poll_open(context))?.poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut *self {
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            Self::Tls(secured) => ready!(secured.poll_open(context))?.poll_write_vectored(context, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Unix(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(secured) => ready!(secured.poll_open(context))?.poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(secured) => match &mut secured.state {
                State::Open(stream) => Pin::new(stream).poll_shutdown(context),
                // Nothing was said: it is closed when it is dropped.
                State::Shaking(_) | State::Refused => Poll::Ready(Ok(())),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::opening::Opening;
    use super::super::tls;
    use super::*;

    #[tokio::test]
    async fn a_handshake_that_stalls_ends_in_time_whether_one_reads_or_writes_first() {
        let identity = Identity::read(&tls::example()).expect("they are whole").expect("they are named");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback is there");
        let address = listener.local_addr().expect("it is bound");
        for (said, writes) in [(&b""[..], false), (b"", true), (b"\x16\x03\x01\x02\x00\x01", true)] {
            let mut client = TcpStream::connect(address).await.expect("it listens");
            client.write_all(said).await.expect("there is room");
            let (stream, peer) = listener.accept().await.expect("somebody came");
            let connection = Connection::secured(stream, peer, &identity);
            let mut opening = Opening::new(connection, Duration::from_millis(20), None);
            let error = match writes {
                // As HTTP/2 does it: the server's settings go first.
                true => opening.write_all(b"settings").await.expect_err("nobody shook hands"),
                false => opening.read_u8().await.map(drop).expect_err("nobody shook hands"),
            };
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{said:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_tls_is_refused_and_told_so() {
        let identity = Identity::read(&tls::example()).expect("they are whole").expect("they are named");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback is there");
        let mut client = TcpStream::connect(listener.local_addr().expect("it is bound")).await.expect("it listens");
        client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("there is room");
        let (stream, peer) = listener.accept().await.expect("somebody came");
        let mut connection = Connection::secured(stream, peer, &identity);
        let error = connection.write_all(b"settings").await.expect_err("it is no TLS");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(connection.read_u8().await.is_err(), "nor is it read from later");
        drop(connection);
        let mut alert = Vec::new();
        // The kernel may have sent a reset behind the alert.
        let _ = client.read_to_end(&mut alert).await;
        assert_eq!(alert.first(), Some(&21), "an alert, RFC 8446, 5.1: {alert:?}");
    }
}
