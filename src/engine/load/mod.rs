//! Images into what runs containers here: docker, podman, containerd.
//!
//! In: outputs with the places where an engine may be ([`crate::options::load`]), and later an image. Out: the engine that
//! takes it, known before anything is built ([`choose`]); and the image there, under its names, by the engine's own word
//! ([`load`]). Only layers that the engine lacks are sent, as far as it can take them so, and nothing lies on a disk for it.
//!
//! | engine | how it is spoken to | what it gets | of that, what it has is left out | an index |
//! |---|---|---|---|---|
//! | docker | API | plain tars of layers ([`unpacked`]) | layers from the bottom | refused |
//! | docker with containerd's store | API | an OCI layout ([`docker`]) | nothing: it does not say what it has | kept |
//! | podman | API, or its program ([`podman`]) | plain tars of layers | layers from the bottom | refused |
//! | containerd | `ctr` ([`containerd`]) | an OCI layout | layers | kept |
//!
//! Next: [`api`] and [`program`] are the two ways, [`answer`] and [`stream`] what goes over them.

mod answer;
mod api;
mod blobs;
mod containerd;
mod docker;
#[cfg(test)]
#[allow(dead_code, reason = "the end-to-end tests use the rest")]
#[path = "../../../tests/support/dockerd.rs"]
mod dockerd;
mod podman;
mod program;
mod stream;
#[cfg(test)]
mod tests;
mod unpacked;
mod words;

use std::sync::Arc;

use executor::Worker;
use executor::layers::SCRATCH;
use oci::model::{Descriptor, Digest, Reference};
use solver::graph::VertexId;
use solver::seam::{Event, Progress, ResultId, VertexLog};
use store::{Layer, Store};
use tokio_util::sync::CancellationToken;

use self::api::{Absent, Api, Patience};
use self::blobs::Blobs;
use self::containerd::Containerd;
use self::podman::Podman;
use self::stream::Sent;
use super::Failure;
use super::assemble::Assembled;
use super::export::{Unsent, unsent};
use crate::options::load::{EngineKind, Keeps, LoadOutput, Place, Target, Way};
use crate::options::output::{ImageForm, Output};

/// Finds the engine of every output that is loaded; `is_index`: that is an index, of several platforms.
///
/// # Errors
/// When there is none that can be used, with what was tried; when it cannot keep an index.
pub async fn choose(outputs: &mut [Output], is_index: bool) -> Result<(), Failure> {
    for output in outputs {
        if let Output::Load(load) = output {
            let target = target(load, Patience::default()).await?;
            if is_index && target.keeps == Keeps::Trees {
                return Err(words::no_index(&target.place));
            }
            load.target = Some(target);
        }
    }
    Ok(())
}

async fn target(load: &LoadOutput, patience: Patience) -> Result<Target, Failure> {
    let (mut tried, mut unusable) = (Vec::new(), None);
    for place in &load.places {
        match probe(place, patience).await {
            Ok((engine, keeps)) => {
                let is_other = load.wanted.engine.is_some_and(|wanted| wanted != engine);
                if is_other && place.engine != engine && place.origin.is_none() {
                    tried.push(format!("{place}: that is {engine}"));
                    continue;
                }
                if place.engine == EngineKind::Containerd && load.form.names.is_empty() {
                    return Err(containerd::no_name());
                }
                return Ok(Target { place: Place { engine, ..place.clone() }, keeps });
            }
            Err(Absent::Nobody(why)) => tried.push(format!("{} ({place}): {why}", place.engine)),
            // docker may be root's, and podman the user's.
            Err(Absent::Unusable(failure)) => unusable = unusable.or(Some(failure)),
        }
    }
    if let Some(failure) = unusable {
        return Err(tried.into_iter().fold(failure, Failure::note));
    }
    let what = match (load.wanted.engine, load.places.iter().find_map(|place| place.origin.as_ref())) {
        (_, Some(origin)) => format!("nobody answers where `{origin}` says"),
        (Some(engine), None) => format!("there is no {engine} to load the image into"),
        (None, None) => "there is no docker, podman or containerd to load the image into".to_owned(),
    };
    let failure = tried.into_iter().fold(Failure::new(what), Failure::note);
    Err(failure.help(
        "start one, or name it: `DOCKER_HOST`, `CONTAINER_HOST`, `CONTAINERD_ADDRESS`; without any, write an archive with \
         `-o type=docker,dest=app.tar`, and give it to `docker load` elsewhere",
    ))
}

