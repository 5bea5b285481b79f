//! `.dockerignore`: from text to the list of patterns.
//!
//! Only the reading is here. What a pattern matches is decided where files are: `executor::select`.

/// One pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IgnoreLine {
    /// The cleaned pattern: relative, no `.` or `..` inside, no slash at either end; `!` in front re-includes.
    pub pattern: String,
    /// The line it stands on, from 1.
    pub line: usize,
}

/// Reads an ignore file: blank lines and lines that start with `#` say nothing, blanks at both ends do not count, a
/// byte order mark is skipped.
pub fn parse_ignore(text: &str) -> Vec<IgnoreLine> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut patterns = Vec::new();
    for (index, line) in text.lines().enumerate() {
        // The comment sign counts only in the first column.
        if line.starts_with('#') {
            continue;
        }
        let pattern = line.trim();
        if pattern.is_empty() {
            continue;
        }
        let (sign, pattern) = match pattern.strip_prefix('!') {
            Some(rest) => ("!", rest.trim()),
            None => ("", pattern),
        };
        let mut cleaned = String::from(sign);
        if !pattern.is_empty() {
            let path = solver::pattern::clean(pattern);
            // A slash in front means the context's root, which is where patterns start anyway.
            cleaned.push_str(if path.len() > 1 { path.strip_prefix('/').unwrap_or(&path) } else { &path });
        }
        patterns.push(IgnoreLine { pattern: cleaned, line: index + 1 });
    }
    patterns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_cleaned_and_keep_their_lines() {
        let check = |text: &str, expected: &[(&str, usize)]| {
            let found: Vec<(String, usize)> = parse_ignore(text).into_iter().map(|l| (l.pattern, l.line)).collect();
            let found: Vec<(&str, usize)> = found.iter().map(|(p, l)| (p.as_str(), *l)).collect();
            assert_eq!(found, expected, "{text:?}");
        };
        check("", &[]);
        check("\n\n", &[]);
        check("a", &[("a", 1)]);
        check("a\nb\n", &[("a", 1), ("b", 2)]);
        check("a\r\nb\r\n", &[("a", 1), ("b", 2)]);
        check("\u{feff}a", &[("a", 1)]);
        check("\u{feff}# a\nb", &[("b", 2)]);
        check("# c\na", &[("a", 2)]);
        check(" # no comment", &[("# no comment", 1)]);
        check("a # b", &[("a # b", 1)]);
        check("  a  ", &[("a", 1)]);
        check("\t\n a", &[("a", 2)]);
        check("a/", &[("a", 1)]);
        check("/a", &[("a", 1)]);
        check("/a/b/", &[("a/b", 1)]);
        check("./a", &[("a", 1)]);
        check("a//b", &[("a/b", 1)]);
        check("a/./b", &[("a/b", 1)]);
        check("a/../b", &[("b", 1)]);
        check("../a", &[("../a", 1)]);
        check("/../a", &[("a", 1)]);
        check("a/..", &[(".", 1)]);
        check(".", &[(".", 1)]);
        check("/", &[("/", 1)]);
        check("!a", &[("!a", 1)]);
        check("! a", &[("!a", 1)]);
        check("!/a/", &[("!a", 1)]);
        check("!./a", &[("!a", 1)]);
        check("!", &[("!", 1)]);
        check("!!a", &[("!!a", 1)]);
        check("**", &[("**", 1)]);
        check("**/*.rs", &[("**/*.rs", 1)]);
        check("*\n!src", &[("*", 1), ("!src", 2)]);
        check("a\\ b", &[("a\\ b", 1)]);
        check("[a-z]/x", &[("[a-z]/x", 1)]);
        check("a b", &[("a b", 1)]);
        check("ä", &[("ä", 1)]);
        check("a\n\n\n#\nb", &[("a", 1), ("b", 5)]);
    }
}
