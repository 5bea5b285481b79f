//! `rbuild verify-build`: builds twice, and explains every difference; or compares one build with an image that is there.
//!
//! ```text
//!  the user's store ── base images ──► machine 1 ── build ──► image ┐
//!        │                                                         ├─ compare ─► nothing, or Differences
//!        └──────────── base images ──► machine 2 ── build ──► image ┘
//! ```
//! A [`machine`] is a store of its own in a draft of the user's, so neither build finds anything of the other, of what was
//! built before, or of other caches; the user's store keeps nothing but the base images. These are resolved and brought
//! once; what `ADD` and git sources fetch is fetched by each, as whoever builds elsewhere would; where nobody may be asked,
//! both get what the user's store has of it. The second build has
//! another path, umask, number of steps at a time, and second of the clock ([`Circumstances`]). What a process cannot
//! change for itself (user, time zone, machine) is not varied here.
//!
//! Without `SOURCE_DATE_EPOCH` both get one ([`Epoch`]), so that only what matters is told of. Deliberately absent:
//! running a step twice in one build; attestations.

mod compare;
mod difference;
mod document;
mod entries;
mod hints;
mod machine;
mod sample;

pub use difference::{Change, Differences, EntryDifference, Field, LayerDifference, Step};
#[cfg(test)]
pub use difference::{Excerpt, ImageDifference};

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use executor::Worker;
use executor::source::given::Given;
use frontend::{Answers, ImageQuestion, PlanOutput};
use jiff::Timestamp;
use oci::content::put_bytes;
use oci::image::{Image, ImageError, find_manifest};
use oci::layer::Dialect;
use oci::model::{Descriptor, Digest, Platform, Reference, media_type};
use rustix::fs::Mode;
use serde::Serialize;
use solver::graph::VertexId;
use solver::seam::{Event, LogSink, Progress};
use store::{FoundImage, Store};
use tokio_util::sync::CancellationToken;

use self::compare::{Known, Side, compare};
use self::machine::{Machine, alone};
use super::context::{Context, Opener};
use super::plans::{Plans, plan};
use super::resolve::{Ask, Resolver, find_local};
use super::task::{Task, in_background};
use super::{Failure, Settings, images, index, words};
use crate::options::BuildOptions;
use crate::options::annotation::Annotations;
use crate::options::context::{DockerfileFrom, Place};

/// What is wanted beside a build.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// Compare with this instead of a second build.
    pub against: Option<Against>,
    /// Give no epoch where none is set.
    pub true_times: bool,
}

/// What a build is compared with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Against {
    /// An image of the local store or of a registry.
    Image(Reference),
    /// An archive, or an OCI layout in a directory.
    Archive(PathBuf),
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Verified {
    /// Whether both are the same image.
    pub reproducible: bool,
    /// The manifest or index of the build.
    pub digest: Digest,
    /// That of the other build, or of the image.
    pub other: Digest,
    /// What the other is, if it is no second build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub against: Option<String>,
    /// Which time the build's own files have.
    pub epoch: Epoch,
    /// What was different about the second build.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub circumstances: Option<Circumstances>,
    /// What differs. Where only compression or annotations do, both are the same image all the same.
    pub differences: Differences,
}

/// Which time the build's own files have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "from", content = "seconds")]
pub enum Epoch {
    /// `SOURCE_DATE_EPOCH` of the user.
    Given(i64),
    /// That of the image which the build is compared with.
    Image(i64),
    /// None was given: this, which stands for any.
    Assumed(i64),
    /// None: true times.
    None,
}

/// What was different about the second build.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Circumstances {
    /// Its umask.
    pub umask: String,
    /// How many steps at a time.
    pub jobs: usize,
    /// How much later it began, in seconds.
    pub seconds_later: i64,
}

/// Any time does; this one says best that it is none.
const ASSUMED_EPOCH: i64 = 0;

