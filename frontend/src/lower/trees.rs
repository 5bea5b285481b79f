//! The trees that steps stand on and copy from: the build context, named contexts, images, other stages.
//!
//! Each becomes one source operation, whoever asks for it and however often.

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use oci::model::ImageConfig;
use solver::graph::Edge;
use solver::op::{FileOp, Op, OpMeta, SourceOp, attr};

use super::Lowering;
use super::resolve::{Base, ImageBase};
use super::state::State;
use crate::error::Diagnostic;
use crate::plan::{ImageQuestion, NamedContext};
use crate::span::Word;

impl Lowering<'_> {
    /// The build context.
    pub(super) fn context(&mut self) -> Edge {
        let options = self.options;
        self.local("context", || "[internal] load build context".into(), &options.ignore_patterns)
    }

    /// The tree of a named context.
    pub(super) fn named_tree(&mut self, key: &str) -> Edge {
        let options = self.options;
        let patterns: &[String] = match options.contexts.get(key) {
            Some(NamedContext::Tree { ignore_patterns }) => ignore_patterns,
            _ => &[],
        };
        self.local(key, || format!("[context {key}] load"), patterns)
    }

    /// The tree of a result, with the operations that make it.
    pub(super) fn result(&mut self, key: &str) -> Option<Edge> {
        let result = self.names.result(key)?;
        // Once per plan: who copies from it often must not pay for its operations as often.
        if self.results.insert(key.to_owned()) {
            self.graph.absorb(result.graph.clone());
        }
        result.edge
    }

    /// A tree of the caller, once per plan.
    pub(super) fn local(
        &mut self,
        name: &str,
        description: impl FnOnce() -> String,
        ignore_patterns: &[String],
    ) -> Edge {
        if let Some(known) = self.trees.get(name) {
            return *known;
        }
        let mut attrs = BTreeMap::new();
        if !ignore_patterns.is_empty() {
            let list = serde_json::Value::from(ignore_patterns.to_vec());
            attrs.insert(attr::EXCLUDE_PATTERNS.to_owned(), list.to_string());
        }
        let source = SourceOp { identifier: format!("local://{name}"), attrs };
        let meta = OpMeta { description: description(), ..OpMeta::default() };
        let edge = self.add(Op::Source(source), Vec::new(), None, meta, None);
        self.trees.insert(name.to_owned(), edge);
        edge
    }

    /// The config of an image, shared by all that stand on it.
    pub(super) fn image_config(&mut self, question: &ImageQuestion) -> Rc<ImageConfig> {
        let answers = self.answers;
        let config = || Rc::new(answers.get(question).map(|answer| answer.config.clone()).unwrap_or_default());
        self.images.entry(question.clone()).or_insert_with(config).clone()
    }

    /// The tree of an image, `None` when it has no layers. `describe` turns `FROM name` into the step's name; what a
    /// context says is named after the context instead.
    pub(super) fn image(
        &mut self,
        image: &ImageBase,
        place: Option<Range<usize>>,
        describe: impl FnOnce(String) -> String,
    ) -> Option<Edge> {
        let question = &image.question;
        let Some(answer) = self.answers.get(question) else {
            // A build is lowered when no question is left; what is only looked at may stand on unknown images.
            let source =
                SourceOp { identifier: format!("docker-image://{}", question.reference), attrs: BTreeMap::new() };
            let platform = Some(&question.platform);
            return Some(self.add(Op::Source(source), Vec::new(), platform, OpMeta::default(), place));
        };
        let layers =
            !answer.config.rootfs.diff_ids.is_empty() || answer.config.history.iter().any(|entry| !entry.empty_layer);
        if !layers {
            return None;
        }
        let reference = answer.name.as_ref().unwrap_or(&question.reference);
        let name = reference.with_digest(answer.digest).to_string();
        let scheme = if question.layout.is_some() { "oci-layout" } else { "docker-image" };
        let source = SourceOp { identifier: format!("{scheme}://{name}"), attrs: BTreeMap::new() };
        let description = match &image.context {
            Some(context) => format!("[context {context}] {name}"),
            None => describe(format!("FROM {name}")),
        };
        let meta = OpMeta { description, ..OpMeta::default() };
        Some(self.add(Op::Source(source), Vec::new(), Some(&question.platform), meta, place))
    }

    /// The tree that a `--from` means; `None` is the empty one.
    pub(super) fn tree(
        &mut self,
        name: &Word,
        inside: usize,
        place: Option<Range<usize>>,
    ) -> Result<Option<Edge>, Diagnostic> {
        Ok(match self.names.tree(name, inside)? {
            Base::Scratch => None,
            // An earlier stage that is referred to is needed, and lowered by now.
            Base::Stage(stage) => self.states[stage].as_ref().and_then(|state| state.edge),
            Base::Image(image) => self.image(&image, place, |name| name),
            Base::Tree(key) => Some(self.named_tree(&key)),
            Base::Result(key) => self.result(&key),
        })
    }

    /// Makes a layer of a context's tree, so that something can stand on it.
    pub(super) fn settle(&mut self, state: &mut State) {
        let (Some(key), Some(tree)) = (state.context.take(), state.edge) else { return };
        let description = format!("[context {key}] FROM {key}");
        let meta = OpMeta { description: description.clone(), ..OpMeta::default() };
        let edge = self.add(Op::File(FileOp::copy_of_tree()), vec![tree], None, meta, None);
        state.edge = Some(edge);
        state.history = Some(self.history.push(state.history, description, Some(edge)));
    }
}
