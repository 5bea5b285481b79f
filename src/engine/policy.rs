//! Source policies: rules that allow, deny and replace what a build is made of.
//!
//! In: a source as an operation names it. Out: the source that is used, or which rule denies it. The rules are those of
//! BuildKit, which `docker buildx` reads from `EXPERIMENTAL_BUILDKIT_SOURCE_POLICY` and sends: of rules that allow and deny
//! the last that matches counts; one that converts ends the round, and what it made is looked at again, up to
//! [`ROUNDS_MAX`] times. Every source is looked at before it is asked for: images by the name that they are asked by, trees
//! of contexts, addresses, repositories. What was converted goes by its new name, in keys and in what is told of the image.
//! Deliberately absent: reading rules ([`crate::options::policy`]).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use oci::model::Reference;
use regex::Regex;
use solver::graph::{Edge, Graph, Vertex, VertexId};
use solver::op::{Op, SourceOp};

use super::{Failure, FailureKind, Problem};

/// A source that is converted for ever is denied; this many conversions nobody writes.
const ROUNDS_MAX: usize = 20;
/// The scheme of images.
const IMAGE: &str = "docker-image";

/// Rules, in order. Empty, it allows all.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    rules: Arc<[Rule]>,
}

impl PartialEq for Policy {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.rules, &other.rules) || (self.rules.is_empty() && other.rules.is_empty())
    }
}

impl Eq for Policy {}

/// A rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What is done with a source that it selects.
    pub action: Action,
    /// The identifier that it selects, as it was written.
    pub written: String,
    /// The same, to be compared.
    pub pattern: Pattern,
    /// What the attributes must be.
    pub constraints: Vec<Constraint>,
    /// What a conversion makes of the identifier; empty keeps it. `${1}` is what the first group of the pattern matched.
    pub identifier: String,
    /// Attributes that a conversion sets.
    pub attrs: BTreeMap<String, String>,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Lets it be used.
    Allow,
    /// Does not.
    Deny,
    /// Uses another one.
    Convert,
}

/// How identifiers are compared; one that is written as it is always matches.
#[derive(Clone, Debug)]
pub enum Pattern {
    /// It is the identifier.
    Exact,
    /// A regular expression.
    Regex(Regex),
}

/// What an attribute must be; one that is missing is empty.
#[derive(Clone, Debug)]
pub enum Constraint {
    /// This.
    Equal(String, String),
    /// Not this.
    NotEqual(String, String),
    /// What this matches.
    Matches(String, Regex),
}

/// A wildcard as a regular expression: every `*` is a group that matches anything.
///
/// # Errors
/// When it is too large.
pub fn wildcard(text: &str) -> Result<Regex, regex::Error> {
    let parts: Vec<String> = text.split('*').map(regex::escape).collect();
    Regex::new(&format!("(?s)^{}$", parts.join("(.*)")))
}

