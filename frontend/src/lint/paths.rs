//! Paths: WorkdirRelativePath, CopyIgnoredFile.

use solver::pattern::glob::has_wildcard;
use solver::pattern::{Patterns, patterns};

use super::Rule;
use crate::error::{Diagnostic, Edit};
use crate::span::Word;

/// Patterns that leave nothing in the context.
const EVERYTHING: [&str; 3] = ["*", "**", "**/*"];

/// WorkdirRelativePath, for the first WORKDIR of a stage and those beneath it. `text` is the value, `dir` what it is
/// seen from when that is known: then the fix is the absolute path.
pub(crate) fn workdir(word: &Word, text: &str, dir: Option<&str>) -> Option<Diagnostic> {
    if text.is_empty() || text.starts_with('/') {
        return None;
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._/-+@".contains(&b);
    let shown: String = text.chars().take(60).collect();
    let absolute = dir.map(|dir| crate::lower::paths::join(dir, text));
    let fix = match &absolute {
        Some(path) if word.text == text && path.bytes().all(plain) => {
            vec![Edit { span: (word.span.start, word.span.end), replacement: path.clone() }]
        }
        _ => Vec::new(),
    };
    let help = match &absolute {
        Some(path) => format!("write `WORKDIR {path}`"),
        None => format!("write the whole path, for example `WORKDIR /{}`", shown.trim_start_matches("./")),
    };
    Some(
        Diagnostic::warning(word.span, format!("`{shown}` is relative to what the base image says"), "")
            .help(help)
            .rule(Rule::WorkdirRelativePath)
            .fix(fix),
    )
}

/// The ignore file, as far as it can be judged by: one that takes something back (`!`) cannot, since a directory may
/// be excluded and a file in it not.
#[derive(Debug, Default)]
pub(crate) struct Ignore<'a> {
    patterns: Patterns,
    lines: &'a [String],
}

impl<'a> Ignore<'a> {
    /// From the lines of an ignore file. One that is malformed says nothing here: whoever reads the context refuses it.
    pub fn new(lines: &'a [String]) -> Self {
        match Patterns::new(lines) {
            Ok(patterns) if !lines.iter().any(|line| line.trim_start().starts_with('!')) => Self { patterns, lines },
            _ => Self::default(),
        }
    }
}

/// CopyIgnoredFile. `text` is the value of a source in the main context.
pub(crate) fn ignored(word: &Word, text: &str, ignore: &Ignore<'_>) -> Option<Diagnostic> {
    let Ignore { patterns: ignore, lines } = ignore;
    if ignore.is_empty() {
        return None;
    }
    let path = patterns::clean(text);
    let path = path.trim_start_matches('/');
    let pattern = if matches!(path, "" | "." | "..") {
        lines.iter().map(|line| line.trim()).find(|line| EVERYTHING.contains(line))?
    } else if has_wildcard(path) {
        // A file that matches may be excluded or not; that all are is sure in two cases.
        let start = path.find(['*', '?', '[', '\\']).unwrap_or(path.len());
        let dir = path[..start].rsplit_once('/').map(|(dir, _)| dir);
        let above = dir.and_then(|dir| ignore.matched_by(dir.as_bytes())).map(|(_, pattern)| pattern);
        let same = || lines.iter().map(|line| line.trim()).find(|line| EVERYTHING.contains(line) || *line == path);
        above.or_else(same)?
    } else {
        ignore.matched_by(path.as_bytes())?.1
    };
    let shown: String = text.chars().take(60).collect();
    let pattern: String = pattern.chars().take(60).collect();
    Some(
        Diagnostic::warning(word.span, format!("`{shown}` is not in the build context"), "")
            .help(format!("the ignore file excludes it by `{pattern}`: take it back with a later line `!{shown}`"))
            .rule(Rule::CopyIgnoredFile),
    )
}
