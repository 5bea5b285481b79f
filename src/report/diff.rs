//! What was changed in a text, as a unified diff without context.
//!
//! In come two texts, out come their differing lines, escaped for a screen. Linear: where the texts part, common
//! lines are looked for only so far ahead, which is right for small changes and merely long for others.

use std::fmt::Write as _;

use super::Style;
use crate::escape;

/// How far ahead common lines are looked for.
const LOOKAHEAD_LINES: usize = 64;
/// Longer lines are cut: what changed is seen in its neighbourhood.
const LINE_MAX_CHARS: usize = 400;

/// The differences, with the name of the file above them; empty when there are none.
pub fn unified(name: &str, old: &str, new: &str, style: Style) -> String {
    if old == new {
        return String::new();
    }
    let name = escape::line(name);
    let mut out = format!("--- {name}\n+++ {name}\n");
    let (old, new): (Vec<&str>, Vec<&str>) = (old.split('\n').collect(), new.split('\n').collect());
    let (mut i, mut j) = (0, 0);
    while i < old.len() || j < new.len() {
        if i < old.len() && j < new.len() && old[i] == new[j] {
            (i, j) = (i + 1, j + 1);
            continue;
        }
        let (removed, added) = parted(&old[i..], &new[j..]);
        writeln!(out, "@@ -{} +{} @@", range(i, removed), range(j, added)).expect("writing to a String cannot fail");
        old[i..i + removed].iter().for_each(|line| push(&mut out, '-', line, style));
        new[j..j + added].iter().for_each(|line| push(&mut out, '+', line, style));
        (i, j) = (i + removed, j + added);
    }
    out
}

/// How many lines of each are not the other's, up to the first line of the longest sequence that both have in common.
fn parted(old: &[&str], new: &[&str]) -> (usize, usize) {
    let old = &old[..old.len().min(LOOKAHEAD_LINES)];
    let new = &new[..new.len().min(LOOKAHEAD_LINES)];
    // common[i][j]: how many lines the rests from `i` and `j` on have in common, in order.
    let mut common = [[0_u8; LOOKAHEAD_LINES + 1]; LOOKAHEAD_LINES + 1];
    for i in (0..old.len()).rev() {
        for j in (0..new.len()).rev() {
            common[i][j] =
                if old[i] == new[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j) = (0, 0);
    while i < old.len() && j < new.len() && common[i][j] > 0 {
        if old[i] == new[j] {
            return (i, j);
        }
        if common[i + 1][j] >= common[i][j + 1] { i += 1 } else { j += 1 }
    }
    (old.len(), new.len())
}

/// `3`, `3,2`, or `2,0` for nothing behind line 2.
fn range(start: usize, length: usize) -> String {
    match length {
        0 => format!("{start},0"),
        1 => (start + 1).to_string(),
        length => format!("{},{length}", start + 1),
    }
}

fn push(out: &mut String, sign: char, line: &str, style: Style) {
    let line = line.strip_suffix('\r').unwrap_or(line);
    let (shown, cut) = match line.char_indices().nth(LINE_MAX_CHARS) {
        Some((end, _)) => (&line[..end], "…"),
        None => (line, ""),
    };
    let (on, off) = match (style.color, sign) {
        (false, _) => ("", ""),
        (true, '-') => ("\x1b[31m", "\x1b[0m"),
        (true, _) => ("\x1b[32m", "\x1b[0m"),
    };
    writeln!(out, "{on}{sign}{}{cut}{off}", escape::line(shown)).expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_shown_line_by_line() {
        let check = |old: &str, new: &str, expected: &str| {
            assert_eq!(unified("f", old, new, Style::default()), expected, "{old:?} {new:?}");
        };
        let head = "--- f\n+++ f\n";
        check("a\nb\n", "a\nb\n", "");
        check("a\nb\nc\n", "a\nB\nc\n", &format!("{head}@@ -2 +2 @@\n-b\n+B\n"));
        check("a\n\n\nb\n", "a\nb\n", &format!("{head}@@ -2,2 +1,0 @@\n-\n-\n"));
        check("a\nb\nc\nd", "A\nb\nc\nD", &format!("{head}@@ -1 +1 @@\n-a\n+A\n@@ -4 +4 @@\n-d\n+D\n"));
        check("a\nb", "A\nB\nC", &format!("{head}@@ -1,2 +1,3 @@\n-a\n-b\n+A\n+B\n+C\n"));
        check("a\r\nb\r\n", "a\r\nc\r\n", &format!("{head}@@ -2 +2 @@\n-b\n+c\n"));
        check("x\x1b[2J\n", "y\n", &format!("{head}@@ -1 +1 @@\n-x\\x1b[2J\n+y\n"));
        check(&"a".repeat(500), "b", &format!("{head}@@ -1 +1 @@\n-{}…\n+b\n", "a".repeat(400)));
    }

    /// What patch(1) would make of a text.
    fn patched(old: &str, diff: &str) -> String {
        let old: Vec<&str> = old.split('\n').collect();
        let (mut made, mut at) = (Vec::new(), 0);
        for line in diff.lines().skip(2) {
            if let Some(hunk) = line.strip_prefix("@@ -") {
                let removed = hunk.split(' ').next().expect("a range");
                let (start, length) = removed.split_once(',').unwrap_or((removed, "1"));
                let (start, length): (usize, usize) =
                    (start.parse().expect("a line"), length.parse().expect("a number"));
                let start = if length == 0 { start } else { start - 1 };
                made.extend_from_slice(&old[at..start]);
                at = start + length;
            } else if let Some(added) = line.strip_prefix('+') {
                made.push(added);
            }
        }
        made.extend_from_slice(&old[at..]);
        made.join("\n")
    }

    #[test]
    fn the_diff_makes_one_text_of_the_other() {
        let long: String = (0..200).map(|n| format!("{n}\n")).collect();
        let other: String = (0..300).map(|n| if n < 100 { format!("x{n}\n") } else { format!("{n}\n") }).collect();
        let texts = ["", "a", "a\n", "a\nb\nc\n", "b\nc\na\n", "c\nb\na\nb\nc", "x\ny\nz\na\n", &long, &other];
        for old in texts {
            for new in texts {
                let diff = unified("f", old, new, Style::default());
                assert_eq!(patched(old, &diff), new, "{old:?} to {new:?}:\n{diff}");
            }
        }
    }
}
