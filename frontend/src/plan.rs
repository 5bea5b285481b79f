//! What goes in and out of this crate: options, questions, answers, and the plan.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use oci::model::{Digest, ImageConfig, Platform, Reference};
use solver::graph::{Edge, Graph, VertexId};
use solver::op::NetworkMode;

use crate::error::Diagnostic;

/// What the caller asks for.
#[derive(Clone, Debug, Default)]
pub struct PlanOptions {
    /// The stage to build, by name or number; `None` is the last one.
    pub target: Option<String>,
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// `--label`: set on the image, over what the file says.
    pub labels: BTreeMap<String, String>,
    /// For which machine.
    pub platform: Platform,
    /// On which machine.
    pub build_platform: Platform,
    /// Whether other plans of the same build are for other machines: then the name of every step says for which it is.
    pub several_platforms: bool,
    /// Whether every step runs even when its result is known.
    pub no_cache: bool,
    /// The stages of which every step runs even when its result is known, by name, in any case of letters.
    pub no_cache_stages: Vec<String>,
    /// The network of every RUN step, whatever the file says; only `--network=none` of a step stays.
    pub network: Option<NetworkMode>,
    /// Limits of every RUN step's processes: (name, soft, hard).
    pub ulimits: Vec<(String, i64, i64)>,
    /// Size of every RUN step's `/dev/shm`; 0 is the default.
    pub shm_size_bytes: u64,
    /// Lines of every RUN step's `/etc/hosts`: (name, address).
    pub extra_hosts: Vec<(String, String)>,
    /// Host name of every RUN step; empty leaves it to the build arg `BUILDKIT_SANDBOX_HOSTNAME`, or to the default.
    pub hostname: String,
    /// The patterns of the ignore file, in order.
    pub ignore_patterns: Vec<String>,
    /// `--build-context`, by name; `name::os/arch` counts for that platform only and beats `name`. None is called
    /// `context`: that is the main one.
    pub contexts: BTreeMap<String, NamedContext>,
    /// Times that contexts are known by, in seconds since 1970: the main one as `context`, others by their names. What
    /// `SOURCE_DATE_EPOCH=context` means; a context without such a time is absent.
    pub context_times: BTreeMap<String, i64>,
}

/// What a named context is, as far as the plan must know. It stands for a stage or an image of its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamedContext {
    /// Another image.
    Image(Reference),
    /// The empty tree.
    Scratch,
    /// An image that the caller finds in an OCI image layout; asked for with [`ImageQuestion::layout`].
    Layout(Reference),
    /// A tree that the caller provides as the local source `local://<name>`.
    Tree {
        /// The patterns of the ignore file in it, in order.
        ignore_patterns: Vec<String>,
    },
    /// What the caller has operations for.
    Result(Arc<NamedResult>),
}

/// A result of other operations, which stands for a stage or an image.
#[derive(Debug)]
pub struct NamedResult {
    /// The operations; their sources are pinned.
    pub graph: Graph,
    /// Which of their outputs; `None` is the empty tree.
    pub edge: Option<Edge>,
    /// The config of its image, if it is one. Its history is told as far as it is known; `rootfs` counts for nothing.
    pub config: Option<ImageConfig>,
}

impl PartialEq for NamedResult {
    fn eq(&self, other: &Self) -> bool {
        // An edge names everything beneath it.
        (self.edge, &self.config) == (other.edge, &other.config)
    }
}

impl Eq for NamedResult {}

/// An image that must be known before the plan can be made.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageQuestion {
    /// Its name.
    pub reference: Reference,
    /// For which machine.
    pub platform: Platform,
    /// The named context whose OCI layout holds it; `None` means local store and registries.
    pub layout: Option<String>,
}

/// What is known of it.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageAnswer {
    /// The image that was looked for in place of the one that was asked for, if it is another.
    pub name: Option<Reference>,
    /// The digest of its manifest.
    pub digest: Digest,
    /// Its config.
    pub config: ImageConfig,
}

/// All answers so far.
pub type Answers = BTreeMap<ImageQuestion, ImageAnswer>;

/// What [`crate::plan`] returns.
#[derive(Clone, Debug)]
pub enum Planned {
    /// Answer these and call again with all answers.
    Need(Vec<Asked>),
    /// The plan.
    Plan(Box<Plan>),
}

/// A question and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The question.
    pub question: ImageQuestion,
    /// The image's name in the text.
    pub span: Option<Range<usize>>,
    /// What to tell when there is no such image: perhaps a stage was meant.
    pub help: Option<String>,
}

/// What to build.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The operations.
    pub graph: Graph,
    /// What is wanted of them.
    pub output: PlanOutput,
    /// Where each operation stands in the text.
    pub spans: HashMap<VertexId, Range<usize>>,
    /// What is probably not meant.
    pub warnings: Vec<Diagnostic>,
    /// The stages that the target does not need.
    pub skipped_stages: Vec<String>,
    /// Whether the target stands on a [`NamedResult`]: then nobody knows yet how many layers are beneath its steps, and
    /// its history has to be fitted to them.
    pub on_result: bool,
}

/// The image that the target makes.
#[derive(Clone, Debug)]
pub struct PlanOutput {
    /// Its tree; `None` is the empty one.
    pub edge: Option<Edge>,
    /// For which machine it is.
    pub platform: Platform,
    /// Its config. `rootfs.diff_ids` and `history` are those of the base image; the build's are appended when known.
    pub config: ImageConfig,
    /// The steps of the build, oldest first; those of stages that the target stands on included.
    pub history: Vec<HistoryStep>,
    /// `SOURCE_DATE_EPOCH`, in seconds since 1970: the time of the image, its history and its files. `None` keeps the
    /// true times.
    pub epoch: Option<i64>,
}

/// One step in the history of the image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryStep {
    /// By which instruction, in the words of other builders.
    pub created_by: String,
    /// `buildkit.dockerfile.v0`: readers of histories know it.
    pub comment: String,
    /// By whom.
    pub author: String,
    /// What it makes a layer record of; `None` when it makes none.
    pub edge: Option<Edge>,
}
