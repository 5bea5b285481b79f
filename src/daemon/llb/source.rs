//! Sources: identifiers and attributes stay as they are; what nobody here heeds is refused.
//!
//! Attributes of `local://` that say how files come (`local.session`, `local.followpaths`, …) are the session's business.
//! Images need not be pinned here: who solves the graph asks what their names mean.

use std::collections::BTreeMap;

use api::pb;
use solver::op::{SourceOp, attr};

use super::bounds::text;
use super::error::Fault;

/// What is made of an attribute.
enum Heed {
    /// Whatever it says: it is heeded, or changes nothing here.
    Any,
    /// One of these; another value would be passed over.
    Only(&'static [&'static str]),
}

use Heed::{Any, Only};

/// Attributes of images, whatever store they are in.
const IMAGE: &[(&str, Heed)] = &[
    ("image.resolvemode", Only(&["default", "pull", "local"])),
    ("image.recordtype", Any),
    ("oci.session", Any),
    ("oci.store", Any),
];

const LOCAL: &[(&str, Heed)] = &[
    (attr::INCLUDE_PATTERNS, Any),
    (attr::EXCLUDE_PATTERNS, Any),
    ("local.followpaths", Any),
    ("local.session", Any),
    ("local.unique", Any),
    ("local.sharedkeyhint", Any),
    ("local.differ", Any),
    ("local.metadatatransfer", Only(&["", "false"])),
];

/// Tokens and headers are found by their names here, with the host behind them where there are several.
const GIT: &[(&str, Heed)] = &[
    (attr::GIT_FULL_URL, Any),
    (attr::GIT_KEEP_DIR, Any),
    (attr::GIT_CHECKSUM, Any),
    (attr::GIT_SKIP_SUBMODULES, Any),
    (attr::GIT_MTIME, Any),
    (attr::GIT_FETCH_BY_COMMIT, Any),
    ("git.authtokensecret", Only(&["GIT_AUTH_TOKEN"])),
    ("git.authheadersecret", Only(&["GIT_AUTH_HEADER"])),
    ("git.mountsshsock", Only(&["default"])),
    ("git.advice", Any),
];

const HTTP: &[(&str, Heed)] = &[
    (attr::HTTP_CHECKSUM, Any),
    (attr::HTTP_FILENAME, Any),
    (attr::HTTP_PERM, Any),
    ("http.uid", Only(&["0"])),
    ("http.gid", Only(&["0"])),
];

/// Reads one that has so many inputs.
pub(super) fn read(source: &pb::SourceOp, inputs: usize) -> Result<SourceOp, Fault> {
    if inputs > 0 {
        return Err(Fault::malformed("a source has inputs"));
    }
    let identifier = text("the identifier", &source.identifier)?;
    let attrs: BTreeMap<String, String> = source.attrs.clone().into_iter().collect();
    let source = SourceOp { identifier, attrs };
    let known = match source.scheme() {
        "" => return Err(Fault::malformed("the identifier of the source has no scheme")),
        "docker-image" | "oci-layout" => IMAGE,
        "local" => LOCAL,
        "git" => GIT,
        "http" | "https" => HTTP,
        scheme => return Err(Fault::unsupported(format!("a source `{}://`", scheme.escape_debug()))),
    };
    if source.reference().is_empty() {
        return Err(Fault::malformed("the identifier of the source names nothing"));
    }
    for (name, value) in &source.attrs {
        match known.iter().find(|(known, _)| known == name) {
            Some((_, Any)) => {}
            Some((_, Only(values))) if values.contains(&value.as_str()) => {}
            Some(_) => {
                return Err(Fault::unsupported(format!("the value `{}` of `{name}`", value.escape_debug())));
            }
            None => return Err(Fault::unsupported(format!("the attribute `{}`", name.escape_debug()))),
        }
    }
    Ok(source)
}

/// Writes one.
pub(super) fn write(source: &SourceOp) -> pb::SourceOp {
    pb::SourceOp { identifier: source.identifier.clone(), attrs: source.attrs.clone().into_iter().collect() }
}
