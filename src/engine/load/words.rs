//! What is said of loading.

use oci::model::{Digest, Reference};

use super::Loaded;
use super::unpacked::Seen;
use crate::amount;
use crate::engine::Failure;
use crate::options::load::{EngineKind, Place};

/// `docker.io/library/app:1`: the name without a digest, which engines do not take.
pub fn tagged(name: &Reference) -> String {
    format!("{}/{}:{}", name.registry(), name.repository(), name.tag().unwrap_or("latest"))
}

/// It unpacks images, and an index cannot be unpacked.
pub fn no_index(place: &Place) -> Failure {
    let engine = place.engine;
    let failure =
        Failure::new(format!("{engine} ({place}) cannot take images for several platforms: it keeps no index"));
    let instead = "build for one platform, or write an archive with `-o type=oci,dest=app.tar`";
    match engine {
        EngineKind::Docker => failure.note("its classic image store unpacks what is loaded").help(format!(
            "let it use containerd's image store (in its `daemon.json`: `\"features\": {{\"containerd-snapshotter\": \
             true}}`), {instead}"
        )),
        EngineKind::Podman | EngineKind::Containerd => failure.help(instead),
    }
}

/// What the engine has is another image.
pub fn other_image(engine: &str, id: &Digest, seen: Option<&Seen>) -> Failure {
    let failure = Failure::new(format!("{engine} has not got the image that it said it took"));
    match seen {
        None => failure.note(format!("it has nothing with the id {id}")),
        Some(seen) => failure.note(format!("{id} has {} layers there, and others", seen.layers.len())),
    }
}

/// A name means another image.
pub fn other_name(engine: &str, name: &str, id: &Digest, seen: Option<&Seen>) -> Failure {
    let failure = Failure::new(format!("{engine} took the image, but `{name}` is not it there"));
    match seen.and_then(|seen| seen.id) {
        Some(other) => failure.note(format!("it is {other} instead of {id}")),
        None => failure.note(format!("there is no such name; the image is {id}")),
    }
}

/// The line at the end of a build.
pub fn done(names: &[Reference], place: &str, loaded: &Loaded) -> String {
    let named: Vec<String> = names.iter().filter(|name| name.tag().is_some()).map(Reference::familiar).collect();
    let Loaded { id, sent_bytes, sent_layers, layers } = loaded;
    let what = if named.is_empty() { id.to_string() } else { named.join(", ") };
    let how = match sent_layers {
        0 => "it had all layers".to_owned(),
        _ => format!("sent {sent_layers} of {layers} layers, {}", amount::amount(*sent_bytes)),
    };
    format!("loaded {what} into {place}: {how}")
}
