//! `--annotation`: `[LEVEL[,LEVEL…]:]KEY=VALUE`, a level perhaps with a platform, `manifest[linux/amd64]`.
//!
//! In come the words, out come annotations that know their level and, if they are for one platform only, which. What is
//! said of one platform beats what is said of all. Deliberately absent: whether a build has what a level means (an
//! image for one platform has no index).

use std::collections::BTreeMap;

use oci::model::Platform;

use crate::engine::Failure;

/// Annotations by where they stand. image-spec annotations.md.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations(Vec<Annotation>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Annotation {
    level: Level,
    /// The only platform that it is for.
    only: Option<Platform>,
    key: String,
    value: String,
}

/// Where an annotation stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// In the manifest of an image.
    Manifest,
    /// In the index.
    Index,
    /// On what points to a manifest: in the index, or in an archive's `index.json`.
    ManifestDescriptor,
    /// On what points to the index: in an archive's `index.json`.
    IndexDescriptor,
}

impl Level {
    const ALL: [Self; 4] = [Self::Manifest, Self::Index, Self::ManifestDescriptor, Self::IndexDescriptor];

    /// As it stands before a key.
    pub fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Index => "index",
            Self::ManifestDescriptor => "manifest-descriptor",
            Self::IndexDescriptor => "index-descriptor",
        }
    }
}

impl Annotations {
    /// These, of the manifests of all platforms.
    pub fn of_manifest(pairs: BTreeMap<String, String>) -> Self {
        let annotation = |(key, value)| Annotation { level: Level::Manifest, only: None, key, value };
        Self(pairs.into_iter().map(annotation).collect())
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there are any of a level.
    pub fn has(&self, level: Level) -> bool {
        self.0.iter().any(|annotation| annotation.level == level)
    }

    /// Those of `other` where there are none of their keys here.
    pub fn or(&mut self, other: &Self) {
        for theirs in &other.0 {
            let is_same =
                |mine: &Annotation| (mine.level, &mine.only, &mine.key) == (theirs.level, &theirs.only, &theirs.key);
            if !self.0.iter().any(is_same) {
                self.0.push(theirs.clone());
            }
        }
    }

    /// Those of a level that hold for a platform.
    pub fn of(&self, level: Level, platform: &Platform) -> BTreeMap<String, String> {
        let with = |only: Option<&Platform>| {
            let found = self.0.iter().filter(move |found| found.level == level && found.only.as_ref() == only);
            found.map(|found| (found.key.clone(), found.value.clone())).collect::<Vec<_>>()
        };
        with(None).into_iter().chain(with(Some(platform))).collect()
    }

    /// Those of a level that is for all platforms.
    pub fn of_all(&self, level: Level) -> BTreeMap<String, String> {
        let found = self.0.iter().filter(|found| found.level == level && found.only.is_none());
        found.map(|found| (found.key.clone(), found.value.clone())).collect()
    }

    fn set(&mut self, level: Level, only: Option<Platform>, key: &str, value: &str) {
        self.0.retain(|known| (known.level, &known.only, known.key.as_str()) != (level, &only, key));
        self.0.push(Annotation { level, only, key: key.to_owned(), value: value.to_owned() });
    }
}

/// Understands all `--annotation`s. Those for a platform that is not built count for nothing.
///
/// # Errors
/// With advice, for words that are none.
pub fn annotations(given: &[String]) -> Result<Annotations, Failure> {
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
            let Some(level) = Level::ALL.into_iter().find(|known| known.name() == name) else {
                let near = frontend::did_you_mean(name, Level::ALL.map(Level::name));
                let help = near.unwrap_or_else(|| format!("the levels are {}", Level::ALL.map(Level::name).join(", ")));
                return Err(wrong(format!("`{name}` is no level")).help(help));
            };
            if only.is_some() && matches!(level, Level::Index | Level::IndexDescriptor) {
                return Err(wrong(format!("`{name}` is for all platforms")).help("leave out what is in brackets"));
            }
            let only = only.map(str::parse::<Platform>).transpose().map_err(|error| wrong(format!("{error}")))?;
            found.set(level, only, key, value);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[&str]) -> Result<Annotations, Failure> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        annotations(&texts)
    }

    #[test]
    fn annotations_go_to_their_levels() {
        type Pairs = &'static [(&'static str, &'static str)];
        let check = |texts: &[&str], manifest: Pairs, descriptor: Pairs, index: Pairs, index_descriptor: Pairs| {
            let map = |pairs: Pairs| {
                pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>()
            };
            let found = read(texts).expect("valid");
            let platform = "linux/amd64".parse().expect("a platform");
            let of = |level| found.of(level, &platform);
            assert_eq!(of(Level::Manifest), map(manifest), "{texts:?}");
            assert_eq!(of(Level::ManifestDescriptor), map(descriptor), "{texts:?}");
            assert_eq!(found.of_all(Level::Index), map(index), "{texts:?}");
            assert_eq!(found.of_all(Level::IndexDescriptor), map(index_descriptor), "{texts:?}");
        };
        check(&[], &[], &[], &[], &[]);
        check(&["a=1"], &[("a", "1")], &[], &[], &[]);
        check(&["a=1", "a=2"], &[("a", "2")], &[], &[], &[]);
        check(&["a=", "b=x=y:z"], &[("a", ""), ("b", "x=y:z")], &[], &[], &[]);
        check(&["manifest:a=1"], &[("a", "1")], &[], &[], &[]);
        check(&["manifest-descriptor:a=1"], &[], &[("a", "1")], &[], &[]);
        check(&["manifest,manifest-descriptor:a=1"], &[("a", "1")], &[("a", "1")], &[], &[]);
        check(&["index:a=1", "index-descriptor:a=2", "index:b=3"], &[], &[], &[("a", "1"), ("b", "3")], &[("a", "2")]);
        check(&["index,manifest:a=1"], &[("a", "1")], &[], &[("a", "1")], &[]);
        check(&["manifest[linux/amd64]:a=1", "manifest[linux/arm64]:b=1"], &[("a", "1")], &[], &[], &[]);
        check(&["manifest[linux/amd64]:a=1", "a=2"], &[("a", "1")], &[], &[], &[]);
        check(&["manifest-descriptor[linux/x86_64]:a=1"], &[], &[("a", "1")], &[], &[]);
    }

    #[test]
    fn what_stands_already_stays() {
        let mut own = read(&["a=1", "index:a=1"]).expect("valid");
        own.or(&read(&["a=2", "b=2", "manifest[linux/amd64]:a=3", "index:a=2"]).expect("valid"));
        let pairs = |platform: &str| {
            let found = own.of(Level::Manifest, &platform.parse().expect("a platform"));
            found.into_iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!((pairs("linux/amd64"), pairs("linux/arm64")), ("a=3 b=2".into(), "a=1 b=2".into()));
        assert_eq!(own.of_all(Level::Index)["a"], "1");
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
