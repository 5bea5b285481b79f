//! `-o`: `type=oci,dest=app.tar`, a bare folder, or `-`; with all that the types take.
//!
//! In: one value of the flag, and where it is said. Out: an [`Output`]; names and annotations that it does not have are
//! those of `-t` and `--annotation`, which [`super::build`] fills in. What an attribute cannot do here is refused, never
//! overlooked. Deliberately absent: doing any of it ([`crate::engine`]).

mod attributes;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use oci::layer::{Codec, Compression, Dialect};
use oci::model::Reference;

use self::attributes::Attributes;
use super::annotation::Annotations;
use super::load::{LoadOutput, Wanted};
use super::theirs::Outlet;
use crate::engine::Failure;

pub use self::attributes::fields;

/// One `-o`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// `type=image`, `type=registry`, `--push`.
    Image(ImageOutput),
    /// `type=oci`, `type=docker` with `dest`.
    Archive(ArchiveOutput),
    /// `type=docker` without `dest`, `--load`.
    Load(LoadOutput),
    /// `type=local`, `type=tar`.
    Tree(TreeOutput),
}

/// How an image is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageForm {
    /// `name=`; without it those of `-t`.
    pub names: Vec<Reference>,
    /// `compression=` and `compression-level=`: of layers that are no blobs yet.
    pub codec: Codec,
    /// `force-compression=`: of all layers.
    pub force: bool,
    /// `oci-mediatypes=`.
    pub dialect: Dialect,
    /// `annotation….KEY=`, and those of `--annotation`.
    pub annotations: Annotations,
}

impl Default for ImageForm {
    fn default() -> Self {
        Self {
            names: Vec::new(),
            codec: Codec::new(Compression::Gzip),
            force: false,
            dialect: Dialect::Oci,
            annotations: Annotations::default(),
        }
    }
}

/// An image in the local store and perhaps in registries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageOutput {
    /// How it is pushed.
    pub form: ImageForm,
    /// `push=`.
    pub push: Option<Push>,
    /// `store=`: whether the local store keeps it under its names; without names it is there either way.
    pub store: bool,
    /// `unpack=`: every layer has a tree afterwards.
    pub unpack: bool,
    /// `name-canonical=`: it is also known by its names with its digest.
    pub canonical: bool,
    /// `dangling-name-prefix=`: it is also known by this name with its digest; and whether only if it has no other.
    pub dangling: Option<(Reference, bool)>,
}

/// How an image is pushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Push {
    /// `push-by-digest=`: without a tag.
    pub by_digest: bool,
    /// `registry.insecure=`.
    pub insecure: bool,
}

/// An image as a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArchiveOutput {
    /// How it is written.
    pub form: ImageForm,
    /// Which form of archive.
    pub format: ArchiveFormat,
    /// Where to.
    pub dest: Dest,
}

/// Forms of archives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveFormat {
    /// An OCI image layout.
    Oci,
    /// What `docker load` takes.
    Docker,
}

/// Where an archive goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dest {
    /// `dest=-`: a tar.
    Stdout,
    /// A tar.
    File(PathBuf),
    /// `tar=false`: a directory, added to.
    Layout(PathBuf),
    /// A tar, to whoever asked for the build.
    Theirs(Outlet),
}

impl Dest {
    /// A file, or standard output.
    pub fn file(path: Option<PathBuf>) -> Self {
        path.map_or(Self::Stdout, Self::File)
    }
}

/// A root file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeOutput {
    /// Where to.
    pub dest: TreeDest,
    /// `platform-split=`: into a directory there that is called after the platform, `linux_arm64`.
    pub split: bool,
}

/// Where a root file system goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeDest {
    /// As a tar to a file, or to standard output.
    Tar(Option<PathBuf>),
    /// As a tar to whoever asked for the build.
    TheirTar(Outlet),
    /// Into a folder of whoever asked for the build.
    TheirFolder(Outlet),
    /// Into a folder.
    Folder {
        /// Which.
        path: PathBuf,
        /// `mode=delete`: what the result does not have is removed from there.
        delete: bool,
    },
}

