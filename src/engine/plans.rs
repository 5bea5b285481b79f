//! The plans of a build, one per platform, as one graph.
//!
//! In: options, and who answers questions. Out: [`Plans`]. Vertices are named by what they are, so what several
//! platforms have in common (a stage on `$BUILDPLATFORM`, what comes from the context) is there once and runs once. Each
//! distinct question about an image is asked once for all of them; what is remarked of several is said once.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use frontend::{Answers, Diagnostic, Plan, PlanOptions, PlanOutput, Planned};
use oci::model::Platform;
use oci::registry::Client;
use solver::graph::{Graph, VertexId};
use solver::seam::Progress;
use store::Store;

use super::context::Context;
use super::policy::Policy;
use super::resolve::{Ask, Resolver};
use super::{Failure, FailureKind, Problem, Settings, Text, words};
use crate::options::BuildOptions;

/// What a build is to make.
#[derive(Debug)]
pub struct Plans {
    /// The operations of all platforms.
    pub graph: Arc<Graph>,
    /// One image per platform, in the order of their mention.
    pub images: Vec<PlannedImage>,
    /// Where each operation stands in the text.
    pub spans: HashMap<VertexId, Range<usize>>,
    /// What is probably not meant.
    pub warnings: Vec<Diagnostic>,
    /// Whether a client made it.
    pub is_of_client: bool,
}

/// The image for a platform.
#[derive(Clone, Debug)]
pub struct PlannedImage {
    /// The platform that was asked for; the image's own config may say another, or less.
    pub platform: Platform,
    /// What is wanted of the graph, and of which config.
    pub output: PlanOutput,
    /// Whether nobody knows yet how many layers are beneath its steps, as somebody else defined what they stand on: then
    /// its history is fitted to the layers.
    pub is_fitted: bool,
}

impl Plans {
    /// Puts the plans of one file for several platforms together.
    pub fn of(plans: Vec<(Platform, Plan)>) -> Self {
        let mut all = (Graph::new(), Vec::new(), HashMap::new(), Vec::<Diagnostic>::new());
        let (graph, images, spans, warnings) = (&mut all.0, &mut all.1, &mut all.2, &mut all.3);
        for (platform, plan) in plans {
            graph.absorb(plan.graph);
            images.push(PlannedImage { platform, output: plan.output, is_fitted: plan.on_result });
            for (vertex, span) in plan.spans {
                spans.entry(vertex).or_insert(span);
            }
            let news: Vec<_> = plan.warnings.into_iter().filter(|found| !warnings.contains(found)).collect();
            warnings.extend(news);
        }
        let (graph, images, spans, warnings) = all;
        Self { graph: Arc::new(graph), images, spans, warnings, is_of_client: false }
    }

    /// The same with the sources that a policy allows; its images were asked for under it.
    ///
    /// # Errors
    /// Every source that is denied, with its place.
    fn under(mut self, policy: &Policy, text: &Text) -> Result<Self, Failure> {
        let converted = policy.graph(&self.graph, false).map_err(|found| {
            let place = |(id, mut problem): (VertexId, Problem)| {
                problem.snippet = self.spans.get(&id).map(|span| text.snippet(span.clone(), ""));
                problem
            };
            Failure { kind: FailureKind::Build, problems: found.into_iter().map(place).collect() }
        })?;
        let Some(converted) = converted else { return Ok(self) };
        for output in self.images.iter_mut().map(|image| &mut image.output) {
            output.edge = output.edge.map(|edge| converted.edge(&edge));
            for step in &mut output.history {
                step.edge = step.edge.map(|edge| converted.edge(&edge));
            }
        }
        let spans = std::mem::take(&mut self.spans).into_iter();
        self.spans = spans.filter_map(|(id, span)| Some((*converted.vertices.get(&id)?, span))).collect();
        self.graph = Arc::new(converted.graph);
        Ok(self)
    }