/// Builds twice, or once, and compares.
///
/// # Errors
/// As a build; and when what it is compared with cannot be read.
pub async fn verify_build(
    settings: &Settings,
    options: &BuildOptions,
    asked: &VerifyOptions,
    progress: Arc<dyn Progress>,
    cancel: CancellationToken,
) -> Result<Verified, Failure> {
    check_input(options)?;
    let store = settings.open_store(&progress)?;
    let first = Machine::beneath(&store, settings, "store", &progress)?;
    let second = Machine::beneath(&store, settings, "elsewhere/other/store", &progress)?;
    let ground = Ground { settings, store: &store, progress: &progress, cancel: &cancel };

    let mut options = alone(options);
    let (planned, worker) = ground.plan(&options).await?;
    let other = match &asked.against {
        Some(against) => Some(ground.bring_other(against, &options, &worker, &second).await?),
        None => None,
    };
    let epoch = epoch(&options, &planned.plan, asked, other.as_ref().and_then(|other| other.created));
    options.epoch = match epoch {
        Epoch::Given(_) | Epoch::None => options.epoch,
        Epoch::Image(seconds) | Epoch::Assumed(seconds) => Some(seconds),
    };
    let to: Vec<&Machine> = if other.is_some() { vec![&first] } else { vec![&first, &second] };
    ground.bring_bases(&planned.answers, &worker, &to).await?;

    let began = Timestamp::now();
    let called = |name: &'static str| if other.is_some() { progress.clone() } else { Called::of(name, &progress) };
    let root = first.build(&options, called("first build"), cancel.clone()).await?;
    let (other_root, circumstances) = match &other {
        Some(other) => (other.root.clone(), None),
        None => {
            next_second().await;
            let jobs = if options.jobs > 1 { options.jobs / 2 } else { options.jobs + 1 };
            let other = BuildOptions { jobs, ..options.clone() };
            let umask = Umask::other();
            let seconds_later = Timestamp::now().as_second() - began.as_second();
            let circumstances = Circumstances { umask: umask.shown(), jobs, seconds_later };
            let root = second.build(&other, called("second build"), cancel.clone()).await?;
            drop(umask);
            (root, Some(circumstances))
        }
    };

    let (digest, other_digest) = (root.digest, other_root.digest);
    let steps = planned.steps();
    let task = Task::start("[internal] compare both images", &progress);
    let differences = in_background(&store, move |_| {
        let (one, two) = (Side { store: &first.store, root }, Side { store: &second.store, root: other_root });
        let with_epoch = epoch != Epoch::None;
        compare(&one, &two, &Known { steps: &steps, with_epoch, cancel: &cancel })
    });
    let differences = task.end(differences.await)?;
    let reproducible = match &other {
        // Whoever pushed it may have compressed it otherwise: the image is what its config says.
        Some(_) => differences.is_outside_images(),
        None => differences.is_empty(),
    };
    Ok(Verified {
        reproducible,
        digest,
        other: other_digest,
        against: other.map(|other| other.shown),
        epoch,
        circumstances,
        differences,
    })
}

/// What is read twice must be there twice.
fn check_input(options: &BuildOptions) -> Result<(), Failure> {
    if options.input.context != Place::Stdin && options.input.dockerfile != DockerfileFrom::Stdin {
        return Ok(());
    }
    let message = "`rbuild verify-build` reads what it builds more than once, which standard input cannot be";
    Err(Failure::new(message).help("name a folder for the context, and a file with `-f`"))
}

/// The time that the build's own files get.
fn epoch(options: &BuildOptions, plans: &Plans, asked: &VerifyOptions, created: Option<i64>) -> Epoch {
    match (options.epoch.or_else(|| plans.outputs().find_map(|output| output.epoch)), created) {
        (Some(seconds), _) => Epoch::Given(seconds),
        (None, _) if asked.true_times => Epoch::None,
        (None, Some(seconds)) => Epoch::Image(seconds),
        (None, None) => Epoch::Assumed(ASSUMED_EPOCH),
    }
}

/// Waits until the clock shows another second than now: times in layers have no fractions.
async fn next_second() {
    let left = 1_000_000_000 - i64::from(Timestamp::now().subsec_nanosecond());
    tokio::time::sleep(Duration::from_nanos(left.unsigned_abs())).await;
}

/// What stands before both builds.
struct Ground<'a> {
    settings: &'a Settings,
    store: &'a Store,
    progress: &'a Arc<dyn Progress>,
    cancel: &'a CancellationToken,
}

