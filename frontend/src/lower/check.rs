//! What can be known to be wrong before anything is asked: malformed expansions, and values without variables.
//!
//! Every instruction of the file is looked at, whether the target needs it or not.

use super::remote::{self, Kind as SourceKind};
use super::{mounts, values};
use crate::error::{Diagnostic, Refusal};
use crate::expand::{Budget, ExpandError, NoVariables, Rules, check_form, expand};
use crate::instr::{Copy, Instruction, Kind, Source};
use crate::span::Word;

/// Looks at one instruction.
pub fn check(instruction: &Instruction, escape: char, budget: &Budget, found: &mut Vec<Diagnostic>) {
    // A trigger is never an ONBUILD itself: two levels at most.
    if let Kind::Onbuild(onbuild) = &instruction.kind {
        return check(&onbuild.trigger, escape, budget, found);
    }
    let before = found.len();
    let mut form = |word: &Word| form(word, escape, budget, &instruction.kind, found);
    match &instruction.kind {
        Kind::Copy(copy) => copy.expandable().for_each(&mut form),
        kind => kind.expandable().into_iter().for_each(&mut form),
    }
    if found.len() > before {
        return;
    }
    match &instruction.kind {
        Kind::Stopsignal(word) => literal(word, escape, found, values::signal),
        Kind::Expose(words) => {
            for word in words {
                // Variables can hold several ports; a literal is one.
                literal(word, escape, found, values::ports);
            }
        }
        Kind::Copy(copy) => check_copy(copy, escape, found),
        Kind::Run(run) => {
            for mount in &run.mounts {
                if mount.fields.iter().filter_map(|field| field.value.as_ref()).any(|value| !is_literal(value)) {
                    continue;
                }
                let plain = |word: &Word| Ok(literal_text(word, escape));
                found.extend(mounts::understand(mount, plain).err());
            }
        }
        _ => {}
    }
}

fn check_copy(copy: &Copy, escape: char, found: &mut Vec<Diagnostic>) {
    if let Some(word) = &copy.chown {
        literal(word, escape, found, values::owner);
    }
    if let Some(word) = &copy.chmod {
        literal(word, escape, found, values::mode);
    }
    let known_git = copy.keep_git_dir.is_some();
    let mut kinds: Vec<Option<SourceKind>> = Vec::with_capacity(copy.sources.len());
    for source in &copy.sources {
        let word = match source {
            // Every address has a colon.
            Source::Path(word) if !is_literal(word) || word.text.contains(':') => word,
            _ => {
                kinds.push(Some(SourceKind::Local));
                continue;
            }
        };
        if copy.is_add {
            literal(word, escape, found, |text| remote::add_source(text, known_git));
        } else {
            literal(word, escape, found, remote::copy_source);
        }
        kinds.push(is_literal(word).then(|| remote::kind(&literal_text(word, escape), known_git)));
    }
    let checksum = copy.checksum.as_ref().filter(|word| is_literal(word)).map(|word| literal_text(word, escape));
    found.extend(remote::check_flags(copy, &kinds, checksum.as_deref()).err());
}

/// Expands a word without variables: only its form matters.
fn form(word: &Word, escape: char, budget: &Budget, kind: &Kind, found: &mut Vec<Diagnostic>) {
    let Err(error) = check_form(&word.text, escape, budget) else { return };
    let help = match (&error, kind) {
        (ExpandError::Quote(_), Kind::Copy(copy)) => {
            let keyword = if copy.is_add { "ADD" } else { "COPY" };
            Some(format!("paths with blanks need the JSON form: `{keyword} [\"a file\", \"/dir/\"]`"))
        }
        _ => error.help(),
    };
    let shown: String = word.text.chars().take(60).collect();
    found.push(Diagnostic::error(word.span, format!("`{shown}` cannot be expanded: {error}"), "").maybe_help(help));
}

fn is_literal(word: &Word) -> bool {
    !word.text.contains('$')
}

/// The value of a word without variables, whose form is known to be good.
fn literal_text(word: &Word, escape: char) -> String {
    let budget = Budget::new(u64::MAX);
    expand(&word.text, Rules::ordinary(escape), &NoVariables, &budget).map(|found| found.text).unwrap_or_default()
}

fn literal<T>(word: &Word, escape: char, found: &mut Vec<Diagnostic>, validate: impl Fn(&str) -> Result<T, Refusal>) {
    if is_literal(word) {
        let text = literal_text(word, escape);
        found.extend(validate(&text).err().filter(|_| !text.is_empty()).map(|refusal| refusal.at(word.span)));
    }
}