impl Output {
    /// How its image is written, if it is one.
    pub fn form(&self) -> Option<&ImageForm> {
        match self {
            Self::Image(image) => Some(&image.form),
            Self::Archive(archive) => Some(&archive.form),
            Self::Load(load) => Some(&load.form),
            Self::Tree(_) => None,
        }
    }

    /// The same, to be changed.
    pub fn form_mut(&mut self) -> Option<&mut ImageForm> {
        match self {
            Self::Image(image) => Some(&mut image.form),
            Self::Archive(archive) => Some(&mut archive.form),
            Self::Load(load) => Some(&mut load.form),
            Self::Tree(_) => None,
        }
    }

    /// Whether it goes to standard output.
    pub fn is_stdout(&self) -> bool {
        match self {
            Self::Image(_) | Self::Load(_) => false,
            Self::Archive(archive) => archive.dest == Dest::Stdout,
            Self::Tree(tree) => tree.dest == TreeDest::Tar(None),
        }
    }

    /// Whether its layers are made into blobs of its own codec.
    pub fn compresses(&self) -> bool {
        match self {
            Self::Image(image) => image.push.is_some(),
            Self::Archive(_) => true,
            Self::Load(load) => load.keeps_blobs(),
            Self::Tree(_) => false,
        }
    }
}

/// What one `-o` must know of its surroundings.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings {
    /// Whether standard output is a terminal, where no archive is written.
    pub stdout_terminal: bool,
    /// Whether there are images for several platforms.
    pub several: bool,
    /// Whether `--allow buildx.local.delete` was said.
    pub may_delete: bool,
}

/// One `-o`, and the time that it gives the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The output.
    pub output: Output,
    /// `source-date-epoch=`.
    pub epoch: Option<i64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Image,
    Registry,
    Oci,
    Docker,
    Local,
    Tar,
}

const KINDS: &[(&str, Kind)] = &[
    ("image", Kind::Image),
    ("registry", Kind::Registry),
    ("oci", Kind::Oci),
    ("docker", Kind::Docker),
    ("local", Kind::Local),
    ("tar", Kind::Tar),
];

/// Understands one `-o`.
///
/// # Errors
/// With advice, for what no output is.
pub fn parse(text: &str, around: Surroundings) -> Result<Parsed, Failure> {
    let mut given = Attributes::read(text)?;
    let kind = match given.bare() {
        Some("") => return Err(given.wrong("there is no destination")),
        Some("-") => Kind::Tar,
        Some(_) => Kind::Local,
        None => kind(&mut given)?,
    };
    if let Some(path) = given.bare().map(str::to_owned) {
        given.set("dest", path);
    }
    let output = match kind {
        Kind::Image | Kind::Registry => Output::Image(image(&mut given, kind)?),
        Kind::Oci | Kind::Docker => {
            let as_tar = given.switch("tar")?.unwrap_or(true);
            if kind == Kind::Docker && as_tar && given.peek("dest").is_none() {
                Output::Load(load(&mut given)?)
            } else {
                Output::Archive(archive(&mut given, kind, as_tar, around)?)
            }
        }
        Kind::Local | Kind::Tar => Output::Tree(tree(&mut given, kind, around)?),
    };
    let epoch = given.number("source-date-epoch")?;
    given.end()?;
    Ok(Parsed { output, epoch })
}

fn kind(given: &mut Attributes) -> Result<Kind, Failure> {
    let Some(name) = given.take("type") else {
        return Err(given.wrong("there is no type").help("write `type=image|registry|oci|docker|local|tar`"));
    };
    if let Some((_, kind)) = KINDS.iter().find(|(known, _)| *known == name) {
        return Ok(*kind);
    }
    let help = match name.as_str() {
        "cacheonly" => "leave out `-o` and `-t`".into(),
        _ => frontend::did_you_mean(&name, KINDS.iter().map(|(known, _)| *known))
            .unwrap_or_else(|| "the types are image, registry, oci, docker, local and tar".into()),
    };
    Err(given.wrong(format!("the type `{name}` is not supported")).help(help))
}

