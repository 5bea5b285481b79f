//! Why things usually differ, and what helps.
//!
//! In: a path, bytes, two texts. Out: words. All of it is guessed from names and first bytes; nothing is decided by it.

/// What is known of paths: the path is this, lies in this directory (ends with `/`), begins or ends like this (`*`).
const PATHS: &[(&[&str], &str)] = &[
    (
        &["*.pyc"],
        "Python's bytecode holds the time of its source: `ENV PYTHONDONTWRITEBYTECODE=1`, or compile it with \
         `python3 -m compileall --invalidation-mode unchecked-hash`",
    ),
    (&["var/cache/ldconfig/aux-cache"], "ldconfig notes times of libraries there: remove it in the same step"),
    (&["var/log/"], "logs hold times: remove them in the step that writes them"),
    (
        &["var/lib/apt/lists/", "var/cache/apt/"],
        "what apt fetches changes from day to day: remove it in the same step, or keep it in a cache mount",
    ),
    (
        &["etc/machine-id", "var/lib/dbus/machine-id"],
        "the id of a machine is made anew every time: empty it in the same step",
    ),
    (&["etc/ssh/ssh_host_*"], "keys of a host are made anew every time: remove them, and make them at the first start"),
    (
        &["etc/shadow", "etc/shadow-"],
        "the day on which a password was set stands there: declare `ARG SOURCE_DATE_EPOCH`, which useradd and passwd obey",
    ),
    (&["var/cache/"], "a cache: remove it in the same step, or mount one (`RUN --mount=type=cache`)"),
    (&["root/.cache/", "root/.npm/"], "a cache: remove it in the same step, or mount one (`RUN --mount=type=cache`)"),
    (
        &["tmp/", "var/tmp/"],
        "a temporary file: remove it in the same step, or mount something there (`RUN --mount=type=tmpfs`)",
    ),
    (&["run/"], "what a running system keeps there: remove it in the same step"),
];

/// What files begin with, and what they hold beside their content.
const FORMATS: &[(&[u8], &str)] = &[
    (b"PK\x03\x04", "a zip (or jar) holds times of its members: set them before packing, and use `zip -X`"),
    (b"!<arch>\n", "an ar archive holds times and owners: make it with `ar D`"),
    (
        b"\x7fELF",
        "a program: the compiler may have put in a time (`__DATE__`), a path (`-ffile-prefix-map`) or a random build id",
    ),
    (b"SQLite format 3\0", "a database: it holds counters and times"),
    (b"\xca\xfe\xba\xbe", "a class file: the compiler may have put in a time"),
    (b"BZh", "compressed: what is inside differs"),
    (b"\xfd7zXZ\0", "compressed: what is inside differs"),
    (b"\x28\xb5\x2f\xfd", "compressed: what is inside differs"),
];

/// Where a tar says that it is one.
const TAR_MAGIC: std::ops::Range<usize> = 257..262;
/// Where gzip has its time. RFC 1952, "MTIME".
const GZIP_TIME: std::ops::Range<u64> = 4..8;

/// By the name of a file.
pub fn of_path(path: &str) -> Option<&'static str> {
    let is = |pattern: &str| match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(end), _) => path.ends_with(end),
        (_, Some(beginning)) => path.starts_with(beginning),
        _ if pattern.ends_with('/') => path.starts_with(pattern),
        _ => path == pattern,
    };
    if path.starts_with(".git/") || path.contains("/.git/") {
        return Some("files of the repository itself: leave `.git` out with a `.dockerignore`");
    }
    PATHS.iter().find(|(patterns, _)| patterns.iter().any(|pattern| is(pattern))).map(|(_, words)| *words)
}

/// By name and beginning of a file whose bytes part at `offset`.
pub fn of_bytes(path: &str, first: &[u8], second: &[u8], offset: u64) -> Vec<String> {
    let mut hints: Vec<String> = of_path(path).map(str::to_owned).into_iter().collect();
    let both = |begin: &[u8]| first.starts_with(begin) && second.starts_with(begin);
    if both(b"\x1f\x8b") {
        hints.push(match GZIP_TIME.contains(&offset) {
            true => "gzip notes the time at which it ran: use `gzip -n`".into(),
            false => "compressed: what is inside differs".into(),
        });
    } else if first.get(TAR_MAGIC) == Some(b"ustar") && second.get(TAR_MAGIC) == Some(b"ustar") {
        let words = "a tar holds times, owners and an order: `tar --sort=name --mtime=@$SOURCE_DATE_EPOCH --owner=0 --group=0 \
                     --numeric-owner`";
        hints.push(words.into());
    } else if !path.ends_with(".pyc") {
        hints.extend(FORMATS.iter().find(|(begin, _)| both(begin)).map(|(_, words)| (*words).to_owned()));
    }
    hints
}

/// By two lines of text.
pub fn of_texts(first: &str, second: &str) -> Option<String> {
    const TIME: &str = "this looks like a time: take it from `SOURCE_DATE_EPOCH` (`ARG SOURCE_DATE_EPOCH`; \
                        `date -d @$SOURCE_DATE_EPOCH`)";
    const RANDOM: &str = "this looks random: an id, a key or a seed that is made anew every time";
    const PATH: &str = "this looks like a temporary path: give it a fixed name";
    let (one, two) = parted(first, second);
    if one.contains("/tmp") || [first, second].iter().all(|text| text.contains("/tmp/")) {
        return Some(PATH.into());
    }
    if is_time(first, one) && is_time(second, two) {
        return Some(TIME.into());
    }
    let is_id = |text: &str| {
        let digits = text.chars().filter(|c| *c != '-').collect::<String>();
        digits.len() >= 8 && digits.chars().all(|c| c.is_ascii_hexdigit())
    };
    let is_key = |text: &str| {
        text.len() >= 16 && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '_' | '-'))
    };
    if (is_id(one) && is_id(two)) || (is_key(one) && is_key(two)) {
        return Some(RANDOM.into());
    }
    let words = |text: &str| {
        let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        words.sort_unstable();
        words
    };
    if words(first).len() > 1 && words(first) == words(second) {
        return Some("the same in another order: sort it (`LC_ALL=C sort`)".into());
    }
    None
}