    /// What is made of the results, in the order of the platforms.
    pub fn outputs(&self) -> impl Iterator<Item = &PlanOutput> {
        self.images.iter().map(|image| &image.output)
    }

    /// For which platforms a vertex is needed, in words; `None` when there is one only.
    pub fn needed_for(&self, vertex: &VertexId) -> Option<String> {
        if self.images.len() == 1 {
            return None;
        }
        let needs =
            |image: &&PlannedImage| image.output.edge.is_some_and(|edge| self.graph.beneath(edge).contains(vertex));
        let names: Vec<String> = self.images.iter().filter(needs).map(|image| image.platform.to_string()).collect();
        (!names.is_empty()).then(|| format!("needed for {}", names.join(", ")))
    }
}

/// Plans for every platform, and answers what the frontend asks, until there are plans; all `answers` are kept.
///
/// # Errors
/// What is wrong with the file, an image that cannot be had, a step that asks for what is not granted; which platform
/// it is about, if not all.
pub async fn plan(
    settings: &Settings,
    options: &BuildOptions,
    context: &Context,
    store: &Store,
    registry: &Client,
    progress: &Arc<dyn Progress>,
    answers: &mut Answers,
) -> Result<Plans, Failure> {
    let platforms = &options.input.platforms;
    let resolver = Resolver {
        layouts: context.named.layouts(),
        policy: options.input.policy.clone(),
        says_platform: platforms.len() > 1,
        ..Resolver::new(store.clone(), registry.clone(), Ask::of(options.pull, settings.offline), progress.clone())
    };
    let asked_of_frontend = PlanOptions {
        labels: options.labels.clone(),
        no_cache: options.no_cache,
        no_cache_stages: options.no_cache_stages.clone(),
        network: options.network,
        ulimits: options.provisions.ulimits.clone(),
        shm_size_bytes: options.provisions.shm_size_bytes,
        extra_hosts: options.provisions.extra_hosts.clone(),
        hostname: options.provisions.hostname.clone(),
        several_platforms: platforms.len() > 1,
        ..context.plan_options(settings, &options.input)
    };
    let text = &context.dockerfile;
    let plan_for = |platform: &Platform, answers: &Answers| {
        let asked = PlanOptions { platform: platform.clone(), ..asked_of_frontend.clone() };
        frontend::plan(&text.text, &asked, answers)
    };
    let mut plans: Vec<Option<Plan>> = vec![None; platforms.len()];
    loop {
        let mut questions = Vec::new();
        for (at, platform) in platforms.iter().enumerate().filter(|(at, _)| plans[*at].is_none()).collect::<Vec<_>>() {
            match plan_for(platform, answers) {
                Ok(Planned::Need(asked)) => questions.extend(asked),
                Ok(Planned::Plan(mut plan)) => {
                    let checked = super::grants::check(&plan, &options.steps, text)
                        .and_then(|()| super::rung::check(&plan, settings.rung, &options.steps, text));
                    checked.map_err(|failure| about(failure, platforms, platform, false))?;
                    plan.output.epoch = options.epoch.or(plan.output.epoch);
                    plans[at] = Some(*plan);
                }
                Err(found) => {
                    let is_of_all =
                        platforms.iter().all(|other| plan_for(other, answers).as_ref().err() == Some(&found));
                    return Err(about(words::diagnostics(&found, text), platforms, platform, is_of_all));
                }
            }
        }
        if questions.is_empty() {
            break;
        }
        resolver.answer(&questions, answers, text).await?;
    }
    let plans = plans.into_iter().map(|plan| plan.expect("nothing was asked in the last round"));
    let plans = Plans::of(platforms.iter().cloned().zip(plans).collect());
    plans.under(&options.input.policy, text)
}

/// Says which of several platforms a failure is about, unless it is about all of them.
fn about(mut failure: Failure, platforms: &[Platform], platform: &Platform, is_of_all: bool) -> Failure {
    if platforms.len() > 1 && !is_of_all {
        for problem in &mut failure.problems {
            problem.notes.push(format!("for the platform {platform}"));
        }
    }
    failure
}

