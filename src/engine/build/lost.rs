//! What of the outputs has no place in what is made, said before anything is made.

use solver::graph::VertexId;
use solver::seam::{Event, Progress};

use crate::options::BuildOptions;
use crate::options::annotation::Level;
use crate::options::output::{ImageForm, Output};

/// Says it.
pub fn say(options: &BuildOptions, progress: &dyn Progress) {
    for text in notices(options) {
        progress.event(Event::Notice { vertex: VertexId::of_name("outputs"), text });
    }
}

fn notices(options: &BuildOptions) -> Vec<String> {
    let archived = options.outputs.iter().any(|output| matches!(output, Output::Archive(_)));
    let annotations = options.outputs.iter().filter_map(Output::form).map(|form| &form.annotations);
    let annotations: Vec<_> = annotations.chain([&options.annotations]).collect();
    let has = |level: Level| annotations.iter().any(|annotations| annotations.has(level));
    let is_index = options.input.makes_index();
    let mut notices = Vec::new();
    if !is_index {
        let levels = [Level::Index, Level::IndexDescriptor].into_iter().filter(|level| has(*level));
        let levels: Vec<String> = levels.map(|level| format!("`{}`", level.name())).collect();
        if !levels.is_empty() {
            notices.push(format!(
                "an image for one platform has no index: annotations of {} go nowhere",
                levels.join(" and ")
            ));
        }
    }
    if is_index && options.tags.is_empty() && options.outputs.is_empty() {
        notices.push("without a name (`-t`) the local store keeps the images, and not the index of them".into());
    }
    let outermost = if is_index { Level::IndexDescriptor } else { Level::ManifestDescriptor };
    if has(outermost) && !archived {
        notices.push(format!(
            "annotations of `{}` stand in an archive only, and `-o type=oci` is not asked for",
            outermost.name()
        ));
    }
    let plain = ImageForm::default();
    let has_form =
        |form: &ImageForm| (form.codec, form.force, form.dialect) != (plain.codec, plain.force, plain.dialect);
    if options
        .outputs
        .iter()
        .any(|output| matches!(output, Output::Image(image) if image.push.is_none() && has_form(&image.form)))
    {
        notices.push(
            "the local store keeps layers as trees: how `type=image` compresses and names them counts when it pushes"
                .into(),
        );
    }
    if options.provenance.is_some() && !options.outputs.iter().any(holds_index) {
        notices.push(
            "a provenance stands in what is pushed and in OCI archives; neither is asked for (`--push`, `-o type=oci`)"
                .into(),
        );
    }
    notices.extend(crate::engine::load::lost_form(&options.outputs));
    notices
}

/// Whether what goes out there can be an index.
fn holds_index(output: &Output) -> bool {
    match output {
        Output::Image(image) => image.push.is_some(),
        Output::Archive(_) => true,
        Output::Load(load) => load.keeps_blobs(),
        Output::Tree(_) => false,
    }
}
