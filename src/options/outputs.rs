//! All outputs of a build: every `-o`, `--push`, and what `-t` and `--annotation` mean for them.
//!
//! In: the flags. Out: outputs that know their own names and annotations, and the names under which the local store
//! keeps the image. `--push` makes every `type=image` push, or adds one that does; `--load` adds a `type=docker` that is
//! loaded, unless there is one. A `name` of an output is its own and
//! beats `-t`. Deliberately absent: the attributes of one ([`super::output`]).

use oci::layer::Dialect;
use oci::model::Reference;

use super::annotation::Annotations;
use super::output::{ArchiveFormat, ImageForm, ImageOutput, Output, Push, Surroundings, parse};
use super::{InputOptions, allow, load};
use crate::cli::BuildArgs;
use crate::engine::Failure;
use crate::environment::Environment;

/// What is to be made of a result.
#[derive(Debug)]
pub struct Outputs {
    /// In order.
    pub outputs: Vec<Output>,
    /// The names under which the local store keeps the image.
    pub tags: Vec<Reference>,
    /// The time that outputs give the image.
    pub epoch: Option<i64>,
}

/// Understands all of it.
///
/// # Errors
/// With advice, for what no output is, or what cannot be together.
pub fn outputs(
    args: &BuildArgs,
    input: &InputOptions,
    annotations: &Annotations,
    environment: &Environment,
) -> Result<Outputs, Failure> {
    let may_delete = allow::may_delete(&args.allow);
    let several = input.makes_index();
    let around = Surroundings { stdout_terminal: environment.stdout_terminal, several, may_delete };
    let (mut outputs, mut epoch) = (Vec::new(), None);
    for text in &args.outputs {
        let Some(text) = text.to_str() else {
            return Err(Failure::new(format!("`-o {}` is not UTF-8", text.to_string_lossy())));
        };
        let parsed = parse(text, around)?;
        if let (Some(one), Some(other)) = (epoch, parsed.epoch)
            && one != other
        {
            return Err(Failure::new(format!("outputs have two times: `source-date-epoch={one}` and `={other}`"))
                .help("one build makes one image, with one time"));
        }
        epoch = epoch.or(parsed.epoch);
        outputs.push(parsed.output);
    }
    if args.push {
        push(&mut outputs);
    }
    if let Some(wanted) = load::asked(args.load.as_deref())? {
        add_load(&mut outputs, wanted);
    }
    for output in &mut outputs {
        if let Output::Load(load) = output {
            load.places = load::places(&load.wanted, environment)?;
        }
    }
    let mut given: Vec<Reference> = Vec::new();
    for tag in &args.tags {
        if !given.contains(tag) {
            given.push(tag.clone());
        }
    }
    for output in &mut outputs {
        let is_pushed = matches!(output, Output::Image(image) if image.push.is_some());
        let Some(form) = output.form_mut() else { continue };
        complete(form, &given, annotations)?;
        if is_pushed && form.names.is_empty() {
            return Err(Failure::new("there is no name to push to")
                .help("give one with `-t REGISTRY/NAME:TAG`, or with `name=` in `-o`"));
        }
    }
    if several {
        check_archives(&outputs)?;
    }
    check_stdout(&outputs, args.quiet)?;
    let tags = kept(&outputs, given);
    Ok(Outputs { outputs, tags, epoch })
}

/// `--push`.
fn push(outputs: &mut Vec<Output>) {
    let mut is_image = false;
    for output in outputs.iter_mut() {
        if let Output::Image(image) = output {
            image.push.get_or_insert_with(Push::default);
            is_image = true;
        }
    }
    if !is_image {
        let push = Some(Push::default());
        outputs.push(Output::Image(ImageOutput { push, store: true, ..ImageOutput::default() }));
    }
}

/// `--load`.
fn add_load(outputs: &mut Vec<Output>, wanted: load::Wanted) {
    let mut is_loaded = false;
    for output in outputs.iter_mut() {
        if let Output::Load(load) = output {
            load.wanted.engine = load.wanted.engine.or(wanted.engine);
            is_loaded = true;
        }
    }
    if !is_loaded {
        outputs.push(Output::Load(load::LoadOutput { wanted, ..load::LoadOutput::default() }));
    }
}

/// Gives a form what it takes from the other flags.
fn complete(form: &mut ImageForm, tags: &[Reference], annotations: &Annotations) -> Result<(), Failure> {
    if form.names.is_empty() {
        form.names = tags.to_vec();
    }
    form.annotations.or(annotations);
    if form.dialect == Dialect::Docker && !form.annotations.is_empty() {
        return Err(Failure::new(
            "`--annotation` and `oci-mediatypes=false`: Docker's media types know no annotations",
        )
        .help("leave out one of them"));
    }
    Ok(())
}

/// The names of outputs into the local store; without any, those of `-t`.
fn kept(outputs: &[Output], given: Vec<Reference>) -> Vec<Reference> {
    let mut tags = Vec::new();
    let mut is_image = false;
    for output in outputs {
        let Output::Image(image) = output else { continue };
        is_image = true;
        let is_tagged = image.store && !image.push.is_some_and(|push| push.by_digest);
        for name in image.form.names.iter().filter(|_| is_tagged) {
            if !tags.contains(name) {
                tags.push(name.clone());
            }
        }
    }
    if is_image { tags } else { given }
}

/// What is told of an image stands in an index.
///
/// # Errors
/// For archives that have none.
pub fn check_told(outputs: &[Output]) -> Result<(), Failure> {
    if outputs.iter().any(is_docker_archive) {
        return Err(Failure::new("`type=docker` with `dest` cannot hold a provenance: its form has no index")
            .help("write `type=oci`, or leave out `--provenance`"));
    }
    Ok(())
}

fn is_docker_archive(output: &Output) -> bool {
    matches!(output, Output::Archive(out) if out.format == ArchiveFormat::Docker)
}

/// Docker's archives list images, not indexes.
fn check_archives(outputs: &[Output]) -> Result<(), Failure> {
    if !outputs.iter().any(is_docker_archive) {
        return Ok(());
    }
    Err(Failure::new("`type=docker` with `dest` cannot take images for several platforms: its form has no index")
        .help("write `type=oci`, or build for one platform"))
}

fn check_stdout(outputs: &[Output], quiet: bool) -> Result<(), Failure> {
    let to_stdout = outputs.iter().filter(|output| output.is_stdout()).count();
    if to_stdout > 1 {
        return Err(Failure::new("several outputs go to standard output").help("give all but one a `dest=PATH`"));
    }
    if to_stdout == 1 && quiet {
        return Err(Failure::new("`--quiet` prints the image id on standard output, where an output goes already")
            .help("use `--progress=none`, and `--iidfile FILE` for the id"));
    }
    Ok(())
}
