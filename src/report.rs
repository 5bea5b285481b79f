//! Failures and warnings as people see them: what, where, what to do.
//!
//! In come [`Problem`]s, out comes text in the style of rustc. All of it that others wrote is escaped first.
//! [`github`], [`sarif`] and [`buildkit`] write the same for programs, [`diff`] what was changed, [`call`] what a Dockerfile
//! was asked. Deliberately absent: deciding what is said (the engine does) and exit codes (`main`).

pub mod buildkit;
pub mod call;
pub mod diff;
pub mod github;
pub mod place;
pub mod sarif;
pub mod table;

mod source;

use std::io::Write as _;
use std::os::fd::AsFd;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet as Source};

use self::source::Lines;
use crate::engine::{Failure, Problem};
use crate::escape;

/// How text is laid out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style {
    /// Whether colours are used.
    pub color: bool,
    /// Characters in a line, where it is known: longer lines of a text are cut around the place that is meant.
    pub columns: Option<usize>,
}

impl Style {
    /// For that stream: as wide as it is, if it is a terminal.
    pub fn of(stream: impl AsFd, color: bool) -> Self {
        let size = rustix::termios::tcgetwinsize(stream).ok();
        Self { color, columns: size.map(|size| size.ws_col.into()).filter(|columns| *columns > 0) }
    }
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It failed.
    Error,
    /// It went on.
    Warning,
}

impl From<frontend::Severity> for Severity {
    fn from(severity: frontend::Severity) -> Self {
        match severity {
            frontend::Severity::Error => Self::Error,
            frontend::Severity::Warning => Self::Warning,
        }
    }
}

/// Writes problems, one after the other.
#[derive(Debug)]
pub struct Reporter {
    style: Style,
    lines: Lines,
}

impl Reporter {
    /// In that style.
    pub fn new(style: Style) -> Self {
        Self { style, lines: Lines::default() }
    }

    /// A problem, ended by a line break.
    pub fn problem(&mut self, severity: Severity, problem: &Problem) -> String {
        let level = match severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        self.write(level, problem)
    }

    /// A fact that is neither, ended by a line break.
    pub fn note(&mut self, problem: &Problem) -> String {
        self.write(Level::NOTE, problem)
    }

    fn write(&mut self, level: Level<'static>, problem: &Problem) -> String {
        let columns = self.style.columns.unwrap_or(COLUMNS).max(COLUMNS_MIN);
        let mut title = level.primary_title(escape::lines(&problem.message).into_owned());
        if let Some(rule) = problem.rule {
            title = title.id(rule.name());
        }
        let mut main = Group::with_title(title);
        let mut places = None;
        if let Some(snippet) = &problem.snippet {
            let shown = self.lines.show(snippet, columns - MARGIN_COLUMNS);
            let path = escape::line(&snippet.file).into_owned();
            let place = |column: usize| format!("{path}:{}:{column}", shown.line);
            places = Some((place(shown.shown_column()), place(shown.column)));
            let mut annotation = AnnotationKind::Primary.span(shown.span);
            if !snippet.label.is_empty() {
                annotation = annotation.label(escape::line(&snippet.label).into_owned());
            }
            main = main.element(Source::source(shown.text).path(path).line_start(shown.line).annotation(annotation));
        }
        main = main.elements(problem.notes.iter().map(|note| Level::NOTE.message(escape::lines(note).into_owned())));
        let renderer = if self.style.color { Renderer::styled() } else { Renderer::plain() };
        let renderer = renderer.term_width(columns);
        let mut text = renderer.render(&[main]) + "\n";
        if let Some((shown, meant)) = places.filter(|(shown, meant)| shown != meant) {
            // The renderer counts in the lines that it got; these are escaped, and may be cut.
            text = text.replacen(&shown, &meant, 1);
        }
        if let Some(help) = &problem.help {
            // Rendered on its own: one report with two groups would have a bare `|` between them.
            let help = Group::with_title(Level::HELP.primary_title(escape::lines(help).into_owned()));
            text = text + &renderer.render(&[help]) + "\n";
        }
        text
    }
}

/// Where the width is not known: in a log, say.
const COLUMNS: usize = 140;
/// Less cannot hold a line number and a few words.
const COLUMNS_MIN: usize = 40;
/// What stands in front of a line: its number and the bracket of a place of several lines.
const MARGIN_COLUMNS: usize = 12;

/// All problems of a failure, each ended by a line break, with a blank line between two.
pub fn failure(failure: &Failure, style: Style) -> String {
    let mut reporter = Reporter::new(style);
    let problems: Vec<_> = failure.problems.iter().map(|each| reporter.problem(Severity::Error, each)).collect();
    problems.join("\n")
}

/// One line of information, ended by a line break.
pub fn note(text: &str, style: Style) -> String {
    Reporter::new(style).note(&Problem::new(text))
}

