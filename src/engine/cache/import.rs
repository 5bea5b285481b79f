//! What comes in: all caches of a build are read when the first key is not known here, and then asked in their order.
//!
//! In: keys, later blobs. Out: results of this store without trees; and blobs, from whichever place has them. Nothing is
//! read unless something is not known, and no layer is brought unless something needs it. When a blob that a cache
//! promised cannot be had, the result is forgotten and the build solved again ([`Lost`]). Deliberately absent: what is
//! kept of a cache ([`store::remote::Book`]).

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use executor::ExecError;
use oci::content::ContentError;
use oci::model::{Descriptor, Digest};
use oci::registry::Client;
use solver::graph::VertexId;
use solver::key::Key;
use solver::seam::{Event, Progress, ResultId, Stream};
use store::remote::{Answer, Book, RegistryCache, RemoteError, Supplier, fetch_steadily, read, within};
use store::{Blobs, Store, StoreError};
use tokio::sync::OnceCell;

use super::{Place, Watch};

/// The caches that a build reads.
pub struct Imports {
    pub(super) store: Store,
    pub(super) places: Vec<Source>,
    /// One per place, once they were read.
    books: OnceCell<Vec<Option<Book>>>,
    /// For blobs of which only a registry is known.
    registry: Client,
    pub(super) watch: Arc<Watch>,
    /// Ids of cache mounts that were looked for.
    pub(super) mounts: Mutex<HashSet<String>>,
    /// Blobs that could not be had, or were not what they should be.
    banned: Mutex<HashSet<Digest>>,
}

pub(super) struct Source {
    pub(super) place: Place,
    /// It did not answer: it is not asked again.
    pub(super) dead: AtomicBool,
}

/// A layer that could not be had after all.
#[derive(Clone, Debug)]
pub struct Lost {
    /// Which.
    pub layer: ResultId,
    /// Why, in one line.
    pub why: String,
}

impl Lost {
    /// If that is why an operation failed.
    pub fn of(error: &ExecError) -> Option<Self> {
        let ExecError::Lost { layer, source } = error else { return None };
        let mut why = source.to_string();
        let mut cause = source.source();
        while let Some(next) = cause {
            why = format!("{why}: {next}");
            cause = next.source();
        }
        Some(Self { layer: layer.clone(), why })
    }
}

impl Imports {
    /// Those of `places`, in order; none is asked yet.
    pub fn new(places: Vec<Place>, store: Store, registry: Client, watch: Arc<Watch>) -> Self {
        let places = places.into_iter().map(|place| Source { place, dead: AtomicBool::new(false) }).collect();
        Self {
            store,
            places,
            books: OnceCell::new(),
            registry,
            watch,
            mounts: Mutex::default(),
            banned: Mutex::default(),
        }
    }

    /// The results that a cache knows for a key, made records of this store.
    pub async fn find(&self, key: &Key) -> Result<Option<Vec<ResultId>>, StoreError> {
        if self.places.is_empty() {
            return Ok(None);
        }
        let books = self.books().await;
        for (i, book) in books.iter().enumerate() {
            if let Some(results) = self.take(i, book.as_ref(), |book| book.find(key))? {
                return Ok(Some(results));
            }
        }
        Ok(None)
    }

