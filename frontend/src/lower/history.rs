//! History entries in the words of other builders.
//!
//! Stages share the steps that they inherit: a stage holds the number of its last step, each step that of the one
//! before, so that ten thousand stages on top of each other cost ten thousand steps and no more.

use solver::graph::Edge;

use crate::plan::HistoryStep;

/// What readers of histories look for in `comment`.
const COMMENT: &str = "buildkit.dockerfile.v0";

/// All steps of all stages.
#[derive(Clone, Debug, Default)]
pub struct History {
    steps: Vec<(HistoryStep, Option<usize>)>,
}

impl History {
    /// Adds a step after `before`; returns its number.
    pub fn push(&mut self, before: Option<usize>, created_by: String, edge: Option<Edge>) -> usize {
        let step = HistoryStep { created_by, comment: COMMENT.into(), author: String::new(), edge };
        self.steps.push((step, before));
        self.steps.len() - 1
    }

    /// The steps that end with `last`, oldest first.
    pub fn up_to(mut self, last: Option<usize>) -> Vec<HistoryStep> {
        let mut steps = Vec::new();
        let mut at = last;
        while let Some((step, before)) = at.map(|at| &mut self.steps[at]) {
            steps.push(std::mem::take(step));
            at = *before;
        }
        steps.reverse();
        steps
    }
}

/// A list as Go's `%q` writes it: `["/bin/sh" "-c" "make"]`.
pub fn quoted_list(words: &[String]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| quoted(word)).collect();
    format!("[{}]", quoted.join(" "))
}

/// A list as Go's `%v` writes it: `[/bin/bash -c]`.
pub fn plain_list(words: &[String]) -> String {
    format!("[{}]", words.join(" "))
}

/// A string as Go's `%q` writes it.
fn quoted(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if (c as u32) < 0x20 || c == '\u{7f}' => {
                write!(out, "\\x{:02x}", c as u32).expect("writing to a String cannot fail");
            }
            c if c.is_control() || (c.is_whitespace() && c != ' ') || c == '\u{feff}' => {
                write!(out, "\\u{:04x}", c as u32).expect("writing to a String cannot fail");
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted_as_go_does() {
        let check = |text: &str, expected: &str| assert_eq!(quoted(text), expected);
        check("a", r#""a""#);
        check("", r#""""#);
        check("a \"b\" \\ 'c'", r#""a \"b\" \\ 'c'""#);
        check("\t\n\r\u{0}\u{1b}\u{7f}", r#""\t\n\r\x00\x1b\x7f""#);
        check("ä€😀", r#""ä€😀""#);
        check("\u{a0}\u{2028}\u{85}", r#""\u00a0\u2028\u0085""#);
        assert_eq!(quoted_list(&["a".into(), "b c".into()]), r#"["a" "b c"]"#);
        assert_eq!(quoted_list(&[]), "[]");
        assert_eq!(plain_list(&["/bin/bash".into(), "-c".into()]), "[/bin/bash -c]");
    }

    #[test]
    fn stages_share_the_steps_they_inherit() {
        let mut history = History::default();
        let a = history.push(None, "a".into(), None);
        let b = history.push(Some(a), "b".into(), None);
        let c = history.push(Some(a), "c".into(), None);
        let names = |last| history.clone().up_to(last).into_iter().map(|step| step.created_by).collect::<Vec<_>>();
        assert_eq!(names(Some(b)), ["a", "b"]);
        assert_eq!(names(Some(c)), ["a", "c"]);
        assert_eq!(names(None), Vec::<String>::new());
    }
}