fn image(given: &mut Attributes, kind: Kind) -> Result<ImageOutput, Failure> {
    let is_registry = kind == Kind::Registry;
    let push = given.switch("push")?;
    if is_registry && push == Some(false) {
        return Err(given
            .wrong("`type=registry` is what pushes")
            .help("write `type=image`, or leave out `push=false`"));
    }
    let by_digest = given.switch("push-by-digest")?.unwrap_or(false);
    let insecure = given.switch("registry.insecure")?.unwrap_or(false);
    let pushes = is_registry || push == Some(true);
    if by_digest && !pushes {
        return Err(given.wrong("`push-by-digest` without `push`").help("write `push=true`, or `type=registry`"));
    }
    if by_digest && given.peek("name").is_some_and(|names| names.split(',').any(has_tag)) {
        return Err(given
            .wrong("`push-by-digest` with a tag in `name`")
            .help("leave the tag out: the image gets none there"));
    }
    let dangling = match given.take("dangling-name-prefix") {
        Some(text) => Some(given.name(&text)?),
        None => None,
    };
    // BuildKit's own spelling.
    let empty_only = [given.switch("danging-name-empty-only")?, given.switch("dangling-name-empty-only")?];
    let empty_only = empty_only.contains(&Some(true));
    if given.take("dest").is_some() {
        let words = if is_registry { "a registry has no `dest`" } else { "the local store has no `dest`" };
        return Err(given.wrong(words).help("write `type=oci,dest=FILE` for an archive"));
    }
    Ok(ImageOutput {
        push: pushes.then_some(Push { by_digest, insecure }),
        store: given.switch("store")?.unwrap_or(true),
        unpack: given.switch("unpack")?.unwrap_or(false),
        canonical: given.switch("name-canonical")?.unwrap_or(false),
        dangling: dangling.map(|prefix| (prefix, empty_only)),
        form: form(given)?,
    })
}

fn has_tag(name: &str) -> bool {
    let rest = name.split('@').next().unwrap_or(name);
    rest.rsplit('/').next().is_some_and(|last| last.contains(':'))
}