    /// A result of an operation, of those caches that were read already.
    pub fn of_operation(&self, operation: &Key) -> Result<Option<Vec<ResultId>>, StoreError> {
        for (i, book) in self.books.get().into_iter().flatten().enumerate() {
            let found = self.take(i, book.as_ref(), |book| book.of_operation(operation).into_iter().next())?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Whether a cache that was read has a blob.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        let books = self.books.get().into_iter().flatten().zip(&self.places);
        let mut alive = books.filter(|(_, source)| !source.dead.load(Ordering::Relaxed));
        !self.is_banned(digest) && alive.any(|(book, _)| book.as_ref().is_some_and(|book| book.has_blob(digest)))
    }

    /// Never again takes a layer of that blob from a cache, and forgets what led to it.
    pub fn forget(&self, lost: &Lost) -> Result<(), StoreError> {
        if let Some(blob) = self.store.layer(&lost.layer)?.and_then(|layer| layer.blob) {
            self.banned.lock().unwrap_or_else(PoisonError::into_inner).insert(blob.digest);
        }
        self.store.forget_keys_of(&lost.layer)?;
        Ok(())
    }

    /// Asks no place any more.
    pub fn close(&self) {
        self.places.iter().for_each(|source| source.dead.store(true, Ordering::Relaxed));
    }

    fn is_banned(&self, digest: &Digest) -> bool {
        self.banned.lock().unwrap_or_else(PoisonError::into_inner).contains(digest)
    }

    /// Makes records of what the book of a place knows, unless something of it is known not to be to be had.
    fn take<'a>(
        &self,
        place: usize,
        book: Option<&'a Book>,
        find: impl FnOnce(&'a Book) -> Option<&'a store::remote::format::CachedRecord>,
    ) -> Result<Option<Vec<ResultId>>, StoreError> {
        let source = &self.places[place];
        let Some(book) = book.filter(|_| !source.dead.load(Ordering::Relaxed)) else { return Ok(None) };
        let Some(record) = find(book) else { return Ok(None) };
        if book.blobs_of(record).any(|blob| self.is_banned(&blob.digest)) {
            return Ok(None);
        }
        let parts_of = |key: &Key| self.watch.parts(key);
        book.adopt(&self.store, record, source.place.name.as_ref(), &parts_of).map(Some)
    }

    /// What the places know; they are asked side by side, once.
    pub(super) async fn books(&self) -> &[Option<Book>] {
        self.books
            .get_or_init(|| async {
                futures_util::future::join_all(self.places.iter().map(|source| self.read(source))).await
            })
            .await
    }

    async fn read(&self, source: &Source) -> Option<Book> {
        let Place { remote, kind, .. } = &source.place;
        let place = remote.place();
        let name = format!("importing cache from {kind} {place}");
        let vertex = VertexId::of_name(&name);
        let tell = |event| self.watch.event(event);
        tell(Event::Declared { vertex, name, inputs: Vec::new() });
        tell(Event::Started(vertex));
        let text = match within(remote.patience(), "read", &**remote, read(&**remote, &self.store)).await {
            Ok(Some((book, refused))) => {
                if let Some(line) = refused.line() {
                    tell(Event::Notice { vertex, text: format!("parts of the cache `{place}` are refused: {line}") });
                }
                tell(Event::Done(vertex));
                return Some(book);
            }
            Ok(None) => {
                let bytes = format!("there is no cache at `{place}` yet\n").into_bytes();
                tell(Event::Log { vertex, stream: Stream::Stdout, bytes });
                tell(Event::Done(vertex));
                return None;
            }
            Err(error) => format!("the build does without a cache: {}", in_words(&error)),
        };
        tell(Event::Notice { vertex, text });
        tell(Event::Done(vertex));
        None
    }

    async fn bring(&self, blob: &Descriptor, into: &Blobs, heard: &(dyn Fn(u64) + Sync)) -> Result<(), RemoteError> {
        let mut last = None;
        let books = self.books.get().into_iter().flatten().zip(&self.places);
        for (_, source) in books.filter(|(book, source)| {
            !source.dead.load(Ordering::Relaxed) && book.as_ref().is_some_and(|book| book.has_blob(&blob.digest))
        }) {
            match fetch_steadily(&*source.place.remote, blob, into, heard).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    if matches!(error, RemoteError::Unreachable { .. } | RemoteError::Slow { .. }) {
                        source.dead.store(true, Ordering::Relaxed);
                    }
                    last = Some(error);
                }
            }
        }
        for name in self.store.blob_sources(&blob.digest)? {
            let tried = |source: &Source| source.place.name.as_ref() == Some(&name);
            if last.is_some() && self.places.iter().any(tried) {
                continue;
            }
            let registry = RegistryCache::new(self.registry.clone(), name, self.store.clone());
            match fetch_steadily(&registry, blob, into, heard).await {
                Ok(()) => return Ok(()),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| ContentError::Missing { digest: blob.digest }.into()))
    }
}

impl Supplier for Imports {
    fn supply<'a>(&'a self, blob: &'a Descriptor, into: &'a Blobs, heard: &'a (dyn Fn(u64) + Sync)) -> Answer<'a, ()> {
        Box::pin(self.bring(blob, into, heard))
    }
}

/// An error and its causes, in one line.
pub(super) fn in_words(error: &RemoteError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        let next_text = next.to_string();
        if !text.ends_with(&next_text) {
            text = format!("{text}: {next_text}");
        }
        cause = next.source();
    }
    text
}
