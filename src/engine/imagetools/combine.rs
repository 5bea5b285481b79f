//! What stands in an index that is made of others: pure.
//!
//! In: entries, one after the other. Out: one entry per platform, the later in the place of the earlier, and what was
//! replaced. What hangs on an image (attestations) goes with it. Deliberately absent: where entries come from.

use std::collections::BTreeMap;

use oci::model::{Descriptor, Digest, Index, Platform, media_type};

/// On which image an attestation hangs.
const HANGS_ON: &str = "vnd.docker.reference.digest";

/// An image that gave way to another for the same platform.
#[derive(Clone, Debug, PartialEq)]
pub struct Replaced {
    /// For which machine both are.
    pub platform: Platform,
    /// What was there.
    pub old: Digest,
    /// What is there.
    pub new: Digest,
}

/// Entries of an index.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entries {
    /// In order.
    pub all: Vec<Descriptor>,
    /// What gave way.
    pub replaced: Vec<Replaced>,
}

impl Entries {
    /// Those of an index.
    pub fn of(all: Vec<Descriptor>) -> Self {
        Self { all, replaced: Vec::new() }
    }

    /// Adds one. What is there already gets its annotations; an image for the same platform gives way.
    pub fn add(&mut self, new: Descriptor) {
        let platform = image_platform(&new);
        if let Some(known) = self.all.iter_mut().find(|known| known.digest == new.digest && same_platform(known, &new))
        {
            known.annotations.extend(new.annotations);
            known.platform = new.platform.or(known.platform.take());
            return;
        }
        let Some(platform) = platform else { return self.all.push(new) };
        match self.all.iter().position(|known| image_platform(known).as_ref() == Some(&platform)) {
            None => self.all.push(new),
            Some(at) => {
                let old = self.all[at].digest;
                self.replaced.push(Replaced { platform, old, new: new.digest });
                self.all[at] = new;
                self.all.retain(|entry| hangs_on(entry) != Some(old));
            }
        }
    }

    /// Whether this very image is in for its platform, or at all.
    pub fn has(&self, wanted: &Descriptor) -> bool {
        self.all.iter().any(|entry| {
            entry.digest == wanted.digest
                && same_platform(entry, wanted)
                && wanted.annotations.iter().all(|(key, value)| entry.annotations.get(key) == Some(value))
        })
    }

    /// What is in for the platform of an image; of what is for none, that itself if it is in.
    pub fn in_place_of(&self, wanted: &Descriptor) -> Option<Digest> {
        let found = match image_platform(wanted) {
            Some(platform) => self.all.iter().find(|entry| image_platform(entry).as_ref() == Some(&platform)),
            None => self.all.iter().find(|entry| entry.digest == wanted.digest),
        };
        found.map(|entry| entry.digest)
    }

    /// Whether an entry that was there once has its place: its platform is served, or what it hangs on is gone.
    pub fn needs_not(&self, once: &Descriptor) -> bool {
        let is_gone = |image: Digest| !self.all.iter().any(|entry| entry.digest == image);
        self.in_place_of(once).is_some() || hangs_on(once).is_some_and(is_gone)
    }

    /// Leaves out what hangs on an image that is not in.
    pub fn without_orphans(mut self) -> Self {
        let images: Vec<Digest> = self.all.iter().map(|entry| entry.digest).collect();
        self.all.retain(|entry| hangs_on(entry).is_none_or(|image| images.contains(&image)));
        self
    }

    /// Leaves those for these platforms, with what hangs on them. Returns the platforms that nothing is for.
    pub fn keep(&mut self, platforms: &[Platform]) -> Vec<Platform> {
        let serves = |entry: &Descriptor| {
            image_platform(entry).is_some_and(|own| platforms.iter().any(|wanted| own.serves(wanted)))
        };
        let kept: Vec<Digest> = self.all.iter().filter(|entry| serves(entry)).map(|entry| entry.digest).collect();
        self.all.retain(|entry| serves(entry) || hangs_on(entry).is_some_and(|image| kept.contains(&image)));
        let missing = |wanted: &&Platform| !self.all.iter().filter_map(image_platform).any(|own| own.serves(wanted));
        platforms.iter().filter(missing).cloned().collect()
    }

    /// The index. Docker's form where all entries are Docker's and nothing is annotated, which it could not say.
    pub fn index(&self, annotations: BTreeMap<String, String>) -> Index {
        let is_docker = |entry: &Descriptor| {
            matches!(entry.media_type.as_str(), media_type::DOCKER_MANIFEST) && entry.annotations.is_empty()
        };
        let docker = !self.all.is_empty() && annotations.is_empty() && self.all.iter().all(is_docker);
        let kind = if docker { media_type::DOCKER_INDEX } else { media_type::OCI_INDEX };
        Index { media_type: Some(kind.to_owned()), annotations, ..Index::new(self.all.clone()) }
    }
}

/// An index in bytes, and what points to it.
pub fn written(index: &Index) -> (Descriptor, Vec<u8>) {
    let bytes = serde_json::to_vec(index).expect("an index holds nothing that JSON cannot say");
    let kind = index.media_type.as_deref().unwrap_or(media_type::OCI_INDEX);
    (Descriptor::new(kind, Digest::of(&bytes), bytes.len() as u64), bytes)
}

