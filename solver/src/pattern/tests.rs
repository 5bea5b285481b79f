//! Patterns as ignore files and COPY have them.

use super::glob::{Dialect, Glob, has_wildcard};
use super::patterns::{Patterns, clean};

/// Whether one line of an ignore file matches a path, or a directory above it.
#[test]
fn ignore_patterns_match_as_in_other_builders() {
    let cases: &[(&str, &str, bool)] = &[
        // Plain paths, and everything beneath them.
        ("a", "a", true),
        ("a", "b", false),
        ("a", "ab", false),
        ("a", "a/b", true),
        ("a", "a/b/c", true),
        ("a", "b/a", false),
        ("a/b", "a/b", true),
        ("a/b", "a/b/c/d", true),
        ("a/b", "a", false),
        ("a/b", "a/bc", false),
        ("./a", "a", true),
        ("a/", "a", true),
        ("a//b", "a/b", true),
        ("a/./b", "a/b", true),
        ("a/../b", "b", true),
        (".", "a", false),
        ("..", "a", false),
        // One name.
        ("*", "a", true),
        ("*", ".a", true),
        ("*", "a/b", true),
        ("*.go", "a.go", true),
        ("*.go", ".go", true),
        ("*.go", "a.gox", false),
        ("*.go", "d/a.go", false),
        ("a*", "abc", true),
        ("a*", "a", true),
        ("a*", "ba", false),
        ("a*c", "abc", true),
        ("a*c", "abd", false),
        ("a*/b", "abc/b", true),
        ("a*/b", "a/b/c/b", true),
        ("a*/b", "a/c/b", false),
        ("*a*b*c*", "xaxbxcx", true),
        ("*a*b*c*", "xaxcxbx", false),
        ("a/*", "a", false),
        ("a/*", "a/b", true),
        ("a/*", "a/b/c", true),
        ("*/b", "a/b", true),
        ("*/b", "b", false),
        ("*/*", "a", false),
        ("*/*", "a/b", true),
        ("?", "a", true),
        ("?", "ab", false),
        ("?", "ä", true),
        ("a?c", "abc", true),
        ("a?c", "a/c", false),
        ("??", "é!", true),
        // Classes.
        ("[abc]", "b", true),
        ("[abc]", "d", false),
        ("[a-c]x", "bx", true),
        ("[^a-c]x", "bx", false),
        ("[^a-c]x", "dx", true),
        ("[!a]", "!", true),
        ("[!a]", "b", false),
        ("a[b-d]e", "ace", true),
        ("a[b-d]e", "aae", false),
        ("[\\]a]", "]", true),
        ("[\\-]", "-", true),
        ("[x\\-]", "-", true),
        ("[c-a]", "b", false),
        ("]", "]", true),
        ("[日本]x", "本x", true),
        // Escapes.
        ("\\*", "*", true),
        ("\\*", "a", false),
        ("a\\*b", "a*b", true),
        ("\\?", "?", true),
        ("\\[a", "[a", true),
        ("a\\\\b", "a\\b", true),
        // Any depth.
        ("**", "a", true),
        ("**", "a/b/c", true),
        ("**/", "a/b", true),
        ("**/a", "a", true),
        ("**/a", "b/a", true),
        ("**/a", "b/c/a", true),
        ("**/a", "ba", false),
        ("**/a", "b/a/c", true),
        ("**/a/b", "x/a/b", true),
        ("**/a/b", "a/x/b", false),
        ("**/*.go", "a.go", true),
        ("**/*.go", "x/y/a.go", true),
        ("**/*.go", "a.gox", false),
        ("**/.git", "x/.git/config", true),
        ("a/**", "a", false),
        ("a/**", "a/b", true),
        ("a/**", "a/b/c", true),
        ("a/**", "ab", false),
        ("a**", "abc", true),
        ("a**", "ab/c", true),
        ("a/**/b", "a/b", true),
        ("a/**/b", "a/x/b", true),
        ("a/**/b", "a/x/y/b", true),
        ("a/**/b", "a/xb", false),
        ("a**/*.x", "ab/c.x", true),
        ("**/a/**/b", "x/a/y/z/b", true),
        ("**/a/**", "x/a", false),
        ("**/a/**", "x/a/y", true),
        ("**a", "ba", true),
        ("**a", "x/ba", true),
        ("a/**/*", "a/b", true),
        ("a?/**", "ab/c", true),
        ("a?/**", "ab", false),
        // What other languages give a meaning.
        ("a.b", "axb", false),
        ("a+b", "a+b", true),
        ("a+b", "aab", false),
        ("(a)", "(a)", true),
        ("a|b", "a", false),
        ("a$", "a$", true),
        ("^a", "^a", true),
        ("{a,b}", "a", false),
        ("{a,b}", "{a,b}", true),
        ("*.{a}", "x.{a}", true),
        ("a b", "a b", true),
    ];
    for (pattern, path, expected) in cases {
        let patterns = Patterns::new(&[pattern]).unwrap();
        assert_eq!(patterns.matches(path.as_bytes()), *expected, "`{pattern}` and `{path}`");
    }
}

