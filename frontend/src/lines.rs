//! From text to logical lines: continuations joined, comments and empty lines between them dropped.
//!
//! In comes the Dockerfile text, out come [`Line`]s whose joined text can be mapped back to bytes of the file, the
//! parser directives, and, on demand, the bodies of here-documents (only the parser knows which lines have some).
//! The file is read once from front to back. Absent: any meaning of a line. Next: [`crate::parse`].

use std::ops::Range;

use crate::error::Diagnostic;
use crate::meter;
use crate::span::{Span, Word};
use crate::suggest;

/// Parser directives: comments at the very top of the form `# name=value`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directives {
    /// `# syntax=`: accepted and ignored, the language is built in.
    pub syntax: Option<Word>,
    /// `# escape=`.
    pub escape: Option<Word>,
    /// `# check=`: options of the linter.
    pub check: Option<Word>,
}

/// A logical line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// Its text, continuations joined; starts with a non-blank.
    pub text: String,
    /// What the joined text is made of: (offset in `text`, offset in the file), ascending, contiguous.
    pieces: Vec<(usize, usize)>,
    /// The comment lines directly above, without `#` and surrounding blanks.
    pub comments: Vec<Word>,
    /// The empty lines between its continuations, their ends not included.
    pub empty_continuations: Vec<Span>,
}

impl Line {
    /// Where the byte at `offset` of the joined text stands in the file.
    pub fn source(&self, offset: usize) -> usize {
        let after = self.pieces.partition_point(|(joined, _)| *joined <= offset);
        // A line that is only continuations has no piece and no byte to ask for.
        let (joined, source) = self.pieces.get(after.saturating_sub(1)).copied().unwrap_or_default();
        source + offset.saturating_sub(joined)
    }

    /// The place in the file of a range of the joined text.
    pub fn span(&self, range: Range<usize>) -> Span {
        let start = self.source(range.start);
        let end = if range.end > range.start { self.source(range.end - 1) + 1 } else { start };
        Span::new(start, end)
    }

    /// A range of the joined text, with its place.
    pub fn word(&self, range: Range<usize>) -> Word {
        Word { text: self.text[range.clone()].to_owned(), span: self.span(range) }
    }

    /// The place of the whole line, trailing blanks left out.
    pub fn whole(&self) -> Span {
        self.span(0..self.text.trim_end().len())
    }
}

/// Reads lines off a text.
pub struct Lines<'a> {
    text: &'a str,
    pos: usize,
    escape: char,
}

impl<'a> Lines<'a> {
    /// Starts at the front, a byte order mark skipped.
    pub fn new(text: &'a str) -> Self {
        let pos = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Self { text, pos, escape: '\\' }
    }

    /// The escape character: `\`, or what the directive says.
    pub fn escape(&self) -> char {
        self.escape
    }

    /// Reads the directives. To be called first; the lines themselves stay and are comments to [`Self::next_line`].
    /// After a first line `#!` `escape` is a comment like any other, while `syntax` and `check` count.
    pub fn directives(&mut self, found: &mut Vec<Diagnostic>) -> Directives {
        let mut directives = Directives::default();
        let mut pos = self.pos;
        let program = self.text[pos..].starts_with("#!");
        if let (true, Some((_, next))) = (program, physical(self.text, pos)) {
            pos = next;
        }
        while let Some((range, next)) = physical(self.text, pos) {
            let Some((name, value)) = directive(self.text, range) else { break };
            let slot = match name.text.to_ascii_lowercase().as_str() {
                "syntax" => &mut directives.syntax,
                "escape" if program => {
                    pos = next;
                    continue;
                }
                "escape" => &mut directives.escape,
                "check" => &mut directives.check,
                _ => {
                    found.extend(misspelt(&name));
                    break;
                }
            };
            pos = next;
            if slot.is_some() {
                found.push(
                    Diagnostic::error(name.span, format!("parser directive `{}` is given twice", name.text), "again")
                        .help("remove one of them"),
                );
                continue;
            }
            if name.text.eq_ignore_ascii_case("escape") {
                match value.text.as_str() {
                    "\\" => {}
                    "`" => self.escape = '`',
                    other => found.push(
                        Diagnostic::error(value.span, format!("`{other}` cannot be the escape character"), "here")
                            .help("it is either \\ or `"),
                    ),
                }
            }
            *slot = Some(value);
        }
        directives
    }

