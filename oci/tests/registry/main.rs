//! The registry client against registries: one in this process that fails on demand, and Debian's `docker-registry`.

// The type of a table is its rows; a name for it would say less.
#![allow(clippy::type_complexity)]

mod auth;
mod chunks;
mod client_tokens;
mod credentials;
mod documents;
mod matrix;
mod mirrors;
mod profiles;
mod pull;
mod push;
mod real;
mod relay;

#[path = "../support/registry/mod.rs"]
mod server;

#[path = "../support/tls.rs"]
mod tls;

use std::collections::BTreeSet;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, TryStreamExt as _};
use rbuild_oci::content::{ContentStore, MemoryStore, put_bytes};
use rbuild_oci::model::{Descriptor, Digest, Platform, Reference, media_type};
use rbuild_oci::registry::{Client, Condition, Pace, PushBlob, RegistryError, Resolved, Settings};
use server::Registry;

/// Waits for nothing, and remembers for how long it would have waited.
#[derive(Default)]
struct TestPace {
    slept: Mutex<Vec<Duration>>,
    /// Seconds that have passed.
    passed: Mutex<i64>,
}

impl TestPace {
    fn slept(&self) -> Vec<Duration> {
        self.slept.lock().unwrap().clone()
    }

    fn pass(&self, seconds: i64) {
        *self.passed.lock().unwrap() += seconds;
    }
}

impl Pace for TestPace {
    fn now(&self) -> jiff::Timestamp {
        // Sun, 06 Nov 1994 08:49:37 GMT, RFC 9110's own example.
        jiff::Timestamp::from_second(784_111_777 + *self.passed.lock().unwrap()).unwrap()
    }

    fn chance(&self) -> f64 {
        0.0
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.slept.lock().unwrap().push(duration);
        Box::pin(tokio::task::yield_now())
    }
}

fn digest_of(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

fn start() -> Registry {
    Registry::start(digest_of)
}

/// A client that never really waits, and its pace.
fn client(change: impl FnOnce(&mut Settings)) -> (Client, Arc<TestPace>) {
    let pace = Arc::new(TestPace::default());
    let mut settings = Settings { pace: pace.clone(), ..Settings::default() };
    change(&mut settings);
    (Client::new(settings).unwrap(), pace)
}

fn name(registry: &Registry, rest: &str) -> Reference {
    format!("{}/{rest}", registry.host()).parse().unwrap()
}

fn linux() -> Platform {
    "linux/amd64".parse().unwrap()
}

/// An image in memory: config, one layer, manifest.
struct Image {
    config: Vec<u8>,
    layer: Vec<u8>,
    manifest: Vec<u8>,
}

impl Image {
    fn new(text: &str) -> Self {
        Self::for_platform(text, "amd64", "")
    }

    fn for_platform(text: &str, architecture: &str, variant: &str) -> Self {
        Self::with_layer(text.repeat(1000).into_bytes(), architecture, variant)
    }

    fn with_layer(layer: Vec<u8>, architecture: &str, variant: &str) -> Self {
        let variant = if variant.is_empty() { String::new() } else { format!(r#""variant":"{variant}","#) };
        let diff_id = digest_of(&layer);
        let config = format!(
            r#"{{"architecture":"{architecture}",{variant}"os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
        )
        .into_bytes();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}}"#,
            media_type::OCI_MANIFEST,
            json(&descriptor(media_type::OCI_CONFIG, &config)),
            json(&descriptor(media_type::OCI_LAYER, &layer)),
        )
        .into_bytes();
        Self { config, layer, manifest }
    }

    fn manifest_descriptor(&self) -> Descriptor {
        descriptor(media_type::OCI_MANIFEST, &self.manifest)
    }

    fn layer_descriptor(&self) -> Descriptor {
        descriptor(media_type::OCI_LAYER, &self.layer)
    }

    /// Puts all of it into a registry.
    fn serve(&self, registry: &Registry, repository: &str, tag: &str) -> &Self {
        registry.put_blob(repository, &self.config);
        registry.put_blob(repository, &self.layer);
        registry.put_manifest(repository, tag, media_type::OCI_MANIFEST, &self.manifest);
        self
    }

    /// Puts config and layer into a store.
    fn store(&self) -> MemoryStore {
        let store = MemoryStore::default();
        put_bytes(&store, &self.config).unwrap();
        put_bytes(&store, &self.layer).unwrap();
        store
    }

    fn to_push(&self, mount_from: &[Reference]) -> PushImage {
        PushImage {
            manifest: self.manifest_descriptor(),
            manifest_bytes: self.manifest.clone(),
            blobs: vec![
                PushBlob { descriptor: descriptor(media_type::OCI_CONFIG, &self.config), mount_from: vec![] },
                PushBlob { descriptor: self.layer_descriptor(), mount_from: mount_from.to_vec() },
            ],
        }
    }
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor::new(media_type, Digest::of(bytes), bytes.len() as u64)
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap()
}

