//! What a target takes from outside: BuildKit's subrequest `frontend.outline` 1.0.0.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::document::{Document, Location};
use crate::error::{Diagnostic, in_order};
use crate::instr::{ArgDeclaration, Kind};
use crate::lint::variables;
use crate::lower::env::Env;
use crate::lower::globals::PLATFORM_ARGS;
use crate::lower::outline::{Taken, TakenMount};
use crate::plan::{Answers, PlanOptions};
use crate::stage::Dockerfile;
use crate::{empty, group, lower, parse};

/// The parameters of a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outline {
    /// The target's name; empty when it has none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// What the comment above it says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// Its build args, in the order of the text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Arg>,
    /// Its secrets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<Secret>,
    /// Its agents.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ssh: Vec<Secret>,
    /// Its cache directories.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cache: Vec<CacheMount>,
    /// The text in base64.
    pub sources: Vec<String>,
}

/// A build arg.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Arg {
    /// Its name.
    pub name: String,
    /// What the comment above it says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The value that it has: what was passed, or its default.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Its ARG.
    pub location: Location,
}

/// A secret or an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Secret {
    /// Its id.
    pub name: String,
    /// Whether a step that uses it fails without it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub required: bool,
    /// The first step that uses it.
    pub location: Location,
}

/// A cache directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CacheMount {
    /// Its id, without the namespace.
    #[serde(rename = "ID")]
    pub id: String,
    /// The first step that uses it.
    pub location: Location,
}

/// Lists what the target of the options takes. Images need not be known.
///
/// # Errors
/// Every fault of form, and a target that does not exist, in the order of the text.
pub fn outline(text: &str, options: &PlanOptions, answers: &Answers) -> Result<Outline, Vec<Diagnostic>> {
    if let Some(empty) = empty(text) {
        return Err(vec![empty]);
    }
    let (ast, mut found) = parse::parse(text);
    let file = group(text, ast.clone(), &mut found);
    let taken = lower::outline::outline(&file, options, answers, found).map_err(in_order)?;
    let document = Document::new(text, &ast);
    let name = file.stages[taken.target].from.name.as_ref().map(|name| name.text.clone()).unwrap_or_default();
    let from = document.stages().nth(taken.target).filter(|_| !name.is_empty());
    let (mut secrets, mut ssh, mut cache) = (Once::default(), Once::default(), Once::default());
    for (mount, place) in &taken.mounts {
        let (list, id, required) = match mount {
            TakenMount::Secret { id, required } => (&mut secrets, id, *required),
            TakenMount::Ssh { id, required } => (&mut ssh, id, *required),
            TakenMount::Cache { id } => (&mut cache, id, false),
        };
        list.add(id, required, || document.location(place.clone()));
    }
    Ok(Outline {
        description: from.map(|statement| document.description(statement, &name)).unwrap_or_default(),
        name,
        args: args(&document, &file, &taken),
        secrets: secrets.list,
        ssh: ssh.list,
        cache: cache.list.into_iter().map(|used| CacheMount { id: used.name, location: used.location }).collect(),
        sources: document.sources(),
    })
}

/// Things that steps use, each once.
#[derive(Default)]
struct Once {
    list: Vec<Secret>,
    index: HashMap<String, usize>,
}

impl Once {
    /// Required when one step requires it.
    fn add(&mut self, id: &str, required: bool, location: impl FnOnce() -> Location) {
        match self.index.get(id) {
            Some(&known) => self.list[known].required |= required,
            None => {
                self.index.insert(id.to_owned(), self.list.len());
                self.list.push(Secret { name: id.to_owned(), required, location: location() });
            }
        }
    }
}

/// The ARGs of the stages that are needed, each name once: what the target itself says first. One without a default
/// that is also declared before the first FROM is the one there. Of those before the first FROM, also what FROM uses.
fn args(document: &Document<'_>, file: &Dockerfile, taken: &Taken) -> Vec<Arg> {
    let mut args: Vec<(usize, Arg)> = Vec::new();
    let mut seen: HashSet<String> = HashSet::new();
    let mut used: HashSet<String> = HashSet::new();
    let mut take = |arg: &ArgDeclaration, values: &Env| {
        let name = &arg.name.text;
        if !seen.insert(name.clone()) {
            return;
        }
        let at = arg.name.span.start;
        let statement = document.statement(at);
        args.push((
            at,
            Arg {
                name: name.clone(),
                description: statement.map(|statement| document.description(statement, name)).unwrap_or_default(),
                value: values.get(name).unwrap_or_default().to_owned(),
                location: document
                    .location(statement.map_or(arg.name.span.range(), |statement| statement.span().range())),
            },
        ));
    };
    let global: HashSet<&str> = file.global_args.iter().map(|arg| arg.name.text.as_str()).collect();
    for stage in &taken.stages {
        for command in &file.stages[stage.index].commands {
            let Kind::Arg(declarations) = &command.kind else { continue };
            for arg in declarations {
                let name = arg.name.text.as_str();
                if arg.value.is_none() && global.contains(name) {
                    used.insert(name.to_owned());
                } else if arg.value.is_some() || !PLATFORM_ARGS.contains(&name) {
                    take(arg, &stage.args);
                }
            }
        }
        let from = &file.stages[stage.index].from;
        for word in [Some(&from.base), from.platform.as_ref()].into_iter().flatten() {
            used.extend(variables(&word.text, file.escape));
        }
    }
    for arg in file.global_args.iter().rev() {
        if used.contains(&arg.name.text) {
            take(arg, &taken.globals);
            // Each may refer to earlier ones.
            used.extend(arg.value.iter().flat_map(|default| variables(&default.text, file.escape)));
        }
    }
    args.sort_by_key(|(at, _)| *at);
    args.into_iter().map(|(_, arg)| arg).collect()
}