#[cfg(test)]
mod tests {
    use frontend::ImageAnswer;
    use oci::model::{Digest, ImageConfig};
    use solver::graph::Vertex;

    use super::*;

    /// The plans of a text whose images are all there.
    fn plans(text: &str, platforms: &[&str]) -> Plans {
        let plan = |platform: &str| {
            let platform: Platform = platform.parse().expect("a platform");
            let options = PlanOptions {
                platform: platform.clone(),
                build_platform: "linux/amd64".parse().expect("a platform"),
                several_platforms: platforms.len() > 1,
                ..PlanOptions::default()
            };
            let mut answers = Answers::new();
            loop {
                match frontend::plan(text, &options, &answers).expect(text) {
                    Planned::Plan(plan) => return (platform, *plan),
                    Planned::Need(asked) => answers.extend(asked.into_iter().map(|asked| {
                        let Platform { os, architecture, variant, .. } = asked.question.platform.clone();
                        let config = ImageConfig { os, architecture, variant, ..ImageConfig::default() };
                        let digest = Digest::of(asked.question.platform.to_string().as_bytes());
                        (asked.question, ImageAnswer { name: None, digest, config })
                    })),
                }
            }
        };
        Plans::of(platforms.iter().map(|platform| plan(platform)).collect())
    }

    #[test]
    fn what_platforms_have_in_common_is_there_once() {
        let check = |text: &str, expected: usize| {
            let plans = plans(text, &["linux/amd64", "linux/arm64", "linux/riscv64"]);
            let runs = plans.graph.iter().filter(|(_, vertex, _)| matches!(vertex.op, solver::op::Op::Exec(_))).count();
            assert_eq!(runs, expected, "{text}");
        };
        check("FROM a\nRUN x\n", 3);
        check("FROM --platform=$BUILDPLATFORM a AS b\nRUN x\nFROM scratch\nCOPY --from=b /x /\n", 1);
        check("FROM --platform=$BUILDPLATFORM a AS b\nARG TARGETARCH\nRUN x\nFROM a\nCOPY --from=b /x /\nRUN y\n", 6);
    }

    #[test]
    fn warnings_are_said_once_and_images_are_in_order() {
        let plans = plans("from a\nMAINTAINER x\n", &["linux/riscv64", "linux/amd64"]);
        let rules: Vec<_> = plans.warnings.iter().filter_map(|found| found.rule).collect();
        let mut distinct = rules.clone();
        distinct.dedup();
        assert!(!rules.is_empty() && rules.len() == distinct.len(), "{rules:?}");
        let platforms: Vec<_> = plans.images.iter().map(|image| image.output.config.architecture.as_str()).collect();
        assert_eq!(platforms, ["riscv64", "amd64"]);
    }

    #[test]
    fn a_vertex_says_who_needs_it() {
        let text = "FROM --platform=$BUILDPLATFORM a AS b\nRUN x\nFROM a\nCOPY --from=b /x /\nRUN y\n";
        let several = plans(text, &["linux/amd64", "linux/arm64"]);
        let needed = |plans: &Plans, step: &str, machine: &str| {
            let is_it = |vertex: &Vertex| vertex.platform.as_ref().is_some_and(|known| known.architecture == machine);
            let mut vertices = plans.graph.iter();
            let found = vertices.find(|(_, vertex, meta)| meta.description.ends_with(step) && is_it(vertex));
            plans.needed_for(&found.expect(step).0)
        };
        assert_eq!(needed(&several, "RUN x", "amd64").as_deref(), Some("needed for linux/amd64, linux/arm64"));
        assert_eq!(needed(&several, "RUN y", "arm64").as_deref(), Some("needed for linux/arm64"));
        assert_eq!(needed(&plans(text, &["linux/arm64"]), "RUN y", "arm64"), None);
    }
}
