//! What a client streams, like a context on its standard input: `Upload.Pull`.
//!
//! In: the path by which the client named it, behind `http://buildkit-session`. Out: a reader for whoever may block. Few
//! messages wait for it, none is larger than any other of a session, and a stream that breaks off is an error and never an
//! end. How much it may become is its reader's to limit: unpacking is ([`oci::layer`]), and so is a Dockerfile.

use std::io::{self, Read};
use std::sync::Arc;

use api::upload::BytesMessage;
use api::upload::upload_client::UploadClient;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::bytes::{Buf as _, Bytes};
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataValue;
use tonic::{Request, Status};

use super::Session;
use crate::daemon::MESSAGE_MAX_BYTES;

const PULL: &str = "/moby.upload.v1.Upload/Pull";
/// Which stream is meant.
const PATH: &str = "urlpath";
/// Messages that wait for a slow reader; then the client waits.
const WAITING: usize = 4;

/// Opens a stream; it is asked for at once, and ends with `cancel`.
///
/// # Errors
/// When the client streams nothing.
pub fn open(session: &Arc<Session>, path: &str, runtime: &Handle, cancel: CancellationToken) -> io::Result<Stream> {
    if !session.has(PULL) {
        return Err(io::Error::other("the client streams nothing to the daemon"));
    }
    let path = MetadataValue::try_from(path).map_err(|_| io::Error::other("the stream has no proper name"))?;
    let (give, pieces) = mpsc::channel(WAITING);
    let session = session.clone();
    runtime.spawn(async move {
        let outcome = tokio::select! {
            biased;
            () = session.lost().cancelled() => Err("the client has gone: its session is closed".to_owned()),
            () = cancel.cancelled() => Err("canceled".to_owned()),
            outcome = pull(&session, path, &give) => outcome.map_err(|status| status.message().to_owned()),
        };
        // Nobody may read any more.
        let _ = give.send(outcome.map(|()| None)).await;
    });
    Ok(Stream { pieces, piece: Bytes::new(), ended: false })
}

type Piece = Result<Option<Bytes>, String>;

async fn pull(
    session: &Session,
    path: MetadataValue<tonic::metadata::Ascii>,
    give: &mpsc::Sender<Piece>,
) -> Result<(), Status> {
    // The call goes in both directions; this one is silent.
    let mut request = Request::new(futures_util::stream::pending::<BytesMessage>());
    request.metadata_mut().insert(PATH, path);
    let mut client = UploadClient::new(session.channel()).max_decoding_message_size(MESSAGE_MAX_BYTES);
    let mut incoming = client.pull(request).await?.into_inner();
    while let Some(message) = incoming.message().await? {
        if !message.data.is_empty() && give.send(Ok(Some(message.data))).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Such a stream.
#[derive(Debug)]
pub struct Stream {
    pieces: mpsc::Receiver<Piece>,
    piece: Bytes,
    ended: bool,
}

impl Read for Stream {
    /// Blocks.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() && !self.ended {
            match self.pieces.blocking_recv() {
                Some(Ok(Some(piece))) => self.piece = piece,
                Some(Ok(None)) => self.ended = true,
                Some(Err(words)) => return Err(io::Error::other(words)),
                None => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it broke off in the middle")),
            }
        }
        let length = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_ends_only_when_it_is_said_to() {
        let check = |said: Vec<Piece>, expected: Result<&[u8], &str>| {
            let (give, pieces) = mpsc::channel(said.len().max(1));
            for piece in said {
                give.try_send(piece).expect("there is room");
            }
            drop(give);
            let mut all = Vec::new();
            let read = Stream { pieces, piece: Bytes::new(), ended: false }.read_to_end(&mut all);
            match (read, expected) {
                (Ok(_), Ok(expected)) => assert_eq!(all, expected),
                (Err(error), Err(expected)) => assert!(error.to_string().contains(expected), "{error}"),
                (read, _) => panic!("{read:?}: {all:?}"),
            }
        };
        let piece = |bytes: &'static [u8]| Ok(Some(Bytes::from_static(bytes)));
        check(vec![piece(b"ab"), piece(b"c"), Ok(None)], Ok(b"abc"));
        check(vec![Ok(None)], Ok(b""));
        check(vec![piece(b"ab")], Err("broke off"));
        check(vec![piece(b"ab"), Err("the disk is gone".into())], Err("the disk is gone"));
    }
}
