//! The texts that a build starts from: Dockerfiles and ignore files, read with a limit.
//!
//! In come paths of the user, or a tree of somebody else and a path in it, or a stream; out come [`Text`]s. In a tree of
//! somebody else links are followed inside that tree only, and nothing but a regular file is read anywhere.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use crate::engine::{Failure, Snippet};

/// What is looked for in the context when `-f` is absent, in this order.
const DOCKERFILE_NAMES: [&str; 3] = ["Dockerfile", "dockerfile", "Containerfile"];
/// What is looked for beside the context's root when `<Dockerfile>.dockerignore` is absent.
const IGNORE_NAMES: [&str; 2] = [".dockerignore", ".containerignore"];
/// A generated Dockerfile may be long; a wrong file given as one is longer.
const DOCKERFILE_MAX_BYTES: u64 = 64 << 20;
/// An ignore file is read whole.
const IGNORE_MAX_BYTES: u64 = 8 << 20;

/// A text and what the user calls it.
#[derive(Clone, Debug)]
pub struct Text {
    /// As in messages: `Dockerfile`, `docker/app.Dockerfile`.
    pub name: String,
    /// All of it.
    pub text: Arc<str>,
    /// Where it is, if it is a file of the user; absolute.
    pub path: Option<PathBuf>,
}

