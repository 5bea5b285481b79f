//! Annotations of GitHub Actions: lines that the runner shows beside the code.
//!
//! In come problems, out come `::warning file=…,line=…::…`; see "Workflow commands for GitHub Actions". Columns count
//! characters from 1, and the end is behind the last. All text of others is escaped: it can begin no command.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::Severity;
use super::place::Places;
use crate::engine::Problem;
use crate::escape;

/// The runner shows so many of a kind for a step, and passes over the rest.
pub const SHOWN_MAX: usize = 10;

/// One annotation a problem. `file_of` says what the runner calls a file.
pub fn annotations<'a>(
    problems: impl IntoIterator<Item = (Severity, &'a Problem)>,
    file_of: impl Fn(&Path) -> PathBuf,
) -> String {
    let mut out = String::new();
    let mut places: Option<Places<'a>> = None;
    let mut text: Option<&'a str> = None;
    for (severity, problem) in problems {
        let kind = match severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let mut properties = Vec::new();
        if let Some(snippet) = &problem.snippet {
            if !text.is_some_and(|known| std::ptr::eq(known, &*snippet.text)) {
                text = Some(&snippet.text);
                places = None;
            }
            let (start, end) = places.get_or_insert_with(|| Places::new(&snippet.text)).range(&snippet.span);
            let file = snippet.path.as_deref().map(&file_of).unwrap_or_else(|| PathBuf::from(&snippet.file));
            properties.push(format!("file={}", property(&file.to_string_lossy())));
            properties.push(format!("line={},endLine={}", start.line, end.line));
            // Columns of several lines have no meaning there.
            if start.line == end.line {
                properties.push(format!("col={},endColumn={}", start.character + 1, end.character + 1));
            }
        }
        properties.extend(problem.rule.map(|rule| format!("title={}", rule.name())));
        let mut message = problem.message.clone();
        for note in &problem.notes {
            write!(message, "\n{note}").expect("writing to a String cannot fail");
        }
        if let Some(help) = &problem.help {
            write!(message, "\nhelp: {help}").expect("writing to a String cannot fail");
        }
        let blank = if properties.is_empty() { "" } else { " " };
        writeln!(out, "::{kind}{blank}{}::{}", properties.join(","), data(&message))
            .expect("writing to a String cannot fail");
    }
    out
}

/// What stands behind the second `::`.
fn data(text: &str) -> String {
    escape::lines(text).replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// What stands behind an `=`.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
