//! The Dockerfile as statements: keyword, flags, the rest, here-documents. Nothing is judged beyond form.

use std::ops::Range;
use std::rc::Rc;

use crate::heredoc::Heredoc;
use crate::json::Json;
use crate::lines::{Directives, Line};
use crate::span::{Span, Word};

/// The 18 instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Keyword {
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    Stopsignal,
    User,
    Volume,
    Workdir,
}

impl Keyword {
    /// All of them.
    pub const ALL: [Keyword; 18] = [
        Self::Add,
        Self::Arg,
        Self::Cmd,
        Self::Copy,
        Self::Entrypoint,
        Self::Env,
        Self::Expose,
        Self::From,
        Self::Healthcheck,
        Self::Label,
        Self::Maintainer,
        Self::Onbuild,
        Self::Run,
        Self::Shell,
        Self::Stopsignal,
        Self::User,
        Self::Volume,
        Self::Workdir,
    ];

    /// In capitals.
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Arg => "ARG",
            Self::Cmd => "CMD",
            Self::Copy => "COPY",
            Self::Entrypoint => "ENTRYPOINT",
            Self::Env => "ENV",
            Self::Expose => "EXPOSE",
            Self::From => "FROM",
            Self::Healthcheck => "HEALTHCHECK",
            Self::Label => "LABEL",
            Self::Maintainer => "MAINTAINER",
            Self::Onbuild => "ONBUILD",
            Self::Run => "RUN",
            Self::Shell => "SHELL",
            Self::Stopsignal => "STOPSIGNAL",
            Self::User => "USER",
            Self::Volume => "VOLUME",
            Self::Workdir => "WORKDIR",
        }
    }

    /// In any case.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|keyword| keyword.name().eq_ignore_ascii_case(word))
    }

    /// Whether here-documents may follow.
    pub fn takes_heredocs(self) -> bool {
        matches!(self, Self::Add | Self::Copy | Self::Run)
    }
}

/// `--name[=value]` in front of the arguments, quotes and escapes removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// Between `--` and `=`, with the place of `--name`.
    pub name: Word,
    /// After the `=`.
    pub value: Option<Word>,
    /// For every byte of the value's text, and its end, where it stands in the file; empty unless the flag is
    /// `--mount`, whose value has parts with places of their own.
    pub value_map: Vec<usize>,
    /// All of it.
    pub span: Span,
}

/// One instruction as written.
#[derive(Clone, Debug)]
pub struct Statement {
    /// Its keyword.
    pub keyword: Keyword,
    /// The keyword as written.
    pub keyword_word: Word,
    /// Its flags.
    pub flags: Vec<Flag>,
    /// The line it stands on.
    pub line: Rc<Line>,
    /// Where it starts in the line's text (an ONBUILD trigger does not start at 0).
    pub start: usize,
    /// Where its arguments stand in the line's text, blanks around them cut off.
    pub arguments: Range<usize>,
    /// The arguments in JSON form.
    pub json: Json,
    /// Its here-documents, in order.
    pub heredocs: Vec<Heredoc>,
    /// ONBUILD's trigger, when it could be read.
    pub trigger: Option<Box<Statement>>,
}

impl Statement {
    /// Its text, continuations joined.
    pub fn source(&self) -> &str {
        self.line.text[self.start..].trim_end()
    }

    /// The text of its arguments.
    pub fn text(&self) -> &str {
        &self.line.text[self.arguments.clone()]
    }

    /// Its place: from the keyword to the end of the line, here-documents not included.
    pub fn span(&self) -> Span {
        self.line.span(self.start..self.start + self.source().len())
    }

    /// The place of its arguments; of the keyword when there are none.
    pub fn arguments_span(&self) -> Span {
        if self.arguments.is_empty() { self.keyword_word.span } else { self.line.span(self.arguments.clone()) }
    }

    /// A range of the arguments' text, with its place.
    pub fn word(&self, range: Range<usize>) -> Word {
        self.line.word(self.arguments.start + range.start..self.arguments.start + range.end)
    }

    /// The arguments separated by blanks.
    pub fn fields(&self) -> Vec<Word> {
        crate::words::fields(self.text()).into_iter().map(|range| self.word(range)).collect()
    }
}

/// A parsed Dockerfile.
#[derive(Clone, Debug)]
pub struct Ast {
    /// Its parser directives.
    pub directives: Directives,
    /// The escape character.
    pub escape: char,
    /// Its statements; those that could not be read are left out (each has a diagnostic).
    pub statements: Vec<Statement>,
}
