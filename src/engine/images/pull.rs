//! `pull`: whole images out of registries into the local store.
//!
//! In: names, and for which machine. Out: the images under their names, as the registry's ([`super::super::resolve`]),
//! every blob checked; layers stay packed until a step needs them. A name is given only when all of its image is here.
//! Mirrors are asked as in a build. Deliberately absent: what the store has anyway, which is not fetched again.

use std::collections::BTreeMap;
use std::sync::Arc;

use executor::{StepSettings, Worker};
use oci::image::available;
use oci::model::{Descriptor, Platform, Reference};
use oci::registry::{Asked, Client, Content, RegistryError, Resolved};
use solver::seam::{LogSink, Progress};
use store::{ImageRecord, Store};
use tokio_util::sync::CancellationToken;

use crate::engine::resolve::keep;
use crate::engine::task::Task;
use crate::engine::{Failure, Settings, words};

/// Which images of a name for several platforms are brought.
#[derive(Clone, Debug, PartialEq)]
pub enum Wanted {
    /// The one for this.
    One(Platform),
    /// All, and the index.
    All,
}

/// What was brought.
#[derive(Clone, Debug)]
pub struct Pulled {
    /// The name.
    pub name: Reference,
    /// What it means here: a manifest, or an index.
    pub document: Descriptor,
    /// The images.
    pub images: Vec<ImageRecord>,
}

/// Brings images, one name after the other.
pub async fn pull(
    settings: &Settings,
    names: &[Reference],
    wanted: &Wanted,
    progress: Arc<dyn Progress>,
    cancel: CancellationToken,
) -> Result<Vec<Pulled>, Failure> {
    settings.check_online("pull")?;
    let store = settings.open_store(&progress)?;
    let client = settings.registry(&progress)?;
    let worker = settings.worker(&store, &client, BTreeMap::new(), StepSettings::default())?;
    let mut all = Vec::with_capacity(names.len());
    for name in names {
        let task = Task::start(&format!("[internal] pull {}", name.familiar()), &progress);
        let log = task.log();
        let puller = Puller { store: &store, client: &client, worker: &worker, name, log: &log };
        let pulling = async {
            match wanted {
                Wanted::One(platform) => puller.one(platform).await,
                Wanted::All => puller.all().await,
            }
        };
        let pulled = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(words::canceled()),
            pulled = pulling => pulled,
        };
        all.push(task.end(pulled)?);
    }
    store.sync().map_err(|error| words::store(&error))?;
    Ok(all)
}

struct Puller<'a> {
    store: &'a Store,
    client: &'a Client,
    worker: &'a Worker,
    name: &'a Reference,
    log: &'a dyn LogSink,
}

impl Puller<'_> {
    async fn one(&self, platform: &Platform) -> Result<Pulled, Failure> {
        let resolved = self.resolve(self.name, platform).await?;
        self.layers(&resolved.manifest).await?;
        self.keep(&[resolved])
    }

    /// Every image that the index names; of a name that means one image, that.
    async fn all(&self) -> Result<Pulled, Failure> {
        let document = self.client.document(self.name, Asked::Mirrors).await;
        let document = document.map_err(|error| words::registry(&error))?;
        let pinned = &self.name.at_digest(document.descriptor.digest);
        let Content::Index(index) = &document.content else {
            let platform = self.platform_of(pinned).await?;
            return self.one(&platform).await;
        };
        let mut resolved = Vec::new();
        for platform in available(index) {
            resolved.push(self.resolve(pinned, &platform).await?);
        }
        if resolved.is_empty() {
            return Err(Failure::new(format!("the index `{pinned}` names no image for any platform")));
        }
        for image in &resolved {
            self.layers(&image.manifest).await?;
        }
        self.keep(&resolved)
    }

    async fn resolve(&self, name: &Reference, platform: &Platform) -> Result<Resolved, Failure> {
        let resolved = self.client.resolve(name, platform, self.store.blobs()).await;
        resolved.map_err(|error| words::registry(&error))
    }

    /// For which machine the one image of a name is.
    async fn platform_of(&self, name: &Reference) -> Result<Platform, Failure> {
        match self.client.resolve(name, &Platform::native(), self.store.blobs()).await {
            Ok(_) => Ok(Platform::native()),
            Err(RegistryError::NoPlatform { available, .. }) if available.len() == 1 => Ok(available[0].clone()),
            Err(error) => Err(words::registry(&error)),
        }
    }

    /// Gives the name what came, now that all of it is here.
    fn keep(&self, resolved: &[Resolved]) -> Result<Pulled, Failure> {
        let mut images = Vec::with_capacity(resolved.len());
        for image in resolved {
            images.push(keep(self.store, self.name, image)?.0);
        }
        let first = &resolved[0];
        let document = first.index.clone().unwrap_or_else(|| first.manifest.clone());
        Ok(Pulled { name: self.name.clone(), document, images })
    }

    /// Brings the layers that are not here.
    async fn layers(&self, manifest: &Descriptor) -> Result<(), Failure> {
        let brought = self.worker.image_packed(self.name, manifest, self.log).await;
        brought.map(drop).map_err(|error| words::exec(&error))
    }
}
