//! Where an image goes beside the local store: registries, archives, directories.
//!
//! In comes an assembled image, out go bytes; layers are compressed here at the latest ([`form`]), once, and remembered,
//! and go to registries as soon as each is ready ([`push`], [`super::sender`]). Before that [`ahead`] compresses them while later steps still
//! run. Images of several platforms go as one index. A file is written aside and renamed, so nobody sees half of one; see [`super::destination`]. Manifests are pushed
//! last of all, an index after its images. Trees are [`tree`]'s. A layer of a cache that is neither here nor where it should be is [`Unsent::Lost`]: the build can make it.

mod ahead;
mod form;
mod push;
mod tree;

use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;

use executor::Worker;
use executor::layers::SCRATCH;
use oci::layer::{Codec, Dialect};
use oci::model::{Descriptor, Digest, Reference};
use oci::registry::Client;
use solver::graph::VertexId;
use solver::seam::{Progress, ResultId, VertexLog};
use store::Store;
use tokio_util::sync::CancellationToken;

pub use self::ahead::Ahead;
pub use self::form::{Written, as_oci, as_stored, compress};

use super::assemble::Assembled;
use super::attest::Told;
use super::cache::Lost;
use super::destination::{send_to, write_to};
use super::index::{self, AssembledIndex};
use super::load::{Given, Loader};
use super::task::in_background;
use super::{Failure, Settings, words};
use crate::options::BuildOptions;
use crate::options::annotation::{Annotations, Level};
use crate::options::output::{ArchiveFormat, ArchiveOutput, Dest, ImageForm, ImageOutput, Output};

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
    /// What is told of the images beside them.
    pub told: Option<Told<'a>>,
}

/// What was sent.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    /// What was pushed first, or else archived first, if something was.
    pub image: Option<SentImage>,
    /// In words, one per place.
    pub wrote: Vec<String>,
}

/// An image or index that went out.
#[derive(Clone, Debug)]
pub struct SentImage {
    /// Its manifest, or the index.
    pub manifest: Descriptor,
    /// Digest of its config; an index has none.
    pub config: Option<Digest>,
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
    annotations: Annotations,
}

/// Images in one form, ready to go.
struct Product {
    /// One per platform.
    images: Vec<Written>,
    /// What is told of each, if it is.
    told: Vec<Written>,
    /// What points to all of these, if they go out as one.
    index: Option<AssembledIndex>,
}

impl Product {
    /// What a name means: the index, or else the image.
    fn top(&self) -> &Descriptor {
        self.index.as_ref().map_or(&self.images[0].manifest, |index| &index.descriptor)
    }

    /// Digest of the config, of an image that stands for itself.
    fn config(&self) -> Option<Digest> {
        self.index.is_none().then(|| self.images[0].config)
    }
}

impl Look {
    fn of(form: &ImageForm) -> Self {
        let annotations = form.annotations.clone();
        Self { codec: form.codec, force: form.force, dialect: form.dialect, annotations }
    }
}

