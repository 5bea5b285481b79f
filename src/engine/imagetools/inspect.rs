//! What a name means in its registry.

use std::sync::Arc;

use oci::model::{ImageConfig, Reference};
use oci::registry::{Asked, Content, Document};
use solver::seam::Progress;

use super::source;
use crate::engine::{Failure, Settings, words};

/// What a name means.
#[derive(Clone, Debug)]
pub struct Inspection {
    /// The name.
    pub name: Reference,
    /// What it means.
    pub document: Document,
    /// The config, of a single image.
    pub config: Option<ImageConfig>,
}

/// Looks.
pub async fn inspect(
    settings: &Settings,
    name: &Reference,
    progress: Arc<dyn Progress>,
) -> Result<Inspection, Failure> {
    settings.check_online("imagetools inspect")?;
    let client = settings.registry(&progress)?;
    let document = client.document(name, Asked::Mirrors).await.map_err(|error| words::registry(&error))?;
    let config = match &document.content {
        Content::Manifest(manifest) => source::config(&client, name, manifest).await?,
        Content::Index(_) => None,
    };
    Ok(Inspection { name: name.clone(), document, config })
}