fn form(given: &mut Attributes) -> Result<ImageForm, Failure> {
    let names = match given.take("name") {
        None => Vec::new(),
        Some(list) => {
            let mut names: Vec<Reference> = Vec::new();
            for text in list.split(',').map(str::trim).filter(|text| !text.is_empty()) {
                let name = given.name(text)?;
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            names
        }
    };
    let codec = given.codec()?;
    let dialect = match given.switch("oci-mediatypes")? {
        Some(false) => Dialect::Docker,
        _ => Dialect::Oci,
    };
    let annotations = given.annotations()?;
    if dialect == Dialect::Docker {
        let refused = match codec.compression() {
            Compression::Zstd | Compression::Estargz => Some(format!("compression={}", codec.compression())),
            _ if !annotations.is_empty() => Some("annotations".to_owned()),
            _ => None,
        };
        if let Some(what) = refused {
            return Err(given
                .wrong(format!("Docker's media types know no {what}"))
                .help("leave out `oci-mediatypes=false`"));
        }
    }
    for (key, why) in
        [("prefer-nondist-layers", "layers that must not be distributed are not pulled in the first place")]
    {
        if given.switch(key)? == Some(true) {
            return Err(given.wrong(format!("`{key}=true` is not supported: {why}")).help("leave it out"));
        }
    }
    // An attestation is an artifact where the media types know them, and stands in the image's index.
    for (key, only) in [("oci-artifact", dialect == Dialect::Oci), ("attestation-inline", true)] {
        if given.switch(key)?.is_some_and(|asked| asked != only) {
            return Err(given.wrong(format!("`{key}={}` is not supported", !only)).help("leave it out"));
        }
    }
    // With an epoch the build's own times are always rewritten, without one never: see docs/outputs.md.
    given.switch("rewrite-timestamp")?;
    let force = given.switch("force-compression")?.unwrap_or(false);
    Ok(ImageForm { names, codec, force, dialect, annotations })
}

fn archive(given: &mut Attributes, kind: Kind, as_tar: bool, around: Surroundings) -> Result<ArchiveOutput, Failure> {
    let dest = given.dest()?;
    let dest = match (dest, as_tar) {
        (Some(path), false) if path != "-" => Dest::Layout(path.into()),
        (_, false) => {
            return Err(given.wrong("a directory cannot go to standard output").help("write `tar=false,dest=FOLDER`"));
        }
        (Some(path), true) if path != "-" => Dest::File(path.into()),
        (_, true) => stdout(given, around).map(|()| Dest::Stdout)?,
    };
    let format = if kind == Kind::Docker { ArchiveFormat::Docker } else { ArchiveFormat::Oci };
    Ok(ArchiveOutput { form: form(given)?, format, dest })
}

fn load(given: &mut Attributes) -> Result<LoadOutput, Failure> {
    let engine = match given.take("to") {
        None => None,
        Some(name) => Some(name.parse().map_err(|error| given.wrong(error))?),
    };
    let not_empty = |text: &String| !text.is_empty();
    let wanted = Wanted {
        engine,
        context: given.take("context").filter(not_empty),
        namespace: given.take("namespace").filter(not_empty),
    };
    wanted.check().map_err(|reason| given.wrong(reason))?;
    Ok(LoadOutput { form: form(given)?, wanted, ..LoadOutput::default() })
}

fn tree(given: &mut Attributes, kind: Kind, around: Surroundings) -> Result<TreeOutput, Failure> {
    let dest = given.dest()?;
    let dest = match (kind, dest) {
        (Kind::Local, None) => {
            return Err(given.wrong("there is no folder").help("write `dest=FOLDER`, or use `type=tar`"));
        }
        (Kind::Local, Some(path)) if path == "-" => {
            return Err(given
                .wrong("a folder cannot go to standard output")
                .help("write `dest=FOLDER`, or use `type=tar`"));
        }
        (Kind::Local, Some(path)) => TreeDest::Folder { path: path.into(), delete: delete(given, around)? },
        (_, Some(path)) if path != "-" => TreeDest::Tar(Some(path.into())),
        _ => {
            stdout(given, around)?;
            TreeDest::Tar(None)
        }
    };
    if given.take("attestation-prefix").is_some_and(|prefix| !prefix.is_empty()) {
        return Err(given.wrong("no attestations are written to folders").help("leave out `attestation-prefix`"));
    }
    let split = given.switch("platform-split")?.unwrap_or(around.several);
    if around.several && !split {
        return Err(given
            .wrong("without `platform-split` the files of several platforms would overwrite each other")
            .help("leave out `platform-split=false`, or build for one platform"));
    }
    Ok(TreeOutput { dest, split })
}

fn delete(given: &mut Attributes, around: Surroundings) -> Result<bool, Failure> {
    match given.take("mode").as_deref() {
        None | Some("copy") => Ok(false),
        Some("delete") if around.may_delete => Ok(true),
        Some("delete") => Err(given
            .wrong("`mode=delete` removes files of yours from the folder")
            .help("allow it: `--allow buildx.local.delete`")),
        Some(other) => Err(given.wrong(format!("`mode={other}` is neither copy nor delete"))),
    }
}

fn stdout(given: &Attributes, around: Surroundings) -> Result<(), Failure> {
    if around.stdout_terminal {
        return Err(given
            .wrong("an archive is not written to a terminal")
            .help("write `dest=FILE`, or redirect standard output"));
    }
    Ok(())
}
