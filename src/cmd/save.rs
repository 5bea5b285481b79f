//! `rbuild save`.

use std::path::Path;

use super::Hall;
use crate::cli::{SaveArgs, SaveFormat};
use crate::engine::{Failure, images as engine};
use crate::options::output::{ArchiveFormat, ArchiveOutput, Dest, ImageForm};

/// Writes images as an archive.
pub async fn save(hall: &Hall<'_>, args: &SaveArgs) -> Result<u8, Failure> {
    let dest = args.output.clone().filter(|path| path != Path::new("-"));
    if dest.is_none() && hall.environment.stdout_terminal {
        return Err(Failure::new("an archive is not written to a terminal")
            .help("name a file with `-o FILE`, or redirect standard output"));
    }
    let format = match args.format {
        SaveFormat::Oci => ArchiveFormat::Oci,
        SaveFormat::Docker => ArchiveFormat::Docker,
    };
    let settings = &hall.settings();
    let output = &ArchiveOutput { form: ImageForm::default(), format, dest: Dest::file(dest) };
    let work = async |progress, cancel| engine::save(settings, &args.images, output, progress, cancel).await;
    hall.under_display(hall.mode()?, work).await?;
    Ok(0)
}