/// Lists of lines: what is left out, and by which line.
#[test]
fn the_last_line_that_matches_wins() {
    let cases: &[(&str, &str, Option<usize>)] = &[
        ("*|!a", "a", None),
        ("*|!a", "b", Some(0)),
        ("*|!a/b", "a/b", None),
        ("*|!a/b", "a", Some(0)),
        ("*|!a/b", "a/c", Some(0)),
        ("!a|a", "a", Some(1)),
        ("!a|*", "a", Some(1)),
        ("a|!a/b|a/b/c", "a/b/x", None),
        ("a|!a/b|a/b/c", "a/b/c/d", Some(2)),
        ("*.md|!README.md", "README.md", None),
        ("*.md|!README.md|README*", "README.md", Some(2)),
        ("a|a", "a", Some(0)),
        ("a|!a|a", "a", Some(2)),
        ("**/*.o|!keep/**", "keep/a.o", None),
        ("**/*.o|!keep/**", "x/a.o", Some(0)),
        ("a/*|!a/b", "a/b/c", None),
        ("a|!**/b", "a/x/b", None),
        ("  a  ||!b", "a", Some(0)),
        ("", "a", None),
    ];
    for (lines, path, expected) in cases {
        let lines: Vec<&str> = lines.split('|').collect();
        let patterns = Patterns::new(&lines).unwrap();
        let found = patterns.matched_by(path.as_bytes());
        assert_eq!(found.map(|(position, _)| position), *expected, "{lines:?} and `{path}`");
        assert!(found.is_none_or(|(position, text)| lines[position].trim() == text));
    }
}

#[test]
fn a_directory_that_can_hold_nothing_is_not_entered() {
    // Lines, an excluded directory, whether something in it may be taken back.
    for (lines, dir, expected) in [
        ("a", "a", false),
        ("a|!a/b", "a", true),
        ("a|!b", "a", false),
        ("!a/b|a", "a", false),
        ("*|!a/b/c", "a", true),
        ("*|!a/b/c", "a/b", true),
        ("*|!a/b/c", "a/x", false),
        ("*|!*.md", "a", false),
        ("*|!*/x.md", "a", true),
        ("*|!*/x.md", "a/b", false),
        ("*|!**/x", "a/b", true),
        ("*|!a/**", "a", true),
        ("*|!a/**", "b", false),
        ("*|!a?/x", "ab", true),
        ("*|!a?/x", "cb", false),
        ("*|!a", "ab", false),
    ] {
        let patterns = Patterns::new(&lines.split('|').collect::<Vec<_>>()).unwrap();
        assert!(patterns.matches(dir.as_bytes()), "{lines} `{dir}`");
        let marks = patterns.marks_of(dir.as_bytes());
        assert_eq!(patterns.may_take_back_beneath(dir.as_bytes(), &marks), expected, "{lines} `{dir}`");
    }
}

#[test]
fn malformed_patterns_are_refused() {
    for pattern in
        ["[", "[a", "[]", "[]a]", "[-]", "[x-]", "[-x]", "a\\", "[a\\", "[^", "[^]", "[a-", "!", "![", "**/["]
    {
        assert!(Patterns::new(&[pattern]).is_err(), "{pattern}");
    }
}

#[test]
fn wildcards_of_copy_are_those_of_go() {
    for (pattern, name, expected) in [
        ("*.txt", "a.txt", true),
        ("**", "a", true),
        ("**/a", "b/a", true),
        ("**/a", "a", false),
        ("*", "a/b", false),
        ("a\\*", "a*", true),
        ("[a-c]*", "bcd", true),
        ("?\u{fffd}", "a\u{fffd}", true),
    ] {
        let glob = Glob::new(pattern, Dialect::Match).unwrap();
        assert_eq!(glob.matches(name.as_bytes()), expected, "{pattern} {name}");
    }
    // A byte that is no UTF-8 is one letter.
    assert!(Glob::new("a?b", Dialect::Match).unwrap().matches(b"a\xffb"));
    assert!(Glob::new("a*", Dialect::Match).unwrap().matches(b"a\xff\xfe"));
    for (text, expected) in [("a", false), ("a\\*", false), ("a*", true), ("a?", true), ("[a]", true), ("\\[a]", false)]
    {
        assert_eq!(has_wildcard(text), expected, "{text}");
    }
}

#[test]
fn no_pattern_takes_longer_than_pattern_times_path() {
    let pattern = "*a".repeat(2000) + "b";
    let patterns = Patterns::new(&[pattern.as_str(), &"**/x*".repeat(500)]).unwrap();
    assert!(!patterns.matches("a".repeat(4000).as_bytes()));
}

#[test]
fn paths_are_cleaned_as_go_does() {
    for (path, expected) in [
        ("", "."),
        (".", "."),
        ("a//b/./c/..", "a/b"),
        ("/..", "/"),
        ("/a/../..", "/"),
        ("../a", "../a"),
        ("a/../..", ".."),
        ("a/", "a"),
        ("/", "/"),
    ] {
        assert_eq!(clean(path), expected, "{path}");
    }
}
