//! What a build would do, without doing it: the plan of a Dockerfile.
//!
//! In come options, out comes the plan. Images are answered as in a build; offline, the local store alone is asked, if
//! there is one, and nothing is fetched or made.

use std::sync::Arc;

use executor::source::given::Given;
use frontend::{Answers, Asked, Plan, PlanOptions, Planned};
use solver::seam::Progress;
use store::Store;
use tokio_util::sync::CancellationToken;

use super::check::Checker;
use super::context::Opener;
use super::resolve::{Ask, Resolver, known};
use super::{Failure, Settings, Text, words};
use crate::options::InputOptions;

/// Plans as a build does. `given` is for a context that is fetched.
///
/// # Errors
/// When the Dockerfile cannot be had or is faulty, or an image cannot be resolved.
pub async fn plan(
    settings: &Settings,
    input: &InputOptions,
    given: &Given,
    progress: Arc<dyn Progress>,
    cancel: CancellationToken,
) -> Result<(Text, Plan), Failure> {
    let store = settings.open_store(&progress)?;
    let connectivity = settings.connectivity();
    let given = &given.for_contexts(input.own_agent.clone());
    let opener = Opener { store: &store, progress: &progress, connectivity, given, cancel: &cancel };
    let context = opener.open(input).await?;
    let resolver = Resolver {
        layouts: context.named.layouts(),
        policy: input.policy.clone(),
        ..Resolver::new(
            store.clone(),
            settings.registry(&progress)?,
            Ask::of(false, settings.offline),
            progress.clone(),
        )
    };
    let options = context.plan_options(settings, input);
    let mut answers = Answers::new();
    loop {
        match planned(&context.dockerfile, &options, &answers)? {
            Planned::Plan(plan) => return Ok((context.dockerfile, *plan)),
            Planned::Need(asked) => tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(words::canceled()),
                answered = resolver.answer(&asked, &mut answers, &context.dockerfile) => answered?,
            },
        }
    }
}

/// Plans with what is on this machine.
///
/// # Errors
/// As [`plan`], and for images that the local store does not have.
pub fn plan_offline(settings: &Settings, input: &InputOptions) -> Result<(Text, Plan), Failure> {
    let checker = Checker::open(settings, input)?;
    let mut answers = Answers::new();
    loop {
        match planned(&checker.dockerfile, checker.options(), &answers)? {
            Planned::Plan(plan) => return Ok((checker.dockerfile, *plan)),
            Planned::Need(asked) => {
                for asked in asked {
                    answer_offline(checker.store(), asked, &mut answers, &checker.dockerfile)?;
                }
            }
        }
    }
}

fn planned(dockerfile: &Text, options: &PlanOptions, answers: &Answers) -> Result<Planned, Failure> {
    frontend::plan(&dockerfile.text, options, answers).map_err(|found| words::diagnostics(&found, dockerfile))
}

fn answer_offline(
    store: Option<&Store>,
    asked: Asked,
    answers: &mut Answers,
    dockerfile: &Text,
) -> Result<(), Failure> {
    let question = asked.question;
    let answer = match store.filter(|_| question.layout.is_none()) {
        Some(store) => known(store, &question)?,
        None => None,
    };
    if let Some(answer) = answer {
        answers.insert(question, answer);
        return Ok(());
    }
    let name = question.reference.familiar();
    let failure = match &question.layout {
        Some(layout) => Failure::new(format!("the image of the context `{layout}` is not read with `--offline`")),
        None => Failure::new(format!("the image `{name}` is not in the local store")),
    };
    let help = asked.help.unwrap_or_else(|| "without `--offline` the registry is asked".into());
    Err(words::at(failure.help(help), dockerfile, asked.span.as_ref()))
}
