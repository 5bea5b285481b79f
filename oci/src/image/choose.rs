//! Which of an index's images is for a platform.

use super::document::{Document, read_document};
use super::error::ImageError;
use crate::content::ContentStore;
use crate::model::{Descriptor, Index, Platform, media_type};

/// Indexes may point to indexes; three deep is more than anyone makes.
const NESTING_MAX: usize = 4;

/// The entry for a platform: that of the same variant, else the next lower one that the machine also runs (arm/v6 on
/// v7, amd64/v2 on v3), else one without a variant; of equals the first. A lone entry without a platform stands for
/// all. Entries that are indexes themselves are left to [`find_manifest`].
pub fn choose<'a>(index: &'a Index, wanted: &Platform) -> Option<&'a Descriptor> {
    if let [only] = &index.manifests[..]
        && only.platform.is_none()
    {
        return Some(only);
    }
    let ranked = index.manifests.iter().filter_map(|entry| Some((distance(entry.platform.as_ref()?, wanted)?, entry)));
    // `min_by_key` keeps the first of equals.
    ranked.min_by_key(|(distance, _)| *distance).map(|(_, entry)| entry)
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
                let mut entry = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(&[i as u8]), 1);
                let parts: Vec<&str> = platform.split('/').collect();
                entry.platform = (!platform.is_empty()).then(|| Platform {
                    os: parts[0].into(),
                    architecture: parts[1].into(),
                    variant: parts.get(2).copied().unwrap_or_default().into(),
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
        check(&["", ""], "linux/amd64", None);
        check(&[], "linux/amd64", None);
    }
}
