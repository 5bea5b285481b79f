//! `--annotation`: `[LEVEL[,LEVEL…]:]KEY=VALUE`, a level perhaps with a platform, `manifest[linux/amd64]`.
//!
//! In come the words, out come the annotations per level of what this version writes, and the levels that it never
//! has: an image for one platform has no index.

use std::collections::BTreeMap;

use oci::model::Platform;

use crate::engine::Failure;

/// Annotations by where they stand. image-spec annotations.md.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    /// In the manifest.
    pub manifest: BTreeMap<String, String>,
    /// On what points to the manifest: in an archive's `index.json`.
    pub manifest_descriptor: BTreeMap<String, String>,
    /// Levels that were asked for and that an image for one platform does not have.
    pub nowhere: Vec<&'static str>,
}

impl Annotations {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.manifest.is_empty() && self.manifest_descriptor.is_empty() && self.nowhere.is_empty()
    }

    /// Those of `other` where there are none of their keys here.
    pub fn or(&mut self, other: &Self) {
        for (mine, theirs) in
            [(&mut self.manifest, &other.manifest), (&mut self.manifest_descriptor, &other.manifest_descriptor)]
        {
            for (key, value) in theirs {
                mine.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        let more: Vec<_> = other.nowhere.iter().filter(|level| !self.nowhere.contains(level)).copied().collect();
        self.nowhere.extend(more);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Manifest,
    Index,
    ManifestDescriptor,
    IndexDescriptor,
}

const LEVELS: [(&str, Level); 4] = [
    ("manifest", Level::Manifest),
    ("index", Level::Index),
    ("manifest-descriptor", Level::ManifestDescriptor),
    ("index-descriptor", Level::IndexDescriptor),
];

/// Understands all `--annotation`s; those for other platforms than `platform` count for nothing.
///
/// # Errors
/// With advice, for words that are none.
pub fn annotations(given: &[String], platform: &Platform) -> Result<Annotations, Failure> {
    let mut found = Annotations::default();
    for text in given {
        let wrong = |reason: String| Failure::new(format!("`--annotation {text}`: {reason}"));
        let (before, value) = text
            .split_once('=')
            .ok_or_else(|| wrong("there is no `=`".into()).help("write `--annotation KEY=VALUE`"))?;
        // `com.example:x=1` has a colon too; but only a level may stand before one.
        let (levels, key) = match before.split_once(':') {
            Some((levels, key)) => (levels, key),
            None => ("manifest", before),
        };
        if key.is_empty() {
            return Err(wrong("there is no key".into()).help("write `--annotation KEY=VALUE`"));
        }
        for level in levels.split(',') {
            let (name, only) = match level.strip_suffix(']').and_then(|level| level.split_once('[')) {
                Some((name, only)) => (name, Some(only)),
                None => (level, None),
            };
            let Some((name, level)) = LEVELS.iter().find(|(known, _)| *known == name) else {
                let near = frontend::did_you_mean(name, LEVELS.map(|(known, _)| known));
                let help =
                    near.unwrap_or_else(|| format!("the levels are {}", LEVELS.map(|(name, _)| name).join(", ")));
                return Err(wrong(format!("`{name}` is no level")).help(help));
            };
            if let Some(only) = only {
                if matches!(level, Level::Index | Level::IndexDescriptor) {
                    return Err(wrong(format!("`{name}` is for all platforms")).help("leave out what is in brackets"));
                }
                let only: Platform = only.parse().map_err(|error| wrong(format!("{error}")))?;
                if only != *platform {
                    continue;
                }
            }
            match level {
                Level::Manifest => {
                    found.manifest.insert(key.to_owned(), value.to_owned());
                }
                Level::ManifestDescriptor => {
                    found.manifest_descriptor.insert(key.to_owned(), value.to_owned());
                }
                Level::Index | Level::IndexDescriptor if found.nowhere.contains(name) => {}
                Level::Index | Level::IndexDescriptor => found.nowhere.push(name),
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[&str]) -> Result<Annotations, Failure> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        annotations(&texts, &"linux/amd64".parse().expect("a platform"))
    }

    #[test]
    fn annotations_go_to_their_levels() {
        let check = |texts: &[&str], manifest: &[(&str, &str)], descriptor: &[(&str, &str)], nowhere: &[&str]| {
            let map = |pairs: &[(&str, &str)]| {
                pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>()
            };
            let found = read(texts).expect("valid");
            assert_eq!(
                (found.manifest, found.manifest_descriptor, found.nowhere),
                (map(manifest), map(descriptor), nowhere.to_vec()),
                "{texts:?}"
            );
        };
        check(&[], &[], &[], &[]);
        check(&["a=1"], &[("a", "1")], &[], &[]);
        check(&["a=1", "a=2"], &[("a", "2")], &[], &[]);
        check(&["a=", "b=x=y:z"], &[("a", ""), ("b", "x=y:z")], &[], &[]);
        check(&["manifest:a=1"], &[("a", "1")], &[], &[]);
        check(&["manifest-descriptor:a=1"], &[], &[("a", "1")], &[]);
        check(&["manifest,manifest-descriptor:a=1"], &[("a", "1")], &[("a", "1")], &[]);
        check(&["index:a=1", "index-descriptor:a=1", "index:b=1"], &[], &[], &["index", "index-descriptor"]);
        check(&["index,manifest:a=1"], &[("a", "1")], &[], &["index"]);
        check(&["manifest[linux/amd64]:a=1", "manifest[linux/arm64]:b=1"], &[("a", "1")], &[], &[]);
        check(&["manifest-descriptor[linux/x86_64]:a=1"], &[], &[("a", "1")], &[]);
    }

    #[test]
    fn words_that_are_no_annotation_are_refused() {
        let check = |text: &str, expected: &str| {
            let failure = read(&[text]).expect_err(text);
            let problem = &failure.problems[0];
            let said = format!("{} / {}", problem.message, problem.help.clone().unwrap_or_default());
            assert!(said.contains(expected), "{said}");
        };
        check("a", "there is no `=`");
        check("=1", "there is no key");
        check("manifest:=1", "there is no key");
        check("manifset:a=1", "did you mean `manifest`?");
        check("com.example:a=1", "the levels are manifest, index,");
        check("index[linux/amd64]:a=1", "for all platforms");
        check("manifest[linux]:a=1", "is not a platform");
    }
}
