//! `rbuild imagetools create`: what the names shall mean, from the words of the command line.
//!
//! In: names, digests, descriptors as JSON, files of these, annotations. Out: [`CreateOptions`]. A file may also be what
//! `rbuild build --metadata-file` wrote. Deliberately absent: asking anybody.

use std::collections::BTreeMap;
use std::path::Path;

use oci::model::{Descriptor, Digest, Platform, Reference};
use serde_json::Value;

use crate::cli::ImagetoolsCreateArgs;
use crate::engine::Failure;
use crate::engine::imagetools::{CreateOptions, Place};

/// A descriptor has some hundred bytes, what a build writes about itself some hundred kilobytes.
const FILE_MAX_BYTES: u64 = 8 << 20;

/// Understands the words.
///
/// # Errors
/// With advice, for words that mean nothing here.
pub fn create(args: &ImagetoolsCreateArgs) -> Result<CreateOptions, Failure> {
    let mut sources = Vec::new();
    for text in &args.sources {
        sources.push(source(text, &args.names)?);
    }
    for path in &args.files {
        sources.push(
            source(&read(path)?, &args.names)
                .map_err(|failure| failure.note(format!("it stands in `{}`", path.display())))?,
        );
    }
    if sources.is_empty() {
        return Err(Failure::new("nothing says what the image is made of")
            .help("name images: `rbuild imagetools create -t NAME SOURCE…`, or a file with `-f`"));
    }
    if args.names.is_empty() && !args.dry_run {
        return Err(Failure::new("nothing says what the image is called")
            .help("name it with `-t NAME`, or only look with `--dry-run`"));
    }
    if args.names.is_empty() && args.append {
        return Err(Failure::new("nothing says what is appended to").help("name it with `-t NAME`"));
    }
    let mut platforms = Vec::new();
    for text in &args.platforms {
        platforms.push(text.parse().map_err(|error| Failure::new(format!("`--platform`: {error}")))?);
    }
    let (annotations, entry_annotations) = annotations(&args.annotations)?;
    Ok(CreateOptions {
        names: args.names.clone(),
        sources,
        append: args.append,
        annotations,
        entry_annotations,
        platforms,
        prefer_index: args.prefer_index,
        dry_run: args.dry_run,
    })
}

/// One source: a name, a digest, or JSON. What names no repository is in that of the names.
fn source(text: &str, names: &[Reference]) -> Result<Place, Failure> {
    let text = text.trim();
    if let Ok(digest) = text.parse::<Digest>() {
        return Ok(Place { name: beside(digest, text, names)?, said: None });
    }
    if text.starts_with('{') {
        let value: Value = serde_json::from_str(text)
            .map_err(|error| Failure::new("a source is no JSON, though it begins like that").note(error.to_string()))?;
        return described(value, names);
    }
    let name = text.parse().map_err(|error| Failure::new(format!("{error}")));
    Ok(Place { name: name?, said: None })
}

