//! containerd, through its own program `ctr`, which comes with it.
//!
//! It keeps blobs as they come, so it gets an OCI layout of compressed ones, and layers that its content store has are
//! left out. Its images are names, one per namespace (`default`, Kubernetes' `k8s.io`): an image without one is nothing
//! there. It comes under a name of its own, and gets its names when containerd lists all of it: a name never means half an
//! image, and what an older image of the name shares with it is not collected while it is unpacked. Deliberately absent:
//! its GRPC API, which would want a client larger than all of this.

use std::collections::BTreeSet;
use std::os::unix::net::UnixStream;
use std::path::Path;

use oci::model::{Digest, Reference};

use super::api::Patience;
use super::blobs::Blobs;
use super::program::Program;
use super::stream::Sent;
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

    /// Loads an image or an index, whose blobs are all in the store, under its names.
    pub async fn load(&self, sending: &Sending<'_>, blobs: &Blobs) -> Result<Loaded, Unsent> {
        if sending.names.is_empty() {
            return Err(no_name().into());
        }
        let layers = blobs.layers();
        let mut loaded = Loaded { id: blobs.id(), sent_bytes: 0, sent_layers: 0, layers: layers.len() };
        if self.has(sending.names, blobs).await? {
            return Ok(loaded);
        }
        let own = own_name(blobs.top.digest)?;
        let known: BTreeSet<Digest> =
            self.contents().await?.into_iter().filter(|digest| layers.contains_key(digest)).collect();
        loaded.sent_layers = layers.len() - known.len();
        let sent = match self.send(sending, &own, blobs, &known).await? {
            Err(words) if !known.is_empty() => {
                sending.say(format!("{} does not take the image without the layers it has: {words}", self.0.name));
                loaded.sent_layers = loaded.layers;
                self.send(sending, &own, blobs, &BTreeSet::new()).await?
            }
            sent => sent,
        };
        loaded.sent_bytes = sent.map_err(|reason| self.0.refused(&["images import -"], &reason))?;
        let named = self.name(sending.names, &own, blobs).await;
        self.0.answer(&["images", "remove", &own.to_string()]).await?;
        named?;
        Ok(loaded)
    }

    /// Gives the image that came under a name of its own its names.
    async fn name(&self, names: &[Reference], own: &Reference, blobs: &Blobs) -> Result<(), Failure> {
        let lacks = |what: &str| {
            Failure::new(format!("{} has not got the image that it said it took", self.0.name)).note(format!(
                "`ctr` does not list {what} with the digest {}, or not all blobs of it",
                blobs.top.digest
            ))
        };
        if !self.has(std::slice::from_ref(own), blobs).await? {
            return Err(lacks("it"));
        }
        for name in names {
            self.0.answer(&["images", "tag", "--force", &own.to_string(), &name.to_string()]).await?;
        }
        if self.has(names, blobs).await? { Ok(()) } else { Err(lacks("its names")) }
    }

    /// Sends the image without layers that are known; the bytes that went, or its words.
    async fn send(
        &self,
        sending: &Sending<'_>,
        own: &Reference,
        blobs: &Blobs,
        known: &BTreeSet<Digest>,
    ) -> Result<Result<u64, String>, Unsent> {
        let sizes = blobs.layers();
        let total_bytes = sizes.iter().filter(|(digest, _)| !known.contains(digest)).map(|(_, size)| size).sum();
        let archive = blobs.archive(sending.store, std::slice::from_ref(own), known);
        let sent = archive.sent.clone();
        match self.0.feed(arguments(blobs), archive, &|sent: &Sent| sending.report(sent, total_bytes)).await {
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

    /// Whether all names mean this there, and all of it is there. Not by `ctr images check`, which looks at nothing of an
    /// index but the image for its machine, and fails where there is none.
    async fn has(&self, names: &[Reference], blobs: &Blobs) -> Result<bool, Failure> {
        for name in names {
            let name = name.to_string();
            let listed = self.0.answer(&["images", "list", &format!("name==\"{name}\"")]).await?;
            if !means(&String::from_utf8_lossy(&listed), &name, blobs.top.digest) {
                return Ok(false);
            }
        }
        Ok(blobs.all().is_subset(&self.contents().await?))
    }
}

/// How an archive is given to `ctr`. Of an index all is kept. What does not run here is kept too, and not unpacked.
fn arguments(blobs: &Blobs) -> &'static [&'static str] {
    match (blobs.runs_here(), blobs.is_index) {
        (true, false) => &["images", "import", "-"],
        (true, true) => &["images", "import", "--all-platforms", "-"],
        (false, _) => &["images", "import", "--all-platforms", "--no-unpack", "-"],
    }
}

/// What the image is called until it is whole; nobody else's name at this moment.
fn own_name(manifest: Digest) -> Result<Reference, Failure> {
    let text = format!("rbuild-loading:{}-{}", &manifest.hex()[..12], std::process::id());
    text.parse().map_err(|error| Failure::new(format!("{error}")))
}

/// Whether `ctr images list` says that a name means this digest. Columns: name, media type, digest, size, platforms,
/// labels.
fn means(listed: &str, name: &str, digest: Digest) -> bool {
    listed.lines().any(|line| {
        let mut columns = line.split_whitespace();
        columns.next() == Some(name) && columns.nth(1).is_some_and(|column| column.parse() == Ok(digest))
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
    fn what_a_name_means_is_read_from_a_list() {
        let digest = Digest::of(b"manifest");
        let check = |line: &str, expected: bool| {
            let listed =
                format!("REF TYPE DIGEST SIZE PLATFORMS LABELS\n{}\n", line.replace("DIGEST", &digest.to_string()));
            assert_eq!(means(&listed, "docker.io/library/app:1", digest), expected, "{line}");
        };
        const TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
        check(&format!("docker.io/library/app:1 {TYPE} DIGEST 1.9 MiB linux/amd64 -"), true);
        check(&format!("docker.io/library/app:12 {TYPE} DIGEST 1.9 MiB linux/amd64 -"), false);
        check(&format!("docker.io/library/app:1 {TYPE} {} 1.9 MiB linux/amd64 -", Digest::of(b"other")), false);
        check("", false);
    }
}