/// Asks whether an engine is there, and which.
async fn probe(place: &Place, patience: Patience) -> Result<(EngineKind, Keeps), Absent> {
    match &place.way {
        Way::Socket(_) | Way::Tcp { .. } => Api::at(place, patience).map_err(Absent::Unusable)?.identify().await,
        Way::Program(path) => {
            let checked = Podman::at(path, patience).check().await;
            checked.map(|()| (EngineKind::Podman, Keeps::Trees)).map_err(Absent::Unusable)
        }
        Way::Ctr { socket, .. } => {
            containerd::knock(socket)?;
            let Some(containerd) = Containerd::at(place, patience) else {
                let failure = Failure::new(format!(
                    "containerd (unix://{}) is there, but not its program `ctr`",
                    socket.display()
                ));
                return Err(Absent::Unusable(failure.help("install it: it is part of containerd's releases")));
            };
            let checked = containerd.check().await;
            checked.map(|()| (EngineKind::Containerd, Keeps::Blobs)).map_err(Absent::Unusable)
        }
    }
}

/// What an image is loaded with.
pub struct Loader<'a> {
    /// Where its blobs are.
    pub store: &'a Store,
    /// Makes tars of its layers.
    pub worker: &'a Worker,
    /// Who watches.
    pub progress: &'a Arc<dyn Progress>,
    /// The user may stop it.
    pub cancel: &'a CancellationToken,
}

/// A vertex that is shown to its end, also when nobody waits for that any more.
struct Shown<'a> {
    task: VertexId,
    progress: &'a Arc<dyn Progress>,
    ended: bool,
}

impl Shown<'_> {
    fn end(&mut self, event: Event) {
        self.ended = true;
        self.progress.event(event);
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.end(Event::Canceled(self.task));
        }
    }
}

/// What an engine gets; which of them, [`LoadOutput::keeps_blobs`] says.
#[derive(Clone, Copy)]
pub enum Given<'a> {
    /// An image, for one that unpacks layers.
    Trees(&'a Assembled),
    /// A manifest or an index, over blobs that are all in the store, for one that keeps them.
    Blobs(&'a Descriptor),
}

/// An image on its way into an engine.
struct Sending<'a> {
    store: &'a Store,
    worker: &'a Worker,
    progress: &'a Arc<dyn Progress>,
    cancel: &'a CancellationToken,
    task: VertexId,
    names: &'a [Reference],
    form: &'a ImageForm,
}

/// What was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Loaded {
    /// The image id; of an index, its digest.
    id: Digest,
    /// All of it.
    sent_bytes: u64,
    /// Of the layers.
    sent_layers: usize,
    /// That the image has, or all images of the index.
    layers: usize,
}

impl Loader<'_> {
    /// Loads an image or an index under the names of its form. Returns what was done, in words.
    pub async fn load(&self, target: &Target, given: Given<'_>, form: &ImageForm) -> Result<String, Unsent> {
        let place = format!("{} ({})", target.place.engine, target.place);
        let name = format!("loading into {place}");
        let task = VertexId::of_name(&name);
        self.progress.event(Event::Declared { vertex: task, name, inputs: Vec::new() });
        self.progress.event(Event::Started(task));
        let mut shown = Shown { task, progress: self.progress, ended: false };
        let Self { store, worker, progress, cancel } = *self;
        let sending = Sending { store, worker, progress, cancel, task, names: &form.names, form };
        let loaded = sending.go(target, given).await;
        shown.end(match &loaded {
            Ok(_) => Event::Done(task),
            Err(Unsent::Failed(failure)) => Event::Failed { vertex: task, error: failure.problems[0].message.clone() },
            Err(Unsent::Lost(_)) => Event::Failed { vertex: task, error: "a layer is made anew".to_owned() },
        });
        loaded.map(|loaded| words::done(&form.names, &place, &loaded))
    }
}

