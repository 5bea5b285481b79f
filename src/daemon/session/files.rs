//! Directories of a client, fetched when the engine wants them: `FileSync.DiffCopy`.
//!
//! In: what is wanted. Out: a directory of the store's with it, by [`super::receive`] on a thread of its own, so that
//! writing files holds up nobody. The engine's words about it are those of the errors here. What a client gives a shared
//! key is kept under that, with all that decides what comes of it.

use std::io::{self, Read};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use api::filesync::file_sync_client::FileSyncClient;
use api::fsutil::Packet;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use oci::model::Digest;
use solver::seam::LogSink;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::metadata::{MetadataMap, MetadataValue};

use super::receive::Receiver;
use super::{Session, upload};
use crate::daemon::MESSAGE_MAX_BYTES;
use crate::engine::Failure;
use crate::options::theirs::{Files, Wanted};

/// Packets that wait for the thread that writes. Requests and the end must never have to wait for it.
const PACKETS: usize = 128;
const METHOD: &str = "/moby.filesync.v1.FileSync/DiffCopy";

/// The directories of one session.
#[derive(Debug)]
pub struct SessionFiles(pub Arc<Session>);

impl Files for SessionFiles {
    fn kept_as(&self, wanted: Wanted<'_>) -> Option<String> {
        let key = &self.0.shared_key;
        if key.is_empty() {
            return None;
        }
        let all = (key, wanted.name, wanted.including, wanted.only, wanted.without);
        let text = serde_json::to_vec(&all).expect("texts and lists are JSON");
        Some(Digest::of(&text).hex())
    }

    fn stream(&self, name: &str, cancel: CancellationToken) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(upload::open(&self.0, name, &Handle::current(), cancel)?))
    }

    fn bring<'a>(
        &'a self,
        wanted: Wanted<'a>,
        into: BorrowedFd<'a>,
        log: &'a (dyn LogSink + 'a),
    ) -> BoxFuture<'a, Result<(), Failure>> {
        async move {
            let session = &*self.0;
            if !session.has(METHOD) {
                return Err(Failure::new(format!("the client gives no directory `{}` to the daemon", wanted.name)));
            }
            tokio::select! {
                biased;
                () = session.lost().cancelled() => Err(lost()),
                brought = bring(session, wanted, into, log) => brought,
            }
        }
        .boxed()
    }
}

/// The session is gone.
pub fn lost() -> Failure {
    Failure::new("the client has gone: its session is closed")
}

async fn bring(
    session: &Session,
    wanted: Wanted<'_>,
    into: BorrowedFd<'_>,
    log: &(dyn LogSink + '_),
) -> Result<(), Failure> {
    let of =
        |words: String| Failure::new(format!("cannot get the directory `{}` of the client", wanted.name)).note(words);
    let mut receiver = Receiver::new(into).map_err(|error| of(error.to_string()))?;
    let (say, said) = mpsc::channel::<Packet>(PACKETS);
    let outgoing = futures_util::stream::unfold(said, |mut said| async { said.recv().await.map(|it| (it, said)) });
    let mut request = Request::new(outgoing);
    describe(request.metadata_mut(), wanted);
    let mut client = FileSyncClient::new(session.channel()).max_decoding_message_size(MESSAGE_MAX_BYTES);
    let answer = client.diff_copy(request).await.map_err(|status| of(status.message().to_owned()))?;
    let mut incoming = answer.into_inner();
    let (give, mut given) = mpsc::channel::<Packet>(PACKETS);
    let (tell, mut told) = tokio::sync::watch::channel(0_u64);
    let mut writing = tokio::task::spawn_blocking(move || {
        let mut out = Vec::new();
        while let Some(packet) = given.blocking_recv() {
            let ended = receiver.take(packet, &mut out)?;
            tell.send_replace(receiver.bytes());
            for packet in out.drain(..) {
                if say.blocking_send(packet).is_err() {
                    // The call is over; why, the stream says.
                    return Ok(false);
                }
            }
            if ended {
                return Ok(true);
            }
        }
        Ok::<bool, super::receive::ReceiveError>(false)
    });
    let name = "transferring";
    let ended = loop {
        tokio::select! {
            packet = incoming.message() => match packet {
                Ok(Some(packet)) => {
                    if give.send(packet).await.is_err() {
                        break (&mut writing).await;
                    }
                    if told.has_changed().unwrap_or(false) {
                        log.progress(name, *told.borrow_and_update(), None, false);
                    }
                }
                Ok(None) => {
                    drop(give);
                    break (&mut writing).await;
                }
                Err(status) => return Err(of(status.message().to_owned())),
            },
            ended = &mut writing => break ended,
        }
    };
    let ended = ended.map_err(|error| Failure::from_error(&error))?;
    let whole = ended.map_err(|error| {
        let failure = Failure::from_error(&error);
        failure.note(format!("it is the directory `{}` of the client", wanted.name))
    })?;
    if !whole {
        return Err(of("it broke off in the middle".into()));
    }
    let bytes = *told.borrow();
    log.progress(name, bytes, Some(bytes), true);
    Ok(())
}

/// What is wanted, as the call's metadata says it.
fn describe(metadata: &mut MetadataMap, wanted: Wanted<'_>) {
    append(metadata, "dir-name", &[wanted.name.to_owned()]);
    append(metadata, "include-patterns", wanted.including);
    append(metadata, "exclude-patterns", wanted.without);
    append(metadata, "followpaths", wanted.only);
}

/// Values of one key; encoded, and said to be, where one has characters that no header has.
fn append(metadata: &mut MetadataMap, key: &'static str, values: &[String]) {
    let plain = |value: &String| {
        !value.is_empty() && value.bytes().all(|byte| (0x20..0x7f).contains(&byte)) && value.trim() == value
    };
    let encoded = !values.iter().all(plain);
    for value in values {
        let value = if encoded { escaped(value) } else { value.clone() };
        let value = MetadataValue::try_from(value).expect("what is escaped is plain ASCII");
        metadata.append(key, value);
    }
    if encoded && !values.is_empty() {
        let key = tonic::metadata::MetadataKey::from_bytes(format!("{key}-encoded").as_bytes());
        metadata.insert(key.expect("these are names of headers"), MetadataValue::from_static("1"));
    }
}

/// As in the query of an address.
fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_pass_as_headers_whatever_they_are_made_of() {
        let check = |values: &[&str], expected: &[&str], encoded: bool| {
            let mut metadata = MetadataMap::new();
            append(
                &mut metadata,
                "exclude-patterns",
                &values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>(),
            );
            let found: Vec<_> =
                metadata.get_all("exclude-patterns").iter().map(|v| v.to_str().expect("ASCII")).collect();
            assert_eq!((found, metadata.get("exclude-patterns-encoded").is_some()), (expected.to_vec(), encoded));
        };
        check(&[], &[], false);
        check(&["*.o", "!a b"], &["*.o", "!a b"], false);
        check(&["*.o", "ä%"], &["%2A.o", "%C3%A4%25"], true);
        check(&["a\nb"], &["a%0Ab"], true);
        check(&[" a"], &["%20a"], true);
    }
}
