//! Comments that describe stages and ARGs: InvalidDefinitionDescription.

use std::collections::HashSet;

use super::Rule;
use super::skips::{own_comments, value};
use crate::ast::{Ast, Keyword, Statement};
use crate::error::Diagnostic;
use crate::meter;
use crate::span::Word;
use crate::words;

/// InvalidDefinitionDescription: a comment right above that does not begin with the name.
pub(super) fn descriptions(ast: &Ast, found: &mut Vec<Diagnostic>) {
    for statement in &ast.statements {
        let Some(last) = description_comments(ast, statement).next_back() else { continue };
        let names = names(ast, statement);
        let Some(name) = names.first() else { continue };
        let names: HashSet<&str> = names.iter().map(String::as_str).collect();
        let first_word = |comment: &'_ Word| {
            meter::tick(1);
            let end = comment.text.find(' ').unwrap_or(comment.text.len());
            names.contains(&comment.text[..end])
        };
        if description_comments(ast, statement).any(first_word) {
            continue;
        }
        found.push(
            Diagnostic::warning(last.span, format!("this comment does not describe `{name}`"), "")
                .help(format!(
                    "begin it with the name: `# {name} …`; or leave an empty line below a comment about something else"
                ))
                .rule(Rule::InvalidDefinitionDescription),
        );
    }
}

/// What a statement defines: a stage's name, or those of ARGs.
fn names(ast: &Ast, statement: &Statement) -> Vec<String> {
    match statement.keyword {
        Keyword::From => {
            let fields = statement.fields();
            match &fields[..] {
                [_, word, name] if word.text.eq_ignore_ascii_case("as") => vec![name.text.to_ascii_lowercase()],
                _ => Vec::new(),
            }
        }
        Keyword::Arg => {
            let text = statement.text();
            let words = words::split(text, ast.escape).into_iter();
            words.map(|range| text[range].split('=').next().unwrap_or_default().to_owned()).collect()
        }
        _ => Vec::new(),
    }
}

/// The comments above a statement that may describe it: no directives and no options of the linter.
pub(crate) fn description_comments<'a>(
    ast: &'a Ast,
    statement: &'a Statement,
) -> impl DoubleEndedIterator<Item = &'a Word> {
    own_comments(ast, statement).filter(|comment| value(comment).is_none())
}
