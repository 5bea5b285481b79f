//! What the target needs: which stages, with which triggers; and which images must be asked for.
//!
//! A stage only ever refers to earlier ones, so one pass from the target backwards finds everything. Triggers of a
//! base image are known once it is answered for; they may refer to more stages and images, which are then asked for
//! in the next round.

use std::collections::HashSet;

use super::INSTRUCTION_BYTES;
use super::origin::Origin;
use super::resolve::{Base, ImageBase, Names, ResolvedStage};
use crate::error::Diagnostic;
use crate::expand::Budget;
use crate::instr::{Instruction, Kind};
use crate::plan::{Answers, Asked, ImageQuestion};
use crate::span::Span;

/// Finds what the target needs. Questions without an answer are returned in the order of the text.
pub fn needs(
    names: &Names<'_>,
    stages: &mut [ResolvedStage],
    target: usize,
    answers: &Answers,
    budget: &Budget,
    found: &mut Vec<Diagnostic>,
) -> Vec<Asked> {
    let file = names.file;
    let mut asked: Vec<Asked> = Vec::new();
    let mut seen: HashSet<ImageQuestion> = HashSet::new();
    let mut ask = |image: &ImageBase, span: Span, inside: usize, written: &str| {
        if seen.insert(image.question.clone()) {
            let help = match &image.context {
                Some(context) => Some(format!("the named context `{context}` says so")),
                None => names.perhaps(written, inside),
            };
            asked.push(Asked { question: image.question.clone(), span: Some(span.range()), help });
        }
    };
    stages[target].needed = true;
    for index in (0..=target).rev() {
        if !stages[index].needed {
            continue;
        }
        let from = &file.stages[index].from;
        let mut triggers: Vec<(Instruction, Origin)> = Vec::new();
        let mut on_build: &[String] = &[];
        match stages[index].base.clone() {
            Base::Scratch | Base::Tree(_) => {}
            Base::Stage(below) => {
                stages[below].needed = true;
                let commands = if stages[below].replaced { &[][..] } else { &file.stages[below].commands };
                for command in commands {
                    if let Kind::Onbuild(onbuild) = &command.kind {
                        if let Err(error) = budget.spend(onbuild.text.len() as u64 + INSTRUCTION_BYTES) {
                            found.push(Diagnostic::general(error.to_string()));
                            return Vec::new();
                        }
                        triggers.push(((*onbuild.trigger).clone(), Origin::StageTrigger));
                    }
                }
            }
            Base::Image(image) => match answers.get(&image.question) {
                None => ask(&image, from.base.span, index, &from.base.text),
                // What replaces a stage is finished: its triggers do not run.
                Some(_) if stages[index].replaced => {}
                Some(answer) => on_build = &answer.config.config.on_build,
            },
            Base::Result(_) if stages[index].replaced => {}
            Base::Result(key) => {
                let config = names.result(&key).and_then(|result| result.config.as_ref());
                on_build = config.map_or(&[], |config| &config.config.on_build);
            }
        }
        for text in on_build {
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
        if stages[index].replaced {
            continue;
        }
        let own = file.stages[index].commands.iter().map(|command| (command, &Origin::File));
        let commands = triggers.iter().map(|(instruction, origin)| (instruction, origin)).chain(own);
        let mut needed = Vec::new();
        for (command, origin) in commands {
            let mut refused = Vec::new();
            for name in command.references() {
                match names.tree(name, index) {
                    Ok(Base::Stage(stage)) => needed.push(stage),
                    Ok(Base::Image(image)) if !answers.contains_key(&image.question) => {
                        let span = match origin {
                            Origin::File | Origin::StageTrigger => name.span,
                            Origin::Trigger { base, .. } => *base,
                        };
                        ask(&image, span, index, &name.text);
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