impl Policy {
    /// Of these rules.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self { rules: rules.into() }
    }

    /// Its rules.
    #[cfg(test)]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Whether it allows all.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// What is used in place of a source; `None`: itself.
    ///
    /// # Errors
    /// When a rule denies it, naming the rule.
    pub fn apply(&self, source: &SourceOp) -> Result<Option<SourceOp>, Box<Problem>> {
        let mut now = source.clone();
        for _ in 0..ROUNDS_MAX {
            match self.round(&now)? {
                Some(next) => now = next,
                None if now == *source => return Ok(None),
                None => return Ok(Some(now)),
            }
        }
        let shown = solver::redact::addresses(&source.identifier);
        Err(Problem::new(format!("the source `{shown}` is converted again and again by the source policy")).into())
    }

    /// What the first conversion makes of it, if any changes it.
    fn round(&self, source: &SourceOp) -> Result<Option<SourceOp>, Box<Problem>> {
        let mut denied = None;
        for (at, rule) in self.rules.iter().enumerate() {
            if !rule.matches(source) {
                continue;
            }
            match rule.action {
                Action::Allow => denied = None,
                Action::Deny => denied = Some((at, rule)),
                Action::Convert => {
                    let converted = rule.convert(source);
                    if converted != *source {
                        check(source, &converted)?;
                        return Ok(Some(converted));
                    }
                }
            }
        }
        let Some((at, rule)) = denied else { return Ok(None) };
        let shown = solver::redact::addresses(&source.identifier);
        let mut problem = Problem::new(format!("the source `{shown}` is denied by the source policy"));
        problem.notes.push(format!("rule {} denies `{}`", at + 1, rule.written));
        Err(problem.into())
    }

    /// The image that is asked for in place of another; `None`: itself.
    ///
    /// # Errors
    /// When a rule denies it, or makes something else of it.
    pub fn image(&self, name: &Reference) -> Result<Option<Reference>, Failure> {
        if self.is_empty() {
            return Ok(None);
        }
        let source = SourceOp { identifier: format!("{IMAGE}://{name}"), attrs: BTreeMap::new() };
        let Some(converted) = self.apply(&source).map_err(|problem| of(*problem))? else { return Ok(None) };
        converted.reference().parse().map(Some).map_err(|error| Failure::from_error(&error))
    }

    /// An address or a repository that something is fetched from, as it is used.
    ///
    /// # Errors
    /// When a rule denies it.
    pub fn address(&self, source: &SourceOp) -> Result<Option<SourceOp>, Failure> {
        if self.is_empty() { Ok(None) } else { self.apply(source).map_err(|problem| of(*problem)) }
    }

    /// A graph whose sources are those that are used, with what every vertex is now; `None`: it stays. Images are
    /// looked at `images_too`; else they were when they were asked for.
    ///
    /// # Errors
    /// All sources that are denied, each with its vertex.
    pub fn graph(&self, graph: &Graph, images_too: bool) -> Result<Option<Converted>, Vec<(VertexId, Problem)>> {
        if self.is_empty() {
            return Ok(None);
        }
        let mut converted: HashMap<VertexId, SourceOp> = HashMap::new();
        let mut problems = Vec::new();
        for (id, vertex, _) in graph.iter() {
            let Op::Source(source) = &vertex.op else { continue };
            let is_image = matches!(source.scheme(), IMAGE | "oci-layout");
            if is_image && !images_too {
                continue;
            }
            match self.apply(source) {
                Ok(None) => {}
                Ok(Some(source)) => drop(converted.insert(id, source)),
                Err(problem) => problems.push((id, *problem)),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        if converted.is_empty() {
            return Ok(None);
        }
        let mut made = Converted { graph: Graph::new(), vertices: HashMap::new() };
        for (id, vertex, meta) in graph.iter() {
            let op = converted.remove(&id).map_or_else(|| vertex.op.clone(), Op::Source);
            let edge = |edge: &Edge| made.edge(edge);
            let vertex =
                Vertex { op, inputs: vertex.inputs.iter().map(edge).collect(), platform: vertex.platform.clone() };
            let now = made.graph.add(vertex, meta.clone()).expect("it is the same graph with other sources");
            made.vertices.insert(id, now);
        }
        Ok(Some(made))
    }
}

/// A graph with other sources.
#[derive(Clone, Debug)]
pub struct Converted {
    /// The graph.
    pub graph: Graph,
    /// What every vertex of the given graph is now.
    pub vertices: HashMap<VertexId, VertexId>,
}

impl Converted {
    /// What an edge of the given graph is now.
    pub fn edge(&self, edge: &Edge) -> Edge {
        Edge { vertex: self.vertices.get(&edge.vertex).copied().unwrap_or(edge.vertex), output: edge.output }
    }
}

/// A failure of one problem.
fn of(problem: Problem) -> Failure {
    Failure { kind: FailureKind::Build, problems: vec![problem] }
}

/// What a source may become: images stay images, and nothing becomes a directory that nobody has.
fn check(source: &SourceOp, converted: &SourceOp) -> Result<(), Box<Problem>> {
    let (from, to) = (source.scheme(), converted.scheme());
    let is_fine = match (from, to) {
        (from, to) if from == to => true,
        (IMAGE, _) | (_, IMAGE) => false,
        (_, to) => matches!(to, "http" | "https" | "git"),
    };
    if is_fine {
        return Ok(());
    }
    let shown = |source: &SourceOp| solver::redact::addresses(&source.identifier).into_owned();
    Err(Problem::new(format!(
        "the source policy makes `{}` of `{}`, which is of another kind",
        shown(converted),
        shown(source)
    ))
    .into())
}

impl Rule {
    fn matches(&self, source: &SourceOp) -> bool {
        let attr = |name: &str| source.attrs.get(name).map(String::as_str).unwrap_or_default();
        let holds = |constraint: &Constraint| match constraint {
            Constraint::Equal(name, value) => attr(name) == value,
            Constraint::NotEqual(name, value) => attr(name) != value,
            Constraint::Matches(name, pattern) => pattern.is_match(attr(name)),
        };
        let is_named = self.written == source.identifier
            || matches!(&self.pattern, Pattern::Regex(pattern) if pattern.is_match(&source.identifier));
        is_named && self.constraints.iter().all(holds)
    }

    fn convert(&self, source: &SourceOp) -> SourceOp {
        let mut identifier = source.identifier.clone();
        if !self.identifier.is_empty() {
            identifier = match &self.pattern {
                Pattern::Regex(pattern) if pattern.is_match(&source.identifier) => {
                    let mut made = String::new();
                    let found = pattern.captures(&source.identifier);
                    found.iter().for_each(|found| found.expand(&self.identifier, &mut made));
                    made
                }
                _ => self.identifier.clone(),
            };
        }
        let mut attrs = source.attrs.clone();
        attrs.extend(self.attrs.clone());
        SourceOp { identifier, attrs }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(action: Action, written: &str) -> Rule {
        let pattern = Pattern::Regex(wildcard(written).expect("it is one"));
        Rule {
            action,
            written: written.into(),
            pattern,
            constraints: Vec::new(),
            identifier: String::new(),
            attrs: BTreeMap::new(),
        }
    }

    fn convert(written: &str, identifier: &str) -> Rule {
        Rule { identifier: identifier.into(), ..rule(Action::Convert, written) }
    }

    fn source(identifier: &str) -> SourceOp {
        SourceOp { identifier: identifier.into(), attrs: BTreeMap::new() }
    }

    #[track_caller]
    fn check(rules: Vec<Rule>, identifier: &str, expected: Result<&str, &str>) {
        let found = Policy::new(rules).apply(&source(identifier));
        let found = found.map(|found| found.map_or(identifier.to_owned(), |found| found.identifier));
        let found = found.map_err(|problem| format!("{} {}", problem.message, problem.notes.join(" ")));
        match (&found, expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected),
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
            _ => panic!("{identifier}: {found:?}, and not {expected:?}"),
        }
    }

    #[test]
    fn the_last_of_the_rules_that_allow_and_deny_counts() {
        let a = "docker-image://docker.io/library/a:1";
        check(vec![], a, Ok(a));
        check(vec![rule(Action::Deny, "*")], a, Err("rule 1 denies `*`"));
        check(vec![rule(Action::Deny, "*"), rule(Action::Allow, "docker-image://*")], a, Ok(a));
        check(vec![rule(Action::Allow, "*"), rule(Action::Deny, "*/a:*")], a, Err("rule 2 denies `*/a:*`"));
        check(vec![rule(Action::Deny, "docker-image://*/b:*"), rule(Action::Deny, "https://*")], a, Ok(a));
        // Nothing but the star is special.
        check(vec![rule(Action::Deny, "docker-image://docker?io/library/.:1")], a, Ok(a));
        let denied = rule(Action::Deny, "https://u:secret@h/*");
        let problem = Policy::new(vec![denied]).apply(&source("https://u:secret@h/x")).expect_err("it is denied");
        assert!(!problem.message.contains("secret"), "{problem:?}");
    }

    #[test]
    fn what_is_converted_is_looked_at_again() {
        let a = "docker-image://docker.io/library/a:1";
        let b = "docker-image://mirror.example/a:1";
        check(vec![convert("docker-image://docker.io/library/*", "docker-image://mirror.example/${1}")], a, Ok(b));
        let both = vec![convert(a, b), rule(Action::Deny, "docker-image://mirror.example/*")];
        check(both, a, Err("`docker-image://mirror.example/a:1` is denied"));
        check(vec![convert(a, b), rule(Action::Deny, a)], a, Ok(b));
        check(vec![convert(a, b), convert(b, a)], a, Err("again and again"));
        check(vec![convert(a, "https://h/a")], a, Err("of another kind"));
        check(vec![convert("https://h/a", a)], "https://h/a", Err("of another kind"));
        check(vec![convert("local://context", "oci-layout://x")], "local://context", Err("of another kind"));
        check(vec![convert("http://*", "https://$1")], "http://h/a", Ok("https://h/a"));
        let exact = Rule { pattern: Pattern::Exact, ..convert("https://h/*", "https://h/b") };
        check(vec![exact], "https://h/a", Ok("https://h/a"));
        let regex = Pattern::Regex(Regex::new("^https://(h|i)/(?<f>[^/]*)$").expect("it is one"));
        check(vec![Rule { pattern: regex, ..convert("", "https://$1/new/$f") }], "https://i/x", Ok("https://i/new/x"));
    }

    #[test]
    fn attributes_are_compared_and_set() {
        let name = || "http.checksum".to_owned();
        let mut with = source("https://h/a");
        with.attrs.insert(name(), "sha256:1".into());
        let check = |constraint: Constraint, expected: bool| {
            let policy = Policy::new(vec![Rule { constraints: vec![constraint], ..rule(Action::Deny, "*") }]);
            assert_eq!(policy.apply(&with).is_err(), expected);
        };
        check(Constraint::Equal(name(), "sha256:1".into()), true);
        check(Constraint::Equal(name(), "sha256:2".into()), false);
        check(Constraint::NotEqual(name(), "sha256:1".into()), false);
        check(Constraint::NotEqual("other".into(), "x".into()), true);
        check(Constraint::Matches(name(), Regex::new("^sha").expect("it is one")), true);
        check(Constraint::Matches("other".into(), Regex::new("^sha").expect("it is one")), false);
        let set = Rule { attrs: [(name(), "sha256:3".to_owned())].into(), ..convert("https://h/*", "") };
        let policy = Policy::new(vec![set]);
        let found = policy.apply(&with).expect("nothing denies it").expect("it has another sum");
        assert_eq!((found.identifier.as_str(), found.attrs[&name()].as_str()), ("https://h/a", "sha256:3"));
    }
}
