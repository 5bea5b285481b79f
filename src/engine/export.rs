//! Where an image goes beside the local store: registries, archives, directories.
//!
//! In comes an assembled image, out go bytes; layers are compressed here at the latest ([`form`]), once, and remembered,
//! and go to registries as soon as each is ready ([`push`]). Before that [`ahead`] compresses them while later steps still
//! run. A file is written aside and renamed, so nobody sees half of one; see [`super::destination`]. Manifests are pushed
//! last of all. A layer of a cache that is neither here nor where it should be is [`Unsent::Lost`]: the build can make it.

mod ahead;
mod form;
mod push;

use std::collections::BTreeMap;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;

use executor::Worker;
use executor::layers::SCRATCH;
use oci::layer::{Codec, Dialect, WriteOptions};
use oci::model::{Descriptor, Digest, Reference};
use oci::registry::Client;
use solver::graph::VertexId;
use solver::seam::{Progress, ResultId, VertexLog};
use store::Store;
use tokio_util::sync::CancellationToken;

pub use self::ahead::Ahead;
pub use self::form::{Written, as_oci, as_stored, compress};

use super::assemble::Assembled;
use super::cache::Lost;
use super::destination::write_to;
use super::load::Loader;
use super::task::in_background;
use super::{Failure, Settings, words};
use crate::options::BuildOptions;
use crate::options::output::{
    ArchiveFormat, ArchiveOutput, Dest, ImageForm, ImageOutput, Output, TreeDest, TreeOutput,
};

/// When an image was made. image-spec annotations.md, "Pre-Defined Annotation Keys".
pub const CREATED: &str = "org.opencontainers.image.created";

/// Sends images out.
pub struct Exporter<'a> {
    /// How registries are reached that have settings of their own.
    pub settings: &'a Settings,
    /// Where layers are.
    pub store: &'a Store,
    /// How registries are reached.
    pub registry: &'a Client,
    /// Makes blobs and views of layers.
    pub worker: &'a Worker,
    /// Who watches.
    pub progress: &'a Arc<dyn Progress>,
    /// The user may stop it.
    pub cancel: &'a CancellationToken,
}

/// What was sent.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// What was pushed first, or else archived first, if something was.
    pub image: Option<SentImage>,
    /// In words, one per place.
    pub wrote: Vec<String>,
}

/// An image that went out.
#[derive(Clone, Debug)]
pub struct SentImage {
    /// Its manifest.
    pub manifest: Descriptor,
    /// Digest of its config.
    pub config: Digest,
    /// Its names there.
    pub names: Vec<Reference>,
}

/// Why an image did not go out.
#[derive(Debug)]
pub enum Unsent {
    /// It cannot.
    Failed(Failure),
    /// A layer that a cache had promised is nowhere to be had; once its step has run, it can.
    Lost(Lost),
}