impl Exporter<'_> {
    /// Does everything that the options ask for: layers are compressed and sent, files and folders are written, in the
    /// order of the outputs, then the manifests are pushed. `images` has one per platform.
    pub async fn export(&self, options: &BuildOptions, images: &[Assembled], task: VertexId) -> Result<Sent, Unsent> {
        let mut products: Vec<(Look, Product)> = Vec::new();
        let mut pushes = Vec::new();
        for output in options.outputs.iter().filter(|output| output.compresses()) {
            let Some(form) = output.form() else { continue };
            let look = Look::of(form);
            if products.iter().any(|(known, _)| *known == look) {
                continue;
            }
            let targets = self.targets(options, &look)?;
            let mut written = Vec::with_capacity(images.len());
            for image in images {
                written.push(self.write(image, form, &targets, task).await?);
            }
            let told = self.tell(images, &written, form, &targets, task).await?;
            products.push((look, self.product(options, images, (written, told), form)?));
            pushes.push(targets);
        }
        let of = |form: &ImageForm| {
            let look = Look::of(form);
            let found = products.iter().find(|(known, _)| *known == look);
            found.map(|(_, product)| product).expect("every look was written above")
        };
        let mut sent = Sent::default();
        for output in &options.outputs {
            match output {
                Output::Archive(out) => {
                    let product = of(&out.form);
                    let manifest = self.archive(out, product, images).await?;
                    let names = out.form.names.clone();
                    sent.image.get_or_insert(SentImage { manifest, config: product.config(), names });
                    sent.wrote.push(in_words(out));
                }
                Output::Load(load) => {
                    let loader =
                        Loader { store: self.store, worker: self.worker, progress: self.progress, cancel: self.cancel };
                    let target = load.target.as_ref().ok_or_else(|| Failure::new("nobody looked for an engine"))?;
                    let blobs = load.keeps_blobs().then(|| of(&load.form));
                    // Several are refused when the engine is chosen, unless it keeps blobs.
                    let given = blobs.map_or(Given::Trees(&images[0]), |product| Given::Blobs(product.top()));
                    sent.wrote.push(loader.load(target, given, &load.form).await?);
                    if let Some(product) = blobs {
                        let (manifest, config) = (product.top().clone(), product.config());
                        let names = load.form.names.clone();
                        sent.image.get_or_insert(SentImage { manifest, config, names });
                    }
                }
                Output::Tree(tree) => {
                    self.trees(tree, images).await?;
                    sent.wrote.push(tree::in_words(tree));
                }
                Output::Image(image_out) => {
                    if image_out.unpack {
                        for image in images {
                            self.unpack(image, task).await?;
                        }
                        sent.wrote.push("unpacked all layers in the local store".into());
                    }
                }
            }
        }
        let mut pushed: Option<SentImage> = None;
        let mut named = Vec::new();
        for output in &options.outputs {
            let Output::Image(ImageOutput { form, push: Some(push), .. }) = output else { continue };
            let product = of(form);
            let digest = product.top().digest;
            let targets = pushes.iter().flatten().filter(|target| target.is_of(&Look::of(form), *push));
            for target in targets.filter(|target| form.names.contains(&target.to.name)) {
                let goal = (&target.to.name, digest, push.by_digest);
                if named.contains(&goal) {
                    continue;
                }
                named.push(goal);
                let name = self.push_manifests(target, product, task).await?;
                sent.wrote.push(format!("pushed {name}"));
                let image = pushed.get_or_insert_with(|| SentImage {
                    manifest: product.top().clone(),
                    config: product.config(),
                    names: Vec::new(),
                });
                if image.manifest.digest == digest {
                    image.names.push(target.to.name.clone());
                }
            }
        }
        sent.image = pushed.or(sent.image);
        Ok(sent)
    }

    /// What goes out in a form: the image, or the index of all.
    fn product(
        &self,
        options: &BuildOptions,
        images: &[Assembled],
        (written, told): (Vec<Written>, Vec<Written>),
        form: &ImageForm,
    ) -> Result<Product, Failure> {
        if !options.input.makes_index() && told.is_empty() {
            return Ok(Product { images: written, told, index: None });
        }
        let entries = images.iter().zip(&written).map(|(image, made)| (image.platform.clone(), made.manifest.clone()));
        let descriptors: Vec<_> = told.iter().map(|told| told.manifest.clone()).collect();
        let index = index::assemble(&entries.collect::<Vec<_>>(), &descriptors, &form.annotations, form.dialect);
        oci::content::put_bytes(self.store.blobs(), index.text.as_bytes()).map_err(|error| words::content(&error))?;
        Ok(Product { images: written, told, index: Some(index) })
    }

    async fn archive(
        &self,
        out: &ArchiveOutput,
        product: &Product,
        images: &[Assembled],
    ) -> Result<Descriptor, Failure> {
        let annotations = match product.index {
            Some(_) => out.form.annotations.of_all(Level::IndexDescriptor),
            None => out.form.annotations.of(Level::ManifestDescriptor, &images[0].platform),
        };
        let mut manifest = Descriptor { annotations, ..product.top().clone() };
        // As other builders do; the images' own time, so that the same images give the same archive.
        if let Some(created) = images.iter().filter_map(Assembled::created).max() {
            manifest.annotations.entry(CREATED.to_owned()).or_insert(created);
        }
        archive(self.store, out.format, &out.dest, vec![(out.form.names.clone(), manifest.clone())]).await?;
        Ok(manifest)
    }

    /// Makes a tree of every layer.
    async fn unpack(&self, image: &Assembled, task: VertexId) -> Result<(), Unsent> {
        let log = VertexLog { vertex: task, progress: &**self.progress };
        let unpacked = self.worker.ensure_trees(&top_of(image), &log, self.cancel).await;
        unpacked.map_err(|error| unsent(&error))
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
            Dest::Theirs(outlet) => {
                return send_to(outlet, |out| write_archive(store, format, out, &images));
            }
            Dest::File(path) => Some(path.as_path()),
            Dest::Stdout => None,
        };
        write_to(file, |out| write_archive(store, format, out, &images))
    })
    .await
}

fn write_archive(
    store: &Store,
    format: ArchiveFormat,
    out: &mut dyn std::io::Write,
    images: &[(Vec<Reference>, Descriptor)],
) -> Result<(), oci::export::ExportError> {
    match format {
        ArchiveFormat::Docker => oci::export::docker_archive::write(out, store.blobs(), images),
        ArchiveFormat::Oci => oci::export::oci_layout::write_tar(out, store.blobs(), images),
    }
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
        Dest::Theirs(_) => format!("sent the {what}"),
        Dest::File(path) => format!("wrote the {what} to {}", path.display()),
        Dest::Layout(path) => format!("added the image to the OCI layout {}", path.display()),
    }
}
