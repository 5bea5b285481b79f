//! What was perhaps meant by a path that a context does not have.
//!
//! In come a tree and the missing path, out comes advice: a name beside it that looks like it, or the same name in
//! another directory. Only names are read, a bounded number of them, and no link is followed.

use std::collections::VecDeque;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use solver::pattern::Patterns;

/// Names that are looked at in all: enough for people's sources, little enough to take no time.
const NAMES_MAX: usize = 20_000;
/// Directories below one another.
const DEPTH_MAX: usize = 12;
/// So many places are named.
const PLACES_MAX: usize = 3;

/// Advice for `path`, which is not in the tree at `dir`; what `ignored` leaves out is never advised.
pub fn advice(dir: &Path, ignored: &[String], path: &str) -> Option<String> {
    let path = Path::new(path.trim_start_matches('/'));
    if path.components().any(|part| !matches!(part, Component::Normal(_))) {
        return None;
    }
    let ignored = Patterns::new(ignored).ok()?;
    if let Some(near) = beside(dir, &ignored, path) {
        return Some(format!("did you mean `{near}`?"));
    }
    let name = path.file_name()?.as_bytes();
    let places = elsewhere(dir, &ignored, name);
    let places: Vec<String> = places.iter().map(|place| format!("`{}`", place.display())).collect();
    match places.split_last() {
        None => None,
        Some((only, [])) => Some(format!("did you mean {only}?")),
        Some((last, others)) => Some(format!("did you mean {} or {last}?", others.join(", "))),
    }
}

/// A name in the same directory, or one of a directory on the way, that looks like the missing one.
fn beside(dir: &Path, ignored: &Patterns, path: &Path) -> Option<String> {
    let mut at = PathBuf::new();
    for part in path.components() {
        let next = at.join(part);
        let facts = fs::symlink_metadata(dir.join(&next));
        if facts.is_ok_and(|facts| facts.is_dir()) {
            at = next;
            continue;
        }
        let names: Vec<String> = fs::read_dir(dir.join(&at))
            .ok()?
            .take(NAMES_MAX)
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| !ignored.matches(at.join(name).as_os_str().as_bytes()))
            .collect();
        let near = frontend::nearest(part.as_os_str().to_str()?, names.iter().map(String::as_str))?;
        let rest = path.strip_prefix(&next).ok()?;
        let meant = at.join(near).join(rest);
        // `join` with nothing leaves a slash.
        let meant = if rest.as_os_str().is_empty() { at.join(near) } else { meant };
        return fs::symlink_metadata(dir.join(&meant)).is_ok().then(|| meant.display().to_string());
    }
    None
}

/// Where else in the tree that name stands; the nearest to the root first.
fn elsewhere(dir: &Path, ignored: &Patterns, name: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut names = 0;
    let mut queue = VecDeque::from([(PathBuf::new(), 0)]);
    while let Some((at, depth)) = queue.pop_front() {
        let Ok(entries) = fs::read_dir(dir.join(&at)) else { continue };
        let mut entries: Vec<_> = entries.take(NAMES_MAX - names).filter_map(Result::ok).collect();
        names += entries.len();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = at.join(entry.file_name());
            if ignored.matches(path.as_os_str().as_bytes()) {
                continue;
            }
            if entry.file_name().as_bytes() == name {
                found.push(path.clone());
                if found.len() == PLACES_MAX {
                    return found;
                }
            }
            if depth < DEPTH_MAX && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                queue.push_back((path, depth + 1));
            }
        }
        if names >= NAMES_MAX {
            return found;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_nearby_and_the_same_name_elsewhere_are_advised() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = |path: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("it has one")).expect("it can be made");
            fs::write(path, "").expect("it can be written");
        };
        file("package.json");
        file("src/main.rs");
        file("src/deep/down/settings.yaml");
        file("a/many");
        file("b/many");
        file("c/many");
        file("d/many");
        file("secret/key");
        std::os::unix::fs::symlink("/etc", dir.path().join("link")).expect("it is new");
        let check = |path: &str, expected: Option<&str>| {
            assert_eq!(advice(dir.path(), &["secret".into()], path).as_deref(), expected, "{path}");
        };
        check("/pakage.json", Some("did you mean `package.json`?"));
        check("/scr/main.rs", Some("did you mean `src/main.rs`?"));
        check("/src/mian.rs", Some("did you mean `src/main.rs`?"));
        check("/main.rs", Some("did you mean `src/main.rs`?"));
        check("/conf/settings.yaml", Some("did you mean `src/deep/down/settings.yaml`?"));
        check("/x/y/many", Some("did you mean `a/many`, `b/many` or `c/many`?"));
        check("/key", None);
        check("/sceret/key", None);
        check("/hostname", None);
        check("/../package.json", None);
        check("/nothing-like-it", None);
    }
}
