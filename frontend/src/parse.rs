//! From lines to statements.
//!
//! In comes the text, out come an [`Ast`] and every fault of form, each with its place. A line that cannot be read is
//! left out and the next one is tried. Linear in the text; never panics. Next: [`crate::instr`] gives statements
//! their meaning.

use std::rc::Rc;

use crate::ast::{Ast, Flag, Keyword, Statement};
use crate::error::Diagnostic;
use crate::heredoc;
use crate::json::{self, Json};
use crate::lines::{Line, Lines};
use crate::lint::{self, Rule};
use crate::meter;
use crate::span::{Span, Word};
use crate::suggest;
use crate::words;

/// Parses a Dockerfile.
pub fn parse(text: &str) -> (Ast, Vec<Diagnostic>) {
    let mut found = Vec::new();
    let mut lines = Lines::new(text);
    let directives = lines.directives(&mut found);
    let escape = lines.escape();
    let mut statements = Vec::new();
    while let Some(line) = lines.next_line() {
        found.extend(lint::empty_continuation(text, &line));
        if line.text.trim().is_empty() {
            continue;
        }
        statements.extend(statement(Rc::new(line), 0, true, &mut lines, &mut found));
    }
    (Ast { directives, escape, statements }, found)
}

/// Reads the statement that starts at `start` of a line, and the bodies of its here-documents.
fn statement(
    line: Rc<Line>,
    start: usize,
    outermost: bool,
    lines: &mut Lines<'_>,
    found: &mut Vec<Diagnostic>,
) -> Option<Statement> {
    let (word, rest) = words::first_field(&line.text[start..]);
    let start = start + word.start;
    let keyword_word = line.word(start..start + word.len());
    let Some(keyword) = Keyword::parse(&keyword_word.text) else {
        let nearest = suggest::nearest(&keyword_word.text, Keyword::ALL.map(Keyword::name));
        let help = match nearest {
            Some(name) => format!("did you mean `{name}`?"),
            None => {
                "instructions start a line; a longer command needs `\\` at the end of each line but the last".into()
            }
        };
        let shown: String = keyword_word.text.chars().take(60).collect();
        found.push(
            Diagnostic::error(keyword_word.span, format!("unknown instruction `{shown}`"), "not an instruction")
                .help(help),
        );
        // Do not read the body of what is probably a misspelt RUN or COPY as instructions.
        if nearest.and_then(Keyword::parse).is_some_and(Keyword::takes_heredocs) {
            bodies(&line, &mut Vec::new(), lines, found);
        }
        return None;
    };
    // `first_field` counted from the keyword's start on.
    let rest = start - word.start + rest;
    let (flags, arguments_start) = flags(&line, rest);
    let trimmed = line.text[arguments_start..].trim_end().len();
    let arguments = arguments_start..arguments_start + trimmed;
    let json = match keyword {
        Keyword::Add
        | Keyword::Copy
        | Keyword::Cmd
        | Keyword::Entrypoint
        | Keyword::Run
        | Keyword::Shell
        | Keyword::Volume => json::parse(&line, arguments.clone()),
        _ => Json::No,
    };
    if json == Json::No {
        found.extend(nearly_json(&line, keyword, arguments.clone()));
    }
    let mut statement =
        Statement { keyword, keyword_word, flags, line, start, arguments, json, heredocs: Vec::new(), trigger: None };
    if keyword == Keyword::Onbuild {
        trigger(&mut statement, outermost, lines, found);
    } else if keyword.takes_heredocs() && statement.json == Json::No {
        bodies(&statement.line, &mut statement.heredocs, lines, found);
    }
    Some(statement)
}

/// A warning for what was probably meant as JSON: `CMD ['a']`, `CMD ["a",]`. After RUN, `[ "$a" = b ]` is a command of
/// its own; only a quote right behind the bracket is suspicious there.
fn nearly_json(line: &Line, keyword: Keyword, arguments: std::ops::Range<usize>) -> Option<Diagnostic> {
    let takes_json = matches!(
        keyword,
        Keyword::Add | Keyword::Copy | Keyword::Cmd | Keyword::Entrypoint | Keyword::Run | Keyword::Volume
    );
    let inner = line.text[arguments.clone()].strip_prefix('[')?;
    let inner = if keyword == Keyword::Run { inner } else { inner.trim_start() };
    if !takes_json || !inner.starts_with(['"', '\'']) || !inner.ends_with(']') {
        return None;
    }
    let message = "this looks like a list in JSON form, but is none";
    let label = if matches!(keyword, Keyword::Cmd | Keyword::Entrypoint | Keyword::Run) {
        "a shell gets it as it is"
    } else {
        "its words are taken as paths, brackets included"
    };
    let help = "put every word in double quotes, with commas between them and none at the end";
    let warning = Diagnostic::warning(line.span(arguments), message, label).help(help);
    // Of RUN and paths no rule speaks.
    let recommended = matches!(keyword, Keyword::Cmd | Keyword::Entrypoint);
    Some(if recommended { warning.rule(Rule::JSONArgsRecommended) } else { warning })
}