/// The plan, and what had to be known for it.
struct Planned {
    context: Context,
    plan: Plans,
    answers: Answers,
}

impl Planned {
    /// The steps that stand in the image's history, by platform.
    fn steps(&self) -> BTreeMap<String, Vec<Step>> {
        let text = &self.context.dockerfile;
        let line = |at: usize| text.text[..at.min(text.text.len())].bytes().filter(|byte| *byte == b'\n').count() + 1;
        let of = |output: &PlanOutput| {
            let steps = output.history.iter().map(|step| {
                let span = step.edge.and_then(|edge| self.plan.spans.get(&edge.vertex));
                let file = span.map(|_| text.name.clone());
                Step { created_by: step.created_by.clone(), file, line: span.map(|span| line(span.start)) }
            });
            (format!("{}/{}", output.platform.os, output.platform.architecture), steps.collect())
        };
        self.plan.outputs().map(of).collect()
    }
}

/// The image that a build is compared with.
struct Other {
    root: Descriptor,
    /// When it was made, in seconds since 1970.
    created: Option<i64>,
    shown: String,
}

impl Ground<'_> {
    /// Plans as the builds will, so that what they stand on is known and here.
    async fn plan(&self, options: &BuildOptions) -> Result<(Planned, Worker), Failure> {
        let registry = self.settings.registry(self.progress)?;
        let given = Given::of(&options.steps);
        let for_contexts = given.for_contexts(options.input.own_agent.clone());
        let opener = Opener {
            store: self.store,
            progress: self.progress,
            connectivity: self.settings.connectivity(),
            given: &for_contexts,
            cancel: self.cancel,
        };
        let context = opener.open(&options.input).await?;
        let mut answers = Answers::new();
        let plan = plan(self.settings, options, &context, self.store, &registry, self.progress, &mut answers).await?;
        let worker = self.settings.worker(self.store, &registry, BTreeMap::new(), options.steps.clone())?;
        Ok((Planned { context, plan, answers }, worker))
    }

    /// Gives the machines the images that the builds ask for by name.
    async fn bring_bases(&self, answers: &Answers, worker: &Worker, to: &[&Machine]) -> Result<(), Failure> {
        let task = Task::start("[internal] give both builds their base images", self.progress);
        let bringing = async {
            // A name may mean an image per platform.
            let mut named: BTreeMap<&Reference, Vec<Descriptor>> = BTreeMap::new();
            for (question, answer) in answers.iter().filter(|(question, _)| question.layout.is_none()) {
                let manifests = named.entry(&question.reference).or_default();
                if manifests.iter().all(|known| known.digest != answer.digest) {
                    manifests.push(self.whole(worker, &question.reference, &answer.digest, &task.log()).await?);
                }
            }
            for machine in to {
                for (name, manifests) in &named {
                    let images = manifests.iter().map(|manifest| machine.give(self.store, manifest));
                    machine.name(self.store, name, &images.collect::<Result<Vec<_>, _>>()?)?;
                }
                if self.settings.offline {
                    machine.give_fetched(self.store, self.cancel).await?;
                }
            }
            Ok(())
        };
        let brought = tokio::select! {
            biased;
            () = self.cancel.cancelled() => Err(words::canceled()),
            brought = bringing => brought,
        };
        task.end(brought)
    }

    /// The image of the user's store, all of its blobs there. Answers the manifest that names them.
    async fn whole(
        &self,
        worker: &Worker,
        name: &Reference,
        digest: &Digest,
        log: &dyn LogSink,
    ) -> Result<Descriptor, Failure> {
        let found = self.store.image_by_digest(digest).map_err(|error| words::store(&error))?;
        let image = found
            .ok_or_else(|| Failure::new(format!("the image `{}` is not in the store any more", name.familiar())))?;
        let found = FoundImage { image, name: Some(name.clone()), names: Vec::new(), index: None };
        images::with_blobs(self.store, worker, &found, log, self.cancel).await
    }

    /// Brings the image that the build is compared with to a machine.
    async fn bring_other(
        &self,
        against: &Against,
        options: &BuildOptions,
        worker: &Worker,
        to: &Machine,
    ) -> Result<Other, Failure> {
        let (root, shown) = match against {
            Against::Archive(path) => (self.read_archive(path, options, to).await?, path.display().to_string()),
            Against::Image(name) => (self.bring_named(name, options, worker, to).await?, name.familiar()),
        };
        let failed = |error: ImageError| Failure::from_error(&error);
        let main = find_manifest(to.store.blobs(), &root, options.input.platform()).map_err(failed)?;
        let image = Image::open(to.store.blobs(), &main).map_err(failed)?;
        let created = image.config.created.and_then(|text| text.parse::<Timestamp>().ok()).map(|time| time.as_second());
        Ok(Other { root, created, shown })
    }

    /// What a name means, here or in a registry: an image, or for several platforms the index that they are in.
    async fn bring_named(
        &self,
        name: &Reference,
        options: &BuildOptions,
        worker: &Worker,
        to: &Machine,
    ) -> Result<Descriptor, Failure> {
        let (digests, document) = self.meaning_of(name, options).await?;
        let task = Task::start("[internal] bring the image to compare with", self.progress);
        let bringing = async {
            let mut brought = Vec::with_capacity(digests.len());
            for digest in &digests {
                let manifest = self.whole(worker, name, digest, &task.log()).await?;
                to.give(self.store, &manifest)?;
                brought.push(manifest);
            }
            match document {
                // What was built here gets compressed layers, and so other manifests.
                Some(_) if !brought.iter().map(|manifest| &manifest.digest).eq(&digests) => {
                    as_index(&to.store, &brought, &name.familiar())
                }
                Some(document) => {
                    let put = put_bytes(to.store.blobs(), document.as_bytes());
                    let (digest, size) = put.map_err(|error| words::content(&error))?;
                    Ok(Descriptor::new(media_type::OCI_INDEX, digest, size))
                }
                // Platforms of one image are that image.
                None => Ok(brought.swap_remove(0)),
            }
        };
        let brought = bringing.await;
        task.end(brought)
    }

    /// The manifests that a name means for the platforms that are built, at least one; and where these are several and the
    /// name means an index, its text.
    async fn meaning_of(
        &self,
        name: &Reference,
        options: &BuildOptions,
    ) -> Result<(Vec<Digest>, Option<String>), Failure> {
        let platforms = &options.input.platforms[..];
        let found = match find_local(self.store, &name.familiar())? {
            Some(found) => found,
            None => {
                let registry = self.settings.registry(self.progress)?;
                let ask = Ask::of(false, self.settings.offline);
                let resolver = Resolver::new(self.store.clone(), registry, ask, self.progress.clone());
                let mut digests: Vec<Digest> = Vec::new();
                for platform in platforms {
                    let platform = platform.clone();
                    let question = ImageQuestion { reference: name.clone(), platform, layout: None };
                    digests.push(resolver.answer_one(&question).await?.digest);
                }
                digests.dedup();
                let index = self.store.index_of(name).map_err(|error| words::store(&error))?;
                return Ok((digests, index.filter(|_| platforms.len() > 1).map(|index| index.document)));
            }
        };
        match (found.index, platforms) {
            (Some(index), [one]) => {
                let found = self.store.image_for(name, one).map_err(|error| words::store(&error))?;
                Ok((vec![found.unwrap_or_else(|| index.members[0].clone()).manifest.digest], None))
            }
            (Some(index), _) => {
                let digests = index.members.iter().map(|member| member.manifest.digest).collect();
                Ok((digests, Some(index.document)))
            }
            (None, _) => Ok((vec![found.image.manifest.digest], None)),
        }
    }

    /// What an archive holds: the image for the platform that is built, or for several the index with them.
    async fn read_archive(
        &self,
        path: &std::path::Path,
        options: &BuildOptions,
        to: &Machine,
    ) -> Result<Descriptor, Failure> {
        let (path, platforms, cancel) = (path.to_owned(), options.input.platforms.clone(), self.cancel.clone());
        in_background(&to.store, move |store| {
            let loaded = images::read(store, Some(&path), &cancel)?;
            let root = match &loaded[..] {
                [one] => one.manifest.clone(),
                several => {
                    let manifests: Vec<Descriptor> = several.iter().map(|one| one.manifest.clone()).collect();
                    as_index(store, &manifests, &path.display().to_string())?
                }
            };
            match &platforms[..] {
                [one] => find_manifest(store.blobs(), &root, one).map_err(|error| Failure::from_error(&error)),
                _ => Ok(root),
            }
        })
        .await
    }
}

