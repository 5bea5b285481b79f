//! Paths inside images, as text: absolute, `/` between parts, `..` never above the root.

/// The shortest absolute path that means the same as `path` seen from `/`.
pub fn clean(path: &str) -> String {
    let mut cleaned = String::with_capacity(path.len() + 1);
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => cleaned.truncate(cleaned.rfind('/').unwrap_or(0)),
            part => {
                cleaned.push('/');
                cleaned.push_str(part);
            }
        }
    }
    if cleaned.is_empty() {
        cleaned.push('/');
    }
    cleaned
}

/// `path` seen from `dir`, cleaned.
pub fn join(dir: &str, path: &str) -> String {
    if path.starts_with('/') { clean(path) } else { clean(&format!("{dir}/{path}")) }
}

/// Where COPY puts things: `dest` seen from `dir`. A slash at the end says "into this directory"; it is kept, and
/// added when `dest` is the directory itself or several things are copied.
pub fn destination(dir: &str, dest: &str, several: bool) -> String {
    let mut path = join(dir, dest);
    let into = several || dest.is_empty() || dest == "." || dest.ends_with('/') || dest.ends_with("/.");
    if into && !path.ends_with('/') {
        path.push('/');
    }
    path
}

/// A source of `COPY --parents`: the directory whose inside keeps its structure, and the pattern of what is copied from
/// it, empty for all. `/./` stands between the two; without it the directory is the root.
pub fn pivot(source: &str) -> (String, String) {
    let (directory, pattern) = source.split_once("/./").unwrap_or(("", source));
    (clean(directory), clean(pattern)[1..].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_and_stay_inside() {
        let check = |dir: &str, path: &str, expected: &str| assert_eq!(join(dir, path), expected, "{dir} {path}");
        check("/", "a", "/a");
        check("/", "", "/");
        check("/", ".", "/");
        check("/", "..", "/");
        check("/", "../../etc", "/etc");
        check("/app", "b", "/app/b");
        check("/app", "../b", "/b");
        check("/app", "/b", "/b");
        check("/app", "/b/", "/b");
        check("/app", "b//c/./d/../e", "/app/b/c/e");
        check("/app/", "b", "/app/b");
        check("", "b", "/b");
    }

    #[test]
    fn destinations_keep_their_slash() {
        let check = |dir: &str, dest: &str, several: bool, expected: &str| {
            assert_eq!(destination(dir, dest, several), expected, "{dir} {dest}");
        };
        check("/", "/x", false, "/x");
        check("/", "/x/", false, "/x/");
        check("/", "/x", true, "/x/");
        check("/", "/", false, "/");
        check("/", ".", false, "/");
        check("/app", ".", false, "/app/");
        check("/app", "./", false, "/app/");
        check("/app", "", false, "/app/");
        check("/app", "x", false, "/app/x");
        check("/app", "x/.", false, "/app/x/");
        check("/app", "../x/", false, "/x/");
        check("/app", "..", false, "/");
    }

    #[test]
    fn a_pivot_parts_the_directory_from_what_keeps_its_structure() {
        let check = |source: &str, directory: &str, pattern: &str| {
            assert_eq!(pivot(source), (directory.to_owned(), pattern.to_owned()), "{source}");
        };
        check("a/b.txt", "/", "a/b.txt");
        check("/a/b/", "/", "a/b");
        check("./a", "/", "a");
        check(".", "/", "");
        check("a/./b/c", "/a", "b/c");
        check("./a/./b/./c", "/a", "b/c");
        check("a/b/./", "/a/b", "");
        check("/./a", "/", "a");
        check("**/*.txt", "/", "**/*.txt");
        check("*/./**/x", "/*", "**/x");
        check("a/./../b", "/a", "b");
        check("../../a", "/", "a");
    }
}
