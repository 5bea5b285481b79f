//! Capitals and small letters: ConsistentInstructionCasing, FromAsCasing, StageNameCasing.
//!
//! The first two mend the same words, FROM and AS; so both choose the case that FROM has in the end, and their edits
//! are equal where they meet.

use super::Rule;
use crate::ast::{Ast, Keyword, Statement};
use crate::error::{Diagnostic, Edit};
use crate::instr::{Instruction, Kind};
use crate::meter;
use crate::span::{Span, Word};
use crate::stage::{Dockerfile, Meaning};

/// A case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Case {
    Capitals,
    Small,
}

impl Case {
    /// The case of a word; `None` when it is mixed.
    fn of(word: &str) -> Option<Self> {
        let any = |is: fn(&u8) -> bool| word.as_bytes().iter().any(is);
        match (any(u8::is_ascii_uppercase), any(u8::is_ascii_lowercase)) {
            (_, false) => Some(Self::Capitals),
            (false, true) => Some(Self::Small),
            (true, true) => None,
        }
    }

    fn apply(self, word: &str) -> String {
        match self {
            Self::Capitals => word.to_ascii_uppercase(),
            Self::Small => word.to_ascii_lowercase(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Capitals => "capitals",
            Self::Small => "small letters",
        }
    }

    /// What most instructions of the stages are in; ARGs before the first FROM do not vote.
    fn of_most(ast: &Ast) -> Self {
        let cases = judged(ast).filter_map(|statement| Case::of(&statement.keyword_word.text));
        let (mut small, mut all) = (0usize, 0usize);
        for case in cases {
            meter::tick(1);
            all += 1;
            small += usize::from(case == Case::Small);
        }
        if small > all - small { Self::Small } else { Self::Capitals }
    }
}

/// The statements from the first FROM on.
fn judged(ast: &Ast) -> impl Iterator<Item = &Statement> {
    ast.statements.iter().skip_while(|statement| statement.keyword != Keyword::From)
}

/// ConsistentInstructionCasing and FromAsCasing.
pub(super) fn instructions(ast: &Ast, found: &mut Vec<Diagnostic>) {
    let most = Case::of_most(ast);
    for statement in judged(ast) {
        found.extend(from_as(statement, most));
        let word = &statement.keyword_word;
        if Case::of(&word.text) == Some(most) {
            continue;
        }
        let message = format!("`{}` is written unlike most instructions of this file", word.text);
        let mut edits = recase(word, most);
        edits.extend(as_word(statement).into_iter().flat_map(|word| recase(&word, most)));
        found.push(
            Diagnostic::warning(word.span, message, "")
                .help(format!("write it in {}: `{}`", most.name(), most.apply(&word.text)))
                .rule(Rule::ConsistentInstructionCasing)
                .fix(edits),
        );
    }
}

/// FromAsCasing. A FROM of mixed case is the other rule's finding.
fn from_as(statement: &Statement, most: Case) -> Option<Diagnostic> {
    let word = as_word(statement)?;
    let case = Case::of(&statement.keyword_word.text)?;
    if Case::of(&word.text) == Some(case) {
        return None;
    }
    let message = format!("`{}` and `{}` are not written alike", statement.keyword_word.text, word.text);
    let edits = [recase(&statement.keyword_word, most), recase(&word, most)].concat();
    Some(
        Diagnostic::warning(word.span, message, "")
            .help(format!("write `{} … {}`", most.apply("FROM"), most.apply("AS")))
            .rule(Rule::FromAsCasing)
            .fix(edits),
    )
}

/// The AS of a FROM.
fn as_word(statement: &Statement) -> Option<Word> {
    if statement.keyword != Keyword::From {
        return None;
    }
    statement.fields().into_iter().nth(1).filter(|word| word.text.eq_ignore_ascii_case("as"))
}

/// What puts a word into a case; nothing when it is in it.
fn recase(word: &Word, case: Case) -> Vec<Edit> {
    let replacement = case.apply(&word.text);
    // A word that is continued on the next line is not its place.
    let whole = word.span.end - word.span.start == word.text.len();
    if !whole || replacement == word.text {
        return Vec::new();
    }
    vec![Edit { span: (word.span.start, word.span.end), replacement }]
}

/// StageNameCasing. Its edits reach every place that spells the name in another way, so that the file stays of one piece.
pub(super) fn stage_names(text: &str, file: &Dockerfile, found: &mut Vec<Diagnostic>) {
    let written = |span: Span| text.get(span.range()).unwrap_or_default();
    let faulty = |index: &usize| {
        let name = file.stages[*index].from.name.as_ref();
        name.is_some_and(|name| written(name.span) != name.text)
    };
    let faulty: Vec<usize> = (0..file.stages.len()).filter(faulty).collect();
    if faulty.is_empty() {
        return;
    }
    let mut edits: Vec<Vec<Edit>> = vec![Vec::new(); file.stages.len()];
    for (index, stage) in file.stages.iter().enumerate() {
        let base = file.base_stage(&stage.from.base.text, index).map(|meant| (meant, &stage.from.base));
        let trees =
            stage.commands.iter().flat_map(references).filter_map(|word| match file.meaning(&word.text, index) {
                Meaning::Earlier(meant) => Some((meant, word)),
                _ => None,
            });
        for (meant, word) in base.into_iter().chain(trees) {
            let name = file.stages[meant].from.name.as_ref().map(|name| name.text.as_str()).unwrap_or_default();
            // Quotes, escapes and numbers are left as they are.
            if written(word.span).eq_ignore_ascii_case(name) && written(word.span) != name {
                edits[meant].push(Edit { span: (word.span.start, word.span.end), replacement: name.to_owned() });
            }
        }
    }
    for index in faulty {
        let Some(name) = &file.stages[index].from.name else { continue };
        let mut fix = vec![Edit { span: (name.span.start, name.span.end), replacement: name.text.clone() }];
        fix.append(&mut edits[index]);
        found.push(
            Diagnostic::warning(name.span, format!("the stage name `{}` has capitals", written(name.span)), "")
                .help(format!("write `{}`: stages are known by small letters", name.text))
                .rule(Rule::StageNameCasing)
                .fix(fix),
        );
    }
}

/// The names of trees in an instruction; those of a trigger may mean stages of other files.
fn references(command: &Instruction) -> Vec<&Word> {
    match &command.kind {
        Kind::Onbuild(_) => Vec::new(),
        _ => command.references().collect(),
    }
}
