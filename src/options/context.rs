//! Where a build's files and texts come from: the words of the command line, understood without looking.
//!
//! In come the context's word, `-f` and `--build-context`; out come values that [`crate::engine`] follows. Deliberately
//! absent: files and network. That a directory is there, which beats every other meaning of its name, the caller says.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use frontend::git::GitRef;
use oci::model::{Digest, Platform, Reference};

use super::theirs::{TheirDirectory, TheirLayouts};
use crate::engine::{Failure, NamedDefinition};

/// Where a tree comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// A directory or an archive of this machine, as given.
    Path(PathBuf),
    /// Standard input: an archive, or a Dockerfile without files.
    Stdin,
    /// An address: an archive, or a Dockerfile without files.
    Http(String),
    /// A repository.
    Git(Box<GitRef>),
    /// A directory of whoever asked for the build.
    Theirs(TheirDirectory),
    /// A stream of theirs: an archive, or a Dockerfile without files.
    TheirStream(TheirDirectory),
}

/// Which Dockerfile is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DockerfileFrom {
    /// The usual names in the context.
    #[default]
    Usual,
    /// `-f PATH`: from the working directory when the context is a directory, else inside the context.
    Path(PathBuf),
    /// `-f -`.
    Stdin,
    /// `-f https://…`.
    Http(String),
    /// A path in a directory of whoever asked for the build.
    Theirs(TheirDirectory, PathBuf),
}

/// One `--build-context`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedSource {
    /// By which the Dockerfile means it: lower case, `debian` for `docker.io/library/debian:latest`, `::os/arch` behind
    /// it when it counts for that platform only.
    pub name: String,
    /// What it is.
    pub value: NamedValue,
}

/// What a named context is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedValue {
    /// `docker-image://REF`.
    Image(Reference),
    /// `docker-image://scratch`.
    Scratch,
    /// `oci-layout://PATH[:TAG][@DIGEST]`.
    Layout(Layout),
    /// A tree.
    Tree(Place),
    /// A result that whoever asks for the build has operations for.
    Result(Arc<NamedDefinition>),
}

/// An image in an OCI image layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The directory; their name for it, if it is not on this machine.
    pub path: PathBuf,
    /// Its name there.
    pub tag: Option<String>,
    /// The digest of its manifest or index.
    pub digest: Option<Digest>,
    /// Who has it, if it is not on this machine; then there is a digest.
    pub theirs: Option<TheirLayouts>,
}

/// What the context's word means. `is_dir` is whether there is a directory of that name.
///
/// # Errors
/// For addresses that are malformed.
pub fn place(word: &Path, is_dir: bool) -> Result<Place, Failure> {
    let Some(text) = word.to_str().filter(|_| !is_dir) else { return Ok(Place::Path(word.to_owned())) };
    if text == "-" {
        return Ok(Place::Stdin);
    }
    match frontend::git::parse(text, true) {
        Some(Ok(git)) => return Ok(Place::Git(Box::new(git))),
        Some(Err(error)) => {
            return Err(Failure::new(format!("`{}` is not a git address", masked(text)))
                .note(error.to_string())
                .help(error.help()));
        }
        None => {}
    }
    match text.split_once("://") {
        Some(("http" | "https", rest)) if !rest.is_empty() => Ok(Place::Http(text.to_owned())),
        Some((scheme, _)) if scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) => {
            let failure = Failure::new(format!("`{scheme}://` is no place that a context can come from"));
            Err(failure.help("a context is a directory, an archive, `-`, or an address with http://, https:// or git"))
        }
        _ => Ok(Place::Path(word.to_owned())),
    }
}

/// What `-f` means.
pub fn dockerfile(word: Option<&Path>) -> DockerfileFrom {
    match word.map(|word| (word, word.to_str())) {
        None => DockerfileFrom::Usual,
        Some((_, Some(""))) => DockerfileFrom::Usual,
        Some((_, Some("-"))) => DockerfileFrom::Stdin,
        Some((_, Some(text))) if text.starts_with("http://") || text.starts_with("https://") => {
            DockerfileFrom::Http(text.to_owned())
        }
        Some((path, _)) => DockerfileFrom::Path(path.to_owned()),
    }
}

