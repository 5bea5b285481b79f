//! Comments that describe stages and ARGs: InvalidDefinitionDescription.

use super::Rule;
use super::skips::{own_comments, value};
use crate::ast::{Ast, Keyword, Statement};
use crate::error::Diagnostic;
use crate::span::Word;
use crate::words;

/// InvalidDefinitionDescription: a comment right above that does not begin with the name.
pub(super) fn descriptions(ast: &Ast, found: &mut Vec<Diagnostic>) {
    for statement in &ast.statements {
        let names = names(ast, statement);
        let comments: Vec<&Word> = description_comments(ast, statement).collect();
        let Some(last) = comments.last().filter(|_| !names.is_empty()) else { continue };
        let first_word = |comment: &&Word| comment.text.split(' ').next().unwrap_or_default().to_owned();
        if comments.iter().map(first_word).any(|word| names.contains(&word)) {
            continue;
        }
        let name = &names[0];
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
pub(crate) fn description_comments<'a>(ast: &'a Ast, statement: &'a Statement) -> impl Iterator<Item = &'a Word> {
    own_comments(ast, statement).filter(|comment| value(comment).is_none())
}
