//! What the target needs: which stages, on which bases, with which triggers; and which images must be asked for.
//!
//! A stage only ever refers to earlier ones, so one pass from the target backwards finds everything. Triggers of a
//! base image are known once it is answered for; they may refer to more stages and images, which are then asked for
//! in the next round.

use std::collections::HashSet;

use oci::model::{Platform, Reference};

use super::INSTRUCTION_BYTES;
use super::env::Env;
use super::origin::Origin;
use super::refuse::Supported;
use crate::error::{Diagnostic, Refusal};
use crate::expand::{Budget, Rules, expand};
use crate::instr::{Instruction, Kind};
use crate::plan::{Answers, Asked, ImageQuestion, PlanOptions};
use crate::span::{Span, Word};
use crate::stage::{Dockerfile, Meaning};
use crate::suggest;

/// How far back stages are looked at for a name that was perhaps meant.
const STAGES_SUGGESTED: usize = 300;

/// What a stage stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// The empty tree.
    Scratch,
    /// An earlier stage.
    Stage(usize),
    /// An image.
    Image(Box<ImageQuestion>),
}

/// A stage with its FROM line understood.
#[derive(Clone, Debug)]
pub struct ResolvedStage {
    /// What it stands on.
    pub base: Base,
    /// For which machine.
    pub platform: Platform,
    /// Triggers that run before its own instructions.
    pub triggers: Vec<(Instruction, Origin)>,
    /// Whether the target needs it.
    pub needed: bool,
}

/// Understands the FROM lines of all stages.
pub fn bases(
    file: &Dockerfile,
    options: &PlanOptions,
    globals: &Env,
    budget: &Budget,
    found: &mut Vec<Diagnostic>,
) -> Vec<ResolvedStage> {
    let mut stages: Vec<ResolvedStage> = Vec::with_capacity(file.stages.len());
    for (index, stage) in file.stages.iter().enumerate() {
        let resolved = base(file, index, options, globals, budget).unwrap_or_else(|fault| {
            found.push(fault);
            (Base::Scratch, None)
        });
        let platform = match (&resolved.0, resolved.1) {
            (Base::Stage(below), _) => stages[*below].platform.clone(),
            (_, Some(platform)) => platform,
            (_, None) => options.platform.clone(),
        };
        let mut base = resolved.0;
        if let Base::Image(question) = &mut base {
            question.platform = platform.clone();
        }
        debug_assert!(stage.span.start <= stage.span.end);
        stages.push(ResolvedStage { base, platform, triggers: Vec::new(), needed: false });
    }
    stages
}

fn base(
    file: &Dockerfile,
    index: usize,
    options: &PlanOptions,
    globals: &Env,
    budget: &Budget,
) -> Result<(Base, Option<Platform>), Diagnostic> {
    let from = &file.stages[index].from;
    let expanded = |word: &Word| {
        let found = expand(&word.text, Rules::ordinary(file.escape), globals, budget)
            .map_err(|error| super::unexpandable(word, &error))?;
        if !found.text.is_empty() {
            return Ok(found.text);
        }
        let fault = Diagnostic::error(word.span, format!("`{}` is empty here", word.text), "nothing is left of it");
        let help = found.unset.first().map(|name| {
            suggest::did_you_mean(name, globals.names()).unwrap_or_else(|| {
                format!("FROM sees only ARGs that stand before the first FROM: put `ARG {name}=…` there")
            })
        });
        Err(fault.maybe_help(help))
    };
    let name = expanded(&from.base)?;
    let platform = match &from.platform {
        None => None,
        Some(word) => {
            let text = expanded(word)?;
            Some(text.parse::<Platform>().map_err(|error| {
                Diagnostic::error(word.span, error.to_string(), "").help("write `--platform=linux/arm64`")
            })?)
        }
    };
    let base = if name == "scratch" {
        Base::Scratch
    } else if let Some(stage) = file.base_stage(&name, index) {
        Base::Stage(stage)
    } else {
        Base::Image(question(&name, from.base.span, options)?)
    };
    Ok((base, platform))
}

/// An image, for the machine that is built for.
fn question(name: &str, span: Span, options: &PlanOptions) -> Result<Box<ImageQuestion>, Diagnostic> {
    let reference = name.parse::<Reference>().map_err(|error| {
        Refusal::new(error.to_string()).help("write a name like `debian:12` or `registry.example/team/app:1`").at(span)
    })?;
    Ok(Box::new(ImageQuestion { reference, platform: options.platform.clone(), layout: None }))
}

/// What a `--from` or `from=` means.
pub fn tree(file: &Dockerfile, name: &Word, inside: usize, options: &PlanOptions) -> Result<Base, Diagnostic> {
    if name.text.contains('$') {
        return Err(Diagnostic::error(name.span, "variables are not expanded in `--from`", "")
            .help("define a stage `FROM $NAME AS files` and write `--from=files`"));
    }
    match file.meaning(&name.text, inside) {
        Meaning::Earlier(stage) => Ok(Base::Stage(stage)),
        Meaning::NotYet(stage) if stage == inside => {
            Err(Diagnostic::error(name.span, format!("stage `{}` refers to itself", name.text), "this stage")
                .help("only earlier stages can be referred to"))
        }
        Meaning::NotYet(stage) => {
            let message = format!("stage `{}` must be defined before it is referred to", name.text);
            let help = format!("move stage `{}` above stage `{}`", file.stage_name(stage), file.stage_name(inside));
            Err(Diagnostic::error(name.span, message, "this stage comes later").help(help))
        }
        Meaning::NoSuchNumber => {
            let message = format!("there is no stage {}", name.text);
            Err(Diagnostic::error(name.span, message, "")
                .help(format!("stages are numbered from 0; before this one there are {inside}")))
        }
        Meaning::Nothing if name.text == "scratch" => Ok(Base::Scratch),
        Meaning::Nothing => Ok(Base::Image(question(&name.text, name.span, options)?)),
    }
}