/// Understands one `--build-context`. `is_dir` tells whether there is a directory of that name.
///
/// # Errors
/// With advice, for what no name or no value is.
pub fn named(text: &str, is_dir: impl Fn(&Path) -> bool) -> Result<NamedSource, Failure> {
    let wrong = |reason: &str| Failure::new(format!("`--build-context {}`: {reason}", masked(text)));
    let example =
        "write `--build-context NAME=VALUE`, like `--build-context lib=../lib` or `debian=docker-image://debian:12`";
    let Some((name, value)) = text.split_once('=') else { return Err(wrong("there is no `=`").help(example)) };
    let name = context_name(name).map_err(|reason| wrong(&reason).help(example))?;
    if value.is_empty() {
        return Err(wrong("there is no value").help(example));
    }
    let value = match value.split_once("://") {
        Some(("docker-image", "scratch")) => NamedValue::Scratch,
        Some(("docker-image", reference)) => {
            NamedValue::Image(reference.parse().map_err(|error| wrong(&format!("{error}")))?)
        }
        Some(("oci-layout", layout)) => NamedValue::Layout(self::layout(layout).map_err(|reason| wrong(&reason))?),
        _ if value == "-" => {
            return Err(
                wrong("only the main context comes from standard input").help("write it into a directory first")
            );
        }
        _ => match value.strip_prefix("target:").filter(|_| !is_dir(Path::new(value))) {
            Some(target) => {
                return Err(wrong("targets are those of a bake file, which this version of rbuild does not read")
                    .help(format!("build `{target}` first with `-t NAME`, and write `docker-image://NAME`")));
            }
            None => NamedValue::Tree(place(Path::new(value), is_dir(Path::new(value)))?),
        },
    };
    Ok(NamedSource { name, value })
}

/// A name as the Dockerfile's names are compared with it.
fn context_name(text: &str) -> Result<String, String> {
    let (name, platform) = match text.split_once("::") {
        Some((name, platform)) => (name, Some(platform)),
        None => (text, None),
    };
    if name.is_empty() {
        return Err("there is no name".into());
    }
    let lower = name.to_lowercase();
    if lower == "context" {
        return Err("`context` is the name of the main context".into());
    }
    let reference: Reference = lower.parse().map_err(|error| format!("{error}"))?;
    let familiar = reference.familiar();
    let mut name = familiar.strip_suffix(":latest").unwrap_or(&familiar).to_owned();
    if let Some(platform) = platform {
        let platform: Platform = platform.parse().map_err(|error| format!("{error}"))?;
        name.push_str(&format!("::{platform}"));
    }
    Ok(name)
}

fn layout(text: &str) -> Result<Layout, String> {
    let (rest, digest) = match text.rsplit_once('@') {
        None => (text, None),
        Some((rest, digest)) if digest.starts_with("sha256:") => {
            (rest, Some(digest.parse().map_err(|_| format!("`{digest}` is not a sha256 digest"))?))
        }
        // A directory may have an `@` in its name.
        Some(_) => (text, None),
    };
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (rest, None),
    };
    if path.is_empty() {
        return Err("there is no directory".into());
    }
    if tag == Some("") {
        return Err("there is nothing behind the `:`".into());
    }
    Ok(Layout { path: path.into(), tag: tag.map(str::to_owned), digest, theirs: None })
}

