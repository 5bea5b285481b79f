//! Graphviz' DOT language: <https://graphviz.org/doc/info/lang.html>.

use std::fmt::Write as _;

use super::{Drawing, Node};

/// The drawing as a `digraph`, stages as clusters.
pub fn write(drawing: &Drawing) -> String {
    let mut out = String::from("digraph plan {\n  rankdir=TB;\n  node [shape=box, fontname=\"monospace\"];\n");
    let mut line = |text: String| writeln!(out, "{text}").expect("writing to a String cannot fail");
    let node = |node: &Node| {
        let made = if drawing.output == Some(node.number) { ", peripheries=2" } else { "" };
        let shape = if node.kind == "source" { ", shape=ellipse" } else { "" };
        format!("n{} [label={}{shape}{made}];", node.number, quoted(&node.label))
    };
    for (at, group) in drawing.groups.iter().enumerate() {
        let indent = if group.stage.is_some() { "    " } else { "  " };
        if let Some(stage) = &group.stage {
            line(format!("  subgraph cluster_{at} {{"));
            line(format!("    label={};", quoted(&stage.title())));
        }
        group.nodes.iter().for_each(|drawn| line(format!("{indent}{}", node(drawn))));
        if group.stage.is_some() {
            line("  }".into());
        }
    }
    for drawn in drawing.nodes() {
        for used in &drawn.uses {
            let role = match used.role.as_str() {
                "" => String::new(),
                role => format!(" [label={}, style=dashed]", quoted(role)),
            };
            line(format!("  n{} -> n{}{role};", used.from, drawn.number));
        }
    }
    line("}".into());
    out
}

/// A quoted string that shows `text`: backslashes begin escapes in labels, and `&` begins a character by name.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '&' => out.push_str("&amp;"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