/// Finds what the target needs. Questions without an answer are returned in the order of the text.
#[allow(clippy::too_many_arguments, reason = "one call, each argument of its own type")]
pub fn needs(
    file: &Dockerfile,
    stages: &mut [ResolvedStage],
    target: usize,
    options: &PlanOptions,
    answers: &Answers,
    supported: Supported,
    budget: &Budget,
    found: &mut Vec<Diagnostic>,
) -> Vec<Asked> {
    let mut asked: Vec<Asked> = Vec::new();
    let mut seen: HashSet<ImageQuestion> = HashSet::new();
    let mut ask = |question: &ImageQuestion, span: Span, inside: usize, written: &str| {
        if seen.insert(question.clone()) {
            let earlier =
                file.stages[..inside].iter().rev().take(STAGES_SUGGESTED).filter_map(|stage| stage.from.name.as_ref());
            let help = suggest::nearest(written, earlier.map(|name| name.text.as_str()))
                .filter(|_| !written.contains(['/', ':', '@']))
                .map(|name| format!("no stage is called `{written}`; did you mean `{name}`?"));
            asked.push(Asked { question: question.clone(), span: Some(span.range()), help });
        }
    };
    stages[target].needed = true;
    for index in (0..=target).rev() {
        if !stages[index].needed {
            continue;
        }
        let from = &file.stages[index].from;
        let mut triggers: Vec<(Instruction, Origin)> = Vec::new();
        match stages[index].base.clone() {
            Base::Scratch => {}
            Base::Stage(below) => {
                stages[below].needed = true;
                for command in &file.stages[below].commands {
                    if let Kind::Onbuild(onbuild) = &command.kind {
                        if let Err(error) = budget.spend(onbuild.text.len() as u64 + INSTRUCTION_BYTES) {
                            found.push(Diagnostic::general(error.to_string()));
                            return Vec::new();
                        }
                        triggers.push(((*onbuild.trigger).clone(), Origin::StageTrigger));
                    }
                }
            }
            Base::Image(question) => match answers.get(&*question) {
                None => ask(&question, from.base.span, index, &from.base.text),
                Some(answer) => {
                    for text in &answer.config.config.on_build {
                        if let Err(error) = budget.spend(text.len() as u64 + INSTRUCTION_BYTES) {
                            found.push(Diagnostic::general(error.to_string()));
                            return Vec::new();
                        }
                        let origin = Origin::Trigger { base: from.base.span, text: text.clone() };
                        match trigger(text) {
                            Ok(instruction) => triggers.push((instruction, origin)),
                            Err(fault) => found.push(origin.show(fault)),
                        }
                    }
                }
            },
        }
        let own = file.stages[index].commands.iter().map(|command| (command, &Origin::File));
        let commands = triggers.iter().map(|(instruction, origin)| (instruction, origin)).chain(own);
        let mut needed = Vec::new();
        for (command, origin) in commands {
            let mut refused = Vec::new();
            supported.refuse(command, &mut refused);
            for name in command.references() {
                match tree(file, name, index, options) {
                    Ok(Base::Stage(stage)) => needed.push(stage),
                    Ok(Base::Image(question)) if !answers.contains_key(&*question) => {
                        let span = match origin {
                            Origin::File | Origin::StageTrigger => name.span,
                            Origin::Trigger { base, .. } => *base,
                        };
                        ask(&question, span, index, &name.text);
                    }
                    Ok(_) => {}
                    Err(fault) => refused.push(fault),
                }
            }
            found.extend(refused.into_iter().map(|fault| origin.show(fault)));
        }
        for stage in needed {
            stages[stage].needed = true;
        }
        stages[index].triggers = triggers;
    }
    asked.sort_by_key(|asked| asked.span.as_ref().map(|span| span.start));
    asked
}

/// Reads a trigger of a base image: one instruction that may be a trigger.
fn trigger(text: &str) -> Result<Instruction, Diagnostic> {
    let (ast, mut found) = crate::parse::parse(text);
    found.retain(|fault| fault.severity == crate::error::Severity::Error);
    let mut instructions: Vec<Instruction> = Vec::new();
    for statement in &ast.statements {
        instructions.extend(crate::instr::read(statement, ast.escape, &mut found));
    }
    let budget = Budget::new(text.len() as u64 * 2 + 1024);
    for instruction in &instructions {
        super::check::check(instruction, ast.escape, &budget, &mut found);
    }
    if let Some(fault) = found.into_iter().next() {
        return Err(fault);
    }
    match (instructions.pop(), instructions.is_empty()) {
        (Some(Instruction { kind: Kind::From(_) | Kind::Onbuild(_) | Kind::Maintainer(_), .. }), _) => {
            Err(Diagnostic::general("this instruction cannot be a trigger"))
        }
        (Some(instruction), true) => Ok(instruction),
        _ => Err(Diagnostic::general("a trigger is exactly one instruction")),
    }
}
