//! Uploads in the test registry: sessions, chunks, and the ways of registries that know them otherwise.

use std::collections::BTreeMap;

use super::{DigestOf, Request, Response, State};

/// How chunks are taken.
#[derive(Clone, Debug)]
pub struct Chunks {
    /// The answer to a chunk that was taken.
    pub status: u16,
    /// A chunk longer than this is refused, with this status and these words.
    pub max: Option<(usize, u16, &'static str)>,
    /// What `OCI-Chunk-Min-Length` says; a shorter one that is not the last is refused.
    pub min: Option<usize>,
    /// Whether only the first chunk of a session is kept, and `Range` says so.
    pub only_first: bool,
    /// Whether a session says how far it is.
    pub tells: bool,
}

impl Default for Chunks {
    fn default() -> Self {
        Self { status: 202, max: None, min: None, only_first: false, tells: true }
    }
}

/// Sessions that are open, with what they have, by their number.
pub(super) type Sessions = BTreeMap<String, Vec<u8>>;

impl State {
    pub(super) fn open_session(&mut self, repository: &str) -> Response {
        self.sessions += 1;
        let session = self.sessions.to_string();
        self.open_sessions.insert(session.clone(), Vec::new());
        let mut response = Response::new(202);
        if let Some(min) = self.chunks.min {
            response.set("OCI-Chunk-Min-Length", min.to_string());
        }
        self.located(repository, &session, response)
    }

    /// Where the session goes on. The address says how much is there, as that of some registries does.
    fn located(&self, repository: &str, session: &str, response: Response) -> Response {
        let length = self.open_sessions.get(session).map_or(0, Vec::len);
        let range = format!("0-{}", length.saturating_sub(1));
        response
            .with("Location", format!("/v2/{repository}/blobs/uploads/{session}?_state=a%2Bb%3D{length}"))
            .with("Range", range)
    }

    pub(super) fn upload(&mut self, request: &Request, repository: &str, session: &str, digest: DigestOf) -> Response {
        let unknown = || Response::error(404, "BLOB_UPLOAD_UNKNOWN", "no such session");
        let Some(length) = self.open_sessions.get(session).map(Vec::len) else { return unknown() };
        if request.method == "GET" {
            if !self.chunks.tells {
                return Response::error(405, "UNSUPPORTED", "not here");
            }
            return self.located(repository, session, Response::new(204));
        }
        if request.param("_state") != Some(format!("a+b={length}")) {
            return unknown();
        }
        match request.method.as_str() {
            "PATCH" => self.chunk(request, repository, session, length),
            "PUT" => self.finish(request, repository, session, digest),
            _ => Response::error(405, "UNSUPPORTED", "not here"),
        }
    }

    fn chunk(&mut self, request: &Request, repository: &str, session: &str, length: usize) -> Response {
        let size = request.body.len();
        if let Some((_, status, words)) = self.chunks.max.filter(|(max, ..)| size > *max) {
            return Response::error(status, "SIZE_INVALID", words);
        }
        let range = format!("{length}-{}", length + size - 1);
        if request.header("content-range").is_some_and(|given| given != range) {
            let refused = Response::error(416, "BLOB_UPLOAD_INVALID", "the chunk does not follow the last one");
            return self.located(repository, session, refused);
        }
        if self.short.as_deref() == Some(session) {
            return Response::error(416, "SIZE_INVALID", "the chunk before was too short");
        }
        if self.chunks.min.is_some_and(|min| size < min) {
            self.short = Some(session.to_owned());
        }
        let kept = self.open_sessions.get_mut(session).expect("it was looked up");
        if !self.chunks.only_first || kept.is_empty() {
            kept.extend_from_slice(&request.body);
        }
        self.located(repository, session, Response::new(self.chunks.status))
    }

    fn finish(&mut self, request: &Request, repository: &str, session: &str, digest: DigestOf) -> Response {
        let bytes = [self.open_sessions.remove(session).unwrap_or_default(), request.body.clone()].concat();
        let found = digest(&bytes);
        if request.param("digest").as_deref() != Some(found.as_str()) {
            return Response::error(400, "DIGEST_INVALID", "the bytes have another digest");
        }
        self.blobs.entry(repository.into()).or_default().insert(found.clone(), bytes);
        Response::new(201).with("Docker-Content-Digest", found)
    }

    /// A part of a chunk whose connection was cut.
    pub(super) fn keep_part(&mut self, session: &str, part: &[u8]) {
        if let Some(kept) = self.open_sessions.get_mut(session) {
            kept.extend_from_slice(part);
        }
    }
}
