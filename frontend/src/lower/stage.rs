//! One stage, instruction by instruction.

use std::rc::Rc;

use solver::graph::Edge;
use solver::op::OpMeta;

use super::env::Env;
use super::globals::PLATFORM_ARGS;
use super::machine;
use super::origin::Origin;
use super::resolve::{Base, ResolvedStage};
use super::state::State;
use super::steps::Steps;
use super::{INSTRUCTION_BYTES, Lowering, unexpandable};
use crate::error::Diagnostic;
use crate::expand::{Rules, expand, expand_words};
use crate::instr::{Instruction, Kind};
use crate::lint;
use crate::span::Word;
use crate::suggest;

/// A stage in progress.
pub(super) struct StageInProgress<'l, 'a> {
    pub lowering: &'l mut Lowering<'a>,
    pub index: usize,
    pub state: State,
    pub steps: Steps,
    /// Whether this stage has set CMD: then ENTRYPOINT leaves it alone.
    pub cmd_set: bool,
}

impl<'a> Lowering<'a> {
    /// Lowers a stage. Faults go to `found`, and lowering goes on to find more.
    pub(super) fn stage(&mut self, index: usize, resolved: &ResolvedStage) -> State {
        let file = self.file;
        let stage = &file.stages[index];
        lint::stage(stage, file.escape, &mut self.found);
        let name = if file.stages.len() == 1 { String::new() } else { file.stage_name(index) };
        let from_image = matches!(&resolved.base, Base::Image(image) if image.context.is_none());
        let commands = resolved.triggers.iter().map(|(trigger, _)| trigger).chain(&stage.commands);
        let mut steps = Steps::new(name, from_image, commands);
        let build = &self.options.build_platform;
        steps.machine = machine::prefix(&resolved.platform, build, self.says_machine, &Env::default());
        let state = match &resolved.base {
            Base::Scratch => State::scratch(&resolved.platform),
            Base::Stage(below) => match &self.states[*below] {
                Some(state) => {
                    let mut child = state.inherit();
                    self.settle(&mut child);
                    // A refusal shows in `finish`: the budget stays empty.
                    let _ = self.budget.spend(child.weight());
                    child
                }
                // A stage beneath a needed one is needed; see `needs`.
                None => State::scratch(&resolved.platform),
            },
            Base::Tree(key) => {
                let edge = Some(self.named_tree(key));
                let mut state = State { edge, context: Some(key.clone()), ..State::scratch(&resolved.platform) };
                if !resolved.replaced {
                    self.settle(&mut state);
                }
                state
            }
            Base::Result(key) => {
                let edge = self.result(key);
                let config = self.names.result(key).and_then(|result| result.config.clone());
                let state = match config {
                    Some(config) => State::from_image(edge, Rc::new(config), &resolved.platform),
                    None => State { edge, ..State::scratch(&resolved.platform) },
                };
                // As above: a refusal shows in `finish`.
                let _ = self.budget.spend(state.weight());
                State { on_result: true, ..state }
            }
            Base::Image(image) => {
                let place = Some(stage.from.base.span.range());
                let edge = self.image(image, place, |text| steps.next(false, &text));
                let unknown = !self.answers.contains_key(&image.question);
                let config = self.image_config(&image.question);
                if image.context.is_none() {
                    self.found.extend(lint::from::base_platform(&stage.from.base, &image.question, &config));
                }
                // As above: a refusal shows in `finish`.
                let _ = self.budget.spend(super::state::config_weight(&config.config));
                State { unknown, ..State::from_image(edge, config, &resolved.platform) }
            }
        };
        let mut progress = StageInProgress { lowering: self, index, state, steps, cmd_set: false };
        for (trigger, origin) in &resolved.triggers {
            progress.instruction(trigger, origin);
        }
        let own = if resolved.replaced { &[][..] } else { &stage.commands };
        for command in own {
            progress.instruction(command, &Origin::File);
        }
        progress.state
    }
}

impl StageInProgress<'_, '_> {
    fn instruction(&mut self, instruction: &Instruction, origin: &Origin) {
        let size = instruction.source.len() as u64 + INSTRUCTION_BYTES;
        let result = match self.lowering.budget.spend(size) {
            // `finish` reports it once.
            Err(_) => return,
            Ok(()) => self.dispatch(instruction, origin),
        };
        if let Err(fault) = result {
            self.lowering.found.push(origin.show(fault));
        }
    }

