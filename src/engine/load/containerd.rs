//! containerd, through its own program `ctr`, which comes with it.
//!
//! It keeps blobs as they come, so it gets an OCI layout of compressed ones, and layers that its content store has are
//! left out. Its images are names, one per namespace (`default`, Kubernetes' `k8s.io`): an image without one is nothing
//! there. It comes under a name of its own, and gets its names when containerd says that it has all of it (`ctr images
//! check`): a name never means half an image, and what an older image of the name shares with it is not collected while
//! it is unpacked. Deliberately absent: its GRPC API, which would want a client larger than all of this.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::path::Path;

use oci::image::Image;
use oci::model::{Descriptor, Digest, Platform, Reference};

use super::api::Patience;
use super::program::Program;
use super::stream::{Archive, Sent};
use super::unpacked::Unloaded;
use super::{Absent, Loaded, Sending};
use crate::engine::Failure;
use crate::engine::export::Unsent;
use crate::options::load::{Place, Way};

/// containerd behind `ctr`.
pub struct Containerd(Program);

impl Containerd {
    /// The one at a place.
    pub fn at(place: &Place, patience: Patience) -> Option<Self> {
        let Way::Ctr { program: Some(path), socket, namespace } = &place.way else { return None };
        let first = ["--address", &socket.display().to_string(), "--namespace", namespace].map(str::to_owned).to_vec();
        let name = format!("containerd ({place})");
        Some(Self(Program { path: path.clone(), first, name, patience }))
    }

    /// Whether it runs.
    pub async fn check(&self) -> Result<(), Failure> {
        self.0.answer(&["version"]).await.map(drop)
    }

    /// Loads an image, whose blobs are all in the store, under its names.
    pub async fn load(&self, sending: &Sending<'_>, manifest: &Descriptor) -> Result<Loaded, Unsent> {
        if sending.names.is_empty() {
            return Err(no_name().into());
        }
        let image = Image::open(sending.store.blobs(), manifest).map_err(|error| Failure::from_error(&error))?;
        let layers: BTreeSet<Digest> = image.manifest.layers.iter().map(|layer| layer.digest).collect();
        let mut loaded = Loaded { sent_bytes: 0, sent_layers: 0, layers: image.manifest.layers.len() };
        if self.has(sending.names, manifest).await? {
            return Ok(loaded);
        }
        let own = own_name(manifest.digest)?;
        let known: BTreeSet<Digest> = self.contents().await?.intersection(&layers).copied().collect();
        loaded.sent_layers = image.manifest.layers.iter().filter(|layer| !known.contains(&layer.digest)).count();
        // What does not run here is kept, and not unpacked.
        let native = Platform::native();
        let is_native = image.config.os == native.os && image.config.architecture == native.architecture;
        let sent = match self.send(sending, &own, manifest, &known, is_native).await? {
            Err(words) if !known.is_empty() => {
                sending.say(format!("{} does not take the image without the layers it has: {words}", self.0.name));
                loaded.sent_layers = loaded.layers;
                self.send(sending, &own, manifest, &BTreeSet::new(), is_native).await?
            }
            sent => sent,
        };
        loaded.sent_bytes = sent.map_err(|reason| self.0.refused(&["images import -"], &reason))?;
        let named = self.name(sending.names, &own, manifest).await;
        self.0.answer(&["images", "remove", &own.to_string()]).await?;
        named?;
        Ok(loaded)
    }

    /// Gives the image that came under a name of its own its names.
    async fn name(&self, names: &[Reference], own: &Reference, manifest: &Descriptor) -> Result<(), Failure> {
        let lacks = |what: &str| {
            Failure::new(format!("{} has not got the image that it said it took", self.0.name)).note(format!(
                "`ctr images check` does not show {what} as complete, with the digest {}",
                manifest.digest
            ))
        };
        if !self.has(std::slice::from_ref(own), manifest).await? {
            return Err(lacks("it"));
        }
        for name in names {
            self.0.answer(&["images", "tag", "--force", &own.to_string(), &name.to_string()]).await?;
        }
        if self.has(names, manifest).await? { Ok(()) } else { Err(lacks("its names")) }
    }

