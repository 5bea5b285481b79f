//! Dockerfile text becomes a build plan; no IO.
//!
//! In come the text, [`PlanOptions`] and answers to what was asked; out comes a [`Plan`] (a graph of operations, the
//! image's config and history, the place in the text of every operation), or [`Planned::Need`] with the images that
//! must be known first, or every error of the file. Deliberately absent: files, network, processes, the clock.
//!
//! The text goes through these, in this order: [`mod@lines`] joins continuations, [`mod@parse`] finds keyword, flags,
//! here-documents ([`mod@ast`]), [`mod@instr`] types them, [`mod@stage`] groups them, `lower` makes operations.
//! [`mod@expand`] is the shell's half of the language, used wherever variables may stand. Beside them stand
//! [`mod@lint`], which finds what is probably not meant, and [`mod@call`], which looks at a file instead of building it.

#![forbid(unsafe_code)]

mod span;

mod error;

pub mod lines;

pub mod words;

mod json;

pub mod heredoc;

pub mod ast;

pub mod parse;

pub mod expand;

pub mod instr;

pub mod stage;

mod ignore;

pub mod git;

pub mod lint;

mod lower;

mod plan;

pub mod call;

pub mod debug;

mod meter;

mod suggest;

#[cfg(test)]
mod hostile;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;

pub use error::{Diagnostic, Edit, Severity};
pub use ignore::{IgnoreLine, parse_ignore};
pub use lower::machine::is_multi_platform;
pub use lower::syntax::elsewhere as syntax_elsewhere;
pub use plan::{
    Answers, Asked, HistoryStep, ImageAnswer, ImageQuestion, NamedContext, NamedResult, Plan, PlanOptions, PlanOutput,
    Planned,
};
pub use span::{Span, Word};
pub use suggest::{did_you_mean, nearest};

/// Makes a plan from the text of a Dockerfile, or says what must be known first.
///
/// Pure: the same arguments give the same plan. Call again with more answers until it is a plan; every round asks
/// only for what is new. Nothing is asked before the whole file is known to be well-formed.
///
/// # Errors
/// Every error of the file, in the order of the text, with the warnings between them; and warnings of rules alone when
/// the file says `check=error=true`.
pub fn plan(text: &str, options: &PlanOptions, answers: &Answers) -> Result<Planned, Vec<Diagnostic>> {
    if let Some(empty) = empty(text) {
        return Err(vec![empty]);
    }
    let Source { file, skips, check, mut found } = Source::read(text);
    let checks = lint::Checks::of(check.as_ref(), options, &mut found);
    let settle = |found| {
        let mut found = lint::settle(found, &checks, &skips);
        found.extend(lint::warnings_as_error(&found, &checks));
        found
    };
    match lower::plan(&file, options, answers, found).map_err(settle)? {
        Planned::Plan(mut plan) => {
            plan.warnings = settle(std::mem::take(&mut plan.warnings));
            // What was a plan has warnings only, unless they are made errors.
            match plan.warnings.iter().any(|finding| finding.severity == Severity::Error) {
                true => Err(plan.warnings),
                false => Ok(Planned::Plan(plan)),
            }
        }
        need @ Planned::Need(_) => Ok(need),
    }
}

fn empty(text: &str) -> Option<Diagnostic> {
    let empty = text.trim_start_matches('\u{feff}').trim().is_empty();
    empty.then(|| Diagnostic::general("the Dockerfile is empty").help("start it with `FROM image`"))
}

/// A file that was read, with what the linter says about its form.
struct Source {
    file: stage::Dockerfile,
    skips: lint::Skips,
    /// The directive `# check=`.
    check: Option<Word>,
    found: Vec<Diagnostic>,
}

impl Source {
    fn read(text: &str) -> Self {
        let (ast, mut found) = parse::parse(text);
        lint::statements(&ast, &mut found);
        let skips = lint::Skips::of(&ast, &mut found);
        let check = ast.directives.check.clone();
        let file = group(text, ast, &mut found);
        lint::stages(text, &file, &mut found);
        Self { file, skips, check, found }
    }
}

/// Reads a Dockerfile into stages; every fault of form goes into the second half.
pub fn read(text: &str) -> (stage::Dockerfile, Vec<Diagnostic>) {
    let (ast, mut found) = parse::parse(text);
    let file = group(text, ast, &mut found);
    (file, found)
}

/// In which language a text says that it is written, as it says it.
pub fn syntax(text: &str) -> Option<String> {
    let (ast, _) = parse::parse(text);
    ast.directives.syntax.or_else(|| lower::syntax::foreign(text)).map(|word| word.text)
}

/// Each statement goes when it is understood: its memory serves the next one.
fn group(text: &str, ast: ast::Ast, found: &mut Vec<Diagnostic>) -> stage::Dockerfile {
    let mut instructions = Vec::with_capacity(ast.statements.len());
    for statement in ast.statements {
        let is_from = statement.keyword == ast::Keyword::From;
        match instr::read(&statement, ast.escape, found) {
            Some(instruction) => instructions.push(instruction),
            // A faulty FROM still starts a stage: what follows it is no second fault.
            None if is_from => instructions.push(instr::from::placeholder(&statement)),
            None => {}
        }
    }
    let mut file = stage::Dockerfile::group(instructions, ast.escape, found);
    file.syntax = ast.directives.syntax.or_else(|| lower::syntax::foreign(text));
    file
}