/// By a field of a config or manifest.
pub fn of_field(path: &str, first: Option<&str>, second: Option<&str>) -> Vec<String> {
    let last = path.rsplit('.').next().unwrap_or(path);
    if last == "created" || last == "org.opencontainers.image.created" {
        return vec!["the time of the build: set `SOURCE_DATE_EPOCH`".into()];
    }
    match (first, second) {
        (Some(first), Some(second)) => of_texts(first, second).into_iter().collect(),
        _ => Vec::new(),
    }
}

/// By a change that is no one of bytes.
pub fn of_change(path: &str, what: &str, with_epoch: bool) -> Option<String> {
    match what {
        "time" if !with_epoch => Some("without `SOURCE_DATE_EPOCH` files have the time at which their step ran".into()),
        "time" => Some("the step gave it a time of its own, which is not the same every time".into()),
        "mode" => Some("set it (`chmod`): something in the step decides by what is there at the time".into()),
        "order" => Some("whoever wrote the layer did not sort its entries".into()),
        "file" => of_path(path).map(str::to_owned),
        _ => None,
    }
}

/// The words in which two texts part.
fn parted<'a>(first: &'a str, second: &'a str) -> (&'a str, &'a str) {
    let (one, two) = (first.as_bytes(), second.as_bytes());
    let common = one.iter().zip(two).take_while(|(a, b)| a == b).count();
    let rest = one.len().min(two.len()) - common;
    let end = one.iter().rev().zip(two.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    let is_word =
        |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b':' | b'.' | b'+' | b'_' | b'/' | b'=');
    let begin = common - one[..common].iter().rev().take_while(|byte| is_word(byte)).count();
    let more = one[one.len() - end..].iter().take_while(|byte| is_word(byte)).count();
    let word = |text: &'a str| text.get(begin..text.len() - end + more).unwrap_or(text);
    (word(first), word(second))
}

/// Whether a word in a line says when something was.
fn is_time(line: &str, word: &str) -> bool {
    let digits = word.chars().filter(char::is_ascii_digit).count();
    // Seconds of these decades, and parts of them.
    let number = word.rsplit('=').next().unwrap_or(word);
    let seconds =
        (9..=19).contains(&number.len()) && number.starts_with('1') && number.bytes().all(|b| b.is_ascii_digit());
    let clock = word.matches(':').count() >= 1 && digits >= 4;
    let date =
        word.matches('-').count() >= 2 && digits >= 8 && word.chars().filter(char::is_ascii_alphabetic).count() <= 3;
    let named =
        ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"].iter().any(|day| line.contains(day)) && line.contains(':');
    seconds || clock || date || named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_formats_and_texts_have_their_reasons() {
        let path = |path: &str, expected: &str| {
            let found = of_path(path).unwrap_or("");
            assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{path}: {found}");
        };
        path("usr/lib/python3/__pycache__/x.cpython-311.pyc", "bytecode");
        path("var/cache/ldconfig/aux-cache", "ldconfig");
        path("var/cache/fontconfig/x", "a cache");
        path("var/lib/apt/lists/x", "apt");
        path("var/log/dpkg.log", "logs");
        path("etc/machine-id", "id of a machine");
        path("etc/ssh/ssh_host_rsa_key", "keys of a host");
        path("src/.git/index", ".dockerignore");
        path("srv/var/log/x", "");
        path("app", "");

        let bytes = |path: &str, first: &[u8], second: &[u8], offset: u64, expected: &str| {
            let found = of_bytes(path, first, second, offset).join("; ");
            assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{path}: {found}");
        };
        let gzip = [0x1f, 0x8b, 8, 0, 1, 2, 3, 4];
        bytes("f", &gzip, &gzip, 4, "`gzip -n`");
        bytes("f", &gzip, &gzip, 9, "what is inside");
        bytes("f", b"PK\x03\x04a", b"PK\x03\x04b", 4, "zip");
        bytes("f", b"\x7fELFa", b"\x7fELFb", 4, "program");
        bytes("f", b"\x7fELFa", b"text", 0, "");
        let mut tar = vec![0; 512];
        tar[TAR_MAGIC].copy_from_slice(b"ustar");
        bytes("f", &tar, &tar, 140, "--sort=name");

        let texts = |first: &str, second: &str, expected: &str| {
            let found = of_texts(first, second).unwrap_or_default();
            assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{first} {second}: {found}");
        };
        texts("Sun Nov 22 17:41:52 UTC 2026", "Sun Nov 22 17:41:57 UTC 2026", "a time");
        texts("built=1700000000", "built=1700000123", "a time");
        texts("at 2026-11-22 in", "at 2026-11-23 in", "a time");
        texts("id: 0f8fad5b-d9cb-469f-a165-70867728950e", "id: 7c9e6679-7425-40de-944b-e07fc1f90ae7", "random");
        texts("key Zm9vYmFyYmF6cXV4", "key YmFyYmF6cXV4Zm9v", "random");
        texts("b a c", "a b c", "another order");
        texts("in /tmp/tmp.Xa1", "in /tmp/tmp.Yb2", "temporary path");
        texts("one", "two", "");
        texts("", "", "");
    }
}
