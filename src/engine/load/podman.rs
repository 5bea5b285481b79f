//! podman without a service: its program.
//!
//! `podman load` takes an archive from standard input, and, being an OCI layout, without the layers that it has: it asks
//! its store before it opens a layer's file. (`podman pull oci:DIRECTORY` does the same, but wants all of the image's blobs
//! on a disk first.) A service of podman's speaks [`super::api`].

use oci::model::{Digest, Reference};
use serde::Deserialize;

use super::api::Patience;
use super::program::Program;
use super::stream::{Archive, Sent};
use super::unpacked::{Engine, Seen, Unloaded};
use super::words;
use crate::engine::Failure;

/// podman's program.
pub struct Podman(Program);

impl Podman {
    /// It is run when something is asked.
    pub fn at(path: &std::path::Path, patience: Patience) -> Self {
        let name = format!("podman ({})", path.display());
        Self(Program { path: path.to_owned(), first: Vec::new(), name, patience })
    }

    /// Whether it works here.
    ///
    /// # Errors
    /// In its own words.
    pub async fn check(&self) -> Result<(), Failure> {
        if executor::rootless::launcher().is_some() {
            return Err(Failure::new(format!("{} cannot be run from inside rbuild's user namespace", self.0.name))
                .help("let its service take the image: `systemctl --user start podman.socket`"));
        }
        self.0.answer(&["info", "--format", "{{.Store.GraphRoot}}"]).await.map(drop)
    }

    /// What it says of images; `None`: one of them is not there.
    async fn inspect(&self, what: &[&str]) -> Result<Option<Vec<Seen>>, Failure> {
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Image {
            id: String,
            #[serde(default, rename = "RootFS")]
            root: Option<Root>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct Root {
            #[serde(default)]
            layers: Option<Vec<String>>,
        }
        let said = self.0.ask(&[&["image", "inspect"], what].concat()).await?;
        if !said.is_well {
            return Ok(None);
        }
        let images: Vec<Image> = serde_json::from_slice(&said.stdout).map_err(|error| {
            self.0.refused(&["image", "inspect"], &format!("its answer is not understood: {error}"))
        })?;
        let layers = |image: &Image| image.root.as_ref().and_then(|root| root.layers.clone()).unwrap_or_default();
        Ok(Some(images.iter().map(|image| Seen::of(&image.id, &layers(image))).collect()))
    }
}

impl Engine for Podman {
    fn name(&self) -> &str {
        &self.0.name
    }

    async fn image(&self, what: &str) -> Result<Option<Seen>, Failure> {
        // 1: there is none; others are errors.
        let exists = ["image", "exists", what];
        let said = self.0.ask(&exists).await?;
        if !said.is_well {
            let is_silent = said.reason.starts_with("it ends with");
            return if is_silent { Ok(None) } else { Err(self.0.refused(&exists, &said.reason)) };
        }
        Ok(self.inspect(&[what]).await?.and_then(|seen| seen.into_iter().next()))
    }

    async fn images(&self) -> Result<Vec<String>, Failure> {
        let listed = self.0.answer(&["image", "list", "--quiet", "--no-trunc"]).await?;
        let mut ids: Vec<String> = Vec::new();
        for id in String::from_utf8_lossy(&listed).lines() {
            // Each name has a line.
            if id.parse::<Digest>().is_ok() && !ids.iter().any(|known| known == id) {
                ids.push(id.to_owned());
            }
        }
        Ok(ids)
    }

    async fn look(&self, ids: &[String]) -> Result<Vec<Seen>, Failure> {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        // When one of them goes meanwhile, nothing is known of these, and so their layers are sent.
        Ok(self.inspect(&ids).await?.unwrap_or_default())
    }

    async fn take(&self, archive: Archive, moved: &dyn Fn(&Sent)) -> Result<(), Unloaded> {
        self.0.feed(&["load", "--quiet"], archive, moved).await
    }

    async fn tag(&self, id: &Digest, name: &Reference) -> Result<(), Failure> {
        self.0.answer(&["tag", &id.hex(), &words::tagged(name)]).await.map(drop)
    }
}
