//! What a target takes from outside, once it is lowered: values of its ARGs, secrets, agents, cache directories.

use std::ops::Range;
use std::rc::Rc;

use solver::op::{MountKind, Op};

use super::env::Env;
use super::{Lowered, Purpose, lower};
use crate::error::Diagnostic;
use crate::plan::{Answers, PlanOptions};
use crate::stage::Dockerfile;

/// What a target takes.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// The stage that is the target.
    pub target: usize,
    /// The stages that it needs, itself first, then the others from the last to the first.
    pub stages: Vec<TakenStage>,
    /// Values of the variables before the first FROM.
    pub globals: Env,
    /// What its steps mount, with the place of the step.
    pub mounts: Vec<(TakenMount, Range<usize>)>,
}

/// A stage.
#[derive(Clone, Debug)]
pub struct TakenStage {
    /// Its index.
    pub index: usize,
    /// The last values of its ARGs, and of those that it inherits.
    pub args: Rc<Env>,
}

/// A mount whose content is not part of the build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TakenMount {
    /// A secret.
    Secret { id: String, required: bool },
    /// An agent.
    Ssh { id: String, required: bool },
    /// A cache directory.
    Cache { id: String },
}

/// Finds out what the target takes. Images need not be known, and values that cannot be had (`${VERSION:?}`) are no
/// fault here: whoever asks wants to know what to pass.
///
/// # Errors
/// Every fault of form, in no order.
pub fn outline(
    file: &Dockerfile,
    options: &PlanOptions,
    answers: &Answers,
    found: Vec<Diagnostic>,
) -> Result<Taken, Vec<Diagnostic>> {
    let Lowered { lowering, target, .. } = lower(file, options, answers, Purpose::Outline, found)?;
    let states = lowering.states.iter().enumerate().rev();
    let stages = states.filter_map(|(index, state)| Some((index, state.as_ref()?)));
    let stages = stages.map(|(index, state)| TakenStage { index, args: state.args.clone() }).collect();
    let namespace = options.build_args.get("BUILDKIT_CACHE_MOUNT_NS").map(String::as_str).unwrap_or_default();
    let mut mounts = Vec::new();
    for (id, vertex, _) in lowering.graph.iter() {
        let (Op::Exec(exec), Some(place)) = (&vertex.op, lowering.spans.get(&id)) else { continue };
        let env = exec.secret_env.iter().map(|secret| (secret.id.clone(), !secret.optional));
        let env = env.map(|(id, required)| TakenMount::Secret { id, required });
        let others = exec.mounts.iter().filter_map(|mount| match &mount.kind {
            MountKind::Secret { id, optional, .. } => Some(TakenMount::Secret { id: id.clone(), required: !optional }),
            MountKind::Ssh { id, optional, .. } => Some(TakenMount::Ssh { id: id.clone(), required: !optional }),
            MountKind::Cache { id, .. } => {
                // `run` puts the namespace in front.
                let id = id.strip_prefix(namespace).and_then(|id| id.strip_prefix('/')).unwrap_or(id);
                Some(TakenMount::Cache { id: id.to_owned() })
            }
            _ => None,
        });
        mounts.extend(env.chain(others).map(|mount| (mount, place.clone())));
    }
    mounts.sort_by_key(|(_, place)| place.start);
    Ok(Taken { target, stages, globals: lowering.globals, mounts })
}
