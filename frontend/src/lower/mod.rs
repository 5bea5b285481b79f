//! From stages to a plan: operations, image config, history.
//!
//! The order of things: every FROM line is understood ([`resolve::Names::bases`]), what the target needs is found
//! ([`needs::needs`]), what must be known about images is asked for, and then each needed stage is lowered in
//! order, instruction by instruction ([`stage`]). Read [`state`] for what a stage has become, [`env`] for its
//! variables, [`history`] and [`steps`] for the words that people see.

pub mod check;
pub mod contexts;
pub mod env;
pub mod epoch;
pub mod globals;
pub mod history;
pub mod inputs;
pub mod machine;
pub mod mounts;
pub mod needs;
pub mod origin;
pub mod outline;
pub mod paths;
pub mod remote;
pub mod resolve;
pub mod state;
pub mod steps;
pub mod syntax;
pub mod values;

mod config;
mod copy;
mod run;
mod stage;
mod trees;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::rc::Rc;

use oci::model::{ImageConfig, Platform};
use solver::graph::{Edge, Graph, Vertex, VertexId};
use solver::op::{Op, OpMeta};

use crate::error::{Diagnostic, Severity};
use crate::expand::{Budget, ExpandError};
use crate::lint;
use crate::plan::{Answers, Asked, ImageQuestion, Plan, PlanOptions, PlanOutput, Planned};
use crate::span::Word;
use crate::stage::Dockerfile;
use contexts::Contexts;
use env::Env;
use resolve::{Names, ResolvedStage};
use state::State;

/// What expansions, environments and operations of one file may take together, in bytes. A hundred thousand
/// ordinary instructions stay far below; a file made to explode stops here. Tests explode small files.
const BUDGET_BYTES: u64 = if cfg!(any(test, feature = "fuzzing")) { 16 << 20 } else { 512 << 20 };
/// What an instruction costs beside its text: its vertex and its history entry.
const INSTRUCTION_BYTES: u64 = 256;

/// What a file is lowered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be built: what the target needs; every image must be known.
    Build,
    /// To be judged: every stage, on empty images where they are not known.
    Check,
    /// To be described: what the target needs, on empty images likewise; only faults of form count.
    Outline,
}

/// Makes a plan, or asks. `found` holds what the parser found.
///
/// # Errors
/// Every error of the file, in no order; warnings among them when there is an error.
pub fn plan(
    file: &Dockerfile,
    options: &PlanOptions,
    answers: &Answers,
    found: Vec<Diagnostic>,
) -> Result<Planned, Vec<Diagnostic>> {
    let lowered = lower(file, options, answers, Purpose::Build, found)?;
    if !lowered.asked.is_empty() {
        return Ok(Planned::Need(lowered.asked));
    }
    lowered.lowering.finish(&lowered.stages, lowered.target)
}

/// Everything that can be found in a file without asking, in no order, and what would have been asked.
pub fn check(
    file: &Dockerfile,
    options: &PlanOptions,
    answers: &Answers,
    found: Vec<Diagnostic>,
) -> (Vec<Diagnostic>, Vec<Asked>) {
    match lower(file, options, answers, Purpose::Check, found) {
        Err(found) => (found, Vec::new()),
        Ok(Lowered { mut lowering, asked, .. }) => {
            if lowering.budget.spend(0).is_err() {
                lowering.found.push(Diagnostic::general(ExpandError::TooMuch.to_string()));
            }
            lowering.found.extend(globals::unused_build_args(file, options));
            (lowering.found, asked)
        }
    }
}

/// A file that was lowered, or, when something must be asked for a build, is ready to be.
struct Lowered<'a> {
    lowering: Lowering<'a>,
    stages: Vec<ResolvedStage>,
    target: usize,
    asked: Vec<Asked>,
}

