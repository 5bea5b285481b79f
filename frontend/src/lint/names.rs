//! Names of stages: DuplicateStageName, ReservedStageName.

use super::Rule;
use crate::error::Diagnostic;
use crate::stage::Dockerfile;

/// Names that mean something else wherever a stage may be named.
const RESERVED: [&str; 2] = ["scratch", "context"];

/// DuplicateStageName and ReservedStageName.
pub(super) fn stages(file: &Dockerfile, found: &mut Vec<Diagnostic>) {
    for name in file.repeated_names() {
        found.push(
            Diagnostic::warning(name.span, format!("a stage called `{}` exists already", name.text), "again")
                .help("give each stage a name of its own")
                .rule(Rule::DuplicateStageName),
        );
    }
    for name in file.stages.iter().filter_map(|stage| stage.from.name.as_ref()) {
        if !RESERVED.contains(&name.text.as_str()) {
            continue;
        }
        let meaning = if name.text == "scratch" { "the empty image" } else { "the build context" };
        found.push(
            Diagnostic::warning(name.span, format!("a stage should not be called `{}`", name.text), "")
                .help(format!("choose another name: this one means {meaning}"))
                .rule(Rule::ReservedStageName),
        );
    }
}
