//! COPY and ADD.

use super::command::not_strings;
use super::flags::{Flags, Takes};
use crate::ast::{Keyword, Statement};
use crate::error::Diagnostic;
use crate::heredoc::{self, Heredoc};
use crate::json::Json;
use crate::span::Word;

/// What COPY or ADD says; words unexpanded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copy {
    /// Whether it is ADD.
    pub is_add: bool,
    /// `--from`: a stage, its number, or an image.
    pub from: Option<Word>,
    /// `--chown`.
    pub chown: Option<Word>,
    /// `--chmod`.
    pub chmod: Option<Word>,
    /// `--link`.
    pub link: bool,
    /// `--parents`, with the place of the flag.
    pub parents: Option<Word>,
    /// `--exclude`.
    pub exclude: Vec<Word>,
    /// `--checksum`.
    pub checksum: Option<Word>,
    /// `--keep-git-dir`.
    pub keep_git_dir: Option<bool>,
    /// `--unpack`.
    pub unpack: Option<bool>,
    /// What is copied, in order.
    pub sources: Vec<Source>,
    /// Where to.
    pub dest: Word,
}

/// One source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A path, pattern, or (ADD) address.
    Path(Word),
    /// A file that stands in the Dockerfile.
    Inline(Heredoc),
}

impl Copy {
    /// Words whose variables are expanded.
    pub fn expandable(&self) -> impl Iterator<Item = &Word> {
        let flags = self.chown.iter().chain(&self.chmod).chain(&self.checksum).chain(&self.exclude);
        flags.chain(self.paths()).chain([&self.dest])
    }

    /// The sources that are paths.
    pub fn paths(&self) -> impl Iterator<Item = &Word> {
        self.sources.iter().filter_map(|source| match source {
            Source::Path(word) => Some(word),
            Source::Inline(_) => None,
        })
    }
}

const COPY_FLAGS: &[(&str, Takes)] = &[
    ("from", Takes::Text),
    ("chown", Takes::Text),
    ("chmod", Takes::Text),
    ("link", Takes::Bool),
    ("parents", Takes::Bool),
    ("exclude", Takes::List),
];
const ADD_FLAGS: &[(&str, Takes)] = &[
    ("chown", Takes::Text),
    ("chmod", Takes::Text),
    ("link", Takes::Bool),
    ("exclude", Takes::List),
    ("keep-git-dir", Takes::Bool),
    ("checksum", Takes::Text),
    ("unpack", Takes::Bool),
];

/// Reads COPY and ADD.
pub fn read(statement: &Statement, found: &mut Vec<Diagnostic>) -> Option<Copy> {
    let is_add = statement.keyword == Keyword::Add;
    let keyword = statement.keyword.name();
    let flags = Flags::check(statement, if is_add { ADD_FLAGS } else { COPY_FLAGS }, found)?;
    let mut words = match &statement.json {
        Json::Strings(words) => words.clone(),
        Json::NotStrings(span) => {
            found.push(not_strings(*span));
            return None;
        }
        Json::No => statement.fields(),
    };
    let (Some(dest), false) = (words.pop(), words.is_empty()) else {
        let message = format!("{keyword} needs a source and a destination");
        let label = if statement.arguments.is_empty() { "nothing follows" } else { "only one path" };
        found.push(
            Diagnostic::error(statement.arguments_span(), message, label)
                .help(format!("write `{keyword} source destination`, for example `{keyword} . /app/`")),
        );
        return None;
    };
    let inline = statement.json == Json::No;
    if inline && heredoc::opening(&dest.text).is_some() {
        found.push(
            Diagnostic::error(dest.span, "a here-document cannot be the destination", "")
                .help(format!("write `{keyword} <<EOF /path`, the destination last")),
        );
        return None;
    }
    let mut sources = Vec::with_capacity(words.len());
    // The bodies stand in the order of the words that open them.
    let mut bodies = statement.heredocs.iter();
    for word in words {
        match heredoc::opening(&word.text).filter(|_| inline) {
            None => sources.push(Source::Path(word)),
            Some(opening) => {
                let body = bodies.find(|heredoc| heredoc.name == opening.name);
                // Quotes around blanks: the line as a whole opened another one.
                let Some(body) = body.filter(|_| is_file_name(&opening.name)) else {
                    found.push(
                        Diagnostic::error(word.span, format!("`{}` is no file name", opening.name), "")
                            .help("a here-document is copied under its own name: use a plain one like `<<app.conf`"),
                    );
                    return None;
                };
                sources.push(Source::Inline(body.clone()));
            }
        }
    }
    let parents = flags.all("parents").next().filter(|_| flags.bool("parents") == Some(true));
    Some(Copy {
        is_add,
        from: flags.text("from").filter(|from| !from.text.is_empty()),
        chown: flags.text("chown").filter(|word| !word.text.is_empty()),
        chmod: flags.text("chmod").filter(|word| !word.text.is_empty()),
        link: flags.bool("link").unwrap_or(false),
        parents: parents.map(|flag| Word { text: "--parents".into(), span: flag.span }),
        exclude: flags.list("exclude").cloned().collect(),
        checksum: flags.text("checksum").filter(|word| !word.text.is_empty()),
        keep_git_dir: flags.bool("keep-git-dir"),
        unpack: flags.bool("unpack"),
        sources,
        dest,
    })
}

fn is_file_name(name: &str) -> bool {
    !name.contains(['/', '\0']) && !matches!(name, "" | "." | "..")
}
