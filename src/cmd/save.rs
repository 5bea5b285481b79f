//! `rbuild save`.

use std::path::Path;

use oci::model::Reference;
use serde_json::json;

use super::Hall;
use crate::cli::{SaveArgs, SaveFormat};
use crate::engine::Failure;
use crate::engine::images::{self, Saved};
use crate::engine::load::choose;
use crate::escape;
use crate::options::load::{self, EngineKind, LoadOutput, Wanted};
use crate::options::output::{ArchiveFormat, ArchiveOutput, Dest, ImageForm, Output};

/// Writes images as an archive, or into another engine.
pub async fn save(hall: &Hall<'_>, args: &SaveArgs) -> Result<u8, Failure> {
    if let Some(engine) = args.to {
        return send(hall, args, engine).await;
    }
    let dest = args.output.clone().filter(|path| path != Path::new("-"));
    if dest.is_none() && hall.environment.stdout_terminal {
        return Err(Failure::new("an archive is not written to a terminal")
            .help("name a file with `-o FILE`, or redirect standard output"));
    }
    let format = match args.format {
        SaveFormat::Oci => ArchiveFormat::Oci,
        SaveFormat::Docker => ArchiveFormat::Docker,
    };
    let (settings, platform) = (&hall.settings(), args.platform.as_ref());
    let output = &ArchiveOutput { form: ImageForm::default(), format, dest: Dest::file(dest) };
    let work = async |progress, cancel| images::save(settings, &args.images, platform, output, progress, cancel).await;
    let saved = hall.under_display(hall.mode()?, work).await?;
    if let Some(path) = &args.metadata_file {
        super::write_file(path, &escape::json(&saved.iter().map(row).collect::<Vec<_>>()))?;
    }
    Ok(0)
}

fn row(image: &Saved) -> serde_json::Value {
    json!({
        "names": image.names.iter().map(Reference::familiar).collect::<Vec<_>>(),
        "id": image.id,
        "digest": image.manifest.digest,
        "media_type": image.manifest.media_type,
        "size": image.manifest.size,
    })
}

/// Loads images into docker, podman or containerd.
async fn send(hall: &Hall<'_>, args: &SaveArgs, engine: EngineKind) -> Result<u8, Failure> {
    let wanted = Wanted { engine: Some(engine), ..Wanted::default() };
    let places = load::places(&wanted, hall.environment)?;
    let form = ImageForm { names: args.images.clone(), ..ImageForm::default() };
    let mut outputs = [Output::Load(LoadOutput { form, wanted, places, target: None })];
    // What keeps no index gets one image of it.
    choose(&mut outputs, false).await?;
    let [Output::Load(output)] = &outputs else { unreachable!("it was made above") };
    let (settings, platform) = (&hall.settings(), args.platform.as_ref());
    let work = async |progress, cancel| images::send(settings, &args.images, platform, output, progress, cancel).await;
    for done in hall.under_display(hall.mode()?, work).await? {
        super::print(&format!("{}\n", escape::line(&done)))?;
    }
    Ok(0)
}
