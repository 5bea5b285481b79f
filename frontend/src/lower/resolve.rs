//! What names mean: the FROM of every stage, and the trees that `--from` and `from=` name.
//!
//! A name is a stage, a named context or an image, in this order; a context of a stage's name replaces that stage.
//! Next: [`super::needs`] finds which of them the target needs.

use oci::model::{Platform, Reference};

use super::contexts::Contexts;
use super::env::Env;
use super::origin::Origin;
use crate::error::{Diagnostic, Refusal};
use crate::expand::{Budget, Rules, expand};
use crate::instr::Instruction;
use crate::plan::{ImageQuestion, NamedContext, NamedResult, PlanOptions};
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
    Image(Box<ImageBase>),
    /// The tree of the named context of that key.
    Tree(String),
    /// The result that the named context of that key is.
    Result(String),
}

/// An image as a base or as a tree to copy from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageBase {
    /// What is asked.
    pub question: ImageQuestion,
    /// The named context that says so.
    pub context: Option<String>,
}

/// What names may mean: the stages of the file and the named contexts.
pub struct Names<'a> {
    /// The file.
    pub file: &'a Dockerfile,
    /// What is asked for.
    pub options: &'a PlanOptions,
    /// Its named contexts.
    pub contexts: Contexts<'a>,
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
    /// Whether a named context replaces it: then nothing that stands in it is used.
    pub replaced: bool,
}

impl<'a> Names<'a> {
    /// The result that the named context of that key is.
    pub fn result(&self, key: &str) -> Option<&'a NamedResult> {
        match self.options.contexts.get(key) {
            Some(NamedContext::Result(result)) => Some(result),
            _ => None,
        }
    }

    /// Understands the FROM lines of all stages.
    pub fn bases(&self, globals: &Env, budget: &Budget, found: &mut Vec<Diagnostic>) -> Vec<ResolvedStage> {
        let mut stages: Vec<ResolvedStage> = Vec::with_capacity(self.file.stages.len());
        for (index, stage) in self.file.stages.iter().enumerate() {
            let mut fault = |fault: Diagnostic| found.push(fault);
            let asked = self.platform(index, globals, budget).map_err(&mut fault).unwrap_or_default();
            let platform = asked.as_ref().unwrap_or(&self.options.platform);
            let context = stage.from.name.as_ref().and_then(|name| self.contexts.base(&name.text, platform));
            let replaced = context.is_some();
            let base = match context {
                Some(base) => base,
                None => self.base(index, platform, globals, budget).map_err(&mut fault).unwrap_or(Base::Scratch),
            };
            let platform = match &base {
                Base::Stage(below) => stages[*below].platform.clone(),
                // Nothing is of no machine: what is put into it is for the target.
                Base::Scratch => self.options.platform.clone(),
                _ => platform.clone(),
            };
            debug_assert!(stage.span.start <= stage.span.end);
            stages.push(ResolvedStage { base, platform, triggers: Vec::new(), needed: false, replaced });
        }
        stages
    }

    /// The value of a word of FROM.
    fn expanded(&self, word: &Word, globals: &Env, budget: &Budget) -> Result<String, Diagnostic> {
        let found = expand(&word.text, Rules::ordinary(self.file.escape), globals, budget)
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
    }

    /// The `--platform` of a stage.
    fn platform(&self, index: usize, globals: &Env, budget: &Budget) -> Result<Option<Platform>, Diagnostic> {
        let Some(word) = &self.file.stages[index].from.platform else { return Ok(None) };
        let platform = self.expanded(word, globals, budget)?.parse::<Platform>().map_err(|error| {
            Diagnostic::error(word.span, error.to_string(), "").help("write `--platform=linux/arm64`")
        })?;
        Ok(Some(platform))
    }

    /// What a stage stands on.
    fn base(&self, index: usize, platform: &Platform, globals: &Env, budget: &Budget) -> Result<Base, Diagnostic> {
        let word = &self.file.stages[index].from.base;
        let name = self.expanded(word, globals, budget)?;
        if name == "scratch" {
            return Ok(Base::Scratch);
        }
        if let Some(stage) = self.file.base_stage(&name, index) {
            return Ok(Base::Stage(stage));
        }
        match self.contexts.base(&name, platform) {
            Some(base) => Ok(base),
            None => image(&name, word.span, platform),
        }
    }

    /// What a `--from` or `from=` means.
    pub fn tree(&self, name: &Word, inside: usize) -> Result<Base, Diagnostic> {
        if name.text.contains('$') {
            return Err(Diagnostic::error(name.span, "variables are not expanded in `--from`", "")
                .help("define a stage `FROM $NAME AS files` and write `--from=files`"));
        }
        let platform = &self.options.platform;
        let meaning = self.file.meaning(&name.text, inside);
        let is_number = name.text.bytes().all(|b| b.is_ascii_digit());
        // A context that replaces a later stage is there already.
        if matches!(meaning, Meaning::NotYet(_) | Meaning::Nothing)
            && !is_number
            && let Some(base) = self.contexts.base(&name.text, platform)
        {
            return Ok(base);
        }
        match meaning {
            Meaning::Earlier(stage) => Ok(Base::Stage(stage)),
            Meaning::NotYet(stage) if stage == inside => {
                Err(Diagnostic::error(name.span, format!("stage `{}` refers to itself", name.text), "this stage")
                    .help("only earlier stages can be referred to"))
            }
            Meaning::NotYet(stage) => {
                let message = format!("stage `{}` must be defined before it is referred to", name.text);
                let (later, here) = (self.file.stage_name(stage), self.file.stage_name(inside));
                let help = format!("move stage `{later}` above stage `{here}`");
                Err(Diagnostic::error(name.span, message, "this stage comes later").help(help))
            }
            Meaning::NoSuchNumber => {
                let message = format!("there is no stage {}", name.text);
                Err(Diagnostic::error(name.span, message, "")
                    .help(format!("stages are numbered from 0; before this one there are {inside}")))
            }
            Meaning::Nothing if name.text == "scratch" => Ok(Base::Scratch),
            Meaning::Nothing => image(&name.text, name.span, platform),
        }
    }

    /// What to tell when there is no image of that name: a stage or a context was perhaps meant.
    pub fn perhaps(&self, written: &str, inside: usize) -> Option<String> {
        if written.contains(['/', ':', '@']) {
            return None;
        }
        let earlier = self.file.stages[..inside].iter().rev().take(STAGES_SUGGESTED);
        let stages = earlier.filter_map(|stage| stage.from.name.as_ref()).map(|name| name.text.as_str());
        if let Some(name) = suggest::nearest(written, stages) {
            return Some(format!("no stage is called `{written}`; did you mean `{name}`?"));
        }
        let mut contexts: Vec<&str> = self.contexts.names().collect();
        contexts.sort_unstable();
        let name = suggest::nearest(written, contexts)?;
        Some(format!("no stage or context is called `{written}`; did you mean the context `{name}`?"))
    }
}

/// An image, for a machine.
fn image(name: &str, span: Span, platform: &Platform) -> Result<Base, Diagnostic> {
    let reference = name.parse::<Reference>().map_err(|error| {
        Refusal::new(error.to_string()).help("write a name like `debian:12` or `registry.example/team/app:1`").at(span)
    })?;
    let question = ImageQuestion { reference, platform: platform.clone(), layout: None };
    Ok(Base::Image(Box::new(ImageBase { question, context: None })))
}
