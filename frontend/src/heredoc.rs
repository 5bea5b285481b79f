//! Here-documents: `<<EOF`, `<<-EOF`, `<<"EOF"`, `3<<EOF`.
//!
//! This file reads the word that opens one; [`crate::lines::Lines::heredoc`] reads the body.

use crate::expand::{Budget, NoVariables, Rules, expand_words};
use crate::span::{Span, Word};

/// A here-document with its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// The terminator, and the file's name when it is a source of COPY.
    pub name: String,
    /// Whether variables are put into the body (COPY and ADD only): no part of the terminator is quoted.
    pub expand: bool,
    /// `<<-`: leading tabs are not part of the body.
    pub strip_tabs: bool,
    /// The body as it stands in the file.
    pub body: Word,
}

impl Heredoc {
    /// The body with leading tabs stripped if that was asked for.
    pub fn content(&self) -> String {
        if !self.strip_tabs {
            return self.body.text.clone();
        }
        self.body.text.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// The opening word, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The terminator, unquoted.
    pub name: String,
    /// Whether no part of it is quoted.
    pub expand: bool,
    /// Whether there is a `-`.
    pub strip_tabs: bool,
}

impl Opening {
    /// With its body.
    pub fn with_body(self, text: &str, span: Span) -> Heredoc {
        Heredoc {
            name: self.name,
            expand: self.expand,
            strip_tabs: self.strip_tabs,
            body: Word { text: text.to_owned(), span },
        }
    }
}

/// Reads `[fd]<<[-]WORD`; `None` when the word is something else.
pub fn opening(word: &str) -> Option<Opening> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (strip_tabs, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let rules = Rules { keep_unset: true, ..Rules::ordinary('\\') };
    let budget = Budget::new(u64::MAX);
    let name = match expand_words(rest, rules, &NoVariables, &budget).ok()?.0 {
        mut words if words.len() == 1 => words.swap_remove(0),
        _ => return None,
    };
    // Quoted if removing quotes and escapes changed it.
    Some(Opening { expand: name == rest, name, strip_tabs })
}

/// The openings in a line, in order. A line whose quotes do not close has none.
pub fn openings(line: &str) -> Vec<Opening> {
    if !line.contains("<<") {
        return Vec::new();
    }
    let rules = Rules { keep_quotes: true, keep_escapes: true, keep_unset: true, ..Rules::ordinary('\\') };
    let budget = Budget::new(u64::MAX);
    match expand_words(line, rules, &NoVariables, &budget) {
        Ok((words, _)) => words.iter().filter_map(|word| opening(word)).collect(),
        Err(_) => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openings_in_every_form() {
        let check = |line: &str, expected: &str| {
            let found: Vec<String> = openings(line)
                .iter()
                .map(|o| {
                    let tabs = if o.strip_tabs { "-" } else { "" };
                    let quoted = if o.expand { "" } else { "'" };
                    format!("{tabs}{quoted}{}", o.name)
                })
                .collect();
            assert_eq!(found.join(" "), expected, "{line}");
        };
        check("RUN <<EOF", "EOF");
        check("RUN <<-EOF", "-EOF");
        check("RUN <<\"EOF\"", "'EOF");
        check("RUN <<'EOF'", "'EOF");
        check("RUN <<E\"O\"F", "'EOF");
        check("RUN <<\\EOF", "'EOF");
        check("RUN <<-'EOF' cat", "-'EOF");
        check("RUN cat 3<<EOF <<X", "EOF X");
        check("COPY <<a.txt <<b.txt /dir/", "a.txt b.txt");
        check("RUN cat <<EOF | sort", "EOF");
        check("RUN (cat <<EOF)", "EOF)");
        check("RUN cat << EOF", "");
        check("RUN cat <<<word", "");
        check("RUN echo \"<<EOF\"", "");
        check("RUN echo '<<EOF'", "");
        check("RUN echo $((1<<3))", "");
        check("RUN echo \\<<EOF", "");
        check("RUN echo it's <<EOF", "");
        check("RUN cat<<EOF", "");
        check("RUN <<$X", "$X");
        check("RUN <<${X}", "${X}");
        check("RUN x", "");
    }
}
