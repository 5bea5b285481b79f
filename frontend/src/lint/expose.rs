//! EXPOSE: ExposeProtoCasing, ExposeInvalidFormat.

use super::Rule;
use crate::error::{Diagnostic, Edit};
use crate::span::{Span, Word};

/// Both rules, for one port of a word; `text` is its value.
pub(crate) fn port(word: &Word, text: &str) -> Vec<Diagnostic> {
    let mut found = Vec::new();
    let (host, container) = match text.rsplit_once(':') {
        Some((host, container)) => (host, container),
        None => ("", text),
    };
    // Places inside the word are known when it stands there as it is.
    let literal = word.text == text && word.span.end - word.span.start == text.len();
    let shown = || text.chars().take(60).collect::<String>();
    if let Some((_, protocol)) = container.split_once('/')
        && protocol.bytes().any(|b| b.is_ascii_uppercase())
    {
        let place = if literal { Span::new(word.span.end - protocol.len(), word.span.end) } else { word.span };
        let small = protocol.to_ascii_lowercase();
        let edit = Edit { span: (place.start, place.end), replacement: small.clone() };
        found.push(
            Diagnostic::warning(place, format!("the protocol of `{}` has capitals", shown()), "")
                .help(format!("write `{small}`"))
                .rule(Rule::ExposeProtoCasing)
                .fix(if literal { vec![edit] } else { Vec::new() }),
        );
    }
    if !host.trim_matches(':').is_empty() {
        let place = if literal { Span::new(word.span.start, word.span.start + host.len()) } else { word.span };
        found.push(
            Diagnostic::warning(place, format!("`{}` names an address or a port of the host", shown()), "")
                .help(format!("write `EXPOSE {container}`: where it is published is said when a container is started"))
                .rule(Rule::ExposeInvalidFormat),
        );
    }
    found
}