/// Images that are beside each other, as an index: one for each platform, or nobody knows which is meant.
fn as_index(store: &Store, manifests: &[Descriptor], place: &str) -> Result<Descriptor, Failure> {
    let mut entries: Vec<(Platform, Descriptor)> = Vec::with_capacity(manifests.len());
    for manifest in manifests {
        let image = Image::open(store.blobs(), manifest).map_err(|error| Failure::from_error(&error))?;
        let platform = platform_of(&image);
        if entries.iter().any(|(known, _)| *known == platform) {
            return Err(Failure::new(format!("`{place}` holds {} images", manifests.len()))
                .help("load it (`rbuild load`), and name one of them"));
        }
        entries.push((platform, manifest.clone()));
    }
    let made = index::assemble(&entries, &[], &Annotations::default(), Dialect::Oci);
    put_bytes(store.blobs(), made.text.as_bytes()).map_err(|error| words::content(&error))?;
    Ok(made.descriptor)
}

/// For which machine an image is, by its own word.
fn platform_of(image: &Image) -> Platform {
    let config = &image.config;
    Platform::normalised(&config.os, &config.architecture, &config.variant)
}

/// Another umask than the process has, until it is dropped.
struct Umask {
    before: Mode,
    now: Mode,
}

impl Umask {
    fn other() -> Self {
        let strict = Mode::RWXG | Mode::RWXO;
        let before = rustix::process::umask(strict);
        let now = if before == strict { Mode::WGRP | Mode::WOTH } else { strict };
        rustix::process::umask(now);
        Self { before, now }
    }

