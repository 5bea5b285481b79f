//! The build context on the user's disk: which Dockerfile is meant, and what is ignored.
//!
//! In come paths, out come texts. The context's files are not read here: they are read in place, by the executor,
//! and only those that a COPY selects.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Failure, Snippet};

/// What is looked for in the context when `-f` is absent, in this order.
const DOCKERFILE_NAMES: [&str; 3] = ["Dockerfile", "dockerfile", "Containerfile"];
/// What is looked for beside the context's root when `<Dockerfile>.dockerignore` is absent.
const IGNORE_NAMES: [&str; 2] = [".dockerignore", ".containerignore"];
/// A generated Dockerfile may be long; a wrong file given as one is longer.
const DOCKERFILE_MAX_BYTES: u64 = 64 << 20;
/// An ignore file is read whole.
const IGNORE_MAX_BYTES: u64 = 8 << 20;

/// The texts that a build starts from.
#[derive(Debug)]
pub struct Context {
    /// The context directory, absolute.
    pub dir: PathBuf,
    /// The Dockerfile.
    pub dockerfile: Text,
    /// The ignore file with its patterns, if there is one.
    pub ignore: Option<Ignore>,
}

/// A text and what the user calls it.
#[derive(Clone, Debug)]
pub struct Text {
    /// As in messages: `Dockerfile`, `docker/app.Dockerfile`.
    pub name: String,
    /// All of it.
    pub text: Arc<str>,
}

impl Text {
    /// A place in it.
    pub fn snippet(&self, span: std::ops::Range<usize>, label: &str) -> Snippet {
        Snippet { file: self.name.clone(), text: self.text.clone(), span, label: label.to_owned() }
    }
}

/// An ignore file.
#[derive(Clone, Debug)]
pub struct Ignore {
    /// The file.
    pub text: Text,
    /// Its patterns with their line numbers, in order.
    pub lines: Vec<frontend::IgnoreLine>,
}

impl Ignore {
    /// The patterns alone.
    pub fn patterns(&self) -> Vec<String> {
        self.lines.iter().map(|line| line.pattern.clone()).collect()
    }
}

impl Context {
    /// Reads the texts of the context at `dir`; `file` is `-f`.
    pub fn read(dir: &Path, file: Option<&Path>) -> Result<Self, Failure> {
        let absolute = fs::canonicalize(dir).map_err(|error| no_context(dir, &error))?;
        if !absolute.is_dir() {
            return Err(Failure::new(format!("the build context `{}` is not a directory", dir.display()))
                .help("give the directory that holds the Dockerfile, like `rbuild -t app:1 .`"));
        }
        let (path, dockerfile) = match file {
            Some(file) => (file.to_owned(), read_named(file)?),
            None => find_dockerfile(&absolute, dir)?,
        };
        let ignore = find_ignore(&absolute, &path)?;
        Ok(Self { dir: absolute, dockerfile, ignore })
    }
}

fn no_context(dir: &Path, error: &std::io::Error) -> Failure {
    let text = dir.to_string_lossy();
    let failure = Failure::new(format!("the build context `{text}` cannot be opened")).note(error.to_string());
    if text.contains("://") || text.starts_with("git@") || text == "-" {
        return failure
            .help("this version of rbuild builds from directories only: fetch it first, then name the directory");
    }
    failure.help("the last word of the command is the directory that holds the Dockerfile, like `rbuild -t app:1 .`")
}

fn find_dockerfile(dir: &Path, as_given: &Path) -> Result<(PathBuf, Text), Failure> {
    for name in DOCKERFILE_NAMES {
        let path = dir.join(name);
        match fs::symlink_metadata(&path) {
            Ok(_) => return Ok((path.clone(), Text { name: name.into(), text: read_text(&path, name)? })),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                return Err(Failure::new(format!("`{}` cannot be read", path.display())).note(error.to_string()));
            }
        }
    }
    let looked_for = DOCKERFILE_NAMES.map(|name| format!("`{name}`")).join(", ");
    Err(Failure::new(format!("there is no Dockerfile in `{}`", as_given.display()))
        .note(format!("looked for {looked_for}"))
        .help("name the file with `-f FILE`, or the right directory as the last word"))
}

fn read_named(file: &Path) -> Result<Text, Failure> {
    let name = file.to_string_lossy().into_owned();
    if name == "-" {
        return Err(Failure::new("a Dockerfile on standard input is not supported by this version of rbuild")
            .help("write it to a file and name that with `-f`"));
    }
    Ok(Text { text: read_text(file, &name)?, name })
}

/// A Dockerfile is the user's own file, named by him: links are followed, but only files are read.
fn read_text(path: &Path, name: &str) -> Result<Arc<str>, Failure> {
    let bytes = read_capped(path, DOCKERFILE_MAX_BYTES).map_err(|error| {
        let failure = Failure::new(format!("the Dockerfile `{name}` cannot be read")).note(error.to_string());
        match error.kind() {
            ErrorKind::NotFound => failure.help("paths after `-f` start at the directory you are in"),
            _ => failure,
        }
    })?;
    String::from_utf8(bytes).map(Arc::from).map_err(|error| {
        let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
        Failure::new(format!("the Dockerfile `{name}` is not UTF-8 text"))
            .note(format!("the first bad byte is in line {line}"))
    })
}

