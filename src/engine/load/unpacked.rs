//! Into an engine that unpacks layers: docker, and podman with a service or without.
//!
//! 1. The image by its id: if it is there, nothing is sent.
//! 2. The layers that are there: what an image of the engine begins with, most likely the last one of the same name.
//! 3. An archive without those, and without a name ([`oci::export::plain`]), streamed from where the layers are; if the
//!    engine refuses it, one with all layers.
//! 4. The engine's own word that it has the image with this id and these layers; and only then
//! 5. its names. So a name never means half an image, or another.
//!
//! Deliberately absent: how an engine is spoken to ([`super::api`], [`super::podman`]).

use std::collections::BTreeMap;
use std::io::{self, Write};

use executor::layers::LayersError;
use oci::export::plain::{PlainImage, PlainLayer};
use oci::model::{DiffId, Digest, ImageConfig, Reference};
use solver::seam::ResultId;
use store::Layer;

use super::api::diff_ids;
use super::stream::{Archive, Sent};
use super::{Loaded, Sending, words};
use crate::engine::assemble::Assembled;
use crate::engine::export::Unsent;
use crate::engine::{Failure, words as room_words};
use crate::options::annotation::Level;

/// Images that are asked for their layers: more are seldom, and what is not asked is only sent.
const IMAGES_MAX: usize = 128;
/// Of these, asked for at a time.
const IMAGES_AT_ONCE: usize = 16;

/// What can be said to an engine.
pub trait Engine {
    /// For people.
    fn name(&self) -> &str;
    /// The image of a name or an id.
    async fn image(&self, what: &str) -> Result<Option<Seen>, Failure>;
    /// The ids of all images, the latest first.
    async fn images(&self) -> Result<Vec<String>, Failure>;
    /// Of these ids, the images that are there.
    async fn look(&self, ids: &[String]) -> Result<Vec<Seen>, Failure>;
    /// Loads an archive.
    async fn take(&self, archive: Archive, moved: &dyn Fn(&Sent)) -> Result<(), Unloaded>;
    /// Gives the image a name with a tag.
    async fn tag(&self, id: &Digest, name: &Reference) -> Result<(), Failure>;
}

/// An image of an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its id, if that is one.
    pub id: Option<Digest>,
    /// Its layers, bottom first.
    pub layers: Vec<DiffId>,
}

impl Seen {
    /// What an engine says of an image. podman leaves out of an id what docker puts in front.
    pub fn of(id: &str, layers: &[String]) -> Self {
        let whole = if id.contains(':') { id.to_owned() } else { format!("sha256:{id}") };
        Self { id: whole.parse().ok(), layers: diff_ids(layers) }
    }
}

/// Why an image was not loaded.
#[derive(Debug)]
pub enum Unloaded {
    /// The engine does not want what it got, in its own words.
    Refused(String),
    /// It could not be sent.
    Failed(Failure),
}

