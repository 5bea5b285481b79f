//! A name server for steps whose host has one that only the host reaches: questions are passed on as they are.
//!
//! In come sockets that are bound at the steps' gateway, in the router's namespace; what is asked there goes out from
//! the builder's own. Deliberately absent: any understanding of what is asked, and memory of it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::timeout;

/// The port of name servers.
const DNS: u16 = 53;
/// Resolvers ask again after five seconds.
const PATIENCE: Duration = Duration::from_secs(4);
/// A step that asks without end gets no more of us than this.
const AT_ONCE_MAX: usize = 256;
/// No datagram is longer.
const DATAGRAM_MAX_BYTES: usize = 65_535;
/// What one conversation over TCP may take.
const CONVERSATION: Duration = Duration::from_secs(30);

/// Passes on until it is dropped.
pub struct Forwarder(Vec<AbortHandle>);

impl Forwarder {
    /// Begins; in a runtime. `servers` are asked in order.
    pub fn start(udp: OwnedFd, tcp: OwnedFd, servers: Vec<IpAddr>) -> io::Result<Self> {
        let servers: Arc<[SocketAddr]> = servers.into_iter().map(|server| (server, DNS).into()).collect();
        let udp = std::net::UdpSocket::from(udp);
        udp.set_nonblocking(true)?;
        let tcp = std::net::TcpListener::from(tcp);
        tcp.set_nonblocking(true)?;
        let datagrams = tokio::spawn(datagrams(Arc::new(UdpSocket::from_std(udp)?), Arc::clone(&servers)));
        let connections = tokio::spawn(connections(TcpListener::from_std(tcp)?, servers));
        Ok(Self(vec![datagrams.abort_handle(), connections.abort_handle()]))
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

async fn datagrams(socket: Arc<UdpSocket>, servers: Arc<[SocketAddr]>) {
    let places = Arc::new(Semaphore::new(AT_ONCE_MAX));
    let mut buffer = vec![0; DATAGRAM_MAX_BYTES];
    loop {
        let (count, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // The answer before reached nobody any more.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return tracing::debug!("the steps' name server ends: {error}"),
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let (socket, servers, question) = (Arc::clone(&socket), Arc::clone(&servers), buffer[..count].to_vec());
        tokio::spawn(async move {
            let _place = place;
            for server in servers.iter() {
                match timeout(PATIENCE, ask(*server, &question)).await {
                    Ok(Ok(answer)) => match socket.send_to(&answer, from).await {
                        Ok(_) => return,
                        Err(error) => return tracing::debug!("an answer of {server} reached no step: {error}"),
                    },
                    Ok(Err(error)) => tracing::debug!("name server {server}: {error}"),
                    Err(_) => tracing::debug!("name server {server} does not answer"),
                }
            }
        });
    }
}

/// One question from a port of its own, so that nobody else can answer it easily.
async fn ask(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: SocketAddr = match server {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut answer = vec![0; DATAGRAM_MAX_BYTES];
    let count = socket.recv(&mut answer).await?;
    answer.truncate(count);
    Ok(answer)
}

async fn connections(listener: TcpListener, servers: Arc<[SocketAddr]>) {
    let places = Arc::new(Semaphore::new(AT_ONCE_MAX));
    loop {
        let mut step = match listener.accept().await {
            Ok((step, _)) => step,
            Err(error) => return tracing::debug!("the steps' name server over TCP ends: {error}"),
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let servers = Arc::clone(&servers);
        tokio::spawn(async move {
            let _place = place;
            for server in servers.iter() {
                let Ok(Ok(mut server)) = timeout(PATIENCE, TcpStream::connect(server)).await else { continue };
                let talk = timeout(CONVERSATION, tokio::io::copy_bidirectional(&mut step, &mut server)).await;
                return tracing::trace!("a conversation with a name server ended: {talk:?}");
            }
        });
    }
}