    /// Sends the image without blobs that are known; the bytes that went, or its words.
    async fn send(
        &self,
        sending: &Sending<'_>,
        own: &Reference,
        manifest: &Descriptor,
        known: &BTreeSet<Digest>,
        is_native: bool,
    ) -> Result<Result<u64, String>, Unsent> {
        let (store, images) = (sending.store.clone(), vec![(vec![own.clone()], manifest.clone())]);
        let image = Image::open(store.blobs(), manifest).map_err(|error| Failure::from_error(&error))?;
        let total_bytes =
            image.manifest.layers.iter().filter(|layer| !known.contains(&layer.digest)).map(|l| l.size).sum();
        let left_out = known.clone();
        let archive = Archive::of(move |out| {
            let is_wanted = |digest: &Digest| !left_out.contains(digest);
            oci::export::oci_layout::write_tar_for(out, store.blobs(), &images, &is_wanted)
                .map_err(|error| Failure::from_error(&error))
        });
        let sent = archive.sent.clone();
        let arguments: &[&str] = if is_native {
            &["images", "import", "-"]
        } else {
            &["images", "import", "--all-platforms", "--no-unpack", "-"]
        };
        match self.0.feed(arguments, archive, &|sent: &Sent| sending.report(sent, total_bytes)).await {
            Ok(()) => {
                sending.done(&sent);
                Ok(Ok(sent.bytes()))
            }
            Err(Unloaded::Refused(words)) => Ok(Err(words)),
            Err(Unloaded::Failed(failure)) => Err(failure.into()),
        }
    }

    /// The digests of its content.
    async fn contents(&self) -> Result<BTreeSet<Digest>, Failure> {
        let listed = self.0.answer(&["content", "list", "--quiet"]).await?;
        Ok(String::from_utf8_lossy(&listed).lines().filter_map(|line| line.trim().parse().ok()).collect())
    }

    /// Whether all names mean this image there, and all of it is there.
    async fn has(&self, names: &[Reference], manifest: &Descriptor) -> Result<bool, Failure> {
        for name in names {
            let name = name.to_string();
            let listed = self.0.answer(&["images", "check", &format!("name==\"{name}\"")]).await?;
            if !is_complete(&String::from_utf8_lossy(&listed), &name, manifest.digest) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// What the image is called until it is whole; nobody else's name at this moment.
fn own_name(manifest: Digest) -> Result<Reference, Failure> {
    let text = format!("rbuild-loading:{}-{}", &manifest.hex()[..12], std::process::id());
    text.parse().map_err(|error| Failure::new(format!("{error}")))
}

/// Whether `ctr images check` says that a name means a digest and nothing is missing. Its columns: name, media type, digest,
/// `complete (3/3)`, size, whether it is unpacked.
fn is_complete(listed: &str, name: &str, digest: Digest) -> bool {
    listed.lines().any(|line| {
        let mut columns = line.split_whitespace();
        columns.next() == Some(name)
            && columns.nth(1).is_some_and(|column| column.parse() == Ok(digest))
            && columns.next() == Some("complete")
    })
}

/// Whether somebody listens at containerd's socket.
pub fn knock(socket: &Path) -> Result<(), Absent> {
    match UnixStream::connect(socket) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let failure =
                Failure::new(format!("containerd (unix://{}) may not be used by this user", socket.display()));
            Err(Absent::Unusable(failure.note(error.to_string()).help("it is root's: use sudo")))
        }
        Err(error) => Err(Absent::Nobody(error.to_string())),
    }
}

/// What cannot be kept there.
pub fn no_name() -> Failure {
    Failure::new("containerd keeps no image without a name").help("give it one: `-t NAME:TAG`, or `name=` in `-o`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_images_are_told_from_others() {
        let digest = Digest::of(b"manifest");
        let check = |line: &str, expected: bool| {
            let listed =
                format!("REF TYPE DIGEST STATUS SIZE UNPACKED\n{}\n", line.replace("DIGEST", &digest.to_string()));
            assert_eq!(is_complete(&listed, "docker.io/library/app:1", digest), expected, "{line}");
        };
        const TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
        check(&format!("docker.io/library/app:1 {TYPE} DIGEST complete (3/3) 1.9 MiB/1.9 MiB true"), true);
        check(&format!("docker.io/library/app:1 {TYPE} DIGEST incomplete (2/3) 1.0 MiB/1.9 MiB false"), false);
        check(&format!("docker.io/library/app:12 {TYPE} DIGEST complete (3/3) 1.9 MiB/1.9 MiB true"), false);
        check(&format!("docker.io/library/app:1 {TYPE} {} complete (3/3)", Digest::of(b"other")), false);
        check("", false);
    }
}