    /// The next logical line that is neither empty nor a comment.
    pub fn next_line(&mut self) -> Option<Line> {
        let mut line = Line::default();
        loop {
            let (range, next) = physical(self.text, self.pos)?;
            self.pos = next;
            let start = range.end - self.text[range.clone()].trim_start().len();
            let range = start..range.end;
            let content = &self.text[range.clone()];
            if let Some(comment) = content.strip_prefix('#') {
                let text = comment.trim();
                let at = start + 1 + (comment.len() - comment.trim_start().len());
                line.comments.push(Word { text: text.to_owned(), span: Span::new(at, at + text.len()) });
            } else if content.is_empty() {
                line.comments.clear();
            } else if self.append(&mut line, range) {
                self.continue_line(&mut line);
                return Some(line);
            } else {
                return Some(line);
            }
        }
    }

    /// Appends a physical line without its escape character at the end; says whether there was one.
    fn append(&self, line: &mut Line, range: Range<usize>) -> bool {
        let content = &self.text[range.clone()];
        let blanks = content.trim_end_matches([' ', '\t']);
        let (kept, continued) = match blanks.strip_suffix(self.escape) {
            // Two escape characters at the end are an escaped escape character.
            Some(before) if !before.ends_with(self.escape) => (before, true),
            _ => (content, false),
        };
        if !kept.is_empty() {
            line.pieces.push((line.text.len(), range.start));
            line.text.push_str(kept);
        }
        continued
    }

    fn continue_line(&mut self, line: &mut Line) {
        while let Some((range, next)) = physical(self.text, self.pos) {
            self.pos = next;
            let content = self.text[range.clone()].trim_start();
            if content.starts_with('#') {
                continue;
            }
            if content.is_empty() {
                line.empty_continuations.push(Span::new(range.start, range.end));
                continue;
            }
            if !self.append(line, range) {
                return;
            }
        }
    }

    /// Reads lines up to one that is exactly `terminator` (leading tabs not counted when `strip_tabs`) and returns the
    /// place of what stands before it. `None` when the file ends first; everything is consumed then.
    pub fn heredoc(&mut self, terminator: &str, strip_tabs: bool) -> Option<Span> {
        let start = self.pos;
        while let Some((range, next)) = physical(self.text, self.pos) {
            self.pos = next;
            let content = &self.text[range.clone()];
            let content = if strip_tabs { content.trim_start_matches('\t') } else { content };
            if content == terminator {
                return Some(Span::new(start, range.start));
            }
        }
        None
    }

    /// The text of a span.
    pub fn slice(&self, span: Span) -> &'a str {
        &self.text[span.range()]
    }
}

/// The physical line at `pos` without its end (LF, CR LF), and where the next one starts.
fn physical(text: &str, pos: usize) -> Option<(Range<usize>, usize)> {
    if pos >= text.len() {
        return None;
    }
    let (end, next) = match text[pos..].find('\n') {
        Some(length) => (pos + length, pos + length + 1),
        None => (text.len(), text.len()),
    };
    meter::tick(next - pos);
    let end = if text[pos..end].ends_with('\r') { end - 1 } else { end };
    Some((pos..end, next))
}

/// A comment among the directives that was probably meant as one.
fn misspelt(name: &Word) -> Option<Diagnostic> {
    let help = suggest::did_you_mean(&name.text, ["syntax", "escape", "check"])?;
    let message = format!("`{}` is no parser directive", name.text);
    Some(Diagnostic::warning(name.span, message, "this line is a comment").help(help))
}