impl From<Failure> for Unloaded {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// Loads an image. Returns what was sent.
pub async fn load(engine: &impl Engine, sending: &Sending<'_>, image: &Assembled) -> Result<Loaded, Unsent> {
    let config: ImageConfig = serde_json::from_slice(&image.config_bytes)
        .map_err(|error| Failure::new("the config of the image is not readable").note(error.to_string()))?;
    let id = image.id();
    let wanted = Seen { id: Some(id), layers: config.rootfs.diff_ids };
    let mut loaded = Loaded { id, sent_bytes: 0, layers: wanted.layers.len(), sent_layers: 0 };
    if engine.image(&id.to_string()).await?.as_ref() != Some(&wanted) {
        let known = known(engine, &wanted.layers, sending.names).await?;
        loaded.sent_layers = wanted.layers.len() - known;
        loaded.sent_bytes = match send(engine, sending, image, &wanted.layers, known).await? {
            Err(words) if known > 0 => {
                // It had them a moment ago, or counts otherwise.
                tracing::debug!(words, known, "sending all layers");
                sending.say(format!("{} does not take the image without the layers it has: {words}", engine.name()));
                loaded.sent_layers = wanted.layers.len();
                send(engine, sending, image, &wanted.layers, 0).await?.map_err(|words| refused(engine, &words))?
            }
            sent => sent.map_err(|words| refused(engine, &words))?,
        };
        match engine.image(&id.to_string()).await? {
            Some(seen) if seen == wanted => {}
            seen => return Err(words::other_image(engine.name(), &id, seen.as_ref()).into()),
        }
    }
    for name in sending.names.iter().filter(|name| name.tag().is_some()) {
        engine.tag(&id, name).await?;
        let what = words::tagged(name);
        match engine.image(&what).await? {
            Some(seen) if seen.id == Some(id) => {}
            seen => return Err(words::other_name(engine.name(), &what, &id, seen.as_ref()).into()),
        }
    }
    Ok(loaded)
}

fn refused(engine: &impl Engine, words: &str) -> Failure {
    Failure::new(format!("{} does not take the image", engine.name())).note(words.to_owned())
}

/// How many layers, from the bottom, the engine has one on the other.
async fn known(engine: &impl Engine, layers: &[DiffId], names: &[Reference]) -> Result<usize, Failure> {
    let shared = |seen: &Seen| layers.iter().zip(&seen.layers).take_while(|(ours, theirs)| ours == theirs).count();
    let mut best = 0;
    for name in names.iter().filter(|name| name.tag().is_some()) {
        best = best.max(engine.image(&words::tagged(name)).await?.as_ref().map_or(0, shared));
    }
    if best == layers.len() {
        return Ok(best);
    }
    let images = engine.images().await?;
    for some in images[..images.len().min(IMAGES_MAX)].chunks(IMAGES_AT_ONCE) {
        // The top layer is the one that was just made.
        if best + 1 >= layers.len() {
            break;
        }
        best = engine.look(some).await?.iter().map(shared).fold(best, usize::max);
    }
    Ok(best)
}

/// Sends the image without its first `known` layers; the bytes that went, or the engine's words.
async fn send(
    engine: &impl Engine,
    sending: &Sending<'_>,
    image: &Assembled,
    diff_ids: &[DiffId],
    known: usize,
) -> Result<Result<u64, String>, Unsent> {
    if known < diff_ids.len() {
        sending.bring(image).await?;
    }
    let layers = &image.layers;
    let is_known = |at: usize| diff_ids[..known].contains(&diff_ids[at]);
    let mut plain = Vec::with_capacity(layers.len());
    for (at, layer) in layers.iter().enumerate() {
        let (is_sent, diff_id) = (!is_known(at), diff_ids[at]);
        let size_bytes = match layer.tar_bytes {
            Some(bytes) => bytes,
            // Nobody reads what the manifest says of it.
            None if !is_sent => 0,
            None => sending.tar_bytes(layer).await?,
        };
        plain.push(PlainLayer { diff_id, size_bytes, is_sent });
    }
    let archive = archive(sending, image, plain);
    let sent = archive.1.sent.clone();
    let report = |sent: &Sent| sending.report(sent, archive.0);
    report(&sent);
    match engine.take(archive.1, &report).await {
        Ok(()) => {
            sending.done(&sent);
            Ok(Ok(sent.bytes()))
        }
        Err(Unloaded::Refused(words)) => Ok(Err(words)),
        Err(Unloaded::Failed(failure)) => Err(failure.into()),
    }
}

/// About how long it is, and the archive.
fn archive(sending: &Sending<'_>, image: &Assembled, plain: Vec<PlainLayer>) -> (u64, Archive) {
    let config_bytes = image.config_bytes.clone();
    let annotations: BTreeMap<String, String> = sending.form.annotations.of(Level::Manifest, &image.platform);
    let ids: Vec<ResultId> = image.layers.iter().map(|layer: &Layer| layer.id.clone()).collect();
    let layers = sending.worker.layers().clone();
    let image = PlainImage { config_bytes: &config_bytes, layers: &plain, annotations: &annotations };
    let total_bytes = image.layer_bytes();
    let archive = Archive::of(move |out| {
        let mut broken: Option<LayersError> = None;
        let image = PlainImage { config_bytes: &config_bytes, layers: &plain, annotations: &annotations };
        let written = image.write(out, &mut |at, out: &mut dyn Write| {
            layers.write_exact_tar(&ids[at], out).map_err(|error| {
                let told = io::Error::other(error.to_string());
                broken = Some(error);
                told
            })
        });
        written.map_err(|error| match broken {
            Some(error) => room_words::exec(&error.into()),
            None => Failure::from_error(&error),
        })
    });
    (total_bytes, archive)
}