impl Text {
    /// A place in it.
    pub fn snippet(&self, span: std::ops::Range<usize>, label: &str) -> Snippet {
        Snippet {
            file: self.name.clone(),
            path: self.path.clone(),
            text: self.text.clone(),
            span,
            label: label.to_owned(),
        }
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

/// The Dockerfile that `-f` names: the user's own path, so links are followed wherever they lead.
pub fn named_dockerfile(path: &Path) -> Result<Text, Failure> {
    let name = path.to_string_lossy().into_owned();
    let file = open_of_user(path).map_err(|error| {
        let failure = unreadable_dockerfile(&name, &error);
        match error.kind() {
            ErrorKind::NotFound => failure.help(match neighbour(path) {
                Some(meant) => format!("did you mean `{}`?", meant.display()),
                None => "paths after `-f` start at the directory you are in".into(),
            }),
            _ => failure,
        }
    })?;
    Ok(Text { path: std::path::absolute(path).ok(), ..dockerfile_of(file, &name)? })
}

/// What lies beside `path` under a name that is nearly its own.
fn neighbour(path: &Path) -> Option<PathBuf> {
    /// A folder of more is not looked through for a suggestion.
    const ENTRIES_MAX: usize = 300;
    let dir = path.parent()?;
    let looked_in = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    let names =
        fs::read_dir(looked_in).ok()?.take(ENTRIES_MAX).filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let names: Vec<String> = names.collect();
    let near = frontend::nearest(path.file_name()?.to_str()?, names.iter().map(String::as_str))?;
    Some(dir.join(near))
}

/// The Dockerfile of a directory of the user, found by its usual names, and its path. `shown` is how the user calls
/// the directory.
pub fn find_dockerfile(dir: &Path, shown: &str) -> Result<(PathBuf, Text), Failure> {
    for name in DOCKERFILE_NAMES {
        let path = dir.join(name);
        match fs::symlink_metadata(&path) {
            Ok(_) => {
                let file = open_of_user(&path).map_err(|error| unreadable_dockerfile(name, &error))?;
                let text = dockerfile_of(file, name)?;
                return Ok((path.clone(), Text { path: Some(path), ..text }));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                return Err(Failure::new(format!("`{}` cannot be read", path.display())).note(error.to_string()));
            }
        }
    }
    Err(no_dockerfile(shown).help("name the file with `-f FILE`, or the right directory as the last word"))
}

/// The Dockerfile in a tree of somebody else: the one at `path`, or the first of the usual names.
pub fn dockerfile_inside(dir: &Path, path: Option<&Path>, shown: &str) -> Result<Text, Failure> {
    let root = open_root(dir, shown)?;
    let root = root.as_fd();
    if let Some(path) = path {
        let name = path.to_string_lossy().into_owned();
        return match open_inside(root, path, OFlags::empty()) {
            Ok(Some(file)) => dockerfile_of(file, &name),
            Ok(None) => Err(Failure::new(format!("there is no Dockerfile `{name}` in {shown}"))
                .help("with a context that is no directory, `-f` names a file inside it")),
            Err(error) => Err(unreadable_dockerfile(&name, &error)),
        };
    }
    for name in DOCKERFILE_NAMES {
        match open_inside(root, Path::new(name), OFlags::empty()) {
            Ok(Some(file)) => return dockerfile_of(file, name),
            Ok(None) => {}
            Err(error) => return Err(unreadable_dockerfile(name, &error)),
        }
    }
    Err(no_dockerfile(shown).help("name the file inside it with `-f FILE`"))
}

fn open_root(dir: &Path, shown: &str) -> Result<OwnedFd, Failure> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(dir, flags, Mode::empty())
        .map_err(|errno| Failure::new(format!("{shown} cannot be opened")).note(errno.to_string()))
}

fn no_dockerfile(shown: &str) -> Failure {
    let looked_for = DOCKERFILE_NAMES.map(|name| format!("`{name}`")).join(", ");
    Failure::new(format!("there is no Dockerfile in {shown}")).note(format!("looked for {looked_for}"))
}

fn unreadable_dockerfile(name: &str, error: &io::Error) -> Failure {
    Failure::new(format!("the Dockerfile `{name}` cannot be read")).note(error.to_string())
}

/// The Dockerfile that a stream is.
pub fn dockerfile_of(stream: impl Read, name: &str) -> Result<Text, Failure> {
    let bytes = capped(stream, DOCKERFILE_MAX_BYTES).map_err(|error| unreadable_dockerfile(name, &error))?;
    String::from_utf8(bytes).map(|text| Text { name: name.to_owned(), text: text.into(), path: None }).map_err(
        |error| {
            let line = 1 + error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count();
            Failure::new(format!("the Dockerfile `{name}` is not UTF-8 text"))
                .note(format!("the first bad byte is in line {line}"))
        },
    )
}

/// The ignore file that `--ignorefile` names: the user's own path. `/dev/null` is none.
pub fn named_ignore(path: &Path) -> Result<Option<Ignore>, Failure> {
    if path == Path::new("/dev/null") {
        return Ok(None);
    }
    let name = path.to_string_lossy().into_owned();
    let file = open_of_user(path).map_err(|error| {
        unreadable_ignore(&name, &error).help("paths after `--ignorefile` start at the directory you are in")
    })?;
    ignore_of(file, name).map(Some)
}

/// The ignore file of a directory of the user: `<Dockerfile>.dockerignore` beside the Dockerfile, if that has a path,
/// beats the one in the directory.
pub fn find_ignore(dir: &Path, dockerfile: Option<&Path>) -> Result<Option<Ignore>, Failure> {
    let beside = dockerfile.map(|dockerfile| {
        let beside = beside(dockerfile);
        let name = beside.strip_prefix(dir).unwrap_or(&beside).to_string_lossy().into_owned();
        (beside, name)
    });
    for (path, name) in beside.into_iter().chain(IGNORE_NAMES.map(|name| (dir.join(name), name.to_owned()))) {
        // Not through a link: the context may be someone else's, and would have any file's lines in its messages.
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Ok(facts) if facts.is_file() => {}
            Ok(_) => return Err(no_ignore_file(&name)),
            Err(error) => return Err(unreadable_ignore(&name, &error)),
        }
        let file = open_of_user(&path).map_err(|error| unreadable_ignore(&name, &error))?;
        return ignore_of(file, name).map(Some);
    }
    Ok(None)
}