/// A value in its written form.
fn written(value: &serde_json::Value) -> Box<serde_json::value::RawValue> {
    serde_json::value::to_raw_value(value).expect("a JSON value is always JSON")
}

/// Writes to standard error.
pub fn print(text: &str) {
    // Nobody is left to tell when standard error is gone; the exit code still speaks.
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::engine::Snippet;

    fn at(text: &str, span: Range<usize>) -> Option<Snippet> {
        Some(Snippet { file: "Dockerfile".into(), path: None, text: text.into(), span, label: String::new() })
    }

    fn problem(message: &str, text: &str, meant: &str) -> Problem {
        let start = text.find(meant).expect("the case names what is in its text");
        Problem { snippet: at(text, start..start + meant.len()), ..Problem::new(message) }
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
         --> Dockerfile:2:10
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
            let problem = Problem { snippet: at("FROM ü\n", span.clone()), ..Problem::new("bad") };
            assert!(failure_of(vec![problem]).starts_with("error: bad\n"), "{span:?}");
        }
    }

    #[test]
    fn findings_of_rules_say_which() {
        let mut found = problem("the form `ENV name value` is deprecated", "FROM a\nENV A b\n", "A b");
        found.rule = Some(frontend::lint::Rule::LegacyKeyValueFormat);
        found.notes = vec!["one".into(), "two\nlines".into()];
        found.help = Some("write `ENV A=b`".into());
        insta::assert_snapshot!(Reporter::new(Style::default()).problem(Severity::Warning, &found), @"
        warning[LegacyKeyValueFormat]: the form `ENV name value` is deprecated
         --> Dockerfile:2:5
          |
        2 | ENV A b
          |     ^^^
          |
          = note: one
          = note: two
                  lines
        help: write `ENV A=b`
        ");
    }

    #[test]
    fn places_of_several_lines_are_shown_whole_or_folded() {
        let text = "FROM a\r\nRUN <<EOF\r\n\tone\r\ntwo\r\nEOF\r\n";
        let mut found = problem("this failed", text, "RUN <<EOF\r\n\tone\r\ntwo\r\nEOF\r\n");
        insta::assert_snapshot!(failure_of(vec![found.clone()]), @"
        error: this failed
         --> Dockerfile:2:1
          |
        2 | / RUN <<EOF
        3 | |     one
        4 | | two
        5 | | EOF
          | |___^
        ");
        let text = format!("FROM a\nRUN \\\n{}true\n", "  one && \\\n".repeat(50));
        found.snippet = at(&text, 7..text.len());
        insta::assert_snapshot!(failure_of(vec![found]), @r"
        error: this failed
          --> Dockerfile:2:1
           |
         2 | / RUN \
         3 | |   one && \
         4 | |   one && \
         5 | |   one && \
        ...  |
        52 | |   one && \
        53 | | true
           | |____^
        ");
    }

    #[test]
    fn wide_characters_and_tabs_are_underlined_where_they_are() {
        let text = "\u{feff}RUN\t表表 \t$X é\n";
        insta::assert_snapshot!(failure_of(vec![problem("unknown", text, "$X"), problem("wide", text, "表表")]), @"
        error: unknown
         --> Dockerfile:1:9
          |
        1 | RUN    表表     $X é
          |                 ^^

        error: wide
         --> Dockerfile:1:5
          |
        1 | RUN    表表     $X é
          |        ^^^^
        ");
    }

    #[test]
    fn long_lines_are_cut_around_the_place() {
        let text = format!("FROM a\nRUN {}$X{}\n", "x ".repeat(400_000), " y".repeat(400_000));
        let style = Style { color: false, columns: Some(80) };
        let shown = Reporter::new(style).problem(Severity::Error, &problem("unknown", &text, "$X"));
        assert!(shown.lines().all(|line| line.chars().count() <= 80), "{shown}");
        insta::assert_snapshot!(shown, @"
        error: unknown
         --> Dockerfile:2:800005
          |
        2 | ...x x x x x x x x x x x x x x x x x $X y y y y y y y y y y y y y y y y y...
          |                                      ^^
        ");
        let all = Reporter::new(style).problem(Severity::Error, &problem("long", &text, text.trim_end()));
        assert!(all.lines().all(|line| line.chars().count() <= 80), "{all}");
        insta::assert_snapshot!(all, @"
        error: long
         --> Dockerfile:1:1
          |
        1 | / FROM a
        2 | | RUN x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x x…
          | |____________________________________________________________________^
        ");
    }

    #[test]
    fn colours_come_only_when_asked() {
        let failure = Failure::new("x").help("y");
        assert!(!super::failure(&failure, Style { color: false, columns: None }).contains('\x1b'));
        assert!(super::failure(&failure, Style { color: true, columns: None }).contains('\x1b'));
    }
}
