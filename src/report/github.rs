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
const SHOWN_MAX: usize = 10;

/// Those that the runner shows, for where nobody asked for all: with a place, and not too many.
pub fn shown<'a>(
    problems: impl IntoIterator<Item = (Severity, &'a Problem)>,
) -> impl Iterator<Item = (Severity, &'a Problem)> {
    let (mut errors, mut warnings) = (0, 0);
    problems.into_iter().filter(|(_, problem)| problem.snippet.is_some()).filter(move |(severity, _)| {
        let count = if *severity == Severity::Error { &mut errors } else { &mut warnings };
        *count += 1;
        *count <= SHOWN_MAX
    })
}

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
    // A carriage return has become visible by then.
    escape::lines(text).replace('%', "%25").replace('\n', "%0A")
}

/// What stands behind an `=`.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Snippet;

    fn problem(message: &str, file: &str, text: &str, span: std::ops::Range<usize>) -> Problem {
        let snippet = Snippet { file: file.into(), path: None, text: text.into(), span, label: String::new() };
        Problem { snippet: Some(snippet), ..Problem::new(message) }
    }

    #[test]
    fn signs_of_the_runner_are_escaped() {
        let check = |problem: Problem, expected: &str| {
            assert_eq!(annotations([(Severity::Error, &problem)], Path::to_owned), format!("{expected}\n"));
        };
        check(problem("bad", "a", "x y", 2..3), "::error file=a,line=1,endLine=1,col=3,endColumn=4::bad");
        check(problem("bad", "a", "x\ny", 0..3), "::error file=a,line=1,endLine=2::bad");
        check(Problem::new("no place"), "::error::no place");
        check(
            problem("100%\r\n::add-mask::x", "a:b,c%\n::error::", "x", 0..1),
            "::error file=a%3Ab%2Cc%25%0A%3A%3Aerror%3A%3A,line=1,endLine=1,col=1,endColumn=2::100%25\\r%0A::add-mask::x",
        );
        check(
            Problem { help: Some("do".into()), notes: vec!["fact".into()], ..Problem::new("x") },
            "::error::x%0Afact%0Ahelp: do",
        );
    }

    #[test]
    fn only_so_many_are_written_as_are_shown() {
        let problem = problem("x", "f", "", 0..0);
        let general = Problem::new("x");
        let all = (0..30)
            .flat_map(|_| [(Severity::Error, &problem), (Severity::Warning, &problem), (Severity::Error, &general)]);
        let written: Vec<_> = shown(all).collect();
        assert_eq!(written.len(), 20);
        assert!(written.iter().all(|(_, problem)| problem.snippet.is_some()));
    }
}