impl From<Failure> for Unsent {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Unsent> for Failure {
    fn from(unsent: Unsent) -> Self {
        match unsent {
            Unsent::Failed(failure) => failure,
            Unsent::Lost(lost) => Self::new(format!("a layer of the image cannot be had: {}", lost.why)),
        }
    }
}

/// What decides the bytes of a manifest: outputs that agree about it share one.
#[derive(Clone, PartialEq, Eq)]
struct Look {
    codec: Codec,
    force: bool,
    dialect: Dialect,
    annotations: BTreeMap<String, String>,
}

impl Look {
    fn of(form: &ImageForm) -> Self {
        let annotations = form.annotations.manifest.clone();
        Self { codec: form.codec, force: form.force, dialect: form.dialect, annotations }
    }
}

impl Exporter<'_> {
    /// Does everything that the options ask for: layers are compressed and sent, files and folders are written, in the
    /// order of the outputs, then the manifests are pushed.
    pub async fn export(&self, options: &BuildOptions, image: &Assembled, task: VertexId) -> Result<Sent, Unsent> {
        let mut written: Vec<(Look, Written)> = Vec::new();
        let mut pushes = Vec::new();
        for output in options.outputs.iter().filter(|output| output.compresses()) {
            let Some(form) = output.form() else { continue };
            let look = Look::of(form);
            if written.iter().any(|(known, _)| *known == look) {
                continue;
            }
            let targets = self.targets(options, &look)?;
            written.push((look, self.write(image, form, &targets, task).await?));
            pushes.push(targets);
        }
        let of = |form: &ImageForm| {
            let look = Look::of(form);
            let found = written.iter().find(|(known, _)| *known == look);
            found.map(|(_, written)| written).expect("every look was written above")
        };
        let mut sent = Sent::default();
        for output in &options.outputs {
            match output {
                Output::Archive(out) => {
                    let manifest = self.archive(out, of(&out.form), image).await?;
                    let config = of(&out.form).config;
                    let names = out.form.names.clone();
                    sent.image.get_or_insert(SentImage { manifest, config, names });
                    sent.wrote.push(in_words(out));
                }
                Output::Load(load) => {
                    let loader =
                        Loader { store: self.store, worker: self.worker, progress: self.progress, cancel: self.cancel };
                    let target = load.target.as_ref().ok_or_else(|| Failure::new("nobody looked for an engine"))?;
                    let blobs = load.keeps_blobs().then(|| of(&load.form));
                    let manifest = blobs.map(|written| &written.manifest);
                    sent.wrote.push(loader.load(target, image, &load.form, manifest).await?);
                    if let Some(written) = blobs {
                        let (manifest, config) = (written.manifest.clone(), written.config);
                        let names = load.form.names.clone();
                        sent.image.get_or_insert(SentImage { manifest, config, names });
                    }
                }
                Output::Tree(tree) => {
                    self.tree(tree, image).await?;
                    sent.wrote.push(tree_in_words(tree));
                }
                Output::Image(image_out) => {
                    if image_out.unpack {
                        self.unpack(image, task).await?;
                        sent.wrote.push("unpacked all layers in the local store".into());
                    }
                }
            }
        }
        let mut pushed: Option<SentImage> = None;
        let mut named = Vec::new();
        for output in &options.outputs {
            let Output::Image(ImageOutput { form, push: Some(push), .. }) = output else { continue };
            let written = of(form);
            let targets = pushes.iter().flatten().filter(|target| target.is_of(&Look::of(form), *push));
            for target in targets.filter(|target| form.names.contains(&target.name)) {
                if named.contains(&(&target.name, written.manifest.digest, push.by_digest)) {
                    continue;
                }
                named.push((&target.name, written.manifest.digest, push.by_digest));
                let name = self.push_manifest(target, written, task).await?;
                sent.wrote.push(format!("pushed {name}"));
                let image = pushed.get_or_insert_with(|| SentImage {
                    manifest: written.manifest.clone(),
                    config: written.config,
                    names: Vec::new(),
                });
                if image.manifest.digest == written.manifest.digest {
                    image.names.push(target.name.clone());
                }
            }
        }
        sent.image = pushed.or(sent.image);
        Ok(sent)
    }

    async fn archive(&self, out: &ArchiveOutput, written: &Written, image: &Assembled) -> Result<Descriptor, Failure> {
        let mut manifest =
            Descriptor { annotations: out.form.annotations.manifest_descriptor.clone(), ..written.manifest.clone() };
        // As other builders do; the image's own time, so that the same image gives the same archive.
        if let Some(created) = image.created() {
            manifest.annotations.entry(CREATED.to_owned()).or_insert(created);
        }
        archive(self.store, out.format, &out.dest, vec![(out.form.names.clone(), manifest.clone())]).await?;
        Ok(manifest)
    }

    /// The root file system, as a directory or a tar.
    async fn tree(&self, output: &TreeOutput, image: &Assembled) -> Result<(), Failure> {
        let top = top_of(image);
        if let TreeDest::Folder { path, delete: true } = &output.dest {
            self.check_delete(path)?;
        }
        let view = self.worker.blocking(move |worker| worker.view(&top)).await.map_err(|error| words::exec(&error))?;
        let output = output.clone();
        let written = self.worker.on_core(self.cancel, move |_| {
            let beneath = output.subdirectory.as_deref().unwrap_or_default();
            Ok(match &output.dest {
                TreeDest::Folder { path, delete } => executor::copy_tree_out(&view, &path.join(beneath), *delete)
                    .map_err(|error| Failure::from_error(&error)),
                TreeDest::Tar(dest) => write_to(dest.as_deref(), |out| {
                    let options = WriteOptions { beneath: beneath.as_bytes(), ..WriteOptions::default() };
                    oci::layer::write_tree_with(view.fd(), options, out).map(drop)
                }),
            })
        });
        written.await.map_err(|error| words::exec(&error))?
    }

