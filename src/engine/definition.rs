//! A build that begins with a graph and not with a Dockerfile: a client's definition.
//!
//! In: [`Definition`], a graph with the images that are to be made of its results. Out: what a build of a Dockerfile has
//! when it is planned, a [`Context`] and [`Plans`], so that all that follows is the same ([`super::build()`]). On the way
//! the client's directories are settled and brought, images pinned, and what is asked for compared with the grants.
//! Deliberately absent: where the graph comes from (`src/daemon/llb`).

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use frontend::PlanOutput;
use oci::model::{ImageConfig, Platform};
use oci::registry::Client;
use solver::graph::{Edge, Graph, VertexId};

use super::context::{Context, Opener};
use super::graph::directories::{Settled, settle};
use super::graph::image::default_config;
use super::graph::{self, Pinned, pin};
use super::plans::{PlannedImage, Plans};
use super::{Failure, Settings, Text};
use crate::options::BuildOptions;
use crate::options::theirs::Files;

/// Hears what every vertex of a graph is now.
pub type Renamed = dyn Fn(&HashMap<VertexId, VertexId>) + Send + Sync;

/// What is solved.
#[derive(Clone)]
pub struct Definition {
    /// The operations.
    pub graph: Arc<Graph>,
    /// The text that they were made of, if the client says.
    pub text: Option<Text>,
    /// Where each stands in it.
    pub spans: HashMap<VertexId, Range<usize>>,
    /// Who brings the directory of each source that is one.
    pub files: HashMap<VertexId, Arc<dyn Files>>,
    /// Hears which vertices its own became.
    pub renamed: Arc<Renamed>,
}

/// An image that is to be made of a result.
#[derive(Clone, Debug)]
pub struct DefinedImage {
    /// For which platform it is wanted.
    pub platform: Platform,
    /// The result; none is the empty tree.
    pub edge: Option<Edge>,
    /// Its config, if the client gives one.
    pub config: Option<ImageConfig>,
}

/// A definition, ready to be solved.
pub struct Prepared {
    /// The client's directories, and the text.
    pub context: Context,
    /// The graph.
    pub pinned: Pinned,
    /// Where each operation stands in the text.
    pub spans: HashMap<VertexId, Range<usize>>,
}

impl Definition {
    /// Settles, pins, checks, and brings directories.
    ///
    /// # Errors
    /// What [`graph::check()`] refuses, an image or a directory that cannot be had.
    pub async fn prepare(
        &self,
        wants: &[Edge],
        settings: &Settings,
        options: &BuildOptions,
        opener: &Opener<'_>,
        registry: &Client,
    ) -> Result<Prepared, Failure> {
        let Settled { graph, wants, vertices, directories } = settle(&self.graph, wants, &self.files)?;
        let pinned = pin(&graph, &wants, settings, opener.store, registry, opener.progress).await?;
        let now = |(given, settled): (&VertexId, &VertexId)| (*given, pinned.vertices[settled]);
        let now: HashMap<VertexId, VertexId> = vertices.iter().map(now).collect();
        (self.renamed)(&now);
        let spans = self.spans.iter().filter_map(|(given, span)| Some((*now.get(given)?, span.clone()))).collect();
        graph::check(&pinned.graph, settings.rung, &options.steps)?;
        let text = self.text.clone().unwrap_or_else(|| Text { name: String::new(), path: None, text: "".into() });
        let context = Context::of_directories(text, &directories, opener).await?;
        Ok(Prepared { context, pinned, spans })
    }
}

impl Prepared {
    /// What a build of these images has when it is planned.
    pub fn plans(self, images: &[DefinedImage], options: &BuildOptions) -> (Context, Plans) {
        let Self { context, pinned, spans } = self;
        // `prepare` was asked for the edges of those images that have one.
        let mut wants = pinned.wants.into_iter();
        let planned = images.iter().map(|image| {
            let platform = &image.platform;
            let config = image.config.clone().unwrap_or_else(|| default_config(platform));
            let output = PlanOutput {
                edge: image.edge.and_then(|_| wants.next()),
                platform: platform.clone(),
                config,
                history: Vec::new(),
                epoch: options.epoch,
            };
            PlannedImage { platform: platform.clone(), output }
        });
        let images = planned.collect();
        (context, Plans { graph: pinned.graph, images, spans, warnings: Vec::new(), is_of_client: true })
    }
}