/// `# name = value`; the name is letters and digits, the value is not empty.
fn directive(text: &str, range: Range<usize>) -> Option<(Word, Word)> {
    let (left, right) = text[range].trim_start().strip_prefix('#')?.split_once('=')?;
    let (name, value) = (left.trim(), right.trim());
    let mut bytes = name.bytes();
    if !bytes.next()?.is_ascii_alphabetic() || !bytes.all(|b| b.is_ascii_alphanumeric()) || value.is_empty() {
        return None;
    }
    let word = |part: &str, text_part: &str| {
        let start = part.as_ptr() as usize - text_part.as_ptr() as usize;
        Word { text: part.to_owned(), span: Span::new(start, start + part.len()) }
    };
    Some((word(name, text), word(value, text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The logical lines of a text.
    fn lines(text: &str) -> Vec<Line> {
        let mut lines = Lines::new(text);
        lines.directives(&mut Vec::new());
        std::iter::from_fn(|| lines.next_line()).collect()
    }

    #[test]
    fn continuations_are_joined() {
        let check = |text: &str, expected: &[&str]| {
            let found: Vec<String> = lines(text).into_iter().map(|line| line.text).collect();
            assert_eq!(found, expected, "{text:?}");
        };
        check("", &[]);
        check("\n\n  \n", &[]);
        check("a", &["a"]);
        check("a\nb\n", &["a", "b"]);
        check("a\r\nb\r\n", &["a", "b"]);
        check("a\r", &["a"]);
        check("  a", &["a"]);
        check("\u{a0}a", &["a"]);
        check("a  \nb", &["a  ", "b"]);
        check("a \\\nb", &["a b"]);
        check("a\\\nb", &["ab"]);
        check("a \\\n  b", &["a   b"]);
        check("a \\  \t\n b", &["a  b"]);
        check("a \\\r\n b\r\n", &["a  b"]);
        check("a \\\\\nb", &["a \\\\", "b"]);
        check("a \\\\\\\nb", &["a \\\\\\", "b"]);
        check("a \\ x\nb", &["a \\ x", "b"]);
        check("a \\", &["a "]);
        check("a \\\n", &["a "]);
        check("a \\\n\\\nb", &["a b"]);
        check("\\\na", &["a"]);
        check("\\\n", &[""]);
        check("a \\\n# c\n b", &["a  b"]);
        check("a \\\n   # c\n# d\n b", &["a  b"]);
        check("a \\\n# c \\\n b", &["a  b"]);
        check("a \\\n\n b", &["a  b"]);
        check("a \\\n \t \n b", &["a  b"]);
        check("a \\\n# only a comment", &["a "]);
        check("a # b", &["a # b"]);
        check("# a\nb", &["b"]);
        check("  # a\nb", &["b"]);
        check("# a \\\nb", &["b"]);
        check("#\nb", &["b"]);
        check("\u{feff}a", &["a"]);
        check("\u{feff}# escape=`\na `\nb", &["a b"]);
        check("# escape=`\na \\\nb `\nc", &["a \\", "b c"]);
        check("#escape=`\na `\nb", &["a b"]);
        check("# ESCAPE = `\na `\nb", &["a b"]);
        check("  # escape=`\na `\nb", &["a b"]);
        check("# syntax=x\n# escape=`\na `\nb", &["a b"]);
        check("# other=x\n# escape=`\na `\nb", &["a `", "b"]);
        check("\n# escape=`\na `\nb", &["a `", "b"]);
        check("# a comment\n# escape=`\na `\nb", &["a `", "b"]);
        check("a\n# escape=`\nb `\nc", &["a", "b `", "c"]);
        check("ä \\\nö", &["ä ö"]);
    }

    #[test]
    fn every_byte_of_a_line_knows_where_it_stands() {
        for text in ["a b", "  a \\\n  b\\\n\n# c\n ä d", "\u{feff}a \\\r\n b", "\\\n\\\n  x", "a\\\nb\\\nc\\\nd"] {
            for line in lines(text) {
                for (at, byte) in line.text.bytes().enumerate() {
                    assert_eq!(text.as_bytes()[line.source(at)], byte, "{text:?} at {at}");
                }
                let whole = line.whole();
                assert!(text.get(whole.range()).is_some(), "{text:?}");
            }
        }
    }

    #[test]
    fn comments_directly_above_belong_to_a_line() {
        let check = |text: &str, expected: &[&str]| {
            let last = lines(text).pop().expect("a line");
            let found: Vec<&str> = last.comments.iter().map(|comment| comment.text.as_str()).collect();
            assert_eq!(found, expected, "{text:?}");
            for comment in &last.comments {
                assert_eq!(&text[comment.span.range()], comment.text, "{text:?}");
            }
        };
        check("# one\n#two \n  # three\na", &["one", "two", "three"]);
        check("# one\n\n# two\na", &["two"]);
        check("# one\n\na", &[]);
        check("# one\na\nb", &[]);
        check("#\na", &[""]);
    }

    #[test]
    fn directives_are_read_once_and_faults_named() {
        let check = |text: &str, syntax: Option<&str>, check: Option<&str>, faults: &[&str]| {
            let mut found = Vec::new();
            let directives = Lines::new(text).directives(&mut found);
            let value = |word: &Option<Word>| word.as_ref().map(|word| word.text.clone());
            assert_eq!(value(&directives.syntax).as_deref(), syntax, "{text:?}");
            assert_eq!(value(&directives.check).as_deref(), check, "{text:?}");
            let found: Vec<&str> = found.iter().map(|fault| fault.message.as_str()).collect();
            assert_eq!(found, faults, "{text:?}");
        };
        check("# syntax=docker/dockerfile:1", Some("docker/dockerfile:1"), None, &[]);
        check("# syntax = a \n#check=skip=all;error=true", Some("a"), Some("skip=all;error=true"), &[]);
        check("# syntax=", None, None, &[]);
        check("# syn tax=a", None, None, &[]);
        check("# 1=a\n# syntax=b", None, None, &[]);
        check("# syntax=a\n# syntax=b", Some("a"), None, &["parser directive `syntax` is given twice"]);
        check("# syntacs=a", None, None, &["`syntacs` is no parser directive"]);
        check("# ecsape=`\n# check=skip=all", None, None, &["`ecsape` is no parser directive"]);
        check("# Chekc = a", None, None, &["`Chekc` is no parser directive"]);
        check("# a=b", None, None, &[]);
        check("# version=1", None, None, &[]);
        check("# escape=ab", None, None, &["`ab` cannot be the escape character"]);
        check("FROM a\n# syntax=b", None, None, &[]);
        check("\u{feff}# syntax=a", Some("a"), None, &[]);
        check("# SYNTAX=a\r\n# Check=b\r\n", Some("a"), Some("b"), &[]);
        check("# syntax=a b", Some("a b"), None, &[]);
        check("# syntax=a\n\n# check=b", Some("a"), None, &[]);
        check("# check=a\n# other=b\n# syntax=c", None, Some("a"), &[]);
        check("#!/usr/bin/env x\n# syntax=a\n# check=b", Some("a"), Some("b"), &[]);
        check("#!/usr/bin/env x\n# escape=x\n# syntax=a", Some("a"), None, &[]);
        check("#!x\n\n# syntax=a", None, None, &[]);
        check("#!x", None, None, &[]);
    }

    #[test]
    fn bodies_of_heredocs_end_at_their_terminator() {
        let check = |text: &str, strip_tabs: bool, expected: Option<&str>, next: Option<&str>| {
            let mut lines = Lines::new(text);
            let body = lines.heredoc("EOF", strip_tabs).map(|span| lines.slice(span));
            assert_eq!(body, expected, "{text:?}");
            assert_eq!(lines.next_line().map(|line| line.text).as_deref(), next, "{text:?}");
        };
        check("a\nb\nEOF\nc", false, Some("a\nb\n"), Some("c"));
        check("EOF\nc", false, Some(""), Some("c"));
        check("EOF", false, Some(""), None);
        check("a\r\nEOF\r\nc", false, Some("a\r\n"), Some("c"));
        check("\tEOF\nEOF\n", false, Some("\tEOF\n"), None);
        check("\ta\n\t\tEOF\nc", true, Some("\ta\n"), Some("c"));
        check(" EOF\nEOF \nEOF\n", false, Some(" EOF\nEOF \n"), None);
        check("# a\n\n\\\nEOF\n", false, Some("# a\n\n\\\n"), None);
        check("a\nb", false, None, None);
    }
}
