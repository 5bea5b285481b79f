//! Paths inside images, as text: absolute, `/` between parts, `..` never above the root.

/// The shortest absolute path that means the same as `path` seen from `/`.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
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
}
