//! Named contexts, `--build-context`: what the plan must know of them first, their trees once the plan wants them.
//!
//! In come the options' sources; out come [`frontend::NamedContext`]s before the plan, and after it the trees of those
//! that its graph really reads. A directory of the user is read in place and its own ignore file counts; what comes
//! from elsewhere is fetched only then. Images are asked for by the frontend like any other; see
//! [`crate::engine::resolve`].

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use frontend::{Diagnostic, NamedContext, Severity};
use oci::model::Reference;
use solver::graph::Graph;
use solver::op::Op;

use super::{Opener, Tree, text};
use crate::engine::{Failure, Problem};
use crate::options::context::{Layout, NamedSource, NamedValue, Place};

/// The registry of images that come from a layout: none has that name, so none is ever asked. RFC 6761, section 6.4.
const LAYOUT_REGISTRY: &str = "oci-layout.invalid";

/// Named contexts, of which some have a tree by now.
#[derive(Debug, Default)]
pub struct Named {
    sources: Vec<NamedSource>,
    trees: BTreeMap<String, Tree>,
}

impl Named {
    /// Looks at what is on this machine; fetches nothing.
    ///
    /// # Errors
    /// When a directory is not there, or its ignore file cannot be read.
    pub fn new(sources: &[NamedSource]) -> Result<Self, Failure> {
        let mut trees = BTreeMap::new();
        for NamedSource { name, value } in sources {
            let NamedValue::Tree(Place::Path(path)) = value else { continue };
            let facts = std::fs::metadata(path).map_err(|error| not_there(name, path, &error))?;
            if facts.is_dir() {
                let mut tree = Tree::of_user(path)?;
                tree.ignore = text::find_ignore(&tree.dir, None)?;
                trees.insert(name.clone(), tree);
            }
        }
        Ok(Self { sources: sources.to_vec(), trees })
    }

    /// Trees that are there, and nothing else.
    pub fn of_trees(trees: BTreeMap<String, Tree>) -> Self {
        Self { sources: Vec::new(), trees }
    }

    /// Takes the tree of a name from another place.
    pub fn replace(&mut self, name: &str, place: Place) {
        for source in self.sources.iter_mut().filter(|source| source.name == name) {
            source.value = NamedValue::Tree(place.clone());
        }
    }

    /// What the frontend must know of them.
    pub fn for_plan(&self) -> BTreeMap<String, NamedContext> {
        let context = |NamedSource { name, value }: &NamedSource| match value {
            NamedValue::Image(reference) => NamedContext::Image(reference.clone()),
            NamedValue::Scratch => NamedContext::Scratch,
            NamedValue::Layout(_) => NamedContext::Layout(layout_reference(name)),
            NamedValue::Result(definition) => NamedContext::Result(definition.result.clone()),
            NamedValue::Tree(_) => NamedContext::Tree {
                ignore_patterns: self.trees.get(name).map(Tree::ignore_patterns).unwrap_or_default(),
            },
        };
        self.sources.iter().map(|source| (source.name.clone(), context(source))).collect()
    }

    /// The layouts that questions may mean, by name.
    pub fn layouts(&self) -> BTreeMap<String, Layout> {
        let layout = |source: &NamedSource| match &source.value {
            NamedValue::Layout(layout) => Some((source.name.clone(), layout.clone())),
            _ => None,
        };
        self.sources.iter().filter_map(layout).collect()
    }

    /// All trees by now, by name.
    pub fn trees(&self) -> impl Iterator<Item = (&String, &Tree)> {
        let of_results = self.sources.iter().filter_map(|source| match &source.value {
            NamedValue::Result(definition) => Some(&definition.trees),
            _ => None,
        });
        of_results.flatten().map(|(name, tree)| (name, &**tree)).chain(&self.trees)
    }

    /// The tree of a name, if it has one by now.
    pub fn tree(&self, name: &str) -> Option<&Tree> {
        self.trees().find(|(known, _)| *known == name).map(|(_, tree)| tree)
    }

    /// Times by which trees are known so far, for the plan.
    pub fn times(&self) -> BTreeMap<String, i64> {
        self.trees.iter().filter_map(|(name, tree)| Some((name.clone(), tree.time?))).collect()
    }

    /// Fetches the tree of that name, unless it is there, or no tree.
    pub async fn fetch(&mut self, name: &str, opener: &Opener<'_>) -> Result<(), Failure> {
        if self.trees.contains_key(name) {
            return Ok(());
        }
        let found = self.sources.iter().find(|source| source.name == name);
        if let Some(NamedSource { value: NamedValue::Tree(place), .. }) = found {
            let tree = opener.named_tree(name, place).await?;
            self.trees.insert(name.to_owned(), tree);
        }
        Ok(())
    }

    /// Fetches the trees that the graph reads.
    pub async fn fetch_for(&mut self, graph: &Graph, opener: &Opener<'_>) -> Result<(), Failure> {
        for name in trees_of(graph) {
            self.fetch(&name, opener).await?;
        }
        Ok(())
    }

