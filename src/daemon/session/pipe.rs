//! The stream of `Control.Session` as a connection, on which the daemon is the client.
//!
//! In: messages of bytes in both directions. Out: a channel for calls to the client's services. When the client's side
//! ends, or the connection does, the session is lost; when the session is lost, both end.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use api::control::BytesMessage;
use futures_util::Stream;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::mpsc;
use tokio_util::bytes::BytesMut;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// Pieces that may wait for the client to take them.
const PIECES: usize = 16;
/// Bytes of a piece, and those that may wait between the connection and the stream.
const PIECE_BYTES: usize = 64 << 10;

/// The daemon's side of the stream, to be answered with; ends when the session is lost.
pub struct Hijacked {
    pieces: mpsc::Receiver<BytesMessage>,
    lost: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The client may hang up: then nobody polls this any more.
    _guard: DropGuard,
}

impl Stream for Hijacked {
    type Item = Result<BytesMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.pieces.poll_recv(context) {
            Poll::Ready(piece) => Poll::Ready(piece.map(Ok)),
            Poll::Pending => self.lost.as_mut().poll(context).map(|()| None),
        }
    }
}

/// Connects to the client through `stream`: the answer to it, and the channel once the client speaks HTTP/2 there. `lost`
/// fires when the connection is gone, and ends it when it fires.
pub fn connect(
    mut stream: Streaming<BytesMessage>,
    lost: CancellationToken,
) -> (Hijacked, impl Future<Output = Result<Channel, Status>> + Send) {
    let (sender, pieces) = mpsc::channel(PIECES);
    let (outer, inner) = tokio::io::duplex(PIECE_BYTES);
    let (mut read, mut write) = tokio::io::split(outer);
    let ends = lost.clone();
    tokio::spawn(async move {
        let incoming = async {
            while let Ok(Some(piece)) = stream.message().await {
                if write.write_all(&piece.data).await.is_err() {
                    return;
                }
            }
        };
        let outgoing = async {
            let mut buffer = BytesMut::with_capacity(PIECE_BYTES);
            while let Ok(1..) = read.read_buf(&mut buffer).await {
                if sender.send(BytesMessage { data: buffer.split().freeze() }).await.is_err() {
                    return;
                }
                buffer.reserve(PIECE_BYTES);
            }
        };
        tokio::select! {
            () = ends.cancelled() => {}
            () = incoming => {}
            () = outgoing => {}
        }
        ends.cancel();
    });
    let io = Arc::new(Mutex::new(Some(TokioIo::new(inner))));
    let connector = tower::service_fn(move |_| {
        // One connection is all there is.
        let io = io.lock().unwrap_or_else(PoisonError::into_inner).take();
        async move { io.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotConnected)) }
    });
    let guard = lost.clone().drop_guard();
    let hijacked = Hijacked { pieces, lost: Box::pin(lost.cancelled_owned()), _guard: guard };
    let channel = async move {
        let endpoint = Endpoint::from_static("http://localhost");
        let channel = endpoint.connect_with_connector(connector).await;
        channel.map_err(|error| Status::unavailable(format!("the client does not answer in its session: {error}")))
    };
    (hijacked, channel)
}