/// Reads what follows ONBUILD. One level only: a trigger is no ONBUILD.
fn trigger(statement: &mut Statement, outermost: bool, lines: &mut Lines<'_>, found: &mut Vec<Diagnostic>) {
    if statement.arguments.is_empty() {
        found.push(
            Diagnostic::error(statement.keyword_word.span, "ONBUILD needs an instruction", "nothing follows")
                .help("write `ONBUILD RUN make`"),
        );
        return;
    }
    let (word, _) = words::first_field(statement.text());
    let word = statement.word(word);
    let refused = match Keyword::parse(&word.text) {
        Some(Keyword::Onbuild) => Some("triggers cannot be chained"),
        Some(Keyword::From | Keyword::Maintainer) => Some("not allowed as a trigger"),
        _ if !outermost => Some("triggers cannot be chained"),
        _ => None,
    };
    if let Some(reason) = refused {
        let message = format!("{} cannot be an ONBUILD trigger", word.text.to_ascii_uppercase());
        found.push(
            Diagnostic::error(word.span, message, reason)
                .help("any instruction but ONBUILD, FROM and MAINTAINER can be"),
        );
        return;
    }
    let inner = self::statement(statement.line.clone(), statement.arguments.start, false, lines, found);
    statement.heredocs = inner.as_ref().map(|inner| inner.heredocs.clone()).unwrap_or_default();
    statement.trigger = inner.map(Box::new);
}

fn bodies(line: &Line, into: &mut Vec<heredoc::Heredoc>, lines: &mut Lines<'_>, found: &mut Vec<Diagnostic>) {
    for opening in heredoc::openings(&line.text) {
        match lines.heredoc(&opening.name, opening.strip_tabs) {
            Some(span) => into.push(opening.with_body(lines.slice(span), span)),
            None => {
                let at = line.text.find("<<").unwrap_or(0);
                let shown: String = opening.name.chars().take(60).collect();
                let message = format!("the here-document `{shown}` does not end");
                let label = "starts here";
                let help = format!("write `{shown}` alone on a line, without blanks around it, after its last line");
                found.push(Diagnostic::error(line.span(at..line.text.trim_end().len()), message, label).help(help));
                return;
            }
        }
    }
}

/// Reads flags off the front; returns them and where the arguments start.
fn flags(line: &Line, start: usize) -> (Vec<Flag>, usize) {
    let text = &line.text;
    let mut flags = Vec::new();
    let mut pos = start;
    loop {
        pos += text[pos..].len() - text[pos..].trim_start().len();
        if !text[pos..].starts_with("--") {
            return (flags, pos);
        }
        let (value, runs, end) = unquoted(text, pos);
        meter::tick(end - pos);
        if value == "--" {
            let rest = &text[end..];
            return (flags, end + (rest.len() - rest.trim_start().len()));
        }
        let span = line.span(pos..end);
        let place = |index: usize| {
            // Every byte of the value belongs to a run.
            let run = runs[..runs.partition_point(|(at, _)| *at <= index)].last();
            run.filter(|_| index < value.len()).map_or(span.end, |(at, source)| line.source(source + index - at))
        };
        let (name, text_value) = match value[2..].split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (&value[2..], None),
        };
        let name_end = 2 + name.len();
        let value_map: Vec<usize> = match text_value {
            Some(_) if name == "mount" => (name_end + 1..=value.len()).map(place).collect(),
            _ => Vec::new(),
        };
        flags.push(Flag {
            name: Word { text: name.to_owned(), span: Span::new(span.start, place(name_end)) },
            value: text_value.map(|text| Word {
                text: text.to_owned(),
                span: Span::new(place(name_end + 1).min(span.end), span.end),
            }),
            value_map,
            span,
        });
        pos = end;
    }
}

/// The word at `start` up to an unquoted blank: its text without quotes and escapes, where that came from (runs of
/// bytes: offset in the value, offset in the text), and the word's end. The escape is always a backslash here, as
/// other builders have it.
fn unquoted(text: &str, start: usize) -> (String, Vec<(usize, usize)>, usize) {
    let mut value = String::new();
    let mut runs: Vec<(usize, usize)> = Vec::new();
    let mut quote: Option<char> = None;
    let mut chars = text[start..].char_indices();
    let mut end = text.len();
    while let Some((at, c)) = chars.next() {
        let mut taken = Some((at, c));
        match quote {
            _ if c == '\\' => taken = chars.next(),
            Some(open) if c == open => {
                quote = None;
                taken = None;
            }
            Some(_) => {}
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                taken = None;
            }
            None if c.is_whitespace() => {
                end = start + at;
                break;
            }
            None => {}
        }
        if let Some((at, c)) = taken {
            let from = start + at;
            if runs.last().is_none_or(|(index, source)| source + value.len() - index != from) {
                runs.push((value.len(), from));
            }
            value.push(c);
        }
    }
    (value, runs, end)
}