    /// What no build may remove, whoever allowed it.
    fn check_delete(&self, dest: &Path) -> Result<(), Failure> {
        let Ok(dest) = dest.canonicalize() else { return Ok(()) };
        let store = self.settings.root.canonicalize().unwrap_or_else(|_| self.settings.root.clone());
        if store.starts_with(&dest) {
            return Err(Failure::new(format!(
                "`-o type=local,mode=delete`: the store `{}` lies in `{}` and would be removed",
                store.display(),
                dest.display()
            ))
            .help("name a folder that is only for the result"));
        }
        Ok(())
    }

    /// Makes a tree of every layer.
    async fn unpack(&self, image: &Assembled, task: VertexId) -> Result<(), Unsent> {
        let log = VertexLog { vertex: task, progress: &**self.progress };
        let unpacked = self.worker.ensure_trees(&top_of(image), &log, self.cancel).await;
        unpacked.map_err(|error| unsent(&error))
    }

    /// Brings the layers that are not here.
    async fn bring(&self, image: &Assembled, task: VertexId) -> Result<(), Unsent> {
        let log = VertexLog { vertex: task, progress: &**self.progress };
        let brought = self.worker.ensure_blobs(&top_of(image), &log, self.cancel).await;
        brought.map_err(|error| unsent(&error))
    }
}

/// Writes images, whose blobs are all in the store, with their names as one archive.
pub async fn archive(
    store: &Store,
    format: ArchiveFormat,
    dest: &Dest,
    images: Vec<(Vec<Reference>, Descriptor)>,
) -> Result<(), Failure> {
    let dest = dest.clone();
    in_background(store, move |store| {
        let file = match &dest {
            Dest::Layout(path) => return add_to_layout(store, path, &images),
            Dest::File(path) => Some(path.as_path()),
            Dest::Stdout => None,
        };
        write_to(file, |out| match format {
            ArchiveFormat::Docker => oci::export::docker_archive::write(out, store.blobs(), &images),
            ArchiveFormat::Oci => oci::export::oci_layout::write_tar(out, store.blobs(), &images),
        })
    })
    .await
}

/// Adds images to the layout in a directory, which is made when it is missing.
fn add_to_layout(store: &Store, path: &Path, images: &[(Vec<Reference>, Descriptor)]) -> Result<(), Failure> {
    let failed = |act: &str, error: std::io::Error| {
        Failure::new(format!("cannot {act} the directory `{}`", path.display())).note(error.to_string())
    };
    std::fs::create_dir_all(path).map_err(|error| failed("make", error))?;
    let dir = std::fs::File::open(path).map_err(|error| failed("open", error))?;
    oci::export::directory::add(dir.as_fd(), store.blobs(), images).map_err(|error| {
        let failure = Failure::from_error(&error);
        failure.note(format!("the layout is `{}`", path.display()))
    })
}

fn top_of(image: &Assembled) -> ResultId {
    image.layers.last().map_or_else(|| ResultId(SCRATCH.to_owned()), |layer| layer.id.clone())
}

pub(super) fn unsent(error: &executor::ExecError) -> Unsent {
    match Lost::of(error) {
        Some(lost) => Unsent::Lost(lost),
        None => words::exec(error).into(),
    }
}

fn in_words(out: &ArchiveOutput) -> String {
    let what = match out.format {
        ArchiveFormat::Oci => "OCI archive",
        ArchiveFormat::Docker => "docker archive",
    };
    match &out.dest {
        Dest::Stdout => format!("wrote the {what} to standard output"),
        Dest::File(path) => format!("wrote the {what} to {}", path.display()),
        Dest::Layout(path) => format!("added the image to the OCI layout {}", path.display()),
    }
}

fn tree_in_words(tree: &TreeOutput) -> String {
    match &tree.dest {
        TreeDest::Folder { path, .. } => format!("wrote the root file system to {}", path.display()),
        TreeDest::Tar(Some(path)) => format!("wrote the root file system as a tar to {}", path.display()),
        TreeDest::Tar(None) => "wrote the root file system as a tar to standard output".into(),
    }
}
