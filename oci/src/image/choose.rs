//! Which of an index's images is for a platform.

use super::document::{Document, read_document};
use super::error::ImageError;
use crate::content::ContentStore;
use crate::model::{Descriptor, Index, Platform, media_type};

/// Indexes may point to indexes; three deep is more than anyone makes.
pub const NESTING_MAX: usize = 4;

/// The entry for a platform: that of the same variant, else the next lower one that the machine also runs (arm/v6 on
/// v7, amd64/v2 on v3), else one without a variant; of equals the first. If none is: the first index among them that says
/// no platform, for it may be in there; or, if none of them says a platform, the first, whose config has the say.
pub fn choose<'a>(index: &'a Index, wanted: &Platform) -> Option<&'a Descriptor> {
    let entries = &index.manifests;
    let ranked = entries.iter().filter_map(|entry| Some((distance(entry.platform.as_ref()?, wanted)?, entry)));
    // `min_by_key` keeps the first of equals.
    let nearest = ranked.min_by_key(|(distance, _)| *distance).map(|(_, entry)| entry);
    let silent = || entries.iter().filter(|entry| entry.platform.is_none());
    let is_index =
        |entry: &&Descriptor| matches!(entry.media_type.as_str(), media_type::OCI_INDEX | media_type::DOCKER_INDEX);
    let other = || silent().find(is_index).or_else(|| silent().next().filter(|_| available(index).is_empty()));
    nearest.or_else(other)
}

/// The manifest that `descriptor` means on a platform: itself, or chosen from the index it points to, or from indexes
/// therein.
pub fn find_manifest(
    store: &dyn ContentStore,
    descriptor: &Descriptor,
    wanted: &Platform,
) -> Result<Descriptor, ImageError> {
    let mut current = descriptor.clone();
    for _ in 0..NESTING_MAX {
        if matches!(current.media_type.as_str(), media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST) {
            return Ok(current);
        }
        let index = match read_document(store, &current)?.0 {
            Document::Index(index) => index,
            Document::Manifest(_) => return Ok(current),
        };
        current = match choose(&index, wanted) {
            Some(chosen) => chosen.clone(),
            None => {
                return Err(ImageError::NoPlatform {
                    digest: current.digest,
                    wanted: Box::new(wanted.clone()),
                    available: available(&index),
                });
            }
        };
    }
    Err(ImageError::malformed("index", descriptor.digest, "indexes are nested too deep"))
}

/// 0 is the same; `None` does not run there.
fn distance(entry: &Platform, wanted: &Platform) -> Option<u32> {
    let normal = |platform: &Platform| Platform::normalised(&platform.os, &platform.architecture, &platform.variant);
    let (entry, wanted) = (normal(entry), normal(wanted));
    if (&entry.os, &entry.architecture) != (&wanted.os, &wanted.architecture) {
        return None;
    }
    if entry.variant == wanted.variant {
        return Some(0);
    }
    let level = |platform: &Platform| platform.variant.strip_prefix('v').and_then(|number| number.parse::<u32>().ok());
    match (level(&entry), level(&wanted)) {
        (Some(entry), Some(wanted)) if entry < wanted => Some(wanted - entry),
        // The lowest variants, amd64/v1 and arm64/v8, are written as none.
        _ if entry.variant.is_empty() => Some(u32::MAX),
        _ => None,
    }
}

