//! Names of archive members, taken apart.
//!
//! A name is relative to the root whether or not it begins with a slash. Empty components and `.` mean nothing; `..` in
//! a member's name or a hard link's target is refused, in a symlink's text it goes up but never above the root.

use super::error::LayerError;

/// One name: not empty, not `.` or `..`, without slash and NUL.
pub(super) type Component = Box<[u8]>;

/// What NAME_MAX of every Linux file system allows; checked here so that the error names the entry.
const COMPONENT_MAX_BYTES: usize = 255;

/// A member's name. Empty for the root itself.
pub(super) fn components(path: &[u8]) -> Result<Vec<Component>, LayerError> {
    steps(path)
        .map(|step| match step {
            Step::Up => Err(LayerError::refused(path, "a name with `..` leaves its directory")),
            Step::Down(name) if name.len() > COMPONENT_MAX_BYTES => {
                Err(LayerError::refused(path, "one of its names is longer than 255 bytes"))
            }
            Step::Down(name) => Ok(name.into()),
        })
        .collect()
}

/// One step on a way through a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    Up,
    Down(&'a [u8]),
}

/// The steps of a path as they stand.
pub(super) fn steps(path: &[u8]) -> impl DoubleEndedIterator<Item = Step<'_>> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").map(|part| match part {
        b".." => Step::Up,
        name => Step::Down(name),
    })
}

/// Components as a path without a slash in front, for messages and as keys.
pub(super) fn joined<'a>(components: impl IntoIterator<Item = &'a Component>) -> Vec<u8> {
    let mut path = Vec::new();
    for name in components {
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_lies_beneath_the_root_or_is_refused() {
        let check = |path: &str, want: Option<&str>| {
            let got = components(path.as_bytes()).ok().map(|parts| String::from_utf8(joined(&parts)).unwrap());
            assert_eq!(got.as_deref(), want, "{path}");
        };
        check("a/b", Some("a/b"));
        check("/etc/x", Some("etc/x"));
        check(".//a/./b//", Some("a/b"));
        check("./", Some(""));
        check("/", Some(""));
        check("...", Some("..."));
        check("..", None);
        check("../p", None);
        check("a/../../p", None);
        check("a/../b", None);
        check("a/..", None);
        check("dest/../dest-evil", None);
        check(&"x".repeat(255), Some(&"x".repeat(255)));
        check(&"x".repeat(256), None);
    }
}
