//! What an index is made of, as it is found in registries.
//!
//! In: a name, a digest, or a descriptor. Out: the document, and as which entries it goes into an index. Only of a single
//! manifest more than the document is read: its config, which says the platform. Deliberately absent: layers.

use oci::content::{MemoryStore, read_json};
use oci::model::{Descriptor, ImageConfig, Manifest, Platform, Reference, media_type};
use oci::registry::{Asked, Client, Content, Document, RegistryError};

use super::combine::Entries;
use crate::engine::{Failure, words};

/// Configs are as small as manifests.
const CONFIG_MAX_BYTES: u64 = 4 << 20;

/// Where something is, as the user said it.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    /// Its name, or its digest in a repository.
    pub name: Reference,
    /// What the user says of it: platform and annotations count.
    pub said: Option<Descriptor>,
}

/// What is there.
pub struct Source {
    /// Where it was had, pinned.
    pub at: Reference,
    /// What it is.
    pub document: Document,
    /// As what it goes into an index.
    pub entries: Entries,
}

impl Source {
    /// Reads it.
    pub async fn read(client: &Client, place: &Place, asked: Asked) -> Result<Self, Failure> {
        let failed = |error: RegistryError| words::registry(&error);
        let document = client.document(&place.name, asked).await.map_err(failed)?;
        if let Some(said) = &place.said
            && (said.size, &said.media_type) != (document.descriptor.size, &document.descriptor.media_type)
        {
            let Descriptor { size, media_type, .. } = &document.descriptor;
            return Err(Failure::new(format!("`{}` is not what its descriptor says", place.name))
                .note(format!("it has {size} bytes and is `{media_type}`")));
        }
        let mut entries = entries(client, &place.name, &document).await?;
        if let Some(said) = &place.said {
            for entry in &mut entries.all {
                entry.annotations.extend(said.annotations.clone());
                if entry.digest == said.digest && said.platform.is_some() {
                    entry.platform.clone_from(&said.platform);
                }
            }
        }
        Ok(Self { at: place.name.at_digest(document.descriptor.digest), document, entries })
    }
}

/// As what a document goes into an index.
pub async fn entries(client: &Client, name: &Reference, document: &Document) -> Result<Entries, Failure> {
    match &document.content {
        Content::Index(index) => Ok(Entries::of(index.manifests.clone())),
        Content::Manifest(manifest) => {
            let config = config(client, name, manifest).await?;
            let platform = config.and_then(|config| platform_of(&config));
            Ok(Entries::of(vec![Descriptor { platform, ..document.descriptor.clone() }]))
        }
    }
}

/// The config of an image; `None` of what is none.
pub async fn config(client: &Client, name: &Reference, manifest: &Manifest) -> Result<Option<ImageConfig>, Failure> {
    let descriptor = &manifest.config;
    if !matches!(descriptor.media_type.as_str(), media_type::OCI_CONFIG | media_type::DOCKER_CONFIG) {
        return Ok(None);
    }
    if descriptor.size > CONFIG_MAX_BYTES {
        return Err(Failure::new(format!("the config of `{name}` is too large: it has {} bytes", descriptor.size))
            .note(format!("{CONFIG_MAX_BYTES} at most are read")));
    }
    let memory = MemoryStore::default();
    let fetched = client.fetch_blob(name, descriptor, &memory, &|_| {}).await;
    fetched.map_err(|error| words::registry(&error))?;
    let read = read_json::<ImageConfig>(&memory, descriptor, CONFIG_MAX_BYTES);
    Ok(Some(read.map_err(|error| words::content(&error))?.0))
}

fn platform_of(config: &ImageConfig) -> Option<Platform> {
    if config.os.is_empty() || config.architecture.is_empty() {
        return None;
    }
    let text = |key: &str| config.extra.get(key).and_then(|value| value.as_str()).unwrap_or_default().to_owned();
    let own = Platform::normalised(&config.os, &config.architecture, &config.variant);
    Some(Platform { os_version: text("os.version"), ..own })
}