/// The platforms that an index has images for, sorted.
pub fn available(index: &Index) -> Vec<Platform> {
    let mut platforms: Vec<Platform> = index.manifests.iter().filter_map(|entry| entry.platform.clone()).collect();
    // Attestations hang on `unknown/unknown`.
    platforms.retain(|platform| platform.os != "unknown");
    platforms.sort();
    platforms.dedup();
    platforms
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Digest;

    fn check(platforms: &[&str], wanted: &str, want: Option<usize>) {
        let manifests: Vec<Descriptor> = platforms
            .iter()
            .enumerate()
            .map(|(i, platform)| {
                let is_index = *platform == "index";
                let kind = if is_index { media_type::OCI_INDEX } else { media_type::OCI_MANIFEST };
                let mut entry = Descriptor::new(kind, Digest::of(&[i as u8]), 1);
                let (platform, version) = platform.split_once('@').unwrap_or((platform, ""));
                let parts: Vec<&str> = platform.split('/').collect();
                entry.platform = (!platform.is_empty() && !is_index).then(|| Platform {
                    os: parts[0].into(),
                    architecture: parts[1].into(),
                    variant: parts.get(2).copied().unwrap_or_default().into(),
                    os_version: version.into(),
                    ..Platform::default()
                });
                entry
            })
            .collect();
        let index = Index {
            schema_version: 2,
            media_type: None,
            manifests,
            annotations: Default::default(),
            extra: Default::default(),
        };
        let chosen = choose(&index, &wanted.parse().unwrap());
        let got = chosen.and_then(|chosen| index.manifests.iter().position(|entry| entry == chosen));
        assert_eq!(got, want, "{wanted} from {platforms:?}");
    }

    #[test]
    fn the_nearest_platform_that_runs_is_chosen() {
        check(&["linux/amd64", "linux/arm64"], "linux/arm64", Some(1));
        check(&["unknown/unknown", "linux/x86_64"], "linux/amd64", Some(1));
        check(&["linux/arm/v5", "linux/arm/v6", "linux/arm/v7"], "linux/arm", Some(2));
        check(&["linux/arm/v5", "linux/arm/v6"], "linux/arm/v7", Some(1));
        check(&["linux/arm/v7"], "linux/arm/v6", None);
        check(&["linux/arm64/v8"], "linux/arm64", Some(0));
        check(&["linux/amd64/v3", "linux/amd64"], "linux/amd64", Some(1));
        check(&["linux/amd64", "linux/amd64/v2"], "linux/amd64/v3", Some(1));
        check(&["linux/amd64", "linux/amd64"], "linux/amd64", Some(0));
        check(&["windows/amd64"], "linux/amd64", None);
        check(&[""], "linux/amd64", Some(0));
        check(&["", ""], "linux/amd64", Some(0));
        check(&["", "linux/arm64"], "linux/amd64", None);
        check(&["", "linux/amd64"], "linux/amd64", Some(1));
        check(&[], "linux/amd64", None);
    }

    #[test]
    fn variants_are_ranked_downwards_and_never_up() {
        let arm = ["linux/arm/v5", "linux/arm/v6", "linux/arm/v7", "linux/arm64", "linux/arm64/v9"];
        check(&arm, "linux/arm/v5", Some(0));
        check(&arm, "linux/arm/v6", Some(1));
        check(&arm, "linux/arm/v7", Some(2));
        check(&arm, "linux/arm/v8", Some(2));
        check(&arm, "linux/armhf", Some(2));
        check(&arm, "linux/armel", Some(1));
        check(&arm, "linux/arm64", Some(3));
        check(&arm, "linux/arm64/v8", Some(3));
        check(&arm, "linux/arm64/v9", Some(4));
        check(&["linux/arm64/v9"], "linux/arm64", None);
        check(&["linux/arm64", "linux/arm64/v8"], "linux/arm64/v8", Some(0));
        check(&["linux/arm/v5"], "linux/arm64", None);
        let amd64 = ["linux/amd64/v4", "linux/amd64/v2", "linux/amd64", "linux/amd64/v3"];
        check(&amd64, "linux/amd64", Some(2));
        check(&amd64, "linux/amd64/v1", Some(2));
        check(&amd64, "linux/amd64/v2", Some(1));
        check(&amd64, "linux/amd64/v3", Some(3));
        check(&amd64, "linux/amd64/v4", Some(0));
        check(&amd64, "linux/amd64/v5", Some(0));
        check(&["linux/amd64/v2", "linux/amd64/v3"], "linux/amd64", None);
        check(&["linux/386"], "linux/amd64", None);
        check(&["linux/ppc64le", "linux/s390x", "linux/riscv64"], "linux/riscv64", Some(2));
        check(&["linux/amd64/odd", "linux/amd64"], "linux/amd64/odd", Some(0));
        check(&["linux/amd64/odd"], "linux/amd64", None);
    }

    #[test]
    fn attestations_and_versions_of_windows_are_no_images_for_linux() {
        check(&["unknown/unknown"], "linux/amd64", None);
        check(&["unknown/unknown", ""], "linux/amd64", Some(1));
        check(&["unknown/unknown", "linux/amd64", "unknown/unknown"], "linux/amd64", Some(1));
        check(&["windows/amd64@10.0.20348", "linux/amd64@5.4"], "linux/amd64", Some(1));
        check(&["windows/amd64@10.0.20348", "windows/amd64@10.0.17763"], "linux/amd64", None);
    }

    #[test]
    fn an_index_among_the_entries_may_hold_the_image() {
        check(&["index"], "linux/amd64", Some(0));
        check(&["linux/arm64", "index"], "linux/amd64", Some(1));
        check(&["index", "linux/amd64"], "linux/amd64", Some(1));
        check(&["", "index"], "linux/amd64", Some(1));
    }
}