/// The same in a tree of somebody else, `dockerfile` being a path in it.
pub fn ignore_inside(dir: &Path, dockerfile: Option<&Path>, shown: &str) -> Result<Option<Ignore>, Failure> {
    let root = open_root(dir, shown)?;
    for path in dockerfile.map(beside).into_iter().chain(IGNORE_NAMES.map(PathBuf::from)) {
        let name = path.to_string_lossy().into_owned();
        match open_inside(root.as_fd(), &path, OFlags::NOFOLLOW) {
            Ok(Some(file)) => return ignore_of(file, name).map(Some),
            Ok(None) => {}
            Err(error) if Errno::from_io_error(&error).is_some_and(|errno| errno == Errno::LOOP) => {
                return Err(no_ignore_file(&name));
            }
            Err(error) if error.kind() == ErrorKind::InvalidInput => return Err(no_ignore_file(&name)),
            Err(error) => return Err(unreadable_ignore(&name, &error)),
        }
    }
    Ok(None)
}

/// The ignore file of a Dockerfile alone.
fn beside(dockerfile: &Path) -> PathBuf {
    let mut beside = dockerfile.as_os_str().to_owned();
    beside.push(".dockerignore");
    beside.into()
}

fn no_ignore_file(name: &str) -> Failure {
    Failure::new(format!("the ignore file `{name}` is not a regular file"))
        .help("links are not followed here; replace it by the file itself")
}

fn unreadable_ignore(name: &str, error: &io::Error) -> Failure {
    Failure::new(format!("the ignore file `{name}` cannot be read")).note(error.to_string())
}

fn ignore_of(file: File, name: String) -> Result<Ignore, Failure> {
    let bytes = capped(file, IGNORE_MAX_BYTES).map_err(|error| unreadable_ignore(&name, &error))?;
    let text: Arc<str> = String::from_utf8(bytes)
        .map_err(|_| Failure::new(format!("the ignore file `{name}` is not UTF-8 text")))?
        .into();
    let lines = frontend::parse_ignore(&text);
    Ok(Ignore { text: Text { name, text, path: None }, lines })
}

/// Opens a regular file, whatever links lead to it.
fn open_of_user(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    // O_NONBLOCK: a FIFO in the place of the file must not hang the build.
    let nonblock = OFlags::NONBLOCK.bits().cast_signed();
    regular(fs::OpenOptions::new().read(true).custom_flags(nonblock).open(path)?)
}