fn lower<'a>(
    file: &'a Dockerfile,
    options: &'a PlanOptions,
    answers: &'a Answers,
    purpose: Purpose,
    mut found: Vec<Diagnostic>,
) -> Result<Lowered<'a>, Vec<Diagnostic>> {
    let budget = Budget::new(BUDGET_BYTES);
    match syntax::check(file.syntax.as_ref(), options) {
        // What is wrong with a file in another language is not for rbuild to say.
        Some(fault) if fault.severity == Severity::Error => return Err(vec![fault]),
        doubt => found.extend(doubt),
    }
    for command in file.stages.iter().flat_map(|stage| &stage.commands) {
        check::check(command, file.escape, &budget, &mut found);
    }
    if file.stages.is_empty() {
        if found.iter().all(|fault| fault.severity != Severity::Error) {
            found.push(
                Diagnostic::general("there is nothing to build: no FROM").help("start the file with `FROM image`"),
            );
        }
        return Err(found);
    }
    let names = Names { file, options, contexts: Contexts::new(options) };
    for (index, stage) in file.stages.iter().enumerate() {
        for name in stage.commands.iter().flat_map(|command| command.references()) {
            found.extend(names.tree(name, index).err());
        }
    }
    let target = file.target(options.target.as_deref());
    let known_target = *target.as_ref().unwrap_or(&0);
    found.extend(target.err());
    if purpose == Purpose::Outline && is_faulty(&found) {
        return Err(found);
    }
    let mut globals = globals::globals(file, options, known_target, &budget, &mut found);
    let epoch = epoch::resolve(file, options, &names.contexts, &mut globals).unwrap_or_else(|fault| {
        found.push(fault);
        epoch::Epoch::default()
    });
    let says_machine = machine::always(options).unwrap_or_else(|fault| {
        found.push(fault);
        false
    });
    let mut stages = names.bases(&globals, &budget, &mut found);
    lint_from_lines(file, options, known_target, &globals, &budget, &mut found);
    if purpose != Purpose::Outline && is_faulty(&found) {
        return Err(found);
    }
    let last = if purpose == Purpose::Check { stages.len() - 1 } else { known_target };
    stages.iter_mut().for_each(|stage| stage.needed = purpose == Purpose::Check);
    let asked = needs::needs(&names, &mut stages, last, answers, &budget, &mut found);
    if purpose == Purpose::Build && is_faulty(&found) {
        return Err(found);
    }
    let needed = file.stages.iter().zip(&stages).filter(|(_, stage)| stage.needed);
    let steps = needed.flat_map(|(stage, _)| &stage.commands).filter(|command| command.kind.makes_layer()).count();
    let mut lowering = Lowering {
        file,
        names,
        options,
        answers,
        globals,
        epoch,
        says_machine,
        proxy_env: globals::proxy_env(&options.build_args),
        budget,
        graph: Graph::with_capacity(steps),
        spans: HashMap::with_capacity(steps),
        history: history::History::default(),
        states: Vec::with_capacity(last + 1),
        trees: BTreeMap::new(),
        results: HashSet::new(),
        images: HashMap::new(),
        ignore: lint::paths::Ignore::new(&options.ignore_patterns),
        found,
    };
    if purpose == Purpose::Build && !asked.is_empty() {
        return Ok(Lowered { lowering, stages, target: known_target, asked });
    }
    for (index, stage) in stages.iter().enumerate().take(last + 1) {
        let state = if stage.needed { Some(lowering.stage(index, stage)) } else { None };
        lowering.states.push(state);
        if lowering.budget.spend(0).is_err() {
            break;
        }
    }
    Ok(Lowered { lowering, stages, target: known_target, asked })
}

/// The lint rules about FROM lines; they also look at what holds when no build arg is passed.
fn lint_from_lines(
    file: &Dockerfile,
    options: &PlanOptions,
    target: usize,
    globals: &Env,
    budget: &Budget,
    found: &mut Vec<Diagnostic>,
) {
    let expands = file.stages.iter().any(|stage| stage.from.base.text.contains('$'));
    let without = (expands && !options.build_args.is_empty()).then(|| {
        let bare = PlanOptions { build_args: BTreeMap::new(), ..options.clone() };
        // What is wrong with defaults was found with the build args, or is not in force with them.
        globals::globals(file, &bare, target, budget, &mut Vec::new())
    });
    lint::from::FromLines {
        file,
        given: globals,
        defaults: without.as_ref().unwrap_or(globals),
        platform: &options.platform,
        budget,
    }
    .judge(found);
}