fn bytes_of(store: &dyn ContentStore, digest: &Digest) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut store.open(digest).unwrap()?, &mut bytes).unwrap();
    Some(bytes)
}

async fn resolve(client: &Client, reference: &Reference) -> Result<(Resolved, MemoryStore), RegistryError> {
    let store = MemoryStore::default();
    client.resolve(reference, &linux(), &store).await.map(|resolved| (resolved, store))
}

/// Fetches an image's layer into a store of its own; checks that nothing is left when it fails.
async fn fetch(client: &Client, reference: &Reference, image: &Image) -> Result<(), RegistryError> {
    let store = MemoryStore::default();
    match client.fetch_blob(reference, &image.layer_descriptor(), &store, &|_| {}).await {
        Ok(()) => {
            assert_eq!(bytes_of(&store, &Digest::of(&image.layer)).as_deref(), Some(&image.layer[..]));
            Ok(())
        }
        Err(error) => {
            assert_eq!(store.digests(), [], "something was kept");
            Err(error)
        }
    }
}

/// An image that is pushed.
#[derive(Clone, Debug)]
struct PushImage {
    manifest: Descriptor,
    manifest_bytes: Vec<u8>,
    blobs: Vec<PushBlob>,
}

async fn push(client: &Client, reference: &Reference, image: &Image) -> Result<Digest, RegistryError> {
    push_image(client, reference, &image.to_push(&[]), &image.store(), &|_, _| {}).await
}

/// Blobs side by side, each once, then the manifest: as whoever uses the client does it.
async fn push_image(
    client: &Client,
    reference: &Reference,
    what: &PushImage,
    from: &dyn ContentStore,
    progress: &(dyn Fn(&Digest, u64) + Send + Sync),
) -> Result<Digest, RegistryError> {
    let mut seen = BTreeSet::new();
    let blobs = what.blobs.iter().filter(|blob| seen.insert(blob.descriptor.digest));
    let sending = blobs.map(|blob| client.push_blob(reference, blob, from, progress));
    sending.collect::<FuturesUnordered<_>>().try_collect::<()>().await?;
    client.put_document(reference, &what.manifest, &what.manifest_bytes, &Condition::Always).await?;
    Ok(what.manifest.digest)
}

/// An error with all its causes and its help, as a user might see it.
fn words(error: &RegistryError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    if let Some(help) = error.help() {
        text.push_str(&format!("\nhelp: {help}"));
    }
    text
}

/// Compares a result with the words that its error should have, if it should have one.
fn check<T>(case: &str, result: Result<T, RegistryError>, want: Result<(), &[&str]>) {
    match (result, want) {
        (Ok(_), Ok(())) => {}
        (Err(error), Err(parts)) => {
            let words = words(&error);
            for part in parts {
                assert!(words.contains(part), "{case}: `{part}` is not in: {words}");
            }
        }
        (Ok(_), Err(parts)) => panic!("{case}: succeeded, but should have failed with {parts:?}"),
        (Err(error), Ok(())) => panic!("{case}: {}", words(&error)),
    }
}
