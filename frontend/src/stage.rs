//! Stages: what belongs to which, and which stage a name means.
//!
//! In come instructions in order, out comes a [`Dockerfile`]. A reference can only point to an earlier stage; so
//! stages are in an order in which they can be built, and there are no cycles.

use std::collections::HashMap;

use crate::error::{Diagnostic, Severity};
use crate::instr::{ArgDeclaration, From, Instruction, Kind};
use crate::span::{Span, Word};
use crate::suggest;

/// A whole file, grouped.
#[derive(Clone, Debug)]
pub struct Dockerfile {
    /// The escape character.
    pub escape: char,
    /// `# syntax=`.
    pub syntax: Option<Word>,
    /// What stands before the first FROM.
    pub global_args: Vec<ArgDeclaration>,
    /// The stages, in order.
    pub stages: Vec<Stage>,
    /// For every name, the stages that have it, ascending.
    names: HashMap<String, Vec<usize>>,
}

/// A stage.
#[derive(Clone, Debug)]
pub struct Stage {
    /// Its FROM.
    pub from: From,
    /// Where that stands.
    pub span: Span,
    /// Its other instructions.
    pub commands: Vec<Instruction>,
}

/// What a name means inside a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The nearest earlier stage of that name.
    Earlier(usize),
    /// Only this stage or a later one has that name or number.
    NotYet(usize),
    /// A number that no stage has.
    NoSuchNumber,
    /// No stage.
    Nothing,
}

impl Dockerfile {
    /// Groups instructions. Faults go to `found`; the result is as complete as can be.
    pub fn group(instructions: Vec<Instruction>, escape: char, found: &mut Vec<Diagnostic>) -> Self {
        let mut file =
            Self { escape, syntax: None, global_args: Vec::new(), stages: Vec::new(), names: HashMap::new() };
        // An earlier error (a misspelt FROM, perhaps) explains it.
        let mut complained = found.iter().any(|fault| fault.severity == Severity::Error);
        for instruction in instructions {
            match (instruction.kind, file.stages.last_mut()) {
                (Kind::From(from), _) => {
                    if let Some(name) = &from.name {
                        file.names.entry(name.text.clone()).or_default().push(file.stages.len());
                    }
                    file.stages.push(Stage { from, span: instruction.span, commands: Vec::new() });
                }
                (Kind::Arg(declarations), None) => file.global_args.extend(declarations),
                (kind, Some(stage)) => stage.commands.push(Instruction { kind, ..instruction }),
                (_, None) if complained => {}
                (_, None) => {
                    complained = true;
                    found.push(
                        Diagnostic::error(instruction.span, "this instruction stands before the first FROM", "")
                            .help("start with `FROM image`; only ARG may stand before it"),
                    );
                }
            }
        }
        file
    }

    /// What a name or number means inside the stage of that index.
    pub fn meaning(&self, name: &str, inside: usize) -> Meaning {
        if !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit()) {
            return match name.parse::<usize>() {
                Ok(number) if number < inside => Meaning::Earlier(number),
                Ok(number) if number < self.stages.len() => Meaning::NotYet(number),
                _ => Meaning::NoSuchNumber,
            };
        }
        let Some(stages) = self.names.get(&name.to_ascii_lowercase()) else { return Meaning::Nothing };
        match stages.partition_point(|stage| *stage < inside) {
            0 => Meaning::NotYet(stages[0]),
            after => Meaning::Earlier(stages[after - 1]),
        }
    }

    /// The stage that FROM means inside the stage of that index, if it means one: a later stage's name or its own is
    /// an image's name there (`FROM golang AS golang`), and so is a number.
    pub fn base_stage(&self, name: &str, inside: usize) -> Option<usize> {
        match self.meaning(name, inside) {
            Meaning::Earlier(stage) if !name.starts_with(|c: char| c.is_ascii_digit()) => Some(stage),
            _ => None,
        }
    }

    /// The stage to build.
    ///
    /// # Errors
    /// When there is no such stage.
    pub fn target(&self, wanted: Option<&str>) -> Result<usize, Diagnostic> {
        let last = self.stages.len().saturating_sub(1);
        let Some(wanted) = wanted else { return Ok(last) };
        if let Some(stages) = self.names.get(&wanted.to_ascii_lowercase()) {
            // A name has at least one stage; the last one wins.
            return Ok(stages.last().copied().unwrap_or(last));
        }
        if let Some(number) = wanted.parse().ok().filter(|number| *number < self.stages.len()) {
            return Ok(number);
        }
        let names: Vec<&str> = self.names_in_order();
        let help = suggest::did_you_mean(wanted, names.iter().copied()).unwrap_or_else(|| match names.len() {
            0 => "no stage of this file has a name; name one with `FROM image AS name`".into(),
            _ => {
                let list: Vec<String> = names.iter().take(20).map(|name| format!("`{name}`")).collect();
                format!("the stages are {}", list.join(", "))
            }
        });
        Err(Diagnostic::general(format!("there is no stage `{wanted}` to build")).help(help))
    }

    /// A stage's name, or `stage-N`.
    pub fn stage_name(&self, stage: usize) -> String {
        match &self.stages[stage].from.name {
            Some(name) => name.text.clone(),
            None => format!("stage-{stage}"),
        }
    }

    /// The names of all stages, in order.
    pub fn names_in_order(&self) -> Vec<&str> {
        self.stages.iter().filter_map(|stage| stage.from.name.as_ref()).map(|name| name.text.as_str()).collect()
    }

    /// The second and further stages of the same name.
    pub fn repeated_names(&self) -> impl Iterator<Item = &Word> {
        self.stages.iter().enumerate().filter_map(|(index, stage)| {
            let name = stage.from.name.as_ref()?;
            (self.names.get(&name.text)?.first() != Some(&index)).then_some(name)
        })
    }

    /// Every ARG name that the file declares.
    pub fn declared_args(&self) -> impl Iterator<Item = &str> {
        let in_stages =
            self.stages.iter().flat_map(|stage| &stage.commands).filter_map(|command| match &command.kind {
                Kind::Arg(declarations) => Some(declarations),
                _ => None,
            });
        self.global_args.iter().chain(in_stages.flatten()).map(|arg| arg.name.text.as_str())
    }
}

impl Instruction {
    /// The names that stand for trees: `--from` of COPY, `from` of mounts.
    pub fn references(&self) -> impl Iterator<Item = &Word> {
        let (copy, run) = match &self.kind {
            Kind::Copy(copy) => (Some(copy), None),
            Kind::Run(run) => (None, Some(run)),
            _ => (None, None),
        };
        let mounts = run.into_iter().flat_map(|run| &run.mounts);
        copy.into_iter().flat_map(|copy| &copy.from).chain(mounts.filter_map(|mount| mount.from()))
    }
}
