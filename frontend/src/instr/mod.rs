//! Typed instructions: what each statement says, every word with its place, nothing expanded yet.
//!
//! In come statements, out come [`Instruction`]s and every fault that can be seen without knowing variables. One
//! file per family of instructions; [`flags`] is shared. Next: [`crate::stage`] groups them.

pub mod command;
pub mod copy;
pub mod device;
pub mod duration;
pub mod flags;
pub mod from;
pub mod healthcheck;
pub mod mount;
pub mod run;
pub mod settings;
pub mod values;

use crate::ast::{Keyword, Statement};
use crate::error::Diagnostic;
use crate::span::{Span, Word};

pub use command::CommandLine;
pub use copy::{Copy, Source};
pub use from::From;
pub use healthcheck::Healthcheck;
pub use mount::{MountField, MountKey, MountSpec};
pub use run::Run;
pub use values::{ArgDeclaration, KeyValue};

/// Said where a word begins with `#` and nothing of that kind can stand.
pub(crate) const COMMENT_HELP: &str = "a comment needs a line of its own";

/// An instruction and where it stands.
#[derive(Clone, Debug)]
pub struct Instruction {
    /// What it says.
    pub kind: Kind,
    /// Its place, here-documents not included.
    pub span: Span,
    /// Its text, continuations joined.
    pub source: String,
}

/// What an instruction says.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the names are those of the instructions")]
pub enum Kind {
    From(From),
    Arg(Vec<ArgDeclaration>),
    Env(Vec<KeyValue>),
    Label(Vec<KeyValue>),
    Run(Box<Run>),
    /// COPY and ADD.
    Copy(Box<Copy>),
    Workdir(Word),
    User(Word),
    Volume(Vec<Word>),
    Expose(Vec<Word>),
    Stopsignal(Word),
    Shell(Vec<Word>),
    Cmd(CommandLine),
    Entrypoint(CommandLine),
    Healthcheck(Box<Healthcheck>),
    Onbuild(Onbuild),
    Maintainer(Word),
}

/// ONBUILD.
#[derive(Clone, Debug)]
pub struct Onbuild {
    /// The trigger as it is stored in an image: text and here-documents.
    pub text: String,
    /// The trigger, understood.
    pub trigger: Box<Instruction>,
}

/// Reads a statement. `None` when something is wrong; then `found` says what.
pub fn read(statement: &Statement, escape: char, found: &mut Vec<Diagnostic>) -> Option<Instruction> {
    let kind = match statement.keyword {
        Keyword::From => Kind::From(from::read(statement, found)?),
        Keyword::Arg => Kind::Arg(values::read_arg(statement, escape, found)?),
        Keyword::Env => Kind::Env(values::read(statement, escape, found)?),
        Keyword::Label => Kind::Label(values::read(statement, escape, found)?),
        Keyword::Run => Kind::Run(Box::new(run::read(statement, found)?)),
        Keyword::Copy | Keyword::Add => Kind::Copy(Box::new(copy::read(statement, found)?)),
        Keyword::Workdir => Kind::Workdir(settings::one(statement, "/app", found)?),
        Keyword::User => Kind::User(settings::one(statement, "app", found)?),
        Keyword::Volume => Kind::Volume(settings::volumes(statement, found)?),
        Keyword::Expose => Kind::Expose(settings::ports(statement, found)?),
        Keyword::Stopsignal => Kind::Stopsignal(settings::one(statement, "SIGTERM", found)?),
        Keyword::Maintainer => Kind::Maintainer(settings::one(statement, "me@example.com", found)?),
        Keyword::Shell => Kind::Shell(command::read_shell(statement, found)?),
        Keyword::Cmd => Kind::Cmd(command::read(statement, found)?),
        Keyword::Entrypoint => Kind::Entrypoint(command::read(statement, found)?),
        Keyword::Healthcheck => Kind::Healthcheck(Box::new(healthcheck::read(statement, found)?)),
        Keyword::Onbuild => {
            flags::Flags::check(statement, &[], found)?;
            let trigger = statement.trigger.as_deref()?;
            let mut text = statement.text().to_owned();
            for heredoc in &statement.heredocs {
                text.push('\n');
                text.push_str(&heredoc.body.text);
                text.push_str(&heredoc.name);
            }
            // At most one level: the parser refuses ONBUILD ONBUILD.
            Kind::Onbuild(Onbuild { text, trigger: Box::new(read(trigger, escape, found)?) })
        }
    };
    Some(Instruction { kind, span: statement.span(), source: statement.source().to_owned() })
}

impl Kind {
    /// Whether it makes a layer.
    pub fn makes_layer(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Copy(_) | Self::Workdir(_))
    }

    /// Words whose variables are expanded with the stage's variables.
    pub fn expandable(&self) -> Vec<&Word> {
        match self {
            Self::From(_)
            | Self::Shell(_)
            | Self::Cmd(_)
            | Self::Entrypoint(_)
            | Self::Healthcheck(_)
            | Self::Onbuild(_)
            | Self::Maintainer(_) => Vec::new(),
            Self::Arg(declarations) => declarations.iter().filter_map(|arg| arg.value.as_ref()).collect(),
            Self::Env(pairs) | Self::Label(pairs) => pairs.iter().flat_map(|pair| [&pair.key, &pair.value]).collect(),
            Self::Run(run) => run.mounts.iter().flat_map(MountSpec::expandable).collect(),
            Self::Copy(copy) => copy.expandable().collect(),
            Self::Workdir(word) | Self::User(word) | Self::Stopsignal(word) => vec![word],
            Self::Volume(words) | Self::Expose(words) => words.iter().collect(),
        }
    }
}