/// For which machine an entry is, in its usual spelling; `None` of what is no image.
fn image_platform(entry: &Descriptor) -> Option<Platform> {
    let own = entry.platform.as_ref().filter(|own| own.os != "unknown" && hangs_on(entry).is_none())?;
    let normal = Platform::normalised(&own.os, &own.architecture, &own.variant);
    Some(Platform { os_version: own.os_version.clone(), os_features: own.os_features.clone(), ..normal })
}

fn same_platform(a: &Descriptor, b: &Descriptor) -> bool {
    match (image_platform(a), image_platform(b)) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    }
}

fn hangs_on(entry: &Descriptor) -> Option<Digest> {
    entry.annotations.get(HANGS_ON)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `linux/amd64=a` is image `a` for that platform, `=a` one for none, `@a=b` an attestation `b` that hangs on `a`.
    fn entry(text: &str) -> Descriptor {
        let (platform, content) = text.split_once('=').expect("an entry has a content");
        let mut entry = Descriptor::new(media_type::OCI_MANIFEST, Digest::of(content.as_bytes()), 1);
        match platform.strip_prefix('@') {
            Some(image) => {
                entry.annotations.insert(HANGS_ON.into(), Digest::of(image.as_bytes()).to_string());
                entry.platform =
                    Some(Platform { os: "unknown".into(), architecture: "unknown".into(), ..Platform::default() });
            }
            None => entry.platform = (!platform.is_empty()).then(|| platform.parse().expect("a platform")),
        }
        entry
    }

    fn check(there: &str, added: &str, want: &str, replaced: usize) {
        let mut entries = Entries::of(there.split_whitespace().map(entry).collect());
        added.split_whitespace().map(entry).for_each(|entry| entries.add(entry));
        let want: Vec<Descriptor> = want.split_whitespace().map(entry).collect();
        assert_eq!(entries.all, want, "{there} + {added}");
        assert_eq!(entries.replaced.len(), replaced, "{there} + {added}");
    }

    #[test]
    fn an_index_has_one_image_per_platform_and_the_later_wins() {
        check("", "linux/amd64=a linux/arm64=b", "linux/amd64=a linux/arm64=b", 0);
        check("linux/amd64=a", "linux/amd64=a", "linux/amd64=a", 0);
        check("linux/amd64=a linux/arm64=b", "linux/amd64=c", "linux/amd64=c linux/arm64=b", 1);
        check("linux/arm/v7=a", "linux/arm/v6=b", "linux/arm/v7=a linux/arm/v6=b", 0);
        check("linux/arm64/v8=a", "linux/arm64=b", "linux/arm64=b", 1);
        check("linux/amd64=a @a=p", "linux/amd64=b @b=q", "linux/amd64=b @b=q", 1);
        check("linux/amd64=a @a=p", "linux/arm64=b", "linux/amd64=a @a=p linux/arm64=b", 0);
        check("=x", "=x =y", "=x =y", 0);
        // One image may be for two platforms.
        check("linux/amd64=a", "linux/386=a", "linux/amd64=a linux/386=a", 0);
    }

    #[test]
    fn what_hangs_on_an_image_is_kept_and_left_with_it() {
        let check = |there: &str, platforms: &str, want: &str, missing: &str| {
            let mut entries = Entries::of(there.split_whitespace().map(entry).collect());
            let parse = |text: &str| -> Vec<Platform> {
                text.split_whitespace().map(|text| text.parse().expect("a platform")).collect()
            };
            assert_eq!(entries.keep(&parse(platforms)), parse(missing), "{there} for {platforms}");
            assert_eq!(entries.all, want.split_whitespace().map(entry).collect::<Vec<_>>(), "{there} for {platforms}");
        };
        let all = "linux/amd64=a linux/arm64=b @a=p @b=q";
        check(all, "linux/arm64", "linux/arm64=b @b=q", "");
        check(all, "linux/arm64 linux/s390x", "linux/arm64=b @b=q", "linux/s390x");
        check(all, "linux/amd64 linux/arm64", all, "");
    }

    #[test]
    fn an_index_is_dockers_only_if_it_can_be() {
        let docker = |platform: &str, content: &str| Descriptor {
            media_type: media_type::DOCKER_MANIFEST.into(),
            ..entry(&format!("{platform}={content}"))
        };
        let check = |entries: Vec<Descriptor>, annotated: bool, want: &str| {
            let annotations = annotated.then(|| ("k".to_owned(), "v".to_owned())).into_iter().collect();
            assert_eq!(Entries::of(entries).index(annotations).media_type.as_deref(), Some(want));
        };
        check(vec![docker("linux/amd64", "a")], false, media_type::DOCKER_INDEX);
        check(vec![docker("linux/amd64", "a")], true, media_type::OCI_INDEX);
        check(vec![docker("linux/amd64", "a"), entry("linux/arm64=b")], false, media_type::OCI_INDEX);
        check(vec![], false, media_type::OCI_INDEX);
    }
}
