//! Failures and warnings as people see them: what, where, what to do.
//!
//! In come [`Problem`]s, out comes text in the style of rustc. All of it that others wrote is escaped first.
//! Deliberately absent: deciding what is said (the engine does) and exit codes (`main`).

use std::io::Write as _;
use std::ops::Range;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet as Source};

use crate::engine::{Failure, Problem, Snippet};
use crate::escape;

/// How text is laid out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Whether colours are used.
    pub color: bool,
}

/// All problems of a failure, each ended by a line break, with a blank line between two.
pub fn failure(failure: &Failure, style: Style) -> String {
    failure.problems.iter().map(|each| problem(Level::ERROR, each, style)).collect::<Vec<_>>().join("\n")
}

/// One warning, ended by a line break.
pub fn warning(warning: &Problem, style: Style) -> String {
    problem(Level::WARNING, warning, style)
}

/// One line of information, ended by a line break.
pub fn note(text: &str, style: Style) -> String {
    let problem = Problem { message: text.into(), snippet: None, notes: Vec::new(), help: None };
    self::problem(Level::NOTE, &problem, style)
}

/// Writes to standard error.
pub fn print(text: &str) {
    // Nobody is left to tell when standard error is gone; the exit code still speaks.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

fn problem(level: Level<'static>, problem: &Problem, style: Style) -> String {
    let mut main = Group::with_title(level.primary_title(escape::lines(&problem.message).into_owned()));
    if let Some(snippet) = &problem.snippet {
        main = main.element(source(snippet));
    }
    main = main.elements(problem.notes.iter().map(|note| Level::NOTE.message(escape::lines(note).into_owned())));
    let renderer = if style.color { Renderer::styled() } else { Renderer::plain() };
    let mut text = renderer.render(&[main]) + "\n";
    if let Some(help) = &problem.help {
        // Rendered on its own: one report with two groups would have a bare `|` between them.
        let help = Group::with_title(Level::HELP.primary_title(escape::lines(help).into_owned()));
        text = text + &renderer.render(&[help]) + "\n";
    }
    text
}

fn source(snippet: &Snippet) -> Source<'static, annotate_snippets::Annotation<'static>> {
    let (text, span) = visible_source(&snippet.text, &snippet.span);
    let mut annotation = AnnotationKind::Primary.span(span);
    if !snippet.label.is_empty() {
        annotation = annotation.label(escape::line(&snippet.label).into_owned());
    }
    Source::source(text).path(escape::line(&snippet.file).into_owned()).annotation(annotation)
}

/// The text with everything escaped that drives a terminal, and the span moved along. A span beyond the text is cut,
/// and one that splits a character is widened: a wrong span must not hide the message.
fn visible_source(text: &str, span: &Range<usize>) -> (String, Range<usize>) {
    let mut out = String::with_capacity(text.len());
    let (mut start, mut end) = (None, None);
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if start.is_none() && at + c.len_utf8() > span.start {
            start = Some(out.len());
        }
        if end.is_none() && at >= span.end {
            end = Some(out.len());
        }
        match c {
            '\r' if chars.peek().is_some_and(|(_, next)| *next == '\n') => {}
            c if escape::drives(c) => escape::push(c, &mut out),
            c => out.push(c),
        }
    }
    let start = start.unwrap_or(out.len());
    let end = end.unwrap_or(out.len()).max(start);
    (out, start..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(message: &str, text: &str, meant: &str) -> Problem {
        let at = text.find(meant).expect("the case names what is in its text");
        let snippet =
            Snippet { file: "Dockerfile".into(), text: text.into(), span: at..at + meant.len(), label: String::new() };
        Problem { message: message.into(), snippet: Some(snippet), notes: Vec::new(), help: None }
    }

    fn failure_of(problems: Vec<Problem>) -> String {
        failure(&Failure { kind: crate::engine::FailureKind::Build, problems }, Style::default())
    }

    #[test]
    fn a_failure_says_what_where_and_what_to_do() {
        let mut unknown = problem("unknown instruction `COYP`", "FROM a\n\nCOYP app /app\n", "COYP");
        unknown.help = Some("did you mean `COPY`?".into());
        unknown.notes.push("the Dockerfile reference lists all instructions".into());
        insta::assert_snapshot!(failure_of(vec![unknown]), @"
        error: unknown instruction `COYP`
         --> Dockerfile:3:1
          |
        3 | COYP app /app
          | ^^^^
          |
          = note: the Dockerfile reference lists all instructions
        help: did you mean `COPY`?
        ");
    }

    #[test]
    fn several_problems_come_one_after_the_other() {
        let text = "FROM a AS b\nRUN --mount x\nCOPY --from=c /x /y\n";
        let mut labelled = problem("stage `c` does not exist", text, "c /x");
        if let Some(snippet) = &mut labelled.snippet {
            snippet.span.end = snippet.span.start + 1;
            snippet.label = "no stage before this line has that name".into();
        }
        insta::assert_snapshot!(failure_of(vec![problem("`--mount` has no value", text, "--mount"), labelled]), @"
        error: `--mount` has no value
         --> Dockerfile:2:5
          |
        2 | RUN --mount x
          |     ^^^^^^^

        error: stage `c` does not exist
         --> Dockerfile:3:13
          |
        3 | COPY --from=c /x /y
          |             ^ no stage before this line has that name
        ");
    }

    #[test]
    fn foreign_text_cannot_drive_the_terminal() {
        let mut hostile = problem("no \x1b[2Jfile", "FROM a\r\nCOPY \u{9b}2J\u{202e}x /\r\n", "x");
        hostile.notes.push("the registry said: \x1b]0;owned\x07\nsecond line".into());
        let text = failure_of(vec![hostile]);
        assert!(!text.contains(escape::drives), "{text:?}");
        insta::assert_snapshot!(text, @r"
        error: no \x1b[2Jfile
         --> Dockerfile:2:20
          |
        2 | COPY \x9b2J\u{202e}x /
          |                    ^
          |
          = note: the registry said: \x1b]0;owned\x07
                  second line
        ");
    }

    #[test]
    fn spans_that_point_nowhere_still_show_the_message() {
        for span in [0..0, 3..3, 5..900, 900..901, 8..9] {
            let snippet =
                Snippet { file: "f".into(), text: "FROM ü\n".into(), span: span.clone(), label: String::new() };
            let problem = Problem { message: "bad".into(), snippet: Some(snippet), notes: Vec::new(), help: None };
            assert!(failure_of(vec![problem]).starts_with("error: bad\n"), "{span:?}");
        }
    }

    #[test]
    fn colours_come_only_when_asked() {
        let failure = Failure::new("x").help("y");
        assert!(!super::failure(&failure, Style { color: false }).contains('\x1b'));
        assert!(super::failure(&failure, Style { color: true }).contains('\x1b'));
    }
}
