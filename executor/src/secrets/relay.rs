//! Between the steps and an ssh agent: they may list keys and sign, nothing else.
//!
//! In: a listening socket of a step's, and the path of an agent's. Out: nothing; it serves until it is dropped. Every
//! request is read whole and looked at. What adds, removes, locks or extends is answered with a failure, and the agent
//! never sees it: a step must not empty an agent, nor leave its own keys in it. draft-miller-ssh-agent, section 5.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// `SSH_AGENTC_REQUEST_IDENTITIES` and `SSH_AGENTC_SIGN_REQUEST`.
const ALLOWED: [u8; 2] = [11, 13];
/// `SSH_AGENT_FAILURE`, as a whole message.
const FAILURE: [u8; 5] = [0, 0, 0, 1, 5];
/// Longer messages are refused by every agent.
const MESSAGE_MAX_BYTES: u32 = 256 << 10;
/// Connections of a step at once; more wait.
const CONNECTIONS_MAX: usize = 16;

/// Passes requests of whoever connects to `listener` to the agent at `agent`. Never returns.
pub(crate) async fn serve(listener: UnixListener, agent: PathBuf) {
    let agent: Arc<Path> = agent.into();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let place = places.clone().acquire_owned().await.expect("it is never closed");
        let client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                // Out of descriptors, say: the step sees a connection that is not answered until one ends.
                tracing::debug!(%error, "a connection to an ssh agent is not accepted");
                drop(place);
                match connections.join_next().await {
                    Some(_) => continue,
                    None => return,
                }
            }
        };
        while connections.try_join_next().is_some() {}
        let agent = agent.clone();
        connections.spawn(async move {
            if let Err(error) = relay(client, &agent).await {
                tracing::debug!(%error, agent = %agent.display(), "a connection to an ssh agent ended");
            }
            drop(place);
        });
    }
}

/// One connection.
async fn relay(mut client: UnixStream, agent: &Path) -> io::Result<()> {
    let mut upstream = None;
    while let Some(request) = message(&mut client).await? {
        let answer = if request.get(4).is_some_and(|kind| ALLOWED.contains(kind)) {
            let upstream = match &mut upstream {
                Some(upstream) => upstream,
                None => upstream.insert(UnixStream::connect(agent).await?),
            };
            upstream.write_all(&request).await?;
            message(upstream).await?.ok_or(io::ErrorKind::UnexpectedEof)?
        } else {
            FAILURE.to_vec()
        };
        client.write_all(&answer).await?;
    }
    Ok(())
}

/// The next message, its length before it; `None` at the end.
async fn message(from: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let length = match from.read_u32().await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        length => length?,
    };
    if length == 0 || length > MESSAGE_MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {length} bytes")));
    }
    let mut message = vec![0; 4 + length as usize];
    message[..4].copy_from_slice(&length.to_be_bytes());
    from.read_exact(&mut message[4..]).await?;
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An agent that answers every message with a message of type 6 and its own type.
    async fn agent(listener: UnixListener) {
        loop {
            let (mut client, _) = listener.accept().await.expect("accepted");
            tokio::spawn(async move {
                while let Some(request) = message(&mut client).await.expect("a message") {
                    client.write_all(&[0, 0, 0, 2, 6, request[4]]).await.expect("answered");
                }
            });
        }
    }

    #[tokio::test]
    async fn only_listing_and_signing_reach_the_agent() {
        let dir = tempfile::tempdir().expect("a directory");
        let (behind, before) = (dir.path().join("behind"), dir.path().join("before"));
        let agent = tokio::spawn(agent(UnixListener::bind(&behind).expect("bound")));
        let relay = tokio::spawn(serve(UnixListener::bind(&before).expect("bound"), behind.clone()));
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS_MAX {
            clients.push(UnixStream::connect(&before).await.expect("connected"));
        }
        for client in &mut clients {
            for kind in [1, 3, 9, 11, 13, 17, 18, 19, 20, 21, 22, 23, 25, 26, 27, 255] {
                client.write_all(&[0, 0, 0, 3, kind, 0, 0]).await.expect("sent");
                let answer = message(client).await.expect("answered").expect("answered");
                let expected = if matches!(kind, 11 | 13) { vec![0, 0, 0, 2, 6, kind] } else { FAILURE.to_vec() };
                assert_eq!(answer, expected, "{kind}");
            }
        }
        // One more waits until one of the others ends.
        let mut late = UnixStream::connect(&before).await.expect("connected");
        late.write_all(&[0, 0, 0, 1, 11]).await.expect("sent");
        drop(clients.pop());
        assert_eq!(message(&mut late).await.expect("answered"), Some(vec![0, 0, 0, 2, 6, 11]));
        for bad in [&[0, 0, 0, 0][..], &[0xff, 0xff, 0xff, 0xff, 11], &[0, 4, 0, 1, 11]] {
            drop(clients.pop());
            let mut client = UnixStream::connect(&before).await.expect("connected");
            client.write_all(bad).await.expect("sent");
            let closed = client.read(&mut [0; 8]).await.map_err(|error| error.kind());
            assert!(matches!(closed, Ok(0) | Err(io::ErrorKind::ConnectionReset)), "{bad:?}: {closed:?}");
        }
        relay.abort();
        agent.abort();
    }
}