    fn dispatch(&mut self, instruction: &Instruction, origin: &Origin) -> Result<(), Diagnostic> {
        match &instruction.kind {
            Kind::Run(run) => self.run(run, instruction, origin),
            Kind::Copy(copy) => self.copy(copy, instruction, origin),
            Kind::Workdir(path) => self.workdir(path, instruction, origin),
            Kind::Env(pairs) => self.env(pairs, origin),
            Kind::Label(pairs) => self.label(pairs, origin),
            Kind::Arg(declarations) => self.arg(declarations, origin),
            Kind::User(user) => self.user(user, origin),
            Kind::Volume(paths) => self.volume(paths, origin),
            Kind::Expose(ports) => self.expose(ports, origin),
            Kind::Stopsignal(signal) => self.stopsignal(signal, origin),
            Kind::Shell(words) => {
                self.shell(words);
                Ok(())
            }
            Kind::Cmd(command) => {
                self.lint(lint::command::shell_form("CMD", command, &self.state.config.shell), origin);
                self.cmd(command);
                Ok(())
            }
            Kind::Entrypoint(command) => {
                self.lint(lint::command::shell_form("ENTRYPOINT", command, &self.state.config.shell), origin);
                self.entrypoint(command);
                Ok(())
            }
            Kind::Healthcheck(check) => {
                self.healthcheck(check);
                Ok(())
            }
            Kind::Onbuild(onbuild) => {
                self.state.config_mut().on_build.push(onbuild.text.clone());
                Ok(())
            }
            Kind::Maintainer(name) => {
                self.state.author = name.text.as_str().into();
                self.record(format!("MAINTAINER {}", name.text), None);
                Ok(())
            }
            // FROM starts a stage and is not among its commands.
            Kind::From(_) => Ok(()),
        }
    }

    /// The value of a word, with a warning for variables that are not set.
    pub(super) fn expand(&mut self, word: &Word, origin: &Origin) -> Result<String, Diagnostic> {
        let rules = Rules::ordinary(self.escape(origin));
        let expansion = expand(&word.text, rules, &*self.state.env, &self.lowering.budget)
            .map_err(|error| unexpandable(word, &error))?;
        self.warn_unset(&expansion.unset, word, origin);
        Ok(expansion.text)
    }

    /// The words that a word expands to.
    pub(super) fn expand_words(&mut self, word: &Word, origin: &Origin) -> Result<Vec<String>, Diagnostic> {
        let rules = Rules::ordinary(self.escape(origin));
        let (words, unset) = expand_words(&word.text, rules, &*self.state.env, &self.lowering.budget)
            .map_err(|error| unexpandable(word, &error))?;
        self.warn_unset(&unset, word, origin);
        Ok(words)
    }

    /// The escape character: triggers of images are always written with a backslash.
    pub(super) fn escape(&self, origin: &Origin) -> char {
        match origin {
            Origin::File | Origin::StageTrigger => self.lowering.file.escape,
            Origin::Trigger { .. } => '\\',
        }
    }

    /// Takes findings of the linter; those about the text of another file are of no use here.
    pub(super) fn lint(&mut self, found: impl IntoIterator<Item = Diagnostic>, origin: &Origin) {
        if !matches!(origin, Origin::Trigger { .. }) {
            self.lowering.found.extend(found);
        }
    }

    pub(super) fn warn_unset(&mut self, unset: &[String], word: &Word, origin: &Origin) {
        if self.state.unknown {
            return;
        }
        for name in unset.iter().map(String::as_str) {
            if self.state.args.get(name).is_some() {
                continue;
            }
            let help = if PLATFORM_ARGS.contains(&name) || self.lowering.globals.get(name).is_some() {
                format!("write `ARG {name}` in this stage before it is used")
            } else {
                suggest::did_you_mean(name, self.state.env.names())
                    .unwrap_or_else(|| format!("declare it with `ARG {name}` or `ENV {name}=…`"))
            };
            self.lowering.found.push(origin.show(lint::undefined(word, name, help)));
        }
    }

    /// The text of an instruction as a step's name, variables put in where they are set.
    pub(super) fn describe(&self, text: &str, keep: bool, origin: &Origin) -> String {
        let rules = Rules { keep_quotes: keep, keep_unset: keep, ..Rules::ordinary(self.escape(origin)) };
        match expand(text, rules, &*self.state.env, &self.lowering.budget) {
            Ok(expansion) => expansion.text,
            Err(_) => text.to_owned(),
        }
    }

    /// What stands beside the operation of a step.
    pub(super) fn meta(&mut self, text: &str, origin: &Origin) -> OpMeta {
        let build = &self.lowering.options.build_platform;
        let always = self.lowering.says_machine;
        self.steps.machine = machine::prefix(&self.state.platform, build, always, &self.state.env);
        OpMeta {
            description: self.steps.next(origin.is_trigger(), text),
            ignore_cache: self.lowering.options.no_cache || self.is_without_cache(),
            ..OpMeta::default()
        }
    }

    /// Whether the cache does not count for this stage.
    fn is_without_cache(&self) -> bool {
        let name = self.lowering.file.stages[self.index].from.name.as_ref();
        let listed =
            |name: &Word| self.lowering.options.no_cache_stages.iter().any(|s| s.eq_ignore_ascii_case(&name.text));
        name.is_some_and(listed)
    }

    /// A history entry; with an edge it makes a layer.
    pub(super) fn record(&mut self, created_by: String, edge: Option<Edge>) {
        self.state.history = Some(self.lowering.history.push(self.state.history, created_by, edge));
    }
}