    /// Warnings about names that neither the file nor the graph mentions; suggests what the file does mention.
    pub fn unused(&self, dockerfile: &str, graph: &Graph) -> Vec<Problem> {
        if self.sources.is_empty() {
            return Vec::new();
        }
        let mentioned = mentioned(dockerfile);
        let read = trees_of(graph);
        // A name that a variable makes up may be any.
        if mentioned.iter().any(|name| name.contains('$')) {
            return Vec::new();
        }
        let mut warnings = Vec::new();
        for source in &self.sources {
            let plain = source.name.split_once("::").map_or(source.name.as_str(), |(name, _)| name);
            if mentioned.iter().any(|name| name == plain) || read.contains(&source.name) {
                continue;
            }
            let near = frontend::did_you_mean(plain, mentioned.iter().map(String::as_str));
            let help = near.unwrap_or_else(|| {
                format!("it stands for a stage or an image of that name, and for `--from={plain}`; nothing here is called so")
            });
            let message = format!("the named context `{}` is not used", source.name);
            warnings.push(Problem { help: Some(help), ..Problem::new(message) });
        }
        warnings
    }
}

/// The names of the trees that a graph reads, but the main one's.
fn trees_of(graph: &Graph) -> Vec<String> {
    let mut seen = HashSet::new();
    let sources = graph.iter().filter_map(|(_, vertex, _)| match &vertex.op {
        Op::Source(source) if source.scheme() == "local" && source.reference() != "context" => {
            Some(source.reference().to_owned())
        }
        _ => None,
    });
    sources.filter(|name| seen.insert(name.clone())).collect()
}

/// Every name of a stage or an image in a Dockerfile, as names of contexts are written.
fn mentioned(dockerfile: &str) -> Vec<String> {
    let (file, found) = frontend::read(dockerfile);
    if found.iter().any(|found: &Diagnostic| found.severity == Severity::Error) {
        return Vec::new();
    }
    let mut names = Vec::new();
    for stage in &file.stages {
        names.push(stage.from.base.text.clone());
        names.extend(stage.from.name.as_ref().map(|name| name.text.clone()));
        names.extend(stage.commands.iter().flat_map(|command| command.references()).map(|name| name.text.clone()));
    }
    for name in &mut names {
        if let Ok(reference) = name.to_lowercase().parse::<Reference>() {
            let familiar = reference.familiar();
            *name = familiar.strip_suffix(":latest").unwrap_or(&familiar).to_owned();
        }
    }
    names
}

/// A name for the image in a layout: only its digest says what it is.
fn layout_reference(name: &str) -> Reference {
    let path: String = name.split("::").next().unwrap_or(name).replace([':', '@'], "-");
    let text = format!("{LAYOUT_REGISTRY}/{path}");
    text.parse().unwrap_or_else(|_| {
        // A name is one of an image, and those without colons are paths; a long one may be too long with the registry.
        format!("{LAYOUT_REGISTRY}/image").parse().expect("this is a name")
    })
}

fn not_there(name: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(format!("the context `{name}` cannot be opened: `{}`", path.display()))
        .note(error.to_string())
        .help("paths after `--build-context NAME=` start at the directory you are in")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::context::named;

    fn sources(texts: &[&str]) -> Vec<NamedSource> {
        texts.iter().map(|text| named(text, |_| false).expect(text)).collect()
    }

    #[test]
    fn a_context_that_nothing_mentions_is_warned_about() {
        let check = |dockerfile: &str, context: &str, expected: Option<&str>| {
            let named = Named { sources: sources(&[context]), ..Named::default() };
            let warnings = named.unused(dockerfile, &Graph::new());
            let said = warnings.first().map(|found| found.help.clone().unwrap_or_default());
            match (said, expected) {
                (None, None) => {}
                (Some(said), Some(expected)) if said.contains(expected) => {}
                (said, _) => panic!("{dockerfile:?} {context}: {said:?}"),
            }
        };
        let file =
            "FROM debian AS base\nFROM golang:1.22 AS build\nCOPY --from=assets /a /a\nRUN --mount=from=cache x\n";
        check(file, "base=docker-image://x", None);
        check(file, "debian=docker-image://x", None);
        check(file, "docker.io/library/debian:latest=docker-image://x", None);
        check(file, "golang:1.22=docker-image://x", None);
        check(file, "assets=https://x.example/f", None);
        check(file, "cache=https://x.example/f", None);
        check(file, "Build::linux/arm64=https://x.example/f", None);
        check(file, "golang:1.21=docker-image://x", Some("did you mean `golang:1.22`?"));
        check(file, "bulid=docker-image://x", Some("did you mean `build`?"));
        check(file, "other=docker-image://x", Some("nothing here is called so"));
        check("ARG A\nFROM $A\n", "other=docker-image://x", None);
    }

    #[test]
    fn images_of_layouts_have_names_that_no_registry_has() {
        let check = |name: &str, expected: &str| assert_eq!(layout_reference(name).to_string(), expected);
        check("base", "oci-layout.invalid/base:latest");
        check("debian:12", "oci-layout.invalid/debian-12:latest");
        check("localhost:5000/a/b:1::linux/arm64", "oci-layout.invalid/localhost-5000/a/b-1:latest");
        check(&"a".repeat(250), "oci-layout.invalid/image:latest");
    }
}
