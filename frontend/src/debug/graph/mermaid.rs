//! Mermaid's flowcharts: <https://mermaid.js.org/syntax/flowchart.html>.

use std::fmt::Write as _;

use super::{Drawing, Node};

/// The drawing as a `flowchart`, stages as subgraphs.
pub fn write(drawing: &Drawing) -> String {
    let mut out = String::from("flowchart TB\n");
    let mut line = |text: String| writeln!(out, "{text}").expect("writing to a String cannot fail");
    let node = |node: &Node| {
        let (open, close) = match node.kind {
            "source" => ("([", "])"),
            _ if drawing.output == Some(node.number) => ("[[", "]]"),
            _ => ("[", "]"),
        };
        format!("n{}{open}{}{close}", node.number, quoted(&node.label))
    };
    for (at, group) in drawing.groups.iter().enumerate() {
        let indent = if group.stage.is_some() { "    " } else { "  " };
        if let Some(stage) = &group.stage {
            line(format!("  subgraph s{at}[{}]", quoted(&stage.title())));
        }
        group.nodes.iter().for_each(|drawn| line(format!("{indent}{}", node(drawn))));
        if group.stage.is_some() {
            line("  end".into());
        }
    }
    for drawn in drawing.nodes() {
        for used in &drawn.uses {
            let link = match used.role.as_str() {
                "" => "-->".to_owned(),
                role => format!("-.->|{}|", quoted(role)),
            };
            line(format!("  n{} {link} n{}", used.from, drawn.number));
        }
    }
    out
}

/// A quoted label that shows `text`. Mermaid looks for directives (`%%{…}%%`), styles, Markdown and HTML inside labels
/// too, so every sign that might mean something to it is written as a character by number.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        if c.is_alphanumeric()
            || matches!(c, ' ' | '.' | ',' | '/' | '-' | '+' | '=' | '@' | '[' | ']' | '(' | ')' | '…')
        {
            out.push(c);
        } else {
            write!(out, "#{};", u32::from(c)).expect("writing to a String cannot fail");
        }
    }
    out.push('"');
    out
}