/// A descriptor, or what a build wrote of itself.
fn described(mut value: Value, names: &[Reference]) -> Result<Place, Failure> {
    let built = value.get_mut("containerimage.descriptor").map(Value::take);
    let called = value.get("image.name").and_then(Value::as_str).and_then(|names| names.split(',').next());
    let called: Option<Reference> = match called {
        Some(name) => Some(name.parse().map_err(|error| Failure::new(format!("{error}")))?),
        None => None,
    };
    let is_built = built.is_some();
    let said: Descriptor = serde_json::from_value(built.unwrap_or(value)).map_err(|error| {
        Failure::new("a source is no descriptor")
            .note(error.to_string())
            .help(r#"write `{"mediaType": …, "digest": …, "size": …}`, or name an image"#)
    })?;
    let name = match called {
        Some(name) => name.at_digest(said.digest),
        None => beside(said.digest, &said.digest.to_string(), names)?,
    };
    // What a build notes of its result is for people, not for an index.
    let said = if is_built { Descriptor { annotations: BTreeMap::new(), ..said } } else { said };
    Ok(Place { name, said: Some(said) })
}

/// A digest in the repository of the names.
fn beside(digest: Digest, text: &str, names: &[Reference]) -> Result<Reference, Failure> {
    let mut repositories: Vec<_> = names.iter().map(|name| (name.registry(), name.repository())).collect();
    repositories.sort_unstable();
    repositories.dedup();
    match (&repositories[..], names.first()) {
        ([_], Some(name)) => Ok(name.at_digest(digest)),
        _ => Err(Failure::new(format!("`{text}` does not say in which repository it is"))
            .help("write `REPOSITORY@DIGEST`: only where all `-t` are of one repository, that is meant")),
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    use std::io::Read as _;
    let failed =
        |error: std::io::Error| Failure::new(format!("cannot read `{}`", path.display())).note(error.to_string());
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(FILE_MAX_BYTES).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

type Annotations = (BTreeMap<String, String>, Vec<(Option<Platform>, String, String)>);

/// `[LEVEL[PLATFORM]:]KEY=VALUE`, several levels with commas; without one the index is meant.
fn annotations(given: &[String]) -> Result<Annotations, Failure> {
    let (mut index, mut entries) = (BTreeMap::new(), Vec::new());
    for text in given {
        let wrong = |reason: String| Failure::new(format!("`--annotation {text}`: {reason}"));
        let split = text.split_once('=').filter(|(before, _)| !before.is_empty() && !before.ends_with(':'));
        let (before, value) =
            split.ok_or_else(|| wrong("there is no key with a value".into()).help("write `--annotation KEY=VALUE`"))?;
        let (levels, key) = before.split_once(':').unwrap_or(("index", before));
        for level in levels.split(',') {
            let (name, platform) = match level.strip_suffix(']').and_then(|level| level.split_once('[')) {
                Some((name, platform)) => {
                    (name, Some(platform.parse::<Platform>().map_err(|error| wrong(format!("{error}")))?))
                }
                None => (level, None),
            };
            match (name, platform) {
                ("index", None) => drop(index.insert(key.to_owned(), value.to_owned())),
                ("index", Some(_)) => {
                    return Err(wrong("`index` is for all platforms".into()).help("leave out what is in brackets"));
                }
                ("manifest-descriptor", platform) => entries.push((platform, key.to_owned(), value.to_owned())),
                ("manifest" | "index-descriptor", _) => {
                    return Err(wrong(format!("`{name}` is not written here: images go on byte for byte"))
                        .help("the levels are index and manifest-descriptor; a build annotates its manifests"));
                }
                _ => {
                    let near = frontend::did_you_mean(name, ["index", "manifest-descriptor"]);
                    let help = near.unwrap_or_else(|| "the levels are index and manifest-descriptor".into());
                    return Err(wrong(format!("`{name}` is no level")).help(help));
                }
            }
        }
    }
    Ok((index, entries))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn names(text: &str) -> Vec<Reference> {
        text.split_whitespace().map(|name| name.parse().expect("a name")).collect()
    }

    #[test]
    fn sources_are_names_digests_and_descriptors() {
        let check = |text: &str, of: &str, want: Result<&str, &str>| match (source(text, &names(of)), want) {
            (Ok(place), Ok(want)) => assert_eq!(place.name.to_string(), want.replace("DIGEST", DIGEST), "{text}"),
            (Err(failure), Err(want)) => assert!(failure.problems[0].message.contains(want), "{failure:?}"),
            (got, want) => panic!("{text}: {got:?}, wanted {want:?}"),
        };
        let descriptor = format!(r#"{{"mediaType":"m","digest":"{DIGEST}","size":3}}"#);
        let built = format!(r#"{{"containerimage.descriptor":{descriptor},"image.name":"r.io/a:1,r.io/a:2"}}"#);
        check("r.io/a:1", "", Ok("r.io/a:1"));
        check("debian", "", Ok("docker.io/library/debian:latest"));
        check(DIGEST, "r.io/a:1 r.io/a:2", Ok("r.io/a@DIGEST"));
        check(DIGEST, "r.io/a:1 r.io/b:2", Err("which repository"));
        check(DIGEST, "", Err("which repository"));
        check(&descriptor, "r.io/a:1", Ok("r.io/a@DIGEST"));
        check(&built, "", Ok("r.io/a@DIGEST"));
        check(&format!("{descriptor}\n"), "r.io/a:1", Ok("r.io/a@DIGEST"));
        check("{", "r.io/a:1", Err("no JSON"));
        check(r#"{"digest":"x"}"#, "r.io/a:1", Err("no descriptor"));
        check("A", "", Err("lower case"));
    }

    #[test]
    fn annotations_go_to_the_index_or_to_its_entries() {
        let check = |text: &str, want: Result<&str, &str>| match (annotations(&[text.to_owned()]), want) {
            (Ok((index, entries)), Ok(want)) => {
                let index = index.iter().map(|(key, value)| format!("{key}={value}"));
                let entries = entries.iter().map(|(platform, key, value)| {
                    let platform = platform.as_ref().map_or("*".to_owned(), Platform::to_string);
                    format!("{platform}:{key}={value}")
                });
                assert_eq!(index.chain(entries).collect::<Vec<_>>().join(" "), want, "{text}");
            }
            (Err(failure), Err(want)) => assert!(failure.problems[0].message.contains(want), "{failure:?}"),
            (got, want) => panic!("{text}: {got:?}, wanted {want:?}"),
        };
        check("k=v", Ok("k=v"));
        check("index:k=v=w", Ok("k=v=w"));
        check("manifest-descriptor:k=v", Ok("*:k=v"));
        check("manifest-descriptor[linux/arm64]:k=v", Ok("linux/arm64:k=v"));
        check("index,manifest-descriptor:k=v", Ok("k=v *:k=v"));
        check("index[linux/arm64]:k=v", Err("all platforms"));
        check("manifest:k=v", Err("byte for byte"));
        check("indx:k=v", Err("no level"));
        check("k", Err("no key"));
        check("index:=v", Err("no key"));
    }
}