    fn shown(&self) -> String {
        format!("{:03o}", self.now.as_raw_mode())
    }
}

impl Drop for Umask {
    fn drop(&mut self) {
        rustix::process::umask(self.before);
    }
}

/// Events of one of two builds, whose steps are the same and are shown apart.
struct Called {
    name: &'static str,
    progress: Arc<dyn Progress>,
}

impl Called {
    fn of(name: &'static str, progress: &Arc<dyn Progress>) -> Arc<dyn Progress> {
        Arc::new(Self { name, progress: progress.clone() })
    }

    fn vertex(&self, vertex: VertexId) -> VertexId {
        VertexId::of_name(&format!("{} {vertex}", self.name))
    }
}

impl Progress for Called {
    fn event(&self, event: Event) {
        let id = |vertex| self.vertex(vertex);
        let event = match event {
            Event::Declared { vertex, name, inputs } => Event::Declared {
                vertex: id(vertex),
                name: format!("{}: {name}", self.name),
                inputs: inputs.into_iter().map(id).collect(),
            },
            Event::Keyed { vertex, key, parts } => Event::Keyed { vertex: id(vertex), key, parts },
            Event::Missed(vertex) => Event::Missed(id(vertex)),
            Event::Started(vertex) => Event::Started(id(vertex)),
            Event::Cached { vertex, by } => Event::Cached { vertex: id(vertex), by },
            Event::Unchanged(vertex) => Event::Unchanged(id(vertex)),
            Event::Log { vertex, stream, bytes } => Event::Log { vertex: id(vertex), stream, bytes },
            Event::Progress { vertex, name, current_bytes, total_bytes, done } => {
                Event::Progress { vertex: id(vertex), name, current_bytes, total_bytes, done }
            }
            Event::Notice { vertex, text } => Event::Notice { vertex: id(vertex), text },
            Event::Why { vertex, text } => Event::Why { vertex: id(vertex), text },
            Event::Used { vertex, usage } => Event::Used { vertex: id(vertex), usage },
            Event::Worked { vertex, work } => Event::Worked { vertex: id(vertex), work },
            Event::Done(vertex) => Event::Done(id(vertex)),
            Event::Failed { vertex, error } => Event::Failed { vertex: id(vertex), error },
            Event::Canceled(vertex) => Event::Canceled(id(vertex)),
        };
        self.progress.event(event);
    }
}