/// An address as it may be shown: without user and password, and without its query, where tokens are passed too. A
/// git address over ssh keeps its user, who is no secret.
pub fn masked(text: &str) -> String {
    let Some((before, rest)) = text.split_once("://") else { return text.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    // `https://user:pa/ss@host/`: where the secret ends is anybody's guess.
    let port = host.rsplit_once(':').map_or("", |(_, port)| if port.ends_with(']') { "" } else { port });
    if !port.bytes().all(|byte| byte.is_ascii_digit()) || (path.contains('@') && !before.ends_with("ssh")) {
        return format!("{before}://…");
    }
    let user = match authority.rsplit_once('@') {
        None => "",
        Some((user, _)) if before.ends_with("ssh") && !user.contains(':') => &authority[..=user.len()],
        Some(_) => "xxxxx@",
    };
    let (path, fragment) = match path.split_once('#') {
        Some((path, fragment)) => (path, format!("#{fragment}")),
        None => (path, String::new()),
    };
    let path = path.split_once('?').map_or(path.to_owned(), |(path, _)| format!("{path}?…"));
    format!("{before}://{user}{host}{path}{fragment}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn no_dir(_: &Path) -> bool {
        false
    }

    #[test]
    fn the_word_of_the_context_is_understood() {
        let check = |word: &str, expected: Place| assert_eq!(place(Path::new(word), false).expect(word), expected);
        let path = |text: &str| Place::Path(text.into());
        check(".", path("."));
        check("../a b", path("../a b"));
        check("a:b", path("a:b"));
        check("./-", path("./-"));
        check("app.tar.gz", path("app.tar.gz"));
        check("github.com", path("github.com"));
        check("-", Place::Stdin);
        check("http://x.example/a.tar", Place::Http("http://x.example/a.tar".into()));
        check("https://x.example/Dockerfile?a=b", Place::Http("https://x.example/Dockerfile?a=b".into()));
        assert_eq!(place(Path::new("-"), true).expect("a directory"), path("-"));
        assert_eq!(place(Path::new("github.com/x/y"), true).expect("a directory"), path("github.com/x/y"));
    }

    #[test]
    fn git_addresses_are_told_from_others() {
        let check = |word: &str, reference: Option<&str>, subdir: Option<&str>| match place(Path::new(word), false) {
            Ok(Place::Git(git)) => {
                assert_eq!((git.reference.as_deref(), git.subdir.as_deref()), (reference, subdir), "{word}");
            }
            other => panic!("{word}: {other:?}"),
        };
        check("https://x.example/a.git", None, None);
        check("https://x.example/a.git#main", Some("main"), None);
        check("https://x.example/a.git#main:sub/dir", Some("main"), Some("sub/dir"));
        check("https://x.example/a.git#:sub", None, Some("sub"));
        check("git@x.example:a/b", None, None);
        check("git://x.example/a", None, None);
        check("ssh://git@x.example/a.git#v1", Some("v1"), None);
        check("github.com/a/b#v1", Some("v1"), None);
        let failure = place(Path::new("https://u:canary@x.example/a.git#-x"), false).expect_err("an option");
        assert!(!format!("{failure:?}").contains("canary"), "{failure:?}");
    }

    #[test]
    fn places_that_nobody_serves_are_refused() {
        let check = |word: &str, expected: &str| {
            let failure = place(Path::new(word), false).expect_err(word);
            assert!(failure.problems[0].message.contains(expected), "{failure:?}");
        };
        check("ftp://x.example/a.tar", "`ftp://` is no place");
        check("docker-image://debian", "`docker-image://` is no place");
    }

    #[test]
    fn the_word_of_the_dockerfile_is_understood() {
        let check = |word: &str, expected: DockerfileFrom| assert_eq!(dockerfile(Some(Path::new(word))), expected);
        check("-", DockerfileFrom::Stdin);
        check("./-", DockerfileFrom::Path("./-".into()));
        check("docker/app.Dockerfile", DockerfileFrom::Path("docker/app.Dockerfile".into()));
        check("https://x.example/D", DockerfileFrom::Http("https://x.example/D".into()));
        check("", DockerfileFrom::Usual);
        assert_eq!(dockerfile(None), DockerfileFrom::Usual);
    }

    #[test]
    fn names_are_compared_as_images_are() {
        let check = |word: &str, name: &str| {
            assert_eq!(named(&format!("{word}=."), no_dir).expect(word).name, name);
        };
        check("lib", "lib");
        check("Lib", "lib");
        check("my-lib_2.x", "my-lib_2.x");
        check("debian", "debian");
        check("debian:latest", "debian");
        check("debian:12", "debian:12");
        check("docker.io/library/debian", "debian");
        check("docker.io/library/debian:latest", "debian");
        check("docker.io/a/b", "a/b");
        check("ghcr.io/a/b:1", "ghcr.io/a/b:1");
        check("localhost:5000/a", "localhost:5000/a");
        check("lib::linux/amd64", "lib::linux/amd64");
        check("debian:latest::linux/x86_64", "debian::linux/amd64");
        check("lib::linux/arm/v7", "lib::linux/arm/v7");
    }

    #[test]
    fn values_are_understood() {
        let check = |value: &str, expected: NamedValue| {
            assert_eq!(named(&format!("n={value}"), no_dir).expect(value).value, expected);
        };
        let image = |text: &str| NamedValue::Image(text.parse().expect("a name"));
        let layout = |path: &str, tag: Option<&str>, digest: Option<Digest>| {
            NamedValue::Layout(Layout { path: path.into(), tag: tag.map(str::to_owned), digest, theirs: None })
        };
        let digest = Digest::of(b"x");
        check("docker-image://debian:12", image("debian:12"));
        check("docker-image://ghcr.io/a/b", image("ghcr.io/a/b"));
        check("docker-image://scratch", NamedValue::Scratch);
        check("oci-layout://dir", layout("dir", None, None));
        check("oci-layout:///abs/dir:v1", layout("/abs/dir", Some("v1"), None));
        check("oci-layout://a:b/dir", layout("a:b/dir", None, None));
        check(&format!("oci-layout://dir@{digest}"), layout("dir", None, Some(digest)));
        check(&format!("oci-layout://dir:v1@{digest}"), layout("dir", Some("v1"), Some(digest)));
        check("oci-layout://me@home", layout("me@home", None, None));
        check("../lib", NamedValue::Tree(Place::Path("../lib".into())));
        check("a=b", NamedValue::Tree(Place::Path("a=b".into())));
        check("https://x.example/f", NamedValue::Tree(Place::Http("https://x.example/f".into())));
        assert!(matches!(
            named("n=https://x.example/f.git#v1", no_dir).expect("git").value,
            NamedValue::Tree(Place::Git(_))
        ));
        assert_eq!(
            named("n=target:x", |_| true).expect("a directory").value,
            NamedValue::Tree(Place::Path("target:x".into()))
        );
    }

    #[test]
    fn what_is_no_named_context_is_refused_with_advice() {
        let check = |text: &str, expected: &str| {
            let failure = named(text, no_dir).expect_err(text);
            let problem = &failure.problems[0];
            let said = format!("{} / {}", problem.message, problem.help.clone().unwrap_or_default());
            assert!(said.contains(expected), "{said}");
        };
        check("lib", "there is no `=`");
        check("=x", "there is no name");
        check("lib=", "there is no value");
        check("context=.", "the name of the main context");
        check("Context=.", "the name of the main context");
        check("a b=.", "is not an image name");
        check("../x=.", "is not an image name");
        check("lib::linux=.", "is not a platform");
        check("lib=-", "only the main context comes from standard input");
        check("lib=target:base", "bake file");
        check("lib=target:base", "build `base` first");
        check("lib=docker-image://A b", "is not an image name");
        check("lib=oci-layout://:x", "there is no directory");
        check("lib=oci-layout://x:", "nothing behind the `:`");
        check("lib=oci-layout://x@sha256:zz", "is not a sha256 digest");
        check("lib=ftp://x.example/y", "`ftp://` is no place");
    }

    #[test]
    fn secrets_in_addresses_are_not_shown() {
        let check = |text: &str, expected: &str| assert_eq!(masked(text), expected);
        check("../dir", "../dir");
        check("https://x.example/a", "https://x.example/a");
        check("https://x.example:8080/a", "https://x.example:8080/a");
        check("https://user:canary@x.example/a.git#main", "https://xxxxx@x.example/a.git#main");
        check("https://canary@x.example/a", "https://xxxxx@x.example/a");
        check("https://x.example/a?token=canary", "https://x.example/a?…");
        check("https://x.example/a.git?token=canary#v1", "https://x.example/a.git?…#v1");
        check("https://x.example?token=canary", "https://x.example?…");
        check("https://user:can/ary@x.example/a", "https://…");
        check("https://user:1/canary@x.example/a", "https://…");
        check("https://user:can?ary@x.example/a", "https://…");
        check("http://[::1]:80/a", "http://[::1]:80/a");
        check("http://[::1]/a", "http://[::1]/a");
        check("ssh://git@x.example/a.git", "ssh://git@x.example/a.git");
        check("ssh://git:canary@x.example/a.git", "ssh://xxxxx@x.example/a.git");
        check("git@x.example:a/b.git", "git@x.example:a/b.git");
        check("lib=https://u:canary@x.example/y", "lib=https://xxxxx@x.example/y");
    }
}
