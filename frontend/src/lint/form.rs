//! How instructions are written: NoEmptyContinuation, MaintainerDeprecated, LegacyKeyValueFormat, and what stands in a
//! stage twice: MultipleInstructionsDisallowed.

use super::Rule;
use crate::ast::{Keyword, Statement};
use crate::error::{Diagnostic, Edit};
use crate::expand::{Budget, Lookup, Rules, expand};
use crate::instr::{Instruction, KeyValue, Kind};
use crate::lines::Line;
use crate::meter;
use crate::span::Span;
use crate::stage::Stage;
use crate::words;

/// NoEmptyContinuation: one finding for a line, at the first of its empty lines.
pub(crate) fn empty_continuation(text: &str, line: &Line) -> Option<Diagnostic> {
    let first = *line.empty_continuations.first()?;
    let edits = line.empty_continuations.iter().map(|span| {
        let rest = &text[span.end..];
        let end = match rest.as_bytes() {
            [b'\r', b'\n', ..] => 2,
            [b'\n', ..] => 1,
            _ => 0,
        };
        Edit { span: (span.start, span.end + end), replacement: String::new() }
    });
    Some(
        Diagnostic::warning(first, "an empty line inside a continued instruction", "")
            .help("remove it: it is easily read as the end of the instruction")
            .rule(Rule::NoEmptyContinuation)
            .fix(edits.collect()),
    )
}

/// MaintainerDeprecated. No fix: a label makes another image.
pub(super) fn maintainer(statement: &Statement) -> Option<Diagnostic> {
    if statement.keyword != Keyword::Maintainer || statement.arguments.is_empty() {
        return None;
    }
    let name: String = statement.text().chars().take(80).collect();
    let name = name.replace(['"', '\\'], "");
    Some(
        Diagnostic::warning(statement.keyword_word.span, "MAINTAINER is deprecated", "")
            .help(format!("write `LABEL org.opencontainers.image.authors=\"{name}\"`"))
            .rule(Rule::MaintainerDeprecated),
    )
}

/// MultipleInstructionsDisallowed: at every one but the last, since these have no effect.
pub(super) fn only_once(stage: &Stage, found: &mut Vec<Diagnostic>) {
    let mut last: [Option<Span>; 3] = [None; 3];
    for command in &stage.commands {
        let (slot, name) = match &command.kind {
            Kind::Cmd(_) => (0, "CMD"),
            Kind::Entrypoint(_) => (1, "ENTRYPOINT"),
            Kind::Healthcheck(_) => (2, "HEALTHCHECK"),
            _ => continue,
        };
        if let Some(span) = last[slot].replace(Span::new(command.span.start, command.span.start + name.len())) {
            found.push(
                Diagnostic::warning(
                    span,
                    format!("this {name} has no effect"),
                    "a later one of this stage replaces it",
                )
                .help(format!("keep one {name} in each stage"))
                .rule(Rule::MultipleInstructionsDisallowed),
            );
        }
    }
}

/// LegacyKeyValueFormat.
pub(super) fn legacy_pairs(command: &Instruction, escape: char, found: &mut Vec<Diagnostic>) {
    let (pairs, keyword) = match &command.kind {
        Kind::Env(pairs) => (pairs, "ENV"),
        Kind::Label(pairs) => (pairs, "LABEL"),
        _ => return,
    };
    // The old form has one pair.
    let Some(pair) = pairs.first().filter(|pair| pair.legacy) else { return };
    let name: String = pair.key.text.chars().take(60).collect();
    found.push(
        Diagnostic::warning(pair.key.span, format!("the form `{keyword} name value` is deprecated"), "no `=` follows")
            .help(format!("write `{keyword} {name}=value`; a value with blanks needs quotes"))
            .rule(Rule::LegacyKeyValueFormat)
            .fix(pair_with_equals(pair, escape).unwrap_or_default()),
    );
}

/// Edits that turn `name value` into `name=value` so that the value stays equal; `None` when that is not sure.
fn pair_with_equals(pair: &KeyValue, escape: char) -> Option<Vec<Edit>> {
    let value = &pair.value;
    // With a continuation inside, places in the text are no places in the file.
    let whole = value.span.end - value.span.start == value.text.len();
    let blanks: Vec<usize> = unquoted_blanks(&value.text, escape);
    let plain = !value.text.contains(['"', '\'', escape]);
    // An escape character closes a line that is continued; comments may stand between its parts.
    let gap = (pair.key.span.end, value.span.start);
    let mut edits = Vec::new();
    let mut written = format!("{}=", pair.key.text);
    if blanks.is_empty() {
        edits.push(Edit { span: gap, replacement: "=".into() });
        written.push_str(&value.text);
    } else if plain {
        edits.push(Edit { span: gap, replacement: "=\"".into() });
        edits.push(Edit { span: (value.span.end, value.span.end), replacement: "\"".into() });
        written.push_str(&format!("\"{}\"", value.text));
    } else if whole {
        edits.push(Edit { span: gap, replacement: "=".into() });
        let mut from = 0;
        for blank in blanks {
            let at = value.span.start + blank;
            edits.push(Edit { span: (at, at), replacement: escape.to_string() });
            written.push_str(&value.text[from..blank]);
            written.push(escape);
            from = blank;
        }
        written.push_str(&value.text[from..]);
    } else {
        return None;
    }
    means_the_same(&written, pair, escape).then_some(edits)
}

/// Where a value would be cut into words.
fn unquoted_blanks(value: &str, escape: char) -> Vec<usize> {
    meter::tick(value.len());
    let mut blanks = Vec::new();
    let mut quote: Option<char> = None;
    let mut letters = value.char_indices();
    while let Some((at, letter)) = letters.next() {
        if letter == escape && quote != Some('\'') {
            letters.next();
            continue;
        }
        match quote {
            Some(open) if letter == open => quote = None,
            Some(_) => {}
            None if letter == '\'' || letter == '"' => quote = Some(letter),
            None if letter.is_whitespace() => blanks.push(at),
            None => {}
        }
    }
    blanks
}

/// Whether what is to be written reads as the same pair with the same value, whatever its variables are.
fn means_the_same(written: &str, pair: &KeyValue, escape: char) -> bool {
    struct Named;
    impl Lookup for Named {
        fn value(&self, name: &str) -> Option<&str> {
            // Some variables are set, some are not, and some values have blanks and quotes.
            match name.len() % 3 {
                0 => None,
                1 => Some("a value \"with' blanks"),
                _ => Some("x"),
            }
        }
    }
    let words = words::split(written, escape);
    if words.len() != 1 || words[0] != (0..written.len()) || written.find('=') != Some(pair.key.text.len()) {
        return false;
    }
    let rules = Rules { form_only: true, ..Rules::ordinary(escape) };
    let value = |text: &str| expand(text, rules, &Named, &Budget::new(u64::MAX)).map(|found| found.text);
    value(&written[pair.key.text.len() + 1..]) == value(&pair.value.text)
}