/// Opens a regular file of a tree, resolved as if the tree were all there is. `None` if there is none of that name.
fn open_inside(root: BorrowedFd<'_>, path: &Path, more: OFlags) -> io::Result<Option<File>> {
    let flags = more | OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    match openat2(root, path, flags, Mode::empty(), resolve) {
        Ok(fd) => regular(fd.into()).map(Some),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn regular(file: File) -> io::Result<File> {
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(ErrorKind::InvalidInput, "it is not a regular file"))
}

fn capped(stream: impl Read, max_bytes: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stream.take(max_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > max_bytes {
        return Err(io::Error::new(ErrorKind::InvalidData, format!("it is larger than {max_bytes} bytes")));
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
            let (path, text) = find_dockerfile(dir.path(), "x").expect("there is a Dockerfile");
            assert_eq!((text.name.as_str(), &*text.text, path), (expected, expected, dir.path().join(expected)));
            let text = dockerfile_inside(dir.path(), None, "x").expect("there is a Dockerfile");
            assert_eq!((text.name.as_str(), &*text.text), (expected, expected));
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
            let found = find_ignore(dir.path(), Some(&dir.path().join("app.Dockerfile"))).expect("it is readable");
            assert_eq!(found.map(|ignore| ignore.text.name).as_deref(), expected);
        };
        check(&[], None);
        check(&[(".dockerignore", "a")], Some(".dockerignore"));
        check(&[(".containerignore", "a")], Some(".containerignore"));
        check(&[(".containerignore", "a"), (".dockerignore", "a")], Some(".dockerignore"));
        check(&[(".dockerignore", "a"), ("app.Dockerfile.dockerignore", "b")], Some("app.Dockerfile.dockerignore"));
    }

    #[test]
    fn ignore_files_of_a_foreign_tree_are_files_in_it() {
        let inside = |files: &[(&str, &str)], links: &[(&str, &str)], dockerfile: Option<&str>| {
            let dir = folder(files);
            for (name, target) in links {
                std::os::unix::fs::symlink(target, dir.path().join(name)).expect("new");
            }
            match ignore_inside(dir.path(), dockerfile.map(Path::new), "the archive") {
                Ok(found) => found.map_or_else(|| "none".into(), |ignore| ignore.text.name),
                Err(failure) => failure.problems[0].message.clone(),
            }
        };
        let both = [(".dockerignore", "a"), ("app.Dockerfile.dockerignore", "b")];
        assert_eq!(inside(&[], &[], Some("Dockerfile")), "none");
        assert_eq!(inside(&both, &[], Some("Dockerfile")), ".dockerignore");
        assert_eq!(inside(&both, &[], Some("app.Dockerfile")), "app.Dockerfile.dockerignore");
        assert_eq!(inside(&both, &[], None), ".dockerignore");
        let refused = "the ignore file `.dockerignore` is not a regular file";
        for target in ["/etc/passwd", "none", "f", "."] {
            assert_eq!(inside(&[("f", "a")], &[(".dockerignore", target)], None), refused, "{target}");
        }
    }

    #[test]
    fn links_in_a_foreign_tree_lead_nowhere_else() {
        let canary = folder(&[("secret", "FROM secret")]);
        let dir = folder(&[("real", "FROM scratch")]);
        let link = |target: &Path, name: &str| std::os::unix::fs::symlink(target, dir.path().join(name)).expect("new");
        link(Path::new("real"), "relative");
        link(Path::new("/real"), "absolute");
        link(Path::new("../../real"), "up");
        link(&canary.path().join("secret"), "out");
        link(canary.path(), "outdir");
        link(Path::new("/proc/self/root"), "magic");
        let read = |path: &str| dockerfile_inside(dir.path(), Some(Path::new(path)), "the archive");
        for inside in ["real", "./real", "/real", "../real", "relative", "absolute", "up"] {
            assert_eq!(&*read(inside).expect(inside).text, "FROM scratch", "{inside}");
        }
        let secret = canary.path().join("secret");
        for outside in ["out", "outdir/secret", "magic", secret.to_str().expect("UTF-8"), "../../../etc/hostname"] {
            let failure = read(outside).expect_err(outside);
            assert!(!format!("{failure:?}").contains("FROM secret"), "{failure:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_said_with_what_to_do() {
        let check = |failure: Failure, message: &str| {
            let problem = &failure.problems[0];
            assert!(problem.message.contains(message), "{problem:?}");
            assert!(problem.help.is_some() || !problem.notes.is_empty(), "{problem:?}");
        };
        let empty = folder(&[]);
        check(find_dockerfile(empty.path(), "`x`").expect_err("nothing there"), "there is no Dockerfile in `x`");
        check(dockerfile_inside(empty.path(), None, "`x`").expect_err("nothing there"), "no Dockerfile in `x`");
        check(named_dockerfile(&empty.path().join("absent")).expect_err("no such file"), "cannot be read");
        let misspelt = folder(&[("app.Dockerfile", "FROM scratch")]);
        let failure = named_dockerfile(&misspelt.path().join("app.Dokcerfile")).expect_err("no such file");
        let meant = misspelt.path().join("app.Dockerfile");
        assert_eq!(failure.problems[0].help.as_deref(), Some(&*format!("did you mean `{}`?", meant.display())));
        check(named_ignore(&empty.path().join("absent")).expect_err("no such file"), "cannot be read");
        let linked = folder(&[]);
        std::os::unix::fs::symlink("/etc/passwd", linked.path().join(".dockerignore")).expect("a link");
        check(find_ignore(linked.path(), None).expect_err("a link"), "is not a regular file");
        check(dockerfile_of(&b"FROM a\n\xff"[..], "x").expect_err("no text"), "is not UTF-8");
        let fifo = linked.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("a FIFO");
        check(named_dockerfile(&fifo).expect_err("a FIFO"), "cannot be read");
        check(dockerfile_inside(linked.path(), Some(Path::new("fifo")), "x").expect_err("a FIFO"), "cannot be read");
    }
}