fn is_faulty(found: &[Diagnostic]) -> bool {
    found.iter().any(|fault| fault.severity == Severity::Error)
}

/// The error of a word that cannot be expanded.
fn unexpandable(word: &Word, error: &ExpandError) -> Diagnostic {
    let shown: String = word.text.chars().take(60).collect();
    Diagnostic::error(word.span, format!("`{shown}` cannot be expanded: {error}"), "").maybe_help(error.help())
}

/// The work in progress.
struct Lowering<'a> {
    file: &'a Dockerfile,
    names: Names<'a>,
    options: &'a PlanOptions,
    answers: &'a Answers,
    globals: Env,
    epoch: epoch::Epoch,
    /// Whether the name of every step says for which machine it is.
    says_machine: bool,
    proxy_env: Vec<String>,
    budget: Budget,
    graph: Graph,
    spans: HashMap<VertexId, Range<usize>>,
    history: history::History,
    states: Vec<Option<State>>,
    /// The local sources so far, by name; the build context is `context`.
    trees: BTreeMap<String, Edge>,
    /// The named contexts whose operations are in the graph.
    results: HashSet<String>,
    images: HashMap<ImageQuestion, Rc<ImageConfig>>,
    /// What the ignore file leaves out of the context, for the linter.
    ignore: lint::paths::Ignore<'a>,
    found: Vec<Diagnostic>,
}

impl Lowering<'_> {
    /// Adds an operation; returns its first output.
    fn add(
        &mut self,
        op: Op,
        inputs: Vec<Edge>,
        platform: Option<&Platform>,
        meta: OpMeta,
        place: Option<Range<usize>>,
    ) -> Edge {
        let platform = platform.map(|platform| solver::op::Platform {
            os: platform.os.clone(),
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
            os_version: platform.os_version.clone(),
            os_features: platform.os_features.clone(),
        });
        let vertex = Vertex { op, inputs, platform };
        // Inputs are edges that this function returned, and indices come from their positions.
        let vertex = self.graph.add(vertex, meta).expect("lowering refers only to what it has added");
        if let Some(place) = place {
            self.spans.entry(vertex).or_insert(place);
        }
        Edge { vertex, output: 0 }
    }

    /// The value of a build arg.
    fn build_arg(&self, name: &str) -> Option<String> {
        match name {
            epoch::NAME if self.epoch.given => self.epoch.seconds.map(|seconds| seconds.to_string()),
            epoch::NAME => None,
            _ => self.options.build_args.get(name).cloned(),
        }
    }

    fn finish(mut self, stages: &[ResolvedStage], target: usize) -> Result<Planned, Vec<Diagnostic>> {
        if self.budget.spend(0).is_err() || self.states.len() <= target {
            self.found.push(Diagnostic::general(ExpandError::TooMuch.to_string()));
        }
        if is_faulty(&self.found) {
            return Err(self.found);
        }
        // The target is needed, and every needed stage has a state.
        let mut state = self.states[target].take().expect("the target was lowered");
        self.settle(&mut state);
        let on_result = state.on_result;
        let mut config = state.image();
        config.config.labels.extend(self.options.labels.clone());
        let platform = Platform {
            os: config.os.clone(),
            architecture: config.architecture.clone(),
            variant: config.variant.clone(),
            ..state.platform.clone()
        };
        let platform =
            if platform.os.is_empty() || platform.architecture.is_empty() { state.platform } else { platform };
        config.os.clone_from(&platform.os);
        config.architecture.clone_from(&platform.architecture);
        config.variant.clone_from(&platform.variant);
        let skipped = stages.iter().enumerate().filter(|(_, stage)| !stage.needed);
        let skipped_stages = skipped.map(|(index, _)| self.file.stage_name(index)).collect();
        self.found.extend(globals::unused_build_args(self.file, self.options));
        Ok(Planned::Plan(Box::new(Plan {
            output: PlanOutput {
                edge: state.edge,
                platform,
                config,
                history: self.history.up_to(state.history),
                epoch: self.epoch.seconds,
            },
            graph: self.graph,
            spans: self.spans,
            warnings: crate::error::in_order(self.found),
            skipped_stages,
            on_result,
        })))
    }
}
