//! Root file systems, as directories or a tar.
//!
//! In: images, an output. Out: their files. With `platform-split` those of each platform lie in a directory that is
//! called after it.

use std::io::Write;
use std::os::fd::BorrowedFd;
use std::path::Path;

use oci::layer::{LayerError, WriteOptions};
use oci::model::Platform;

use super::{Exporter, top_of};
use crate::engine::assemble::Assembled;
use crate::engine::destination::{not_sent, send_to, write_to};
use crate::engine::{Failure, words};
use crate::options::output::{TreeDest, TreeOutput};

impl Exporter<'_> {
    /// Writes the trees of all images.
    pub(super) async fn trees(&self, output: &TreeOutput, images: &[Assembled]) -> Result<(), Failure> {
        if let TreeDest::Folder { path, delete: true } = &output.dest {
            self.check_delete(path)?;
        }
        let mut views = Vec::with_capacity(images.len());
        for image in images {
            let top = top_of(image);
            let view =
                self.worker.blocking(move |worker| worker.view(&top)).await.map_err(|error| words::exec(&error))?;
            let beneath = if output.split { directory(&image.platform) } else { String::new() };
            views.push((beneath, view));
        }
        let dest = output.dest.clone();
        let written = self.worker.on_core(self.cancel, move |_| {
            let trees: Vec<(String, BorrowedFd<'_>)> =
                views.iter().map(|(beneath, view)| (beneath.clone(), view.fd())).collect();
            Ok(match &dest {
                TreeDest::Folder { path, delete } => views.iter().try_for_each(|(beneath, view)| {
                    executor::copy_tree_out(view, &path.join(beneath), *delete)
                        .map_err(|error| Failure::from_error(&error))
                }),
                TreeDest::Tar(dest) => write_to(dest.as_deref(), |out| write_tar(&trees, out)),
                TreeDest::TheirTar(outlet) => send_to(outlet, |out| write_tar(&trees, out)),
                TreeDest::TheirFolder(outlet) => outlet.0.folders(&trees).map_err(|error| not_sent(&error)),
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
}

/// All trees as one archive.
fn write_tar(trees: &[(String, BorrowedFd<'_>)], out: &mut dyn Write) -> Result<(), LayerError> {
    let trees = trees
        .iter()
        .map(|(beneath, tree)| (*tree, WriteOptions { beneath: beneath.as_bytes(), ..WriteOptions::default() }));
    oci::layer::write_trees(trees, out).map(drop)
}

/// `linux_arm64`
fn directory(platform: &Platform) -> String {
    platform.to_string().replace('/', "_")
}

/// Where it went.
pub(super) fn in_words(tree: &TreeOutput) -> String {
    match &tree.dest {
        TreeDest::Folder { path, .. } => format!("wrote the root file system to {}", path.display()),
        TreeDest::Tar(Some(path)) => format!("wrote the root file system as a tar to {}", path.display()),
        TreeDest::Tar(None) => "wrote the root file system as a tar to standard output".into(),
        TreeDest::TheirTar(_) => "sent the root file system as a tar".into(),
        TreeDest::TheirFolder(_) => "sent the root file system".into(),
    }
}