/// `<Dockerfile>.dockerignore` beside the Dockerfile beats the one in the context.
fn find_ignore(dir: &Path, dockerfile: &Path) -> Result<Option<Ignore>, Failure> {
    let mut beside = dockerfile.as_os_str().to_owned();
    beside.push(".dockerignore");
    let beside = PathBuf::from(beside);
    let beside_name = beside.strip_prefix(dir).unwrap_or(&beside).to_string_lossy().into_owned();
    let candidates =
        std::iter::once((beside, beside_name)).chain(IGNORE_NAMES.map(|name| (dir.join(name), name.to_owned())));
    for (path, name) in candidates {
        // Not through a link: the context may be someone else's, and would have any file's lines in its messages.
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Ok(facts) if facts.is_file() => {}
            Ok(_) => {
                return Err(Failure::new(format!("the ignore file `{name}` is not a regular file"))
                    .help("links are not followed here; replace it by the file itself"));
            }
            Err(error) => {
                return Err(Failure::new(format!("the ignore file `{name}` cannot be read")).note(error.to_string()));
            }
        }
        let bytes = read_capped(&path, IGNORE_MAX_BYTES).map_err(|error| {
            Failure::new(format!("the ignore file `{name}` cannot be read")).note(error.to_string())
        })?;
        let text: Arc<str> = String::from_utf8(bytes)
            .map_err(|_| Failure::new(format!("the ignore file `{name}` is not UTF-8 text")))?
            .into();
        let lines = frontend::parse_ignore(&text);
        return Ok(Some(Ignore { text: Text { name, text }, lines }));
    }
    Ok(None)
}

fn read_capped(path: &Path, max_bytes: u64) -> std::io::Result<Vec<u8>> {
    use std::os::unix::fs::OpenOptionsExt as _;
    // O_NONBLOCK: a FIFO in the place of the file must not hang the build.
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = fs::OpenOptions::new().read(true).custom_flags(nonblock).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(std::io::Error::new(ErrorKind::InvalidData, format!("it is larger than {max_bytes} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for (name, text) in files {
            fs::write(dir.path().join(name), text).expect("a file in it");
        }
        dir
    }

    #[test]
    fn the_usual_names_are_found_in_order() {
        let check = |names: &[&str], expected: &str| {
            let files: Vec<_> = names.iter().map(|name| (*name, *name)).collect();
            let dir = folder(&files);
            let found = Context::read(dir.path(), None).expect("there is a Dockerfile");
            assert_eq!((found.dockerfile.name.as_str(), &*found.dockerfile.text), (expected, expected));
        };
        check(&["Dockerfile"], "Dockerfile");
        check(&["dockerfile"], "dockerfile");
        check(&["Containerfile"], "Containerfile");
        check(&["Dockerfile", "dockerfile", "Containerfile"], "Dockerfile");
        check(&["Containerfile", "dockerfile"], "dockerfile");
    }

    #[test]
    fn the_ignore_file_of_the_dockerfile_beats_the_contexts() {
        let check = |files: &[(&str, &str)], expected: Option<&str>| {
            let dir = folder(files);
            let found = Context::read(dir.path(), Some(&dir.path().join("app.Dockerfile"))).expect("it is there");
            assert_eq!(found.ignore.map(|ignore| ignore.text.name).as_deref(), expected);
        };
        let dockerfile = ("app.Dockerfile", "FROM scratch");
        check(&[dockerfile], None);
        check(&[dockerfile, (".dockerignore", "a")], Some(".dockerignore"));
        check(&[dockerfile, (".containerignore", "a")], Some(".containerignore"));
        check(
            &[dockerfile, (".dockerignore", "a"), ("app.Dockerfile.dockerignore", "b")],
            Some("app.Dockerfile.dockerignore"),
        );
    }

    #[test]
    fn what_cannot_be_read_is_said_with_what_to_do() {
        let check = |failure: Failure, message: &str| {
            let problem = &failure.problems[0];
            assert!(problem.message.contains(message), "{problem:?}");
            assert!(problem.help.is_some() || !problem.notes.is_empty(), "{problem:?}");
        };
        let empty = folder(&[]);
        check(Context::read(empty.path(), None).expect_err("nothing there"), "there is no Dockerfile in");
        let absent = empty.path().join("absent");
        check(Context::read(&absent, None).expect_err("no such folder"), "cannot be opened");
        check(Context::read(empty.path(), Some(&absent)).expect_err("no such file"), "cannot be read");
        let file = folder(&[("x", "")]);
        check(Context::read(&file.path().join("x"), None).expect_err("a file"), "is not a directory");
        check(Context::read(Path::new("https://example.com/x.git"), None).expect_err("a URL"), "cannot be opened");
        let linked = folder(&[("Dockerfile", "FROM scratch")]);
        std::os::unix::fs::symlink("/etc/passwd", linked.path().join(".dockerignore")).expect("a link");
        check(Context::read(linked.path(), None).expect_err("a link"), "is not a regular file");
        let odd = folder(&[]);
        fs::write(odd.path().join("Dockerfile"), b"FROM a\n\xff").expect("a file");
        check(Context::read(odd.path(), None).expect_err("no text"), "is not UTF-8");
        rustix::fs::mknodat(rustix::fs::CWD, linked.path().join("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .expect("a FIFO");
        check(Context::read(linked.path(), Some(&linked.path().join("fifo"))).expect_err("a FIFO"), "cannot be read");
    }
}
