//! A plan as a drawing: its stages, their steps, and what stands on what.
//!
//! In come the text and its [`Plan`], out comes a [`Drawing`], which is written as text, JSON, Graphviz' DOT or Mermaid.
//! The words in it come from the Dockerfile, so each form escapes them: a label cannot end its quotes. Deliberately
//! absent: what is cached, and values of operations (`plan` shows them).

mod dot;
mod mermaid;

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;

use serde_json::{Value, json};
use solver::graph::{Vertex, VertexId};
use solver::op::Op;

use crate::plan::Plan;

/// Longer labels are cut: a drawing is for an overview.
const LABEL_MAX_CHARS: usize = 64;
/// What is kept of a digest, as in lists of images.
const DIGEST_DIGITS: usize = 12;

/// A plan as boxes and arrows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drawing {
    /// First what belongs to no stage, because several may use it (the context); then the stages that have boxes.
    groups: Vec<Group>,
    /// The number of the box that makes the image; `None` when its tree is empty.
    output: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    stage: Option<Stage>,
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Stage {
    /// From 0, as `--from=0` counts.
    index: usize,
    name: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    /// That of the vertex in the plan, from 1.
    number: usize,
    kind: &'static str,
    label: String,
    uses: Vec<Use>,
}

/// An arrow that ends at the node that has it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Use {
    /// The number of the node where it begins.
    from: usize,
    /// What for: empty for the tree that a step stands on.
    role: String,
}

impl Drawing {
    /// Draws the plan that was made of `text`.
    pub fn of(text: &str, plan: &Plan) -> Self {
        let numbers = super::numbers(plan);
        let (file, _) = crate::read(text);
        // A vertex belongs to the stage in whose lines it stands.
        let starts: Vec<usize> = file.stages.iter().map(|stage| stage.span.start).collect();
        let group_of =
            |id: &VertexId| plan.spans.get(id).map_or(0, |place| starts.partition_point(|start| *start <= place.start));
        let mut groups = vec![Group { stage: None, nodes: Vec::new() }];
        groups.extend(file.stages.iter().enumerate().map(|(index, stage)| {
            let name = stage.from.name.as_ref().map(|name| name.text.clone());
            Group { stage: Some(Stage { index, name }), nodes: Vec::new() }
        }));
        for (id, vertex, meta) in plan.graph.iter() {
            let uses = uses(vertex, &numbers);
            let label = label(&meta.description);
            groups[group_of(&id)].nodes.push(Node { number: numbers[&id], kind: kind(&vertex.op), label, uses });
        }
        groups.retain(|group| !group.nodes.is_empty());
        Self { groups, output: plan.output.edge.as_ref().map(|edge| numbers[&edge.vertex]) }
    }

    /// One line a step, under its stage, with the numbers of the steps that it stands on.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let mut line = |text: String| writeln!(out, "{text}").expect("writing to a String cannot fail");
        for group in &self.groups {
            line(group.stage.as_ref().map_or("no stage".to_owned(), Stage::title));
            for node in &group.nodes {
                let uses = node.uses.iter().map(|used| {
                    let role = if used.role.is_empty() { String::new() } else { format!(" {}", used.role) };
                    format!("#{}{role}", used.from)
                });
                let uses = uses.collect::<Vec<_>>().join(", ");
                let uses = if uses.is_empty() { uses } else { format!("  <- {uses}") };
                line(format!("  #{} {}{uses}", node.number, node.label));
            }
        }
        line(self.output.map_or("output empty".to_owned(), |number| format!("output #{number}")));
        out
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        let groups = self.groups.iter().map(|group| {
            let nodes = group.nodes.iter().map(|node| {
                let uses = node.uses.iter().map(|used| json!({ "number": used.from, "role": used.role }));
                json!({
                    "number": node.number,
                    "kind": node.kind,
                    "label": node.label,
                    "uses": uses.collect::<Vec<_>>(),
                })
            });
            let stage = group.stage.as_ref().map(|stage| json!({ "index": stage.index, "name": stage.name }));
            json!({ "stage": stage, "nodes": nodes.collect::<Vec<_>>() })
        });
        json!({ "groups": groups.collect::<Vec<_>>(), "output": self.output })
    }

    /// For `dot` of Graphviz.
    pub fn dot(&self) -> String {
        dot::write(self)
    }

    /// For Mermaid, which forges and editors show in Markdown.
    pub fn mermaid(&self) -> String {
        mermaid::write(self)
    }
}

impl Stage {
    fn title(&self) -> String {
        match &self.name {
            Some(name) => format!("stage {}", visible(name)),
            None => format!("stage {}", self.index),
        }
    }
}

impl Drawing {
    fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.groups.iter().flat_map(|group| &group.nodes)
    }
}

fn kind(op: &Op) -> &'static str {
    match op {
        Op::Source(_) => "source",
        Op::Exec(_) => "exec",
        Op::File(_) => "file",
        Op::Merge(_) => "merge",
        Op::Diff(_) => "diff",
        Op::Build(_) => "build",
    }
}

/// What a vertex stands on; the same input for the same purpose is one arrow.
fn uses(vertex: &Vertex, numbers: &HashMap<VertexId, usize>) -> Vec<Use> {
    let mut roles: Vec<(usize, String)> = Vec::new();
    match &vertex.op {
        Op::Exec(exec) => {
            let used = exec.mounts.iter().filter_map(|mount| Some((mount.input?, mount)));
            roles.extend(used.map(|(input, mount)| {
                let role = if mount.target == "/" { String::new() } else { label(&format!("at {}", mount.target)) };
                (input, role)
            }));
        }
        Op::File(file) => {
            for action in &file.actions {
                roles.extend(action.input.map(|input| (input, String::new())));
                roles.extend(action.secondary_input.map(|input| (input, "copy".to_owned())));
            }
        }
        _ => roles.extend((0..vertex.inputs.len()).map(|input| (input, String::new()))),
    }
    let mut seen = HashSet::new();
    // Beyond the inputs, indices mean results of earlier actions of the same vertex.
    let known = roles.into_iter().filter_map(|(input, role)| Some((vertex.inputs.get(input)?, role)));
    known
        .map(|(edge, role)| Use { from: numbers[&edge.vertex], role })
        .filter(|found| seen.insert(found.clone()))
        .collect()
}

/// A description, short and visible.
fn label(description: &str) -> String {
    let short = shorten_digests(description);
    let mut chars = short.chars();
    let mut kept: String = chars.by_ref().take(LABEL_MAX_CHARS).collect();
    if chars.next().is_some() {
        kept.pop();
        kept.push('…');
    }
    visible(&kept)
}

/// Every `sha256:` with more digits than people read loses the rest of them.
fn shorten_digests(text: &str) -> String {
    const MARK: &str = "@sha256:";
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(MARK) {
        let (before, digits) = rest.split_at(at + MARK.len());
        let length = digits.bytes().take_while(u8::is_ascii_hexdigit).count();
        out.push_str(before);
        out.push_str(&digits[..length.min(DIGEST_DIGITS)]);
        rest = &digits[length..];
    }
    out + rest
}

/// Shows what would not be seen or would drive a terminal (control characters, directional marks) as Rust writes it in
/// strings; quotes and backslashes stay as they are.
fn visible(text: &str) -> String {
    let shown = format!("{text:?}");
    let mut chars = shown[1..shown.len() - 1].chars().peekable();
    let mut out = String::with_capacity(text.len());
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            ('\\', Some('"' | '\\')) => out.extend(chars.next()),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests;