impl Sending<'_> {
    async fn go(&self, target: &Target, given: Given<'_>) -> Result<Loaded, Unsent> {
        let patience = Patience::default();
        let place = &target.place;
        match (&place.way, given) {
            (Way::Program(path), Given::Trees(image)) => unpacked::load(&Podman::at(path, patience), self, image).await,
            (Way::Socket(_) | Way::Tcp { .. }, Given::Trees(image)) => {
                unpacked::load(&Api::at(place, patience)?, self, image).await
            }
            (Way::Socket(_) | Way::Tcp { .. }, Given::Blobs(top)) => {
                docker::load(&Api::at(place, patience)?, self, &Blobs::open(self.store, top)?).await
            }
            (Way::Ctr { .. }, Given::Blobs(top)) => {
                let containerd = Containerd::at(place, patience).ok_or_else(|| Failure::new("there is no `ctr`"))?;
                containerd.load(self, &Blobs::open(self.store, top)?).await
            }
            (Way::Program(_), Given::Blobs(_)) => Err(Failure::new("podman's program keeps no blobs").into()),
            (Way::Ctr { .. }, Given::Trees(_)) => {
                Err(Failure::new("an image without blobs cannot go to containerd").into())
            }
        }
    }

    /// Brings the layers that are not here.
    async fn bring(&self, image: &Assembled) -> Result<(), Unsent> {
        let log = VertexLog { vertex: self.task, progress: &**self.progress };
        let top = image.layers.last().map_or_else(|| ResultId(SCRATCH.to_owned()), |layer| layer.id.clone());
        self.worker.ensure_blobs(&top, &log, self.cancel).await.map_err(|error| unsent(&error))
    }

    /// How long a layer's tar is.
    async fn tar_bytes(&self, layer: &Layer) -> Result<u64, Unsent> {
        let id = layer.id.clone();
        let measured = self.worker.on_core(self.cancel, move |worker| Ok(worker.layers().ensure_diff_id(&id)?)).await;
        measured.map(|(_, bytes)| bytes).map_err(|error| unsent(&error))
    }

    /// Tells how far it is.
    fn report(&self, sent: &Sent, total_bytes: u64) {
        self.tell(sent.bytes(), total_bytes.max(sent.bytes()), false);
    }

    /// Tells that all was sent.
    fn done(&self, sent: &Sent) {
        self.tell(sent.bytes(), sent.bytes(), true);
    }

    fn tell(&self, current_bytes: u64, total_bytes: u64, done: bool) {
        self.progress.event(Event::Progress {
            vertex: self.task,
            name: "sending layers".to_owned(),
            current_bytes,
            total_bytes: Some(total_bytes),
            done,
        });
    }

    fn say(&self, text: String) {
        self.progress.event(Event::Notice { vertex: self.task, text });
    }
}

/// What is lost on an engine that unpacks layers.
pub fn lost_form(outputs: &[Output]) -> Option<String> {
    let plain = ImageForm::default();
    let load = outputs.iter().find_map(|output| match output {
        Output::Load(load) if !load.keeps_blobs() => Some(load),
        _ => None,
    })?;
    let form = &load.form;
    let is_other = (form.codec, form.force, form.dialect) != (plain.codec, plain.force, plain.dialect);
    let engine = load.target.as_ref().map_or("the engine", |target| target.place.engine.name());
    is_other.then(|| {
        format!("{engine} unpacks what is loaded: how `type=docker` compresses and names layers says nothing there")
    })
}
